//! Which nodes an instance has: the dead go, too many are stopped, missing ones are placed. Pure.

use crate::failover::{self, Master, proved_empty};
use crate::model::{Address, EventKind, NodeRecord, TaskRecord, Timestamp};
use crate::placement::{Needs, Occupied, Placement, Pool, place};
use crate::reconcile::action::Action;
use crate::reconcile::draft::Draft;
use crate::reconcile::launch;
use crate::reconcile::rolling::{ROOM_WAIT_MS, outdated};
use crate::reconcile::told::{is_a_reason, tell_replaced, tell_silence};
use crate::reconcile::world::Session;

/// A KILL is repeated after this time until the task is dead: Mesos may lose one.
const KILL_AGAIN_MS: u64 = 5000;
/// Nodes launched in one pass: a node is one write of the transaction, which has room for 128.
const LAUNCHES_MAX: usize = 90;
/// A dead replica's record is looked at so often until it can go.
const FORGET_AGAIN_MS: u64 = 250;
/// Time after a subscription for Mesos to tell which tasks it runs; it takes milliseconds.
const ACCOUNT_MS: u64 = 1000;
/// The longest time between two launches of an instance whose nodes keep dying.
const BACKOFF_MAX_MS: u64 = 300_000;

/// A dead node's record has done its duty, unless it is the master's: as long as that stands, the
/// instance is known to be without a master. And as long as somebody may follow a dead node, its
/// record keeps the address from being given to another, whose data a follower would take.
pub fn forget_dead(d: &mut Draft, master: &Master) {
    let kept = d.record.as_ref().and_then(|record| record.master).filter(|_| matches!(master, Master::Dead(_)));
    let dead = d.nodes.values().filter(|node| node.task.is_dead() && Some(node.ordinal) != kept);
    let dead = dead.filter(|node| !may_be_followed(d, &node.address));
    let (gone, kept): (Vec<&NodeRecord>, Vec<&NodeRecord>) = dead.partition(|node| failover::may_forget(d, node));
    let gone: Vec<u32> = gone.into_iter().map(|node| node.ordinal).collect();
    if !kept.is_empty() {
        d.revisit(d.o.now.plus_ms(FORGET_AGAIN_MS));
    }
    for ordinal in gone {
        // A process that nobody has seen end is looked for: its record says where.
        if let Some(until) = d.nodes.get(&ordinal).and_then(|node| failover::looked_for_until(d, node)) {
            d.nodes.get_mut(&ordinal).expect("listed above").joined = false;
            d.revisit(until);
        } else {
            forget(d, ordinal);
        }
    }
}

fn forget(d: &mut Draft, ordinal: u32) {
    let Some(node) = d.nodes.remove(&ordinal) else { return };
    let Some(since) = node.task.gone_since() else { return };
    let (name, address) = (node.name(), &node.address);
    if failover::may_live(&node.task, d.seen(ordinal)) {
        let message = format!(
            "Mesos calls it gone since {since}, and nobody has seen its process end: it is looked for no more at {address}"
        );
        d.event(EventKind::Warning, "GoneNodeNotFound", name, message);
    } else {
        let message = format!("Mesos calls it gone since {since}, and nobody listens at {address}");
        d.event(EventKind::Normal, "GoneNodeEnded", name, message);
    }
}

/// Whether a living node follows that address as far as it was heard, or was not heard yet and was
/// launched before the master of now.
fn may_be_followed(d: &Draft, address: &Address) -> bool {
    let since = d.master().map(|master| master.launched_at);
    d.nodes.values().filter(|node| !node.task.is_dead()).any(|node| {
        let answer = d.seen(node.ordinal).and_then(|seen| seen.answer.as_ref());
        match answer {
            Some((answer, _)) => answer.follows.as_ref() == Some(address),
            None => since.is_none_or(|since| node.launched_at < since),
        }
    })
}

/// A replica that Mesos sees running, and that has not answered for as long as an unreachable one is
/// waited for. It is not the operator's own fault.
fn hangs(d: &Draft, node: &NodeRecord) -> bool {
    let Some(spec) = d.spec() else { return false };
    let waited = |since: Timestamp| d.o.now.since_ms(since) >= spec.replace_unreachable_after.0;
    let silent = d.silence(node.ordinal).is_some_and(|(why, since)| is_a_reason(why) && waited(since));
    silent && node.task == TaskRecord::Running && !d.is_master(node.ordinal) && d.o.cut_off.is_none()
}

