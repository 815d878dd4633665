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

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::serve::{IncomingStream, Listener};
use axum::{Extension, Router};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, Caller, Level};
use crate::board::Board;
use crate::mesos;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::tls::TlsListener;
use problem::{PROBLEM_JSON, Problem};

mod audit;
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
mod requests;
mod selector;
mod view;
mod watch;
mod write;

pub use framework::FrameworkView;
pub use limit::Limit;
pub use openapi::openapi;
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
        ApiState { board, store, metrics, access: Arc::new(Access::Open), limit, peers, mesos: None }
    }
}

/// What all handlers share.
struct Shared {
    state: ApiState,
    /// One permit for each open watch.
    watchers: Arc<Semaphore>,
    /// Ends the watches: they would keep a stopping server for ever.
    shutdown: CancellationToken,
}

type Shares = State<Arc<Shared>>;
/// Who asks.
type Who = Extension<Caller>;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(SocketAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

/// A client by which operators ask each other; they are near.
pub fn peers(ca_file: Option<&std::path::Path>) -> Result<reqwest::Client> {
    // No proxy: one of the environment cannot reach them.
    let client = crate::tls::http_with(ca_file)?.no_proxy();
    client.connect_timeout(LEADER_CONNECT_TIMEOUT).timeout(LEADER_TIMEOUT).build().context("set up the HTTP client")
}

/// Whether the caller may do this with that instance.
fn permit(caller: &Caller, level: Level, instance: &str) -> Result<(), Problem> {
    let refuse = || {
        let detail = format!("{} may not {level} {instance}: its token allows other instances, or less", caller.name());
        Problem::new(StatusCode::FORBIDDEN, detail)
    };
    caller.may(level, instance).then_some(()).ok_or_else(refuse)
}

/// The API's routes, for a server of one's own.
pub fn router(state: ApiState) -> Router {
    routes(state, CancellationToken::new())
}

/// Serves the API until `shutdown` completes; requests under way are finished, watches are ended.
pub async fn serve<L>(listener: L, state: ApiState, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<()>
where
    L: Listener<Addr = SocketAddr>,
    Peer: for<'a> Connected<IncomingStream<'a, L>>,
{
    let stopping = CancellationToken::new();
    let app = routes(state, stopping.clone()).into_make_service_with_connect_info::<Peer>();
    let begun = stopping.clone();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        shutdown.await;
        begun.cancel();
    });
    let patience = async {
        stopping.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = server.into_future() => result.context("serve the API"),
        () = patience => Ok(()),
    }
}

fn routes(state: ApiState, shutdown: CancellationToken) -> Router {
    let watchers = Arc::new(Semaphore::new(watch::WATCHERS_MAX));
    let shared = Arc::new(Shared { state, watchers, shutdown });
    Router::new()
        .route("/v1/instances", get(instances::list).post(instances::apply))
        .route("/v1/instances/{name}", get(instances::get).put(instances::put).delete(requests::delete))
        .route("/v1/instances/{name}/recreate", post(requests::recreate))
        .route("/v1/instances/{name}/failover", post(requests::failover))
        .route("/v1/instances/{name}/plan", get(operator::plan))
        .route("/v1/instances/{name}/events", get(events::of_instance))
        .route("/v1/instances/{name}/connect", get(connect::connect))
        .route("/v1/instances/{name}/password", get(passwords::show))
        .route("/v1/instances/{name}/password/rotate", post(passwords::rotate))
        .route("/v1/instances/{name}/placement", get(placement::placement))
        .route("/v1/secrets/{name}", put(passwords::put_secret).delete(passwords::delete_secret))
        .route("/v1/events", get(events::of_all))
        .route("/v1/operator", get(operator::operator))
        .route("/v1/framework", get(framework::show))
        .route("/v1/framework/reset", post(framework::reset))
        .route("/v1/schema", get(openapi::serve_schema))
        .route("/openapi.json", get(openapi::serve_openapi))
        .route("/healthz", get(operator::healthz))
        .route("/readyz", get(operator::readyz))
        .route("/metrics", get(operator::metrics))
        .route("/v1/CREATE/{name}/{capacity}/{masters}/{slaves}", post(mrredis::create))
        .route("/v1/DELETE/{name}", delete(mrredis::delete))
        .route("/v1/STATUS", get(mrredis::status_all))
        .route("/v1/STATUS/", get(mrredis::status_all))
        .route("/v1/STATUS/{name}", get(mrredis::status))
        .route("/v1/UPDATE/{name}/Memory/{capacity}", put(mrredis::update_memory))
        .route("/v1/UPDATE/{name}/SLAVES/{slaves}", put(mrredis::update_slaves))
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
    let from = request.extensions().get::<ConnectInfo<Peer>>().map(|ConnectInfo(Peer(address))| address.ip());
    let spent = from.and_then(|address| shared.state.limit.take(address, request.method()).err());
    let response = match shared.state.access.caller(bearer(&request)) {
        _ if spent.is_some() => too_many(spent.unwrap_or_default()),
        Some(caller) => {
            request.extensions_mut().insert(caller.at(from));
            as_problem(next.run(request).await)
        }
        None if FOR_ALL.contains(&request.uri().path()) => as_problem(next.run(request).await),
        None => stranger(),
    };
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    shared.state.metrics.http(route, method, response.status().as_u16(), start.elapsed());
    response
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
