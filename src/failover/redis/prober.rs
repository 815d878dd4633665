//! Keeps probing a set of nodes and tells what they answer. I/O.
//!
//! One task for all nodes: a queue of due times, a bounded number of probes in flight, and an
//! outbox with the newest probe of each node. A slow node delays no other one; a slow reader makes
//! probes older and fewer, never more memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tokio_util::time::{DelayQueue, delay_queue};

use super::Redis;
use crate::clock;
use crate::model::{Address, Answer, NoAnswer, Probe, Timestamp};

/// Probes in flight. A node that answers takes a millisecond, so that thousands are done in a
/// second; nodes that do not answer hold a place until the timeout.
const IN_FLIGHT_MAX: usize = 256;
/// Of these, those of nodes that did not reply in time before: when many hang at once, the others
/// are still probed.
const SILENT_IN_FLIGHT_MAX: usize = IN_FLIGHT_MAX / 2;
/// The first wait of an eager node: redis-server listens some 10 ms after its start.
const EAGER_MIN: Duration = Duration::from_millis(10);
/// The longest wait of an eager node.
const EAGER_MAX: Duration = Duration::from_millis(250);
/// A steady node that stops answering is probed eagerly for this long: whether it comes back at
/// once is what one wants to know; after that it costs too much.
const EAGER_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// Waits of at least this length ...
const TICKS_FROM: Duration = Duration::from_secs(1);
/// ... end at multiples of this one. With thousands of nodes, waking up costs more than probing.
const TICK: Duration = Duration::from_millis(250);
/// Waits vary by this part in both directions, so that nodes do not stay in step.
const JITTER: f64 = 0.1;

/// How often a node is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Not ready yet: from 10 ms on, doubling to 250 ms, and from the start again whenever it
    /// answers something else.
    Eager,
    /// At this interval. When it fails to answer, eagerly for 10 s.
    Steady(Duration),
}

/// A node to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its task.
    pub task_id: String,
    /// Where it listens.
    pub address: Address,
    /// How often.
    pub pace: Pace,
}

/// Changes that the task has not seen yet: one for each node at most, the newest.
#[derive(Default)]
struct Wishes {
    /// `None`: probe it no longer.
    targets: BTreeMap<String, Option<Target>>,
    now: BTreeSet<String>,
}

/// Keeps probing. All calls are cheap and take effect soon after.
pub struct Prober {
    wishes: Arc<(Mutex<Wishes>, Notify)>,
    /// Ends the probing when dropped.
    _task: AbortOnDropHandle<()>,
}

impl Prober {
    /// Starts without targets. Ends when it is dropped, or when nobody reads `out`.
    pub fn start(redis: Redis, out: mpsc::Sender<Probe>) -> Prober {
        let wishes = Arc::new((Mutex::default(), Notify::new()));
        let task = tokio::spawn(Probing::new(redis).run(wishes.clone(), out));
        Prober { wishes, _task: AbortOnDropHandle::new(task) }
    }

    /// Probes the node from now on: at once, then at its pace. For a known one only the pace
    /// changes, and nothing at all when it is the same.
    pub fn add(&self, target: Target) {
        self.wish(|wishes| {
            wishes.targets.insert(target.task_id.clone(), Some(target));
        });
    }

    /// Probes the node no longer, and closes its connection.
    pub fn remove(&self, task_id: &str) {
        self.wish(|wishes| {
            wishes.now.remove(task_id);
            wishes.targets.insert(task_id.to_string(), None);
        });
    }

    /// Probes the node now, out of turn: something has happened to it. An eager node starts with
    /// short waits again.
    pub fn probe_now(&self, task_id: &str) {
        self.wish(|wishes| {
            wishes.now.insert(task_id.to_string());
        });
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut lock(&self.wishes.0));
        self.wishes.1.notify_one();
    }
}

fn lock(wishes: &Mutex<Wishes>) -> MutexGuard<'_, Wishes> {
    wishes.lock().expect("nobody panics with the lock held")
}

