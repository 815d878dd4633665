//! Who becomes the master, when, and when not: plans of single moments. Pure.

use std::sync::Arc;

use crate::scene::{BEFORE, NOW, Scene, address, condition, events, kinds, state, task, waits_for, written};
use redisctl::failover::worst_case_ms;
use redisctl::model::{Deposed, EventKind, NoAnswer, Request, RequestKind, Role, TaskState, Timestamp};
use redisctl::reconcile::action::{Action, Plan, Write};
use redisctl::reconcile::sight::Sight;
use redisctl::reconcile::tries::END_SCRIPT;
use redisctl::reconcile::world::{Stored, SwitchFailed};
use redisctl::status::{ConditionStatus, ConditionType};

/// The master's connection was reset, a new one is refused, and all replicas have been asked since.
fn crashed(replicas: u32, more: &str) -> Scene {
    let mut scene = Scene::running(replicas, more);
    scene.falls_silent(0);
    (scene.node(0).fails, scene.node(0).noticed_at) = (1, Some(NOW));
    for replica in 1..=replicas {
        (scene.answer(replica).link_up, scene.answer(replica).last_io_s) = (false, None);
    }
    scene
}

/// The master takes connections and has not replied for 2 s, and its replicas have not heard it.
fn hung(replicas: u32, more: &str) -> Scene {
    let mut scene = Scene::running(replicas, more);
    let node = scene.node(0);
    (node.silent, node.silent_until) = (Some((NoAnswer::Timeout, Timestamp(NOW.0 - 2000))), NOW);
    (node.fails, node.noticed_at) = (5, Some(Timestamp(NOW.0 - 1500)));
    for replica in 1..=replicas {
        scene.answer(replica).last_io_s = Some(2);
    }
    scene
}

fn detached(scene: &mut Scene, replica: u32, since: Timestamp) {
    let answer = scene.answer(replica);
    (answer.follows, answer.link_up, answer.last_io_s) = (Some(address(replica)), false, None);
    scene.node(replica).detached_since = Some(since);
}

fn promoted(plan: &Plan) -> Option<&str> {
    plan.steps.iter().find_map(|step| match &step.action {
        Action::Promote { task_id, .. } => Some(task_id.as_str()),
        _ => None,
    })
}

fn no_safe_candidate(plan: &Plan) -> String {
    let status = plan.status.as_ref().expect("it exists");
    let said = status.condition(ConditionType::NoSafeCandidate).expect("it is said");
    assert_eq!(said.status, ConditionStatus::True);
    said.message.clone()
}

// --- Detecting ----------------------------------------------------------------------------------

#[test]
fn a_reset_and_a_refusal_are_a_death_that_needs_no_word_of_mesos() {
    let plan = crashed(2, "").plan();
    let record = state(&plan).unwrap();
    assert_eq!((record.epoch, record.master), (2, Some(1)));
    assert_eq!(kinds(&plan), ["promote", "follow"]);
    assert_eq!(promoted(&plan), Some(task(1).as_str()));
    assert!(events(&plan).contains(&"FailedOver"));
    let old = written(&plan, 0).unwrap();
    assert_eq!((old.deposed, old.joined), (Some(Deposed { epoch: 2, offset: Some(1000) }), false));
}

#[test]
fn a_word_of_mesos_is_enough_when_the_replicas_links_are_seen_broken() {
    let mut scene = crashed(2, "");
    scene.is_silent(0, NoAnswer::Timeout, NOW);
    scene.hears(0, TaskState::Failed, "");
    assert_eq!(promoted(&scene.plan()), Some(task(1).as_str()));
    scene.answer(1).link_up = true;
    let plan = scene.plan();
    assert!(promoted(&plan).is_none() && waits_for(&plan, "orders-1 still has a link to it"));
}

#[test]
fn a_master_that_a_replica_still_follows_is_not_dead_because_we_are_refused() {
    let mut scene = crashed(2, "");
    scene.answer(2).link_up = true;
    let plan = scene.plan();
    assert!(promoted(&plan).is_none());
    let status = plan.status.unwrap();
    assert!(condition(&status, ConditionType::MasterAvailable).message.contains("orders-2 still follows it"));
}

#[test]
fn one_failed_probe_promotes_nobody() {
    for (why, fails) in
        [(NoAnswer::Timeout, 1), (NoAnswer::Unreachable, 1), (NoAnswer::Busy, 9), (NoAnswer::Garbled, 9)]
    {
        let mut scene = hung(2, ", durability: none");
        scene.is_silent(0, why, Timestamp(NOW.0 - 60_000));
        scene.node(0).fails = fails;
        assert!(scene.plan().steps.is_empty(), "{why:?}");
    }
}

#[test]
fn an_operator_that_has_just_started_wants_a_second_refusal() {
    let mut scene = crashed(2, "");
    scene.node(0).answer = None;
    assert!(promoted(&scene.plan()).is_none());
    scene.node(0).fails = 2;
    assert!(promoted(&scene.plan()).is_some());
}

