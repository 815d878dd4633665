//! Redis' INFO as an [`Answer`]. Pure.
//!
//! Works with the fields of Redis 6.0 to 7.4. Nothing in a reply can do more harm than to be no
//! answer: unknown lines are skipped, numbers that are none count as 0.

use crate::model::{Address, Answer, Gauges, Role};
use crate::plain::is_name;

/// The sections that are asked for; one INFO each, because one INFO of several sections came with
/// Redis 7.0.
pub(super) const SECTIONS: [&str; 7] =
    ["replication", "memory", "persistence", "keyspace", "server", "clients", "stats"];

/// A link that has been down for longer than this (in seconds, about 30 years) never was up: Redis
/// 6.0 counts from the epoch then. Later ones say -1.
const NEVER_S: i64 = 1_000_000_000;

/// The most replicas of one master that are looked at: an instance has fewer.
const REPLICAS_MAX: usize = 256;

const FIELDS_COUNT: usize = 29;

/// The fields that are looked at, beside `db0`, `db1`, ...: a tenth of all; sorted, as they are searched for.
const FIELDS: [&str; FIELDS_COUNT] = [
    "aof_last_write_status",
    "connected_clients",
    "connected_slaves",
    "evicted_keys",
    "expired_keys",
    "keyspace_hits",
    "keyspace_misses",
    "loading",
    "master_host",
    "master_last_io_seconds_ago",
    "master_link_down_since_seconds",
    "master_link_status",
    "master_port",
    "master_repl_offset",
    "master_replid",
    "master_replid2",
    "master_sync_in_progress",
    "maxclients",
    "maxmemory",
    "mem_clients_normal",
    "mem_not_counted_for_evict",
    "rdb_last_bgsave_status",
    "rdb_last_save_time",
    "role",
    "second_repl_offset",
    "slave_repl_offset",
    "total_commands_processed",
    "uptime_in_seconds",
    "used_memory",
];

/// The fields of one or more sections, as far as they are looked at. A reply may have any number of lines, and
/// takes no more memory and time for that.
pub(super) struct Info<'a> {
    /// In the order of [`FIELDS`]; what is said twice is as it was said last.
    fields: [Option<&'a str>; FIELDS_COUNT],
    /// Summed over the databases: `db0:keys=12,expires=0,avg_ttl=0`.
    keys: u64,
    /// Those that follow it: `slave0:ip=...`.
    replicas: Vec<Address>,
}

impl<'a> Info<'a> {
    /// Takes `name:value` lines; all others (headings, rubbish, values that no Redis has) are skipped.
    pub fn parse(text: &'a str) -> Self {
        let mut info = Info { fields: [None; FIELDS_COUNT], keys: 0, replicas: Vec::new() };
        let lines = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        for (name, value) in lines.filter(|(_, value)| is_name(value)) {
            if let Ok(field) = FIELDS.binary_search(&name) {
                info.fields[field] = Some(value);
            } else if is_database(name) {
                info.keys = info.keys.saturating_add(keys(value).unwrap_or(0));
            } else if is_replica(name) && info.replicas.len() < REPLICAS_MAX {
                info.replicas.extend(replica(value));
            }
        }
        info
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.fields[FIELDS.binary_search(&name).ok()?]
    }

