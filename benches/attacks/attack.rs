//! The attacks: each goes on until it is dropped, or until it is ended. I/O.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use redisctl::store::{Op, Store, Txn, instance_key};

use crate::common::document;

/// Half-open connections to the API: as many as it once needed to be dead.
const HALF_OPEN: usize = 4194;
/// Connections to Sentinel's port that send byte by byte, ...
const DRIBBLING: usize = 16;
/// ... one in this time each: 780 bytes in a second.
const DRIBBLE_EVERY: Duration = Duration::from_micros(1280);
/// Clients that send documents at once.
const POSTING: usize = 3;
/// Wrong labels of one document.
const LABELS: usize = 4400;
/// Instances of two nodes that are none.
const HOSTILE: usize = 3;
/// Instances of one crowd, their constraints, and the values of each.
const CROWD: usize = 40;
const CONSTRAINTS: usize = 10;
const VALUES: usize = 20;
/// For what an attacker waits at most.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an attack knows of its victim.
#[derive(Clone)]
pub struct Victim {
    pub api: String,
    pub sentinel: String,
    pub store: Store,
    /// Its nodes; its name and document, too.
    pub nodes: Vec<String>,
    pub name: &'static str,
    pub document: String,
}

/// One kind of attack: its row in the table.
pub const ALL: [(&str, &str); 10] = [
    ("1.1", "a setting that Redis refuses, of the same instance"),
    ("1.2", "documents of 4,400 wrong labels, by the API"),
    ("1.3", "such a document in the store"),
    ("1.4", "documents of 60,000 brackets, by the API"),
    ("1.5", "six nodes that send without end"),
    ("1.6", "huge lists byte by byte, at Sentinel's port"),
    ("1.7", "4,194 half-open connections to the API"),
    ("1.8", "a client that calls itself an operator"),
    ("1.9", "CLIENT PAUSE 20000 ALL at replicas"),
    ("1.11", "40 valid documents that change with each request, by the API"),
];

/// An attack that is under way.
#[derive(Default)]
pub struct Attack {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    open: Vec<TcpStream>,
    /// What is to be put into the store when it is over; none: the key is deleted.
    after: Vec<(String, Option<String>)>,
}

impl Attack {
    /// Begins.
    pub async fn begin(number: &str, victim: &Victim) -> Attack {
        let mut attack = Attack::default();
        match number {
            "1.1" => {
                let wrong =
                    victim.document.replace("spec: {", "spec: {redis: {config: {notify-keyspace-events: 'Q!'}}, ");
                put(&victim.store, victim.name, Some(&wrong)).await;
                attack.after.push((victim.name.to_string(), Some(victim.document.clone())));
            }
            "1.2" => attack.post(victim, &labels("evil")),
            "1.3" => {
                put(&victim.store, "evil", Some(&labels("evil"))).await;
                attack.after.push(("evil".to_string(), None));
            }
            "1.4" => attack.post(victim, &vec!["[".repeat(60_000); 16].join("\n---\n")),
            "1.11" => {
                attack.post(victim, &crowd(0));
                attack.post(victim, &crowd(1));
                attack.after.extend((0..CROWD).map(|i| (crowded(i), None)));
            }
            "1.5" => {
                for i in 0..HOSTILE {
                    let name = format!("hostile-{i}");
                    put(&victim.store, &name, Some(&document(&name, 1, 10))).await;
                    attack.after.push((name, None));
                }
            }
            "1.6" => (0..DRIBBLING).for_each(|_| attack.dribble(&victim.sentinel)),
            "1.7" => {
                let half = |stream: &mut TcpStream| stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: ");
                let address = victim.api.trim_start_matches("http://");
                attack.open = (0..HALF_OPEN).filter_map(|_| TcpStream::connect(address).ok()).collect();
                attack.open.retain_mut(|stream| half(stream).is_ok());
            }
            "1.8" => attack.say(victim, "CLIENT KILL USER redisctl\r\nCLIENT SETNAME redisctl:9000000000000000000\r\n"),
            "1.9" => attack.say(victim, "CLIENT PAUSE 20000 ALL\r\n"),
            other => panic!("no attack is called {other}"),
        }
        attack
    }

