//! Offers merged by agent, with what is still free of them. Pure.
//!
//! Plans are made serially over one pool: each placement claims its part at once, so that no two
//! plans use the same resource. A claim ends when its plan is refused ([`Pool::release`]) or when
//! the agent's offers are accepted or declined ([`Pool::take_agent`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::index::Index;
use super::refusal::TallyCache;
use super::resources::Free;
use super::rules::{Candidate, Usage};
use super::{Needs, Placement};
use crate::model::{Offer, Piece, Timestamp};

/// Agents without an offer that are remembered, to say why nothing fits. A Mesos master is known
/// to run with up to about 10,000 agents; an agent takes about 1 kB here.
pub const REMEMBERED_AGENTS_MAX: usize = 20_000;

/// Orders of agents that are kept up to date; a change of an agent costs about 1 µs for each. More
/// kinds of needs than that at a time cost a new order at each turn.
const INDEXES_MAX: usize = 16;

/// An offer that is held.
#[derive(Clone, Debug)]
struct HeldOffer {
    id: String,
    unavailable_from: Option<Timestamp>,
    pieces: Vec<Piece>,
}

/// Resources that a placement took out of an agent's offers.
#[derive(Clone, Debug)]
struct Claim {
    port: u16,
    pieces: Vec<Piece>,
}

/// An agent: with offers, or remembered from former ones.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    hostname: String,
    host: String,
    attributes: BTreeMap<String, String>,
    /// The role of its offers: Mesos takes no launch from offers of several.
    role: String,
    offers: Vec<HeldOffer>,
    claims: Vec<Claim>,
    /// What the offers leave after the claims; without offers, what was last known.
    free: Free,
    /// When its last offer went, by the pool's own count.
    idle_since: u64,
}

impl Agent {
    pub fn candidate(&self) -> Candidate<'_> {
        Candidate {
            hostname: &self.hostname,
            attributes: &self.attributes,
            unavailable_from: self.offers.iter().filter_map(|o| o.unavailable_from).min(),
            free: &self.free,
            offered: !self.offers.is_empty(),
        }
    }

    fn offer_ids(&self) -> Vec<String> {
        self.offers.iter().map(|o| o.id.clone()).collect()
    }

    fn recount(&mut self) {
        if self.offers.is_empty() {
            return;
        }
        self.free = Free::default();
        self.offers.iter().flat_map(|o| &o.pieces).for_each(|piece| self.free.add(piece));
        self.claims.iter().flat_map(|c| &c.pieces).for_each(|piece| self.free.subtract(piece));
    }
}

/// Offers merged by agent, with what is still free of them.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    agents: BTreeMap<Arc<str>, Agent>,
    /// The agent of each held offer.
    offers: BTreeMap<String, Arc<str>>,
    /// Agents without an offer, those that lost theirs first at the front.
    idle: BTreeSet<(u64, Arc<str>)>,
    indexes: Vec<Index>,
    tallies: TallyCache,
    /// Counts changes: orders what happened without a clock.
    changes: u64,
}

