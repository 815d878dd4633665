//! The one clock: what time it is, for everything that is recorded or decided. I/O.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use crate::model::Timestamp;

/// The wall clock's time at one moment of the monotonic clock: taken once, at the first question.
static ANCHOR: LazyLock<(Instant, Duration)> =
    LazyLock::new(|| (Instant::now(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()));

/// The time now. Within one process it only goes forward, as fast as time goes by: a jump of the
/// wall clock changes no duration.
///
/// Caveats: what a clock that is set right later says is not followed until the next start.
pub fn now() -> Timestamp {
    at(Instant::now())
}

/// The time at a moment of the monotonic clock, also at one before the process' first question.
pub fn at(moment: Instant) -> Timestamp {
    let (anchor, wall) = &*ANCHOR;
    let time = *wall + moment.saturating_duration_since(*anchor);
    let time = time.saturating_sub(anchor.saturating_duration_since(moment));
    Timestamp(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_between_times_are_those_between_moments() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let before = at(start.checked_sub(second).unwrap());
        assert_eq!(at(start).since_ms(before), 1000);
        assert_eq!(at(start + second).since_ms(before), 2000);
        assert!(now() >= at(start));
    }

    #[test]
    fn the_time_is_the_wall_clocks() {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let apart = now().0.abs_diff(u64::try_from(wall.as_millis()).unwrap());
        assert!(apart < 60_000, "{apart} ms");
    }
}
