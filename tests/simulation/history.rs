//! One history: what happens next is up to the dice; what must hold is looked at after every step. Pure.

use std::collections::BTreeMap;

use redisctl::model::{
    Answer, MesosCall, MesosEvent, NoAnswer, NodeRecord, Probe, Request, RequestKind, Role, TaskState, Timestamp,
};
use redisctl::store::{instance_key, request_key};

use crate::dice::Dice;
use crate::judge::{self, Judge};
use crate::mesos::{Mesos, Seen};
use crate::operator::{Around, Fate, Operator, call_text};
use crate::planted::Bug;
use crate::redis::{Data, Redis};
use crate::store::Store;

/// Steps with faults and users, before all is left in peace.
const STEPS: usize = 220;
/// How long a history is left in peace: longer than every timeout.
const PEACE_MS: u64 = 30 * 60_000;
/// The same in the crash test, where only some timeouts play a part.
const QUIET_MS: u64 = 200_000;
/// And where the master is lost again and again: longer than `replaceUnreachableAfter`.
const CONTESTED_MS: u64 = 12 * 60_000;
/// Acts until peace must have been found.
const ACTS_MAX: usize = 30_000;
/// Keys that clients write in one history.
const KEYS_MAX: u32 = 120;
/// Kinds of acts that need no fault.
const KINDS: usize = 17;

/// How a workload of the crash test is disturbed: by the number of the step or of the news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// The operator is killed before the step.
    Before(u64),
    /// The operator is killed after it.
    After(u64),
    /// From the step on, the watch brings nothing until all else has come to rest.
    Lag(u64),
    /// News of a task or a node are lost.
    Lost(u64),
    /// They come twice.
    Doubled(u64),
    /// The first switchover is lost after this stage, and the operator with it.
    Cut(u64),
}

pub struct History {
    /// Its operators have this bug.
    pub bug: Option<Bug>,
    disturbance: Option<Disturbance>,
    /// Steps that can be seen from outside, and news, since the disturbance was set.
    counted: (u64, u64),
    lagging: bool,
    contested: bool,
    /// Transactions of dead operators that have not arrived yet.
    late_txns: Vec<redisctl::store::Txn>,
    /// Nothing happens by itself but what the workload is.
    quiet: bool,
    /// So many of Mesos' events have been counted as news.
    examined: usize,
    dice: Dice,
    now: Timestamp,
    store: Store,
    mesos: Mesos,
    redis: Redis,
    operator: Option<Operator>,
    passes_max: usize,
    subscription: u64,
    judge: Judge,
    story: Option<Vec<String>>,
    names: Vec<String>,
    keys: u32,
    faults: usize,
    changes: usize,
    peace: bool,
    /// The store has lost something.
    robbed: bool,
    /// All of it, in favour of a backup.
    restored: bool,
    /// The task whose record that was.
    lost_node: Option<String>,
    /// ACCEPTs whose sender has given up, but which may still arrive.
    late_accepts: Vec<(u64, MesosCall)>,
    /// What the prober told last, so that peace comes to an end.
    told: BTreeMap<String, (Result<Answer, NoAnswer>, usize)>,
    /// When all that answer were last asked again in peace.
    asked_at: Timestamp,
    /// Since when nodes do not answer.
    silent: BTreeMap<String, Timestamp>,
    /// The store's revision then: an answer to a question that was put before a death was recorded
    /// proves less than the same answer after it.
    told_at: i64,
    specs: BTreeMap<String, Declared>,
    /// What went wrong.
    pub broken: Option<String>,
    pub acts: usize,
}

/// A spec as users write it here.
#[derive(Clone)]
struct Declared {
    /// `none`, whatever the number of replicas.
    durability: bool,
    replicas: usize,
    distribution: usize,
    /// The most that was ever declared: nodes launched under it may stay, or land late.
    memory: &'static str,
    config: &'static str,
    after: &'static str,
    hold: bool,
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
    pub fn new(seed: u64, told: bool) -> History {
        let mut dice = Dice::new(seed);
        let agents = 3 + dice.below(4);
        let mesos = Mesos::with_agents(agents, [420, 800, 2000][dice.below(3)]);
        let (faults, changes) = ([0, 2, 4, 8, 16][dice.below(5)], 1 + dice.below(6));
        let names = ["a", "b", "c"][..=dice.below(3)].iter().map(ToString::to_string).collect();
        let passes_max = 1 + dice.below(4);
        let mut history = History {
            bug: None,
            disturbance: None,
            counted: (0, 0),
            lagging: false,
            contested: false,
            late_txns: Vec::new(),
            quiet: false,
            examined: 0,
            dice,
            now: Timestamp(1_700_000_000_000),
            store: Store::default(),
            mesos,
            redis: Redis::default(),
            operator: None,
            passes_max,
            subscription: 0,
            judge: Judge::default(),
            story: told.then(Vec::new),
            names,
            keys: 0,
            faults,
            changes,
            peace: false,
            robbed: false,
            restored: false,
            lost_node: None,
            late_accepts: Vec::new(),
            told: BTreeMap::new(),
            asked_at: Timestamp(0),
            silent: BTreeMap::new(),
            told_at: 0,
            specs: BTreeMap::new(),
            broken: None,
            acts: 0,
        };
        for name in history.names.clone() {
            history.declare(&name);
        }
        history
    }

