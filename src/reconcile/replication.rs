//! Data, roles and configuration of the nodes that live. Pure.

use crate::failover::redis::{MASTER_PASSWORD, USERS, secret_revision};
use crate::failover::{self, Master, proved_empty};
use crate::model::{Answer, Deposed, EventKind, NodeRecord, RequestKind, Role, Timestamp};
use crate::reconcile::action::{Action, Step};
use crate::reconcile::conditions;
use crate::reconcile::draft::Draft;
use crate::reconcile::launch;
use crate::reconcile::tries::{CUT_FOREIGN, MAKE_ROOM, Refusal};
use crate::spec::{self, OnDataLoss};
use crate::status::ConditionType;

/// Replicas that are not ours are cut so often while they come back.
const CUT_AGAIN_MS: u64 = 500;
/// Connections that take memory are looked at so often: a list of ten thousand is work for a node.
const CROWDED_AGAIN_MS: u64 = 5000;
/// REPLICAOF is repeated after this time when it had no effect.
const POINT_AGAIN_MS: u64 = 1000;
/// More refused settings than this are not told of: a message is read by people.
const REFUSALS_TOLD: usize = 10;
/// A node that seems empty is asked whether it still is so often, once its master is dead.
const PROOF_AGAIN_MS: u64 = 250;

/// A master that answers as one may have been written to: from now on there is something to lose,
/// and its history is known by a name.
pub fn note_initialized(d: &mut Draft) {
    if failover::judge(d) != Master::Available {
        return;
    }
    let Some(record) = &mut d.record else { return };
    let Some(answer) = record.master.and_then(|master| d.o.instance.nodes.get(&master)?.answer()) else { return };
    record.initialized = true;
    if record.replid.as_ref() == Some(&answer.replid) {
        return;
    }
    // A promotion begins a new history that goes on from the old one.
    let before = record.replid.replace(answer.replid.clone());
    let another = before.as_ref() == Some(&answer.replid2);
    if another {
        record.replid_before = before;
    }
    let (epoch, name) = (record.epoch, d.master().map(NodeRecord::name).unwrap_or_default());
    if another {
        d.event(EventKind::Normal, "MasterReady", name, format!("takes writes: epoch {epoch}"));
    }
}

