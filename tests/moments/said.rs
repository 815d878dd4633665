//! What is said of an instance, and that nothing is stuck without a word: plans of single moments. Pure.

use crate::scene::{BEFORE, NOW, Scene, address, events, killed, kinds, launched, state, task, waits_for, written};
use proptest::prelude::*;
use redisctl::failover::LOOKED_FOR_MS;
use redisctl::model::{Hung, NoAnswer, Request, RequestKind, Role, TaskRecord, TaskState, Timestamp};
use redisctl::reconcile::action::{Action, Plan, Write};
use redisctl::reconcile::world::Stored;
use redisctl::status::{ConditionStatus, ConditionType, NodeState, Phase};

fn promoted(plan: &Plan) -> Option<&str> {
    plan.steps.iter().find_map(|step| match &step.action {
        Action::Promote { task_id, .. } => Some(task_id.as_str()),
        _ => None,
    })
}

/// The tasks that are made to follow nobody, and whether their clients are cut.
fn detached(plan: &Plan) -> Vec<(&str, bool)> {
    let detach = |action: &'_ Action| matches!(action, Action::Detach { .. });
    let steps = plan.steps.iter().map(|step| &step.action).filter(|action| detach(action));
    steps
        .filter_map(|action| match action {
            Action::Detach { task_id, cut_clients, .. } => Some((task_id.as_str(), *cut_clients)),
            _ => None,
        })
        .collect()
}

fn message(plan: &Plan, reason: &str) -> String {
    let event = plan.writes.iter().find_map(|write| match write {
        Write::Event(event) if event.reason == reason => Some(event.message.clone()),
        _ => None,
    });
    event.unwrap_or_else(|| panic!("no event {reason}: {:?}", plan.view()))
}

fn follows_itself(scene: &mut Scene, ordinal: u32, since: Timestamp) {
    let answer = scene.answer(ordinal);
    (answer.role, answer.follows, answer.link_up) = (Role::Replica, Some(address(ordinal)), false);
    scene.node(ordinal).detached_since = Some(since);
}

/// What the plan writes is stored; what it does is not done.
fn store(scene: &mut Scene, plan: &Plan) {
    for write in &plan.writes {
        match write {
            Write::State(record) => scene.instance.record = Some(Stored { value: record.clone(), revision: 60 }),
            Write::Node(node) => {
                if let Some(known) = scene.instance.nodes.get_mut(&node.ordinal) {
                    known.record.value = node.clone();
                }
            }
            Write::ForgetNode(ordinal) => drop(scene.instance.nodes.remove(ordinal)),
            _ => {}
        }
    }
    scene.instance.status = plan.status.clone().map(|value| Stored { value, revision: 61 });
}

// --- Nodes that Mesos calls gone ----------------------------------------------------------------

const HEARSAY: [TaskState; 2] = [TaskState::Gone, TaskState::GoneByOperator];

#[test]
fn a_master_that_mesos_calls_gone_and_that_answers_is_fenced_before_another_is_promoted() {
    for (state, durability) in HEARSAY.iter().flat_map(|state| ["none", "one"].map(|d| (*state, d))) {
        let mut scene = Scene::running(2, &format!(", durability: {durability}"));
        scene.hears(0, state, "");
        let plan = scene.plan();
        assert_eq!(detached(&plan), [(task(0).as_str(), true)], "{state} {:?}", plan.view());
        assert_eq!(promoted(&plan), None, "{state}");
        assert!(waits_for(&plan, "it is fenced before another takes its place"), "{:?}", plan.waiting);
        assert!(message(&plan, "GoneNodeFenced").contains("10.0.0.0:31000 as a master (5 keys, offset 1000)"));
        store(&mut scene, &plan);
        // It is fenced, and its replicas have what it had: they are taken from it at once.
        follows_itself(&mut scene, 0, NOW);
        let plan = scene.plan();
        assert_eq!(detached(&plan), [(task(1).as_str(), false), (task(2).as_str(), false)], "{:?}", plan.view());
        for replica in [1, 2] {
            follows_itself(&mut scene, replica, NOW);
        }
        let plan = scene.plan();
        assert_eq!(promoted(&plan), Some(task(1).as_str()), "{:?}", plan.view());
        store(&mut scene, &plan);
        // Its record stays as long as the process may run, and it is told of.
        scene.answer(1).role = Role::Master;
        scene.answer(1).follows = None;
        let plan = scene.plan();
        assert!(!plan.writes.contains(&Write::ForgetNode(0)), "{:?}", plan.view());
        let status = plan.status.unwrap();
        assert_eq!(status.condition(ConditionType::GoneNodeLives).unwrap().status, ConditionStatus::True);
        let old = status.nodes.iter().find(|node| node.name == "orders-0").unwrap();
        assert!(old.state == NodeState::Dead && old.message.contains("end its process on a0.example"), "{old:?}");
    }
}

