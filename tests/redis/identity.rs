//! Whoever listens on a node's port is commanded, asked and believed only after it has proved to be the task. I/O.

use std::sync::{Arc as Shared, Mutex};

use redisctl::failover::redis::{Pace, Prober, Target, Watches};
use redisctl::model::{NoAnswer, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::Redis as Server;
use crate::*;

const TASK: &str = "orders-0.1";

/// Somebody who listens where a node should.
enum Stranger {
    /// A redis-server with keys of its own.
    Server(Server),
    /// Somebody who says always the same, and remembers what it was told.
    Listener { port: u16, told: Shared<Mutex<Vec<u8>>> },
}

impl Stranger {
    async fn server(args: &[&str]) -> Stranger {
        Stranger::Server(Server::start(args).await)
    }

    async fn listener(says: &'static [u8]) -> Stranger {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, told) = (listener.local_addr().unwrap().port(), Shared::new(Mutex::new(Vec::new())));
        let remembers = told.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let told = remembers.clone();
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    while let Ok(count) = stream.read(&mut bytes).await
                        && count > 0
                    {
                        told.lock().unwrap().extend_from_slice(&bytes[..count]);
                        let lines = bytes[..count].split(|byte| *byte == b'*').count().max(2) - 1;
                        if says.is_empty() || stream.write_all(&says.repeat(lines)).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Stranger::Listener { port, told }
    }

    fn address(&self) -> Address {
        match self {
            Stranger::Server(server) => address(server),
            Stranger::Listener { port, .. } => local(*port),
        }
    }
}

/// All that is ever sent to a node, on this one and about it.
async fn every_order(redis: &Redis, node: &Address, other: &Address) -> Vec<(&'static str, Result<(), String>)> {
    let of = |result: anyhow::Result<()>| result.map_err(|error| format!("{error:#}"));
    let setting = [("maxmemory".to_string(), "77mb".to_string())];
    let users = [("users".to_string(), "1".to_string())];
    let password = Some("1@orders-9.9");
    vec![
        ("probe", redis.probe(node).await.map(|_| ()).map_err(|why| why.to_string())),
        ("promote", of(redis.promote(node, None).await.map(|_| ()))),
        ("detach", of(redis.detach(node).await.map(|_| ()))),
        ("fence", of(redis.fence(node).await.map(|_| ()))),
        ("follow", of(redis.follow(node, other, password).await)),
        ("kick", of(redis.kick(node, other, password).await)),
        ("configure", redis.configure(node, &setting).await.failed.map_or(Ok(()), Err)),
        ("tell passwords", redis.configure(node, &users).await.failed.map_or(Ok(()), Err)),
        ("cut", of(redis.cut_foreign(node, &[]).await.map(|_| ()))),
        ("from", of(redis.switch_over(node, other, password, SHORT).await.map(|_| ()).map_err(Into::into))),
        ("to", of(redis.switch_over(other, node, password, SHORT).await.map(|_| ()).map_err(Into::into))),
    ]
}

async fn strangers() -> Vec<(&'static str, NoAnswer, Stranger)> {
    let accomplice = ["--user", "redisctl", "on", "nopass", "~*", "&*", "+@all"];
    let of_another = of_task("orders-1.1", true);
    let of_another: Vec<&str> = of_another.iter().map(String::as_str).collect();
    let marked = mark_acl(&key().0.mark(&key().1, "orders-1.1"));
    let marked: Vec<&str> = ["--user"].into_iter().chain(marked.iter().map(String::as_str)).collect();
    let marked = [&accomplice[..], &marked].concat();
    vec![
        ("somebody's own server", NoAnswer::Stranger, Stranger::server(&[]).await),
        (
            "one with a password",
            NoAnswer::Unproved,
            Stranger::Server(Server::start_with(&["--requirepass", "x"], &["-a", "x"]).await),
        ),
        ("one that takes our user with any password", NoAnswer::Stranger, Stranger::server(&accomplice).await),
        ("another task of the same instance", NoAnswer::Unproved, Stranger::server(&of_another).await),
        ("one with another task's mark", NoAnswer::Stranger, Stranger::server(&marked).await),
        ("one that agrees to everything", NoAnswer::Garbled, Stranger::listener(b"+OK\r\n").await),
        ("one that knows nobody", NoAnswer::Stranger, Stranger::listener(b"$-1\r\n").await),
        ("one that wants a password", NoAnswer::Unproved, Stranger::listener(b"-NOAUTH no\r\n").await),
        ("a web server", NoAnswer::Garbled, Stranger::listener(b"HTTP/1.1 400 Bad Request\r\n\r\n").await),
        ("an echo", NoAnswer::Stranger, Stranger::listener(b"*2\r\n$4\r\nAUTH\r\n$8\r\nredisctl\r\n").await),
        ("one that hangs up", NoAnswer::Reset, Stranger::listener(b"").await),
    ]
}

#[tokio::test]
async fn who_does_not_prove_to_be_the_task_is_not_commanded_not_believed_and_not_touched() {
    let redis = commander(TIMEOUT);
    let other = node(&redis, "orders-9.9", &[]).await;
    let password = key().0.password_at(&key().1, TASK, User::Operator, 1).reveal().to_string();
    for (who, why, stranger) in strangers().await {
        let at = stranger.address();
        redis.set_login(&at, Some(login(TASK)));
        if let Stranger::Server(server) = &stranger {
            let with = if who == "one with a password" { &["-a", "x"][..] } else { &[] };
            for i in 0..10 {
                let key = i.to_string();
                server.cli(&[with, &["SET", &key, "theirs"]].concat()).await.unwrap();
            }
        }
        for (order, done) in every_order(&redis, &at, &address(&other)).await {
            let error = done.expect_err(&format!("{who}: {order}"));
            assert!(error.contains(&why.to_string()), "{who}: {order}: {error}");
        }
        match &stranger {
            Stranger::Server(server) => {
                let with = if who == "one with a password" { &["-a", "x"][..] } else { &[] };
                let ask = async |words: &[&str]| server.cli(&[with, words].concat()).await.unwrap();
                assert!(ask(&["DBSIZE"]).await.ends_with("10"), "{who} keeps its keys");
                assert!(ask(&["ROLE"]).await.contains("master"), "{who} keeps its role");
                assert!(ask(&["INFO", "memory"]).await.contains("\nmaxmemory:0"), "{who} keeps its settings");
            }
            Stranger::Listener { told, .. } => {
                let told = String::from_utf8_lossy(&told.lock().unwrap()).replace("\r\n", " ");
                let known = told.replace(&password, "").replace("redisctl-task", "").replace("redisctl", "");
                let words = known.split(' ').filter(|word| !word.is_empty() && !word.starts_with(['*', '$']));
                let secret = words.filter(|word| !["AUTH", "ACL", "GETUSER"].contains(word)).collect::<Vec<_>>();
                assert_eq!(secret, Vec::<&str>::new(), "{who} is told nothing else");
            }
        }
    }
    // What they have heard is worth nothing at another node.
    let answer = other.cli(&["AUTH", "redisctl", &password]).await.unwrap_err();
    assert!(answer.contains("WRONGPASS"), "{answer}");
    assert_eq!(redis.probe(&address(&other)).await.unwrap().role, Role::Master, "and that is as it was");
}

#[tokio::test]
async fn who_takes_the_port_of_a_node_that_has_died_is_not_taken_for_it_by_probes_watches_or_kept_connections() {
    let redis = commander(TIMEOUT);
    let mut server = node(&redis, TASK, &[]).await;
    let at = address(&server);
    let (out, mut seen) = mpsc::channel(64);
    let prober = Prober::start(redis.clone(), out.clone());
    prober.add(Target { task_id: TASK.to_string(), address: at.clone(), pace: Pace::Steady(SHORT / 10) });
    let mut watches = Watches::new(redis.clone(), out);
    watches.set(TASK, &at, SHORT);
    until(&mut seen, |probe| probe.watched && probe.result.is_ok()).await;
    until(&mut seen, |probe| !probe.watched && probe.result.is_ok()).await;
    server.kill();
    let stranger = Server::start_on(at.port, &[]).await;
    until(&mut seen, |probe| probe.watched && probe.result == Err(NoAnswer::Stranger)).await;
    until(&mut seen, |probe| !probe.watched && probe.result == Err(NoAnswer::Stranger)).await;
    stranger.cli(&["SET", "k", "theirs"]).await.unwrap();
    for (order, done) in every_order(&redis, &at, &local(1)).await {
        done.expect_err(order);
    }
    assert_eq!(stranger.cli(&["GET", "k"]).await.unwrap(), "theirs");
}

#[tokio::test]
async fn a_node_that_proves_itself_follows_is_promoted_and_hands_over_with_a_password_for_each_master() {
    let redis = commander(TIMEOUT);
    let a = node(&redis, "orders-0.1", &[]).await;
    let b = node(&redis, "orders-1.1", &[]).await;
    let follows = ["--masteruser", "redisctl-replica", "--masterauth", "none", "--replicaof", "127.0.0.1"];
    let c = node(&redis, "orders-2.1", &[&follows[..], &[&a.port().to_string()]].concat()).await;
    a.cli(&["SET", "k", "v"]).await.unwrap();
    redis.follow(&address(&b), &address(&a), Some("1@orders-0.1")).await.unwrap();
    redis.kick(&address(&c), &address(&a), Some("1@orders-0.1")).await.unwrap();
    for replica in [&b, &c] {
        wait_for_link(&redis, replica).await;
    }
    let switched = redis.switch_over(&address(&a), &address(&b), Some("1@orders-1.1"), TIMEOUT).await.unwrap();
    assert_eq!(switched.role, Role::Master);
    redis.follow(&address(&c), &address(&b), Some("1@orders-1.1")).await.unwrap();
    for replica in [&a, &c] {
        wait_for_link(&redis, replica).await;
        assert_eq!(replica.cli(&["GET", "k"]).await.unwrap(), "v");
    }
    // With the password of another master nobody gets in.
    redis.follow(&address(&c), &address(&a), Some("1@orders-1.1")).await.unwrap();
    wait_until("it is refused", PATIENCE, async || {
        c.cli(&["INFO", "replication"]).await.is_ok_and(|info| info.contains("master_link_status:down"))
    })
    .await;
    assert!(a.cli(&["INFO", "replication"]).await.unwrap().contains("connected_slaves:0"));
}

/// How often the master is connected to until this has lasted for three seconds.
async fn tries(master: &Server) -> u64 {
    let connections = async || {
        let info = master.cli(&["INFO", "stats"]).await.unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = connections().await;
    tokio::time::sleep(Duration::from_secs(3)).await; // What is counted is a rate.
    connections().await - before - 1 // The last question.
}

/// Why launches have a password that is none: see `reconcile::launch`.
#[tokio::test]
async fn a_replica_with_a_wrong_password_tries_once_a_second_and_one_with_none_without_a_pause() {
    let redis = commander(TIMEOUT);
    let (a, b) = (node(&redis, "orders-0.1", &[]).await, node(&redis, "orders-1.1", &[]).await);
    let follow = |master: &Server| format!("127.0.0.1 {}", master.port());
    let wrong = ["--masteruser", "redisctl-replica", "--masterauth", "wrong", "--replicaof", &follow(&a)];
    let _told = Server::start(&wrong).await;
    let _untold = Server::start(&["--replicaof", &follow(&b)]).await;
    let (told, untold) = tokio::join!(tries(&a), tries(&b));
    assert!((1..=4).contains(&told), "{told}");
    assert!(untold > 10 * told, "{untold} beside {told}: then it is not needed any more");
}

#[tokio::test]
async fn a_replica_is_let_in_by_a_master_without_users_whatever_password_it_had() {
    let redis = commander(TIMEOUT);
    let old = Server::start(&[]).await;
    let had = ["--masteruser", "redisctl-replica", "--masterauth", "wrong"];
    let replica = node(&redis, "orders-1.1", &had).await;
    redis.follow(&address(&replica), &address(&old), None).await.unwrap();
    wait_for_link(&redis, &replica).await;
}

#[tokio::test]
async fn no_client_can_pretend_to_be_a_later_leader() {
    let redis = commander(TIMEOUT);
    let server = node(&redis, TASK, &[]).await;
    let at = address(&server);
    let client = redis::Client::open(("127.0.0.1", server.port())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let name = redis::cmd("CLIENT").arg("SETNAME").arg("redisctl:9000000000000000000").to_owned();
    name.query_async::<()>(&mut connection).await.unwrap();
    redis.probe(&at).await.unwrap();
    redis.detach(&at).await.unwrap();
    redis.promote(&at, None).await.unwrap();
    let left = server.cli(&["CLIENT", "LIST"]).await.unwrap();
    assert!(!left.contains("redisctl:9000000000000000000"), "who pretends is cut: {left}");
}
