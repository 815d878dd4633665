//! A client's connection: who it is, how it wants its replies, what it has subscribed to. I/O (looks up tokens).

use std::collections::BTreeSet;

use super::commands::{Outcome, REDIS_VERSION, Sight, error, unknown_subcommand};
use super::news::News;
use super::wire::{Reply, Version};
use crate::access::{Caller, Level};
use crate::glob::matches;

/// Channels and patterns of one client, ...
const SUBSCRIPTIONS_MAX: usize = 1000;
/// ... and the bytes of their names.
const SUBSCRIPTIONS_BYTES_MAX: usize = 16 << 10;
/// Bytes of a client's name.
const NAME_BYTES_MAX: usize = 1024;

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
        Client { caller, id, address, ..Client::default() }
    }

    /// Whether it has not said yet who it is.
    pub fn is_stranger(&self) -> bool {
        self.caller.is_none()
    }

    /// The token that it has shown is withdrawn.
    pub fn is_withdrawn(&self) -> bool {
        self.caller.as_ref().is_some_and(Caller::is_withdrawn)
    }

    /// Who it is.
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    /// Whether this may be done with that instance.
    pub fn may(&self, level: Level, instance: &str) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.may(level, instance))
    }

    /// Whether it has asked for anything that is told later.
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

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const HELLO_WITHOUT_AUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
                                  HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and \
                                  select the RESP protocol version at the same time";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. \
                           Are you sure your configuration is correct?";

fn texts(texts: &[&str]) -> Vec<Reply> {
    texts.iter().copied().map(Reply::text).collect()
}

/// Answers AUTH.
pub fn auth(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
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

/// Answers HELLO.
pub fn hello(sight: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
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
    name.len() <= NAME_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Answers CLIENT.
pub fn client(_: &Sight<'_>, client: &mut Client, words: &[String]) -> Outcome {
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

/// Answers SUBSCRIBE and PSUBSCRIBE.
pub fn subscribe(client: &mut Client, words: &[String], patterns: bool) -> Outcome {
    let kind = if patterns { "psubscribe" } else { "subscribe" };
    if client.channels.len() + client.patterns.len() + words.len() > SUBSCRIPTIONS_MAX {
        return error(format!("ERR at most {SUBSCRIPTIONS_MAX} subscriptions are allowed"));
    }
    let bytes: usize = client.channels.iter().chain(&client.patterns).chain(&words[1..]).map(String::len).sum();
    if bytes > SUBSCRIPTIONS_BYTES_MAX {
        return error(format!("ERR names of subscriptions may have {SUBSCRIPTIONS_BYTES_MAX} bytes together"));
    }
    let mut replies = Vec::new();
    for channel in &words[1..] {
        let set = if patterns { &mut client.patterns } else { &mut client.channels };
        set.insert(channel.clone());
        replies.push(subscription(client, kind, Some(channel)));
    }
    Outcome::Replies(replies)
}

/// Answers UNSUBSCRIBE and PUNSUBSCRIBE.
pub fn unsubscribe(client: &mut Client, words: &[String], patterns: bool) -> Outcome {
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
