//! Whether the leader's loop wakes when it should, and how long its rounds take. I/O (a clock).
//!
//! A master's death is seen as late as the loop wakes. So it has to answer a beat that is due at known
//! moments: what keeps it from that, or keeps its thread, would keep it from a failover too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::metrics::Metrics;

/// Between two beats: enough to see a delay that users notice, too few to cost anything.
const BEAT: Duration = Duration::from_millis(250);

/// The beat of a loop.
pub struct Pulse {
    beats: Interval,
    metrics: Arc<Metrics>,
}

impl Pulse {
    /// The first beat is due at once.
    pub fn new(metrics: Arc<Metrics>) -> Pulse {
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay); // A long delay is told once, as what it was.
        Pulse { beats, metrics }
    }

    /// Waits for the next beat. Nothing is lost when something else is taken first.
    pub async fn beat(&mut self) {
        let due = self.beats.tick().await;
        self.metrics.loop_late(due.elapsed());
    }

    /// Does a round of the loop.
    pub fn round(&self, round: impl FnOnce()) {
        let began = Instant::now();
        round();
        self.metrics.round(began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Board;

    #[tokio::test]
    async fn a_loop_that_was_kept_is_told_to_be_late_by_as_much() {
        let metrics = Arc::new(Metrics::new());
        let mut pulse = Pulse::new(metrics.clone());
        pulse.beat().await;
        std::thread::sleep(BEAT + Duration::from_millis(550)); // Somebody keeps the thread.
        pulse.beat().await;
        pulse.round(|| std::thread::sleep(Duration::from_millis(30)));
        let text = metrics.render(&Board::default(), |_| true);
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{text}"));
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
        };
        assert!(value("redisctl_loop_lateness_seconds_count") >= 2.0);
        assert!(value("redisctl_loop_lateness_seconds_sum") >= 0.5);
        assert!(value("redisctl_loop_round_seconds_sum") >= 0.03);
    }
}
