//! The maintenance schedule and inverse offers. I/O.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::rig::{AGENTS, Rig};
use crate::scheduler::{Scheduler, ask, operate, task};

/// More than an allocation interval: what has not come by then does not come.
const TWO_ROUNDS: Duration = Duration::from_millis(2500);
const NANOS_PER_S: u64 = 1_000_000_000;

/// A window for the agents of these offers, of ten minutes, that begins in so many seconds.
pub fn unavailable(offers: &[&Value], in_s: u64) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    let machine = |offer: &&Value| json!({"hostname": offer["hostname"], "ip": offer["url"]["address"]["ip"]});
    json!({
        "machine_ids": offers.iter().map(machine).collect::<Vec<_>>(),
        "unavailability": {
            "start": {"nanoseconds": (now + in_s) * NANOS_PER_S},
            "duration": {"nanoseconds": 600 * NANOS_PER_S},
        },
    })
}

async fn try_schedule(rig: &Rig, windows: &[Value]) -> (u16, String) {
    operate(&rig.address(), "UPDATE_MAINTENANCE_SCHEDULE", &json!({"schedule": {"windows": windows}})).await
}

/// Sets the schedule.
pub async fn schedule(rig: &Rig, windows: &[Value]) {
    assert_eq!(try_schedule(rig, windows).await, (200, String::new()));
}

/// A suppressed scheduler with one task `t`, no offers, and the offer that the task runs on.
async fn suppressed(rig: &Rig) -> (Scheduler, Value) {
    let scheduler = Scheduler::new(&rig.address()).await;
    let offer = scheduler.offers(AGENTS).await.remove(0);
    scheduler.run(&offer, task("t", &offer, &["sleep", "600"])).await;
    scheduler.ok("SUPPRESS", Value::Null).await;
    (scheduler, offer)
}

/// Takes the inverse offers of the next event.
async fn inverse_offers(scheduler: &Scheduler) -> Vec<Value> {
    let event = scheduler.event("INVERSE_OFFERS").await;
    event["inverse_offers"]["inverse_offers"].as_array().expect("inverse offers are a list").clone()
}

async fn inverse_offer(scheduler: &Scheduler) -> Value {
    let mut offers = inverse_offers(scheduler).await;
    assert_eq!(offers.len(), 1, "{offers:?}");
    offers.remove(0)
}

async fn answer(scheduler: &Scheduler, call: &str, offer: &Value, refuse_s: f64) {
    let body = json!({"inverse_offer_ids": [offer["id"]], "filters": {"refuse_seconds": refuse_s}});
    scheduler.ok(call, body).await;
}

/// The answer that `GET_MAINTENANCE_STATUS` shows of the only machine.
async fn shown(rig: &Rig) -> Value {
    ask(&rig.address(), "GET_MAINTENANCE_STATUS").await["status"]["draining_machines"][0]["statuses"].clone()
}

async fn none_comes(scheduler: &Scheduler) {
    let events = scheduler.during(TWO_ROUNDS).await;
    assert!(events.iter().all(|event| event["type"] != "INVERSE_OFFERS"), "{events:?}");
}

pub async fn maintenance_ahead_is_told_by_offers_and_inverse_offers(rig: Rig) {
    let (scheduler, offer) = suppressed(&rig).await;
    assert_eq!(ask(&rig.address(), "GET_MAINTENANCE_SCHEDULE").await, json!({"schedule": {}}));
    assert_eq!(ask(&rig.address(), "GET_MAINTENANCE_STATUS").await, json!({"status": {}}));
    let window = unavailable(&[&offer], 3600);
    schedule(&rig, std::slice::from_ref(&window)).await;
    let asked = inverse_offer(&scheduler).await;
    assert_eq!(asked["unavailability"], window["unavailability"]);
    assert_eq!((&asked["agent_id"], &asked["url"]), (&offer["agent_id"], &offer["url"]));
    assert_eq!(asked["framework_id"]["value"], scheduler.framework_id.as_str());
    assert!(asked["resources"].is_null());
    assert_eq!(ask(&rig.address(), "GET_MAINTENANCE_SCHEDULE").await, json!({"schedule": {"windows": [window]}}));
    let status = ask(&rig.address(), "GET_MAINTENANCE_STATUS").await;
    assert_eq!(status["status"], json!({"draining_machines": [{"id": window["machine_ids"][0]}]}));

    scheduler.drain();
    scheduler.ok("REVIVE", Value::Null).await;
    for offered in scheduler.offers(AGENTS).await {
        let expected = if offered["agent_id"] == offer["agent_id"] { &window["unavailability"] } else { &Value::Null };
        assert_eq!(&offered["unavailability"], expected);
    }
    schedule(&rig, &[]).await;
    let rescinded = scheduler.event("RESCIND_INVERSE_OFFER").await;
    assert_eq!(rescinded["rescind_inverse_offer"]["inverse_offer_id"], asked["id"]);
    assert!(scheduler.offers(AGENTS).await.iter().all(|offer| offer["unavailability"].is_null()));
    assert_eq!(ask(&rig.address(), "GET_MAINTENANCE_STATUS").await, json!({"status": {}}));
}

