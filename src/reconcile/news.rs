//! Mesos' part of the world: the session, offers, news of tasks. Pure.

use crate::model::{Meaning, MesosEvent, TaskUpdate, Timestamp};
use crate::reconcile::world::{Dirty, Session, Stranger, World};

impl World {
    pub(super) fn mesos(&mut self, event: MesosEvent, now: Timestamp) -> Dirty {
        match event {
            MesosEvent::Subscribed { framework_id, subscription } => {
                self.session = Session::Subscribed { subscription, since: now };
                self.framework_id = Some(framework_id);
                self.lose_sight();
                Dirty::all()
            }
            MesosEvent::Disconnected { reason } => {
                self.session = Session::Disconnected(reason);
                self.lose_sight();
                Dirty::all()
            }
            MesosEvent::Ended { message } => {
                self.session = Session::Ended(message);
                self.lose_sight();
                Dirty::all()
            }
            MesosEvent::Offers(offers) => {
                for offer in offers {
                    self.pool.add(offer);
                }
                Dirty::default() // Those who wait for offers are known to the controller.
            }
            MesosEvent::Rescind(offer_id) => {
                self.pool.remove(&offer_id);
                Dirty::default()
            }
            MesosEvent::Update(update) => self.updated(update),
            MesosEvent::AgentFailed(_) => Dirty::default(), // A hint; the updates say the same.
            MesosEvent::CallFailed { task_ids, .. } => {
                for task_id in &task_ids {
                    if let Some((_, node)) = self.node_of(task_id) {
                        node.heard = false; // Whether it was launched is to be asked.
                    }
                }
                Dirty::default()
            }
        }
    }

    /// Offers are void, and what is known of tasks may be old: each is to be asked for again.
    fn lose_sight(&mut self) {
        self.pool.clear();
        self.strangers.clear();
        for node in self.instances.values_mut().flat_map(|i| i.nodes.values_mut()) {
            node.heard = false;
            node.killed_at = None;
        }
    }

    fn updated(&mut self, update: TaskUpdate) -> Dirty {
        if let Some((name, node)) = self.node_of(&update.task_id) {
            let dirty = Dirty::one(name);
            node.hear(update);
            return dirty;
        }
        let acknowledged = update.uuid.is_none();
        if update.state.meaning() == Meaning::Dead && acknowledged {
            self.strangers.remove(&update.task_id);
            return Dirty::default();
        }
        let known = self.strangers.get(&update.task_id);
        let stranger = Stranger { killed_at: known.and_then(|s| s.killed_at), acknowledged, update };
        self.strangers.insert(stranger.update.task_id.clone(), stranger);
        Dirty::default()
    }
}
