//! Commands that change a node's role, and what becomes of data and resynchronisations. I/O.

use redisctl::failover::redis::Redis;
use redisctl::model::Role;

use crate::support::redis::info;
use crate::support::{Redis as Server, wait_until};
use crate::*;

/// A master with two replicas that have all that it has.
async fn three(redis: &Redis) -> (Server, Server, Server) {
    let master = Server::start(&[]).await;
    let (a, b) = (replica_of(master.port()).await, replica_of(master.port()).await);
    wait_for_link(redis, &a).await;
    wait_for_link(redis, &b).await;
    master.cli(&["SET", "before", "1"]).await.unwrap();
    for replica in [&a, &b] {
        wait_for_key(replica, "before").await;
    }
    (master, a, b)
}

async fn wait_for_key(server: &Server, key: &str) {
    wait_until("the key arrives", PATIENCE, async || server.cli(&["GET", key]).await.is_ok_and(|v| v == "1")).await;
}

/// Full and partial resynchronisations that the node has given.
async fn syncs(server: &Server) -> (u32, u32) {
    let info = info(&server.address()).await.unwrap();
    (info["sync_full"].parse().unwrap(), info["sync_partial_ok"].parse().unwrap())
}

#[tokio::test]
async fn a_replica_is_promoted_and_its_siblings_follow_it_without_a_full_copy() {
    let redis = commander(TIMEOUT);
    let (mut master, a, b) = three(&redis).await;
    let before = redis.probe(&address(&a)).await.unwrap();
    master.kill();
    let promoted = redis.promote(&address(&a), Some(&before.data())).await.unwrap();
    assert_eq!((promoted.role, &promoted.replid2), (Role::Master, &before.replid));
    assert!(promoted.offset >= before.offset && promoted.keys == 1);
    let again = redis.promote(&address(&a), None).await.unwrap();
    assert_eq!((again.role, again.replid), (Role::Master, promoted.replid), "nothing changes the second time");

    redis.follow(&address(&b), &address(&a), None).await.unwrap();
    wait_for_link(&redis, &b).await;
    assert_eq!(syncs(&a).await, (0, 1));
    a.cli(&["SET", "after", "1"]).await.unwrap();
    wait_for_key(&b, "after").await;
}

#[tokio::test]
async fn a_replica_that_has_followed_a_stranger_since_it_was_asked_is_not_promoted() {
    let redis = commander(TIMEOUT);
    let (mut master, a, b) = three(&redis).await;
    let before = redis.probe(&address(&a)).await.unwrap();
    let stranger = Server::start(&[]).await;
    master.kill();
    redis.follow(&address(&a), &address(&stranger), None).await.unwrap();
    wait_for_link(&redis, &a).await;
    let asked = redis.promote(&address(&a), Some(&before.data())).await.unwrap();
    assert_eq!((asked.role, asked.keys, asked.follows), (Role::Replica, 0, Some(address(&a))));

    let other = redis.probe(&address(&b)).await.unwrap();
    let promoted = redis.promote(&address(&b), Some(&other.data())).await.unwrap();
    assert_eq!((promoted.role, promoted.keys), (Role::Master, 1));
}

#[tokio::test]
async fn a_detached_replica_keeps_its_history_and_joins_again_partially() {
    let redis = commander(TIMEOUT);
    let (master, a, b) = three(&redis).await;
    let before = redis.probe(&address(&b)).await.unwrap();
    for _ in 0..2 {
        let detached = redis.detach(&address(&b)).await.unwrap();
        assert_eq!(detached.follows, Some(address(&b)));
        assert_eq!((&detached.replid, detached.keys, detached.link_up), (&before.replid, 1, false));
        assert!(detached.offset >= before.offset);
    }
    // It has no part in what the master does now.
    wait_until("the master sees one replica", PATIENCE, async || {
        redis.probe(&address(&master)).await.unwrap().connected_replicas == 1
    })
    .await;
    master.cli(&["SET", "meanwhile", "1"]).await.unwrap();
    assert_eq!(master.cli(&["WAIT", "2", "100"]).await.unwrap(), "1");
    assert!(b.cli(&["SET", "x", "1"]).await.unwrap_err().contains("READONLY"));
    let still = redis.probe(&address(&b)).await.unwrap();
    assert_eq!((still.replid, still.keys), (before.replid, 1));

    // Back to its master.
    let (full, partial) = syncs(&master).await;
    redis.follow(&address(&b), &address(&master), None).await.unwrap();
    wait_for_link(&redis, &b).await;
    wait_for_key(&b, "meanwhile").await;
    assert_eq!(syncs(&master).await, (full, partial + 1));

    // To a sibling that was promoted after it was detached.
    redis.detach(&address(&b)).await.unwrap();
    wait_for_key(&a, "meanwhile").await;
    redis.promote(&address(&a), None).await.unwrap();
    a.cli(&["SET", "after", "1"]).await.unwrap();
    redis.follow(&address(&b), &address(&a), None).await.unwrap();
    wait_for_key(&b, "after").await;
    assert_eq!(syncs(&a).await, (0, 1));
}

