//! The operator's nouns: what Mesos, Redis and the store tell us, and what we record. Pure.
//!
//! Nothing here knows a wire format: `mesos/wire.rs` converts to these types, `failover/redis.rs`
//! fills [`Answer`], and the store keeps [`InstanceRecord`] and [`NodeRecord`] as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::spec::InstanceSpec;

/// A moment, in milliseconds since the Unix epoch. Stored and printed as RFC 3339.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Milliseconds from `earlier` to `self`; 0 when `earlier` is later (clocks jump).
    pub fn since_ms(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `ms` milliseconds later.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Timestamp {
        Timestamp(self.0.saturating_add(ms))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(ms) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let at: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Timestamp(u64::try_from(at.as_millisecond()).unwrap_or(0)))
    }
}

/// Where a node listens: what clients, replicas and probes dial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// An IP address as the agent advertises it.
    pub host: String,
    /// The TCP port that Mesos gave the node.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Offers and resources

/// A part of an offer, with what is needed to echo it in a launch: Mesos wants each piece back with
/// its own reservations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// `cpus`, `mem`, `disk`, `ports`, ...
    pub name: String,
    /// How much.
    pub amount: Amount,
    /// The `reservations` of the offered resource as Mesos sent them; `null` when unreserved.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub reservations: serde_json::Value,
}

/// The amount of a [`Piece`]. Scalars are in thousandths (Mesos keeps three decimals), so that
/// sums are exact: 100 is 0.1 CPU, 64000 is 64 MiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Amount {
    /// Thousandths of the unit.
    Milli(u64),
    /// Inclusive ranges.
    Ranges(Vec<(u16, u16)>),
}

/// One offer of one agent to our role.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Offer id.
    pub id: String,
    /// Agent that has the resources.
    pub agent_id: String,
    /// The agent's hostname: not unique, but part of a machine's identity.
    pub hostname: String,
    /// The agent's advertised IP address: where the node will be reached.
    pub host: String,
    /// The role that the offer was allocated to.
    pub role: String,
    /// Attributes as text; scalars and ranges in Mesos' notation. Fault domain as
    /// `@region` and `@zone`.
    pub attributes: BTreeMap<String, String>,
    /// When a maintenance window of this agent starts, if one is scheduled.
    pub unavailable_from: Option<Timestamp>,
    /// What is offered. Pieces on revocable, volume or foreign-disk resources are left out.
    pub pieces: Vec<Piece>,
}

// ---------------------------------------------------------------------------------------------
// Tasks

/// Every state of a Mesos task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)] // The names are Mesos' own.
pub enum TaskState {
    Staging,
    Starting,
    Running,
    Killing,
    Finished,
    Failed,
    Killed,
    Error,
    Lost,
    Dropped,
    Unreachable,
    Gone,
    GoneByOperator,
    Unknown,
}

/// What a task state means for a node and its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Launched, not yet running.
    Starting,
    /// The process runs, as far as Mesos knows.
    Running,
    /// The process is being killed.
    Stopping,
    /// Proved: the process does not run, and never will under this task id.
    Dead,
    /// No proof either way: the process may run, and serve clients.
    Unsure,
}

impl TaskState {
    /// What the state means. LOST and UNKNOWN are silence, not proof (an agent that was removed
    /// may still run the process).
    pub fn meaning(self) -> Meaning {
        match self {
            TaskState::Staging | TaskState::Starting => Meaning::Starting,
            TaskState::Running => Meaning::Running,
            TaskState::Killing => Meaning::Stopping,
            TaskState::Finished
            | TaskState::Failed
            | TaskState::Killed
            | TaskState::Error
            | TaskState::Dropped
            | TaskState::Gone
            | TaskState::GoneByOperator => Meaning::Dead,
            TaskState::Lost | TaskState::Unreachable | TaskState::Unknown => Meaning::Unsure,
        }
    }

