//! The faults of the local cluster: each does what it says, and no more. I/O.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use redisctl::local::{Answer, Cluster, ClusterConfig};
use redisctl::model::TaskState;
use serde_json::{Value, json};

use crate::rig::{AGENTS, local_config};
use crate::scheduler::{Scheduler, TIMEOUT, accept, ask, first_port, framework_info, task, with_port};
use crate::support::{process, redis, wait_until};

const A_WHILE: Duration = Duration::from_millis(500);

fn start(change: impl FnOnce(&mut ClusterConfig)) -> Cluster {
    let mut config = local_config();
    change(&mut config);
    Cluster::start(config).expect("the local cluster starts")
}

async fn subscribed(cluster: &Cluster) -> (Scheduler, Vec<Value>) {
    let scheduler = Scheduler::new(cluster.master_address()).await;
    let offers = scheduler.offers(AGENTS).await;
    (scheduler, offers)
}

fn count(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event["type"] == kind).count()
}

#[tokio::test]
async fn a_redis_server_runs_in_its_sandbox_and_a_crash_of_it_is_told() {
    let cluster = start(|_| {});
    let (scheduler, offers) = subscribed(&cluster).await;
    let port = first_port(&offers[0]).to_string();
    let argv = ["redis-server", "--port", &port, "--bind", "127.0.0.1", "--save", ""];
    let redis_task = with_port(task("orders-0.1", &offers[0], &argv), port.parse().unwrap());
    scheduler.run(&offers[0], redis_task).await;
    let address = format!("127.0.0.1:{port}");
    let info = wait_until("redis answers", TIMEOUT, async || redis::info(&address).await).await;
    assert_eq!(info["role"], "master");
    let seen = cluster.tasks().remove(0);
    assert_eq!(
        (seen.id.as_str(), seen.state, seen.ports.clone()),
        ("orders-0.1", TaskState::Running, vec![port.parse().unwrap()])
    );
    assert_eq!(std::fs::read_link(format!("/proc/{}/cwd", seen.pid.unwrap())).unwrap(), seen.sandbox);
    let log = std::fs::read_to_string(seen.sandbox.join("stdout")).unwrap();
    assert!(log.contains("Ready to accept connections"), "{log}");
    cluster.kill_task_process("orders-0.1").unwrap();
    let failed = scheduler.until("orders-0.1", "TASK_FAILED").await;
    assert_eq!(failed["message"], "Command terminated with signal Killed");
    wait_until("the task is forgotten", TIMEOUT, async || cluster.tasks().is_empty()).await;
    assert!(cluster.kill_task_process("orders-0.1").is_err());
}

#[tokio::test]
async fn a_kill_is_announced_by_task_killing() {
    let cluster = start(|_| {});
    let (scheduler, offers) = subscribed(&cluster).await;
    scheduler.run(&offers[0], task("t", &offers[0], &["sleep", "600"])).await;
    scheduler.ok("KILL", json!({"task_id": {"value": "t"}})).await;
    scheduler.until("t", "TASK_KILLING").await;
    let killed = scheduler.until("t", "TASK_KILLED").await;
    assert_eq!(killed["message"], "Command terminated with signal Terminated");
}

#[tokio::test]
async fn nothing_is_left_of_a_cluster_that_is_dropped() {
    let cluster = start(|_| {});
    let (scheduler, offers) = subscribed(&cluster).await;
    let stubborn = ["sh", "-c", "trap '' TERM; sleep 600 & wait"];
    scheduler.run(&offers[0], task("t", &offers[0], &stubborn)).await;
    let home = cluster.work_dir();
    assert!(!process::processes_in(&home).is_empty());
    drop(cluster);
    assert_eq!(process::processes_in(&home), Vec::new());
    assert!(!home.exists());
}

#[tokio::test]
async fn a_task_dies_with_the_process_that_hosts_its_cluster() {
    // A shell stands for the host: it starts the helper as the cluster does, and is killed.
    let home = tempfile::tempdir().unwrap();
    let script = format!("{} __task $$ sleep sleep 600 & wait", env!("CARGO_BIN_EXE_redisctl"));
    let mut shell =
        Command::new("sh").args(["-c", &script]).current_dir(home.path()).stdin(Stdio::null()).spawn().unwrap();
    let sleeping = || {
        let pids = process::processes_in(home.path());
        let comm = |pid: &rustix::process::Pid| {
            std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default()
        };
        pids.iter().any(|pid| comm(pid).trim() == "sleep")
    };
    wait_until("the task starts", TIMEOUT, async || sleeping()).await;
    shell.kill().unwrap();
    shell.wait().unwrap();
    wait_until("the task dies with its host", TIMEOUT, async || process::processes_in(home.path()).is_empty()).await;
}

