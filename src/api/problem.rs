//! Errors as answers: problem details (RFC 9457). I/O (HTTP types).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::plain::abridge;
use crate::spec::SpecError;
use crate::store;

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// So many errors are told in the detail; all of them are in the list.
const TOLD_MAX: usize = 5;
/// The most characters of a detail, which may repeat what the caller has sent.
const DETAIL_CHARS_MAX: usize = 6000;

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, and what can be done.
    pub detail: String,
    /// What is wrong with the documents that were sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<SpecError>,
}

impl Problem {
    /// A problem of that status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            kind: "about:blank".to_string(),
            title: status.canonical_reason().unwrap_or("Error").to_string(),
            status: status.as_u16(),
            detail: abridge(detail.into(), DETAIL_CHARS_MAX),
            errors: Vec::new(),
        }
    }

    /// There is no such instance.
    pub fn no_instance(name: &str) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, format!("there is no instance {name:?}"))
    }

    /// Others are before the caller.
    pub fn busy() -> Problem {
        let detail = "too many documents are being read already; nothing was done: try again";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// What was sent cannot be done; nothing was changed.
    pub fn invalid(errors: Vec<SpecError>) -> Problem {
        let told: Vec<String> = errors.iter().take(TOLD_MAX).map(SpecError::to_string).collect();
        let more = match errors.len().saturating_sub(TOLD_MAX) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Problem { errors, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, told.join("; ") + &more) }
    }
}

impl From<store::Error> for Problem {
    fn from(err: store::Error) -> Problem {
        let status = match err {
            store::Error::Conflict(_) => StatusCode::CONFLICT,
            store::Error::NotLeader | store::Error::Compacted(_) | store::Error::Unavailable(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Problem::new(status, err.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let kind = HeaderValue::from_static(PROBLEM_JSON);
        (status, [(header::CONTENT_TYPE, kind)], body).into_response()
    }
}
