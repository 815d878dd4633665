//! The Mesos session against a master that misbehaves as told. I/O.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{holds_for, wait_until};
use redisctl::mesos::{Masters, NotSent, Session, Settings, Timing};
use redisctl::model::{Launch, MesosCall, MesosEvent};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::Receiver;
use tokio_util::task::AbortOnDropHandle;

/// How long anything may take on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A request as the master got it.
#[derive(Clone, Debug)]
struct Request {
    at: Instant,
    authorization: Option<String>,
    stream_id: Option<String>,
    body: Value,
}

impl Request {
    fn kind(&self) -> &str {
        self.body["type"].as_str().unwrap()
    }
}

/// How the master answers one request.
#[derive(Clone, Debug)]
enum Answer {
    /// A status line's rest, further headers, and the whole body.
    Plain(&'static str, String, String),
    /// 200 and a stream in these pieces, with a pause before each; then it stays open, or is torn.
    Stream { pieces: Vec<Vec<u8>>, pause: Duration, stays: bool },
    /// Reads the request and tears the connection.
    Tear,
    /// Reads the request and never answers.
    Hang,
}

fn plain(status: &'static str, body: &str) -> Answer {
    Answer::Plain(status, String::new(), body.into())
}

fn redirect(to: &str) -> Answer {
    Answer::Plain("307 Temporary Redirect", format!("Location: //{to}/api/v1/scheduler\r\n"), String::new())
}

fn stream(events: &[Value]) -> Answer {
    Answer::Stream { pieces: vec![records(events)], pause: Duration::ZERO, stays: true }
}

fn records(events: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        let event = event.to_string();
        write!(bytes, "{}\n{event}", event.len()).unwrap();
    }
    bytes
}

fn subscribed_every(heartbeat_s: f64) -> Value {
    json!({"type": "SUBSCRIBED", "subscribed": {"framework_id": {"value": "F-1"},
        "heartbeat_interval_seconds": heartbeat_s, "master_info": {"version": "1.11.0"}}})
}

fn subscribed() -> Value {
    subscribed_every(15.0)
}

fn rescind(offer: &str) -> Value {
    json!({"type": "RESCIND", "rescind": {"offer_id": {"value": offer}}})
}

fn error(message: &str) -> Value {
    json!({"type": "ERROR", "error": {"message": message}})
}

#[derive(Default)]
struct Script {
    /// Answers to SUBSCRIBE, one each; the last is given for ever.
    to_subscribe: VecDeque<Answer>,
    /// Answers to other calls; 202 when there are none left.
    to_calls: VecDeque<Answer>,
    requests: Vec<Request>,
}

struct FakeMaster {
    address: String,
    script: Arc<Mutex<Script>>,
    _task: AbortOnDropHandle<()>,
}

impl FakeMaster {
    async fn start(to_subscribe: impl IntoIterator<Item = Answer>) -> FakeMaster {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let script = Script { to_subscribe: to_subscribe.into_iter().collect(), ..Script::default() };
        let script = Arc::new(Mutex::new(script));
        let for_task = script.clone();
        let task = tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.push(AbortOnDropHandle::new(tokio::spawn(serve(socket, for_task.clone()))));
            }
        });
        FakeMaster { address, script, _task: AbortOnDropHandle::new(task) }
    }

    fn answer_calls(&self, answers: impl IntoIterator<Item = Answer>) {
        self.script.lock().unwrap().to_calls.extend(answers);
    }

    fn requests(&self) -> Vec<Request> {
        self.script.lock().unwrap().requests.clone()
    }

    fn subscriptions(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.kind() == "SUBSCRIBE").collect()
    }

    fn calls(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.kind() != "SUBSCRIBE").collect()
    }
}

async fn serve(socket: TcpStream, script: Arc<Mutex<Script>>) {
    let mut socket = BufReader::new(socket);
    while let Some(request) = read_request(&mut socket).await {
        // The session's own looks at the agents.
        let looks = request.kind().starts_with("GET_");
        let answer = if looks {
            plain("200 OK", "{}")
        } else {
            let mut script = script.lock().unwrap();
            let is_subscribe = request.kind() == "SUBSCRIBE";
            script.requests.push(request);
            match (is_subscribe, script.to_subscribe.len()) {
                (true, 0 | 1) => script.to_subscribe.front().cloned().unwrap(),
                (true, _) => script.to_subscribe.pop_front().unwrap(),
                (false, _) => script.to_calls.pop_front().unwrap_or_else(|| plain("202 Accepted", "")),
            }
        };
        // The session may hang up at any time.
        if reply(&mut socket, answer).await.is_none() {
            return;
        }
    }
}

