//! The framework id: who we are to Mesos, found in the store and recorded before anything is done. I/O.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tracing::{info, warn};

use crate::mesos;
use crate::store::{self, FRAMEWORK_KEY, Guard, Leadership, Op, Store, Txn};

/// Between two tries to record the framework id; nothing else can be done meanwhile.
const RETRY: Duration = Duration::from_millis(500);

/// The framework id that the store has; none: a new framework is registered. `Err`: the store has lost
/// something, and nothing may be done.
pub async fn find(store: &Store, settings: &mesos::Settings) -> Result<Result<Option<String>, String>> {
    if let Some(item) = store.get(FRAMEWORK_KEY).await.context("read the framework id")? {
        return Ok(Ok(Some(String::from_utf8(item.value).context("the framework id is not text")?)));
    }
    let records = store.list("nodes/").await.context("list records")?.items.len();
    if records > 0 {
        return Ok(Err(format!(
            "the store has records of {records} nodes, but no framework id: it has lost {FRAMEWORK_KEY}"
        )));
    }
    match mesos::frameworks(settings).await {
        Ok(frameworks) => {
            let ours = frameworks.iter().find(|f| {
                f.name == settings.name
                    && settings.roles.iter().any(|role| f.roles.contains(role))
                    && !f.tasks.is_empty()
            });
            Ok(ours.map_or(Ok(None), |f| {
                Err(format!(
                    "the store is empty, but Mesos runs {} tasks of framework {} ({}): the store was lost, or --store names another one. Restore it, or tear that framework down",
                    f.tasks.len(), f.id, f.name
                ))
            }))
        }
        Err(error) => {
            // Mesos may hide frameworks from us, or be away; then it is asked again by subscribing.
            warn!("ask Mesos for frameworks of ours: {error:#}");
            Ok(Ok(None))
        }
    }
}

/// Records the id of a new framework; `false`: not yet, try again.
pub async fn record(store: &Store, leadership: &Leadership, id: &str) -> Result<bool> {
    let txn = Txn {
        guards: vec![
            Guard::Leader(leadership.token.clone()),
            Guard::Revision { key: FRAMEWORK_KEY.to_string(), revision: 0 },
        ],
        ops: vec![Op::Put { key: FRAMEWORK_KEY.to_string(), value: id.as_bytes().to_vec() }],
    };
    match store.commit(txn).await {
        Ok(_) => {
            info!(framework_id = id, "recorded the framework id");
            Ok(true)
        }
        Err(error @ store::Error::Conflict(_)) => bail!("record the framework id {id}: {error}"),
        Err(error) => {
            warn!("record the framework id {id}: {error}; trying again");
            tokio::time::sleep(RETRY).await;
            Ok(false)
        }
    }
}
