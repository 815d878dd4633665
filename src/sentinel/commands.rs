//! What a client asks, and what a Sentinel answers. I/O (reads the board).
//!
//! Errors are in Redis 7.0's words, as clients and scripts match on them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::news::News;
use super::view::{self, Down, master_down, parts};
use super::wire::{Reply, Request, Version};
use crate::access::{Access, Caller, Level};
use crate::board::{Board, InstanceView, OperatorView};
use crate::glob::matches;
use crate::model::Timestamp;

/// The version of Redis whose Sentinel this answers like.
const REDIS_VERSION: &str = "7.0.15";

/// Channels and patterns of one client.
const SUBSCRIPTIONS_MAX: usize = 1000;

/// A client's connection, as far as its requests change it.
#[derive(Debug, Default)]
pub struct Client {
    /// Who it is, once that is known.
    caller: Option<Caller>,
    /// A number of its own.
    id: u64,
    /// Where it comes from.
    address: String,
    /// The protocol that it asked for.
    pub version: Version,
    name: String,
    channels: BTreeSet<String>,
    patterns: BTreeSet<String>,
}

impl Client {
    /// One that has asked for nothing yet.
    pub fn new(id: u64, address: String, caller: Option<Caller>) -> Client {
        Client { id, address, caller, ..Client::default() }
    }

