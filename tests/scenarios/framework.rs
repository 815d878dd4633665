//! Scenarios of the framework's life: it is removed, and begins anew. I/O.

use redisctl::mesos;
use redisctl::status::Phase;

use crate::cluster::Kind;
use crate::document::Document;
use crate::support::{AgentSpec, holds_for, process, wait_until};
use crate::world::{PREFIX, QUIET, TIMEOUT, World, all_have, task_ids, write};

async fn framework_id(world: &World) -> String {
    world.etcd.get(&format!("{PREFIX}/operator/framework")).await.expect("a framework is registered")
}

/// Waits until the first operator says that Mesos has removed the framework, and what to do.
async fn told(world: &World, id: &str) {
    wait_until("the operator says that the framework is over", TIMEOUT, async || {
        let frozen = world.operators[0].view().await?.frozen.unwrap_or_default();
        anyhow::ensure!(frozen.contains(&format!("redisctl framework reset --yes {id}")), "{frozen:?}");
        anyhow::Ok(())
    })
    .await;
}

pub async fn a_framework_that_was_removed_is_told_and_begins_anew_when_asked_to(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    world.put("kept", &Document::new("kept", 0).with("onDataLoss", "hold").yaml()).await;
    let before = world.ready("orders", 3).await;
    let kept = world.ready("kept", 1).await;
    write(&before, "a", "1").await;
    let id = framework_id(&world).await;
    let reset = ["framework", "reset", "--yes", &id];
    let refused = world.operators[0].cli(&reset, "", TIMEOUT).await.expect_err("it lives");
    assert!(refused.contains("is not reset") && refused.contains("orders-0"), "{refused}");

    world.cluster.teardown(&id).await;
    told(&world, &id).await;
    // It stays up, serves reads, and says the same after a restart; nothing is launched or forgotten.
    world.restart_operator();
    told(&world, &id).await;
    let plan = world.plan("orders").await.expect("the leader answers");
    assert!(plan.waiting.iter().any(|why| why.contains("framework reset")), "{plan:?}");
    let ready = world.operators[0].get("/readyz").await.expect_err("it does not work").to_string();
    assert!(ready.contains("framework reset"), "{ready}");
    let wrong = world.operators[0].cli(&["framework", "reset", "--yes", "another"], "", TIMEOUT).await;
    assert!(wrong.expect_err("the id is another").contains(&id));
    holds_for("nothing is done", QUIET, async || world.cluster.running_tasks().await.unwrap().is_empty()).await;
    assert_eq!(framework_id(&world).await, id);

    world.cli_when_there(&reset).await;
    let lost = world.event("orders", "DataLost").await;
    assert!(!lost.is_empty());
    let after = world.ready("orders", 3).await;
    assert!(task_ids(&after).is_disjoint(&task_ids(&before)));
    all_have(&after, "a", "").await;
    let now = framework_id(&world).await;
    assert!(now != id && !now.starts_with("reset:"), "{now}");
    world.until("kept", "is held", |status| status.phase == Phase::DataLost).await;
    world.cli(&["recreate", "kept"], "").await;
    let again = world.ready("kept", 1).await;
    assert!(task_ids(&again).is_disjoint(&task_ids(&kept)));
    world.finish().await;
}

pub async fn a_node_out_of_sight_is_waited_for_after_the_framework_has_begun_anew(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(1)).await;
    world.put("orders", &Document::new("orders", 0).yaml()).await;
    let before = world.ready("orders", 1).await;
    let id = framework_id(&world).await;
    world.cluster.freeze_machine(0);
    world.until("orders", "is out of sight", |status| status.phase != Phase::Ready).await;
    world.cluster.teardown(&id).await;
    told(&world, &id).await;
    world.cluster.add_agent(1, AgentSpec::rack("r2")).await;
    // Its last answer may be a moment old: then it is asked to wait.
    world.cli_when_there(&["framework", "reset", "--yes", &id]).await;
    world.operators[0].wait_until_in_charge(TIMEOUT).await;
    // It may live, with all its data: there is room for another, and none is made.
    holds_for("nobody takes its place", QUIET, async || {
        task_ids(&world.status("orders").await.expect("the leader answers")) == task_ids(&before)
    })
    .await;
    // Mesos kills what is left of the framework that it has removed; then the loss is proved, and told.
    world.cluster.thaw_machine(0);
    world.event("orders", "DataLost").await;
    let after = world.ready("orders", 1).await;
    assert!(task_ids(&after).is_disjoint(&task_ids(&before)));
    world.finish().await;
}

pub async fn an_operator_whose_framework_another_process_has_taken_says_so_and_acts_no_more(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(1)).await;
    world.put("orders", &Document::new("orders", 0).yaml()).await;
    let before = world.ready("orders", 1).await;
    let id = framework_id(&world).await;
    let settings = mesos::Settings {
        masters: mesos::Masters::find(&world.cluster.url().parse().expect("an address"), false).expect("masters"),
        roles: vec!["redisctl".to_string()],
        user: process::run("id", &["-un"], b"", TIMEOUT).await.expect("id is there").trim().to_string(),
        ..mesos::Settings::default()
    };
    let (thief, mut events) = mesos::Session::start(settings, Some(id.clone())).expect("a session");
    wait_until("the operator says that another is in charge", TIMEOUT, async || {
        let _ = events.try_recv(); // Read, or the master would keep them.
        let frozen = world.operators[0].view().await?.frozen.unwrap_or_default();
        anyhow::ensure!(frozen.contains("another process has subscribed to Mesos as framework"), "{frozen:?}");
        anyhow::Ok(())
    })
    .await;
    let reset = world.operators[0].cli(&["framework", "reset", "--yes", &id], "", TIMEOUT).await;
    assert!(reset.expect_err("it is not over").contains("is not reset"));
    assert!(world.operators[0].runs());
    drop((thief, events));
    world.restart_operator();
    world.operators[0].wait_until_in_charge(TIMEOUT).await;
    assert_eq!(task_ids(&world.ready("orders", 1).await), task_ids(&before));
    world.finish().await;
}
