//! A node's launch: its record, its task and the redis-server command line. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::failover::redis::{CUT_CLIENTS, MASTER_PASSWORD, OPEN, RIGHTS, USERS, generations};
use crate::model::{Address, InstanceRecord, Launch, NodeRecord, Passwords, TaskRecord, Timestamp, node_name, task_id};
use crate::passwords::{self, Owner, Password, User, acl, mark_acl};
use crate::placement::Placement;
use crate::reconcile::draft::PlanSettings;
use crate::spec::{self, InstanceSpec};

/// Time between SIGTERM and SIGKILL. A master waits on SIGTERM for its replicas to catch up, at
/// most as long as its `shutdown-timeout`, which we set to less.
const KILL_GRACE_MS: u64 = 8000;
/// Redis' `shutdown-timeout`, in seconds.
const SHUTDOWN_TIMEOUT_S: u64 = 5;
/// What a replica logs in with until it is told its password, which no command line may hold. A wrong password makes
/// redis-server try again after a second; without any it is refused later in the handshake, and tries again at once:
/// some such replicas take all processors of a machine, and the operator that would end it gets none.
const NOT_TOLD_YET: &str = "not-told-yet";

/// Settings that the operator owns and may change while a node runs.
///
/// `min-replicas-*`: a master that no replica hears any more stops taking writes by itself, so that
/// another can take its place though nobody can ask it. A ping each second lets a replica tell a
/// silent master from an idle one.
///
/// What a client hands to RESTORE is checked: a damaged one ends the process that reads it, and those of the
/// replicas that have it. Refused logins are not kept: their names may be as long as anybody likes, and no
/// client can be cut to free what they take.
///
/// Users are recorded by the generations of their passwords and the revision of a secret of the user's own,
/// and made of these where they are used.
pub fn owned_settings(spec: &InstanceSpec, auth: Option<&Passwords>, secret: Option<i64>) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::from([
        (MIN_REPLICAS.to_string(), spec.confirmations().to_string()),
        (MAX_LAG.to_string(), spec.failover.max_lag.0.div_ceil(1000).to_string()),
        (PING_PERIOD.to_string(), "1".to_string()),
        (CHECKED_PAYLOADS.to_string(), "clients".to_string()),
        (ACL_LOG.to_string(), "0".to_string()),
    ]);
    if let Some(auth) = auth {
        let generations: Vec<String> = auth.generations().iter().map(ToString::to_string).collect();
        let clients = match spec.secret() {
            Some(_) => format!(";{}", secret.unwrap_or(0)),
            None if auth.open => format!(";{OPEN}"),
            None => String::new(),
        };
        settings.insert(USERS.to_string(), generations.join(",") + &clients);
        settings.insert(RIGHTS.to_string(), passwords::rights());
        if let Some(generation) = auth.cut_before.filter(|_| auth.former_until.is_none()) {
            settings.insert(CUT_CLIENTS.to_string(), generation.to_string());
        }
    }
    settings
}

/// So many replicas must be in sight of a master that takes writes.
pub const MIN_REPLICAS: &str = "min-replicas-to-write";
const MAX_LAG: &str = "min-replicas-max-lag";
const PING_PERIOD: &str = "repl-ping-replica-period";
const CHECKED_PAYLOADS: &str = "sanitize-dump-payload";
const ACL_LOG: &str = "acllog-max-len";

/// By which password the node lets replicas in: the newest that it is known to have. None: it wants none.
pub fn master_password(node: &NodeRecord) -> Option<String> {
    let newest = generations(node.owned.get(USERS)?).into_iter().max()?;
    Some(if node.marked { format!("{newest}@{}", node.task_id) } else { newest.to_string() })
}

/// Whether the setting is one that the operator owns.
pub fn is_owned(key: &str) -> bool {
    let owned =
        [MIN_REPLICAS, MAX_LAG, PING_PERIOD, CHECKED_PAYLOADS, ACL_LOG, USERS, RIGHTS, MASTER_PASSWORD, CUT_CLIENTS];
    owned.contains(&key)
}

