//! Scenarios of passwords: who gets in, what is shown of them, and how they change. I/O.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redisctl::status::{ConditionType, InstanceStatus, NodeState};

use crate::client::Client;
use crate::cluster::Kind;
use crate::document::Document;
use crate::doubled::waits_for_the_port_of;
use crate::failover::another_master;
use crate::support::{AgentSpec, Home, process, wait_until};
use crate::world::{PREFIX, TIMEOUT, World, is_ready, kill_process, master, replicas};

/// The user of replicas, which is among a task's arguments.
const REPLICA: &str = "redisctl-replica";

fn guarded() -> Document {
    Document::new("orders", 2).with("auth", "generated")
}

/// `redis-cli` at a node, with this password if there is one; what it prints.
async fn cli(address: &str, password: Option<&str>, command: &[&str]) -> String {
    let (host, port) = address.rsplit_once(':').expect("host:port");
    let auth = password.map_or_else(Vec::new, |password| vec!["--no-auth-warning", "-a", password]);
    let args = [&["-h", host, "-p", port][..], &auth, command].concat();
    process::run("redis-cli", &args, b"", TIMEOUT).await.expect("the node answers").trim().to_string()
}

/// All files in a folder and in those below it.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) =
        entries.filter(|e| !e.path().is_symlink()).map(|e| e.path()).partition(|path| path.is_dir());
    files
        .into_iter()
        .filter(|file| file.is_file())
        .chain(folders.iter().flat_map(|folder| files_below(folder)))
        .collect()
}

async fn password(world: &World) -> String {
    world.cli_when_there(&["password", "show", "orders"]).await.trim().to_string()
}

/// A connection that has logged in.
async fn connect(address: &str, password: &str) -> Client {
    let mut client = Client::connect(address).await.expect("the node listens");
    client.ask(&["AUTH", password]).await.expect("it answers").expect("the password is right");
    client
}

/// An instance with passwords, all of whose nodes have their data in sync.
async fn start(kind: Kind) -> (World, InstanceStatus, String) {
    let world = World::start(kind, &AgentSpec::racks(4)).await;
    world.put("orders", &guarded().yaml()).await;
    let status = world.ready("orders", 3).await;
    let password = password(&world).await;
    (world, status, password)
}

/// The end of a story: nodes are not asked without a password, so not all of [`World::finish`].
async fn finish(mut world: World) {
    world.cli(&["delete", "orders"], "").await;
    world.finish_deleted().await;
}

pub async fn nobody_gets_in_without_a_password_and_a_failover_works_as_ever(kind: Kind) {
    let (world, before, password) = start(kind).await;
    for node in &before.nodes {
        for command in [&["GET", "k"][..], &["INFO"], &["CONFIG", "GET", "*"], &["REPLICAOF", "NO", "ONE"]] {
            assert!(cli(&node.address, None, command).await.starts_with("NOAUTH"), "{} {command:?}", node.name);
        }
        assert!(cli(&node.address, Some("wrong"), &["GET", "k"]).await.contains("NOAUTH"));
    }
    let old = master(&before);
    assert_eq!(cli(&old.address, Some(&password), &["SET", "k", "v"]).await, "OK");
    assert_eq!(cli(&old.address, Some(&password), &["WAIT", "2", "5000"]).await, "2");
    // Clients change data, and nothing else.
    for command in
        [&["CONFIG", "SET", "maxmemory", "1"][..], &["REPLICAOF", "NO", "ONE"], &["ACL", "LIST"], &["SHUTDOWN"]]
    {
        let answer = cli(&old.address, Some(&password), command).await;
        assert!(answer.starts_with("NOPERM"), "{command:?}: {answer}");
    }

    let info = cli(&old.address, Some(&password), &["INFO", "server"]).await;
    let pid =
        info.lines().find_map(|line| line.trim().strip_prefix("process_id:")?.parse().ok()).expect("a process id");
    kill_process(rustix::process::Pid::from_raw(pid).expect("it is one"));
    let after = another_master(&world, "orders", &before).await;
    let new = &master(&after).address;
    assert_eq!(cli(new, Some(&password), &["GET", "k"]).await, "v");
    world.until("orders", "is ready again", |status| is_ready(status) && status.nodes.len() == 3).await;
    finish(world).await;
}

