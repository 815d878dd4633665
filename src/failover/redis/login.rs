//! How operators log in at nodes, and how a node proves that it is the recorded task. I/O.
//!
//! A node that was just launched takes the passwords that its task was given, one whose passwords are
//! being rotated may take the newer or the older ones. So each is tried, the newest first. Then the task's
//! mark is read back (see `passwords`): whoever has it not is a stranger, and nothing else is asked of it, told
//! to it or believed of it. Nodes that were launched by versions before marks have none.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use redis::{Cmd, Value};

use super::connection::Connection;
use super::reply::{values, words};
use super::{command, packed};
use crate::model::{Address, NoAnswer};
use crate::passwords::{Key, MARK_USER, Owner, Password, Secret, User, acl, rights_acl};

/// The setting by which users and their passwords are recorded: generations, newest first, as `3,2`. Where
/// clients have a secret of the user's own, its revision follows, as `3,2;1201`, or 0 where they have none
/// yet; where they need no password, `3,2;open`.
pub const USERS: &str = "users";
/// The setting by which it is recorded with which password a node follows its master: a generation and the
/// master's task, as `3@orders-0.18f3a2b4c5d`; the generation alone where the master has no passwords of its own.
pub const MASTER_PASSWORD: &str = "masterauth";
/// The setting by which it is recorded which rights users have: see [`rights`](crate::passwords::rights).
pub const RIGHTS: &str = "users-rights";
/// What follows the generations where clients need no password.
pub const OPEN: &str = "open";
/// The setting by which it is recorded that clients were cut that had come before a generation.
pub const CUT_CLIENTS: &str = "clients-cut";

/// The generations of a value of [`USERS`].
pub fn generations(users: &str) -> Vec<u64> {
    let before = users.split(';').next().unwrap_or_default();
    before.split(',').filter_map(|text| text.parse().ok()).collect()
}

/// The revision of the secret of a value of [`USERS`]; none: clients' passwords follow from the key.
pub fn secret_revision(users: &str) -> Option<i64> {
    users.split_once(';')?.1.parse().ok()
}

/// The generation of a value of [`MASTER_PASSWORD`], and the master's task.
pub fn master_password(value: &str) -> Option<(u64, Option<&str>)> {
    let (generation, task_id) = value.split_once('@').map_or((value, None), |(before, after)| (before, Some(after)));
    Some((generation.parse().ok()?, task_id))
}

/// What is needed to log in at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// What passwords follow from.
    pub key: Key,
    /// Whose they are.
    pub owner: Owner,
    /// The node's task, if that has a mark and passwords of its own.
    pub task_id: Option<String>,
    /// Which may be valid, newest first.
    pub generations: Vec<u64>,
    /// What clients log in with, if it is of the user's own.
    pub secret: Option<Arc<Secret>>,
}

impl Login {
    fn password(&self, user: User, generation: u64) -> Password {
        match &self.task_id {
            Some(task_id) if user != User::Client => self.key.password_at(&self.owner, task_id, user, generation),
            _ => self.key.password(&self.owner, user, generation),
        }
    }

    /// The commands of which one logs an operator in.
    pub(super) fn logins(&self) -> Vec<Cmd> {
        self.generations.iter().map(|generation| self.auth(*generation)).collect()
    }

    fn auth(&self, generation: u64) -> Cmd {
        command(&["AUTH", User::Operator.name(), self.password(User::Operator, generation).reveal()])
    }

    /// What makes a user as recorded. None: its secret is not known here.
    fn acl(&self, user: User, recorded: &str) -> Option<Vec<String>> {
        let rest = recorded.split_once(';').map(|(_, rest)| rest).filter(|_| user == User::Client);
        let passwords: Vec<Password> = match rest {
            None => generations(recorded).into_iter().map(|g| self.password(user, g)).collect(),
            Some(OPEN) => return Some(acl(user, None)),
            Some("0") => Vec::new(),
            Some(_) => self.secret.as_ref()?.passwords.clone(),
        };
        Some(acl(user, Some(&passwords)))
    }
}

/// The nodes that want a password.
pub(super) type Logins = Arc<RwLock<HashMap<Address, Arc<Login>>>>;

/// Logs in, if the node is known to want it, and has it prove that it is the recorded task. An error is the end
/// of the connection.
pub(super) async fn log_in(logins: &Logins, node: &Address, connection: &mut Connection) -> Result<(), NoAnswer> {
    let login = logins.read().expect("nobody panics with the lock held").get(node).cloned();
    let Some(login) = login else { return Ok(()) };
    let mark = login.task_id.as_ref().map(|task_id| login.key.mark(&login.owner, task_id));
    let mut proof = Err(NoAnswer::Unproved);
    for generation in &login.generations {
        let auth = login.auth(*generation);
        let look = mark.as_ref().map(|_| command(&["ACL", "GETUSER", MARK_USER]));
        let commands: Vec<Cmd> = [auth].into_iter().chain(look).collect();
        let mut replies = Vec::new();
        connection.ask(&packed(&commands), commands.len(), &mut replies).await?;
        let replies = values(&replies)?;
        proof = match (&mark, replies.last()) {
            (Some(mark), Some(reply)) => proves(reply, mark),
            _ => Ok(()), // It has no mark. Where no password is right, the node says what it wants.
        };
        if replies.first() == Some(&Value::Okay) {
            break;
        }
    }
    if mark.is_some() { proof } else { Ok(()) }
}

