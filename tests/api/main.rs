//! The HTTP API over real HTTP, on a real store. I/O.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use proptest::prelude::*;
use redisctl::api::{ApiState, openapi, serve};
use redisctl::board::{Board, InstanceView, PlanView};
use redisctl::door::{Door, Gate};
use redisctl::model::{EventKind, InstanceEvent, Request, RequestKind, Role, Timestamp};
use redisctl::spec::{RedisInstance, parse_document};
use redisctl::status::{InstanceStatus, NodeState, NodeStatus, Phase};
use redisctl::store::{Candidate, Op, Store, Txn, instance_key, request_key};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

mod browser;
mod connect;
mod mr_redis;
mod old;
mod rights;
#[path = "../support/mod.rs"]
mod support;

const ORDERS: &str = include_str!("../../examples/orders.yaml");
const MANY: &str = include_str!("../../examples/many.yaml");
/// Connections at once: more than any test has.
const CLIENTS_MAX: usize = 1000;
/// For one event of a watch, on a loaded machine.
const EVENT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server of the API, with its board and its store.
struct Api {
    base: String,
    board: Arc<Board>,
    store: Store,
    http: reqwest::Client,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
    _dir: Option<tempfile::TempDir>,
}

impl Api {
    async fn start() -> Api {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file:{}", dir.path().join("store").display());
        Api { _dir: Some(dir), ..Api::start_on(&url).await }
    }

    async fn start_on(url: &str) -> Api {
        let store = Store::open(url).await.unwrap();
        let board = Arc::new(Board::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let state = ApiState::open(board.clone(), store.clone(), Arc::default());
        let (stop, door) = (CancellationToken::new(), Gate::new("api", CLIENTS_MAX, Arc::default()));
        let door = Door::new(listener, door).unwrap();
        let served = tokio::spawn(serve(door, None, state, stop.clone()));
        let http = redisctl::tls::http().no_proxy().build().unwrap();
        Api { base, board, store, http, stop, served, _dir: None }
    }

    async fn call(&self, method: Method, path: &str, body: impl Into<reqwest::Body>) -> (StatusCode, Value) {
        let answer = self.http.request(method, format!("{}{path}", self.base)).body(body).send().await.unwrap();
        let status = answer.status();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_string();
        if !status.is_success() {
            assert_eq!(kind, "application/problem+json", "{path}");
        }
        let body: Value = answer.json().await.unwrap_or_else(|err| panic!("{path}: {status} {err}"));
        if !status.is_success() {
            assert_eq!(body["status"], status.as_u16(), "{body}");
            assert!(["type", "title", "detail"].iter().all(|key| body[*key].as_str().is_some_and(|t| !t.is_empty())));
        }
        (status, body)
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(Method::GET, path, "").await
    }

    async fn apply(&self, text: &str) -> (StatusCode, Value) {
        self.call(Method::POST, "/v1/instances", text.to_string()).await
    }

    async fn text(&self, path: &str) -> String {
        self.http.get(format!("{}{path}", self.base)).send().await.unwrap().text().await.unwrap()
    }

    async fn watch(&self, path: &str) -> Events {
        let answer = self.http.get(format!("{}{path}", self.base)).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream", "{path}");
        Events { stream: answer.bytes_stream().boxed(), buffer: String::new() }
    }

    async fn stored(&self, name: &str) -> Option<String> {
        let found = self.store.get(&instance_key(name)).await.unwrap();
        found.map(|item| String::from_utf8(item.value).unwrap())
    }
}

/// A stream of server-sent events.
struct Events {
    stream: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: String,
}

impl Events {
    /// The next event's name and data; none at the end of the stream.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let event = event.to_string();
                self.buffer = rest.to_string();
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                if let Some(kind) = field("event:") {
                    let data = serde_json::from_str(field("data:").unwrap_or_default()).unwrap();
                    return Some((kind.to_string(), data));
                }
                continue; // A sign of life.
            }
            let bytes = tokio::time::timeout(EVENT_TIMEOUT, self.stream.next()).await.expect("an event in time")?;
            self.buffer += std::str::from_utf8(&bytes.ok()?).unwrap();
        }
    }

    async fn expect(&mut self, kind: &str) -> Value {
        let (found, data) = self.next().await.unwrap_or_else(|| panic!("the stream ends before {kind:?}"));
        assert_eq!(found, kind, "{data}");
        data
    }
}

