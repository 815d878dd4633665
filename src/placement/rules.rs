//! The rules that an agent must satisfy, and what it lacks when it does not. Pure.

use std::collections::BTreeMap;

use super::{Needs, Occupied};
use crate::model::Timestamp;
use crate::placement::resources::{Free, MILLI};
use crate::spec::{Constraint, Operator};

/// Why an agent was not chosen. In the order in which the rules are looked at: the first that
/// fails is the one that counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A maintenance window is scheduled: the node would soon have to go.
    Maintenance,
    /// The first constraint that it fails, as text.
    Constraint(String),
    /// It runs as many nodes of the instance as `distribution` allows.
    Occupied,
    /// Too little memory.
    Memory,
    /// Too little CPU.
    Cpus,
    /// No port.
    Port,
    /// It fits by what it last offered, but holds no offer of it now.
    Awaited,
}

/// An agent as the rules see it.
pub(super) struct Candidate<'a> {
    pub hostname: &'a str,
    pub attributes: &'a BTreeMap<String, String>,
    pub unavailable_from: Option<Timestamp>,
    pub free: &'a Free,
    pub offered: bool,
}

/// The value of an attribute; `hostname` stands for the agent's hostname.
pub(super) fn attribute<'a>(
    name: &str,
    hostname: &'a str,
    attributes: &'a BTreeMap<String, String>,
) -> Option<&'a str> {
    if name == "hostname" { Some(hostname) } else { attributes.get(name).map(String::as_str) }
}

/// The value that the instance's nodes are spread over. Agents that lack the attribute share one.
pub(super) fn domain<'a>(
    spread_by: Option<&str>,
    hostname: &'a str,
    attributes: &'a BTreeMap<String, String>,
) -> &'a str {
    spread_by.and_then(|name| attribute(name, hostname, attributes)).unwrap_or("")
}

/// Whether an attribute's value, or its absence, satisfies the constraint.
pub(super) fn satisfies(constraint: &Constraint, value: Option<&str>) -> bool {
    let listed = value.is_some_and(|value| constraint.values.iter().any(|v| v == value));
    match constraint.operator {
        Operator::In => listed,
        Operator::NotIn => !listed,
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
    }
}

/// The first constraint that an agent with these attributes fails.
pub fn failed<'c>(
    constraints: &'c [Constraint],
    hostname: &str,
    attributes: &BTreeMap<String, String>,
) -> Option<&'c Constraint> {
    constraints.iter().find(|c| !satisfies(c, attribute(&c.attribute, hostname, attributes)))
}

impl Candidate<'_> {
    /// The first constraint that the agent fails.
    pub fn failed<'c>(&self, constraints: &'c [Constraint]) -> Option<&'c Constraint> {
        failed(constraints, self.hostname, self.attributes)
    }

    /// What is wrong with the agent, apart from the instance's nodes that it runs.
    pub fn lacks(&self, needs: &Needs) -> Option<Reason> {
        if self.unavailable_from.is_some() {
            return Some(Reason::Maintenance);
        }
        if let Some(constraint) = self.failed(&needs.placement.constraints) {
            return Some(Reason::Constraint(constraint.to_string()));
        }
        if self.free.mem_milli() < needs.mem_milli() {
            return Some(Reason::Memory);
        }
        if self.free.cpus_milli() < needs.cpus_milli {
            return Some(Reason::Cpus);
        }
        if self.free.ports() == 0 {
            return Some(Reason::Port);
        }
        (!self.offered).then_some(Reason::Awaited)
    }
}

impl Needs<'_> {
    /// Memory in thousandths of a MiB.
    pub(super) fn mem_milli(&self) -> u64 {
        self.mem_mib.saturating_mul(MILLI)
    }
}

/// How many of the instance's nodes each agent and each domain has.
pub(super) struct Usage<'a> {
    agents: BTreeMap<&'a str, u32>,
    domains: BTreeMap<&'a str, u32>,
}

impl<'a> Usage<'a> {
    pub fn of(occupied: &[Occupied<'a>], spread_by: Option<&str>) -> Self {
        let mut usage = Usage { agents: BTreeMap::new(), domains: BTreeMap::new() };
        for node in occupied {
            *usage.agents.entry(node.agent_id).or_default() += 1;
            *usage.domains.entry(domain(spread_by, node.hostname, node.attributes)).or_default() += 1;
        }
        usage
    }

    pub fn on_agent(&self, agent_id: &str) -> u32 {
        self.agents.get(agent_id).copied().unwrap_or(0)
    }

    pub fn in_domain(&self, domain: &str) -> u32 {
        self.domains.get(domain).copied().unwrap_or(0)
    }

    /// Agents that run at least `distribution` of the nodes.
    pub fn full_agents(&self, distribution: u32) -> impl Iterator<Item = &'a str> {
        self.agents.iter().filter(move |(_, nodes)| **nodes >= distribution).map(|(agent, _)| *agent)
    }

    /// Domains that have nodes, those with the fewest first.
    pub fn used_domains(&self) -> Vec<(u32, &'a str)> {
        let mut used: Vec<_> = self.domains.iter().map(|(domain, nodes)| (*nodes, *domain)).collect();
        used.sort_unstable();
        used
    }
}
