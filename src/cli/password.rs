//! `redisctl password` and `redisctl secret`: what clients of an instance log in with, and new ones. I/O.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::args::{PasswordArgs, PasswordCommand, SecretArgs, SecretCommand};
use super::client::Client;
use super::outcome::{Exit, failure};
use super::text::print;

/// Runs `redisctl password`.
pub async fn password(client: &Client, args: &PasswordArgs) -> Result<Exit> {
    match &args.command {
        PasswordCommand::Show { name } => {
            let none =
                || failure(Exit::Failed, format!("{name} has no password: `auth: generated` in its spec gives it one"));
            let password = client.password(name).await?.password.ok_or_else(none)?;
            print(&(password + "\n"))?;
        }
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

/// Runs `redisctl secret`.
pub async fn secret(client: &Client, args: &SecretArgs) -> Result<Exit> {
    match &args.command {
        SecretCommand::Set { name, file } => {
            client.put_secret(name, read(file)?).await?;
            print(&format!("secret/{name} written\n"))?;
        }
        SecretCommand::Delete { name } => {
            client.delete_secret(name).await?;
            print(&format!("secret/{name} deleted\n"))?;
        }
    }
    Ok(Exit::Ok)
}

fn read(file: &Path) -> Result<String> {
    if file == Path::new("-") {
        return crate::files::read_all(std::io::stdin()).context("read the standard input");
    }
    crate::files::read_text(file).with_context(|| format!("read {}", file.display()))
}
