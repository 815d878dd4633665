//! Sentinel's protocol: clients that know Redis Sentinel find the masters here. I/O.
//!
//! ```text
//! board ─→ news (what changed) ─→ +switch-master ... ─→ subscribers
//! client ─→ wire (a request) ─→ commands (an answer from the board) ─→ wire (a reply)
//! ```
//!
//! Any operator answers, leader or not. A master's name is the instance's. Nothing is voted on and nothing
//! can be configured here: the operator decides, and what Sentinel knows beyond that is answered as what it
//! does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::Method;
use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::broadcast::{self, Receiver, Sender, error::RecvError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::access::Level;
use crate::api::{ApiState, request_failover};
use crate::board::{Board, BoardChange};
use crate::clock::now;
use crate::door::{Door, Patient, Place};
use commands::{Outcome, Sight};
use connection::Client;
use news::{News, Told};
use read::{REQUEST_BYTES_MAX, Reader, Request, Wrong};
use wire::Reply;

mod commands;
mod connection;
mod masters;
mod news;
mod read;
mod view;
mod wire;

pub use view::{parts, run_id};

/// The commands, and in how many words each is asked: of SENTINEL, its subcommands.
pub fn command_names() -> Vec<(String, i64)> {
    let all = commands::COMMANDS.iter().map(|command| (command.name.to_string(), command.arity));
    let of_sentinel = masters::SUBCOMMANDS.iter().map(|command| (format!("sentinel {}", command.name), command.arity));
    all.filter(|(name, _)| name != "sentinel").chain(of_sentinel).collect()
}

/// A subscriber that is so many publications behind is cut off, as Redis does.
const NEWS_MAX: usize = 4096;
/// What is read at once. Nothing is kept for a client that says nothing.
const READ_BYTES: usize = 4 << 10;
/// Replies are sent when there are so many bytes of them, though more requests may be waiting.
const REPLIES_BYTES: usize = 64 << 10;
/// For replies that the client does not read.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a client to say who it is.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// What it may send for that: ten times the longest request.
const LOGIN_BYTES_MAX: usize = 10 * REQUEST_BYTES_MAX;
/// For a request that has begun.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// What a client is told for which there is no room.
const FULL: &[u8] = b"-ERR max number of clients reached\r\n";

/// What a sentinel is made of.
struct Sentinel {
    state: ApiState,
    /// Its run id.
    id: String,
    door: Arc<Door>,
    news: Sender<Arc<News>>,
    clients: AtomicU64,
}

/// Answers clients until told to stop.
pub async fn serve(door: Door, state: ApiState, id: String, stop: CancellationToken) -> anyhow::Result<()> {
    let (news, _) = broadcast::channel(NEWS_MAX);
    let publishing = tokio::spawn(publish(Arc::clone(&state.board), news.clone()));
    let _publishing = AbortOnDropHandle::new(publishing);
    let door = Arc::new(door);
    let sentinel = Arc::new(Sentinel { state, id, door: door.clone(), news, clients: AtomicU64::new(1) });
    let stopping = stop.clone();
    let serve = |stream, peer, place| {
        let (sentinel, stop) = (Arc::clone(&sentinel), stopping.clone());
        async move {
            tokio::select! {
                _ = talk(&sentinel, stream, peer, place) => {} // However it ended, the client knows.
                () = stop.cancelled() => {}
            }
        }
    };
    door.open(stop, Duration::ZERO, FULL, serve).await
}

async fn talk(sentinel: &Sentinel, mut stream: TcpStream, peer: SocketAddr, place: Arc<Place>) -> std::io::Result<()> {
    let (reader, writer) = stream.split();
    let id = sentinel.clients.fetch_add(1, Ordering::Relaxed);
    let client = Client::new(id, peer.to_string(), sentinel.state.access.caller(None));
    let conversation = Conversation {
        sentinel,
        peer,
        place,
        client,
        reader,
        writer: Patient::new(writer, PATIENCE),
        requests: Reader::default(),
        buffer: BytesMut::new(),
        news: None,
        replies: Vec::new(),
        answered: false,
    };
    conversation.run().await
}

/// One client's connection.
struct Conversation<'a> {
    sentinel: &'a Sentinel,
    peer: SocketAddr,
    place: Arc<Place>,
    client: Client,
    reader: ReadHalf<'a>,
    writer: Patient<WriteHalf<'a>>,
    requests: Reader,
    /// What has come and is not read yet: part of a request at most.
    buffer: BytesMut,
    /// While it is subscribed to anything.
    news: Option<Receiver<Arc<News>>>,
    /// What is to be sent.
    replies: Vec<u8>,
    /// Whether a request was whole since the last look.
    answered: bool,
}

