//! Watches of masters. I/O.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redisctl::clock;
use redisctl::failover::redis::Watches;
use redisctl::model::{Address, NoAnswer, Probe, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use crate::support::{Redis as Server, holds_for, wait_until};
use crate::*;

/// The bound in most tests.
const WITHIN: Duration = Duration::from_millis(600);

/// A watch of this node that has told that it answers.
async fn watch(address: &Address, within: Duration) -> (Watches, mpsc::Receiver<Probe>) {
    let (out, mut seen) = mpsc::channel(1024);
    let mut watches = Watches::new(commander(TIMEOUT), out);
    watches.set("t", address, within);
    let first = next(&mut seen).await;
    assert!(first.task_id == "t" && first.result.is_ok(), "{first:?}");
    (watches, seen)
}

/// For how long the node had been silent when the probe was read.
fn silence(probe: &Probe) -> Duration {
    Duration::from_millis(clock::now().since_ms(probe.at))
}

async fn clients(server: &Server) -> usize {
    server.cli(&["CLIENT", "LIST"]).await.unwrap().lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_is_seen_at_once() {
    let mut server = Server::start(&[]).await;
    let mut took = Vec::new();
    for _ in 0..7 {
        let (_watches, mut seen) = watch(&address(&server), Duration::from_mins(1)).await;
        let killed = Instant::now();
        server.kill();
        let probe = next(&mut seen).await;
        took.push(killed.elapsed());
        assert_eq!(probe.result, Err(NoAnswer::Refused));
        server.start_again().await;
        assert!(next_that(&mut seen, |p| p.result.is_ok()).await.at >= probe.at);
    }
    took.sort();
    println!("refused after {took:?}");
    assert!(took[3] < Duration::from_millis(50), "at no tick: {took:?}");
}

/// Reads probes until one is like that.
async fn next_that(seen: &mut mpsc::Receiver<Probe>, like: impl Fn(&Probe) -> bool) -> Probe {
    loop {
        let probe = next(seen).await;
        if like(&probe) {
            return probe;
        }
    }
}

#[tokio::test]
async fn a_frozen_master_is_silent_right_at_the_bound_and_not_when_it_answers_again() {
    for within in [Duration::from_millis(150), WITHIN] {
        let server = Server::start(&[]).await;
        let (_watches, mut seen) = watch(&address(&server), within).await;
        let last_reply = clock::now();
        server.freeze();
        let frozen = Instant::now();
        let probe = next_that(&mut seen, |p| silence(p) >= within).await;
        assert_eq!(probe.result, Err(NoAnswer::Timeout));
        assert!(probe.at.plus_ms(20_000) >= last_reply);
        println!(
            "{within:?}: silent {:?} after it froze, {:?} after its last reply",
            frozen.elapsed(),
            silence(&probe)
        );
        assert!(frozen.elapsed() < within + Duration::from_millis(250), "on a loaded machine");
        server.thaw();
        let thawed = Instant::now();
        let answer = next_that(&mut seen, |p| p.result.is_ok()).await;
        println!("{within:?}: answers {:?} after it was thawed", thawed.elapsed());
        assert!(answer.at > probe.at && thawed.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_of_half_the_bound_is_no_silence() {
    let within = Duration::from_secs(1);
    let server = Server::start(&[]).await;
    let (_watches, mut seen) = watch(&address(&server), within).await;
    // Whether it is noticed or not, no error may be as old as the bound, and each is taken back.
    let mut well = true;
    let mut read = async |period: Duration| {
        let end = tokio::time::Instant::now() + period;
        while let Ok(probe) = tokio::time::timeout_at(end, seen.recv()).await {
            let probe = probe.unwrap();
            assert!(probe.result.is_ok() || silence(&probe) < within, "{probe:?} after {:?}", silence(&probe));
            well = probe.result.is_ok();
        }
        well
    };
    for _ in 0..3 {
        server.freeze();
        read(within / 2).await;
        server.thaw();
        assert!(read(within / 4).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_takes_half_the_bound_for_each_answer_is_not_silent() {
    let server = Server::start(&[]).await;
    let (near, delay) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::new(AtomicU64::new(0)));
    let slow = local(near.local_addr().unwrap().port());
    let delayed = delay.clone();
    let proxy = tokio::spawn(async move {
        while let Ok((near, _)) = near.accept().await {
            let far = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
            tokio::spawn(answer_late(near, far, delayed.clone()));
        }
    });
    let (_watches, mut seen) = watch(&slow, WITHIN).await;
    delay.store(300, Ordering::Relaxed);
    let end = Instant::now() + WITHIN * 5;
    let mut longest = Duration::ZERO;
    while Instant::now() < end {
        if let Ok(Some(probe)) = tokio::time::timeout(SHORT, seen.recv()).await {
            longest = longest.max(probe.result.as_ref().map_or_else(|_| silence(&probe), |_| Duration::ZERO));
        }
    }
    println!("silent for {longest:?}");
    assert!(longest > Duration::ZERO && longest < WITHIN, "{longest:?}: each answer is a sign of life");
    delay.store(0, Ordering::Relaxed);
    next_that(&mut seen, |p| p.result.is_ok()).await;
    proxy.abort();
}

/// Passes on what is asked at once, and what is answered after some milliseconds.
async fn answer_late(near: TcpStream, far: TcpStream, delay: Arc<AtomicU64>) {
    let ((mut asks, mut hears), (mut answers, mut asked)) = (near.into_split(), far.into_split());
    tokio::spawn(async move { tokio::io::copy(&mut asks, &mut asked).await });
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = answers.read(&mut bytes).await {
        tokio::time::sleep(Duration::from_millis(delay.load(Ordering::Relaxed))).await;
        if hears.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn nothing_is_told_while_all_is_well() {
    let server = Server::start(&[]).await;
    let (_watches, mut seen) = watch(&address(&server), Duration::from_millis(100)).await;
    holds_for("nothing is told", Duration::from_millis(300), async || seen.try_recv().is_err()).await;
    let stats = server.cli(&["INFO", "commandstats"]).await.unwrap();
    // It answers first that it is well, and is only asked for signs of life after that.
    assert!(stats.contains("cmdstat_info:calls=7,"), "{stats}");
}

#[tokio::test]
async fn a_connection_that_is_closed_alone_is_made_again() {
    let server = Server::start(&[]).await;
    let (_watches, mut seen) = watch(&address(&server), Duration::from_mins(1)).await;
    server.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await.unwrap();
    wait_until("it is connected again", PATIENCE, async || clients(&server).await == 2).await;
    while let Ok(probe) = seen.try_recv() {
        assert!(probe.result.is_ok(), "{probe:?}");
    }
}

#[tokio::test]
async fn a_long_script_is_a_sign_of_life() {
    let server = Server::start(&["--lua-time-limit", "50"]).await;
    let (_watches, mut seen) = watch(&address(&server), WITHIN).await;
    let mut script = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    script.write_all(b"EVAL 'while true do end' 0\r\n").await.unwrap();
    let busy = next(&mut seen).await;
    assert_eq!(busy.result, Err(NoAnswer::Busy));
    holds_for("nothing worse is told", WITHIN * 2, async || {
        let probe = seen.try_recv();
        probe.is_err() || probe.is_ok_and(|p| p.result == Err(NoAnswer::Busy))
    })
    .await;
    server.cli(&["SCRIPT", "KILL"]).await.unwrap();
    next_that(&mut seen, |p| p.result.is_ok()).await;
}

#[tokio::test]
async fn a_port_that_was_never_listened_on_is_refused_until_it_is() {
    let (out, mut seen) = mpsc::channel(1024);
    let mut server = Server::start(&[]).await;
    server.kill();
    let mut watches = Watches::new(commander(TIMEOUT), out);
    watches.set("t", &address(&server), Duration::from_millis(100));
    for _ in 0..3 {
        assert_eq!(next(&mut seen).await.result, Err(NoAnswer::Refused));
    }
    server.start_again().await;
    next_that(&mut seen, |p| p.result.is_ok()).await;
}

#[tokio::test]
async fn who_takes_connections_and_says_nothing_is_told_apart_from_who_does_not_exist() {
    // The kernel takes the connections, nobody replies.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (out, mut seen) = mpsc::channel(1024);
    let mut watches = Watches::new(commander(TIMEOUT), out);
    watches.set("silent", &local(silent.local_addr().unwrap().port()), WITHIN);
    let first = next(&mut seen).await;
    assert_eq!(first.result, Err(NoAnswer::Timeout));
    let second = next(&mut seen).await;
    assert_eq!((second.result, second.at), (Err(NoAnswer::Timeout), first.at), "silence is counted from its begin");
    watches.remove("silent");
    // One whose kernel has no room for more connections drops their SYNs, as a dead machine would.
    let full = TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(1).unwrap();
    let at = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(SHORT, TcpStream::connect(at)).await {
        waiting.push(stream.unwrap());
    }
    watches.set("gone", &local(at.port()), WITHIN);
    let probe = next_that(&mut seen, |p| p.task_id == "gone").await;
    assert_eq!(probe.result, Err(NoAnswer::Unreachable));
    // The way is open again: seen at the next attempt, long before a SYN would be sent again.
    next_that(&mut seen, |p| silence(p) > WITHIN).await;
    let server = Server::start(&[]).await;
    let healed = Instant::now();
    let proxy = tokio::spawn(async move {
        while let Ok((mut near, _)) = full.accept().await {
            let mut far = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    next_that(&mut seen, |p| p.result.is_ok()).await;
    println!("healed for {:?} when it was seen", healed.elapsed());
    assert!(healed.elapsed() < Duration::from_millis(900), "{:?}", healed.elapsed());
    proxy.abort();
}

#[tokio::test]
async fn a_slow_reader_still_learns_that_a_silence_has_ended() {
    let (out, mut seen) = mpsc::channel(1);
    let server = Server::start(&[]).await;
    let mut watches = Watches::new(commander(TIMEOUT), out);
    watches.set("t", &address(&server), Duration::from_millis(100));
    assert!(next(&mut seen).await.result.is_ok());
    server.freeze();
    wait_until("the channel is full", PATIENCE, async || seen.len() == 1).await;
    server.thaw();
    wait_until("it is asked again", PATIENCE, async || server.cli(&["PING"]).await.is_ok()).await;
    assert!(next(&mut seen).await.result.is_err());
    next_that(&mut seen, |p| p.result.is_ok()).await;
}

#[tokio::test]
async fn a_watch_is_changed_removed_and_ended() {
    let (a, b) = (Server::start(&[]).await, Server::start(&[]).await);
    let (mut watches, mut seen) = watch(&address(&a), WITHIN).await;
    watches.set("t", &address(&a), WITHIN);
    holds_for("the same again changes nothing", Duration::from_millis(100), async || seen.try_recv().is_err()).await;
    watches.set("t", &address(&b), WITHIN);
    assert!(next(&mut seen).await.result.is_ok());
    wait_until("the first is left alone", PATIENCE, async || clients(&a).await == 1).await;
    watches.remove("t");
    wait_until("the second is left alone", PATIENCE, async || clients(&b).await == 1).await;
    watches.set("t", &address(&a), WITHIN);
    assert!(next(&mut seen).await.result.is_ok());
    drop(watches);
    wait_until("all are left alone", PATIENCE, async || clients(&a).await == 1).await;
}

#[tokio::test]
async fn a_master_that_a_client_has_paused_lives_and_is_called_paused() {
    for _ in 0..3 {
        let server = Server::start(&[]).await;
        let (_watches, mut seen) = watch(&address(&server), WITHIN).await;
        let pause_ms = (3 * WITHIN).as_millis().to_string();
        server.cli(&["CLIENT", "PAUSE", &pause_ms, "ALL"]).await.unwrap();
        // Its PING is not answered; whatever is asked then is: it lives.
        next_that(&mut seen, |p| p.result == Err(NoAnswer::Paused)).await;
        let worst = Cell::new(Duration::ZERO);
        next_that(&mut seen, |p| {
            worst.set(worst.get().max(silence(p)));
            p.result.is_ok()
        })
        .await;
        let worst = worst.get();
        assert!(worst < WITHIN, "it was never silent for the bound: {worst:?}");
    }
}

#[tokio::test]
async fn another_role_is_noticed_at_the_next_ping() {
    let server = Server::start(&[]).await;
    let (_watches, mut seen) = watch(&address(&server), WITHIN).await;
    let turned = Instant::now();
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
    next_that(&mut seen, |p| p.result.as_ref().is_ok_and(|answer| answer.role == Role::Replica)).await;
    assert!(turned.elapsed() < WITHIN, "{:?}", turned.elapsed());
}
