//! The planner: what it does and what it waits for, one fact each. Pure.

use std::sync::Arc;

use crate::scene::*;
use proptest::prelude::*;
use redisctl::model::{
    Address, Meaning, NoAnswer, Passwords, RequestKind, Role, TaskRecord, TaskState, TaskUpdate, Timestamp,
};
use redisctl::reconcile::action::{Action, Write};
use redisctl::reconcile::launch::owned_settings;
use redisctl::reconcile::tries::{Applied, CUT_FOREIGN, MAKE_ROOM, Refusal, WATCH_FOREIGN_MS};
use redisctl::reconcile::world::{Document, Session};
use redisctl::status::{ConditionStatus, ConditionType, NodeState, Phase};

// --- The first launch -------------------------------------------------------------------------

#[test]
fn a_new_instance_is_launched_in_one_go_and_its_nodes_boot_in_their_roles() {
    let plan = Scene::declared(2, "").plan();
    let launches = launched(&plan);
    assert_eq!(launches.len(), 3);
    let master = written(&plan, 0).unwrap().address.clone();
    assert!(!launches[0].argv.contains(&"--replicaof".to_string()));
    for launch in &launches[1..] {
        let at = launch.argv.iter().position(|word| word == "--replicaof").unwrap();
        assert_eq!(launch.argv[at + 1..], [master.host.clone(), master.port.to_string()]);
    }
    let record = state(&plan).unwrap();
    assert_eq!((record.master, record.epoch, record.next_ordinal, record.initialized), (Some(0), 1, 3, false));
}

#[test]
fn every_launched_node_is_recorded_before_and_on_an_agent_of_its_own() {
    let plan = Scene::declared(2, "").plan();
    let mut agents: Vec<&str> = (0..3).map(|ordinal| written(&plan, ordinal).unwrap().agent_id.as_str()).collect();
    agents.dedup();
    assert_eq!(agents.len(), 3);
    assert!(launched(&plan).iter().all(|launch| plan.claims.iter().any(|claim| claim.agent_id == launch.agent_id)));
}

#[test]
fn without_mesos_the_spec_is_recorded_and_nothing_launched() {
    let mut scene = Scene::declared(1, "");
    scene.session = Session::Disconnected("no master leads".to_string());
    let plan = scene.plan();
    assert_eq!(state(&plan).unwrap().spec_revision, 7);
    assert!(plan.steps.is_empty() && waits_for(&plan, "no master leads"));
}

#[test]
fn after_a_subscription_mesos_is_given_a_second_to_tell_of_tasks_that_the_store_forgot() {
    let mut scene = Scene::declared(1, "");
    let since = Timestamp(NOW.0 - 999);
    scene.session = Session::Subscribed { subscription: 2, since };
    let plan = scene.plan();
    assert!(launched(&plan).is_empty() && waits_for(&plan, "Mesos may still tell of tasks"));
    assert_eq!(plan.revisit_at, Some(NOW.plus_ms(1)));
    scene.now = NOW.plus_ms(1);
    assert_eq!(launched(&scene.plan()).len(), 2);
}

#[test]
fn nothing_is_done_for_an_instance_whose_record_the_store_has_lost_while_it_has_nodes() {
    for declared in [true, false] {
        let mut scene = Scene::running(1, "");
        scene.instance.record = None;
        if !declared {
            scene.instance.document = None;
        }
        let plan = scene.plan();
        assert!(plan.is_empty() && waits_for(&plan, "has lost the record state/orders"), "{plan:?}");
    }
}

#[test]
fn what_has_a_place_is_launched_and_the_rest_says_why_it_has_none() {
    let mut scene = Scene::declared(2, "");
    scene.offers.truncate(2);
    let plan = scene.plan();
    assert_eq!(launched(&plan).len(), 2);
    assert!(plan.wants_offers && waits_for(&plan, "1 of 3 missing nodes have no place: needs 96 MiB and a port"));
}

#[test]
fn a_master_is_published_only_after_it_was_seen_ready() {
    let mut scene = Scene::running(1, "");
    scene.record().initialized = false;
    scene.falls_silent(0);
    assert_eq!(scene.status().master, None);
    scene.node(0).silent = None;
    let plan = scene.plan();
    assert!(state(&plan).unwrap().initialized);
    assert_eq!(plan.status.unwrap().master, Some("10.0.0.0:31000".to_string()));
}

// --- Replicas that die -------------------------------------------------------------------------

#[test]
fn a_dead_replica_is_replaced_in_the_pass_that_learns_of_it() {
    let mut scene = Scene::running(2, "");
    scene.dies(2);
    let plan = scene.plan();
    assert_eq!(launched(&plan).len(), 1);
    assert_eq!(launched(&plan)[0].name, "orders-3");
    assert!(events(&plan).contains(&"NodeDied"));
}

#[test]
fn a_dead_replica_is_remembered_until_others_have_what_it_may_have_confirmed() {
    let mut scene = Scene::running(2, "");
    scene.dies(2);
    assert!(!scene.plan().writes.contains(&Write::ForgetNode(2)), "the others were asked before it died");
    let died = TaskRecord::Dead { state: TaskState::Failed, why: String::new(), at: BEFORE, ran: true };
    scene.node(2).record.value.task = died;
    assert!(scene.plan().writes.contains(&Write::ForgetNode(2)));
    scene.answer(1).offset = 999;
    assert!(!scene.plan().writes.contains(&Write::ForgetNode(2)), "orders-1 lags");

    let mut scene = Scene::running(2, ", durability: none");
    scene.dies(2);
    assert!(scene.plan().writes.contains(&Write::ForgetNode(2)), "nothing was promised");
}

#[test]
fn replicas_that_keep_dying_are_replaced_ever_more_slowly() {
    for (failures, delay_ms) in [(1, 0), (2, 1000), (3, 2000), (5, 8000), (30, 300_000)] {
        let mut scene = Scene::running(1, "");
        scene.instance.nodes.remove(&1);
        (scene.record().failures, scene.record().last_failure) = (failures, Some(NOW));
        scene.now = NOW.plus_ms(delay_ms.max(1) - 1);
        if delay_ms > 0 {
            let plan = scene.plan();
            assert!(launched(&plan).is_empty() && waits_for(&plan, "times in a row"), "{failures} failures");
            assert_eq!(plan.revisit_at, Some(NOW.plus_ms(delay_ms)));
        }
        scene.now = NOW.plus_ms(delay_ms);
        assert_eq!(launched(&scene.plan()).len(), 1, "{failures} failures");
    }
}

#[test]
fn deaths_after_a_short_life_add_up_and_a_long_life_starts_anew() {
    for (lived_ms, failures) in [(1000, 5), (3_600_000, 1)] {
        let mut scene = Scene::running(1, "");
        scene.record().failures = 4;
        scene.node(1).record.value.launched_at = Timestamp(NOW.0 - lived_ms);
        scene.dies(1);
        assert_eq!(state(&scene.plan()).unwrap().failures, failures);
    }
}

#[test]
fn a_launch_whose_offer_was_gone_is_no_failure_of_the_node() {
    let mut scene = Scene::running(1, "");
    scene.node(1).record.value.task = TaskRecord::Launching;
    scene.node(1).answer = None;
    scene.hears(1, TaskState::Dropped, "REASON_INVALID_OFFERS");
    let plan = scene.plan();
    assert_eq!(state(&plan).map_or(0, |record| record.failures), 0);
    assert_eq!(launched(&plan).len(), 1);
}

