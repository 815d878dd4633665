//! What probes find. I/O.

use std::time::Instant;

use redisctl::model::{Address, NoAnswer, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Ports, Redis as Server, wait_until};
use crate::*;

#[tokio::test]
async fn a_master_and_its_replica_say_what_they_are() {
    let redis = commander(TIMEOUT);
    let master = Server::start(&["--maxmemory", "64mb"]).await;
    let replica = replica_of(master.port()).await;
    master.cli(&["SET", "a", "1"]).await.unwrap();
    master.cli(&["-n", "3", "SET", "b", "2"]).await.unwrap();
    wait_for_link(&redis, &replica).await;
    // Keys written after the sync began arrive a little after the link is up.
    wait_until("the keys arrive", PATIENCE, async || redis.probe(&address(&replica)).await.unwrap().keys == 2).await;

    let of_master = redis.probe(&address(&master)).await.unwrap();
    assert_eq!((of_master.role, of_master.follows.clone(), of_master.link_up), (Role::Master, None, true));
    assert_eq!((of_master.keys, of_master.max_memory, of_master.connected_replicas), (2, 64 << 20, 1));
    assert!(of_master.used_memory > 100_000 && of_master.offset > 0 && !of_master.loading);

    let of_replica = redis.probe(&address(&replica)).await.unwrap();
    assert_eq!((of_replica.role, of_replica.follows.clone()), (Role::Replica, Some(address(&master))));
    assert_eq!((of_replica.replid, of_replica.keys), (of_master.replid, 2));
    wait_until("the replica has the master's offset", PATIENCE, async || {
        let (a, b) = (redis.probe(&address(&master)).await, redis.probe(&address(&replica)).await);
        a.is_ok_and(|a| b.is_ok_and(|b| a.offset == b.offset))
    })
    .await;
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_refused() {
    let ports = Ports::lease(1);
    assert_eq!(commander(TIMEOUT).probe(&local(ports.next())).await, Err(NoAnswer::Refused));
}

#[tokio::test]
async fn a_kept_connection_to_a_node_that_died_ends_in_refused() {
    let redis = commander(TIMEOUT);
    let mut server = Server::start(&[]).await;
    redis.probe(&address(&server)).await.unwrap();
    server.kill();
    assert_eq!(redis.probe(&address(&server)).await, Err(NoAnswer::Refused));
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_dialled_again_within_the_probe() {
    let redis = commander(TIMEOUT);
    let mut server = Server::start(&[]).await;
    redis.probe(&address(&server)).await.unwrap();
    server.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await.unwrap();
    redis.probe(&address(&server)).await.unwrap();
    server.kill();
    server.start_again().await;
    redis.probe(&address(&server)).await.unwrap();
}

#[tokio::test]
async fn connections_are_kept_until_the_node_is_forgotten() {
    let redis = commander(TIMEOUT);
    let server = Server::start(&[]).await;
    // The redis-cli that asks is one of them.
    let clients = async || server.cli(&["CLIENT", "LIST"]).await.unwrap().lines().count();
    for _ in 0..5 {
        redis.probe(&address(&server)).await.unwrap();
    }
    assert_eq!(clients().await, 2);
    redis.forget(&address(&server));
    wait_until("the connection is closed", PATIENCE, async || clients().await == 1).await;
}

#[tokio::test]
async fn a_frozen_node_is_silent_in_time_and_answers_when_thawed() {
    let redis = commander(SHORT);
    let server = Server::start(&[]).await;
    wait_until("it answers", PATIENCE, async || redis.probe(&address(&server)).await.is_ok()).await;
    server.freeze();
    for _ in 0..2 {
        let start = Instant::now();
        assert_eq!(redis.probe(&address(&server)).await, Err(NoAnswer::Timeout));
        assert!(start.elapsed() >= SHORT && start.elapsed() < PATIENCE);
    }
    server.thaw();
    wait_until("it answers", PATIENCE, async || redis.probe(&address(&server)).await.is_ok()).await;
}

#[tokio::test]
async fn a_node_that_replies_with_errors_is_busy_not_dead() {
    let redis = commander(TIMEOUT);
    let locked = Server::start(&[]).await;
    locked.cli(&["CONFIG", "SET", "requirepass", "secret"]).await.unwrap();
    assert_eq!(redis.probe(&address(&locked)).await, Err(NoAnswer::NoAuth));

    let server = Server::start(&["--lua-time-limit", "50"]).await;
    let mut script = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    script.write_all(b"EVAL 'while true do end' 0\r\n").await.unwrap();
    let probe = async || redis.probe(&address(&server)).await == Err(NoAnswer::Busy);
    wait_until("the script is over its time", PATIENCE, probe).await;
    server.cli(&["SCRIPT", "KILL"]).await.unwrap();
    wait_until("it answers", PATIENCE, async || redis.probe(&address(&server)).await.is_ok()).await;
}

/// A listener that reads what comes, replies this, and closes.
async fn replies(reply: &'static [u8]) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(reply).await;
        }
    });
    local(port)
}

