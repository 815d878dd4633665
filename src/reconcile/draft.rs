//! A plan in the making: working copies of the records, which the planner's steps change; what has
//! changed in the end becomes the plan's writes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Answer, EventKind, InstanceEvent, InstanceRecord, Leaving, NoAnswer, NodeRecord, RequestKind, Timestamp, node_name,
};
use crate::passwords::Key;
use crate::placement::Placement;
use crate::plain::{TOLD_CHARS_MAX, plain};
use crate::reconcile::action::{Action, Cause, Plan, Step, Write};
use crate::reconcile::leaving::LeavingAgents;
use crate::reconcile::sight::Sight;
use crate::reconcile::tries::{Refusal, Turn};
use crate::reconcile::world::{Instance, Node, Session};
use crate::spec::InstanceSpec;

/// One instance at one moment: all that a plan may depend on (beside the pool of offers).
#[derive(Clone, Copy)]
pub struct Observed<'a> {
    /// The instance's name.
    pub name: &'a str,
    /// What is known of it.
    pub instance: &'a Instance,
    /// The Mesos session.
    pub session: &'a Session,
    /// Set: nothing may be launched or killed.
    pub frozen: Option<&'a str>,
    /// The operator sees so few nodes that it is itself cut off.
    pub cut_off: Option<Sight>,
    /// The agents that are to be emptied.
    pub leaving: &'a LeavingAgents,
    /// Another instance may begin to replace nodes.
    pub may_roll: bool,
    /// The revision of the secret that its clients log in with, if the store has it.
    pub secret: Option<i64>,
    /// Settings of the operator that plans depend on.
    pub settings: &'a PlanSettings,
    /// The moment.
    pub now: Timestamp,
}

/// Settings of the operator that plans depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanSettings {
    /// The redis-server binary on agents.
    pub redis_server: String,
    /// What passwords follow from; none: there are none.
    pub key: Option<Key>,
}

impl Default for PlanSettings {
    fn default() -> Self {
        PlanSettings { redis_server: "redis-server".to_string(), key: None }
    }
}

/// Writes of one plan, events not counted: these are one write, and status is another; etcd takes 128.
const WRITES_MAX: usize = 120;

/// A subscription is this old before anything is launched or scaled down under it: Mesos first says
/// which tasks of ours it knows, and one that is not recorded means that the store has lost something.
pub const SETTLE_MS: u64 = 300;
/// The reason may name tasks of other instances: whoever may read all is told it (`redisctl version`).
pub const FROZEN: &str = "the operator is frozen; `redisctl version` says why to a token that may read all";
const JUST_SUBSCRIBED: &str = "Mesos has just been subscribed to, and may know tasks that are not recorded";

/// How the instance ends, when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything of it goes; the user's document too, if it is still at this revision.
    Forget(Option<i64>),
}

/// A plan in the making.
pub struct Draft<'a> {
    /// What it is made from.
    pub o: Observed<'a>,
    /// The instance's record as it shall be.
    pub record: Option<InstanceRecord>,
    /// The nodes' records as they shall be.
    pub nodes: BTreeMap<u32, NodeRecord>,
    /// What is done after the writes.
    pub steps: Vec<Step>,
    /// Why not more.
    pub waiting: Vec<String>,
    /// What happened.
    pub events: Vec<InstanceEvent>,
    /// Requests that are carried out by this plan.
    pub done: Vec<RequestKind>,
    /// The end.
    pub ending: Option<Ending>,
    /// Why the user's document is not in force.
    pub invalid: Option<String>,
    /// Nodes wait for a place.
    pub wants_offers: bool,
    /// Why a node could not be placed.
    pub unplaced: Option<String>,
    /// The data is lost, and the user wants to be asked before it starts again empty.
    pub held: bool,
    /// Why nobody can take the lost master's place.
    pub no_candidate: Option<String>,
    /// Nodes beside those declared, while some are replaced.
    pub extra: usize,
    /// What was taken from the pool.
    pub claims: Vec<Placement>,
    /// When to look again.
    pub revisit_at: Option<Timestamp>,
    /// Why the master's role goes to another node.
    pub failover: Option<Cause>,
    /// Settings that Redis does not take: the nodes, and what it says.
    pub refused: Vec<(String, Refusal)>,
    /// The kinds of steps that are under way, or wait for their turn: not all is done.
    pub stalled: BTreeSet<&'static str>,
}

