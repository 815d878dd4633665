//! Nodes that do not run as declared are replaced one by one: a new one beside, replicas first, the
//! master last by a switchover. Pure.

use crate::failover::{self, Master};
use crate::model::{EventKind, NodeRecord, RequestKind, Role, Roll, TaskRecord};
use crate::placement::failed;
use crate::reconcile::action::Cause;
use crate::reconcile::draft::Draft;
use crate::reconcile::members::counts;
use crate::reconcile::world::Session;
use crate::spec;

/// New nodes that die in a row before the roll is given up.
const FAILURES_MAX: u32 = 3;
/// A place beside the old node is waited for so long; then one replica goes first, and its place is used.
pub(super) const ROOM_WAIT_MS: u64 = 10_000;
/// A step may have become possible by something that is no event of its own.
const LOOK_AGAIN_MS: u64 = 1000;

/// Why a node is to be replaced; empty: it runs as declared, or can be changed while it runs.
pub fn outdated(d: &Draft, node: &NodeRecord) -> Vec<String> {
    let Some(spec) = d.spec() else { return Vec::new() };
    let mut why = Vec::new();
    if let Some(leaving) = d.leaving(node.ordinal) {
        why.push(format!("its agent {} {leaving}", node.hostname));
    }
    let mut differs = |what: &str, has: String, wants: String| {
        if has != wants {
            why.push(format!("{what} {has} -> {wants}"));
        }
    };
    differs("task memory", format!("{}Mi", node.task_mem_mib), format!("{}Mi", spec.task_mem_mib()));
    differs("cpus", spec::Cpus(node.cpus_milli).to_string(), spec.cpus.to_string());
    let image = |image: &Option<String>| image.clone().unwrap_or_else(|| "none".to_string());
    differs("image", image(&node.image), image(&spec.redis.image));
    for key in restart_keys(d, node) {
        let value = |config: &std::collections::BTreeMap<String, String>| {
            config.get(&key).map_or("(default)".to_string(), |value| format!("{value:?}"))
        };
        why.push(format!("{key} {} -> {}", value(&node.config), value(&spec.redis.config)));
    }
    if let Some(constraint) = failed(&spec.placement.constraints, &node.hostname, &node.attributes) {
        why.push(format!("its agent does not fulfil {constraint}"));
    }
    let beside = |other: &&NodeRecord| {
        other.agent_id == node.agent_id && other.ordinal < node.ordinal && other.stop.is_none() && !other.task.is_dead()
    };
    if d.nodes.values().filter(beside).count() >= spec.distribution as usize {
        why.push(format!("more than {} nodes on its agent", spec.distribution));
    }
    why
}

/// Keys of `redis.config` whose declared value the node does not have and cannot take while it runs.
fn restart_keys(d: &Draft, node: &NodeRecord) -> Vec<String> {
    let Some(spec) = d.spec() else { return Vec::new() };
    let want = &spec.redis.config;
    let changed = want.iter().filter(|(key, value)| node.config.get(*key) != Some(*value) && !spec::live_config(key));
    let removed = node.config.keys().filter(|key| !want.contains_key(*key));
    changed.map(|(key, _)| key).chain(removed).cloned().collect()
}

/// Memory that the tasks' share covers is given, or taken back, in place.
pub fn resize_in_place(d: &mut Draft) {
    let Some(spec) = d.spec().filter(|spec| !spec.paused) else { return };
    let (memory, share) = (spec.memory.0, spec.task_mem_mib());
    if overfull(d).is_some() {
        return;
    }
    for node in d.nodes.values_mut().filter(|node| !node.task.is_dead()) {
        let covered = node.task_mem_mib == share || (node.task_mem_mib > share && memory > node.max_memory);
        if covered {
            node.max_memory = memory;
        }
    }
}

