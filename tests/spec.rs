//! What a spec may say, and what a wrong one is answered. I/O.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use redisctl::model::{InstanceRecord, Timestamp};
use redisctl::placement::Placement;
use redisctl::reconcile::draft::PlanSettings;
use redisctl::reconcile::launch;
use redisctl::spec::{
    RedisInstance, SpecError, TEXT_BYTES_MAX, live_config, parse_document, parse_documents, reads_as, schema,
    start_config,
};

#[path = "../src/linear.rs"]
mod linear;
mod support;

const ORDERS: &str = include_str!("../examples/orders.yaml");

fn valid(text: &str) -> RedisInstance {
    parse_document(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"))
}

/// A document with these lines below `spec:` (indented by two), from line 4 on.
fn spec(lines: &str) -> String {
    format!("apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata: {{name: orders}}\nspec:\n{lines}\n")
}

fn errors(text: &str) -> Vec<SpecError> {
    parse_documents(text).expect_err("the document is wrong")
}

fn told(text: &str) -> Vec<String> {
    errors(text).iter().map(SpecError::to_string).collect()
}

/// The one error of a document whose spec has `memory` and these lines.
fn told_of(lines: &str) -> String {
    let text = spec(&format!("  memory: 64Mi\n{lines}"));
    let told = told(&text);
    assert_eq!(told.len(), 1, "{told:#?}");
    told[0].clone()
}

#[test]
fn an_error_tells_line_path_value_and_what_is_allowed() {
    let errors = errors(&spec("  replicas: 2\n\n  memory: 12x"));
    assert_eq!(errors.len(), 1);
    let error = &errors[0];
    assert_eq!((error.document, error.line, error.text_line, error.column), (0, 7, 7, 11));
    assert_eq!((error.path.to_string().as_str(), error.value.as_str()), ("spec.memory", "12x"));
    assert_eq!(
        error.to_string(),
        "line 7: spec.memory: \"12x\" is not a size such as 256Mi, 1Gi, 256M, 1G, or a plain number of mebibytes"
    );
}

#[test]
fn all_errors_of_all_documents_are_told_at_once_in_the_order_of_their_lines() {
    let text = "\
apiVersion: redisctl/v1
kind: RedisInstanze
metadata: {name: Orders-, labels: {team: 5}}
spec:
  replicas: many
  memroy: 64Mi
  placement:
    strategy: spreed
    constraints:
      - {attribute: disk, operator: in}
      - {operator: exists, values: [x]}
  redis: {config: {port: 1, maxmemory-polcy: noeviction}}
---
# Nothing here.
---
apiVersion: redisctl/v1
kind: RedisInstance
metadata: {name: second}
spec: {memory: 1Mi}
";
    let told = told(text);
    let expected = [
        "line 2: kind: \"RedisInstanze\" is not known: allowed is RedisInstance",
        "line 3: metadata.name: \"Orders-\" is not a name: allowed are 1 to 40 letters, digits, - and _, \
         with a letter first and no - or _ last",
        "line 3: metadata.labels.team: 5 is not text: write it in quotes, \"5\"",
        "line 4: spec.memory: is missing",
        "line 5: spec.replicas: \"many\" is not a whole number from 0 to 200",
        "line 6: spec.memroy: unknown field: did you mean memory? allowed here: masters, replicas, memory, cpus, \
         distribution, placement, redis, replaceUnreachableAfter, onDataLoss, durability, failover, auth, paused",
        "line 8: spec.placement.strategy: \"spreed\" is not one of spread, pack",
        "line 10: spec.placement.constraints[0].values: in and notIn compare with values: allowed are 1 to 32, \
         given are 0",
        "line 11: spec.placement.constraints[1].attribute: is missing",
        "line 11: spec.placement.constraints[1].values: exists and doesNotExist compare with nothing: \
         leave values out",
        "line 12: spec.redis.config.port: port belongs to the operator: the port comes from Mesos with the offer",
        "line 12: spec.redis.config.maxmemory-polcy: \"maxmemory-polcy\" is not a directive of Redis 7: \
         did you mean maxmemory-policy?",
        "line 19: spec.memory: 1Mi is out of range: allowed is 2Mi (an empty Redis uses 1Mi itself) to 1024Gi",
    ];
    assert_eq!(told, expected, "{told:#?}");
    assert_eq!(errors(text).last().map(|e| (e.document, e.line, e.text_line)), Some((1, 4, 19)));
}

#[test]
fn ranges_are_checked() {
    for (lines, message) in [
        (
            "  masters: 3",
            "line 6: spec.masters: Redis Cluster (masters: 3 and more) is not supported yet: allowed is 1",
        ),
        (
            "  masters: 2",
            "line 6: spec.masters: Redis Cluster needs at least 3 masters, and is not supported yet: allowed is 1",
        ),
        ("  masters: 0", "line 6: spec.masters: an instance has a master: allowed is 1"),
        ("  replicas: 201", "line 6: spec.replicas: 201 is too many: allowed is 0 to 200"),
        ("  replicas: -1", "line 6: spec.replicas: -1 is not a whole number from 0 to 200"),
        ("  slaves: 1.5", "line 6: spec.slaves: 1.5 is not a whole number from 0 to 200"),
        ("  distribution: 0", "line 6: spec.distribution: 0 is out of range: allowed is 1 to 1000"),
        ("  cpus: 0.001", "line 6: spec.cpus: 0.001 is out of range: allowed is 0.01 to 256 cores"),
        ("  cpus: lots", "line 6: spec.cpus: \"lots\" is not a number of cores such as 0.1"),
        (
            "  replaceUnreachableAfter: 10ms",
            "line 6: spec.replaceUnreachableAfter: 10ms is out of range: allowed is 1s to 1w",
        ),
        (
            "  replaceUnreachableAfter: 60",
            "line 6: spec.replaceUnreachableAfter: \"60\" is not a period such as 250ms, 90s, 5m, 2h, 3d or 4w",
        ),
        ("  onDataLoss: panic", "line 6: spec.onDataLoss: \"panic\" is not one of recreate, hold"),
        ("  placement: [spread]", "line 6: spec.placement: a list is not a map of fields"),
        (
            "  placement: {spreadBy: \"ra\\u202eck\"}",
            "line 6: spec.placement.spreadBy: \"ra\\u{202e}ck\" is not an attribute's name: allowed are 1 to 255 \
             printable characters, with no blank at either end",
        ),
        (
            "  placement: {constraints: [{attribute: rack, operator: In, values: [a]}]}",
            "line 6: spec.placement.constraints[0].operator: \"In\" is not one of in, notIn, exists, doesNotExist",
        ),
        (
            "  redis: {config: {save: [1, 2]}}",
            "line 6: spec.redis.config.save: a list is not text, a number, yes or no",
        ),
        ("  replicas: 1\n  slaves: 1", "line 7: spec.slaves: replicas and slaves mean the same: give one of them"),
        ("  replicas: 1\n  replicas: 2", "line 7: spec.replicas: is given twice: keep one of them"),
    ] {
        assert_eq!(told_of(lines), message);
    }
}

#[test]
fn what_is_said_of_failovers_is_checked() {
    for (lines, message) in [
        (
            "  failover: {detectWithin: 99ms}",
            "line 6: spec.failover.detectWithin: 99ms is out of range: allowed is 100ms to 60s",
        ),
        (
            "  failover: {detectWithin: 61s}",
            "line 6: spec.failover.detectWithin: 61s is out of range: allowed is 100ms to 60s",
        ),
        (
            "  failover: {detectWithin: fast}",
            "line 6: spec.failover.detectWithin: \"fast\" is not a period such as 250ms, 90s, 5m, 2h, 3d or 4w",
        ),
        (
            "  failover: {maxLag: 500ms}",
            "line 6: spec.failover.maxLag: 500ms is not 1s to 60s in whole seconds, which are what Redis counts in",
        ),
        (
            "  failover: {maxLag: 1500ms}",
            "line 6: spec.failover.maxLag: 1500ms is not 1s to 60s in whole seconds, which are what Redis counts in",
        ),
        (
            "  failover: {maxLag: 2m}",
            "line 6: spec.failover.maxLag: 2m is not 1s to 60s in whole seconds, which are what Redis counts in",
        ),
        ("  failover: {after: 1s}", "line 6: spec.failover.after: unknown field: allowed here: detectWithin, maxLag"),
        ("  failover: 1s", "line 6: spec.failover: \"1s\" is not a map of fields"),
        (
            "  durability: one",
            "line 6: spec.durability: one asks for a replica that confirms each write, and spec.replicas is 0: \
             allowed is none, or 1 replica and more",
        ),
        (
            "  durability: majority",
            "line 6: spec.durability: majority asks for a replica that confirms each write, and spec.replicas is 0: \
             allowed is none, or 1 replica and more",
        ),
        ("  durability: all", "line 6: spec.durability: \"all\" is not one of none, one, majority"),
        ("  paused: 1", "line 6: spec.paused: 1 is not true or false"),
    ] {
        assert_eq!(told_of(lines), message);
    }
}

#[test]
fn the_bounds_of_a_failover_are_allowed_themselves_and_have_defaults() {
    for (bounds, (detect_ms, lag_ms)) in [
        ("{detectWithin: 100ms, maxLag: 60s}", (100, 60_000)),
        ("{detectWithin: 1m, maxLag: 1000ms}", (60_000, 1000)),
        ("{maxLag: 2s}", (1000, 2000)),
        ("{}", (1000, 1000)),
    ] {
        let failover = valid(&spec(&format!("  memory: 64Mi\n  failover: {bounds}"))).spec.failover;
        assert_eq!((failover.detect_within.0, failover.max_lag.0), (detect_ms, lag_ms), "{bounds}");
    }
    assert!(valid(&spec("  memory: 64Mi\n  paused: true")).spec.paused);
}

#[test]
fn durability_is_one_from_two_replicas_on_and_never_asks_for_more_than_there_are() {
    let confirmations = |lines: &str| {
        let spec = valid(&spec(&format!("  memory: 64Mi\n{lines}"))).spec;
        (spec.durability().to_string(), spec.confirmations())
    };
    for (lines, durability, k) in [
        ("", "none", 0),
        ("  replicas: 1", "none", 0),
        ("  replicas: 2", "one", 1),
        ("  replicas: 7", "one", 1),
        ("  durability: none", "none", 0),
        ("  replicas: 5\n  durability: none", "none", 0),
        ("  replicas: 1\n  durability: one", "one", 1),
        ("  replicas: 1\n  durability: majority", "majority", 1),
        ("  replicas: 2\n  durability: majority", "majority", 1),
        ("  replicas: 3\n  durability: majority", "majority", 2),
        ("  replicas: 200\n  durability: majority", "majority", 100),
    ] {
        assert_eq!(confirmations(lines), (durability.to_string(), k), "{lines}");
    }
}

#[test]
fn a_part_with_nothing_in_it_is_as_one_left_out() {
    assert_eq!(valid(&spec("  memory: 64Mi\n  placement:\n  redis:\n    config:")), valid(&spec("  memory: 64Mi")));
}

#[test]
fn a_doubled_key_of_a_map_is_refused_and_not_silently_the_last_one() {
    let told_of_config = told_of("  redis:\n    config:\n      hz: 10\n      hz: 20");
    assert_eq!(told_of_config, "line 9: spec.redis.config.hz: is given twice: keep one of them");
    let json = r#"{"apiVersion": "redisctl/v1", "kind": "RedisInstance",
        "metadata": {"name": "a", "labels": {"x": "1", "x": "2"}}, "spec": {"memory": 64}}"#;
    assert_eq!(told(json), ["line 2: metadata.labels.x: is given twice: keep one of them"]);
}

