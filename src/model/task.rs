//! Tasks, and what is said between us and Mesos of them. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{LastWords, Offer, Piece, Timestamp};
use crate::spec::Constraint;

/// Every state of a Mesos task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)] // The names are Mesos' own.
pub enum TaskState {
    Staging,
    Starting,
    Running,
    Killing,
    Finished,
    Failed,
    Killed,
    Error,
    Lost,
    Dropped,
    Unreachable,
    Gone,
    GoneByOperator,
    Unknown,
}

/// What a task state means for a node and its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Launched, not yet running.
    Starting,
    /// The process runs, as far as Mesos knows.
    Running,
    /// The process is being killed.
    Stopping,
    /// Proved: the process does not run, and never will under this task id.
    Dead,
    /// No proof either way: the process may run, and serve clients.
    Unsure,
}

impl TaskState {
    /// Every state.
    pub const ALL: [TaskState; 14] = [
        TaskState::Staging,
        TaskState::Starting,
        TaskState::Running,
        TaskState::Killing,
        TaskState::Finished,
        TaskState::Failed,
        TaskState::Killed,
        TaskState::Error,
        TaskState::Lost,
        TaskState::Dropped,
        TaskState::Unreachable,
        TaskState::Gone,
        TaskState::GoneByOperator,
        TaskState::Unknown,
    ];

    /// What the state means. LOST and UNKNOWN are silence, not proof (an agent that was removed
    /// may still run the process).
    pub fn meaning(self) -> Meaning {
        match self {
            TaskState::Staging | TaskState::Starting => Meaning::Starting,
            TaskState::Running => Meaning::Running,
            TaskState::Killing => Meaning::Stopping,
            TaskState::Finished
            | TaskState::Failed
            | TaskState::Killed
            | TaskState::Error
            | TaskState::Dropped
            | TaskState::Gone
            | TaskState::GoneByOperator => Meaning::Dead,
            TaskState::Lost | TaskState::Unreachable | TaskState::Unknown => Meaning::Unsure,
        }
    }

    /// Whether it is a word about the agent only: an administrator's, or the master's. Nobody has seen
    /// the process end, and one whose agent is cut off goes on.
    pub fn is_hearsay(self) -> bool {
        matches!(self, TaskState::Gone | TaskState::GoneByOperator)
    }

    /// Mesos' name, as `TASK_RUNNING`.
    pub fn mesos_name(self) -> &'static str {
        match self {
            TaskState::Staging => "TASK_STAGING",
            TaskState::Starting => "TASK_STARTING",
            TaskState::Running => "TASK_RUNNING",
            TaskState::Killing => "TASK_KILLING",
            TaskState::Finished => "TASK_FINISHED",
            TaskState::Failed => "TASK_FAILED",
            TaskState::Killed => "TASK_KILLED",
            TaskState::Error => "TASK_ERROR",
            TaskState::Lost => "TASK_LOST",
            TaskState::Dropped => "TASK_DROPPED",
            TaskState::Unreachable => "TASK_UNREACHABLE",
            TaskState::Gone => "TASK_GONE",
            TaskState::GoneByOperator => "TASK_GONE_BY_OPERATOR",
            TaskState::Unknown => "TASK_UNKNOWN",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mesos_name())
    }
}

/// A status update of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskUpdate {
    /// The task.
    pub task_id: String,
    /// The agent, where the update names one.
    pub agent_id: Option<String>,
    /// The state that is reported.
    pub state: TaskState,
    /// `REASON_...`, where one is given.
    pub reason: Option<String>,
    /// Free text.
    pub message: String,
    /// Base64, as received. Present: the update is repeated until acknowledged.
    pub uuid: Option<String>,
}

/// What is to be launched: everything that makes a `TaskInfo`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Never used before or again.
    pub task_id: String,
    /// The node's name.
    pub name: String,
    /// The agent of the offers.
    pub agent_id: String,
    /// Taken out of the offers, piece by piece.
    pub pieces: Vec<Piece>,
    /// `redis-server` and its arguments.
    pub argv: Vec<String>,
    /// A container image; none: the agent's own redis-server.
    pub image: Option<String>,
    /// Time between SIGTERM and SIGKILL at a kill, in milliseconds.
    pub grace_ms: u64,
    /// Enough to know whose the task is.
    pub labels: BTreeMap<String, String>,
}

