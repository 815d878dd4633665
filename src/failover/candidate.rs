//! Who takes a lost master's place, or why nobody may. Pure.

use std::cmp::Reverse;

use crate::failover::judge::Master;
use crate::failover::promise::{confirmations, fence_ms, quorum, voters};
use crate::model::{Answer, Deposed, NodeRecord, Role, TaskRecord, Timestamp};
use crate::reconcile::draft::Draft;

/// Replicas are asked all the time while a master is lost; what they answer is looked at at once.
const LOOK_AGAIN_MS: u64 = 250;

/// What became of the search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This node, at this offset.
    Node(u32, u64),
    /// Soon, perhaps: what is waited for, and when to look again.
    Wait(String, Option<Timestamp>),
    /// Nobody; why.
    Nobody(String),
}

/// When nobody fills the master's role, though the record names a node that answers: whether that
/// node has everything. The record was written for a reason, by a process that did not finish.
pub fn may_finish(d: &Draft, ordinal: u32) -> Result<(), String> {
    let Some(record) = &d.record else { return Err("there is no record".to_string()) };
    let Some(answer) = d.answer(ordinal) else { return Err("it does not answer".to_string()) };
    if answer.loading || answer.syncing {
        return Err("it has no whole data set".to_string());
    }
    let ours = record.replid.as_ref().is_none_or(|known| answer.goes_on_from(known));
    if !ours {
        return Err(format!("it has data of another history ({})", answer.replid));
    }
    let (mut all, mut seen) = (1, 1);
    let mut handed_over = false;
    for node in voters(d) {
        let known = d.answer(node.ordinal);
        let more = |peer: &Answer| peer.offset > answer.offset || (answer.is_blank() && !peer.is_blank());
        if known.is_some_and(|peer| peer.replid == answer.replid && more(peer)) {
            return Err(format!("{} has more", node.name()));
        }
        // The former master handed its role over, and takes no writes any more: nobody has more.
        let stepped_back = node.deposed == Some(Deposed { epoch: record.epoch, offset: None });
        handed_over |= stepped_back && known.is_some_and(|peer| follows_itself(node, peer));
        if node.deposed.is_none() {
            all += 1;
            seen += usize::from(known.is_some());
        }
    }
    let needed = quorum(d, all).min(all);
    if seen < needed && !handed_over {
        Err(format!("{seen} of {all} nodes are in sight, and {needed} must be"))
    } else {
        Ok(())
    }
}

/// Chooses among the replicas in sight. `forced`: the user wants this node, whatever is lost.
pub fn choose(d: &Draft, master: &Master, forced: Option<u32>) -> Choice {
    if let Some(ordinal) = forced {
        return match d.answer(ordinal) {
            Some(answer) if !answer.loading && !answer.syncing => Choice::Node(ordinal, answer.offset),
            _ => Choice::Nobody(format!("{} does not answer, or has no whole data set", d.node_name(ordinal))),
        };
    }
    let voters: Vec<u32> = voters(d).map(|node| node.ordinal).collect();
    let needed = quorum(d, voters.len());
    let mut unseen = Vec::new();
    let mut seen: Vec<(&NodeRecord, &Answer)> = Vec::new();
    let mut soonest: Option<Timestamp> = None;
    let mut coming: Vec<(&NodeRecord, &Answer, String, Timestamp)> = Vec::new();
    for node in d.nodes.values().filter(|node| !d.is_master(node.ordinal) && !node.task.is_dead()) {
        match in_sight(d, master, node) {
            Ok(answer) => seen.push((node, answer)),
            Err((why, again)) => {
                soonest = again.into_iter().chain(soonest).min();
                if let (Some(answer), Some(again)) = (d.answer(node.ordinal).filter(|a| a.is_whole()), again) {
                    coming.push((node, answer, why.clone(), again));
                }
                unseen.push(format!("{} {why}", node.name()));
            }
        }
    }
    let dead = voters.iter().filter(|ordinal| d.nodes.get(ordinal).is_some_and(|node| node.task.is_dead()));
    unseen.extend(dead.map(|ordinal| format!("{} is dead", d.node_name(*ordinal))));
    seen.retain(|(node, _)| voters.contains(&node.ordinal));
    let count = seen.len();
    if let Some(lost) = d.master().filter(|_| voters.is_empty() && coming.is_empty()) {
        return Choice::Nobody(format!(
            "it has no replica that could. Let it go on, or end its process on {} ({}): then it starts again empty",
            lost.hostname, lost.address
        ));
    }
    if count < needed {
        let (all, unseen) = (voters.len(), unseen.join(", "));
        let lone = d.record.as_ref().is_some_and(|record| record.unsettled) && needed > all;
        if lone {
            let name = d.master().map(NodeRecord::name).unwrap_or_default();
            return Choice::Nobody(format!(
                "{name} was lost before others had all that it alone had, and clients may have confirmed some of it"
            ));
        }
        let why = format!(
            "{count} of {all} replicas are in sight, and {needed} must be, for one of them to have every write that clients have confirmed: {unseen}"
        );
        return match soonest {
            Some(_) => Choice::Wait(why, soonest),
            None => Choice::Nobody(why),
        };
    }
    let choice = greatest(d, master, &seen);
    // Enough are in sight for what was promised; but one that will be in a moment has more.
    let Choice::Node(ordinal, offset) = choice else { return choice };
    let more = |a: &Answer| d.answer(ordinal).is_some_and(|chosen| a.replid == chosen.replid) && a.offset > offset;
    match coming.iter().find(|(node, answer, ..)| voters.contains(&node.ordinal) && more(answer)) {
        Some((node, _, why, again)) => Choice::Wait(format!("{} has more, and {why}", node.name()), Some(*again)),
        None => choice,
    }
}

