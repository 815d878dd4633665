//! The planner: one instance at one moment in, what to do and what to wait for out. Pure.
//!
//! [`plan_instance`] is a fixed list of steps, each of which changes the draft of a plan. Their
//! order is the order of safety: what is known is settled first; an instance that goes away is
//! taken down before anything else is considered; then lost data, the master, roles, configuration; and
//! only then are nodes removed and added. No other place decides whether to act.

use std::collections::BTreeMap;

use crate::failover;
use crate::model::{
    AuditedChange, EventKind, InstanceEvent, InstanceRecord, Passwords, RequestKind, TaskRecord, Timestamp,
};
use crate::placement::Pool;
use crate::reconcile::action::Plan;
use crate::reconcile::draft::{Draft, Ending, FROZEN, Observed, SETTLE_MS};
use crate::reconcile::members::{forget_dead, give_up_hung, kill_stopped, scale_down, scale_up, stop_hung};
use crate::reconcile::replication::{
    configure, cut_foreign, cut_idle, handle_data_loss, note_initialized, repair_roles,
};
use crate::reconcile::report;
use crate::reconcile::rolling::{make_room, resize_in_place, roll};
use crate::reconcile::rotation::rotate;
use crate::reconcile::settle::{settle_tasks, tell_last_words};
use crate::reconcile::world::Session;
use crate::spec::{Auth, RedisInstance};
use crate::store;

/// A task that is out of sight for less may only not have reached Mesos, which says so when it is asked again.
const LOST_FOR_LONG_MS: u64 = 60_000;

/// Plans one pass of one instance. `pool` is the round's working set of offers: what a plan
/// claims, later plans of the same round do not see.
pub fn plan_instance(o: Observed, pool: &mut Pool) -> Plan {
    let mut draft = Draft::new(o);
    if o.instance.record.is_none() && !o.instance.nodes.is_empty() {
        let key = store::state_key(o.name);
        draft.wait(format!("the store has lost the record {key}, and its nodes may run: nothing is done"));
        return only_said(report::finish(draft));
    }
    if let (Some(reason), Session::Ended(_)) = (o.frozen, o.session) {
        draft.wait(format!("the operator is frozen: {reason}"));
    }
    accept_document(&mut draft);
    settle_tasks(&mut draft);
    tell_last_words(&mut draft);
    if !delete(&mut draft) {
        handle_data_loss(&mut draft);
        note_initialized(&mut draft);
        failover::take_over(&mut draft);
        failover::fence_gone(&mut draft);
        let master = failover::judge(&draft);
        repair_roles(&mut draft, &master);
        cut_foreign(&mut draft, &master);
        cut_idle(&mut draft, &master);
        resize_in_place(&mut draft);
        rotate(&mut draft);
        configure(&mut draft);
        failover::keep_promise(&mut draft);
        forget_dead(&mut draft, &master);
        roll(&mut draft, &master);
        let master = failover::judge(&draft);
        stop_hung(&mut draft, &master);
        scale_down(&mut draft, &master);
        scale_up(&mut draft, &master, pool);
        make_room(&mut draft);
        give_up_hung(&mut draft, &master);
    }
    kill_stopped(&mut draft);
    tell_changes(&mut draft);
    if let Session::Subscribed { since, .. } = o.session {
        let settled_at = since.plus_ms(SETTLE_MS);
        if settled_at > o.now {
            draft.revisit(settled_at);
        }
    }
    let plan = report::finish(draft);
    if o.frozen.is_some() { only_said(plan) } else { plan }
}

/// What is known may be wrong: nothing is done and nothing is written, only said.
fn only_said(plan: Plan) -> Plan {
    Plan { writes: Vec::new(), steps: Vec::new(), claims: Vec::new(), status_changed: false, failover: None, ..plan }
}

