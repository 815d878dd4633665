//! A key that is there for as long as its writer lives. I/O.

use std::time::Duration;

use etcd_client::PutOptions;
use tokio::time::sleep;

use super::EtcdStore;
use super::failure::Failure;
use super::members::{Link, Patience};

/// The lease is renewed this many times in its life.
const RENEWALS: u32 = 3;
/// Between two tries to write the key.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the key, for ever; when etcd has lost it, or was away for longer than `ttl`, writes it again.
pub(super) async fn keep(store: &EtcdStore, key: &str, value: &[u8], ttl: Duration) {
    loop {
        match write(store, key, value, ttl).await {
            Ok(lease) => {
                while renew(store, lease, ttl).await.is_ok() {
                    sleep(ttl / RENEWALS).await;
                }
            }
            Err(failure) => {
                tracing::debug!("{key} is not written yet: {}", failure.during("write it"));
                sleep(PAUSE).await;
            }
        }
    }
}

async fn write(store: &EtcdStore, key: &str, value: &[u8], ttl: Duration) -> Result<i64, Failure> {
    let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
    let grant = |member: Link| async move { member.client().lease_client().grant(seconds, None).await };
    let lease = store.members.call(Patience::READ, grant).await?.id();
    let put = |member: Link| {
        let (key, value) = (store.keys.full(key), value.to_vec());
        async move { member.client().kv_client().put(key, value, Some(PutOptions::new().with_lease(lease))).await }
    };
    store.members.call(Patience::READ, put).await.map(|_| lease)
}

/// One renewal; an error when the lease is gone. That etcd does not answer is none: the lease may last.
async fn renew(store: &EtcdStore, lease: i64, ttl: Duration) -> Result<(), Failure> {
    let patience = Patience { attempt: ttl / RENEWALS, total: ttl / RENEWALS, repeatable: true };
    let send = |member: Link| async move { member.client().lease_client().keep_alive(lease).await.map(|_| ()) };
    match store.members.call(patience, send).await {
        Err(failure) if failure.is_lease_gone() => Err(failure),
        _ => Ok(()),
    }
}