pub async fn every_new_schedule_takes_all_offers_back(rig: Rig) {
    let scheduler = Scheduler::new(&rig.address()).await;
    let offers = scheduler.offers(AGENTS).await;
    let window = unavailable(&[&offers[0], &offers[1]], 3600);
    for round in 0..2 {
        // The second says nothing new.
        schedule(&rig, std::slice::from_ref(&window)).await;
        for _ in 0..AGENTS {
            scheduler.event("RESCIND").await;
        }
        for _ in 0..2 * round {
            scheduler.event("RESCIND_INVERSE_OFFER").await;
        }
        scheduler.offers(AGENTS).await;
        // Whoever has only an offer is asked, too.
        let mut asked = BTreeSet::new();
        while asked.len() < 2 {
            asked.extend(inverse_offers(&scheduler).await.iter().map(|offer| offer["agent_id"].to_string()));
        }
        assert_eq!(asked, BTreeSet::from([0, 1].map(|i: usize| offers[i]["agent_id"].to_string())));
    }
    let status = ask(&rig.address(), "GET_MAINTENANCE_STATUS").await;
    assert_eq!(status["status"]["draining_machines"].as_array().map(Vec::len), Some(2));
}

pub async fn an_answered_inverse_offer_comes_again_when_its_filter_ends(rig: Rig) {
    let (scheduler, offer) = suppressed(&rig).await;
    schedule(&rig, &[unavailable(&[&offer], 3600)]).await;
    let first = inverse_offer(&scheduler).await;
    none_comes(&scheduler).await;
    answer(&scheduler, "DECLINE_INVERSE_OFFERS", &first, 1.0).await;
    let shown_of = |status: &Value| (status[0]["status"].clone(), status[0]["framework_id"]["value"].clone());
    let mine = json!(scheduler.framework_id);
    assert_eq!(shown_of(&shown(&rig).await), (json!("DECLINE"), mine.clone()));
    let second = inverse_offer(&scheduler).await;
    assert_ne!(second["id"], first["id"]);
    answer(&scheduler, "ACCEPT_INVERSE_OFFERS", &second, 1.0).await;
    assert_eq!(shown_of(&shown(&rig).await), (json!("ACCEPT"), mine));
    assert!(shown(&rig).await[0]["timestamp"]["nanoseconds"].is_i64());
    // As long as a task is there; an answer to what is not out changes nothing.
    inverse_offer(&scheduler).await;
    answer(&scheduler, "DECLINE_INVERSE_OFFERS", &second, 1.0).await;
    assert_eq!(shown(&rig).await[0]["status"], "ACCEPT");
    scheduler.ok("KILL", json!({"task_id": {"value": "t"}})).await;
    scheduler.until("t", "TASK_KILLED").await;
    none_comes(&scheduler).await;
}

