//! Who is let in, to what, how often, and by TLS: at the real binary. I/O.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use support::{Home, Ports, Process, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_redisctl");
const TIMEOUT: Duration = Duration::from_secs(20);
const ORDERS: &str = include_str!("../examples/orders.yaml");

/// An operator on a store of its own, and on a Mesos that is not there.
struct Operator {
    url: String,
    sentinel: String,
    home: Home,
    _process: Process,
    _ports: Ports,
}

impl Operator {
    async fn start(home: Home, more: &[&str]) -> Operator {
        let ports = Ports::lease(2);
        let (listen, sentinel) = (format!("127.0.0.1:{}", ports.next()), format!("127.0.0.1:{}", ports.next()));
        let store = format!("file:{}", home.path().join("store.redb").display());
        let mut command = Command::new(BINARY);
        command.args(["operator", "--store", &store, "--mesos", "http://127.0.0.1:1", "--listen", &listen]);
        let process = home.spawn("operator", command.args(["--sentinel-listen", &sentinel]).args(more));
        let scheme = if more.contains(&"--tls-key") { "https" } else { "http" };
        let operator =
            Operator { url: format!("{scheme}://{listen}"), sentinel, home, _process: process, _ports: ports };
        wait_until("the operator listens", TIMEOUT, async || {
            tokio::net::TcpStream::connect(&listen).await?;
            tokio::net::TcpStream::connect(&operator.sentinel).await.map(drop)
        })
        .await;
        operator
    }

    async fn code(&self, method: Method, path: &str, token: &str, body: &'static str) -> StatusCode {
        let request = redisctl::tls::http().build().unwrap().request(method, format!("{}{path}", self.url));
        request.bearer_auth(token).body(body).send().await.expect("it answers").status()
    }
}

/// `redisctl token` with these arguments: the token, and the file with its line in it.
fn token(home: &Home, name: &str, args: &[&str]) -> String {
    let output = Command::new(BINARY).args(["token", name]).args(args).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let file = tokens(home);
    let before = std::fs::read_to_string(&file).unwrap_or_else(|_| "tokens:\n".to_string());
    std::fs::write(&file, before + std::str::from_utf8(&output.stdout).unwrap()).unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    told.trim().rsplit(' ').next().expect("the token is the last word").to_string()
}

fn tokens(home: &Home) -> PathBuf {
    home.path().join("tokens.yaml")
}

#[tokio::test]
async fn each_token_opens_what_its_line_says() {
    let home = Home::new("access");
    let look = token(&home, "dashboard", &["--access", "read"]);
    let shop = token(&home, "shop", &["--access", "write", "--instances", "orders*,carts"]);
    let root = token(&home, "root", &["--access", "admin"]);
    let file = tokens(&home).display().to_string();
    let operator = Operator::start(home, &["--auth-tokens", &file]).await;
    wait_until("the operator leads", TIMEOUT, async || {
        operator.code(Method::PUT, "/v1/instances/orders?dryRun=true", &root, ORDERS).await == StatusCode::OK
    })
    .await;
    let none = "rctl_nobody";
    for (method, path, body, answers) in [
        // nobody, dashboard, shop, root
        (Method::GET, "/healthz", "", [200, 200, 200, 200]),
        (Method::GET, "/readyz", "", [503, 503, 503, 503]),
        (Method::GET, "/metrics", "", [401, 200, 200, 200]),
        (Method::GET, "/v1/operator", "", [401, 200, 200, 200]),
        (Method::GET, "/v1/instances", "", [401, 200, 200, 200]),
        (Method::PUT, "/v1/instances/orders", ORDERS, [401, 403, 200, 200]),
        (Method::POST, "/v1/instances", ORDERS, [401, 403, 200, 200]),
        (Method::POST, "/v1/CREATE/invoices/10/1/0", "", [401, 403, 403, 201]),
        (Method::GET, "/v1/STATUS", "", [401, 200, 200, 200]),
        (Method::POST, "/v1/instances/orders/failover", "", [401, 403, 202, 202]),
        (Method::POST, "/v1/instances/orders/failover", r#"{"to": "orders-1", "force": true}"#, [401, 403, 403, 202]),
    ] {
        for (token, answer) in [none, &look, &shop, &root].into_iter().zip(answers) {
            let code = operator.code(method.clone(), path, token, body).await;
            assert_eq!(code.as_u16(), answer, "{method} {path} {body}");
        }
    }
    wait_until("both are on the board", TIMEOUT, async || {
        let names = async |token: &str| {
            let get = redisctl::tls::http().build().unwrap().get(format!("{}/v1/instances", operator.url));
            let list: serde_json::Value = get.bearer_auth(token).send().await.unwrap().json().await.unwrap();
            let items = list["items"].as_array().unwrap().clone();
            items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_string()).collect::<Vec<_>>()
        };
        let (of_root, of_shop) = (names(&root).await, names(&shop).await);
        if of_root == ["invoices", "orders"] && of_shop == ["orders"] {
            Ok(())
        } else {
            Err(format!("{of_root:?} {of_shop:?}"))
        }
    })
    .await;
    for (token, answer) in [none, &look, &shop, &root].into_iter().zip([401, 403, 403, 202]) {
        assert_eq!(operator.code(Method::DELETE, "/v1/instances/orders", token, "").await.as_u16(), answer);
    }
}

