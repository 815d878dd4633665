//! `/v1/framework`: who we are to Mesos, and a new beginning when that is over. I/O.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::query::Params;
use super::{Shared, Shares, Who};
use crate::access::{Caller, Level};
use crate::clock::now;
use crate::mesos::{self, Life, Standing};
use crate::reconcile::framework::{RESET, removed};
use crate::store::{FRAMEWORK_KEY, Guard, KeyValue, Op, Txn};

/// A node that has answered within this time may live. Mesos gives the processes of a framework that it
/// removes five seconds.
const SILENCE: Duration = Duration::from_secs(10);

/// The framework, and what is proved of it.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrameworkView {
    /// The id that the store has; null: none has been registered yet.
    pub id: Option<String>,
    /// What Mesos says of it: `registered`, `removed` or `unknown`.
    pub standing: Standing,
    /// Its tasks that run, as far as Mesos knows.
    pub running: Vec<String>,
    /// Its tasks on agents that Mesos does not see: they may run, and are waited for after a reset, too.
    pub unreachable: Vec<String>,
    /// Nodes that have answered a moment ago, though they are on agents that Mesos sees, and on which it runs
    /// nothing of the framework.
    pub answering: Vec<String>,
    /// Why it cannot be reset; empty: it can.
    pub obstacles: Vec<String>,
}

