//! Scenarios of a Mesos that is shared with others: roles, reservations, quota, attributes. I/O.

use redisctl::status::InstanceStatus;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Kind};
use crate::document::Document;
use crate::support::{AgentSpec, holds_for, wait_until};
use crate::world::{QUIET, TIMEOUT, World, is_ready};

/// An agent must be of one of these racks.
fn in_racks(document: Document, racks: &[&str]) -> Document {
    let constraint = json!({"attribute": "rack", "operator": "in", "values": racks});
    document.with("placement", json!({"constraints": [constraint]}))
}

/// The resources of each task, as Mesos has them.
async fn resources(world: &World) -> anyhow::Result<Vec<Value>> {
    let Cluster::Mesos(mesos) = &world.cluster else { panic!("this is for the real Mesos") };
    let answer = mesos.ask(&json!({"type": "GET_TASKS"})).await?;
    let tasks = answer["get_tasks"]["tasks"].as_array().cloned().unwrap_or_default();
    Ok(tasks.into_iter().map(|mut task| task["resources"].take()).collect())
}

pub async fn what_finds_no_place_is_told_why_agent_by_agent(kind: Kind) {
    let agents = [
        AgentSpec::rack("r1").mem(100),
        AgentSpec::rack("r2").mem(64).reserved("web", 8000),
        AgentSpec::rack("r9"),
        AgentSpec::rack("r4"),
    ];
    let world = World::start(kind, &agents).await;
    world.cluster.deactivate(3).await;
    world.cluster.limit_mem("redisctl", 200).await;
    let document = in_racks(Document::new("orders", 0), &["r1", "r2", "r4"]);
    world.put("orders", &document.with("memory", "256Mi").yaml()).await;
    world.until("orders", "says that it finds no place", |status| !status.waiting.is_empty()).await;
    // What Mesos says of its agents is asked now and then: not all of it is known at once.
    for told in [
        "no agent would do now",
        "the quota of role redisctl is 200 MiB, and 0 are used",
        "agent-1 has 100 of 100 MiB free",
        "agent-2 has 64 of 8064 MiB free, and others have reserved 8000 MiB for web",
        "agent-3 does not satisfy rack in [r1, r2, r4]: it has r9",
        "agent-4 is to be emptied",
    ] {
        wait_until(&format!("describe tells that {told}"), TIMEOUT, async || {
            let page = world.cli(&["describe", "orders"], "").await;
            if page.contains(told) { Ok(()) } else { Err(page) }
        })
        .await;
    }
    world.cluster.limit_mem("redisctl", 4096).await;
    world.cluster.reactivate(3).await;
    world.ready("orders", 1).await;
    world.finish().await;
}

pub async fn of_several_roles_what_is_reserved_for_one_is_used_first(kind: Kind) {
    let agents = [AgentSpec::rack("r1").cpus(1.0).mem(64).reserved("cache", 1000)];
    let mut world = World::without_operator(kind, &agents).await;
    world.spawn_operator_with(&["--role", "redis,cache"]);
    world.operators[0].wait_until_in_charge(TIMEOUT).await;
    world.put("orders", &Document::new("orders", 0).with("memory", "128Mi").yaml()).await;
    world.ready("orders", 1).await;
    let resources = resources(&world).await.expect("the master answers");
    let mem: Vec<&Value> = resources[0].as_array().expect("a list").iter().filter(|r| r["name"] == "mem").collect();
    assert!(!mem.is_empty() && mem.iter().all(|r| r["reservations"][0]["role"] == "cache"), "{mem:?}");
    world.finish().await;
}

pub async fn agents_that_nobody_can_use_are_not_offered(kind: Kind) {
    let mut world = World::start(kind, &AgentSpec::racks(2)).await;
    world.put("orders", &in_racks(Document::new("orders", 0), &["r3"]).yaml()).await;
    world.until("orders", "says that it finds no place", |status| !status.waiting.is_empty()).await;
    let Cluster::Mesos(mesos) = &world.cluster else { panic!("this is for the real Mesos") };
    let offered = async || {
        let answer = mesos.ask(&json!({"type": "GET_FRAMEWORKS"})).await?;
        let framework = &answer["get_frameworks"]["frameworks"][0];
        anyhow::ensure!(framework["active"] == true, "no framework is there: {answer}");
        anyhow::Ok(framework["offers"].as_array().map_or(0, Vec::len))
    };
    wait_until("nothing is offered", TIMEOUT, async || {
        let count = offered().await?;
        anyhow::ensure!(count == 0, "{count} offers");
        anyhow::Ok(())
    })
    .await;
    // Without constraints each would be offered every few seconds, and declined.
    holds_for("nothing is offered", QUIET, async || offered().await.unwrap() == 0).await;
    world.cluster.add_agent(2, AgentSpec::rack("r3")).await;
    world.until("orders", "is ready", is_ready).await;
    world.finish().await;
}

pub async fn nodes_are_spread_over_zones_and_go_to_another_region_if_that_is_wanted(kind: Kind) {
    let agents = [("eu", "z1"), ("eu", "z1"), ("eu", "z2"), ("us", "z3")];
    let agents = agents.map(|(region, zone)| AgentSpec::default().within(region, zone));
    let mut world = World::start(kind, &agents).await;
    let document = |replicas: u32, distribution: u32| {
        let placement = json!({"spreadBy": "zone", "constraints": [{"attribute": "zone", "operator": "exists"}]});
        Document::new("orders", replicas).with("distribution", distribution).with("placement", placement).yaml()
    };
    let zones = |status: &InstanceStatus| {
        let mut zones: Vec<String> = status.nodes.iter().filter_map(|node| node.domain.clone()).collect();
        zones.sort();
        zones
    };
    world.put("orders", &document(1, 1)).await;
    assert_eq!(zones(&world.ready("orders", 2).await), ["z1", "z2"]);

    world.put("orders", &document(3, 1)).await;
    world.until("orders", "has a node on each agent of its region", |status| status.nodes.len() == 3).await;
    let told = "agent-4 is in another region than the master: an operator with --remote-regions uses it";
    wait_until("describe tells of the other region", TIMEOUT, async || {
        let page = world.cli(&["describe", "orders"], "").await;
        if page.contains(told) { Ok(()) } else { Err(page) }
    })
    .await;
    world.operators[0].kill();
    world.operators.clear();
    world.spawn_operator_with(&["--remote-regions"]);
    world.operators[0].wait_until_in_charge(TIMEOUT).await;
    assert_eq!(zones(&world.ready("orders", 4).await), ["z1", "z1", "z2", "z3"]);
    world.finish().await;
}
