//! The world: machines, Mesos, etcd, two operators and instances, and what must hold in the end. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use redisctl::model::{InstanceEvent, Role};
use redisctl::status::InstanceStatus;

use crate::clients::Api;
use crate::operator::{BINARY, Operator};
use crate::support::machines::{self, HUB, Machines, ip};
use crate::support::status::{brief, is_ready};
use crate::support::{Etcd, Home, Mesos, Process, process, redis};

/// Machines with an agent each, one more than an instance has nodes.
pub const AGENTS: usize = 4;
/// The machines after them have an operator each.
pub const FIRST_OPERATOR: usize = AGENTS;
const OPERATORS: usize = 2;
/// What their clients log in with: the secret of that name.
pub const PASSWORD: &str = "chaos";
/// The instances, and more of their spec.
pub const INSTANCES: [(&str, &str); 2] =
    [("orders", ""), ("carts", ", replaceUnreachableAfter: 2s, failover: {detectWithin: 100ms}")];
/// Of each instance.
const NODES: usize = 3;
const PREFIX: &str = "/redisctl";
/// How long all may take to be there at first, on a loaded machine.
const START_TIMEOUT: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Everything that takes part.
pub struct World {
    pub operators: Vec<Operator>,
    pub agents: Vec<Process>,
    pub etcd: Etcd,
    pub mesos: Mesos,
    home: Home,
    machines: Machines,
}

impl World {
    /// All of it, the instances Ready.
    pub async fn start() -> World {
        let machines = Machines::start(AGENTS + OPERATORS).await;
        let (mesos, etcd) = tokio::join!(machines::start_mesos(&[]), Etcd::start_on(HUB));
        let home = Home::new("agents");
        let agents = (0..AGENTS).map(|i| machines.spawn_agent(i, &home, &mesos)).collect();
        mesos.wait_for_agents(AGENTS).await;
        let mesos_url = mesos.url().replace("127.0.0.1", HUB);
        let spawn = |i: usize| {
            let machine = FIRST_OPERATOR + i;
            let program = machines.command(machine, BINARY);
            Operator::spawn_by(&program, &ip(machine), &etcd.url(PREFIX), &mesos_url, &[])
        };
        let operators: Vec<Operator> = (0..OPERATORS).map(spawn).collect();
        for operator in &operators {
            operator.wait_until_it_answers().await;
        }
        let world = World { operators, agents, etcd, mesos, home, machines };
        world.etcd.put(&format!("{PREFIX}/secrets/{PASSWORD}"), PASSWORD).await;
        for (name, more) in INSTANCES {
            let document = format!(
                "apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata: {{name: {name}}}\nspec: {{auth: {{secretRef: {PASSWORD}}}, replicas: 2, \
                 memory: 256Mi, cpus: 0.1, durability: one{more}}}\n"
            );
            world.etcd.put(&format!("{PREFIX}/instances/{name}"), &document).await;
        }
        world.settled(START_TIMEOUT).await.expect("all is well at first");
        world
    }

    /// Starts an agent again, with what it had kept on disk.
    pub fn start_agent(&mut self, i: usize) {
        self.agents[i] = self.machines.spawn_agent(i, &self.home, &self.mesos);
    }

    /// Starts agents again that have ended by themselves, as whatever supervises them would.
    pub fn start_ended_agents(&mut self) {
        for i in 0..AGENTS {
            if !self.agents[i].runs() {
                println!("agent-{i} has ended by itself, and is started again");
                self.start_agent(i);
            }
        }
    }

    /// Where clients ask for the master.
    pub fn api(&self) -> Api {
        Api::new(self.operators.iter().map(Operator::url).collect())
    }

    /// The operator that leads.
    pub async fn leader(&self) -> Option<usize> {
        for (i, operator) in self.operators.iter().enumerate() {
            if operator.view().await.is_ok_and(|view| view.leading) {
                return Some(i);
            }
        }
        None
    }

