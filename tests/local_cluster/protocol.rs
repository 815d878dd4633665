//! Subscriptions, calls, offers. I/O.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{AGENTS, CPUS, MEM_MIB, Rig};
use crate::scheduler::{ROLE, Scheduler, TIMEOUT, framework_info, post, scalar, task};
use crate::support::wait_until;

/// More than an allocation interval: whoever has no offer now gets none.
const TWO_ROUNDS: Duration = Duration::from_millis(2500);

fn offered(events: &[Value]) -> usize {
    let offers = events.iter().filter(|event| event["type"] == "OFFERS");
    offers.map(|event| event["offers"]["offers"].as_array().map_or(0, Vec::len)).sum()
}

fn offer_ids(offers: &[Value]) -> Vec<Value> {
    offers.iter().map(|offer| offer["id"].clone()).collect()
}

async fn refused(rig: &Rig, subscribe: Value, id: Option<&str>) -> String {
    let scheduler = Scheduler::open(&rig.address(), subscribe, id).await;
    let message = scheduler.event("ERROR").await["error"]["message"].as_str().expect("a text").to_string();
    assert_eq!(scheduler.ended().await, "closed");
    message
}

pub async fn a_subscription_starts_with_its_id_a_heartbeat_and_offers(rig: Rig) {
    let scheduler = Scheduler::open(&rig.address(), json!({"framework_info": framework_info()}), None).await;
    let subscribed = scheduler.event("SUBSCRIBED").await["subscribed"].clone();
    let master = &subscribed["master_info"];
    let id = format!("{}-0000", master["id"].as_str().unwrap());
    assert_eq!(subscribed["framework_id"]["value"], id);
    assert_eq!(subscribed["heartbeat_interval_seconds"], 15.0);
    assert_eq!(master["version"], "1.11.0");
    assert_eq!(format!("{}:{}", master["address"]["ip"].as_str().unwrap(), master["port"]), rig.address());
    scheduler.event("HEARTBEAT").await;

    let offers = scheduler.offers(AGENTS).await;
    let agents: BTreeSet<&str> = offers.iter().filter_map(|offer| offer["agent_id"]["value"].as_str()).collect();
    let racks: BTreeSet<&str> =
        offers.iter().filter_map(|offer| offer["attributes"][0]["text"]["value"].as_str()).collect();
    assert_eq!(agents.len(), AGENTS);
    assert_eq!(racks, BTreeSet::from(["r1", "r2", "r3"]));
    for offer in &offers {
        assert_eq!((scalar(offer, "cpus"), scalar(offer, "mem")), (CPUS, f64::from(MEM_MIB)));
        assert_eq!(offer["framework_id"]["value"], id);
        assert_eq!(offer["allocation_info"], json!({"role": ROLE}));
        assert_eq!(offer["url"]["address"]["ip"], "127.0.0.1");
        assert_eq!(offer["url"]["address"]["hostname"], offer["hostname"]);
        let attribute = json!({"name": "rack", "type": "TEXT", "text": offer["attributes"][0]["text"]});
        assert_eq!(offer["attributes"], json!([attribute]));
        for resource in offer["resources"].as_array().unwrap() {
            assert_eq!(resource["allocation_info"], json!({"role": ROLE}), "{resource}");
            assert!(resource["reservations"].is_null(), "{resource}");
        }
    }
}

pub async fn a_second_subscription_ends_the_first_one(rig: Rig) {
    let first = Scheduler::new(&rig.address()).await;
    let old_offers = first.offers(AGENTS).await;
    let second = first.again().await;
    assert_eq!(second.framework_id, first.framework_id);
    assert_ne!(second.stream_id, first.stream_id);
    assert_eq!(first.event("ERROR").await["error"]["message"], "Framework failed over");
    assert_eq!(first.ended().await, "closed");
    // The offers of the first one are void; the second one gets its own.
    let new_offers = second.offers(AGENTS).await;
    assert!(offer_ids(&new_offers).iter().all(|id| !offer_ids(&old_offers).contains(id)));
    second.launch(&old_offers[0], &[task("t", &old_offers[0], &["sleep", "60"])]).await;
    assert_eq!(second.status("t").await["state"], "TASK_DROPPED");
}

