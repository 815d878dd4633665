//! What a user writes: the kind `RedisInstance`. Pure.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod directives;
mod error;
mod parse;
mod places;
mod schema;
mod size;
mod structure;
mod tree;
mod validate;
mod values;

pub use directives::{config_words, live_config, reads_as, start_config, start_name};
pub use error::{Path, SpecError, Step, join_errors};
pub use parse::{DOCUMENT_BYTES_MAX, DOCUMENTS_MAX, Parsed, TEXT_BYTES_MAX, parse_document, parse_documents, split};
pub use schema::{components, schema};
pub(crate) use size::whole;
pub use size::{Cpus, Period, Size};
pub use validate::name as validate_name;

/// The only `apiVersion`.
pub const API_VERSION: &str = "redisctl/v1";
/// The only `kind`.
pub const KIND: &str = "RedisInstance";

/// A Redis instance: one master and its replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisInstance {
    /// Always `redisctl/v1`.
    #[schemars(extend("const" = API_VERSION))]
    pub api_version: String,
    /// Always `RedisInstance`.
    #[schemars(extend("const" = KIND))]
    pub kind: String,
    /// Name and labels.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: InstanceSpec,
}

/// Name and labels of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Letters, digits, `-` and `_`, at most 40 of them, with a letter first and no `-` or `_` last.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-zA-Z]([-_a-zA-Z0-9]*[a-zA-Z0-9])?$"))]
    pub name: String,
    /// Free labels for people and selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What is wanted of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstanceSpec {
    /// Masters. 1 for now; 3 and more will mean Redis Cluster.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1))]
    pub masters: u32,
    /// Replicas of each master. `slaves` is accepted too.
    #[serde(default, alias = "slaves")]
    #[schemars(range(min = 0, max = 200))]
    pub replicas: u32,
    /// Redis' maxmemory. The task gets headroom on top: one eighth of it, at least 32 MiB.
    pub memory: Size,
    /// CPU share of each node.
    #[serde(default)]
    pub cpus: Cpus,
    /// At most this many of the instance's nodes on one agent.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub distribution: u32,
    /// Where nodes go.
    #[serde(default)]
    pub placement: Placement,
    /// Redis itself.
    #[serde(default)]
    pub redis: RedisSpec,
    /// How long a replica on an unreachable agent is waited for before another takes its place.
    #[serde(default)]
    pub replace_unreachable_after: Period,
    /// What to do when every node is proved dead, so that the data is gone.
    #[serde(default)]
    pub on_data_loss: OnDataLoss,
    /// How many replicas have a write that a client confirmed with WAIT, so that no failover loses
    /// it. By default `one` from two replicas on, `none` below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// When the master counts as gone.
    #[serde(default)]
    pub failover: FailoverSpec,
    /// How clients log in. By default `generated` for a new instance; one that was made without
    /// passwords has none until this says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<WrittenAuth>")]
    pub auth: Option<Auth>,
    /// Nodes are neither replaced for a change of the spec nor added nor removed; failovers go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// How clients log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenAuth", into = "WrittenAuth")]
pub enum Auth {
    /// With a password that the operator makes: `redisctl password show NAME`.
    Generated,
    /// Without.
    None,
    /// With a password of the user's own, which is in the store under `secrets/` and this name.
    SecretRef(String),
}

/// The same as it is written.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum WrittenAuth {
    /// A word.
    Word(AuthWord),
    /// The name of a secret.
    Secret(SecretRef),
}

/// How clients log in, in a word.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum AuthWord {
    /// With a password that the operator makes: `redisctl password show NAME`.
    Generated,
    /// Without.
    None,
}

/// A secret of the user's own: `redisctl secret set NAME`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecretRef {
    /// Its name.
    secret_ref: String,
}

impl From<WrittenAuth> for Auth {
    fn from(written: WrittenAuth) -> Auth {
        match written {
            WrittenAuth::Word(AuthWord::Generated) => Auth::Generated,
            WrittenAuth::Word(AuthWord::None) => Auth::None,
            WrittenAuth::Secret(SecretRef { secret_ref }) => Auth::SecretRef(secret_ref),
        }
    }
}

