//! Watching keys in etcd: a stream of changes that ends with an error, never in silence. I/O.
//!
//! Each watch has a connection of its own, so that a slow reader holds up nobody else. When nothing
//! happens for a while the server is asked for its progress: a frozen server does not answer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};
use futures::StreamExt;
use tokio::time::{Instant, sleep_until};

use super::members::{Members, Patience};
use super::{DECODE_MAX, Keys};
use crate::store::{Change, Changes, Error, Watch};

/// Quiet after which the server is asked for a sign of life. With [`ANSWER_MAX`] it bounds the time
/// until a frozen server is noticed (3.5 s); each watch costs etcd a small message in this time.
const QUIET: Duration = Duration::from_millis(1500);
/// How long the server may take for its answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// One watch.
struct Tail {
    keys: Keys,
    /// The revision up to which everything has been seen.
    seen: i64,
    stream: WatchStream,
    members: Arc<Members>,
    /// Keeps the connection.
    _client: Client,
    /// When to ask, or when to give up if it has been asked.
    due: Instant,
    asked: bool,
}

/// Watches keys that start with `prefix`, after `revision`.
pub(super) async fn open(members: &Arc<Members>, keys: Keys, prefix: &str, revision: i64) -> Result<Watch, Error> {
    let (from, to) = keys.range(prefix);
    let options = WatchOptions::new().with_range(to).with_start_revision(revision + 1);
    let (client, stream, created) = members
        .call(Patience::READ, |member| {
            let (from, options) = (from.clone(), options.clone());
            async move {
                let client = member.dial().await?;
                let mut stream =
                    client.watch_client().max_decoding_message_size(DECODE_MAX).watch(from, Some(options)).await?;
                let created = stream.message().await?;
                Ok((client, stream, created))
            }
        })
        .await
        .map_err(|failure| failure.during(&format!("watch {prefix:?}")))?;

    // The same member answered the list, so it has reached that revision, unless it was rolled back.
    let reached = created.as_ref().and_then(WatchResponse::header).map_or(0, etcd_client::ResponseHeader::revision);
    if reached < revision {
        return Err(Error::Compacted(revision));
    }
    let due = Instant::now() + QUIET;
    let mut tail = Tail { keys, seen: revision, stream, members: members.clone(), _client: client, due, asked: false };
    // A watch may be refused at once.
    let first = created.and_then(|message| tail.read(&message).transpose());
    if let Some(Err(error)) = first {
        return Err(error);
    }
    Ok(futures::stream::unfold(Some(tail), |tail| async {
        let mut tail = tail?;
        match tail.next().await {
            Ok(changes) => Some((Ok(changes), Some(tail))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed())
}

impl Tail {
    async fn next(&mut self) -> Result<Changes, Error> {
        loop {
            tokio::select! {
                // First, so that an answer that came while nobody was reading counts.
                biased;
                message = self.stream.message() => {
                    let message = message
                        .map_err(|error| broken(&self.members.explain(&error)))?
                        .ok_or_else(|| broken("the server ended the watch"))?;
                    self.due = Instant::now() + QUIET;
                    self.asked = false;
                    if let Some(changes) = self.read(&message)? {
                        return Ok(changes);
                    }
                }
                () = sleep_until(self.due) => {
                    if self.asked {
                        return Err(broken(&format!("no sign of life within {} s", ANSWER_MAX.as_secs())));
                    }
                    self.stream.request_progress().await.map_err(|error| broken(&self.members.explain(&error)))?;
                    self.due = Instant::now() + ANSWER_MAX;
                    self.asked = true;
                }
            }
        }
    }

    /// The changes in a message; none in those that only say that the watch is there, or alive.
    ///
    /// The revision in the header of a message is not used: it can be ahead of the events that were
    /// delivered.
    fn read(&mut self, message: &WatchResponse) -> Result<Option<Changes>, Error> {
        if message.compact_revision() > 0 {
            return Err(Error::Compacted(self.seen));
        }
        if message.canceled() {
            return Err(broken(&format!("the server ended the watch: {}", message.cancel_reason())));
        }
        let mut changes = Vec::with_capacity(message.events().len());
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            self.seen = self.seen.max(kv.mod_revision());
            changes.extend(self.keys.read(kv.clone()).map(|kv| match event.event_type() {
                EventType::Put => Change::Put(kv),
                EventType::Delete => Change::Delete { key: kv.key, revision: kv.revision },
            }));
        }
        Ok((!changes.is_empty()).then_some(Changes { changes, revision: self.seen }))
    }
}

fn broken(why: &str) -> Error {
    Error::Unavailable(anyhow!("{why}").context("watch"))
}