#[test]
fn directives_that_the_operator_owns_are_refused_with_a_reason() {
    for name in [
        "port",
        "bind",
        "replicaof",
        "slaveof",
        "maxmemory",
        "dir",
        "daemonize",
        "pidfile",
        "logfile",
        "requirepass",
        "masterauth",
        "masteruser",
        "aclfile",
        "user",
        "rename-command",
        "cluster-enabled",
        "cluster-port",
        "min-replicas-to-write",
        "min-slaves-max-lag",
        "repl-ping-replica-period",
        "repl-ping-slave-period",
        "replica-announce-ip",
        "slave-announce-port",
        "supervised",
        "include",
        "loadmodule",
        "tls-port",
        "tls-cert-file",
        "unixsocket",
        "protected-mode",
        "repl-diskless-sync-delay",
        "Port",
    ] {
        let told = told_of(&format!("  redis: {{config: {{{name}: x}}}}"));
        assert!(
            told.starts_with(&format!("line 6: spec.redis.config.{name}: {name} belongs to the operator: ")),
            "{told}"
        );
    }
    assert!(told_of("  redis: {config: {maxmemory: 1gb}}").ends_with("use spec.memory"));
}

#[test]
fn values_that_a_failover_would_not_survive_are_refused_with_a_reason() {
    for name in ["replica-read-only", "slave-read-only", "replica-ignore-maxmemory", "slave-ignore-maxmemory"] {
        for no in ["no", "No", "\"no\"", "false"] {
            let told = told_of(&format!("  redis: {{config: {{{name}: {no}}}}}"));
            let start = format!("line 6: spec.redis.config.{name}: \"{}\" is not allowed: ", no.trim_matches('"'));
            let start = start.replace("false", "no");
            assert!(told.starts_with(&start) && told.contains("lost when"), "{told}");
        }
        valid(&spec(&format!("  memory: 64Mi\n  redis: {{config: {{{name}: yes}}}}")));
    }
    // What changes how replicas keep up, but not what they have, stays the user's.
    for line in ["repl-backlog-size: 32mb", "repl-timeout: 30", "replica-serve-stale-data: no"] {
        valid(&spec(&format!("  memory: 64Mi\n  redis: {{config: {{{line}}}}}")));
    }
}

