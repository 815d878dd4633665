//! Redis, as a probe saw it. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Timestamp;

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

/// Connections that a node should have room for: those of its replicas, and ours.
const CLIENTS_SPARE: u64 = 8;
/// Connections may take this part of `maxmemory`: by as much a task is larger.
const CLIENTS_PART: u64 = 8;

/// What a node answered to INFO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // INFO has each by itself.
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
    /// `master_replid`: names the history of writes that the data set comes from.
    pub replid: String,
    /// `master_replid2`: the history before that, since when this node or its master was promoted.
    #[serde(default)]
    pub replid2: String,
    /// The offset up to which that history is its own, too (`second_repl_offset`, less one).
    #[serde(default)]
    pub parted_at: Option<u64>,
    /// Replicas: seconds since the master was last heard (`master_last_io_seconds_ago`).
    #[serde(default)]
    pub last_io_s: Option<u64>,
    /// `used_memory`, in bytes.
    pub used_memory: u64,
    /// `maxmemory`, in bytes.
    pub max_memory: u64,
    /// Keys in all databases.
    pub keys: u64,
    /// `connected_slaves`.
    pub connected_replicas: u32,
    /// Who follows it, as they announce themselves; no more than some.
    #[serde(default)]
    pub replicas: Vec<Address>,
    /// What it last wanted to write to its disk, it could not.
    #[serde(default)]
    pub disk_fails: bool,
    /// What it counts and measures, for people.
    #[serde(default)]
    pub gauges: Gauges,
}

/// What a node counts and measures since it started. Nothing is decided by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gauges {
    /// `uptime_in_seconds`.
    pub uptime_s: u64,
    /// `connected_clients`: replicas are not counted, the operator is.
    pub clients: u64,
    /// `maxclients`: replicas count; 0: not told.
    pub max_clients: u64,
    /// `mem_clients_normal`: what connections take, replicas' apart.
    pub clients_memory: u64,
    /// `mem_not_counted_for_evict`: a part of the used memory that `maxmemory` does not bound.
    pub uncounted_memory: u64,
    /// `total_commands_processed`.
    pub commands: u64,
    /// `keyspace_hits`.
    pub hits: u64,
    /// `keyspace_misses`.
    pub misses: u64,
    /// `evicted_keys`.
    pub evicted: u64,
    /// `expired_keys`.
    pub expired: u64,
    /// `master_link_down_since_seconds`; 0: the link is up, or it is a master.
    pub link_down_s: u64,
    /// `master_last_io_seconds_ago`; 0 of a master.
    pub last_io_s: u64,
    /// `rdb_last_save_time`, in seconds since 1970: the last save that succeeded, or the start.
    pub last_save_s: u64,
}

impl Answer {
    /// Whether the other says the same but for gauges: how far it has got, and how full it is. A
    /// node that is well tells other gauges all the time, and nothing follows from them.
    pub fn is_like(&self, other: &Answer) -> bool {
        let flags = |a: &Answer| {
            let room = (a.disk_fails, a.is_full(), a.is_crowded(), a.is_out_of_memory());
            (a.role, a.link_up, a.syncing, a.loading, a.keys > 0, a.is_blank(), room)
        };
        let numbers = |a: &Answer| (a.max_memory, a.connected_replicas);
        flags(self) == flags(other)
            && numbers(self) == numbers(other)
            && self.follows == other.follows
            && self.replicas == other.replicas
            && self.replid == other.replid
            && self.replid2 == other.replid2
    }

    /// Whether the node has nothing that could be lost: no keys, and no write was ever replicated
    /// to or from it. (Redis reports the offset of a replica that never had a link as 1.)
    pub fn is_blank(&self) -> bool {
        self.keys == 0 && self.offset <= 1 && !self.syncing && !self.loading
    }

    /// Whether it takes hardly any more connections, of replicas neither.
    pub fn is_full(&self) -> bool {
        let open = self.gauges.clients + u64::from(self.connected_replicas);
        self.gauges.max_clients > 0 && open + CLIENTS_SPARE >= self.gauges.max_clients
    }

