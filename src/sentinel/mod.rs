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
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::Method;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::{self, Receiver, Sender, error::RecvError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::access::Level;
use crate::api::{ApiState, request_failover};
use crate::board::{Board, BoardChange};
use crate::clock::now;
use commands::{Outcome, Sight};
use connection::Client;
use news::{News, Told};
use wire::Reply;

mod commands;
mod connection;
mod masters;
mod news;
mod view;
mod wire;

pub use view::{parts, run_id};

/// The commands, and in how many words each is asked: of SENTINEL, its subcommands.
pub fn command_names() -> Vec<(String, i64)> {
    let all = commands::COMMANDS.iter().map(|command| (command.name.to_string(), command.arity));
    let of_sentinel = masters::SUBCOMMANDS.iter().map(|command| (format!("sentinel {}", command.name), command.arity));
    all.filter(|(name, _)| name != "sentinel").chain(of_sentinel).collect()
}

/// Connections at once, as Redis' `maxclients`.
const CLIENTS_MAX: usize = 10_000;
/// A subscriber that is so many publications behind is cut off, as Redis does.
const NEWS_MAX: usize = 4096;
/// What is read at once.
const READ_BYTES: usize = 16 << 10;
/// Replies are sent when there are so many bytes of them, though more requests may be waiting.
const REPLIES_BYTES: usize = 64 << 10;
/// For replies that the client does not read.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries to take a connection when the system has no more files.
const BREATH: Duration = Duration::from_millis(100);

/// What a sentinel is made of.
struct Sentinel {
    state: ApiState,
    /// Its run id.
    id: String,
    /// Where it listens.
    address: SocketAddr,
    news: Sender<Arc<News>>,
    clients: AtomicU64,
}

/// Answers clients until told to stop.
pub async fn serve(listener: TcpListener, state: ApiState, id: String, stop: CancellationToken) {
    let Ok(address) = listener.local_addr() else { return };
    let (news, _) = broadcast::channel(NEWS_MAX);
    let publishing = tokio::spawn(publish(Arc::clone(&state.board), news.clone()));
    let _publishing = AbortOnDropHandle::new(publishing);
    let sentinel = Arc::new(Sentinel { state, id, address, news, clients: AtomicU64::new(1) });
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let (sentinel, stop) = (Arc::clone(&sentinel), stop.clone());
        let place = Arc::clone(&places).try_acquire_owned();
        tokio::spawn(async move {
            let talk = async {
                match place {
                    Ok(_place) => talk(&sentinel, stream, peer).await,
                    Err(_) => refuse(stream).await,
                }
            };
            tokio::select! {
                _ = talk => {} // However it ended, the client knows.
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn refuse(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"-ERR max number of clients reached\r\n").await
}

async fn talk(sentinel: &Sentinel, mut stream: TcpStream, peer: SocketAddr) -> std::io::Result<()> {
    let _ = stream.set_nodelay(true); // Replies are small and waited for.
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true); // Subscribers may be silent for days.
    let (reader, writer) = stream.split();
    let id = sentinel.clients.fetch_add(1, Ordering::Relaxed);
    let client = Client::new(id, peer.to_string(), sentinel.state.access.caller(None));
    Conversation { sentinel, from: Some(peer.ip()), client, reader, writer, news: None, replies: Vec::new() }
        .run()
        .await
}

/// One client's connection.
struct Conversation<'a> {
    sentinel: &'a Sentinel,
    from: Option<IpAddr>,
    client: Client,
    reader: ReadHalf<'a>,
    writer: WriteHalf<'a>,
    /// While it is subscribed to anything.
    news: Option<Receiver<Arc<News>>>,
    /// What is to be sent.
    replies: Vec<u8>,
}

impl Conversation<'_> {
    async fn run(mut self) -> std::io::Result<()> {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        loop {
            let told = async {
                match &mut self.news {
                    Some(news) => news.recv().await,
                    None => std::future::pending().await,
                }
            };
            let caller = self.client.caller().cloned();
            let withdrawn = async {
                match &caller {
                    Some(caller) => caller.withdrawn().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased; // Whoever is a stranger now is neither answered nor told anything.
                () = withdrawn => return Ok(()),
                read = self.reader.read_buf(&mut buffer) => {
                    if read? == 0 || !self.answer_all(&mut buffer).await? {
                        return Ok(());
                    }
                }
                news = told => match news {
                    Ok(news) => self.tell(&news),
                    Err(RecvError::Lagged(_) | RecvError::Closed) => return Ok(()),
                }
            }
            self.send().await?;
        }
    }

    /// Answers what has come in whole; whether the connection stays.
    async fn answer_all(&mut self, buffer: &mut BytesMut) -> std::io::Result<bool> {
        loop {
            let request = match wire::take_request(buffer) {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(true),
                Err(error) => {
                    self.reply(&Reply::Error(error.to_string()));
                    self.send().await?;
                    return Ok(false);
                }
            };
            self.pace(&Method::GET).await;
            if !request.is_empty() && !self.answer(&request).await {
                self.send().await?;
                return Ok(false);
            }
            if self.replies.len() >= REPLIES_BYTES {
                self.send().await?;
            }
        }
    }

    /// Waits until its address may ask again. The API answers 429 instead; clients of Sentinels know no such answer.
    async fn pace(&self, method: &Method) {
        while let Some(Err(wait)) = self.from.map(|from| self.sentinel.state.limit.take(from, method)) {
            tokio::time::sleep(wait).await;
        }
    }

    async fn answer(&mut self, request: &wire::Request) -> bool {
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
            port: sentinel.address.port(),
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
                let caller = caller.at(self.from);
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
        if !self.replies.is_empty() {
            tokio::time::timeout(PATIENCE, self.writer.write_all(&self.replies)).await??;
            self.replies.clear();
        }
        Ok(())
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
