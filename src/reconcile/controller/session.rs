//! What concerns no instance alone: who we are to Mesos, and calls about offers and tasks of nobody. I/O.

use anyhow::Result;
use tracing::{info, warn};

use super::Controller;
use crate::model::{MesosCall, Timestamp};
use crate::reconcile::framework;
use crate::reconcile::offers::plan_session;
use crate::reconcile::world::{Done, Event, Note, Session};

impl Controller {
    /// The framework id is stored before anything is done under it. Answers whether that is so.
    pub(super) async fn store_framework(&mut self) -> Result<bool> {
        let Session::Subscribed { .. } = self.world.session else { return Ok(true) };
        if self.world.frozen.is_some() || self.framework_stored == self.world.framework_id {
            return Ok(true);
        }
        let Some(id) = self.world.framework_id.clone() else { return Ok(false) };
        let recorded = framework::record(&self.parts.store, &self.parts.leadership, &id).await?;
        self.framework_stored = recorded.then_some(id);
        Ok(recorded)
    }

    pub(super) fn session_round(&mut self, now: Timestamp) {
        let busy = self.schedule.undecided();
        let plan = plan_session(&mut self.world, &mut self.asked, &self.wanting, &busy, now);
        self.session_revisit = plan.revisit_at;
        let Some(subscription) = self.world.subscription() else { return };
        for call in plan.calls {
            self.note_call(&call, now);
            if let Err(error) = self.parts.mesos.0.send(subscription, call) {
                warn!("Mesos: {error}");
            }
        }
    }

    fn note_call(&mut self, call: &MesosCall, now: Timestamp) {
        let note = match call {
            MesosCall::Decline { offer_ids, .. } => {
                let reason = if self.wanting.is_empty() { "nobody waits" } else { "does not fit" };
                return self.parts.metrics.offers("declined", reason, offer_ids.len() as u64);
            }
            MesosCall::AcceptInverse(ids) => return info!(?ids, "nothing is left on the agents that Mesos asks for"),
            MesosCall::Kill { task_id, .. } => return warn!(task_id, "killing a task that was superseded"),
            MesosCall::Acknowledge { task_id, uuid, .. } => {
                Note { task_id: task_id.clone(), done: Done::Acknowledged(uuid.clone()) }
            }
            _ => return,
        };
        self.world.apply(Event::Noted(note), now);
    }
}
