//! Scenarios of agents that an administrator takes out of service. I/O.

use std::time::Duration;

use redisctl::status::{ConditionType, InstanceStatus};

use crate::client::{Writer, all_have_written};
use crate::cluster::{Kind, agent_of};
use crate::document::Document;
use crate::failover::another_master;
use crate::support::{AgentSpec, holds_for, redis, wait_until};
use crate::world::{QUIET, TIMEOUT, World, is_ready, kill_process, master, pid_of, ready_without, task_ids, write};

/// A master and a replica, a client that writes, and an agent to spare.
async fn orders(kind: Kind) -> (World, InstanceStatus, Writer) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 1).with("durability", "one").yaml()).await;
    let status = world.ready("orders", 2).await;
    let writer = Writer::start(&world, "orders");
    writer.goes_on().await;
    (world, status, writer)
}

/// The master's agent has been left, and not one acknowledged write was lost.
async fn left(world: &World, before: &InstanceStatus, writer: Writer) -> InstanceStatus {
    let after = ready_without(world, before, master(before)).await;
    assert!(after.nodes.iter().all(|node| node.hostname != master(before).hostname));
    writer.goes_on().await;
    all_have_written(&after, &writer.end().acknowledged).await;
    after
}

pub async fn a_deactivated_agent_is_left_by_a_switchover_before_anything_is_killed(kind: Kind) {
    let (world, before, writer) = orders(kind).await;
    let agent = agent_of(&master(&before).hostname);
    world.cluster.deactivate(agent).await;
    left(&world, &before, writer).await;
    assert_eq!(world.events_of("orders", "SwitchoverStarted").await.len(), 1);
    assert_eq!(world.events_of("orders", "FailedOver").await, []);
    assert_eq!(world.events_of("orders", "NodeDied").await, []);
    // It may be used again, and nobody moves back for that.
    world.cluster.reactivate(agent).await;
    let now = task_ids(&world.ready("orders", 2).await);
    holds_for("nobody moves", QUIET, async || task_ids(&world.status("orders").await.unwrap()) == now).await;
    world.finish().await;
}

pub async fn maintenance_is_agreed_to_when_nothing_is_left_on_the_agent(kind: Kind) {
    let (world, before, writer) = orders(kind).await;
    let agent = agent_of(&master(&before).hostname);
    world.cluster.maintenance(agent, Duration::from_hours(48)).await;
    holds_for("it is too early to go", QUIET, async || {
        task_ids(&world.status("orders").await.unwrap()) == task_ids(&before)
    })
    .await;
    assert!(world.cluster.maintenance_answers().await.is_empty());
    world.cluster.maintenance(agent, Duration::from_mins(10)).await;
    left(&world, &before, writer).await;
    assert_eq!(world.events_of("orders", "FailedOver").await, []);
    wait_until("the administrator is told", TIMEOUT, async || {
        world.cluster.maintenance_answers().await.get(&agent).map(String::as_str) == Some("ACCEPT")
    })
    .await;
    world.cluster.no_maintenance().await;
    world.finish().await;
}

pub async fn a_drained_agent_costs_no_acknowledged_write_and_the_drain_comes_to_its_end(kind: Kind) {
    let (world, before, writer) = orders(kind).await;
    let agent = agent_of(&master(&before).hostname);
    world.cluster.drain(agent).await;
    let after = left(&world, &before, writer).await;
    assert!(is_ready(&after));
    assert_eq!(after.epoch, before.epoch + 1);
    world.cluster.drained(agent).await;
    world.cluster.reactivate(agent).await;
    world.finish().await;
}

pub async fn a_master_that_an_administrator_calls_gone_while_it_lives_is_fenced_before_another_takes_its_place(
    kind: Kind,
) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 1).with("durability", "none").yaml()).await;
    let before = world.ready("orders", 2).await;
    let old = master(&before).clone();
    write(&before, "before", "1").await;
    let pid = pid_of(&old).await;
    let agent = agent_of(&old.hostname);
    world.cluster.kill_agent(agent);
    world.cluster.mark_gone(agent).await;
    let told = world.event("orders", "GoneNodeFenced").await;
    assert!(told.contains(&old.address) && told.contains(&old.hostname), "{told}");
    let after = another_master(&world, "orders", &before).await;
    assert!(after.condition(ConditionType::GoneNodeLives).is_some(), "{after:?}");
    // Nothing that it had is lost, and it takes no write any more; the operator's restart changes nothing.
    assert_eq!(redis::cli(&master(&after).address, &["GET", "before"]).await.unwrap(), "1");
    for _ in 0..2 {
        let refused = redis::cli(&old.address, &["SET", "after", "1"]).await;
        assert!(format!("{refused:?}").contains("READONLY"), "{refused:?}");
        world.restart_operator();
        world.until("orders", "tells of it", |s| s.condition(ConditionType::GoneNodeLives).is_some()).await;
    }
    // It takes its role back by itself, or by somebody's hand: it is fenced again.
    world.as_operator("orders", &old, &["REPLICAOF", "NO", "ONE"]).await.unwrap();
    wait_until("it is fenced again", TIMEOUT, async || {
        format!("{:?}", redis::cli(&old.address, &["SET", "again", "1"]).await).contains("READONLY")
    })
    .await;
    // Its process ends: that is seen, and it is forgotten.
    kill_process(pid);
    world.until("orders", "has forgotten it", |s| !task_ids(s).contains(&old.task_id)).await;
    world.event("orders", "GoneNodeEnded").await;
    world.ready("orders", 2).await;
    world.finish().await;
}
