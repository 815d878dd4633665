//! The master's HTTP server: routes, headers, streams, and connections that break on demand. I/O.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::header::{ACCEPT, ALLOW, CONTENT_TYPE, LOCATION, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::serve::{IncomingStream, Listener};
use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::call;
use super::faults::Answer;
use super::operator_api;
use super::state::Shared;
use super::subscribe::{Piece, Subscription};

/// The header that tells subscriptions apart.
const STREAM_ID: &str = "Mesos-Stream-Id";
/// The largest call: an ACCEPT of thousands of tasks fits.
const CALL_BYTES_MAX: usize = 64 << 20;

/// What is read of a file at once: sixteen pages, as the agents do.
const READ_MAX: u64 = 64 << 10;

/// The server of one master, on a thread and a runtime of its own: when they end, so does every
/// connection, as at the death of a process.
pub(super) struct Server {
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Server {
    /// Listens at `address` and serves from then on.
    pub fn start(shared: Arc<Shared>, address: &str) -> Result<Server> {
        let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        listener.set_nonblocking(true).context("make the master's socket non-blocking")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("make the master's runtime")?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("the socket is non-blocking");
            let app = router(shared).into_make_service_with_connect_info::<Breaker>();
            tokio::select! {
                _ = axum::serve(BreakableListener(listener), app) => {}
                () = stopped.cancelled() => {}
            }
        };
        let thread = std::thread::Builder::new().name("local-master".to_string());
        let thread = thread.spawn(move || runtime.block_on(serve)).context("start the master's thread")?;
        Ok(Server { stop, thread })
    }

    /// Ends the server and every connection; returns when they are closed.
    pub fn stop(self) {
        self.stop.cancel();
        let _ = self.thread.join(); // It ended by a panic: that is reported already.
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/api/v1/scheduler", any(scheduler))
        .route("/master/api/v1/scheduler", any(scheduler))
        .route("/api/v1", any(operator))
        .route("/master/api/v1", any(operator))
        .route("/files/read", any(files))
        .route("/master/health", any(async || StatusCode::OK))
        .route("/master/redirect", any(redirect))
        .layer(DefaultBodyLimit::max(CALL_BYTES_MAX))
        .layer(from_fn(no_pages))
        .with_state(shared)
}

/// Pages of a browser have nothing to do here; those of others name their origin, whatever they send.
async fn no_pages(request: Request, next: Next) -> Response {
    let page = request.headers().contains_key(ORIGIN) || request.headers().contains_key("sec-fetch-site");
    if page { StatusCode::FORBIDDEN.into_response() } else { next.run(request).await }
}

/// An agent's `/files/read`, of what a task wrote: the end of the path is `/executors/TASK/runs/latest/FILE`.
async fn files(State(shared): State<Arc<Shared>>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let told = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
    let Some(path) = shared.with(|state| state.output_of(told("path"))) else {
        return (StatusCode::NOT_FOUND, "No such file or directory").into_response();
    };
    let offset = told("offset").parse().unwrap_or(-1);
    let length = told("length").parse().unwrap_or(READ_MAX).min(READ_MAX);
    match read_file(&path, offset, length) {
        Ok(json) => ([(CONTENT_TYPE, "application/json")], json.to_string()).into_response(),
        Err(_) => (StatusCode::NOT_FOUND, "No such file or directory").into_response(),
    }
}

impl super::state::State {
    /// A file that a task writes, by the path that agents have for it:
    /// `/frameworks/ID/executors/TASK/runs/latest/stderr`.
    pub fn output_of(&self, path: &str) -> Option<std::path::PathBuf> {
        let parts: Vec<&str> = path.split('/').collect();
        let ["", "frameworks", framework, "executors", task, "runs", "latest", file @ ("stderr" | "stdout")] =
            parts[..]
        else {
            return None;
        };
        if [framework, task].iter().any(|part| part.is_empty() || *part == "." || *part == "..") {
            return None;
        }
        let key = (framework.to_string(), task.to_string());
        let of = |agent: usize| self.sandbox(agent, &key).join(file);
        (0..self.agents.len()).map(of).find(|path| path.is_file())
    }
}

/// A negative offset: the file's size alone, as Mesos has it.
fn read_file(path: &std::path::Path, offset: i64, length: u64) -> std::io::Result<serde_json::Value> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let Ok(offset) = u64::try_from(offset) else {
        return Ok(serde_json::json!({"data": "", "offset": file.metadata()?.len()}));
    };
    let mut data = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    file.take(length).read_to_end(&mut data)?;
    Ok(serde_json::json!({"data": String::from_utf8_lossy(&data), "offset": offset}))
}

async fn redirect(State(shared): State<Arc<Shared>>) -> Response {
    let location = format!("//{}", shared.with(|state| state.address.clone()));
    (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, location)]).into_response()
}

async fn operator(State(shared): State<Arc<Shared>>, method: Method, body: Bytes) -> Response {
    if method != Method::POST {
        return not_allowed(&method);
    }
    match shared.with(|state| operator_api::answer(state, &body)) {
        Ok(Some(json)) => ([(CONTENT_TYPE, "application/json")], json.to_string()).into_response(),
        Ok(None) => StatusCode::OK.into_response(),
        Err(text) => (StatusCode::BAD_REQUEST, text).into_response(),
    }
}

