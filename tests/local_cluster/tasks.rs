//! Launches, updates, kills, reconciliation. I/O.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{AGENTS, CPUS, Rig};
use crate::scheduler::{ROLE, Scheduler, TIMEOUT, accept, ask, first_port, scalar, task, with_cpus, with_port};
use crate::support::wait_until;

/// Long enough for an update that should not come.
const A_WHILE: Duration = Duration::from_millis(1500);
/// A shell that SIGTERM does not end.
const STUBBORN: [&str; 3] = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"];

async fn subscribed(rig: &Rig) -> (Scheduler, Vec<Value>) {
    let scheduler = Scheduler::new(&rig.address()).await;
    let offers = scheduler.offers(AGENTS).await;
    (scheduler, offers)
}

fn updates(events: &[Value]) -> Vec<&Value> {
    events.iter().filter(|event| event["type"] == "UPDATE").collect()
}

pub async fn a_task_starts_runs_and_is_killed(rig: Rig) {
    let (scheduler, offers) = subscribed(&rig).await;
    scheduler.launch(&offers[0], &[task("t", &offers[0], &["sleep", "600"])]).await;
    for state in ["TASK_STARTING", "TASK_RUNNING"] {
        let status = scheduler.status("t").await;
        assert_eq!(status["state"], state);
        assert_eq!(status["source"], "SOURCE_EXECUTOR");
        assert_eq!(status["agent_id"], offers[0]["agent_id"]);
        assert!(status["uuid"].is_string());
        let network = &status["container_status"]["network_infos"][0];
        assert_eq!(network["ip_addresses"][0]["ip_address"], "127.0.0.1");
        scheduler.acknowledge(&status).await;
    }
    wait_until("the process runs", TIMEOUT, async || rig.processes("sleep") == 1).await;
    // What is left of the agent is offered; when the task ends, its own part.
    let left = scheduler.offers(1).await;
    assert!((scalar(&left[0], "cpus") - (CPUS - 0.1)).abs() < 0.0005);
    scheduler.ok("KILL", json!({"task_id": {"value": "t"}})).await;
    let killed = scheduler.until("t", "TASK_KILLED").await;
    assert!(killed["message"].as_str().is_some_and(|message| message.starts_with("Command ")), "{killed}");
    let freed = scheduler.offers(1).await;
    assert_eq!((scalar(&freed[0], "cpus"), scalar(&freed[0], "mem")), (0.1, 32.0));
    assert_eq!(rig.processes("sleep"), 0);
}

pub async fn an_update_waits_for_the_acknowledgement_of_the_one_before(rig: Rig) {
    let (scheduler, offers) = subscribed(&rig).await;
    scheduler.launch(&offers[0], &[task("t", &offers[0], &["sh", "-c", "exit 3"])]).await;
    let starting = scheduler.status("t").await;
    assert!(updates(&scheduler.during(A_WHILE).await).is_empty());
    scheduler.reconcile("t", None).await;
    assert_eq!(scheduler.status("t").await["state"], "TASK_STARTING");
    scheduler.acknowledge(&starting).await;
    let running = scheduler.status("t").await;
    assert_eq!(running["state"], "TASK_RUNNING");
    scheduler.reconcile("t", None).await;
    let answer = scheduler.status("t").await;
    assert_eq!((answer["state"].as_str(), answer["uuid"].as_str()), (Some("TASK_RUNNING"), None));
    // The master knows that it has ended: its resources are free.
    scheduler.offers(1).await;
    scheduler.acknowledge(&running).await;
    assert_eq!(scheduler.status("t").await["state"], "TASK_FAILED");
}

pub async fn an_unacknowledged_update_comes_again_to_a_new_subscription(rig: Rig) {
    let (first, offers) = subscribed(&rig).await;
    first.launch(&offers[0], &[task("t", &offers[0], &["sleep", "600"])]).await;
    let starting = first.status("t").await;
    let second = first.again().await;
    assert_eq!(second.status("t").await["uuid"], starting["uuid"]);
    second.acknowledge(&starting).await;
    assert_eq!(second.status("t").await["state"], "TASK_RUNNING");
}

