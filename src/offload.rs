//! Reading that takes long, away from the threads that lead. I/O.
//!
//! A text of a caller, or of the store, may be made so that reading it takes as long as its bounds allow.
//! Whoever waits for it waits alone.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Texts of callers that are read at once: the others wait, and the rest of the machine is left to leading.
const READ_AT_ONCE: usize = 2;
/// How long a caller waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(10);

static TURNS: Semaphore = Semaphore::const_new(READ_AT_ONCE);

/// Does the work on a thread of its own.
pub async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()), // It is never aborted.
    }
}

/// The same for a caller of the API, one after another; none: there were too many before it.
pub async fn in_turn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let turn = timeout(TURN_WAIT, TURNS.acquire()).await.ok()?.ok()?;
    // The work goes on when the caller has gone away, and its turn with it.
    Some(
        elsewhere(move || {
            let done = work();
            drop(turn);
            done
        })
        .await,
    )
}
