//! The executor, as execute.rs has it, one act at a time: commits, then ACCEPTs, then steps. Pure.

use std::collections::{BTreeMap, VecDeque};

use redisctl::model::{Address, DataSet, Launch, MesosCall, NoAnswer, Role};
use redisctl::reconcile::action::{Action, Plan};
use redisctl::reconcile::execute::{Failure, Input, Work};
use redisctl::reconcile::offers::DECLINE_S;
use redisctl::reconcile::tries::Applied;
use redisctl::reconcile::world::{Done, Event, Note};

use super::{Around, Doing, Fate, Operator, Round};
use crate::dice::Dice;
use crate::planted::Bug;
use crate::store::Refused;
use redisctl::store::Txn;

const DECLINE_FAILED_S: f64 = 1.0;

impl Operator {
    /// Does the next act of a round.
    pub fn advance(&mut self, nth: usize, fate: Fate, around: &mut Around, dice: &mut Dice) {
        let mut round = self.rounds.remove(nth);
        let waiting: Vec<usize> = (0..round.works.len()).filter(|at| round.works[*at].committed.is_none()).collect();
        if !waiting.is_empty() {
            let doing = &mut round.works[*dice.pick(&waiting)];
            doing.committed = Some(self.commit(&doing.work, fate, around));
        } else if round.accepts.is_none() {
            round.accepts = Some(accepts(&round.works));
        } else if let Some((call, tasks)) = round.accepts.as_mut().and_then(VecDeque::pop_front) {
            self.send(round.subscription, call, around);
            for task_id in tasks {
                self.note(task_id, Done::Launched(true));
            }
        } else {
            let open: Vec<usize> = (0..round.works.len()).filter(|at| !round.works[*at].done).collect();
            let doing = &mut round.works[*dice.pick(&open)];
            self.step(doing, round.subscription, around, dice);
        }
        if round.works.iter().any(|doing| !doing.done) {
            self.rounds.insert(nth, round);
        }
    }

    fn note(&mut self, task_id: String, done: Done) {
        self.inputs.push_back(Input::Event(Event::Noted(Note { task_id, done })));
    }

    fn commit(&mut self, work: &Work, fate: Fate, around: &mut Around) -> Result<(), Failure> {
        if work.txn.ops.is_empty() {
            return Ok(());
        }
        let outcome = match fate {
            Fate::Answered => around.store.commit(&work.txn),
            Fate::DoneUnknown => {
                let _ = around.store.commit(&work.txn);
                return Err(Failure::Unknown("no answer, but done".to_string()));
            }
            Fate::NotDoneUnknown => return Err(Failure::Unknown("no answer, and not done".to_string())),
            Fate::LaterUnknown => {
                self.late.push(work.txn.clone());
                return Err(Failure::Unknown("no answer, but done later".to_string()));
            }
        };
        match outcome {
            Ok(revision) => {
                let status = work.plan.status.clone().filter(|_| work.plan.status_changed);
                let (name, writes) = (work.name.clone(), work.plan.writes.clone());
                self.inputs.push_back(Input::Event(Event::Committed { name, writes, status, revision }));
                Ok(())
            }
            Err(Refused::Conflict(what)) => Err(Failure::Conflict(what)),
            Err(Refused::NotLeader) => Err(Failure::NotLeader),
        }
    }

