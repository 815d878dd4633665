//! `/v1/instances`: list, get, watch, apply. I/O.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::problem::Problem;
use super::query::Params;
use super::selector::Selector;
use super::view::{InstanceJson, ListJson};
use super::watch::{self, Scope};
use super::write::{self, Applied, Options};
use super::{Shared, Shares, Who, permit};
use crate::access::{Caller, Level};
use crate::board::InstanceView;
use crate::offload;
use crate::spec::{Parsed, Path as Field, SpecError, TEXT_BYTES_MAX, parse_documents};

/// For a body of at most 1 MiB, over a poor line; a client that stops in the middle is not waited for.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bodies with documents that are received or read at once, each of at most 1 MiB.
const BODIES_MAX: usize = 64;

static BODIES: Semaphore = Semaphore::const_new(BODIES_MAX);

/// What became of the documents.
#[derive(Serialize, utoipa::ToSchema)]
pub struct AppliedAll {
    /// One for each document, in their order.
    results: Vec<Applied>,
}

/// Whether a watch is wanted.
pub(super) fn wants_watch(params: &Params, headers: &HeaderMap) -> Result<bool, Problem> {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    Ok(params.flag("watch")? || accepts.is_some_and(|accept| accept.contains("text/event-stream")))
}

/// Lists instances, or watches them.
#[utoipa::path(get, path = "/v1/instances", tag = "instances",
    params(
        ("labelSelector" = Option<String>, Query, description = "`team=shop,tier!=cache,canary,!old`"),
        ("watch" = Option<bool>, Query, description = "Server-sent events: `set` (an Instance), `removed` ({name}), \
            `synced` after the first list, `resync` before the stream of a watcher that is too slow ends"),
    ),
    responses(
        (status = 200, body = super::openapi::InstanceList),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn list(
    State(shared): Shares,
    Extension(caller): Who,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["labelSelector", "watch"])?;
    let selector = params.get("labelSelector").unwrap_or_default().parse::<Selector>();
    let selector = selector.map_err(|err| Problem::new(StatusCode::BAD_REQUEST, err))?;
    if wants_watch(&params, &headers)? {
        return watch::instances(&shared, Scope { name: None, selector, caller });
    }
    let views = shared.state.board.list();
    let selected =
        |view: &&InstanceView| selector.selects(super::view::labels(view)) && caller.may(Level::Read, &view.name);
    let selected = views.iter().map(Arc::as_ref).filter(selected);
    Ok(Json(ListJson::new(selected, shared.state.board.operator().stale_since)).into_response())
}

