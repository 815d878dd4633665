//! Records: what the operator stores. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Address, LastDeath, TaskState, Timestamp};
use crate::spec::InstanceSpec;

/// What is recorded of a node's task, in words that need no Mesos.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase")]
pub enum TaskRecord {
    /// The intent to launch is recorded; it may or may not have been sent.
    Launching,
    /// It has been seen running.
    Running,
    /// Mesos has lost sight of it.
    Unsure {
        /// Since when.
        since: Timestamp,
        /// It had been running before: it may hold data.
        ran: bool,
    },
    /// Proved dead.
    Dead {
        /// The terminal state.
        state: TaskState,
        /// Mesos' reason and message, for people.
        why: String,
        /// When it was learned.
        at: Timestamp,
        /// It had been running before: it may have held data.
        ran: bool,
    },
}

impl TaskRecord {
    /// Whether the process ever ran, so that it may hold, or have held, data.
    pub fn ran(&self) -> bool {
        match self {
            TaskRecord::Launching => false,
            TaskRecord::Running => true,
            TaskRecord::Unsure { ran, .. } | TaskRecord::Dead { ran, .. } => *ran,
        }
    }

    /// Since when it counts as dead by a word of Mesos, without anybody having seen its process end.
    pub fn gone_since(&self) -> Option<Timestamp> {
        match self {
            TaskRecord::Dead { state, at, ran: true, .. } if state.is_hearsay() => Some(*at),
            _ => None,
        }
    }

    /// Whether the process counts as dead: it has been seen to end, or Mesos says that it is gone.
    pub fn is_dead(&self) -> bool {
        matches!(self, TaskRecord::Dead { .. })
    }
}

impl fmt::Display for TaskRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskRecord::Launching => f.write_str("launching"),
            TaskRecord::Running => f.write_str("running"),
            TaskRecord::Unsure { since, .. } => write!(f, "out of Mesos' sight since {since}"),
            TaskRecord::Dead { why, .. } => write!(f, "dead: {why}"),
        }
    }
}

/// The durable record of a node: written before its task is launched, removed after its death is
/// recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    /// The instance.
    pub instance: String,
    /// Counts the instance's nodes; never used twice.
    pub ordinal: u32,
    /// The node's task.
    pub task_id: String,
    /// Its agent.
    pub agent_id: String,
    /// The agent's hostname.
    pub hostname: String,
    /// Where it listens.
    pub address: Address,
    /// The agent's attributes at launch, for spreading.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Redis' maxmemory, in bytes.
    pub max_memory: u64,
    /// The task's memory, in MiB.
    pub task_mem_mib: u64,
    /// The task's CPU share, in thousandths.
    pub cpus_milli: u64,
    /// Its image, if it runs in a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The user's `redis.config` as last applied to this node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    /// When the intent was recorded.
    pub launched_at: Timestamp,
    /// What is known of its task.
    pub task: TaskRecord,
    /// Settings of Redis that the operator owns, as last applied to this node. Shared: each plan copies records.
    #[serde(default, skip_serializing_if = "is_none")]
    pub owned: Arc<BTreeMap<String, String>>,
    /// It may follow the master of this epoch, and so have writes that clients have confirmed. Set
    /// before it is told to.
    #[serde(default)]
    pub joined: bool,
    /// It was the master, and another has taken its place; set until it is a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deposed: Option<Deposed>,
    /// Its task was launched with a mark, by which it proves that it is the task, and with passwords of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub marked: bool,
    /// Set: the operator has decided to kill it, for this reason. Taken back only when it becomes the
    /// master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
}

/// What is recorded of a master when another takes its place: what it takes afterwards is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deposed {
    /// The epoch that began then.
    pub epoch: u64,
    /// The replication offset at which the new master began; none: the role is handed over, and the
    /// new master begins where this one ends.
    pub offset: Option<u64>,
}

fn is_none(settings: &BTreeMap<String, String>) -> bool {
    settings.is_empty()
}

impl NodeRecord {
    /// `orders-0`.
    pub fn name(&self) -> String {
        node_name(&self.instance, self.ordinal)
    }
}

/// `orders-0`: a node's name.
pub fn node_name(instance: &str, ordinal: u32) -> String {
    format!("{instance}-{ordinal}")
}

/// The id of a node's task: `orders-0.18f3a2b4c5d`. The launch time makes it unique for ever, even
/// when a name is used again or a store is restored from a backup.
pub fn task_id(instance: &str, ordinal: u32, launched_at: Timestamp) -> String {
    format!("{instance}-{ordinal}.{:x}", launched_at.0)
}

