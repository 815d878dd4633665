//! What is said of an instance after its pass is planned: its status. Pure.

use crate::failover::{self, Master};
use crate::model::{Address, NoAnswer, NodeRecord, Role, TaskRecord};
use crate::plain::{TOLD_CHARS_MAX, plain};
use crate::reconcile::action::Plan;
use crate::reconcile::draft::Draft;
use crate::reconcile::members::counts;
use crate::reconcile::replication::{missing_secret, refusals};
use crate::reconcile::rolling::outdated;
use crate::reconcile::told;
use crate::spec::{self, Period};
use crate::status::{
    Condition, ConditionStatus, ConditionType, FailoverStatus, InstanceStatus, NodeState, NodeStatus, Phase,
};

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
        master: d.master().filter(|_| initialized && published).map(|node| node.address.to_string()),
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
            (_, Some((why @ (NoAnswer::Stranger | NoAnswer::Unproved), _))) => (NodeState::Starting, why.to_string()),
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

// ---------------------------------------------------------------------------------------------
// Conditions

struct Verdict(ConditionType, ConditionStatus, &'static str, String);

fn conditions(d: &Draft, master: &Master, nodes: &[NodeStatus]) -> Vec<Condition> {
    let mut verdicts = vec![
        spec_valid(d),
        placed(d, nodes),
        master_available(d, master),
        replicas_in_sync(d, nodes),
        up_to_date(d),
        config_applied(d),
    ];
    let failing = verdicts.iter().find(|verdict| verdict.1 != ConditionStatus::True);
    let ready = match failing {
        None => Verdict(ConditionType::Ready, ConditionStatus::True, "Ready", "all as declared".to_string()),
        Some(Verdict(kind, _, reason, message)) => {
            Verdict(ConditionType::Ready, ConditionStatus::False, reason, format!("{kind}: {message}"))
        }
    };
    verdicts.push(ready);
    verdicts.extend(no_safe_candidate(d));
    verdicts.extend(gone_lives(d));
    verdicts.extend(failover::chain(d).map(|(hung, more)| {
        let message = failover::chain_message(hung, more);
        Verdict(ConditionType::FailoverChain, ConditionStatus::True, "FailoverChain", message)
    }));
    let before = d.o.instance.status.as_ref().map(|status| &status.value);
    verdicts
        .into_iter()
        .map(|Verdict(kind, status, reason, message)| {
            let known = before.and_then(|status| status.condition(kind)).filter(|known| known.status == status);
            let last_transition_time = known.map_or(d.o.now, |known| known.last_transition_time);
            let message = plain(&message, TOLD_CHARS_MAX);
            Condition { kind, status, reason: reason.to_string(), message, last_transition_time }
        })
        .collect()
}

fn spec_valid(d: &Draft) -> Verdict {
    if let Some(why) = &d.invalid {
        return Verdict(ConditionType::SpecValid, ConditionStatus::False, "Invalid", why.clone());
    }
    let revision = d.record.as_ref().map_or(0, |record| record.spec_revision);
    Verdict(ConditionType::SpecValid, ConditionStatus::True, "Valid", format!("revision {revision} is in force"))
}

fn placed(d: &Draft, nodes: &[NodeStatus]) -> Verdict {
    let want = d.spec().map_or(0, |spec| spec.nodes() as usize);
    let have = nodes.iter().filter(|node| !matches!(node.state, NodeState::Dead | NodeState::Stopping)).count();
    if have >= want && want > 0 {
        return Verdict(
            ConditionType::Placed,
            ConditionStatus::True,
            "Placed",
            format!("{want} of {want} nodes have a place"),
        );
    }
    let why = d
        .unplaced
        .clone()
        .or_else(|| d.waiting.first().cloned())
        .unwrap_or_else(|| format!("{have} of {want} nodes have a place"));
    let reason = if d.unplaced.is_some() { "NoPlace" } else { "Waiting" };
    Verdict(ConditionType::Placed, ConditionStatus::False, reason, why)
}

fn master_available(d: &Draft, master: &Master) -> Verdict {
    let name = d.master().map_or_else(|| "the master".to_string(), NodeRecord::name);
    let (status, reason) = match master {
        Master::Available if refuses_writes(d) => {
            let why = format!(
                "{name} answers, and refuses writes, for it cannot write to its disk; `redisctl failover {}` makes another the master",
                d.o.name
            );
            return Verdict(ConditionType::MasterAvailable, ConditionStatus::False, "WritesRefused", why);
        }
        Master::Available => (ConditionStatus::True, "Available"),
        Master::Unplaced => (ConditionStatus::False, "NotPlaced"),
        Master::Starting => (ConditionStatus::False, "Starting"),
        Master::Loading => (ConditionStatus::False, "Loading"),
        Master::Demoted => (ConditionStatus::False, "RoleChanged"),
        Master::Silent(..) => (ConditionStatus::Unknown, "NotAnswering"),
        Master::Gone(..) => (ConditionStatus::Unknown, "Gone"),
        Master::Dead(_) => (ConditionStatus::False, "Dead"),
    };
    let message = d.no_candidate.as_ref().map(|why| format!("; nobody can take its place: {why}"));
    Verdict(ConditionType::MasterAvailable, status, reason, format!("{name} {master}{}", message.unwrap_or_default()))
}

/// A master that is told to save and cannot refuses writes, unless the user has told it not to mind.
fn refuses_writes(d: &Draft) -> bool {
    let Some(node) = d.master().filter(|node| d.answer(node.ordinal).is_some_and(|answer| answer.disk_fails)) else {
        return false;
    };
    let setting = |key: &str| node.config.get(key).map_or("", String::as_str);
    let minds = setting("stop-writes-on-bgsave-error") != "no";
    setting("appendonly") == "yes" || (minds && !setting("save").trim_matches('"').is_empty())
}

/// The master is lost, and to promote anybody could lose what was promised.
fn no_safe_candidate(d: &Draft) -> Option<Verdict> {
    let why = d.no_candidate.as_ref()?;
    let data: Vec<String> =
        d.nodes.values().filter(|node| !d.is_master(node.ordinal)).map(|node| what_it_has(d, node)).collect();
    let name = d.o.name;
    let message = format!(
        "{why}. Seen: {}. `redisctl failover {name} --force --to NODE` makes a node the master and loses what others have more",
        data.join(", ")
    );
    Some(Verdict(ConditionType::NoSafeCandidate, ConditionStatus::True, "NoSafeCandidate", message))
}

/// Mesos calls nodes gone that answer: nobody is safe from what their clients read there.
fn gone_lives(d: &Draft) -> Option<Verdict> {
    let lives = |node: &&NodeRecord| failover::gone_and_answers(d, node).is_some();
    let name = |node: &NodeRecord| format!("{} ({} on {})", node.name(), node.address, node.hostname);
    let names: Vec<String> = d.nodes.values().filter(lives).map(name).collect();
    let message = format!(
        "Mesos calls these gone, and they answer: {}; each is made to take no writes, and its clients were cut; end its process",
        names.join(", ")
    );
    (!names.is_empty()).then_some(Verdict(
        ConditionType::GoneNodeLives,
        ConditionStatus::True,
        "GoneNodeLives",
        message,
    ))
}

fn what_it_has(d: &Draft, node: &NodeRecord) -> String {
    let name = node.name();
    match (node.task.is_dead(), d.answer(node.ordinal)) {
        (true, _) => format!("{name} (dead)"),
        (_, Some(answer)) => format!("{name} (offset {}, {} keys)", answer.offset, answer.keys),
        (_, None) => format!("{name} (does not answer)"),
    }
}

fn up_to_date(d: &Draft) -> Verdict {
    let stale = |node: &&NodeRecord| counts(d, node) && !node.task.is_dead() && !outdated(d, node).is_empty();
    let stale: Vec<String> = d
        .nodes
        .values()
        .filter(stale)
        .map(|node| format!("{}: {}", node.name(), outdated(d, node).join(", ")))
        .collect();
    if let Some(why) = missing_secret(d) {
        return Verdict(ConditionType::UpToDate, ConditionStatus::False, "SecretMissing", why);
    }
    if stale.is_empty() {
        let message = "every node runs as declared".to_string();
        return Verdict(ConditionType::UpToDate, ConditionStatus::True, "UpToDate", message);
    }
    let paused = d.spec().is_some_and(|spec| spec.paused);
    let reason = if paused { "Paused" } else { "Rolling" };
    Verdict(ConditionType::UpToDate, ConditionStatus::False, reason, format!("to be replaced: {}", stale.join("; ")))
}

/// Of so many the addresses are told.
const FOREIGN_SAID_MAX: usize = 5;
/// The reason of [`foreign_replica`].
const FOREIGN_REPLICA: &str = "ForeignReplica";

/// Says who follows the master and is no node of the instance, if somebody does.
pub fn foreign_replica(d: &Draft) -> Option<String> {
    let foreign = d.o.instance.foreign_replicas();
    // A link of ours that has just been made again may be there twice, until the former one is cut.
    let known = |address: &&Address| d.o.instance.nodes.values().any(|node| node.record.value.address == **address);
    let cut = d.master().and_then(|node| d.seen(node.ordinal)).is_some_and(|seen| seen.cut_at.is_some());
    if !cut && foreign.iter().all(|address| known(&address)) {
        return None;
    }
    let names: Vec<String> = foreign.iter().take(FOREIGN_SAID_MAX).map(ToString::to_string).collect();
    (!foreign.is_empty()).then(|| {
        let (count, names) = (foreign.len(), names.join(", "));
        format!(
            "{count} that are no nodes of the instance follow the master ({names}): while they do, what WAIT confirms \
             and min-replicas-to-write demands may be on them alone; they are cut"
        )
    })
}

/// Whether that was said by the status before.
pub fn was_said(d: &Draft, why: &str) -> bool {
    let before = d.o.instance.status.as_ref().and_then(|s| s.value.condition(ConditionType::ReplicasInSync));
    before.is_some_and(|known| known.reason == FOREIGN_REPLICA && known.message == why)
}

/// Whether every node has taken the settings that are made while it runs.
fn config_applied(d: &Draft) -> Verdict {
    let mut told: Vec<String> = refusals(d).map(|(_, text)| text).collect();
    if told.is_empty() {
        let message = "no node refuses a setting".to_string();
        return Verdict(ConditionType::ConfigApplied, ConditionStatus::True, "Applied", message);
    }
    let more = d.refused.len() - told.len();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    Verdict(ConditionType::ConfigApplied, ConditionStatus::False, "Refused", told.join("; "))
}

fn replicas_in_sync(d: &Draft, nodes: &[NodeStatus]) -> Verdict {
    let want = d.spec().map_or(0, |spec| spec.replicas as usize);
    let replicas = || nodes.iter().filter(|node| node.role == Role::Replica);
    let ready = replicas().filter(|node| node.state == NodeState::Ready).count();
    // Nodes that are on their way out, or lost and already replaced, are nobody's concern.
    let behind: Vec<String> = replicas()
        .filter(|node| !matches!(node.state, NodeState::Ready | NodeState::Stopping | NodeState::Dead))
        .map(|node| format!("{} is {}", node.name, node.state))
        .collect();
    let settled = d.record.as_ref().is_some_and(|record| !record.unsettled);
    let promised = settled && failover::confirmations(d) >= d.spec().map_or(0, spec::InstanceSpec::confirmations);
    if let Some(why) = foreign_replica(d) {
        return Verdict(ConditionType::ReplicasInSync, ConditionStatus::False, FOREIGN_REPLICA, why);
    }
    if ready >= want && !promised {
        return Verdict(
            ConditionType::ReplicasInSync,
            ConditionStatus::False,
            "CatchingUp",
            format!(
                "{ready} of {want} replicas follow, link up; not enough of them have been seen to have all that the master has"
            ),
        );
    }
    if ready >= want {
        return Verdict(
            ConditionType::ReplicasInSync,
            ConditionStatus::True,
            "InSync",
            format!("{ready} of {want} replicas follow, link up"),
        );
    }
    let mut message = format!("{ready} of {want} replicas follow, link up");
    if !behind.is_empty() {
        message = format!("{message}; {}", behind.join(", "));
    }
    Verdict(ConditionType::ReplicasInSync, ConditionStatus::False, "NotInSync", message)
}