#[test]
fn an_answer_to_a_second_launch_is_not_taken_for_the_death_of_a_task_that_runs() {
    let mut scene = Scene::running(1, "");
    scene.hears(1, TaskState::Error, "REASON_TASK_INVALID");
    let plan = scene.plan();
    assert!(plan.writes.is_empty() && waits_for(&plan, "asking again"));
}

// --- Agents out of sight -----------------------------------------------------------------------

#[test]
fn an_unreachable_replica_is_waited_for() {
    let mut scene = Scene::running(1, ", replaceUnreachableAfter: 5m");
    scene.vanishes(1, NOW);
    let plan = scene.plan();
    assert!(launched(&plan).is_empty() && waits_for(&plan, "replaceUnreachableAfter 5m"));
    assert_eq!(plan.revisit_at, Some(NOW.plus_ms(300_000)));
}

#[test]
fn an_unreachable_replica_is_replaced_when_its_time_is_over_and_its_record_stays() {
    let mut scene = Scene::running(1, ", replaceUnreachableAfter: 5m");
    scene.vanishes(1, Timestamp(NOW.0 - 300_000));
    let plan = scene.plan();
    assert_eq!(launched(&plan).len(), 1);
    assert!(!plan.writes.contains(&Write::ForgetNode(1)));
    assert!(killed(&plan).is_empty());
}

#[test]
fn an_unreachable_replica_that_answers_is_not_replaced_at_all() {
    let mut scene = Scene::running(1, ", replaceUnreachableAfter: 5m");
    scene.vanishes(1, Timestamp(NOW.0 - 300_000));
    scene.node(1).silent = None;
    assert!(launched(&scene.plan()).is_empty());
}

#[test]
fn a_replica_that_comes_back_in_time_is_taken_back() {
    let mut scene = Scene::running(1, "");
    scene.vanishes(1, Timestamp(NOW.0 - 60_000));
    scene.hears(1, TaskState::Running, "REASON_AGENT_REREGISTERED");
    scene.node(1).silent = None;
    let plan = scene.plan();
    assert_eq!(written(&plan, 1).unwrap().task, TaskRecord::Running);
    assert!(events(&plan).contains(&"NodeReturned") && plan.steps.is_empty());
}

#[test]
fn a_replica_that_comes_back_after_it_was_replaced_makes_one_too_many() {
    let mut scene = Scene::running(2, "");
    scene.record().spec.replicas = 1;
    scene.declares(1, "");
    scene.instance.document.as_mut().unwrap().revision = 7;
    scene.hears(1, TaskState::Running, "REASON_AGENT_REREGISTERED");
    scene.node(1).record.value.task = TaskRecord::Unsure { since: BEFORE, ran: true };
    scene.answer(1).offset = 10;
    let plan = scene.plan();
    assert_eq!(killed(&plan), [task(1)], "it lags most");
    assert!(written(&plan, 1).unwrap().stop.is_some());
}

#[test]
fn what_runs_after_it_was_declared_dead_is_stopped() {
    let mut scene = Scene::running(1, "");
    let why = String::new();
    scene.node(1).record.value.task = TaskRecord::Dead { state: TaskState::GoneByOperator, why, at: BEFORE, ran: true };
    scene.hears(1, TaskState::Running, "REASON_AGENT_REREGISTERED");
    assert_eq!(killed(&scene.plan()), [task(1)]);
}

#[test]
fn a_master_that_runs_after_it_was_declared_dead_is_taken_back_as_long_as_it_is_the_recorded_one() {
    let mut scene = Scene::running(1, "");
    let why = String::new();
    scene.node(0).record.value.task = TaskRecord::Dead { state: TaskState::GoneByOperator, why, at: BEFORE, ran: true };
    scene.hears(0, TaskState::Running, "REASON_AGENT_REREGISTERED");
    let plan = scene.plan();
    assert_eq!(written(&plan, 0).map(|node| (&node.task, &node.stop)), Some((&TaskRecord::Running, &None)));
    assert!(plan.steps.is_empty());
}

#[test]
fn what_is_out_of_sight_is_not_killed_until_it_is_seen() {
    let mut scene = Scene::running(1, "");
    scene.vanishes(1, BEFORE);
    scene.node(1).record.value.stop = Some("it is one too many".to_string());
    assert!(killed(&scene.plan()).is_empty());
    scene.hears(1, TaskState::Running, "REASON_AGENT_REREGISTERED");
    assert_eq!(killed(&scene.plan()), [task(1)]);
}

// --- More and fewer replicas -------------------------------------------------------------------

#[test]
fn scaling_up_launches_what_is_missing() {
    let mut scene = Scene::running(1, "");
    scene.declares(3, "");
    let names: Vec<String> = launched(&scene.plan()).iter().map(|launch| launch.name.clone()).collect();
    assert_eq!(names, ["orders-2", "orders-3"]);
}

#[test]
fn scaling_down_removes_the_most_lagging_and_never_the_master() {
    let mut scene = Scene::running(3, "");
    scene.declares(1, "");
    scene.answer(0).offset = 0; // Even then.
    scene.answer(2).offset = 400;
    scene.answer(3).offset = 500;
    let plan = scene.plan();
    assert_eq!(killed(&plan), [task(2), task(3)]);
    assert!(written(&plan, 2).unwrap().stop.is_some(), "the decision is recorded before the KILL");
}

#[test]
fn a_replica_that_is_to_end_confirms_nothing_more_and_goes_when_others_have_what_it_may_have_confirmed() {
    let mut scene = Scene::running(3, "");
    scene.accept(&document(2, "").spec);
    scene.node(3).record.value.stop = Some("1 of 4 nodes are too many".to_string());
    let plan = scene.plan();
    assert_eq!(kinds(&plan), ["detach"]);
    assert!(waits_for(&plan, "orders-3 is to be stopped when 1 others have all that it may have confirmed"));
    (scene.answer(3).follows, scene.answer(3).link_up) = (Some(address(3)), false);
    scene.node(3).detached_since = Some(NOW);
    let plan = scene.plan();
    assert!(plan.steps.is_empty() && written(&plan, 3).is_none(), "the others were asked before that");
    // Its master dies just then: it is in sight, and may be the one that has it.
    let mut lost = scene.clone();
    lost.answer(3).offset = 1500;
    lost.dies(0);
    for ordinal in 1..=3 {
        lost.node(ordinal).answer.as_mut().unwrap().1 = NOW;
        lost.answer(ordinal).link_up = false;
    }
    let plan = lost.plan();
    assert!(
        matches!(&plan.steps[0].action, Action::Promote { task_id, .. } if *task_id == task(3)),
        "{:?}",
        plan.view()
    );

    scene.now = NOW.plus_ms(100);
    for ordinal in 0..=2 {
        scene.node(ordinal).answer.as_mut().unwrap().1 = NOW.plus_ms(90);
    }
    scene.answer(1).offset = 999;
    scene.answer(2).offset = 999;
    assert!(scene.plan().steps.is_empty(), "neither has all that the master has");
    scene.answer(2).offset = 1000;
    let plan = scene.plan();
    assert_eq!(killed(&plan), [task(3)]);
    assert!(!written(&plan, 3).unwrap().joined, "recorded first: it counts no more");
}

