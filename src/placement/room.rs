//! Why an instance finds no place, agent by agent: what is free, reserved, used, forbidden or to be emptied. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Needs;
use super::refusal::Milli;
use super::rules::failed;
use crate::model::Leaving;

/// Agents that are told one by one; of more there is a count.
const AGENTS_TOLD: usize = 30;

/// An agent, as Mesos knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Room {
    /// Mesos' id of it.
    pub id: String,
    /// Its hostname.
    pub hostname: String,
    /// Its attributes, the fault domain among them.
    pub attributes: BTreeMap<String, String>,
    /// It is to be emptied.
    pub leaving: Option<Leaving>,
    /// It is not connected to the master, or is not to be offered.
    pub away: bool,
    /// It is in another region than the master, and we are not offered those.
    pub remote: bool,
    /// What a task of ours could have, if it were offered.
    pub free: Amounts,
    /// What is reserved for roles that are not ours, in MiB.
    pub reserved_mib: BTreeMap<String, u64>,
    /// What it has in all.
    pub total: Amounts,
}

/// So much of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// MiB.
    pub mem_mib: u64,
    /// Thousandths.
    pub cpus_milli: u64,
    /// How many.
    pub ports: u64,
}

/// A limit that administrators have set on what a role uses, and what it uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quota {
    /// The role.
    pub role: String,
    /// MiB; none: no limit.
    pub mem_limit_mib: Option<u64>,
    /// Thousandths; none: no limit.
    pub cpus_limit_milli: Option<u64>,
    /// What is used of it.
    pub used: Amounts,
}

/// Why a node of an instance has no place, or that there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Explanation {
    /// What a node needs.
    pub needs: String,
    /// How many agents would do now.
    pub fitting: usize,
    /// The quotas that forbid it: a sentence each.
    pub quotas: Vec<String>,
    /// The agents that would not do: a sentence each.
    pub agents: Vec<String>,
}

/// Explains it. `occupied`: how many nodes of the instance each agent runs.
pub fn explain(needs: &Needs, occupied: &BTreeMap<String, u32>, rooms: &[Room], quotas: &[Quota]) -> Explanation {
    let mut agents: Vec<String> =
        rooms.iter().filter_map(|room| Some(format!("{} {}", room.hostname, lacks(needs, occupied, room)?))).collect();
    let fitting = rooms.len() - agents.len();
    agents.sort();
    if agents.len() > AGENTS_TOLD {
        let more = agents.len() - AGENTS_TOLD;
        agents.truncate(AGENTS_TOLD);
        agents.push(format!("and {more} more agents"));
    }
    let constraints: Vec<String> = needs.placement.constraints.iter().map(ToString::to_string).collect();
    let where_ = if constraints.is_empty() { String::new() } else { format!(" with {}", constraints.join(", ")) };
    Explanation {
        needs: format!(
            "{} MiB, {} CPUs and a port, on an agent{where_} that runs fewer than {} of its nodes",
            needs.mem_mib,
            Milli(needs.cpus_milli),
            needs.distribution
        ),
        fitting,
        quotas: quotas.iter().filter_map(|quota| exceeded(needs, quota)).collect(),
        agents,
    }
}

/// The first thing that an agent lacks.
fn lacks(needs: &Needs, occupied: &BTreeMap<String, u32>, room: &Room) -> Option<String> {
    if let Some(leaving) = &room.leaving {
        return Some(format!("is to be emptied: it {leaving}"));
    }
    if room.away {
        return Some("is not connected to the master".to_string());
    }
    if room.remote {
        return Some("is in another region than the master: an operator with --remote-regions uses it".to_string());
    }
    if let Some(constraint) = failed(&needs.placement.constraints, &room.hostname, &room.attributes) {
        let has =
            room.attributes.get(&constraint.attribute).map_or("has none".to_string(), |value| format!("has {value}"));
        return Some(format!("does not satisfy {constraint}: it {has}"));
    }
    let nodes = occupied.get(&room.id).copied().unwrap_or(0);
    if nodes >= needs.distribution {
        return Some(format!("runs {nodes} of its nodes already"));
    }
    let Amounts { mem_mib, cpus_milli, ports } = room.free;
    if mem_mib < needs.mem_mib {
        return Some(format!("has {mem_mib} of {} MiB free{}", room.total.mem_mib, reserved(room)));
    }
    if cpus_milli < needs.cpus_milli {
        return Some(format!(
            "has {} of {} CPUs free{}",
            Milli(cpus_milli),
            Milli(room.total.cpus_milli),
            reserved(room)
        ));
    }
    (ports == 0).then(|| format!("has no port free of {}", room.total.ports))
}