/// What hangs and was replaced is stopped.
pub fn stop_hung(d: &mut Draft, master: &Master) {
    let Some(want) = d.spec().map(|spec| spec.nodes() as usize) else { return };
    let hung: Vec<u32> =
        d.nodes.values().filter(|node| node.stop.is_none() && hangs(d, node)).map(|n| n.ordinal).collect();
    if hung.is_empty() || *master != Master::Available || d.may_act().is_err() {
        return;
    }
    let sound = |node: &&NodeRecord| counts(d, node) && d.answer(node.ordinal).is_some_and(|a| a.link_up && !a.syncing);
    if d.nodes.values().filter(sound).count() < want {
        return;
    }
    for ordinal in hung {
        let node = d.nodes.get_mut(&ordinal).expect("listed above");
        node.stop = Some("it does not answer, and another has taken its place".to_string());
    }
}

/// One that hangs is in its own successor's way where no agent has room for another beside it: after a while it ends,
/// when others have all that it may have confirmed. Until then a master's death could not be told from its silence.
pub fn give_up_hung(d: &mut Draft, master: &Master) {
    if d.unplaced.is_none() || *master != Master::Available || d.may_act().is_err() {
        return;
    }
    let Some(after_ms) = d.spec().map(|spec| spec.replace_unreachable_after.0 + ROOM_WAIT_MS) else { return };
    let hung = d.nodes.values().find(|node| node.stop.is_none() && hangs(d, node));
    let Some((ordinal, name, hostname, address)) =
        hung.map(|node| (node.ordinal, node.name(), node.hostname.clone(), node.address.clone()))
    else {
        return;
    };
    let end_it = format!("end its process on {hostname} ({address}), or add an agent");
    let at = d.silence(ordinal).map_or(d.o.now, |(_, since)| since.plus_ms(after_ms));
    if at > d.o.now {
        d.wait(format!("no agent has room for another beside {name}: it is ended at {at}; or {end_it}"));
        d.revisit(at);
    } else if failover::caught_up(d, Timestamp(0)) < (failover::confirmations(d) as usize).max(1) {
        d.wait(format!(
            "no agent has room for another beside {name}, and it is not ended, as no others have all that it may have \
             confirmed: {end_it}"
        ));
    } else {
        let node = d.nodes.get_mut(&ordinal).expect("found above");
        node.stop = Some("it does not answer, and no agent has room for another beside it".to_string());
    }
}

/// Counts as one of the nodes that the spec asks for: it lives, may come back soon, or is the
/// master, whose place nobody else takes.
pub(super) fn counts(d: &Draft, node: &NodeRecord) -> bool {
    if node.stop.is_some() || (node.task.is_dead() && !d.is_master(node.ordinal)) {
        return false;
    }
    match (&node.task, d.spec()) {
        _ if hangs(d, node) => false,
        (TaskRecord::Unsure { since, .. }, Some(spec)) => {
            let waited = d.o.now.since_ms(*since) >= spec.replace_unreachable_after.0;
            !waited || d.is_master(node.ordinal) || d.answer(node.ordinal).is_some()
        }
        _ => true,
    }
}

/// How many nodes count, are too many, and are missing. The master's place is nobody else's: as
/// long as none is recorded, one node is missing, however many replicas there are.
fn balance(d: &Draft, want: usize) -> (usize, usize, usize) {
    let counted = d.nodes.values().filter(|node| counts(d, node)).count();
    let masterless = d.record.as_ref().is_none_or(|record| record.master.is_none());
    let places = if masterless { want.saturating_sub(1) } else { want };
    (counted, counted.saturating_sub(places), want - counted.min(places))
}

/// How many nodes there shall be now.
fn wanted(d: &Draft) -> Option<usize> {
    d.spec().map(|spec| spec.nodes() as usize + d.extra)
}

const PAUSED: &str = "the instance is paused";

