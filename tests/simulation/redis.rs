//! Toy Redis processes: roles, links, and data sets that a full copy replaces. Pure.

use std::collections::BTreeMap;

use redisctl::model::{Address, Answer, Role};

/// The keys of a data set, one bit each: clients of a whole history write at most 128.
pub type Data = u128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Down,
    Syncing,
    Up,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // Each is a fault of its own.
pub struct Process {
    pub task_id: String,
    pub instance: String,
    pub address: Address,
    pub agent: usize,
    pub alive: bool,
    pub listening: bool,
    pub role: Role,
    pub follows: Option<Address>,
    pub link: Link,
    pub ever_synced: bool,
    pub data: Data,
    pub offset: u64,
    pub max_memory: u64,
    pub config: BTreeMap<String, String>,
    /// Somebody else than the operator has changed its role.
    pub meddled: bool,
}

/// A replica's data set was replaced by its master's.
pub struct Copied {
    pub to: usize,
    pub from: usize,
    pub before: Data,
}

#[derive(Default)]
pub struct Redis {
    pub processes: Vec<Process>,
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
        self.processes.push(Process {
            task_id: task_id.to_string(),
            instance: instance.to_string(),
            address: Address { host: host.to_string(), port },
            agent,
            alive: true,
            listening: false,
            role: if follows.is_some() { Role::Replica } else { Role::Master },
            offset: u64::from(follows.is_some()),
            follows,
            link: Link::Down,
            ever_synced: false,
            data: 0,
            max_memory: value("--maxmemory", 1).expect("a limit").parse().expect("a number"),
            config: BTreeMap::new(),
            meddled: false,
        });
        self.processes.len() - 1
    }

    /// The process that listens there.
    pub fn at(&self, address: &Address) -> Option<usize> {
        self.processes.iter().position(|p| p.alive && p.listening && p.address == *address)
    }

    pub fn living(&self, instance: &str) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |p| p.alive && p.instance == instance)
    }

    pub fn answer(&self, at: usize) -> Answer {
        let p = &self.processes[at];
        Answer {
            role: p.role,
            follows: p.follows.clone(),
            link_up: p.role == Role::Master || p.link == Link::Up,
            syncing: p.link == Link::Syncing,
            loading: false,
            offset: p.offset,
            replid: String::new(),
            replid2: String::new(),
            last_io_s: None,
            used_memory: 1_000_000 + 1000 * u64::from(p.data.count_ones()),
            max_memory: p.max_memory,
            keys: u64::from(p.data.count_ones()),
            connected_replicas: 0,
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
        p.link = Link::Down;
        p.meddled = false;
    }

    /// As the operator's own kick does it: only to a replica that has nothing and never had.
    pub fn kick(&mut self, at: usize, master: &Address) -> Result<(), String> {
        let p = &self.processes[at];
        let ready = p.role == Role::Replica && p.follows.as_ref() == Some(master) && p.data == 0;
        if !ready || p.link != Link::Down || p.ever_synced {
            return Err("it is not an idle replica that never was in sync".to_string());
        }
        self.tick(at, true, false);
        Ok(())
    }

    /// A moment of a process's life. `reached`: its network works.
    pub fn tick(&mut self, at: usize, reached: bool, ping: bool) -> Option<Copied> {
        let p = &self.processes[at];
        if !p.alive {
            return None;
        }
        if !p.listening {
            self.processes[at].listening = true;
            return None;
        }
        let master = p.follows.as_ref().filter(|_| p.role == Role::Replica).and_then(|address| self.at(address));
        let master = master.filter(|m| *m != at && reached);
        let Some(master) = master else {
            self.processes[at].link = Link::Down;
            return None;
        };
        let (link, before) = (p.link, p.data);
        let source = &self.processes[master];
        if source.role == Role::Replica && source.link != Link::Up {
            return None; // It has nothing to give itself.
        }
        if link == Link::Down {
            self.processes[at].link = Link::Syncing;
            return None;
        }
        if source.role == Role::Master && (ping || link == Link::Syncing) {
            self.processes[master].offset += 14; // A PING to its replicas.
        }
        let (data, offset) = (self.processes[master].data, self.processes[master].offset);
        let p = &mut self.processes[at];
        (p.data, p.offset, p.link, p.ever_synced) = (data, offset, Link::Up, true);
        Some(Copied { to: at, from: master, before })
    }

    /// A client writes a key to a master.
    pub fn write(&mut self, at: usize, key: u32) {
        let p = &mut self.processes[at];
        p.data |= 1 << key;
        p.offset += 100;
    }
}
