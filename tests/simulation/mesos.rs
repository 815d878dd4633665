//! A toy Mesos: a master that forgets, agents that remember, and the links between them. Pure.
//!
//! Updates of agents are in order for each task and repeated until acknowledged; the master's own
//! are sent once, and lost when nobody is subscribed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;

use redisctl::model::{
    Amount, InverseOffer, Launch, Leaving, Meaning, MesosCall, MesosEvent, Offer, Piece, TaskState, TaskUpdate,
    Timestamp,
};

use crate::redis::Redis;

/// A disconnected agent is taken for unreachable after this time.
const UNREACHABLE_MS: u64 = 75_000;
/// The same after the master's own restart.
const REREGISTER_MS: u64 = 600_000;
/// An agent repeats an update that is not acknowledged after this time.
pub const REPEAT_MS: u64 = 10_000;
/// Ports of each agent: few, so that they are used again.
const PORTS: (u16, u16) = (20_000, 20_011);
const DRAINING: &str = "REASON_AGENT_DRAINING";
const CPUS_MILLI: u64 = 4000;

/// What the master thinks of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Registered,
    Disconnected(Timestamp),
    /// Not heard of since the master was restarted.
    Recovering(Timestamp),
    Unreachable,
    /// A human has said that it will not come back.
    Gone,
    /// Removed in an orderly way, and forgotten.
    Removed,
}

#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // Each is a fault of its own.
pub struct Agent {
    pub id: String,
    pub host: String,
    pub rack: String,
    pub mem_mib: u64,
    pub seen: Seen,
    /// The machine runs.
    pub up: bool,
    /// The Mesos agent runs; its tasks do not need it.
    pub serving: bool,
    /// Nothing reaches the machine.
    pub cut: bool,
    /// The operator does not reach it; others do.
    pub unseen: bool,
    /// Other machines do not reach it; the operator does.
    pub split: bool,
    /// Will not come back.
    pub lost: bool,
    /// Why it is to be emptied.
    pub leaving: Option<Leaving>,
    pub tasks: BTreeMap<String, AgentTask>,
    pub to_master: VecDeque<Report>,
    pub from_master: VecDeque<Order>,
    pub repeat_at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct AgentTask {
    /// Of one that the agent never had: none.
    pub process: Option<usize>,
    pub state: TaskState,
    pub updates: VecDeque<Update>,
    used: Bundle,
}

#[derive(Clone, Debug)]
pub struct Update {
    uuid: String,
    state: TaskState,
    reason: Option<&'static str>,
}

/// From an agent to the master.
#[derive(Clone, Debug)]
pub struct Report {
    task_id: String,
    update: Update,
    latest: TaskState,
}

/// From the master to an agent.
#[derive(Clone, Debug)]
pub enum Order {
    Run(Launch),
    Kill(String),
    Acknowledge(String, String),
    /// Say what became of this task, which you do not know.
    Account(String),
}

#[derive(Clone, Debug)]
struct Task {
    agent: usize,
    state: TaskState,
    latest: TaskState,
    uuid: Option<String>,
    used: Bundle,
    kill: bool,
}

/// Resources.
#[derive(Clone, Debug, Default)]
struct Bundle {
    mem_milli: u64,
    cpus_milli: u64,
    ports: BTreeSet<u16>,
}

impl Bundle {
    fn of(pieces: &[Piece]) -> Bundle {
        let mut sum = Bundle::default();
        for piece in pieces {
            match (&piece.amount, piece.name.as_str()) {
                (Amount::Milli(milli), "mem") => sum.mem_milli += milli,
                (Amount::Milli(milli), "cpus") => sum.cpus_milli += milli,
                (Amount::Ranges(ranges), "ports") => sum.ports.extend(ranges.iter().flat_map(|(a, b)| *a..=*b)),
                _ => {}
            }
        }
        sum
    }

    fn holds(&self, part: &Bundle) -> bool {
        self.mem_milli >= part.mem_milli && self.cpus_milli >= part.cpus_milli && self.ports.is_superset(&part.ports)
    }

