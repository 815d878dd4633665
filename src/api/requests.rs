//! What is asked for beside the spec: delete, recreate, failover. I/O.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::instances::text;
use super::problem::Problem;
use super::query::Params;
use super::write;
use super::{Shares, Who, permit};
use crate::access::Level;
use crate::model::{Request, Timestamp, node_name};
use crate::status::Phase;

/// More than any request needs: a node's name has 51 characters at most.
const BODY_BYTES_MAX: usize = 4096;

/// A deletion that has been asked for.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Deleting {
    /// The instance.
    name: String,
    /// Always true.
    deleting: bool,
}

/// A new start that has been asked for.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Recreating {
    /// The instance.
    name: String,
    /// Always true.
    recreating: bool,
}

/// What a failover shall be.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Failover {
    /// The node that shall be the master, as `orders-1`; absent: the operator chooses.
    to: Option<String>,
    /// Do it though confirmed writes may be lost. Needs `to`.
    force: bool,
}

/// A failover that has been asked for.
#[derive(Serialize, utoipa::ToSchema)]
pub struct FailingOver {
    /// The instance.
    name: String,
    /// Always true.
    failover: bool,
    /// The node that shall be the master, where one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// Whether confirmed writes may be lost.
    force: bool,
    /// When it was asked for (RFC 3339).
    #[schema(value_type = String)]
    at: Timestamp,
}

/// Asks for an instance to be deleted.
#[utoipa::path(delete, path = "/v1/instances/{name}", tag = "instances",
    params(("name" = String, Path)),
    responses(
        (status = 202, description = "It goes; watch it to see when it is gone", body = Deleting),
        (status = 404, description = "There is no such instance", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn delete(
    State(shared): Shares,
    Extension(caller): Who,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<(StatusCode, Json<Deleting>), Problem> {
    Params::read(&uri, &[])?;
    permit(&caller, Level::Admin, &name)?;
    write::request_deletion(&shared.state, &caller, &name).await?;
    tracing::info!(instance = name, by = caller.name(), "deletion was asked for by the API");
    Ok((StatusCode::ACCEPTED, Json(Deleting { name, deleting: true })))
}

/// Asks for an instance that has lost all its nodes to be started again, empty.
#[utoipa::path(post, path = "/v1/instances/{name}/recreate", tag = "instances",
    params(("name" = String, Path)),
    responses(
        (status = 202, body = Recreating),
        (status = 404, description = "There is no such instance", body = Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "Its data is not lost", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn recreate(
    State(shared): Shares,
    Extension(caller): Who,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<(StatusCode, Json<Recreating>), Problem> {
    Params::read(&uri, &[])?;
    permit(&caller, Level::Admin, &name)?;
    let view = shared.state.board.get(&name).ok_or_else(|| Problem::no_instance(&name))?;
    let phase = view.status.phase;
    if phase != Phase::DataLost {
        let detail = format!("{name} is in phase {phase}: only in phase DataLost is there nothing to lose by it");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    write::request_recreation(&shared.state, &caller, &name).await?;
    tracing::info!(instance = name, by = caller.name(), "a new, empty start was asked for by the API");
    Ok((StatusCode::ACCEPTED, Json(Recreating { name, recreating: true })))
}

/// Asks for another node to be the master: a planned switchover, or, by force, one that may lose writes.
#[utoipa::path(post, path = "/v1/instances/{name}/failover", tag = "instances",
    params(("name" = String, Path)),
    request_body(content = Option<Failover>, content_type = "application/json",
        description = "May be empty: then the operator chooses the node, and nothing that was confirmed is lost"),
    responses(
        (status = 202, description = "It is asked for: watch the epoch and the condition MasterAvailable, and the \
            events SwitchoverRefused and SwitchoverFailed", body = FailingOver),
        (status = 404, description = "There is no such instance", body = Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "It is being deleted", body = Problem,
            content_type = "application/problem+json"),
        (status = 422, description = "The body is not valid", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn failover(
    State(shared): Shares,
    Extension(caller): Who,
    Path(name): Path<String>,
    uri: Uri,
    body: Body,
) -> Result<(StatusCode, Json<FailingOver>), Problem> {
    Params::read(&uri, &[])?;
    permit(&caller, Level::Write, &name)?;
    let wrong = |detail| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    permit(&caller, Level::Write, &name)?;
    let Failover { to, force } = failover_of(&name, &text(body, BODY_BYTES_MAX).await?).map_err(wrong)?;
    if force {
        permit(&caller, Level::Admin, &name)?;
    }
    let Request { at, to, force, .. } = write::request_failover(&shared.state, &caller, &name, to, force).await?;
    tracing::info!(instance = name, by = caller.name(), to, force, "a failover was asked for by the API");
    Ok((StatusCode::ACCEPTED, Json(FailingOver { name, failover: true, to, force, at })))
}

/// What a body asks for; or what is wrong with it.
fn failover_of(instance: &str, body: &str) -> Result<Failover, String> {
    if body.trim().is_empty() {
        return Ok(Failover::default());
    }
    // serde would take a list for a struct, too.
    let fields = serde_json::from_str::<serde_json::Map<_, _>>(body);
    let failover: Failover = fields.and_then(|fields| serde_json::from_value(fields.into())).map_err(|err| {
        format!("the body is not {{\"to\": \"{}\", \"force\": true}} or a part of it: {err}", node_name(instance, 1))
    })?;
    match &failover.to {
        Some(to) if !is_node_of(to, instance) => {
            Err(format!("to: {to:?} is not a node of {instance}: allowed are names such as {}", node_name(instance, 1)))
        }
        None if failover.force => Err("force: needs to, the node that shall be the master".to_string()),
        _ => Ok(failover),
    }
}

fn is_node_of(node: &str, instance: &str) -> bool {
    let ordinal = node.strip_prefix(instance).and_then(|rest| rest.strip_prefix('-')?.parse().ok());
    // No sign and no leading zeros: the name must be as we write it.
    ordinal.is_some_and(|ordinal| node_name(instance, ordinal) == node)
}
