//! `redisctl events`: what happened, once or live; and how events are printed. I/O.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::Value;

use super::args::{EventsArgs, Form};
use super::client::Client;
use super::outcome::Exit;
use super::text::{Cell, Table, age, cell, event_style, print};
use super::watch::Signal;
use crate::clock::now;
use crate::model::{InstanceEvent, Timestamp};

const COLUMNS: [&str; 5] = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
/// How many events are remembered so that none is printed twice: more than an operator keeps of a
/// thousand instances.
const REMEMBERED_MAX: usize = 65_536;

/// Runs `redisctl events`.
pub async fn events(client: &Client, args: &EventsArgs) -> Result<Exit> {
    let mut printer = Printer { form: args.output, table: Table::new(&COLUMNS), started: false, seen: BTreeSet::new() };
    if args.watch {
        return watch(client, args.name.as_deref(), &mut printer).await;
    }
    let events = client.events(args.name.as_deref()).await?;
    if events.is_empty() && args.output == Form::Text {
        anstream::eprintln!("No events.");
        return Ok(Exit::Ok);
    }
    match args.output {
        Form::Text => print(&printer.news(events)?)?,
        Form::Json => print(&(serde_json::to_string_pretty(&serde_json::json!({"items": events}))? + "\n"))?,
        Form::Yaml => print(&serde_yaml::to_string(&serde_json::json!({"items": events}))?)?,
    }
    Ok(Exit::Ok)
}

/// Prints what there is, then each new event, until the process is ended. What happened while the
/// operator could not be reached is in the list that each connection starts with.
async fn watch(client: &Client, name: Option<&str>, printer: &mut Printer) -> Result<Exit> {
    let mut watch = client.watch_events(name);
    loop {
        let events = match watch.next().await? {
            Signal::Connected => client.events(name).await.unwrap_or_default(),
            Signal::Message(message) if message.event == "event" => vec![serde_json::from_str(&message.data)?],
            Signal::Message(_) => Vec::new(),
        };
        print(&printer.news(events)?)?;
    }
}

/// Prints each event once.
struct Printer {
    form: Form,
    table: Table,
    /// The headings have been printed.
    started: bool,
    seen: BTreeSet<String>,
}

impl Printer {
    fn news(&mut self, events: Vec<Value>) -> Result<String> {
        if self.seen.len() > REMEMBERED_MAX {
            self.seen.clear();
        }
        let news: Vec<Value> = events.into_iter().filter(|event| self.seen.insert(event.to_string())).collect();
        if news.is_empty() {
            return Ok(String::new());
        }
        Ok(match self.form {
            Form::Text => {
                let events =
                    news.iter().map(serde::Deserialize::deserialize).collect::<Result<Vec<InstanceEvent>, _>>()?;
                let rows = rows(&events, now());
                if std::mem::replace(&mut self.started, true) { self.table.more(&rows) } else { self.table.page(&rows) }
            }
            Form::Json => news.iter().map(|event| format!("{event}\n")).collect(),
            Form::Yaml => {
                let documents = news.iter().map(serde_yaml::to_string).collect::<Result<Vec<_>, _>>()?;
                documents.iter().map(|document| format!("---\n{document}")).collect()
            }
        })
    }
}

/// Events as kubectl shows them.
pub fn table(events: &[InstanceEvent], now: Timestamp) -> String {
    Table::new(&COLUMNS).page(&rows(events, now))
}

fn rows(events: &[InstanceEvent], now: Timestamp) -> Vec<Vec<Cell>> {
    let mut events: Vec<&InstanceEvent> = events.iter().collect();
    events.sort_by_key(|event| event.at);
    let row = |event: &&InstanceEvent| {
        let ago = age(now, event.at);
        let seen = match event.count {
            0 | 1 => ago,
            n => format!("{ago} (x{n} over {})", age(now, event.first_at)),
        };
        vec![
            seen.into(),
            cell(format!("{:?}", event.kind), event_style(event.kind)),
            event.reason.as_str().into(),
            event.object.as_str().into(),
            event.message.as_str().into(),
        ]
    };
    events.iter().map(row).collect()
}
