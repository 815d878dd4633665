//! What is said of an instance after its pass is planned: its status. Pure.

use crate::failover::{self, Master};
use crate::model::{NodeRecord, Role, TaskRecord};
use crate::reconcile::action::Plan;
use crate::reconcile::conditions::{conditions, refuses_writes};
use crate::reconcile::draft::Draft;
use crate::reconcile::rolling::outdated;
use crate::reconcile::told;
use crate::spec::Period;
use crate::status::{ConditionStatus, ConditionType, FailoverStatus, InstanceStatus, NodeState, NodeStatus, Phase};

/// Why the document is not in force, as an earlier status said it.
pub fn invalid_message(status: &InstanceStatus) -> Option<&str> {
    let condition = status.condition(ConditionType::SpecValid)?;
    (condition.status == ConditionStatus::False).then_some(condition.message.as_str())
}

/// Completes the plan with the status.
pub fn finish(mut draft: Draft) -> Plan {
    if draft.ending.is_some() {
        return draft.into_plan();
    }
    let known = draft.o.instance.status.as_ref().map(|status| &status.value);
    if let Some(known) = known.filter(|_| is_blind(&draft)) {
        let status = known.clone();
        return Plan { status: Some(status), ..draft.into_plan() };
    }
    let mut status = status(&draft);
    told::tell(&mut draft, &mut status);
    let changed = known.map(InstanceStatus::without_gauges) != Some(status.without_gauges());
    let mut plan = draft.into_plan();
    plan.status = Some(status);
    plan.status_changed = changed;
    plan
}

/// A leader that has just begun has asked no node yet: what it does not know is not what is not so.
/// Until each node that runs was asked once, which takes a moment, what was said before stands.
fn is_blind(d: &Draft) -> bool {
    let asked = |ordinal: u32| d.seen(ordinal).is_none_or(|node| node.answer.is_some() || node.silent.is_some());
    let may_run = |task: &TaskRecord| matches!(task, TaskRecord::Running | TaskRecord::Unsure { .. });
    d.nodes.iter().any(|(ordinal, node)| may_run(&node.task) && !asked(*ordinal))
}

fn status(d: &Draft) -> InstanceStatus {
    let master = failover::judge(d);
    let nodes: Vec<NodeStatus> = d.nodes.values().map(|node| node_status(d, node, &master)).collect();
    let conditions = conditions(d, &master, &nodes);
    let before = d.o.instance.status.as_ref().map(|status| &status.value);
    let ready = conditions.iter().all(|condition| condition.status == ConditionStatus::True);
    let settled = ready && d.waiting.is_empty() && d.steps.is_empty() && d.stalled.is_empty();
    let spec_revision = d.record.as_ref().map_or(0, |record| record.spec_revision);
    let observed = if settled { spec_revision } else { before.map_or(0, |status| status.observed_revision) };
    let initialized = d.record.as_ref().is_some_and(|record| record.initialized);
    let epoch = d.record.as_ref().map_or(0, |record| record.epoch);
    let published =
        master == Master::Available || before.is_some_and(|status| status.epoch == epoch && status.master.is_some());
    InstanceStatus {
        phase: phase(d, &master, ready, observed == spec_revision),
        observed_revision: observed,
        epoch,
        // Clients are not sent to a master that was never seen ready: a write there is not promised.
        master: d.master().filter(|_| initialized && published && !d.held).map(|node| node.address.to_string()),
        failover: d.spec().map(|spec| FailoverStatus {
            durability: spec.durability(),
            confirmations: failover::confirmations(d),
            worst_case: Period(failover::worst_case_ms(spec) + failover::chain(d).map_or(0, |(_, more)| more)),
            window: failover::window_ms(spec).map(Period),
            unreplicated: nodes.iter().filter(|node| node.state == NodeState::Ready).filter_map(|node| node.lag).min(),
        }),
        nodes,
        waiting: d.waiting.clone(),
        conditions,
    }
}

fn phase(d: &Draft, master: &Master, ready: bool, acted_upon: bool) -> Phase {
    let before = d.o.instance.status.as_ref().map(|status| status.value.phase);
    let fresh = matches!(before, None | Some(Phase::Pending | Phase::Creating));
    if d.record.as_ref().is_some_and(|record| record.deleting) {
        return Phase::Deleting;
    }
    if d.held {
        return Phase::DataLost;
    }
    match master {
        _ if ready => Phase::Ready,
        Master::Unplaced if d.nodes.is_empty() && fresh => Phase::Pending,
        Master::Unplaced | Master::Starting | Master::Available | Master::Loading if fresh => Phase::Creating,
        Master::Available if refuses_writes(d) => Phase::Unavailable,
        // Nothing is under way for it.
        Master::Available if acted_upon || !d.refused.is_empty() => Phase::Degraded,
        Master::Available => Phase::Updating,
        _ => Phase::Unavailable,
    }
}