    fn number<T: std::str::FromStr + Default>(&self, name: &str) -> T {
        self.text(name).and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    /// What the probe wants to know. `None`: no Redis master or replica says this.
    pub fn answer(&self) -> Option<Answer> {
        let role = match self.text("role")? {
            "master" => Role::Master,
            "slave" => Role::Replica,
            _ => return None,
        };
        let follows = match role {
            Role::Master => None,
            Role::Replica => Some(self.follows()?),
        };
        let (link_up, offset) = match role {
            Role::Master => (true, "master_repl_offset"),
            Role::Replica => (self.text("master_link_status")? == "up", "slave_repl_offset"),
        };
        Some(Answer {
            role,
            follows,
            link_up,
            syncing: role == Role::Replica && self.text("master_sync_in_progress") == Some("1"),
            loading: self.text("loading") == Some("1"),
            offset: self.number(offset),
            replid: self.text("master_replid").unwrap_or_default().to_string(),
            replid2: self.text("master_replid2").unwrap_or_default().to_string(),
            parted_at: self.text("second_repl_offset").and_then(|text| text.parse::<u64>().ok()?.checked_sub(1)),
            last_io_s: self.text("master_last_io_seconds_ago").and_then(|text| text.parse().ok()),
            used_memory: self.number("used_memory"),
            max_memory: self.number("maxmemory"),
            keys: self.keys,
            connected_replicas: self.number("connected_slaves"),
            replicas: self.replicas.clone(),
            disk_fails: ["rdb_last_bgsave_status", "aof_last_write_status"]
                .iter()
                .any(|field| self.text(field) == Some("err")),
            gauges: self.gauges(),
        })
    }

    fn gauges(&self) -> Gauges {
        Gauges {
            uptime_s: self.number("uptime_in_seconds"),
            clients: self.number("connected_clients"),
            max_clients: self.number("maxclients"),
            clients_memory: self.number("mem_clients_normal"),
            uncounted_memory: self.number("mem_not_counted_for_evict"),
            commands: self.number("total_commands_processed"),
            hits: self.number("keyspace_hits"),
            misses: self.number("keyspace_misses"),
            evicted: self.number("evicted_keys"),
            expired: self.number("expired_keys"),
            link_down_s: self.link_down_s().unwrap_or_default(),
            last_io_s: self.number("master_last_io_seconds_ago"),
            last_save_s: self.number("rdb_last_save_time"),
        }
    }

    /// How long the link to the master has been down; none: it is up, or never was.
    fn link_down_s(&self) -> Option<u64> {
        let down_s: i64 = self.text("master_link_down_since_seconds")?.parse().ok()?;
        u64::try_from(down_s).ok().filter(|_| down_s <= NEVER_S)
    }

    /// A replica that never had a link to any master since it started.
    pub fn never_synced(&self) -> bool {
        let said = self.text("master_link_down_since_seconds").is_some();
        said && self.text("master_link_status") == Some("down") && self.link_down_s().is_none()
    }

    fn follows(&self) -> Option<Address> {
        Some(Address { host: self.text("master_host")?.to_string(), port: self.text("master_port")?.parse().ok()? })
    }
}

/// `ip=10.0.0.8,port=31008,state=online,offset=4711,lag=0`
fn replica(value: &str) -> Option<Address> {
    let field = |name: &str| value.split(',').find_map(|field| field.strip_prefix(name));
    Some(Address { host: field("ip=")?.to_string(), port: field("port=")?.parse().ok()? })
}

fn keys(database: &str) -> Option<u64> {
    database.strip_prefix("keys=")?.split(',').next()?.parse().ok()
}

fn is_database(name: &str) -> bool {
    is_numbered(name, "db")
}

fn is_replica(name: &str) -> bool {
    is_numbered(name, "slave")
}

fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn info_is_read_in_time_that_grows_with_its_length_and_texts_of_a_node_come_in_plain_or_not_at_all() {
        for (what, line) in [
            ("fields", "role:master\r\n"),
            ("databases", "db0:keys=1,expires=0\r\n"),
            ("rubbish", "x\n"),
            ("blank lines", "\n"),
            ("colons", "::::::"),
        ] {
            let text = |bytes: usize| line.repeat(bytes / line.len());
            crate::linear::assert_linear(what, 100_000, text, |text| drop(Info::parse(text).answer()));
        }
        let of = |host: &str| {
            let text = format!("role:slave\r\nmaster_host:{host}\r\nmaster_port:1\r\nmaster_link_status:up\r\n");
            Info::parse(&text).answer().and_then(|answer| answer.follows).map(|follows| follows.host)
        };
        assert_eq!(of("10.0.0.7"), Some("10.0.0.7".to_string()));
        assert_eq!((of("\u{1b}[2J"), of(&"h".repeat(300))), (None, None));
    }

