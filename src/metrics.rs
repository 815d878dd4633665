//! What the operator counts of itself, for Prometheus, and what it knows of instances. I/O (a clock).
//!
//! Labels of its own counters come from the code, never from users: no name of an instance, node or agent
//! is a label there, so their number does not grow with the number of instances ([`instances`] is for those). What can be read from the board
//! (phases, roles, leadership, the state of the Mesos session) is read when Prometheus asks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::board::Board;
use crate::clock::now;
use crate::model::{InstanceEvent, Role, TaskState};
use crate::reconcile::action::Cause;
use crate::status::{NodeState, Phase};

mod instances;
mod own;

use own::{Doors, Loop};

/// Bounds of short times, in seconds: a pass or a store's answer takes 0.1 ms to some seconds.
const SECONDS: [f64; 14] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Of a time without writes that ended without a failover.
const RETURNED: &str = "returned";
/// The words of [`crate::board::OperatorView::mesos`].
const SESSION_STATES: [&str; 4] = ["subscribed", "disconnected", "standby", "ended"];

/// All metrics, with a registry of their own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    started: Instant,
    /// Milliseconds from `started` to the last event of Mesos; 0: none yet.
    mesos_event_ms: AtomicU64,
    passes: IntCounterVec,
    pass_seconds: HistogramVec,
    plans_refused: IntCounterVec,
    actions: IntCounterVec,
    instances: IntGaugeVec,
    nodes: IntGaugeVec,
    offers: IntCounterVec,
    session_state: IntGaugeVec,
    session_event_age: Gauge,
    calls: IntCounterVec,
    task_updates: IntCounterVec,
    probes: IntCounterVec,
    store_seconds: HistogramVec,
    store_errors: IntCounterVec,
    queue: IntGaugeVec,
    leader: IntGauge,
    frozen: IntGauge,
    board: IntGauge,
    watchers_lagging: IntCounter,
    http_seconds: HistogramVec,
    http: IntCounterVec,
    watchers: IntGauge,
    stale_s: IntGauge,
    doors: Doors,
    events: IntCounterVec,
    failovers: IntCounterVec,
    write_gaps: HistogramVec,
    pulse: Loop,
    /// Of each instance: how many, and how long together.
    gaps: Mutex<HashMap<String, (u64, Duration)>>,
}

/// Registers what it makes: one registry, so a name that is used twice shows at the first start.
struct Maker(Registry);

impl Maker {
    fn keep<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("the names in this file are well formed");
        self.0.register(Box::new(collector.clone())).expect("no name is used twice in this file");
        collector
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn number(&self, name: &str, help: &str) -> IntGauge {
        self.keep(IntGauge::new(name, help))
    }

    fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.keep(HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Metrics {
        let make = Maker(Registry::new());
        let info: GaugeVec = make.keep(GaugeVec::new(
            Opts::new("redisctl_build_info", "Always 1; the version is in the label."),
            &["version"],
        ));
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let metrics = Metrics {
            passes: make.counter("redisctl_reconcile_passes_total", "Reconcile passes.", &["result"]),
            pass_seconds: make.seconds(
                "redisctl_reconcile_pass_duration_seconds",
                "Duration of reconcile passes.",
                &[],
            ),
            plans_refused: make.counter(
                "redisctl_plans_refused_total",
                "Plans that broke an invariant and were not performed.",
                &["invariant"],
            ),
            actions: make.counter("redisctl_actions_total", "Actions performed.", &["kind", "result"]),
            instances: make.gauge("redisctl_instances", "Instances.", &["phase"]),
            nodes: make.gauge("redisctl_nodes", "Nodes.", &["role", "state"]),
            offers: make.counter("redisctl_offers_total", "Offers, by what became of them.", &["outcome", "reason"]),
            session_state: make.gauge("redisctl_mesos_session_state", "1 for the state of the session.", &["state"]),
            session_event_age: make.keep(Gauge::new(
                "redisctl_mesos_last_event_age_seconds",
                "Time since Mesos last sent anything, heartbeats included; -1: never.",
            )),
            calls: make.counter("redisctl_mesos_calls_total", "Calls to the Mesos master.", &["type", "result"]),
            task_updates: make.counter("redisctl_mesos_task_updates_total", "Status updates of tasks.", &["state"]),
            probes: make.counter("redisctl_probes_total", "Probes of nodes.", &["result"]),
            store_seconds: make.seconds("redisctl_store_request_duration_seconds", "Answers of the store.", &["op"]),
            store_errors: make.counter("redisctl_store_errors_total", "Failed requests to the store.", &["op"]),
            queue: make.gauge("redisctl_reconcile_queue", "Instances: dirty, or with a pass in flight.", &["state"]),
            leader: make.number("redisctl_leader", "1: this operator leads."),
            frozen: make.number("redisctl_frozen", "1: the operator launches and kills nothing."),
            board: make.number("redisctl_board_instances", "Instances that this operator knows."),
            watchers_lagging: make.keep(IntCounter::new(
                "redisctl_watchers_lagging_total",
                "Watchers of the API that were too slow and were told to list again.",
            )),
            http_seconds: make.seconds("redisctl_http_request_duration_seconds", "Answers of the API.", &["route"]),
            http: make.counter("redisctl_http_requests_total", "Requests to the API.", &["route", "method", "code"]),
            events: make.counter("redisctl_events_total", "Events of instances.", &["reason", "type"]),
            failovers: make.counter(
                "redisctl_failovers_total",
                "Changes of a master: it died, hung, or handed its role over.",
                &["cause"],
            ),
            write_gaps: make.seconds(
                "redisctl_write_gap_seconds",
                "From the loss of a master to the next one that takes writes, as the operator saw it; by the cause of \
                 the failover, or `returned`.",
                &["cause"],
            ),
            pulse: Loop::new(&make),
            gaps: Mutex::default(),
            watchers: make.number("redisctl_http_watchers", "Open watches of the API."),
            stale_s: make.number(
                "redisctl_stale_seconds",
                "Since when the store cannot be read: what is told of instances is as old as this. 0: it is not old.",
            ),
            doors: Doors::new(&make),
            registry: make.0,
            started: Instant::now(),
            mesos_event_ms: AtomicU64::new(0),
        };
        metrics.begin_at_zero();
        metrics
    }

    /// What alerts look at is there before it happens for the first time: `increase` of a counter that
    /// appears with 1 is 0.
    fn begin_at_zero(&self) {
        self.pulse.lateness.with_label_values::<&str>(&[]);
        self.pulse.rounds.with_label_values::<&str>(&[]);
        self.write_gaps.with_label_values(&[RETURNED]);
        for cause in Cause::ALL.map(Cause::word) {
            self.failovers.with_label_values(&[cause]);
            self.write_gaps.with_label_values(&[cause]);
        }
        for listener in ["api", "sentinel"] {
            self.doors.connections_refused.with_label_values(&[listener, "waiting"]);
        }
        for op in ["get", "list", "commit"] {
            self.store_errors.with_label_values(&[op]);
        }
        for rule in crate::reconcile::invariants::rules() {
            self.plans_refused.with_label_values(&[rule]);
        }
    }

    /// A pass over one instance has ended: `acted`, `idle`, `conflict`, `failed`.
    pub fn pass(&self, result: &'static str, took: Duration) {
        self.passes.with_label_values(&[result]).inc();
        self.pass_seconds.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    /// The leader's loop answered a beat, so late.
    pub fn loop_late(&self, by: Duration) {
        self.pulse.lateness.with_label_values::<&str>(&[]).observe(by.as_secs_f64());
    }

    /// The leader's loop did a round.
    pub fn round(&self, took: Duration) {
        self.pulse.rounds.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    /// The invariants' check refused a plan.
    pub fn plan_refused(&self, invariant: &'static str) {
        self.plans_refused.with_label_values(&[invariant]).inc();
    }

    /// An action was performed, or failed.
    pub fn action(&self, kind: &'static str, done: bool) {
        self.actions.with_label_values(&[kind, result(done)]).inc();
    }

    /// Offers: `accepted`, `declined` or `rescinded`, and why.
    pub fn offers(&self, outcome: &'static str, reason: &'static str, count: u64) {
        self.offers.with_label_values(&[outcome, reason]).inc_by(count);
    }

    /// Mesos sent something: an event, or a heartbeat.
    pub fn mesos_event(&self) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.mesos_event_ms.store(ms.max(1), Ordering::Relaxed);
    }

    /// Something happened to an instance, and is recorded.
    pub fn event(&self, event: &InstanceEvent) {
        self.events.with_label_values(&[event.reason.as_str(), event.kind.word()]).inc();
    }

    /// A master's role goes to another node.
    pub fn failover(&self, cause: Cause) {
        self.failovers.with_label_values(&[cause.word()]).inc();
    }

    /// An instance takes writes again: by another master, or by the same (`returned`).
    pub fn write_gap(&self, name: &str, gap: Duration, cause: Option<Cause>) {
        self.write_gaps.with_label_values(&[cause.map_or(RETURNED, Cause::word)]).observe(gap.as_secs_f64());
        let mut gaps = self.gaps.lock().expect("no holder panics");
        let (count, sum) = gaps.entry(name.to_string()).or_default();
        (*count, *sum) = (*count + 1, *sum + gap);
    }

    /// How often an instance took no writes since this operator leads, and how long together.
    fn gaps(&self, name: &str) -> (u64, Duration) {
        self.gaps.lock().expect("no holder panics").get(name).copied().unwrap_or_default()
    }

    /// An instance is gone.
    pub fn forget(&self, name: &str) {
        self.gaps.lock().expect("no holder panics").remove(name);
    }

    /// A call to the Mesos master was answered, or failed.
    pub fn call(&self, kind: &'static str, done: bool) {
        self.calls.with_label_values(&[kind, result(done)]).inc();
    }

    /// A status update came in.
    pub fn task_update(&self, state: TaskState) {
        self.task_updates.with_label_values(&[state.mesos_name()]).inc();
    }

    /// A probe ended: `answer`, or why not.
    pub fn probe(&self, result: &'static str) {
        self.probes.with_label_values(&[result]).inc();
    }

    /// The store answered, or failed to: `get`, `list`, `commit`, `watch`.
    pub fn store(&self, op: &'static str, took: Duration, done: bool) {
        self.store_seconds.with_label_values(&[op]).observe(took.as_secs_f64());
        if !done {
            self.store_errors.with_label_values(&[op]).inc();
        }
    }

    /// How many instances are dirty, and how many have a pass in flight.
    pub fn set_queue(&self, dirty: usize, in_flight: usize) {
        self.queue.with_label_values(&["dirty"]).set(gauge(dirty));
        self.queue.with_label_values(&["in_flight"]).set(gauge(in_flight));
    }

    /// The API answered. The route is the pattern, never the path.
    pub(crate) fn http(&self, route: &str, method: &str, code: u16, took: Duration) {
        self.http_seconds.with_label_values(&[route]).observe(took.as_secs_f64());
        self.http.with_label_values(&[route, method, &code.to_string()]).inc();
    }

    /// Open connections of clients.
    pub(crate) fn set_connections(&self, listener: &'static str, open: usize) {
        self.doors.connections.with_label_values(&[listener]).set(gauge(open));
    }

    /// A client's connection was refused, or ended, for this reason.
    pub(crate) fn connection_refused(&self, listener: &'static str, reason: &'static str) {
        self.doors.connections_refused.with_label_values(&[listener, reason]).inc();
    }

    /// Files that are open, and how many may be.
    pub(crate) fn set_files(&self, open: usize, limit: usize) {
        self.doors.open_files.set(gauge(open));
        self.doors.open_files_limit.set(gauge(limit));
    }

    /// Open watches of the API.
    pub(crate) fn set_watchers(&self, open: usize) {
        self.watchers.set(gauge(open));
    }

    /// A watcher was too slow.
    pub(crate) fn watcher_lagged(&self) {
        self.watchers_lagging.inc();
    }

    /// Everything as Prometheus reads it, with what the board says now; of instances, those that are named.
    pub fn render(&self, board: &Board, shows: impl Fn(&str) -> bool) -> String {
        self.observe(board);
        let mut text = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default();
        if board.operator().leading {
            instances::render(self, board, shows, now(), &mut text);
        }
        text
    }

    fn observe(&self, board: &Board) {
        let views = board.list();
        let mut phases: BTreeMap<Phase, usize> = Phase::ALL.map(|phase| (phase, 0)).into();
        let mut nodes: BTreeMap<(bool, NodeState), usize> = BTreeMap::new();
        for view in &views {
            *phases.entry(view.status.phase).or_default() += 1;
            for node in &view.status.nodes {
                *nodes.entry((node.role == Role::Master, node.state)).or_default() += 1;
            }
        }
        for (phase, count) in phases {
            self.instances.with_label_values(&[&phase.to_string()]).set(gauge(count));
        }
        for role in [Role::Master, Role::Replica] {
            for state in NodeState::ALL {
                let count = nodes.get(&(role == Role::Master, state)).copied().unwrap_or(0);
                self.nodes.with_label_values(&[&role.to_string(), &state.to_string()]).set(gauge(count));
            }
        }
        let operator = board.operator();
        let stale_s = operator.stale_since.map_or(0, |since| now().since_ms(since) / 1000);
        self.stale_s.set(i64::try_from(stale_s).unwrap_or(i64::MAX));
        for state in SESSION_STATES {
            self.session_state.with_label_values(&[state]).set(i64::from(operator.mesos == state));
        }
        self.session_event_age.set(self.mesos_event_age());
        self.leader.set(i64::from(operator.leading));
        self.frozen.set(i64::from(operator.leading && operator.frozen.is_some()));
        self.board.set(gauge(views.len()));
    }

    fn mesos_event_age(&self) -> f64 {
        match self.mesos_event_ms.load(Ordering::Relaxed) {
            0 => -1.0,
            ms => self.started.elapsed().saturating_sub(Duration::from_millis(ms)).as_secs_f64(),
        }
    }
}

fn result(done: bool) -> &'static str {
    if done { "ok" } else { "error" }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