    fn step(&mut self, doing: &mut Doing, subscription: u64, around: &mut Around, dice: &mut Dice) {
        let failed = matches!(doing.committed, Some(Err(_))) && self.bug != Some(Bug::FailedCommitsAreIgnored);
        let plan = &doing.work.plan;
        let step = plan.steps.iter().filter(|s| !matches!(s.action, Action::Launch(_))).nth(doing.steps);
        let outcome = match step {
            Some(step) if !failed => {
                doing.steps += 1;
                if step.action.is_apart() && !doing.apart {
                    let plan = Plan { steps: vec![step.clone()], ..Plan::default() };
                    let work = Work { name: doing.work.name.clone(), plan, txn: Txn::default(), urgent: false };
                    let alone =
                        Doing { work, committed: Some(Ok(())), steps: 0, roles_end: false, apart: true, done: false };
                    self.rounds.push(Round { subscription, works: vec![alone], accepts: Some(VecDeque::new()) });
                    return;
                }
                let (kind, rests) = (step.action.kind(), step.action.changes_roles());
                if doing.roles_end && rests {
                    return;
                }
                let task_id = step.action.task_id().map(ToString::to_string);
                if let (Err(why), Some(task_id)) = (self.act(step.action.clone(), subscription, around, dice), task_id)
                {
                    doing.roles_end |= rests;
                    self.note(task_id, Done::Failed(kind, why));
                }
                return;
            }
            _ => doing.committed.take().expect("the round has committed all"),
        };
        doing.done = true;
        doing.committed = Some(Ok(()));
        if doing.apart {
            return;
        }
        if outcome.is_err() {
            for (task_id, kind) in doing.work.plan.apart() {
                self.inputs.push_back(Input::Event(Event::Noted(Note {
                    task_id: task_id.to_string(),
                    done: Done::Left(kind),
                })));
            }
        }
        self.inputs.push_back(Input::Done { name: doing.work.name.clone(), outcome });
    }

    fn act(&mut self, action: Action, subscription: u64, around: &mut Around, dice: &mut Dice) -> Result<(), String> {
        let unreached = || NoAnswer::Timeout.to_string();
        match action {
            Action::Launch(_) => unreachable!("launches are gathered"),
            Action::Kill { task_id } => {
                crate::judge::kill(&task_id, around);
                self.send(subscription, MesosCall::Kill { task_id: task_id.clone(), agent_id: None }, around);
                self.note(task_id, Done::Killed);
            }
            Action::Acknowledge { task_id, agent_id, uuid } => {
                let call = MesosCall::Acknowledge { task_id: task_id.clone(), agent_id, uuid: uuid.clone() };
                self.send(subscription, call, around);
                self.note(task_id, Done::Acknowledged(uuid));
            }
            Action::Follow { task_id, node, master, .. } => {
                let at = around.redis_at(&node);
                self.note(task_id.clone(), Done::Pointed);
                let at = at.ok_or_else(unreached)?;
                crate::judge::follow(&task_id, at, &master, around);
                around.redis.follow(at, &master);
            }
            Action::Kick { task_id, node, master, .. } => {
                let _ = around.redis_at(&node).map(|at| around.redis.kick(at, &master)); // It tries by itself.
                self.note(task_id, Done::Pointed);
            }
            Action::Promote { task_id, node, data } => {
                let at = around.redis_at(&node);
                self.note(task_id.clone(), Done::Pointed);
                let at = at.ok_or_else(unreached)?;
                let done = promote(at, data.as_ref(), around);
                self.note(task_id, Done::Turned(around.redis.answer(at, around.now)));
                done?;
            }
            Action::Detach { task_id, node, .. } => {
                let at = around.redis_at(&node);
                self.note(task_id.clone(), Done::Pointed);
                let at = at.ok_or_else(unreached)?;
                around.redis.detach(at);
                self.note(task_id, Done::Turned(around.redis.answer(at, around.now)));
            }
            Action::CutForeign { ref task_id, .. }
            | Action::MakeRoom { ref task_id, .. }
            | Action::EndScript { ref task_id, .. } => self.note(task_id.clone(), Done::Cut(action.kind())),
            Action::SwitchOver { from, task_id, node, epoch, .. } => {
                let (old, new) = (around.redis_at(&from), around.redis_at(&node));
                self.note(task_id.clone(), Done::Pointed);
                match switch_over(old, new, around, dice) {
                    Ok(answer) => self.note(task_id, Done::Turned(answer)),
                    Err(Switch::BackedOut(why)) => {
                        self.note(task_id, Done::SwitchFailed(epoch, why.clone()));
                        return Err(why);
                    }
                    Err(Switch::Unknown(why)) => {
                        self.switch_lost = true;
                        return Err(why);
                    }
                }
            }
            Action::Configure { task_id, node, settings } => {
                let at = around.redis_at(&node).ok_or_else(unreached)?;
                let process = &mut around.redis.processes[at];
                for (key, value) in &settings {
                    if key == "maxmemory" {
                        process.max_memory = value.parse().expect("a number of bytes");
                    }
                    process.config.insert(key.clone(), value.clone());
                }
                self.note(task_id, Done::Configured(Applied { set: settings, ..Applied::default() }));
            }
        }
        Ok(())
    }
}