pub async fn a_password_is_shown_to_who_asks_for_it_and_nowhere_else(kind: Kind) {
    let (world, status, password) = start(kind).await;
    let mut texts = vec![
        ("describe", world.cli(&["describe", "orders"], "").await),
        ("get", world.cli(&["get", "orders", "-o", "json"], "").await),
        ("plan", world.cli(&["plan", "orders"], "").await),
        ("events", world.cli(&["events", "orders"], "").await),
        ("the log", world.operators[0].log()),
    ];
    for key in world.etcd.keys(PREFIX).await {
        texts.push(("the store", world.etcd.get(&key).await.unwrap_or_default()));
    }
    for pid in world.cluster.redis_servers() {
        let of = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let text = [of("environ"), of("cmdline")].concat();
        texts.push(("a process", String::from_utf8_lossy(&text).into_owned()));
    }
    // Mesos' own files: what it knows of tasks, and what these have written.
    for file in files_below(&world.cluster.home()) {
        let bytes = std::fs::read(file).unwrap_or_default(); // It may be gone since.
        texts.push(("a file of Mesos or of a task", String::from_utf8_lossy(&bytes).into_owned()));
    }
    for (what, text) in &texts {
        assert!(!text.contains(&password), "{what} shows the password");
    }
    if matches!(kind, Kind::Mesos) {
        assert!(texts.iter().any(|(_, text)| text.contains(REPLICA)), "what Mesos knows of tasks is among them");
    }
    let url = world.cli(&["connect", "orders", "--print", "url"], "").await;
    assert_eq!(url.trim(), format!("redis://default:{password}@{}", master(&status).address));
    finish(world).await;
}

pub async fn passwords_are_rotated_and_no_client_is_cut_off(kind: Kind) {
    let (world, status, old) = start(kind).await;
    let address = master(&status).address.clone();
    let mut client = connect(&address, &old).await;
    world.cli(&["password", "rotate", "orders", "--keep-former", "3s"], "").await;
    world.event("orders", "PasswordsRotated").await;
    let new = wait_until("there is a new password", TIMEOUT, async || {
        let new = password(&world).await;
        if new == old { Err("it is the old one") } else { Ok(new) }
    })
    .await;
    for node in &status.nodes {
        wait_until(&format!("{} takes the new password", node.name), TIMEOUT, async || {
            let answer = cli(&node.address, Some(&new), &["PING"]).await;
            if answer == "PONG" { Ok(()) } else { Err(answer) }
        })
        .await;
    }
    assert_eq!(cli(&address, Some(&old), &["PING"]).await, "PONG", "the former one is valid meanwhile");
    world.event("orders", "FormerPasswordsVoid").await;
    for node in &status.nodes {
        wait_until(&format!("{} takes the former password no more", node.name), TIMEOUT, async || {
            let answer = cli(&node.address, Some(&old), &["PING"]).await;
            if answer.contains("NOAUTH") { Ok(()) } else { Err(answer) }
        })
        .await;
    }
    assert_eq!(client.ask(&["SET", "k", "v"]).await.expect("the connection lives"), Ok("OK".to_string()));
    assert_eq!(client.ask(&["WAIT", "2", "5000"]).await.expect("the connection lives"), Ok("2".to_string()));
    // Replicas that have to connect again do so with their new password.
    let copies = replicas(&status).len();
    world.cli(&["failover", "orders"], "").await;
    let after = another_master(&world, "orders", &status).await;
    let mut client = connect(&master(&after).address, &new).await;
    wait_until("all replicas follow the new master", TIMEOUT, async || {
        client.ask(&["SET", "k", "w"]).await?.map_err(anyhow::Error::msg)?;
        let confirmed = client.ask(&["WAIT", "9", "200"]).await?.map_err(anyhow::Error::msg)?;
        anyhow::ensure!(confirmed == copies.to_string(), "{confirmed} do");
        anyhow::Ok(())
    })
    .await;
    finish(world).await;
}

