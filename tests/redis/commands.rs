//! Commands that change a node. I/O.

use std::collections::BTreeSet;
use std::time::Instant;

use redisctl::model::{Address, NoAnswer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::{self, Ports, Redis as Server, wait_until};
use crate::*;

#[tokio::test]
async fn a_node_can_be_made_to_follow_another_any_number_of_times() {
    let redis = commander(TIMEOUT);
    let (master, node) = (Server::start(&[]).await, Server::start(&[]).await);
    master.cli(&["SET", "a", "1"]).await.unwrap();
    redis.follow(&address(&node), &address(&master), None).await.unwrap();
    wait_for_link(&redis, &node).await;
    redis.follow(&address(&node), &address(&master), None).await.unwrap();
    assert!(redis.probe(&address(&node)).await.unwrap().link_up, "nothing changes the second time");
    assert_eq!(node.cli(&["GET", "a"]).await.unwrap(), "1");
    let nobody = local(Ports::lease(1).next());
    let error = format!("{:#}", redis.follow(&nobody, &address(&master), None).await.unwrap_err());
    assert_eq!(error, format!("make {nobody} follow {}: nobody listens on its port", address(&master)));
}

#[tokio::test]
async fn settings_are_applied_and_one_that_is_refused_is_told_in_the_words_of_redis_and_costs_the_others_nothing() {
    let redis = commander(TIMEOUT);
    let server = Server::start(&[]).await;
    let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
    let settings = [
        pair("maxmemory-policy", "allkeys-lru"),
        pair("save", "foo"),
        pair("notify-keyspace-events", "Q!"),
        pair("client-output-buffer-limit", "replica 256mb 64mb 60"),
        pair("maxclients", "2000000"),
        pair("no-such-directive", "1"),
        pair("maxmemory", "100mb"),
        pair("timeout", "17"),
    ];
    let applied = redis.configure(&address(&server), &settings).await;
    assert_eq!(applied.failed, None);
    let set: Vec<&str> = applied.set.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(set, ["maxmemory-policy", "client-output-buffer-limit", "maxmemory", "timeout"]);
    for (refusal, words) in applied.refused.iter().zip([
        "Invalid save parameters",
        "Invalid event class character",
        "The operating system is not able to handle the specified number of clients",
        "Unknown option",
    ]) {
        assert!(refusal.words.starts_with("ERR ") && refusal.words.contains(words), "{refusal:?}");
    }
    assert_eq!(applied.refused.len(), 4);
    let get = async |name: &str| server.cli(&["CONFIG", "GET", name]).await.unwrap();
    assert_eq!(get("maxmemory-policy").await, "maxmemory-policy\nallkeys-lru");
    assert_eq!(get("timeout").await, "timeout\n17");
}

#[tokio::test]
async fn what_redis_makes_of_a_value_is_read_back_and_told_if_it_is_another() {
    let redis = commander(TIMEOUT);
    let server = Server::start(&[]).await;
    // Redis answers OK to both, and has something else then.
    let settings = [("hz".to_string(), "100000".to_string()), ("repl-backlog-size".to_string(), "1".to_string())];
    let applied = redis.configure(&address(&server), &settings).await;
    let told: Vec<&str> = applied.refused.iter().map(|refusal| refusal.words.as_str()).collect();
    assert_eq!(told, ["it has \"500\" after that", "it has \"16384\" after that"]);
}

#[tokio::test]
async fn a_node_that_hangs_or_is_busy_refuses_nothing_and_is_asked_again() {
    let redis = commander(std::time::Duration::from_millis(300));
    let server = Server::start(&["--busy-reply-threshold", "1"]).await;
    let setting = [("timeout".to_string(), "17".to_string())];
    server.freeze();
    let hung = redis.configure(&address(&server), &setting).await;
    server.thaw();
    assert!(hung.failed.is_some() && hung.set.is_empty() && hung.refused.is_empty(), "{hung:?}");
    wait_until("it is set once the node is back", PATIENCE, async || {
        let applied = redis.configure(&address(&server), &setting).await;
        if applied.set.len() == 1 { Ok(()) } else { Err(format!("{applied:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_script_is_ended_at_a_node_that_is_busy_and_only_one_that_has_not_written() {
    let redis = commander(TIMEOUT);
    for (script, ended) in [("while true do end", true), ("redis.call('SET', 'a', 1) while true do end", false)] {
        let server = node(&redis, "orders-0.1", &["--busy-reply-threshold", "50"]).await;
        let at = address(&server);
        redis.probe(&at).await.unwrap();
        assert!(redis.end_script(&at).await.is_err(), "there is none");
        let mut client = TcpStream::connect((at.host.as_str(), at.port)).await.unwrap();
        client.write_all(format!("EVAL \"{script}\" 0\r\n").as_bytes()).await.unwrap();
        wait_until("it is busy", PATIENCE, async || matches!(redis.probe(&at).await, Err(NoAnswer::Busy))).await;
        let done = redis.end_script(&at).await;
        assert_eq!(done.is_ok(), ended, "{done:?}");
        if ended {
            wait_until("it answers", PATIENCE, async || redis.probe(&at).await.is_ok()).await;
        } else {
            assert!(format!("{:#}", done.unwrap_err()).contains("UNKILLABLE"));
        }
    }
}

#[tokio::test]
async fn a_kicked_replica_connects_at_once_and_cannot_be_written_to_meanwhile() {
    let redis = commander(TIMEOUT);
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
    match redis.kick(&node, &master, None).await {
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
    let redis = commander(TIMEOUT);
    let mut master = Server::start(&[]).await;
    let replica = replica_of(master.port()).await;
    let refused = async |node: &Server, master: &Address| {
        let before = redis.probe(&address(node)).await.unwrap();
        let error = redis.kick(&address(node), master, None).await.expect_err("it must be refused");
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
