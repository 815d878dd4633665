//! The master's operator API: what can be asked, and what is done by others. Pure.

use serde_json::{Value, json};

use super::bag::Bag;
use super::config::AgentSpec;
use super::framework::Framework;
use super::json::{id, id_of, time_info};
use super::registration::{Registration, Standing};
use super::state::State;

/// The port that agents say they have; nobody listens there.
pub(super) const AGENT_PORT: u16 = 5051;
/// The version that this master and its agents say they are.
const VERSION: &str = "1.11.0";
/// What the agents say they can do.
const AGENT_CAPABILITIES: [&str; 4] =
    ["MULTI_ROLE", "HIERARCHICAL_ROLE", "RESERVATION_REFINEMENT", "TASK_RESOURCE_LIMITS"];

/// The calls that change something.
const ACTS: [&str; 5] =
    ["DEACTIVATE_AGENT", "REACTIVATE_AGENT", "DRAIN_AGENT", "UPDATE_MAINTENANCE_SCHEDULE", "TEARDOWN"];

/// Answers a call, if its answer has a body; an error is the text of a 400.
pub(super) fn answer(state: &mut State, body: &[u8]) -> Result<Option<Value>, String> {
    let call: Value = serde_json::from_slice(body).map_err(|e| format!("Failed to parse body into JSON: {e}"))?;
    let name = call["type"].as_str().unwrap_or_default();
    if ACTS.contains(&name) {
        return act(state, name, &call).map(|()| None);
    }
    let (field, content) = match name {
        "GET_HEALTH" => ("get_health", json!({"healthy": true})),
        "GET_VERSION" => ("get_version", json!({"version_info": {"version": VERSION}})),
        "GET_MASTER" => ("get_master", state.get_master()),
        "GET_AGENTS" => ("get_agents", state.get_agents()),
        "GET_FRAMEWORKS" => ("get_frameworks", state.get_frameworks()),
        // There are none here: no role has a quota, and nothing is reserved.
        "GET_QUOTA" => ("get_quota", json!({"status": {}})),
        "GET_ROLES" => ("get_roles", json!({})),
        "GET_TASKS" => ("get_tasks", state.get_tasks()),
        "GET_MAINTENANCE_SCHEDULE" => ("get_maintenance_schedule", state.master.maintenance.schedule()),
        "GET_MAINTENANCE_STATUS" => ("get_maintenance_status", state.maintenance_status()),
        "" => return Err("Failed to validate master::Call: Expecting 'type' to be present".to_string()),
        _ => return Err(format!("The local cluster does not know {name}")),
    };
    Ok(Some(json!({"type": name, (field): content})))
}

fn act(state: &mut State, name: &str, call: &Value) -> Result<(), String> {
    let field = name.to_lowercase();
    let call = &call[&field];
    if call.is_null() {
        return Err(format!("Failed to validate master::Call: Expecting '{field}' to be present"));
    }
    let missing =
        |what: &str| format!("Failed to convert JSON into Call protobuf: Missing required fields: {field}.{what}");
    if name == "UPDATE_MAINTENANCE_SCHEDULE" {
        let schedule = call.get("schedule").ok_or_else(|| missing("schedule"))?;
        return state.update_schedule(schedule);
    }
    if name == "TEARDOWN" {
        let framework_id = id_of(call, "framework_id").ok_or_else(|| missing("framework_id"))?;
        if !state.master.frameworks.contains_key(framework_id) {
            return Err("No framework found with specified ID".to_string());
        }
        state.remove_framework(framework_id);
        return Ok(());
    }
    let agent_id = id_of(call, "agent_id").ok_or_else(|| missing("agent_id"))?;
    match name {
        "DEACTIVATE_AGENT" => state.deactivate(agent_id),
        "REACTIVATE_AGENT" => state.reactivate(agent_id),
        _ => state.drain(agent_id, call),
    }
}

/// An agent's attributes as Mesos lists them.
pub(super) fn attributes(spec: &AgentSpec) -> Option<Value> {
    let list = spec.attributes.iter();
    let list: Vec<Value> =
        list.map(|(name, text)| json!({"name": name, "type": "TEXT", "text": {"value": text}})).collect();
    (!list.is_empty()).then_some(Value::Array(list))
}

