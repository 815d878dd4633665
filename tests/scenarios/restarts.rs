//! Scenarios of an operator that is killed and started again. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use redisctl::status::InstanceStatus;
use rustix::process::{Pid, Signal};

use crate::client::{Writer, all_have_written};
use crate::cluster::Kind;
use crate::document::Document;
use crate::failover::{another_master, orders};
use crate::support::{AgentSpec, holds_for, redis, wait_until};
use crate::world::{PREFIX, TIMEOUT, World, all_have, instance_key, kill_node, master, replicas, task_ids, write};

/// Longer than the operator's probe interval.
const LOOK_FOR: Duration = Duration::from_secs(6);
/// The commands by which an operator changes a node.
const CHANGING: [&str; 5] = ["replicaof", "slaveof", "config|set", "client|kill", "shutdown"];
/// The latest moment after a change at which the operator is killed: by then it is usually done.
const KILL_WITHIN_MS: u64 = 1200;
/// Where the random moments come from, unless `REDISCTL_TEST_SEED` says another.
const SEED: u64 = 20_261_121;
/// How often the operator is killed in a storm.
const STORM_KILLS: usize = 14;
/// The shortest lease of a leader: so that a storm has many kills.
pub const SHORT_LEASE: [&str; 2] = ["--leader-ttl", "1s"];

pub async fn an_operator_killed_at_random_moments_goes_on_where_it_was(kind: Kind) {
    let mut random = seeded();
    let mut world = World::without_operator(kind, &AgentSpec::racks(3)).await;
    world.spawn_operator_with(&SHORT_LEASE);
    world.operators[0].wait_until_in_charge(TIMEOUT).await;
    let changes = [
        Document::new("orders", 2),
        Document::new("orders", 5).with("distribution", 2),
        Document::new("orders", 1).with("distribution", 2),
        Document::new("orders", 1).with("redis", serde_json::json!({"config": {"maxmemory-policy": "allkeys-lfu"}})),
        Document::new("orders", 2),
    ];
    for document in changes {
        world.put("orders", &document.yaml()).await;
        killed_at_a_random_moment(&mut world, &mut random).await;
    }
    let status = world.ready("orders", 3).await;
    write(&status, "a", "1").await;

    kill_node(replicas(&status)[0]).await;
    killed_at_a_random_moment(&mut world, &mut random).await;
    world.cli_when_there(&["delete", "orders"]).await;
    killed_at_a_random_moment(&mut world, &mut random).await;
    world.gone("orders").await;
    world.put("orders", &Document::new("orders", 1).yaml()).await;
    killed_at_a_random_moment(&mut world, &mut random).await;
    let status = world.ready("orders", 2).await;
    all_have(&status, "a", "").await;
    world.finish().await;
}