impl From<Auth> for WrittenAuth {
    fn from(auth: Auth) -> WrittenAuth {
        match auth {
            Auth::Generated => WrittenAuth::Word(AuthWord::Generated),
            Auth::None => WrittenAuth::Word(AuthWord::None),
            Auth::SecretRef(secret_ref) => WrittenAuth::Secret(SecretRef { secret_ref }),
        }
    }
}

fn one() -> u32 {
    1
}

impl InstanceSpec {
    /// All nodes of the instance.
    pub fn nodes(&self) -> u32 {
        self.masters.saturating_mul(self.replicas.saturating_add(1))
    }

    /// The durability in force.
    pub fn durability(&self) -> Durability {
        self.durability.unwrap_or(if self.replicas >= 2 { Durability::One } else { Durability::None })
    }

    /// The secret that clients log in with, if it is one of the user's own.
    pub fn secret(&self) -> Option<&str> {
        match &self.auth {
            Some(Auth::SecretRef(name)) => Some(name),
            _ => None,
        }
    }

    /// How many replicas must have a write for it to survive any failover: the k of `WAIT k`, and
    /// `min-replicas-to-write`.
    pub fn confirmations(&self) -> u32 {
        match self.durability() {
            Durability::None => 0,
            Durability::One => 1,
            Durability::Majority => self.replicas.div_ceil(2),
        }
    }

    /// The task's memory in MiB: maxmemory and its headroom (one eighth of it, at least 32 MiB) for
    /// client buffers, the replication backlog, fragmentation and the copy-on-write of a fork.
    pub fn task_mem_mib(&self) -> u64 {
        let memory_mib = self.memory.0.div_ceil(1 << 20);
        memory_mib + (memory_mib / 8).max(32)
    }
}

/// How many replicas have each confirmed write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Durability {
    /// No promise: a failover waits for nobody.
    None,
    /// One replica at least.
    One,
    /// Half of the replicas, rounded up.
    Majority,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::None => "none",
            Durability::One => "one",
            Durability::Majority => "majority",
        })
    }
}

/// When the master counts as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FailoverSpec {
    /// A master that is silent for this long counts as hung: 100ms to 60s.
    pub detect_within: Period,
    /// A master that has heard none of its replicas for this long takes no more writes (Redis'
    /// `min-replicas-max-lag`): 1s to 60s, in whole seconds.
    pub max_lag: Period,
}

impl Default for FailoverSpec {
    fn default() -> Self {
        FailoverSpec { detect_within: Period(1000), max_lag: Period(1000) }
    }
}

/// Where nodes go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Placement {
    /// `spread` over agents, or `pack`: fill the fullest agent that fits.
    pub strategy: Strategy,
    /// An agent attribute whose values the nodes are spread over (`rack`); soft. `zone` and
    /// `region` stand for the agent's fault domain, unless it has an attribute of that name; `@zone` and
    /// `@region` do in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread_by: Option<String>,
    /// Agents must satisfy all of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
}

/// How agents are chosen among those that fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Strategy {
    /// As many different agents as there are.
    #[default]
    Spread,
    /// Fill the fullest agent that fits.
    Pack,
}

/// A condition on an agent's attribute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Constraint {
    /// The attribute's name; `hostname` stands for the agent's hostname.
    pub attribute: String,
    /// The test.
    pub operator: Operator,
    /// What it is tested against: at least one value for `in` and `notIn`, none for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// The test of a constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Operator {
    /// The attribute has one of the values.
    In,
    /// The attribute is absent or has none of the values.
    NotIn,
    /// The attribute is present.
    Exists,
    /// The attribute is absent.
    DoesNotExist,
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.join(", ");
        match self.operator {
            Operator::In => write!(f, "{} in [{values}]", self.attribute),
            Operator::NotIn => write!(f, "{} not in [{values}]", self.attribute),
            Operator::Exists => write!(f, "{} exists", self.attribute),
            Operator::DoesNotExist => write!(f, "{} does not exist", self.attribute),
        }
    }
}

/// Redis itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RedisSpec {
    /// Lines of redis.conf, except those that the operator owns (port, replicaof, maxmemory, ...).
    #[serde(deserialize_with = "size::config", skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::config")]
    pub config: BTreeMap<String, String>,
    /// A container image. Absent: the redis-server of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// What to do when an instance's data is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnDataLoss {
    /// Start it again, empty, with an event that says what was lost.
    #[default]
    Recreate,
    /// Wait for `redisctl recreate NAME`.
    Hold,
}
