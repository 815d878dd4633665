//! RECONCILE: what the master answers about tasks. I/O (it tells the time).

use serde_json::{Value, json};

use super::framework::Task;
use super::json::{id, id_of, items, now_s, time_info};
use super::registration::Standing;
use super::state::State;
use crate::model::TaskState;

impl State {
    /// RECONCILE: of the tasks named, or of all that the master knows.
    pub fn reconcile(&mut self, framework_id: &str, call: &Value) {
        let Some(framework) = self.master.frameworks.get(framework_id) else { return };
        let mut asked = items(&call["tasks"]).peekable();
        let answers: Vec<Value> = if asked.peek().is_none() {
            framework.tasks.values().map(known).collect()
        } else {
            asked
                .filter_map(|asked| {
                    let task_id = id_of(asked, "task_id")?;
                    match framework.tasks.get(task_id) {
                        Some(task) => Some(known(task)),
                        None => self.unknown(task_id, id_of(asked, "agent_id")),
                    }
                })
                .collect()
        };
        for status in answers {
            self.send_update(framework_id, &status);
        }
    }

    /// What is said of a task that the master does not know: nothing, while an agent that may know
    /// it is still missing.
    fn unknown(&self, task_id: &str, agent_id: Option<&str>) -> Option<Value> {
        let standing = agent_id.and_then(|id| self.master.agents.get(id)).map(|agent| agent.standing);
        let missing = || self.master.agents.values().any(|agent| agent.standing == Standing::Recovered);
        let (state, message) = match standing {
            Some(Standing::Recovered) => return None,
            Some(Standing::Registered { .. }) => (TaskState::Gone, "Reconciliation: Task is unknown to the agent"),
            Some(Standing::Unreachable { .. }) => (TaskState::Unreachable, "Reconciliation: Task is unreachable"),
            Some(Standing::Gone) => (TaskState::GoneByOperator, "Reconciliation: Task is gone"),
            None if agent_id.is_none() && missing() => return None,
            None => (TaskState::Unknown, "Reconciliation: Task is unknown"),
        };
        let mut status = answer(task_id, agent_id, state, message);
        if let Some(Standing::Unreachable { since_s }) = standing {
            status["unreachable_time"] = time_info(since_s);
        }
        Some(status)
    }
}

fn known(task: &Task) -> Value {
    let mut status = answer(&task.id, Some(&task.agent_id), task.known_state(), "Reconciliation: Latest task state");
    if let Some(last) = task.statuses.last().filter(|last| !last["container_status"].is_null()) {
        status["container_status"] = last["container_status"].clone();
    }
    status
}

fn answer(task_id: &str, agent_id: Option<&str>, state: TaskState, message: &str) -> Value {
    let mut status = json!({
        "task_id": id(task_id),
        "state": state.mesos_name(),
        "message": message,
        "source": "SOURCE_MASTER",
        "reason": "REASON_RECONCILIATION",
    });
    if let Some(agent_id) = agent_id {
        status["agent_id"] = id(agent_id);
    }
    status["timestamp"] = now_s().into();
    status
}
