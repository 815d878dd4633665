//! What must hold whatever happens, judged on the toy cluster from outside: the operator's own
//! opinion is not asked. Pure.

use std::collections::{BTreeMap, BTreeSet};

use redisctl::model::{Address, InstanceRecord, Meaning, TaskRecord, Timestamp};
use redisctl::reconcile::action::{Action, Plan, Write};
use redisctl::reconcile::draft::Observed;
use redisctl::spec::OnDataLoss;
use redisctl::status::{ConditionStatus, ConditionType, InstanceStatus, Phase};

use crate::mesos::{Mesos, Seen};
use crate::operator::Around;
use crate::redis::{Copied, Data, Link, Process, Redis};
use crate::store::{Store, Stored};
use redisctl::model::Role;

fn data_of<'a>(processes: impl Iterator<Item = &'a Process>) -> Data {
    processes.fold(0, |sum, p| sum | p.data)
}

/// A plan may not kill who, for all that the operator has been told, may hold the last copy.
pub fn plan(o: &Observed, plan: &Plan, around: &mut Around) {
    let written = plan.writes.iter().find_map(|write| match write {
        Write::State(record) => Some(record),
        _ => None,
    });
    let Some(record) = written.or(o.instance.record.as_ref().map(|r| &r.value)) else { return };
    if record.deleting {
        return;
    }
    let killed: BTreeSet<&str> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Kill { task_id } => Some(task_id.as_str()),
            _ => None,
        })
        .collect();
    let (going, staying): (Vec<&Process>, Vec<&Process>) =
        around.redis.living(o.name).partition(|p| killed.contains(p.task_id.as_str()));
    let lost = data_of(going.into_iter()) & !data_of(staying.into_iter());
    let master = record.master.and_then(|ordinal| o.instance.nodes.get(&ordinal));
    let believed = master.is_some_and(|node| {
        let dead = node.update.as_ref().is_some_and(|u| u.state.meaning() == Meaning::Dead);
        node.silent.is_none() && node.answer.is_some() && !dead && !node.record.value.task.is_dead()
    });
    if lost != 0 && !believed {
        around.broken.push(format!("{killed:?} would be killed, and keys {lost:b} of {} with them", o.name));
    }
}

/// A KILL is sent only after the decision is recorded.
pub fn kill(task_id: &str, around: &mut Around) {
    let recorded = around.store.node(task_id).is_none_or(|node| node.stop.is_some());
    if !recorded {
        around.broken.push(format!("{task_id} is killed, and nothing is recorded of it"));
    }
}

/// REPLICAOF reaches the node that is meant, and names the recorded master.
pub fn follow(task_id: &str, at: usize, master: &Address, around: &mut Around) {
    let process = &around.redis.processes[at];
    if process.task_id != task_id {
        around.broken.push(format!("REPLICAOF for {task_id} reaches {}", process.task_id));
    }
    if let Some(target) = around.redis.at(master).map(|at| &around.redis.processes[at])
        && target.instance != process.instance
    {
        around.broken.push(format!("{task_id} is told to follow {}, a node of another instance", target.task_id));
    }
}

/// A full copy may not wipe the last copy of anything, or bring another instance's data.
pub fn copied(copy: &Copied, redis: &Redis, promises: &Promises) -> Result<(), String> {
    let (to, from) = (&redis.processes[copy.to], &redis.processes[copy.from]);
    if to.instance != from.instance {
        return Err(format!("{} has received the data of {}, which is another instance's", to.task_id, from.task_id));
    }
    let lost = copy.before & promises.confirmed(&to.instance) & !data_of(redis.living(&to.instance));
    if lost != 0 {
        return Err(format!("keys {lost:b} are lost: {} was wiped by following {}", to.task_id, from.task_id));
    }
    Ok(())
}

/// Writes that clients have confirmed with WAIT k, and those that they wait for.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    confirmed: BTreeMap<String, Data>,
    awaited: Vec<Awaited>,
}

