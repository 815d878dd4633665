//! All that the master and the agents know, the lock around it, and what is due when. I/O.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::agent::Agent;
use super::config::ClusterConfig;
use super::fake_nodes::FakeNodes;
use super::faults::Faults;
use super::framework::Framework;
use super::json::uuid;
use super::maintenance::Maintenance;
use super::offers::{Filter, Offer};
use super::registration::Registration;

/// A task of an agent: framework id and task id.
pub(super) type TaskKey = (String, String);

/// What is due at some time. Each names what it is for so exactly that it does nothing when the
/// world has moved on.
#[derive(Clone, Debug)]
pub(super) enum Due {
    /// The next HEARTBEAT of this stream.
    Heartbeat { framework: String, stream: String },
    /// The next round of offers of this master.
    Allocate { master: u64 },
    /// Repeat the head of a task's updates if it is still this one.
    Retry { agent: usize, task: TaskKey, uuid: String, wait: Duration },
    /// SIGKILL, if this run of the task has not ended.
    KillNow { agent: usize, task: TaskKey, run: u64 },
    /// The agent has not answered for so long.
    AgentTimeout { agent_id: String, outage: u64 },
    /// The agent finds the master.
    Reregister { agent: usize },
    /// The master gives up the agents of its registry that have not come back.
    GiveUpRecovered { master: u64 },
    /// The framework has been away for its failover timeout.
    FailoverTimeout { framework: String, outage: u64 },
    /// An update that was held back, on this stream.
    Deliver { framework: String, stream: String, event: Value },
}

/// The master's memory. It dies with the master.
pub(super) struct Master {
    pub up: bool,
    /// Counts masters: the restart is a new one.
    pub number: u64,
    pub id: String,
    pub started_s: f64,
    pub frameworks: BTreeMap<String, Framework>,
    /// Removed ones, oldest first.
    pub completed: Vec<Framework>,
    /// By agent id. The registry survives, everything else does not.
    pub agents: BTreeMap<String, Registration>,
    pub offers: BTreeMap<String, Offer>,
    pub filters: Vec<Filter>,
    pub maintenance: Maintenance,
    pub next_framework: u64,
    pub next_offer: u64,
    pub next_agent: u64,
}

/// Everything.
pub(super) struct State {
    pub config: ClusterConfig,
    pub address: String,
    pub work_dir: PathBuf,
    pub fakes: Option<FakeNodes>,
    pub master: Master,
    pub agents: Vec<Agent>,
    pub faults: Faults,
    /// Scheduler calls that were answered, by type.
    pub calls: BTreeMap<String, u64>,
    pub closed: bool,
    next_run: u64,
    next_outage: u64,
    next_timer: u64,
    timers: BTreeMap<(Instant, u64), Due>,
    shared: Weak<Shared>,
}

/// The state behind its lock.
pub(super) struct Shared {
    state: Mutex<State>,
    /// A timer was set, the cluster was closed, or a process was reaped.
    changed: Condvar,
}

impl Shared {
    pub fn new(config: ClusterConfig, work_dir: PathBuf, address: String, fakes: Option<FakeNodes>) -> Arc<Shared> {
        let agents = config.agents.iter().cloned().map(Agent::new).collect();
        Arc::new_cyclic(|shared| Shared {
            state: Mutex::new(State {
                config,
                address,
                work_dir,
                fakes,
                master: Master::new(),
                agents,
                faults: Faults::default(),
                calls: BTreeMap::new(),
                closed: false,
                next_run: 0,
                next_outage: 0,
                next_timer: 0,
                timers: BTreeMap::new(),
                shared: shared.clone(),
            }),
            changed: Condvar::new(),
        })
    }

