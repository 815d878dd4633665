//! The open file, which is opened again after an error of the disk. I/O.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use redb::Database;

use super::history::History;

/// After an error of the disk, a full one say, the library does nothing more with an open file: it
/// must be closed, and opened again.
pub(super) struct Handle {
    /// None: it has failed.
    db: Mutex<Option<Arc<Database>>>,
    /// Opens the same file again; answers its revision, too.
    open: Box<dyn Fn() -> Result<(Database, i64)> + Send + Sync>,
    history: Arc<History>,
}

impl Handle {
    /// Opens the file.
    pub fn new(
        db: Database,
        history: Arc<History>,
        open: impl Fn() -> Result<(Database, i64)> + Send + Sync + 'static,
    ) -> Handle {
        Handle { db: Mutex::new(Some(Arc::new(db))), open: Box::new(open), history }
    }

    /// The database, opened again if it has failed.
    pub fn get(&self) -> Result<Arc<Database>> {
        let mut db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(db) = &*db {
            return Ok(Arc::clone(db));
        }
        let (opened, revision) = (self.open)().context("open the store's file again after an error")?;
        // What failed may be done all the same: then whoever watches lists again.
        self.history.resume(revision);
        Ok(Arc::clone(db.insert(Arc::new(opened))))
    }

    /// It has failed: it is opened again for whoever wants it next.
    pub fn give_up(&self) {
        *self.db.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
