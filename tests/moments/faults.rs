//! Faults that others had, at the moment where they went wrong: plans of single moments. Pure.

use crate::scene::{
    BEFORE, NOW, Scene, address, condition, events, killed, kinds, launched, state, task, waits_for, written,
};
use redisctl::model::{Answer, MesosEvent, NoAnswer, Probe, RequestKind, Role, TaskState, Timestamp};
use redisctl::reconcile::action::{Action, Plan};
use redisctl::reconcile::world::{Event, World};
use redisctl::status::{ConditionStatus, ConditionType, Phase};
use redisctl::store::{KeyValue, Listing, node_key, state_key};

/// The master's task has ended, its port is closed, and all replicas have been asked since.
fn crashed(replicas: u32, more: &str) -> Scene {
    let mut scene = Scene::running(replicas, more);
    scene.dies(0);
    (scene.node(0).fails, scene.node(0).noticed_at) = (1, Some(NOW));
    for replica in 1..=replicas {
        (scene.answer(replica).link_up, scene.answer(replica).last_io_s) = (false, None);
    }
    scene
}

fn promoted(plan: &Plan) -> Option<&str> {
    plan.steps.iter().find_map(|step| match &step.action {
        Action::Promote { task_id, .. } => Some(task_id.as_str()),
        _ => None,
    })
}

fn detached(plan: &Plan) -> Vec<&str> {
    let detached = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Detach { task_id, .. } => Some(task_id.as_str()),
        _ => None,
    });
    detached.collect()
}

/// What the plan records is so from now on.
fn recorded(scene: &mut Scene, plan: &Plan) {
    if let Some(record) = state(plan) {
        *scene.record() = record.clone();
    }
    let nodes: Vec<u32> = scene.instance.nodes.keys().copied().collect();
    for ordinal in nodes {
        if let Some(node) = written(plan, ordinal) {
            scene.node(ordinal).record.value = node.clone();
        }
    }
}

// --- Somebody else on the dead master's port ------------------------------------------------------

/// An empty redis-server that knows nothing of us.
fn strangers_answer() -> Answer {
    let mut answer = Scene::running(0, "").answer(0).clone();
    (answer.offset, answer.keys, answer.replid, answer.replid2) = (0, 0, "s".to_string(), String::new());
    answer
}

/// A world in which all have answered.
fn world(replicas: u32) -> World {
    let mut scene = Scene::running(replicas, "");
    let mut items = vec![item(state_key("orders"), &scene.record().clone())];
    items.extend(scene.instance.nodes.iter().map(|(n, node)| item(node_key("orders", *n), &node.record.value)));
    let mut world = World::default();
    world.apply(Event::Listed(Listing { items, revision: 30, store_id: 1 }), NOW);
    world.apply(Event::Mesos(MesosEvent::Subscribed { framework_id: "F".to_string(), subscription: 1 }), NOW);
    for ordinal in 0..=replicas {
        let answer = scene.answer(ordinal).clone();
        world.apply(probe(ordinal, answer, NOW), NOW);
    }
    world
}

fn item(key: String, value: &impl serde::Serialize) -> KeyValue {
    KeyValue { key, value: serde_json::to_vec(value).unwrap(), revision: 9, created: 9 }
}

fn probe(ordinal: u32, answer: Answer, at: Timestamp) -> Event {
    Event::Probed(Probe { task_id: task(ordinal), result: Ok(answer), at, until: at, watched: true })
}

#[test]
fn another_process_on_a_nodes_port_is_not_the_node() {
    let later = NOW.plus_ms(5);
    for ordinal in [0, 1] {
        let mut world = world(1);
        let dirty = world.apply(probe(ordinal, strangers_answer(), later), later);
        assert!(!dirty.names.is_empty(), "it is looked into");
        let node = &world.instances["orders"].nodes[&ordinal];
        assert_eq!(node.silent.map(|(why, _)| why), Some(NoAnswer::Stranger));
        assert_eq!(node.answer.as_ref().map(|(answer, _)| answer.keys), Some(5), "what ours had is still known");
    }
    // A promotion, a new history of the same process, and a copy of another's data are none.
    let same: [fn(&mut Answer); 3] = [
        |answer| (answer.replid, answer.replid2, answer.offset) = ("s".to_string(), "r".to_string(), 900),
        |answer| answer.replid = "s".to_string(),
        |answer| (answer.role, answer.replid, answer.offset) = (Role::Replica, "s".to_string(), 7),
    ];
    for change in same {
        let (mut world, mut answer) = (world(1), Scene::running(1, "").answer(0).clone());
        change(&mut answer);
        if answer.role == Role::Replica {
            answer.follows = Some(address(1));
        }
        world.apply(probe(0, answer, later), later);
        assert_eq!(world.instances["orders"].nodes[&0].silent, None);
    }
}

