//! What concerns all instances: offers that nobody uses, whether more are wanted, tasks that are
//! not recorded, and what Mesos must be asked. Pure.

use std::collections::BTreeSet;

use crate::model::{MesosCall, TaskRecord, Timestamp, parse_task_id};
use crate::reconcile::world::{Session, World};
use crate::spec::Constraint;

/// How long an offer that nobody can use is withheld. REVIVE ends it at once, and so does a change
/// of the agent's free resources.
pub const DECLINE_S: f64 = 3600.0;
/// More groups of constraints than that are not told: each agent is compared with all of them.
const GROUPS_MAX: usize = 64;
/// How long an offer is withheld whose agent has offered the same of another role, too: by then that is
/// used or has gone back.
const SPARE_S: f64 = 1.0;
/// Somebody still waits: ask for all offers again after this time, should a REVIVE have been lost.
const REVIVE_AGAIN_MS: u64 = 30_000;
/// The least time between two REVIVEs: each makes the master allocate anew.
const REVIVE_GAP_MS: u64 = 50;
/// Between two questions after tasks of which nothing was heard: doubled each time, up to the
/// second number.
const ASK_AGAIN_MS: (u64, u64) = (1000, 60_000);
/// A task whose launch brought no news for this long is asked after.
const LAUNCH_NEWS_MS: u64 = 30_000;
/// Between two questions after tasks that Mesos has lost sight of, or that do not answer: when an
/// agent comes back without a task, Mesos does not tell, and what it tells once may be lost.
const ASK_DOUBTFUL_MS: u64 = 30_000;
/// Between two implicit reconciliations, which find tasks that we do not know of.
const IMPLICIT_MS: u64 = 900_000;
/// Tasks asked after in one call.
const ASK_MAX: usize = 1000;
/// A KILL of a superseded task, or a question after another, is repeated after this time.
const ASK_STRANGER_MS: u64 = 5000;

/// What was last told and asked; kept by the controller between two calls of [`plan_session`].
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The subscription that the rest is about.
    subscription: u64,
    offers_on: bool,
    revived_at: Option<Timestamp>,
    wanting: BTreeSet<String>,
    /// What offers are limited to.
    constraints: Vec<Vec<Constraint>>,
    sent_at: Option<Timestamp>,
    ask_delay_ms: u64,
    doubtful_at: Option<Timestamp>,
    implicit_at: Option<Timestamp>,
}

impl Asked {
    /// Offers were accepted: what was left of them is withheld, so whoever still waits asks anew.
    pub fn accepted(&mut self) {
        self.wanting.clear();
    }
}

/// What to tell Mesos, and when to look again.
#[derive(Debug, Default)]
pub struct SessionPlan {
    /// In order.
    pub calls: Vec<MesosCall>,
    /// At the latest.
    pub revisit_at: Option<Timestamp>,
}

impl SessionPlan {
    fn revisit(&mut self, at: Timestamp) {
        self.revisit_at = Some(self.revisit_at.map_or(at, |known| known.min(at)));
    }
}

/// Plans what concerns all instances. `wanting`: those whose last plan wants offers; `busy`: those
/// whose pass is under way, so that their wants are not known yet.
pub fn plan_session(
    world: &mut World,
    asked: &mut Asked,
    wanting: &BTreeSet<String>,
    busy: &BTreeSet<String>,
    now: Timestamp,
) -> SessionPlan {
    let mut plan = SessionPlan::default();
    let Session::Subscribed { subscription, since } = world.session else { return plan };
    if asked.subscription != subscription {
        // The subscription begins with offers suppressed, and with nothing asked.
        *asked = Asked { subscription, implicit_at: Some(since), ..Asked::default() };
    }
    if world.frozen.is_none() {
        ask_after_tasks(world, asked, busy, now, &mut plan);
    }
    if world.frozen.is_none() || world.doubts() {
        meet_strangers(world, busy, now, &mut plan);
    }
    answer_inverse_offers(world, &mut plan);
    let spare = std::mem::take(&mut world.spare_offers);
    if !spare.is_empty() {
        plan.calls.push(MesosCall::Decline { offer_ids: spare, refuse_s: SPARE_S });
    }
    give_back_offers(world, wanting, busy, &mut plan);
    turn_offers(world, asked, wanting, busy, now, &mut plan);
    plan
}

