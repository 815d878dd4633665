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
//! | `operator/key` | the first leader | what all passwords follow from: [`crate::passwords::Key`] |
//! | `operator/leader` | candidates | who leads, and where its API is |
//! | `operators/ID` | each operator | [`crate::board::Peer`]: where it listens; gone soon after it |

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures::stream::BoxStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

mod etcd;
mod file;
mod process;

pub use etcd::{Credentials, EtcdStore, NO_PASSWORDS, STORE_FORMS};
pub use file::FileStore;
pub use process::Process;

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
/// The key of passwords that a user has chosen.
pub fn secret_key(name: &str) -> String {
    format!("secrets/{name}")
}
/// The key of an operator that runs.
pub fn operator_key(id: &str) -> String {
    format!("{OPERATORS}{id}")
}
/// The operators that run, below this.
pub const OPERATORS: &str = "operators/";
/// The key of the framework id.
pub const FRAMEWORK_KEY: &str = "operator/framework";
/// The key that all passwords follow from.
pub const SECRET_KEY: &str = "operator/key";
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
    /// Never empty. All changes of one transaction come together.
    pub changes: Vec<Change>,
    /// The revision up to which everything has been seen: watch on from here.
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
    /// All must hold. At most [`TXN_OPS_MAX`].
    pub guards: Vec<Guard>,
    /// In order; no key twice. At most [`TXN_OPS_MAX`].
    pub ops: Vec<Op>,
}

/// The most ops of a transaction, and the most guards, each counted for itself: etcd's
/// `--max-txn-ops` is 128 by default.
pub const TXN_OPS_MAX: usize = 128;

impl Op {
    /// The key that is written or deleted.
    pub fn key(&self) -> &str {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }
}

impl Txn {
    /// Both stores refuse the same transactions, with the same words.
    fn check(&self) -> Result<(), Error> {
        for (what, count) in [("guards", self.guards.len()), ("writes", self.ops.len())] {
            if count > TXN_OPS_MAX {
                return Err(Error::Unavailable(anyhow!(
                    "a transaction of {count} {what} was refused: at most {TXN_OPS_MAX} are allowed"
                )));
            }
        }
        let mut keys = BTreeSet::new();
        match self.ops.iter().find(|op| !keys.insert(op.key())) {
            Some(op) => Err(Error::Unavailable(anyhow!(
                "a transaction was refused: it writes {} twice, and once is allowed",
                op.key()
            ))),
            None => Ok(()),
        }
    }
}

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