async fn scheduler(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(breaker): ConnectInfo<Breaker>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if method != Method::POST {
        return not_allowed(&method);
    }
    match shared.with(|state| state.faults.answer.clone()) {
        Some(Answer::Unavailable) => {
            return (StatusCode::SERVICE_UNAVAILABLE, "No leader elected").into_response();
        }
        Some(Answer::Redirect(leader)) => {
            let location = format!("//{leader}{}", uri.path());
            return (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, location)]).into_response();
        }
        None => {}
    }
    answer(&shared, &breaker, &headers, &body).unwrap_or_else(|(status, text)| {
        (StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), text).into_response()
    })
}

fn answer(
    shared: &Arc<Shared>,
    breaker: &Breaker,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, call::Refused> {
    check_content_type(headers)?;
    let call = call::parse(body)?;
    let stream = headers.get(STREAM_ID).and_then(|id| id.to_str().ok());
    if call["type"] == "SUBSCRIBE" {
        check_accept(headers)?;
        if stream.is_some() {
            return Err((400, format!("Subscribe calls should not include the '{STREAM_ID}' header")));
        }
        let subscription = shared.with(|state| {
            *state.calls.entry("SUBSCRIBE".to_string()).or_default() += 1;
            state.subscribe(&call)
        });
        return Ok(subscribed(shared.clone(), subscription));
    }
    let accept = call["type"] == "ACCEPT";
    if accept && shared.with(|state| std::mem::take(&mut state.faults.lose_accept_request)) {
        breaker.break_now();
        return Ok(StatusCode::ACCEPTED.into_response()); // Nobody reads it.
    }
    let (status, lost) = shared.with(|state| {
        let lost = accept && std::mem::take(&mut state.faults.lose_accept_response);
        (state.perform_call(&call, stream), lost)
    });
    if lost {
        breaker.break_now();
    }
    Ok(StatusCode::from_u16(status?).unwrap_or(StatusCode::ACCEPTED).into_response())
}

fn check_content_type(headers: &HeaderMap) -> Result<(), call::Refused> {
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return Err((400, "Expecting 'Content-Type' to be present".to_string()));
    };
    if !content_type.to_str().is_ok_and(|t| t.starts_with("application/json")) {
        return Err((415, "Expecting 'Content-Type' of application/json or application/x-protobuf".to_string()));
    }
    Ok(())
}

fn check_accept(headers: &HeaderMap) -> Result<(), call::Refused> {
    let takes = |accept: &str| accept.contains("application/json") || accept.contains("*/*");
    match headers.get(ACCEPT).map(|accept| accept.to_str().is_ok_and(takes)) {
        None | Some(true) => Ok(()),
        Some(false) => Err((406, "Expecting 'Accept' to allow application/json or application/x-protobuf".to_string())),
    }
}

fn not_allowed(method: &Method) -> Response {
    let text = format!("405 Method Not Allowed. Expecting one of {{ 'POST' }}, but received '{method}'.");
    (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "POST")], text).into_response()
}

fn subscribed(shared: Arc<Shared>, subscription: Subscription) -> Response {
    let headers = [(CONTENT_TYPE.as_str(), "application/json".to_string()), (STREAM_ID, subscription.stream.clone())];
    (headers, Body::from_stream(EventStream { shared, subscription, cut: false })).into_response()
}

/// The body of a subscription; tells the master when the scheduler is gone.
struct EventStream {
    shared: Arc<Shared>,
    subscription: Subscription,
    /// It breaks when it is asked next.
    cut: bool,
}

impl Stream for EventStream {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.cut {
            return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())));
        }
        match self.subscription.pieces.poll_recv(context) {
            Poll::Ready(Some(Piece::Cut)) => {
                // What was sent before is written out while nothing more comes.
                self.cut = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Some(Piece::Bytes(bytes))) => Poll::Ready(Some(Ok(bytes))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let Subscription { framework, stream, .. } = &self.subscription;
        self.shared.with(|state| state.stream_closed(framework, stream));
    }
}

/// Breaks the connection that a request came on, before the response is written.
#[derive(Clone, Default)]
struct Breaker(Arc<AtomicBool>);

impl Breaker {
    fn break_now(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn check(&self) -> std::io::Result<()> {
        if self.0.load(Ordering::Acquire) { Err(std::io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl Connected<IncomingStream<'_, BreakableListener>> for Breaker {
    fn connect_info(stream: IncomingStream<'_, BreakableListener>) -> Breaker {
        stream.io().breaker.clone()
    }
}

struct BreakableListener(tokio::net::TcpListener);

impl Listener for BreakableListener {
    type Io = BreakableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BreakableStream, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        let _ = stream.set_nodelay(true); // Slower without, but right.
        (BreakableStream { stream, breaker: Breaker::default() }, address)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

struct BreakableStream {
    stream: TcpStream,
    breaker: Breaker,
}

impl AsyncRead for BreakableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for BreakableStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.breaker.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
