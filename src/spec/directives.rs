//! The directives of redis.conf: which the operator owns, which there are, what they take. Pure.
//!
//! A directive that Redis does not know, or a value that it does not take, makes redis-server refuse
//! to start: every node of the instance would die again and again. So both are refused in the spec.
//! The table is that of Redis 7.0 to 7.4; `tests/spec.rs` holds it against the redis-server at hand.

use super::error::nearest;
use super::values::{self, Form, LONG as BYTES_MAX, Takes};

use Form::{BufferLimits, Cpus, KeyspaceEvents, Locale, MemoryPart, OomScores, Percentiles, Save, Title, Warnings};
use Takes::{Bytes, Number, OneOf, Text, YesNo};

struct Directive {
    name: &'static str,
    takes: Takes,
    /// When a node is told of it.
    told: Told,
}

/// When a node is told of a directive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// At its start alone: it must be restarted for another value.
    AtStart,
    /// At its start, and while it runs.
    AnyTime,
    /// While it runs alone. Whether Redis takes it depends on its version, on how it was built, or on the
    /// machine: so it may refuse it, and not refuse to start.
    Running,
}

const fn live(name: &'static str, takes: Takes) -> Directive {
    Directive { name, takes, told: Told::AnyTime }
}

const fn running(name: &'static str, takes: Takes) -> Directive {
    Directive { name, takes, told: Told::Running }
}

const fn at_start(name: &'static str, takes: Takes) -> Directive {
    Directive { name, takes, told: Told::AtStart }
}

/// The longest value: keeps a launch and a status readable.
const VALUE_BYTES_MAX: usize = 1024;
const INT: i64 = i32::MAX as i64;
const LONG: i64 = i64::MAX;
/// Entries of a list, hash or set in one piece, which each command goes through: more, and Redis hangs.
const ENTRIES: Takes = Number(0, 1 << 20);
/// Bytes of one such piece.
const PIECE: Takes = Bytes(0, 1 << 20);
/// Of connections: fewer, and operators and replicas get none; more, and a table of them takes more memory
/// than a node has beside its data.
const CLIENTS: Takes = Number(256, 100_000);
/// Idle clients that are cut sooner would be operators.
const IDLE_S_MIN: i64 = 10;
/// Milliseconds after which a script is told of (BUSY), by which a busy master is told from one that hangs.
const BUSY: Takes = Number(100, 60_000);
/// Redis waits so long for its replicas when it is asked to end: longer, and Mesos kills it before.
const SHUTDOWN_S_MAX: i64 = 6;
/// A second between pings makes less a chain of lost links; more than an hour is none.
const REPL_TIMEOUT: Takes = Number(5, 3600);
const SHUTDOWN: Takes = OneOf(&["default", "save", "nosave", "now", "force"]);

/// What the operator owns, by name or (`-` at the end) by beginning: why, and what to use instead.
const OWNED: &[(&[&str], &str)] = &[
    (&["port"], "the port comes from Mesos with the offer"),
    (
        &["bind", "bind-source-addr", "protected-mode", "unixsocket", "unixsocketperm", "unixsocketgroup"],
        "a node listens on the address that its agent advertises",
    ),
    (&["replicaof", "slaveof"], "the operator decides who follows whom: use spec.replicas"),
    (&["maxmemory"], "use spec.memory"),
    (&["replica-announce-", "slave-announce-", "replica-announced"], "a node announces the address that Mesos gave it"),
    (&["replica-priority", "slave-priority"], "the operator chooses a new master by what the replicas have received"),
    (
        &["min-replicas-", "min-slaves-"],
        "the operator keeps it right through every change: use spec.durability and spec.failover.maxLag",
    ),
    (
        &["repl-ping-replica-period", "repl-ping-slave-period"],
        "the operator sets it, for by it is judged whether a replica still hears its master",
    ),
    (&["repl-diskless-sync-delay"], "the operator sets it to 0, so that a new replica is filled at once"),
    (
        &["dir", "dbfilename", "appendfilename", "appenddirname"],
        "files are kept in the task's sandbox, under names that the operator knows",
    ),
    (&["daemonize", "pidfile", "supervised"], "Mesos runs redis-server in the foreground and watches it"),
    (
        &["logfile", "syslog-enabled", "syslog-ident", "syslog-facility"],
        "the log is the task's standard output, in its sandbox",
    ),
    (
        &["requirepass", "masterauth", "masteruser", "primaryauth", "primaryuser", "aclfile", "user"],
        "the operator makes users and passwords, and a secret must not stand in a spec: use spec.auth",
    ),
    (&["rename-command"], "the operator needs the commands under their own names"),
    (&["cluster-"], "Redis Cluster is not supported yet"),
    (&["tls-"], "TLS is not supported yet"),
    (
        &["include", "loadmodule", "enable-module-command"],
        "a node starts from its spec alone, not from files that an agent may or may not have",
    ),
    (&["enable-protected-configs"], "it would let any client move the files that the operator keeps in the sandbox"),
    (
        &["enable-debug-command"],
        "it would let any client stop a node, or change what it has behind its replicas' backs",
    ),
    (&["key-load-delay", "rdb-key-save-delay"], "they only make Redis slow, for tests of Redis itself"),
    (&["sanitize-dump-payload"], "the operator has payloads of clients checked: a damaged one would end every node"),
    (&["acllog-max-len"], "the operator has none kept: anybody could fill a node's memory with refused names"),
    (&["socket-mark-id"], "it wants rights that a task does not have: Redis would not start"),
];