fn reserved(room: &Room) -> String {
    if room.reserved_mib.is_empty() {
        return String::new();
    }
    let roles: BTreeSet<String> = room.reserved_mib.iter().map(|(role, mib)| format!("{mib} MiB for {role}")).collect();
    format!(", and others have reserved {}", roles.into_iter().collect::<Vec<_>>().join(", "))
}

fn exceeded(needs: &Needs, quota: &Quota) -> Option<String> {
    let Quota { role, mem_limit_mib, cpus_limit_milli, used } = quota;
    if let Some(limit) = mem_limit_mib.filter(|limit| used.mem_mib + needs.mem_mib > *limit) {
        return Some(format!("the quota of role {role} is {limit} MiB, and {} are used", used.mem_mib));
    }
    let limit = cpus_limit_milli.filter(|limit| used.cpus_milli + needs.cpus_milli > *limit)?;
    Some(format!("the quota of role {role} is {} CPUs, and {} are used", Milli(limit), Milli(used.cpus_milli)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Constraint, Operator, Placement};

    fn room(id: &str, free_mib: u64) -> Room {
        let total = Amounts { mem_mib: 4096, cpus_milli: 4000, ports: 100 };
        let attributes = BTreeMap::from([("rack".to_string(), "r1".to_string())]);
        let (id, hostname) = (id.to_string(), format!("{id}.example"));
        Room { id, hostname, attributes, total, free: Amounts { mem_mib: free_mib, ..total }, ..Room::default() }
    }

    #[test]
    fn each_agent_is_told_with_what_it_lacks_and_those_that_would_do_are_counted() {
        let constraint =
            |value: &str| Constraint { attribute: "rack".into(), operator: Operator::In, values: vec![value.into()] };
        let placement = Placement { constraints: vec![constraint("r1")], ..Placement::default() };
        let needs = Needs { instance: "orders", mem_mib: 132, cpus_milli: 100, distribution: 1, placement: &placement };
        let (mut reserved, mut elsewhere, mut leaving) = (room("a2", 64), room("a3", 4096), room("a4", 4096));
        reserved.reserved_mib.insert("web".into(), 2000);
        elsewhere.attributes.insert("rack".into(), "r2".into());
        leaving.leaving = Some(Leaving::Drained);
        let rooms = [room("a1", 4096), reserved, elsewhere, leaving, room("a5", 4096)];
        let quota = Quota {
            role: "redis".into(),
            mem_limit_mib: Some(1000),
            used: Amounts { mem_mib: 900, ..Amounts::default() },
            ..Quota::default()
        };
        let told = explain(&needs, &BTreeMap::from([("a5".to_string(), 1)]), &rooms, &[quota]);
        assert_eq!(told.fitting, 1);
        assert_eq!(told.quotas, ["the quota of role redis is 1000 MiB, and 900 are used"]);
        assert_eq!(
            told.needs,
            "132 MiB, 0.1 CPUs and a port, on an agent with rack in [r1] that runs fewer than 1 of its nodes"
        );
        assert_eq!(told.agents.len(), 4);
        assert_eq!(told.agents[0], "a2.example has 64 of 4096 MiB free, and others have reserved 2000 MiB for web");
        assert_eq!(told.agents[1], "a3.example does not satisfy rack in [r1]: it has r2");
        assert!(told.agents[2].starts_with("a4.example is to be emptied"), "{}", told.agents[2]);
        assert_eq!(told.agents[3], "a5.example runs 1 of its nodes already");
    }
}
