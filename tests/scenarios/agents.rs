//! Scenarios of agents that an administrator takes out of service. I/O.

use std::time::Duration;

use redisctl::status::InstanceStatus;

use crate::client::{Writer, all_have_written};
use crate::cluster::{Kind, agent_of};
use crate::document::Document;
use crate::support::{AgentSpec, holds_for, wait_until};
use crate::world::{QUIET, TIMEOUT, World, is_ready, master, ready_without, task_ids};

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
