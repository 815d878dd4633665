//! The world: everything that has been learned, as the fold of all events. Pure.
//!
//! [`World::apply`] is the only thing that changes it. It answers which instances must be looked
//! at again; what happened is otherwise forgotten: a pass reads the state, not the event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{
    Address, Answer, InstanceEvent, InstanceRecord, LastWords, Meaning, MesosEvent, NoAnswer, NodeRecord, Probe,
    Request, RequestKind, TaskUpdate, Timestamp,
};
use crate::passwords::Secret;
use crate::placement::Pool;
use crate::reconcile::action::Write;
use crate::reconcile::leaving::LeavingAgents;
use crate::reconcile::strangers::Stranger;
pub use crate::reconcile::tries::SwitchFailed;
use crate::reconcile::tries::{Applied, Tries};
use crate::status::InstanceStatus;
use crate::store::{Change, Listing};

pub use crate::reconcile::documents::{Document, ReadDocument};

/// Updates kept per node until they are acknowledged. Mesos sends one at a time for a task, so more
/// than a few are repeats.
const UNACKED_MAX: usize = 8;

/// Something learned.
#[derive(Clone, Debug)]
pub enum Event {
    /// Documents that the next event from the store brings, read beforehand.
    Read(Vec<ReadDocument>),
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
#[allow(clippy::large_enum_variant)] // Few, and short-lived.
pub enum Done {
    /// An ACCEPT with it was handed to the session; false: it was not.
    Launched(bool),
    /// A KILL was sent.
    Killed,
    /// The node was told to follow the master, or to try it again.
    Pointed,
    /// Its role was changed, and this is what it answered then.
    Turned(Answer),
    /// It was to be handed the master's role in this epoch, and that was backed out.
    SwitchFailed(u64, String),
    /// Connections or a script were cut at it, by a step of that kind.
    Cut(&'static str),
    /// It was told by which password its master lets it in, as it is recorded.
    LogsIn(String),
    /// Settings were made by CONFIG SET, or not.
    Configured(Applied),
    /// A step of that kind has failed, for this reason.
    Failed(&'static str, String),
    /// A step of that kind, for which its pass was not to wait, was not begun.
    Left(&'static str),
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
    pub(super) fn one(name: &str) -> Dirty {
        Dirty { all: false, names: BTreeSet::from([name.to_string()]) }
    }
    pub(super) fn all() -> Dirty {
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

/// Everything known of an instance.
#[derive(Clone, Debug, Default)]
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
    pub events: Option<Stored<Arc<Vec<InstanceEvent>>>>,
    /// Where nodes listened that have gone since the master was last asked: it may have told of them still.
    pub former: BTreeSet<Address>,
    /// Open requests.
    pub requests: BTreeMap<RequestKind, Stored<Request>>,
    /// What nodes that died by themselves said last, and is not told yet.
    pub last_words: Vec<LastWords>,
}

impl Instance {
    pub(super) fn is_empty(&self) -> bool {
        self.document.is_none()
            && self.record.is_none()
            && self.nodes.is_empty()
            && self.status.is_none()
            && self.events.is_none()
            && self.requests.is_empty()
    }
}

/// Everything known of a node.
#[derive(Clone, Debug)]
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
    /// Until when it has been silent for certain: it may have answered since, and that may be on its way.
    pub silent_until: Timestamp,
    /// Failed probes in a row.
    pub fails: u32,
    /// When `silent`'s reason was learned.
    pub noticed_at: Option<Timestamp>,
    /// The last planned switchover to it, if it was backed out.
    pub switch_failed: Option<SwitchFailed>,
    /// It was told to follow nobody (itself), and has been seen doing so since then.
    pub detached_since: Option<Timestamp>,
    /// Its replication offset has not changed since it was asked then.
    pub still_since: Option<Timestamp>,
    /// The last KILL.
    pub killed_at: Option<Timestamp>,
    /// The last REPLICAOF.
    pub pointed_at: Option<Timestamp>,
    /// Settings applied by CONFIG SET and not recorded yet.
    pub configured: Vec<(String, String)>,
    /// What failed at it, and what is under way.
    pub tries: Tries,
}

impl Node {
    /// The newest answer, if the node answers now.
    pub fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref().filter(|_| self.silent.is_none()).map(|(answer, _)| answer)
    }

    /// Of which no more is known than its record.
    pub fn new(record: Stored<NodeRecord>) -> Node {
        Node {
            record,
            update: None,
            unacked: Vec::new(),
            heard: false,
            answer: None,
            silent: None,
            silent_until: Timestamp(0),
            fails: 0,
            noticed_at: None,
            switch_failed: None,
            detached_since: None,
            still_since: None,
            killed_at: None,
            pointed_at: None,
            configured: Vec::new(),
            tries: Tries::default(),
        }
    }

    pub(super) fn hear(&mut self, update: TaskUpdate) {
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

impl Default for Session {
    fn default() -> Session {
        Session::Disconnected("not connected yet".to_string())
    }
}

/// Everything that has been learned.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// All instances that are declared or recorded.
    pub instances: BTreeMap<String, Instance>,
    /// What is on offer.
    pub pool: Pool,
    /// Offers beside those of the pool, of another role: they go back for a moment.
    pub spare_offers: Vec<String>,
    /// The Mesos session.
    pub session: Session,
    /// The framework id that the master knows us by.
    pub framework_id: Option<String>,
    /// Passwords that users have chosen, by name.
    pub(super) secrets: BTreeMap<String, Arc<Secret>>,
    /// The agents that are to be emptied.
    pub leaving: LeavingAgents,
    /// Tasks of ours that are not recorded.
    pub strangers: BTreeMap<String, Stranger>,
    /// The store's revision up to which everything has been seen.
    pub revision: i64,
    /// Which store that is; `None` before the first listing.
    pub store_id: Option<u64>,
    /// Set: nothing is launched or killed, for this reason.
    pub frozen: Option<String>,
    /// The framework that Mesos has removed is given up: a new one begins.
    pub begins_anew: bool,
    /// That is so because of tasks that are not recorded. When they prove dead, all was well.
    pub(super) doubt: bool,
    /// Keys whose deletion is our own doing, and the revision that it was committed at (0: it was not
    /// yet): what the watch still tells of before is over.
    pub(super) forgetting: BTreeMap<String, i64>,
    /// Addresses where somebody else was found, and until when no node is placed there.
    pub(super) avoided: BTreeMap<Address, Timestamp>,
    /// Where nodes of each instance will listen whose records are being written.
    pub(super) planned: BTreeMap<String, Vec<Address>>,
    /// Instances whose roll begins with the writes that are under way.
    pub(super) beginning: BTreeSet<String>,
    pub(super) tasks: BTreeMap<String, (String, u32)>,
    /// Documents that were read beforehand, by key.
    pub(super) read: BTreeMap<String, Document>,
    /// Why the store is not sound, if it is not.
    pub(super) unsound: Option<String>,
}

/// What a process has seen of the store, for as long as it runs, whoever leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its id, and up to which revision.
    pub store: Option<(u64, i64)>,
    /// Why it is not sound: it has gone back, or has lost something. Only a new start ends that.
    pub unsound: Option<String>,
}

impl World {
    /// Knows nothing yet but what this process has seen of the store: one that has gone back since is noticed, and
    /// one that was not sound before is not sound for being read again, or by somebody else.
    pub fn resuming(seen: Seen, framework_id: Option<String>, leaving: LeavingAgents) -> World {
        let (store_id, revision) = seen.store.map_or((None, 0), |(id, revision)| (Some(id), revision));
        let (frozen, unsound) = (seen.unsound.clone(), seen.unsound);
        World { framework_id, leaving, revision, store_id, frozen, unsound, ..World::default() }
    }

    /// The number of the subscription in force.
    pub(super) fn subscription(&self) -> Option<u64> {
        match self.session {
            Session::Subscribed { subscription, .. } => Some(subscription),
            _ => None,
        }
    }

    /// What has been seen of the store.
    pub fn seen(&self) -> Seen {
        Seen { store: self.store_id.map(|id| (id, self.revision)), unsound: self.unsound.clone() }
    }

    /// Folds in one event; answers which instances must be looked at again.
    pub fn apply(&mut self, event: Event, now: Timestamp) -> Dirty {
        let frozen = self.frozen.is_some();
        let dirty = self.fold(event, now);
        self.judge_strangers();
        if frozen == self.frozen.is_some() { dirty } else { Dirty::all() }
    }

    fn fold(&mut self, event: Event, now: Timestamp) -> Dirty {
        match event {
            Event::Read(documents) => {
                self.read = documents.into_iter().map(|read| (read.key, read.document)).collect();
                Dirty::default()
            }
            Event::Listed(listing) => self.listed(&listing),
            Event::Changed(changes) => {
                let mut dirty = Dirty::default();
                for change in changes.changes {
                    dirty.merge(match change {
                        Change::Put(item) => self.put(&item),
                        Change::Delete { key, revision } => self.deleted(&key, revision),
                    });
                }
                self.revision = self.revision.max(changes.revision);
                self.forgetting.retain(|_, at| *at == 0 || *at > changes.revision);
                dirty
            }
            Event::Mesos(event) => self.mesos(event, now),
            Event::Probed(probe) => self.probed(probe, now),
            Event::Committed { name, writes, status, revision } => self.committed(&name, writes, status, revision),
            Event::Noted(note) => self.noted(note, now),
        }
    }

    /// How many instances have nodes replaced: those that leave an agent with this one, or those whose
    /// specs have changed. A roll that is stuck for its spec must not keep others from leaving in time.
    pub fn rolling(&self, instance: &Instance, now: Timestamp) -> usize {
        let rolls = |instance: &Instance| instance.record.as_ref().is_some_and(|record| record.value.rolling.is_some());
        let leaves = |instance: &Instance| instance.nodes.values().any(|node| self.leaving.node(node, now).is_some());
        let kind = leaves(instance);
        let alike = |(name, instance): &(&String, &Instance)| {
            (rolls(instance) || self.beginning.contains(*name)) && leaves(instance) == kind
        };
        self.instances.iter().filter(alike).count()
    }

    /// The node of a task.
    pub fn node_of(&mut self, task_id: &str) -> Option<(&str, &mut Node)> {
        let (name, ordinal) = self.tasks.get(task_id)?;
        let node = self.instances.get_mut(name)?.nodes.get_mut(ordinal)?;
        Some((name, node))
    }
}
