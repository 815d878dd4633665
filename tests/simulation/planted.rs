//! Bugs that others had, planted one at a time: the harness must find them without the operator's own
//! second opinion. Pure.

use redisctl::model::{Meaning, NoAnswer, Role, TaskState, Timestamp};
use redisctl::reconcile::action::{Action, Plan, Step, Write};
use redisctl::reconcile::draft::Observed;
use redisctl::reconcile::world::{Instance, Node};
use redisctl::store::Txn;

/// A bug. Where somebody had it is said in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A master that does not answer once is dead.
    SilenceIsDeath,
    /// What Mesos does not see is dead, and may be replaced.
    UnreachableIsDead,
    /// Whoever is in sight is enough.
    NoQuorum,
    /// A master that hangs is replaced at once.
    NoFence,
    /// What a node answered once is believed for ever.
    OldAnswersAreBelieved,
    /// An empty node is as good as any (bitnami, spotahome 95).
    EmptyIsPromoted,
    /// A dead replica is forgotten at once.
    DeadReplicasAreForgotten,
    /// A failure is taken for the wish to have fewer nodes (OT 1167).
    FailureScalesDown,
    /// The first replica is promoted, whatever it has (mr-redis).
    TheFirstIsPromoted,
    /// Tasks are launched without a record.
    LaunchesAreNotRecorded,
    /// Tasks are killed without a record.
    KillsAreNotRecorded,
    /// A master that returns stays one (OT 1158, spotahome 600).
    OldMastersStay,
    /// Replicas are pointed to another than the new master.
    WrongMasterIsFollowed,
    /// Replicas are never pointed anywhere (OT 1635).
    NobodyIsPointed,
    /// Deaths are acknowledged and not recorded.
    DeathsAreNotRecorded,
    /// A promotion does not begin an epoch.
    EpochsStay,
    /// Ordinals are used again.
    OrdinalsAreUsedAgain,
    /// A roll begins with the master (valkey-operator 208).
    TheMasterIsRolledFirst,
    /// A deleted instance is forgotten while it runs.
    DeletionForgetsTheLiving,
    /// A promotion is not recorded.
    PromotionsAreNotRecorded,
    /// A switchover does not wait for the new master (OT 1855).
    SwitchoversDoNotWait,
    /// What could not be recorded is done all the same.
    FailedCommitsAreIgnored,
    /// Writes are not guarded: a leader that is none any more still writes.
    WritesAreNotGuarded,
    /// A node is told to follow before it is recorded that it may confirm writes.
    NobodyJoins,
    /// What a former leader has in hand still reaches nodes to which a later one has spoken.
    FormersAreNotFenced,
}

impl Bug {
    /// A history in which it was found before: tried first.
    pub fn known_seed(self) -> u64 {
        match self {
            Bug::UnreachableIsDead => 165,
            Bug::OldAnswersAreBelieved => 463,
            Bug::OldMastersStay => 499,
            Bug::DeletionForgetsTheLiving => 439,
            Bug::WritesAreNotGuarded => 535,
            _ => 0,
        }
    }
}

pub const ALL: [Bug; 25] = [
    Bug::SilenceIsDeath,
    Bug::UnreachableIsDead,
    Bug::NoQuorum,
    Bug::NoFence,
    Bug::OldAnswersAreBelieved,
    Bug::EmptyIsPromoted,
    Bug::DeadReplicasAreForgotten,
    Bug::FailureScalesDown,
    Bug::TheFirstIsPromoted,
    Bug::LaunchesAreNotRecorded,
    Bug::KillsAreNotRecorded,
    Bug::OldMastersStay,
    Bug::WrongMasterIsFollowed,
    Bug::NobodyIsPointed,
    Bug::DeathsAreNotRecorded,
    Bug::EpochsStay,
    Bug::OrdinalsAreUsedAgain,
    Bug::TheMasterIsRolledFirst,
    Bug::DeletionForgetsTheLiving,
    Bug::PromotionsAreNotRecorded,
    Bug::SwitchoversDoNotWait,
    Bug::FailedCommitsAreIgnored,
    Bug::WritesAreNotGuarded,
    Bug::NobodyJoins,
    Bug::FormersAreNotFenced,
];

