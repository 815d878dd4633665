//! What the operator says back of an instance: its status. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Role, Timestamp};
use crate::spec::{Durability, Period};

/// The status of an instance; kept beside the spec, never in the user's document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceStatus {
    /// One word for all of it.
    pub phase: Phase,
    /// One of each [`ConditionType`], in their order.
    pub conditions: Vec<Condition>,
    /// The revision of the document that has been fully acted upon.
    pub observed_revision: i64,
    /// Counts promotions.
    pub epoch: u64,
    /// `host:port` of the master.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// What is promised when the master is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<FailoverStatus>,
    /// The nodes, by ordinal.
    pub nodes: Vec<NodeStatus>,
    /// What is waited for, and why. Empty: nothing is left to do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<String>,
}

/// What is promised when the master is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverStatus {
    /// The durability in force.
    pub durability: Durability,
    /// The k of `WAIT k`: a write that so many replicas have confirmed is lost by no failover.
    pub confirmations: u32,
    /// The longest time until another is promoted when the master falls silent and nothing proves
    /// its death.
    pub worst_case: Period,
    /// How long a master that hangs or is cut off may take writes that are lost, because no replica
    /// confirms them. Absent: until somebody reaches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Period>,
    /// Bytes of the master's replication stream that no replica had when they were asked last: if it
    /// died then, they were lost, but for what is confirmed. Absent: no replica follows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreplicated: Option<u64>,
}

/// One word for the state of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum Phase {
    /// Nothing launched yet.
    #[default]
    Pending,
    /// First launch under way.
    Creating,
    /// All as declared.
    Ready,
    /// A change is under way; the master takes writes.
    Updating,
    /// The master takes writes, but something is missing.
    Degraded,
    /// No master takes writes.
    Unavailable,
    /// All nodes are lost; waits as `onDataLoss: hold` says.
    DataLost,
    /// Being deleted.
    Deleting,
}

impl Phase {
    /// All phases, for metrics.
    pub const ALL: [Phase; 8] = [
        Phase::Pending,
        Phase::Creating,
        Phase::Ready,
        Phase::Updating,
        Phase::Degraded,
        Phase::Unavailable,
        Phase::DataLost,
        Phase::Deleting,
    ];
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// The conditions of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum ConditionType {
    /// The user's document is valid and in force.
    SpecValid,
    /// Every node has a place.
    Placed,
    /// The recorded master answers as a master.
    MasterAvailable,
    /// Every replica follows the master, link up.
    ReplicasInSync,
    /// Every node runs as declared.
    UpToDate,
    /// No node refuses a setting: if one does, Redis' own words are told, and all else is set.
    ConfigApplied,
    /// All of it.
    Ready,
    /// Only while it is true: the master is lost, and nobody can take its place without losing what
    /// was promised.
    NoSafeCandidate,
    /// Only while it is true: nodes answer that Mesos calls gone. They take no writes.
    GoneNodeLives,
    /// Only while it is true: the memory of nodes is used up, and they evict nothing.
    MemoryFull,
    /// Only while it is true: one master after the other fell silent and was replaced. The next is waited for
    /// longer.
    FailoverChain,
}

impl ConditionType {
    /// Whether it is left out where it does not hold.
    pub fn is_only_while_true(self) -> bool {
        use ConditionType::{FailoverChain, GoneNodeLives, MemoryFull, NoSafeCandidate};
        matches!(self, NoSafeCandidate | GoneNodeLives | MemoryFull | FailoverChain)
    }
}

impl std::fmt::Display for ConditionType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// One condition, as Kubernetes has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word in CamelCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// When `status` last changed.
    #[schemars(with = "String")]
    pub last_transition_time: Timestamp,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// The status of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// `orders-0`.
    pub name: String,
    /// Its Mesos task.
    pub task_id: String,
    /// Mesos' id of its agent.
    pub agent: String,
    /// The agent's hostname.
    pub hostname: String,
    /// The value of the attribute that the instance is spread by (`rack`), where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// `host:port`.
    pub address: String,
    /// Master, or replica: as recorded.
    #[schemars(with = "String")]
    pub role: Role,
    /// Its state.
    pub state: NodeState,
    /// More of its state: why it is not ready, or what is pending on it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Replicas: `up` or `down`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Replication offset, in bytes, as last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Replicas: bytes behind the master, as last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Memory that Redis uses, in bytes, as last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_memory: Option<u64>,
}

/// The state of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum NodeState {
    /// Recorded and sent to Mesos; not running yet.
    Launching,
    /// Runs, but does not answer yet, or loads.
    Starting,
    /// A replica whose link is not up yet.
    Syncing,
    /// Answers, has its role, its link is up, and it is not loading.
    Ready,
    /// Runs as far as Mesos knows, but does not answer.
    NotAnswering,
    /// Mesos has lost sight of its agent.
    Unreachable,
    /// Being killed.
    Stopping,
    /// Proved dead.
    Dead,
}

impl NodeState {
    /// All states, for metrics.
    pub const ALL: [NodeState; 8] = [
        NodeState::Launching,
        NodeState::Starting,
        NodeState::Syncing,
        NodeState::Ready,
        NodeState::NotAnswering,
        NodeState::Unreachable,
        NodeState::Stopping,
        NodeState::Dead,
    ];
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

impl InstanceStatus {
    /// The condition of that type, once it has been reported.
    pub fn condition(&self, kind: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == kind)
    }

    /// The status without what changes all the time (offsets, lags, memory): when this is equal,
    /// there is nothing worth a write to the store.
    #[must_use]
    pub fn without_gauges(&self) -> InstanceStatus {
        let mut status = self.clone();
        if let Some(failover) = &mut status.failover {
            failover.unreplicated = None;
        }
        for node in &mut status.nodes {
            node.offset = None;
            node.lag = None;
            node.used_memory = None;
        }
        status
    }
}
