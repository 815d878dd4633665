//! Sentinel's protocol beside a real Redis Sentinel: the same questions, the same shape of answers. I/O.

mod support;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redisctl::api::{ApiState, Limit};
use redisctl::board::{Board, InstanceView};
use redisctl::door::{Door, Gate};
use redisctl::model::{Role, Timestamp};
use redisctl::sentinel;
use redisctl::spec::parse_document;
use redisctl::status::{Condition, ConditionStatus, ConditionType, InstanceStatus, NodeState, NodeStatus, Phase};
use redisctl::store::{Candidate, Store};
use support::{Home, Ports, Process, Redis, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

const TIMEOUT: Duration = Duration::from_secs(30);
const CLIENTS_MAX: usize = 10_000;
/// A reply that has not come then will not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// A master with a replica, a real Sentinel of both, and ours.
struct Both {
    real: TcpStream,
    ours: TcpStream,
    board: Arc<Board>,
    address: String,
    master: Redis,
    _replica: Redis,
    _sentinel: Process,
    _home: Home,
    _ports: Ports,
    _store: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Both {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Both {
    async fn start() -> Both {
        let master = Redis::start(&[]).await;
        let port = master.port().to_string();
        let replica = Redis::start(&["--replicaof", "127.0.0.1", &port]).await;
        let (home, ports) = (Home::new("sentinel"), Ports::lease(1));
        let real = ports.next();
        let config = format!("port {real}\nbind 127.0.0.1\nsentinel monitor orders 127.0.0.1 {port} 1\n");
        let path = home.path().join("sentinel.conf");
        std::fs::write(&path, config).expect("the home can be written");
        let sentinel = home.spawn("sentinel", std::process::Command::new("redis-server").arg(path).arg("--sentinel"));
        let real = format!("127.0.0.1:{real}");
        wait_until("the real Sentinel knows the replica", TIMEOUT, async || {
            let told = support::redis::cli(&real, &["SENTINEL", "replicas", "orders"]).await?;
            if told.contains("master-link-status\nok") { Ok(()) } else { Err(told) }
        })
        .await;
        let board = Arc::new(Board::default());
        board.set(view(&master.address(), &replica.address()));
        board.set_operator(|operator| {
            operator.leader =
                Some(Candidate { id: "me".into(), api: "http://127.0.0.1:1".into(), process: None, frozen: false });
        });
        let stop = CancellationToken::new();
        let (address, folder) = serve(&board, Limit::new(u32::MAX), &stop).await;
        let connect = async |address: &str| TcpStream::connect(address).await.expect("it listens");
        Both {
            real: connect(&real).await,
            ours: connect(&address).await,
            board,
            address,
            master,
            _replica: replica,
            _sentinel: sentinel,
            _home: home,
            _ports: ports,
            _store: folder,
            stop,
        }
    }

    /// Both answers to the same words.
    async fn ask(&mut self, words: &[&str]) -> (Value, Value) {
        (ask(&mut self.real, words).await, ask(&mut self.ours, words).await)
    }
}

/// Answers what the board says. The folder is the store's.
async fn serve(board: &Arc<Board>, limit: Limit, stop: &CancellationToken) -> (String, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&format!("file:{}", folder.path().join("store").display())).await.expect("a store");
    let state = ApiState { limit: Arc::new(limit), ..ApiState::open(Arc::clone(board), store, Arc::default()) };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it listens").to_string();
    let door = Door::new(listener, Gate::new("sentinel", CLIENTS_MAX, Arc::default())).expect("a door");
    tokio::spawn(sentinel::serve(door, state, sentinel::run_id("me"), stop.clone()));
    (address, folder)
}

fn view(master: &str, replica: &str) -> InstanceView {
    let node = |ordinal: u32, address: &str, role: Role| NodeStatus {
        name: format!("orders-{ordinal}"),
        task_id: format!("orders-{ordinal}.1"),
        agent: "a".into(),
        hostname: "h".into(),
        domain: None,
        address: address.into(),
        role,
        state: NodeState::Ready,
        message: String::new(),
        link: (role == Role::Replica).then(|| "up".into()),
        offset: None,
        lag: None,
        used_memory: None,
    };
    let document =
        b"{apiVersion: redisctl/v1, kind: RedisInstance, metadata: {name: orders}, spec: {replicas: 1, memory: 8Mi}}";
    let available = Condition {
        kind: ConditionType::MasterAvailable,
        status: ConditionStatus::True,
        reason: "Available".into(),
        message: String::new(),
        last_transition_time: Timestamp(0),
    };
    InstanceView {
        name: "orders".into(),
        instance: Some(parse_document(document).expect("the document is right")),
        invalid: None,
        revision: 1,
        created_at: None,
        status: InstanceStatus {
            phase: Phase::Ready,
            conditions: vec![available],
            epoch: 1,
            master: Some(master.into()),
            nodes: vec![node(0, master, Role::Master), node(1, replica, Role::Replica)],
            ..InstanceStatus::default()
        },
        plan: None,
        events: Arc::default(),
        deleting: false,
    }
}

/// A reply as it came.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    /// The kind and the text of a line: `+OK`, `-ERR`, `:1`, `_`.
    Line(String),
    Text(String),
    /// The kind, and the items: `*`, `%`, `>`, `~`.
    Items(char, Vec<Value>),
}

async fn ask(stream: &mut TcpStream, words: &[&str]) -> Value {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        let _ = write!(request, "${}\r\n{word}\r\n", word.len());
    }
    stream.write_all(request.as_bytes()).await.expect("it reads");
    tokio::time::timeout(PATIENCE, read(stream)).await.unwrap_or_else(|_| panic!("no reply to {words:?}"))
}