    /// Mesos' name, as `TASK_RUNNING`.
    pub fn mesos_name(self) -> &'static str {
        match self {
            TaskState::Staging => "TASK_STAGING",
            TaskState::Starting => "TASK_STARTING",
            TaskState::Running => "TASK_RUNNING",
            TaskState::Killing => "TASK_KILLING",
            TaskState::Finished => "TASK_FINISHED",
            TaskState::Failed => "TASK_FAILED",
            TaskState::Killed => "TASK_KILLED",
            TaskState::Error => "TASK_ERROR",
            TaskState::Lost => "TASK_LOST",
            TaskState::Dropped => "TASK_DROPPED",
            TaskState::Unreachable => "TASK_UNREACHABLE",
            TaskState::Gone => "TASK_GONE",
            TaskState::GoneByOperator => "TASK_GONE_BY_OPERATOR",
            TaskState::Unknown => "TASK_UNKNOWN",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mesos_name())
    }
}

/// A status update of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskUpdate {
    /// The task.
    pub task_id: String,
    /// The agent, where the update names one.
    pub agent_id: Option<String>,
    /// The state that is reported.
    pub state: TaskState,
    /// `REASON_...`, where one is given.
    pub reason: Option<String>,
    /// Free text.
    pub message: String,
    /// Base64, as received. Present: the update is repeated until acknowledged.
    pub uuid: Option<String>,
}

/// What is to be launched: everything that makes a `TaskInfo`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Never used before or again.
    pub task_id: String,
    /// The node's name.
    pub name: String,
    /// The agent of the offers.
    pub agent_id: String,
    /// Taken out of the offers, piece by piece.
    pub pieces: Vec<Piece>,
    /// `redis-server` and its arguments.
    pub argv: Vec<String>,
    /// A container image; none: the agent's own redis-server.
    pub image: Option<String>,
    /// Time between SIGTERM and SIGKILL at a kill, in milliseconds.
    pub grace_ms: u64,
    /// Enough to know whose the task is.
    pub labels: BTreeMap<String, String>,
}

// ---------------------------------------------------------------------------------------------
// The Mesos session

/// What the session tells the operator.
#[derive(Clone, Debug, PartialEq)]
pub enum MesosEvent {
    /// A new subscription: offers of before are void, tasks must be reconciled.
    Subscribed {
        /// The id that the master gave us or accepted.
        framework_id: String,
        /// Counts the session's subscriptions; calls are made for one of them.
        subscription: u64,
    },
    /// The subscription is lost; the session tries again by itself.
    Disconnected {
        /// What was seen.
        reason: String,
    },
    /// The session ended for good: another operator took it over, or the framework was removed.
    /// It does not try again.
    Ended {
        /// The master's words.
        message: String,
    },
    /// New offers.
    Offers(Vec<Offer>),
    /// An offer is void.
    Rescind(String),
    /// A task's state.
    Update(TaskUpdate),
    /// An agent is gone from Mesos' sight: a hint only.
    AgentFailed(String),
    /// A call did not get through. Told of every ACCEPT, and of other calls that the master refused.
    CallFailed {
        /// Mesos' name of the call: `ACCEPT`.
        call: &'static str,
        /// The tasks that the call was about.
        task_ids: Vec<String>,
        /// The master's words, or what was seen.
        message: String,
        /// The master may have acted on it all the same: reconcile before anything else. Otherwise
        /// it has not, and never will.
        uncertain: bool,
    },
}

/// What the operator tells Mesos.
#[derive(Clone, Debug, PartialEq)]
pub enum MesosCall {
    /// Launch tasks on one agent, out of its offers.
    Accept {
        /// Offers of one agent.
        offer_ids: Vec<String>,
        /// At least one.
        launches: Vec<Launch>,
        /// How long the unused rest is withheld.
        refuse_s: f64,
    },
    /// Give offers back.
    Decline {
        /// Offers of any agents.
        offer_ids: Vec<String>,
        /// How long they are withheld.
        refuse_s: f64,
    },
    /// No more offers.
    Suppress,
    /// Offers again; clears all filters and makes the master offer at once.
    Revive,
    /// Kill a task.
    Kill {
        /// The task.
        task_id: String,
        /// Only when certain: a wrong one makes the master drop the call silently.
        agent_id: Option<String>,
    },
    /// An update has been recorded.
    Acknowledge {
        /// The task.
        task_id: String,
        /// The agent of the update.
        agent_id: String,
        /// The uuid of the update.
        uuid: String,
    },
    /// Ask for the state of these tasks (task id, agent id); of all that the master knows when empty.
    Reconcile(Vec<(String, Option<String>)>),
}

