//! The agents that are to be emptied: from when on, and whether nothing of ours is left there. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{InverseOffer, Leaving, Offer, TaskState, Timestamp};
use crate::reconcile::world::Node;

/// Mesos' reason when it kills a task because its agent is drained.
pub const DRAINING: &str = "REASON_AGENT_DRAINING";

/// The agents that are to be emptied.
#[derive(Clone, Debug, Default)]
pub struct LeavingAgents {
    /// Nodes leave an agent so long before its maintenance begins, in milliseconds.
    ahead_ms: u64,
    /// As Mesos was last asked.
    listed: BTreeMap<String, Leaving>,
    /// Inverse offers that are not answered, by agent.
    asked: BTreeMap<String, InverseOffer>,
}

impl LeavingAgents {
    /// None is known yet.
    pub fn new(ahead_ms: u64) -> LeavingAgents {
        LeavingAgents { ahead_ms, ..LeavingAgents::default() }
    }

    /// All of them, by id; answers of which something else was known.
    pub fn listed(&mut self, agents: BTreeMap<String, Leaving>) -> BTreeSet<String> {
        let before = std::mem::replace(&mut self.listed, agents);
        let all = before.keys().chain(self.listed.keys());
        all.filter(|agent_id| before.get(*agent_id) != self.listed.get(*agent_id)).cloned().collect()
    }

    pub(super) fn asked(&mut self, offer: InverseOffer) {
        self.asked.insert(offer.agent_id.clone(), offer);
    }

    /// Answers which agent the offer was for.
    pub(super) fn rescinded(&mut self, offer_id: &str) -> Option<String> {
        let agent_id = self.asked.values().find(|offer| offer.id == offer_id)?.agent_id.clone();
        self.asked.remove(&agent_id);
        Some(agent_id)
    }

    /// They died with their subscription; Mesos asks again.
    pub(super) fn forget_asked(&mut self) {
        self.asked.clear();
    }

    /// Takes the inverse offers of agents that none of ours are left on.
    pub(super) fn take_emptied(&mut self, used: &BTreeSet<&str>) -> Vec<String> {
        let (kept, emptied) =
            std::mem::take(&mut self.asked).into_iter().partition(|(id, _)| used.contains(id.as_str()));
        self.asked = kept;
        emptied.into_values().map(|offer| offer.id).collect()
    }

    /// Whether inverse offers wait for an answer.
    pub(super) fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Maintenance that is far ahead keeps no node away: when a whole fleet has its turn planned, there
    /// would be no agent left.
    pub(super) fn soften(&self, offer: &mut Offer, now: Timestamp) {
        offer.unavailable_from = offer.unavailable_from.filter(|from| self.counts_from(*from) <= now);
    }

    fn counts_from(&self, maintenance: Timestamp) -> Timestamp {
        Timestamp(maintenance.0.saturating_sub(self.ahead_ms))
    }

    /// Why an agent is to be emptied, now or later.
    fn why(&self, agent_id: &str) -> Option<Leaving> {
        let asked = self.asked.get(agent_id).map(|offer| Leaving::Maintenance(offer.from));
        self.listed.get(agent_id).copied().or(asked)
    }

    /// Why a node is to leave its agent now: Mesos says so of the agent, or of the task itself.
    pub fn node(&self, node: &Node, now: Timestamp) -> Option<Leaving> {
        let update = node.update.as_ref();
        if update.is_some_and(|u| u.state == TaskState::Killing && u.reason.as_deref() == Some(DRAINING)) {
            return Some(Leaving::Drained);
        }
        self.why(&node.record.value.agent_id).filter(|why| match why {
            Leaving::Drained | Leaving::Deactivated => true,
            Leaving::Maintenance(from) => self.counts_from(*from) <= now,
        })
    }

    /// When an agent must be left that needs not yet.
    pub fn later(&self, agent_id: &str, now: Timestamp) -> Option<Timestamp> {
        match self.why(agent_id)? {
            Leaving::Drained | Leaving::Deactivated => None,
            Leaving::Maintenance(from) => Some(self.counts_from(from)).filter(|at| *at > now),
        }
    }
}
