//! The world: everything that has been learned, as the fold of all events. Pure.
//!
//! [`World::apply`] is the only thing that changes it. It answers which instances must be looked
//! at again; what happened is otherwise forgotten: a pass reads the state, not the event.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;

use crate::model::{
    Address, Amount, Answer, InstanceEvent, InstanceRecord, Meaning, MesosEvent, NoAnswer, NodeRecord, Offer, Probe,
    Request, RequestKind, Role, TaskUpdate, Timestamp, launch_time, parse_task_id,
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
    /// The key of a record that must be there, as other records show, and is not.
    fn lost_record(&self, name: &str) -> Option<String> {
        let Some(record) = self.record.as_ref().map(|record| &record.value) else {
            return (!self.nodes.is_empty()).then(|| crate::store::state_key(name));
        };
        let master = record.master.filter(|ordinal| !record.deleting && !self.nodes.contains_key(ordinal));
        master.map(|ordinal| crate::store::node_key(name, ordinal))
    }

    /// The revision of what is known of a key; 0: nothing.
    fn revision_of(&self, kind: &str, sub: &str) -> i64 {
        let request = || serde_json::from_value::<RequestKind>(sub.into()).ok().and_then(|kind| self.requests.get(&kind));
        let node = || sub.parse::<u32>().ok().and_then(|ordinal| self.nodes.get(&ordinal));
        match kind {
            "instances" => self.document.as_ref().map(|document| document.revision),
            "state" => self.record.as_ref().map(|record| record.revision),
            "status" => self.status.as_ref().map(|status| status.revision),
            "events" => self.events.as_ref().map(|events| events.revision),
            "nodes" => node().map(|node| node.record.revision),
            "requests" => request().map(|request| request.revision),
            _ => None,
        }
        .unwrap_or(0)
    }

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
    /// Known since.
    pub since: Timestamp,
    /// The last KILL.
    pub killed_at: Option<Timestamp>,
    /// The last question after it.
    pub asked_at: Option<Timestamp>,
    /// The update has been acknowledged, or needs no acknowledgement.
    pub acknowledged: bool,
}

impl Stranger {
    /// It runs, or is about to, as far as Mesos knows.
    pub fn lives(&self) -> bool {
        !matches!(self.update.state.meaning(), Meaning::Dead | Meaning::Unsure)
    }
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
    /// That is so because of tasks that are not recorded. When they prove dead, all was well.
    doubt: bool,
    /// Keys whose deletion is our own doing.
    forgetting: BTreeSet<String>,
    /// Where nodes of each instance will listen whose records are being written.
    planned: BTreeMap<String, Vec<Address>>,
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
            doubt: false,
            forgetting: BTreeSet::new(),
            planned: BTreeMap::new(),
            tasks: BTreeMap::new(),
        }
    }
}

impl World {
    /// Folds in one event; answers which instances must be looked at again.
    pub fn apply(&mut self, event: Event, now: Timestamp) -> Dirty {
        let frozen = self.frozen.is_some();
        let dirty = self.fold(event, now);
        self.judge_strangers();
        if frozen == self.frozen.is_some() { dirty } else { Dirty::all() }
    }

