//! The operator as controller.rs and execute.rs run it, cut into single acts, so that it can die
//! between any two of them. All that it decides is the real code: world, planner, session planner,
//! check of invariants, transactions. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use redisctl::model::{Address, MesosCall, MesosEvent, Probe, Timestamp};
use redisctl::reconcile::action::Plan;
use redisctl::reconcile::draft::{Observed, PlanSettings};
use redisctl::reconcile::execute::{Failure, Input, Work};
use redisctl::reconcile::invariants;
use redisctl::reconcile::offers::{Asked, plan_session};
use redisctl::reconcile::plan::plan_instance;
use redisctl::reconcile::transaction::transaction;
use redisctl::reconcile::world::{Dirty, Done, Event, Note, Session, World};
use redisctl::store::{FRAMEWORK_KEY, Guard, LeaderToken, Listing, Op, Txn};

use crate::dice::Dice;
use crate::judge::Promises;
use crate::mesos::Mesos;
use crate::planted::Bug;
use crate::redis::Redis;
use crate::store::Store;

mod executor;
mod fingerprint;
mod former;

use executor::Switch;
pub use former::Former;

/// First and longest backoff after a failed pass, as the controller has it.
const BACKOFF_MS: (u64, u64) = (100, 1000);
/// Every instance is looked at this often at least.
const RESYNC_MS: u64 = 600_000;

/// Passes whose launches share offers, under way.
#[derive(Clone, Debug)]
pub struct Round {
    subscription: u64,
    works: Vec<Doing>,
    /// Set once all are committed.
    accepts: Option<VecDeque<(MesosCall, Vec<String>)>>,
}

#[derive(Clone, Debug)]
struct Doing {
    work: Work,
    committed: Option<Result<(), Failure>>,
    steps: usize,
    /// A change of roles has failed: those that rest on it are left.
    roles_end: bool,
    /// Its pass has ended without it.
    apart: bool,
    done: bool,
}

/// How the next commit comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answered,
    /// The answer is lost; it was done.
    DoneUnknown,
    /// The answer is lost; it was not done.
    NotDoneUnknown,
    /// The answer is lost; it will be done later.
    LaterUnknown,
}

#[derive(Clone, Debug)]
pub struct Operator {
    pub world: World,
    pub token: LeaderToken,
    asked: Asked,
    framework_stored: Option<String>,
    dirty: BTreeSet<String>,
    busy: BTreeSet<String>,
    wanting: BTreeSet<String>,
    revisits: BTreeMap<String, Timestamp>,
    session_revisit: Option<Timestamp>,
    backoffs: BTreeMap<String, (u64, Timestamp)>,
    unknown: BTreeSet<String>,
    synced: bool,
    board: BTreeSet<String>,
    pub probed: BTreeMap<String, Address>,
    resync_at: Timestamp,
    passes_max: usize,
    pub inputs: VecDeque<Input>,
    pub probes: VecDeque<Probe>,
    pub rounds: Vec<Round>,
    /// Calls that wait for the master: acknowledgements have a lane of their own.
    pub calls: [VecDeque<(u64, MesosCall)>; 2],
    /// The revision up to which the watch has told; none: list first.
    pub watched: Option<i64>,
    listing: Option<Listing>,
    /// Transactions that are still on their way to the store.
    pub late: Vec<Txn>,
    /// It has this bug.
    pub bug: Option<Bug>,
    /// A switchover was lost in its midst.
    pub switch_lost: bool,
    /// Plans made with something in them, for the judge; counted.
    pub acts: u64,
    settings: PlanSettings,
}

/// What an act concerns beside the operator.
pub struct Around<'a> {
    pub store: &'a mut Store,
    pub mesos: &'a mut Mesos,
    pub redis: &'a mut Redis,
    pub now: Timestamp,
    pub promises: &'a Promises,
    /// The store has lost something.
    pub robbed: bool,
    /// Switchovers are lost after this stage; none: that is up to the dice.
    pub cut: Option<u64>,
    /// What went wrong, as seen from inside.
    pub broken: Vec<String>,
    /// For people, when somebody reads it.
    pub story: Option<&'a mut Vec<String>>,
}

