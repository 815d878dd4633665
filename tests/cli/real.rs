//! The command line against the real API, with a store in a file and a board that tests fill. I/O.

use std::path::Path;
use std::sync::Arc;

use redisctl::api::{ApiState, router};
use redisctl::board::{Board, InstanceView};
use redisctl::status::InstanceStatus;
use redisctl::store::Store;

use crate::fake::free_listener;
use crate::run::{Ended, PATIENCE, ended, redisctl};
use crate::sample::instance;

/// The API in this process; it ends with the runtime.
struct Real {
    board: Arc<Board>,
    url: String,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Real {
    fn start() -> Real {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let board = Arc::new(Board::default());
        let listener = free_listener();
        let address = listener.local_addr().unwrap();
        let (shown, path) = (board.clone(), folder.path().join("store"));
        runtime.block_on(async move {
            let store = Store::open(&format!("file:{}", path.display())).await.unwrap();
            let state = ApiState::open(shown, store, Arc::default());
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tokio::spawn(async move { axum::serve(listener, router(state)).await });
        });
        Real { board, url: format!("http://{address}"), runtime, folder }
    }

    fn run(&self, args: &[&str]) -> Ended {
        ended(redisctl(args).env("REDISCTL_SERVER", &self.url))
    }

    /// Posts to the API; the answer.
    fn post(&self, path: &str, body: String) -> serde_json::Value {
        self.runtime.block_on(async {
            let http = redisctl::tls::http().no_proxy().build().unwrap();
            http.post(format!("{}{path}", self.url)).body(body).send().await.unwrap().json().await.unwrap()
        })
    }

    /// A file in the test's folder.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Puts an instance on the board, as the operator does.
    fn show(&self, name: &str, ready: usize, revision: i64) {
        let json = instance(name, ready, revision);
        let status: InstanceStatus = serde_json::from_value(json["status"].clone()).unwrap();
        let document = crate::sample::document(name);
        self.board.set(InstanceView {
            name: name.to_string(),
            instance: Some(serde_yaml::from_str(&document).unwrap()),
            invalid: None,
            revision,
            created_at: None,
            status,
            plan: None,
            events: Arc::default(),
            deleting: false,
        });
    }
}

#[test]
fn the_examples_are_applied_and_applied_again_change_nothing() {
    let real = Real::start();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").display().to_string();
    let first = real.run(&["apply", "-f", &examples]);
    assert_eq!(first.code, 0, "{first:?}");
    assert!(first.out.lines().all(|line| line.ends_with(" created")), "{first:?}");
    let again = real.run(&["apply", "-f", &examples]);
    assert!(again.code == 0 && again.out.lines().all(|line| line.ends_with(" unchanged")), "{again:?}");
}

#[test]
fn errors_of_the_real_parser_are_found_in_the_right_file_and_line() {
    let real = Real::start();
    let good = crate::sample::document("good");
    let one = real.file(
        "1.yaml",
        &format!("# a comment\n---\n{good}---\n# nothing\n--- # more\n\n{}", good.replace("good", "Bad-")),
    );
    let two = real.file("2.yaml", &format!("\n\n{}", good.replace("256Mi", "lots").replace("good", "two")));
    let three = real.file("3.json", "{\"apiVersion\": \"redisctl/v1\",\n \"kind\": \"Redis\"}\n");
    let done = real.run(&["apply", "-f", &one, "-f", &two, "-f", &three]);
    assert_eq!((done.code, done.out.as_str()), (2, ""), "{done:?}");
    for place in [
        format!("{one}:18:9: metadata.name: \"Bad-\""),
        format!("{two}:10:11: spec.memory: \"lots\""),
        format!("{three}:2:10: kind: \"Redis\""),
    ] {
        assert!(done.err.contains(&place), "{place} in\n{}", done.err);
    }
    assert_eq!(real.run(&["get", "-o", "name"]).out, "", "nothing was changed");
}

#[test]
fn a_shown_instance_is_listed_described_and_compared() {
    let real = Real::start();
    real.show("orders", 3, 5);
    assert!(real.run(&["get"]).out.contains("orders   Ready   3/3"));
    assert!(real.run(&["get", "-l", "team=shop", "-o", "wide"]).out.contains("orders-2@10.0.0.2:31000"));
    assert_eq!(real.run(&["get", "-l", "team=web"]).err, "No instances.\n");
    assert_eq!(real.run(&["wait", "orders", "--for=ready"]).code, 0);
    assert_eq!(real.run(&["describe", "orders"]).code, 0);
    assert_eq!(real.run(&["events"]).code, 0);
    assert_eq!(real.run(&["version"]).code, 0);
    let file = real.file("orders.yaml", &crate::sample::document("orders"));
    assert_eq!(real.run(&["diff", "-f", &file]).code, 0);
    assert_eq!(real.run(&["apply", "-f", &file]).code, 0);
    assert_eq!(real.run(&["delete", "nobody"]).code, 3);
    assert_eq!(real.run(&["delete", "orders"]).code, 0);
}

#[test]
fn apply_waits_until_the_operator_shows_the_new_revision_ready() {
    let real = Real::start();
    let file = real.file("orders.yaml", &crate::sample::document("orders"));
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| real.run(&["apply", "-f", &file, "--wait"]));
        let deadline = std::time::Instant::now() + PATIENCE;
        // Which revision the store gives is its own affair: we show newer ones until it is enough.
        for revision in 1.. {
            real.show("orders", 3, revision);
            std::thread::sleep(std::time::Duration::from_millis(20));
            if waiting.is_finished() || std::time::Instant::now() > deadline {
                break;
            }
        }
        waiting.join().unwrap()
    });
    assert_eq!(waiting.code, 0, "{waiting:?}");
    assert!(waiting.out.starts_with("redisinstance/orders created\norders-0: Ready, master at"), "{waiting:?}");
}

