//! Tasks of ours that are not recorded: replaced ones that came back, or a store that forgot. Pure.

use std::cmp::Ordering;

use crate::model::{Meaning, NodeRecord, Role, TaskUpdate, Timestamp, launch_time, parse_task_id};
use crate::reconcile::world::World;

/// A task that bears our marks but is not recorded.
#[derive(Clone, Debug)]
pub struct Stranger {
    /// The newest news of it.
    pub update: TaskUpdate,
    /// The last KILL.
    pub killed_at: Option<Timestamp>,
    /// The last question after it.
    pub asked_at: Option<Timestamp>,
    /// The update has been acknowledged, or needs no acknowledgement.
    pub acknowledged: bool,
}

impl Stranger {
    /// It runs, or is about to, as far as Mesos knows.
    pub fn lives(&self) -> bool {
        !matches!(self.update.state.meaning(), Meaning::Dead | Meaning::Unsure)
    }

    /// Nothing is left to be done about it.
    pub(super) fn is_over(&self) -> bool {
        self.acknowledged && !self.lives()
    }
}

impl World {
    /// A task of ours that runs, and is neither recorded nor superseded: the store has lost
    /// something. Nothing is done until it is known that the task does not run: an update may be
    /// old, and of a task whose record was removed after its death.
    pub(super) fn judge_strangers(&mut self) {
        if self.store_id.is_none() || (self.frozen.is_some() && !self.doubt) {
            return;
        }
        let unknown = self.strangers.iter().find(|(task_id, stranger)| stranger.lives() && !self.superseded(task_id));
        self.frozen = unknown.map(|(task_id, stranger)| {
            let state = stranger.update.state;
            format!(
                "task {task_id} runs ({state}), but the store does not know it: it has lost records or was restored from a backup"
            )
        });
        self.doubt = self.frozen.is_some();
    }

    /// Whether an unrecorded task is one that was superseded: its instance is recorded, has counted
    /// beyond it, and everything recorded fits in. Otherwise the store has forgotten something.
    pub fn superseded(&self, task_id: &str) -> bool {
        let Some((name, ordinal)) = parse_task_id(task_id) else { return false };
        let Some(instance) = self.instances.get(name) else { return false };
        let Some(record) = instance.record.as_ref().map(|record| &record.value) else { return false };
        let launched_at = launch_time(task_id);
        let in_order = |node: &NodeRecord| match node.ordinal.cmp(&ordinal) {
            Ordering::Less => node.launched_at <= launched_at,
            Ordering::Equal => false, // No ordinal is used twice.
            Ordering::Greater => node.launched_at >= launched_at,
        };
        ordinal < record.next_ordinal
            && record.master != Some(ordinal)
            && record.created_at <= launched_at
            && instance.nodes.values().all(|node| in_order(&node.record.value))
    }

    /// Whether the instance of a superseded task can do without it: its master answers.
    pub fn dispensable(&self, task_id: &str) -> bool {
        let instance = parse_task_id(task_id).and_then(|(name, _)| self.instances.get(name));
        let master = instance.and_then(|i| i.nodes.get(&i.record.as_ref()?.value.master?));
        master.is_some_and(|node| {
            let answers = node.answer().is_some_and(|answer| answer.role == Role::Master && !answer.loading);
            answers && !node.record.value.task.is_dead()
        })
    }
}
