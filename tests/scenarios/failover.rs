//! Scenarios of masters that are lost, hang, are busy, come back, and hand their role over. I/O.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt as _;
use redisctl::model::Role;
use redisctl::status::{ConditionStatus, ConditionType, InstanceStatus, NodeState, NodeStatus, Phase};
use serde_json::json;

use crate::client::{Client, Writer, all_have_written};
use crate::cluster::{Kind, agent_of};
use crate::control::leaders;
use crate::document::Document;
use crate::restarts::{SHORT_LEASE, seeded};
use crate::support::{AgentSpec, holds_for, redis, wait_until};
use crate::world::{
    LONG, PREFIX, QUIET, TIMEOUT, World, all_have, brief, freeze_process, is_ready, kill_node, kill_process,
    living_without, master, pid_of, ready_without, replicas, task_ids, thaw_process,
};

/// Redis counts the lag of replicas in whole seconds, and looks at it once a second.
const BEYOND_LAG_MS: u64 = 2000;
/// Operators that are killed in one story.
const KILLS: usize = 5;
/// The same while the master's role is handed over, which takes less time.
const KILLS_AMID_SWITCHOVERS: usize = 8;
/// Leaders that are stopped meanwhile in one story, ...
const HANGS_AMID_SWITCHOVERS: usize = 4;
/// ... each so long after the request at most: by then it is done as a rule.
const HANG_WITHIN_US: u64 = 60_000;

/// A master and two replicas, and a place for one more; who are ready, under the promise of
/// confirmed writes if there is one.
pub async fn orders(kind: Kind, document: Document) -> (World, InstanceStatus) {
    let world = World::start(kind, &AgentSpec::racks(4)).await;
    world.put("orders", &document.yaml()).await;
    let status = world.ready("orders", 3).await;
    (world, status)
}

/// Waits until every replica takes the master's stream: one that was copied in full gets nothing for up
/// to a second after that.
pub async fn all_stream(status: &InstanceStatus) {
    let mut client = Client::connect(&master(status).address).await.expect("the master listens");
    wait_until("all replicas confirm a write", TIMEOUT, async || {
        client.ask(&["SET", "streams", "1"]).await?.map_err(anyhow::Error::msg)?;
        let confirmed = client.ask(&["WAIT", "9", "100"]).await?.map_err(anyhow::Error::msg)?;
        anyhow::ensure!(confirmed == replicas(status).len().to_string(), "{confirmed} do");
        anyhow::Ok(())
    })
    .await;
}

/// A document whose nodes that hang are not replaced.
pub fn patient() -> Document {
    Document::new("orders", 2).with("replaceUnreachableAfter", LONG)
}

fn is_available(status: &InstanceStatus) -> bool {
    status.condition(ConditionType::MasterAvailable).is_some_and(|c| c.status == ConditionStatus::True)
}

/// Waits until another node is the master and takes writes.
pub async fn another_master(world: &World, name: &str, before: &InstanceStatus) -> InstanceStatus {
    let old = master(before).task_id.clone();
    world
        .until(name, "has another master", |status| {
            status.nodes.iter().any(|node| node.role == Role::Master && node.task_id != old) && is_available(status)
        })
        .await
}

/// A counter of INFO.
async fn counter(node: &NodeStatus, name: &str) -> u64 {
    let info = redis::info(&node.address).await.expect("the node answers");
    info[name].parse().expect("it is a number")
}

/// Nothing was done about the master.
async fn left_alone(world: &World, before: &InstanceStatus) {
    for reason in ["MasterGone", "FailedOver", "WritesDiscarded"] {
        assert_eq!(world.events_of("orders", reason).await, []);
    }
    let after = world.ready("orders", 3).await;
    assert_eq!((after.epoch, task_ids(&after)), (before.epoch, task_ids(before)));
    assert_eq!(master(&after).task_id, master(before).task_id);
}

// --- Masters that die

