//! `redisctl describe`: everything about one instance on a page. I/O in [`describe`] only.

use anyhow::Result;
use serde::Deserialize as _;

use super::client::Client;
use super::events;
use super::outcome::Exit;
use super::text::{self, Cell, STRONG, Table, age, cell, indent, print, size, styled};
use super::view::{Instance, Placement};
use crate::board::OperatorView;
use crate::clock::now;
use crate::model::{InstanceEvent, Role, Timestamp};
use crate::status::{ConditionStatus, ConditionType, FailoverStatus, NodeStatus};

/// The width of the names in front of values.
const LABEL_WIDTH: usize = 10;

/// Runs `redisctl describe`.
pub async fn describe(client: &Client, name: &str) -> Result<Exit> {
    let instance = client.expect(name).await?;
    let events = client.events(Some(name)).await?;
    let events = events.iter().map(InstanceEvent::deserialize).collect::<Result<Vec<_>, _>>()?;
    let mut page = page(&instance, &events, now())?;
    // What goes away wants no place.
    if instance.has_condition(ConditionType::Placed, ConditionStatus::False) && !instance.is_leaving() {
        // What cannot be told is no reason to tell nothing.
        let told = client.placement(name).await.map_or_else(|error| format!("{error:#}\n"), |told| placement(&told));
        page += &section("Placement", &told);
    }
    print(&page)?;
    Ok(Exit::Ok)
}

/// What a node needs, and what is in its way.
fn placement(told: &Placement) -> String {
    let fitting = match told.fitting {
        0 => "no agent would do now".to_string(),
        1 => "1 agent would do, once it is offered".to_string(),
        fitting => format!("{fitting} agents would do, once they are offered"),
    };
    let lines = told.quotas.iter().chain(&told.agents).map(|line| format!("- {line}\n"));
    format!("each node needs {}: {fitting}\n{}", told.needs, lines.collect::<String>())
}

fn page(instance: &Instance, events: &[InstanceEvent], now: Timestamp) -> Result<String> {
    let spec = if instance.spec.is_null() { String::new() } else { serde_yaml::to_string(&instance.spec)? };
    let waiting: String = instance.waiting().iter().map(|reason| format!("- {reason}\n")).collect();
    let events = if events.is_empty() { String::new() } else { events::table(events, now) };
    let mut page = head(instance, now);
    for (title, body) in [
        ("Spec", spec),
        ("Conditions", conditions(instance, now)),
        ("Nodes", nodes(&instance.status.nodes)),
        ("Waiting", waiting),
        ("Events", events),
    ] {
        page += &section(title, &body);
    }
    Ok(page)
}

fn head(instance: &Instance, now: Timestamp) -> String {
    let status = &instance.status;
    let metadata = &instance.metadata;
    let labels: Vec<String> = metadata.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let labels = if labels.is_empty() { "none".to_string() } else { labels.join(", ") };
    let created = metadata.created_at.map_or_else(|| "-".to_string(), |at| format!("{at} ({} ago)", age(now, at)));
    let revision = match (metadata.revision, status.observed_revision) {
        (declared, observed) if declared == observed => format!("{declared}, fully acted upon"),
        (declared, 0) => format!("{declared}, not yet acted upon"),
        (declared, observed) => format!("{declared}, acted upon up to {observed}"),
    };
    let phase = styled(&status.phase.to_string(), text::phase_style(status.phase));
    let replicas = instance.spec["replicas"].as_u64().unwrap_or(0);
    let deleting = if metadata.deleting { ", deletion asked for" } else { "" };
    [
        ("Name", instance.name().to_string()),
        ("Labels", labels),
        ("Created", created),
        ("Revision", revision),
        ("Phase", format!("{phase}, {} nodes ready{deleting}", instance.readiness())),
        ("Master", status.master.clone().unwrap_or_else(|| "none".to_string())),
        ("Epoch", status.epoch.to_string()),
        ("Login", login(instance)),
        ("Failover", status.failover.map_or_else(|| "-".to_string(), |failover| promise(&failover, replicas))),
    ]
    .iter()
    .map(|(name, value)| format!("{} {value}\n", styled(&format!("{:LABEL_WIDTH$}", format!("{name}:")), STRONG)))
    .collect()
}

