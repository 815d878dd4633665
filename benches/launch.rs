//! From a document to running nodes on a real Mesos, beside two floors measured in the same run. I/O.
//!
//! The floors are the same redis-server processes started by a bare script without Mesos, and the same
//! tasks launched through the same Mesos by a bare scheduler that accepts the first offers at once.
//! All three are judged alike, by asking the nodes themselves; rounds of the three alternate.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use common::support::process::processes_in;
use common::support::{AgentSpec, Etcd, Home, Mesos, Ports, Process, wait_until};
use common::{Operator, TIMEOUT, Table, all_ms, asked_for_tests, document, median, ms};
use futures::StreamExt as _;
use redisctl::mesos::{self, Session};
use redisctl::model::{Amount, Launch, MesosCall, MesosEvent, NodeRecord, Offer, Piece, TaskRecord};
use redisctl::store::{Change, Op, Store, Txn, Watch};
use serde_json::Value;
use tokio::sync::mpsc;

const PREFIX: &str = "/bench";
const AGENTS: usize = 3;
/// How often the node that is waited for is asked.
const POLL: Duration = Duration::from_millis(2);
/// What a task of a 16 MiB node takes besides 0.1 CPUs, in MiB: as the product reckons it.
const TASK_MEM_MIB: u64 = 48;

/// What is launched.
#[derive(Clone, Copy)]
enum Shape {
    /// One instance with this many replicas.
    Replicas(u32),
    /// So many instances of one node.
    Singles(u32),
}

impl Shape {
    fn nodes(self) -> usize {
        match self {
            Shape::Replicas(replicas) => replicas as usize + 1,
            Shape::Singles(count) => count as usize,
        }
    }

    fn names(self) -> Vec<String> {
        match self {
            Shape::Replicas(_) => vec!["orders".to_string()],
            Shape::Singles(count) => (0..count).map(|i| format!("single-{i}")).collect(),
        }
    }
}

/// One round of the product: when what was seen, since the start.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// The document is in the store.
    declared: Duration,
    /// The last node's record is in the store: its launch is sent next.
    recorded: Duration,
    /// Mesos says of the last task that it runs, and that is recorded.
    running: Duration,
    /// All nodes are up, as they say themselves.
    up: Duration,
    /// The last instance's status says Ready.
    ready: Duration,
    /// CPU time of the operator.
    cpu: Duration,
}

struct Bench {
    mesos: Mesos,
    etcd: Etcd,
    store: Store,
    operator: Operator,
    /// Redis writes here when started by the bare script.
    home: Home,
    /// Processes of Mesos when nothing is launched.
    at_rest: usize,
}

#[tokio::main]
async fn main() {
    if asked_for_tests() {
        return;
    }
    let (mesos, etcd) = (Mesos::start(&AgentSpec::racks(AGENTS)).await, Etcd::start().await);
    let store = Store::open(&etcd.url(PREFIX)).await.expect("etcd is there");
    let operator = Operator::spawn(&etcd.url(PREFIX), &mesos.url());
    operator.wait_until_in_charge().await;
    let at_rest = processes_in(mesos.home()).len();
    let bench = Bench { mesos, etcd, store, operator, home: Home::new("bench-floor"), at_rest };
    let mut table = Table::default();
    let only = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only == name);
    if wanted("1+2") {
        bench.compare("1 master, 2 replicas: all in sync", Shape::Replicas(2), 10, "Ready < 1 s", &mut table).await;
    }
    if wanted("1+50") {
        bench
            .compare("1 master, 50 replicas: all in sync", Shape::Replicas(50), 5, "<= 1.2 of Mesos", &mut table)
            .await;
    }
    if wanted("70") {
        bench.compare("70 single instances: all answer", Shape::Singles(70), 5, "<= 1.2 of Mesos", &mut table).await;
    }
    table.print();
}

