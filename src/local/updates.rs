//! Status updates: the agent's queue per task, the master's forwarding, acknowledgements. I/O (it tells the time).

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};

use super::agent::{AgentTask, Message, Process};
use super::framework::is_terminal;
use super::json::{id, id_of, now_s, uuid_base64};
use super::state::{Due, State, TaskKey};
use crate::model::TaskState;

/// The longest wait between two repetitions of an update.
const RETRY_MAX: Duration = Duration::from_mins(10);

/// A status with its state.
#[derive(Clone)]
struct Update {
    state: TaskState,
    status: Value,
}

impl Update {
    fn uuid(&self) -> &str {
        self.status["uuid"].as_str().unwrap_or_default()
    }
}

/// A task's updates that are not acknowledged, oldest first. Only the first one is ever sent.
#[derive(Default)]
pub(super) struct Updates {
    queue: VecDeque<Update>,
    forwarded: Option<Update>,
    muted: bool,
}

impl Updates {
    /// Nobody wants to hear of this task any more.
    pub fn mute(&mut self) {
        self.muted = true;
        self.queue.clear();
    }

    /// The status that was sent last.
    pub fn last_forwarded(&self) -> Option<Value> {
        self.forwarded.as_ref().map(|update| update.status.clone())
    }

    /// State and uuid of the update that was sent last.
    pub fn known(&self) -> Option<(TaskState, String)> {
        self.forwarded.as_ref().map(|update| (update.state, update.uuid().to_string()))
    }
}

