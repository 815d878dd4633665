//! The members of an etcd cluster: one call at a time goes to one of them, and to the next when it fails. I/O.
//!
//! The balancer of the client library is not used: it sends every other call to a dead or frozen
//! member. Nor are HTTP/2 keep-alives: etcd takes pings more frequent than its
//! `--grpc-keepalive-min-time` (5 s) for an attack and cuts an idle connection after the fourth.
//! Instead every call has a time limit, and a connection on which one ran out is given up.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use etcd_client::{Client, ConnectOptions};
use tokio::time::{Instant, timeout};

use crate::store::Error;

/// A TCP connection to a member of the cluster takes milliseconds; a second allows for one lost packet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a call may take, and whether it may be sent again.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// For one member.
    pub attempt: Duration,
    /// For all members together.
    pub total: Duration,
    /// Whether the call may be sent to another member when this one may have carried it out.
    pub repeatable: bool,
}

impl Patience {
    /// Reads. A frozen member costs 2 s, and a frozen cluster is noticed within 4 s.
    pub(super) const READ: Patience =
        Patience { attempt: Duration::from_secs(2), total: Duration::from_secs(4), repeatable: true };
    /// Writes: never carried out twice.
    pub(super) const WRITE: Patience = Patience { repeatable: false, ..Patience::READ };
}

/// One member, and our connection to it.
pub(super) struct Member {
    endpoint: String,
    client: Mutex<Client>,
}

