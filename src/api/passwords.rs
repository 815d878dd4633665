//! `/v1/instances/NAME/password`, `/v1/secrets/NAME`: what clients log in with, and new ones. I/O.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::instances::text;
use super::problem::Problem;
use super::query::Params;
use super::references;
use super::write;
use super::{Shares, Who, permit, readable};
use crate::access::{Caller, Level};
use crate::board::InstanceView;
use crate::model::{InstanceRecord, Timestamp};
use crate::passwords::{Owner, Password, Secret, User};
use crate::reconcile::{keys, rotation};
use crate::spec::{Period, validate_name};
use crate::store::{Guard, Op, Store, Txn, secret_key, state_key};

/// The longest time for which former passwords stay valid.
const KEEP_MAX_MS: u64 = 52 * 7 * 24 * 3_600_000;

/// More than a secret needs.
const SECRET_BYTES_MAX: usize = 8 << 10;

/// What clients log in with.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientPassword {
    /// The instance.
    pub name: String,
    /// The user, as Redis knows it.
    pub user: String,
    /// Its newest password; null: none is needed.
    pub password: Option<String>,
    /// The secret that it is of, if clients have one of the user's own: rotations leave that as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Counts rotations; absent: it has no passwords.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Until when the one before is valid too (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub former_until: Option<Timestamp>,
}

/// A rotation that has been asked for.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Rotating {
    /// The instance.
    name: String,
    /// Always true.
    rotating: bool,
}

