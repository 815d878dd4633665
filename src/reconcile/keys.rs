//! The key that all passwords follow from: found in the store, made once. I/O.

use anyhow::{Context as _, Result};
use tracing::info;

use crate::model::InstanceRecord;
use crate::passwords::{KEY_BYTES, Key};
use crate::store::{self, Guard, Leadership, Op, SECRET_KEY, Store, Txn};

/// The key that the store has.
pub async fn find(store: &Store) -> Result<Option<Key>> {
    let Some(item) = store.get(SECRET_KEY).await.context("read the key of passwords")? else { return Ok(None) };
    let key = std::str::from_utf8(&item.value).ok().and_then(Key::from_text);
    key.map(Some).with_context(|| format!("{SECRET_KEY} in the store is no key"))
}

/// The same, and a new one where there is none yet. `Err`: nodes have passwords, and the store has lost the
/// key that they follow from.
pub async fn find_or_make(store: &Store, leadership: &Leadership) -> Result<Result<Key, String>> {
    if let Some(key) = find(store).await? {
        return Ok(Ok(key));
    }
    let records = store.list("state/").await.context("list instances")?.items;
    let with_passwords = records
        .iter()
        .filter(|item| serde_json::from_slice::<InstanceRecord>(&item.value).is_ok_and(|record| record.auth.is_some()));
    let with_passwords = with_passwords.count();
    if with_passwords > 0 {
        return Ok(Err(format!(
            "{with_passwords} instances have passwords, and the store has lost {SECRET_KEY}, from which they follow: \
             restore it"
        )));
    }
    let key = Key::new(rand::random::<[u8; KEY_BYTES]>());
    let txn = Txn {
        guards: vec![
            Guard::Leader(leadership.token.clone()),
            Guard::Revision { key: SECRET_KEY.to_string(), revision: 0 },
        ],
        ops: vec![Op::Put { key: SECRET_KEY.to_string(), value: key.to_text().into_bytes() }],
    };
    match store.commit(txn).await {
        Ok(_) => {
            info!("made the key that passwords follow from");
            Ok(Ok(key))
        }
        Err(error @ store::Error::Conflict(_)) => Err(error).context("another has made the key meanwhile"),
        Err(error) => Err(error).context("record the key of passwords"),
    }
}
