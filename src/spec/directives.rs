//! The directives of redis.conf: which the operator owns, which there are, what they take. Pure.
//!
//! A directive that Redis does not know, or a value that it does not take, makes redis-server refuse
//! to start: every node of the instance would die again and again. So both are refused in the spec.
//! The table is that of Redis 7.0 to 7.4; `tests/spec.rs` holds it against the redis-server at hand.

use super::error::nearest;

/// What a directive takes.
enum Takes {
    /// `yes` or `no`.
    YesNo,
    /// A whole number.
    Number(i64, i64),
    /// Bytes, with `k`, `kb`, `m`, `mb`, `g` or `gb`; at least this many.
    Bytes(u64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Left to Redis.
    Text,
}

use Takes::{Bytes, Number, OneOf, Text, YesNo};

struct Directive {
    name: &'static str,
    takes: Takes,
    /// CONFIG SET takes it while Redis runs.
    live: bool,
}

const fn live(name: &'static str, takes: Takes) -> Directive {
    Directive { name, takes, live: true }
}

const fn at_start(name: &'static str, takes: Takes) -> Directive {
    Directive { name, takes, live: false }
}

/// The longest value: keeps a launch and a status readable.
const VALUE_BYTES_MAX: usize = 1024;
const INT: i64 = i32::MAX as i64;
const LONG: i64 = i64::MAX;
const SHUTDOWN: Takes = OneOf(&["default", "save", "nosave", "now", "force"]);
const DEBUG: Takes = OneOf(&["no", "yes", "local"]);

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
        "passwords and users are not supported yet, and a secret must not stand in a spec",
    ),
    (&["rename-command"], "the operator needs the commands under their own names"),
    (&["cluster-"], "Redis Cluster is not supported yet"),
    (&["tls-"], "TLS is not supported yet"),
    (
        &["include", "loadmodule", "enable-module-command"],
        "a node starts from its spec alone, not from files that an agent may or may not have",
    ),
    (&["enable-protected-configs"], "it would let any client move the files that the operator keeps in the sandbox"),
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
    live("acllog-max-len", Number(0, LONG)),
    live("active-defrag-cycle-max", Number(1, 99)),
    live("active-defrag-cycle-min", Number(1, 99)),
    live("active-defrag-ignore-bytes", Bytes(1)),
    live("active-defrag-max-scan-fields", Number(1, LONG)),
    live("active-defrag-threshold-lower", Number(0, 1000)),
    live("active-defrag-threshold-upper", Number(0, 1000)),
    live("active-expire-effort", Number(1, 10)),
    live("activedefrag", YesNo),
    live("activerehashing", YesNo),
    at_start("always-show-logo", YesNo),
    live("aof-disable-auto-gc", YesNo),
    live("aof-load-truncated", YesNo),
    live("aof-rewrite-incremental-fsync", YesNo),
    live("aof-timestamp-enabled", YesNo),
    live("aof-use-rdb-preamble", YesNo),
    at_start("aof_rewrite_cpulist", Text),
    at_start("aof-rewrite-cpulist", Text),
    live("appendfsync", OneOf(&["everysec", "always", "no"])),
    live("appendonly", YesNo),
    live("auto-aof-rewrite-min-size", Bytes(0)),
    live("auto-aof-rewrite-percentage", Number(0, INT)),
    at_start("bgsave_cpulist", Text),
    at_start("bgsave-cpulist", Text),
    at_start("bio_cpulist", Text),
    at_start("bio-cpulist", Text),
    live("busy-reply-threshold", Number(0, LONG)),
    live("client-output-buffer-limit", Text),
    live("client-query-buffer-limit", Bytes(1 << 20)),
    live("crash-log-enabled", YesNo),
    live("crash-memcheck-enabled", YesNo),
    at_start("databases", Number(1, INT)),
    at_start("disable-thp", YesNo),
    live("dynamic-hz", YesNo),
    at_start("enable-debug-command", DEBUG),
    live("hash-max-listpack-entries", Number(0, LONG)),
    live("hash-max-listpack-value", Bytes(0)),
    live("hash-max-ziplist-entries", Number(0, LONG)),
    live("hash-max-ziplist-value", Bytes(0)),
    live("hide-user-data-from-log", YesNo),
    live("hll-sparse-max-bytes", Bytes(0)),
    live("hz", Number(0, INT)),
    live("ignore-warnings", Text),
    at_start("io-threads", Number(1, 128)),
    at_start("io-threads-do-reads", YesNo),
    live("jemalloc-bg-thread", YesNo),
    live("key-load-delay", Number(-INT, INT)),
    live("latency-monitor-threshold", Number(0, LONG)),
    live("latency-tracking", YesNo),
    live("latency-tracking-info-percentiles", Text),
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
    live("locale-collate", Text),
    live("loglevel", OneOf(&["debug", "verbose", "notice", "warning", "nothing"])),
    live("lua-time-limit", Number(0, LONG)),
    live("max-new-connections-per-cycle", Number(1, 1000)),
    live("max-new-tls-connections-per-cycle", Number(1, 1000)),
    live("maxclients", Number(1, u32::MAX as i64)),
    live("maxmemory-clients", Text),
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
    live("maxmemory-samples", Number(1, INT)),
    live("no-appendfsync-on-rewrite", YesNo),
    live("notify-keyspace-events", Text),
    live("oom-score-adj", OneOf(&["no", "yes", "relative", "absolute"])),
    live("oom-score-adj-values", Text),
    live("proc-title-template", Text),
    live("propagation-error-behavior", OneOf(&["ignore", "panic", "panic-on-replicas"])),
    live("proto-max-bulk-len", Bytes(1 << 20)),
    live("rdb-del-sync-files", YesNo),
    live("rdb-key-save-delay", Number(-INT, INT)),
    live("rdb-save-incremental-fsync", YesNo),
    at_start("rdbchecksum", YesNo),
    live("rdbcompression", YesNo),
    live("repl-backlog-size", Bytes(1)),
    live("repl-backlog-ttl", Number(0, LONG)),
    live("repl-disable-tcp-nodelay", YesNo),
    live("repl-diskless-load", OneOf(&["disabled", "on-empty-db", "swapdb"])),
    live("repl-diskless-sync", YesNo),
    live("repl-diskless-sync-max-replicas", Number(0, INT)),
    live("repl-timeout", Number(1, INT)),
    live("replica-ignore-disk-write-errors", YesNo),
    live("replica-ignore-maxmemory", YesNo),
    live("replica-lazy-flush", YesNo),
    live("replica-read-only", YesNo),
    live("replica-serve-stale-data", YesNo),
    live("sanitize-dump-payload", OneOf(&["no", "yes", "clients"])),
    live("save", Text),
    at_start("server_cpulist", Text),
    at_start("server-cpulist", Text),
    live("set-max-intset-entries", Number(0, LONG)),
    live("set-max-listpack-entries", Number(0, LONG)),
    live("set-max-listpack-value", Bytes(0)),
    at_start("set-proc-title", YesNo),
    live("shutdown-on-sigint", SHUTDOWN),
    live("shutdown-on-sigterm", SHUTDOWN),
    live("shutdown-timeout", Number(0, INT)),
    live("slave-ignore-maxmemory", YesNo),
    live("slave-lazy-flush", YesNo),
    live("slave-read-only", YesNo),
    live("slave-serve-stale-data", YesNo),
    live("slowlog-log-slower-than", Number(-1, LONG)),
    live("slowlog-max-len", Number(0, LONG)),
    at_start("socket-mark-id", Number(0, u32::MAX as i64)),
    live("stop-writes-on-bgsave-error", YesNo),
    live("stream-node-max-bytes", Bytes(0)),
    live("stream-node-max-entries", Number(0, LONG)),
    at_start("tcp-backlog", Number(0, INT)),
    live("tcp-keepalive", Number(0, INT)),
    live("timeout", Number(0, INT)),
    live("tracking-table-max-keys", Number(0, LONG)),
    live("zset-max-listpack-entries", Number(0, LONG)),
    live("zset-max-listpack-value", Bytes(0)),
    live("zset-max-ziplist-entries", Number(0, LONG)),
    live("zset-max-ziplist-value", Bytes(0)),
];