/// A write of a client that waits for its confirmation by so many replicas.
#[derive(Clone, Debug)]
struct Awaited {
    process: usize,
    history: u64,
    offset: u64,
    key: u32,
    k: usize,
}

impl Promises {
    pub fn confirmed(&self, name: &str) -> Data {
        self.confirmed.get(name).copied().unwrap_or(0)
    }

    fn forget(&mut self, name: &str) {
        self.confirmed.remove(name);
    }

    /// A client has written the key, and asks for k confirmations.
    pub fn await_(&mut self, process: usize, key: u32, k: usize, redis: &Redis) {
        let p = &redis.processes[process];
        self.awaited.push(Awaited { process, history: p.history(), offset: p.offset, key, k });
    }

    /// Confirmations that have come.
    pub fn confirm(&mut self, redis: &Redis, store: &Store) -> Vec<(String, u32)> {
        let mut news = Vec::new();
        self.awaited.retain(|awaited| {
            let p = &redis.processes[awaited.process];
            let gone = !p.alive || p.role != Role::Master || p.history() != awaited.history;
            if gone || (!p.hung && redis.acknowledged(awaited.process, awaited.offset) >= awaited.k) {
                if !gone {
                    news.push((p.instance.clone(), awaited.key));
                }
                return false;
            }
            true
        });
        for (name, key) in &news {
            let promised = store.instances.get(name).and_then(|stored| stored.record.as_ref());
            if promised.is_some_and(|record| record.confirmations > 0 && !record.deleting) {
                *self.confirmed.entry(name.clone()).or_default() |= 1 << key;
            }
        }
        news
    }
}

/// A node becomes the master: that is recorded, it has every confirmed write, and where writes are
/// confirmed no other node takes any. (What a node that was stopped takes before it looks at its clock is
/// confirmed by nobody.)
pub fn promoted(at: usize, around: &mut Around) {
    let p = &around.redis.processes[at];
    let stored = around.store.instances.get(&p.instance);
    let record = stored.and_then(|stored| stored.record.as_ref());
    let recorded = record.and_then(|record| stored?.nodes.get(&record.master?));
    if recorded.is_none_or(|node| node.task_id != p.task_id) {
        around.broken.push(format!("{} is made the master, and that is not recorded", p.task_id));
    }
    let others = around.redis.processes.iter().enumerate();
    let other = others.filter(|(n, o)| *n != at && o.instance == p.instance && !o.tampered && o.min_replicas() > 0);
    let other = other
        .filter(|(n, o)| !o.is_stale() && around.redis.takes_writes(*n, around.now))
        .map(|(_, o)| &o.task_id)
        .next();
    if let Some(other) = other.filter(|_| p.role != Role::Master && record.is_some_and(|r| r.confirmations > 0)) {
        around.broken.push(format!("{} is made the master, and {other} still takes writes", p.task_id));
    }
    let lost = around.promises.confirmed(&p.instance) & !p.data;
    if lost != 0 && p.role != Role::Master {
        around.broken.push(format!("{} is made the master without the confirmed keys {lost:b}", p.task_id));
    }
}

/// Where writes are confirmed, one node takes them; see `promoted` for the exception.
fn one_takes_writes(name: &str, redis: &Redis, now: Timestamp) -> Result<(), String> {
    let safe = |p: &Process| p.instance == name && !p.tampered && p.min_replicas() > 0 && !p.is_stale();
    let takes = |at: &usize| safe(&redis.processes[*at]) && redis.takes_writes(*at, now);
    let taking: Vec<usize> = (0..redis.processes.len()).filter(takes).collect();
    let names = taking.iter().map(|at| redis.processes[*at].task_id.as_str()).collect::<Vec<_>>();
    if taking.len() < 2 { Ok(()) } else { Err(format!("two nodes take writes: {}", names.join(" "))) }
}

/// What is remembered from step to step.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    pub promises: Promises,
    epochs: BTreeMap<String, InstanceRecord>,
    /// Tasks that run and are not recorded, and since when.
    unrecorded: BTreeMap<String, Timestamp>,
    /// The distribution that was in force when a task was recorded.
    distributions: BTreeMap<String, u32>,
}

