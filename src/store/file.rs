//! The store in a file. I/O.
//!
//! ```text
//! commit ─→ queue ─→ writer thread ─→ file (one sync for all that queued up) ─→ history ─→ watches
//! list, get ────────────────────────→ file
//! ```

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, oneshot};

use super::{Candidate, Error, Guard, KeyValue, LEADER_KEY, LeaderToken, Leadership, Listing, Op, Txn, Upkeep, Watch};
use handle::Handle;
use history::History;
use writer::{Job, KEYS, META, read_revision};

mod handle;
mod history;
mod writer;

/// The layout of the tables.
const FORMAT: u64 = 1;
/// Memory for pages of the file. The library's default is 1 GiB; the file has a few MB.
const CACHE_BYTES: usize = 16 << 20;
/// Opening reads the whole file, which takes milliseconds for thousands of instances.
const OPEN_PATIENCE: Duration = Duration::from_secs(15);
/// How long to wait for another process to let go of the file: one that is ending, or was killed.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two tries to lock the file.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A file, held by one process at a time.
#[derive(Clone)]
pub struct FileStore {
    inner: Arc<Inner>,
}

struct Inner {
    file: Arc<Handle>,
    id: u64,
    history: Arc<History>,
    /// None only while the store is being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    /// Held by the leader of this process. Other processes cannot even open the file.
    leading: Arc<Mutex<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.history.close();
        // Ends the writer. It is waited for, so that the file can be opened again at once.
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl FileStore {
    /// Opens the file, or makes it. Blocks for up to a second when the file is in use.
    pub fn open(path: &Path) -> anyhow::Result<FileStore> {
        if path.as_os_str().is_empty() {
            bail!("--store file:PATH has no path")
        }
        let (db, id, revision) =
            open_guarded(path).with_context(|| format!("open the store's file {}", path.display()))?;
        let (file, history) = (path.to_path_buf(), Arc::new(History::new(revision)));
        let open = move || {
            let (db, found, revision) = open_guarded(&file)?;
            anyhow::ensure!(found == id, "it is another store now");
            Ok((db, revision))
        };
        let file = Arc::new(Handle::new(db, Arc::clone(&history), open));
        let (jobs, queue) = mpsc::channel(writer::QUEUE_MAX);
        let writer = Some(writer::start(Arc::clone(&file), queue, Arc::clone(&history))?);
        let leading = Arc::new(Mutex::new(()));
        Ok(FileStore { inner: Arc::new(Inner { file, id, history, jobs: Some(jobs), writer, leading }) })
    }

    /// Reads at one moment, off the async threads.
    async fn read<T: Send + 'static>(
        &self,
        what: String,
        read: impl FnOnce(&ReadTransaction) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let file = Arc::clone(&self.inner.file);
        tokio::task::spawn_blocking(move || read(&file.get()?.begin_read()?))
            .await
            .map_err(anyhow::Error::new)
            .and_then(|result| result)
            .map_err(|error| Error::Unavailable(error.context(what)))
    }

