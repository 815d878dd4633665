//! Every rule that no plan may break is broken here by hand, and found. Pure.

use crate::scene::*;
use redisctl::model::{Launch, Role, TaskRecord, TaskState, Timestamp};
use redisctl::reconcile::action::{Action, Plan, Step, Write};
use redisctl::reconcile::draft::PlanSettings;
use redisctl::reconcile::invariants;
use redisctl::reconcile::world::Session;

/// What is found wrong with a plan; nothing else may be.
fn found(scene: &Scene, plan: &Plan) -> Vec<String> {
    let settings = PlanSettings::default();
    invariants::check(&scene.observed(&settings), plan).into_iter().map(|broken| broken.what).collect()
}

fn assert_found(scene: &Scene, plan: &Plan, words: &str) {
    let found = found(scene, plan);
    assert!(found.iter().any(|what| what.contains(words)), "{words:?} is not among {found:?}");
}

fn step(action: Action) -> Plan {
    Plan { steps: vec![Step { action, why: "a test wants it".to_string() }], ..Plan::default() }
}

fn kill(ordinal: u32) -> Plan {
    step(Action::Kill { task_id: task(ordinal) })
}

fn follow(ordinal: u32, master: u32) -> Plan {
    step(Action::Follow { task_id: task(ordinal), node: address(ordinal), master: address(master), password: None })
}

fn write(write: Write) -> Plan {
    Plan { writes: vec![write], ..Plan::default() }
}

/// The state as it would be written, with a change.
fn state_with(scene: &mut Scene, change: impl FnOnce(&mut redisctl::model::InstanceRecord)) -> Plan {
    let mut record = scene.record().clone();
    change(&mut record);
    write(Write::State(record))
}

/// A good plan that launches one replica, and the launch in it.
fn launching() -> (Scene, Plan) {
    let mut scene = Scene::running(1, "");
    scene.declares(2, "");
    let plan = scene.plan();
    assert_eq!(launched(&plan).len(), 1);
    (scene, plan)
}

fn launch_of(plan: &mut Plan) -> &mut Launch {
    let launch = plan.steps.iter_mut().find_map(|step| match &mut step.action {
        Action::Launch(launch) => Some(launch),
        _ => None,
    });
    launch.expect("it launches")
}

fn stopped(ordinal: u32, scene: &mut Scene) {
    scene.node(ordinal).record.value.stop = Some("it is one too many".to_string());
}

#[test]
fn a_good_plan_breaks_nothing() {
    let (scene, plan) = launching();
    assert_eq!(found(&scene, &plan), Vec::<String>::new());
    assert_eq!(found(&Scene::running(2, ""), &Plan::default()), Vec::<String>::new());
}

#[test]
fn a_frozen_operator_does_nothing() {
    let mut scene = Scene::running(1, "");
    scene.frozen = Some("the store was lost".to_string());
    assert_found(&scene, &follow(1, 0), "a frozen operator");
    assert_found(&scene, &write(Write::ForgetNode(1)), "a frozen operator");
}

#[test]
fn nothing_is_launched_or_killed_without_a_subscription() {
    let (mut scene, plan) = launching();
    scene.session = Session::Disconnected("the stream ended".to_string());
    assert_found(&scene, &plan, "without a subscription");
    assert_found(&scene, &kill(1), "without a subscription");
}

#[test]
fn epochs_and_counts_never_fall() {
    let mut scene = Scene::running(1, "");
    scene.record().epoch = 3;
    let plan = state_with(&mut scene, |record| record.epoch = 2);
    assert_found(&scene, &plan, "the epoch falls from 3 to 2");
    let plan = state_with(&mut scene, |record| record.next_ordinal = 1);
    assert_found(&scene, &plan, "an ordinal would be used twice");
}

#[test]
fn a_master_changes_only_with_the_epoch() {
    let mut scene = Scene::running(1, "");
    let plan = state_with(&mut scene, |record| record.master = Some(1));
    assert_found(&scene, &plan, "within epoch 1");
}

#[test]
fn what_is_launched_is_recorded() {
    let (scene, mut plan) = launching();
    plan.writes.retain(|write| !matches!(write, Write::Node(_)));
    assert_found(&scene, &plan, "is launched without a record");
}

#[test]
fn no_task_is_launched_twice() {
    let (scene, mut plan) = launching();
    launch_of(&mut plan).task_id = task(1);
    assert_found(&scene, &plan, "is launched a second time");
}

#[test]
fn nothing_is_launched_without_a_command_or_for_what_goes_away() {
    let (scene, mut plan) = launching();
    launch_of(&mut plan).argv.clear();
    assert_found(&scene, &plan, "with no command");
    let (mut scene, mut plan) = launching();
    let Write::State(record) = state_with(&mut scene, |record| record.deleting = true).writes.remove(0) else {
        panic!()
    };
    plan.writes.retain(|write| !matches!(write, Write::State(_)));
    plan.writes.push(Write::State(record));
    assert_found(&scene, &plan, "that goes away");
}

