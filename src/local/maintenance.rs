//! The maintenance schedule, inverse offers, and what frameworks answer to them. I/O (it reads the clock).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde_json::{Value, json};

use super::config::AgentSpec;
use super::json::{id, items, now_s, time_info};
use super::offers::{refuse_for, url};
use super::registration::Registration;
use super::state::State;

/// A framework that is asked to leave an agent.
type Asked = (String, String);

/// What is known of maintenance. Only the windows are in the registry.
#[derive(Default)]
pub(super) struct Maintenance {
    /// As they were given: machines and when they are unavailable.
    windows: Vec<Value>,
    /// The id of the inverse offer that is out. None: its agent was deactivated or away when it was
    /// made. Then it got lost and is not made again, as in Mesos, whose allocator is not told.
    out: BTreeMap<Asked, Option<String>>,
    /// Until when nobody is asked again.
    filters: BTreeMap<Asked, Instant>,
    /// The last answer, as `GET_MAINTENANCE_STATUS` shows it.
    answers: BTreeMap<Asked, Value>,
}

impl Maintenance {
    /// As a new master finds it in the registry.
    pub fn recovered(self) -> Maintenance {
        Maintenance { windows: self.windows, ..Maintenance::default() }
    }

    /// When the machine is unavailable.
    pub fn unavailability(&self, spec: &AgentSpec) -> Option<&Value> {
        let window = self.windows.iter().find(|window| items(&window["machine_ids"]).any(|m| is_machine(m, spec)))?;
        Some(&window["unavailability"])
    }

    /// The framework is asked again by the next round, whatever it said.
    pub fn clear_filters_of(&mut self, framework: &str) {
        self.filters.retain(|(owner, _), _| owner != framework);
    }

    /// The framework has a new stream, or none: what was out is void, without a word.
    pub fn void_of(&mut self, framework: &str) {
        self.out.retain(|(owner, _), _| owner != framework);
        self.clear_filters_of(framework);
    }

    /// The agent was given up.
    pub fn forget_agent(&mut self, agent_id: &str) {
        self.out.retain(|(_, agent), _| agent != agent_id);
        self.filters.retain(|(_, agent), _| agent != agent_id);
    }

    /// `GET_MAINTENANCE_SCHEDULE`.
    pub fn schedule(&self) -> Value {
        let schedule = if self.windows.is_empty() { json!({}) } else { json!({"windows": self.windows}) };
        json!({"schedule": schedule})
    }
}

impl State {
    /// `UPDATE_MAINTENANCE_SCHEDULE`: every offer of every agent is taken back, whatever has changed.
    pub fn update_schedule(&mut self, schedule: &Value) -> Result<(), String> {
        let windows: Vec<Value> = items(&schedule["windows"]).cloned().collect();
        check(&windows)?;
        self.rescind_everything();
        self.master.maintenance = Maintenance { windows, ..Maintenance::default() };
        self.allocate();
        Ok(())
    }

    fn rescind_everything(&mut self) {
        let agent_ids: Vec<String> = self.master.agents.keys().cloned().collect();
        for agent_id in agent_ids {
            self.rescind_of(&agent_id);
        }
    }

    /// Asks those who have tasks or offers on agents with maintenance ahead to leave them.
    pub fn allocate_inverse(&mut self) {
        if self.master.maintenance.windows.is_empty() {
            return;
        }
        let now = Instant::now();
        self.master.maintenance.filters.retain(|_, until| *until > now);
        let mut new: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for (framework, agent_id) in self.to_be_asked() {
            if !self.master.agents.get(&agent_id).is_some_and(Registration::is_active) {
                self.master.maintenance.out.insert((framework, agent_id), None);
                continue;
            }
            let offer_id = self.new_offer_id();
            let offer = self.inverse_offer_json(&offer_id, &framework, &agent_id);
            self.master.maintenance.out.insert((framework.clone(), agent_id), Some(offer_id));
            new.entry(framework).or_default().push(offer);
        }
        for (framework, offers) in new {
            self.send(&framework, &json!({"type": "INVERSE_OFFERS", "inverse_offers": {"inverse_offers": offers}}));
        }
    }

    fn to_be_asked(&self) -> BTreeSet<Asked> {
        let Maintenance { out, filters, .. } = &self.master.maintenance;
        let frameworks = self.master.frameworks.values().filter(|framework| framework.subscriber.is_some());
        let tasks = frameworks.flat_map(|framework| {
            let tasks = framework.tasks.values().filter(|task| !super::framework::is_terminal(task.state));
            tasks.map(|task| (framework.id.clone(), task.agent_id.clone()))
        });
        let offers = self.master.offers.values().map(|offer| (offer.framework.clone(), offer.agent_id.clone()));
        tasks
            .chain(offers)
            .filter(|asked| !out.contains_key(asked) && !filters.contains_key(asked))
            .filter(|(_, agent_id)| {
                let agent = self.master.agents.get(agent_id).map(|registration| registration.agent);
                agent.is_some_and(|i| self.master.maintenance.unavailability(&self.agents[i].spec).is_some())
            })
            .collect()
    }

    fn inverse_offer_json(&self, offer_id: &str, framework: &str, agent_id: &str) -> Value {
        let spec = &self.agents[self.master.agents[agent_id].agent].spec;
        json!({
            "id": id(offer_id),
            "url": url(spec),
            "framework_id": id(framework),
            "agent_id": id(agent_id),
            "unavailability": self.master.maintenance.unavailability(spec),
        })
    }

