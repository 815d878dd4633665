//! Full load, saves and short stalls for a long time: no master may be taken for gone. I/O.
//!
//! Threads that do nothing but run keep all cores busy beside clients that write in pipelines, while
//! masters save again and again, and are stopped for 50 ms at random moments. An observer that goes
//! before all others asks each master every 2 ms: one that gave no answer for the whole bound was as
//! silent as a hung one, and nobody can tell it from that.

use std::collections::BTreeMap;
use std::fs;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use redis::{Connection, Pipeline};
use redisctl::clock::now;
use redisctl::model::{EventKind, InstanceEvent, Timestamp};
use rustix::process::{Signal, setpriority_process};

use super::client::dial;
use super::ours::{Cluster, Ours};
use super::system::{System as _, info, pid_of, signal};
use crate::common::{TIMEOUT, ms};

/// Data of each instance: enough for a fork and a save to be felt.
const KEYS: u32 = 200_000;
const VALUE_BYTES: usize = 1000;
/// What a write changes: while a save goes on, each page that is touched is copied.
const PATCH: &[u8] = &[b'x'; 64];
const PIPELINE: u32 = 32;
/// Patches begin somewhere in so many first bytes of a value.
const PATCH_SPAN: i16 = 900;
/// For each instance.
const WRITERS: u64 = 2;
/// Between two pipelines of a writer. What is left of the processors goes to threads that do nothing else;
/// servers that have more to do than there are processors for are silent, and rightly taken for gone.
const PACE: Duration = Duration::from_millis(4);
/// How long a node may take to answer under all that load.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(10);
/// Between two questions of the observer.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// Between the end of a save and the next one.
const SAVE_EVERY: Duration = Duration::from_secs(3);
const STALL: Duration = Duration::from_millis(50);
/// Between two stalls of one master: some 60 in a minute.
const GAP_MS: std::ops::Range<u64> = 200..1700;
/// Whoever stops a master must let it go on in time, whatever else wants to run; and the observer must
/// not be late itself.
const FIRST_OF_ALL: i32 = -20;
const UNPOISONED: &str = "nobody panics with the lock held";
/// Silence leads to its event within this time.
const SOON: Duration = Duration::from_millis(250);
/// Events are looked into when they are so old.
const RIPE_MS: u64 = 1000;
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TELL_EVERY: Duration = Duration::from_mins(5);

/// While it lives, the kernel shares the processors among threads and not among sessions. Each node is a
/// session of its own, and groups of one thread each are balanced so badly that a node can wait for a
/// processor for 300 ms, beside one that serves nobody but threads that do nothing.
struct OneForAll {
    before: String,
}

impl OneForAll {
    const SETTING: &str = "/proc/sys/kernel/sched_autogroup_enabled";

    fn new() -> Option<OneForAll> {
        let before = fs::read_to_string(Self::SETTING).ok()?;
        fs::write(Self::SETTING, "0").ok()?;
        Some(OneForAll { before })
    }
}

impl Drop for OneForAll {
    fn drop(&mut self) {
        let _ = fs::write(Self::SETTING, &self.before);
    }
}

