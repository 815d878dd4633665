//! Makes one steady story of a watch that is cut and taken up again. Pure.
//!
//! Each connection starts with a list of everything (`set` for each, then `synced`). Told twice, a
//! fact is passed on once; what is missing in a later list was removed while nobody was connected.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::sse::Message;
use super::view::Instance;

/// What happened to the instances that are watched.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// New or changed.
    Set(Box<Instance>),
    /// Gone.
    Removed(String),
    /// Everything that exists has been told. Once only.
    Synced,
}

/// The state of a watch.
#[derive(Debug)]
pub struct Follower {
    /// Only these; all when empty.
    names: BTreeSet<String>,
    known: BTreeMap<String, Value>,
    /// What this connection's list has told so far; none after its `synced`.
    listed: Option<BTreeSet<String>>,
    synced: bool,
}

impl Follower {
    /// Follows these instances; all when there are none.
    pub fn new(names: &[String]) -> Follower {
        let names = names.iter().cloned().collect();
        Follower { names, known: BTreeMap::new(), listed: None, synced: false }
    }

    /// A new connection: its list comes.
    pub fn connected(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// A message of the connection. Unknown ones are of a newer operator, and skipped.
    pub fn take(&mut self, message: &Message) -> Result<Vec<Change>, serde_json::Error> {
        match message.event.as_str() {
            "set" => self.set(serde_json::from_str(&message.data)?),
            "removed" => {
                #[derive(serde::Deserialize)]
                struct Removed {
                    name: String,
                }
                let Removed { name } = serde_json::from_str(&message.data)?;
                Ok(self.removed(name).into_iter().collect())
            }
            "synced" => Ok(self.synced()),
            _ => Ok(Vec::new()),
        }
    }

    fn set(&mut self, raw: Value) -> Result<Vec<Change>, serde_json::Error> {
        let instance = Instance::from_json(raw)?;
        let name = instance.name().to_string();
        if !self.names.is_empty() && !self.names.contains(&name) {
            return Ok(Vec::new());
        }
        if let Some(listed) = &mut self.listed {
            listed.insert(name.clone());
        }
        if self.known.get(&name) == Some(&instance.raw) {
            return Ok(Vec::new());
        }
        self.known.insert(name, instance.raw.clone());
        Ok(vec![Change::Set(Box::new(instance))])
    }

    fn removed(&mut self, name: String) -> Option<Change> {
        self.known.remove(&name).map(|_| Change::Removed(name))
    }

    fn synced(&mut self) -> Vec<Change> {
        let listed = self.listed.take().unwrap_or_default();
        let missing: Vec<String> = self.known.keys().filter(|name| !listed.contains(*name)).cloned().collect();
        let mut changes: Vec<Change> = missing.into_iter().filter_map(|name| self.removed(name)).collect();
        if !self.synced {
            self.synced = true;
            changes.push(Change::Synced);
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Follower};
    use crate::cli::sse::Message;

    fn set(name: &str, revision: i64) -> Message {
        let data = format!(r#"{{"metadata":{{"name":"{name}","revision":{revision}}}}}"#);
        Message { event: "set".into(), data }
    }

    fn synced() -> Message {
        Message { event: "synced".into(), data: String::new() }
    }

    fn told(follower: &mut Follower, messages: &[Message]) -> Vec<String> {
        let changes = messages.iter().flat_map(|m| follower.take(m).unwrap());
        changes
            .map(|change| match change {
                Change::Set(instance) => format!("{}@{}", instance.name(), instance.metadata.revision),
                Change::Removed(name) => format!("-{name}"),
                Change::Synced => "synced".to_string(),
            })
            .collect()
    }

    #[test]
    fn after_a_reconnection_only_differences_are_told() {
        let mut follower = Follower::new(&[]);
        follower.connected();
        assert_eq!(
            told(&mut follower, &[set("a", 1), set("b", 1), set("c", 1), synced()]),
            ["a@1", "b@1", "c@1", "synced"]
        );
        follower.connected();
        assert_eq!(told(&mut follower, &[set("a", 1), set("c", 2), synced()]), ["c@2", "-b"]);
    }

    #[test]
    fn others_than_those_named_are_not_told() {
        let mut follower = Follower::new(&["b".to_string()]);
        follower.connected();
        let removed = Message { event: "removed".into(), data: r#"{"name":"a"}"#.into() };
        assert_eq!(told(&mut follower, &[set("a", 1), set("b", 1), removed, synced()]), ["b@1", "synced"]);
    }
}