async fn line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.expect("it stays"));
    }
    String::from_utf8(line).expect("text").trim_end().to_string()
}

async fn read(stream: &mut TcpStream) -> Value {
    let line = line(stream).await;
    let count = || line[1..].parse::<i64>().expect("a count");
    match line.chars().next() {
        Some('$') if count() >= 0 => {
            let mut text = vec![0; usize::try_from(count()).expect("it is not negative") + 2];
            stream.read_exact(&mut text).await.expect("it stays");
            text.truncate(text.len() - 2);
            Value::Text(String::from_utf8(text).expect("text"))
        }
        Some(kind @ ('*' | '%' | '>' | '~')) if count() >= 0 => {
            let mut items = Vec::new();
            for _ in 0..count() * if kind == '%' { 2 } else { 1 } {
                items.push(Box::pin(read(stream)).await);
            }
            Value::Items(kind, items)
        }
        _ => Value::Line(line),
    }
}

/// The same without what differs between two that are right: numbers, addresses, ids.
fn shape(value: &Value) -> Value {
    match value {
        Value::Items(kind, items) => Value::Items(*kind, keyed(items)),
        Value::Text(_) => Value::Text("...".into()),
        Value::Line(line) if line.starts_with(':') => Value::Line(":1".into()),
        Value::Line(line) => Value::Line(line.clone()),
    }
}

/// Items of pairs keep their keys.
fn keyed(items: &[Value]) -> Vec<Value> {
    let is_pairs = matches!(items.first(), Some(Value::Text(first)) if first == "name" || first == "server");
    let one = |(i, item): (usize, &Value)| if is_pairs && i % 2 == 0 { item.clone() } else { shape(item) };
    items.iter().enumerate().map(one).collect()
}