#[test]
fn a_replica_that_does_not_answer_or_of_which_nothing_was_promised_is_stopped_at_once() {
    for (more, silent) in [("", true), (", durability: none", false)] {
        let mut scene = Scene::running(3, more);
        scene.node(3).record.value.stop = Some("1 of 4 nodes are too many".to_string());
        if silent {
            scene.is_silent(3, NoAnswer::Timeout, BEFORE);
        }
        assert_eq!(killed(&scene.plan()), [task(3)], "{more:?}");
    }
}

#[test]
fn among_equals_the_newest_goes() {
    let mut scene = Scene::running(3, "");
    scene.declares(2, "");
    assert_eq!(going(&scene.plan()), [task(3)]);
}

#[test]
fn nothing_is_removed_while_the_master_does_not_answer() {
    let mut scene = Scene::running(3, "");
    scene.declares(1, "");
    scene.falls_silent(0);
    let plan = scene.plan();
    assert!(killed(&plan).is_empty() && waits_for(&plan, "none is removed while the master does not answer"));
}

#[test]
fn a_replica_that_was_to_go_is_spared_when_the_master_has_died_meanwhile() {
    let mut scene = Scene::running(1, "");
    scene.node(1).record.value.stop = Some("1 of 2 nodes are too many".to_string());
    scene.dies(0);
    let plan = scene.plan();
    assert!(killed(&plan).is_empty() && waits_for(&plan, "may hold the last copy of the data"));
}

#[test]
fn a_kill_is_repeated_until_the_task_is_dead() {
    let mut scene = Scene::running(1, "");
    scene.node(1).record.value.stop = Some("it is one too many".to_string());
    scene.node(1).killed_at = Some(Timestamp(NOW.0 - 4999));
    let plan = scene.plan();
    assert!(killed(&plan).is_empty());
    assert_eq!(plan.revisit_at, Some(NOW.plus_ms(1)));
    scene.node(1).killed_at = Some(Timestamp(NOW.0 - 5000));
    assert_eq!(killed(&scene.plan()), [task(1)]);
}

#[test]
fn nothing_is_launched_or_removed_before_mesos_has_accounted_for_every_node() {
    for replicas in [1, 3] {
        let mut scene = Scene::running(2, "");
        scene.declares(replicas, "");
        scene.node(1).heard = false;
        let plan = scene.plan();
        let acts = !killed(&plan).is_empty() || !launched(&plan).is_empty();
        assert!(!acts && waits_for(&plan, "Mesos has not said yet what became of orders-1"));
    }
}

// --- The master --------------------------------------------------------------------------------

#[test]
fn a_replica_that_does_not_answer_may_hold_the_data_too() {
    let mut scene = Scene::running(1, "");
    scene.dies(0);
    scene.falls_silent(1);
    scene.node(1).answer = None;
    let plan = scene.plan();
    assert!(plan.steps.is_empty() && !events(&plan).contains(&"DataLost"));
}

#[test]
fn a_master_out_of_sight_is_not_taken_for_dead() {
    let mut scene = Scene::running(1, ", replaceUnreachableAfter: 1s");
    scene.vanishes(0, BEFORE);
    let plan = scene.plan();
    assert!(plan.steps.is_empty());
    let status = plan.status.unwrap();
    assert_eq!(condition(&status, ConditionType::MasterAvailable).status, ConditionStatus::Unknown);
}

#[test]
fn a_master_that_only_fell_silent_is_not_replaced() {
    let mut scene = Scene::running(0, "");
    scene.falls_silent(0);
    let plan = scene.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.status.unwrap().phase, Phase::Unavailable);
}

#[test]
fn when_every_node_is_dead_the_instance_starts_again_empty_and_says_what_was_lost() {
    let mut scene = Scene::running(1, "");
    scene.dies(0);
    scene.dies(1);
    let plan = scene.plan();
    assert_eq!(launched(&plan).len(), 2);
    let record = state(&plan).unwrap();
    assert_eq!((record.epoch, record.master, record.initialized), (2, Some(2), false));
    let lost = plan.writes.iter().find_map(|write| match write {
        Write::Event(event) if event.reason == "DataLost" => Some(event.message.clone()),
        _ => None,
    });
    assert!(lost.unwrap().contains("5 keys, 2000000 bytes, offset 1000"));
}

#[test]
fn a_blank_node_that_answers_as_a_master_holds_nothing_of_the_dead_masters_data() {
    let mut scene = Scene::running(1, "");
    scene.dies(0);
    let at = Timestamp(NOW.0 - 100);
    let (state, why) = (TaskState::Failed, String::new());
    scene.node(0).record.value.task = TaskRecord::Dead { state, why, at, ran: true };
    let (blank, asked_at) = scene.node(1).answer.as_mut().unwrap();
    (blank.role, blank.follows, blank.keys, blank.offset, blank.link_up) = (Role::Master, None, 0, 0, true);
    *asked_at = NOW;
    assert!(events(&scene.plan()).contains(&"DataLost"));
}

#[test]
fn a_deletion_that_waits_for_a_lost_agent_says_how_to_give_the_agent_up() {
    let mut scene = Scene::running(1, "");
    scene.asks(RequestKind::Delete, 0);
    scene.vanishes(1, NOW);
    let plan = scene.plan();
    assert!(!waits_for(&plan, "MARK_AGENT_GONE"), "it is out of sight since now");
    assert!(plan.revisit_at.is_some_and(|at| at <= NOW.plus_ms(60_000)));
    scene.node(1).record.value.task = TaskRecord::Unsure { since: BEFORE, ran: true };
    let plan = scene.plan();
    assert!(waits_for(&plan, "MARK_AGENT_GONE") && waits_for(&plan, "a1"));
}

#[test]
fn on_hold_a_lost_instance_waits_to_be_asked() {
    let mut scene = Scene::running(1, ", onDataLoss: hold");
    scene.dies(0);
    scene.dies(1);
    let plan = scene.plan();
    assert!(launched(&plan).is_empty() && waits_for(&plan, "redisctl recreate orders"));
    assert_eq!(plan.status.as_ref().unwrap().phase, Phase::DataLost);
    scene.asks(RequestKind::Recreate, 0);
    let plan = scene.plan();
    assert_eq!(launched(&plan).len(), 2);
    assert!(plan.writes.contains(&Write::RequestDone(RequestKind::Recreate)));
}

#[test]
fn a_request_to_recreate_what_lives_is_closed_and_does_nothing() {
    let mut scene = Scene::running(1, "");
    scene.asks(RequestKind::Recreate, 0);
    let plan = scene.plan();
    assert_eq!(plan.writes, [Write::RequestDone(RequestKind::Recreate)]);
    assert!(plan.steps.is_empty());
}

#[test]
fn a_first_master_that_never_was_ready_is_replaced_although_replicas_wait_for_it() {
    let mut scene = Scene::running(1, "");
    scene.record().initialized = false;
    let blank = scene.answer(1);
    (blank.keys, blank.offset, blank.link_up) = (0, 1, false);
    scene.dies(0);
    let plan = scene.plan();
    assert_eq!(launched(&plan).len(), 1);
    assert_eq!(state(&plan).unwrap().master, Some(2));
    assert!(!events(&plan).contains(&"DataLost"));
    assert!(written(&plan, 0).is_some(), "a replica follows its address: it is not given to another");
}

#[test]
fn the_masters_place_is_nobody_elses() {
    let mut scene = Scene::running(1, "");
    scene.declares(0, "");
    scene.record().initialized = false;
    scene.dies(0);
    let plan = scene.plan();
    assert_eq!(launched(&plan).len(), 1, "one node is declared, and it is not the replica that is left");
    assert_eq!(killed(&plan), [task(1)]);
}

