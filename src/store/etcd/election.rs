//! Leadership in etcd: who creates the leader's key leads, for as long as its lease is kept alive. I/O.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use futures::StreamExt;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::EtcdStore;
use super::members::{Link, Members, Patience};
use crate::store::{
    Candidate, Change, Error, Guard, KeyValue, LEADER_KEY, LeaderToken, Leadership, Op, Process, Upkeep,
};

/// A standby looks at the leader's key this often even if its watch says nothing.
const RECHECK: Duration = Duration::from_secs(5);
/// And so often whether the leader's process, if it is of this machine, is gone.
const PROCESS_CHECK: Duration = Duration::from_millis(50);
/// Pause after a watch that failed or a renewal that failed, so that neither spins.
const PAUSE: Duration = Duration::from_millis(200);
/// The lease is renewed this many times in its life, so that one lost renewal costs nothing.
const RENEWALS: u32 = 3;
/// The part of the time to live by which we stop before etcd does: for acts under way, and for
/// clocks that do not run at the same speed. 0.5 s of 3 s.
const MARGIN_PART: u32 = 6;

/// Waits for the leader's key to be free, and takes it.
pub(super) async fn campaign(store: &EtcdStore, candidate: &Candidate, ttl: Duration) -> Result<Leadership, Error> {
    let value = serde_json::to_vec(candidate).context("write the candidate").map_err(Error::Unavailable)?;
    loop {
        wait_for_vacancy(store, candidate).await?;
        // Renewals must not wait behind a long list.
        let members = Arc::new(store.members.apart());
        let key = store.keys.full(LEADER_KEY);
        if let Some(seat) = Seat::take(members, key, &value, ttl).await? {
            let (token, proved) = (seat.token.clone(), seat.proved_until());
            return Ok(Leadership::start(token, Some(proved), |upkeep| seat.keep(upkeep)));
        }
    }
}

/// Returns when nobody leads. The candidate itself does not, whatever the key says: it has stepped down
/// while etcd was out of reach.
async fn wait_for_vacancy(store: &EtcdStore, candidate: &Candidate) -> Result<(), Error> {
    loop {
        let listing = store.list(LEADER_KEY).await?;
        let Some(leader) = listing.items.iter().find(|kv| kv.key == LEADER_KEY) else { return Ok(()) };
        let known = serde_json::from_slice::<Candidate>(&leader.value).ok();
        let is_ours = known.as_ref().is_some_and(|known| known.id == candidate.id);
        let process = known.and_then(|known| known.process);
        let is_gone = || is_ours || process.as_ref().is_some_and(Process::is_gone);
        if is_gone() && depose(store, leader).await? {
            return Ok(());
        }
        let mut watch = store.watch(LEADER_KEY, listing.revision).await?;
        let deleted = async {
            while let Some(Ok(changes)) = watch.next().await {
                if changes.changes.iter().any(|c| matches!(c, Change::Delete { key, .. } if key == LEADER_KEY)) {
                    return;
                }
            }
            sleep(PAUSE).await;
        };
        let gone = async {
            while !is_gone() {
                sleep(PROCESS_CHECK).await;
            }
        };
        // Whatever ended the wait, the key itself is looked at again.
        let _ = timeout(RECHECK, async {
            tokio::select! { () = deleted => {}, () = gone => {} }
        })
        .await;
    }
}

