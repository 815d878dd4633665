//! ACCEPT: checks offers and tasks as the master does, and launches what is left. I/O (it tells the time).

use serde_json::{Value, json};

use super::agent::Message;
use super::bag::Bag;
use super::framework::Task;
use super::json::{id, id_of, items, now_s};
use super::offers::Offer;
use super::state::State;
use crate::model::TaskState;

/// A file name may be this long, and ids become file names.
const ID_MAX: usize = 255;

impl State {
    /// ACCEPT.
    pub fn accept(&mut self, framework: &str, call: &Value) {
        let offer_ids: Vec<&str> = items(&call["offer_ids"]).filter_map(|id| id["value"].as_str()).collect();
        let problem = self.check_offers(framework, &offer_ids);
        let offers: Vec<Offer> = offer_ids.iter().filter_map(|id| self.take_offer(framework, id)).collect();
        let launches: Vec<Value> = items(&call["operations"])
            .filter(|operation| operation["type"] == "LAUNCH")
            .flat_map(|operation| items(&operation["launch"]["task_infos"]).cloned())
            .collect();
        if let Some(problem) = problem {
            for offer in &offers {
                self.give_back(offer, &offer.resources, None);
            }
            let message = format!("Task launched with invalid offers: {problem}");
            for info in &launches {
                self.refuse(framework, info, TaskState::Dropped, "REASON_INVALID_OFFERS", &message);
            }
            return;
        }
        let Some(first) = offers.first().cloned() else { return };
        let mut left = Bag::default();
        for offer in &offers {
            left.add(&offer.resources);
        }
        for info in launches {
            match self.check_task(framework, &first, &left, &info) {
                Ok(resources) => {
                    left.subtract(&resources);
                    self.launch(framework, &first, info, resources);
                }
                Err(message) => self.refuse(framework, &info, TaskState::Error, "REASON_TASK_INVALID", &message),
            }
        }
        self.give_back(&first, &left, Some(&call["filters"]));
    }

    fn check_offers(&self, framework: &str, ids: &[&str]) -> Option<String> {
        if ids.is_empty() {
            return Some("No offers specified".to_string());
        }
        let mut agent = None;
        for (i, offer_id) in ids.iter().enumerate() {
            if ids[..i].contains(offer_id) {
                return Some(format!("Duplicate offer {offer_id} in offer list"));
            }
            let offer = self.master.offers.get(*offer_id).filter(|offer| offer.framework == framework);
            let Some(offer) = offer else { return Some(format!("Offer {offer_id} is no longer valid")) };
            let expected = *agent.get_or_insert(&offer.agent_id);
            if *expected != offer.agent_id {
                return Some(format!(
                    "Aggregated offers must belong to one single agent. Offer {offer_id} uses agent {} and agent {expected}",
                    offer.agent_id
                ));
            }
        }
        None
    }

    /// The resources of a task that may be launched, or what is wrong with it.
    fn check_task(&self, framework: &str, offer: &Offer, left: &Bag, info: &Value) -> Result<Bag, String> {
        let task_id = id_of(info, "task_id").unwrap_or_default();
        if let Some(problem) = check_id(task_id) {
            return Err(problem);
        }
        if self.master.frameworks.get(framework).is_some_and(|f| f.tasks.contains_key(task_id)) {
            return Err(format!("Task has duplicate ID: {task_id}"));
        }
        let agent_id = id_of(info, "agent_id").unwrap_or_default();
        if agent_id != offer.agent_id {
            return Err(format!("Task uses invalid agent {agent_id} while agent {} is expected", offer.agent_id));
        }
        if info["command"].is_null() == info["executor"].is_null() {
            let message = "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present";
            return Err(message.to_string());
        }
        let resources = Bag::from_json(&info["resources"]);
        if resources.is_empty() {
            return Err("Task uses no resources".to_string());
        }
        if !left.contains(&resources) {
            return Err(format!(
                "Total resources {} required by task and its executor is more than available {}",
                resources.text(&offer.role),
                left.text(&offer.role)
            ));
        }
        Ok(resources)
    }

    fn launch(&mut self, framework_id: &str, offer: &Offer, info: Value, resources: Bag) {
        let Some(framework) = self.master.frameworks.get_mut(framework_id) else { return };
        let task_id = id_of(&info, "task_id").unwrap_or_default().to_string();
        let task = Task {
            id: task_id.clone(),
            agent_id: offer.agent_id.clone(),
            info: info.clone(),
            role: offer.role.clone(),
            resources,
            state: TaskState::Staging,
            statuses: Vec::new(),
            update: None,
        };
        framework.tasks.insert(task_id.clone(), task);
        let framework_info = framework.info.clone();
        let agent = self.master.agents[&offer.agent_id].agent;
        let key = (framework_id.to_string(), task_id);
        self.send_to_agent(agent, Message::Launch { key, framework_info, info, role: offer.role.clone() });
    }

    fn refuse(&mut self, framework: &str, info: &Value, state: TaskState, reason: &str, message: &str) {
        let status = json!({
            "task_id": id(id_of(info, "task_id").unwrap_or_default()),
            "state": state.mesos_name(),
            "message": message,
            "source": "SOURCE_MASTER",
            "reason": reason,
            "agent_id": id(id_of(info, "agent_id").unwrap_or_default()),
            "timestamp": now_s(),
        });
        self.send_update(framework, &status);
    }
}

fn check_id(task_id: &str) -> Option<String> {
    if task_id.is_empty() {
        return Some("ID must not be empty".to_string());
    }
    if task_id.len() > ID_MAX {
        return Some(format!("ID must not be greater than {ID_MAX} characters"));
    }
    if task_id == "." || task_id == ".." {
        return Some(format!("'{task_id}' is disallowed"));
    }
    let invalid = |c: char| c.is_control() || c == '/' || c == '\\';
    task_id.contains(invalid).then(|| format!("'{task_id}' contains invalid characters"))
}