#[tokio::test]
async fn questions_are_answered_in_the_shape_of_a_real_sentinel_in_both_versions_of_the_protocol() {
    let mut both = Both::start().await;
    for version in ["2", "3"] {
        for question in [
            &["HELLO", version][..],
            &["PING"],
            &["SENTINEL", "masters"],
            &["SENTINEL", "master", "orders"],
            &["SENTINEL", "replicas", "orders"],
            &["SENTINEL", "slaves", "orders"],
            &["SENTINEL", "sentinels", "orders"],
            &["SENTINEL", "get-master-addr-by-name", "orders"],
            &["SENTINEL", "get-master-addr-by-name", "nobody"],
            &["SENTINEL", "myid"],
            &["SENTINEL", "is-master-down-by-addr", "127.0.0.1", "1", "0", "*"],
            &["ROLE"],
            &["CLIENT", "ID"],
            &["CLIENT", "GETNAME"],
            &["CLIENT", "SETNAME", "me"],
            &["CLIENT", "GETNAME"],
            &["COMMAND", "COUNT"],
        ] {
            let (real, ours) = both.ask(question).await;
            assert_eq!(shape(&ours), shape(&real), "{question:?}, RESP{version}");
        }
    }
}

#[tokio::test]
async fn what_is_said_is_what_a_real_sentinel_says() {
    let mut both = Both::start().await;
    let port = both.master.port().to_string();
    for question in [
        &["PING"][..],
        &["PING", "hello"],
        &["SENTINEL", "get-master-addr-by-name", "orders"],
        &["SENTINEL", "ckquorum", "orders"],
        &["SENTINEL", "is-master-down-by-addr", "127.0.0.1", &port, "0", "*"],
        &["ROLE"],
        // Errors, word by word.
        &["GET", "key", "another"],
        &["NONSENSE"],
        &["SENTINEL"],
        &["SENTINEL", "nonsense"],
        &["SENTINEL", "master"],
        &["SENTINEL", "master", "nobody"],
        &["SENTINEL", "replicas", "nobody"],
        &["SENTINEL", "sentinels", "nobody"],
        &["SENTINEL", "ckquorum", "nobody"],
        &["SENTINEL", "failover", "nobody"],
        &["CLIENT", "SETINFO", "LIB-NAME", "x"],
        &["CLIENT", "SETNAME", "two words"],
        &["HELLO", "4"],
        &["HELLO", "x"],
        &["HELLO", "2", "NONSENSE"],
        &["AUTH", "x"],
        &["PING", "a", "b"],
        // Publications.
        &["SUBSCRIBE", "+switch-master"],
        &["PING"],
        &["PING", "hello"],
        &["SENTINEL", "masters"],
        &["UNSUBSCRIBE", "+switch-master"],
        &["PSUBSCRIBE", "*"],
        &["PUNSUBSCRIBE"],
        &["UNSUBSCRIBE"],
        &["PING"],
        &["RESET"],
    ] {
        let (real, ours) = both.ask(question).await;
        assert_eq!(ours, real, "{question:?}");
    }
}

#[tokio::test]
async fn redis_cli_shows_what_info_says() {
    let both = Both::start().await;
    let info = support::redis::cli(&both.address, &["INFO", "sentinel"]).await.expect("it answers");
    let master = both.master.address();
    let line = format!("master0:name=orders,status=ok,address={master},slaves=1,sentinels=1");
    assert!(info.lines().any(|found| found == line), "{info}");
}

/// What is published when the board changes in this way.
async fn published(both: &mut Both, change: impl Fn(&mut InstanceView)) -> Vec<(String, String)> {
    let mut stream = TcpStream::connect(&both.address).await.expect("it listens");
    ask(&mut stream, &["PSUBSCRIBE", "*"]).await;
    let mut view = InstanceView::clone(&both.board.get("orders").expect("it is there"));
    change(&mut view);
    // Another instance comes after it: when that is published, all before it was.
    let mut last = InstanceView::clone(&view);
    (last.name, last.status.master) = ("last".into(), Some("127.0.0.1:9".into()));
    both.board.set(view);
    both.board.set(last);
    let mut all = Vec::new();
    loop {
        let reply = tokio::time::timeout(PATIENCE, read(&mut stream)).await.expect("all is published");
        let Value::Items(_, items) = reply else { panic!("{reply:?}") };
        let [_, _, Value::Text(channel), Value::Text(message)] = items.as_slice() else { panic!("{items:?}") };
        if channel == "+monitor" && message.starts_with("master last ") {
            both.board.remove("last");
            return all;
        }
        if !message.contains(" last ") {
            all.push((channel.clone(), message.clone()));
        }
    }
}