fn find(name: &str) -> Option<&'static Directive> {
    DIRECTIVES.iter().find(|directive| directive.name == name)
}

/// Whether Redis takes the directive by CONFIG SET while it runs; otherwise its node must be
/// restarted to take it.
pub fn live_config(name: &str) -> bool {
    find(name).is_some_and(|directive| directive.live)
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
    takes(&directive.takes, value).map_err(|allowed| format!("{value:?} is not {allowed}"))
}

fn takes(takes: &Takes, value: &str) -> Result<(), String> {
    let is = |word: &&str| word.eq_ignore_ascii_case(value);
    match takes {
        YesNo if !["yes", "no"].iter().any(is) => Err("yes or no".to_string()),
        Number(min, max) if !value.parse().is_ok_and(|n: i64| (*min..=*max).contains(&n)) => {
            Err(format!("a whole number from {min} to {max}"))
        }
        Bytes(min) if redis_bytes(value).is_none_or(|n| n < *min) => {
            Err(format!("a number of bytes, {min} or more, as Redis writes them: 64mb, 1gb, 4096"))
        }
        OneOf(words) if !words.iter().any(is) => Err(format!("one of {}", words.join(", "))),
        _ => Ok(()),
    }
}

/// Redis' own notation: `1k` is 1000 and `1kb` 1024 bytes.
fn redis_bytes(value: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("kb", 1 << 10),
        ("mb", 1 << 20),
        ("gb", 1 << 30),
        ("k", 1000),
        ("m", 1_000_000),
        ("g", 1_000_000_000),
        ("b", 1),
        ("", 1),
    ];
    let value = value.to_ascii_lowercase();
    let (digits, unit) = UNITS.iter().find_map(|(suffix, unit)| Some((value.strip_suffix(suffix)?, *unit)))?;
    let number: u64 = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()?;
    number.checked_mul(unit)
}
