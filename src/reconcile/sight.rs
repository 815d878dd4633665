//! Redis' part of the world: what nodes answer, since when they do not, and how many are out of sight. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::failover;
use crate::model::{Address, Answer, Meaning, NoAnswer, Probe, Role, TaskRecord, Timestamp};
use crate::reconcile::news::{AVOID_MS, avoid};
use crate::reconcile::world::{Dirty, Instance, Node, World};

/// On how many agents nodes run as far as anybody knows, and on how many of them the operator reaches none. By agents,
/// since whoever has many nodes could otherwise silence them all, and so stop the failovers of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Agents with nodes that were asked, and of which Mesos does not say that they are gone.
    pub agents: usize,
    /// Those of which none answers.
    pub lost: usize,
}

/// A node that is asked so soon after its launch need not listen yet.
pub const STARTS_WITHIN_MS: u64 = 10_000;

impl World {
    /// What the operator sees, when it has lost sight of the nodes of most agents, one of this instance among them:
    /// then it is more likely that it is cut off than that all of them have gone.
    pub fn cut_off(&self, instance: &Instance) -> Option<Sight> {
        instance.nodes.values().find(|node| node.silent.is_some())?;
        let mut answers: BTreeMap<&str, bool> = BTreeMap::new();
        for node in self.instances.values().flat_map(|instance| instance.nodes.values()) {
            let told =
                node.update.as_ref().is_some_and(|u| matches!(u.state.meaning(), Meaning::Dead | Meaning::Unsure));
            let asked =
                node.answer.is_some() || (node.silent.is_some() && !node.starts() && node.record.value.task.ran());
            if told || !asked || !matches!(node.record.value.task, TaskRecord::Launching | TaskRecord::Running) {
                continue;
            }
            let lives = node.silent.is_none_or(|(why, _)| why.lives());
            *answers.entry(&node.record.value.agent_id).or_default() |= lives;
        }
        let lost = answers.values().filter(|answers| !**answers).count();
        (lost * 2 > answers.len()).then_some(Sight { agents: answers.len(), lost })
    }

    pub(super) fn probed(&mut self, probe: Probe, now: Timestamp) -> Dirty {
        let Some((name, ordinal)) = self.tasks.get(&probe.task_id) else { return Dirty::default() };
        let Some(instance) = self.instances.get_mut(name) else { return Dirty::default() };
        let watched = instance.watches(*ordinal);
        let lost_at = instance.lost_at();
        let within = instance.record.as_ref().map_or(0, |record| record.value.spec.failover.detect_within.0);
        let Some(node) = instance.nodes.get_mut(ordinal) else { return Dirty::default() };
        let answered_at = node.answer.as_ref().map(|(_, at)| *at);
        let known = node.answer.as_ref().filter(|(_, at)| *at < probe.at);
        let stranger = |answer: &Answer| known.is_some_and(|(known, _)| answer.is_a_stranger_to(known));
        let news = match probe.result.and_then(|a| if stranger(&a) { Err(NoAnswer::Stranger) } else { Ok(a) }) {
            // Two may ask side by side, and a change of role is answered, too: the older says nothing.
            Ok(_) if answered_at > Some(probe.at) => false,
            Ok(answer) => {
                // The same answer is news when it is the first since the master was lost.
                let first = |at: &Timestamp| lost_at.is_some_and(|lost| *at < lost && lost <= probe.at);
                let alike = node.answer.as_ref().is_some_and(|(known, at)| known.is_like(&answer) && !first(at));
                let news = !alike || !node.heard || node.silent.is_some();
                // Links of nodes that have gone end a moment after them.
                let listed: Option<BTreeSet<Address>> =
                    (answer.role == Role::Master).then(|| answer.replicas.iter().cloned().collect());
                node.answered(answer, probe.at);
                if let Some(listed) = listed {
                    instance.former.retain(|address| listed.contains(address));
                }
                news
            }
            // The watch is patient with its own process, and knows better what silence is.
            Err(NoAnswer::Timeout | NoAnswer::Unreachable) if watched && !probe.watched => false,
            Err(why) => {
                if why.is_of_another() {
                    avoid(&mut self.avoided, &node.record.value.address, now.plus_ms(AVOID_MS));
                }
                let answered_at = node.answer.as_ref().map_or(Timestamp(0), |(_, at)| *at);
                let since = match node.silent {
                    // It replies the same again: nothing new.
                    Some((known, since)) if known == why && why.lives() => since,
                    _ if probe.watched => probe.at.max(answered_at),
                    Some((_, since)) => since,
                    None => probe.at,
                };
                node.fails = node.fails.saturating_add(1);
                let long_ago = node.silent_ms() >= within;
                // The first failure may be one of the network's moods; the second says something.
                let other = node.silent.is_none_or(|(known, _)| known != why);
                node.noticed_at = node.noticed_at.filter(|_| !other).or(Some(now));
                node.silent = Some((why, since));
                node.silent_until = node.silent_until.max(probe.until);
                other || node.fails == 2 || long_ago != (node.silent_ms() >= within)
            }
        };
        if news { Dirty::one(name) } else { Dirty::default() }
    }
}

