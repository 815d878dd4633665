//! Plans how the master's role moves: the new master is recorded first, then made one. Pure.

use crate::failover::candidate::{Choice, choose, follows_itself, lost_at};
use crate::failover::gone::fence_master_first;
use crate::failover::handover::{close_request, hand_over, named, refuse_request};
use crate::failover::judge::{Master, fell_silent, judge, patience_ms};
use crate::failover::promise::{confirmations, voters};
use crate::failover::unfinished::{adopt, finish, leads_instead, never_stepped_back, reinstate};
use crate::model::{Answer, DataSet, Deposed, EventKind, NoAnswer, NodeRecord, RequestKind, Role};
use crate::reconcile::action::{Action, Cause};
use crate::reconcile::draft::Draft;
use crate::reconcile::launch::master_password;
use crate::reconcile::tries::END_SCRIPT;

/// A change of role is repeated after this time when it had no effect.
pub(super) const TURN_AGAIN_MS: u64 = 1000;
/// A script that goes on, or the next one, is ended after this time.
const END_AGAIN_MS: u64 = 200;
/// What replicas say of a silent master is looked at so often.
const LOOK_AGAIN_MS: u64 = 250;

/// Sees to it that the recorded master is one, or that another becomes it.
pub fn take_over(d: &mut Draft) {
    if d.held {
        refuse_request(d, "all nodes are dead and the data is lost: `redisctl recreate` starts it again, empty");
    }
    if d.record.as_ref().is_some_and(|record| !record.initialized) {
        refuse_request(d, "no master has been ready yet, so that there is none to take over from");
    }
    // A master whose record the store has lost may run: nobody takes its place.
    if d.o.frozen.is_some() || d.held || d.master().is_none() || !d.record.as_ref().is_some_and(|r| r.initialized) {
        return;
    }
    let master = judge(d);
    end_scripts(d, &master);
    if let Some(ordinal) = forced(d).filter(|ordinal| master != Master::Available || is_apart(d, *ordinal)) {
        return replace_by(d, &master, Some(ordinal));
    }
    if let Some(former) = never_stepped_back(d).filter(|_| master.is_lost()) {
        return reinstate(d, former, "the other was lost before the role was handed over");
    }
    if let Some(leader) = leads_instead(d).filter(|_| master.is_lost()) {
        let recorded = d.record.as_ref().and_then(|record| record.master).expect("a master that is lost is recorded");
        return adopt(d, leader, recorded);
    }
    match &master {
        Master::Available => hand_over(d),
        Master::Demoted => finish(d),
        Master::Gone(..) | Master::Dead(_) => replace(d, &master),
        Master::Silent(_, since, _) => {
            let within = patience_ms(d);
            let (known_at, now) = (since.plus_ms(within), d.o.now);
            d.revisit(if known_at > now { known_at } else { now.plus_ms(LOOK_AGAIN_MS) });
        }
        Master::Unplaced | Master::Starting | Master::Loading => {}
    }
}

/// A replica that is busy with a client's script cannot say what it has, and has written nothing by it: it is ended
/// when its word is needed.
fn end_scripts(d: &mut Draft, master: &Master) {
    if !master.is_lost() {
        return;
    }
    let busy = |node: &&NodeRecord| {
        let silent = d.silence(node.ordinal).is_some_and(|(why, _)| why == NoAnswer::Busy);
        silent && node.joined && !d.is_master(node.ordinal) && !node.task.is_dead()
    };
    for node in d.nodes.values().filter(busy).cloned().collect::<Vec<_>>() {
        if !d.did_within(node.ordinal, END_SCRIPT, END_AGAIN_MS) {
            let why = format!("{} is busy, and is asked what it has of the lost master's", node.name());
            d.step(Action::EndScript { task_id: node.task_id, node: node.address }, why);
        }
    }
}

/// The node that the user wants to be the master whatever is lost.
fn forced(d: &Draft) -> Option<u32> {
    let request = d.o.instance.requests.get(&RequestKind::Failover).filter(|request| request.value.force)?;
    named(d, request.value.to.as_deref()?)
}

/// It has data of its own, and does not follow the master, who is well: nothing can be handed over to it.
fn is_apart(d: &Draft, ordinal: u32) -> bool {
    let master = d.master().map(|master| &master.address);
    let apart = |answer: &Answer| !answer.is_blank() && answer.follows.as_ref() != master;
    !d.is_master(ordinal) && d.answer(ordinal).is_some_and(apart)
}

