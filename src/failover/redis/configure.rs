//! Settings of a node: made one by one, read back, and told in Redis' own words where it refuses. I/O.

use redis::Value;

use super::commands::{Failure, REFUSES};
use super::connection::Connection;
use super::login::{CUT_CLIENTS, MASTER_PASSWORD, RIGHTS, USERS, setting};
use super::{Redis, command};
use crate::model::Address;
use crate::plain::plain;
use crate::reconcile::tries::{Applied, Refusal};
use crate::spec;

/// Words of others are cut to this: they are kept and shown.
const WORDS_CHARS_MAX: usize = 300;

/// What came of one setting.
enum Set {
    Done,
    Refused(String),
    /// Nothing was learned of the value: the node is away, loads, is busy, or another leads.
    Failed(String),
}

impl Redis {
    /// Changes settings (CONFIG SET, and ACL SETUSER for passwords), one after the other. One that is
    /// refused costs the others nothing; a node that does not answer is given up.
    pub async fn configure(&self, node: &Address, settings: &[(String, String)]) -> Applied {
        let mut applied = Applied::default();
        let mut connection = match self.dial(node).await {
            Ok(connection) => connection,
            Err(why) => return Applied { failed: Some(format!("{node}: {why}")), ..applied },
        };
        for (name, value) in settings {
            match self.set(node, &mut connection, name, value).await {
                Set::Done => applied.set.push((name.clone(), value.clone())),
                Set::Refused(words) => {
                    applied.refused.push(Refusal { name: name.clone(), value: value.clone(), words });
                }
                Set::Failed(why) => return Applied { failed: Some(format!("set {name} of {node}: {why}")), ..applied },
            }
        }
        self.keep(node, connection);
        applied
    }

    async fn set(&self, node: &Address, connection: &mut Connection, name: &str, value: &str) -> Set {
        let Some(commands) = setting(self.login(node).as_deref(), name, value) else {
            return Set::Failed("how to log in there is not known".to_string());
        };
        let secret = [USERS, RIGHTS, MASTER_PASSWORD, CUT_CLIENTS].contains(&name);
        match self.order(connection, &commands, self.timeout).await {
            Ok(_) if secret => Set::Done,
            Ok(_) => self.read_back(connection, name, value).await,
            Err(why) => match value_refused(&why) {
                None => Set::Failed(why.to_string()),
                // What Redis says of passwords repeats what it was told.
                Some(_) if secret => Set::Refused("it refuses these users".to_string()),
                Some(words) => Set::Refused(plain(words, WORDS_CHARS_MAX)),
            },
        }
    }

    /// Whether the node has now what it was told.
    async fn read_back(&self, connection: &mut Connection, name: &str, value: &str) -> Set {
        match self.order(connection, &[command(&["CONFIG", "GET", name])], self.timeout).await {
            Err(why) => Set::Failed(format!("read it back: {why}")),
            Ok(replies) => match found(&replies) {
                Some(found) if spec::reads_as(name, value, &found) => Set::Done,
                found => {
                    Set::Refused(format!("it has {:?} after that", plain(&found.unwrap_or_default(), WORDS_CHARS_MAX)))
                }
            },
        }
    }
}

/// Redis' words, if they are about the value. All other kinds (BUSY, LOADING, NOAUTH, NOPERM, ...) are about the
/// moment.
fn value_refused(why: &Failure) -> Option<&str> {
    let Failure::Refused(words) = why else { return None };
    words.strip_prefix(REFUSES).filter(|words| words.starts_with("ERR "))
}

/// The value of a reply to CONFIG GET of one directive.
fn found(replies: &[Value]) -> Option<String> {
    let Some(Value::Array(pair)) = replies.first() else { return None };
    match pair.get(1)? {
        Value::BulkString(text) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    }
}
