//! The HTTP API: reads the board, writes specs and requests into the store. I/O.
//!
//! ```text
//! GET    ─→ board (views of all instances) ─→ JSON, or server-sent events
//! POST,  ─→ spec::parse_documents ─→ write (checks, one transaction) ─→ store ─→ the leader's watch
//! PUT,
//! DELETE
//! ```
//!
//! Any operator answers, leader or not; only a plan is asked of the leader ([`operator`]). Whatever
//! goes wrong is answered as a problem (RFC 9457), also what the framework refuses by itself.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, Caller, Level};
use crate::board::Board;
use crate::door::{Door, http};
use crate::mesos;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::tls;
use problem::PROBLEM_JSON;

mod audit;
mod browser;
mod change;
mod connect;
mod events;
mod framework;
mod instances;
mod limit;
mod mrredis;
mod openapi;
mod operator;
mod passwords;
mod placement;
mod problem;
mod query;
mod references;
mod requests;
mod routes;
mod selector;
mod view;
mod watch;
mod write;

pub use framework::FrameworkView;
pub use limit::Limit;
pub use openapi::openapi;
pub use operator::{FROZEN, STALE_SINCE};
pub use passwords::ClientPassword;
pub use problem::Problem;
pub use routes::{Needs, routes};
pub(crate) use write::request_failover;

/// How long requests under way may take when the operator stops.
const DRAIN: Duration = Duration::from_secs(2);
/// To reach the leader; it is near.
const LEADER_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For the leader's answer, which it has ready.
const LEADER_TIMEOUT: Duration = Duration::from_secs(3);

/// What the API works on.
#[derive(Clone)]
pub struct ApiState {
    /// What is read.
    pub board: Arc<Board>,
    /// What is written.
    pub store: Store,
    /// What is counted, and told at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Who is let in.
    pub access: Arc<Access>,
    /// How much one address may ask for.
    pub limit: Arc<Limit>,
    /// The names that we are asked for by, beside addresses.
    pub hosts: Arc<[String]>,
    /// Asks other operators.
    pub peers: reqwest::Client,
    /// Where Mesos is, to be asked for the room that its agents have.
    pub mesos: Option<Arc<mesos::Settings>>,
}

impl ApiState {
    /// One that lets everybody in.
    pub fn open(board: Arc<Board>, store: Store, metrics: Arc<Metrics>) -> ApiState {
        let limit = Arc::new(Limit::new(u32::MAX));
        let peers = peers(None).expect("nothing of it could fail");
        let (access, hosts) = (Arc::new(Access::Open), Arc::new([]));
        ApiState { board, store, metrics, access, limit, hosts, peers, mesos: None }
    }
}

/// What all handlers share.
struct Shared {
    state: ApiState,
    /// Open watches, by who has them.
    watchers: Arc<Mutex<watch::Watchers>>,
    /// Ends the watches: they would keep a stopping server for ever.
    shutdown: CancellationToken,
}

type Shares = State<Arc<Shared>>;
/// Who asks.
type Who = Extension<Caller>;

/// A client by which operators ask each other; they are near.
pub fn peers(ca_file: Option<&std::path::Path>) -> Result<reqwest::Client> {
    let client = crate::tls::http_with(ca_file)?;
    client.connect_timeout(LEADER_CONNECT_TIMEOUT).timeout(LEADER_TIMEOUT).build().context("set up the HTTP client")
}

/// Whether the caller may do this with that instance.
fn permit(caller: &Caller, level: Level, instance: &str) -> Result<(), Problem> {
    let refuse = || Problem::new(StatusCode::FORBIDDEN, caller.lacks(level, &format!("instance {instance}")));
    caller.may(level, instance).then_some(()).ok_or_else(refuse)
}

/// The names that a caller may read, and whether there are others.
fn readable(caller: &Caller, names: &[&str]) -> String {
    let (shown, hidden): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| caller.may(Level::Read, name));
    match (shown.is_empty(), hidden.is_empty()) {
        (_, true) => shown.join(", "),
        (true, false) => "instances that this token does not show".to_string(),
        (false, false) => format!("{} and others that this token does not show", shown.join(", ")),
    }
}

/// The API's routes, for a server of one's own.
pub fn router(state: ApiState) -> Router {
    app(state, CancellationToken::new())
}

