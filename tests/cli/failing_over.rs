//! `redisctl failover`: asks, waits, refuses, and what it shows before it uses force. I/O.

use serde_json::{Value, json};

use crate::fake::Fake;
use crate::run::{Ended, Live, ended, run_at, wait_until};
use crate::sample::{condition, event, instance};

/// `orders` with this node as its master.
fn with_master(ordinal: usize, epoch: u64) -> Value {
    let mut orders = instance("orders", 3, 5);
    orders["status"]["epoch"] = json!(epoch);
    orders["status"]["master"] = json!(format!("10.0.0.{ordinal}:31000"));
    for (i, node) in orders["status"]["nodes"].as_array_mut().unwrap().iter_mut().enumerate() {
        node["role"] = json!(if i == ordinal { "master" } else { "replica" });
    }
    orders
}

/// `orders` without a master that answers, and without a replica that is safe.
fn stuck() -> Value {
    let mut orders = instance("orders", 3, 5);
    let mut missing = condition("MasterAvailable", false, "NoSafeCandidate");
    missing["message"] = json!("orders-0 is gone, and orders-1 lacks confirmed writes");
    orders["status"]["conditions"][0] = missing;
    orders["status"]["nodes"][0]["state"] = json!("Unreachable");
    orders["status"]["nodes"][0]["offset"] = json!(1_048_618);
    orders
}

/// The bodies of the failovers that were asked for.
fn asked(fake: &Fake) -> Vec<Value> {
    let world = fake.world();
    let failovers = world.requests.iter().filter(|(request, _)| request == "POST /v1/instances/orders/failover");
    failovers.map(|(_, body)| serde_json::from_str(body).unwrap()).collect()
}

#[test]
fn failover_asks_and_waits_until_the_new_master_takes_writes() {
    let fake = Fake::start();
    fake.set(with_master(0, 2));
    let live = Live::start(&fake, &["failover", "orders"]);
    wait_until("it watches", || (fake.world().watches == 2).then_some(()));
    let mut promoting = with_master(1, 3);
    promoting["status"]["conditions"][0] = condition("MasterAvailable", false, "Promoting");
    fake.set(promoting);
    fake.set(with_master(1, 3));
    assert_eq!(live.line(), "redisinstance/orders: orders-1 is the master now (epoch 3)");
    assert_eq!(live.code(), 0);
    assert_eq!(asked(&fake), [json!({"to": null, "force": false})]);
}

#[test]
fn failover_to_a_node_waits_for_that_node_whoever_else_is_the_master_meanwhile() {
    let fake = Fake::start();
    fake.set(with_master(0, 2));
    let live = Live::start(&fake, &["failover", "orders", "--to", "orders-2"]);
    wait_until("it watches", || (fake.world().watches == 2).then_some(()));
    fake.set(with_master(1, 3));
    fake.set(with_master(2, 4));
    assert_eq!(live.line(), "redisinstance/orders: orders-2 is the master now (epoch 4)");
    assert_eq!(live.code(), 0);
    assert_eq!(asked(&fake), [json!({"to": "orders-2", "force": false})]);
}

#[test]
fn a_failover_that_was_over_before_it_could_be_watched_is_seen_all_the_same() {
    let fake = Fake::start();
    fake.set(with_master(0, 2));
    fake.world().failed_over = Some(with_master(2, 3));
    let done = run_at(&fake, &["failover", "orders"]);
    assert_eq!((done.code, done.out.as_str()), (0, "redisinstance/orders: orders-2 is the master now (epoch 3)\n"));
}

#[test]
fn a_failover_to_the_master_itself_has_nothing_to_do() {
    let fake = Fake::start();
    fake.set(with_master(0, 2));
    let done = run_at(&fake, &["failover", "orders", "--to=orders-0"]);
    assert_eq!((done.code, done.out.as_str()), (0, "redisinstance/orders: orders-0 is the master already (epoch 2)\n"));
    assert_eq!(asked(&fake).len(), 0);
}

