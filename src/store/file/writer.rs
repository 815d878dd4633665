//! The one thread that writes into the store's file: it commits what has queued up together. I/O.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError};
use tokio::sync::{mpsc, oneshot};

use super::handle::Handle;
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
pub(super) fn run(file: &Handle, mut jobs: mpsc::Receiver<Job>, history: &History) {
    while let Some(job) = jobs.blocking_recv() {
        let mut group = vec![job];
        while group.len() < GROUP_MAX
            && let Ok(job) = jobs.try_recv()
        {
            group.push(job);
        }
        match file.get().and_then(|db| write_group(&db, &group)) {
            Ok((results, changes)) => {
                // Before the replies: who has one sees its own write in a watch.
                history.push(changes);
                for (job, result) in group.into_iter().zip(results) {
                    // Whoever went away does not want to know.
                    let _ = job.reply.send(result);
                }
            }
            Err(error) => {
                file.give_up();
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
            if let Some(refused) = check(&keys, &job.txn.guards)? {
                results.push(Err(refused));
                continue;
            }
            let done = apply(&mut keys, job, revision + 1)?;
            if !done.is_empty() {
                revision += 1;
                changes.push(Changes { changes: done, revision });
            }
            results.push(Ok(revision));
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
    file: Arc<Handle>,
    jobs: mpsc::Receiver<Job>,
    history: Arc<History>,
) -> Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("store-writer".to_owned())
        .spawn(move || run(&file, jobs, &history))
        .context("start the store's writer")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;

    use super::*;

    /// Counts the syncs to a disk that is not there.
    #[derive(Debug, Default)]
    struct Counting(InMemoryBackend, Arc<AtomicUsize>);

    impl StorageBackend for Counting {
        fn len(&self) -> Result<u64, std::io::Error> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> Result<(), std::io::Error> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
            self.0.write(offset, data)
        }
    }

    /// A disk that is full while it is said to be.
    #[derive(Clone, Debug, Default)]
    struct Filling(Arc<InMemoryBackend>, Arc<AtomicBool>);

    impl Filling {
        fn room(&self) -> Result<(), std::io::Error> {
            if self.1.load(Ordering::Relaxed) { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
    }

    impl StorageBackend for Filling {
        fn len(&self) -> Result<u64, std::io::Error> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
            self.room().and_then(|()| self.0.set_len(len))
        }
        fn sync_data(&self) -> Result<(), std::io::Error> {
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
            self.room().and_then(|()| self.0.write(offset, data))
        }
    }

    #[test]
    fn on_a_full_disk_nothing_is_done_by_halves_and_it_goes_on_when_there_is_room() {
        let disk = Filling::default();
        let open = {
            let disk = disk.clone();
            move || {
                let db = Database::builder().create_with_backend(disk.clone())?;
                prepare(&db, 1, 7).map(|(_, revision)| (db, revision))
            }
        };
        let (db, revision) = open().unwrap();
        let history = Arc::new(History::new(revision));
        let file = Arc::new(Handle::new(db, Arc::clone(&history), open));
        let (sender, jobs) = mpsc::channel(QUEUE_MAX);
        let writer = start(Arc::clone(&file), jobs, history).unwrap();
        let put = |value: &str| {
            let (reply, answer) = oneshot::channel();
            let ops = vec![Op::Put { key: "a".into(), value: value.into() }];
            assert!(sender.blocking_send(Job { txn: Txn { guards: vec![], ops }, anew: false, reply }).is_ok());
            answer.blocking_recv().unwrap()
        };
        assert_eq!(put("1").unwrap(), 2);
        disk.1.store(true, Ordering::Relaxed);
        for _ in 0..3 {
            assert!(matches!(put("2"), Err(Error::Unavailable(_))));
        }
        disk.1.store(false, Ordering::Relaxed);
        assert_eq!(put("3").unwrap(), 3);
        let read = file.get().unwrap().begin_read().unwrap();
        let keys = read.open_table(KEYS).unwrap();
        assert_eq!(keys.get("a").unwrap().unwrap().value(), (2, 3, b"3".as_slice()));
        drop(sender);
        writer.join().unwrap();
    }

    #[test]
    fn commits_that_wait_together_are_synced_together() {
        let syncs = Arc::new(AtomicUsize::new(0));
        let backend = Counting(InMemoryBackend::new(), Arc::clone(&syncs));
        let db = Database::builder().create_with_backend(backend).unwrap();
        prepare(&db, 1, 7).unwrap();
        let (sender, jobs) = mpsc::channel(QUEUE_MAX);
        let answers: Vec<_> = (0..1000)
            .map(|n| {
                let (reply, answer) = oneshot::channel();
                let ops = vec![Op::Put { key: format!("k{n}"), value: vec![] }];
                let job = Job { txn: Txn { guards: vec![], ops }, anew: false, reply };
                assert!(sender.try_send(job).is_ok());
                answer
            })
            .collect();
        drop(sender);
        let before = syncs.load(Ordering::Relaxed);
        let history = Arc::new(History::new(1));
        let file = Handle::new(db, Arc::clone(&history), || unreachable!("it does not fail"));
        run(&file, jobs, &history);
        let done = syncs.load(Ordering::Relaxed) - before;
        assert!(done <= 1000 / GROUP_MAX * 4 + 4, "{done} syncs");
        for (n, mut answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.try_recv().unwrap().unwrap(), i64::try_from(n).unwrap() + 2);
        }
    }
}
