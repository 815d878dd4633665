//! Planned switchovers. I/O.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redisctl::failover::redis::{Redis, SwitchError};
use redisctl::model::Role;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::support::{Redis as Server, wait_until};
use crate::*;

/// Clients that write at the same time.
const WRITERS: usize = 8;
/// How long a candidate may take to catch up.
const SOON: Duration = Duration::from_millis(500);

async fn pair(redis: &Redis) -> (Server, Server) {
    let from = Server::start(&[]).await;
    let to = replica_of(from.port()).await;
    wait_for_link(redis, &to).await;
    (from, to)
}

async fn is_done(redis: &Redis, from: &Server, to: &Server) {
    let new = redis.probe(&address(to)).await.unwrap();
    assert_eq!(new.role, Role::Master);
    to.cli(&["SET", "after", "1"]).await.unwrap();
    wait_for_link(redis, from).await;
    let old = redis.probe(&address(from)).await.unwrap();
    assert_eq!((old.follows, old.replid), (Some(address(to)), new.replid));
    let writes = support::redis::info(&to.address()).await.unwrap();
    assert_eq!((writes["sync_full"].as_str(), writes["sync_partial_ok"].as_str()), ("0", "1"));
}

/// Writes numbers under keys of its own until the end, to whichever of the two takes them: how many
/// were acknowledged, and the longest time between two that were.
async fn write(n: usize, ports: [u16; 2], acknowledged: Arc<AtomicU64>, end: Arc<AtomicBool>) -> (u64, Duration) {
    let (mut at, mut count, mut gap, mut last) = (0, 0_u64, Duration::ZERO, Instant::now());
    while !end.load(Ordering::Relaxed) {
        let client = redis::Client::open(("127.0.0.1", ports[at])).unwrap();
        at = 1 - at;
        let Ok(mut connection) = client.get_multiplexed_async_connection().await else { continue };
        while !end.load(Ordering::Relaxed) {
            let key = format!("{n}-{count}");
            let written = redis::cmd("SET").arg(key).arg(count).query_async::<()>(&mut connection).await;
            if written.is_err() {
                break;
            }
            (gap, last) = (gap.max(last.elapsed()), Instant::now());
            count += 1;
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
    (count, gap)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_by_switchovers_and_writes_hardly_stand_still() {
    let redis = commander(TIMEOUT);
    let (a, b) = pair(&redis).await;
    // With this the new master takes writes only when the old one has joined it.
    for server in [&a, &b] {
        server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await.unwrap();
    }
    let (acknowledged, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let ports = [a.port(), b.port()];
    let writers: Vec<_> =
        (0..WRITERS).map(|n| tokio::spawn(write(n, ports, acknowledged.clone(), end.clone()))).collect();
    let more = async |count: u64| {
        let goal = acknowledged.load(Ordering::Relaxed) + count;
        wait_until("writes go on", PATIENCE, async || acknowledged.load(Ordering::Relaxed) >= goal).await;
    };
    let (mut from, mut to) = (&a, &b);
    for _ in 0..4 {
        more(500).await;
        let start = Instant::now();
        let answer = redis.switch_over(&address(from), &address(to), None, TIMEOUT).await.unwrap();
        println!("switched over in {:?}", start.elapsed());
        assert_eq!(answer.role, Role::Master);
        // The next candidate must be in sync.
        wait_for_link(&redis, from).await;
        (from, to) = (to, from);
    }
    more(500).await;
    end.store(true, Ordering::Relaxed);
    let (mut count, mut gaps) = (0, Vec::new());
    for (n, writer) in writers.into_iter().enumerate() {
        let (written, gap) = writer.await.unwrap();
        for chunk in (0..written).collect::<Vec<_>>().chunks(1000) {
            let keys: Vec<String> = chunk.iter().map(|i| format!("{n}-{i}")).collect();
            let client = redis::Client::open(("127.0.0.1", from.port())).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let values: Vec<Option<u64>> = redis::cmd("MGET").arg(keys).query_async(&mut connection).await.unwrap();
            assert!(values.iter().zip(chunk).all(|(found, written)| *found == Some(*written)), "a write was lost");
        }
        count += written;
        gaps.push(gap);
    }
    println!("{count} acknowledged writes, all found; the longest gaps {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < Duration::from_millis(500)), "{gaps:?}");
}

#[tokio::test]
async fn a_switchover_is_ended_by_repetition_from_wherever_it_was_left() {
    let redis = commander(TIMEOUT);
    let (from, to) = pair(&redis).await;
    let switch = async || redis.switch_over(&address(&from), &address(&to), None, SOON).await.map(|answer| answer.role);
    // After the fence.
    from.cli(&["CLIENT", "PAUSE", "60000", "WRITE"]).await.unwrap();
    redis.detach(&address(&from)).await.unwrap();
    assert_eq!(switch().await, Ok(Role::Master));
    is_done(&redis, &from, &to).await;
    // After the end.
    assert_eq!(switch().await, Ok(Role::Master));
    is_done(&redis, &from, &to).await;

    // After the promotion.
    let (from, to) = pair(&redis).await;
    redis.detach(&address(&from)).await.unwrap();
    redis.promote(&address(&to), None).await.unwrap();
    let again = redis.switch_over(&address(&from), &address(&to), None, SOON).await;
    assert_eq!(again.unwrap().role, Role::Master);
    is_done(&redis, &from, &to).await;
}

#[tokio::test]
async fn a_candidate_that_does_not_catch_up_leaves_everything_as_it_was() {
    let redis = commander(TIMEOUT);
    let (from, to) = pair(&redis).await;
    let switch = async || redis.switch_over(&address(&from), &address(&to), None, SOON).await.unwrap_err();
    let is_as_it_was = async || {
        let master = redis.probe(&address(&from)).await.unwrap();
        assert_eq!(master.role, Role::Master);
        let start = Instant::now();
        from.cli(&["INCR", "a"]).await.unwrap();
        assert!(start.elapsed() < SOON, "writes are not paused any more");
    };
    // It does not answer.
    to.freeze();
    let impatient = commander(SHORT);
    let error = impatient.switch_over(&address(&from), &address(&to), None, SOON).await.unwrap_err();
    assert!(matches!(&error, SwitchError::BackedOut(_)), "{error}");
    is_as_it_was().await;
    to.thaw();

    // Fenced already, and the candidate cannot get the rest: its link is cut.
    wait_for_link(&redis, &to).await;
    to.cli(&["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
    from.cli(&["SET", "b", "1"]).await.unwrap();
    redis.detach(&address(&from)).await.unwrap();
    to.cli(&["REPLICAOF", "127.0.0.1", &from.port().to_string()]).await.unwrap();
    let error = switch().await;
    assert!(matches!(&error, SwitchError::BackedOut(why) if why.contains("bytes behind")), "{error}");
    is_as_it_was().await;
}

#[tokio::test]
async fn nodes_that_are_not_master_and_replica_are_not_switched() {
    let redis = commander(TIMEOUT);
    let (from, to) = pair(&redis).await;
    let stranger = Server::start(&[]).await;
    let refused = async |a: &Server, b: &Server| match redis.switch_over(&address(a), &address(b), None, SOON).await {
        Err(SwitchError::BackedOut(why)) => why,
        other => panic!("{other:?}"),
    };
    let (f, t, s) = (address(&from), address(&to), address(&stranger));
    assert_eq!(refused(&to, &stranger).await, format!("{t} is not the master"));
    assert_eq!(refused(&from, &stranger).await, format!("{f} and {s} are both masters"));
    assert_eq!(refused(&stranger, &to).await, format!("{t} does not follow {s}"));
    assert!(redis.probe(&t).await.unwrap().link_up);
}

#[tokio::test]
async fn clients_of_the_old_master_are_cut_by_a_switchover() {
    let redis = commander(TIMEOUT);
    let (from, to) = pair(&redis).await;
    let client = redis::Client::open(("127.0.0.1", from.port())).unwrap();
    let mut idle = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("PING").query_async::<()>(&mut idle).await.unwrap();
    redis.switch_over(&address(&from), &address(&to), None, TIMEOUT).await.unwrap();
    // Another may read from it, now that it is a replica.
    from.cli(&["GET", "a"]).await.unwrap();
    let cut = redis::cmd("GET").arg("a").query_async::<Option<String>>(&mut idle).await;
    assert!(cut.is_err(), "it would have stayed, and got READONLY for its writes: {cut:?}");
}

/// What became of the writes of one client.
#[derive(Default)]
struct Fates {
    done: Vec<String>,
    refused: Vec<String>,
    /// The connection ended before a reply came.
    doubtful: Vec<String>,
}

/// Writes in pipelines, to whichever of the two takes them; goes to the other when it is refused, as clients do.
async fn pipeline(n: usize, ports: [u16; 2], end: Arc<AtomicBool>) -> Fates {
    const PIPELINE: usize = 5;
    let (mut at, mut count, mut fates) = (0, 0, Fates::default());
    while !end.load(Ordering::Relaxed) {
        at = 1 - at;
        let Ok(stream) = TcpStream::connect(("127.0.0.1", ports[at])).await else { continue };
        let mut stream = BufReader::new(stream);
        let mut refused = false;
        while !refused && !end.load(Ordering::Relaxed) {
            let keys: Vec<String> = (count..count + PIPELINE).map(|i| format!("p{n}-{i}")).collect();
            count += PIPELINE;
            let text = keys.iter().map(|key| format!("SET {key} {key}\r\n")).collect::<Vec<_>>().concat();
            let _ = stream.write_all(text.as_bytes()).await;
            for key in keys {
                let mut line = String::new();
                match stream.read_line(&mut line).await {
                    Ok(length) if length > 0 && line.starts_with("+OK") => fates.done.push(key),
                    Ok(length) if length > 0 => {
                        assert!(line.starts_with("-READONLY") || line.starts_with("-NOREPLICAS"), "{line}");
                        refused |= line.starts_with("-READONLY");
                        fates.refused.push(key);
                    }
                    _ => {
                        refused = true;
                        fates.doubtful.push(key);
                    }
                }
            }
        }
    }
    fates
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_waits_for_a_switchover_is_done_or_refused_and_not_in_doubt() {
    let redis = commander(TIMEOUT);
    let (a, b) = pair(&redis).await;
    let end = Arc::new(AtomicBool::new(false));
    let ports = [a.port(), b.port()];
    let writers: Vec<_> = (0..WRITERS).map(|n| tokio::spawn(pipeline(n, ports, end.clone()))).collect();
    let (mut from, mut to) = (&a, &b);
    let mut switched = 0;
    while switched < 20 {
        match redis.switch_over(&address(from), &address(to), None, TIMEOUT).await {
            Ok(_) => switched += 1,
            Err(SwitchError::BackedOut(why)) => {
                println!("backed out: {why}");
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        wait_for_link(&redis, from).await;
        (from, to) = (to, from);
    }
    end.store(true, Ordering::Relaxed);
    let mut all = Fates::default();
    for writer in writers {
        let fates = writer.await.unwrap();
        all.done.extend(fates.done);
        all.refused.extend(fates.refused);
        all.doubtful.extend(fates.doubtful);
    }
    println!("{} done, {} refused, {} in doubt", all.done.len(), all.refused.len(), all.doubtful.len());
    let client = redis::Client::open(("127.0.0.1", from.port())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut present = async |keys: &[String]| {
        let mut count = 0;
        for chunk in keys.chunks(1000) {
            count += redis::cmd("EXISTS").arg(chunk).query_async::<usize>(&mut connection).await.unwrap();
        }
        count
    };
    assert_eq!(present(&all.done).await, all.done.len(), "what was acknowledged is there");
    assert_eq!(present(&all.refused).await, 0, "what was refused is not");
    // What a client sends in the moment of the cut: it was not done either.
    assert_eq!(present(&all.doubtful).await, 0, "what is in doubt was not done");
    assert!(all.refused.len() >= switched, "writes did wait");
    assert!(all.doubtful.len() * 10 <= all.refused.len(), "{} in doubt of {}", all.doubtful.len(), all.refused.len());
}
