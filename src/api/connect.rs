//! `/v1/instances/NAME/connect`: where clients connect, for those who want no Sentinel. I/O.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;

use super::instances::wants_watch;
use super::problem::Problem;
use super::query::Params;
use super::selector::Selector;
use super::watch::{self, Scope};
use super::{Shares, Who, permit};
use crate::access::Level;
use crate::board::InstanceView;
use crate::model::Role;
use crate::status::NodeState;

/// Where clients connect.
#[derive(Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Connect<'a> {
    /// The instance.
    name: &'a str,
    /// Counts promotions: an answer of a lower epoch is older.
    epoch: u64,
    /// `host:port` of the master, which takes writes; null while none is known to.
    master: Option<&'a str>,
    /// `host:port` of each replica that follows it.
    replicas: Vec<&'a str>,
}

impl Connect<'_> {
    /// What a view says.
    pub fn new(view: &InstanceView) -> Connect<'_> {
        let ready = view.status.nodes.iter().filter(|n| n.role == Role::Replica && n.state == NodeState::Ready);
        Connect {
            name: &view.name,
            epoch: view.status.epoch,
            master: view.status.master.as_deref(),
            replicas: ready.map(|node| node.address.as_str()).collect(),
        }
    }
}

/// Where clients connect to an instance.
#[utoipa::path(get, path = "/v1/instances/{name}/connect", tag = "instances",
    params(
        ("name" = String, Path),
        ("watch" = Option<bool>, Query, description = "Server-sent events: `set` whenever the answer changes, \
            `removed` ({name}), `synced` after the first, `resync` before the stream of a watcher that is too slow \
            ends"),
    ),
    responses(
        (status = 200, body = Connect),
        (status = 404, description = "There is no such instance", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn connect(
    State(shared): Shares,
    Extension(caller): Who,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["watch"])?;
    permit(&caller, Level::Read, &name)?;
    let view = shared.state.board.get(&name).ok_or_else(|| Problem::no_instance(&name))?;
    if wants_watch(&params, &headers)? {
        return watch::connects(&shared, Scope { name: Some(name), selector: Selector::default(), caller });
    }
    Ok(Json(Connect::new(&view)).into_response())
}