/// Those that one fault brings to light in a small world.
pub const SMALL: [Bug; 14] = [
    Bug::SilenceIsDeath,
    Bug::NoQuorum,
    Bug::NoFence,
    Bug::FailureScalesDown,
    Bug::LaunchesAreNotRecorded,
    Bug::KillsAreNotRecorded,
    Bug::OldMastersStay,
    Bug::WrongMasterIsFollowed,
    Bug::NobodyIsPointed,
    Bug::DeathsAreNotRecorded,
    Bug::EpochsStay,
    Bug::PromotionsAreNotRecorded,
    Bug::SwitchoversDoNotWait,
    Bug::NobodyJoins,
];

fn master(instance: &Instance) -> Option<u32> {
    instance.record.as_ref()?.value.master
}

impl Bug {
    /// What the planner believes to see.
    pub fn blinded(self, instance: &Instance) -> Instance {
        let mut blinded = instance.clone();
        self.blind(&mut blinded);
        blinded
    }

    fn blind(self, instance: &mut Instance) {
        let (master, record) = (master(instance), instance.record.as_mut().map(|record| &mut record.value));
        match self {
            Bug::SilenceIsDeath => {
                let silent = master.and_then(|m| instance.nodes.get_mut(&m)).filter(|node| node.silent.is_some());
                if let Some(node) = silent {
                    (node.silent, node.fails) = (Some((NoAnswer::Refused, Timestamp(0))), 9);
                    let others = instance.nodes.values_mut().filter_map(|node| node.answer.as_mut());
                    others.for_each(|(answer, _)| answer.link_up = false);
                }
            }
            Bug::UnreachableIsDead => {
                let unsure =
                    |node: &&mut Node| node.update.as_ref().is_some_and(|u| u.state.meaning() == Meaning::Unsure);
                for node in instance.nodes.values_mut().filter(unsure) {
                    node.update.as_mut().expect("seen above").state = TaskState::Failed;
                }
            }
            Bug::NoQuorum => {
                if let Some(record) = record {
                    record.confirmations = 0;
                }
            }
            Bug::NoFence => {
                instance.nodes.values_mut().for_each(|node| node.detached_since = Some(Timestamp(1)));
            }
            Bug::OldAnswersAreBelieved => {
                let known = instance.nodes.values_mut().filter(|node| node.answer.is_some());
                known.for_each(|node| node.silent = None);
            }
            Bug::EmptyIsPromoted => {
                let replid = record.and_then(|record| record.replid.clone()).unwrap_or_default();
                let answers = instance.nodes.values_mut().filter_map(|node| node.answer.as_mut());
                for (answer, _) in answers.filter(|(answer, _)| answer.is_blank() && answer.role == Role::Replica) {
                    (answer.keys, answer.offset, answer.replid) = (9, 1_000_000, replid.clone());
                }
            }
            Bug::DeadReplicasAreForgotten => {
                instance.nodes.retain(|ordinal, node| Some(*ordinal) == master || !node.record.value.task.is_dead());
            }
            Bug::FailureScalesDown => {
                let dead = instance.nodes.values().filter(|node| {
                    node.update.as_ref().is_some_and(|u| u.state.meaning() == Meaning::Dead)
                        && node.record.value.stop.is_none()
                });
                let dead = u32::try_from(dead.count()).expect("few");
                if let Some(Ok(parsed)) = instance.document.as_mut().map(|document| &mut document.parsed) {
                    parsed.spec.replicas = parsed.spec.replicas.saturating_sub(dead);
                }
                if let Some(record) = instance.record.as_mut() {
                    record.value.spec.replicas = record.value.spec.replicas.saturating_sub(dead);
                }
            }
            _ => {}
        }
    }