/// Replaces nodes that do not run as declared, one step at a time. Sets how many nodes there may be
/// beside those declared; which node is one too many is decided by `members`.
pub fn roll(d: &mut Draft, master: &Master) {
    let Some(declared) = d.spec().map(|spec| spec.nodes() as usize) else { return };
    let counted: Vec<NodeRecord> = d.nodes.values().filter(|node| counts(d, node)).cloned().collect();
    let later = counted.iter().filter_map(|node| d.o.leaving.later(&node.agent_id, d.o.now)).min();
    if let Some(at) = later {
        d.revisit(at);
    }
    let stale: Vec<NodeRecord> = counted.iter().filter(|node| !outdated(d, node).is_empty()).cloned().collect();
    if stale.is_empty() {
        return end(d);
    }
    let names: Vec<String> = stale.iter().map(NodeRecord::name).collect();
    let names = names.join(", ");
    if let Err(why) = may_roll(d) {
        d.wait(format!("{names}: to be replaced by nodes as declared: {why}"));
        return;
    }
    d.wait(format!("{names}: to be replaced by nodes as declared, one by one"));
    begin(d, &stale);
    if counted.len() > declared {
        d.extra = 1; // The new one stays beside until it is in sync.
    }
    let replicas: Vec<u32> = counted.iter().map(|node| node.ordinal).filter(|node| !d.is_master(*node)).collect();
    let (old, fresh): (Vec<u32>, Vec<u32>) =
        replicas.into_iter().partition(|ordinal| stale.iter().any(|node| node.ordinal == *ordinal));
    // Nobody knows how long the agent has: what does not need to wait for a new node does not.
    let leaving = counted.iter().find(|node| d.is_master(node.ordinal)).and_then(|node| d.leaving(node.ordinal));
    if let Some(leaving) = leaving.filter(|_| *master == Master::Available && !fresh.is_empty()) {
        return failover::hand_over_to(d, &fresh, Cause::Drained, &format!("the master's agent {leaving}"));
    }
    if *master != Master::Available || counted.len() < declared || counted.len() > declared + 1 {
        return;
    }
    if let Err(why) = steady(d, &counted) {
        d.wait(format!("the next step of the roll waits: {why}"));
        d.revisit(d.o.now.plus_ms(LOOK_AGAIN_MS));
        return;
    }
    match (old.is_empty(), fresh.is_empty()) {
        (false, _) if counted.len() > declared => d.extra = 0, // One of them is one too many now.
        (true, false) => {
            failover::hand_over_to(d, &fresh, Cause::Rolled, "it runs as declared, and the master does not");
        }
        (false, _) | (true, true) => d.extra = 1,
    }
}

/// There is no room for a node beside: after a while one of the replicas makes room, if the promise
/// allows it.
pub fn make_room(d: &mut Draft) {
    let Some(record) = &d.record else { return };
    let (Some(roll), declared) = (&record.rolling, record.spec.nodes() as usize) else { return };
    let blocked = d.extra == 1 && d.unplaced.is_some();
    let blocked_since = if blocked { roll.blocked_since.or(Some(d.o.now)) } else { None };
    let roll = Roll { blocked_since, ..*roll };
    d.record.as_mut().expect("read above").rolling = Some(roll);
    let Some(since) = blocked_since else { return };
    let at = since.plus_ms(ROOM_WAIT_MS);
    if at > d.o.now {
        d.revisit(at);
        return;
    }
    let counted: Vec<NodeRecord> = d.nodes.values().filter(|node| counts(d, node)).cloned().collect();
    let replicas = counted.len().saturating_sub(1);
    // The place of one that leaves its agent is no use to anybody.
    let makes_room = |node: &&NodeRecord| !outdated(d, node).is_empty() && d.leaving(node.ordinal).is_none();
    let stale = counted.iter().filter(|node| !d.is_master(node.ordinal)).find(makes_room);
    let (Some(stale), true) = (stale, counted.len() == declared) else { return };
    if replicas <= failover::confirmations(d) as usize {
        d.wait(
            "no agent has room for a node beside, and the durability allows no replica less: the roll waits for room",
        );
        return;
    }
    let node = d.nodes.get_mut(&stale.ordinal).expect("listed above");
    node.stop = Some("it does not run as declared, and no agent has room for another beside it".to_string());
    d.record.as_mut().expect("read above").rolling =
        Some(Roll { blocked_since: None, ..Roll { since, blocked_since } });
}

