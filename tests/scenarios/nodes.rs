//! Scenarios of nodes and machines that die, hang and come back. I/O.

use redisctl::status::{InstanceStatus, NodeState, NodeStatus, Phase};

use crate::cluster::{Kind, agent_of};
use crate::document::Document;
use crate::support::{AgentSpec, holds_for, wait_until};
use crate::world::{
    LONG, QUIET, TIMEOUT, World, alive, all_have, brief, is_ready, kill_node, kill_process, living_without, master,
    pid_of, ready_without, replicas, task_ids, write,
};

pub async fn a_replica_that_dies_is_replaced(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let before = world.ready("orders", 3).await;
    write(&before, "a", "1").await;

    let victim = replicas(&before)[0].clone();
    kill_node(&victim).await;
    let after = ready_without(&world, &before, &victim).await;
    assert_eq!(after.epoch, before.epoch);
    all_have(&after, "a", "1").await;
    world.finish().await;
}

pub async fn nodes_of_a_dead_machine_are_replaced_after_the_time_that_the_spec_says(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(4)).await;
    world.put("orders", &Document::new("orders", 2).with("replaceUnreachableAfter", LONG).yaml()).await;
    let before = world.ready("orders", 3).await;
    write(&before, "a", "1").await;

    let victim = replicas(&before)[0].clone();
    let machine = agent_of(&victim.hostname);
    world.cluster.kill_machine(machine);
    let status = unreachable(&world, &victim).await;
    let reason = status.waiting.join("; ");
    assert!(reason.contains(&victim.name) && reason.contains(LONG), "{reason:?}");
    holds_for("nobody takes its place before its time", QUIET, async || {
        anyhow::ensure!(world.cluster.running_tasks().await?.is_subset(&task_ids(&before)), "a new task");
        Ok(())
    })
    .await;

    world.put("orders", &Document::new("orders", 2).with("replaceUnreachableAfter", "2s").yaml()).await;
    let after = living_without(&world, &before, &victim).await;
    let hosts: Vec<&str> = alive(&after).into_iter().map(|node| node.hostname.as_str()).collect();
    assert!(!hosts.contains(&victim.hostname.as_str()), "{hosts:?}");

    // The machine comes back with nothing running: its node is now known to be dead.
    world.cluster.restart_agent(machine);
    let after = ready_without(&world, &before, &victim).await;
    all_have(&after, "a", "1").await;
    world.finish().await;
}

pub async fn a_node_on_a_lost_agent_that_returns_in_time_is_taken_back(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(4)).await;
    world.put("orders", &Document::new("orders", 2).with("replaceUnreachableAfter", LONG).yaml()).await;
    let before = world.ready("orders", 3).await;

    let victim = replicas(&before)[0].clone();
    let agent = agent_of(&victim.hostname);
    world.cluster.kill_agent(agent);
    // Mesos has lost sight of it; it still answers, and still replicates.
    wait_until("Mesos has lost the task", TIMEOUT, async || {
        let running = world.cluster.running_tasks().await?;
        anyhow::ensure!(!running.contains(&victim.task_id), "{running:?}");
        anyhow::Ok(())
    })
    .await;
    write(&before, "a", "1").await;
    all_have(&before, "a", "1").await;

    world.cluster.restart_agent(agent);
    wait_until("Mesos has found the task", TIMEOUT, async || {
        let running = world.cluster.running_tasks().await?;
        anyhow::ensure!(running.contains(&victim.task_id), "{running:?}");
        anyhow::Ok(())
    })
    .await;
    let after = world.ready("orders", 3).await;
    assert_eq!(task_ids(&after), task_ids(&before));
    world.finish().await;
}

pub async fn a_node_on_a_lost_agent_that_returns_too_late_leaves_no_surplus(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(4)).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let before = world.ready("orders", 3).await;

    let victim = replicas(&before)[0].clone();
    let machine = agent_of(&victim.hostname);
    // The agent dies, and its node with it, but Mesos cannot know that of the node: silence.
    world.cluster.freeze_machine(machine);
    world.cluster.kill_agent(machine);
    living_without(&world, &before, &victim).await;
    world.cluster.thaw_machine(machine);
    world.cluster.restart_agent(machine);
    no_surplus(&world, &before).await;
    world.finish().await;
}

