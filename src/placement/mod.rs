//! Where a node goes: one decision at a time, over offers that are merged by agent. Pure.
//!
//! An agent must have the memory, the CPUs and a port, satisfy every constraint, have no
//! maintenance window ahead, and run fewer nodes of the instance than `distribution`. Among those
//! that do, this decides, in this order:
//!
//! 1. The `spreadBy` domain with the fewest nodes of the instance. It comes before the number of
//!    nodes on the agent, because the user named it as what fails together: when `distribution`
//!    allows two nodes on an agent and one rack has one agent only, a second node there is better
//!    than leaving the racks uneven. Three nodes over agents in r1, r1, r2, r3 come to be in three
//!    racks. Agents that lack the attribute count as one more domain.
//! 2. `spread`: the agent with the fewest nodes of the instance, then the one with the most free
//!    memory. `pack`: the agent with the least free memory.
//! 3. The agent's id, so that the same question always has the same answer.

use std::collections::BTreeMap;

use crate::model::Piece;

mod index;
mod pool;
mod refusal;
mod resources;
mod room;
mod rules;

pub use pool::{Pool, REMEMBERED_AGENTS_MAX};
pub use refusal::{Refusal, Shortfall};
pub use room::{Amounts, Explanation, Quota, Room, explain};
pub use rules::{Reason, failed};

/// What a node needs; one port always.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// The instance.
    pub instance: &'a str,
    /// Memory of the task, in MiB.
    pub mem_mib: u64,
    /// CPU share, in thousandths.
    pub cpus_milli: u64,
    /// At most this many of the instance's nodes on one agent.
    pub distribution: u32,
    /// Strategy and constraints.
    pub placement: &'a crate::spec::Placement,
}

/// A node of the same instance that lives, may live, or was placed earlier in this plan.
#[derive(Clone, Copy, Debug)]
pub struct Occupied<'a> {
    /// The agent's id: what `distribution` counts by. Hostname and address do not tell machines
    /// apart where several agents share one, as on a test rig.
    pub agent_id: &'a str,
    /// The agent's hostname.
    pub hostname: &'a str,
    /// The agent's address.
    pub host: &'a str,
    /// The agent's attributes when the node was placed.
    pub attributes: &'a BTreeMap<String, String>,
}

/// A place for a node; its resources are claimed from the pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The agent.
    pub agent_id: String,
    /// Its hostname.
    pub hostname: String,
    /// The address where the node will be reached.
    pub host: String,
    /// The agent's attributes.
    pub attributes: BTreeMap<String, String>,
    /// The port, out of the offered ones.
    pub port: u16,
    /// What to launch the task with, each part with its own reservations.
    pub pieces: Vec<Piece>,
    /// The agent's offers: all are accepted in one call.
    pub offer_ids: Vec<String>,
}

impl Placement {
    /// The node that will be there, for the plan's next decision.
    pub fn occupied(&self) -> Occupied<'_> {
        Occupied { agent_id: &self.agent_id, hostname: &self.hostname, host: &self.host, attributes: &self.attributes }
    }
}

/// Finds a place for one node, and claims it from the pool.
///
/// `seed` picks the port: the same world and seed give the same one, and different seeds avoid the
/// port that was used last, which its former connections may still hold (`TIME_WAIT`).
///
/// Guarantees: never more is claimed than was offered; ports of one agent are disjoint; a refusal
/// changes nothing. Costs a few microseconds, whatever the number of agents, once the pool has
/// seen needs of this kind.
pub fn place(needs: &Needs, occupied: &[Occupied], pool: &mut Pool, seed: u64) -> Result<Placement, Refusal> {
    let usage = rules::Usage::of(occupied, needs.placement.spread_by.as_deref());
    let chosen = pool.choose(needs, &usage);
    let placement = chosen.and_then(|agent| {
        let pick = port_pick(seed, &agent);
        pool.claim(&agent, needs, pick)
    });
    placement.ok_or_else(|| refusal::explain(needs, &usage, pool))
}

/// Mixes the agent into the seed (FNV-1a, then the finisher of `SplitMix64`), so that one seed
/// gives unlike ports on agents with equal ranges: several agents of a test rig share one machine.
fn port_pick(seed: u64, agent_id: &str) -> u64 {
    let mut x = agent_id
        .bytes()
        .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