#[test]
fn a_fence_that_does_not_come_about_is_not_waited_for_long() {
    let mut scene = Scene::running(2, ", durability: none");
    scene.hears(0, TaskState::GoneByOperator, "");
    let plan = scene.plan();
    store(&mut scene, &plan);
    for replica in [1, 2] {
        scene.answer(replica).link_up = false;
    }
    assert_eq!(promoted(&scene.plan()), None);
    scene.now = NOW.plus_ms(3000);
    assert_eq!(promoted(&scene.plan()), Some(task(1).as_str()));
}

#[test]
fn a_master_that_mesos_calls_gone_and_that_does_not_answer_is_replaced_at_once_and_looked_for() {
    for why in [NoAnswer::Timeout, NoAnswer::Unreachable, NoAnswer::Reset, NoAnswer::Garbled] {
        let mut scene = Scene::running(2, ", durability: none");
        scene.hears(0, TaskState::GoneByOperator, "");
        scene.is_silent(0, why, NOW);
        for replica in [1, 2] {
            scene.answer(replica).link_up = false;
        }
        let plan = scene.plan();
        assert_eq!(promoted(&plan), Some(task(1).as_str()), "{why:?}");
        store(&mut scene, &plan);
        scene.answer(1).role = Role::Master;
        (scene.answer(1).follows, scene.answer(1).link_up) = (None, true);
        (scene.answer(2).follows, scene.answer(2).link_up) = (Some(address(1)), true);
        let plan = scene.plan();
        assert!(!plan.writes.contains(&Write::ForgetNode(0)), "{why:?}: {:?}", plan.view());
        let status = plan.status.clone().unwrap();
        let old = status.nodes.iter().find(|node| node.name == "orders-0").unwrap();
        assert!(old.message.contains("looked for until"), "{}", old.message);
        store(&mut scene, &plan);
        // It is back, and thinks that it is the master. It has taken writes that nobody else has.
        let back = scene.node(0);
        (back.silent, back.answer.as_mut().unwrap().0.offset) = (None, 1700);
        let plan = scene.plan();
        assert_eq!(detached(&plan), [(task(0).as_str(), true)], "{why:?}");
        assert!(message(&plan, "GoneNodeFenced").contains("700 bytes"), "{:?}", plan.view());
    }
}

