//! Toy Redis processes: histories of writes, links, acknowledgements, and full copies that replace a
//! data set. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use redisctl::model::{Address, Answer, Gauges, Role, Timestamp};

use crate::dice::Dice;

/// The keys of a data set, one bit each: clients of a whole history write at most 128.
pub type Data = u128;

/// A link whose other side is silent counts as down after this time (`repl-timeout`).
const LINK_TIMEOUT_MS: u64 = 60_000;
/// Redis counts whole seconds and looks once a second: a master goes on for so long beyond its
/// max-lag at most.
const LAG_SLACK_MS: u64 = 2000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Down,
    Syncing,
    Up,
}

#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // Each is a fault of its own.
pub struct Process {
    pub task_id: String,
    pub instance: String,
    pub address: Address,
    pub agent: usize,
    pub alive: bool,
    pub listening: bool,
    /// Stopped: it answers nobody, and its kernel takes connections.
    pub hung: bool,
    /// It was hung, and has not looked at its clock since: it thinks what it thought then.
    stale: bool,
    pub role: Role,
    pub follows: Option<Address>,
    pub link: Link,
    pub ever_synced: bool,
    pub data: Data,
    /// Its writes: where each ends, and the key.
    log: Vec<(u64, u32)>,
    pub offset: u64,
    replid: u64,
    /// The history before this one, and how far it is shared.
    before: (u64, u64),
    heard_at: Timestamp,
    /// What its replicas have acknowledged, and when. It may not hear that one has left.
    acks: BTreeMap<usize, (u64, Timestamp)>,
    pub max_memory: u64,
    pub config: BTreeMap<String, String>,
    /// The latest leader that has spoken to it: it does nothing any more for earlier ones.
    term: i64,
    /// Somebody else than the operator has changed its role.
    pub meddled: bool,
    /// Somebody once had.
    pub tampered: bool,
}

impl Process {
    fn number(&self, key: &str) -> u64 {
        self.config.get(key).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// `min-replicas-to-write`.
    pub fn min_replicas(&self) -> usize {
        usize::try_from(self.number("min-replicas-to-write")).expect("small")
    }

    /// Names the history of its data.
    pub fn history(&self) -> u64 {
        self.replid
    }

    /// It was hung, and has not looked at its clock since.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    fn cut(&mut self) {
        self.link = Link::Down;
    }
}

/// A replica's data set was replaced by its master's.
pub struct Copied {
    pub to: usize,
    pub from: usize,
    pub before: Data,
}

#[derive(Clone, Debug, Default)]
pub struct Redis {
    pub processes: Vec<Process>,
    histories: u64,
}

impl Redis {
    /// Starts a process with the command line of a launch.
    pub fn start(&mut self, task_id: &str, agent: usize, host: &str, argv: &[String]) -> usize {
        let value = |key: &str, nth: usize| {
            let at = argv.iter().position(|word| word == key)?;
            argv.get(at + nth).cloned()
        };
        let port = value("--port", 1).expect("a port").parse().expect("a number");
        let follows = value("--replicaof", 1)
            .map(|host| Address { host, port: value("--replicaof", 2).expect("a port").parse().expect("a number") });
        let (instance, _) = redisctl::model::parse_task_id(task_id).expect("one of ours");
        let owned = ["min-replicas-to-write", "min-replicas-max-lag"];
        let config =
            owned.into_iter().filter_map(|key| Some((key.to_string(), value(&format!("--{key}"), 1)?))).collect();
        let replid = self.new_history();
        self.processes.push(Process {
            task_id: task_id.to_string(),
            instance: instance.to_string(),
            address: Address { host: host.to_string(), port },
            agent,
            alive: true,
            listening: false,
            hung: false,
            stale: false,
            role: if follows.is_some() { Role::Replica } else { Role::Master },
            offset: u64::from(follows.is_some()),
            follows,
            link: Link::Down,
            ever_synced: false,
            data: 0,
            log: Vec::new(),
            replid,
            before: (0, 0),
            heard_at: Timestamp(0),
            acks: BTreeMap::new(),
            max_memory: value("--maxmemory", 1).expect("a limit").parse().expect("a number"),
            config,
            term: 0,
            meddled: false,
            tampered: false,
        });
        self.processes.len() - 1
    }

    /// Histories are named from this number on.
    pub fn count_from(&mut self, first: u64) {
        self.histories = first;
    }