    /// Ends it.
    pub async fn end(mut self, store: &Store) {
        for (name, document) in std::mem::take(&mut self.after) {
            put(store, &name, document.as_deref()).await;
        }
    }

    fn run(&mut self, mut work: impl FnMut() + Send + 'static) {
        let stop = self.stop.clone();
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                work();
            }
        }));
    }

    /// Posts this again and again, from some clients at once.
    fn post(&mut self, victim: &Victim, body: &str) {
        let address = victim.api.trim_start_matches("http://").to_string();
        let head = format!(
            "POST /v1/instances HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let request = head + body;
        for _ in 0..POSTING {
            let (address, request) = (address.clone(), request.clone());
            self.run(move || {
                if let Ok(mut stream) = TcpStream::connect(&address) {
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    let _ = stream.write_all(request.as_bytes());
                    let _ = std::io::copy(&mut stream, &mut std::io::sink()); // Whatever it answers.
                }
            });
        }
    }

    /// Sends a list of many words, each byte by itself.
    fn dribble(&mut self, sentinel: &str) {
        let (address, mut stream) = (sentinel.to_string(), None);
        let mut bytes = b"*1000\r\n".iter().chain(b"$4\r\nPING\r\n".iter().cycle());
        self.run(move || {
            let byte = bytes.next().expect("it has no end");
            let open: &mut Option<TcpStream> = &mut stream;
            if open.is_none() {
                *open = TcpStream::connect(&address).ok();
            }
            if open.as_mut().is_some_and(|stream| stream.write_all(&[*byte]).is_err()) {
                *open = None;
            }
            std::thread::sleep(DRIBBLE_EVERY);
        });
    }

    /// Says this to each node of the victim, and stays connected.
    fn say(&mut self, victim: &Victim, words: &str) {
        for node in &victim.nodes {
            let mut stream = TcpStream::connect(node).expect("it listens");
            stream.write_all(words.as_bytes()).expect("it reads");
            self.open.push(stream);
        }
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // It ended by a panic: that is reported already.
        }
    }
}

/// Documents of instances that find no place, long ones, which differ by what they are called for.
fn crowd(time: usize) -> String {
    let values: Vec<String> = (0..VALUES).map(|i| format!("v{i}")).collect();
    let constraint = |i| format!("{{attribute: a{i}, operator: in, values: [{}]}}", values.join(", "));
    let constraints: Vec<String> = (0..CONSTRAINTS).map(constraint).collect();
    let document = |i| {
        let name = crowded(i);
        format!(
            "apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata: {{name: {name}, labels: {{time: t{time}}}}}\nspec: \
             {{memory: 900Gi, replicas: 10, placement: {{constraints: [{}]}}}}\n",
            constraints.join(", ")
        )
    };
    (0..CROWD).map(document).collect::<Vec<_>>().join("---\n")
}

fn crowded(i: usize) -> String {
    format!("crowd-{i}")
}

fn labels(name: &str) -> String {
    let labels: Vec<String> = (0..LABELS).map(|i| format!("\"-{i}\": \"!\"")).collect();
    format!(
        "apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata: {{name: {name}, labels: {{{}}}}}\nspec: {{memory: 16Mi}}\n",
        labels.join(", ")
    )
}

/// Writes an instance's document into the store, as its users do; none: deletes it.
pub async fn put(store: &Store, name: &str, document: Option<&str>) {
    let key = instance_key(name);
    let op = match document {
        Some(document) => Op::Put { key, value: document.as_bytes().to_vec() },
        None => Op::Delete { key },
    };
    store.commit(Txn { guards: Vec::new(), ops: vec![op] }).await.expect("etcd takes it");
}
