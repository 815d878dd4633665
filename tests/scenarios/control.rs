//! Scenarios of the parts in control: operators, the Mesos master, etcd. I/O.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::cluster::Kind;
use crate::document::Document;
use crate::support::{AgentSpec, holds_for, wait_until};
use crate::world::{
    PREFIX, QUIET, TIMEOUT, World, all_have, instance_key, is_ready, kill_node, master, replicas, task_ids, write,
};

/// What the issue allows for a standby to take over from a leader that was killed.
const TAKEOVER_MAX: Duration = Duration::from_secs(5);
/// Longer than the leader's lease, and than any timeout of the operator towards etcd.
const HANG: Duration = Duration::from_secs(8);

pub async fn the_mesos_master_dies_and_returns(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 1).yaml()).await;
    let before = world.ready("orders", 2).await;

    world.cluster.kill_master();
    wait_until("the operator says that it has no session", TIMEOUT, async || {
        let view = world.operators[0].view().await?;
        anyhow::ensure!(view.mesos == "disconnected", "{view:?}");
        anyhow::Ok(())
    })
    .await;
    // Redis does not need Mesos to serve, and what is asked for meanwhile is not lost.
    write(&before, "a", "1").await;
    all_have(&before, "a", "1").await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let waiting = world.until("orders", "waits", |status| !status.waiting.is_empty()).await;
    assert_eq!(task_ids(&waiting), task_ids(&before));

    world.cluster.restart_master().await;
    let after = world.ready("orders", 3).await;
    assert!(task_ids(&after).is_superset(&task_ids(&before)));
    all_have(&after, "a", "1").await;
    world.finish().await;
}

pub async fn a_standby_takes_over_from_a_killed_leader_within_five_seconds(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    world.spawn_operator();
    world.operators[1].wait_until_it_answers().await;
    world.put("orders", &Document::new("orders", 1).yaml()).await;
    let before = world.ready("orders", 2).await;
    // Any operator answers, leader or not.
    wait_until("the standby shows the same", TIMEOUT, async || {
        let shown = world.operators[1].get("/v1/instances/orders").await?;
        anyhow::ensure!(shown["status"]["phase"] == "Ready", "{}", shown["status"]);
        anyhow::Ok(())
    })
    .await;
    holds_for("one leads and one does not", QUIET, async || leaders(&world).await == [true, false]).await;

    let start = Instant::now();
    world.operators[0].kill();
    world.operators[1].wait_until_in_charge(TIMEOUT).await;
    let took = start.elapsed();
    println!("takeover after {took:?}");
    assert!(took < TAKEOVER_MAX, "takeover after {took:?}");

    let after = world.ready("orders", 2).await;
    assert_eq!(task_ids(&after), task_ids(&before));
    world.operators[0].spawn_again();
    world.operators[0].wait_until_it_answers().await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    world.ready("orders", 3).await;
    holds_for("the former leader stands by", QUIET, async || leaders(&world).await == [false, true]).await;
    world.finish().await;
}

pub async fn two_operators_started_at_once_never_both_act(kind: Kind) {
    let mut world = World::without_operator(kind, &AgentSpec::racks(3)).await;
    let names = ["cache-1", "cache-2", "cache-3"];
    for name in names {
        world.put(name, &Document::new(name, 1).yaml()).await;
    }
    world.spawn_operator();
    world.spawn_operator();
    let mut recorded = BTreeSet::new();
    for name in names {
        recorded.extend(task_ids(&world.ready(name, 2).await));
    }
    for operator in &world.operators {
        operator.wait_until_it_answers().await;
    }
    let leading = leaders(&world).await;
    assert_eq!(leading.iter().filter(|leading| **leading).count(), 1, "{leading:?}");
    let launched = world.cluster.launched_tasks().await.expect("the cluster answers");
    assert_eq!(launched, recorded, "each node was launched once, and by one operator");
    let logs: Vec<bool> = world.operators.iter().map(|operator| operator.log().contains("launching")).collect();
    assert_eq!(logs, leading, "the standby has launched");
    assert_eq!(world.etcd.keys("/redisctl/operator/framework").await.len(), 1);
    world.finish().await;
}

/// Which operators say that they lead.
pub async fn leaders(world: &World) -> Vec<bool> {
    let mut leading = Vec::new();
    for operator in &world.operators {
        leading.push(operator.view().await.is_ok_and(|view| view.leading));
    }
    leading
}