    fn take(&mut self, part: &Bundle) {
        self.mem_milli = self.mem_milli.saturating_sub(part.mem_milli);
        self.cpus_milli = self.cpus_milli.saturating_sub(part.cpus_milli);
        self.ports.retain(|port| !part.ports.contains(port));
    }

    fn give(&mut self, part: &Bundle) {
        self.mem_milli += part.mem_milli;
        self.cpus_milli += part.cpus_milli;
        self.ports.extend(&part.ports);
    }

    fn pieces(&self) -> Vec<Piece> {
        let piece =
            |name: &str, amount| Piece { name: name.to_string(), amount, reservations: serde_json::Value::Null };
        let ports = self.ports.iter().map(|port| (*port, *port)).collect();
        vec![
            piece("cpus", Amount::Milli(self.cpus_milli)),
            piece("mem", Amount::Milli(self.mem_milli)),
            piece("ports", Amount::Ranges(ports)),
        ]
    }
}

#[derive(Clone, Debug, Default)]
pub struct Mesos {
    pub agents: Vec<Agent>,
    pub up: bool,
    pub subscription: Option<u64>,
    /// Whoever subscribed does not read any more: another operator leads.
    deaf: bool,
    /// Events on their way to the operator.
    pub events: VecDeque<MesosEvent>,
    tasks: BTreeMap<String, Task>,
    offers: BTreeMap<String, (usize, Bundle)>,
    filters: BTreeMap<usize, (Timestamp, Bundle)>,
    inverse_offers: BTreeMap<String, usize>,
    offering: bool,
    allocate: bool,
    count: u64,
    /// Tasks that were ever launched, to see that none is twice.
    pub launched: BTreeSet<String>,
    /// What the operator did that it must not.
    pub broken: Vec<String>,
}

impl Agent {
    pub fn linked(&self) -> bool {
        self.seen == Seen::Registered
    }

    fn offers(&self) -> bool {
        self.linked() && !matches!(self.leaving, Some(Leaving::Drained | Leaving::Deactivated))
    }

    fn unavailable_from(&self) -> Option<Timestamp> {
        match self.leaving? {
            Leaving::Maintenance(from) => Some(from),
            _ => None,
        }
    }

    fn reason(&self) -> Option<&'static str> {
        (self.leaving == Some(Leaving::Drained)).then_some(DRAINING)
    }

    /// Processes on it can be reached.
    pub fn reached(&self) -> bool {
        self.up && !self.cut && !self.unseen
    }

    /// Other machines reach it.
    pub fn joined(&self) -> bool {
        self.up && !self.cut && !self.split
    }

    pub fn can_register(&self) -> bool {
        self.up && self.serving && !self.cut && !self.lost && !matches!(self.seen, Seen::Registered | Seen::Removed)
    }

    /// Whether that update tells the end of that task.
    pub fn ended(&self, task_id: &str, uuid: &str) -> bool {
        let task = self.tasks.get(task_id);
        task.and_then(|t| t.updates.front()).is_some_and(|u| u.uuid == uuid && u.state.meaning() == Meaning::Dead)
    }

    fn report(&mut self, task_id: &str) {
        let linked = self.linked() && self.serving;
        let Some(task) = self.tasks.get(task_id) else { return };
        if let Some(update) = task.updates.front().filter(|_| linked) {
            let update = update.clone();
            self.to_master.push_back(Report { task_id: task_id.to_string(), update, latest: task.state });
        }
    }
}

impl Mesos {
    /// Ids begin with this number.
    pub fn count_from(&mut self, first: u64) {
        self.count = first;
    }

