//! From a master's fault to the next write: ours beside Redis Sentinel, in the same run. I/O.
//!
//! Both run on machines (network namespaces) of their own kind: a node on each of three, and the
//! operator or the sentinels on the hub, with the clients. Rounds of the two alternate. Clients
//! write to every node all the time, so that the first write that the new master acknowledges is
//! seen, whether clients already know that it is one; that is measured besides.
//!
//! `failover [ROUNDS] [kill|stop|split]...`: there is a split for ten rounds.
//!
//! `failover calm [MINUTES]`: no faults, but full load; see `calm.rs`.

#[path = "../common/mod.rs"]
mod common;

mod calm;
mod client;
mod ours;
mod report;
mod sentinel;
mod split;
mod system;

use std::time::{Duration, Instant};

use client::Finder;
use common::support::machines;
use common::{asked_for_tests, ms};
use machines::Machines;
use ours::Cluster;
use report::{Report, Series};
use rustix::process::Signal;
use sentinel::{SETTLING_MS, Sentinel, set_down_after};
use system::{System, Topology, pid_of};

/// Agents, and servers of Sentinel.
const MACHINES: usize = 3;
const ROUNDS: usize = 100;
const ROUNDS_FOR_A_SPLIT: usize = 10;
/// How long a new master is waited for: sentinels that could not agree wait for twice their
/// failover timeout.
const LIMIT: Duration = Duration::from_secs(150);
/// Before each fault, so that it meets no timer always at the same place.
const PAUSE_MS: std::ops::Range<u64> = 500..1500;
/// Between the creation of all and the first fault: longer than the operator's probe interval, and
/// enough for sentinels to find each other.
const GROWING_UP: Duration = Duration::from_secs(11);
/// A new setting of the sentinels is in force after their next round of pings.
const SETTING: Duration = Duration::from_secs(1);
/// A slower round of ours is shown with the operator's log, ...
/// as one in which the healed master is demoted later than this, ...
const OUTLIER_MS: [(&str, u64); 4] = [(KILL, 60), (STOP_FAST, 150), (STOP, 4250), (SPLIT, 4250)];
const DEMOTED_LATE: Duration = Duration::from_millis(200);
/// ... at most so many of its lines.
const LOG_LINES: usize = 40;

const KILL: &str = "kill -9";
const STOP_FAST: &str = "SIGSTOP, 100 ms";
const STOP: &str = "SIGSTOP, 1 s";
const SPLIT: &str = "split";
const SENTINEL: &str = "Sentinel";

fn main() {
    if asked_for_tests() {
        return;
    }
    machines::enter_own_network();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench());
}

async fn bench() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let rounds = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(ROUNDS);
    let cases: Vec<&String> = args.iter().filter(|arg| arg.parse::<usize>().is_err()).collect();
    let wanted = |case: &str| cases.is_empty() || cases.iter().any(|wanted| *wanted == case);

    let machines = Machines::start(MACHINES).await;
    let cluster = Cluster::start(&machines).await;
    if cases.iter().any(|case| *case == "calm") {
        return calm::calm(&cluster, rounds).await;
    }
    let fast = cluster.instance("fast", "memory: 32Mi, durability: none, failover: {detectWithin: 100ms}").await;
    let mut fast = Contestant::new("ours, 100ms and none", fast);
    let mut ours = Contestant::new("ours", cluster.instance("orders", "memory: 32Mi, durability: one").await);
    let mut sentinel = Contestant::new(SENTINEL, Sentinel::start(&machines).await);
    let mut report = Report::default();
    for settled in [ours.settle().await, fast.settle().await, sentinel.settle().await] {
        println!("{} is the master of {}", settled.master, settled.nodes.join(" "));
    }
    tokio::time::sleep(GROWING_UP).await;

    if wanted("kill") {
        let mut all = [Series::of("ours"), Series::of("Sentinel, 100"), Series::of("Sentinel, 1000")];
        for _ in 0..rounds {
            ours.round(KILL, Signal::KILL, &mut all[0]).await;
            sentinel.round_at(100, KILL, Signal::KILL, &mut all[1]).await;
            sentinel.round_at(1000, KILL, Signal::KILL, &mut all[2]).await;
        }
        report.add(KILL, all.into());
    }
    if wanted("stop") {
        let mut all = [Series::of("ours, durability none"), Series::of("Sentinel, 100")];
        for _ in 0..rounds {
            fast.round(STOP_FAST, Signal::STOP, &mut all[0]).await;
            sentinel.round_at(100, STOP_FAST, Signal::STOP, &mut all[1]).await;
        }
        report.add(STOP_FAST, all.into());
        let mut all = [Series::of("ours, durability one"), Series::of("Sentinel, 1000")];
        for _ in 0..rounds {
            ours.round(STOP, Signal::STOP, &mut all[0]).await;
            sentinel.round_at(1000, STOP, Signal::STOP, &mut all[1]).await;
        }
        report.add(STOP, all.into());
    }
    if wanted("split") {
        let mut all = [Series::of("ours, durability one"), Series::of("Sentinel, 100"), Series::of("Sentinel, 1000")];
        for _ in 0..rounds.div_ceil(ROUNDS_FOR_A_SPLIT) {
            ours.split(&machines, &mut all[0]).await;
            sentinel.split_at(100, &machines, &mut all[1]).await;
            sentinel.split_at(1000, &machines, &mut all[2]).await;
        }
        report.add(SPLIT, all.into());
    }
    report.print();
    println!("Failovers that nobody had caused: ours {}, Sentinel {}.", ours.unasked + fast.unasked, sentinel.unasked);
}