async fn read_request(socket: &mut BufReader<TcpStream>) -> Option<Request> {
    let (mut length, mut authorization, mut stream_id) = (0, None, None);
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => authorization = Some(value.to_string()),
            "mesos-stream-id" => stream_id = Some(value.to_string()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    let body = serde_json::from_slice(&body).unwrap();
    Some(Request { at: Instant::now(), authorization, stream_id, body })
}

async fn reply(socket: &mut BufReader<TcpStream>, answer: Answer) -> Option<()> {
    match answer {
        Answer::Tear => None,
        Answer::Hang => std::future::pending().await,
        Answer::Plain(status, headers, body) => {
            let reply = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
            socket.write_all(reply.as_bytes()).await.ok()
        }
        Answer::Stream { pieces, pause, stays } => {
            let id = format!("Mesos-Stream-Id: stream-{}\r\n", rand::random::<u32>());
            socket
                .write_all(format!("HTTP/1.1 200 OK\r\n{id}Transfer-Encoding: chunked\r\n\r\n").as_bytes())
                .await
                .ok()?;
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                tokio::time::sleep(pause).await;
                let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                chunk.extend_from_slice(piece);
                chunk.extend_from_slice(b"\r\n");
                socket.write_all(&chunk).await.ok()?;
            }
            if stays {
                std::future::pending::<()>().await;
            }
            None
        }
    }
}

fn named(masters: &[&FakeMaster]) -> Masters {
    Masters::named(masters.iter().map(|master| master.address.clone()).collect())
}

/// Settings of somebody in a hurry.
fn settings(masters: &[&FakeMaster]) -> Settings {
    Settings {
        masters: named(masters),
        timing: Timing {
            subscribe: Duration::from_millis(400),
            silence: Duration::from_secs(10),
            call: Duration::from_millis(400),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(50),
            healthy: Duration::from_millis(200),
            slow: Duration::from_millis(600),
            ..Timing::default()
        },
        ..Settings::default()
    }
}

fn start(settings: Settings) -> (Session, Receiver<MesosEvent>) {
    Session::start(settings, None).unwrap()
}

async fn next(events: &mut Receiver<MesosEvent>) -> MesosEvent {
    tokio::time::timeout(TIMEOUT, events.recv()).await.expect("an event in time").expect("the session lives")
}

async fn next_subscription(events: &mut Receiver<MesosEvent>) -> u64 {
    loop {
        if let MesosEvent::Subscribed { framework_id, subscription } = next(events).await {
            assert_eq!(framework_id, "F-1");
            return subscription;
        }
    }
}

async fn next_disconnection(events: &mut Receiver<MesosEvent>) -> String {
    loop {
        if let MesosEvent::Disconnected { reason } = next(events).await {
            return reason;
        }
    }
}

async fn next_failed_call(events: &mut Receiver<MesosEvent>) -> (&'static str, Vec<String>, String, bool) {
    loop {
        if let MesosEvent::CallFailed { call, task_ids, message, uncertain } = next(events).await {
            return (call, task_ids, message, uncertain);
        }
    }
}

fn accept(task_id: &str) -> MesosCall {
    let launch = Launch {
        task_id: task_id.into(),
        name: "orders-0".into(),
        agent_id: "S1".into(),
        pieces: Vec::new(),
        argv: vec!["redis-server".into()],
        image: None,
        grace_ms: 1000,
        labels: std::collections::BTreeMap::new(),
    };
    MesosCall::Accept { offer_ids: vec!["O1".into()], launches: vec![launch], refuse_s: 1.0 }
}

fn kill(task_id: &str) -> MesosCall {
    MesosCall::Kill { task_id: task_id.into(), agent_id: None }
}

// --- the stream

#[tokio::test]
async fn events_arrive_whole_when_every_byte_comes_alone() {
    let bytes = records(&[subscribed(), rescind("O1"), json!({"type": "HEARTBEAT"}), rescind("O2")]);
    let pieces = bytes.iter().map(|byte| vec![*byte]).collect();
    let master = FakeMaster::start([Answer::Stream { pieces, pause: Duration::ZERO, stays: true }]).await;
    // Hundreds of wake-ups on a busy machine: patience is not what is tested.
    let mut patient = settings(&[&master]);
    patient.timing.subscribe = TIMEOUT;
    let (_session, mut events) = start(patient);
    assert_eq!(next_subscription(&mut events).await, 1);
    assert_eq!(next(&mut events).await, MesosEvent::Rescind("O1".into()));
    assert_eq!(next(&mut events).await, MesosEvent::Rescind("O2".into()));
}

