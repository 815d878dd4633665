//! Scenarios of the parts in control: operators, the Mesos master, etcd. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::cluster::Kind;
use crate::document::Document;
use crate::support::{AgentSpec, holds_for, redis, wait_until};
use crate::world::{
    PREFIX, QUIET, TIMEOUT, World, all_have, instance_key, is_ready, kill_node, master, replicas, task_ids, write,
};

/// What the issue allows for a standby to take over from a leader that was killed.
const TAKEOVER_MAX: Duration = Duration::from_secs(5);
/// Longer than the leader's lease, and than any timeout of the operator towards etcd.
const HANG: Duration = Duration::from_secs(8);
/// Longer than the operator's probe interval.
const LOOK_FOR: Duration = Duration::from_secs(6);
/// The commands by which an operator changes a node.
const CHANGING: [&str; 5] = ["replicaof", "slaveof", "config|set", "client|kill", "shutdown"];
/// The latest moment after a change at which the operator is killed: by then it is usually done.
const KILL_WITHIN_MS: u64 = 1200;
/// Where the random moments come from, unless REDISCTL_TEST_SEED says another.
const SEED: u64 = 20_261_121;
/// How often the operator is killed in a storm.
const STORM_KILLS: usize = 14;
/// The shortest lease of a leader: so that a storm has many kills.
const SHORT_LEASE: [&str; 2] = ["--leader-ttl", "1s"];

pub async fn the_mesos_master_dies_and_returns(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 1).yaml()).await;
    let before = world.ready("orders", 2).await;

    world.cluster.kill_master();
    wait_until("the operator says that it has no session", TIMEOUT, async || {
        let view = world.operators[0].view().await?;
        anyhow::ensure!(view.mesos == "disconnected", "{view:?}");
        anyhow::Ok(())
    })
    .await;
    // Redis does not need Mesos to serve, and what is asked for meanwhile is not lost.
    write(&before, "a", "1").await;
    all_have(&before, "a", "1").await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let waiting = world.until("orders", "waits", |status| !status.waiting.is_empty()).await;
    assert_eq!(task_ids(&waiting), task_ids(&before));

    world.cluster.restart_master().await;
    let after = world.ready("orders", 3).await;
    assert!(task_ids(&after).is_superset(&task_ids(&before)));
    all_have(&after, "a", "1").await;
    world.finish().await;
}

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

fn seeded() -> StdRng {
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
            // A replica: where a master dies, there is nothing to come back to in this version.
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
    assert!(after.kept() == before.kept(), "{}", after.since(&before));
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

    /// All but leadership and session.
    fn kept(&self) -> (BTreeMap<&str, i64>, &BTreeSet<String>, &BTreeSet<String>, &BTreeMap<String, u64>) {
        let ours = self.writes.iter().filter(|(key, _)| kind_of(key) != "operator");
        let ours = ours.map(|(key, writes)| (key.as_str(), *writes)).collect();
        (ours, &self.running, &self.launched, &self.commands)
    }

    /// The difference in words.
    fn since(&self, before: &Traces) -> String {
        let kinds = ["operator", "instances", "state", "nodes", "status", "events", "requests"];
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
        format!("{launched} launched, {killed} killed, {revisions} revisions, writes by key {writes:?}, commands {commands}")
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

pub async fn a_standby_takes_over_from_a_killed_leader_within_five_seconds(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    world.spawn_operator();
    world.operators[1].wait_until_it_answers().await;
    world.put("orders", &Document::new("orders", 1).yaml()).await;
    let before = world.ready("orders", 2).await;
    // Any operator answers, leader or not.
    wait_until("the standby shows the same", TIMEOUT, async || {
        let shown = world.operators[1].get("/v1/instances/orders").await?;
        anyhow::ensure!(shown["status"]["phase"] == "Ready", "{}", shown["status"]);
        anyhow::Ok(())
    })
    .await;
    holds_for("one leads and one does not", QUIET, async || leaders(&world).await == [true, false]).await;

    let start = Instant::now();
    world.operators[0].kill();
    world.operators[1].wait_until_in_charge(TIMEOUT).await;
    let took = start.elapsed();
    println!("takeover after {took:?}");
    assert!(took < TAKEOVER_MAX, "takeover after {took:?}");

    let after = world.ready("orders", 2).await;
    assert_eq!(task_ids(&after), task_ids(&before));
    world.operators[0].spawn_again();
    world.operators[0].wait_until_it_answers().await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    world.ready("orders", 3).await;
    holds_for("the former leader stands by", QUIET, async || leaders(&world).await == [false, true]).await;
    world.finish().await;
}

pub async fn two_operators_started_at_once_never_both_act(kind: Kind) {
    let mut world = World::without_operator(kind, &AgentSpec::racks(3)).await;
    let names = ["cache-1", "cache-2", "cache-3"];
    for name in names {
        world.put(name, &Document::new(name, 1).yaml()).await;
    }
    world.spawn_operator();
    world.spawn_operator();
    let mut recorded = BTreeSet::new();
    for name in names {
        recorded.extend(task_ids(&world.ready(name, 2).await));
    }
    for operator in &world.operators {
        operator.wait_until_it_answers().await;
    }
    let leading = leaders(&world).await;
    assert_eq!(leading.iter().filter(|leading| **leading).count(), 1, "{leading:?}");
    let launched = world.cluster.launched_tasks().await.expect("the cluster answers");
    assert_eq!(launched, recorded, "each node was launched once, and by one operator");
    let logs: Vec<bool> = world.operators.iter().map(|operator| operator.log().contains("launching")).collect();
    assert_eq!(logs, leading, "the standby has launched");
    assert_eq!(world.etcd.keys("/redisctl/operator/framework").await.len(), 1);
    world.finish().await;
}

async fn leaders(world: &World) -> Vec<bool> {
    let mut leading = Vec::new();
    for operator in &world.operators {
        leading.push(operator.view().await.is_ok_and(|view| view.leading));
    }
    leading
}

pub async fn a_leader_that_hangs_and_wakes_never_acts_beside_its_successor(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 1).yaml()).await;
    let before = world.ready("orders", 2).await;
    world.spawn_operator();
    world.operators[1].wait_until_it_answers().await;

    world.operators[0].freeze();
    world.operators[1].wait_until_in_charge(TIMEOUT).await;
    // Work for both: the one that wakes still believes what it last knew.
    world.put("orders", &Document::new("orders", 4).with("distribution", 2).yaml()).await;
    kill_node(replicas(&before)[0]).await;
    world.operators[0].thaw();
    wait_until("the former leader knows that it leads no more", TIMEOUT, async || {
        anyhow::ensure!(leaders(&world).await == [false, true] || !world.operators[0].runs(), "it says that it leads");
        anyhow::Ok(())
    })
    .await;
    let after = world.ready("orders", 5).await;
    assert_eq!(master(&after).task_id, master(&before).task_id);
    // Two of the beginning, three more, and one in the place of the one that died.
    let launched = world.cluster.launched_tasks().await.expect("the cluster answers");
    assert_eq!(launched.len(), 6, "both have acted: {launched:?}");
    for operator in &mut world.operators {
        if !operator.runs() {
            operator.spawn_again(); // Ending itself is one way to step down.
        }
    }
    world.finish().await;
}

