//! Plans how the master's role moves: the new master is recorded first, then made one. Pure.

use crate::failover::candidate::{Choice, choose, follows_itself, lost_at, may_finish};
use crate::failover::judge::{Master, UNHEARD_MS, judge};
use crate::failover::promise::{confirmations, fence_ms, voters};
use crate::model::{Answer, Deposed, EventKind, NodeRecord, RequestKind, Role};
use crate::reconcile::action::Action;
use crate::reconcile::draft::Draft;
use crate::spec::InstanceSpec;

/// A change of role is repeated after this time when it had no effect.
const TURN_AGAIN_MS: u64 = 1000;
/// A switchover that nobody asked for is tried again so long after it was backed out.
const SWITCH_AGAIN_MS: u64 = 30_000;
/// What replicas say of a silent master is looked at so often.
const LOOK_AGAIN_MS: u64 = 250;

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

/// Sees to it that the recorded master is one, or that another becomes it.
pub fn take_over(d: &mut Draft) {
    // A master whose record the store has lost may run: nobody takes its place.
    if d.o.frozen.is_some() || d.held || d.master().is_none() || !d.record.as_ref().is_some_and(|r| r.initialized) {
        return;
    }
    let master = judge(d);
    if let Some(ordinal) = forced(d).filter(|_| master != Master::Available) {
        return replace_by(d, &master, Some(ordinal));
    }
    if let Some(former) = never_stepped_back(d).filter(|_| master.is_lost()) {
        return reinstate(d, former, "the other was lost before the role was handed over");
    }
    match &master {
        Master::Available => hand_over(d),
        Master::Demoted => finish(d),
        Master::Gone(..) | Master::Dead(_) => replace(d, &master),
        Master::Silent(_, since, _) => {
            let within = d.spec().map_or(0, |spec| spec.failover.detect_within.0);
            let (known_at, now) = (since.plus_ms(within), d.o.now);
            d.revisit(if known_at > now { known_at } else { now.plus_ms(LOOK_AGAIN_MS) });
        }
        Master::Unplaced | Master::Starting | Master::Loading => {}
    }
}

/// The node that the user wants to be the master whatever is lost.
fn forced(d: &Draft) -> Option<u32> {
    let request = d.o.instance.requests.get(&RequestKind::Failover).filter(|request| request.value.force)?;
    named(d, request.value.to.as_deref()?)
}

fn named(d: &Draft, name: &str) -> Option<u32> {
    d.nodes.values().find(|node| node.name() == name && !node.task.is_dead()).map(|node| node.ordinal)
}

// ---------------------------------------------------------------------------------------------
// The master is lost

