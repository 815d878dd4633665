//! A toy operator's API for tests of the command line: instances in memory, watches that can be cut. I/O.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::{broadcast, oneshot};
use tokio_stream::wrappers::BroadcastStream;

/// What watchers are sent; none: their streams are cut.
type Sent = Option<String>;

/// What the toy knows.
#[derive(Default)]
pub struct World {
    /// Instances by name.
    pub instances: BTreeMap<String, Value>,
    /// Events, oldest first.
    pub events: Vec<Value>,
    /// The answer to documents; none: they are all created or configured.
    pub apply_answer: Option<(u16, Value)>,
    /// The answer to a request for recreation.
    pub recreate_answer: Option<(u16, Value)>,
    /// The answer to a request for a failover.
    pub failover_answer: Option<(u16, Value)>,
    /// What a request for a failover makes of the instance at once.
    pub failed_over: Option<Value>,
    /// So many more times somebody else changes the document before we can.
    pub outdated: usize,
    /// Method, path and query, and body of each request.
    pub requests: Vec<(String, String)>,
    /// What is in the head of each answer.
    pub heads: Vec<(&'static str, String)>,
    /// How many watches were opened.
    pub watches: usize,
    revision: i64,
}

struct Shared {
    world: Mutex<World>,
    sent: broadcast::Sender<Sent>,
}

/// A running toy; it ends when it is dropped.
pub struct Fake {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fake {
    /// Starts one on a free port.
    pub fn start() -> Fake {
        let shared = Arc::new(Shared { world: Mutex::default(), sent: broadcast::channel(256).0 });
        let listener = free_listener();
        let mut fake = Fake { shared, address: listener.local_addr().unwrap(), stop: None, thread: None };
        fake.serve(listener);
        fake
    }

    /// `http://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it knows, to look at or to change.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap()
    }

    /// Sets an instance, and tells watchers.
    pub fn set(&self, instance: Value) {
        let name = instance["metadata"]["name"].as_str().unwrap().to_string();
        self.world().instances.insert(name, instance.clone());
        self.send(&message("set", &instance));
    }

    /// Removes an instance, and tells watchers.
    pub fn remove(&self, name: &str) {
        self.world().instances.remove(name);
        self.send(&message("removed", &json!({"name": name})));
    }

    /// Adds an event, and tells watchers.
    pub fn happen(&self, event: Value) {
        self.world().events.push(event.clone());
        self.send(&message("event", &event));
    }

    /// Sends a text to all watchers.
    pub fn send(&self, text: &str) {
        let _ = self.shared.sent.send(Some(text.to_string()));
    }

    /// Cuts all watches; new ones are taken.
    pub fn cut(&self) {
        let _ = self.shared.sent.send(None);
    }

    /// Stops listening, and cuts everything.
    pub fn stop(&mut self) {
        self.cut();
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Listens again, at the same address.
    pub fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).expect("our own port is still free");
        listener.set_nonblocking(true).unwrap();
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = self.shared.clone();
        self.stop = Some(stop);
        self.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    served = axum::serve(listener, routes(shared)) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        }));
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Listens at a free loopback port below the ephemeral ones.
pub fn free_listener() -> TcpListener {
    let start = 20_000 + std::process::id() % 10_000;
    let listener = (start..32_768)
        .chain(20_000..start)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap())))
        .find_map(|address| TcpListener::bind(address).ok())
        .expect("a free port");
    listener.set_nonblocking(true).unwrap();
    listener
}

fn message(event: &str, data: &Value) -> String {
    format!("event: {event}\ndata: {data}\n\n")
}

fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/instances", get(list).post(apply))
        .route("/v1/instances/{name}", get(one).put(put).delete(remove))
        .route("/v1/instances/{name}/recreate", post(recreate))
        .route("/v1/instances/{name}/failover", post(failover))
        .route("/v1/instances/{name}/plan", get(plan))
        .route("/v1/instances/{name}/events", get(events_of))
        .route("/v1/events", get(events))
        .route("/v1/operator", get(operator))
        .layer(axum::middleware::from_fn_with_state(shared.clone(), with_heads))
        .with_state(shared)
}