#[tokio::test]
async fn what_is_not_redis_is_told_apart() {
    let redis = commander(TIMEOUT);
    assert_eq!(redis.probe(&replies(b"HTTP/1.1 400 Bad Request\r\n\r\n").await).await, Err(NoAnswer::Garbled));
    assert_eq!(redis.probe(&replies(b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n").await).await, Err(NoAnswer::Garbled));
    assert_eq!(
        redis.probe(&replies(b"$3\r\na:b\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n").await).await,
        Err(NoAnswer::Garbled)
    );
    assert_eq!(redis.probe(&replies(b"").await).await, Err(NoAnswer::Reset));
    assert_eq!(redis.probe(&replies(b"-ERR max number of clients reached\r\n").await).await, Err(NoAnswer::Full));
}

#[tokio::test]
async fn a_node_that_cannot_write_to_its_disk_says_so() {
    let redis = commander(TIMEOUT);
    let server = Server::start(&["--save", "3600 1"]).await;
    let folder = server.cli(&["CONFIG", "GET", "dir"]).await.unwrap().lines().nth(1).unwrap().to_string();
    let fails = async || redis.probe(&address(&server)).await.is_ok_and(|answer| answer.disk_fails);
    assert!(!fails().await);
    // A folder in the place of the file: it cannot be replaced.
    let file = std::path::Path::new(&folder).join("dump.rdb");
    std::fs::create_dir(&file).unwrap();
    server.cli(&["SET", "a", "1"]).await.unwrap();
    server.cli(&["BGSAVE"]).await.unwrap();
    wait_until("it says so", PATIENCE, fails).await;
    let refused = server.cli(&["SET", "a", "2"]).await.unwrap_err();
    assert!(refused.contains("MISCONF"), "{refused}");
    std::fs::remove_dir(&file).unwrap();
    server.cli(&["BGSAVE"]).await.unwrap();
    wait_until("it does no more", PATIENCE, async || !fails().await).await;
    server.cli(&["SET", "a", "2"]).await.unwrap();
}

/// A listener that answers whatever it is sent with these bytes, again and again, until nobody reads them.
async fn without_end(bytes: &'static [u8]) -> (Address, tokio_util::task::AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = local(listener.local_addr().unwrap().port());
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 1024]).await;
                let many = bytes.repeat(10_000 / bytes.len() + 1);
                let (head, body) = (&bytes[..bytes.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1)], &many);
                let _ = stream.write_all(head).await;
                while stream.write_all(body).await.is_ok() {}
            });
        }
    });
    (address, tokio_util::task::AbortOnDropHandle::new(task))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_sends_without_end_is_given_up_long_before_its_time() {
    for bytes in [
        b"+aaaaaaaaaaaaaaaa".as_slice(),
        b"-aaaaaaaaaaaaaaaa",
        b"*30000000\r\n:1\r\n",
        b"*4000\r\n*4000\r\n",
        b"$1000000\r\naaaaaaaa",
        b"$30000000\r\naaaaaaaa",
        b"$-1\r\n",
        b"\r\n",
    ] {
        let (node, _sending) = without_end(bytes).await;
        let begun = Instant::now();
        let answer = commander(TIMEOUT).probe(&node).await;
        assert!(answer.is_err() && answer != Err(NoAnswer::Timeout), "{answer:?}");
        assert!(begun.elapsed() < TIMEOUT / 2, "{:?} for {:?}", begun.elapsed(), String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn clients_with_very_long_names_do_not_keep_us_from_a_node() {
    let server = Server::start(&[]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = TcpStream::connect(server.address()).await.unwrap();
        let name = "n".repeat(1_500_000);
        let set = format!("*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n${}\r\n{name}\r\n", name.len());
        client.write_all(set.as_bytes()).await.unwrap();
        let mut reply = [0; 5];
        client.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"+OK\r\n");
        clients.push(client);
    }
    let redis = commander(TIMEOUT);
    redis.probe(&address(&server)).await.expect("30 MB of names are read over");
    redis.promote(&address(&server), None).await.expect("it is commanded");
}
