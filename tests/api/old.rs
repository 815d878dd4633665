//! Answers that may be old say since when. I/O.

use redisctl::status::Phase;
use serde_json::Value;

use crate::{Api, view};

#[tokio::test]
async fn answers_say_since_when_the_store_cannot_be_read_and_only_then() {
    let api = Api::start().await;
    api.board.set(view("orders", Phase::Ready));
    let header = async || {
        let answer = api.http.get(format!("{}/v1/instances", api.base)).send().await.unwrap();
        answer.headers().get("redisctl-stale-since").map(|since| since.to_str().unwrap().to_string())
    };
    let told = async || {
        let list = api.get("/v1/instances").await.1["items"][0]["metadata"]["staleSince"].clone();
        assert_eq!(api.get("/v1/instances/orders").await.1["metadata"]["staleSince"], list);
        assert_eq!(header().await, list.as_str().map(ToString::to_string));
        list
    };
    for _ in 0..2 {
        api.board.set_operator(|operator| operator.store_synced = true);
        assert_eq!(told().await, Value::Null);
        assert!(api.text("/metrics").await.contains("redisctl_stale_seconds 0\n"));
        api.board.set_operator(|operator| operator.store_synced = false);
        let since = told().await;
        assert!(since.is_string(), "{since}");
        let detail = api.get("/readyz").await.1["detail"].clone();
        assert!(detail.as_str().unwrap().contains(since.as_str().unwrap()), "{detail}");
        assert_eq!(api.get("/v1/operator").await.1["staleSince"], since);
        // Whatever else changes: the age goes on to count from then.
        api.board.set_operator(|operator| operator.leading = false);
        api.board.set_operator(|operator| operator.store_synced = false);
        assert_eq!(told().await, since);
    }
}

#[tokio::test]
async fn every_answer_of_a_frozen_operator_says_so_also_to_questions_for_what_is_not_there() {
    let api = Api::start().await;
    let told = async |path: &str| {
        let answer = api.http.get(format!("{}{path}", api.base)).send().await.unwrap();
        answer.headers().get("redisctl-frozen").map(|why| why.to_str().unwrap().to_string())
    };
    let paths = ["/v1/instances", "/v1/instances/orders", "/v1/instances/orders/plan", "/v1/events", "/v1/operator"];
    for path in paths {
        assert_eq!(told(path).await, None, "{path}");
    }
    api.board.set_operator(|operator| operator.frozen = Some("the store forgot größe\nand more".to_string()));
    let since = api.get("/v1/operator").await.1["frozenSince"].clone();
    assert!(since.is_string(), "{since}");
    for path in paths {
        assert_eq!(told(path).await.as_deref(), Some("the store forgot gr??e?and more"), "{path}");
    }
    api.board.set_operator(|operator| operator.mesos = "subscribed".to_string());
    assert_eq!(api.get("/v1/operator").await.1["frozenSince"], since, "it counts from its beginning");
    api.board.set_operator(|operator| operator.frozen = None);
    assert_eq!(
        (told("/v1/instances").await, api.get("/v1/operator").await.1["frozenSince"].clone()),
        (None, Value::Null)
    );
}