impl Pool {
    /// Takes in an offer. The same offer twice is one. Answers offers that are of no use now, to be given
    /// back: of an agent, offers of one role are held at a time, reserved ones rather than others.
    pub fn add(&mut self, offer: Offer) -> Vec<String> {
        if self.offers.contains_key(&offer.id) {
            return Vec::new();
        }
        let id: Arc<str> = offer.agent_id.as_str().into();
        let mut spare = Vec::new();
        if let Some(agent) = self.agents.get(&id).filter(|agent| !agent.offers.is_empty() && agent.role != offer.role) {
            let reserved = |pieces: &[Piece]| pieces.iter().any(|piece| !piece.reservations.is_null());
            let holds_reserved = agent.offers.iter().any(|held| reserved(&held.pieces));
            if !agent.claims.is_empty() || holds_reserved || !reserved(&offer.pieces) {
                return vec![offer.id];
            }
            spare = self.take_agent(&id);
        }
        self.offers.insert(offer.id.clone(), id.clone());
        let agent = self.agents.entry(id.clone()).or_insert_with(|| Agent {
            hostname: String::new(),
            host: String::new(),
            attributes: BTreeMap::new(),
            role: String::new(),
            offers: Vec::new(),
            claims: Vec::new(),
            free: Free::default(),
            idle_since: 0,
        });
        self.idle.remove(&(agent.idle_since, id.clone()));
        agent.hostname = offer.hostname;
        agent.host = offer.host;
        agent.attributes = offer.attributes;
        agent.role = offer.role;
        let held = HeldOffer { id: offer.id, unavailable_from: offer.unavailable_from, pieces: offer.pieces };
        agent.offers.push(held);
        agent.recount();
        self.changed(&id);
        spare
    }

    /// An offer is void. Whether it was held; claims on its agent can no longer be accepted.
    pub fn remove(&mut self, offer_id: &str) -> bool {
        let Some(id) = self.offers.remove(offer_id) else { return false };
        let agent = self.agent_mut(&id);
        agent.offers.retain(|o| o.id != offer_id);
        agent.recount();
        if agent.offers.is_empty() {
            self.rest(&id);
        }
        self.changed(&id);
        true
    }

    /// Whether nothing is on offer.
    pub fn is_empty(&self) -> bool {
        self.offers.is_empty()
    }

    /// All offers are void. Agents are remembered.
    pub fn clear(&mut self) {
        let offering: BTreeSet<Arc<str>> = self.offers.values().cloned().collect();
        for id in offering {
            self.take_agent(&id);
        }
    }

    /// The agent's offers, which leave the pool with all claims on them: they are about to be
    /// accepted or declined. What was free is remembered.
    pub fn take_agent(&mut self, agent_id: &str) -> Vec<String> {
        let Some((id, agent)) = self.agents.get_key_value(agent_id) else { return Vec::new() };
        let (id, offer_ids) = (id.clone(), agent.offer_ids());
        if offer_ids.is_empty() {
            return offer_ids;
        }
        for offer_id in &offer_ids {
            self.offers.remove(offer_id);
        }
        self.agent_mut(&id).offers.clear();
        self.rest(&id);
        self.changed(&id);
        offer_ids
    }

    /// The agent is gone for good: it is no longer counted among those that have offered.
    pub fn forget_agent(&mut self, agent_id: &str) {
        self.take_agent(agent_id);
        if let Some((id, agent)) = self.agents.remove_entry(agent_id) {
            self.idle.remove(&(agent.idle_since, id.clone()));
            self.changed(&id);
        }
    }

    /// Agents with offers, by id.
    pub fn agents(&self) -> impl Iterator<Item = &str> {
        self.agents.iter().filter(|(_, agent)| !agent.offers.is_empty()).map(|(id, _)| &**id)
    }

    /// The offers of agents that nobody claimed anything of: what would be declined.
    pub fn offer_ids_of_unclaimed_agents(&self) -> Vec<String> {
        self.unclaimed().flat_map(|(_, agent)| agent.offer_ids()).collect()
    }

    /// Takes the offers that nobody claimed anything of, to decline them.
    pub fn take_unclaimed(&mut self) -> Vec<String> {
        let unclaimed: Vec<Arc<str>> = self.unclaimed().map(|(id, _)| id.clone()).collect();
        unclaimed.iter().flat_map(|id| self.take_agent(id)).collect()
    }

    /// Agents that have an offer, or had one and are remembered.
    pub fn agents_seen(&self) -> usize {
        self.agents.len()
    }

    /// Offers that are held.
    pub fn offers_held(&self) -> usize {
        self.offers.len()
    }

    /// Rises with every change: while it stays, a need that was refused would be refused again.
    pub fn generation(&self) -> u64 {
        self.changes
    }

