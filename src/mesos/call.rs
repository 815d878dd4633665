//! What we say to the master: our calls as the v1 scheduler API's JSON, and what its replies mean. Pure.

use serde_json::{Value, json};

use super::task::{labels, task_info};
use super::{Containerizer, Settings};
use crate::model::MesosCall;

/// What the master may rely on with us; never take one out again once a framework has it.
const CAPABILITIES: [&str; 4] = ["MULTI_ROLE", "PARTITION_AWARE", "TASK_KILLING_STATE", "RESERVATION_REFINEMENT"];

/// SUBSCRIBE. It asks for no offers yet: a REVIVE does, once the operator knows its tasks.
pub fn subscribe(settings: &Settings, framework_id: Option<&str>) -> Value {
    let mut info = json!({
        "user": settings.user,
        "name": settings.name,
        "roles": [settings.role],
        "failover_timeout": settings.failover_timeout_s,
        "checkpoint": true,
        "capabilities": CAPABILITIES.map(|capability| json!({"type": capability})),
        "labels": labels(settings.labels.iter()),
    });
    for (key, value) in
        [("principal", &settings.principal), ("hostname", &settings.hostname), ("webui_url", &settings.webui_url)]
    {
        if let Some(value) = value {
            info[key] = json!(value);
        }
    }
    if let Some(id) = framework_id {
        info["id"] = json!({"value": id});
    }
    let mut call = json!({
        "type": "SUBSCRIBE",
        "subscribe": {"framework_info": info, "suppressed_roles": [settings.role]},
    });
    if let Some(id) = framework_id {
        call["framework_id"] = json!({"value": id});
    }
    call
}

/// Any other call.
pub fn call(call: &MesosCall, framework_id: &str, role: &str, containerizer: Containerizer) -> Value {
    let name = name(call);
    let body = match call {
        MesosCall::Accept { offer_ids, launches, refuse_s } => {
            let tasks: Vec<Value> = launches.iter().map(|launch| task_info(launch, containerizer)).collect();
            json!({
                "offer_ids": ids(offer_ids),
                "operations": [{"type": "LAUNCH", "launch": {"task_infos": tasks}}],
                "filters": {"refuse_seconds": refuse_s},
            })
        }
        MesosCall::Decline { offer_ids, refuse_s } => {
            json!({"offer_ids": ids(offer_ids), "filters": {"refuse_seconds": refuse_s}})
        }
        MesosCall::Suppress | MesosCall::Revive => json!({"roles": [role]}),
        MesosCall::Kill { task_id, agent_id } => task_and_agent(task_id, agent_id.as_deref()),
        MesosCall::Acknowledge { task_id, agent_id, uuid } => {
            json!({"task_id": {"value": task_id}, "agent_id": {"value": agent_id}, "uuid": uuid})
        }
        MesosCall::Reconcile(tasks) if tasks.is_empty() => json!({}),
        MesosCall::Reconcile(tasks) => {
            let tasks: Vec<Value> =
                tasks.iter().map(|(task_id, agent_id)| task_and_agent(task_id, agent_id.as_deref())).collect();
            json!({"tasks": tasks})
        }
    };
    let mut json = json!({"framework_id": {"value": framework_id}, "type": name});
    json[name.to_lowercase()] = body;
    json
}

fn ids(ids: &[String]) -> Vec<Value> {
    ids.iter().map(|id| json!({"value": id})).collect()
}

fn task_and_agent(task_id: &str, agent_id: Option<&str>) -> Value {
    let mut task = json!({"task_id": {"value": task_id}});
    if let Some(agent_id) = agent_id {
        task["agent_id"] = json!({"value": agent_id});
    }
    task
}

/// Mesos' name of a call.
pub fn name(call: &MesosCall) -> &'static str {
    match call {
        MesosCall::Accept { .. } => "ACCEPT",
        MesosCall::Decline { .. } => "DECLINE",
        MesosCall::Suppress => "SUPPRESS",
        MesosCall::Revive => "REVIVE",
        MesosCall::Kill { .. } => "KILL",
        MesosCall::Acknowledge { .. } => "ACKNOWLEDGE",
        MesosCall::Reconcile(_) => "RECONCILE",
    }
}

/// The tasks that a call is about.
pub fn task_ids(call: &MesosCall) -> Vec<String> {
    match call {
        MesosCall::Accept { launches, .. } => launches.iter().map(|launch| launch.task_id.clone()).collect(),
        MesosCall::Kill { task_id, .. } | MesosCall::Acknowledge { task_id, .. } => vec![task_id.clone()],
        MesosCall::Reconcile(tasks) => tasks.iter().map(|(task_id, _)| task_id.clone()).collect(),
        MesosCall::Decline { .. } | MesosCall::Suppress | MesosCall::Revive => Vec::new(),
    }
}

/// What the master's reply to a call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Taken; the outcome comes as an event, if any.
    Taken,
    /// Not done, and the subscription is void: subscribe again.
    NotSubscribed,
    /// Not done: the credentials are wrong.
    Credentials,
    /// Not done, and the same call will never be.
    Refused,
    /// The master failed while it worked on it: perhaps done.
    Failed,
}

/// Judges the reply to a call that is not SUBSCRIBE. Only its text tells a lost subscription from a
/// bad call.
pub fn judge(status: u16, body: &str) -> Reply {
    match status {
        200..=299 => Reply::Taken,
        // Not the leader any more, no leader, or just starting; 403 and 409: not subscribed (any more).
        300..=399 | 403 | 404 | 409 | 503 => Reply::NotSubscribed,
        400 if body.contains("stream ID") || body.contains("Framework cannot be found") => Reply::NotSubscribed,
        401 => Reply::Credentials,
        500 | 502 | 504 => Reply::Failed,
        _ => Reply::Refused,
    }
}
