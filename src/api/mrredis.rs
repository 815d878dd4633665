//! The API of mr-redis, for its scripts and its client `mrr`: the same paths, codes, texts and JSON. I/O.
//!
//! What is created here is an instance like all others. Where mr-redis' answer was a plain bug, ours is
//! right: docs/mr-redis.md lists the differences.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::change;
use super::instances::text;
use super::problem::Problem;
use super::write::{self, Options};
use super::{AsItIs, Shared, Shares, Who, permit};
use crate::access::{Caller, Level};
use crate::board::{Board, InstanceView};
use crate::model::Role;
use crate::plain::{TOLD_CHARS_MAX, plain};
use crate::spec::{API_VERSION, KIND, parse_documents};
use crate::status::{NodeState, NodeStatus, Phase};

/// More than the body of a CREATE needs.
const BODY_BYTES_MAX: usize = 4096;
const MIB: u64 = 1 << 20;

/// A code and a text, as mr-redis answers.
pub(super) struct Told(StatusCode, String);

/// The text may repeat what the caller has sent.
fn told(code: StatusCode, text: impl Into<String>) -> Told {
    Told(code, plain(&text.into(), TOLD_CHARS_MAX))
}

impl IntoResponse for Told {
    fn into_response(self) -> Response {
        (self.0, Extension(AsItIs), self.1).into_response()
    }
}

/// A failure that mr-redis had no words for.
fn failed(problem: Problem) -> Told {
    let code = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    told(if code == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { code }, problem.detail)
}

fn number(field: &str, value: &str) -> Result<u32, Told> {
    let wrong = || told(StatusCode::BAD_REQUEST, format!("{field} {value:?}: allowed is a number"));
    value.parse().map_err(|_| wrong())
}

/// The body of CREATE.
#[derive(Deserialize)]
struct Create {
    #[serde(rename = "Distribution", default = "one")]
    distribution: u32,
}

fn one() -> u32 {
    1
}

/// `POST /v1/CREATE/NAME/MB/MASTERS/SLAVES`.
pub(super) async fn create(
    State(shared): Shares,
    Extension(caller): Who,
    Path((name, capacity, masters, slaves)): Path<(String, String, String, String)>,
    body: Body,
) -> Told {
    let sizes = [("capacity", &capacity), ("masters", &masters), ("slaves", &slaves)];
    if let Err(refused) = permit(&caller, Level::Write, &name) {
        return failed(refused);
    }
    create_instance(&shared, &caller, &name, sizes.map(|(field, value)| number(field, value)), body)
        .await
        .unwrap_or_else(|t| t)
}

async fn create_instance(
    shared: &Shared,
    caller: &Caller,
    name: &str,
    [capacity, masters, slaves]: [Result<u32, Told>; 3],
    body: Body,
) -> Result<Told, Told> {
    let (capacity, masters, slaves) = (capacity?, masters?, slaves?);
    let body = text(body, BODY_BYTES_MAX).await.map_err(failed)?;
    let create: Create = serde_json::from_str(if body.trim().is_empty() { "{}" } else { &body })
        .map_err(|err| told(StatusCode::BAD_REQUEST, format!("the body is not {{\"Distribution\": 1}}: {err}")))?;
    let spec = json!({
        "masters": masters, "replicas": slaves, "memory": format!("{capacity}Mi"), "distribution": create.distribution,
        "auth": "none", // Its scripts know no passwords.
    });
    let document = json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec});
    let documents = parse_documents(&document.to_string()).map_err(|errors| failed(Problem::invalid(errors)))?;
    let only_new = Options { dry_run: false, if_match: Some(0) };
    match write::apply(&shared.state, caller, &documents, only_new).await {
        Ok(_) => {
            tracing::info!(instance = name, "declared by mr-redis' API");
            Ok(told(StatusCode::CREATED, "Request Accepted, Instance will be created."))
        }
        Err(Problem { status: 409 | 412, .. }) => {
            Ok(told(StatusCode::OK, format!("Instance {name} already exist, cannot be created")))
        }
        Err(problem) => Err(failed(problem)),
    }
}

/// `DELETE /v1/DELETE/NAME`.
pub(super) async fn delete(State(shared): Shares, Extension(caller): Who, Path(name): Path<String>) -> Told {
    if let Err(refused) = permit(&caller, Level::Admin, &name) {
        return failed(refused);
    }
    if shared.state.board.get(&name).is_some_and(|view| view.deleting) {
        return told(StatusCode::UNAUTHORIZED, format!("Instance {name} is already deleted"));
    }
    match write::request_deletion(&shared.state, &caller, &name).await {
        Ok(()) => {
            tracing::info!(instance = name, "deletion was asked for by mr-redis' API");
            told(StatusCode::OK, "Request Placed for destroying")
        }
        Err(Problem { status: 404, .. }) => {
            told(StatusCode::UNAUTHORIZED, format!("Instance {name} does not exist, cannot be deleted"))
        }
        Err(problem) => failed(problem),
    }
}

/// `PUT /v1/UPDATE/NAME/Memory/MB`.
pub(super) async fn update_memory(
    State(shared): Shares,
    Extension(caller): Who,
    Path((name, capacity)): Path<(String, String)>,
) -> Told {
    let change = number("capacity", &capacity).map(|mib| json!({"memory": format!("{mib}Mi")}));
    update(&shared, &caller, &name, change, "Upgrading the instance").await
}