pub async fn a_master_that_is_killed_is_replaced_by_a_replica_and_no_confirmed_write_is_lost(kind: Kind) {
    let (world, before) = orders(kind, Document::new("orders", 2)).await;
    let writer = Writer::start(&world, "orders");
    writer.goes_on().await;

    let old = master(&before).clone();
    kill_node(&old).await;
    let after = ready_without(&world, &before, &old).await;
    writer.goes_on().await;
    let written = writer.end();
    let new = master(&after).clone();
    assert_eq!(after.epoch, before.epoch + 1);
    assert!(replicas(&before).iter().any(|node| node.task_id == new.task_id), "{} was no replica", new.name);
    let told = world.events_of("orders", "FailedOver").await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].message.contains(&old.name) && told[0].message.contains(&new.name), "{told:?}");
    all_have_written(&after, &written.confirmed).await;
    // The one that follows another master now went on where it was; the one that is new did not.
    assert_eq!((counter(&new, "sync_full").await, counter(&new, "sync_partial_ok").await), (1, 1));
    world.finish().await;
}

pub async fn the_most_caught_up_replica_takes_the_place_of_a_dead_master_once_all_are_in_sight(kind: Kind) {
    let (world, before) = orders(kind, patient().with("memory", "64Mi")).await;
    let (behind, ahead) = (replicas(&before)[0].clone(), replicas(&before)[1].clone());
    all_stream(&before).await;
    let frozen = pid_of(&behind).await;
    freeze_process(frozen);
    // More than the kernel keeps for one that does not read.
    let mut client = Client::connect(&master(&before).address).await.expect("the master listens");
    let megabyte = "x".repeat(1 << 20);
    for number in 0..24 {
        client.ask(&["SET", "big", &megabyte]).await.expect("it answers").expect("it takes writes");
        client.ask(&["SET", "last", &number.to_string()]).await.expect("it answers").expect("it takes writes");
        let replicas = client.ask(&["WAIT", "1", "0"]).await.expect("it answers");
        assert_eq!(replicas.as_deref(), Ok("1"), "{} cannot have it", behind.name);
    }

    let old = master(&before).clone();
    kill_node(&old).await;
    let status = world
        .until("orders", "says for whom it waits", |status| {
            let waits = status.waiting.iter().any(|why| why.contains(&format!("{} does not answer", behind.name)));
            waits && status.nodes.iter().any(|node| node.task_id == old.task_id && node.state == NodeState::Dead)
        })
        .await;
    assert_eq!((status.epoch, status.phase), (before.epoch, Phase::Unavailable));
    thaw_process(frozen);
    let after = ready_without(&world, &before, &old).await;
    assert_eq!(master(&after).task_id, ahead.task_id);
    all_have(&after, "last", "23").await;
    world.finish().await;
}

/// The master and one replica die at once: who is left.
async fn master_and_replica_die(before: &InstanceStatus) -> NodeStatus {
    let victims = [pid_of(replicas(before)[0]).await, pid_of(master(before)).await];
    victims.into_iter().for_each(kill_process);
    replicas(before)[1].clone()
}

pub async fn when_too_few_are_left_to_be_sure_nobody_is_promoted_but_by_force(kind: Kind) {
    let (world, before) = orders(kind, Document::new("orders", 2)).await;
    all_stream(&before).await;
    let writer = Writer::start(&world, "orders");
    writer.goes_on().await;
    let left = master_and_replica_die(&before).await;
    let status = world
        .until("orders", "says that there is no safe candidate", |status| {
            status.condition(ConditionType::NoSafeCandidate).is_some_and(|c| c.status == ConditionStatus::True)
        })
        .await;
    let told = status.condition(ConditionType::NoSafeCandidate).expect("it was found").message.clone();
    assert!(told.contains(&left.name) && told.contains("--force"), "{told:?}");
    assert_eq!(status.phase, Phase::Unavailable, "{}", brief(&status));
    let written = writer.end();
    // A replica may have been replaced in the moment before its master's death was known.
    let running = world.cluster.running_tasks().await.expect("the cluster answers");
    holds_for("nobody is promoted", QUIET, async || {
        let status = world.status("orders").await?;
        anyhow::ensure!(status.epoch == before.epoch && status.phase == Phase::Unavailable, "{}", brief(&status));
        let role = redis::info(&left.address).await.map_err(anyhow::Error::msg)?["role"].clone();
        anyhow::ensure!(role == "slave", "{} is a {role}", left.name);
        let now = world.cluster.running_tasks().await?;
        anyhow::ensure!(now.is_subset(&running) && now.contains(&left.task_id), "running: {now:?}");
        Ok(())
    })
    .await;

    let refused = world.operators[0].cli(&["failover", "orders"], "", TIMEOUT).await.expect_err("nobody can take it");
    assert!(refused.contains("replicas are in sight"), "{refused}");
    let said = world.cli(&["failover", "orders", "--force", "--to", &left.name, "--yes"], "").await;
    assert!(said.contains(&format!("{} is the master now (epoch {})", left.name, before.epoch + 1)), "{said}");
    let after = world.until("orders", "is whole", |status| is_ready(status) && status.nodes.len() == 3).await;
    assert_eq!(master(&after).task_id, left.task_id);
    assert!(after.condition(ConditionType::NoSafeCandidate).is_none(), "{after:?}");
    // It had not promised so much: what it has is what it had.
    let have = redis::cli(&left.address, &["DBSIZE"]).await.expect("it answers");
    println!("{have} keys are left of {} acknowledged writes", written.acknowledged.len());
    assert!(have.parse::<usize>().is_ok_and(|keys| keys > 0), "{have} keys");
    world.finish().await;
}

