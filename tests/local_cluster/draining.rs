//! Agents that are deactivated or drained. I/O.

use serde_json::{Value, json};

use crate::maintenance::{schedule, unavailable};
use crate::rig::{AGENTS, Rig};
use crate::scheduler::{Scheduler, TIMEOUT, ask, operate, task};
use crate::support::wait_until;

const OK: (u16, String) = (200, String::new());

fn refused(text: &str) -> (u16, String) {
    (400, text.to_string())
}

/// A call of the operator API that only names an agent.
async fn on(rig: &Rig, call: &str, agent_id: &Value) -> (u16, String) {
    operate(&rig.address(), call, &json!({"agent_id": agent_id})).await
}

/// What `GET_AGENTS` says of an agent.
async fn seen(rig: &Rig, agent_id: &Value) -> Option<Value> {
    let agents = ask(&rig.address(), "GET_AGENTS").await;
    agents["agents"].as_array().unwrap().iter().find(|agent| agent["agent_info"]["id"] == *agent_id).cloned()
}

async fn drain_state(rig: &Rig, agent_id: &Value) -> Value {
    seen(rig, agent_id).await.map(|agent| agent["drain_info"]["state"].clone()).unwrap_or_default()
}

async fn is_drained(rig: &Rig, agent_id: &Value) {
    wait_until("the agent is drained", TIMEOUT, async || drain_state(rig, agent_id).await == "DRAINED").await;
}

/// Waits until the agent is offered.
async fn offered(scheduler: &Scheduler, agent_id: &Value) -> Value {
    loop {
        let offers = scheduler.offers(1).await;
        if let Some(offer) = offers.into_iter().find(|offer| offer["agent_id"] == *agent_id) {
            return offer;
        }
    }
}

/// A scheduler with one task `t` on the first agent offered, and what is left of that offer.
async fn with_task(rig: &Rig, argv: &[&str], grace_s: u64) -> (Scheduler, Value) {
    let scheduler = Scheduler::new(&rig.address()).await;
    let offer = scheduler.offers(AGENTS).await.remove(0);
    let mut task = task("t", &offer, argv);
    task["kill_policy"] = json!({"grace_period": {"nanoseconds": grace_s * 1_000_000_000}});
    scheduler.run(&offer, task).await;
    let offer = offered(&scheduler, &offer["agent_id"]).await;
    (scheduler, offer)
}

/// Takes the next status of a task, `TASK_KILLING` too.
async fn next_status(scheduler: &Scheduler) -> Value {
    scheduler.take("something is said of t", |event| event["type"] == "UPDATE").await["update"]["status"].clone()
}

pub async fn a_deactivated_agent_is_not_offered_until_it_is_reactivated(rig: Rig) {
    let (scheduler, offer) = with_task(&rig, &["sleep", "600"], 3).await;
    let agent = &offer["agent_id"];
    assert_eq!(on(&rig, "DEACTIVATE_AGENT", agent).await, OK);
    assert_eq!(scheduler.event("RESCIND").await["rescind"]["offer_id"], offer["id"]);
    let said = seen(&rig, agent).await.expect("it is listed");
    assert_eq!((&said["active"], &said["deactivated"]), (&json!(false), &json!(true)));
    assert!(said.get("drain_info").is_none());
    assert_eq!(on(&rig, "DEACTIVATE_AGENT", agent).await, OK);
    scheduler.reconcile("t", Some(agent)).await;
    assert_eq!(scheduler.status("t").await["state"], "TASK_RUNNING");
    scheduler.ok("REVIVE", Value::Null).await;
    // A schedule takes all offers back and makes them again: not of this agent.
    schedule(&rig, &[]).await;
    assert_eq!(scheduler.offers(AGENTS - 1).await.iter().filter(|offer| offer["agent_id"] == *agent).count(), 0);

    assert_eq!(on(&rig, "REACTIVATE_AGENT", agent).await, OK);
    offered(&scheduler, agent).await;
    let said = seen(&rig, agent).await.expect("it is listed");
    assert_eq!((&said["active"], &said["deactivated"]), (&json!(true), &json!(false)));

    let stranger = json!({"value": "stranger"});
    assert_eq!(on(&rig, "REACTIVATE_AGENT", agent).await, refused("Agent is not deactivated"));
    assert_eq!(on(&rig, "REACTIVATE_AGENT", &stranger).await, refused("Agent is not deactivated"));
    assert_eq!(on(&rig, "DEACTIVATE_AGENT", &stranger).await, refused("Unknown agent"));
    assert_eq!(on(&rig, "DRAIN_AGENT", &stranger).await, refused("Unknown agent"));
    let text = "Failed to validate master::Call: Expecting 'drain_agent' to be present";
    assert_eq!(operate(&rig.address(), "DRAIN_AGENT", &Value::Null).await, refused(text));
}

