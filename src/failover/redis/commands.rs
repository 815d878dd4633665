//! The commands that change a node's role or settings. I/O.
//!
//! They go over a connection that nobody else uses meanwhile, and that has just given a sign of life: on
//! one that turns out to be closed nobody knows whether the command was done, and a repetition might
//! reach another process. It bears the name of our term (see `term`), so that a later leader cuts it.
//! Commands that change a role and the question what came of them are one transaction (MULTI), so that
//! the answer is of the same moment and the same process.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use redis::{Cmd, Value};

use super::connection::Connection;
use super::info::{Info, SECTIONS};
use super::login::{MASTER_PASSWORD, setting};
use super::{INFO, Redis, command, info_commands, packed, reply};
use crate::model::{Address, Answer, DataSet, NoAnswer, Role};
use crate::passwords::User;
use crate::plain::{TEXT_CHARS_MAX, plain};

/// So long a node that hangs delays what the operator does about its siblings: it is tried again soon.
const REACH_WITHIN: Duration = Duration::from_millis(500);

/// So long a pause lasts that is not ended.
const PAUSE_MS: &str = "1000";

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Redis says no; nothing was changed.
    Refused(String),
    /// No reply: what was asked for may have been done, or still be done.
    Lost(NoAnswer),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(why) => f.write_str(why),
            Failure::Lost(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl Redis {
    /// Makes the node a master, and answers what it is now. Nothing changes when it is one already.
    ///
    /// With `data` only if it has that still: whoever has a dead master's port now may have lured it since
    /// it was asked. So it follows nobody first, and is asked again. One that has lost it stays a replica
    /// of itself, and this answers what it is: no error.
    pub async fn promote(&self, node: &Address, data: Option<&DataSet>) -> Result<Answer> {
        let done = async {
            if let Some(data) = data {
                let held = self.change(node, &detaching(node)).await?;
                if !data.is_in(&held) {
                    return Ok(held);
                }
            }
            let answer = self.change(node, &promoting()).await?;
            ensure!(answer.role == Role::Master, "it still is a replica");
            Ok(answer)
        };
        done.await.with_context(|| format!("make {node} a master"))
    }

    /// Makes the node follow itself, which is nobody: it keeps its data, its replication id and its
    /// offset, but takes no writes, and acknowledges none to the master that it had. Those that
    /// follow it still get what it had when it was detached. Answers what it is now.
    ///
    /// Whoever has the same history can be followed afterwards with a partial resynchronisation,
    /// and it can be promoted. Nothing changes when it is detached already.
    pub async fn detach(&self, node: &Address) -> Result<Answer> {
        let done = async {
            let connection = self.reach(node).await?;
            let answer = self.change_on(node, connection, &detaching(node)).await?;
            ensure!(answer.follows.as_ref() == Some(node), "it does not follow itself");
            Ok(answer)
        };
        done.await.with_context(|| format!("detach {node}"))
    }

    /// Detaches a master that another has replaced, and cuts its clients, so that they look for the
    /// new one. Answers what it is now: it may have taken writes that nobody else has.
    pub async fn fence(&self, node: &Address) -> Result<Answer> {
        let commands = [cutting_clients(), detaching(node)].concat();
        self.change(node, &commands).await.with_context(|| format!("fence {node}"))
    }

    /// Ends the script or the function that the node is busy with, unless that has written.
    ///
    /// Caveats: a busy node answers nothing by which it could prove who it is. Whoever else has its port hears what
    /// he hears at each login, and loses a script.
    pub async fn end_script(&self, node: &Address) -> Result<()> {
        let ended = tokio::time::timeout(self.timeout, self.end_script_now(node)).await;
        ended
            .unwrap_or_else(|_| bail!("{}", NoAnswer::Timeout))
            .with_context(|| format!("end what {node} is busy with"))
    }

    async fn end_script_now(&self, node: &Address) -> Result<()> {
        ensure!((self.term.lasts)(), "this operator leads no more");
        let mut connection = Connection::dial(node).await.map_err(Failure::Lost)?;
        let mut commands = self.login(node).map(|login| login.logins()).unwrap_or_default();
        let logins = commands.len();
        commands.extend([command(&["SCRIPT", "KILL"]), command(&["FUNCTION", "KILL"])]);
        let mut replies = Vec::new();
        connection.ask(&packed(&commands), commands.len(), &mut replies).await.map_err(Failure::Lost)?;
        let ends = reply::values(&replies).map_err(Failure::Lost)?.split_off(logins);
        let words = |end: &Value| match end {
            Value::ServerError(error) => reply::words(error),
            other => format!("{other:?}"),
        };
        let told: Vec<String> = ends.iter().map(words).collect();
        ensure!(ends.contains(&Value::Okay), "{}", plain(&told.join("; "), TEXT_CHARS_MAX));
        Ok(())
    }

    /// Makes the node a replica of `master`, which lets it in by this password, as it is recorded (see
    /// [`MASTER_PASSWORD`]); none: by none. Nothing but the password changes when it is one already.
    pub async fn follow(&self, node: &Address, master: &Address, password: Option<&str>) -> Result<()> {
        let done = async {
            let commands = [self.at_master(node, password)?, vec![replica_of(master)]].concat();
            let mut connection = self.reach(node).await?;
            self.at_once(&mut connection, &commands).await?;
            self.keep(node, connection);
            Ok(())
        };
        done.await.map_err(|why: Failure| anyhow!("{why}")).with_context(|| format!("make {node} follow {master}"))
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
    pub async fn kick(&self, node: &Address, master: &Address, password: Option<&str>) -> Result<()> {
        let kick = tokio::time::timeout(self.timeout, self.kick_now(node, master, password)).await;
        kick.unwrap_or_else(|_| bail!("{}", NoAnswer::Timeout))
            .with_context(|| format!("make {node} connect to {master} at once"))
    }

    /// On one connection: what was found out and what is done are about one process.
    async fn kick_now(&self, node: &Address, master: &Address, password: Option<&str>) -> Result<()> {
        let login = self.at_master(node, password)?;
        let mut connection = self.dial(node).await?;
        let mut replies = Vec::new();
        connection.ask(&INFO, SECTIONS.len(), &mut replies).await.map_err(Failure::Lost)?;
        let text = reply::text(&replies).map_err(Failure::Lost)?;
        let info = Info::parse(&text);
        let answer = info.answer().context("what replies is not Redis")?;
        ensure!(answer.role == Role::Replica, "it is a master");
        ensure!(answer.follows.as_ref() == Some(master), "it follows another master");
        ensure!(answer.keys == 0, "it has {} keys", answer.keys);
        ensure!(!answer.link_up && !answer.syncing, "its link is up or coming up");
        ensure!(info.never_synced(), "it has been in sync before");
        // REPLICAOF to the master that it has already would do nothing.
        let commands = [login, vec![no_master(), replica_of(master)]].concat();
        self.at_once(&mut connection, &commands).await?;
        self.keep(node, connection);
        Ok(())
    }

    /// What tells a node by which password its master lets it in.
    pub(super) fn at_master(&self, node: &Address, password: Option<&str>) -> Result<Vec<Cmd>, Failure> {
        let Some(password) = password else {
            // A master without users lets nobody in who comes with a password, and one was set at the start.
            return Ok(vec![command(&["CONFIG", "SET", "masterauth", ""])]);
        };
        let set = setting(self.login(node).as_deref(), MASTER_PASSWORD, password);
        set.ok_or_else(|| Failure::Refused(format!("how to log in at {node} is not known")))
    }

    /// Does these in one transaction, INFO among them.
    async fn change(&self, node: &Address, commands: &[Cmd]) -> Result<Answer> {
        let connection = self.dial(node).await?;
        Ok(self.change_on(node, connection, commands).await?)
    }

    async fn change_on(&self, node: &Address, mut connection: Connection, commands: &[Cmd]) -> Result<Answer, Failure> {
        let answer = self.transact(&mut connection, commands).await?;
        self.keep(node, connection);
        Ok(answer)
    }

    /// A connection to a node that others do not depend on: if it hangs, the rest goes on soon without it.
    async fn reach(&self, node: &Address) -> Result<Connection, Failure> {
        let reached = tokio::time::timeout(REACH_WITHIN, self.dial(node)).await;
        reached.unwrap_or(Err(Failure::Lost(NoAnswer::Timeout)))
    }

    /// A connection for commands: the kept one if it lives, since nobody need be looked for on it.
    pub(super) async fn dial(&self, node: &Address) -> Result<Connection, Failure> {
        let mut late = NoAnswer::Timeout;
        let dialled = async {
            let kept = self.connections().remove(node);
            if let Some(mut kept) = kept
                && kept.ping().await.is_ok()
            {
                return Ok(kept);
            }
            late = NoAnswer::Unreachable;
            self.enter(node).await
        };
        let dialled = tokio::time::timeout(self.timeout, dialled).await;
        dialled.unwrap_or(Err(Failure::Lost(late)))
    }

    /// What the node says of itself, within this time at most.
    pub(super) async fn ask_of(&self, connection: &mut Connection, patience: Duration) -> Result<Answer, Failure> {
        let answer = tokio::time::timeout(self.timeout.min(patience), self.inquire(connection)).await;
        answer.unwrap_or(Err(NoAnswer::Timeout)).map_err(Failure::Lost)
    }

    /// All of these or none, with nothing between; INFO must be among them.
    pub(super) async fn transact(&self, connection: &mut Connection, commands: &[Cmd]) -> Result<Answer, Failure> {
        let replies = self.at_once(connection, commands).await?;
        let texts = replies.iter().flat_map(|done| match done {
            Value::Array(replies) => replies.as_slice(),
            _ => &[],
        });
        let texts = texts.filter_map(|reply| match reply {
            Value::BulkString(text) => Some(String::from_utf8_lossy(text)),
            _ => None,
        });
        let text = texts.collect::<Vec<_>>().join("\n");
        Info::parse(&text).answer().ok_or(Failure::Lost(NoAnswer::Garbled))
    }

    /// All of these or none, with nothing between. A master whose memory is full refuses whatever stands in a
    /// transaction, but not while its clients are paused: one that was replaced must be fenced then, too.
    async fn at_once(&self, connection: &mut Connection, commands: &[Cmd]) -> Result<Vec<Value>, Failure> {
        let commands = together(commands);
        match self.order(connection, &commands, self.timeout).await {
            Err(Failure::Refused(why)) if why.strip_prefix(REFUSES).is_some_and(|why| why.starts_with("OOM")) => {
                let pause = command(&["CLIENT", "PAUSE", PAUSE_MS, "WRITE"]);
                let paused = [vec![pause], commands, vec![command(&["CLIENT", "UNPAUSE"])]].concat();
                self.order(connection, &paused, self.timeout).await
            }
            done => done,
        }
    }

    /// Does these one after the other if we still lead: whatever changes a node goes through here.
    pub(super) async fn order(
        &self,
        connection: &mut Connection,
        commands: &[Cmd],
        patience: Duration,
    ) -> Result<Vec<Value>, Failure> {
        if !(self.term.lasts)() {
            return Err(Failure::Refused("this operator leads no more".to_string()));
        }
        let done = tokio::time::timeout(self.timeout.min(patience), connection.exchange(commands)).await;
        done.unwrap_or(Err(Failure::Lost(NoAnswer::Timeout)))
    }
}

/// All of these, or none.
fn together(commands: &[Cmd]) -> Vec<Cmd> {
    [&[command(&["MULTI"])], commands, &[command(&["EXEC"])]].concat()
}

/// Takes a node out of replication, and asks what it is then.
pub(super) fn detaching(node: &Address) -> Vec<Cmd> {
    [vec![replica_of(node)], info_commands().to_vec()].concat()
}

/// Asks what a node is, and makes it a replica. Writes that a pause holds back are executed after that, and so
/// refused (READONLY): their clients know that they were not done.
pub(super) fn demoting(master: &Address) -> Vec<Cmd> {
    [info_commands().to_vec(), vec![replica_of(master), command(&["CLIENT", "UNPAUSE"])]].concat()
}

/// Cuts all clients, so that they look for the master. Not operators, where they have a user of their own: who asks
/// at that moment would take the node for one that does not answer.
pub(super) fn cutting_clients() -> Vec<Cmd> {
    let cut = |kind| command(&["CLIENT", "KILL", "TYPE", kind, "USER", User::Client.name(), "SKIPME", "yes"]);
    ["normal", "pubsub"].map(cut).to_vec()
}

/// Makes a node a master, and asks what it is then.
pub(super) fn promoting() -> Vec<Cmd> {
    [vec![no_master()], info_commands().to_vec()].concat()
}

fn replica_of(master: &Address) -> Cmd {
    command(&["REPLICAOF", &master.host, &master.port.to_string()])
}

fn no_master() -> Cmd {
    command(&["REPLICAOF", "NO", "ONE"])
}

/// Before Redis' own words.
pub(super) const REFUSES: &str = "Redis refuses: ";

/// Fails with Redis' words at the first error, also at those inside EXEC's reply.
pub(super) fn accepted(replies: &[Value]) -> Result<()> {
    for reply in replies {
        match reply {
            Value::ServerError(error) => bail!("{REFUSES}{}", reply::words(error)),
            Value::Array(inner) => accepted(inner)?,
            Value::Nil => bail!("Redis gave up the transaction"),
            _ => {}
        }
    }
    Ok(())
}
