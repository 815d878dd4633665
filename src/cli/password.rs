//! `redisctl password`: what clients of an instance log in with, and a new one. I/O.

use anyhow::Result;

use super::args::{PasswordArgs, PasswordCommand};
use super::client::Client;
use super::outcome::{Exit, failure};
use super::text::print;

/// Runs `redisctl password`.
pub async fn password(client: &Client, args: &PasswordArgs) -> Result<Exit> {
    match &args.command {
        PasswordCommand::Show { name } => match client.password(name).await?.password {
            Some(password) => print(&(password + "\n"))?,
            None => {
                let advice = "`auth: generated` in its spec gives it one";
                return Err(failure(Exit::Failed, format!("{name} has no password: {advice}")));
            }
        },
        PasswordCommand::Rotate { name, keep_former } => {
            client.rotate(name, *keep_former).await?;
            print(&format!(
                "redisinstance/{name} rotation asked for: `redisctl password show {name}` tells the new password, the \
                 former one stays valid meanwhile\n"
            ))?;
        }
    }
    Ok(Exit::Ok)
}