#[test]
fn silence_is_waited_for_as_long_as_the_spec_says() {
    let scene = |within: &str, silent_ms: u64| {
        let mut scene = hung(2, &format!(", durability: none, failover: {{detectWithin: {within}}}"));
        scene.is_silent(0, NoAnswer::Timeout, Timestamp(NOW.0 - silent_ms));
        for replica in [1, 2] {
            scene.answer(replica).last_io_s = Some(60);
        }
        scene
    };
    for (within, ms) in [("100ms", 100), ("1s", 1000), ("60s", 60_000)] {
        let early = scene(within, ms - 1).plan();
        assert!(promoted(&early).is_none());
        assert_eq!(early.revisit_at, Some(NOW.plus_ms(1)), "looked at again when it is time");
        assert!(promoted(&scene(within, ms).plan()).is_some(), "{within}");
    }
}

#[test]
fn the_time_that_the_operator_takes_is_not_counted_as_silence() {
    let mut scene = hung(2, ", durability: none");
    assert!(promoted(&scene.plan()).is_some());
    scene.node(0).silent_until = Timestamp(NOW.0 - 1001); // Silent for 999 ms, and news is on its way.
    let plan = scene.plan();
    assert!(promoted(&plan).is_none(), "{:?}", plan.view());
    assert!(plan.revisit_at.is_some());
}

#[test]
fn a_silent_master_that_a_replica_has_heard_meanwhile_lives() {
    let mut scene = hung(2, ", durability: none");
    scene.answer(2).last_io_s = Some(0);
    let plan = scene.plan();
    assert!(plan.steps.is_empty());
    assert!(condition(&plan.status.unwrap(), ConditionType::MasterAvailable).message.contains("orders-2 hears it"));
}

#[test]
fn a_master_to_which_only_we_have_no_way_is_left_to_its_replicas() {
    let mut scene = hung(2, ", durability: none");
    scene.is_silent(0, NoAnswer::Unreachable, Timestamp(NOW.0 - 2000));
    assert!(scene.plan().steps.is_empty(), "they heard it 2 s ago: it may be idle");
    for replica in [1, 2] {
        scene.answer(replica).last_io_s = Some(3);
    }
    assert!(promoted(&scene.plan()).is_some());
    for (replica, still_ms) in [(1, 1500), (2, 1499)] {
        scene.answer(replica).last_io_s = Some(2);
        scene.node(replica).still_since = Some(Timestamp(NOW.0 - still_ms));
    }
    assert!(scene.plan().steps.is_empty(), "a ping each second moves the offset: orders-2 may have had one");
    scene.node(2).still_since = Some(Timestamp(NOW.0 - 1500));
    assert!(promoted(&scene.plan()).is_some());
    (scene.answer(1).link_up, scene.answer(2).link_up) = (false, false);
    assert!(promoted(&scene.plan()).is_some());
}

#[test]
fn an_operator_that_sees_hardly_anybody_is_itself_cut_off_and_says_so() {
    let mut scene = hung(2, ", durability: none");
    scene.cut_off = Some(Sight { agents: 30, lost: 16 });
    let plan = scene.plan();
    assert!(plan.steps.is_empty() && waits_for(&plan, "reaches no node on 16 of 30 agents"), "{:?}", plan.waiting);
    // What Mesos knows does not depend on our eyes.
    scene.hears(0, TaskState::Failed, "");
    scene.answer(1).link_up = false;
    scene.answer(2).link_up = false;
    assert!(promoted(&scene.plan()).is_some());
}

// --- Deciding -----------------------------------------------------------------------------------

#[test]
fn the_replica_with_the_greatest_offset_is_chosen() {
    let mut scene = crashed(3, "");
    (scene.answer(2).offset, scene.answer(3).offset) = (1300, 1200);
    let plan = scene.plan();
    assert_eq!(promoted(&plan), Some(task(2).as_str()));
    assert_eq!(kinds(&plan), ["promote", "follow", "follow"]);
}

#[test]
fn among_equals_one_that_is_not_beside_the_lost_master_is_chosen() {
    let mut scene = crashed(2, "");
    let record = &mut scene.node(1).record.value;
    (record.agent_id, record.address.port) = ("a0".to_string(), 31_001);
    assert_eq!(promoted(&scene.plan()), Some(task(2).as_str()));
}

#[test]
fn who_has_no_whole_data_set_is_not_chosen_and_does_not_count_as_seen() {
    for spoil in [
        |scene: &mut Scene| scene.answer(2).loading = true,
        |scene: &mut Scene| scene.answer(2).syncing = true,
        |scene: &mut Scene| scene.falls_silent(2),
    ] {
        let mut scene = crashed(2, "");
        spoil(&mut scene);
        let plan = scene.plan();
        assert!(promoted(&plan).is_none(), "{:?}", plan.view());
        assert!(waits_for(&plan, "1 of 2 replicas are in sight, and 2 must be"), "{:?}", plan.waiting);
        let mut scene = crashed(2, ", durability: none");
        spoil(&mut scene);
        assert_eq!(promoted(&scene.plan()), Some(task(1).as_str()), "with none nobody is waited for");
    }
}

#[test]
fn data_of_another_history_is_never_promoted() {
    let mut scene = crashed(2, "");
    (scene.answer(2).replid, scene.answer(2).offset) = ("other".to_string(), 9000);
    let plan = scene.plan();
    assert!(promoted(&plan).is_none());
    assert!(no_safe_candidate(&plan).contains("orders-2 has data of another history"));
}

