//! Nodes that Mesos calls gone, though nobody has seen their process end: they are looked for, and fenced. Pure.
//!
//! `GONE_BY_OPERATOR` is an administrator's word about an agent, and enough to replace what ran there. A
//! process whose agent is only cut off goes on, and takes writes of clients that still reach it.

use crate::failover::candidate::follows_itself;
use crate::failover::takeover::{TURN_AGAIN_MS, recently_turned};
use crate::model::{Answer, EventKind, NoAnswer, NodeRecord, Role, TaskRecord, Timestamp};
use crate::reconcile::action::Action;
use crate::reconcile::draft::Draft;
use crate::reconcile::world::Node;

/// So long a process is looked for, in milliseconds: a week. What was cut off by a fault or for repair
/// is back by then; what is back later is the administrator's, who has said that it never will be.
pub const LOOKED_FOR_MS: u64 = 7 * 24 * 3600 * 1000;
/// So long another waits for the fence of a master that answers, and is gone by Mesos' word.
const FENCE_FIRST_MS: u64 = 3000;
/// A refusal may be that of a firewall for a moment; the second proves that nobody listens.
const REFUSALS_MIN: u32 = 2;

/// Whether a process may run that Mesos calls gone: it has not been seen to end.
pub fn may_live(task: &TaskRecord, seen: Option<&Node>) -> bool {
    let ended = |node: &Node| match node.silent {
        Some((NoAnswer::Refused, _)) => node.fails >= REFUSALS_MIN,
        Some((NoAnswer::Stranger, _)) => true,
        _ => false,
    };
    task.gone_since().is_some() && !seen.is_some_and(ended)
}

/// Until when a node is looked for that Mesos calls gone; none: it is not.
pub fn looked_for_until(d: &Draft, node: &NodeRecord) -> Option<Timestamp> {
    let until = node.task.gone_since()?.plus_ms(LOOKED_FOR_MS);
    (may_live(&node.task, d.seen(node.ordinal)) && until > d.o.now).then_some(until)
}

/// What a node answers that Mesos calls gone.
pub fn gone_and_answers<'a>(d: &Draft<'a>, node: &NodeRecord) -> Option<&'a Answer> {
    looked_for_until(d, node)?;
    d.answer(node.ordinal)
}

/// Fences the master that Mesos calls gone, if it answers: whether that is to be waited for.
pub fn fence_master_first(d: &mut Draft) -> bool {
    let Some(master) = d.master().cloned() else { return false };
    let Some(end) = master.task.gone_since().map(|at| at.plus_ms(FENCE_FIRST_MS)) else { return false };
    let answer = gone_and_answers(d, &master).filter(|answer| !follows_itself(&master, answer));
    if answer.is_none() || end <= d.o.now {
        return false;
    }
    let name = master.name();
    d.wait(format!("Mesos calls the master {name} gone, and it answers: it is fenced before another takes its place"));
    fence(d, &master);
    d.revisit(end);
    true
}

/// Fences whoever answers of those that Mesos calls gone, and is not the recorded master (that one too, when the
/// instance goes away). One that follows the master confirms writes, and counts no more: that ends, too. Answers
/// whether one is left.
pub fn fence_gone(d: &mut Draft) -> bool {
    let left = |node: &&NodeRecord| gone_and_answers(d, node).is_some_and(|answer| !follows_itself(node, answer));
    let deleting = d.record.as_ref().is_some_and(|record| record.deleting);
    let nodes: Vec<NodeRecord> =
        d.nodes.values().filter(|node| deleting || !d.is_master(node.ordinal)).filter(left).cloned().collect();
    for node in &nodes {
        fence(d, node);
    }
    !nodes.is_empty()
}

fn fence(d: &mut Draft, node: &NodeRecord) {
    let Some(answer) = d.answer(node.ordinal) else { return };
    let planned = |action: &Action| matches!(action, Action::Detach { task_id, .. } if *task_id == node.task_id);
    if d.steps.iter().any(|step| planned(&step.action)) {
        return;
    }
    if recently_turned(d, node.ordinal) {
        d.revisit(d.o.now.plus_ms(TURN_AGAIN_MS));
        return;
    }
    let (address, host) = (&node.address, &node.hostname);
    let alone = match (answer.role, node.deposed.and_then(|deposed| deposed.offset)) {
        (Role::Master, Some(offset)) if answer.offset > offset => {
            format!(
                ", {} bytes of its replication stream came after another had taken its place",
                answer.offset - offset
            )
        }
        _ => String::new(),
    };
    let why = format!(
        "Mesos calls it gone, and it answers at {address} as a {} ({} keys, offset {}{alone})",
        answer.role, answer.keys, answer.offset
    );
    if d.seen(node.ordinal).is_some_and(|seen| seen.pointed_at.is_none() || answer.role == Role::Master) {
        let message = format!("{why}: it takes no more writes, and its clients are cut; end its process on {host}");
        d.event(EventKind::Warning, "GoneNodeFenced", node.name(), message);
    }
    let (task_id, node) = (node.task_id.clone(), node.address.clone());
    d.step(Action::Detach { task_id, node, cut_clients: true }, why);
}
