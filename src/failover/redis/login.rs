//! How operators log in at nodes: by which user, with which password. I/O.
//!
//! A node that was just launched takes the passwords that its task was given, one whose passwords are
//! being rotated may take the newer or the older ones, and one that has none takes anybody. So each is
//! tried, the newest first; where none is right we go on without, and the node says what it wants.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use redis::Cmd;

use super::connection::Connection;
use super::{command, packed};
use crate::model::{Address, NoAnswer};
use crate::passwords::{Key, Owner, Password, Secret, User, acl};

/// The setting by which users and their passwords are recorded: generations, newest first, as `3,2`. Where
/// clients have a secret of the user's own, its revision follows, as `3,2;1201`, or 0 where they have none
/// yet. Or [`NO_PASSWORD`].
pub const USERS: &str = "users";
/// The setting by which it is recorded with which password a node follows its master: a generation.
pub const MASTER_PASSWORD: &str = "masterauth";
/// The setting by which it is recorded that clients were cut that had come before a generation.
pub const CUT_CLIENTS: &str = "clients-cut";
/// The value of [`USERS`] where clients need no password.
pub const NO_PASSWORD: &str = "none";

/// The generations of a value of [`USERS`].
pub fn generations(users: &str) -> Vec<u64> {
    let before = users.split(';').next().unwrap_or_default();
    before.split(',').filter_map(|text| text.parse().ok()).collect()
}

/// The revision of the secret of a value of [`USERS`]; none: clients' passwords follow from the key.
pub fn secret_revision(users: &str) -> Option<i64> {
    users.split_once(';')?.1.parse().ok()
}

/// What is needed to log in at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// What passwords follow from.
    pub key: Key,
    /// Whose they are.
    pub owner: Owner,
    /// Which may be valid, newest first.
    pub generations: Vec<u64>,
    /// What clients log in with, if it is of the user's own.
    pub secret: Option<Arc<Secret>>,
}

impl Login {
    fn password(&self, user: User, generation: u64) -> Password {
        self.key.password(&self.owner, user, generation)
    }

    /// The passwords of a user, as recorded. None: a secret that is not known here.
    fn passwords(&self, user: User, recorded: &str) -> Option<Vec<Password>> {
        match secret_revision(recorded).filter(|_| user == User::Client) {
            None => Some(generations(recorded).into_iter().map(|g| self.password(user, g)).collect()),
            Some(0) => Some(Vec::new()),
            Some(_) => Some(self.secret.as_ref()?.passwords.clone()),
        }
    }
}

/// The nodes that want a password.
pub(super) type Logins = Arc<RwLock<HashMap<Address, Arc<Login>>>>;

/// Logs in, if the node is known to want it. An error is the end of the connection.
pub(super) async fn log_in(logins: &Logins, node: &Address, connection: &mut Connection) -> Result<(), NoAnswer> {
    let login = logins.read().expect("nobody panics with the lock held").get(node).cloned();
    let Some(login) = login else { return Ok(()) };
    let mut reply = Vec::new();
    for generation in &login.generations {
        let password = login.password(User::Operator, *generation);
        let auth = packed(&[command(&["AUTH", User::Operator.name(), password.reveal()])]);
        connection.ask(&auth, 1, &mut reply).await?;
        if reply.starts_with(b"+OK") {
            return Ok(());
        }
    }
    Ok(())
}

/// The commands for one setting: those of passwords are made of what is recorded and of the login.
/// None: the login for it is not known.
pub(super) fn setting(login: Option<&Login>, name: &str, value: &str) -> Option<Vec<Cmd>> {
    match name {
        USERS if value == NO_PASSWORD => {
            Some(vec![command(&["ACL", "SETUSER", "default", "reset", "on", "nopass", "~*", "&*", "+@all"])])
        }
        USERS => {
            let login = login?;
            let set = |user: User| {
                let words = acl(user, &login.passwords(user, value)?);
                let words: Vec<&str> = ["ACL", "SETUSER"].into_iter().chain(words.iter().map(String::as_str)).collect();
                Some(command(&words))
            };
            User::ALL.into_iter().map(set).collect()
        }
        MASTER_PASSWORD => {
            let password = login?.password(User::Replica, *generations(value).first()?);
            let user = command(&["CONFIG", "SET", "masteruser", User::Replica.name()]);
            Some(vec![user, command(&["CONFIG", "SET", "masterauth", password.reveal()])])
        }
        CUT_CLIENTS => Some(vec![command(&["CLIENT", "KILL", "USER", User::Client.name()])]),
        _ => Some(vec![command(&["CONFIG", "SET", name, value])]),
    }
}