    /// The whole story; what went wrong, if anything did.
    pub fn run(mut self) -> History {
        self.live(|_, _| {});
        if self.broken.is_none() {
            self.last_judgement();
        }
        self
    }

    /// Faults, users and time, then peace, unless something is broken before.
    fn live(&mut self, mut before: impl FnMut(&History, usize)) {
        for step in 0..STEPS {
            before(self, step);
            self.step();
            if self.judged() {
                return;
            }
        }
        self.heal();
        self.settle();
    }

    fn step(&mut self) {
        self.now = self.now.plus_ms(1 + self.dice.below(20) as u64);
        if self.contested {
            return self.contested_step();
        }
        match self.dice.below(100) {
            0..3 if self.faults > 0 => self.fault(),
            3..5 if self.changes > 0 => self.change(),
            5..9 => self.client(),
            9..11 => self.pass_time(),
            _ => drop((0..8).any(|_| {
                let kind = self.dice.below(KINDS);
                self.act(kind)
            })),
        }
    }

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

    fn contested_step(&mut self) {
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
        let alive = |p: &crate::redis::Process| p.alive && p.listening && !p.hung;
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
        let unknown = self.mesos.running().find(|(id, _)| self.store.node(id).is_none()).map(|(id, _)| id.to_string());
        let frozen = self.operator.as_ref().is_some_and(|operator| operator.world.frozen.is_some());
        if let (Some(task_id), false) = (unknown, frozen) {
            self.blame(Err(format!("{task_id} is not recorded any more, and the operator goes on")));
        }
        self
    }

