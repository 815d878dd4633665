//! 1,000 instances of 3 nodes on a simulated cluster: creation, restart, idling, and single
//! changes. I/O.
//!
//! The cluster runs in this process with fake Redis servers; the operator is the real binary in a
//! process of its own, and the store is a real etcd.

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::support::{Etcd, wait_until};
use common::{BINARY, Operator, TIMEOUT, Table, asked_for_tests, median, ms, quantile};
use futures::StreamExt as _;
use redisctl::local::{Cluster, ClusterConfig};
use redisctl::model::NodeRecord;
use redisctl::store::{Change, KeyValue, LEADER_KEY, Op, Store, TXN_OPS_MAX, Txn, Watch, instance_key, state_key};

const INSTANCES: usize = 1000;
const REPLICAS: u32 = 2;
const AGENTS: u32 = 100;
const RACKS: u32 = 10;
/// Idle is when nothing was written for this long, leadership aside.
const QUIET: Duration = Duration::from_secs(3);
/// How long an idle operator is watched.
const IDLE: Duration = Duration::from_secs(30);
const CHANGES: usize = 200;
/// Between two changes, so that one does not wait for what the last one has caused.
const PAUSE: Duration = Duration::from_millis(30);
const SCRAPES: usize = 30;
/// Clients that read at once, ...
const READERS: usize = 8;
/// ... each once in this time: 10,000 reads in a second.
const READ_EVERY: Duration = Duration::from_micros(800);
/// How often a node is asked whether a change has arrived.
const POLL: Duration = Duration::from_micros(300);

struct Bench {
    store: Store,
    operator: Operator,
    table: Table,
    http: reqwest::Client,
    _cluster: Cluster,
    _etcd: Etcd,
}

#[tokio::main]
async fn main() {
    if asked_for_tests() {
        return;
    }
    let etcd = Etcd::start().await;
    let mut config = ClusterConfig::simulated(AGENTS, RACKS).expect("a free network");
    // Tests that run beside this claim each hundredth port on all addresses.
    config.agents.iter_mut().for_each(|agent| agent.ports = (20_001, 20_099));
    let cluster = Cluster::start(config.task_helper(BINARY)).expect("the cluster starts");
    let store = Store::open(&etcd.url("bench")).await.expect("etcd is there");
    let operator = Operator::spawn(&etcd.url("bench"), &format!("http://{}", cluster.master_address()));
    operator.wait_until_in_charge().await;
    println!("{INSTANCES} instances of {} nodes, {AGENTS} simulated agents, store etcd", REPLICAS + 1);
    let http = redisctl::tls::http().build().expect("a client");
    let mut bench = Bench { store, operator, table: Table::default(), http, _cluster: cluster, _etcd: etcd };
    bench.create().await;
    bench.quiet().await;
    bench.idle().await;
    bench.scrape().await;
    bench.restart().await;
    bench.quiet().await;
    bench.change_config(100, "").await;
    bench.quiet().await;
    bench.change_config_under_load().await;
    bench.quiet().await;
    bench.scale_up().await;
    bench.table.print();
}

impl Bench {
    async fn create(&mut self) {
        let cpu = self.operator.cpu();
        let mut watch = self.watch("status/").await;
        let start = Instant::now();
        let ops: Vec<Op> = (0..INSTANCES).map(|i| put(i, REPLICAS, "noeviction")).collect();
        for chunk in ops.chunks(TXN_OPS_MAX) {
            self.commit(chunk.to_vec()).await;
        }
        let written = start.elapsed();
        let mut ready = BTreeSet::new();
        while ready.len() < INSTANCES {
            for item in next(&mut watch, "all instances become Ready").await {
                if String::from_utf8_lossy(&item.value).contains("\"phase\":\"Ready\"") {
                    ready.insert(item.key);
                }
            }
        }
        let all = start.elapsed();
        println!(
            "creation: documents written after {}, all Ready after {}, {} of CPU",
            ms(written),
            ms(all),
            ms(self.operator.cpu().saturating_sub(cpu))
        );
        self.table.row("1,000 x 3 nodes: empty store to all Ready", &ms(all), "", "", "30 s");
    }

