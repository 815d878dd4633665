//! Changes fields of a stored document, as `scale` and mr-redis' API do. I/O.

use axum::http::StatusCode;
use serde_json::Value;

use super::ApiState;
use super::problem::Problem;
use super::write::{CONFLICTS_MAX, Options, apply, read_one};
use crate::access::Caller;
use crate::offload;
use crate::spec::{Parsed, join_errors, parse_document, parse_documents};

/// Changes fields of the stored document's spec, and nothing else of it.
pub async fn change(state: &ApiState, by: &Caller, name: &str, fields: &Value) -> Result<(), Problem> {
    for attempt in 1.. {
        let stored = read_one(state, name).await?.document.ok_or_else(|| Problem::no_instance(name))?;
        let options = Options { dry_run: false, if_match: Some(stored.revision) };
        let (owner, fields) = (name.to_string(), fields.clone());
        let changed = offload::in_turn(move || changed(&owner, &stored.value, &fields)).await;
        let documents = changed.unwrap_or_else(|| Err(Problem::busy()))?;
        match apply(state, by, &documents, options).await {
            Err(Problem { status: 412, .. }) if attempt < CONFLICTS_MAX => {}
            other => return other.map(drop),
        }
    }
    unreachable!("the last attempt returns")
}

/// A stored document with other fields of its spec.
fn changed(name: &str, stored: &[u8], fields: &Value) -> Result<Vec<Parsed>, Problem> {
    let instance = parse_document(stored).map_err(|errors| {
        let why = format!("the document of {name} is not valid, apply another: {}", join_errors(&errors));
        Problem::new(StatusCode::CONFLICT, why)
    })?;
    let mut document = serde_json::to_value(&instance).expect("a document is JSON");
    for (field, value) in fields.as_object().into_iter().flatten() {
        document["spec"][field] = value.clone();
    }
    parse_documents(&document.to_string()).map_err(Problem::invalid)
}