async fn with_heads(State(shared): Toy, request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in &shared.world.lock().unwrap().heads {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}

type Toy = State<Arc<Shared>>;

/// Notes a request; answers whether it is a watch.
fn note(shared: &Shared, request: String, query: Option<&str>, body: String) -> bool {
    let query = query.map(|q| format!("?{q}")).unwrap_or_default();
    let watches = query.contains("watch");
    let mut world = shared.world.lock().unwrap();
    world.watches += usize::from(watches);
    world.requests.push((format!("{request}{query}"), body));
    watches
}

fn stream(shared: &Shared, first: String) -> Response {
    let sent = BroadcastStream::new(shared.sent.subscribe());
    let first = futures::stream::once(async move { Some(first) });
    let texts = first.chain(sent.map(Result::unwrap)).take_while(|sent| std::future::ready(sent.is_some()));
    let body = Body::from_stream(texts.map(|text| Ok::<_, Infallible>(text.unwrap())));
    ([("content-type", "text/event-stream")], body).into_response()
}

fn problem(status: u16, detail: &str) -> Response {
    let body = Json(json!({"title": "a title", "status": status, "detail": detail}));
    (StatusCode::from_u16(status).unwrap(), [("content-type", "application/problem+json")], body).into_response()
}

fn absent(name: &str) -> Response {
    problem(404, &format!("there is no instance {name:?}"))
}

async fn list(State(shared): Toy, RawQuery(query): RawQuery) -> Response {
    let watches = note(&shared, "GET /v1/instances".into(), query.as_deref(), String::new());
    let world = shared.world.lock().unwrap();
    let wanted = query.as_deref().and_then(|q| q.split('&').find_map(|p| p.strip_prefix("labelSelector=")));
    let wanted = wanted.map(|label| label.replace("%3D", "="));
    let is_wanted = |instance: &&Value| {
        wanted.as_deref().and_then(|w| w.split_once('=')).is_none_or(|(k, v)| instance["metadata"]["labels"][k] == v)
    };
    let items: Vec<&Value> = world.instances.values().filter(is_wanted).collect();
    if watches {
        let sets: String = items.iter().map(|instance| message("set", instance)).collect();
        return stream(&shared, sets + "event: synced\ndata: {}\n\n");
    }
    Json(json!({"items": items})).into_response()
}

async fn one(State(shared): Toy, Path(name): Path<String>, RawQuery(query): RawQuery) -> Response {
    let watches = note(&shared, format!("GET /v1/instances/{name}"), query.as_deref(), String::new());
    let instance = shared.world.lock().unwrap().instances.get(&name).cloned();
    match instance {
        None => absent(&name),
        Some(instance) if watches => {
            stream(&shared, message("set", &instance) + ": a sign of life\n\nevent: synced\ndata: {}\n\n")
        }
        Some(instance) => Json(instance).into_response(),
    }
}

async fn apply(State(shared): Toy, RawQuery(query): RawQuery, body: String) -> Response {
    note(&shared, "POST /v1/instances".into(), query.as_deref(), body.clone());
    let mut world = shared.world.lock().unwrap();
    if let Some((status, answer)) = &world.apply_answer {
        return (StatusCode::from_u16(*status).unwrap(), Json(answer.clone())).into_response();
    }
    let mut results = Vec::new();
    for document in serde_yaml::Deserializer::from_str(&body) {
        let document: Value = serde::Deserialize::deserialize(document).unwrap();
        let name = document["metadata"]["name"].as_str().unwrap().to_string();
        let result = if world.instances.contains_key(&name) { "configured" } else { "created" };
        world.revision += 1;
        results.push(json!({"name": name, "result": result, "revision": world.revision}));
    }
    Json(json!({"results": results})).into_response()
}

async fn put(
    State(shared): Toy,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: String,
) -> Response {
    note(&shared, format!("PUT /v1/instances/{name}"), query.as_deref(), body);
    let mut world = shared.world.lock().unwrap();
    if let Some((status, answer)) = &world.apply_answer {
        return (StatusCode::from_u16(*status).unwrap(), Json(answer.clone())).into_response();
    }
    let revision = world.instances[&name]["metadata"]["revision"].as_i64().unwrap();
    let wanted = headers["if-match"].to_str().unwrap().trim_matches('"').parse();
    if world.outdated > 0 || wanted != Ok(revision) {
        world.outdated = world.outdated.saturating_sub(1);
        world.instances.get_mut(&name).unwrap()["metadata"]["revision"] = json!(revision + 1);
        return problem(412, "the stored document has another revision");
    }
    Json(json!({"results": [{"name": name, "result": "configured", "revision": revision + 1}]})).into_response()
}

async fn remove(State(shared): Toy, Path(name): Path<String>) -> Response {
    note(&shared, format!("DELETE /v1/instances/{name}"), None, String::new());
    let exists = shared.world.lock().unwrap().instances.contains_key(&name);
    if exists { StatusCode::ACCEPTED.into_response() } else { absent(&name) }
}

async fn recreate(State(shared): Toy, Path(name): Path<String>) -> Response {
    note(&shared, format!("POST /v1/instances/{name}/recreate"), None, String::new());
    let answer = shared.world.lock().unwrap().recreate_answer.clone();
    match answer {
        Some((status, body)) => (StatusCode::from_u16(status).unwrap(), Json(body)).into_response(),
        None => StatusCode::ACCEPTED.into_response(),
    }
}

async fn failover(State(shared): Toy, Path(name): Path<String>, body: String) -> Response {
    note(&shared, format!("POST /v1/instances/{name}/failover"), None, body);
    let mut world = shared.world.lock().unwrap();
    if let Some((status, body)) = world.failover_answer.clone() {
        return (StatusCode::from_u16(status).unwrap(), Json(body)).into_response();
    }
    if let Some(instance) = world.failed_over.take() {
        world.instances.insert(name, instance);
    }
    (StatusCode::ACCEPTED, Json(json!({"failover": true}))).into_response()
}

async fn plan(State(shared): Toy, Path(name): Path<String>) -> Response {
    if !shared.world.lock().unwrap().instances.contains_key(&name) {
        return absent(&name);
    }
    Json(json!({"steps": ["launch orders-2 on agent-3"], "waiting": ["orders-3 needs 288 MiB"]})).into_response()
}

fn events_for(shared: &Shared, name: Option<&str>, query: Option<&str>) -> Response {
    if note(shared, "GET events".into(), query, String::new()) {
        return stream(shared, ": hello\n\n".to_string());
    }
    let world = shared.world.lock().unwrap();
    let items: Vec<&Value> = world.events.iter().filter(|e| name.is_none_or(|name| e["instance"] == name)).collect();
    Json(json!({"items": items})).into_response()
}

async fn events(State(shared): Toy, RawQuery(query): RawQuery) -> Response {
    events_for(&shared, None, query.as_deref())
}

async fn events_of(State(shared): Toy, Path(name): Path<String>, RawQuery(query): RawQuery) -> Response {
    events_for(&shared, Some(&name), query.as_deref())
}

async fn operator() -> Response {
    Json(json!({
        "version": "9.9.9", "leading": false, "leader": {"id": "b", "api": "http://10.0.0.2:5656"},
        "storeSynced": true, "mesos": "standby", "mesosMessage": "", "frozen": null
    }))
    .into_response()
}