// ---------------------------------------------------------------------------------------------
// The master is lost

fn replace(d: &mut Draft, master: &Master) {
    let by_mesos = d.master().is_some_and(|node| node.task.is_dead());
    if let Some(sight) = d.o.cut_off.filter(|_| !by_mesos) {
        let (lost, agents) = (sight.lost, sight.agents);
        d.wait(format!(
            "the master {master}; but the operator reaches no node on {lost} of {agents} agents: it is cut off itself, and promotes nobody"
        ));
        return;
    }
    if fence_master_first(d) {
        return;
    }
    if matches!(master, Master::Gone(..)) && confirmations(d) > 0 {
        detach_followers(d, master);
    }
    replace_by(d, master, None);
    call_back(d);
}

/// Takes replicas from whoever has the dead master's port now: it may be anybody's, and what it has
/// they have by now. And from the dead master itself, when they have not noticed its end: what was on
/// the way has arrived. `choose` says who is left.
fn call_back(d: &mut Draft) {
    let Some(old) = d.master().filter(|_| matches!(judge(d), Master::Dead(_))).cloned() else { return };
    let Some(history) = d.record.as_ref().and_then(|record| record.replid.clone()) else { return };
    let late = lost_at(d).is_some_and(|at| d.o.now.since_ms(at) >= TURN_AGAIN_MS);
    // One that Mesos calls gone was fenced: nothing more comes from it than this.
    let end = d.answer(old.ordinal).filter(|answer| follows_itself(&old, answer)).map(|answer| answer.offset);
    let lured = |node: &&NodeRecord| {
        let ours = |answer: &Answer| answer.goes_on_from(&history);
        let has_all = |a: &Answer| end.is_some_and(|end| a.offset >= end);
        let astray = |a: &Answer| {
            a.may_receive() && a.follows.as_ref() == Some(&old.address) && (late || !ours(a) || has_all(a))
        };
        !node.task.is_dead() && d.answer(node.ordinal).is_some_and(astray) && !recently_turned(d, node.ordinal)
    };
    let lured: Vec<NodeRecord> = d.nodes.values().filter(lured).cloned().collect();
    for node in lured {
        let stranger = d.answer(node.ordinal).is_some_and(|answer| !answer.goes_on_from(&history));
        let why = if stranger {
            let why =
                format!("{} is dead, and this follows whoever has its port now, with another history", old.name());
            d.event(EventKind::Warning, "StrangerFollowed", node.name(), why.clone());
            why
        } else {
            format!("{} is dead, and this has not noticed it", old.name())
        };
        d.step(Action::Detach { task_id: node.task_id, node: node.address, cut_clients: false }, why);
    }
}

pub(super) fn replace_by(d: &mut Draft, master: &Master, forced: Option<u32>) {
    match choose(d, master, forced) {
        Choice::Node(ordinal, offset) => {
            d.failover = Some(match master {
                _ if forced.is_some() => Cause::Forced,
                Master::Dead(_) => Cause::Died,
                _ => Cause::Hung,
            });
            let data = d.answer(ordinal).filter(|_| forced.is_none()).map(Answer::data);
            promote(d, ordinal, offset, data, &master.to_string());
            if d.failover == Some(Cause::Hung) {
                fell_silent(d);
            }
        }
        Choice::Wait(why, again) => {
            d.wait(format!("the master {master}; nobody takes its place yet: {why}"));
            if let Some(again) = again {
                d.revisit(again);
            }
        }
        Choice::Nobody(why) => {
            refuse_request(d, &why);
            let others = d.nodes.values().any(|node| !d.is_master(node.ordinal) && !node.task.is_dead());
            let way_out = if others { way_out(d) } else { String::new() };
            d.wait(format!("the master {master}; nobody can take its place: {why}{way_out}"));
            d.no_candidate = Some(why);
        }
    }
}

fn way_out(d: &Draft) -> String {
    format!("; `redisctl failover {} --force --to NODE` says what would be lost, and does it", d.o.name)
}

