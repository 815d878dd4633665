//! Faults, as the dice have them: of the operator, of nodes, agents and the network, and of people. Pure.

use redisctl::model::{Leaving, NoAnswer, Probe, Role, TaskState};

use super::History;
use crate::mesos::Seen;
use crate::redis::Process;

impl History {
    pub(super) fn fault(&mut self) {
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
                        until: now,
                        watched: true,
                    });
                }
            }
            19 => self.gone(at),
            20 => {
                let from = self.now.plus_ms(self.dice.below(60_000) as u64);
                let why = *self.dice.pick(&[Leaving::Drained, Leaving::Deactivated, Leaving::Maintenance(from)]);
                self.say(|| format!("agent S{at} {why}; its updates come twice"));
                self.mesos.leave(at, why);
                self.mesos.repeat(at, self.now);
            }
            _ => self.lose_reach(at),
        }
    }

    fn kill_somebody(&mut self) {
        let living = |p: &Process| p.alive;
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
                let runs = |p: &Process| p.alive && p.listening && !p.hung;
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

    pub(super) fn crash_operator(&mut self) {
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
        if self.paused.take().is_some() || self.mesos.is_read() || self.formers.is_empty() {
            self.mesos.cut_session(0);
        }
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
        let replica = |p: &Process| p.alive && p.listening && p.role == Role::Replica;
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
}
