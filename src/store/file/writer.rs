//! The one thread that writes into the store's file: it commits what has queued up together. I/O.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError};
use tokio::sync::{mpsc, oneshot};

use super::history::History;
use crate::store::{Change, Changes, Error, Guard, KeyValue, LEADER_KEY, Op, Txn, refusal};

/// Key to `(created, revision, value)`.
pub(super) const KEYS: TableDefinition<&str, (i64, i64, &[u8])> = TableDefinition::new("keys");
/// Figures about the store itself.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
pub(super) const META_REVISION: &str = "revision";
pub(super) const META_STORE_ID: &str = "store_id";
pub(super) const META_FORMAT: &str = "format";

/// Transactions that wait for the writer. Those who send more wait themselves.
pub(super) const QUEUE_MAX: usize = 1024;
/// Transactions that are synced to the disk together; bounds the memory of a group.
const GROUP_MAX: usize = 256;

/// A transaction, and who waits for its revision.
pub(super) struct Job {
    pub txn: Txn,
    /// Writes make their keys anew, even those that exist: so a leader's token is always a fresh one.
    pub anew: bool,
    pub reply: oneshot::Sender<Result<i64, Error>>,
}

/// Writes until every sender of jobs is gone.
pub(super) fn run(db: &Database, mut jobs: mpsc::Receiver<Job>, history: &History) {
    while let Some(job) = jobs.blocking_recv() {
        let mut group = vec![job];
        while group.len() < GROUP_MAX
            && let Ok(job) = jobs.try_recv()
        {
            group.push(job);
        }
        match write_group(db, &group) {
            Ok((results, changes)) => {
                // Before the replies: who has one sees its own write in a watch.
                history.push(changes);
                for (job, result) in group.into_iter().zip(results) {
                    // Whoever went away does not want to know.
                    let _ = job.reply.send(result);
                }
            }
            Err(error) => {
                for job in group {
                    let _ = job.reply.send(Err(Error::Unavailable(anyhow!("{error:#}"))));
                }
            }
        }
    }
}

type Outcome = (Vec<Result<i64, Error>>, Vec<Changes>);

/// All of a group in one transaction of the file: one sync to the disk, all or nothing.
fn write_group(db: &Database, group: &[Job]) -> Result<Outcome> {
    let write = db.begin_write().context("begin to write the store's file")?;
    let mut results = Vec::with_capacity(group.len());
    let mut changes = Vec::new();
    {
        let mut keys = write.open_table(KEYS)?;
        let mut meta = write.open_table(META)?;
        let mut revision = read_revision(&meta)?;
        for job in group {
            results.push(match check(&keys, &job.txn.guards)? {
                Some(refused) => Err(refused),
                None => {
                    let done = apply(&mut keys, job, revision + 1)?;
                    if !done.is_empty() {
                        revision += 1;
                        changes.push(Changes { changes: done, revision });
                    }
                    Ok(revision)
                }
            });
        }
        meta.insert(META_REVISION, u64::try_from(revision).context("the store's revision is negative")?)?;
    }
    if changes.is_empty() {
        write.abort().context("end a write that changes nothing")?;
    } else {
        write.commit().context("write the store's file")?;
    }
    Ok((results, changes))
}

/// The store's revision.
pub(super) fn read_revision(meta: &impl ReadableTable<&'static str, u64>) -> Result<i64> {
    let revision = meta.get(META_REVISION)?.context("the store's file has no revision")?.value();
    i64::try_from(revision).context("the store's revision is out of range")
}

fn check(keys: &Table<&str, (i64, i64, &[u8])>, guards: &[Guard]) -> Result<Option<Error>> {
    let mut found = Vec::with_capacity(guards.len());
    for guard in guards {
        let key = match guard {
            Guard::Revision { key, .. } => key.as_str(),
            Guard::Leader(_) => LEADER_KEY,
        };
        let revisions = keys.get(key)?.map_or((0, 0), |entry| {
            let (created, revision, _) = entry.value();
            (created, revision)
        });
        found.push((guard, revisions));
    }
    Ok(refusal(found.into_iter()))
}

fn apply(keys: &mut Table<&str, (i64, i64, &[u8])>, job: &Job, revision: i64) -> Result<Vec<Change>> {
    let mut done = Vec::with_capacity(job.txn.ops.len());
    for op in &job.txn.ops {
        match op {
            Op::Put { key, value } => {
                let before = keys.get(key.as_str())?.map(|entry| entry.value().0);
                let created = before.filter(|_| !job.anew).unwrap_or(revision);
                keys.insert(key.as_str(), (created, revision, value.as_slice()))?;
                let kv = KeyValue { key: key.clone(), value: value.clone(), revision, created };
                done.push(Change::Put(kv));
            }
            Op::Delete { key } => {
                if keys.remove(key.as_str())?.is_some() {
                    done.push(Change::Delete { key: key.clone(), revision });
                }
            }
        }
    }
    Ok(done)
}

/// Makes a new file a store, or checks that it is one; answers its id and revision.
pub(super) fn prepare(db: &Database, format: u64, new_id: u64) -> Result<(u64, i64)> {
    let read = db.begin_read()?;
    if read.list_tables()?.next().is_none() {
        let write = db.begin_write()?;
        write.open_table(KEYS)?;
        let mut meta = write.open_table(META)?;
        meta.insert(META_FORMAT, format)?;
        meta.insert(META_STORE_ID, new_id)?;
        meta.insert(META_REVISION, 1)?;
        drop(meta);
        write.commit()?;
        return Ok((new_id, 1));
    }
    let meta = read.open_table(META).map_err(foreign)?;
    read.open_table(KEYS).map_err(foreign)?;
    let found = meta.get(META_FORMAT)?.map_or(0, |entry| entry.value());
    anyhow::ensure!(found == format, "it has format {found}, and this redisctl reads format {format}");
    let id = meta.get(META_STORE_ID)?.context("it has no store id")?.value();
    Ok((id, read_revision(&meta)?))
}

fn foreign(error: TableError) -> anyhow::Error {
    anyhow::Error::new(error).context("it is a database, but not a store of redisctl")
}

/// A store that is shared by the writer and its readers.
pub(super) fn start(
    db: Arc<Database>,
    jobs: mpsc::Receiver<Job>,
    history: Arc<History>,
) -> Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("store-writer".to_owned())
        .spawn(move || run(&db, jobs, &history))
        .context("start the store's writer")
}
