//! The port to Redis against real redis-server processes, and against listeners that are none. I/O.

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod prober;
mod probes;
mod roles;
mod switch;
mod term;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use redisctl::failover::redis::{Redis, Term};
use redisctl::model::{Address, Probe};
use support::{Redis as Server, wait_until};
use tokio::sync::mpsc;

/// For requests that are expected to be answered, on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(5);
/// For requests that are expected not to be answered.
const SHORT: Duration = Duration::from_millis(300);
/// How long a condition may take to become true.
const PATIENCE: Duration = Duration::from_secs(20);

/// The port of a leader that leads for ever.
fn commander(timeout: Duration) -> Redis {
    Redis::new(timeout, Term { number: 1, lasts: Arc::new(|| true) })
}

fn local(port: u16) -> Address {
    Address { host: "127.0.0.1".into(), port }
}

fn address(server: &Server) -> Address {
    local(server.port())
}

async fn replica_of(master: u16) -> Server {
    Server::start(&["--replicaof", &format!("127.0.0.1 {master}")]).await
}

async fn wait_for_link(redis: &Redis, replica: &Server) {
    let replica = address(replica);
    wait_until("the link is up", PATIENCE, async || redis.probe(&replica).await.is_ok_and(|a| a.link_up)).await;
}

async fn next(seen: &mut mpsc::Receiver<Probe>) -> Probe {
    tokio::time::timeout(PATIENCE, seen.recv()).await.expect("a probe in time").expect("its sender lives")
}

/// Reads probes until one is like that.
async fn until(seen: &mut mpsc::Receiver<Probe>, like: impl Fn(&Probe) -> bool) -> Probe {
    loop {
        let probe = next(seen).await;
        if like(&probe) {
            return probe;
        }
    }
}