/// Runs both instances under load for so long, and prints what happened to them.
pub async fn calm(cluster: &Cluster, minutes: usize) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    let fast = "memory: 512Mi, durability: none, failover: {detectWithin: 100ms}";
    let specs = [("fast", "100 ms, none", 100, fast), ("orders", "defaults, 1 s", 1000, "memory: 512Mi")];
    let mut subjects = Vec::new();
    for (name, label, bound_ms, spec) in specs {
        subjects.push(Subject::start(label, Duration::from_millis(bound_ms), cluster.instance(name, spec).await).await);
    }
    println!("{minutes} minutes of full load, seed {seed}");
    let fair = OneForAll::new();
    if fair.is_none() {
        println!("The kernel's groups of sessions could not be switched off: nodes may wait long for a processor.");
    }
    let (stop, cpu) = (Arc::new(AtomicBool::new(false)), cpu_times());
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
        threads.push(until(&stop, |stop| {
            while !stop() {
                spin_loop();
            }
        }));
    }
    for (i, subject) in subjects.iter().enumerate() {
        threads.extend(subject.disturb(&stop, seed.wrapping_add(i as u64)));
    }
    let start = Instant::now();
    let (end, mut told) = (start + Duration::from_secs(60 * minutes as u64), start);
    while Instant::now() < end {
        tokio::time::sleep(LOOK_EVERY).await;
        for subject in &mut subjects {
            subject.look().await;
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            println!("after {} minutes:", start.elapsed().as_secs() / 60);
            tell(&subjects, &cluster.log());
        }
    }
    let busy = busy_since(&cpu);
    stop.store(true, Ordering::Relaxed);
    tokio::time::sleep(LOOK_EVERY * 2).await;
    for subject in &mut subjects {
        subject.look().await;
    }
    println!("\n{minutes} minutes, seed {seed}, all cores {busy} % busy\n{HEADINGS}");
    tell(&subjects, &cluster.log());
    let unasked: u32 = subjects.iter().map(|subject| subject.unasked).sum();
    println!("Masters that were taken for gone though the observer had answers within the bound: {unasked}.");
    for thread in threads {
        thread.join().expect("no panic");
    }
    drop(fair);
}

const HEADINGS: &str = "instance      |  writes | saves, failed, fork max | stalls,    max | silence max, over the bound | \
                        operator: over half,  max | taken for gone, unasked";

fn tell(subjects: &[Subject<'_>], log: &str) {
    for subject in subjects {
        println!("{}", subject.row(log));
    }
}

/// An instance under load.
struct Subject<'a> {
    label: &'static str,
    ours: Ours<'a>,
    load: Arc<Load>,
    epoch: u64,
    started: Timestamp,
    /// How often the master was taken for gone, ...
    gone: u32,
    /// ... though the observer had answers within the bound.
    unasked: u32,
    /// Warnings since then: how often.
    warnings: BTreeMap<(Timestamp, String), u32>,
}

/// When something began, and how long it took.
type Gap = (Timestamp, Duration);

/// What its threads share.
#[derive(Default)]
struct Load {
    master: Mutex<String>,
    writes: AtomicU64,
    saves: AtomicU64,
    saves_failed: AtomicU64,
    fork_us: AtomicU64,
    /// When they began, and how long they were: ours may be late, too.
    stalls: Mutex<Vec<Gap>>,
    /// When the observer had no answer for half the bound, and for how long.
    silences: Mutex<Vec<Gap>>,
    bound: Duration,
}