    /// Whether its connections take more memory than its task has beside `maxmemory`.
    pub fn is_crowded(&self) -> bool {
        self.max_memory > 0 && self.gauges.clients_memory > self.max_memory / CLIENTS_PART
    }

    /// Whether its memory is used up: it refuses what would take more, unless it can evict keys.
    pub fn is_out_of_memory(&self) -> bool {
        self.max_memory > 0 && self.used_memory.saturating_sub(self.gauges.uncounted_memory) > self.max_memory
    }

    /// Whether it has all of some data set, which is not nothing.
    pub fn is_whole(&self) -> bool {
        (self.keys > 0 || self.offset > 1) && !self.syncing && !self.loading
    }

    /// Whether a process that answered so before cannot be the one that answers this: a master's
    /// offset never falls, and when its history gets another name it goes on from the old one.
    pub fn is_a_stranger_to(&self, before: &Answer) -> bool {
        let related = self.goes_on_from(&before.replid);
        self.role == Role::Master && !related && self.offset < before.offset && !self.loading
    }

    /// Whether its data goes on from that history: it is its own, or the one before.
    pub fn goes_on_from(&self, replid: &str) -> bool {
        [&*self.replid, &*self.replid2].contains(&replid)
    }

    /// The offset up to which two nodes have the same data, by the histories that they tell; none: they tell of
    /// none in common.
    pub fn parts_from(&self, other: &Answer) -> Option<u64> {
        let parted = |a: &Answer, replid: &str| a.parted_at.filter(|_| !replid.is_empty() && a.replid2 == replid);
        if self.replid == other.replid {
            return Some(self.offset.min(other.offset));
        }
        let both = (!self.replid2.is_empty() && self.replid2 == other.replid2)
            .then(|| Some(self.parted_at?.min(other.parted_at?)))
            .flatten();
        parted(self, &other.replid).or_else(|| parted(other, &self.replid)).or(both)
    }

    /// Whether data may be on its way to the node: it follows somebody, and the link is not broken.
    pub fn may_receive(&self) -> bool {
        self.role == Role::Replica && self.link_up
    }

    /// What it has.
    pub fn data(&self) -> DataSet {
        DataSet { replid: self.replid.clone(), offset: self.offset, empty: self.keys == 0 }
    }
}

/// A data set, as far as a node's answers tell one from another.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSet {
    /// Its history.
    pub replid: String,
    /// How far it has got.
    pub offset: u64,
    /// There are no keys in it.
    pub empty: bool,
}

impl DataSet {
    /// Whether the node that answers has it still; more may have come.
    pub fn is_in(&self, answer: &Answer) -> bool {
        let whole = !answer.loading && !answer.syncing && (self.empty || answer.keys > 0);
        whole && answer.replid == self.replid && answer.offset >= self.offset
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
    /// Connected, and no reply in time: it hangs, or is busy.
    Timeout,
    /// No connection in time, or no way to the agent: silence, which proves nothing.
    Unreachable,
    /// It lives, and is busy with a script or a function (BUSY).
    Busy,
    /// It lives, and a client has paused it (CLIENT PAUSE): it takes no command, ours neither.
    Paused,
    /// It lives, and wants a password that is none of ours (NOAUTH, WRONGPASS).
    NoAuth,
    /// It lives, and our user has not the right to ask (NOPERM).
    NoPerm,
    /// It lives, and takes no more connections ("max number of clients reached").
    Full,
    /// It lives, and a later leader commands it.
    Commanded,
    /// It lives, and replies with another error instead of INFO.
    Error,
    /// A reply that is not Redis'.
    Garbled,
    /// Another process has its port: it has not the mark of the node's task, or answers as a master with other
    /// data. The node does not run any more.
    Stranger,
    /// It takes no password of ours, so that it cannot prove to be the node's task.
    Unproved,
}

impl NoAnswer {
    /// What an error reply says, by Redis' own code at its begin.
    pub fn of_error(reply: &str) -> NoAnswer {
        let reply = reply.trim_start_matches('-');
        match reply.split([' ', ':']).next().unwrap_or_default() {
            "BUSY" => NoAnswer::Busy,
            "NOAUTH" | "WRONGPASS" => NoAnswer::NoAuth,
            "NOPERM" => NoAnswer::NoPerm,
            "ERR" if reply.contains("max number of clients") => NoAnswer::Full,
            _ => NoAnswer::Error,
        }
    }

