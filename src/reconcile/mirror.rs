//! What a standby shows of the store: all that it says, unless it has gone back. Pure.
//!
//! A store that was restored from a backup names masters of before. The leader that was there freezes, and writes
//! nothing; who stands by keeps what it knew, and says that it is old, until somebody leads by the restored store who
//! knows of nothing else: an operator that people have started since. Until then whoever was there leads frozen.

use crate::model::Timestamp;
use crate::reconcile::leaving::LeavingAgents;
use crate::reconcile::world::{Dirty, Event, Seen, World};
use crate::store::{Candidate, Change, LEADER_KEY, Listing};

/// The store, as a standby has read it.
#[derive(Default)]
pub struct Mirror {
    /// What it says.
    pub world: World,
    gone_back: bool,
}

/// What became of an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Mirrored {
    /// To be shown; `leader`: who leads may have changed.
    Shown {
        /// What has changed.
        dirty: Dirty,
        /// Whether the leader is to be looked up.
        leader: bool,
    },
    /// The store has gone back, for this reason: what is shown is old.
    Old(Option<String>),
    /// Somebody leads by what the store says now: it is to be listed again.
    ListAgain,
}

impl Mirror {
    /// Knows nothing yet but what this process has seen of the store.
    pub fn new(seen: Seen) -> Mirror {
        let gone_back = seen.unsound.is_some();
        Mirror { world: World::resuming(seen, None, LeavingAgents::default()), gone_back }
    }

    /// Takes what the store says.
    pub fn apply(&mut self, event: Event, now: Timestamp) -> Mirrored {
        let mut leader = false;
        match &event {
            Event::Listed(listing) => {
                let why = self.goes_back(listing).filter(|_| !self.gone_back);
                if self.gone_back || why.is_some() {
                    self.gone_back = true;
                    return Mirrored::Old(why);
                }
                // It judges nothing: it shows whatever the store says.
                self.world = std::mem::take(&mut self.world).afresh();
                leader = true;
            }
            Event::Changed(changes) => {
                let sound = |candidate: Candidate| !candidate.frozen;
                let leads = |change: &Change| match change {
                    Change::Put(item) if item.key == LEADER_KEY => serde_json::from_slice(&item.value).is_ok_and(sound),
                    _ => false,
                };
                if self.gone_back && changes.changes.iter().any(leads) {
                    *self = Mirror::default(); // Whichever is listed next is the one.
                    return Mirrored::ListAgain;
                }
                if self.gone_back {
                    return Mirrored::Old(None);
                }
            }
            _ => {}
        }
        leader |= self.world.takes_deletions_for_granted(&event);
        Mirrored::Shown { dirty: self.world.apply(event, now), leader }
    }

    fn goes_back(&self, listing: &Listing) -> Option<String> {
        let (id, revision) = self.world.seen().store?;
        let (now, other) = (listing.revision, listing.store_id != id);
        let what = if other { "is another one".to_string() } else { format!("has gone back to revision {now}") };
        (other || now < revision).then(|| {
            format!(
                "the store {what} from {revision}: what is shown is of before, and nothing is done by it. Restart the \
                 operators when the store is sound"
            )
        })
    }
}
