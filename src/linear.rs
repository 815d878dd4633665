//! For tests of readers: how the time of reading grows with what is read. I/O (the thread's clock).

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Runs are repeated and the shortest counts: what else the machine does only makes them longer.
const REPEATS: usize = 9;
/// Below this, what is measured is the clock.
const FLOOR: Duration = Duration::from_millis(2);
/// Ten times the input may take this many times as long: ten, and what caches cost.
const GROWTH_MAX: u32 = 15;

/// The time that this thread has been running on a processor: what others do does not count.
fn clock() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("it counts from nought")
}

/// How long this thread works at it.
pub fn thread_time(work: impl FnOnce()) -> Duration {
    let began = clock();
    work();
    clock().saturating_sub(began)
}

/// How long this thread works at it at least: the shortest of several runs.
pub fn shortest(mut work: impl FnMut()) -> Duration {
    (0..REPEATS).map(|_| thread_time(&mut work)).min().expect("there are some")
}

/// Fails if ten times the input takes more than about ten times as long.
pub fn assert_linear<I>(what: &str, size: usize, make: impl Fn(usize) -> I, read: impl Fn(&I)) {
    let cost_of = |input: I| shortest(|| read(&input));
    let (small, large) = (cost_of(make(size)), cost_of(make(10 * size)));
    assert!(large <= small.max(FLOOR) * GROWTH_MAX, "{what}: {size} takes {small:?}, ten times as much {large:?}");
}