/// Explicit reconciliation of everything not heard of, implicit once and then rarely.
fn ask_after_tasks(
    world: &mut World,
    asked: &mut Asked,
    busy: &BTreeSet<String>,
    now: Timestamp,
    plan: &mut SessionPlan,
) {
    if asked.implicit_at.is_some_and(|at| at <= now) {
        plan.calls.push(MesosCall::Reconcile(Vec::new()));
        asked.implicit_at = Some(now.plus_ms(IMPLICIT_MS));
    }
    ask_after_doubtful(world, asked, now, plan);
    let mut unheard = Vec::new();
    for (_, instance) in world.instances.iter_mut().filter(|(name, _)| !busy.contains(*name)) {
        for node in instance.nodes.values_mut() {
            let record = &node.record.value;
            let quiet = node.update.is_none() && node.answer.is_none();
            if quiet && now.since_ms(record.launched_at) >= LAUNCH_NEWS_MS && !record.task.is_dead() {
                node.heard = false;
            }
            if !node.heard && !record.task.is_dead() {
                unheard.push((record.task_id.clone(), Some(record.agent_id.clone())));
            }
        }
    }
    if unheard.is_empty() {
        asked.sent_at = None;
        asked.ask_delay_ms = ASK_AGAIN_MS.0;
        return;
    }
    let due = asked.sent_at.map_or(now, |at| at.plus_ms(asked.ask_delay_ms));
    if due > now {
        plan.revisit(due);
        return;
    }
    asked.ask_delay_ms = match asked.sent_at {
        None => ASK_AGAIN_MS.0,
        Some(_) => (asked.ask_delay_ms * 2).min(ASK_AGAIN_MS.1),
    };
    asked.sent_at = Some(now);
    plan.revisit(now.plus_ms(asked.ask_delay_ms));
    plan.calls.extend(unheard.chunks(ASK_MAX).map(|tasks| MesosCall::Reconcile(tasks.to_vec())));
}

fn ask_after_doubtful(world: &World, asked: &mut Asked, now: Timestamp, plan: &mut SessionPlan) {
    let nodes = world.instances.values().flat_map(|instance| instance.nodes.values());
    let doubtful = nodes.filter(|node| match node.record.value.task {
        TaskRecord::Unsure { .. } => true,
        TaskRecord::Launching | TaskRecord::Running => node.silent.is_some(),
        TaskRecord::Dead { .. } => false,
    });
    let records = doubtful.map(|node| &node.record.value);
    let tasks: Vec<_> = records.map(|record| (record.task_id.clone(), Some(record.agent_id.clone()))).collect();
    if tasks.is_empty() {
        asked.doubtful_at = None;
        return;
    }
    let due = *asked.doubtful_at.get_or_insert(now.plus_ms(ASK_DOUBTFUL_MS));
    if due <= now {
        asked.doubtful_at = Some(now.plus_ms(ASK_DOUBTFUL_MS));
        plan.calls.extend(tasks.chunks(ASK_MAX).map(|tasks| MesosCall::Reconcile(tasks.to_vec())));
    }
    plan.revisit(asked.doubtful_at.unwrap_or(due));
}

/// Tasks that bear our marks and are not recorded: superseded ones are killed, others asked after.
///
/// While a pass of its instance is under way, the record of a task may be on its way to us.
fn meet_strangers(world: &mut World, busy: &BTreeSet<String>, now: Timestamp, plan: &mut SessionPlan) {
    let known: Vec<String> = world.strangers.keys().cloned().collect();
    for task_id in known {
        if parse_task_id(&task_id).is_some_and(|(name, _)| busy.contains(name)) {
            continue;
        }
        let superseded = world.superseded(&task_id);
        let may_kill = world.frozen.is_none() && world.dispensable(&task_id);
        let stranger = world.strangers.get_mut(&task_id).expect("listed above");
        let update = &stranger.update;
        if !stranger.acknowledged
            && let (Some(agent_id), Some(uuid)) = (&update.agent_id, &update.uuid)
        {
            let (task_id, agent_id, uuid) = (task_id.clone(), agent_id.clone(), uuid.clone());
            plan.calls.push(MesosCall::Acknowledge { task_id, agent_id, uuid });
        }
        if !stranger.lives() {
            continue;
        }
        let last = if superseded { &mut stranger.killed_at } else { &mut stranger.asked_at };
        let due = last.map_or(now, |at| at.plus_ms(ASK_STRANGER_MS));
        plan.revisit(due.max(now.plus_ms(ASK_STRANGER_MS)));
        if due <= now && (!superseded || may_kill) {
            *last = Some(now);
            plan.calls.push(if superseded {
                MesosCall::Kill { task_id: task_id.clone(), agent_id: None }
            } else {
                MesosCall::Reconcile(vec![(task_id.clone(), update.agent_id.clone())])
            });
        }
    }
}

