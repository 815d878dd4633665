//! `redisctl password` and `redisctl secret`: what clients of an instance log in with, and new ones. I/O.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use reqwest::Method;

use super::args::{PasswordArgs, PasswordCommand, SecretArgs, SecretCommand};
use super::client::Client;
use super::outcome::{Exit, failure};
use super::text::print;
use crate::api::ClientPassword;
use crate::spec::Period;

/// A rotation takes three passes of some milliseconds; a node that hangs is waited for by them.
const ROTATE_WITHIN: Duration = Duration::from_secs(30);
/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Client {
    /// What clients of an instance log in with.
    pub async fn password(&self, name: &str) -> Result<ClientPassword> {
        self.answer(self.request(Method::GET, &["v1", "instances", name, "password"])).await
    }

    /// Asks for new passwords; the former ones stay valid for so long.
    pub async fn rotate(&self, name: &str, keep_former: Period) -> Result<()> {
        let request = self.request(Method::POST, &["v1", "instances", name, "password", "rotate"]);
        self.done(request.query(&[("keepFormer", keep_former.to_string())])).await
    }
}

/// Runs `redisctl password`.
pub async fn password(client: &Client, args: &PasswordArgs) -> Result<Exit> {
    match &args.command {
        PasswordCommand::Show { name } => {
            let none =
                || failure(Exit::Failed, format!("{name} has no password: `auth: generated` in its spec gives it one"));
            let password = client.password(name).await?.password.ok_or_else(none)?;
            print(&(password + "\n"))?;
        }
        PasswordCommand::Rotate { name, keep_former } => rotate(client, name, *keep_former).await?,
    }
    Ok(Exit::Ok)
}

/// Asks for a rotation, and waits until nodes are told: in an emergency, until no former password is valid.
async fn rotate(client: &Client, name: &str, keep_former: Period) -> Result<()> {
    let before = client.password(name).await?.generation;
    client.rotate(name, keep_former).await?;
    let deadline = tokio::time::Instant::now() + ROTATE_WITHIN;
    let (at_once, mut begun) = (keep_former.0 == 0, false);
    while tokio::time::Instant::now() < deadline {
        let now = client.password(name).await?;
        begun |= now.generation > before;
        if begun && (!at_once || now.former_until.is_none()) {
            return print(&format!("redisinstance/{name} rotated: {}\n", rotated(name, &now, at_once)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let what = if begun { "the former passwords are still valid" } else { "nothing was rotated yet" };
    let hint = format!("`redisctl plan {name}` and `redisctl events {name}` tell why");
    Err(failure(Exit::Failed, format!("{name}: a rotation was asked for, and after {ROTATE_WITHIN:?} {what}: {hint}")))
}

fn rotated(name: &str, now: &ClientPassword, at_once: bool) -> String {
    let operators = "the passwords of operators and replicas are new";
    match (&now.secret, &now.password) {
        (Some(secret), _) => {
            format!("{operators}; clients log in with secret/{secret}: `redisctl secret set {secret}`")
        }
        (None, None) => format!("{operators}; clients need none"),
        (None, Some(_)) => {
            let former = if at_once {
                "all former ones end as soon as the nodes that answer know it"
            } else {
                "the former one stays valid meanwhile"
            };
            format!("`redisctl password show {name}` tells the new password, {former}")
        }
    }
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
        return crate::files::read_whole(std::io::stdin()).context("read the standard input");
    }
    crate::files::read_text(file).with_context(|| format!("read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_says_of_whom_the_passwords_are_that_it_changed() {
        let read = |json: &str| serde_json::from_str::<ClientPassword>(json).unwrap();
        let told = |rest| rotated("shop", &read(&format!(r#"{{"name": "shop", "user": "default", {rest}}}"#)), true);
        assert!(told(r#""password": "p", "secret": "billing""#).ends_with("`redisctl secret set billing`"));
        assert!(told(r#""password": null"#).ends_with("clients need none"));
        assert!(
            told(r#""password": "p""#).contains("`redisctl password show shop` tells the new password, all former")
        );
    }
}
