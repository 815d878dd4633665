//! The two clusters behind one interface: three agents of racks r1 to r3. I/O.

use std::path::{Path, PathBuf};

use redisctl::local::{Cluster, ClusterConfig};

use crate::support::{AgentSpec, Mesos, process};

/// The agents of every cluster here.
pub const AGENTS: usize = 3;
/// What each of them offers.
pub const CPUS: f64 = 4.0;
pub const MEM_MIB: u32 = 4096;

/// A cluster under test.
pub enum Rig {
    Local(Cluster),
    Mesos(Box<Mesos>),
}

/// Settings of a local cluster that is tested.
pub fn local_config() -> ClusterConfig {
    let config = ClusterConfig::demo(3).expect("there are free ports");
    config.task_helper(env!("CARGO_BIN_EXE_redisctl"))
}

impl Rig {
    pub fn local() -> Rig {
        Rig::Local(Cluster::start(local_config()).expect("the local cluster starts"))
    }

    pub async fn mesos() -> Rig {
        let agents: Vec<AgentSpec> =
            AgentSpec::racks(AGENTS).into_iter().map(|a| a.cpus(CPUS).mem(MEM_MIB.into())).collect();
        Rig::Mesos(Box::new(Mesos::start(&agents).await))
    }

    /// `HOST:PORT` of the master.
    pub fn address(&self) -> String {
        match self {
            Rig::Local(cluster) => cluster.master_address().to_string(),
            Rig::Mesos(mesos) => mesos.master_address(),
        }
    }

    /// The folder in which all tasks work.
    pub fn home(&self) -> PathBuf {
        match self {
            Rig::Local(cluster) => cluster.work_dir(),
            Rig::Mesos(mesos) => mesos.home().to_path_buf(),
        }
    }

    /// How many processes of that name the agents run.
    pub fn processes(&self, name: &str) -> usize {
        let named = |pid: &i32| {
            std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm"))
                .is_ok_and(|comm| comm.trim() == name)
        };
        let pids = process::processes_in(&self.home()).into_iter().map(|pid| pid.as_raw_nonzero().get());
        pids.filter(named).count()
    }

    pub fn kill_machine(&mut self, host: &str) {
        match self {
            Rig::Local(cluster) => cluster.kill_machine(host).expect("the agent exists"),
            Rig::Mesos(mesos) => mesos.kill_machine(mesos.agent_of(host)),
        }
    }

    pub fn kill_agent(&mut self, host: &str) {
        match self {
            Rig::Local(cluster) => cluster.kill_agent(host).expect("the agent exists"),
            Rig::Mesos(mesos) => mesos.kill_agent(mesos.agent_of(host)),
        }
    }

    pub fn restart_agent(&mut self, host: &str) {
        match self {
            Rig::Local(cluster) => cluster.restart_agent(host).expect("the agent exists"),
            Rig::Mesos(mesos) => mesos.restart_agent(mesos.agent_of(host)),
        }
    }

    pub fn freeze_machine(&mut self, host: &str) {
        match self {
            Rig::Local(cluster) => cluster.freeze_machine(host).expect("the agent exists"),
            Rig::Mesos(mesos) => mesos.freeze_machine(mesos.agent_of(host)),
        }
    }

    pub fn thaw_machine(&mut self, host: &str) {
        match self {
            Rig::Local(cluster) => cluster.thaw_machine(host).expect("the agent exists"),
            Rig::Mesos(mesos) => mesos.thaw_machine(mesos.agent_of(host)),
        }
    }

    pub fn stop_master(&mut self) {
        match self {
            Rig::Local(cluster) => cluster.stop_master(),
            Rig::Mesos(mesos) => mesos.kill_master(),
        }
    }

    pub async fn start_master(&mut self) {
        match self {
            Rig::Local(cluster) => cluster.start_master().expect("the master's port is still ours"),
            Rig::Mesos(mesos) => mesos.restart_master().await,
        }
    }
}