#[test]
fn a_scaled_document_is_taken_by_the_real_api_and_an_outdated_one_is_not() {
    let real = Real::start();
    let answer = real.post("/v1/instances", crate::sample::document("orders"));
    let revision = answer["results"][0]["revision"].as_i64().unwrap();
    real.show("orders", 3, revision);
    let done = real.run(&["scale", "orders", "--replicas=1", "--dry-run"]);
    assert_eq!((done.code, done.out.as_str()), (0, "redisinstance/orders configured (dry run)\n"), "{done:?}");
    let done = real.run(&["scale", "orders", "--replicas=201"]);
    assert_eq!(done.code, 2);
    assert!(done.err.ends_with("\n  spec.replicas: 201 is too many: allowed is 0 to 200\n"), "{done:?}");
    assert_eq!(real.run(&["scale", "orders", "--replicas=2"]).out, "redisinstance/orders unchanged\n");
    assert_eq!(real.run(&["scale", "orders", "--replicas=3"]).out, "redisinstance/orders configured\n");
    // The board still shows the older revision, as if it were far behind.
    let done = real.run(&["scale", "orders", "--replicas=4"]);
    assert_eq!(done.code, 1);
    assert!(done.err.contains("was changed by others meanwhile"), "{done:?}");
}

#[test]
fn a_failover_is_asked_for_at_the_real_api() {
    let real = Real::start();
    real.post("/v1/instances", crate::sample::document("orders"));
    real.show("orders", 3, 1);
    assert_eq!(real.run(&["failover", "orders", "--to=orders-1", "--no-wait"]).code, 0);
    let done = real.run(&["failover", "orders", "--timeout=300ms"]);
    assert_eq!(done.code, 4, "{done:?}");
    assert_eq!(real.run(&["failover", "orders", "--to=orders-2", "--force", "--yes", "--no-wait"]).code, 0);
    assert_eq!(real.run(&["delete", "orders"]).code, 0);
    let done = real.run(&["failover", "orders"]);
    assert_eq!((done.code, done.err.as_str()), (1, "error: orders is being deleted\n"));
}