    /// What becomes of a plan.
    pub fn spoil(self, o: &Observed, plan: &mut Plan) {
        let before = o.instance.record.as_ref().map(|record| &record.value);
        let promotes = |plan: &Plan| plan.steps.iter().any(|step| matches!(step.action, Action::Promote { .. }));
        match self {
            Bug::TheFirstIsPromoted if promotes(plan) => promote_another(o, plan),
            Bug::LaunchesAreNotRecorded => {
                let launched: Vec<String> = plan.launches().map(|launch| launch.task_id.clone()).collect();
                plan.writes.retain(|write| !matches!(write, Write::Node(node) if launched.contains(&node.task_id)));
            }
            Bug::KillsAreNotRecorded => plan.writes.iter_mut().for_each(|write| {
                if let Write::Node(node) = write {
                    node.stop = None;
                }
            }),
            Bug::OldMastersStay => {
                plan.steps.retain(|step| !matches!(step.action, Action::Detach { cut_clients: true, .. }));
            }
            Bug::WrongMasterIsFollowed => plan.steps.iter_mut().for_each(|step| {
                if let Action::Follow { master, node, .. } = &mut step.action {
                    let other =
                        o.instance.nodes.values().map(|n| &n.record.value.address).find(|a| *a != master && *a != node);
                    if let Some(other) = other.cloned() {
                        *master = other;
                    }
                }
            }),
            Bug::NobodyIsPointed => plan.steps.retain(|step| step.action.kind() != "follow"),
            Bug::DeathsAreNotRecorded => {
                plan.writes.retain(|write| !matches!(write, Write::Node(node) if node.task.is_dead()));
            }
            Bug::EpochsStay => plan.writes.iter_mut().for_each(|write| {
                if let (Write::State(record), Some(before)) = (write, before) {
                    record.epoch = before.epoch;
                }
            }),
            Bug::OrdinalsAreUsedAgain => plan.writes.iter_mut().for_each(|write| {
                if let (Write::State(record), Some(before)) = (write, before) {
                    record.next_ordinal = before.next_ordinal.max(1);
                }
            }),
            Bug::TheMasterIsRolledFirst if before.is_some_and(|record| record.rolling.is_some()) => {
                let master = before.and_then(|record| o.instance.nodes.get(&record.master?));
                if let Some(node) = master {
                    let action = Action::Kill { task_id: node.record.value.task_id.clone() };
                    plan.steps.push(Step { action, why: "it is rolled".to_string() });
                }
            }
            Bug::DeletionForgetsTheLiving if before.is_some_and(|record| record.deleting) => {
                plan.writes = vec![Write::Forget { document: o.instance.document.as_ref().map(|d| d.revision) }];
                plan.steps.clear();
            }
            Bug::PromotionsAreNotRecorded if promotes(plan) => {
                plan.writes.retain(|write| !matches!(write, Write::State(_)));
            }
            Bug::SwitchoversDoNotWait => plan.steps.iter_mut().for_each(|step| {
                if let Action::SwitchOver { task_id, node, .. } = &step.action {
                    step.action = Action::Promote { task_id: task_id.clone(), node: node.clone(), data: None };
                }
            }),
            Bug::NobodyJoins => plan.writes.iter_mut().for_each(|write| {
                if let Write::Node(node) = write {
                    node.joined = false;
                }
            }),
            _ => {}
        }
    }

    /// What becomes of a transaction.
    pub fn unguard(self, txn: &mut Txn) {
        if self == Bug::WritesAreNotGuarded {
            txn.guards.clear();
        }
    }
}

/// The one that has the least.
fn promote_another(o: &Observed, plan: &mut Plan) {
    let old = o.instance.record.as_ref().and_then(|record| record.value.master);
    let answers = o.instance.nodes.values().filter(|node| Some(node.record.value.ordinal) != old);
    let least = answers.filter_map(|node| Some((node.answer()?.offset, &node.record.value))).min_by_key(|(at, _)| *at);
    let Some((_, node)) = least else { return };
    for write in &mut plan.writes {
        if let Write::State(record) = write {
            record.master = Some(node.ordinal);
        }
    }
    plan.steps.retain(|step| step.action.kind() != "follow");
    for step in &mut plan.steps {
        if let Action::Promote { task_id, node: at, data } = &mut step.action {
            (*task_id, *at, *data) = (node.task_id.clone(), node.address.clone(), None);
        }
    }
}
