//! What a document may refer to: only what its writer may read. I/O (HTTP types).

use axum::http::StatusCode;

use super::problem::Problem;
use crate::access::Caller;
use crate::spec::{Parsed, Path, SpecError};

/// Refuses a document that refers to a secret which its writer may not read, unless the instance has it already:
/// then it was somebody else who allowed it, and the writer gains nothing.
pub(super) fn check(by: &Caller, parsed: &Parsed, before: Option<&str>) -> Result<(), Problem> {
    let secret = parsed.instance.spec.secret();
    let Some(secret) = secret.filter(|secret| Some(*secret) != before && !by.may_use_secret(secret)) else {
        return Ok(());
    };
    let message = format!("{secret:?} is a secret that {} may not read: {}", by.name(), allowed(by));
    let error = SpecError::at(Path::of(["spec", "auth", "secretRef"]), secret, message);
    let problem = Problem::invalid(parsed.locate(vec![error]));
    Err(Problem { errors: problem.errors, ..Problem::new(StatusCode::FORBIDDEN, problem.detail) })
}

/// Refuses to tell what a secret holds. It is looked at when it is told: whoever wrote the document may have been
/// somebody else, or may have had other rights.
pub(super) fn check_use(by: &Caller, instance: &str, secret: &str) -> Result<(), Problem> {
    if by.may_use_secret(secret) {
        return Ok(());
    }
    let who = by.name();
    let detail =
        format!("{instance} has the passwords of the secret {secret}, which {who} may not read: {}", allowed(by));
    Err(Problem::new(StatusCode::FORBIDDEN, detail))
}

fn allowed(caller: &Caller) -> String {
    let patterns = caller.patterns().join(", ");
    format!("its token allows to write instances and to use secrets whose names fit {patterns}, if it allows to write")
}