    /// See [`super::Store::list`].
    pub async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let (prefix, store_id) = (prefix.to_owned(), self.inner.id);
        self.read(format!("list {prefix:?}"), move |read| {
            let revision = read_revision(&read.open_table(META)?)?;
            let keys = read.open_table(KEYS)?;
            let mut items = Vec::new();
            for entry in keys.range(prefix.as_str()..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                items.push(key_value(key.value(), value.value()));
            }
            Ok(Listing { items, revision, store_id })
        })
        .await
    }

    /// See [`super::Store::get`].
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let key = key.to_owned();
        self.read(format!("get {key}"), move |read| {
            Ok(read.open_table(KEYS)?.get(key.as_str())?.map(|value| key_value(&key, value.value())))
        })
        .await
    }

    /// See [`super::Store::commit`].
    pub async fn commit(&self, txn: Txn) -> Result<i64, Error> {
        self.submit(txn, false).await
    }

    async fn submit(&self, txn: Txn, anew: bool) -> Result<i64, Error> {
        let gone = || Error::Unavailable(anyhow!("commit: the writer of the store's file has failed"));
        let (reply, answer) = oneshot::channel();
        let jobs = self.inner.jobs.as_ref().expect("there are jobs until the store is dropped");
        jobs.send(Job { txn, anew, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// See [`super::Store::watch`].
    pub async fn watch(&self, prefix: &str, revision: i64) -> Result<Watch, Error> {
        // The file and not the history is asked: it is the first to know a revision.
        let reached = self.read("watch".to_owned(), |read| read_revision(&read.open_table(META)?)).await?;
        if reached < revision {
            return Err(Error::Compacted(revision));
        }
        self.inner.history.watch(prefix, revision)
    }

    /// See [`super::Store::campaign`]. Within one process: the file's lock excludes all others, and
    /// a leader's key that is found was left by a process that is gone.
    pub async fn campaign(&self, candidate: &Candidate, _ttl: Duration) -> Result<Leadership, Error> {
        let value = serde_json::to_vec(candidate).context("write the candidate").map_err(Error::Unavailable)?;
        let seat = Arc::clone(&self.inner.leading).lock_owned().await;
        let put = Op::Put { key: LEADER_KEY.to_owned(), value };
        let created = self.submit(Txn { guards: Vec::new(), ops: vec![put] }, true).await?;
        let token = LeaderToken { created };
        let store = self.clone();
        Ok(Leadership::start(token.clone(), None, |upkeep| store.lead(token, seat, upkeep)))
    }

    /// Holds the seat until told to stop; then gives it up.
    async fn lead(self, token: LeaderToken, seat: OwnedMutexGuard<()>, upkeep: Upkeep) {
        let _ = upkeep.stop.await;
        upkeep.held.send_replace(false);
        let delete = Op::Delete { key: LEADER_KEY.to_owned() };
        let resigned = self.commit(Txn { guards: vec![Guard::Leader(token)], ops: vec![delete] }).await;
        if let Err(error) = resigned {
            tracing::debug!("the leader's key was not deleted: {error}");
        }
        drop(seat);
    }
}

/// The library trusts a file more than it should: damage may show as a panic, or as work without end.
/// The thread that is at it then is left to itself; the process has no use for the file.
fn open_guarded(path: &Path) -> anyhow::Result<(Database, u64, i64)> {
    let (done, opened) = std::sync::mpsc::sync_channel(1);
    let file = path.to_path_buf();
    std::thread::Builder::new()
        .name("store-opener".to_owned())
        .spawn(move || done.send(catch_unwind(AssertUnwindSafe(|| open_database(&file)))))
        .context("start a thread")?;
    match opened.recv_timeout(OPEN_PATIENCE) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(anyhow!("it is damaged: {}", panic_text(&*panic))),
        Err(_) => Err(anyhow!("it is damaged: checking it does not end within {OPEN_PATIENCE:?}")),
    }
}

/// The database with its id and revision.
fn open_database(path: &Path) -> anyhow::Result<(Database, u64, i64)> {
    // It holds what all passwords follow from. The library would make it as the umask says.
    crate::files::private_file(path)?;
    let mut db = lock_database(path)?;
    // Reads the whole file, which takes milliseconds: damage shows now, and not as a panic later.
    if !db.check_integrity()? {
        tracing::warn!("the store's file {} was damaged, and has been repaired", path.display());
    }
    let (id, revision) = writer::prepare(&db, FORMAT, rand::random())?;
    Ok((db, id, revision))
}

fn lock_database(path: &Path) -> anyhow::Result<Database> {
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        match Database::builder().set_cache_size(CACHE_BYTES).create(path) {
            Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < give_up => std::thread::sleep(LOCK_PAUSE),
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                bail!("it is in use by another process, and one at a time is allowed")
            }
            done => return Ok(done?),
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason is known").to_owned()
}

fn key_value(key: &str, (created, revision, value): (i64, i64, &[u8])) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_vec(), revision, created }
}
