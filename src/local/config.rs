//! What a local cluster is made of: agents, times, directories, ports. I/O (it probes ports).

use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Ports come in blocks of this size: the first one is held by this process, so that another
/// cluster on this machine takes another block.
const BLOCK: u16 = 100;
/// The lowest block.
const PORTS_FROM: u16 = 10_000;
/// The highest port, exclusive.
const PORTS_TO: u16 = 31_700;
/// A simulated agent has the 999 ports after this one, on an address of its own: above the blocks,
/// whose first port is held on every address, and below what the kernel hands out to outgoing
/// connections.
const SIMULATED_CLAIM: u16 = PORTS_TO;
/// How many networks are tried for a simulated cluster before giving up.
const NETWORK_TRIES: usize = 200;

/// What stands behind a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// A process: the command of the task.
    Redis,
    /// A fake Redis server in this process, for benchmarks with thousands of nodes.
    Simulated,
}

/// A machine that offers resources.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// Unique within the cluster.
    pub hostname: String,
    /// An address of loopback.
    pub ip: String,
    /// CPUs.
    pub cpus: f64,
    /// Memory, in MiB.
    pub mem: u64,
    /// Disk, in MiB.
    pub disk: u64,
    /// The first and the last port.
    pub ports: (u16, u16),
    /// Text attributes.
    pub attributes: Vec<(String, String)>,
    /// Held so that others do not take the ports.
    #[allow(dead_code)] // What counts is that it is open.
    claim: Option<Arc<TcpListener>>,
}

impl AgentSpec {
    /// A machine on 127.0.0.1 with 4 CPUs, 4096 MiB and 99 ports that are free.
    pub fn new(hostname: &str) -> Result<AgentSpec> {
        let (first, claim) = claim_block()?;
        Ok(AgentSpec {
            hostname: hostname.to_string(),
            ip: "127.0.0.1".to_string(),
            cpus: 4.0,
            mem: 4096,
            disk: 10_000,
            ports: (first + 1, first + BLOCK - 1),
            attributes: Vec::new(),
            claim: Some(Arc::new(claim)),
        })
    }

    /// The same with so many CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: f64) -> AgentSpec {
        self.cpus = cpus;
        self
    }

    /// The same with so much memory, in MiB.
    #[must_use]
    pub fn mem(mut self, mem: u64) -> AgentSpec {
        self.mem = mem;
        self
    }

    /// The same with so many ports, at most 99.
    #[must_use]
    pub fn ports(mut self, count: u16) -> AgentSpec {
        self.ports.1 = self.ports.1.min(self.ports.0 + count.max(1) - 1);
        self
    }

    /// The same with this attribute.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: &str) -> AgentSpec {
        self.attributes.push((name.to_string(), value.to_string()));
        self
    }
}

/// How to start a local cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The machines.
    pub agents: Vec<AgentSpec>,
    /// What stands behind a task.
    pub nodes: Nodes,
    /// The port of the master; none: a free one.
    pub master_port: Option<u16>,
    /// The binary that starts a task's process, by its hidden subcommand `__task`.
    pub task_helper: PathBuf,
    /// Where sandboxes are; none: a temporary directory that goes away with the cluster.
    pub work_dir: Option<PathBuf>,
    /// Between two HEARTBEATs.
    pub heartbeat_interval: Duration,
    /// Between two rounds of offers.
    pub allocation_interval: Duration,
    /// From the loss of an agent to `TASK_UNREACHABLE`.
    pub agent_timeout: Duration,
    /// How long agents take to find a new master, or a killed agent to recover.
    pub reregister_delay: Duration,
    /// From the start of a master to its giving up agents that it knew from its registry.
    pub reregister_timeout: Duration,
    /// From an update to its first repetition; doubles each time.
    pub update_retry: Duration,
    /// Held so that others do not take the master's port.
    #[allow(dead_code)] // What counts is that it is open.
    claim: Option<Arc<TcpListener>>,
}

