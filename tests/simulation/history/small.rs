//! A small world: two agents, one instance with a master and two replicas, an operator and another that
//! takes its place. What happens next is not up to dice: each state has a next act of its own, and moves
//! (faults, and their ends) that may come before it. Pure.

use std::collections::BTreeSet;
use std::fmt::Write;

use redisctl::model::{MesosEvent, RequestKind, Timestamp};

use super::{Declared, History};
use crate::dice::Dice;
use crate::mesos::Mesos;
use crate::operator::Operator;
use crate::store::Store;

/// Numbers by which ids of one kind are known from others.
const REVISIONS: u64 = 5_000_000_000;
const MESOS_IDS: u64 = 3_000_000_000;
const HISTORIES: u64 = 7_000_000_000;
const SUBSCRIPTIONS: u64 = 8_000_000_000;
const KIND: u64 = 1_000_000_000;
/// The clock of every history begins then: 2023-11-14T22:13:20Z.
const BEGIN_MS: u64 = 1_700_000_000_000;
const BEGIN_OF_DAY_MS: u64 = (22 * 3600 + 13 * 60 + 20) * 1000;
/// What comes by itself, in this order: what the operator has begun goes before what it learns, or it would
/// be told again and again to wait for itself.
const ORDER: [usize; 15] = [2, 3, 4, 1, 0, 5, 6, 7, 8, 10, 12, 13, 14, 15, 16];

/// After that all is to come to rest within this time.
const REST_MS: u64 = 120_000;
/// Keys that clients write at most.
const KEYS: u32 = 6;
/// Acts until it must have come to rest.
const ACTS: usize = 6000;

/// What may come before the next act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    // Faults, and what people do.
    /// A node dies.
    Kill(usize),
    Hang(usize),
    /// An agent is cut off.
    Cut(usize),
    /// The operator does not reach the nodes of an agent.
    Unsee(usize),
    /// The agents do not reach each other.
    Split(usize),
    KillOperator,
    /// It is stopped; a switchover at that stage.
    Pause(usize),
    /// The next update of a task is lost on its way.
    LoseNews,
    BreakWatch,
    CutSession,
    /// The answer to a transaction is lost; it was done.
    LoseAnswer,
    /// A user asks for a switchover.
    Ask,
    /// A client writes, though others have something to do.
    Write,
    // The ends of faults.
    GoOn(usize),
    Rejoin(usize),
    Wake,
    /// The stopped operator's lease ends.
    Lapse,
    /// The stopped operator, which leads no more, does something that it had in hand.
    Late(usize),
}

impl History {
    /// Settled, with some confirmed writes; faults last so long at most.
    pub fn small(lasts_ms: u64, told: bool) -> History {
        let mut h = History::quiet(told);
        h.dice = Dice::First;
        h.mesos = Mesos::with_agents(2, 2000);
        h.mesos.count_from(MESOS_IDS);
        h.redis.count_from(HISTORIES);
        h.store = Store::default();
        h.store.count_from(i64::try_from(REVISIONS).expect("small"));
        (h.subscription, h.passes_max, h.names) = (SUBSCRIPTIONS, 4, vec!["a".to_string()]);
        let (replicas, distribution, memory, config, after) = (2, 2, "64Mi", "{}", "30s");
        let declared = Declared { durability: false, replicas, distribution, memory, config, after, hold: false };
        h.specs.insert("a".to_string(), declared);
        h.write_document("a");
        h.settle();
        h.write_confirmed("a", 3);
        h.settle();
        h.rest_until(h.now.plus_ms(lasts_ms));
        h
    }

    /// Trouble may last until then.
    fn rest_until(&mut self, at: Timestamp) {
        self.asked_at = Timestamp(0);
        self.ends_at = at;
    }

    /// Faults that may come now.
    pub fn faults_now(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        if self.healed {
            return moves;
        }
        let processes = self.redis.processes.iter().enumerate().filter(|(_, p)| p.alive);
        for (at, process) in processes {
            moves.push(Move::Kill(at));
            if process.listening && !process.hung {
                moves.push(Move::Hang(at));
            }
        }
        for (at, agent) in self.mesos.agents.iter().enumerate() {
            if !agent.cut && !agent.unseen && !agent.split {
                moves.extend([Move::Cut(at), Move::Unsee(at)]);
                if at == 0 {
                    moves.push(Move::Split(at)); // There are two: it is between them.
                }
            }
        }
        if let (Some(operator), None) = (&self.operator, &self.paused) {
            moves.push(Move::KillOperator);
            let stages = if operator.is_switching() { 3 } else { 1 };
            moves.extend((0..stages).map(Move::Pause));
            if operator.watched.is_some_and(|watched| watched < self.store.revision) {
                moves.push(Move::BreakWatch);
            }
            if operator.committing().is_some() {
                moves.push(Move::LoseAnswer);
            }
        }
        if matches!(self.mesos.events.front(), Some(MesosEvent::Update(_))) {
            moves.push(Move::LoseNews);
        }
        if self.mesos.is_read() {
            moves.push(Move::CutSession);
        }
        moves.push(Move::Ask);
        if self.keys < KEYS {
            moves.push(Move::Write);
        }
        moves
    }

