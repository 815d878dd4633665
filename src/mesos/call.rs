//! What we say to the master: our calls as the v1 scheduler API's JSON, and what its replies mean. Pure.

use serde_json::{Value, json};

use super::task::{labels, task_info};
use super::{Containerizer, Settings};
use crate::model::MesosCall;
use crate::spec::{Constraint, Operator};

/// What the master may rely on with us; never take one out again once a framework has it.
const CAPABILITIES: [&str; 4] = ["MULTI_ROLE", "PARTITION_AWARE", "TASK_KILLING_STATE", "RESERVATION_REFINEMENT"];

/// How long Mesos does not ask again for an agent that we have agreed to leave, in seconds.
const ASKED_AGAIN_S: f64 = 60.0;

/// SUBSCRIBE. It asks for no offers yet: a REVIVE does, once the operator knows its tasks.
pub fn subscribe(settings: &Settings, framework_id: Option<&str>) -> Value {
    let mut call = json!({
        "type": "SUBSCRIBE",
        "subscribe": {"framework_info": framework(settings, framework_id), "suppressed_roles": settings.roles},
    });
    if let Some(id) = framework_id {
        call["framework_id"] = json!({"value": id});
    }
    call
}

/// `UPDATE_FRAMEWORK`: the same framework, with constraints on what it is offered. It ends a SUPPRESS.
pub fn constrain(settings: &Settings, framework_id: &str, groups: &[Vec<Constraint>]) -> Value {
    let groups: Vec<Value> = groups
        .iter()
        .map(|group| json!({"attribute_constraints": group.iter().map(attribute_constraint).collect::<Vec<_>>()}))
        .collect();
    let roles = settings.roles.iter().map(|role| (role.clone(), json!({"groups": groups})));
    let roles: serde_json::Map<String, Value> = roles.filter(|_| !groups.is_empty()).collect();
    json!({
        "type": "UPDATE_FRAMEWORK",
        "framework_id": {"value": framework_id},
        "update_framework": {
            "framework_info": framework(settings, Some(framework_id)),
            "offer_constraints": {"role_constraints": roles},
        },
    })
}

/// A constraint in Mesos' words. An attribute that is no text satisfies all of them but existence: what is
/// offered is looked at again.
fn attribute_constraint(constraint: &Constraint) -> Value {
    let pseudo = |kind: &str| json!({"pseudoattribute_type": kind});
    let selector = match constraint.attribute.as_str() {
        "hostname" => pseudo("HOSTNAME"),
        "@region" => pseudo("REGION"),
        "@zone" => pseudo("ZONE"),
        name => json!({"attribute_name": name}),
    };
    let any = || {
        let values: Vec<String> = constraint.values.iter().map(|value| escaped(value)).collect();
        json!({"regex": format!("^({})$", values.join("|"))})
    };
    let predicate = match (constraint.operator, constraint.values.as_slice()) {
        (Operator::Exists, _) => json!({"exists": {}}),
        (Operator::DoesNotExist, _) => json!({"not_exists": {}}),
        (Operator::In, [value]) => json!({"text_equals": {"value": value}}),
        (Operator::In, _) => json!({"text_matches": any()}),
        (Operator::NotIn, [value]) => json!({"text_not_equals": {"value": value}}),
        (Operator::NotIn, _) => json!({"text_not_matches": any()}),
    };
    json!({"selector": selector, "predicate": predicate})
}

/// The text as a regular expression that fits it alone.
fn escaped(text: &str) -> String {
    let is_special = |c: char| c.is_ascii_punctuation() && c != '_';
    text.chars().flat_map(|c| is_special(c).then_some('\\').into_iter().chain([c])).collect()
}

