//! Lists the store, then watches it, for ever: the truth, then its changes. I/O.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Notify, mpsc};

use crate::offload::elsewhere;
use crate::reconcile::documents::read_documents;
use crate::reconcile::execute::Input;
use crate::reconcile::world::Event;
use crate::store::{Change, Changes, Error, Listing, Store};

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
    if !tell_list(out, listing).await {
        return Ok(());
    }
    loop {
        tokio::select! {
            () = relist.notified() => return Ok(()),
            changes = watch.next() => match changes {
                Some(Ok(changes)) => {
                    if !tell_changes(out, changes).await {
                        return Ok(());
                    }
                }
                Some(Err(Error::Compacted(_))) | None => return Ok(()),
                Some(Err(error)) => return Err(error),
            }
        }
    }
}

/// Tells a list, its documents read; false: nobody listens.
async fn tell_list(out: &mpsc::Sender<Input>, listing: Listing) -> bool {
    let read = move || (read_documents(listing.items.iter()), listing);
    let (documents, listing) = elsewhere(read).await;
    tell(out, Event::Read(documents)).await && tell(out, Event::Listed(listing)).await
}

/// The same of changes: few of them have documents.
async fn tell_changes(out: &mpsc::Sender<Input>, changes: Changes) -> bool {
    let put = |change: &Change| matches!(change, Change::Put(item) if item.key.starts_with("instances/"));
    if !changes.changes.iter().any(put) {
        return tell(out, Event::Changed(changes)).await;
    }
    let read = move || {
        let items = changes.changes.iter().filter_map(|change| match change {
            Change::Put(item) => Some(item),
            Change::Delete { .. } => None,
        });
        (read_documents(items), changes)
    };
    let (documents, changes) = elsewhere(read).await;
    tell(out, Event::Read(documents)).await && tell(out, Event::Changed(changes)).await
}

async fn tell(out: &mpsc::Sender<Input>, event: Event) -> bool {
    out.send(Input::Event(event)).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Op, Txn, instance_key};

    /// The names of the documents that were read before the list or the changes that bring them.
    async fn read_before(inputs: &mut mpsc::Receiver<Input>) -> Vec<String> {
        let mut keys = Vec::new();
        loop {
            match tokio::time::timeout(Duration::from_secs(20), inputs.recv()).await.expect("it comes") {
                Some(Input::Event(Event::Read(documents))) => keys.extend(documents.into_iter().map(|read| read.key)),
                Some(Input::Event(Event::Listed(_) | Event::Changed(_))) => return keys,
                _ => panic!("the store tells no more"),
            }
        }
    }

    #[tokio::test]
    async fn documents_are_read_before_the_leader_hears_of_them_in_lists_and_in_changes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file:{}", folder.path().join("store").display())).await.unwrap();
        let put = |name: &str| Op::Put { key: instance_key(name), value: b"a: b".to_vec() };
        let commit = async |ops| store.commit(Txn { guards: Vec::new(), ops }).await.unwrap();
        commit(vec![put("a"), put("a\u{1b}[2J"), Op::Put { key: "requests/a/delete".into(), value: b"x".to_vec() }])
            .await;
        let (out, mut inputs) = mpsc::channel(10);
        let reflecting = tokio::spawn(reflect(store.clone(), out, Arc::default()));
        assert_eq!(read_before(&mut inputs).await, ["instances/a"]);
        commit(vec![put("b")]).await;
        assert_eq!(read_before(&mut inputs).await, ["instances/b"]);
        commit(vec![Op::Delete { key: instance_key("b") }]).await;
        assert!(read_before(&mut inputs).await.is_empty());
        reflecting.abort();
    }
}
