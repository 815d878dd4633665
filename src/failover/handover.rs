//! Plans a change of master that somebody wants: it is handed over, and no acknowledged write is lost. Pure.

use crate::failover::takeover::{depose, point_siblings};
use crate::model::{EventKind, RequestKind, Role};
use crate::reconcile::action::{Action, Cause};
use crate::reconcile::draft::Draft;
use crate::reconcile::launch::master_password;

/// A switchover that nobody asked for is tried again so long after it was backed out.
const SWITCH_AGAIN_MS: u64 = 30_000;

/// The master is well, and the user wants another.
pub(super) fn hand_over(d: &mut Draft) {
    let Some(request) = d.o.instance.requests.get(&RequestKind::Failover) else { return };
    let Some(old) = d.record.as_ref().and_then(|record| record.master) else { return };
    let target = match &request.value.to {
        Some(name) => named(d, name).ok_or_else(|| format!("{} has no living node {name}", d.o.name)),
        None => most_caught_up(d),
    };
    match target.and_then(|new| fit_for_switch(d, new).map(|()| new)) {
        Ok(new) => {
            close_request(d);
            begin_switch(d, old, new, Cause::Asked, "it was asked for");
        }
        Err(why) => refuse_request(d, &why),
    }
}

/// The operator itself wants one of these nodes to be the master: the first that is in sync.
pub fn hand_over_to(d: &mut Draft, candidates: &[u32], cause: Cause, why: &str) {
    let Some(old) = d.record.as_ref().and_then(|record| record.master) else { return };
    let mut doubts = Vec::new();
    for new in candidates {
        match fit_for_switch(d, *new).and_then(|()| may_try_again(d, *new)) {
            Ok(()) => return begin_switch(d, old, *new, cause, why),
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

fn begin_switch(d: &mut Draft, old: u32, new: u32, cause: Cause, why: &str) {
    d.failover = Some(cause);
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
    if node.task.is_dead() {
        return Err(format!("{name} is dead"));
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

pub(super) fn switch_over(d: &mut Draft, old: u32, new: u32, epoch: u64) {
    let (from, node) = (d.nodes[&old].address.clone(), &d.nodes[&new]);
    let (task_id, password) = (node.task_id.clone(), master_password(node));
    let action = Action::SwitchOver { from, task_id, node: node.address.clone(), epoch, password };
    d.step(action, format!("{} is the master of epoch {epoch}", d.node_name(new)));
    point_siblings(d, old, new);
}

pub(super) fn refuse_request(d: &mut Draft, why: &str) {
    if d.o.instance.requests.contains_key(&RequestKind::Failover) && !d.done.contains(&RequestKind::Failover) {
        d.done.push(RequestKind::Failover);
        d.event(EventKind::Warning, "SwitchoverRefused", d.o.name.to_string(), why.to_string());
    }
}

pub(super) fn close_request(d: &mut Draft) {
    if d.o.instance.requests.contains_key(&RequestKind::Failover) {
        d.done.push(RequestKind::Failover);
    }
}

/// A living node by its name.
pub(super) fn named(d: &Draft, name: &str) -> Option<u32> {
    d.nodes.values().find(|node| node.name() == name && !node.task.is_dead()).map(|node| node.ordinal)
}
