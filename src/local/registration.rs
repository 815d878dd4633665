//! The master's side of an agent's coming, going and coming back. I/O (it tells the time).

use std::collections::BTreeSet;

use serde_json::json;

use super::bag::Bag;
use super::drain::Drain;
use super::framework::{Framework, Task, is_terminal};
use super::json::{id, now_s, time_info};
use super::state::{Due, State, TaskKey};
use crate::model::TaskState;

/// How an agent stands with the master.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Standing {
    /// Read from the registry, not heard of yet.
    Recovered,
    /// Registered; the connection may be broken without its having been given up yet.
    Registered { connected: bool },
    /// Given up.
    Unreachable { since_s: f64 },
    /// Marked as gone: it is never taken back.
    Gone,
}

/// What the master knows of an agent.
#[derive(Clone, Debug)]
pub(super) struct Registration {
    /// Which of the cluster's agents it is.
    pub agent: usize,
    pub standing: Standing,
    pub registered_s: f64,
    /// Neither used by a task nor offered.
    pub free: Bag,
    /// The number of the newest outage.
    pub outage: u64,
    /// It is not offered.
    pub deactivated: bool,
    pub drain: Option<Drain>,
    /// Tasks to be killed when the agent comes back before it is given up.
    pub killed: BTreeSet<TaskKey>,
}

impl Registration {
    fn new(agent: usize, free: Bag) -> Registration {
        let standing = Standing::Registered { connected: true };
        let (deactivated, drain, killed) = (false, None, BTreeSet::new());
        Registration { agent, standing, registered_s: now_s(), free, outage: 0, deactivated, drain, killed }
    }

    /// As a new master finds it in the registry.
    pub fn recovered(self) -> Registration {
        let standing = match self.standing {
            Standing::Registered { .. } => Standing::Recovered,
            other => other,
        };
        Registration { standing, killed: BTreeSet::new(), drain: self.drain.map(Drain::recovered), ..self }
    }

    pub fn is_registered(&self) -> bool {
        matches!(self.standing, Standing::Registered { .. })
    }

    pub fn is_connected(&self) -> bool {
        self.standing == Standing::Registered { connected: true }
    }

    /// Whether it is offered.
    pub fn is_active(&self) -> bool {
        self.is_connected() && !self.deactivated
    }
}

impl State {
    /// Whether messages pass between the master and this agent.
    pub fn linked(&self, agent: usize) -> bool {
        let agent = &self.agents[agent];
        let registration = agent.id.as_ref().and_then(|id| self.master.agents.get(id));
        self.master.up && agent.up && agent.reachable && registration.is_some_and(Registration::is_connected)
    }

    /// The agent asks to be registered, for the first time or again.
    pub fn register(&mut self, agent: usize) {
        if !(self.master.up && self.agents[agent].up && self.agents[agent].reachable) {
            return;
        }
        let Some(agent_id) = self.agents[agent].id.clone() else {
            let agent_id = format!("{}-S{}", self.master.id, self.master.next_agent);
            self.master.next_agent += 1;
            self.agents[agent].id = Some(agent_id.clone());
            let registration = Registration::new(agent, self.agents[agent].total());
            self.master.agents.insert(agent_id, registration);
            return self.allocate();
        };
        let standing = self.master.agents.get(&agent_id).map(|r| r.standing);
        match standing {
            Some(Standing::Gone) => return,
            Some(Standing::Registered { .. }) => self.welcome_known(agent, &agent_id),
            other => self.welcome_back(agent, &agent_id, matches!(other, Some(Standing::Unreachable { .. }))),
        }
        self.resume_updates(agent);
        self.go_on_draining(&agent_id);
        self.allocate();
    }

    /// It was away for so short a time that the master still counts on it.
    fn welcome_known(&mut self, agent: usize, agent_id: &str) {
        let registration = self.master.agents.get_mut(agent_id).expect("the caller looked it up");
        registration.standing = Standing::Registered { connected: true };
        let killed = registration.killed.clone();
        for (framework, task) in self.tasks_of_agent(agent_id) {
            let key = (framework, task);
            if !self.agents[agent].tasks.contains_key(&key) {
                self.drop_unknown_task(agent, &key);
            } else if killed.contains(&key) {
                self.agent_kill(agent, &key, None);
            }
        }
    }

    /// The master has no idea of its tasks: it takes them over as the agent tells.
    fn welcome_back(&mut self, agent: usize, agent_id: &str, was_unreachable: bool) {
        let mut registration = Registration::new(agent, self.agents[agent].total());
        if let Some(before) = self.master.agents.get(agent_id) {
            (registration.deactivated, registration.drain) = (before.deactivated, before.drain.clone());
        }
        let mut removed = BTreeSet::new();
        for (key, mine) in &self.agents[agent].tasks {
            let (framework_id, task_id) = key;
            if self.master.completed.iter().any(|f| f.id == *framework_id) {
                removed.insert(framework_id.clone());
                continue;
            }
            let framework = self.master.frameworks.entry(framework_id.clone()).or_insert_with(|| {
                let mut framework = Framework::new(framework_id, &mine.framework_info, now_s());
                framework.recovered = true;
                framework
            });
            framework.unreachable.remove(task_id);
            let task = mine.as_task(agent_id);
            if !is_terminal(task.state) {
                registration.free.subtract(&task.resources);
            }
            framework.tasks.insert(task_id.clone(), task);
        }
        self.master.agents.insert(agent_id.to_string(), registration);
        for framework_id in &removed {
            self.agent_shutdown(agent, framework_id);
        }
        if was_unreachable {
            for (framework_id, task_id) in self.tasks_of_agent(agent_id) {
                self.tell_returned(&framework_id, &task_id);
            }
        }
    }

