//! One instance whose master is lost again and again, while clients write and replicas lag. Pure.

use redisctl::store::instance_key;

use super::{History, KINDS};
use crate::redis::Process;

impl History {
    /// One instance whose master is lost again and again, while clients write and replicas lag.
    pub fn contested(mut self) -> History {
        self.contested = true;
        self.names.truncate(1);
        self.specs.retain(|name, _| name == "a");
        for name in ["b", "c"] {
            self.store.delete(&instance_key(name));
        }
        self.mesos.agents.iter_mut().for_each(|agent| agent.mem_mib = 2000);
        let declared = self.specs.get_mut("a").expect("declared");
        (declared.replicas, declared.distribution, declared.durability) = (2 + self.dice.below(2), 2, false);
        self.write_document("a");
        (self.peace, self.quiet) = (true, true);
        self.settle();
        (self.peace, self.quiet) = (false, false);
        self.faults = 4 + self.dice.below(12);
        self.run()
    }

    pub(super) fn contested_step(&mut self) {
        match self.dice.below(100) {
            0..4 if self.faults > 0 && self.keys > 0 => self.strike(),
            4..24 => self.client(),
            24 if self.keys > 0 => self.pass_time(),
            25 if self.keys > 0 => {
                let revision = self.store.instances.get("a").and_then(|stored| stored.document).unwrap_or(0);
                self.ask_for_failover("a", revision);
            }
            _ => drop((0..12).any(|_| {
                let kind = self.dice.below(KINDS);
                self.act(kind);
                self.judged()
            })),
        }
    }

    /// A fault where it hurts.
    fn strike(&mut self) {
        self.faults -= 1;
        let master = self.master_at("a");
        let alive = |p: &Process| p.alive && p.listening && !p.hung;
        let replicas: Vec<usize> = (0..self.redis.processes.len())
            .filter(|at| Some(*at) != master && alive(&self.redis.processes[*at]))
            .collect();
        let replica = (!replicas.is_empty()).then(|| *self.dice.pick(&replicas));
        let (Some(master), Some(replica)) = (master, replica) else { return self.crash_operator() };
        let agent = self.redis.processes[master].agent;
        match self.dice.below(9) {
            0 | 1 => {
                self.say(|| "the master dies".to_string());
                self.mesos.dies(master, &mut self.redis);
            }
            2 => {
                self.say(|| "a replica dies".to_string());
                self.mesos.dies(replica, &mut self.redis);
            }
            3 => {
                self.say(|| "the master and a replica die".to_string());
                self.mesos.dies(replica, &mut self.redis);
                self.mesos.dies(master, &mut self.redis);
            }
            4 | 5 => {
                self.say(|| "the master hangs".to_string());
                self.redis.stop(master);
            }
            6 => {
                self.say(|| "the operator does not reach the master".to_string());
                self.mesos.agents[agent].unseen = true;
            }
            7 => {
                self.say(|| "the master is cut off".to_string());
                self.mesos.unlink(agent, self.now);
                self.mesos.agents[agent].cut = true;
            }
            _ => self.crash_operator(),
        }
    }
}
