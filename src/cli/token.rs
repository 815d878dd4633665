//! Tokens: a new one with the line of the file that lets it in, and the one that is shown to the API. I/O.

use std::path::Path;

use anyhow::{Context as _, Result};
use reqwest::header::HeaderValue;
use serde_json::json;

use super::args::TokenArgs;
use super::outcome::Exit;
use super::text::print;
use crate::access::new_token;

/// Holds the token where no file is named.
const TOKEN_VARIABLE: &str = "REDISCTL_TOKEN";

/// What is said to who has shown no token, or one that is not known.
pub const HINT: &str = " (by --token-file FILE, or the variable REDISCTL_TOKEN_FILE or REDISCTL_TOKEN)";

/// Runs `redisctl token`: the line goes to the standard output, to be appended to the file of
/// `--auth-tokens`, and the token to the standard error, for nobody but its owner.
pub fn token(args: &TokenArgs) -> Result<Exit> {
    let (token, hash) = new_token();
    let line = json!([{
        "name": args.name, "hash": hash, "access": args.access.to_string(), "instances": args.instances,
    }]);
    print(&serde_yaml::to_string(&line)?)?;
    anstream::eprintln!("the token of {}, which is shown only now: {token}", args.name);
    Ok(Exit::Ok)
}

/// The header of the token: of the file, or of the variable that scripts set.
pub fn header(file: Option<&Path>) -> Result<Option<HeaderValue>> {
    let (token, from) = match (file, std::env::var(TOKEN_VARIABLE)) {
        (Some(file), _) => {
            let from = format!("--token-file {}", file.display());
            (crate::files::read_text(file).with_context(|| from.clone())?, from)
        }
        (None, Ok(token)) => (token, TOKEN_VARIABLE.to_string()),
        (None, Err(_)) => return Ok(None),
    };
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).ok().with_context(|| {
        format!(
            "{from}: what it holds is no token: allowed is one line, as `redisctl token` shows it, and nothing else"
        )
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}
