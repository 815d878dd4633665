//! What stands behind the `?` of a request. I/O (HTTP types).
//!
//! A parameter that is not known is refused: a misspelt `dryRun` must not write.

use axum::extract::Query;
use axum::http::{StatusCode, Uri};

use super::problem::Problem;

/// The parameters of a request, all of them known.
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads the parameters; these are allowed.
    pub fn read(uri: &Uri, allowed: &[&str]) -> Result<Params, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|err| bad(format!("the parameters cannot be read: {err}")))?;
        match pairs.iter().find(|(key, _)| !allowed.contains(&key.as_str())) {
            Some((key, _)) if allowed.is_empty() => {
                Err(bad(format!("unknown parameter {key:?}: none is allowed here")))
            }
            Some((key, _)) => Err(bad(format!("unknown parameter {key:?}: allowed are {}", allowed.join(", ")))),
            None => Ok(Params(pairs)),
        }
    }

    /// The value of a parameter; the last one, where it is given more than once.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    /// `?key`, `?key=true`, `?key=false` or nothing.
    pub fn flag(&self, key: &str) -> Result<bool, Problem> {
        match self.get(key) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(bad(format!("{key}={other:?}: allowed are true and false"))),
        }
    }
}

fn bad(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}