#[test]
fn a_history_that_all_replicas_have_from_the_master_is_its_own_though_it_was_not_seen_yet() {
    let mut scene = crashed(2, "");
    scene.record().confirmations = 0; // They have not been seen to have all yet.
    for replica in [1, 2] {
        scene.answer(replica).replid = "born with the first replica".to_string();
    }
    assert!(promoted(&scene.plan()).is_some());
    scene.answer(2).follows = Some(address(9));
    assert!(promoted(&scene.plan()).is_none(), "from somebody else");
}

#[test]
fn once_replicas_had_all_a_history_that_nobody_knows_is_a_strangers() {
    let mut scene = crashed(2, "");
    scene.record().replid = Some("r".to_string());
    // What the master had is not known: the operator has just started.
    (scene.node(0).answer, scene.node(0).fails) = (None, 2);
    for replica in [1, 2] {
        scene.answer(replica).replid = "x".to_string();
    }
    scene.record().confirmations = 1;
    assert!(promoted(&scene.plan()).is_none());
    assert!(no_safe_candidate(&scene.plan()).contains("data of another history"));
    scene.record().confirmations = 0;
    assert!(promoted(&scene.plan()).is_some(), "it may be the name that it took with its first replica");
}

#[test]
fn a_history_that_goes_on_from_the_recorded_one_is_newer() {
    let mut scene = crashed(2, "");
    let answer = scene.answer(2);
    (answer.replid, answer.replid2) = ("next".to_string(), "r".to_string());
    assert_eq!(promoted(&scene.plan()), Some(task(2).as_str()));
}

/// A replica takes the new master's history when the link comes up, and what it lacks of it afterwards.
#[test]
fn who_has_the_newer_history_is_promoted_only_when_it_has_what_others_have_of_the_older() {
    let mut scene = crashed(2, "");
    scene.record().replid = Some("next".to_string());
    let answer = scene.answer(1);
    (answer.replid, answer.replid2, answer.offset) = ("next".to_string(), "r".to_string(), 1300);
    scene.answer(2).offset = 1300;
    assert_eq!(promoted(&scene.plan()), Some(task(1).as_str()));
    scene.answer(1).offset = 1200;
    let plan = scene.plan();
    assert!(promoted(&plan).is_none());
    assert!(no_safe_candidate(&plan).contains("orders-2 has data of another history"));
}

#[test]
fn a_node_that_has_not_joined_is_not_chosen_and_not_waited_for() {
    let mut scene = crashed(2, ", durability: one");
    scene.node(2).record.value.joined = false;
    scene.answer(2).offset = 5000;
    assert_eq!(promoted(&scene.plan()), Some(task(1).as_str()));
}

#[test]
fn a_replica_that_died_with_the_master_may_have_confirmed_what_the_other_lacks() {
    let mut scene = crashed(2, "");
    scene.dies(2);
    let plan = scene.plan();
    assert!(promoted(&plan).is_none());
    let said = no_safe_candidate(&plan);
    assert!(
        said.contains("1 of 2 replicas are in sight, and 2 must be") && said.contains("orders-2 is dead"),
        "{said}"
    );
    assert!(said.contains("redisctl failover orders --force --to NODE"), "{said}");
}

#[test]
fn a_majority_needs_fewer_in_sight() {
    let mut scene = crashed(4, ", durability: majority");
    scene.falls_silent(4);
    assert_eq!(promoted(&scene.plan()), Some(task(1).as_str()), "3 of 4, with k = 2");
    scene.falls_silent(3);
    assert!(promoted(&scene.plan()).is_none(), "2 of 4");
}

#[test]
fn the_user_may_force_what_is_not_safe() {
    let mut scene = crashed(2, "");
    scene.dies(2);
    let request = Request { at: NOW, to: Some("orders-1".to_string()), force: true, ..Request::default() };
    scene.instance.requests.insert(RequestKind::Failover, Stored { value: request, revision: 30 });
    let plan = scene.plan();
    assert_eq!(promoted(&plan), Some(task(1).as_str()));
    assert!(plan.writes.contains(&Write::RequestDone(RequestKind::Failover)));
}

#[test]
fn what_was_promised_when_the_master_was_lost_counts_whatever_a_document_says_then() {
    for (replicas, more) in [(1, ""), (2, ", durability: none"), (0, "")] {
        let mut scene = crashed(2, "");
        scene.dies(2);
        assert!(promoted(&scene.plan()).is_none());
        scene.declares(replicas, more);
        let plan = scene.plan();
        assert!(promoted(&plan).is_none(), "{replicas} {more:?}");
        assert!(waits_for(&plan, "the 1 that were promised when the master was lost count until there is another"));
        assert_eq!(state(&plan).map_or(1, |record| record.confirmations), 1);
    }
    let mut scene = Scene::running(2, "");
    scene.declares(2, ", durability: none");
    assert_eq!(state(&scene.plan()).unwrap().confirmations, 0, "with a master it is as declared, at once");
}

