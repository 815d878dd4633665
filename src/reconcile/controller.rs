//! The loop of the leader: events in, one pass at a time for an instance, many instances at once. I/O.
//!
//! Planning is serial and synchronous (it takes microseconds); carrying out is concurrent. The
//! controller never waits for a pass: its outcome comes back as an event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::Semaphore;
use tracing::{error, info, warn};

use crate::board::Measured;
use crate::clock::now;
use crate::model::{MesosEvent, TaskState, Timestamp};
use crate::reconcile::draft::Observed;
use crate::reconcile::execute::{Failure, Input, Ports, Work};
use crate::reconcile::gaps::Gaps;
use crate::reconcile::invariants::{self, Broken};
use crate::reconcile::offers::Asked;
use crate::reconcile::parts::{Exit, Parts, Settings};
use crate::reconcile::plan::plan_instance;
use crate::reconcile::schedule::Schedule;
use crate::reconcile::transaction::transaction;
use crate::reconcile::world::{Dirty, Done, Event, Note, World};
use crate::reconcile::{pulse::Pulse, repeats::Repeats, view};

/// Inputs folded in before the next round: bounds how long a flood delays planning.
const INPUTS_PER_ROUND: usize = 1024;
/// So long the loop does what is not urgent before it looks for what is: many documents that change are many
/// plans, and a death is seen, planned and begun between any two turns.
const TURN: Duration = Duration::from_millis(5);
/// ... or so long, once offers are used: those who are launched together share them.
const LAUNCHES: Duration = Duration::from_millis(50);
/// So long a lost master is urgent: what cannot be mended for longer waits its turn.
const URGENT_MS: u64 = 60_000;
/// Writes of what is not urgent that are under way at once: more would be in the way of what is.
const CROWD: usize = 8;
/// A new instance is recorded together with its first nodes, if offers come that soon: half the
/// writes, and nobody waits for the first half.
const OFFERS_WAIT_MS: u64 = 50;

mod session;

/// The loop's state.
pub struct Controller {
    settings: Settings,
    parts: Parts,
    world: World,
    asked: Asked,
    framework_stored: Option<String>,
    schedule: Schedule,
    /// When the passes under way began.
    begun: BTreeMap<String, Instant>,
    wanting: BTreeSet<String>,
    /// New instances that wait for their first offers until then: see [`OFFERS_WAIT_MS`].
    fresh: BTreeMap<String, Timestamp>,
    session_revisit: Option<Timestamp>,
    gaps: Gaps,
    repeats: Repeats, // Of warnings.
    /// The store has been read once.
    synced: bool,
    /// It has been read, and every change since.
    watching: bool,
    /// Something has come since the last round that something may follow from.
    news: bool,
    next_resync: Instant,
    /// Places for writes of what is not urgent.
    crowd: Arc<Semaphore>,
}

impl Controller {
    /// A controller that knows no more than `world` yet.
    pub fn new(settings: Settings, parts: Parts, world: World) -> Controller {
        let next_resync = Instant::now() + settings.resync_interval;
        let framework_stored = world.framework_id.clone();
        Controller {
            settings,
            parts,
            world,
            asked: Asked::default(),
            framework_stored,
            schedule: Schedule::default(),
            begun: BTreeMap::new(),
            wanting: BTreeSet::new(),
            fresh: BTreeMap::new(),
            session_revisit: None,
            gaps: Gaps::default(),
            repeats: Repeats::default(),
            synced: false,
            watching: false,
            news: false,
            next_resync,
            crowd: Arc::new(Semaphore::new(CROWD)),
        }
    }