pub async fn a_removed_framework_is_refused_and_an_unknown_one_is_not(rig: Rig) {
    let scheduler = Scheduler::new(&rig.address()).await;
    scheduler.ok("TEARDOWN", Value::Null).await;
    assert_eq!(scheduler.ended().await, "closed");
    let (status, text) = scheduler.call("REVIVE", Value::Null).await;
    assert_eq!((status, text.as_str()), (400, "Framework cannot be found"));
    let info = json!({"framework_info": framework_info()});
    assert_eq!(refused(&rig, info, Some(&scheduler.framework_id)).await, "Framework has been removed");
    let made_up = Scheduler::resume(&rig.address(), "never-heard-of").await;
    assert_eq!(made_up.framework_id, "never-heard-of");
}

pub async fn wrong_descriptions_are_told_by_an_error_event(rig: Rig) {
    let with = |key: &str, value: Value| {
        let mut info = framework_info();
        info[key] = value;
        json!({"framework_info": info})
    };
    assert_eq!(
        refused(&rig, with("roles", json!(["a b"])), None).await,
        "'FrameworkInfo.roles' contains invalid role: Role component 'a b' is invalid because it contains \
         backspace or whitespace"
    );
    assert_eq!(
        refused(&rig, with("role", json!("other")), None).await,
        "'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable"
    );
    let mut subscribe = json!({"framework_info": framework_info()});
    subscribe["suppressed_roles"] = json!(["other"]);
    assert_eq!(refused(&rig, subscribe, None).await, "Suppressed role 'other' is not contained in the list of roles");
}

pub async fn wrong_calls_are_refused_with_the_masters_words(rig: Rig) {
    let scheduler = Scheduler::new(&rig.address()).await;
    let invalid = |text: &str| (400, format!("Failed to validate scheduler::Call: {text}"));
    let missing =
        |field: &str| (400, format!("Failed to convert JSON into Call protobuf: Missing required fields: {field}"));
    for kind in ["ACCEPT", "DECLINE", "KILL", "ACKNOWLEDGE", "RECONCILE"] {
        let expected = invalid(&format!("Expecting '{}' to be present", kind.to_lowercase()));
        assert_eq!(scheduler.call(kind, Value::Null).await, expected);
    }
    assert_eq!(scheduler.call("NO_SUCH_CALL", Value::Null).await, invalid("Expecting 'type' to be present"));
    assert_eq!(scheduler.call("KILL", json!({})).await, missing("kill.task_id"));
    let mut acknowledge = json!({"agent_id": {"value": "a"}, "task_id": {"value": "t"}});
    assert_eq!(scheduler.call("ACKNOWLEDGE", acknowledge.clone()).await, missing("acknowledge.uuid"));
    acknowledge["uuid"] = "AAAA".into();
    assert_eq!(scheduler.call("ACKNOWLEDGE", acknowledge).await, invalid("Not a valid UUID"));
    // What is odd but taken: nothing to decline, a strange role, a strange field.
    scheduler.ok("DECLINE", json!({})).await;
    scheduler.ok("SUPPRESS", json!({"roles": ["strange"]})).await;
    scheduler.ok("REVIVE", json!({"role": "strange"})).await;

    let stream = [("mesos-stream-id", scheduler.stream_id.as_str())];
    let nobody = json!({"type": "REVIVE"}).to_string();
    assert_eq!(scheduler.raw(&stream, nobody).await, invalid("Expecting 'framework_id' to be present"));
    let stranger = json!({"type": "REVIVE", "framework_id": {"value": "stranger"}}).to_string();
    assert_eq!(scheduler.raw(&stream, stranger).await, (400, "Framework cannot be found".to_string()));
    let revive = json!({"type": "REVIVE", "framework_id": {"value": scheduler.framework_id}}).to_string();
    let text = "All non-subscribe calls should include the 'Mesos-Stream-Id' header".to_string();
    assert_eq!(scheduler.raw(&[], revive.clone()).await, (400, text));
    assert!(scheduler.raw(&stream, "{".to_string()).await.1.starts_with("Failed to parse body into JSON"));
    let text = "Failed to convert JSON into Call protobuf: Expecting a JSON object".to_string();
    assert_eq!(scheduler.raw(&stream, "[]".to_string()).await, (400, text));

    let path = "/api/v1/scheduler";
    let text = "Expecting 'Content-Type' to be present".to_string();
    assert_eq!(post(&rig.address(), path, &stream, revive.clone()).await, (400, text));
    let plain = [("content-type", "text/plain"), stream[0]];
    assert_eq!(post(&rig.address(), path, &plain, revive).await.0, 415);
    let mut subscribe = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": framework_info()}});
    subscribe["subscribe"]["framework_info"]["id"] = json!({"value": "x"});
    let text = "'framework_id' differs from 'subscribe.framework_info.id'";
    assert_eq!(scheduler.raw(&[], subscribe.to_string()).await, invalid(text));
    subscribe["subscribe"]["framework_info"] = json!({"user": "root"});
    assert_eq!(scheduler.raw(&[], subscribe.to_string()).await, missing("subscribe.framework_info.name"));
}

