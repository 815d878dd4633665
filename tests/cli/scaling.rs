//! `redisctl scale`: what it changes, what it leaves, and what stands in its way. I/O.

use serde_json::{Value, json};

use crate::fake::Fake;
use crate::run::run_at;
use crate::sample::instance;

/// The documents that were put.
fn put(fake: &Fake) -> Vec<Value> {
    let world = fake.world();
    let puts = world.requests.iter().filter(|(request, _)| request.starts_with("PUT /v1/instances/orders"));
    puts.map(|(_, body)| serde_yaml::from_str(body).unwrap()).collect()
}

#[test]
fn scale_changes_what_is_named_and_keeps_the_rest_also_what_only_a_newer_operator_knows() {
    let fake = Fake::start();
    let mut orders = instance("orders", 3, 5);
    orders["spec"]["ofANewerOperator"] = json!({"a": [1]});
    orders["spec"]["redis"] = json!({"config": {"save": ""}});
    fake.set(orders.clone());
    let done = run_at(&fake, &["scale", "orders", "--memory", "512Mi", "--replicas", "3", "--cpus", "0.5"]);
    assert_eq!((done.code, done.out.as_str()), (0, "redisinstance/orders configured\n"), "{done:?}");
    let mut spec = orders["spec"].clone();
    spec["memory"] = json!("512Mi");
    spec["replicas"] = json!(3);
    spec["cpus"] = json!(0.5);
    let metadata = json!({"name": "orders", "labels": {"team": "shop"}});
    let expected = json!({"apiVersion": "redisctl/v1", "kind": "RedisInstance", "metadata": metadata, "spec": spec});
    assert_eq!(put(&fake), [expected]);

    assert_eq!(run_at(&fake, &["scale", "orders", "--replicas", "0"]).code, 0);
    let last = put(&fake).pop().unwrap();
    assert_eq!((&last["spec"]["replicas"], &last["spec"]["memory"]), (&json!(0), &json!("256Mi")));
}

#[test]
fn a_dry_run_of_scale_says_so_and_a_wait_waits() {
    let fake = Fake::start();
    fake.set(instance("orders", 3, 5));
    let done = run_at(&fake, &["scale", "orders", "--replicas=3", "--dry-run"]);
    assert_eq!((done.code, done.out.as_str()), (0, "redisinstance/orders configured (dry run)\n"));
    assert!(fake.world().requests.iter().any(|(request, _)| request == "PUT /v1/instances/orders?dryRun=true"));
    let done = run_at(&fake, &["scale", "orders", "--replicas=3", "--wait", "--timeout=200ms"]);
    assert_eq!(done.code, 4, "{done:?}");
    assert!(done.err.starts_with("error: redisinstance/orders not ready after 200ms"), "{done:?}");
}

#[test]
fn a_wait_that_is_not_over_though_all_is_well_says_what_it_waits_for() {
    let fake = Fake::start();
    let mut orders = instance("orders", 3, 5);
    orders["status"]["nodes"][2]["state"] = json!("Stopping");
    orders["status"]["nodes"][2]["message"] = json!("one replica less is declared");
    orders["status"]["observedRevision"] = json!(4);
    fake.set(orders);
    let done = run_at(&fake, &["scale", "orders", "--replicas=1", "--wait", "--timeout=200ms"]);
    let expected = "error: redisinstance/orders not ready after 200ms: Ready, 2/3 nodes ready\n  \
                    waits: orders-2: Stopping, replica at 10.0.0.2:31000 on agent-2 (r2): one replica less is declared\n  \
                    waits: revision 6 of its document is not fully acted upon, only 4\n";
    assert_eq!((done.code, done.err.as_str()), (4, expected));
}

