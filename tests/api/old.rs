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
