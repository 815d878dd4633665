//! The `OpenAPI` document, made from the handlers and the types. I/O (its two handlers).
//!
//! utoipa describes the envelope and schemars the instance (its schema is also a file of its own):
//! the types here stand for the second in the first, and are filled in by [`openapi`].

use axum::Json;
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::problem::Problem;
use super::{connect, events, framework, instances, operator, passwords, placement, requests, write};
use crate::board;
use crate::spec;

/// An instance: the document as declared, and the status beside it.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code)] // Described, never made: `view.rs` writes the JSON.
pub(super) struct Instance {
    /// Always `redisctl/v1`.
    api_version: String,
    /// Always `RedisInstance`.
    kind: String,
    /// Name, labels, revision.
    metadata: InstanceMetadata,
    /// The spec; null while there never was a valid document.
    #[schema(value_type = Object)]
    spec: (),
    /// The status.
    #[schema(value_type = Object)]
    status: (),
    /// The stored document is not valid, for this reason; `spec` is the last good one.
    invalid: Option<String>,
}

/// Name, labels, revision.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code)]
pub(super) struct InstanceMetadata {
    /// The name.
    name: String,
    /// Labels.
    #[schema(value_type = Object)]
    labels: (),
    /// The revision of the document in the store; 0 when it is gone.
    revision: i64,
    /// When the operator first accepted it (RFC 3339).
    created_at: Option<String>,
    /// Deletion has been asked for.
    deleting: Option<bool>,
    /// What is said is as old as this (RFC 3339): the operator cannot read its store since then. Absent: it is not.
    stale_since: Option<String>,
}

/// A list of instances.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code)]
pub(super) struct InstanceList {
    /// Always `redisctl/v1`.
    api_version: String,
    /// Always `RedisInstanceList`.
    kind: String,
    /// By name.
    items: Vec<Instance>,
}

/// A document: see `/v1/schema`.
#[derive(utoipa::ToSchema)]
#[allow(dead_code)]
pub(super) struct RedisInstanceDocument {
    #[schema(value_type = Object)]
    spec: (),
}

/// Events, oldest first.
#[derive(utoipa::ToSchema)]
#[allow(dead_code)]
pub(super) struct EventList {
    /// The events.
    items: Vec<Event>,
}

/// Something that happened to an instance.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code)]
pub(super) struct Event {
    /// The instance.
    instance: String,
    /// When it last happened (RFC 3339).
    at: String,
    /// When it first happened.
    first_at: String,
    /// How often in a row.
    count: u32,
    /// `Normal` or `Warning`.
    #[schema(rename = "type")]
    kind: String,
    /// One word in CamelCase.
    reason: String,
    /// What it happened to: the node's or the instance's name.
    object: String,
    /// A sentence.
    message: String,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "redisctl", description = "A reconciling operator for Redis on Apache Mesos."),
    paths(
        instances::list,
        instances::get,
        instances::apply,
        instances::put,
        connect::connect,
        requests::delete,
        requests::recreate,
        requests::failover,
        placement::placement,
        passwords::show,
        passwords::rotate,
        passwords::put_secret,
        passwords::delete_secret,
        operator::plan,
        events::of_instance,
        events::of_all,
        operator::operator,
        framework::show,
        framework::reset,
        operator::healthz,
        operator::readyz,
        operator::metrics,
        serve_schema,
        serve_openapi
    ),
    components(schemas(
        Problem,
        spec::SpecError,
        Instance,
        InstanceMetadata,
        InstanceList,
        RedisInstanceDocument,
        Event,
        EventList,
        instances::AppliedAll,
        connect::Connect,
        requests::Deleting,
        requests::Recreating,
        requests::Failover,
        requests::FailingOver,
        crate::placement::Explanation,
        passwords::ClientPassword,
        passwords::Rotating,
        passwords::SecretWritten,
        write::Applied,
        write::Outcome,
        framework::FrameworkView,
        board::OperatorView,
        board::PlanView
    ))
)]
struct Document;

/// The `OpenAPI` document.
pub fn openapi() -> Value {
    let mut document = serde_json::to_value(Document::openapi()).expect("an OpenAPI document is JSON");
    let schemas = &mut document["components"]["schemas"];
    schemas["Instance"]["properties"]["spec"] =
        json!({"anyOf": [{"$ref": "#/components/schemas/InstanceSpec"}, {"type": "null"}]});
    schemas["Instance"]["properties"]["status"] = json!({"$ref": "#/components/schemas/InstanceStatus"});
    let labels = json!({"type": "object", "additionalProperties": {"type": "string"}});
    schemas["InstanceMetadata"]["properties"]["labels"] = labels;
    schemas["RedisInstanceDocument"] = json!({"$ref": "#/components/schemas/RedisInstance"});
    for (name, schema) in spec::components() {
        schemas[name] = schema;
    }
    document
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "operator", responses((status = 200, description = "OpenAPI 3.1")))]
pub(super) async fn serve_openapi() -> Json<Value> {
    Json(openapi())
}

/// The JSON Schema of a document.
#[utoipa::path(get, path = "/v1/schema", tag = "operator",
    responses((status = 200, description = "JSON Schema, draft 2020-12")))]
pub(super) async fn serve_schema() -> Json<Value> {
    Json(spec::schema())
}