#[test]
fn a_document_that_others_change_meanwhile_is_read_again_and_three_times_only() {
    let fake = Fake::start();
    fake.set(instance("orders", 3, 5));
    fake.world().outdated = 3;
    let done = run_at(&fake, &["scale", "orders", "--replicas=3"]);
    assert_eq!((done.code, done.out.as_str()), (0, "redisinstance/orders configured\n"), "{done:?}");
    assert_eq!(put(&fake).len(), 4);
    fake.world().outdated = 9;
    let done = run_at(&fake, &["scale", "orders", "--replicas=3"]);
    assert_eq!(
        (done.code, done.err.as_str()),
        (1, "error: orders was changed by others meanwhile, 4 times: nothing was done\n")
    );
    assert_eq!(put(&fake).len(), 8);
}

#[test]
fn a_number_with_a_sign_is_refused_for_it_could_be_meant_as_a_change() {
    let fake = Fake::start();
    fake.set(instance("orders", 3, 5));
    for number in ["+1", "-1", "two", "", "1.5"] {
        let done = run_at(&fake, &["scale", "orders", &format!("--replicas={number}")]);
        assert_eq!(done.code, 2, "{done:?}");
        assert!(number.is_empty() || done.err.contains("allowed is a whole number, without a sign"), "{done:?}");
    }
    assert_eq!(put(&fake).len(), 0);
}

#[test]
fn names_are_taken_as_they_are_printed() {
    let fake = Fake::start();
    fake.set(instance("orders", 3, 5));
    let name = run_at(&fake, &["get", "-o", "name"]).out.trim().to_string();
    assert_eq!(name, "redisinstance/orders");
    for command in
        [&["get"][..], &["describe"], &["plan"], &["events"], &["wait", "--for=ready"], &["scale", "--cpus=1"]]
    {
        let done = run_at(&fake, &[command, &[&name]].concat());
        assert_eq!(done.code, 0, "{command:?}: {done:?}");
    }
}

#[test]
fn a_size_that_is_not_allowed_is_told_by_field() {
    let fake = Fake::start();
    fake.set(instance("orders", 3, 5));
    fake.world().apply_answer = Some((
        422,
        json!({"title": "invalid documents", "status": 422, "detail": "nothing", "errors": [
            {"document": 0, "line": 9, "column": 13, "path": "spec.replicas", "value": "201", "message": "is too many"},
        ]}),
    ));
    let done = run_at(&fake, &["scale", "orders", "--replicas=201"]);
    assert_eq!(
        (done.code, done.err.as_str()),
        (2, "error: nothing was changed, for orders cannot be scaled so:\n  spec.replicas: is too many\n")
    );
    for (flag, told) in [
        ("--memory=lots", "\"lots\" is not a size such as 256Mi"),
        ("--cpus=lots", "\"lots\" is not a number of cores such as 0.1"),
        ("--replicas=-1", "--replicas <NUMBER>"),
    ] {
        let done = run_at(&fake, &["scale", "orders", flag]);
        assert!(done.code == 2 && done.err.contains(told), "{done:?}");
    }
    let done = run_at(&fake, &["scale", "orders"]);
    assert!(done.code == 2 && done.err.contains("--memory <SIZE>|--replicas <NUMBER>|--cpus <CORES>"), "{done:?}");
}

#[test]
fn what_is_not_there_goes_or_is_not_valid_is_not_scaled() {
    let fake = Fake::start();
    assert_eq!(run_at(&fake, &["scale", "orders", "--replicas=1"]).code, 3);
    let mut orders = instance("orders", 3, 5);
    orders["invalid"] = json!("line 3: spec.memory: is missing");
    fake.set(orders);
    let done = run_at(&fake, &["scale", "orders", "--replicas=1"]);
    assert_eq!(
        (done.code, done.err.as_str()),
        (
            1,
            "error: the document of orders is not valid, mend it and apply it again: line 3: spec.memory: is missing\n"
        )
    );
    fake.set(instance("orders", 3, 0));
    let done = run_at(&fake, &["scale", "orders", "--replicas=1"]);
    assert_eq!((done.code, done.err.as_str()), (1, "error: orders has no document: it is being deleted\n"));
    assert_eq!(put(&fake).len(), 0);
}
