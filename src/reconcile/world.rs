//! The world: everything that has been learned, as the fold of all events. Pure.
//!
//! [`World::apply`] is the only thing that changes it. It answers which instances must be looked
//! at again; what happened is otherwise forgotten: a pass reads the state, not the event.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;

use crate::model::{
    Answer, InstanceEvent, InstanceRecord, Meaning, MesosEvent, NoAnswer, NodeRecord, Probe, Request, RequestKind,
    TaskUpdate, Timestamp, parse_task_id,
};
use crate::placement::Pool;
use crate::reconcile::action::Write;
use crate::spec::{self, RedisInstance};
use crate::status::InstanceStatus;
use crate::store::{Change, KeyValue, Listing};

/// Updates kept per node until they are acknowledged. Mesos sends one at a time for a task, so more
/// than a few are repeats.
const UNACKED_MAX: usize = 8;

/// Something learned.
#[derive(Debug)]
pub enum Event {
    /// All of the store, at one revision.
    Listed(Listing),
    /// The store has changed.
    Changed(crate::store::Changes),
    /// From the Mesos session.
    Mesos(MesosEvent),
    /// From the prober.
    Probed(Probe),
    /// A pass's writes were committed.
    Committed {
        /// The instance.
        name: String,
        /// What was written.
        writes: Vec<Write>,
        /// The status that was written along.
        status: Option<InstanceStatus>,
        /// At this revision.
        revision: i64,
    },
    /// Something was done.
    Noted(Note),
}

/// Something was done to a task: kept in mind, so that it is not repeated while its effect is awaited.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The task.
    pub task_id: String,
    /// What was done.
    pub done: Done,
}

/// What was done to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// An ACCEPT with it was handed to the session; false: it was not.
    Launched(bool),
    /// A KILL was sent.
    Killed,
    /// The node was told to follow the master, or to try it again.
    Pointed,
    /// These settings were made by CONFIG SET.
    Configured(Vec<(String, String)>),
    /// The update with this uuid was acknowledged.
    Acknowledged(String),
}

/// Which instances must be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// All of them.
    pub all: bool,
    /// These.
    pub names: BTreeSet<String>,
}

impl Dirty {
    fn one(name: &str) -> Dirty {
        Dirty { all: false, names: BTreeSet::from([name.to_string()]) }
    }
    fn all() -> Dirty {
        Dirty { all: true, names: BTreeSet::new() }
    }
    /// Both.
    pub fn merge(&mut self, other: Dirty) {
        self.all |= other.all;
        self.names.extend(other.names);
    }
}

/// A stored value and its revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<T> {
    /// The value.
    pub value: T,
    /// The revision of its last write; 0: not stored.
    pub revision: i64,
}

/// The user's document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its revision.
    pub revision: i64,
    /// What it says, or what is wrong with it.
    pub parsed: Result<RedisInstance, String>,
}

/// Everything known of an instance.
#[derive(Debug, Default)]
pub struct Instance {
    /// What the user wants.
    pub document: Option<Document>,
    /// What the operator has recorded.
    pub record: Option<Stored<InstanceRecord>>,
    /// Its nodes, by ordinal.
    pub nodes: BTreeMap<u32, Node>,
    /// The status as stored.
    pub status: Option<Stored<InstanceStatus>>,
    /// The events as stored, oldest first.
    pub events: Option<Stored<std::sync::Arc<Vec<InstanceEvent>>>>,
    /// Open requests.
    pub requests: BTreeMap<RequestKind, Stored<Request>>,
}

impl Instance {
    fn is_empty(&self) -> bool {
        self.document.is_none()
            && self.record.is_none()
            && self.nodes.is_empty()
            && self.status.is_none()
            && self.events.is_none()
            && self.requests.is_empty()
    }
}

/// Everything known of a node.
#[derive(Debug)]
pub struct Node {
    /// As stored.
    pub record: Stored<NodeRecord>,
    /// The newest news from Mesos.
    pub update: Option<TaskUpdate>,
    /// Updates that wait for their acknowledgement.
    pub unacked: Vec<TaskUpdate>,
    /// Mesos or the node itself has been heard of it since the subscription began.
    pub heard: bool,
    /// The newest good answer to a probe, and when.
    pub answer: Option<(Answer, Timestamp)>,
    /// No answer since then, and why.
    pub silent: Option<(NoAnswer, Timestamp)>,
    /// The last KILL.
    pub killed_at: Option<Timestamp>,
    /// The last REPLICAOF.
    pub pointed_at: Option<Timestamp>,
    /// Settings applied by CONFIG SET and not recorded yet.
    pub configured: Vec<(String, String)>,
}

