//! The framework id: who we are to Mesos, found in the store and recorded before anything is done. I/O.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tracing::{info, warn};

use crate::mesos;
use crate::plain::plain;
use crate::store::{self, FRAMEWORK_KEY, Guard, Leadership, Op, Store, Txn};

/// Between two tries to record the framework id; nothing else can be done meanwhile.
const RETRY: Duration = Duration::from_millis(500);

/// What stands before the id of a framework that is given up: a new one is to begin.
pub const RESET: &str = "reset:";

/// Letters of the master's words that are repeated.
const WORDS_MAX: usize = 200;

/// Whether the master's words say that the framework is over: it was torn down, or no operator was
/// connected for its failover timeout.
pub fn removed(message: &str) -> bool {
    message.contains("Framework has been removed")
}

/// What the end of the session means, and the way out.
pub fn ended(message: &str, framework_id: &str) -> String {
    if removed(message) {
        return format!(
            "Mesos has removed framework {framework_id} (it was torn down, or no operator was connected for \
             --failover-timeout) and kills all its tasks; on agents that Mesos does not see they may live. `redisctl \
             framework` shows what is left, and `redisctl framework reset --yes {framework_id}` begins again under a new \
             id: documents stay, and of each instance that has lost its data its `onDataLoss` decides"
        );
    }
    let message = plain(message, WORDS_MAX);
    format!(
        "another process has subscribed to Mesos as framework {framework_id}, with a copy of this store or an address of \
         its own for it, and is in charge ({message}). End one of the two, then restart this operator"
    )
}

/// The framework id that the store has; none: a new framework is registered. `Err`: the store has lost
/// something, and nothing may be done.
pub async fn find(store: &Store, settings: &mesos::Settings) -> Result<Result<Option<String>, String>> {
    if let Some(item) = store.get(FRAMEWORK_KEY).await.context("read the framework id")? {
        let id = String::from_utf8(item.value).context("the framework id is not text")?;
        return Ok(match id.strip_prefix(RESET) {
            Some(former) => still_over(settings, former).await.map(|()| None),
            None => Ok(Some(id)),
        });
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
                    "the store is empty, but Mesos runs {} tasks of framework {} ({}): if the store was lost, or --store names another one than before, restore it; a second installation beside another needs a --framework-name of its own. (To tear that framework down ends its tasks, with all their data)",
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

/// A reset was asked for: nothing of the former framework runs, as far as Mesos knows.
async fn still_over(settings: &mesos::Settings, former: &str) -> Result<(), String> {
    let doubt = |why: String| format!("framework {former} is to be given up, but {why}");
    let life =
        mesos::life(settings, former).await.map_err(|error| doubt(format!("Mesos does not answer: {error:#}")))?;
    if life.standing == mesos::Standing::Registered || !life.running.is_empty() {
        return Err(doubt(format!("Mesos has it, with tasks that run: {:?}", life.running)));
    }
    Ok(())
}

/// Records the id of a new framework; `false`: not yet, try again.
pub async fn record(store: &Store, leadership: &Leadership, id: &str) -> Result<bool> {
    let stored = store.get(FRAMEWORK_KEY).await;
    // One that is given up makes room.
    let given_up = stored.ok().flatten().filter(|item| item.value.starts_with(RESET.as_bytes()));
    let revision = given_up.map_or(0, |item| item.revision);
    let txn = Txn {
        guards: vec![
            Guard::Leader(leadership.token.clone()),
            Guard::Revision { key: FRAMEWORK_KEY.to_string(), revision },
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