fn node_address(around: &Around, at: usize) -> Address {
    around.redis.processes[at].address.clone()
}

pub(super) enum Switch {
    BackedOut(String),
    Unknown(String),
}

/// As `Redis::promote` does it.
fn promote(at: usize, data: Option<&DataSet>, around: &mut Around) -> Result<(), String> {
    if data.is_some_and(|data| !data.is_in(&around.redis.answer(at, around.now))) {
        around.redis.detach(at);
        return Err("it has lost what it was chosen for".to_string());
    }
    crate::judge::promoted(at, around);
    around.redis.promote(at);
    Ok(())
}

/// As the port to Redis does it, stage by stage; the operator or the network may be lost after each.
fn switch_over(
    old: Option<usize>,
    new: Option<usize>,
    around: &mut Around,
    dice: &mut Dice,
) -> Result<redisctl::model::Answer, Switch> {
    let (Some(old), Some(new)) = (old, new) else { return Err(Switch::BackedOut("no way to it".to_string())) };
    let from = around.redis.processes[old].address.clone();
    let (p, q) = (&around.redis.processes[old], &around.redis.processes[new]);
    let follows = q.role == Role::Replica && q.follows.as_ref() == Some(&from);
    let fenced = p.role == Role::Replica && p.follows.as_ref() == Some(&from);
    let follows_new = p.role == Role::Replica && p.follows.as_ref() == Some(&q.address);
    if q.role == Role::Master && (fenced || follows_new) {
        let to = node_address(around, new);
        around.redis.follow(old, &to);
        return Ok(around.redis.answer(new, around.now)); // It was done before.
    }
    if !follows || (p.role == Role::Replica && !fenced) || p.history() != q.history() {
        return Err(Switch::BackedOut("it is not its replica".to_string()));
    }
    if p.role == Role::Master && (q.offset != p.offset || (around.cut.is_none() && dice.percent(10))) {
        return Err(Switch::BackedOut("it does not catch up".to_string()));
    }
    around.redis.detach(old);
    around.lost(0, dice)?;
    let (p, q) = (&around.redis.processes[old], &around.redis.processes[new]);
    if q.offset != p.offset {
        around.redis.promote(old);
        return Err(Switch::BackedOut("it does not catch up".to_string()));
    }
    crate::judge::promoted(new, around);
    around.redis.promote(new);
    around.lost(1, dice)?;
    let to = around.redis.processes[new].address.clone();
    around.redis.follow(old, &to);
    around.lost(2, dice)?;
    Ok(around.redis.answer(new, around.now))
}

/// One call for each agent, with the launches whose records are stored.
pub(super) fn accepts(works: &[Doing]) -> VecDeque<(MesosCall, Vec<String>)> {
    let mut agents: BTreeMap<&str, (Vec<String>, Vec<Launch>)> = BTreeMap::new();
    for doing in works {
        let plan: &Plan = &doing.work.plan;
        for claim in &plan.claims {
            let entry = agents.entry(&claim.agent_id).or_default();
            for offer_id in &claim.offer_ids {
                if !entry.0.contains(offer_id) {
                    entry.0.push(offer_id.clone());
                }
            }
        }
        if matches!(doing.committed, Some(Ok(()))) {
            for launch in plan.launches() {
                agents.entry(&launch.agent_id).or_default().1.push(launch.clone());
            }
        }
    }
    let call = |(offer_ids, launches): (Vec<String>, Vec<Launch>)| {
        let tasks = launches.iter().map(|launch| launch.task_id.clone()).collect();
        if launches.is_empty() {
            (MesosCall::Decline { offer_ids, refuse_s: DECLINE_FAILED_S }, tasks)
        } else {
            (MesosCall::Accept { offer_ids, launches, refuse_s: DECLINE_S }, tasks)
        }
    };
    agents.into_values().map(call).collect()
}