#[test]
fn a_script_that_keeps_a_replica_from_saying_what_it_has_is_ended_when_the_master_is_lost() {
    let mut scene = Scene::running(2, "");
    scene.is_silent(2, NoAnswer::Busy, Timestamp(NOW.0 - 6000));
    assert!(kinds(&scene.plan()).is_empty(), "as long as nothing hangs on it, it is the client's");
    let mut scene = crashed(2, "");
    scene.is_silent(2, NoAnswer::Busy, BEFORE);
    assert_eq!(kinds(&scene.plan()), ["endScript"]);
    scene.node(2).tries.did(END_SCRIPT, NOW);
    let plan = scene.plan();
    assert!(kinds(&plan).is_empty());
    scene.now = plan.revisit_at.expect("again in a moment");
    assert_eq!(kinds(&scene.plan()), ["endScript"], "or the next one");
}

#[test]
fn who_has_data_and_does_not_follow_an_empty_master_is_made_the_master_when_somebody_forces_it() {
    let mut scene = Scene::running(2, ", durability: none");
    (scene.answer(0).keys, scene.answer(0).offset) = (0, 1);
    (scene.answer(2).follows, scene.answer(2).link_up) = (Some(address(2)), false);
    let plan = scene.plan();
    assert!(waits_for(&plan, "`redisctl failover orders --force --to orders-2` makes orders-2 the master"), "{plan:?}");
    asks_for(&mut scene, Some("orders-2"));
    assert!(
        promoted(&scene.plan()).is_none() && events(&scene.plan()).contains(&"SwitchoverRefused"),
        "not without force"
    );
    let request = Request { at: NOW, to: Some("orders-2".to_string()), force: true, ..Request::default() };
    scene.instance.requests.insert(RequestKind::Failover, Stored { value: request, revision: 30 });
    let plan = scene.plan();
    assert_eq!(kinds(&plan)[..2], ["detach", "promote"], "no two masters: {:?}", plan.view());
    assert_eq!(promoted(&plan), Some(task(2).as_str()));
}

#[test]
fn a_single_master_that_hangs_is_told_with_what_can_be_done() {
    let mut scene = hung(0, "");
    let plan = scene.plan();
    assert!(waits_for(&plan, "it has no replica that could. Let it go on, or end its process on"), "{:?}", plan.view());
    let told = condition(plan.status.as_ref().unwrap(), ConditionType::NoSafeCandidate).message.clone();
    assert!(!told.contains("--force") && !told.contains("Seen"), "{told}");
    scene.now = NOW;
}

// --- A death that is not proved -----------------------------------------------------------------

#[test]
fn replicas_are_taken_from_a_master_that_may_still_live_before_anybody_is_promoted() {
    let mut scene = hung(2, "");
    let plan = scene.plan();
    assert_eq!(kinds(&plan), ["detach", "detach"]);
    assert!(state(&plan).is_none(), "no epoch yet: it may come back");
    detached(&mut scene, 1, NOW);
    detached(&mut scene, 2, NOW);
    let plan = scene.plan();
    assert!(plan.steps.is_empty());
    let fenced_at = NOW.plus_ms(1000 + 2250);
    assert_eq!(plan.revisit_at, Some(fenced_at), "max-lag, and how Redis counts it");
    scene.now = fenced_at;
    assert!(promoted(&scene.plan()).is_some());
}

#[test]
fn replicas_that_were_taken_from_a_master_that_comes_back_follow_it_again() {
    let mut scene = Scene::running(2, "");
    detached(&mut scene, 1, NOW);
    detached(&mut scene, 2, NOW);
    let plan = scene.plan();
    assert_eq!(kinds(&plan), ["follow", "follow"]);
    assert!(state(&plan).is_none());
}

#[test]
fn without_durability_a_hung_master_is_replaced_at_its_bound() {
    let plan = hung(1, "").plan();
    assert_eq!(kinds(&plan), ["promote"]);
}

#[test]
fn the_worst_case_that_follows_from_the_spec_is_said() {
    let status = Scene::running(2, ", failover: {detectWithin: 500ms, maxLag: 2s}").status();
    let failover = status.failover.unwrap();
    assert_eq!((failover.confirmations, failover.worst_case.0), (1, 2250 + 2000 + 2250));
    assert_eq!(failover.window.map(|window| window.0), Some(2000 + 2000));
    let spec = crate::scene::document(1, "").spec;
    assert_eq!(worst_case_ms(&spec), 2250, "nobody is fenced for a promise that was not made");
}

#[test]
fn what_no_replica_has_is_said_as_it_was_last_seen() {
    let mut scene = Scene::running(2, "");
    scene.answer(0).offset = 1700;
    (scene.answer(1).offset, scene.answer(2).offset) = (1500, 1200);
    let unreplicated = |scene: &Scene| scene.status().failover.unwrap().unreplicated;
    assert_eq!(unreplicated(&scene), Some(200));
    (scene.answer(1).link_up, scene.answer(2).link_up) = (false, false);
    assert_eq!(unreplicated(&scene), None);
}