pub async fn calls_of_an_ended_subscription_are_refused(rig: Rig) {
    let first = Scheduler::new(&rig.address()).await;
    let second = first.again().await;
    let (status, text) = first.call("REVIVE", Value::Null).await;
    let expected = format!(
        "The stream ID '{}' included in this request didn't match the stream ID currently associated with \
         framework ID {}",
        first.stream_id, first.framework_id
    );
    assert_eq!((status, text), (400, expected));
    let (stream_id, framework_id) = (second.stream_id.clone(), second.framework_id.clone());
    drop(second);
    let revive = json!({"type": "REVIVE", "framework_id": {"value": framework_id}}).to_string();
    wait_until("the master sees the end of the stream", TIMEOUT, async || {
        let answer = first.raw(&[("mesos-stream-id", &stream_id)], revive.clone()).await;
        answer == (403, "Framework is not subscribed".to_string())
    })
    .await;
    // Back after an outage: offers come with the subscription.
    let third = first.again().await;
    assert_eq!(third.offers(AGENTS).await.len(), AGENTS);
}

pub async fn a_declined_offer_stays_away_until_revive(rig: Rig) {
    let scheduler = Scheduler::new(&rig.address()).await;
    let offers = scheduler.offers(AGENTS).await;
    let decline = |seconds: f64| json!({"filters": {"refuse_seconds": seconds}});
    let mut body = decline(3600.0);
    body["offer_ids"] = Value::Array(offer_ids(&offers));
    scheduler.ok("DECLINE", body).await;
    assert_eq!(offered(&scheduler.during(TWO_ROUNDS).await), 0);
    scheduler.ok("REVIVE", Value::Null).await;
    let offers = scheduler.offers(AGENTS).await;
    // Without a filter, they come again with the next round.
    let mut body = decline(0.0);
    body["offer_ids"] = Value::Array(offer_ids(&offers));
    scheduler.ok("DECLINE", body).await;
    let again = scheduler.offers(AGENTS).await;
    assert!(offer_ids(&again).iter().all(|id| !offer_ids(&offers).contains(id)));
    // What has been offered is not offered twice.
    assert_eq!(offered(&scheduler.during(TWO_ROUNDS).await), 0);
}

pub async fn suppressed_roles_get_no_offers_until_revive(rig: Rig) {
    let subscribe = json!({"framework_info": framework_info(), "suppressed_roles": [ROLE]});
    let scheduler = Scheduler::with(&rig.address(), subscribe, None).await;
    assert_eq!(offered(&scheduler.during(TWO_ROUNDS).await), 0);
    scheduler.ok("REVIVE", json!({"roles": [ROLE]})).await;
    let offers = scheduler.offers(AGENTS).await;
    // Offers that are out stay; what is given back does not come again.
    scheduler.ok("SUPPRESS", json!({"roles": [ROLE]})).await;
    scheduler.ok("DECLINE", json!({"offer_ids": [offers[0]["id"]], "filters": {"refuse_seconds": 0}})).await;
    let events = scheduler.during(TWO_ROUNDS).await;
    assert_eq!(offered(&events), 0);
    assert!(events.iter().all(|event| event["type"] != "RESCIND"), "{events:?}");
    scheduler.run(&offers[1], task("t", &offers[1], &["sleep", "60"])).await;
    // A call that names a strange role does nothing, for the other roles neither.
    scheduler.ok("REVIVE", json!({"roles": [ROLE, "strange"]})).await;
    assert_eq!(offered(&scheduler.during(TWO_ROUNDS).await), 0);
    scheduler.ok("REVIVE", Value::Null).await;
    assert_eq!(scheduler.offers(2).await.len(), 2);
}

