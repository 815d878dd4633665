//! The two clusters that every scenario runs on, behind one interface. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use redisctl::local;

use crate::operator::BINARY;
use crate::support::mesos::{Mesos, SeenTask};
use crate::support::{Administrator, AgentSpec, process, wait_until};
use crate::world::TIMEOUT;

/// Which cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The local cluster of `src/local`, in this process.
    Local,
    /// Apache Mesos.
    Mesos,
}

/// A cluster under test.
pub enum Cluster {
    /// The local cluster.
    Local(local::Cluster),
    /// Apache Mesos.
    Mesos(Mesos),
}

/// Does the same on either; the local cluster knows agents by hostname, the other by index.
macro_rules! on_agent {
    ($self:expr, $agent:expr, $call:ident) => {
        match $self {
            Cluster::Local(cluster) => cluster.$call(&hostname($agent)).expect("an agent of that name was started"),
            Cluster::Mesos(cluster) => cluster.$call($agent),
        }
    };
}

impl Cluster {
    /// A master and these agents.
    pub async fn start(kind: Kind, agents: &[AgentSpec]) -> Cluster {
        match kind {
            Kind::Local => Cluster::Local(start_local(agents)),
            Kind::Mesos => Cluster::Mesos(Mesos::start(agents).await),
        }
    }

    /// The local cluster, of which faults can be demanded.
    pub fn local(&self) -> &local::Cluster {
        match self {
            Cluster::Local(cluster) => cluster,
            Cluster::Mesos(_) => panic!("only the local cluster has faults on demand"),
        }
    }

    /// `http://HOST:PORT` of the master.
    pub fn url(&self) -> String {
        match self {
            Cluster::Local(cluster) => format!("http://{}", cluster.master_address()),
            Cluster::Mesos(cluster) => cluster.url(),
        }
    }

    /// The ids of the tasks that run, as far as the cluster knows: not of those that it has lost
    /// sight of.
    pub async fn running_tasks(&self) -> anyhow::Result<BTreeSet<String>> {
        let tasks = Mesos::tasks_of(&self.url(), &["pending_tasks", "tasks", "orphan_tasks"]).await?;
        let over = ["TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_LOST", "TASK_UNREACHABLE"];
        Ok(ids(tasks.into_iter().filter(|task| !over.contains(&task.state.as_str()))))
    }

    /// The ids of the tasks that the master keeps: those that run, and those that are over while
    /// nobody has acknowledged it.
    pub async fn kept_tasks(&self) -> anyhow::Result<BTreeSet<String>> {
        Ok(ids(Mesos::tasks_of(&self.url(), &["pending_tasks", "tasks", "orphan_tasks"]).await?))
    }

    /// The ids of all tasks that were ever launched, as far as this master knows.
    pub async fn launched_tasks(&self) -> anyhow::Result<BTreeSet<String>> {
        let kinds = ["pending_tasks", "tasks", "orphan_tasks", "unreachable_tasks", "completed_tasks"];
        Ok(ids(Mesos::tasks_of(&self.url(), &kinds).await?))
    }