fn set_available(view: &mut InstanceView, status: ConditionStatus, reason: &str) {
    view.status.conditions[0].status = status;
    view.status.conditions[0].reason = reason.into();
}

#[tokio::test]
async fn publications_have_the_formats_of_sentinel() {
    let mut both = Both::start().await;
    let told = |channel: &str, message: String| (channel.to_string(), message);
    let at = |address: &str| address.replacen(':', " ", 1);
    let view = both.board.get("orders").expect("it is there");
    let (master, replica) = (view.status.nodes[0].address.clone(), view.status.nodes[1].address.clone());
    let (m, r) = (at(&master), at(&replica));

    let silent = published(&mut both, |view| set_available(view, ConditionStatus::Unknown, "NotAnswering")).await;
    assert_eq!(silent, [told("+sdown", format!("master orders {m}"))]);
    let dead = published(&mut both, |view| set_available(view, ConditionStatus::False, "Dead")).await;
    assert_eq!(dead, [told("+odown", format!("master orders {m} #quorum 1/1"))]);
    let back = published(&mut both, |view| set_available(view, ConditionStatus::True, "Available")).await;
    assert_eq!(back, [told("-sdown", format!("master orders {m}")), told("-odown", format!("master orders {m}"))]);

    let hung = published(&mut both, |view| view.status.nodes[1].state = NodeState::NotAnswering).await;
    assert_eq!(hung, [told("+sdown", format!("slave {replica} {r} @ orders {m}"))]);
    let woken = published(&mut both, |view| view.status.nodes[1].state = NodeState::Ready).await;
    assert_eq!(woken, [told("-sdown", format!("slave {replica} {r} @ orders {m}"))]);

    let on_its_way = published(&mut both, |view| {
        (view.status.master, view.status.epoch) = (None, 2);
        view.status.nodes[0].state = NodeState::Dead;
    })
    .await;
    let quorum = format!("master orders {m} #quorum 1/1");
    assert_eq!(on_its_way, [told("+sdown", format!("master orders {m}")), told("+odown", quorum)]);
    let switched = published(&mut both, |view| {
        view.status.master = Some(view.status.nodes[1].address.clone());
        view.status.nodes.remove(0);
        view.status.nodes[0].role = Role::Master;
    })
    .await;
    assert_eq!(switched, [told("+switch-master", format!("orders {m} {r}"))]);
    let grown = published(&mut both, |view| {
        let mut node = view.status.nodes[0].clone();
        (node.role, node.address) = (Role::Replica, "127.0.0.1:9".into());
        view.status.nodes.push(node);
    })
    .await;
    assert_eq!(grown, [told("+slave", format!("slave 127.0.0.1:9 127.0.0.1 9 @ orders {r}"))]);
    let anew = published(&mut both, |view| view.status.epoch = 1).await;
    assert_eq!(anew[0], told("+reset-master", format!("master orders {r}")));
}

#[tokio::test]
async fn a_death_is_published_before_its_successor_when_both_are_seen_at_once() {
    let told = |channel: &str, message: String| (channel.to_string(), message);
    for (is_dead, is_listed) in [(true, true), (true, false), (false, true)] {
        let mut both = Both::start().await;
        let view = both.board.get("orders").expect("it is there");
        let [m, r] = [0, 1].map(|i| view.status.nodes[i].address.replacen(':', " ", 1));
        let all = published(&mut both, |view| {
            view.status.master = Some(view.status.nodes[1].address.clone());
            (view.status.nodes[0].role, view.status.nodes[1].role) = (Role::Replica, Role::Master);
            if is_dead {
                view.status.nodes[0].state = NodeState::Dead;
            }
            if !is_listed {
                view.status.nodes.remove(0);
            }
        })
        .await;
        let (down, switched): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, m)| m.starts_with("master orders"));
        let expected =
            [told("+sdown", format!("master orders {m}")), told("+odown", format!("master orders {m} #quorum 1/1"))];
        assert_eq!(down, if is_dead { &expected[..] } else { &[] }, "a switchover is no death");
        assert_eq!(switched[0], told("+switch-master", format!("orders {m} {r}")));
    }
}

