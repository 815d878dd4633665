//! The operator as controller.rs and execute.rs run it, cut into single acts, so that it can die
//! between any two of them. All that it decides is the real code: world, planner, session planner,
//! check of invariants, transactions. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use redisctl::model::{Address, Launch, MesosCall, MesosEvent, NoAnswer, Probe, Role, Timestamp};
use redisctl::reconcile::action::{Action, Plan};
use redisctl::reconcile::draft::{Observed, PlanSettings};
use redisctl::reconcile::execute::{Failure, Input, Work, transaction};
use redisctl::reconcile::invariants;
use redisctl::reconcile::offers::{Asked, DECLINE_S, plan_session};
use redisctl::reconcile::plan::plan_instance;
use redisctl::reconcile::world::{Dirty, Done, Event, Note, Session, World};
use redisctl::store::{FRAMEWORK_KEY, Guard, LeaderToken, Listing, Op, Txn};

use crate::dice::Dice;
use crate::judge::Promises;
use crate::mesos::Mesos;
use crate::planted::Bug;
use crate::redis::Redis;
use crate::store::{Refused, Store};

/// First and longest backoff after a failed pass, as the controller has it.
const BACKOFF_MS: (u64, u64) = (100, 30_000);
/// Every instance is looked at this often at least.
const RESYNC_MS: u64 = 600_000;
const DECLINE_FAILED_S: f64 = 1.0;

/// Passes whose launches share offers, under way.
pub struct Round {
    subscription: u64,
    works: Vec<Doing>,
    /// Set once all are committed.
    accepts: Option<VecDeque<(MesosCall, Vec<String>)>>,
}