    /// All that the future depends on, as text.
    pub fn fingerprint(&self, out: &mut String) {
        for (at, process) in self.processes.iter().enumerate().filter(|(_, process)| process.alive) {
            let _ = write!(out, "{at} {process:?}");
        }
    }

    fn new_history(&mut self) -> u64 {
        self.histories += 1;
        self.histories
    }

    /// The process that listens there.
    pub fn at(&self, address: &Address) -> Option<usize> {
        self.processes.iter().position(|p| p.alive && p.listening && p.address == *address)
    }

    pub fn living(&self, instance: &str) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |p| p.alive && p.instance == instance)
    }

    pub fn answer(&self, at: usize, now: Timestamp) -> Answer {
        let p = &self.processes[at];
        Answer {
            role: p.role,
            follows: p.follows.clone(),
            link_up: p.role == Role::Master || p.link == Link::Up,
            syncing: p.link == Link::Syncing,
            loading: false,
            offset: p.offset,
            replid: format!("h{}", p.replid),
            replid2: format!("h{}", p.before.0),
            parted_at: (p.before.0 != 0).then_some(p.before.1),
            last_io_s: (p.link == Link::Up).then(|| now.since_ms(p.heard_at) / 1000),
            used_memory: 1_000_000 + 1000 * u64::from(p.data.count_ones()),
            max_memory: p.max_memory,
            keys: u64::from(p.data.count_ones()),
            connected_replicas: 0,
            replicas: Vec::new(),
            disk_fails: false,
            gauges: Gauges::default(),
        }
    }

    /// REPLICAOF; to the master that it has already, it does nothing.
    pub fn follow(&mut self, at: usize, master: &Address) {
        let p = &mut self.processes[at];
        if p.role == Role::Replica && p.follows.as_ref() == Some(master) {
            return;
        }
        p.role = Role::Replica;
        p.follows = Some(master.clone());
        p.meddled = false;
        p.cut();
        p.acks.clear();
    }

    /// REPLICAOF NO ONE: a new history, which goes on from the one that it has.
    pub fn promote(&mut self, at: usize) {
        let history = self.new_history();
        let p = &mut self.processes[at];
        if p.role == Role::Master {
            return;
        }
        (p.before, p.replid) = ((p.replid, p.offset), history);
        (p.role, p.follows, p.meddled) = (Role::Master, None, false);
        p.cut();
        self.cut_followers(at);
    }

    /// REPLICAOF itself.
    pub fn detach(&mut self, at: usize) {
        let own = self.processes[at].address.clone();
        self.follow(at, &own);
    }

    /// A leader speaks to it, and cuts the connections of earlier ones.
    pub fn enter(&mut self, at: usize, term: i64) {
        let p = &mut self.processes[at];
        p.term = p.term.max(term);
    }

    /// Whether a later leader than this has spoken to it.
    pub fn is_entered_after(&self, at: usize, term: i64) -> bool {
        self.processes[at].term > term
    }

    fn cut_followers(&mut self, at: usize) {
        let address = self.processes[at].address.clone();
        self.processes.iter_mut().filter(|p| p.follows.as_ref() == Some(&address)).for_each(Process::cut);
        self.processes[at].acks.clear();
    }

    /// As the operator's own kick does it: only to a replica that has nothing and never had.
    pub fn kick(&mut self, at: usize, master: &Address) -> Result<(), String> {
        let p = &self.processes[at];
        let ready = p.role == Role::Replica && p.follows.as_ref() == Some(master) && p.data == 0;
        if !ready || p.link != Link::Down || p.ever_synced {
            return Err("it is not an idle replica that never was in sync".to_string());
        }
        if self.at(master).is_some() {
            self.processes[at].link = Link::Syncing;
        }
        Ok(())
    }

    /// A moment of a process's life. `reached`: the network between two agents works.
    pub fn tick(
        &mut self,
        at: usize,
        now: Timestamp,
        reached: impl Fn(usize, usize) -> bool,
        dice: Option<&mut Dice>,
    ) -> Option<Copied> {
        let p = &mut self.processes[at];
        if !p.alive || p.hung {
            return None;
        }
        p.stale = false;
        if !p.listening {
            p.listening = true;
            return None;
        }
        let own_agent = p.agent;
        let address = p.follows.clone().filter(|_| p.role == Role::Replica)?;
        let Some(master) = self.at(&address).filter(|master| *master != at) else {
            self.processes[at].cut();
            return None;
        };
        if !reached(own_agent, self.processes[master].agent) || self.processes[master].hung {
            let p = &mut self.processes[at];
            if now.since_ms(p.heard_at) >= LINK_TIMEOUT_MS || p.link == Link::Syncing {
                p.cut();
            }
            return None;
        }
        let source = &self.processes[master];
        if source.role == Role::Replica && source.link != Link::Up {
            self.processes[at].cut();
            return None; // It has nothing to give itself.
        }
        match self.processes[at].link {
            Link::Down => {
                self.processes[at].link = Link::Syncing;
                None
            }
            Link::Syncing => self.join(at, master, now),
            Link::Up => {
                self.stream(at, master, now, dice);
                None
            }
        }
    }

    /// The link comes up: with what is missing, or with a full copy.
    fn join(&mut self, at: usize, master: usize, now: Timestamp) -> Option<Copied> {
        let (p, m) = (&self.processes[at], &self.processes[master]);
        let same = p.replid == m.replid || (p.replid == m.before.0 && p.offset <= m.before.1);
        let partial = same && p.offset <= m.offset && p.ever_synced;
        let (replid, before, log, data, offset) = (m.replid, m.before, m.log.clone(), m.data, m.offset);
        let p = &mut self.processes[at];
        (p.link, p.ever_synced, p.heard_at) = (Link::Up, true, now);
        (p.replid, p.before) = (replid, before);
        if partial {
            return None;
        }
        let had = p.data;
        (p.log, p.data, p.offset) = (log, data, offset);
        self.cut_followers(at);
        Some(Copied { to: at, from: master, before: had })
    }

    /// Some of what is missing arrives, and is acknowledged.
    fn stream(&mut self, at: usize, master: usize, now: Timestamp, dice: Option<&mut Dice>) {
        let (ping, all) = dice.map_or((false, true), |dice| (dice.percent(20), dice.percent(50)));
        let m = &mut self.processes[master];
        if m.role == Role::Master && ping {
            m.offset += 14; // A PING to its replicas.
        }
        let (log, end) = (m.log.clone(), m.offset);
        let p = &mut self.processes[at];
        let missing = log.into_iter().filter(|(offset, _)| *offset > p.offset);
        let taken: Vec<(u64, u32)> = missing.take(if all { usize::MAX } else { 1 }).collect();
        for (offset, key) in taken {
            p.log.push((offset, key));
            p.data |= 1 << key;
            p.offset = offset;
        }
        if all {
            p.offset = p.offset.max(end);
        }
        p.heard_at = now;
        let offset = p.offset;
        self.processes[master].acks.insert(at, (offset, now));
    }

    /// Whether a client's write would be taken.
    pub fn takes_writes(&self, at: usize, now: Timestamp) -> bool {
        let p = &self.processes[at];
        let lag_ms = 1000 * p.number("min-replicas-max-lag") + LAG_SLACK_MS;
        let good = p.acks.values().filter(|(_, when)| p.stale || now.since_ms(*when) <= lag_ms).count();
        p.alive && p.role == Role::Master && !p.hung && good >= p.min_replicas()
    }

    /// A client writes a key to a master; false: it is refused.
    pub fn write(&mut self, at: usize, key: u32, now: Timestamp) -> bool {
        if !self.takes_writes(at, now) {
            return false;
        }
        let p = &mut self.processes[at];
        p.offset += 100;
        p.data |= 1 << key;
        p.log.push((p.offset, key));
        true
    }

    /// How many replicas have acknowledged that offset: the answer to WAIT.
    pub fn acknowledged(&self, at: usize, offset: u64) -> usize {
        self.processes[at].acks.values().filter(|(known, _)| *known >= offset).count()
    }

    pub fn stop(&mut self, at: usize) {
        self.processes[at].hung = true;
    }

    pub fn go_on(&mut self, at: usize) {
        let p = &mut self.processes[at];
        p.stale |= p.hung;
        p.hung = false;
    }

    /// Its replicas' connections break.
    pub fn die(&mut self, at: usize) {
        self.processes[at].alive = false;
        self.cut_followers(at);
    }

    /// All on that machine die; whoever is connected to them does not hear of it.
    pub fn die_on(&mut self, agent: usize) {
        self.processes.iter_mut().filter(|p| p.agent == agent).for_each(|p| p.alive = false);
    }
}
