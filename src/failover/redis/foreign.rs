//! Cuts replicas of a master that are no nodes of its instance. I/O.
//!
//! What a replica announces of itself (its address, in INFO) it may make up. So both ends of each link are looked
//! at: a replica of ours says from which address and port it has connected to its master, and whoever is connected
//! to the master from elsewhere is not ours.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use redis::{Cmd, Value};

use super::commands::Failure;
use super::{Redis, command};
use crate::model::{Address, NoAnswer};

impl Redis {
    /// Cuts whoever replicates from `master` and is none of `ours`; answers how many.
    ///
    /// Nobody is cut of whom it is not certain: not from a host where one of ours does not say how it is connected;
    /// and nobody at all while a link that one of ours has is not seen at the master, for then addresses are
    /// translated between the two, or it has just connected.
    pub async fn cut_foreign(&self, master: &Address, ours: &[Address]) -> Result<usize> {
        let (mut links, mut unknown_hosts) = (BTreeSet::new(), BTreeSet::new());
        for node in ours {
            match self.connections_of(node, "master").await {
                Ok(lines) => links.extend(lines.iter().filter_map(|line| field(line, "laddr=").map(str::to_string))),
                Err(_) => drop(unknown_hosts.insert(node.host.clone())),
            }
        }
        let replicas = self.connections_of(master, "replica").await.with_context(|| format!("look at {master}"))?;
        let from = |line: &String| field(line, "addr=").map(str::to_string);
        let seen: BTreeSet<String> = replicas.iter().filter_map(from).collect();
        if !links.is_subset(&seen) {
            return Ok(0);
        }
        let foreign = replicas.iter().filter(|line| {
            let from = from(line).unwrap_or_default();
            let host = from.rsplit_once(':').map_or("", |(host, _)| host.trim_matches(['[', ']']));
            !links.contains(&from) && !unknown_hosts.contains(host)
        });
        let cut: Vec<Cmd> =
            foreign.filter_map(|line| Some(command(&["CLIENT", "KILL", "ID", field(line, "id=")?]))).collect();
        if !cut.is_empty() {
            let mut connection = self.dial(master).await?;
            self.order(&mut connection, &cut, self.timeout).await.with_context(|| format!("cut them at {master}"))?;
            self.keep(master, connection);
        }
        Ok(cut.len())
    }

    /// The lines of CLIENT LIST of this type.
    async fn connections_of(&self, node: &Address, kind: &str) -> Result<Vec<String>, Failure> {
        let mut connection = self.dial(node).await?;
        let look = command(&["CLIENT", "LIST", "TYPE", kind]);
        let replies = self.order(&mut connection, &[look], self.timeout).await?;
        self.keep(node, connection);
        match &replies[..] {
            [Value::BulkString(text)] => Ok(String::from_utf8_lossy(text).lines().map(str::to_string).collect()),
            _ => Err(Failure::Lost(NoAnswer::Garbled)),
        }
    }
}

/// The value of a field of such a line.
pub(super) fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(' ').find_map(|field| field.strip_prefix(name))
}
