//! The world of a scenario: a cluster, etcd and operators, and what must hold in the end. I/O.

use std::collections::BTreeSet;
use std::time::Duration;

use redisctl::board::PlanView;
use redisctl::model::{InstanceEvent, InstanceRecord, Role};
use redisctl::passwords::{Key, Owner, User};
use redisctl::status::{InstanceStatus, NodeState, NodeStatus};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::cluster::{Cluster, Kind};
use crate::operator::Operator;
pub use crate::support::status::{brief, is_ready};
use crate::support::{AgentSpec, Etcd, holds_for, process, redis, wait_until};

/// How long anything may take, on a loaded machine: far longer than it should, as what is tested is
/// that it happens at all. Scenarios about speed say their own.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// How long is looked to see that nothing happens.
pub const QUIET: Duration = Duration::from_secs(3);
/// `replaceUnreachableAfter` of a node that is waited for longer than any scenario takes.
pub const LONG: &str = "10m";
/// The operator's keys in etcd.
pub const PREFIX: &str = "/redisctl";

/// Everything that takes part.
pub struct World {
    /// Operators first: they are the first to end.
    pub operators: Vec<Operator>,
    pub cluster: Cluster,
    pub etcd: Etcd,
}

impl World {
    /// A cluster of these agents, an empty etcd and one operator that is in charge.
    pub async fn start(kind: Kind, agents: &[AgentSpec]) -> World {
        let mut world = World::without_operator(kind, agents).await;
        world.spawn_operator();
        world.operators[0].wait_until_in_charge(TIMEOUT).await;
        world
    }

    /// The same, and no operator yet.
    pub async fn without_operator(kind: Kind, agents: &[AgentSpec]) -> World {
        let (cluster, etcd) = tokio::join!(Cluster::start(kind, agents), Etcd::start());
        World { operators: Vec::new(), cluster, etcd }
    }

    /// Starts a further operator, and does not wait.
    pub fn spawn_operator(&mut self) {
        self.spawn_operator_with(&[]);
    }

    /// The same with further arguments.
    pub fn spawn_operator_with(&mut self, more: &[&str]) {
        self.operators.push(Operator::spawn(&self.etcd.url(PREFIX), &self.cluster.url(), more));
    }

    /// Kills the first operator, and starts it again at once.
    pub fn restart_operator(&mut self) {
        self.operators[0].kill();
        self.operators[0].spawn_again();
    }

    // --- what users do

    /// `etcdctl put` of a document.
    pub async fn put(&self, name: &str, document: &str) {
        self.etcd.put(&instance_key(name), document).await;
    }

    /// `redisctl ARGS`, which must succeed, against the first operator.
    pub async fn cli(&self, args: &[&str], input: &str) -> String {
        self.operators[0].cli(args, input, TIMEOUT).await.expect("redisctl succeeds")
    }

    /// The same as soon as the first operator does it: one that has just started says no at first.
    pub async fn cli_when_there(&self, args: &[&str]) -> String {
        wait_until("redisctl succeeds", TIMEOUT, async || self.operators[0].cli(args, "", TIMEOUT).await).await
    }

    /// `redis-cli COMMAND` at a node by whoever has stolen the operators' key: clients have not the right.
    pub async fn as_operator(&self, name: &str, node: &NodeStatus, command: &[&str]) -> Result<String, String> {
        let key = self.etcd.get(&format!("{PREFIX}/operator/key")).await.expect("there is a key");
        let state = self.etcd.get(&format!("{PREFIX}/state/{name}")).await.expect("it is recorded");
        let record: InstanceRecord = serde_json::from_str(&state).expect("a record");
        let owner = Owner { instance: name.to_string(), created_at: record.created_at };
        let generation = record.auth.expect("it has passwords").generation;
        let key = Key::from_text(&key).expect("a key");
        let password = key.password_at(&owner, &node.task_id, User::Operator, generation);
        let login = ["--no-auth-warning", "--user", User::Operator.name(), "--pass", password.reveal()];
        redis::cli(&node.address, &[&login, command].concat()).await
    }

    /// What a node has of a setting. Clients have not the right to see it.
    pub async fn setting(&self, name: &str, node: &NodeStatus, setting: &str) -> Result<String, String> {
        let answer = self.as_operator(name, node, &["CONFIG", "GET", setting]).await?;
        Ok(answer.lines().nth(1).unwrap_or_default().to_string())
    }

    // --- what the operator says

