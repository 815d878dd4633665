//! Writes specs and requests into the store: documents all or nothing. I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use axum::http::StatusCode;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::audit::Audit;
use super::problem::Problem;
use super::{ApiState, permit, references};
use crate::access::{Caller, Level};
use crate::clock::now;
use crate::model::{InstanceRecord, Request, RequestKind};
use crate::offload;
use crate::spec::{Parsed, RedisInstance, parse_document};
use crate::store::{Error, Guard, KeyValue, Op, TXN_OPS_MAX, Txn, instance_key, request_key, state_key};

/// How often documents are read and decided again when somebody else wrote meanwhile.
pub(super) const CONFLICTS_MAX: usize = 5;
/// Reads under way at once: enough to hide the way to the store, few enough not to flood it.
const READS_MAX: usize = 32;
/// For more documents than this, all instances are listed instead of read one by one.
const READ_SINGLY_MAX: usize = 16;

/// What became of a document.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Applied {
    /// The instance.
    pub name: String,
    /// What was done, or would be.
    pub result: Outcome,
    /// The revision of the stored document; 0 when a dry run would create it.
    pub revision: i64,
}

/// The same in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// There was none of that name.
    Created,
    /// It was another one.
    Configured,
    /// It says the same as the stored one, which stays as it is.
    Unchanged,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Created => "created",
            Outcome::Configured => "configured",
            Outcome::Unchanged => "unchanged",
        }
    }
}

/// How documents are applied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Only if the (one) stored document has this revision.
    pub if_match: Option<i64>,
}

/// Applies documents: all of them, or none.
///
/// *Guarantees.* Everything is checked before anything is written. Up to [`TXN_OPS_MAX`] documents
/// are one transaction, guarded by the revisions that the checks were made on.
/// *Caveats.* More documents are several transactions; when the store fails between them, the answer
/// says how many are written, and applying again writes the rest.
pub async fn apply(
    state: &ApiState,
    by: &Caller,
    documents: &[Parsed],
    options: Options,
) -> Result<Vec<Applied>, Problem> {
    let mut written: BTreeMap<String, Applied> = BTreeMap::new();
    for attempt in 1.. {
        let stored = read(state, documents).await?;
        let decisions = decide(by, documents, &stored, options)?;
        if options.dry_run {
            return Ok(decisions.into_iter().map(|decision| decision.applied).collect());
        }
        match commit(state, by, &decisions, &mut written).await {
            Ok(()) => {
                let kept = |decision: Decision| written.remove(&decision.applied.name).unwrap_or(decision.applied);
                return Ok(decisions.into_iter().map(kept).collect());
            }
            Err(Error::Conflict(_)) if attempt < CONFLICTS_MAX => {}
            Err(err) if written.is_empty() => return Err(err.into()),
            Err(err) => {
                let done = format!("{} of {} documents are written: apply again", written.len(), documents.len());
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("{err}; {done}")));
            }
        }
    }
    unreachable!("the last attempt returns")
}

// ---------------------------------------------------------------------------------------------
// Reading

/// What the store holds of an instance.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) document: Option<KeyValue>,
    /// What the document says, if it is valid.
    declared: Option<RedisInstance>,
    record: Option<InstanceRecord>,
    delete: Option<Request>,
    audit: Audit,
}

impl Stored {
    /// The secret that the instance has now: as declared, or as the last good document said.
    fn secret(&self) -> Option<&str> {
        let declared = self.declared.as_ref().map(|declared| &declared.spec);
        declared.or(self.record.as_ref().map(|record| &record.spec))?.secret()
    }

    /// Deletion has been asked for, or is under way.
    fn is_going(&self) -> bool {
        match (&self.document, &self.delete) {
            // A document that is newer than the request survives it.
            (Some(document), Some(request)) => document.revision <= request.revision,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (None, None) => self.record.is_some(),
        }
    }
}

async fn read(state: &ApiState, documents: &[Parsed]) -> Result<BTreeMap<String, Stored>, Error> {
    let names: BTreeSet<&str> = documents.iter().map(|parsed| parsed.instance.metadata.name.as_str()).collect();
    let all: BTreeMap<String, Stored> = if names.len() > READ_SINGLY_MAX {
        read_all(state, &names).await?
    } else {
        let read = |name: &str| {
            let name = name.to_string();
            async move { read_one(state, &name).await.map(|stored| (name, stored)) }
        };
        stream::iter(names.into_iter().map(read)).buffer_unordered(READS_MAX).try_collect().await?
    };
    let busy = || Error::Unavailable(anyhow::anyhow!("too many documents are being read already"));
    let declared = |stored: Stored| {
        let document = stored.document.as_ref();
        Stored { declared: document.and_then(|document| parse_document(&document.value).ok()), ..stored }
    };
    let read = move || all.into_iter().map(|(name, stored)| (name, declared(stored))).collect();
    offload::in_turn(read).await.ok_or_else(busy)
}

