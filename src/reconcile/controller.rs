//! The loop of the leader: events in, one pass at a time for an instance, many instances at once. I/O.
//!
//! Planning is serial and synchronous (it takes microseconds); carrying out is concurrent. The
//! controller never waits for a pass: its outcome comes back as an event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::{Notify, mpsc};
use tracing::{error, info, warn};

use crate::board::Board;
use crate::failover::redis::{Pace, Prober, Redis, Target};
use crate::mesos::Session as Mesos;
use crate::metrics::Metrics;
use crate::model::{MesosCall, NoAnswer, MesosEvent, Probe, Timestamp};
use crate::reconcile::action::Plan;
use crate::reconcile::draft::{Observed, PlanSettings};
use crate::reconcile::execute::{Failure, Input, Ports, Work, transaction};
use crate::reconcile::offers::{Asked, plan_session};
use crate::reconcile::plan::plan_instance;
use crate::reconcile::world::{Dirty, Done, Event, Note, Session, World};
use crate::reconcile::{invariants, view};
use crate::store::{FRAMEWORK_KEY, Guard, Leadership, Op, Store, Txn};

/// Inputs folded in before the next round: bounds how long a flood delays planning.
const INPUTS_PER_ROUND: usize = 1024;
/// The first backoff after a failed pass, and the longest, in milliseconds.
const BACKOFF_MS: (u64, u64) = (100, 30_000);

/// What the controller needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Settings that plans depend on.
    pub plan: PlanSettings,
    /// A node that is ready is probed this often.
    pub probe_interval: Duration,
    /// Passes under way at once.
    pub passes_max: usize,
    /// Every instance is looked at this often at least.
    pub resync_interval: Duration,
}

/// Everything that the controller works with.
pub struct Parts {
    /// The store.
    pub store: Store,
    /// Proof that we may act.
    pub leadership: Arc<Leadership>,
    /// The Mesos session, and what comes from it.
    pub mesos: (Mesos, mpsc::Receiver<MesosEvent>),
    /// Probes, and what comes from them.
    pub prober: (Prober, mpsc::Receiver<Probe>),
    /// The nodes.
    pub redis: Redis,
    /// What was read of the store, and what else is told.
    pub inputs: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    /// Makes the reflector list the store again.
    pub relist: Arc<Notify>,
    /// Where views are put up.
    pub board: Arc<Board>,
    /// Counts and durations.
    pub metrics: Arc<Metrics>,
}

/// Why the controller ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Leadership was lost: stand by again.
    NotLeader,
}

/// The loop's state.
pub struct Controller {
    settings: Settings,
    parts: Parts,
    world: World,
    asked: Asked,
    framework_stored: Option<String>,
    dirty: BTreeSet<String>,
    busy: BTreeMap<String, Instant>,
    wanting: BTreeSet<String>,
    revisits: BTreeMap<String, Timestamp>,
    session_revisit: Option<Timestamp>,
    backoffs: BTreeMap<String, (u64, Timestamp)>,
    /// Instances of which a commit's outcome is not known: not planned until the store is listed.
    unknown: BTreeSet<String>,
    synced: bool,
    /// What the prober has been told, by instance and task.
    probed: BTreeMap<String, BTreeMap<String, Pace>>,
    next_resync: Instant,
}

/// The clock of the operator.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

impl Controller {
    /// A controller that knows nothing yet but its framework id, if it has one.
    pub fn new(settings: Settings, parts: Parts, framework_id: Option<String>) -> Controller {
        let next_resync = Instant::now() + settings.resync_interval;
        let mut world = World::default();
        world.framework_id.clone_from(&framework_id);
        Controller {
            settings,
            parts,
            world,
            asked: Asked::default(),
            framework_stored: framework_id,
            dirty: BTreeSet::new(),
            busy: BTreeMap::new(),
            wanting: BTreeSet::new(),
            revisits: BTreeMap::new(),
            session_revisit: None,
            backoffs: BTreeMap::new(),
            unknown: BTreeSet::new(),
            synced: false,
            probed: BTreeMap::new(),
            next_resync,
        }
    }