pub async fn without_a_promise_the_only_one_left_is_promoted_at_once(kind: Kind) {
    let (world, before) = orders(kind, Document::new("orders", 2).with("durability", "none")).await;
    redis::cli(&master(&before).address, &["SET", "a", "1"]).await.expect("the master takes writes");
    all_have(&before, "a", "1").await;
    let left = master_and_replica_die(&before).await;
    let after = world
        .until("orders", "is whole", |status| {
            is_ready(status) && status.nodes.len() == 3 && status.epoch > before.epoch
        })
        .await;
    assert_eq!((master(&after).task_id.as_str(), after.epoch), (left.task_id.as_str(), before.epoch + 1));
    all_have(&after, "a", "1").await;
    world.finish().await;
}

pub async fn a_master_whose_machine_dies_is_replaced_and_leaves_nothing_when_the_machine_returns(kind: Kind) {
    let (mut world, before) = orders(kind, Document::new("orders", 2)).await;
    let writer = Writer::start(&world, "orders");
    writer.goes_on().await;
    let old = master(&before).clone();
    world.cluster.kill_machine(agent_of(&old.hostname));
    let after = living_without(&world, &before, &old).await;
    assert_eq!(after.epoch, before.epoch + 1);
    world.cluster.restart_agent(agent_of(&old.hostname));
    let after = ready_without(&world, &before, &old).await;
    writer.goes_on().await;
    assert_eq!(after.epoch, before.epoch + 1);
    all_have_written(&after, &writer.end().confirmed).await;
    world.finish().await;
}

pub async fn a_master_whose_machine_hangs_is_replaced_and_doubles_nothing_when_it_wakes(kind: Kind) {
    let (mut world, before) = orders(kind, Document::new("orders", 2)).await;
    let writer = Writer::start(&world, "orders");
    writer.goes_on().await;
    let old = master(&before).clone();
    world.cluster.freeze_machine(agent_of(&old.hostname));
    let after = living_without(&world, &before, &old).await;
    assert_eq!(after.epoch, before.epoch + 1);
    world.cluster.thaw_machine(agent_of(&old.hostname));
    // It is taken back or removed: either is right, as long as nothing is left over.
    let whole = |status: &InstanceStatus| is_ready(status) && status.nodes.len() == 3;
    let after = world.until("orders", "is ready with three nodes", whole).await;
    wait_until("three nodes run", TIMEOUT, async || {
        let servers = world.cluster.redis_servers();
        if servers.len() == 3 { Ok(()) } else { Err(format!("{servers:?}")) }
    })
    .await;
    writer.goes_on().await;
    assert_eq!(after.epoch, before.epoch + 1);
    all_have_written(&world.until("orders", "is ready", whole).await, &writer.end().confirmed).await;
    world.finish().await;
}

// --- Masters that hang

/// A client that knows nothing of failovers: it has sent a write to a master that hangs, goes on when
/// that wakes until it is cut off, and answers how many writes were acknowledged.
async fn insists(mut client: Client) -> usize {
    let mut acknowledged = 0;
    let cut = async {
        while let Ok(reply) = client.reply().await {
            acknowledged += usize::from(reply.is_ok());
            if client.send(&["SET", &format!("stale:{acknowledged}"), "written"]).await.is_err() {
                break;
            }
        }
    };
    tokio::time::timeout(TIMEOUT, cut).await.expect("a fenced master cuts its clients");
    acknowledged
}