pub async fn a_password_that_has_leaked_is_void_at_once_whatever_was_asked_for_before(kind: Kind) {
    let (world, status, first) = start(kind).await;
    let address = master(&status).address.clone();
    world.cli(&["password", "rotate", "orders", "--keep-former", "52w"], "").await;
    let second = password(&world).await;
    assert_ne!(first, second, "the command returns when it is done");
    let refused = world.operators[0].cli(&["password", "rotate", "orders", "--keep-former", "1h"], "", TIMEOUT).await;
    let refused = refused.expect_err("the former one would end");
    assert!(refused.contains("one after the other") && refused.contains("--keep-former 0s"), "{refused}");

    wait_until("the second password is valid", TIMEOUT, async || {
        let answer = cli(&address, Some(&second), &["PING"]).await;
        if answer == "PONG" { Ok(()) } else { Err(answer) }
    })
    .await;
    let (mut by_first, mut by_second) = (connect(&address, &first).await, connect(&address, &second).await);
    world.cli(&["password", "rotate", "orders", "--keep-former", "0s"], "").await;
    let third = password(&world).await;
    for node in &status.nodes {
        wait_until(&format!("{} takes the newest password alone", node.name), TIMEOUT, async || {
            let mut answers = Vec::new();
            for of in [&first, &second, &third] {
                answers.push(cli(&node.address, Some(of), &["PING"]).await);
            }
            let alone = answers[2] == "PONG" && answers[..2].iter().all(|answer| answer.contains("NOAUTH"));
            if alone { Ok(()) } else { Err(answers.join(", ")) }
        })
        .await;
    }
    // Whoever came in by a former one is thrown out.
    for client in [&mut by_first, &mut by_second] {
        wait_until("the connection is cut", TIMEOUT, async || match client.ask(&["PING"]).await {
            Err(_) => Ok(()),
            Ok(answer) => Err(format!("{answer:?}")),
        })
        .await;
    }
    let mut client = connect(&address, &third).await;
    assert_eq!(client.ask(&["SET", "k", "v"]).await.expect("it answers"), Ok("OK".to_string()));
    assert_eq!(client.ask(&["WAIT", "2", "5000"]).await.expect("it answers"), Ok("2".to_string()));
    world.event("orders", "FormerPasswordsVoid").await;
    finish(world).await;
}

pub async fn passwords_are_introduced_and_taken_back_without_cutting_anybody_off(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world.put("orders", &Document::new("orders", 2).yaml()).await;
    let status = world.ready("orders", 3).await;
    let address = master(&status).address.clone();
    let mut client = Client::connect(&address).await.expect("the node listens");
    client.ask(&["SET", "k", "v"]).await.expect("it answers").expect("no password is needed");

    world.put("orders", &guarded().yaml()).await;
    world.ready("orders", 3).await;
    for node in &status.nodes {
        wait_until(&format!("{} wants a password", node.name), TIMEOUT, async || {
            let answer = cli(&node.address, None, &["PING"]).await;
            if answer.starts_with("NOAUTH") { Ok(()) } else { Err(answer) }
        })
        .await;
    }
    assert_eq!(client.ask(&["SET", "k", "w"]).await.expect("the connection lives"), Ok("OK".to_string()));
    let password = password(&world).await;
    assert_eq!(cli(&address, Some(&password), &["GET", "k"]).await, "w");

    world.put("orders", &Document::new("orders", 2).yaml()).await;
    for node in &status.nodes {
        wait_until(&format!("{} wants no password", node.name), TIMEOUT, async || {
            let answer = cli(&node.address, None, &["PING"]).await;
            if answer == "PONG" { Ok(()) } else { Err(answer) }
        })
        .await;
    }
    assert_eq!(client.ask(&["SET", "k", "x"]).await.expect("the connection lives"), Ok("OK".to_string()));
    world.until("orders", "kept its nodes", |now| is_ready(now) && now.nodes.len() == 3).await;
    tokio::time::timeout(Duration::from_mins(1), world.finish()).await.expect("it ends");
}

