//! The test support itself: real etcd, Redis and Mesos start, die and come back. I/O.

mod support;

use std::process::Command;
use std::time::Duration;

use support::{AgentSpec, Etcd, Home, Mesos, Ports, Redis, process, wait_until};

const TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn etcd_keeps_its_data_over_a_kill() {
    let mut etcd = Etcd::start().await;
    etcd.put("/a/b", "two\nlines\n").await;
    etcd.stop();
    etcd.start_again().await;
    assert_eq!(etcd.get("/a/b").await.as_deref(), Some("two\nlines\n"));
    assert_eq!(etcd.keys("/a/").await, ["/a/b"]);
    etcd.compact().await;
    etcd.del("/a/b").await;
    assert_eq!(etcd.get("/a/b").await, None);
}

#[tokio::test]
async fn redis_follows_another() {
    let mut master = Redis::start(&[]).await;
    let replica = Redis::start(&["--replicaof", &format!("127.0.0.1 {}", master.port())]).await;
    master.cli(&["SET", "a", "1"]).await.unwrap();
    wait_until("the replica has the key", TIMEOUT, async || replica.cli(&["GET", "a"]).await.as_deref() == Ok("1"))
        .await;
    master.kill();
    assert!(master.cli(&["PING"]).await.is_err());
    assert_eq!(support::redis::info(&replica.address()).await.unwrap()["role"], "slave");
}

#[tokio::test]
async fn mesos_agents_and_the_master_come_back_after_a_kill() {
    let mut mesos = Mesos::start(&AgentSpec::racks(2)).await;
    mesos.kill_agent(0);
    mesos.wait_for_agents(1).await;
    mesos.restart_agent(0);
    mesos.wait_for_agents(2).await;
    mesos.kill_master();
    mesos.restart_master().await;
    mesos.wait_for_agents(2).await;
    assert!(mesos.tasks().await.unwrap().is_empty());
    let agent = mesos.add_agent(AgentSpec::rack("r9")).await;
    assert_eq!(mesos.hostname(agent), "agent-3");
}

#[test]
fn leased_ports_are_disjoint() {
    let leases: Vec<Ports> = (0..5).map(|_| Ports::lease(30)).collect();
    let mut ports: Vec<u16> = leases.iter().flat_map(Ports::range).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 150);
}

#[test]
fn a_dropped_home_leaves_no_grandchild_in_a_session_of_its_own() {
    let home = Home::new("orphans");
    let path = home.path().to_path_buf();
    let _parent = home.spawn("parent", Command::new("sh").args(["-c", "setsid sleep 1000 & setsid sleep 1000 & wait"]));
    let deadline = std::time::Instant::now() + TIMEOUT;
    while process::processes_in(&path).len() < 3 {
        assert!(std::time::Instant::now() < deadline, "the grandchildren do not start");
        std::thread::yield_now();
    }
    drop(home);
    assert!(process::processes_in(&path).is_empty());
}