    /// Waits until the operator has nothing more to do.
    async fn quiet(&self) {
        let mut watch = self.watch("").await;
        let mut last = Instant::now();
        let start = last;
        while last.elapsed() < QUIET {
            assert!(start.elapsed() < TIMEOUT, "the operator does not come to rest");
            let Ok(changes) = tokio::time::timeout(QUIET, watch.next()).await else { break };
            let changes = changes.expect("the watch goes on").expect("etcd answers").changes;
            if changes.iter().any(|change| !key(change).starts_with("operator/")) {
                last = Instant::now();
            }
        }
    }

    async fn idle(&mut self) {
        let mut watch = self.watch("").await;
        let (cpu, start) = (self.operator.cpu(), Instant::now());
        let mut writes = 0;
        while let Some(left) = IDLE.checked_sub(start.elapsed()) {
            let Ok(changes) = tokio::time::timeout(left, watch.next()).await else { break };
            writes += changes.expect("the watch goes on").expect("etcd answers").changes.len();
        }
        let part = self.operator.cpu().saturating_sub(cpu).as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
        let rss = self.operator.rss_mb();
        println!("idle: {part:.2} % of a core, {rss:.1} MB, {writes} writes in {} s", IDLE.as_secs());
        self.table.row("  idle: CPU", &format!("{part:.2} %"), "", "", "2 % of a core");
        self.table.row("  idle: resident memory", &format!("{rss:.1} MB"), "", "", "80 MB");
    }

    /// `kill -9` of the operator, and a new one at once; a change waits for it.
    async fn restart(&mut self) {
        let (mut totals, mut leases) = (Vec::new(), Vec::new());
        for round in 0..3 {
            let mut watch = self.watch("").await;
            let start = Instant::now();
            self.operator.kill();
            self.operator.spawn_again();
            self.commit(vec![put(round, REPLICAS + 1, "noeviction")]).await;
            let acted = nodes_of(round);
            let (mut elected, mut first) = (None, None);
            while first.is_none() {
                for item in next(&mut watch, "the new operator acts").await {
                    match item.key {
                        key if key == LEADER_KEY => elected = elected.or(Some(start.elapsed())),
                        key if key.starts_with(&acted) => first = Some(start.elapsed()),
                        _ => {}
                    }
                }
            }
            self.all_heard().await;
            let (elected, first, heard) = (elected.unwrap_or_default(), first.unwrap_or_default(), start.elapsed());
            println!(
                "restart: elected after {}, first change acted on {} later, all nodes heard of {} later",
                ms(elected),
                ms(first.saturating_sub(elected)),
                ms(heard.saturating_sub(elected))
            );
            totals.push(first.max(heard));
            leases.push(elected);
        }
        let total = median(&totals);
        let lease = format!("of it the dead leader's lease {}", ms(median(&leases)));
        self.table.row("  kill -9 and restart: in charge again", &ms(total), &lease, "", "3 s");
    }

    /// Waits until every node has answered the new operator.
    async fn all_heard(&self) {
        wait_until("all nodes are heard of", TIMEOUT, async || {
            let text = self.http.get(format!("{}/metrics", self.operator.url())).send().await?.text().await?;
            let ready: f64 = text
                .lines()
                .filter(|line| line.starts_with("redisctl_nodes{") && line.to_lowercase().contains("state=\"ready\""))
                .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum();
            let all = INSTANCES * (REPLICAS as usize + 1);
            #[allow(clippy::cast_precision_loss)] // Thousands.
            let enough = ready >= all as f64;
            anyhow::ensure!(enough, "{ready} of {all}");
            anyhow::Ok(())
        })
        .await;
    }