impl Bench {
    async fn compare(&self, what: &str, shape: Shape, rounds: usize, aim: &str, table: &mut Table) {
        let (mut seen, mut bare, mut floor, mut offered) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            seen.push(self.product(shape).await);
            bare.push(self.bare_processes(shape).await);
            let (accepting, from_accept) = self.bare_scheduler(shape).await;
            floor.push(from_accept);
            offered.push(accepting);
        }
        let pick = |part: fn(&Seen) -> Duration| seen.iter().map(part).collect::<Vec<_>>();
        let (up, ready) = (pick(|s| s.up), pick(|s| s.ready));
        println!("{what}, {rounds} rounds, in ms");
        println!("  product, until up              {}", all_ms(&up));
        println!("  product, until Ready           {}", all_ms(&ready));
        println!("  bare script                    {}", all_ms(&bare));
        println!("  bare scheduler, from ACCEPT    {}", all_ms(&floor));
        println!(
            "  medians of the product: declared {}, recorded {}, running recorded {}, up {}, Ready {}; CPU {}",
            ms(median(&pick(|s| s.declared))),
            ms(median(&pick(|s| s.recorded))),
            ms(median(&pick(|s| s.running))),
            ms(median(&up)),
            ms(median(&ready)),
            ms(median(&pick(|s| s.cpu))),
        );
        println!("  bare scheduler, from SUBSCRIBE to ACCEPT {}", ms(median(&offered)));
        let floors = format!("script {}, Mesos {}", ms(median(&bare)), ms(median(&floor)));
        for (name, value, aim) in [(what.to_string(), &up, aim), ("  its status says Ready".to_string(), &ready, "")] {
            let value = median(value);
            let ratio = |floor: &[Duration]| value.as_secs_f64() / median(floor).as_secs_f64();
            table.row(&name, &ms(value), &floors, &format!("{:.1}, {:.2}", ratio(&bare), ratio(&floor)), aim);
        }
    }

    // -----------------------------------------------------------------------------------------
    // The product

    async fn product(&self, shape: Shape) -> Seen {
        let listing = self.store.list("").await.expect("etcd answers");
        let watch = self.store.watch("", listing.revision).await.expect("etcd answers");
        let (found, nodes) = mpsc::unbounded_channel();
        let (cpu, start) = (self.operator.cpu(), Instant::now());
        let following = tokio::spawn(follow(watch, shape, start, found));
        match shape {
            Shape::Replicas(replicas) => {
                let distribution = if replicas > 2 { 20 } else { 1 };
                self.etcd.put(&format!("{PREFIX}/instances/orders"), &document("orders", replicas, distribution)).await;
            }
            Shape::Singles(_) => self.apply(shape).await,
        }
        let up = until_up(nodes, shape.nodes(), start).await;
        let mut seen = tokio::time::timeout(TIMEOUT, following).await.expect("it is Ready in time").expect("no panic");
        seen.up = up;
        seen.cpu = self.operator.cpu().saturating_sub(cpu);
        if matches!(shape, Shape::Replicas(2)) {
            self.check_racks().await;
        }
        self.remove(shape).await;
        seen
    }

    /// `redisctl apply -f FILE` with all documents.
    async fn apply(&self, shape: Shape) {
        let documents: Vec<String> = shape.names().iter().map(|name| document(name, 0, 1)).collect();
        let path = self.home.path().join("singles.yaml");
        std::fs::write(&path, documents.join("---\n")).expect("the home can be written");
        let path = path.to_str().expect("the path is text");
        let args = ["apply", "-f", path, "--server", self.operator.url()];
        common::support::process::run(common::BINARY, &args, b"", TIMEOUT).await.expect("apply succeeds");
    }

    async fn check_racks(&self) {
        let nodes = self.store.list("nodes/orders/").await.expect("etcd answers").items;
        let nodes = nodes.iter().map(|item| serde_json::from_slice::<NodeRecord>(&item.value).expect("a record"));
        let racks: BTreeSet<String> = nodes.filter_map(|node| node.attributes.get("rack").cloned()).collect();
        println!("  racks of the agents: {}", racks.into_iter().collect::<Vec<_>>().join(" "));
    }

    async fn remove(&self, shape: Shape) {
        let delete = |name: String| Op::Delete { key: redisctl::store::instance_key(&name) };
        let ops = shape.names().into_iter().map(delete).collect();
        self.store.commit(Txn { guards: Vec::new(), ops }).await.expect("etcd answers");
        wait_until("all is gone", TIMEOUT, async || {
            let left = self.store.list("").await?.items;
            let left: Vec<String> =
                left.into_iter().map(|item| item.key).filter(|key| !key.starts_with("operator/")).collect();
            anyhow::ensure!(left.is_empty(), "{} keys are left, as {}", left.len(), left[0]);
            anyhow::Ok(())
        })
        .await;
        self.no_tasks().await;
    }

    async fn no_tasks(&self) {
        wait_until("no task is left", TIMEOUT, async || {
            let tasks = self.mesos.tasks().await?;
            anyhow::ensure!(tasks.is_empty(), "{} are left", tasks.len());
            // Executors outlive their tasks by a second, and the next round is not to pay for that.
            let processes = processes_in(self.mesos.home()).len();
            anyhow::ensure!(processes <= self.at_rest, "{processes} processes, at rest {}", self.at_rest);
            anyhow::Ok(())
        })
        .await;
    }

    // -----------------------------------------------------------------------------------------
    // The floors

    /// The same processes, started one after the other as fast as can be.
    async fn bare_processes(&self, shape: Shape) -> Duration {
        let leased = Ports::lease(99);
        let (found, nodes) = mpsc::unbounded_channel();
        let start = Instant::now();
        let mut processes: Vec<Process> = Vec::new();
        let master = *leased.range().start();
        for (i, port) in leased.range().take(shape.nodes()).enumerate() {
            let argv = argv(port, follows(shape, i, master));
            processes.push(self.home.spawn(&format!("node-{i}"), Command::new(&argv[0]).args(&argv[1..])));
            let _ = found.send(local(port)); // The reader waits for all of them.
        }
        until_up(nodes, shape.nodes(), start).await
    }

    /// The same tasks, by a scheduler that does nothing else. Answers the time from SUBSCRIBE to
    /// ACCEPT, and the one from ACCEPT to the end.
    async fn bare_scheduler(&self, shape: Shape) -> (Duration, Duration) {
        let settings = mesos::Settings {
            masters: redisctl::mesos::Masters::named(vec![self.mesos.master_address()]),
            roles: vec!["bench".to_string()],
            name: "bench".to_string(),
            failover_timeout_s: 0.001, // Its tasks end with it.
            ..mesos::Settings::default()
        };
        let subscribing = Instant::now();
        let (session, mut events) = Session::start(settings, None).expect("the settings are right");
        let (subscription, offers) = first_offers(&session, &mut events).await;
        let (found, nodes) = mpsc::unbounded_channel();
        let start = Instant::now();
        for call in accepts(shape, &offers, &found) {
            session.send(subscription, call).expect("the session runs");
        }
        let acknowledging = tokio::spawn(acknowledge(session, subscription, events));
        let up = until_up(nodes, shape.nodes(), start).await;
        acknowledging.abort();
        self.no_tasks().await;
        (start - subscribing, up)
    }
}