    /// Runs until leadership is lost, or a new framework is to begin.
    pub async fn run(mut self) -> Result<Exit> {
        let mut held = self.parts.leadership.held.clone();
        let mut pulse = Pulse::new(self.parts.metrics.clone());
        loop {
            let wake = if self.news { Duration::ZERO } else { self.next_wake() };
            let due = Instant::now() + wake;
            tokio::select! {
                biased;
                _ = held.wait_for(|held| !held) => return Ok(Exit::NotLeader),
                () = pulse.beat() => {}
                Some(input) = self.parts.inputs.1.recv() => self.input(input),
                Some(event) = self.parts.mesos.1.recv() => self.learn(Event::Mesos(event)),
                Some(probe) = self.parts.probes.1.recv() => self.learn(Event::Probed(probe)),
                () = tokio::time::sleep(wake) => {}
            }
            self.drain();
            if !*held.borrow() {
                return Ok(Exit::NotLeader);
            }
            if self.world.begins_anew {
                return Ok(Exit::BeginAnew);
            }
            if !std::mem::take(&mut self.news) && Instant::now() < due {
                continue; // Probes of nodes that are as they were: most of what comes.
            }
            self.wake_due();
            if self.synced && self.store_framework().await? {
                pulse.round(|| self.round());
            } else {
                self.news = self.synced;
            }
        }
    }

    /// Folds in what else has come already, so that a burst is one round: what may be a death first.
    fn drain(&mut self) {
        let began = Instant::now();
        for _ in 0..INPUTS_PER_ROUND {
            if let Ok(event) = self.parts.mesos.1.try_recv() {
                self.learn(Event::Mesos(event));
            } else if let Ok(probe) = self.parts.probes.1.try_recv() {
                self.learn(Event::Probed(probe));
            } else if began.elapsed() > TURN {
                break;
            } else if let Ok(input) = self.parts.inputs.1.try_recv() {
                self.input(input);
            } else {
                break;
            }
        }
    }

    fn learn(&mut self, event: Event) {
        match &event {
            Event::Probed(probe) => {
                self.parts.probes.0.probed(probe, &self.parts.metrics);
                if let Ok(answer) = &probe.result {
                    self.parts.board.measure(&probe.task_id, Measured::new(answer, probe.at));
                }
            }
            Event::Mesos(MesosEvent::Update(update)) => {
                self.parts.metrics.task_update(update.state);
                if update.state == TaskState::Running {
                    self.parts.probes.0.now(&update.task_id); // It listens in a moment.
                }
            }
            Event::Noted(Note { task_id, done: Done::Pointed | Done::Cut(_) }) => self.parts.probes.0.now(task_id),
            Event::Listed(_) => {
                (self.synced, self.watching) = (true, true);
                self.schedule.listed();
            }
            Event::Mesos(MesosEvent::Offers(offers)) => {
                self.parts.metrics.offers("received", "", offers.len() as u64);
                self.wanting.iter().for_each(|name| self.schedule.mark(name));
            }
            // Only now: a REVIVE that overtakes the ACCEPT finds these offers still out, and what is
            // left of them is withheld after it.
            Event::Noted(Note { done: Done::Launched(_), .. }) => self.asked.accepted(),
            Event::Mesos(MesosEvent::Rescind(_)) => self.parts.metrics.offers("rescinded", "", 1),
            Event::Mesos(MesosEvent::Disconnected { reason }) => warn!("Mesos: {reason}"),
            Event::Mesos(MesosEvent::Subscribed { framework_id, .. }) => info!(framework_id, "subscribed to Mesos"),
            _ => {}
        }
        let frozen = self.world.frozen.is_some();
        let probed = matches!(event, Event::Probed(_));
        let dirty = self.world.apply(event, now());
        self.news |= !probed || dirty != Dirty::default();
        if !probed {
            *self.parts.seen.lock().expect("no holder panics") = self.world.seen();
        }
        match &self.world.frozen {
            Some(reason) if !frozen => error!("frozen, nothing is launched or killed: {reason}"),
            None if frozen => info!("no longer frozen: no task runs any more that is not recorded"),
            _ => {}
        }
        self.mark(&dirty);
    }