    /// Faults that may end now, and what former leaders may do.
    pub fn ends_now(&self) -> Vec<Move> {
        let hung = self.redis.processes.iter().enumerate().filter(|(_, p)| p.alive && p.hung);
        let mut moves: Vec<Move> = hung.map(|(at, _)| Move::GoOn(at)).collect();
        let off = self.mesos.agents.iter().enumerate().filter(|(_, a)| a.cut || a.unseen || a.split);
        moves.extend(off.map(|(at, _)| Move::Rejoin(at)));
        if self.paused.is_some() {
            moves.extend([Move::Wake, Move::Lapse]);
        }
        moves.extend((0..self.in_hand()).map(Move::Late));
        moves
    }

    pub fn make(&mut self, it: Move) {
        self.say(|| format!("--- {it:?}"));
        match it {
            Move::Kill(at) => self.mesos.dies(at, &mut self.redis),
            Move::Hang(at) => self.redis.stop(at),
            Move::Cut(at) => {
                self.mesos.unlink(at, self.now);
                self.mesos.agents[at].cut = true;
            }
            Move::Unsee(at) => self.mesos.agents[at].unseen = true,
            Move::Split(at) => self.mesos.agents[at].split = true,
            Move::KillOperator => self.crash_operator(),
            Move::Pause(stage) => self.pause(stage),
            Move::LoseNews => drop(self.mesos.events.pop_front()),
            Move::BreakWatch => self.operator.iter_mut().for_each(|operator| operator.watched = None),
            Move::CutSession => self.mesos.cut_session(0),
            Move::LoseAnswer => self.lose_answer(),
            Move::Ask => crate::crash::request(self, "a", RequestKind::Failover),
            Move::Write => self.client(),
            Move::GoOn(at) => self.redis.go_on(at),
            Move::Rejoin(at) => self.recover(at),
            Move::Wake => self.wake(),
            Move::Lapse => self.lapse(),
            Move::Late(nth) => self.late(nth),
        }
    }

    /// The next act. False: all is at rest, and nothing is wrong any more.
    pub fn proceed(&mut self) -> bool {
        self.rested = false;
        self.acts += 1;
        if self.acts > ACTS {
            self.blame(Err("it does not come to rest".to_string()));
            return false;
        }
        if ORDER.into_iter().any(|kind| self.act(kind)) {
            return true;
        }
        if self.keys < KEYS && self.write_at_rest() {
            return true;
        }
        let next = self.wakes_at();
        match next.filter(|next| *next <= self.ends_at) {
            Some(next) => {
                self.now = next.max(self.now.plus_ms(1));
                self.rested = true;
            }
            None if self.healed => return false,
            None => {
                self.now = self.now.max(self.ends_at);
                self.heal();
                self.healed = true;
                self.rest_until(self.now.plus_ms(REST_MS));
            }
        }
        true
    }

    /// Lets things go on by themselves for so long, without any writes.
    pub fn live_for(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while !self.judged() {
            if ORDER.into_iter().any(|kind| self.act(kind)) {
                continue;
            }
            self.now = self.wakes_at().map_or(end, |at| at.min(end)).max(self.now.plus_ms(1));
            if self.now >= end {
                return;
            }
        }
    }

    /// A client writes when nobody else has anything to do.
    fn write_at_rest(&mut self) -> bool {
        let before = self.keys;
        self.client();
        self.keys > before
    }

    fn wakes_at(&self) -> Option<Timestamp> {
        let agents = (0..self.mesos.agents.len()).filter_map(|at| {
            let repeat = self.mesos.repeats(at).then_some(self.mesos.agents[at].repeat_at);
            repeat.into_iter().chain(self.mesos.gives_up_at(at)).min()
        });
        let operator = self.operator.as_ref().filter(|_| self.paused.is_none()).map(Operator::next_wake);
        agents.chain(operator).min()
    }

    /// Whether the last act was to wait.
    pub fn is_rested(&self) -> bool {
        self.rested
    }

