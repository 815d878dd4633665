//! A scheduler call: what the master checks before it acts, with its words, and who acts. Pure.

use serde_json::Value;

use super::json::{id_of, is_uuid_base64, items};
use super::state::State;

/// An answer that is not 202: status and text.
pub(super) type Refused = (u16, String);

/// The calls that this master knows, and the field that must be present.
const CALLS: [(&str, &str); 17] = [
    ("SUBSCRIBE", "subscribe"),
    ("TEARDOWN", ""),
    ("ACCEPT", "accept"),
    ("DECLINE", "decline"),
    ("ACCEPT_INVERSE_OFFERS", "accept_inverse_offers"),
    ("DECLINE_INVERSE_OFFERS", "decline_inverse_offers"),
    ("REVIVE", ""),
    ("SUPPRESS", ""),
    ("KILL", "kill"),
    ("SHUTDOWN", "shutdown"),
    ("ACKNOWLEDGE", "acknowledge"),
    ("ACKNOWLEDGE_OPERATION_STATUS", "acknowledge_operation_status"),
    ("RECONCILE", "reconcile"),
    ("RECONCILE_OPERATIONS", "reconcile_operations"),
    ("MESSAGE", "message"),
    ("REQUEST", "request"),
    ("UPDATE_FRAMEWORK", "update_framework"),
];

/// Fields that a call must have, by what they are in.
const REQUIRED: [(&str, &[&str]); 5] = [
    ("subscribe.framework_info", &["user", "name"]),
    ("update_framework.framework_info", &["user", "name"]),
    ("kill", &["task_id"]),
    ("acknowledge", &["agent_id", "task_id", "uuid"]),
    ("subscribe", &["framework_info"]),
];

/// Parses the body of a call and checks it as far as its own words go.
pub(super) fn parse(body: &[u8]) -> Result<Value, Refused> {
    let bad = |text: String| (400, text);
    let call: Value = serde_json::from_slice(body).map_err(|e| bad(format!("Failed to parse body into JSON: {e}")))?;
    convert(&call).map_err(|e| bad(format!("Failed to convert JSON into Call protobuf: {e}")))?;
    validate(&call).map_err(|e| bad(format!("Failed to validate scheduler::Call: {e}")))?;
    Ok(call)
}

/// What the protobuf schema demands.
fn convert(call: &Value) -> Result<(), String> {
    if !call.is_object() {
        return Err("Expecting a JSON object".to_string());
    }
    for (path, fields) in REQUIRED {
        let object = path.split('.').fold(call, |value, key| &value[key]);
        if let Some(missing) = fields.iter().find(|field| object.is_object() && object[**field].is_null()) {
            return Err(format!("Missing required fields: {path}.{missing}"));
        }
    }
    for operation in items(&call["accept"]["operations"]) {
        for info in items(&operation["launch"]["task_infos"]) {
            check_task(info)?;
        }
    }
    Ok(())
}

fn check_task(info: &Value) -> Result<(), String> {
    if let Some(missing) = ["name", "task_id", "agent_id"].iter().find(|field| info[**field].is_null()) {
        return Err(format!("Missing required fields: accept.operations[0].launch.task_infos[0].{missing}"));
    }
    let limits = info["limits"].as_object();
    match limits.and_then(|limits| limits.values().find(|limit| !limit.is_object())) {
        Some(Value::String(_)) => Err("Not expecting a JSON string for field 'value'".to_string()),
        Some(_) => Err("Not expecting a JSON number for field 'value'".to_string()),
        None => Ok(()),
    }
}

/// What the master demands of every call.
fn validate(call: &Value) -> Result<(), String> {
    let name = call["type"].as_str().unwrap_or_default();
    let Some((_, field)) = CALLS.iter().find(|(known, _)| *known == name) else {
        return Err("Expecting 'type' to be present".to_string());
    };
    let framework_id = id_of(call, "framework_id");
    if name == "SUBSCRIBE" {
        if call["subscribe"].is_null() {
            return Err("Expecting 'subscribe' to be present".to_string());
        }
        if framework_id != id_of(&call["subscribe"]["framework_info"], "id") {
            return Err("'framework_id' differs from 'subscribe.framework_info.id'".to_string());
        }
        return Ok(());
    }
    if framework_id.is_none() {
        return Err("Expecting 'framework_id' to be present".to_string());
    }
    if !field.is_empty() && call[*field].is_null() {
        return Err(format!("Expecting '{field}' to be present"));
    }
    if name == "ACKNOWLEDGE" && !call["acknowledge"]["uuid"].as_str().is_some_and(is_uuid_base64) {
        return Err("Not a valid UUID".to_string());
    }
    Ok(())
}

impl State {
    /// Checks that the call is of the current subscription of a framework.
    fn check_sender(&self, call: &Value, stream: Option<&str>) -> Result<String, Refused> {
        let framework_id = id_of(call, "framework_id").unwrap_or_default();
        let Some(framework) = self.master.frameworks.get(framework_id) else {
            return Err((400, "Framework cannot be found".to_string()));
        };
        let Some(subscriber) = &framework.subscriber else {
            return Err((403, "Framework is not subscribed".to_string()));
        };
        let Some(stream) = stream else {
            return Err((400, "All non-subscribe calls should include the 'Mesos-Stream-Id' header".to_string()));
        };
        if stream != subscriber.stream {
            let text = format!(
                "The stream ID '{stream}' included in this request didn't match the stream ID currently \
                 associated with framework ID {framework_id}"
            );
            return Err((400, text));
        }
        Ok(framework_id.to_string())
    }

    /// Performs a call other than SUBSCRIBE; returns the status.
    pub fn perform_call(&mut self, call: &Value, stream: Option<&str>) -> Result<u16, Refused> {
        let framework = self.check_sender(call, stream)?;
        let name = call["type"].as_str().unwrap_or_default();
        *self.calls.entry(name.to_string()).or_default() += 1;
        match name {
            "TEARDOWN" => self.remove_framework(&framework),
            "ACCEPT" if std::mem::take(&mut self.faults.lose_accept) => {}
            "ACCEPT" => self.accept(&framework, &call["accept"]),
            "DECLINE" => self.decline(&framework, &call["decline"]),
            "REVIVE" => self.revive(&framework, &call["revive"]),
            "SUPPRESS" => self.suppress(&framework, &call["suppress"]),
            "ACCEPT_INVERSE_OFFERS" | "DECLINE_INVERSE_OFFERS" => self.answer_inverse_offers(&framework, call),
            "KILL" => self.kill(&framework, &call["kill"]),
            "ACKNOWLEDGE" => self.acknowledge(&framework, &call["acknowledge"]),
            "RECONCILE" => self.reconcile(&framework, &call["reconcile"]),
            "UPDATE_FRAMEWORK" => {
                self.update_framework(&framework, &call["update_framework"]).map_err(|text| (400, text))?;
                return Ok(200);
            }
            _ => {} // Operations, messages: none of them occur here.
        }
        Ok(202)
    }
}