// --- Going away --------------------------------------------------------------------------------

#[test]
fn deletion_is_recorded_then_kills_and_forgets_nothing_that_lives() {
    let mut scene = Scene::running(1, "");
    scene.asks(RequestKind::Delete, 7);
    let plan = scene.plan();
    assert!(state(&plan).unwrap().deleting);
    assert_eq!(killed(&plan), [task(0), task(1)]);
    assert!(!plan.writes.iter().any(|write| matches!(write, Write::Forget { .. } | Write::ForgetNode(_))));
    assert_eq!(plan.status.unwrap().phase, Phase::Deleting);
}

#[test]
fn a_document_that_was_removed_from_the_store_deletes_the_instance() {
    let mut scene = Scene::running(1, "");
    scene.instance.document = None;
    assert!(state(&scene.plan()).unwrap().deleting);
}

#[test]
fn a_deletion_goes_on_with_whoever_comes_next() {
    let mut scene = Scene::running(1, "");
    scene.instance.document = None;
    scene.record().deleting = true;
    scene.dies(0);
    let plan = scene.plan();
    assert_eq!(killed(&plan), [task(1)]);
    assert!(waits_for(&plan, "these nodes are seen dead: orders-1"));
}

#[test]
fn when_all_are_dead_everything_goes_with_the_document_that_was_deleted() {
    let mut scene = Scene::running(1, "");
    scene.asks(RequestKind::Delete, 7);
    scene.record().deleting = true;
    scene.dies(0);
    scene.dies(1);
    let plan = scene.plan();
    assert_eq!(plan.writes, [Write::Forget { document: Some(7) }]);
    assert!(plan.status.is_none());
}

#[test]
fn a_node_out_of_sight_holds_up_the_deletion() {
    let mut scene = Scene::running(1, "");
    scene.asks(RequestKind::Delete, 7);
    scene.vanishes(1, BEFORE);
    scene.dies(0);
    let plan = scene.plan();
    assert!(!plan.writes.iter().any(|write| matches!(write, Write::Forget { .. })));
    assert!(waits_for(&plan, "orders-1 (out of Mesos' sight since"));
}

#[test]
fn nothing_new_is_accepted_while_an_instance_goes_away() {
    let mut scene = Scene::running(1, "");
    scene.record().deleting = true;
    scene.declares(3, "");
    let plan = scene.plan();
    assert!(launched(&plan).is_empty());
    assert_eq!(state(&plan).map_or(7, |record| record.spec_revision), 7);
}

#[test]
fn declared_and_deleted_before_anything_was_done_leaves_nothing() {
    let mut scene = Scene::declared(1, "");
    scene.asks(RequestKind::Delete, 7);
    assert_eq!(scene.plan().writes, [Write::Forget { document: Some(7) }]);
}

// --- The document ------------------------------------------------------------------------------

#[test]
fn while_the_document_is_invalid_the_last_good_spec_stays_in_force() {
    let mut scene = Scene::running(1, "");
    let parsed = Err("line 3: spec.memory: \"lots\" is not a size".to_string());
    scene.instance.document = Some(Document { revision: 50, parsed });
    scene.dies(1);
    let plan = scene.plan();
    assert_eq!(launched(&plan).len(), 1, "the instance is cared for as before");
    assert!(events(&plan).contains(&"SpecInvalid"));
    let status = plan.status.unwrap();
    let said = condition(&status, ConditionType::SpecValid);
    assert_eq!(said.status, ConditionStatus::False);
    assert!(said.message.contains("is not a size"));
    assert_ne!(status.phase, Phase::Ready);
}

#[test]
fn what_is_wrong_with_a_document_is_an_event_once() {
    let mut scene = Scene::running(1, "");
    scene.instance.document = Some(Document { revision: 50, parsed: Err("empty".to_string()) });
    assert_eq!(events(&scene.plan()), ["SpecInvalid"]);
    scene.store_status();
    assert!(scene.plan().is_empty());
}

// --- Roles -------------------------------------------------------------------------------------

#[test]
fn an_empty_replica_without_a_link_is_told_to_try_its_master_again() {
    let mut scene = Scene::running(1, "");
    let blank = scene.answer(1);
    (blank.keys, blank.offset, blank.link_up) = (0, 0, false);
    assert_eq!(kinds(&scene.plan()), ["kick"]);
    scene.answer(1).syncing = true;
    assert!(scene.plan().steps.is_empty(), "it is on its way already");
}

#[test]
fn a_replica_that_was_just_told_is_given_a_second() {
    let mut scene = Scene::running(1, "");
    let blank = scene.answer(1);
    (blank.keys, blank.offset, blank.link_up) = (0, 0, false);
    scene.node(1).pointed_at = Some(Timestamp(NOW.0 - 999));
    let plan = scene.plan();
    assert!(plan.steps.is_empty() && plan.revisit_at.is_some());
    scene.node(1).pointed_at = Some(Timestamp(NOW.0 - 1000));
    assert_eq!(kinds(&scene.plan()), ["kick"]);
}

#[test]
fn a_replica_with_data_whose_link_is_down_is_left_to_itself() {
    let mut scene = Scene::running(1, "");
    scene.answer(1).link_up = false;
    assert!(scene.plan().steps.is_empty());
}

#[test]
fn a_replica_that_follows_another_is_pointed_to_the_recorded_master() {
    let mut scene = Scene::running(1, "");
    scene.answer(1).follows = Some(address(9));
    let plan = scene.plan();
    let Action::Follow { task_id, master, .. } = &plan.steps[0].action else { panic!("{:?}", plan.steps) };
    assert_eq!((task_id, master), (&task(1), &address(0)));
}

#[test]
fn a_stray_with_data_is_not_pointed_to_an_empty_master() {
    let mut scene = Scene::running(1, "");
    scene.answer(1).follows = Some(address(9));
    (scene.answer(0).keys, scene.answer(0).offset) = (0, 0);
    let plan = scene.plan();
    assert!(plan.steps.is_empty() && waits_for(&plan, "so as not to lose them"));
}

#[test]
fn nobody_is_pointed_anywhere_while_the_master_does_not_answer() {
    let mut scene = Scene::running(2, "");
    (scene.answer(1).role, scene.answer(1).follows) = (Role::Master, None);
    scene.falls_silent(0);
    assert!(scene.plan().steps.is_empty());
}

// --- Configuration -----------------------------------------------------------------------------

#[test]
fn configuration_is_applied_live_where_redis_can() {
    let mut scene = Scene::running(1, "");
    scene.declares(1, ", redis: {config: {maxmemory-policy: allkeys-lru}}");
    let plan = scene.plan();
    assert_eq!(kinds(&plan), ["configure", "configure"]);
    let wanted = ("maxmemory-policy".to_string(), "allkeys-lru".to_string());
    assert!(
        plan.steps
            .iter()
            .all(|step| matches!(&step.action, Action::Configure { settings, .. } if *settings == [wanted.clone()]))
    );
}

#[test]
fn what_was_configured_is_recorded_and_not_done_again() {
    let mut scene = Scene::running(0, "");
    scene.declares(0, ", redis: {config: {maxmemory-policy: allkeys-lru}}");
    scene.node(0).configured = vec![("maxmemory-policy".to_string(), "allkeys-lru".to_string())];
    let plan = scene.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(written(&plan, 0).unwrap().config["maxmemory-policy"], "allkeys-lru");
}

