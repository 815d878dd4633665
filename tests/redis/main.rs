//! The port to Redis against real redis-server processes, and against listeners that are none. I/O.

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod foreign;
mod identity;
mod prober;
mod probes;
mod roles;
mod switch;
mod term;
mod users;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use redisctl::failover::redis::{Login, Redis, Term};
use redisctl::model::{Address, Probe, Timestamp};
use redisctl::passwords::{KEY_BYTES, Key, Owner, User, acl, mark_acl};
use support::{Redis as Server, wait_until};
use tokio::sync::mpsc;

/// For requests that are expected to be answered, on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(5);
/// For requests that are expected not to be answered.
const SHORT: Duration = Duration::from_millis(300);
/// How long a condition may take to become true.
const PATIENCE: Duration = Duration::from_secs(20);

/// What passwords of nodes in these tests follow from, and whose they are.
fn key() -> (Key, Owner) {
    (Key::new([7; KEY_BYTES]), Owner { instance: "orders".to_string(), created_at: Timestamp(1) })
}

/// The arguments that make a redis-server the node of a task.
fn of_task(task_id: &str, open: bool) -> Vec<String> {
    let (key, owner) = key();
    let users = User::ALL.map(|user| match user {
        User::Client if open => acl(user, None),
        User::Client => acl(user, Some(&[key.password(&owner, user, 1)])),
        _ => acl(user, Some(&[key.password_at(&owner, task_id, user, 1)])),
    });
    let mark = mark_acl(&key.mark(&owner, task_id));
    users.into_iter().chain([mark]).flat_map(|words| [vec!["--user".to_string()], words].concat()).collect()
}

fn login(task_id: &str) -> Login {
    let (key, owner) = key();
    Login { key, owner, task_id: Some(task_id.to_string()), generations: vec![1], secret: None }
}

/// A node that proves to be this task, and is known as such. Clients need no password.
async fn node(redis: &Redis, task_id: &str, more: &[&str]) -> Server {
    let users = of_task(task_id, true);
    let args: Vec<&str> = users.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let server = Server::start(&args).await;
    redis.set_login(&address(&server), Some(login(task_id)));
    server
}

/// The port of a leader that leads for ever.
fn commander(timeout: Duration) -> Redis {
    Redis::new(timeout, Term { number: 1, lasts: Arc::new(|| true) })
}

fn local(port: u16) -> Address {
    Address { host: "127.0.0.1".into(), port }
}

fn address(server: &Server) -> Address {
    local(server.port())
}

async fn replica_of(master: u16) -> Server {
    Server::start(&["--replicaof", &format!("127.0.0.1 {master}")]).await
}

async fn wait_for_link(redis: &Redis, replica: &Server) {
    let replica = address(replica);
    wait_until("the link is up", PATIENCE, async || redis.probe(&replica).await.is_ok_and(|a| a.link_up)).await;
}

async fn next(seen: &mut mpsc::Receiver<Probe>) -> Probe {
    tokio::time::timeout(PATIENCE, seen.recv()).await.expect("a probe in time").expect("its sender lives")
}

/// Reads probes until one is like that.
async fn until(seen: &mut mpsc::Receiver<Probe>, like: impl Fn(&Probe) -> bool) -> Probe {
    loop {
        let probe = next(seen).await;
        if like(&probe) {
            return probe;
        }
    }
}
