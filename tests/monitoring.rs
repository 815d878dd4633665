//! Dashboards, rules and runbooks: by promtool, and by the real Prometheus beside a running instance. I/O.

mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Home, Ports, Process, process, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_redisctl");
/// For what takes some seconds, on a loaded machine.
const TIMEOUT: Duration = Duration::from_mins(1);

const DASHBOARDS: [(&str, &str); 3] = [
    ("fleet", include_str!("../manifests/grafana/fleet.json")),
    ("instance", include_str!("../manifests/grafana/instance.json")),
    ("operator", include_str!("../manifests/grafana/operator.json")),
];
const CONFIG: &str = include_str!("../manifests/prometheus/prometheus.yml");
const RULES: &str = include_str!("../manifests/prometheus/rules.yml");
const RULES_TESTS: &str = include_str!("../manifests/prometheus/rules.test.yml");
const RUNBOOKS: &str = include_str!("../docs/runbooks.md");
/// Where the names of all metrics are.
const METRICS: [&str; 3] = [
    include_str!("../src/metrics.rs"),
    include_str!("../src/metrics/instances.rs"),
    include_str!("../src/metrics/own.rs"),
];

/// Grafana's own kinds of panels.
const PANELS: [&str; 6] = ["row", "stat", "timeseries", "state-timeline", "table", "bargauge"];
/// What Grafana puts in for its variables.
const VARIABLES: [(&str, &str); 4] =
    [("$job", "redisctl"), ("$redisinstance", "orders"), ("$__rate_interval", "5m"), ("$__range", "5m")];
/// What nobody tells as long as all is well, and why. The queries say zero instead.
const NOT_TOLD: [(&str, &str); 2] = [
    ("redisctl_plans_refused_total", "no plan breaks a rule"),
    ("redisctl_store_errors_total", "the store does not fail"),
];

/// One more node than there are agents, and at most one on each.
const CROWDED: &str = "apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata: {name: crowded}\n\
                       spec: {replicas: 3, memory: 8Mi, distribution: 1}\n";

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not text"))
}

/// A query of a dashboard, and where it stands.
struct Query {
    place: String,
    expr: String,
}

impl Query {
    fn new(place: String, template: &str) -> Query {
        let expr = VARIABLES.iter().fold(template.to_string(), |expr, (name, value)| expr.replace(name, value));
        assert!(!expr.contains('$'), "{place}: a variable of {template} is not known");
        Query { place, expr }
    }

    /// Without the zero for want of data, where there can be data.
    fn honest(&self) -> &str {
        let zero_is_right = NOT_TOLD.iter().any(|(metric, _)| self.expr.contains(metric));
        if zero_is_right { &self.expr } else { self.expr.split(" or ").next().expect("split gives one at least") }
    }
}

fn dashboards() -> impl Iterator<Item = (&'static str, Value)> {
    DASHBOARDS.into_iter().map(|(name, text)| (name, serde_json::from_str(text).expect("a dashboard is JSON")))
}

/// Every query of every panel, and what the variables are filled with.
fn queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for (name, dashboard) in dashboards() {
        for panel in list(&dashboard["panels"]) {
            for target in list(&panel["targets"]) {
                let place = format!("{name}: {}: {}", text(&panel["title"]), text(&target["refId"]));
                queries.push(Query::new(place, text(&target["expr"])));
            }
        }
        for variable in list(&dashboard["templating"]["list"]).filter(|variable| variable["type"] == "query") {
            let values = text(&variable["definition"]);
            let args = values.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(")"));
            let (metric, label) = args.and_then(|args| args.rsplit_once(", ")).expect("label_values(METRIC, LABEL)");
            let place = format!("{name}: ${}", text(&variable["name"]));
            queries.push(Query::new(place, &format!("count by ({label}) ({metric})")));
        }
    }
    assert!(queries.len() > 50, "{} queries only", queries.len());
    queries
}

fn rules() -> Vec<Value> {
    let rules: Value = serde_yaml::from_str(RULES).expect("the rules are YAML");
    list(&rules["groups"]).flat_map(|group| list(&group["rules"]).cloned()).collect()
}