#[test]
fn one_that_has_more_is_waited_for_while_it_still_has_a_link_to_the_dead_master() {
    let mut scene = crashed(2, ", durability: none");
    scene.hears(0, TaskState::Failed, "");
    (scene.answer(1).offset, scene.answer(2).offset) = (1000, 1001);
    scene.answer(2).link_up = true;
    let plan = scene.plan();
    assert!(promoted(&plan).is_none() && waits_for(&plan, "orders-2 has more"), "{:?}", plan.waiting);
    assert!(plan.revisit_at.is_some());
    // Its kernel may not tell it for a minute: after a second it is made to let go.
    scene.now = NOW.plus_ms(1000);
    assert_eq!(kinds(&scene.plan()), ["detach"]);
    scene.answer(2).link_up = false;
    assert_eq!(promoted(&scene.plan()), Some(task(2).as_str()));
}

#[test]
fn an_empty_node_does_not_take_the_place_of_one_with_data_that_may_live() {
    let mut scene = hung(1, ", durability: none");
    let answer = scene.answer(1);
    (answer.keys, answer.offset) = (0, 1);
    let plan = scene.plan();
    assert!(promoted(&plan).is_none());
    assert!(no_safe_candidate(&plan).starts_with("orders-1 is empty, and orders-0 has data"));
}

// --- Doing --------------------------------------------------------------------------------------

/// A failover to node 1 was recorded.
fn recorded() -> Scene {
    let mut scene = crashed(2, "");
    (scene.record().epoch, scene.record().master) = (2, Some(1));
    scene.node(0).record.value.deposed = Some(Deposed { epoch: 2, offset: Some(1000) });
    scene.node(0).record.value.joined = false;
    scene
}

#[test]
fn the_next_operator_ends_what_was_recorded() {
    let plan = recorded().plan();
    assert_eq!(kinds(&plan), ["promote", "follow"]);
    assert_eq!(promoted(&plan), Some(task(1).as_str()));
    assert!(state(&plan).is_none(), "within the same epoch");
}

#[test]
fn an_operator_that_has_just_started_asks_the_former_master_before_it_ends_what_was_recorded() {
    // The one before it recorded a switchover, and did not come to it: node 0 takes writes.
    let mut scene = Scene::running(2, "");
    (scene.record().epoch, scene.record().master) = (2, Some(1));
    let former = scene.node(0);
    former.record.value.deposed = Some(Deposed { epoch: 2, offset: None });
    let answer = former.answer.take();
    let plan = scene.plan();
    assert_eq!((promoted(&plan), kinds(&plan).len()), (None, 0), "{:?}", plan.view());
    assert!(
        waits_for(&plan, "orders-0, which may be it still or already, has not been asked yet"),
        "{:?}",
        plan.waiting
    );
    assert!(state(&plan).is_none());
    scene.node(0).answer = answer;
    assert_eq!(kinds(&scene.plan()), ["switchOver", "follow"]);
}

#[test]
fn a_dead_node_is_told_nothing() {
    let mut scene = returned();
    scene.hears(2, TaskState::Failed, "");
    scene.answer(2).follows = Some(address(0));
    let plan = scene.plan();
    let told = plan.steps.iter().find(|step| step.to_string().contains(&task(2)));
    assert!(told.is_none(), "{told:?}");
}

#[test]
fn when_the_recorded_one_lacks_something_another_takes_its_place() {
    let mut scene = recorded();
    scene.answer(2).offset = 1001;
    let plan = scene.plan();
    assert_eq!(promoted(&plan), Some(task(2).as_str()));
    assert_eq!(state(&plan).unwrap().epoch, 3);
}

#[test]
fn an_old_master_that_comes_back_before_another_was_promoted_stays_it() {
    let mut scene = recorded();
    let node = scene.node(0);
    (node.silent, node.noticed_at) = (None, None);
    let plan = scene.plan();
    let record = state(&plan).unwrap();
    assert_eq!((record.epoch, record.master), (3, Some(0)));
    assert!(promoted(&plan).is_none());
}

/// Node 1 has taken node 0's place, and node 0 is back and thinks that it is the master.
fn returned() -> Scene {
    let mut scene = recorded();
    let node = scene.node(0);
    (node.silent, node.noticed_at) = (None, None);
    let answer = scene.answer(1);
    (answer.role, answer.follows, answer.link_up) = (Role::Master, None, true);
    (answer.replid, answer.replid2) = ("next".to_string(), "r".to_string());
    (scene.answer(2).follows, scene.answer(2).link_up) = (Some(address(1)), true);
    (scene.answer(2).replid, scene.answer(2).replid2) = ("next".to_string(), "r".to_string());
    scene.record().replid = Some("next".to_string());
    scene.answer(0).offset = 1700;
    scene
}

#[test]
fn an_old_master_that_returns_is_fenced_before_anything_else() {
    let plan = returned().plan();
    let [step] = &plan.steps[..] else { panic!("{:?}", plan.view()) };
    assert!(matches!(&step.action, Action::Detach { task_id, cut_clients: true, .. } if *task_id == task(0)), "{step}");
}

#[test]
fn an_old_master_that_does_not_let_itself_be_fenced_is_told_in_an_event_once() {
    let mut scene = returned();
    let told = |plan: &Plan| events(plan).iter().filter(|reason| **reason == "FenceFailed").count();
    assert_eq!(told(&scene.plan()), 0, "it has not failed yet");
    scene.node(0).tries.fail("detach", "it says no".to_string(), NOW);
    let plan = scene.plan();
    assert_eq!(told(&plan), 1);
    assert!(waits_for(&plan, "it says no"));
    scene.store_status();
    for later in [1, 100, 300] {
        let now = NOW.plus_ms(later);
        scene.now = now;
        scene.node(0).tries.fail("detach", "it says something else".to_string(), now);
        assert_eq!(told(&scene.plan()), 0, "it was said");
        scene.store_status();
    }
}