/// A node that has more data than the declared memory: made smaller, it would evict or refuse writes.
fn overfull(d: &Draft) -> Option<String> {
    let memory = d.spec()?.memory;
    let fuller = |node: &&NodeRecord| {
        node.max_memory > memory.0 && d.answer(node.ordinal).is_some_and(|a| a.used_memory > memory.0)
    };
    let node = d.nodes.values().filter(|node| !node.task.is_dead()).find(fuller)?;
    let used = spec::Size(d.answer(node.ordinal)?.used_memory);
    Some(format!("{} uses {used}, more than the {memory} declared", node.name()))
}

fn may_roll(d: &Draft) -> Result<(), String> {
    let record = d.record.as_ref().ok_or("there is no record")?;
    if let Some(why) = overfull(d) {
        return Err(why);
    }
    if record.spec.paused {
        return Err("paused".to_string());
    }
    if record.failures >= FAILURES_MAX && record.rolling.is_some() {
        let failures = record.failures;
        return Err(format!(
            "stopped, because new nodes died {failures} times in a row (see the events); change the spec, or go back to the former one"
        ));
    }
    if record.rolling.is_none() && !d.o.may_roll {
        return Err("as many instances as `--rolling-max` allows are being rolled; it waits for its turn".to_string());
    }
    if let Session::Disconnected(reason) = d.o.session {
        return Err(format!("Mesos: not subscribed: {reason}"));
    }
    Ok(())
}

fn begin(d: &mut Draft, stale: &[NodeRecord]) {
    let why: Vec<String> =
        stale.iter().map(|node| format!("{}: {}", node.name(), outdated(d, node).join(", "))).collect();
    let now = d.o.now;
    let Some(record) = d.record.as_mut().filter(|record| record.rolling.is_none()) else { return };
    record.rolling = Some(Roll { since: now, blocked_since: None });
    record.failures = 0;
    d.event(EventKind::Normal, "RollStarted", d.o.name.to_string(), why.join("; "));
}

fn end(d: &mut Draft) {
    if d.record.as_mut().is_some_and(|record| record.rolling.take().is_some()) {
        d.event(EventKind::Normal, "RollEnded", d.o.name.to_string(), "every node runs as declared".to_string());
    }
}

/// Whether all that is there is in order, so that one thing may be disturbed.
fn steady(d: &Draft, counted: &[NodeRecord]) -> Result<(), String> {
    d.may_act()?;
    let going = d.nodes.values().find(|node| node.stop.is_some() && !node.task.is_dead());
    if let Some(node) = going {
        return Err(format!("{} is being stopped", node.name()));
    }
    if let Some(node) = d.nodes.values().find(|node| node.task.is_dead() && node.joined) {
        return Err(format!("what {} may have confirmed is not seen on others yet", node.name()));
    }
    if d.o.instance.requests.contains_key(&RequestKind::Failover) {
        return Err("a switchover is asked for".to_string());
    }
    let address = d.master().map(|master| &master.address);
    for node in counted {
        let name = node.name();
        let answer = d.answer(node.ordinal).ok_or_else(|| format!("{name} does not answer"))?;
        let in_sync = d.is_master(node.ordinal)
            || (answer.role == Role::Replica
                && answer.follows.as_ref() == address
                && answer.link_up
                && !answer.syncing);
        if !in_sync || node.task != TaskRecord::Running || !node.joined || node.deposed.is_some() {
            return Err(format!("{name} is not in sync"));
        }
    }
    let record = d.record.as_ref().ok_or("there is no record")?;
    if failover::confirmations(d)
        < record.spec.confirmations().min(u32::try_from(counted.len()).unwrap_or(u32::MAX) - 1)
    {
        return Err("the replicas have not been seen to have all that the master has".to_string());
    }
    Ok(())
}