/// Random moments, the same in every run.
pub fn seeded() -> StdRng {
    let seed = std::env::var("REDISCTL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

/// Instances are made, changed and deleted, nodes die, and the operator is killed in the middle of
/// each, without ever being given the time to finish.
pub async fn an_operator_killed_again_and_again_amid_changes_loses_nothing(kind: Kind) {
    let mut random = seeded();
    let mut world = World::without_operator(kind, &AgentSpec::racks(4)).await;
    world.spawn_operator_with(&SHORT_LEASE);
    world.operators[0].wait_until_in_charge(TIMEOUT).await;
    for _ in 0..STORM_KILLS {
        for _ in 0..random.random_range(1..=3) {
            random_change(&world, &mut random).await;
        }
        // Most of what can go wrong does so within a few writes: short waits more often than long ones.
        let moment = Duration::from_millis(1 << random.random_range(0..9_u32));
        println!("killed after {moment:?}");
        tokio::time::sleep(moment).await; // The moment is the point of it.
        world.restart_operator();
        world.operators[0].wait_until_in_charge(TIMEOUT).await;
    }
    world.finish().await;
}

async fn random_change(world: &World, random: &mut StdRng) {
    let name = format!("cache-{}", random.random_range(1..=3));
    match random.random_range(0..6) {
        0..=3 => {
            let policy = ["allkeys-lru", "allkeys-lfu", "noeviction"][random.random_range(0..3)];
            let document = Document::new(&name, random.random_range(0..=4))
                .with("distribution", 2)
                .with("redis", serde_json::json!({"config": {"maxmemory-policy": policy}}));
            println!("put {name}");
            world.put(&name, &document.yaml()).await;
        }
        4 => {
            println!("delete {name}");
            world.etcd.del(&instance_key(&name)).await;
        }
        _ => {
            // A replica: when too many masters die as well, nobody may take their place.
            let Ok(status) = world.status(&name).await else { return };
            let Some(node) = status.nodes.iter().rfind(|node| node.role == redisctl::model::Role::Replica) else {
                return;
            };
            if let Ok(info) = redis::info(&node.address).await
                && info["role"] == "slave"
                && let Some(pid) = info["process_id"].parse().ok().and_then(Pid::from_raw)
            {
                println!("kill {}", node.name);
                let _ = rustix::process::kill_process(pid, Signal::KILL); // It may have ended meanwhile.
            }
        }
    }
}

async fn killed_at_a_random_moment(world: &mut World, random: &mut StdRng) {
    let moment = Duration::from_millis(random.random_range(0..KILL_WITHIN_MS));
    println!("killed after {moment:?}");
    tokio::time::sleep(moment).await; // The moment is the point of it.
    world.restart_operator();
    world.operators[0].wait_until_in_charge(TIMEOUT).await;
}

pub async fn an_operator_restarted_with_twenty_healthy_instances_only_takes_the_lead(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    let names: Vec<String> = (1..=20).map(|i| format!("cache-{i}")).collect();
    let documents: Vec<String> = names.iter().map(|name| Document::new(name, 1).yaml()).collect();
    world.cli(&["apply", "-f", "-"], &documents.join("---\n")).await;
    let mut nodes = Vec::new();
    for name in &names {
        nodes.extend(world.ready(name, 2).await.nodes.into_iter().map(|node| node.address));
    }
    world.settled().await;
    let before = Traces::read(&world, &nodes).await;

    let start = Instant::now();
    world.restart_operator();
    world.operators[0].wait_until_in_charge(TIMEOUT).await;
    println!("in charge again after {:?}", start.elapsed());
    // Long enough for a probe of every node, and for what would follow from it.
    world.settled().await;
    tokio::time::sleep(LOOK_FOR).await; // Counters forget nothing: they are read before and after.
    let after = Traces::read(&world, &nodes).await;
    println!("after kill -9 and restart with {} nodes: {}", nodes.len(), after.since(&before));
    assert!(after.same_but_for_leadership(&before), "{}", after.since(&before));
    world.finish().await;
}

/// The backup is older than a switchover, and no operator lives that has seen more.
pub async fn a_store_that_was_restored_behind_a_switchover_deposes_no_master_and_costs_no_write(kind: Kind) {
    let (mut world, before) = orders(kind, Document::new("orders", 2)).await;
    world.etcd.back_up().await;
    world.cli(&["failover", "orders"], "").await;
    let after = another_master(&world, "orders", &before).await;
    write(&after, "a", "1").await;

    world.operators[0].kill();
    world.etcd.restore().await;
    world.operators[0].spawn_again();
    let told = world.event("orders", "MasterAdopted").await;
    assert!(told.contains(&format!("{} is the master", master(&after).name)), "{told}");
    let end = world.ready("orders", 3).await;
    assert_eq!((&end.master, task_ids(&end)), (&after.master, task_ids(&before)));
    all_have(&end, "a", "1").await;
    world.finish().await;
}

/// The same of many at once, while clients write: nodes are asked one after the other, and have more by then.
pub async fn a_store_that_was_restored_behind_switchovers_costs_no_write_that_goes_on_meanwhile(kind: Kind) {
    const INSTANCES: usize = 6;
    let names: Vec<String> = (0..INSTANCES).map(|i| format!("orders{i}")).collect();
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    for name in &names {
        world.put(name, &Document::new(name, 2).yaml()).await;
    }
    let mut before = Vec::new();
    for name in &names {
        before.push(world.ready(name, 3).await);
    }
    world.etcd.back_up().await;
    let writers: Vec<Writer> = names.iter().map(|name| Writer::start(&world, name)).collect();
    let mut masters = Vec::new();
    for (name, before) in names.iter().zip(&before) {
        world.cli(&["failover", name], "").await;
        masters.push(another_master(&world, name, before).await.master);
    }
    for writer in &writers {
        writer.goes_on().await;
    }
    world.operators[0].kill();
    world.etcd.restore().await;
    world.operators[0].spawn_again();
    for ((name, master), writer) in names.iter().zip(masters).zip(writers) {
        world.event(name, "MasterAdopted").await;
        writer.goes_on().await;
        let end = world.ready(name, 3).await;
        assert_eq!(end.master, master, "{name}");
        all_have_written(&end, &writer.end().acknowledged).await;
    }
    world.finish().await;
}

/// Whoever knows that the store is not sound does nothing by it, however far it goes on, and whoever leads.
pub async fn a_store_that_has_gone_back_stays_frozen_until_operators_are_started_anew(kind: Kind) {
    let (mut world, before) = orders(kind, Document::new("orders", 2)).await;
    world.spawn_operator_with(&SHORT_LEASE);
    world.etcd.back_up().await;
    world.cli(&["scale", "orders", "--replicas", "1", "--wait"], "").await;
    world.etcd.restore().await;
    for i in 0..100 {
        world.etcd.put(&format!("/somebody/{i}"), "x").await;
    }
    let frozen = async || {
        let mut frozen = 0;
        for operator in &world.operators {
            let view = operator.view().await?;
            frozen += usize::from(view.frozen.is_some_and(|why| why.contains("gone back")));
        }
        anyhow::ensure!(frozen == world.operators.len(), "{frozen} are frozen");
        Ok(())
    };
    wait_until("both know it", TIMEOUT, frozen).await;
    let leads = usize::from(!world.operators[0].view().await.is_ok_and(|view| view.leading));
    world.operators[leads].kill();
    world.operators[1 - leads].wait_until_in_charge(TIMEOUT).await;
    let view = world.operators[1 - leads].view().await.expect("it answers");
    assert!(view.frozen.is_some_and(|why| why.contains("gone back")));
    let says = |status: &InstanceStatus| status.waiting.iter().any(|why| why.contains("the operator is frozen"));
    world.until("orders", "says why it waits", says).await;
    holds_for("nothing is launched", LOOK_FOR, async || {
        let running = world.cluster.running_tasks().await?;
        anyhow::ensure!(running.len() == 2, "{running:?}");
        Ok(())
    })
    .await;
    // People have looked at it.
    world.operators[1 - leads].kill();
    world.operators[leads].spawn_again();
    let end = world.ready("orders", 3).await;
    assert_eq!(end.master, before.master);
    world.finish().await;
}

/// What an operator that acts leaves behind.
struct Traces {
    /// How often each key was written.
    writes: BTreeMap<String, i64>,
    /// The store's revision: it rises with every write, also of keys that are gone again.
    revision: i64,
    running: BTreeSet<String>,
    launched: BTreeSet<String>,
    /// Calls of commands that change a node.
    commands: BTreeMap<String, u64>,
}

impl Traces {
    async fn read(world: &World, nodes: &[String]) -> Traces {
        let mut commands = BTreeMap::from(CHANGING.map(|command| (command.to_string(), 0)));
        for node in nodes {
            let stats = redis::cli(node, &["INFO", "commandstats"]).await.expect("the node answers");
            for (command, calls) in &mut commands {
                *calls += calls_of(&stats, command);
            }
        }
        Traces {
            writes: world.etcd.writes(PREFIX).await,
            revision: world.etcd.revision().await,
            running: world.cluster.running_tasks().await.expect("the cluster answers"),
            launched: world.cluster.launched_tasks().await.expect("the cluster answers"),
            commands,
        }
    }

    /// Whether nothing was done in between but what leadership and session need.
    fn same_but_for_leadership(&self, before: &Traces) -> bool {
        let ours = |traces: &Traces| -> BTreeMap<String, i64> {
            let ours = traces.writes.iter().filter(|(key, _)| !kind_of(key).starts_with("operator"));
            ours.map(|(key, writes)| (key.clone(), *writes)).collect()
        };
        ours(self) == ours(before)
            && self.running == before.running
            && self.launched == before.launched
            && self.commands == before.commands
    }

    /// The difference in words.
    fn since(&self, before: &Traces) -> String {
        let kinds = ["operator", "operators", "instances", "state", "nodes", "status", "events", "requests"];
        let mut writes = BTreeMap::from(kinds.map(|kind| (kind, 0)));
        for (key, count) in &self.writes {
            // A key that was deleted and made again counts from 1.
            let known = before.writes.get(key).copied().unwrap_or(0);
            let made_again = kind_of(key) == "operator" && key.ends_with("leader");
            *writes.entry(kind_of(key)).or_default() += if made_again { *count } else { count - known };
        }
        let launched = self.launched.difference(&before.launched).count();
        let killed = before.running.difference(&self.running).count();
        let changed = |(command, calls): (&String, &u64)| format!("{command} {}", calls - before.commands[command]);
        let commands: Vec<String> = self.commands.iter().map(changed).collect();
        let revisions = self.revision - before.revision;
        let commands = commands.join(", ");
        format!(
            "{launched} launched, {killed} killed, {revisions} revisions, writes by key {writes:?}, commands {commands}"
        )
    }
}

/// `nodes` of `/redisctl/nodes/orders/0`.
fn kind_of(key: &str) -> &str {
    key.split('/').nth(2).unwrap_or_default()
}

/// As in `cmdstat_replicaof:calls=2,usec=...`.
fn calls_of(stats: &str, command: &str) -> u64 {
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().expect("a number of calls"))
}