#[test]
fn what_an_old_master_took_alone_is_reported_before_it_is_discarded() {
    let mut scene = returned();
    scene.answer(0).role = Role::Replica;
    detached(&mut scene, 0, NOW);
    scene.node(0).pointed_at = Some(NOW); // A moment ago: it does not wait.
    let plan = scene.plan();
    assert_eq!(kinds(&plan), ["follow"]);
    let told = plan.writes.iter().find_map(|write| match write {
        Write::Event(event) if event.reason == "WritesDiscarded" => Some(event),
        _ => None,
    });
    let told = told.expect("it is said");
    assert_eq!((told.kind, told.object.as_str()), (EventKind::Warning, "orders-0"));
    assert!(
        told.message.contains("700 bytes") && told.message.contains("from offset 1000 to 1700"),
        "{}",
        told.message
    );
    let node = written(&plan, 0).unwrap();
    assert!(node.joined && node.deposed.is_none(), "it may confirm writes from now on");
}

#[test]
fn a_promotion_that_is_seen_done_is_said_and_its_history_kept() {
    let mut scene = returned();
    scene.record().replid = Some("r".to_string());
    let plan = scene.plan();
    assert!(events(&plan).contains(&"MasterReady"));
    assert_eq!(state(&plan).unwrap().replid.as_deref(), Some("next"));
}

// --- A switchover -------------------------------------------------------------------------------

fn asks_for(scene: &mut Scene, to: Option<&str>) {
    let request = Request { at: NOW, to: to.map(str::to_string), ..Request::default() };
    scene.instance.requests.insert(RequestKind::Failover, Stored { value: request, revision: 30 });
}

#[test]
fn a_switchover_records_the_new_master_then_hands_over() {
    let mut scene = Scene::running(2, "");
    asks_for(&mut scene, Some("orders-2"));
    let plan = scene.plan();
    assert_eq!(kinds(&plan), ["switchOver", "follow"]);
    let record = state(&plan).unwrap();
    assert_eq!((record.epoch, record.master), (2, Some(2)));
    assert!(plan.writes.contains(&Write::RequestDone(RequestKind::Failover)));
    let old = written(&plan, 0).unwrap();
    assert_eq!((old.deposed, old.joined), (Some(Deposed { epoch: 2, offset: None }), true));
}

#[test]
fn a_failover_of_what_has_had_no_master_is_refused_at_once() {
    let mut scene = Scene::running(2, "");
    scene.instance.nodes.clear();
    scene.offers.clear();
    (scene.record().initialized, scene.record().master) = (false, None);
    asks_for(&mut scene, None);
    let plan = scene.plan();
    assert!(events(&plan).contains(&"SwitchoverRefused"), "{:?}", plan.view());
    let status = plan.status.unwrap();
    for kind in [ConditionType::UpToDate, ConditionType::ConfigApplied] {
        let told = condition(&status, kind);
        assert_eq!((told.status, told.reason.as_str()), (ConditionStatus::Unknown, "NoNode"), "there is none yet");
    }
}

#[test]
fn a_switchover_to_whom_it_cannot_be_is_refused_with_the_reason() {
    for (to, why) in [
        (Some("orders-0"), "orders-0 is the master already"),
        (Some("orders-7"), "orders has no living node orders-7"),
        (Some("orders-1"), "orders-1 is not in sync with the master"),
    ] {
        let mut scene = Scene::running(2, "");
        scene.answer(1).link_up = false;
        asks_for(&mut scene, to);
        let plan = scene.plan();
        assert!(state(&plan).is_none() && plan.writes.contains(&Write::RequestDone(RequestKind::Failover)));
        let said = plan.writes.iter().any(
            |write| matches!(write, Write::Event(event) if event.reason == "SwitchoverRefused" && event.message == why),
        );
        assert!(said, "{:?}", plan.view());
    }
}

#[test]
fn a_switchover_that_was_backed_out_leaves_the_old_master_in_a_new_epoch() {
    let mut scene = Scene::running(2, "");
    (scene.record().epoch, scene.record().master) = (2, Some(2));
    scene.node(0).record.value.deposed = Some(Deposed { epoch: 2, offset: None });
    let plan = scene.plan();
    assert_eq!(kinds(&plan)[..1], ["switchOver"], "tried again by whoever takes over");
    scene.node(2).switch_failed = Some(SwitchFailed { epoch: 1, why: "of another time".to_string(), at: BEFORE });
    assert_eq!(kinds(&scene.plan())[..1], ["switchOver"]);
    scene.node(2).switch_failed = Some(SwitchFailed { epoch: 2, why: "it did not catch up".to_string(), at: BEFORE });
    let plan = scene.plan();
    let record = state(&plan).unwrap();
    assert_eq!((record.epoch, record.master), (3, Some(0)));
    assert!(events(&plan).contains(&"SwitchoverFailed"));
    assert!(written(&plan, 0).unwrap().deposed.is_none());
}