impl ClusterConfig {
    /// A cluster of these agents, with the times of the real Mesos.
    pub fn new(agents: Vec<AgentSpec>) -> Result<ClusterConfig> {
        Ok(ClusterConfig {
            agents,
            nodes: Nodes::Redis,
            master_port: None,
            task_helper: std::env::current_exe().context("find this program's own file")?,
            work_dir: None,
            heartbeat_interval: Duration::from_secs(15),
            allocation_interval: Duration::from_secs(1),
            agent_timeout: Duration::from_secs(3),
            reregister_delay: Duration::from_millis(500),
            reregister_timeout: Duration::from_mins(10),
            update_retry: Duration::from_secs(10),
            claim: None,
        })
    }

    /// Agents `agent-1` to `agent-N` in racks `r1` to `rN`, each with 4 CPUs, 4096 MiB and 99 free ports.
    pub fn demo(agents: u32) -> Result<ClusterConfig> {
        let specs =
            (1..=agents).map(|i| Ok(AgentSpec::new(&format!("agent-{i}"))?.attribute("rack", &format!("r{i}"))));
        ClusterConfig::new(specs.collect::<Result<Vec<_>>>()?)
    }

    /// `agents` large machines in `racks` racks, each with a loopback address of its own, that run
    /// fake Redis servers.
    pub fn simulated(agents: u32, racks: u32) -> Result<ClusterConfig> {
        let (network, claim) = claim_network()?;
        let claim = Arc::new(claim);
        let specs = (0..agents).map(|i| AgentSpec {
            hostname: format!("agent-{}", i + 1),
            ip: format!("127.{network}.{}.{}", i / 250, i % 250 + 1),
            cpus: 64.0,
            mem: 262_144,
            disk: 1_000_000,
            ports: (SIMULATED_CLAIM + 1, SIMULATED_CLAIM + 999),
            attributes: vec![("rack".to_string(), format!("r{}", i % racks.max(1) + 1))],
            claim: Some(claim.clone()),
        });
        Ok(ClusterConfig { nodes: Nodes::Simulated, ..ClusterConfig::new(specs.collect())? })
    }

    /// Uses this binary to start tasks (tests: the built `redisctl`).
    #[must_use]
    pub fn task_helper(mut self, helper: impl Into<PathBuf>) -> ClusterConfig {
        self.task_helper = helper.into();
        self
    }

    pub(super) fn claim_master_port(&mut self) -> Result<u16> {
        if let Some(port) = self.master_port {
            return Ok(port);
        }
        let (first, claim) = claim_block()?;
        self.claim = Some(Arc::new(claim));
        self.master_port = Some(first + 1);
        Ok(first + 1)
    }

    pub(super) fn claim_work_dir(&mut self) -> Result<PathBuf> {
        let dir = self.work_dir.clone().unwrap_or_else(|| {
            std::env::temp_dir().join(format!("redisctl-local-{}-{:08x}", std::process::id(), rand::random::<u32>()))
        });
        // Nodes' data is in it.
        crate::files::private_folder_of_ours(&dir).with_context(|| format!("make directory {}", dir.display()))?;
        Ok(dir)
    }
}

/// Finds a block of free ports and holds its first one.
fn claim_block() -> Result<(u16, TcpListener)> {
    let blocks = (PORTS_TO - PORTS_FROM) / BLOCK;
    let start = rand::random_range(0..blocks); // Those who start at the same moment look at different places.
    for i in 0..blocks {
        let first = PORTS_FROM + (start + i) % blocks * BLOCK;
        let Ok(claim) = TcpListener::bind(("127.0.0.1", first)) else { continue };
        if (first + 1..first + BLOCK).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok((first, claim));
        }
    }
    bail!("no {BLOCK} free ports in a row between {PORTS_FROM} and {PORTS_TO}")
}

/// Finds a network 127.N.0.0 that no other simulated cluster uses, and holds a port there.
fn claim_network() -> Result<(u8, TcpListener)> {
    for _ in 0..NETWORK_TRIES {
        let network: u8 = rand::random_range(1..=254);
        if let Ok(claim) = TcpListener::bind((IpAddr::from([127, network, 0, 1]), SIMULATED_CLAIM)) {
            return Ok((network, claim));
        }
    }
    bail!("no free loopback network for a simulated cluster")
}
