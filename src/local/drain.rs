//! Agents that are to have no tasks: `DEACTIVATE_AGENT`, `REACTIVATE_AGENT`, `DRAIN_AGENT`. I/O (it tells the time).

use std::time::Duration;

use serde_json::{Value, json};

use super::agent::{Agent, Message};
use super::json::{now_s, seconds, time_info};
use super::registration::{Registration, Standing};
use super::state::{State, TaskKey};
use crate::model::TaskState;

/// What the drain of an agent demands.
#[derive(Clone, Copy, Debug)]
pub(super) struct DrainConfig {
    /// No task has a longer grace.
    max_grace: Option<Duration>,
    /// The agent does not come back.
    mark_gone: bool,
}

/// The drain of an agent, as the master knows it.
#[derive(Clone, Debug)]
pub(super) struct Drain {
    config: DrainConfig,
    /// No task is left, and every end was acknowledged.
    done: bool,
    /// When the agent was told; the registry does not keep it.
    started_s: Option<f64>,
}

impl DrainConfig {
    fn from_json(call: &Value) -> DrainConfig {
        DrainConfig {
            max_grace: seconds(&call["max_grace_period"]),
            mark_gone: call["mark_gone"].as_bool().unwrap_or_default(),
        }
    }
}

impl Drain {
    /// As a new master finds it in the registry.
    pub fn recovered(self) -> Drain {
        Drain { started_s: None, ..self }
    }

    /// The fields of `GET_AGENTS`.
    pub fn show(&self, agent: &mut Value) {
        let mut config = json!({"mark_gone": self.config.mark_gone});
        if let Some(max_grace) = self.config.max_grace {
            config["max_grace_period"] = time_info(max_grace.as_secs_f64());
        }
        agent["drain_info"] = json!({"state": if self.done { "DRAINED" } else { "DRAINING" }, "config": config});
        if let Some(at) = self.started_s {
            agent["estimated_drain_start_time"] = time_info(at.floor());
        }
    }
}

impl State {
    /// `DEACTIVATE_AGENT`: no more offers of it; its tasks run on.
    pub fn deactivate(&mut self, agent_id: &str) -> Result<(), String> {
        let registration = self.master.agents.get_mut(agent_id).ok_or("Unknown agent")?;
        registration.deactivated = true;
        self.rescind_of(agent_id);
        Ok(())
    }

    /// `REACTIVATE_AGENT`: it is offered again from the next round on.
    pub fn reactivate(&mut self, agent_id: &str) -> Result<(), String> {
        let registration = self.master.agents.get_mut(agent_id).filter(|registration| registration.deactivated);
        let registration = registration.ok_or("Agent is not deactivated")?;
        if registration.drain.as_ref().is_some_and(|drain| !drain.done) {
            return Err("Agent is still in the DRAINING state".to_string());
        }
        registration.deactivated = false;
        registration.drain = None;
        Ok(())
    }

    /// `DRAIN_AGENT`: deactivates it and kills its tasks.
    pub fn drain(&mut self, agent_id: &str, call: &Value) -> Result<(), String> {
        self.check_not_scheduled(agent_id)?;
        self.deactivate(agent_id)?;
        if let Some(registration) = self.master.agents.get_mut(agent_id) {
            registration.drain = Some(Drain { config: DrainConfig::from_json(call), done: false, started_s: None });
        }
        self.go_on_draining(agent_id);
        Ok(())
    }

    /// Tells an agent to drain; one that is away is told when it is back.
    pub fn go_on_draining(&mut self, agent_id: &str) {
        let Some(registration) = self.master.agents.get_mut(agent_id).filter(|r| drains(r)) else { return };
        let agent = registration.agent;
        let Some(drain) = &mut registration.drain else { return };
        drain.started_s = Some(now_s());
        let config = drain.config;
        self.send_to_agent(agent, Message::Drain(config));
        self.end_drain_if_empty(agent_id);
    }

    /// A task of the agent is over, and its end acknowledged: perhaps it was the last one.
    pub fn end_drain_if_empty(&mut self, agent_id: &str) {
        if !self.master.agents.get(agent_id).is_some_and(drains) || !self.tasks_of_agent(agent_id).is_empty() {
            return;
        }
        let Some(registration) = self.master.agents.get_mut(agent_id) else { return };
        let Some(drain) = &mut registration.drain else { return };
        if !drain.config.mark_gone {
            drain.done = true;
            return;
        }
        registration.standing = Standing::Gone;
        let agent = registration.agent;
        self.agents[agent].up = false; // It shuts down; what it still kills, it kills to the end.
        self.tell_failure(agent_id);
    }

    /// DRAIN arrives at the agent: each task has its own grace, as far as it is allowed.
    pub fn agent_drain(&mut self, agent: usize, config: DrainConfig) {
        self.agents[agent].draining = Some(config);
        for key in self.agents[agent].tasks.keys().cloned().collect::<Vec<TaskKey>>() {
            let grace = self.agents[agent].tasks[&key].grace();
            let grace = config.max_grace.map_or(grace, |max| grace.min(max));
            self.agent_kill(agent, &key, Some(grace));
        }
        self.agents[agent].rest_if_drained();
    }
}

/// Whether the agent is there, and not drained yet.
fn drains(registration: &Registration) -> bool {
    registration.is_connected() && registration.drain.as_ref().is_some_and(|drain| !drain.done)
}

impl Agent {
    /// What the kill of a task is called while the agent drains.
    pub fn drained(&self, state: TaskState) -> Option<TaskState> {
        let config = self.draining.filter(|_| matches!(state, TaskState::Killing | TaskState::Killed))?;
        Some(if config.mark_gone { TaskState::GoneByOperator } else { state })
    }

    /// Nothing is left to be drained.
    pub fn rest_if_drained(&mut self) {
        if self.tasks.is_empty() {
            self.draining = None;
        }
    }
}