#[tokio::test]
async fn a_stream_cut_at_any_byte_gives_its_whole_events_and_a_new_subscription() {
    let bytes = records(&[subscribed(), rescind("O1")]);
    let (first, whole) = (records(&[subscribed()]).len(), bytes.len());
    let cut = |end: usize| Answer::Stream { pieces: vec![bytes[..end].to_vec()], pause: Duration::ZERO, stays: false };
    let last = stream(&[subscribed(), rescind("the end")]);
    let master = FakeMaster::start((0..=whole).map(cut).chain([last])).await;
    let mut settings = settings(&[&master]);
    settings.timing.backoff_max = Duration::from_millis(1);
    let (_session, mut events) = start(settings);
    let (mut subscriptions, mut rescinded) = (0, 0);
    loop {
        match next(&mut events).await {
            MesosEvent::Subscribed { .. } => subscriptions += 1,
            MesosEvent::Rescind(offer) if offer == "the end" => break,
            MesosEvent::Rescind(_) => rescinded += 1,
            MesosEvent::Disconnected { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((subscriptions, rescinded), (whole - first + 2, 1));
    let subscribed_as = |request: &Request| request.body["framework_id"]["value"].as_str().map(str::to_string);
    let ids: Vec<_> = master.subscriptions().iter().map(subscribed_as).collect();
    assert_eq!(ids.len(), whole + 2);
    assert!(ids[..=first].iter().all(Option::is_none), "no id is known before the first SUBSCRIBED is whole");
    assert!(ids[first + 1..].iter().all(|id| id.as_deref() == Some("F-1")), "the id is kept from then on");
}

#[tokio::test]
async fn a_subscription_without_heartbeats_is_given_up() {
    let master = FakeMaster::start([stream(&[subscribed_every(0.1)])]).await;
    let (session, mut events) = start(settings(&[&master]));
    assert_eq!(next_subscription(&mut events).await, 1);
    assert!(session.last_event_age().unwrap() < TIMEOUT);
    let reason = next_disconnection(&mut events).await;
    assert_eq!(reason, format!("{}: no event within 300ms", master.address));
    assert_eq!(next_subscription(&mut events).await, 2);
}

#[tokio::test]
async fn bytes_that_drip_are_no_sign_of_life() {
    let mut pieces = vec![records(&[subscribed_every(0.1)])];
    pieces.extend(records(&[rescind(&"O".repeat(500))]).iter().map(|byte| vec![*byte]));
    let master = FakeMaster::start([Answer::Stream { pieces, pause: Duration::from_millis(20), stays: true }]).await;
    let (_session, mut events) = start(settings(&[&master]));
    next_subscription(&mut events).await;
    assert!(next_disconnection(&mut events).await.contains("no event within"));
}

#[tokio::test]
async fn heartbeats_alone_keep_a_subscription() {
    let mut pieces = vec![records(&[subscribed_every(0.2)])];
    pieces.extend((0..100).map(|_| records(&[json!({"type": "HEARTBEAT"})])));
    let master = FakeMaster::start([Answer::Stream { pieces, pause: Duration::from_millis(20), stays: true }]).await;
    let (session, mut events) = start(settings(&[&master]));
    next_subscription(&mut events).await;
    holds_for("the subscription is in force", Duration::from_millis(1500), async || session.subscription() == Some(1))
        .await;
    assert!(session.last_event_age().unwrap() < Duration::from_millis(600));
}

#[tokio::test]
async fn garbage_in_the_stream_ends_the_subscription_only() {
    let mut garbage = records(&[subscribed()]);
    garbage.extend_from_slice(b"<html>");
    let huge = [records(&[subscribed()]), b"99999999999\n".to_vec()].concat();
    let answers =
        [garbage, huge].map(|bytes| Answer::Stream { pieces: vec![bytes], pause: Duration::ZERO, stays: true });
    let master = FakeMaster::start(answers.into_iter().chain([stream(&[subscribed()])])).await;
    let (_session, mut events) = start(settings(&[&master]));
    assert!(next_disconnection(&mut events).await.contains("where the length of a record belongs"));
    assert!(next_disconnection(&mut events).await.contains("announces a record of 99999999999 bytes"));
    assert_eq!(next_subscription(&mut events).await, 3);
}

#[tokio::test]
async fn an_event_that_is_not_understood_is_passed_over() {
    let odd = [json!({"type": "UPDATE", "update": 7}), json!([1]), json!({"type": "NEW_IN_MESOS_2"})];
    let mut sent = vec![subscribed()];
    sent.extend(odd);
    sent.push(rescind("O1"));
    let master = FakeMaster::start([stream(&sent)]).await;
    let (_session, mut events) = start(settings(&[&master]));
    next_subscription(&mut events).await;
    assert_eq!(next(&mut events).await, MesosEvent::Rescind("O1".into()));
}

#[tokio::test]
async fn a_stream_whose_first_event_is_not_subscribed_is_none() {
    let master = FakeMaster::start([stream(&[rescind("O1")]), stream(&[subscribed()])]).await;
    let (_session, mut events) = start(settings(&[&master]));
    assert!(next_disconnection(&mut events).await.contains("its first event is not SUBSCRIBED"));
    assert_eq!(next_subscription(&mut events).await, 2);
}

#[tokio::test]
async fn a_subscription_under_another_id_is_refused() {
    let master = FakeMaster::start([stream(&[subscribed()])]).await;
    let (session, mut events) = Session::start(settings(&[&master]), Some("F-9".into())).unwrap();
    assert!(next_disconnection(&mut events).await.contains(r#"it subscribes F-9 as "F-1""#));
    assert_eq!(session.subscription(), None);
}

#[tokio::test]
async fn an_operator_that_falls_far_behind_loses_the_subscription_and_gets_a_new_one() {
    let many: Vec<Value> = std::iter::once(subscribed()).chain((0..70_000).map(|i| rescind(&i.to_string()))).collect();
    let master = FakeMaster::start([stream(&many), stream(&[subscribed(), rescind("fresh")])]).await;
    let (session, mut events) = start(settings(&[&master]));
    wait_until("the subscription is given up", TIMEOUT, async || {
        session.events_queued() == 65_536 && session.subscription().is_none()
    })
    .await;
    assert!(next_disconnection(&mut events).await.contains("the operator is 65536 events behind"));
    assert_eq!(next_subscription(&mut events).await, 2);
    assert_eq!(next(&mut events).await, MesosEvent::Rescind("fresh".into()));
}

// --- the end

#[tokio::test]
async fn a_session_that_another_took_over_ends_and_does_not_come_back() {
    for message in ["Framework failed over", "Framework has been removed"] {
        let master = FakeMaster::start([stream(&[subscribed(), error(message)])]).await;
        let (session, mut events) = start(settings(&[&master]));
        let subscription = next_subscription(&mut events).await;
        assert_eq!(next(&mut events).await, MesosEvent::Ended { message: message.into() });
        wait_until("the session has ended", TIMEOUT, async || session.has_ended()).await;
        assert_eq!(session.send(subscription, MesosCall::Revive), Err(NotSent::Ended));
        assert_eq!(session.last_event_age(), None);
        holds_for("nobody subscribes again", Duration::from_millis(300), async || master.subscriptions().len() == 1)
            .await;
    }
}

#[tokio::test]
async fn any_other_error_is_told_and_tried_again_slowly() {
    let master = FakeMaster::start([stream(&[error("Roles {redis} are not present")]), stream(&[subscribed()])]).await;
    let (_session, mut events) = start(settings(&[&master]));
    assert!(next_disconnection(&mut events).await.contains("Roles {redis} are not present"));
    next_subscription(&mut events).await;
    let requests = master.subscriptions();
    assert!(requests[1].at - requests[0].at >= Duration::from_millis(300));
}

#[tokio::test]
async fn dropping_the_session_closes_its_stream() {
    let master = FakeMaster::start([stream(&[subscribed()])]).await;
    let (session, mut events) = start(settings(&[&master]));
    next_subscription(&mut events).await;
    drop(session);
    let ended = tokio::time::timeout(TIMEOUT, events.recv()).await.unwrap();
    assert_eq!(ended, None);
}

// --- finding the master

#[tokio::test]
async fn a_redirect_to_a_master_that_is_named_is_followed_with_the_credentials() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&secret, "s3cret\n").unwrap();
    let leader = FakeMaster::start([stream(&[subscribed()])]).await;
    let follower = FakeMaster::start([redirect(&leader.address)]).await;
    let mut settings = settings(&[&follower, &leader]);
    settings.principal = Some("op".into());
    settings.secret_file = Some(secret.path().into());
    let (session, mut events) = start(settings);
    let subscription = next_subscription(&mut events).await;
    assert_eq!(session.leader().as_ref(), Some(&leader.address));
    session.send(subscription, MesosCall::Revive).unwrap();
    wait_until("the leader gets the call", TIMEOUT, async || leader.calls().len() == 1).await;
    for request in leader.requests() {
        assert_eq!(request.authorization.as_deref(), Some("Basic b3A6czNjcmV0"));
    }
    assert!(leader.calls()[0].stream_id.is_some());
    assert!(leader.subscriptions()[0].stream_id.is_none());
}

#[tokio::test]
async fn a_redirect_to_somebody_who_is_not_named_is_not_followed_with_credentials_and_is_told() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&secret, "s3cret\n").unwrap();
    let other = FakeMaster::start([stream(&[subscribed()])]).await;
    let follower = FakeMaster::start([redirect(&other.address)]).await;
    let mut with = settings(&[&follower]);
    with.principal = Some("op".into());
    with.secret_file = Some(secret.path().into());
    let (_session, mut events) = start(with);
    let reason = next_disconnection(&mut events).await;
    let said = format!("it redirects to {}, which is not among the masters of --mesos", other.address);
    assert!(reason.contains(&said), "{reason}");
    assert!(other.requests().is_empty(), "it saw nothing");

    // Who has no credentials loses none: one master of several is enough to be named.
    let (_session, mut events) = start(settings(&[&follower]));
    next_subscription(&mut events).await;
    assert_eq!(other.requests()[0].authorization, None);
}

#[tokio::test]
async fn redirects_in_a_circle_are_followed_three_times_in_a_round() {
    let one = FakeMaster::start([]).await;
    let two = FakeMaster::start([redirect(&one.address)]).await;
    one.script.lock().unwrap().to_subscribe.push_back(redirect(&two.address));
    let mut settings = settings(&[&one]);
    settings.timing.backoff_min = Duration::from_secs(100);
    settings.timing.backoff_max = Duration::from_secs(100);
    let (_session, mut events) = start(settings);
    assert!(next_disconnection(&mut events).await.contains("after 3 other redirects"));
    assert_eq!(one.requests().len() + two.requests().len(), 4);
}

#[tokio::test]
async fn masters_that_cannot_serve_are_passed_over() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let recovering = FakeMaster::start([plain("503 Service Unavailable", "Master has not finished recovery")]).await;
    let starting = FakeMaster::start([plain("404 Not Found", "")]).await;
    let lost = FakeMaster::start([redirect(&dead)]).await;
    let frozen = FakeMaster::start([Answer::Hang]).await;
    let leader = FakeMaster::start([stream(&[subscribed()])]).await;
    let mut settings = settings(&[]);
    let masters = [&recovering, &starting, &lost, &frozen, &leader].map(|master| master.address.clone());
    settings.masters = Masters::named(masters.into_iter().chain([dead]).collect());
    let (session, mut events) = start(settings);
    next_subscription(&mut events).await;
    assert_eq!(session.leader(), Some(leader.address));
}