/// Serves the API until told to stop; requests under way are finished, watches are ended.
pub async fn serve(door: Door, tls: Option<tls::Server>, state: ApiState, stop: CancellationToken) -> Result<()> {
    let (door, app, tls) = (Arc::new(door), app(state, stop.clone()), Arc::new(tls));
    let full = if tls.is_some() { &[] } else { http::FULL };
    let opened = door.clone();
    let serve = |stream: TcpStream, peer, place| {
        let (door, app, tls, stop) = (opened.clone(), app.clone(), tls.clone(), stop.clone());
        async move {
            let Some(tls) = &*tls else { return http::serve(stream, peer, place, app, stop).await };
            match tls.shake_hands(stream).await {
                Ok(stream) => http::serve(stream, peer, place, app, stop).await,
                Err(error) => door.let_go("handshake", peer, &error.to_string()),
            }
        }
    };
    door.open(stop.clone(), DRAIN, full, serve).await.context("serve the API")
}

fn app(state: ApiState, shutdown: CancellationToken) -> Router {
    let shared = Arc::new(Shared { state, watchers: Arc::default(), shutdown });
    let mut router = Router::new();
    for route in routes::table() {
        router = router.route(route.path, route.handler);
    }
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(async || StatusCode::METHOD_NOT_ALLOWED)
        .layer(from_fn_with_state(Arc::clone(&shared), around))
        .with_state(shared)
}

async fn unknown_path(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}: see /openapi.json", uri.path()))
}

/// Around every request: counts it, and makes a problem of every refusal.
async fn around(State(shared): Shares, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let method = method_label(request.method());
    // The pattern: paths hold names, and there are as many as there are instances.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let from =
        request.extensions().get::<ConnectInfo<http::Peer>>().map(|ConnectInfo(http::Peer(address))| address.ip());
    let spent = from.and_then(|address| shared.state.limit.take(address, request.method()).err());
    let access = &shared.state.access;
    let by_page = browser::refusal(&request, access.is_open().then_some(&*shared.state.hosts));
    let caller = access.caller(bearer(&request));
    let sees_all = caller.as_ref().map(Caller::sees_all);
    let mut response = match (spent, by_page, caller) {
        (Some(wait), ..) => too_many(wait),
        (_, Some(refused), _) => refused.into_response(),
        _ if address_bytes(&request) > ADDRESS_BYTES_MAX => too_long(),
        (.., Some(caller)) if !is_read(request.method()) && !caller.holds(Level::Write) => only_reads(&caller),
        (.., Some(caller)) => {
            request.extensions_mut().insert(caller.at(from));
            as_problem(next.run(request).await)
        }
        _ if FOR_ALL.contains(&request.uri().path()) => as_problem(next.run(request).await),
        _ => stranger(),
    };
    operator::mark(&mut response, shared.state.board.operator(), sees_all);
    browser::guard(&mut response);
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    shared.state.metrics.http(route, method, response.status().as_u16(), start.elapsed());
    response
}

/// The longest address: the longest of ours has a selector of 32 terms.
const ADDRESS_BYTES_MAX: usize = 8 << 10;

fn address_bytes(request: &Request) -> usize {
    request.uri().path().len() + request.uri().query().map_or(0, str::len)
}

fn too_long() -> Response {
    let detail = format!("the address is too long: allowed are {ADDRESS_BYTES_MAX} bytes");
    Problem::new(StatusCode::URI_TOO_LONG, detail).into_response()
}

/// Everything else may change something, and may have a body, which is not read before this is known.
fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn only_reads(caller: &Caller) -> Response {
    let detail = format!("{} may only read: its token allows no more", caller.name());
    Problem::new(StatusCode::FORBIDDEN, detail).into_response()
}

/// Whoever watches the process needs no token.
const FOR_ALL: [&str; 2] = ["/healthz", "/readyz"];

/// The token that a request bears.
fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn too_many(wait: Duration) -> Response {
    let wait_s = wait.as_secs() + 1;
    let detail = format!("too many requests from this address: again in {wait_s} s; --rate-limit sets how many");
    ([(header::RETRY_AFTER, wait_s)], Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)).into_response()
}

fn stranger() -> Response {
    let detail = "a token is needed, and none that is known was sent: Authorization: Bearer TOKEN";
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"redisctl\"")];
    (challenge, Problem::new(StatusCode::UNAUTHORIZED, detail)).into_response()
}

/// The method, of the few that make a series of their own.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Marks a response whose text is not ours to choose.
#[derive(Clone, Copy)]
struct AsItIs;

fn as_problem(response: Response) -> Response {
    let status = response.status();
    if response.extensions().get::<AsItIs>().is_some() {
        return response;
    }
    let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM_JSON);
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    Problem::new(status, refusal(status)).into_response()
}

/// The framework's refusals in our words. It adds the `Allow` header outside of us.
fn refusal(status: StatusCode) -> &'static str {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => "the method is not possible here: the Allow header says which are",
        StatusCode::BAD_REQUEST => "the request cannot be read",
        _ => "the request was not done",
    }
}
