//! Waits for instances, and tells what happens to their nodes meanwhile. I/O in [`wait`] only.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;

use super::args::WaitArgs;
use super::client::Client;
use super::follow::{Change, Follower};
use super::outcome::{Exit, failure};
use super::text::{count, node_style, print, styled};
use super::view::Instance;
use super::watch::Signal;
use crate::clock::now;
use crate::spec::Period;
use crate::status::{ConditionStatus, ConditionType, NodeState, NodeStatus};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The newest document is in force, and all is well.
    Ready,
    /// The instance is gone.
    Deleted,
    /// A condition is reported with a status.
    Condition(ConditionType, ConditionStatus),
}

const CONDITIONS: [ConditionType; 11] = [
    ConditionType::SpecValid,
    ConditionType::Placed,
    ConditionType::MasterAvailable,
    ConditionType::ReplicasInSync,
    ConditionType::UpToDate,
    ConditionType::ConfigApplied,
    ConditionType::Ready,
    ConditionType::NoSafeCandidate,
    ConditionType::GoneNodeLives,
    ConditionType::MemoryFull,
    ConditionType::FailoverChain,
];
const STATUSES: [ConditionStatus; 3] = [ConditionStatus::True, ConditionStatus::False, ConditionStatus::Unknown];

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Goal, String> {
        let wrong = || {
            format!(
                "allowed are ready, deleted and condition=TYPE[=STATUS], with TYPE one of {} and STATUS one of {}",
                CONDITIONS.map(|kind| kind.to_string()).join(", "),
                STATUSES.map(|status| format!("{status:?}")).join(", ")
            )
        };
        let (kind, condition) = text.split_once('=').unwrap_or((text, ""));
        match kind.to_lowercase().as_str() {
            "ready" if condition.is_empty() => Ok(Goal::Ready),
            "deleted" | "delete" if condition.is_empty() => Ok(Goal::Deleted),
            "condition" => {
                let (name, status) = condition.split_once('=').unwrap_or((condition, "True"));
                let kind = CONDITIONS.into_iter().find(|c| c.to_string().eq_ignore_ascii_case(name));
                let status = STATUSES.into_iter().find(|s| format!("{s:?}").eq_ignore_ascii_case(status));
                Ok(Goal::Condition(kind.ok_or_else(wrong)?, status.ok_or_else(wrong)?))
            }
            _ => Err(wrong()),
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Goal::Ready => f.write_str("ready"),
            Goal::Deleted => f.write_str("deleted"),
            Goal::Condition(kind, status) => write!(f, "{kind}={status:?}"),
        }
    }
}

/// An instance that is waited for.
#[derive(Clone, Debug)]
pub struct Target {
    name: String,
    /// Only a state at or after this revision counts.
    revision: i64,
    /// The operator has just accepted something for it: should it not be seen at first, it will be.
    accepted: bool,
}

impl Target {
    /// An instance for which the operator has just accepted something.
    pub fn accepted(name: &str, revision: i64) -> Target {
        Target { name: name.to_string(), revision, accepted: true }
    }

    /// An instance that should exist.
    pub fn existing(name: &str) -> Target {
        Target { name: name.to_string(), revision: 0, accepted: false }
    }
}

/// Runs `redisctl wait`.
pub async fn wait_for(client: &Client, args: &WaitArgs) -> Result<Exit> {
    let targets = args.names.iter().map(|name| Target::existing(name)).collect();
    wait(client, &args.goal, targets, args.timeout, false).await?;
    Ok(Exit::Ok)
}

/// Waits until all of the targets have reached the goal. `tell`: prints each step of their nodes.
pub async fn wait(client: &Client, goal: &Goal, targets: Vec<Target>, timeout: Period, tell: bool) -> Result<()> {
    let names: Vec<String> = targets.iter().map(|target| target.name.clone()).collect();
    let single = if let [name] = names.as_slice() { Some(name.as_str()) } else { None };
    let mut watch = client.watch(single, None);
    let mut follower = Follower::new(&names);
    let mut story = Story::new(*goal, targets, tell);
    let deadline = tokio::time::Instant::now() + Duration::from_millis(timeout.0);
    while !story.is_over() {
        let signal = tokio::time::timeout_at(deadline, watch.next()).await;
        let Ok(signal) = signal else { return Err(story.timed_out(timeout)) };
        match signal? {
            Signal::Connected => follower.connected(),
            Signal::Message(message) => {
                for change in follower.take(&message)? {
                    print(&story.take(change)?)?;
                }
            }
        }
    }
    Ok(())
}

/// What has been seen so far of those that are waited for.
struct Story {
    goal: Goal,
    tell: bool,
    open: BTreeMap<String, Target>,
    seen: BTreeMap<String, Instance>,
    /// The last line of each node, and of each instance's reasons to wait.
    told: BTreeMap<String, String>,
    started: crate::model::Timestamp,
}

impl Story {
    fn new(goal: Goal, targets: Vec<Target>, tell: bool) -> Story {
        let open = targets.into_iter().map(|target| (target.name.clone(), target)).collect();
        Story { goal, tell, open, seen: BTreeMap::new(), told: BTreeMap::new(), started: now() }
    }

    fn is_over(&self) -> bool {
        self.open.is_empty()
    }

    /// What is to be printed for a change.
    fn take(&mut self, change: Change) -> Result<String> {
        match change {
            Change::Set(instance) => Ok(self.set(*instance)),
            Change::Removed(name) => self.removed(&name),
            Change::Synced => {
                let missing = self.open.values().filter(|t| !self.seen.contains_key(&t.name));
                let missing: Vec<String> = missing.map(|t| t.name.clone()).collect();
                missing.iter().map(|name| self.removed(name)).collect()
            }
        }
    }

