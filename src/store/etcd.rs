//! The store on etcd v3. I/O.
use super::{Candidate, Error, KeyValue, Leadership, Listing, Txn, Watch};
use std::time::Duration;

/// etcd v3, below a key prefix.
#[derive(Clone)]
pub struct EtcdStore {}

#[allow(missing_docs, unused, clippy::unused_async)]
impl EtcdStore {
    pub async fn open(rest: &str) -> anyhow::Result<EtcdStore> {
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