/// Values that Redis takes and a failover does not survive: what was promised of confirmed writes
/// would not be true.
const REFUSED: &[(&[&str], &str, &str)] = &[
    (
        &["replica-read-only", "slave-read-only"],
        "no",
        "what is written to a replica is on no other node: it is lost when the replica synchronises, and it would \
         become everybody's data when the replica is made the master",
    ),
    (
        &["replica-ignore-maxmemory", "slave-ignore-maxmemory"],
        "no",
        "a replica that evicts by itself lacks writes that it has confirmed: they would be lost when it is made the \
         master",
    ),
];

/// All others, in the order of the alphabet.
const DIRECTIVES: &[Directive] = &[
    live("acl-pubsub-default", OneOf(&["allchannels", "resetchannels"])),
    live("active-defrag-cycle-max", Number(1, 99)),
    live("active-defrag-cycle-min", Number(1, 99)),
    live("active-defrag-ignore-bytes", Bytes(1, BYTES_MAX)),
    live("active-defrag-max-scan-fields", Number(1, 1_000_000)),
    live("active-defrag-threshold-lower", Number(0, 1000)),
    live("active-defrag-threshold-upper", Number(0, 1000)),
    live("active-expire-effort", Number(1, 10)),
    running("activedefrag", YesNo),
    live("activerehashing", YesNo),
    at_start("always-show-logo", YesNo),
    live("aof-disable-auto-gc", YesNo),
    live("aof-load-truncated", YesNo),
    live("aof-rewrite-incremental-fsync", YesNo),
    live("aof-timestamp-enabled", YesNo),
    live("aof-use-rdb-preamble", YesNo),
    at_start("aof_rewrite_cpulist", Text(Cpus)),
    at_start("aof-rewrite-cpulist", Text(Cpus)),
    live("appendfsync", OneOf(&["everysec", "always", "no"])),
    live("appendonly", YesNo),
    live("auto-aof-rewrite-min-size", Bytes(0, BYTES_MAX)),
    live("auto-aof-rewrite-percentage", Number(0, INT)),
    at_start("bgsave_cpulist", Text(Cpus)),
    at_start("bgsave-cpulist", Text(Cpus)),
    at_start("bio_cpulist", Text(Cpus)),
    at_start("bio-cpulist", Text(Cpus)),
    live("busy-reply-threshold", BUSY),
    live("client-output-buffer-limit", Text(BufferLimits)),
    live("client-query-buffer-limit", Bytes(1 << 20, BYTES_MAX)),
    live("crash-log-enabled", YesNo),
    live("crash-memcheck-enabled", YesNo),
    at_start("databases", Number(1, 1024)),
    at_start("disable-thp", YesNo),
    live("dynamic-hz", YesNo),
    live("hash-max-listpack-entries", ENTRIES),
    live("hash-max-listpack-value", PIECE),
    live("hash-max-ziplist-entries", ENTRIES),
    live("hash-max-ziplist-value", PIECE),
    running("hide-user-data-from-log", YesNo),
    live("hll-sparse-max-bytes", PIECE),
    live("hz", Number(1, 500)),
    live("ignore-warnings", Text(Warnings)),
    at_start("io-threads", Number(1, 16)),
    at_start("io-threads-do-reads", YesNo),
    live("jemalloc-bg-thread", YesNo),
    live("latency-monitor-threshold", Number(0, LONG)),
    live("latency-tracking", YesNo),
    live("latency-tracking-info-percentiles", Text(Percentiles)),
    live("lazyfree-lazy-eviction", YesNo),
    live("lazyfree-lazy-expire", YesNo),
    live("lazyfree-lazy-server-del", YesNo),
    live("lazyfree-lazy-user-del", YesNo),
    live("lazyfree-lazy-user-flush", YesNo),
    live("lfu-decay-time", Number(0, INT)),
    live("lfu-log-factor", Number(0, INT)),
    live("list-compress-depth", Number(0, INT)),
    live("list-max-listpack-size", Number(-INT, INT)),
    live("list-max-ziplist-size", Number(-INT, INT)),
    running("locale-collate", Text(Locale)),
    live("loglevel", OneOf(&["debug", "verbose", "notice", "warning"])),
    live("lua-time-limit", BUSY),
    running("max-new-connections-per-cycle", Number(1, 1000)),
    running("max-new-tls-connections-per-cycle", Number(1, 1000)),
    running("maxclients", CLIENTS),
    live("maxmemory-clients", Text(MemoryPart)),
    live("maxmemory-eviction-tenacity", Number(0, 100)),
    live(
        "maxmemory-policy",
        OneOf(&[
            "volatile-lru",
            "volatile-lfu",
            "volatile-random",
            "volatile-ttl",
            "allkeys-lru",
            "allkeys-lfu",
            "allkeys-random",
            "noeviction",
        ]),
    ),
    live("maxmemory-samples", Number(1, 64)),
    live("no-appendfsync-on-rewrite", YesNo),
    live("notify-keyspace-events", Text(KeyspaceEvents)),
    running("oom-score-adj", OneOf(&["no", "yes", "relative", "absolute"])),
    running("oom-score-adj-values", Text(OomScores)),
    live("proc-title-template", Text(Title)),
    live("propagation-error-behavior", OneOf(&["ignore", "panic", "panic-on-replicas"])),
    live("proto-max-bulk-len", Bytes(1 << 20, BYTES_MAX)),
    live("rdb-del-sync-files", YesNo),
    live("rdb-save-incremental-fsync", YesNo),
    at_start("rdbchecksum", YesNo),
    live("rdbcompression", YesNo),
    live("repl-backlog-size", Bytes(16 << 10, BYTES_MAX)),
    live("repl-backlog-ttl", Number(0, INT)),
    live("repl-disable-tcp-nodelay", YesNo),
    live("repl-diskless-load", OneOf(&["disabled", "on-empty-db", "swapdb"])),
    live("repl-diskless-sync", YesNo),
    live("repl-diskless-sync-max-replicas", Number(0, INT)),
    live("repl-timeout", REPL_TIMEOUT),
    live("replica-ignore-disk-write-errors", YesNo),
    live("replica-ignore-maxmemory", YesNo),
    live("replica-lazy-flush", YesNo),
    live("replica-read-only", YesNo),
    live("replica-serve-stale-data", YesNo),
    live("save", Text(Save)),
    at_start("server_cpulist", Text(Cpus)),
    at_start("server-cpulist", Text(Cpus)),
    live("set-max-intset-entries", ENTRIES),
    running("set-max-listpack-entries", ENTRIES),
    running("set-max-listpack-value", PIECE),
    at_start("set-proc-title", YesNo),
    live("shutdown-on-sigint", SHUTDOWN),
    live("shutdown-on-sigterm", SHUTDOWN),
    live("shutdown-timeout", Number(0, SHUTDOWN_S_MAX)),
    live("slave-ignore-maxmemory", YesNo),
    live("slave-lazy-flush", YesNo),
    live("slave-read-only", YesNo),
    live("slave-serve-stale-data", YesNo),
    live("slowlog-log-slower-than", Number(-1, LONG)),
    live("slowlog-max-len", Number(0, 100_000)),
    live("stop-writes-on-bgsave-error", YesNo),
    live("stream-node-max-bytes", PIECE),
    live("stream-node-max-entries", ENTRIES),
    at_start("tcp-backlog", Number(16, 65_535)),
    live("tcp-keepalive", Number(0, 32_767)),
    live("timeout", Number(0, INT)),
    live("tracking-table-max-keys", Number(0, 100_000_000)),
    live("zset-max-listpack-entries", ENTRIES),
    live("zset-max-listpack-value", PIECE),
    live("zset-max-ziplist-entries", ENTRIES),
    live("zset-max-ziplist-value", PIECE),
];