    pub fn with_agents(count: usize, mem_mib: u64) -> Mesos {
        let agent = |i: usize| Agent {
            id: format!("S{i}"),
            host: format!("10.0.0.{}", i + 1),
            rack: format!("r{}", i % 3),
            mem_mib,
            seen: Seen::Registered,
            up: true,
            serving: true,
            cut: false,
            unseen: false,
            split: false,
            lost: false,
            leaving: None,
            tasks: BTreeMap::new(),
            to_master: VecDeque::new(),
            from_master: VecDeque::new(),
            repeat_at: Timestamp(0),
        };
        Mesos { agents: (0..count).map(agent).collect(), up: true, ..Mesos::default() }
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn tell(&mut self, event: MesosEvent) {
        if self.up && self.subscription.is_some() && !self.deaf {
            self.events.push_back(event);
        }
    }

    /// An update of the master's own making: sent once.
    fn say(&mut self, task_id: &str, agent: Option<usize>, state: TaskState, reason: &str) {
        let agent_id = agent.map(|at| self.agents[at].id.clone());
        let reason = Some(reason.to_string());
        let update =
            TaskUpdate { task_id: task_id.to_string(), agent_id, state, reason, message: String::new(), uuid: None };
        self.tell(MesosEvent::Update(update));
    }

    fn agent_at(&self, id: &str) -> Option<usize> {
        self.agents.iter().position(|agent| agent.id == id)
    }

    // --- The operator's session --------------------------------------------------------------

    pub fn subscribe(&mut self, subscription: u64) {
        self.offering = false;
        if std::mem::take(&mut self.deaf) {
            self.subscription = None; // An older subscription of the framework is closed.
        }
        self.drop_offers(None);
        self.subscription = Some(subscription);
        self.tell(MesosEvent::Subscribed { framework_id: "F".to_string(), subscription });
        self.tell_leaving();
        self.ask_back();
    }

    /// Another operator leads than the one that subscribed: what was on its way to that reaches nobody.
    pub fn orphan(&mut self) {
        self.events.clear();
        self.deaf |= self.subscription.is_some();
    }

    /// Whether somebody reads the events.
    pub fn is_read(&self) -> bool {
        self.subscription.is_some() && !self.deaf
    }

    /// The stream ends; of what was under way only so much still arrives.
    pub fn cut_session(&mut self, arrive: usize) {
        self.events.truncate(arrive);
        if self.subscription.take().is_some() && !std::mem::take(&mut self.deaf) {
            self.events.push_back(MesosEvent::Disconnected { reason: "the stream ended".to_string() });
        }
        self.drop_offers(None);
    }

    pub fn call(&mut self, call: MesosCall, now: Timestamp) {
        match call {
            MesosCall::Accept { offer_ids, launches, refuse_s } => self.accept(&offer_ids, launches, refuse_s, now),
            MesosCall::Decline { offer_ids, refuse_s } => {
                for id in offer_ids {
                    if let Some((agent, rest)) = self.offers.remove(&id) {
                        self.filter(agent, rest, refuse_s, now);
                    }
                }
            }
            MesosCall::AcceptInverse(ids) => ids.iter().for_each(|id| self.agree(id)),
            MesosCall::Suppress => self.offering = false,
            MesosCall::Constrain(_) => {} // Here all agents are alike.
            MesosCall::Revive => {
                self.offering = true;
                self.filters.clear();
                self.allocate = true;
            }
            MesosCall::Kill { task_id, .. } => match self.tasks.get_mut(&task_id) {
                Some(task) => {
                    task.kill = true;
                    let agent = task.agent;
                    self.order(agent, Order::Kill(task_id));
                }
                None => self.reconcile(&task_id, None),
            },
            MesosCall::Acknowledge { task_id, agent_id, uuid } => {
                if let Some(agent) = self.agent_at(&agent_id).filter(|at| self.agents[*at].linked()) {
                    let over = |t: &Task| t.uuid.as_ref() == Some(&uuid) && t.state.meaning() == Meaning::Dead;
                    if self.tasks.get(&task_id).is_some_and(over) {
                        self.tasks.remove(&task_id);
                    }
                    self.order(agent, Order::Acknowledge(task_id, uuid));
                }
            }
            MesosCall::Reconcile(tasks) if tasks.is_empty() => {
                let known: Vec<String> = self.tasks.keys().cloned().collect();
                for task_id in known {
                    self.reconcile(&task_id, None);
                }
            }
            MesosCall::Reconcile(tasks) => {
                for (task_id, agent_id) in tasks {
                    self.reconcile(&task_id, agent_id.as_deref());
                }
            }
        }
    }

    fn reconcile(&mut self, task_id: &str, agent_id: Option<&str>) {
        let known = self.tasks.get(task_id).map(|task| (task.agent, task.state));
        let (agent, state) = match (known, agent_id) {
            (Some((agent, state)), _) => (Some(agent), state),
            (None, None) => {
                if self.agents.iter().any(|agent| matches!(agent.seen, Seen::Recovering(_))) {
                    return; // Who knows what the missing ones run.
                }
                (None, TaskState::Unknown)
            }
            (None, Some(id)) => {
                let agent = self.agent_at(id).filter(|at| self.agents[*at].seen != Seen::Removed);
                match agent.map(|at| self.agents[at].seen) {
                    Some(Seen::Recovering(_)) => return,
                    Some(Seen::Registered | Seen::Disconnected(_)) => (agent, TaskState::Gone),
                    Some(Seen::Unreachable) => (agent, TaskState::Unreachable),
                    Some(Seen::Gone) => (agent, TaskState::GoneByOperator),
                    Some(Seen::Removed) | None => (None, TaskState::Unknown),
                }
            }
        };
        self.say(task_id, agent, state, "REASON_RECONCILIATION");
    }

    fn accept(&mut self, offer_ids: &[String], launches: Vec<Launch>, refuse_s: f64, now: Timestamp) {
        for launch in &launches {
            if !self.launched.insert(launch.task_id.clone()) {
                self.broken.push(format!("task {} is launched twice", launch.task_id));
            }
        }
        let offers: Vec<(usize, Bundle)> = offer_ids.iter().filter_map(|id| self.offers.remove(id)).collect();
        let agent = offers.first().map(|(agent, _)| *agent);
        let Some(agent) = agent.filter(|_| offers.len() == offer_ids.len()) else {
            for launch in launches {
                let at = self.agent_at(&launch.agent_id);
                self.say(&launch.task_id, at, TaskState::Dropped, "REASON_INVALID_OFFERS");
            }
            return;
        };
        let mut rest = Bundle::default();
        for (_, part) in &offers {
            rest.give(part);
        }
        for launch in launches {
            let used = Bundle::of(&launch.pieces);
            if !rest.holds(&used)
                || offers.iter().any(|(at, _)| *at != agent)
                || launch.agent_id != self.agents[agent].id
            {
                self.broken.push(format!("{} is launched with what was not offered", launch.task_id));
            }
            if self.agents[agent].leaving == Some(Leaving::Drained) {
                self.say(&launch.task_id, Some(agent), TaskState::Dropped, "REASON_AGENT_DRAINING");
                continue;
            }
            rest.take(&used);
            let state = TaskState::Staging;
            let task = Task { agent, state, latest: state, uuid: None, used, kill: false };
            self.tasks.insert(launch.task_id.clone(), task);
            self.order(agent, Order::Run(launch));
        }
        self.filter(agent, rest, refuse_s, now);
    }

    fn filter(&mut self, agent: usize, refused: Bundle, refuse_s: f64, now: Timestamp) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let until = now.plus_ms((refuse_s * 1000.0) as u64);
        self.filters.insert(agent, (until, refused));
    }

