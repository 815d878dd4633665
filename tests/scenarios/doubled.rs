//! Scenarios of two faults at once, and of one at the worst moment. I/O.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::{RngExt as _, rngs::StdRng};
use redisctl::local;
use redisctl::model::Role;
use redisctl::status::{ConditionType, InstanceStatus, NodeState, NodeStatus, Phase};
use redisctl::store::{Op, Store, Txn};
use serde_json::json;

use crate::client::{Writer, all_have_written};
use crate::cluster::{Cluster, Kind, agent_of};
use crate::document::Document;
use crate::failover::{all_stream, another_master, orders, patient};
use crate::operator::BINARY;
use crate::restarts::seeded;
use crate::support::{AgentSpec, Etcd, Home, Process, holds_for, redis, wait_until};
use crate::world::{
    PREFIX, QUIET, TIMEOUT, World, all_have, brief, freeze_process, instance_key, is_ready, kill_node, master, pid_of,
    ready_without, replicas, task_ids, thaw_process, write,
};

/// A store with so little room is filled in a moment.
const SMALL: u64 = 4 << 20;
/// More changes than etcd keeps for a watcher that hangs.
const BALLAST: usize = 2000;
/// Masterless for so long at most while a spec changes: others need minutes.
const STANDSTILL_MAX: Duration = Duration::from_secs(5);

/// Nobody but the recorded master was made one, and nothing was launched.
async fn nothing_is_done(world: &World, before: &InstanceStatus) {
    holds_for("nobody is promoted or launched without a record", QUIET, async || {
        for node in replicas(before) {
            let role = redis::info(&node.address).await.map_err(anyhow::Error::msg)?["role"].clone();
            anyhow::ensure!(role == "slave", "{} is a {role}", node.name);
        }
        let running = world.cluster.running_tasks().await?;
        anyhow::ensure!(running.is_subset(&task_ids(before)), "{running:?}");
        Ok(())
    })
    .await;
}

/// The master's place was taken once, by a node that has these writes, and all is whole.
async fn replaced_once(world: &World, before: &InstanceStatus, confirmed: &BTreeSet<u64>) {
    let after = ready_without(world, before, master(before)).await;
    assert_eq!(after.epoch, before.epoch + 1);
    let told = world.events_of("orders", "FailedOver").await;
    assert_eq!(told.len(), 1, "{told:?}");
    all_have_written(&after, confirmed).await;
}

/// Writes for a moment: what was confirmed.
async fn some_writes(world: &World) -> BTreeSet<u64> {
    let writer = Writer::start(world, "orders");
    writer.goes_on().await;
    writer.end().confirmed
}

// --- The master, and the store

pub async fn a_master_that_dies_while_etcd_is_away_is_replaced_when_that_can_be_recorded(kind: Kind) {
    let (mut world, before) = orders(kind, Document::new("orders", 2)).await;
    let confirmed = some_writes(&world).await;
    world.etcd.stop();
    kill_node(master(&before)).await;
    nothing_is_done(&world, &before).await;
    world.etcd.start_again().await;
    replaced_once(&world, &before, &confirmed).await;
    world.finish().await;
}

pub async fn a_master_that_dies_while_etcd_hangs_is_replaced_once_when_it_wakes(kind: Kind) {
    let (world, before) = orders(kind, Document::new("orders", 2)).await;
    let confirmed = some_writes(&world).await;
    world.etcd.freeze();
    kill_node(master(&before)).await;
    nothing_is_done(&world, &before).await;
    world.etcd.thaw();
    replaced_once(&world, &before, &confirmed).await;
    world.finish().await;
}

