//! The world as the fold of events, and what concerns all instances: one fact each. Pure.

use std::collections::BTreeSet;

use crate::scene::*;
use redisctl::model::{
    Amount, Answer, AuditedChange, MesosCall, MesosEvent, NoAnswer, Probe, Request, RequestKind, Role, TaskRecord,
    TaskState, TaskUpdate, Timestamp, task_id,
};
use redisctl::placement::{Needs, place};
use redisctl::reconcile::action::Write;
use redisctl::reconcile::leaving::LeavingAgents;
use redisctl::reconcile::mirror::{Mirror, Mirrored};
use redisctl::reconcile::offers::{Asked, SessionPlan, plan_session};
use redisctl::reconcile::world::{Document, Done, Event, Note, ReadDocument, Seen, World};
use redisctl::spec::Placement;
use redisctl::store::{Change, Changes, KeyValue, LEADER_KEY, Listing, node_key, request_key, state_key};

fn item(key: String, value: &impl serde::Serialize, revision: i64) -> KeyValue {
    KeyValue { key, value: serde_json::to_vec(value).unwrap(), revision, created: revision }
}

fn listing(scene: &mut Scene) -> Listing {
    let mut items = vec![item(state_key("orders"), &scene.record().clone(), 9)];
    items.extend(
        scene.instance.nodes.iter().map(|(k, n)| item(node_key("orders", *k), &n.record.value, n.record.revision)),
    );
    Listing { items, revision: 30, store_id: 1 }
}

/// A subscribed world that has listed a running instance.
fn world(replicas: u32) -> World {
    let mut world = World::default();
    world.apply(Event::Listed(listing(&mut Scene::running(replicas, ""))), NOW);
    let subscribed = MesosEvent::Subscribed { framework_id: "F".to_string(), subscription: 1 };
    world.apply(Event::Mesos(subscribed), NOW);
    world
}

fn update(task_id: &str, state: TaskState, uuid: Option<&str>) -> Event {
    Event::Mesos(MesosEvent::Update(TaskUpdate {
        task_id: task_id.to_string(),
        agent_id: Some("a1".to_string()),
        state,
        reason: None,
        message: String::new(),
        uuid: uuid.map(str::to_string),
    }))
}

fn session(world: &mut World, asked: &mut Asked, now: Timestamp) -> SessionPlan {
    plan_session(world, asked, &BTreeSet::new(), &BTreeSet::new(), now)
}

fn asks_after(plan: &SessionPlan, task: &str) -> bool {
    plan.calls.iter().any(|call| matches!(call, MesosCall::Reconcile(tasks) if tasks.iter().any(|(id, _)| id == task)))
}

// --- The store ---------------------------------------------------------------------------------

#[test]
fn a_store_that_went_back_or_is_another_one_freezes_the_operator() {
    for (revision, store_id) in [(29, 1), (31, 2)] {
        let mut world = world(0);
        world.apply(Event::Listed(Listing { revision, store_id, ..listing(&mut Scene::running(0, "")) }), NOW);
        assert!(world.frozen.is_some());
    }
}

