//! Scenarios of what users do: create, scale, configure, delete, err. I/O.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use redisctl::status::{ConditionStatus, ConditionType, Phase};
use serde_json::json;

use crate::cluster::Kind;
use crate::document::Document;
use crate::support::{AgentSpec, holds_for, wait_until};
use crate::world::{QUIET, TIMEOUT, World, all_have, instance_key, kill_node, master, replicas, task_ids, write};

/// Twenty instances of two nodes: what they may take on a loaded machine.
const TWENTY_TIMEOUT: Duration = Duration::from_secs(20);

pub async fn a_document_put_into_etcd_becomes_a_replicated_redis_on_three_racks(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    let start = Instant::now();
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let status = world.ready("orders", 3).await;
    println!("from etcdctl put to Ready: {:?}", start.elapsed());

    let racks: BTreeSet<_> = status.nodes.iter().map(|node| node.domain.clone().expect("agents have racks")).collect();
    assert_eq!(racks.len(), 3, "{racks:?}");
    assert_eq!(status.master.as_deref(), Some(master(&status).address.as_str()));
    assert_eq!(status.observed_revision, world.etcd.revisions("/redisctl/instances/").await[&instance_key("orders")]);
    for kind in [ConditionType::SpecValid, ConditionType::Placed, ConditionType::MasterAvailable] {
        assert_eq!(status.condition(kind).expect("all are reported").status, ConditionStatus::True);
    }
    write(&status, "greeting", "hello").await;
    all_have(&status, "greeting", "hello").await;
    world.finish().await;
}

pub async fn replicas_are_added_and_removed_but_never_the_master(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 1).json()).await;
    let before = world.ready("orders", 2).await;
    write(&before, "a", "1").await;

    // The same documents by the other way in.
    let up = Document::new("orders", 4).with("distribution", 2);
    world.cli(&["apply", "-f", "-"], &up.yaml()).await;
    let more = world.ready("orders", 5).await;
    assert_eq!(master(&more).task_id, master(&before).task_id);
    assert!(task_ids(&more).is_superset(&task_ids(&before)));
    all_have(&more, "a", "1").await;

    world.cli(&["apply", "-f", "-"], &Document::new("orders", 1).with("distribution", 2).yaml()).await;
    let fewer = world.ready("orders", 2).await;
    assert_eq!(master(&fewer).task_id, master(&before).task_id);
    assert!(task_ids(&fewer).is_subset(&task_ids(&more)));
    all_have(&fewer, "a", "1").await;

    world.put("orders", &Document::new("orders", 0).json()).await;
    let alone = world.ready("orders", 1).await;
    assert_eq!(master(&alone).task_id, master(&before).task_id);
    all_have(&alone, "a", "1").await;
    world.finish().await;
}

pub async fn configuration_changes_live_or_by_replacing_every_node(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    let document = Document::new("orders", 1);
    world
        .put("orders", &document.clone().with("redis", json!({"config": {"maxmemory-policy": "allkeys-lru"}})).yaml())
        .await;
    let before = world.ready("orders", 2).await;
    everywhere(&world, &before, "maxmemory-policy", "allkeys-lru").await;

    world
        .put("orders", &document.clone().with("redis", json!({"config": {"maxmemory-policy": "volatile-ttl"}})).yaml())
        .await;
    let after = world.ready("orders", 2).await;
    assert_eq!(task_ids(&after), task_ids(&before), "nodes were replaced for what Redis takes live");
    everywhere(&world, &after, "maxmemory-policy", "volatile-ttl").await;

    // `databases` is read at the start of redis-server only: every node is replaced, the master last.
    write(&after, "kept", "1").await;
    let later = json!({"config": {"maxmemory-policy": "volatile-ttl", "databases": "3"}});
    world.put("orders", &document.clone().with("redis", later).yaml()).await;
    let rolled = world.ready("orders", 2).await;
    assert!(task_ids(&rolled).is_disjoint(&task_ids(&before)));
    assert_eq!(rolled.epoch, before.epoch + 1, "one switchover");
    everywhere(&world, &rolled, "databases", "3").await;
    all_have(&rolled, "kept", "1").await;

    world.put("orders", &document.with("redis", json!({"config": {"maxmemory-policy": "volatile-ttl"}})).yaml()).await;
    let back = world.ready("orders", 2).await;
    assert!(back.nodes.iter().all(|node| node.message.is_empty()), "{:?}", back.nodes);
    everywhere(&world, &back, "databases", "16").await;
    all_have(&back, "kept", "1").await;
    world.finish().await;
}

async fn everywhere(world: &World, status: &redisctl::status::InstanceStatus, key: &str, value: &str) {
    for node in &status.nodes {
        let found = world.setting("orders", node, key).await.expect("the node answers");
        assert_eq!(found, value, "{} of {}", key, node.name);
    }
}

