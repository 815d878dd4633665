//! What clients may do at a node, and what not: the table of docs/security.md, on the real Redis. I/O.

use std::collections::BTreeSet;

use redisctl::failover::redis::RIGHTS;
use redisctl::passwords::rights;

use crate::support::Redis as Server;
use crate::*;

/// Commands that clients may not give, at least one for each row of docs/security.md.
const REFUSED: &[&[&str]] = &[
    &["ACL", "SETUSER", "mallory", "on", "nopass", "+@all"],
    &["ACL", "GETUSER", "redisctl"],
    &["ACL", "LIST"],
    &["ACL", "USERS"],
    &["ACL", "DELUSER", "redisctl"],
    &["ACL", "LOAD"],
    &["ACL", "SAVE"],
    &["ACL", "LOG", "RESET"],
    &["ACL", "DRYRUN", "redisctl", "PING"],
    &["CLIENT", "KILL", "USER", "redisctl"],
    &["CLIENT", "KILL", "TYPE", "replica"],
    &["CLIENT", "KILL", "ID", "1"],
    &["CLIENT", "NO-EVICT", "ON"],
    &["CLIENT", "PAUSE", "1", "ALL"],
    &["CLIENT", "PAUSE", "1", "WRITE"],
    &["CLIENT", "UNPAUSE"],
    &["CLUSTER", "MEET", "127.0.0.1", "1"],
    &["CLUSTER", "RESET"],
    &["CLUSTER", "FAILOVER"],
    &["CLUSTER", "SETSLOT", "1", "STABLE"],
    &["CLUSTER", "FORGET", "x"],
    &["CLUSTER", "REPLICATE", "x"],
    &["CLUSTER", "ADDSLOTS", "1"],
    &["CLUSTER", "SAVECONFIG"],
    &["CONFIG", "GET", "masterauth"],
    &["CONFIG", "GET", "*"],
    &["CONFIG", "SET", "maxmemory", "1"],
    &["CONFIG", "SET", "min-replicas-to-write", "0"],
    &["CONFIG", "REWRITE"],
    &["CONFIG", "RESETSTAT"],
    &["DEBUG", "SLEEP", "0"],
    &["DEBUG", "JMAP"],
    &["FAILOVER"],
    &["FAILOVER", "ABORT"],
    &["MIGRATE", "127.0.0.1", "1", "k", "0", "10"],
    &["MODULE", "LOAD", "/tmp/x.so"],
    &["MODULE", "LOADEX", "/tmp/x.so"],
    &["MODULE", "UNLOAD", "x"],
    &["PFDEBUG", "GETREG", "k"],
    &["PFSELFTEST"],
    &["PSYNC", "?", "-1"],
    &["SYNC"],
    &["REPLCONF", "listening-port", "1"],
    &["REPLCONF", "ACK", "1000000"],
    &["REPLICAOF", "NO", "ONE"],
    &["SLAVEOF", "127.0.0.1", "1"],
    &["RESTORE-ASKING", "k", "0", "x"],
    &["SAVE"],
    &["SCRIPT", "DEBUG", "SYNC"],
    &["SCRIPT", "DEBUG", "YES"],
    &["SHUTDOWN", "NOSAVE"],
];

/// Commands that they may give, which look like some of those.
const ALLOWED: &[&[&str]] = &[
    &["ACL", "WHOAMI"],
    &["CLIENT", "LIST"],
    &["CLIENT", "SETNAME", "redisctl:9"],
    &["INFO"],
    &["MODULE", "LIST"],
    &["MONITOR"],
    &["ROLE"],
    &["WAIT", "0", "1"],
    &["BGSAVE"],
    &["FLUSHALL"],
    &["EVAL", "return 1", "0"],
    &["SCRIPT", "EXISTS", "x"],
    &["PUBLISH", "channel", "text"],
];