impl State {
    /// As in SUBSCRIBED and `GET_MASTER`.
    pub fn master_info(&self) -> Value {
        let port: u16 = self.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or_default();
        json!({
            "id": self.master.id,
            "ip": u32::from_ne_bytes([127, 0, 0, 1]),
            "port": port,
            "pid": format!("master@{}", self.address),
            "hostname": "localhost",
            "version": VERSION,
            "address": {"hostname": "localhost", "ip": "127.0.0.1", "port": port},
            "capabilities": [{"type": "AGENT_UPDATE"}, {"type": "AGENT_DRAINING"}, {"type": "QUOTA_V2"}],
        })
    }

    /// The master's server answers for the agents' files: they have none of their own.
    fn files_port(&self) -> u16 {
        self.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(AGENT_PORT)
    }

    fn get_master(&self) -> Value {
        let started = self.master.started_s;
        json!({"master_info": self.master_info(), "start_time": started, "elected_time": started})
    }

    fn get_agents(&self) -> Value {
        let mut agents = Vec::new();
        let mut recovered = Vec::new();
        for (agent_id, registration) in &self.master.agents {
            match registration.standing {
                Standing::Registered { .. } => agents.push(self.agent_json(agent_id, registration)),
                Standing::Recovered => recovered.push(self.agent_info(agent_id, registration)),
                Standing::Unreachable { .. } | Standing::Gone => {}
            }
        }
        json!({"agents": agents, "recovered_agents": recovered})
    }

    fn agent_info(&self, agent_id: &str, registration: &Registration) -> Value {
        let agent = &self.agents[registration.agent];
        let mut info = json!({
            "hostname": agent.spec.hostname,
            "port": AGENT_PORT,
            "resources": agent.total().to_json(&Value::Null),
            "id": id(agent_id),
            "checkpoint": true,
        });
        if let Some(attributes) = attributes(&agent.spec) {
            info["attributes"] = attributes;
        }
        info
    }

    fn agent_json(&self, agent_id: &str, registration: &Registration) -> Value {
        let agent = &self.agents[registration.agent];
        let star = json!({"role": "*"});
        let mut offered = Bag::default();
        for offer in self.master.offers.values().filter(|offer| offer.agent_id == agent_id) {
            offered.add(&offer.resources);
        }
        let mut allocated = agent.total();
        allocated.subtract(&registration.free);
        allocated.subtract(&offered);
        let capabilities = AGENT_CAPABILITIES.map(|name| json!({"type": name}));
        let mut json = json!({
            "agent_info": self.agent_info(agent_id, registration),
            "active": registration.is_active(),
            "deactivated": registration.deactivated,
            "version": VERSION,
            "pid": format!("slave(1)@{}:{}", agent.spec.ip, self.files_port()),
            "registered_time": time_info(registration.registered_s),
            "total_resources": agent.total().to_json(&star),
            "capabilities": capabilities,
        });
        if let Some(drain) = &registration.drain {
            drain.show(&mut json);
        }
        for (field, bag) in [("allocated_resources", allocated), ("offered_resources", offered)] {
            if !bag.is_empty() {
                json[field] = bag.to_json(&star);
            }
        }
        json
    }

    fn get_frameworks(&self) -> Value {
        let frameworks = self.master.frameworks.values().map(|framework| {
            let mut json = framework.to_json();
            let offers = self.master.offers.values().filter(|offer| offer.framework == framework.id);
            let offers: Vec<Value> = offers.map(|offer| self.offer_json(offer)).collect();
            if !offers.is_empty() {
                json["offers"] = Value::Array(offers);
            }
            json
        });
        json!({
            "frameworks": frameworks.collect::<Vec<_>>(),
            "completed_frameworks": self.master.completed.iter().map(Framework::to_json).collect::<Vec<_>>(),
        })
    }

    fn get_tasks(&self) -> Value {
        let mut tasks = Vec::new();
        let mut unreachable = Vec::new();
        let mut completed = Vec::new();
        for framework in self.master.frameworks.values().chain(&self.master.completed) {
            tasks.extend(framework.tasks.values().map(|task| task.to_json(&framework.id)));
            unreachable.extend(framework.unreachable.values().map(|task| task.to_json(&framework.id)));
            completed.extend(framework.completed.iter().map(|task| task.to_json(&framework.id)));
        }
        json!({"tasks": tasks, "unreachable_tasks": unreachable, "completed_tasks": completed})
    }
}
