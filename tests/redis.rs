//! The port to Redis against real redis-server processes, and against listeners that are none. I/O.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use redisctl::failover::redis::{Pace, Prober, Redis, Target};
use redisctl::model::{Address, NoAnswer, Probe, Role};
use support::{Ports, Redis as Server, holds_for, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// For requests that are expected to be answered, on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(5);
/// For requests that are expected not to be answered.
const SHORT: Duration = Duration::from_millis(300);
/// How long a condition may take to become true.
const PATIENCE: Duration = Duration::from_secs(20);

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

// --- Probes ---------------------------------------------------------------------------------

#[tokio::test]
async fn a_master_and_its_replica_say_what_they_are() {
    let redis = Redis::new(TIMEOUT);
    let master = Server::start(&["--maxmemory", "64mb"]).await;
    let replica = replica_of(master.port()).await;
    master.cli(&["SET", "a", "1"]).await.unwrap();
    master.cli(&["-n", "3", "SET", "b", "2"]).await.unwrap();
    wait_for_link(&redis, &replica).await;
    // Keys written after the sync began arrive a little after the link is up.
    wait_until("the keys arrive", PATIENCE, async || redis.probe(&address(&replica)).await.unwrap().keys == 2).await;

    let of_master = redis.probe(&address(&master)).await.unwrap();
    assert_eq!((of_master.role, of_master.follows.clone(), of_master.link_up), (Role::Master, None, true));
    assert_eq!((of_master.keys, of_master.max_memory, of_master.connected_replicas), (2, 64 << 20, 1));
    assert!(of_master.used_memory > 100_000 && of_master.offset > 0 && !of_master.loading);

    let of_replica = redis.probe(&address(&replica)).await.unwrap();
    assert_eq!((of_replica.role, of_replica.follows.clone()), (Role::Replica, Some(address(&master))));
    assert_eq!((of_replica.replid, of_replica.keys), (of_master.replid, 2));
    wait_until("the replica has the master's offset", PATIENCE, async || {
        let (a, b) = (redis.probe(&address(&master)).await, redis.probe(&address(&replica)).await);
        a.is_ok_and(|a| b.is_ok_and(|b| a.offset == b.offset))
    })
    .await;
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_refused() {
    let ports = Ports::lease(1);
    assert_eq!(Redis::new(TIMEOUT).probe(&local(ports.next())).await, Err(NoAnswer::Refused));
}

#[tokio::test]
async fn a_kept_connection_to_a_node_that_died_ends_in_refused() {
    let redis = Redis::new(TIMEOUT);
    let mut server = Server::start(&[]).await;
    redis.probe(&address(&server)).await.unwrap();
    server.kill();
    assert_eq!(redis.probe(&address(&server)).await, Err(NoAnswer::Refused));
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_dialled_again_within_the_probe() {
    let redis = Redis::new(TIMEOUT);
    let mut server = Server::start(&[]).await;
    redis.probe(&address(&server)).await.unwrap();
    server.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await.unwrap();
    redis.probe(&address(&server)).await.unwrap();
    server.kill();
    server.start_again().await;
    redis.probe(&address(&server)).await.unwrap();
}

#[tokio::test]
async fn connections_are_kept_until_the_node_is_forgotten() {
    let redis = Redis::new(TIMEOUT);
    let server = Server::start(&[]).await;
    // The redis-cli that asks is one of them.
    let clients = async || server.cli(&["CLIENT", "LIST"]).await.unwrap().lines().count();
    for _ in 0..5 {
        redis.probe(&address(&server)).await.unwrap();
    }
    assert_eq!(clients().await, 2);
    redis.forget(&address(&server));
    wait_until("the connection is closed", PATIENCE, async || clients().await == 1).await;
}

#[tokio::test]
async fn a_frozen_node_is_silent_in_time_and_answers_when_thawed() {
    let redis = Redis::new(SHORT);
    let server = Server::start(&[]).await;
    wait_until("it answers", PATIENCE, async || redis.probe(&address(&server)).await.is_ok()).await;
    server.freeze();
    for _ in 0..2 {
        let start = Instant::now();
        assert_eq!(redis.probe(&address(&server)).await, Err(NoAnswer::Timeout));
        assert!(start.elapsed() >= SHORT && start.elapsed() < PATIENCE);
    }
    server.thaw();
    wait_until("it answers", PATIENCE, async || redis.probe(&address(&server)).await.is_ok()).await;
}

#[tokio::test]
async fn a_node_that_replies_with_errors_is_busy_not_dead() {
    let redis = Redis::new(TIMEOUT);
    let locked = Server::start(&[]).await;
    locked.cli(&["CONFIG", "SET", "requirepass", "secret"]).await.unwrap();
    assert_eq!(redis.probe(&address(&locked)).await, Err(NoAnswer::Busy));

    let server = Server::start(&["--lua-time-limit", "50"]).await;
    let mut script = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    script.write_all(b"EVAL 'while true do end' 0\r\n").await.unwrap();
    let probe = async || redis.probe(&address(&server)).await == Err(NoAnswer::Busy);
    wait_until("the script is over its time", PATIENCE, probe).await;
    server.cli(&["SCRIPT", "KILL"]).await.unwrap();
    wait_until("it answers", PATIENCE, async || redis.probe(&address(&server)).await.is_ok()).await;
}

/// A listener that reads what comes, replies this, and closes.
async fn replies(reply: &'static [u8]) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(reply).await;
        }
    });
    local(port)
}

