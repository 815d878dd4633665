//! Clients: they write numbered values to the master that the API names, and read them again. I/O.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::seq::IndexedRandom as _;
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::world::PASSWORD;

/// The instances that are written to, one client each.
const WRITERS: [&str; 3] = ["orders", "orders", "carts"];
/// Between two writes or reads of one client; a run of hours still fits into the instances' memory.
const WRITE_EVERY: Duration = Duration::from_millis(5);
/// How long a node or an operator may take to answer before another is asked.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long a writer may take to find a master that is well.
const WRITE_AGAIN: Duration = Duration::from_secs(10);
/// How long `WAIT 1` waits.
const WAIT_MS: u64 = 50;

/// The operators' API.
#[derive(Clone)]
pub struct Api {
    urls: Vec<String>,
    client: reqwest::Client,
}

impl Api {
    /// Of these operators.
    pub fn new(urls: Vec<String>) -> Api {
        Api { urls, client: redisctl::tls::http().timeout(PATIENCE).build().expect("a client") }
    }

    /// A connection to the master that the operator whose turn it is names.
    pub async fn connect(&self, instance: &str, turn: usize) -> Option<MultiplexedConnection> {
        let url = format!("{}/v1/instances/{instance}", self.urls[turn % self.urls.len()]);
        let answer: Value = self.client.get(url).send().await.ok()?.json().await.ok()?;
        dial(answer["status"]["master"].as_str()?).await
    }
}

/// A connection to a node.
pub async fn dial(node: &str) -> Option<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://:{PASSWORD}@{node}/")).ok()?;
    tokio::time::timeout(PATIENCE, client.get_multiplexed_async_connection()).await.ok()?.ok()
}

/// A write that the master acknowledged.
#[derive(Clone, Copy)]
pub struct Write {
    pub number: u64,
    pub at: Instant,
    /// By WAIT 1.
    pub confirmed: bool,
}

/// What one client has written.
pub struct Journal {
    pub instance: &'static str,
    client: usize,
    pub writes: Mutex<Vec<Write>>,
    /// Confirmed values that were read, ...
    pub reads: AtomicUsize,
    /// ... and those that were not there.
    pub misses: AtomicUsize,
}

impl Journal {
    /// The key of a value.
    pub fn key(&self, number: u64) -> String {
        format!("client-{}:{number}", self.client)
    }
}

/// The clients, at work.
pub struct Clients {
    journals: Vec<Arc<Journal>>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Writers, and a reader of what they write.
    pub fn start(api: &Api) -> Clients {
        let journal = |(client, instance): (usize, &&'static str)| Journal {
            instance,
            client,
            writes: Mutex::default(),
            reads: AtomicUsize::default(),
            misses: AtomicUsize::default(),
        };
        let journals: Vec<Arc<Journal>> = WRITERS.iter().enumerate().map(journal).map(Arc::new).collect();
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        for journal in &journals {
            tasks.push(tokio::spawn(write(api.clone(), journal.clone(), stop.clone())));
            tasks.push(tokio::spawn(read(api.clone(), journal.clone(), stop.clone())));
        }
        Clients { journals, stop, tasks }
    }

    /// Waits until every writer has written once more; otherwise which ones do not.
    pub async fn write_again(&self) -> Result<(), String> {
        let counts = || self.journals.iter().map(|journal| journal.writes.lock().expect("no panic").len());
        let before: Vec<usize> = counts().collect();
        let end = Instant::now() + WRITE_AGAIN;
        while counts().zip(&before).any(|(now, before)| now == *before) {
            if Instant::now() >= end {
                return Err(format!(
                    "not all clients write again: {before:?} writes {WRITE_AGAIN:?} ago, {:?} now",
                    counts().collect::<Vec<_>>()
                ));
            }
            tokio::time::sleep(WRITE_EVERY).await;
        }
        Ok(())
    }

    /// Ends their work.
    pub async fn stop(self) -> Vec<Arc<Journal>> {
        self.stop.cancel();
        for task in self.tasks {
            task.await.expect("clients do not panic");
        }
        self.journals
    }
}

async fn write(api: Api, journal: Arc<Journal>, stop: CancellationToken) {
    let (mut connection, mut turn) = (None, 0);
    for number in 1.. {
        if stop.is_cancelled() {
            return;
        }
        tokio::time::sleep(WRITE_EVERY).await;
        if connection.is_none() {
            connection = api.connect(journal.instance, turn).await;
            turn += 1;
        }
        let Some(mut open) = connection.take() else { continue };
        let set = redis::cmd("SET").arg(journal.key(number)).arg(number).to_owned();
        if ask::<()>(&mut open, &set).await.is_none() {
            continue; // Not by this one any more: the next is asked for.
        }
        let at = Instant::now();
        let copies = ask::<u64>(&mut open, redis::cmd("WAIT").arg(1).arg(WAIT_MS)).await;
        let confirmed = copies.is_some_and(|copies| copies >= 1);
        journal.writes.lock().expect("no panic").push(Write { number, at, confirmed });
        connection = copies.map(|_| open);
    }
}

async fn read(api: Api, journal: Arc<Journal>, stop: CancellationToken) {
    let (mut connection, mut turn) = (None, 0);
    while !stop.is_cancelled() {
        tokio::time::sleep(WRITE_EVERY).await;
        if connection.is_none() {
            connection = api.connect(journal.instance, turn).await;
            turn += 1;
        }
        let drawn = journal.writes.lock().expect("no panic").choose(&mut rand::rng()).copied();
        let (Some(mut open), Some(write)) = (connection.take(), drawn.filter(|write| write.confirmed)) else {
            continue;
        };
        let Some(found) = ask::<Option<u64>>(&mut open, redis::cmd("GET").arg(journal.key(write.number))).await else {
            continue;
        };
        let count = if found == Some(write.number) { &journal.reads } else { &journal.misses };
        count.fetch_add(1, Ordering::Relaxed);
        // A master that was replaced may be what was read: the one of now is asked for.
        connection = Some(open).filter(|_| found.is_some());
    }
}

async fn ask<T: redis::FromRedisValue>(connection: &mut MultiplexedConnection, what: &redis::Cmd) -> Option<T> {
    tokio::time::timeout(PATIENCE, what.query_async(connection)).await.ok()?.ok()
}
