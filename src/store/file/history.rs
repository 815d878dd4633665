//! What was committed lately: feeds the watches of the file store. I/O.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::anyhow;
use futures::StreamExt;
use tokio::sync::watch;

use crate::store::{Change, Changes, Error, Watch};

/// Bytes of keys and values that are kept for watches that lag or begin in the past. A watch that
/// wants more lists again: a few thousand statuses fit.
const BYTES_MAX: usize = 4 << 20;
/// Transactions that are kept: small ones have a cost of their own.
const TXNS_MAX: usize = 4096;
/// Transactions that one item of a watch may hold.
const BATCH_TXNS: usize = 256;

/// A bounded log of the newest transactions.
pub(super) struct History {
    log: Mutex<Log>,
    /// The newest revision, for those who wait; none when the store has been closed.
    head: watch::Sender<Option<i64>>,
}

struct Log {
    /// In the order of their revisions.
    txns: VecDeque<Changes>,
    bytes: usize,
    /// Every later revision is in the log.
    floor: i64,
}

impl History {
    pub(super) fn new(revision: i64) -> History {
        let log = Log { txns: VecDeque::new(), bytes: 0, floor: revision };
        History { log: Mutex::new(log), head: watch::Sender::new(Some(revision)) }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds committed transactions.
    pub(super) fn push(&self, txns: Vec<Changes>) {
        let Some(newest) = txns.last().map(|txn| txn.revision) else { return };
        let mut log = self.log();
        for txn in txns {
            log.bytes += size(&txn);
            log.txns.push_back(txn);
        }
        while log.bytes > BYTES_MAX || log.txns.len() > TXNS_MAX {
            let Some(oldest) = log.txns.pop_front() else { break };
            log.bytes -= size(&oldest);
            log.floor = oldest.revision;
        }
        drop(log);
        self.head.send_replace(Some(newest));
    }

    /// The file was opened again, and is at this revision: watches that miss something list again.
    pub(super) fn resume(&self, revision: i64) {
        let mut log = self.log();
        if log.txns.back().map_or(log.floor, |txn| txn.revision) == revision {
            return;
        }
        log.txns.clear();
        (log.bytes, log.floor) = (0, revision);
        drop(log);
        self.head.send_replace(Some(revision));
    }

    /// Ends all watches.
    pub(super) fn close(&self) {
        self.head.send_replace(None);
    }

    /// What came after `seen`: the changes of keys with that prefix, up to a revision.
    fn after(&self, prefix: &str, seen: i64) -> Result<Changes, Error> {
        let log = self.log();
        if seen < log.floor {
            return Err(Error::Compacted(seen));
        }
        let start = log.txns.partition_point(|txn| txn.revision <= seen);
        let mut found = Changes { changes: Vec::new(), revision: seen };
        for txn in log.txns.iter().skip(start).take(BATCH_TXNS) {
            found.changes.extend(txn.changes.iter().filter(|change| key(change).starts_with(prefix)).cloned());
            found.revision = txn.revision;
        }
        Ok(found)
    }

    /// A watch that begins after `revision`.
    pub(super) fn watch(self: &Arc<Self>, prefix: &str, revision: i64) -> Result<Watch, Error> {
        self.after(prefix, revision)?;
        let reader = Reader {
            history: Arc::clone(self),
            head: self.head.subscribe(),
            prefix: prefix.to_owned(),
            seen: revision,
        };
        Ok(futures::stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(changes) => Some((Ok(changes), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed())
    }
}

/// One watch.
struct Reader {
    history: Arc<History>,
    head: watch::Receiver<Option<i64>>,
    prefix: String,
    seen: i64,
}

impl Reader {
    async fn next(&mut self) -> Result<Changes, Error> {
        loop {
            // Before the look into the log: what comes after it wakes us.
            let closed = self.head.borrow_and_update().is_none();
            let found = self.history.after(&self.prefix, self.seen)?;
            let nothing_new = found.revision == self.seen;
            self.seen = found.revision;
            if !found.changes.is_empty() {
                return Ok(found);
            }
            if closed {
                return Err(Error::Unavailable(anyhow!("watch: the store was closed")));
            }
            if nothing_new {
                self.head.changed().await.expect("we hold the sender, in the history");
            }
        }
    }
}

fn key(change: &Change) -> &str {
    match change {
        Change::Put(kv) => &kv.key,
        Change::Delete { key, .. } => key,
    }
}

fn size(txn: &Changes) -> usize {
    let value = |change: &Change| match change {
        Change::Put(kv) => kv.value.len(),
        Change::Delete { .. } => 0,
    };
    txn.changes.iter().map(|change| key(change).len() + value(change)).sum()
}
