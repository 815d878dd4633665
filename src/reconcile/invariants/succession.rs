//! Who may take the master's role: a rule that no plan may break. Pure.

use super::After;
use crate::model::{Answer, InstanceRecord, Meaning, NoAnswer, RequestKind, Role, TaskRecord, node_name};
use crate::reconcile::action::Plan;
use crate::reconcile::draft::Observed;
use crate::reconcile::world::Node;

/// A new master may only be named when there is nothing to lose, or when it has what there is: none
/// was ever ready, every node that ran is proved dead or empty, or the new one has all that was
/// promised.
pub(super) fn data_is_not_abandoned(o: &Observed, _: &Plan, after: &After, broken: &mut Vec<String>) {
    let Some(before) = o.instance.record.as_ref().map(|record| &record.value) else { return };
    let Some(new) = after.record.as_ref().filter(|record| record.master != before.master) else { return };
    if !before.initialized || after.deleting() {
        return;
    }
    match new.master {
        Some(new) if o.instance.nodes.contains_key(&new) => it_has_what_was_promised(o, before, new, after, broken),
        _ => nothing_is_left(o, before, after, broken),
    }
}

fn nothing_is_left(o: &Observed, before: &InstanceRecord, after: &After, broken: &mut Vec<String>) {
    let master = before.master.and_then(|master| o.instance.nodes.get(&master)).map(|node| &node.record.value.task);
    let died_at = match master {
        Some(TaskRecord::Dead { at, .. }) => Some(*at),
        _ => None,
    };
    for node in o.instance.nodes.values() {
        let dead_in_plan = after.nodes.get(&node.record.value.ordinal).is_none_or(|record| record.task.is_dead());
        // Only an answer to a question that was put after the master's death says what is left.
        let empty = node.silent.is_none()
            && node.answer.as_ref().is_some_and(|(answer, at)| {
                answer.keys == 0
                    && answer.offset <= 1
                    && (answer.role == Role::Master || !answer.link_up)
                    && died_at.is_some_and(|died_at| *at > died_at)
            });
        if !dead_in_plan && !empty {
            let name = node.record.value.name();
            broken.push(format!("{name} may hold data, and the master's place would be given away"));
        }
    }
}

/// Beyond its max-lag a master may go on for two seconds: Redis counts whole ones, and looks each.
const LAG_SLACK_MS: u64 = 2000;

fn it_has_what_was_promised(o: &Observed, before: &InstanceRecord, new: u32, after: &After, broken: &mut Vec<String>) {
    let name = |ordinal: u32| node_name(o.name, ordinal);
    let answer = |node: &Node| node.answer.as_ref().filter(|_| node.silent.is_none()).map(|(answer, _)| answer.clone());
    let old = before.master.and_then(|master| o.instance.nodes.get(&master));
    let old_dead = before.master.is_none_or(|m| after.nodes.get(&m).is_none_or(|record| record.task.is_dead()));
    // A switchover that was recorded and perhaps not begun: the former master has its role back.
    let taken_back = o.instance.nodes.get(&new).and_then(|node| node.record.value.deposed);
    if taken_back.is_some_and(|deposed| deposed.epoch == before.epoch && deposed.offset.is_none()) {
        return;
    }
    if is_led_by(o, before, old, new) {
        return;
    }
    let Some((node, taking)) = o.instance.nodes.get(&new).and_then(|node| Some((node, answer(node)?))) else {
        broken.push(format!("{} would be the master, and does not answer", name(new)));
        return;
    };
    // A planned switchover, or one that is backed out: somebody is the master, and stays it or hands over.
    let acting = !old_dead && old.and_then(answer).is_some_and(|answer| answer.role == Role::Master);
    let handed = acting && taking.link_up && taking.follows.as_ref() == old.map(|old| &old.record.value.address);
    let resumes = taking.role == Role::Master && node.record.value.deposed.is_some();
    if handed || resumes {
        return;
    }
    let forced = o.instance.requests.get(&RequestKind::Failover).is_some_and(|request| request.value.force);
    if forced {
        return;
    }
    if acting {
        broken.push(format!("{} would take the place of a master that answers, and does not follow it", name(new)));
    }
    if taking.keys == 0 && taking.offset <= 1 && before.replid.as_ref() != Some(&taking.replid) {
        broken.push(format!("{} is empty and would be the master", name(new)));
    }
    let k = before.confirmations.min(applied_confirmations(old)) as usize;
    let may_have_confirmed = |node: &&Node| {
        let record = &node.record.value;
        let dead = node.update.as_ref().is_some_and(|update| update.state.meaning() == Meaning::Dead);
        let never_ran = (dead || record.task.is_dead()) && !record.task.ran() && node.answer.is_none();
        record.joined && Some(record.ordinal) != before.master && !never_ran
    };
    let ended = |old: &Node| matches!(old.silent, Some((NoAnswer::Refused | NoAnswer::Stranger, _)));
    let proved = old_dead || old.is_some_and(ended);
    let demoted = old.and_then(answer).is_some_and(|answer| answer.role == Role::Replica);
    let (mut all, mut seen) = (0, 0);
    for peer in o.instance.nodes.values().filter(may_have_confirmed) {
        all += 1;
        let dead = after.nodes.get(&peer.record.value.ordinal).is_none_or(|record| record.task.is_dead());
        let Some(known) = answer(peer).filter(|_| !dead) else { continue };
        if known.is_whole() && known.replid == taking.replid && known.offset > taking.offset {
            broken.push(format!("{} would be the master, and {} has more", name(new), name(peer.record.value.ordinal)));
        }
        let fenced_ms = peer.detached_since.map_or(0, |since| o.now.since_ms(since));
        let fenced = fenced_ms >= before.spec.failover.max_lag.0 + LAG_SLACK_MS;
        seen += usize::from(proved || demoted || k == 0 || fenced);
    }
    let held = if before.unsettled { k.saturating_sub(1) } else { k };
    let needed = if k == 0 { 1 } else { (all + 1_usize).saturating_sub(held).max(1) };
    if seen < needed && !demoted {
        broken.push(format!(
            "{} would be the master with {seen} of {all} replicas in sight, {needed} are needed",
            name(new)
        ));
    }
}

/// The recorded master is a replica or lost, and this one is a master, or is followed as one: it is recorded as what it is.
fn is_led_by(o: &Observed, before: &InstanceRecord, old: Option<&Node>, new: u32) -> bool {
    let Some(node) = o.instance.nodes.get(&new) else { return false };
    let leads = |history: Option<&String>, offset: u64| {
        let goes_on = |a: &Answer| history.is_some_and(|history| a.goes_on_from(history));
        node.answer().is_some_and(|a| a.role == Role::Master && goes_on(a) && a.offset >= offset)
    };
    let follows = |a: &Answer| a.follows.as_ref() == Some(&node.record.value.address);
    let followed = o.instance.nodes.values().filter_map(Node::answer).any(follows);
    match old.and_then(Node::answer) {
        Some(led) => led.role == Role::Replica && (followed || leads(Some(&led.replid), led.offset)),
        None => followed && leads(before.replid.as_ref(), 0),
    }
}

fn applied_confirmations(master: Option<&Node>) -> u32 {
    let applied = master.and_then(|node| node.record.value.owned.get("min-replicas-to-write"));
    applied.and_then(|text| text.parse().ok()).unwrap_or(u32::MAX)
}
