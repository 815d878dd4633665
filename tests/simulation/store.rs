//! A toy store: keys with revisions, guarded transactions, and a log that watches read. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use redisctl::model::{InstanceRecord, NodeRecord};
use redisctl::status::InstanceStatus;
use redisctl::store::{Change, Changes, Guard, KeyValue, LeaderToken, Listing, Op, Txn};

/// Why a transaction was not done.
pub enum Refused {
    Conflict(String),
    NotLeader,
}

/// What the store knows of an instance, decoded once for the judge.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    pub record: Option<InstanceRecord>,
    pub nodes: BTreeMap<u32, NodeRecord>,
    pub status: Option<InstanceStatus>,
    pub document: Option<i64>,
}

#[derive(Clone, Debug, Default)]
pub struct Store {
    pub items: BTreeMap<String, KeyValue>,
    pub revision: i64,
    pub leader: i64,
    pub instances: BTreeMap<String, Stored>,
    log: Vec<Changes>,
}

impl Store {
    pub fn listing(&self) -> Listing {
        Listing { items: self.items.values().cloned().collect(), revision: self.revision, store_id: 7 }
    }

    /// The changes of the first transaction after that revision.
    pub fn next_changes(&self, after: i64) -> Option<&Changes> {
        let at = self.log.partition_point(|changes| changes.revision <= after);
        self.log.get(at)
    }

    pub fn elect(&mut self) -> LeaderToken {
        self.revision += 1;
        self.leader = self.revision;
        LeaderToken { created: self.leader }
    }

    /// Revisions count from this number on.
    pub fn count_from(&mut self, first: i64) {
        self.revision = first;
    }

    /// All that the future depends on, as text. `watched`: what a watch has told already. Of statuses only
    /// what clients read, of events nothing: they change nothing but what is written into themselves.
    pub fn fingerprint(&self, watched: Option<i64>, out: &mut String) {
        let _ = write!(out, "{} {:?} ", self.leader, watched.map(|watched| watched.min(self.revision)));
        let told = |key: &str| ["state/", "nodes/", "requests/", "operator/"].iter().any(|kind| key.starts_with(kind));
        let items = self.items.values().filter(|item| told(&item.key));
        for item in items {
            let _ = write!(out, "{} {} {} ", item.key, item.revision, String::from_utf8_lossy(&item.value));
        }
        for stored in self.instances.values() {
            let status = stored.status.as_ref().map(|status| (status.phase, &status.master, &status.failover));
            let _ = write!(out, "{:?} {status:?} ", stored.document);
        }
        let ahead = self.log.iter().filter(|changes| watched.is_some_and(|watched| changes.revision > watched));
        for changes in ahead {
            let keys = changes.changes.iter().map(|change| match change {
                Change::Put(item) => format!("{} {}", item.key, item.revision),
                Change::Delete { key, revision } => format!("-{key} {revision}"),
            });
            let _ = write!(out, "{:?}", keys.collect::<Vec<_>>());
        }
    }

    /// Nobody leads any more.
    pub fn vacate(&mut self) {
        self.revision += 1;
        self.leader = 0;
    }

    pub fn revision_of(&self, key: &str) -> i64 {
        self.items.get(key).map_or(0, |item| item.revision)
    }

    pub fn commit(&mut self, txn: &Txn) -> Result<i64, Refused> {
        for guard in &txn.guards {
            match guard {
                Guard::Leader(token) if token.created != self.leader => return Err(Refused::NotLeader),
                Guard::Revision { key, revision } if self.revision_of(key) != *revision => {
                    return Err(Refused::Conflict(format!("{key}: {} is not {revision}", self.revision_of(key))));
                }
                _ => {}
            }
        }
        self.write(txn.ops.clone());
        Ok(self.revision)
    }

    pub fn put(&mut self, key: &str, value: impl Into<Vec<u8>>) {
        self.write(vec![Op::Put { key: key.to_string(), value: value.into() }]);
    }

    pub fn delete(&mut self, key: &str) {
        self.write(vec![Op::Delete { key: key.to_string() }]);
    }

    fn write(&mut self, ops: Vec<Op>) {
        self.revision += 1;
        let revision = self.revision;
        let mut changes = Vec::new();
        for op in ops {
            match op {
                Op::Put { key, value } => {
                    let created = self.items.get(&key).map_or(revision, |item| item.created);
                    let item = KeyValue { key: key.clone(), value, revision, created };
                    self.decode(&key, Some(&item));
                    self.items.insert(key, item.clone());
                    changes.push(Change::Put(item));
                }
                Op::Delete { key } => {
                    if self.items.remove(&key).is_some() {
                        self.decode(&key, None);
                        changes.push(Change::Delete { key, revision });
                    }
                }
            }
        }
        if !changes.is_empty() {
            self.log.push(Changes { changes, revision });
        }
    }

    fn decode(&mut self, key: &str, item: Option<&KeyValue>) {
        let Some((kind, rest)) = key.split_once('/') else { return };
        let (name, sub) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(kind, "instances" | "state" | "nodes" | "status") {
            return;
        }
        let stored = self.instances.entry(name.to_string()).or_default();
        let value = item.map(|item| item.value.as_slice());
        match kind {
            "instances" => stored.document = item.map(|item| item.revision),
            "state" => stored.record = value.map(|v| serde_json::from_slice(v).unwrap()),
            "status" => stored.status = value.map(|v| serde_json::from_slice(v).unwrap()),
            _ => {
                let ordinal = sub.parse().unwrap();
                match value {
                    Some(value) => drop(stored.nodes.insert(ordinal, serde_json::from_slice(value).unwrap())),
                    None => drop(stored.nodes.remove(&ordinal)),
                }
            }
        }
    }

    /// Loses keys as if they had never been.
    pub fn lose(&mut self, which: impl Fn(&str) -> bool) {
        let keys: Vec<String> = self.items.keys().filter(|key| which(key)).cloned().collect();
        for key in keys {
            self.delete(&key);
        }
    }

    /// The record of a task's node.
    pub fn node(&self, task_id: &str) -> Option<&NodeRecord> {
        let (name, ordinal) = redisctl::model::parse_task_id(task_id)?;
        self.instances.get(name)?.nodes.get(&ordinal).filter(|node| node.task_id == task_id)
    }
}