    fn drop_offers(&mut self, agent: Option<usize>) {
        let void: Vec<String> = self
            .offers
            .iter()
            .filter(|(_, (at, _))| agent.is_none_or(|a| a == *at))
            .map(|(id, _)| id.clone())
            .collect();
        for id in void {
            self.offers.remove(&id);
            self.tell(MesosEvent::Rescind(id));
        }
    }

    /// Takes an offer back, as the allocator does for its own reasons.
    pub fn rescind(&mut self, nth: usize) -> bool {
        let Some(agent) = self.offers.values().nth(nth).map(|(agent, _)| *agent) else { return false };
        self.drop_offers(Some(agent));
        self.allocate = true;
        true
    }

    fn free(&self, agent: usize) -> Bundle {
        let mut free = Bundle {
            mem_milli: self.agents[agent].mem_mib * 1000,
            cpus_milli: CPUS_MILLI,
            ports: (PORTS.0..=PORTS.1).collect(),
        };
        let running = self.tasks.values().filter(|t| t.agent == agent && t.latest.meaning() != Meaning::Dead);
        running.for_each(|task| free.take(&task.used));
        self.offers.values().filter(|(at, _)| *at == agent).for_each(|(_, part)| free.take(part));
        free
    }

    /// Whether a node with these needs would fit on the agent, offers withdrawn.
    pub fn fits(&self, agent: usize, mem_mib: u64, cpus_milli: u64, avoid: &BTreeSet<u16>) -> bool {
        let mut free = self.free(agent);
        self.offers.values().filter(|(at, _)| *at == agent).for_each(|(_, part)| free.give(part));
        let a = &self.agents[agent];
        a.linked()
            && a.leaving.is_none()
            && free.mem_milli >= mem_mib * 1000
            && free.cpus_milli >= cpus_milli
            && free.ports.iter().any(|port| !avoid.contains(port))
    }

