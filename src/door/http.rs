//! HTTP over one connection, within bounds. I/O.
//!
//! axum's own server has no bounds for headers and slow clients: its parts (hyper) have, and are used here.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{Patient, Place, gate};
use crate::api::Problem;

/// For the header of a request, and between two requests: scrapes of Prometheus come on new connections then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Fields of a header: browsers send twenty.
const HEADERS_MAX: usize = 64;
/// Bytes of a header, and of what is read or written ahead.
const BUFFER_BYTES: usize = 32 << 10;
/// For a request's body and its answer's beginning. The store's own limits are below it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// For a client that does not read its answer.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// What a connection is sent that there is no room for.
pub const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Serves one connection until it ends; when told to stop, until its request is answered.
pub async fn serve<S>(stream: S, peer: SocketAddr, place: Arc<Place>, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let app = TowerToHyperService::new(router);
    let answer = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(Peer(peer)));
        let (app, place) = (app.clone(), place.clone());
        async move {
            place.works();
            let answered = app.call(request.map(Body::new));
            let response = match tokio::time::timeout(REQUEST_TIMEOUT, answered).await {
                Ok(response) => response?,
                Err(_) => too_slow(),
            };
            Ok::<_, std::convert::Infallible>(held(response, place))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.max_headers(HEADERS_MAX).max_buf_size(BUFFER_BYTES);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Patient::new(stream, WRITE_PATIENCE)), answer));
    let stopped = tokio::select! {
        _ = &mut connection => false, // However it ended, the client knows.
        () = stop.cancelled() => true,
    };
    if stopped {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

fn too_slow() -> Response {
    let detail = format!("the request was not whole, or not answered, within {} s", REQUEST_TIMEOUT.as_secs());
    closing(StatusCode::REQUEST_TIMEOUT, detail)
}

fn closing(status: StatusCode, detail: impl Into<String>) -> Response {
    ([(header::CONNECTION, "close")], Problem::new(status, detail)).into_response()
}

/// The response, with account kept of it until it is sent.
fn held(response: Response, place: Arc<Place>) -> Response {
    let bytes = response.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
    let Some(bytes) = place.reply(bytes) else {
        let detail = "this address has too many answers to read already";
        return closing(StatusCode::SERVICE_UNAVAILABLE, detail);
    };
    response.map(|body| Body::new(Held { body, _bytes: bytes, place }))
}

struct Held {
    body: Body,
    _bytes: gate::Bytes,
    place: Arc<Place>,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.place.waits_again();
    }
}
