//! Looks again and again at which agents are to be emptied: Mesos tells of none but by inverse offers. I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::Settings;
use super::calls::Current;
use super::client::{Http, ask};
use super::wire::{Attribute, Domain, Id, Unavailability};
use crate::model::{Leaving, MesosEvent};

/// The answer of a master with thousands of agents is large: the pause is this many times as long as
/// it took, at least.
const PAUSE_PER_LOOK: u32 = 50;

/// Looks at the agents while subscribed.
pub(super) struct Lookout {
    pub(super) http: Arc<Http>,
    pub(super) settings: Arc<Settings>,
    pub(super) current: Current,
    pub(super) events: mpsc::Sender<MesosEvent>,
}

impl Lookout {
    /// Until nobody listens any more.
    pub(super) async fn run(mut self) {
        let mut failed = None;
        let mut told = BTreeMap::new();
        while let Some(number) = self.subscribed().await {
            let begun = Instant::now();
            match self.look().await {
                Ok(leaving) => {
                    if failed.take().is_some() {
                        info!("the agents that are to be emptied are seen again");
                    }
                    // The same news again would be noise: it is kept across subscriptions.
                    if leaving != told && self.events.send(MesosEvent::Leaving(leaving.clone())).await.is_err() {
                        return;
                    }
                    told = leaving;
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    if failed.as_ref() == Some(&reason) {
                        debug!(reason, "still not seen which agents are to be emptied");
                    } else {
                        warn!(reason, "not seen which agents are drained, deactivated or in maintenance");
                    }
                    failed = Some(reason);
                }
            }
            self.pause(number, self.settings.timing.agents.max(begun.elapsed() * PAUSE_PER_LOOK)).await;
        }
    }

    /// Waits for a subscription; `None`: the session is over.
    async fn subscribed(&mut self) -> Option<u64> {
        let current = self.current.wait_for(Option::is_some).await.ok()?;
        current.as_ref().map(|subscription| subscription.number)
    }

    /// A new subscription ends the pause: the master may be another.
    async fn pause(&mut self, number: u64, longest: Duration) {
        let other = self.current.wait_for(|now| now.as_ref().is_some_and(|now| now.number != number));
        let _ = timeout(longest, async {
            if other.await.is_err() {
                sleep(longest).await; // The session is over; the caller notices.
            }
        })
        .await;
    }

    async fn look(&self) -> Result<BTreeMap<String, Leaving>> {
        let agents: Vec<Agent> = agents(&self.http, &self.settings).await?;
        Ok(leaving(&agents, &windows(&self.http, &self.settings).await?))
    }
}

/// The agents that the master knows, with what `A` reads of each.
pub(super) async fn agents<A: DeserializeOwned + Default + Send + 'static>(
    http: &Http,
    settings: &Settings,
) -> Result<Vec<A>> {
    let answer: AgentsAnswer<A> = ask(http, settings, "GET_AGENTS").await?;
    Ok(answer.get_agents.agents)
}

/// The windows of the maintenance schedule.
pub(super) async fn windows(http: &Http, settings: &Settings) -> Result<Vec<Window>> {
    let answer: ScheduleAnswer = ask(http, settings, "GET_MAINTENANCE_SCHEDULE").await?;
    Ok(answer.get_maintenance_schedule.schedule.windows)
}

#[derive(Deserialize, Default)]
#[serde(default, bound = "A: Deserialize<'de> + Default")]
struct AgentsAnswer<A> {
    get_agents: GetAgents<A>,
}

#[derive(Deserialize, Default)]
#[serde(default, bound = "A: Deserialize<'de> + Default")]
struct GetAgents<A> {
    agents: Vec<A>,
}