    /// Runs until leadership is lost or the session ends for good (an error).
    pub async fn run(mut self) -> Result<Exit> {
        let mut held = self.parts.leadership.held.clone();
        loop {
            let wake = self.next_wake();
            tokio::select! {
                biased;
                _ = held.wait_for(|held| !held) => return Ok(Exit::NotLeader),
                Some(input) = self.parts.inputs.1.recv() => self.input(input)?,
                Some(event) = self.parts.mesos.1.recv() => self.learn(Event::Mesos(event)),
                Some(probe) = self.parts.prober.1.recv() => self.learn(Event::Probed(probe)),
                () = tokio::time::sleep(wake) => {}
            }
            self.drain()?;
            if !*held.borrow() {
                return Ok(Exit::NotLeader);
            }
            if let Session::Ended(message) = &self.world.session {
                bail!("the Mesos session is over: {message}");
            }
            self.wake_due();
            if self.synced && self.store_framework().await? {
                self.round();
            }
        }
    }

    /// Folds in what else has come already, so that a burst is one round.
    fn drain(&mut self) -> Result<()> {
        for _ in 0..INPUTS_PER_ROUND {
            if let Ok(input) = self.parts.inputs.1.try_recv() {
                self.input(input)?;
            } else if let Ok(event) = self.parts.mesos.1.try_recv() {
                self.learn(Event::Mesos(event));
            } else if let Ok(probe) = self.parts.prober.1.try_recv() {
                self.learn(Event::Probed(probe));
            } else {
                break;
            }
        }
        Ok(())
    }

    fn learn(&mut self, event: Event) {
        match &event {
            Event::Probed(probe) => self.parts.metrics.probe(probe.result.as_ref().map_or_else(NoAnswer::word, |_| "answer")),
            Event::Mesos(MesosEvent::Update(update)) => self.parts.metrics.task_update(update.state),
            Event::Listed(_) => {
                self.synced = true;
                self.unknown.clear();
            }
            Event::Mesos(MesosEvent::Offers(offers)) => {
                self.parts.metrics.offers("received", "", offers.len() as u64);
                self.dirty.extend(self.wanting.iter().cloned());
            }
            Event::Mesos(MesosEvent::Disconnected { reason }) => warn!("Mesos: {reason}"),
            Event::Mesos(MesosEvent::Subscribed { framework_id, .. }) => info!(framework_id, "subscribed to Mesos"),
            _ => {}
        }
        let frozen = self.world.frozen.is_some();
        let dirty = self.world.apply(event, now());
        if let Some(reason) = self.world.frozen.as_ref().filter(|_| !frozen) {
            error!("frozen, nothing is launched or killed: {reason}");
        }
        self.mark(dirty);
    }

    fn mark(&mut self, dirty: Dirty) {
        if dirty.all {
            let gone: Vec<String> = self.parts.board.list().iter().map(|view| view.name.clone()).collect();
            self.dirty.extend(self.world.instances.keys().cloned().chain(gone));
        }
        self.dirty.extend(dirty.names);
    }

    fn input(&mut self, input: Input) -> Result<()> {
        match input {
            Input::Event(event) => self.learn(event),
            Input::StoreLost(reason) => {
                self.parts.board.set_operator(|o| o.store_synced = false);
                warn!("store: {reason}");
            }
            Input::Done { name, outcome } => self.done(&name, outcome)?,
        }
        Ok(())
    }

    fn done(&mut self, name: &str, outcome: Result<(), Failure>) -> Result<()> {
        if let Some(started) = self.busy.remove(name) {
            let result = match outcome {
                Ok(()) => "acted",
                Err(Failure::Conflict(_)) => "conflict",
                Err(_) => "failed",
            };
            self.parts.metrics.pass(result, started.elapsed());
        }
        self.dirty.insert(name.to_string());
        let why = match outcome {
            Ok(()) => {
                self.backoffs.remove(name);
                return Ok(());
            }
            Err(Failure::NotLeader) => {
                info!(instance = name, "another operator leads");
                return Ok(()); // `held` says it too, in a moment; until then nothing can be written.
            }
            Err(Failure::Conflict(what)) => format!("planned on an old state: {what}"),
            Err(Failure::Unknown(what)) => {
                self.unknown.insert(name.to_string());
                self.parts.relist.notify_one();
                what
            }
            Err(Failure::Step(what)) => what,
        };
        let delay = self.backoffs.get(name).map_or(BACKOFF_MS.0, |(delay, _)| (delay * 2).min(BACKOFF_MS.1));
        self.backoffs.insert(name.to_string(), (delay, now().plus_ms(delay)));
        warn!(instance = name, "{why}; again in {delay} ms");
        Ok(())
    }

    // -----------------------------------------------------------------------------------------
    // Time

