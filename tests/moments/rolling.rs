//! Nodes that do not run as declared are replaced: plans of single moments. Pure.

use std::sync::Arc;

use crate::scene::{
    BEFORE, NOW, Scene, address, condition, document, events, going, killed, kinds, launched, node, state, switched_to,
    task, waits_for, written,
};
use redisctl::model::{Roll, TaskRecord, Timestamp};
use redisctl::status::{ConditionStatus, ConditionType};

/// More memory is declared than the nodes' tasks have; the last `fresh` nodes have it already.
fn grown(replicas: u32, fresh: u32, more: &str) -> Scene {
    let mut scene = Scene::running(replicas, more);
    scene.declares(replicas, &format!(", cpus: 0.5{more}"));
    let spec = document(replicas, &format!(", cpus: 0.5{more}")).spec;
    for ordinal in replicas + 1 - fresh..=replicas {
        scene.node(ordinal).record.value.cpus_milli = spec.cpus.0;
    }
    scene
}

/// A node beside the others, which runs as declared.
fn with_one_beside(mut scene: Scene, ordinal: u32) -> Scene {
    let spec = document(0, ", cpus: 0.5").spec;
    let mut beside = node(&spec, ordinal, 0);
    beside.record.value.owned = scene.node(0).record.value.owned.clone();
    scene.instance.nodes.insert(ordinal, beside);
    scene.record().next_ordinal = ordinal + 1;
    scene.record().rolling = Some(Roll { since: BEFORE, blocked_since: None });
    scene
}

#[test]
fn first_a_new_node_is_placed_beside_the_old_ones() {
    let plan = grown(2, 0, "").plan();
    assert_eq!(launched(&plan).len(), 1);
    assert!(killed(&plan).is_empty());
    assert!(events(&plan).contains(&"RollStarted"));
    assert!(state(&plan).unwrap().rolling.is_some());
    let status = plan.status.as_ref().unwrap();
    let said = condition(status, ConditionType::UpToDate);
    assert_eq!((said.status, said.reason.as_str()), (ConditionStatus::False, "Rolling"));
    assert!(said.message.contains("orders-0: cpus 0.1 -> 0.5"), "{}", said.message);
    assert_eq!(condition(status, ConditionType::Ready).status, ConditionStatus::False);
}

#[test]
fn an_old_replica_goes_when_the_new_one_is_in_sync_and_never_the_master() {
    let mut scene = with_one_beside(grown(2, 0, ""), 3);
    let plan = scene.plan();
    assert_eq!(going(&plan), [task(2)]);
    assert!(launched(&plan).is_empty());
    scene.answer(3).link_up = false;
    let plan = scene.plan();
    assert!(killed(&plan).is_empty() && waits_for(&plan, "orders-3 is not in sync"), "{:?}", plan.waiting);
}

#[test]
fn one_thing_is_disturbed_at_a_time() {
    let mut scene = with_one_beside(grown(2, 0, ""), 3);
    scene.node(2).record.value.stop = Some("it is one too many".to_string());
    scene.node(2).killed_at = Some(NOW);
    let plan = scene.plan();
    assert!(killed(&plan).is_empty() && launched(&plan).is_empty());
    assert!(waits_for(&plan, "orders-2 is being stopped"), "{:?}", plan.waiting);
}

#[test]
fn the_master_is_last_and_hands_over_to_a_node_that_runs_as_declared() {
    let plan = grown(2, 2, "").plan();
    assert!(switched_to(&plan).is_some() && killed(&plan).is_empty());
    assert_eq!(state(&plan).unwrap().epoch, 2);
    let plan = grown(2, 1, "").plan();
    assert!(switched_to(&plan).is_none(), "orders-1 does not run as declared yet");
    assert_eq!(launched(&plan).len(), 1);
}

#[test]
fn a_single_node_is_replaced_by_way_of_a_replica() {
    let plan = grown(0, 0, "").plan();
    assert_eq!(launched(&plan).len(), 1);
    let plan = with_one_beside(grown(0, 0, ""), 1).plan();
    assert_eq!(switched_to(&plan), Some(task(1).as_str()));
    assert!(killed(&plan).is_empty());
}

#[test]
fn without_room_a_replica_makes_room_after_a_while_if_the_promise_allows_it() {
    let blocked = |replicas, since| {
        let mut scene = grown(replicas, 0, "");
        scene.offers.clear();
        scene.record().rolling = Some(Roll { since: BEFORE, blocked_since: Some(since) });
        scene
    };
    assert!(killed(&blocked(2, Timestamp(NOW.0 - 9_999)).plan()).is_empty());
    let plan = blocked(2, Timestamp(NOW.0 - 10_000)).plan();
    assert!((1..=2).any(|ordinal| written(&plan, ordinal).is_some_and(|node| node.stop.is_some())));
    let mut scene = blocked(1, Timestamp(NOW.0 - 10_000));
    let more = ", cpus: 0.5, durability: one";
    scene.declares(1, more);
    scene.record().confirmations = 1;
    Arc::make_mut(&mut scene.node(0).record.value.owned).insert("min-replicas-to-write".to_string(), "1".to_string());
    let plan = scene.plan();
    assert!(written(&plan, 1).is_none_or(|node| node.stop.is_none()), "the master would refuse writes");
}

