//! Two operators that live at once: the leader is stopped (SIGSTOP, a long stall), its lease lapses,
//! another is elected, and the stopped one goes on with what it had in hand. Pure.

use redisctl::model::MesosCall;

use super::History;
use crate::operator::{Fate, Operator, call_text};
use crate::planted::Bug;

/// How long a leader is stopped before its lease lapses.
const LAPSE_MS: u64 = 3000;

impl History {
    /// The master is lost again and again, and so is the leader.
    pub fn rivals(mut self) -> History {
        self.rivals = true;
        self.contested()
    }

    /// Whether anything was done.
    pub(super) fn rivals_step(&mut self) -> bool {
        let chance = self.dice.below(100);
        if self.paused.is_some() && chance < 30 {
            if chance < 20 { self.lapse() } else { self.wake() }
        } else if self.operator.is_some() && self.paused.is_none() && chance < 3 && self.faults > 0 {
            self.faults -= 1;
            let stage = self.dice.below(3);
            self.pause(stage);
        } else if !self.formers.is_empty() && chance < 12 {
            let nth = self.dice.below(self.in_hand());
            self.late(nth);
        } else {
            return false;
        }
        true
    }

    /// The operator is stopped, right after it has looked at its lease; a switchover at that stage.
    pub(super) fn pause(&mut self, stage: usize) {
        self.say(|| "the operator is stopped".to_string());
        let fenced = self.fenced();
        self.paused = self.with_operator(|operator, around, _| operator.in_hand(stage, fenced, around));
    }

    /// Before its lease has ended.
    pub(super) fn wake(&mut self) {
        self.say(|| "the operator goes on".to_string());
        self.paused = None;
    }

    /// The stopped operator's lease ends.
    pub(super) fn lapse(&mut self) {
        let Some(former) = self.paused.take() else { return };
        self.now = self.now.plus_ms(LAPSE_MS);
        self.say(|| format!("the operator's lease ends; it has in hand: {former:?}"));
        if !former.calls.is_empty() || !former.commands.is_empty() {
            self.formers.push(former);
        }
        self.operator = None;
        self.store.vacate();
        self.mesos.orphan();
    }

    /// How much former leaders have in hand.
    pub(super) fn in_hand(&self) -> usize {
        self.formers.iter().map(|former| former.commands.len() + usize::from(!former.calls.is_empty())).sum()
    }

    /// Whether a command to a node is among it.
    pub fn has_command_in_hand(&self) -> bool {
        self.formers.iter().any(|former| !former.commands.is_empty())
    }

    /// A former leader does the n-th of what it may do next.
    pub(super) fn late(&mut self, mut nth: usize) {
        for at in 0..self.formers.len() {
            let (calls, commands) = (&self.formers[at].calls, self.formers[at].commands.len());
            let count = commands + usize::from(!calls.is_empty());
            if nth >= count {
                nth -= count;
                continue;
            }
            if nth < commands {
                self.late_command(at, nth);
            } else if let Some((subscription, call)) = self.formers[at].calls.pop_front() {
                self.late_call(subscription, call);
            }
            self.formers.retain(|former| !former.calls.is_empty() || !former.commands.is_empty());
            return;
        }
    }

    /// The answer to a transaction is lost; it was done.
    pub(super) fn lose_answer(&mut self) {
        let nth = self.operator.as_ref().and_then(Operator::committing).unwrap_or(0);
        self.with_operator(|operator, around, dice| operator.advance(nth, Fate::DoneUnknown, around, dice));
    }

    fn late_call(&mut self, subscription: u64, call: MesosCall) {
        if self.mesos.subscription == Some(subscription) && self.mesos.up {
            self.arrive(call);
        } else {
            self.say(|| format!("a call of a former leader is refused: {}", call_text(&call)));
        }
    }

    fn late_command(&mut self, at: usize, nth: usize) {
        let (process, command) = self.formers[at].commands.remove(nth);
        let term = self.formers[at].term;
        let alive = process.filter(|at| self.redis.processes[*at].alive);
        if self.fenced() && alive.is_none_or(|at| self.redis.is_entered_after(at, term)) {
            return self.say(|| format!("a command of a former leader is void: {command:?}"));
        }
        self.say(|| format!("a command of a former leader arrives: {command:?}"));
        self.with_around(|around| around.do_late(&command)); // It has no judgement of its own.
    }

    /// Whether nodes obey the latest leader only.
    fn fenced(&self) -> bool {
        self.bug != Some(Bug::FormersAreNotFenced)
    }

    /// All that was stopped goes on, too late.
    pub(super) fn finish_formers(&mut self) {
        self.lapse();
        while self.in_hand() > 0 {
            self.late(0);
        }
    }
}