#[test]
fn how_long_a_gone_node_is_looked_for_is_bounded_and_its_end_ends_it() {
    let mut scene = Scene::running(1, "");
    let gone = |at| TaskRecord::Dead { state: TaskState::GoneByOperator, why: "g".to_string(), at, ran: true };
    let node = crate::scene::node(&crate::scene::document(1, "").spec, 2, 0);
    scene.instance.nodes.insert(2, node);
    scene.record().next_ordinal = 3;
    let record = &mut scene.node(2).record.value;
    (record.task, record.joined) = (gone(BEFORE), false);
    scene.is_silent(2, NoAnswer::Unreachable, BEFORE);
    scene.store_status();
    let plan = scene.plan();
    assert!(plan.is_empty(), "{:?}", plan.view());
    assert_eq!(plan.revisit_at, Some(BEFORE.plus_ms(LOOKED_FOR_MS)));
    assert_eq!(plan.status.unwrap().phase, Phase::Ready);
    // Nobody listens there: the process has ended. One refusal may be a firewall's.
    scene.is_silent(2, NoAnswer::Refused, NOW);
    scene.node(2).fails = 1;
    assert!(!scene.plan().writes.contains(&Write::ForgetNode(2)));
    scene.node(2).fails = 2;
    let plan = scene.plan();
    assert!(plan.writes.contains(&Write::ForgetNode(2)) && events(&plan).contains(&"GoneNodeEnded"));
    // Or its time is over.
    scene.is_silent(2, NoAnswer::Unreachable, BEFORE);
    scene.now = BEFORE.plus_ms(LOOKED_FOR_MS);
    let plan = scene.plan();
    assert!(plan.writes.contains(&Write::ForgetNode(2)) && events(&plan).contains(&"GoneNodeNotFound"));
}

#[test]
fn deaths_that_an_agent_has_seen_are_not_looked_for() {
    for state in [TaskState::Failed, TaskState::Finished, TaskState::Killed] {
        let mut scene = Scene::running(2, ", durability: none");
        scene.hears(2, state, "");
        for _ in 0..2 {
            let plan = scene.plan();
            assert!(detached(&plan).is_empty(), "{state}");
            store(&mut scene, &plan);
        }
        assert!(!scene.instance.nodes.contains_key(&2), "{state}");
    }
}

#[test]
fn a_replica_that_mesos_calls_gone_confirms_nothing_more_and_counts_until_others_have_what_it_confirmed() {
    let mut scene = Scene::running(2, "");
    scene.hears(2, TaskState::GoneByOperator, "");
    let plan = scene.plan();
    assert_eq!(detached(&plan), [(task(2).as_str(), true)], "{:?}", plan.view());
    assert!(written(&plan, 2).unwrap().joined);
    store(&mut scene, &plan);
    scene.node(2).pointed_at = Some(NOW);
    let plan = scene.plan();
    assert!(written(&plan, 2).is_none_or(|node| node.joined), "it still may confirm: {:?}", plan.view());
    follows_itself(&mut scene, 2, NOW.plus_ms(10));
    scene.now = NOW.plus_ms(20);
    let plan = scene.plan();
    assert!(written(&plan, 2).is_none_or(|node| node.joined), "nobody was asked since: {:?}", plan.view());
    for ordinal in [0, 1] {
        scene.node(ordinal).answer.as_mut().unwrap().1 = NOW.plus_ms(20);
    }
    let plan = scene.plan();
    assert!(!written(&plan, 2).unwrap().joined);
    assert!(!plan.writes.contains(&Write::ForgetNode(2)));
}

#[test]
fn the_only_node_is_fenced_before_the_instance_starts_again_empty_and_before_it_is_deleted() {
    let mut scene = Scene::running(0, "");
    scene.hears(0, TaskState::GoneByOperator, "");
    let plan = scene.plan();
    assert_eq!(detached(&plan), [(task(0).as_str(), true)], "{:?}", plan.view());
    assert!(!events(&plan).contains(&"DataLost") && launched(&plan).is_empty());
    let mut later = Scene::running(0, "");
    later.hears(0, TaskState::GoneByOperator, "");
    follows_itself(&mut later, 0, NOW);
    assert!(events(&later.plan()).contains(&"DataLost"));

    let mut scene = Scene::running(1, "");
    scene.hears(0, TaskState::GoneByOperator, "");
    scene.hears(1, TaskState::Killed, "");
    scene.asks(RequestKind::Delete, 7);
    let plan = scene.plan();
    assert_eq!(detached(&plan), [(task(0).as_str(), true)], "{:?}", plan.view());
    assert!(waits_for(&plan, "are fenced first"), "{:?}", plan.waiting);
    follows_itself(&mut scene, 0, NOW);
    let forgets = |plan: &Plan| plan.writes.iter().any(|write| matches!(write, Write::Forget { .. }));
    assert!(forgets(&scene.plan()));
    scene.is_silent(0, NoAnswer::Unreachable, NOW);
    assert!(forgets(&scene.plan()), "what cannot be reached does not keep an instance from going");
}

