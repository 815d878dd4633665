//! The store: ordered keys with revisions, guarded transactions, watches and leadership. I/O.
//!
//! Two stores stand behind one interface: etcd, and a file for the local mode and one-machine
//! set-ups. One suite of tests (`tests/store.rs`) runs on both.
//!
//! Keys, below the prefix of the store:
//!
//! | key | written by | holds |
//! |---|---|---|
//! | `instances/NAME` | users | the document, YAML or JSON, as written |
//! | `state/NAME` | the leader | [`crate::model::InstanceRecord`]: last good spec, epoch, master |
//! | `nodes/NAME/ORDINAL` | the leader | [`crate::model::NodeRecord`] |
//! | `status/NAME` | the leader | [`crate::status::InstanceStatus`] |
//! | `events/NAME` | the leader | the newest [`crate::model::InstanceEvent`]s |
//! | `requests/NAME/KIND` | the API | [`crate::model::Request`] |
//! | `operator/framework` | the leader | the framework id |
//! | `operator/leader` | candidates | who leads, and where its API is |

use std::time::Duration;

use anyhow::Result;
use futures::stream::BoxStream;

mod etcd;
mod file;

pub use etcd::EtcdStore;
pub use file::FileStore;

/// The key of the user's document.
pub fn instance_key(name: &str) -> String {
    format!("instances/{name}")
}
/// The key of the instance's record.
pub fn state_key(name: &str) -> String {
    format!("state/{name}")
}
/// The key of a node's record.
pub fn node_key(name: &str, ordinal: u32) -> String {
    format!("nodes/{name}/{ordinal}")
}
/// The key of the instance's status.
pub fn status_key(name: &str) -> String {
    format!("status/{name}")
}
/// The key of the instance's events.
pub fn events_key(name: &str) -> String {
    format!("events/{name}")
}
/// The key of a request.
pub fn request_key(name: &str, kind: crate::model::RequestKind) -> String {
    format!("requests/{name}/{}", kind.as_str())
}
/// The key of the framework id.
pub const FRAMEWORK_KEY: &str = "operator/framework";
/// The key that the leader holds.
pub const LEADER_KEY: &str = "operator/leader";

/// A key with its value and revisions. Keys never have the store's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Without the store's prefix.
    pub key: String,
    /// As written.
    pub value: Vec<u8>,
    /// The revision of the last write (`mod_revision`).
    pub revision: i64,
    /// The revision at which the key came to be (`create_revision`).
    pub created: i64,
}

/// All keys below a prefix, at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In the order of their keys.
    pub items: Vec<KeyValue>,
    /// The revision at which this is the truth.
    pub revision: i64,
    /// Tells one store from another (etcd's cluster id): revisions compare only within one.
    pub store_id: u64,
}

/// A change that a watch saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was written.
    Put(KeyValue),
    /// The key was deleted.
    Delete {
        /// Without the store's prefix.
        key: String,
        /// The revision of the deletion.
        revision: i64,
    },
}

/// The changes of one transaction or more, in the order of their revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Never empty, except as a sign of life.
    pub changes: Vec<Change>,
    /// The revision up to which everything has been seen.
    pub revision: i64,
}

/// What must be so for a transaction to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key's last write has this revision; 0: the key does not exist.
    Revision {
        /// Without the store's prefix.
        key: String,
        /// `mod_revision`.
        revision: i64,
    },
    /// This leadership is still held.
    Leader(LeaderToken),
}

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write a key.
    Put {
        /// Without the store's prefix.
        key: String,
        /// The value.
        value: Vec<u8>,
    },
    /// Delete a key, if it exists.
    Delete {
        /// Without the store's prefix.
        key: String,
    },
}

/// All or nothing: when every guard holds, every op is done, at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub guards: Vec<Guard>,
    /// In order; no key twice. At most [`TXN_OPS_MAX`].
    pub ops: Vec<Op>,
}

/// The most ops of a transaction: etcd's `--max-txn-ops` is 128 by default, guards not counted.
pub const TXN_OPS_MAX: usize = 128;

/// Proof of leadership: the key was created at this revision by us. It differs at every election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderToken {
    /// Revision at which [`LEADER_KEY`] was created.
    pub created: i64,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A guard did not hold: nothing was written. Read again and plan again.
    #[error("the store has changed meanwhile: {0}")]
    Conflict(String),
    /// The leader's guard did not hold: nothing was written. Step down.
    #[error("this operator is no longer the leader")]
    NotLeader,
    /// The history at that revision is compacted: list again.
    #[error("the store's history before revision {0} is compacted")]
    Compacted(i64),
    /// The store did not answer in time, or refused; whether a write was done is not known.
    #[error("the store is not available: {0:#}")]
    Unavailable(anyhow::Error),
}

/// A watch: ends after its first error.
pub type Watch = BoxStream<'static, Result<Changes, Error>>;

/// Who leads, as kept under [`LEADER_KEY`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Candidate {
    /// Unique for a process: host, pid and a random part.
    pub id: String,
    /// `http://host:port` of its API, where standbys send what only the leader can answer.
    pub api: String,
}

/// Where instances are declared and recorded.
#[derive(Clone)]
pub enum Store {
    /// etcd v3.
    Etcd(EtcdStore),
    /// A file, held by one process at a time.
    File(FileStore),
}

macro_rules! both {
    ($self:expr, $store:ident => $call:expr) => {
        match $self {
            Store::Etcd($store) => $call,
            Store::File($store) => $call,
        }
    };
}

impl Store {
    /// Opens `etcd://HOST:PORT[,HOST:PORT...]/PREFIX` or `file:PATH`.
    pub async fn open(url: &str) -> Result<Store> {
        if let Some(path) = url.strip_prefix("file:") {
            return Ok(Store::File(FileStore::open(path.trim_start_matches("//").as_ref())?));
        }
        if let Some(rest) = url.strip_prefix("etcd://") {
            return Ok(Store::Etcd(EtcdStore::open(rest).await?));
        }
        anyhow::bail!("--store {url:?}: allowed are etcd://HOST:PORT[,HOST:PORT...]/PREFIX and file:PATH")
    }

    /// All keys that start with `prefix`, at one revision. An empty prefix lists everything of ours.
    pub async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        both!(self, s => s.list(prefix).await)
    }

    /// One key.
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        both!(self, s => s.get(key).await)
    }

    /// Carries out a transaction; answers its revision.
    pub async fn commit(&self, txn: Txn) -> Result<i64, Error> {
        both!(self, s => s.commit(txn).await)
    }

    /// Changes of keys that start with `prefix`, from the one after `revision` on. Silence of the
    /// store longer than a few seconds is an error (etcd is asked for signs of life).
    pub async fn watch(&self, prefix: &str, revision: i64) -> Result<Watch, Error> {
        both!(self, s => s.watch(prefix, revision).await)
    }

    /// Waits until leadership is won, and holds it: see [`Leadership`].
    pub async fn campaign(&self, candidate: &Candidate, ttl: Duration) -> Result<Leadership, Error> {
        both!(self, s => s.campaign(candidate, ttl).await)
    }
}

/// Held leadership. Kept alive in the background until dropped; dropping it gives it up at once
/// where the store can be reached (otherwise it lapses after its time to live).
pub struct Leadership {
    /// Guards writes.
    pub token: LeaderToken,
    /// Becomes false when leadership is lost or can no longer be proved: by our own clock before
    /// the store lets another one win.
    pub held: tokio::sync::watch::Receiver<bool>,
    /// Ends the upkeep when dropped.
    #[allow(dead_code)] // Held for its drop.
    keeper: tokio_util::task::AbortOnDropHandle<()>,
}