/// `PUT /v1/UPDATE/NAME/SLAVES/N`.
pub(super) async fn update_slaves(
    State(shared): Shares,
    Extension(caller): Who,
    Path((name, slaves)): Path<(String, String)>,
) -> Told {
    let change = number("slaves", &slaves).map(|slaves| json!({"replicas": slaves}));
    update(&shared, &caller, &name, change, "Upgrading the instance slaves").await
}

async fn update(
    shared: &Shared,
    caller: &Caller,
    name: &str,
    change: Result<serde_json::Value, Told>,
    done: &str,
) -> Told {
    if let Err(refused) = permit(caller, Level::Write, name) {
        return failed(refused);
    }
    let change = match change {
        Ok(change) => change,
        Err(wrong) => return wrong,
    };
    match change::change(&shared.state, caller, name, &change).await {
        Ok(()) => {
            tracing::info!(instance = name, %change, "changed by mr-redis' API");
            told(StatusCode::OK, done)
        }
        Err(Problem { status: 404, .. }) => missing(name),
        Err(problem) => failed(problem),
    }
}

fn missing(name: &str) -> Told {
    told(StatusCode::NOT_IMPLEMENTED, format!("Instance {name} does not exist, error"))
}

/// `GET /v1/STATUS/NAME`.
pub(super) async fn status(State(shared): Shares, Extension(caller): Who, Path(name): Path<String>) -> Told {
    if let Err(refused) = permit(&caller, Level::Read, &name) {
        return failed(refused);
    }
    let board = &shared.state.board;
    board.get(&name).map_or_else(|| missing(&name), |view| json_text(&Status::new(&view, board)))
}

/// `GET /v1/STATUS`: those that run.
pub(super) async fn status_all(State(shared): Shares, Extension(caller): Who) -> Told {
    let board = &shared.state.board;
    let mut views = board.list();
    views.retain(|view| caller.may(Level::Read, &view.name));
    let all: Vec<Status> = views.iter().map(|view| Status::new(view, board)).collect();
    json_text(&all.into_iter().filter(|status| status.state == RUNNING).collect::<Vec<_>>())
}

/// JSON as plain text: mr-redis never says what it is.
fn json_text(value: &impl Serialize) -> Told {
    Told(StatusCode::OK, serde_json::to_string(value).expect("names and numbers are JSON"))
}

const RUNNING: &str = "RUNNING";

/// What mr-redis says of an instance.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    name: String,
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(rename = "Status")]
    state: &'static str,
    capacity: u64,
    master: Option<Proc>,
    slaves: Option<Vec<Proc>>,
}

/// What mr-redis says of a node.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Proc {
    #[serde(rename = "IP")]
    ip: String,
    port: String,
    /// MB.
    memory_capacity: u64,
    /// Bytes.
    memory_used: u64,
    /// Seconds.
    uptime: u64,
    clients_connected: u64,
    /// Seconds since the master was last heard.
    last_synced_to_master: u64,
}

impl Status {
    fn new(view: &InstanceView, board: &Board) -> Status {
        let spec = view.instance.as_ref().map(|instance| &instance.spec);
        let capacity = spec.map_or(0, |spec| spec.memory.0 / MIB);
        let proc = |node: &NodeStatus| Proc::new(node, capacity, board);
        let nodes = || view.status.nodes.iter();
        let (mut master, mut slaves) = (None, None);
        let state = state_word(view);
        if state == RUNNING {
            master = nodes().find(|node| Some(&node.address) == view.status.master.as_ref()).map(proc);
            let serves = |node: &&NodeStatus| node.role == Role::Replica && node.state == NodeState::Ready;
            slaves = Some(nodes().filter(serves).map(proc).collect()).filter(|slaves: &Vec<Proc>| !slaves.is_empty());
        }
        let kind = if spec.is_some_and(|spec| spec.replicas > 0) { "MS" } else { "S" };
        Status { name: view.name.clone(), kind, state, capacity, master, slaves }
    }
}

/// DISABLED is a word that mr-redis declared and never used: here it says that no master takes writes.
fn state_word(view: &InstanceView) -> &'static str {
    match view.status.phase {
        _ if view.deleting => "DELETED",
        Phase::Deleting => "DELETED",
        Phase::Pending | Phase::Creating => "CREATING",
        _ if view.status.master.is_some() => RUNNING,
        _ => "DISABLED",
    }
}

impl Proc {
    fn new(node: &NodeStatus, capacity: u64, board: &Board) -> Proc {
        let (ip, port) = crate::sentinel::parts(&node.address);
        let measured = board.measured(&node.task_id);
        Proc {
            ip: ip.to_string(),
            port: port.to_string(),
            memory_capacity: capacity,
            memory_used: measured.map_or(0, |measured| measured.used_memory),
            uptime: measured.map_or(0, |measured| measured.gauges.uptime_s),
            clients_connected: measured.map_or(0, |measured| measured.gauges.clients),
            last_synced_to_master: measured.map_or(0, |measured| measured.gauges.last_io_s),
        }
    }
}