    fn fold(&mut self, event: Event, now: Timestamp) -> Dirty {
        match event {
            Event::Listed(listing) => self.listed(listing),
            Event::Changed(changes) => {
                let mut dirty = Dirty::default();
                for change in changes.changes {
                    dirty.merge(match change {
                        Change::Put(item) => self.put(item),
                        Change::Delete { key, revision } => self.deleted(&key, revision),
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

    /// The writes of a plan are about to be committed: the keys that they delete may vanish, and
    /// the addresses of new nodes are taken.
    pub fn expect(&mut self, name: &str, writes: &[Write]) {
        let address = |write: &Write| match write {
            Write::Node(record) => Some(record.address.clone()),
            _ => None,
        };
        let planned: Vec<Address> = writes.iter().filter_map(address).collect();
        if planned.is_empty() { self.planned.remove(name) } else { self.planned.insert(name.to_string(), planned) };
        for write in writes {
            match write {
                Write::ForgetNode(ordinal) => {
                    self.forgetting.insert(crate::store::node_key(name, *ordinal));
                }
                Write::Forget { .. } => {
                    self.forgetting.insert(crate::store::state_key(name));
                    if let Some(instance) = self.instances.get(name) {
                        let nodes = instance.nodes.keys().map(|ordinal| crate::store::node_key(name, *ordinal));
                        let requests = instance.requests.keys().map(|kind| crate::store::request_key(name, *kind));
                        self.forgetting.extend(nodes.chain(requests));
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
            self.freeze(&format!("the store has gone back from revision {before} to {after}, as after a restore from a backup"));
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
        for item in listing.items {
            self.put(item);
        }
        let lost = self.instances.iter().find_map(|(name, instance)| instance.lost_record(name));
        if let Some(key) = lost {
            self.freeze(&format!("the store has lost the record {key}"));
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
        if self.frozen.is_none() || self.doubt {
            self.frozen = Some(reason.to_string());
            self.doubt = false;
        }
    }

    /// Whether acting may start again, when it is known more of tasks that are not recorded.
    pub fn doubts(&self) -> bool {
        self.doubt
    }

    /// A task of ours that runs, and is neither recorded nor superseded: the store has lost
    /// something. Nothing is done until it is known that the task does not run: an update may be
    /// old, and of a task whose record was removed after its death.
    fn judge_strangers(&mut self) {
        if self.store_id.is_none() || (self.frozen.is_some() && !self.doubt) {
            return;
        }
        let unknown = self.strangers.iter().find(|(task_id, stranger)| stranger.lives() && !self.superseded(task_id));
        self.frozen = unknown.map(|(task_id, stranger)| {
            let state = stranger.update.state;
            format!("task {task_id} runs ({state}), but the store does not know it: it has lost records or was restored from a backup")
        });
        self.doubt = self.frozen.is_some();
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
                    instance.document = Some(Document { revision: item.revision, parsed: parse_document(name, &item.value) });
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
                let request = Stored { value: decode(&item.value)?, revision: item.revision };
                if instance.requests.get(&kind).is_none_or(|known| known.revision <= request.revision) {
                    instance.requests.insert(kind, request);
                }
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

    fn deleted(&mut self, key: &str, revision: i64) -> Dirty {
        let Some((kind, rest)) = key.split_once('/') else { return Dirty::default() };
        let (name, sub) = rest.split_once('/').map_or((rest, ""), |(name, sub)| (name, sub));
        // Our own commits are known before the store tells of what was before them.
        let newer = |instance: &Instance| instance.revision_of(kind, sub) > revision;
        if self.instances.get(name).is_none_or(newer) {
            return Dirty::default();
        }
        match kind {
            "state" | "nodes" if !self.forgetting.remove(key) => {
                // Only we delete records. The record is kept in mind: its task may run.
                self.freeze(&format!("the record {key} has vanished from the store, and the operator did not remove it"));
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
                    keep_newer(&mut instance.events, std::sync::Arc::new(kept), revision);
                }
                if let Some(status) = status {
                    keep_newer(&mut instance.status, status, revision);
                }
            });
        }
        Dirty::one(name)
    }

    fn forget(&mut self, name: &str, document: Option<i64>, revision: i64) {
        let ordinals: Vec<u32> = self.instances.get(name).map(|i| i.nodes.keys().copied().collect()).unwrap_or_default();
        for ordinal in ordinals {
            self.forget_node(name, ordinal);
        }
        // A request that came after the plan was made is still there.
        let forgetting = std::mem::take(&mut self.forgetting);
        let forgotten = |kind: RequestKind| forgetting.contains(&crate::store::request_key(name, kind));
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
            MesosEvent::Offers(mut offers) => {
                let taken = self.taken_addresses();
                for offer in &mut offers {
                    withhold_ports(offer, &taken);
                }
                for offer in offers {
                    self.pool.add(offer);
                }
                Dirty::default() // Those who wait for offers are known to the controller.
            }
            MesosEvent::Rescind(offer_id) => {
                self.pool.remove(&offer_id);
                Dirty::default()
            }
            MesosEvent::Update(update) => self.updated(update, now),
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

    /// Where recorded nodes listen, and whom they follow. Mesos may offer the port of a node that has
    /// died before that is learned, and replicas follow an address, whoever listens there: a stranger
    /// on a dead master's port would wipe them.
    fn taken_addresses(&self) -> BTreeSet<Address> {
        let nodes = self.instances.values().flat_map(|instance| instance.nodes.values());
        let followed = |node: &Node| node.answer.as_ref().and_then(|(answer, _)| answer.follows.clone());
        let taken = nodes.flat_map(|node| [Some(node.record.value.address.clone()), followed(node)]).flatten();
        taken.chain(self.planned.values().flatten().cloned()).collect()
    }

    /// Offers are void, and what is known of tasks may be old: each is to be asked for again.
    fn lose_sight(&mut self) {
        self.pool.clear();
        for stranger in self.strangers.values_mut() {
            (stranger.killed_at, stranger.asked_at) = (None, None);
        }
        for node in self.instances.values_mut().flat_map(|i| i.nodes.values_mut()) {
            node.heard = false;
            node.killed_at = None;
        }
    }

    fn updated(&mut self, update: TaskUpdate, now: Timestamp) -> Dirty {
        if let Some((name, node)) = self.node_of(&update.task_id) {
            let dirty = Dirty::one(name);
            node.hear(update);
            return dirty;
        }
        let acknowledged = update.uuid.is_none();
        let lives = !matches!(update.state.meaning(), Meaning::Dead | Meaning::Unsure);
        if !lives && acknowledged {
            self.strangers.remove(&update.task_id);
        } else {
            let known = self.strangers.get(&update.task_id);
            let stranger = Stranger {
                since: known.map_or(now, |s| s.since),
                killed_at: known.and_then(|s| s.killed_at),
                asked_at: known.and_then(|s| s.asked_at),
                acknowledged,
                update,
            };
            self.strangers.insert(stranger.update.task_id.clone(), stranger);
        }
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
            if stranger.acknowledged && !stranger.lives() {
                self.strangers.remove(&task_id);
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

    /// Whether an unrecorded task is one that was superseded: its instance is recorded, has counted
    /// beyond it, and everything recorded fits in. Otherwise the store has forgotten something.
    pub fn superseded(&self, task_id: &str) -> bool {
        let Some((name, ordinal)) = parse_task_id(task_id) else { return false };
        let Some(instance) = self.instances.get(name) else { return false };
        let Some(record) = instance.record.as_ref().map(|record| &record.value) else { return false };
        let launched_at = launch_time(task_id);
        let in_order = |node: &NodeRecord| match node.ordinal.cmp(&ordinal) {
            Ordering::Less => node.launched_at <= launched_at,
            Ordering::Equal => false, // No ordinal is used twice.
            Ordering::Greater => node.launched_at >= launched_at,
        };
        ordinal < record.next_ordinal
            && record.master != Some(ordinal)
            && record.created_at <= launched_at
            && instance.nodes.values().all(|node| in_order(&node.record.value))
    }

    /// Whether the instance of a superseded task can do without it: its master answers.
    pub fn dispensable(&self, task_id: &str) -> bool {
        let instance = parse_task_id(task_id).and_then(|(name, _)| self.instances.get(name));
        let master = instance.and_then(|i| i.nodes.get(&i.record.as_ref()?.value.master?));
        master.is_some_and(|node| {
            let answer = node.answer.as_ref().filter(|_| node.silent.is_none() && !node.record.value.task.is_dead());
            answer.is_some_and(|(answer, _)| answer.role == Role::Master && !answer.loading)
        })
    }
}

/// The newest events of an instance that are kept.
pub const EVENTS_MAX: usize = 50;

/// Appends events; one that repeats the last of its object and reason is counted instead.
pub fn merge_events(kept: Option<&[InstanceEvent]>, new: Vec<InstanceEvent>) -> Vec<InstanceEvent> {
    let mut events = kept.unwrap_or_default().to_vec();
    for event in new {
        let same = |e: &InstanceEvent| e.reason == event.reason && e.object == event.object && e.message == event.message;
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

/// Takes ports out of an offer; they go back with what is not used of it.
fn withhold_ports(offer: &mut Offer, taken: &BTreeSet<Address>) {
    let at = |port| Address { host: offer.host.clone(), port };
    let ports: Vec<u16> = taken.range(at(0)..=at(u16::MAX)).map(|address| address.port).collect();
    for piece in offer.pieces.iter_mut().filter(|piece| piece.name == "ports") {
        let Amount::Ranges(ranges) = &mut piece.amount else { continue };
        for port in &ports {
            let split = |(first, last): (u16, u16)| {
                let outside = !(first..=last).contains(port);
                let whole = outside.then_some((first, last));
                let below = (!outside && first < *port).then(|| (first, port - 1));
                let above = (!outside && *port < last).then(|| (port + 1, last));
                [whole, below, above].into_iter().flatten()
            };
            *ranges = ranges.drain(..).flat_map(split).collect();
        }
    }
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