/// Why a transaction is refused, given the `(created, revision)` of each guard's key, `(0, 0)` for a
/// key that does not exist. None when all guards hold. Lost leadership goes before a conflict.
fn refusal<'a>(found: impl Iterator<Item = (&'a Guard, (i64, i64))>) -> Option<Error> {
    let mut conflict = None;
    for (guard, (created, revision)) in found {
        match guard {
            Guard::Leader(token) if token.created != created => return Some(Error::NotLeader),
            Guard::Revision { key, revision: expected } if *expected != revision => {
                let told = match (expected, revision) {
                    (0, _) => format!("{key} exists, since revision {created}"),
                    (_, 0) => format!("{key} was deleted, and had revision {expected}"),
                    _ => format!("{key} has revision {revision}, and had {expected}"),
                };
                conflict.get_or_insert(told);
            }
            Guard::Leader(_) | Guard::Revision { .. } => {}
        }
    }
    conflict.map(Error::Conflict)
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
    /// Which process it is, so that its end can be proved on its own machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// It knows that the store is not sound, and does nothing but say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
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
    /// Opens `etcd://HOST:PORT[,HOST:PORT...]/PREFIX` or `file:PATH`, without credentials.
    pub async fn open(url: &str) -> Result<Store> {
        Store::open_as(url, Credentials::default()).await
    }

    /// Opens `etcd://HOST:PORT[,HOST:PORT...]/PREFIX`, the same with TLS by `etcds://`, or `file:PATH`.
    ///
    /// etcd is not asked for anything yet: that it is down shows at the first call, and a handle
    /// works again as soon as etcd does. A file is created when it does not exist.
    pub async fn open_as(url: &str, credentials: Credentials) -> Result<Store> {
        if let Some(path) = url.strip_prefix("file:") {
            let path = std::path::PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            let opened = tokio::task::spawn_blocking(move || FileStore::open(&path)).await;
            return Ok(Store::File(opened.context("open the store's file")??));
        }
        anyhow::ensure!(!url.contains('@'), NO_PASSWORDS);
        for (scheme, tls) in [("etcd://", false), ("etcds://", true)] {
            if let Some(rest) = url.strip_prefix(scheme) {
                let opened = EtcdStore::open(rest, tls, credentials);
                return Ok(Store::Etcd(opened.with_context(|| format!("--store {url:?}"))?));
            }
        }
        anyhow::bail!("--store {url:?}: {STORE_FORMS}")
    }

    /// All keys that start with `prefix`, at one revision. An empty prefix lists everything of ours.
    pub async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        both!(self, s => s.list(prefix).await)
    }

    /// One key.
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        both!(self, s => s.get(key).await)
    }

    /// Carries out a transaction; answers its revision. A transaction that changes nothing (it only
    /// deletes keys that do not exist, or has no ops) answers the store's revision.
    ///
    /// After [`Error::Unavailable`] the transaction may or may not have been carried out.
    pub async fn commit(&self, txn: Txn) -> Result<i64, Error> {
        txn.check()?;
        both!(self, s => s.commit(txn).await)
    }

    /// Changes of keys that start with `prefix`, from the one after `revision` on. Silence of the
    /// store longer than a few seconds is an error (etcd is asked for signs of life). A revision
    /// that the store has not reached (it was rolled back) is [`Error::Compacted`] too: list again.
    pub async fn watch(&self, prefix: &str, revision: i64) -> Result<Watch, Error> {
        both!(self, s => s.watch(prefix, revision).await)
    }

    /// Waits until leadership is won, and holds it: see [`Leadership`]. After an error: campaign again. Dropping the
    /// call ends the campaign. Who campaigns leads no more: a key that is left of its former leadership is deleted.
    pub async fn campaign(&self, candidate: &Candidate, ttl: Duration) -> Result<Leadership, Error> {
        both!(self, s => s.campaign(candidate, ttl).await)
    }

    /// Keeps a key for as long as the call lasts, which is until it is dropped, and `ttl` longer. A
    /// file has one process, which knows of itself: there nothing is written.
    pub async fn announce(&self, key: &str, value: &[u8], ttl: Duration) {
        match self {
            Store::Etcd(store) => store.announce(key, value, ttl).await,
            Store::File(_) => std::future::pending().await,
        }
    }
}

/// Held leadership. Kept alive in the background until dropped; dropping it gives it up at once
/// where the store can be reached (otherwise it lapses after its time to live).
pub struct Leadership {
    /// Guards writes.
    pub token: LeaderToken,
    /// Becomes false when leadership is lost or can no longer be proved: by our own clock before
    /// the store lets another one win.
    pub held: watch::Receiver<bool>,
    /// Until when it is proved, by our own clock; `None`: for as long as the process lives.
    proved_until: watch::Receiver<Option<Instant>>,
    /// Dropped, it tells the upkeep to give up the leadership.
    stop: oneshot::Sender<()>,
    upkeep: JoinHandle<()>,
}

/// What the upkeep of a [`Leadership`] works with.
struct Upkeep {
    held: watch::Sender<bool>,
    proved_until: watch::Sender<Option<Instant>>,
    /// Resolves when the leadership is to be given up.
    stop: oneshot::Receiver<()>,
}

impl Leadership {
    /// `upkeep` keeps it alive, and when it ends (of itself or because of `stop`) it has said so
    /// through `held` and given the leadership up.
    fn start<F>(token: LeaderToken, proved_until: Option<Instant>, upkeep: impl FnOnce(Upkeep) -> F) -> Leadership
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (held_sender, held) = watch::channel(true);
        let (proved_sender, proved_until) = watch::channel(proved_until);
        let (stop, stopped) = oneshot::channel();
        let upkeep = tokio::spawn(upkeep(Upkeep { held: held_sender, proved_until: proved_sender, stop: stopped }));
        Leadership { token, held, proved_until, stop, upkeep }
    }

    /// Whether leadership is proved at this very moment. Sharper than `held` after this process was
    /// stopped for a while: `held` turns false only when its task runs again. Ask it before an act
    /// that the store does not guard.
    pub fn is_held(&self) -> bool {
        *self.held.borrow() && self.proved_until.borrow().is_none_or(|until| Instant::now() < until)
    }

    /// Gives the leadership up and waits until the store knows, so that a standby takes over at
    /// once. `held` turns false first. Bounded to a few seconds when the store does not answer.
    pub async fn resign(self) {
        drop(self.stop);
        // The upkeep cannot fail in a way that we could mend: at worst the lease lapses.
        let _ = self.upkeep.await;
    }
}
