//! What people are told beside the status: why one waits, until when, and what was done to a node. Pure.

use crate::model::{EventKind, NoAnswer, NodeRecord, TaskRecord, Timestamp};
use crate::reconcile::conditions::{AVAILABLE, GONE};
use crate::reconcile::draft::Draft;
use crate::reconcile::members::counts;
use crate::reconcile::sight::STARTS_WITHIN_MS;
use crate::reconcile::world::Node;
use crate::status::{ConditionStatus, ConditionType, InstanceStatus, NodeState};

/// Says of each node that is out of sight or does not answer what follows from it, and when.
pub fn tell_silence(d: &mut Draft) {
    let Some((after, want)) = d.spec().map(|spec| (spec.replace_unreachable_after, spec.nodes() as usize)) else {
        return;
    };
    let silent =
        |node: &&NodeRecord| !d.is_master(node.ordinal) && node.stop.is_none() && d.answer(node.ordinal).is_none();
    let nodes: Vec<NodeRecord> = d.nodes.values().filter(silent).cloned().collect();
    for node in nodes {
        if is_starting(d, &node) {
            d.revisit(node.launched_at.plus_ms(STARTS_WITHIN_MS));
        }
        let Some((what, since)) = out_of_sight(d, &node) else { continue };
        let name = node.name();
        if let Some(why) = never_replaced(d, &node) {
            d.wait(format!("{name} {what} since {since}; it is not replaced for that: {why}"));
            continue;
        }
        let at = since.plus_ms(after.0);
        if counts(d, &node) {
            d.wait(format!("{name} {what} since {since}; it is replaced at {at} (replaceUnreachableAfter {after})"));
            d.revisit(at);
        } else {
            // When another has it, nothing is waited for.
            if d.nodes.values().filter(|other| counts(d, other)).count() < want {
                d.wait(format!("{name} {what} since {since}; another is to take its place"));
            }
        }
    }
}

/// How the node is out of sight, and since when. (One that is being launched or starts is not.)
fn out_of_sight(d: &Draft, node: &NodeRecord) -> Option<(String, Timestamp)> {
    match node.task {
        TaskRecord::Unsure { since, .. } => Some(("is out of Mesos' sight".to_string(), since)),
        TaskRecord::Running if is_starting(d, node) => None,
        TaskRecord::Running => d.silence(node.ordinal).map(|(why, since)| (format!("does not answer ({why})"), since)),
        TaskRecord::Launching | TaskRecord::Dead { .. } => None,
    }
}

/// Whether it was launched so recently that it need not listen yet.
fn is_starting(d: &Draft, node: &NodeRecord) -> bool {
    let recent = d.o.now.since_ms(node.launched_at) < STARTS_WITHIN_MS;
    recent && d.seen(node.ordinal).is_some_and(Node::starts)
}

/// Why a node that Mesos sees is left where it is, though it does not answer.
fn never_replaced(d: &Draft, node: &NodeRecord) -> Option<String> {
    let (why, _) = d.silence(node.ordinal).filter(|_| node.task == TaskRecord::Running)?;
    match d.o.cut_off {
        Some(sight) => Some(format!(
            "the operator reaches no node on {} of {} agents, and is cut off itself",
            sight.lost, sight.agents
        )),
        None => (!is_a_reason(why)).then(|| format!("it serves others; {}", why.way_out())),
    }
}

/// Whether a node that does not answer so is of no use to anybody. One that is only full, or that another leader
/// commands, serves its clients.
pub fn is_a_reason(why: NoAnswer) -> bool {
    !matches!(why, NoAnswer::Full | NoAnswer::Commanded)
}

/// Another is launched in the place of nodes that live as far as anybody knows.
pub fn tell_replaced(d: &mut Draft) {
    let replaced = |node: &&NodeRecord| {
        node.stop.is_none() && !node.task.is_dead() && !d.is_master(node.ordinal) && !counts(d, node)
    };
    let nodes: Vec<NodeRecord> = d.nodes.values().filter(replaced).cloned().collect();
    for node in nodes {
        let Some((what, since)) = out_of_sight(d, &node) else { continue };
        let message = format!("it {what} since {since}: another is launched in its place");
        d.event(EventKind::Warning, "NodeReplaced", node.name(), message);
    }
}

/// What has changed with this plan becomes events; and whoever is not ready says what is waited for.
pub fn tell(d: &mut Draft, status: &mut InstanceStatus) {
    tell_stops(d);
    tell_new_silence(d, status);
    tell_return(d, status);
    let failing =
        status.conditions.iter().find(|c| c.status != ConditionStatus::True && c.kind != ConditionType::Ready);
    if let Some(failing) = failing.filter(|_| d.waiting.is_empty() && d.steps.is_empty()) {
        d.wait(format!("{}: {}", failing.kind, failing.message));
        status.waiting.clone_from(&d.waiting);
    }
}

/// Every node that is to be stopped, with the reason.
fn tell_stops(d: &mut Draft) {
    if d.record.as_ref().is_some_and(|record| record.deleting) {
        return;
    }
    let before = |ordinal: u32| d.seen(ordinal).is_some_and(|seen| seen.record.value.stop.is_some());
    let stops = d.nodes.values().filter(|node| !before(node.ordinal) && !node.task.is_dead());
    let stops: Vec<(String, String)> = stops.filter_map(|node| Some((node.name(), node.stop.clone()?))).collect();
    for (name, why) in stops {
        d.event(EventKind::Normal, "NodeStopping", name, why);
    }
}

/// The master was called gone, and has woken before another took its place.
fn tell_return(d: &mut Draft, status: &InstanceStatus) {
    let Some(before) = d.o.instance.status.as_ref().map(|status| &status.value) else { return };
    let reason = |status: &InstanceStatus| {
        status.condition(ConditionType::MasterAvailable).map(|condition| condition.reason.clone())
    };
    let woke = reason(before).as_deref() == Some(GONE) && reason(status).as_deref() == Some(AVAILABLE);
    if let Some(name) = d.master().map(NodeRecord::name).filter(|_| woke && before.epoch == status.epoch) {
        let message = "it answers again, and stays the master: replicas that were taken from it follow it again";
        d.event(EventKind::Normal, "MasterReturned", name, message.to_string());
    }
}

/// Nodes that have just fallen silent. Of the master only what it says itself: the rest is told by its condition,
/// and by what follows.
fn tell_new_silence(d: &mut Draft, status: &InstanceStatus) {
    let Some(before) = d.o.instance.status.as_ref().map(|status| &status.value) else { return };
    let silent = status.nodes.iter().filter(|node| node.state == NodeState::NotAnswering);
    let new = silent.filter(|node| {
        let known = before.nodes.iter().find(|known| known.task_id == node.task_id);
        known.is_some_and(|known| known.state != NodeState::NotAnswering)
    });
    let told: Vec<(String, String)> = new
        .filter(|node| {
            let known = d.nodes.values().find(|known| known.task_id == node.task_id);
            let why = known.and_then(|known| d.silence(known.ordinal).map(|(why, _)| (why, known.ordinal)));
            why.is_some_and(|(why, ordinal)| why.lives() || !d.is_master(ordinal))
        })
        .map(|node| (node.name.clone(), node.message.clone()))
        .collect();
    for (name, message) in told {
        d.event(EventKind::Warning, "NodeNotAnswering", name, message);
    }
}
