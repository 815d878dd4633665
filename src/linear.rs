//! For tests of readers: how the time of reading grows with what is read. I/O (the thread's clock).

use std::time::Duration;

/// Runs are repeated and the shortest counts: what else the machine does only makes them longer.
const REPEATS: usize = 5;
/// Below this, what is measured is the clock.
const FLOOR: Duration = Duration::from_millis(2);
/// Ten times the input may take this many times as long: ten, and what caches cost.
const GROWTH_MAX: u32 = 15;

/// The time that this thread has been running on a processor: what others do does not count.
fn clock() -> Duration {
    std::thread::yield_now(); // Only then the kernel brings the number up to date.
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("the first of three numbers"))
}

/// How long this thread works at it.
pub fn thread_time(work: impl FnOnce()) -> Duration {
    let began = clock();
    work();
    clock().saturating_sub(began)
}

/// The shortest of several runs over an input.
pub fn shortest<I>(input: &I, read: impl Fn(&I)) -> Duration {
    (0..REPEATS).map(|_| thread_time(|| read(input))).min().expect("there are some")
}

/// Fails if ten times the input takes more than about ten times as long.
pub fn assert_linear<I>(what: &str, size: usize, make: impl Fn(usize) -> I, read: impl Fn(&I)) {
    let (small, large) = (shortest(&make(size), &read), shortest(&make(10 * size), &read));
    assert!(large <= small.max(FLOOR) * GROWTH_MAX, "{what}: {size} takes {small:?}, ten times as much {large:?}");
}