/// Changes that were made through the API become events. Not in a plan that moves the master's role: it
/// would not be recorded if somebody changes something at that moment.
fn tell_changes(d: &mut Draft) {
    if d.failover.is_some() {
        return;
    }
    let Some(request) = d.o.instance.requests.get(&RequestKind::Audit) else { return };
    let mut told = Vec::new();
    for AuditedChange { at, by, what } in &request.value.changes {
        let (reason, object, message) = ("Changed".to_string(), d.o.name.to_string(), format!("{what} by {by}"));
        let (at, kind) = (*at, EventKind::Normal);
        told.push(InstanceEvent { at, first_at: at, count: 1, kind, reason, object, message });
    }
    d.events.splice(0..0, told); // Before what follows from them.
    d.done.push(RequestKind::Audit);
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
    match &document.parsed {
        Ok(instance) => accept_instance(d, instance, document.revision),
        Err(why) => {
            let known = d.o.instance.status.as_ref().and_then(|s| report::invalid_message(&s.value));
            if known != Some(why.as_str()) {
                d.event(EventKind::Warning, "SpecInvalid", d.o.name.to_string(), why.clone());
            }
            d.invalid = Some(why.clone());
        }
    }
}

fn accept_instance(d: &mut Draft, instance: &RedisInstance, revision: i64) {
    let labels = instance.metadata.labels.clone();
    let open = instance.spec.auth == Some(Auth::None);
    let first = d.o.settings.key.as_ref().map(|_| Passwords::first(open));
    let Some(record) = &mut d.record else {
        d.record = Some(InstanceRecord {
            spec: instance.spec.clone(),
            labels,
            spec_revision: revision,
            epoch: 0,
            master: None,
            next_ordinal: 0,
            initialized: false,
            replid: None,
            replid_before: None,
            confirmations: 0,
            unsettled: false,
            rolling: None,
            hung: None,
            auth: first,
            deleting: false,
            created_at: d.o.now,
            failures: 0,
            last_failure: None,
            last_death: None,
        });
        d.event(EventKind::Normal, "SpecAccepted", d.o.name.to_string(), format!("revision {revision} is in force"));
        return;
    };
    let changed = record.spec != instance.spec;
    record.spec = instance.spec.clone();
    record.labels = labels;
    record.auth = match &instance.spec.auth {
        Some(_) => record.auth.map(|auth| Passwords { open, ..auth }).or(first),
        None => record.auth, // Clients of one that was made without passwords know none.
    };
    record.spec_revision = revision;
    if changed {
        record.failures = 0; // What failed may go well now.
        d.event(EventKind::Normal, "SpecAccepted", d.o.name.to_string(), format!("revision {revision} is in force"));
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
    if d.o.frozen.is_some() {
        d.wait(format!("deletion: {FROZEN}"));
        return true;
    }
    if let Some(record) = d.record.as_mut().filter(|_| !begun) {
        record.deleting = true;
        let how = if undeclared { "its document was removed from the store" } else { "deletion was asked for" };
        d.event(EventKind::Normal, "Deleting", d.o.name.to_string(), how.to_string());
    }
    if failover::fence_gone(d) {
        d.wait("deletion: nodes that Mesos calls gone answer, and are fenced first");
        return true;
    }
    let (mut alive, mut lost) = (Vec::new(), BTreeMap::new());
    d.nodes.retain(|_, node| !node.task.is_dead());
    for node in d.nodes.values_mut() {
        node.stop.get_or_insert_with(|| "its instance is being deleted".to_string());
        alive.push(format!("{} ({})", node.name(), node.task));
        if let TaskRecord::Unsure { since, .. } = node.task {
            let first = lost.entry(node.agent_id.clone()).or_insert(since);
            *first = since.min(*first);
        }
    }
    if alive.is_empty() {
        d.ending = Some(Ending::Forget(request.map(|request| request.revision)));
    } else {
        d.wait(format!("deletion waits until these nodes are seen dead: {}", alive.join(", ")));
        for (agent, since) in lost {
            tell_how_to_give_up(d, &agent, since.plus_ms(LOST_FOR_LONG_MS));
        }
    }
    true
}

/// Nobody but a person can know that an agent is dead for good, and Mesos is where to say it: then all frameworks hear
/// it. Not before it has had its time to be seen again, and then at once.
fn tell_how_to_give_up(d: &mut Draft, agent: &str, from: Timestamp) {
    if from > d.o.now {
        d.revisit(from);
        d.wait(format!(
            "if Mesos does not see the agent {agent} again before {from}, this says then how to give it up"
        ));
        return;
    }
    d.wait(format!(
        "if the agent {agent} is dead for good, and Mesos does not call it active, tell Mesos so (MARK_AGENT_GONE), and its \
         nodes count as dead"
    ));
}
