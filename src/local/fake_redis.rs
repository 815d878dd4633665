//! What a fake Redis server answers: enough of its commands to be probed, configured and re-pointed. I/O
//! (it reads the clock).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Buf, BytesMut};

use super::fake_nodes::Talk;

/// A master without writes sends a PING of this size to its replicas ...
const PING_BYTES: u64 = 14;
/// ... this often.
const PING_EVERY_S: u64 = 10;
/// What an empty Redis uses.
const USED_MEMORY: u64 = 950_000;
/// Chains of replicas are followed this far.
const CHAIN_MAX: usize = 8;
/// A command longer than this is not ours.
const COMMAND_BYTES_MAX: usize = 1 << 20;

/// One fake server.
pub(super) struct Fake {
    follows: Option<(String, u16)>,
    config: BTreeMap<String, String>,
    /// The words of its last `--user`: the one by which it proves that it is its task.
    user: Vec<String>,
    replid: String,
    started: Instant,
    /// The offset at `offset_since`.
    offset: u64,
    offset_since: Instant,
}

impl Fake {
    /// A server as its command line describes it.
    pub fn new(argv: &[String]) -> Fake {
        let mut config: BTreeMap<String, String> = BTreeMap::from([("maxmemory".to_string(), "0".to_string())]);
        let mut name = None;
        for word in argv.iter().skip(1) {
            match (word.strip_prefix("--"), &name) {
                // A directive of a user is one argument, with its values in quotes.
                (Some(line), _) if line.contains(' ') => {
                    let (key, value) = line.split_once(' ').unwrap_or((line, ""));
                    config.insert(key.to_lowercase(), value.replace('"', ""));
                }
                (Some(next), _) => {
                    config.insert(next.to_lowercase(), String::new());
                    name = Some(next.to_lowercase());
                }
                (None, Some(name)) => {
                    let value = config.entry(name.clone()).or_default();
                    let space = if value.is_empty() { "" } else { " " };
                    let _ = write!(value, "{space}{word}"); // Writing to a String cannot fail.
                }
                (None, None) => {} // A configuration file: nobody here writes one.
            }
        }
        let user = config.remove("user").unwrap_or_default();
        let user = user.split(' ').map(str::to_string).collect();
        let follows = config.remove("replicaof").or_else(|| config.remove("slaveof"));
        let follows = follows.and_then(|text| {
            let (host, port) = text.split_once(' ')?;
            Some((host.to_string(), port.parse().ok()?))
        });
        let now = Instant::now();
        let replid = format!("{:032x}{:08x}", rand::random::<u128>(), rand::random::<u32>());
        Fake { follows, config, user, replid, started: now, offset: 0, offset_since: now }
    }

    /// The port that the command line asks for.
    pub fn port(&self) -> Option<u16> {
        self.config.get("port")?.parse().ok()
    }
}

/// All fake servers that listen, by address.
#[derive(Default)]
pub(super) struct Registry {
    fakes: BTreeMap<SocketAddr, Fake>,
    /// Who follows whom.
    followers: BTreeMap<SocketAddr, BTreeSet<SocketAddr>>,
}

impl Registry {
    pub fn insert(&mut self, address: SocketAddr, fake: Fake) {
        self.link(address, fake.follows.as_ref());
        self.fakes.insert(address, fake);
    }

    /// The server is gone; its replicas keep the offset that they had.
    pub fn remove(&mut self, address: SocketAddr) {
        let offset = self.offset(address, 0);
        for follower in self.followers.get(&address).cloned().unwrap_or_default() {
            if let Some(fake) = self.fakes.get_mut(&follower) {
                fake.offset = offset;
                fake.offset_since = Instant::now();
            }
        }
        self.unlink(address);
        self.fakes.remove(&address);
    }

    fn link(&mut self, address: SocketAddr, follows: Option<&(String, u16)>) {
        if let Some(master) = follows.and_then(socket) {
            self.followers.entry(master).or_default().insert(address);
        }
    }

    fn unlink(&mut self, address: SocketAddr) {
        let follows = self.fakes.get(&address).and_then(|fake| fake.follows.as_ref()).and_then(socket);
        if let Some(set) = follows.and_then(|master| self.followers.get_mut(&master)) {
            set.remove(&address);
        }
    }