#[tokio::test]
async fn every_master_is_named_with_its_reason_once() {
    let one = FakeMaster::start([plain("503 Service Unavailable", "No leader elected")]).await;
    let (_session, mut events) = start(settings(&[&one]));
    assert_eq!(next_disconnection(&mut events).await, format!("{}: 503 No leader elected", one.address));
    wait_until("it is tried several times", TIMEOUT, async || one.subscriptions().len() >= 5).await;
    assert!(events.try_recv().is_err(), "the same reason is told once");
}

#[tokio::test]
async fn an_agent_in_the_place_of_a_master_is_called_that() {
    let words = "Failed to validate agent::Call: Expecting 'type' to be present";
    let agent = FakeMaster::start([plain("400 Bad Request", words)]).await;
    let (_session, mut events) = start(settings(&[&agent]));
    assert_eq!(
        next_disconnection(&mut events).await,
        format!("{}: that is a Mesos agent, not a master", agent.address)
    );
}

#[tokio::test]
async fn a_master_that_comes_back_is_found_by_the_session_at_once() {
    let cut =
        Answer::Stream { pieces: vec![records(&[subscribed()])], pause: Duration::from_millis(300), stays: false };
    let master = FakeMaster::start([cut, stream(&[subscribed()])]).await;
    let mut settings = settings(&[&master]);
    settings.timing.backoff_min = Duration::from_secs(100);
    settings.timing.backoff_max = Duration::from_secs(100);
    let (_session, mut events) = start(settings);
    assert_eq!(next_subscription(&mut events).await, 1);
    assert_eq!(next_subscription(&mut events).await, 2, "after a healthy subscription there is no backoff");
}

