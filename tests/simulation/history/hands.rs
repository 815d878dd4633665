//! The hands of the crash test: a quiet world, and what happens to its instances on purpose. Pure.

use redisctl::model::{Leaving, RequestKind};

use super::History;
use super::users::Declared;
use crate::mesos::Mesos;
use crate::redis::Data;
use crate::store::Store;

impl History {
    /// Nothing goes wrong by itself, and nothing is declared yet.
    pub fn quiet(told: bool) -> History {
        let mut history = History::new(7, told);
        history.mesos = Mesos::with_agents(5, 2000);
        history.store = Store::default();
        history.specs.clear();
        history.names = vec!["a".to_string(), "b".to_string()];
        (history.faults, history.changes, history.peace, history.quiet) = (0, 0, true, true);
        history
    }

    pub fn declare_quiet(&mut self, name: &str, replicas: usize) {
        let declared = Declared {
            durability: false,
            replicas,
            distribution: 1,
            memory: "64Mi",
            config: "{}",
            after: "30s",
            hold: false,
        };
        self.specs.insert(name.to_string(), declared);
        self.write_document(name);
    }

    pub fn scale(&mut self, name: &str, replicas: usize) {
        self.specs.get_mut(name).expect("declared").replicas = replicas;
        self.write_document(name);
    }

    pub fn resize(&mut self, name: &str, memory: &'static str) {
        self.specs.get_mut(name).expect("declared").memory = memory;
        self.write_document(name);
    }

    pub fn ask(&mut self, name: &str, kind: RequestKind) {
        crate::crash::request(self, name, kind);
    }

    pub(super) fn master_at(&self, name: &str) -> Option<usize> {
        let stored = self.store.instances.get(name)?;
        let node = stored.nodes.get(&stored.record.as_ref()?.master?)?;
        self.redis.processes.iter().position(|p| p.alive && p.task_id == node.task_id)
    }

    pub fn master_data(&self, name: &str) -> Data {
        self.master_at(name).map_or(0, |at| self.redis.processes[at].data)
    }

    pub fn kill_master(&mut self, name: &str) {
        let at = self.master_at(name).expect("it is settled");
        self.mesos.dies(at, &mut self.redis);
    }

    pub fn crash_machine_of_master(&mut self, name: &str) {
        let at = self.master_at(name).expect("it is settled");
        let agent = self.redis.processes[at].agent;
        self.mesos.crash(agent, &mut self.redis, self.now);
        self.mesos.agents[agent].lost = true;
    }

    /// The agent of the master is to be emptied.
    pub fn empty_machine_of_master(&mut self, name: &str, why: Leaving) {
        let at = self.master_at(name).expect("it is settled");
        let agent = self.redis.processes[at].agent;
        self.mesos.leave(agent, why);
    }

    /// How many tasks run on agents that are to be emptied.
    pub fn staying(&self) -> usize {
        let leaves = |(_, at): &(&str, usize)| self.mesos.agents[*at].leaving.is_some();
        self.mesos.running().filter(leaves).count()
    }

    pub fn hang_master(&mut self, name: &str) {
        let at = self.master_at(name).expect("it is settled");
        self.redis.stop(at);
    }

    pub fn go_on_all(&mut self) {
        (0..self.redis.processes.len()).for_each(|at| self.redis.go_on(at));
    }

    /// Clients write keys, and wait for their confirmation.
    pub fn write_confirmed(&mut self, name: &str, keys: u32) {
        let at = self.master_at(name).expect("it is settled");
        let record = self.store.instances[name].record.clone().expect("it is settled");
        for _ in 0..keys {
            assert!(self.redis.write(at, self.keys, self.now), "the master takes writes");
            if record.confirmations > 0 {
                self.judge.promises.await_(at, self.keys, record.confirmations as usize, &self.redis);
            }
            self.keys += 1;
        }
    }
}
