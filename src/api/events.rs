//! `/v1/events`: what happened to instances. I/O.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;

use super::instances::wants_watch;
use super::problem::Problem;
use super::query::Params;
use super::selector::Selector;
use super::view::EventJson;
use super::watch::{self, Scope};
use super::{Shares, Who, permit};
use crate::access::Level;
use crate::board::InstanceView;

/// Events of one instance, oldest first.
#[utoipa::path(get, path = "/v1/instances/{name}/events", tag = "events",
    params(
        ("name" = String, Path),
        ("watch" = Option<bool>, Query, description = "Server-sent events: `event` (an Event), and `synced` after \
            those there are"),
    ),
    responses(
        (status = 200, body = super::openapi::EventList),
        (status = 404, description = "There is no such instance", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn of_instance(
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
        return watch::events(&shared, Scope { name: Some(name), selector: Selector::default(), caller });
    }
    Ok(answer(&[view]))
}

/// Events of all instances, oldest first.
#[utoipa::path(get, path = "/v1/events", tag = "events",
    params(("watch" = Option<bool>, Query, description = "Server-sent events, as of one instance")),
    responses((status = 200, body = super::openapi::EventList)))]
pub(super) async fn of_all(
    State(shared): Shares,
    Extension(caller): Who,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["watch"])?;
    if wants_watch(&params, &headers)? {
        return watch::events(&shared, Scope { name: None, selector: Selector::default(), caller });
    }
    let mut views = shared.state.board.list();
    views.retain(|view| caller.may(Level::Read, &view.name));
    Ok(answer(&views))
}

fn answer(views: &[Arc<InstanceView>]) -> Response {
    let mut items: Vec<EventJson<'_>> =
        views.iter().flat_map(|view| view.events.iter().map(|event| EventJson::new(&view.name, event))).collect();
    items.sort_by_key(EventJson::at);
    Json(json!({"items": items})).into_response()
}