/// Takes the replicas from a master that may still serve clients: it stops taking writes, and none
/// that it takes is confirmed.
fn detach_followers(d: &mut Draft, master: &Master) {
    let attached = |d: &Draft, node: &NodeRecord| {
        let answer = d.answer(node.ordinal)?;
        let there = answer.role == Role::Replica && !follows_itself(node, answer);
        (there && node.joined && !recently_turned(d, node.ordinal)).then_some(())
    };
    let nodes: Vec<NodeRecord> = d
        .nodes
        .values()
        .filter(|node| !d.is_master(node.ordinal) && !node.task.is_dead() && attached(d, node).is_some())
        .cloned()
        .collect();
    if nodes.is_empty() {
        return;
    }
    let name = d.master().map(NodeRecord::name).unwrap_or_default();
    d.event(EventKind::Warning, "MasterGone", name, format!("{master}; its replicas are taken from it"));
    for node in nodes {
        let why = format!("the master {master}");
        d.step(Action::Detach { task_id: node.task_id, node: node.address, cut_clients: false }, why);
    }
}

pub(super) fn recently_turned(d: &Draft, ordinal: u32) -> bool {
    let turned_at = d.seen(ordinal).and_then(|seen| seen.pointed_at);
    turned_at.is_some_and(|at| d.o.now.since_ms(at) < TURN_AGAIN_MS)
}

/// Records a new master, and has it made one.
fn promote(d: &mut Draft, ordinal: u32, offset: u64, data: Option<DataSet>, why: &str) {
    let Some(old) = d.record.as_ref().and_then(|record| record.master) else { return };
    let (old_name, new_name) = (d.node_name(old), d.node_name(ordinal));
    let epoch = depose(d, old, ordinal, Some(offset));
    let others = voters(d).filter(|node| node.ordinal != old && !node.task.is_dead());
    let equal = others.filter(|node| d.answer(node.ordinal).is_some_and(|answer| answer.offset >= offset)).count();
    let unsettled = equal < confirmations(d) as usize;
    d.record.as_mut().expect("there is a master, so there is a record").unsettled |= unsettled;
    let message = format!("{new_name} (offset {offset}) takes the place of {old_name}, which {why}: epoch {epoch}");
    d.event(EventKind::Warning, "FailedOver", d.o.name.to_string(), message);
    close_request(d);
    fence_living(d, old);
    let node = &d.nodes[&ordinal];
    let action = Action::Promote { task_id: node.task_id.clone(), node: node.address.clone(), data };
    d.step(action, format!("{old_name} {why}"));
    point_siblings(d, old, ordinal);
}

/// Somebody wants another though the master is well: it takes no more writes before the other takes any.
fn fence_living(d: &mut Draft, old: u32) {
    let well = d.answer(old).is_some_and(|answer| answer.role == Role::Master);
    if let Some(node) = d.nodes.get(&old).filter(|node| well && !node.task.is_dead()).cloned() {
        let action = Action::Detach { task_id: node.task_id.clone(), node: node.address.clone(), cut_clients: true };
        d.step(action, format!("{} is the master no more", node.name()));
    }
}

/// The new master and its epoch are recorded, and what follows from it for the old one.
pub(super) fn depose(d: &mut Draft, old: u32, new: u32, offset: Option<u64>) -> u64 {
    let record = d.record.as_mut().expect("there is a master, so there is a record");
    record.epoch += 1;
    record.master = Some(new);
    let epoch = record.epoch;
    if let Some(node) = d.nodes.get_mut(&old) {
        node.deposed = Some(Deposed { epoch, offset });
        node.joined = offset.is_none();
    }
    if let Some(node) = d.nodes.get_mut(&new) {
        (node.deposed, node.joined, node.stop) = (None, true, None);
    }
    epoch
}

/// The others follow the new master at once: with `min-replicas-to-write` it takes no write before.
pub(super) fn point_siblings(d: &mut Draft, old: u32, new: u32) {
    let (master, password) = (d.nodes[&new].address.clone(), master_password(&d.nodes[&new]));
    let follows = |node: &NodeRecord| {
        let answers = d.answer(node.ordinal).is_some_and(|answer| answer.role == Role::Replica);
        answers && node.joined && node.stop.is_none() && !node.task.is_dead() && ![old, new].contains(&node.ordinal)
    };
    let siblings: Vec<NodeRecord> = d.nodes.values().filter(|node| follows(node)).cloned().collect();
    for node in siblings {
        let why = format!("{} is the master now", d.node_name(new));
        let (master, password) = (master.clone(), password.clone());
        d.step(Action::Follow { task_id: node.task_id, node: node.address, master, password }, why);
    }
}