    /// Gives a claim back. False: it was not there any more, because its offers have been taken or
    /// rescinded, or because it has been released before.
    pub fn release(&mut self, placement: &Placement) -> bool {
        let Some((id, agent)) = self.agents.get_key_value(placement.agent_id.as_str()) else { return false };
        let id = id.clone();
        if !agent.offers.iter().any(|o| placement.offer_ids.contains(&o.id)) {
            return false; // Claims on later offers of the agent are somebody else's.
        }
        let agent = self.agent_mut(&id);
        let Some(at) = agent.claims.iter().position(|c| c.port == placement.port) else { return false };
        agent.claims.remove(at);
        agent.recount();
        self.changed(&id);
        true
    }

    /// The agent on which the node goes, by the rules.
    pub(super) fn choose(&mut self, needs: &Needs, usage: &Usage) -> Option<Arc<str>> {
        let at = self.indexes.iter().position(|index| index.serves(needs)).unwrap_or_else(|| self.new_index(needs));
        self.indexes[at].used = self.changes;
        self.indexes[at].choose(needs, usage)
    }

    /// Claims what the node needs from an agent that has it.
    pub(super) fn claim(&mut self, agent_id: &Arc<str>, needs: &Needs, pick: u64) -> Option<Placement> {
        let agent = self.agents.get_mut(agent_id)?;
        let (port, pieces) = agent.free.claim(needs.cpus_milli, needs.mem_milli(), pick)?;
        agent.claims.push(Claim { port, pieces: pieces.clone() });
        let placement = Placement {
            agent_id: agent_id.to_string(),
            hostname: agent.hostname.clone(),
            host: agent.host.clone(),
            attributes: agent.attributes.clone(),
            port,
            pieces,
            offer_ids: agent.offer_ids(),
        };
        self.changed(agent_id);
        Some(placement)
    }

    /// All agents, offering or remembered, and the place where their shortcomings are counted.
    pub(super) fn explained(&mut self) -> (&BTreeMap<Arc<str>, Agent>, &mut TallyCache, u64) {
        (&self.agents, &mut self.tallies, self.changes)
    }

    fn new_index(&mut self, needs: &Needs) -> usize {
        if self.indexes.len() >= INDEXES_MAX {
            let oldest = self.indexes.iter().enumerate().min_by_key(|(_, index)| index.used);
            let oldest = oldest.map(|(at, _)| at).expect("there are several");
            self.indexes.swap_remove(oldest);
        }
        let mut index = Index::new(needs);
        for (id, agent) in &self.agents {
            index.update(id, Some(&agent.candidate()));
        }
        self.indexes.push(index);
        self.indexes.len() - 1
    }

    fn unclaimed(&self) -> impl Iterator<Item = (&Arc<str>, &Agent)> {
        self.agents.iter().filter(|(_, agent)| !agent.offers.is_empty() && agent.claims.is_empty())
    }

    fn agent_mut(&mut self, id: &Arc<str>) -> &mut Agent {
        self.agents.get_mut(id).expect("an agent is kept as long as it has offers")
    }

    /// The agent has lost its last offer: what it had is remembered, within the limit.
    fn rest(&mut self, id: &Arc<str>) {
        let now = self.changes + 1;
        let agent = self.agent_mut(id);
        agent.claims.clear();
        agent.idle_since = now;
        self.idle.insert((now, id.clone()));
        if self.idle.len() > REMEMBERED_AGENTS_MAX
            && let Some((_, oldest)) = self.idle.pop_first()
        {
            self.agents.remove(&oldest);
            self.changed(&oldest);
        }
    }

    fn changed(&mut self, id: &Arc<str>) {
        self.changes += 1;
        let candidate = self.agents.get(id).map(Agent::candidate);
        for index in &mut self.indexes {
            index.update(id, candidate.as_ref());
        }
    }
}