struct Doing {
    work: Work,
    committed: Option<Result<(), Failure>>,
    steps: usize,
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
            Failure::Conflict(_) | Failure::Step(_) => {}
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
            let doing = |work| Doing { work, committed: None, steps: 0, done: false };
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
        self.probe_targets(name);
        (!plan.is_empty()).then(|| Work { name: name.to_string(), plan, txn })
    }

    fn probe_targets(&mut self, name: &str) {
        self.probed.retain(|task_id, _| redisctl::model::parse_task_id(task_id).is_none_or(|(n, _)| n != name));
        for node in self.world.instances.get(name).into_iter().flat_map(|instance| instance.nodes.values()) {
            let record = &node.record.value;
            if !record.task.is_dead() {
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

    // --- The executor ------------------------------------------------------------------------

    /// Does the next act of a round.
    pub fn advance(&mut self, nth: usize, fate: Fate, around: &mut Around, dice: &mut Dice) {
        let mut round = self.rounds.remove(nth);
        let waiting: Vec<usize> = (0..round.works.len()).filter(|at| round.works[*at].committed.is_none()).collect();
        if !waiting.is_empty() {
            let doing = &mut round.works[*dice.pick(&waiting)];
            doing.committed = Some(self.commit(&doing.work, fate, around));
        } else if round.accepts.is_none() {
            round.accepts = Some(accepts(&round.works));
        } else if let Some((call, tasks)) = round.accepts.as_mut().and_then(VecDeque::pop_front) {
            self.send(round.subscription, call, around);
            for task_id in tasks {
                self.note(task_id, Done::Launched(true));
            }
        } else {
            let open: Vec<usize> = (0..round.works.len()).filter(|at| !round.works[*at].done).collect();
            let doing = &mut round.works[*dice.pick(&open)];
            self.step(doing, round.subscription, around, dice);
        }
        if round.works.iter().any(|doing| !doing.done) {
            self.rounds.insert(nth, round);
        }
    }

    fn note(&mut self, task_id: String, done: Done) {
        self.inputs.push_back(Input::Event(Event::Noted(Note { task_id, done })));
    }

    fn commit(&mut self, work: &Work, fate: Fate, around: &mut Around) -> Result<(), Failure> {
        if work.txn.ops.is_empty() {
            return Ok(());
        }
        let outcome = match fate {
            Fate::Answered => around.store.commit(&work.txn),
            Fate::DoneUnknown => {
                let _ = around.store.commit(&work.txn);
                return Err(Failure::Unknown("no answer, but done".to_string()));
            }
            Fate::NotDoneUnknown => return Err(Failure::Unknown("no answer, and not done".to_string())),
            Fate::LaterUnknown => {
                self.late.push(work.txn.clone());
                return Err(Failure::Unknown("no answer, but done later".to_string()));
            }
        };
        match outcome {
            Ok(revision) => {
                let status = work.plan.status.clone().filter(|_| work.plan.status_changed);
                let (name, writes) = (work.name.clone(), work.plan.writes.clone());
                self.inputs.push_back(Input::Event(Event::Committed { name, writes, status, revision }));
                Ok(())
            }
            Err(Refused::Conflict(what)) => Err(Failure::Conflict(what)),
            Err(Refused::NotLeader) => Err(Failure::NotLeader),
        }
    }

    fn step(&mut self, doing: &mut Doing, subscription: u64, around: &mut Around, dice: &mut Dice) {
        let failed = matches!(doing.committed, Some(Err(_))) && self.bug != Some(Bug::FailedCommitsAreIgnored);
        let plan = &doing.work.plan;
        let step = plan.steps.iter().filter(|s| !matches!(s.action, Action::Launch(_))).nth(doing.steps);
        let outcome = match step {
            Some(step) if !failed => {
                doing.steps += 1;
                match self.act(step.action.clone(), subscription, around, dice) {
                    Ok(()) => return,
                    Err(why) => Err(Failure::Step(why)),
                }
            }
            _ => doing.committed.take().expect("the round has committed all"),
        };
        doing.done = true;
        doing.committed = Some(Ok(()));
        self.inputs.push_back(Input::Done { name: doing.work.name.clone(), outcome });
    }

    fn act(&mut self, action: Action, subscription: u64, around: &mut Around, dice: &mut Dice) -> Result<(), String> {
        let unreached = || NoAnswer::Timeout.to_string();
        match action {
            Action::Launch(_) => unreachable!("launches are gathered"),
            Action::Kill { task_id } => {
                crate::judge::kill(&task_id, around);
                self.send(subscription, MesosCall::Kill { task_id: task_id.clone(), agent_id: None }, around);
                self.note(task_id, Done::Killed);
            }
            Action::Acknowledge { task_id, agent_id, uuid } => {
                let call = MesosCall::Acknowledge { task_id: task_id.clone(), agent_id, uuid: uuid.clone() };
                self.send(subscription, call, around);
                self.note(task_id, Done::Acknowledged(uuid));
            }
            Action::Follow { task_id, node, master } => {
                let at = around.redis_at(&node);
                self.note(task_id.clone(), Done::Pointed);
                let at = at.ok_or_else(unreached)?;
                crate::judge::follow(&task_id, at, &master, around);
                around.redis.follow(at, &master);
            }
            Action::Kick { task_id, node, master } => {
                let at = around.redis_at(&node);
                self.note(task_id, Done::Pointed);
                if let Some(at) = at {
                    let _ = around.redis.kick(at, &master); // It tries by itself.
                }
            }
            Action::Promote { task_id, node } => {
                let at = around.redis_at(&node);
                self.note(task_id.clone(), Done::Pointed);
                let at = at.ok_or_else(unreached)?;
                crate::judge::promoted(at, around);
                around.redis.promote(at);
                self.note(task_id, Done::Turned(around.redis.answer(at, around.now)));
            }
            Action::Detach { task_id, node, .. } => {
                let at = around.redis_at(&node);
                self.note(task_id.clone(), Done::Pointed);
                let at = at.ok_or_else(unreached)?;
                around.redis.detach(at);
                self.note(task_id, Done::Turned(around.redis.answer(at, around.now)));
            }
            Action::SwitchOver { from, task_id, node, epoch } => {
                let (old, new) = (around.redis_at(&from), around.redis_at(&node));
                self.note(task_id.clone(), Done::Pointed);
                match switch_over(old, new, around, dice) {
                    Ok(answer) => self.note(task_id, Done::Turned(answer)),
                    Err(Switch::BackedOut(why)) => {
                        self.note(task_id, Done::SwitchFailed(epoch, why.clone()));
                        return Err(why);
                    }
                    Err(Switch::Unknown(why)) => {
                        self.switch_lost = true;
                        return Err(why);
                    }
                }
            }
            Action::Configure { task_id, node, settings } => {
                let at = around.redis_at(&node).ok_or_else(unreached)?;
                let process = &mut around.redis.processes[at];
                for (key, value) in &settings {
                    if key == "maxmemory" {
                        process.max_memory = value.parse().expect("a number of bytes");
                    }
                    process.config.insert(key.clone(), value.clone());
                }
                self.note(task_id, Done::Configured(settings));
            }
        }
        Ok(())
    }
}

fn node_address(around: &Around, at: usize) -> Address {
    around.redis.processes[at].address.clone()
}

enum Switch {
    BackedOut(String),
    Unknown(String),
}

/// As the port to Redis does it, stage by stage; the operator or the network may be lost after each.
fn switch_over(
    old: Option<usize>,
    new: Option<usize>,
    around: &mut Around,
    dice: &mut Dice,
) -> Result<redisctl::model::Answer, Switch> {
    let (Some(old), Some(new)) = (old, new) else { return Err(Switch::BackedOut("no way to it".to_string())) };
    let from = around.redis.processes[old].address.clone();
    let (p, q) = (&around.redis.processes[old], &around.redis.processes[new]);
    let follows = q.role == Role::Replica && q.follows.as_ref() == Some(&from);
    let fenced = p.role == Role::Replica && p.follows.as_ref() == Some(&from);
    let follows_new = p.role == Role::Replica && p.follows.as_ref() == Some(&q.address);
    if q.role == Role::Master && (fenced || follows_new) {
        let to = node_address(around, new);
        around.redis.follow(old, &to);
        return Ok(around.redis.answer(new, around.now)); // It was done before.
    }
    if !follows || (p.role == Role::Replica && !fenced) || p.history() != q.history() {
        return Err(Switch::BackedOut("it is not its replica".to_string()));
    }
    if p.role == Role::Master && (q.offset != p.offset || (around.cut.is_none() && dice.percent(10))) {
        return Err(Switch::BackedOut("it does not catch up".to_string()));
    }
    around.redis.detach(old);
    around.lost(0, dice)?;
    let (p, q) = (&around.redis.processes[old], &around.redis.processes[new]);
    if q.offset != p.offset {
        around.redis.promote(old);
        return Err(Switch::BackedOut("it does not catch up".to_string()));
    }
    crate::judge::promoted(new, around);
    around.redis.promote(new);
    around.lost(1, dice)?;
    let to = around.redis.processes[new].address.clone();
    around.redis.follow(old, &to);
    around.lost(2, dice)?;
    Ok(around.redis.answer(new, around.now))
}

/// One call for each agent, with the launches whose records are stored.
fn accepts(works: &[Doing]) -> VecDeque<(MesosCall, Vec<String>)> {
    let mut agents: BTreeMap<&str, (Vec<String>, Vec<Launch>)> = BTreeMap::new();
    for doing in works {
        let plan: &Plan = &doing.work.plan;
        for claim in &plan.claims {
            let entry = agents.entry(&claim.agent_id).or_default();
            for offer_id in &claim.offer_ids {
                if !entry.0.contains(offer_id) {
                    entry.0.push(offer_id.clone());
                }
            }
        }
        if matches!(doing.committed, Some(Ok(()))) {
            for launch in plan.launches() {
                agents.entry(&launch.agent_id).or_default().1.push(launch.clone());
            }
        }
    }
    let call = |(offer_ids, launches): (Vec<String>, Vec<Launch>)| {
        let tasks = launches.iter().map(|launch| launch.task_id.clone()).collect();
        if launches.is_empty() {
            (MesosCall::Decline { offer_ids, refuse_s: DECLINE_FAILED_S }, tasks)
        } else {
            (MesosCall::Accept { offer_ids, launches, refuse_s: DECLINE_S }, tasks)
        }
    };
    agents.into_values().map(call).collect()
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
