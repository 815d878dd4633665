//! `redisctl connect`: redis-cli on an instance's master, or where that is. I/O.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Result;

use super::args::{ConnectArgs, Print};
use super::client::Client;
use super::outcome::{Exit, failure};
use super::text::print;

/// Runs `redisctl connect`.
pub async fn connect(client: &Client, args: &ConnectArgs) -> Result<Exit> {
    let name = &args.name;
    let instance = client.expect(name).await?;
    let Some(master) = &instance.status.master else {
        let why = instance.waiting().join("; ");
        let why = if why.is_empty() { instance.status.phase.to_string() } else { why };
        return Err(failure(Exit::Failed, format!("{name} has no master that takes writes now: {why}")));
    };
    if args.print == Some(Print::Address) {
        print(&format!("{master}\n"))?;
        return Ok(Exit::Ok);
    }
    let password = client.password(name).await?.password;
    if args.print == Some(Print::Url) {
        let password = password.map(|password| format!("default:{password}@")).unwrap_or_default();
        print(&format!("redis://{password}{master}\n"))?;
        return Ok(Exit::Ok);
    }
    client.notes.tell(); // Who becomes redis-cli tells nothing any more.
    Err(redis_cli(args, master, password.as_deref()))
}

/// Becomes redis-cli. Only returns when it cannot.
fn redis_cli(args: &ConnectArgs, master: &str, password: Option<&str>) -> anyhow::Error {
    let (host, port) = crate::sentinel::parts(master);
    let mut command = Command::new(&args.redis_cli);
    // Not among the arguments, which everybody on the machine sees.
    command.envs(password.map(|password| ("REDISCLI_AUTH", password)));
    let error = command.args(["-h", host, "-p", port]).args(&args.arguments).exec();
    let advice = "name it by --redis-cli, or use --print url with another client";
    failure(Exit::Failed, format!("start {} for {master}: {error}; {advice}", args.redis_cli.display()))
}
