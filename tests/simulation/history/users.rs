//! Users, who declare and change instances, clients, who write keys, and time. Pure.

use redisctl::model::{Request, RequestKind, Role};
use redisctl::store::{instance_key, request_key};

use super::{History, KEYS_MAX};
use crate::redis::Process;

/// A spec as users write it here.
#[derive(Clone)]
pub(super) struct Declared {
    /// `none`, whatever the number of replicas.
    pub(super) durability: bool,
    pub(super) replicas: usize,
    pub(super) distribution: usize,
    /// The most that was ever declared: nodes launched under it may stay, or land late.
    pub(super) memory: &'static str,
    pub(super) config: &'static str,
    pub(super) after: &'static str,
    pub(super) hold: bool,
}

impl Declared {
    fn document(&self, name: &str) -> String {
        let Declared { durability, replicas, distribution, memory, config, after, hold } = self;
        let hold = if *hold { "hold" } else { "recreate" };
        let durability = if *durability { ", durability: none" } else { "" };
        format!(
            "apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata: {{name: {name}}}\nspec: {{replicas: {replicas}, \
             memory: {memory}, distribution: {distribution}, placement: {{spreadBy: rack}}, \
             replaceUnreachableAfter: {after}, onDataLoss: {hold}{durability}, redis: {{config: {config}}}}}\n"
        )
    }
}

impl History {
    pub(super) fn declare(&mut self, name: &str) {
        let distribution = 1 + self.dice.below(2);
        let declared = Declared {
            durability: self.dice.percent(20),
            replicas: self.dice.below(4),
            distribution,
            memory: "64Mi",
            config: "{}",
            after: ["30s", "2m", "5m"][self.dice.below(3)],
            hold: self.dice.percent(20),
        };
        self.specs.insert(name.to_string(), declared);
        self.write_document(name);
    }

    pub(super) fn write_document(&mut self, name: &str) {
        let document = self.specs[name].document(name);
        self.say(|| format!("the user writes {}", document.lines().last().unwrap_or_default()));
        self.store.put(&instance_key(name), document);
    }

    pub(super) fn change(&mut self) {
        self.changes -= 1;
        let name = self.dice.pick(&self.names).clone();
        let Some(revision) = self.store.instances.get(&name).and_then(|stored| stored.document) else {
            return self.declare(&name);
        };
        let (replicas, distribution) = (self.dice.below(5), 1 + self.dice.below(3));
        let config = *self.dice.pick(&["{maxmemory-policy: allkeys-lru}", "{databases: 32}", "{}"]);
        let declared = self.specs.get_mut(&name).expect("declared");
        match self.dice.below(14) {
            10.. => return self.ask_for_failover(&name, revision),
            0..4 => declared.replicas = replicas,
            4 => {
                declared.distribution = distribution;
            }
            5 => declared.config = config,
            6 => declared.memory = if declared.memory == "64Mi" { "96Mi" } else { "64Mi" },
            7 => {
                self.say(|| format!("the user deletes {name}"));
                let request = Request { at: self.now, revision, ..Request::default() };
                let request = serde_json::to_vec(&request).expect("plain");
                return self.store.put(&request_key(&name, RequestKind::Delete), request);
            }
            8 => {
                self.say(|| format!("the user removes the document of {name}"));
                return self.store.delete(&instance_key(&name));
            }
            _ => {
                if self.dice.percent(50) {
                    self.say(|| format!("the user writes rubbish for {name}"));
                    return self.store.put(&instance_key(&name), "kind: Rubbish");
                }
                self.say(|| format!("the user asks to recreate {name}"));
                let request = Request { at: self.now, revision, ..Request::default() };
                let request = serde_json::to_vec(&request).expect("plain");
                return self.store.put(&request_key(&name, RequestKind::Recreate), request);
            }
        }
        self.write_document(&name);
    }

    pub(super) fn ask_for_failover(&mut self, name: &str, revision: i64) {
        let nodes = self.store.instances.get(name).map(|stored| stored.nodes.len()).unwrap_or_default();
        let to = self.dice.percent(50).then(|| format!("{name}-{}", self.dice.below(nodes + 2)));
        self.say(|| format!("the user asks for a failover of {name} to {to:?}"));
        let request = Request { at: self.now, revision, to, ..Request::default() };
        let request = serde_json::to_vec(&request).expect("plain");
        self.store.put(&request_key(name, RequestKind::Failover), request);
    }

    /// A client writes a key where the status says.
    pub(super) fn client(&mut self) {
        let name = self.dice.pick(&self.names).clone();
        let status = self.store.instances.get(&name).and_then(|stored| stored.status.as_ref());
        let Some(master) = status.and_then(|status| status.master.clone()) else { return };
        let k = status.and_then(|status| status.failover).map_or(0, |failover| failover.confirmations as usize);
        let own = self.dice.percent(30); // Some stay with the master that they know.
        let here = |p: &Process| {
            p.alive
                && p.listening
                && !p.hung
                && if own { p.role == Role::Master && p.instance == name } else { p.address.to_string() == master }
        };
        let Some(at) = self.redis.processes.iter().position(here) else { return };
        let p = &self.redis.processes[at];
        if p.role != Role::Master || self.keys >= KEYS_MAX || !self.mesos.agents[p.agent].up {
            return;
        }
        let (key, task_id, instance) = (self.keys, p.task_id.clone(), p.instance.clone());
        if instance != name {
            return self.blame(Err(format!("clients of {name} are sent to {task_id}")));
        }
        let taken = self.redis.write(at, key, self.now);
        self.say(|| format!("a client writes key {key} to {task_id}, which takes it: {taken}"));
        if taken && k > 0 {
            self.judge.promises.await_(at, key, k, &self.redis);
        }
        self.keys += 1;
    }

    pub(super) fn pass_time(&mut self) {
        let ms = *self.dice.pick(&[100, 1000, 1000, 5000, 20_000, 80_000, 400_000]);
        self.now = self.now.plus_ms(ms);
        self.say(|| "time passes".to_string());
    }
}
