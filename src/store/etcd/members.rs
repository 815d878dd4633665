//! The members of an etcd cluster: one call at a time goes to one of them, and to the next when it fails. I/O.
//!
//! The balancer of the client library is not used: it sends every other call to a dead or frozen
//! member. Nor are HTTP/2 keep-alives: etcd takes pings more frequent than its
//! `--grpc-keepalive-min-time` (5 s) for an attack and cuts an idle connection after the fourth.
//! Instead every call has a time limit, and a connection on which one ran out is given up.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use etcd_client::{Client, GetOptions};
use tokio::time::{Instant, timeout};

use super::door::Door;
use super::failure::{Cause, Failure, explain, is_answer};
use super::words::{self, Asked};
use crate::store::LEADER_KEY;

/// A login that was refused is not tried again sooner: etcd takes 0.1 s of a core for each.
const LOGIN_AGAIN: Duration = Duration::from_secs(1);

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

/// What all members have in common.
struct Cluster {
    door: Door,
    /// What our keys begin with.
    root: Arc<str>,
    /// Its id, as the first member has told it.
    id: OnceLock<u64>,
}

impl Cluster {
    fn asked(&self) -> Asked<'_> {
        let given = &self.door.given;
        Asked {
            tls: self.door.tls,
            has_ca: given.ca.is_some(),
            has_certificate: given.certificate.is_some(),
            user: given.user.as_deref(),
            root: &self.root,
        }
    }
}

/// A connection.
#[derive(Clone)]
struct Connected {
    client: Client,
    /// The number of the certificates and the password that it was made with.
    number: u64,
    /// Tells it from those before it.
    made: u64,
}

/// One member, and our connection to it.
struct Member {
    endpoint: String,
    cluster: Arc<Cluster>,
    connected: Mutex<Option<Connected>>,
    /// How many there were.
    made: AtomicU64,
    /// Held by who connects, so that a crowd of calls logs in once.
    connecting: tokio::sync::Mutex<Option<(Instant, String)>>,
    /// It is of the cluster that the others are of.
    vouched: AtomicBool,
}

/// A member that is connected, for one call.
#[derive(Clone)]
pub(super) struct Link {
    member: Arc<Member>,
    client: Client,
}

impl Link {
    /// The client on the connection that is shared by all calls.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client with a connection of its own.
    pub(super) async fn dial(&self) -> Result<Client, etcd_client::Error> {
        self.member.cluster.door.dial(&self.member.endpoint).await.map(|(client, _)| client)
    }
}

impl Member {
    fn new(endpoint: &str, cluster: Arc<Cluster>, vouched: bool) -> Arc<Member> {
        Arc::new(Member {
            endpoint: endpoint.to_owned(),
            cluster,
            connected: Mutex::new(None),
            made: AtomicU64::new(0),
            connecting: tokio::sync::Mutex::new(None),
            vouched: AtomicBool::new(vouched),
        })
    }

