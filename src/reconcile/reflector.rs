//! Lists the store, then watches it, for ever: the truth, then its changes. I/O.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Notify, mpsc};

use crate::reconcile::execute::Input;
use crate::reconcile::world::Event;
use crate::store::{Error, Store};

/// The first pause after an error, and the longest.
const PAUSE_MS: (u64, u64) = (100, 2000);

/// Tells everything in the store, and then every change, until nobody listens. `relist` makes it
/// start over: for when somebody does not know whether a write was done.
pub async fn reflect(store: Store, out: mpsc::Sender<Input>, relist: Arc<Notify>) {
    let mut pause_ms = PAUSE_MS.0;
    while !out.is_closed() {
        match follow(&store, &out, &relist, &mut pause_ms).await {
            Ok(()) => {}
            Err(error) => {
                if out.send(Input::StoreLost(error.to_string())).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                pause_ms = (pause_ms * 2).min(PAUSE_MS.1);
            }
        }
    }
}

async fn follow(store: &Store, out: &mpsc::Sender<Input>, relist: &Notify, pause_ms: &mut u64) -> Result<(), Error> {
    let listing = store.list("").await?;
    let mut watch = store.watch("", listing.revision).await?;
    *pause_ms = PAUSE_MS.0;
    if out.send(Input::Event(Event::Listed(listing))).await.is_err() {
        return Ok(());
    }
    loop {
        tokio::select! {
            () = relist.notified() => return Ok(()),
            changes = watch.next() => match changes {
                Some(Ok(changes)) => {
                    if out.send(Input::Event(Event::Changed(changes))).await.is_err() {
                        return Ok(());
                    }
                }
                Some(Err(Error::Compacted(_))) | None => return Ok(()),
                Some(Err(error)) => return Err(error),
            }
        }
    }
}