#[tokio::test]
async fn rubbish_is_answered_as_redis_does_and_ends_the_connection() {
    let both = Both::start().await;
    for (rubbish, answer) in [
        ("*1\r\n+PING\r\n", "-ERR Protocol error: expected '$', got '+'\r\n"),
        ("*-\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        ("get \"a\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
    ] {
        let mut stream = TcpStream::connect(&both.address).await.expect("it listens");
        stream.write_all(rubbish.as_bytes()).await.expect("it reads");
        let mut told = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut told)).await.expect("it ends").expect("text");
        assert_eq!(told, answer);
    }
}

#[tokio::test]
async fn who_asks_too_often_is_answered_later_and_others_at_once() {
    let (board, stop) = (Arc::new(Board::default()), CancellationToken::new());
    let (address, _folder) = serve(&board, Limit::new(100), &stop).await;
    let mut often = TcpStream::connect(&address).await.expect("it listens");
    let begun = Instant::now();
    often.write_all("PING\r\n".repeat(150).as_bytes()).await.expect("it reads");
    let elsewhere = TcpSocket::new_v4().expect("a socket");
    elsewhere.bind("127.0.0.2:0".parse().expect("an address")).expect("a free port");
    let mut other = elsewhere.connect(address.parse().expect("an address")).await.expect("it listens");
    assert_eq!(ask(&mut other, &["PING"]).await, Value::Line("+PONG".into()));
    for _ in 0..150 {
        assert_eq!(line(&mut often).await, "+PONG");
    }
    // Of 150 questions 100 are answered at once, and each of the others 10 ms later than the one before.
    assert!(begun.elapsed() > Duration::from_millis(450), "{:?}", begun.elapsed());
    stop.cancel();
}

#[tokio::test]
async fn a_sentinel_that_cannot_read_its_store_is_in_tilt_and_goes_on_to_name_the_master() {
    let mut both = Both::start().await;
    let tilt = async |both: &mut Both| {
        let told = format!("{:?}", ask(&mut both.ours, &["INFO", "sentinel"]).await);
        (told.contains("sentinel_tilt:1"), told.contains("sentinel_tilt_since_seconds:-1"))
    };
    both.board.set_operator(|operator| operator.store_synced = true);
    assert_eq!(tilt(&mut both).await, (false, true));
    let name = ["SENTINEL", "get-master-addr-by-name", "orders"];
    let named = ask(&mut both.ours, &name).await;
    both.board.set_operator(|operator| operator.store_synced = false);
    assert_eq!(tilt(&mut both).await, (true, false));
    assert_eq!(ask(&mut both.ours, &name).await, named, "a client that gets no name may give up for good");
}

#[tokio::test]
async fn a_sentinel_whose_operator_is_frozen_is_in_tilt_until_that_has_ended() {
    let mut both = Both::start().await;
    both.board.set_operator(|operator| operator.store_synced = true);
    for (frozen, words) in [(true, "sentinel_tilt:1"), (false, "sentinel_tilt:0")] {
        both.board.set_operator(|operator| operator.frozen = frozen.then(|| "the store has lost records".to_string()));
        let told = format!("{:?}", ask(&mut both.ours, &["INFO", "sentinel"]).await);
        assert!(told.contains(words), "{told}");
        assert_eq!(told.contains("sentinel_tilt_since_seconds:-1"), !frozen, "{told}");
    }
}