impl Member {
    /// The client on the connection that is shared by all calls.
    pub(super) fn client(&self) -> Client {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A client with a connection of its own.
    pub(super) async fn dial(&self) -> Result<Client, etcd_client::Error> {
        dial(&self.endpoint).await
    }

    /// Leaves a connection that is silent: TCP alone would take many minutes to notice.
    async fn reconnect(&self) {
        if let Ok(fresh) = self.dial().await {
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }
}

/// Connects when first used, and again whenever the connection has broken.
async fn dial(endpoint: &str) -> Result<Client, etcd_client::Error> {
    let options = ConnectOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_require_leader(true);
    Client::connect([endpoint], Some(options)).await
}

/// All members that we were told of. Calls go to the current one.
pub(super) struct Members {
    members: Vec<Arc<Member>>,
    current: AtomicUsize,
}

impl Members {
    /// `HOST:PORT[,HOST:PORT...]`.
    pub(super) async fn open(list: &str) -> Result<Members> {
        let mut members = Vec::new();
        for endpoint in list.split(',') {
            check_endpoint(endpoint)?;
            let client = dial(endpoint).await.map_err(|e| anyhow!("endpoint {endpoint:?}: {e}"))?;
            members.push(Arc::new(Member { endpoint: endpoint.to_owned(), client: Mutex::new(client) }));
        }
        Ok(Members { members, current: AtomicUsize::new(0) })
    }

    /// The same members on connections of their own, so that their calls do not queue behind others.
    pub(super) async fn apart(&self) -> Result<Members, Error> {
        let endpoints: Vec<&str> = self.members.iter().map(|m| m.endpoint.as_str()).collect();
        let apart = Members::open(&endpoints.join(",")).await.map_err(Error::Unavailable)?;
        apart.current.store(self.current.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(apart)
    }

    /// Sends a call to the current member, and when that one fails to the others in turn.
    pub(super) async fn call<T, F>(&self, patience: Patience, send: impl Fn(Arc<Member>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let give_up = Instant::now() + patience.total;
        let first = self.current.load(Ordering::Relaxed);
        let mut turn = 0;
        loop {
            let at = (first + turn) % self.members.len();
            let member = &self.members[at];
            let limit = patience.attempt.min(give_up.saturating_duration_since(Instant::now()));
            let cause = match timeout(limit, send(Arc::clone(member))).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Cause::Error(error),
                Err(_) => {
                    member.reconnect().await;
                    Cause::Silence(limit)
                }
            };
            let failure = Failure { endpoint: member.endpoint.clone(), cause };
            if failure.is_answer() {
                return Err(failure);
            }
            self.leave(at);
            turn += 1;
            let again = turn < self.members.len() && Instant::now() < give_up;
            if !again || !(patience.repeatable || failure.never_sent()) {
                return Err(failure);
            }
            tracing::debug!("{failure}: trying the next endpoint");
        }
    }

    /// Makes the next member the current one, unless another call has done so.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.members.len();
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The library would take much for an endpoint, and fail at the first call.
fn check_endpoint(endpoint: &str) -> Result<()> {
    let allowed = "allowed is HOST:PORT, as in 127.0.0.1:2379";
    let Some((host, port)) = endpoint.rsplit_once(':') else { bail!("endpoint {endpoint:?} has no port: {allowed}") };
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_ipv6 || host.contains(['/', '@', ' ']) {
        bail!("endpoint {endpoint:?} has no valid host: {allowed}")
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(()),
        _ => bail!("endpoint {endpoint:?} has no valid port: {allowed}"),
    }
}

/// Why a call failed, and where.
#[derive(Debug)]
pub(super) struct Failure {
    endpoint: String,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Silence(Duration),
    Error(etcd_client::Error),
}

/// gRPC codes with which a working member refuses a request: another one would say the same. The
/// other codes mean that the member cannot serve, or that the connection broke. In order: invalid
/// argument, not found, permission denied, resource exhausted, failed precondition, out of range,
/// unauthenticated.
const REFUSALS: [i32; 7] = [3, 5, 7, 8, 9, 11, 16];

impl Failure {
    /// Whether the member is well and has refused the call itself.
    fn is_answer(&self) -> bool {
        match &self.cause {
            Cause::Error(etcd_client::Error::GRpcStatus(status)) => REFUSALS.contains(&(status.code() as i32)),
            _ => self.is_lease_gone(),
        }
    }

    /// Whether no connection could be made: the call was certainly not carried out.
    fn never_sent(&self) -> bool {
        use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
        let Cause::Error(etcd_client::Error::GRpcStatus(status)) = &self.cause else {
            return false;
        };
        innermost(status.source())
            .and_then(|error| error.downcast_ref::<std::io::Error>())
            .is_some_and(|io| matches!(io.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable))
    }

    /// Whether the revision that was asked for is compacted.
    pub(super) fn is_compacted(&self) -> bool {
        match &self.cause {
            Cause::Error(etcd_client::Error::GRpcStatus(status)) => {
                status.message().contains("required revision has been compacted")
            }
            _ => false,
        }
    }

    /// Whether a keep-alive was answered with: there is no such lease.
    pub(super) fn is_lease_gone(&self) -> bool {
        matches!(self.cause, Cause::Error(etcd_client::Error::LeaseKeepAliveError(_)))
    }

    /// As the store's error; `what` was being done.
    pub(super) fn during(self, what: &str) -> Error {
        Error::Unavailable(anyhow!("{self}").context(what.to_owned()))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "etcd at {}: ", self.endpoint)?;
        match &self.cause {
            Cause::Silence(limit) => write!(f, "no answer within {:.1} s", limit.as_secs_f32()),
            Cause::Error(error) => f.write_str(&explain(error)),
        }
    }
}

/// What went wrong, in one line: the status' message and its innermost source.
pub(super) fn explain(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return error.to_string();
    };
    match innermost(status.source()) {
        Some(source) if !status.message().contains(&source.to_string()) => {
            format!("{}: {source}", status.message())
        }
        _ => status.message().to_owned(),
    }
}

/// The error that began it all.
fn innermost<'a>(
    error: Option<&'a (dyn std::error::Error + 'static)>,
) -> Option<&'a (dyn std::error::Error + 'static)> {
    let mut last = error?;
    while let Some(source) = last.source() {
        last = source;
    }
    Some(last)
}
