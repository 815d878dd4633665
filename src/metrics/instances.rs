//! What is known of instances and nodes, for Prometheus. I/O (reads the board).
//!
//! No Redis is asked: the values are those that the probes last saw, and `redisctl_node_answer_age_seconds`
//! says how old they are. Only the leader probes, so only the leader tells them. The label is
//! `redisinstance`, for `instance` is Prometheus' own word for whom it scrapes.
//!
//! The text is written here, not by the prometheus crate: at 3,000 nodes it has 60,000 lines, which the
//! crate would keep as as many objects.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::Metrics;

use crate::board::{Board, InstanceView, Measured};
use crate::model::{Role, Timestamp};
use crate::status::{ConditionStatus, ConditionType, NodeState, NodeStatus};

const MS: f64 = 1000.0;

/// One name with its lines.
struct Family {
    name: &'static str,
    text: String,
}

impl Family {
    fn new(name: &'static str, kind: &str, help: &str) -> Family {
        Family { name, text: format!("# HELP {name} {help}\n# TYPE {name} {kind}\n") }
    }

    fn add(&mut self, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{}{{{labels}}} {value}", self.name); // Writing to a String cannot fail.
    }
}

macro_rules! families {
    ($name:ident: $($field:ident $metric:literal $kind:literal $help:literal,)+) => {
        struct $name { $($field: Family),+ }
        impl $name {
            fn new() -> $name {
                $name { $($field: Family::new($metric, $kind, $help)),+ }
            }
            fn append(self, out: &mut String) {
                $(out.push_str(&self.$field.text);)+
            }
        }
    };
}

families! { OfInstances:
    phase "redisctl_instance_phase" "gauge" "1 for the phase that the instance is in.",
    ready "redisctl_instance_ready" "gauge" "1: all as declared.",
    available "redisctl_instance_master_available" "gauge" "1: the master takes writes.",
    undecided "redisctl_instance_no_safe_candidate" "gauge" "1: nobody can take the lost master's place safely; somebody has to decide.",
    epoch "redisctl_instance_epoch" "counter" "Promotions.",
    declared "redisctl_instance_nodes_declared" "gauge" "Nodes that the spec asks for.",
    nodes_ready "redisctl_instance_nodes_ready" "gauge" "Nodes that are ready.",
    promised "redisctl_instance_confirmations_promised" "gauge"
        "Replicas that must confirm a write so that no failover loses it, as declared: the k of WAIT k.",
    in_force "redisctl_instance_confirmations_in_force" "gauge"
        "The k that holds now: less than promised until enough replicas have all data.",
    in_sync "redisctl_instance_replicas_in_sync" "gauge" "Replicas that follow the master, link up.",
    unreplicated "redisctl_instance_unreplicated_bytes" "gauge"
        "Bytes of the master's replication stream that no replica had when last asked.",
    gaps "redisctl_instance_write_gaps_total" "counter"
        "How often no master took writes, since this operator leads.",
    gap_seconds "redisctl_instance_write_gap_seconds_total" "counter"
        "How long no master took writes, as the operator saw it, since it leads.",
    events "redisctl_instance_events" "gauge" "Events that are kept, each with how often it happened.",
    window "redisctl_instance_loss_window_seconds" "gauge"
        "How long a master that hangs or is cut off may take writes that are lost.",
}

families! { OfNodes:
    up "redisctl_node_up" "gauge" "1: the node is ready: it answers, in its role, with its data.",
    master "redisctl_node_is_master" "gauge" "1: the node is recorded as the master.",
    age "redisctl_node_answer_age_seconds" "gauge" "Time since the node last answered a probe.",
    uptime "redisctl_node_uptime_seconds" "gauge" "Time since redis-server started.",
    used "redisctl_node_memory_used_bytes" "gauge" "Memory that Redis uses.",
    max "redisctl_node_memory_max_bytes" "gauge" "Redis' maxmemory.",
    keys "redisctl_node_keys" "gauge" "Keys in all databases.",
    clients "redisctl_node_clients" "gauge" "Connected clients, the operator among them.",
    clients_memory "redisctl_node_clients_memory_bytes" "gauge" "Memory that connected clients take.",
    commands "redisctl_node_commands_total" "counter" "Commands processed.",
    hits "redisctl_node_keyspace_hits_total" "counter" "Lookups that found a key.",
    misses "redisctl_node_keyspace_misses_total" "counter" "Lookups that found none.",
    evicted "redisctl_node_evicted_keys_total" "counter" "Keys evicted for want of memory.",
    expired "redisctl_node_expired_keys_total" "counter" "Keys whose time was over.",
    offset "redisctl_node_replication_offset_bytes" "counter" "Replication offset.",
    lag "redisctl_node_replication_lag_bytes" "gauge" "Bytes behind the master, as both last said; replicas only.",
    link "redisctl_node_link_up" "gauge" "1: the link to the master is up; replicas only.",
    link_down "redisctl_node_link_down_seconds" "gauge" "Time since the link to the master went down; replicas only.",
    saved "redisctl_node_last_save_timestamp_seconds" "gauge" "When the data was last saved, or the start.",
}