#[test]
fn a_wrong_maxmemory_is_put_right() {
    let mut scene = Scene::running(0, "");
    scene.answer(0).max_memory = 0;
    let plan = scene.plan();
    let wanted = ("maxmemory".to_string(), (64 << 20).to_string());
    assert!(matches!(&plan.steps[0].action, Action::Configure { settings, .. } if *settings == [wanted]));
}

// --- Acknowledgements --------------------------------------------------------------------------

#[test]
fn an_update_is_acknowledged_after_what_it_says_is_recorded() {
    let mut scene = Scene::running(1, "");
    scene.dies(1);
    let told = TaskUpdate { uuid: Some("u1".to_string()), ..scene.node(1).update.clone().unwrap() };
    scene.node(1).unacked = vec![told];
    scene.offers.clear();
    let plan = scene.plan();
    assert_eq!(kinds(&plan), ["acknowledge"], "steps come after the writes");
    assert!(plan.writes.contains(&Write::ForgetNode(1)));
}

#[test]
fn a_frozen_operator_writes_and_does_nothing_and_says_why() {
    let mut scene = Scene::running(3, "");
    scene.declares(1, "");
    scene.dies(1);
    scene.frozen = Some("the store has gone back".to_string());
    let plan = scene.plan();
    assert!(plan.is_empty() && plan.claims.is_empty());
    assert!(waits_for(&plan, "the operator is frozen"));
    assert!(!waits_for(&plan, "the store has gone back"), "it may name what others' instances are called");
}

// --- The status --------------------------------------------------------------------------------

#[test]
fn the_phase_says_how_far_an_instance_is() {
    let mut scene = Scene::declared(1, "");
    scene.offers.clear();
    assert_eq!(scene.status().phase, Phase::Pending);
    assert_eq!(Scene::declared(1, "").status().phase, Phase::Creating);
    let mut scene = Scene::running(1, "");
    assert_eq!(scene.status().phase, Phase::Ready);
    scene.dies(1);
    assert_eq!(scene.status().phase, Phase::Degraded);
    let mut scene = Scene::running(1, "");
    scene.declares(2, "");
    assert_eq!(scene.status().phase, Phase::Updating);
}

#[test]
fn a_ready_instance_has_acted_upon_its_document() {
    let status = Scene::running(1, "").status();
    assert_eq!(status.observed_revision, 7);
    assert!(status.conditions.iter().all(|condition| condition.status == ConditionStatus::True));
    assert!(status.nodes.iter().all(|node| node.state == NodeState::Ready));
}

#[test]
fn a_document_is_not_acted_upon_before_all_of_it_is_done() {
    let mut scene = Scene::running(1, "");
    scene.declares(2, "");
    assert_eq!(scene.status().observed_revision, 7);
}

#[test]
fn a_restarted_operator_lets_the_status_stand_until_it_has_asked_every_node() {
    let mut scene = Scene::running(1, "");
    for ordinal in 0..2 {
        let node = scene.node(ordinal);
        (node.answer, node.heard) = (None, false);
    }
    scene.session = Session::Disconnected("not connected yet".to_string());
    let plan = scene.plan();
    assert!(plan.is_empty());
    assert_eq!(plan.status.unwrap().phase, Phase::Ready);
}

#[test]
fn a_condition_keeps_the_time_of_its_last_change() {
    let mut scene = Scene::running(1, "");
    scene.now = NOW.plus_ms(60_000);
    scene.dies(1);
    let status = scene.status();
    assert_eq!(condition(&status, ConditionType::MasterAvailable).last_transition_time, NOW);
    assert_eq!(condition(&status, ConditionType::ReplicasInSync).last_transition_time, scene.now);
}

#[test]
fn a_new_offset_is_no_reason_to_write_the_status() {
    let mut scene = Scene::running(1, "");
    scene.answer(0).offset += 500;
    scene.answer(1).offset += 400;
    let plan = scene.plan();
    assert!(plan.is_empty());
    assert_eq!(plan.status.unwrap().nodes[1].lag, Some(100));
}

// --- Whatever happens --------------------------------------------------------------------------

/// What may be known of one node.
#[derive(Clone, Debug)]
struct Odd {
    task: u8,
    update: u8,
    silent: u8,
    stop: bool,
    heard: bool,
    answer: Option<(bool, u8, bool, bool, u64, u64)>,
}

fn odd() -> impl Strategy<Value = Odd> {
    let answer = (any::<bool>(), 0u8..4, any::<bool>(), any::<bool>(), 0u64..3, 0u64..3);
    (0u8..6, 0u8..20, 0u8..3, prop::bool::weighted(0.2), prop::bool::weighted(0.8), prop::option::weighted(0.8, answer))
        .prop_map(|(task, update, silent, stop, heard, answer)| Odd { task, update, silent, stop, heard, answer })
}

/// A scene of nodes in any state; the recorded master is one of them, or is gone, or never was.
fn scene_of(odds: &[Odd], replicas: u32, master: Option<u32>, initialized: bool, ask: u8) -> Scene {
    let mut scene = Scene::running(u32::try_from(odds.len()).unwrap() - 1, "");
    scene.declares(replicas, "");
    for (ordinal, odd) in (0..).zip(odds) {
        let ran = odd.task % 2 == 0;
        let node = scene.node(ordinal);
        let record = &mut node.record.value;
        record.task = match odd.task {
            0 => TaskRecord::Launching,
            1 | 2 => TaskRecord::Running,
            3 | 4 => TaskRecord::Unsure { since: BEFORE, ran },
            _ => TaskRecord::Dead { state: TaskState::Failed, why: String::new(), at: BEFORE, ran },
        };
        record.stop = (odd.stop && master != Some(ordinal)).then(|| "it was decided".to_string());
        node.heard = odd.heard;
        node.silent = [None, Some((NoAnswer::Timeout, NOW)), Some((NoAnswer::Refused, NOW))][usize::from(odd.silent)];
        match odd.answer {
            None => node.answer = None,
            Some((replica, follows, link_up, busy, keys, offset)) => {
                let (answer, _) = node.answer.as_mut().unwrap();
                answer.role = if replica { Role::Replica } else { Role::Master };
                answer.follows = replica.then(|| address(u32::from(follows)));
                (answer.link_up, answer.keys, answer.offset) = (link_up || !replica, keys, offset);
                (answer.syncing, answer.loading) = (busy && replica, busy && !replica);
            }
        }
        if let Some(state) = TaskState::ALL.get(usize::from(odd.update)) {
            scene.hears(ordinal, *state, "");
        }
    }
    let record = scene.record();
    (record.master, record.initialized) = (master, initialized && master.is_some());
    record.deleting = ask == 1;
    if ask == 2 {
        scene.asks(RequestKind::Recreate, 0);
    }
    scene
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_keeps_the_rules_and_is_the_same_when_made_twice(
        odds in prop::collection::vec(odd(), 1..5),
        replicas in 0u32..4,
        master in prop::option::weighted(0.9, 0u32..4),
        initialized in any::<bool>(),
        ask in 0u8..4,
    ) {
        let scene = scene_of(&odds, replicas, master, initialized, ask);
        let (plan, again) = (scene.plan(), scene.plan());
        prop_assert_eq!(&plan.writes, &again.writes);
        prop_assert_eq!(&plan.steps, &again.steps);
        prop_assert_eq!(&plan.waiting, &again.waiting);
        prop_assert_eq!(&plan.status, &again.status);
    }

    #[test]
    fn a_master_that_answers_stays_the_master_unless_another_is_asked_for(
        odds in prop::collection::vec(odd(), 1..5),
        replicas in 0u32..4,
        ask in 0u8..4,
    ) {
        let scene = scene_of(&odds, replicas, Some(0), true, ask);
        let node = &scene.instance.nodes[&0];
        let told = node.update.as_ref().is_some_and(|update| update.state.meaning() == Meaning::Dead);
        let answers = node.answer.as_ref().is_some_and(|(answer, _)| answer.role == Role::Master);
        if told || node.record.value.task.is_dead() || ask == 1 || !answers || node.silent.is_some() {
            return Ok(());
        }
        let plan = scene.plan();
        prop_assert!(state(&plan).is_none_or(|record| record.master == Some(0)));
    }

    #[test]
    fn a_frozen_operator_plans_nothing_whatever_it_sees(
        odds in prop::collection::vec(odd(), 1..5),
        replicas in 0u32..4,
        ask in 0u8..4,
    ) {
        let mut scene = scene_of(&odds, replicas, Some(0), true, ask);
        scene.frozen = Some("the store was lost".to_string());
        prop_assert!(scene.plan().is_empty());
    }

    #[test]
    fn nothing_is_planned_for_what_is_as_declared(replicas in 0u32..6) {
        let plan = Scene::running(replicas, "").plan();
        prop_assert!(plan.is_empty() && plan.waiting.is_empty());
    }
}