#[test]
fn a_failover_that_the_operator_refuses_or_gives_up_ends_with_1_and_its_words() {
    for reason in ["SwitchoverRefused", "SwitchoverFailed"] {
        let fake = Fake::start();
        fake.set(with_master(0, 2));
        let mut old = event("orders", reason, "2026-01-02T03:04:05Z");
        old["message"] = json!("an old story");
        fake.happen(old);
        let live = Live::start(&fake, &["failover", "orders", "--to", "orders-1"]);
        wait_until("it watches", || (fake.world().watches == 2).then_some(()));
        fake.happen(event("orders", "NodeDied", "2026-01-02T03:05:06Z"));
        let mut told = event("orders", reason, "2026-01-02T03:05:06Z");
        told["message"] = json!("orders-1 is 5 MiB behind");
        fake.happen(told);
        assert_eq!(live.line(), "! error: redisinstance/orders: orders-1 is 5 MiB behind");
        assert_eq!(live.code(), 1);
    }
}

#[test]
fn the_same_refusal_told_again_is_news() {
    let fake = Fake::start();
    fake.set(with_master(0, 2));
    fake.happen(event("orders", "SwitchoverRefused", "2026-01-02T03:04:05Z"));
    let live = Live::start(&fake, &["failover", "orders"]);
    wait_until("it watches", || (fake.world().watches == 2).then_some(()));
    let mut again = event("orders", "SwitchoverRefused", "2026-01-02T03:05:06Z");
    again["count"] = json!(3);
    fake.happen(again);
    assert!(live.line().starts_with("! error: redisinstance/orders: orders-1 died"));
    assert_eq!(live.code(), 1);
}

#[test]
fn a_failover_that_takes_too_long_ends_with_4_and_one_that_is_not_waited_for_at_once() {
    let fake = Fake::start();
    fake.set(instance("orders", 2, 5));
    let done = run_at(&fake, &["failover", "orders", "--timeout=200ms"]);
    assert_eq!(
        (done.code, done.err.as_str()),
        (
            4,
            "error: redisinstance/orders: no new master after 200ms: Creating, 2/3 nodes ready; it is still asked for, and \
             `redisctl events orders` shows what becomes of it\n  waits: 1 nodes are not ready\n"
        )
    );
    let done = run_at(&fake, &["failover", "orders", "--no-wait"]);
    assert_eq!((done.code, done.out.as_str()), (0, "redisinstance/orders: a failover is asked for\n"));
    assert_eq!(asked(&fake).len(), 2);
}

#[test]
fn a_failover_of_what_is_not_there_or_goes_is_no_failover() {
    let fake = Fake::start();
    let done = run_at(&fake, &["failover", "orders"]);
    assert_eq!((done.code, done.err.as_str()), (3, "error: there is no instance \"orders\"\n"));
    fake.set(instance("orders", 3, 5));
    let done = run_at(&fake, &["failover", "orders", "--to", "orders-7"]);
    assert_eq!(
        (done.code, done.err.as_str()),
        (2, "error: --to orders-7: orders has no such node: allowed are orders-0, orders-1, orders-2\n")
    );
    let mut dead = instance("orders", 3, 5);
    dead["status"]["nodes"][1]["state"] = json!("Dead");
    fake.set(dead);
    let done = run_at(&fake, &["failover", "orders", "--force", "--to", "orders-1"]);
    assert_eq!(
        (done.code, done.err.as_str()),
        (2, "error: --to orders-1: it is dead: allowed are orders-0, orders-2\n"),
        "before anything is shown that would be lost"
    );
    assert_eq!(asked(&fake).len(), 0);
    fake.set(instance("orders", 3, 5));
    fake.world().failover_answer = Some((409, json!({"title": "Conflict", "detail": "orders is being deleted"})));
    let done = run_at(&fake, &["failover", "orders"]);
    assert_eq!((done.code, done.err.as_str()), (1, "error: orders is being deleted\n"));
    fake.world().failover_answer = None;
    let live = Live::start(&fake, &["failover", "orders"]);
    wait_until("it watches", || (fake.world().watches == 2).then_some(()));
    fake.remove("orders");
    assert_eq!(live.line(), "! error: instance \"orders\" was deleted meanwhile");
    assert_eq!(live.code(), 3);
}