    fn rob(&mut self, saved: Store, restarted: bool) {
        let leader = self.store.leader;
        match self.dice.below(if restarted { 3 } else { 2 }) {
            0 => {
                self.say(|| format!("--- the store is restored from a backup of revision {} ---", saved.revision));
                self.store = saved;
                self.restored = true;
                self.store.leader = leader;
            }
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

    pub fn story(&self) -> String {
        self.story.as_ref().map(|lines| lines.join("\n")).unwrap_or_default()
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        let now = self.now.0 - 1_700_000_000_000;
        if let Some(story) = &mut self.story {
            story.push(format!("{:>9} {}", now, line()));
        }
    }

    fn blame(&mut self, outcome: Result<(), String>) {
        if let Err(what) = outcome {
            if let Some(mind) = self.operator.as_ref().map(Operator::mind) {
                self.say(|| mind);
            }
            self.say(|| format!("BROKEN: {what}"));
            self.broken.get_or_insert(what);
        }
    }

    /// Whether something is broken.
    fn judged(&mut self) -> bool {
        if self.robbed {
            return self.broken.is_some();
        }
        let outcome = self.judge.step(&self.store, &self.mesos, &self.redis);
        self.blame(outcome);
        if let Some(reason) = self.operator.as_ref().and_then(Operator::frozen_for_good) {
            self.blame(Err(format!("the operator is frozen: {reason}")));
        }
        self.broken.is_some()
    }

    fn with_operator<T>(&mut self, act: impl FnOnce(&mut Operator, &mut Around, &mut Dice) -> T) -> Option<T> {
        let operator = self.operator.as_mut()?;
        let mut around = Around {
            store: &mut self.store,
            mesos: &mut self.mesos,
            redis: &mut self.redis,
            now: self.now,
            promises: &self.judge.promises,
            robbed: self.robbed,
            cut: match self.disturbance {
                Some(Disturbance::Cut(stage)) => Some(stage),
                _ => self.quiet.then_some(u64::MAX),
            },
            broken: Vec::new(),
            story: self.story.as_mut(),
        };
        let done = act(operator, &mut around, &mut self.dice);
        let broken = std::mem::take(&mut around.broken);
        for what in broken {
            self.blame(Err(what));
        }
        Some(done)
    }

    // --- What goes on by itself --------------------------------------------------------------

    /// Does an act of this kind, if there is one to do.
    fn act(&mut self, kind: usize) -> bool {
        match kind {
            0 => self.turn(),
            1 => self.reflect(),
            2 => self.advance(),
            3 => self.deliver(0),
            4 => self.deliver(1),
            5 => self.on_agent(|agent| !agent.to_master.is_empty(), |h, at| h.mesos.hear(at)),
            6 => self.on_agent(
                |agent| !agent.from_master.is_empty() && agent.serving,
                |h, at| {
                    h.mesos.obey(at, &mut h.redis);
                },
            ),
            7 => self.on_agent(
                |a| a.up && a.serving && a.tasks.values().any(|t| t.state == TaskState::Killing),
                |h, at| drop(h.mesos.reap(at, &mut h.redis)),
            ),
            8 | 9 => self.tick(),
            10 | 11 => self.probe(),
            12 => self.allocate(),
            13 => self.subscribe(),
            14 => self.on_agent(crate::mesos::Agent::can_register, |h, at| {
                let was = h.mesos.agents[at].seen;
                h.say(|| format!("agent S{at} registers, it was {was:?}"));
                h.mesos.register(at, &mut h.redis, h.now);
            }),
            15 => self.timers(),
            _ => self.rise(),
        }
    }

    fn on_agent(
        &mut self,
        which: impl Fn(&crate::mesos::Agent) -> bool,
        act: impl FnOnce(&mut History, usize),
    ) -> bool {
        let fit = |(_, a): &(usize, &crate::mesos::Agent)| self.mesos.up && which(a);
        let agents: Vec<usize> = self.mesos.agents.iter().enumerate().filter(fit).map(|(at, _)| at).collect();
        if agents.is_empty() {
            return false;
        }
        let at = *self.dice.pick(&agents);
        act(self, at);
        true
    }

    fn turn(&mut self) -> bool {
        let now = self.now;
        let Some(operator) = &self.operator else { return false };
        if !operator.has_input(&self.mesos) && operator.next_wake() > now {
            return false;
        }
        self.say(|| "the operator takes a turn".to_string());
        if self.quiet {
            self.examine_events();
        }
        let most = 1 + self.dice.below(6);
        self.with_operator(|operator, around, dice| operator.turn(around, dice, most));
        self.examined = self.mesos.events.len();
        true
    }

    /// Mesos' news of tasks are lost or doubled, if it is their turn.
    fn examine_events(&mut self) {
        let known = self.examined.min(self.mesos.events.len());
        for event in self.mesos.events.split_off(known) {
            let times = if matches!(event, MesosEvent::Update(_)) { self.news() } else { 1 };
            if times == 2 {
                self.mesos.events.push_back(event.clone());
            }
            if times > 0 {
                self.mesos.events.push_back(event);
            }
        }
    }

    fn reflect(&mut self) -> bool {
        if self.lagging {
            return false;
        }
        let Some(operator) = &mut self.operator else { return false };
        if operator.watched.is_none() {
            operator.list(&self.store);
            return true;
        }
        operator.watch(&self.store)
    }

    fn advance(&mut self) -> bool {
        let rounds = self.operator.as_ref().map_or(0, |operator| operator.rounds.len());
        if rounds == 0 {
            return false;
        }
        let nth = self.dice.below(rounds);
        let fate = if self.peace || self.faults == 0 || !self.dice.percent(3) {
            Fate::Answered
        } else {
            self.faults -= 1;
            *self.dice.pick(&[Fate::DoneUnknown, Fate::NotDoneUnknown, Fate::LaterUnknown])
        };
        if self.begin_step() {
            self.with_operator(|operator, around, dice| operator.advance(nth, fate, around, dice));
            self.end_step();
        }
        true
    }

    /// A step that can be seen from outside is about to be done. False: the operator dies before it.
    fn begin_step(&mut self) -> bool {
        let dies = self.disturbance == Some(Disturbance::Before(self.counted.0));
        self.lagging |= self.disturbance == Some(Disturbance::Lag(self.counted.0));
        if dies {
            self.counted.0 += 1;
            self.crash_operator();
        }
        !dies
    }

    fn end_step(&mut self) {
        let cut = matches!(self.disturbance, Some(Disturbance::Cut(_)))
            && self.operator.as_mut().is_some_and(|operator| std::mem::take(&mut operator.switch_lost));
        if cut {
            self.disturbance = None;
        }
        let dies = cut || self.disturbance == Some(Disturbance::After(self.counted.0));
        self.counted.0 += 1;
        if dies {
            self.crash_operator();
        }
    }

    /// How often news reach the operator: once, unless they are the ones that are lost or doubled.
    fn news(&mut self) -> usize {
        let nth = self.counted.1;
        self.counted.1 += 1;
        match self.disturbance {
            Some(Disturbance::Lost(lost)) if lost == nth => 0,
            Some(Disturbance::Doubled(doubled)) if doubled == nth => 2,
            _ => 1,
        }
    }

    // --- The crash test ----------------------------------------------------------------------

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

    fn master_at(&self, name: &str) -> Option<usize> {
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

    pub fn disturb(&mut self, disturbance: Option<Disturbance>) {
        (self.disturbance, self.counted) = (disturbance, (0, 0));
    }

    pub fn counted(&self) -> (u64, u64) {
        self.counted
    }

    /// Lets all come to rest; then a watch that lagged catches up, and again.
    pub fn settle_quiet(&mut self) {
        self.settle();
        if std::mem::take(&mut self.lagging) {
            self.settle();
        }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    pub fn now(&self) -> Timestamp {
        self.now
    }

    pub fn running(&self) -> usize {
        self.mesos.running().count()
    }

    /// The next call reaches the master.
    fn deliver(&mut self, lane: usize) -> bool {
        if self.operator.as_ref().is_none_or(|operator| operator.calls[lane].is_empty()) {
            return false;
        }
        if !self.begin_step() {
            return true;
        }
        let call = self.operator.as_mut().and_then(|operator| operator.calls[lane].pop_front());
        let Some((subscription, call)) = call else { return false };
        let lost = !self.peace && self.faults > 0 && self.dice.percent(2);
        if self.mesos.subscription != Some(subscription) || !self.mesos.up {
            self.say(|| format!("too late: {}", call_text(&call)));
            self.fail(subscription, &call, false);
        } else if lost && matches!(call, MesosCall::Accept { .. }) {
            self.faults -= 1;
            self.fail(subscription, &call, true);
            match self.dice.below(3) {
                0 => self.say(|| format!("lost: {}", call_text(&call))),
                1 => self.arrive(call),
                _ => self.late_accepts.push((subscription, call)),
            }
        } else {
            self.arrive(call);
        }
        self.end_step();
        true
    }

    /// As the session does it: it tells, and gives the offers back.
    fn fail(&mut self, subscription: u64, call: &MesosCall, uncertain: bool) {
        if let MesosCall::Accept { launches, .. } = call {
            let task_ids = launches.iter().map(|launch| launch.task_id.clone()).collect();
            let message = "no answer".to_string();
            self.mesos.events.push_back(MesosEvent::CallFailed { call: "ACCEPT", task_ids, message, uncertain });
        }
        if let (MesosCall::Accept { offer_ids, .. }, Some(operator)) = (call, &mut self.operator) {
            let call = MesosCall::Decline { offer_ids: offer_ids.clone(), refuse_s: 1.0 };
            operator.calls[0].push_front((subscription, call));
        }
    }

    fn arrive(&mut self, call: MesosCall) {
        self.say(|| format!("the master gets {}", call_text(&call)));
        if let MesosCall::Acknowledge { task_id, uuid, .. } = &call {
            let outcome = self.acknowledged(task_id, uuid);
            self.blame(outcome);
        }
        let launches: Vec<(String, String)> = match &call {
            MesosCall::Accept { launches, .. } => {
                launches.iter().map(|launch| (launch.task_id.clone(), launch.agent_id.clone())).collect()
            }
            _ => Vec::new(),
        };
        self.mesos.call(call, self.now);
        for (task_id, agent_id) in launches {
            let at = self.mesos.agents.iter().position(|agent| agent.id == agent_id).expect("one of ours");
            if !self.robbed {
                let outcome = self.judge.launched(&task_id, at, &self.mesos);
                self.blame(outcome);
            }
        }
    }

    /// Whether a death was recorded before it is acknowledged.
    fn acknowledged(&self, task_id: &str, uuid: &str) -> Result<(), String> {
        let ended = self.mesos.agents.iter().any(|agent| agent.ended(task_id, uuid));
        match self.store.node(task_id) {
            Some(node) if ended && !node.task.is_dead() => {
                Err(format!("the death of {task_id} is acknowledged before it is recorded"))
            }
            _ => Ok(()),
        }
    }

    fn tick(&mut self) -> bool {
        let alive: Vec<usize> = (0..self.redis.processes.len()).filter(|at| self.redis.processes[*at].alive).collect();
        if alive.is_empty() {
            return false;
        }
        if !self.peace {
            let at = *self.dice.pick(&alive);
            return self.tick_one(at);
        }
        let mut news = false;
        for at in alive {
            news |= self.tick_one(at);
        }
        news
    }

    fn tick_one(&mut self, at: usize) -> bool {
        let p = &self.redis.processes[at];
        let before = (p.listening, p.link, p.data, p.follows.clone());
        let agents = &self.mesos.agents;
        let reached = |a: usize, b: usize| a == b || (agents[a].joined() && agents[b].joined());
        let dice = (!self.peace).then_some(&mut self.dice);
        let copied = self.redis.tick(at, self.now, reached, dice);
        if let Some(copy) = copied {
            let outcome = judge::copied(&copy, &self.redis, &self.judge.promises);
            self.blame(outcome);
        }
        for (name, key) in self.judge.promises.confirm(&self.redis, &self.store) {
            self.say(|| format!("key {key} of {name} is confirmed"));
        }
        let p = &self.redis.processes[at];
        let news = before != (p.listening, p.link, p.data, p.follows.clone());
        if news {
            let line = format!("{} listens {} link {:?} keys {:b}", p.task_id, p.listening, p.link, p.data);
            self.say(|| line);
        }
        news
    }

    fn probe(&mut self) -> bool {
        let Some(operator) = &self.operator else { return false };
        if operator.revisits() && self.now.since_ms(self.asked_at) >= 250 {
            // It waits for something: the prober goes on asking.
            self.asked_at = self.now;
            self.told.retain(|_, (known, _)| known.is_err());
        }
        let targets: Vec<_> = operator.probed.iter().map(|(id, address)| (id.clone(), address.clone())).collect();
        if targets.is_empty() {
            return false;
        }
        if self.told_at != self.store.revision {
            self.told_at = self.store.revision;
            self.told.clear();
            self.now = self.now.plus_ms(1); // Asked after whatever has happened at this very moment.
        }
        let only = (!self.peace).then(|| self.dice.below(targets.len()));
        let mut news = false;
        for (nth, (task_id, address)) in targets.into_iter().enumerate() {
            if only.is_some_and(|only| only != nth) {
                continue;
            }
            let reached = self.mesos.agents.iter().any(|agent| agent.host == address.host && agent.reached());
            let result = match self.redis.at(&address) {
                _ if !reached => Err(NoAnswer::Unreachable),
                None => Err(NoAnswer::Refused),
                Some(at) if self.redis.processes[at].hung => Err(NoAnswer::Timeout),
                Some(at) => Ok(self.redis.answer(at, self.now)),
            };
            // A failure is told twice: one proves nothing.
            let times = match self.told.get(&task_id) {
                Some((known, times)) if *known == result => *times + 1,
                _ => 1,
            };
            if result.is_ok() {
                self.silent.remove(&task_id);
            }
            if self.peace && times > if result.is_ok() { 1 } else { 2 } {
                continue;
            }
            if result.is_err()
                && let Some((name, _)) = redisctl::model::parse_task_id(&task_id)
            {
                // What the others of its instance say is wanted now.
                self.told.retain(|other, (known, _)| {
                    known.is_err() || redisctl::model::parse_task_id(other).is_none_or(|(n, _)| n != name)
                });
                self.now = self.now.plus_ms(1);
            }
            self.told.insert(task_id.clone(), (result.clone(), times));
            news = true;
            let times = if self.peace { self.news() } else { 1 };
            if let Some(operator) = &mut self.operator {
                let now = self.now;
                let at = if result.is_ok() { now } else { *self.silent.entry(task_id.clone()).or_insert(now) };
                for _ in 0..times {
                    let (task_id, result) = (task_id.clone(), result.clone());
                    operator.probes.push_back(Probe { task_id, result, at, watched: true });
                }
            }
        }
        news
    }

    fn allocate(&mut self) -> bool {
        let due = self.mesos.can_allocate(self.now);
        if due {
            self.mesos.allocate(self.now);
        }
        due
    }

    fn subscribe(&mut self) -> bool {
        if self.operator.is_none() || !self.mesos.up || self.mesos.subscription.is_some() {
            return false;
        }
        self.subscription += 1;
        let number = self.subscription;
        self.say(|| format!("subscription {number}"));
        self.mesos.subscribe(number);
        true
    }

    /// What the master and the agents do when it is time.
    fn timers(&mut self) -> bool {
        let mut news = false;
        for at in 0..self.mesos.agents.len() {
            if self.mesos.up && self.mesos.gives_up_at(at).is_some_and(|due| due <= self.now) {
                self.say(|| format!("the master gives up agent S{at}"));
                self.mesos.give_up(at);
                news = true;
            }
            if self.mesos.repeats(at) && self.mesos.agents[at].repeat_at <= self.now {
                self.mesos.repeat(at, self.now);
                news = true;
            }
        }
        news
    }

    /// What had ended starts again: master, operator, machines; late messages arrive.
    fn rise(&mut self) -> bool {
        if !self.mesos.up {
            self.say(|| "another Mesos master leads".to_string());
            self.mesos.up = true;
        } else if self.operator.is_none() {
            self.say(|| "an operator starts".to_string());
            let mut operator = Operator::start(&mut self.store, self.passes_max, self.now);
            operator.bug = self.bug;
            self.operator = Some(operator);
            self.told.clear();
        } else if let Some(txn) = self.operator.as_mut().and_then(|operator| operator.late.pop()) {
            let done = self.store.commit(&txn).is_ok();
            self.say(|| format!("a late transaction arrives, done: {done}"));
        } else if let Some(txn) = self.late_txns.pop() {
            let done = self.store.commit(&txn).is_ok();
            self.say(|| format!("a transaction of a dead operator arrives, done: {done}"));
        } else if let Some(at) = self.redis.processes.iter().position(|p| p.alive && p.hung)
            && !self.quiet
            && (self.peace || self.dice.percent(10))
        {
            let task_id = self.redis.processes[at].task_id.clone();
            self.say(|| format!("{task_id} goes on"));
            self.redis.go_on(at);
        } else if let Some((subscription, call)) = self.late_accepts.pop() {
            if self.mesos.subscription == Some(subscription) {
                self.arrive(call);
            }
        } else {
            let off = |a: &crate::mesos::Agent| !a.up || a.cut || a.unseen || a.split || !a.serving || a.draining;
            let down = |(_, a): &(usize, &crate::mesos::Agent)| !a.lost && off(a);
            let down: Vec<usize> = self.mesos.agents.iter().enumerate().filter(down).map(|(at, _)| at).collect();
            // Long enough for the master to give some of them up.
            if down.is_empty() || (!self.peace && self.dice.percent(85)) {
                return false;
            }
            let at = *self.dice.pick(&down);
            self.say(|| format!("agent S{at} is well again"));
            self.recover(at);
        }
        true
    }

    fn recover(&mut self, at: usize) {
        if !self.mesos.agents[at].up {
            self.mesos.boot(at);
        }
        let agent = &mut self.mesos.agents[at];
        (agent.cut, agent.unseen, agent.split) = (false, false, false);
        (agent.serving, agent.draining) = (true, false);
    }

    // --- Users, clients and time -------------------------------------------------------------

    fn declare(&mut self, name: &str) {
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

    fn write_document(&mut self, name: &str) {
        let document = self.specs[name].document(name);
        self.say(|| format!("the user writes {}", document.lines().last().unwrap_or_default()));
        self.store.put(&instance_key(name), document);
    }

    fn change(&mut self) {
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

    fn ask_for_failover(&mut self, name: &str, revision: i64) {
        let nodes = self.store.instances.get(name).map(|stored| stored.nodes.len()).unwrap_or_default();
        let to = self.dice.percent(50).then(|| format!("{name}-{}", self.dice.below(nodes + 2)));
        self.say(|| format!("the user asks for a failover of {name} to {to:?}"));
        let request = Request { at: self.now, revision, to, force: false };
        let request = serde_json::to_vec(&request).expect("plain");
        self.store.put(&request_key(name, RequestKind::Failover), request);
    }

    /// A client writes a key where the status says.
    fn client(&mut self) {
        let name = self.dice.pick(&self.names).clone();
        let status = self.store.instances.get(&name).and_then(|stored| stored.status.as_ref());
        let Some(master) = status.and_then(|status| status.master.clone()) else { return };
        let k = status.and_then(|status| status.failover).map_or(0, |failover| failover.confirmations as usize);
        let own = self.dice.percent(30); // Some stay with the master that they know.
        let here = |p: &crate::redis::Process| {
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

    fn pass_time(&mut self) {
        let ms = *self.dice.pick(&[100, 1000, 1000, 5000, 20_000, 80_000, 400_000]);
        self.now = self.now.plus_ms(ms);
        self.say(|| "time passes".to_string());
    }

    // --- Faults ------------------------------------------------------------------------------

    fn fault(&mut self) {
        self.faults -= 1;
        let at = self.dice.below(self.mesos.agents.len());
        match self.dice.below(28) {
            0..4 => self.crash_operator(),
            4 | 5 => {
                self.say(|| "the Mesos session is cut".to_string());
                let arrive = self.dice.below(self.mesos.events.len() + 1);
                self.mesos.cut_session(arrive);
            }
            6 => {
                self.say(|| "the Mesos master dies".to_string());
                let arrive = self.dice.below(self.mesos.events.len() + 1);
                self.mesos.fail_over(arrive, self.now);
            }
            7..11 => self.kill_somebody(),
            11 | 12 => {
                self.say(|| format!("the machine of agent S{at} dies"));
                self.mesos.crash(at, &mut self.redis, self.now);
                self.mesos.agents[at].lost = self.dice.percent(20);
            }
            13 | 14 => {
                self.say(|| format!("agent S{at} is cut off"));
                self.mesos.unlink(at, self.now);
                self.mesos.agents[at].cut = true;
            }
            15 => {
                self.say(|| format!("the Mesos agent of S{at} is restarted"));
                self.mesos.unlink(at, self.now);
                self.mesos.agents[at].serving = false;
            }
            16 => {
                let nth = self.dice.below(self.mesos.has_offers().max(1));
                if self.mesos.rescind(nth) {
                    self.say(|| "an offer is rescinded".to_string());
                }
            }
            17 => {
                self.say(|| "the watch breaks".to_string());
                if let Some(operator) = &mut self.operator {
                    operator.watched = None;
                }
            }
            18 => {
                let Some(operator) = &mut self.operator else { return };
                let now = self.now;
                let targets: Vec<String> = operator.probed.keys().cloned().collect();
                if !targets.is_empty() {
                    let task_id = self.dice.pick(&targets).clone();
                    self.told.remove(&task_id);
                    operator.probes.push_back(Probe {
                        task_id,
                        result: Err(NoAnswer::Timeout),
                        at: now,
                        watched: true,
                    });
                }
            }
            19 => self.gone(at),
            20 => {
                self.say(|| format!("agent S{at} is drained; its updates come twice"));
                self.mesos.agents[at].draining = true;
                self.mesos.repeat(at, self.now);
            }
            _ => self.lose_reach(at),
        }
    }

    fn kill_somebody(&mut self) {
        let living = |p: &crate::redis::Process| p.alive;
        let living: Vec<usize> =
            self.redis.processes.iter().enumerate().filter(|(_, p)| living(p)).map(|(at, _)| at).collect();
        if !living.is_empty() {
            let process = *self.dice.pick(&living);
            let task_id = self.redis.processes[process].task_id.clone();
            self.say(|| format!("{task_id} dies"));
            self.mesos.dies(process, &mut self.redis);
        }
    }

    /// Somebody does not reach somebody any more, or has interfered.
    fn lose_reach(&mut self, at: usize) {
        match self.dice.below(7) {
            0 => self.meddle(),
            1 | 2 => {
                self.say(|| format!("the operator does not reach agent S{at}"));
                self.mesos.agents[at].unseen = true;
            }
            3 => {
                self.say(|| format!("agent S{at} is split from the others"));
                self.mesos.agents[at].split = true;
            }
            _ => {
                let runs = |p: &crate::redis::Process| p.alive && p.listening && !p.hung;
                let running: Vec<usize> =
                    (0..self.redis.processes.len()).filter(|at| runs(&self.redis.processes[*at])).collect();
                if !running.is_empty() {
                    let process = *self.dice.pick(&running);
                    let task_id = self.redis.processes[process].task_id.clone();
                    self.say(|| format!("{task_id} hangs"));
                    self.redis.stop(process);
                }
            }
        }
    }

    fn crash_operator(&mut self) {
        self.say(|| "the operator is killed".to_string());
        let Some(mut operator) = self.operator.take() else { return };
        // What it had sent before may be done, in part.
        for lane in 0..2 {
            for _ in 0..self.dice.below(operator.calls[lane].len() + 1) {
                let (subscription, call) = operator.calls[lane].pop_front().expect("counted");
                if self.mesos.subscription == Some(subscription) {
                    self.arrive(call);
                }
            }
        }
        if let Some(txn) = operator.late.pop() {
            let _ = self.store.commit(&txn);
        }
        if !self.quiet && self.dice.percent(50) {
            self.late_txns.extend(operator.uncommitted());
        }
        self.mesos.cut_session(0);
        self.mesos.events.clear();
    }

    /// A human says that the agent will not come back. Mostly that is so.
    fn gone(&mut self, at: usize) {
        self.say(|| format!("a human says that agent S{at} is gone"));
        let seen = self.mesos.agents[at].seen;
        if matches!(seen, Seen::Recovering(_) | Seen::Gone | Seen::Removed) {
            return;
        }
        self.mesos.unlink(at, self.now);
        if self.dice.percent(80) {
            self.mesos.crash(at, &mut self.redis, self.now);
            self.mesos.agents[at].lost = true;
        } else {
            self.mesos.agents[at].cut = true;
        }
        self.mesos.lose_agent(at, Seen::Gone, TaskState::GoneByOperator, "REASON_AGENT_REMOVED_BY_OPERATOR");
    }

    /// A human makes a master of a replica.
    fn meddle(&mut self) {
        let replica = |p: &crate::redis::Process| p.alive && p.listening && p.role == Role::Replica;
        let replicas: Vec<usize> =
            self.redis.processes.iter().enumerate().filter(|(_, p)| replica(p)).map(|(at, _)| at).collect();
        if replicas.is_empty() {
            return;
        }
        let at = *self.dice.pick(&replicas);
        self.redis.promote(at);
        let p = &mut self.redis.processes[at];
        (p.meddled, p.tampered) = (true, true);
        let task_id = p.task_id.clone();
        self.say(|| format!("a human makes a master of {task_id}"));
    }

    // --- Peace -------------------------------------------------------------------------------

    fn heal(&mut self) {
        self.say(|| "--- peace: nothing goes wrong any more ---".to_string());
        self.peace = true;
        for at in 0..self.mesos.agents.len() {
            if !self.mesos.agents[at].lost {
                self.recover(at);
            }
        }
        (0..self.redis.processes.len()).for_each(|at| self.redis.go_on(at));
    }

    /// An act of every kind; whether there was any to do.
    fn sweep(&mut self) -> bool {
        let mut news = false;
        for kind in 0..KINDS {
            news |= self.act(kind);
        }
        news
    }

    /// Lets everything happen that happens by itself, until nothing does.
    fn settle(&mut self) {
        let end = self.now.plus_ms(if self.quiet {
            QUIET_MS
        } else if self.contested {
            CONTESTED_MS
        } else {
            PEACE_MS
        });
        let mut acts = 0;
        loop {
            while self.sweep() {
                acts += 1;
                self.now = self.now.plus_ms(1);
                if !self.robbed {
                    let outcome = self.judge.unrecorded(&self.store, &self.mesos, self.now);
                    self.blame(outcome);
                }
                if acts > ACTS_MAX {
                    self.blame(Err("it does not come to rest".to_string()));
                }
                if self.judged() {
                    return;
                }
            }
            let agents = (0..self.mesos.agents.len()).filter_map(|at| {
                let repeat = self.mesos.repeats(at).then_some(self.mesos.agents[at].repeat_at);
                repeat.into_iter().chain(self.mesos.gives_up_at(at)).min()
            });
            let wake = self.operator.as_ref().map(Operator::next_wake);
            let next = agents.chain(wake).min().unwrap_or(end).max(self.now.plus_ms(1));
            if next > end {
                self.acts += acts;
                return;
            }
            self.now = next;
        }
    }

    fn last_judgement(&mut self) {
        let mut all_ready = true;
        if let Some(reason) = self.operator.as_ref().and_then(|operator| operator.world.frozen.clone()) {
            self.blame(Err(format!("the operator is still frozen: {reason}")));
        }
        for name in self.names.clone() {
            match judge::settled(&name, &self.store, &self.mesos, &self.redis) {
                Ok(ready) => all_ready &= ready,
                Err(what) => self.blame(Err(what)),
            }
        }
        if self.broken.is_none() {
            self.restart(all_ready);
        }
    }

    /// An operator that starts where all is well has nothing to do.
    fn restart(&mut self, all_ready: bool) {
        self.crash_operator();
        self.say(|| "--- the last restart ---".to_string());
        let launched = self.mesos.launched.len();
        self.rise();
        let revision = self.store.revision;
        self.settle();
        if self.store.revision != revision && all_ready {
            let (before, after) = (revision, self.store.revision);
            self.blame(Err(format!("all was well, and a restarted operator wrote: revision {before} -> {after}")));
        }
        let acts = self.operator.as_ref().map_or(0, |operator| operator.acts);
        if acts > 0 && all_ready {
            self.blame(Err(format!("all was well, and a restarted operator made {acts} plans with something in them")));
        }
        if self.mesos.launched.len() != launched {
            self.blame(Err("nothing had changed, and a restarted operator launched nodes".to_string()));
        }
    }
}
