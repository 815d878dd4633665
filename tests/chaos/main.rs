//! Chaos on real processes: clients write while faults run in seeded order, and nothing is lost. I/O.
//!
//! Mesos with an agent on each machine, etcd, two operators on machines of their own, and instances
//! with durability one. Clients write numbered values and have each confirmed by WAIT 1; all the time
//! one fault after the other is done and undone. In the end all is healed, and every confirmed write
//! must be there, every instance Ready with one master, and no task may run that is not recorded.
//!
//! `make chaos MINUTES=10 SEED=n` runs it for long; a short run is a test as any other.

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod faults;
#[path = "../scenarios/operator.rs"]
#[allow(dead_code)] // Scenarios use all of it.
mod operator;
mod report;
mod world;

use std::time::{Duration, Instant};

use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use support::machines;

use crate::clients::Clients;
use crate::faults::{Kind, Tried};
use crate::report::Report;
use crate::world::World;

/// How many minutes; absent: the short run.
const MINUTES_ENV: &str = "CHAOS_MINUTES";
/// Decides the order of the faults and all that is drawn.
const SEED_ENV: &str = "CHAOS_SEED";
const SEED: u64 = 1;
/// The short run does each kind about once.
const SHORT: Pace = Pace { total: Duration::from_secs(25), lasts_ms: 400..1600, quiet_ms: 300..700 };
/// Of a long run: Mesos takes an agent for unreachable after 3 s, a lease lapses after as long, and a
/// master that is cut off is replaced after 4 s.
const LONG: Pace = Pace { total: Duration::ZERO, lasts_ms: 500..9000, quiet_ms: 500..4000 };
/// How long all may take to be well again once everything is healed, on a loaded machine.
const HEALING: Duration = Duration::from_secs(90);

struct Pace {
    total: Duration,
    /// How long a fault lasts.
    lasts_ms: std::ops::Range<u64>,
    /// How long before the next.
    quiet_ms: std::ops::Range<u64>,
}

#[test]
fn no_confirmed_write_is_lost_and_all_heals_whatever_fails_one_after_the_other() {
    machines::enter_own_network();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(chaos());
}

async fn chaos() {
    let given = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let seed = given(SEED_ENV).map_or(SEED, |text| text.parse().expect("CHAOS_SEED is a whole number"));
    let minutes = given(MINUTES_ENV).map(|text| text.parse::<f64>().expect("CHAOS_MINUTES is a number"));
    let pace = minutes.map_or(SHORT, |minutes| Pace { total: Duration::from_secs_f64(minutes * 60.0), ..LONG });
    println!("seed {seed}, {:?}", pace.total);

    let mut world = World::start().await;
    let clients = Clients::start(&world.api());
    let mut report = Report::default();
    do_faults(&mut world, &pace, &mut StdRng::seed_from_u64(seed), &mut report).await;
    println!("{}  all is healed", jiff::Timestamp::now());

    let settled = world.settled(HEALING).await;
    report.failed(settled.err());
    report.failed(clients.write_again().await.err());
    report.discarded(&world).await;
    report.failed(world.panics());
    let journals = clients.stop().await;
    report.values(&world, &journals).await;
    report.print(&journals);
    assert!(report.failures.is_empty(), "seed {seed}:\n{}", report.failures.join("\n"));
}

/// All kinds of faults in a drawn order, then in another, and so on.
async fn do_faults(world: &mut World, pace: &Pace, random: &mut StdRng, report: &mut Report) {
    let end = Instant::now() + pace.total;
    let mut left: Vec<Kind> = Vec::new();
    while Instant::now() < end {
        if left.is_empty() {
            left = Kind::ALL.to_vec();
            left.shuffle(random);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(pace.quiet_ms.clone()))).await;
        // Drawn whether the fault can be done or not, so that the rest of the order stays.
        let lasts = Duration::from_millis(random.random_range(pace.lasts_ms.clone()));
        let choice = random.random_range(0..usize::MAX);
        let kind = left.pop().expect("just filled");
        let begun = faults::begin(world, kind, choice).await;
        let at = Instant::now();
        match &begun {
            Ok(fault) => println!("{}  {kind}: {}, for {lasts:?}", jiff::Timestamp::now(), fault.what),
            Err(why) => println!("{}  {kind}: not now: {why:#}", jiff::Timestamp::now()),
        }
        let instance = begun.as_ref().ok().and_then(|fault| fault.instance);
        report.faults.push(Tried { kind, at, done: begun.is_ok(), instance });
        if let Ok(fault) = begun {
            tokio::time::sleep(lasts).await;
            faults::end(world, fault.undo).await;
        }
        world.start_ended_agents();
        report.discarded(world).await;
    }
}