impl Node {
    fn new(record: Stored<NodeRecord>) -> Node {
        Node {
            record,
            update: None,
            unacked: Vec::new(),
            heard: false,
            answer: None,
            silent: None,
            killed_at: None,
            pointed_at: None,
            configured: Vec::new(),
        }
    }

    fn hear(&mut self, update: TaskUpdate) {
        self.heard = true;
        if update.uuid.is_some() && !self.unacked.iter().any(|u| u.uuid == update.uuid) {
            self.unacked.truncate(UNACKED_MAX - 1);
            self.unacked.push(update.clone());
        }
        // An answer to RECONCILE that overtook nothing can still be older than a death we know of.
        let known_dead = self.update.as_ref().is_some_and(|u| u.state.meaning() == Meaning::Dead);
        let dead = update.state.meaning() == Meaning::Dead;
        let returned = update.reason.as_deref() == Some("REASON_AGENT_REREGISTERED");
        if !known_dead || dead || returned {
            self.update = Some(update);
        }
    }
}

/// A task that bears our marks but is not recorded.
#[derive(Clone, Debug)]
pub struct Stranger {
    /// The newest news of it.
    pub update: TaskUpdate,
    /// The last KILL.
    pub killed_at: Option<Timestamp>,
    /// The update has been acknowledged, or needs no acknowledgement.
    pub acknowledged: bool,
}

/// The Mesos session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Session {
    /// Not subscribed, for this reason.
    Disconnected(String),
    /// Subscribed.
    Subscribed {
        /// Names this subscription: calls made for another are void.
        subscription: u64,
        /// Since when.
        since: Timestamp,
    },
    /// Over for good.
    Ended(String),
}

/// Everything that has been learned.
#[derive(Debug)]
pub struct World {
    /// All instances that are declared or recorded.
    pub instances: BTreeMap<String, Instance>,
    /// What is on offer.
    pub pool: Pool,
    /// The Mesos session.
    pub session: Session,
    /// The framework id that the master knows us by.
    pub framework_id: Option<String>,
    /// Tasks of ours that are not recorded.
    pub strangers: BTreeMap<String, Stranger>,
    /// The store's revision up to which everything has been seen.
    pub revision: i64,
    /// Which store that is; `None` before the first listing.
    pub store_id: Option<u64>,
    /// Set: nothing is launched or killed, for this reason.
    pub frozen: Option<String>,
    /// Keys whose deletion is our own doing.
    forgetting: BTreeSet<String>,
    tasks: BTreeMap<String, (String, u32)>,
}

impl Default for World {
    fn default() -> Self {
        World {
            instances: BTreeMap::new(),
            pool: Pool::default(),
            session: Session::Disconnected("not connected yet".to_string()),
            framework_id: None,
            strangers: BTreeMap::new(),
            revision: 0,
            store_id: None,
            frozen: None,
            forgetting: BTreeSet::new(),
            tasks: BTreeMap::new(),
        }
    }
}

impl World {
    /// Knows nothing yet but which store this process has seen, and up to which revision: one that
    /// has gone back since is noticed.
    pub fn resuming(seen: Option<(u64, i64)>, framework_id: Option<String>) -> World {
        let (store_id, revision) = seen.map_or((None, 0), |(id, revision)| (Some(id), revision));
        World { store_id, revision, framework_id, ..World::default() }
    }

    /// Which store has been seen, and up to which revision.
    pub fn seen(&self) -> Option<(u64, i64)> {
        self.store_id.map(|id| (id, self.revision))
    }

