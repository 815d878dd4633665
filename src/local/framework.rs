//! What the master knows of a framework and of a task. I/O (it holds the stream).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::bag::Bag;
use super::json::{id, number, texts, time_info};
use super::subscribe::Piece;
use crate::model::TaskState;

/// How many completed tasks of a framework are kept.
const COMPLETED_TASKS_MAX: usize = 1000;

/// The stream to a scheduler.
pub(super) struct Subscriber {
    pub stream: String,
    pub pieces: mpsc::Sender<Piece>,
}

/// A framework.
pub(super) struct Framework {
    pub id: String,
    pub info: Value,
    pub roles: Vec<String>,
    pub suppressed: BTreeSet<String>,
    pub subscriber: Option<Subscriber>,
    /// Known only from an agent's tasks so far.
    pub recovered: bool,
    pub registered_s: f64,
    pub reregistered_s: f64,
    pub unregistered_s: Option<f64>,
    /// The number of its newest outage.
    pub outage: u64,
    pub tasks: BTreeMap<String, Task>,
    pub unreachable: BTreeMap<String, Task>,
    /// Oldest first.
    pub completed: Vec<Task>,
}

/// A task, as the master knows it.
#[derive(Clone)]
pub(super) struct Task {
    pub id: String,
    pub agent_id: String,
    pub info: Value,
    pub role: String,
    pub resources: Bag,
    /// The newest state that the agent knows; resources are free when it is terminal.
    pub state: TaskState,
    /// The statuses that were forwarded. The last one answers reconciliation.
    pub statuses: Vec<Value>,
    /// State and uuid of the update that was forwarded last.
    pub update: Option<(TaskState, String)>,
}

impl Framework {
    pub fn new(framework_id: &str, info: &Value, now_s: f64) -> Framework {
        let mut framework = Framework {
            id: framework_id.to_string(),
            info: Value::Null,
            roles: Vec::new(),
            suppressed: BTreeSet::new(),
            subscriber: None,
            recovered: false,
            registered_s: now_s,
            reregistered_s: now_s,
            unregistered_s: None,
            outage: 0,
            tasks: BTreeMap::new(),
            unreachable: BTreeMap::new(),
            completed: Vec::new(),
        };
        framework.set_info(info);
        framework
    }

    /// Takes over a `FrameworkInfo`.
    pub fn set_info(&mut self, info: &Value) {
        self.info = info.clone();
        self.info["id"] = id(&self.id);
        self.roles = if has_capability(info, "MULTI_ROLE") {
            texts(&info["roles"])
        } else {
            vec![info["role"].as_str().unwrap_or("*").to_string()]
        };
        self.suppressed.retain(|role| self.roles.contains(role));
    }

    pub fn failover_timeout(&self) -> Duration {
        let seconds = number(&self.info["failover_timeout"]).unwrap_or(0.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// The task will not be heard of again.
    pub fn complete(&mut self, task: Task) {
        if self.completed.len() == COMPLETED_TASKS_MAX {
            self.completed.remove(0);
        }
        self.completed.push(task);
    }

    /// As `GET_FRAMEWORKS` shows it, but for its offers.
    pub fn to_json(&self) -> Value {
        let connected = self.subscriber.is_some();
        let mut json = json!({
            "framework_info": self.info,
            "active": connected,
            "connected": connected,
            "recovered": self.recovered,
            "registered_time": time_info(self.registered_s),
            "reregistered_time": time_info(self.reregistered_s),
        });
        if let Some(at) = self.unregistered_s {
            json["unregistered_time"] = time_info(at);
        }
        json
    }
}

impl Task {
    /// The state that reconciliation answers: the one that was forwarded last.
    pub fn known_state(&self) -> TaskState {
        self.update.as_ref().map_or(self.state, |(state, _)| *state)
    }

    /// As `GET_TASKS` shows it.
    pub fn to_json(&self, framework_id: &str) -> Value {
        let mut json = json!({
            "name": self.info["name"],
            "task_id": id(&self.id),
            "framework_id": id(framework_id),
            "agent_id": id(&self.agent_id),
            "state": self.state.mesos_name(),
            "resources": self.resources.to_json(&json!({"allocation_info": {"role": self.role}})),
        });
        if !self.statuses.is_empty() {
            json["statuses"] = Value::Array(self.statuses.clone());
        }
        if let Some((state, uuid)) = &self.update {
            json["status_update_state"] = state.mesos_name().into();
            json["status_update_uuid"] = uuid.as_str().into();
        }
        for key in ["labels", "discovery", "container", "health_check", "kill_policy"] {
            if !self.info[key].is_null() {
                json[key] = self.info[key].clone();
            }
        }
        json
    }
}

/// Whether the capability is in a `FrameworkInfo`.
pub(super) fn has_capability(info: &Value, capability: &str) -> bool {
    super::json::items(&info["capabilities"]).any(|c| c["type"] == capability)
}

/// Whether a task in this state has ended, as Mesos counts it.
pub(super) fn is_terminal(state: TaskState) -> bool {
    matches!(
        state,
        TaskState::Finished
            | TaskState::Failed
            | TaskState::Killed
            | TaskState::Error
            | TaskState::Lost
            | TaskState::Dropped
            | TaskState::Gone
            | TaskState::GoneByOperator
    )
}