// --- The promise --------------------------------------------------------------------------------

#[test]
fn min_replicas_is_raised_only_when_the_replicas_have_all() {
    let lowered = |lag: u64| {
        let mut scene = Scene::running(2, "");
        scene.record().confirmations = 0;
        for ordinal in 0..=2 {
            Arc::make_mut(&mut scene.node(ordinal).record.value.owned)
                .insert("min-replicas-to-write".to_string(), "0".to_string());
        }
        scene.answer(1).offset -= lag;
        scene.answer(2).offset -= lag;
        scene
    };
    let configured = |plan: &Plan| {
        let sets = |step: &&redisctl::reconcile::action::Step| matches!(&step.action, Action::Configure { task_id, .. } if *task_id == task(0));
        plan.steps.iter().filter(sets).count()
    };
    assert_eq!(configured(&lowered(1).plan()), 0, "it would refuse writes");
    let mut scene = lowered(0);
    let plan = scene.plan();
    assert_eq!(configured(&plan), 1);
    assert!(state(&plan).is_none_or(|record| record.confirmations == 0), "not before the master keeps to it");
    Arc::make_mut(&mut scene.node(0).record.value.owned).insert("min-replicas-to-write".to_string(), "1".to_string());
    assert_eq!(state(&scene.plan()).unwrap().confirmations, 1);
}

#[test]
fn a_replica_that_is_added_joins_only_after_that_is_recorded() {
    let mut scene = Scene::running(1, "");
    scene.declares(2, "");
    let plan = scene.plan();
    let node = written(&plan, 2).unwrap();
    assert!(!node.joined);
    let line = plan.launches().next().unwrap().argv.join(" ");
    let own = format!("--replicaof {} {}", node.address.host, node.address.port);
    assert!(line.ends_with(&own), "it boots following itself: {line}");

    let mut scene = Scene::running(2, "");
    scene.node(2).record.value.joined = false;
    detached(&mut scene, 2, NOW);
    let plan = scene.plan();
    assert!(written(&plan, 2).unwrap().joined);
    assert_eq!(kinds(&plan), ["follow"]);
}

#[test]
fn a_hung_replica_is_replaced_when_its_time_is_over_and_then_stopped() {
    let mut scene = Scene::running(2, ", replaceUnreachableAfter: 30s");
    scene.is_silent(2, NoAnswer::Timeout, Timestamp(NOW.0 - 30_000));
    assert_eq!(scene.plan().launches().count(), 1);
    scene.cut_off = Some(Sight { agents: 3, lost: 2 });
    assert_eq!(scene.plan().launches().count(), 0, "it may be our own eyes");
}

#[test]
fn nobody_takes_the_place_of_a_master_whose_record_the_store_has_lost() {
    let mut scene = Scene::running(2, "");
    scene.instance.nodes.remove(&0);
    assert!(promoted(&scene.plan()).is_none());
}

#[test]
fn a_replica_that_was_left_behind_by_the_last_promotion_hinders_nobody() {
    let mut scene = crashed(2, "");
    scene.record().replid = Some("next".to_string());
    (scene.answer(2).replid, scene.answer(2).replid2) = ("next".to_string(), "r".to_string());
    scene.answer(1).offset = 900;
    assert_eq!(promoted(&scene.plan()), Some(task(2).as_str()));
}

#[test]
fn what_a_lost_master_may_have_had_alone_is_not_given_up() {
    let mut scene = crashed(2, "");
    scene.record().unsettled = true;
    let plan = scene.plan();
    assert!(promoted(&plan).is_none());
    assert!(no_safe_candidate(&plan).contains("orders-0 was lost before others had all that it alone had"));
}

#[test]
fn a_new_master_is_unsettled_until_replicas_have_all_that_it_has() {
    let mut scene = crashed(2, "");
    scene.answer(2).offset = 1300;
    assert!(state(&scene.plan()).unwrap().unsettled, "orders-1 lags");
    scene.answer(1).offset = 1300;
    assert!(!state(&scene.plan()).unwrap().unsettled);
    let mut scene = Scene::running(2, "");
    scene.record().unsettled = true;
    assert!(!state(&scene.plan()).unwrap().unsettled);
}

/// A switchover to node 1 was recorded, and nothing of it is seen done.
fn handing_over() -> Scene {
    let mut scene = Scene::running(2, "");
    (scene.record().epoch, scene.record().master) = (2, Some(1));
    scene.node(0).record.value.deposed = Some(Deposed { epoch: 2, offset: None });
    scene
}

#[test]
fn what_a_former_master_said_before_it_handed_its_role_over_is_no_news() {
    let mut scene = handing_over();
    let answer = scene.answer(1);
    (answer.role, answer.follows, answer.replid2) = (Role::Master, None, "r".to_string());
    answer.replid = "r2".to_string();
    scene.node(1).answer.as_mut().unwrap().1 = NOW;
    scene.node(0).answer.as_mut().unwrap().1 = Timestamp(NOW.0 - 40);
    let plan = scene.plan();
    assert!(!kinds(&plan).contains(&"detach") && plan.revisit_at.is_some(), "{:?}", plan.view());
    assert_eq!(written(&plan, 0).map(|node| node.deposed), None, "and nothing is taken for discarded");
    // It says so still.
    scene.node(0).answer.as_mut().unwrap().1 = NOW;
    let plan = scene.plan();
    assert!(kinds(&plan).contains(&"detach"), "{:?}", plan.view());
}