// --- Masters that live, and do not answer -------------------------------------------------------

/// Replies of living processes, whatever is wrong with them.
const LIVING: [NoAnswer; 7] = [
    NoAnswer::Busy,
    NoAnswer::Paused,
    NoAnswer::NoAuth,
    NoAnswer::NoPerm,
    NoAnswer::Full,
    NoAnswer::Commanded,
    NoAnswer::Error,
];

#[test]
fn a_master_that_replies_whatever_it_says_is_not_replaced_and_is_called_what_it_is() {
    let mut told = Vec::new();
    for why in LIVING {
        for last_io_s in [None, Some(0), Some(60)] {
            let mut scene = Scene::running(2, ", durability: none");
            scene.is_silent(0, why, Timestamp(NOW.0 - 600_000));
            scene.node(0).fails = 99;
            for replica in [1, 2] {
                scene.answer(replica).last_io_s = last_io_s;
            }
            let plan = scene.plan();
            assert!(plan.steps.is_empty(), "{why:?}: {:?}", plan.view());
            let status = plan.status.clone().unwrap();
            let message = status.condition(ConditionType::MasterAvailable).unwrap().message.clone();
            assert!(message.contains(&why.to_string()) && message.contains("it lives"), "{message}");
            assert!(!plan.waiting.is_empty(), "{why:?}");
            assert!(events(&plan).contains(&"NodeNotAnswering"), "{why:?}");
            told.push(message);
        }
    }
    told.dedup();
    assert_eq!(told.len(), LIVING.len(), "each has words of its own: {told:#?}");
}

#[test]
fn an_error_reply_is_told_by_its_own_code() {
    for (reply, why) in [
        ("-BUSY Redis is busy running a script. You can only call SCRIPT KILL.", NoAnswer::Busy),
        ("-NOAUTH Authentication required.", NoAnswer::NoAuth),
        ("-WRONGPASS invalid username-password pair or user is disabled.", NoAnswer::NoAuth),
        ("-NOPERM this user has no permissions to run the 'info' command", NoAnswer::NoPerm),
        ("-ERR max number of clients reached", NoAnswer::Full),
        ("-ERR max number of clients + cluster connections reached", NoAnswer::Full),
        ("-LOADING Redis is loading the dataset in memory", NoAnswer::Error),
        ("-MASTERDOWN Link with MASTER is down", NoAnswer::Error),
        ("-DENIED Redis is running in protected mode", NoAnswer::Error),
        ("-", NoAnswer::Error),
    ] {
        assert_eq!(NoAnswer::of_error(reply), why, "{reply}");
        assert!(why.lives());
    }
}

/// The master has not replied for so long, and its replicas have not heard it.
fn hung(more: &str, silent_ms: u64) -> Scene {
    let mut scene = Scene::running(2, more);
    scene.is_silent(0, NoAnswer::Timeout, Timestamp(NOW.0 - silent_ms));
    (scene.node(0).fails, scene.node(0).noticed_at) = (5, Some(Timestamp(NOW.0 - silent_ms)));
    for replica in [1, 2] {
        scene.answer(replica).last_io_s = Some(600);
    }
    scene
}