/// Appends all that is known of these instances and their nodes.
pub(super) fn render(metrics: &Metrics, board: &Board, shows: impl Fn(&str) -> bool, now: Timestamp, out: &mut String) {
    let (mut instances, mut nodes) = (OfInstances::new(), OfNodes::new());
    for view in board.list().iter().filter(|view| shows(&view.name)) {
        of_instance(view, metrics.gaps(&view.name), &mut instances);
        let master = view.status.nodes.iter().find(|node| node.role == Role::Master);
        let master_offset = master.and_then(|master| board.measured(&master.task_id)).map(|measured| measured.offset);
        // The record of a dead replica stays for as long as its process may run, which nobody is to be woken up for.
        let counts = |node: &&NodeStatus| node.state != NodeState::Dead || node.role == Role::Master;
        for node in view.status.nodes.iter().filter(counts) {
            of_node(&view.name, node, board.measured(&node.task_id), master_offset, now, &mut nodes);
        }
    }
    instances.append(out);
    nodes.append(out);
}

fn of_instance(view: &InstanceView, (gaps, gap): (u64, Duration), all: &mut OfInstances) {
    let status = &view.status;
    let labels = format!("redisinstance=\"{}\"", escaped(&view.name));
    let holds = |kind| status.condition(kind).is_some_and(|condition| condition.status == ConditionStatus::True);
    let ready = |role: Option<Role>| {
        let nodes = status.nodes.iter().filter(|node| node.state == NodeState::Ready);
        nodes.filter(|node| role.is_none_or(|role| node.role == role)).count()
    };
    all.phase.add(&format!("{labels},phase=\"{}\"", status.phase), 1);
    all.ready.add(&labels, u8::from(holds(ConditionType::Ready)));
    all.available.add(&labels, u8::from(holds(ConditionType::MasterAvailable)));
    all.undecided.add(&labels, u8::from(holds(ConditionType::NoSafeCandidate)));
    all.epoch.add(&labels, status.epoch);
    all.nodes_ready.add(&labels, ready(None));
    all.in_sync.add(&labels, ready(Some(Role::Replica)));
    all.gaps.add(&labels, gaps);
    all.gap_seconds.add(&labels, gap.as_secs_f64());
    let mut events: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for event in view.events.iter() {
        *events.entry((&event.reason, event.kind.word())).or_default() += u64::from(event.count);
    }
    for ((reason, kind), count) in events {
        all.events.add(&format!("{labels},reason=\"{}\",type=\"{kind}\"", escaped(reason)), count);
    }
    if let Some(instance) = &view.instance {
        all.declared.add(&labels, instance.spec.nodes());
        all.promised.add(&labels, instance.spec.confirmations());
    }
    if let Some(failover) = &status.failover {
        all.in_force.add(&labels, failover.confirmations);
        if let Some(bytes) = failover.unreplicated {
            all.unreplicated.add(&labels, bytes);
        }
        if let Some(window) = failover.window {
            all.window.add(&labels, seconds(window.0));
        }
    }
}

fn of_node(
    name: &str,
    node: &NodeStatus,
    measured: Option<Measured>,
    master_offset: Option<u64>,
    now: Timestamp,
    all: &mut OfNodes,
) {
    let labels = format!("redisinstance=\"{}\",node=\"{}\"", escaped(name), escaped(&node.name));
    all.up.add(&labels, u8::from(node.state == NodeState::Ready));
    all.master.add(&labels, u8::from(node.role == Role::Master));
    let Some(measured) = measured else { return };
    let gauges = measured.gauges;
    all.age.add(&labels, seconds(now.since_ms(measured.at)));
    all.uptime.add(&labels, gauges.uptime_s);
    all.used.add(&labels, measured.used_memory);
    all.max.add(&labels, measured.max_memory);
    all.keys.add(&labels, measured.keys);
    all.clients.add(&labels, gauges.clients);
    all.clients_memory.add(&labels, gauges.clients_memory);
    all.commands.add(&labels, gauges.commands);
    all.hits.add(&labels, gauges.hits);
    all.misses.add(&labels, gauges.misses);
    all.evicted.add(&labels, gauges.evicted);
    all.expired.add(&labels, gauges.expired);
    all.offset.add(&labels, measured.offset);
    all.saved.add(&labels, gauges.last_save_s);
    if node.role == Role::Replica {
        all.link.add(&labels, u8::from(measured.link_up));
        all.link_down.add(&labels, gauges.link_down_s);
        if let Some(offset) = master_offset {
            all.lag.add(&labels, offset.saturating_sub(measured.offset));
        }
    }
}

#[allow(clippy::cast_precision_loss)] // Whoever waits for 2^53 ms does not mind one.
fn seconds(ms: u64) -> f64 {
    ms as f64 / MS
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
