//! What the prober is told: which nodes, and how often. I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::failover::redis::{Pace, Prober, Target};
use crate::reconcile::world::{Instance, Node};

/// Keeps the prober's targets in step with the instances' nodes.
pub struct Targets {
    prober: Prober,
    /// A node that is ready is probed this often.
    interval: Duration,
    /// What the prober has been told, by instance and task.
    known: BTreeMap<String, BTreeMap<String, Pace>>,
}

impl Targets {
    /// None yet.
    pub fn new(prober: Prober, interval: Duration) -> Targets {
        Targets { prober, interval, known: BTreeMap::new() }
    }

    /// Tells the prober of changes among the instance's nodes; `None`: the instance is gone.
    pub fn update(&mut self, name: &str, instance: Option<&Instance>) {
        let known = self.known.remove(name).unwrap_or_default();
        let mut wanted = BTreeMap::new();
        let master = instance.and_then(|i| i.nodes.get(&i.record.as_ref()?.value.master?));
        let orphaned = master.is_some_and(|master| master.record.value.task.is_dead());
        for node in instance.into_iter().flat_map(|instance| instance.nodes.values()) {
            let record = &node.record.value;
            if record.task.is_dead() {
                continue;
            }
            // What the replicas of a dead master have left is wanted now.
            let pace = if orphaned { Pace::Eager } else { self.pace(node) };
            if known.get(&record.task_id) != Some(&pace) {
                self.prober.add(Target { task_id: record.task_id.clone(), address: record.address.clone(), pace });
            }
            wanted.insert(record.task_id.clone(), pace);
        }
        for task_id in known.keys().filter(|task_id| !wanted.contains_key(*task_id)) {
            self.prober.remove(task_id);
        }
        if !wanted.is_empty() {
            self.known.insert(name.to_string(), wanted);
        }
    }

    /// Something has happened to the node: it is probed at once, and often for a while.
    pub fn now(&self, task_id: &str) {
        self.prober.probe_now(task_id);
    }

    fn pace(&self, node: &Node) -> Pace {
        let settled = node.silent.is_none() && node.answer.as_ref().is_some_and(|(a, _)| a.link_up && !a.loading);
        if settled { Pace::Steady(self.interval) } else { Pace::Eager }
    }
}