impl Around<'_> {
    fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(line());
        }
    }

    /// Whether the operator, or its way to the nodes, is lost after that stage of a switchover.
    fn lost(&self, stage: u64, dice: &mut Dice) -> Result<(), Switch> {
        let lost = self.cut.map_or_else(|| dice.percent(5), |cut| cut == stage);
        if lost { Err(Switch::Unknown("lost in the midst".to_string())) } else { Ok(()) }
    }

    /// The process that listens there, if the operator reaches it and it answers.
    fn redis_at(&self, address: &Address) -> Option<usize> {
        self.redis.at(address).filter(|at| self.reached(address) && !self.redis.processes[*at].hung)
    }

    /// Whether the network reaches that node.
    fn reached(&self, address: &Address) -> bool {
        self.mesos.agents.iter().any(|agent| agent.host == address.host && agent.reached())
    }
}

impl Operator {
    pub fn start(store: &mut Store, passes_max: usize, now: Timestamp) -> Operator {
        let framework = store.items.get(FRAMEWORK_KEY).map(|item| String::from_utf8(item.value.clone()).unwrap());
        let mut world = World::default();
        world.framework_id.clone_from(&framework);
        Operator {
            world,
            token: store.elect(),
            asked: Asked::default(),
            framework_stored: framework,
            dirty: BTreeSet::new(),
            busy: BTreeSet::new(),
            wanting: BTreeSet::new(),
            revisits: BTreeMap::new(),
            session_revisit: None,
            backoffs: BTreeMap::new(),
            unknown: BTreeSet::new(),
            synced: false,
            board: BTreeSet::new(),
            probed: BTreeMap::new(),
            resync_at: now.plus_ms(RESYNC_MS),
            passes_max,
            inputs: VecDeque::new(),
            probes: VecDeque::new(),
            rounds: Vec::new(),
            calls: [VecDeque::new(), VecDeque::new()],
            watched: None,
            listing: None,
            late: Vec::new(),
            bug: None,
            switch_lost: false,
            acts: 0,
            settings: PlanSettings::default(),
        }
    }

    // --- The reflector -----------------------------------------------------------------------

    /// Lists the store; what is read is told in a second act.
    pub fn list(&mut self, store: &Store) {
        match self.listing.take() {
            None => self.listing = Some(store.listing()),
            Some(listing) => {
                self.watched = Some(listing.revision);
                self.inputs.push_back(Input::Event(Event::Listed(listing)));
            }
        }
    }

    /// Tells the changes of the next transaction. False: there are none.
    pub fn watch(&mut self, store: &Store) -> bool {
        let Some(changes) = self.watched.and_then(|after| store.next_changes(after)) else { return false };
        self.watched = Some(changes.revision);
        self.inputs.push_back(Input::Event(Event::Changed(changes.clone())));
        true
    }

    // --- The controller ----------------------------------------------------------------------

    pub fn has_input(&self, mesos: &Mesos) -> bool {
        !self.inputs.is_empty() || !self.probes.is_empty() || !mesos.events.is_empty()
    }

    /// Why it has stopped for good, if it has.
    pub fn frozen_for_good(&self) -> Option<String> {
        self.world.frozen.clone().filter(|_| !self.world.doubts())
    }

    /// The first round of which a transaction is on its way.
    pub fn committing(&self) -> Option<usize> {
        let waits = |round: &Round| round.works.iter().any(|doing| doing.committed.is_none());
        self.rounds.iter().position(waits)
    }

    /// Whether a switchover is about to begin.
    pub fn is_switching(&self) -> bool {
        let steps = self.rounds.iter().flat_map(|round| &round.works).flat_map(|doing| &doing.work.plan.steps);
        steps.into_iter().any(|step| step.action.kind() == "switchOver")
    }

    /// What it has on its mind, for people.
    pub fn mind(&self) -> String {
        let Operator { dirty, busy, unknown, backoffs, wanting, revisits, synced, .. } = self;
        let frozen = &self.world.frozen;
        format!(
            "dirty {dirty:?} busy {busy:?} unknown {unknown:?} backoffs {backoffs:?} wanting {wanting:?} \
             revisits {revisits:?} synced {synced} frozen {frozen:?} rounds {}",
            self.rounds.len()
        )
    }