    /// Agents that would be offered now.
    fn offerable(&self, now: Timestamp) -> Vec<(usize, Bundle)> {
        if !self.up || self.subscription.is_none() || !self.offering {
            return Vec::new();
        }
        let free = (0..self.agents.len()).filter(|at| self.agents[*at].offers());
        free.map(|at| (at, self.free(at)))
            .filter(|(at, free)| {
                let hidden = self.filters.get(at).is_some_and(|(until, refused)| *until > now && refused.holds(free));
                free.mem_milli > 0 && !free.ports.is_empty() && !hidden
            })
            .collect()
    }

    pub fn can_allocate(&self, now: Timestamp) -> bool {
        self.allocate || !self.offerable(now).is_empty()
    }

    pub fn allocate(&mut self, now: Timestamp) {
        self.allocate = false;
        let offers: Vec<Offer> = self
            .offerable(now)
            .into_iter()
            .map(|(at, free)| {
                let id = format!("O{}", self.next());
                let agent = &self.agents[at];
                let offer = Offer {
                    id: id.clone(),
                    agent_id: agent.id.clone(),
                    hostname: agent.host.clone(),
                    host: agent.host.clone(),
                    role: "redis".to_string(),
                    attributes: BTreeMap::from([("rack".to_string(), agent.rack.clone())]),
                    unavailable_from: agent.unavailable_from(),
                    pieces: free.pieces(),
                };
                self.offers.insert(id, (at, free));
                offer
            })
            .collect();
        if !offers.is_empty() {
            self.tell(MesosEvent::Offers(offers));
        }
    }

    // --- Agents that are to be emptied -------------------------------------------------------

    /// An agent is to be emptied; drained, its tasks are killed.
    pub fn leave(&mut self, at: usize, why: Leaving) {
        self.agents[at].leaving = Some(why);
        self.drop_offers(Some(at));
        self.allocate = true;
        self.tell_leaving();
        self.ask_back();
        if why == Leaving::Drained {
            let its: Vec<String> = self.tasks.iter().filter(|(_, t)| t.agent == at).map(|(id, _)| id.clone()).collect();
            for task_id in its {
                self.order(at, Order::Kill(task_id));
            }
        }
    }

    /// It is not any more.
    pub fn stay(&mut self, at: usize) {
        if self.agents[at].leaving.take().is_some() {
            self.tell_leaving();
            self.ask_back();
            self.allocate = true;
        }
    }

    fn tell_leaving(&mut self) {
        let agents = self.agents.iter().filter_map(|agent| Some((agent.id.clone(), agent.leaving?)));
        self.tell(MesosEvent::Leaving(agents.collect()));
    }

