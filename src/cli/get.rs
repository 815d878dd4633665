//! `redisctl get`: instances as a table, JSON, YAML or names, once or live. I/O.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;

use super::args::{GetArgs, Output};
use super::client::Client;
use super::follow::{Change, Follower};
use super::outcome::{Exit, failure};
use super::text::{Cell, Table, age, cell, phase_style, print, size};
use super::view::Instance;
use super::watch::Signal;
use crate::clock::now;
use crate::model::{Role, Timestamp};
use crate::status::{ConditionStatus, ConditionType, NodeState};

const COLUMNS: [&str; 7] = ["NAME", "PHASE", "READY", "MASTER", "MEMORY", "EPOCH", "AGE"];
const WIDE_COLUMNS: [&str; 12] =
    ["NAME", "PHASE", "READY", "MASTER", "MEMORY", "EPOCH", "AGE", "USED", "IN-SYNC", "REVISION", "NODES", "WAITING"];
/// The column of the age: it changes all the time, which is no reason to print a row again.
const AGE_COLUMN: usize = 6;
/// For what is not known.
const NONE: &str = "-";

/// Runs `redisctl get`.
pub async fn get(client: &Client, args: &GetArgs) -> Result<Exit> {
    if args.watch {
        return watch(client, args).await;
    }
    let mut found = Vec::new();
    let mut missing = Vec::new();
    if args.names.is_empty() {
        found = client.list(args.selector.as_deref()).await?;
    }
    for name in &args.names {
        match client.get(name).await? {
            Some(instance) => found.push(instance),
            None => missing.push(format!("{name:?}")),
        }
    }
    let is_one = args.names.len() == 1;
    if found.is_empty() && missing.is_empty() && args.output != Output::Json && args.output != Output::Yaml {
        anstream::eprintln!("No instances.");
    } else if !(found.is_empty() && is_one) {
        print(&page(&found, args.output, is_one)?)?;
    }
    match missing.as_slice() {
        [] => Ok(Exit::Ok),
        [name] => Err(failure(Exit::NotFound, format!("there is no instance {name}"))),
        names => Err(failure(Exit::NotFound, format!("there are no instances {}", names.join(", ")))),
    }
}

/// All of them in one form; one that was asked for by name is not wrapped in a list.
fn page(instances: &[Instance], output: Output, is_one: bool) -> Result<String> {
    let raw = || match instances {
        [instance] if is_one => instance.raw.clone(),
        _ => {
            let items: Vec<_> = instances.iter().map(|instance| &instance.raw).collect();
            json!({"apiVersion": crate::spec::API_VERSION, "kind": "RedisInstanceList", "items": items})
        }
    };
    Ok(match output {
        Output::Table | Output::Wide => Rows::new(output).page(instances, now()),
        Output::Json => serde_json::to_string_pretty(&raw())? + "\n",
        Output::Yaml => serde_yaml::to_string(&raw())?,
        Output::Name => instances.iter().map(|i| format!("redisinstance/{}\n", i.name())).collect(),
    })
}

/// Prints what there is, then each change, until the process is ended.
async fn watch(client: &Client, args: &GetArgs) -> Result<Exit> {
    let single = if let [name] = args.names.as_slice() { Some(name.as_str()) } else { None };
    let mut watch = client.watch(single, args.selector.as_deref());
    let mut follower = Follower::new(&args.names);
    let mut live = Live { output: args.output, rows: Rows::new(args.output), first: Some(Vec::new()) };
    loop {
        match watch.next().await? {
            Signal::Connected => follower.connected(),
            Signal::Message(message) => {
                for change in follower.take(&message)? {
                    print(&live.take(change)?)?;
                }
            }
        }
    }
}

/// What a live listing prints.
struct Live {
    output: Output,
    rows: Rows,
    /// What there is at the start; none once it has been printed.
    first: Option<Vec<Instance>>,
}

impl Live {
    fn take(&mut self, change: Change) -> Result<String> {
        match change {
            Change::Set(instance) => match &mut self.first {
                Some(first) => first.push(*instance),
                None => return self.one(&instance),
            },
            Change::Synced => {
                let first = self.first.take().unwrap_or_default();
                if matches!(self.output, Output::Table | Output::Wide) {
                    return Ok(self.rows.page(&first, now()));
                }
                return first.iter().map(|instance| self.one(instance)).collect();
            }
            Change::Removed(name) => return self.removed(&name),
        }
        Ok(String::new())
    }