#[tokio::test]
async fn refused_credentials_are_told_and_a_new_secret_is_taken() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&secret, "old").unwrap();
    let master = FakeMaster::start([plain("401 Unauthorized", ""), stream(&[subscribed()])]).await;
    let mut settings = settings(&[&master]);
    settings.principal = Some("op".into());
    settings.secret_file = Some(secret.path().into());
    let (_session, mut events) = start(settings);
    let reason = next_disconnection(&mut events).await;
    assert!(reason.contains("it refuses the secret of principal op in"), "{reason}");
    std::fs::write(&secret, "new").unwrap();
    next_subscription(&mut events).await;
    let sent: Vec<_> = master.subscriptions().into_iter().map(|request| request.authorization.unwrap()).collect();
    assert_eq!(sent, ["Basic b3A6b2xk", "Basic b3A6bmV3"]);
}

#[tokio::test]
async fn a_secret_file_that_is_not_there_is_named() {
    let master = FakeMaster::start([stream(&[subscribed()])]).await;
    let mut settings = settings(&[&master]);
    settings.principal = Some("op".into());
    settings.secret_file = Some("/no/such/secret".into());
    let (_session, mut events) = start(settings);
    assert!(next_disconnection(&mut events).await.starts_with("read the Mesos secret from /no/such/secret"));
    assert!(master.requests().is_empty());
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let good = Settings { masters: Masters::named(vec!["m:5050".into()]), ..Settings::default() };
    for (settings, said) in [
        (Settings::default(), "no Mesos master is given"),
        (Settings { roles: vec!["-r".into()], ..good.clone() }, "role \"-r\""),
        (Settings { failover_timeout_s: f64::NAN, ..good.clone() }, "failover timeout NaN"),
        (Settings { failover_timeout_s: 1e12, ..good.clone() }, "failover timeout 1000000000000 s"),
        (Settings { secret_file: Some("/s".into()), ..good }, "no principal"),
    ] {
        let refused = Session::start(settings, None).err().unwrap().to_string();
        assert!(refused.contains(said), "{refused}");
    }
}