#[test]
fn a_master_whose_record_is_lost_is_not_taken_for_dead() {
    let mut scene = Scene::running(0, "");
    scene.instance.nodes.remove(&0);
    let plan = scene.plan();
    assert!(plan.steps.is_empty() && !events(&plan).contains(&"DataLost"));
    assert!(waits_for(&plan, "the store has lost the record of the master"), "{:?}", plan.waiting);
}

// --- Strangers --------------------------------------------------------------------------------

/// Who follows the master, as INFO tells it.
fn followed_by(scene: &mut Scene, more: &[&str]) {
    let ours = [1, 2].map(address);
    let foreign = more.iter().map(|host| Address { host: (*host).to_string(), port: 6379 });
    scene.answer(0).replicas = ours.into_iter().chain(foreign).collect();
}

#[test]
fn a_replica_that_is_no_node_of_the_instance_is_cut_and_said_once() {
    let mut scene = Scene::running(2, "");
    followed_by(&mut scene, &[]);
    assert!(scene.plan().is_empty());
    followed_by(&mut scene, &["10.66.6.6"]);
    let plan = scene.plan();
    assert_eq!((kinds(&plan), events(&plan)), (vec!["cutForeign"], vec!["ForeignReplica"]));
    let condition = plan.status.unwrap().condition(ConditionType::ReplicasInSync).unwrap().clone();
    assert_eq!((condition.status, condition.reason.as_str()), (ConditionStatus::False, "ForeignReplica"));
    assert!(condition.message.contains("10.66.6.6:6379"), "{}", condition.message);

    scene.store_status();
    scene.node(0).tries.did(CUT_FOREIGN, NOW);
    let plan = scene.plan();
    assert_eq!((kinds(&plan), events(&plan)), (vec![], vec![]));
    assert!(plan.revisit_at.is_some(), "it is looked at again");
    scene.now = plan.revisit_at.unwrap();
    let plan = scene.plan();
    assert_eq!((kinds(&plan), events(&plan)), (vec!["cutForeign"], vec![]));
    followed_by(&mut scene, &[]);
    assert_eq!(scene.status().phase, Phase::Ready);
}

#[test]
fn a_link_of_ours_that_is_there_twice_is_cut_and_alarms_nobody_until_it_stays() {
    let mut scene = Scene::running(2, "");
    followed_by(&mut scene, &[]);
    scene.answer(0).replicas.push(address(1));
    let plan = scene.plan();
    assert_eq!((kinds(&plan), events(&plan)), (vec!["cutForeign"], vec![]));
    assert_eq!(plan.status.unwrap().phase, Phase::Ready);
    scene.node(0).tries.did(MAKE_ROOM, NOW);
    assert!(events(&scene.plan()).is_empty(), "what was cut was something else");
    scene.node(0).tries.did(CUT_FOREIGN, NOW);
    assert_eq!(events(&scene.plan()), ["ForeignReplica"]);
    scene.now = NOW.plus_ms(WATCH_FOREIGN_MS);
    assert!(events(&scene.plan()).is_empty(), "it was cut then, and this is another");
}

#[test]
fn the_link_of_a_node_that_has_just_gone_is_nobody_elses() {
    let mut scene = Scene::running(2, "");
    followed_by(&mut scene, &[]);
    scene.answer(0).replicas.push(address(9));
    scene.instance.former.insert(address(9));
    assert!(scene.plan().is_empty());
}

#[test]
fn a_master_that_is_full_is_told_and_makes_room_for_replicas_that_cannot_log_in() {
    let mut scene = Scene::running(2, "");
    (scene.answer(0).gauges.clients, scene.answer(0).gauges.max_clients) = (10_000, 10_000);
    let status = scene.status();
    let said = status.condition(ConditionType::MasterAvailable).unwrap();
    assert_eq!((said.status, said.reason.as_str()), (ConditionStatus::False, "Full"));
    assert!(kinds(&scene.plan()).is_empty(), "its replicas have their links");
    scene.answer(1).link_up = false;
    let plan = scene.plan();
    assert_eq!(kinds(&plan), ["makeRoom"]);
    assert!(waits_for(&plan, "takes no more connections"));
    scene.node(0).tries.did(MAKE_ROOM, NOW);
    assert!(kinds(&scene.plan()).is_empty(), "not all the time");
}

#[test]
fn connections_that_take_a_nodes_memory_are_looked_at_now_and_then_whatever_its_role() {
    for node in 0..3 {
        let mut scene = Scene::running(2, "");
        let limit = scene.answer(node).max_memory / 8;
        scene.answer(node).gauges.clients_memory = limit;
        assert!(kinds(&scene.plan()).is_empty(), "that much is usual");
        scene.answer(node).gauges.clients_memory = limit + 1;
        let plan = scene.plan();
        assert_eq!(kinds(&plan), ["makeRoom"]);
        assert_eq!(plan.status.unwrap().phase, Phase::Ready, "nobody waits for it");
        scene.node(node).tries.did(MAKE_ROOM, NOW);
        let plan = scene.plan();
        assert!(kinds(&plan).is_empty(), "not all the time");
        scene.now = plan.revisit_at.expect("again in a while");
        assert_eq!(kinds(&scene.plan()), ["makeRoom"]);
    }
}

#[test]
fn a_master_that_refuses_writes_for_want_of_memory_is_told_unless_it_evicts() {
    for (policy, told) in [(None, true), (Some("noeviction"), true), (Some("allkeys-lru"), false)] {
        let spec =
            policy.map_or(String::new(), |policy| format!(", redis: {{config: {{maxmemory-policy: {policy}}}}}"));
        let mut scene = Scene::running(2, &spec);
        let condition = |scene: &mut Scene| scene.status().condition(ConditionType::MemoryFull).cloned();
        let max = scene.answer(0).max_memory;
        (scene.answer(0).used_memory, scene.answer(0).gauges.uncounted_memory) = (max + 5, 5);
        assert_eq!(condition(&mut scene), None, "what Redis does not count");
        scene.answer(0).used_memory = max + 6;
        let said = condition(&mut scene);
        assert_eq!(said.is_some(), told, "{policy:?}");
        assert!(said.is_none_or(|said| {
            said.message.contains("orders-0: all memory is used, and the master refuses writes (OOM)")
        }));
        assert_eq!(scene.status().phase, Phase::Ready, "all is as declared");
    }
}

