//! The prober. I/O.

use std::time::{Duration, Instant};

use redisctl::failover::redis::{Pace, Prober, Target};
use redisctl::model::{Address, NoAnswer};
use tokio::sync::mpsc;

use crate::support::{Redis as Server, holds_for, wait_until};
use crate::*;

fn target(task_id: &str, address: Address, pace: Pace) -> Target {
    Target { task_id: task_id.into(), address, pace }
}

const STEADY: Pace = Pace::Steady(Duration::from_millis(50));
const SELDOM: Pace = Pace::Steady(Duration::from_hours(1));

#[tokio::test]
async fn an_eager_node_is_seen_soon_after_it_listens() {
    let (out, mut seen) = mpsc::channel(64);
    let prober = Prober::start(commander(TIMEOUT), out);
    let mut server = Server::start(&[]).await;
    server.kill();
    prober.add(target("orders-0.1", address(&server), Pace::Eager));
    let first = next(&mut seen).await;
    assert_eq!((first.task_id.as_str(), first.result), ("orders-0.1", Err(NoAnswer::Refused)));
    server.start_again().await;
    let answer = until(&mut seen, |p| p.result.is_ok()).await;
    assert!(answer.at >= first.at);
}

#[tokio::test]
async fn a_steady_node_that_stops_answering_is_looked_at_closely() {
    let (out, mut seen) = mpsc::channel(64);
    let prober = Prober::start(commander(TIMEOUT), out);
    let mut server = Server::start(&[]).await;
    prober.add(target("t", address(&server), SELDOM));
    assert!(next(&mut seen).await.result.is_ok());
    server.kill();
    prober.probe_now("t");
    // At its own pace, the second of these would take an hour.
    for _ in 0..3 {
        assert_eq!(next(&mut seen).await.result, Err(NoAnswer::Refused));
    }
    server.start_again().await;
    until(&mut seen, |p| p.result.is_ok()).await;
    holds_for("it is probed at its own pace again", Duration::from_millis(600), async || seen.try_recv().is_err())
        .await;
}

#[tokio::test]
async fn a_changed_pace_counts_at_once_and_a_removed_node_is_left_alone() {
    let (out, mut seen) = mpsc::channel(64);
    let prober = Prober::start(commander(TIMEOUT), out);
    let server = Server::start(&[]).await;
    prober.add(target("t", address(&server), SELDOM));
    next(&mut seen).await;
    prober.add(target("t", address(&server), STEADY));
    for _ in 0..3 {
        next(&mut seen).await;
    }
    prober.remove("t");
    wait_until("the connection is closed", PATIENCE, async || {
        server.cli(&["CLIENT", "LIST"]).await.unwrap().lines().count() == 1
    })
    .await;
    while seen.try_recv().is_ok() {}
    holds_for("no probe comes", Duration::from_millis(300), async || seen.try_recv().is_err()).await;
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_probe_of_each_node() {
    let (out, mut seen) = mpsc::channel(1);
    let prober = Prober::start(commander(TIMEOUT), out);
    let (a, b) = (Server::start(&[]).await, Server::start(&[]).await);
    prober.add(target("a", address(&a), STEADY));
    prober.add(target("b", address(&b), STEADY));
    wait_until("the channel is full", PATIENCE, async || seen.len() == 1).await;
    a.cli(&["SET", "x", "1"]).await.unwrap();
    b.cli(&["SET", "x", "1"]).await.unwrap();
    // Some rounds of probes pass while nobody reads.
    let rounds = async |server: &Server| {
        let stats = server.cli(&["INFO", "commandstats"]).await.unwrap();
        let calls = stats.lines().find_map(|l| l.strip_prefix("cmdstat_info:calls=")).unwrap().to_string();
        calls.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let (before_a, before_b) = (rounds(&a).await, rounds(&b).await);
    wait_until("three more rounds", PATIENCE, async || {
        rounds(&a).await > before_a + 12 && rounds(&b).await > before_b + 12
    })
    .await;
    let stale = next(&mut seen).await;
    assert_eq!(stale.result.unwrap().keys, 0, "what was in the channel already");
    for _ in 0..2 {
        let probe = next(&mut seen).await;
        assert_eq!(probe.result.unwrap().keys, 1, "{} is the newest", probe.task_id);
    }
}

#[tokio::test]
async fn silent_nodes_do_not_delay_the_others() {
    /// More than are probed at a time.
    const SILENT: usize = 600;
    let (out, mut seen) = mpsc::channel(64);
    let redis = commander(Duration::from_millis(500));
    let prober = Prober::start(redis, out);
    // One listener that accepts nothing: the kernel takes the connections, nobody replies.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for n in 0..SILENT {
        prober.add(target(&format!("silent-{n}"), local(port), Pace::Eager));
    }
    let mut timeouts = 0;
    while timeouts < SILENT {
        timeouts += usize::from(next(&mut seen).await.result == Err(NoAnswer::Timeout));
    }
    let server = Server::start(&[]).await;
    prober.add(target("t", address(&server), STEADY));
    let start = Instant::now();
    for _ in 0..10 {
        until(&mut seen, |p| p.task_id == "t" && p.result.is_ok()).await;
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(3), "10 probes at 50 ms took {took:?}");
}

#[tokio::test]
async fn the_prober_ends_when_nobody_reads() {
    let (out, seen) = mpsc::channel(1);
    let prober = Prober::start(commander(TIMEOUT), out.clone());
    let server = Server::start(&[]).await;
    prober.add(target("t", address(&server), STEADY));
    drop(seen);
    wait_until("its connection is closed", PATIENCE, async || {
        server.cli(&["CLIENT", "LIST"]).await.unwrap().lines().count() == 1
    })
    .await;
    assert!(out.is_closed());
}