/// Stops surplus nodes: never the master, and none while the master is not well.
pub fn scale_down(d: &mut Draft, master: &Master) {
    let Some(want) = wanted(d) else { return };
    let (counted, surplus, _) = balance(d, want);
    if surplus == 0 {
        return;
    }
    if d.spec().is_some_and(|spec| spec.paused) {
        d.wait(format!("{surplus} of {counted} nodes are too many; none is removed: {PAUSED}"));
        return;
    }
    if !matches!(master, Master::Available | Master::Unplaced) {
        d.wait(format!("{surplus} of {counted} nodes are too many; none is removed while the master {master}"));
        return;
    }
    if let Err(reason) = d.may_act() {
        d.wait(format!("{surplus} of {counted} nodes are too many: {reason}"));
        return;
    }
    // Those that Mesos does not see go first, then those that do not run as declared, then the most
    // lagging; among equals the newest.
    let mut candidates: Vec<(bool, bool, u64, u32)> = d
        .nodes
        .values()
        .filter(|node| counts(d, node) && !d.is_master(node.ordinal))
        .map(|node| {
            let in_sight = !matches!(node.task, TaskRecord::Unsure { .. });
            let offset = d.answer(node.ordinal).filter(|a| a.link_up).map_or(0, |a| a.offset);
            (in_sight, outdated(d, node).is_empty(), offset, node.ordinal)
        })
        .collect();
    candidates
        .sort_by_key(|(in_sight, fresh, offset, ordinal)| (*in_sight, *fresh, *offset, std::cmp::Reverse(*ordinal)));
    for (.., ordinal) in candidates.into_iter().take(surplus) {
        let node = d.nodes.get_mut(&ordinal).expect("listed above");
        node.stop = Some(format!("{surplus} of {counted} nodes are too many: {want} are wanted"));
    }
}

/// After a subscription Mesos tells which tasks it runs. Until it had the time to, an instance of
/// which nothing living is recorded may only have been forgotten by the store.
fn accounted_at(d: &Draft) -> Option<Timestamp> {
    let Session::Subscribed { since, .. } = d.o.session else { return None };
    let living = d.nodes.values().any(|node| !node.task.is_dead());
    Some(since.plus_ms(ACCOUNT_MS)).filter(|at| !living && *at > d.o.now)
}

/// Places missing nodes; the first of all becomes the master.
pub fn scale_up(d: &mut Draft, master: &Master, pool: &mut Pool) {
    let Some(want) = wanted(d) else { return };
    tell_silence(d);
    let (_, _, missing) = balance(d, want);
    if missing == 0 {
        return;
    }
    let blocked = match master {
        _ if d.held => return,
        _ if d.spec().is_some_and(|spec| spec.paused) => Some(PAUSED.to_string()),
        Master::Unplaced | Master::Starting | Master::Available | Master::Loading => d.may_act().err(),
        other => Some(format!("the master {other}")),
    };
    if let Some(reason) = blocked {
        d.wait(format!("{missing} of {want} nodes are missing, and none is launched: {reason}"));
        return;
    }
    if let Some(at) = accounted_at(d) {
        d.wait(format!(
            "{missing} of {want} nodes are missing; Mesos may still tell of tasks that are not recorded: next launch at {at}"
        ));
        d.revisit(at);
        return;
    }
    if let Some(at) = retry_at(d).filter(|at| *at > d.o.now) {
        let failures = d.record.as_ref().map_or(0, |record| record.failures);
        let last = d.record.as_ref().and_then(|record| record.last_death.as_ref());
        let last =
            last.map_or(String::new(), |last| format!(" (the last, {}: {}: {})", last.node, last.cause, last.why));
        d.wait(format!(
            "{missing} of {want} nodes are missing; nodes died {failures} times in a row{last}: next launch at {at}"
        ));
        d.revisit(at);
        return;
    }
    place_nodes(d, missing.min(LAUNCHES_MAX), pool);
    if missing > LAUNCHES_MAX {
        d.wants_offers = true;
    }
}

fn retry_at(d: &Draft) -> Option<Timestamp> {
    let record = d.record.as_ref()?;
    let doublings = record.failures.checked_sub(2)?; // The first replacement is made at once.
    let delay_ms = 1000_u64.checked_shl(doublings.min(20))?.min(BACKOFF_MAX_MS);
    Some(record.last_failure?.plus_ms(delay_ms))
}

