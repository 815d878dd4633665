//! Thousands of histories with faults, from seeds: the real world, planner and checks against a toy
//! store, Mesos and Redis, with a clock of their own; no sockets, no sleep. I/O: none but its output.
//!
//! `SIM_SEED=7 cargo test --test simulation` tells the history of seed 7;
//! `SIM_HISTORIES=100000` plays more of them; `SIM_BUG=NoQuorum` plants that bug.

// `any` would stop at the first news, and every process is to have its turn.
#![allow(clippy::unnecessary_fold)]
// A toy machine is up, cut off, serving independently.
#![allow(clippy::struct_excessive_bools)]
// One line each, and no more to say.
#![allow(clippy::needless_for_each, clippy::let_and_return)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

mod crash;
mod dice;
mod history;
mod judge;
mod mesos;
mod operator;
mod planted;
mod redis;
mod store;
mod whole;

use history::History;

/// Histories of one run, unless told otherwise.
const HISTORIES: u64 = 1500;
/// Of those in which the master is lost again and again.
const CONTESTS: u64 = 250;
/// Of those in which leaders are stopped, and go on when another leads.
const RIVALRIES: u64 = 250;
/// Of those in which the store loses something.
const ROBBERIES: u64 = 200;
/// Of those in which it goes back behind promotions.
const RESTORATIONS: u64 = 1500;
/// Histories in which a planted bug must be found.
const PLANTED_HISTORIES: u64 = 60;
/// After so many broken ones, no more are played.
const BROKEN_MAX: usize = 20;

type Kind = fn(History) -> History;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// The bug that was asked for.
fn planted() -> Option<planted::Bug> {
    let name = std::env::var("SIM_BUG").ok()?;
    Some(*planted::ALL.iter().find(|bug| format!("{bug:?}") == name).expect("SIM_BUG names a bug"))
}

/// Plays one history; what went wrong, if anything did.
fn play(kind: Kind, seed: u64, told: bool) -> Result<(usize, String), (String, String)> {
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut history = History::new(seed, told);
        history.bug = planted();
        kind(history)
    }));
    match played {
        Ok(history) => match &history.broken {
            None => Ok((history.acts, history.story())),
            Some(what) => Err((what.clone(), history.story())),
        },
        Err(_) => Err(("a panic, see above".to_string(), String::new())),
    }
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_and_all_is_well_in_the_end() {
    simulate(History::run, HISTORIES);
}

#[test]
fn a_master_that_is_lost_again_and_again_costs_no_confirmed_write() {
    simulate(History::contested, CONTESTS);
}

#[test]
fn a_leader_that_is_stopped_while_another_is_elected_costs_no_confirmed_write() {
    simulate(History::rivals, RIVALRIES);
}

#[test]
fn a_store_that_loses_something_while_tasks_run_stops_the_operator_and_costs_no_task() {
    simulate(History::robbed, ROBBERIES);
}

#[test]
fn a_store_that_was_restored_behind_a_promotion_deposes_no_master_and_costs_no_write() {
    simulate(History::restored, RESTORATIONS);
}

#[test]
fn an_operator_that_dies_at_any_step_is_followed_by_one_that_comes_to_the_same_end() {
    let started = Instant::now();
    match crash::exhaust() {
        Ok(plays) => println!("{plays} plays in {:.1} s", started.elapsed().as_secs_f64()),
        Err(what) => panic!("{what}"),
    }
}

/// So many of them must be found in that many histories; in ten times as many, all were.
const FOUND_MIN: usize = 20;

/// One fault anywhere in a long time, and two in a short one; how many states that are at least.
const SEARCHES: [(whole::Bound, usize); 2] = [
    (whole::Bound { faults: 1, acts: 120, lasts_ms: 90_000 }, 12_000),
    (whole::Bound { faults: 2, acts: 10, lasts_ms: 6_000 }, 20_000),
];

