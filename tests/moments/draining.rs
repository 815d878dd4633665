//! Agents that are to be emptied are left before their time: plans of single moments. Pure.

use std::collections::BTreeSet;

use crate::scene::{
    NOW, Scene, condition, events, going, killed, launched, node, offer, state, switched_to, task, waits_for, written,
};
use redisctl::model::{InverseOffer, Leaving, MesosCall, MesosEvent, TaskState, Timestamp};
use redisctl::reconcile::leaving::LeavingAgents;
use redisctl::reconcile::offers::{Asked, plan_session};
use redisctl::reconcile::world::{Event, Seen, SwitchFailed, World};
use redisctl::status::ConditionType;

const HOUR: u64 = 3_600_000;

/// `orders` runs, and these agents are to be emptied.
fn leaving(replicas: u32, agents: &[(u32, Leaving)]) -> Scene {
    let mut scene = Scene::running(replicas, "");
    scene.leaving = LeavingAgents::new(HOUR);
    scene.leaving.listed(agents.iter().map(|(agent, why)| (format!("a{agent}"), *why)).collect());
    scene
}

#[test]
fn a_replica_on_a_deactivated_agent_gets_a_successor_before_it_goes() {
    let mut scene = leaving(2, &[(1, Leaving::Deactivated)]);
    let plan = scene.plan();
    assert_eq!((launched(&plan).len(), killed(&plan).len()), (1, 0));
    let said = condition(plan.status.as_ref().unwrap(), ConditionType::UpToDate).message.clone();
    assert!(said.contains("orders-1: its agent a1.example is deactivated"), "{said}");
    let spec = scene.record().spec.clone();
    scene.instance.nodes.insert(3, node(&spec, 3, 0));
    (scene.record().next_ordinal, scene.record().rolling) = (4, state(&plan).unwrap().rolling);
    let plan = scene.plan();
    assert!(launched(&plan).is_empty());
    assert_eq!(going(&plan), [task(1)]);
}

#[test]
fn a_master_leaves_first_and_at_once_when_a_replica_elsewhere_is_in_sync() {
    let plan = leaving(2, &[(0, Leaving::Deactivated), (1, Leaving::Deactivated)]).plan();
    assert_eq!(switched_to(&plan), Some(task(2).as_str()));
    assert!(killed(&plan).is_empty());
}

#[test]
fn a_master_whose_replicas_leave_too_waits_for_a_new_one() {
    let plan = leaving(1, &[(0, Leaving::Deactivated), (1, Leaving::Deactivated)]).plan();
    assert_eq!((switched_to(&plan), launched(&plan).len()), (None, 1));
}

#[test]
fn a_switchover_that_failed_is_not_repeated_at_once() {
    let mut scene = leaving(1, &[(0, Leaving::Deactivated)]);
    let failed = |at| Some(SwitchFailed { epoch: 1, why: "it did not catch up".to_string(), at });
    scene.node(1).switch_failed = failed(Timestamp(NOW.0 - 29_999));
    let plan = scene.plan();
    assert_eq!(switched_to(&plan), None);
    assert!(waits_for(&plan, "to orders-1 it failed (it did not catch up)"), "{:?}", plan.waiting);
    assert!(plan.revisit_at <= Some(NOW.plus_ms(1)));
    scene.node(1).switch_failed = failed(Timestamp(NOW.0 - 30_000));
    assert!(switched_to(&scene.plan()).is_some());
}

#[test]
fn maintenance_is_prepared_for_an_hour_before_it_begins() {
    let early = leaving(1, &[(1, Leaving::Maintenance(NOW.plus_ms(HOUR + 5)))]).plan();
    assert!(launched(&early).is_empty() && early.waiting.is_empty(), "{:?}", early.waiting);
    assert_eq!(early.revisit_at, Some(NOW.plus_ms(5)));
    let due = leaving(1, &[(1, Leaving::Maintenance(NOW.plus_ms(HOUR)))]).plan();
    assert_eq!(launched(&due).len(), 1);
}

#[test]
fn without_another_agent_nothing_is_disturbed_and_the_reason_is_said() {
    let mut scene = leaving(2, &[(1, Leaving::Drained)]);
    scene.offers.clear();
    scene.record().rolling = Some(redisctl::model::Roll { since: Timestamp(1), blocked_since: Some(Timestamp(1)) });
    let plan = scene.plan();
    assert!(killed(&plan).is_empty() && written(&plan, 1).is_none_or(|node| node.stop.is_none()));
    assert!(waits_for(&plan, "missing nodes have no place"), "{:?}", plan.waiting);
}