/// Whether the reply to `ACL GETUSER` shows the mark.
fn proves(reply: &Value, mark: &str) -> Result<(), NoAnswer> {
    let is = |value: &Value, text: &str| matches!(value, Value::BulkString(bytes) if bytes == text.as_bytes());
    match reply {
        Value::Array(fields) => {
            let hashes = fields.iter().position(|field| is(field, "passwords")).and_then(|at| fields.get(at + 1));
            let hashes = match hashes {
                Some(Value::Array(hashes)) => hashes.as_slice(),
                _ => &[],
            };
            let digits = mark.trim_start_matches('#');
            if hashes.iter().any(|hash| is(hash, digits)) { Ok(()) } else { Err(NoAnswer::Stranger) }
        }
        Value::Nil => Err(NoAnswer::Stranger),
        Value::ServerError(error) => {
            Err(match NoAnswer::of_error(&words(error)) {
                NoAnswer::NoAuth | NoAnswer::NoPerm | NoAnswer::Error => NoAnswer::Unproved,
                // What has no time or no place for us is asked again.
                later => later,
            })
        }
        _ => Err(NoAnswer::Garbled),
    }
}

/// The commands for one setting: those of passwords are made of what is recorded and of the login.
/// None: the login for it is not known.
pub(super) fn setting(login: Option<&Login>, name: &str, value: &str) -> Option<Vec<Cmd>> {
    match name {
        USERS => {
            let login = login?;
            User::ALL.into_iter().map(|user| Some(set_user(&login.acl(user, value)?))).collect()
        }
        RIGHTS => Some(User::ALL.into_iter().map(|user| set_user(&rights_acl(user))).collect()),
        MASTER_PASSWORD => {
            let (login, (generation, task_id)) = (login?, master_password(value)?);
            let password = match task_id {
                Some(task_id) => login.key.password_at(&login.owner, task_id, User::Replica, generation),
                None => login.key.password(&login.owner, User::Replica, generation),
            };
            let user = command(&["CONFIG", "SET", "masteruser", User::Replica.name()]);
            Some(vec![user, command(&["CONFIG", "SET", "masterauth", password.reveal()])])
        }
        CUT_CLIENTS => Some(vec![command(&["CLIENT", "KILL", "USER", User::Client.name()])]),
        _ => Some(vec![command(&["CONFIG", "SET", name, value])]),
    }
}

fn set_user(words: &[String]) -> Cmd {
    let words: Vec<&str> = ["ACL", "SETUSER"].into_iter().chain(words.iter().map(String::as_str)).collect();
    command(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: &[u8]) -> Result<(), NoAnswer> {
        proves(&values(bytes).expect("it is one").remove(0), "#abc")
    }

    #[test]
    fn only_the_mark_itself_proves_anything() {
        let user = |hash: &str| {
            format!("*4\r\n$5\r\nflags\r\n*1\r\n$3\r\noff\r\n$9\r\npasswords\r\n*1\r\n${}\r\n{hash}\r\n", hash.len())
        };
        assert_eq!(answer(user("abc").as_bytes()), Ok(()));
        for other in
            [&*user("abd"), "*0\r\n", "*-1\r\n", "*2\r\n$9\r\npasswords\r\n$3\r\nabc\r\n", "*1\r\n$3\r\nabc\r\n"]
        {
            assert_eq!(answer(other.as_bytes()), Err(NoAnswer::Stranger), "{other:?}");
        }
        for (reply, why) in [
            ("+OK\r\n", NoAnswer::Garbled),
            (":1\r\n", NoAnswer::Garbled),
            ("$3\r\nabc\r\n", NoAnswer::Garbled),
            ("-NOAUTH Authentication required.\r\n", NoAnswer::Unproved),
            ("-NOPERM this user has no permissions\r\n", NoAnswer::Unproved),
            ("-ERR unknown command 'ACL'\r\n", NoAnswer::Unproved),
            ("-ERR max number of clients reached\r\n", NoAnswer::Full),
            ("-BUSY Redis is busy running a script\r\n", NoAnswer::Busy),
        ] {
            assert_eq!(answer(reply.as_bytes()), Err(why), "{reply:?}");
        }
    }

    #[test]
    fn a_recorded_password_names_its_generation_and_its_task() {
        assert_eq!(master_password("3@orders-0.ff"), Some((3, Some("orders-0.ff"))));
        assert_eq!(master_password("3"), Some((3, None)));
        assert_eq!((master_password(""), master_password("x@y")), (None, None));
    }
}
