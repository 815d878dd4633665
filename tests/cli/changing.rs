//! Commands that change things, and wait for it: apply, diff, delete, recreate, wait. I/O.

use serde_json::json;

use crate::fake::Fake;
use crate::run::{Live, run_at, run_with_input, wait_until};
use crate::sample::{document, instance};

/// A folder with files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn path(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

#[test]
fn apply_says_what_became_of_each_document() {
    let fake = Fake::start();
    fake.set(instance("orders", 3, 5));
    let folder = folder(&[("many.yaml", &format!("---\n{}---\n{}---\n", document("cache"), document("orders")))]);
    let done = run_at(&fake, &["apply", "-f", &path(&folder, "many.yaml")]);
    assert_eq!((done.code, done.out.as_str()), (0, "redisinstance/cache created\nredisinstance/orders configured\n"));
    let dry = run_at(&fake, &["apply", "--dry-run", "-f", &path(&folder, "many.yaml")]);
    assert!(dry.out.starts_with("redisinstance/cache created (dry run)\n"), "{dry:?}");
    assert_eq!(fake.world().requests.last().unwrap().0, "POST /v1/instances?dryRun=true");
}

#[test]
fn a_folder_is_applied_file_by_file_in_the_order_of_names_and_so_is_the_standard_input() {
    let fake = Fake::start();
    let c =
        r#"{"apiVersion": "redisctl/v1", "kind": "RedisInstance", "metadata": {"name": "c"}, "spec": {"memory": 64}}"#;
    let folder = folder(&[
        ("b.yml", &document("b")),
        ("c.json", c),
        ("a.yaml", document("a").trim_end()),
        ("README.md", "no document"),
    ]);
    let dir = folder.path().display().to_string();
    let done = run_with_input(&fake, &["apply", "-f", &dir, "-f", "-"], &document("d"));
    let expected: String = ["a", "b", "c", "d"].map(|name| format!("redisinstance/{name} created\n")).concat();
    assert_eq!((done.code, done.out), (0, expected));
    assert_eq!(fake.world().requests.len(), 1, "all in one request: all of them, or none");
}

#[test]
fn an_error_in_a_document_names_its_file_and_line_and_ends_with_2() {
    let fake = Fake::start();
    fake.world().apply_answer = Some((
        422,
        json!({"title": "invalid documents", "status": 422, "detail": "nothing was applied", "errors": [
            {"document": 1, "line": 7, "column": 13, "path": "spec.replicas", "value": "x", "message": "\"x\" is no number"},
            {"document": 2, "line": 0, "column": 0, "path": "", "value": "", "message": "is empty"},
        ]}),
    ));
    let second = document("b").replace("replicas: 2", "replicas: x");
    let folder =
        folder(&[("a.yaml", &document("a")), ("b.yaml", &format!("# why\n\n---\n{second}---\n{}", document("c")))]);
    let dir = folder.path().display().to_string();
    let done = run_at(&fake, &["apply", "-f", &dir]);
    assert_eq!((done.code, done.out.as_str()), (2, ""));
    let expected = format!(
        "error: nothing was changed, for the documents cannot be applied:\n  \
         {dir}/b.yaml:10:13: spec.replicas: \"x\" is no number\n  {dir}/b.yaml:13: is empty\n"
    );
    assert_eq!(done.err, expected);
}

#[test]
fn a_conflict_is_a_failure_and_a_missing_file_is_wrong_usage() {
    let fake = Fake::start();
    fake.world().apply_answer = Some((409, json!({"title": "Conflict", "detail": "orders is being deleted"})));
    let done = run_with_input(&fake, &["apply", "-f", "-"], &document("orders"));
    assert_eq!((done.code, done.err.as_str()), (1, "error: orders is being deleted\n"));
    let done = run_at(&fake, &["apply", "-f", "/nowhere.yaml"]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("-f /nowhere.yaml: No such file"), "{done:?}");
    let done = run_with_input(&fake, &["apply", "-f", "-"], "# nothing\n---\n");
    assert_eq!((done.code, done.err.as_str()), (2, "error: no document in -\n"));
}

