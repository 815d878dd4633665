//! News of tasks become records: what is known is settled before anything is decided. Pure.

use std::sync::Arc;

use crate::model::{Address, EventKind, LastDeath, Meaning, TaskRecord, TaskState, TaskUpdate, parse_task_id};
use crate::reconcile::action::Action;
use crate::reconcile::draft::Draft;
use crate::reconcile::{launch, leaving};

/// A node that lived this long before it died is no crash loop.
const STABLE_MS: u64 = 30_000;

/// Folds the newest update of each node into its record, and acknowledges what is recorded by then.
pub fn settle_tasks(d: &mut Draft) {
    let ordinals: Vec<u32> = d.nodes.keys().copied().collect();
    for ordinal in ordinals {
        let Some(seen) = d.seen(ordinal) else { continue };
        if let Some(update) = &seen.update {
            settle_task(d, ordinal, update);
        }
        for update in &seen.unacked {
            if let (Some(uuid), Some(agent_id)) = (&update.uuid, &update.agent_id) {
                let (task_id, agent_id, uuid) = (update.task_id.clone(), agent_id.clone(), uuid.clone());
                d.step(Action::Acknowledge { task_id, agent_id, uuid }, format!("{} is recorded", update.state));
            }
        }
        if !seen.configured.is_empty() {
            let node = d.nodes.get_mut(&ordinal).expect("listed above");
            let applied = seen.configured.iter().cloned();
            let (owned, config): (Vec<_>, Vec<_>) = applied.partition(|(key, _)| launch::is_owned(key));
            Arc::make_mut(&mut node.owned).extend(owned);
            node.config.extend(config);
        }
    }
}

/// Why a node died by itself, as its last words say: one in each pass.
pub fn tell_last_words(d: &mut Draft) {
    let Some(words) = d.o.instance.last_words.first() else { return };
    let Some((_, ordinal)) = parse_task_id(&words.task_id) else { return };
    if d.record.as_ref().is_none_or(|record| record.deleting) {
        return;
    }
    let (node, cause, why) = (d.node_name(ordinal), words.cause(), words.told());
    let address = d.nodes.get(&ordinal).map(|node| node.address.clone());
    let (task_id, agent_id, at) = (words.task_id.clone(), words.agent_id.clone(), d.o.now);
    d.event(EventKind::Warning, cause.word(), node.clone(), why.clone());
    if let Some(record) = d.record.as_mut() {
        record.last_death = Some(LastDeath { task_id, node, address, agent_id, cause, why, at });
    }
}

fn settle_task(d: &mut Draft, ordinal: u32, update: &TaskUpdate) {
    let now = d.o.now;
    let answered = d.seen(ordinal).is_some_and(|node| node.answer.is_some());
    let name = d.node_name(ordinal);
    let is_master = d.is_master(ordinal);
    let ran = d.nodes[&ordinal].task.ran() || answered;
    // Mesos says so of a task as soon as it begins to kill it, when its agent is given up after the drain.
    let dying = update.state == TaskState::GoneByOperator
        && update.reason.as_deref() == Some(leaving::DRAINING)
        && d.answer(ordinal).is_some();
    let meaning = if dying { Meaning::Stopping } else { update.state.meaning() };
    let node = d.nodes.get_mut(&ordinal).expect("the caller lists the nodes");
    match meaning {
        Meaning::Starting => {
            if matches!(node.task, TaskRecord::Unsure { ran: false, .. }) {
                node.task = TaskRecord::Launching;
            }
        }
        Meaning::Running => {
            // Nobody has taken the place of the recorded master: it is taken back, with its data.
            if node.task.is_dead() && !is_master {
                node.stop = Some("it came back after it was declared dead".to_string());
            }
            if node.task != TaskRecord::Running {
                let back = !matches!(node.task, TaskRecord::Launching);
                node.task = TaskRecord::Running;
                let (reason, message) = if back {
                    ("NodeReturned", "Mesos sees it running again")
                } else {
                    ("NodeRunning", "its task runs")
                };
                d.event(EventKind::Normal, reason, name, message.to_string());
            }
        }
        Meaning::Stopping => {}
        Meaning::Unsure => {
            if !matches!(node.task, TaskRecord::Unsure { .. } | TaskRecord::Dead { .. }) {
                node.task = TaskRecord::Unsure { since: now, ran };
                let message = format!("{}: {}; it may still run", update.state, update.message);
                d.event(EventKind::Warning, "NodeUnreachable", name, message);
            }
        }
        Meaning::Dead => settle_death(d, ordinal, update, ran),
    }
}

fn settle_death(d: &mut Draft, ordinal: u32, update: &TaskUpdate, ran: bool) {
    let now = d.o.now;
    let name = d.node_name(ordinal);
    let node = d.nodes.get_mut(&ordinal).expect("the caller lists the nodes");
    if node.task.is_dead() {
        return;
    }
    // The answer to a launch, not to the task: when the task has run, something sent it twice, and
    // it may run on.
    if ran && matches!(update.state, TaskState::Error | TaskState::Dropped) {
        d.wait(format!("{name}: Mesos answers {} to a task that has run; asking again", update.state));
        return;
    }
    let reason = update.reason.as_deref().map(|r| format!(" {r}")).unwrap_or_default();
    let why = format!("{}{reason}: {}", update.state, update.message);
    node.task = TaskRecord::Dead { state: update.state, why: why.clone(), at: now, ran };
    let (stopped, lived_ms) = (node.stop.is_some(), now.since_ms(node.launched_at));
    if stopped {
        d.event(EventKind::Normal, "NodeStopped", name, why);
        return;
    }
    d.event(EventKind::Warning, "NodeDied", name.clone(), why);
    let occupied = occupied(d, ordinal);
    if let Some(address) = &occupied {
        let message = format!("another process has its port {address}, and is left alone: the next node gets another");
        d.event(EventKind::Warning, "PortTaken", name, message);
    }
    // An offer that went away under us is our latency, a drain somebody's wish, a taken port the agent's fault: no
    // backoff.
    let ours = occupied.is_some()
        || matches!(
            update.reason.as_deref(),
            Some("REASON_INVALID_OFFERS" | "REASON_RECONCILIATION" | leaving::DRAINING)
        );
    if let Some(record) = d.record.as_mut().filter(|_| !ours) {
        record.failures = if lived_ms >= STABLE_MS { 1 } else { record.failures.saturating_add(1) };
        record.last_failure = Some(now);
    }
}

/// The address of a node that never answered, where somebody else did.
fn occupied(d: &Draft, ordinal: u32) -> Option<Address> {
    let seen = d.seen(ordinal).filter(|node| node.answer.is_none())?;
    let taken = seen.silent.is_some_and(|(why, _)| why.is_of_another());
    taken.then(|| seen.record.value.address.clone())
}
