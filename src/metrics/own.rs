//! Metrics of the operator's own limits: listeners, files, and the leader's loop. I/O.

use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

use super::Maker;

/// Of listeners, and of the files that they and others have open.
#[derive(Debug)]
pub(super) struct Doors {
    pub connections: IntGaugeVec,
    pub connections_refused: IntCounterVec,
    pub open_files: IntGauge,
    pub open_files_limit: IntGauge,
}

impl Doors {
    pub fn new(make: &Maker) -> Doors {
        Doors {
            connections: make.gauge("redisctl_connections", "Open connections of clients.", &["listener"]),
            connections_refused: make.counter(
                "redisctl_connections_refused_total",
                "Connections of clients that were refused or ended, by the bound that they met.",
                &["listener", "reason"],
            ),
            open_files: make.number("redisctl_open_files", "Files that the operator has open, connections included."),
            open_files_limit: make.number("redisctl_open_files_limit", "How many it may have open."),
        }
    }
}

/// The metrics of the leader's loop.
#[derive(Debug)]
pub(super) struct Loop {
    pub lateness: HistogramVec,
    pub rounds: HistogramVec,
}

impl Loop {
    pub fn new(make: &Maker) -> Loop {
        Loop {
            lateness: make.seconds(
                "redisctl_loop_lateness_seconds",
                "How late the leader's loop answers a beat that is due four times in a second.",
                &[],
            ),
            rounds: make.seconds("redisctl_loop_round_seconds", "Rounds of the leader's loop: planning.", &[]),
        }
    }
}
