//! What room the agents have, and what quotas leave, as Mesos' operator API tells it when it is asked. I/O.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Deserialize;

use super::client::{Http, ask};
use super::wire::{Domain, Resource, attributes};
use super::{Settings, agents};
use crate::model::{Amount, Piece};
use crate::placement::{Amounts, Quota, Room};
use crate::plain::{NAME_CHARS_MAX, plain};

const MILLI: u64 = 1000;

/// The agents that the master knows, and the quotas of our roles. Needs the right to see them.
pub async fn rooms(settings: &Settings) -> Result<(Vec<Room>, Vec<Quota>)> {
    let http = Http::new(settings)?;
    http.load_credentials().await?;
    let agents: Vec<Agent> = agents::agents(&http, settings).await?;
    let windows = agents::windows(&http, settings).await?;
    let quota: QuotaAnswer = ask(&http, settings, "GET_QUOTA").await?;
    let roles: RolesAnswer = ask(&http, settings, "GET_ROLES").await?;
    let master: MasterAnswer = ask(&http, settings, "GET_MASTER").await?;
    let home = master.get_master.master_info.domain.fault_domain.region.name;
    let mut leaving = agents::leaving(agents.iter().map(|agent| &agent.known), &windows);
    let room = |agent: Agent| {
        let leaving = leaving.remove(&agent.known.info.id.value);
        let region = &agent.known.info.domain.fault_domain.region.name;
        let remote = !settings.remote_regions && !home.is_empty() && !region.is_empty() && *region != home;
        Room { leaving, remote, ..agent.room(&settings.roles) }
    };
    let rooms = agents.into_iter().map(room).collect();
    Ok((rooms, quotas(&quota.get_quota.status.configs, &roles.get_roles.roles, &settings.roles)))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct MasterAnswer {
    get_master: GetMaster,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GetMaster {
    master_info: MasterInfo,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct MasterInfo {
    domain: Domain,
}

/// An agent with its resources.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Agent {
    #[serde(flatten)]
    known: agents::Agent,
    active: bool,
    total_resources: Vec<Resource>,
    allocated_resources: Vec<Resource>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct QuotaAnswer {
    get_quota: GetQuota,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GetQuota {
    status: QuotaStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct QuotaStatus {
    configs: Vec<QuotaConfig>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct QuotaConfig {
    role: String,
    limits: BTreeMap<String, Number>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Number {
    value: f64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RolesAnswer {
    get_roles: GetRoles,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GetRoles {
    roles: Vec<Role>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Role {
    name: String,
    resources: Vec<Resource>,
}

impl Agent {
    fn room(self, roles: &[String]) -> Room {
        let info = self.known.info;
        let pieces = |resources: Vec<Resource>| resources.into_iter().filter_map(Resource::convert).collect::<Vec<_>>();
        let (total, allocated) = (pieces(self.total_resources), pieces(self.allocated_resources));
        let ours = |piece: &&Piece| reserved_for(piece).is_none_or(|role| roles.iter().any(|r| is_below(r, &role)));
        let (can, used) = (sum(total.iter().filter(ours)), sum(allocated.iter().filter(ours)));
        let mut reserved_mib = BTreeMap::new();
        for piece in total.iter().filter(|piece| piece.name == "mem" && !ours(piece)) {
            let mib = sum([piece].into_iter()).mem_mib;
            let role = plain(&reserved_for(piece).unwrap_or_default(), NAME_CHARS_MAX);
            *reserved_mib.entry(role).or_insert(0) += mib;
        }
        Room {
            id: info.id.value,
            hostname: plain(&info.hostname, NAME_CHARS_MAX),
            attributes: attributes(info.attributes, info.domain.fault_domain),
            leaving: None,
            away: !self.active,
            remote: false,
            free: Amounts {
                mem_mib: can.mem_mib.saturating_sub(used.mem_mib),
                cpus_milli: can.cpus_milli.saturating_sub(used.cpus_milli),
                ports: can.ports.saturating_sub(used.ports),
            },
            reserved_mib,
            total: sum(total.iter()),
        }
    }
}

/// The role that a piece is reserved for: the innermost, where a reservation was refined.
fn reserved_for(piece: &Piece) -> Option<String> {
    piece.reservations.as_array()?.last()?["role"].as_str().map(str::to_string)
}

/// Whether what is reserved for the second role is offered to the first: to itself and to those below it.
fn is_below(role: &str, reserved: &str) -> bool {
    role.strip_prefix(reserved).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn sum<'a>(pieces: impl Iterator<Item = &'a Piece>) -> Amounts {
    let mut sum = Amounts::default();
    for piece in pieces {
        match (piece.name.as_str(), &piece.amount) {
            ("mem", Amount::Milli(milli)) => sum.mem_mib += milli / MILLI,
            ("cpus", Amount::Milli(milli)) => sum.cpus_milli += milli,
            ("ports", Amount::Ranges(ranges)) => {
                sum.ports += ranges.iter().map(|(first, last)| u64::from(last - first) + 1).sum::<u64>();
            }
            _ => {}
        }
    }
    sum
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Clamped; NaN is 0.
fn quotas(configs: &[QuotaConfig], roles: &[Role], ours: &[String]) -> Vec<Quota> {
    let limit = |config: &QuotaConfig, name: &str, unit: f64| {
        config.limits.get(name).map(|number| (number.value * unit).clamp(0.0, 1e15) as u64)
    };
    let used = |role: &str| {
        let of_role = roles.iter().find(|known| known.name == role);
        let pieces: Vec<Piece> =
            of_role.into_iter().flat_map(|role| role.resources.iter().cloned().filter_map(Resource::convert)).collect();
        sum(pieces.iter())
    };
    let ours = |config: &QuotaConfig| ours.iter().any(|role| is_below(role, &config.role));
    configs
        .iter()
        .filter(|config| ours(config))
        .map(|config| Quota {
            role: plain(&config.role, NAME_CHARS_MAX),
            mem_limit_mib: limit(config, "mem", 1.0),
            cpus_limit_milli: limit(config, "cpus", 1000.0),
            used: used(&config.role),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn scalar(name: &str, value: f64, role: Option<&str>) -> Value {
        let reservations = role.map(|role| json!([{"type": "STATIC", "role": role}]));
        json!({"name": name, "type": "SCALAR", "scalar": {"value": value}, "reservations": reservations})
    }

    #[test]
    fn what_others_have_reserved_or_use_is_not_free() {
        let ports = json!({"name": "ports", "type": "RANGES", "ranges": {"range": [{"begin": 1000, "end": 1009}]}});
        let agent: Agent = serde_json::from_value(json!({
            "agent_info": {"id": {"value": "S1"}, "hostname": "h1", "attributes": [{"name": "rack", "text": {"value": "r1"}}]},
            "active": true,
            "total_resources": [scalar("mem", 1000.0, None), scalar("mem", 500.0, Some("redis")),
                scalar("mem", 200.0, Some("web")), scalar("cpus", 4.0, None), ports],
            "allocated_resources": [scalar("mem", 300.0, None), scalar("mem", 200.0, Some("web")), scalar("cpus", 1.5, None)],
        }))
        .unwrap();
        let room = agent.room(&["redis/prod".to_string()]);
        assert_eq!(room.free, Amounts { mem_mib: 1200, cpus_milli: 2500, ports: 10 });
        assert_eq!(room.total, Amounts { mem_mib: 1700, cpus_milli: 4000, ports: 10 });
        assert_eq!(room.reserved_mib, BTreeMap::from([("web".to_string(), 200)]));
        assert_eq!(room.attributes["rack"], "r1");
    }

    #[test]
    fn quotas_of_our_roles_and_of_those_above_them_are_told_with_what_is_used() {
        let configs: Vec<QuotaConfig> = serde_json::from_value(json!([
            {"role": "redis", "limits": {"mem": {"value": 1024.0}}},
            {"role": "web", "limits": {"mem": {"value": 1.0}}},
        ]))
        .unwrap();
        let roles: Vec<Role> =
            serde_json::from_value(json!([{"name": "redis", "resources": [scalar("mem", 900.0, None)]}])).unwrap();
        let told = quotas(&configs, &roles, &["redis".to_string()]);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].mem_limit_mib, told[0].cpus_limit_milli, told[0].used.mem_mib), (Some(1024), None, 900));
    }
}