fn place_nodes(d: &mut Draft, count: usize, pool: &mut Pool) {
    let spec = d.spec().cloned().expect("the caller has read it");
    let needs = Needs {
        instance: d.o.name,
        mem_mib: spec.task_mem_mib(),
        cpus_milli: spec.cpus.0,
        distribution: spec.distribution,
        placement: &spec.placement,
    };
    let mut living: Vec<NodeRecord> = d.nodes.values().filter(|node| !node.task.is_dead()).cloned().collect();
    for placed in 0..count {
        let occupied: Vec<Occupied> = living
            .iter()
            .map(|node| Occupied {
                agent_id: &node.agent_id,
                hostname: &node.hostname,
                host: &node.address.host,
                attributes: &node.attributes,
            })
            .collect();
        let ordinal = d.record.as_ref().expect("the caller has read it").next_ordinal;
        match place(&needs, &occupied, pool, seed(d.o.name, ordinal, d.o.now)) {
            Ok(placement) => {
                if placed == 0 {
                    tell_replaced(d);
                }
                add_node(d, ordinal, placement);
                living.extend(d.nodes.get(&ordinal).cloned());
            }
            Err(refusal) => {
                d.wants_offers = true;
                let reason = format!("{} of {count} missing nodes have no place: {refusal}", count - placed);
                d.unplaced = Some(reason.clone());
                d.wait(reason);
                return;
            }
        }
    }
}

/// Spreads ports; the launch time makes another attempt take another port.
fn seed(instance: &str, ordinal: u32, now: Timestamp) -> u64 {
    let mix = |hash: u64, byte: u64| (hash ^ byte).wrapping_mul(0x0100_0000_01b3);
    instance.bytes().fold(mix(mix(0xcbf2_9ce4_8422_2325, u64::from(ordinal)), now.0), |hash, b| mix(hash, u64::from(b)))
}

fn add_node(d: &mut Draft, ordinal: u32, placement: Placement) {
    let record = d.record.as_mut().expect("the caller has read it");
    record.next_ordinal = ordinal + 1;
    let first = record.master.is_none();
    if first {
        record.master = Some(ordinal);
        record.epoch += 1;
    }
    let (epoch, initialized) = (record.epoch, record.initialized);
    let mut node = launch::node_record(d.o.name, record, ordinal, &placement, d.o.now);
    // Once there are writes to confirm, a node follows the master only after that was recorded: it
    // boots following itself, which is nobody.
    node.joined = first || !initialized;
    let boots_with = if initialized { Some(node.address.clone()) } else { d.master().map(|m| m.address.clone()) };
    let follows = boots_with.filter(|_| !first);
    let record = d.record.as_ref().expect("the caller has read it");
    let launch = launch::launch(&node, &placement, record, follows.as_ref(), d.o.settings);
    let what = if first { format!("the master of epoch {epoch}") } else { "a replica".to_string() };
    let name = node.name();
    d.event(
        EventKind::Normal,
        "NodeLaunched",
        name.clone(),
        format!("as {what} on {} ({})", node.hostname, node.address),
    );
    d.nodes.insert(ordinal, node);
    d.claims.push(placement);
    d.step(Action::Launch(launch), format!("{name} is {what}"));
}

/// Kills what is recorded as stopped, until it is seen dead.
pub fn kill_stopped(d: &mut Draft) {
    let stopped = d.nodes.values().filter(|node| node.stop.is_some() && !node.task.is_dead());
    let doomed: Vec<NodeRecord> = stopped.cloned().collect();
    for node in doomed {
        let (name, ordinal) = (node.name(), node.ordinal);
        if matches!(node.task, TaskRecord::Unsure { .. }) {
            continue; // Mesos would only say again that it does not see it. It is killed when it is seen.
        }
        if d.o.frozen.is_some() || !matches!(d.o.session, Session::Subscribed { .. }) {
            d.wait(format!("{name} cannot be killed now: {}", d.may_act().err().unwrap_or_default()));
            continue;
        }
        if let Some(why) = spared(d, ordinal).or_else(|| failover::let_go(d, ordinal)) {
            d.wait(why);
            continue;
        }
        let killed_at = d.seen(ordinal).and_then(|node| node.killed_at);
        match killed_at.map(|at| at.plus_ms(KILL_AGAIN_MS)).filter(|again| *again > d.o.now) {
            Some(again) => d.revisit(again),
            None => d.step(Action::Kill { task_id: node.task_id }, node.stop.unwrap_or_default()),
        }
        if d.record.as_ref().is_some_and(|record| !record.deleting) {
            d.wait(format!("{name} is being stopped"));
        }
    }
}

/// Why a stopped node is not killed yet: since that was decided the master may have died, and the
/// node may hold the last copy of its data.
fn spared(d: &Draft, ordinal: u32) -> Option<String> {
    let record = d.record.as_ref()?;
    let master = failover::judge(d);
    if record.deleting || !record.initialized || master == Master::Available || proved_empty(d, ordinal) {
        return None;
    }
    Some(format!(
        "{} is to be stopped, but may hold the last copy of the data: the master {master}",
        d.node_name(ordinal)
    ))
}
