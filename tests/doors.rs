//! What unknown callers may cost: at the real binary, with many real sockets. I/O.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use redisctl::local::{Cluster, ClusterConfig};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use support::{Home, Ports, Process, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

const BINARY: &str = env!("CARGO_BIN_EXE_redisctl");
const TIMEOUT: Duration = Duration::from_secs(20);
/// Whoever asks meanwhile has an answer by then, on a loaded machine.
const AT_ONCE: Duration = Duration::from_secs(3);
/// More than any of its listeners may have with [`FILES`].
const MANY: usize = 600;
/// The operator's limit of open files.
const FILES: usize = 256;

/// An operator with few files, on a store of its own, and on a Mesos that is not there.
struct Operator {
    listen: String,
    sentinel: String,
    tls: bool,
    home: Home,
    process: Process,
    _ports: Ports,
}

impl Operator {
    async fn start(home: Home, more: &[&str]) -> Operator {
        Operator::start_at(home, "http://127.0.0.1:1", more).await
    }

    async fn start_at(home: Home, mesos: &str, more: &[&str]) -> Operator {
        // This process holds the other ends of all connections.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("the soft limit may be raised");
        let ports = Ports::lease(2);
        let (listen, sentinel) = (format!("127.0.0.1:{}", ports.next()), format!("127.0.0.1:{}", ports.next()));
        let store = format!("file:{}", home.path().join("store.redb").display());
        let words = ["operator", "--store", &store, "--mesos", mesos, "--listen", &listen];
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {FILES}; exec \"$0\" \"$@\""), BINARY]);
        let process = home.spawn("operator", command.args(words).args(["--sentinel-listen", &sentinel]).args(more));
        let tls = more.contains(&"--tls-key");
        let operator = Operator { listen, sentinel, tls, home, process, _ports: ports };
        wait_until("the operator listens", TIMEOUT, async || {
            TcpStream::connect(&operator.listen).await?;
            TcpStream::connect(&operator.sentinel).await.map(drop)
        })
        .await;
        operator
    }

    /// Asks the API whether it lives: how long that takes.
    async fn api_answers(&self) -> Duration {
        let scheme = if self.tls { "https" } else { "http" };
        let begun = Instant::now();
        let client = redisctl::tls::http().tls_danger_accept_invalid_certs(true).build().unwrap();
        let answer = client.get(format!("{scheme}://{}/healthz", self.listen)).send().await.expect("it answers");
        assert_eq!(answer.status().as_u16(), 200, "{:?}", answer.headers());
        begun.elapsed()
    }

    /// The same of Sentinel, where anybody is told at least that he is to log in.
    async fn sentinel_answers(&self) -> Duration {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(&self.sentinel).await.expect("it listens");
        let told = said(&mut stream, b"PING\r\n", AT_ONCE).await;
        assert!(told.starts_with("+PONG") || told.starts_with("-NOAUTH"), "{told:?}");
        begun.elapsed()
    }

    async fn both_answer_at_once(&self, when: &str) {
        let (api, sentinel) = (self.api_answers().await, self.sentinel_answers().await);
        assert!(api < AT_ONCE && sentinel < AT_ONCE, "{when}: the API took {api:?}, Sentinel {sentinel:?}");
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.process.pid().expect("it runs"), signal).expect("it is ours");
    }
}

/// Sends this, and answers what comes next; nothing: the end, or a reset.
async fn said(stream: &mut TcpStream, bytes: &[u8], patience: Duration) -> String {
    let _ = stream.write_all(bytes).await; // It may be closed already: that is seen when it is read.
    let mut buffer = vec![0; 64 << 10];
    let read = tokio::time::timeout(patience, stream.read(&mut buffer)).await.expect("an answer, or the end");
    String::from_utf8_lossy(&buffer[..read.unwrap_or(0)]).into_owned()
}

fn certificate(home: &Home) -> Vec<String> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap();
    let (certificate, key) = (home.path().join("certificate.pem"), home.path().join("key.pem"));
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    ["--tls-certificate", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()].map(String::from).to_vec()
}

fn tokens(home: &Home) -> Vec<String> {
    let output = Command::new(BINARY).args(["token", "shop", "--access", "read"]).output().expect("it runs");
    let path = home.path().join("tokens.yaml");
    std::fs::write(&path, ["tokens:\n".as_bytes(), &output.stdout].concat()).unwrap();
    vec!["--auth-tokens".to_string(), path.display().to_string()]
}

