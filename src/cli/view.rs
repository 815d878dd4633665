//! What the operator's API answers, as far as the command line reads it. Pure.
//!
//! An answer is kept as it came beside what is read of it: `-o json` prints everything, also what a
//! newer operator has added.

use serde::Deserialize;
use serde_json::Value;

use super::answer::one_line;
use crate::model::Timestamp;
use crate::status::{ConditionStatus, ConditionType, InstanceStatus, NodeState, Phase};

/// An instance.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Instance {
    /// Name, labels, revision.
    pub metadata: Metadata,
    /// The spec in force; null when there never was a valid one. Not typed: what a newer operator
    /// knows must not keep an older command line from printing the rest.
    #[serde(default)]
    pub spec: Value,
    /// The status.
    #[serde(default)]
    pub status: InstanceStatus,
    /// Why the user's document is not valid.
    #[serde(default)]
    pub invalid: Option<String>,
    /// The answer as it came.
    #[serde(skip)]
    pub raw: Value,
}

/// Name, labels, revision.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The name.
    pub name: String,
    /// Labels, as `{"team": "shop"}`.
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, String>,
    /// The revision of the document; 0 when it is gone.
    #[serde(default)]
    pub revision: i64,
    /// When the operator accepted it.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// Deletion has been asked for.
    #[serde(default)]
    pub deleting: bool,
}

impl Instance {
    /// Reads an answer.
    pub fn from_json(raw: Value) -> Result<Instance, serde_json::Error> {
        let mut instance = Instance::deserialize(&one_line(&raw))?;
        instance.raw = raw;
        Ok(instance)
    }

    /// `orders`.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// How many nodes are declared.
    pub fn declared_nodes(&self) -> Option<u64> {
        let number = |key: &str| self.spec.get(key).and_then(Value::as_u64);
        Some(number("masters")? * (number("replicas").unwrap_or(0) + 1))
    }

    /// How many nodes are ready.
    pub fn ready_nodes(&self) -> usize {
        self.status.nodes.iter().filter(|node| node.state == NodeState::Ready).count()
    }

    /// `3/3`: ready nodes of those declared.
    pub fn readiness(&self) -> String {
        let declared = self.declared_nodes().map_or_else(|| "?".to_string(), |n| n.to_string());
        format!("{}/{declared}", self.ready_nodes())
    }

    /// Whether a condition is reported with this status.
    pub fn has_condition(&self, kind: ConditionType, status: ConditionStatus) -> bool {
        let absent = || kind.is_only_while_true() && status == ConditionStatus::False;
        self.status.condition(kind).map_or_else(absent, |condition| condition.status == status)
    }

    /// Whether the document of this revision, or a later one, is in force and fully acted upon,
    /// and all is well.
    pub fn is_ready_at(&self, revision: i64) -> bool {
        self.metadata.revision >= revision
            && self.status.observed_revision >= revision.max(self.metadata.revision)
            && !self.metadata.deleting
            && self.invalid.is_none()
            && self.has_condition(ConditionType::Ready, ConditionStatus::True)
    }

    /// Whether it is being deleted.
    pub fn is_leaving(&self) -> bool {
        self.metadata.deleting || self.status.phase == Phase::Deleting
    }

    /// Everything that the instance waits for, and what is wrong with its document.
    pub fn waiting(&self) -> Vec<String> {
        let invalid = self.invalid.iter().map(|why| format!("its document is not valid: {}", why.trim()));
        invalid.chain(self.status.waiting.iter().cloned()).collect()
    }
}

/// The answer to a list.
#[derive(Debug, Deserialize)]
pub struct Items<T> {
    /// In the server's order.
    pub items: Vec<T>,
}

/// Why nodes of an instance find no place.
#[derive(Debug, Deserialize)]
pub struct Placement {
    /// What a node needs.
    pub needs: String,
    /// How many agents would do.
    pub fitting: usize,
    /// Quotas that forbid it.
    pub quotas: Vec<String>,
    /// Agents that would not do, and why.
    pub agents: Vec<String>,
}

/// What became of one document.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Applied {
    /// The instance.
    pub name: String,
    /// `created`, `configured` or `unchanged`.
    pub result: String,
    /// The document's revision from now on.
    #[serde(default)]
    pub revision: i64,
}

/// The answer to documents that were applied.
#[derive(Debug, Deserialize)]
pub struct AppliedAll {
    /// One for each document.
    pub results: Vec<Applied>,
}

/// Problem details (RFC 9457), with our errors of documents.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Problem {
    /// What kind of problem.
    #[serde(default)]
    pub title: String,
    /// This one.
    #[serde(default)]
    pub detail: String,
    /// What is wrong with the documents.
    #[serde(default)]
    pub errors: Vec<DocumentError>,
}

impl Problem {
    /// What is wrong, by field: for a document that the user has never seen. `outcome`: what was not done.
    pub fn lines(self, outcome: &str) -> String {
        let Problem { title, detail, errors } = self;
        if errors.is_empty() {
            return if detail.is_empty() { title } else { detail };
        }
        let lines: Vec<String> = errors.iter().map(|error| format!("  {}: {}", error.path, error.message)).collect();
        format!("{outcome}:\n{}", lines.join("\n"))
    }
}

/// One thing that is wrong with a document.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DocumentError {
    /// Which document of the body, from 0; those without content are not counted.
    pub document: usize,
    /// The line in that document, from 1; 0: not known.
    pub line: usize,
    /// The column, from 1; 0: not known.
    pub column: usize,
    /// `spec.memory`; empty for the document itself.
    pub path: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}