fn replace(d: &mut Draft, master: &Master) {
    let by_mesos = d.master().is_some_and(|node| node.task.is_dead());
    if let Some(sight) = d.o.cut_off.filter(|_| !by_mesos) {
        let (lost, nodes) = (sight.lost, sight.nodes);
        d.wait(format!(
            "the master {master}; but the operator cannot reach {lost} of {nodes} nodes: it is cut off itself, and promotes nobody"
        ));
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
    let lured = |node: &&NodeRecord| {
        let ours = |answer: &Answer| [&answer.replid, &answer.replid2].contains(&&history);
        let astray = |a: &Answer| a.may_receive() && a.follows.as_ref() == Some(&old.address) && (late || !ours(a));
        !node.task.is_dead() && d.answer(node.ordinal).is_some_and(astray) && !recently_turned(d, node.ordinal)
    };
    let lured: Vec<NodeRecord> = d.nodes.values().filter(lured).cloned().collect();
    for node in lured {
        let stranger =
            d.answer(node.ordinal).is_some_and(|answer| ![&answer.replid, &answer.replid2].contains(&&history));
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

fn replace_by(d: &mut Draft, master: &Master, forced: Option<u32>) {
    match choose(d, master, forced) {
        Choice::Node(ordinal, offset) => promote(d, ordinal, offset, &master.to_string()),
        Choice::Wait(why, again) => {
            d.wait(format!("the master {master}; nobody takes its place yet: {why}"));
            if let Some(again) = again {
                d.revisit(again);
            }
        }
        Choice::Nobody(why) => {
            refuse_request(d, &why);
            d.wait(format!("the master {master}; nobody can take its place: {why}"));
            d.no_candidate = Some(why);
        }
    }
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

fn recently_turned(d: &Draft, ordinal: u32) -> bool {
    let turned_at = d.seen(ordinal).and_then(|seen| seen.pointed_at);
    turned_at.is_some_and(|at| d.o.now.since_ms(at) < TURN_AGAIN_MS)
}

/// Records a new master, and has it made one.
fn promote(d: &mut Draft, ordinal: u32, offset: u64, why: &str) {
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
    let node = &d.nodes[&ordinal];
    let action = Action::Promote { task_id: node.task_id.clone(), node: node.address.clone() };
    d.step(action, format!("{old_name} {why}"));
    point_siblings(d, old, ordinal);
}

/// The new master and its epoch are recorded, and what follows from it for the old one.
fn depose(d: &mut Draft, old: u32, new: u32, offset: Option<u64>) -> u64 {
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
fn point_siblings(d: &mut Draft, old: u32, new: u32) {
    let master = d.nodes[&new].address.clone();
    let follows = |node: &NodeRecord| {
        let answers = d.answer(node.ordinal).is_some_and(|answer| answer.role == Role::Replica);
        answers && node.joined && node.stop.is_none() && !node.task.is_dead() && ![old, new].contains(&node.ordinal)
    };
    let siblings: Vec<NodeRecord> = d.nodes.values().filter(|node| follows(node)).cloned().collect();
    for node in siblings {
        let why = format!("{} is the master now", d.node_name(new));
        d.step(Action::Follow { task_id: node.task_id, node: node.address, master: master.clone() }, why);
    }
}

// ---------------------------------------------------------------------------------------------
// A change that was recorded, and is not done

/// The recorded master answers as a replica.
fn finish(d: &mut Draft) {
    let Some((epoch, new)) = d.record.as_ref().and_then(|record| Some((record.epoch, record.master?))) else { return };
    if let Some(old) = acting(d) {
        let failed = d.seen(new).and_then(|seen| seen.switch_failed.as_ref()).filter(|failed| failed.epoch == epoch);
        let from = d.nodes[&old].address.clone();
        let follows = d.answer(new).is_some_and(|a| a.follows.as_ref() == Some(&from) && a.link_up && !a.syncing);
        return match failed {
            Some(failed) => reinstate(d, old, &failed.why),
            None if !follows => reinstate(d, old, &format!("{} does not follow it", d.node_name(new))),
            None => switch_over(d, old, new, epoch),
        };
    }
    if let Some(former) = unasked(d) {
        d.wait(format!(
            "{} is to be the master; {former}, which was the master, has not been asked yet",
            d.node_name(new)
        ));
        return;
    }
    if let Some(former) = may_still_act(d, new) {
        return reinstate(d, former, "it does not answer, and may not have stepped back");
    }
    match may_finish(d, new) {
        Ok(()) if recently_turned(d, new) => d.revisit(d.o.now.plus_ms(TURN_AGAIN_MS)),
        Ok(()) => {
            let node = &d.nodes[&new];
            let action = Action::Promote { task_id: node.task_id.clone(), node: node.address.clone() };
            d.step(action, "it is the recorded master, and answers as a replica");
            point_siblings(d, new, new);
        }
        Err(why) => {
            d.wait(format!("{} is the recorded master, answers as a replica, and {why}", d.node_name(new)));
            replace_by(d, &Master::Demoted, None);
        }
    }
}

/// The former master, if it still is one and the recorded one never was: a promotion begins another
/// history, and the recorded one has none that is newer.
fn acting(d: &Draft) -> Option<u32> {
    let record = d.record.as_ref()?;
    let known = record.replid.as_ref();
    let new = d.answer(record.master?)?;
    let acts = |node: &&NodeRecord| {
        let Some(old) = d.answer(node.ordinal).filter(|old| old.role == Role::Master && !old.loading) else {
            return false;
        };
        let newest = known == Some(&old.replid) || known == Some(&old.replid2);
        let never_promoted = known == Some(&new.replid) || new.replid == old.replid;
        node.deposed.is_some() && newest && never_promoted
    };
    d.nodes.values().find(acts).map(|node| node.ordinal)
}

/// The former master that was to hand its role over in this epoch.
fn handing_over<'a>(d: &'a Draft) -> Option<&'a NodeRecord> {
    let handing_over = Deposed { epoch: d.record.as_ref()?.epoch, offset: None };
    d.nodes.values().find(|node| node.deposed == Some(handing_over))
}

/// It still has its role: before another is promoted, it is detached.
fn never_stepped_back(d: &Draft) -> Option<u32> {
    let former = handing_over(d).filter(|node| !node.task.is_dead())?.ordinal;
    d.answer(former).filter(|answer| answer.role == Role::Master && !answer.loading).map(|_| former)
}

/// It does not answer, and may take writes still: it is judged like any master that is silent.
fn may_still_act(d: &Draft, new: u32) -> Option<u32> {
    let known = d.record.as_ref()?.replid.as_ref();
    let never_promoted = d.answer(new).is_none_or(|answer| known == Some(&answer.replid));
    let silent = |node: &&NodeRecord| node.task.is_dead() || d.answer(node.ordinal).is_none();
    handing_over(d).filter(silent).filter(|_| never_promoted).map(|node| node.ordinal)
}

/// A former master that was to hand its role over in whatever epoch, and of which an operator that has
/// just started knows nothing: it may take writes.
fn unasked(d: &Draft) -> Option<String> {
    let known = |ordinal: u32| d.answer(ordinal).is_some() || d.silence(ordinal).is_some();
    let unasked = |node: &&NodeRecord| {
        let handed_over = node.deposed.is_some_and(|deposed| deposed.offset.is_none());
        handed_over && !node.task.is_dead() && !known(node.ordinal)
    };
    d.nodes.values().find(unasked).map(NodeRecord::name)
}

/// The former master keeps its role: nothing was lost, and nothing is.
fn reinstate(d: &mut Draft, old: u32, why: &str) {
    let Some(new) = d.record.as_ref().and_then(|record| record.master) else { return };
    let epoch = depose(d, new, old, None);
    if let Some(node) = d.nodes.get_mut(&new) {
        node.deposed = None; // It never was one.
    }
    let (old, new) = (d.node_name(old), d.node_name(new));
    let message = format!("{old} stays the master instead of {new}, epoch {epoch}: {why}");
    d.event(EventKind::Warning, "SwitchoverFailed", d.o.name.to_string(), message);
}

// ---------------------------------------------------------------------------------------------
// A change that the user asked for

/// The master is well, and the user wants another.
fn hand_over(d: &mut Draft) {
    let Some(request) = d.o.instance.requests.get(&RequestKind::Failover) else { return };
    let Some(old) = d.record.as_ref().and_then(|record| record.master) else { return };
    let target = match &request.value.to {
        Some(name) => named(d, name).ok_or_else(|| format!("{} has no living node {name}", d.o.name)),
        None => most_caught_up(d),
    };
    match target.and_then(|new| fit_for_switch(d, new).map(|()| new)) {
        Ok(new) => {
            close_request(d);
            begin_switch(d, old, new, "it was asked for");
        }
        Err(why) => refuse_request(d, &why),
    }
}

/// The operator itself wants one of these nodes to be the master: the first that is in sync.
pub fn hand_over_to(d: &mut Draft, candidates: &[u32], why: &str) {
    let Some(old) = d.record.as_ref().and_then(|record| record.master) else { return };
    let mut doubts = Vec::new();
    for new in candidates {
        match fit_for_switch(d, *new).and_then(|()| may_try_again(d, *new)) {
            Ok(()) => return begin_switch(d, old, *new, why),
            Err(reason) => doubts.push(reason),
        }
    }
    for doubt in doubts {
        d.wait(format!("the master's role cannot be handed over: {doubt}"));
    }
}

/// Writes stand still during an attempt: one that fails is not repeated at once.
fn may_try_again(d: &mut Draft, new: u32) -> Result<(), String> {
    let Some(failed) = d.seen(new).and_then(|seen| seen.switch_failed.as_ref()) else { return Ok(()) };
    let again = failed.at.plus_ms(SWITCH_AGAIN_MS);
    if again <= d.o.now {
        return Ok(());
    }
    d.revisit(again);
    Err(format!("to {} it failed ({}); again at {again}", d.node_name(new), failed.why))
}

fn begin_switch(d: &mut Draft, old: u32, new: u32, why: &str) {
    let epoch = depose(d, old, new, None);
    let message = format!("from {} to {}, for {why}: epoch {epoch}", d.node_name(old), d.node_name(new));
    d.event(EventKind::Normal, "SwitchoverStarted", d.o.name.to_string(), message);
    switch_over(d, old, new, epoch);
}

fn most_caught_up(d: &Draft) -> Result<u32, String> {
    let fit = d.nodes.keys().filter(|ordinal| fit_for_switch(d, **ordinal).is_ok());
    let offset = |ordinal: &&u32| d.answer(**ordinal).map_or(0, |answer| answer.offset);
    fit.max_by_key(offset).copied().ok_or_else(|| "no replica is in sync with the master".to_string())
}

fn fit_for_switch(d: &Draft, new: u32) -> Result<(), String> {
    let (node, name) = (&d.nodes[&new], d.node_name(new));
    let master = d.master().map(|master| &master.address);
    if d.is_master(new) {
        return Err(format!("{name} is the master already"));
    }
    if let Some(why) = &node.stop {
        return Err(format!("{name} is being stopped: {why}"));
    }
    let Some(answer) = d.answer(new) else { return Err(format!("{name} does not answer")) };
    let in_sync = answer.role == Role::Replica && answer.follows.as_ref() == master && answer.link_up;
    let blank = answer.is_blank() && d.nodes.keys().any(|other| d.answer(*other).is_some_and(|a| !a.is_blank()));
    if !in_sync || !node.joined || answer.syncing || answer.loading || blank {
        return Err(format!("{name} is not in sync with the master"));
    }
    Ok(())
}

fn switch_over(d: &mut Draft, old: u32, new: u32, epoch: u64) {
    let (from, node) = (d.nodes[&old].address.clone(), &d.nodes[&new]);
    let action = Action::SwitchOver { from, task_id: node.task_id.clone(), node: node.address.clone(), epoch };
    d.step(action, format!("{} is the master of epoch {epoch}", d.node_name(new)));
    point_siblings(d, old, new);
}

fn refuse_request(d: &mut Draft, why: &str) {
    if d.o.instance.requests.contains_key(&RequestKind::Failover) && !d.done.contains(&RequestKind::Failover) {
        d.done.push(RequestKind::Failover);
        d.event(EventKind::Warning, "SwitchoverRefused", d.o.name.to_string(), why.to_string());
    }
}

fn close_request(d: &mut Draft) {
    if d.o.instance.requests.contains_key(&RequestKind::Failover) {
        d.done.push(RequestKind::Failover);
    }
}
