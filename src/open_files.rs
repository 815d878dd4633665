//! The limit of open files: who may have how many of them, so that nobody takes those of others. I/O.
//!
//! Connections to nodes, to the store and to Mesos are what failovers need. So whoever calls us gets a part that is
//! known before, and nodes the rest.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::board::Board;
use crate::metrics::Metrics;
use crate::model::Role;

/// For the store, Mesos, other operators, logs, files that are read, tokio itself, and connections that are refused.
const OWN: usize = 64;
/// One part of so many is the API's, ...
const API_PART: usize = 8;
/// ... with at least and at most so many connections.
const API: (usize, usize) = (16, 4096);
/// One part of so many is Sentinel's, ...
const SENTINEL_PART: usize = 4;
/// ... with at least, and at most as many as Redis' `maxclients`.
const SENTINEL: (usize, usize) = (16, 10_000);
/// Without a limit, or above this, no more is reckoned with.
const LIMIT_MAX: usize = 1 << 20;
/// Whoever is below this has a shell's limit of old times.
const USUAL: usize = 1024;
/// Between two looks at how many are open.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Of the limit: more than this part is told, ...
const NEARLY_ALL: f64 = 0.9;
/// ... and less than this that it is over.
const FEWER: f64 = 0.8;

/// How many files each may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The process' limit.
    pub limit: usize,
    /// Connections of the API.
    pub api: usize,
    /// Connections of Sentinel's clients.
    pub sentinel: usize,
    /// Connections to nodes.
    pub nodes: usize,
}

impl Shares {
    /// Of this limit.
    pub fn of(limit: usize) -> Shares {
        let left = limit.saturating_sub(OWN);
        let (api, sentinel) =
            ((left / API_PART).clamp(API.0, API.1), (left / SENTINEL_PART).clamp(SENTINEL.0, SENTINEL.1));
        Shares { limit, api, sentinel, nodes: left.saturating_sub(api + sentinel).max(1) }
    }

    /// Of the limit that this process has.
    pub fn of_process() -> Shares {
        let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
        Shares::of(limit.unwrap_or(LIMIT_MAX).min(LIMIT_MAX))
    }

    /// What is wrong with it for so many nodes, of which so many are masters; none: nothing.
    fn too_few(self, nodes: usize, masters: usize) -> Option<String> {
        // Each master is watched on a connection of its own; others may share, but each change of one takes one.
        let needed = masters + nodes.div_ceil(API_PART).max(1);
        if needed <= self.nodes {
            return None;
        }
        let limit = self.limit;
        let wanted = (limit + 1..LIMIT_MAX).find(|more| Shares::of(*more).nodes >= needed + nodes);
        Some(format!(
            "the limit of open files is {limit}, of which connections to nodes may take {}: too few for {nodes} nodes with \
             {masters} masters; some masters are not watched until it is {} or more (LimitNOFILE in systemd's unit, \
             ulimit -n)",
            self.nodes,
            wanted.unwrap_or(LIMIT_MAX),
        ))
    }
}

/// Many systems allow a process 1,024 files unless it asks for more: as many as it may have.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!("raise the limit of open files from {:?}: {error}", limit.current);
    }
    let shares = Shares::of_process();
    if shares.limit < USUAL {
        warn!(
            "the limit of open files is {}: enough for {} connections to nodes, {} of the API and {} of Sentinel's clients",
            shares.limit, shares.nodes, shares.api, shares.sentinel
        );
    }
}

/// Files that this process has open.
pub fn open() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Tells, for ever, when there are too few for what is to be done, and when it is over: each once.
pub async fn watch(board: Arc<Board>, metrics: Arc<Metrics>) {
    let (mut told, mut full) = (None, false);
    loop {
        let shares = Shares::of_process();
        let nodes = || board.list().into_iter().flat_map(|view| view.status.nodes.clone());
        let masters = nodes().filter(|node| node.role == Role::Master).count();
        let problem = shares.too_few(nodes().count(), masters);
        match &problem {
            Some(problem) if told.is_none() => warn!("{problem}"),
            None if told.is_some() => info!("the limit of open files is enough for the nodes that there are"),
            _ => {}
        }
        told = problem;
        let open = open();
        metrics.set_files(open, shares.limit);
        full = tell_full(full, open, shares.limit);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[allow(clippy::cast_precision_loss)] // Few files.
fn tell_full(full: bool, open: usize, limit: usize) -> bool {
    let part = open as f64 / limit.max(1) as f64;
    if !full && part >= NEARLY_ALL {
        warn!("{open} files are open, and the limit is {limit}: connections beyond it fail");
        return true;
    }
    if full && part < FEWER {
        info!("{open} files are open, and the limit is {limit}: that is well again");
        return false;
    }
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shares_together_are_below_the_limit_and_nobody_goes_without() {
        for limit in [128, 256, 1024, 4096, 20_000, 65_536, 1 << 20] {
            let Shares { api, sentinel, nodes, .. } = Shares::of(limit);
            assert!(OWN + api + sentinel + nodes <= limit, "{limit}");
            assert!(api >= 16 && sentinel >= 16 && nodes >= limit / 4, "{limit}: {api} {sentinel} {nodes}");
        }
        assert_eq!(Shares::of(0).nodes, 1);
    }

    #[test]
    fn a_limit_that_is_too_low_is_told_with_one_that_is_not() {
        assert_eq!(Shares::of(256).too_few(100, 100), None);
        let told = Shares::of(256).too_few(600, 200).expect("130 are too few for 200 masters");
        let wanted: usize =
            told.split("until it is ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
        assert_eq!(Shares::of(wanted).too_few(600, 200), None);
        assert_eq!(Shares::of(20_000).too_few(10_000, 3_000), None);
    }
}
