//! What a plan is made of: the writes that record it, the steps that carry it out, and the reasons
//! for waiting; and how they print. Pure.

use std::fmt;

use crate::board::PlanView;
use crate::model::{Address, DataSet, InstanceEvent, InstanceRecord, Launch, NodeRecord, RequestKind, Timestamp};
use crate::placement::Placement;
use crate::reconcile::tries::{CONFIGURE, CUT_FOREIGN, END_SCRIPT, MAKE_ROOM};
use crate::status::InstanceStatus;

/// What one pass decided for one instance. Every choice is made: whoever carries it out only does
/// as told, writes first.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Done first, in one transaction. When it fails, none of `steps` is done.
    pub writes: Vec<Write>,
    /// Done afterwards, in this order. Roles are changed one after the other: the first failure ends that. All
    /// else is done whatever else fails, and settings are made apart.
    pub steps: Vec<Step>,
    /// Why not everything is done now: a sentence each.
    pub waiting: Vec<String>,
    /// What is said of the instance. `None` when it is gone.
    pub status: Option<InstanceStatus>,
    /// The status differs from the stored one in more than gauges.
    pub status_changed: bool,
    /// Plan again then, if nothing happens before.
    pub revisit_at: Option<Timestamp>,
    /// Nodes wait for a place: offers are wanted.
    pub wants_offers: bool,
    /// Resources taken out of the pool for the launches among `steps`.
    pub claims: Vec<Placement>,
    /// The master's role goes to another node by this plan; and why.
    pub failover: Option<Cause>,
}

/// Why a master's role goes to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was proved dead.
    Died,
    /// It was silent for too long.
    Hung,
    /// A user wanted it whatever is lost.
    Forced,
    /// A user asked for it.
    Asked,
    /// A change of the spec replaces the node.
    Rolled,
    /// Its agent is to be emptied.
    Drained,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 6] = [Cause::Died, Cause::Hung, Cause::Forced, Cause::Asked, Cause::Rolled, Cause::Drained];

    /// In metrics.
    pub fn word(self) -> &'static str {
        match self {
            Cause::Died => "died",
            Cause::Hung => "hung",
            Cause::Forced => "forced",
            Cause::Asked => "asked",
            Cause::Rolled => "rolled",
            Cause::Drained => "drained",
        }
    }
}

/// A change of what is stored. All writes of a plan are one transaction, guarded by the leadership
/// and by the revisions that the plan was made from.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // Few, and short-lived.
pub enum Write {
    /// The instance's record.
    State(InstanceRecord),
    /// A node's record.
    Node(NodeRecord),
    /// A dead node's record goes.
    ForgetNode(u32),
    /// Something happened: appended to the instance's events.
    Event(InstanceEvent),
    /// A request has been carried out.
    RequestDone(RequestKind),
    /// Everything of the instance goes. `document`: the user's document too, if it is still at
    /// this revision.
    Forget {
        /// The revision of the document that goes; none: it is gone already, or a later one stays.
        document: Option<i64>,
    },
}

/// An act, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// Why: a clause.
    pub why: String,
}

/// An act on the world outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Launch a node. Its record is among the plan's writes.
    Launch(Launch),
    /// Kill a node's task. Its record says so already.
    Kill {
        /// The task.
        task_id: String,
    },
    /// Make a node a replica of the recorded master.
    Follow {
        /// The node's task.
        task_id: String,
        /// Where it listens.
        node: Address,
        /// The master.
        master: Address,
        /// By which password that lets it in, as it is recorded (no secret); none: by none.
        password: Option<String>,
    },
    /// Make an empty replica, whose master was not there yet when it booted, try again at once.
    Kick {
        /// The node's task.
        task_id: String,
        /// Where it listens.
        node: Address,
        /// The master.
        master: Address,
        /// By which password that lets it in, as it is recorded (no secret); none: by none.
        password: Option<String>,
    },
    /// Make a replica the master. The record names it already.
    Promote {
        /// The node's task.
        task_id: String,
        /// Where it listens.
        node: Address,
        /// What it was chosen for, and must have still; none: whatever it has.
        data: Option<DataSet>,
    },
    /// Make a node follow nobody (itself): it keeps its data, takes no writes, and acknowledges none
    /// to its former master.
    Detach {
        /// The node's task.
        task_id: String,
        /// Where it listens.
        node: Address,
        /// It thinks that it is a master: its clients are cut, so that they look for the right one.
        cut_clients: bool,
    },
    /// Cut replicas of the master that are no nodes of the instance.
    CutForeign {
        /// The master's task.
        task_id: String,
        /// Where it listens.
        node: Address,
        /// Where its own replicas listen.
        ours: Vec<Address>,
    },
    /// Cut connections that have never said who they are, so that replicas can log in, or memory is free.
    MakeRoom {
        /// Its task.
        task_id: String,
        /// Where it listens.
        node: Address,
    },
    /// End the script of a client that the node is busy with: its word is needed.
    EndScript {
        /// Its task.
        task_id: String,
        /// Where it listens.
        node: Address,
    },
    /// Hand the master's role over, without losing a write. The record names the new one already.
    SwitchOver {
        /// Where the master of now listens.
        from: Address,
        /// The new master's task.
        task_id: String,
        /// Where that listens.
        node: Address,
        /// Its epoch.
        epoch: u64,
        /// By which password it lets the former master in, as it is recorded (no secret); none: by none.
        password: Option<String>,
    },
    /// Set configuration at run time.
    Configure {
        /// The node's task.
        task_id: String,
        /// Where it listens.
        node: Address,
        /// Keys and values for CONFIG SET.
        settings: Vec<(String, String)>,
    },
    /// Tell Mesos that an update has been recorded.
    Acknowledge {
        /// The task.
        task_id: String,
        /// The agent of the update.
        agent_id: String,
        /// The update.
        uuid: String,
    },
}

