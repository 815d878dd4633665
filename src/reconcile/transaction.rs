//! A plan's writes as one guarded transaction. Pure.

use crate::model::NodeRecord;
use crate::reconcile::action::{Plan, Write};
use crate::reconcile::stored::merge_events;
use crate::reconcile::world::Instance;
use crate::store::{self, Guard, LeaderToken, Op, Txn, events_key, instance_key, node_key, state_key, status_key};

/// The plan's writes, and its status where that has changed, as one guarded transaction.
pub fn transaction(name: &str, instance: &Instance, plan: &Plan, token: &LeaderToken) -> Txn {
    let mut txn = Txn::default();
    let mut put = |key: String, revision: i64, value: Option<Vec<u8>>| {
        txn.guards.push(Guard::Revision { key: key.clone(), revision });
        txn.ops.push(match value {
            Some(value) => Op::Put { key, value },
            None => Op::Delete { key },
        });
    };
    let node_revision = |ordinal: &u32| instance.nodes.get(ordinal).map_or(0, |node| node.record.revision);
    let mut events = Vec::new();
    for write in &plan.writes {
        match write {
            Write::State(record) => {
                put(state_key(name), instance.record.as_ref().map_or(0, |r| r.revision), Some(json(record)));
            }
            Write::Node(record) => {
                put(node_key(name, record.ordinal), node_revision(&record.ordinal), Some(json::<NodeRecord>(record)));
            }
            Write::ForgetNode(ordinal) => put(node_key(name, *ordinal), node_revision(ordinal), None),
            Write::RequestDone(kind) => {
                let revision = instance.requests.get(kind).map_or(0, |request| request.revision);
                put(store::request_key(name, *kind), revision, None);
            }
            Write::Event(event) => events.push(event.clone()),
            Write::Forget { document } => forget(name, instance, *document, &mut put),
        }
    }
    if !events.is_empty() {
        let known = instance.events.as_ref();
        let merged = merge_events(known.map(|events| events.value.as_slice()), events);
        put(events_key(name), known.map_or(0, |events| events.revision), Some(json(&merged)));
    }
    if let Some(status) = plan.status.as_ref().filter(|_| plan.status_changed) {
        put(status_key(name), instance.status.as_ref().map_or(0, |status| status.revision), Some(json(status)));
    }
    if !txn.ops.is_empty() {
        txn.guards.push(Guard::Leader(token.clone()));
    }
    txn
}

fn forget(name: &str, instance: &Instance, document: Option<i64>, put: &mut impl FnMut(String, i64, Option<Vec<u8>>)) {
    if let Some(known) = instance.document.as_ref().filter(|d| document.is_some_and(|gone| d.revision <= gone)) {
        put(instance_key(name), known.revision, None);
    }
    if let Some(record) = &instance.record {
        put(state_key(name), record.revision, None);
    }
    if let Some(status) = &instance.status {
        put(status_key(name), status.revision, None);
    }
    if let Some(events) = &instance.events {
        put(events_key(name), events.revision, None);
    }
    for (ordinal, node) in &instance.nodes {
        put(node_key(name, *ordinal), node.record.revision, None);
    }
    for (kind, request) in &instance.requests {
        put(store::request_key(name, *kind), request.revision, None);
    }
}

fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("our records have no keys that JSON cannot hold")
}