    /// The operators have the history's bug from now on.
    pub fn plant(&mut self) {
        self.operator.iter_mut().for_each(|operator| operator.bug = self.bug);
    }

    /// Whether all is well at the end.
    pub fn judge_end(&mut self) {
        self.last_judgement();
    }

    pub fn is_broken(&mut self) -> bool {
        self.judged()
    }

    /// Names the state: ids by their order, moments by how long ago they were, roughly.
    pub fn fingerprint(&self, text: &mut String) -> u128 {
        text.clear();
        let watched = self.operator.as_ref().and_then(|operator| operator.watched);
        self.store.fingerprint(watched, text);
        self.mesos.fingerprint(text);
        self.redis.fingerprint(text);
        if let Some(operator) = &self.operator {
            operator.fingerprint(text);
        }
        let (paused, formers, told, silent) = (&self.paused, &self.formers, &self.told, &self.silent);
        let _ = write!(text, "{paused:?} {formers:?} {told:?} {silent:?} {:?} {}", self.judge.promises, self.keys);
        let _ = write!(text, "{} {:?} {:?} {:?}", self.told_at, self.asked_at, self.ends_at, self.late_txns);
        named(text, self.now)
    }
}

/// The text's hash, with ids renamed by rank and moments by age.
fn named(text: &str, now: Timestamp) -> u128 {
    let tokens = tokens(text);
    let ids = tokens.iter().filter_map(|token| if let Token::Id(id) = token { Some(*id) } else { None });
    let ids: BTreeSet<u64> = ids.collect();
    let rank = |id: u64| ids.range(id / KIND * KIND..id).count() as u64;
    let mut named = String::with_capacity(text.len());
    for token in &tokens {
        let _ = match token {
            Token::Id(id) => write!(named, "#{}", rank(*id)),
            Token::Moment(at) => write!(named, "@{}", age(*at, now)),
            Token::Text(text) => named.write_str(text),
        };
    }
    hash(named.as_bytes())
}

/// Two multiplicative hashes side by side: quick without optimisation, which the library's are not.
fn hash(bytes: &[u8]) -> u128 {
    let (mut one, mut other) = (0xcbf2_9ce4_8422_2325_u64, 0x9e37_79b9_7f4a_7c15_u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let word = u64::from_le_bytes(word);
        one = (one ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        other = (other.rotate_left(23) ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
    }
    (u128::from(one) << 64) | u128::from(other)
}

/// A moment, by how long ago it was or is ahead: tenths of a second, seconds beyond ten of them, and
/// no more than a hundred seconds.
fn age(at: Timestamp, now: Timestamp) -> u64 {
    let rough = |ms: u64| if ms < 10_000 { ms / 100 } else { 100 + (ms / 1000).min(100) };
    if at > now { 1000 + rough(at.since_ms(now)) } else { rough(now.since_ms(at)) }
}

enum Token<'a> {
    Id(u64),
    Moment(Timestamp),
    Text(&'a str),
}

/// Cuts a text at its ids and moments.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let (bytes, mut tokens, mut begin, mut at) = (text.as_bytes(), Vec::new(), 0, 0);
    while at < bytes.len() {
        let (token, length) = match bytes[at] {
            b'0'..=b'9' => number(text, at),
            _ => (None, 1),
        };
        if let Some(token) = token {
            tokens.push(Token::Text(&text[begin..at]));
            tokens.push(token);
            begin = at + length;
        }
        at += length;
    }
    tokens.push(Token::Text(&text[begin..]));
    tokens
}

/// The number, or the moment, that begins there.
fn number(text: &str, at: usize) -> (Option<Token<'_>>, usize) {
    let rest = &text[at..];
    if rest.starts_with("2023-11-1") && rest.len() >= 24 {
        let part = |from: usize, to: usize| rest[from..to].parse::<u64>().unwrap_or(0);
        let of_day = (part(11, 13) * 3600 + part(14, 16) * 60 + part(17, 19)) * 1000 + part(20, 23);
        let moment = BEGIN_MS + (part(8, 10) - 14) * 86_400_000 + of_day - BEGIN_OF_DAY_MS;
        return (Some(Token::Moment(Timestamp(moment))), 24);
    }
    if rest.starts_with("18bcf") {
        let hex = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        let moment = u64::from_str_radix(&rest[..hex], 16).unwrap_or(0);
        return (Some(Token::Moment(Timestamp(moment))), hex);
    }
    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
    let value = rest[..length].parse::<u64>().unwrap_or(0);
    let id = (MESOS_IDS..SUBSCRIPTIONS + KIND).contains(&value);
    (id.then_some(Token::Id(value)), length)
}