/// An agent, without its resources.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Agent {
    #[serde(rename = "agent_info")]
    pub(super) info: AgentInfo,
    /// `slave(1)@10.0.0.1:5051`.
    pub(super) pid: String,
    deactivated: bool,
    drain_info: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct AgentInfo {
    pub(super) id: Id,
    pub(super) hostname: String,
    pub(super) attributes: Vec<Attribute>,
    pub(super) domain: Domain,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ScheduleAnswer {
    get_maintenance_schedule: GetSchedule,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GetSchedule {
    schedule: Schedule,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Schedule {
    windows: Vec<Window>,
}

/// A time in which machines are in maintenance.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Window {
    machine_ids: Vec<Machine>,
    unavailability: Unavailability,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Machine {
    hostname: String,
    ip: String,
}

impl Agent {
    /// The address in its pid.
    fn ip(&self) -> &str {
        let address = self.pid.rsplit_once('@').map_or("", |(_, address)| address);
        let host = address.rsplit_once(':').map_or("", |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl Machine {
    /// Mesos knows a machine by both; what is left out says nothing.
    fn is_of(&self, agent: &Agent) -> bool {
        let named = !self.hostname.is_empty() || !self.ip.is_empty();
        let host = self.hostname.is_empty() || self.hostname.eq_ignore_ascii_case(&agent.info.hostname);
        named && host && (self.ip.is_empty() || self.ip == agent.ip())
    }
}

/// The agents that are to be emptied.
pub(super) fn leaving<'a>(
    agents: impl IntoIterator<Item = &'a Agent>,
    windows: &[Window],
) -> BTreeMap<String, Leaving> {
    let why = |agent: &Agent| {
        let theirs = windows.iter().filter(|window| window.machine_ids.iter().any(|machine| machine.is_of(agent)));
        match agent {
            Agent { drain_info: Some(_), .. } => Some(Leaving::Drained),
            Agent { deactivated: true, .. } => Some(Leaving::Deactivated),
            _ => theirs.map(|window| window.unavailability.from()).min().map(Leaving::Maintenance),
        }
    };
    agents.into_iter().filter_map(|agent| Some((agent.info.id.value.clone(), why(agent)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use serde_json::json;

    fn seen(agents: &Value, windows: &Value) -> Vec<(String, Leaving)> {
        let agents: Vec<Agent> = serde_json::from_value(agents.clone()).unwrap();
        let windows: Vec<Window> = serde_json::from_value(windows.clone()).unwrap();
        leaving(&agents, &windows).into_iter().collect()
    }

    fn agent(id: &str, ip: &str) -> Value {
        json!({"agent_info": {"id": {"value": id}, "hostname": format!("{id}.example")}, "pid": format!("slave(1)@{ip}:5051"),
            "deactivated": false})
    }

    #[test]
    fn drained_and_deactivated_agents_are_to_be_emptied_and_others_are_not() {
        let (mut drained, mut deactivated) = (agent("s1", "10.0.0.1"), agent("s2", "10.0.0.2"));
        (drained["deactivated"], drained["drain_info"]) = (json!(true), json!({"state": "DRAINING", "config": {}}));
        deactivated["deactivated"] = json!(true);
        let agents = json!([drained, deactivated, agent("s3", "10.0.0.3")]);
        let expected = [("s1".to_string(), Leaving::Drained), ("s2".to_string(), Leaving::Deactivated)];
        assert_eq!(seen(&agents, &json!([])), expected);
    }

    #[test]
    fn a_maintenance_window_is_for_the_agents_of_its_machines() {
        let agents =
            json!([agent("s1", "10.0.0.1"), agent("s2", "10.0.0.2"), agent("s3", "::1"), agent("s4", "10.0.0.4")]);
        let window = |machine: Value, at_s: i64| json!({"machine_ids": [machine], "unavailability": {"start": {"nanoseconds": at_s * 1_000_000_000}}});
        let windows = json!([
            window(json!({"hostname": "S1.example", "ip": "10.0.0.1"}), 1),
            window(json!({"hostname": "s2.example", "ip": "10.0.0.9"}), 2), // Another machine of that name.
            window(json!({"ip": "::1"}), 3),
            window(json!({}), 4),
        ]);
        let from = |s: u64| Leaving::Maintenance(Timestamp(s * 1000));
        assert_eq!(seen(&agents, &windows), [("s1".to_string(), from(1)), ("s3".to_string(), from(3))]);
    }
}
