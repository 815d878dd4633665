//! The operator itself: its state, its health, its metrics, and what it would do now. I/O.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use super::problem::Problem;
use super::query::Params;
use super::{Shared, Shares, Who, permit};
use crate::access::{Caller, Level};
use crate::board::{InstanceView, OperatorView, PlanView};

/// Marks a request that another operator passed on: it is not passed on again.
const PASSED_ON: &str = "x-redisctl-passed-on";

/// Of answers that are as old as this: the store cannot be read since then.
pub const STALE_SINCE: &str = "redisctl-stale-since";
/// Of answers of an operator that launches and kills nothing: why.
pub const FROZEN: &str = "redisctl-frozen";
/// Why, to those who may not know every name.
const UNTOLD: &str = "a token that may read all instances is told why";

/// The state of this operator.
#[utoipa::path(get, path = "/v1/operator", tag = "operator", responses((status = 200, body = OperatorView)))]
pub(super) async fn operator(
    State(shared): Shares,
    Extension(caller): Who,
    uri: Uri,
) -> Result<Json<OperatorView>, Problem> {
    Params::read(&uri, &[])?;
    Ok(Json(seen_by(Some(&caller), shared.state.board.operator())))
}

/// What others have said may hold any name: it is told to those who may read all.
fn seen_by(caller: Option<&Caller>, operator: OperatorView) -> OperatorView {
    if caller.is_some_and(Caller::sees_all) {
        return operator;
    }
    let frozen = operator.frozen.map(|_| UNTOLD.to_string());
    OperatorView { frozen, mesos_message: String::new(), ..operator }
}

/// Says in the head of an answer what makes the whole of it less than it seems: that it is old, and that nothing is
/// carried out. `sees_all`: whether the caller may know every name; None: nobody knows who it is.
pub(super) fn mark(response: &mut Response, operator: OperatorView, sees_all: Option<bool>) {
    let headers = response.headers_mut();
    if let Some(since) = operator.stale_since {
        headers.insert(STALE_SINCE, in_a_header(&since.to_string()));
    }
    if let (Some(why), Some(sees_all)) = (operator.frozen, sees_all) {
        headers.insert(FROZEN, in_a_header(if sees_all { &why } else { UNTOLD }));
    }
}

/// A header is one line of ASCII.
fn in_a_header(text: &str) -> HeaderValue {
    let ascii: String = text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect();
    HeaderValue::try_from(ascii).expect("it is visible ASCII")
}

/// 200 as long as the process lives.
#[utoipa::path(get, path = "/healthz", tag = "operator", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 when the operator does its work: the store is read and, on the leader, Mesos is subscribed
/// and nothing keeps it from acting.
#[utoipa::path(get, path = "/readyz", tag = "operator",
    responses(
        (status = 200, body = String),
        (status = 503, description = "Why not", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn readyz(State(shared): Shares, caller: Option<Extension<Caller>>) -> Result<&'static str, Problem> {
    let caller = caller.as_ref().map(|Extension(caller)| caller);
    match obstacles(&seen_by(caller, shared.state.board.operator())).as_slice() {
        [] => Ok("ok\n"),
        reasons => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, reasons.join("; "))),
    }
}

fn obstacles(operator: &OperatorView) -> Vec<String> {
    let mut reasons = Vec::new();
    if !operator.store_synced {
        reasons.push(operator.stale_since.map_or("the store has not been read".to_string(), |since| {
            format!("the store cannot be read since {since}: what is told of instances is as old as that")
        }));
    }
    if operator.leading && operator.mesos != "subscribed" {
        let more =
            if operator.mesos_message.is_empty() { String::new() } else { format!(": {}", operator.mesos_message) };
        reasons.push(format!("the Mesos session is {:?}{more}", operator.mesos));
    }
    if let Some(why) = operator.frozen.as_ref().filter(|_| operator.leading) {
        reasons.push(format!("frozen: {why}"));
    }
    reasons
}

/// Metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "operator", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(shared): Shares, Extension(caller): Who) -> Response {
    let metrics = &shared.state.metrics;
    metrics.set_watchers(shared.watchers.lock().expect("no holder panics").count());
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, metrics.render(&shared.state.board, |name| caller.may(Level::Read, name))).into_response()
}

/// What the operator would do now for an instance, and what it waits for.
#[utoipa::path(get, path = "/v1/instances/{name}/plan", tag = "instances",
    params(("name" = String, Path)),
    responses(
        (status = 200, body = PlanView),
        (status = 404, description = "There is no such instance", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "This operator does not lead, and the leader does not answer", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn plan(
    State(shared): Shares,
    Extension(caller): Who,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<PlanView>, Problem> {
    Params::read(&uri, &[])?;
    permit(&caller, Level::Read, &name)?;
    let view = shared.state.board.get(&name);
    let operator = shared.state.board.operator();
    if operator.leading {
        return view.map(|view| Json(own_plan(&view))).ok_or_else(|| Problem::no_instance(&name));
    }
    let no_leader = |why: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("only the leader plans: {why}"));
    if headers.contains_key(PASSED_ON) {
        return Err(no_leader("this operator was taken for it, and is not any more: try again"));
    }
    if !operator.store_synced {
        return Err(no_leader("this operator cannot read the store, and knows of none that leads"));
    }
    match operator.leader {
        Some(leader) => leaders_plan(&shared, &leader.api, &name, headers.get(header::AUTHORIZATION)).await.map(Json),
        None => Err(no_leader("none is known now")),
    }
}

/// A plan that has not been made yet has no steps.
fn own_plan(view: &InstanceView) -> PlanView {
    let waiting = || PlanView { steps: Vec::new(), waiting: view.status.waiting.clone() };
    view.plan.clone().unwrap_or_else(waiting)
}

async fn leaders_plan(
    shared: &Shared,
    api: &str,
    name: &str,
    token: Option<&HeaderValue>,
) -> Result<PlanView, Problem> {
    let failed = |why: &dyn std::fmt::Display| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("only the leader plans, and at {api} it does not answer: {why}"),
        )
    };
    let mut url: reqwest::Url = api.parse().map_err(|err| failed(&err))?;
    url.path_segments_mut().map_err(|()| failed(&"not an address of HTTP"))?.pop_if_empty().extend([
        "v1",
        "instances",
        name,
        "plan",
    ]);
    let mut request = shared.state.peers.get(url).header(PASSED_ON, "1");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, token);
    }
    let answer = request.send().await.map_err(|err| failed(&err))?;
    if answer.status() == reqwest::StatusCode::NOT_FOUND {
        return Err(Problem::no_instance(name));
    }
    let answer = answer.error_for_status().map_err(|err| failed(&err))?;
    answer.json().await.map_err(|err| failed(&err))
}