    /// The master that the server is linked to.
    fn linked(&self, fake: &Fake) -> Option<SocketAddr> {
        let master = socket(fake.follows.as_ref()?)?;
        self.fakes.contains_key(&master).then_some(master)
    }

    fn offset(&self, address: SocketAddr, depth: usize) -> u64 {
        let Some(fake) = self.fakes.get(&address) else { return 0 };
        match self.linked(fake) {
            Some(master) if depth < CHAIN_MAX => self.offset(master, depth + 1),
            _ if fake.follows.is_some() => fake.offset,
            _ => fake.offset + fake.offset_since.elapsed().as_secs() / PING_EVERY_S * PING_BYTES,
        }
    }

    fn replicaof(&mut self, address: SocketAddr, host: &str, port: &str) -> Vec<u8> {
        let offset = self.offset(address, 0);
        let follows = match (host.eq_ignore_ascii_case("no"), port.parse()) {
            (true, _) => None,
            (false, Ok(port)) => Some((host.to_string(), port)),
            (false, Err(_)) => return error("ERR Invalid master port"),
        };
        self.unlink(address);
        self.link(address, follows.as_ref());
        if let Some(fake) = self.fakes.get_mut(&address) {
            fake.follows = follows;
            fake.offset = offset;
            fake.offset_since = Instant::now();
        }
        b"+OK\r\n".to_vec()
    }

    /// The reply to a command; none closes the connection.
    pub fn reply(&mut self, address: SocketAddr, command: &[String], talk: &mut Talk) -> Option<Vec<u8>> {
        let name = command.first()?.to_uppercase();
        match (name.as_str(), &mut talk.queued) {
            ("MULTI", queued) => {
                *queued = Some(Vec::new());
                return Some(b"+OK\r\n".to_vec());
            }
            ("EXEC", queued) => {
                let Some(commands) = queued.take() else { return Some(error("ERR EXEC without MULTI")) };
                let mut replies = format!("*{}\r\n", commands.len()).into_bytes();
                for command in commands {
                    replies.extend(self.reply(address, &command, talk)?);
                }
                return Some(replies);
            }
            (_, Some(queued)) => {
                queued.push(command.to_vec());
                return Some(b"+QUEUED\r\n".to_vec());
            }
            (_, None) => {}
        }
        let argument = |i: usize| command.get(i).map_or("", String::as_str);
        Some(match name.as_str() {
            "PING" if command.len() > 1 => bulk(argument(1)),
            "PING" => b"+PONG\r\n".to_vec(),
            "ECHO" => bulk(argument(1)),
            "QUIT" => return None,
            "CLIENT" if argument(1).eq_ignore_ascii_case("LIST") => bulk(""),
            "ACL" if argument(1).eq_ignore_ascii_case("GETUSER") => self.user(address, argument(2)),
            "SELECT" | "CLIENT" | "AUTH" | "ACL" | "RESET" => b"+OK\r\n".to_vec(),
            "DBSIZE" | "WAIT" => b":0\r\n".to_vec(),
            "HELLO" => {
                talk.resp3 = argument(1) == "3";
                self.hello(address, talk.resp3)
            }
            "INFO" => bulk(&self.info(address, &command[1..])),
            "ROLE" => self.role(address),
            "REPLICAOF" | "SLAVEOF" => self.replicaof(address, argument(1), argument(2)),
            "CONFIG" => self.configure(address, &command[1..], talk.resp3),
            _ => error(&format!("ERR unknown command '{}', with args beginning with: ", argument(0))),
        })
    }

    /// The passwords of a user, of which only the one that is off is known here.
    fn user(&self, address: SocketAddr, name: &str) -> Vec<u8> {
        let user = self.fakes.get(&address).map(|fake| fake.user.as_slice()).unwrap_or_default();
        if user.first().is_none_or(|known| known != name) {
            return b"*-1\r\n".to_vec();
        }
        let hashes: Vec<Vec<u8>> = user.iter().filter_map(|word| word.strip_prefix('#')).map(bulk).collect();
        let head = format!("*2\r\n$9\r\npasswords\r\n*{}\r\n", hashes.len()).into_bytes();
        [vec![head], hashes].concat().concat()
    }