/// The record of a node that is placed there.
pub fn node_record(
    instance: &str,
    record: &InstanceRecord,
    ordinal: u32,
    at: &Placement,
    now: Timestamp,
) -> NodeRecord {
    let spec = &record.spec;
    // A task is seen by many, and passwords that people choose are found from their hashes: the node is told
    // of them when it runs.
    let owned = owned_settings(spec, record.auth.as_ref(), None);
    NodeRecord {
        instance: instance.to_string(),
        ordinal,
        task_id: task_id(instance, ordinal, now),
        agent_id: at.agent_id.clone(),
        hostname: at.hostname.clone(),
        address: Address { host: at.host.clone(), port: at.port },
        attributes: at.attributes.clone(),
        max_memory: spec.memory.0,
        task_mem_mib: spec.task_mem_mib(),
        cpus_milli: spec.cpus.0,
        image: spec.redis.image.clone(),
        // The rest it is told when it runs: it may refuse that, and not refuse to start.
        config: spec
            .redis
            .config
            .iter()
            .filter(|(key, _)| spec::start_config(key))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        launched_at: now,
        task: TaskRecord::Launching,
        owned: Arc::new(owned),
        joined: true,
        deposed: None,
        marked: record.auth.is_some(),
        stop: None,
    }
}

/// The launch of a recorded node. Its role at boot comes from the record: the master (`follows` is
/// none) starts empty, every other node starts as a replica of the recorded master.
pub fn launch(
    node: &NodeRecord,
    at: &Placement,
    record: &InstanceRecord,
    follows: Option<&Address>,
    settings: &PlanSettings,
) -> Launch {
    let labels = BTreeMap::from([
        ("redisctl/instance".to_string(), node.instance.clone()),
        ("redisctl/node".to_string(), node.name()),
        ("redisctl/epoch".to_string(), record.epoch.to_string()),
        ("redisctl/boot-role".to_string(), if follows.is_some() { "replica" } else { "master" }.to_string()),
    ]);
    Launch {
        task_id: node.task_id.clone(),
        name: node_name(&node.instance, node.ordinal),
        agent_id: node.agent_id.clone(),
        pieces: at.pieces.clone(),
        argv: argv(node, record, follows, settings),
        image: node.image.clone(),
        grace_ms: KILL_GRACE_MS,
        labels,
    }
}

fn argv(node: &NodeRecord, record: &InstanceRecord, follows: Option<&Address>, settings: &PlanSettings) -> Vec<String> {
    let Address { host, port } = &node.address;
    let mut argv = vec![settings.redis_server.clone()];
    let mut add = |key: &str, values: &[&str]| {
        argv.push(format!("--{key}"));
        argv.extend(values.iter().map(ToString::to_string));
    };
    add("port", &[&port.to_string()]);
    if host == "127.0.0.1" {
        add("bind", &[host]);
    } else {
        add("bind", &[host, "127.0.0.1"]); // The agent's own checks come from the loopback.
    }
    add("protected-mode", &["no"]);
    add("replica-announce-ip", &[host]);
    add("replica-announce-port", &[&port.to_string()]);
    add("maxmemory", &[&node.max_memory.to_string()]);
    add("shutdown-timeout", &[&SHUTDOWN_TIMEOUT_S.to_string()]);
    // A replica that comes is served at once: by default the first waits 5 s for others.
    add("repl-diskless-sync", &["yes"]);
    add("repl-diskless-sync-delay", &["0"]);
    for (key, value) in node.owned.iter().filter(|(key, _)| ![USERS, RIGHTS, CUT_CLIENTS].contains(&key.as_str())) {
        add(key, &[value]);
    }
    for user in users(node, record, settings) {
        add("user", &user.iter().map(String::as_str).collect::<Vec<_>>());
    }
    // Data lives in memory and in replicas; a sandbox goes with its task. Users can turn both on.
    for (key, value) in [("save", ""), ("appendonly", "no")] {
        if !node.config.contains_key(key) {
            add(key, &[value]);
        }
    }
    argv.extend(node.config.iter().filter(|(key, _)| spec::start_config(key)).map(|(key, value)| line(key, value)));
    if let Some(master) = follows {
        if node.owned.contains_key(USERS) {
            argv.extend(["--masteruser", User::Replica.name(), "--masterauth", NOT_TOLD_YET].map(str::to_string));
        }
        argv.extend(["--replicaof".to_string(), master.host.clone(), master.port.to_string()]);
    }
    argv
}