impl Conversation<'_> {
    async fn run(mut self) -> std::io::Result<()> {
        let login_by = Instant::now() + LOGIN_TIMEOUT;
        let (mut came, mut request_by) = (0, None);
        loop {
            let told = async {
                match &mut self.news {
                    Some(news) => news.recv().await,
                    None => pending().await,
                }
            };
            let caller = self.client.caller().cloned();
            let withdrawn = async {
                match &caller {
                    Some(caller) => caller.withdrawn().await,
                    None => pending().await,
                }
            };
            let deadline = if self.client.is_stranger() { Some(login_by) } else { request_by };
            tokio::select! {
                biased; // Whoever is a stranger now is neither answered nor told anything.
                () = withdrawn => return Ok(()),
                ready = self.reader.readable() => {
                    ready?;
                    match self.read() {
                        Ok(0) => return Ok(()),
                        Ok(count) => came += count,
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                        Err(error) => return Err(error),
                    }
                    if !self.answer_all().await? {
                        return Ok(());
                    }
                    if self.client.is_stranger() && came > LOGIN_BYTES_MAX {
                        self.let_go("bytes", "it sent much, and did not say who it is");
                        return Ok(());
                    }
                }
                news = told => match news {
                    Ok(news) => self.tell(&news),
                    Err(RecvError::Lagged(_) | RecvError::Closed) => return Ok(()),
                },
                () = at(deadline) => {
                    let stranger = self.client.is_stranger();
                    self.let_go("time", if stranger { "it did not say in time who it is" } else { "a request was not whole in time" });
                    return Ok(());
                }
            }
            self.send().await?;
            let within = self.requests.is_within(&self.buffer);
            let begun = request_by.filter(|_| !std::mem::take(&mut self.answered));
            request_by = within.then(|| begun.unwrap_or_else(|| Instant::now() + REQUEST_TIMEOUT));
            self.rest(within);
        }
    }

    fn read(&mut self) -> std::io::Result<usize> {
        self.buffer.reserve(READ_BYTES);
        self.reader.try_read_buf(&mut self.buffer)
    }

    /// What is not needed until the client asks again.
    fn rest(&mut self, within: bool) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        self.replies = Vec::new();
        if !within && !self.client.is_stranger() && !self.client.is_subscribed() {
            self.place.waits_again();
        }
    }

    fn let_go(&self, reason: &'static str, why: &str) {
        self.sentinel.door.let_go(reason, self.peer, why);
    }

    /// Answers what has come in whole; whether the connection stays.
    async fn answer_all(&mut self) -> std::io::Result<bool> {
        loop {
            let stranger = self.client.is_stranger();
            let request = match self.requests.take(&mut self.buffer, stranger) {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(true),
                Err(wrong) => {
                    if wrong == Wrong::Http {
                        self.let_go("http", &wrong.to_string());
                    } else {
                        self.reply(&Reply::Error(wrong.to_string()));
                    }
                    self.send().await?;
                    return Ok(false);
                }
            };
            self.answered = true;
            self.pace(&Method::GET).await;
            if !request.is_empty() && !self.answer(&request).await {
                self.send().await?;
                return Ok(false);
            }
            if !self.client.is_stranger() {
                self.place.works();
            }
            if self.replies.len() >= REPLIES_BYTES {
                self.send().await?;
            }
        }
    }

    /// Waits until its address may ask again. The API answers 429 instead; clients of Sentinels know no such answer.
    async fn pace(&self, method: &Method) {
        while let Err(wait) = self.sentinel.state.limit.take(self.peer.ip(), method) {
            tokio::time::sleep(wait).await;
        }
    }

    async fn answer(&mut self, request: &Request) -> bool {
        if self.client.is_withdrawn() {
            return false;
        }
        let sentinel = self.sentinel;
        let operator = sentinel.state.board.operator();
        let sight = Sight {
            board: &sentinel.state.board,
            access: &sentinel.state.access,
            operator: &operator,
            id: &sentinel.id,
            port: sentinel.door.address().port(),
            now: now(),
        };
        match commands::answer(&sight, &mut self.client, request) {
            Outcome::Replies(replies) => replies.iter().for_each(|reply| self.reply(reply)),
            Outcome::Close(reply) => {
                self.reply(&reply);
                return false;
            }
            Outcome::Failover(name, caller) => {
                self.pace(&Method::POST).await;
                if !caller.may(Level::Write, &name) {
                    return false; // Withdrawn meanwhile.
                }
                let caller = caller.at(Some(self.peer.ip()));
                let asked = request_failover(&sentinel.state, &caller, &name, None, false).await;
                self.reply(
                    &asked.map_or_else(|problem| Reply::Error(format!("ERR {}", problem.detail)), |_| Reply::ok()),
                );
            }
        }
        match (self.client.is_subscribed(), &self.news) {
            (true, None) => self.news = Some(sentinel.news.subscribe()),
            (false, Some(_)) => self.news = None,
            _ => {}
        }
        true
    }

    fn tell(&mut self, news: &News) {
        for reply in self.client.told(news) {
            self.reply(&reply);
        }
    }

    fn reply(&mut self, reply: &Reply) {
        reply.write(self.client.version, &mut self.replies);
    }

    async fn send(&mut self) -> std::io::Result<()> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let Some(_held) = self.place.reply(self.replies.len()) else {
            return Err(std::io::Error::other("its address has too many replies to read already"));
        };
        self.writer.write_all(&self.replies).await?;
        self.replies.clear();
        Ok(())
    }
}

/// Waits for a moment, if there is one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => pending().await,
    }
}

/// Publishes what changes on the board, for ever.
async fn publish(board: Arc<Board>, out: Sender<Arc<News>>) {
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    loop {
        // First the subscription, then the list: nothing is lost between them.
        let mut changes = board.subscribe();
        let mut names: BTreeSet<String> = told.keys().cloned().collect();
        names.extend(board.list().iter().map(|view| view.name.clone()));
        for name in &names {
            look(&board, &mut told, name, &out);
        }
        loop {
            match changes.recv().await {
                Ok(BoardChange::Set(view)) => look(&board, &mut told, &view.name, &out),
                Ok(BoardChange::Removed(name)) => look(&board, &mut told, &name, &out),
                Err(RecvError::Closed) => return,
                Err(RecvError::Lagged(missed)) => {
                    warn!("{missed} changes were not seen in time: what is published skips states between");
                    break;
                }
            }
        }
    }
}

fn look(board: &Board, told: &mut BTreeMap<String, Told>, name: &str, out: &Sender<Arc<News>>) {
    let view = board.get(name);
    for news in told.entry(name.to_string()).or_default().news(name, view.as_deref()) {
        let _ = out.send(Arc::new(news)); // Nobody has subscribed: fine.
    }
    if view.is_none() {
        told.remove(name);
    }
}