pub async fn ends_of_processes_are_told_apart(rig: Rig) {
    let (scheduler, offers) = subscribed(&rig).await;
    let run = |id: &str, script: &str| task(id, &offers[0], &["sh", "-c", script]);
    let tasks = [
        run("good", "exit 0"),
        run("bad", "exit 3"),
        run("shot", "kill -9 $$"),
        task("absent", &offers[0], &["/no/such/program"]),
    ];
    scheduler.launch(&offers[0], &tasks).await;
    assert!(scheduler.until("good", "TASK_FINISHED").await["reason"].is_null());
    let bad = scheduler.until("bad", "TASK_FAILED").await;
    assert_eq!(bad["message"], "Command exited with status 3");
    let shot = scheduler.until("shot", "TASK_FAILED").await;
    assert!(shot["message"].as_str().unwrap().starts_with("Command terminated with signal"), "{shot}");
    let absent = scheduler.until("absent", "TASK_FAILED").await;
    for status in [bad, shot, absent] {
        assert_eq!(status["reason"], "REASON_COMMAND_EXECUTOR_FAILED");
        assert_eq!(status["source"], "SOURCE_EXECUTOR");
    }
}

pub async fn a_task_that_ignores_sigterm_is_killed_after_its_grace(rig: Rig) {
    let (scheduler, offers) = subscribed(&rig).await;
    let mut patient = task("patient", &offers[0], &STUBBORN);
    patient["kill_policy"] = json!({"grace_period": {"nanoseconds": 3_600_000_000_000_u64}});
    scheduler.launch(&offers[0], &[patient, task("other", &offers[0], &STUBBORN)]).await;
    scheduler.until("patient", "TASK_RUNNING").await;
    scheduler.until("other", "TASK_RUNNING").await;
    let started = std::time::Instant::now();
    let grace = json!({"grace_period": {"nanoseconds": 2_000_000_000_u64}});
    scheduler.ok("KILL", json!({"task_id": {"value": "other"}, "kill_policy": grace})).await;
    scheduler.ok("KILL", json!({"task_id": {"value": "patient"}})).await;
    scheduler.until("other", "TASK_KILLED").await;
    assert!(started.elapsed() >= Duration::from_secs(2));
    // The policy of the task itself counts where the call has none; a later call may cut it short.
    let statuses = updates(&scheduler.drain()).iter().map(|u| u["update"]["status"].clone()).collect::<Vec<_>>();
    assert!(statuses.iter().all(|status| status["state"] != "TASK_KILLED"), "{statuses:?}");
    for status in statuses {
        scheduler.acknowledge(&status).await;
    }
    let grace = json!({"grace_period": {"nanoseconds": 100_000_000_u64}});
    scheduler.ok("KILL", json!({"task_id": {"value": "patient"}, "kill_policy": grace})).await;
    scheduler.until("patient", "TASK_KILLED").await;
    wait_until("no shell is left", TIMEOUT, async || rig.processes("sh") == 0).await;
}

pub async fn many_tasks_are_launched_over_merged_offers_of_an_agent(rig: Rig) {
    let (scheduler, offers) = subscribed(&rig).await;
    let offer = &offers[0];
    // Two offers of one agent: what a task leaves, and what it frees when it ends.
    scheduler.launch(offer, &[with_cpus(task("first", offer, &["sleep", "600"]), 3.0)]).await;
    scheduler.until("first", "TASK_RUNNING").await;
    let left = scheduler.offers(1).await.remove(0);
    scheduler.ok("KILL", json!({"task_id": {"value": "first"}})).await;
    scheduler.until("first", "TASK_KILLED").await;
    let freed = scheduler.offers(1).await.remove(0);
    assert_eq!((scalar(&left, "cpus"), scalar(&freed, "cpus")), (1.0, 3.0));
    let tasks: Vec<Value> = (0..4)
        .map(|i| {
            let task = with_cpus(task(&format!("t{i}"), offer, &["sleep", "600"]), 1.0);
            with_port(task, first_port(&left) + i)
        })
        .map(|mut task| {
            task["resources"][1]["scalar"]["value"] = 8.into();
            task
        })
        .collect();
    scheduler.launch_on(&[&left, &freed], &tasks, 0.0).await;
    for i in 0..4 {
        scheduler.until(&format!("t{i}"), "TASK_RUNNING").await;
    }
}

