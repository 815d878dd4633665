//! What a Sentinel says of an instance: its master, its replicas, the other sentinels. I/O (reads the board).
//!
//! The fields and their order are those of Redis 7.0. What has no meaning here has the value that a
//! Sentinel shows of an undisturbed master.

use super::wire::Reply;
use crate::board::{Board, InstanceView, Peer};
use crate::model::{Role, Timestamp};
use crate::status::{ConditionStatus, ConditionType, NodeState, NodeStatus};

/// One leader decides; the others are told.
pub const QUORUM: usize = 1;
/// Hexadecimal digits of a run id.
const ID_DIGITS: usize = 40;

/// 40 hexadecimal digits that stand for a text, as Redis' run ids look.
pub fn run_id(of: &str) -> String {
    let mut id = crate::access::sha256_hex(of);
    id.truncate(ID_DIGITS);
    id
}

/// `host` and `port` of an address; brackets around an IPv6 address are taken off.
pub fn parts(address: &str) -> (&str, &str) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
}

/// How far a node is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Down {
    /// Not at all.
    #[default]
    No,
    /// It does not answer.
    Subjectively,
    /// It is dead.
    Objectively,
}

/// How far the master is gone.
pub fn master_down(view: &InstanceView) -> Down {
    let available = view.status.condition(ConditionType::MasterAvailable);
    match available.map(|condition| (condition.status, condition.reason.as_str())) {
        None | Some((ConditionStatus::True, _)) => Down::No,
        Some((ConditionStatus::False, "Dead")) => Down::Objectively,
        Some(_) => Down::Subjectively,
    }
}

/// How far a replica is gone.
pub fn replica_down(node: &NodeStatus) -> Down {
    match node.state {
        NodeState::NotAnswering | NodeState::Unreachable => Down::Subjectively,
        _ => Down::No,
    }
}

/// The replicas that clients may be told of: those that run, as far as is known.
pub fn replicas(view: &InstanceView) -> impl Iterator<Item = &NodeStatus> {
    let gone = |node: &NodeStatus| matches!(node.state, NodeState::Launching | NodeState::Dead | NodeState::Stopping);
    view.status.nodes.iter().filter(move |node| node.role == Role::Replica && !gone(node))
}

/// What is the same of all kinds, in the order that Sentinel has.
struct Fields(Vec<(Reply, Reply)>);

impl Fields {
    fn new(name: &str, address: &str, id: &str, flags: &str) -> Fields {
        let (ip, port) = parts(address);
        let mut fields = Fields(Vec::new());
        for (key, value) in [("name", name), ("ip", ip), ("port", port), ("runid", id), ("flags", flags)] {
            fields.add(key, value);
        }
        fields
    }

    fn add(&mut self, key: &str, value: impl std::fmt::Display + Copy) {
        self.0.push((Reply::text(key), Reply::text(value.to_string())));
    }

    fn link(&mut self, age_ms: u64, down: Down, down_after_ms: u64) {
        self.add("link-pending-commands", 0);
        self.add("link-refcount", 1);
        self.add("last-ping-sent", if down == Down::No { 0 } else { age_ms });
        self.add("last-ok-ping-reply", age_ms);
        self.add("last-ping-reply", age_ms);
        if down >= Down::Subjectively {
            self.add("s-down-time", age_ms);
        }
        if down >= Down::Objectively {
            self.add("o-down-time", age_ms);
        }
        self.add("down-after-milliseconds", down_after_ms);
    }

    fn role(&mut self, role: &str, age_ms: u64, since_ms: u64) {
        self.add("info-refresh", age_ms);
        self.add("role-reported", role);
        self.add("role-reported-time", since_ms);
    }
}

fn flags(kind: &str, down: Down) -> String {
    match down {
        Down::No => kind.to_string(),
        Down::Subjectively => format!("s_down,{kind}"),
        Down::Objectively => format!("s_down,o_down,{kind}"),
    }
}

/// Milliseconds since the condition of the master last changed.
fn since_ms(view: &InstanceView, now: Timestamp) -> u64 {
    let available = view.status.condition(ConditionType::MasterAvailable);
    available.map_or(0, |condition| now.since_ms(condition.last_transition_time))
}

fn down_after_ms(view: &InstanceView) -> u64 {
    view.instance.as_ref().map_or(0, |instance| instance.spec.failover.detect_within.0)
}

/// A master; none while nobody may be told of one.
pub fn master(view: &InstanceView, board: &Board, others: usize, now: Timestamp) -> Option<Reply> {
    let address = view.status.master.as_ref()?;
    // The record of a dead one may be gone.
    let node = view.status.nodes.iter().find(|node| node.address == *address);
    let task_id = node.map_or(address, |node| &node.task_id);
    let (down, since_ms) = (master_down(view), since_ms(view, now));
    let mut fields = Fields::new(&view.name, address, &run_id(task_id), &flags("master", down));
    let measured = board.measured(task_id);
    let age_ms = measured.map_or(0, |measured| now.since_ms(measured.at));
    fields.link(age_ms, down, down_after_ms(view));
    fields.role("master", age_ms, since_ms);
    fields.add("config-epoch", view.status.epoch);
    fields.add("num-slaves", replicas(view).count());
    fields.add("num-other-sentinels", others);
    fields.add("quorum", QUORUM);
    fields.add("failover-timeout", view.status.failover.map_or(0, |failover| failover.worst_case.0));
    fields.add("parallel-syncs", view.status.nodes.len().saturating_sub(1).max(1));
    Some(Reply::Map(fields.0))
}

/// A replica.
pub fn replica(view: &InstanceView, node: &NodeStatus, board: &Board, now: Timestamp) -> Reply {
    let down = replica_down(node);
    let mut fields = Fields::new(&node.address, &node.address, &run_id(&node.task_id), &flags("slave", down));
    let measured = board.measured(&node.task_id);
    let age_ms = measured.map_or(0, |measured| now.since_ms(measured.at));
    fields.link(age_ms, down, down_after_ms(view));
    fields.role("slave", age_ms, since_ms(view, now));
    let up = node.link.as_deref() == Some("up");
    let (host, port) = view.status.master.as_deref().map_or(("?", "0"), parts);
    fields
        .add("master-link-down-time", measured.map_or(0, |measured| measured.gauges.link_down_s.saturating_mul(1000)));
    fields.add("master-link-status", if up { "ok" } else { "err" });
    fields.add("master-host", host);
    fields.add("master-port", port);
    fields.add("slave-priority", 100);
    fields.add("slave-repl-offset", measured.map_or(node.offset.unwrap_or(0), |measured| measured.offset));
    fields.add("replica-announced", 1);
    Reply::Map(fields.0)
}

/// Another operator, if it answers as a sentinel.
pub fn sentinel(peer: &Peer) -> Option<Reply> {
    let mut fields = Fields::new(&peer.id, peer.sentinel.as_ref()?, &peer.id, "sentinel");
    fields.link(0, Down::No, 0);
    fields.add("last-hello-message", 0);
    fields.add("voted-leader", "?");
    fields.add("voted-leader-epoch", 0);
    Some(Reply::Map(fields.0))
}