#[test]
fn apply_waits_and_tells_of_each_node_once() {
    let mut fake = Fake::start();
    let folder = folder(&[("orders.yaml", &document("orders"))]);
    let live = Live::start(&fake, &["apply", "--wait", "-f", &path(&folder, "orders.yaml")]);
    assert_eq!(live.line(), "redisinstance/orders created");
    // The operator has not seen it at first: the watch finds nothing, and looks again.
    wait_until("a watch that finds nothing", || (fake.world().watches > 1).then_some(()));
    fake.set(instance("orders", 0, 1));
    let lines = live.until("waits");
    assert_eq!(lines[0], "orders-0: Launching, master at 10.0.0.0:31000 on agent-0 (r0)");
    assert_eq!(lines[1], "orders-1: Launching, replica at 10.0.0.1:31000 on agent-1 (r1)");
    assert_eq!(lines[3], "orders: waits: 3 nodes are not ready");
    fake.set(instance("orders", 1, 1));
    assert_eq!(live.line(), "orders-0: Ready, master at 10.0.0.0:31000 on agent-0 (r0)");
    assert_eq!(live.line(), "orders: waits: 2 nodes are not ready");
    fake.stop();
    fake.world().instances.insert("orders".into(), instance("orders", 3, 1));
    fake.listen();
    let lines = live.until("redisinstance/orders ready after ");
    assert!(lines.contains(&"orders-2: Ready, replica at 10.0.0.2:31000 on agent-2 (r2)".to_string()), "{lines:?}");
    assert!(lines.last().unwrap().ends_with(" s: 3/3 nodes ready, master 10.0.0.0:31000"), "{lines:?}");
    assert_eq!(live.code(), 0);
}

#[test]
fn apply_does_not_take_an_older_revision_that_is_ready_for_the_new_one() {
    let fake = Fake::start();
    fake.set(instance("orders", 3, 0));
    let folder = folder(&[("orders.yaml", &document("orders"))]);
    let done = run_at(&fake, &["apply", "--wait", "--timeout", "300ms", "-f", &path(&folder, "orders.yaml")]);
    assert_eq!(done.code, 4, "{done:?}");
    assert!(
        done.err.starts_with("error: redisinstance/orders not ready after 300ms: Ready, 3/3 nodes ready"),
        "{done:?}"
    );
}

#[test]
fn a_wait_that_takes_too_long_ends_with_4_and_says_what_is_missing() {
    let fake = Fake::start();
    fake.set(instance("orders", 1, 5));
    let done = run_at(&fake, &["wait", "orders", "--for=ready", "--timeout=200ms"]);
    assert_eq!(done.code, 4);
    assert_eq!(
        done.err,
        "error: redisinstance/orders not ready after 200ms: Creating, 1/3 nodes ready\n  waits: 2 nodes are not ready\n"
    );
}

#[test]
fn wait_ends_when_the_condition_holds() {
    let fake = Fake::start();
    fake.set(instance("orders", 1, 5));
    assert_eq!(run_at(&fake, &["wait", "orders", "--for=condition=ready=false"]).code, 0);
    let live = Live::start(&fake, &["wait", "orders", "--for=condition=Ready"]);
    wait_until("it watches", || (fake.world().watches == 2).then_some(()));
    fake.set(instance("orders", 3, 5));
    assert_eq!(live.line(), "redisinstance/orders Ready=True: 3/3 nodes ready, master 10.0.0.0:31000");
    assert_eq!(live.code(), 0);
    assert_eq!(run_at(&fake, &["wait", "nobody", "--for=deleted"]).out, "redisinstance/nobody deleted\n");
}

#[test]
fn wait_for_several_ends_when_all_are_there() {
    let fake = Fake::start();
    fake.set(instance("a", 3, 5));
    fake.set(instance("b", 2, 5));
    let live = Live::start(&fake, &["wait", "a", "b", "--for=ready"]);
    assert!(live.line().starts_with("redisinstance/a ready"));
    fake.set(instance("b", 3, 5));
    assert!(live.line().starts_with("redisinstance/b ready"));
    assert_eq!(live.code(), 0);
}