pub async fn a_used_offer_drops_its_tasks(rig: Rig) {
    let (scheduler, offers) = subscribed(&rig).await;
    let body = accept(&[&offers[0]], &[task("t", &offers[0], &["sleep", "600"])], 0.0);
    scheduler.ok("ACCEPT", body.clone()).await;
    scheduler.ok("ACCEPT", body).await;
    let dropped = scheduler.status_that("t", "is dropped", |s| s["state"] == "TASK_DROPPED").await;
    assert_eq!(dropped["reason"], "REASON_INVALID_OFFERS");
    assert_eq!(dropped["source"], "SOURCE_MASTER");
    assert!(dropped["uuid"].is_null());
    assert_eq!(dropped["agent_id"], offers[0]["agent_id"]);
    let id = offers[0]["id"]["value"].as_str().unwrap();
    let message = format!("Task launched with invalid offers: Offer {id} is no longer valid");
    assert_eq!(dropped["message"], message.as_str());
    scheduler.until("t", "TASK_RUNNING").await; // The same id all the same.

    // Offers of two agents, and an offer named twice: all tasks dropped, all offers gone.
    let mixed = [task("u", &offers[1], &["sleep", "600"])];
    scheduler.launch_on(&[&offers[1], &offers[2]], &mixed, 0.0).await;
    assert_eq!(scheduler.status("u").await["reason"], "REASON_INVALID_OFFERS");
    scheduler.launch_on(&[&offers[1]], &mixed, 0.0).await;
    assert_eq!(scheduler.status("u").await["reason"], "REASON_INVALID_OFFERS");
    let again = scheduler.offers(3).await;
    let (one, _) = again.split_first().unwrap();
    scheduler.launch_on(&[one, one], &[task("v", one, &["sleep", "600"])], 0.0).await;
    let message = scheduler.status("v").await["message"].as_str().unwrap().to_string();
    assert!(message.contains("Duplicate offer"), "{message}");
}

pub async fn a_wrong_task_is_an_error(rig: Rig) {
    let (scheduler, offers) = subscribed(&rig).await;
    let offer = &offers[0];
    let mut nothing = task("nothing", offer, &["sleep", "600"]);
    nothing["resources"] = json!([]);
    let mut idle = task("idle", offer, &["sleep", "600"]);
    idle.as_object_mut().unwrap().remove("command");
    let mut elsewhere = task("elsewhere", offer, &["sleep", "600"]);
    elsewhere["agent_id"] = offers[1]["agent_id"].clone();
    let tasks = [
        with_cpus(task("greedy", offer, &["sleep", "600"]), 99.0),
        with_port(task("port", offer, &["sleep", "600"]), 80),
        task("a/b", offer, &["sleep", "600"]),
        nothing,
        idle,
        elsewhere,
        with_cpus(task("fits", offer, &["sleep", "600"]), 3.0),
        with_cpus(task("too late", offer, &["sleep", "600"]), 3.0),
    ];
    scheduler.launch(offer, &tasks).await;
    let texts = [
        ("greedy", "required by task and its executor is more than available"),
        ("port", "required by task and its executor is more than available"),
        ("a/b", "'a/b' contains invalid characters"),
        ("nothing", "Task uses no resources"),
        ("idle", "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present"),
        ("elsewhere", "Task uses invalid agent"),
        ("too late", "required by task and its executor is more than available"),
    ];
    for (id, text) in texts {
        let status = scheduler.status(id).await;
        let known = (status["state"].as_str(), status["reason"].as_str(), status["source"].as_str());
        assert_eq!(known, (Some("TASK_ERROR"), Some("REASON_TASK_INVALID"), Some("SOURCE_MASTER")));
        assert!(status["uuid"].is_null());
        assert!(status["message"].as_str().unwrap().contains(text), "{status}");
    }
    scheduler.until("fits", "TASK_RUNNING").await;
}

pub async fn a_used_task_id_is_an_error_and_its_task_runs_on(rig: Rig) {
    let (scheduler, offers) = subscribed(&rig).await;
    scheduler.run(&offers[0], task("t", &offers[0], &["sleep", "600"])).await;
    scheduler.launch(&offers[1], &[task("t", &offers[1], &["sleep", "600"])]).await;
    let status = scheduler.status("t").await;
    assert_eq!(
        (status["state"].as_str(), status["message"].as_str()),
        (Some("TASK_ERROR"), Some("Task has duplicate ID: t"))
    );
    assert_eq!(status["agent_id"], offers[1]["agent_id"]);
    scheduler.reconcile("t", None).await;
    let status = scheduler.status("t").await;
    assert_eq!((status["state"].as_str(), &status["agent_id"]), (Some("TASK_RUNNING"), &offers[0]["agent_id"]));
}

