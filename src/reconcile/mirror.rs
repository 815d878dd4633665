//! What a standby shows of the store: all that it says, unless it has gone back. Pure.
//!
//! A store that was restored from a backup names masters of before. The leader that was there freezes, and writes
//! nothing; who stands by keeps what it knew, and says that it is old, until somebody leads by the restored store.

use crate::model::Timestamp;
use crate::reconcile::world::{Dirty, Event, World};
use crate::store::{Change, LEADER_KEY, Listing};

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
    /// Takes what the store says.
    pub fn apply(&mut self, event: Event, now: Timestamp) -> Mirrored {
        let mut leader = false;
        match &event {
            Event::Listed(listing) => {
                if let Some(why) = self.goes_back(listing) {
                    let news = !std::mem::replace(&mut self.gone_back, true);
                    return Mirrored::Old(news.then_some(why));
                }
                self.gone_back = false;
                // It judges nothing: it shows whatever the store says.
                self.world = std::mem::take(&mut self.world).afresh();
                leader = true;
            }
            Event::Changed(changes) => {
                let leads = |change: &Change| matches!(change, Change::Put(item) if item.key == LEADER_KEY);
                if self.gone_back && changes.changes.iter().any(leads) {
                    self.world.store_id = None; // Whichever is listed next is the one.
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
        let (id, revision) = self.world.seen()?;
        let (now, other) = (listing.revision, listing.store_id != id);
        let what = if other { "is another one".to_string() } else { format!("has gone back to revision {now}") };
        (other || now < revision).then(|| {
            format!("the store {what} from {revision}: what is shown is of before, until an operator leads by it")
        })
    }
}