#[test]
fn an_instance_that_is_deleted_while_it_is_waited_for_ends_with_3() {
    let fake = Fake::start();
    fake.set(instance("orders", 1, 5));
    let live = Live::start(&fake, &["wait", "orders", "--for=ready"]);
    wait_until("it watches", || (fake.world().watches == 1).then_some(()));
    fake.remove("orders");
    assert_eq!(live.line(), "! error: instance \"orders\" was deleted meanwhile");
    assert_eq!(live.code(), 3);
}

#[test]
fn delete_says_what_goes_on_and_waits_if_asked_to() {
    let fake = Fake::start();
    fake.set(instance("orders", 3, 5));
    let live = Live::start(&fake, &["delete", "orders", "--wait"]);
    assert_eq!(live.line(), "redisinstance/orders deletion asked for: its nodes are killed, then its records go");
    live.until("orders-2: Ready");
    let mut going = instance("orders", 3, 5);
    going["metadata"]["deleting"] = json!(true);
    going["status"]["nodes"].as_array_mut().unwrap().remove(2);
    going["status"]["nodes"][0]["state"] = json!("Stopping");
    fake.set(going);
    assert_eq!(live.line(), "orders-2: gone");
    assert!(live.line().starts_with("orders-0: Stopping"));
    fake.remove("orders");
    assert_eq!(live.line(), "redisinstance/orders deleted");
    assert_eq!(live.code(), 0);
}

#[test]
fn of_several_that_are_deleted_a_missing_one_does_not_save_the_others() {
    let fake = Fake::start();
    fake.set(instance("orders", 3, 5));
    let done = run_at(&fake, &["delete", "nobody", "orders"]);
    assert_eq!(done.code, 3);
    assert_eq!(done.err, "error: there is no instance \"nobody\"\n");
    assert!(done.out.starts_with("redisinstance/orders deletion asked for"), "{done:?}");
}

#[test]
fn recreate_passes_a_refusal_on() {
    let fake = Fake::start();
    assert_eq!(run_at(&fake, &["recreate", "orders"]).code, 0);
    fake.world().recreate_answer = Some((409, json!({"title": "Conflict", "detail": "orders has not lost its data"})));
    let done = run_at(&fake, &["recreate", "orders"]);
    assert_eq!((done.code, done.err.as_str()), (1, "error: orders has not lost its data\n"));
}

#[test]
fn diff_ends_with_0_when_nothing_would_change_and_with_1_when_something_would() {
    let fake = Fake::start();
    fake.set(instance("orders", 3, 5));
    let same = document("orders");
    let done = run_with_input(&fake, &["diff", "-f", "-"], &same);
    assert_eq!((done.code, done.out.as_str()), (0, ""), "{done:?}");
    let more = same.replace("replicas: 2", "slaves: 3");
    let done = run_with_input(&fake, &["diff", "-f", "-"], &more);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        done.out.starts_with(
            "--- redisinstance/orders (declared, revision 5)\n+++ redisinstance/orders (standard input)\n@@ "
        ),
        "{done:?}"
    );
    assert!(done.out.contains("\n   masters: 1\n-  replicas: 2\n+  replicas: 3\n   memory: 256Mi\n"), "{done:?}");
    let requests = fake.world().requests.clone();
    assert!(requests.iter().filter(|r| r.0.starts_with("POST")).all(|r| r.0.ends_with("?dryRun=true")), "{requests:?}");
}

#[test]
fn diff_of_what_is_not_declared_is_all_new_and_of_a_wrong_document_ends_with_2() {
    let fake = Fake::start();
    let done = run_with_input(&fake, &["diff", "-f", "-"], &document("new"));
    assert_eq!(done.code, 1);
    assert!(done.out.starts_with("--- redisinstance/new (not declared)\n"), "{done:?}");
    assert!(done.out.contains("\n+  name: new\n"), "{done:?}");
    fake.world().apply_answer = Some((409, json!({"title": "Conflict"})));
    assert_eq!(run_with_input(&fake, &["diff", "-f", "-"], &document("new")).code, 2);
}