#[tokio::test]
async fn a_healed_partition_gives_the_tasks_back() {
    let cluster = start(|config| config.agent_timeout = Duration::from_secs(1));
    let (scheduler, offers) = subscribed(&cluster).await;
    let host = offers[0]["hostname"].as_str().unwrap();
    scheduler.run(&offers[0], task("t", &offers[0], &["sleep", "600"])).await;
    cluster.partition_agent(host).unwrap();
    assert_eq!(scheduler.status("t").await["state"], "TASK_UNREACHABLE");
    assert_eq!(cluster.tasks()[0].state, TaskState::Running);
    cluster.heal_agent(host).unwrap();
    let back = scheduler.status("t").await;
    assert_eq!(
        (back["state"].as_str(), back["reason"].as_str()),
        (Some("TASK_RUNNING"), Some("REASON_AGENT_REREGISTERED"))
    );
}

#[tokio::test]
async fn a_task_whose_launch_was_lost_is_dropped_when_the_agent_is_back() {
    let cluster = start(|_| {});
    let (scheduler, offers) = subscribed(&cluster).await;
    let host = offers[0]["hostname"].as_str().unwrap();
    cluster.partition_agent(host).unwrap();
    scheduler.launch(&offers[0], &[task("t", &offers[0], &["sleep", "600"])]).await;
    scheduler.reconcile("t", None).await;
    assert_eq!(scheduler.status("t").await["state"], "TASK_STAGING");
    cluster.kill_agent(host).unwrap();
    cluster.restart_agent(host).unwrap();
    cluster.heal_agent(host).unwrap();
    let dropped = scheduler.until("t", "TASK_DROPPED").await;
    assert_eq!(dropped["reason"], "REASON_RECONCILIATION");
    wait_until("the task is forgotten", TIMEOUT, async || cluster.tasks().is_empty()).await;
}

#[tokio::test]
async fn a_kill_during_a_short_outage_is_remembered() {
    let cluster = start(|_| {});
    let (scheduler, offers) = subscribed(&cluster).await;
    let host = offers[0]["hostname"].as_str().unwrap();
    scheduler.run(&offers[0], task("t", &offers[0], &["sleep", "600"])).await;
    cluster.kill_agent(host).unwrap();
    scheduler.ok("KILL", json!({"task_id": {"value": "t"}})).await;
    assert_eq!(cluster.tasks()[0].state, TaskState::Running);
    cluster.restart_agent(host).unwrap();
    scheduler.until("t", "TASK_KILLED").await;
}

#[tokio::test]
async fn dropped_updates_come_again_when_they_have_a_uuid() {
    let cluster = start(|config| config.update_retry = Duration::from_millis(200));
    let (scheduler, offers) = subscribed(&cluster).await;
    cluster.drop_next_updates(2);
    scheduler.run(&offers[0], task("t", &offers[0], &["sleep", "600"])).await;
    // An answer of the master is sent once.
    cluster.drop_next_updates(1);
    scheduler.reconcile("t", None).await;
    assert_eq!(count(&scheduler.during(A_WHILE).await, "UPDATE"), 0);
}

#[tokio::test]
async fn updates_are_late_and_doubled_and_stay_in_order_for_each_task() {
    let cluster = start(|_| {});
    let (scheduler, offers) = subscribed(&cluster).await;
    cluster.delay_updates(Duration::from_millis(300));
    let sent = Instant::now();
    scheduler.launch(&offers[0], &[task("late", &offers[0], &["sleep", "600"])]).await;
    scheduler.until("late", "TASK_RUNNING").await;
    assert!(sent.elapsed() >= Duration::from_millis(600));
    cluster.delay_updates(Duration::ZERO);
    cluster.duplicate_updates(true);
    scheduler.launch(&offers[1], &[task("twice", &offers[1], &["sleep", "600"])]).await;
    let first = scheduler.status("twice").await;
    assert_eq!(scheduler.status("twice").await, first);
    scheduler.acknowledge(&first).await;
    scheduler.until("twice", "TASK_RUNNING").await;
    cluster.duplicate_updates(false);
    scheduler.drain();
    cluster.reorder_updates(true);
    for _ in 0..3 {
        scheduler.ok("RECONCILE", json!({})).await;
    }
    let order = wait_until("six answers come", TIMEOUT, async || {
        let events = scheduler.during(A_WHILE).await;
        let ids: Vec<String> = events
            .iter()
            .filter_map(|e| e["update"]["status"]["task_id"]["value"].as_str())
            .map(str::to_string)
            .collect();
        (ids.len() == 6).then_some(ids)
    })
    .await;
    assert_ne!(order, ["late", "twice", "late", "twice", "late", "twice"]);
}