pub async fn killing_what_the_master_does_not_know_answers_like_reconcile(rig: Rig) {
    let (scheduler, offers) = subscribed(&rig).await;
    scheduler.run(&offers[0], task("t", &offers[0], &["sleep", "600"])).await;
    scheduler.ok("KILL", json!({"task_id": {"value": "t"}, "agent_id": {"value": "wrong"}})).await;
    scheduler.ok("KILL", json!({"task_id": {"value": "t"}, "agent_id": offers[1]["agent_id"]})).await;
    assert!(updates(&scheduler.during(A_WHILE).await).is_empty());
    assert_eq!(rig.processes("sleep"), 1);
    scheduler.ok("KILL", json!({"task_id": {"value": "unknown"}})).await;
    let status = scheduler.status("unknown").await;
    assert_eq!(
        (status["state"].as_str(), status["reason"].as_str()),
        (Some("TASK_UNKNOWN"), Some("REASON_RECONCILIATION"))
    );
    scheduler.ok("KILL", json!({"task_id": {"value": "unknown"}, "agent_id": offers[1]["agent_id"]})).await;
    assert_eq!(scheduler.status("unknown").await["state"], "TASK_GONE");
}

pub async fn reconcile_answers_what_the_master_knows(rig: Rig) {
    let (scheduler, offers) = subscribed(&rig).await;
    scheduler.run(&offers[0], task("a", &offers[0], &["sleep", "600"])).await;
    scheduler.run(&offers[1], task("b", &offers[1], &["sleep", "600"])).await;
    scheduler.ok("RECONCILE", json!({})).await;
    for id in ["a", "b"] {
        let status = scheduler.status(id).await;
        assert_eq!(status["state"], "TASK_RUNNING");
        assert_eq!(status["source"], "SOURCE_MASTER");
        assert_eq!(status["reason"], "REASON_RECONCILIATION");
        assert_eq!(status["message"], "Reconciliation: Latest task state");
        assert!(status["uuid"].is_null());
        assert!(status["container_status"]["network_infos"].is_array());
    }
    let cases = [
        ("x", None, "TASK_UNKNOWN", "Reconciliation: Task is unknown"),
        ("x", Some(&offers[2]["agent_id"]), "TASK_GONE", "Reconciliation: Task is unknown to the agent"),
        ("a", Some(&offers[2]["agent_id"]), "TASK_RUNNING", "Reconciliation: Latest task state"),
    ];
    for (id, agent_id, state, message) in cases {
        scheduler.reconcile(id, agent_id).await;
        let status = scheduler.status(id).await;
        assert_eq!((status["state"].as_str(), status["message"].as_str()), (Some(state), Some(message)));
    }
    // A task that has ended, and whose end is acknowledged, is gone.
    scheduler.ok("KILL", json!({"task_id": {"value": "a"}})).await;
    scheduler.until("a", "TASK_KILLED").await;
    scheduler.reconcile("a", Some(&offers[0]["agent_id"])).await;
    assert_eq!(scheduler.status("a").await["state"], "TASK_GONE");
}

pub async fn tasks_that_the_agent_cannot_run_are_refused_by_it(rig: Rig) {
    let (scheduler, offers) = subscribed(&rig).await;
    let mut limited = task("limited", &offers[0], &["sleep", "600"]);
    limited["limits"] = json!({"mem": 64});
    let (status, text) = scheduler.call("ACCEPT", accept(&[&offers[0]], &[limited.clone()], 0.0)).await;
    let expected = "Failed to convert JSON into Call protobuf: Not expecting a JSON number for field 'value'";
    assert_eq!((status, text.as_str()), (400, expected));
    limited["limits"] = json!({"mem": {"value": 64}});
    let mut universal = task("universal", &offers[0], &["sleep", "600"]);
    universal["container"] =
        json!({"type": "MESOS", "mesos": {"image": {"type": "DOCKER", "docker": {"name": "redis:7.2"}}}});
    let mut docker = task("docker", &offers[0], &["sleep", "600"]);
    docker["container"] = json!({"type": "DOCKER", "docker": {"image": "redis:7.2"}});
    scheduler.launch(&offers[0], &[limited, universal, docker]).await;
    let cases = [
        ("limited", "TASK_DROPPED", "REASON_GC_ERROR"),
        ("universal", "TASK_FAILED", "REASON_CONTAINER_LAUNCH_FAILED"),
        ("docker", "TASK_FAILED", "REASON_EXECUTOR_TERMINATED"),
    ];
    for (id, state, reason) in cases {
        let status = scheduler.status(id).await;
        assert_eq!((status["state"].as_str(), status["reason"].as_str()), (Some(state), Some(reason)), "{status}");
        assert_eq!(status["source"], "SOURCE_AGENT");
        assert!(status["uuid"].is_string());
    }
}