/// The master is dead and nobody else can have its data: either it never was ready, and there was
/// none, or the data is lost.
pub fn handle_data_loss(d: &mut Draft) {
    let Some(record) = &d.record else { return };
    let Some(master) = record.master else { return };
    let asked = d.o.instance.requests.contains_key(&RequestKind::Recreate);
    let Some(node) = d.nodes.get(&master) else {
        // Its record goes only together with its place: it was lost, and its task may run.
        let name = d.node_name(master);
        d.wait(format!("the store has lost the record of the master {name}: nothing is done in its place"));
        return;
    };
    if !node.task.is_dead() {
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
        if failover::fence_master_first(d) {
            return; // Its data is lost to us, and clients are not to go on with it.
        }
        let record = d.record.as_ref().expect("checked above");
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
    (record.master, record.replid, record.replid_before) = (None, None, None);
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

/// Replicas that follow nobody or somebody else are pointed to the recorded master; those that
/// booted before their master listened are told to try again.
pub fn repair_roles(d: &mut Draft, master: &Master) {
    if *master != Master::Available || d.o.frozen.is_some() {
        return;
    }
    let Some(at) = d.master().map(|node| (node.ordinal, node.address.clone())) else { return };
    let password = d.master().and_then(launch::master_password);
    let master_has_data = d.answer(at.0).is_some_and(|answer| !answer.is_blank());
    // The last answer of a dead node is still known.
    let lives = |node: &&NodeRecord| node.stop.is_none() && !node.task.is_dead();
    let others: Vec<NodeRecord> = d.nodes.values().filter(lives).filter(|n| n.ordinal != at.0).cloned().collect();
    for node in others {
        let Some(answer) = d.answer(node.ordinal) else { continue };
        let recently = d.seen(node.ordinal).and_then(|seen| seen.pointed_at);
        let (task_id, address, master) = (node.task_id.clone(), node.address.clone(), at.1.clone());
        let stray = answer.role == Role::Master || answer.follows.as_ref() != Some(&at.1);
        let turned = node.deposed.is_some() && answer.role == Role::Replica;
        if recently.is_some_and(|then| d.o.now.since_ms(then) < POINT_AGAIN_MS) && !turned {
            d.revisit(d.o.now.plus_ms(POINT_AGAIN_MS));
            continue;
        }
        if answer.role == Role::Master && was_asked_before_it_handed_over(d, &node) {
            d.revisit(d.o.now.plus_ms(PROOF_AGAIN_MS));
            continue;
        }
        if answer.role == Role::Master && !answer.is_blank() {
            demote(d, &node);
            continue;
        }
        if !stray && node.deposed.is_some() {
            d.nodes.get_mut(&node.ordinal).expect("listed above").deposed = None; // It was handed over.
        }
        if stray && answer.keys > 0 && !master_has_data {
            let (name, keys, master, instance) = (node.name(), answer.keys, d.node_name(at.0), d.o.name);
            d.wait(format!(
                "{name} has {keys} keys and does not follow the master {master}, which is empty: not pointed to it, so \
                 as not to lose them. The first write to {master} ends that: `redisctl failover {instance} --force --to \
                 {name}` makes {name} the master"
            ));
        } else if stray || !node.joined {
            admit(d, &node, answer);
            d.step(
                Action::Follow { task_id, node: address, master, password: password.clone() },
                format!("{} does not follow the recorded master", node.name()),
            );
        } else if !answer.link_up && answer.is_blank() {
            d.step(
                Action::Kick { task_id, node: address, master, password: password.clone() },
                format!("{} booted before its master listened", node.name()),
            );
        }
    }
}

/// Who follows the master and is no node of the instance counts for `WAIT` and `min-replicas-to-write`, and would
/// make confirmations worth nothing: it is cut, as long as it comes, and `report` says that it is there.
pub fn cut_foreign(d: &mut Draft, master: &Master) {
    let foreign = d.o.instance.foreign_replicas();
    if foreign.is_empty() || *master != Master::Available || d.o.frozen.is_some() {
        return;
    }
    let Some(node) = d.master().cloned() else { return };
    if let Some(message) = conditions::foreign_replica(d).filter(|why| !conditions::was_said(d, why)) {
        d.event(EventKind::Warning, "ForeignReplica", node.name(), message);
    }
    if d.did_within(node.ordinal, CUT_FOREIGN, CUT_AGAIN_MS) {
        return;
    }
    let others = d.nodes.values().filter(|other| other.ordinal != node.ordinal && !other.task.is_dead());
    let ours = others.map(|other| other.address.clone()).collect();
    d.step(
        Action::CutForeign { task_id: node.task_id, node: node.address, ours },
        "they are no nodes of the instance, and would confirm writes",
    );
}

/// A master that takes no more connections takes those of its replicas neither, and then no writes; and connections
/// that nobody uses take memory: whoever has opened them without a word makes room.
pub fn cut_idle(d: &mut Draft, master: &Master) {
    if d.o.frozen.is_some() {
        return;
    }
    let lives = |node: &&NodeRecord| !node.task.is_dead() && node.stop.is_none();
    for node in d.nodes.values().filter(lives).cloned().collect::<Vec<_>>() {
        let Some(answer) = d.answer(node.ordinal).cloned() else { continue };
        let (why, pause_ms) = if *master == Master::Available && keeps_replicas_out(d, &node, &answer) {
            d.wait(format!(
                "{} takes no more connections ({} clients, maxclients {}), of its replicas neither: those that have not \
                 said who they are are cut",
                node.name(),
                answer.gauges.clients,
                answer.gauges.max_clients
            ));
            ("its replicas cannot log in", CUT_AGAIN_MS)
        } else if answer.is_crowded() {
            ("its connections take more memory than it has for them", CROWDED_AGAIN_MS)
        } else {
            continue;
        };
        if !d.did_within(node.ordinal, MAKE_ROOM, pause_ms) {
            d.step(Action::MakeRoom { task_id: node.task_id, node: node.address }, why);
        }
    }
}

fn keeps_replicas_out(d: &Draft, node: &NodeRecord, answer: &Answer) -> bool {
    let lives = |other: &&NodeRecord| other.ordinal != node.ordinal && !other.task.is_dead() && other.stop.is_none();
    let out = |other: &NodeRecord| d.answer(other.ordinal).is_some_and(|answer| !answer.link_up);
    d.is_master(node.ordinal) && answer.is_full() && d.nodes.values().filter(lives).any(out)
}

/// The former master of a switchover was asked before the new one was one: what it said then is no news.
fn was_asked_before_it_handed_over(d: &Draft, node: &NodeRecord) -> bool {
    let Some((epoch, master)) = d.record.as_ref().and_then(|record| Some((record.epoch, record.master?))) else {
        return false;
    };
    let asked_at = |ordinal: u32| d.seen(ordinal).and_then(|seen| seen.answer.as_ref()).map(|(_, at)| *at);
    node.deposed == Some(Deposed { epoch, offset: None }) && asked_at(node.ordinal) < asked_at(master)
}

/// Another than the recorded one thinks that it is the master: it stops taking writes before anything
/// else. What it has is kept until it is reported.
fn demote(d: &mut Draft, node: &NodeRecord) {
    let Some((epoch, master)) = d.record.as_ref().and_then(|record| Some((record.epoch, record.master?))) else {
        return;
    };
    let offset = d.answer(master).map(|answer| answer.offset);
    // What it has confirmed, or was handed over with, others must have before it counts no more.
    let asked_at = d.seen(node.ordinal).and_then(|seen| seen.answer.as_ref()).map_or(Timestamp(0), |(_, at)| *at);
    if node.joined && failover::caught_up(d, asked_at) < failover::confirmations(d) as usize {
        d.record.as_mut().expect("it was read above").unsettled = true;
    }
    let record = d.nodes.get_mut(&node.ordinal).expect("the caller lists the nodes");
    if record.deposed.is_none_or(|deposed| deposed.offset.is_none()) {
        record.deposed = Some(Deposed { epoch, offset });
    }
    record.joined = false;
    let action = Action::Detach { task_id: node.task_id.clone(), node: node.address.clone(), cut_clients: true };
    d.step(action, format!("{} thinks that it is the master, and is not the recorded one", node.name()));
}

/// The node is about to follow the master: from then on it may confirm writes. Whatever it took as a
/// master that others did not see is lost by that, and said.
fn admit(d: &mut Draft, node: &NodeRecord, answer: &Answer) {
    let record = d.nodes.get_mut(&node.ordinal).expect("the caller lists the nodes");
    record.joined = true;
    let Some(Deposed { epoch, offset: Some(known) }) = record.deposed.take() else { return };
    // Where their histories part is certain; what the master had when it was asked may be older.
    let master = d.record.as_ref().and_then(|record| d.answer(record.master?));
    let offset = master.and_then(|master| answer.parts_from(master)).unwrap_or(known);
    let taken = answer.offset.saturating_sub(offset);
    if taken == 0 {
        let message = format!("was a master beside that of epoch {epoch}, and took nothing: it joins as a replica");
        return d.event(EventKind::Normal, "FormerMasterJoined", node.name(), message);
    }
    let stream = format!("{taken} bytes of its replication stream, from offset {offset} to {}", answer.offset);
    if may_be_pings(taken) {
        let message = format!(
            "was a master beside that of epoch {epoch}, and took nothing that is known: {stream}, may all be PINGs"
        );
        d.event(EventKind::Normal, "FormerMasterJoined", node.name(), message);
        return;
    }
    let keys = answer.keys;
    let message = format!(
        "was a master beside that of epoch {epoch}: {stream}, which no other node has, are discarded ({keys} keys are replaced by the master's)"
    );
    d.event(EventKind::Warning, "WritesDiscarded", node.name(), message);
}

/// A master sends its replicas a PING of 14 bytes each second: a few of these are no writes as a rule.
fn may_be_pings(bytes: u64) -> bool {
    const PING_BYTES: u64 = 14;
    const PINGS_MAX: u64 = 6;
    bytes.is_multiple_of(PING_BYTES) && bytes / PING_BYTES <= PINGS_MAX
}

/// Applies `redis.config` where Redis can take it at run time; see `report` for where it cannot.
pub fn configure(d: &mut Draft) {
    let Some(spec) = d.spec().cloned() else { return };
    if let Some(why) = missing_secret(d) {
        d.wait(why);
    }
    let lives = |node: &&NodeRecord| node.stop.is_none() && !node.task.is_dead();
    let nodes: Vec<NodeRecord> = d.nodes.values().filter(lives).cloned().collect();
    for node in nodes {
        let Some(answer) = d.answer(node.ordinal).filter(|answer| !answer.loading) else { continue };
        let changed = spec.redis.config.iter().filter(|(key, value)| node.config.get(*key) != Some(*value));
        let mut settings: Vec<(String, String)> =
            changed.filter(|(key, _)| spec::live_config(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
        settings.extend(owned_changes(d, &node));
        if answer.max_memory != node.max_memory {
            settings.push(("maxmemory".to_string(), node.max_memory.to_string()));
        }
        settings.retain(|(key, value)| !is_refused(d, &node, key, value));
        if !settings.is_empty() {
            let action = Action::Configure { task_id: node.task_id.clone(), node: node.address.clone(), settings };
            d.step(action, format!("{} differs from what is declared", node.name()));
        }
    }
    tell_refusals(d);
}

/// Whether the node does not take this value. It is not asked again, for it would say the same; of our own
/// settings it is asked now and then, for others hang on them.
fn is_refused(d: &mut Draft, node: &NodeRecord, key: &str, value: &str) -> bool {
    let Some(tries) = d.seen(node.ordinal).map(|seen| &seen.tries) else { return false };
    let Some(refusal) = tries.refusal(key, value) else { return false };
    d.refused.push((node.name(), refusal.clone()));
    if !launch::is_owned(key) && key != "maxmemory" {
        return true;
    }
    let again_at = tries.again_at(key);
    let later = again_at > d.o.now;
    if later {
        d.revisit(again_at);
    }
    later
}

/// Each refusal is an event once: what was said before is in the status.
fn tell_refusals(d: &mut Draft) {
    let status = d.o.instance.status.as_ref().map(|status| &status.value);
    let known = status.and_then(|status| status.condition(ConditionType::ConfigApplied));
    let known = known.map(|condition| condition.message.clone()).unwrap_or_default();
    let new = refusals(d).filter(|(_, text)| !known.contains(text)).collect::<Vec<_>>();
    for (node, text) in new {
        d.event(EventKind::Warning, "SettingRefused", node, text);
    }
}

/// As many refusals as are told, each with its node's name, as sentences.
pub fn refusals<'a>(d: &'a Draft) -> impl Iterator<Item = (String, String)> + 'a {
    d.refused.iter().take(REFUSALS_TOLD).map(|(node, Refusal { name, value, words })| {
        (node.clone(), format!("{node} does not take {name} {value:?}: {words}"))
    })
}

/// Why clients cannot be let in as declared, if the secret that the document names is not there.
pub fn missing_secret(d: &Draft) -> Option<String> {
    let secret = d.spec()?.secret().filter(|_| d.o.secret.is_none())?;
    Some(format!("the store has no secret {secret}: clients' passwords are not changed (redisctl secret set {secret})"))
}

/// Settings of ours that the node does not have yet. A master is told to want more replicas when it
/// has them: it would refuse writes before.
fn owned_changes(d: &Draft, node: &NodeRecord) -> Vec<(String, String)> {
    let Some(record) = &d.record else { return Vec::new() };
    let known = node.owned.get(USERS).and_then(|users| secret_revision(users));
    let mut wanted = launch::owned_settings(&record.spec, record.auth.as_ref(), d.o.secret.or(known));
    if record.spec.secret().is_some() && d.o.secret.or(known).is_none() {
        wanted.remove(USERS); // Clients go on as before until there is a secret.
    }
    // Who is told to follow is told the password along.
    let told = |step: &Step| match &step.action {
        Action::Follow { task_id, .. } | Action::Kick { task_id, .. } => *task_id == node.task_id,
        _ => false,
    };
    let master = d.master().filter(|master| master.ordinal != node.ordinal && !d.steps.iter().any(told));
    wanted.extend(master.and_then(launch::master_password).map(|value| (MASTER_PASSWORD.to_string(), value)));
    let number = |text: &String| text.parse::<usize>().unwrap_or(0);
    // Users first: who is to log in by a password must be known by it.
    let (users, others): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(key, _)| key == USERS);
    let changed = users.into_iter().chain(others).filter(|(key, value)| node.owned.get(key) != Some(value));
    let too_early = |key: &str, value: &String| {
        let raised = node.owned.get(key).map_or(0, number) < number(value);
        key == launch::MIN_REPLICAS
            && raised
            && d.is_master(node.ordinal)
            && failover::caught_up(d, Timestamp(0)) < number(value)
    };
    changed.filter(|(key, value)| !too_early(key, value)).collect()
}
