//! Why a node has no place: every agent that has offered, counted by what it lacks. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Needs;
use super::pool::{Agent, Pool};
use super::resources::MILLI;
use super::rules::{Reason, Usage};
use crate::spec::Constraint;

/// Examples that are kept of each reason, so that some are left when an instance's own agents are
/// taken out.
const EXAMPLES_MAX: usize = 8;

/// Tallies that are kept: as many kinds of needs as usually wait at a time.
const TALLIES_MAX: usize = 16;

/// Why a node has no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The instance.
    pub instance: String,
    /// Memory of the node's task, in MiB.
    pub mem_mib: u64,
    /// CPU share of the node, in thousandths.
    pub cpus_milli: u64,
    /// The limit of nodes on one agent.
    pub distribution: u32,
    /// The constraints, as text.
    pub constraints: Vec<String>,
    /// Agents that have offered.
    pub agents: usize,
    /// What they lack.
    pub reasons: Vec<Shortfall>,
}

/// A reason with the number of agents that it holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// What they lack.
    pub reason: Reason,
    /// How many agents.
    pub agents: usize,
    /// The hostname of one of them: the one that has most left of what is missing.
    pub example: String,
    /// What that one has left of memory (MiB) or CPUs (thousandths), whichever is missing.
    pub left: u64,
}

/// An agent that a reason holds for. Sorted so that the one that has most left is last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Example {
    left: u64,
    hostname: String,
    agent_id: Arc<str>,
}

/// Agents by what they lack.
#[derive(Clone, Debug, Default)]
struct Tally(BTreeMap<Reason, (usize, Vec<Example>)>);

impl Tally {
    fn add(&mut self, reason: Reason, example: Example) {
        let (agents, examples) = self.0.entry(reason).or_default();
        *agents += 1;
        let at = examples.partition_point(|e| *e < example);
        examples.insert(at, example);
        if examples.len() > EXAMPLES_MAX {
            examples.remove(0);
        }
    }

    /// Takes an agent out. False: the examples are used up, so another one is not known.
    fn remove(&mut self, reason: &Reason, agent_id: &str) -> bool {
        let Some((agents, examples)) = self.0.get_mut(reason) else { return true };
        *agents -= 1;
        examples.retain(|e| &*e.agent_id != agent_id);
        let known = *agents == 0 || !examples.is_empty();
        if *agents == 0 {
            self.0.remove(reason);
        }
        known
    }
}

/// Tallies of the newest refusals, without regard to the nodes of the instance in question: when
/// a full cluster has a thousand instances waiting, the agents are counted once, not a thousand
/// times.
#[derive(Clone, Debug, Default)]
pub(super) struct TallyCache(Vec<CachedTally>);

#[derive(Clone, Debug)]
struct CachedTally {
    constraints: Vec<Constraint>,
    mem_mib: u64,
    cpus_milli: u64,
    generation: u64,
    tally: Tally,
}

impl TallyCache {
    fn get(&mut self, needs: &Needs, agents: &BTreeMap<Arc<str>, Agent>, generation: u64) -> Tally {
        self.0.retain(|cached| cached.generation == generation);
        let found = self.0.iter().find(|cached| {
            cached.mem_mib == needs.mem_mib
                && cached.cpus_milli == needs.cpus_milli
                && cached.constraints == needs.placement.constraints
        });
        if let Some(cached) = found {
            return cached.tally.clone();
        }
        let tally = count(needs, agents, |_| false);
        self.0.truncate(TALLIES_MAX - 1);
        let cached = CachedTally {
            constraints: needs.placement.constraints.clone(),
            mem_mib: needs.mem_mib,
            cpus_milli: needs.cpus_milli,
            generation,
            tally: tally.clone(),
        };
        self.0.insert(0, cached);
        tally
    }
}

/// Counts the agents by what they lack; `full` tells those that run enough nodes already.
fn count(needs: &Needs, agents: &BTreeMap<Arc<str>, Agent>, full: impl Fn(&str) -> bool) -> Tally {
    let mut tally = Tally::default();
    for (id, agent) in agents {
        if let Some((reason, example)) = judge(needs, id, agent, full(id)) {
            tally.add(reason, example);
        }
    }
    tally
}

