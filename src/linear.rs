//! For tests of readers: how the time of reading grows with what is read. I/O (the thread's clock).

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Runs are repeated and the shortest counts: what else the machine does only makes them longer.
const REPEATS_MIN: usize = 3;
/// A machine may be slow for a while, so that one of both had no good run yet: more of both change that.
const REPEATS_MAX: usize = 30;
/// Below this, what is measured is the clock.
const FLOOR: Duration = Duration::from_micros(50);
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

/// Fails if ten times the input takes more than about ten times as long.
pub fn assert_linear<I>(what: &str, size: usize, make: impl Fn(usize) -> I, read: impl Fn(&I)) {
    let inputs = [make(size), make(10 * size)];
    let mut shortest = [Duration::MAX; 2];
    for repeat in 1..=REPEATS_MAX {
        for (input, shortest) in inputs.iter().zip(&mut shortest) {
            *shortest = thread_time(|| read(input)).min(*shortest);
        }
        if repeat >= REPEATS_MIN && shortest[1] <= shortest[0].max(FLOOR) * GROWTH_MAX {
            return;
        }
    }
    let [small, large] = shortest;
    panic!("{what}: {size} takes {small:?}, ten times as much {large:?}");
}