fn parse(text: &str) -> RedisInstance {
    parse_document(text.as_bytes()).unwrap()
}

fn view(name: &str, phase: Phase) -> InstanceView {
    InstanceView {
        name: name.to_string(),
        instance: Some(parse(&ORDERS.replace("orders", name))),
        invalid: None,
        revision: 7,
        created_at: Some(Timestamp(1_700_000_000_000)),
        status: InstanceStatus { phase, ..InstanceStatus::default() },
        plan: None,
        events: Arc::new(Vec::new()),
        deleting: false,
    }
}

/// A node that is ready; its task is `NAME.1`.
fn node(name: &str, role: Role, address: &str) -> NodeStatus {
    NodeStatus {
        name: name.to_string(),
        task_id: format!("{name}.1"),
        agent: "a".to_string(),
        hostname: "h".to_string(),
        domain: None,
        address: address.to_string(),
        role,
        state: NodeState::Ready,
        message: String::new(),
        link: None,
        offset: None,
        lag: None,
        used_memory: None,
    }
}

fn event(reason: &str, at: u64, count: u32) -> InstanceEvent {
    let (at, first_at) = (Timestamp(at), Timestamp(at));
    let (reason, object, message) = (reason.to_string(), "orders-0".to_string(), "It happened.".to_string());
    InstanceEvent { at, first_at, count, kind: EventKind::Warning, reason, object, message }
}

// ---------------------------------------------------------------------------------------------
// Reading

#[tokio::test]
async fn instances_are_shown_with_their_status_beside_the_spec() {
    let api = Api::start().await;
    assert_eq!(api.get("/v1/instances").await.1["items"], json!([]));
    api.board.set(view("orders", Phase::Ready));
    api.board.set(InstanceView {
        instance: None,
        invalid: Some("line 1: it is wrong".to_string()),
        deleting: true,
        created_at: None,
        ..view("broken", Phase::Pending)
    });

    let (status, list) = api.get("/v1/instances").await;
    assert_eq!((status, &list["kind"]), (StatusCode::OK, &json!("RedisInstanceList")));
    assert_eq!(list["items"].as_array().unwrap().len(), 2);

    let (_, orders) = api.get("/v1/instances/orders").await;
    assert_eq!(orders, list["items"][1]);
    assert_eq!(orders["apiVersion"], "redisctl/v1");
    assert_eq!(
        orders["metadata"],
        json!({"name": "orders", "labels": {"team": "shop"}, "revision": 7, "createdAt": "2023-11-14T22:13:20.000Z"})
    );
    assert_eq!((&orders["spec"]["memory"], &orders["status"]["phase"]), (&json!("256Mi"), &json!("Ready")));
    assert!(orders.get("invalid").is_none());

    let (_, broken) = api.get("/v1/instances/broken").await;
    assert_eq!(broken["invalid"], "line 1: it is wrong");
    assert_eq!((&broken["spec"], &broken["metadata"]["deleting"]), (&Value::Null, &json!(true)));

    let (status, problem) = api.get("/v1/instances/nobody").await;
    assert_eq!((status, &problem["detail"]), (StatusCode::NOT_FOUND, &json!("there is no instance \"nobody\"")));
}

#[tokio::test]
async fn a_label_selector_chooses_instances() {
    let api = Api::start().await;
    api.board.set(view("orders", Phase::Ready));
    api.board.set(InstanceView {
        instance: Some(parse(
            "{apiVersion: redisctl/v1, kind: RedisInstance, metadata: {name: plain}, spec: {memory: 8Mi}}",
        )),
        ..view("plain", Phase::Ready)
    });
    let names = async |selector: &str| {
        let (_, list) = api.get(&format!("/v1/instances?labelSelector={selector}")).await;
        list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names("team=shop").await, ["orders"]);
    assert_eq!(names("!team").await, ["plain"]);
    assert_eq!(names("").await, ["orders", "plain"]);
    let (status, problem) = api.get("/v1/instances?labelSelector=a%20in%20(b)").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(problem["detail"].as_str().unwrap().contains("allowed are key=value"));
}