pub async fn a_filter_ends_when_there_is_more_to_offer_than_was_refused(rig: Rig) {
    let scheduler = Scheduler::new(&rig.address()).await;
    let offers = scheduler.offers(AGENTS).await;
    let offer = &offers[0];
    scheduler.launch_on(&[offer], &[task("t", offer, &["sleep", "60"])], 3600.0).await;
    scheduler.until("t", "TASK_RUNNING").await;
    assert_eq!(offered(&scheduler.during(TWO_ROUNDS).await), 0);
    scheduler.ok("KILL", json!({"task_id": {"value": "t"}})).await;
    scheduler.until("t", "TASK_KILLED").await;
    let again = scheduler.offers(1).await;
    assert_eq!(again[0]["agent_id"], offer["agent_id"]);
    assert_eq!((scalar(&again[0], "cpus"), scalar(&again[0], "mem")), (CPUS, f64::from(MEM_MIB)));
}

pub async fn a_filter_outlives_a_subscription_but_not_an_outage(rig: Rig) {
    let first = Scheduler::new(&rig.address()).await;
    let offers = first.offers(AGENTS).await;
    let body = json!({"offer_ids": offer_ids(&offers), "filters": {"refuse_seconds": 3600}});
    first.ok("DECLINE", body).await;
    let second = first.again().await;
    assert_eq!(offered(&second.during(TWO_ROUNDS).await), 0);
    let (stream_id, framework_id) = (second.stream_id.clone(), second.framework_id.clone());
    drop(second);
    let question = json!({"type": "RECONCILE", "framework_id": {"value": framework_id}, "reconcile": {}}).to_string();
    wait_until("the master sees the end of the stream", TIMEOUT, async || {
        first.raw(&[("mesos-stream-id", &stream_id)], question.clone()).await.0 == 403
    })
    .await;
    let third = first.again().await;
    assert_eq!(third.offers(AGENTS).await.len(), AGENTS);
}

pub async fn two_frameworks_share_what_there_is(rig: Rig) {
    let first = Scheduler::new(&rig.address()).await;
    let offers = first.offers(AGENTS).await;
    let second = Scheduler::new(&rig.address()).await;
    first.run(&offers[0], task("t", &offers[0], &["sleep", "600"])).await;
    let body = json!({"offer_ids": offer_ids(&offers[1..]), "filters": {"refuse_seconds": 0}});
    first.ok("DECLINE", body).await;
    assert!(!second.offers(1).await.is_empty());
    // Neither has a say over the other's tasks and offers.
    second.ok("KILL", json!({"task_id": {"value": "t"}})).await;
    assert_eq!(second.status("t").await["state"], "TASK_UNKNOWN");
    second.ok("RECONCILE", json!({})).await;
    assert_eq!(second.during(Duration::from_millis(500)).await.iter().filter(|e| e["type"] == "UPDATE").count(), 0);
    assert_eq!(rig.processes("sleep"), 1);
}

pub async fn a_framework_that_stays_away_too_long_is_removed_with_its_tasks(rig: Rig) {
    let mut info = framework_info();
    info["failover_timeout"] = 0.5.into();
    let scheduler = Scheduler::with(&rig.address(), json!({"framework_info": info}), None).await;
    let offers = scheduler.offers(AGENTS).await;
    scheduler.run(&offers[0], task("t", &offers[0], &["sleep", "600"])).await;
    let framework_id = scheduler.framework_id.clone();
    drop(scheduler);
    wait_until("the task is killed", TIMEOUT, async || rig.processes("sleep") == 0).await;
    let info = json!({"framework_info": framework_info()});
    assert_eq!(refused(&rig, info, Some(&framework_id)).await, "Framework has been removed");
}
