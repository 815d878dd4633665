//! What the head of an answer says of the operator itself reaches whoever runs a command, whatever command it is. I/O.

use serde_json::json;

use crate::fake::Fake;
use crate::run::{Live, run_at, run_with_input};
use crate::sample::{document, event, instance};

/// Commands that only read, and find something.
const READS: [&[&str]; 6] =
    [&["get"], &["get", "orders"], &["describe", "orders"], &["plan", "orders"], &["events"], &["version"]];

fn with_orders(heads: &[(&'static str, &str)]) -> Fake {
    let fake = Fake::start();
    fake.set(instance("orders", 3, 5));
    fake.world().events.push(event("orders", "NodeDied", "2026-01-02T03:04:05Z"));
    fake.world().heads = heads.iter().map(|(name, value)| (*name, (*value).to_string())).collect();
    fake
}

#[test]
fn whatever_shows_what_may_be_old_says_since_when_and_once() {
    let fake = with_orders(&[("redisctl-stale-since", "2026-01-02T03:04:05Z")]);
    let told = "as of 2026-01-02T03:04:05Z: the operator cannot read its store since then, and what has happened is \
                not shown\n";
    for command in READS {
        let shown = run_at(&fake, command);
        assert_eq!((shown.code, shown.err.as_str()), (0, told), "{command:?}: {shown:?}");
        assert!(!shown.out.contains("as of"), "{command:?}: {shown:?}");
    }
    for command in [&["get", "-w"][..], &["events", "-w"]] {
        Live::start(&fake, command).until("! as of 2026-01-02T03:04:05Z");
    }
}

#[test]
fn every_command_says_once_that_the_operator_is_frozen_also_one_that_finds_nothing() {
    let fake = with_orders(&[("redisctl-frozen", "task a-0.1 runs, and the store does not know it")]);
    let told = "warning: the operator is frozen: task a-0.1 runs, and the store does not know it; nothing is carried \
                out until that is mended\n";
    for command in READS {
        let shown = run_at(&fake, command);
        assert_eq!((shown.code, shown.err.as_str()), (0, told), "{command:?}: {shown:?}");
    }
    fake.world().instances.clear();
    let shown = run_at(&fake, &["get"]);
    assert_eq!((shown.code, shown.err), (0, format!("No instances.\n{told}")));
    let shown = run_at(&fake, &["plan", "orders"]);
    assert_eq!((shown.code, shown.err), (3, format!("{told}error: there is no instance \"orders\"\n")));
}

#[test]
fn what_is_asked_of_a_frozen_operator_is_said_to_be_recorded_and_not_carried_out() {
    let fake = with_orders(&[("redisctl-frozen", "it has lost records")]);
    fake.world().failed_over = Some(instance("orders", 3, 5));
    let frozen = "warning: the operator is frozen: it has lost records; ";
    let recorded = format!("{frozen}what you asked for is recorded, and not carried out until that is mended\n");
    for command in [
        &["scale", "orders", "--replicas=1"][..],
        &["delete", "orders"],
        &["recreate", "orders"],
        &["failover", "orders", "--no-wait"],
    ] {
        let done = run_at(&fake, command);
        assert_eq!((done.code, &done.err), (0, &recorded), "{command:?}: {done:?}");
    }
    let done = run_with_input(&fake, &["apply", "-f", "-"], &document("orders"));
    assert_eq!((done.code, &done.err), (0, &recorded), "{done:?}");
    let tried = run_at(&fake, &["scale", "orders", "--replicas=1", "--dry-run"]);
    assert_eq!((tried.code, tried.err), (0, format!("{frozen}nothing is carried out until that is mended\n")));
    let waits = run_at(&fake, &["scale", "orders", "--replicas=1", "--wait", "--timeout=200ms"]);
    assert!(waits.code == 4 && waits.err.starts_with(&recorded), "{waits:?}");
    fake.world().apply_answer = Some((422, json!({"title": "no", "status": 422, "detail": "no"})));
    let refused = run_at(&fake, &["scale", "orders", "--replicas=1"]);
    assert!(refused.code == 2 && !refused.err.contains("recorded"), "{refused:?}");
}