fn find(name: &str) -> Option<&'static Directive> {
    DIRECTIVES.iter().find(|directive| directive.name == name)
}

/// Whether Redis takes the directive by CONFIG SET while it runs; otherwise its node must be
/// restarted to take it.
pub fn live_config(name: &str) -> bool {
    find(name).is_some_and(|directive| directive.told != Told::AtStart)
}

/// Whether a node is told of it at its start.
pub fn start_config(name: &str) -> bool {
    find(name).is_some_and(|directive| directive.told != Told::Running)
}

/// The name that every version knows: 7.0 knows these with underscores only.
pub fn start_name(name: &str) -> String {
    if name.ends_with("-cpulist") { name.replace('-', "_") } else { name.to_string() }
}

/// A value as Redis takes it on a line of redis.conf: several words, or one, which may be empty.
pub fn config_words(name: &str, value: &str) -> Vec<String> {
    find(name).map_or_else(|| vec![value.to_string()], |directive| values::words(&directive.takes, value))
}

/// Whether a node that was told this value, and says that it has that one, has what was meant.
pub fn reads_as(name: &str, value: &str, found: &str) -> bool {
    // What the operator sets of its own are numbers.
    find(name).map_or_else(
        || values::reads_as(&Bytes(0, BYTES_MAX), value, found),
        |directive| values::reads_as(&directive.takes, value, found),
    )
}

