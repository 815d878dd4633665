//! Which operators there are: each says so of itself in the store, and reads of the others. I/O.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tracing::debug;

use crate::board::{Board, Peer};
use crate::store::{Error, OPERATORS, Store, operator_key};

/// An operator that died is listed for so long.
const TTL: Duration = Duration::from_secs(5);
/// Between two tries to read.
const PAUSE: Duration = Duration::from_secs(2);

/// Announces this operator, and puts the others on the board; for ever.
pub async fn run(store: Store, me: Peer, board: Arc<Board>) {
    let value = serde_json::to_vec(&me).expect("strings are JSON");
    let key = operator_key(&me.id);
    tokio::join!(store.announce(&key, &value, TTL), follow(&store, &me, &board));
}

async fn follow(store: &Store, me: &Peer, board: &Board) {
    loop {
        if let Err(error) = read_on(store, me, board).await {
            debug!("the other operators: {error}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads, and reads again at every change, until the watch ends.
async fn read_on(store: &Store, me: &Peer, board: &Board) -> Result<(), Error> {
    let mut revision = read(store, me, board).await?;
    loop {
        let mut watch = store.watch(OPERATORS, revision).await?;
        match watch.next().await {
            Some(changes) => drop(changes?),
            None => return Ok(()),
        }
        revision = read(store, me, board).await?;
    }
}

async fn read(store: &Store, me: &Peer, board: &Board) -> Result<i64, Error> {
    let listing = store.list(OPERATORS).await?;
    let all = listing.items.iter().filter_map(|item| serde_json::from_slice::<Peer>(&item.value).ok());
    let others = all.filter(|peer| peer.id != me.id).collect();
    board.set_operator(|operator| operator.others = others);
    Ok(listing.revision)
}
