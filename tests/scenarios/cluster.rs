//! The two clusters that every scenario runs on, behind one interface. I/O.

use std::collections::BTreeSet;

use crate::support::{AgentSpec, Mesos, process};

/// Which cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Apache Mesos.
    Mesos,
}

/// A cluster under test.
pub enum Cluster {
    /// Apache Mesos.
    Mesos(Mesos),
}

macro_rules! each {
    ($self:expr, $cluster:ident => $call:expr) => {
        match $self {
            Cluster::Mesos($cluster) => $call,
        }
    };
}

impl Cluster {
    /// A master and these agents.
    pub async fn start(kind: Kind, agents: &[AgentSpec]) -> Cluster {
        match kind {
            Kind::Mesos => Cluster::Mesos(Mesos::start(agents).await),
        }
    }

    /// `http://HOST:PORT` of the master.
    pub fn url(&self) -> String {
        each!(self, c => c.url())
    }

    /// The ids of the tasks that run, as far as the cluster knows: not of those that it has lost
    /// sight of.
    pub async fn running_tasks(&self) -> anyhow::Result<BTreeSet<String>> {
        let tasks = each!(self, c => c.tasks().await?);
        let lost = ["TASK_UNREACHABLE", "TASK_LOST"];
        Ok(tasks.into_iter().filter(|task| !lost.contains(&task.state.as_str())).map(|task| task.id).collect())
    }

    /// The process ids of the redis-servers on the cluster's agents.
    pub fn redis_servers(&self) -> Vec<i32> {
        let pids = process::processes_in(each!(self, c => c.home())).into_iter().map(|pid| pid.as_raw_nonzero().get());
        pids.filter(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "redis-server"
        })
        .collect()
    }

    /// The index of the agent with that hostname.
    pub fn agent_of(&self, hostname: &str) -> usize {
        each!(self, c => c.agent_of(hostname))
    }

    /// Starts another agent.
    pub async fn add_agent(&mut self, spec: AgentSpec) {
        each!(self, c => c.add_agent(spec).await);
    }

    /// `kill -9` of the agent only: its tasks run on.
    pub fn kill_agent(&mut self, agent: usize) {
        each!(self, c => c.kill_agent(agent));
    }

    /// The agent, its executors and its tasks die at once.
    pub fn kill_machine(&mut self, agent: usize) {
        each!(self, c => c.kill_machine(agent));
    }

    /// Starts an agent again, with what it had kept.
    pub fn restart_agent(&mut self, agent: usize) {
        each!(self, c => c.restart_agent(agent));
    }

    /// The machine hangs: nothing on it runs, nothing on it ends.
    pub fn freeze_machine(&mut self, agent: usize) {
        each!(self, c => c.freeze_machine(agent));
    }

    /// The machine goes on.
    pub fn thaw_machine(&mut self, agent: usize) {
        each!(self, c => c.thaw_machine(agent));
    }

    /// `kill -9` of the Mesos master.
    pub fn kill_master(&mut self) {
        each!(self, c => c.kill_master());
    }

    /// Starts the Mesos master again, with its registry.
    pub async fn restart_master(&mut self) {
        each!(self, c => c.restart_master().await);
    }
}