pub(super) async fn read_one(state: &ApiState, name: &str) -> Result<Stored, Error> {
    let (instance, record) = (instance_key(name), state_key(name));
    let (delete, audit) = (request_key(name, RequestKind::Delete), request_key(name, RequestKind::Audit));
    let (document, record, delete, audit) =
        tokio::try_join!(get(state, &instance), get(state, &record), get(state, &delete), get(state, &audit))?;
    Ok(Stored {
        document,
        declared: None,
        record: record.as_ref().and_then(decode),
        delete: delete.and_then(|item| Request::read(&item.value).ok()),
        audit: audit.as_ref().map(Audit::read).unwrap_or_default(),
    })
}

async fn read_all(state: &ApiState, names: &BTreeSet<&str>) -> Result<BTreeMap<String, Stored>, Error> {
    let mut all: BTreeMap<String, Stored> = names.iter().map(|name| ((*name).to_string(), Stored::default())).collect();
    let (documents, records, requests) =
        tokio::try_join!(list(state, "instances/"), list(state, "state/"), list(state, "requests/"))?;
    for item in documents {
        if let Some(stored) = item.key.strip_prefix("instances/").and_then(|name| all.get_mut(name)) {
            stored.document = Some(item);
        }
    }
    for item in records {
        if let Some(stored) = item.key.strip_prefix("state/").and_then(|name| all.get_mut(name)) {
            stored.record = decode(&item);
        }
    }
    for item in requests {
        let Some((name, kind)) = item.key.strip_prefix("requests/").and_then(|rest| rest.split_once('/')) else {
            continue;
        };
        match (all.get_mut(name), kind) {
            (Some(stored), "delete") => stored.delete = Request::read(&item.value).ok(),
            (Some(stored), "audit") => stored.audit = Audit::read(&item),
            _ => {}
        }
    }
    Ok(all)
}

fn decode<T: DeserializeOwned>(item: &KeyValue) -> Option<T> {
    serde_json::from_slice(&item.value).ok()
}

async fn get(state: &ApiState, key: &str) -> Result<Option<KeyValue>, Error> {
    let start = Instant::now();
    let answer = Box::pin(state.store.get(key)).await; // Boxed: etcd's client makes futures of 24 kB.
    state.metrics.store("get", start.elapsed(), answer.is_ok());
    answer
}

async fn list(state: &ApiState, prefix: &str) -> Result<Vec<KeyValue>, Error> {
    let start = Instant::now();
    let answer = Box::pin(state.store.list(prefix)).await;
    state.metrics.store("list", start.elapsed(), answer.is_ok());
    Ok(answer?.items)
}

async fn put(state: &ApiState, txn: Txn) -> Result<i64, Error> {
    let start = Instant::now();
    let answer = Box::pin(state.store.commit(txn)).await;
    // A conflict is an answer: the store is well.
    state.metrics.store("commit", start.elapsed(), matches!(answer, Ok(_) | Err(Error::Conflict(_))));
    answer
}

// ---------------------------------------------------------------------------------------------
// Deciding and writing

struct Decision {
    applied: Applied,
    /// The revision that was read; 0: there is no document.
    read: i64,
    text: String,
    audit: Audit,
}

fn decide(
    by: &Caller,
    documents: &[Parsed],
    stored: &BTreeMap<String, Stored>,
    options: Options,
) -> Result<Vec<Decision>, Problem> {
    let (mut decisions, mut going) = (Vec::new(), Vec::new());
    for parsed in documents {
        let name = &parsed.instance.metadata.name;
        permit(by, Level::Write, name)?; // Here as well: this is where it is used.
        let found = &stored[name];
        references::check(by, parsed, found.secret())?;
        let read = found.document.as_ref().map_or(0, |document| document.revision);
        if let Some(wanted) = options.if_match.filter(|wanted| *wanted != read) {
            let detail = format!("{name} has revision {read}, and If-Match wants {wanted}");
            return Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail));
        }
        if found.is_going() {
            going.push(name.as_str());
        }
        let result = outcome(parsed, found);
        let revision = if result == Outcome::Unchanged || options.dry_run { read } else { 0 };
        let applied = Applied { name: name.clone(), result, revision };
        decisions.push(Decision { applied, read, text: parsed.text.clone(), audit: found.audit.clone() });
    }
    if !going.is_empty() {
        let names = going.join(", ");
        let detail = format!("{names}: being deleted; the name can be used again when the instance is gone");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    Ok(decisions)
}

fn outcome(parsed: &Parsed, found: &Stored) -> Outcome {
    match (&found.document, &found.declared) {
        (None, _) => Outcome::Created,
        (Some(_), Some(declared)) if *declared == parsed.instance => Outcome::Unchanged,
        (Some(_), _) => Outcome::Configured,
    }
}

