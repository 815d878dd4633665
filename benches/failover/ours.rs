//! Ours: the release binary as operator, on the real Mesos with an agent on each machine, and etcd. I/O.

use std::time::Duration;

use redisctl::model::InstanceEvent;
use redisctl::status::{InstanceStatus, NodeState, Phase};
use rustix::process::{Pid, Signal};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::client::Finder;
use super::machines::{self, Machines};
use super::system::{self, System, Topology};
use crate::common::support::{Etcd, Home, Mesos, Process, wait_until};
use crate::common::{Operator, TIMEOUT};

const PREFIX: &str = "/bench";
const NODES: usize = 3;
/// The operator lets ever more time pass between launches when nodes of an instance die soon after
/// their start, one after the other: so an instance serves for so many kills.
const KILLS_EACH: usize = 2;

/// The operator and what it stands on.
pub struct Cluster {
    operator: Operator,
    client: reqwest::Client,
    etcd: Etcd,
    _agents: Vec<Process>,
    _home: Home,
    _mesos: Mesos,
}

impl Cluster {
    /// Starts all of it.
    pub async fn start(machines: &Machines) -> Cluster {
        // Mesos' own defaults: it waits 75 s for a lost agent.
        let defaults = [("MESOS_AGENT_PING_TIMEOUT", "15secs"), ("MESOS_MAX_AGENT_PING_TIMEOUTS", "5")];
        let mesos = machines::start_mesos(&defaults).await;
        let (etcd, home) = (Etcd::start().await, Home::new("agents"));
        let agents = (0..machines.count()).map(|i| machines.spawn_agent(i, &home, &mesos)).collect();
        mesos.wait_for_agents(machines.count()).await;
        let operator = Operator::spawn(&etcd.url(PREFIX), &mesos.url());
        operator.wait_until_in_charge().await;
        let client = redisctl::tls::http().timeout(Duration::from_secs(3)).build().expect("a client");
        Cluster { operator, client, etcd, _agents: agents, _home: home, _mesos: mesos }
    }

    /// An instance with two replicas, and more of its spec.
    pub async fn instance(&self, name: &'static str, more: &'static str) -> Ours<'_> {
        let ours = Ours { cluster: self, name, more, kills: 0 };
        ours.declare(0).await;
        ours.declare(1).await;
        ours
    }

    /// What the operator has logged so far.
    pub fn log(&self) -> String {
        self.operator.log()
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, part: &str) -> anyhow::Result<T> {
        let url = format!("{}/v1/instances/{path}", self.operator.url());
        let mut answer: Value = self.client.get(url).send().await?.error_for_status()?.json().await?;
        Ok(serde_json::from_value(answer[part].take())?)
    }
}

/// An instance, and the one that takes its place after some kills.
pub struct Ours<'a> {
    cluster: &'a Cluster,
    name: &'static str,
    /// More of the spec.
    more: &'static str,
    /// Of masters of this instance and those before it.
    kills: usize,
}

impl Ours<'_> {
    /// Of the one that serves now.
    pub fn name(&self) -> String {
        self.nth(self.kills / KILLS_EACH)
    }

    /// Its status.
    pub async fn status(&self) -> anyhow::Result<InstanceStatus> {
        self.cluster.get(&self.name(), "status").await
    }

    /// Its latest events.
    pub async fn events(&self) -> anyhow::Result<Vec<InstanceEvent>> {
        self.cluster.get(&format!("{}/events", self.name()), "items").await
    }

    fn nth(&self, n: usize) -> String {
        format!("{}-{n}", self.name)
    }

    async fn declare(&self, n: usize) {
        let (name, more) = (self.nth(n), self.more);
        let document = format!(
            "apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata: {{name: {name}}}\nspec: {{auth: none, replicas: 2, \
             cpus: 0.1, {more}}}\n"
        );
        self.cluster.etcd.put(&format!("{PREFIX}/instances/{name}"), &document).await;
    }
}

impl System for Ours<'_> {
    async fn settle(&mut self) -> Topology {
        let name = self.name();
        let status = wait_until(&format!("{name} is Ready"), TIMEOUT, async || {
            let status = self.status().await?;
            let ready = status.nodes.iter().filter(|node| node.state == NodeState::Ready).count();
            let all = status.phase == Phase::Ready && ready == NODES && status.nodes.len() == NODES;
            let (phase, nodes) = (status.phase, status.nodes.len());
            anyhow::ensure!(all, "{phase}, {ready} of {nodes} nodes ready, waits: {}", status.waiting.join("; "));
            anyhow::Ok(status)
        })
        .await;
        let nodes = status.nodes.into_iter().map(|node| node.address).collect();
        Topology { master: status.master.expect("it is Ready"), nodes }
    }

    fn listen(&self, old: &str) -> Finder {
        Finder::of_switches(&[self.cluster.operator.sentinel().to_string()], old)
    }

    async fn recover(&mut self, _old: &str, _new: Option<&str>, pid: Pid, signal: Signal) -> bool {
        if signal == Signal::STOP {
            system::signal(pid, Signal::CONT);
            return true;
        }
        self.kills += 1;
        if !self.kills.is_multiple_of(KILLS_EACH) {
            return true;
        }
        let n = self.kills / KILLS_EACH;
        self.cluster.etcd.del(&format!("{PREFIX}/instances/{}", self.nth(n - 1))).await;
        self.declare(n + 1).await;
        false
    }

    fn log(&self) -> String {
        self.cluster.log()
    }
}