    fn hello(&self, address: SocketAddr, resp3: bool) -> Vec<u8> {
        let role = match self.fakes.get(&address).and_then(|fake| fake.follows.as_ref()) {
            Some(_) => "replica",
            None => "master",
        };
        let mut pairs = Vec::new();
        for (name, value) in [("server", "redis"), ("version", "7.0.15"), ("mode", "standalone"), ("role", role)] {
            pairs.push((bulk(name), bulk(value)));
        }
        pairs.push((bulk("proto"), if resp3 { b":3\r\n".to_vec() } else { b":2\r\n".to_vec() }));
        pairs.push((bulk("id"), b":1\r\n".to_vec()));
        pairs.push((bulk("modules"), b"*0\r\n".to_vec()));
        map(&pairs, resp3)
    }

    fn role(&self, address: SocketAddr) -> Vec<u8> {
        let Some(fake) = self.fakes.get(&address) else { return error("ERR gone") };
        let offset = self.offset(address, 0);
        let Some((host, port)) = &fake.follows else {
            let mut reply = format!("*3\r\n$6\r\nmaster\r\n:{offset}\r\n").into_bytes();
            let followers = self.live_followers(address);
            reply.extend(format!("*{}\r\n", followers.len()).into_bytes());
            for follower in followers {
                reply.extend(b"*3\r\n");
                for text in [follower.ip().to_string(), follower.port().to_string(), offset.to_string()] {
                    reply.extend(bulk(&text));
                }
            }
            return reply;
        };
        let link = if self.linked(fake).is_some() { "connected" } else { "connect" };
        let mut reply = b"*5\r\n".to_vec();
        reply.extend(bulk("slave"));
        reply.extend(bulk(host));
        reply.extend(format!(":{port}\r\n").into_bytes());
        reply.extend(bulk(link));
        reply.extend(format!(":{offset}\r\n").into_bytes());
        reply
    }

    fn live_followers(&self, address: SocketAddr) -> Vec<SocketAddr> {
        let set = self.followers.get(&address).into_iter().flatten();
        set.filter(|follower| self.fakes.contains_key(follower)).copied().collect()
    }

    fn configure(&mut self, address: SocketAddr, words: &[String], resp3: bool) -> Vec<u8> {
        let Some(fake) = self.fakes.get_mut(&address) else { return error("ERR gone") };
        match words.first().map(|word| word.to_uppercase()).as_deref() {
            Some("GET") => {
                let wanted = |name: &str| words[1..].iter().any(|w| w == "*" || w.eq_ignore_ascii_case(name));
                let pairs = fake.config.iter().filter(|(name, _)| wanted(name));
                map(&pairs.map(|(name, value)| (bulk(name), bulk(value))).collect::<Vec<_>>(), resp3)
            }
            Some("SET") if words.len() > 2 && words.len() % 2 == 1 => {
                for pair in words[1..].chunks_exact(2) {
                    fake.config.insert(pair[0].to_lowercase(), pair[1].clone());
                }
                b"+OK\r\n".to_vec()
            }
            Some("RESETSTAT" | "REWRITE") => b"+OK\r\n".to_vec(),
            _ => error("ERR unknown subcommand or wrong number of arguments for 'config' command"),
        }
    }

    fn info(&self, address: SocketAddr, sections: &[String]) -> String {
        let Some(fake) = self.fakes.get(&address) else { return String::new() };
        let maxmemory = fake.config.get("maxmemory").map_or("0", String::as_str);
        let port = address.port();
        let uptime = fake.started.elapsed().as_secs();
        let all = [
            (
                "server",
                format!(
                    "redis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:{}\r\ntcp_port:{port}\r\nuptime_in_seconds:{uptime}\r\n",
                    fake.replid
                ),
            ),
            ("clients", "connected_clients:1\r\n".to_string()),
            ("memory", format!("used_memory:{USED_MEMORY}\r\nmaxmemory:{maxmemory}\r\n")),
            ("persistence", "loading:0\r\nasync_loading:0\r\n".to_string()),
            ("replication", self.info_replication(address, fake)),
            ("keyspace", String::new()),
        ];
        let wanted = |name: &str| {
            let of_all = ["all", "default", "everything"];
            sections.is_empty()
                || sections.iter().any(|s| s.eq_ignore_ascii_case(name) || of_all.contains(&s.to_lowercase().as_str()))
        };
        let mut text = String::new();
        for (name, body) in all.iter().filter(|(name, _)| wanted(name)) {
            let break_between = if text.is_empty() { "" } else { "\r\n" };
            let (first, rest) = name.split_at(1);
            let _ = write!(text, "{break_between}# {}{rest}\r\n{body}", first.to_uppercase());
        }
        text
    }