// --- calls

#[tokio::test]
async fn calls_reach_the_master_in_their_order_on_their_own_stream() {
    let master = FakeMaster::start([stream(&[subscribed()])]).await;
    let (session, mut events) = start(settings(&[&master]));
    let subscription = next_subscription(&mut events).await;
    for i in 0..50 {
        session.send(subscription, kill(&i.to_string())).unwrap();
    }
    wait_until("all calls are there", TIMEOUT, async || master.calls().len() == 50).await;
    let calls = master.calls();
    let tasks: Vec<_> = calls.iter().map(|call| call.body["kill"]["task_id"]["value"].as_str().unwrap()).collect();
    assert_eq!(tasks, (0..50).map(|i| i.to_string()).collect::<Vec<_>>());
    assert!(
        calls.iter().all(|call| call.stream_id == calls[0].stream_id && call.body["framework_id"]["value"] == "F-1")
    );
    wait_until("none waits", TIMEOUT, async || session.calls_queued() == 0).await;
}

#[tokio::test]
async fn a_long_reconciliation_is_sent_in_parts() {
    let master = FakeMaster::start([stream(&[subscribed()])]).await;
    let (session, mut events) = start(settings(&[&master]));
    let subscription = next_subscription(&mut events).await;
    let tasks = (0..2500).map(|i| (format!("t-{i}"), None)).collect();
    session.send(subscription, MesosCall::Reconcile(tasks)).unwrap();
    wait_until("all parts are there", TIMEOUT, async || master.calls().len() == 3).await;
    let sizes: Vec<_> =
        master.calls().iter().map(|call| call.body["reconcile"]["tasks"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1000, 1000, 500]);
}

