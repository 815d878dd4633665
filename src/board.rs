//! What the API reads: the newest view of every instance, and who wants to hear of changes. I/O
//! (it is shared between tasks).
//!
//! The controller (on the leader) and the reflector (on a standby) put views up; the API's handlers
//! only read. A view is immutable and shared, so a read costs a lock for a moment and no copy.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::clock::now;
use crate::model::{Answer, Gauges, InstanceEvent, Role, Timestamp};
use crate::reconcile::draft::FROZEN;
use crate::spec::RedisInstance;
use crate::status::InstanceStatus;
use crate::store::Candidate;

/// How many changes a slow watcher may lag behind before it is told to list again.
const CHANGES_MAX: usize = 4096;

/// Everything known of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceView {
    /// Its name.
    pub name: String,
    /// The instance as declared: the user's document where it is valid, otherwise the last good
    /// one; none when there never was a valid one.
    pub instance: Option<RedisInstance>,
    /// The user's document is not valid: why.
    pub invalid: Option<String>,
    /// The document's revision; 0 when it is gone.
    pub revision: i64,
    /// When the operator first accepted it.
    pub created_at: Option<Timestamp>,
    /// Its status. On the leader with fresh offsets and memory.
    pub status: InstanceStatus,
    /// What the operator would do now (leader only).
    pub plan: Option<PlanView>,
    /// The newest events, oldest first.
    pub events: Arc<Vec<InstanceEvent>>,
    /// Deletion has been asked for.
    pub deleting: bool,
}

/// A plan, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PlanView {
    /// What the operator is about to do, in order: a sentence each.
    pub steps: Vec<String>,
    /// What it waits for, and why.
    pub waiting: Vec<String>,
}

/// The operator itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorView {
    /// The version of this process.
    pub version: String,
    /// Whether this process leads.
    pub leading: bool,
    /// The id and the API address of the leader, when known.
    #[schema(value_type = Object)]
    pub leader: Option<Candidate>,
    /// The store has been read, and is being watched.
    pub store_synced: bool,
    /// Set: the store cannot be read since then, and whatever is told of instances is as old as this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub stale_since: Option<Timestamp>,
    /// The state of the Mesos session in a word: `subscribed`, `disconnected`, `standby`, `ended`.
    pub mesos: String,
    /// More of it: the last error.
    pub mesos_message: String,
    /// Set: the operator launches and kills nothing, for this reason.
    pub frozen: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub frozen_since: Option<Timestamp>,
    /// The other operators of this store.
    #[serde(default)]
    pub others: Vec<Peer>,
}

/// An operator that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Peer {
    /// 40 hexadecimal digits; the same after a restart at the same addresses.
    pub id: String,
    /// `http://host:port` of its API.
    pub api: String,
    /// `host:port` where it answers as a Sentinel, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<String>,
}

/// What a node last said of itself, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// When it was asked.
    pub at: Timestamp,
    /// The role that it has, as it says.
    pub role: Role,
    /// Replicas: the link to the master is up.
    pub link_up: bool,
    /// Replication offset, in bytes.
    pub offset: u64,
    /// Memory that it uses, in bytes.
    pub used_memory: u64,
    /// Its limit, in bytes.
    pub max_memory: u64,
    /// Keys in all databases.
    pub keys: u64,
    /// The rest.
    pub gauges: Gauges,
}

impl Measured {
    /// What an answer says.
    pub fn new(answer: &Answer, at: Timestamp) -> Measured {
        let &Answer { role, link_up, offset, used_memory, max_memory, keys, gauges, .. } = answer;
        Measured { at, role, link_up, offset, used_memory, max_memory, keys, gauges }
    }
}

/// A change, for watchers.
#[derive(Clone, Debug)]
pub enum BoardChange {
    /// New or changed.
    Set(Arc<InstanceView>),
    /// Gone.
    Removed(String),
}

/// The views of all instances.
pub struct Board {
    instances: RwLock<BTreeMap<String, Arc<InstanceView>>>,
    operator: RwLock<OperatorView>,
    /// By task id. Apart from the views: it changes all the time, and nobody is told of that.
    measured: RwLock<HashMap<String, Measured>>,
    /// The master that each instance named last.
    named: RwLock<HashMap<String, String>>,
    changes: broadcast::Sender<BoardChange>,
}