fn in_manifests(file: &str) -> String {
    format!("{}/manifests/prometheus/{file}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn promtool_accepts_the_rules_and_sees_each_fire_and_end() {
    for args in
        [["check", "config", "prometheus.yml"], ["check", "rules", "rules.yml"], ["test", "rules", "rules.test.yml"]]
    {
        let told = process::run("promtool", &[args[0], args[1], &in_manifests(args[2])], b"", TIMEOUT).await;
        println!("{}", told.expect("promtool has no complaint"));
    }
}

#[test]
fn every_alert_has_tests_and_a_runbook() {
    let alerts: BTreeSet<String> =
        rules().iter().filter_map(|rule| rule["alert"].as_str().map(str::to_string)).collect();
    for rule in rules().iter().filter(|rule| rule["alert"].is_string()) {
        let alert = text(&rule["alert"]);
        assert!(["critical", "warning", "info"].contains(&text(&rule["labels"]["severity"])), "{alert}");
        for annotation in ["summary", "description"] {
            assert!(!text(&rule["annotations"][annotation]).is_empty(), "{alert}");
        }
        let page = format!("docs/runbooks.md#{}", alert.to_lowercase());
        assert_eq!(text(&rule["annotations"]["runbook_url"]), page);
        assert!(RULES_TESTS.contains(&format!("alertname=\"{alert}\"")), "{alert} is tested");
    }
    let pages: BTreeSet<String> =
        RUNBOOKS.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_string).collect();
    assert_eq!(alerts, pages);
}

#[test]
fn every_metric_that_is_asked_for_is_one_of_ours() {
    let recorded: Vec<String> = rules().iter().filter_map(|rule| rule["record"].as_str().map(str::to_string)).collect();
    let is_ours = |name: &str| METRICS.iter().any(|source| source.contains(&format!("\"{name}\"")));
    let of_histogram =
        |name: &str| ["_bucket", "_count", "_sum"].iter().any(|part| name.strip_suffix(part).is_some_and(is_ours));
    let in_rules = rules().into_iter().map(|rule| text(&rule["expr"]).to_string());
    for expr in queries().into_iter().map(|query| query.expr).chain(in_rules) {
        let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c));
        for name in words.filter(|word| word.starts_with("redisctl_") || word.starts_with("redisctl:")) {
            assert!(recorded.iter().any(|r| r == name) || is_ours(name) || of_histogram(name), "{name} in {expr}");
        }
    }
}

#[test]
fn dashboards_need_nothing_but_grafana_and_a_prometheus_of_ones_own() {
    for (name, dashboard) in dashboards() {
        let panels: Vec<&Value> = list(&dashboard["panels"]).collect();
        let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
        assert_eq!(ids.len(), panels.len(), "{name}: each panel has an id of its own");
        assert_eq!(dashboard["uid"], format!("redisctl-{name}"));
        for panel in &panels {
            let (title, kind) = (text(&panel["title"]), text(&panel["type"]));
            assert!(PANELS.contains(&kind), "{name}: {title}: {kind} is not Grafana's own");
            if kind != "row" {
                assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}: {title}");
                assert!(
                    !text(&panel["description"]).is_empty() && list(&panel["targets"]).count() > 0,
                    "{name}: {title}"
                );
            }
            let others = panels.iter().filter(|other| other["id"] != panel["id"]);
            for other in others {
                assert!(!overlap(&panel["gridPos"], &other["gridPos"]), "{name}: {title} lies on {}", other["title"]);
            }
        }
    }
}

fn overlap(one: &Value, other: &Value) -> bool {
    let side = |position: &Value, from: &str, size: &str| {
        let number = |key: &str| position[key].as_u64().expect("a position is four numbers");
        number(from)..number(from) + number(size)
    };
    [("x", "w"), ("y", "h")].iter().all(|(from, size)| {
        let (a, b) = (side(one, from, size), side(other, from, size));
        a.start < b.end && b.start < a.end
    })
}

// ---------------------------------------------------------------------------------------------
// Beside the real Prometheus

/// A local operator, and a Prometheus that scrapes it each second.
struct Monitored {
    server: String,
    prometheus: String,
    client: reqwest::Client,
    home: Home,
    _processes: [Process; 2],
    _ports: Ports,
}

impl Monitored {
    fn start() -> Monitored {
        let (home, ports) = (Home::new("monitoring"), Ports::lease(2));
        let (listen, web) = (format!("127.0.0.1:{}", ports.next()), format!("127.0.0.1:{}", ports.next()));
        let path = home.path();
        std::fs::write(path.join("prometheus.yml"), config(&listen)).expect("the home can be written");
        std::fs::write(path.join("rules.yml"), RULES).expect("the home can be written");
        let mut local = Command::new(BINARY);
        local.args(["local", "--listen", &listen, "--sentinel-listen", "none", "--dir"]).arg(path.join("data"));
        let mut prometheus = Command::new("prometheus");
        prometheus.arg(format!("--config.file={}", path.join("prometheus.yml").display()));
        prometheus.arg(format!("--storage.tsdb.path={}", path.join("series").display()));
        prometheus.arg(format!("--web.listen-address={web}"));
        let processes = [home.spawn("local", &mut local), home.spawn("prometheus", &mut prometheus)];
        Monitored {
            server: format!("http://{listen}"),
            prometheus: format!("http://{web}"),
            client: redisctl::tls::http().no_proxy().build().expect("a client"),
            home,
            _processes: processes,
            _ports: ports,
        }
    }