/// The one with the most of the newest history.
fn greatest(d: &Draft, master: &Master, seen: &[(&NodeRecord, &Answer)]) -> Choice {
    let known = d.record.as_ref().and_then(|record| record.replid.clone());
    // An empty data set with the master's history is one, too: there was nothing to send yet.
    let with_data = || seen.iter().filter(|(_, answer)| !answer.is_blank() || known.as_ref() == Some(&answer.replid));
    let Some(replid) = history(d, known.as_ref(), with_data) else {
        return Choice::Nobody("no replica in sight has any data".to_string());
    };
    let (mut best, mut unfit): (Option<(_, u32, u64)>, Vec<String>) = (None, Vec::new());
    for (node, answer) in with_data() {
        // It was left behind by the last promotion. (A replica has the newer history as soon as its link is
        // up, and only later all of it.)
        let newer = |a: &Answer| a.replid == replid && a.replid2 == answer.replid && a.offset >= answer.offset;
        if answer.role == Role::Replica && with_data().any(|(_, a)| newer(a)) {
            continue;
        }
        match generation(d, node, answer, &replid, with_data().count() == 1) {
            Ok(generation) => {
                // Among equals: one that stays, not beside the lost master, where few others are, the oldest.
                let beside = d.master().is_some_and(|master| master.agent_id == node.agent_id);
                let neighbours = d.nodes.values().filter(|other| other.agent_id == node.agent_id).count();
                let goes = node.stop.is_some();
                let key =
                    (generation, !answer.is_blank(), answer.offset, Reverse((goes, beside, neighbours, node.ordinal)));
                if best.as_ref().is_none_or(|(known, ..)| key > *known) {
                    best = Some((key, node.ordinal, answer.offset));
                }
            }
            Err(why) => unfit.push(format!("{} {why}", node.name())),
        }
    }
    match best {
        // One whose history is not known may be ahead of all others.
        _ if !unfit.is_empty() => Choice::Nobody(unfit.join(", ")),
        Some((_, ordinal, offset)) => match fuller(d, master, ordinal) {
            Some(name) => Choice::Nobody(format!("{} is empty, and {name} has data", d.node_name(ordinal))),
            None => Choice::Node(ordinal, offset),
        },
        None => Choice::Nobody("no replica in sight has any data".to_string()),
    }
}

/// When the node is empty: another that has data and may live, whatever else may be wrong with it.
fn fuller(d: &Draft, master: &Master, ordinal: u32) -> Option<String> {
    d.answer(ordinal).filter(|answer| answer.is_blank())?;
    let keeps = |node: &&NodeRecord| {
        let last = d.seen(node.ordinal).and_then(|seen| seen.answer.as_ref());
        let over = node.task.is_dead() || (d.is_master(node.ordinal) && matches!(master, Master::Dead(_)));
        node.joined && !over && last.is_some_and(|(a, _)| !a.is_blank())
    };
    d.nodes.values().find(keeps).map(NodeRecord::name)
}