/// `SIM_FAULTS=2 SIM_ACTS=60 SIM_LASTS=90000` searches within that bound, and only that.
#[test]
fn in_a_small_world_searched_whole_nothing_is_lost_and_all_is_well_in_the_end() {
    let asked = number("SIM_FAULTS").map(|faults| whole::Bound {
        faults: u8::try_from(faults).expect("few"),
        acts: number("SIM_ACTS").map_or(60, |acts| usize::try_from(acts).expect("few")),
        lasts_ms: number("SIM_LASTS").unwrap_or(6000),
    });
    let searches = asked.map_or(SEARCHES.to_vec(), |bound| vec![(bound, 0)]);
    for (bound, states_min) in searches {
        let started = Instant::now();
        let found = whole::search(bound, planted());
        let (states, ends) = (found.states, found.ends);
        println!("{bound:?}: {states} states, {ends} ends, in {:.1} s", started.elapsed().as_secs_f64());
        if let Some((what, path)) = found.broken {
            panic!("{}\n{path:?}\n{what}", whole::story(bound, &path, planted()));
        }
        assert!(states >= states_min, "it was larger before");
    }
}

#[test]
fn bugs_are_found_when_they_are_planted_in_a_small_world() {
    let (bound, _) = SEARCHES[0];
    let found = |bug: &planted::Bug| {
        let search = || whole::search(bound, Some(*bug));
        catch_unwind(AssertUnwindSafe(search)).map_or(true, |found| found.broken.is_some())
    };
    let missed: Vec<_> = planted::SMALL.iter().filter(|bug| !found(bug)).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn a_command_that_comes_after_a_later_leader_has_spoken_to_the_node_is_void() {
    if let Some((what, story)) = whole::late_command(planted()) {
        panic!("{story}\n{what}");
    }
}

#[test]
fn bugs_that_others_had_are_found_when_they_are_planted() {
    let found = |bug: &planted::Bug| {
        if *bug == planted::Bug::FormersAreNotFenced {
            return whole::late_command(Some(*bug)).map(|(what, _)| (0, what));
        }
        let finds = |seed: u64| {
            let mut history = History::new(seed, false);
            history.bug = Some(*bug);
            let kind = if seed.is_multiple_of(2) { History::contested } else { History::run };
            catch_unwind(AssertUnwindSafe(|| kind(history).broken)).unwrap_or_else(|_| Some("a panic".to_string()))
        };
        std::iter::once(bug.known_seed()).chain(0..PLANTED_HISTORIES).find_map(|seed| Some((seed, finds(seed)?)))
    };
    let shares = planted::ALL.chunks(planted::ALL.len().div_ceil(2));
    let told: Vec<_> = std::thread::scope(|scope| {
        let shares: Vec<_> =
            shares.map(|bugs| scope.spawn(|| bugs.iter().map(|bug| (*bug, found(bug))).collect::<Vec<_>>())).collect();
        shares.into_iter().flat_map(|share| share.join().expect("no panic")).collect()
    });
    for (bug, found) in &told {
        println!("{bug:?}: {found:?}");
    }
    let missed: Vec<_> = told.iter().filter(|(_, found)| found.is_none()).map(|(bug, _)| bug).collect();
    assert!(told.len() - missed.len() >= FOUND_MIN, "not found: {missed:?}");
}

fn simulate(kind: Kind, histories: u64) {
    if let Some(seed) = number("SIM_SEED") {
        match play(kind, seed, true) {
            Ok((_, story)) => return println!("{story}\nseed {seed}: all is well"),
            Err((what, story)) => panic!("{story}\nseed {seed}: {what}"),
        }
    }
    let (histories, first) = (number("SIM_HISTORIES").unwrap_or(histories), number("SIM_FIRST").unwrap_or(0));
    let started = Instant::now();
    let broken = play_all(kind, first, histories);
    println!("{histories} histories in {:.1} s", started.elapsed().as_secs_f64());
    if let Some((seed, what)) = broken.first() {
        let (_, story) = play(kind, *seed, true).err().unwrap_or_default();
        let all: Vec<String> = broken.iter().map(|(seed, what)| format!("seed {seed}: {what}")).collect();
        panic!(
            "{story}\n{}\n\nseed {seed}: {what}\nreplay: SIM_SEED={seed} cargo test --test simulation",
            all.join("\n")
        );
    }
}

/// Plays histories on all cores; those that broke, by seed.
fn play_all(kind: Kind, first: u64, histories: u64) -> Vec<(u64, String)> {
    let next = AtomicU64::new(first);
    let broken = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while broken.lock().unwrap().len() < BROKEN_MAX {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + histories {
                        break;
                    }
                    if let Err((what, _)) = play(kind, seed, false) {
                        broken.lock().unwrap().push((seed, what));
                    }
                }
            });
        }
    });
    let mut broken = broken.into_inner().unwrap();
    broken.sort();
    broken
}