#[test]
fn values_that_redis_would_not_start_with_are_refused() {
    for (line, message) in [
        ("appendonly: maybe", "\"maybe\" is not yes or no"),
        ("databases: 0", "\"0\" is not a whole number from 1 to 1024"),
        (
            "maxmemory-policy: lru",
            "\"lru\" is not one of volatile-lru, volatile-lfu, volatile-random, volatile-ttl, \
          allkeys-lru, allkeys-lfu, allkeys-random, noeviction",
        ),
        (
            "repl-backlog-size: 64Mi",
            "\"64Mi\" is not a number of bytes from 16384 to 9223372036854775807, as Redis writes them: 64mb, 1gb, 4096",
        ),
        (r#"save: "60 1\nport 1""#, "the value has the control character '\\n': none is allowed"),
    ] {
        let told = told_of(&format!("  redis: {{config: {{{line}}}}}"));
        assert!(told.ends_with(message), "{told}");
    }
}

#[test]
fn users_and_passwords_in_redis_config_are_told_of_auth() {
    for name in ["requirepass", "masterauth", "masteruser", "aclfile", "user", "primaryauth", "RequirePass"] {
        let told = told_of(&format!("  redis: {{config: {{{name}: x}}}}"));
        assert!(told.ends_with("use spec.auth"), "{told}");
    }
}

#[test]
fn values_that_would_hurt_the_machine_the_promise_or_the_operator_are_refused() {
    for line in [
        "databases: 2147483647", // A gigabyte a second.
        "databases: 1025",
        "maxclients: 2000000",
        "maxclients: 1",
        "timeout: 1",
        "repl-timeout: 1",
        "repl-backlog-size: 33mb", // More than half of the memory.
        "repl-backlog-size: 1",
        "io-threads: 128",
        "hz: 100000",
        "tcp-backlog: 0",
        "tcp-keepalive: 2147483647",
        "shutdown-timeout: 600",
        "busy-reply-threshold: 0",
        "lua-time-limit: 0",
        "slowlog-max-len: 9223372036854775807",
        "acllog-max-len: 9223372036854775807",
        "tracking-table-max-keys: 9223372036854775807",
        "hash-max-listpack-entries: 9223372036854775807",
        "maxmemory-samples: 2147483647",
        "maxmemory-clients: 1",
        "maxmemory-clients: 1%",
        "client-output-buffer-limit: normal 1 1 1",
        "client-output-buffer-limit: replica 1mb 1mb 1",
        "oom-score-adj-values: -1000 -1000 -1000",
        "enable-debug-command: yes",
        "enable-debug-command: local",
        "key-load-delay: 1000000",
        "socket-mark-id: 1",
        "hz: \"010\"",
        "hz: \"+10\"",
        "hz: \" 10\"",
        "loglevel: nothing",
        "proto-max-bulk-len: 9223372036854775808",
        "busy-reply-threshold: 500\n      lua-time-limit: 500",
        "slave-lazy-flush: yes\n      replica-lazy-flush: yes",
    ] {
        let told = told(&spec(&format!("  memory: 64Mi\n  redis:\n    config:\n      {line}")));
        let name = line.split(':').next().unwrap();
        assert!(told.iter().any(|told| told.contains("spec.redis.config.")), "{line}: {told:?}");
        assert!(line.contains('\n') || told.iter().all(|told| told.contains(name)), "{line}: {told:?}");
    }
}

/// What somebody may write to get out of a value: options, lines, quotes, escapes.
const HOSTILE: &[&str] = &[
    "3600 1 --user mallory on nopass ~* &* +@all --enable-module-command yes",
    "--user mallory on nopass ~* &* +@all",
    "x --user mallory on nopass ~* &* +@all",
    "--",
    "-",
    "- --port 1",
    "\"",
    "\" --user mallory on nopass",
    "\"\" --user mallory on nopass",
    "'",
    "' --loadmodule '/tmp/x.so",
    "a\\",
    "\\",
    "\\\" --user mallory on nopass",
    "\\n",
    "\\nuser mallory on nopass ~* +@all",
    "\\x0auser mallory on nopass",
    "\"\\nuser mallory on nopass\"",
    "a\nuser mallory on nopass ~* +@all",
    "a\r\nrequirepass x",
    "\u{2028}user mallory on nopass",
    "%s%n%x",
    "$(touch /tmp/owned) `id` ; id | id && id",
    "# user mallory",
    "/etc/redis/redis.conf",
    "include /etc/passwd",
    "ärger --user mallory on nopass",
];

#[test]
fn no_text_of_a_value_that_is_taken_has_an_option_a_line_or_a_quote_in_it() {
    for name in directive_names() {
        for hostile in HOSTILE {
            let document = spec(&format!("  memory: 64Mi\n  redis: {{config: {{{name}: {hostile:?}}}}}"));
            if let Ok(parsed) = parse_documents(&document) {
                let words = redisctl::spec::config_words(&name, hostile);
                let plain = name == "proc-title-template" && !hostile.contains(['"', '\\', '\'', '\n']);
                assert!(plain && words.len() == 1, "{name} takes {hostile:?}: {parsed:?}");
            }
        }
    }
}

/// The directives that a spec may set, as its schema has them.
fn directive_names() -> Vec<String> {
    let schema = schema();
    let names = schema["$defs"]["RedisSpec"]["properties"]["config"]["propertyNames"]["enum"].as_array().unwrap();
    names.iter().map(|name| name.as_str().unwrap().to_string()).collect()
}

/// The command line of a node with this configuration, whether or not a spec may have it; without port and
/// addresses.
fn argv(config: &BTreeMap<String, String>) -> Vec<String> {
    let spec = valid(&spec("  memory: 64Mi\n  auth: none")).spec;
    let record: InstanceRecord = serde_json::from_value(serde_json::json!({
        "spec": spec, "specRevision": 1, "epoch": 1, "master": 0, "nextOrdinal": 1, "initialized": false,
        "deleting": false, "createdAt": "2026-01-01T00:00:00Z", "failures": 0, "labels": {},
    }))
    .expect("it is a record");
    let at = Placement {
        agent_id: "a".into(),
        hostname: "h".into(),
        host: "127.0.0.1".into(),
        attributes: BTreeMap::new(),
        port: 1,
        pieces: vec![],
        offer_ids: vec![],
    };
    let mut node = launch::node_record("orders", &record, 0, &at, Timestamp(1));
    node.config.clone_from(config);
    let argv = launch::launch(&node, &at, &record, None, &PlanSettings::default()).argv;
    let from = argv.iter().position(|word| word == "--protected-mode").expect("it is set");
    argv[from..].to_vec()
}

/// Starts the real redis-server with this configuration: CONFIG GET * and ACL LIST; or its last words.
async fn starts_with(config: &BTreeMap<String, String>) -> Result<(BTreeMap<String, String>, String), String> {
    let (ports, home) = (support::Ports::lease(1), support::Home::new("directives"));
    let port = ports.next().to_string();
    let mut command = std::process::Command::new("redis-server");
    command.args(["--port", &port, "--bind", "127.0.0.1"]).args(argv(config));
    let server = home.spawn("redis", &mut command);
    let address = format!("127.0.0.1:{port}");
    let answers = async || match support::redis::cli(&address, &["PING"]).await {
        Ok(pong) => Ok(Ok(pong)),
        Err(_) if !server.runs() => Ok(Err(home.log("redis"))),
        Err(why) => Err(why),
    };
    support::wait_until("it answers or ends", Duration::from_secs(20), answers).await?;
    let client = redis::Client::open(format!("redis://{address}")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let all = redis::cmd("CONFIG").arg("GET").arg("*").query_async(&mut connection).await.unwrap();
    let users: Vec<String> = redis::cmd("ACL").arg("LIST").query_async(&mut connection).await.unwrap();
    Ok((all, users.join("; ")))
}

/// The values of a directive that a spec may have: the edges of its type, and some in between.
fn taken_values(name: &str) -> Vec<String> {
    let refusal = |value: &str| {
        let document = spec(&format!("  memory: 64Mi\n  redis: {{config: {{{name}: {value:?}}}}}"));
        parse_documents(&document).err().map(|errors| errors[0].message.clone())
    };
    let told = refusal("?").unwrap_or_default();
    let numbers: Vec<String> = told
        .split(|c: char| !c.is_ascii_digit() && c != '-')
        .filter(|word| word.parse::<i64>().is_ok())
        .flat_map(|word| {
            let n: i64 = word.parse().expect("it was parsed before");
            [n, n.saturating_add(1), n.saturating_sub(1), n / 2]
        })
        .map(|n| n.to_string())
        .collect();
    let words = told.split("one of ").nth(1).map(|words| words.split(", ").map(ToString::to_string).collect());
    let texts = [
        "yes",
        "no",
        "",
        "0",
        "1",
        "50",
        "3600 1",
        "3600 1 300 100 60 10000",
        "1 0",
        "2147483647 2147483647",
        "Ex",
        "KEA",
        "AKEg$lshzxetdmn",
        "normal 0 0 0",
        "replica 256mb 64mb 60",
        "slave 0 0 0 pubsub 32mb 8mb 60 normal 1gb 1mb 10",
        "0 200 800",
        "1000 1000 1000",
        "800 200 0",
        "0-3,6",
        "0",
        "0-7:2",
        "1023",
        "0.5 99.99 100",
        "50 99 99.9",
        "{title} {listen-addr} {server-mode}",
        "--user mallory on nopass",
        "x",
        "C",
        "ARM64-COW-BUG",
        "8mb",
        "5%",
        "100%",
        "16kb",
        "32mb",
        "1k",
        "1m",
        "1g",
        "1b",
        "Yes",
        "NO",
        "1mb",
        "64MB",
    ];
    let all = numbers.into_iter().chain(words.unwrap_or_else(Vec::new)).chain(texts.map(ToString::to_string));
    let mut taken: Vec<String> = all.filter(|value| refusal(value).is_none()).collect();
    taken.sort();
    taken.dedup();
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_value_that_a_spec_may_have_is_taken_by_the_redis_at_hand_and_read_back_as_it_was_meant() {
    let all: BTreeMap<String, Vec<String>> =
        directive_names().into_iter().map(|name| (name.clone(), taken_values(&name))).collect();
    assert!(all.values().all(|values| !values.is_empty()), "{all:?}");
    let rounds = all.values().map(Vec::len).max().unwrap();
    // Each start has a value of each directive; there are as many as the most values.
    let (mut known, mut told) = (BTreeMap::new(), Vec::new());
    for round in 0..rounds {
        let at_start = all.iter().filter(|(name, _)| start_config(name) && !is_alias(name));
        let config = at_start.map(|(name, values)| (name.clone(), values[round % values.len()].clone())).collect();
        let (found, _) = starts_with(&config).await.unwrap_or_else(|why| panic!("{config:#?}\n{why}"));
        for (name, value) in &config {
            if !reads_as(name, value, &found[name]) {
                told.push(format!("{name} {value:?}: {:?}", found[name]));
            }
        }
        known = found;
    }
    // Under the names that newer versions have for them.
    let newer = all.iter().filter(|(name, _)| name.ends_with("-cpulist"));
    let newer: BTreeMap<String, String> = newer.map(|(name, _)| (name.clone(), "0".to_string())).collect();
    let (found, _) = starts_with(&newer).await.expect("it starts");
    assert_eq!((newer.len(), found["bgsave_cpulist"].as_str(), found["server_cpulist"].as_str()), (4, "0", "0"));
    let redis = support::Redis::start(&[]).await;
    for (name, values) in all.iter().filter(|(name, _)| live_config(name) && known.contains_key(*name)) {
        for value in values {
            let answer = redis.cli(&["CONFIG", "SET", name, value]).await;
            let found = redis.cli(&["CONFIG", "GET", name]).await.unwrap();
            let found = found.split_once('\n').map_or("", |(_, value)| value);
            // Those that depend on the machine it may refuse: they are told while it runs.
            let may_refuse = !start_config(name);
            if (answer.is_err() && !may_refuse) || (answer.is_ok() && !reads_as(name, value, found)) {
                told.push(format!("CONFIG SET {name} {value:?}: {answer:?}, {found:?}"));
            }
        }
    }
    assert!(told.is_empty(), "{told:#?}");
}

/// Another name of a directive that is there under its own.
fn is_alias(name: &str) -> bool {
    name.contains("slave") || name.contains("ziplist") || name == "lua-time-limit" || name.ends_with("-cpulist")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_becomes_an_option_or_a_directive_whatever_stands_in_it() {
    let (plain, users) = starts_with(&BTreeMap::new()).await.expect("it starts");
    let texts = ["proc-title-template", "save", "notify-keyspace-events", "ignore-warnings", "oom-score-adj-values"];
    for (nth, hostile) in HOSTILE.iter().enumerate() {
        // Beyond what a spec may have: the command line alone must hold.
        let names = [texts[nth % texts.len()], "ignore-warnings"];
        for name in names {
            let Ok((found, found_users)) =
                starts_with(&BTreeMap::from([(name.to_string(), (*hostile).to_string())])).await
            else {
                continue; // Refused as a value.
            };
            assert_eq!(found_users, users, "{name} {hostile:?}");
            let own = ["port", "dir", name];
            let differs =
                |(key, value): (&String, &String)| !own.contains(&key.as_str()) && plain.get(key) != Some(value);
            let others: Vec<_> = found.iter().filter(|pair| differs(*pair)).collect();
            assert!(others.is_empty(), "{name} {hostile:?} sets {others:?}");
            if name == "ignore-warnings" {
                assert_eq!(found[name], *hostile, "it is the value, to the letter");
            }
        }
    }
}

#[test]
fn images_labels_and_names_have_their_forms() {
    for image in ["redis", "redis:7.2", "docker.io/library/redis:7.2-alpine", "localhost:5000/a/b@sha256:0a1b"] {
        valid(&spec(&format!("  memory: 64Mi\n  redis: {{image: \"{image}\"}}")));
    }
    for image in ["", "redis:", "re dis", "-redis", "redis:7:2", "http://redis", "redis@7", "a//b"] {
        let told = told_of(&format!("  redis: {{image: \"{image}\"}}"));
        assert!(told.contains("is not an image: allowed is [HOST[:PORT]/]NAME[:TAG][@DIGEST]"), "{told}");
    }
    for name in ["1st", "-a", "a-", "a_", "a.b", &"a".repeat(41), "\"\""] {
        let told = told(&spec("  memory: 64Mi").replace("orders", name));
        assert!(told.len() == 1 && told[0].contains("is not a name"), "{told:?}");
    }
    let told = told(&spec("  memory: 64Mi").replace("name: orders", "name: orders, labels: {\"a b\": x, c: \"d e\"}"));
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn what_the_operator_prints_beside_a_spec_is_refused_with_a_hint() {
    let told = told(&format!("{}status: {{}}\n", spec("  memory: 64Mi")));
    assert_eq!(told, ["line 6: status: is written by the operator: leave it out"]);
}

#[test]
fn json_is_accepted_one_value_or_several() {
    let one = serde_json::to_string_pretty(&valid(ORDERS)).unwrap();
    assert_eq!(valid(&one), valid(ORDERS));
    assert_eq!(valid(&one.replace("  ", "\t")), valid(ORDERS));
    let two = format!("{one}\n{}", one.replace("orders", "other"));
    let parsed = parse_documents(&two).unwrap();
    assert_eq!(parsed.iter().map(|p| p.instance.metadata.name.as_str()).collect::<Vec<_>>(), ["orders", "other"]);
    assert_eq!(parsed[0].text, one);
    let wrong = one.replace("  ", "\t").replace("256Mi", "1Mi");
    assert_eq!(errors(&wrong)[0].line, 1 + wrong[..wrong.find("1Mi").unwrap()].matches('\n').count());
}

#[test]
fn documents_keep_their_own_text_and_lines() {
    let text = format!(
        "\u{feff}%YAML 1.2\n---\n# first\n{}---\n---  # nothing\n...\n---\n{}",
        spec("  memory: 64Mi"),
        ORDERS.replace("orders", "b")
    );
    let parsed = parse_documents(&text).unwrap();
    assert_eq!(parsed.len(), 2);
    assert!(parsed[0].text.starts_with("# first\napiVersion"));
    assert_eq!((parsed[0].line, parsed[1].line), (3, 13));
    assert_eq!(valid(&parsed[1].text), parsed[1].instance);
}

#[test]
fn two_documents_of_one_name_are_refused() {
    let told = told(&format!("{ORDERS}---\n{ORDERS}"));
    let second = ORDERS.lines().count() + 2;
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with(&format!("line {}: metadata.name: \"orders\" is declared twice", second + 4)),
        "{told:?}"
    );
}

#[test]
fn the_store_takes_one_document_under_a_key() {
    assert!(parse_document(b"").unwrap_err()[0].message.contains("empty"));
    assert!(parse_document(b"\xff\xfe").unwrap_err()[0].message.contains("not UTF-8"));
    let two = format!("{ORDERS}---\n{}", ORDERS.replace("orders", "other"));
    assert!(parse_document(two.as_bytes()).unwrap_err()[0].message.contains("one document is allowed here"));
}

#[test]
fn a_small_text_that_expands_to_a_large_one_is_refused_at_once() {
    let list = format!("[{}]", vec!["x"; 5000].join(","));
    let bomb = format!("a: &a {list}\nb: [{}]\n", vec!["*a"; 5000].join(","));
    assert!(told(&bomb)[0].contains("more than 10000 values"));
    let nested: Vec<String> = (1..30).map(|n| format!("a{n}: &a{n} [*a{p}, *a{p}]\n", p = n - 1)).collect();
    assert_eq!(told(&format!("a0: &a0 [x, x]\n{}", nested.concat())).len(), 1);
    assert_eq!(told(&"[".repeat(50_000)).len(), 1);
    assert!(told(&"a".repeat(TEXT_BYTES_MAX + 1))[0].contains("allowed are"));
    assert!(told(&"a: b\n---\n".repeat(1000)).len() <= 100);
    assert!(told(&"a: b\n---\n".repeat(1001))[0].contains("1001 documents: allowed are 1000"));
}

/// Documents that are made to cost: each kind, of about so many bytes.
/// What it is, and what makes so many bytes of it.
type Wicked = (&'static str, fn(usize) -> String);
const WICKED_DOCUMENTS: [Wicked; 27] = [
    ("wrong labels", |bytes| labels(bytes, |n| format!("  k{n}: '!'\n"))),
    ("labels of a wrong kind", |bytes| labels(bytes, |n| format!("  k{n}: [x]\n"))),
    ("unknown fields", |bytes| spec(&lines(bytes, |n| format!("  f{n}: x")))),
    ("wrong settings", |bytes| config(bytes, |n| format!("      port{n}: 1"))),
    ("wrong constraints", |bytes| constraints(bytes, "{attribute: ' x', operator: in, values: []}")),
    ("constraints that are empty", |bytes| constraints(bytes, "{}")),
    ("constraints of a wrong kind", |bytes| constraints(bytes, "7")),
    ("values of one constraint", |bytes| {
        constraints(1, &format!("{{attribute: a, operator: in, values: [{}]}}", "' ',".repeat(bytes / 4)))
    }),
    ("open brackets", |bytes| "[".repeat(bytes)),
    ("open braces", |bytes| "{a: ".repeat(bytes / 4)),
    ("words in open brackets", |bytes| "[a,".repeat(80) + &"a,".repeat(bytes / 2)),
    ("lists in lists by dashes", |bytes| "- ".repeat(bytes / 2)),
    ("keys in keys by question marks", |bytes| "? ".repeat(bytes / 2)),
    ("maps in maps by blanks", |bytes| {
        (0..)
            .map(|n| " ".repeat(n) + "a:\n")
            .scan(0, |all, line| {
                *all += line.len();
                Some(line).filter(|_| *all < bytes)
            })
            .collect()
    }),
    ("an anchor in itself", |bytes| format!("a: &a [{}]", "*a,".repeat(bytes / 3))),
    ("a large value by its anchor", |bytes| {
        format!("a: &a '{}'\nb: [{}]", "x".repeat(bytes / 2), "*a,".repeat(bytes / 6))
    }),
    ("merged maps", |bytes| format!("a: &a {{x: 1}}\nb:\n{}", lines(bytes, |n| format!("  k{n}: {{<<: *a}}")))),
    ("many anchors", |bytes| lines(bytes, |n| format!("k{n}: &a{n} x"))),
    ("one long value", |bytes| spec(&format!("  memory: {}", "9".repeat(bytes)))),
    ("a value with escapes", |bytes| spec(&format!("  memory: \"{}\"", "\\e\\L".repeat(bytes / 4)))),
    ("a long key with many below it", |bytes| format!("? {}\n: [{}]", "k".repeat(bytes / 2), "x,".repeat(bytes / 4))),
    ("a number with many digits", |bytes| spec(&format!("  replicas: 1e{0}\n  cpus: 0.{0}", "9".repeat(bytes / 2)))),
    ("comments", |bytes| "# a\n".repeat(bytes / 4)),
    ("directives", |bytes| "# a\n".to_string() + &lines(bytes, |n| format!("%TAG !a{n}! b")) + "\na: b"),
    ("doubled keys", |bytes| lines(bytes, |n| format!("{{a: 1, b{n}: 2, a: 3}}\n---"))),
    ("JSON with wrong labels", |bytes| {
        format!(r#"{{"apiVersion": "redisctl/v1", "kind": "RedisInstance", "spec": {{"memory": 64}}, "metadata": {{"name": "a", "labels": {{{}"z": "!"}}}}}}"#, lines(bytes, |n| format!("\t\"k{n}\": \"!\","))).to_string()
    }),
    ("JSON in JSON", |bytes| r#"{"a":"#.repeat(bytes / 5)),
];

fn lines(bytes: usize, line: impl Fn(usize) -> String) -> String {
    (0..bytes / line(100).len()).map(|n| line(n) + "\n").collect()
}

fn labels(bytes: usize, line: impl Fn(usize) -> String) -> String {
    let lines: String = (0..bytes / line(100).len()).map(|n| "  ".to_string() + &line(n)).collect();
    format!(
        "apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata:\n  name: a\n  labels:\n{lines}spec: {{memory: 64Mi}}\n"
    )
}

fn config(bytes: usize, line: impl Fn(usize) -> String) -> String {
    spec(&format!("  memory: 64Mi\n  redis:\n    config:\n{}", lines(bytes, line)))
}

fn constraints(bytes: usize, item: &str) -> String {
    let items = format!("    - {item}\n").repeat((bytes / (item.len() + 7)).max(1));
    spec(&format!("  memory: 64Mi\n  placement:\n    constraints:\n{items}"))
}

#[test]
fn the_time_of_reading_grows_with_the_length_of_a_document_whatever_it_says() {
    for (what, make) in WICKED_DOCUMENTS {
        linear::assert_linear(what, 6000, make, |text| drop(parse_documents(text)));
    }
}

#[test]
fn a_text_of_the_greatest_length_is_read_in_bounded_time_whatever_it_says() {
    for (what, make) in WICKED_DOCUMENTS {
        let one = make(60_000) + "\n---\n";
        let text = one.repeat(TEXT_BYTES_MAX / one.len());
        let took = linear::thread_time(|| drop(parse_documents(&text)));
        eprintln!("{what}: {} documents, {took:?}", TEXT_BYTES_MAX / one.len());
        assert!(took < std::time::Duration::from_secs(20), "{what}: {took:?} without optimisation");
    }
}

#[test]
fn no_more_errors_are_told_than_anybody_reads_and_none_repeats_a_long_text() {
    for (what, make) in WICKED_DOCUMENTS {
        let Err(errors) = parse_documents(&make(60_000)) else { continue };
        assert!((1..=100).contains(&errors.len()), "{what}: {}", errors.len());
        for error in errors {
            assert!(error.to_string().len() < 6000 && error.value.len() < 1000, "{what}: {error}");
            assert!(error.text_line > 0 && error.column > 0, "{what}: {error:?}");
        }
    }
}

#[test]
fn every_one_of_many_errors_has_its_place() {
    let text = labels(3000, |n| format!("k{n}: '!'\n"));
    for error in errors(&text) {
        let line = text.lines().nth(error.text_line - 1).unwrap();
        let key = error.path.to_string().rsplit_once('.').unwrap().1.to_string();
        assert_eq!(line.trim().split(':').next(), Some(key.as_str()), "{error:?}");
        assert_eq!(error.column, line.find('\'').unwrap() + 1, "{error:?}");
    }
    let json =
        r#"{"apiVersion": "x", "kind": "y", "metadata": {"name": "-"}, "spec": {"memory": "1x", "replicas": []}}"#;
    for error in errors(json) {
        let at = error.value.as_str();
        assert!(
            json[error.column - 1..].trim_start_matches('"').starts_with(if at == "[]" { "replicas" } else { at }),
            "{error:?}"
        );
    }
}

#[test]
fn a_document_of_the_store_is_bounded_before_it_is_read() {
    let long = format!("{ORDERS}# {}", "x".repeat(70_000));
    assert!(parse_document(long.as_bytes()).unwrap_err()[0].message.contains("allowed are 65536"));
    let many = format!("{ORDERS}---\n").repeat(100);
    let took = linear::thread_time(|| assert!(parse_document(many.as_bytes()).is_err()));
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
}

#[test]
fn what_a_document_repeats_by_anchors_is_bounded_in_bytes_too() {
    let bomb = format!("a: &a '{}'\nb: [{}]", "x".repeat(30_000), "*a,".repeat(5000));
    assert!(told(&bomb)[0].contains("more than 131072 bytes, anchors expanded"), "{:?}", told(&bomb));
    assert!(told(&"[".repeat(300))[0].contains("more than 256 opening brackets"));
}

#[test]
fn byte_order_marks_line_ends_directives_and_ends_of_documents_are_no_part_of_a_document() {
    let (one, two) = (spec("  memory: 64Mi"), ORDERS.replace("orders", "b"));
    let mark = "\u{feff}";
    for text in [
        format!("{one}---\n{two}"),
        format!("{mark}{one}---\n{two}"),
        format!("{mark}{one}{mark}---\n{two}"),
        format!("{mark}---\n{one}---\n{mark}{two}"),
        format!("{one}...\n{mark}{two}"),
        format!("{one}...\n---\n{two}...\n"),
        format!("{mark}%YAML 1.2\n---\n{one}...\n%YAML 1.2\n%TAG ! tag:x,2000:\n--- # two\n{two}"),
        format!("# a\n%YAML 1.2\n---\n{one}---\n# nothing\n---\n\n{two}---\n"),
        format!("{one}---\n{two}").replace('\n', "\r\n"),
        format!("{one}---\t\n{two}\n---\n---\n# a\n"),
        format!("---\n{one}\n\n---\n{two}\n{mark}---\n{mark}\n"),
    ] {
        let parsed = parse_documents(&text).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
        let names: Vec<&str> = parsed.iter().map(|one| one.instance.metadata.name.as_str()).collect();
        assert_eq!(names, ["orders", "b"], "{text}");
        for one in &parsed {
            assert_eq!(valid(&one.text), one.instance, "as it is stored: {text}");
        }
    }
    let json = serde_json::to_string(&valid(ORDERS)).unwrap();
    let two = format!("{mark}{json}\n{mark}{}", json.replace("orders", "b"));
    assert_eq!(parse_documents(&two).unwrap().len(), 2);
    assert!(parse_documents("%YAML 1.2\n# nothing\n---\n...\n").unwrap().is_empty());
    let told = told(&spec("\tmemory: 64Mi"));
    assert!(told[0].contains("a tab cannot indent: use spaces"), "{told:?}");
}

#[test]
fn merge_keys_of_yaml_are_merged_and_give_way_to_what_stands_beside_them() {
    let text = "\
apiVersion: redisctl/v1
kind: RedisInstance
metadata: {name: a, labels: &l {team: shop, tier: cache}}
spec:
  memory: 64Mi
  redis:
    config:
      <<: [{hz: 20, loglevel: debug}, {hz: 30, appendonly: no}]
      loglevel: notice
";
    let config = &valid(text).spec.redis.config;
    let expected = [("appendonly", "no"), ("hz", "20"), ("loglevel", "notice")];
    assert_eq!(*config, expected.map(|(key, value)| (key.to_string(), value.to_string())).into());
    assert_eq!(valid(&text.replace("shop,", "shop, <<: {x: y},")).metadata.labels["x"], "y");
    for wrong in ["7", "[7]", "[[{}]]", "x"] {
        let told = told_of(&format!("  redis:\n    config:\n      <<: {wrong}"));
        assert!(told.contains("a merge key takes a map, or a list of maps"), "{told}");
    }
    let wrong = text.replace("hz: 20", "port: 7");
    assert_eq!(errors(&wrong)[0].path.to_string(), "spec.redis.config.port");
    assert!(errors(&wrong)[0].text_line >= 7);
}

#[test]
fn every_example_is_valid() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let parsed = parse_documents(&text).unwrap_or_else(|errors| panic!("{}: {errors:?}", path.display()));
            names.extend(parsed.into_iter().map(|one| one.instance.metadata.name));
        }
    }
    names.sort();
    let unique = names.len();
    names.dedup();
    assert!(names.len() >= 6 && names.len() == unique, "{names:?}");
}

/// `make schema`, or `REDISCTL_WRITE_SCHEMA=1 cargo test --test spec schema`, writes it anew.
#[test]
fn the_kept_schema_is_that_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/redisinstance.schema.json");
    let made = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("REDISCTL_WRITE_SCHEMA").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "{} is old: `make schema` writes it anew", path.display());
}

#[test]
fn the_schema_knows_the_same_fields_and_directives_as_the_parser() {
    let schema = schema();
    let spec = &schema["$defs"]["InstanceSpec"];
    assert_eq!(spec["additionalProperties"], false);
    assert_eq!(spec["required"], serde_json::json!(["memory"]));
    assert_eq!(spec["properties"]["slaves"]["maximum"], 200);
    assert_eq!(schema["properties"]["kind"]["const"], "RedisInstance");
    let names = schema["$defs"]["RedisSpec"]["properties"]["config"]["propertyNames"]["enum"].as_array().unwrap();
    assert!(names.iter().any(|name| name == "maxmemory-policy") && !names.iter().any(|name| name == "port"));
}

#[tokio::test]
async fn the_table_of_directives_is_that_of_the_redis_at_hand() {
    // Redis waits for replicas for 10 s by default, and Mesos kills it after 8 s.
    let redis = support::Redis::start(&["--shutdown-timeout", "5"]).await;
    let client = redis::Client::open(format!("redis://{}", redis.address())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let all: BTreeMap<String, String> =
        redis::cmd("CONFIG").arg("GET").arg("*").query_async(&mut connection).await.unwrap();
    assert!(all.len() > 150, "{} directives", all.len());
    let mut told = Vec::new();
    for (name, value) in all {
        let document = spec(&format!("  memory: 64Mi\n  redis: {{config: {{{name}: {value:?}}}}}"));
        match parse_document(document.as_bytes()) {
            // Its own value: CONFIG SET of it changes nothing, and says whether it can be set.
            Ok(_) => {
                let set: redis::RedisResult<()> =
                    redis::cmd("CONFIG").arg("SET").arg(&name).arg(&value).query_async(&mut connection).await;
                let answer = set.err().map_or(String::new(), |err| err.to_string());
                let refused = answer.contains("immutable") || answer.contains("protected");
                if live_config(&name) == refused || (!refused && !answer.is_empty()) {
                    told.push(format!("{name} {value:?}: {answer}"));
                }
            }
            Err(errors) if errors[0].message.contains("belongs to the operator") => {}
            Err(errors) => told.push(errors[0].to_string()),
        }
    }
    assert!(told.is_empty(), "{told:#?}");
    assert!(live_config("maxmemory-policy") && !live_config("databases") && !live_config("no-such-directive"));
}

// ---------------------------------------------------------------------------------------------
// Properties

fn small_instance() -> impl Strategy<Value = RedisInstance> {
    let config = prop::sample::subsequence(
        vec![("hz", "50"), ("save", ""), ("appendonly", "no"), ("save", "3600 1 300 100"), ("loglevel", "debug")],
        0..4,
    );
    let constraint = ("[a-z]{1,8}", prop::sample::select(vec!["in", "exists"]), "[ -~]{0,8}x");
    (
        "[a-zA-Z]([-_a-zA-Z0-9]{0,20}[a-zA-Z0-9])?",
        prop::collection::btree_map("[a-z0-9][a-z0-9._/-]{0,10}", "[A-Za-z0-9._-]{0,12}", 0..4),
        (0u32..=200, 2u64..=1 << 20, 10u64..=256_000, 1u32..=1000, 1000u64..=604_800_000),
        config,
        prop::collection::vec(constraint, 0..3),
        (any::<bool>(), prop::option::of("[a-z]{1,8}(:[0-9]{1,3}x)?")),
        (0usize..4, 100u64..=60_000, 1u64..=60, any::<bool>()),
    )
        .prop_map(
            |(
                name,
                labels,
                (replicas, mib, cpus, distribution, wait),
                config,
                constraints,
                (hold, image),
                failover,
            )| {
                let (durability, detect_ms, lag_s, paused) = failover;
                let durability = [None, Some("none"), Some("one"), Some("majority")][durability];
                let constraints: Vec<_> = constraints
                    .into_iter()
                    .map(|(attribute, operator, value)| {
                        let values = if operator == "in" { vec![value.trim().to_string()] } else { vec![] };
                        serde_json::json!({"attribute": attribute, "operator": operator, "values": values})
                    })
                    .collect();
                let config: BTreeMap<_, _> = config.into_iter().collect();
                #[allow(clippy::cast_precision_loss)]
                serde_json::from_value(serde_json::json!({
                    "apiVersion": "redisctl/v1", "kind": "RedisInstance",
                    "metadata": {"name": name, "labels": labels},
                    "spec": {
                        "replicas": replicas, "memory": mib, "cpus": cpus as f64 / 1000.0, "distribution": distribution,
                        "placement": {"constraints": constraints},
                        "redis": {"config": config, "image": image},
                        "replaceUnreachableAfter": format!("{wait}ms"),
                        "onDataLoss": if hold { "hold" } else { "recreate" },
                        "durability": durability.filter(|_| replicas > 0),
                        "failover": {"detectWithin": format!("{detect_ms}ms"), "maxLag": format!("{lag_s}s")},
                        "paused": paused,
                    },
                }))
                .expect("it is an instance")
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_printed_instance_reads_as_the_same(instance in small_instance()) {
        prop_assert_eq!(&valid(&serde_yaml::to_string(&instance).unwrap()), &instance);
        prop_assert_eq!(&valid(&serde_json::to_string(&instance).unwrap()), &instance);
    }

    #[test]
    fn rubbish_is_refused_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
        let _ = parse_document(&bytes);
        let _ = parse_documents(&text);
        let _ = parse_documents(&format!("{ORDERS}\n{text}"));
    }

    #[test]
    fn a_damaged_document_never_panics_and_its_errors_have_places(
        at in any::<prop::sample::Index>(), cut in 0usize..6,
        insert in prop::sample::select(vec!["", " ", "\n", ":", "-", "{", "}", "[", "&a ", "*a", "!x ", "\t", "\"", "---\n", "é", "~", "0x", "<<: ", "? "]),
        again in any::<prop::sample::Index>(),
    ) {
        let mut text: Vec<char> = ORDERS.chars().collect();
        let start = at.index(text.len());
        let end = (start + cut).min(text.len());
        text.splice(start..end, insert.chars());
        let start = again.index(text.len());
        text.splice(start..start, insert.chars());
        let text: String = text.into_iter().collect();
        if let Err(errors) = parse_documents(&text) {
            for error in errors {
                prop_assert!((1..=text.lines().count() + 1).contains(&error.text_line), "{error:?}");
                prop_assert!(error.column > 0 && !error.message.is_empty(), "{error:?}");
            }
        }
    }
}

#[test]
fn the_documents_in_the_readme_are_valid() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let blocks: Vec<&str> = readme.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty(), "the README shows a document");
    for block in blocks {
        parse_documents(block).unwrap_or_else(|errors| panic!("{block}: {errors:?}"));
    }
}
