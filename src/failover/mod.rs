//! Judging an instance's master, and which nodes may hold its data. Pure.
//!
//! This version decides nothing that moves the master's role: it says what it sees, and keeps
//! everybody else from doing what could lose data.

use std::fmt;

use crate::model::{NoAnswer, Role, TaskRecord, Timestamp};
use crate::reconcile::draft::Draft;

pub mod redis;

/// What is believed of the recorded master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Master {
    /// No master is recorded: there is nothing yet.
    Unplaced,
    /// Recorded and not dead, but has never been seen ready.
    Starting,
    /// Answers as a master.
    Available,
    /// Answers, but reads its data set from disk.
    Loading,
    /// Answers as a replica: somebody else has changed its role.
    Demoted,
    /// Runs as far as Mesos knows, but does not answer.
    Silent(NoAnswer, Timestamp),
    /// Mesos has lost sight of it, and it does not answer. It may run, and serve clients.
    Unsure(Timestamp),
    /// Proved dead.
    Dead(String),
}

impl fmt::Display for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Master::Unplaced => f.write_str("has no place yet"),
            Master::Starting => f.write_str("is starting"),
            Master::Available => f.write_str("answers"),
            Master::Loading => f.write_str("loads its data set"),
            Master::Demoted => f.write_str("answers as a replica: its role was changed by somebody else"),
            Master::Silent(why, since) => write!(f, "does not answer since {since} ({why:?})"),
            Master::Unsure(since) => {
                write!(
                    f,
                    "is out of Mesos' sight since {since} and does not answer; it may be alive (if its agent is dead for good, tell Mesos so: MARK_AGENT_GONE)"
                )
            }
            Master::Dead(why) => write!(f, "is dead: {why}"),
        }
    }
}

/// Judges the recorded master.
pub fn judge(draft: &Draft) -> Master {
    let Some(record) = &draft.record else { return Master::Unplaced };
    let Some(ordinal) = record.master else { return Master::Unplaced };
    let Some(node) = draft.nodes.get(&ordinal) else {
        return Master::Dead("its record is gone".to_string());
    };
    if let TaskRecord::Dead { why, .. } = &node.task {
        return Master::Dead(why.clone());
    }
    if let Some(answer) = draft.answer(ordinal) {
        return match answer.role {
            _ if answer.loading => Master::Loading,
            Role::Master => Master::Available,
            Role::Replica => Master::Demoted,
        };
    }
    match (&node.task, draft.silence(ordinal)) {
        (TaskRecord::Unsure { since, .. }, _) => Master::Unsure(*since),
        (_, Some((why, since))) if record.initialized => Master::Silent(why, since),
        _ => Master::Starting,
    }
}

/// Whether it is proved that the node holds none of the dead master's data: it is dead, or it was
/// asked after the master's death and has never received anything. What it answered before proves
/// nothing, for the master may have sent it data since; nor does a link that is not seen broken, for
/// data may be on the way.
pub fn proved_empty(draft: &Draft, ordinal: u32) -> bool {
    if draft.nodes.get(&ordinal).is_none_or(|node| node.task.is_dead()) {
        return true;
    }
    let Some(TaskRecord::Dead { at: died_at, .. }) = draft.master().map(|master| &master.task) else { return false };
    let asked_at = draft.seen(ordinal).and_then(|node| node.answer.as_ref()).map(|(_, at)| at);
    let blank = draft.answer(ordinal).is_some_and(|answer| answer.is_blank() && !answer.may_receive());
    blank && asked_at > Some(died_at)
}