/// The history that counts: the recorded one, unless nobody in sight has it and all have the same
/// other one, from the recorded master. (Redis gives a master a new one when its first replica comes,
/// and it may be lost before that is seen. Once replicas were seen to have all, it was seen, too: a
/// history that nobody knows then is a stranger's, who has the dead master's port.)
fn history<'a, I: Iterator<Item = &'a (&'a NodeRecord, &'a Answer)>>(
    d: &Draft,
    known: Option<&String>,
    with_data: impl Fn() -> I,
) -> Option<String> {
    let first = with_data().next().map(|(_, answer)| answer.replid.clone())?;
    let recorded = known.filter(|known| with_data().any(|(_, a)| a.goes_on_from(known)));
    // Nobody has followed the last master: what it took alone was confirmed by nobody.
    let parent = d.record.as_ref().and_then(|record| record.replid_before.clone());
    if recorded.is_none() && parent.as_ref().is_some_and(|parent| with_data().any(|(_, a)| a.replid == *parent)) {
        return parent;
    }
    // A master's offset never falls: who has less than it had has the data of somebody else.
    let had = d.master().and_then(|master| d.seen(master.ordinal)?.answer.as_ref()).map_or(0, |(a, _)| a.offset);
    let ours = |(node, a): &(&NodeRecord, &Answer)| a.replid == first && a.offset >= had && follows_ours(d, node, a);
    let had_replicas = d.record.as_ref().is_some_and(|record| record.confirmations > 0);
    match recorded.or(known) {
        Some(known) if recorded.is_some() || had_replicas || !with_data().all(ours) => Some(known.clone()),
        _ => Some(first),
    }
}

/// How new the node's history is: that of the newest master that was recorded, or one that goes on
/// from it under a master that was not seen long enough to be recorded.
fn generation(d: &Draft, node: &NodeRecord, answer: &Answer, replid: &str, alone: bool) -> Result<u8, String> {
    match answer.role {
        _ if node.deposed.is_some_and(|deposed| deposed.offset.is_some()) => {
            Err("was a master when another was already".to_string())
        }
        // Somebody else has made it one. Nobody has anything that it has not.
        Role::Master if alone && (answer.replid == replid || answer.replid2 == replid) => Ok(1),
        Role::Master => Err("thinks that it is a master itself, and may lack what others have".to_string()),
        Role::Replica if answer.replid == replid => Ok(0),
        Role::Replica if answer.replid2 == replid && follows_ours(d, node, answer) => Ok(1),
        Role::Replica => Err(format!("has data of another history ({})", answer.replid)),
    }
}

/// What the node has for good: it answers, and nothing more can reach it, or be confirmed by it to
/// the lost master. Or why not, and when to look again.
fn in_sight<'a>(d: &Draft<'a>, master: &Master, node: &NodeRecord) -> Result<&'a Answer, (String, Option<Timestamp>)> {
    let soon = Some(d.o.now.plus_ms(LOOK_AGAIN_MS));
    let seen = d.seen(node.ordinal).ok_or_else(|| ("is being launched".to_string(), None))?;
    if let Some((why, since)) = seen.silent {
        return Err((format!("does not answer since {since} ({why})"), None));
    }
    let Some((answer, asked_at)) = &seen.answer else { return Err(("has not answered yet".to_string(), soon)) };
    if answer.loading || answer.syncing {
        return Err(("has no whole data set yet".to_string(), soon));
    }
    let fresh = lost_at(d).is_none_or(|at| *asked_at >= at);
    match master {
        _ if !fresh => Err(("is being asked again".to_string(), soon)),
        Master::Dead(_) if answer.may_receive() && !follows_itself(node, answer) => {
            Err(("still has a link to it".to_string(), soon))
        }
        Master::Gone(..) if confirmations(d) > 0 && answer.role == Role::Replica => {
            let fence_ms = d.spec().map_or(0, fence_ms);
            match seen.detached_since.map(|since| since.plus_ms(fence_ms)) {
                None => Err(("is being taken from it".to_string(), soon)),
                Some(at) if at > d.o.now => {
                    Err((format!("was taken from it, which it must have noticed at {at}"), Some(at)))
                }
                Some(_) => Ok(answer),
            }
        }
        _ => Ok(answer),
    }
}

/// Whether a replica follows the recorded master, or was taken from it.
fn follows_ours(d: &Draft, node: &NodeRecord, answer: &Answer) -> bool {
    let master = d.master().map(|master| &master.address);
    answer.follows.is_some() && (answer.follows.as_ref() == master || follows_itself(node, answer))
}

pub(super) fn follows_itself(node: &NodeRecord, answer: &Answer) -> bool {
    answer.follows.as_ref() == Some(&node.address)
}

/// When it was learned that the master is lost: what replicas answered before says less.
pub(super) fn lost_at(d: &Draft) -> Option<Timestamp> {
    let master = d.master()?;
    match (&master.task, d.seen(master.ordinal)) {
        (_, Some(seen)) if seen.noticed_at.is_some() => seen.noticed_at,
        (TaskRecord::Dead { at, .. }, _) => Some(*at),
        _ => None,
    }
}