    /// `ACCEPT_INVERSE_OFFERS` and `DECLINE_INVERSE_OFFERS`: whoever plans the maintenance can read it.
    pub fn answer_inverse_offers(&mut self, framework: &str, call: &Value) {
        let (answer, call) = match call["type"].as_str() {
            Some("ACCEPT_INVERSE_OFFERS") => ("ACCEPT", &call["accept_inverse_offers"]),
            _ => ("DECLINE", &call["decline_inverse_offers"]),
        };
        let wait = refuse_for(&call["filters"]).map(|wait| wait.max(self.config.allocation_interval));
        let maintenance = &mut self.master.maintenance;
        for offer_id in items(&call["inverse_offer_ids"]).filter_map(|id| id["value"].as_str()) {
            let mine =
                |(asked, out): &(&Asked, &Option<String>)| asked.0 == framework && out.as_deref() == Some(offer_id);
            let Some(asked) = maintenance.out.iter().find(mine).map(|(asked, _)| asked.clone()) else { continue };
            maintenance.out.remove(&asked);
            let status = json!({"status": answer, "framework_id": id(framework), "timestamp": time_info(now_s())});
            maintenance.answers.insert(asked.clone(), status);
            if let Some(wait) = wait {
                maintenance.filters.insert(asked, Instant::now() + wait);
            }
        }
    }

    /// Takes the inverse offers of an agent back, and says so.
    pub fn rescind_inverse_of(&mut self, agent_id: &str) {
        let out = std::mem::take(&mut self.master.maintenance.out).into_iter();
        let (taken, kept): (Vec<_>, Vec<_>) = out.partition(|((_, agent), _)| agent == agent_id);
        self.master.maintenance.out = kept.into_iter().collect();
        for ((framework, _), offer_id) in taken {
            let Some(offer_id) = offer_id else { continue };
            let rescind = json!({"inverse_offer_id": id(&offer_id)});
            self.send(&framework, &json!({"type": "RESCIND_INVERSE_OFFER", "rescind_inverse_offer": rescind}));
        }
    }

    /// `GET_MAINTENANCE_STATUS`.
    pub fn maintenance_status(&self) -> Value {
        let Maintenance { windows, answers, .. } = &self.master.maintenance;
        let machines = windows.iter().flat_map(|window| items(&window["machine_ids"]));
        let machines: Vec<Value> = machines
            .map(|machine| {
                let of_machine = |agent_id: &str| {
                    let agent = self.master.agents.get(agent_id);
                    agent.is_some_and(|agent| is_machine(machine, &self.agents[agent.agent].spec))
                };
                let given = answers.iter().filter(|((_, agent_id), _)| of_machine(agent_id));
                let given: Vec<&Value> = given.map(|(_, answer)| answer).collect();
                if given.is_empty() { json!({"id": machine}) } else { json!({"id": machine, "statuses": given}) }
            })
            .collect();
        json!({"status": if machines.is_empty() { json!({}) } else { json!({"draining_machines": machines}) }})
    }

    /// What forbids to drain an agent: its machine is in the schedule.
    pub fn check_not_scheduled(&self, agent_id: &str) -> Result<(), String> {
        let registered = self.master.agents.get(agent_id).filter(|registration| registration.is_registered());
        let Some(spec) = registered.map(|registration| &self.agents[registration.agent].spec) else { return Ok(()) };
        match self.master.maintenance.unavailability(spec) {
            Some(_) => Err(format!(
                "Agent {agent_id} is part of a maintenance schedule under Machine {} ({})",
                spec.hostname, spec.ip
            )),
            None => Ok(()),
        }
    }
}

/// Whether a `MachineID` names the machine: by hostname and address, both.
fn is_machine(machine: &Value, spec: &AgentSpec) -> bool {
    let hostname = machine["hostname"].as_str().unwrap_or_default();
    hostname.eq_ignore_ascii_case(&spec.hostname) && machine["ip"] == spec.ip.as_str()
}

/// What Mesos demands of a schedule, in its words.
fn check(windows: &[Value]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (i, window) in windows.iter().enumerate() {
        let unavailability = &window["unavailability"];
        for field in ["unavailability", "unavailability.start"] {
            let value = field.split('.').fold(window, |value, key| &value[key]);
            if value.is_null() {
                let path = format!("update_maintenance_schedule.schedule.windows[{i}].{field}");
                return Err(format!("Failed to convert JSON into Call protobuf: Missing required fields: {path}"));
            }
        }
        if unavailability["duration"]["nanoseconds"].as_i64().is_some_and(i64::is_negative) {
            return Err("Unavailability 'duration' is negative".to_string());
        }
        let mut machines = items(&window["machine_ids"]).peekable();
        if machines.peek().is_none() {
            return Err("List of machines in the maintenance window is empty".to_string());
        }
        for machine in machines {
            if machine["hostname"].is_null() && machine["ip"].is_null() {
                return Err("Both 'hostname' and 'ip' for a machine are empty".to_string());
            }
            if !seen.insert(machine.to_string().to_ascii_lowercase()) {
                return Err(format!("Machine '{machine}' appears more than once in the schedule"));
            }
        }
    }
    Ok(())
}
