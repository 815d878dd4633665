//! A recorded master that answers as a replica: a change that was recorded and is not done, or one that the store knows
//! nothing of. Pure.
//!
//! The store may have gone back behind a change (it was restored from a backup), so that the record names a master of
//! before: whoever the nodes follow is recorded then, and nobody is promoted beside a master that lives or may live.

use crate::failover::candidate::{follows_itself, may_finish};
use crate::failover::handover::switch_over;
use crate::failover::judge::Master;
use crate::failover::takeover::{TURN_AGAIN_MS, depose, point_siblings, recently_turned, replace_by};
use crate::model::{Answer, Deposed, EventKind, NodeRecord, Role, TaskRecord};
use crate::reconcile::action::Action;
use crate::reconcile::draft::Draft;

/// The recorded master answers as a replica.
pub(super) fn finish(d: &mut Draft) {
    let Some((epoch, new)) = d.record.as_ref().and_then(|record| Some((record.epoch, record.master?))) else { return };
    if let Some(leader) = leads(d, new, |node| node.deposed.is_none()) {
        return adopt(d, leader, new);
    }
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
    if let Some(leader) = leads(d, new, |_| true) {
        return adopt(d, leader, new);
    }
    if let Some(name) = unasked(d, new) {
        d.wait(format!(
            "{} is to be the master; {name}, which may be it still or already, has not been asked yet",
            d.node_name(new)
        ));
        return;
    }
    if let Some(former) = may_still_act(d, new) {
        return reinstate(d, former, "it does not answer, and may not have stepped back");
    }
    if let Some(leader) = may_lead(d, new) {
        return adopt(d, leader, new);
    }
    match may_finish(d, new) {
        Ok(()) if recently_turned(d, new) => d.revisit(d.o.now.plus_ms(TURN_AGAIN_MS)),
        Ok(()) => {
            let (node, data) = (&d.nodes[&new], d.answer(new).map(Answer::data));
            let action = Action::Promote { task_id: node.task_id.clone(), node: node.address.clone(), data };
            d.step(action, "it is the recorded master, and answers as a replica");
            point_siblings(d, new, new);
        }
        Err(why) => {
            d.wait(format!("{} is the recorded master, answers as a replica, and {why}", d.node_name(new)));
            replace_by(d, &Master::Demoted, None);
        }
    }
}

/// The node that is a master though nobody recorded it: the recorded one follows it, or has stepped back (it follows
/// itself) and has no more than it. Which of the two was asked first does not matter: who follows has less.
fn leads(d: &Draft, recorded: u32, may: impl Fn(&NodeRecord) -> bool) -> Option<u32> {
    let led = d.answer(recorded)?;
    let stepped_back = follows_itself(&d.nodes[&recorded], led);
    let is = |node: &&NodeRecord| {
        let Some(answer) = d.answer(node.ordinal) else { return false };
        let goes_on = answer.goes_on_from(&led.replid);
        let followed = led.follows.as_ref() == Some(&node.address);
        let leads = answer.role == Role::Master && !answer.loading && goes_on;
        leads && (followed || (stepped_back && answer.offset >= led.offset))
    };
    let others = d.nodes.values().filter(|node| node.ordinal != recorded && !node.task.is_dead() && may(node));
    let mut leaders = others.filter(is);
    let leader = leaders.next()?;
    leaders.next().is_none().then_some(leader.ordinal)
}

/// A node that nodes follow, and that does not answer: it may be a master that nobody recorded, and is judged like any
/// that is silent. (In the middle of a change that was recorded, some may follow a master of long ago.)
fn may_lead(d: &Draft, recorded: u32) -> Option<u32> {
    let epoch = d.record.as_ref().map(|record| record.epoch);
    if d.nodes.values().filter_map(|node| node.deposed).any(|deposed| Some(deposed.epoch) == epoch) {
        return None;
    }
    let followed = |node: &NodeRecord| {
        let by = |other: &NodeRecord| {
            other.joined && d.answer(other.ordinal).is_some_and(|a| a.follows.as_ref() == Some(&node.address))
        };
        d.nodes.values().any(|other| other.ordinal != node.ordinal && by(other))
    };
    let may = |node: &&NodeRecord| {
        let silent = d.answer(node.ordinal).is_none();
        node.ordinal != recorded && silent && node.deposed.is_none() && !node.task.is_dead() && followed(node)
    };
    d.nodes.values().find(may).map(|node| node.ordinal)
}