/// The password of an instance's clients. Needs the right to change the instance.
#[utoipa::path(get, path = "/v1/instances/{name}/password", tag = "instances",
    params(("name" = String, Path)),
    responses(
        (status = 200, body = ClientPassword),
        (status = 404, description = "There is no such instance", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn show(
    State(shared): Shares,
    Extension(caller): Who,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Json<ClientPassword>, Problem> {
    Params::read(&uri, &[])?;
    permit(&caller, Level::Write, &name)?;
    let state = &shared.state;
    let found = Box::pin(state.store.get(&state_key(&name))).await?;
    let record = found.and_then(|item| serde_json::from_slice::<InstanceRecord>(&item.value).ok());
    let record = record.ok_or_else(|| Problem::no_instance(&name))?;
    let (password, former_until) = newest(&state.store, &caller, &name, &record).await?;
    if password.is_some() {
        tracing::info!(instance = name, by = %caller, "its password was shown by the API");
    }
    let password = password.map(|password| password.reveal().to_string());
    let generation = record.auth.map(|auth| auth.generation);
    let secret = record.spec.secret().map(str::to_string);
    Ok(Json(ClientPassword { name, user: User::Client.name().to_string(), password, secret, generation, former_until }))
}

/// The newest password of the instance's clients, if they need one; and until when those before are valid (of
/// operators and replicas alone, where clients have a secret of the user's own).
async fn newest(
    store: &Store,
    caller: &Caller,
    name: &str,
    record: &InstanceRecord,
) -> Result<(Option<Password>, Option<Timestamp>), Problem> {
    let Some(auth) = record.auth else { return Ok((None, None)) };
    if auth.open {
        return Ok((None, auth.former_until)); // Operators and replicas have passwords; a client's would be refused.
    }
    let unavailable = |why: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why);
    if let Some(secret) = record.spec.secret() {
        references::check_use(caller, name, secret)?;
        let found = Box::pin(store.get(&secret_key(secret))).await?;
        let read = found.and_then(|item| Secret::parse(&item.value, item.revision).ok());
        let read = read.ok_or_else(|| unavailable(format!("the store has no secret {secret}")))?;
        return Ok((read.passwords.into_iter().next(), auth.former_until));
    }
    let key = Box::pin(keys::find(store)).await.map_err(|error| unavailable(format!("{error:#}")))?;
    let key = key.ok_or_else(|| unavailable("the store has no key of passwords".to_string()))?;
    let owner = Owner { instance: name.to_string(), created_at: record.created_at };
    Ok((Some(key.password(&owner, User::Client, auth.generation)), auth.former_until))
}

/// Asks for new passwords. The former ones stay valid for a while, and nobody is cut off; with `0s`, for an
/// emergency, all former ones end at once, whatever was asked for before, and connections of clients are cut.
#[utoipa::path(post, path = "/v1/instances/{name}/password/rotate", tag = "instances",
    params(
        ("name" = String, Path),
        ("keepFormer" = Option<String>, Query, description = "How long the former ones stay valid: `1h`; a day by \
            default"),
    ),
    responses(
        (status = 202, description = "It is asked for: watch for the event PasswordsRotated or RotationRefused",
            body = Rotating),
        (status = 404, description = "There is no such instance", body = Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "It has no passwords, or a rotation is under way (with `0s` that is no reason)",
            body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn rotate(
    State(shared): Shares,
    Extension(caller): Who,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<(StatusCode, Json<Rotating>), Problem> {
    let params = Params::read(&uri, &["keepFormer"])?;
    permit(&caller, Level::Admin, &name)?;
    let keep = params.get("keepFormer").map(str::parse::<Period>).transpose();
    let wrong = |why: String| Problem::new(StatusCode::BAD_REQUEST, format!("keepFormer: {why}"));
    let keep_ms = keep.map_err(&wrong)?.map(|Period(ms)| ms);
    if let Some(ms) = keep_ms.filter(|ms| *ms > KEEP_MAX_MS) {
        return Err(wrong(format!("{}: allowed is up to {}", Period(ms), Period(KEEP_MAX_MS))));
    }
    let found = Box::pin(shared.state.store.get(&state_key(&name))).await?;
    let record = found.and_then(|item| serde_json::from_slice::<InstanceRecord>(&item.value).ok());
    if let Some(why) = record.and_then(|r| rotation::refusal(r.auth.as_ref(), keep_ms.unwrap_or(rotation::KEEP_MS))) {
        return Err(Problem::new(StatusCode::CONFLICT, format!("{name}: {why}")));
    }
    write::request_rotation(&shared.state, &caller, &name, keep_ms).await?;
    tracing::info!(instance = name, by = %caller, "a rotation of passwords was asked for by the API");
    Ok((StatusCode::ACCEPTED, Json(Rotating { name, rotating: true })))
}

/// A secret that was written.
#[derive(Serialize, utoipa::ToSchema)]
pub struct SecretWritten {
    /// Its name.
    name: String,
    /// The revision of the store.
    revision: i64,
}

/// Writes a secret: passwords that clients of all instances with `auth: {secretRef: NAME}` log in with.
#[utoipa::path(put, path = "/v1/secrets/{name}", tag = "instances",
    params(("name" = String, Path)),
    request_body(content = String, content_type = "text/plain",
        description = "A password on each line, the newest first: any of them lets clients in"),
    responses(
        (status = 200, body = SecretWritten),
        (status = 422, description = "It is no secret", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn put_secret(
    State(shared): Shares,
    Extension(caller): Who,
    Path(name): Path<String>,
    uri: Uri,
    body: Body,
) -> Result<Json<SecretWritten>, Problem> {
    Params::read(&uri, &[])?;
    permit(&caller, Level::Admin, &name)?;
    let invalid = |why: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why);
    validate_name(&name).map_err(invalid)?;
    let text = text(body, SECRET_BYTES_MAX).await?;
    permit(&caller, Level::Admin, &name)?; // Again: a body may take its time, and a token may have gone by then.
    Secret::parse(text.as_bytes(), 0).map_err(invalid)?;
    let put = Op::Put { key: secret_key(&name), value: text.into_bytes() };
    let revision = Box::pin(shared.state.store.commit(Txn { guards: Vec::new(), ops: vec![put] })).await?;
    tracing::info!(secret = name, by = %caller, "a secret was written by the API");
    Ok(Json(SecretWritten { name, revision }))
}

/// Deletes a secret that no instance names any more.
#[utoipa::path(delete, path = "/v1/secrets/{name}", tag = "instances",
    params(("name" = String, Path)),
    responses(
        (status = 204, description = "It is deleted"),
        (status = 404, description = "There is no such secret", body = Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "Instances name it", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete_secret(
    State(shared): Shares,
    Extension(caller): Who,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<StatusCode, Problem> {
    Params::read(&uri, &[])?;
    permit(&caller, Level::Admin, &name)?;
    let names_it = |view: &&Arc<InstanceView>| {
        view.instance.as_ref().is_some_and(|instance| instance.spec.secret() == Some(&name))
    };
    let views = shared.state.board.list();
    let users: Vec<&str> = views.iter().filter(names_it).map(|view| view.name.as_str()).collect();
    if !users.is_empty() {
        let detail = format!("{}: clients log in with the secret {name}", readable(&caller, &users));
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let key = secret_key(&name);
    let no_secret = || Problem::new(StatusCode::NOT_FOUND, format!("there is no secret {name:?}"));
    let found = Box::pin(shared.state.store.get(&key)).await?.ok_or_else(no_secret)?;
    let guards = vec![Guard::Revision { key: key.clone(), revision: found.revision }];
    Box::pin(shared.state.store.commit(Txn { guards, ops: vec![Op::Delete { key }] })).await?;
    tracing::info!(secret = name, by = %caller, "a secret was deleted by the API");
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_when_former_passwords_are_valid_is_read_as_the_api_writes_it() {
        let json = r#"{"name": "orders", "user": "default", "password": "p", "generation": 3,
            "formerUntil": "2026-11-27T12:00:00.000Z"}"#;
        let read: ClientPassword = serde_json::from_str(json).unwrap();
        assert_eq!((read.generation, read.former_until.is_some()), (Some(3), true));
    }
}
