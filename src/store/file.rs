//! The store in a file. I/O.
use super::{Candidate, Error, KeyValue, Leadership, Listing, Txn, Watch};
use std::time::Duration;

/// A file, held by one process at a time.
#[derive(Clone)]
pub struct FileStore {}

#[allow(missing_docs, unused, clippy::unused_async)]
impl FileStore {
    pub fn open(path: &std::path::Path) -> anyhow::Result<FileStore> {
        todo!()
    }
    pub async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        todo!()
    }
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        todo!()
    }
    pub async fn commit(&self, txn: Txn) -> Result<i64, Error> {
        todo!()
    }
    pub async fn watch(&self, prefix: &str, revision: i64) -> Result<Watch, Error> {
        todo!()
    }
    pub async fn campaign(&self, candidate: &Candidate, ttl: Duration) -> Result<Leadership, Error> {
        todo!()
    }
}