/// A task may run without a record for so long, while nothing is wrong with anybody.
const UNRECORDED_MS: u64 = 60_000;

impl Judge {
    /// What must hold after every step.
    pub fn step(&mut self, store: &Store, mesos: &Mesos, redis: &Redis, now: Timestamp) -> Result<(), String> {
        for (name, stored) in &store.instances {
            self.epochs(name, stored, redis)?;
            one_takes_writes(name, redis, now)?;
            for node in stored.nodes.values() {
                if let (Some(record), false) = (&stored.record, self.distributions.contains_key(&node.task_id)) {
                    self.distributions.insert(node.task_id.clone(), record.spec.distribution);
                }
            }
        }
        mesos.broken.first().map_or(Ok(()), |what| Err(what.clone()))
    }

    /// A task was launched: there may not be more of its instance's nodes on one agent than its spec
    /// allowed when it was placed.
    pub fn launched(&self, task_id: &str, agent: usize, mesos: &Mesos) -> Result<(), String> {
        let Some((name, _)) = redisctl::model::parse_task_id(task_id) else { return Ok(()) };
        let Some(allowed) = self.distributions.get(task_id) else {
            return Err(format!("{task_id} is launched, and was never recorded"));
        };
        let ours = |id: &str| redisctl::model::parse_task_id(id).is_some_and(|(n, _)| n == name);
        let there = mesos.running().filter(|(id, at)| *at == agent && ours(id)).count();
        if there > *allowed as usize {
            return Err(format!("{there} nodes of {name} run on one agent, allowed are {allowed}"));
        }
        Ok(())
    }

    fn epochs(&mut self, name: &str, stored: &Stored, redis: &Redis) -> Result<(), String> {
        let Some(record) = &stored.record else {
            self.promises.forget(name);
            self.epochs.remove(name);
            return Ok(());
        };
        if self.epochs.get(name) == Some(record) {
            return Ok(());
        }
        if let Some(before) = self.epochs.insert(name.to_string(), record.clone())
            && before.created_at == record.created_at
        {
            if record.epoch < before.epoch || record.next_ordinal < before.next_ordinal {
                return Err(format!("{name}: epoch or count of nodes has fallen: {before:?} -> {record:?}"));
            }
            if before.initialized && !record.initialized {
                let kept = data_of(redis.living(name)) & self.promises.confirmed(name);
                if kept != 0 {
                    return Err(format!("{name} starts again empty, and living nodes have keys {kept:b}"));
                }
                self.promises.forget(name);
            }
            if record.deleting || record.spec.confirmations() == 0 {
                self.promises.forget(name);
            }
            let both = before.master.is_some() && record.master.is_some();
            if both && before.master != record.master && before.epoch == record.epoch {
                return Err(format!("{name}: two masters in epoch {}", record.epoch));
            }
        }
        Ok(())
    }

    /// Tasks that run long without a record, while operator and Mesos work.
    pub fn unrecorded(&mut self, store: &Store, mesos: &Mesos, now: Timestamp) -> Result<(), String> {
        let known = |id: &str| store.node(id).is_some();
        let reachable = |at: usize| mesos.agents[at].linked();
        let unknown: BTreeSet<&str> =
            mesos.running().filter(|(id, at)| !known(id) && reachable(*at)).map(|(id, _)| id).collect();
        self.unrecorded.retain(|id, _| unknown.contains(id.as_str()));
        for id in unknown {
            let since = *self.unrecorded.entry(id.to_string()).or_insert(now);
            if now.since_ms(since) > UNRECORDED_MS {
                return Err(format!("{id} runs without a record since {since}"));
            }
        }
        Ok(())
    }
}