/// Notes when the store shows what, and tells the nodes' addresses; ends when all instances are Ready.
async fn follow(mut watch: Watch, shape: Shape, start: Instant, found: mpsc::UnboundedSender<SocketAddr>) -> Seen {
    let mut seen = Seen::default();
    let (mut nodes, mut ready) = (BTreeMap::new(), BTreeSet::new());
    while let Some(changes) = watch.next().await {
        let at = start.elapsed();
        for change in changes.expect("etcd answers").changes {
            let Change::Put(item) = change else { continue };
            let (kind, name) = item.key.split_once('/').expect("keys have a kind");
            match kind {
                "instances" => seen.declared = at,
                "nodes" => {
                    let record: NodeRecord = serde_json::from_slice(&item.value).expect("a record");
                    if nodes.insert(name.to_string(), record.task == TaskRecord::Running).is_none() {
                        seen.recorded = at;
                        let _ = found.send(local(record.address.port)); // The reader waits for all of them.
                    }
                    if record.task == TaskRecord::Running {
                        seen.running = at;
                    }
                }
                "status" if phase(&item.value) == "Ready" => {
                    ready.insert(name.to_string());
                    seen.ready = at;
                }
                _ => {}
            }
        }
        if ready.len() == shape.names().len() {
            break;
        }
    }
    seen
}

fn phase(status: &[u8]) -> String {
    let status: Value = serde_json::from_slice(status).expect("a status");
    status["phase"].as_str().unwrap_or_default().to_string()
}

async fn first_offers(session: &Session, events: &mut mpsc::Receiver<MesosEvent>) -> (u64, Vec<Offer>) {
    let (mut number, mut offers) = (0, Vec::new());
    while let Some(event) = events.recv().await {
        match event {
            MesosEvent::Subscribed { subscription, .. } => {
                number = subscription;
                session.send(subscription, MesosCall::Revive).expect("the session runs");
            }
            MesosEvent::Offers(new) => offers.extend(new),
            _ => {}
        }
        if offers.len() == AGENTS {
            break;
        }
    }
    (number, offers)
}