    const REPLICA: &str = "# Replication\r\nrole:slave\r\nmaster_host:10.0.0.7\r\nmaster_port:31007\r\n\
        master_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\nmaster_sync_in_progress:1\r\n\
        slave_read_repl_offset:1\r\nslave_repl_offset:4711\r\nmaster_link_down_since_seconds:-1\r\n\
        connected_slaves:0\r\nmaster_replid:870e49b4\r\nmaster_repl_offset:0\r\n# Memory\r\nused_memory:939152\r\n\
        used_memory_human:917.14K\r\nmaxmemory:268435456\r\nmem_clients_normal:8000\r\n# Persistence\r\nloading:1\r\nasync_loading:0\r\n\
        rdb_last_save_time:1763760000\r\n# Server\r\nuptime_in_seconds:61\r\n# Clients\r\nconnected_clients:2\r\n\
        # Stats\r\ntotal_commands_processed:7\r\nkeyspace_hits:5\r\nkeyspace_misses:1\r\nevicted_keys:3\r\n\
        expired_keys:4\r\n# Keyspace\r\ndb0:keys=12,expires=0,avg_ttl=0\r\ndb11:keys=3,expires=1,avg_ttl=5\r\ndbx:keys=100\r\n";

    #[test]
    fn a_replica_is_read_in_full() {
        let answer = Info::parse(REPLICA).answer().unwrap();
        let expected = Answer {
            role: Role::Replica,
            follows: Some(Address { host: "10.0.0.7".into(), port: 31007 }),
            link_up: false,
            syncing: true,
            loading: true,
            offset: 4711,
            replid: "870e49b4".into(),
            replid2: String::new(),
            parted_at: None,
            last_io_s: None,
            used_memory: 939_152,
            max_memory: 268_435_456,
            keys: 15,
            connected_replicas: 0,
            replicas: Vec::new(),
            disk_fails: false,
            gauges: Gauges {
                uptime_s: 61,
                clients: 2,
                max_clients: 0,
                clients_memory: 8000,
                uncounted_memory: 0,
                commands: 7,
                hits: 5,
                misses: 1,
                evicted: 3,
                expired: 4,
                link_down_s: 0,
                last_io_s: 0,
                last_save_s: 1_763_760_000,
            },
        };
        assert_eq!(answer, expected);
    }

    #[test]
    fn a_master_follows_nobody_and_its_link_counts_as_up() {
        let text = "role:master\nconnected_slaves:2\nmaster_replid:ab\nmaster_repl_offset:99\nslave_repl_offset:1\n";
        let answer = Info::parse(text).answer().unwrap();
        assert_eq!((answer.role, answer.follows, answer.link_up), (Role::Master, None, true));
        assert_eq!((answer.offset, answer.connected_replicas), (99, 2));
    }

    #[test]
    fn what_is_neither_master_nor_replica_is_no_answer() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\nServer: x\r\n",
            "role:sentinel\n",
            "role:slave\n",
            "role:slave\nmaster_host:a\nmaster_port:99999\nmaster_link_status:up\n",
        ] {
            assert_eq!(Info::parse(text).answer(), None, "{text:?}");
        }
    }

    #[test]
    fn a_link_that_was_up_once_is_not_one_that_never_was() {
        let never = |status: &str, down: &str| {
            Info::parse(&format!("master_link_status:{status}\nmaster_link_down_since_seconds:{down}\n")).never_synced()
        };
        assert!(never("down", "-1"));
        assert!(never("down", "1795255511"), "Redis 6.0 counts from the epoch");
        assert!(!never("down", "0"));
        assert!(!never("down", "86400"));
        assert!(!never("up", "-1"));
        assert!(!Info::parse("master_link_status:down\n").never_synced(), "what is not said is not assumed");
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(text in ".{0,200}") {
            let _ = Info::parse(&text).answer();
        }

        #[test]
        fn damaged_answers_never_panic(cuts in prop::collection::vec((0..REPLICA.len(), any::<char>()), 0..12)) {
            let mut chars: Vec<char> = REPLICA.chars().collect();
            for (at, c) in cuts {
                chars[at] = c;
            }
            let text: String = chars.into_iter().collect();
            if let Some(answer) = Info::parse(&text).answer() {
                prop_assert_eq!(answer.follows.is_some(), answer.role == Role::Replica);
            }
        }
    }
}