    /// Folds in one event; answers which instances must be looked at again.
    pub fn apply(&mut self, event: Event, now: Timestamp) -> Dirty {
        match event {
            Event::Listed(listing) => self.listed(listing),
            Event::Changed(changes) => {
                let mut dirty = Dirty::default();
                for change in changes.changes {
                    dirty.merge(match change {
                        Change::Put(item) => self.put(item),
                        Change::Delete { key, .. } => self.deleted(&key),
                    });
                }
                self.revision = self.revision.max(changes.revision);
                dirty
            }
            Event::Mesos(event) => self.mesos(event, now),
            Event::Probed(probe) => self.probed(probe),
            Event::Committed { name, writes, status, revision } => self.committed(&name, writes, status, revision),
            Event::Noted(note) => self.noted(note, now),
        }
    }

    /// The node of a task.
    pub fn node_of(&mut self, task_id: &str) -> Option<(&str, &mut Node)> {
        let (name, ordinal) = self.tasks.get(task_id)?;
        let node = self.instances.get_mut(name)?.nodes.get_mut(ordinal)?;
        Some((name, node))
    }

    /// The writes of a plan are about to be committed: the keys that they delete may vanish.
    pub fn expect(&mut self, name: &str, writes: &[Write]) {
        for write in writes {
            match write {
                Write::ForgetNode(ordinal) => {
                    self.forgetting.insert(crate::store::node_key(name, *ordinal));
                }
                Write::Forget { .. } => {
                    self.forgetting.insert(crate::store::state_key(name));
                    for ordinal in self.instances.get(name).into_iter().flat_map(|i| i.nodes.keys()) {
                        self.forgetting.insert(crate::store::node_key(name, *ordinal));
                    }
                }
                _ => {}
            }
        }
    }

    // -----------------------------------------------------------------------------------------
    // The store

    fn listed(&mut self, listing: Listing) -> Dirty {
        if self.store_id.is_some_and(|id| id != listing.store_id) {
            self.freeze("the store is another one than before (its id has changed)");
        } else if listing.revision < self.revision {
            let (before, after) = (self.revision, listing.revision);
            self.freeze(&format!(
                "the store has gone back from revision {before} to {after}, as after a restore from a backup"
            ));
        }
        let present: BTreeSet<&str> = listing.items.iter().map(|item| item.key.as_str()).collect();
        for key in self.known_keys() {
            if !present.contains(key.as_str()) {
                self.deleted(&key);
            }
        }
        if self.frozen.is_none() {
            self.store_id = Some(listing.store_id);
            self.revision = listing.revision;
        }
        for item in listing.items {
            self.put(item);
        }
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
        if self.frozen.is_none() {
            self.frozen = Some(format!("{reason}. Restart the operator when the store is sound"));
        }
    }

    fn put(&mut self, item: KeyValue) -> Dirty {
        let Some((kind, rest)) = item.key.split_once('/') else { return Dirty::default() };
        let (name, sub) = rest.split_once('/').map_or((rest, None), |(name, sub)| (name, Some(sub)));
        if !matches!(kind, "instances" | "state" | "nodes" | "status" | "events" | "requests") || name.is_empty() {
            return Dirty::default();
        }
        let outcome = self.put_item(kind, name, sub, &item);
        if let Err(why) = outcome {
            self.freeze(&format!("the record {} cannot be read: {why}", item.key));
        }
        Dirty::one(name)
    }