    fn connected(&self) -> Option<Connected> {
        let connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner).clone();
        connected.filter(|connected| connected.number == self.cluster.door.number())
    }

    /// Leaves that connection, unless another call has done so: it is silent (TCP alone would take many
    /// minutes to notice), or its login is void.
    fn leave(&self, made: u64) {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if connected.as_ref().is_some_and(|connected| connected.made == made) {
            *connected = None;
        }
    }

    /// The connection, made and logged in if need be.
    async fn connect(&self) -> Result<Connected, Cause> {
        if let Some(connected) = self.connected() {
            return Ok(connected);
        }
        let mut refused = self.connecting.lock().await;
        if let Some(connected) = self.connected() {
            return Ok(connected);
        }
        if let Some((at, why)) = refused.as_ref().filter(|(at, _)| at.elapsed() < LOGIN_AGAIN) {
            tracing::debug!("etcd at {}: a login was refused {:?} ago", self.endpoint, at.elapsed());
            return Err(Cause::Refused(why.clone()));
        }
        *refused = None;
        let (client, number) = match self.cluster.door.dial(&self.endpoint).await {
            Ok(dialed) => dialed,
            Err(error) => {
                if is_answer(&error) {
                    *refused = Some((Instant::now(), explain(&error)));
                }
                return Err(Cause::Error(error));
            }
        };
        self.vouch(&client).await?;
        let connected = Connected { client, number, made: self.made.fetch_add(1, Ordering::Relaxed) };
        *self.connected.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected.clone());
        Ok(connected)
    }

    /// A member of another cluster has other keys: none that we wrote.
    async fn vouch(&self, client: &Client) -> Result<(), Cause> {
        if self.vouched.load(Ordering::Relaxed) {
            return Ok(());
        }
        let key = format!("{}{LEADER_KEY}", self.cluster.root);
        let look = client.kv_client().get(key, Some(GetOptions::new().with_keys_only())).await.map_err(Cause::Error)?;
        let id = look.header().map_or(0, etcd_client::ResponseHeader::cluster_id);
        let ours = *self.cluster.id.get_or_init(|| id);
        if id != ours {
            return Err(Cause::Foreign { id, ours });
        }
        self.vouched.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// All members that we were told of. Calls go to the current one.
pub(super) struct Members {
    cluster: Arc<Cluster>,
    all: Vec<Arc<Member>>,
    current: AtomicUsize,
}

impl Members {
    /// `HOST:PORT[,HOST:PORT...]`. Nothing is asked yet.
    pub(super) fn open(list: &str, door: Door, root: Arc<str>) -> Result<Members> {
        let endpoints: Vec<&str> = list.split(',').collect();
        endpoints.iter().try_for_each(|endpoint| check_endpoint(endpoint))?;
        let cluster = Arc::new(Cluster { door, root, id: OnceLock::new() });
        // One alone is what it is.
        let vouched = endpoints.len() == 1;
        let all = endpoints.into_iter().map(|endpoint| Member::new(endpoint, cluster.clone(), vouched)).collect();
        Ok(Members { cluster, all, current: AtomicUsize::new(0) })
    }

    /// The same members on connections of their own, so that their calls do not queue behind others.
    pub(super) fn apart(&self) -> Members {
        let another = |member: &Arc<Member>| {
            Member::new(&member.endpoint, self.cluster.clone(), member.vouched.load(Ordering::Relaxed))
        };
        Members {
            cluster: self.cluster.clone(),
            all: self.all.iter().map(another).collect(),
            current: AtomicUsize::new(self.current.load(Ordering::Relaxed)),
        }
    }

    /// Sends a call to the current member, and when that one fails to the others in turn.
    pub(super) async fn call<T, F>(&self, patience: Patience, send: impl Fn(Link) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let give_up = Instant::now() + patience.total;
        let first = self.current.load(Ordering::Relaxed);
        let (mut turn, mut logged_in_anew, mut before) = (0, false, Vec::new());
        loop {
            let at = (first + turn) % self.all.len();
            let member = &self.all[at];
            let limit = patience.attempt.min(give_up.saturating_duration_since(Instant::now()));
            let mut sent_on = None;
            // On the heap: what is sent may be large, and is part of every future around it.
            let attempt = Box::pin(async {
                let Connected { client, made, .. } = member.connect().await?;
                sent_on = Some(made);
                send(Link { member: member.clone(), client }).await.map_err(Cause::Error)
            });
            let cause = match timeout(limit, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(cause)) => cause,
                Err(_) => Cause::Silence(limit),
            };
            let is_void = sent_on.is_some() && words::login_is_void(&cause.to_string(), &self.cluster.asked());
            if let Some(made) = sent_on.filter(|_| is_void || matches!(cause, Cause::Silence(_))) {
                member.leave(made);
            }
            if is_void && !logged_in_anew {
                // Refused before anything was done: a write may be sent again, too.
                logged_in_anew = true;
                continue;
            }
            let failure = self.failure(member, cause, sent_on.is_some(), &before);
            if failure.is_answer() {
                return Err(failure);
            }
            self.leave(at);
            turn += 1;
            let again = turn < self.all.len() && Instant::now() < give_up;
            if !again || !(patience.repeatable || failure.never_sent()) {
                return Err(failure);
            }
            tracing::debug!("{failure}: trying the next endpoint");
            before.push(failure.one());
        }
    }

    fn failure(&self, member: &Member, cause: Cause, was_sent: bool, before: &[String]) -> Failure {
        let advice = words::advice(&cause.to_string(), &self.cluster.asked());
        let endpoint = member.endpoint.clone();
        if let Cause::Foreign { .. } = cause {
            tracing::warn!("etcd at {endpoint}: {cause}: it is not used");
        }
        Failure { endpoint, cause, advice, was_sent, before: before.to_vec() }
    }

    /// Makes the next member the current one, unless another call has done so.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.all.len();
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// An error, in words.
    pub(super) fn explain(&self, error: &etcd_client::Error) -> String {
        let told = explain(error);
        match words::advice(&told, &self.cluster.asked()) {
            Some(advice) => format!("{told} ({advice})"),
            None => told,
        }
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