/// What the shortest of its writes adds to the stream of replication.
const STALE_BYTES: usize = "*3\r\n$3\r\nSET\r\n$7\r\nstale:0\r\n$7\r\nwritten\r\n".len();

/// The bytes that were discarded on `node`, as the event says it.
async fn discarded(world: &World, node: &NodeStatus) -> usize {
    let told = world.events_of("orders", "WritesDiscarded").await;
    let told: Vec<_> = told.iter().filter(|event| event.object == node.name).collect();
    println!("{told:?}");
    let bytes = |message: &str| -> Option<usize> {
        let (text, _) = message.split_once(" bytes")?;
        text.rsplit(' ').next()?.parse().ok()
    };
    told.iter().map(|event| bytes(&event.message).unwrap_or_else(|| panic!("no extent: {event:?}"))).sum()
}

/// The master hangs, another takes its place, and it wakes, with a client that goes on writing to
/// it: the status when all is well again, and how many writes the old one acknowledged after that.
async fn hangs_and_wakes_too_late(world: &World, before: &InstanceStatus) -> (InstanceStatus, usize) {
    let writer = Writer::start(world, "orders");
    writer.goes_on().await;
    let old = master(before).clone();
    let mut stubborn = Client::connect(&old.address).await.expect("the master listens");
    let frozen = pid_of(&old).await;
    freeze_process(frozen);
    stubborn.send(&["SET", "stale:0", "written"]).await.expect("its kernel takes it");
    another_master(world, "orders", before).await;
    writer.goes_on().await;

    thaw_process(frozen);
    let stale = insists(stubborn).await;
    println!("{stale} writes acknowledged by the old master");
    let after = world.ready("orders", 3).await;
    assert_eq!((after.epoch, task_ids(&after)), (before.epoch + 1, task_ids(before)));
    writer.goes_on().await;
    all_have_written(&after, &writer.end().confirmed).await;
    all_have(&after, "stale:0", "").await;
    let discarded = discarded(world, &old).await;
    assert!(discarded >= stale * STALE_BYTES, "{stale} writes were lost, but only {discarded} bytes reported");
    (after, stale)
}

pub async fn a_hung_master_is_replaced_only_after_it_must_have_stopped_taking_writes(kind: Kind) {
    let (world, before) = orders(kind, patient()).await;
    hangs_and_wakes_too_late(&world, &before).await;
    let (gone, over) = (world.events_of("orders", "MasterGone").await, world.events_of("orders", "FailedOver").await);
    assert_eq!(over.len(), 1, "{over:?}");
    // `failover.maxLag` is 1s when nothing is said.
    let waited = over[0].at.since_ms(gone[0].first_at);
    assert!(waited >= 1000 + BEYOND_LAG_MS, "promoted {waited} ms after the replicas were taken: {gone:?} {over:?}");
    world.finish().await;
}

pub async fn what_a_replaced_master_took_when_it_woke_is_reported_and_its_clients_are_cut(kind: Kind) {
    let (world, before) = orders(kind, patient().with("durability", "none")).await;
    let (_, stale) = hangs_and_wakes_too_late(&world, &before).await;
    assert!(stale > 0, "without a promise it takes what it is sent");
    world.finish().await;
}

pub async fn a_hung_master_that_wakes_in_time_stays_the_master(kind: Kind) {
    let (world, before) = orders(kind, patient().with("failover", json!({"detectWithin": "20s"}))).await;
    let writer = Writer::start(&world, "orders");
    writer.goes_on().await;
    let frozen = pid_of(master(&before)).await;
    freeze_process(frozen);
    world
        .until("orders", "says that its master is silent", |status| {
            status.condition(ConditionType::MasterAvailable).is_some_and(|c| c.reason == "NotAnswering")
        })
        .await;
    thaw_process(frozen);
    writer.goes_on().await;
    left_alone(&world, &before).await;

    // And so does one whose replicas were taken already.
    world.put("orders", &patient().with("failover", json!({"maxLag": "10s"})).yaml()).await;
    world.ready("orders", 3).await;
    let copies = counter(master(&before), "sync_full").await;
    freeze_process(frozen);
    let told = world.event("orders", "MasterGone").await;
    thaw_process(frozen);
    assert!(told.contains("replicas are taken"), "{told}");
    writer.goes_on().await;
    let after = world.ready("orders", 3).await;
    all_have_written(&after, &writer.end().acknowledged).await;
    assert_eq!((after.epoch, task_ids(&after)), (before.epoch, task_ids(&before)));
    assert_eq!(master(&after).task_id, master(&before).task_id);
    assert_eq!(counter(master(&after), "sync_full").await, copies, "no replica was copied to anew");
    assert_eq!(world.events_of("orders", "FailedOver").await, []);
    world.finish().await;
}

