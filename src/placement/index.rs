//! Agents in the order in which they are chosen, so that a decision looks at a few only. Pure.
//!
//! An [`Index`] serves all needs with the same placement and CPU share. It holds the agents that
//! satisfy everything but the memory and the distribution: memory is in the order, and only agents
//! that run nodes of the same instance can be full. So the first entry with enough memory is the
//! answer, save for those agents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Needs;
use super::rules::{Candidate, Usage, domain};
use crate::spec::{Constraint, Strategy};

/// Up to this many domains, each one's best agent is looked up; with more of them (they are small
/// then), the common order is walked past the domains that are in use.
const DOMAINS_EACH_MAX: usize = 64;

/// Rank of an agent: the least is chosen. For `spread` the complement of the free memory, for
/// `pack` the free memory; ties by agent id.
type Rank = (u64, Arc<str>);

/// The order of agents for one kind of needs.
#[derive(Clone, Debug)]
pub(super) struct Index {
    strategy: Strategy,
    spread_by: Option<String>,
    constraints: Vec<Constraint>,
    cpus_milli: u64,
    /// When it was last used, to drop the one that is used least.
    pub used: u64,
    members: BTreeMap<Arc<str>, (u64, Arc<str>)>,
    all: BTreeSet<Rank>,
    domains: BTreeMap<Arc<str>, BTreeSet<Rank>>,
}

impl Index {
    pub fn new(needs: &Needs) -> Self {
        Index {
            strategy: needs.placement.strategy,
            spread_by: needs.placement.spread_by.clone(),
            constraints: needs.placement.constraints.clone(),
            cpus_milli: needs.cpus_milli,
            used: 0,
            members: BTreeMap::new(),
            all: BTreeSet::new(),
            domains: BTreeMap::new(),
        }
    }

    /// Whether the index was made for needs of this kind.
    pub fn serves(&self, needs: &Needs) -> bool {
        self.cpus_milli == needs.cpus_milli
            && self.strategy == needs.placement.strategy
            && self.spread_by == needs.placement.spread_by
            && self.constraints == needs.placement.constraints
    }

    /// Puts the agent where it belongs now; `None`: the agent is gone.
    pub fn update(&mut self, agent_id: &Arc<str>, agent: Option<&Candidate>) {
        let rank = agent.and_then(|agent| self.rank(agent));
        // Only the memory changes while an offer is used up: keep the domain's text.
        let old = self.members.remove(agent_id);
        if let Some((rank, domain)) = &old {
            let entry = (*rank, agent_id.clone());
            self.all.remove(&entry);
            if let Some(order) = self.domains.get_mut(domain) {
                order.remove(&entry);
                if order.is_empty() {
                    self.domains.remove(domain);
                }
            }
        }
        let (Some(agent), Some(rank)) = (agent, rank) else { return };
        let value = domain(self.spread_by.as_deref(), agent.hostname, agent.attributes);
        let value = old.map(|(_, old)| old).filter(|old| **old == *value).unwrap_or_else(|| value.into());
        self.all.insert((rank, agent_id.clone()));
        self.domains.entry(value.clone()).or_default().insert((rank, agent_id.clone()));
        self.members.insert(agent_id.clone(), (rank, value));
    }

    fn rank(&self, agent: &Candidate) -> Option<u64> {
        let fits = agent.offered
            && agent.unavailable_from.is_none()
            && agent.free.cpus_milli() >= self.cpus_milli
            && agent.free.ports() > 0
            && agent.failed(&self.constraints).is_none();
        let mem = agent.free.mem_milli();
        fits.then_some(match self.strategy {
            Strategy::Spread => u64::MAX - mem,
            Strategy::Pack => mem,
        })
    }

    /// The agent for the next node: of the domains with the fewest nodes of the instance the best.
    pub fn choose(&self, needs: &Needs, usage: &Usage) -> Option<Arc<str>> {
        let unused = if self.domains.len() <= DOMAINS_EACH_MAX {
            let unused = self.domains.iter().filter(|(domain, _)| usage.in_domain(domain) == 0);
            unused.filter_map(|(_, order)| self.best(order, |_| true, needs, usage)).min()
        } else {
            let in_unused =
                |agent: &Arc<str>| self.members.get(agent).is_some_and(|(_, domain)| usage.in_domain(domain) == 0);
            self.best(&self.all, in_unused, needs, usage)
        };
        if let Some((_, rank)) = unused {
            return Some(rank.1.clone());
        }
        let used = usage.used_domains();
        used.chunk_by(|a, b| a.0 == b.0).find_map(|equals| {
            let orders = equals.iter().filter_map(|(_, domain)| self.domains.get(*domain));
            let best = orders.filter_map(|order| self.best(order, |_| true, needs, usage)).min()?;
            Some(best.1.1.clone())
        })
    }

    /// The best agent of an order: with `spread` the one with the fewest nodes of the instance,
    /// then by rank; with `pack` by rank alone. Looks at one agent more than are in use, at most.
    fn best<'i>(
        &self,
        order: &'i BTreeSet<Rank>,
        within: impl Fn(&Arc<str>) -> bool,
        needs: &Needs,
        usage: &Usage,
    ) -> Option<(u32, &'i Rank)> {
        let mem = needs.mem_milli();
        let (from, to) = match self.strategy {
            Strategy::Spread => (0, u64::MAX - mem),
            Strategy::Pack => (mem, u64::MAX),
        };
        let fitting = order.range((from, Arc::from(""))..).take_while(|(rank, _)| *rank <= to);
        let mut best: Option<(u32, &Rank)> = None;
        for entry in fitting.filter(|(_, agent)| within(agent)) {
            let nodes = usage.on_agent(&entry.1);
            if nodes >= needs.distribution {
                continue;
            }
            let key = match self.strategy {
                Strategy::Spread => (nodes, entry),
                Strategy::Pack => (0, entry),
            };
            if key.0 == 0 {
                return Some(key);
            }
            best = Some(best.map_or(key, |best| best.min(key)));
        }
        best
    }
}