async fn commit(
    state: &ApiState,
    by: &Caller,
    decisions: &[Decision],
    written: &mut BTreeMap<String, Applied>,
) -> Result<(), Error> {
    let changes: Vec<&Decision> = decisions.iter().filter(|d| d.applied.result != Outcome::Unchanged).collect();
    for chunk in changes.chunks(TXN_OPS_MAX / 2) {
        let mut txn = Txn::default();
        for decision in chunk {
            let (name, key) = (&decision.applied.name, instance_key(&decision.applied.name));
            let (guard, op) = decision.audit.add(name, by, decision.applied.result.word());
            txn.guards.extend([Guard::Revision { key: key.clone(), revision: decision.read }, guard]);
            txn.ops.extend([Op::Put { key, value: decision.text.clone().into_bytes() }, op]);
        }
        let revision = put(state, txn).await?;
        let applied = chunk.iter().map(|d| Applied { revision, ..d.applied.clone() });
        written.extend(applied.map(|applied| (applied.name.clone(), applied)));
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------
// Requests

/// Asks for an instance to be deleted. Asking again changes nothing.
pub async fn request_deletion(state: &ApiState, by: &Caller, name: &str) -> Result<(), Problem> {
    for attempt in 1.. {
        let found = read_one(state, name).await?;
        if found.is_going() {
            return Ok(());
        }
        let Some(document) = found.document else { return Err(Problem::no_instance(name)) };
        let asked = Request { at: now(), revision: document.revision, ..Request::default() };
        let audit = found.audit.add(name, by, "deletion was asked for");
        match request(state, name, RequestKind::Delete, &asked, audit).await {
            Err(Error::Conflict(_)) if attempt < CONFLICTS_MAX => {}
            other => return other.map_err(Problem::from),
        }
    }
    unreachable!("the last attempt returns")
}

/// Asks for an instance that has lost its data to be started again, empty.
pub async fn request_recreation(state: &ApiState, by: &Caller, name: &str) -> Result<(), Problem> {
    let found = read_one(state, name).await?;
    if found.is_going() {
        return Err(Problem::new(StatusCode::CONFLICT, format!("{name} is being deleted")));
    }
    let document = found.document.ok_or_else(|| Problem::no_instance(name))?;
    let asked = Request { at: now(), revision: document.revision, ..Request::default() };
    let audit = found.audit.add(name, by, "a new, empty start was asked for");
    request(state, name, RequestKind::Recreate, &asked, audit).await.map_err(Problem::from)
}

/// Asks for new passwords; the former ones stay valid for so long.
pub async fn request_rotation(state: &ApiState, by: &Caller, name: &str, keep_ms: Option<u64>) -> Result<(), Problem> {
    let found = read_one(state, name).await?;
    if found.is_going() {
        return Err(Problem::new(StatusCode::CONFLICT, format!("{name} is being deleted")));
    }
    let document = found.document.ok_or_else(|| Problem::no_instance(name))?;
    let asked = Request { at: now(), revision: document.revision, keep_ms, ..Request::default() };
    let audit = found.audit.add(name, by, "a rotation of passwords was asked for");
    request(state, name, RequestKind::Rotate, &asked, audit).await.map_err(Problem::from)
}

/// Asks for another node to be the master; `to`: this one. Asking again changes what is asked for.
pub async fn request_failover(
    state: &ApiState,
    by: &Caller,
    name: &str,
    to: Option<String>,
    force: bool,
) -> Result<Request, Problem> {
    let mut asked = Request { at: now(), to, force, ..Request::default() };
    for attempt in 1.. {
        let found = read_one(state, name).await?;
        if found.is_going() {
            return Err(Problem::new(StatusCode::CONFLICT, format!("{name} is being deleted")));
        }
        asked.revision = found.document.ok_or_else(|| Problem::no_instance(name))?.revision;
        let to = asked.to.as_deref().map(|to| format!(" to {to}")).unwrap_or_default();
        let forced = if asked.force { ", by force," } else { "" };
        let audit = found.audit.add(name, by, &format!("a failover{to}{forced} was asked for"));
        match request(state, name, RequestKind::Failover, &asked, audit).await {
            // A change of the document meanwhile is no reason against it: only its deletion is.
            Err(Error::Conflict(_)) if attempt < CONFLICTS_MAX => {}
            other => return other.map(|()| asked).map_err(Problem::from),
        }
    }
    unreachable!("the last attempt returns")
}

/// Writes a request, if the document still has the revision that the request was made for.
async fn request(
    state: &ApiState,
    name: &str,
    kind: RequestKind,
    asked: &Request,
    (guard, audit): (Guard, Op),
) -> Result<(), Error> {
    let value = serde_json::to_vec(asked).expect("a request is JSON");
    let guards = vec![Guard::Revision { key: instance_key(name), revision: asked.revision }, guard];
    let ops = vec![Op::Put { key: request_key(name, kind), value }, audit];
    put(state, Txn { guards, ops }).await.map(|_| ())
}