    /// One instance: a row, a line of JSON, a document of YAML or a name.
    fn one(&mut self, instance: &Instance) -> Result<String> {
        Ok(match self.output {
            Output::Table | Output::Wide => self.rows.more(instance, now()),
            Output::Json => serde_json::to_string(&instance.raw)? + "\n",
            Output::Yaml => format!("---\n{}", serde_yaml::to_string(&instance.raw)?),
            Output::Name => format!("redisinstance/{}\n", instance.name()),
        })
    }

    fn removed(&mut self, name: &str) -> Result<String> {
        let gone =
            json!({"apiVersion": crate::spec::API_VERSION, "kind": "RedisInstanceRemoved", "metadata": {"name": name}});
        Ok(match self.output {
            Output::Table | Output::Wide => self.rows.removed(name),
            Output::Json => serde_json::to_string(&gone)? + "\n",
            Output::Yaml => format!("---\n{}", serde_yaml::to_string(&gone)?),
            Output::Name => String::new(),
        })
    }
}

/// The rows of a table that may go on.
struct Rows {
    wide: bool,
    table: Table,
    /// The last row of each instance, without its age.
    printed: BTreeMap<String, Vec<String>>,
}

impl Rows {
    fn new(output: Output) -> Rows {
        let wide = output == Output::Wide;
        let table = if wide { Table::new(&WIDE_COLUMNS) } else { Table::new(&COLUMNS) };
        Rows { wide, table, printed: BTreeMap::new() }
    }

    fn page(&mut self, instances: &[Instance], now: Timestamp) -> String {
        for instance in instances {
            self.is_news(instance);
        }
        let rows: Vec<Vec<Cell>> = instances.iter().map(|instance| self.row(instance, now)).collect();
        self.table.page(&rows)
    }

    fn more(&mut self, instance: &Instance, now: Timestamp) -> String {
        if self.is_news(instance) { self.table.more(&[self.row(instance, now)]) } else { String::new() }
    }

    fn removed(&mut self, name: &str) -> String {
        self.printed.remove(name);
        self.table.more(&[vec![name.into(), "Deleted".into()]])
    }

    /// Whether the row differs from the one that was printed last.
    fn is_news(&mut self, instance: &Instance) -> bool {
        let mut texts = self.texts(instance, Timestamp(0));
        texts.remove(AGE_COLUMN);
        self.printed.insert(instance.name().to_string(), texts.clone()) != Some(texts)
    }

    fn row(&self, instance: &Instance, now: Timestamp) -> Vec<Cell> {
        let style = |column| if column == 1 { phase_style(instance.status.phase) } else { super::text::PLAIN };
        self.texts(instance, now).into_iter().enumerate().map(|(i, text)| cell(text, style(i))).collect()
    }

    fn texts(&self, instance: &Instance, now: Timestamp) -> Vec<String> {
        let status = &instance.status;
        let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_string());
        let mut texts = vec![
            instance.name().to_string(),
            phase(instance),
            instance.readiness(),
            or_none(status.master.clone()),
            or_none(instance.spec.get("memory").and_then(|m| m.as_str()).map(str::to_string)),
            status.epoch.to_string(),
            or_none(instance.metadata.created_at.map(|created| age(now, created))),
        ];
        if self.wide {
            texts.extend(wide(instance).map(|text| if text.is_empty() { NONE.to_string() } else { text }));
        }
        texts
    }
}

/// The phase, and what somebody has to do something about.
fn phase(instance: &Instance) -> String {
    let full = instance.has_condition(ConditionType::MemoryFull, ConditionStatus::True);
    let more = [("SpecInvalid", instance.invalid.is_some()), ("MemoryFull", full)];
    let more = more.iter().filter(|(_, holds)| *holds).map(|(word, _)| *word);
    [instance.status.phase.to_string().as_str()].into_iter().chain(more).collect::<Vec<_>>().join(",")
}

/// The columns that only `-o wide` has.
fn wide(instance: &Instance) -> [String; 5] {
    let nodes = &instance.status.nodes;
    let master = nodes.iter().find(|node| node.role == Role::Master);
    let replicas = nodes.iter().filter(|node| node.role == Role::Replica);
    let in_sync = replicas.clone().filter(|node| node.state == NodeState::Ready).count();
    let declared = instance.spec.get("replicas").and_then(serde_json::Value::as_u64);
    let addresses: Vec<String> = nodes.iter().map(|node| format!("{}@{}", node.name, node.address)).collect();
    let observed = instance.status.observed_revision;
    let revision = instance.metadata.revision;
    [
        master.and_then(|node| node.used_memory).map(size).unwrap_or_default(),
        declared.map(|declared| format!("{in_sync}/{declared}")).unwrap_or_default(),
        if observed == revision { revision.to_string() } else { format!("{revision} (at {observed})") },
        addresses.join(","),
        instance.waiting().join("; "),
    ]
}
