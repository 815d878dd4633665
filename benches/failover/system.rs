//! What is compared: a system that keeps one master and two replicas, and its nodes. I/O.

use rustix::process::{Pid, Signal, kill_process};

use super::client::{Finder, dial};
use crate::common::TIMEOUT;

/// Who is who when all is well.
pub struct Topology {
    /// `ip:port`.
    pub master: String,
    /// All of them.
    pub nodes: Vec<String>,
}

/// One master, two replicas, and somebody who sees to it that this stays so.
pub trait System {
    /// Waits until all is well, and everybody concerned knows.
    async fn settle(&mut self) -> Topology;
    /// Learns the address of the master as clients do; finds those apart from `old`.
    fn listen(&self, old: &str) -> Finder;
    /// Undoes what the signal did to the old master, which another has taken the place of; whether
    /// that one stays the master.
    async fn recover(&mut self, old: &str, new: Option<&str>, pid: Pid, signal: Signal) -> bool;
    /// What it has logged so far.
    fn log(&self) -> String;
}

/// The process id of a node.
pub fn pid_of(node: &str) -> Pid {
    let info = info(node, "server").unwrap_or_else(|error| panic!("ask {node}: {error}"));
    let pid = info.lines().find_map(|line| line.trim_end().strip_prefix("process_id:")?.parse().ok());
    pid.and_then(Pid::from_raw).expect("redis-server tells its process id")
}

/// A section of INFO.
pub fn info(node: &str, section: &str) -> Result<String, redis::RedisError> {
    redis::cmd("INFO").arg(section).query(&mut dial(node, TIMEOUT)?)
}

/// Sends it, though the process may have ended.
pub fn signal(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}