#[test]
fn a_paused_instance_stays_where_it_is() {
    let mut scene = leaving(2, &[(0, Leaving::Deactivated)]);
    scene.declares(2, ", paused: true");
    let plan = scene.plan();
    assert!(switched_to(&plan).is_none() && launched(&plan).is_empty());
    assert!(waits_for(&plan, "paused"), "{:?}", plan.waiting);
}

#[test]
fn a_task_that_mesos_kills_for_a_drain_is_replaced_while_it_ends() {
    let mut scene = Scene::running(2, "");
    scene.hears(1, TaskState::Killing, "REASON_AGENT_DRAINING");
    assert_eq!(launched(&scene.plan()).len(), 1);
}

#[test]
fn a_task_of_an_agent_that_is_given_up_counts_as_dead_only_when_it_is_silent() {
    let mut scene = Scene::running(1, "");
    scene.hears(0, TaskState::GoneByOperator, "REASON_AGENT_DRAINING");
    let plan = scene.plan();
    assert!(!events(&plan).contains(&"NodeDied"), "it still takes writes");
    scene.falls_silent(0);
    let plan = scene.plan();
    assert!(events(&plan).contains(&"NodeDied"), "{:?}", plan.view());
    assert!(state(&plan).is_none_or(|record| record.failures == 0), "somebody wanted it");
}

#[test]
fn an_inverse_offer_is_accepted_when_nothing_is_left_on_its_agent() {
    let mut world = World::default();
    world.apply(Event::Mesos(MesosEvent::Subscribed { framework_id: "F".into(), subscription: 1 }), NOW);
    let scene = leaving(1, &[]);
    world.instances.insert("orders".to_string(), scene.instance);
    let offers = ["a1", "elsewhere"].map(|agent| InverseOffer {
        id: format!("I-{agent}"),
        agent_id: agent.to_string(),
        from: NOW,
    });
    let dirty = world.apply(Event::Mesos(MesosEvent::InverseOffers(offers.into())), NOW);
    assert_eq!(dirty.names, BTreeSet::from(["orders".to_string()]));
    let mut asked = Asked::default();
    let mut accepted = |world: &mut World| -> Vec<String> {
        let plan = plan_session(world, &mut asked, &BTreeSet::new(), &BTreeSet::new(), NOW);
        plan.calls
            .into_iter()
            .filter_map(|call| match call {
                MesosCall::AcceptInverse(ids) => Some(ids),
                _ => None,
            })
            .flatten()
            .collect()
    };
    assert_eq!(accepted(&mut world), ["I-elsewhere"]);
    assert!(accepted(&mut world).is_empty(), "once is enough, and orders-1 is still there");
    let orders = world.instances.get_mut("orders").unwrap();
    assert!(world.leaving.node(&orders.nodes[&1], NOW).is_some());
    orders.nodes.remove(&1);
    assert_eq!(accepted(&mut world), ["I-a1"]);
}

#[test]
fn an_agent_that_stays_after_all_is_used_again() {
    let mut world = World::default();
    world.instances.insert("orders".to_string(), leaving(1, &[]).instance);
    let told = |world: &mut World, agents: &[(&str, Leaving)]| {
        let agents = agents.iter().map(|(agent, why)| ((*agent).to_string(), *why)).collect();
        world.apply(Event::Mesos(MesosEvent::Leaving(agents)), NOW).names
    };
    assert_eq!(told(&mut world, &[("a1", Leaving::Deactivated), ("a7", Leaving::Drained)]).len(), 1);
    assert!(told(&mut world, &[("a1", Leaving::Deactivated)]).is_empty(), "a7 runs none of ours");
    assert_eq!(told(&mut world, &[]).len(), 1);
    assert!(world.leaving.node(&world.instances["orders"].nodes[&1], NOW).is_none());
}

#[test]
fn agents_with_maintenance_far_ahead_still_get_nodes() {
    let placed = |ahead: u64| {
        let mut scene = Scene::declared(0, "");
        let mut world = World::resuming(Seen::default(), None, LeavingAgents::new(HOUR));
        let mut only = offer(1);
        only.unavailable_from = Some(NOW.plus_ms(ahead));
        world.apply(Event::Mesos(MesosEvent::Offers(vec![only])), NOW);
        scene.offers.clear();
        !launched(&scene.plan_with(&mut world.pool)).is_empty()
    };
    assert!(placed(HOUR + 1) && !placed(HOUR));
}