/// Another name of the same directive, if both are given, is a contradiction.
pub(super) fn canonical(name: &str) -> String {
    match name {
        "lua-time-limit" => "busy-reply-threshold".to_string(),
        name => name.replace('_', "-").replace("slave", "replica").replace("ziplist", "listpack"),
    }
}

/// The directives that a spec may set.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    DIRECTIVES.iter().map(|directive| directive.name)
}

/// Why the operator keeps this directive to itself, if it does.
fn owned(name: &str) -> Option<&'static str> {
    let matches = |pattern: &str| if pattern.ends_with('-') { name.starts_with(pattern) } else { name == pattern };
    OWNED.iter().find(|(patterns, _)| patterns.iter().any(|pattern| matches(pattern))).map(|(_, why)| *why)
}

/// Why this value of a directive is refused, if it is.
fn refused(name: &str, value: &str) -> Option<&'static str> {
    let is =
        |(names, refused, _): &&(&[&str], &str, &str)| names.contains(&name) && value.eq_ignore_ascii_case(refused);
    REFUSED.iter().find(is).map(|(_, _, why)| *why)
}

/// What is wrong with one line of `redis.config`.
pub(super) fn check(name: &str, value: &str) -> Result<(), String> {
    if let Some(why) = owned(&name.to_ascii_lowercase()) {
        return Err(format!("{name} belongs to the operator: {why}"));
    }
    let Some(directive) = find(name) else {
        let meant = nearest(name, names()).map_or(String::new(), |near| format!(": did you mean {near}?"));
        return Err(format!("{name:?} is not a directive of Redis 7{meant}"));
    };
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!("the value has {} bytes: allowed are {VALUE_BYTES_MAX}", value.len()));
    }
    if let Some(control) = value.chars().find(|c| c.is_control()) {
        return Err(format!("the value has the control character {control:?}: none is allowed"));
    }
    if let Some(why) = refused(name, value) {
        return Err(format!("{value:?} is not allowed: {why}"));
    }
    if name == "timeout" && value.parse().is_ok_and(|s: i64| (1..IDLE_S_MIN).contains(&s)) {
        return Err(format!(
            "{value:?} is not 0 or {IDLE_S_MIN} seconds and more: operators' connections would be cut"
        ));
    }
    values::check(&directive.takes, value).map_err(|allowed| format!("{value:?} is not {allowed}"))
}