#[test]
fn an_older_answer_of_a_node_that_comes_late_is_nobody_elses() {
    let later = NOW.plus_ms(5);
    let (mut world, mut newest) = (world(1), Scene::running(1, "").answer(0).clone());
    (newest.replid, newest.replid2, newest.offset) = ("s".to_string(), "r".to_string(), 2000);
    world.apply(probe(0, newest, later), later);
    let mut late = Scene::running(1, "").answer(0).clone();
    late.replid = "before that".to_string();
    world.apply(probe(0, late, NOW), later);
    assert_eq!(world.instances["orders"].nodes[&0].silent, None);
}

#[test]
fn a_master_whose_port_another_process_has_is_dead_before_mesos_says_so() {
    let mut scene = Scene::running(2, "");
    scene.node(0).silent = Some((NoAnswer::Stranger, NOW));
    (scene.node(0).fails, scene.node(0).noticed_at) = (1, Some(NOW));
    for replica in [1, 2] {
        scene.answer(replica).link_up = false;
    }
    let plan = scene.plan();
    assert_eq!((promoted(&plan), kinds(&plan)), (Some(task(1).as_str()), vec!["promote", "follow"]));
    assert_eq!(state(&plan).unwrap().replid.as_deref(), Some("r"), "its history is not the instance's");
}

#[test]
fn replicas_that_another_process_has_lured_are_taken_from_it_and_the_loss_is_said() {
    let mut scene = crashed(2, ", onDataLoss: hold");
    for replica in [1, 2] {
        let answer = scene.answer(replica);
        (answer.link_up, answer.replid, answer.offset, answer.keys) = (true, "s".to_string(), 14, 0);
    }
    let plan = scene.plan();
    assert_eq!((promoted(&plan), detached(&plan)), (None, vec![task(1).as_str(), task(2).as_str()]));
    assert!(events(&plan).contains(&"StrangerFollowed"), "{:?}", events(&plan));
    // Then they follow nobody: nothing of the instance is left, and nobody is promoted silently.
    recorded(&mut scene, &plan);
    for replica in [1, 2] {
        let answer = scene.answer(replica);
        (answer.link_up, answer.follows) = (false, Some(address(replica)));
    }
    let plan = scene.plan();
    assert!(promoted(&plan).is_none() && detached(&plan).is_empty() && launched(&plan).is_empty());
    let said = condition(plan.status.as_ref().unwrap(), ConditionType::NoSafeCandidate).message.clone();
    assert!(said.contains("another history"), "{said}");
}

#[test]
fn of_two_replicas_the_one_that_was_not_lured_takes_the_masters_place() {
    // One in sight is enough when all of them must have confirmed.
    let mut scene = crashed(2, ", durability: none");
    (scene.answer(1).link_up, scene.answer(1).replid, scene.answer(1).offset) = (true, "s".to_string(), 0);
    assert_eq!(promoted(&scene.plan()), Some(task(2).as_str()));
}

// --- Deaths one after the other ------------------------------------------------------------------

#[test]
fn a_successor_that_dies_before_it_was_made_the_master_is_followed_by_another() {
    let mut scene = crashed(3, ", durability: majority");
    let plan = scene.plan();
    assert_eq!(promoted(&plan), Some(task(1).as_str()));
    recorded(&mut scene, &plan);
    // It never heard of it.
    scene.dies(1);
    (scene.node(1).fails, scene.node(1).noticed_at) = (1, Some(NOW));
    let plan = scene.plan();
    assert_eq!((promoted(&plan), state(&plan).unwrap().epoch), (Some(task(2).as_str()), 3));
}

#[test]
fn a_master_that_mesos_is_stopping_is_not_replaced_while_it_answers() {
    let mut scene = Scene::running(2, "");
    scene.hears(0, TaskState::Killing, "");
    let plan = scene.plan();
    assert!(promoted(&plan).is_none() && killed(&plan).is_empty(), "{:?}", plan.view());
    // It takes writes until its process has ended.
    scene.node(0).silent = Some((NoAnswer::Timeout, NOW));
    (scene.node(0).fails, scene.node(0).noticed_at) = (1, Some(NOW));
    assert!(promoted(&scene.plan()).is_none());
}

#[test]
fn a_replica_in_the_midst_of_its_first_copy_is_not_promoted_when_its_master_dies() {
    let mut scene = crashed(1, "");
    (scene.answer(1).syncing, scene.answer(1).keys, scene.answer(1).offset) = (true, 0, 0);
    scene.answer(1).replid = "its own".to_string();
    assert!(promoted(&scene.plan()).is_none());
    // The copy has broken off: it has nothing, or what it had before.
    scene.answer(1).syncing = false;
    let plan = scene.plan();
    assert!(promoted(&plan).is_none(), "an empty one is no successor of one with data");
}