/// A leader that is proved to lead no more need not be waited for: a restarted operator is in charge at
/// once, and so is one that had lost its way to etcd. What it has sent and etcd has not done yet fails, as its key is another then.
async fn depose(store: &EtcdStore, leader: &KeyValue) -> Result<bool, Error> {
    let still_its = Guard::Revision { key: LEADER_KEY.to_string(), revision: leader.revision };
    let delete = Op::Delete { key: LEADER_KEY.to_string() };
    match store.commit(crate::store::Txn { guards: vec![still_its], ops: vec![delete] }).await {
        Ok(_) => {
            tracing::info!("the leader has stepped down, or its process is gone: its lease is not waited for");
            Ok(true)
        }
        Err(Error::Conflict(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a renewal found.
#[derive(PartialEq)]
enum Renewal {
    Alive,
    /// The lease or the key is gone, or the key is another's.
    Lost,
}

/// The leader's key, created by us and bound to our lease.
struct Seat {
    members: Arc<Members>,
    key: Vec<u8>,
    value: Vec<u8>,
    lease: i64,
    /// As etcd granted it: never less than was asked for.
    ttl: Duration,
    token: LeaderToken,
    /// When the last renewal that succeeded was sent.
    renewed: Instant,
}

impl Seat {
    /// Creates the key unless it exists.
    async fn take(members: Arc<Members>, key: Vec<u8>, value: &[u8], ttl: Duration) -> Result<Option<Seat>, Error> {
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let sent = Instant::now();
        // A lease that nobody uses lapses, so it may be asked for twice.
        let granted = members
            .call(Patience::READ, |member| async move { member.client().lease_client().grant(seconds, None).await })
            .await
            .map_err(|failure| failure.during("grant the leader's lease"))?;
        let lease = granted.id();
        let ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0));
        let request = Txn::new()
            .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.clone(), value, Some(PutOptions::new().with_lease(lease)))]);
        let answer = commit(&members, Patience::WRITE, request).await;
        let created = match &answer {
            Ok(answer) if answer.succeeded() => answer.header().map(etcd_client::ResponseHeader::revision),
            _ => None,
        };
        if let Some(created) = created {
            let token = LeaderToken { created };
            return Ok(Some(Seat { members, key, value: value.to_vec(), lease, ttl, token, renewed: sent }));
        }
        // Another one was first, or we cannot know: without its lease the key is free again.
        revoke(&members, lease).await;
        answer.map(|_| None).map_err(|failure| failure.during("take the leader's key"))
    }

    /// By our clock: before the lease can end in etcd.
    fn proved_until(&self) -> Instant {
        self.renewed + self.ttl - self.ttl / MARGIN_PART
    }

    /// Renews the lease until told to stop or until leadership is lost; then gives it up.
    async fn keep(mut self, mut upkeep: Upkeep) {
        let mut renew_at = self.renewed + self.ttl / RENEWALS;
        loop {
            let renewal = async {
                sleep_until(renew_at).await;
                (Instant::now(), self.renew().await)
            };
            tokio::select! {
                biased;
                _ = &mut upkeep.stop => {
                    tracing::info!("giving up leadership");
                    break;
                }
                () = sleep_until(self.proved_until()) => {
                    tracing::warn!("leadership could not be renewed in time: stepping down");
                    break;
                }
                (sent, renewed) = renewal => match renewed {
                    Ok(Renewal::Alive) => {
                        self.renewed = sent;
                        upkeep.proved_until.send_replace(Some(self.proved_until()));
                        renew_at = sent + self.ttl / RENEWALS;
                    }
                    Ok(Renewal::Lost) => {
                        tracing::warn!("the leader's key or its lease is gone: stepping down");
                        break;
                    }
                    Err(error) => {
                        tracing::warn!("leadership is not renewed yet: {error}");
                        renew_at = Instant::now() + PAUSE;
                    }
                },
            }
        }
        upkeep.held.send_replace(false);
        revoke(&self.members, self.lease).await;
    }

    async fn renew(&self) -> Result<Renewal, Error> {
        let lease = self.lease;
        let third = self.ttl / RENEWALS;
        let patience = Patience { attempt: third, total: 2 * third, repeatable: true };
        let kept = self
            .members
            .call(patience, |member| async move { member.client().lease_client().keep_alive(lease).await.map(|_| ()) });
        match kept.await {
            Ok(()) => self.look(patience).await,
            Err(failure) if failure.is_lease_gone() => Ok(Renewal::Lost),
            Err(failure) => Err(failure.during("renew the leader's lease")),
        }
    }

    /// Whether the key is still ours. One that was overwritten by hand has lost its lease and would
    /// outlive us: it is bound again.
    async fn look(&self, patience: Patience) -> Result<Renewal, Error> {
        let read = |member: Link| {
            let key = self.key.clone();
            async move { member.client().kv_client().get(key, None).await }
        };
        let answer = self.members.call(patience, read).await.map_err(|f| f.during("read the leader's key"))?;
        match answer.kvs().first() {
            Some(kv) if kv.create_revision() != self.token.created => Ok(Renewal::Lost),
            Some(kv) if kv.lease() == self.lease => Ok(Renewal::Alive),
            Some(_) => {
                let bound = PutOptions::new().with_lease(self.lease);
                let ours = Compare::create_revision(self.key.clone(), CompareOp::Equal, self.token.created);
                let put = TxnOp::put(self.key.clone(), self.value.clone(), Some(bound));
                let answer = commit(&self.members, patience, Txn::new().when([ours]).and_then([put])).await;
                let answer = answer.map_err(|f| f.during("bind the leader's key again"))?;
                Ok(if answer.succeeded() { Renewal::Alive } else { Renewal::Lost })
            }
            None => Ok(Renewal::Lost),
        }
    }
}

async fn commit(members: &Members, patience: Patience, txn: Txn) -> Result<etcd_client::TxnResponse, super::Failure> {
    let send = |member: Link| {
        let txn = txn.clone();
        async move { member.client().kv_client().txn(txn).await }
    };
    members.call(patience, send).await
}

/// Ends a lease, as well as can be done: if etcd does not answer, it lapses.
async fn revoke(members: &Members, lease: i64) {
    let send = |member: Link| async move { member.client().lease_client().revoke(lease).await };
    if let Err(failure) = members.call(Patience::READ, send).await {
        tracing::debug!("the leader's lease could not be ended, and lapses: {failure}");
    }
}