#[tokio::test]
async fn what_is_not_redis_is_told_apart() {
    let redis = Redis::new(TIMEOUT);
    assert_eq!(redis.probe(&replies(b"HTTP/1.1 400 Bad Request\r\n\r\n").await).await, Err(NoAnswer::Garbled));
    assert_eq!(redis.probe(&replies(b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n").await).await, Err(NoAnswer::Garbled));
    assert_eq!(
        redis.probe(&replies(b"$3\r\na:b\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n").await).await,
        Err(NoAnswer::Garbled)
    );
    assert_eq!(redis.probe(&replies(b"").await).await, Err(NoAnswer::Reset));
    assert_eq!(redis.probe(&replies(b"-ERR max number of clients reached\r\n").await).await, Err(NoAnswer::Busy));
}

// --- Commands -------------------------------------------------------------------------------

#[tokio::test]
async fn a_node_can_be_made_to_follow_another_any_number_of_times() {
    let redis = Redis::new(TIMEOUT);
    let (master, node) = (Server::start(&[]).await, Server::start(&[]).await);
    master.cli(&["SET", "a", "1"]).await.unwrap();
    redis.follow(&address(&node), &address(&master)).await.unwrap();
    wait_for_link(&redis, &node).await;
    redis.follow(&address(&node), &address(&master)).await.unwrap();
    assert!(redis.probe(&address(&node)).await.unwrap().link_up, "nothing changes the second time");
    assert_eq!(node.cli(&["GET", "a"]).await.unwrap(), "1");
    let nobody = local(Ports::lease(1).next());
    let error = format!("{:#}", redis.follow(&nobody, &address(&master)).await.unwrap_err());
    assert_eq!(error, format!("make {nobody} follow {}: nobody listens on its port", address(&master)));
}

#[tokio::test]
async fn settings_are_applied_and_an_error_names_the_setting() {
    let redis = Redis::new(TIMEOUT);
    let server = Server::start(&[]).await;
    let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
    let settings = [pair("maxmemory-policy", "allkeys-lru"), pair("save", "900 1"), pair("timeout", "17")];
    redis.configure(&address(&server), &settings).await.unwrap();
    let get = async |name: &str| server.cli(&["CONFIG", "GET", name]).await.unwrap();
    assert_eq!(get("maxmemory-policy").await, "maxmemory-policy\nallkeys-lru");
    assert_eq!(get("save").await, "save\n900 1");
    assert_eq!(get("timeout").await, "timeout\n17");
    let wrong = [pair("timeout", "18"), pair("maxmemory-policy", "best")];
    let error = format!("{:#}", redis.configure(&address(&server), &wrong).await.unwrap_err());
    assert!(error.contains("set maxmemory-policy to \"best\"") && error.contains("Redis refuses"), "{error}");
}

#[tokio::test]
async fn a_kicked_replica_connects_at_once_and_cannot_be_written_to_meanwhile() {
    let redis = Redis::new(TIMEOUT);
    let ports = Ports::lease(1);
    let port = ports.next();
    let replica = replica_of(port).await;
    let (master, node) = (local(port), address(&replica));
    assert!(!redis.probe(&node).await.unwrap().link_up);

    // Somebody writes all the time.
    let client = redis::Client::open(("127.0.0.1", replica.port())).unwrap();
    let mut writer = client.get_multiplexed_async_connection().await.unwrap();
    let writing = tokio::spawn(async move {
        let mut answers = BTreeSet::new();
        loop {
            let answer: redis::RedisResult<()> = redis::cmd("SET").arg("a").arg("b").query_async(&mut writer).await;
            let end = answer.as_ref().is_err_and(redis::RedisError::is_unrecoverable_error);
            answers.insert(answer.map_err(|e| e.code().unwrap_or("lost").to_string()));
            if end {
                return answers;
            }
        }
    });

    let home = support::Home::new("master");
    let mut command = std::process::Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--save", "", "--repl-diskless-sync-delay", "0"]);
    let _server = home.spawn("redis", &mut command);
    wait_until("the master listens", PATIENCE, async || redis.probe(&master).await.is_ok()).await;
    let kicked = Instant::now();
    match redis.kick(&node, &master).await {
        Ok(()) => {}
        // It has tried by itself at that very moment.
        Err(error) => assert!(format!("{error:#}").contains("link is up or coming up"), "{error:#}"),
    }
    wait_for_link(&redis, &replica).await;
    println!("link up {:?} after the kick", kicked.elapsed());
    assert_eq!(redis.probe(&node).await.unwrap().keys, 0);
    drop(replica);
    let answers = writing.await.unwrap();
    assert!(answers.contains(&Err("READONLY".to_string())), "{answers:?}");
    assert!(!answers.contains(&Ok(())), "a write was accepted: {answers:?}");
}

#[tokio::test]
async fn only_a_new_replica_is_kicked() {
    let redis = Redis::new(TIMEOUT);
    let mut master = Server::start(&[]).await;
    let replica = replica_of(master.port()).await;
    let refused = async |node: &Server, master: &Address| {
        let before = redis.probe(&address(node)).await.unwrap();
        let error = redis.kick(&address(node), master).await.expect_err("it must be refused");
        let after = redis.probe(&address(node)).await.unwrap();
        assert_eq!((before.role, before.follows, before.replid), (after.role, after.follows, after.replid));
        format!("{error:#}")
    };
    wait_for_link(&redis, &replica).await;
    let at = address(&master);
    assert!(refused(&replica, &at).await.ends_with("its link is up or coming up"));
    assert!(refused(&master, &at).await.ends_with("it is a master"));
    assert!(refused(&replica, &local(1)).await.ends_with("it follows another master"));

    master.cli(&["SET", "a", "1"]).await.unwrap();
    wait_until("the key arrives", PATIENCE, async || redis.probe(&address(&replica)).await.unwrap().keys == 1).await;
    master.kill();
    wait_until("the link is down", PATIENCE, async || !redis.probe(&address(&replica)).await.unwrap().link_up).await;
    assert!(refused(&replica, &at).await.ends_with("it has 1 keys"));
    assert_eq!(replica.cli(&["GET", "a"]).await.unwrap(), "1");

    // In sync before, but empty: what the master has now may be older, so it is left alone, too.
    let mut master = Server::start(&[]).await;
    let replica = replica_of(master.port()).await;
    wait_for_link(&redis, &replica).await;
    master.kill();
    wait_until("the link is down", PATIENCE, async || !redis.probe(&address(&replica)).await.unwrap().link_up).await;
    assert!(refused(&replica, &address(&master)).await.ends_with("it has been in sync before"));
}

// --- The prober -----------------------------------------------------------------------------

fn target(task_id: &str, address: Address, pace: Pace) -> Target {
    Target { task_id: task_id.into(), address, pace }
}

const STEADY: Pace = Pace::Steady(Duration::from_millis(50));
const SELDOM: Pace = Pace::Steady(Duration::from_hours(1));

async fn next(seen: &mut mpsc::Receiver<Probe>) -> Probe {
    tokio::time::timeout(PATIENCE, seen.recv()).await.expect("a probe in time").expect("the prober lives")
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

#[tokio::test]
async fn an_eager_node_is_seen_soon_after_it_listens() {
    let (out, mut seen) = mpsc::channel(64);
    let prober = Prober::start(Redis::new(TIMEOUT), out);
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
    let prober = Prober::start(Redis::new(TIMEOUT), out);
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
    let prober = Prober::start(Redis::new(TIMEOUT), out);
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
    let prober = Prober::start(Redis::new(TIMEOUT), out);
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
    let redis = Redis::new(Duration::from_millis(500));
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
    let prober = Prober::start(Redis::new(TIMEOUT), out.clone());
    let server = Server::start(&[]).await;
    prober.add(target("t", address(&server), STEADY));
    drop(seen);
    wait_until("its connection is closed", PATIENCE, async || {
        server.cli(&["CLIENT", "LIST"]).await.unwrap().lines().count() == 1
    })
    .await;
    assert!(out.is_closed());
}