fn framework(settings: &Settings, framework_id: Option<&str>) -> Value {
    let capabilities = CAPABILITIES.into_iter().chain(settings.remote_regions.then_some("REGION_AWARE"));
    let mut info = json!({
        "user": settings.user,
        "name": settings.name,
        "roles": settings.roles,
        "failover_timeout": settings.failover_timeout_s,
        "checkpoint": true,
        "capabilities": capabilities.map(|capability| json!({"type": capability})).collect::<Vec<_>>(),
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
    info
}

/// Any other call.
pub fn call(call: &MesosCall, framework_id: &str, roles: &[String], containerizer: Containerizer) -> Value {
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
        MesosCall::AcceptInverse(offer_ids) => {
            json!({"inverse_offer_ids": ids(offer_ids), "filters": {"refuse_seconds": ASKED_AGAIN_S}})
        }
        MesosCall::Suppress | MesosCall::Revive => json!({"roles": roles}),
        MesosCall::Kill { task_id, agent_id } => task_and_agent(task_id, agent_id.as_deref()),
        MesosCall::Acknowledge { task_id, agent_id, uuid } => {
            json!({"task_id": {"value": task_id}, "agent_id": {"value": agent_id}, "uuid": uuid})
        }
        MesosCall::Constrain(_) => unreachable!("`constrain` encodes it"),
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
        MesosCall::AcceptInverse(_) => "ACCEPT_INVERSE_OFFERS",
        MesosCall::Suppress => "SUPPRESS",
        MesosCall::Revive => "REVIVE",
        MesosCall::Kill { .. } => "KILL",
        MesosCall::Acknowledge { .. } => "ACKNOWLEDGE",
        MesosCall::Constrain(_) => "UPDATE_FRAMEWORK",
        MesosCall::Reconcile(_) => "RECONCILE",
    }
}

/// The tasks that a call is about.
pub fn task_ids(call: &MesosCall) -> Vec<String> {
    match call {
        MesosCall::Accept { launches, .. } => launches.iter().map(|launch| launch.task_id.clone()).collect(),
        MesosCall::Kill { task_id, .. } | MesosCall::Acknowledge { task_id, .. } => vec![task_id.clone()],
        MesosCall::Reconcile(tasks) => tasks.iter().map(|(task_id, _)| task_id.clone()).collect(),
        MesosCall::Decline { .. }
        | MesosCall::AcceptInverse(_)
        | MesosCall::Constrain(_)
        | MesosCall::Suppress
        | MesosCall::Revive => Vec::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn json_of(call: &MesosCall) -> Value {
        super::call(call, "F", &["redis/prod".to_string()], Containerizer::Mesos)
    }

    #[test]
    fn a_first_subscription_has_no_id_and_asks_for_no_offers() {
        let settings = Settings {
            roles: vec!["redis/prod".into()],
            principal: Some("op".into()),
            labels: [("managed-by".to_string(), "redisctl".to_string())].into(),
            ..Settings::default()
        };
        assert_eq!(
            subscribe(&settings, None),
            json!({"type": "SUBSCRIBE", "subscribe": {
                "framework_info": {
                    "user": "nobody", "name": "redisctl", "roles": ["redis/prod"],
                    "failover_timeout": 2_419_200.0, "checkpoint": true,
                    "capabilities": [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"},
                        {"type": "TASK_KILLING_STATE"}, {"type": "RESERVATION_REFINEMENT"}],
                    "labels": {"labels": [{"key": "managed-by", "value": "redisctl"}]},
                    "principal": "op",
                },
                "suppressed_roles": ["redis/prod"],
            }})
        );
    }

    #[test]
    fn a_later_subscription_has_its_id_in_both_places() {
        let call = subscribe(&Settings::default(), Some("F"));
        assert_eq!(call["framework_id"], json!({"value": "F"}));
        assert_eq!(call["subscribe"]["framework_info"]["id"], json!({"value": "F"}));
    }

    #[test]
    fn an_accept_launches_all_its_tasks_in_one_operation() {
        let launch = |task_id: &str| crate::model::Launch {
            task_id: task_id.into(),
            name: "n".into(),
            agent_id: "S1".into(),
            pieces: Vec::new(),
            argv: vec!["redis-server".into()],
            image: None,
            grace_ms: 1,
            labels: std::collections::BTreeMap::new(),
        };
        let launches = vec![launch("a"), launch("b")];
        let call = MesosCall::Accept { offer_ids: vec!["O1".into(), "O2".into()], launches, refuse_s: 1.0 };
        let json = json_of(&call);
        assert_eq!(json["type"], "ACCEPT");
        assert_eq!(json["framework_id"], json!({"value": "F"}));
        assert_eq!(json["accept"]["offer_ids"], json!([{"value": "O1"}, {"value": "O2"}]));
        assert_eq!(json["accept"]["filters"], json!({"refuse_seconds": 1.0}));
        let operations = json["accept"]["operations"].as_array().unwrap();
        assert_eq!(operations.len(), 1);
        assert_eq!(operations[0]["type"], "LAUNCH");
        assert_eq!(operations[0]["launch"]["task_infos"][1]["task_id"], json!({"value": "b"}));
        assert_eq!(task_ids(&call), ["a", "b"]);
    }

    #[test]
    fn the_other_calls_have_their_bodies_under_their_own_names() {
        let decline = MesosCall::Decline { offer_ids: vec!["O1".into()], refuse_s: 3600.0 };
        let kill = MesosCall::Kill { task_id: "t".into(), agent_id: None };
        let acknowledge =
            MesosCall::Acknowledge { task_id: "t".into(), agent_id: "S1".into(), uuid: "bZ0vXw==".into() };
        let explicit = MesosCall::Reconcile(vec![("t".into(), Some("S1".into())), ("u".into(), None)]);
        for (call, name, body) in [
            (decline, "decline", json!({"offer_ids": [{"value": "O1"}], "filters": {"refuse_seconds": 3600.0}})),
            (
                MesosCall::AcceptInverse(vec!["I1".into()]),
                "accept_inverse_offers",
                json!({"inverse_offer_ids": [{"value": "I1"}], "filters": {"refuse_seconds": 60.0}}),
            ),
            (MesosCall::Suppress, "suppress", json!({"roles": ["redis/prod"]})),
            (MesosCall::Revive, "revive", json!({"roles": ["redis/prod"]})),
            (kill, "kill", json!({"task_id": {"value": "t"}})),
            (
                acknowledge,
                "acknowledge",
                json!({"task_id": {"value": "t"}, "agent_id": {"value": "S1"}, "uuid": "bZ0vXw=="}),
            ),
            (
                explicit,
                "reconcile",
                json!({"tasks": [{"task_id": {"value": "t"}, "agent_id": {"value": "S1"}}, {"task_id": {"value": "u"}}]}),
            ),
            (MesosCall::Reconcile(Vec::new()), "reconcile", json!({})),
        ] {
            let mut expected = json!({"framework_id": {"value": "F"}, "type": name.to_uppercase()});
            expected[name] = body;
            assert_eq!(json_of(&call), expected);
        }
    }

    #[test]
    fn replies_tell_a_lost_subscription_from_a_bad_call() {
        let stream = "The stream ID 'x' included in this request didn't match the stream ID currently associated";
        for (status, body, reply) in [
            (202, "", Reply::Taken),
            (200, "", Reply::Taken),
            (307, "", Reply::NotSubscribed),
            (400, stream, Reply::NotSubscribed),
            (400, "Framework cannot be found", Reply::NotSubscribed),
            (400, "Failed to parse body into JSON", Reply::Refused),
            (401, "", Reply::Credentials),
            (403, "Framework is not subscribed", Reply::NotSubscribed),
            (404, "", Reply::NotSubscribed),
            (500, "", Reply::Failed),
            (501, "", Reply::Refused),
            (503, "No leader elected", Reply::NotSubscribed),
        ] {
            assert_eq!(judge(status, body), reply, "{status} {body}");
        }
    }
}