    /// GET from the operator that leads.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let mut last = anyhow::anyhow!("no operator was started");
        for operator in &self.operators {
            match operator.view().await {
                Ok(view) if view.leading => return operator.get(path).await,
                Ok(view) => last = anyhow::anyhow!("does not lead: {view:?}"),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// The status of an instance.
    pub async fn status(&self, name: &str) -> anyhow::Result<InstanceStatus> {
        let mut instance = self.get(&format!("/v1/instances/{name}")).await?;
        Ok(serde_json::from_value(instance["status"].take())?)
    }

    /// What the operator would do now.
    pub async fn plan(&self, name: &str) -> anyhow::Result<PlanView> {
        Ok(serde_json::from_value(self.get(&format!("/v1/instances/{name}/plan")).await?)?)
    }

    /// The events of an instance, oldest first.
    pub async fn events(&self, name: &str) -> anyhow::Result<Vec<InstanceEvent>> {
        let events = self.get(&format!("/v1/instances/{name}/events")).await?;
        let items = events.get("items").unwrap_or(&events).clone();
        Ok(serde_json::from_value(items)?)
    }

    /// Waits until an event with that reason is there, and answers its message.
    pub async fn event(&self, name: &str, reason: &str) -> String {
        wait_until(&format!("{name} has an event {reason}"), TIMEOUT, async || {
            let events = self.events(name).await?;
            let found = events.iter().rev().find(|event| event.reason == reason);
            found.map(|event| event.message.clone()).ok_or_else(|| anyhow::anyhow!("{events:?}"))
        })
        .await
    }

    /// The events of an instance that have this reason, oldest first.
    pub async fn events_of(&self, name: &str, reason: &str) -> Vec<InstanceEvent> {
        let events = self.events(name).await.expect("an operator leads and answers");
        events.into_iter().filter(|event| event.reason == reason).collect()
    }

    /// Waits until the status is as `condition` says.
    pub async fn until(&self, name: &str, what: &str, condition: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        wait_until(&format!("{name} {what}"), TIMEOUT, async || {
            let status = self.status(name).await?;
            anyhow::ensure!(condition(&status), "{}", brief(&status));
            Ok(status)
        })
        .await
    }

    /// Waits until the newest document of `name` is in force, with this many nodes, all ready.
    pub async fn ready(&self, name: &str, nodes: usize) -> InstanceStatus {
        let revision = self.etcd.revisions(&instance_key(name)).await[&instance_key(name)];
        self.until(name, &format!("is ready with {nodes} nodes at revision {revision}"), |status| {
            status.observed_revision == revision && is_ready(status) && status.nodes.len() == nodes
        })
        .await
    }

    /// Waits until nothing is left of an instance in the store.
    pub async fn gone(&self, name: &str) {
        wait_until(&format!("{name} is gone"), TIMEOUT, async || {
            let keys = self.keys_of(name).await;
            if keys.is_empty() { Ok(()) } else { Err(format!("{keys:?}")) }
        })
        .await;
    }

    /// The keys in the store that belong to an instance.
    pub async fn keys_of(&self, name: &str) -> Vec<String> {
        let keys = self.etcd.keys(PREFIX).await;
        keys.into_iter().filter(|key| key.split('/').nth(3) == Some(name)).collect()
    }

    // --- what must hold

    /// Waits until all is as it should be, and checks that it stays so: every node's own words agree
    /// with the status, no task runs that is not recorded, and planning again gives nothing.
    pub async fn settled(&self) {
        wait_until("all has settled", TIMEOUT, async || self.check().await).await;
        holds_for("nothing happens any more", Duration::from_secs(1), async || self.check().await).await;
    }

    async fn check(&self) -> anyhow::Result<()> {
        let mut recorded = BTreeSet::new();
        for name in self.names().await {
            let status = self.status(&name).await?;
            anyhow::ensure!(is_ready(&status), "{name}: {}", brief(&status));
            let plan = self.plan(&name).await?;
            anyhow::ensure!(plan == PlanView::default(), "{name}: {plan:?}");
            for node in &status.nodes {
                agrees(node, status.master.as_deref()).await?;
                recorded.insert(node.task_id.clone());
            }
        }
        let running = self.cluster.running_tasks().await?;
        anyhow::ensure!(running == recorded, "running: {running:?}; in the status: {recorded:?}");
        Ok(())
    }

    /// The end of every scenario: all is settled; then every instance is deleted, and nothing is left
    /// of them: no key, no task, no process; the operators end when asked to, and none has panicked.
    pub async fn finish(mut self) {
        self.settled().await;
        for name in self.names().await {
            self.cli(&["delete", &name], "").await;
        }
        self.finish_deleted().await;
    }

    /// The rest of [`World::finish`], once every instance is deleted or about to be.
    pub async fn finish_deleted(&mut self) {
        wait_until("nothing is left of any instance", TIMEOUT, async || {
            let keys = self.etcd.keys(PREFIX).await;
            let left: Vec<&String> =
                keys.iter().filter(|key| !matches!(key.split('/').nth(2), Some("operator" | "operators"))).collect();
            anyhow::ensure!(left.is_empty(), "keys {left:?}");
            let kept = self.cluster.kept_tasks().await?;
            anyhow::ensure!(kept.is_empty(), "tasks {kept:?}");
            let servers = self.cluster.redis_servers();
            anyhow::ensure!(servers.is_empty(), "redis-server processes {servers:?}");
            Ok(())
        })
        .await;
        for operator in &mut self.operators {
            operator.end().await;
            assert!(!operator.log().contains("panicked at"), "an operator panicked");
        }
    }

    /// The names of the instances that are declared.
    pub async fn names(&self) -> Vec<String> {
        let keys = self.etcd.keys(&instance_key("")).await;
        keys.iter().map(|key| key[instance_key("").len()..].to_string()).collect()
    }
}

/// The key of a user's document, with the prefix.
pub fn instance_key(name: &str) -> String {
    format!("{PREFIX}/instances/{name}")
}

/// The master of a status.
pub fn master(status: &InstanceStatus) -> &NodeStatus {
    let mut masters = status.nodes.iter().filter(|node| node.role == Role::Master);
    let master = masters.next().expect("a status with a master");
    assert!(masters.next().is_none(), "two masters: {}", brief(status));
    master
}

/// The replicas of a status.
pub fn replicas(status: &InstanceStatus) -> Vec<&NodeStatus> {
    status.nodes.iter().filter(|node| node.role == Role::Replica).collect()
}

/// The task ids of a status.
pub fn task_ids(status: &InstanceStatus) -> BTreeSet<String> {
    status.nodes.iter().map(|node| node.task_id.clone()).collect()
}

/// The nodes that are ready.
pub fn alive(status: &InstanceStatus) -> Vec<&NodeStatus> {
    status.nodes.iter().filter(|node| node.state == NodeState::Ready).collect()
}

/// Waits until as many nodes as before are ready, the victim not among them, whatever its record
/// says; the others were left alone.
pub async fn living_without(world: &World, before: &InstanceStatus, victim: &NodeStatus) -> InstanceStatus {
    let status = world
        .until("orders", &format!("lives without {}", victim.name), |status| {
            let alive = alive(status);
            alive.len() == before.nodes.len() && alive.iter().all(|node| node.task_id != victim.task_id)
        })
        .await;
    let mut kept = task_ids(before);
    kept.remove(&victim.task_id);
    assert!(task_ids(&status).is_superset(&kept), "a healthy node was replaced: {}", brief(&status));
    status
}

/// The same, and no record of the victim is left.
pub async fn ready_without(world: &World, before: &InstanceStatus, victim: &NodeStatus) -> InstanceStatus {
    living_without(world, before, victim).await;
    world
        .until("orders", &format!("is ready without a trace of {}", victim.name), |status| {
            is_ready(status) && status.nodes.len() == before.nodes.len() && !task_ids(status).contains(&victim.task_id)
        })
        .await
}

/// Checks that what a node says of itself is what the status says of it.
async fn agrees(node: &NodeStatus, master: Option<&str>) -> anyhow::Result<()> {
    let info = redis::info(&node.address).await.map_err(anyhow::Error::msg)?;
    let field = |name: &str| info.get(name).cloned().unwrap_or_default();
    match node.role {
        Role::Master => {
            anyhow::ensure!(field("role") == "master", "{}: {:?}", node.name, field("role"));
            anyhow::ensure!(master == Some(&node.address), "{}: the status' master is {master:?}", node.name);
        }
        Role::Replica => {
            let follows = format!("{}:{}", field("master_host"), field("master_port"));
            anyhow::ensure!(master == Some(&follows), "{} follows {follows}, not {master:?}", node.name);
            anyhow::ensure!(field("master_link_status") == "up", "{}: link {}", node.name, field("master_link_status"));
        }
    }
    Ok(())
}

/// `kill -9` of a node's redis-server.
pub async fn kill_node(node: &NodeStatus) {
    kill_process(pid_of(node).await);
}

/// The process id of a node's redis-server.
pub async fn pid_of(node: &NodeStatus) -> Pid {
    let info = redis::info(&node.address).await.expect("the node answers");
    info["process_id"].parse().ok().and_then(Pid::from_raw).expect("INFO tells the process id")
}

/// `kill -9`.
pub fn kill_process(pid: Pid) {
    rustix::process::kill_process(pid, Signal::KILL).expect("the process runs");
}

/// SIGSTOP: it keeps its connections and answers nobody. Returns when all of it has stopped.
pub fn freeze_process(pid: Pid) {
    process::freeze(pid);
}

/// SIGCONT.
pub fn thaw_process(pid: Pid) {
    rustix::process::kill_process(pid, Signal::CONT).expect("the process is there");
}

/// Writes a key to the master. One that has not heard from its replicas for a moment, on a loaded machine, is asked again.
pub async fn write(status: &InstanceStatus, key: &str, value: &str) {
    let at = &master(status).address;
    wait_until("the master takes a write", TIMEOUT, async || redis::cli(at, &["SET", key, value]).await).await;
}

/// Waits until every node has the value (empty: has none).
pub async fn all_have(status: &InstanceStatus, key: &str, value: &str) {
    for node in &status.nodes {
        wait_until(&format!("{} has {key} {value:?}", node.name), TIMEOUT, async || {
            let found = redis::cli(&node.address, &["GET", key]).await?;
            if found == value { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
}