    /// All inverse offers are rescinded and made anew, as whenever the schedule changes.
    fn ask_back(&mut self) {
        for id in std::mem::take(&mut self.inverse_offers).into_keys() {
            self.tell(MesosEvent::RescindInverse(id));
        }
        let used = |at: &usize| self.tasks.values().any(|t| t.agent == *at && t.latest.meaning() != Meaning::Dead);
        let asked: Vec<usize> = (0..self.agents.len()).filter(used).collect();
        for at in asked {
            let Some(from) = self.agents[at].unavailable_from() else { continue };
            let id = format!("I{}", self.next());
            self.inverse_offers.insert(id.clone(), at);
            let agent_id = self.agents[at].id.clone();
            self.tell(MesosEvent::InverseOffers(vec![InverseOffer { id, agent_id, from }]));
        }
    }

    fn agree(&mut self, id: &str) {
        let Some(at) = self.inverse_offers.remove(id) else { return };
        let agent = &self.agents[at];
        let runs = |t: &Task| t.agent == at && t.latest == TaskState::Running && !t.kill;
        if agent.linked() && self.tasks.values().any(runs) {
            self.broken.push(format!("agent {} is given back, and a task runs there", agent.id));
        }
    }

    // --- Agents ------------------------------------------------------------------------------

    fn order(&mut self, agent: usize, order: Order) {
        if self.agents[agent].linked() {
            self.agents[agent].from_master.push_back(order);
        }
    }

    /// The agent does what the master sent first.
    pub fn obey(&mut self, at: usize, redis: &mut Redis) {
        let Some(order) = self.agents[at].from_master.pop_front() else { return };
        match order {
            Order::Run(launch) => {
                let host = self.agents[at].host.clone();
                let process = redis.start(&launch.task_id, at, &host, &launch.argv);
                let task = AgentTask {
                    process: Some(process),
                    state: TaskState::Staging,
                    updates: VecDeque::new(),
                    used: Bundle::of(&launch.pieces),
                };
                self.agents[at].tasks.insert(launch.task_id.clone(), task);
                self.update(at, &launch.task_id, TaskState::Starting, None);
                let taken = |p: &crate::redis::Process| p.alive && p.address == redis.processes[process].address;
                if redis.processes.iter().filter(|p| taken(p)).count() > 1 {
                    redis.die(process);
                    self.update(at, &launch.task_id, TaskState::Failed, Some("REASON_COMMAND_EXECUTOR_FAILED"));
                } else {
                    self.update(at, &launch.task_id, TaskState::Running, None);
                }
            }
            Order::Kill(task_id) => {
                let runs = |t: &&AgentTask| matches!(t.state, TaskState::Starting | TaskState::Running);
                if self.agents[at].tasks.get(&task_id).as_ref().is_some_and(runs) {
                    let reason = self.agents[at].reason();
                    self.update(at, &task_id, TaskState::Killing, reason);
                }
            }
            Order::Acknowledge(task_id, uuid) => {
                let Some(task) = self.agents[at].tasks.get_mut(&task_id) else { return };
                if task.updates.front().is_some_and(|update| update.uuid == uuid) {
                    task.updates.pop_front();
                    if task.updates.is_empty() && task.state.meaning() == Meaning::Dead {
                        self.agents[at].tasks.remove(&task_id);
                    } else {
                        self.agents[at].report(&task_id);
                    }
                }
            }
            Order::Account(task_id) => {
                if !self.agents[at].tasks.contains_key(&task_id) {
                    let task = AgentTask {
                        process: None,
                        state: TaskState::Dropped,
                        updates: VecDeque::new(),
                        used: Bundle::default(),
                    };
                    self.agents[at].tasks.insert(task_id.clone(), task);
                    self.update(at, &task_id, TaskState::Dropped, Some("REASON_RECONCILIATION"));
                }
            }
        }
    }

    fn update(&mut self, at: usize, task_id: &str, state: TaskState, reason: Option<&'static str>) {
        let uuid = format!("u{}", self.next());
        let Some(task) = self.agents[at].tasks.get_mut(task_id) else { return };
        task.state = state;
        task.updates.push_back(Update { uuid, state, reason });
        if task.updates.len() == 1 {
            self.agents[at].report(task_id);
        }
    }

