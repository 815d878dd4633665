//! The store's part of the world: what was listed, what has changed, what we wrote ourselves. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::model::{Address, InstanceEvent, NodeRecord, RequestKind};
use crate::passwords::Secret;
use crate::reconcile::action::Write;
use crate::reconcile::documents::{may_be_told, set_document, set_request};
use crate::reconcile::framework;
use crate::reconcile::world::{Dirty, Event, Instance, Node, Session, Stored, World};
use crate::status::InstanceStatus;
use crate::store::{Change, FRAMEWORK_KEY, KeyValue, LEADER_KEY, Listing};

impl World {
    /// The writes of a plan are about to be committed: the keys that they delete may vanish, and
    /// the addresses of new nodes are taken.
    pub fn expect(&mut self, name: &str, writes: &[Write]) {
        let address = |write: &Write| match write {
            Write::Node(record) => Some(record.address.clone()),
            _ => None,
        };
        let planned: Vec<Address> = writes.iter().filter_map(address).collect();
        if planned.is_empty() {
            self.planned.remove(name)
        } else {
            self.planned.insert(name.to_string(), planned)
        };
        let begins = |write: &Write| matches!(write, Write::State(record) if record.rolling.is_some());
        if writes.iter().any(begins) {
            self.beginning.insert(name.to_string());
        } else {
            self.beginning.remove(name);
        }
        for write in writes {
            match write {
                Write::ForgetNode(ordinal) => {
                    self.forgetting.insert(crate::store::node_key(name, *ordinal), 0);
                }
                Write::Forget { .. } => {
                    self.forgetting.insert(crate::store::state_key(name), 0);
                    if let Some(instance) = self.instances.get(name) {
                        let nodes = instance.nodes.keys().map(|ordinal| crate::store::node_key(name, *ordinal));
                        let requests = instance.requests.keys().map(|kind| crate::store::request_key(name, *kind));
                        self.forgetting.extend(nodes.chain(requests).map(|key| (key, 0)));
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn listed(&mut self, listing: &Listing) -> Dirty {
        if self.store_id.is_some_and(|id| id != listing.store_id) {
            self.freeze("the store is another one than before (its id has changed)");
        } else if listing.revision < self.revision {
            let (before, after) = (self.revision, listing.revision);
            self.freeze(&format!("the store has gone back from revision {before} to {after}, as after a restore"));
        }
        let present: BTreeSet<&str> = listing.items.iter().map(|item| item.key.as_str()).collect();
        for key in self.known_keys() {
            if !present.contains(key.as_str()) {
                self.deleted(&key, listing.revision);
            }
        }
        if self.frozen.is_none() {
            self.store_id = Some(listing.store_id);
            self.revision = listing.revision;
        }
        self.secrets.clear();
        for item in &listing.items {
            self.put(item);
        }
        self.read.clear();
        Dirty::all()
    }

    fn known_keys(&self) -> Vec<String> {
        use crate::store::{events_key, instance_key, node_key, request_key, state_key, status_key};
        let mut keys = Vec::new();
        for (name, instance) in &self.instances {
            keys.extend(instance.document.is_some().then(|| instance_key(name)));
            keys.extend(instance.record.is_some().then(|| state_key(name)));
            keys.extend(instance.status.is_some().then(|| status_key(name)));
            keys.extend(instance.events.is_some().then(|| events_key(name)));
            keys.extend(instance.nodes.keys().map(|ordinal| node_key(name, *ordinal)));
            keys.extend(instance.requests.keys().map(|kind| request_key(name, *kind)));
        }
        keys
    }

    /// Stops all acting, for good: only a new start on a sound store ends it.
    pub fn freeze(&mut self, reason: &str) {
        let why = format!("{reason}. Restart the operators when the store is sound");
        if self.frozen.is_none() || self.doubt {
            (self.frozen, self.doubt) = (Some(why.clone()), false);
        }
        self.unsound.get_or_insert(why);
    }

    /// Whether acting may start again, when more is known of tasks that are not recorded.
    pub fn doubts(&self) -> bool {
        self.doubt
    }

    pub(super) fn put(&mut self, item: &KeyValue) -> Dirty {
        let Some((kind, rest)) = item.key.split_once('/') else { return Dirty::default() };
        let (name, sub) = rest.split_once('/').map_or((rest, None), |(name, sub)| (name, Some(sub)));
        if item.key == FRAMEWORK_KEY {
            let given_up = item.value.starts_with(framework::RESET.as_bytes());
            self.begins_anew |= given_up && matches!(self.session, Session::Ended(_));
        }
        if kind == "secrets" {
            return self.keep_secret(rest, Secret::parse(&item.value, item.revision).ok());
        }
        if !matches!(kind, "instances" | "state" | "nodes" | "status" | "events" | "requests") || !may_be_told(name) {
            return Dirty::default();
        }
        if self.is_over(kind, name, sub.unwrap_or_default(), item) {
            return Dirty::default();
        }
        let outcome = self.put_item(kind, name, sub, item);
        if let Err(why) = outcome {
            self.freeze(&format!("the record {} cannot be read: {why}", item.key));
        }
        self.drop_if_empty(name);
        Dirty::one(name)
    }

    /// Whether the item is of before its deletion, which is known already.
    fn is_over(&self, kind: &str, name: &str, sub: &str, item: &KeyValue) -> bool {
        let deleted = self.forgetting.get(&item.key).is_some_and(|at| item.revision <= *at);
        deleted && self.instances.get(name).is_none_or(|instance| revision_of(instance, kind, sub) == 0)
    }

    /// The keys of an instance that were to be deleted are.
    fn forgotten(&mut self, keys: impl Iterator<Item = String>, revision: i64) {
        for key in keys {
            self.forgetting.insert(key, revision);
        }
    }

    fn put_item(&mut self, kind: &str, name: &str, sub: Option<&str>, item: &KeyValue) -> Result<(), String> {
        let read = self.read.remove(&item.key).filter(|read| read.revision == item.revision);
        let instance = self.instances.entry(name.to_string()).or_default();
        match (kind, sub) {
            ("instances", None) => set_document(name, instance, item, read),
            ("state", None) => set_newer(&mut instance.record, item)?,
            // Written by us, and only for readers: unreadable ones are written anew.
            ("status", None) => set_or_reset(&mut instance.status, item),
            ("events", None) => set_or_reset(&mut instance.events, item),
            ("nodes", Some(ordinal)) => {
                let ordinal: u32 = ordinal.parse().map_err(|_| "the key does not end in a number".to_string())?;
                let record: NodeRecord = decode(&item.value)?;
                self.put_node(name, ordinal, Stored { value: record, revision: item.revision });
            }
            ("requests", Some(kind)) => set_request(instance, kind, item),
            _ => {}
        }
        Ok(())
    }

    fn put_node(&mut self, name: &str, ordinal: u32, record: Stored<NodeRecord>) {
        let task_id = record.value.task_id.clone();
        let instance = self.instances.entry(name.to_string()).or_default();
        match instance.nodes.get_mut(&ordinal) {
            Some(node) if node.record.value.task_id == task_id => {
                if node.record.revision <= record.revision {
                    node.record = record;
                    // Settings are made apart from passes: some may have been made since this was planned.
                    let NodeRecord { owned, config, .. } = &node.record.value;
                    node.configured.retain(|(k, v)| owned.get(k) != Some(v) && config.get(k) != Some(v));
                }
            }
            _ => {
                let mut node = Node::new(record);
                if let Some(stranger) = self.strangers.remove(&task_id) {
                    node.hear(stranger.update);
                }
                instance.nodes.insert(ordinal, node);
            }
        }
        self.tasks.insert(task_id, (name.to_string(), ordinal));
    }

    /// A standby shows what the store says, and judges nothing: what the leader removes is gone. Answers whether
    /// somebody else may lead now.
    pub fn takes_deletions_for_granted(&mut self, event: &Event) -> bool {
        let Event::Changed(changes) = event else { return false };
        let mut led = false;
        for change in &changes.changes {
            let key = match change {
                Change::Put(item) => &item.key,
                Change::Delete { key, .. } => {
                    self.forgetting.insert(key.clone(), 0);
                    key
                }
            };
            led |= key == LEADER_KEY;
        }
        led
    }

    pub(super) fn deleted(&mut self, key: &str, revision: i64) -> Dirty {
        let Some((kind, rest)) = key.split_once('/') else { return Dirty::default() };
        let (name, sub) = rest.split_once('/').map_or((rest, ""), |(name, sub)| (name, sub));
        if kind == "secrets" {
            return self.keep_secret(rest, None);
        }
        // Our own commits are known before the store tells of what was before them.
        let newer = |instance: &Instance| revision_of(instance, kind, sub) > revision;
        if self.instances.get(name).is_none_or(newer) {
            return Dirty::default();
        }
        match kind {
            "state" | "nodes" if self.forgetting.remove(key).is_none() => {
                // Only we delete records. The record is kept in mind: its task may run.
                self.freeze(&format!(
                    "the record {key} has vanished from the store, and the operator did not remove it"
                ));
            }
            "state" => self.edit(name, |instance| instance.record = None),
            "nodes" => {
                if let Ok(ordinal) = sub.parse() {
                    self.forget_node(name, ordinal);
                }
            }
            "instances" => self.edit(name, |instance| instance.document = None),
            "status" => self.edit(name, |instance| instance.status = None),
            "events" => self.edit(name, |instance| instance.events = None),
            "requests" => {
                self.forgetting.remove(key);
                let kind: Option<RequestKind> = serde_json::from_value(sub.into()).ok();
                self.edit(name, |instance| instance.requests.retain(|k, _| Some(*k) != kind));
            }
            _ => {}
        }
        self.drop_if_empty(name);
        Dirty::one(name)
    }

    fn edit(&mut self, name: &str, change: impl FnOnce(&mut Instance)) {
        if let Some(instance) = self.instances.get_mut(name) {
            change(instance);
        }
    }

    fn forget_node(&mut self, name: &str, ordinal: u32) {
        // The commit and the watch tell of it, in any order.
        let Some(instance) = self.instances.get_mut(name) else { return };
        if let Some(node) = instance.nodes.remove(&ordinal) {
            self.tasks.remove(&node.record.value.task_id);
            instance.former.insert(node.record.value.address);
        }
    }

    fn drop_if_empty(&mut self, name: &str) {
        if self.instances.get(name).is_some_and(Instance::is_empty) {
            self.instances.remove(name);
        }
    }

    pub(super) fn committed(
        &mut self,
        name: &str,
        writes: Vec<Write>,
        status: Option<InstanceStatus>,
        revision: i64,
    ) -> Dirty {
        let mut events = Vec::new();
        let mut gone = false;
        for write in writes {
            match write {
                Write::State(record) => self.edit(name, |i| {
                    let told = record.last_death.as_ref().map(|death| death.task_id.clone());
                    i.last_words.retain(|words| Some(&words.task_id) != told.as_ref());
                    keep_newer(&mut i.record, record, revision);
                }),
                Write::Node(record) => {
                    self.put_node(name, record.ordinal, Stored { value: record, revision });
                }
                Write::ForgetNode(ordinal) => {
                    self.forget_node(name, ordinal);
                    self.forgotten([crate::store::node_key(name, ordinal)].into_iter(), revision);
                }
                Write::Event(event) => events.push(event),
                Write::RequestDone(kind) => self.edit(name, |i| {
                    i.requests.retain(|known, request| *known != kind || request.revision > revision);
                }),
                Write::Forget { document } => {
                    gone = true;
                    self.forget(name, document, revision);
                }
            }
        }
        if !gone {
            self.edit(name, |instance| {
                // The watch may have brought them already.
                let seen = instance.events.as_ref().is_some_and(|known| known.revision >= revision);
                if !events.is_empty() && !seen {
                    let kept = merge_events(instance.events.as_ref().map(|e| e.value.as_slice()), events);
                    keep_newer(&mut instance.events, Arc::new(kept), revision);
                }
                if let Some(status) = status {
                    keep_newer(&mut instance.status, status, revision);
                }
            });
        }
        Dirty::one(name)
    }

    fn forget(&mut self, name: &str, document: Option<i64>, revision: i64) {
        let ordinals: Vec<u32> =
            self.instances.get(name).map(|i| i.nodes.keys().copied().collect()).unwrap_or_default();
        for ordinal in &ordinals {
            self.forget_node(name, *ordinal);
        }
        let nodes = ordinals.iter().map(|ordinal| crate::store::node_key(name, *ordinal));
        self.forgotten(nodes.chain([crate::store::state_key(name)]), revision);
        // A request that came after the plan was made is still there.
        let forgetting = std::mem::take(&mut self.forgetting);
        let forgotten = |kind: RequestKind| forgetting.contains_key(&crate::store::request_key(name, kind));
        self.edit(name, |instance| {
            instance.record = None;
            instance.status = None;
            instance.events = None;
            instance.requests.retain(|kind, request| request.revision > revision || !forgotten(*kind));
            if instance.document.as_ref().is_some_and(|d| document.is_some_and(|gone| d.revision <= gone)) {
                instance.document = None;
            }
        });
        self.forgetting = forgetting;
        self.drop_if_empty(name);
    }
}

/// The revision of what is known of a key of an instance; 0: nothing.
fn revision_of(instance: &Instance, kind: &str, sub: &str) -> i64 {
    let request =
        || serde_json::from_value::<RequestKind>(sub.into()).ok().and_then(|kind| instance.requests.get(&kind));
    let node = || sub.parse::<u32>().ok().and_then(|ordinal| instance.nodes.get(&ordinal));
    match kind {
        "instances" => instance.document.as_ref().map(|document| document.revision),
        "state" => instance.record.as_ref().map(|record| record.revision),
        "status" => instance.status.as_ref().map(|status| status.revision),
        "events" => instance.events.as_ref().map(|events| events.revision),
        "nodes" => node().map(|node| node.record.revision),
        "requests" => request().map(|request| request.revision),
        _ => None,
    }
    .unwrap_or(0)
}

/// The newest events of an instance that are kept.
pub const EVENTS_MAX: usize = 50;

/// Appends events; one that repeats the last of its object and reason is counted instead.
pub fn merge_events(kept: Option<&[InstanceEvent]>, new: Vec<InstanceEvent>) -> Vec<InstanceEvent> {
    let mut events = kept.unwrap_or_default().to_vec();
    for event in new {
        let same =
            |e: &InstanceEvent| e.reason == event.reason && e.object == event.object && e.message == event.message;
        if let Some(index) = events.iter().position(same) {
            let old = events.remove(index);
            events.push(InstanceEvent { first_at: old.first_at, count: old.count.saturating_add(1), ..event });
        } else {
            events.push(event);
        }
    }
    let excess = events.len().saturating_sub(EVENTS_MAX);
    events.drain(..excess);
    events
}

fn set_or_reset<T: DeserializeOwned + Default>(slot: &mut Option<Stored<T>>, item: &KeyValue) {
    if set_newer(slot, item).is_err() {
        *slot = Some(Stored { value: T::default(), revision: item.revision });
    }
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|e| e.to_string())
}

fn set_newer<T: DeserializeOwned>(slot: &mut Option<Stored<T>>, item: &KeyValue) -> Result<(), String> {
    if slot.as_ref().is_some_and(|known| known.revision >= item.revision) {
        return Ok(()); // Mostly our own write, of which the watch tells.
    }
    keep_newer(slot, decode(&item.value)?, item.revision);
    Ok(())
}

fn keep_newer<T>(slot: &mut Option<Stored<T>>, value: T, revision: i64) {
    if slot.as_ref().is_none_or(|known| known.revision <= revision) {
        *slot = Some(Stored { value, revision });
    }
}
