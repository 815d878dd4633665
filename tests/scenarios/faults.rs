//! Scenarios of a Mesos that loses, doubles, delays and cuts: what only the local cluster does on
//! demand. I/O.

use std::time::Duration;

use redisctl::local::Answer;

use crate::cluster::Kind;
use crate::document::Document;
use crate::support::{AgentSpec, wait_until};
use crate::world::{TIMEOUT, World, all_have, kill_node, replicas, task_ids, write};

/// Makes an instance, changes it, lets a replica die, and deletes it, whatever else happens: three
/// nodes, four nodes and one replaced, two nodes.
async fn a_whole_life(world: &World) {
    world.put("orders", &Document::new("orders", 2).with("distribution", 2).yaml()).await;
    let three = world.ready("orders", 3).await;
    write(&three, "a", "1").await;

    world.put("orders", &Document::new("orders", 3).with("distribution", 2).yaml()).await;
    let four = world.ready("orders", 4).await;
    assert!(task_ids(&four).is_superset(&task_ids(&three)));

    let victim = replicas(&four)[0].clone();
    kill_node(&victim).await;
    let replaced = world
        .until("orders", "has a new replica", |status| {
            crate::world::is_ready(status) && status.nodes.len() == 4 && !task_ids(status).contains(&victim.task_id)
        })
        .await;
    all_have(&replaced, "a", "1").await;

    world.put("orders", &Document::new("orders", 1).with("distribution", 2).yaml()).await;
    let two = world.ready("orders", 2).await;
    assert!(task_ids(&two).is_subset(&task_ids(&replaced)));
    all_have(&two, "a", "1").await;
}

/// The nodes of a whole life: three, one more, and one in the place of the one that died.
const NODES_OF_A_LIFE: usize = 5;

async fn launched(world: &World) -> usize {
    world.cluster.launched_tasks().await.expect("the cluster answers").len()
}

pub async fn updates_that_are_late_doubled_and_out_of_order_change_nothing(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.cluster.local().duplicate_updates(true);
    world.cluster.local().reorder_updates(true);
    world.cluster.local().delay_updates(Duration::from_millis(300));
    a_whole_life(&world).await;
    assert_eq!(launched(&world).await, NODES_OF_A_LIFE);
    world.finish().await;
}

pub async fn updates_that_are_lost_are_asked_for(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    // The first of each of the nodes: Mesos sends them again after 10 s.
    world.cluster.local().drop_next_updates(3);
    a_whole_life(&world).await;
    assert_eq!(launched(&world).await, NODES_OF_A_LIFE);
    world.settled().await;
    world.cluster.local().drop_next_updates(2);
    world.finish().await;
}

pub async fn a_stream_that_breaks_at_any_byte_loses_nothing(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    // Within a length, a frame's head, its middle; later ones hit what a whole life sends. Few: the
    // operator takes its time to subscribe again when it has just done so.
    let cuts = async {
        for bytes in [1, 60, 700, 2500, 6000] {
            let before = subscriptions(&world);
            world.cluster.local().cut_stream_after(bytes);
            wait_until("the stream was cut", TIMEOUT, async || subscriptions(&world) > before).await;
        }
    };
    // Until the last one was used or nothing more is sent.
    tokio::select! {
        () = a_whole_life(&world) => {}
        () = async { cuts.await; std::future::pending().await } => {}
    }
    println!("{} subscriptions", subscriptions(&world));
    assert!(subscriptions(&world) > 3, "the stream was cut only {} times", subscriptions(&world) - 1);
    assert_eq!(launched(&world).await, NODES_OF_A_LIFE);
    world.finish().await;
}

fn subscriptions(world: &World) -> u64 {
    calls(world, "SUBSCRIBE")
}

pub async fn launches_and_answers_that_get_lost_are_found_out(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    world.cluster.local().lose_next_accept_response();
    world.put("orders", &Document::new("orders", 1).yaml()).await;
    let status = world.ready("orders", 2).await;
    write(&status, "a", "1").await;
    assert_eq!(launched(&world).await, 2, "what was launched without an answer was launched again");

    // This one never arrives: what was on offer must come back.
    world.cluster.local().lose_next_accept_request();
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let status = world.ready("orders", 3).await;
    all_have(&status, "a", "1").await;

    // This one was taken by a master that died before it did anything.
    let accepts = calls(&world, "ACCEPT");
    world.cluster.local().lose_next_accept();
    kill_node(replicas(&status)[0]).await;
    wait_until("the launch was lost", TIMEOUT, async || calls(&world, "ACCEPT") > accepts).await;
    world.cluster.kill_master();
    world.cluster.restart_master().await;
    let status = world
        .until("orders", "is ready again", |status| crate::world::is_ready(status) && status.nodes.len() == 3)
        .await;
    all_have(&status, "a", "1").await;
    world.finish().await;
}

fn calls(world: &World, kind: &str) -> u64 {
    world.cluster.local().calls().get(kind).copied().unwrap_or(0)
}

pub async fn offers_that_are_taken_back_cost_nothing_but_time(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    let rescinding = async {
        loop {
            world.cluster.local().rescind_offers();
            // Often enough to hit a launch, rarely enough for one to get through now and then.
            tokio::time::sleep(Duration::from_millis(rand::random_range(1..150))).await;
        }
    };
    tokio::select! {
        () = a_whole_life(&world) => {}
        () = rescinding => unreachable!("it goes on for ever"),
    }
    world.finish().await;
}

pub async fn a_master_that_answers_nobody_is_waited_for(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.cluster.local().answer_calls_with(Some(Answer::Unavailable));
    world.put("orders", &Document::new("orders", 2).with("distribution", 2).yaml()).await;
    world.until("orders", "is known and waits", |status| !status.waiting.is_empty()).await;
    assert_eq!(launched(&world).await, 0);
    world.cluster.local().answer_calls_with(None);
    a_whole_life(&world).await;
    world.finish().await;
}