    /// The status of an instance, from the leader.
    pub async fn status(&self, name: &str) -> anyhow::Result<InstanceStatus> {
        let leader = self.leader().await.ok_or_else(|| anyhow::anyhow!("no operator leads"))?;
        let mut instance = self.operators[leader].get(&format!("/v1/instances/{name}")).await?;
        Ok(serde_json::from_value(instance["status"].take())?)
    }

    /// The events of an instance that are kept, from the leader.
    pub async fn events(&self, name: &str) -> anyhow::Result<Vec<InstanceEvent>> {
        let leader = self.leader().await.ok_or_else(|| anyhow::anyhow!("no operator leads"))?;
        let mut events = self.operators[leader].get(&format!("/v1/instances/{name}/events")).await?;
        let items = if events.is_array() { events } else { events["items"].take() };
        Ok(serde_json::from_value(items)?)
    }

    /// Waits until an instance is Ready; otherwise why it is not.
    pub async fn ready(&self, name: &str, within: Duration) -> Result<(), String> {
        keeps_trying(within, async || self.check_ready(name).await.map(drop)).await
    }

    async fn check_ready(&self, name: &str) -> anyhow::Result<InstanceStatus> {
        let status = self.status(name).await?;
        anyhow::ensure!(is_ready(&status) && status.nodes.len() == NODES, "{name}: {}", brief(&status));
        Ok(status)
    }

    /// Waits until every instance is Ready with one master, and only recorded nodes run; otherwise
    /// what is not so.
    pub async fn settled(&self, within: Duration) -> Result<(), String> {
        keeps_trying(within, async || self.check().await).await
    }

    async fn check(&self) -> anyhow::Result<()> {
        let mut recorded = BTreeSet::new();
        for (name, _) in INSTANCES {
            let status = self.check_ready(name).await?;
            let mut masters = Vec::new();
            for node in &status.nodes {
                let info = info(&node.address).await?;
                let is_master = info.get("role").is_some_and(|role| role == "master");
                anyhow::ensure!(is_master == (node.role == Role::Master), "{} says role {:?}", node.name, info["role"]);
                masters.extend(Some(&node.address).filter(|_| is_master));
                recorded.insert(node.task_id.clone());
            }
            anyhow::ensure!(masters == status.master.iter().collect::<Vec<_>>(), "{name} has masters {masters:?}");
        }
        let tasks = Mesos::tasks_of(&self.mesos.url(), &["pending_tasks", "tasks", "orphan_tasks"]).await?;
        let active = |state: &str| ["TASK_STAGING", "TASK_STARTING", "TASK_RUNNING", "TASK_KILLING"].contains(&state);
        let running: BTreeSet<String> = tasks.into_iter().filter(|t| active(&t.state)).map(|t| t.id).collect();
        anyhow::ensure!(running == recorded, "tasks that run: {running:?}; recorded: {recorded:?}");
        let servers = self.redis_servers();
        anyhow::ensure!(servers == recorded.len(), "{servers} redis-server processes for {} nodes", recorded.len());
        Ok(())
    }

    fn redis_servers(&self) -> usize {
        let name = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let pids = process::processes_in(self.home.path()).into_iter().map(|pid| pid.as_raw_nonzero().get());
        pids.filter(|pid| name(*pid).trim() == "redis-server").count()
    }

    /// Says so when an operator has panicked or ended by itself.
    pub fn panics(&self) -> Option<String> {
        let sound = |operator: &&Operator| operator.runs() && !operator.log().contains("panicked at");
        let unsound = self.operators.len() - self.operators.iter().filter(sound).count();
        (unsound > 0).then(|| format!("{unsound} operators have panicked, or have ended by themselves"))
    }
}

/// All fields of INFO of a node.
pub async fn info(address: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let options = ["--no-auth-warning", "-a", PASSWORD];
    redis::info_with(address, &options).await.map_err(anyhow::Error::msg)
}

/// Waits until the condition holds; otherwise why it does not.
pub async fn keeps_trying(
    within: Duration,
    mut condition: impl AsyncFnMut() -> anyhow::Result<()>,
) -> Result<(), String> {
    let end = Instant::now() + within;
    loop {
        match condition().await {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() >= end => return Err(format!("after {within:?} still: {why:#}")),
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}