impl<'a> Subject<'a> {
    async fn start(label: &'static str, bound: Duration, mut ours: Ours<'a>) -> Subject<'a> {
        let master = ours.settle().await.master;
        fill(&mut dial(&master, TIMEOUT).expect("it is the master"));
        ours.settle().await;
        let epoch = ours.status().await.expect("the operator answers").epoch;
        let load = Arc::new(Load { master: Mutex::new(master), bound, ..Load::default() });
        let started = now();
        Subject { label, ours, load, epoch, started, gone: 0, unasked: 0, warnings: BTreeMap::new() }
    }

    /// Starts its load.
    fn disturb(&self, stop: &Arc<AtomicBool>, seed: u64) -> Vec<JoinHandle<()>> {
        let run = |what: fn(&Load, u64, &dyn Fn() -> bool), seed| {
            let load = self.load.clone();
            until(stop, move |stop| what(&load, seed, stop))
        };
        let mut threads = vec![run(save, seed), run(stall, seed), run(observe, seed)];
        threads.extend((0..WRITERS).map(|i| run(write, seed ^ ((i + 1) << 32))));
        threads
    }

    /// What the operator says of it now; news are printed.
    async fn look(&mut self) {
        let (Ok(status), Ok(events)) = (self.ours.status().await, self.ours.events().await) else { return };
        if status.epoch != self.epoch {
            println!("{}: epoch {} after {}, master {:?}", self.label, status.epoch, self.epoch, status.master);
            self.epoch = status.epoch;
        }
        if let Some(master) = status.master {
            *self.load.master.lock().expect(UNPOISONED) = master;
        }
        let known_by = now(); // A silence that led to an event has been seen to its end, as a rule.
        let ripe = |event: &InstanceEvent| event.at >= self.started && known_by.since_ms(event.at) >= RIPE_MS;
        let warnings: Vec<_> = events.into_iter().filter(|e| e.kind == EventKind::Warning && ripe(e)).collect();
        for event in warnings {
            let InstanceEvent { first_at, at, reason, object, message, count, .. } = event;
            if self.warnings.insert((first_at, reason.clone()), count) != Some(count) {
                let during = |gap: &Gap| u128::from(at.since_ms(gap.0)) <= (gap.1 + SOON).as_millis();
                let silence = last(&self.load.silences, at).filter(during);
                println!("{}: {at} {reason} {object}: {message}", self.label);
                println!("  the last stall: {}; silence seen: {}", gap(last(&self.load.stalls, at)), gap(silence));
                let gone = ["FailedOver", "MasterGone"].contains(&&*reason);
                self.gone += u32::from(gone);
                self.unasked += u32::from(gone && silence.is_none_or(|(_, took)| took < self.load.bound));
            }
        }
    }

    fn row(&self, log: &str) -> String {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let told = silences(log, &self.ours.name());
        let told: Vec<Duration> = told.into_iter().map(Duration::from_millis).collect();
        let took = |gaps: &Mutex<Vec<Gap>>| gaps.lock().expect(UNPOISONED).iter().map(|(_, took)| *took).collect();
        let (stalls, seen): (Vec<Duration>, Vec<Duration>) = (took(&self.load.stalls), took(&self.load.silences));
        let longest = |gaps: &[Duration]| gaps.iter().max().map_or("-".to_string(), |longest| ms(*longest));
        let over = seen.iter().filter(|took| **took >= self.load.bound).count();
        let Load { writes, saves, saves_failed, fork_us, .. } = &*self.load;
        format!(
            "{:<13} | {:>5} k | {:>5}, {:>6}, {:>7} | {:>6}, {:>7} | {:>7}, {:>12} | {:>14}, {:>7} | {:>14}, {:>7}",
            self.label,
            count(writes) / 1000,
            count(saves),
            count(saves_failed),
            ms(Duration::from_micros(count(fork_us))),
            stalls.len(),
            longest(&stalls),
            longest(&seen),
            over,
            told.len(),
            longest(&told),
            self.gone,
            self.unasked,
        )
    }
}

/// The last one that began before.
fn last(gaps: &Mutex<Vec<Gap>>, at: Timestamp) -> Option<Gap> {
    gaps.lock().expect(UNPOISONED).iter().rev().find(|(begun, _)| *begun <= at).copied()
}

fn gap(gap: Option<Gap>) -> String {
    gap.map_or("none".to_string(), |(begun, took)| format!("{} from {begun}", ms(took)))
}

/// A thread that does this until it is to stop.
fn until(stop: &Arc<AtomicBool>, what: impl FnOnce(&dyn Fn() -> bool) + Send + 'static) -> JoinHandle<()> {
    let stop = stop.clone();
    thread::spawn(move || what(&|| stop.load(Ordering::Relaxed)))
}

fn fill(connection: &mut Connection) {
    let (mut random, mut value) = (rand::rng(), [0; VALUE_BYTES]);
    for first in (0..KEYS).step_by(PIPELINE as usize) {
        let mut pipeline = Pipeline::new();
        for key in first..KEYS.min(first + PIPELINE) {
            random.fill_bytes(&mut value);
            pipeline.set(format!("key:{key}"), &value[..]).ignore();
        }
        pipeline.query::<()>(connection).expect("the master takes writes");
    }
}

fn write(load: &Load, seed: u64, stop: &dyn Fn() -> bool) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut connection = None;
    while !stop() {
        let Some(mut open) = connection.take().or_else(|| dial(&load.master(), PATIENCE).ok()) else {
            thread::sleep(RETRY);
            continue;
        };
        let mut pipeline = Pipeline::new();
        for _ in 0..PIPELINE {
            let (key, at) = (random.random_range(0..KEYS), random.random_range(0..PATCH_SPAN));
            pipeline.setrange(format!("key:{key}"), isize::from(at), PATCH).ignore();
        }
        if pipeline.query::<()>(&mut open).is_ok() {
            load.writes.fetch_add(u64::from(PIPELINE), Ordering::Relaxed);
            connection = Some(open);
            thread::sleep(PACE);
        } else {
            thread::sleep(RETRY); // No longer the master, or without replicas for the moment.
        }
    }
}