    /// What the agent sent first reaches the master.
    pub fn hear(&mut self, at: usize) {
        let Some(Report { task_id, update, latest }) = self.agents[at].to_master.pop_front() else { return };
        if !self.up || !self.agents[at].linked() {
            return;
        }
        if let Some(task) = self.tasks.get_mut(&task_id) {
            task.latest = latest;
            if self.subscription.is_some() {
                task.state = update.state;
                task.uuid = Some(update.uuid.clone());
            }
        }
        self.tell(MesosEvent::Update(TaskUpdate {
            task_id,
            agent_id: Some(self.agents[at].id.clone()),
            state: update.state,
            reason: update.reason.map(str::to_string),
            message: String::new(),
            uuid: Some(update.uuid),
        }));
    }

    /// Whether the agent has something to repeat.
    pub fn repeats(&self, at: usize) -> bool {
        let agent = &self.agents[at];
        agent.linked() && agent.serving && agent.tasks.values().any(|task| !task.updates.is_empty())
    }

    /// The agent repeats what was not acknowledged.
    pub fn repeat(&mut self, at: usize, now: Timestamp) {
        self.agents[at].repeat_at = now.plus_ms(REPEAT_MS);
        let waiting: Vec<String> =
            self.agents[at].tasks.iter().filter(|(_, t)| !t.updates.is_empty()).map(|(id, _)| id.clone()).collect();
        for task_id in waiting {
            self.agents[at].report(&task_id);
        }
    }

    /// Processes that were told to end have ended. Answers which.
    pub fn reap(&mut self, at: usize, redis: &mut Redis) -> Vec<usize> {
        let killing = self.agents[at].tasks.iter().filter(|(_, t)| t.state == TaskState::Killing);
        let ended: Vec<(String, usize)> = killing.filter_map(|(id, task)| Some((id.clone(), task.process?))).collect();
        for (task_id, process) in &ended {
            redis.die(*process);
            let reason = self.agents[at].reason();
            self.update(at, task_id, TaskState::Killed, reason);
        }
        ended.into_iter().map(|(_, process)| process).collect()
    }

    pub fn dies(&mut self, process: usize, redis: &mut Redis) {
        redis.die(process);
        let p = &redis.processes[process];
        let (agent, task_id) = (p.agent, p.task_id.clone());
        let failed = |t: &AgentTask| t.state.meaning() != Meaning::Dead;
        if self.agents[agent].tasks.get(&task_id).is_some_and(failed) {
            self.update(agent, &task_id, TaskState::Failed, Some("REASON_COMMAND_EXECUTOR_FAILED"));
        }
    }

    pub fn unlink(&mut self, at: usize, now: Timestamp) {
        let agent = &mut self.agents[at];
        agent.to_master.clear();
        agent.from_master.clear();
        if agent.seen == Seen::Registered {
            agent.seen = Seen::Disconnected(now);
            self.drop_offers(Some(at));
        }
    }

    /// The machine dies, and all its processes.
    pub fn crash(&mut self, at: usize, redis: &mut Redis, now: Timestamp) {
        self.unlink(at, now);
        self.agents[at].up = false;
        redis.die_on(at);
    }

    /// The machine starts again: the agent finds its records, and no processes.
    pub fn boot(&mut self, at: usize) {
        self.agents[at].up = true;
        let running = self.agents[at].tasks.iter().filter(|(_, t)| t.state.meaning() != Meaning::Dead);
        let failed: Vec<String> = running.map(|(id, _)| id.clone()).collect();
        for task_id in failed {
            self.update(at, &task_id, TaskState::Failed, Some("REASON_EXECUTOR_TERMINATED"));
        }
    }

    /// When the master will give the agent up.
    pub fn gives_up_at(&self, at: usize) -> Option<Timestamp> {
        match self.agents[at].seen {
            Seen::Disconnected(since) => Some(since.plus_ms(UNREACHABLE_MS)),
            Seen::Recovering(since) => Some(since.plus_ms(REREGISTER_MS)),
            _ => None,
        }
    }