impl Default for Board {
    fn default() -> Self {
        Board {
            instances: RwLock::default(),
            measured: RwLock::default(),
            named: RwLock::default(),
            operator: RwLock::new(OperatorView {
                version: env!("CARGO_PKG_VERSION").to_string(),
                ..OperatorView::default()
            }),
            changes: broadcast::channel(CHANGES_MAX).0,
        }
    }
}

impl Board {
    /// One instance.
    pub fn get(&self, name: &str) -> Option<Arc<InstanceView>> {
        self.read().get(name).cloned()
    }

    /// All instances, by name.
    pub fn list(&self) -> Vec<Arc<InstanceView>> {
        self.read().values().cloned().collect()
    }

    /// Changes from now on. Subscribe first, then list: a change may come twice, but none is lost.
    pub fn subscribe(&self) -> broadcast::Receiver<BoardChange> {
        self.changes.subscribe()
    }

    /// Puts up a view; an equal one is not announced.
    pub fn set(&self, mut view: InstanceView) {
        // Where nobody plans, that is what is waited for.
        if view.status.waiting.is_empty() && self.operator.read().expect("no writer panics").frozen.is_some() {
            view.status.waiting.push(FROZEN.to_string());
        }
        let mut instances = self.instances.write().expect("no writer panics");
        if instances.get(&view.name).is_some_and(|old| **old == view) {
            return;
        }
        if let Some(master) = &view.status.master {
            self.named.write().expect("no writer panics").insert(view.name.clone(), master.clone());
        }
        let view = Arc::new(view);
        let before = instances.insert(view.name.clone(), view.clone());
        drop(instances);
        self.forget(before.as_deref(), Some(&view));
        let _ = self.changes.send(BoardChange::Set(view)); // Nobody watches: fine.
    }

    /// Takes a view down.
    pub fn remove(&self, name: &str) {
        let before = self.instances.write().expect("no writer panics").remove(name);
        self.named.write().expect("no writer panics").remove(name);
        self.forget(before.as_deref(), None);
        if before.is_some() {
            let _ = self.changes.send(BoardChange::Removed(name.to_string()));
        }
    }

    /// The address of the instance's master, or the last one that there was: while the role is on its way, clients of
    /// Sentinels are better told of the one that is gone than of none.
    pub fn named_master(&self, name: &str) -> Option<String> {
        self.named.read().expect("no writer panics").get(name).cloned()
    }

    /// What a node last said of itself.
    pub fn measured(&self, task_id: &str) -> Option<Measured> {
        self.measured.read().expect("no writer panics").get(task_id).copied()
    }

    /// Puts up what a node has said of itself.
    pub fn measure(&self, task_id: &str, measured: Measured) {
        let mut all = self.measured.write().expect("no writer panics");
        if let Some(known) = all.get_mut(task_id) {
            *known = measured;
        } else {
            all.insert(task_id.to_string(), measured);
        }
    }

    /// Nodes that are not there any more are forgotten.
    fn forget(&self, before: Option<&InstanceView>, now: Option<&InstanceView>) {
        let stays =
            |task_id: &str| now.is_some_and(|view| view.status.nodes.iter().any(|node| node.task_id == task_id));
        let nodes = before.map_or(&[][..], |view| view.status.nodes.as_slice());
        let mut gone = nodes.iter().map(|node| node.task_id.as_str()).filter(|task_id| !stays(task_id)).peekable();
        if gone.peek().is_some() {
            let mut all = self.measured.write().expect("no writer panics");
            gone.for_each(|task_id| {
                all.remove(task_id);
            });
        }
    }

    /// The operator itself.
    pub fn operator(&self) -> OperatorView {
        self.operator.read().expect("no writer panics").clone()
    }

    /// Changes what is said of the operator.
    pub fn set_operator(&self, change: impl FnOnce(&mut OperatorView)) {
        let mut operator = self.operator.write().expect("no writer panics");
        let (synced, frozen) = (operator.store_synced, operator.frozen.is_some());
        change(&mut operator);
        let freezes = !frozen && operator.frozen.is_some();
        operator.stale_since = match operator.store_synced {
            true => None,
            false if synced => Some(now()),
            false => operator.stale_since,
        };
        operator.frozen_since = match operator.frozen {
            None => None,
            Some(_) if frozen => operator.frozen_since,
            Some(_) => Some(now()),
        };
        drop(operator);
        if freezes {
            self.list().into_iter().for_each(|view| self.set((*view).clone()));
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<InstanceView>>> {
        self.instances.read().expect("no writer panics")
    }
}
