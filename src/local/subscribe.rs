//! SUBSCRIBE, the event stream, its end, and the end of a framework. I/O (it writes streams).

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::agent::Message;
use super::framework::{Framework, Subscriber, has_capability, is_terminal};
use super::json::{id, id_of, now_s, texts, uuid};
use super::state::{Due, State};

/// Records that may wait for a slow scheduler before its stream is closed.
const RECORDS_MAX: usize = 65_536;
/// How many removed frameworks the master remembers.
const COMPLETED_FRAMEWORKS_MAX: usize = 50;

/// What goes down a stream.
pub(super) enum Piece {
    /// Bytes of records.
    Bytes(Bytes),
    /// The connection breaks here.
    Cut,
}

/// A new stream.
pub(super) struct Subscription {
    pub framework: String,
    pub stream: String,
    pub pieces: mpsc::Receiver<Piece>,
}

impl State {
    /// SUBSCRIBE. What is wrong with it is told by an ERROR event on the stream.
    pub fn subscribe(&mut self, call: &Value) -> Subscription {
        let info = &call["subscribe"]["framework_info"];
        let suppressed: BTreeSet<String> = texts(&call["subscribe"]["suppressed_roles"]).into_iter().collect();
        let (sender, pieces) = mpsc::channel(RECORDS_MAX);
        let stream = uuid();
        let given = id_of(call, "framework_id").map(str::to_string);
        let removed = given.as_ref().is_some_and(|id| self.master.completed.iter().any(|f| f.id == *id));
        let error = if removed { Some("Framework has been removed".to_string()) } else { check(info, &suppressed) };
        if let Some(message) = error {
            let event = json!({"type": "ERROR", "error": {"message": message}});
            let _ = sender.try_send(Piece::Bytes(record(&event))); // The channel is new: it has room.
            return Subscription { framework: given.unwrap_or_default(), stream, pieces };
        }
        let framework = given.unwrap_or_else(|| {
            let number = self.master.next_framework;
            self.master.next_framework += 1;
            format!("{}-{number:04}", self.master.id)
        });
        let was_connected = self.end_stream(&framework, Some("Framework failed over"));
        let entry = self.master.frameworks.entry(framework.clone());
        let entry = entry.or_insert_with(|| Framework::new(&framework, info, now_s()));
        entry.set_info(info);
        entry.suppressed = suppressed;
        entry.recovered = false;
        entry.reregistered_s = now_s();
        entry.subscriber = Some(Subscriber { stream: stream.clone(), pieces: sender });
        let subscribed = json!({"type": "SUBSCRIBED", "subscribed": {
            "framework_id": id(&framework),
            "heartbeat_interval_seconds": self.config.heartbeat_interval.as_secs_f64(),
            "master_info": self.master_info(),
        }});
        self.send(&framework, &subscribed);
        self.heartbeat(&framework, stream.clone());
        self.resume_updates_of(&framework);
        if !was_connected {
            self.allocate();
        }
        Subscription { framework, stream, pieces }
    }

    /// `UPDATE_FRAMEWORK`; an error is the text of a 400.
    pub fn update_framework(&mut self, framework_id: &str, call: &Value) -> Result<(), String> {
        let info = &call["framework_info"];
        let suppressed: BTreeSet<String> = texts(&call["suppressed_roles"]).into_iter().collect();
        if let Some(message) = check(info, &suppressed) {
            return Err(message);
        }
        if let Some(framework) = self.master.frameworks.get_mut(framework_id) {
            framework.set_info(info);
            framework.suppressed = suppressed;
        }
        self.allocate();
        Ok(())
    }

    /// A HEARTBEAT, and a timer for the next.
    pub fn heartbeat(&mut self, framework: &str, stream: String) {
        if self.stream_of(framework) == Some(stream.as_str()) {
            self.send(framework, &json!({"type": "HEARTBEAT"}));
            let due = Due::Heartbeat { framework: framework.to_string(), stream };
            self.after(self.config.heartbeat_interval, due);
        }
    }

    /// The scheduler is gone, or its stream was cut.
    pub fn stream_closed(&mut self, framework_id: &str, stream: &str) {
        if self.stream_of(framework_id) == Some(stream) {
            self.end_stream(framework_id, None);
            let outage = self.new_outage();
            self.master.filters.retain(|filter| filter.framework != framework_id);
            let Some(framework) = self.master.frameworks.get_mut(framework_id) else { return };
            framework.outage = outage;
            let due = Due::FailoverTimeout { framework: framework_id.to_string(), outage };
            // A time that no clock can hold is as good as for ever.
            let wait = framework.failover_timeout().min(std::time::Duration::from_hours(24 * 365));
            self.after(wait, due);
        }
    }

    /// The framework did not come back in time.
    pub fn failover_timed_out(&mut self, framework_id: &str, outage: u64) {
        let framework = self.master.frameworks.get(framework_id);
        if framework.is_some_and(|f| f.outage == outage && f.subscriber.is_none()) {
            self.remove_framework(framework_id);
        }
    }

