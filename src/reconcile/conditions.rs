//! What is said of an instance by conditions, as Kubernetes has them. Pure.

use crate::failover::{self, Master};
use crate::model::{Address, Answer, NodeRecord, Role};
use crate::plain::{TOLD_CHARS_MAX, plain};
use crate::reconcile::draft::Draft;
use crate::reconcile::members::counts;
use crate::reconcile::replication::{missing_secret, refusals};
use crate::reconcile::rolling::outdated;
use crate::reconcile::tries::{CUT_FOREIGN, WATCH_FOREIGN_MS};
use crate::spec;
use crate::status::{Condition, ConditionStatus, ConditionType, NodeState, NodeStatus};

/// Reasons of `MasterAvailable`: it answers.
pub const AVAILABLE: &str = "Available";
/// It is silent for longer than is waited for.
pub const GONE: &str = "Gone";

struct Verdict(ConditionType, ConditionStatus, &'static str, String);

/// What is true of the instance, one by one.
pub fn conditions(d: &Draft, master: &Master, nodes: &[NodeStatus]) -> Vec<Condition> {
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
    verdicts.extend(memory_full(d));
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
        Master::Available if is_full(d) => {
            let why = format!("{name} answers, and takes no more connections: end some, or raise maxclients");
            return Verdict(ConditionType::MasterAvailable, ConditionStatus::False, "Full", why);
        }
        Master::Available => (ConditionStatus::True, AVAILABLE),
        Master::Unplaced => (ConditionStatus::False, "NotPlaced"),
        Master::Starting => (ConditionStatus::False, "Starting"),
        Master::Loading => (ConditionStatus::False, "Loading"),
        Master::Demoted => (ConditionStatus::False, "RoleChanged"),
        Master::Silent(..) => (ConditionStatus::Unknown, "NotAnswering"),
        Master::Gone(..) => (ConditionStatus::Unknown, GONE),
        Master::Dead(_) => (ConditionStatus::False, "Dead"),
    };
    let message = d.no_candidate.as_ref().map(|why| format!("; nobody can take its place: {why}"));
    Verdict(ConditionType::MasterAvailable, status, reason, format!("{name} {master}{}", message.unwrap_or_default()))
}

fn is_full(d: &Draft) -> bool {
    d.master().and_then(|node| d.answer(node.ordinal)).is_some_and(Answer::is_full)
}

/// A master that is told to save and cannot refuses writes, unless the user has told it not to mind.
pub fn refuses_writes(d: &Draft) -> bool {
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
    let others = format!(
        ". Seen: {}. `redisctl failover {name} --force --to NODE` makes a node the master and loses what others have more",
        data.join(", ")
    );
    let message = format!("{why}{}", if data.is_empty() { "" } else { &others });
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

/// Memory is used up where keys are not evicted: the master refuses what makes more, and a replica would as the master.
fn memory_full(d: &Draft) -> Option<Verdict> {
    let evicts = |node: &NodeRecord| node.config.get("maxmemory-policy").is_some_and(|policy| policy != "noeviction");
    let full = |node: &&NodeRecord| {
        let answer = d.answer(node.ordinal).filter(|_| node.stop.is_none() && !node.task.is_dead());
        answer.is_some_and(Answer::is_out_of_memory) && !evicts(node)
    };
    let full: Vec<&NodeRecord> = d.nodes.values().filter(full).collect();
    let names = full.iter().map(|node| node.name()).collect::<Vec<_>>().join(", ");
    let refuses = if full.iter().any(|node| d.is_master(node.ordinal)) {
        "the master refuses writes (OOM)"
    } else {
        "as the master it would refuse writes (OOM)"
    };
    let crowded = full.iter().any(|node| d.answer(node.ordinal).is_some_and(Answer::is_crowded));
    let crowd = if crowded { ". Connections take more than an eighth of it" } else { "" };
    let message = format!(
        "{names}: all memory is used, and {refuses}{crowd}. Delete keys, `redisctl scale {} --memory` more, or declare a \
         maxmemory-policy that evicts",
        d.o.name,
    );
    (!full.is_empty()).then_some(Verdict(ConditionType::MemoryFull, ConditionStatus::True, "MemoryFull", message))
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
    if no_node(d) {
        return Verdict(ConditionType::UpToDate, ConditionStatus::Unknown, NO_NODE, "no node runs".to_string());
    }
    if stale.is_empty() {
        let message = "every node runs as declared".to_string();
        return Verdict(ConditionType::UpToDate, ConditionStatus::True, "UpToDate", message);
    }
    let paused = d.spec().is_some_and(|spec| spec.paused);
    let reason = if paused { "Paused" } else { "Rolling" };
    Verdict(ConditionType::UpToDate, ConditionStatus::False, reason, format!("to be replaced: {}", stale.join("; ")))
}

/// The reason of conditions that are of nodes, when there is none.
const NO_NODE: &str = "NoNode";

fn no_node(d: &Draft) -> bool {
    !d.nodes.values().any(|node| counts(d, node) && !node.task.is_dead())
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
    let cut = d.master().and_then(|node| d.seen(node.ordinal)).and_then(|seen| seen.tries.last(CUT_FOREIGN));
    let stays = cut.is_some_and(|at| d.o.now.since_ms(at) < WATCH_FOREIGN_MS);
    if !stays && foreign.iter().all(|address| known(&address)) {
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
    if no_node(d) {
        return Verdict(ConditionType::ConfigApplied, ConditionStatus::Unknown, NO_NODE, "no node runs".to_string());
    }
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