#[tokio::test]
async fn whoever_may_not_write_is_told_so_before_anything_of_the_body_is_read() {
    let home = Home::new("access");
    let look = token(&home, "dashboard", &["--access", "read"]);
    let shop = token(&home, "shop", &["--access", "write", "--instances", "orders*"]);
    let file = tokens(&home).display().to_string();
    let operator = Operator::start(home, &["--auth-tokens", &file]).await;
    let head_only = async |method: &str, path: &str, token: &str| {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(operator.url.strip_prefix("http://").unwrap()).await.unwrap();
        // The body is announced, and never sent.
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 1000000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        let read = tokio::time::timeout(TIMEOUT, stream.read_exact(&mut answer)).await;
        read.unwrap_or_else(|_| panic!("{method} {path} waits for the body")).unwrap();
        String::from_utf8_lossy(&answer[9..]).to_string()
    };
    let routes = [
        ("POST", "/v1/instances"),
        ("POST", "/v1/instances?dryRun=true"),
        ("PUT", "/v1/instances/orders"),
        ("PUT", "/v1/instances/carts"),
        ("DELETE", "/v1/instances/carts"),
        ("POST", "/v1/instances/carts/failover"),
        ("POST", "/v1/instances/carts/recreate"),
        ("POST", "/v1/instances/carts/password/rotate"),
        ("PUT", "/v1/secrets/s"),
        ("DELETE", "/v1/secrets/s"),
        ("POST", "/v1/CREATE/carts/1/1/1"),
        ("DELETE", "/v1/DELETE/carts"),
        ("PUT", "/v1/UPDATE/carts/Memory/1"),
        ("PUT", "/v1/UPDATE/carts/SLAVES/1"),
    ];
    for (method, path) in routes {
        assert_eq!(head_only(method, path, &look).await, "403", "{method} {path}");
        assert_eq!(head_only(method, path, "nobody").await, "401", "{method} {path}");
        if path.contains("carts") || path.contains("secrets") {
            assert_eq!(head_only(method, path, &shop).await, "403", "{method} {path}");
        }
    }
    for (method, path) in [("PATCH", "/v1/instances"), ("POST", "/nowhere"), ("PUT", "/v1/operator")] {
        assert_eq!(head_only(method, path, &look).await, "403", "{method} {path}");
    }
    let long = format!("/v1/instances?labelSelector={}", "a".repeat(9000));
    assert_eq!(operator.code(Method::GET, &long, &look, "").await, StatusCode::URI_TOO_LONG);
}

