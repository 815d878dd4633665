//! Clients: they write in a tight loop to every node, and learn the master's address as users do. I/O.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Connection, RedisError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Between two writes to one node.
const WRITE_EVERY: Duration = Duration::from_micros(500);
/// Between two questions to one sentinel.
const ASK_EVERY: Duration = Duration::from_millis(1);
/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_millis(20);
/// Writers use so many keys each.
const KEYS: u64 = 1000;

/// When which node was heard of, or took a write.
pub type Sighting = (Instant, String);

/// What clients find out; they stop when it is dropped.
pub struct Finder {
    found: UnboundedReceiver<Sighting>,
    clients: Clients,
}

/// The clients' end of it.
struct Clients {
    out: UnboundedSender<Sighting>,
    stop: Arc<AtomicBool>,
    streams: Vec<TcpStream>,
}

impl Finder {
    fn new() -> Finder {
        let (out, found) = unbounded_channel();
        Finder { found, clients: Clients { out, stop: Arc::default(), streams: Vec::new() } }
    }

    /// Writes numbered values to all nodes; finds those that take one, apart from `old`.
    pub fn of_writes(nodes: &[String], old: &str) -> Finder {
        let finder = Finder::new();
        for node in nodes {
            let (node, stop) = (node.clone(), finder.clients.stop.clone());
            let out = (node != old).then(|| finder.clients.out.clone());
            // Not joined: a connection to a stopped node may take its time to end.
            thread::spawn(move || write(&node, &stop, out.as_ref()));
        }
        finder
    }

    /// Listens for `+switch-master` at these sentinels, or operators, which speak like them; finds the new
    /// addresses, apart from `old`.
    pub fn of_switches(sentinels: &[String], old: &str) -> Finder {
        let mut finder = Finder::new();
        for sentinel in sentinels {
            let mut stream = TcpStream::connect(sentinel).expect("it listens");
            stream.set_nodelay(true).expect("a TCP socket");
            stream.write_all(b"SUBSCRIBE +switch-master\r\n").expect("it reads");
            finder.clients.streams.push(stream.try_clone().expect("a socket can be duplicated"));
            let (out, old) = (finder.clients.out.clone(), old.to_string());
            thread::spawn(move || follow(stream, &old, &out));
        }
        finder
    }

    /// The same, and asks these sentinels in turns.
    #[must_use]
    pub fn and_of_questions(self, sentinels: &[String], old: &str) -> Finder {
        for sentinel in sentinels {
            let (sentinel, old) = (sentinel.clone(), old.to_string());
            let (out, stop) = (self.clients.out.clone(), self.clients.stop.clone());
            thread::spawn(move || ask(&sentinel, &old, &stop, &out));
        }
        self
    }

    /// The next one, if there is one in time.
    pub async fn next(&mut self, within: Duration) -> Option<Sighting> {
        tokio::time::timeout(within, self.found.recv()).await.ok().flatten()
    }

    /// When this node was found first, if in time.
    pub async fn find(&mut self, node: &str, within: Duration) -> Option<Instant> {
        let end = Instant::now() + within;
        while let Some((at, found)) = self.next(end.saturating_duration_since(Instant::now())).await {
            if found == node {
                return Some(at);
            }
        }
        None
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for stream in &self.streams {
            let _ = stream.shutdown(Shutdown::Both); // The server may have closed it.
        }
    }
}

/// A connection, with this patience for everything.
pub fn dial(node: &str, patience: Duration) -> Result<Connection, RedisError> {
    let connection = redis::Client::open(format!("redis://{node}/"))?.get_connection_with_timeout(patience)?;
    connection.set_read_timeout(Some(patience))?;
    connection.set_write_timeout(Some(patience))?;
    Ok(connection)
}

/// Whether the server said no: otherwise the connection is of no use any more.
pub fn is_refusal(error: &RedisError) -> bool {
    error.code().is_some()
}

fn write(node: &str, stop: &AtomicBool, out: Option<&UnboundedSender<Sighting>>) {
    let (mut connection, mut number, mut out) = (None, 0_u64, out);
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("bench:{node}:{}", number % KEYS);
        let set = |c: &mut Connection| redis::cmd("SET").arg(&key).arg(number).query::<()>(c);
        let taken = on(&mut connection, node, set).is_some(); // Not by a replica, nor by the dead.
        if let Some(out) = out.take_if(|_| taken) {
            let _ = out.send((Instant::now(), node.to_string())); // Nobody may want to know any more.
        }
        thread::sleep(WRITE_EVERY);
    }
}

/// Does it on the connection, which is made if need be and dropped when it fails.
fn on<T>(
    connection: &mut Option<Connection>,
    node: &str,
    what: impl FnOnce(&mut Connection) -> Result<T, RedisError>,
) -> Option<T> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => dial(node, PATIENCE).ok()?,
    };
    match what(&mut open) {
        Ok(value) => {
            *connection = Some(open);
            Some(value)
        }
        Err(error) => {
            *connection = Some(open).filter(|_| is_refusal(&error));
            None
        }
    }
}

fn follow(stream: TcpStream, old: &str, out: &UnboundedSender<Sighting>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|size| size > 0) {
        let at = Instant::now();
        if let Some(address) = switched_to(line.trim_end()).filter(|address| address != old) {
            let _ = out.send((at, address)); // Nobody may want to know any more.
        }
        line.clear();
    }
}

/// `NAME OLD-IP OLD-PORT NEW-IP NEW-PORT`.
fn switched_to(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    (words.len() == 5).then(|| format!("{}:{}", words[3], words[4]))
}

fn ask(sentinel: &str, old: &str, stop: &AtomicBool, out: &UnboundedSender<Sighting>) {
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let question = |c: &mut Connection| {
            redis::cmd("SENTINEL").arg("get-master-addr-by-name").arg("bench").query::<(String, u16)>(c)
        };
        if let Some((ip, port)) = on(&mut connection, sentinel, question) {
            let (at, address) = (Instant::now(), format!("{ip}:{port}"));
            if address != old {
                let _ = out.send((at, address)); // Nobody may want to know any more.
                return;
            }
        }
        thread::sleep(ASK_EVERY);
    }
}