#[test]
fn paused_stops_it_and_says_so() {
    let plan = grown(2, 0, ", paused: true").plan();
    assert!(launched(&plan).is_empty() && waits_for(&plan, "paused"));
    let said = condition(plan.status.as_ref().unwrap(), ConditionType::UpToDate).reason.clone();
    assert_eq!(said, "Paused");
}

#[test]
fn a_fleet_is_rolled_a_few_at_a_time() {
    let mut scene = grown(2, 0, "");
    scene.may_roll = false;
    let plan = scene.plan();
    assert!(launched(&plan).is_empty() && waits_for(&plan, "--rolling-max"));
    scene.record().rolling = Some(Roll { since: BEFORE, blocked_since: None });
    assert_eq!(launched(&scene.plan()).len(), 1, "what has begun goes on");
}

#[test]
fn a_roll_whose_new_nodes_keep_dying_stops_and_the_old_ones_stay() {
    let mut scene = grown(2, 0, "");
    scene.record().spec = document(2, ", cpus: 0.5").spec;
    scene.record().spec_revision = 50;
    scene.record().rolling = Some(Roll { since: BEFORE, blocked_since: None });
    scene.record().failures = 3;
    let plan = scene.plan();
    assert!(launched(&plan).is_empty() && killed(&plan).is_empty());
    assert!(waits_for(&plan, "new nodes died 3 times in a row"), "{:?}", plan.waiting);
    scene.instance.document.as_mut().unwrap().revision = 60; // Another document: back to what it was.
    scene.instance.document.as_mut().unwrap().parsed = Ok(document(2, ""));
    let plan = scene.plan();
    assert!(plan.waiting.is_empty() && events(&plan).contains(&"RollEnded"), "{:?}", plan.view());
}

#[test]
fn memory_is_not_made_smaller_than_what_is_used() {
    let mut scene = Scene::running(1, "");
    let mut smaller = document(1, "");
    smaller.spec.memory.0 = 4 << 20;
    scene.instance.document.as_mut().unwrap().revision = 50;
    scene.instance.document.as_mut().unwrap().parsed = Ok(smaller);
    assert_eq!(launched(&scene.plan()).len(), 1);
    scene.answer(0).used_memory = 5 << 20;
    let plan = scene.plan();
    assert!(launched(&plan).is_empty() && waits_for(&plan, "orders-0 uses 5Mi, more than the 4Mi declared"));
}

#[test]
fn memory_that_the_task_covers_is_set_in_place() {
    let mut scene = Scene::running(1, "");
    let mut larger = document(1, "");
    larger.spec.memory.0 += 4096; // The share is counted in MiB.
    larger.spec.memory.0 -= 8192;
    scene.instance.document.as_mut().unwrap().revision = 50;
    scene.instance.document.as_mut().unwrap().parsed = Ok(larger);
    let plan = scene.plan();
    assert!(launched(&plan).is_empty());
    assert_eq!(kinds(&plan), ["configure", "configure"]);
}

#[test]
fn a_node_on_an_agent_that_placement_does_not_allow_any_more_is_replaced() {
    let mut scene = Scene::running(1, "");
    let more = ", placement: {constraints: [{attribute: rack, operator: in, values: [r1]}]}";
    scene.declares(1, more);
    let plan = scene.plan();
    assert_eq!(launched(&plan).len(), 1);
    assert_eq!(launched(&plan)[0].agent_id, "x1");
}

#[test]
fn after_the_switchover_the_old_master_is_a_replica_like_others() {
    let mut scene = with_one_beside(grown(0, 0, ""), 1);
    scene.record().master = Some(1);
    scene.record().epoch = 2;
    scene.node(1).answer.as_mut().unwrap().0.role = redisctl::model::Role::Master;
    scene.answer(1).follows = None;
    (scene.answer(0).role, scene.answer(0).follows) = (redisctl::model::Role::Replica, Some(address(1)));
    scene.node(0).record.value.deposed = Some(redisctl::model::Deposed { epoch: 2, offset: None });
    let plan = scene.plan();
    assert!(written(&plan, 0).unwrap().deposed.is_none());
    scene.node(0).record.value.deposed = None;
    assert_eq!(killed(&scene.plan()), [task(0)]);
    assert!(matches!(scene.node(0).record.value.task, TaskRecord::Running));
}
