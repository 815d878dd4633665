//! Cuts connections to nodes: of replicas that are no nodes of the instance, and of clients that never log in. I/O.
//!
//! What a replica announces of itself (its address, in INFO) it may make up. So both ends of each link are looked
//! at: a replica of ours says from which address and port it has connected to its master, and whoever is connected
//! to the master from elsewhere is not ours.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use redis::Cmd;

use super::commands::Failure;
use super::connection::Connection;
use super::{Redis, command};
use crate::model::{Address, NoAnswer};

/// Connections that are looked at, and cut, at once: an instance has fewer replicas.
const CONNECTIONS_MAX: usize = 1024;

/// What a connection says last that has not logged in, or has done nothing since it has.
const BEFORE_LOGIN: [&str; 5] = ["NULL", "auth", "hello", "reset", "quit"];
/// A connection with half a command is cut when it has been idle for so many seconds: it takes memory, and nobody
/// sends a command so slowly.
const HALF_IDLE_S: u64 = 2;
/// Connections that are cut by one step.
const IDLE_MAX: usize = 20_000;
/// Connections that are cut in one go: each has a reply.
const CUT_AT_ONCE: usize = 256;

/// One line of CLIENT LIST.
struct Link {
    id: u64,
    /// The other side's address and port.
    from: String,
    /// Its own.
    at: String,
}

impl Redis {
    /// Cuts whoever replicates from `master` and is none of `ours`; answers how many.
    ///
    /// Nobody is cut of whom it is not certain. As many links from a host as there are nodes of ours that do not say
    /// how they are connected may be theirs; where there are more, all of them are cut, and ours come back. Nobody is
    /// cut while a link that one of ours has is not seen at the master, for then addresses are translated between
    /// the two, or it has just connected.
    pub async fn cut_foreign(&self, master: &Address, ours: &[Address]) -> Result<usize> {
        let (mut links, mut unknown) = (BTreeSet::new(), BTreeMap::<&str, usize>::new());
        for node in ours {
            match self.links_of(node, "master").await {
                Ok(found) => links.extend(found.into_iter().map(|link| link.at)),
                Err(_) => *unknown.entry(&node.host).or_default() += 1,
            }
        }
        let replicas = self.links_of(master, "replica").await.with_context(|| format!("look at {master}"))?;
        let seen: BTreeSet<String> = replicas.iter().map(|link| link.from.clone()).collect();
        if !links.is_subset(&seen) {
            return Ok(0);
        }
        let mut unproved = BTreeMap::<&str, Vec<u64>>::new();
        for link in replicas.iter().filter(|link| !links.contains(&link.from)) {
            let host = link.from.rsplit_once(':').map_or("", |(host, _)| host.trim_matches(['[', ']']));
            unproved.entry(host).or_default().push(link.id);
        }
        unproved.retain(|host, ids| ids.len() > unknown.get(host).copied().unwrap_or(0));
        let foreign: Vec<u64> = unproved.into_values().flatten().collect();
        if !foreign.is_empty() {
            let mut connection = self.dial(master).await?;
            self.cut(&mut connection, &foreign).await.with_context(|| format!("cut them at {master}"))?;
            self.keep(master, connection);
        }
        Ok(foreign.len())
    }

    /// Cuts connections of a node that have never said who they are, or have stopped in the middle of a command: nobody
    /// can use them, and whoever opens many keeps its replicas out, or fills its memory. Answers how many.
    pub async fn make_room(&self, node: &Address) -> Result<usize> {
        let mut idle = Vec::new();
        let mut look = |line: &str| {
            let number = |name| field(line, name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            let silent = field(line, "cmd=").is_some_and(|command| BEFORE_LOGIN.contains(&command));
            let half = number("qbuf=") > 0 && number("idle=") >= HALF_IDLE_S;
            let young = number("age=") == 0;
            if (silent || half) && !young && idle.len() < IDLE_MAX {
                idle.extend(id_of(line));
            }
        };
        let mut connection = self.look(node, "normal", &mut look).await?;
        self.cut(&mut connection, &idle).await?;
        self.keep(node, connection);
        Ok(idle.len())
    }

    async fn cut(&self, connection: &mut Connection, ids: &[u64]) -> Result<(), Failure> {
        for kills in kills(ids) {
            self.order(connection, &kills, self.timeout).await?;
        }
        Ok(())
    }

    async fn links_of(&self, node: &Address, kind: &str) -> Result<Vec<Link>, Failure> {
        let mut links = Vec::new();
        let mut look = |line: &str| {
            let of = |name: &str| field(line, name).map(str::to_string);
            if let (Some(id), Some(from), Some(at)) = (id_of(line), of("addr="), of("laddr="))
                && links.len() < CONNECTIONS_MAX
            {
                links.push(Link { id, from, at });
            }
        };
        let connection = self.look(node, kind, &mut look).await?;
        self.keep(node, connection);
        Ok(links)
    }

    /// Shows the lines of CLIENT LIST of that kind; answers the connection that it came by.
    async fn look(
        &self,
        node: &Address,
        kind: &str,
        each: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Connection, Failure> {
        let mut connection = self.dial(node).await?;
        let looked = tokio::time::timeout(self.timeout, connection.clients(kind, each)).await;
        looked.unwrap_or(Err(Failure::Lost(NoAnswer::Timeout)))?;
        Ok(connection)
    }
}

/// Commands that cut connections, in portions. One that has gone meanwhile is no error.
pub(super) fn kills(ids: &[u64]) -> impl Iterator<Item = Vec<Cmd>> {
    ids.chunks(CUT_AT_ONCE)
        .map(|some| some.iter().map(|id| command(&["CLIENT", "KILL", "ID", &id.to_string()])).collect())
}

/// The id of a connection, from its line of CLIENT LIST.
pub(super) fn id_of(line: &str) -> Option<u64> {
    field(line, "id=")?.parse().ok()
}

/// The value of a field of such a line.
pub(super) fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(' ').find_map(|field| field.strip_prefix(name))
}
