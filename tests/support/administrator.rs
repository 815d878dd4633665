//! What an administrator does to agents through the master's operator API, on either kind of cluster. I/O.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// How long the master may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Whoever may use the operator API of the master at this `http://HOST:PORT`. Agents are named by
/// their hostnames.
pub struct Administrator {
    url: String,
    client: reqwest::Client,
}

impl Administrator {
    /// The administrator of that master.
    pub fn of(url: &str) -> Administrator {
        let client = redisctl::tls::http().timeout(ANSWER_TIMEOUT).build().expect("a client");
        Administrator { url: url.to_string(), client }
    }

    /// The framework is removed, and its tasks are killed.
    pub async fn teardown(&self, framework_id: &str) -> Result<()> {
        self.post("TEARDOWN", &json!({"framework_id": {"value": framework_id}})).await.map(drop)
    }

    /// The ports that the agent offers.
    pub async fn ports(&self, agent: &str) -> Result<RangeInclusive<u16>> {
        let seen = self.agent(agent).await?;
        let ports = list(&seen["total_resources"]).find(|resource| resource["name"] == "ports");
        let range = &ports.context("it offers ports")?["ranges"]["range"][0];
        let end = |name: &str| range[name].as_u64().and_then(|port| u16::try_from(port).ok()).context("a port");
        Ok(end("begin")?..=end("end")?)
    }

    /// The agent is not offered any more; its tasks run on.
    pub async fn deactivate(&self, agent: &str) -> Result<()> {
        self.on_agent("DEACTIVATE_AGENT", agent).await
    }

    /// The agent is offered again. Refused while it drains.
    pub async fn reactivate(&self, agent: &str) -> Result<()> {
        self.on_agent("REACTIVATE_AGENT", agent).await
    }

    /// The agent will never be back, and its tasks count as gone.
    pub async fn gone(&self, agent: &str) -> Result<()> {
        self.on_agent("MARK_AGENT_GONE", agent).await
    }

    /// Mesos kills the agent's tasks at once, each with its own grace.
    pub async fn drain(&self, agent: &str) -> Result<()> {
        self.on_agent("DRAIN_AGENT", agent).await
    }

    /// Whether the agent was drained, and nothing is left there.
    pub async fn is_drained(&self, agent: &str) -> Result<bool> {
        Ok(self.agent(agent).await?["drain_info"]["state"] == "DRAINED")
    }

    /// The schedule: this agent alone, from so long from now on for ever.
    pub async fn maintenance(&self, agent: &str, starts_in: Duration) -> Result<()> {
        let seen = self.agent(agent).await?;
        let ip = seen["pid"].as_str().and_then(|pid| pid.split(['@', ':']).nth(1)).context("a pid is NAME@IP:PORT")?;
        let start = SystemTime::now().duration_since(UNIX_EPOCH)? + starts_in;
        let window = json!({
            "machine_ids": [{"hostname": agent, "ip": ip}],
            "unavailability": {"start": {"nanoseconds": u64::try_from(start.as_nanos())?}},
        });
        self.schedule(&[window]).await
    }

    /// An empty schedule.
    pub async fn no_maintenance(&self) -> Result<()> {
        self.schedule(&[]).await
    }

    /// What frameworks have answered of each agent in the schedule: `ACCEPT` or `DECLINE`.
    pub async fn maintenance_answers(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let answer = self.post("GET_MAINTENANCE_STATUS", &Value::Null).await?;
        let machines = list(&answer["get_maintenance_status"]["status"]["draining_machines"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        Ok(machines
            .map(|m| (text(&m["id"]["hostname"]), list(&m["statuses"]).map(|s| text(&s["status"])).collect()))
            .collect())
    }

    /// A quota: so much memory in MiB at most for a role.
    pub async fn limit_mem(&self, role: &str, mib: u64) -> Result<()> {
        let config = json!({"role": role, "limits": {"mem": {"value": mib}}});
        self.post("UPDATE_QUOTA", &json!({"force": true, "quota_configs": [config]})).await.map(drop)
    }

    async fn schedule(&self, windows: &[Value]) -> Result<()> {
        self.post("UPDATE_MAINTENANCE_SCHEDULE", &json!({"schedule": {"windows": windows}})).await.map(drop)
    }

    async fn on_agent(&self, call: &str, agent: &str) -> Result<()> {
        let seen = self.agent(agent).await?;
        self.post(call, &json!({"agent_id": seen["agent_info"]["id"]})).await.map(drop)
    }

    /// What `GET_AGENTS` says of the agent.
    async fn agent(&self, hostname: &str) -> Result<Value> {
        let answer = self.post("GET_AGENTS", &Value::Null).await?;
        let found = list(&answer["get_agents"]["agents"]).find(|agent| agent["agent_info"]["hostname"] == hostname);
        found.cloned().with_context(|| format!("{hostname} is not registered"))
    }

    /// A call; the answer is null where Mesos gives none.
    async fn post(&self, call: &str, body: &Value) -> Result<Value> {
        let mut request = json!({"type": call});
        if !body.is_null() {
            request[call.to_lowercase()] = body.clone();
        }
        let post = self.client.post(format!("{}/api/v1", self.url)).json(&request);
        let response = post.header("Accept", "application/json").send().await?;
        let (status, text) = (response.status(), response.text().await?);
        ensure!(status.is_success(), "{call}: {status} {text}");
        if text.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&text)?) }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