pub async fn a_drained_agents_tasks_are_killed_and_it_is_drained_once_that_is_acknowledged(rig: Rig) {
    let (scheduler, offer) = with_task(&rig, &["sleep", "600"], 3).await;
    let agent = &offer["agent_id"];
    assert_eq!(on(&rig, "DRAIN_AGENT", agent).await, OK);
    assert_eq!(scheduler.event("RESCIND").await["rescind"]["offer_id"], offer["id"]);
    scheduler.launch(&offer, &[task("late", &offer, &["sleep", "600"])]).await;
    let late = scheduler.take("late is refused", |e| e["update"]["status"]["task_id"]["value"] == "late").await;
    assert_eq!(late["update"]["status"]["reason"], "REASON_INVALID_OFFERS");

    let killed = loop {
        let status = next_status(&scheduler).await;
        assert_eq!(
            (&status["reason"], &status["source"]),
            (&json!("REASON_AGENT_DRAINING"), &json!("SOURCE_EXECUTOR"))
        );
        if status["state"] == "TASK_KILLED" {
            break status;
        }
        assert_eq!(status["state"], "TASK_KILLING"); // Not every executor says so.
        scheduler.acknowledge(&status).await;
    };
    let said = seen(&rig, agent).await.expect("it is listed");
    assert_eq!((&said["active"], &said["deactivated"]), (&json!(false), &json!(true)));
    assert_eq!(said["drain_info"], json!({"state": "DRAINING", "config": {"mark_gone": false}}));
    assert!(said["estimated_drain_start_time"]["nanoseconds"].is_i64());
    assert_eq!(on(&rig, "REACTIVATE_AGENT", agent).await, refused("Agent is still in the DRAINING state"));
    scheduler.acknowledge(&killed).await;
    is_drained(&rig, agent).await;
    assert_eq!(on(&rig, "REACTIVATE_AGENT", agent).await, OK);
    offered(&scheduler, agent).await;
    assert!(seen(&rig, agent).await.is_some_and(|agent| agent.get("drain_info").is_none()));
}

pub async fn a_drain_leaves_each_task_its_grace_as_far_as_it_allows(rig: Rig) {
    let stubborn = ["bash", "-c", "trap '' TERM; while true; do sleep 0.1; done"];
    let (scheduler, offer) = with_task(&rig, &stubborn, 600).await;
    wait_until("the task ignores SIGTERM", TIMEOUT, async || rig.processes("sleep") > 0).await;
    assert_eq!(on(&rig, "DRAIN_AGENT", &offer["agent_id"]).await, OK);
    let ends = |event: &Value| event["update"]["status"]["state"] == "TASK_KILLED";
    let events = scheduler.during(std::time::Duration::from_secs(2)).await;
    for killing in events.iter().filter(|event| event["type"] == "UPDATE") {
        assert!(!ends(killing), "the task has its grace");
        scheduler.acknowledge(&killing["update"]["status"]).await;
    }
    // Drained again: what is shorter holds.
    let body = json!({"agent_id": offer["agent_id"], "max_grace_period": {"seconds": 1}});
    assert_eq!(operate(&rig.address(), "DRAIN_AGENT", &body).await, OK);
    scheduler.until("t", "TASK_KILLED").await;
    is_drained(&rig, &offer["agent_id"]).await;
    let config = json!({"max_grace_period": {"nanoseconds": 1_000_000_000}, "mark_gone": false});
    assert_eq!(seen(&rig, &offer["agent_id"]).await.expect("it is listed")["drain_info"]["config"], config);
}