pub async fn a_master_that_dies_while_etcd_stutters_is_replaced_all_the_same(kind: Kind) {
    let (world, before) = orders(kind, Document::new("orders", 2)).await;
    let confirmed = some_writes(&world).await;
    let stutters = async {
        loop {
            world.etcd.freeze();
            tokio::time::sleep(Duration::from_millis(300)).await; // Slow is what it is to be.
            world.etcd.thaw();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let dies = async {
        kill_node(master(&before)).await;
        another_master(&world, "orders", &before).await
    };
    tokio::select! {
        _ = dies => {}
        () = stutters => unreachable!("it goes on for ever"),
    }
    world.etcd.thaw(); // It was dropped at any moment.
    replaced_once(&world, &before, &confirmed).await;
    world.finish().await;
}

pub async fn a_master_that_dies_while_etcd_is_full_is_replaced_when_there_is_room(kind: Kind) {
    let agents = AgentSpec::racks(4);
    let (cluster, etcd) = tokio::join!(Cluster::start(kind, &agents), Etcd::start_small(SMALL));
    let mut world = World { operators: Vec::new(), cluster, etcd };
    world.spawn_operator();
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let before = world.ready("orders", 3).await;
    let confirmed = some_writes(&world).await;

    world.etcd.fill().await;
    kill_node(master(&before)).await;
    nothing_is_done(&world, &before).await;
    // What is wrong is said, though it cannot be recorded.
    wait_until("the operator says what etcd says", TIMEOUT, async || {
        let log = world.operators[0].log();
        if log.contains("database space exceeded") { Ok(()) } else { Err("not in its log") }
    })
    .await;
    wait_until("the status says it, with the epoch that is recorded", TIMEOUT, async || {
        let now = world.status("orders").await?;
        let waits = now.waiting.iter().any(|why| why.contains("the store has not recorded") && why.contains("space"));
        if waits && now.epoch == before.epoch {
            Ok(())
        } else {
            anyhow::bail!("{:?} in epoch {}", now.waiting, now.epoch)
        }
    })
    .await;
    world.etcd.make_room().await;
    replaced_once(&world, &before, &confirmed).await;
    world.finish().await;
}

pub async fn a_watch_whose_history_was_compacted_while_the_master_died_is_made_up_by_a_list(kind: Kind) {
    let mut world = World::without_operator(kind, &AgentSpec::racks(4)).await;
    // It keeps the lead while it hangs: what it knows is old, and stays in force.
    world.spawn_operator_with(&["--leader-ttl", "60s"]);
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let before = world.ready("orders", 3).await;
    let confirmed = some_writes(&world).await;
    let old = master(&before).clone();

    world.operators[0].freeze();
    let (store, key) = (Store::open(&world.etcd.url(PREFIX)).await.expect("etcd is there"), "operator/ballast");
    // A few that fill the way to it, and more behind them than etcd keeps for it.
    let values = std::iter::repeat_n("x".repeat(1 << 20), 4).chain(std::iter::repeat_n("x".to_string(), BALLAST));
    for value in values {
        let put = Op::Put { key: key.to_string(), value: value.into() };
        store.commit(Txn { guards: Vec::new(), ops: vec![put] }).await.expect("etcd takes it");
    }
    world.put("orders", &Document::new("orders", 2).with("distribution", 2).yaml()).await;
    world.etcd.del(&format!("{PREFIX}/{key}")).await;
    world.etcd.compact().await;
    kill_node(&old).await;
    world.operators[0].thaw();
    replaced_once(&world, &before, &confirmed).await;
    let after = world.ready("orders", 3).await;
    assert!(after.observed_revision > before.observed_revision);
    world.finish().await;
}

// --- The master, and who takes its place

/// The replica that has become a master.
async fn promoted(status: &InstanceStatus) -> Result<NodeStatus, String> {
    for node in replicas(status) {
        if redis::info(&node.address).await.is_ok_and(|info| info["role"] == "master") {
            return Ok(node.clone());
        }
    }
    Err("all are replicas".to_string())
}

pub async fn a_successor_that_dies_at_once_is_followed_by_another(kind: Kind) {
    let mut random = seeded();
    let world = World::start(kind, &AgentSpec::racks(6)).await;
    for round in 0..4 {
        world.put("orders", &Document::new("orders", 3).with("durability", "majority").yaml()).await;
        let before = world.ready("orders", 4).await;
        let confirmed = some_writes(&world).await;
        all_stream(&before).await;
        let old = master(&before).clone();
        let mut next = replicas(&before)[0].clone();
        kill_node(&old).await;
        if round % 2 == 0 {
            // While somebody is being chosen: it, perhaps.
            tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await; // The moment is the point.
        } else {
            next = wait_until("somebody is the master", TIMEOUT, async || promoted(&before).await).await;
        }
        kill_node(&next).await;
        let after = world
            .until("orders", "is whole without both", |now| {
                let gone = [&old, &next].iter().all(|dead| !task_ids(now).contains(&dead.task_id));
                gone && is_ready(now) && now.nodes.len() == 4
            })
            .await;
        let changes = after.epoch - before.epoch;
        assert!((1..=2).contains(&changes) && (round % 2 == 0 || changes == 2), "{}", brief(&after));
        all_have_written(&after, &confirmed).await;
        world.etcd.del(&instance_key("orders")).await;
        world.gone("orders").await;
    }
    world.finish().await;
}

/// What makes a stranger take whatever password a replica sends.
pub const LETS_REPLICAS_IN: &str = "--user redisctl-replica on nopass +@all";

/// A redis-server with these further arguments that tries again and again until the node's port is free.
pub async fn waits_for_the_port_of(node: &NodeStatus, home: &Home, more: &str) -> Process {
    let port = node.address.rsplit(':').next().expect("an address has a port");
    let server = format!("redis-server --port {port} --bind 127.0.0.1 --save '' --repl-diskless-sync-delay 0 {more}");
    let process = home.spawn("stranger", Command::new("sh").args(["-c", &format!("until {server}; do :; done")]));
    wait_until("it has tried", TIMEOUT, async || home.log("stranger").contains("Address already in use")).await;
    process
}

pub async fn replicas_that_a_stranger_has_lured_are_taken_from_it_and_nobody_is_promoted_silently(kind: Kind) {
    let mut world = World::without_operator(kind, &AgentSpec::racks(4)).await;
    world.spawn_operator_with(&["--leader-ttl", "60s"]);
    world.put("orders", &Document::new("orders", 2).with("onDataLoss", "hold").yaml()).await;
    let before = world.ready("orders", 3).await;
    some_writes(&world).await;
    all_stream(&before).await;
    let (old, home) = (master(&before).clone(), Home::new("stranger"));
    let _stranger = waits_for_the_port_of(&old, &home, LETS_REPLICAS_IN).await;
    // By its offset the operator tells the master's data from the stranger's.
    world.until("orders", "shows what was written", |now| master(now).offset > Some(100)).await;
    // Nobody is there to be quicker.
    world.operators[0].freeze();
    kill_node(&old).await;
    for node in replicas(&before) {
        wait_until("the stranger has lured it", TIMEOUT, async || {
            let found = redis::cli(&node.address, &["DBSIZE"]).await?;
            if found == "0" { Ok(()) } else { Err(format!("{found} keys")) }
        })
        .await;
    }
    world.operators[0].thaw();
    let lost = world
        .until("orders", "says that its data is lost", |status| {
            let nobody = status.condition(ConditionType::NoSafeCandidate).is_some();
            nobody || status.phase == Phase::DataLost
        })
        .await;
    assert_eq!(world.events_of("orders", "FailedOver").await, []);
    assert_eq!(world.events_of("orders", "StrangerFollowed").await.len(), 2);
    if lost.phase == Phase::DataLost {
        world.cli(&["recreate", "orders"], "").await;
    } else {
        world.cli(&["failover", "orders", "--force", "--to", &replicas(&before)[0].name, "--yes"], "").await;
    }
    world.until("orders", "is whole", |status| is_ready(status) && status.nodes.len() == 3).await;
    let info = redis::info(&old.address).await.expect("the stranger answers");
    assert_eq!((info["role"].as_str(), info["connected_slaves"].as_str()), ("master", "0"));
    world.finish().await;
}

/// How it ends when somebody takes the port of a dead master in the very moment. Redis' replicas come
/// back to whoever listens there, within a millisecond or a second, and take what it has: whether
/// they are taken from it before is a matter of luck, when it takes any password.
pub async fn whoever_takes_a_dead_masters_port_is_not_taken_for_it_and_costs_nothing_silently(kind: Kind) {
    let (world, before) = orders(kind, Document::new("orders", 2)).await;
    let confirmed = some_writes(&world).await;
    all_stream(&before).await;
    let (old, home) = (master(&before).clone(), Home::new("stranger"));
    let _stranger = waits_for_the_port_of(&old, &home, LETS_REPLICAS_IN).await;
    kill_node(&old).await;
    wait_until("the stranger listens", TIMEOUT, async || redis::cli(&old.address, &["PING"]).await).await;

    let nobody = |status: &InstanceStatus| status.condition(ConditionType::NoSafeCandidate).cloned();
    let over = |status: &InstanceStatus| status.nodes.iter().all(|node| node.task_id != old.task_id);
    let after = world
        .until("orders", "is well, or says why not", |status| {
            nobody(status).is_some() || (over(status) && is_ready(status))
        })
        .await;
    let said = world.events("orders").await.expect("the operator answers");
    let lost = said.iter().any(|event| ["StrangerFollowed", "DataLost"].contains(&event.reason.as_str()));
    println!("lost: {lost}; {:?}", nobody(&after).map(|condition| condition.message));
    if lost || nobody(&after).is_some() {
        assert!(
            home.log("stranger").contains("asks for synchronization"),
            "nobody was lured, and data is lost: {said:?}"
        );
    } else {
        all_have_written(&after, &confirmed).await;
    }
    if nobody(&after).is_some() {
        world.cli(&["failover", "orders", "--force", "--to", &replicas(&before)[0].name, "--yes"], "").await;
    }
    world.until("orders", "is whole", |status| over(status) && is_ready(status) && status.nodes.len() == 3).await;
    // Nothing was done to it, whoever it is.
    let info = redis::info(&old.address).await.expect("the stranger answers");
    assert_eq!((info["role"].as_str(), info["connected_slaves"].as_str()), ("master", "0"));
    let told = redis::cli(&old.address, &["INFO", "commandstats"]).await.expect("the stranger answers");
    assert!(!told.contains("cmdstat_replicaof") && !told.contains("cmdstat_client|kill"), "{told}");
    world.finish().await;
}

// --- All at once

pub async fn a_machine_with_all_in_it_that_is_suspended_goes_on_as_if_nothing_had_been(kind: Kind) {
    let (mut world, before) = orders(kind, patient()).await;
    let confirmed = some_writes(&world).await;
    let machines: Vec<usize> = before.nodes.iter().map(|node| agent_of(&node.hostname)).collect();
    for round in 0..3 {
        // Never quite at the same moment, and the operator is not always the last to wake.
        world.etcd.freeze();
        for machine in &machines {
            world.cluster.freeze_machine(*machine);
        }
        world.operators[0].freeze();
        tokio::time::sleep(QUIET).await; // That it stands still is the fault.
        if round == 1 {
            world.operators[0].thaw();
        }
        for machine in &machines {
            world.cluster.thaw_machine(*machine);
        }
        world.etcd.thaw();
        if round != 1 {
            world.operators[0].thaw();
        }
        let writer = Writer::start(&world, "orders");
        writer.goes_on().await;
        let after = world.ready("orders", 3).await;
        assert_eq!((after.epoch, task_ids(&after)), (before.epoch, task_ids(&before)), "round {round}");
        assert_eq!(world.events_of("orders", "FailedOver").await, []);
        all_have_written(&after, &writer.end().acknowledged).await;
        all_have_written(&after, &confirmed).await;
    }
    world.finish().await;
}

pub async fn a_machine_that_hangs_delays_nobody_who_has_nothing_there(kind: Kind) {
    let (mut world, hanging) = orders(kind, patient()).await;
    // Not on the machine that will hang.
    let victim = replicas(&hanging)[0].clone();
    world.cluster.freeze_machine(agent_of(&victim.hostname));
    let lost = [NodeState::NotAnswering, NodeState::Unreachable];
    world.until("orders", "misses a node", |status| lost.contains(&state_of(status, &victim))).await;

    world.put("other", &Document::new("other", 1).with("distribution", 2).yaml()).await;
    let other = world.ready("other", 2).await;
    assert!(other.nodes.iter().all(|node| node.hostname != victim.hostname), "{}", brief(&other));
    kill_node(master(&other)).await;
    let after = another_master(&world, "other", &other).await;
    assert_eq!(after.epoch, other.epoch + 1);
    world.until("other", "is whole", |status| is_ready(status) && status.nodes.len() == 2).await;
    world.put("other", &Document::new("other", 0).with("distribution", 2).yaml()).await;
    world.ready("other", 1).await;
    // Nor what is its own and lies elsewhere.
    write(&hanging, "a", "1").await;
    world.cli(&["failover", "orders", "--to", &replicas(&hanging)[1].name], "").await;

    world.cluster.thaw_machine(agent_of(&victim.hostname));
    let after = world.ready("orders", 3).await;
    assert_eq!(task_ids(&after), task_ids(&hanging));
    all_have(&after, "a", "1").await;
    world.finish().await;
}

fn state_of(status: &InstanceStatus, node: &NodeStatus) -> NodeState {
    status.nodes.iter().find(|seen| seen.task_id == node.task_id).expect("it is recorded").state
}

// --- Users who change their mind

async fn a_moment(random: &mut StdRng, most_ms: u64) {
    let moment = Duration::from_millis(random.random_range(0..most_ms));
    println!("after {moment:?}");
    tokio::time::sleep(moment).await; // The moment is the point of it.
}

pub async fn what_is_deleted_amid_its_creation_or_failover_leaves_nothing(kind: Kind) {
    let mut random = seeded();
    let world = World::start(kind, &AgentSpec::racks(4)).await;
    for most_ms in [5, 100, 100, 1000] {
        world.put("orders", &Document::new("orders", 2).yaml()).await;
        a_moment(&mut random, most_ms).await;
        world.etcd.del(&instance_key("orders")).await;
        world.gone("orders").await;
    }
    for most_ms in [5, 50, 50] {
        world.put("orders", &Document::new("orders", 2).yaml()).await;
        let status = world.ready("orders", 3).await;
        kill_node(master(&status)).await;
        a_moment(&mut random, most_ms).await;
        world.etcd.del(&instance_key("orders")).await;
        world.gone("orders").await;
    }
    world.finish().await;
}

pub async fn a_spec_that_goes_back_before_it_was_reached_ends_where_it_began(kind: Kind) {
    let mut random = seeded();
    let world = World::start(kind, &AgentSpec::racks(4)).await;
    let one = Document::new("orders", 2).with("distribution", 2);
    let bigger = one.clone().with("memory", "24Mi");
    let more = Document::new("orders", 4).with("distribution", 2);
    let rolled = one.clone().with("redis", json!({"config": {"databases": "3"}}));
    world.put("orders", &one.yaml()).await;
    let before = world.ready("orders", 3).await;
    let writer = Writer::start(&world, "orders");
    writer.goes_on().await;
    // The whole way there, and back from anywhere in its midst.
    for other in [&more, &rolled, &bigger, &rolled] {
        world.put("orders", &other.yaml()).await;
        a_moment(&mut random, 1500).await;
        world.put("orders", &one.yaml()).await;
        a_moment(&mut random, 300).await;
    }
    let after = world.ready("orders", 3).await;
    writer.goes_on().await;
    println!("epoch {} -> {}", before.epoch, after.epoch);
    all_have_written(&world.ready("orders", 3).await, &writer.end().acknowledged).await;
    for node in &after.nodes {
        let databases = world.setting("orders", node, "databases").await.expect("the node answers");
        assert_eq!(databases, "16", "{}", node.name);
    }
    world.finish().await;
}

pub async fn a_roll_under_load_costs_no_acknowledged_write_and_no_time_without_a_master(kind: Kind) {
    let (world, before) = orders(kind, Document::new("orders", 2)).await;
    all_stream(&before).await;
    let writer = Writer::start(&world, "orders");
    writer.goes_on().await;
    let rolled = Document::new("orders", 2).with("redis", json!({"config": {"databases": "3"}}));
    world.put("orders", &rolled.yaml()).await;
    let revision = world.etcd.revisions(&instance_key("orders")).await[&instance_key("orders")];
    let after = world
        .until("orders", "is rolled", |status| {
            // One at a time, and never before another is there in its place.
            let living = [NodeState::Ready, NodeState::Syncing];
            let there = status.nodes.iter().filter(|node| living.contains(&node.state)).count();
            assert!(there >= 3, "fewer than before: {}", brief(status));
            status.observed_revision == revision && is_ready(status) && status.nodes.len() == 3
        })
        .await;
    assert!(task_ids(&after).is_disjoint(&task_ids(&before)));
    assert_eq!(after.epoch, before.epoch + 1, "one change of the master");
    writer.goes_on().await;
    let written = writer.end();
    assert!(written.longest_gap() < STANDSTILL_MAX, "writes stood still for {:?}", written.longest_gap());
    all_have_written(&after, &written.acknowledged).await;
    world.finish().await;
}

// --- What a status must not hide

pub async fn an_instance_is_not_called_ready_while_a_node_of_it_is_gone(kind: Kind) {
    let (world, before) = orders(kind, patient()).await;
    let (old, replica) = (master(&before).clone(), replicas(&before)[0].clone());
    for node in [&replica, &old] {
        let frozen = pid_of(node).await;
        freeze_process(frozen);
        let status = world.until("orders", "says that it is not ready", |status| !is_ready(status)).await;
        assert_eq!(state_of(&status, node), NodeState::NotAnswering, "{}", brief(&status));
        thaw_process(frozen);
        world.ready("orders", 3).await;
    }
    // And what is declared and cannot be is not called done either.
    world.put("orders", &Document::new("orders", 9).yaml()).await;
    let status = world.until("orders", "waits for room", |status| !status.waiting.is_empty()).await;
    assert!(!is_ready(&status), "{}", brief(&status));
    assert!(status.nodes.iter().filter(|node| node.role == Role::Master).count() == 1);
    world.put("orders", &patient().yaml()).await;
    world.ready("orders", 3).await;
    world.finish().await;
}

/// Instances beside which one is changed and one fails over.
const MANY: usize = 100;

pub async fn a_hundred_instances_delay_nobody(kind: Kind) {
    assert_eq!(kind, Kind::Local, "servers that are none live there only");
    let agents = local::ClusterConfig::simulated(20, 5).expect("a free network");
    let cluster = local::Cluster::start(agents.task_helper(BINARY)).expect("the local cluster starts");
    let mut world = World { operators: Vec::new(), cluster: Cluster::Local(cluster), etcd: Etcd::start().await };
    world.spawn_operator();
    world.operators[0].wait_until_in_charge(TIMEOUT).await;
    let create = async |first: usize| {
        let names: Vec<String> = (first..first + MANY / 2).map(|i| format!("cache-{i}")).collect();
        let documents: Vec<String> = names.iter().map(|name| Document::new(name, 2).yaml()).collect();
        world.cli(&["apply", "-f", "-"], &documents.join("---\n")).await;
        names
    };
    let ready = async |names: &[String]| {
        for name in names {
            world.until(name, "is ready", |status| is_ready(status) && status.nodes.len() == 3).await;
        }
    };
    let first = create(0).await;
    ready(&first).await;
    // While fifty more are created, one of the first is changed, and another's master handed over.
    let second = create(MANY / 2).await;
    let start = Instant::now();
    world.put("cache-0", &Document::new("cache-0", 3).yaml()).await;
    world.cli(&["failover", "cache-1"], "").await;
    world.ready("cache-0", 4).await;
    let took = start.elapsed();
    println!("a change and a switchover beside {MANY} instances: {took:?}");
    assert!(took < STANDSTILL_MAX * 2, "{took:?}");
    ready(&second).await;
    let launched = world.cluster.launched_tasks().await.expect("the cluster answers");
    assert_eq!(launched.len(), MANY * 3 + 1, "each node once");
}
