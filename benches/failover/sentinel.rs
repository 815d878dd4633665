//! Redis Sentinel: three sentinels with a quorum of two, and a server on each machine. I/O.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Duration;

use redis::{Connection, RedisError};
use rustix::process::{Pid, Signal};

use super::client::{Finder, dial};
use super::machines::{HUB, Machines, ip, machine_of};
use super::system::{self, System, Topology};
use crate::common::TIMEOUT;
use crate::common::support::{Home, Process, wait_until};

const SERVERS: usize = 3;
const SERVER_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const QUORUM: usize = 2;
/// As in Sentinel's own documentation.
const FAILOVER_TIMEOUT_MS: u32 = 60_000;
/// `down-after-milliseconds` between rounds: up to 1000, a failover is often followed by another, as
/// the first PING to the new master counts as late.
pub const SETTLING_MS: u32 = 5000;
/// Sentinels may wait for twice their failover timeout before they try again.
const SETTLE_TIMEOUT: Duration = Duration::from_mins(4);

/// Sentinels and servers.
pub struct Sentinel<'a> {
    machines: &'a Machines,
    home: Home,
    servers: Vec<Process>,
    _sentinels: Vec<Process>,
}

impl Sentinel<'_> {
    /// Starts all of it.
    pub async fn start(machines: &Machines) -> Sentinel<'_> {
        let home = Home::new("sentinel");
        let mut sentinel = Sentinel { machines, home, servers: Vec::new(), _sentinels: Vec::new() };
        for i in 0..SERVERS {
            let server = sentinel.spawn(i, (i > 0).then(|| address(0)).as_deref());
            sentinel.servers.push(server);
        }
        let servers = (0..SERVERS).map(address);
        for server in servers {
            wait_until("redis-server answers", TIMEOUT, async || system::info(&server, "server")).await;
        }
        let started = (0..SERVERS).map(|i| sentinel.spawn_sentinel(i)).collect();
        Sentinel { _sentinels: started, ..sentinel }
    }

    /// With the settings that ours has too.
    fn spawn(&self, i: usize, follows: Option<&str>) -> Process {
        let mut command = self.machines.command(i, "redis-server");
        command
            .args(["--port", &SERVER_PORT.to_string(), "--bind", &ip(i), "--protected-mode", "no"])
            .args(["--save", "", "--appendonly", "no", "--repl-diskless-sync", "yes"])
            .args(["--repl-diskless-sync-delay", "0"]);
        if let Some((ip, port)) = follows.and_then(|master| master.split_once(':')) {
            command.args(["--replicaof", ip, port]);
        }
        self.home.spawn(&format!("server-{i}"), &mut command)
    }

    fn spawn_sentinel(&self, i: usize) -> Process {
        let folder = format!("sentinel-{i}");
        let path = self.home.path().join(format!("{folder}.conf"));
        let mut config = format!("port {}\nbind {HUB}\nprotected-mode no\n", sentinel_port(i));
        // Writing to a String cannot fail.
        let _ = writeln!(config, "sentinel monitor bench {} {SERVER_PORT} {QUORUM}", ip(0));
        let _ = writeln!(config, "sentinel failover-timeout bench {FAILOVER_TIMEOUT_MS}");
        fs::write(&path, config).expect("the home can be written");
        self.home.spawn(&folder, Command::new("redis-server").arg(&path).arg("--sentinel"))
    }
}