#[test]
fn two_nodes_never_share_an_agents_port() {
    let (scene, mut plan) = launching();
    for write in &mut plan.writes {
        if let Write::Node(node) = write {
            (node.agent_id, node.address) = ("a1".to_string(), address(1));
        }
    }
    assert_found(&scene, &plan, "shares its port");
}

#[test]
fn no_more_is_launched_than_is_declared() {
    let (mut scene, plan) = launching();
    let fewer = state_with(&mut scene, |record| record.spec.replicas = 0);
    let mut plan = Plan { writes: [fewer.writes, plan.writes].concat(), ..plan };
    plan.writes.retain(|write| !matches!(write, Write::State(record) if record.spec.replicas == 2));
    assert_found(&scene, &plan, "more than the 1 nodes declared");
}

/// Mesos may tell of a death before a probe fails; then nobody asks any more.
#[test]
fn what_a_dead_replica_last_answered_is_in_nobodys_way() {
    let mut scene = Scene::running(2, "");
    for replica in [1, 2] {
        let answered = scene.node(replica).answer.clone();
        scene.dies(replica);
        (scene.node(replica).answer, scene.node(replica).silent) = (answered, None);
    }
    let plan = scene.plan(); // Which sees to it that no rule is broken.
    assert_eq!(launched(&plan).len(), 2, "{:?}", plan.waiting);
}

#[test]
fn the_master_is_neither_killed_nor_stopped() {
    let mut scene = Scene::running(1, "");
    let mut node = scene.node(0).record.value.clone();
    node.stop = Some("why not".to_string());
    assert_found(&scene, &write(Write::Node(node)), "the recorded master would be stopped");
    stopped(0, &mut scene);
    assert_found(&scene, &kill(0), "is the recorded master and would be killed");
}

#[test]
fn a_kill_is_recorded_before_it_is_sent() {
    let scene = Scene::running(1, "");
    assert_found(&scene, &kill(1), "its record does not say so");
    assert_found(&scene, &kill(9), "but not recorded");
}

#[test]
fn the_last_copy_is_not_killed() {
    let mut scene = Scene::running(1, "");
    stopped(1, &mut scene);
    assert_eq!(found(&scene, &kill(1)), Vec::<String>::new(), "as long as the master answers");
    scene.falls_silent(0);
    assert_found(&scene, &kill(1), "may hold the last copy");
    (scene.answer(1).keys, scene.answer(1).offset) = (0, 0);
    assert_eq!(found(&scene, &kill(1)), Vec::<String>::new(), "it has nothing");
}

#[test]
fn a_masters_place_is_not_given_away_while_somebody_may_have_its_data() {
    let mut scene = Scene::running(1, "");
    let dead = TaskRecord::Dead { state: TaskState::Failed, why: String::new(), at: NOW, ran: true };
    scene.node(0).record.value.task = dead.clone();
    let plan = state_with(&mut scene, |record| (record.master, record.epoch) = (None, 2));
    assert_found(&scene, &plan, "orders-1 may hold data");
    scene.node(1).record.value.task = dead;
    assert_eq!(found(&scene, &plan), Vec::<String>::new(), "all are dead");
}

#[test]
fn records_of_the_living_stay() {
    let scene = Scene::running(1, "");
    assert_found(&scene, &write(Write::ForgetNode(1)), "the record of orders-1 would go");
    assert_found(&scene, &write(Write::Forget { document: None }), "the record of orders-0 would go");
}

#[test]
fn what_is_forgotten_is_not_launched() {
    let (scene, mut plan) = launching();
    plan.writes.push(Write::Forget { document: None });
    assert_found(&scene, &plan, "forgotten and launched at once");
}

#[test]
fn an_agent_runs_no_more_nodes_than_distribution_allows() {
    let (scene, mut plan) = launching();
    for write in &mut plan.writes {
        if let Write::Node(node) = write {
            node.agent_id = "a1".to_string();
        }
    }
    assert_found(&scene, &plan, "one more than 1 nodes of orders on its agent");
}

#[test]
fn only_the_recorded_master_is_followed() {
    let mut scene = Scene::running(2, "");
    assert_eq!(found(&scene, &follow(1, 0)), Vec::<String>::new());
    assert_found(&scene, &follow(1, 2), "which is not the recorded master");
    assert_found(&scene, &follow(0, 0), "or itself");
    scene.record().master = None;
    assert_found(&scene, &follow(1, 0), "there is no master");
}

#[test]
fn nobody_with_data_follows_an_empty_master() {
    let mut scene = Scene::running(1, "");
    (scene.answer(1).role, scene.answer(1).follows) = (Role::Master, None);
    (scene.answer(0).keys, scene.answer(0).offset) = (0, 0);
    assert_found(&scene, &follow(1, 0), "has data and would follow an empty master");
    scene.node(0).answer = None;
    scene.node(0).record.value.launched_at = Timestamp(NOW.0 - 1);
    assert_found(&scene, &follow(1, 0), "has data and would follow an empty master");
}
