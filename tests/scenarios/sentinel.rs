//! Scenarios of clients that find their master by Sentinel's protocol. I/O.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::sentinel::{SentinelClient, SentinelServerType};

use crate::client::Client;
use crate::cluster::Kind;
use crate::document::Document;
use crate::failover::{another_master, orders};
use crate::support::{Home, Process, wait_until};
use crate::world::{TIMEOUT, World, kill_node, master};

/// Writes that are more than luck.
const SOME: usize = 50;

/// Clients that others wrote, by how each is started.
const CLIENTS: [(&str, &str, &str); 4] = [
    ("redis-py", "python3", "redis_py.py"),
    ("ioredis", "node", "ioredis.js"),
    ("node-redis", "node", "node_redis.js"),
    ("redis-cli", "bash", "redis_cli.sh"),
];

/// A write that was acknowledged: when, in milliseconds since 1970, and its number.
type Ack = (u64, u64);

/// A client that writes numbers to the master that Sentinel names.
trait Writing {
    fn name(&self) -> &str;
    fn acks(&self) -> Vec<Ack>;
}

/// One that runs in a process of its own.
struct Foreign {
    name: &'static str,
    home: Home,
    _process: Process,
}

impl Foreign {
    fn start((name, program, script): (&'static str, &str, &str), sentinel: &str, instance: &str) -> Foreign {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let fetched = fetched();
        let (host, port) = sentinel.rsplit_once(':').expect("host:port");
        let mut command = Command::new(program);
        command.arg(scripts.join(script)).args([host, port, instance]);
        command.env("NODE_PATH", fetched.join("node_modules")).env("PYTHONPATH", fetched.join("python"));
        let home = Home::new(name);
        let process = home.spawn("client", &mut command);
        Foreign { name, home, _process: process }
    }
}

/// Where `tests/clients/setup` puts what it fetches: beside the tests' programs.
fn fetched() -> PathBuf {
    let program = std::env::current_exe().expect("a test is a program");
    let target = program.ancestors().find(|folder| folder.join("clients/stamp").exists());
    target.expect("tests/clients/setup has run").join("clients")
}

impl Writing for Foreign {
    fn name(&self) -> &str {
        self.name
    }

    fn acks(&self) -> Vec<Ack> {
        let log = self.home.log("client");
        let ack = |line: &str| {
            let (at, number) = line.split_once(' ')?;
            Some((at.parse().ok()?, number.parse().ok()?))
        };
        log.lines().filter_map(ack).collect()
    }
}

/// The redis crate's client.
struct Crate {
    acks: Arc<Mutex<Vec<Ack>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Crate {
    fn start(sentinel: &str, instance: &str) -> Crate {
        let (acks, stop) = (Arc::<Mutex<Vec<Ack>>>::default(), Arc::<AtomicBool>::default());
        let (out, stopping) = (acks.clone(), stop.clone());
        let urls = vec![format!("redis://{sentinel}")];
        let mut client = SentinelClient::build(urls, instance.to_string(), None, SentinelServerType::Master)
            .expect("the URL is right");
        let thread = std::thread::spawn(move || {
            let (mut connection, mut number) = (None, 0);
            while !stopping.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
                let Some(mut open) = connection.take().or_else(|| client.get_connection().ok()) else { continue };
                if redis::cmd("SET").arg("redis-rs").arg(number).query::<()>(&mut open).is_ok() {
                    let at = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis();
                    out.lock().expect("no panic").push((u64::try_from(at).expect("it is before 500,000,000"), number));
                    number += 1;
                    connection = Some(open);
                }
            }
        });
        Crate { acks, stop, thread: Some(thread) }
    }
}

impl Drop for Crate {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // Its panic is the test's already: there are no acks.
        }
    }
}

impl Writing for Crate {
    fn name(&self) -> &'static str {
        "redis-rs"
    }

    fn acks(&self) -> Vec<Ack> {
        self.acks.lock().expect("no panic").clone()
    }
}

async fn writes_on(client: &dyn Writing, more: usize) -> Vec<Ack> {
    let before = client.acks().len();
    wait_until(&format!("{} has {more} further writes acknowledged", client.name()), TIMEOUT, async || {
        let acks = client.acks();
        if acks.len() >= before + more { Ok(acks) } else { Err(format!("{} of them", acks.len() - before)) }
    })
    .await
}

