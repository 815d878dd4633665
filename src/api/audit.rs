//! Who asked for a change: recorded in the transaction that makes it, for the leader to tell. Pure.

use crate::access::Caller;
use crate::clock::now;
use crate::model::{AuditedChange, Request, RequestKind};
use crate::store::{Guard, KeyValue, Op, request_key};

/// Changes that the leader has not told of yet, and the revision of that list.
#[derive(Clone, Default)]
pub(super) struct Audit {
    changes: Vec<AuditedChange>,
    revision: i64,
}

impl Audit {
    pub(super) fn read(item: &KeyValue) -> Audit {
        let changes = Request::read(&item.value).map(|request| request.changes).unwrap_or_default();
        Audit { changes, revision: item.revision }
    }

    /// What is to be written with a change, and what must not have changed meanwhile.
    pub(super) fn add(&self, name: &str, by: &Caller, what: &str) -> (Guard, Op) {
        let key = request_key(name, RequestKind::Audit);
        let change = AuditedChange { at: now(), by: by.to_string(), what: what.to_string() };
        let mut changes = self.changes.clone();
        changes.push(change);
        let excess = changes.len().saturating_sub(Request::CHANGES_MAX);
        changes.drain(..excess);
        let value =
            serde_json::to_vec(&Request { at: now(), changes, ..Request::default() }).expect("a request is JSON");
        (Guard::Revision { key: key.clone(), revision: self.revision }, Op::Put { key, value })
    }
}