pub async fn an_agent_drained_for_good_is_gone_with_its_tasks(mut rig: Rig) {
    let (scheduler, offer) = with_task(&rig, &["sleep", "600"], 3).await;
    let agent = &offer["agent_id"];
    let body = json!({"agent_id": agent, "mark_gone": true});
    assert_eq!(operate(&rig.address(), "DRAIN_AGENT", &body).await, OK);
    let gone = scheduler.until("t", "TASK_GONE_BY_OPERATOR").await;
    assert_eq!(gone["reason"], "REASON_AGENT_DRAINING");
    assert_eq!(scheduler.event("FAILURE").await["failure"], json!({"agent_id": agent}));
    assert_eq!(seen(&rig, agent).await, None);
    wait_until("the process is gone", TIMEOUT, async || rig.processes("sleep") == 0).await;
    scheduler.reconcile("t", Some(agent)).await;
    let told = scheduler.status("t").await;
    assert_eq!(
        (&told["state"], &told["message"]),
        (&json!("TASK_GONE_BY_OPERATOR"), &json!("Reconciliation: Task is gone"))
    );
    assert_eq!(on(&rig, "REACTIVATE_AGENT", agent).await.0, 400);
    rig.restart_agent(offer["hostname"].as_str().unwrap());
    scheduler.drain();
    let events = scheduler.during(std::time::Duration::from_secs(2)).await;
    let back = events.iter().any(|e| e["type"] == "OFFERS" && e["offers"]["offers"][0]["agent_id"] == *agent);
    assert!(!back && seen(&rig, agent).await.is_none(), "it is not taken back");
}

pub async fn an_agent_that_was_away_drains_when_it_is_back(mut rig: Rig) {
    let (scheduler, offer) = with_task(&rig, &["sleep", "600"], 3).await;
    let (agent, host) = (&offer["agent_id"], offer["hostname"].as_str().unwrap());
    rig.kill_agent(host);
    assert_eq!(scheduler.status("t").await["state"], "TASK_UNREACHABLE");
    assert_eq!(on(&rig, "DRAIN_AGENT", agent).await, OK);
    assert_eq!(rig.processes("sleep"), 1);
    rig.restart_agent(host);
    assert_eq!(scheduler.status("t").await["reason"], "REASON_AGENT_REREGISTERED");
    assert_eq!(scheduler.until("t", "TASK_KILLED").await["reason"], "REASON_AGENT_DRAINING");
    is_drained(&rig, agent).await;
}

pub async fn a_new_master_knows_what_was_deactivated_drained_and_scheduled(mut rig: Rig) {
    let scheduler = Scheduler::new(&rig.address()).await;
    let offers = scheduler.offers(AGENTS).await;
    let [drained, deactivated, leaving] = [0, 1, 2].map(|i| &offers[i]);
    let window = unavailable(&[leaving], 3600);
    schedule(&rig, std::slice::from_ref(&window)).await;
    assert_eq!(on(&rig, "DRAIN_AGENT", &drained["agent_id"]).await, OK);
    assert_eq!(on(&rig, "DEACTIVATE_AGENT", &deactivated["agent_id"]).await, OK);
    is_drained(&rig, &drained["agent_id"]).await;
    drop(scheduler);
    rig.stop_master();
    rig.start_master().await;
    wait_until("the agents are back", TIMEOUT, async || {
        ask(&rig.address(), "GET_AGENTS").await["agents"].as_array().map(Vec::len) == Some(AGENTS)
    })
    .await;
    assert_eq!(drain_state(&rig, &drained["agent_id"]).await, "DRAINED");
    assert!(seen(&rig, &deactivated["agent_id"]).await.is_some_and(|agent| agent["deactivated"] == true));
    let kept = ask(&rig.address(), "GET_MAINTENANCE_SCHEDULE").await;
    assert_eq!(kept["schedule"]["windows"], json!([window]));
    let offer = Scheduler::new(&rig.address()).await.offers(1).await.remove(0);
    assert_eq!((&offer["agent_id"], &offer["unavailability"]), (&leaving["agent_id"], &window["unavailability"]));
}