    async fn redisctl(&self, args: &[&str]) -> Result<String, String> {
        process::run(BINARY, &[&["--server", self.server.as_str()], args].concat(), b"", TIMEOUT).await
    }

    async fn apply(&self, name: &str, document: &str, more: &[&str]) {
        let file = self.home.path().join(format!("{name}.yaml"));
        std::fs::write(&file, document).expect("the home can be written");
        let file = file.display().to_string();
        self.redisctl(&[&["apply", "-f", file.as_str()], more].concat()).await.expect("it is applied");
    }

    async fn master(&self) -> Result<String, String> {
        let address = self.redisctl(&["connect", "orders", "--print", "address"]).await?;
        Ok(address.trim().to_string())
    }

    /// What the master of `orders` answers.
    async fn at_master(&self, args: &[&str]) -> String {
        let connect = ["connect", "orders", "--", "-e"];
        self.redisctl(&[&connect, args].concat()).await.expect("the master answers")
    }

    /// A write, and lookups that find and do not find a key.
    async fn use_it(&self) {
        for args in [&["SET", "a", "1"][..], &["GET", "a"], &["GET", "b"]] {
            self.at_master(args).await;
        }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let get = self.client.get(format!("{}/api/v1/{path}", self.prometheus)).query(query);
        let answer = get.send().await.map_err(|error| error.to_string())?;
        let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer["error"].to_string()) }
    }

    /// The samples that Prometheus answers to a query.
    async fn ask(&self, expr: &str) -> Result<Vec<Value>, String> {
        let data = self.get("query", &[("query", expr)]).await?;
        Ok(list(&data["result"]).cloned().collect())
    }

    async fn wait_for(&self, what: &str, expr: &str) -> Vec<Value> {
        wait_until(&format!("there is data of {what}: {expr}"), TIMEOUT, async || {
            let found = self.ask(expr).await?;
            if found.is_empty() { Err("none".to_string()) } else { Ok(found) }
        })
        .await
    }
}

/// The configuration that is shipped, for one operator and a test that is in a hurry.
fn config(listen: &str) -> String {
    let replaced = |line: &str| {
        let (key, _) = line.split_once(':').unwrap_or((line, ""));
        match key.trim_start() {
            "- targets" => format!("{key}: [\"{listen}\"]"),
            "scrape_interval" | "evaluation_interval" => format!("{key}: 1s"),
            _ => line.to_string(),
        }
    };
    CONFIG.lines().map(replaced).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn every_query_is_answered_with_data_of_a_running_instance_and_its_failovers_alert_nobody() {
    let monitored = Monitored::start();
    wait_until("the operator leads", TIMEOUT, async || monitored.redisctl(&["get"]).await).await;
    monitored.apply("orders", include_str!("../examples/orders.yaml"), &["--wait"]).await;
    monitored.apply("crowded", CROWDED, &[]).await;
    monitored.use_it().await;

    // What is counted from zero must have been seen before it happens.
    monitored.wait_for("the instance", "redisctl_instance_write_gaps_total{redisinstance=\"orders\"} == 0").await;
    monitored.redisctl(&["failover", "orders"]).await.expect("the role is handed over");
    monitored.wait_for("the switchover", "redisctl_failovers_total{cause=\"asked\"} > 0").await;
    kill_master(&monitored).await;
    monitored.wait_for("the failover", "redisctl_failovers_total{cause=\"died\"} > 0").await;
    monitored.redisctl(&["wait", "orders", "--for", "ready"]).await.expect("it heals");
    monitored.use_it().await;

    for rule in rules() {
        let expr = text(&rule["expr"]);
        monitored.ask(expr).await.unwrap_or_else(|error| panic!("{expr}: {error}"));
    }
    for query in queries() {
        let found = monitored.wait_for(&query.place, query.honest()).await;
        println!("{:60} {:3} series, such as {}", query.place, found.len(), found[0]["value"][1]);
    }
    let groups = monitored.get("rules", &[]).await.expect("Prometheus answers");
    for rule in list(&groups["groups"]).flat_map(|group| list(&group["rules"])) {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let firing = monitored.ask("ALERTS{alertstate=\"firing\"}").await.expect("Prometheus answers");
    assert_eq!(firing, Vec::<Value>::new(), "a failover alerts nobody");
}

/// `kill -9`, and waits until another is the master.
async fn kill_master(monitored: &Monitored) {
    let master = monitored.master().await.expect("there is a master");
    let info = monitored.at_master(&["INFO", "server"]).await;
    let pid = info.lines().find_map(|line| line.trim_end().strip_prefix("process_id:")?.parse().ok());
    let pid = pid.and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::KILL).expect("it runs");
    wait_until("another is the master", TIMEOUT, async || {
        let now = monitored.master().await?;
        if now == master { Err(format!("{now} is still")) } else { Ok(()) }
    })
    .await;
}