#[tokio::test]
async fn a_detached_node_can_be_promoted_and_others_join_it_partially() {
    let redis = commander(TIMEOUT);
    let (mut master, a, b) = three(&redis).await;
    let (of_a, of_b) = (redis.detach(&address(&a)).await.unwrap(), redis.detach(&address(&b)).await.unwrap());
    master.kill();
    let (winner, other) = if of_a.offset >= of_b.offset { (&a, &b) } else { (&b, &a) };
    redis.promote(&address(winner), None).await.unwrap();
    winner.cli(&["SET", "after", "1"]).await.unwrap();
    redis.follow(&address(other), &address(winner), None).await.unwrap();
    wait_for_key(other, "after").await;
    assert_eq!(syncs(winner).await, (0, 1));
}

#[tokio::test]
async fn a_detached_master_takes_no_writes_and_can_be_promoted_again() {
    let redis = commander(TIMEOUT);
    let (master, a, b) = three(&redis).await;
    let before = redis.probe(&address(&master)).await.unwrap();
    let detached = redis.detach(&address(&master)).await.unwrap();
    assert_eq!((detached.role, &detached.replid, detached.keys), (Role::Replica, &before.replid, 1));
    assert!(detached.offset >= before.offset);
    assert!(master.cli(&["SET", "x", "1"]).await.unwrap_err().contains("READONLY"));
    let (full, _) = syncs(&master).await;
    redis.promote(&address(&master), None).await.unwrap();
    master.cli(&["SET", "after", "1"]).await.unwrap();
    for replica in [&a, &b] {
        wait_for_key(replica, "after").await;
    }
    assert_eq!(syncs(&master).await.0, full, "its replicas join again partially");
}

#[tokio::test]
async fn a_deposed_master_is_fenced_its_clients_are_cut_and_its_extent_is_told() {
    let redis = commander(TIMEOUT);
    let (master, a, _b) = three(&redis).await;
    redis.detach(&address(&a)).await.unwrap();
    let promoted = redis.promote(&address(&a), None).await.unwrap();
    // What only the deposed one has.
    let client = redis::Client::open(("127.0.0.1", master.port())).unwrap();
    let mut writer = client.get_multiplexed_async_connection().await.unwrap();
    let write = redis::cmd("SET").arg("lost").arg("1").query_async::<()>(&mut writer).await;
    write.unwrap();
    let mut subscriber = client.get_async_pubsub().await.unwrap();
    subscriber.subscribe("news").await.unwrap();
    let before = redis.probe(&address(&master)).await.unwrap();
    let was = redis.fence(&address(&master)).await.unwrap();
    assert_eq!((was.role, was.follows.as_ref()), (Role::Replica, Some(&address(&master))));
    assert!(was.offset >= before.offset && was.offset > promoted.offset, "{} bytes only it has", was.offset);
    let write = redis::cmd("SET").arg("lost").arg("2").query_async::<()>(&mut writer).await;
    assert!(write.unwrap_err().is_unrecoverable_error(), "the connection is closed");
    let gone = futures::StreamExt::next(&mut subscriber.on_message()).await;
    assert!(gone.is_none(), "subscribers are cut");
    assert_eq!(master.cli(&["GET", "lost"]).await.unwrap(), "1", "what it took is kept until it is reported");
    redis.follow(&address(&master), &address(&a), None).await.unwrap();
    wait_for_link(&redis, &master).await;
    assert_eq!(master.cli(&["GET", "lost"]).await.unwrap(), "");
}

/// Full by what clients have written: Redis refuses whatever stands in a transaction then.
async fn fill(server: &Server) {
    let big = "x".repeat(100_000);
    for key in 0..50 {
        if server.cli(&["SET", &format!("big{key}"), &big]).await.is_err() {
            return;
        }
    }
    panic!("its memory has room for all of that");
}

#[tokio::test]
async fn a_master_that_is_full_is_fenced_follows_and_is_promoted_like_any_other() {
    let redis = commander(TIMEOUT);
    let full = node(&redis, "orders-0.1", &["--maxmemory", "3mb"]).await;
    let other = node(&redis, "orders-1.1", &[]).await;
    fill(&full).await;
    assert_eq!(redis.fence(&address(&full)).await.unwrap().role, Role::Replica);
    assert_eq!(redis.promote(&address(&full), None).await.unwrap().role, Role::Master);
    full.cli(&["SET", "a", "1"]).await.expect_err("it is full again");
    redis.detach(&address(&full)).await.unwrap();
    redis.promote(&address(&full), None).await.unwrap();
    redis.follow(&address(&full), &address(&other), Some("1@orders-1.1")).await.unwrap();
    wait_for_link(&redis, &full).await;
    full.cli(&["CLIENT", "LIST"]).await.unwrap();
    other.cli(&["SET", "a", "1"]).await.expect("nobody is paused any more");
}

#[tokio::test]
async fn a_change_of_role_says_why_it_was_not_done() {
    let redis = commander(TIMEOUT);
    let mut server = Server::start(&[]).await;
    let at = address(&server);
    server.cli(&["CONFIG", "SET", "requirepass", "secret"]).await.unwrap();
    let error = format!("{:#}", redis.promote(&at, None).await.unwrap_err());
    assert!(error.starts_with(&format!("make {at} a master: Redis refuses: NOAUTH")), "{error}");
    server.kill();
    // A kept connection that was closed is not the way for it, nor is it done twice.
    let error = format!("{:#}", redis.detach(&at).await.unwrap_err());
    assert_eq!(error, format!("detach {at}: nobody listens on its port"));
}