    /// Transactions that were on their way when it died.
    pub fn uncommitted(&self) -> impl Iterator<Item = Txn> + '_ {
        let works = self.rounds.iter().flat_map(|round| &round.works);
        works.filter(|doing| doing.committed.is_none() && !doing.done).map(|doing| doing.work.txn.clone())
    }

    /// Whether it will look at an instance again though nothing happens.
    pub fn revisits(&self) -> bool {
        !self.revisits.is_empty()
    }

    /// When it wakes by itself.
    pub fn next_wake(&self) -> Timestamp {
        let retries = self.backoffs.iter().filter(|(name, _)| self.dirty.contains(*name)).map(|(_, (_, at))| *at);
        let moments = self.revisits.values().copied().chain(self.session_revisit).chain(retries);
        moments.min().unwrap_or(self.resync_at).min(self.resync_at)
    }

    /// Takes in some of what has come, then plans a round.
    pub fn turn(&mut self, around: &mut Around, dice: &mut Dice, most: usize) {
        for _ in 0..most {
            let sources: Vec<u8> = [
                (!self.inputs.is_empty()).then_some(0),
                (!around.mesos.events.is_empty()).then_some(1),
                (!self.probes.is_empty()).then_some(2),
            ]
            .into_iter()
            .flatten()
            .collect();
            if sources.is_empty() {
                break;
            }
            match *dice.pick(&sources) {
                0 => {
                    let input = self.inputs.pop_front().expect("seen above");
                    self.input(input, around);
                }
                1 => {
                    let event = around.mesos.events.pop_front().expect("seen above");
                    self.learn(Event::Mesos(event), around);
                }
                _ => {
                    let probe = self.probes.pop_front().expect("seen above");
                    self.learn(Event::Probed(probe), around);
                }
            }
        }
        self.wake_due(around.now);
        if self.synced && self.store_framework(around) {
            self.round(around);
        }
    }

    fn learn(&mut self, event: Event, around: &mut Around) {
        match &event {
            Event::Listed(_) => {
                self.synced = true;
                self.unknown.clear();
            }
            Event::Mesos(MesosEvent::Offers(_)) => self.dirty.extend(self.wanting.iter().cloned()),
            _ => {}
        }
        around.say(|| {
            let text = match &event {
                Event::Listed(listing) => format!("Listed at {}", listing.revision),
                Event::Changed(changes) => {
                    let keys: Vec<String> = changes.changes.iter().map(change_text).collect();
                    format!("Changed at {}: {}", changes.revision, keys.join(" "))
                }
                Event::Mesos(MesosEvent::Offers(offers)) => {
                    let ids: Vec<String> = offers.iter().map(|o| format!("{}@{}", o.id, o.agent_id)).collect();
                    format!("Offers {}", ids.join(" "))
                }
                Event::Mesos(MesosEvent::Update(u)) => {
                    let reason = u.reason.as_deref().unwrap_or("");
                    format!("Update {} {} {reason} {}", u.task_id, u.state, u.uuid.as_deref().unwrap_or("-"))
                }
                Event::Probed(probe) => match &probe.result {
                    Ok(a) => format!(
                        "Probed {} {} {:?} up {} keys {} at {}",
                        probe.task_id, a.role, a.follows, a.link_up, a.keys, a.offset
                    ),
                    Err(why) => format!("Probed {} {why:?}", probe.task_id),
                },
                Event::Committed { name, writes, revision, .. } => {
                    let writes: Vec<String> = writes.iter().map(ToString::to_string).collect();
                    format!("Committed {name} at {revision}: {}", writes.join("; "))
                }
                other => format!("{other:?}"),
            };
            format!("      learns {text}")
        });
        let dirty = self.world.apply(event, around.now);
        self.mark(dirty);
    }

    fn mark(&mut self, dirty: Dirty) {
        if dirty.all {
            self.dirty.extend(self.world.instances.keys().chain(&self.board).cloned());
        }
        self.dirty.extend(dirty.names);
    }

    fn input(&mut self, input: Input, around: &mut Around) {
        match input {
            Input::Event(event) => self.learn(event, around),
            Input::StoreLost(_) => {}
            Input::Done { name, outcome } => self.done(name, outcome, around),
        }
    }

    fn done(&mut self, name: String, outcome: Result<(), Failure>, around: &mut Around) {
        self.busy.remove(&name);
        self.dirty.insert(name.clone());
        let Err(failure) = outcome else {
            self.backoffs.remove(&name);
            return;
        };
        around.say(|| format!("      pass of {name} failed: {failure:?}"));
        match failure {
            Failure::NotLeader => return,
            Failure::Unknown(_) => {
                self.unknown.insert(name.clone());
                self.watched = None;
            }
            Failure::Conflict(_) => {}
        }
        let delay = self.backoffs.get(&name).map_or(BACKOFF_MS.0, |(delay, _)| (delay * 2).min(BACKOFF_MS.1));
        self.backoffs.insert(name, (delay, around.now.plus_ms(delay)));
    }

    fn wake_due(&mut self, now: Timestamp) {
        let due: Vec<String> =
            self.revisits.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.revisits.remove(&name);
            self.dirty.insert(name);
        }
        if self.resync_at <= now {
            self.resync_at = now.plus_ms(RESYNC_MS);
            self.dirty.extend(self.world.instances.keys().cloned());
        }
    }

    fn store_framework(&mut self, around: &mut Around) -> bool {
        let Session::Subscribed { .. } = self.world.session else { return true };
        if self.world.frozen.is_some() || self.framework_stored == self.world.framework_id {
            return true;
        }
        let Some(id) = self.world.framework_id.clone() else { return false };
        let txn = Txn {
            guards: vec![
                Guard::Leader(self.token.clone()),
                Guard::Revision { key: FRAMEWORK_KEY.to_string(), revision: 0 },
            ],
            ops: vec![Op::Put { key: FRAMEWORK_KEY.to_string(), value: id.clone().into_bytes() }],
        };
        if around.store.commit(&txn).is_ok() {
            self.framework_stored = Some(id);
        }
        true
    }

    fn round(&mut self, around: &mut Around) {
        let now = around.now;
        let ready: Vec<String> = self
            .dirty
            .iter()
            .filter(|name| !self.busy.contains(*name) && !self.unknown.contains(*name))
            .filter(|name| self.backoffs.get(*name).is_none_or(|(_, at)| *at <= now))
            .cloned()
            .collect();
        let (mut launching, mut others) = (Vec::new(), Vec::new());
        for name in ready {
            if self.busy.len() >= self.passes_max {
                break;
            }
            self.dirty.remove(&name);
            let Some(work) = self.plan(&name, around) else { continue };
            self.acts += 1;
            self.busy.insert(name);
            if work.plan.claims.is_empty() { others.push(work) } else { launching.push(work) }
        }
        let agents: BTreeSet<&str> =
            launching.iter().flat_map(|work| &work.plan.claims).map(|claim| claim.agent_id.as_str()).collect();
        for agent_id in &agents {
            self.world.pool.take_agent(agent_id);
        }
        if !agents.is_empty() {
            self.asked.accepted();
        }
        let subscription = match self.world.session {
            Session::Subscribed { subscription, .. } => subscription,
            _ => 0,
        };
        let mut start = |works: Vec<Work>| {
            let doing = |work| Doing { work, committed: None, steps: 0, roles_end: false, apart: false, done: false };
            let works = works.into_iter().map(doing).collect();
            self.rounds.push(Round { subscription, works, accepts: None });
        };
        if !launching.is_empty() {
            start(launching);
        }
        for work in others {
            start(vec![work]);
        }
        self.session_round(around);
    }

    fn plan(&mut self, name: &str, around: &mut Around) -> Option<Work> {
        self.revisits.remove(name);
        let Some(instance) = self.world.instances.get(name) else {
            self.board.remove(name);
            self.wanting.remove(name);
            self.backoffs.remove(name);
            self.probe_targets(name);
            return None;
        };
        let o = Observed {
            name,
            instance,
            session: &self.world.session,
            frozen: self.world.frozen.as_deref(),
            cut_off: self.world.cut_off(instance),
            leaving: &self.world.leaving,
            may_roll: self.world.rolling(instance, around.now) < 2,
            secret: None,
            settings: &self.settings,
            now: around.now,
        };
        let blinded = self.bug.map(|bug| bug.blinded(instance));
        let seen = Observed { instance: blinded.as_ref().unwrap_or(instance), ..o };
        let mut plan = plan_instance(seen, &mut self.world.pool);
        if let Some(bug) = self.bug {
            bug.spoil(&o, &mut plan);
        }
        // With a planted bug there is no second opinion: it is for the judge to find it.
        let mut broken = if self.bug.is_some() { Vec::new() } else { invariants::check(&o, &plan) };
        if around.robbed && !broken.is_empty() {
            // Records that are not true make plans that are not right: they are refused.
            for claim in &plan.claims {
                self.world.pool.release(claim);
            }
            plan = Plan { status: plan.status, ..Plan::default() };
            broken.clear();
        }
        around.broken.extend(broken.into_iter().map(|b| format!("the plan of {name} breaks a rule: {}", b.what)));
        crate::judge::plan(&o, &plan, around);
        if plan.status_changed {
            around.say(|| {
                format!(
                    "      says {name}: {:?}",
                    plan.status.as_ref().map(|s| (
                        s.phase,
                        &s.waiting,
                        s.condition(redisctl::status::ConditionType::MasterAvailable).map(|c| c.message.clone()),
                        s.nodes.iter().map(|n| (n.state, n.message.clone())).collect::<Vec<_>>()
                    ))
                )
            });
        }
        let steps = plan.steps.len() + plan.writes.len();
        if steps > 0 {
            around.say(|| format!("      plans {name}: {:?} waits: {:?}", plan.view().steps, plan.waiting));
        }
        self.board.insert(name.to_string());
        if plan.wants_offers {
            self.wanting.insert(name.to_string())
        } else {
            self.wanting.remove(name)
        };
        if let Some(at) = plan.revisit_at {
            self.revisits.insert(name.to_string(), at);
        }
        let mut txn = transaction(name, instance, &plan, &self.token);
        if let Some(bug) = self.bug {
            bug.unguard(&mut txn);
        }
        self.world.expect(name, &plan.writes);
        self.world.begin(plan.apart(), around.now);
        self.probe_targets(name);
        (!plan.is_empty()).then(|| Work { name: name.to_string(), plan, txn, urgent: false })
    }

    fn probe_targets(&mut self, name: &str) {
        self.probed.retain(|task_id, _| redisctl::model::parse_task_id(task_id).is_none_or(|(n, _)| n != name));
        for node in self.world.instances.get(name).into_iter().flat_map(|instance| instance.nodes.values()) {
            let record = &node.record.value;
            if !record.task.is_dead() || node.may_live() {
                self.probed.insert(record.task_id.clone(), record.address.clone());
            }
        }
    }

    fn session_round(&mut self, around: &mut Around) {
        let soon = self.dirty.iter().filter(|name| !self.backoffs.contains_key(*name));
        let busy: BTreeSet<String> = self.busy.iter().chain(soon).cloned().collect();
        let frozen = self.world.frozen.is_some();
        let plan = plan_session(&mut self.world, &mut self.asked, &self.wanting, &busy, around.now);
        self.session_revisit = plan.revisit_at;
        let Session::Subscribed { subscription, .. } = self.world.session else { return };
        for call in plan.calls {
            if frozen && matches!(call, MesosCall::Kill { .. } | MesosCall::Accept { .. }) {
                around.broken.push(format!("a frozen operator calls {call:?}"));
            }
            let note = match &call {
                MesosCall::Kill { task_id, .. } => Some(Note { task_id: task_id.clone(), done: Done::Killed }),
                MesosCall::Acknowledge { task_id, uuid, .. } => {
                    Some(Note { task_id: task_id.clone(), done: Done::Acknowledged(uuid.clone()) })
                }
                _ => None,
            };
            if let Some(note) = note {
                self.world.apply(Event::Noted(note), around.now);
            }
            self.send(subscription, call, around);
        }
    }

    fn send(&mut self, subscription: u64, call: MesosCall, around: &mut Around) {
        around.say(|| format!("      calls {}", call_text(&call)));
        let lane = usize::from(matches!(call, MesosCall::Acknowledge { .. }));
        self.calls[lane].push_back((subscription, call));
    }
}

pub fn call_text(call: &MesosCall) -> String {
    match call {
        MesosCall::Accept { offer_ids, launches, .. } => {
            let tasks: Vec<&str> = launches.iter().map(|launch| launch.task_id.as_str()).collect();
            format!("ACCEPT {} for {}", offer_ids.join(" "), tasks.join(" "))
        }
        other => format!("{other:?}"),
    }
}

fn change_text(change: &redisctl::store::Change) -> String {
    match change {
        redisctl::store::Change::Put(item) => item.key.clone(),
        redisctl::store::Change::Delete { key, .. } => format!("-{key}"),
    }
}