    fn next_wake(&self) -> Duration {
        let moments = self.revisits.values().chain(self.session_revisit.iter());
        let retries = self.backoffs.iter().filter(|(name, _)| self.dirty.contains(*name)).map(|(_, (_, at))| at);
        let next_ms = moments.chain(retries).min().map(|at| at.since_ms(now()) + 1);
        let resync = self.next_resync.saturating_duration_since(Instant::now());
        next_ms.map_or(resync, |ms| resync.min(Duration::from_millis(ms)))
    }

    fn wake_due(&mut self) {
        let now = now();
        let due: Vec<String> = self.revisits.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.revisits.remove(&name);
            self.dirty.insert(name);
        }
        if self.next_resync <= Instant::now() {
            self.next_resync = Instant::now() + self.settings.resync_interval;
            self.dirty.extend(self.world.instances.keys().cloned());
        }
    }

    // -----------------------------------------------------------------------------------------
    // Rounds

    /// The framework id is stored before anything is done under it. Answers whether that is so.
    async fn store_framework(&mut self) -> Result<bool> {
        let Session::Subscribed { .. } = self.world.session else { return Ok(true) };
        if self.world.frozen.is_some() || self.framework_stored == self.world.framework_id {
            return Ok(true);
        }
        let Some(id) = self.world.framework_id.clone() else { return Ok(false) };
        let txn = Txn {
            guards: vec![
                Guard::Leader(self.parts.leadership.token.clone()),
                Guard::Revision { key: FRAMEWORK_KEY.to_string(), revision: 0 },
            ],
            ops: vec![Op::Put { key: FRAMEWORK_KEY.to_string(), value: id.clone().into_bytes() }],
        };
        match self.parts.store.commit(txn).await {
            Ok(_) => {
                info!(framework_id = id, "recorded the framework id");
                self.framework_stored = Some(id);
                Ok(true)
            }
            Err(error) => bail!("record the framework id {id}: {error}"),
        }
    }

    fn round(&mut self) {
        let now = now();
        let ready: Vec<String> = self
            .dirty
            .iter()
            .filter(|name| !self.busy.contains_key(*name) && !self.unknown.contains(*name))
            .filter(|name| self.backoffs.get(*name).is_none_or(|(_, at)| *at <= now))
            .take(self.settings.passes_max.saturating_sub(self.busy.len()))
            .cloned()
            .collect();
        let (mut launching, mut others) = (Vec::new(), Vec::new());
        for name in ready {
            self.dirty.remove(&name);
            let Some(work) = self.plan(&name, now) else { continue };
            self.busy.insert(name, Instant::now());
            if work.plan.claims.is_empty() { others.push(work) } else { launching.push(work) }
        }
        self.take_claimed(&launching);
        if !launching.is_empty() {
            tokio::spawn(self.ports().perform_round(launching));
        }
        for work in others {
            tokio::spawn(self.ports().perform_round(vec![work]));
        }
        self.session_round(now);
        self.report();
    }

    fn plan(&mut self, name: &str, now: Timestamp) -> Option<Work> {
        self.revisits.remove(name);
        let Some(instance) = self.world.instances.get(name) else {
            self.gone(name);
            return None;
        };
        let o = Observed {
            name,
            instance,
            session: &self.world.session,
            frozen: self.world.frozen.as_deref(),
            settings: &self.settings.plan,
            now,
        };
        let mut plan = plan_instance(o, &mut self.world.pool);
        let broken = invariants::check(&o, &plan);
        if !broken.is_empty() {
            let broken = broken.join("; ");
            error!(instance = name, "the plan is refused: {broken}");
            self.parts.metrics.plan_refused("any");
            for claim in &plan.claims {
                self.world.pool.release(claim);
            }
            plan = Plan { waiting: vec![format!("the plan was refused: {broken}")], status: plan.status, ..Plan::default() };
        }
        self.parts.board.set(view::instance_view(name, instance, &plan));
        if plan.wants_offers { self.wanting.insert(name.to_string()) } else { self.wanting.remove(name) };
        if let Some(at) = plan.revisit_at {
            self.revisits.insert(name.to_string(), at);
        }
        let txn = transaction(name, instance, &plan, &self.parts.leadership.token);
        self.world.expect(name, &plan.writes);
        self.probe(name);
        (!plan.is_empty()).then(|| Work { name: name.to_string(), plan, txn })
    }

    fn gone(&mut self, name: &str) {
        self.parts.board.remove(name);
        self.wanting.remove(name);
        self.backoffs.remove(name);
        self.probe(name);
    }

    /// Offers of which something was claimed are accepted or declined by the round.
    fn take_claimed(&mut self, launching: &[Work]) {
        let agents: BTreeSet<&str> =
            launching.iter().flat_map(|work| &work.plan.claims).map(|claim| claim.agent_id.as_str()).collect();
        for agent_id in &agents {
            let taken = self.world.pool.take_agent(agent_id);
            self.parts.metrics.offers("accepted", "", taken.len() as u64);
        }
        if !agents.is_empty() {
            self.asked.accepted();
        }
    }

    fn ports(&self) -> Ports {
        let subscription = match self.world.session {
            Session::Subscribed { subscription, .. } => subscription,
            _ => 0,
        };
        Ports {
            store: self.parts.store.clone(),
            leadership: self.parts.leadership.clone(),
            mesos: self.parts.mesos.0.clone(),
            subscription,
            redis: self.parts.redis.clone(),
            out: self.parts.inputs.0.clone(),
            metrics: self.parts.metrics.clone(),
        }
    }

    fn session_round(&mut self, now: Timestamp) {
        let soon = self.dirty.iter().filter(|name| !self.backoffs.contains_key(*name));
        let busy: BTreeSet<String> = self.busy.keys().chain(soon).cloned().collect();
        let plan = plan_session(&mut self.world, &mut self.asked, &self.wanting, &busy, now);
        self.session_revisit = plan.revisit_at;
        if let Some(reason) = plan.freeze {
            error!("frozen, nothing is launched or killed: {reason}");
            self.world.freeze(&reason);
            self.dirty.extend(self.world.instances.keys().cloned());
        }
        let Session::Subscribed { subscription, .. } = self.world.session else { return };
        for call in plan.calls {
            self.note_call(&call, now);
            if let Err(error) = self.parts.mesos.0.send(subscription, call) {
                warn!("Mesos: {error}");
            }
        }
    }

    fn note_call(&mut self, call: &MesosCall, now: Timestamp) {
        let note = match call {
            MesosCall::Decline { offer_ids, .. } => {
                let reason = if self.wanting.is_empty() { "nobody waits" } else { "does not fit" };
                return self.parts.metrics.offers("declined", reason, offer_ids.len() as u64);
            }
            MesosCall::Kill { task_id, .. } => {
                warn!(task_id, "killing a task that was superseded");
                Note { task_id: task_id.clone(), done: Done::Killed }
            }
            MesosCall::Acknowledge { task_id, uuid, .. } => {
                Note { task_id: task_id.clone(), done: Done::Acknowledged(uuid.clone()) }
            }
            _ => return,
        };
        self.world.apply(Event::Noted(note), now);
    }

    // -----------------------------------------------------------------------------------------
    // Probes and reports

    /// Keeps the prober's targets in step with the instance's nodes.
    fn probe(&mut self, name: &str) {
        let known = self.probed.remove(name).unwrap_or_default();
        let mut wanted: BTreeMap<String, Pace> = BTreeMap::new();
        let instance = self.world.instances.get(name);
        let master = instance.and_then(|i| i.nodes.get(&i.record.as_ref()?.value.master?));
        let orphaned = master.is_some_and(|master| master.record.value.task.is_dead());
        for node in instance.into_iter().flat_map(|instance| instance.nodes.values()) {
            let record = &node.record.value;
            if record.task.is_dead() {
                continue;
            }
            let settled = !orphaned && node.silent.is_none() && node.answer.as_ref().is_some_and(|(a, _)| a.link_up && !a.loading);
            let pace = if settled { Pace::Steady(self.settings.probe_interval) } else { Pace::Eager };
            if known.get(&record.task_id) != Some(&pace) {
                let target = Target { task_id: record.task_id.clone(), address: record.address.clone(), pace };
                self.parts.prober.0.add(target);
            }
            wanted.insert(record.task_id.clone(), pace);
        }
        for task_id in known.keys().filter(|task_id| !wanted.contains_key(*task_id)) {
            self.parts.prober.0.remove(task_id);
        }
        if !wanted.is_empty() {
            self.probed.insert(name.to_string(), wanted);
        }
    }

    fn report(&self) {
        let (mesos, message) = match &self.world.session {
            Session::Disconnected(reason) => ("disconnected", reason.clone()),
            Session::Subscribed { .. } => ("subscribed", String::new()),
            Session::Ended(message) => ("ended", message.clone()),
        };
        let frozen = self.world.frozen.clone();
        self.parts.metrics.set_queue(self.dirty.len(), self.busy.len());
        self.parts.board.set_operator(|operator| {
            operator.store_synced = true;
            operator.mesos = mesos.to_string();
            operator.mesos_message = message;
            operator.frozen = frozen;
        });
    }
}
