//! Clients of an instance: one that asks, and one that writes without end and knows what became of it. I/O.

use std::collections::BTreeSet;
use std::io::{Error, Result};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redisctl::status::InstanceStatus;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::support::{redis, wait_until};
use crate::world::{TIMEOUT, World};

/// How long a writer waits for a reply before it looks for the master elsewhere.
const PATIENCE: Duration = Duration::from_millis(500);
/// A writer that found no master looks again after this time.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Between two writes of a writer: the machine has other things to do.
const PAUSE: Duration = Duration::from_millis(1);
/// Writes that are more than luck.
const SOME: usize = 10;

/// One connection. What Redis refuses is an answer; an error is the end of the connection.
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects to `host:port`.
    pub async fn connect(address: &str) -> Result<Client> {
        let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Client(BufReader::new(stream)))
    }

    /// Sends a command.
    pub async fn send(&mut self, command: &[&str]) -> Result<()> {
        let words: Vec<String> = command.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        self.0.write_all(format!("*{}\r\n{}", words.len(), words.concat()).as_bytes()).await
    }

    /// Reads a line.
    pub async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line).await? {
            0 => Err(Error::other("the end")),
            _ => Ok(line.trim_end().to_string()),
        }
    }

    /// Reads a reply of one line: what it says, or why Redis refuses.
    pub async fn reply(&mut self) -> Result<std::result::Result<String, String>> {
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        match (line.get(..1), line.trim_end().get(1..)) {
            (Some("-"), Some(why)) => Ok(Err(why.to_string())),
            (Some("+" | ":"), Some(text)) => Ok(Ok(text.to_string())),
            _ => Err(Error::other(format!("no reply: {line:?}"))),
        }
    }

    /// Sends a command and reads its reply, with a writer's patience.
    pub async fn ask(&mut self, command: &[&str]) -> Result<std::result::Result<String, String>> {
        let both = async {
            self.send(command).await?;
            self.reply().await
        };
        tokio::time::timeout(PATIENCE, both).await?
    }
}

/// Writes numbered keys to whoever is the master, one after the other, until it is ended.
pub struct Writer {
    written: Arc<Mutex<Written>>,
    _task: AbortOnDropHandle<()>,
}

/// What became of a writer's writes.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Redis said OK.
    pub acknowledged: BTreeSet<u64>,
    /// And WAIT said that one replica has it.
    pub confirmed: BTreeSet<u64>,
    /// The longest time from one acknowledged write to the next, and when the last one was.
    gap: Duration,
    last: Option<Instant>,
}

impl Writer {
    /// Begins. The writer learns of the master from whichever operator answers.
    pub fn start(world: &World, instance: &str) -> Writer {
        let urls = world.operators.iter().map(|operator| format!("{}/v1/instances/{instance}", operator.url()));
        let (urls, written) = (urls.collect(), Arc::new(Mutex::new(Written::default())));
        let task = tokio::spawn(write_on(urls, written.clone()));
        Writer { written, _task: AbortOnDropHandle::new(task) }
    }

    /// Waits until some more writes are confirmed: there is a master, and it has replicas.
    pub async fn goes_on(&self) {
        let confirmed = || self.written.lock().expect("nobody panics with it").confirmed.len();
        let before = confirmed();
        wait_until("writes go on", TIMEOUT, async || confirmed() >= before + SOME).await;
    }

    /// Ends it.
    pub fn end(self) -> Written {
        let written = self.written.lock().expect("nobody panics with it").clone();
        let (acknowledged, confirmed) = (written.acknowledged.len(), written.confirmed.len());
        println!("{acknowledged} writes acknowledged, {confirmed} confirmed, longest gap {:?}", written.gap);
        written
    }
}

impl Written {
    /// From one acknowledged write to the next.
    pub fn longest_gap(&self) -> Duration {
        self.gap
    }

    fn acknowledged(&mut self, number: u64) {
        self.acknowledged.insert(number);
        let now = Instant::now();
        self.gap = self.last.map_or(self.gap, |last| self.gap.max(now - last));
        self.last = Some(now);
    }
}

async fn write_on(urls: Vec<String>, written: Arc<Mutex<Written>>) {
    let operators = redisctl::tls::http().timeout(PATIENCE).build().expect("a client");
    let mut number = 0;
    loop {
        // Whatever ends a connection: it is looked for the master again.
        for address in masters(&operators, &urls).await {
            if let Ok(client) = Client::connect(&address).await {
                let _ = write_to(client, &mut number, &written).await;
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The addresses of the master as the operators say, who need not agree.
async fn masters(operators: &reqwest::Client, urls: &[String]) -> BTreeSet<String> {
    let mut masters = BTreeSet::new();
    for url in urls {
        let Ok(answer) = operators.get(url).send().await else { continue };
        let Ok(instance) = answer.json::<Value>().await else { continue };
        masters.extend(instance["status"]["master"].as_str().map(ToString::to_string));
    }
    masters
}

/// Writes until the first error.
async fn write_to(mut client: Client, number: &mut u64, written: &Mutex<Written>) -> Result<()> {
    loop {
        *number += 1;
        client.ask(&["SET", &key(*number), "written"]).await?.map_err(Error::other)?;
        written.lock().expect("nobody panics with it").acknowledged(*number);
        let replicas = client.ask(&["WAIT", "1", "200"]).await?.map_err(Error::other)?;
        if replicas != "0" {
            written.lock().expect("nobody panics with it").confirmed.insert(*number);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn key(number: u64) -> String {
    format!("w:{number}")
}

/// Waits until every node has these writes.
pub async fn all_have_written(status: &InstanceStatus, numbers: &BTreeSet<u64>) {
    for node in &status.nodes {
        wait_until(&format!("{} has all {} writes", node.name, numbers.len()), TIMEOUT, async || {
            let keys = redis::cli(&node.address, &["KEYS", "w:*"]).await?;
            let keys: BTreeSet<&str> = keys.lines().collect();
            let missing: Vec<String> = numbers.iter().map(|n| key(*n)).filter(|key| !keys.contains(&**key)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{} are missing: {missing:?}", missing.len())) }
        })
        .await;
    }
}