/// When a task of ours was launched, by its id; 0 for an id that we never make.
pub fn launch_time(task_id: &str) -> Timestamp {
    let time = task_id.rsplit_once('.').and_then(|(_, time)| u64::from_str_radix(time, 16).ok());
    Timestamp(time.unwrap_or(0))
}

/// Instance and ordinal of a task id of ours; `None` for ids that we never make.
pub fn parse_task_id(task_id: &str) -> Option<(&str, u32)> {
    let (node, launched_at) = task_id.rsplit_once('.')?;
    u64::from_str_radix(launched_at, 16).ok()?;
    let (instance, ordinal) = node.rsplit_once('-')?;
    if instance.is_empty() {
        return None;
    }
    Some((instance, ordinal.parse().ok()?))
}

/// The durable record of an instance: the spec in force and who its master is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceRecord {
    /// The last good spec: it stays in force while the user's document is not valid.
    pub spec: InstanceSpec,
    /// The user's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The store's revision of the document that the spec came from.
    pub spec_revision: i64,
    /// Counts promotions: rises by one whenever the master changes, never falls.
    pub epoch: u64,
    /// The ordinal of the node that is the master; none before the first placement.
    pub master: Option<u32>,
    /// The ordinal of the next new node.
    pub next_ordinal: u32,
    /// A master of this epoch has been seen ready: from then on there can be data to lose.
    pub initialized: bool,
    /// The replication id of the newest master that was seen: whoever has it has that history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replid: Option<String>,
    /// The one before, from which it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replid_before: Option<String>,
    /// The k of the promise in force: see `failover`.
    #[serde(default)]
    pub confirmations: u32,
    /// The master took its place from a lost one, and the replicas have not been seen to have all that
    /// it has: what was confirmed before may be on it and on one replica less.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsettled: bool,
    /// Nodes are being replaced by such as run as declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<Roll>,
    /// Masters that fell silent and were replaced, in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hung: Option<Hung>,
    /// Passwords of its nodes; none: they were launched by a version that gave them none, and nobody has asked
    /// for any since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Passwords>,
    /// Deletion has begun: it is finished before anything else, whatever is declared meanwhile.
    #[serde(default)]
    pub deleting: bool,
    /// When the record was made.
    pub created_at: Timestamp,
    /// Nodes that died in a row without a stable time between, for the backoff.
    #[serde(default)]
    pub failures: u32,
    /// When the last of them died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Timestamp>,
    /// The newest node that died by itself, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_death: Option<LastDeath>,
}

/// Masters that fell silent, and were replaced though not proved dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hung {
    /// How many in a row.
    pub count: u32,
    /// When the last of them was replaced.
    pub at: Timestamp,
}

/// Which passwords of an instance are valid: see `passwords`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Passwords {
    /// The newest generation.
    pub generation: u64,
    /// The generation before is valid until then; none: not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_until: Option<Timestamp>,
    /// Clients need none. Operators and replicas do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// Clients that came before this generation are cut when the former passwords are void: one had leaked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_before: Option<u64>,
}

impl Passwords {
    /// The first ones.
    pub fn first(open: bool) -> Passwords {
        Passwords { generation: 1, former_until: None, open, cut_before: None }
    }

    /// Those that are valid, newest first.
    pub fn generations(&self) -> Vec<u64> {
        let former = self.former_until.map(|_| self.generation - 1);
        [Some(self.generation), former].into_iter().flatten().collect()
    }
}

/// Nodes that do not run as declared are being replaced, one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Roll {
    /// Since when.
    pub since: Timestamp,
    /// Since when no agent has room for a node beside the old ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_since: Option<Timestamp>,
}

/// Something that happened to an instance, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceEvent {
    /// When it last happened.
    pub at: Timestamp,
    /// When it first happened.
    pub first_at: Timestamp,
    /// How often in a row.
    pub count: u32,
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// One word in CamelCase: `NodeLaunched`, `NodeDied`, `DataLost`.
    pub reason: String,
    /// What it happened to: the node's or the instance's name.
    pub object: String,
    /// A sentence.
    pub message: String,
}

/// How an event is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum EventKind {
    Normal,
    Warning,
}

impl EventKind {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            EventKind::Normal => "Normal",
            EventKind::Warning => "Warning",
        }
    }
}