/// One ACCEPT for each agent, with its share of the tasks; node 0 is the master.
fn accepts(shape: Shape, offers: &[Offer], found: &mpsc::UnboundedSender<SocketAddr>) -> Vec<MesosCall> {
    let mut launches: Vec<Vec<Launch>> = vec![Vec::new(); offers.len()];
    let ports: Vec<u16> = offers.iter().map(first_port).collect();
    for i in 0..shape.nodes() {
        let agent = i % offers.len();
        let port = ports[agent] + u16::try_from(launches[agent].len()).expect("an agent has 99 ports");
        let piece = |name: &str, amount| Piece { name: name.into(), amount, reservations: Value::Null };
        launches[agent].push(Launch {
            task_id: format!("bench-{i}.{port:x}"),
            name: format!("bench-{i}"),
            agent_id: offers[agent].agent_id.clone(),
            pieces: vec![
                piece("cpus", Amount::Milli(100)),
                piece("mem", Amount::Milli(TASK_MEM_MIB * 1000)),
                piece("ports", Amount::Ranges(vec![(port, port)])),
            ],
            argv: argv(port, follows(shape, i, ports[0])),
            image: None,
            grace_ms: 1000,
            labels: BTreeMap::new(),
        });
        let _ = found.send(local(port)); // The reader waits for all of them.
    }
    let accept = |(offer, launches): (&Offer, Vec<Launch>)| MesosCall::Accept {
        offer_ids: vec![offer.id.clone()],
        launches,
        refuse_s: 3600.0,
    };
    offers.iter().zip(launches).filter(|(_, launches)| !launches.is_empty()).map(accept).collect()
}

fn first_port(offer: &Offer) -> u16 {
    let ranges = offer.pieces.iter().find_map(|piece| match &piece.amount {
        Amount::Ranges(ranges) if piece.name == "ports" => Some(ranges),
        _ => None,
    });
    ranges.expect("agents offer ports")[0].0
}

/// As any scheduler must, or the agents repeat their updates.
async fn acknowledge(session: Session, subscription: u64, mut events: mpsc::Receiver<MesosEvent>) {
    while let Some(event) = events.recv().await {
        let MesosEvent::Update(update) = event else { continue };
        let (Some(agent_id), Some(uuid)) = (update.agent_id, update.uuid) else { continue };
        let call = MesosCall::Acknowledge { task_id: update.task_id, agent_id, uuid };
        session.send(subscription, call).expect("the session runs");
    }
}

// ---------------------------------------------------------------------------------------------
// Nodes

fn follows(shape: Shape, node: usize, master: u16) -> Option<u16> {
    (matches!(shape, Shape::Replicas(_)) && node > 0).then_some(master)
}

/// redis-server as the product starts it.
fn argv(port: u16, follows: Option<u16>) -> Vec<String> {
    let line = format!(
        "redis-server --port {port} --bind 127.0.0.1 --protected-mode no --maxmemory 16777216 --appendonly no \
         --repl-diskless-sync yes --repl-diskless-sync-delay 0 --save"
    );
    let mut argv: Vec<String> = line.split(' ').map(ToString::to_string).collect();
    argv.push(String::new());
    if let Some(master) = follows {
        argv.extend(["--replicaof", "127.0.0.1", &master.to_string()].map(ToString::to_string));
    }
    argv
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The time since `start` at which `count` nodes are up. Asks one node at a time, and the next one
/// when it is up: so asking costs next to nothing, and the last to come is noticed at once.
async fn until_up(mut nodes: mpsc::UnboundedReceiver<SocketAddr>, count: usize, start: Instant) -> Duration {
    let asking = tokio::task::spawn_blocking(move || {
        for _ in 0..count {
            let address = nodes.blocking_recv().expect("there are so many nodes");
            while !is_up(address).unwrap_or(false) {
                assert!(start.elapsed() < TIMEOUT, "{address} does not come up");
                std::thread::sleep(POLL);
            }
        }
        start.elapsed()
    });
    asking.await.expect("no panic")
}

/// Whether a node answers, and, if it is a replica, is in sync.
fn is_up(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"INFO replication\r\nQUIT\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let linked = text.contains("master_link_status:up") && text.contains("master_sync_in_progress:0");
    Ok(text.contains("role:master") || linked)
}