    fn tell_returned(&mut self, framework_id: &str, task_id: &str) {
        let Some(task) = self.master.frameworks.get(framework_id).and_then(|f| f.tasks.get(task_id)) else { return };
        let mut status = json!({
            "task_id": id(task_id),
            "state": task.state.mesos_name(),
            "message": "Unreachable agent re-reregistered",
            "source": "SOURCE_MASTER",
            "reason": "REASON_AGENT_REREGISTERED",
            "agent_id": id(&task.agent_id),
            "timestamp": now_s(),
        });
        if let Some(last) = task.statuses.last().filter(|last| !last["container_status"].is_null()) {
            status["container_status"] = last["container_status"].clone();
        }
        self.send_update(framework_id, &status);
    }

    /// The connection to the agent broke: its offers are void at once.
    pub fn link_broken(&mut self, agent: usize) {
        let Some(agent_id) = self.agents[agent].id.clone() else { return };
        if let Some(registration) = self.master.agents.get_mut(&agent_id)
            && registration.is_registered()
        {
            registration.standing = Standing::Registered { connected: false };
            self.rescind_of(&agent_id);
            self.start_outage(&agent_id);
        }
    }

    /// The agent does not answer any more, and nothing else is known.
    pub fn start_outage(&mut self, agent_id: &str) {
        let outage = self.new_outage();
        if let Some(registration) = self.master.agents.get_mut(agent_id) {
            registration.outage = outage;
            let due = Due::AgentTimeout { agent_id: agent_id.to_string(), outage };
            self.after(self.config.agent_timeout, due);
        }
    }

    /// The agent has been silent for too long.
    pub fn agent_timed_out(&mut self, agent_id: &str, outage: u64) {
        let Some(registration) = self.master.agents.get(agent_id) else { return };
        let agent = &self.agents[registration.agent];
        let back = agent.up && agent.reachable && registration.is_connected();
        if back || registration.outage != outage || !registration.is_registered() || !self.master.up {
            return;
        }
        self.give_up(agent_id);
    }

    /// Agents of the registry that did not come to the new master in time.
    pub fn give_up_recovered(&mut self) {
        let recovered = self.master.agents.iter().filter(|(_, r)| r.standing == Standing::Recovered);
        let ids: Vec<String> = recovered.map(|(id, _)| id.clone()).collect();
        for agent_id in ids {
            self.give_up(&agent_id);
        }
    }

    fn give_up(&mut self, agent_id: &str) {
        self.rescind_of(agent_id);
        self.master.maintenance.forget_agent(agent_id);
        let since_s = now_s();
        if let Some(registration) = self.master.agents.get_mut(agent_id) {
            registration.standing = Standing::Unreachable { since_s };
            registration.killed.clear();
        }
        for (framework_id, task_id) in self.tasks_of_agent(agent_id) {
            let Some(framework) = self.master.frameworks.get_mut(&framework_id) else { continue };
            let Some(mut task) = framework.tasks.remove(&task_id) else { continue };
            if is_terminal(task.state) {
                framework.complete(task);
                continue;
            }
            let status = unreachable_status(&task, since_s);
            task.state = TaskState::Unreachable;
            task.update = None;
            framework.unreachable.insert(task_id, task);
            self.send_update(&framework_id, &status);
        }
        self.tell_failure(agent_id);
    }

    /// FAILURE of an agent, to all.
    pub fn tell_failure(&mut self, agent_id: &str) {
        let failure = json!({"type": "FAILURE", "failure": {"agent_id": id(agent_id)}});
        for framework_id in self.connected_frameworks() {
            self.send(&framework_id, &failure);
        }
    }

    /// Framework and task ids of the tasks that the master knows on this agent.
    pub fn tasks_of_agent(&self, agent_id: &str) -> Vec<TaskKey> {
        let frameworks = self.master.frameworks.values();
        frameworks
            .flat_map(|f| f.tasks.values().map(move |t| (f, t)))
            .filter(|(_, task)| task.agent_id == agent_id)
            .map(|(framework, task)| (framework.id.clone(), task.id.clone()))
            .collect()
    }
}

fn unreachable_status(task: &Task, since_s: f64) -> serde_json::Value {
    json!({
        "task_id": id(&task.id),
        "state": TaskState::Unreachable.mesos_name(),
        "message": "health check timed out",
        "source": "SOURCE_MASTER",
        "reason": "REASON_AGENT_REMOVED",
        "agent_id": id(&task.agent_id),
        "timestamp": now_s(),
        "unreachable_time": time_info(since_s),
    })
}
