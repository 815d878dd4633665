//! What goes on by itself, one act at a time: operator, Mesos, Redis, messages and timers. Pure.

use redisctl::model::{MesosCall, MesosEvent, NoAnswer, Probe, TaskState, parse_task_id};

use super::History;
use crate::judge;
use crate::mesos::Agent;
use crate::operator::{Fate, Operator, call_text};

/// The bound for a master's silence.
const DETECTED_MS: u64 = 1000;

impl History {
    /// Does an act of this kind, if there is one to do.
    pub(super) fn act(&mut self, kind: usize) -> bool {
        match kind {
            0..=4 | 10 | 11 | 13 if self.paused.is_some() => false,
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
            14 => self.on_agent(Agent::can_register, |h, at| {
                let was = h.mesos.agents[at].seen;
                h.say(|| format!("agent S{at} registers, it was {was:?}"));
                h.mesos.register(at, &mut h.redis, h.now);
            }),
            15 => self.timers(),
            _ => self.rise(),
        }
    }

    fn on_agent(&mut self, which: impl Fn(&Agent) -> bool, act: impl FnOnce(&mut History, usize)) -> bool {
        let fit = |(_, a): &(usize, &Agent)| self.mesos.up && which(a);
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

    pub(super) fn arrive(&mut self, call: MesosCall) {
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
        let term = operator.token.created;
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
                Some(at) => {
                    self.redis.enter(at, term);
                    Ok(self.redis.answer(at, self.now))
                }
            };
            // A failure is told twice: one proves nothing.
            let times = match self.told.get(&task_id) {
                Some((known, times)) if *known == result => *times + 1,
                _ => 1,
            };
            if result.is_ok() {
                self.silent.remove(&task_id);
            }
            // And once more when it has lasted.
            let lasts = self.silent.get(&task_id).is_some_and(|since| self.now.since_ms(*since) >= DETECTED_MS);
            let most = if result.is_ok() { 1 } else { 2 + usize::from(lasts) };
            if self.peace && times > most {
                continue;
            }
            if result.is_err()
                && let Some((name, _)) = parse_task_id(&task_id)
            {
                // What the others of its instance say is wanted now.
                self.told
                    .retain(|other, (known, _)| known.is_err() || parse_task_id(other).is_none_or(|(n, _)| n != name));
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
                    operator.probes.push_back(Probe { task_id, result, at, until: now, watched: true });
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
        if self.operator.is_none() || !self.mesos.up || self.mesos.is_read() {
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
    pub(super) fn rise(&mut self) -> bool {
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
            let leaves = |a: &Agent| a.leaving.is_some() && !self.quiet;
            let off = |a: &Agent| !a.up || a.cut || a.unseen || a.split || !a.serving || leaves(a);
            let down = |(_, a): &(usize, &Agent)| !a.lost && off(a);
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

    pub(super) fn recover(&mut self, at: usize) {
        if !self.mesos.agents[at].up {
            self.mesos.boot(at);
        }
        let agent = &mut self.mesos.agents[at];
        (agent.cut, agent.unseen, agent.split) = (false, false, false);
        agent.serving = true;
        self.mesos.stay(at);
    }
}