/// How an instance must be once nothing goes wrong any more and time has passed.
pub fn settled(name: &str, store: &Store, mesos: &Mesos, redis: &Redis, promises: &Promises) -> Result<bool, String> {
    let Some(stored) = store.instances.get(name) else { return Ok(true) };
    let Some(document) = stored.document else {
        return undeclared(name, stored, store, mesos);
    };
    let Some(status) = &stored.status else {
        return Err(format!("{name} is declared and has no status"));
    };
    let Some(record) = &stored.record else {
        let said = status.condition(ConditionType::SpecValid).is_some_and(|c| c.status == ConditionStatus::False);
        return if said { Ok(false) } else { Err(format!("{name} is declared and not recorded: {status:?}")) };
    };
    if record.deleting {
        let stuck = stored.nodes.values().any(|node| !node.task.is_dead() && out_of_reach(&node.agent_id, mesos));
        return if stuck { Ok(false) } else { Err(format!("{name} does not go away: {status:?}")) };
    }
    if status.phase == Phase::Ready {
        let text = store.items.get(&redisctl::store::instance_key(name)).map(|item| item.value.as_slice());
        let declared = text.and_then(|text| redisctl::spec::parse_document(text).ok()).map(|parsed| parsed.spec);
        ready(name, (document, declared.as_ref()), record, stored, status, redis)?;
        let lost = promises.confirmed(name) & !data_of(redis.living(name));
        if lost != 0 {
            return Err(format!("{name} is ready, and the confirmed keys {lost:b} are lost"));
        }
        return Ok(true);
    }
    let ready = status.condition(ConditionType::Ready);
    if ready.is_none_or(|condition| condition.message.is_empty()) {
        return Err(format!("{name} is {} and does not say why", status.phase));
    }
    if excused(name, record, stored, status, mesos, redis) {
        Ok(false)
    } else {
        Err(format!("{name} should be ready: {status:?}; {record:?}"))
    }
}

fn out_of_reach(agent_id: &str, mesos: &Mesos) -> bool {
    mesos.agents.iter().any(|agent| agent.id == *agent_id && agent.seen != Seen::Registered)
}

fn undeclared(name: &str, stored: &Stored, store: &Store, mesos: &Mesos) -> Result<bool, String> {
    let stuck = stored.nodes.values().any(|node| !node.task.is_dead() && out_of_reach(&node.agent_id, mesos));
    let left: Vec<&String> =
        store.items.keys().filter(|key| key.split('/').nth(1) == Some(name) && !key.starts_with("operator/")).collect();
    if left.is_empty() || stuck {
        Ok(left.is_empty())
    } else {
        Err(format!("{name} is deleted, and this is left: {left:?}"))
    }
}

fn ready(
    name: &str,
    (document, declared): (i64, Option<&redisctl::spec::InstanceSpec>),
    record: &InstanceRecord,
    stored: &Stored,
    status: &InstanceStatus,
    redis: &Redis,
) -> Result<(), String> {
    if status.observed_revision != document || record.spec_revision != document {
        return Err(format!("{name} is ready at revision {}, declared is {document}", status.observed_revision));
    }
    if declared != Some(&record.spec) {
        return Err(format!("{name} is ready, and what is in force is not what is declared"));
    }
    let running = |n: &&redisctl::model::NodeRecord| n.stop.is_none() && n.task == TaskRecord::Running;
    let nodes: Vec<_> = stored.nodes.values().filter(running).collect();
    if nodes.len() != record.spec.nodes() as usize {
        return Err(format!("{name} is ready with {} nodes, declared are {}", nodes.len(), record.spec.nodes()));
    }
    let process = |task_id: &str| redis.processes.iter().find(|p| p.task_id == task_id && p.alive);
    let master = record.master.and_then(|ordinal| stored.nodes.get(&ordinal)).and_then(|n| process(&n.task_id));
    let Some(master) = master.filter(|p| p.role == Role::Master) else {
        return Err(format!("{name} is ready, and its master is none"));
    };
    if status.master.as_ref() != Some(&master.address.to_string()) {
        return Err(format!("{name}: the status names another master than the one that runs"));
    }
    for node in nodes {
        let Some(p) = process(&node.task_id) else {
            return Err(format!("{name} is ready, and {} is dead", node.name()));
        };
        let linked = p.role == Role::Replica && p.link == Link::Up && p.follows.as_ref() == Some(&master.address);
        if p.task_id != master.task_id && !(linked && p.data & !master.data == 0) {
            return Err(format!("{name} is ready, and {} does not follow the master: {p:?}", node.name()));
        }
        if node.max_memory != record.spec.memory.0 || node.task_mem_mib != record.spec.task_mem_mib() {
            return Err(format!("{name} is ready, and {} has another size than declared", node.name()));
        }
        for (key, value) in &record.spec.redis.config {
            if node.config.get(key) != Some(value) {
                return Err(format!("{name} is ready, and {} lacks {key} {value}", node.name()));
            }
        }
    }
    Ok(())
}