#[tokio::test]
async fn a_token_that_is_taken_out_of_the_file_opens_nothing_any_more_and_a_wrong_file_changes_nothing() {
    let home = Home::new("access");
    let old = token(&home, "old", &["--access", "read"]);
    let path = tokens(&home);
    let operator = Operator::start(home, &["--auth-tokens", path.to_str().unwrap()]).await;
    let answers = async |token: &str, code: u16| {
        wait_until(&format!("the answer is {code}"), TIMEOUT, async || {
            let found = operator.code(Method::GET, "/v1/operator", token, "").await.as_u16();
            if found == code { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
    };
    answers(&old, 200).await;
    std::fs::remove_file(&path).unwrap();
    let new = token(&operator.home, "new", &["--access", "read"]);
    answers(&new, 200).await;
    answers(&old, 401).await;
    std::fs::write(&path, "nonsense").unwrap();
    wait_until("the wrong file is told of", TIMEOUT, async || {
        operator.code(Method::GET, "/v1/operator", &new, "").await;
        operator.home.log("operator").contains("the tokens that were known stay in force")
    })
    .await;
    answers(&new, 200).await;
}

#[tokio::test]
async fn a_tokens_file_that_changes_in_nothing_but_what_it_says_is_seen() {
    let home = Home::new("access");
    let (one, other) = (token(&home, "one", &["--access", "read"]), token(&home, "two", &["--access", "read"]));
    let path = tokens(&home);
    let text = std::fs::read_to_string(&path).unwrap();
    let hashes: Vec<&str> = text.lines().filter(|line| line.contains("hash:")).collect();
    let [first, second] = [hashes[0], hashes[1]];
    // The same line with the hash of either: of one length.
    let line = |hash: &str| format!("tokens:\n- name: one\n  access: read\n{hash}\n");
    std::fs::write(&path, line(first)).unwrap();
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    let operator = Operator::start(home, &["--auth-tokens", path.to_str().unwrap()]).await;
    assert_eq!(operator.code(Method::GET, "/v1/operator", &one, "").await, StatusCode::OK);
    std::fs::write(&path, line(second)).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    wait_until("the other token is known", TIMEOUT, async || {
        operator.code(Method::GET, "/v1/operator", &other, "").await == StatusCode::OK
    })
    .await;
    assert_eq!(operator.code(Method::GET, "/v1/operator", &one, "").await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn clients_of_sentinel_show_the_same_tokens() {
    let home = Home::new("access");
    let look = token(&home, "dashboard", &["--access", "read"]);
    let path = tokens(&home);
    let operator = Operator::start(home, &["--auth-tokens", path.to_str().unwrap()]).await;
    let (host, port) = operator.sentinel.rsplit_once(':').unwrap();
    let ask = async |more: &[&str]| {
        let args = [&["-h", host, "-p", port, "--no-auth-warning"], more].concat();
        support::process::run("redis-cli", &args, b"", TIMEOUT).await.expect("it answers")
    };
    assert_eq!(ask(&["PING"]).await.trim(), "NOAUTH Authentication required.");
    assert!(ask(&["-3", "PING"]).await.contains("NOAUTH"));
    assert_eq!(ask(&["-a", &look, "PING"]).await.trim(), "PONG");
    assert_eq!(ask(&["--user", "dashboard", "-a", &look, "-3", "PING"]).await.trim(), "PONG");
    // redis-cli says WRONGPASS on its standard error, and goes on.
    assert!(ask(&["--user", "another", "-a", &look, "PING"]).await.contains("NOAUTH"));
    assert!(ask(&["-a", "rctl_nobody", "PING"]).await.contains("NOAUTH"));
}

#[tokio::test]
async fn too_many_requests_are_told_when_to_come_again_and_too_long_ones_that_they_are() {
    let operator = Operator::start(Home::new("access"), &["--rate-limit", "5"]).await;
    let client = redisctl::tls::http().build().unwrap();
    let mut codes = Vec::new();
    for _ in 0..60 {
        let answer = client.get(format!("{}/v1/operator", operator.url)).send().await.unwrap();
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(answer.headers()["retry-after"], "1");
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
        }
        codes.push(answer.status().as_u16());
    }
    assert!(codes.contains(&200) && codes.contains(&429), "{codes:?}");
    let operator = Operator::start(Home::new("access"), &[]).await;
    let long = client.post(format!("{}/v1/instances", operator.url)).body(" ".repeat((1 << 20) + 1));
    assert_eq!(long.send().await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn no_answer_allows_pages_of_others_to_ask() {
    let operator = Operator::start(Home::new("access"), &[]).await;
    let client = redisctl::tls::http().build().unwrap();
    for method in [Method::GET, Method::OPTIONS] {
        let request = client.request(method, format!("{}/v1/STATUS", operator.url)).header("origin", "http://evil");
        let answer = request.send().await.unwrap();
        assert!(!answer.headers().keys().any(|key| key.as_str().starts_with("access-control")), "{answer:?}");
    }
}

/// A certificate for 127.0.0.1 that signs itself, in the files that are named.
fn certificate(home: &Home) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap();
    let (certificate, key) = (home.path().join("certificate.pem"), home.path().join("key.pem"));
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    (certificate, key)
}

#[tokio::test]
async fn the_api_speaks_tls_and_a_new_certificate_is_used_without_a_restart() {
    let home = Home::new("access");
    let (cert, key) = certificate(&home);
    let args = ["--tls-certificate", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let operator = Operator::start(home, &args).await;
    let cli = async |ca: &std::path::Path| {
        let args = ["version", "--server", &operator.url, "--ca-file", ca.to_str().unwrap()];
        support::process::run(BINARY, &args, b"", TIMEOUT).await.unwrap_or_else(|refused| refused)
    };
    let first = operator.home.path().join("first.pem");
    std::fs::copy(&cert, &first).unwrap();
    assert!(cli(&first).await.contains("operator: 0."), "{}", cli(&first).await);
    certificate(&operator.home);
    wait_until("the new certificate is used", TIMEOUT, async || {
        let told = cli(&cert).await;
        if told.contains("operator: 0.") { Ok(()) } else { Err(told) }
    })
    .await;
    let told = cli(&first).await;
    assert!(told.contains("certificate"), "{told}");
    let plain = redisctl::tls::http().build().unwrap().get(operator.url.replace("https", "http")).send().await;
    assert!(plain.is_err() || !plain.unwrap().status().is_success());
}

#[test]
fn what_would_let_everybody_in_is_refused_unless_it_is_said_so() {
    let run = |args: &[&str]| {
        let all = [&["operator", "--store", "file:/tmp/x", "--mesos", "http://h:1", "--print-config"], args].concat();
        let output = Command::new(BINARY).args(all).output().expect("it runs");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, told) = run(&["--listen", "10.0.0.1:5656"]);
    assert_eq!(code, Some(2));
    assert!(
        told.contains("--listen 10.0.0.1:5656: without --auth-tokens only loopback addresses are allowed"),
        "{told}"
    );
    let (code, told) = run(&["--sentinel-listen", "0.0.0.0:26379"]);
    assert_eq!(code, Some(2), "{told}");
    for allowed in [
        &["--listen", "10.0.0.1:5656", "--insecure-no-auth"][..],
        &["--listen", "10.0.0.1:5656", "--auth-tokens", "/etc/tokens"],
        &["--listen", "[::1]:5656"],
    ] {
        assert_eq!(run(allowed).0, Some(0), "{allowed:?}");
    }
}

// ---------------------------------------------------------------------------------------------
// What others on the machine, and on the way, see

/// What is open to others below a folder, with its mode.
fn open_to_others(folder: &std::path::Path) -> Vec<String> {
    let mut open = Vec::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(path) = left.pop() {
        let Ok(data) = std::fs::symlink_metadata(&path) else { continue }; // Gone meanwhile.
        let mode = data.permissions().mode() & 0o777;
        if mode & 0o077 != 0 && !data.is_symlink() {
            open.push(format!("{} {mode:03o}", path.display()));
        }
        if data.is_dir() {
            left.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    open
}

#[tokio::test]
async fn what_an_operator_writes_is_for_its_user_alone_whatever_the_umask() {
    for before in [None, Some(0o644), Some(0o666)] {
        let home = Home::new("access");
        let ports = Ports::lease(2);
        let (listen, sentinel) = (format!("127.0.0.1:{}", ports.next()), format!("127.0.0.1:{}", ports.next()));
        let store = home.path().join("store.redb");
        let secrets = ["tokens.yaml", "secret"].map(|name| home.path().join(name));
        token(&home, "root", &["--access", "admin"]);
        std::fs::write(&secrets[1], "mesos").unwrap();
        if let Some(mode) = before {
            std::fs::write(&store, "").unwrap();
            std::fs::set_permissions(&store, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let script = "umask 000; exec \"$0\" operator --store file:\"$1\" --mesos http://127.0.0.1:1 --listen $2 \
                      --sentinel-listen $3 --auth-tokens \"$4\" --principal p --secret-file \"$5\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, BINARY]).arg(&store).args([&listen, &sentinel]).args(&secrets);
        let _process = home.spawn("operator", &mut command);
        wait_until("it listens", TIMEOUT, async || tokio::net::TcpStream::connect(&listen).await.map(drop)).await;
        for path in [&store, &secrets[0], &secrets[1]] {
            wait_until("nobody else may read it", TIMEOUT, async || {
                let open = open_to_others(path);
                if open.is_empty() { Ok(()) } else { Err(format!("{open:?}")) }
            })
            .await;
        }
    }
}

#[tokio::test]
async fn what_the_local_mode_writes_is_for_its_user_alone_nodes_data_included() {
    let home = Home::new("access");
    let ports = Ports::lease(2);
    let (listen, sentinel) = (format!("127.0.0.1:{}", ports.next()), format!("127.0.0.1:{}", ports.next()));
    let dir = home.path().join("made/local");
    let script = "umask 000; exec \"$0\" local --dir \"$1\" --listen $2 --sentinel-listen $3";
    let mut command = Command::new("sh");
    command.args(["-c", script, BINARY]).arg(&dir).args([&listen, &sentinel]);
    let _process = home.spawn("local", &mut command);
    wait_until("it listens", TIMEOUT, async || tokio::net::TcpStream::connect(&listen).await.map(drop)).await;
    let server = format!("http://{listen}");
    let create = ["create", "orders", "--memory", "8", "--wait", "--server", &server];
    let told = support::process::run(BINARY, &create, b"", Duration::from_mins(1)).await.expect("it ends");
    assert!(told.contains("orders"), "{told}");
    assert_eq!(open_to_others(&dir.parent().unwrap().canonicalize().unwrap()), Vec::<String>::new());
    let files = std::fs::read_dir(dir.join("sandboxes")).unwrap().count();
    assert!(files > 0, "the sandboxes are there");
}

#[tokio::test]
async fn the_command_line_takes_its_token_and_what_it_sends_to_nobody_else() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let home = Home::new("access");
    let (asked, other) = (listener().await, listener().await);
    let (server, elsewhere) = (asked.local_addr().unwrap(), other.local_addr().unwrap());
    let answering = tokio::spawn(async move {
        let mut seen = 0;
        while let Ok((mut stream, _)) = asked.accept().await {
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await;
            let codes = ["301 Moved Permanently", "307 Temporary Redirect", "308 Permanent Redirect"];
            let head = format!("HTTP/1.1 {}\r\nLocation: http://{elsewhere}/v1\r\n", codes[seen % 3]);
            seen += 1;
            let _ = stream.write_all(format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n").as_bytes()).await;
        }
    });
    let secret = home.path().join("secret");
    std::fs::write(&secret, "a-password-of-ours\n").unwrap();
    let secret = secret.to_str().unwrap();
    for args in
        [&["get"][..], &["describe", "orders"], &["secret", "set", "orders", "--file", secret], &["delete", "orders"]]
    {
        let mut command = tokio::process::Command::new(BINARY);
        command.args(args).args(["--server", &format!("http://{server}")]).env("REDISCTL_TOKEN", "rctl_ours");
        // Nor to a proxy that the environment names.
        command.env("http_proxy", format!("http://{elsewhere}")).env("HTTP_PROXY", format!("http://{elsewhere}"));
        command.env("ALL_PROXY", format!("http://{elsewhere}"));
        let output = tokio::time::timeout(TIMEOUT, command.output()).await.expect("it ends").expect("it runs");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains("the token is not shown there"), "{args:?}: {told}");
    }
    assert!(tokio::time::timeout(Duration::from_millis(200), other.accept()).await.is_err(), "nobody came");
    answering.abort();
}

async fn listener() -> tokio::net::TcpListener {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

#[tokio::test]
async fn without_tokens_the_api_is_asked_for_by_names_that_are_ours_and_no_others() {
    let args = ["--allowed-hosts", "redis-op-1.example, OPS"];
    let operator = Operator::start(Home::new("access"), &args).await;
    let client = redisctl::tls::http().build().unwrap();
    for (host, code) in [("redis-op-1.example:5656", 200), ("ops", 200), ("localhost", 200), ("evil.example", 421)] {
        let answer = client.get(format!("{}/v1/operator", operator.url)).header("host", host).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), code, "{host}");
        let told = answer.text().await.unwrap();
        assert!(code == 200 || told.contains("evil.example") && told.contains("--allowed-hosts"), "{told}");
    }
}

#[test]
fn the_unit_for_systemd_leaves_little_of_the_machine_to_the_operator_and_what_it_needs() {
    let unit = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/systemd/redisctl.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    for line in ["UMask=0077", "StateDirectory=redisctl", "StateDirectoryMode=0700", "LimitNOFILE=65536"] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    assert!(text.contains("RestrictAddressFamilies=AF_INET AF_INET6"));
    let judged = Command::new("systemd-analyze").args(["security", "--offline=true"]).arg(&unit).output();
    let told = String::from_utf8(judged.expect("systemd is installed").stdout).unwrap();
    let exposure = told.lines().find_map(|line| line.split_once("exposure level for redisctl.service: "));
    let exposure: f64 = exposure.unwrap().1.split(' ').next().unwrap().parse().unwrap();
    assert!(exposure < 3.0, "{told}");
}