/// The framework, and what Mesos says of it.
#[utoipa::path(get, path = "/v1/framework", tag = "operator",
    responses(
        (status = 200, body = FrameworkView),
        (status = 503, description = "This operator does not lead, or Mesos does not answer", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn show(
    State(shared): Shares,
    Extension(caller): Who,
    uri: Uri,
) -> Result<Json<FrameworkView>, Problem> {
    Params::read(&uri, &[])?;
    permit_all(&caller, Level::Read)?;
    Ok(Json(look(&shared).await?.0))
}

/// Begins again under a new framework id, when Mesos has removed the framework. Documents and records stay: of each
/// node it is found out whether it lives.
#[utoipa::path(post, path = "/v1/framework/reset", tag = "operator",
    params(("framework" = String, Query, description = "The id of the framework that is over")),
    responses(
        (status = 202, description = "It is done: the leader begins again", body = FrameworkView),
        (status = 409, description = "It is not proved to be over", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "This operator does not lead, or Mesos does not answer", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn reset(
    State(shared): Shares,
    Extension(caller): Who,
    uri: Uri,
) -> Result<(StatusCode, Json<FrameworkView>), Problem> {
    let params = Params::read(&uri, &["framework"])?;
    permit_all(&caller, Level::Admin)?;
    let (view, stored) = look(&shared).await?;
    let conflict = |detail: String| Problem::new(StatusCode::CONFLICT, detail);
    let (Some(id), Some(stored)) = (view.id.clone(), stored) else {
        return Err(conflict("there is no framework yet: nothing to reset".to_string()));
    };
    if params.get("framework") != Some(&id) {
        let given = params.get("framework").unwrap_or_default();
        let detail = format!("framework={given:?}: allowed is {id}, the framework that is to be given up");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    if !view.obstacles.is_empty() {
        return Err(conflict(format!("framework {id} is not reset: {}", view.obstacles.join("; "))));
    }
    let guards = vec![Guard::Revision { key: FRAMEWORK_KEY.to_string(), revision: stored.revision }];
    let ops = vec![Op::Put { key: FRAMEWORK_KEY.to_string(), value: format!("{RESET}{id}").into_bytes() }];
    Box::pin(shared.state.store.commit(Txn { guards, ops })).await?;
    tracing::warn!(framework_id = id, by = %caller, "the framework is given up: a new one begins");
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// What concerns all instances needs a token for all of them.
fn permit_all(caller: &Caller, level: Level) -> Result<(), Problem> {
    let refuse = || Problem::new(StatusCode::FORBIDDEN, caller.lacks(level, "all instances"));
    caller.may_with_all(level).then_some(()).ok_or_else(refuse)
}

async fn look(shared: &Shared) -> Result<(FrameworkView, Option<KeyValue>), Problem> {
    let unavailable = |why: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why);
    let state = &shared.state;
    let operator = state.board.operator();
    if !operator.leading {
        let leader =
            operator.leader.map_or("none is known now".to_string(), |leader| format!("--server {}", leader.api));
        return Err(unavailable(format!("only the leader knows how the framework is: {leader}")));
    }
    let Some(settings) = &state.mesos else { return Err(unavailable("there is no Mesos here".to_string())) };
    let stored = Box::pin(state.store.get(FRAMEWORK_KEY)).await?;
    let id = stored.as_ref().and_then(|item| String::from_utf8(item.value.clone()).ok());
    let id = id.filter(|id| !id.starts_with(RESET));
    let life = match &id {
        Some(id) => Box::pin(mesos::life(settings, id)).await.map_err(|error| unavailable(format!("{error:#}")))?,
        None => Life::default(),
    };
    let answering = answering(shared, &life);
    let obstacles = obstacles(&life, &operator.mesos, &operator.mesos_message, &answering);
    let Life { standing, running, unreachable, .. } = life;
    Ok((FrameworkView { id, standing, running, unreachable, answering, obstacles }, stored))
}

/// Mesos would call these gone, and they live. Of a node out of its sight it says that it may live, and one that
/// answers goes on to be used.
fn answering(shared: &Shared, life: &Life) -> Vec<String> {
    let (board, now) = (&shared.state.board, now());
    let views = board.list();
    let nodes = views.iter().flat_map(|view| &view.status.nodes);
    let fresh =
        |task_id: &str| board.measured(task_id).is_some_and(|m| u128::from(now.since_ms(m.at)) < SILENCE.as_millis());
    nodes
        .filter(|node| life.agents.contains(&node.agent) && fresh(&node.task_id))
        .map(|node| node.name.clone())
        .collect()
}

/// Why a framework is not proved to be over.
fn obstacles(life: &Life, session: &str, message: &str, answering: &[String]) -> Vec<String> {
    let mut obstacles = Vec::new();
    if session != "ended" || !removed(message) {
        obstacles.push(format!("Mesos has not refused it as removed: the session is {session:?} {message}"));
    }
    if life.standing == Standing::Registered {
        obstacles.push("Mesos has it among its frameworks".to_string());
    }
    if !life.running.is_empty() {
        obstacles.push(format!("Mesos runs tasks of it: {}", life.running.join(", ")));
    }
    if !answering.is_empty() {
        let seconds = SILENCE.as_secs();
        let names = answering.join(", ");
        obstacles.push(format!(
            "nodes have answered within the last {seconds} s: {names}; if they have ended since, try again in {seconds} s"
        ));
    }
    obstacles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framework_is_reset_only_when_everything_says_that_it_is_over() {
        let over = "Framework has been removed";
        let removed = |standing| Life { standing, ..Life::default() };
        assert!(obstacles(&removed(Standing::Removed), "ended", over, &[]).is_empty());
        // Mesos remembers fifty: the refusal says as much.
        assert!(obstacles(&removed(Standing::Unknown), "ended", over, &[]).is_empty());
        let running = Life { running: vec!["a".into()], ..removed(Standing::Removed) };
        for (life, session, message, answering) in [
            (removed(Standing::Registered), "ended", over, vec![]),
            (removed(Standing::Removed), "subscribed", "", vec![]),
            (removed(Standing::Removed), "disconnected", over, vec![]),
            (removed(Standing::Removed), "ended", "Framework failed over", vec![]),
            (running, "ended", over, vec![]),
            (removed(Standing::Removed), "ended", over, vec!["orders-0".to_string()]),
        ] {
            assert_eq!(obstacles(&life, session, message, &answering).len(), 1, "{life:?} {session} {message}");
        }
    }
}
