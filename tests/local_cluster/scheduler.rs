//! A bare scheduler: subscribes, keeps what the master says, posts calls. I/O.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::support::wait_until;

/// How long anything may take on a loaded machine.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// The role of the framework.
pub const ROLE: &str = "redis";

/// A framework's description with the capabilities that the operator has.
pub fn framework_info() -> Value {
    let capabilities = ["MULTI_ROLE", "PARTITION_AWARE", "TASK_KILLING_STATE", "RESERVATION_REFINEMENT"];
    json!({
        "user": "root",
        "name": "bare scheduler",
        "roles": [ROLE],
        "failover_timeout": 3600.0,
        "checkpoint": true,
        "capabilities": capabilities.map(|name| json!({"type": name})),
    })
}

/// POSTs a body and answers status and text.
pub async fn post(address: &str, path: &str, headers: &[(&'static str, &str)], body: String) -> (u16, String) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, HeaderValue::from_str(value).expect("a plain value"));
    }
    let client = client();
    let response = client.post(format!("http://{address}{path}")).headers(map).body(body).send().await;
    let response = response.expect("the master answers");
    (response.status().as_u16(), response.text().await.unwrap_or_default())
}

/// A question of the operator API.
pub async fn ask(address: &str, call: &str) -> Value {
    let json = [("content-type", "application/json"), ("accept", "application/json")];
    let (status, text) = post(address, "/api/v1", &json, json!({"type": call}).to_string()).await;
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("an answer is JSON");
    answer[call.to_lowercase()].clone()
}

/// A call of the operator API, as it is answered.
pub async fn operate(address: &str, call: &str, body: &Value) -> (u16, String) {
    let mut request = json!({"type": call});
    if !body.is_null() {
        request[call.to_lowercase()] = body.clone();
    }
    let json = [("content-type", "application/json"), ("accept", "application/json")];
    post(address, "/api/v1", &json, request.to_string()).await
}

fn client() -> reqwest::Client {
    let builder = redisctl::tls::http().redirect(reqwest::redirect::Policy::none()).http1_only();
    builder.build().expect("a client")
}

/// What came down a stream.
#[derive(Default)]
struct Inbox {
    events: Vec<Value>,
    /// Bytes that are no whole record yet.
    rest: Vec<u8>,
    ended: Option<String>,
}

/// A subscription.
pub struct Scheduler {
    address: String,
    pub framework_id: String,
    pub stream_id: String,
    inbox: Arc<Mutex<Inbox>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Scheduler {
    /// A new framework; waits for SUBSCRIBED.
    pub async fn new(address: &str) -> Scheduler {
        Scheduler::with(address, json!({"framework_info": framework_info()}), None).await
    }

    /// The same framework again.
    pub async fn again(&self) -> Scheduler {
        Scheduler::resume(&self.address, &self.framework_id).await
    }

    /// The framework of that id.
    pub async fn resume(address: &str, framework_id: &str) -> Scheduler {
        Scheduler::with(address, json!({"framework_info": framework_info()}), Some(framework_id)).await
    }

    /// A framework as described; waits for SUBSCRIBED.
    pub async fn with(address: &str, subscribe: Value, id: Option<&str>) -> Scheduler {
        let mut scheduler = Scheduler::open(address, subscribe, id).await;
        let event = scheduler.event("SUBSCRIBED").await;
        scheduler.framework_id =
            event["subscribed"]["framework_id"]["value"].as_str().expect("an id is text").to_string();
        scheduler
    }

    /// Opens the stream without waiting for what is on it.
    pub async fn open(address: &str, mut subscribe: Value, id: Option<&str>) -> Scheduler {
        let mut call = json!({"type": "SUBSCRIBE"});
        if let Some(id) = id {
            call["framework_id"] = json!({"value": id});
            subscribe["framework_info"]["id"] = json!({"value": id});
        }
        call["subscribe"] = subscribe;
        let request = client().post(format!("http://{address}/api/v1/scheduler")).json(&call);
        let response = request.header("Accept", "application/json").send().await.expect("the master answers");
        assert_eq!(response.status(), 200);
        let stream_id = response.headers()["Mesos-Stream-Id"].to_str().expect("the id is text").to_string();
        let inbox: Arc<Mutex<Inbox>> = Arc::default();
        let mut bytes = response.bytes_stream();
        let reader = tokio::spawn({
            let inbox = inbox.clone();
            async move {
                let mut end = "closed".to_string();
                while let Some(chunk) = bytes.next().await {
                    match chunk {
                        Ok(chunk) => inbox.lock().unwrap().receive(&chunk),
                        Err(error) => end = format!("broken: {error}"),
                    }
                }
                inbox.lock().unwrap().ended = Some(end);
            }
        });
        let framework_id = id.unwrap_or_default().to_string();
        Scheduler { address: address.to_string(), framework_id, stream_id, inbox, reader }
    }

    /// Takes the first event that is of that type.
    pub async fn event(&self, kind: &str) -> Value {
        self.take(&format!("{kind} comes"), |event| event["type"] == kind).await
    }

    /// Takes the first event of which this is true.
    pub async fn take(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, TIMEOUT, async || {
            let mut inbox = self.inbox.lock().unwrap();
            let found = inbox.events.iter().position(&is_it);
            found.map(|i| inbox.events.remove(i)).ok_or_else(|| format!("{:?}", inbox.summary()))
        })
        .await
    }

    /// How the stream ended.
    pub async fn ended(&self) -> String {
        wait_until("the stream ends", TIMEOUT, async || self.inbox.lock().unwrap().ended.clone()).await
    }

    /// Takes all events that have come.
    pub fn drain(&self) -> Vec<Value> {
        std::mem::take(&mut self.inbox.lock().unwrap().events)
    }

    /// Takes all that comes in this time: only to show that something does not come.
    pub async fn during(&self, time: Duration) -> Vec<Value> {
        tokio::time::sleep(time).await;
        self.drain()
    }

    /// Bytes of a record that never became whole.
    pub fn partial_record(&self) -> usize {
        self.inbox.lock().unwrap().rest.len()
    }

    /// Takes offers until `count` have come.
    pub async fn offers(&self, count: usize) -> Vec<Value> {
        let mut offers = Vec::new();
        while offers.len() < count {
            let event = self.event("OFFERS").await;
            offers.extend(event["offers"]["offers"].as_array().expect("offers are a list").clone());
        }
        offers
    }

    /// Takes the next status of a task. `TASK_KILLING` is passed over: not every executor sends it.
    pub async fn status(&self, task_id: &str) -> Value {
        self.status_that(task_id, "says something", |_| true).await
    }

    /// Takes the next status of a task of which this is true.
    pub async fn status_that(&self, task_id: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let what = format!("task {task_id} {what}");
        let event = self.take(&what, |event| {
            let status = &event["update"]["status"];
            event["type"] == "UPDATE"
                && status["task_id"]["value"] == task_id
                && (status["state"] != "TASK_KILLING" || status["reason"] == "REASON_RECONCILIATION")
                && is_it(status)
        });
        event.await["update"]["status"].clone()
    }

    /// Takes and acknowledges what comes of a task until it is in that state.
    pub async fn until(&self, task_id: &str, state: &str) -> Value {
        loop {
            let status = self
                .take(&format!("task {task_id} is {state}"), |event| {
                    event["type"] == "UPDATE" && event["update"]["status"]["task_id"]["value"] == task_id
                })
                .await["update"]["status"]
                .clone();
            if status["uuid"].is_string() {
                self.acknowledge(&status).await;
            }
            if status["state"] == state {
                return status;
            }
        }
    }

    /// Posts a call of this subscription.
    pub async fn call(&self, kind: &str, body: Value) -> (u16, String) {
        let mut call = json!({"type": kind, "framework_id": {"value": self.framework_id}});
        if !body.is_null() {
            call[kind.to_lowercase()] = body;
        }
        self.raw(&[("mesos-stream-id", &self.stream_id)], call.to_string()).await
    }

    /// Posts a call that must be taken.
    pub async fn ok(&self, kind: &str, body: Value) {
        assert_eq!(self.call(kind, body).await, (202, String::new()), "{kind}");
    }

    /// Posts a body as it is, with JSON's content type and these headers.
    pub async fn raw(&self, headers: &[(&'static str, &str)], body: String) -> (u16, String) {
        let mut all = vec![("content-type", "application/json"), ("accept", "application/json")];
        all.extend_from_slice(headers);
        post(&self.address, "/api/v1/scheduler", &all, body).await
    }

    /// Acknowledges a status.
    pub async fn acknowledge(&self, status: &Value) {
        let body = json!({"agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"]});
        self.ok("ACKNOWLEDGE", body).await;
    }

    /// Launches tasks on an offer.
    pub async fn launch(&self, offer: &Value, tasks: &[Value]) {
        self.launch_on(&[offer], tasks, 0.0).await;
    }

    /// Launches tasks on offers; what is left is refused for that time.
    pub async fn launch_on(&self, offers: &[&Value], tasks: &[Value], refuse_seconds: f64) {
        self.ok("ACCEPT", accept(offers, tasks, refuse_seconds)).await;
    }

    /// Launches a task and waits until it runs, all acknowledged.
    pub async fn run(&self, offer: &Value, task: Value) -> Value {
        let task_id = task["task_id"]["value"].as_str().expect("a task has an id").to_string();
        self.launch(offer, &[task]).await;
        self.until(&task_id, "TASK_RUNNING").await
    }

    /// Asks for the state of a task.
    pub async fn reconcile(&self, task_id: &str, agent_id: Option<&Value>) {
        let mut task = json!({"task_id": {"value": task_id}});
        if let Some(agent_id) = agent_id {
            task["agent_id"] = agent_id.clone();
        }
        self.ok("RECONCILE", json!({"tasks": [task]})).await;
    }
}

impl Inbox {
    fn receive(&mut self, chunk: &[u8]) {
        self.rest.extend_from_slice(chunk);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let length: usize = std::str::from_utf8(&self.rest[..end]).unwrap().parse().expect("a record's length");
            let Some(record) = self.rest.get(end + 1..end + 1 + length) else { return };
            self.events.push(serde_json::from_slice(record).expect("a record is JSON"));
            self.rest.drain(..end + 1 + length);
        }
    }

    fn summary(&self) -> Vec<String> {
        let text = |event: &Value| {
            let status = &event["update"]["status"];
            format!("{} {} {} {}", event["type"], status["task_id"]["value"], status["state"], status["reason"])
        };
        self.events.iter().map(text).collect()
    }
}

/// The body of an ACCEPT.
pub fn accept(offers: &[&Value], tasks: &[Value], refuse_seconds: f64) -> Value {
    json!({
        "offer_ids": offers.iter().map(|offer| offer["id"].clone()).collect::<Vec<_>>(),
        "operations": [{"type": "LAUNCH", "launch": {"task_infos": tasks}}],
        "filters": {"refuse_seconds": refuse_seconds},
    })
}

/// A task of 0.1 CPUs and 32 MiB that runs this.
pub fn task(task_id: &str, offer: &Value, argv: &[&str]) -> Value {
    json!({
        "name": task_id,
        "task_id": {"value": task_id},
        "agent_id": offer["agent_id"],
        "command": {"shell": false, "value": argv[0], "arguments": argv},
        "resources": [
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}},
            {"name": "mem", "type": "SCALAR", "scalar": {"value": 32}},
        ],
        "labels": {"labels": [{"key": "instance", "value": "orders"}]},
    })
}

/// The same with so many CPUs.
pub fn with_cpus(mut task: Value, cpus: f64) -> Value {
    task["resources"][0]["scalar"]["value"] = cpus.into();
    task
}

/// The same with a port.
pub fn with_port(mut task: Value, port: u64) -> Value {
    let ports = json!({"name": "ports", "type": "RANGES", "ranges": {"range": [{"begin": port, "end": port}]}});
    task["resources"].as_array_mut().expect("resources are a list").push(ports);
    task
}

/// The value of a scalar in an offer; 0 when there is none of it.
pub fn scalar(offer: &Value, name: &str) -> f64 {
    let resources = offer["resources"].as_array().expect("resources are a list").iter();
    resources.filter(|r| r["name"] == name).filter_map(|r| r["scalar"]["value"].as_f64()).sum()
}

/// The first port in an offer.
pub fn first_port(offer: &Value) -> u64 {
    let resources = offer["resources"].as_array().expect("resources are a list").iter();
    let ports = resources.filter(|r| r["name"] == "ports").find_map(|r| r["ranges"]["range"][0]["begin"].as_u64());
    ports.expect("the offer has ports")
}
