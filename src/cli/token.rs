//! `redisctl token`: a new token, and the line of the file that lets it in. I/O.

use anyhow::Result;
use serde_json::json;

use super::args::TokenArgs;
use super::outcome::Exit;
use super::text::print;
use crate::access::new_token;

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
