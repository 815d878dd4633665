//! When which instance is looked at: dirty ones now, others at their time, those whose writes were not
//! done after a backoff of their own. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Timestamp;

/// The first backoff after a pass whose writes were not done, and the longest, in milliseconds: the
/// instance's master may die meanwhile. (Steps that fail have backoffs of their own: see `tries`.)
const BACKOFF_MS: (u64, u64) = (100, 1000);

/// Names and times. An instance's backoff delays that instance only.
#[derive(Debug, Default)]
pub struct Schedule {
    dirty: BTreeSet<String>,
    /// Who had the last turn: the next is that of who comes after.
    turn: String,
    /// Those whose pass is under way.
    busy: BTreeSet<String>,
    /// Those of which a commit's outcome is not known: not planned until the store is listed.
    unknown: BTreeSet<String>,
    /// The delay after the next failure, and until when to wait now.
    backoffs: BTreeMap<String, (u64, Timestamp)>,
    revisits: BTreeMap<String, Timestamp>,
    /// The same by time: the earliest is asked for all the time.
    by_time: BTreeSet<(Timestamp, String)>,
}

impl Schedule {
    /// The instance is to be looked at.
    pub fn mark(&mut self, name: &str) {
        if !self.dirty.contains(name) {
            self.dirty.insert(name.to_string());
        }
    }

    /// It is to be looked at then at the latest; `None`: only when something happens.
    pub fn revisit(&mut self, name: &str, at: Option<Timestamp>) {
        if let Some(known) = self.revisits.remove(name) {
            self.by_time.remove(&(known, name.to_string()));
        }
        if let Some(at) = at {
            self.revisits.insert(name.to_string(), at);
            self.by_time.insert((at, name.to_string()));
        }
    }

    /// Marks those whose time has come.
    pub fn wake(&mut self, now: Timestamp) {
        while let Some((at, name)) = self.by_time.first().filter(|(at, _)| *at <= now).cloned() {
            self.by_time.remove(&(at, name.clone()));
            self.revisits.remove(&name);
            self.dirty.insert(name);
        }
    }

    /// The earliest moment at which something becomes due.
    pub fn next(&self) -> Option<Timestamp> {
        let retry = |(name, (_, at)): (&String, &(u64, Timestamp))| self.dirty.contains(name).then_some(*at);
        let retries = self.backoffs.iter().filter(|(name, _)| !self.busy.contains(*name)).filter_map(retry);
        self.by_time.first().map(|(at, _)| *at).into_iter().chain(retries).min()
    }

    /// Takes out those that may be planned now, in the order of their turns.
    pub fn take(&mut self, now: Timestamp) -> Vec<String> {
        let free = |name: &&String| {
            let waits = self.backoffs.get(*name).is_some_and(|(_, at)| *at > now);
            !waits && !self.busy.contains(*name) && !self.unknown.contains(*name)
        };
        let mut names: Vec<String> = self.dirty.iter().filter(free).cloned().collect();
        let next = names.partition_point(|name| *name <= self.turn);
        names.rotate_left(next);
        for name in &names {
            self.dirty.remove(name);
        }
        names
    }

    /// It had its turn.
    pub fn had_turn(&mut self, name: &str) {
        name.clone_into(&mut self.turn);
    }

    /// Whether so many passes are under way that no more may begin.
    pub fn is_full(&self, passes_max: usize) -> bool {
        self.busy.len() >= passes_max
    }

    /// Its pass is under way.
    pub fn begin(&mut self, name: &str) {
        self.busy.insert(name.to_string());
    }

    /// Its pass is over, well: look at what came of it.
    pub fn succeed(&mut self, name: &str) {
        self.busy.remove(name);
        self.backoffs.remove(name);
        self.mark(name);
    }

    /// Its pass is over, and has failed; answers how long it is left alone, in milliseconds.
    pub fn fail(&mut self, name: &str, now: Timestamp) -> u64 {
        self.busy.remove(name);
        self.mark(name);
        let delay_ms = self.backoffs.get(name).map_or(BACKOFF_MS.0, |(delay, _)| (delay * 2).min(BACKOFF_MS.1));
        self.backoffs.insert(name.to_string(), (delay_ms, now.plus_ms(delay_ms)));
        delay_ms
    }