    fn mark(&mut self, dirty: &Dirty) {
        if dirty.all {
            self.world.instances.keys().for_each(|name| self.schedule.mark(name));
            self.parts.board.list().iter().for_each(|view| self.schedule.mark(&view.name));
        }
        dirty.names.iter().for_each(|name| self.schedule.mark(name));
    }

    fn input(&mut self, input: Input) {
        self.news = true;
        match input {
            Input::Event(event) => self.learn(event),
            Input::StoreLost(reason) => {
                self.watching = false;
                self.parts.report(&self.world, self.watching, self.schedule.depth());
                self.repeats.say("the store", &reason, now()).into_iter().for_each(|reason| warn!("store: {reason}"));
            }
            Input::Done { name, outcome } => self.done(&name, outcome),
        }
    }

    fn done(&mut self, name: &str, outcome: Result<(), Failure>) {
        if let Some(begun) = self.begun.remove(name) {
            self.parts.metrics.pass(Failure::word(&outcome), begun.elapsed());
        }
        let why = match outcome {
            Ok(()) => {
                self.repeats.over(name).into_iter().for_each(|what| info!(instance = name, "{what}"));
                return self.schedule.succeed(name);
            }
            // `held` says it too, in a moment; until then nothing can be written.
            Err(Failure::NotLeader) => "another operator leads".to_string(),
            Err(Failure::Conflict(what)) => format!("planned on an old state: {what}"),
            Err(Failure::Unknown(what)) => {
                self.schedule.doubt(name);
                self.parts.relist.notify_one();
                if let (Some(view), Some(instance)) = (self.parts.board.get(name), self.world.instances.get(name)) {
                    self.parts.board.set(view::unrecorded_view(&view, instance, &what));
                }
                what
            }
        };
        let delay_ms = self.schedule.fail(name, now());
        if let Some(why) = self.repeats.say(name, &why, now()) {
            warn!(instance = name, "{why}; again in {delay_ms} ms");
        }
    }

    fn next_wake(&self) -> Duration {
        let due = self.schedule.next().into_iter().chain(self.session_revisit).min();
        let resync = self.next_resync.saturating_duration_since(Instant::now());
        due.map_or(resync, |at| resync.min(Duration::from_millis(at.since_ms(now()) + 1)))
    }

    fn wake_due(&mut self) {
        self.schedule.wake(now());
        if self.next_resync <= Instant::now() {
            self.next_resync = Instant::now() + self.settings.resync_interval;
            self.world.instances.keys().for_each(|name| self.schedule.mark(name));
        }
    }

    /// Plans who is to be planned: who has lost its master, and then the others for a turn. What is left over
    /// is first the next time.
    fn round(&mut self) {
        let (now, began) = (now(), Instant::now());
        let mut launching = Vec::new();
        let (urgent, others): (Vec<_>, Vec<_>) = self
            .schedule
            .take(now)
            .into_iter()
            .map(|name| (self.is_urgent(&name, now), name))
            .partition(|(urgent, _)| *urgent);
        for (urgent, name) in urgent.into_iter().chain(others) {
            let over = began.elapsed() > if launching.is_empty() { TURN } else { LAUNCHES };
            // Passes that wait for nodes that hang do not hold up who has lost its master.
            if !urgent && (over || self.schedule.is_full(self.settings.passes_max)) {
                self.news |= over; // A pass that ends starts the next round otherwise.
                self.schedule.mark(&name);
                continue;
            }
            if !urgent {
                self.schedule.had_turn(&name);
            }
            let Some(work) = self.plan(&name, urgent, now) else { continue };
            self.schedule.begin(&name);
            self.begun.insert(name, Instant::now());
            if work.plan.claims.is_empty() {
                tokio::spawn(self.ports().perform_round(vec![work]));
            } else {
                launching.push(work);
            }
        }
        self.take_claimed(&launching);
        if !launching.is_empty() {
            tokio::spawn(self.ports().perform_round(launching));
        }
        self.session_round(now);
        self.parts.report(&self.world, self.watching, self.schedule.depth());
    }