pub async fn clients_of_others_find_the_new_master_by_name_and_write_on(kind: Kind) {
    let (world, before) = orders(kind, Document::new("orders", 2)).await;
    let sentinel = world.operators[0].sentinel();
    let mut clients: Vec<Box<dyn Writing>> = vec![Box::new(Crate::start(sentinel, "orders"))];
    for client in CLIENTS {
        clients.push(Box::new(Foreign::start(client, sentinel, "orders")));
    }
    for client in &clients {
        writes_on(client.as_ref(), SOME).await;
    }
    kill_node(master(&before)).await;
    another_master(&world, "orders", &before).await;
    for client in &clients {
        let acks = writes_on(client.as_ref(), SOME).await;
        let gap = acks.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0)).max();
        println!("{}: no write for {} ms", client.name(), gap.expect("there are many"));
    }
    drop(clients);
    world.finish().await;
}

/// A connection that has subscribed, and reads what is published.
struct Subscriber(Client);

impl Subscriber {
    async fn start(world: &World) -> Subscriber {
        let mut client = Client::connect(world.operators[0].sentinel()).await.expect("the sentinel listens");
        client.send(&["PSUBSCRIBE", "*"]).await.expect("it reads");
        while client.line().await.expect("the sentinel stays") != ":1" {} // It has subscribed.
        Subscriber(client)
    }

    /// Reads until this is published on that channel.
    async fn hears(&mut self, channel: &str, message: &str) {
        let lines = async {
            loop {
                if self.0.line().await.expect("the sentinel stays") == channel {
                    let _length = self.0.line().await.expect("the sentinel stays");
                    let heard = self.0.line().await.expect("the sentinel stays");
                    if heard == message {
                        return;
                    }
                }
            }
        };
        tokio::time::timeout(TIMEOUT, lines).await.unwrap_or_else(|_| panic!("{channel} {message} is not published"));
    }
}

fn spaced(address: &str) -> String {
    address.replacen(':', " ", 1)
}

pub async fn a_new_master_is_published_when_it_takes_writes(kind: Kind) {
    let (world, before) = orders(kind, Document::new("orders", 2)).await;
    let mut subscriber = Subscriber::start(&world).await;
    kill_node(master(&before)).await;
    let old = spaced(&master(&before).address);
    subscriber.hears("+odown", &format!("master orders {old} #quorum 1/1")).await;
    let after = another_master(&world, "orders", &before).await;
    let new = &master(&after).address;
    subscriber.hears("+switch-master", &format!("orders {old} {}", spaced(new))).await;
    world.finish().await;
}

pub async fn the_other_operators_are_the_other_sentinels_and_answer_the_same(kind: Kind) {
    let (mut world, before) = orders(kind, Document::new("orders", 2)).await;
    world.spawn_operator();
    let sentinels: Vec<String> = world.operators.iter().map(|operator| operator.sentinel().to_string()).collect();
    let ask = async |i: usize, command: &[&str]| {
        let (host, port) = sentinels[i].rsplit_once(':').expect("host:port");
        let args = [&["-h", host, "-p", port], command].concat();
        crate::support::process::run("redis-cli", &args, b"", TIMEOUT).await
    };
    let (host, port) = master(&before).address.rsplit_once(':').expect("host:port");
    for (i, other) in [(0, 1), (1, 0)] {
        wait_until("a sentinel knows the other", TIMEOUT, async || {
            let told = ask(i, &["SENTINEL", "sentinels", "orders"]).await?;
            let (_, port) = sentinels[other].rsplit_once(':').expect("host:port");
            if told.lines().any(|line| line == port) { Ok(()) } else { Err(told) }
        })
        .await;
        wait_until("a sentinel names the master", TIMEOUT, async || {
            let told = ask(i, &["SENTINEL", "get-master-addr-by-name", "orders"]).await?;
            if told.trim() == format!("{host}\n{port}") { Ok(()) } else { Err(told) }
        })
        .await;
    }
    world.operators[1].kill();
    wait_until("a dead operator is no sentinel any more", TIMEOUT, async || {
        let quorum = ask(0, &["SENTINEL", "ckquorum", "orders"]).await?;
        if quorum.starts_with("OK 1 usable Sentinels") { Ok(()) } else { Err(quorum) }
    })
    .await;
    world.finish().await;
}