    /// One value of `redis.config` at a time: until the operator records it, and until the node has it.
    async fn change_config(&mut self, first: usize, when: &str) {
        let (mut recorded, mut set) = (Vec::new(), Vec::new());
        for i in first..first + CHANGES {
            let nodes = self.store.list(&nodes_of(i)).await.expect("etcd answers").items;
            let node: NodeRecord = serde_json::from_slice(&nodes[0].value).expect("a record");
            let mut ask = Ask::dial(&node.address.to_string());
            let mut watch = self.watch(&state_key(&name(i))).await;
            let start = Instant::now();
            self.commit(vec![put(i, REPLICAS, "allkeys-lru")]).await;
            let noted = tokio::spawn(async move {
                next(&mut watch, "the change is recorded").await;
                start.elapsed()
            });
            let arrived = tokio::task::spawn_blocking(move || {
                while !ask.policy().contains("allkeys-lru") {
                    assert!(start.elapsed() < TIMEOUT, "the node is not configured");
                    std::thread::sleep(POLL);
                }
                start.elapsed()
            });
            set.push(arrived.await.expect("no panic"));
            recorded.push(noted.await.expect("no panic"));
            tokio::time::sleep(PAUSE).await; // Until what it has caused is over.
        }
        self.tell(&format!("config changed{when}: intent in the store"), &recorded);
        self.tell(&format!("config changed{when}: CONFIG SET at the node"), &set);
    }

    /// The same while clients of the API read without end.
    async fn change_config_under_load(&mut self) {
        let readers = Readers::start(self.operator.url());
        self.change_config(300, ", 10,000 reads/s").await;
        let (took, part) = readers.finish();
        let (p50, p99) = (quantile(&took, 0.5), quantile(&took, 0.99));
        println!("reads: {part:.0} in a second, p50 {}, p99 {}", ms(p50), ms(p99));
        self.table.row("  GET /v1/instances/NAME meanwhile", &format!("{part:.0} in a second"), &ms(p99), "", "10,000");
    }

    /// What Prometheus gets, and how long it takes.
    async fn scrape(&mut self) {
        let (mut took, mut lines) = (Vec::new(), 0);
        for _ in 0..SCRAPES {
            let start = Instant::now();
            let answer = self.http.get(format!("{}/metrics", self.operator.url())).send().await;
            let text = answer.expect("the operator answers").text().await.expect("all of it");
            took.push(start.elapsed());
            lines = text.lines().filter(|line| !line.starts_with('#')).count();
        }
        let (p50, worst) = (quantile(&took, 0.5), quantile(&took, 1.0));
        println!("scrape: {lines} values, p50 {}, worst {}", ms(p50), ms(worst));
        self.table.row("  one scrape of /metrics", &ms(p50), &format!("worst {}", ms(worst)), "", "200 ms");
    }

    /// One more replica at a time: until its launch is recorded.
    async fn scale_up(&mut self) {
        let mut launched = Vec::new();
        for i in 500..500 + CHANGES {
            let mut watch = self.watch(&nodes_of(i)).await;
            let start = Instant::now();
            self.commit(vec![put(i, REPLICAS + 1, "noeviction")]).await;
            next(&mut watch, "a node is launched").await;
            launched.push(start.elapsed());
            tokio::time::sleep(PAUSE).await; // Until what it has caused is over.
        }
        self.tell("replica added: its launch in the store", &launched);
    }

    fn tell(&mut self, what: &str, took: &[Duration]) {
        let (p50, p99) = (quantile(took, 0.5), quantile(took, 0.99));
        println!("change: {what}: p50 {}, p99 {}, worst {}", ms(p50), ms(p99), ms(quantile(took, 1.0)));
        self.table.row(&format!("  {what}"), &format!("{} p50", ms(p50)), &format!("{} p99", ms(p99)), "", "20 ms");
    }

    async fn commit(&self, ops: Vec<Op>) {
        self.store.commit(Txn { guards: Vec::new(), ops }).await.expect("etcd answers");
    }

    async fn watch(&self, prefix: &str) -> Watch {
        let revision = self.store.list("operator/").await.expect("etcd answers").revision;
        self.store.watch(prefix, revision).await.expect("etcd answers")
    }
}