/// What is known of a node's probing.
struct Tracked {
    target: Arc<Target>,
    /// Its place in the queue; none while a probe is in flight.
    due: Option<delay_queue::Key>,
    /// Asked for while a probe was in flight: another one right after it.
    again: bool,
    /// The next eager wait.
    eager: Duration,
    /// Since when it has not answered.
    failing_since: Option<Instant>,
    /// What it answered last, as far as it matters for the pace.
    last: Option<Gist>,
}

/// What tells progress: of an answer the parts that change on the way to being ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gist {
    Answers { link_up: bool, syncing: bool, loading: bool },
    Fails(NoAnswer),
}

impl Gist {
    fn of(result: &Result<Answer, NoAnswer>) -> Self {
        match result {
            Ok(a) => Gist::Answers { link_up: a.link_up, syncing: a.syncing, loading: a.loading },
            Err(why) => Gist::Fails(*why),
        }
    }
}

impl Tracked {
    fn new(target: Target) -> Self {
        Tracked { target: Arc::new(target), due: None, again: false, eager: EAGER_MIN, failing_since: None, last: None }
    }

    /// Takes a result into account; the wait until the next probe.
    fn learn(&mut self, result: &Result<Answer, NoAnswer>, now: Instant) -> Duration {
        let gist = Some(Gist::of(result));
        if gist != self.last {
            self.eager = EAGER_MIN;
        }
        self.last = gist;
        self.failing_since = if result.is_ok() { None } else { self.failing_since.or(Some(now)) };
        if mem::take(&mut self.again) {
            return Duration::ZERO;
        }
        self.wait(now)
    }

    fn wait(&mut self, now: Instant) -> Duration {
        let new_failure = self.failing_since.is_some_and(|since| now - since < EAGER_AFTER_FAILURE);
        let wait = match self.target.pace {
            Pace::Steady(interval) if !new_failure => interval,
            // A short interval is not made longer by a failure.
            Pace::Steady(interval) => self.next_eager().min(interval),
            Pace::Eager => self.next_eager(),
        };
        wait.mul_f64(rand::random_range(1.0 - JITTER..=1.0 + JITTER))
    }

    fn is_silent(&self) -> bool {
        matches!(self.last, Some(Gist::Fails(NoAnswer::Timeout | NoAnswer::Unreachable)))
    }

    fn next_eager(&mut self) -> Duration {
        let wait = self.eager;
        self.eager = (wait * 2).min(EAGER_MAX);
        wait
    }
}

/// A probe that came back.
struct Done {
    target: Arc<Target>,
    result: Result<Answer, NoAnswer>,
    at: Timestamp,
    was_silent: bool,
}

/// The state of the one task.
struct Probing {
    redis: Redis,
    start: Instant,
    nodes: HashMap<String, Tracked>,
    due: DelayQueue<String>,
    in_flight: FuturesUnordered<BoxFuture<'static, Done>>,
    silent_in_flight: usize,
    outbox: Outbox,
}

impl Probing {
    fn new(redis: Redis) -> Self {
        Probing {
            redis,
            start: Instant::now(),
            nodes: HashMap::new(),
            due: DelayQueue::new(),
            in_flight: FuturesUnordered::new(),
            silent_in_flight: 0,
            outbox: Outbox::default(),
        }
    }

    async fn run(mut self, wishes: Arc<(Mutex<Wishes>, Notify)>, out: mpsc::Sender<Probe>) {
        loop {
            tokio::select! {
                () = wishes.1.notified() => {
                    let changes = mem::take(&mut *lock(&wishes.0));
                    self.follow(changes);
                }
                Some(task_id) = self.due.next(), if self.in_flight.len() < IN_FLIGHT_MAX => {
                    self.probe(task_id.get_ref());
                }
                Some(done) = self.in_flight.next() => self.done(done),
                permit = out.reserve(), if !self.outbox.is_empty() => {
                    let Ok(permit) = permit else { return };
                    if let Some(probe) = self.outbox.pop() {
                        permit.send(probe);
                    }
                }
            }
        }
    }