/// One instance, or a watch of it.
#[utoipa::path(get, path = "/v1/instances/{name}", tag = "instances",
    params(
        ("name" = String, Path),
        ("watch" = Option<bool>, Query, description = "Server-sent events, as of the list"),
    ),
    responses(
        (status = 200, body = super::openapi::Instance),
        (status = 404, description = "There is no such instance", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn get(
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
        return watch::instances(&shared, Scope { name: Some(name), selector: Selector::default(), caller });
    }
    let stale_since = shared.state.board.operator().stale_since;
    let revision = [(header::ETAG, format!("\"{}\"", view.revision))];
    Ok((revision, Json(InstanceJson::new(&view).told_since(stale_since))).into_response())
}

/// Applies documents: all of them, or none.
#[utoipa::path(post, path = "/v1/instances", tag = "instances",
    params(("dryRun" = Option<bool>, Query, description = "Check everything, change nothing, answer the same")),
    request_body(content = super::openapi::RedisInstanceDocument, content_type = "application/yaml",
        description = "One document or many, as YAML or JSON; at most 1 MiB"),
    responses(
        (status = 200, body = AppliedAll),
        (status = 409, description = "An instance is being deleted, or was changed meanwhile", body = Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "More than 1 MiB", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A document is not valid, or changes what cannot change: nothing was changed",
            body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn apply(
    State(shared): Shares,
    Extension(caller): Who,
    uri: Uri,
    body: Body,
) -> Result<Json<AppliedAll>, Problem> {
    let dry_run = Params::read(&uri, &["dryRun"])?.flag("dryRun")?;
    let documents = documents(body, None).await?;
    store(&shared, &caller, &documents, Options { dry_run, if_match: None }).await
}

/// Applies the document of one instance.
#[utoipa::path(put, path = "/v1/instances/{name}", tag = "instances",
    params(
        ("name" = String, Path),
        ("dryRun" = Option<bool>, Query, description = "Check everything, change nothing, answer the same"),
        ("If-Match" = Option<String>, Header, description = "The revision that the stored document must have"),
    ),
    request_body(content = super::openapi::RedisInstanceDocument, content_type = "application/yaml"),
    responses(
        (status = 200, body = AppliedAll),
        (status = 409, description = "It is being deleted, or was changed meanwhile", body = Problem,
            content_type = "application/problem+json"),
        (status = 412, description = "The stored document has another revision", body = Problem,
            content_type = "application/problem+json"),
        (status = 422, description = "The document is not valid, or not of this name", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn put(
    State(shared): Shares,
    Extension(caller): Who,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<AppliedAll>, Problem> {
    let dry_run = Params::read(&uri, &["dryRun"])?.flag("dryRun")?;
    let if_match = if_match(&headers)?;
    permit(&caller, Level::Write, &name)?;
    let documents = documents(body, Some(name)).await?;
    store(&shared, &caller, &documents, Options { dry_run, if_match }).await
}

fn if_match(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let revision = value.to_str().ok().and_then(|text| text.trim().trim_matches('"').parse().ok());
    let wrong = || Problem::new(StatusCode::BAD_REQUEST, format!("If-Match {value:?}: allowed is one revision"));
    revision.map(Some).ok_or_else(wrong)
}

/// The documents of a body: one or more, or the one of that name. Whoever sends it may write something.
async fn documents(body: Body, name: Option<String>) -> Result<Vec<Parsed>, Problem> {
    let _room = BODIES.try_acquire().map_err(|_| Problem::busy())?;
    let text = text(body, TEXT_BYTES_MAX).await?;
    offload::in_turn(move || read_documents(&text, name.as_deref())).await.unwrap_or_else(|| Err(Problem::busy()))
}

fn read_documents(text: &str, name: Option<&str>) -> Result<Vec<Parsed>, Problem> {
    let wrong = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let documents = parse_documents(text).map_err(Problem::invalid)?;
    match (documents.as_slice(), name) {
        ([], _) => Err(wrong("there is no document in the body".to_string())),
        ([document], Some(name)) if document.instance.metadata.name != name => {
            let declared = &document.instance.metadata.name;
            let message = format!("{declared:?} is not the name in the address, {name:?}");
            let error = SpecError::at(Field::of(["metadata", "name"]), declared, message);
            Err(Problem::invalid(document.locate(vec![error])))
        }
        ([_, _, ..], Some(_)) => Err(wrong(format!("one document is allowed here: there are {}", documents.len()))),
        _ => Ok(documents),
    }
}

/// The body as text.
pub(super) async fn text(body: Body, bytes_max: usize) -> Result<String, Problem> {
    let reading = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, bytes_max)).await;
    let bytes = reading
        .map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))?
        // Either it is too long, or the client went away in the middle and reads no answer.
        .map_err(|err| {
            let detail = format!("the body cannot be read: {err}; allowed are {bytes_max} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        })?;
    String::from_utf8(bytes.into())
        .map_err(|err| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the body is not UTF-8: {err}")))
}

async fn store(
    shared: &Shared,
    caller: &Caller,
    documents: &[Parsed],
    options: Options,
) -> Result<Json<AppliedAll>, Problem> {
    documents.iter().try_for_each(|document| permit(caller, Level::Write, &document.instance.metadata.name))?;
    let results = write::apply(&shared.state, caller, documents, options).await?;
    if !options.dry_run {
        for Applied { name, result, revision } in &results {
            tracing::info!(instance = name, ?result, revision, "a document was applied by the API");
        }
    }
    Ok(Json(AppliedAll { results }))
}