impl System for Sentinel<'_> {
    async fn settle(&mut self) -> Topology {
        let agreed = async || agreed();
        let master = wait_until("all sentinels agree and all is well", SETTLE_TIMEOUT, agreed).await;
        Topology { master, nodes: (0..SERVERS).map(address).collect() }
    }

    fn listen(&self, old: &str) -> Finder {
        let servers = sentinels();
        Finder::of_switches(&servers, old).and_of_questions(&servers, old)
    }

    async fn recover(&mut self, old: &str, new: Option<&str>, pid: Pid, _signal: Signal) -> bool {
        set_down_after(SETTLING_MS);
        // A stopped one is started anew too: Sentinel lets one that wakes up be for 10 s.
        system::signal(pid, Signal::KILL);
        let i = machine_of(old);
        self.servers[i].kill();
        if let Some(new) = new {
            wait_until("all sentinels have switched", TIMEOUT, async || {
                sentinels().iter().all(|sentinel| {
                    let known = dial(sentinel, TIMEOUT).and_then(|mut c| master_at(&mut c));
                    known.is_ok_and(|known| known == new)
                })
            })
            .await;
        }
        self.servers[i] = self.spawn(i, new);
        true
    }

    fn log(&self) -> String {
        (0..SERVERS).map(|i| self.home.log(&format!("sentinel-{i}"))).collect()
    }
}

/// Sets `down-after-milliseconds`.
pub fn set_down_after(ms: u32) {
    for sentinel in sentinels() {
        let set = redis::cmd("SENTINEL").arg("SET").arg("bench").arg("down-after-milliseconds").arg(ms).clone();
        set.query::<()>(&mut dial(&sentinel, TIMEOUT).expect("it listens")).expect("the setting is right");
    }
}

/// The master that all sentinels agree on, if all they know of is well.
fn agreed() -> anyhow::Result<String> {
    let mut masters = Vec::new();
    for sentinel in sentinels() {
        let mut connection = dial(&sentinel, TIMEOUT)?;
        masters.push(master_at(&mut connection)?);
        let others = entries(&mut connection, "sentinels")?;
        let well = others.iter().filter(|other| field(other, "flags") == "sentinel").count();
        anyhow::ensure!(well == SERVERS - 1, "{sentinel} sees {well} others");
        let replicas = entries(&mut connection, "replicas")?;
        for replica in &replicas {
            let (flags, link) = (field(replica, "flags"), field(replica, "master-link-status"));
            let follows = format!("{}:{}", field(replica, "master-host"), field(replica, "master-port"));
            let well = flags == "slave" && link == "ok" && follows == masters[0];
            anyhow::ensure!(well, "{sentinel} sees {}: {flags}, {follows}: {link}", field(replica, "name"));
        }
        anyhow::ensure!(replicas.len() == SERVERS - 1, "{sentinel} sees {} replicas", replicas.len());
        let master = entries(&mut connection, "masters")?;
        let flags = master.first().map(|master| field(master, "flags")).unwrap_or_default();
        anyhow::ensure!(flags == "master", "{sentinel} sees the master as {flags}");
    }
    anyhow::ensure!(masters.iter().all(|master| *master == masters[0]), "{masters:?}");
    for server in (0..SERVERS).map(address) {
        let info = system::info(&server, "replication")?;
        let expected = if server == masters[0] { "role:master" } else { "master_link_status:up" };
        anyhow::ensure!(info.contains(expected), "{server} is not {expected}");
    }
    Ok(masters.swap_remove(0))
}

type Entry = Vec<(String, String)>;

fn entries(connection: &mut Connection, what: &str) -> Result<Vec<Entry>, RedisError> {
    let mut command = redis::cmd("SENTINEL");
    command.arg(what);
    if what != "masters" {
        command.arg("bench");
    }
    let all: Vec<Vec<String>> = command.query(connection)?;
    Ok(all.iter().map(|words| words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()).collect())
}

fn field<'a>(entry: &'a Entry, name: &str) -> &'a str {
    entry.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

fn master_at(connection: &mut Connection) -> Result<String, RedisError> {
    let ask = redis::cmd("SENTINEL").arg("get-master-addr-by-name").arg("bench").clone();
    ask.query::<(String, u16)>(connection).map(|(ip, port)| format!("{ip}:{port}"))
}

fn address(i: usize) -> String {
    format!("{}:{SERVER_PORT}", ip(i))
}

fn sentinel_port(i: usize) -> u16 {
    SENTINEL_PORT + u16::try_from(i).expect("there are few")
}

fn sentinels() -> Vec<String> {
    (0..SERVERS).map(|i| format!("{HUB}:{}", sentinel_port(i))).collect()
}