pub async fn etcd_stops_and_comes_back(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let before = world.ready("orders", 3).await;

    world.etcd.stop();
    wait_until("the operator steps down", TIMEOUT, async || leaders(&world).await == [false]).await;
    // Nothing can be recorded, so nothing is done; Redis serves on.
    let victim = replicas(&before)[0].clone();
    kill_node(&victim).await;
    write(&before, "a", "1").await;
    holds_for("nothing is launched without a store", QUIET, async || {
        let running = world.cluster.running_tasks().await?;
        anyhow::ensure!(running.is_subset(&task_ids(&before)), "{running:?}");
        Ok(())
    })
    .await;

    world.etcd.start_again().await;
    replaced(&world, &before, &victim.task_id).await;
    world.finish().await;
}

pub async fn etcd_hangs_and_wakes(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let before = world.ready("orders", 3).await;

    world.etcd.freeze();
    let start = Instant::now();
    wait_until("the operator steps down", HANG, async || leaders(&world).await == [false]).await;
    println!("stepped down {:?} after etcd froze", start.elapsed());
    let victim = replicas(&before)[0].clone();
    kill_node(&victim).await;
    write(&before, "a", "1").await;
    holds_for("nothing is launched without a store", HANG, async || {
        let running = world.cluster.running_tasks().await?;
        anyhow::ensure!(running.is_subset(&task_ids(&before)), "{running:?}");
        Ok(())
    })
    .await;

    world.etcd.thaw();
    replaced(&world, &before, &victim.task_id).await;
    world.finish().await;
}

/// Waits until a node that died while etcd was away is replaced, with the data written meanwhile.
async fn replaced(world: &World, before: &redisctl::status::InstanceStatus, victim: &str) {
    let after = world
        .until("orders", "is ready without the node that died", |status| {
            is_ready(status) && status.nodes.len() == 3 && !task_ids(status).contains(victim)
        })
        .await;
    assert_eq!(master(&after).task_id, master(before).task_id);
    all_have(&after, "a", "1").await;
}

pub async fn an_emptied_store_freezes_the_operator(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(3)).await;
    let document = Document::new("orders", 2).yaml();
    world.put("orders", &document).await;
    let before = world.ready("orders", 3).await;

    world.etcd.del_prefix(PREFIX).await;
    wait_until("the operator says that it is frozen, and why", TIMEOUT, async || {
        let view = world.operators[0].view().await?;
        anyhow::ensure!(view.frozen.as_deref().is_some_and(|why| why.contains("store")), "{view:?}");
        anyhow::Ok(())
    })
    .await;
    holds_for("nothing is launched or killed", QUIET, async || only(&world, &before).await).await;
    // A document put into the emptied store is not taken for a new instance.
    world.etcd.put(&instance_key("orders"), &document).await;
    holds_for("nothing is launched or killed", QUIET, async || only(&world, &before).await).await;
    world.restart_operator();
    world.operators[0].wait_until_it_answers().await;
    holds_for("nor after a restart", QUIET, async || only(&world, &before).await).await;
    write(&before, "a", "1").await;
    all_have(&before, "a", "1").await;
}

/// Exactly the tasks of that status run.
async fn only(world: &World, status: &redisctl::status::InstanceStatus) -> anyhow::Result<()> {
    let running = world.cluster.running_tasks().await?;
    anyhow::ensure!(running == task_ids(status), "{running:?}");
    Ok(())
}
