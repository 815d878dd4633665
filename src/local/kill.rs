//! KILL, as the master handles it. Pure.

use serde_json::{Value, json};

use super::agent::Message;
use super::json::{duration, id_of};
use super::state::State;

impl State {
    /// KILL.
    pub fn kill(&mut self, framework: &str, call: &Value) {
        let Some(task_id) = id_of(call, "task_id") else { return };
        let named = id_of(call, "agent_id");
        let task = self.master.frameworks.get(framework).and_then(|f| f.tasks.get(task_id));
        let Some(task) = task else {
            // Not remembered: it is answered as a question for the task's state.
            let mut asked = json!({"task_id": call["task_id"]});
            if named.is_some() {
                asked["agent_id"] = call["agent_id"].clone();
            }
            return self.reconcile(framework, &json!({"tasks": [asked]}));
        };
        if named.is_some_and(|agent_id| agent_id != task.agent_id) {
            return; // The real one drops it without a word, too.
        }
        let key = (framework.to_string(), task_id.to_string());
        let agent_id = task.agent_id.clone();
        let Some(registration) = self.master.agents.get_mut(&agent_id) else { return };
        registration.killed.insert(key.clone());
        let agent = registration.agent;
        self.send_to_agent(agent, Message::Kill { key, grace: duration(&call["kill_policy"]["grace_period"]) });
    }
}