    fn set(&mut self, instance: Instance) -> String {
        let name = instance.name().to_string();
        let Some(target) = self.open.get(&name) else { return String::new() };
        let reached = match self.goal {
            Goal::Ready => instance.is_ready_at(target.revision),
            Goal::Deleted => false,
            Goal::Condition(kind, status) => instance.has_condition(kind, status),
        };
        let mut lines = if self.tell { self.progress(&instance) } else { String::new() };
        if reached {
            self.open.remove(&name);
            lines += &self.arrival(&instance);
        }
        self.seen.insert(name, instance);
        lines
    }

    fn arrival(&self, instance: &Instance) -> String {
        let name = instance.name();
        let took_ms = now().since_ms(self.started);
        let after =
            if self.tell { format!(" after {}.{} s", took_ms / 1000, took_ms % 1000 / 100) } else { String::new() };
        let master = instance.status.master.as_deref().unwrap_or("none");
        let ready = instance.readiness();
        format!("redisinstance/{name} {}{after}: {ready} nodes ready, master {master}\n", self.goal)
    }

    fn removed(&mut self, name: &str) -> Result<String> {
        let was_there = self.seen.remove(name).is_some();
        let Some(target) = self.open.get(name) else { return Ok(String::new()) };
        if self.goal == Goal::Deleted {
            self.open.remove(name);
            return Ok(format!("redisinstance/{name} deleted\n"));
        }
        if was_there {
            return Err(failure(Exit::NotFound, format!("instance {name:?} was deleted meanwhile")));
        }
        if target.accepted {
            return Ok(String::new());
        }
        Err(failure(Exit::NotFound, format!("there is no instance {name:?}")))
    }

    /// A line for each node whose state has changed, and for each new reason to wait.
    fn progress(&mut self, instance: &Instance) -> String {
        let mut lines = String::new();
        let before = self.seen.get(instance.name()).map(|old| old.status.nodes.as_slice()).unwrap_or_default();
        for node in before {
            if !instance.status.nodes.iter().any(|n| n.name == node.name) {
                self.told.remove(&node.name);
                lines += &format!("{}: gone\n", node.name);
            }
        }
        for node in &instance.status.nodes {
            lines += &self.once(&node.name, node_line(node));
        }
        let waiting = instance.waiting().join("; ");
        // Instances and nodes are kept apart by the slash: no name has one.
        let key = format!("{}/", instance.name());
        if waiting.is_empty() {
            self.told.remove(&key);
        } else {
            lines += &self.once(&key, format!("{}: waits: {waiting}\n", instance.name()));
        }
        lines
    }

    /// The line, unless it is what was last said of this.
    fn once(&mut self, key: &str, line: String) -> String {
        if self.told.get(key) == Some(&line) {
            return String::new();
        }
        self.told.insert(key.to_string(), line.clone());
        line
    }

    fn timed_out(&self, timeout: Period) -> anyhow::Error {
        let lines: Vec<String> = self.open.keys().map(|name| self.still_open(name, timeout)).collect();
        failure(Exit::TimedOut, lines.join("\n"))
    }

    /// What is still to be done where all is well.
    fn unfinished(&self, name: &str, instance: &Instance) -> Vec<String> {
        let wanted = self.open.get(name).map_or(0, |target| target.revision).max(instance.metadata.revision);
        let nodes = instance.status.nodes.iter().filter(|node| node.state != NodeState::Ready);
        let nodes = nodes.map(|node| format!("waits: {}", node_text(node, &node.state.to_string())));
        let observed = instance.status.observed_revision;
        let document = (observed < wanted)
            .then(|| format!("waits: revision {wanted} of its document is not fully acted upon, only {observed}"));
        nodes.chain(document).collect()
    }

    /// Why an instance has not reached the goal.
    fn still_open(&self, name: &str, timeout: Period) -> String {
        let goal = self.goal;
        let Some(instance) = self.seen.get(name) else {
            return format!("redisinstance/{name} not {goal} after {timeout}: the operator has not seen it yet");
        };
        let status = &instance.status;
        let ready = instance.readiness();
        let mut text =
            format!("redisinstance/{name} not {goal} after {timeout}: {}, {ready} nodes ready", status.phase);
        if goal == Goal::Deleted && !status.nodes.is_empty() {
            text += &format!(", {} left", count(status.nodes.len(), "node"));
        }
        let waiting = instance.waiting();
        let conditions = status.conditions.iter().filter(|c| c.status != ConditionStatus::True);
        let mut reasons: Vec<String> = if waiting.is_empty() {
            conditions.map(|c| format!("{} is {:?}: {}", c.kind, c.status, c.message)).collect()
        } else {
            waiting.iter().map(|reason| format!("waits: {reason}")).collect()
        };
        if reasons.is_empty() && goal == Goal::Ready {
            reasons = self.unfinished(name, instance);
        }
        reasons.iter().fold(text, |text, reason| text + "\n  " + reason)
    }
}

/// `orders-1: Ready, replica at 10.0.0.2:31001 on agent-2 (r2)`, for people who watch.
fn node_line(node: &NodeStatus) -> String {
    node_text(node, &styled(&node.state.to_string(), node_style(node.state))) + "\n"
}

/// The same, with its state as it is given.
fn node_text(node: &NodeStatus, state: &str) -> String {
    let domain = node.domain.as_deref().map(|domain| format!(" ({domain})")).unwrap_or_default();
    let message = if node.message.is_empty() { String::new() } else { format!(": {}", node.message) };
    format!("{}: {state}, {} at {} on {}{domain}{message}", node.name, node.role, node.address, node.hostname)
}