    fn info_replication(&self, address: SocketAddr, fake: &Fake) -> String {
        let offset = self.offset(address, 0);
        let mut text = String::new();
        let linked = self.linked(fake);
        // Writing to a String cannot fail.
        if let Some((host, port)) = &fake.follows {
            let link = if linked.is_some() { "up" } else { "down" };
            let last_io = if linked.is_some() { 1 } else { -1 };
            let _ = write!(
                text,
                "role:slave\r\nmaster_host:{host}\r\nmaster_port:{port}\r\nmaster_link_status:{link}\r\n\
                 master_last_io_seconds_ago:{last_io}\r\nmaster_sync_in_progress:0\r\n\
                 slave_read_repl_offset:{offset}\r\nslave_repl_offset:{offset}\r\n\
                 slave_priority:100\r\nslave_read_only:1\r\n"
            );
            if linked.is_none() {
                let _ = write!(text, "master_link_down_since_seconds:{}\r\n", fake.offset_since.elapsed().as_secs());
            }
        } else {
            text.push_str("role:master\r\n");
        }
        let followers = self.live_followers(address);
        let _ = write!(text, "connected_slaves:{}\r\n", followers.len());
        for (i, follower) in followers.iter().enumerate() {
            let (ip, port) = (follower.ip(), follower.port());
            let _ = write!(text, "slave{i}:ip={ip},port={port},state=online,offset={offset},lag=0\r\n");
        }
        let replid = linked.and_then(|master| self.fakes.get(&master)).map_or(&fake.replid, |master| &master.replid);
        let _ = write!(
            text,
            "master_failover_state:no-failover\r\nmaster_replid:{replid}\r\nmaster_replid2:{}\r\n\
             master_repl_offset:{offset}\r\nsecond_repl_offset:-1\r\n",
            "0".repeat(40)
        );
        text
    }
}

fn socket((host, port): &(String, u16)) -> Option<SocketAddr> {
    Some(SocketAddr::new(host.parse().ok()?, *port))
}

fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

fn error(text: &str) -> Vec<u8> {
    format!("-{text}\r\n").into_bytes()
}

fn map(pairs: &[(Vec<u8>, Vec<u8>)], resp3: bool) -> Vec<u8> {
    let head = if resp3 { format!("%{}\r\n", pairs.len()) } else { format!("*{}\r\n", pairs.len() * 2) };
    let mut reply = head.into_bytes();
    for (name, value) in pairs {
        reply.extend(name);
        reply.extend(value);
    }
    reply
}

/// Takes a command off the front of what was received; `None` when it is not complete.
pub(super) fn take_command(received: &mut BytesMut) -> Result<Option<Vec<String>>, &'static str> {
    let bytes = &received[..];
    let Some((line, mut at)) = line_at(bytes, 0) else {
        return if bytes.len() > COMMAND_BYTES_MAX { Err("too big a request") } else { Ok(None) };
    };
    let Some(count) = line.strip_prefix('*') else {
        let words = line.split_whitespace().map(str::to_string).collect();
        received.advance(at);
        return Ok(Some(words));
    };
    let count: usize = count.parse().map_err(|_| "invalid multibulk length")?;
    let mut words = Vec::new();
    for _ in 0..count {
        let Some((line, start)) = line_at(bytes, at) else { return Ok(None) };
        let length = line.strip_prefix('$').and_then(|n| n.parse::<usize>().ok()).ok_or("expected '$'")?;
        if length > COMMAND_BYTES_MAX {
            return Err("invalid bulk length");
        }
        let Some(word) = bytes.get(start..start + length) else { return Ok(None) };
        words.push(String::from_utf8_lossy(word).into_owned());
        at = start + length + 2;
    }
    if at > bytes.len() {
        return Ok(None);
    }
    received.advance(at);
    Ok(Some(words))
}

/// The line that starts there, and where the next one starts.
fn line_at(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let rest = bytes.get(start..)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = String::from_utf8_lossy(&rest[..end]).trim_end_matches('\r').to_string();
    Some((line, start + end + 1))
}