pub async fn a_refused_inverse_offer_comes_again_on_revive_and_with_a_new_subscription(rig: Rig) {
    let (scheduler, offer) = suppressed(&rig).await;
    schedule(&rig, &[unavailable(&[&offer], 3600)]).await;
    answer(&scheduler, "DECLINE_INVERSE_OFFERS", &inverse_offer(&scheduler).await, 1000.0).await;
    none_comes(&scheduler).await;
    scheduler.ok("REVIVE", Value::Null).await;
    answer(&scheduler, "DECLINE_INVERSE_OFFERS", &inverse_offer(&scheduler).await, 1000.0).await;
    none_comes(&scheduler).await;
    let again = scheduler.again().await;
    assert_eq!(inverse_offer(&again).await["agent_id"], offer["agent_id"]);
    assert_eq!(shown(&rig).await[0]["status"], "DECLINE");
}

pub async fn an_inverse_offer_due_while_its_agent_is_deactivated_is_lost_until_the_next_schedule(rig: Rig) {
    let (scheduler, offer) = suppressed(&rig).await;
    let window = unavailable(&[&offer], 3600);
    schedule(&rig, std::slice::from_ref(&window)).await;
    let asked = inverse_offer(&scheduler).await;
    let agent = json!({"agent_id": offer["agent_id"]});
    let (status, text) = operate(&rig.address(), "DRAIN_AGENT", &agent).await;
    assert_eq!(status, 400);
    assert!(text.contains("is part of a maintenance schedule under Machine"), "{text}");
    assert_eq!(operate(&rig.address(), "DEACTIVATE_AGENT", &agent).await.0, 200);
    let rescinded = scheduler.event("RESCIND_INVERSE_OFFER").await;
    assert_eq!(rescinded["rescind_inverse_offer"]["inverse_offer_id"], asked["id"]);
    none_comes(&scheduler).await;
    assert_eq!(operate(&rig.address(), "REACTIVATE_AGENT", &agent).await.0, 200);
    none_comes(&scheduler).await;
    scheduler.ok("REVIVE", Value::Null).await;
    none_comes(&scheduler).await;
    schedule(&rig, std::slice::from_ref(&window)).await;
    inverse_offer(&scheduler).await;
}

pub async fn a_suppressed_framework_is_asked_to_leave_too(rig: Rig) {
    let (scheduler, offer) = suppressed(&rig).await;
    let idle = Scheduler::new(&rig.address()).await;
    idle.ok("SUPPRESS", Value::Null).await;
    schedule(&rig, &[unavailable(&[&offer], 3600)]).await;
    assert_eq!(inverse_offer(&scheduler).await["agent_id"], offer["agent_id"]);
    none_comes(&idle).await;
}

pub async fn a_wrong_schedule_is_refused_with_the_masters_words(rig: Rig) {
    let scheduler = Scheduler::new(&rig.address()).await;
    let offer = scheduler.offers(1).await.remove(0);
    let window = unavailable(&[&offer], 3600);
    let mut nobody = window.clone();
    nobody["machine_ids"] = json!([{}]);
    let mut negative = window.clone();
    negative["unavailability"]["duration"] = json!({"nanoseconds": -1});
    let mut timeless = window.clone();
    timeless.as_object_mut().expect("a window is an object").remove("unavailability");
    let twice = format!("Machine '{}' appears more than once in the schedule", window["machine_ids"][0]);
    let missing = "Failed to convert JSON into Call protobuf: Missing required fields: \
                   update_maintenance_schedule.schedule.windows[0].unavailability";
    let cases = [
        (vec![window.clone(), window.clone()], twice.as_str()),
        (vec![unavailable(&[], 3600)], "List of machines in the maintenance window is empty"),
        (vec![nobody], "Both 'hostname' and 'ip' for a machine are empty"),
        (vec![negative], "Unavailability 'duration' is negative"),
        (vec![timeless], missing),
    ];
    for (windows, text) in cases {
        assert_eq!(try_schedule(&rig, &windows).await, (400, text.to_string()));
    }
    assert_eq!(ask(&rig.address(), "GET_MAINTENANCE_SCHEDULE").await, json!({"schedule": {}}));
    assert_eq!(scheduler.call("DECLINE_INVERSE_OFFERS", Value::Null).await.0, 400);
    let unknown = json!({"inverse_offer_ids": [{"value": "stranger"}]});
    scheduler.ok("ACCEPT_INVERSE_OFFERS", unknown).await;
}