pub async fn a_deleted_name_can_be_used_again_at_once(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let before = world.ready("orders", 3).await;
    write(&before, "a", "1").await;
    all_have(&before, "a", "1").await;

    world.cli(&["delete", "orders"], "").await;
    world.put("orders", &Document::new("orders", 1).yaml()).await;
    let again = wait_until("orders is ready again with nodes of its own", TIMEOUT, async || {
        let status = world.status("orders").await?;
        let fresh = status.phase == Phase::Ready && task_ids(&status).is_disjoint(&task_ids(&before));
        anyhow::ensure!(fresh && status.nodes.len() == 2, "{}", crate::world::brief(&status));
        Ok(status)
    })
    .await;
    all_have(&again, "a", "").await;

    // And the way of etcdctl.
    world.etcd.del(&instance_key("orders")).await;
    world.gone("orders").await;
    world.put("orders", &Document::new("orders", 0).yaml()).await;
    world.ready("orders", 1).await;
    world.finish().await;
}

pub async fn a_wrong_document_leaves_the_last_good_one_in_force(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 1).yaml()).await;
    let good = world.ready("orders", 2).await;

    world.put("orders", &Document::new("orders", 1).with("replicas", "many").yaml()).await;
    let status = world
        .until("orders", "says that its document is wrong", |status| {
            status.condition(ConditionType::SpecValid).is_some_and(|c| c.status == ConditionStatus::False)
        })
        .await;
    let message = &status.condition(ConditionType::SpecValid).expect("seen above").message;
    for part in ["replicas", "many", "line"] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert_eq!(task_ids(&status), task_ids(&good));
    assert_eq!(status.observed_revision, good.observed_revision);
    let event = world.event("orders", "SpecInvalid").await;
    assert!(event.contains("many"), "{event:?}");

    // The last good spec is in force: a replica that dies is replaced by its words.
    kill_node(replicas(&status)[0]).await;
    world
        .until("orders", "has a new replica", |status| {
            status.nodes.len() == 2
                && task_ids(status) != task_ids(&good)
                && status.nodes.iter().all(|node| node.state == redisctl::status::NodeState::Ready)
        })
        .await;

    world.put("orders", "neither YAML nor JSON: [").await;
    let still = world.status("orders").await.expect("the operator answers");
    assert_eq!(master(&still).task_id, master(&good).task_id);
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    world.ready("orders", 3).await;

    // A document that never was good, in between.
    world.put("broken", "{}").await;
    wait_until("the wrong new one is shown", TIMEOUT, async || {
        let status = world.status("broken").await?;
        let valid = status.condition(ConditionType::SpecValid).map(|c| c.status);
        anyhow::ensure!(valid == Some(ConditionStatus::False) && status.nodes.is_empty(), "{status:?}");
        Ok(())
    })
    .await;
    world.etcd.del(&instance_key("broken")).await;
    world.gone("broken").await;
    world.finish().await;
}

pub async fn what_does_not_fit_waits_with_a_reason_and_goes_on_with_a_further_agent(kind: Kind) {
    let small = AgentSpec::rack("r3").mem(40);
    let mut world = World::start(kind, &[AgentSpec::rack("r1"), AgentSpec::rack("r2"), small]).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let status = world
        .until("orders", "says why its third node waits", |status| {
            status.nodes.len() == 2 && status.waiting.iter().any(|w| w.contains("no place"))
        })
        .await;
    let reason = status.waiting.join("; ");
    // A task of 16 MiB of maxmemory needs 48 MiB.
    for part in ["48 MiB", "3 agents", "2 run one already", "40 MiB left"] {
        assert!(reason.contains(part), "{part:?} is not in {reason:?}");
    }
    let placed = status.condition(ConditionType::Placed).expect("all are reported");
    assert_eq!(placed.status, ConditionStatus::False);
    assert!(placed.message.contains("48 MiB"), "{placed:?}");
    assert!(world.cli(&["describe", "orders"], "").await.contains("48 MiB"));

    world.cluster.add_agent(3, AgentSpec::rack("r4")).await;
    let status = world.ready("orders", 3).await;
    assert!(status.nodes.iter().any(|node| node.hostname == "agent-4"), "{:?}", status.nodes);
    world.finish().await;
}

pub async fn twenty_instances_at_once_all_become_ready(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    let names: Vec<String> = (1..=20).map(|i| format!("cache-{i}")).collect();
    let documents: Vec<String> = names.iter().map(|name| Document::new(name, 1).yaml()).collect();
    let start = Instant::now();
    world.cli(&["apply", "-f", "-"], &documents.join("---\n")).await;
    wait_until("all twenty are ready", TWENTY_TIMEOUT, async || {
        for name in &names {
            let status = world.status(name).await?;
            anyhow::ensure!(crate::world::is_ready(&status) && status.nodes.len() == 2, "{name}");
        }
        Ok(())
    })
    .await;
    println!("from apply of 20 instances to all Ready: {:?}", start.elapsed());
    let tasks = world.cluster.running_tasks().await.expect("the cluster answers");
    assert_eq!(tasks.len(), 40);
    holds_for("nothing more is launched", QUIET, async || {
        anyhow::ensure!(world.cluster.running_tasks().await? == tasks, "other tasks");
        Ok(())
    })
    .await;
    world.finish().await;
}