#[tokio::test]
async fn rescinded_offers_are_void() {
    let cluster = start(|_| {});
    let (scheduler, offers) = subscribed(&cluster).await;
    cluster.rescind_offers();
    for _ in &offers {
        scheduler.event("RESCIND").await;
    }
    scheduler.launch(&offers[0], &[task("t", &offers[0], &["sleep", "600"])]).await;
    assert_eq!(scheduler.status("t").await["reason"], "REASON_INVALID_OFFERS");
    assert_eq!(scheduler.offers(AGENTS).await.len(), AGENTS);
}

#[tokio::test]
async fn the_stream_is_cut_at_the_byte_that_was_asked_for() {
    let cluster = start(|_| {});
    let (scheduler, _) = subscribed(&cluster).await;
    let framework_id = scheduler.framework_id.clone();
    drop(scheduler);
    for bytes in [0, 1, 3, 20] {
        wait_until("the master sees the end of the stream", TIMEOUT, async || {
            ask(cluster.master_address(), "GET_FRAMEWORKS").await["frameworks"][0]["connected"] == false
        })
        .await;
        cluster.cut_stream_after(bytes);
        let info = json!({"framework_info": framework_info()});
        let cut = Scheduler::open(cluster.master_address(), info, Some(&framework_id)).await;
        assert!(cut.ended().await.starts_with("broken"));
        assert_eq!(cut.partial_record(), bytes);
    }
    let again = Scheduler::resume(cluster.master_address(), &framework_id).await;
    again.offers(AGENTS).await;
}

#[tokio::test]
async fn a_lost_accept_leaves_the_offer_and_a_lost_response_leaves_the_task() {
    let cluster = start(|_| {});
    let (scheduler, offers) = subscribed(&cluster).await;
    cluster.lose_next_accept();
    let launch = [task("t", &offers[0], &["sleep", "600"])];
    scheduler.launch(&offers[0], &launch).await;
    assert_eq!(count(&scheduler.during(A_WHILE).await, "UPDATE"), 0);
    cluster.lose_next_accept_response();
    let mut call = json!({"type": "ACCEPT", "framework_id": {"value": scheduler.framework_id}});
    call["accept"] = accept(&[&offers[0]], &launch, 0.0);
    let request = redisctl::tls::http()
        .build()
        .expect("a client")
        .post(format!("http://{}/api/v1/scheduler", cluster.master_address()));
    let answer = request.header("Mesos-Stream-Id", &scheduler.stream_id).json(&call).send().await;
    assert!(answer.is_err(), "{answer:?}");
    scheduler.until("t", "TASK_RUNNING").await;
    assert_eq!(cluster.calls()["ACCEPT"], 2);
}

#[tokio::test]
async fn a_master_that_does_not_lead_sends_elsewhere() {
    let cluster = start(|_| {});
    let (scheduler, _) = subscribed(&cluster).await;
    cluster.answer_calls_with(Some(Answer::Unavailable));
    assert_eq!(scheduler.call("REVIVE", Value::Null).await.0, 503);
    cluster.answer_calls_with(Some(Answer::Redirect("127.0.0.1:1".to_string())));
    assert_eq!(scheduler.call("REVIVE", Value::Null).await.0, 307);
    cluster.answer_calls_with(None);
    scheduler.ok("REVIVE", Value::Null).await;
}

#[tokio::test]
async fn heartbeats_come_at_the_interval_that_is_set() {
    let cluster = start(|config| config.heartbeat_interval = Duration::from_millis(100));
    let (scheduler, _) = subscribed(&cluster).await;
    scheduler.drain();
    for _ in 0..3 {
        scheduler.event("HEARTBEAT").await;
    }
}

#[tokio::test]
async fn an_agent_that_joins_is_offered_at_once() {
    let cluster = start(|config| config.allocation_interval = Duration::from_mins(10));
    let (scheduler, _) = subscribed(&cluster).await;
    let spec = redisctl::local::AgentSpec::new("agent-9").unwrap().cpus(1.0).mem(64).ports(2).attribute("disk", "ssd");
    cluster.add_agent(spec);
    let offer = scheduler.offers(1).await.remove(0);
    assert_eq!(offer["hostname"], "agent-9");
    assert_eq!(offer["attributes"][0]["name"], "disk");
}