/// A node of which an operator that has just started knows nothing, and that may take writes: a former master that was
/// to hand its role over in whatever epoch, or one that the store knows nothing of.
fn unasked(d: &Draft, recorded: u32) -> Option<String> {
    let known = |ordinal: u32| d.answer(ordinal).is_some() || d.silence(ordinal).is_some();
    let unasked = |node: &&NodeRecord| {
        let handed_over = node.deposed.is_some_and(|deposed| deposed.offset.is_none());
        let runs = matches!(node.task, TaskRecord::Running | TaskRecord::Unsure { .. });
        let may_lead = handed_over || node.joined || runs;
        node.ordinal != recorded && may_lead && !node.task.is_dead() && !known(node.ordinal)
    };
    d.nodes.values().find(unasked).map(NodeRecord::name)
}

/// The recorded master is lost, and another is one already, which all nodes in sight follow: nobody recorded it.
pub(super) fn leads_instead(d: &Draft) -> Option<u32> {
    let record = d.record.as_ref()?;
    let (recorded, known) = (record.master?, record.replid.as_ref()?);
    let others = || d.nodes.values().filter(|node| node.ordinal != recorded && !node.task.is_dead());
    let is = |node: &&NodeRecord| {
        let Some(answer) = d.answer(node.ordinal) else { return false };
        let goes_on = answer.goes_on_from(known);
        node.deposed.is_none() && answer.role == Role::Master && !answer.loading && goes_on
    };
    let leader = others().find(is)?;
    let follows = |node: &NodeRecord| d.answer(node.ordinal).map(|a| a.follows.as_ref() == Some(&leader.address));
    let mut followers = others().filter(|node| node.ordinal != leader.ordinal && node.joined).filter_map(follows);
    let followed = followers.next()? && followers.all(|follows| follows);
    (followed && unasked(d, recorded).is_none()).then_some(leader.ordinal)
}

/// It takes writes, and the recorded master does not: it is recorded, and nothing is lost.
pub(super) fn adopt(d: &mut Draft, master: u32, recorded: u32) {
    let is_led = d.answer(recorded).is_some();
    let offset = d.answer(master).map(|answer| answer.offset).filter(|_| !is_led);
    let epoch = depose(d, recorded, master, offset);
    if let Some(node) = d.nodes.get_mut(&recorded).filter(|_| is_led) {
        node.deposed = None; // It follows already.
    }
    // Whatever happened between is not known: others may have confirmed to it what these have not.
    d.record.as_mut().expect("there is a master, so there is a record").unsettled = true;
    let (master, recorded) = (d.node_name(master), d.node_name(recorded));
    let is = if is_led { "is a replica" } else { "is lost" };
    let message = format!(
        "{master} is the master, and {recorded}, which is the recorded one, {is}: the store has gone back behind that, or \
         somebody else has moved the role; it is recorded, epoch {epoch}"
    );
    d.event(EventKind::Warning, "MasterAdopted", d.o.name.to_string(), message);
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
        let newest = known.is_some_and(|known| old.goes_on_from(known));
        let never_promoted = known == Some(&new.replid) || new.replid == old.replid;
        node.deposed.is_some() && !node.task.is_dead() && newest && never_promoted
    };
    d.nodes.values().find(acts).map(|node| node.ordinal)
}

/// The former master that was to hand its role over in this epoch.
fn handing_over<'a>(d: &'a Draft) -> Option<&'a NodeRecord> {
    let handing_over = Deposed { epoch: d.record.as_ref()?.epoch, offset: None };
    d.nodes.values().find(|node| node.deposed == Some(handing_over))
}

/// It still has its role: before another is promoted, it is detached.
pub(super) fn never_stepped_back(d: &Draft) -> Option<u32> {
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

/// The former master keeps its role: nothing was lost, and nothing is.
pub(super) fn reinstate(d: &mut Draft, old: u32, why: &str) {
    let Some(new) = d.record.as_ref().and_then(|record| record.master) else { return };
    let epoch = depose(d, new, old, None);
    if let Some(node) = d.nodes.get_mut(&new) {
        node.deposed = None; // It never was one.
    }
    let (old, new) = (d.node_name(old), d.node_name(new));
    let message = format!("{old} stays the master instead of {new}, epoch {epoch}: {why}");
    d.event(EventKind::Warning, "SwitchoverFailed", d.o.name.to_string(), message);
}