impl State {
    /// The agent has something to tell of a task.
    pub fn push_update(&mut self, agent: usize, key: &TaskKey, state: TaskState, more: &Value) {
        let ip = self.agents[agent].spec.ip.clone();
        let agent_id = self.agents[agent].agent_id().to_string();
        let drained = self.agents[agent].drained(state);
        let state = drained.unwrap_or(state);
        let Some(task) = self.agents[agent].tasks.get_mut(key) else { return };
        task.state = state;
        if task.updates.muted {
            return self.forget_if_told(agent, key);
        }
        let mut status = json!({
            "task_id": id(&key.1),
            "state": state.mesos_name(),
            "source": "SOURCE_EXECUTOR",
            "agent_id": id(&agent_id),
            "timestamp": now_s(),
            "uuid": uuid_base64(),
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            status[name] = value.clone();
        }
        if drained.is_some() {
            status["reason"] = "REASON_AGENT_DRAINING".into();
        }
        if status["source"] == "SOURCE_EXECUTOR" {
            status["container_status"] = json!({
                "container_id": id(&task.container),
                "network_infos": [{"ip_addresses": [{"protocol": "IPv4", "ip_address": ip}]}],
            });
            if let Process::Group(pid) = task.process {
                status["container_status"]["executor_pid"] = pid.as_raw_nonzero().get().into();
            }
        }
        task.updates.queue.push_back(Update { state, status });
        if task.updates.queue.len() == 1 {
            self.forward_head(agent, key, self.config.update_retry);
        }
    }

    /// Sends the first update of a task, and again after `wait` if it is not acknowledged until then.
    fn forward_head(&mut self, agent: usize, key: &TaskKey, wait: Duration) {
        let linked = self.linked(agent);
        let Some(task) = self.agents[agent].tasks.get_mut(key) else { return };
        let Some(head) = task.updates.queue.front().cloned() else { return };
        let latest = task.state;
        let uuid = head.uuid().to_string();
        if linked {
            task.updates.forwarded = Some(head.clone());
        }
        self.after(wait, Due::Retry { agent, task: key.clone(), uuid, wait });
        if linked {
            self.master_update(key, &head, latest);
        }
    }

    /// The time for an acknowledgement is over.
    pub fn retry_update(&mut self, agent: usize, key: &TaskKey, uuid: &str, wait: Duration) {
        let task = self.agents[agent].tasks.get(key);
        if task.and_then(|task| task.updates.queue.front()).is_some_and(|head| head.uuid() == uuid) {
            self.forward_head(agent, key, (wait * 2).min(RETRY_MAX));
        }
    }

    /// Sends what is not acknowledged at once: the master, or the framework, is a new one.
    pub fn resume_updates(&mut self, agent: usize) {
        for key in self.agents[agent].tasks.keys().cloned().collect::<Vec<_>>() {
            self.forward_head(agent, &key, self.config.update_retry);
        }
    }

    /// The same, for one framework.
    pub fn resume_updates_of(&mut self, framework_id: &str) {
        for agent in 0..self.agents.len() {
            let keys = self.agents[agent].tasks.keys().filter(|(owner, _)| owner == framework_id);
            for key in keys.cloned().collect::<Vec<_>>() {
                self.forward_head(agent, &key, self.config.update_retry);
            }
        }
    }

    /// An update arrives at the master.
    fn master_update(&mut self, key: &TaskKey, update: &Update, latest: TaskState) {
        let (framework_id, task_id) = key;
        let Some(framework) = self.master.frameworks.get_mut(framework_id) else { return };
        let mut ended = None;
        if let Some(task) = framework.tasks.get_mut(task_id) {
            if !is_terminal(task.state) && is_terminal(latest) {
                ended = Some((task.agent_id.clone(), task.resources.clone()));
            }
            task.state = latest;
            task.update = Some((update.state, update.uuid().to_string()));
            if task.statuses.last().is_none_or(|last| last["state"] != update.status["state"]) {
                task.statuses.push(update.status.clone());
            }
        }
        if let Some((agent_id, resources)) = ended
            && let Some(registration) = self.master.agents.get_mut(&agent_id)
        {
            registration.killed.remove(key);
            registration.free.add(&resources);
        }
        self.send_update(framework_id, &update.status);
    }

    /// ACKNOWLEDGE.
    pub fn acknowledge(&mut self, framework_id: &str, call: &Value) {
        let (Some(agent_id), Some(task_id)) = (id_of(call, "agent_id"), id_of(call, "task_id")) else { return };
        let uuid = call["uuid"].as_str().unwrap_or_default();
        let Some(registration) = self.master.agents.get(agent_id).filter(|r| r.is_connected()) else { return };
        let agent = registration.agent;
        if let Some(framework) = self.master.frameworks.get_mut(framework_id)
            && let Some(task) = framework.tasks.get(task_id)
            && task.update.as_ref().is_some_and(|(state, last)| is_terminal(*state) && last == uuid)
        {
            let task = framework.tasks.remove(task_id).expect("it was there a moment ago");
            framework.complete(task);
        }
        let key = (framework_id.to_string(), task_id.to_string());
        self.send_to_agent(agent, Message::Acknowledge { key, uuid: uuid.to_string() });
        self.end_drain_if_empty(agent_id);
    }

    /// An acknowledgement arrives at the agent.
    pub fn agent_acknowledged(&mut self, agent: usize, key: &TaskKey, uuid: &str) {
        let Some(task) = self.agents[agent].tasks.get_mut(key) else { return };
        if task.updates.queue.front().is_none_or(|head| head.uuid() != uuid) {
            return;
        }
        task.updates.queue.pop_front();
        self.forward_head(agent, key, self.config.update_retry);
        self.forget_if_told(agent, key);
    }

    /// A task that has ended, process and all, is forgotten once its end is acknowledged.
    pub fn forget_if_told(&mut self, agent: usize, key: &TaskKey) {
        let over = |task: &AgentTask| is_terminal(task.state) && task.updates.queue.is_empty();
        if self.agents[agent].tasks.get(key).is_some_and(|task| over(task) && task.process == Process::Ended) {
            self.agents[agent].tasks.remove(key);
            self.agents[agent].rest_if_drained();
        }
    }
}