    pub fn lose_agent(&mut self, at: usize, seen: Seen, state: TaskState, reason: &str) {
        self.agents[at].to_master.clear();
        self.agents[at].from_master.clear();
        self.drop_offers(Some(at));
        self.agents[at].seen = seen;
        let lost: Vec<String> = self.tasks.iter().filter(|(_, t)| t.agent == at).map(|(id, _)| id.clone()).collect();
        for task_id in lost {
            self.tasks.remove(&task_id);
            self.say(&task_id, Some(at), state, reason);
        }
        self.tell(MesosEvent::AgentFailed(self.agents[at].id.clone()));
    }

    pub fn give_up(&mut self, at: usize) {
        self.lose_agent(at, Seen::Unreachable, TaskState::Unreachable, "REASON_AGENT_REMOVED");
    }

    pub fn register(&mut self, at: usize, redis: &mut Redis, now: Timestamp) {
        let was = self.agents[at].seen;
        if was == Seen::Gone {
            self.agents[at].tasks.clear(); // It is told to shut down, and does.
            self.agents[at].lost = true;
            redis.die_on(at);
            return;
        }
        self.agents[at].seen = Seen::Registered;
        let unknown = self.agents[at].tasks.iter().filter(|(id, _)| !self.tasks.contains_key(*id));
        let forwarded = |task: &AgentTask| task.updates.front().map_or(task.state, |update| update.state);
        let unknown: Vec<(String, TaskState, TaskState, Bundle)> =
            unknown.map(|(id, task)| (id.clone(), forwarded(task), task.state, task.used.clone())).collect();
        for (task_id, state, latest, used) in unknown {
            let task = Task { agent: at, state, latest, uuid: None, used, kill: false };
            self.tasks.insert(task_id.clone(), task);
            if was == Seen::Unreachable {
                self.say(&task_id, Some(at), latest, "REASON_AGENT_REREGISTERED");
            }
        }
        let missing = |(id, t): &(&String, &Task)| t.agent == at && !self.agents[at].tasks.contains_key(*id);
        let missing: Vec<String> = self.tasks.iter().filter(missing).map(|(id, _)| id.clone()).collect();
        let kills = self.tasks.iter().filter(|(_, t)| t.agent == at && t.kill && t.latest.meaning() != Meaning::Dead);
        let kills: Vec<String> = kills.map(|(id, _)| id.clone()).collect();
        for task_id in missing {
            self.order(at, Order::Account(task_id));
        }
        for task_id in kills {
            self.order(at, Order::Kill(task_id));
        }
        self.repeat(at, now);
    }

    /// The master ends; another one has only what agents will tell.
    pub fn fail_over(&mut self, arrive: usize, now: Timestamp) {
        self.cut_session(arrive);
        self.tasks.clear();
        self.offers.clear();
        self.filters.clear();
        for agent in &mut self.agents {
            agent.to_master.clear();
            agent.from_master.clear();
            if matches!(agent.seen, Seen::Registered | Seen::Disconnected(_)) {
                agent.seen = Seen::Recovering(now);
            }
        }
        self.up = false;
    }

    /// All that the future depends on, as text.
    pub fn fingerprint(&self, out: &mut String) {
        let Mesos { agents, up, subscription, deaf, events, tasks, offers, filters, offering, allocate, .. } = self;
        let flags = (up, subscription, deaf, offering, allocate);
        let _ = write!(out, "{agents:?} {flags:?} {events:?} {tasks:?} {offers:?} {filters:?}");
    }

    pub fn has_offers(&self) -> usize {
        self.offers.len()
    }

    /// Whether a task runs, or is about to, as far as agents and orders to them say.
    pub fn running(&self) -> impl Iterator<Item = (&str, usize)> {
        self.agents.iter().enumerate().flat_map(|(at, agent)| {
            let live = agent.tasks.iter().filter(|(_, t)| t.state.meaning() != Meaning::Dead && agent.up);
            let ordered = agent.from_master.iter().filter_map(|order| match order {
                Order::Run(launch) => Some(launch.task_id.as_str()),
                _ => None,
            });
            live.map(|(id, _)| id.as_str()).chain(ordered).map(move |id| (id, at))
        })
    }
}