    /// The process ids of the redis-servers on the cluster's agents.
    pub fn redis_servers(&self) -> Vec<i32> {
        let pids = process::processes_in(&self.home()).into_iter().map(|pid| pid.as_raw_nonzero().get());
        pids.filter(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "redis-server"
        })
        .collect()
    }

    /// The folder of everything: each task's process works in it.
    pub fn home(&self) -> PathBuf {
        match self {
            Cluster::Local(cluster) => cluster.work_dir(),
            Cluster::Mesos(cluster) => cluster.home().to_path_buf(),
        }
    }

    /// Starts another agent, the `number`th from 0.
    pub async fn add_agent(&mut self, number: usize, spec: AgentSpec) {
        match self {
            Cluster::Local(cluster) => cluster.add_agent(local_agent(number, &spec)),
            Cluster::Mesos(cluster) => drop(cluster.add_agent(spec).await),
        }
    }

    /// `kill -9` of the agent only: its tasks run on.
    pub fn kill_agent(&mut self, agent: usize) {
        on_agent!(self, agent, kill_agent);
    }

    /// The agent, its executors and its tasks die at once.
    pub fn kill_machine(&mut self, agent: usize) {
        on_agent!(self, agent, kill_machine);
    }

    /// Starts an agent again, with what it had kept.
    pub fn restart_agent(&mut self, agent: usize) {
        on_agent!(self, agent, restart_agent);
    }

    /// The machine hangs: nothing on it runs, nothing on it ends.
    pub fn freeze_machine(&mut self, agent: usize) {
        on_agent!(self, agent, freeze_machine);
    }

    /// The machine goes on.
    pub fn thaw_machine(&mut self, agent: usize) {
        on_agent!(self, agent, thaw_machine);
    }

    /// The agent is not offered any more; its tasks run on.
    pub async fn deactivate(&self, agent: usize) {
        self.administrator().deactivate(&hostname(agent)).await.expect("the agent is registered");
    }

    /// The agent is offered again, after a drain only once it is drained.
    pub async fn reactivate(&self, agent: usize) {
        let administrator = self.administrator();
        wait_until("the agent is reactivated", TIMEOUT, async || administrator.reactivate(&hostname(agent)).await)
            .await;
    }

    /// The agent will never be back, says the administrator.
    pub async fn mark_gone(&self, agent: usize) {
        self.administrator().gone(&hostname(agent)).await.expect("the agent was registered");
    }

    /// Mesos kills the agent's tasks at once, each with its own grace.
    pub async fn drain(&self, agent: usize) {
        self.administrator().drain(&hostname(agent)).await.expect("the agent is registered, and not in the schedule");
    }

    /// Waits until nothing is left on an agent that was drained.
    pub async fn drained(&self, agent: usize) {
        let administrator = self.administrator();
        wait_until("the agent is drained", TIMEOUT, async || {
            administrator.is_drained(&hostname(agent)).await.unwrap_or_default()
        })
        .await;
    }

    /// The maintenance schedule: this agent alone, from so long from now on for ever.
    pub async fn maintenance(&self, agent: usize, starts_in: Duration) {
        self.administrator().maintenance(&hostname(agent), starts_in).await.expect("the agent is registered");
    }

    /// An empty maintenance schedule.
    pub async fn no_maintenance(&self) {
        self.administrator().no_maintenance().await.expect("the master answers");
    }

    /// What the framework has answered last of each agent in the schedule, `ACCEPT` or `DECLINE`; an
    /// agent of which it has said nothing is not in it.
    pub async fn maintenance_answers(&self) -> BTreeMap<usize, String> {
        let answers = self.administrator().maintenance_answers().await.expect("the master answers");
        answers.into_iter().filter_map(|(host, mut given)| Some((agent_of(&host), given.pop()?))).collect()
    }

    /// A quota: so much memory in MiB at most for a role.
    pub async fn limit_mem(&self, role: &str, mib: u64) {
        self.administrator().limit_mem(role, mib).await.expect("the master allows it");
    }

    /// The framework is removed, and its tasks are killed.
    pub async fn teardown(&self, framework_id: &str) {
        self.administrator().teardown(framework_id).await.expect("the framework is registered");
    }

    /// The ports that the agent offers.
    pub async fn ports(&self, agent: usize) -> RangeInclusive<u16> {
        let administrator = self.administrator();
        wait_until("the agent's ports are known", TIMEOUT, async || administrator.ports(&hostname(agent)).await).await
    }

    fn administrator(&self) -> Administrator {
        Administrator::of(&self.url())
    }

    /// `kill -9` of the Mesos master.
    pub fn kill_master(&mut self) {
        match self {
            Cluster::Local(cluster) => cluster.stop_master(),
            Cluster::Mesos(cluster) => cluster.kill_master(),
        }
    }

    /// Starts the Mesos master again, with its registry.
    pub async fn restart_master(&mut self) {
        match self {
            Cluster::Local(cluster) => cluster.start_master().expect("its port is free again"),
            Cluster::Mesos(cluster) => cluster.restart_master().await,
        }
    }
}

fn ids(tasks: impl IntoIterator<Item = SeenTask>) -> BTreeSet<String> {
    tasks.into_iter().map(|task| task.id).collect()
}

/// The index of the agent with that hostname.
pub fn agent_of(hostname: &str) -> usize {
    let number: usize = hostname.strip_prefix("agent-").and_then(|n| n.parse().ok()).expect("agents are numbered");
    number - 1
}

/// `agent-1` is the first.
fn hostname(agent: usize) -> String {
    format!("agent-{}", agent + 1)
}

fn start_local(agents: &[AgentSpec]) -> local::Cluster {
    let agents = agents.iter().enumerate().map(|(number, spec)| local_agent(number, spec)).collect();
    let config = local::ClusterConfig::new(agents).expect("ports are free").task_helper(BINARY);
    local::Cluster::start(config).expect("the local cluster starts")
}

fn local_agent(number: usize, spec: &AgentSpec) -> local::AgentSpec {
    let agent = local::AgentSpec::new(&hostname(number)).expect("ports are free").cpus(spec.cpus);
    spec.attributes
        .iter()
        .fold(agent.mem(spec.mem).ports(spec.ports), |agent, (name, text)| agent.attribute(name, text))
}
