//! The planner: one instance at one moment in, what to do and what to wait for out. Pure.
//!
//! [`plan_instance`] is a fixed list of steps, each of which changes the draft of a plan. Their
//! order is the order of safety: what is known is settled first; an instance that goes away is
//! taken down before anything else is considered; then lost data, roles, configuration; and only
//! then are nodes removed and added. No other place decides whether to act.

use crate::failover::{self, Master, proved_empty};
use crate::model::{
    Answer, EventKind, InstanceRecord, Meaning, NodeRecord, RequestKind, Role, TaskRecord, TaskState, TaskUpdate, Timestamp,
};
use crate::placement::{Needs, Occupied, Pool, place};
use crate::reconcile::action::{Action, Plan};
pub use crate::reconcile::draft::{Draft, Ending, Observed, PlanSettings};
use crate::reconcile::{launch, report};
use crate::spec::{self, OnDataLoss, RedisInstance};

/// A KILL is repeated after this time until the task is dead: Mesos may lose one.
const KILL_AGAIN_MS: u64 = 5000;
/// REPLICAOF is repeated after this time when it had no effect.
const POINT_AGAIN_MS: u64 = 1000;
/// A node that seems empty is asked whether it still is so often, once its master is dead.
const PROOF_AGAIN_MS: u64 = 250;
/// Nodes launched in one pass: a node is one write of the transaction, which has room for 128.
const LAUNCHES_MAX: usize = 90;
/// A node that lived this long before it died is no crash loop.
const STABLE_MS: u64 = 600_000;
/// The longest time between two launches of an instance whose nodes keep dying.
const BACKOFF_MAX_MS: u64 = 300_000;

/// Plans one pass of one instance. `pool` is the round's working set of offers: what a plan
/// claims, later plans of the same round do not see.
pub fn plan_instance(o: Observed, pool: &mut Pool) -> Plan {
    let mut draft = Draft::new(o);
    accept_document(&mut draft);
    settle_tasks(&mut draft);
    if !delete(&mut draft) {
        handle_data_loss(&mut draft);
        note_initialized(&mut draft);
        let master = failover::judge(&draft);
        repair_roles(&mut draft, &master);
        configure(&mut draft);
        forget_dead(&mut draft, &master);
        scale_down(&mut draft, &master);
        scale_up(&mut draft, &master, pool);
    }
    kill_stopped(&mut draft);
    let mut plan = report::finish(draft);
    if o.frozen.is_some() {
        // What is known may be wrong: nothing is done and nothing is written, only said.
        plan.writes.clear();
        plan.steps.clear();
        plan.status_changed = false;
    }
    plan
}

// ---------------------------------------------------------------------------------------------
// The document

fn accept_document(d: &mut Draft) {
    let Some(document) = &d.o.instance.document else { return };
    if d.record.as_ref().is_some_and(|record| record.deleting || record.spec_revision == document.revision) {
        return;
    }
    if d.o.instance.requests.contains_key(&RequestKind::Delete) && d.record.is_none() {
        return; // Declared and deleted before anything was done.
    }
    let outcome = match &document.parsed {
        Ok(instance) => accept_instance(d, instance, document.revision),
        Err(why) => Err(why.clone()),
    };
    if let Err(why) = outcome {
        let known = d.o.instance.status.as_ref().and_then(|s| report::invalid_message(&s.value));
        if known != Some(why.as_str()) {
            d.event(EventKind::Warning, "SpecInvalid", d.o.name.to_string(), why.clone());
        }
        d.invalid = Some(why);
    }
}

fn accept_instance(d: &mut Draft, instance: &RedisInstance, revision: i64) -> Result<(), String> {
    let labels = instance.metadata.labels.clone();
    let Some(record) = &mut d.record else {
        d.record = Some(InstanceRecord {
            spec: instance.spec.clone(),
            labels,
            spec_revision: revision,
            epoch: 0,
            master: None,
            next_ordinal: 0,
            initialized: false,
            deleting: false,
            created_at: d.o.now,
            failures: 0,
            last_failure: None,
        });
        d.event(EventKind::Normal, "SpecAccepted", d.o.name.to_string(), format!("revision {revision} is in force"));
        return Ok(());
    };
    let launched = record.has_launched();
    let errors = if launched { spec::check_change(&record.spec, &instance.spec) } else { Vec::new() };
    if !errors.is_empty() {
        return Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    }
    let changed = record.spec != instance.spec;
    record.spec = instance.spec.clone();
    record.labels = labels;
    record.spec_revision = revision;
    if changed {
        d.event(EventKind::Normal, "SpecAccepted", d.o.name.to_string(), format!("revision {revision} is in force"));
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------
// News of tasks

fn settle_tasks(d: &mut Draft) {
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
            let applied = seen.configured.iter().filter(|(key, _)| key != "maxmemory").cloned();
            let config = &mut d.nodes.get_mut(&ordinal).expect("listed above").config;
            config.extend(applied);
        }
    }
}

