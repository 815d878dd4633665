//! What others than operators write into the store: documents and requests, read without harm. Pure.

use crate::model::{Request, RequestKind};
use crate::plain::{abridge, is_name};
use crate::reconcile::world::{Instance, Stored, World};
use crate::spec::{self, RedisInstance};
use crate::store::KeyValue;

/// The most characters of what is wrong with a document: it is kept in the status, and in an event.
const ERRORS_CHARS_MAX: usize = 4000;

/// The user's document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its revision.
    pub revision: i64,
    /// What it says, or what is wrong with it.
    pub parsed: Result<RedisInstance, String>,
}

/// A document that was read where reading it holds up nobody; what nobody has read is read when it comes.
#[derive(Clone, Debug)]
pub struct ReadDocument {
    /// Its key in the store.
    pub key: String,
    /// What it says.
    pub document: Document,
}

impl World {
    /// Knows nothing yet but what was read for the list that comes.
    #[must_use]
    pub fn afresh(self) -> World {
        World { read: self.read, ..World::default() }
    }
}

fn parse_document(name: &str, text: &[u8]) -> Result<RedisInstance, String> {
    let instance =
        spec::parse_document(text).map_err(|errors| abridge(spec::join_errors(&errors), ERRORS_CHARS_MAX))?;
    if instance.metadata.name == name {
        Ok(instance)
    } else {
        let found = &instance.metadata.name;
        Err(format!("metadata.name: {found:?} differs from the name in the key, which is {name:?}"))
    }
}

/// Whether an instance may be called so in what is told: whoever may write below `instances/` chooses.
pub(super) fn may_be_told(name: &str) -> bool {
    !name.is_empty() && is_name(name)
}

/// Reads the documents among what the store tells, away from the one that leads.
pub fn read_documents<'a>(items: impl Iterator<Item = &'a KeyValue>) -> Vec<ReadDocument> {
    let read = |item: &KeyValue| {
        let name = item.key.strip_prefix("instances/").filter(|name| may_be_told(name))?;
        Some(ReadDocument { key: item.key.clone(), document: document(name, item) })
    };
    items.filter_map(read).collect()
}

fn document(name: &str, item: &KeyValue) -> Document {
    Document { revision: item.revision, parsed: parse_document(name, &item.value) }
}

pub(super) fn set_document(name: &str, instance: &mut Instance, item: &KeyValue, read: Option<Document>) {
    if instance.document.as_ref().is_none_or(|known| known.revision < item.revision) {
        instance.document = Some(read.unwrap_or_else(|| document(name, item)));
    }
}

/// What is no request of ours is none: others than operators may write there, and must not stop us by it.
pub(super) fn set_request(instance: &mut Instance, kind: &str, item: &KeyValue) {
    let Ok(kind) = serde_json::from_value::<RequestKind>(kind.into()) else { return };
    if instance.requests.get(&kind).is_some_and(|known| known.revision > item.revision) {
        return;
    }
    match Request::read(&item.value) {
        Ok(value) => drop(instance.requests.insert(kind, Stored { value, revision: item.revision })),
        Err(_) => drop(instance.requests.remove(&kind)),
    }
}
