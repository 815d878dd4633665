//! A store that loses something while tasks run. Pure.

use redisctl::model::{NodeRecord, Role};

use super::{History, STEPS};
use crate::redis::{Data, Process};
use crate::store::Store;

impl History {
    /// All goes well, until the store loses something while tasks run: the operator stops, and says so.
    pub fn robbed(mut self) -> History {
        self.faults = 0;
        let saved_at = self.dice.below(STEPS);
        let mut saved = None;
        self.live(|history, step| {
            if step == saved_at {
                saved = Some(history.store.clone());
            }
        });
        if self.broken.is_some() {
            return self;
        }
        let lived: Vec<(usize, Data)> = self.living();
        let restarted = self.dice.percent(60);
        if restarted {
            self.crash_operator();
        }
        let led = self.led();
        self.rob(saved.expect("it was saved"), restarted);
        self.robbed = true;
        let recorded = |h: &History, at: usize| h.store.node(&h.redis.processes[at].task_id).is_some();
        // What a backup knows of, it may well have been about to scale down or to delete.
        let lived: Vec<(usize, Data)> =
            lived.into_iter().filter(|(at, _)| !self.restored || !recorded(&self, *at)).collect();
        self.settle();
        let survivors = self.living();
        for (process, data) in lived {
            let p = &self.redis.processes[process];
            let untouched = survivors.iter().any(|(at, now)| *at == process && data & !now == 0);
            let kept = self.redis.living(&p.instance).fold(0, |sum, p| sum | p.data);
            // A replica whose record was lost while nobody watched looks like one that was replaced.
            let looks_replaced = self.lost_node.as_ref() == Some(&p.task_id) && data & !kept == 0;
            if !untouched && !looks_replaced {
                let task_id = self.redis.processes[process].task_id.clone();
                self.blame(Err(format!("the store was robbed, and {task_id} was killed or wiped")));
            }
        }
        self.nobody_was_deposed(&led);
        let unknown = self.mesos.running().find(|(id, _)| self.store.node(id).is_none()).map(|(id, _)| id.to_string());
        let frozen = self.operator.as_ref().is_some_and(|operator| operator.world.frozen.is_some());
        if let (Some(task_id), false) = (unknown, frozen) {
            self.blame(Err(format!("{task_id} is not recorded any more, and the operator goes on")));
        }
        self
    }

    /// All goes well, and roles are moved; then no operator runs, the store goes back behind that, and one is started,
    /// while clients write on where they wrote before.
    pub fn restored(mut self) -> History {
        (self.faults, self.changes) = (0, 0);
        self.live(|_, _| {});
        let saved = self.store.clone();
        for name in self.names.clone() {
            self.ask_for_failover(&name, self.store.revision);
        }
        self.settle();
        if self.broken.is_some() {
            return self;
        }
        self.crash_operator();
        self.restore(saved);
        self.robbed = true;
        let mut led = self.led();
        for _ in 0..STEPS {
            if self.dice.percent(30) {
                self.client();
            }
            self.step();
            for (at, data) in &mut led {
                if self.redis.processes[*at].role == Role::Master {
                    *data = self.redis.processes[*at].data;
                }
            }
        }
        self.settle();
        self.nobody_was_deposed(&led);
        self
    }

    /// The masters that others follow, and what they have.
    fn led(&self) -> Vec<(usize, Data)> {
        let follows = |at: usize, by: &Process| by.follows.as_ref() == Some(&self.redis.processes[at].address);
        let leads = |at: usize| self.redis.living(&self.redis.processes[at].instance).any(|by| follows(at, by));
        let master = |at: usize| self.redis.processes[at].role == Role::Master && !self.redis.processes[at].hung;
        self.living().into_iter().filter(|(at, _)| master(*at) && leads(*at)).collect()
    }

    /// An operator that begins on a store that has gone back finds masters that it knows nothing of: what they have
    /// stays, whatever was asked of the instance before.
    fn nobody_was_deposed(&mut self, led: &[(usize, Data)]) {
        let frozen = self.operator.as_ref().is_some_and(|operator| operator.world.frozen.is_some());
        if !self.restored || frozen {
            return;
        }
        for (at, data) in led {
            let p = &self.redis.processes[*at];
            let Some(stored) = self.store.instances.get(&p.instance) else { continue };
            let record = stored.record.as_ref().filter(|record| !record.deleting && stored.document.is_some());
            let known = self.store.node(&p.task_id).is_some();
            let Some(master) = record.and_then(|record| stored.nodes.get(&record.master?)).filter(|_| known) else {
                continue;
            };
            let kept =
                self.redis.living(&p.instance).filter(|p| p.task_id == master.task_id).fold(0, |sum, p| sum | p.data);
            if data & !kept != 0 {
                let why = format!(
                    "{} was the master when the store went back, and {} lacks what it had",
                    p.task_id, master.task_id
                );
                self.blame(Err(why));
            }
        }
    }

    /// Whoever leads goes on to lead.
    fn restore(&mut self, saved: Store) {
        self.say(|| format!("--- the store is restored from a backup of revision {} ---", saved.revision));
        let leader = std::mem::replace(&mut self.store, saved).leader;
        self.store.leader = leader;
        self.restored = true;
    }

    fn rob(&mut self, saved: Store, restarted: bool) {
        match self.dice.below(if restarted { 3 } else { 2 }) {
            0 => self.restore(saved),
            1 => {
                let keys: Vec<String> = self
                    .store
                    .items
                    .keys()
                    .filter(|k| k.starts_with("nodes/") || k.starts_with("state/"))
                    .cloned()
                    .collect();
                if !keys.is_empty() {
                    let key = self.dice.pick(&keys).clone();
                    self.say(|| format!("--- {key} is lost ---"));
                    if let Ok(node) = serde_json::from_slice::<NodeRecord>(&self.store.items[&key].value) {
                        self.lost_node = Some(node.task_id).filter(|_| restarted);
                    }
                    self.store.delete(&key);
                }
            }
            _ => {
                self.say(|| "--- all records are lost ---".to_string());
                self.store.lose(|key| !key.starts_with("instances/") && !key.starts_with("operator/"));
            }
        }
        if let Some(operator) = &mut self.operator {
            operator.watched = None;
        }
    }

    fn living(&self) -> Vec<(usize, Data)> {
        let processes = self.redis.processes.iter().enumerate().filter(|(_, p)| p.alive);
        processes.map(|(at, p)| (at, p.data)).collect()
    }
}