#[test]
fn when_the_last_master_and_all_replicas_are_gone_nobody_starts_again_silently() {
    for hold in [true, false] {
        let mut scene = crashed(1, if hold { ", onDataLoss: hold" } else { "" });
        scene.dies(1);
        let plan = scene.plan();
        assert_eq!(plan.status.as_ref().unwrap().phase == Phase::DataLost, hold, "{:?}", plan.status);
        assert_eq!(launched(&plan).is_empty(), hold);
        assert_eq!(events(&plan).contains(&"DataLost"), !hold);
    }
}

// --- Who has nothing to do with it ---------------------------------------------------------------

#[test]
fn what_a_lost_node_has_nothing_to_do_with_goes_on() {
    let mut scene = Scene::running(2, ", replaceUnreachableAfter: 10m");
    scene.vanishes(2, BEFORE);
    scene.record().failures = 0;
    scene.declares(3, ", replaceUnreachableAfter: 10m, redis: {config: {maxmemory-policy: allkeys-lru}}");
    let plan = scene.plan();
    assert!(kinds(&plan).contains(&"configure"), "{:?}", plan.view());
    assert!(launched(&plan).len() <= 2);
}

#[test]
fn an_instance_is_not_ready_in_the_pass_that_learns_of_a_death() {
    for (ordinal, phase) in [(0, Phase::Unavailable), (2, Phase::Degraded)] {
        let mut scene = Scene::running(2, "");
        scene.dies(ordinal);
        let status = scene.status();
        assert_eq!(condition(&status, ConditionType::Ready).status, ConditionStatus::False);
        assert_eq!(status.phase, phase);
    }
}

#[test]
fn a_failure_is_never_read_as_the_wish_for_fewer_nodes() {
    let mut scene = crashed(2, "");
    let plan = scene.plan();
    recorded(&mut scene, &plan);
    assert_eq!(scene.record().spec.replicas, 2);
    // The new master is one; the place of the dead is filled, and nobody is removed.
    let answer = scene.answer(1);
    (answer.role, answer.follows, answer.link_up) = (Role::Master, None, true);
    (answer.replid, answer.replid2) = ("p".to_string(), "r".to_string());
    let answer = scene.answer(2);
    (answer.follows, answer.link_up) = (Some(address(1)), true);
    (answer.replid, answer.replid2) = ("p".to_string(), "r".to_string());
    let plan = scene.plan();
    assert_eq!((launched(&plan).len(), killed(&plan).len()), (1, 0), "{:?}", plan.view());
}

#[test]
fn a_deletion_amid_a_failover_promotes_nobody_and_kills_all() {
    let mut scene = crashed(2, "");
    let plan = scene.plan();
    recorded(&mut scene, &plan);
    scene.asks(RequestKind::Delete, 7);
    let plan = scene.plan();
    assert!(promoted(&plan).is_none());
    assert!(state(&plan).unwrap().deleting);
    recorded(&mut scene, &plan);
    let plan = scene.plan();
    assert_eq!(killed(&plan).len(), 2, "{:?}", plan.view());
}

#[test]
fn a_spec_that_went_back_before_anything_was_done_is_nothing_to_do() {
    let mut scene = Scene::running(2, "");
    scene.declares(2, "");
    let plan = scene.plan();
    assert!(plan.steps.is_empty(), "{:?}", plan.view());
    recorded(&mut scene, &plan);
    assert_eq!(scene.record().spec_revision, 50);
    assert!(!waits_for(&scene.plan(), "replaced"));
}

#[test]
fn a_master_that_cannot_save_and_refuses_writes_is_not_called_available() {
    let said = |config: &str| {
        let mut scene = Scene::running(1, &format!(", redis: {{config: {{{config}}}}}"));
        scene.answer(0).disk_fails = true;
        let status = scene.status();
        let available = condition(&status, ConditionType::MasterAvailable);
        (available.status, available.reason.clone(), status.phase)
    };
    let refused = (ConditionStatus::False, "WritesRefused".to_string(), Phase::Unavailable);
    assert_eq!(said("save: 60 1"), refused);
    assert_eq!(said("appendonly: 'yes'"), refused);
    let available = (ConditionStatus::True, "Available".to_string(), Phase::Ready);
    assert_eq!(said(""), available, "a save that failed, and that nobody wants");
    assert_eq!(said("save: 60 1, stop-writes-on-bgsave-error: 'no'"), available);
}
