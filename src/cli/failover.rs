//! `redisctl failover`: asks for another master, and waits until there is one or there will be none. I/O.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use futures::stream;
use serde::Deserialize as _;
use serde_json::Value;

use super::args::FailoverArgs;
use super::client::Client;
use super::describe;
use super::follow::{Change, Follower};
use super::outcome::{Exit, failure};
use super::text::{indent, print, size};
use super::view::Instance;
use super::watch::Signal;
use crate::model::{InstanceEvent, Role};
use crate::status::{ConditionStatus, ConditionType, NodeState, NodeStatus};

/// The reasons of the events by which the operator says that it will not, or could not, do it.
const BAD_NEWS: [&str; 2] = ["SwitchoverRefused", "SwitchoverFailed"];
/// The condition, or the reason of one, that says why no replica is made the master.
const NO_CANDIDATE: &str = "NoSafeCandidate";

/// Runs `redisctl failover`.
pub async fn failover(client: &Client, args: &FailoverArgs) -> Result<Exit> {
    let before = client.expect(&args.name).await?;
    if let Some(to) = &args.to {
        check_node(&before, to)?;
        if is_available(&before) && master(&before).is_some_and(|node| node.name == *to) {
            print(&format!(
                "redisinstance/{}: {to} is the master already (epoch {})\n",
                args.name, before.status.epoch
            ))?;
            return Ok(Exit::Ok);
        }
        if args.force {
            client.notes.tell();
            print(&losses(&before, to))?;
            confirm(&args.name, args.yes)?;
        }
    }
    let old_news = bad_news(&client.events(Some(&args.name)).await?);
    client.failover(&args.name, args.to.as_deref(), args.force).await?;
    if args.no_wait {
        print(&format!("redisinstance/{}: a failover is asked for\n", args.name))?;
        return Ok(Exit::Ok);
    }
    wait(client, Attempt { args, epoch: before.status.epoch, last: before, seen: false, old_news }).await
}

fn check_node(instance: &Instance, to: &str) -> Result<()> {
    let nodes = &instance.status.nodes;
    let wrong = match nodes.iter().find(|node| node.name == to) {
        Some(node) if node.state == NodeState::Dead => "it is dead".to_string(),
        Some(_) => return Ok(()),
        None => format!("{} has no such node", instance.name()),
    };
    let living = nodes.iter().filter(|node| node.state != NodeState::Dead).map(|node| node.name.as_str());
    let living = living.collect::<Vec<_>>().join(", ");
    let allowed =
        if living.is_empty() { "it has none that lives".to_string() } else { format!("allowed are {living}") };
    Err(failure(Exit::Usage, format!("--to {to}: {wrong}: {allowed}")))
}

fn is_available(instance: &Instance) -> bool {
    instance.has_condition(ConditionType::MasterAvailable, ConditionStatus::True)
}

/// The node that is recorded as the master.
fn master(instance: &Instance) -> Option<&NodeStatus> {
    instance.status.nodes.iter().find(|node| node.role == Role::Master)
}

// ---------------------------------------------------------------------------------------------
// By force

/// What is known of what a forced failover would lose.
fn losses(instance: &Instance, to: &str) -> String {
    let is_told = |c: &&crate::status::Condition| {
        c.kind == ConditionType::MasterAvailable || c.kind.to_string() == NO_CANDIDATE || c.reason == NO_CANDIDATE
    };
    let conditions = instance.status.conditions.iter().filter(is_told);
    let conditions: String = conditions.map(|c| format!("{} is {:?}: {}\n", c.kind, c.status, c.message)).collect();
    format!(
        "What is known of {}, in epoch {}:\n{}{}{}\n",
        instance.name(),
        instance.status.epoch,
        indent(&conditions, "  "),
        indent(&describe::nodes(&instance.status.nodes), "  "),
        extent(&instance.status.nodes, to)
    )
}

/// How far a node is behind the one that has received most, as far as is known.
fn extent(nodes: &[NodeStatus], to: &str) -> String {
    let offset = |node: &NodeStatus| node.offset.map(|offset| (offset, node.name.clone()));
    let Some(have) = nodes.iter().find(|node| node.name == to).and_then(|node| node.offset) else {
        return format!("What {to} has is not known: all data may be lost.");
    };
    match nodes.iter().filter(|node| node.name != to).filter_map(offset).max() {
        Some((most, name)) if most > have => format!(
            "{to} is at offset {have}, {name} was seen at {most}: {} of writes in between would be lost, and what \
             has been taken since.",
            size(most - have)
        ),
        Some(_) => format!("{to} has all that was seen of the others: what has been taken since would be lost."),
        None => format!("What the other nodes have is not known: what {to} (offset {have}) lacks would be lost."),
    }
}

