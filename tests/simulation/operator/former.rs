//! What a leader that was stopped has in hand, and does when it goes on though another leads. Pure.
//!
//! As execute.rs has it: it looks at its lease before each ACCEPT and before each group of steps that
//! are alike, so between that look and the act it may be stopped. Its transactions fail (another leads),
//! its calls are refused once another has subscribed; its commands reach Redis.

use std::collections::VecDeque;

use redisctl::model::{Address, MesosCall, Role};
use redisctl::reconcile::action::Action;

use super::executor::accepts;
use super::{Around, Operator};
use crate::redis::Redis;

/// A leader that was stopped, as far as it still matters.
#[derive(Clone, Debug)]
pub struct Former {
    /// The greater, the later it was elected.
    pub term: i64,
    pub calls: VecDeque<(u64, MesosCall)>,
    /// One of them at a time; they have no order.
    pub commands: Vec<(Option<usize>, Command)>,
}

/// What still reaches Redis.
#[derive(Clone, Debug)]
pub enum Command {
    Follow(Address, Address),
    Promote(Address),
    Detach(Address),
    /// A switchover from its beginning.
    Switch(Address, Address),
    /// The same after the old master was detached, at that offset of that history.
    TakeOver(Address, Address, u64, u64),
}

impl Command {
    /// The node to which it is sent first.
    pub fn node(&self) -> &Address {
        match self {
            Command::Follow(node, _) | Command::Promote(node) | Command::Detach(node) => node,
            Command::Switch(from, _) => from,
            Command::TakeOver(_, to, ..) => to,
        }
    }
}

impl Operator {
    /// It is stopped right after it has looked at its lease: what it has in hand then. A switchover of
    /// which something is in hand has come so far: 0 is not begun, 1 the old master is detached, 2 the
    /// new one is promoted. `fenced`: it looks before each command, not only before a group of steps.
    pub fn in_hand(&self, stage: usize, fenced: bool, around: &mut Around) -> Former {
        let [calls, acknowledgements] = self.calls.clone();
        let mut former = Former {
            term: self.token.created,
            calls: calls.into_iter().chain(acknowledgements).collect(),
            commands: Vec::new(),
        };
        for round in &self.rounds {
            if round.works.iter().any(|doing| doing.committed.is_none()) {
                continue; // When the store has answered, it looks.
            }
            let accept = round.accepts.clone().unwrap_or_else(|| accepts(&round.works)).into_iter().next();
            if let Some((call, _)) = accept {
                former.calls.push_back((round.subscription, call));
                continue;
            }
            for doing in round.works.iter().filter(|doing| !doing.done && matches!(doing.committed, Some(Ok(())))) {
                let steps = doing.work.plan.steps.iter().map(|step| &step.action);
                let mut steps =
                    steps.filter(|action| !matches!(action, Action::Launch(_))).skip(doing.steps).peekable();
                let kind = steps.peek().map(|action| action.kind());
                for action in steps.take_while(|action| Some(action.kind()) == kind) {
                    let subscription = round.subscription;
                    match action.clone() {
                        Action::Follow { node, master, .. } => {
                            former.add(Command::Follow(node, master), around.redis);
                        }
                        Action::Promote { node, .. } => former.add(Command::Promote(node), around.redis),
                        Action::Detach { node, .. } => former.add(Command::Detach(node), around.redis),
                        Action::SwitchOver { from, node, .. } => {
                            former.switch(from, node, stage, fenced, around.redis);
                        }
                        Action::Kill { task_id } => {
                            former.calls.push_back((subscription, MesosCall::Kill { task_id, agent_id: None }));
                        }
                        Action::Acknowledge { task_id, agent_id, uuid } => {
                            former.calls.push_back((subscription, MesosCall::Acknowledge { task_id, agent_id, uuid }));
                        }
                        // A kick looks first whether it is still wanted, on the same connection.
                        Action::Launch(_)
                        | Action::Kick { .. }
                        | Action::CutForeign { .. }
                        | Action::MakeRoom { .. }
                        | Action::EndScript { .. }
                        | Action::Configure { .. } => {}
                    }
                }
            }
        }
        former
    }
}

impl Former {
    fn add(&mut self, command: Command, redis: &Redis) {
        let at = redis.at(command.node());
        self.commands.push((at, command));
    }

    /// Does the first stages, and has the rest in hand.
    fn switch(&mut self, from: Address, to: Address, stage: usize, fenced: bool, redis: &mut Redis) {
        let (Some(old), Some(new)) = (redis.at(&from), redis.at(&to)) else { return };
        let (p, q) = (&redis.processes[old], &redis.processes[new]);
        let whole = p.role == Role::Master && q.follows.as_ref() == Some(&from) && !p.hung && !q.hung;
        if !whole || q.offset != p.offset || q.history() != p.history() {
            return; // It has looked, and backs out.
        }
        let (offset, history) = (p.offset, p.history());
        if stage > 0 {
            redis.detach(old);
        }
        if stage > 1 {
            redis.promote(new);
        }
        let command = match (stage, fenced) {
            (0, false) => Command::Switch(from, to),
            (0, true) => Command::Detach(from),
            (1, false) => Command::TakeOver(from, to, offset, history),
            (1, true) => Command::Promote(to),
            _ => Command::Follow(from, to),
        };
        self.add(command, redis);
    }
}

impl Around<'_> {
    /// A command of a former leader reaches Redis.
    pub fn do_late(&mut self, command: &Command) {
        match command {
            Command::Follow(node, master) => {
                if let Some(at) = self.redis_at(node) {
                    self.redis.follow(at, master);
                }
            }
            Command::Promote(node) => {
                if let Some(at) = self.redis_at(node) {
                    self.redis.promote(at);
                }
            }
            Command::Detach(node) => {
                if let Some(at) = self.redis_at(node) {
                    self.redis.detach(at);
                }
            }
            Command::Switch(from, to) => self.switch_late(from, to),
            Command::TakeOver(from, to, offset, history) => self.take_over_late(from, to, *offset, *history),
        }
    }

    fn switch_late(&mut self, from: &Address, to: &Address) {
        let (Some(old), Some(new)) = (self.redis_at(from), self.redis_at(to)) else { return };
        let (p, q) = (&self.redis.processes[old], &self.redis.processes[new]);
        let whole = p.role == Role::Master && q.role == Role::Replica && q.follows.as_ref() == Some(from);
        if whole && p.history() == q.history() && p.offset == q.offset {
            let (offset, history) = (p.offset, p.history());
            self.redis.detach(old);
            self.take_over_late(from, to, offset, history);
        }
    }

    fn take_over_late(&mut self, from: &Address, to: &Address, offset: u64, history: u64) {
        let follows = |at: &usize| {
            let q = &self.redis.processes[*at];
            q.follows.as_ref() == Some(from) && q.history() == history && q.offset == offset
        };
        match (self.redis_at(to).filter(follows), self.redis_at(from)) {
            (Some(new), old) => {
                self.redis.promote(new);
                if let Some(old) = old {
                    self.redis.follow(old, to);
                }
            }
            (None, Some(old)) => self.redis.promote(old), // It gives the role back.
            (None, None) => {}
        }
    }
}
