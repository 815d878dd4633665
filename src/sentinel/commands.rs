//! What a client asks, and what a Sentinel answers. I/O (reads the board).
//!
//! Errors are in Redis 7.0's words, as clients and scripts match on them.

use std::fmt::Write as _;

use super::connection::{Client, auth, client, hello, subscribe, unsubscribe};
use super::masters::{info, role, sentinel};
use super::read::Request;
use super::wire::{Reply, Version};
use crate::access::{Access, Caller};
use crate::board::{Board, OperatorView};
use crate::model::Timestamp;

/// The version of Redis whose Sentinel this answers like.
pub(super) const REDIS_VERSION: &str = "7.0.15";

/// What answers are made from.
pub struct Sight<'a> {
    /// All instances.
    pub board: &'a Board,
    /// Who is let in.
    pub access: &'a Access,
    /// This operator, and what it knows of the others.
    pub operator: &'a OperatorView,
    /// The run id of this one.
    pub id: &'a str,
    /// The port that it listens on.
    pub port: u16,
    /// When this is.
    pub now: Timestamp,
}

impl Sight<'_> {
    /// How many others answer as sentinels.
    pub fn others(&self) -> usize {
        self.operator.others.iter().filter(|peer| peer.sentinel.is_some()).count()
    }
}

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send these.
    Replies(Vec<Reply>),
    /// Send this, and close the connection.
    Close(Reply),
    /// Ask for a switchover of this instance, for this one.
    Failover(String, Caller),
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Outcome {
        Outcome::Replies(vec![reply])
    }
}

pub(super) fn error(text: impl Into<String>) -> Outcome {
    Reply::Error(text.into()).into()
}

/// A command: its name, how many words it has (at least, if negative), and what answers it.
pub(super) struct Command {
    pub name: &'static str,
    pub arity: i64,
    pub answer: fn(&Sight<'_>, &mut Client, &[String]) -> Outcome,
}

pub(super) const fn command(
    name: &'static str,
    arity: i64,
    answer: fn(&Sight<'_>, &mut Client, &[String]) -> Outcome,
) -> Command {
    Command { name, arity, answer }
}

pub(super) const COMMANDS: [Command; 13] = [
    command("auth", -2, auth),
    command("client", -2, client),
    command("command", -1, command_table),
    command("hello", -1, hello),
    command("info", -1, info),
    command("ping", -1, ping),
    command("psubscribe", -2, |_, client, words| subscribe(client, words, true)),
    command("punsubscribe", -1, |_, client, words| unsubscribe(client, words, true)),
    command("quit", -1, |_, _, _| Outcome::Close(Reply::ok())),
    command("role", 1, role),
    command("sentinel", -2, sentinel),
    command("subscribe", -2, |_, client, words| subscribe(client, words, false)),
    command("unsubscribe", -1, |_, client, words| unsubscribe(client, words, false)),
];

/// What a client that gets lists for pushes may still ask while it is subscribed.
const WHILE_SUBSCRIBED: [&str; 6] = ["ping", "psubscribe", "punsubscribe", "quit", "subscribe", "unsubscribe"];

/// What somebody may ask who has not said who he is.
const BEFORE_AUTH: [&str; 3] = ["auth", "hello", "quit"];

/// Answers a request, which has one word at least.
pub fn answer(sight: &Sight<'_>, client: &mut Client, request: &Request) -> Outcome {
    let name = request[0].to_lowercase();
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else { return unknown(request) };
    if !fits(command.arity, request.len()) {
        return error(format!("ERR wrong number of arguments for '{name}' command"));
    }
    if client.is_stranger() && !BEFORE_AUTH.contains(&command.name) {
        return error("NOAUTH Authentication required.");
    }
    if client.is_subscribed() && client.version == Version::Resp2 && !WHILE_SUBSCRIBED.contains(&command.name) {
        let subcommand = request.get(1).filter(|_| ["client", "command", "sentinel"].contains(&command.name));
        let name = subcommand.map_or(name, |subcommand| format!("{}|{}", command.name, subcommand.to_lowercase()));
        return error(format!(
            "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
             this context"
        ));
    }
    (command.answer)(sight, client, request)
}

pub(super) fn fits(arity: i64, words: usize) -> bool {
    let words = i64::try_from(words).unwrap_or(i64::MAX);
    if arity < 0 { words >= -arity } else { words == arity }
}

/// Redis quotes the first arguments, up to 128 characters of them.
fn unknown(request: &Request) -> Outcome {
    let mut args = String::new();
    for arg in &request[1..] {
        if args.len() >= 128 {
            break;
        }
        let room = 128 - args.len();
        let _ = write!(args, "'{}' ", arg.chars().take(room).collect::<String>());
    }
    let name: String = request[0].chars().take(128).collect();
    error(format!("ERR unknown command '{name}', with args beginning with: {args}"))
}

pub(super) fn unknown_subcommand(command: &str, subcommand: &str) -> Outcome {
    let subcommand: String = subcommand.chars().take(128).collect();
    error(format!("ERR unknown subcommand '{subcommand}'. Try {command} HELP."))
}

fn ping(_: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    let text = words.get(1).cloned();
    if words.len() > 2 {
        return error("ERR wrong number of arguments for 'ping' command");
    }
    if client.is_subscribed() && client.version == Version::Resp2 {
        return Reply::texts(["pong".to_string(), text.unwrap_or_default()]).into();
    }
    text.map_or_else(|| Reply::Status("PONG".to_string()), Reply::Text).into()
}

/// Each command with its arity, flags and keys, of which it has none.
fn command_table(_: &Sight<'_>, _: &mut Client, words: &[String]) -> Outcome {
    let entry = |command: &Command| {
        let keys = [0, 0, 0].map(Reply::Number);
        let mut entry = vec![Reply::text(command.name), Reply::Number(command.arity), Reply::List(Vec::new())];
        entry.extend(keys);
        Reply::List(entry)
    };
    match words.get(1).map(|word| word.to_lowercase()).as_deref() {
        None => Reply::List(COMMANDS.iter().map(entry).collect()).into(),
        Some("count") => Reply::Number(i64::try_from(COMMANDS.len()).unwrap_or(0)).into(),
        Some("list") => Reply::texts(COMMANDS.iter().map(|command| command.name)).into(),
        Some("docs") => Reply::Map(Vec::new()).into(),
        Some("info") => {
            let find = |name: &String| COMMANDS.iter().find(|command| command.name == name.to_lowercase());
            Reply::List(words[2..].iter().map(|name| find(name).map_or(Reply::NoList, entry)).collect()).into()
        }
        Some(_) => unknown_subcommand("COMMAND", &words[1]),
    }
}