impl<'a> Draft<'a> {
    /// Starts from what is stored.
    pub fn new(o: Observed<'a>) -> Draft<'a> {
        Draft {
            o,
            record: o.instance.record.as_ref().map(|record| record.value.clone()),
            nodes: o.instance.nodes.iter().map(|(ordinal, node)| (*ordinal, node.record.value.clone())).collect(),
            steps: Vec::new(),
            waiting: Vec::new(),
            events: Vec::new(),
            done: Vec::new(),
            ending: None,
            invalid: None,
            wants_offers: false,
            unplaced: None,
            held: false,
            no_candidate: None,
            extra: 0,
            claims: Vec::new(),
            revisit_at: None,
            failover: None,
            refused: Vec::new(),
            stalled: BTreeSet::new(),
        }
    }

    /// The spec in force.
    pub fn spec(&self) -> Option<&InstanceSpec> {
        self.record.as_ref().map(|record| &record.spec)
    }

    /// What has been learned of a node; `None` for one that this plan launches.
    pub fn seen(&self, ordinal: u32) -> Option<&'a Node> {
        self.o.instance.nodes.get(&ordinal)
    }

    /// The newest answer of a node that answers now.
    pub fn answer(&self, ordinal: u32) -> Option<&'a Answer> {
        self.seen(ordinal).and_then(Node::answer)
    }

    /// Since when a node has not answered, and why.
    pub fn silence(&self, ordinal: u32) -> Option<(NoAnswer, Timestamp)> {
        self.seen(ordinal).and_then(|node| node.silent)
    }

    /// The recorded master's record, unless it is forgotten.
    pub fn master(&self) -> Option<&NodeRecord> {
        self.nodes.get(&self.record.as_ref()?.master?)
    }

    /// Why a node is to leave its agent; none is ever placed on one that is to be emptied.
    pub fn leaving(&self, ordinal: u32) -> Option<Leaving> {
        self.o.leaving.node(self.seen(ordinal)?, self.o.now)
    }

    /// Whether this is the recorded master.
    pub fn is_master(&self, ordinal: u32) -> bool {
        self.record.as_ref().is_some_and(|record| record.master == Some(ordinal))
    }

    /// `orders-0`.
    pub fn node_name(&self, ordinal: u32) -> String {
        node_name(self.o.name, ordinal)
    }

    /// Whether Mesos can be told to launch and kill; the reason when not.
    pub fn may_act(&self) -> Result<(), String> {
        if self.o.frozen.is_some() {
            return Err(FROZEN.to_string());
        }
        match self.o.session {
            Session::Subscribed { since, .. } if self.o.now.since_ms(*since) < SETTLE_MS => {
                return Err(JUST_SUBSCRIBED.to_string());
            }
            Session::Subscribed { .. } => {}
            Session::Disconnected(reason) => return Err(format!("Mesos: not subscribed: {reason}")),
            Session::Ended(message) => return Err(format!("Mesos: the session is over: {message}")),
        }
        let unheard: Vec<String> = self
            .nodes
            .iter()
            .filter(|(ordinal, record)| !record.task.is_dead() && self.seen(**ordinal).is_some_and(|node| !node.heard))
            .map(|(ordinal, _)| self.node_name(*ordinal))
            .collect();
        if unheard.is_empty() {
            Ok(())
        } else {
            Err(format!("Mesos has not said yet what became of {}", unheard.join(", ")))
        }
    }

    /// Something to do after the writes, unless it is under way or has just failed: then it is waited for.
    pub fn step(&mut self, action: Action, why: impl Into<String>) {
        let follows = matches!(action, Action::Follow { .. } | Action::Kick { .. });
        if follows && ["promote", "switchOver"].iter().any(|kind| self.stalled.contains(kind)) {
            return; // Its master is not one yet.
        }
        if self.is_its_turn(&action) {
            self.steps.push(Step { action, why: why.into() });
        }
    }

    fn is_its_turn(&mut self, action: &Action) -> bool {
        let of = |node: &&Node| Some(node.record.value.task_id.as_str()) == action.task_id();
        let Some(node) = self.o.instance.nodes.values().find(of) else { return true };
        let failed = |why: &str| format!("to {action} did not succeed, and is tried again within seconds: {why}");
        match node.tries.turn(action.kind(), self.o.now) {
            Turn::Now(None) => return true,
            Turn::Now(Some(why)) => {
                self.wait(failed(&why));
                return true;
            }
            Turn::UnderWay(Some(tell_at)) => self.revisit(tell_at),
            Turn::UnderWay(None) => self.wait(format!("to {action} takes long: the node is slow to answer")),
            Turn::Later(at, why) => {
                if matches!(action, Action::Detach { cut_clients: true, .. }) {
                    self.tell_failed_fence(node, &failed(&why), &why);
                }
                self.wait(failed(&why));
                self.revisit(at);
            }
        }
        self.stalled.insert(action.kind());
        false
    }

    /// A master that is none may take writes for as long as it cannot be fenced: an event says so, once.
    fn tell_failed_fence(&mut self, node: &Node, waits: &str, why: &str) {
        let known = self.o.instance.status.as_ref().is_some_and(|status| {
            let begin = waits.split(':').next().unwrap_or_default();
            status.value.waiting.iter().any(|reason| reason.starts_with(begin))
        });
        if !known {
            let message = format!("it may take writes of its clients, and does not let itself be fenced: {why}");
            self.event(EventKind::Warning, "FenceFailed", node.record.value.name(), message);
        }
    }

    /// A reason for waiting; said once.
    pub fn wait(&mut self, reason: impl Into<String>) {
        let reason = plain(&reason.into(), TOLD_CHARS_MAX);
        if !self.waiting.contains(&reason) {
            self.waiting.push(reason);
        }
    }

    /// Plan again at that moment at the latest.
    pub fn revisit(&mut self, at: Timestamp) {
        self.revisit_at = Some(self.revisit_at.map_or(at, |known| known.min(at)));
    }

    /// A step of that kind ended at the node within this time: it is looked at again after it.
    pub fn did_within(&mut self, ordinal: u32, kind: &'static str, pause_ms: u64) -> bool {
        let last = self.seen(ordinal).and_then(|seen| seen.tries.last(kind));
        let Some(again) = last.map(|at| at.plus_ms(pause_ms)).filter(|again| *again > self.o.now) else { return false };
        self.revisit(again);
        true
    }

    /// Something happened.
    #[allow(clippy::needless_pass_by_value)] // Callers have just made it.
    pub fn event(&mut self, kind: EventKind, reason: &str, object: String, message: String) {
        let now = self.o.now;
        let (reason, message) = (reason.to_string(), plain(&message, TOLD_CHARS_MAX));
        self.events.push(InstanceEvent { at: now, first_at: now, count: 1, kind, reason, object, message });
    }

    /// The records' changes as writes: the instance, launched nodes, then the rest.
    fn writes(&self) -> Vec<Write> {
        if let Some(Ending::Forget(document)) = self.ending {
            return vec![Write::Forget { document }];
        }
        let stored = self.o.instance.record.as_ref().map(|record| &record.value);
        let state = self.record.iter().filter(|record| stored != Some(*record)).cloned().map(Write::State);
        let (new, old): (Vec<_>, Vec<_>) = self.nodes.iter().partition(|(ordinal, _)| self.seen(**ordinal).is_none());
        let changed =
            old.into_iter().filter(|(k, record)| self.seen(**k).is_none_or(|node| node.record.value != **record));
        let nodes = new.into_iter().chain(changed).map(|(_, record)| Write::Node(record.clone()));
        let gone = self.o.instance.nodes.keys().filter(|ordinal| !self.nodes.contains_key(ordinal));
        let gone = gone.map(|ordinal| Write::ForgetNode(*ordinal));
        let done = self.done.iter().map(|kind| Write::RequestDone(*kind));
        let events = self.events.iter().cloned().map(Write::Event);
        state.chain(done).chain(nodes).chain(gone).chain(events).collect()
    }

    /// The finished plan, with nothing said of the status yet.
    pub fn into_plan(self) -> Plan {
        let mut writes = self.writes();
        let mut steps = self.steps;
        if writes.iter().filter(|write| !matches!(write, Write::Event(_))).count() > WRITES_MAX {
            // More than a transaction holds: the next pass does the rest, and whatever follows from it.
            writes.truncate(WRITES_MAX);
            steps.retain(|step| matches!(step.action, Action::Launch(_)));
        }
        Plan {
            writes,
            steps,
            waiting: self.waiting,
            status: None,
            status_changed: false,
            revisit_at: self.revisit_at,
            wants_offers: self.wants_offers,
            claims: self.claims,
            failover: self.failover,
        }
    }
}