#[test]
fn a_former_master_that_may_not_have_stepped_back_is_judged_like_any_that_is_silent() {
    let mut scene = handing_over();
    let node = scene.node(0);
    (node.silent, node.fails) = (Some((NoAnswer::Timeout, NOW)), 1);
    let plan = scene.plan();
    let record = state(&plan).unwrap();
    assert_eq!((record.epoch, record.master), (3, Some(0)));
    assert!(plan.steps.is_empty(), "nobody is promoted on one failed probe: {:?}", plan.view());
}

#[test]
fn when_the_new_master_is_lost_before_the_role_was_handed_over_the_old_one_keeps_it() {
    let mut scene = handing_over();
    scene.dies(1);
    let record = state(&scene.plan()).unwrap().clone();
    assert_eq!((record.epoch, record.master), (3, Some(0)));
}

#[test]
fn when_nobody_has_followed_the_last_master_the_history_before_it_counts() {
    let mut scene = crashed(2, "");
    scene.record().replid = Some("next".to_string());
    assert!(promoted(&scene.plan()).is_none(), "nobody knows where they have theirs from");
    scene.record().replid_before = Some("r".to_string());
    assert!(promoted(&scene.plan()).is_some());
}

/// The store has gone back behind a promotion of node 1, which all others follow.
fn gone_back() -> Scene {
    let mut scene = Scene::running(2, "");
    for ordinal in 0..3 {
        let answer = scene.answer(ordinal);
        (answer.replid, answer.replid2, answer.offset) = ("r2".to_string(), "r".to_string(), 2000);
        (answer.role, answer.follows) = (Role::Replica, Some(address(1)));
    }
    let answer = scene.answer(1);
    (answer.role, answer.follows) = (Role::Master, None);
    scene
}

/// It is recorded, and nobody's role is changed.
fn is_adopted(scene: &Scene) -> bool {
    let plan = scene.plan();
    let adopted = events(&plan).contains(&"MasterAdopted");
    if adopted {
        let record = state(&plan).unwrap();
        assert_eq!((record.master, record.epoch), (Some(1), 2));
        assert!(!kinds(&plan).contains(&"promote") && !kinds(&plan).contains(&"detach"), "{plan:?}");
    }
    adopted
}

#[test]
fn a_master_that_the_store_has_forgotten_is_recorded_whoever_was_asked_first() {
    assert!(is_adopted(&gone_back()));
    // Whoever is asked later has more.
    for (ordinal, offset) in [(0, 3000), (1, 10), (2, 3000)] {
        let mut scene = gone_back();
        scene.answer(ordinal).offset = offset;
        assert!(is_adopted(&scene), "{ordinal}");
    }
    // The recorded one has not yet the newer history.
    let mut scene = gone_back();
    let answer = scene.answer(0);
    (answer.replid, answer.replid2, answer.link_up) = ("r".to_string(), "q".to_string(), false);
    assert!(is_adopted(&scene));
    // It has another: nobody is promoted beside it for that.
    let mut scene = gone_back();
    scene.answer(1).replid = "other".to_string();
    scene.answer(1).replid2 = "another".to_string();
    assert!(!is_adopted(&scene));
}

#[test]
fn a_master_that_the_store_has_forgotten_is_recorded_when_the_recorded_one_has_stepped_back_for_it_or_is_dead() {
    // A switchover fenced it.
    let mut scene = gone_back();
    let answer = scene.answer(0);
    (answer.replid, answer.replid2, answer.follows, answer.link_up) =
        ("r".to_string(), "q".to_string(), Some(address(0)), false);
    (answer.offset, scene.answer(1).offset) = (1500, 2000);
    assert!(is_adopted(&scene));
    let mut less = scene;
    less.answer(1).offset = 1400;
    assert!(!is_adopted(&less), "it lacks what the recorded one has");
    let mut scene = gone_back();
    scene.dies(0);
    assert!(is_adopted(&scene));
    scene.answer(2).follows = Some(address(0));
    assert!(!is_adopted(&scene), "not all follow it");
}

#[test]
fn nobody_is_promoted_beside_a_node_that_may_be_a_master_and_has_not_been_asked() {
    let mut scene = gone_back();
    scene.node(1).answer = None;
    let plan = scene.plan();
    assert!(kinds(&plan).is_empty() && waits_for(&plan, "has not been asked yet"), "{plan:?}");
    // It does not answer: it is recorded as whom the others follow, and judged like any master that is silent.
    scene.is_silent(1, NoAnswer::Timeout, NOW);
    assert!(is_adopted(&scene));
    assert!(kinds(&scene.plan()).is_empty());
    // A change was recorded in this epoch: it is ended, whomever somebody follows who has not heard of it.
    scene.node(2).record.value.deposed = Some(Deposed { epoch: 1, offset: Some(1000) });
    assert!(!is_adopted(&scene));
}
