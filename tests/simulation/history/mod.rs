//! One history: what happens next is up to the dice; what must hold is looked at after every step. Pure.

use std::collections::BTreeMap;

use redisctl::model::{Answer, MesosCall, NoAnswer, Timestamp};

use crate::dice::Dice;
use crate::judge::{self, Judge};
use crate::mesos::Mesos;
use crate::operator::{Around, Former, Operator};
use crate::planted::Bug;
use crate::redis::Redis;
use crate::store::Store;

mod acts;
mod contest;
mod disturbance;
mod faults;
mod hands;
mod rivals;
mod robbery;
mod small;
mod users;

pub use disturbance::Disturbance;
pub use small::Move;
use users::Declared;

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

#[derive(Clone)]
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
    /// The operator is stopped, with this in hand.
    paused: Option<Former>,
    /// Those that were stopped while another was elected.
    formers: Vec<Former>,
    /// Operators are stopped for a while.
    rivals: bool,
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
    /// In a small world: trouble, or what comes after it, lasts until then.
    ends_at: Timestamp,
    /// There, all faults have ended.
    healed: bool,
    /// There, the last act was to wait.
    rested: bool,
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
            paused: None,
            formers: Vec::new(),
            rivals: false,
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
            ends_at: Timestamp(0),
            healed: false,
            rested: false,
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
        if self.rivals && self.rivals_step() {
            return;
        }
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
        let outcome = self.judge.step(&self.store, &self.mesos, &self.redis, self.now);
        self.blame(outcome);
        if let Some(reason) = self.operator.as_ref().and_then(Operator::frozen_for_good) {
            self.blame(Err(format!("the operator is frozen: {reason}")));
        }
        self.broken.is_some()
    }

    fn with_operator<T>(&mut self, act: impl FnOnce(&mut Operator, &mut Around, &mut Dice) -> T) -> Option<T> {
        let mut operator = self.operator.take()?;
        let mut dice = std::mem::replace(&mut self.dice, Dice::First);
        let (done, broken) = self.with_around(|around| act(&mut operator, around, &mut dice));
        (self.operator, self.dice) = (Some(operator), dice);
        broken.into_iter().for_each(|what| self.blame(Err(what)));
        Some(done)
    }

    fn with_around<T>(&mut self, act: impl FnOnce(&mut Around) -> T) -> (T, Vec<String>) {
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
        let done = act(&mut around);
        (done, around.broken)
    }

    fn heal(&mut self) {
        self.say(|| "--- peace: nothing goes wrong any more ---".to_string());
        self.peace = true;
        self.finish_formers();
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
            match judge::settled(&name, &self.store, &self.mesos, &self.redis, &self.judge.promises) {
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
}
