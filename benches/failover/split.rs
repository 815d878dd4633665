//! A split: the old master keeps a client of its own, and nobody else reaches it. I/O.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::client::{Finder, dial, is_refusal};
use super::machines::{Door, Machines, cut, heal, machine_of};
use super::system::{System, Topology, info};
use super::{LIMIT, pause};
use crate::common::TIMEOUT;

/// How long the split lasts.
const SPLIT: Duration = Duration::from_secs(20);
/// The old master's client writes for so long before.
const BEFORE: Duration = Duration::from_secs(1);
const WRITE_EVERY: Duration = Duration::from_micros(500);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// The client of the old master is on its machine: an answer that takes longer will not come.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long `WAIT 1` waits.
const WAIT_MS: u64 = 100;
/// Keys that are looked for at once.
const CHUNK: usize = 1000;

/// What one split did.
#[derive(Debug)]
pub struct Split {
    /// From the split to the first write that another node acknowledges.
    pub written: Option<Duration>,
    /// To the moment when clients can learn its address.
    pub known: Option<Duration>,
    /// From the split to the last write that the old master acknowledges.
    pub window: Duration,
    /// From the healing to the old master being a replica, or gone.
    pub demoted: Option<Duration>,
    /// Writes that the old master acknowledged after the split.
    pub acknowledged: usize,
    /// Those of all its acknowledged writes that are not there at the end.
    pub lost: usize,
    /// Writes that `WAIT 1` confirmed, before and after.
    pub confirmed: usize,
    /// Those of them that are not there at the end.
    pub confirmed_lost: usize,
}

/// Cuts the master off, heals the split, and counts what is left.
pub async fn split<S: System>(machines: &Machines, system: &mut S, topology: &Topology) -> Split {
    let (old, i) = (&topology.master, machine_of(&topology.master));
    let mut own = OwnClient::start(machines, i, old);
    let mut writes = Finder::of_writes(&topology.nodes, old);
    let mut addresses = system.listen(old);
    tokio::time::sleep(BEFORE).await;
    pause().await;

    let cut_at = Instant::now();
    cut(i);
    let first = writes.next(LIMIT).await;
    let known = match &first {
        Some((_, new)) => addresses.find(new, LIMIT).await,
        None => None,
    };
    drop((writes, addresses));
    tokio::time::sleep_until((cut_at + SPLIT).into()).await;
    let heal_at = Instant::now();
    heal(i);
    let demoted = own.demoted(LIMIT).await;
    let (plain, confirmed) = own.finish();

    let settled = system.settle().await;
    let master = &settled.master;
    let numbers = |writes: &[Write]| writes.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    let split = Split {
        written: first.map(|(at, _)| at - cut_at),
        known: known.map(|at| at - cut_at),
        window: plain.last().map_or(Duration::ZERO, |(_, at)| at.saturating_duration_since(cut_at)),
        demoted: demoted.map(|at| at.saturating_duration_since(heal_at)),
        acknowledged: plain.iter().filter(|(_, at)| *at > cut_at).count(),
        lost: missing(master, "plain", &numbers(&plain)),
        confirmed: confirmed.len(),
        confirmed_lost: missing(master, "confirmed", &numbers(&confirmed)),
    };
    let mut connection = dial(master, TIMEOUT).expect("it is the master");
    redis::cmd("FLUSHALL").query::<()>(&mut connection).expect("it is the master");
    split
}

/// The number of a write, and when it was acknowledged.
type Write = (u64, Instant);

/// Clients on the old master's machine: one writes, one writes with WAIT, one watches its role.
struct OwnClient {
    stop: Arc<AtomicBool>,
    plain: JoinHandle<Vec<Write>>,
    confirmed: JoinHandle<Vec<Write>>,
    demoted: UnboundedReceiver<Instant>,
}

impl OwnClient {
    fn start(machines: &Machines, i: usize, node: &str) -> OwnClient {
        let stop = Arc::new(AtomicBool::new(false));
        let (out, demoted) = unbounded_channel();
        let start = |wait: bool| {
            let (door, node, stop) = (machines.door(i), node.to_string(), stop.clone());
            thread::spawn(move || write(&door, &node, &stop, wait))
        };
        let (plain, confirmed) = (start(false), start(true));
        let (door, node, stopping) = (machines.door(i), node.to_string(), stop.clone());
        thread::spawn(move || watch_role(&door, &node, &stopping, &out));
        OwnClient { stop, plain, confirmed, demoted }
    }

    /// When it stopped being a master.
    async fn demoted(&mut self, within: Duration) -> Option<Instant> {
        tokio::time::timeout(within, self.demoted.recv()).await.ok().flatten()
    }

    /// The acknowledged writes, and the confirmed ones.
    fn finish(self) -> (Vec<Write>, Vec<Write>) {
        self.stop.store(true, Ordering::Relaxed);
        (self.plain.join().expect("no panic"), self.confirmed.join().expect("no panic"))
    }
}

fn write(door: &Door, node: &str, stop: &AtomicBool, wait: bool) -> Vec<Write> {
    door.enter();
    let (mut writes, mut number, mut connection) = (Vec::new(), 0, None);
    let kind = if wait { "confirmed" } else { "plain" };
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(WRITE_EVERY);
        let Some(mut open) = connection.take().or_else(|| dial(node, PATIENCE).ok()) else { continue };
        number += 1;
        let set = redis::cmd("SET").arg(format!("{kind}:{number}")).arg(number).query::<()>(&mut open);
        let done = set
            .and_then(|()| if wait { redis::cmd("WAIT").arg(1).arg(WAIT_MS).query::<u64>(&mut open) } else { Ok(1) });
        if done.as_ref().is_ok_and(|copies| *copies >= 1) {
            writes.push((number, Instant::now()));
        }
        connection = Some(open).filter(|_| done.is_ok() || done.is_err_and(|error| is_refusal(&error)));
    }
    writes
}

fn watch_role(door: &Door, node: &str, stop: &AtomicBool, out: &UnboundedSender<Instant>) {
    door.enter();
    while !stop.load(Ordering::Relaxed) {
        let demoted = match info(node, "replication") {
            Ok(info) => info.contains("role:slave"),
            Err(error) => error.is_connection_refusal(),
        };
        if demoted {
            let _ = out.send(Instant::now()); // Nobody may want to know any more.
            return;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// How many of these writes a node does not have.
fn missing(node: &str, kind: &str, numbers: &[u64]) -> usize {
    let mut connection = dial(node, TIMEOUT).expect("it is the master");
    let missing_of = |numbers: &[u64]| {
        let keys: Vec<String> = numbers.iter().map(|number| format!("{kind}:{number}")).collect();
        let values: Vec<Option<u64>> = redis::cmd("MGET").arg(&keys).query(&mut connection).expect("it answers");
        values.iter().filter(|value| value.is_none()).count()
    };
    numbers.chunks(CHUNK).map(missing_of).sum()
}