#[test]
fn masters_that_fall_silent_one_after_the_other_are_a_chain_that_is_told_and_slowed() {
    let mut waits = Vec::new();
    for count in 0..12 {
        let scene = |silent_ms: u64| {
            let mut scene = hung(", durability: none", silent_ms);
            scene.record().hung = (count > 0).then_some(Hung { count, at: Timestamp(NOW.0 - 30_000) });
            scene
        };
        let wait = (0..200).map(|half| half * 500).find(|ms| promoted(&scene(*ms).plan()).is_some());
        waits.push(wait.expect("it is not waited for ever"));
        let plan = scene(100_000).plan();
        assert_eq!(state(&plan).unwrap().hung, Some(Hung { count: count + 1, at: NOW }));
        assert_eq!(events(&plan).contains(&"FailoverChain"), count >= 2, "{count}");
        let told = plan.status.unwrap().condition(ConditionType::FailoverChain).cloned();
        assert_eq!(told.is_some(), count >= 2, "{told:?}");
    }
    assert!(waits[..3].iter().all(|wait| *wait == waits[0]), "{waits:?}");
    assert!(waits[3] >= waits[0] + 5000, "long enough for Redis to say BUSY: {waits:?}");
    assert!(waits.is_sorted() && waits[11] <= 70_000, "{waits:?}");
    // A death that is proved is no member of a chain, and is not waited for.
    let mut scene = hung(", durability: none", 0);
    scene.record().hung = Some(Hung { count: 12, at: NOW });
    scene.hears(0, TaskState::Failed, "");
    for replica in [1, 2] {
        scene.answer(replica).link_up = false;
    }
    let plan = scene.plan();
    assert!(promoted(&plan).is_some() && state(&plan).unwrap().hung.unwrap().count == 12);
    // Nor is anything waited for long after the last.
    let mut scene = hung(", durability: none", 1000);
    scene.record().hung = Some(Hung { count: 12, at: Timestamp(NOW.0 - 600_000) });
    let plan = scene.plan();
    assert!(promoted(&plan).is_some() && state(&plan).unwrap().hung.unwrap().count == 1);
}

// --- Nodes that hang ----------------------------------------------------------------------------

#[test]
fn a_replica_that_does_not_answer_is_told_at_once_with_the_time_of_what_follows_and_replaced_with_a_reason() {
    for why in LIVING.into_iter().chain([NoAnswer::Timeout, NoAnswer::Unreachable, NoAnswer::Reset]) {
        let replaced = !matches!(why, NoAnswer::Full | NoAnswer::Commanded);
        let mut scene = Scene::running(2, ", replaceUnreachableAfter: 5m");
        scene.is_silent(2, why, NOW);
        let plan = scene.plan();
        assert!(events(&plan).contains(&"NodeNotAnswering"), "{why:?}");
        let at = NOW.plus_ms(300_000);
        let told = if replaced { format!("it is replaced at {at}") } else { "it is not replaced for that".to_string() };
        assert!(waits_for(&plan, &told), "{why:?}: {:?}", plan.waiting);
        assert!(!replaced || plan.revisit_at == Some(at), "{why:?}");
        store(&mut scene, &plan);
        let plan = scene.plan();
        assert!(plan.is_empty(), "it is told once, {why:?}: {:?}", plan.view());
        scene.now = at;
        let plan = scene.plan();
        assert_eq!(launched(&plan).len(), usize::from(replaced), "{why:?}: {:?}", plan.view());
        assert_eq!(events(&plan).contains(&"NodeReplaced"), replaced, "{why:?}");
    }
}

#[test]
fn a_former_master_that_stays_busy_is_replaced_in_the_end() {
    let mut scene = Scene::running(2, "");
    let node = scene.node(0);
    node.record.value.deposed = Some(redisctl::model::Deposed { epoch: 2, offset: Some(1000) });
    scene.record().master = Some(1);
    scene.answer(1).role = Role::Master;
    (scene.answer(1).follows, scene.answer(2).follows) = (None, Some(address(1)));
    scene.is_silent(0, NoAnswer::Busy, NOW);
    scene.store_status();
    assert!(waits_for(&scene.plan(), "it is replaced at"));
    scene.now = NOW.plus_ms(300_000);
    let plan = scene.plan();
    assert_eq!(launched(&plan).len(), 1, "{:?}", plan.view());
    assert!(message(&plan, "NodeReplaced").contains("BUSY"));
}