/// A system, and what it did when nobody asked it to.
struct Contestant<S> {
    name: &'static str,
    system: S,
    /// The master after the last round.
    master: Option<String>,
    /// Failovers between rounds.
    unasked: usize,
}

impl Contestant<Sentinel<'_>> {
    async fn round_at(&mut self, down_after_ms: u32, case: &str, signal: Signal, series: &mut Series) {
        self.set(down_after_ms).await;
        self.round(case, signal, series).await;
    }

    async fn split_at(&mut self, down_after_ms: u32, machines: &Machines, series: &mut Series) {
        self.set(down_after_ms).await;
        self.split(machines, series).await;
        set_down_after(SETTLING_MS);
    }

    async fn set(&mut self, down_after_ms: u32) {
        self.settle().await;
        set_down_after(down_after_ms);
        tokio::time::sleep(SETTING).await;
    }
}

impl<S: System> Contestant<S> {
    fn new(name: &'static str, system: S) -> Contestant<S> {
        Contestant { name, system, master: None, unasked: 0 }
    }

    async fn settle(&mut self) -> Topology {
        let topology = self.system.settle().await;
        if self.master.as_ref().is_some_and(|master| *master != topology.master) {
            self.unasked += 1;
            println!(
                "{}: the master is {}, and was {:?} after the last round",
                self.name, topology.master, self.master
            );
        }
        self.master = Some(topology.master.clone());
        topology
    }

    /// Sends the signal to the master, and waits for the next one.
    async fn round(&mut self, case: &str, signal: Signal, series: &mut Series) {
        let topology = self.settle().await;
        let old = &topology.master;
        let logged = self.system.log().len();
        let mut writes = Finder::of_writes(&topology.nodes, old);
        let mut addresses = self.system.listen(old);
        pause().await;
        let pid = pid_of(old);
        if writes.next(Duration::ZERO).await.is_some() {
            self.unasked += 1;
            println!("{}: another master before the fault; the round does not count", self.name);
            self.master = None;
            return;
        }

        let at = Instant::now();
        system::signal(pid, signal);
        let first = writes.next(LIMIT).await;
        let known = match &first {
            Some((_, new)) => addresses.find(new, LIMIT).await,
            None => None,
        };
        drop((writes, addresses));
        let written = first.as_ref().map(|(written_at, _)| *written_at - at);
        let known = known.map(|known_at| known_at.saturating_duration_since(at));
        series.push(written, known);
        let never_or = |time: Option<Duration>| time.map_or("never".to_string(), ms);
        let (first_write, address) = (never_or(written), never_or(known));
        println!("{case}, {} {}: first write {first_write}, address known {address}", series.name, series.count());
        self.show_outlier(case, written, logged);
        let new = first.map(|(_, new)| new);
        let stays = self.system.recover(old, new.as_deref(), pid, signal).await;
        self.master = new.filter(|_| stays);
    }

    /// The log of a round of ours that took too long: that is a bug.
    fn show_outlier(&self, case: &str, written: Option<Duration>, logged: usize) {
        let bound = OUTLIER_MS.iter().find(|(of, _)| *of == case).map(|(_, ms)| Duration::from_millis(*ms));
        if self.name == SENTINEL || written <= bound && written.is_some() {
            return;
        }
        println!("  that is too long; the log of this round:");
        let log = self.system.log();
        log[logged..].lines().take(LOG_LINES).for_each(|line| println!("  {line}"));
    }

    async fn split(&mut self, machines: &Machines, series: &mut Series) {
        let topology = self.settle().await;
        let logged = self.system.log().len();
        let split = split::split(machines, &mut self.system, &topology).await;
        println!("{SPLIT}, {} {}: {split:?}", series.name, series.count() + 1);
        series.push(split.written, split.known);
        let in_time = split.demoted.is_some_and(|demoted| demoted <= DEMOTED_LATE);
        self.show_outlier(SPLIT, split.written.filter(|_| in_time), logged);
        series.splits.push(split);
        self.master = None;
    }
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(rand::random_range(PAUSE_MS))).await;
}