pub async fn a_busy_master_is_not_replaced(kind: Kind) {
    let config = json!({"config": {"busy-reply-threshold": "100"}});
    let (world, before) = orders(kind, Document::new("orders", 2).with("redis", config)).await;
    let worst = before.failover.expect("it is said").worst_case;
    let mut client = Client::connect(&master(&before).address).await.expect("the master listens");
    client.send(&["EVAL", "while true do end", "0"]).await.expect("the master takes it");
    // Longer than it takes to replace one that hangs.
    holds_for("the master is left alone", Duration::from_millis(worst.0 + 1000), async || {
        let status = world.status("orders").await?;
        anyhow::ensure!(status.epoch == before.epoch && task_ids(&status) == task_ids(&before), "{}", brief(&status));
        let running = world.cluster.running_tasks().await?;
        anyhow::ensure!(running == task_ids(&before), "{running:?}");
        Ok(())
    })
    .await;
    let busy = redis::cli(&master(&before).address, &["PING"]).await;
    assert!(busy.as_ref().is_err_and(|why| why.contains("BUSY")), "the script has ended: {busy:?}");
    redis::cli(&master(&before).address, &["SCRIPT", "KILL"]).await.expect("the script can be ended");
    left_alone(&world, &before).await;
    world.finish().await;
}

pub async fn replicas_that_are_busy_with_a_script_do_not_hold_up_a_failover_for_longer_than_redis_does(kind: Kind) {
    let (world, before) = orders(kind, Document::new("orders", 2)).await;
    let mut clients = Vec::new();
    for replica in replicas(&before) {
        let mut client = Client::connect(&replica.address).await.expect("the replica listens");
        client.send(&["EVAL", "while true do end", "0"]).await.expect("it takes it");
        clients.push(client);
    }
    kill_node(master(&before)).await;
    // These scripts never end by themselves.
    another_master(&world, "orders", &before).await;
    drop(clients);
    world.ready("orders", 3).await;
    world.finish().await;
}

// --- Masters that hand their role over

pub async fn a_switchover_under_load_loses_no_acknowledged_write(kind: Kind) {
    let (world, before) = orders(kind, patient()).await;
    all_stream(&before).await;
    let writer = Writer::start(&world, "orders");
    let mut status = before.clone();
    for to in replicas(&before) {
        writer.goes_on().await;
        let said = world.cli(&["failover", "orders", "--to", &to.name], "").await;
        let expected = format!("redisinstance/orders: {} is the master now (epoch {})", to.name, status.epoch + 1);
        assert_eq!(said.trim_end(), expected);
        status = world.ready("orders", 3).await;
        assert_eq!(master(&status).task_id, to.task_id);
    }
    writer.goes_on().await;
    assert_eq!(world.events_of("orders", "SwitchoverFailed").await, []);

    // One that cannot keep up is no choice, whether that is known already or found out on the way.
    let lame = replicas(&status)[0].clone();
    let frozen = pid_of(&lame).await;
    freeze_process(frozen);
    let refused = world.operators[0].cli(&["failover", "orders", "--to", &lame.name], "", TIMEOUT).await;
    assert!(refused.is_err(), "{refused:?}");
    println!("{refused:?}");
    writer.goes_on().await;
    world
        .until("orders", "says that a replica does not answer", |status| {
            status.nodes.iter().any(|node| node.task_id == lame.task_id && node.state == NodeState::NotAnswering)
        })
        .await;
    let refused = world.operators[0].cli(&["failover", "orders", "--to", &lame.name], "", TIMEOUT).await;
    let refused = refused.expect_err("it does not answer");
    assert!(refused.contains(&format!("{} does not answer", lame.name)), "{refused}");
    writer.goes_on().await;
    thaw_process(frozen);
    let after = world.ready("orders", 3).await;
    assert_eq!(
        (master(&after).task_id.as_str(), task_ids(&after)),
        (master(&status).task_id.as_str(), task_ids(&before))
    );
    all_have_written(&after, &writer.end().acknowledged).await;
    world.finish().await;
}