/// What the agent lacks. `None`: nothing, it would do.
fn judge(needs: &Needs, id: &Arc<str>, agent: &Agent, full: bool) -> Option<(Reason, Example)> {
    let candidate = agent.candidate();
    let lacks = candidate.lacks(needs);
    let reason = match lacks {
        Some(reason @ (Reason::Maintenance | Reason::Constraint(_))) => reason,
        _ if full => Reason::Occupied,
        lacks => lacks?,
    };
    let left = match reason {
        Reason::Memory => candidate.free.mem_milli() / MILLI,
        Reason::Cpus => candidate.free.cpus_milli(),
        _ => 0,
    };
    Some((reason, Example { left, hostname: candidate.hostname.to_string(), agent_id: id.clone() }))
}

/// Explains why no agent was chosen.
pub(super) fn explain(needs: &Needs, usage: &Usage, pool: &mut Pool) -> Refusal {
    let (agents, cache, generation) = pool.explained();
    let full: Vec<_> = usage.full_agents(needs.distribution).filter_map(|id| agents.get_key_value(id)).collect();
    let mut tally = cache.get(needs, agents, generation);
    let mut exact = true;
    for (id, agent) in &full {
        let before = judge(needs, id, agent, false);
        let Some((reason, example)) = judge(needs, id, agent, true) else { continue };
        if let Some((before, _)) = before {
            exact &= tally.remove(&before, id);
        }
        tally.add(reason, example);
    }
    if !exact {
        tally = count(needs, agents, |id| usage.on_agent(id) >= needs.distribution);
    }
    Refusal {
        instance: needs.instance.to_string(),
        mem_mib: needs.mem_mib,
        cpus_milli: needs.cpus_milli,
        distribution: needs.distribution,
        constraints: needs.placement.constraints.iter().map(ToString::to_string).collect(),
        agents: agents.len(),
        reasons: tally.0.into_iter().filter_map(shortfall).collect(),
    }
}

fn shortfall((reason, (agents, examples)): (Reason, (usize, Vec<Example>))) -> Option<Shortfall> {
    let best = examples.into_iter().next_back()?;
    Some(Shortfall { reason, agents, example: best.hostname, left: best.left })
}

/// Thousandths as a decimal number: 50 is `0.05`.
pub(super) struct Milli(pub(super) u64);

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / MILLI, self.0 % MILLI);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl fmt::Display for Refusal {
    /// One sentence; `{:#}` names an agent for each reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "needs {} MiB", self.mem_mib)?;
        if self.reasons.iter().any(|shortfall| shortfall.reason == Reason::Cpus) {
            write!(f, ", {} CPUs", Milli(self.cpus_milli))?;
        }
        f.write_str(" and a port on an agent ")?;
        if !self.constraints.is_empty() {
            write!(f, "({}) ", self.constraints.join(", "))?;
        }
        match self.distribution {
            0 | 1 => write!(f, "that runs no other node of {}", self.instance)?,
            most => write!(f, "that runs fewer than {most} nodes of {}", self.instance)?,
        }
        match self.agents {
            0 => return f.write_str(": no agent has offered yet"),
            1 => f.write_str(": 1 agent has offered")?,
            agents => write!(f, ": {agents} agents have offered")?,
        }
        for shortfall in &self.reasons {
            f.write_str(", ")?;
            self.write_shortfall(shortfall, f)?;
        }
        Ok(())
    }
}

impl Refusal {
    fn write_shortfall(&self, shortfall: &Shortfall, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = shortfall.agents == 1;
        let pick = |singular, plural| if one { singular } else { plural };
        write!(f, "{} ", shortfall.agents)?;
        let (has, most) = (pick("has", "have"), pick("", "at most "));
        match &shortfall.reason {
            Reason::Maintenance => write!(f, "{has} maintenance scheduled")?,
            Reason::Constraint(text) => write!(f, "{} not satisfy {text}", pick("does", "do"))?,
            Reason::Occupied if self.distribution <= 1 => write!(f, "{} one already", pick("runs", "run"))?,
            Reason::Occupied => write!(f, "{} {} already", pick("runs", "run"), self.distribution)?,
            Reason::Memory => write!(f, "{has} {most}{} MiB left", shortfall.left)?,
            Reason::Cpus => write!(f, "{has} {most}{} CPUs left", Milli(shortfall.left))?,
            Reason::Port => write!(f, "{has} no port left")?,
            Reason::Awaited => {
                let offers = pick("its offer has", "their offers have");
                write!(f, "{has} room, but {offers} not come back yet")?;
            }
        }
        if f.alternate() && !shortfall.example.is_empty() {
            write!(f, " ({}{})", pick("", "such as "), shortfall.example)?;
        }
        Ok(())
    }
}
