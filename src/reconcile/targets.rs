//! What the prober and the watches are told: which nodes, and how often. I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::failover::redis::{Login, Pace, Prober, Redis, Target, USERS, Watches, generations};
use crate::metrics::Metrics;
use crate::model::{NoAnswer, NodeRecord, Probe, parse_task_id};
use crate::passwords::{Key, Owner, Secret};
use crate::reconcile::tries::{CUT_FOREIGN, WATCH_FOREIGN_MS};
use crate::reconcile::world::{Instance, Node};

/// Keeps the prober's targets and the watched masters in step with the instances' nodes.
pub struct Targets {
    prober: Prober,
    watches: Watches,
    /// Is told how to log in.
    redis: Redis,
    key: Option<Key>,
    /// A node that is ready is probed this often.
    interval: Duration,
    /// What the prober and the watches have been told, by instance and task.
    known: BTreeMap<String, BTreeMap<String, Told>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    pace: Pace,
    /// It is watched, with this bound for its silence.
    within: Option<Duration>,
}

impl Targets {
    /// None yet.
    pub fn new(redis: Redis, prober: Prober, watches: Watches, interval: Duration, key: Option<Key>) -> Targets {
        Targets { prober, watches, redis, key, interval, known: BTreeMap::new() }
    }

    /// Tells of changes among the instance's nodes; `None`: the instance is gone.
    pub fn update(&mut self, name: &str, instance: Option<&Instance>, secret: Option<&Arc<Secret>>) {
        let known = self.known.remove(name).unwrap_or_default();
        let mut wanted = BTreeMap::new();
        let disturbed = instance.is_some_and(is_disturbed);
        for node in instance.into_iter().flat_map(|instance| instance.nodes.values()) {
            let record = &node.record.value;
            if record.task.is_dead() && !node.may_live() {
                continue;
            }
            self.redis
                .set_login(&record.address, instance.and_then(|instance| self.login(name, instance, record, secret)));
            let pace = if disturbed { Pace::Eager } else { self.pace(node) };
            let within = instance.and_then(|instance| watched_within(instance, node));
            let (task_id, told) = (&record.task_id, known.get(&record.task_id));
            if told.map(|told| told.pace) != Some(pace) {
                self.prober.add(Target { task_id: task_id.clone(), address: record.address.clone(), pace });
            }
            match (told.and_then(|told| told.within), within) {
                (before, after) if before == after => {}
                (_, Some(within)) => self.watches.set(task_id, &record.address, within),
                (_, None) => self.watches.remove(task_id),
            }
            wanted.insert(task_id.clone(), Told { pace, within });
        }
        for task_id in known.keys().filter(|task_id| !wanted.contains_key(*task_id)) {
            self.prober.remove(task_id);
            self.watches.remove(task_id);
        }
        if !wanted.is_empty() {
            self.known.insert(name.to_string(), wanted);
        }
    }

    /// Something has happened to the node: it is probed at once, and often for a while.
    pub fn now(&self, task_id: &str) {
        self.prober.probe_now(task_id);
    }

    /// When a watched master does not answer, what its replicas say of it is wanted now.
    pub fn probed(&self, probe: &Probe, metrics: &Metrics) {
        metrics.probe(probe.result.as_ref().map_or_else(NoAnswer::word, |_| "answer"));
        let (Err(_), Some((name, _))) = (&probe.result, parse_task_id(&probe.task_id)) else { return };
        let task_id = &probe.task_id;
        let Some(known) = self.known.get(name).filter(|k| k.get(task_id).is_some_and(|told| told.within.is_some()))
        else {
            return;
        };
        known.keys().filter(|other| *other != task_id).for_each(|other| self.prober.probe_now(other));
    }

    /// How to log in at a node: by what is to be valid there, or by what was.
    fn login(&self, name: &str, instance: &Instance, node: &NodeRecord, secret: Option<&Arc<Secret>>) -> Option<Login> {
        let (key, record) = (self.key.clone()?, &instance.record.as_ref()?.value);
        let mut valid = record.auth.map(|auth| auth.generations()).unwrap_or_default();
        valid.extend(generations(node.owned.get(USERS).map_or("", String::as_str)));
        valid.sort_unstable_by(|a, b| b.cmp(a));
        valid.dedup();
        let owner = Owner { instance: name.to_string(), created_at: record.created_at };
        let task_id = node.marked.then(|| node.task_id.clone());
        (!valid.is_empty()).then(|| Login { key, owner, task_id, generations: valid, secret: secret.cloned() })
    }

    fn pace(&self, node: &Node) -> Pace {
        if node.record.value.task.is_dead() {
            return Pace::Steady(self.interval); // It is looked for, perhaps for days.
        }
        let settled = node.silent.is_none() && node.answer.as_ref().is_some_and(|(a, _)| a.link_up && !a.loading);
        if settled { Pace::Steady(self.interval) } else { Pace::Eager }
    }
}

/// What the replicas of a lost master have is wanted now, and whether the others have what a dead
/// one had.
fn is_disturbed(instance: &Instance) -> bool {
    let master = instance.record.as_ref().and_then(|record| instance.nodes.get(&record.value.master?));
    let dead = |node: &Node| node.record.value.task.is_dead();
    // Whether they have caught up decides when the promise begins.
    let record = instance.record.as_ref().map(|record| &record.value);
    let promises = record.is_some_and(|record| record.unsettled || record.confirmations < record.spec.confirmations());
    // A master gets another history when its first replica comes: it is to be known.
    let history = |node: &Node| node.answer().filter(|a| a.link_up && !a.syncing).map(|answer| answer.replid.clone());
    let newest = master.and_then(history);
    let another = |node: &Node| newest.is_some() && history(node).is_some_and(|replid| Some(replid) != newest);
    let cut = master.and_then(|master| master.tries.last(CUT_FOREIGN));
    promises
        || !instance.foreign_replicas().is_empty()
        // Who was cut comes back at once, and is not to stay until the next question.
        || cut.is_some_and(|at| clock::now().since_ms(at) < WATCH_FOREIGN_MS)
        || instance.nodes.values().any(another)
        || master.is_some_and(|master| master.silent.is_some())
        || instance.nodes.values().any(|node| dead(node) && (node.record.value.joined || !node.may_live()))
        // Others are to have what one has that is to end.
        || instance.nodes.values().any(|node| node.record.value.stop.is_some() && node.record.value.joined)
}

/// The bound for the silence of a node that is watched.
fn watched_within(instance: &Instance, node: &Node) -> Option<Duration> {
    let record = &instance.record.as_ref()?.value;
    let watched = instance.watches(node.record.value.ordinal);
    watched.then(|| Duration::from_millis(record.spec.failover.detect_within.0))
}