#[test]
fn a_port_that_another_process_has_is_told_and_is_no_failure_of_the_node() {
    for (why, told) in [(NoAnswer::Stranger, true), (NoAnswer::Unproved, true), (NoAnswer::Refused, false)] {
        let mut scene = Scene::running(2, "");
        scene.node(2).answer = None;
        scene.node(2).record.value.task = TaskRecord::Launching;
        scene.is_silent(2, why, NOW);
        let says = scene.status().nodes[2].message.contains(&why.to_string());
        assert_eq!(says, told, "{why:?}");
        scene.hears(2, TaskState::Failed, "");
        let plan = scene.plan();
        assert_eq!(events(&plan).contains(&"PortTaken"), told, "{why:?}");
        assert_eq!(state(&plan).unwrap().failures, u32::from(!told), "{why:?}");
        assert_eq!(launched(&plan).len(), 1, "another takes its place at once");
    }
}

#[test]
fn who_is_to_follow_a_master_is_told_the_password_of_that_master_alone() {
    let mut scene = Scene::running(2, "");
    scene.record().auth = Some(Passwords::first(false));
    let followed = |scene: &Scene| {
        let plan = scene.plan();
        plan.steps.into_iter().find_map(|step| match step.action {
            Action::Follow { task_id, password, .. } => Some((task_id, password)),
            _ => None,
        })
    };
    for ordinal in 0..3 {
        let node = &mut scene.node(ordinal).record.value;
        node.marked = ordinal != 2;
        Arc::make_mut(&mut node.owned).insert("users".to_string(), "2,1".to_string());
    }
    scene.answer(1).follows = Some(address(9));
    assert_eq!(followed(&scene), Some((task(1), Some(format!("2@{}", task(0))))));
    // One that was launched before nodes had passwords of their own.
    scene.node(0).record.value.marked = false;
    assert_eq!(followed(&scene), Some((task(1), Some("2".to_string()))));
    Arc::make_mut(&mut scene.node(0).record.value.owned).remove("users");
    assert_eq!(followed(&scene), Some((task(1), None)));
}
// --- What fails, hangs or is refused --------------------------------------------------------------

/// The master is proved dead, or hangs; its replicas say so.
fn loses_its_master(scene: &mut Scene, hangs: bool) {
    let replicas: Vec<u32> = scene.instance.nodes.keys().copied().filter(|ordinal| *ordinal > 0).collect();
    let why = if hangs { NoAnswer::Timeout } else { NoAnswer::Refused };
    scene.is_silent(0, why, Timestamp(if hangs { NOW.0 - 2000 } else { NOW.0 }));
    (scene.node(0).fails, scene.node(0).noticed_at) = (5, Some(if hangs { Timestamp(NOW.0 - 1500) } else { NOW }));
    for replica in replicas {
        scene.answer(replica).link_up = hangs;
        scene.answer(replica).last_io_s = hangs.then_some(2);
    }
}

fn refusal(name: &str, value: &str) -> Refusal {
    Refusal { name: name.to_string(), value: value.to_string(), words: "ERR Invalid argument".to_string() }
}

fn refuses(scene: &mut Scene, ordinal: u32, name: &str, value: &str) {
    let applied = Applied { refused: vec![refusal(name, value)], ..Applied::default() };
    scene.node(ordinal).tries.applied(&applied, NOW);
}

/// The settings that the plan makes, by node.
fn configured(plan: &redisctl::reconcile::action::Plan) -> Vec<(String, Vec<String>)> {
    let settings = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Configure { task_id, settings, .. } => {
            Some((task_id.clone(), settings.iter().map(|(name, _)| name.clone()).collect()))
        }
        _ => None,
    });
    settings.collect()
}

#[test]
fn a_setting_that_is_refused_is_told_once_and_all_others_are_made() {
    let mut scene = Scene::running(1, "");
    scene.declares(1, ", redis: {config: {activedefrag: yes, maxmemory-policy: allkeys-lru}}");
    refuses(&mut scene, 1, "activedefrag", "yes");
    let plan = scene.plan();
    let both = vec!["activedefrag".to_string(), "maxmemory-policy".to_string()];
    assert_eq!(configured(&plan), [(task(0), both), (task(1), vec!["maxmemory-policy".to_string()])]);
    assert_eq!(events(&plan).iter().filter(|reason| **reason == "SettingRefused").count(), 1);
    let status = plan.status.unwrap();
    let said = condition(&status, ConditionType::ConfigApplied);
    assert_eq!((said.status, said.reason.as_str()), (ConditionStatus::False, "Refused"));
    assert_eq!(said.message, "orders-1 does not take activedefrag \"yes\": ERR Invalid argument");
    assert_eq!((status.phase, status.observed_revision), (Phase::Degraded, 7));

    // Nothing more is done or said until something changes.
    scene.accept(&document(1, ", redis: {config: {activedefrag: yes, maxmemory-policy: allkeys-lru}}").spec);
    refuses(&mut scene, 0, "activedefrag", "yes");
    scene.store_status();
    let plan = scene.plan();
    assert!(plan.is_empty() && plan.revisit_at.is_none(), "{plan:?}");
    scene.declares(1, ", redis: {config: {activedefrag: no, maxmemory-policy: allkeys-lru}}");
    let plan = scene.plan();
    assert_eq!(configured(&plan).len(), 2, "another value is tried");
    assert_eq!(condition(plan.status.as_ref().unwrap(), ConditionType::ConfigApplied).status, ConditionStatus::True);
}

#[test]
fn a_setting_of_the_operators_own_that_is_refused_is_told_and_tried_again() {
    let mut scene = Scene::running(1, "");
    scene.answer(1).max_memory = 1;
    refuses(&mut scene, 1, "maxmemory", "67108864");
    let plan = scene.plan();
    assert!(configured(&plan).is_empty() && plan.revisit_at == Some(NOW.plus_ms(30_000)));
    assert_eq!(condition(plan.status.as_ref().unwrap(), ConditionType::ConfigApplied).status, ConditionStatus::False);
    scene.now = NOW.plus_ms(30_000);
    assert_eq!(configured(&scene.plan()), [(task(1), vec!["maxmemory".to_string()])]);
}

#[test]
fn a_step_that_has_failed_is_tried_again_after_its_own_backoff_and_the_wait_is_explained() {
    let mut scene = Scene::running(2, "");
    scene.answer(2).follows = Some(address(7));
    scene.node(2).tries.fail("follow", "no way to it".to_string(), NOW);
    let plan = scene.plan();
    assert!(kinds(&plan).is_empty() && waits_for(&plan, "no way to it"), "{plan:?}");
    assert_eq!(plan.revisit_at, Some(NOW.plus_ms(100)));
    scene.now = NOW.plus_ms(100);
    let plan = scene.plan();
    assert_eq!(kinds(&plan), ["follow"]);
    assert!(waits_for(&plan, "no way to it"), "what it says does not change with each try");
}