#[tokio::test]
async fn a_watch_lists_says_synced_and_then_tells_changes() {
    let api = Api::start().await;
    api.board.set(view("orders", Phase::Creating));
    let mut all = api.watch("/v1/instances?watch").await;
    let mut one = api.watch("/v1/instances/orders?watch=true").await;
    let mut shop = api.watch("/v1/instances?watch&labelSelector=team=shop").await;
    for watch in [&mut all, &mut one, &mut shop] {
        assert_eq!(watch.expect("set").await["status"]["phase"], "Creating");
        watch.expect("synced").await;
    }

    api.board.set(view("queue", Phase::Pending));
    assert_eq!(all.expect("set").await["metadata"]["name"], "queue");
    api.board.set(view("orders", Phase::Ready));
    for watch in [&mut all, &mut one] {
        assert_eq!(watch.expect("set").await["status"]["phase"], "Ready");
    }

    // An instance that loses its label is gone for the one who selects by it.
    let mut bare = view("orders", Phase::Ready);
    bare.instance.as_mut().unwrap().metadata.labels.clear();
    api.board.set(bare);
    assert_eq!(shop.expect("set").await["metadata"]["name"], "queue");
    assert_eq!(shop.expect("set").await["metadata"]["name"], "orders");
    assert_eq!(shop.expect("removed").await, json!({"name": "orders"}));
    one.expect("set").await;

    api.board.remove("orders");
    assert_eq!(one.expect("removed").await, json!({"name": "orders"}));
    let (status, _) = api.get("/v1/instances/orders?watch").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_watch_is_also_asked_for_by_the_accept_header() {
    let api = Api::start().await;
    let request = api.http.get(format!("{}/v1/instances", api.base)).header("accept", "text/event-stream");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    Events { stream: answer.bytes_stream().boxed(), buffer: String::new() }.expect("synced").await;
}

#[tokio::test]
async fn a_watcher_that_lags_too_far_is_told_to_list_again_and_its_stream_ends() {
    let api = Api::start().await;
    let mut watch = api.watch("/v1/instances?watch").await;
    watch.expect("synced").await;
    // No await between these: the server has no chance to read, as if the watcher were slow.
    for revision in 0..10_000 {
        api.board.set(InstanceView { revision, ..view("orders", Phase::Ready) });
    }
    loop {
        match watch.next().await {
            Some((kind, _)) if kind == "set" => {}
            Some((kind, _)) => {
                assert_eq!(kind, "resync");
                break;
            }
            None => panic!("the stream ends without a word"),
        }
    }
    assert_eq!(watch.next().await, None);
    assert!(api.text("/metrics").await.contains("redisctl_watchers_lagging_total 1"));
}

#[tokio::test]
async fn a_stopping_server_ends_its_watches() {
    let mut api = Api::start().await;
    let mut watch = api.watch("/v1/instances?watch").await;
    watch.expect("synced").await;
    api.stop.cancel();
    assert_eq!(watch.next().await, None);
    let served = tokio::time::timeout(EVENT_TIMEOUT, &mut api.served).await.expect("the server ends in time");
    served.unwrap().unwrap();
}

#[tokio::test]
async fn events_are_listed_oldest_first_and_watched() {
    let api = Api::start().await;
    let with =
        |name: &str, events: Vec<InstanceEvent>| InstanceView { events: Arc::new(events), ..view(name, Phase::Ready) };
    api.board.set(with("orders", vec![event("NodeLaunched", 1000, 1), event("NodeDied", 3000, 1)]));
    api.board.set(with("queue", vec![event("NodeLaunched", 2000, 1)]));

    let (_, all) = api.get("/v1/events").await;
    let order: Vec<_> = all["items"].as_array().unwrap().iter().map(|e| e["instance"].as_str().unwrap()).collect();
    assert_eq!(order, ["orders", "queue", "orders"]);
    assert_eq!(
        all["items"][0],
        json!({"instance": "orders", "at": "1970-01-01T00:00:01.000Z", "firstAt": "1970-01-01T00:00:01.000Z", "count": 1,
            "type": "Warning", "reason": "NodeLaunched", "object": "orders-0", "message": "It happened."})
    );
    let (_, of_orders) = api.get("/v1/instances/orders/events").await;
    assert_eq!(of_orders["items"].as_array().unwrap().len(), 2);

    let mut watch = api.watch("/v1/instances/orders/events?watch").await;
    assert_eq!(watch.expect("event").await, all["items"][0]);
    watch.expect("event").await;
    watch.expect("synced").await;
    api.board.set(with("orders", vec![event("NodeLaunched", 1000, 1), event("NodeDied", 4000, 2)]));
    assert_eq!(watch.expect("event").await["count"], 2);
    assert_eq!(api.get("/v1/instances/nobody/events").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_standby_asks_the_leader_for_a_plan() {
    let (leader, standby) = (Api::start().await, Api::start().await);
    let (status, problem) = standby.get("/v1/instances/orders/plan").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(problem["detail"].as_str().unwrap().contains("cannot read the store"));
    standby.board.set_operator(|operator| operator.store_synced = true);
    leader.board.set_operator(|operator| operator.store_synced = true);
    let plan = PlanView { steps: vec!["launch orders-0".to_string()], waiting: vec!["an offer".to_string()] };
    leader.board.set(InstanceView { plan: Some(plan), ..view("orders", Phase::Pending) });
    leader.board.set_operator(|operator| operator.leading = true);

    let (status, problem) = standby.get("/v1/instances/orders/plan").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(problem["detail"].as_str().unwrap().contains("none is known"));

    let api = leader.base.clone();
    standby.board.set_operator(|operator| {
        operator.leader = Some(Candidate { id: "a".to_string(), api, process: None, frozen: false });
    });
    for api in [&leader, &standby] {
        let (status, plan) = api.get("/v1/instances/orders/plan").await;
        assert_eq!((status, plan), (StatusCode::OK, json!({"steps": ["launch orders-0"], "waiting": ["an offer"]})));
        assert_eq!(api.get("/v1/instances/nobody/plan").await.0, StatusCode::NOT_FOUND);
    }

    // Neither leads, and each takes the other for the leader: no loop.
    leader.board.set_operator(|operator| operator.leading = false);
    let api = standby.base.clone();
    leader.board.set_operator(|operator| {
        operator.leader = Some(Candidate { id: "b".to_string(), api, process: None, frozen: false });
    });
    assert_eq!(standby.get("/v1/instances/orders/plan").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn readiness_says_what_is_missing_and_health_does_not_care() {
    let api = Api::start().await;
    assert_eq!(api.text("/healthz").await, "ok\n");
    let detail = async || api.get("/readyz").await.1["detail"].as_str().unwrap().to_string();
    assert_eq!(detail().await, "the store has not been read");
    api.board.set_operator(|operator| operator.store_synced = true);
    assert_eq!(api.text("/readyz").await, "ok\n");
    api.board.set_operator(|operator| {
        operator.leading = true;
        operator.mesos = "disconnected".to_string();
        operator.mesos_message = "connection refused".to_string();
        operator.frozen = Some("the store is empty while tasks run".to_string());
    });
    assert_eq!(
        detail().await,
        "the Mesos session is \"disconnected\": connection refused; frozen: the store is empty while tasks run"
    );
    assert_eq!(api.get("/v1/operator").await.1["mesos"], "disconnected");
}

#[tokio::test]
async fn metrics_count_instances_and_requests_without_their_names() {
    let api = Api::start().await;
    let mut orders = view("orders", Phase::Ready);
    orders.status.nodes.push(node("orders-0", Role::Master, "127.0.0.1:1"));
    api.board.set(orders);
    api.get("/v1/instances/orders").await;
    api.get("/v1/nowhere/orders").await;
    let told = api.text("/metrics").await;
    for line in [
        "redisctl_instances{phase=\"Ready\"} 1",
        "redisctl_instances{phase=\"Degraded\"} 0",
        "redisctl_nodes{role=\"master\",state=\"Ready\"} 1",
        "redisctl_leader 0",
        "redisctl_mesos_last_event_age_seconds -1",
        "redisctl_http_requests_total{code=\"200\",method=\"GET\",route=\"/v1/instances/{name}\"} 1",
        "redisctl_http_requests_total{code=\"404\",method=\"GET\",route=\"other\"} 1",
        concat!("redisctl_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(told.lines().any(|found| found == line), "{line} in:\n{told}");
    }
    assert!(!told.contains("orders"), "{told}");
}

// ---------------------------------------------------------------------------------------------
// Writing

#[tokio::test]
async fn a_document_is_created_then_unchanged_then_configured_and_kept_as_written() {
    let api = Api::start().await;
    let (status, answer) = api.apply(ORDERS).await;
    assert_eq!(status, StatusCode::OK);
    let revision = answer["results"][0]["revision"].as_i64().unwrap();
    assert_eq!(answer, json!({"results": [{"name": "orders", "result": "created", "revision": revision}]}));
    assert_eq!(api.stored("orders").await.unwrap(), ORDERS.trim_end());

    // The same in other words: nothing is written.
    let as_json = serde_json::to_string(&parse(ORDERS)).unwrap();
    let (_, answer) = api.apply(&as_json).await;
    assert_eq!(answer, json!({"results": [{"name": "orders", "result": "unchanged", "revision": revision}]}));
    assert_eq!(api.stored("orders").await.unwrap(), ORDERS.trim_end());

    let (_, answer) = api.apply(&as_json.replace("\"replicas\":2", "\"replicas\":3")).await;
    assert_eq!(answer["results"][0]["result"], "configured");
    assert!(answer["results"][0]["revision"].as_i64().unwrap() > revision);
    assert!(api.stored("orders").await.unwrap().starts_with('{'));
}

#[tokio::test]
async fn one_wrong_document_of_ten_changes_nothing_and_is_named() {
    let api = Api::start().await;
    let mut documents: Vec<String> =
        (0..10).map(|n| ORDERS.replace("name: orders", &format!("name: orders-{n}"))).collect();
    documents[7] = documents[7].replace("256Mi", "12x");
    let (status, problem) = api.apply(&documents.join("---\n")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let message = "\"12x\" is not a size such as 256Mi, 1Gi, 256M, 1G, or a plain number of mebibytes";
    assert_eq!(
        problem["errors"],
        json!([{"document": 7, "line": 10, "column": 11, "path": "spec.memory", "value": "12x", "message": message}])
    );
    let line = 7 * (ORDERS.lines().count() + 1) + 10;
    assert_eq!(problem["detail"], format!("line {line}: spec.memory: {message}"));
    assert_eq!(api.store.list("").await.unwrap().items, []);
}

#[tokio::test]
async fn several_documents_are_one_transaction_and_a_dry_run_is_none() {
    let api = Api::start().await;
    let (status, dry) = api.call(Method::POST, "/v1/instances?dryRun", MANY).await;
    assert_eq!((status, &dry["results"][2]["result"]), (StatusCode::OK, &json!("created")));
    assert_eq!(api.store.list("").await.unwrap().items, []);
    let (_, answer) = api.apply(MANY).await;
    let revisions: Vec<_> = answer["results"].as_array().unwrap().iter().map(|r| r["revision"].clone()).collect();
    assert!(revisions.len() == 3 && revisions.iter().all(|r| *r == revisions[0]), "{answer}");
    assert!(api.stored("queue").await.unwrap().starts_with("apiVersion"));
}

#[tokio::test]
async fn more_documents_than_a_transaction_holds_are_all_applied() {
    let etcd = support::Etcd::start().await;
    for api in [Api::start().await, Api::start_on(&etcd.url("api")).await] {
        apply_three_hundred(&api).await;
    }
}

async fn apply_three_hundred(api: &Api) {
    let documents: Vec<String> =
        (0..300).map(|n| ORDERS.replace("name: orders", &format!("name: orders-{n}"))).collect();
    let (status, answer) = api.apply(&documents.join("---\n")).await;
    assert_eq!((status, answer["results"].as_array().map(Vec::len)), (StatusCode::OK, Some(300)));
    assert_eq!(api.store.list("instances/").await.unwrap().items.len(), 300);
    let (_, again) = api.apply(&documents.join("---\n")).await;
    assert!(again["results"].as_array().unwrap().iter().all(|r| r["result"] == "unchanged"));
}

#[tokio::test]
async fn a_deletion_is_a_request_and_the_name_is_taken_until_it_is_done() {
    let api = Api::start().await;
    let (_, answer) = api.apply(ORDERS).await;
    let revision = answer["results"][0]["revision"].as_i64().unwrap();
    for _ in 0..2 {
        let (status, answer) = api.call(Method::DELETE, "/v1/instances/orders", "").await;
        assert_eq!((status, answer), (StatusCode::ACCEPTED, json!({"name": "orders", "deleting": true})));
    }
    let key = request_key("orders", RequestKind::Delete);
    let request = api.store.get(&key).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Request>(&request.value).unwrap().revision, revision);
    assert_eq!(request.created, request.revision, "asking again wrote again");

    let (status, problem) = api.apply(&format!("{MANY}---\n{ORDERS}")).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(problem["detail"].as_str().unwrap().starts_with("orders: being deleted"));
    assert_eq!(api.stored("queue").await, None);

    let ops = vec![Op::Delete { key: instance_key("orders") }, Op::Delete { key }];
    api.store.commit(Txn { guards: vec![], ops }).await.unwrap();
    assert_eq!(api.apply(ORDERS).await.1["results"][0]["result"], "created");
    assert_eq!(api.call(Method::DELETE, "/v1/instances/nobody", "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn put_takes_one_document_of_that_name_and_can_be_guarded_by_a_revision() {
    let api = Api::start().await;
    let put = async |path: &str, text: &str| api.call(Method::PUT, path, text.to_string()).await;
    let (status, answer) = put("/v1/instances/orders", ORDERS).await;
    assert_eq!((status, &answer["results"][0]["result"]), (StatusCode::OK, &json!("created")));
    let revision = answer["results"][0]["revision"].as_i64().unwrap();
    let (status, problem) = put("/v1/instances/other", ORDERS).await;
    assert_eq!((status, &problem["errors"][0]["path"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("metadata.name")));
    assert_eq!(put("/v1/instances/queue", MANY).await.0, StatusCode::UNPROCESSABLE_ENTITY);

    let guarded = async |if_match: String, replicas: u32| {
        let text = ORDERS.replace("replicas: 2", &format!("replicas: {replicas}"));
        let request = api.http.put(format!("{}/v1/instances/orders", api.base)).header("if-match", if_match);
        request.body(text).send().await.unwrap().status()
    };
    assert_eq!(guarded(format!("\"{}\"", revision + 5), 3).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(guarded("soon".to_string(), 3).await, StatusCode::BAD_REQUEST);
    assert_eq!(guarded(format!("\"{revision}\""), 3).await, StatusCode::OK);
    assert_eq!(guarded(revision.to_string(), 4).await, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn only_what_has_lost_its_data_is_recreated() {
    let api = Api::start().await;
    api.apply(ORDERS).await;
    let recreate = async |name: &str| api.call(Method::POST, &format!("/v1/instances/{name}/recreate"), "").await;
    assert_eq!(recreate("orders").await.0, StatusCode::NOT_FOUND);
    api.board.set(view("orders", Phase::Degraded));
    let (status, problem) = recreate("orders").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(problem["detail"].as_str().unwrap().contains("phase Degraded"));
    api.board.set(view("orders", Phase::DataLost));
    assert_eq!(recreate("orders").await.0, StatusCode::ACCEPTED);
    assert!(api.store.get(&request_key("orders", RequestKind::Recreate)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_failover_is_a_request_that_says_to_whom_and_whether_by_force() {
    let api = Api::start().await;
    let (_, answer) = api.apply(ORDERS).await;
    let revision = answer["results"][0]["revision"].as_i64().unwrap();
    let ask = async |body: &str| {
        let (status, answer) = api.call(Method::POST, "/v1/instances/orders/failover", body.to_string()).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        let stored = api.store.get(&request_key("orders", RequestKind::Failover)).await.unwrap().unwrap();
        let request: Request = serde_json::from_slice(&stored.value).unwrap();
        assert_eq!((&answer["name"], &answer["failover"]), (&json!("orders"), &json!(true)));
        assert_eq!(answer["at"], serde_json::to_value(request.at).unwrap());
        assert_eq!(request.revision, revision);
        (request.to, request.force)
    };
    assert_eq!(ask("").await, (None, false));
    assert_eq!(ask("{}").await, (None, false));
    assert_eq!(ask(r#"{"to": "orders-1"}"#).await, (Some("orders-1".to_string()), false));
    assert_eq!(ask(r#"{"to": "orders-12", "force": true}"#).await, (Some("orders-12".to_string()), true));
    assert_eq!(ask(r#"{"to": null, "force": false}"#).await, (None, false));
}

#[tokio::test]
async fn a_failover_that_makes_no_sense_is_refused_and_nothing_is_written() {
    let api = Api::start().await;
    api.apply(ORDERS).await;
    let ask = async |name: &str, body: &str| {
        let (status, problem) =
            api.call(Method::POST, &format!("/v1/instances/{name}/failover"), body.to_string()).await;
        (status.as_u16(), problem["detail"].as_str().unwrap_or_default().to_string())
    };
    for node in ["queue-1", "orders", "orders-", "orders-x", "orders-01", "orders-+1", "orders--1", "orders-1 ", "1"] {
        let told = format!("to: {node:?} is not a node of orders: allowed are names such as orders-1");
        assert_eq!(ask("orders", &json!({"to": node}).to_string()).await, (422, told));
    }
    for (body, told) in [
        (r#"{"force": true}"#, "force: needs to, the node that shall be the master"),
        (r#"{"too": "orders-1"}"#, "unknown field `too`, expected `to` or `force`"),
        (r#"{"to": 1}"#, "invalid type: integer `1`, expected a string"),
        (r#"{"force": "yes"}"#, "expected a boolean"),
        ("orders-1", r#"the body is not {"to": "orders-1", "force": true} or a part of it: "#),
        (r#"["orders-1", true]"#, "invalid type: sequence, expected a map"),
        ("{", "EOF while parsing"),
    ] {
        let (status, detail) = ask("orders", body).await;
        assert!(status == 422 && detail.contains(told), "{body}: {status} {detail}");
    }
    assert_eq!(ask("orders", &" ".repeat(5000)).await.0, 413);
    assert_eq!(ask("nobody", "").await, (404, "there is no instance \"nobody\"".to_string()));
    assert_eq!(api.store.get(&request_key("orders", RequestKind::Failover)).await.unwrap(), None);

    api.call(Method::DELETE, "/v1/instances/orders", "").await;
    assert_eq!(ask("orders", "").await, (409, "orders is being deleted".to_string()));
}

#[tokio::test]
async fn two_who_apply_at_once_both_get_an_answer_and_one_document_stays() {
    let api = Arc::new(Api::start().await);
    let calls = (0..20u32).map(|n| {
        let api = Arc::clone(&api);
        async move { api.apply(&ORDERS.replace("replicas: 2", &format!("replicas: {n}"))).await.0 }
    });
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|status| [StatusCode::OK, StatusCode::CONFLICT].contains(status)), "{answers:?}");
    assert!(parse_document(api.stored("orders").await.unwrap().as_bytes()).is_ok());
}

// ---------------------------------------------------------------------------------------------
// Refusals

#[tokio::test]
async fn every_refusal_is_a_problem() {
    let api = Api::start().await;
    for (method, path, status, detail) in [
        (Method::GET, "/", 404, "there is nothing at /: see /openapi.json"),
        (Method::GET, "/v1/instances/", 404, "there is nothing at /v1/instances/: see /openapi.json"),
        (Method::PATCH, "/v1/instances", 405, "the method is not possible here: the Allow header says which are"),
        (Method::GET, "/v1/instances/%ff", 400, "the request cannot be read"),
        (Method::POST, "/v1/instances", 422, "there is no document in the body"),
        (Method::POST, "/v1/instances?dryrun", 400, "unknown parameter \"dryrun\": allowed are dryRun"),
        (Method::POST, "/v1/instances?dryRun=maybe", 400, "dryRun=\"maybe\": allowed are true and false"),
        (Method::DELETE, "/v1/instances/a?force", 400, "unknown parameter \"force\": none is allowed here"),
    ] {
        let (found, problem) = api.call(method, path, "").await;
        assert_eq!((found.as_u16(), problem["detail"].as_str().unwrap()), (status, detail), "{path}");
    }
    let answer = api.http.patch(format!("{}/v1/instances", api.base)).send().await.unwrap();
    assert_eq!(answer.headers()["allow"], "GET,HEAD,POST");
    let (status, problem) = api.call(Method::POST, "/v1/instances", vec![b' '; (1 << 20) + 1]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(problem["detail"].as_str().unwrap().contains("1048576 bytes"));
    let (status, _) = api.call(Method::POST, "/v1/instances", vec![0xff, 0xfe]).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[test]
fn rubbish_is_answered_and_never_ends_the_server() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let api = runtime.block_on(Api::start());
    runtime.block_on(api.apply(ORDERS));
    let methods = prop::sample::select(vec![Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH]);
    let paths = prop::sample::select(vec![
        "/v1/instances",
        "/v1/instances/orders",
        "/v1/instances/orders/plan",
        "/v1/instances/orders/failover",
        "/v1/",
        "/metrics",
    ]);
    let bodies = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "\\PC{0,200}".prop_map(String::into_bytes),
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| {
            let mut text = ORDERS.as_bytes().to_vec();
            let at = at.index(text.len());
            text[at] = byte;
            text
        }),
    ];
    let queries = "(\\?[a-zA-Z=&%0-9]{0,12})?";
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) };
    proptest!(config, |(method in methods, path in paths, tail in "[a-z/%0-9]{0,6}", query in queries, body in bodies)| {
        let url = format!("{}{path}{tail}{query}", api.base);
        let status = runtime.block_on(async { api.http.request(method, &url).body(body).send().await }).map(|a| a.status());
        let status = status.map_err(|err| TestCaseError::fail(format!("{url}: {err}")))?;
        prop_assert!(!status.is_server_error() || status == StatusCode::SERVICE_UNAVAILABLE, "{url}: {status}");
    });
    assert_eq!(runtime.block_on(api.text("/healthz")), "ok\n");
}

// ---------------------------------------------------------------------------------------------
// Descriptions

#[tokio::test]
async fn the_openapi_document_describes_every_route_and_refers_to_nothing_that_is_not_there() {
    let api = Api::start().await;
    let (_, document) = api.get("/openapi.json").await;
    assert_eq!(document, openapi());
    for path in [
        "/v1/instances",
        "/v1/instances/{name}",
        "/v1/instances/{name}/plan",
        "/v1/instances/{name}/events",
        "/v1/instances/{name}/recreate",
        "/v1/instances/{name}/failover",
        "/v1/events",
        "/v1/operator",
        "/v1/schema",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
    assert_eq!(api.get("/v1/schema").await.1, redisctl::spec::schema());
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_string));
            map.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}