// --- Operators that die and hang meanwhile

/// Two operators with short leases, one of which leads.
async fn two_operators(kind: Kind) -> World {
    let mut world = World::without_operator(kind, &AgentSpec::racks(4)).await;
    for number in 0..2 {
        world.spawn_operator_with(&SHORT_LEASE);
        world.operators[number].wait_until_it_answers().await;
    }
    wait_until("one leads", TIMEOUT, async || leaders(&world).await.contains(&true)).await;
    world
}

/// The one that leads, and the other.
async fn leader_and_standby(world: &World) -> (usize, usize) {
    wait_until("one of two leads", TIMEOUT, async || match leaders(world).await[..] {
        [true, false] => Ok((0, 1)),
        [false, true] => Ok((1, 0)),
        ref other => Err(format!("{other:?}")),
    })
    .await
}

/// The leader is killed and started again after a random moment, most of them short: what can go
/// wrong does so within a few steps.
async fn leader_dies(world: &mut World, leader: usize, random: &mut rand::rngs::StdRng) {
    let bits = random.random_range(10..18_u32);
    let moment = Duration::from_micros(random.random_range(0..1 << bits));
    println!("killed after {moment:?}");
    tokio::time::sleep(moment).await; // The moment is the point of it.
    world.operators[leader].kill();
    world.operators[leader].spawn_again();
}

/// Waits until the switchover that was asked for was done or given up.
async fn answered(world: &World) {
    wait_until("it was done or given up", TIMEOUT, async || {
        let asked = world.etcd.keys(&format!("{PREFIX}/requests/orders/")).await;
        anyhow::ensure!(asked.is_empty(), "{asked:?}");
        anyhow::Ok(())
    })
    .await;
}

pub async fn an_operator_killed_amid_failovers_leaves_one_master_and_every_confirmed_write(kind: Kind) {
    let (mut random, mut world) = (seeded(), two_operators(kind).await);
    let names: Vec<String> = (1..=KILLS).map(|i| format!("cache-{i}")).collect();
    for name in &names {
        world.put(name, &Document::new(name, 2).with("distribution", 2).yaml()).await;
    }
    for name in &names {
        let before = world.ready(name, 3).await;
        let (leader, _) = leader_and_standby(&world).await;
        let writer = Writer::start(&world, name);
        writer.goes_on().await;
        kill_node(master(&before)).await;
        leader_dies(&mut world, leader, &mut random).await;
        writer.goes_on().await;
        let after = another_master(&world, name, &before).await;
        assert_eq!(after.epoch, before.epoch + 1);
        let after = world.until(name, "is whole", |status| is_ready(status) && status.nodes.len() == 3).await;
        all_have_written(&after, &writer.end().confirmed).await;
    }
    world.finish().await;
}

pub async fn an_operator_killed_amid_switchovers_leaves_one_master_and_every_acknowledged_write(kind: Kind) {
    let (mut random, mut world) = (seeded(), two_operators(kind).await);
    world.put("orders", &patient().yaml()).await;
    let before = world.ready("orders", 3).await;
    let writer = Writer::start(&world, "orders");
    for _ in 0..KILLS_AMID_SWITCHOVERS {
        let (leader, standby) = leader_and_standby(&world).await;
        writer.goes_on().await;
        world.operators[standby].cli(&["failover", "orders", "--no-wait"], "", TIMEOUT).await.expect("it is asked for");
        leader_dies(&mut world, leader, &mut random).await;
        answered(&world).await;
        leader_and_standby(&world).await;
        world.ready("orders", 3).await;
    }
    writer.goes_on().await;
    let after = world.ready("orders", 3).await;
    println!("epoch {}, events {:?}", after.epoch, world.events("orders").await);
    assert!(after.epoch > before.epoch, "no switchover was done");
    assert_eq!(task_ids(&after), task_ids(&before));
    all_have_written(&after, &writer.end().acknowledged).await;
    world.finish().await;
}