    /// TEARDOWN, or the failover timeout: its tasks are killed.
    pub fn remove_framework(&mut self, framework_id: &str) {
        self.end_stream(framework_id, None);
        self.master.filters.retain(|filter| filter.framework != framework_id);
        let Some(mut framework) = self.master.frameworks.remove(framework_id) else { return };
        framework.unregistered_s = Some(now_s());
        for (_, task) in std::mem::take(&mut framework.tasks) {
            if let Some(registration) = self.master.agents.get_mut(&task.agent_id)
                && !is_terminal(task.state)
            {
                registration.free.add(&task.resources);
            }
            framework.complete(task);
        }
        if self.master.completed.len() == COMPLETED_FRAMEWORKS_MAX {
            self.master.completed.remove(0);
        }
        self.master.completed.push(framework);
        for agent in 0..self.agents.len() {
            self.send_to_agent(agent, Message::Shutdown { framework: framework_id.to_string() });
            let agent_id = self.agents[agent].agent_id().to_string();
            self.end_drain_if_empty(&agent_id);
        }
    }

    /// The id of the framework's stream; none when it is not connected.
    pub fn stream_of(&self, framework: &str) -> Option<&str> {
        Some(self.master.frameworks.get(framework)?.subscriber.as_ref()?.stream.as_str())
    }

    /// The ids of all connected frameworks.
    pub fn connected_frameworks(&self) -> Vec<String> {
        let connected = self.master.frameworks.values().filter(|f| f.subscriber.is_some());
        connected.map(|f| f.id.clone()).collect()
    }

    /// Sends an event to a framework; lost when it is not connected.
    pub fn send(&mut self, framework_id: &str, event: &Value) {
        let Some(framework) = self.master.frameworks.get_mut(framework_id) else { return };
        let Some(subscriber) = &framework.subscriber else { return };
        let mut bytes = record(event);
        let mut cut = false;
        if let Some(left) = &mut self.faults.cut_after {
            cut = *left <= bytes.len();
            bytes.truncate(*left);
            *left -= bytes.len();
        }
        let full = !bytes.is_empty() && subscriber.pieces.try_send(Piece::Bytes(bytes)).is_err();
        if cut {
            self.faults.cut_after = None;
            let _ = subscriber.pieces.try_send(Piece::Cut); // Full: it is closed just below.
        }
        if cut || full {
            let stream = subscriber.stream.clone();
            self.stream_closed(framework_id, &stream);
        }
    }

    /// Sends an event if the framework still has this stream.
    pub fn send_on(&mut self, framework: &str, stream: &str, event: &Value) {
        if self.stream_of(framework) == Some(stream) {
            self.send(framework, event);
        }
    }

    /// Ends the stream, if there is one, and voids the framework's offers.
    fn end_stream(&mut self, framework_id: &str, error: Option<&str>) -> bool {
        if let Some(message) = error {
            self.send(framework_id, &json!({"type": "ERROR", "error": {"message": message}}));
        }
        self.void_offers_of(framework_id);
        let framework = self.master.frameworks.get_mut(framework_id);
        framework.is_some_and(|framework| framework.subscriber.take().is_some())
    }
}

/// A `RecordIO` record.
fn record(event: &Value) -> Bytes {
    let body = event.to_string();
    Bytes::from(format!("{}\n{body}", body.len()))
}

/// What is wrong with a framework's description.
fn check(info: &Value, suppressed: &BTreeSet<String>) -> Option<String> {
    let multi_role = has_capability(info, "MULTI_ROLE");
    if multi_role && !info["role"].is_null() {
        return Some("'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable".to_string());
    }
    if !multi_role && !info["roles"].is_null() {
        return Some("'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable".to_string());
    }
    let roles = texts(&info["roles"]);
    if let Some(error) = roles.iter().find_map(|role| check_role(role)) {
        return Some(format!("'FrameworkInfo.roles' contains invalid role: {error}"));
    }
    let stranger = suppressed.iter().find(|role| multi_role && !roles.contains(role))?;
    Some(format!("Suppressed role '{stranger}' is not contained in the list of roles"))
}

fn check_role(role: &str) -> Option<String> {
    if role.is_empty() || role.starts_with('/') || role.ends_with('/') {
        return Some(format!("Role '{role}' cannot be empty, nor start or end with a slash"));
    }
    role.split('/').find_map(|part| match part {
        "." | ".." | "" => Some(format!("Role component '{part}' is invalid")),
        _ if part.starts_with('-') => Some(format!("Role component '{part}' is invalid because it begins with a dash")),
        _ if part.contains(char::is_whitespace) => {
            Some(format!("Role component '{part}' is invalid because it contains backspace or whitespace"))
        }
        _ => None,
    })
}