/// A command in a script or a transaction has no more rights than its client.
fn by_script(command: &[&str]) -> Vec<String> {
    let words: Vec<String> = command.iter().map(|word| format!("'{word}'")).collect();
    ["EVAL".to_string(), format!("return redis.call({})", words.join(",")), "0".to_string()].to_vec()
}

async fn answers(server: &Server, auth: &[&str], command: &[&str]) -> String {
    let answer = tokio::time::timeout(SHORT * 10, server.cli(&[auth, command].concat())).await;
    match answer {
        Ok(Ok(text) | Err(text)) => text,
        Err(_) => "goes on".to_string(), // MONITOR.
    }
}

#[tokio::test]
async fn clients_can_neither_break_what_is_promised_nor_take_control_of_a_node() {
    let (key, owner) = key();
    let password = key.password(&owner, User::Client, 1).reveal().to_string();
    for open in [true, false] {
        let users = of_task("orders-0.1", open);
        let args: Vec<&str> = users.iter().map(String::as_str).collect();
        let auth = if open { vec![] } else { vec!["--no-auth-warning", "-a", &password] };
        let server = Server::start_with(&args, &auth).await;
        for command in REFUSED {
            let answer = answers(&server, &auth, command).await;
            // Some are off for everybody.
            assert!(answer.contains("NOPERM") || answer.contains("command not allowed"), "{command:?}: {answer}");
            let script = by_script(command);
            let script: Vec<&str> = script.iter().map(String::as_str).collect();
            let answer = answers(&server, &auth, &script).await;
            let refused = [
                "NOPERM",
                "command not allowed",
                "not allowed from script",
                "Unknown Redis command",
                "can't run this command",
            ];
            assert!(refused.iter().any(|word| answer.contains(word)), "{command:?} in a script: {answer}");
        }
        for command in ALLOWED {
            let answer = answers(&server, &auth, command).await;
            assert!(!answer.starts_with("NOPERM") && !answer.contains(": NOPERM"), "{command:?}: {answer}");
        }
        for user in ["redisctl", "redisctl-replica", "redisctl-task"] {
            let answer = answers(&server, &auth, &["AUTH", user, ""]).await;
            assert!(answer.contains("WRONGPASS"), "{user}: {answer}");
        }
    }
}

/// The words of each `command(&["A", "B", ...` in the code that asks and commands nodes.
fn commands_in_code() -> BTreeSet<Vec<String>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/failover/redis");
    let code: String = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .map(|text| text.split("#[cfg(test)]").next().unwrap_or_default().to_string())
        .collect();
    let words = |after: &str| {
        let list = after.split(']').next().unwrap_or_default();
        let literals = list.split(',').map_while(|word| word.trim().strip_prefix('"')?.strip_suffix('"'));
        literals.map(str::to_string).collect::<Vec<_>>()
    };
    code.split("command(&[").skip(1).map(words).filter(|words| !words.is_empty()).collect()
}

#[tokio::test]
async fn operators_may_do_what_their_code_does_and_not_more() {
    let server = Server::start(&of_task("orders-0.1", true).iter().map(String::as_str).collect::<Vec<_>>()).await;
    server.cli(&["ACL", "GETUSER", "redisctl"]).await.unwrap_err();
    let (key, owner) = key();
    let password = key.password_at(&owner, "orders-0.1", User::Operator, 1);
    let login = ["--no-auth-warning", "--user", "redisctl", "--pass", password.reveal()];
    let may = async |command: &[&str]| {
        let tried = [&login, &["ACL", "DRYRUN", "redisctl"][..], command].concat();
        let answer = server.cli(&tried).await.unwrap_or_else(|error| error);
        !answer.contains("no permissions")
    };
    let commands = commands_in_code();
    for known in ["SCRIPT KILL", "REPLICAOF NO ONE", "CLIENT LIST TYPE", "ACL GETUSER"] {
        assert!(commands.iter().any(|command| command.join(" ").starts_with(known)), "{known}: {commands:?}");
    }
    for command in commands {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        // What stands behind a variable is some word.
        let padded = [&words[..], &["x"; 3][..3_usize.saturating_sub(words.len())]].concat();
        assert!(may(&words).await && may(&padded).await, "{command:?}");
    }
    for command in [&["GET", "a"][..], &["SET", "a", "1"], &["FLUSHALL"], &["SHUTDOWN"], &["EVAL", "return 1", "0"]] {
        assert!(!may(command).await, "{command:?}");
    }
}

