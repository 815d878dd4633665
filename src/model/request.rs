//! Requests: what users ask for beside the spec. Pure.

use serde::{Deserialize, Serialize};

use super::Timestamp;
use crate::plain::{NAME_CHARS_MAX, is_name, plain};

/// What a user asked for beside the spec; under `requests/NAME/KIND` until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestKind {
    /// Delete the instance.
    Delete,
    /// Start it again, empty, after all its nodes were lost (`onDataLoss: hold`).
    Recreate,
    /// Make another node the master.
    Failover,
    /// Changes that were made through the API are to be told of.
    Audit,
    /// Make new passwords.
    Rotate,
}

impl RequestKind {
    /// As in the key: `delete`.
    pub fn as_str(self) -> &'static str {
        match self {
            RequestKind::Delete => "delete",
            RequestKind::Recreate => "recreate",
            RequestKind::Failover => "failover",
            RequestKind::Audit => "audit",
            RequestKind::Rotate => "rotate",
        }
    }
}

/// The body of a request's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// When it was made.
    pub at: Timestamp,
    /// For `delete`: the revision of the document that is to go. A document that was written
    /// later survives: the name is used again.
    #[serde(default)]
    pub revision: i64,
    /// For `failover`: the name of the node that shall be the master; none: the operator chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// For `failover`: do it though confirmed writes may be lost. The user was told which.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// For `rotate`: how long the former passwords stay valid, in milliseconds; none: a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_ms: Option<u64>,
    /// For `audit`: what was changed, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<AuditedChange>,
}

impl Request {
    /// Changes that are kept until the leader tells of them: more only come while there is none.
    pub const CHANGES_MAX: usize = 50;
    /// The longest request: that many changes, each told in a line.
    const BYTES_MAX: usize = 64 << 10;
    /// The longest time that is believed: 52 weeks.
    const KEEP_MAX_MS: u64 = 52 * 7 * 24 * 3_600_000;

    /// Reads a request, which others than operators may have written. Of changes the newest are kept.
    pub fn read(value: &[u8]) -> Result<Request, String> {
        if value.len() > Request::BYTES_MAX {
            return Err(format!("it has {} bytes: allowed are {}", value.len(), Request::BYTES_MAX));
        }
        let mut request: Request = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        if request.to.as_ref().is_some_and(|to| !is_name(to)) {
            return Err("to: is no name of a node".to_string());
        }
        request.keep_ms = request.keep_ms.map(|ms| ms.min(Request::KEEP_MAX_MS));
        let excess = request.changes.len().saturating_sub(Request::CHANGES_MAX);
        request.changes.drain(..excess);
        for change in &mut request.changes {
            change.by = plain(&change.by, NAME_CHARS_MAX);
            change.what = plain(&change.what, NAME_CHARS_MAX);
        }
        Ok(request)
    }
}

/// A change that was made through the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedChange {
    /// When.
    pub at: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// What was done: `configured`.
    pub what: String,
}