// ---------------------------------------------------------------------------------------------
// Redis, as a probe saw it

/// A node's role in replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Role {
    Master,
    Replica,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Master => "master",
            Role::Replica => "replica",
        })
    }
}

/// What a node answered to INFO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Its role, as it thinks.
    pub role: Role,
    /// Whom it follows (replicas only).
    pub follows: Option<Address>,
    /// Replicas: the link to the master is up. Masters: true.
    pub link_up: bool,
    /// Replicas: a full synchronisation is going on.
    pub syncing: bool,
    /// Reading its data set from disk.
    pub loading: bool,
    /// `master_repl_offset` of a master, `slave_repl_offset` of a replica.
    pub offset: u64,
    /// `master_replid`.
    pub replid: String,
    /// `used_memory`, in bytes.
    pub used_memory: u64,
    /// `maxmemory`, in bytes.
    pub max_memory: u64,
    /// Keys in all databases.
    pub keys: u64,
    /// `connected_slaves`.
    pub connected_replicas: u32,
}

impl Answer {
    /// Whether the node has nothing that could be lost: no keys, and no write was ever replicated
    /// to or from it. (Redis reports the offset of a replica that never had a link as 1.)
    pub fn is_blank(&self) -> bool {
        self.keys == 0 && self.offset <= 1 && !self.syncing && !self.loading
    }
}

/// Why a probe brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NoAnswer {
    /// Nobody listens on the port, says the agent's kernel: the process does not run (any more, or
    /// yet).
    Refused,
    /// A new connection was accepted, then closed by the other side without a reply. (A kept
    /// connection that was closed is dialled again within the same probe.)
    Reset,
    /// No reply in time, or no way to the agent: silence, which proves nothing.
    Timeout,
    /// It lives, but replies with an error instead of INFO: busy with a script, too many clients,
    /// a password wanted.
    Busy,
    /// A reply that is not Redis'.
    Garbled,
}

impl NoAnswer {
    /// One word, for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            NoAnswer::Refused => "refused",
            NoAnswer::Reset => "reset",
            NoAnswer::Timeout => "timeout",
            NoAnswer::Busy => "busy",
            NoAnswer::Garbled => "garbled",
        }
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoAnswer::Refused => "nobody listens on its port",
            NoAnswer::Reset => "it closes every connection",
            NoAnswer::Timeout => "it did not reply in time",
            NoAnswer::Busy => "it replies with an error",
            NoAnswer::Garbled => "what replies is not Redis",
        })
    }
}

/// The outcome of one probe of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The node's task: a probe of a former task on the same port says nothing of a later one.
    pub task_id: String,
    /// What it answered, or why not.
    pub result: Result<Answer, NoAnswer>,
    /// When it was asked: the answer knows of everything before.
    pub at: Timestamp,
}

// ---------------------------------------------------------------------------------------------
// Records: what the operator stores

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

    /// Whether the process is proved dead.
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
    /// Set: the operator has decided to kill it, for this reason. Never taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
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
}

impl InstanceRecord {
    /// Whether any node was ever launched: from then on some of the spec cannot be changed.
    pub fn has_launched(&self) -> bool {
        self.next_ordinal > 0
    }
}

/// What a user asked for beside the spec; under `requests/NAME/KIND` until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestKind {
    /// Delete the instance.
    Delete,
    /// Start it again, empty, after all its nodes were lost (`onDataLoss: hold`).
    Recreate,
}

impl RequestKind {
    /// As in the key: `delete`.
    pub fn as_str(self) -> &'static str {
        match self {
            RequestKind::Delete => "delete",
            RequestKind::Recreate => "recreate",
        }
    }
}

/// The body of a request's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// When it was made.
    pub at: Timestamp,
    /// For `delete`: the revision of the document that is to go. A document that was written
    /// later survives: the name is used again.
    #[serde(default)]
    pub revision: i64,
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