    fn put_item(&mut self, kind: &str, name: &str, sub: Option<&str>, item: &KeyValue) -> Result<(), String> {
        let instance = self.instances.entry(name.to_string()).or_default();
        match (kind, sub) {
            ("instances", None) => {
                if instance.document.as_ref().is_none_or(|d| d.revision < item.revision) {
                    instance.document =
                        Some(Document { revision: item.revision, parsed: parse_document(name, &item.value) });
                }
            }
            ("state", None) => set_newer(&mut instance.record, item)?,
            ("status", None) => {
                // Written by us, and only for readers: an unreadable one is written anew.
                if set_newer(&mut instance.status, item).is_err() {
                    instance.status = Some(Stored { value: InstanceStatus::default(), revision: item.revision });
                }
            }
            ("events", None) => {
                if set_newer(&mut instance.events, item).is_err() {
                    instance.events = Some(Stored { value: std::sync::Arc::default(), revision: item.revision });
                }
            }
            ("nodes", Some(ordinal)) => {
                let ordinal: u32 = ordinal.parse().map_err(|_| "the key does not end in a number".to_string())?;
                let record: NodeRecord = decode(&item.value)?;
                self.put_node(name, ordinal, Stored { value: record, revision: item.revision });
            }
            ("requests", Some(kind)) => {
                let kind: RequestKind =
                    serde_json::from_value(kind.into()).map_err(|_| format!("no request is called {kind:?}"))?;
                instance.requests.insert(kind, Stored { value: decode(&item.value)?, revision: item.revision });
            }
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
                    node.configured.clear(); // One pass at a time: what was set before is recorded now.
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

    fn deleted(&mut self, key: &str) -> Dirty {
        let Some((kind, rest)) = key.split_once('/') else { return Dirty::default() };
        let (name, sub) = rest.split_once('/').map_or((rest, ""), |(name, sub)| (name, sub));
        if !self.instances.contains_key(name) {
            return Dirty::default();
        }
        match kind {
            "state" | "nodes" if !self.forgetting.remove(key) => {
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
        if let Some(node) = self.instances.get_mut(name).and_then(|i| i.nodes.remove(&ordinal)) {
            self.tasks.remove(&node.record.value.task_id);
        }
    }

    fn drop_if_empty(&mut self, name: &str) {
        if self.instances.get(name).is_some_and(Instance::is_empty) {
            self.instances.remove(name);
        }
    }

    fn committed(&mut self, name: &str, writes: Vec<Write>, status: Option<InstanceStatus>, revision: i64) -> Dirty {
        let mut events = Vec::new();
        let mut gone = false;
        for write in writes {
            match write {
                Write::State(record) => self.edit(name, |i| keep_newer(&mut i.record, record, revision)),
                Write::Node(record) => {
                    self.put_node(name, record.ordinal, Stored { value: record, revision });
                }
                Write::ForgetNode(ordinal) => self.forget_node(name, ordinal),
                Write::Event(event) => events.push(event),
                Write::RequestDone(kind) => self.edit(name, |i| drop(i.requests.remove(&kind))),
                Write::Forget { document } => {
                    gone = true;
                    self.forget(name, document);
                }
            }
        }
        if !gone {
            self.edit(name, |instance| {
                // The watch may have brought them already.
                let seen = instance.events.as_ref().is_some_and(|known| known.revision >= revision);
                if !events.is_empty() && !seen {
                    let kept = merge_events(instance.events.as_ref().map(|e| e.value.as_slice()), events);
                    keep_newer(&mut instance.events, std::sync::Arc::new(kept), revision);
                }
                if let Some(status) = status {
                    keep_newer(&mut instance.status, status, revision);
                }
            });
        }
        Dirty::one(name)
    }

    fn forget(&mut self, name: &str, document: Option<i64>) {
        let ordinals: Vec<u32> =
            self.instances.get(name).map(|i| i.nodes.keys().copied().collect()).unwrap_or_default();
        for ordinal in ordinals {
            self.forget_node(name, ordinal);
        }
        self.edit(name, |instance| {
            instance.record = None;
            instance.status = None;
            instance.events = None;
            instance.requests.clear();
            if instance.document.as_ref().is_some_and(|d| document.is_some_and(|gone| d.revision <= gone)) {
                instance.document = None;
            }
        });
        self.drop_if_empty(name);
    }

    // -----------------------------------------------------------------------------------------
    // Mesos

    fn mesos(&mut self, event: MesosEvent, now: Timestamp) -> Dirty {
        match event {
            MesosEvent::Subscribed { framework_id, subscription } => {
                self.session = Session::Subscribed { subscription, since: now };
                self.framework_id = Some(framework_id);
                self.lose_sight();
                Dirty::all()
            }
            MesosEvent::Disconnected { reason } => {
                self.session = Session::Disconnected(reason);
                self.lose_sight();
                Dirty::all()
            }
            MesosEvent::Ended { message } => {
                self.session = Session::Ended(message);
                self.lose_sight();
                Dirty::all()
            }
            MesosEvent::Offers(offers) => {
                for offer in offers {
                    self.pool.add(offer);
                }
                Dirty::default() // Those who wait for offers are known to the controller.
            }
            MesosEvent::Rescind(offer_id) => {
                self.pool.remove(&offer_id);
                Dirty::default()
            }
            MesosEvent::Update(update) => self.updated(update),
            MesosEvent::AgentFailed(_) => Dirty::default(), // A hint; the updates say the same.
            MesosEvent::CallFailed { task_ids, .. } => {
                for task_id in &task_ids {
                    if let Some((_, node)) = self.node_of(task_id) {
                        node.heard = false; // Whether it was launched is to be asked.
                    }
                }
                Dirty::default()
            }
        }
    }

    /// Offers are void, and what is known of tasks may be old: each is to be asked for again.
    fn lose_sight(&mut self) {
        self.pool.clear();
        self.strangers.clear();
        for node in self.instances.values_mut().flat_map(|i| i.nodes.values_mut()) {
            node.heard = false;
            node.killed_at = None;
        }
    }

    fn updated(&mut self, update: TaskUpdate) -> Dirty {
        if let Some((name, node)) = self.node_of(&update.task_id) {
            let dirty = Dirty::one(name);
            node.hear(update);
            return dirty;
        }
        let acknowledged = update.uuid.is_none();
        if update.state.meaning() == Meaning::Dead && acknowledged {
            self.strangers.remove(&update.task_id);
            return Dirty::default();
        }
        let known = self.strangers.get(&update.task_id);
        let stranger = Stranger { killed_at: known.and_then(|s| s.killed_at), acknowledged, update };
        self.strangers.insert(stranger.update.task_id.clone(), stranger);
        Dirty::default()
    }

    // -----------------------------------------------------------------------------------------
    // Redis, and our own acts

    fn probed(&mut self, probe: Probe) -> Dirty {
        let Some((name, node)) = self.node_of(&probe.task_id) else { return Dirty::default() };
        let dirty = Dirty::one(name);
        match probe.result {
            Ok(answer) => {
                node.heard = true;
                node.silent = None;
                let same = node.answer.as_ref().is_some_and(|(known, _)| *known == answer);
                node.answer = Some((answer, probe.at));
                if same { Dirty::default() } else { dirty }
            }
            Err(why) => {
                let since = node.silent.map_or(probe.at, |(_, since)| since);
                let news = node.silent.is_none_or(|(known, _)| known != why);
                node.silent = Some((why, since));
                if news { dirty } else { Dirty::default() }
            }
        }
    }

    fn noted(&mut self, note: Note, now: Timestamp) -> Dirty {
        let Note { task_id, done } = note;
        if let Some(stranger) = self.strangers.get_mut(&task_id) {
            match done {
                Done::Killed => stranger.killed_at = Some(now),
                Done::Acknowledged(_) => stranger.acknowledged = true,
                _ => {}
            }
            return Dirty::default();
        }
        let Some((name, node)) = self.node_of(&task_id) else { return Dirty::default() };
        let dirty = Dirty::one(name);
        match done {
            Done::Launched(sent) => node.heard = sent || node.update.is_some(),
            Done::Killed => node.killed_at = Some(now),
            Done::Pointed => node.pointed_at = Some(now),
            Done::Configured(settings) => node.configured.extend(settings),
            Done::Acknowledged(uuid) => node.unacked.retain(|u| u.uuid.as_deref() != Some(&uuid)),
        }
        dirty
    }

    /// Whether an unrecorded task is one that was superseded: its instance is recorded, and has
    /// counted beyond it. Otherwise the store has forgotten something.
    pub fn superseded(&self, task_id: &str) -> bool {
        parse_task_id(task_id).is_some_and(|(name, ordinal)| {
            let record = self.instances.get(name).and_then(|i| i.record.as_ref());
            record.is_some_and(|record| ordinal < record.value.next_ordinal)
        })
    }
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

fn parse_document(name: &str, text: &[u8]) -> Result<RedisInstance, String> {
    let instance = spec::parse_document(text).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        errors.join("; ")
    })?;
    if instance.metadata.name == name {
        Ok(instance)
    } else {
        let found = &instance.metadata.name;
        Err(format!("metadata.name: {found:?} differs from the name in the key, which is {name:?}"))
    }
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|e| e.to_string())
}

fn set_newer<T: DeserializeOwned>(slot: &mut Option<Stored<T>>, item: &KeyValue) -> Result<(), String> {
    keep_newer(slot, decode(&item.value)?, item.revision);
    Ok(())
}

fn keep_newer<T>(slot: &mut Option<Stored<T>>, value: T, revision: i64) {
    if slot.as_ref().is_none_or(|known| known.revision <= revision) {
        *slot = Some(Stored { value, revision });
    }
}
