//! Who may do what: every route and every command of Sentinel, by everybody. I/O.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt as _;
use redisctl::access::{Access, Level, new_token};
use redisctl::api::{ApiState, Needs, routes, serve};
use redisctl::board::{Board, InstanceView};
use redisctl::door::{Door, Gate};
use redisctl::model::{InstanceRecord, Passwords, Role, Timestamp};
use redisctl::sentinel;
use redisctl::spec::parse_document;
use redisctl::status::Phase;
use redisctl::store::{Op, Store, Txn, instance_key, secret_key, state_key};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::support::wait_until;
use crate::{CLIENTS_MAX, EVENT_TIMEOUT, Events, event, node, view};

/// The instance that not everybody may know of: no documentation says this word.
const HIDDEN: &str = "zebra";
const ITS_ADDRESS: &str = "10.7.7.7:31000";

/// An API and a Sentinel that want tokens.
struct Guarded {
    base: String,
    sentinel: String,
    board: Arc<Board>,
    store: Store,
    http: reqwest::Client,
    dir: tempfile::TempDir,
    /// Name, token and line of each.
    tokens: Vec<(String, String, String)>,
    stop: CancellationToken,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Guarded {
    async fn start(tokens: &[(&str, Level, &str)]) -> Guarded {
        let dir = tempfile::tempdir().unwrap();
        let line = |&(name, access, instances): &(&str, Level, &str)| {
            let (token, hash) = new_token();
            (
                name.to_string(),
                token,
                format!("- {{name: {name}, hash: '{hash}', access: {access}, instances: [{instances}]}}"),
            )
        };
        let tokens: Vec<_> = tokens.iter().map(line).collect();
        let path = dir.path().join("tokens.yaml");
        std::fs::write(&path, text_of(&tokens)).unwrap();
        let store = Store::open(&format!("file:{}", dir.path().join("store").display())).await.unwrap();
        let (board, stop) = (Arc::new(Board::default()), CancellationToken::new());
        let access = Arc::new(Access::read(Some(&path)).unwrap());
        let state = ApiState { access, ..ApiState::open(board.clone(), store.clone(), Arc::default()) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let door = |listener, name| Door::new(listener, Gate::new(name, CLIENTS_MAX, Arc::default())).unwrap();
        tokio::spawn(serve(door(listener, "api"), None, state.clone(), stop.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sentinel = listener.local_addr().unwrap().to_string();
        tokio::spawn(sentinel::serve(door(listener, "sentinel"), state, sentinel::run_id("me"), stop.clone()));
        let http = redisctl::tls::http().build().unwrap();
        Guarded { base, sentinel, board, store, http, dir, tokens, stop }
    }

    fn token<'a>(&'a self, name: &'a str) -> &'a str {
        self.tokens.iter().find(|(known, ..)| known == name).map_or(name, |(_, token, _)| token)
    }

    fn tokens_file(&self) -> PathBuf {
        self.dir.path().join("tokens.yaml")
    }

    /// Changes what the file says of somebody; nothing: the line goes.
    fn change(&mut self, name: &str, change: impl Fn(&str) -> String) {
        let (_, _, line) = self.tokens.iter_mut().find(|(known, ..)| known == name).unwrap();
        *line = change(line);
        std::fs::write(self.tokens_file(), text_of(&self.tokens)).unwrap();
    }

    async fn withdraw(&mut self, name: &str) {
        self.change(name, |_| String::new());
        wait_until("the token is withdrawn", EVENT_TIMEOUT, async || {
            self.ask(name, Method::GET, "/v1/operator", "").await.0 == StatusCode::UNAUTHORIZED
        })
        .await;
    }

    async fn ask(&self, who: &str, method: Method, path: &str, body: &str) -> (StatusCode, String) {
        let request = self.http.request(method, format!("{}{path}", self.base)).body(body.to_string());
        let request = if who.is_empty() { request } else { request.bearer_auth(self.token(who)) };
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, answer.text().await.unwrap())
    }

    /// An instance in the store and on the board, as its leader would have it.
    async fn declare(&self, document: &str) -> InstanceView {
        let instance = parse_document(document.as_bytes()).unwrap();
        let name = instance.metadata.name.clone();
        let record = InstanceRecord {
            spec: instance.spec.clone(),
            labels: instance.metadata.labels.clone(),
            spec_revision: 1,
            epoch: 1,
            master: Some(0),
            next_ordinal: 2,
            initialized: true,
            replid: None,
            replid_before: None,
            confirmations: 0,
            unsettled: false,
            rolling: None,
            hung: None,
            last_death: None,
            auth: Some(Passwords::first(false)),
            deleting: false,
            created_at: Timestamp(1),
            failures: 0,
            last_failure: None,
        };
        let put = |key: String, value: Vec<u8>| Op::Put { key, value };
        let ops = vec![
            put(instance_key(&name), document.as_bytes().to_vec()),
            put(state_key(&name), serde_json::to_vec(&record).unwrap()),
        ];
        self.store.commit(Txn { guards: Vec::new(), ops }).await.unwrap();
        let mut view = InstanceView { instance: Some(instance), ..view("orders", Phase::Ready) };
        view.name.clone_from(&name);
        self.board.set(view.clone());
        view
    }

    /// The instance that not everybody may know of, with all that could be told of it.
    async fn declare_hidden(&self) {
        let mut hidden = self.declare(&document(HIDDEN, "auth: {secretRef: zebra-pw}, replicas: 1")).await;
        let (master, replica) =
            (node("zebra-0", Role::Master, ITS_ADDRESS), node("zebra-1", Role::Replica, "10.7.7.8:31000"));
        let link = Some("up".to_string());
        hidden.status.nodes = vec![master, redisctl::status::NodeStatus { link, ..replica }];
        hidden.status.master = Some(ITS_ADDRESS.to_string());
        hidden.events = Arc::new(vec![event("ZebraHappened", 1000, 1)]);
        self.board.set(hidden);
        self.put_secret("zebra-pw", "striped").await;
        self.board.set_operator(|operator| {
            operator.leading = true;
            operator.store_synced = true;
            operator.mesos = "disconnected".to_string();
            operator.mesos_message = "task zebra-0.1 is unknown".to_string();
            operator.frozen = Some("task zebra-0.1 runs".to_string());
        });
    }

    async fn put_secret(&self, name: &str, password: &str) {
        let put = Op::Put { key: secret_key(name), value: password.as_bytes().to_vec() };
        self.store.commit(Txn { guards: Vec::new(), ops: vec![put] }).await.unwrap();
    }

    async fn watch(&self, who: &str, path: &str) -> Events {
        let answer = self.http.get(format!("{}{path}", self.base)).bearer_auth(self.token(who)).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream", "{path}");
        Events { stream: answer.bytes_stream().boxed(), buffer: String::new() }
    }

    async fn client(&self, who: &str) -> Client {
        let mut client = Client(TcpStream::connect(&self.sentinel).await.unwrap());
        if !who.is_empty() {
            client.ask(&["AUTH", self.token(who)]).await;
        }
        client
    }
}

fn text_of(tokens: &[(String, String, String)]) -> String {
    let lines: Vec<&str> = tokens.iter().map(|(_, _, line)| line.as_str()).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "tokens: []\n".to_string() } else { format!("tokens:\n{}\n", lines.join("\n")) }
}

fn document(name: &str, more: &str) -> String {
    let metadata = format!("{{apiVersion: redisctl/v1, kind: RedisInstance, metadata: {{name: {name}}}");
    format!("{metadata}, spec: {{memory: 8Mi, {more}}}}}")
}

/// A client of Sentinel's.
struct Client(TcpStream);

impl Client {
    /// The first piece of the answer, which is all of it here; empty: the connection is closed.
    async fn ask(&mut self, words: &[&str]) -> String {
        let bulks: Vec<String> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        let request = format!("*{}\r\n{}", words.len(), bulks.concat());
        if self.0.write_all(request.as_bytes()).await.is_err() {
            return String::new();
        }
        self.read().await
    }

    async fn read(&mut self) -> String {
        let mut buffer = vec![0; 64 << 10];
        let read = tokio::time::timeout(EVENT_TIMEOUT, self.0.read(&mut buffer)).await.expect("an answer in time");
        String::from_utf8_lossy(&buffer[..read.unwrap_or(0)]).into_owned()
    }
}

// ---------------------------------------------------------------------------------------------
// The matrix

/// What is sent to a route: its path with names filled in, and a body.
fn sample(method: &Method, path: &str) -> (String, String) {
    let filled = path.replace("{name}", HIDDEN).replace("{capacity}", "10").replace("{masters}", "1");
    let filled = filled.replace("{slaves}", "1");
    let body = match (method.as_str(), path) {
        ("POST", "/v1/instances") | ("PUT", "/v1/instances/{name}") => document(HIDDEN, "auth: {secretRef: zebra-pw}"),
        ("PUT", "/v1/secrets/{name}") => "a-password-of-ours\n".to_string(),
        _ => String::new(),
    };
    (filled, body)
}

const EVERYBODY: [(&str, Level, &str); 6] = [
    ("reader", Level::Read, "'*'"),
    ("writer", Level::Write, "'*'"),
    ("admin", Level::Admin, "'*'"),
    ("elsewhere", Level::Admin, "'orders*', 'zebr', 'zebra?*z', 'Zebra'"),
    ("here", Level::Admin, "'zebra*'"),
    ("gone", Level::Admin, "'*'"),
];

/// Whether somebody is let in: 200 stands for that.
fn expected(who: &str, needs: Needs) -> u16 {
    let level = match needs {
        Needs::Nothing => return 200,
        Needs::Token => None,
        // Not with those that a pattern of names shows, but with all that there are and will be.
        Needs::All(_) if who == "here" => return 403,
        Needs::Named(level) | Needs::InBody(level) | Needs::All(level) => Some(level),
    };
    let has = match who {
        "" | "nobody" | "gone" => return 401,
        "reader" => Level::Read,
        "writer" => Level::Write,
        _ => Level::Admin,
    };
    if level.is_some_and(|level| who == "elsewhere" || level > has) { 403 } else { 200 }
}

#[tokio::test]
async fn every_route_lets_in_whom_it_says_and_tells_others_nothing() {
    let mut guarded = Guarded::start(&EVERYBODY).await;
    guarded.withdraw("gone").await;
    let before = guarded.store.list("").await.unwrap();
    for (method, path, needs) in routes() {
        for who in ["", "nobody", "reader", "writer", "admin", "elsewhere", "here", "gone"] {
            guarded.declare_hidden().await;
            let (filled, body) = sample(&method, path);
            let (code, told) = guarded.ask(who, method.clone(), &filled, &body).await;
            let row = format!("{method} {path} by {who:?}: {code} {told}");
            match expected(who, needs) {
                // Whatever it says of the request itself, it was looked at.
                200 => assert!(code.is_success() || [404, 409, 503].contains(&code.as_u16()), "{row}"),
                refused => assert_eq!(code.as_u16(), refused, "{row}"),
            }
            if ["", "nobody", "elsewhere", "gone"].contains(&who) {
                // What the token's own line says is no secret, and who asks for a name is told it again.
                let told = told.replace("orders*, zebr, zebra?*z, Zebra", "");
                let told = if path.contains("{name}") || needs == Needs::InBody(Level::Write) {
                    told.replace(HIDDEN, "")
                } else {
                    told
                };
                for secret in [HIDDEN, "Zebra", "10.7.7.", "striped"] {
                    assert!(!told.contains(secret), "{row}");
                }
            }
            let keys = guarded.store.list("requests/").await.unwrap().items;
            let ops = keys.into_iter().map(|item| Op::Delete { key: item.key }).collect();
            guarded.store.commit(Txn { guards: Vec::new(), ops }).await.unwrap();
        }
    }
    assert!(before.items.is_empty());
}

#[tokio::test]
async fn the_table_of_routes_is_what_the_openapi_document_says_and_what_the_router_answers() {
    let guarded = Guarded::start(&EVERYBODY).await;
    let described = redisctl::api::openapi();
    let of_document: BTreeSet<(String, String)> = described["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            let path = path.clone();
            methods.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let of_table: BTreeSet<(String, String)> = routes()
        .into_iter()
        .map(|(method, path, _)| (method.to_string(), path.to_string()))
        .filter(|(_, path)| !["CREATE", "DELETE", "STATUS", "UPDATE"].iter().any(|word| path.contains(word)))
        .collect();
    assert_eq!(of_table, of_document);
    for (method, path, _) in routes() {
        let others = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS];
        for other in others {
            let known = routes().iter().any(|(method, also, _)| *also == path && *method == other);
            let (filled, body) = sample(&method, path);
            let (code, _) = guarded.ask("admin", other.clone(), &filled, &body).await;
            assert_eq!(code == StatusCode::METHOD_NOT_ALLOWED, !known, "{other} {path}: {code}");
        }
    }
}

/// How each command of Sentinel is asked.
fn words(command: &str) -> Vec<&str> {
    match command {
        "auth" => vec!["AUTH", "rctl_nobody"],
        "client" => vec!["CLIENT", "INFO"],
        "psubscribe" => vec!["PSUBSCRIBE", "*"],
        "subscribe" => vec!["SUBSCRIBE", "+switch-master"],
        "sentinel ckquorum" => vec!["SENTINEL", "CKQUORUM", HIDDEN],
        "sentinel failover" => vec!["SENTINEL", "FAILOVER", HIDDEN],
        "sentinel get-master-addr-by-name" => vec!["SENTINEL", "GET-MASTER-ADDR-BY-NAME", HIDDEN],
        "sentinel is-master-down-by-addr" => vec!["SENTINEL", "IS-MASTER-DOWN-BY-ADDR", "10.7.7.7", "31000", "0", "*"],
        "sentinel master" => vec!["SENTINEL", "MASTER", HIDDEN],
        "sentinel replicas" => vec!["SENTINEL", "REPLICAS", HIDDEN],
        "sentinel sentinels" => vec!["SENTINEL", "SENTINELS", HIDDEN],
        "sentinel slaves" => vec!["SENTINEL", "SLAVES", HIDDEN],
        other => other.split(' ').collect(),
    }
}

#[tokio::test]
async fn every_command_of_sentinel_is_answered_to_whom_it_is_meant_for() {
    let mut guarded = Guarded::start(&EVERYBODY).await;
    guarded.declare_hidden().await;
    let mut former = Vec::new();
    for (command, arity) in sentinel::command_names() {
        let words = words(&command);
        let length = i64::try_from(words.len()).unwrap();
        assert!(if arity < 0 { length >= -arity } else { length == arity }, "{command} has no row here: {words:?}");
        let free = ["auth", "hello", "quit"].contains(&command.as_str());
        for who in ["", "nobody", "reader", "writer", "admin", "elsewhere", "here"] {
            let told = guarded.client(who).await.ask(&words).await;
            let row = format!("{command} by {who:?}: {told}");
            let stranger = ["", "nobody"].contains(&who);
            assert_eq!(told.starts_with("-NOAUTH"), stranger && (!free || command == "hello"), "{row}");
            if stranger || who == "elsewhere" {
                assert!(!told.contains(HIDDEN) && !told.contains("10.7.7."), "{row}");
            }
            if command == "sentinel failover" && !stranger {
                let begins = match who {
                    "reader" => "-NOPERM",
                    "elsewhere" => "-ERR No such master",
                    _ => "+OK",
                };
                assert!(told.starts_with(begins), "{row}");
            }
        }
        former.push((guarded.client("gone").await, words.iter().map(ToString::to_string).collect::<Vec<_>>()));
    }
    guarded.withdraw("gone").await;
    for (mut client, words) in former {
        let told = client.ask(&words.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert_eq!(told, "", "{words:?}");
    }
}

// ---------------------------------------------------------------------------------------------
// Withdrawn and narrowed

#[tokio::test]
async fn what_is_open_ends_when_its_token_is_withdrawn_or_says_less_and_others_go_on() {
    for narrowed in [false, true] {
        let names = [("shop", Level::Write, "'zebra*', 'orders'"), ("other", Level::Write, "'zebra*'")];
        let mut guarded = Guarded::start(&names).await;
        guarded.declare_hidden().await;
        let mut open = Vec::new();
        for path in [
            "/v1/instances?watch",
            "/v1/instances/zebra?watch",
            "/v1/instances/zebra/events?watch",
            "/v1/instances/zebra/connect?watch",
            "/v1/events?watch",
        ] {
            let mut watch = guarded.watch("shop", path).await;
            while watch.next().await.unwrap().0 != "synced" {}
            open.push((path, watch));
        }
        let mut others = guarded.watch("other", "/v1/instances?watch").await;
        while others.next().await.unwrap().0 != "synced" {}
        let mut clients = [guarded.client("shop").await, guarded.client("shop").await, guarded.client("shop").await];
        clients[0].ask(&["SUBSCRIBE", "+switch-master"]).await;
        clients[1].ask(&["PSUBSCRIBE", "*"]).await;
        let mut subscribed = guarded.client("other").await;
        subscribed.ask(&["SUBSCRIBE", "+switch-master"]).await;

        guarded.change("shop", |line| if narrowed { line.replace(", 'orders'", "") } else { String::new() });
        let began = std::time::Instant::now();
        for (path, watch) in &mut open {
            assert_eq!(watch.next().await, None, "{path}");
        }
        for client in &mut clients {
            assert_eq!(client.read().await, "");
        }
        println!("all had ended after {:?}", began.elapsed());

        let mut view = InstanceView::clone(&guarded.board.get(HIDDEN).unwrap());
        view.status.master = Some("10.7.7.9:1".into());
        view.status.nodes[0].address = "10.7.7.9:1".into();
        guarded.board.set(view);
        others.expect("set").await;
        assert!(subscribed.read().await.contains("10.7.7.9"));
    }
}

#[tokio::test]
async fn a_body_that_comes_after_its_token_is_withdrawn_changes_nothing() {
    let put = document("orders", "auth: none");
    let rows = [
        ("PUT /v1/instances/orders", put.as_str()),
        ("POST /v1/instances", put.as_str()),
        ("PUT /v1/secrets/orders", "a-password-of-ours"),
        ("POST /v1/CREATE/orders/10/1/1", "{\"Distribution\": 1}"),
    ];
    let mut guarded = Guarded::start(&[("shop", Level::Admin, "'*'")]).await;
    let mut begun = Vec::new();
    for (line, body) in rows {
        let mut stream = TcpStream::connect(guarded.base.trim_start_matches("http://")).await.unwrap();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            guarded.token("shop"),
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body.as_bytes()[..5]).await.unwrap();
        begun.push((line, stream, body));
    }
    guarded.withdraw("shop").await;
    for (line, mut stream, body) in begun {
        stream.write_all(&body.as_bytes()[5..]).await.unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).await.unwrap();
        assert!(told.starts_with("HTTP/1.1 403") || told.starts_with("HTTP/1.1 401"), "{line}: {told}");
    }
    assert_eq!(guarded.store.list("").await.unwrap().items, []);
}

// ---------------------------------------------------------------------------------------------
// References

#[tokio::test]
async fn a_document_refers_only_to_secrets_that_its_writer_may_read() {
    let guarded = Guarded::start(&[("shop", Level::Write, "'orders*'"), ("boss", Level::Admin, "'*'")]).await;
    let foreign = document("orders", "auth: {secretRef: billing}");
    let both = format!("{}\n---\n{foreign}", document("orders-2", "auth: none"));
    for exists in [false, true] {
        for (method, path, body) in [
            (Method::POST, "/v1/instances", &foreign),
            (Method::POST, "/v1/instances?dryRun", &foreign),
            (Method::POST, "/v1/instances", &both),
            (Method::PUT, "/v1/instances/orders", &foreign),
            (Method::PUT, "/v1/instances/orders?dryRun=true", &foreign),
        ] {
            let (code, told) = guarded.ask("shop", method, path, body).await;
            assert_eq!(code, StatusCode::FORBIDDEN, "{told}");
            for word in ["spec.auth.secretRef", "billing", "shop may not read", "orders*"] {
                assert!(told.contains(word), "{word}: {told}");
            }
        }
        assert_eq!(guarded.store.list("instances/").await.unwrap().items, [], "{exists}");
        guarded.put_secret("billing", "theirs").await;
    }
    let own = document("orders", "auth: {secretRef: orders-pw}");
    assert_eq!(guarded.ask("shop", Method::POST, "/v1/instances", &own).await.0, StatusCode::OK);
    assert_eq!(guarded.ask("shop", Method::POST, "/v1/instances", &foreign).await.0, StatusCode::FORBIDDEN);

    // What somebody else has allowed stays allowed while it is there, and gives no more than before.
    assert_eq!(guarded.ask("boss", Method::POST, "/v1/instances", &foreign).await.0, StatusCode::OK);
    let scaled = document("orders", "auth: {secretRef: billing}, replicas: 1");
    assert_eq!(guarded.ask("shop", Method::POST, "/v1/instances", &scaled).await.0, StatusCode::OK);
    assert_eq!(guarded.ask("shop", Method::PUT, "/v1/UPDATE/orders/SLAVES/2", "").await.0, StatusCode::OK);
    let another = document("orders", "auth: {secretRef: billing-2}");
    assert_eq!(guarded.ask("shop", Method::POST, "/v1/instances", &another).await.0, StatusCode::FORBIDDEN);
    assert_eq!(guarded.ask("shop", Method::POST, "/v1/instances", &own).await.0, StatusCode::OK);
    assert_eq!(guarded.ask("shop", Method::POST, "/v1/instances", &scaled).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_password_is_shown_to_those_who_may_read_its_secret_now_whoever_wrote_the_document() {
    let mut guarded = Guarded::start(&[("shop", Level::Write, "'orders*'"), ("boss", Level::Admin, "'*'")]).await;
    guarded.declare(&document("orders", "auth: {secretRef: billing}")).await;
    let show =
        async |guarded: &Guarded, who: &str| guarded.ask(who, Method::GET, "/v1/instances/orders/password", "").await;
    // The same whether the secret is there or not.
    let absent = show(&guarded, "shop").await;
    guarded.put_secret("billing", "theirs").await;
    assert_eq!(show(&guarded, "shop").await, absent);
    assert_eq!(absent.0, StatusCode::FORBIDDEN);
    assert!(show(&guarded, "boss").await.1.contains("theirs"));
    guarded.change("shop", |line| line.replace("'orders*'", "'orders*', billing"));
    wait_until("the wider right counts", EVENT_TIMEOUT, async || show(&guarded, "shop").await.0.is_success()).await;
    guarded.change("shop", |line| line.replace(", billing", ""));
    wait_until("it is gone again", EVENT_TIMEOUT, async || show(&guarded, "shop").await == absent).await;
}

#[tokio::test]
async fn a_secret_that_is_in_use_is_not_deleted_and_only_readable_users_are_named() {
    let tokens = [("of-secret", Level::Admin, "billing"), ("both", Level::Admin, "billing, orders")];
    let guarded = Guarded::start(&tokens).await;
    guarded.put_secret("billing", "theirs").await;
    for name in ["orders", HIDDEN] {
        guarded.declare(&document(name, "auth: {secretRef: billing}")).await;
    }
    let told = async |who: &str| {
        let (code, told) = guarded.ask(who, Method::DELETE, "/v1/secrets/billing", "").await;
        assert_eq!(code, StatusCode::CONFLICT, "{told}");
        serde_json::from_str::<Value>(&told).unwrap()["detail"].as_str().unwrap().to_string()
    };
    let rest = "clients log in with the secret billing";
    assert_eq!(told("of-secret").await, format!("instances that this token does not show: {rest}"));
    assert_eq!(told("both").await, format!("orders and others that this token does not show: {rest}"));
}

#[tokio::test]
async fn metrics_and_readiness_tell_what_the_token_may_read() {
    let guarded = Guarded::start(&[("shop", Level::Read, "'orders*'"), ("boss", Level::Read, "'*'")]).await;
    guarded.declare_hidden().await;
    guarded.declare(&document("orders", "auth: none")).await;
    let metrics = async |who: &str| guarded.ask(who, Method::GET, "/metrics", "").await.1;
    let (of_shop, of_boss) = (metrics("shop").await, metrics("boss").await);
    assert!(of_shop.contains("redisinstance=\"orders\"") && !of_shop.contains(HIDDEN), "{of_shop}");
    assert!(of_boss.contains("redisinstance=\"orders\"") && of_boss.contains("redisinstance=\"zebra\""));
    for (who, all) in [("", false), ("shop", false), ("boss", true)] {
        let (code, told) = guarded.ask(who, Method::GET, "/readyz", "").await;
        assert_eq!((code.as_u16(), told.contains(HIDDEN)), (503, all), "{told}");
        assert!(told.contains("disconnected") && told.contains("frozen"), "{told}");
    }
    let heads = async |who: &str| {
        let asked = guarded.http.get(format!("{}/v1/instances", guarded.base));
        let asked = if who.is_empty() { asked } else { asked.bearer_auth(guarded.token(who)) };
        let answer = asked.send().await.unwrap();
        answer.headers().get("redisctl-frozen").map(|why| why.to_str().unwrap().to_string())
    };
    assert_eq!(heads("").await, None, "strangers are told nothing");
    assert_eq!(heads("shop").await.as_deref(), Some("a token that may read all instances is told why"));
    assert_eq!(heads("boss").await.as_deref(), Some("task zebra-0.1 runs"));
    let frozen = guarded.ask("shop", Method::GET, "/v1/operator", "").await.1;
    assert_eq!(serde_json::from_str::<Value>(&frozen).unwrap()["mesosMessage"], json!(""));
}
