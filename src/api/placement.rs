//! `/v1/instances/NAME/placement`: why its nodes find no place, as Mesos knows its agents now. I/O.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::{Extension, Json};

use super::problem::Problem;
use super::query::Params;
use super::{Shares, Who, permit};
use crate::access::Level;
use crate::mesos;
use crate::placement::{Explanation, Needs, explain};
use crate::status::NodeState;

/// What a node of an instance needs, and which agents lack what of it.
#[utoipa::path(get, path = "/v1/instances/{name}/placement", tag = "instances",
    params(("name" = String, Path)),
    responses(
        (status = 200, body = Explanation),
        (status = 404, description = "There is no such instance", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Mesos does not answer", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn placement(
    State(shared): Shares,
    Extension(caller): Who,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Json<Explanation>, Problem> {
    Params::read(&uri, &[])?;
    permit(&caller, Level::Read, &name)?;
    let view = shared.state.board.get(&name).ok_or_else(|| Problem::no_instance(&name))?;
    let unavailable = |why: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why);
    let Some(instance) = &view.instance else { return Err(unavailable(format!("{name} has no valid document"))) };
    let Some(settings) = &shared.state.mesos else { return Err(unavailable("there is no Mesos here".to_string())) };
    let (rooms, quotas) = mesos::rooms(settings).await.map_err(|error| unavailable(format!("{error:#}")))?;
    let mut occupied: BTreeMap<String, u32> = BTreeMap::new();
    for node in view.status.nodes.iter().filter(|node| node.state != NodeState::Dead) {
        *occupied.entry(node.agent.clone()).or_default() += 1;
    }
    let spec = &instance.spec;
    let needs = Needs {
        instance: &name,
        mem_mib: spec.task_mem_mib(),
        cpus_milli: spec.cpus.0,
        distribution: spec.distribution,
        placement: &spec.placement,
    };
    Ok(Json(explain(&needs, &occupied, &rooms, &quotas)))
}