impl Instance {
    /// Who follows the master and is no node of the instance, as they announce themselves, twice what is there
    /// twice. Such a one counts for `WAIT` and for `min-replicas-to-write`.
    pub fn foreign_replicas(&self) -> Vec<Address> {
        let master = self.record.as_ref().and_then(|record| self.nodes.get(&record.value.master?));
        let Some(answer) = master.and_then(Node::answer) else { return Vec::new() };
        let mut ours: BTreeSet<&Address> = self.nodes.values().map(|node| &node.record.value.address).collect();
        ours.extend(&self.former);
        answer.replicas.iter().filter(|replica| !ours.remove(replica)).cloned().collect()
    }

    /// When it was learned that the recorded master does not answer.
    fn lost_at(&self) -> Option<Timestamp> {
        self.nodes.get(&self.record.as_ref()?.value.master?)?.noticed_at
    }

    /// Whether it was learned within that time that the recorded master does not answer, or is dead.
    pub fn has_just_lost_its_master(&self, now: Timestamp, within_ms: u64) -> bool {
        let master = self.record.as_ref().and_then(|record| self.nodes.get(&record.value.master?));
        let just = |at: Timestamp| now.since_ms(at) < within_ms;
        let dead = |node: &Node| node.update.as_ref().is_some_and(|update| update.state.meaning() == Meaning::Dead);
        master.is_some_and(|node| node.noticed_at.map_or_else(|| dead(node), just))
    }

    /// Whether the node is watched closely: the recorded master, once it was ready, and whoever was it
    /// before and may come back.
    pub fn watches(&self, ordinal: u32) -> bool {
        let record = self.record.as_ref().map(|record| &record.value);
        let Some(node) = self.nodes.get(&ordinal) else { return false };
        let is_master = record.is_some_and(|record| record.initialized && record.master == Some(ordinal));
        if node.record.value.task.is_dead() {
            is_master && node.may_live()
        } else {
            is_master || node.record.value.deposed.is_some()
        }
    }
}

impl Node {
    /// Whether it counts as dead by Mesos' word alone, and its process may run.
    pub fn may_live(&self) -> bool {
        failover::may_live(&self.record.value.task, Some(self))
    }

    /// Whether it has not answered yet, and was launched just before it was first asked.
    pub fn starts(&self) -> bool {
        let launched_at = self.record.value.launched_at;
        self.answer.is_none() && self.silent.is_none_or(|(_, since)| since.since_ms(launched_at) < STARTS_WITHIN_MS)
    }

    /// How long it has been silent for certain.
    pub fn silent_ms(&self) -> u64 {
        self.silent.map_or(0, |(_, since)| self.silent_until.since_ms(since))
    }

    pub(super) fn answered(&mut self, answer: Answer, at: Timestamp) {
        let detached = answer.follows.as_ref() == Some(&self.record.value.address);
        let still = self.answer.as_ref().is_some_and(|(known, _)| known.offset == answer.offset);
        self.still_since = if still { self.still_since.or(Some(at)) } else { Some(at) };
        self.detached_since = if detached { self.detached_since.or(Some(at)) } else { None };
        (self.heard, self.silent, self.noticed_at, self.fails) = (true, None, None, 0);
        self.answer = Some((answer, at));
    }
}
