//! What is promised of confirmed writes, and who may have confirmed any. Pure.

use crate::failover::gone::gone_and_answers;
use crate::failover::judge::{Master, UNHEARD_MS, judge};
use crate::model::{Answer, NodeRecord, Role, TaskRecord, Timestamp};
use crate::reconcile::action::Action;
use crate::reconcile::draft::Draft;
use crate::reconcile::launch::MIN_REPLICAS;
use crate::spec::InstanceSpec;

/// Whether others have caught up is looked at again after this time: nothing else may happen by then.
const LOOK_AGAIN_MS: u64 = 250;

/// The k of the promise in force: a write that k replicas have confirmed is lost by no failover. What a document
/// asks for while the master is lost does not change what was confirmed before.
pub fn confirmations(d: &Draft) -> u32 {
    let Some(record) = &d.record else { return 0 };
    let applied = d.master().map_or(record.confirmations, applied);
    record.confirmations.min(applied)
}

/// `min-replicas-to-write` of a node, as far as is recorded.
fn applied(node: &NodeRecord) -> u32 {
    node.owned.get(MIN_REPLICAS).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Records which promise is in force. A lower one is as soon as there is a master; a higher one when that keeps to
/// it and so many replicas have all that was confirmed under the lower.
pub fn keep_promise(d: &mut Draft) {
    let Some((known, declared)) = d.record.as_ref().map(|r| (r.confirmations, r.spec.confirmations())) else { return };
    let available = judge(d) == Master::Available;
    if declared < known && available {
        d.record.as_mut().expect("it was read above").confirmations = declared;
    } else if declared < known && d.no_candidate.is_some() {
        d.wait(format!(
            "the document promises {declared} confirmations now: the {known} that were promised when the master was lost \
             count until there is another"
        ));
    }
    let unsettled = d.record.as_ref().is_some_and(|record| record.unsettled);
    if (declared <= known && !unsettled) || !available {
        return;
    }
    if caught_up(d, Timestamp(0)) >= known.min(declared) as usize {
        d.record.as_mut().expect("it was read above").unsettled = false;
    } else {
        d.revisit(d.o.now.plus_ms(LOOK_AGAIN_MS));
    }
    if declared <= known {
        return;
    }
    if d.master().is_some_and(|master| applied(master) >= declared) && caught_up(d, Timestamp(0)) >= declared as usize {
        d.record.as_mut().expect("it was read above").confirmations = declared;
    } else {
        d.revisit(d.o.now.plus_ms(LOOK_AGAIN_MS));
    }
}

/// The replicas that may have confirmed a write of the master.
pub fn voters<'a>(d: &'a Draft) -> impl Iterator<Item = &'a NodeRecord> + 'a {
    d.nodes.values().filter(|node| {
        let answered = d.seen(node.ordinal).is_some_and(|seen| seen.answer.is_some());
        let never_ran = matches!(node.task, TaskRecord::Dead { ran: false, .. }) && !answered;
        node.joined && !d.is_master(node.ordinal) && !never_ran
    })
}

/// How many of so many voters must be in sight for every confirmed write to be seen on one.
pub fn quorum(d: &Draft, voters: usize) -> usize {
    let unsettled = d.record.as_ref().is_some_and(|record| record.unsettled);
    match confirmations(d) as usize {
        0 => 1,
        // What the lost master had alone, beside one replica less, may be nowhere else.
        k if unsettled => voters + 2 - k.min(voters + 1),
        k => (voters + 1).saturating_sub(k).max(1),
    }
}

/// How many living replicas have all that the master had at a moment after `since`.
pub fn caught_up(d: &Draft, since: Timestamp) -> usize {
    let asked = |ordinal: u32| -> Option<&(Answer, Timestamp)> {
        d.answer(ordinal)?;
        d.seen(ordinal)?.answer.as_ref().filter(|(_, at)| *at > since)
    };
    let master = d.master().filter(|master| !master.task.is_dead()).and_then(|master| asked(master.ordinal));
    let Some((master, master_asked_at)) = master.filter(|(answer, _)| answer.role == Role::Master) else { return 0 };
    let has_all = |node: &&NodeRecord| {
        asked(node.ordinal).is_some_and(|(answer, at)| {
            answer.may_receive()
                && !answer.syncing
                && answer.replid == master.replid
                && answer.offset >= master.offset
                && at >= master_asked_at
        })
    };
    voters(d).filter(|node| !node.task.is_dead() && node.stop.is_none()).filter(has_all).count()
}

/// What a dead replica may have confirmed, others must have before it is forgotten: until then it
/// counts among those of which enough must be in sight when the master is lost.
pub fn may_forget(d: &Draft, node: &NodeRecord) -> bool {
    let TaskRecord::Dead { at: died_at, ran, .. } = node.task else { return false };
    // One that Mesos only calls gone may have confirmed writes until it was fenced.
    let answers = gone_and_answers(d, node).is_some();
    let fenced_at = d.seen(node.ordinal).and_then(|seen| seen.detached_since).filter(|_| answers);
    let over = !answers || fenced_at.is_some();
    let needed = confirmations(d) as usize;
    needed == 0 || !node.joined || !ran || (over && caught_up(d, fenced_at.unwrap_or(died_at)) >= needed)
}

/// A replica that is to end goes when others have what it may have confirmed: it is taken from the master first,
/// and confirms nothing more. Answers what is still waited for.
pub fn let_go(d: &mut Draft, ordinal: u32) -> Option<String> {
    let node = d.nodes.get(&ordinal)?.clone();
    let needed = if d.record.as_ref()?.deleting { 0 } else { confirmations(d) as usize };
    // While the master is lost it stays as it is; and one that does not answer is out of sight already.
    if needed == 0 || !node.joined || judge(d) != Master::Available || d.answer(ordinal)?.role == Role::Master {
        return None;
    }
    let name = node.name();
    match d.seen(ordinal)?.detached_since {
        Some(since) if caught_up(d, since) >= needed => {
            d.nodes.get_mut(&ordinal)?.joined = false;
            return None;
        }
        Some(_) => d.revisit(d.o.now.plus_ms(LOOK_AGAIN_MS)),
        None => {
            let action = Action::Detach { task_id: node.task_id, node: node.address, cut_clients: false };
            d.step(action, format!("{name} is to end, and confirms nothing more"));
        }
    }
    Some(format!("{name} is to be stopped when {needed} others have all that it may have confirmed"))
}

/// The longest time from a master's fault to another's promotion that follows from the spec, in
/// milliseconds: when nobody has a way to the master, and nothing proves its death.
pub fn worst_case_ms(spec: &InstanceSpec) -> u64 {
    let fence_ms = if spec.confirmations() > 0 { fence_ms(spec) } else { 0 };
    spec.failover.detect_within.0.max(UNHEARD_MS) + fence_ms
}

/// How long a master that nobody reaches may take writes, in milliseconds; none: without end.
pub fn window_ms(spec: &InstanceSpec) -> Option<u64> {
    // Redis counts whole seconds, and looks once a second.
    (spec.confirmations() > 0).then_some(spec.failover.max_lag.0 + 2000)
}

/// How long after its last replica was taken from it a master still may take writes, in milliseconds.
///
/// Beyond its max-lag for two seconds: Redis counts whole ones, and looks once a second. A quarter
/// of a second is for clocks that run differently.
pub fn fence_ms(spec: &InstanceSpec) -> u64 {
    spec.failover.max_lag.0 + 2250
}