    fn is_urgent(&self, name: &str, now: Timestamp) -> bool {
        self.world.instances.get(name).is_some_and(|instance| instance.has_just_lost_its_master(now, URGENT_MS))
    }

    fn plan(&mut self, name: &str, urgent: bool, now: Timestamp) -> Option<Work> {
        let Some(instance) = self.world.instances.get(name) else {
            self.gone(name);
            return None;
        };
        let o = Observed {
            name,
            instance,
            session: &self.world.session,
            frozen: self.world.frozen.as_deref(),
            cut_off: self.world.cut_off(instance),
            leaving: &self.world.leaving,
            may_roll: self.world.rolling(instance, now) < self.settings.rolling_max,
            secret: self.world.secret(instance).map(|secret| secret.revision),
            settings: &self.settings.plan,
            now,
        };
        let mut plan = plan_instance(o, &mut self.world.pool);
        let broken = invariants::check(&o, &plan);
        if !broken.is_empty() {
            for Broken { rule, .. } in &broken {
                self.parts.metrics.plan_refused(rule);
            }
            let broken = broken.into_iter().map(|broken| broken.what).collect::<Vec<_>>().join("; ");
            if let Some(broken) = self.repeats.say(&format!("{name}, plan"), &broken, now) {
                error!(instance = name, "the plan is refused: {broken}");
            }
            for claim in &plan.claims {
                self.world.pool.release(claim);
            }
            plan = plan.refused(&broken);
        }
        let view = view::instance_view(name, instance, &plan);
        let before = self.parts.board.get(name);
        let before = before.as_ref().map(|view| &view.status);
        if let Some((gap, cause)) = self.gaps.see(name, before, &view.status, plan.failover, now) {
            self.parts.metrics.write_gap(name, gap, cause);
        }
        self.parts.board.set(view);
        self.wanting.remove(name);
        self.wanting.extend(plan.wants_offers.then(|| name.to_string()));
        if plan.wants_offers && instance.record.is_none() && self.world.pool.is_empty() {
            let until = *self.fresh.entry(name.to_string()).or_insert(now.plus_ms(OFFERS_WAIT_MS));
            if until > now {
                self.schedule.revisit(name, Some(until));
                return None;
            }
        }
        self.fresh.remove(name);
        self.schedule.revisit(name, plan.revisit_at);
        let txn = transaction(name, instance, &plan, &self.parts.leadership.token);
        self.world.expect(name, &plan.writes);
        self.world.begin(plan.apart(), now);
        let instance = self.world.instances.get(name);
        let secret = instance.and_then(|instance| self.world.secret(instance));
        self.parts.probes.0.update(name, instance, secret);
        (!plan.is_empty()).then(|| Work { name: name.to_string(), plan, txn, urgent })
    }

    fn gone(&mut self, name: &str) {
        self.parts.board.remove(name);
        self.parts.metrics.forget(name);
        self.gaps.forget(name);
        self.repeats.over(name);
        self.wanting.remove(name);
        self.fresh.remove(name);
        self.schedule.forget(name);
        self.parts.probes.0.update(name, None, None);
    }

    /// Offers of which something was claimed are accepted or declined by the round.
    fn take_claimed(&mut self, launching: &[Work]) {
        let agents: BTreeSet<&str> =
            launching.iter().flat_map(|work| &work.plan.claims).map(|claim| claim.agent_id.as_str()).collect();
        for agent_id in &agents {
            let taken = self.world.pool.take_agent(agent_id);
            self.parts.metrics.offers("accepted", "", taken.len() as u64);
        }
    }

    fn ports(&self) -> Ports {
        Ports {
            store: self.parts.store.clone(),
            leadership: self.parts.leadership.clone(),
            mesos: self.parts.mesos.0.clone(),
            subscription: self.world.subscription().unwrap_or(0),
            redis: self.parts.redis.clone(),
            out: self.parts.inputs.0.clone(),
            metrics: self.parts.metrics.clone(),
            crowd: self.crowd.clone(),
        }
    }
}