#[tokio::test]
async fn a_node_that_was_launched_with_other_rights_is_given_those_of_now_and_keeps_its_passwords() {
    let redis = commander(TIMEOUT);
    // The rights of a former version: operators cannot end scripts, clients read what replicas log in with.
    let mut users = of_task("orders-0.1", true);
    users.retain(|word| word != "+script|kill");
    let at = users.iter().position(|word| word == "+@all").unwrap();
    users.insert(at + 1, "+config|get".to_string());
    users.retain(|word| word != "-config");
    let args: Vec<&str> = users.iter().map(String::as_str).collect();
    let server = Server::start(&args).await;
    redis.set_login(&address(&server), Some(login("orders-0.1")));
    server.cli(&["CONFIG", "GET", "masterauth"]).await.unwrap();
    let asked = [(RIGHTS.to_string(), rights())];
    let applied = redis.configure(&address(&server), &asked).await;
    assert_eq!(applied.set, asked, "{applied:?}");
    assert!(server.cli(&["CONFIG", "GET", "masterauth"]).await.unwrap_err().contains("NOPERM"));
    let told = redis.end_script(&address(&server)).await.unwrap_err();
    assert!(format!("{told:#}").contains("NOTBUSY"), "{told:#}");
    server.cli(&["SET", "a", "1"]).await.unwrap();
}

/// A hash with an entry that is longer than all of it, and a checksum that is right.
const DAMAGED: [u8; 27] = [
    0x10, 0x0f, 0x0f, 0, 0, 0, 2, 0, 0xf0, 0xf0, 0xff, 0xff, 0x7f, 0x61, 0x62, 0x63, 0xff, 0x0a, 0, 0x7c, 0x64, 0x45,
    0x57, 0x86, 0x92, 0xbc, 0x82,
];

#[tokio::test]
async fn what_clients_restore_is_checked_and_the_names_of_refused_logins_take_no_memory() {
    let document = "apiVersion: redisctl/v1\nkind: RedisInstance\nmetadata: {name: a}\nspec: {memory: 16Mi}\n";
    let spec = redisctl::spec::parse_document(document.as_bytes()).unwrap().spec;
    let owned = redisctl::reconcile::launch::owned_settings(&spec, None, None);
    let users = of_task("orders-0.1", true);
    let owned: Vec<String> = owned.into_iter().flat_map(|(key, value)| [format!("--{key}"), value]).collect();
    let args: Vec<&str> = users.iter().chain(&owned).map(String::as_str).collect();
    let server = Server::start_with(&args, &[]).await;
    let client = redis::Client::open(("127.0.0.1", server.port())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let restored =
        redis::cmd("RESTORE").arg("bad").arg(0).arg(&DAMAGED[..]).query_async::<String>(&mut connection).await;
    assert!(restored.unwrap_err().to_string().contains("Bad data format"));
    let mut used = async || {
        let info: String = redis::cmd("INFO").arg("memory").query_async(&mut connection).await.unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().to_string();
        line.trim().parse::<u64>().unwrap()
    };
    let before = used().await;
    for _ in 0..4 {
        let mut other = client.get_multiplexed_async_connection().await.unwrap();
        let name = "a".repeat(4 << 20);
        assert!(redis::cmd("AUTH").arg(name).arg("x").query_async::<String>(&mut other).await.is_err());
    }
    wait_until("it is free again", PATIENCE, async || {
        let now = used().await;
        if now < before + (1 << 20) { Ok(()) } else { Err(format!("{now} after {before}")) }
    })
    .await;
}
