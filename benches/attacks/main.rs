//! From kill -9 of a master to the next write, while somebody attacks; beside calm rounds of the same run. I/O.
//!
//! The operator is the real binary, the store a real etcd, the nodes real redis-servers on the local cluster.
//!
//! `attacks [ROUNDS] [1.2 1.5 ...]`

#[path = "../common/mod.rs"]
mod common;

mod attack;
#[path = "../failover/client.rs"]
#[allow(dead_code)] // This bench writes only.
mod client;
mod hostile;

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use attack::{Attack, Victim, put};
use client::Finder;
use common::support::{Etcd, Home, wait_until};
use common::{BINARY, Operator, TIMEOUT, Table, asked_for_tests, document, median, ms};
use redisctl::local::{Cluster, ClusterConfig};
use redisctl::store::Store;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

const ROUNDS: usize = 5;
/// An attack goes on for this long before the master is killed: what it wears out is worn out then.
const WEARING: Duration = Duration::from_secs(8);
/// The same for what grows with failures (pauses between tries).
const WEARING_LONG: Duration = Duration::from_mins(1);
/// How long a new master is waited for.
const LIMIT: Duration = Duration::from_mins(1);
/// The aim: the median under an attack, as a multiple of the calm one.
const AIM: f64 = 2.0;
const NAME: &str = "orders";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "hostile") {
        return hostile::serve(&args);
    }
    if asked_for_tests() {
        return;
    }
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("the soft limit may be raised");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench(&args[1..]));
}

async fn bench(args: &[String]) {
    let rounds = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(ROUNDS);
    let named: Vec<&String> = args.iter().filter(|arg| arg.contains('.')).collect();
    let mut bench = Bench::start().await;
    let mut table = Table::default();
    for (number, what) in attack::ALL {
        if !named.is_empty() && !named.iter().any(|name| *name == number) {
            continue;
        }
        let (mut calm, mut attacked) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            calm.push(bench.round(None).await);
            attacked.push(bench.round(Some(number)).await);
        }
        let (floor, value) = (median(&calm), median(&attacked));
        let ratio = value.as_secs_f64() / floor.as_secs_f64();
        let worst = format!("calm {}; worst {}", ms(floor), ms(*attacked.iter().max().expect("there are rounds")));
        let aim = if ratio <= AIM { "below 2x: met" } else { "below 2x: MISSED" };
        println!("{number} {what}: {} (calm {}), {ratio:.1}x", common::all_ms(&attacked), common::all_ms(&calm));
        table.row(&format!("{number} {what}"), &ms(value), &worst, &format!("{ratio:.1}x"), aim);
    }
    table.print();
}

struct Bench {
    operator: Operator,
    store: Store,
    http: reqwest::Client,
    _cluster: Cluster,
    _etcd: Etcd,
    _home: Home,
}

impl Bench {
    async fn start() -> Bench {
        let (etcd, home) = (Etcd::start().await, Home::new("attacks"));
        let server = home.path().join("redis-server");
        let ourselves = std::env::current_exe().expect("it has a file");
        // Instances of one name have nodes that are none.
        let script = format!(
            "#!/bin/sh\ncase \"$PWD\" in */hostile-*) exec {} hostile \"$@\" ;; esac\nexec redis-server \"$@\"\n",
            ourselves.display()
        );
        std::fs::write(&server, script).expect("the home can be written");
        std::fs::set_permissions(&server, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        let config = ClusterConfig::demo(3).expect("free ports").task_helper(BINARY);
        let cluster = Cluster::start(config).expect("the cluster starts");
        let (url, mesos) = (etcd.url("attacks"), format!("http://{}", cluster.master_address()));
        let store = Store::open(&url).await.expect("etcd is there");
        let server = server.display().to_string();
        let operator = Operator::spawn_with(&url, &mesos, &["--redis-server", &server]);
        operator.wait_until_in_charge().await;
        // Whoever attacks has another address.
        let http = redisctl::tls::http().local_address("127.0.0.9".parse::<std::net::IpAddr>().ok());
        let http = http.timeout(Duration::from_secs(3)).build().expect("a client");
        let bench = Bench { operator, store, http, _cluster: cluster, _etcd: etcd, _home: home };
        put(&bench.store, NAME, Some(&document(NAME, 2, 1))).await;
        bench
    }

    /// The master first, when all is well.
    async fn settled(&self) -> Vec<String> {
        let mut nodes = Vec::new();
        wait_until("the instance is ready", TIMEOUT, async || {
            let url = format!("{}/v1/instances/{NAME}", self.operator.url());
            let view: serde_json::Value = self.http.get(url).send().await?.json().await?;
            let status = &view["status"];
            let ready = |node: &serde_json::Value| node["state"] == "Ready";
            let all = status["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
            anyhow::ensure!(status["phase"] == "Ready" && all.len() == 3 && all.iter().all(ready), "{status}");
            let master = status["master"].as_str().unwrap_or_default().to_string();
            let others = all.iter().filter_map(|node| node["address"].as_str()).filter(|address| *address != master);
            nodes = std::iter::once(master.clone()).chain(others.map(str::to_string)).collect();
            anyhow::Ok(())
        })
        .await;
        nodes
    }

    async fn round(&mut self, number: Option<&str>) -> Duration {
        let nodes = self.settled().await;
        let victim = Victim {
            api: self.operator.url().to_string(),
            sentinel: self.operator.sentinel().to_string(),
            store: self.store.clone(),
            nodes: nodes[usize::from(number == Some("1.9"))..].to_vec(),
            name: NAME,
            document: document(NAME, 2, 1),
        };
        let pid = pid_of(&nodes[0]);
        let attack = match number {
            Some(number) => Some(Attack::begin(number, &victim).await),
            None => None,
        };
        let mut writes = Finder::of_writes(&nodes, &nodes[0]);
        tokio::time::sleep(match number {
            Some("1.1") => WEARING_LONG,
            Some(_) => WEARING,
            None => Duration::from_secs(1),
        })
        .await;
        let moved = writes.next(Duration::ZERO).await.is_some();
        let at = Instant::now();
        kill_process(pid, Signal::KILL).expect("it runs");
        let first = writes.next(LIMIT).await.map_or(LIMIT, |(written, _)| written.saturating_duration_since(at));
        if let Some(attack) = attack {
            attack.end(&self.store).await;
        }
        if moved {
            println!("{number:?}: another master before the fault: that counts as never");
            return LIMIT;
        }
        first
    }
}

fn pid_of(node: &str) -> Pid {
    let mut connection = client::dial(node, Duration::from_secs(1)).expect("it listens");
    let info: String = redis::cmd("INFO").arg("server").query(&mut connection).expect("it answers");
    let pid = info.lines().find_map(|line| line.strip_prefix("process_id:")).and_then(|pid| pid.trim().parse().ok());
    pid.and_then(Pid::from_raw).expect("a process id")
}