/// Clients that read instances, at a pace of 10,000 in a second together.
struct Readers {
    stop: Arc<AtomicBool>,
    start: Instant,
    threads: Vec<JoinHandle<Vec<Duration>>>,
}

impl Readers {
    fn start(url: &str) -> Readers {
        let (stop, address) = (Arc::new(AtomicBool::new(false)), url.trim_start_matches("http://").to_string());
        let reader = |i: usize| {
            let (stop, address) = (stop.clone(), address.clone());
            std::thread::spawn(move || read(i, &address, &stop))
        };
        Readers { start: Instant::now(), threads: (0..READERS).map(reader).collect(), stop }
    }

    /// How long each read took, and how many there were in a second.
    #[allow(clippy::cast_precision_loss)] // Some 100,000.
    fn finish(self) -> (Vec<Duration>, f64) {
        self.stop.store(true, Ordering::Relaxed);
        let took: Vec<Duration> = self.threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect();
        let part = took.len() as f64 / self.start.elapsed().as_secs_f64();
        (took, part)
    }
}

fn read(reader: usize, address: &str, stop: &AtomicBool) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).expect("the API listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let mut reader_of = BufReader::new(stream.try_clone().expect("a socket can be duplicated"));
    let (mut took, start) = (Vec::new(), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let due = start + READ_EVERY * u32::try_from(took.len()).expect("few");
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (begun, i) = (Instant::now(), (reader * 131 + took.len()) % INSTANCES);
        let request = format!("GET /v1/instances/{} HTTP/1.1\r\nHost: {address}\r\n\r\n", name(i));
        stream.write_all(request.as_bytes()).expect("the API reads");
        answer(&mut reader_of);
        took.push(begun.elapsed());
    }
    took
}

/// Reads one answer, which must be good.
fn answer(reader: &mut BufReader<TcpStream>) {
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).expect("the API answers");
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("the API answers");
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("all of it");
}

/// A connection to a node.
struct Ask(BufReader<TcpStream>);

impl Ask {
    fn dial(address: &str) -> Ask {
        Ask(BufReader::new(TcpStream::connect(address).expect("the node listens")))
    }

    fn policy(&mut self) -> String {
        self.0.get_mut().write_all(b"CONFIG GET maxmemory-policy\r\n").expect("the node lives");
        let mut answer = String::new();
        let mut line = || {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("the node lives");
            line
        };
        let lines = line().trim_start_matches('*').trim().parse::<usize>().expect("an array") * 2;
        for _ in 0..lines {
            answer += &line();
        }
        answer
    }
}

fn name(i: usize) -> String {
    format!("cache-{i:04}")
}

/// The prefix of the keys of its nodes.
fn nodes_of(i: usize) -> String {
    format!("nodes/{}/", name(i))
}

fn put(i: usize, replicas: u32, policy: &str) -> Op {
    let name = name(i);
    let value = format!(
        "apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata: {{name: {name}}}\nspec: {{auth: none, replicas: {replicas}, \
         memory: 64Mi, cpus: 0.1, placement: {{spreadBy: rack}}, redis: {{config: {{maxmemory-policy: {policy}}}}}}}\n"
    );
    Op::Put { key: instance_key(&name), value: value.into_bytes() }
}

fn key(change: &Change) -> &str {
    match change {
        Change::Put(item) => &item.key,
        Change::Delete { key, .. } => key,
    }
}

/// The next writes that the watch sees.
async fn next(watch: &mut Watch, what: &str) -> Vec<KeyValue> {
    loop {
        let changes =
            tokio::time::timeout(TIMEOUT, watch.next()).await.unwrap_or_else(|_| panic!("no sign that {what}"));
        let changes = changes.expect("the watch goes on").expect("etcd answers").changes;
        let puts: Vec<KeyValue> = changes
            .into_iter()
            .filter_map(|change| match change {
                Change::Put(item) => Some(item),
                Change::Delete { .. } => None,
            })
            .collect();
        if !puts.is_empty() {
            return puts;
        }
    }
}