    fn may(&self, level: Level, instance: &str) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.may(level, instance))
    }

    /// Whether anything is to be told to it.
    pub fn is_subscribed(&self) -> bool {
        !self.channels.is_empty() || !self.patterns.is_empty()
    }

    /// What it is told of a publication.
    pub fn told(&self, News { instance, channel, message }: &News) -> Vec<Reply> {
        if !self.may(Level::Read, instance) {
            return Vec::new();
        }
        let direct = self.channels.contains(*channel).then(|| Reply::Push(texts(&["message", channel, message])));
        let by_pattern = self.patterns.iter().filter(|pattern| matches(pattern.as_bytes(), channel.as_bytes()));
        let by_pattern = by_pattern.map(|pattern| Reply::Push(texts(&["pmessage", pattern, channel, message])));
        direct.into_iter().chain(by_pattern).collect()
    }
}

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
    fn others(&self) -> usize {
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

fn error(text: impl Into<String>) -> Outcome {
    Reply::Error(text.into()).into()
}

fn texts(texts: &[&str]) -> Vec<Reply> {
    texts.iter().copied().map(Reply::text).collect()
}

/// A command: its name, how many words it has (at least, if negative), and what answers it.
struct Command {
    name: &'static str,
    arity: i64,
    answer: fn(&Sight<'_>, &mut Client, &[String]) -> Outcome,
}

const fn command(
    name: &'static str,
    arity: i64,
    answer: fn(&Sight<'_>, &mut Client, &[String]) -> Outcome,
) -> Command {
    Command { name, arity, answer }
}

const COMMANDS: [Command; 13] = [
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

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const HELLO_WITHOUT_AUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
                                  HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and \
                                  select the RESP protocol version at the same time";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. \
                           Are you sure your configuration is correct?";

/// The subcommands of SENTINEL, with how many words each has (at least, if negative).
const SUBCOMMANDS: [Command; 12] = [
    command("ckquorum", 3, ckquorum),
    command("failover", 3, failover),
    command("get-master-addr-by-name", 3, address),
    command("help", 2, |_, _, _| help()),
    command("is-master-down-by-addr", 6, is_down),
    command("master", 3, master),
    command("masters", 2, masters),
    command("myid", 2, |sight, _, _| Reply::text(sight.id).into()),
    command("pending-scripts", 2, |_, _, _| Reply::List(Vec::new()).into()),
    command("replicas", 3, replicas),
    command("sentinels", 3, sentinels),
    command("slaves", 3, replicas),
];

/// Answers a request, which has one word at least.
pub fn answer(sight: &Sight<'_>, client: &mut Client, request: &Request) -> Outcome {
    let name = request[0].to_lowercase();
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else { return unknown(request) };
    if !fits(command.arity, request.len()) {
        return error(format!("ERR wrong number of arguments for '{name}' command"));
    }
    if client.caller.is_none() && !BEFORE_AUTH.contains(&command.name) {
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

fn fits(arity: i64, words: usize) -> bool {
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
        args += &format!("'{}' ", arg.chars().take(room).collect::<String>());
    }
    let name: String = request[0].chars().take(128).collect();
    error(format!("ERR unknown command '{name}', with args beginning with: {args}"))
}

fn unknown_subcommand(command: &str, subcommand: &str) -> Outcome {
    let subcommand: String = subcommand.chars().take(128).collect();
    error(format!("ERR unknown subcommand '{subcommand}'. Try {command} HELP."))
}

// ---------------------------------------------------------------------------------------------
// The connection

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

fn auth(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    let (user, token) = match &words[1..] {
        [token] => ("default", token),
        [user, token] => (user.as_str(), token),
        _ => return error("ERR syntax error"),
    };
    log_in(sight, client, user, token).map_or_else(error, |()| Reply::ok().into())
}

/// The user is `default`, or the one whose token it is.
fn log_in(sight: &Sight<'_>, client: &mut Client, user: &str, token: &str) -> Result<(), &'static str> {
    if sight.access.is_open() {
        return if user == "default" { Err(NO_PASSWORD) } else { Err(WRONG_PASSWORD) };
    }
    let caller = sight.access.caller(Some(token)).filter(|caller| user == "default" || user == caller.name());
    client.caller = Some(caller.ok_or(WRONG_PASSWORD)?);
    Ok(())
}

fn hello(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    let mut version = client.version;
    if let Some(wanted) = words.get(1) {
        version = match wanted.parse::<i64>() {
            Ok(2) => Version::Resp2,
            Ok(3) => Version::Resp3,
            Ok(_) => return error("NOPROTO unsupported protocol version"),
            Err(_) => return error("ERR Protocol version is not an integer or out of range"),
        };
    }
    let (mut rest, mut name) = (words.get(2..).unwrap_or_default(), None);
    while let Some(option) = rest.first() {
        match (option.to_lowercase().as_str(), rest) {
            ("auth", [_, user, token, after @ ..]) => {
                if let Err(refused) = log_in(sight, client, user, token) {
                    return error(refused);
                }
                rest = after;
            }
            ("setname", [_, wanted, after @ ..]) if is_name(wanted) => {
                name = Some(wanted.clone());
                rest = after;
            }
            ("setname", [_, _, ..]) => return error(BAD_NAME),
            _ => return error(format!("ERR Syntax error in HELLO option '{option}'")),
        }
    }
    if client.caller.is_none() {
        return error(HELLO_WITHOUT_AUTH);
    }
    client.version = version;
    client.name = name.unwrap_or_else(|| std::mem::take(&mut client.name));
    let number = if version == Version::Resp3 { 3 } else { 2 };
    let pair = |key: &str, value: Reply| (Reply::text(key), value);
    Reply::Map(vec![
        pair("server", Reply::text("redis")),
        pair("version", Reply::text(REDIS_VERSION)),
        pair("proto", Reply::Number(number)),
        pair("id", Reply::Number(i64::try_from(client.id).unwrap_or(i64::MAX))),
        pair("mode", Reply::text("sentinel")),
        pair("modules", Reply::List(Vec::new())),
    ])
    .into()
}

const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn client(_: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    let subcommand = words[1].to_lowercase();
    match (subcommand.as_str(), &words[2..]) {
        ("id", []) => Reply::Number(i64::try_from(client.id).unwrap_or(i64::MAX)).into(),
        ("getname", []) if client.name.is_empty() => Reply::NoText.into(),
        ("getname", []) => Reply::text(&client.name).into(),
        ("setname", [name]) if is_name(name) => {
            client.name.clone_from(name);
            Reply::ok().into()
        }
        ("setname", [_]) => error(BAD_NAME),
        ("info", []) => Reply::text(line_of(client)).into(),
        ("id" | "getname" | "info" | "setname", _) => {
            error(format!("ERR wrong number of arguments for 'client|{subcommand}' command"))
        }
        _ => unknown_subcommand("CLIENT", &words[1]),
    }
}

fn line_of(client: &Client) -> String {
    let resp = if client.version == Version::Resp3 { 3 } else { 2 };
    let Client { id, address, name, channels, patterns, .. } = client;
    format!("id={id} addr={address} name={name} sub={} psub={} resp={resp}\n", channels.len(), patterns.len())
}

// ---------------------------------------------------------------------------------------------
// Publications

fn subscribe(client: &mut Client, words: &[String], patterns: bool) -> Outcome {
    let kind = if patterns { "psubscribe" } else { "subscribe" };
    if client.channels.len() + client.patterns.len() + words.len() > SUBSCRIPTIONS_MAX {
        return error(format!("ERR at most {SUBSCRIPTIONS_MAX} subscriptions are allowed"));
    }
    let mut replies = Vec::new();
    for channel in &words[1..] {
        let set = if patterns { &mut client.patterns } else { &mut client.channels };
        set.insert(channel.clone());
        replies.push(subscription(client, kind, Some(channel)));
    }
    Outcome::Replies(replies)
}

fn unsubscribe(client: &mut Client, words: &[String], patterns: bool) -> Outcome {
    let kind = if patterns { "punsubscribe" } else { "unsubscribe" };
    let set = if patterns { &mut client.patterns } else { &mut client.channels };
    let named: Vec<String> = match &words[1..] {
        [] => set.iter().cloned().collect(),
        named => named.to_vec(),
    };
    if named.is_empty() {
        return subscription(client, kind, None).into();
    }
    let mut replies = Vec::new();
    for channel in &named {
        let set = if patterns { &mut client.patterns } else { &mut client.channels };
        set.remove(channel);
        replies.push(subscription(client, kind, Some(channel)));
    }
    Outcome::Replies(replies)
}

fn subscription(client: &Client, kind: &str, channel: Option<&String>) -> Reply {
    let count = i64::try_from(client.channels.len() + client.patterns.len()).unwrap_or(i64::MAX);
    let channel = channel.map_or(Reply::NoText, Reply::text);
    Reply::Push(vec![Reply::text(kind), channel, Reply::Number(count)])
}

// ---------------------------------------------------------------------------------------------
// The server

fn role(sight: &Sight<'_>, client: &mut Client, _: &[String]) -> Outcome {
    let names = named(sight, client).into_iter().map(|view| view.name.clone());
    Reply::List(vec![Reply::text("sentinel"), Reply::texts(names)]).into()
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

fn info(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    let wanted = |section: &str| {
        let all = ["all", "default", "everything"];
        words.len() == 1 || words[1..].iter().any(|word| {
            let word = word.to_lowercase();
            word == section || all.contains(&word.as_str())
        })
    };
    let mut sections = Vec::new();
    if wanted("server") {
        sections.push(format!(
            "# Server\r\nredis_version:{REDIS_VERSION}\r\nredisctl_version:{}\r\nredis_mode:sentinel\r\nrun_id:{}\r\n\
             tcp_port:{}\r\n",
            env!("CARGO_PKG_VERSION"),
            sight.id,
            sight.port
        ));
    }
    if wanted("sentinel") {
        sections.push(sentinel_section(sight, client));
    }
    Reply::Text(sections.join("\r\n")).into()
}

fn sentinel_section(sight: &Sight<'_>, client: &Client) -> String {
    let views = named(sight, client);
    let mut text = format!(
        "# Sentinel\r\nsentinel_masters:{}\r\nsentinel_tilt:0\r\nsentinel_tilt_since_seconds:-1\r\n\
         sentinel_running_scripts:0\r\nsentinel_scripts_queue_length:0\r\nsentinel_simulate_failure_flags:0\r\n",
        views.len()
    );
    for (i, view) in views.iter().enumerate() {
        let status = match master_down(view) {
            Down::No => "ok",
            Down::Subjectively => "sdown",
            Down::Objectively => "odown",
        };
        let (name, address) = (&view.name, view.status.master.as_deref().unwrap_or_default());
        let (replicas, sentinels) = (view::replicas(view).count(), sight.others() + 1);
        text += &format!(
            "master{i}:name={name},status={status},address={address},slaves={replicas},sentinels={sentinels}\r\n"
        );
    }
    text
}

// ---------------------------------------------------------------------------------------------
// SENTINEL

/// The instances that have a master to tell of.
fn named(sight: &Sight<'_>, client: &Client) -> Vec<Arc<InstanceView>> {
    let mut views = sight.board.list();
    views.retain(|view| view.status.master.is_some() && client.may(Level::Read, &view.name));
    views
}

fn sentinel(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    let name = words[1].to_lowercase();
    match SUBCOMMANDS.iter().find(|command| command.name == name) {
        None => unknown_subcommand("SENTINEL", &words[1]),
        Some(command) if !fits(command.arity, words.len()) => {
            error(format!("ERR wrong number of arguments for 'sentinel|{name}' command"))
        }
        Some(command) => (command.answer)(sight, client, words),
    }
}

/// The instance that is named, if it has a master to tell of.
fn find(sight: &Sight<'_>, client: &Client, name: &str) -> Result<Arc<InstanceView>, Outcome> {
    let view = sight.board.get(name).filter(|view| view.status.master.is_some() && client.may(Level::Read, name));
    view.ok_or_else(|| error("ERR No such master with that name"))
}

fn with(sight: &Sight<'_>, client: &Client, name: &str, answer: impl FnOnce(&InstanceView) -> Outcome) -> Outcome {
    find(sight, client, name).map_or_else(|missing| missing, |view| answer(&view))
}

fn address(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    let Ok(view) = find(sight, client, &words[2]) else { return Reply::NoList.into() };
    let (ip, port) = view.status.master.as_deref().map_or(("", ""), parts);
    Reply::texts([ip, port]).into()
}

fn masters(sight: &Sight<'_>, client: &mut Client, _: &[String]) -> Outcome {
    let views = named(sight, client);
    Reply::List(views.iter().filter_map(|view| view::master(view, sight.board, sight.others(), sight.now)).collect()).into()
}

fn master(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    with(sight, client, &words[2], |view| view::master(view, sight.board, sight.others(), sight.now).unwrap_or(Reply::NoList).into())
}

fn replicas(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    with(sight, client, &words[2], |view| {
        Reply::List(view::replicas(view).map(|node| view::replica(view, node, sight.board, sight.now)).collect()).into()
    })
}

fn sentinels(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    with(sight, client, &words[2], |_| Reply::List(sight.operator.others.iter().filter_map(view::sentinel).collect()).into())
}

fn ckquorum(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    with(sight, client, &words[2], |_| {
        let usable = sight.others() + 1;
        if sight.operator.leader.is_none() {
            let text = format!("NOQUORUM {usable} usable Sentinels. Not enough available Sentinels to reach the majority");
            return error(text + " and authorize a failover");
        }
        let text = format!("OK {usable} usable Sentinels. Quorum and failover authorization can be reached");
        Reply::Status(text).into()
    })
}

fn failover(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    with(sight, client, &words[2], |view| {
        if !client.may(Level::Write, &view.name) {
            return error("NOPERM this user has no permissions to run the 'sentinel|failover' command");
        }
        if !view::replicas(view).any(|node| node.link.as_deref() == Some("up")) {
            return error("NOGOODSLAVE No suitable replica to promote");
        }
        match &client.caller {
            Some(caller) => Outcome::Failover(view.name.clone(), caller.clone()),
            None => error("NOAUTH Authentication required."),
        }
    })
}

/// Sentinels ask each other this to agree on a master's death; ours have one leader who decides.
fn is_down(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
    if words[3].parse::<u16>().is_err() || words[4].parse::<i64>().is_err() {
        return error("ERR value is not an integer or out of range");
    }
    let asked = |view: &Arc<InstanceView>| {
        view.status.master.as_deref().is_some_and(|master| parts(master) == (&words[2], &words[3]))
    };
    let down = named(sight, client).iter().any(|view| asked(view) && master_down(view) > Down::No);
    Reply::List(vec![Reply::Number(i64::from(down)), Reply::text("*"), Reply::Number(0)]).into()
}

fn help() -> Outcome {
    let lines = [
        "SENTINEL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "CKQUORUM <master-name>",
        "    Check if the current Sentinel configuration is able to reach the quorum.",
        "FAILOVER <master-name>",
        "    Hand the master's role over to a replica; no acknowledged write is lost.",
        "GET-MASTER-ADDR-BY-NAME <master-name>",
        "    Return the ip and port number of the master with that name.",
        "IS-MASTER-DOWN-BY-ADDR <ip> <port> <current-epoch> <runid>",
        "    Check if the master specified by ip:port is down from current Sentinel's point of view.",
        "MASTER <master-name>",
        "    Show the state and info of the specified master.",
        "MASTERS",
        "    Show a list of monitored masters and their state.",
        "MYID",
        "    Return the ID of the Sentinel instance.",
        "REPLICAS <master-name>",
        "    Show a list of replicas for this master and their state.",
        "SENTINELS <master-name>",
        "    Show a list of Sentinel instances for this master and their state.",
    ];
    Reply::List(lines.map(|line| Reply::Status(line.to_string())).into()).into()
}