/// Why an agent is to be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It is drained: its tasks are being killed.
    Drained,
    /// It is deactivated: its tasks run on, and nothing more is placed on it.
    Deactivated,
    /// It is in maintenance from then on: its tasks may be killed at any time.
    Maintenance(Timestamp),
}

impl fmt::Display for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leaving::Drained => f.write_str("is drained"),
            Leaving::Deactivated => f.write_str("is deactivated"),
            Leaving::Maintenance(from) => write!(f, "is in maintenance from {from} on"),
        }
    }
}

/// Mesos asks for an agent back, for its maintenance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InverseOffer {
    /// Its id.
    pub id: String,
    /// The agent.
    pub agent_id: String,
    /// When the maintenance begins.
    pub from: Timestamp,
}

/// What the session tells the operator.
#[derive(Clone, Debug, PartialEq)]
pub enum MesosEvent {
    /// A new subscription: offers of before are void, tasks must be reconciled.
    Subscribed {
        /// The id that the master gave us or accepted.
        framework_id: String,
        /// Counts the session's subscriptions; calls are made for one of them.
        subscription: u64,
    },
    /// The subscription is lost; the session tries again by itself.
    Disconnected {
        /// What was seen.
        reason: String,
    },
    /// The session ended for good: another operator took it over, or the framework was removed.
    /// It does not try again.
    Ended {
        /// The master's words.
        message: String,
    },
    /// New offers.
    Offers(Vec<Offer>),
    /// An offer is void.
    Rescind(String),
    /// Mesos asks for agents back.
    InverseOffers(Vec<InverseOffer>),
    /// An inverse offer is void.
    RescindInverse(String),
    /// All agents that are to be emptied, by id: replaces what was told before.
    Leaving(BTreeMap<String, Leaving>),
    /// A task's state.
    Update(TaskUpdate),
    /// What a task that died by itself said last; some time after its update.
    LastWords(LastWords),
    /// An agent is gone from Mesos' sight: a hint only.
    AgentFailed(String),
    /// A call did not get through. Told of every ACCEPT, and of other calls that the master refused.
    CallFailed {
        /// Mesos' name of the call: `ACCEPT`.
        call: &'static str,
        /// The tasks that the call was about.
        task_ids: Vec<String>,
        /// The master's words, or what was seen.
        message: String,
        /// The master may have acted on it all the same: reconcile before anything else. Otherwise
        /// it has not, and never will.
        uncertain: bool,
    },
}

/// What the operator tells Mesos.
#[derive(Clone, Debug, PartialEq)]
pub enum MesosCall {
    /// Launch tasks on one agent, out of its offers.
    Accept {
        /// Offers of one agent.
        offer_ids: Vec<String>,
        /// At least one.
        launches: Vec<Launch>,
        /// How long the unused rest is withheld.
        refuse_s: f64,
    },
    /// Give offers back.
    Decline {
        /// Offers of any agents.
        offer_ids: Vec<String>,
        /// How long they are withheld.
        refuse_s: f64,
    },
    /// Nothing of ours is left on the agents of these inverse offers.
    AcceptInverse(Vec<String>),
    /// No more offers.
    Suppress,
    /// Offers again; clears all filters and makes the master offer at once.
    Revive,
    /// Kill a task.
    Kill {
        /// The task.
        task_id: String,
        /// Only when certain: a wrong one makes the master drop the call silently.
        agent_id: Option<String>,
    },
    /// An update has been recorded.
    Acknowledge {
        /// The task.
        task_id: String,
        /// The agent of the update.
        agent_id: String,
        /// The uuid of the update.
        uuid: String,
    },
    /// Offer only agents that satisfy all constraints of one of these groups; without a group, all agents.
    /// Masters before 1.11 offer all of them all the same.
    Constrain(Vec<Vec<Constraint>>),
    /// Ask for the state of these tasks (task id, agent id); of all that the master knows when empty.
    Reconcile(Vec<(String, Option<String>)>),
}
