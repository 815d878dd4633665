//! The doors: how connections come in at the API and at Sentinel's port, and what they may cost. I/O.
//!
//! ```text
//! accept ─→ gate (a place, or a refusal) ─→ TLS, if the door has a certificate ─→ http, or Sentinel's protocol
//! ```
//!
//! Whoever calls may be anybody, so each step has a bound in connections, bytes and time. Doors run on threads of
//! their own ([`Threads`]): what their callers cost is taken from each other, not from failovers.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::clock::now;

pub mod gate;
pub mod http;
mod patience;
mod refusals;

pub use gate::{Gate, Place};
pub use patience::Patient;
pub use refusals::Refusals;

/// Between two tries to take a connection when the system has no more files.
const BREATH: Duration = Duration::from_millis(100);
/// Between two looks at what there is to say of refusals.
const SAY_LOOK_EVERY: Duration = Duration::from_secs(5);
/// A peer that has vanished without a word (a machine without power) is noticed after about this and ...
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
/// ... three questions at this distance.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// Connections that are ended for others take microseconds to go, or milliseconds on a full machine.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// Threads of doors.
const THREADS: usize = 2;
/// They give way to those that lead when there are not processors enough for all.
const NICE: i32 = 5;

/// A listener with its gate.
#[derive(Debug)]
pub struct Door {
    listener: std::net::TcpListener,
    address: SocketAddr,
    gate: Arc<Gate>,
    refusals: Mutex<Refusals>,
}

impl Door {
    /// Of this listener, for connections that the gate lets in.
    pub fn new(listener: TcpListener, gate: Arc<Gate>) -> Result<Door> {
        let address = listener.local_addr().context("the listener's address")?;
        let listener = listener.into_std().context("a listener of its own threads")?;
        Ok(Door { listener, address, gate, refusals: Mutex::default() })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Somebody is let go, and the log says why: once, and then how often.
    pub fn let_go(&self, reason: &'static str, peer: SocketAddr, why: &str) {
        self.gate.count(reason);
        self.say(&format!("{why} ({})", peer.ip()));
    }

    fn say(&self, kind: &str) {
        let said = self.refusals.lock().expect("no holder panics").note(kind, now());
        if let Some(said) = said {
            warn!("{}: {said}", self.gate.name());
        }
    }

    fn say_counts(&self) {
        for said in self.refusals.lock().expect("no holder panics").due(now()) {
            warn!("{}: {said}", self.gate.name());
        }
    }

    /// Takes connections until told to stop, and has each served. Those that are served then may go on for
    /// `drain`. What is refused for want of room is sent `full`.
    pub async fn open<F, S>(
        self: Arc<Door>,
        stop: CancellationToken,
        drain: Duration,
        full: &[u8],
        serve: S,
    ) -> Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(TcpStream, SocketAddr, Arc<Place>) -> F,
    {
        let listener = self.listener.try_clone().and_then(TcpListener::from_std).context("open a door")?;
        let served = TaskTracker::new();
        let mut look = tokio::time::interval(SAY_LOOK_EVERY);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = look.tick() => { self.say_counts(); continue }
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let entered = self.enter(peer, &stop).await;
                    self.let_in(stream, peer, entered, full, &served, &serve);
                }
                Err(error) if is_of_one(&error) => {}
                Err(error) => {
                    self.gate.count("files");
                    self.say(&format!("no connection can be taken: {error}"));
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
        drop(listener);
        served.close();
        let _ = tokio::time::timeout(drain, served.wait()).await; // Whoever is slower has been told to end.
        Ok(())
    }

    /// Waits a moment for those who were ended for others: the next ones wait in the system's queue meanwhile.
    async fn enter(&self, peer: SocketAddr, stop: &CancellationToken) -> Result<Arc<Place>, gate::Refused> {
        let give_up = tokio::time::Instant::now() + LEAVE_WITHIN;
        loop {
            match self.gate.enter(peer.ip()) {
                Err(gate::Refused::Later) if tokio::time::Instant::now() < give_up && !stop.is_cancelled() => {
                    let _ = tokio::time::timeout_at(give_up, self.gate.left()).await;
                }
                entered => return entered,
            }
        }
    }

    fn let_in<F, S>(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        entered: Result<Arc<Place>, gate::Refused>,
        full: &[u8],
        served: &TaskTracker,
        serve: &S,
    ) where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(TcpStream, SocketAddr, Arc<Place>) -> F,
    {
        match entered {
            Ok(place) => {
                let _ = stream.set_nodelay(true); // Replies are small and waited for.
                keep_alive(&stream);
                let ends = place.ends.clone();
                let serving = serve(stream, peer, place);
                served.spawn(async move {
                    tokio::select! {
                        () = serving => {}
                        () = ends.cancelled() => {}
                    }
                });
            }
            Err(refused) => {
                // If it fits into the socket: nobody is waited for.
                let _ = rustix::net::send(&stream, full, rustix::net::SendFlags::DONTWAIT);
                let most = match refused {
                    gate::Refused::Address => format!("{} are open and in use of", self.gate.of_one_address()),
                    gate::Refused::Later => {
                        self.gate.count("all");
                        "others are on their way out too slowly; of".to_string()
                    }
                    gate::Refused::All => "as many as there may be are open and in use; of".to_string(),
                };
                self.say(&format!("a connection was refused: {most} {}", peer.ip()));
            }
        }
    }
}

/// Whether an error of `accept` is that of the one connection, which is gone.
fn is_of_one(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl};
    // A connection without it is one all the same.
    let _ = set_socket_keepalive(stream, true);
    let _ = set_tcp_keepidle(stream, KEEPALIVE_IDLE);
    let _ = set_tcp_keepintvl(stream, KEEPALIVE_EVERY);
}

/// The threads that doors are served by. Dropping it ends what is served.
#[derive(Debug)]
pub struct Threads(Option<tokio::runtime::Runtime>);

impl Threads {
    /// Starts them.
    pub fn start() -> Result<Threads> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("door")
            .on_thread_start(give_way)
            .enable_all()
            .build()
            .context("start the doors' threads")?;
        Ok(Threads(Some(runtime)))
    }

    /// Runs this on them.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.0.as_ref().expect("it is there until it is dropped").spawn(work)
    }
}

/// One that may not is served as others are.
fn give_way() {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
