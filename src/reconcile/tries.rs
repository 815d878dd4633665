//! What was tried at a node and did not succeed, and what is under way there. Pure.
//!
//! Backoff is that of one node and one kind of step: the plan reads it, and goes on with everything
//! else. Whatever is not urgent is carried out apart from its pass, which ends without it.

use std::collections::BTreeMap;

use crate::failover::redis::MASTER_PASSWORD;
use crate::model::Timestamp;
use crate::reconcile::world::{Dirty, Done, Note, World};

/// The first backoff after a failed step, and the longest, in milliseconds: nobody else waits for it, and
/// one connection for each is cheap.
const BACKOFF_MS: (u64, u64) = (100, 1000);
/// The same for settings: nothing hangs on them.
const SETTINGS_BACKOFF_MS: (u64, u64) = (500, 5000);
/// A failure of before that is forgotten: what is tried then is tried for the first time.
const FORGET_MS: u64 = 30_000;
/// Settings of our own that were refused are tried again after this time.
const OWNED_AGAIN_MS: u64 = 30_000;
/// What is under way for longer is told: a node that hangs takes its time.
const TELL_AFTER_MS: u64 = 500;

/// The kind of step by which settings are made.
pub const CONFIGURE: &str = "configure";

/// The kind of step by which replicas that are not ours are cut.
pub const CUT_FOREIGN: &str = "cutForeign";
/// After others were cut from a master, it is asked often for so long, and who is there again has come again.
pub const WATCH_FOREIGN_MS: u64 = 60_000;
/// The kind of step by which room is made for replicas.
pub const MAKE_ROOM: &str = "makeRoom";
/// The kind of step by which a client's script is ended.
pub const END_SCRIPT: &str = "endScript";

/// A setting that Redis does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name.
    pub name: String,
    /// The value.
    pub value: String,
    /// Redis' own words.
    pub words: String,
}

/// What came of settings that were to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Those that the node has now.
    pub set: Vec<(String, String)>,
    /// Those that it does not take.
    pub refused: Vec<Refusal>,
    /// Why the others were not tried.
    pub failed: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Failed {
    at: Timestamp,
    delay_ms: u64,
    why: String,
}

/// What was tried at a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    failed: BTreeMap<&'static str, Failed>,
    under_way: BTreeMap<&'static str, Timestamp>,
    did: BTreeMap<&'static str, Timestamp>,
    refused: BTreeMap<String, (Refusal, Timestamp)>,
}

/// Whether a step is to be taken now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Now; and why the one before failed, if that was not long ago.
    Now(Option<String>),
    /// It is under way: look again then, if nothing comes of it; set: for long already.
    UnderWay(Option<Timestamp>),
    /// Not before then: it has failed, for this reason.
    Later(Timestamp, String),
}

impl Tries {
    /// Whether a step of that kind is to be taken now.
    pub fn turn(&self, kind: &'static str, now: Timestamp) -> Turn {
        if let Some(since) = self.under_way.get(kind) {
            let told_at = since.plus_ms(TELL_AFTER_MS);
            return Turn::UnderWay((told_at > now).then_some(told_at));
        }
        match self.failed.get(kind).filter(|failed| now.since_ms(failed.at) < FORGET_MS) {
            None => Turn::Now(None),
            Some(failed) if failed.at.plus_ms(failed.delay_ms) > now => {
                Turn::Later(failed.at.plus_ms(failed.delay_ms), failed.why.clone())
            }
            Some(failed) => Turn::Now(Some(failed.why.clone())),
        }
    }

    /// A step of that kind has begun, and its pass does not wait for it.
    pub fn begin(&mut self, kind: &'static str, now: Timestamp) {
        self.under_way.insert(kind, now);
    }

    /// It was not begun after all.
    pub fn leave(&mut self, kind: &'static str) {
        self.under_way.remove(kind);
    }

    /// A step of that kind has ended, and what it cuts comes again as it likes.
    pub fn did(&mut self, kind: &'static str, now: Timestamp) {
        self.under_way.remove(kind);
        self.did.insert(kind, now);
    }

    /// When the last step of that kind ended.
    pub fn last(&self, kind: &'static str) -> Option<Timestamp> {
        self.did.get(kind).copied()
    }

    /// A step of that kind has failed.
    pub fn fail(&mut self, kind: &'static str, why: String, now: Timestamp) {
        self.under_way.remove(kind);
        let (first, longest) = if kind == CONFIGURE { SETTINGS_BACKOFF_MS } else { BACKOFF_MS };
        let known = self.failed.get(kind).filter(|known| now.since_ms(known.at) < FORGET_MS);
        let delay_ms = known.map_or(first, |known| (known.delay_ms * 2).min(longest));
        self.failed.insert(kind, Failed { at: now, delay_ms, why });
    }

    /// Settings were made, or not.
    pub fn applied(&mut self, applied: &Applied, now: Timestamp) {
        self.under_way.remove(CONFIGURE);
        for (name, _) in &applied.set {
            self.refused.remove(name);
        }
        for refusal in &applied.refused {
            self.refused.insert(refusal.name.clone(), (refusal.clone(), now));
        }
        match &applied.failed {
            Some(why) => self.fail(CONFIGURE, why.clone(), now),
            None => drop(self.failed.remove(CONFIGURE)),
        }
    }

    /// What Redis said to this very value, if it does not take it.
    pub fn refusal(&self, name: &str, value: &str) -> Option<&Refusal> {
        self.refused.get(name).map(|(refusal, _)| refusal).filter(|refusal| refusal.value == value)
    }

    /// When a setting of our own that was refused is to be tried again.
    pub fn again_at(&self, name: &str) -> Timestamp {
        self.refused.get(name).map_or(Timestamp(0), |(_, at)| at.plus_ms(OWNED_AGAIN_MS))
    }
}