/// Asks the user whether to go on.
fn confirm(name: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let message = "--force asks before it goes on, and there is no terminal to ask at: add --yes to go on unasked";
        return Err(failure(Exit::Usage, message));
    }
    print("Type the name of the instance to go on: ")?;
    let mut answer = String::new();
    stdin.read_line(&mut answer).context("read the answer")?;
    if answer.trim() == name {
        return Ok(());
    }
    Err(failure(Exit::Failed, format!("nothing was done: the answer is not {name}")))
}

// ---------------------------------------------------------------------------------------------
// Waiting

/// A failover that has been asked for.
struct Attempt<'a> {
    args: &'a FailoverArgs,
    /// The epoch before that.
    epoch: u64,
    /// The instance as last seen.
    last: Instance,
    /// It has been seen since.
    seen: bool,
    /// What had gone wrong before that.
    old_news: BTreeSet<String>,
}

/// What one of the two watches tells.
enum Told {
    Instance(Signal),
    Events(Signal),
}

async fn wait(client: &Client, mut attempt: Attempt<'_>) -> Result<Exit> {
    let FailoverArgs { name, timeout, .. } = attempt.args;
    let mut told = stream::select(
        client.watch(Some(name), None).signals().map(|signal| signal.map(Told::Instance)).boxed(),
        client.watch_events(Some(name)).signals().map(|signal| signal.map(Told::Events)).boxed(),
    );
    let mut follower = Follower::new(std::slice::from_ref(name));
    let deadline = tokio::time::Instant::now() + Duration::from_millis(timeout.0);
    loop {
        let Ok(next) = tokio::time::timeout_at(deadline, told.next()).await else { return Err(attempt.timed_out()) };
        let changes = match next.expect("watches go on for ever")? {
            Told::Instance(Signal::Connected) => {
                follower.connected();
                Vec::new()
            }
            Told::Instance(Signal::Message(message)) => follower.take(&message)?,
            Told::Events(Signal::Connected) => {
                attempt.hear(&client.events(Some(name)).await.unwrap_or_default())?;
                Vec::new()
            }
            Told::Events(Signal::Message(message)) if message.event == "event" => {
                attempt.hear(&[serde_json::from_str(&message.data)?])?;
                Vec::new()
            }
            Told::Events(Signal::Message(_)) => Vec::new(),
        };
        for change in changes {
            if let Some(line) = attempt.see(change)? {
                print(&line)?;
                return Ok(Exit::Ok);
            }
        }
    }
}

impl Attempt<'_> {
    /// The line that says that it is done, once it is.
    fn see(&mut self, change: Change) -> Result<Option<String>> {
        let name = &self.args.name;
        match change {
            Change::Set(instance) => {
                (self.last, self.seen) = (*instance, true);
                let epoch = self.last.status.epoch;
                let master = self.new_master();
                Ok(master.map(|master| format!("redisinstance/{name}: {master} is the master now (epoch {epoch})\n")))
            }
            Change::Synced if self.seen => Ok(None),
            Change::Removed(_) | Change::Synced => {
                Err(failure(Exit::NotFound, format!("instance {name:?} was deleted meanwhile")))
            }
        }
    }

    /// The new master, once it takes writes. Whoever else becomes the master meanwhile: the one that
    /// was asked for is still to come.
    fn new_master(&self) -> Option<&str> {
        let master = master(&self.last)?.name.as_str();
        let is_wanted = self.args.to.as_ref().is_none_or(|to| to == master);
        (self.last.status.epoch > self.epoch && is_available(&self.last) && is_wanted).then_some(master)
    }

    /// Fails when the operator says that it will not be.
    fn hear(&self, events: &[Value]) -> Result<()> {
        match bad_news(events).into_iter().find(|event| !self.old_news.contains(event)) {
            None => Ok(()),
            Some(event) => {
                let event: InstanceEvent = serde_json::from_str(&event)?;
                Err(failure(Exit::Failed, format!("redisinstance/{}: {}", self.args.name, event.message)))
            }
        }
    }

    fn timed_out(&self) -> anyhow::Error {
        let FailoverArgs { name, timeout, .. } = self.args;
        let (phase, ready) = (self.last.status.phase, self.last.readiness());
        let text = format!(
            "redisinstance/{name}: no new master after {timeout}: {phase}, {ready} nodes ready; it is still asked for, and \
             `redisctl events {name}` shows what becomes of it"
        );
        let waiting = self.last.waiting();
        failure(Exit::TimedOut, waiting.iter().fold(text, |text, reason| text + "\n  waits: " + reason))
    }
}

/// The events that say that a failover will not be. Compared as a whole: no clock of ours is asked.
fn bad_news(events: &[Value]) -> BTreeSet<String> {
    let is_bad = |event: &&Value| {
        InstanceEvent::deserialize(*event).is_ok_and(|event| BAD_NEWS.contains(&event.reason.as_str()))
    };
    events.iter().filter(is_bad).map(Value::to_string).collect()
}