/// How clients get in.
fn login(instance: &Instance) -> String {
    let auth = &instance.spec["auth"];
    match (auth.as_str(), auth["secretRef"].as_str()) {
        (Some("none"), _) => "without a password: whoever reaches a node".to_string(),
        (_, Some(secret)) => format!("with a password of the secret {secret}"),
        _ => format!("with a password: redisctl password show {}", instance.name()),
    }
}

/// What a failover may cost, and how long it may take.
fn promise(failover: &FailoverStatus, replicas: u64) -> String {
    let FailoverStatus { durability, confirmations, worst_case, window, unreplicated } = failover;
    if replicas == 0 {
        return format!(
            "durability {durability}: it has no replicas: all data is lost with its node, and a hung one is not replaced"
        );
    }
    let confirmed = match confirmations {
        0 => "no write is promised to outlive its master".to_string(),
        k => format!("writes that WAIT {k} confirms are never lost"),
    };
    let unreplicated = unreplicated.map_or_else(|| "all".to_string(), size);
    let window = window.map_or_else(|| "for as long as it hangs".to_string(), |window| format!("for {window} at most"));
    format!(
        "durability {durability}: {confirmed}\n{:LABEL_WIDTH$} unconfirmed writes can be lost: {unreplicated} were on no \
         replica when last asked, and what a hung master takes, {window}\n{:LABEL_WIDTH$} a hung master is replaced \
         within {worst_case}",
        "", ""
    )
}

/// A heading with its indented text, or `none`.
fn section(title: &str, body: &str) -> String {
    let heading = styled(&format!("{title}:"), STRONG);
    if body.is_empty() { format!("{heading} none\n") } else { format!("{heading}\n{}", indent(body, "  ")) }
}

fn conditions(instance: &Instance, now: Timestamp) -> String {
    let row = |c: &crate::status::Condition| -> Vec<Cell> {
        vec![
            c.kind.to_string().into(),
            cell(format!("{:?}", c.status), text::condition_style(c.status)),
            age(now, c.last_transition_time).into(),
            c.reason.as_str().into(),
            c.message.as_str().into(),
        ]
    };
    let rows: Vec<Vec<Cell>> = instance.status.conditions.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    Table::new(&["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"]).page(&rows)
}

/// The nodes, in a table.
pub fn nodes(nodes: &[NodeStatus]) -> String {
    let or_dash = |text: Option<String>| Cell::from(text.unwrap_or_else(|| "-".to_string()));
    let row = |node: &NodeStatus| -> Vec<Cell> {
        let link = if node.role == Role::Master { None } else { node.link.clone() };
        vec![
            node.name.as_str().into(),
            node.role.to_string().into(),
            cell(node.state, text::node_style(node.state)),
            node.address.as_str().into(),
            node.hostname.as_str().into(),
            or_dash(node.domain.clone()),
            or_dash(link),
            or_dash(node.offset.map(|offset| offset.to_string())),
            or_dash(node.lag.map(size)),
            or_dash(node.used_memory.map(size)),
            node.task_id.as_str().into(),
            node.message.as_str().into(),
        ]
    };
    if nodes.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<Cell>> = nodes.iter().map(row).collect();
    Table::new(&[
        "NAME", "ROLE", "STATE", "ADDRESS", "AGENT", "DOMAIN", "LINK", "OFFSET", "LAG", "USED", "TASK", "MESSAGE",
    ])
    .page(&rows)
}

/// The operator itself, for `redisctl version`.
pub fn operator(server: &str, operator: &OperatorView) -> String {
    let role = match (&operator.leader, operator.leading) {
        (_, true) => "leads".to_string(),
        (Some(leader), false) if leader.api == server => "stands by, and led until a moment ago".to_string(),
        (Some(leader), false) => format!("stands by, {} leads", leader.api),
        (None, false) => "stands by, nobody is known to lead".to_string(),
    };
    let message =
        if operator.mesos_message.is_empty() { String::new() } else { format!(" ({})", operator.mesos_message) };
    let store = match (operator.store_synced, operator.stale_since) {
        (true, _) => "read and watched".to_string(),
        (false, Some(since)) => {
            format!("cannot be relied on since {since} (its log tells why): what is told is as old as that")
        }
        (false, None) => "not read yet".to_string(),
    };
    let mut text = format!(
        "operator: {} at {server}: {role}\n  store: {store}\n  mesos: {}{message}\n",
        operator.version, operator.mesos
    );
    if let Some(reason) = &operator.frozen {
        text += &format!("  {}: launches and kills nothing: {reason}\n", styled("frozen", text::BAD));
    }
    text
}