#[test]
fn every_node_that_is_to_be_stopped_has_an_event_with_its_reason() {
    let mut scene = Scene::running(3, "");
    scene.declares(1, "");
    let plan = scene.plan();
    let stopped = plan.writes.iter().filter(|write| matches!(write, Write::Node(node) if node.stop.is_some())).count();
    let told = events(&plan).iter().filter(|reason| **reason == "NodeStopping").count();
    assert_eq!((stopped, told, killed(&plan).len()), (2, 2, 2), "{:?}", plan.view());
}

// --- Former masters -----------------------------------------------------------------------------

/// Node 1 was made a master by somebody else, beside node 0; it follows itself since, and joins again.
fn rejoining(own_bytes: u64, master_offset: u64) -> Scene {
    let mut scene = Scene::running(2, "");
    scene.answer(0).offset = master_offset;
    let answer = scene.answer(1);
    (answer.role, answer.follows, answer.link_up) = (Role::Replica, Some(address(1)), false);
    (answer.replid, answer.replid2, answer.parted_at) = ("other".to_string(), "r".to_string(), Some(900));
    answer.offset = 900 + own_bytes;
    let record = &mut scene.node(1).record.value;
    // What the master had when it was asked, which was long before.
    (record.deposed, record.joined) = (Some(redisctl::model::Deposed { epoch: 1, offset: Some(500) }), false);
    scene
}

#[test]
fn only_what_no_other_node_has_is_called_discarded() {
    for (own, master, said) in [
        (0, 900, Some("FormerMasterJoined")),
        (0, 5000, Some("FormerMasterJoined")),
        (14, 5000, Some("FormerMasterJoined")),
        (42, 900, Some("FormerMasterJoined")),
        (33, 5000, Some("WritesDiscarded")),
        (14_000, 900, Some("WritesDiscarded")),
    ] {
        let plan = rejoining(own, master).plan();
        assert!(kinds(&plan).contains(&"follow"), "{:?}", plan.view());
        let told = events(&plan).into_iter().find(|reason| ["FormerMasterJoined", "WritesDiscarded"].contains(reason));
        assert_eq!(told, said, "{own} bytes");
        if let Some(reason) = said {
            let extent = if own == 0 { "took nothing: ".to_string() } else { format!("{own} bytes") };
            assert!(message(&plan, reason).contains(&extent), "{:?}", plan.view());
        }
    }
}

// --- Whatever happens ---------------------------------------------------------------------------

/// What is wrong with a node, of all that there is.
fn trouble() -> impl Strategy<Value = (u8, u8, u64)> {
    (0u8..12, 0u8..14, 0u64..400_000)
}

