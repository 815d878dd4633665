//! What tests share: real etcd, Mesos and Redis processes, and waiting for conditions. I/O.

#![allow(dead_code, unused_imports)] // Each test program uses a part of it.

use std::fmt::Display;
use std::time::{Duration, Instant};

pub mod administrator;
pub mod etcd;
pub mod machines;
pub mod mesos;
pub mod process;
pub mod redis;
pub mod status;

pub use administrator::Administrator;
pub use etcd::Etcd;
pub use mesos::{AgentSpec, Mesos, MesosOptions};
pub use process::{Home, Ports, Process};
pub use redis::Redis;

/// How often a condition is looked at.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// What a condition of [`wait_until`] answers: `bool`, `Option` or `Result`, whose error says why
/// it does not hold yet.
pub trait Answer {
    /// What is known once the condition holds.
    type Found;
    /// What was found, or why the condition does not hold yet.
    fn found(self) -> Result<Self::Found, String>;
}

impl Answer for bool {
    type Found = ();
    fn found(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("not so".into()) }
    }
}

impl<T> Answer for Option<T> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".into())
    }
}

impl<T, E: Display> Answer for Result<T, E> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.map_err(|e| format!("{e:#}"))
    }
}

/// Waits until the condition holds, and answers what it found; panics after `timeout` with what was
/// last seen.
///
/// ```ignore
/// wait_until("the port answers", Duration::from_secs(5), async || ping(port).await.is_ok()).await;
/// ```
pub async fn wait_until<A: Answer>(what: &str, timeout: Duration, mut condition: impl AsyncFnMut() -> A) -> A::Found {
    let deadline = Instant::now() + timeout;
    let mut last = "nothing: the condition never answered".to_string();
    while let Ok(answer) = tokio::time::timeout_at(deadline.into(), condition()).await {
        match answer.found() {
            Ok(found) => return found,
            Err(why) => last = why,
        }
        if Instant::now() + POLL_EVERY >= deadline {
            break;
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    panic!("waited {timeout:?} until {what}; last seen: {last}");
}

/// Watches for the whole of `period` that the condition holds: for what must not happen.
pub async fn holds_for<A: Answer>(what: &str, period: Duration, mut condition: impl AsyncFnMut() -> A) {
    let end = Instant::now() + period;
    while Instant::now() < end {
        if let Err(why) = condition().await.found() {
            panic!("for {period:?} it should have been so that {what}; but: {why}");
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