pub async fn a_machine_that_hangs_and_wakes_leaves_no_surplus_node(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(4)).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let before = world.ready("orders", 3).await;

    let victim = replicas(&before)[0].clone();
    let machine = agent_of(&victim.hostname);
    world.cluster.freeze_machine(machine);
    living_without(&world, &before, &victim).await;
    world.cluster.thaw_machine(machine);
    no_surplus(&world, &before).await;
    world.finish().await;
}

pub async fn a_deletion_that_waits_for_a_lost_machine_says_when_it_tells_how_to_give_that_up(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(2)).await;
    world.put("orders", &Document::new("orders", 1).with("replaceUnreachableAfter", LONG).yaml()).await;
    let before = world.ready("orders", 2).await;

    let victim = replicas(&before)[0].clone();
    let machine = agent_of(&victim.hostname);
    world.cluster.kill_machine(machine);
    unreachable(&world, &victim).await;
    world.cli(&["delete", "orders"], "").await;
    let words = format!("if Mesos does not see the agent {} again before ", victim.agent);
    wait_until("plan and describe say when", TIMEOUT, async || {
        for command in ["plan", "describe"] {
            let told = world.cli(&[command, "orders"], "").await;
            anyhow::ensure!(told.contains(&words) && !told.contains("Placement:"), "{command}: {told}");
        }
        anyhow::Ok(())
    })
    .await;
    world.cluster.restart_agent(machine);
    world.gone("orders").await;
    world.finish_deleted().await;
}

/// A node that came back beside its replacement is taken back, or removed: either is right, as long
/// as nothing is left over.
async fn no_surplus(world: &World, before: &InstanceStatus) {
    let after =
        world.until("orders", "is ready with three nodes", |status| is_ready(status) && status.nodes.len() == 3).await;
    assert_eq!(master(&after).task_id, master(before).task_id);
    wait_until("three nodes run", TIMEOUT, async || {
        let servers = world.cluster.redis_servers();
        if servers.len() == 3 { Ok(()) } else { Err(format!("{servers:?}")) }
    })
    .await;
}

pub async fn an_instance_that_lost_every_node_starts_again_empty_and_says_so(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 1).yaml()).await;
    let before = world.ready("orders", 2).await;
    write(&before, "a", "1").await;
    all_have(&before, "a", "1").await;

    kill_all(&before).await;
    let after = world
        .until("orders", "is ready with other nodes", |status| {
            is_ready(status) && status.nodes.len() == 2 && task_ids(status).is_disjoint(&task_ids(&before))
        })
        .await;
    assert!(after.epoch > before.epoch, "the epoch rises with every new master");
    all_have(&after, "a", "").await;
    let lost = world.event("orders", "DataLost").await;
    assert!(lost.contains("lost"), "{lost:?}");
    world.finish().await;
}

pub async fn an_instance_that_is_held_after_data_loss_waits_for_recreate(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 1).with("onDataLoss", "hold").yaml()).await;
    let before = world.ready("orders", 2).await;
    write(&before, "a", "1").await;

    kill_all(&before).await;
    let held = world.until("orders", "is held", |status| status.phase == Phase::DataLost).await;
    assert!(held.waiting.iter().any(|reason| reason.contains("recreate")), "{}", brief(&held));
    // A replica may have been replaced in the moment before its master's death was known.
    let left = world.cluster.running_tasks().await.expect("the cluster answers");
    assert!(left.is_disjoint(&task_ids(&before)), "{left:?}");
    holds_for("nothing is launched", QUIET, async || {
        let running = world.cluster.running_tasks().await?;
        anyhow::ensure!(running == left, "{running:?}");
        Ok(())
    })
    .await;

    world.cli(&["recreate", "orders"], "").await;
    let after = world.ready("orders", 2).await;
    assert!(task_ids(&after).is_disjoint(&task_ids(&before)));
    all_have(&after, "a", "").await;
    world.finish().await;
}

/// Kills every node at once.
async fn kill_all(status: &InstanceStatus) {
    let mut pids = vec![pid_of(master(status)).await];
    for node in replicas(status) {
        pids.push(pid_of(node).await);
    }
    pids.into_iter().for_each(kill_process);
}

/// Waits until the status says that the node is out of Mesos' sight.
async fn unreachable(world: &World, victim: &NodeStatus) -> InstanceStatus {
    world
        .until("orders", &format!("says that {} is unreachable", victim.name), |status| {
            status.nodes.iter().any(|node| node.task_id == victim.task_id && node.state == NodeState::Unreachable)
        })
        .await
}