pub async fn a_leader_that_hangs_and_wakes_never_acts_beside_its_successor(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 1).yaml()).await;
    let before = world.ready("orders", 2).await;
    world.spawn_operator();
    world.operators[1].wait_until_it_answers().await;

    world.operators[0].freeze();
    world.operators[1].wait_until_in_charge(TIMEOUT).await;
    // Work for both: the one that wakes still believes what it last knew.
    world.put("orders", &Document::new("orders", 4).with("distribution", 2).yaml()).await;
    kill_node(replicas(&before)[0]).await;
    world.operators[0].thaw();
    wait_until("the former leader knows that it leads no more", TIMEOUT, async || {
        anyhow::ensure!(leaders(&world).await == [false, true] || !world.operators[0].runs(), "it says that it leads");
        anyhow::Ok(())
    })
    .await;
    let after = world.ready("orders", 5).await;
    assert_eq!(master(&after).task_id, master(&before).task_id);
    // Two of the beginning, three more, and one in the place of the one that died.
    let launched = world.cluster.launched_tasks().await.expect("the cluster answers");
    assert_eq!(launched.len(), 6, "both have acted: {launched:?}");
    for operator in &mut world.operators {
        if !operator.runs() {
            operator.spawn_again(); // Ending itself is one way to step down.
        }
    }
    world.finish().await;
}

pub async fn etcd_stops_and_comes_back(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let before = world.ready("orders", 3).await;

    world.etcd.stop();
    wait_until("the operator steps down", TIMEOUT, async || leaders(&world).await == [false]).await;
    // Nothing can be recorded, so nothing is done; Redis serves on.
    let victim = replicas(&before)[0].clone();
    kill_node(&victim).await;
    write(&before, "a", "1").await;
    holds_for("nothing is launched without a store", QUIET, async || {
        let running = world.cluster.running_tasks().await?;
        anyhow::ensure!(running.is_subset(&task_ids(&before)), "{running:?}");
        Ok(())
    })
    .await;

    world.etcd.start_again().await;
    let back = Instant::now();
    wait_until("the operator leads again", TIMEOUT, async || leaders(&world).await == [true]).await;
    println!("leads again {:?} after etcd's return", back.elapsed());
    replaced(&world, &before, &victim.task_id).await;
    world.finish().await;
}

pub async fn etcd_hangs_and_wakes(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let before = world.ready("orders", 3).await;

    world.etcd.freeze();
    let start = Instant::now();
    wait_until("the operator steps down", HANG, async || leaders(&world).await == [false]).await;
    println!("stepped down {:?} after etcd froze", start.elapsed());
    let victim = replicas(&before)[0].clone();
    kill_node(&victim).await;
    write(&before, "a", "1").await;
    holds_for("nothing is launched without a store", HANG, async || {
        let running = world.cluster.running_tasks().await?;
        anyhow::ensure!(running.is_subset(&task_ids(&before)), "{running:?}");
        Ok(())
    })
    .await;

    world.etcd.thaw();
    replaced(&world, &before, &victim.task_id).await;
    world.finish().await;
}

/// Waits until a node that died while etcd was away is replaced, with the data written meanwhile.
async fn replaced(world: &World, before: &redisctl::status::InstanceStatus, victim: &str) {
    let after = world
        .until("orders", "is ready without the node that died", |status| {
            is_ready(status) && status.nodes.len() == 3 && !task_ids(status).contains(victim)
        })
        .await;
    assert_eq!(master(&after).task_id, master(before).task_id);
    all_have(&after, "a", "1").await;
}

pub async fn an_emptied_store_freezes_the_operator(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    let document = Document::new("orders", 2).yaml();
    world.put("orders", &document).await;
    let before = world.ready("orders", 3).await;

    world.etcd.del_prefix(PREFIX).await;
    wait_until("the operator says that it is frozen, and why", TIMEOUT, async || {
        let view = world.operators[0].view().await?;
        anyhow::ensure!(view.frozen.as_deref().is_some_and(|why| why.contains("store")), "{view:?}");
        anyhow::Ok(())
    })
    .await;
    holds_for("nothing is launched or killed", QUIET, async || only(&world, &before).await).await;
    let told = world.operators[0].cli(&["plan", "nobody"], "", TIMEOUT).await.expect_err("there is none");
    assert!(told.contains("warning: the operator is frozen: "), "{told}");
    // A document put into the emptied store is not taken for a new instance.
    world.etcd.put(&instance_key("orders"), &document).await;
    holds_for("nothing is launched or killed", QUIET, async || only(&world, &before).await).await;
    world.restart_operator();
    world.operators[0].wait_until_it_answers().await;
    holds_for("nor after a restart", QUIET, async || only(&world, &before).await).await;
    write(&before, "a", "1").await;
    all_have(&before, "a", "1").await;
}

/// Exactly the tasks of that status run.
async fn only(world: &World, status: &redisctl::status::InstanceStatus) -> anyhow::Result<()> {
    let running = world.cluster.running_tasks().await?;
    anyhow::ensure!(running == task_ids(status), "{running:?}");
    Ok(())
}