fn settle_task(d: &mut Draft, ordinal: u32, update: &TaskUpdate) {
    let now = d.o.now;
    let answered = d.seen(ordinal).is_some_and(|node| node.answer.is_some());
    let name = d.node_name(ordinal);
    let node = d.nodes.get_mut(&ordinal).expect("the caller lists the nodes");
    let ran = node.task.ran() || answered;
    match update.state.meaning() {
        Meaning::Starting => {
            if matches!(node.task, TaskRecord::Unsure { ran: false, .. }) {
                node.task = TaskRecord::Launching;
            }
        }
        Meaning::Running => {
            if node.task.is_dead() {
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
    d.event(EventKind::Warning, "NodeDied", name, why);
    // An offer that went away under us is our latency, not the node's fault: no backoff.
    let ours = matches!(update.reason.as_deref(), Some("REASON_INVALID_OFFERS" | "REASON_RECONCILIATION"));
    if let Some(record) = d.record.as_mut().filter(|_| !ours) {
        record.failures = if lived_ms >= STABLE_MS { 1 } else { record.failures.saturating_add(1) };
        record.last_failure = Some(now);
    }
}

// ---------------------------------------------------------------------------------------------
// Going away

/// Takes the instance down when that is asked for; answers whether it is going.
fn delete(d: &mut Draft) -> bool {
    let request = d.o.instance.requests.get(&RequestKind::Delete).map(|request| &request.value);
    let document = d.o.instance.document.as_ref().map(|document| document.revision);
    let undeclared = document.is_none() && d.record.is_some();
    let begun = d.record.as_ref().is_some_and(|record| record.deleting);
    if request.is_none() && !undeclared && !begun {
        if d.record.is_none() && document.is_none() {
            d.ending = Some(Ending::Forget(None)); // Leftovers of readers' keys.
            return true;
        }
        return false;
    }
    if let Some(reason) = d.o.frozen {
        d.wait(format!("deletion: the operator is frozen: {reason}"));
        return true;
    }
    if !begun {
        if let Some(record) = &mut d.record {
            record.deleting = true;
            let how = if undeclared { "its document was removed from the store" } else { "deletion was asked for" };
            d.event(EventKind::Normal, "Deleting", d.o.name.to_string(), how.to_string());
        }
    }
    let mut alive = Vec::new();
    d.nodes.retain(|_, node| !node.task.is_dead());
    for node in d.nodes.values_mut() {
        node.stop.get_or_insert_with(|| "its instance is being deleted".to_string());
        alive.push(format!("{} ({})", node.name(), node.task));
    }
    if alive.is_empty() {
        d.ending = Some(Ending::Forget(request.map(|request| request.revision)));
    } else {
        d.wait(format!("deletion waits until these nodes are seen dead: {}", alive.join(", ")));
    }
    true
}

// ---------------------------------------------------------------------------------------------
// Data

fn note_initialized(d: &mut Draft) {
    let Some(master) = d.record.as_ref().and_then(|record| record.master) else { return };
    let ready = d.answer(master).is_some_and(|answer| answer.role == Role::Master && !answer.loading);
    if let Some(record) = d.record.as_mut().filter(|record| ready && !record.initialized) {
        record.initialized = true;
    }
}

/// The master is dead and nobody else can have its data: either it never was ready, and there was
/// none, or the data is lost.
fn handle_data_loss(d: &mut Draft) {
    let Some(record) = &d.record else { return };
    let Some(master) = record.master else { return };
    let asked = d.o.instance.requests.contains_key(&RequestKind::Recreate);
    let master_dead = d.nodes.get(&master).is_none_or(|node| node.task.is_dead());
    if !master_dead {
        if asked {
            d.done.push(RequestKind::Recreate); // There is nothing to recreate.
        }
        return;
    }
    if record.initialized {
        let holders: Vec<u32> = d.nodes.keys().copied().filter(|ordinal| !proved_empty(d, *ordinal)).collect();
        if !holders.is_empty() {
            // Somebody may have the data: see `failover`. Whoever is blank may soon prove it.
            if holders.iter().all(|ordinal| d.answer(*ordinal).is_some_and(Answer::is_blank)) {
                d.revisit(d.o.now.plus_ms(PROOF_AGAIN_MS));
            }
            return;
        }
        if record.spec.on_data_loss == OnDataLoss::Hold && !asked {
            let name = d.o.name;
            d.held = true;
            d.wait(format!("all nodes are dead and the data is lost; onDataLoss is hold: `redisctl recreate {name}` starts it again, empty"));
            return;
        }
        if asked {
            d.done.push(RequestKind::Recreate);
        }
        let lost = what_was_lost(d, master);
        d.event(EventKind::Warning, "DataLost", d.o.name.to_string(), lost);
    }
    let record = d.record.as_mut().expect("checked above");
    record.master = None;
    record.initialized = false;
}

fn what_was_lost(d: &Draft, master: u32) -> String {
    let name = d.node_name(master);
    match d.seen(master).and_then(|node| node.answer.as_ref()) {
        Some((answer, at)) => format!(
            "every node is dead: all data is lost and the instance starts again empty; last seen at {at} on {name}: {} keys, {} bytes, offset {}",
            answer.keys, answer.used_memory, answer.offset
        ),
        None => "every node is dead: all data is lost and the instance starts again empty; how much it was is not known to this operator".to_string(),
    }
}

// ---------------------------------------------------------------------------------------------
// Roles and configuration

/// Replicas that follow nobody or somebody else are pointed to the recorded master; those that
/// booted before their master listened are told to try again.
fn repair_roles(d: &mut Draft, master: &Master) {
    if *master != Master::Available || d.o.frozen.is_some() {
        return;
    }
    let Some(at) = d.master().map(|node| (node.ordinal, node.address.clone())) else { return };
    let master_has_data = d.answer(at.0).is_some_and(|answer| !answer.is_blank());
    let others: Vec<NodeRecord> = d.nodes.values().filter(|n| n.ordinal != at.0 && n.stop.is_none()).cloned().collect();
    for node in others {
        let Some(answer) = d.answer(node.ordinal) else { continue };
        let recently = d.seen(node.ordinal).and_then(|seen| seen.pointed_at);
        if recently.is_some_and(|then| d.o.now.since_ms(then) < POINT_AGAIN_MS) {
            d.revisit(d.o.now.plus_ms(POINT_AGAIN_MS));
            continue;
        }
        let (task_id, address, master) = (node.task_id.clone(), node.address.clone(), at.1.clone());
        let stray = answer.role == Role::Master || answer.follows.as_ref() != Some(&at.1);
        if stray && answer.keys > 0 && !master_has_data {
            d.wait(format!("{} has {} keys and does not follow the master, which is empty: not pointed to it, so as not to lose them", node.name(), answer.keys));
        } else if stray {
            d.step(Action::Follow { task_id, node: address, master }, format!("{} does not follow the recorded master", node.name()));
        } else if !answer.link_up && answer.is_blank() {
            d.step(Action::Kick { task_id, node: address, master }, format!("{} booted before its master listened", node.name()));
        }
    }
}

/// Applies `redis.config` where Redis can take it at run time; see `report` for where it cannot.
fn configure(d: &mut Draft) {
    let Some(spec) = d.spec().cloned() else { return };
    let nodes: Vec<NodeRecord> = d.nodes.values().filter(|node| node.stop.is_none()).cloned().collect();
    for node in nodes {
        let Some(answer) = d.answer(node.ordinal).filter(|answer| !answer.loading) else { continue };
        let changed = spec.redis.config.iter().filter(|(key, value)| node.config.get(*key) != Some(*value));
        let mut settings: Vec<(String, String)> =
            changed.filter(|(key, _)| spec::live_config(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
        if answer.max_memory != node.max_memory {
            settings.push(("maxmemory".to_string(), node.max_memory.to_string()));
        }
        if !settings.is_empty() {
            let action = Action::Configure { task_id: node.task_id.clone(), node: node.address.clone(), settings };
            d.step(action, format!("{} differs from what is declared", node.name()));
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Removing and adding nodes

/// A dead node's record has done its duty, unless it is the master's: as long as that stands, the
/// instance is known to be without a master.
fn forget_dead(d: &mut Draft, master: &Master) {
    let kept = d.record.as_ref().and_then(|record| record.master).filter(|_| matches!(master, Master::Dead(_)));
    d.nodes.retain(|ordinal, node| !node.task.is_dead() || Some(*ordinal) == kept);
}

/// Counts as one of the nodes that the spec asks for: it lives, may come back soon, or is the
/// master, whose place nobody else takes.
fn counts(d: &Draft, node: &NodeRecord) -> bool {
    if node.stop.is_some() || (node.task.is_dead() && !d.is_master(node.ordinal)) {
        return false;
    }
    match (&node.task, d.spec()) {
        (TaskRecord::Unsure { since, .. }, Some(spec)) => {
            let waited = d.o.now.since_ms(*since) >= spec.replace_unreachable_after.0;
            !waited || d.is_master(node.ordinal) || d.answer(node.ordinal).is_some()
        }
        _ => true,
    }
}

fn scale_down(d: &mut Draft, master: &Master) {
    let Some(want) = d.spec().map(|spec| spec.nodes() as usize) else { return };
    let counted = d.nodes.values().filter(|node| counts(d, node)).count();
    let surplus = counted.saturating_sub(want);
    if surplus == 0 {
        return;
    }
    if *master != Master::Available {
        d.wait(format!("{surplus} of {counted} nodes are too many; none is removed while the master {master}"));
        return;
    }
    if let Err(reason) = d.may_act() {
        d.wait(format!("{surplus} of {counted} nodes are too many: {reason}"));
        return;
    }
    // The most lagging go first; among equals the newest.
    let mut candidates: Vec<(u64, u32)> = d
        .nodes
        .values()
        .filter(|node| counts(d, node) && !d.is_master(node.ordinal))
        .map(|node| (d.answer(node.ordinal).filter(|a| a.link_up).map_or(0, |a| a.offset), node.ordinal))
        .collect();
    candidates.sort_by_key(|(offset, ordinal)| (*offset, std::cmp::Reverse(*ordinal)));
    for (_, ordinal) in candidates.into_iter().take(surplus) {
        let node = d.nodes.get_mut(&ordinal).expect("listed above");
        node.stop = Some(format!("{counted} nodes are more than the {want} that are declared"));
    }
}

fn scale_up(d: &mut Draft, master: &Master, pool: &mut Pool) {
    let Some(want) = d.spec().map(|spec| spec.nodes() as usize) else { return };
    unsure_reasons(d);
    let counted = d.nodes.values().filter(|node| counts(d, node)).count();
    let missing = want.saturating_sub(counted);
    if missing == 0 {
        return;
    }
    let blocked = match master {
        _ if d.held => return,
        Master::Unplaced | Master::Starting | Master::Available | Master::Loading => d.may_act().err(),
        other => Some(format!("the master {other}")),
    };
    if let Some(reason) = blocked {
        d.wait(format!("{missing} of {want} nodes are missing, and none is launched: {reason}"));
        return;
    }
    if let Some(at) = retry_at(d).filter(|at| *at > d.o.now) {
        let failures = d.record.as_ref().map_or(0, |record| record.failures);
        d.wait(format!("{missing} of {want} nodes are missing; nodes died {failures} times in a row: next launch at {at}"));
        d.revisit(at);
        return;
    }
    place_nodes(d, missing.min(LAUNCHES_MAX), pool);
    if missing > LAUNCHES_MAX {
        d.wants_offers = true;
    }
}

fn unsure_reasons(d: &mut Draft) {
    let Some(after) = d.spec().map(|spec| spec.replace_unreachable_after) else { return };
    let unsure: Vec<(String, Timestamp)> = d
        .nodes
        .values()
        .filter(|node| counts(d, node) && !d.is_master(node.ordinal) && d.answer(node.ordinal).is_none())
        .filter_map(|node| match node.task {
            TaskRecord::Unsure { since, .. } => Some((node.name(), since)),
            _ => None,
        })
        .collect();
    for (name, since) in unsure {
        let at = since.plus_ms(after.0);
        d.wait(format!("{name} is out of Mesos' sight since {since}; it is replaced at {at} (replaceUnreachableAfter {after})"));
        d.revisit(at);
    }
}

fn retry_at(d: &Draft) -> Option<Timestamp> {
    let record = d.record.as_ref()?;
    let doublings = record.failures.checked_sub(2)?; // The first replacement is made at once.
    let delay_ms = 1000_u64.checked_shl(doublings.min(20))?.min(BACKOFF_MAX_MS);
    Some(record.last_failure?.plus_ms(delay_ms))
}

fn place_nodes(d: &mut Draft, count: usize, pool: &mut Pool) {
    let spec = d.spec().cloned().expect("the caller has read it");
    let needs = Needs {
        instance: d.o.name,
        mem_mib: spec.task_mem_mib(),
        cpus_milli: spec.cpus.0,
        distribution: spec.distribution,
        placement: &spec.placement,
    };
    let mut living: Vec<NodeRecord> = d.nodes.values().filter(|node| !node.task.is_dead()).cloned().collect();
    for placed in 0..count {
        let occupied: Vec<Occupied> = living
            .iter()
            .map(|node| Occupied {
                agent_id: &node.agent_id,
                hostname: &node.hostname,
                host: &node.address.host,
                attributes: &node.attributes,
            })
            .collect();
        let ordinal = d.record.as_ref().expect("the caller has read it").next_ordinal;
        match place(&needs, &occupied, pool, seed(d.o.name, ordinal, d.o.now)) {
            Ok(placement) => {
                add_node(d, ordinal, placement);
                living.extend(d.nodes.get(&ordinal).cloned());
            }
            Err(refusal) => {
                d.wants_offers = true;
                let reason = format!("{} of {count} missing nodes have no place: {refusal}", count - placed);
                d.unplaced = Some(reason.clone());
                d.wait(reason);
                return;
            }
        }
    }
}

/// Spreads ports; the launch time makes another attempt take another port.
fn seed(instance: &str, ordinal: u32, now: Timestamp) -> u64 {
    let mix = |hash: u64, byte: u64| (hash ^ byte).wrapping_mul(0x0100_0000_01b3);
    instance.bytes().fold(mix(mix(0xcbf2_9ce4_8422_2325, u64::from(ordinal)), now.0), |hash, b| mix(hash, u64::from(b)))
}

fn add_node(d: &mut Draft, ordinal: u32, placement: crate::placement::Placement) {
    let record = d.record.as_mut().expect("the caller has read it");
    record.next_ordinal = ordinal + 1;
    let first = record.master.is_none();
    if first {
        record.master = Some(ordinal);
        record.epoch += 1;
    }
    let epoch = record.epoch;
    let node = launch::node_record(d.o.name, record, ordinal, &placement, d.o.now);
    let follows = if first { None } else { d.master().map(|master| master.address.clone()) };
    let launch = launch::launch(&node, &placement, epoch, follows.as_ref(), &d.o.settings.redis_server);
    let what = if first { format!("the master of epoch {epoch}") } else { "a replica".to_string() };
    let name = node.name();
    d.event(EventKind::Normal, "NodeLaunched", name.clone(), format!("as {what} on {} ({})", node.hostname, node.address));
    d.nodes.insert(ordinal, node);
    d.claims.push(placement);
    d.step(Action::Launch(launch), format!("{name} is {what}"));
}

// ---------------------------------------------------------------------------------------------
// Killing

/// Kills what is recorded as stopped, until it is seen dead.
fn kill_stopped(d: &mut Draft) {
    let doomed: Vec<(u32, String, String)> = d
        .nodes
        .values()
        .filter(|node| !node.task.is_dead())
        .filter_map(|node| Some((node.ordinal, node.task_id.clone(), node.stop.clone()?)))
        .collect();
    for (ordinal, task_id, why) in doomed {
        if d.o.frozen.is_some() || !matches!(d.o.session, crate::reconcile::world::Session::Subscribed { .. }) {
            d.wait(format!("{} cannot be killed now: {}", d.node_name(ordinal), d.may_act().err().unwrap_or_default()));
            continue;
        }
        let killed_at = d.seen(ordinal).and_then(|node| node.killed_at);
        match killed_at.map(|at| at.plus_ms(KILL_AGAIN_MS)).filter(|again| *again > d.o.now) {
            Some(again) => d.revisit(again),
            None => d.step(Action::Kill { task_id }, why),
        }
        d.wait(format!("{} is being stopped", d.node_name(ordinal)));
    }
}
