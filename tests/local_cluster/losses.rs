//! Agents and masters that die and come back. I/O.

use serde_json::{Value, json};

use crate::rig::{AGENTS, Rig};
use crate::scheduler::{Scheduler, TIMEOUT, ask, task};
use crate::support::wait_until;

/// A scheduler with one task `t` that sleeps on the first agent offered.
async fn sleeping(rig: &Rig) -> (Scheduler, String, Value) {
    let scheduler = Scheduler::new(&rig.address()).await;
    let offer = scheduler.offers(AGENTS).await.remove(0);
    scheduler.run(&offer, task("t", &offer, &["sleep", "600"])).await;
    scheduler.offers(1).await;
    (scheduler, offer["hostname"].as_str().unwrap().to_string(), offer["agent_id"].clone())
}

/// What is seen when the agent is given up.
async fn is_given_up(rig: &Rig, scheduler: &Scheduler, agent_id: &Value) {
    scheduler.event("RESCIND").await;
    let status = scheduler.status("t").await;
    assert_eq!(status["state"], "TASK_UNREACHABLE");
    assert_eq!(status["reason"], "REASON_AGENT_REMOVED");
    assert_eq!(status["message"], "health check timed out");
    assert_eq!(&status["agent_id"], agent_id);
    assert!(status["uuid"].is_null());
    assert!(status["unreachable_time"]["nanoseconds"].is_i64());
    assert_eq!(scheduler.event("FAILURE").await["failure"], json!({"agent_id": agent_id}));
    let tasks = ask(&rig.address(), "GET_TASKS").await;
    assert_eq!((&tasks["tasks"], &tasks["unreachable_tasks"][0]["state"]), (&json!([]), &json!("TASK_UNREACHABLE")));
    let agents = ask(&rig.address(), "GET_AGENTS").await;
    assert_eq!(agents["agents"].as_array().map(Vec::len), Some(AGENTS - 1));
    // With the agent's id it is unreachable, without it unknown, and a kill is only a question.
    scheduler.reconcile("t", Some(agent_id)).await;
    assert_eq!(scheduler.status("t").await["state"], "TASK_UNREACHABLE");
    scheduler.reconcile("t", None).await;
    assert_eq!(scheduler.status("t").await["state"], "TASK_UNKNOWN");
    scheduler.ok("KILL", json!({"task_id": {"value": "t"}, "agent_id": agent_id})).await;
    assert_eq!(scheduler.status("t").await["state"], "TASK_UNREACHABLE");
    scheduler.ok("RECONCILE", json!({})).await;
}

pub async fn a_dead_machine_is_unreachable_and_its_tasks_have_failed_when_it_is_back(mut rig: Rig) {
    let (scheduler, host, agent_id) = sleeping(&rig).await;
    rig.kill_machine(&host);
    assert_eq!(rig.processes("sleep"), 0);
    is_given_up(&rig, &scheduler, &agent_id).await;
    rig.restart_agent(&host);
    let told = scheduler.status_that("t", "is back", |s| s["reason"] == "REASON_AGENT_REREGISTERED").await;
    assert_eq!((told["state"].as_str(), told["uuid"].as_str()), (Some("TASK_FAILED"), None));
    let failed = scheduler.until("t", "TASK_FAILED").await;
    assert_eq!(failed["reason"], "REASON_EXECUTOR_TERMINATED");
    assert_eq!(failed["source"], "SOURCE_AGENT");
    assert!(failed["uuid"].is_string());
    let offers = scheduler.offers(1).await;
    assert_eq!(offers[0]["agent_id"], agent_id);
    scheduler.reconcile("t", Some(&agent_id)).await;
    scheduler.status_that("t", "is gone", |s| s["state"] == "TASK_GONE").await;
}

pub async fn a_dead_agents_tasks_run_on_and_come_back(mut rig: Rig) {
    let (scheduler, host, agent_id) = sleeping(&rig).await;
    rig.kill_agent(&host);
    is_given_up(&rig, &scheduler, &agent_id).await;
    assert_eq!(rig.processes("sleep"), 1);
    rig.restart_agent(&host);
    let back = scheduler.status("t").await;
    assert_eq!((back["state"].as_str(), back["uuid"].as_str()), (Some("TASK_RUNNING"), None));
    assert_eq!(back["reason"], "REASON_AGENT_REREGISTERED");
    assert_eq!(back["agent_id"], agent_id);
    assert_eq!(scheduler.offers(1).await[0]["agent_id"], agent_id);
    scheduler.ok("KILL", json!({"task_id": {"value": "t"}})).await;
    scheduler.until("t", "TASK_KILLED").await;
}

pub async fn a_new_master_learns_of_tasks_from_the_agents(mut rig: Rig) {
    let (scheduler, _, agent_id) = sleeping(&rig).await;
    let old_master = ask(&rig.address(), "GET_MASTER").await["master_info"]["id"].clone();
    rig.stop_master();
    assert!(scheduler.ended().await.starts_with("broken"), "a dead master says no goodbye");
    rig.start_master().await;
    let again = wait_until("the new master takes subscriptions", TIMEOUT, async || {
        let ready = ask(&rig.address(), "GET_MASTER").await["master_info"]["id"] != old_master;
        if ready { Some(scheduler.again().await) } else { None }
    })
    .await;
    assert_eq!(again.framework_id, scheduler.framework_id);
    // Silence while the agent is missing; then its tasks are found, and offers come.
    wait_until("the task is found", TIMEOUT, async || {
        again.reconcile("t", Some(&agent_id)).await;
        let answers: Vec<Value> = again.drain().into_iter().filter(|e| e["type"] == "UPDATE").collect();
        for answer in &answers {
            assert_eq!(answer["update"]["status"]["state"], "TASK_RUNNING");
        }
        !answers.is_empty()
    })
    .await;
    again.ok("KILL", json!({"task_id": {"value": "t"}})).await;
    again.until("t", "TASK_KILLED").await;
    assert_eq!(rig.processes("sleep"), 0);
}

pub async fn a_machine_that_hangs_goes_on_where_it_was(mut rig: Rig) {
    let (scheduler, host, agent_id) = sleeping(&rig).await;
    rig.freeze_machine(&host);
    is_given_up(&rig, &scheduler, &agent_id).await;
    rig.thaw_machine(&host);
    let back = scheduler.status("t").await;
    assert_eq!((back["state"].as_str(), back["uuid"].as_str()), (Some("TASK_RUNNING"), None));
    assert_eq!(back["reason"], "REASON_AGENT_REREGISTERED");
    assert_eq!(rig.processes("sleep"), 1);
    scheduler.ok("KILL", json!({"task_id": {"value": "t"}})).await;
    scheduler.until("t", "TASK_KILLED").await;
}

pub async fn what_is_sent_to_a_machine_that_hangs_for_a_moment_arrives(mut rig: Rig) {
    let scheduler = Scheduler::new(&rig.address()).await;
    let offers = scheduler.offers(AGENTS).await;
    let host = offers[0]["hostname"].as_str().unwrap().to_string();
    rig.freeze_machine(&host);
    scheduler.launch(&offers[0], &[task("t", &offers[0], &["sleep", "600"])]).await;
    scheduler.reconcile("t", None).await;
    assert_eq!(scheduler.status("t").await["state"], "TASK_STAGING");
    rig.thaw_machine(&host);
    scheduler.until("t", "TASK_RUNNING").await;
}