    /// Whether its writes were done is not known.
    pub fn doubt(&mut self, name: &str) {
        self.unknown.insert(name.to_string());
    }

    /// The store was listed: nothing is in doubt.
    pub fn listed(&mut self) {
        self.unknown.clear();
    }

    /// It is gone.
    pub fn forget(&mut self, name: &str) {
        self.revisit(name, None);
        self.backoffs.remove(name);
        self.unknown.remove(name);
    }

    /// Those whose wants are not known yet: under way, or about to be planned.
    pub fn undecided(&self) -> BTreeSet<String> {
        let soon = self.dirty.iter().filter(|name| !self.backoffs.contains_key(*name));
        self.busy.iter().chain(soon).cloned().collect()
    }

    /// How many are dirty, and how many are under way.
    pub fn depth(&self) -> (usize, usize) {
        (self.dirty.len(), self.busy.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_left_over_comes_before_who_had_a_turn() {
        let mut schedule = Schedule::default();
        let mark = |schedule: &mut Schedule| ["a", "b", "c", "d"].iter().for_each(|name| schedule.mark(name));
        mark(&mut schedule);
        let mut planned = Vec::new();
        for _ in 0..4 {
            let names = schedule.take(Timestamp(0));
            schedule.had_turn(&names[0]); // There was no time for more.
            planned.push(names[0].clone());
            mark(&mut schedule);
        }
        assert_eq!(planned, ["a", "b", "c", "d"], "though each is dirty all the time");
    }

    #[test]
    fn a_backoff_delays_its_own_instance_only_and_doubles() {
        let mut schedule = Schedule::default();
        for name in ["a", "b"] {
            schedule.mark(name);
        }
        assert_eq!(schedule.take(Timestamp(0)), ["a", "b"]);
        schedule.begin("a");
        assert_eq!(schedule.fail("a", Timestamp(0)), 100);
        schedule.mark("b");
        assert_eq!(schedule.take(Timestamp(50)), ["b"]);
        assert_eq!(schedule.next(), Some(Timestamp(100)));
        assert_eq!(schedule.take(Timestamp(100)), ["a"]);
        assert_eq!(schedule.fail("a", Timestamp(100)), 200);
    }

    #[test]
    fn an_instance_whose_writes_fail_for_ever_is_looked_at_each_second() {
        let (mut schedule, mut now) = (Schedule::default(), Timestamp(0));
        for _ in 0..100 {
            schedule.mark("a");
            assert_eq!(schedule.take(now), ["a"]);
            schedule.begin("a");
            let delay_ms = schedule.fail("a", now);
            assert!(delay_ms <= 1000, "{delay_ms}");
            now = now.plus_ms(delay_ms);
        }
    }

    #[test]
    fn an_instance_is_never_under_way_twice() {
        let mut schedule = Schedule::default();
        schedule.mark("a");
        assert_eq!(schedule.take(Timestamp(0)), ["a"]);
        schedule.begin("a");
        assert!(schedule.is_full(1) && !schedule.is_full(2));
        schedule.mark("a");
        assert_eq!(schedule.take(Timestamp(0)), Vec::<String>::new());
        schedule.succeed("a");
        assert_eq!(schedule.take(Timestamp(0)), ["a"]);
    }

    #[test]
    fn the_newest_time_to_look_again_counts() {
        let mut schedule = Schedule::default();
        schedule.revisit("a", Some(Timestamp(10)));
        schedule.revisit("a", Some(Timestamp(20)));
        schedule.wake(Timestamp(15));
        assert_eq!(schedule.take(Timestamp(15)), Vec::<String>::new());
        schedule.wake(Timestamp(20));
        assert_eq!(schedule.take(Timestamp(20)), ["a"]);
        assert_eq!(schedule.next(), None);
    }
}
