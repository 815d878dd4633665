//! Two leaders at one node: the earlier one was stopped, and wakes with a command in hand. I/O.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use redisctl::failover::redis::{Redis, SwitchError};
use redisctl::model::{NoAnswer, Role};

use crate::support::{Redis as Server, wait_until};
use crate::*;

/// More than any order consists of.
const COMMANDS_MAX: usize = 100;

fn of_term(number: i64) -> Redis {
    Redis::new(TIMEOUT, Term { number, lasts: Arc::new(|| true) })
}

/// A leader that is stopped each time it has found that it leads and is about to send a command: it says
/// so, and goes on when it is told to, still believing it. (Its requests stand still, as with SIGSTOP.)
fn stopped(number: i64) -> (Redis, Receiver<()>, Sender<()>) {
    let ((say, in_hand), (wake, woken)) = (channel(), channel());
    let woken = Mutex::new(woken);
    let lasts = move || {
        say.send(()).unwrap();
        tokio::task::block_in_place(|| woken.lock().unwrap().recv().is_ok())
    };
    (Redis::new(TIMEOUT, Term { number, lasts: Arc::new(lasts) }), in_hand, wake)
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Promote,
    Detach,
    Fence,
    Follow,
    Configure,
    SwitchOver,
}

impl Order {
    /// To the replica of that master.
    async fn send(self, redis: &Redis, replica: &Address, master: &Address) -> Result<(), String> {
        let setting = [("maxmemory".to_string(), "77mb".to_string())];
        let done = match self {
            Order::Promote => redis.promote(replica, None).await.map(|_| ()),
            Order::Detach => redis.detach(replica).await.map(|_| ()),
            Order::Fence => redis.fence(replica).await.map(|_| ()),
            Order::Follow => redis.follow(replica, &local(1), None).await,
            Order::Configure => {
                let applied = redis.configure(replica, &setting).await;
                applied.failed.map_or(Ok(()), |why| Err(anyhow::anyhow!(why)))
            }
            Order::SwitchOver => {
                redis.switch_over(master, replica, None, TIMEOUT).await.map(|_| ()).map_err(Into::into)
            }
        };
        done.map_err(|error| format!("{error:#}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_a_stopped_leader_has_in_hand_is_not_done_once_a_later_one_has_looked_at_the_node() {
    use Order::{Configure, Detach, Fence, Follow, Promote, SwitchOver};
    for (order, kept) in [(Promote, false), (Promote, true), (Detach, true), (Fence, true), (Follow, false)]
        .into_iter()
        .chain([(Configure, true), (SwitchOver, false), (SwitchOver, true)])
    {
        let master = Server::start(&[]).await;
        let replica = replica_of(master.port()).await;
        wait_for_link(&commander(TIMEOUT), &replica).await;
        let (earlier, in_hand, wake) = stopped(5);
        if kept {
            earlier.probe(&address(&master)).await.unwrap();
            earlier.probe(&address(&replica)).await.unwrap();
        }
        let (to, from) = (address(&replica), address(&master));
        let sending = tokio::spawn(async move { order.send(&earlier, &to, &from).await });
        let in_hand = tokio::task::spawn_blocking(move || in_hand.recv_timeout(PATIENCE).map(|()| in_hand));
        let _in_hand = in_hand.await.unwrap().unwrap();

        let later = of_term(6);
        let before = later.probe(&address(&replica)).await.unwrap();
        later.probe(&address(&master)).await.unwrap();
        // It believes that it leads for as long as it is asked.
        for _ in 0..COMMANDS_MAX {
            let _ = wake.send(()); // Fewer were needed, when it is gone.
        }
        let error = sending.await.unwrap().unwrap_err();
        println!("{order:?}, {}: {error}", if kept { "kept" } else { "dialled" });
        let after = later.probe(&address(&replica)).await.unwrap();
        assert_eq!((after.role, &after.follows, after.max_memory), (Role::Replica, &before.follows, before.max_memory));
        assert_eq!(after.replid, before.replid);
        assert_eq!(later.probe(&address(&master)).await.unwrap().role, Role::Master);
        master.cli(&["SET", "a", "1"]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_leader_that_nobody_has_followed_goes_on_when_it_wakes() {
    let server = Server::start(&[]).await;
    let (leader, in_hand, wake) = stopped(5);
    let at = address(&server);
    let sending = tokio::spawn(async move { leader.detach(&at).await });
    tokio::task::spawn_blocking(move || in_hand.recv_timeout(PATIENCE)).await.unwrap().unwrap();
    wake.send(()).unwrap();
    assert_eq!(sending.await.unwrap().unwrap().role, Role::Replica);
}

#[tokio::test]
async fn where_a_later_leader_commands_an_earlier_one_whose_clock_stood_still_is_refused() {
    let server = Server::start(&[]).await;
    let (earlier, later, at) = (of_term(5), of_term(6), address(&server));
    later.probe(&at).await.unwrap();
    let error = format!("{:#}", earlier.detach(&at).await.unwrap_err());
    assert_eq!(error, format!("detach {at}: a later leader commands it (term 6, ours is 5)"));
    assert_eq!(earlier.probe(&at).await, Err(NoAnswer::Commanded), "nor does it judge the node");
    later.detach(&at).await.unwrap();
    later.promote(&at, None).await.unwrap();
    let error = earlier.switch_over(&at, &local(1), None, TIMEOUT).await.unwrap_err();
    assert!(matches!(&error, SwitchError::BackedOut(why) if why.contains("a later leader")), "{error}");
}

#[tokio::test]
async fn who_knows_that_it_leads_no_more_sends_nothing() {
    let server = Server::start(&[]).await;
    let (former, at) = (Redis::new(TIMEOUT, Term { number: 5, lasts: Arc::new(|| false) }), address(&server));
    let error = format!("{:#}", former.detach(&at).await.unwrap_err());
    assert_eq!(error, format!("detach {at}: this operator leads no more"));
    assert_eq!(former.probe(&at).await.unwrap().role, Role::Master, "it may look");
}

#[tokio::test]
async fn only_connections_of_earlier_leaders_are_cut_among_many_clients() {
    let server = Server::start(&[]).await;
    let client = redis::Client::open(("127.0.0.1", server.port())).unwrap();
    let mut clients = Vec::new();
    // Names so long that the list of clients has 2 MB.
    for i in 0..20 {
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let name = format!("redisctl:{i}-{}", "x".repeat(100_000));
        redis::cmd("CLIENT").arg("SETNAME").arg(name).query_async::<()>(&mut connection).await.unwrap();
        clients.push(connection);
    }
    let (earlier, later, at) = (of_term(5), of_term(6), address(&server));
    earlier.probe(&at).await.unwrap();
    let leaders = async || {
        let list = server.cli(&["CLIENT", "LIST"]).await.unwrap();
        let names = list.lines().filter_map(|line| line.split(' ').find_map(|field| field.strip_prefix("name=")));
        names.filter(|name| name.starts_with("redisctl:") && name.len() < 20).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(leaders().await, ["redisctl:5"]);
    later.probe(&at).await.unwrap();
    wait_until("the earlier leader's connection is gone", PATIENCE, async || leaders().await == ["redisctl:6"]).await;
    for connection in &mut clients {
        redis::cmd("PING").query_async::<()>(connection).await.unwrap();
    }
}
