//! Fake Redis servers behind tasks: sockets, connections, life and death. I/O.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use anyhow::{Context, Result};
use bytes::BytesMut;
use rustix::process::{Resource, Signal, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::agent::Process;
use super::fake_redis::{Fake, Registry, take_command};
use super::process::Exit;
use super::state::{Shared, TaskKey};

/// What a connection reads at a time, at first.
const READ_BYTES: usize = 512;
/// SIGKILL's number.
const SIGKILL: i32 = 9;

/// What a server keeps of one connection.
#[derive(Default)]
pub(super) struct Talk {
    pub resp3: bool,
    /// Commands since MULTI.
    pub queued: Option<Vec<Vec<String>>>,
}

/// All fake servers of a cluster, on a runtime of their own.
pub(super) struct FakeNodes {
    runtime: Option<Runtime>,
    fakes: Arc<Mutex<Fakes>>,
}

#[derive(Default)]
struct Fakes {
    registry: Registry,
    stops: std::collections::BTreeMap<SocketAddr, oneshot::Sender<Exit>>,
}

impl Fakes {
    fn listens(&mut self, address: SocketAddr, fake: Fake, stop: oneshot::Sender<Exit>) {
        self.registry.insert(address, fake);
        self.stops.insert(address, stop);
    }
}

impl FakeNodes {
    pub fn start() -> Result<FakeNodes> {
        // A server is a listening socket and a few connections, all of them in this process.
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).context("raise the number of open files")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("local-fakes")
            .enable_all()
            .build()
            .context("make the runtime of the fake servers")?;
        Ok(FakeNodes { runtime: Some(runtime), fakes: Arc::default() })
    }

    /// Starts a fake server for a task; what becomes of it is told to `shared`.
    pub fn launch(&self, ip: &str, argv: &[String], shared: Weak<Shared>, agent: usize, key: TaskKey, run: u64) {
        let fake = Fake::new(argv);
        let address = ip.parse::<IpAddr>().ok().zip(fake.port()).map(|(ip, port)| SocketAddr::new(ip, port));
        let fakes = self.fakes.clone();
        let Some(runtime) = &self.runtime else { return };
        runtime.spawn(async move {
            let started = match address {
                Some(address) => TcpListener::bind(address).await.map_err(|e| format!("listen on {address}: {e}")),
                None => Err("the command names no --port".to_string()),
            };
            let Some(shared) = shared.upgrade() else { return };
            match (started, address) {
                (Ok(listener), Some(address)) => {
                    let (stop, stopped) = oneshot::channel();
                    lock(&fakes).listens(address, fake, stop);
                    shared.with(|state| state.task_started(agent, &key, run, Ok(Process::Fake(address))));
                    let exit = serve(listener, address, fakes.clone(), stopped).await;
                    lock(&fakes).registry.remove(address);
                    shared.with(|state| state.task_ended(agent, &key, run, exit));
                }
                (Err(message), _) => {
                    shared.with(|state| state.task_started(agent, &key, run, Err(message)));
                }
                (Ok(_), None) => unreachable!("only an address is listened on"),
            }
        });
    }

    /// What a signal does to the server at this address; only those that end it are known here.
    pub fn stop(&self, address: SocketAddr, signal: Signal) {
        if signal != Signal::KILL && signal != Signal::TERM {
            return;
        }
        if let Some(stop) = lock(&self.fakes).stops.remove(&address) {
            let exit = if signal == Signal::KILL { Exit::Signal(SIGKILL) } else { Exit::Code(0) };
            let _ = stop.send(exit); // It has ended by itself.
        }
    }
}

impl Drop for FakeNodes {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Serves until stopped; the connections end with it.
async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    fakes: Arc<Mutex<Fakes>>,
    mut stopped: oneshot::Receiver<Exit>,
) -> Exit {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            exit = &mut stopped => return exit.unwrap_or(Exit::Signal(SIGKILL)),
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(converse(stream, address, fakes.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(mut stream: TcpStream, address: SocketAddr, fakes: Arc<Mutex<Fakes>>) {
    let _ = stream.set_nodelay(true); // Slower without, but right.
    let mut received = BytesMut::with_capacity(READ_BYTES);
    let mut talk = Talk::default();
    while stream.read_buf(&mut received).await.is_ok_and(|n| n > 0) {
        let mut replies = Vec::new();
        let mut open = true;
        while open {
            match take_command(&mut received) {
                Ok(Some(command)) if command.is_empty() => {}
                Ok(Some(command)) => match lock(&fakes).registry.reply(address, &command, &mut talk) {
                    Some(reply) => replies.extend(reply),
                    None => open = false,
                },
                Ok(None) => break,
                Err(why) => {
                    replies.extend(format!("-ERR Protocol error: {why}\r\n").into_bytes());
                    open = false;
                }
            }
        }
        if stream.write_all(&replies).await.is_err() || !open {
            return;
        }
    }
}

fn lock(fakes: &Mutex<Fakes>) -> MutexGuard<'_, Fakes> {
    fakes.lock().expect("no holder panics")
}