/// A directive of a user as one argument. redis-server makes a line of redis.conf of its arguments, and takes
/// each that begins with `--` for the next directive, wherever it stands: so no value is an argument of its own,
/// and each of its words is in quotes.
fn line(key: &str, value: &str) -> String {
    let quoted = |word: String| {
        let escaped: String = word
            .chars()
            .map(|c| match c {
                '"' | '\\' => format!("\\{c}"),
                c if c.is_ascii_control() => format!("\\x{:02x}", u32::from(c)),
                c => c.to_string(),
            })
            .collect();
        format!("\"{escaped}\"")
    };
    let words: Vec<String> = spec::config_words(key, value).into_iter().map(quoted).collect();
    format!("--{} {}", spec::start_name(key), words.join(" "))
}

/// What makes the node's users at its start: hashes stand for passwords.
fn users(node: &NodeRecord, record: &InstanceRecord, settings: &PlanSettings) -> Vec<Vec<String>> {
    let (Some(_), Some(auth), Some(key)) = (node.owned.get(USERS), &record.auth, &settings.key) else {
        return Vec::new();
    };
    let owner = Owner { instance: node.instance.clone(), created_at: record.created_at };
    let passwords = |user: User| -> Option<Vec<Password>> {
        let generations = auth.generations().into_iter();
        match user {
            User::Client if record.spec.secret().is_some() => Some(Vec::new()),
            User::Client if auth.open => None,
            User::Client => Some(generations.map(|g| key.password(&owner, user, g)).collect()),
            _ => Some(generations.map(|g| key.password_at(&owner, &node.task_id, user, g)).collect()),
        }
    };
    let users = User::ALL.map(|user| acl(user, passwords(user).as_deref()));
    users.into_iter().chain([mark_acl(&key.mark(&owner, &node.task_id))]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_argument_with_its_directive_each_word_in_quotes_and_an_empty_one_stays() {
        let placement = Placement {
            agent_id: "a".into(),
            hostname: "h".into(),
            host: "10.0.0.7".into(),
            attributes: BTreeMap::new(),
            port: 20001,
            pieces: vec![],
            offer_ids: vec![],
        };
        let yaml = "apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata: {name: orders}\nspec: {memory: 64Mi, redis: {config: {save: '', client-output-buffer-limit: replica 256mb 64mb 60}}}";
        let spec = crate::spec::parse_document(yaml.as_bytes()).expect("valid").spec;
        let record = InstanceRecord {
            spec,
            labels: BTreeMap::new(),
            spec_revision: 1,
            epoch: 1,
            master: Some(0),
            next_ordinal: 1,
            initialized: false,
            replid: None,
            replid_before: None,
            confirmations: 0,
            unsettled: false,
            rolling: None,
            hung: None,
            auth: None,
            deleting: false,
            created_at: Timestamp(0),
            failures: 0,
            last_failure: None,
            last_death: None,
        };
        let node = node_record("orders", &record, 0, &placement, Timestamp(255));
        assert_eq!(node.task_id, "orders-0.ff");
        let master = Address { host: "10.0.0.8".into(), port: 20002 };
        let line = launch(&node, &placement, &record, Some(&master), &PlanSettings::default()).argv.join("|");
        assert!(line.starts_with("redis-server|--port|20001|--bind|10.0.0.7|127.0.0.1|"), "{line}");
        assert!(line.contains(r#"|--client-output-buffer-limit "replica" "256mb" "64mb" "60"|"#), "{line}");
        assert!(line.contains(r#"|--save ""|"#), "{line}");
        assert!(line.ends_with("|--replicaof|10.0.0.8|20002"), "{line}");
        assert!(!line.contains("masterauth"), "a master without users would refuse it: {line}");

        let owned = Arc::new(BTreeMap::from([(USERS.to_string(), "1".to_string())]));
        let line = launch(&NodeRecord { owned, ..node }, &placement, &record, Some(&master), &PlanSettings::default());
        let told = ["--masteruser", "redisctl-replica", "--masterauth", "not-told-yet", "--replicaof"];
        assert!(line.argv.windows(5).any(|words| words == told), "{:?}", line.argv);
    }
}