    /// Does something with the state.
    pub fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let before = state.waited_for();
        let result = f(&mut state);
        let changed = state.waited_for() != before;
        drop(state);
        if changed {
            self.changed.notify_all();
        }
        result
    }

    /// Performs what is due until the cluster is closed.
    pub fn run_timers(&self) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            let next = state.timers.first_key_value().map(|(key, _)| *key);
            match next {
                Some(key) if key.0 <= now => {
                    let due = state.timers.remove(&key).expect("it was there a moment ago");
                    state.perform(due);
                }
                Some((at, _)) => {
                    state = self.changed.wait_timeout(state, at - now).expect("no holder panics").0;
                }
                None => state = self.changed.wait(state).expect("no holder panics"),
            }
        }
    }

    /// Kills every task and waits until the processes are reaped, at most `timeout`.
    pub fn close(&self, timeout: Duration) {
        self.with(|state| {
            state.closed = true;
            state.kill_everything();
        });
        self.wait_until_reaped(|_| true, timeout);
    }

    /// Waits until the processes of these agents are reaped, at most `timeout`.
    pub fn wait_until_reaped(&self, agents: impl Fn(&Agent) -> bool, timeout: Duration) {
        let left = |state: &mut State| state.agents.iter().any(|agent| agents(agent) && agent.processes > 0);
        let _ = self.changed.wait_timeout_while(self.lock(), timeout, left);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl Master {
    fn new() -> Master {
        Master {
            up: false,
            number: 0,
            id: uuid(),
            started_s: 0.0,
            frameworks: BTreeMap::new(),
            completed: Vec::new(),
            agents: BTreeMap::new(),
            offers: BTreeMap::new(),
            filters: Vec::new(),
            maintenance: Maintenance::default(),
            next_framework: 0,
            next_offer: 0,
            next_agent: 0,
        }
    }
}

impl State {
    /// Sets a timer.
    pub fn after(&mut self, wait: Duration, due: Due) {
        self.at(Instant::now() + wait, due);
    }

    /// Sets a timer; those of the same moment are performed in the order in which they were set.
    pub fn at(&mut self, at: Instant, due: Due) {
        self.next_timer += 1;
        self.timers.insert((at, self.next_timer), due);
    }

    /// What the threads that sleep on the state wait for.
    fn waited_for(&self) -> (Option<Instant>, usize, bool) {
        let processes = self.agents.iter().map(|agent| agent.processes).sum();
        (self.timers.keys().next().map(|(at, _)| *at), processes, self.closed)
    }

    /// A number for a run of a task's process: a late report of an earlier run is known by it.
    pub fn new_run(&mut self) -> u64 {
        self.next_run += 1;
        self.next_run
    }

    /// A number for an outage of an agent or a framework: a timer of an earlier one is known by it.
    pub fn new_outage(&mut self) -> u64 {
        self.next_outage += 1;
        self.next_outage
    }

    /// For threads that report back.
    pub fn shared(&self) -> Weak<Shared> {
        self.shared.clone()
    }

    /// The agent of that hostname.
    pub fn agent_by_host(&self, hostname: &str) -> Option<usize> {
        self.agents.iter().position(|agent| agent.spec.hostname == hostname)
    }

    /// A master starts: with a new id, and the registry of the one before.
    pub fn master_started(&mut self) {
        let number = self.master.number + 1;
        let registry = std::mem::take(&mut self.master.agents);
        let maintenance = std::mem::take(&mut self.master.maintenance).recovered();
        self.master = Master { up: true, number, started_s: super::json::now_s(), maintenance, ..Master::new() };
        self.master.agents = registry.into_iter().map(|(id, agent)| (id, agent.recovered())).collect();
        self.after(self.config.allocation_interval, Due::Allocate { master: number });
        self.after(self.config.reregister_timeout, Due::GiveUpRecovered { master: number });
        for agent in 0..self.agents.len() {
            if self.agents[agent].id.is_none() {
                self.register(agent);
            } else {
                self.after(self.config.reregister_delay, Due::Reregister { agent });
            }
        }
    }

    /// The master is gone, and with it all that is not in the registry.
    pub fn master_stopped(&mut self) {
        self.master.up = false;
        self.master.frameworks.clear();
        self.master.offers.clear();
    }

    fn perform(&mut self, due: Due) {
        match due {
            Due::Heartbeat { framework, stream } => self.heartbeat(&framework, stream),
            Due::Allocate { master } if master == self.master.number && self.master.up => {
                self.allocate();
                self.after(self.config.allocation_interval, Due::Allocate { master });
            }
            Due::Retry { agent, task, uuid, wait } => self.retry_update(agent, &task, &uuid, wait),
            Due::KillNow { agent, task, run } => self.kill_now(agent, &task, run),
            Due::AgentTimeout { agent_id, outage } => self.agent_timed_out(&agent_id, outage),
            Due::Reregister { agent } => self.register(agent),
            Due::GiveUpRecovered { master } if master == self.master.number && self.master.up => {
                self.give_up_recovered();
            }
            Due::FailoverTimeout { framework, outage } => self.failover_timed_out(&framework, outage),
            Due::Deliver { framework, stream, event } => self.send_on(&framework, &stream, &event),
            Due::Allocate { .. } | Due::GiveUpRecovered { .. } => {} // Of a master that is gone.
        }
    }
}