/// Mesos gets an agent back when nothing of ours is left on it. Until then it has no answer: a refusal
/// would be no help to who waits for it.
fn answer_inverse_offers(world: &mut World, plan: &mut SessionPlan) {
    if !world.leaving.is_asked() || world.frozen.is_some() {
        return;
    }
    let nodes = world.instances.values().flat_map(|instance| instance.nodes.values());
    let living = nodes.map(|node| &node.record.value).filter(|node| !node.task.is_dead());
    let offer_ids = world.leaving.take_emptied(&living.map(|node| node.agent_id.as_str()).collect());
    if !offer_ids.is_empty() {
        plan.calls.push(MesosCall::AcceptInverse(offer_ids));
    }
}

/// Offers that nobody used in this round go back, unless somebody may want them in a moment.
fn give_back_offers(world: &mut World, wanting: &BTreeSet<String>, busy: &BTreeSet<String>, plan: &mut SessionPlan) {
    let undecided = if wanting.is_empty() { !busy.is_empty() } else { !wanting.is_disjoint(busy) };
    if undecided {
        return;
    }
    let offer_ids = world.pool.take_unclaimed();
    if !offer_ids.is_empty() {
        plan.calls.push(MesosCall::Decline { offer_ids, refuse_s: DECLINE_S });
    }
}

/// REVIVE when somebody begins to wait, SUPPRESS when nobody does.
fn turn_offers(
    world: &World,
    asked: &mut Asked,
    wanting: &BTreeSet<String>,
    busy: &BTreeSet<String>,
    now: Timestamp,
    plan: &mut SessionPlan,
) {
    if wanting.is_empty() || world.frozen.is_some() {
        if asked.offers_on && busy.is_empty() {
            asked.offers_on = false;
            plan.calls.push(MesosCall::Suppress);
        }
        asked.wanting.clear();
        return;
    }
    let newcomer = !wanting.is_subset(&asked.wanting);
    let due = match asked.revived_at {
        _ if !asked.offers_on => now,
        Some(at) if newcomer => at.plus_ms(REVIVE_GAP_MS),
        Some(at) => again_at(world, at),
        None => now,
    };
    if due <= now {
        let constraints = constraints(world, wanting);
        if constraints != asked.constraints {
            plan.calls.push(MesosCall::Constrain(constraints.clone()));
            asked.constraints = constraints;
        }
        plan.calls.push(MesosCall::Revive);
        asked.offers_on = true;
        asked.revived_at = Some(now);
        asked.wanting.clone_from(wanting);
        plan.revisit(again_at(world, now));
    } else {
        plan.revisit(due);
    }
}

/// When offers are asked for again that were asked for at that moment. One without the port that was avoided then has
/// been declined for long, so whoever waits needs it anew when that is over.
fn again_at(world: &World, revived_at: Timestamp) -> Timestamp {
    let free_at = world.avoided_until(revived_at).map(|free| free.max(revived_at.plus_ms(REVIVE_GAP_MS)));
    let at = revived_at.plus_ms(REVIVE_AGAIN_MS);
    free_at.map_or(at, |free| free.min(at))
}

/// What agents must satisfy for one of those who wait to use them: nothing, when one of them does not mind.
/// What may be an attribute or the fault domain is more than Mesos can be told: it is looked at when offered.
fn constraints(world: &World, wanting: &BTreeSet<String>) -> Vec<Vec<Constraint>> {
    let declared = |name: &String| {
        let record = world.instances.get(name).and_then(|instance| instance.record.as_ref());
        let mut declared = record.map(|record| record.value.spec.placement.constraints.clone()).unwrap_or_default();
        declared.retain(|constraint| !matches!(constraint.attribute.as_str(), "region" | "zone"));
        declared
    };
    let mut groups: Vec<Vec<Constraint>> = Vec::new();
    for group in wanting.iter().map(declared) {
        if group.is_empty() || groups.len() >= GROUPS_MAX {
            return Vec::new();
        }
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}