impl World {
    /// Steps that their pass does not wait for have begun: each ends by a note.
    pub fn begin<'a>(&mut self, tasks: impl Iterator<Item = (&'a str, &'static str)>, now: Timestamp) {
        for (task_id, kind) in tasks {
            if let Some((_, node)) = self.node_of(task_id) {
                node.tries.begin(kind, now);
            }
        }
    }

    pub(super) fn noted(&mut self, note: Note, now: Timestamp) -> Dirty {
        let Note { task_id, done } = note;
        if let Some(stranger) = self.strangers.get_mut(&task_id) {
            stranger.acknowledged |= matches!(done, Done::Acknowledged(_));
            if stranger.is_over() {
                self.strangers.remove(&task_id);
            }
            return Dirty::default();
        }
        let Some((name, known)) = self.node_of(&task_id) else { return Dirty::default() };
        let dirty = Dirty::one(name);
        match done {
            Done::Launched(sent) => known.heard = sent || known.update.is_some(),
            Done::Killed => known.killed_at = Some(now),
            Done::Pointed => known.pointed_at = Some(now),
            // A probe of this very millisecond may have been answered before.
            Done::Turned(answer) => known.answered(answer, now.plus_ms(1)),
            Done::SwitchFailed(epoch, why) => known.switch_failed = Some(SwitchFailed { epoch, why, at: now }),
            Done::Configured(applied) => {
                known.tries.applied(&applied, now);
                known.configured.retain(|(name, _)| applied.set.iter().all(|(other, _)| name != other));
                // Its memory is what the node itself says, not what is recorded.
                known.configured.extend(applied.set.into_iter().filter(|(name, _)| name != "maxmemory"));
            }
            Done::LogsIn(password) => {
                known.configured.retain(|(name, _)| name != MASTER_PASSWORD);
                known.configured.push((MASTER_PASSWORD.to_string(), password));
            }
            Done::Cut(kind) => known.tries.did(kind, now),
            Done::Failed(kind, why) => known.tries.fail(kind, why, now),
            Done::Left(kind) => known.tries.leave(kind),
            Done::Acknowledged(uuid) => known.unacked.retain(|u| u.uuid.as_deref() != Some(&uuid)),
        }
        dirty
    }
}

/// A planned switchover to a node was backed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchFailed {
    /// In this epoch.
    pub epoch: u64,
    /// For this reason.
    pub why: String,
    /// When.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_failure_delays_its_own_kind_of_step_only_and_is_forgotten() {
        let mut tries = Tries::default();
        tries.fail("follow", "no way to it".to_string(), Timestamp(0));
        assert_eq!(tries.turn("promote", Timestamp(0)), Turn::Now(None));
        assert_eq!(tries.turn("follow", Timestamp(99)), Turn::Later(Timestamp(100), "no way to it".to_string()));
        assert_eq!(tries.turn("follow", Timestamp(100)), Turn::Now(Some("no way to it".to_string())));
        assert_eq!(tries.turn("follow", Timestamp(FORGET_MS)), Turn::Now(None));
    }

    #[test]
    fn what_is_under_way_is_told_only_when_it_takes_long_and_ends_with_its_outcome() {
        let mut tries = Tries::default();
        tries.begin(CONFIGURE, Timestamp(0));
        assert_eq!(tries.turn(CONFIGURE, Timestamp(1)), Turn::UnderWay(Some(Timestamp(TELL_AFTER_MS))));
        assert_eq!(tries.turn(CONFIGURE, Timestamp(TELL_AFTER_MS)), Turn::UnderWay(None));
        assert_eq!(tries.turn("promote", Timestamp(1)), Turn::Now(None));
        for (applied, turn) in [
            (Applied::default(), Turn::Now(None)),
            (
                Applied { failed: Some("hangs".to_string()), ..Applied::default() },
                Turn::Later(Timestamp(1500), "hangs".to_string()),
            ),
        ] {
            let mut tries = tries.clone();
            tries.applied(&applied, Timestamp(1000));
            assert_eq!(tries.turn(CONFIGURE, Timestamp(1000)), turn);
        }
    }

    #[test]
    fn a_refusal_is_of_one_value_and_over_when_the_setting_is_made() {
        let refusal = |value: &str| Refusal { name: "hz".into(), value: value.into(), words: "ERR no".into() };
        let mut tries = Tries::default();
        tries.applied(&Applied { refused: vec![refusal("1")], ..Applied::default() }, Timestamp(0));
        assert!(tries.refusal("hz", "1").is_some() && tries.refusal("hz", "2").is_none());
        tries.applied(&Applied { set: vec![("hz".into(), "2".into())], ..Applied::default() }, Timestamp(0));
        assert!(tries.refusal("hz", "1").is_none());
    }

    proptest! {
        #[test]
        fn no_step_is_ever_held_back_for_longer_than_its_bound(
            fails in prop::collection::vec((prop::sample::select(vec!["follow", "promote", "detach", CONFIGURE]), 0u64..10_000), 1..50)
        ) {
            let (mut tries, mut now) = (Tries::default(), Timestamp(0));
            for (kind, later) in fails {
                now = now.plus_ms(later);
                tries.fail(kind, "why".to_string(), now);
                let bound = if kind == CONFIGURE { SETTINGS_BACKOFF_MS.1 } else { BACKOFF_MS.1 };
                prop_assert!(matches!(tries.turn(kind, now), Turn::Later(at, _) if at.since_ms(now) <= bound));
                prop_assert!(!matches!(tries.turn(kind, now.plus_ms(bound)), Turn::Later(..)));
            }
        }
    }
}