    /// Whether somebody has replied, and not shown to be the node: another process may have its port.
    pub fn is_of_another(self) -> bool {
        matches!(self, NoAnswer::Stranger | NoAnswer::Unproved)
    }

    /// Whether the process has replied: it lives, whatever is wrong with it.
    pub fn lives(self) -> bool {
        match self {
            NoAnswer::Refused
            | NoAnswer::Reset
            | NoAnswer::Timeout
            | NoAnswer::Unreachable
            | NoAnswer::Garbled
            | NoAnswer::Unproved
            | NoAnswer::Stranger => false,
            NoAnswer::Busy
            | NoAnswer::Paused
            | NoAnswer::NoAuth
            | NoAnswer::NoPerm
            | NoAnswer::Full
            | NoAnswer::Commanded
            | NoAnswer::Error => true,
        }
    }

    /// What a person can do about it.
    pub fn way_out(self) -> &'static str {
        match self {
            NoAnswer::Busy => "SCRIPT KILL or FUNCTION KILL there ends it, unless it has written",
            NoAnswer::Paused => "it ends by itself when its time is over",
            NoAnswer::NoAuth | NoAnswer::NoPerm => {
                "somebody has changed its users or passwords: change them back there, or replace it"
            }
            NoAnswer::Full => "end clients, or raise maxclients",
            NoAnswer::Commanded => "this operator leads no more, or a former one left connections there",
            _ => "ask it yourself",
        }
    }

    /// One word, for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            NoAnswer::Refused => "refused",
            NoAnswer::Reset => "reset",
            NoAnswer::Timeout => "timeout",
            NoAnswer::Unreachable => "unreachable",
            NoAnswer::Busy => "busy",
            NoAnswer::Paused => "paused",
            NoAnswer::NoAuth => "noauth",
            NoAnswer::NoPerm => "noperm",
            NoAnswer::Full => "full",
            NoAnswer::Commanded => "commanded",
            NoAnswer::Error => "error",
            NoAnswer::Garbled => "garbled",
            NoAnswer::Stranger => "stranger",
            NoAnswer::Unproved => "unproved",
        }
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoAnswer::Refused => "nobody listens on its port",
            NoAnswer::Reset => "it closes every connection",
            NoAnswer::Timeout => "it takes connections and does not reply",
            NoAnswer::Unreachable => "there is no way to it",
            NoAnswer::Busy => "it is busy with a script or a function (BUSY)",
            NoAnswer::Paused => "a client has paused it (CLIENT PAUSE)",
            NoAnswer::NoAuth => "it wants a password that is none of ours (NOAUTH)",
            NoAnswer::NoPerm => "it does not let our user ask (NOPERM)",
            NoAnswer::Full => "it takes no more connections (max number of clients reached)",
            NoAnswer::Commanded => "a later leader commands it",
            NoAnswer::Error => "it replies with an error to INFO",
            NoAnswer::Garbled => "what replies is not Redis",
            NoAnswer::Stranger => "another process has its port",
            NoAnswer::Unproved => "what replies takes no password of ours, and is not proved to be it",
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
    /// An answer: when it was asked; it knows of everything before. The same of the prober's errors
    /// and of error replies.
    ///
    /// Errors of a watch: since when the node is silent, so that silence can be counted from it. That
    /// is the moment of its last reply, or later, if we were not asking: no more than one interval of
    /// PINGs before the first question that stayed without reply; time in which we did not run is
    /// not counted.
    pub at: Timestamp,
    /// When the outcome was known. The time that the operator takes to read it is nobody's silence.
    pub until: Timestamp,
    /// It comes from the watch of a master.
    pub watched: bool,
}
