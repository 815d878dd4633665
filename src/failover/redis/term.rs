//! Who commands a node: of two leaders the later one. I/O.
//!
//! A leader that is stopped (SIGSTOP) between the look at its lease and a command may wake when another
//! leads, and Redis cannot be told to refuse it. But Redis does one command after the other. So each
//! connection takes the name of its leader's term first, and then reads who else is there: of two terms
//! the one that looks last sees the other. The earlier is cut, or finds the later one there and gives up.
//! Once a later term has looked, no command of an earlier one is done any more, however late it comes.

use std::fmt;
use std::sync::Arc;

use tracing::{debug, warn};

use super::commands::Failure;
use super::connection::Connection;
use super::foreign::{field, id_of, kills};
use super::{Redis, command};
use crate::model::Address;
use crate::passwords::User;

/// How the names of our connections begin; the term's number follows. Where operators have a user of their own,
/// the name says something on its connections only: a client can give itself any.
const PREFIX: &str = "redisctl:";

/// One leader's time in office.
#[derive(Clone)]
pub struct Term {
    /// Greater for each later leader.
    pub number: i64,
    /// Whether it lasts, by our own clock: asked right before each command that changes something.
    pub lasts: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Term").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Redis {
    /// Dials a node in the name of our term, and cuts the connections of earlier ones. Refused where a
    /// later one is.
    pub(super) async fn enter(&self, node: &Address) -> Result<Connection, Failure> {
        let mut connection = self.connect(node).await.map_err(Failure::Lost)?;
        let ours = self.term.number;
        let name = command(&["CLIENT", "SETNAME", &format!("{PREFIX}{ours}")]);
        connection.exchange(&[name]).await?;
        let guarded = self.login(node).is_some();
        let (mut earlier, mut latest) = (Vec::new(), ours);
        let mut look = |line: &str| {
            if let Some((id, term, user)) = commander(line) {
                let is_ours = !guarded || user == User::Operator.name();
                if is_ours {
                    latest = latest.max(term);
                }
                // One without our user was a leader's before there were users, or pretends to be: it goes in any case.
                if term < ours || !is_ours {
                    earlier.push(id);
                }
            }
        };
        connection.clients("normal", &mut look).await?;
        if latest > ours {
            warn!("{node} is commanded by the leader of term {latest}; ours is {ours}");
            return Err(Failure::Refused(format!("a later leader commands it (term {latest}, ours is {ours})")));
        }
        if !earlier.is_empty() {
            debug!("{node}: cutting {} connections of earlier leaders", earlier.len());
            for kills in kills(&earlier) {
                connection.exchange(&kills).await?;
            }
        }
        Ok(connection)
    }
}

/// The id, the term and the user of a leader's connection, from its line of CLIENT LIST.
fn commander(line: &str) -> Option<(u64, i64, &str)> {
    let term = field(line, "name=")?.strip_prefix(PREFIX)?.parse().ok()?;
    Some((id_of(line)?, term, field(line, "user=").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_leaders_tell_a_term() {
        let line = |name: &str| {
            format!("id=7 addr=127.0.0.1:5 laddr=127.0.0.1:6379 fd=8 name={name} age=0 cmd=ping user=redisctl")
        };
        assert_eq!(commander(&line("redisctl:42")), Some((7, 42, "redisctl")));
        for other in ["", "redisctl", "redisctl:", "redisctl:4x", "worker", "id=8"] {
            assert_eq!(commander(&line(other)), None, "{other:?}");
        }
        assert_eq!(commander(""), None);
    }
}
