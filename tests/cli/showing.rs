//! Commands that show things: get, describe, plan, events, version, schema, completion. I/O.

use serde_json::{Value, json};

use crate::fake::{Fake, free_listener};
use crate::run::{Ended, Live, ended, redisctl, run, run_at};
use crate::sample::{event, instance};

fn with_two() -> Fake {
    let fake = Fake::start();
    fake.set(instance("cache", 1, 7));
    fake.set(instance("orders", 3, 5));
    fake
}

#[test]
fn get_prints_a_line_for_each_instance() {
    let fake = with_two();
    let shown = run_at(&fake, &["get"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    let lines: Vec<&str> = shown.out.lines().collect();
    assert_eq!(lines[0], "NAME     PHASE      READY   MASTER           MEMORY   EPOCH   AGE");
    assert!(lines[1].starts_with("cache    Creating   1/3     10.0.0.0:31000   256Mi    1       "), "{}", lines[1]);
    assert!(lines[2].starts_with("orders   Ready      3/3     10.0.0.0:31000   256Mi    1       "), "{}", lines[2]);
    assert_eq!(lines.len(), 3);
}

#[test]
fn wide_adds_memory_replicas_revision_nodes_and_what_is_waited_for() {
    let fake = with_two();
    let shown = run_at(&fake, &["get", "cache", "-o", "wide"]);
    let line = shown.out.lines().nth(1).unwrap();
    for part in ["1.5Mi", "0/2", "7 (at 0)", "cache-0@10.0.0.0:31000,cache-1@10.0.0.1:31000", "2 nodes are not ready"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn json_and_yaml_give_the_api_answer_as_it_is() {
    let fake = with_two();
    fake.world().instances.get_mut("orders").unwrap()["metadata"]["ofANewerOperator"] = json!(1);
    let orders = fake.world().instances["orders"].clone();
    let json: Value = serde_json::from_str(&run_at(&fake, &["get", "orders", "-o", "json"]).out).unwrap();
    assert_eq!(json, orders);
    let yaml: Value = serde_yaml::from_str(&run_at(&fake, &["get", "orders", "-o", "yaml"]).out).unwrap();
    assert_eq!(yaml, orders);
    let list: Value = serde_json::from_str(&run_at(&fake, &["get", "-o", "json"]).out).unwrap();
    assert_eq!(list["items"][1], orders);
    assert_eq!(run_at(&fake, &["get", "-o", "name"]).out, "redisinstance/cache\nredisinstance/orders\n");
}

#[test]
fn get_without_instances_says_so() {
    let fake = Fake::start();
    let shown = run_at(&fake, &["get"]);
    assert_eq!((shown.code, shown.out.as_str(), shown.err.as_str()), (0, "", "No instances.\n"));
    let json: Value = serde_json::from_str(&run_at(&fake, &["get", "-o", "json"]).out).unwrap();
    assert_eq!(json["items"], json!([]));
}

#[test]
fn what_does_not_exist_ends_with_3_and_the_rest_is_shown() {
    let fake = with_two();
    let shown = run_at(&fake, &["get", "orders", "nobody"]);
    assert_eq!(shown.code, 3);
    assert!(shown.out.contains("orders   Ready"), "{shown:?}");
    assert_eq!(shown.err, "error: there is no instance \"nobody\"\n");
    for command in [&["describe", "nobody"][..], &["plan", "nobody"], &["wait", "nobody", "--for=ready"]] {
        let shown = run_at(&fake, command);
        assert_eq!((shown.code, shown.out.as_str()), (3, ""), "{command:?}: {shown:?}");
    }
}

/// What an executor, an agent, a node or another server may say.
const HOSTILE: [&str; 7] = [
    "\u{1b}[2J\u{1b}[1;1Hall is well",
    "\u{9b}31mred",
    "\u{202e}txt.exe",
    "a\u{200b}b\u{feff}",
    "\r\u{8}\u{8}over",
    "\u{7f}\u{0}",
    "\u{1b}]0;title\u{7}",
];

fn assert_harmless(what: &str, shown: &Ended) {
    for text in [&shown.out, &shown.err] {
        let harmful = |c: char| {
            (c.is_control() && c != '\n') || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{feff}')
        };
        assert!(!text.contains(harmful), "{what}: {text:?}");
    }
}

#[test]
fn no_text_of_a_server_reaches_the_terminal_raw_whatever_field_it_stands_in() {
    for hostile in HOSTILE {
        let fake = Fake::start();
        let mut orders = instance("orders", 1, 5);
        for field in [
            "/metadata/labels/team",
            "/spec/placement/strategy",
            "/status/waiting/0",
            "/status/master",
            "/status/nodes/0/hostname",
            "/status/nodes/0/domain",
            "/status/nodes/0/address",
            "/status/nodes/0/taskId",
            "/status/nodes/1/link",
            "/status/nodes/1/name",
            "/status/conditions/0/reason",
            "/status/conditions/0/message",
        ] {
            let place = orders.pointer_mut(field).unwrap_or_else(|| panic!("{field}"));
            *place = json!(format!("{}{hostile}", place.as_str().unwrap()));
        }
        orders["status"]["nodes"][0]["message"] = json!(hostile);
        orders["invalid"] = json!(hostile);
        orders["ofANewerOperator"] = json!({hostile: hostile});
        fake.set(orders);
        let mut happened = event("orders", "Reason", "2026-01-02T03:04:05Z");
        for field in ["reason", "object", "message"] {
            happened[field] = json!(hostile);
        }
        fake.happen(happened);
        let problem = json!({"title": hostile, "status": 422, "detail": hostile,
            "errors": [{"document": 0, "line": 1, "column": 1, "path": hostile, "message": hostile}]});
        fake.world().apply_answer = Some((422, problem.clone()));
        fake.world().failover_answer = Some((409, problem.clone()));
        fake.world().recreate_answer = Some((409, problem));
        for args in [
            &["get"][..],
            &["get", "-o", "wide"],
            &["get", "-o", "json"],
            &["get", "-o", "yaml"],
            &["get", "-o", "name"],
            &["get", "orders", "-o", "yaml"],
            &["describe", "orders"],
            &["events"],
            &["events", "-o", "json"],
            &["events", "-o", "yaml"],
            &["plan", "orders"],
            &["recreate", "orders"],
            &["failover", "orders", "--to", "orders-1"],
            &["wait", "orders", "--for=ready", "--timeout", "100ms"],
        ] {
            assert_harmless(&format!("{args:?} {hostile:?}"), &run_at(&fake, args));
        }
        let applied = crate::run::run_with_input(&fake, &["apply", "-f", "-"], &crate::sample::document("orders"));
        assert_eq!(applied.code, 2, "{applied:?}");
        assert_harmless(&format!("apply {hostile:?}"), &applied);
        for args in [&["events", "-w"][..], &["get", "-w"], &["get", "-w", "-o", "json"]] {
            let live = Live::start(&fake, args);
            let lines = if args.contains(&"json") { live.line() } else { live.line() + &live.line() };
            assert_harmless(&format!("{args:?}"), &Ended { code: 0, out: lines, err: String::new() });
        }
    }
}

#[test]
fn a_selector_is_left_to_the_operator() {
    let fake = with_two();
    fake.world().instances.get_mut("cache").unwrap()["metadata"]["labels"] = json!({"team": "web"});
    assert_eq!(run_at(&fake, &["get", "-l", "team=web", "-o", "name"]).out, "redisinstance/cache\n");
    assert_eq!(run_at(&fake, &["get", "orders", "-l", "team=web"]).code, 2, "a name and a selector");
}

#[test]
fn a_document_that_is_not_valid_shows_in_the_phase() {
    let fake = with_two();
    fake.world().instances.get_mut("orders").unwrap()["invalid"] = json!("spec.memory: no");
    assert!(run_at(&fake, &["get"]).out.contains("Ready,SpecInvalid"));
    assert!(run_at(&fake, &["describe", "orders"]).out.contains("- its document is not valid: spec.memory: no"));
}

#[test]
fn without_an_operator_commands_say_what_to_start_and_end_with_5() {
    let nobody = free_listener().local_addr().unwrap(); // It is closed again at once.
    let server = format!("http://{nobody}");
    for command in [&["get"][..], &["get", "-w"], &["delete", "a"], &["wait", "a", "--for=ready"], &["events", "-w"]] {
        let shown = run(&[&["--server", &server], command].concat());
        assert_eq!(shown.code, 5, "{command:?}: {shown:?}");
        let expected = format!(
            "error: no operator answers at {server}: start one with `redisctl local` or `redisctl operator ...`, \
             or name another with --server (Connection refused (os error 111))\n"
        );
        assert_eq!(shown.err, expected, "{command:?}");
    }
    let version = run(&["version", "--server", &server]);
    let own = format!("client: {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((version.code, version.out), (5, own), "the client has a version of its own");
    assert!(version.err.starts_with("error: no operator answers at"), "{}", version.err);
}

#[test]
fn a_server_that_is_no_operator_is_told_from_one() {
    let fake = Fake::start();
    let shown = run(&["get", "--server", &format!("{}/elsewhere", fake.url())]);
    assert_eq!(shown.code, 1, "{shown:?}");
    assert!(shown.err.contains("no operator does"), "{shown:?}");
    let shown = run(&["get", "--server", "localhost:5656"]);
    assert_eq!(
        (shown.code, shown.err.as_str()),
        (2, "error: --server \"localhost:5656\": allowed are http://HOST:PORT and https://HOST:PORT\n")
    );
}

#[test]
fn a_live_listing_prints_changes_only_and_survives_a_cut() {
    let mut fake = with_two();
    let live = Live::start(&fake, &["get", "-w"]);
    assert!(live.line().starts_with("NAME"));
    assert!(live.line().starts_with("cache    Creating   1/3"));
    assert!(live.line().starts_with("orders   Ready      3/3"));
    let mut same = instance("orders", 3, 5);
    same["status"]["nodes"][0]["offset"] = json!(4711);
    fake.set(same); // Nothing that a row shows.
    fake.set(instance("cache", 2, 7));
    assert!(live.line().starts_with("cache    Creating   2/3"));
    fake.cut();
    fake.stop();
    fake.world().instances.remove("orders");
    fake.world().instances.insert("cache".into(), instance("cache", 3, 7));
    fake.listen();
    let lines = live.until("Deleted");
    assert!(lines.iter().any(|line| line.starts_with("cache    Ready      3/3")), "{lines:?}");
    assert!(lines.last().unwrap().starts_with("orders   Deleted"), "{lines:?}");
    fake.set(instance("new", 0, 9));
    assert!(live.until("new").last().unwrap().starts_with("new      Creating"));
}

#[test]
fn an_operator_that_asks_to_list_again_is_obeyed() {
    let fake = with_two();
    let live = Live::start(&fake, &["get", "-w", "-o", "name"]);
    live.until("redisinstance/orders");
    fake.world().instances.insert("late".into(), instance("late", 0, 8));
    fake.send("event: resync\ndata: {}\n\n");
    assert_eq!(live.line(), "redisinstance/late");
    assert_eq!(fake.world().watches, 2);
}

#[test]
fn a_live_listing_as_json_has_one_line_for_each_change() {
    let fake = with_two();
    let live = Live::start(&fake, &["get", "orders", "-w", "-o", "json"]);
    let first: Value = serde_json::from_str(&live.line()).unwrap();
    assert_eq!(first, fake.world().instances["orders"]);
    fake.remove("orders");
    let last: Value = serde_json::from_str(&live.line()).unwrap();
    assert_eq!((&last["kind"], &last["metadata"]["name"]), (&json!("RedisInstanceRemoved"), &json!("orders")));
}

#[test]
fn describe_shows_spec_conditions_nodes_reasons_and_events() {
    let fake = with_two();
    fake.world().events.push(event("cache", "NodeDied", "2026-01-02T03:04:05Z"));
    let shown = run_at(&fake, &["describe", "cache"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    for part in [
        "Name:      cache\n",
        "Labels:    team=shop\n",
        "Revision:  7, not yet acted upon\n",
        "Phase:     Creating, 1/3 nodes ready\n",
        "Spec:\n  masters: 1\n  replicas: 2\n",
        "  Ready             False    ",
        "  cache-1   replica   Launching   10.0.0.1:31000   agent-1   r1       up     42       0B    1.5Mi   cache-1.18f",
        "Waiting:\n  - 2 nodes are not ready\n",
        "Warning   NodeDied   cache-1   cache-1 died of old age\n",
    ] {
        assert!(shown.out.contains(part), "{part:?} in\n{}", shown.out);
    }
}

#[test]
fn describe_says_nothing_of_a_place_for_what_is_being_deleted() {
    let fake = Fake::start();
    let mut orders = instance("orders", 1, 5);
    orders["status"]["conditions"][1]["type"] = json!("Placed");
    fake.set(orders.clone());
    assert!(run_at(&fake, &["describe", "orders"]).out.contains("Placement:"));
    orders["metadata"]["deleting"] = json!(true);
    fake.set(orders);
    assert!(!run_at(&fake, &["describe", "orders"]).out.contains("Placement:"));
}

#[test]
fn plan_shows_steps_and_reasons() {
    let fake = with_two();
    let shown = run_at(&fake, &["plan", "orders"]);
    assert_eq!(shown.out, "Would do:\n  1. launch orders-2 on agent-3\nWaits for:\n  - orders-3 needs 288 MiB\n");
    let json: Value = serde_json::from_str(&run_at(&fake, &["plan", "orders", "-o", "json"]).out).unwrap();
    assert_eq!(json["steps"], json!(["launch orders-2 on agent-3"]));
}

#[test]
fn events_are_shown_once_also_live_and_after_a_cut() {
    let fake = with_two();
    assert_eq!(run_at(&fake, &["events"]).err, "No events.\n");
    fake.world().events.push(event("cache", "NodeDied", "2026-01-02T03:04:05Z"));
    fake.world().events.push(event("orders", "NodeLost", "2026-01-02T03:04:06Z"));
    let shown = run_at(&fake, &["events", "cache"]);
    assert!(shown.out.contains("NodeDied") && !shown.out.contains("NodeLost"), "{shown:?}");
    assert!(shown.out.starts_with("LAST SEEN"), "{shown:?}");

    let live = Live::start(&fake, &["events", "-w"]);
    assert_eq!(live.until("NodeLost").len(), 3, "headings and two events");
    fake.happen(event("cache", "NodeBack", "2026-01-02T03:04:07Z"));
    assert!(live.line().contains("NodeBack"));
    fake.cut();
    fake.world().events.push(event("cache", "WhileCut", "2026-01-02T03:04:08Z"));
    assert!(live.line().contains("WhileCut"), "the list after the cut is told, without what was told before");
}

#[test]
fn version_tells_of_both_sides() {
    let fake = Fake::start();
    let shown = run_at(&fake, &["version"]);
    let expected = format!(
        "client: {}\noperator: 9.9.9 at {}: stands by, http://10.0.0.2:5656 leads\n  store: read and watched\n  \
         mesos: standby\n",
        env!("CARGO_PKG_VERSION"),
        fake.url()
    );
    assert_eq!(shown.out, expected);
}

#[test]
fn the_schema_and_completions_need_no_operator() {
    let schema: Value = serde_json::from_str(&run(&["schema"]).out).unwrap();
    assert_eq!(schema["title"], "RedisInstance");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completion", shell]);
        assert!(script.code == 0 && script.out.contains("redisctl") && !script.out.contains("__task\n"), "{shell}");
    }
}

#[test]
fn colours_are_for_terminals_unless_they_are_asked_for() {
    let fake = with_two();
    assert!(!run_at(&fake, &["get"]).out.contains('\u{1b}'));
    assert!(run_at(&fake, &["get", "--color", "always"]).out.contains("\u{1b}[32mReady\u{1b}[0m"));
    assert!(!run_at(&fake, &["get", "--color", "never"]).out.contains('\u{1b}'));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let fake = with_two();
    let shell = format!("{} get -o json | true; echo ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_redisctl"));
    for i in 0..200 {
        fake.world().instances.insert(format!("i{i}"), instance(&format!("i{i}"), 3, 1));
    }
    let shown = ended(std::process::Command::new("bash").args(["-c", &shell]).env("REDISCTL_SERVER", fake.url()));
    assert_eq!((shown.out.as_str(), shown.err.as_str()), ("0\n", ""));
}

#[test]
fn wrong_usage_ends_with_2_and_help_explains_the_codes() {
    for wrong in [&["frobnicate"][..], &[], &["get", "-o", "xml"], &["apply"], &["wait", "a"]] {
        assert_eq!(run(wrong).code, 2, "{wrong:?}");
    }
    let wrong = ended(&mut redisctl(&["wait", "a", "--for=condition=Redy"]));
    assert!(wrong.code == 2 && wrong.err.contains("MasterAvailable"), "{wrong:?}");
    let help = run(&["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.out.contains("Exit codes:") && !help.out.contains("__task"), "{}", help.out);
}