pub async fn clients_log_in_with_a_secret_of_the_users_own(kind: Kind) {
    let world = World::start(kind, &AgentSpec::racks(3)).await;
    world
        .put("orders", &Document::new("orders", 1).with("auth", serde_json::json!({"secretRef": "shop"})).yaml())
        .await;
    let waits = |status: &InstanceStatus| {
        let up_to_date = status.condition(ConditionType::UpToDate);
        let ready = status.nodes.iter().filter(|node| node.state == NodeState::Ready).count();
        ready == 2 && up_to_date.is_some_and(|condition| condition.reason == "SecretMissing")
    };
    let status = world.until("orders", "runs, and waits for its secret", waits).await;
    let plan = world.cli(&["plan", "orders"], "").await;
    assert!(plan.contains("the store has no secret shop"), "{plan}");
    for node in &status.nodes {
        assert!(cli(&node.address, None, &["PING"]).await.starts_with("NOAUTH"), "nobody gets in meanwhile");
    }
    for (secret, valid, void) in [
        ("first\n", vec!["first"], "second"),
        ("second\nfirst\n", vec!["first", "second"], "third"),
        ("second\n", vec!["second"], "first"),
    ] {
        world.cli(&["secret", "set", "shop"], secret).await;
        for node in &status.nodes {
            wait_until(&format!("{} takes {valid:?} and not {void}", node.name), TIMEOUT, async || {
                for password in &valid {
                    let answer = cli(&node.address, Some(password), &["PING"]).await;
                    anyhow::ensure!(answer == "PONG", "{answer}");
                }
                let answer = cli(&node.address, Some(void), &["PING"]).await;
                anyhow::ensure!(answer.contains("NOAUTH"), "{answer}");
                anyhow::Ok(())
            })
            .await;
        }
    }
    assert_eq!(password(&world).await, "second");
    let status = world.cli(&["get", "orders", "-o", "json"], "").await;
    assert!(!status.contains("second"), "{status}");
    let refused = world.operators[0].cli(&["secret", "delete", "shop"], "", TIMEOUT).await.expect_err("it is in use");
    assert!(refused.contains("orders: clients log in with the secret shop"), "{refused}");
    world.cli(&["delete", "orders", "--wait"], "").await;
    assert_eq!(world.cli(&["secret", "delete", "shop"], "").await, "secret/shop deleted\n");
    world.finish().await;
}

pub async fn a_stranger_on_a_dead_masters_port_lures_no_replica_that_has_a_password(kind: Kind) {
    let (world, before, password) = start(kind).await;
    let old = master(&before).clone();
    assert_eq!(cli(&old.address, Some(&password), &["SET", "k", "v"]).await, "OK");
    assert_eq!(cli(&old.address, Some(&password), &["WAIT", "2", "5000"]).await, "2");
    let pid = cli(&old.address, Some(&password), &["INFO", "server"]).await;
    let pid = pid.lines().find_map(|line| line.trim().strip_prefix("process_id:")?.parse().ok()).expect("a process id");
    let home = Home::new("stranger");
    let _stranger = waits_for_the_port_of(&old, &home, "").await;
    // Nobody acts while the stranger takes the port, and the replicas find it.
    world.operators[0].freeze();
    kill_process(rustix::process::Pid::from_raw(pid).expect("it is one"));
    wait_until("the stranger listens", TIMEOUT, async || crate::support::redis::cli(&old.address, &["PING"]).await)
        .await;
    for replica in replicas(&before) {
        wait_until(&format!("{} was refused by the stranger, and has its data", replica.name), TIMEOUT, async || {
            let info = cli(&replica.address, Some(&password), &["INFO", "replication"]).await;
            anyhow::ensure!(info.contains("master_link_status:down"), "{info}");
            let value = cli(&replica.address, Some(&password), &["GET", "k"]).await;
            anyhow::ensure!(value == "v", "{value}");
            anyhow::Ok(())
        })
        .await;
    }
    world.operators[0].thaw();
    let after = another_master(&world, "orders", &before).await;
    assert_eq!(cli(&master(&after).address, Some(&password), &["GET", "k"]).await, "v");
    finish(world).await;
}