pub async fn a_leader_that_hangs_while_the_master_dies_changes_nothing_when_it_wakes(kind: Kind) {
    let mut world = two_operators(kind).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let before = world.ready("orders", 3).await;
    let (leader, standby) = leader_and_standby(&world).await;
    let writer = Writer::start(&world, "orders");
    writer.goes_on().await;
    world.operators[leader].freeze();
    let old = master(&before).clone();
    kill_node(&old).await;
    world.operators[standby].wait_until_in_charge(TIMEOUT).await;
    writer.goes_on().await;
    let status = another_master(&world, "orders", &before).await;
    assert_eq!(status.epoch, before.epoch + 1);
    for node in &status.nodes {
        only_its_successor_commands(&node.address).await;
    }

    world.operators[leader].thaw();
    wait_until("the former leader knows that it leads no more", TIMEOUT, async || {
        anyhow::ensure!(!leaders(&world).await[leader] || !world.operators[leader].runs(), "it says that it leads");
        anyhow::Ok(())
    })
    .await;
    let after = ready_without(&world, &before, &old).await;
    assert_eq!((after.epoch, &master(&after).task_id), (status.epoch, &master(&status).task_id));
    assert_eq!(world.events_of("orders", "FailedOver").await.len(), 1);
    let launched = world.cluster.launched_tasks().await.expect("the cluster answers");
    assert_eq!(launched.len(), 4, "both have acted: {launched:?}");
    all_have_written(&after, &writer.end().confirmed).await;
    if !world.operators[leader].runs() {
        world.operators[leader].spawn_again(); // Ending itself is one way to step down.
    }
    world.finish().await;
}

/// The connections of a leader that hangs stay open, for its kernel knows nothing of it: its successor
/// has cut them, so that what it has in hand when it wakes is not done.
async fn only_its_successor_commands(node: &str) {
    let terms = wait_until("one leader's connections are left", TIMEOUT, async || {
        let clients = redis::cli(node, &["CLIENT", "LIST"]).await?;
        let names = clients.lines().filter_map(|line| line.split(' ').find_map(|f| f.strip_prefix("name=redisctl:")));
        let terms = names.map(String::from).collect::<BTreeSet<_>>();
        if terms.len() == 1 { Ok(terms) } else { Err(format!("{terms:?}")) }
    })
    .await;
    println!("{node} is commanded by the leader of term {terms:?}");
}

/// The leader is stopped a random moment after a switchover was asked for, and woken when another has
/// ended it: whatever it had in hand is not done.
pub async fn a_leader_that_hangs_amid_a_switchover_changes_nothing_when_it_wakes(kind: Kind) {
    let (mut random, mut world) = (seeded(), two_operators(kind).await);
    world.put("orders", &patient().yaml()).await;
    let before = world.ready("orders", 3).await;
    let writer = Writer::start(&world, "orders");
    for _ in 0..HANGS_AMID_SWITCHOVERS {
        let (leader, standby) = leader_and_standby(&world).await;
        writer.goes_on().await;
        world.operators[standby].cli(&["failover", "orders", "--no-wait"], "", TIMEOUT).await.expect("it is asked for");
        let moment = Duration::from_micros(random.random_range(0..HANG_WITHIN_US));
        tokio::time::sleep(moment).await; // The moment is the point of it.
        world.operators[leader].freeze();
        world.operators[standby].wait_until_in_charge(TIMEOUT).await;
        answered(&world).await;
        let settled = world.ready("orders", 3).await;
        for node in &settled.nodes {
            only_its_successor_commands(&node.address).await;
        }
        writer.goes_on().await;
        let switched = world.events_of("orders", "SwitchoverStarted").await.len();
        println!("stopped after {moment:?}; epoch {}, {switched} switchovers begun", settled.epoch);

        world.operators[leader].thaw();
        leader_and_standby(&world).await;
        writer.goes_on().await;
        let after = world.ready("orders", 3).await;
        assert_eq!((after.epoch, &master(&after).task_id), (settled.epoch, &master(&settled).task_id));
        if !world.operators[leader].runs() {
            world.operators[leader].spawn_again(); // Ending itself is one way to step down.
        }
    }
    let after = world.ready("orders", 3).await;
    assert_eq!(task_ids(&after), task_ids(&before));
    all_have_written(&after, &writer.end().acknowledged).await;
    world.finish().await;
}
