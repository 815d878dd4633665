//! A small world searched whole: all that may happen in it within a bound is looked at, state by state. Pure.
//!
//! Two agents, a master and two replicas (two of the three on one agent), two operators. Each state has one
//! next act; before it may come any fault, and any end of one. So a search with `faults: n` sees every
//! history in which at most n faults come among the first `acts` acts, at any of them, end at any of them or
//! when `lasts_ms` have passed, and all else happens in its order: a message is late when its sender or
//! receiver is stopped or cut off, not otherwise. From each state the world is then left in peace, and must
//! come to rest, ready, with all that was confirmed.
//!
//! Two states are one when they differ in nothing but names, in texts that only people read, or in how long
//! ago things were by less than a tenth of a second (a second, beyond ten). After `acts`, states are compared
//! where all wait.

use std::collections::HashMap;

use crate::history::{History, Move};
use crate::planted::Bug;

/// What may happen beside what happens by itself.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Faults, and writes of clients that do not wait for rest. Each lasts as long as it may.
    pub faults: u8,
    /// They come before this act of the world.
    pub acts: usize,
    /// They last so long at most.
    pub lasts_ms: u64,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Found {
    pub states: usize,
    pub ends: usize,
    pub broken: Option<(String, Vec<(usize, Move)>)>,
}

struct Search {
    bound: Bound,
    /// Each state by its name, with how many faults could come after it, and from how early on.
    known: HashMap<u128, (u8, usize)>,
    path: Vec<(usize, Move)>,
    found: Found,
    text: String,
}

/// Searches the world within the bound, until something is broken.
pub fn search(bound: Bound, bug: Option<Bug>) -> Found {
    let mut search =
        Search { bound, known: HashMap::new(), path: Vec::new(), found: Found::default(), text: String::new() };
    let world = begin(bound, bug, false);
    search.explore(world, bound.faults);
    search.found.states = search.known.len();
    search.found
}

fn begin(bound: Bound, bug: Option<Bug>, told: bool) -> History {
    let mut world = History::small(bound.lasts_ms, told);
    (world.bug, world.acts) = (bug, 0);
    world.plant();
    world
}

/// Tells the story of what was found.
pub fn story(bound: Bound, path: &[(usize, Move)], bug: Option<Bug>) -> String {
    let mut world = begin(bound, bug, true);
    let mut path = path.iter().peekable();
    loop {
        while let Some((_, it)) = path.next_if(|(acts, _)| *acts == world.acts) {
            world.make(*it);
        }
        if world.is_broken() || (!world.proceed() && path.peek().is_none()) {
            break;
        }
    }
    if world.broken.is_none() {
        world.judge_end();
    }
    world.story()
}

/// A leader is stopped while it points a replica to the master that it has made, and goes on when that
/// replica is the master itself. What went wrong, if anything did, and the story of it.
pub fn late_command(bug: Option<Bug>) -> Option<(String, String)> {
    let bound = Bound { faults: 0, acts: 0, lasts_ms: 60_000 };
    (0..60).find_map(|acts| {
        let mut world = begin(bound, bug, true);
        world.make(Move::Kill(0));
        for _ in 0..acts {
            world.proceed();
        }
        world.make(Move::Pause(0));
        world.make(Move::Lapse);
        if !world.has_command_in_hand() {
            return None;
        }
        world.live_for(10_000);
        world.hang_master("a");
        for _ in 0..20 {
            world.live_for(1000);
            world.make(Move::Write);
        }
        world.go_on_all();
        world.make(Move::Late(0));
        while !world.is_broken() && world.proceed() {}
        if !world.is_broken() {
            world.judge_end();
        }
        Some((world.broken.clone()?, world.story()))
    })
}

impl Search {
    /// From this state on, with so many faults to come.
    fn explore(&mut self, mut world: History, faults: u8) {
        loop {
            if world.is_broken() {
                return self.tell(&world);
            }
            // After the bound there is one way to go, which others join at the latest where all is at rest.
            let looks = world.acts < self.bound.acts || world.is_rested();
            if looks && self.is_known(&world, faults) {
                return;
            }
            let may = if world.acts < self.bound.acts { faults } else { 0 };
            let new = if may > 0 { world.faults_now() } else { Vec::new() };
            let ends = if world.acts < self.bound.acts { world.ends_now() } else { Vec::new() };
            let moves =
                new.into_iter().map(|it| (it, faults.saturating_sub(1))).chain(ends.into_iter().map(|it| (it, faults)));
            for (it, left) in moves {
                let mut other = world.clone();
                self.path.push((world.acts, it));
                other.make(it);
                self.explore(other, left);
                if self.found.broken.is_some() {
                    return;
                }
                self.path.pop();
            }
            if !world.proceed() {
                self.found.ends += 1;
                if !world.is_broken() {
                    world.judge_end();
                }
                if world.broken.is_some() {
                    self.tell(&world);
                }
                return;
            }
        }
    }

    fn is_known(&mut self, world: &History, faults: u8) -> bool {
        // Later than the bound, what could still have come makes no difference.
        let (faults, acts) = if world.acts < self.bound.acts { (faults, world.acts) } else { (0, usize::MAX) };
        let name = world.fingerprint(&mut self.text);
        match self.known.get(&name) {
            Some((known, since)) if *known >= faults && *since <= acts => true,
            _ => {
                self.known.insert(name, (faults, acts));
                false
            }
        }
    }

    fn tell(&mut self, world: &History) {
        let what = world.broken.clone().unwrap_or_default();
        self.found.broken = Some((what, self.path.clone()));
    }
}