/// What each of many connections says at its beginning; all of it is less than a request.
const BEGINNINGS: [(&str, &[u8]); 7] = [
    ("nothing", b""),
    ("half a header", b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: "),
    ("a body that does not come", b"POST /v1/instances HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{"),
    ("half of a handshake of TLS", b"\x16\x03\x01\x02\x00\x01"),
    ("half a list", b"*10\r\n$4\r\nPING\r\n$1"),
    ("a long word", b"*2\r\n$4\r\nAUTH\r\n$16384\r\naaaaaaaa"),
    ("half a line", b"SENTINEL mast"),
];

#[tokio::test]
async fn whoever_opens_many_connections_and_says_little_takes_nothing_from_others() {
    for (tls, named) in [(false, false), (true, true)] {
        let home = Home::new("doors");
        let mut more = if tls { certificate(&home) } else { Vec::new() };
        more.extend(if named { tokens(&home) } else { Vec::new() });
        let operator = Operator::start(home, &more.iter().map(String::as_str).collect::<Vec<_>>()).await;
        for (what, beginning) in BEGINNINGS {
            // Requests that have begun are not ended for others, so those come from an address of their own.
            let works = what.starts_with("a body");
            for address in [&operator.listen, &operator.sentinel] {
                let mut open = Vec::new();
                for _ in 0..MANY {
                    let socket = TcpSocket::new_v4().expect("a socket");
                    let from = if works { "127.0.0.3:0" } else { "127.0.0.1:0" };
                    socket.bind(from.parse().expect("an address")).expect("a free port");
                    let mut stream = socket.connect(address.parse().expect("an address")).await.expect("it listens");
                    let _ = stream.write_all(beginning).await; // It may have been refused.
                    open.push(stream);
                }
                operator.both_answer_at_once(what).await;
                drop(open);
            }
        }
        let log = operator.home.log("operator");
        assert!(log.lines().count() < 60, "it says once what happens again and again:\n{log}");
        let (open, limit) = files(&operator);
        assert!(open < limit && limit == FILES, "{open} of {limit} files");
    }
}

/// Files that the operator has open, as the kernel counts them, and their limit.
fn files(operator: &Operator) -> (usize, usize) {
    let pid: Pid = operator.process.pid().expect("it runs");
    let folder = format!("/proc/{}/fd", pid.as_raw_nonzero());
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("it has a limit");
    let limit = line.split_whitespace().nth(3).expect("a number").parse().expect("a number");
    (std::fs::read_dir(folder).expect("it runs").count(), limit)
}

#[tokio::test]
async fn a_client_of_sentinel_meets_its_limits_early() {
    let home = Home::new("doors");
    let named = tokens(&home);
    let operator = Operator::start(home, &named.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut slow = TcpStream::connect(&operator.sentinel).await.expect("it listens");
    let begun = Instant::now();
    for (sent, answer) in [
        ("*11\r\n", "-ERR Protocol error: unauthenticated multibulk length\r\n"),
        ("*2\r\n$16385\r\n", "-ERR Protocol error: unauthenticated bulk length\r\n"),
        ("*1000000\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (&"x".repeat(20 << 10), "-ERR Protocol error: too big inline request\r\n"),
        ("POST / HTTP/1.1\r\nHost: a\r\n\r\nSENTINEL FAILOVER orders\r\n", ""),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nPING\r\n", ""),
        ("Host: a\r\nPING\r\n", ""),
    ] {
        let mut stream = TcpStream::connect(&operator.sentinel).await.expect("it listens");
        assert_eq!(said(&mut stream, sent.as_bytes(), AT_ONCE).await, answer, "{sent:.30}");
        assert_eq!(said(&mut stream, b"", AT_ONCE).await, "", "it is closed after {sent:.30}");
    }
    // Whoever does not say who it is, is let go, whatever else it says meanwhile.
    let end = loop {
        assert!(begun.elapsed() < TIMEOUT, "it is still there");
        let _ = slow.write_all(b"PING\r\n").await;
        match tokio::time::timeout(Duration::from_secs(1), slow.read(&mut [0; 64])).await {
            Ok(Ok(count)) if count > 0 => tokio::time::sleep(Duration::from_millis(100)).await,
            Ok(_) => break begun.elapsed(),
            Err(_) => {}
        }
    };
    assert!(end > Duration::from_secs(5), "{end:?}");
    let log = operator.home.log("operator");
    assert!(log.contains("it speaks HTTP"), "{log}");
}

#[tokio::test]
async fn a_header_that_does_not_end_and_one_that_is_too_long_are_given_up() {
    let operator = Operator::start(Home::new("doors"), &[]).await;
    let mut long = TcpStream::connect(&operator.listen).await.expect("it listens");
    let fields = format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(10_000));
    assert!(!said(&mut long, fields.as_bytes(), AT_ONCE).await.starts_with("HTTP/1.1 200"));
    let mut slow = TcpStream::connect(&operator.listen).await.expect("it listens");
    let begun = Instant::now();
    slow.write_all(b"GET /healthz HTTP/1.1\r\n").await.expect("it reads");
    while begun.elapsed() < TIMEOUT {
        let _ = slow.write_all(b"X: y\r\n").await;
        if tokio::time::timeout(Duration::from_secs(1), slow.read(&mut [0; 64])).await.is_ok() {
            break;
        }
    }
    assert!(begun.elapsed() < TIMEOUT, "it is still there after {:?}", begun.elapsed());
}

#[tokio::test]
async fn signals_that_mean_nothing_do_not_end_it_and_a_hangup_has_it_read_its_files() {
    let home = Home::new("doors");
    let named = tokens(&home);
    let operator = Operator::start(home, &named.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (path, text) = (operator.home.path().join("tokens.yaml"), "# changed\n");
    let known = std::fs::read_to_string(&path).expect("it is there");
    std::fs::write(&path, known + text).expect("it may be written");
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::ALARM, Signal::PIPE, Signal::IO, Signal::HUP] {
        operator.signal(signal);
    }
    wait_until("it tells what it does", TIMEOUT, async || {
        let log = operator.home.log("operator");
        if log.contains("SIGHUP: files") && log.contains("SIGUSR1 means nothing") { Ok(()) } else { Err(log) }
    })
    .await;
    wait_until("the tokens are read again", TIMEOUT, async || {
        let asked = reqwest_get(&operator.listen).await;
        let log = operator.home.log("operator");
        if log.contains("the tokens were read again") { Ok(()) } else { Err(format!("{asked} {log}")) }
    })
    .await;
    operator.both_answer_at_once("after signals").await;
    operator.signal(Signal::TERM);
    wait_until("it ends when it is told to", TIMEOUT, async || !operator.process.runs()).await;
}

async fn reqwest_get(listen: &str) -> String {
    let get = redisctl::tls::http().build().unwrap().get(format!("http://{listen}/v1/operator"));
    get.bearer_auth("rctl_nobody").send().await.expect("it answers").status().to_string()
}

#[tokio::test]
async fn a_limit_of_files_that_is_low_is_told_at_the_start() {
    let operator = Operator::start(Home::new("doors"), &[]).await;
    let log = operator.home.log("operator");
    assert!(log.contains("the limit of open files is 256: enough for"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_few_files_a_hundred_instances_become_ready_and_the_api_answers_all_the_time() {
    const INSTANCES: usize = 100;
    let cluster = Cluster::start(ClusterConfig::simulated(10, 5).expect("a free network")).expect("it starts");
    let operator = Operator::start_at(Home::new("doors"), &format!("http://{}", cluster.master_address()), &[]).await;
    let client = redisctl::tls::http().build().unwrap();
    let documents: Vec<String> = (0..INSTANCES).map(document).collect();
    wait_until("the documents are taken", TIMEOUT, async || {
        let post = client.post(format!("http://{}/v1/instances", operator.listen)).body(documents.join("---\n"));
        let answer = post.send().await?;
        anyhow::ensure!(answer.status().is_success(), "{}", answer.text().await?);
        anyhow::Ok(())
    })
    .await;
    let ready = format!("redisctl_instances{{phase=\"Ready\"}} {INSTANCES}");
    wait_until("all are ready", 6 * TIMEOUT, async || {
        let took = operator.api_answers().await;
        assert!(took < AT_ONCE, "the API took {took:?}");
        let metrics = client.get(format!("http://{}/metrics", operator.listen)).send().await?.text().await?;
        let told = metrics.lines().filter(|line| line.starts_with("redisctl_instances")).collect::<Vec<_>>().join("\n");
        anyhow::ensure!(metrics.contains(&ready), "{told}");
        anyhow::Ok(())
    })
    .await;
    let (open, limit) = files(&operator);
    assert!(open < limit, "{open} of {limit} files");
    let log = operator.home.log("operator");
    assert!(!log.contains("Too many open files"), "{log}");
}

fn document(i: usize) -> String {
    format!(
        "apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata: {{name: i{i}}}\nspec: {{auth: none, replicas: 0, memory: \
         8Mi, cpus: 0.1}}\n"
    )
}

#[tokio::test]
async fn a_watch_outlives_the_times_for_headers_and_requests() {
    let operator = Operator::start(Home::new("doors"), &[]).await;
    let mut watch = TcpStream::connect(&operator.listen).await.expect("it listens");
    watch.write_all(b"GET /v1/instances?watch=true HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.expect("it reads");
    let begun = Instant::now();
    let mut buffer = [0; 4096];
    while begun.elapsed() < Duration::from_secs(35) {
        let read = tokio::time::timeout(TIMEOUT, watch.read(&mut buffer)).await.expect("signs of life");
        assert!(read.is_ok_and(|count| count > 0), "it was ended after {:?}", begun.elapsed());
    }
}