// ---------------------------------------------------------------------------------------------
// Nodes

fn node_status(d: &Draft, node: &NodeRecord, master: &Master) -> NodeStatus {
    let is_master = d.is_master(node.ordinal);
    let answer = d.answer(node.ordinal);
    let (state, mut message) = node_state(d, node, master);
    let pending = outdated(d, node);
    if !pending.is_empty() && message.is_empty() && !node.task.is_dead() {
        message = format!("to be replaced: {}", pending.join(", "));
    }
    if let (TaskRecord::Unsure { since, .. }, true, true) = (&node.task, answer.is_some(), message.is_empty()) {
        message = format!("its agent is out of Mesos' sight since {since}: it answers, and is left where it is");
    }
    let last = d.seen(node.ordinal).and_then(|seen| seen.answer.as_ref()).map(|(answer, _)| answer);
    let master_offset = d.record.as_ref().and_then(|r| r.master).and_then(|m| d.answer(m)).map(|a| a.offset);
    let lag = match (is_master, answer, master_offset) {
        (false, Some(answer), Some(offset)) => Some(offset.saturating_sub(answer.offset)),
        _ => None,
    };
    let spread_by = d.spec().and_then(|spec| spec.placement.spread_by.as_ref());
    NodeStatus {
        name: node.name(),
        task_id: node.task_id.clone(),
        agent: node.agent_id.clone(),
        hostname: node.hostname.clone(),
        domain: spread_by.and_then(|key| node.attributes.get(key)).cloned(),
        address: node.address.to_string(),
        role: if is_master { Role::Master } else { Role::Replica },
        state,
        message,
        link: answer.filter(|_| !is_master).map(|a| if a.link_up { "up" } else { "down" }.to_string()),
        offset: last.map(|answer| answer.offset),
        lag,
        used_memory: last.map(|answer| answer.used_memory),
    }
}

fn node_state(d: &Draft, node: &NodeRecord, master: &Master) -> (NodeState, String) {
    let quiet = |state| (state, String::new());
    if let TaskRecord::Dead { why, .. } = &node.task {
        let told = match (failover::looked_for_until(d, node), failover::gone_and_answers(d, node)) {
            (_, Some(_)) => format!("{why}; but it answers, and is fenced: end its process on {}", node.hostname),
            (Some(until), None) => format!("{why}; its process has not been seen to end: looked for until {until}"),
            (None, None) => why.clone(),
        };
        return (NodeState::Dead, told);
    }
    if let Some(why) = &node.stop {
        let message = match &node.task {
            TaskRecord::Unsure { since, .. } => {
                format!("{why}; out of Mesos' sight since {since}, to be killed when it comes back")
            }
            _ => why.clone(),
        };
        return (NodeState::Stopping, message);
    }
    let Some(answer) = d.answer(node.ordinal) else {
        return match (&node.task, d.silence(node.ordinal)) {
            (TaskRecord::Unsure { since, .. }, _) => {
                (NodeState::Unreachable, format!("out of Mesos' sight since {since}"))
            }
            (_, Some((why, _))) if why.is_of_another() => (NodeState::Starting, why.to_string()),
            (TaskRecord::Launching, _) => quiet(NodeState::Launching),
            (_, Some((why, since))) if d.seen(node.ordinal).is_some_and(|seen| seen.answer.is_some()) => {
                (NodeState::NotAnswering, format!("no answer since {since}: {why}"))
            }
            _ => quiet(NodeState::Starting),
        };
    };
    if answer.loading {
        return (NodeState::Starting, "loads its data set".to_string());
    }
    let is_master = d.is_master(node.ordinal);
    let follows_master = answer.role == Role::Replica && answer.follows.as_ref() == d.master().map(|m| &m.address);
    match (is_master, answer.role) {
        (true, Role::Master) => quiet(NodeState::Ready),
        (true, Role::Replica) => (NodeState::Syncing, format!("the master {master}")),
        (false, Role::Master) => (NodeState::Syncing, "answers as a master, but is recorded as a replica".to_string()),
        (false, Role::Replica) if answer.follows.as_ref() == Some(&node.address) => {
            (NodeState::Syncing, "follows nobody".to_string())
        }
        (false, Role::Replica) if !follows_master => {
            (NodeState::Syncing, "follows another than the recorded master".to_string())
        }
        (false, Role::Replica) if answer.link_up && !answer.syncing => quiet(NodeState::Ready),
        (false, Role::Replica) if answer.syncing => (NodeState::Syncing, "receives a full copy".to_string()),
        (false, Role::Replica) => (NodeState::Syncing, "the link to the master is down".to_string()),
    }
}