/// Whether something that the operator cannot or must not mend keeps the instance from being ready.
fn excused(
    name: &str,
    record: &InstanceRecord,
    stored: &Stored,
    status: &InstanceStatus,
    mesos: &Mesos,
    redis: &Redis,
) -> bool {
    let unhappy =
        |kind| status.condition(kind).is_some_and(|c: &redisctl::status::Condition| c.status != ConditionStatus::True);
    let master = record.master.and_then(|ordinal| stored.nodes.get(&ordinal));
    let dead = record.master.is_some() && master.is_none_or(|node| node.task.is_dead());
    let nobody = status.condition(ConditionType::NoSafeCandidate).is_some();
    if dead || nobody || master.is_some_and(|node| out_of_reach(&node.agent_id, mesos)) {
        let held = record.spec.on_data_loss == OnDataLoss::Hold && status.phase == Phase::DataLost;
        let voters: Vec<_> =
            stored.nodes.values().filter(|node| node.joined && Some(node.ordinal) != record.master).collect();
        // Somebody who may have confirmed a write is not there, or a human has interfered.
        let missing = voters.iter().any(|node| node.task.is_dead() || out_of_reach(&node.agent_id, mesos));
        // Two changes of role in a row that nobody saw end (a person must say which history counts), or
        // all data is where nobody gets to.
        let nobody = status.condition(ConditionType::NoSafeCandidate).map_or("", |condition| &condition.message);
        let torn = nobody.contains("another history") || nobody.contains("no replica in sight has any data");
        let lone = torn || (record.unsettled && record.confirmations > 0);
        let excuse = held || lone || !record.initialized || missing || voters.is_empty() || tampered(name, redis);
        return excuse && unhappy(ConditionType::MasterAvailable);
    }
    // A human has made a master of a node, which has data, and the recorded one has none.
    if tampered(name, redis) && status.waiting.iter().any(|why| why.contains("so as not to lose them")) {
        return true;
    }
    if unhappy(ConditionType::SpecValid) {
        return true;
    }
    // Otherwise only that there is no room.
    let mut avoid: BTreeMap<&str, (u32, BTreeSet<u16>)> = BTreeMap::new();
    for node in store_nodes(stored) {
        let entry = avoid.entry(node.agent_id.as_str()).or_default();
        entry.0 += 1;
        entry.1.insert(node.address.port);
    }
    let full = |at: usize| {
        let (there, ports) = avoid.get(mesos.agents[at].id.as_str()).cloned().unwrap_or_default();
        there >= record.spec.distribution || !mesos.fits(at, record.spec.task_mem_mib(), record.spec.cpus.0, &ports)
    };
    let counts = |n: &&redisctl::model::NodeRecord| n.stop.is_none() && !out_of_reach(&n.agent_id, mesos);
    let living = store_nodes(stored).filter(counts).count();
    living < record.spec.nodes() as usize && (0..mesos.agents.len()).all(full) && !name.is_empty()
}

fn tampered(name: &str, redis: &Redis) -> bool {
    redis.living(name).any(|process| process.tampered)
}

fn store_nodes(stored: &Stored) -> impl Iterator<Item = &redisctl::model::NodeRecord> {
    stored.nodes.values().filter(|node| !node.task.is_dead())
}