#[test]
fn while_a_promotion_waits_for_its_turn_nobody_is_pointed_to_whom_it_is_about() {
    let mut scene = Scene::running(2, ", durability: none");
    loses_its_master(&mut scene, false);
    for ordinal in [1, 2] {
        scene.node(ordinal).tries.fail("promote", "it says no".to_string(), NOW);
    }
    let plan = scene.plan();
    assert!(state(&plan).is_some_and(|record| record.epoch == 2), "it is recorded all the same");
    assert!(!kinds(&plan).contains(&"follow") && !kinds(&plan).contains(&"promote"), "{:?}", kinds(&plan));
}

#[test]
fn a_failover_is_recorded_without_what_others_may_write_at_that_moment() {
    let mut scene = Scene::running(2, "");
    scene.asks(RequestKind::Audit, 7);
    let closes = |scene: &Scene| scene.plan().writes.contains(&Write::RequestDone(RequestKind::Audit));
    assert!(closes(&scene));
    loses_its_master(&mut scene, false);
    assert!(kinds(&scene.plan()).contains(&"promote") && !closes(&scene));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Whatever settings fail, hang or are refused anywhere, whatever acknowledgements and kills fail, and
    /// whatever failed of others' roles: the failover is planned in the same pass, and is the same.
    #[test]
    fn nothing_that_is_not_urgent_delays_a_failover(
        troubles in prop::collection::vec((0u32..4, 0usize..8, 0u64..5000), 0..20),
        replicas in 1u32..4, hangs in any::<bool>(), durability in prop::sample::select(vec!["none", "one", "majority"]),
    ) {
        let durability = format!(", durability: {durability}");
        let mut scene = Scene::running(replicas, &durability);
        loses_its_master(&mut scene, hangs);
        scene.declares(replicas, &format!("{durability}, redis: {{config: {{maxmemory-policy: allkeys-lru, activedefrag: yes}}}}"));
        let roles = |scene: &Scene| {
            let urgent = ["promote", "detach", "switchOver"];
            let plan = scene.plan();
            let steps = plan.steps.iter().filter(|step| urgent.contains(&step.action.kind()));
            (steps.cloned().collect::<Vec<_>>(), state(&plan).map(|record| (record.master, record.epoch)))
        };
        let calm = roles(&scene);
        prop_assert!(!calm.0.is_empty(), "{calm:?}");
        for (ordinal, trouble, before) in troubles {
            let (ordinal, at) = (ordinal % (replicas + 1), Timestamp(NOW.0 - before));
            let tries = &mut scene.node(ordinal).tries;
            match trouble {
                0 => tries.begin("configure", at),
                1 => tries.applied(&Applied { refused: vec![refusal("activedefrag", "yes")], ..Applied::default() }, at),
                kind => {
                    let kinds = ["configure", "acknowledge", "kill", "follow", "kick", "configure"];
                    tries.fail(kinds[kind - 2], "it hangs".to_string(), at);
                }
            }
        }
        prop_assert_eq!(roles(&scene), calm);
    }
}

// --- Passwords that have leaked ---------------------------------------------------------------------

fn with_passwords(generation: u64, former_until: Option<Timestamp>) -> Scene {
    let mut scene = Scene::running(2, "");
    let auth = Passwords { generation, former_until, cut_before: None, open: false };
    scene.record().auth = Some(auth);
    let spec = scene.record().spec.clone();
    for ordinal in 0..3 {
        scene.node(ordinal).record.value.owned = Arc::new(owned_settings(&spec, Some(&auth), None));
    }
    scene.store_status();
    scene
}

fn rotates(scene: &mut Scene, keep_ms: u64) {
    scene.asks(RequestKind::Rotate, 7);
    scene.instance.requests.get_mut(&RequestKind::Rotate).unwrap().value.keep_ms = Some(keep_ms);
}

#[test]
fn an_emergency_rotation_is_possible_after_any_rotation_before_and_ends_all_former_passwords() {
    for former_until in [None, Some(BEFORE), Some(NOW), Some(NOW.plus_ms(3_600_000)), Some(NOW.plus_ms(1 << 40))] {
        let mut scene = with_passwords(5, former_until);
        rotates(&mut scene, 0);
        let plan = scene.plan();
        assert!(events(&plan).contains(&"PasswordsRotated"), "{former_until:?}");
        let auth = state(&plan).unwrap().auth.unwrap();
        assert_eq!((auth.generation, auth.generations()), (6, vec![6, 5]), "those before the last end at once");
        assert!(auth.former_until.is_some_and(|until| until <= NOW));
        scene.instance.requests.clear();
        scene.record().auth = Some(auth);
        // Nodes are told step by step; one hangs, and is not waited for.
        scene.is_silent(2, NoAnswer::Timeout, BEFORE);
        for _ in 0..4 {
            let plan = scene.plan();
            for step in &plan.steps {
                let Action::Configure { task_id, settings, .. } = &step.action else { continue };
                let ordinal = (0..3).find(|ordinal| task(*ordinal) == *task_id).unwrap();
                Arc::make_mut(&mut scene.node(ordinal).record.value.owned).extend(settings.iter().cloned());
            }
            if let Some(record) = state(&plan) {
                *scene.record() = record.clone();
            }
        }
        assert_eq!(scene.record().auth.unwrap().generations(), [6]);
        for ordinal in 0..2 {
            let owned = &scene.node(ordinal).record.value.owned;
            assert_eq!(owned.get("users").map(String::as_str), Some("6"));
            assert_eq!(owned.get("clients-cut").map(String::as_str), Some("6"), "who came with a former one is cut");
        }
    }
}

#[test]
fn a_node_that_is_to_end_keeps_no_former_password_valid() {
    let mut scene = with_passwords(6, Some(BEFORE));
    for (ordinal, password) in [(1, "6@orders-0.1"), (2, "5@orders-0.1")] {
        let node = &mut scene.node(ordinal).record.value;
        Arc::make_mut(&mut node.owned).insert("masterauth".to_string(), password.to_string());
        Arc::make_mut(&mut node.owned).insert("users".to_string(), "6,5".to_string());
    }
    assert!(waits_for(&scene.plan(), "the former passwords stay valid, for orders-2"));
    scene.node(2).record.value.stop = Some("it is one too many".to_string());
    assert_eq!(state(&scene.plan()).unwrap().auth.unwrap().generations(), [6]);
}

#[test]
fn nodes_that_were_just_launched_start_and_are_no_sign_that_the_operator_is_cut_off() {
    let mut scene = Scene::running(2, "");
    for ordinal in 1..3 {
        let node = scene.node(ordinal);
        (node.answer, node.record.value.launched_at) = (None, NOW);
        scene.is_silent(ordinal, NoAnswer::Refused, NOW);
    }
    let plan = scene.plan();
    assert!(!waits_for(&plan, "cut off") && !waits_for(&plan, "does not answer since"), "{plan:?}");
    assert!(plan.revisit_at.is_some(), "for it may not start at all");
}

#[test]
fn a_rotation_that_would_cut_somebody_off_is_refused_with_the_way_out() {
    let mut scene = with_passwords(5, Some(NOW.plus_ms(1000)));
    rotates(&mut scene, 1);
    let plan = scene.plan();
    let told = |write: &Write| matches!(write, Write::Event(e) if e.reason == "RotationRefused" && e.message.contains("--keep-former 0s"));
    assert!(plan.writes.iter().any(told), "{plan:?}");
    let mut scene = Scene::running(0, "");
    rotates(&mut scene, 0);
    assert!(events(&scene.plan()).contains(&"RotationRefused"), "it has no passwords");
}