#[test]
fn force_shows_what_would_be_lost_and_does_nothing_without_a_yes() {
    let fake = Fake::start();
    fake.set(stuck());
    let done = run_at(&fake, &["failover", "orders", "--force"]);
    assert!(done.code == 2 && done.err.contains("--to <NODE>"), "{done:?}");

    let done = run_at(&fake, &["failover", "orders", "--force", "--to", "orders-1"]);
    assert_eq!(done.code, 2);
    assert_eq!(
        done.err,
        "error: --force asks before it goes on, and there is no terminal to ask at: add --yes to go on unasked\n"
    );
    assert_eq!(asked(&fake).len(), 0);
    for part in [
        "What is known of orders, in epoch 1:\n",
        "  MasterAvailable is False: orders-0 is gone, and orders-1 lacks confirmed writes\n",
        "  orders-0   master    Unreachable   10.0.0.0:31000",
        "   1048618   ",
        "orders-1 is at offset 42, orders-0 was seen at 1048618: 1Mi of writes in between would be lost, and what has \
         been taken since.\n",
    ] {
        assert!(done.out.contains(part), "{part:?} in\n{}", done.out);
    }

    fake.world().failed_over = Some(with_master(1, 2));
    let done = run_at(&fake, &["failover", "orders", "--force", "--to", "orders-1", "--yes"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.ends_with("\nredisinstance/orders: orders-1 is the master now (epoch 2)\n"), "{done:?}");
    assert_eq!(asked(&fake), [json!({"to": "orders-1", "force": true})]);
}

#[test]
fn the_extent_of_a_loss_is_told_also_when_little_is_known() {
    let fake = Fake::start();
    let told = |change: fn(&mut Value)| {
        let mut orders = stuck();
        change(&mut orders["status"]["nodes"]);
        fake.set(orders);
        let done = run_at(&fake, &["failover", "orders", "--force", "--to", "orders-1"]);
        done.out.lines().last().unwrap().to_string()
    };
    assert_eq!(told(|nodes| nodes[1]["offset"] = Value::Null), "What orders-1 has is not known: all data may be lost.");
    assert_eq!(
        told(|nodes| nodes[0]["offset"] = json!(42)),
        "orders-1 has all that was seen of the others: what has been taken since would be lost."
    );
    assert_eq!(
        told(|nodes| [0, 2].iter().for_each(|i| nodes[*i]["offset"] = Value::Null)),
        "What the other nodes have is not known: what orders-1 (offset 42) lacks would be lost."
    );
}

/// Runs the forced failover at a terminal, which is asked what stands in `answer`.
fn at_a_terminal(fake: &Fake, answer: &str) -> Ended {
    let line = format!("{} failover orders --force --to orders-1 --no-wait", env!("CARGO_BIN_EXE_redisctl"));
    let mut script = std::process::Command::new("script");
    script.args(["--quiet", "--return", "--echo", "never", "--command", &line, "/dev/null"]);
    script.env("REDISCTL_SERVER", fake.url()).env("NO_COLOR", "1");
    let input = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(input.path(), format!("{answer}\n")).unwrap();
    ended(script.stdin(input.reopen().unwrap()))
}

#[test]
fn at_a_terminal_force_asks_for_the_name_of_the_instance() {
    let fake = Fake::start();
    fake.set(stuck());
    let done = at_a_terminal(&fake, "yes");
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.out.contains("Type the name of the instance to go on: "), "{done:?}");
    assert!(done.out.contains("error: nothing was done: the answer is not orders"), "{done:?}");
    assert_eq!(asked(&fake).len(), 0);
    let done = at_a_terminal(&fake, "orders");
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(asked(&fake), [json!({"to": "orders-1", "force": true})]);
}
