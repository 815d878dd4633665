//! Scenarios of settings that Redis refuses, and of nodes that hang while they are made. I/O.

use std::time::{Duration, Instant};

use redisctl::status::{ConditionStatus, ConditionType, Phase};
use serde_json::json;

use crate::client::Writer;
use crate::cluster::Kind;
use crate::document::Document;
use crate::failover::{all_stream, another_master, orders};
use crate::support::{AgentSpec, holds_for, redis, wait_until};
use crate::world::{LONG, World, freeze_process, kill_node, kill_process, master, pid_of, replicas, thaw_process};

/// For so long a setting is refused before the master dies: a backoff that doubled would be at seconds.
const REFUSED_FOR: Duration = Duration::from_secs(12);
/// Half of what waiting for a node that hangs would cost, and far above what a failover takes, also where the
/// operator gets so little of a loaded machine that its lease ends meanwhile. That nobody is asked again while a
/// setting is refused is looked at by itself: it needs no clock.
const AT_ONCE: Duration = Duration::from_secs(10);

pub async fn a_setting_that_redis_refuses_is_told_in_its_words_and_costs_a_failover_nothing(kind: Kind) {
    let (world, before) = orders(kind, Document::new("orders", 2)).await;
    // The first is for a Redis that is built otherwise, the second for a newer one: only Redis can know.
    let config = json!({"activedefrag": "yes", "hide-user-data-from-log": "yes", "timeout": "17"});
    world.put("orders", &Document::new("orders", 2).with("redis", json!({"config": config})).yaml()).await;
    let told = world
        .until("orders", "tells what is refused", |status| {
            let said = status.condition(ConditionType::ConfigApplied);
            let refused = said.filter(|said| said.status == ConditionStatus::False);
            refused.is_some_and(|said| before.nodes.iter().all(|node| said.message.matches(&node.name).count() == 2))
        })
        .await;
    let said = &told.condition(ConditionType::ConfigApplied).expect("seen above").message;
    let name = &before.nodes[0].name;
    for words in [
        format!(
            "{name} does not take activedefrag \"yes\": ERR CONFIG SET failed (possibly related to argument 'activedefrag')"
        ),
        format!("{name} does not take hide-user-data-from-log \"yes\": ERR Unknown option"),
    ] {
        assert!(said.contains(&words), "{said}");
    }
    assert_eq!(told.phase, Phase::Degraded);
    for node in &before.nodes {
        let timeout = world.setting("orders", node, "timeout").await.expect("it answers");
        assert_eq!(timeout, "17", "the other settings are made");
    }
    let events = world.events_of("orders", "SettingRefused").await;
    assert_eq!((events.len(), events.iter().map(|event| event.count).max()), (6, Some(1)), "{events:?}");
    let asked = refused_calls(&before.nodes[0].address).await;
    holds_for("nobody is asked again", REFUSED_FOR, async || {
        let now = refused_calls(&before.nodes[0].address).await;
        if now == asked { Ok(()) } else { Err(format!("{asked}, then {now}")) }
    })
    .await;

    let writer = Writer::start(&world, "orders");
    writer.goes_on().await;
    let killed = Instant::now();
    kill_node(master(&before)).await;
    another_master(&world, "orders", &before).await;
    assert!(killed.elapsed() < AT_ONCE, "{:?}", killed.elapsed());
    writer.goes_on().await;
    writer.end();
    // A new node starts without what only a running one can refuse.
    world.put("orders", &Document::new("orders", 2).with("redis", json!({"config": {"timeout": "17"}})).yaml()).await;
    world.ready("orders", 3).await;
    world.finish().await;
}

/// How often the node was told of settings that it does not take.
async fn refused_calls(address: &str) -> u64 {
    let stats = redis::cli(address, &["INFO", "commandstats"]).await.expect("it answers");
    let line = stats.lines().find(|line| line.starts_with("cmdstat_config|set:")).unwrap_or_default();
    let failed = line.split("failed_calls=").nth(1).unwrap_or("0").trim();
    failed.parse().expect("a number")
}

pub async fn a_node_that_hangs_while_settings_are_made_does_not_delay_a_failover(kind: Kind) {
    let mut world = World::without_operator(kind, &AgentSpec::racks(4)).await;
    // Who waits for a node that hangs waits for long.
    world.spawn_operator_with(&["--redis-timeout", "20s"]);
    world.operators[0].wait_until_in_charge(crate::world::TIMEOUT).await;
    let document = Document::new("orders", 2).with("replaceUnreachableAfter", LONG).with("durability", "none");
    world.put("orders", &document.yaml()).await;
    let before = world.ready("orders", 3).await;
    all_stream(&before).await;
    let (old, hung) = (pid_of(master(&before)).await, pid_of(replicas(&before)[0]).await);
    let other = replicas(&before)[1];
    freeze_process(hung);
    let config = json!({"config": {"maxmemory-policy": "allkeys-lru"}});
    world.put("orders", &document.clone().with("redis", config).yaml()).await;
    wait_until("the others are told of the setting", AT_ONCE, async || {
        let policy = world.setting("orders", other, "maxmemory-policy").await?;
        if policy == "allkeys-lru" { Ok(()) } else { Err(policy) }
    })
    .await;
    let killed = Instant::now();
    kill_process(old);
    another_master(&world, "orders", &before).await;
    assert!(killed.elapsed() < AT_ONCE, "{:?}", killed.elapsed());
    thaw_process(hung);
    world.ready("orders", 3).await;
    world.finish().await;
}