fn save(load: &Load, _seed: u64, stop: &dyn Fn() -> bool) {
    while !stop() {
        let master = load.master();
        let begun = dial(&master, PATIENCE).and_then(|mut open| redis::cmd("BGSAVE").query::<()>(&mut open));
        let mut done = begun.is_err();
        while !done && !stop() {
            thread::sleep(RETRY * 10);
            done = info(&master, "persistence").is_ok_and(|info| info.contains("rdb_bgsave_in_progress:0"));
        }
        let saved = info(&master, "persistence").is_ok_and(|info| info.contains("rdb_last_bgsave_status:ok"));
        let count = if saved && begun.is_ok() { &load.saves } else { &load.saves_failed };
        count.fetch_add(1, Ordering::Relaxed);
        let stats = info(&master, "stats").unwrap_or_default();
        let fork = stats.lines().find_map(|line| line.strip_prefix("latest_fork_usec:")?.trim().parse().ok());
        load.fork_us.fetch_max(fork.unwrap_or(0), Ordering::Relaxed);
        thread::sleep(SAVE_EVERY);
    }
}

fn stall(load: &Load, seed: u64, stop: &dyn Fn() -> bool) {
    let _ = setpriority_process(None, FIRST_OF_ALL); // Else the longest stall shows that it was late.
    let mut random = StdRng::seed_from_u64(seed);
    let mut master = load.master();
    let mut pid = pid_of(&master);
    while !stop() {
        thread::sleep(Duration::from_millis(random.random_range(GAP_MS)));
        if master != load.master() {
            master = load.master();
            pid = pid_of(&master);
        }
        let (begun, start) = (now(), Instant::now());
        signal(pid, Signal::STOP);
        thread::sleep(STALL);
        signal(pid, Signal::CONT);
        load.stalls.lock().expect(UNPOISONED).push((begun, start.elapsed()));
    }
}

fn observe(load: &Load, _seed: u64, stop: &dyn Fn() -> bool) {
    let _ = setpriority_process(None, FIRST_OF_ALL); // Else silences look longer than they are.
    let (mut node, mut connection) = (String::new(), None);
    let (mut answered_at, mut answered) = (now(), Instant::now());
    while !stop() {
        if node != load.master() {
            node = load.master();
            connection = dial(&node, PATIENCE).ok();
            (answered_at, answered) = (now(), Instant::now());
        }
        let open: &mut Option<Connection> = &mut connection;
        if open.as_mut().is_some_and(|open| redis::cmd("PING").query::<()>(open).is_ok()) {
            let silence = answered.elapsed();
            if silence >= load.bound / 2 {
                load.silences.lock().expect(UNPOISONED).push((answered_at, silence));
            }
            (answered_at, answered) = (now(), Instant::now());
        } else {
            connection = dial(&node, PATIENCE).ok();
        }
        thread::sleep(ASK_EVERY);
    }
}

impl Load {
    fn master(&self) -> String {
        self.master.lock().expect(UNPOISONED).clone()
    }
}

/// What the operator's log says of the instance's silences that have ended, in milliseconds.
fn silences(log: &str, name: &str) -> Vec<u64> {
    let mine = format!("task_id=\"{name}-");
    let lines = log.lines().filter(|line| line.contains("answers again") && line.contains(&mine));
    lines.filter_map(|line| line.split("silent_ms=").nth(1)?.split(' ').next()?.parse().ok()).collect()
}

/// Of all cores since the start of the machine: all time, and time without work.
fn cpu_times() -> [u64; 2] {
    let stat = fs::read_to_string("/proc/stat").expect("Linux");
    let line = stat.lines().next().expect("the sum of all cores");
    let times: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|time| time.parse().ok()).collect();
    [times.iter().sum(), times[3] + times[4]] // Idle, and waiting for disks.
}

/// In percent.
fn busy_since(before: &[u64; 2]) -> u64 {
    let now = cpu_times();
    100 - (now[1] - before[1]) * 100 / (now[0] - before[0]).max(1)
}
