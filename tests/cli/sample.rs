//! Instances as an operator tells of them. Pure.

use serde_json::{Value, json};

/// An instance `name` of one master and two replicas, of which `ready` nodes are ready.
pub fn instance(name: &str, ready: usize, revision: i64) -> Value {
    let all = ready == 3;
    let node = |i: usize| {
        let state = if i < ready { "Ready" } else { "Launching" };
        json!({
            "name": format!("{name}-{i}"), "taskId": format!("{name}-{i}.18f"), "agent": format!("S{i}"),
            "hostname": format!("agent-{i}"), "domain": format!("r{i}"), "address": format!("10.0.0.{i}:31000"),
            "role": if i == 0 { "master" } else { "replica" }, "state": state,
            "link": if i == 0 { Value::Null } else { json!("up") }, "offset": 42, "lag": 0, "usedMemory": 1_572_864
        })
    };
    let waiting = if all { json!([]) } else { json!([format!("{} nodes are not ready", 3 - ready)]) };
    json!({
        "apiVersion": "redisctl/v1", "kind": "RedisInstance",
        "metadata": {
            "name": name, "labels": {"team": "shop"}, "revision": revision, "createdAt": "2026-01-02T03:04:05Z"
        },
        "spec": {
            "masters": 1, "replicas": 2, "memory": "256Mi", "cpus": 0.1, "distribution": 1,
            "placement": {"strategy": "spread"}, "redis": {}, "replaceUnreachableAfter": "5m", "onDataLoss": "recreate",
            "failover": {"detectWithin": "1s", "maxLag": "1s"}
        },
        "status": {
            "phase": if all { "Ready" } else { "Creating" }, "observedRevision": if all { revision } else { 0 },
            "epoch": 1, "master": "10.0.0.0:31000", "nodes": (0..3).map(node).collect::<Vec<_>>(), "waiting": waiting,
            "conditions": [
                condition("MasterAvailable", ready > 0, "Master"),
                condition("Ready", all, "Nodes"),
            ]
        }
    })
}

/// A condition with a sentence.
pub fn condition(kind: &str, holds: bool, reason: &str) -> Value {
    json!({
        "type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": "a sentence",
        "lastTransitionTime": "2026-01-02T03:04:05Z"
    })
}

/// The document of such an instance.
pub fn document(name: &str) -> String {
    format!(
        "apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata:\n  name: {name}\n  labels: {{team: shop}}\n\
         spec:\n  replicas: 2\n  memory: 256Mi\n"
    )
}

/// Something that happened.
pub fn event(instance: &str, reason: &str, at: &str) -> Value {
    json!({
        "instance": instance, "at": at, "firstAt": "2026-01-02T03:04:05Z", "count": 2, "type": "Warning",
        "reason": reason, "object": format!("{instance}-1"), "message": format!("{instance}-1 died\nof old age")
    })
}