fn troubled(troubles: &[(u8, u8, u64)], more: &str) -> Scene {
    let mut scene = Scene::running(u32::try_from(troubles.len()).unwrap() - 1, more);
    for (ordinal, (silent, update, ago)) in (0..).zip(troubles) {
        let since = Timestamp(NOW.0 - ago);
        let dumb = [NoAnswer::Timeout, NoAnswer::Unreachable, NoAnswer::Reset, NoAnswer::Refused];
        if let Some(why) = dumb.into_iter().chain(LIVING).nth(usize::from(*silent)) {
            scene.is_silent(ordinal, why, since);
            (scene.node(ordinal).fails, scene.node(ordinal).noticed_at) = (3, Some(since));
        }
        if let Some(state) =
            TaskState::ALL.get(usize::from(*update)).filter(|state| update % 3 == 0 && **state != TaskState::Staging)
        {
            scene.hears(ordinal, *state, "");
        }
    }
    scene
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(500), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_is_not_ready_says_what_is_waited_for_or_done(troubles in prop::collection::vec(trouble(), 1..5), none in any::<bool>()) {
        let scene = troubled(&troubles, if none { ", durability: none" } else { "" });
        let plan = scene.plan();
        let ready = plan.status.as_ref().is_none_or(|status| status.phase == Phase::Ready);
        prop_assert!(ready || !plan.waiting.is_empty() || !plan.steps.is_empty(), "{:?}", plan.view());
    }

    #[test]
    fn what_is_no_news_is_not_written(troubles in prop::collection::vec(trouble(), 1..5), more_ms in 1u64..2000) {
        let mut scene = troubled(&troubles, "");
        // What is decided now is stored, done or not, until nothing more is decided.
        for _ in 0..6 {
            let plan = scene.plan();
            store(&mut scene, &plan);
        }
        let before = scene.plan();
        if !before.steps.is_empty() || before.revisit_at.is_some_and(|at| at <= scene.now.plus_ms(more_ms)) {
            return Ok(()); // Something is to be done, or to be looked at anew.
        }
        scene.now = scene.now.plus_ms(more_ms);
        for (ordinal, node) in &mut scene.instance.nodes {
            node.silent_until = node.silent_until.plus_ms(more_ms);
            node.fails += 1;
            if let Some((answer, at)) = node.answer.as_mut().filter(|_| node.silent.is_none()) {
                (answer.offset, answer.used_memory, *at) = (answer.offset + 14, answer.used_memory + 100 * u64::from(*ordinal), scene.now);
            }
        }
        let again = scene.plan();
        prop_assert!(!again.status_changed && again.writes.is_empty(), "{:?}\n{:?}", again.writes, again.status);
    }
}

#[test]
fn a_forced_failover_is_the_way_out_for_a_master_that_lives_and_does_not_let_us_in() {
    let mut scene = Scene::running(2, "");
    scene.is_silent(0, NoAnswer::NoAuth, Timestamp(NOW.0 - 60_000));
    let request = Request { at: NOW, to: Some("orders-2".to_string()), force: true, ..Request::default() };
    scene.instance.requests.insert(RequestKind::Failover, Stored { value: request, revision: 30 });
    assert_eq!(promoted(&scene.plan()), Some(task(2).as_str()));
}

#[test]
fn a_replica_that_hangs_ends_where_no_agent_has_room_beside_it_when_others_have_all_that_it_may_have_confirmed() {
    let scene = |silent_s: u64, replicas: u32| {
        let mut scene = Scene::running(replicas, ", replaceUnreachableAfter: 5s");
        scene.offers.clear();
        scene.is_silent(replicas, NoAnswer::Timeout, Timestamp(NOW.0 - silent_s * 1000));
        scene
    };
    assert!(killed(&scene(4, 2).plan()).is_empty());
    let plan = scene(6, 2).plan();
    assert!(killed(&plan).is_empty() && waits_for(&plan, "it is ended at"), "{:?}", plan.waiting);
    assert_eq!(plan.revisit_at, Some(NOW.plus_ms(9000)));
    assert_eq!(killed(&scene(16, 2).plan()), [task(2)]);
    // Beside the master it has the only copy of what was confirmed.
    let plan = scene(16, 1).plan();
    assert!(killed(&plan).is_empty() && waits_for(&plan, "end its process on"), "{:?}", plan.waiting);
    let mut behind = scene(16, 2);
    behind.answer(0).offset = 5000;
    assert!(killed(&behind.plan()).is_empty(), "the other has not all of it");
    // With room there is no need.
    let mut room = scene(16, 2);
    room.offers = Scene::running(2, "").offers;
    let plan = room.plan();
    assert!(killed(&plan).is_empty() && launched(&plan).len() == 1, "{plan:?}");
}

#[test]
fn a_node_whose_agent_mesos_does_not_see_says_so_though_it_answers() {
    let mut scene = Scene::running(2, "");
    scene.hears(2, TaskState::Unreachable, "");
    let status = scene.plan().status.expect("it has changed");
    assert!(status.nodes[2].message.contains("out of Mesos' sight since"), "{:?}", status.nodes[2]);
    assert_eq!((status.phase, status.nodes[2].state), (Phase::Ready, NodeState::Ready));
}