#[test]
fn whatever_others_write_into_the_store_neither_freezes_the_operator_nor_hides_an_instance() {
    let mut world = world(1);
    let before = world.instances.clone();
    let put = |key: &str, value: &[u8], revision| {
        Change::Put(KeyValue { key: key.to_string(), value: value.to_vec(), revision, created: revision })
    };
    let audit = |changes: usize| {
        let by = "\u{1b}[2J".repeat(1000);
        let change = AuditedChange { at: NOW, by: by.clone(), what: "\nforged".to_string() };
        serde_json::to_vec(&Request { at: NOW, changes: vec![change; changes], ..Request::default() }).unwrap()
    };
    let long = "x".repeat(10_000);
    let changes = vec![
        put("requests/orders/failover", b"nonsense", 31),
        put("requests/orders/failover", b"", 32),
        put("requests/orders/delete", &[b'['; 50_000], 33),
        put("requests/orders/burn", b"{}", 34),
        put("requests/orders/rotate", &vec![b' '; 1 << 20], 35),
        put("requests/orders/recreate", b"{\"at\": 7}", 36),
        put("requests/orders/failover", format!("{{\"at\": \"{NOW}\", \"to\": \"{long}\"}}").as_bytes(), 37),
        put(&format!("instances/{long}"), b"a: b", 38),
        put("instances/a\u{1b}[2Jb", b"a: b", 39),
        put("instances/a\nb", b"a: b", 40),
        put("secrets/s", &vec![b'x'; 1 << 20], 41),
        put("requests/nobody/burn", b"{}", 42),
        put("requests/orders/audit", &audit(5), 43),
        put("unknown/x", b"", 44),
    ];
    world.apply(Event::Changed(Changes { changes, revision: 44 }), NOW);
    assert_eq!(world.frozen, None);
    assert_eq!(world.instances.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    let requests = &world.instances["orders"].requests;
    assert_eq!(requests.keys().collect::<Vec<_>>(), [&RequestKind::Audit]);
    for change in &requests[&RequestKind::Audit].value.changes {
        assert!(change.by.chars().count() < 2600 && !change.by.contains('\u{1b}') && change.what == "\\nforged");
    }
}

#[test]
fn a_request_that_is_overwritten_by_what_is_none_is_none() {
    let mut world = world(0);
    let key = request_key("orders", RequestKind::Failover);
    let good = item(key.clone(), &Request { at: NOW, ..Request::default() }, 31);
    world.apply(Event::Changed(Changes { changes: vec![Change::Put(good)], revision: 31 }), NOW);
    let bad = KeyValue { key, value: b"x".to_vec(), revision: 32, created: 31 };
    world.apply(Event::Changed(Changes { changes: vec![Change::Put(bad)], revision: 32 }), NOW);
    assert!(world.instances["orders"].requests.is_empty());
}

#[test]
fn a_document_that_was_read_beforehand_is_not_read_again_and_only_of_its_revision() {
    let read = |revision| {
        let parsed = Err("read beforehand".to_string());
        Event::Read(vec![ReadDocument { key: "instances/x".to_string(), document: Document { revision, parsed } }])
    };
    let put = |revision| {
        let item = KeyValue { key: "instances/x".to_string(), value: b"a: b".to_vec(), revision, created: 31 };
        Event::Changed(Changes { changes: vec![Change::Put(item)], revision })
    };
    let mut world = world(0);
    let told = |world: &World| world.instances["x"].document.as_ref().unwrap().parsed.clone().unwrap_err();
    world.apply(read(31), NOW);
    world.apply(put(31), NOW);
    assert_eq!(told(&world), "read beforehand");
    world.apply(read(32), NOW);
    world.apply(put(33), NOW);
    assert!(told(&world).contains("apiVersion"), "{}", told(&world));
}

#[test]
fn a_record_that_vanishes_freezes_the_operator_and_is_kept_in_mind() {
    let mut world = world(1);
    let changes = vec![Change::Delete { key: node_key("orders", 1), revision: 31 }];
    world.apply(Event::Changed(Changes { changes, revision: 31 }), NOW);
    assert!(world.frozen.as_ref().is_some_and(|reason| reason.contains("nodes/orders/1 has vanished")));
    assert!(world.instances["orders"].nodes.contains_key(&1));
}

#[test]
fn a_record_that_the_operator_removes_may_vanish() {
    let mut world = world(1);
    world.expect("orders", &[Write::ForgetNode(1)]);
    let changes = vec![Change::Delete { key: node_key("orders", 1), revision: 31 }];
    world.apply(Event::Changed(Changes { changes, revision: 31 }), NOW);
    assert_eq!(world.frozen, None);
    assert!(!world.instances["orders"].nodes.contains_key(&1));
}

#[test]
fn the_link_of_a_node_that_was_removed_is_nobody_elses_whoever_tells_of_it_first() {
    let committed = |writes| Event::Committed { name: "orders".to_string(), writes, status: None, revision: 31 };
    let changes = vec![Change::Delete { key: node_key("orders", 1), revision: 31 }];
    let told = [committed(vec![Write::ForgetNode(1)]), Event::Changed(Changes { changes, revision: 31 })];
    for order in [[0, 1], [1, 0]] {
        let (mut world, mut scene) = (world(1), Scene::running(1, ""));
        let mut answer = scene.answer(0).clone();
        answer.replicas = vec![address(1)];
        world.apply(
            Event::Probed(Probe { task_id: task(0), result: Ok(answer), at: NOW, until: NOW, watched: false }),
            NOW,
        );
        world.expect("orders", &[Write::ForgetNode(1)]);
        for i in order {
            world.apply(told[i].clone(), NOW);
        }
        assert_eq!(world.instances["orders"].foreign_replicas(), [], "{order:?}");
    }
}

#[test]
fn an_older_change_that_comes_late_does_not_undo_a_newer_commit() {
    let mut world = world(1);
    let mut record = world.instances["orders"].nodes[&1].record.value.clone();
    let old = item(node_key("orders", 1), &record, 31);
    record.task = TaskRecord::Unsure { since: NOW, ran: true };
    let writes = vec![Write::Node(record.clone())];
    world.apply(Event::Committed { name: "orders".to_string(), writes, status: None, revision: 32 }, NOW);
    world.apply(Event::Changed(Changes { changes: vec![Change::Put(old)], revision: 31 }), NOW);
    assert_eq!(world.instances["orders"].nodes[&1].record.value, record);
}

#[test]
fn an_older_change_that_comes_late_does_not_bring_back_what_was_forgotten_since() {
    let mut world = world(1);
    let old = item(node_key("orders", 1), &world.instances["orders"].nodes[&1].record.value, 31);
    let writes = vec![Write::ForgetNode(1)];
    world.expect("orders", &writes);
    world.apply(Event::Committed { name: "orders".to_string(), writes, status: None, revision: 32 }, NOW);
    world.apply(Event::Changed(Changes { changes: vec![Change::Put(old)], revision: 31 }), NOW);
    assert!(!world.instances["orders"].nodes.contains_key(&1));
    let changes = vec![Change::Delete { key: node_key("orders", 1), revision: 32 }];
    world.apply(Event::Changed(Changes { changes, revision: 32 }), NOW);
    assert_eq!(world.frozen, None);
}

#[test]
fn a_standby_whose_store_has_gone_back_keeps_what_it_knew_until_somebody_leads_who_knows_of_nothing_else() {
    for (store_id, revision) in [(1, 30), (2, 90)] {
        let restored = || Event::Listed(Listing { store_id, revision, ..listing(&mut Scene::running(0, "")) });
        let put = |key: &str, value: &str, revision| {
            let value = value.as_bytes().to_vec();
            let item = KeyValue { key: key.to_string(), value, created: revision, revision };
            Event::Changed(Changes { changes: vec![Change::Put(item)], revision })
        };
        let changed = |key: &str, revision| put(key, "{}", revision);
        let later = || Event::Listed(Listing { store_id, revision: 99, ..listing(&mut Scene::running(0, "")) });
        let mut mirror = Mirror::default();
        let shown = |mirrored: Mirrored| matches!(mirrored, Mirrored::Shown { .. });
        assert!(shown(mirror.apply(Event::Listed(listing(&mut Scene::running(1, ""))), NOW)));
        assert!(shown(mirror.apply(changed("requests/orders/failover", 35), NOW)));
        assert!(matches!(mirror.apply(restored(), NOW), Mirrored::Old(Some(why)) if why.contains("from 35")));
        assert_eq!(mirror.apply(restored(), NOW), Mirrored::Old(None), "it is said once");
        assert_eq!(mirror.apply(changed(&state_key("orders"), revision + 1), NOW), Mirrored::Old(None));
        assert_eq!(mirror.world.instances["orders"].nodes.len(), 2);
        // The store goes on, and whoever was there leads by it: neither makes it the one that it was.
        assert_eq!(mirror.apply(later(), NOW), Mirrored::Old(None));
        let frozen = r#"{"id": "a", "api": "http://a:1", "frozen": true}"#;
        assert_eq!(mirror.apply(put(LEADER_KEY, frozen, revision + 2), NOW), Mirrored::Old(None));
        assert_eq!(mirror.world.instances["orders"].nodes.len(), 2);
        let started_since = r#"{"id": "b", "api": "http://b:1"}"#;
        assert_eq!(mirror.apply(put(LEADER_KEY, started_since, revision + 3), NOW), Mirrored::ListAgain);
        assert!(shown(mirror.apply(restored(), NOW)));
        assert_eq!(mirror.world.instances["orders"].nodes.len(), 1);
    }
}

#[test]
fn a_listing_that_was_made_before_a_commit_does_not_undo_it() {
    let mut world = world(1);
    let before = listing(&mut Scene::running(1, ""));
    let mut record = world.instances["orders"].nodes[&1].record.value.clone();
    (record.ordinal, record.task_id) = (2, task(2));
    let writes = vec![Write::Node(record)];
    world.apply(Event::Committed { name: "orders".to_string(), writes, status: None, revision: 31 }, NOW);
    world.apply(Event::Listed(before), NOW);
    assert_eq!(world.frozen, None);
    assert!(world.instances["orders"].nodes.contains_key(&2));
}

#[test]
fn a_request_that_is_made_anew_is_not_taken_for_the_one_that_was_closed() {
    let mut world = world(0);
    let key = request_key("orders", RequestKind::Recreate);
    let request = Request { at: NOW, revision: 0, ..Request::default() };
    let changes = vec![Change::Put(item(key, &request, 33))];
    world.apply(Event::Changed(Changes { changes, revision: 33 }), NOW);
    let writes = vec![Write::RequestDone(RequestKind::Recreate)];
    world.apply(Event::Committed { name: "orders".to_string(), writes, status: None, revision: 32 }, NOW);
    assert!(world.instances["orders"].requests.contains_key(&RequestKind::Recreate));
}

#[test]
fn a_request_that_the_deletion_did_not_know_of_outlives_it() {
    let mut world = world(0);
    world.expect("orders", &[Write::Forget { document: None }]);
    let request =
        item(request_key("orders", RequestKind::Recreate), &Request { at: NOW, revision: 0, ..Request::default() }, 31);
    world.apply(Event::Changed(Changes { changes: vec![Change::Put(request)], revision: 31 }), NOW);
    let writes = vec![Write::Forget { document: None }];
    world.apply(Event::Committed { name: "orders".to_string(), writes, status: None, revision: 32 }, NOW);
    let left = &world.instances["orders"];
    assert!(left.record.is_none() && left.nodes.is_empty() && left.requests.len() == 1);
}

// --- Offers ------------------------------------------------------------------------------------

fn placed_ports(world: &mut World, host: &str, ports: (u16, u16)) -> Vec<u16> {
    let mut offer = offer(1);
    offer.host = host.to_string();
    for piece in offer.pieces.iter_mut().filter(|piece| piece.name == "ports") {
        piece.amount = Amount::Ranges(vec![ports]);
    }
    world.apply(Event::Mesos(MesosEvent::Offers(vec![offer])), NOW);
    let placement = Placement::default();
    let needs = Needs { instance: "cache", mem_mib: 96, cpus_milli: 100, distribution: 1000, placement: &placement };
    let mut ports: Vec<u16> =
        std::iter::from_fn(|| place(&needs, &[], &mut world.pool, 1).ok()).map(|placement| placement.port).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn the_port_of_a_recorded_node_is_not_given_to_another() {
    let ports = placed_ports(&mut world(1), &address(1).host, (30_998, 31_002));
    assert_eq!(ports, [30_998, 30_999, 31_001, 31_002]);
}

#[test]
fn nor_is_the_port_of_one_that_is_about_to_be_recorded() {
    let mut world = world(1);
    let mut record = world.instances["orders"].nodes[&1].record.value.clone();
    (record.ordinal, record.address.port) = (2, 31_500);
    world.expect("orders", &[Write::Node(record)]);
    assert_eq!(placed_ports(&mut world, &address(1).host, (31_499, 31_501)), [31_499, 31_501]);
}

#[test]
fn nor_is_a_port_that_a_replica_follows() {
    let mut world = world(1);
    let mut scene = Scene::running(1, "");
    let mut answer = scene.answer(1).clone();
    answer.follows.as_mut().unwrap().port = 31_700;
    world
        .apply(Event::Probed(Probe { task_id: task(1), result: Ok(answer), at: NOW, until: NOW, watched: false }), NOW);
    assert_eq!(placed_ports(&mut world, &address(0).host, (31_700, 31_701)), [31_701]);
}

#[test]
fn whoever_waits_is_offered_a_port_again_when_it_is_avoided_no_more() {
    let mut world = world(1);
    let stranger = Probe { task_id: task(1), result: Err(NoAnswer::Stranger), at: NOW, until: NOW, watched: false };
    world.apply(Event::Probed(stranger), NOW);
    let (mut asked, wanting) = (Asked::default(), BTreeSet::from(["cache".to_string()]));
    let mut plan_at = |ms| plan_session(&mut world, &mut asked, &wanting, &BTreeSet::new(), NOW.plus_ms(ms));
    let revives = |plan: &SessionPlan| plan.calls.contains(&MesosCall::Revive);
    // Looked at when the plan says so, as the controller does.
    let (mut at_ms, mut asked_at) = (0, Vec::new());
    while at_ms <= 90_000 {
        let plan = plan_at(at_ms);
        if revives(&plan) {
            asked_at.push(at_ms);
        }
        let revisit_ms = plan.revisit_at.expect("somebody waits").since_ms(NOW);
        assert!(revisit_ms > at_ms, "{revisit_ms} after {at_ms}");
        at_ms = revisit_ms;
    }
    let [0, free_ms, lost_ms, ..] = asked_at[..] else { panic!("{asked_at:?}") };
    assert!(free_ms < 30_000, "as soon as the port is free: {asked_at:?}");
    assert_eq!(lost_ms, free_ms + 30_000, "should one have been lost");
}

// --- Tasks that Mesos must be asked about ------------------------------------------------------

#[test]
fn after_a_new_subscription_every_node_is_asked_after() {
    let (mut world, mut asked) = (world(1), Asked::default());
    let plan = session(&mut world, &mut asked, NOW);
    assert!(asks_after(&plan, &task(0)) && asks_after(&plan, &task(1)));
    world.apply(update(&task(0), TaskState::Running, None), NOW);
    let plan = session(&mut world, &mut asked, NOW.plus_ms(1000));
    assert!(!asks_after(&plan, &task(0)) && asks_after(&plan, &task(1)), "only those not heard of, again");
}

#[test]
fn a_node_out_of_sight_is_asked_after_again_and_again() {
    let (mut world, mut asked) = (world(0), Asked::default());
    world.apply(update(&task(0), TaskState::Unreachable, None), NOW);
    let mut record = world.instances["orders"].nodes[&0].record.value.clone();
    record.task = TaskRecord::Unsure { since: NOW, ran: true };
    let writes = vec![Write::Node(record)];
    world.apply(Event::Committed { name: "orders".to_string(), writes, status: None, revision: 31 }, NOW);
    for round in 0..3 {
        let now = NOW.plus_ms(30_000 * round);
        let plan = session(&mut world, &mut asked, now);
        assert_eq!(asks_after(&plan, &task(0)), round > 0, "round {round}");
        assert_eq!(plan.revisit_at, Some(now.plus_ms(30_000)));
    }
}

#[test]
fn a_node_that_does_not_answer_is_asked_after_though_mesos_called_it_running() {
    let (mut world, mut asked) = (world(0), Asked::default());
    world.apply(update(&task(0), TaskState::Running, None), NOW);
    world.apply(
        Event::Probed(Probe { task_id: task(0), result: Err(NoAnswer::Refused), at: NOW, until: NOW, watched: false }),
        NOW,
    );
    session(&mut world, &mut asked, NOW);
    assert!(asks_after(&session(&mut world, &mut asked, NOW.plus_ms(30_000)), &task(0)));
}

// --- Tasks that are not recorded ---------------------------------------------------------------

fn stranger(ordinal: u32) -> String {
    task_id("orders", ordinal, Timestamp(BEFORE.0 - 1))
}

const LATER: Timestamp = Timestamp(NOW.0 + 5000);

fn kills(plan: &SessionPlan, task: &str) -> bool {
    plan.calls.contains(&MesosCall::Kill { task_id: task.to_string(), agent_id: None })
}

/// A world of one master that answers, and had a node 1 that is forgotten.
fn superseding_world() -> World {
    let mut scene = Scene::running(0, "");
    scene.record().next_ordinal = 2;
    scene.record().created_at = Timestamp(BEFORE.0 - 10);
    scene.node(0).record.value.launched_at = Timestamp(BEFORE.0 - 10);
    let mut world = World::default();
    world.apply(Event::Listed(listing(&mut scene)), NOW);
    let subscribed = MesosEvent::Subscribed { framework_id: "F".to_string(), subscription: 1 };
    world.apply(Event::Mesos(subscribed), NOW);
    let answer = scene.answer(0).clone();
    world
        .apply(Event::Probed(Probe { task_id: task(0), result: Ok(answer), at: NOW, until: NOW, watched: false }), NOW);
    world
}

#[test]
fn a_superseded_task_is_killed_and_its_updates_are_acknowledged() {
    let (mut world, mut asked) = (superseding_world(), Asked::default());
    world.apply(update(&stranger(1), TaskState::Running, Some("u1")), NOW);
    let plan = session(&mut world, &mut asked, NOW);
    assert!(kills(&plan, &stranger(1)));
    let (task_id, agent_id, uuid) = (stranger(1), "a1".to_string(), "u1".to_string());
    assert!(plan.calls.contains(&MesosCall::Acknowledge { task_id, agent_id, uuid }));
    assert_eq!(world.frozen, None);
}

#[test]
fn a_silence_is_news_when_it_begins_when_it_repeats_and_when_it_has_lasted() {
    let mut world = world(1);
    let mut told = |until_ms| {
        let until = NOW.plus_ms(until_ms);
        let result = Err(NoAnswer::Timeout);
        let probe = Probe { task_id: task(0), result, at: NOW, until, watched: true };
        !world.apply(Event::Probed(probe), until).names.is_empty()
    };
    let news = [10, 300, 600, 999, 1000, 1300].map(&mut told);
    assert_eq!(news, [true, true, false, false, true, false]);
}

#[test]
fn a_superseded_task_is_spared_while_the_master_does_not_answer() {
    let (mut world, mut asked) = (superseding_world(), Asked::default());
    world.apply(update(&stranger(1), TaskState::Running, None), NOW);
    world.apply(
        Event::Probed(Probe { task_id: task(0), result: Err(NoAnswer::Timeout), at: NOW, until: NOW, watched: true }),
        NOW,
    );
    assert!(!kills(&session(&mut world, &mut asked, LATER), &stranger(1)));
}

#[test]
fn a_task_that_the_store_should_know_stops_the_operator_at_once() {
    let known_master = task_id("orders", 0, Timestamp(BEFORE.0 - 1));
    for unknown in [stranger(7), known_master, task_id("cache", 0, BEFORE)] {
        let mut world = superseding_world();
        let dirty = world.apply(update(&unknown, TaskState::Running, None), NOW);
        assert!(dirty.all && world.frozen.as_ref().is_some_and(|reason| reason.contains(&unknown)), "{unknown}");
        let plan = session(&mut world, &mut Asked::default(), LATER);
        assert!(asks_after(&plan, &unknown) && !kills(&plan, &unknown));
    }
}

#[test]
fn an_ordinal_that_was_used_twice_shows_that_the_store_went_back() {
    let mut world = world(2);
    world.apply(update(&task_id("orders", 1, Timestamp(BEFORE.0 + 1)), TaskState::Running, None), NOW);
    assert!(world.frozen.is_some());
}

#[test]
fn while_frozen_not_even_a_superseded_task_is_killed() {
    let (mut world, mut asked) = (superseding_world(), Asked::default());
    world.apply(update(&stranger(7), TaskState::Running, None), NOW);
    world.apply(update(&stranger(1), TaskState::Running, None), NOW);
    assert!(!kills(&session(&mut world, &mut asked, LATER), &stranger(1)));
}

#[test]
fn tasks_are_not_judged_before_the_store_was_read() {
    let mut world = World::default();
    let subscribed = MesosEvent::Subscribed { framework_id: "F".to_string(), subscription: 1 };
    world.apply(Event::Mesos(subscribed), NOW);
    world.apply(update(&task(0), TaskState::Running, None), NOW);
    assert_eq!(world.frozen, None);
    world.apply(Event::Listed(listing(&mut Scene::running(0, ""))), NOW);
    assert_eq!(world.frozen, None);
    assert!(world.instances["orders"].nodes[&0].heard);
}

#[test]
fn when_the_unknown_task_proves_dead_the_operator_goes_on() {
    let (mut world, mut asked) = (world(1), Asked::default());
    world.apply(update(&stranger(7), TaskState::Starting, Some("u1")), NOW);
    assert!(world.frozen.is_some());
    let dirty = world.apply(update(&stranger(7), TaskState::Killed, Some("u2")), LATER);
    assert_eq!((world.frozen.clone(), dirty.all), (None, true));
    let plan = session(&mut world, &mut asked, LATER);
    assert!(plan.calls.iter().any(|call| matches!(call, MesosCall::Acknowledge { uuid, .. } if uuid == "u2")));
    let done = Done::Acknowledged("u2".to_string());
    world.apply(Event::Noted(Note { task_id: stranger(7), done }), LATER);
    assert!(world.strangers.is_empty());
}

#[test]
fn a_lost_store_keeps_the_operator_frozen_whatever_becomes_of_a_task() {
    let mut world = world(1);
    world.apply(update(&stranger(7), TaskState::Running, None), NOW);
    world.freeze("the store has gone back");
    world.apply(update(&stranger(7), TaskState::Killed, None), LATER);
    assert_eq!(world.frozen.as_deref(), Some("the store has gone back. Restart the operators when the store is sound"));
}

#[test]
fn whoever_knows_that_the_store_is_not_sound_leads_frozen_however_far_it_has_gone_on() {
    let mut before = world(1);
    before.apply(Event::Listed(Listing { revision: 20, ..listing(&mut Scene::running(1, "")) }), NOW);
    let seen = before.seen();
    assert!(seen.unsound.as_ref().is_some_and(|why| why.contains("gone back")), "{seen:?}");
    let mut after = World::resuming(seen, None, LeavingAgents::default());
    after.apply(Event::Listed(Listing { revision: 900, ..listing(&mut Scene::running(1, "")) }), NOW);
    assert_eq!(after.frozen, before.frozen);
    let mut restarted = World::resuming(Seen::default(), None, LeavingAgents::default());
    restarted.apply(Event::Listed(Listing { revision: 900, ..listing(&mut Scene::running(1, "")) }), NOW);
    assert_eq!(restarted.frozen, None);
}

#[test]
fn an_answer_that_comes_late_does_not_undo_what_is_known_since() {
    let mut world = world(2);
    let answer = |role| Answer {
        role,
        ..crate::scene::node(&crate::scene::document(1, "").spec, 1, 0).answer.expect("it answers").0
    };
    let turned = Note { task_id: task(1), done: Done::Turned(answer(Role::Master)) };
    world.apply(Event::Noted(turned), NOW);
    let probe = |at| Probe { task_id: task(1), result: Ok(answer(Role::Replica)), at, until: at, watched: false };
    for asked_before in [BEFORE, NOW] {
        world.apply(Event::Probed(probe(asked_before)), LATER);
        assert_eq!(world.instances["orders"].nodes[&1].answer().unwrap().role, Role::Master);
    }
    world.apply(Event::Probed(probe(LATER)), LATER);
    assert_eq!(world.instances["orders"].nodes[&1].answer().unwrap().role, Role::Replica);
}

#[test]
fn a_roll_counts_for_the_fleet_from_the_plan_on_not_only_when_it_is_recorded() {
    let rolling = |world: &World| world.rolling(&world.instances["orders"], NOW);
    let mut world = world(2);
    let mut record = world.instances["orders"].record.as_ref().expect("it is recorded").value.clone();
    record.rolling = Some(redisctl::model::Roll { since: NOW, blocked_since: None });
    assert_eq!(rolling(&world), 0);
    for _ in 0..2 {
        world.expect("orders", &[Write::State(record.clone())]);
        assert_eq!(rolling(&world), 1, "others of the same round see it");
    }
    world.expect("orders", &[]);
    assert_eq!(rolling(&world), 0, "it was not recorded");
}