#[tokio::test]
async fn a_call_of_a_former_subscription_is_never_sent() {
    let master = FakeMaster::start([stream(&[subscribed()])]).await;
    let (session, mut events) = start(settings(&[&master]));
    let subscription = next_subscription(&mut events).await;
    session.send(subscription - 1, accept("t-1")).unwrap();
    session.send(subscription - 1, kill("t-2")).unwrap();
    session.send(subscription, MesosCall::Revive).unwrap();
    let failed = next_failed_call(&mut events).await;
    assert_eq!(failed, ("ACCEPT", vec!["t-1".into()], "its subscription had ended before it was sent".into(), false));
    wait_until("the call after them is there", TIMEOUT, async || !master.calls().is_empty()).await;
    assert_eq!(master.calls().len(), 1);
    assert_eq!(master.calls()[0].kind(), "REVIVE");
}

#[tokio::test]
async fn a_launch_whose_outcome_is_not_known_is_told_and_never_sent_again_and_its_offers_are_given_back() {
    for answer in [Answer::Tear, Answer::Hang, plain("500 Internal Server Error", "")] {
        let master = FakeMaster::start([stream(&[subscribed()])]).await;
        master.answer_calls([answer]);
        let (session, mut events) = start(settings(&[&master]));
        let subscription = next_subscription(&mut events).await;
        session.send(subscription, accept("t-1")).unwrap();
        session.send(subscription, MesosCall::Revive).unwrap();
        let (call, tasks, _, uncertain) = next_failed_call(&mut events).await;
        assert_eq!((call, tasks, uncertain), ("ACCEPT", vec!["t-1".into()], true));
        wait_until("the calls after it are there", TIMEOUT, async || master.calls().len() == 3).await;
        let kinds: Vec<_> = master.calls().iter().map(|call| call.kind().to_string()).collect();
        assert_eq!(kinds, ["ACCEPT", "DECLINE", "REVIVE"], "its offers are given back");
        assert_eq!(session.subscription(), Some(subscription));
    }
}

#[tokio::test]
async fn a_launch_that_the_master_refuses_is_told_with_its_words() {
    let master = FakeMaster::start([stream(&[subscribed()])]).await;
    let declined = plain("202 Accepted", "");
    master.answer_calls([plain("400 Bad Request", "Failed to validate"), declined, plain("501 Not Implemented", "")]);
    let (session, mut events) = start(settings(&[&master]));
    let subscription = next_subscription(&mut events).await;
    session.send(subscription, accept("t-1")).unwrap();
    session.send(subscription, kill("t-2")).unwrap();
    let refused = |call, task: &str, words: &str| (call, vec![task.to_string()], words.to_string(), false);
    assert_eq!(
        next_failed_call(&mut events).await,
        refused("ACCEPT", "t-1", "the master answers 400 Failed to validate")
    );
    assert_eq!(next_failed_call(&mut events).await, refused("KILL", "t-2", "the master answers 501"));
    assert_eq!(session.subscription(), Some(subscription));
}

#[tokio::test]
async fn other_calls_are_sent_again_on_the_same_stream() {
    let master = FakeMaster::start([stream(&[subscribed()])]).await;
    master.answer_calls([Answer::Tear, Answer::Hang]);
    let (session, mut events) = start(settings(&[&master]));
    let subscription = next_subscription(&mut events).await;
    session.send(subscription, kill("t-1")).unwrap();
    wait_until("the call is there three times", TIMEOUT, async || master.calls().len() == 3).await;
    wait_until("none waits", TIMEOUT, async || session.calls_queued() == 0).await;
    assert_eq!(session.subscription(), Some(subscription));
    let calls = master.calls();
    assert!(calls.iter().all(|call| call.kind() == "KILL" && call.stream_id == calls[0].stream_id));
}

#[tokio::test]
async fn calls_that_do_not_get_through_make_the_session_subscribe_again() {
    let master = FakeMaster::start([stream(&[subscribed()])]).await;
    master.answer_calls([Answer::Tear, Answer::Tear, Answer::Tear]);
    let (session, mut events) = start(settings(&[&master]));
    let subscription = next_subscription(&mut events).await;
    session.send(subscription, MesosCall::Revive).unwrap();
    assert!(next_disconnection(&mut events).await.contains("REVIVE did not get through"));
    assert_eq!(next_subscription(&mut events).await, subscription + 1);
}

