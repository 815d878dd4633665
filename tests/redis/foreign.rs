//! Replicas that are no nodes of the instance are found by both ends of each link, and cut. I/O.

use redisctl::model::Address;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::Redis as Server;
use crate::*;

async fn replicas_of(server: &Server) -> Vec<String> {
    let list = server.cli(&["CLIENT", "LIST", "TYPE", "replica"]).await.unwrap();
    list.lines().filter_map(|line| line.split(' ').next()).map(str::to_string).collect()
}

#[tokio::test]
async fn a_replica_that_is_not_ours_is_cut_whatever_it_announces_and_ours_keep_their_links() {
    let redis = commander(TIMEOUT);
    let master = Server::start(&[]).await;
    let (a, b) = (replica_of(master.port()).await, replica_of(master.port()).await);
    for replica in [&a, &b] {
        wait_for_link(&redis, replica).await;
    }
    let ours: [Address; 2] = [address(&a), address(&b)];
    assert_eq!(redis.cut_foreign(&address(&master), &ours).await.unwrap(), 0);
    let before = replicas_of(&master).await;
    let follow = format!("127.0.0.1 {}", master.port());
    for announced in [None, Some(a.port().to_string())] {
        // One in our form, which says that it is a replica of ours.
        let announce = announced.iter().flat_map(|port| ["--replica-announce-port", port]);
        let args: Vec<&str> = ["--replicaof", &follow].into_iter().chain(announce).collect();
        let mut stranger = Server::start(&args).await;
        wait_for_link(&redis, &stranger).await;
        let answer = redis.probe(&address(&master)).await.unwrap();
        assert_eq!(answer.replicas.len(), 3, "{answer:?}");
        assert_eq!(redis.cut_foreign(&address(&master), &ours).await.unwrap(), 1);
        stranger.kill();
        wait_until("only ours are left", PATIENCE, async || replicas_of(&master).await == before).await;
    }
}

#[tokio::test]
async fn nobody_is_cut_of_whom_it_is_not_certain() {
    let redis = commander(TIMEOUT);
    let master = Server::start(&[]).await;
    let (a, b) = (replica_of(master.port()).await, replica_of(master.port()).await);
    for replica in [&a, &b] {
        wait_for_link(&redis, replica).await;
    }
    // One of ours does not say how it is connected: whoever comes from its host may be it.
    let impatient = commander(SHORT);
    b.freeze();
    assert_eq!(impatient.cut_foreign(&address(&master), &[address(&a), address(&b)]).await.unwrap(), 0);
    // Whoever comes beside it from there is one too many: it is not known which, and ours comes back.
    let follow = format!("127.0.0.1 {}", master.port());
    let mut stranger = Server::start(&["--replicaof", &follow]).await;
    wait_for_link(&redis, &stranger).await;
    assert_eq!(impatient.cut_foreign(&address(&master), &[address(&a), address(&b)]).await.unwrap(), 2);
    stranger.kill();
    b.thaw();
    wait_for_link(&redis, &b).await;
    // Nor while one of ours has a link that is not seen at the master: here, to another.
    let other = Server::start(&[]).await;
    redis.follow(&address(&a), &address(&other), None).await.unwrap();
    wait_until("it follows another", PATIENCE, async || {
        redis.probe(&address(&a)).await.is_ok_and(|answer| answer.link_up && answer.follows == Some(address(&other)))
    })
    .await;
    assert_eq!(redis.cut_foreign(&address(&master), &[address(&a)]).await.unwrap(), 0);
}

#[tokio::test]
async fn connections_that_stop_in_the_middle_of_a_command_and_take_memory_are_cut_and_clients_stay() {
    let redis = commander(TIMEOUT);
    let master = Server::start(&["--maxmemory", "8mb"]).await;
    let at = address(&master);
    redis.probe(&at).await.unwrap();
    let mut client = tokio::net::TcpStream::connect((at.host.as_str(), at.port)).await.unwrap();
    client.write_all(b"PING\r\n").await.unwrap();
    let mut half = Vec::new();
    for _ in 0..100 {
        let mut stream = tokio::net::TcpStream::connect((at.host.as_str(), at.port)).await.unwrap();
        stream.write_all(b"PING\r\n*2\r\n$3\r\nGET\r\n$16000\r\n").await.unwrap();
        stream.write_all(&[b'a'; 15_000]).await.unwrap();
        half.push(stream);
    }
    wait_until("it is crowded", PATIENCE, async || redis.probe(&at).await.is_ok_and(|answer| answer.is_crowded()))
        .await;
    wait_until("it is not any more", PATIENCE, async || {
        redis.make_room(&at).await.map_err(|error| format!("{error:#}"))?;
        let answer = redis.probe(&at).await.map_err(|error| error.to_string())?;
        if answer.is_crowded() { Err(format!("{} bytes", answer.gauges.clients_memory)) } else { Ok(()) }
    })
    .await;
    client.write_all(b"PING\r\n").await.unwrap();
    let mut answer = [0; 14];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"+PONG\r\n+PONG\r\n");
}

#[tokio::test]
async fn connections_that_never_say_who_they_are_make_room_for_replicas() {
    let redis = commander(TIMEOUT);
    let master = Server::start(&["--maxclients", "40"]).await;
    let at = address(&master);
    redis.probe(&at).await.unwrap();
    let mut talks = tokio::net::TcpStream::connect((at.host.as_str(), at.port)).await.unwrap();
    talks.write_all(b"PING\r\n").await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..60 {
        silent.push(tokio::net::TcpStream::connect((at.host.as_str(), at.port)).await.unwrap());
    }
    wait_until("it is full", PATIENCE, async || redis.probe(&at).await.is_ok_and(|answer| answer.is_full())).await;
    wait_until("there is room", PATIENCE, async || {
        let cut = redis.make_room(&at).await.map_err(|error| format!("{error:#}"))?;
        if cut == 0 { Err("all are young".to_string()) } else { Ok(()) }
    })
    .await;
    let replica = replica_of(master.port()).await;
    wait_for_link(&redis, &replica).await;
    let clients = master.cli(&["CLIENT", "LIST", "TYPE", "normal"]).await.unwrap();
    assert!(clients.lines().any(|line| line.contains("cmd=ping")), "who has said anything stays: {clients}");
}