    fn follow(&mut self, changes: Wishes) {
        for (task_id, target) in changes.targets {
            match target {
                Some(target) => self.add(target),
                None => self.remove(&task_id),
            }
        }
        for task_id in changes.now {
            let Some(node) = self.nodes.get_mut(&task_id) else { continue };
            node.eager = EAGER_MIN;
            if node.due.is_none() {
                node.again = true;
            } else {
                self.schedule(&task_id, Duration::ZERO);
            }
        }
    }

    fn add(&mut self, target: Target) {
        let task_id = target.task_id.clone();
        let Some(node) = self.nodes.get_mut(&task_id) else {
            self.nodes.insert(task_id.clone(), Tracked::new(target));
            self.schedule(&task_id, Duration::ZERO);
            return;
        };
        if *node.target == target {
            return;
        }
        node.target = Arc::new(target);
        node.eager = EAGER_MIN;
        if node.due.is_some() {
            let wait = node.wait(Instant::now());
            self.schedule(&task_id, wait);
        }
    }

    fn remove(&mut self, task_id: &str) {
        if let Some(node) = self.nodes.remove(task_id) {
            if let Some(due) = node.due {
                self.due.remove(&due);
            }
            self.outbox.remove(task_id);
            self.redis.forget(&node.target.address);
        }
    }

    fn schedule(&mut self, task_id: &str, wait: Duration) {
        let due = self.tick_after(wait);
        let Some(node) = self.nodes.get_mut(task_id) else { return };
        match &node.due {
            Some(key) => self.due.reset_at(key, due),
            None => node.due = Some(self.due.insert_at(task_id.to_string(), due)),
        }
    }

    /// Long waits end at common moments: the process wakes up for many nodes at once.
    fn tick_after(&self, wait: Duration) -> Instant {
        let due = Instant::now() + wait;
        if wait < TICKS_FROM {
            return due;
        }
        let late = (due - self.start).as_nanos() % TICK.as_nanos();
        due - Duration::from_nanos(u64::try_from(late).unwrap_or(0))
    }

    fn probe(&mut self, task_id: &str) {
        let Some(node) = self.nodes.get_mut(task_id) else { return };
        node.due = None;
        let was_silent = node.is_silent();
        if was_silent && self.silent_in_flight >= SILENT_IN_FLIGHT_MAX {
            self.schedule(task_id, EAGER_MAX);
            return;
        }
        self.silent_in_flight += usize::from(was_silent);
        let (redis, target) = (self.redis.clone(), node.target.clone());
        self.in_flight.push(Box::pin(async move {
            let at = clock::now();
            let result = redis.probe(&target.address).await;
            Done { target, result, at, was_silent }
        }));
    }

    fn done(&mut self, Done { target, result, at, was_silent }: Done) {
        self.silent_in_flight -= usize::from(was_silent);
        let Some(node) = self.nodes.get_mut(&target.task_id) else {
            self.redis.forget(&target.address); // Removed meanwhile: the probe kept its connection.
            return;
        };
        let wait = node.learn(&result, Instant::now());
        self.schedule(&target.task_id, wait);
        self.outbox.push(Probe { task_id: target.task_id.clone(), result, at, until: clock::now(), watched: false });
    }
}

/// Probes that have not been read yet: of each node the newest, those that wait longest first.
#[derive(Default)]
struct Outbox {
    order: VecDeque<String>,
    newest: HashMap<String, Probe>,
}

impl Outbox {
    fn push(&mut self, probe: Probe) {
        let task_id = probe.task_id.clone();
        if self.newest.insert(task_id.clone(), probe).is_none() {
            self.order.push_back(task_id);
        }
    }

    fn pop(&mut self) -> Option<Probe> {
        self.newest.remove(&self.order.pop_front()?)
    }

    fn remove(&mut self, task_id: &str) {
        if self.newest.remove(task_id).is_some() {
            self.order.retain(|other| other != task_id);
        }
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}