impl Action {
    /// The task that it is about; none: one that is not launched yet.
    pub fn task_id(&self) -> Option<&str> {
        match self {
            Action::Launch(_) => None,
            Action::Kill { task_id }
            | Action::Follow { task_id, .. }
            | Action::Kick { task_id, .. }
            | Action::Promote { task_id, .. }
            | Action::Detach { task_id, .. }
            | Action::CutForeign { task_id, .. }
            | Action::MakeRoom { task_id, .. }
            | Action::EndScript { task_id, .. }
            | Action::SwitchOver { task_id, .. }
            | Action::Configure { task_id, .. }
            | Action::Acknowledge { task_id, .. } => Some(task_id),
        }
    }

    /// Whether it is one of a chain: when one fails, those after it are not done, for they rest on it.
    pub fn changes_roles(&self) -> bool {
        matches!(
            self,
            Action::Follow { .. }
                | Action::Kick { .. }
                | Action::Promote { .. }
                | Action::Detach { .. }
                | Action::SwitchOver { .. }
        )
    }

    /// Whether its pass ends without it: nothing urgent waits for a node that hangs.
    pub fn is_apart(&self) -> bool {
        matches!(self, Action::Configure { .. } | Action::CutForeign { .. } | Action::MakeRoom { .. })
    }

    /// One word, for metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Action::Launch(_) => "launch",
            Action::Kill { .. } => "kill",
            Action::Follow { .. } => "follow",
            Action::Kick { .. } => "kick",
            Action::Promote { .. } => "promote",
            Action::Detach { .. } => "detach",
            Action::CutForeign { .. } => CUT_FOREIGN,
            Action::MakeRoom { .. } => MAKE_ROOM,
            Action::EndScript { .. } => END_SCRIPT,
            Action::SwitchOver { .. } => "switchOver",
            Action::Configure { .. } => CONFIGURE,
            Action::Acknowledge { .. } => "acknowledge",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Launch(launch) => {
                write!(f, "launch {} as task {} on agent {}", launch.name, launch.task_id, launch.agent_id)
            }
            Action::Kill { task_id } => write!(f, "kill task {task_id}"),
            Action::Follow { task_id, master, .. } => write!(f, "make task {task_id} a replica of {master}"),
            Action::Kick { task_id, master, .. } => write!(f, "make task {task_id} try its master {master} again"),
            Action::Promote { task_id, .. } => write!(f, "make task {task_id} the master"),
            Action::Detach { task_id, .. } => write!(f, "make task {task_id} follow nobody"),
            Action::MakeRoom { task_id, .. } => write!(f, "cut connections of task {task_id} that nobody uses"),
            Action::EndScript { task_id, .. } => write!(f, "end the script that task {task_id} is busy with"),
            Action::CutForeign { task_id, .. } => write!(f, "cut replicas of task {task_id} that are not ours"),
            Action::SwitchOver { from, task_id, .. } => {
                write!(f, "hand the master's role from {from} to task {task_id}")
            }
            Action::Configure { task_id, settings, .. } => {
                let keys: Vec<&str> = settings.iter().map(|(key, _)| key.as_str()).collect();
                write!(f, "set {} of task {task_id}", keys.join(", "))
            }
            Action::Acknowledge { task_id, .. } => write!(f, "acknowledge an update of task {task_id}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.action, self.why)
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Write::State(record) => {
                let master = record.master.map_or("none".to_string(), |ordinal| ordinal.to_string());
                write!(
                    f,
                    "record revision {} of the spec, epoch {}, master {master}",
                    record.spec_revision, record.epoch
                )
            }
            Write::Node(node) => match (&node.stop, &node.task) {
                (Some(why), task) if !task.is_dead() => write!(f, "record that {} is to stop: {why}", node.name()),
                (_, task) => write!(f, "record node {} ({task})", node.name()),
            },
            Write::ForgetNode(ordinal) => write!(f, "forget node {ordinal}, which is dead"),
            Write::Event(event) => write!(f, "record event {}: {}", event.reason, event.message),
            Write::RequestDone(kind) => write!(f, "close the request to {}", kind.as_str()),
            Write::Forget { .. } => write!(f, "forget the instance"),
        }
    }
}

impl Plan {
    /// Nothing to write, nothing to do.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.steps.is_empty() && !self.status_changed
    }

    /// The steps that the pass does not wait for: their tasks and kinds.
    pub fn apart(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let apart = self.steps.iter().filter(|step| step.action.is_apart());
        apart.filter_map(|step| Some((step.action.task_id()?, step.action.kind())))
    }

    /// What is left of a plan that breaks rules: nothing of it is done.
    #[must_use]
    pub fn refused(self, why: &str) -> Plan {
        Plan { waiting: vec![format!("the plan was refused: {why}")], status: self.status, ..Plan::default() }
    }

    /// The launches among the steps.
    pub fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.steps.iter().filter_map(|step| match &step.action {
            Action::Launch(launch) => Some(launch),
            _ => None,
        })
    }

    /// For people. Acknowledgements are left out: they follow from updates, not from decisions.
    pub fn view(&self) -> PlanView {
        let writes = self.writes.iter().map(ToString::to_string);
        let steps = self.steps.iter().filter(|step| !matches!(step.action, Action::Acknowledge { .. }));
        PlanView { steps: writes.chain(steps.map(ToString::to_string)).collect(), waiting: self.waiting.clone() }
    }
}
