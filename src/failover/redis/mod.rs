//! The port to Redis: probes, and the few commands that the operator gives. I/O.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use redis::Cmd;

use crate::model::{Address, Answer, NoAnswer};

mod commands;
mod configure;
mod connection;
mod foreign;
mod info;
mod login;
mod prober;
mod reply;
mod switch;
mod term;
mod watch;

use commands::{Failure, REFUSES};
use connection::Connection;
use info::{Info, SECTIONS};
pub use login::{
    CUT_CLIENTS, Login, MASTER_PASSWORD, OPEN, RIGHTS, USERS, generations, master_password, secret_revision,
};
use login::{Logins, log_in};
pub use prober::{Pace, Prober, Target};
pub use switch::SwitchError;
pub use term::Term;
pub use watch::Watches;

/// Probes wait for their replies in crowds of some ten.
const SPARE_MAX: usize = 32;
/// What is bigger is given back.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// Asks and commands nodes, over connections that are kept between requests: one for each address,
/// as far as the limit of open files allows. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct Redis {
    timeout: Duration,
    term: Term,
    kept: Arc<Mutex<HashMap<Address, Connection>>>,
    /// How to log in where that is needed.
    logins: Logins,
    /// Storage for replies to probes, used again and again.
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Redis {
    /// `timeout` is for a request as a whole, a new connection included; `term` is ours.
    pub fn new(timeout: Duration, term: Term) -> Self {
        Redis { timeout, term, kept: Arc::default(), logins: Arc::default(), spare: Arc::default() }
    }

    /// How to log in at a node from now on; none: it wants nothing.
    pub fn set_login(&self, node: &Address, login: Option<Login>) {
        let known = self.login(node);
        if known.as_deref() == login.as_ref() {
            return;
        }
        let mut logins = self.logins.write().expect("nobody panics with the lock held");
        match login {
            Some(login) => drop(logins.insert(node.clone(), Arc::new(login))),
            None => drop(logins.remove(node)),
        }
    }

    fn login(&self, node: &Address) -> Option<Arc<Login>> {
        self.logins.read().expect("nobody panics with the lock held").get(node).cloned()
    }

    /// A connection on which we have logged in, and whose other side has proved to be the recorded task.
    async fn connect(&self, node: &Address) -> Result<Connection, NoAnswer> {
        let mut connection = Connection::dial(node).await?;
        log_in(&self.logins, node, &mut connection).await?;
        Ok(connection)
    }

    /// What the node says of itself.
    pub async fn probe(&self, addr: &Address) -> Result<Answer, NoAnswer> {
        let mut replies = self.spare().pop().unwrap_or_default();
        // Whoever has a connection waits for nobody: when it is used it may be given up, for those who wait.
        if !self.connections().contains_key(addr) {
            Connection::room().await;
        }
        let done = tokio::time::timeout(self.timeout, self.inquire_kept(addr, &mut replies)).await;
        let done = done.unwrap_or(Err(NoAnswer::Timeout)).map(|connection| self.keep(addr, connection));
        self.understand(done, replies)
    }

    /// The same on this connection. It has no time limit.
    async fn inquire(&self, connection: &mut Connection) -> Result<Answer, NoAnswer> {
        let mut replies = self.spare().pop().unwrap_or_default();
        let done = connection.ask(&INFO, SECTIONS.len(), &mut replies).await;
        self.understand(done, replies)
    }

    fn understand(&self, done: Result<(), NoAnswer>, replies: Vec<u8>) -> Result<Answer, NoAnswer> {
        let answer = done.and_then(|()| Info::parse(&reply::text(&replies)?).answer().ok_or(NoAnswer::Garbled));
        let mut spare = self.spare();
        if spare.len() < SPARE_MAX && replies.capacity() <= SPARE_BYTES_MAX {
            spare.push(replies);
        }
        answer
    }

    /// Closes the kept connection: the node is gone.
    pub fn forget(&self, addr: &Address) {
        self.connections().remove(addr);
    }

    /// A kept connection may have been closed since it was last used (by a node that died, was
    /// restarted or ran out of clients). Only a new one tells which.
    async fn inquire_kept(&self, addr: &Address, replies: &mut Vec<u8>) -> Result<Connection, NoAnswer> {
        let kept = self.connections().remove(addr);
        if let Some(mut connection) = kept {
            match connection.ask(&INFO, SECTIONS.len(), replies).await {
                Err(NoAnswer::Reset) => {}
                done => return done.map(|()| connection),
            }
        }
        let mut connection = self.enter(addr).await.map_err(|failure| match failure {
            Failure::Refused(why) => why.strip_prefix(REFUSES).map_or(NoAnswer::Commanded, NoAnswer::of_error),
            Failure::Lost(why) => why,
        })?;
        connection.ask(&INFO, SECTIONS.len(), replies).await?;
        Ok(connection)
    }

    fn keep(&self, addr: &Address, connection: Connection) {
        if Connection::may_be_kept() {
            self.connections().insert(addr.clone(), connection);
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().expect("nobody panics with the lock held")
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<Address, Connection>> {
        self.kept.lock().expect("nobody panics with the lock held")
    }
}

/// What a probe asks: always the same.
static INFO: LazyLock<Vec<u8>> = LazyLock::new(|| packed(&info_commands()));

fn info_commands() -> [Cmd; SECTIONS.len()] {
    SECTIONS.map(|section| command(&["INFO", section]))
}

fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(word);
    }
    command
}

/// Commands as they are sent, in one go.
fn packed(commands: &[Cmd]) -> Vec<u8> {
    let mut request = Vec::new();
    for command in commands {
        command.write_packed_command(&mut request);
    }
    request
}
