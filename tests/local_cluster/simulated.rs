//! The simulated nodes: fake Redis servers that can be probed, re-pointed and killed. I/O.

use redisctl::local::{Cluster, ClusterConfig};
use serde_json::Value;

use crate::scheduler::{Scheduler, TIMEOUT, first_port, task, with_port};
use crate::support::{redis, wait_until};

/// Launches a fake server on an offer; answers its address.
async fn launch(scheduler: &Scheduler, id: &str, offer: &Value, more: &[&str]) -> String {
    let port = first_port(offer);
    let port_text = port.to_string();
    let argv: Vec<&str> = ["redis-server", "--port", &port_text].into_iter().chain(more.iter().copied()).collect();
    scheduler.run(offer, with_port(task(id, offer, &argv), port)).await;
    format!("{}:{port}", offer["url"]["address"]["ip"].as_str().unwrap())
}

#[tokio::test]
async fn fake_servers_replicate_and_can_be_repointed() {
    let cluster = Cluster::start(ClusterConfig::simulated(3, 3).unwrap()).unwrap();
    let scheduler = Scheduler::new(cluster.master_address()).await;
    let offers = scheduler.offers(3).await;
    let master = launch(&scheduler, "m", &offers[0], &["--maxmemory", "268435456"]).await;
    let (host, port) = master.split_once(':').unwrap();
    let replica = launch(&scheduler, "r", &offers[1], &["--replicaof", host, port]).await;
    let other = launch(&scheduler, "o", &offers[2], &[]).await;

    let info = redis::info(&master).await.unwrap();
    assert_eq!((info["role"].as_str(), info["connected_slaves"].as_str()), ("master", "1"));
    assert_eq!((info["maxmemory"].as_str(), info["loading"].as_str()), ("268435456", "0"));
    let info = redis::info(&replica).await.unwrap();
    assert_eq!((info["role"].as_str(), info["master_link_status"].as_str()), ("slave", "up"));
    assert_eq!((info["master_host"].as_str(), info["master_port"].as_str()), (host, port));

    // Through the client library that the operator uses.
    let client = ::redis::Client::open(format!("redis://{replica}")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let (host, port) = other.split_once(':').unwrap();
    let ok: String = ::redis::cmd("REPLICAOF").arg(host).arg(port).query_async(&mut connection).await.unwrap();
    assert_eq!(ok, "OK");
    let _: String = ::redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory-policy")
        .arg("allkeys-lru")
        .query_async(&mut connection)
        .await
        .unwrap();
    let policy: Vec<String> =
        ::redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").query_async(&mut connection).await.unwrap();
    assert_eq!(policy, ["maxmemory-policy", "allkeys-lru"]);
    let role: (String, String, u16, String, i64) = ::redis::cmd("ROLE").query_async(&mut connection).await.unwrap();
    assert_eq!((role.0.as_str(), role.1.as_str(), role.3.as_str()), ("slave", host, "connected"));

    cluster.kill_task_process("o").unwrap();
    scheduler.until("o", "TASK_FAILED").await;
    wait_until("the link is down", TIMEOUT, async || {
        redis::info(&replica).await.is_ok_and(|info| info["master_link_status"] == "down")
    })
    .await;
    assert!(redis::info(&other).await.is_err());
    scheduler.ok("KILL", serde_json::json!({"task_id": {"value": "m"}})).await;
    scheduler.until("m", "TASK_KILLED").await;
}

#[tokio::test]
async fn three_thousand_fake_servers_start_in_seconds() {
    const PER_AGENT: u64 = 300;
    let cluster = Cluster::start(ClusterConfig::simulated(10, 5).unwrap()).unwrap();
    let scheduler = Scheduler::new(cluster.master_address()).await;
    let offers = scheduler.offers(10).await;
    for (a, offer) in offers.iter().enumerate() {
        let first = first_port(offer);
        let tasks: Vec<Value> = (0..PER_AGENT)
            .map(|i| {
                let port = (first + i).to_string();
                with_port(task(&format!("t{a}-{i}"), offer, &["redis-server", "--port", &port]), first + i)
            })
            .collect();
        scheduler.launch(offer, &tasks).await;
    }
    wait_until("all run", TIMEOUT, async || {
        let running = |task: &&redisctl::local::TaskView| task.state == redisctl::model::TaskState::Running;
        let count = cluster.tasks().iter().filter(running).count();
        if count == 3000 { Ok(()) } else { Err(format!("{count} run")) }
    })
    .await;
}
