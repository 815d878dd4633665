//! stub
#![allow(missing_docs, unused)]
use std::sync::Arc;
pub struct ApiState{pub board:Arc<crate::board::Board>,pub store:crate::store::Store,pub metrics:Arc<crate::metrics::Metrics>}
pub async fn serve(l: tokio::net::TcpListener, s: ApiState, stop: tokio_util::sync::CancellationToken)->anyhow::Result<()>{Ok(())}
