//! What a chaos run found: faults, gaps of the writers, writes and what became of them. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clients::{Journal, Write, dial};
use crate::faults::{Kind, Tried};
use crate::support::wait_until;
use crate::world::{INSTANCES, World};

/// Keys that are looked for at once.
const CHUNK: usize = 1000;
/// How long the values may take to be read.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// So many of the lost values are shown.
const SHOWN: usize = 10;

/// It grows with the run.
#[derive(Default)]
pub struct Report {
    pub faults: Vec<Tried>,
    /// Why the run failed.
    pub failures: Vec<String>,
    discarded: BTreeSet<String>,
    acknowledged_lost: usize,
    confirmed_lost: usize,
}

impl Report {
    /// Takes down a failure, if it is one.
    pub fn failed(&mut self, why: Option<String>) {
        self.failures.extend(why);
    }

    /// Takes down what was reported as discarded so far: few events are kept.
    pub async fn discarded(&mut self, world: &World) {
        for (name, _) in INSTANCES {
            let events = world.events(name).await.unwrap_or_default(); // There is a next time.
            let discards = events.iter().filter(|event| event.reason == "WritesDiscarded");
            self.discarded
                .extend(discards.map(|event| format!("{} {}: {}", event.first_at, event.object, event.message)));
        }
    }

    /// Looks for all values on the masters.
    pub async fn values(&mut self, world: &World, journals: &[Arc<Journal>]) {
        for journal in journals {
            let Some(master) = world.status(journal.instance).await.ok().and_then(|status| status.master) else {
                self.failures.push(format!("{} has no master to read from", journal.instance));
                continue;
            };
            let writes = journal.writes.lock().expect("no panic").clone();
            for lost in missing(&master, journal, &writes).await {
                self.lost(journal, lost);
            }
        }
        if self.confirmed_lost > 0 {
            self.failures.push(format!("{} confirmed writes are lost", self.confirmed_lost));
        }
    }

    fn lost(&mut self, journal: &Journal, write: Write) {
        if !write.confirmed {
            self.acknowledged_lost += 1;
            return;
        }
        self.confirmed_lost += 1;
        if self.confirmed_lost <= SHOWN {
            let ago = jiff::SignedDuration::try_from(write.at.elapsed()).expect("a run is short");
            let key = journal.key(write.number);
            self.failures.push(format!(
                "{}: {key}, confirmed at {}, is lost",
                journal.instance,
                jiff::Timestamp::now() - ago
            ));
        }
    }

    /// Prints all of it.
    pub fn print(&self, journals: &[Arc<Journal>]) {
        self.print_faults(&gaps(&self.faults, journals));
        println!("(Where a machine is cut off, those of clients whose master was elsewhere count too.)");
        let count = |of: fn(&Write) -> bool| -> usize {
            journals.iter().map(|j| j.writes.lock().expect("no panic").iter().filter(|w| of(w)).count()).sum()
        };
        let (confirmed, plain) = (count(|write| write.confirmed), count(|write| !write.confirmed));
        println!("\n{:<44} {:>8} {:>8}", "writes", "all", "lost");
        println!("{:<44} {confirmed:>8} {:>8}", "confirmed by WAIT 1", self.confirmed_lost);
        println!("{:<44} {plain:>8} {:>8}", "acknowledged only", self.acknowledged_lost);
        let reads: usize = journals.iter().map(|journal| journal.reads.load(Ordering::Relaxed)).sum();
        let misses: usize = journals.iter().map(|journal| journal.misses.load(Ordering::Relaxed)).sum();
        println!("{:<44} {:>8} {misses:>8}", "reads of confirmed values, and not found then", reads + misses);
        println!("\nreported as discarded (WritesDiscarded): {}", self.discarded.len());
        self.discarded.iter().for_each(|event| println!("  {event}"));
    }

    fn print_faults(&self, gaps: &BTreeMap<Kind, Vec<Duration>>) {
        println!(
            "\n{:<28} {:>6} {:>8}   longest write gap: {:>9} {:>9} {:>9}",
            "fault", "done", "not done", "p50", "p99", "max"
        );
        let row = |what: &str, faults: &[&Tried], gaps: &[Duration]| {
            let done = faults.iter().filter(|fault| fault.done).count();
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| quantile(gaps, part));
            println!("{what:<28} {done:>6} {:>8}   {:>18} {p50:>9} {p99:>9} {max:>9}", faults.len() - done, "");
        };
        for kind in Kind::ALL {
            let faults: Vec<&Tried> = self.faults.iter().filter(|fault| fault.kind == kind).collect();
            row(&kind.to_string(), &faults, gaps.get(&kind).map_or(&[], Vec::as_slice));
        }
        row("all", &self.faults.iter().collect::<Vec<_>>(), &gaps.values().flatten().copied().collect::<Vec<_>>());
    }
}

/// The longest gap that each fault made in the writes of each client that it concerned.
fn gaps(faults: &[Tried], journals: &[Arc<Journal>]) -> BTreeMap<Kind, Vec<Duration>> {
    let done: Vec<&Tried> = faults.iter().filter(|fault| fault.done).collect();
    let mut gaps: BTreeMap<Kind, Vec<Duration>> = BTreeMap::new();
    for journal in journals {
        let times: Vec<Instant> = journal.writes.lock().expect("no panic").iter().map(|write| write.at).collect();
        let mut longest = vec![Duration::ZERO; done.len()];
        for pair in times.windows(2) {
            // The first fault within the gap made it, otherwise the last one before.
            let next = done.partition_point(|fault| fault.at < pair[0]);
            let within = done.get(next).is_some_and(|fault| fault.at <= pair[1]);
            let cause = if within { Some(next) } else { next.checked_sub(1) };
            let Some(cause) = cause else { continue };
            longest[cause] = longest[cause].max(pair[1] - pair[0]);
        }
        for (fault, gap) in done.iter().zip(longest) {
            if fault.instance.is_none_or(|instance| instance == journal.instance) {
                gaps.entry(fault.kind).or_default().push(gap);
            }
        }
    }
    gaps
}

/// The gap below which this part of all lies, for people.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // Few gaps.
fn quantile(gaps: &[Duration], part: f64) -> String {
    let mut sorted = gaps.to_vec();
    sorted.sort();
    let Some(last) = sorted.len().checked_sub(1) else { return "-".to_string() };
    format!("{} ms", sorted[(last as f64 * part).ceil() as usize].as_millis())
}

/// Those of the writes that a node does not have.
async fn missing(node: &str, journal: &Journal, writes: &[Write]) -> Vec<Write> {
    let mut missing = Vec::new();
    for chunk in writes.chunks(CHUNK) {
        let mut get = redis::cmd("MGET");
        get.arg(chunk.iter().map(|write| journal.key(write.number)).collect::<Vec<_>>());
        let values: Vec<Option<u64>> = wait_until("the master answers", READ_TIMEOUT, async || {
            let mut connection = dial(node).await.ok_or("cannot connect")?;
            get.query_async(&mut connection).await.map_err(|error| error.to_string())
        })
        .await;
        let absent = chunk.iter().zip(values).filter(|(write, value)| *value != Some(write.number));
        missing.extend(absent.map(|(write, _)| *write));
    }
    missing
}
