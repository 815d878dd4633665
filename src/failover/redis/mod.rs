//! The port to Redis: probes, and the few commands that the operator gives. I/O.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use redis::{Cmd, Value};
use rustix::process::{Resource, getrlimit};

use crate::model::{Address, Answer, NoAnswer, Role};

mod connection;
mod info;
mod prober;

use connection::Connection;
use info::{Info, SECTIONS};
pub use prober::{Pace, Prober, Target};

/// The most connections that are kept, whatever the limit of open files: it is above any number of
/// nodes that we were asked for, and an idle connection costs about 1 kB here and 20 kB at the node.
const KEPT_MAX: usize = 16_384;
/// Probes wait for their replies in crowds of some ten.
const SPARE_MAX: usize = 32;
/// What is bigger is given back.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// Asks and commands nodes, over connections that are kept between requests: one for each address,
/// as far as the limit of open files allows. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct Redis {
    timeout: Duration,
    kept_max: usize,
    kept: Arc<Mutex<HashMap<Address, Connection>>>,
    /// Storage for replies to probes, used again and again.
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Redis {
    /// `timeout` is for a request as a whole, a new connection included.
    pub fn new(timeout: Duration) -> Self {
        // Half of the files are left to the store, Mesos and the API's clients.
        let files =
            getrlimit(Resource::Nofile).current.map_or(KEPT_MAX, |max| usize::try_from(max).unwrap_or(KEPT_MAX));
        Redis { timeout, kept_max: KEPT_MAX.min(files / 2), kept: Arc::default(), spare: Arc::default() }
    }

    /// What the node says of itself.
    pub async fn probe(&self, addr: &Address) -> Result<Answer, NoAnswer> {
        let mut replies = self.spare().pop().unwrap_or_default();
        let done = self.converse(addr, &INFO, SECTIONS.len(), &mut replies).await;
        let answer = done.and_then(|()| Info::parse(&connection::text(&replies)?).answer().ok_or(NoAnswer::Garbled));
        let mut spare = self.spare();
        if spare.len() < SPARE_MAX && replies.capacity() <= SPARE_BYTES_MAX {
            spare.push(replies);
        }
        answer
    }

    /// Makes the node a replica of `master`; nothing changes when it is one already.
    pub async fn follow(&self, node: &Address, master: &Address) -> Result<()> {
        let replies = self.ask(node, &[replica_of(master)]).await;
        let replies = replies.map_err(|why| anyhow::anyhow!("{why}"));
        replies.and_then(|replies| accepted(&replies)).with_context(|| format!("make {node} follow {master}"))
    }

    /// Makes a new replica of `master` try again now: one that finds its master not listening yet
    /// waits a second before its next try.
    ///
    /// Guarantees: refused (an error, and nothing is changed) unless the node is a replica of
    /// `master` that has no keys, has its link down and never had one; it cannot be written to in
    /// between.
    ///
    /// Caveats: a handshake that is under way starts anew, so do it once for a node, when its
    /// master has begun to answer.
    pub async fn kick(&self, node: &Address, master: &Address) -> Result<()> {
        let kick = tokio::time::timeout(self.timeout, self.kick_now(node, master)).await;
        kick.unwrap_or_else(|_| bail!("{}", NoAnswer::Timeout))
            .with_context(|| format!("make {node} connect to {master} at once"))
    }

    /// On a connection of its own: what was found out and what is done are about one process.
    async fn kick_now(&self, node: &Address, master: &Address) -> Result<()> {
        let no_answer = |why: NoAnswer| anyhow::anyhow!("{why}");
        let mut connection = Connection::dial(node).await.map_err(no_answer)?;
        let mut replies = Vec::new();
        connection.ask(&INFO, SECTIONS.len(), &mut replies).await.map_err(no_answer)?;
        let text = connection::text(&replies).map_err(no_answer)?;
        let info = Info::parse(&text);
        let answer = info.answer().context("what replies is not Redis")?;
        ensure!(answer.role == Role::Replica, "it is a master");
        ensure!(answer.follows.as_ref() == Some(master), "it follows another master");
        ensure!(answer.keys == 0, "it has {} keys", answer.keys);
        ensure!(!answer.link_up && !answer.syncing, "its link is up or coming up");
        ensure!(info.never_synced(), "it has been in sync before");
        // REPLICAOF to the master that it has already would do nothing.
        let commands = [redis::cmd("MULTI"), no_master(), replica_of(master), redis::cmd("EXEC")];
        let mut replies = Vec::new();
        connection.ask(&packed(&commands), commands.len(), &mut replies).await.map_err(no_answer)?;
        accepted(&connection::values(&replies).map_err(no_answer)?)?;
        self.keep(node, connection);
        Ok(())
    }

    /// Changes settings (CONFIG SET), one after the other. An error names the first that Redis
    /// refused; those before it are set.
    pub async fn configure(&self, node: &Address, settings: &[(String, String)]) -> Result<()> {
        for (name, value) in settings {
            let mut command = redis::cmd("CONFIG");
            command.arg("SET").arg(name).arg(value);
            let replies = self.ask(node, &[command]).await.map_err(|why| anyhow::anyhow!("{why}"));
            replies
                .and_then(|replies| accepted(&replies))
                .with_context(|| format!("set {name} to {value:?} on {node}"))?;
        }
        Ok(())
    }

    /// Closes the kept connection: the node is gone.
    pub fn forget(&self, addr: &Address) {
        self.connections().remove(addr);
    }

    async fn ask(&self, addr: &Address, commands: &[Cmd]) -> Result<Vec<Value>, NoAnswer> {
        let mut replies = Vec::new();
        self.converse(addr, &packed(commands), commands.len(), &mut replies).await?;
        connection::values(&replies)
    }

    /// Sends a request and reads as many replies.
    ///
    /// A kept connection may have been closed since it was last used (by a node that died, was
    /// restarted or ran out of clients). Only a new one tells which, within the same time limit.
    async fn converse(
        &self,
        addr: &Address,
        request: &[u8],
        count: usize,
        replies: &mut Vec<u8>,
    ) -> Result<(), NoAnswer> {
        let conversation = async {
            let kept = self.connections().remove(addr);
            if let Some(mut connection) = kept {
                match connection.ask(request, count, replies).await {
                    Err(NoAnswer::Reset) => {}
                    done => return done.map(|()| connection),
                }
            }
            let mut connection = Connection::dial(addr).await?;
            connection.ask(request, count, replies).await.map(|()| connection)
        };
        let done = tokio::time::timeout(self.timeout, conversation).await;
        self.keep(addr, done.unwrap_or(Err(NoAnswer::Timeout))?);
        Ok(())
    }

    fn keep(&self, addr: &Address, connection: Connection) {
        let mut kept = self.connections();
        if kept.len() < self.kept_max {
            kept.insert(addr.clone(), connection);
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
static INFO: LazyLock<Vec<u8>> = LazyLock::new(|| {
    packed(&SECTIONS.map(|section| {
        let mut command = redis::cmd("INFO");
        command.arg(section);
        command
    }))
});

/// Commands as they are sent, in one go.
fn packed(commands: &[Cmd]) -> Vec<u8> {
    let mut request = Vec::new();
    for command in commands {
        command.write_packed_command(&mut request);
    }
    request
}

fn replica_of(master: &Address) -> Cmd {
    let mut command = redis::cmd("REPLICAOF");
    command.arg(&master.host).arg(master.port);
    command
}

fn no_master() -> Cmd {
    let mut command = redis::cmd("REPLICAOF");
    command.arg("NO").arg("ONE");
    command
}

/// Fails with Redis' words at the first error, also at those inside EXEC's reply.
fn accepted(replies: &[Value]) -> Result<()> {
    for reply in replies {
        match reply {
            Value::ServerError(error) => bail!("Redis refuses: {} {}", error.code(), error.details().unwrap_or("")),
            Value::Array(inner) => accepted(inner)?,
            Value::Nil => bail!("Redis gave up the transaction"),
            _ => {}
        }
    }
    Ok(())
}