#[tokio::test]
async fn replies_that_deny_the_subscription_make_the_session_subscribe_again() {
    for answer in [
        plain("400 Bad Request", "The stream ID 'a' included in this request didn't match the stream ID 'b'"),
        plain("400 Bad Request", "Framework cannot be found"),
        plain("403 Forbidden", "Framework is not subscribed"),
        plain("503 Service Unavailable", "No leader elected"),
        redirect("127.0.0.1:1"),
    ] {
        let master = FakeMaster::start([stream(&[subscribed()])]).await;
        master.answer_calls([answer]);
        let (session, mut events) = start(settings(&[&master]));
        let subscription = next_subscription(&mut events).await;
        session.send(subscription, accept("t-1")).unwrap();
        let (call, _, _, uncertain) = next_failed_call(&mut events).await;
        assert_eq!((call, uncertain), ("ACCEPT", false));
        assert_eq!(next_subscription(&mut events).await, subscription + 1);
        assert_eq!(master.calls().len(), 1, "the launch is not sent again");
    }
}

#[tokio::test]
async fn a_secret_that_changes_under_a_subscription_is_taken_for_the_next_call() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&secret, "old").unwrap();
    let master = FakeMaster::start([stream(&[subscribed()])]).await;
    master.answer_calls([plain("401 Unauthorized", "")]);
    let mut settings = settings(&[&master]);
    settings.principal = Some("op".into());
    settings.secret_file = Some(secret.path().into());
    let (session, mut events) = start(settings);
    let subscription = next_subscription(&mut events).await;
    std::fs::write(&secret, "new").unwrap();
    session.send(subscription, accept("t-1")).unwrap();
    wait_until("the call is there again", TIMEOUT, async || master.calls().len() == 2).await;
    assert_eq!(master.calls()[1].authorization.as_deref(), Some("Basic b3A6bmV3"));
    assert_eq!(session.subscription(), Some(subscription));
}

#[tokio::test]
async fn a_call_in_flight_does_not_outlive_its_subscription() {
    let dies = Answer::Stream {
        pieces: vec![records(&[subscribed()]), records(&[rescind("O1")]), records(&[rescind("O2")])],
        pause: Duration::from_millis(150),
        stays: false,
    };
    let master = FakeMaster::start([dies, stream(&[subscribed()])]).await;
    master.answer_calls([Answer::Hang]);
    let mut settings = settings(&[&master]);
    settings.timing.call = TIMEOUT;
    let (session, mut events) = start(settings);
    let first = next_subscription(&mut events).await;
    session.send(first, accept("t-1")).unwrap();
    let second = next_subscription(&mut events).await;
    session.send(second, MesosCall::Revive).unwrap();
    let (_, _, _, uncertain) = next_failed_call(&mut events).await;
    assert!(uncertain);
    wait_until("the new subscription's call is there", TIMEOUT / 2, async || master.calls().len() == 2).await;
}

#[tokio::test]
async fn whatever_a_master_says_is_told_in_some_words_that_do_no_harm() {
    let hostile = "\u{1b}[2J\n2026-01-01 ERROR forged \u{202e}".repeat(300_000); // Some 10 MB.
    let unknown = json!({"type": hostile});
    let offers = json!({"type": "OFFERS", "offers": {"offers": [{"hostname": hostile}]}});
    let nameless = json!({"type": "SUBSCRIBED", "subscribed": {"framework_id": {"value": hostile}}});
    for answer in [
        stream(&[error(&hostile)]),
        stream(&[subscribed(), error(&hostile)]),
        stream(&[unknown]),
        stream(&[offers]),
        stream(&[nameless]),
        plain("403 Forbidden", &hostile),
        plain("500 Internal Server Error", &hostile),
        Answer::Plain("307 Temporary Redirect", format!("Location: //{}:1/x\r\n", "m".repeat(20_000)), String::new()),
    ] {
        let master = FakeMaster::start([answer.clone()]).await;
        let (_session, mut events) = start(settings(&[&master]));
        let reason = next_disconnection(&mut events).await;
        let shown: String = reason.chars().take(200).collect();
        assert!(reason.len() < 8000, "{} bytes: {shown}", reason.len());
        assert!(!reason.contains(|c: char| c.is_control() || c == '\u{202e}'), "{shown:?}");
    }
    let master = FakeMaster::start([stream(&[subscribed()])]).await;
    master.answer_calls([plain("400 Bad Request", &hostile)]);
    let (session, mut events) = start(settings(&[&master]));
    let subscription = next_subscription(&mut events).await;
    session.send(subscription, accept("t")).unwrap();
    let (_, _, message, _) = next_failed_call(&mut events).await;
    assert!(message.len() < 8000 && !message.contains(|c: char| c.is_control()), "{} bytes", message.len());
}