pub async fn teardown_kills_the_tasks(rig: Rig) {
    let (scheduler, offers) = subscribed(&rig).await;
    scheduler.run(&offers[0], task("t", &offers[0], &["sleep", "600"])).await;
    assert_eq!(rig.processes("sleep"), 1);
    scheduler.ok("TEARDOWN", Value::Null).await;
    assert_eq!(scheduler.ended().await, "closed");
    wait_until("the process is gone", TIMEOUT, async || rig.processes("sleep") == 0).await;
    let frameworks = ask(&rig.address(), "GET_FRAMEWORKS").await;
    assert_eq!(frameworks["frameworks"], json!([]));
    let removed = &frameworks["completed_frameworks"][0];
    assert_eq!(removed["framework_info"]["id"]["value"], scheduler.framework_id.as_str());
    let other = Scheduler::new(&rig.address()).await;
    assert_eq!(other.offers(AGENTS).await.len(), AGENTS);
}

pub async fn the_operator_api_tells_of_agents_frameworks_and_tasks(rig: Rig) {
    let (scheduler, offers) = subscribed(&rig).await;
    scheduler.run(&offers[0], task("t", &offers[0], &["sleep", "600"])).await;
    let address = rig.address();
    let agents = ask(&address, "GET_AGENTS").await;
    assert_eq!(agents["recovered_agents"], json!([]));
    let agents = agents["agents"].as_array().unwrap();
    assert_eq!(agents.len(), AGENTS);
    let agent = agents.iter().find(|a| a["agent_info"]["id"] == offers[0]["agent_id"]).expect("the agent is listed");
    assert_eq!((&agent["active"], &agent["deactivated"]), (&json!(true), &json!(false)));
    assert_eq!(agent["agent_info"]["hostname"], offers[0]["hostname"]);
    assert_eq!(agent["agent_info"]["attributes"], offers[0]["attributes"]);
    assert_eq!(agent["version"], "1.11.0");

    let frameworks = ask(&address, "GET_FRAMEWORKS").await;
    let framework = &frameworks["frameworks"][0];
    assert_eq!(framework["framework_info"]["id"]["value"], scheduler.framework_id.as_str());
    assert_eq!(framework["framework_info"]["roles"], json!([ROLE]));
    let flags = ["active", "connected", "recovered"].map(|key| framework[key].as_bool());
    assert_eq!(flags, [Some(true), Some(true), Some(false)]);

    let tasks = ask(&address, "GET_TASKS").await;
    let seen = &tasks["tasks"][0];
    assert_eq!((&tasks["unreachable_tasks"], &tasks["completed_tasks"]), (&json!([]), &json!([])));
    assert_eq!((seen["task_id"]["value"].as_str(), seen["state"].as_str()), (Some("t"), Some("TASK_RUNNING")));
    assert_eq!(seen["labels"], json!({"labels": [{"key": "instance", "value": "orders"}]}));
    assert_eq!(seen["statuses"].as_array().map(Vec::len), Some(2));
    assert_eq!(seen["status_update_state"], "TASK_RUNNING");
    scheduler.ok("KILL", json!({"task_id": {"value": "t"}})).await;
    scheduler.until("t", "TASK_KILLED").await;
    let tasks = wait_until("the task is completed", TIMEOUT, async || {
        let tasks = ask(&address, "GET_TASKS").await;
        (tasks["tasks"] == json!([])).then_some(tasks)
    })
    .await;
    assert_eq!(tasks["completed_tasks"][0]["state"], "TASK_KILLED");
    assert!(ask(&address, "GET_MASTER").await["master_info"]["id"].is_string());
}
