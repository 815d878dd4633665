//! Scenarios of strangers: on ports of agents, among a master's replicas, among its clients. I/O.

use redisctl::status::{ConditionType, InstanceStatus};

use crate::client::Client;
use crate::cluster::Kind;
use crate::document::Document;
use crate::failover::another_master;
use crate::support::{AgentSpec, Redis, redis, wait_until};
use crate::world::{TIMEOUT, World, is_ready, kill_node, master, replicas};

/// So many ports the only agent has.
const PORTS: u16 = 4;

pub async fn whoever_has_a_port_of_an_agent_is_left_alone_and_the_node_gets_another(kind: Kind) {
    let world = World::start(kind, &[AgentSpec::rack("r1").ports(PORTS)]).await;
    // Which ports there are is seen by what takes them all.
    let scout = Document::new("scout", u32::from(PORTS) - 1).with("distribution", PORTS);
    world.put("scout", &scout.yaml()).await;
    let all = world.ready("scout", PORTS.into()).await;
    world.cli(&["delete", "scout", "--wait"], "").await;
    // Somebody's own server, one that takes our user with any password, and one that takes replicas.
    let accomplice = ["--user", "redisctl", "on", "nopass", "~*", "&*", "+@all"];
    let lets_in = ["--user", "redisctl-replica", "on", "nopass", "+@all"];
    let mut strangers = Vec::new();
    for (node, args) in all.nodes.iter().zip([&[][..], &accomplice, &lets_in]) {
        let port = node.address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("host:port");
        let stranger = Redis::start_on(port, args).await;
        for i in 0..100 {
            stranger.cli(&["SET", &i.to_string(), "theirs"]).await.expect("it takes writes");
        }
        strangers.push(stranger);
    }
    for auth in ["none", "generated"] {
        world.put("orders", &Document::new("orders", 0).with("auth", auth).yaml()).await;
        let status = world.until("orders", "has found the only port that is free", is_ready).await;
        assert!(strangers.iter().all(|stranger| stranger.address() != status.nodes[0].address));
        for stranger in &strangers {
            assert_eq!(stranger.cli(&["DBSIZE"]).await.expect("it answers"), "100");
            let info = redis::info(&stranger.address()).await.expect("it answers");
            assert_eq!((info["role"].as_str(), info["maxmemory"].as_str()), ("master", "0"));
        }
        let events = world.events("orders").await.expect("the operator answers");
        let died = events.iter().filter(|event| event.reason == "NodeDied").count();
        let told = events.iter().filter(|event| event.reason == "PortTaken").count();
        assert!(told >= died, "each has its reason: {events:?}");
        assert!(events.iter().all(|event| event.reason != "DataLost"), "there was nothing to lose: {events:?}");
        world.cli(&["delete", "orders", "--wait"], "").await;
    }
    let mut world = world;
    drop(strangers);
    world.finish_deleted().await;
}

pub async fn a_replica_that_is_not_ours_is_let_in_by_nobody_and_cut_when_it_has_stolen_a_password(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let before = world.ready("orders", 3).await;
    let at = master(&before).address.replace(':', " ");
    let follows: Vec<&str> = at.split(' ').collect();
    let stranger = Redis::start(&["--replicaof", follows[0], follows[1]]).await;
    wait_until("it was refused", TIMEOUT, async || {
        let log = redis::cli(&master(&before).address, &["INFO", "errorstats"]).await?;
        if log.contains("NOPERM") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(stranger.cli(&["INFO", "replication"]).await.expect("it answers").contains("master_link_status:down"));
    assert!(world.events_of("orders", "ForeignReplica").await.is_empty());

    // What a replica logs in with is read by no client; somebody has it from the network.
    let replica = replicas(&before)[0];
    for name in ["masteruser", "masterauth"] {
        assert!(redis::cli(&replica.address, &["CONFIG", "GET", name]).await.unwrap_err().contains("NOPERM"));
        let stolen = world.setting("orders", replica, name).await.expect("it answers");
        stranger.cli(&["CONFIG", "SET", name, &stolen]).await.expect("it is set");
    }
    world.event("orders", "ForeignReplica").await;
    let said = |status: &InstanceStatus| {
        let condition = status.condition(ConditionType::ReplicasInSync);
        condition.is_some_and(|condition| condition.reason == "ForeignReplica")
    };
    world.until("orders", "says that confirmations are not what was promised", said).await;
    // Redis takes it in again within milliseconds each time: what counts is how often it had to begin anew.
    let taken_in = async || {
        let info = redis::info(&master(&before).address).await?;
        let times = |field: &str| info[field].parse::<u64>().expect("a number");
        Ok::<u64, String>(times("sync_full") + times("sync_partial_ok"))
    };
    let already = taken_in().await.expect("the master answers");
    wait_until("it is cut again and again", TIMEOUT, async || {
        let more = taken_in().await? - already;
        if more >= 3 { Ok(()) } else { Err(format!("{more} times")) }
    })
    .await;
    drop(stranger);
    let after = world.ready("orders", 3).await;
    assert_eq!(after.epoch, before.epoch, "ours were not disturbed");
    world.finish().await;
}

pub async fn a_client_cannot_hold_up_a_failover_whatever_it_calls_itself(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let before = world.ready("orders", 3).await;
    let mut clients = Vec::new();
    for node in &before.nodes {
        let mut client = Client::connect(&node.address).await.expect("the node listens");
        for kill in [&["CLIENT", "KILL", "USER", "redisctl"][..], &["CLIENT", "PAUSE", "20000", "ALL"]] {
            let refused = client.ask(kill).await.expect("it answers").expect_err("it may not");
            assert!(refused.contains("NOPERM"), "{refused}");
        }
        // From then on it is cut as soon as an operator looks.
        client.ask(&["CLIENT", "SETNAME", "redisctl:9000000000000000000"]).await.expect("it answers").expect("it may");
        clients.push(client);
    }
    kill_node(master(&before)).await;
    another_master(&world, "orders", &before).await;
    let after = world.until("orders", "is whole", |status| is_ready(status) && status.nodes.len() == 3).await;
    world.cli(&["failover", "orders"], "").await;
    another_master(&world, "orders", &after).await;
    world.until("orders", "is whole", |status| is_ready(status) && status.nodes.len() == 3).await;
    drop(clients);
    world.finish().await;
}
