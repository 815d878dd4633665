//! A planned switchover: the master's role moves to a replica, and no acknowledged write is lost. I/O.

use std::cmp::Ordering;
use std::time::Duration;

use redis::Cmd;
use tokio::time::{Instant, sleep};

use super::commands::{Failure, cutting_clients, demoting, detaching, promoting};
use super::connection::Connection;
use super::{Redis, command};
use crate::model::{Address, Answer, Role};

/// Writes go on while the replica is made to follow closely, so it may take longer: after a full copy
/// Redis streams to it only when it has acknowledged that, which takes a second.
const FOLLOW_PARTS: u32 = 4;
/// How often the replica is asked how far it has got. Nobody can write meanwhile.
const POLL_EVERY: Duration = Duration::from_millis(1);
/// A replica that has after this time what its master had is close enough for a pause ...
const CLOSE: Duration = Duration::from_millis(20);
/// ... which is given up after this time, to try again later: longer, clients would notice.
const PAUSE_MAX: Duration = Duration::from_millis(80);
/// Clients have so long to read that their writes were refused, and to go by themselves, before they are cut.
/// The reply to the end of the pause comes after Redis has sent what those got that waited, but on its way it
/// may overtake theirs; and one that is cut while it sends the next cannot know what became of that.
const READONLY_FIRST: Duration = Duration::from_millis(20);
/// A pause that nobody ends, for the operator has died, lapses after this time. It need not last until
/// the end: when the master is detached it takes no writes anyway.
const PAUSE_LAPSE: Duration = Duration::from_millis(400);

/// Why a switchover was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError {
    /// The roles are as they were, and writes go on (a pause that could not be ended lapses).
    #[error("{0}; nothing was changed")]
    BackedOut(String),
    /// It stands between: a node was lost in the midst. To be repeated from the beginning.
    #[error("{0}; it is not known what was done")]
    Unknown(String),
}

use SwitchError::{BackedOut, Unknown};

/// How far a switchover has come, as the nodes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not begun, or no further than the pause.
    Whole,
    /// The old master is detached: it takes no writes.
    Fenced,
    /// The new master is one.
    Promoted,
}

impl Redis {
    /// Moves the master's role from one node to a replica of it, and answers what the new master
    /// is. `to` may take four times `patience` to follow closely, with pauses of writes of at most 80 ms
    /// each, and another `patience` to get the last of them; writes stand still for some milliseconds as a rule.
    ///
    /// Guarantees: a write that `from` has acknowledged is on `to` before `to` is promoted. At no
    /// time do both take writes. Whoever repeats it from the beginning ends it, at whatever point
    /// it was left.
    ///
    /// `password`: by which `to` lets `from` in when that follows it, as it is recorded; none: by none.
    /// A write that waits meanwhile is refused (READONLY), and its client then cut. What remains in doubt to a
    /// client is what it sends to the old master in the moment of the cut: that is never executed.
    ///
    /// Caveats: needs Redis 6.2, which can pause writes only. Nobody else may change the roles of
    /// the two meanwhile.
    pub async fn switch_over(
        &self,
        from: &Address,
        to: &Address,
        password: Option<&str>,
        patience: Duration,
    ) -> Result<Answer, SwitchError> {
        let login = self.at_master(from, password).map_err(|why| BackedOut(why.to_string()))?;
        let lost = |node: &Address, why: Failure| BackedOut(format!("{node}: {why}"));
        let (old, new) = (self.dial(from).await, self.dial(to).await);
        let (old, new) = (old.map_err(|why| lost(from, why))?, new.map_err(|why| lost(to, why))?);
        let mut switch = Switch { redis: self, from, to, login, old, new, patience, replid: String::new() };
        let (old, new) = switch.look().await?;
        let stage = stage(&old, &new, from, to).map_err(BackedOut)?;
        switch.replid.clone_from(&old.replid);
        if stage == Stage::Whole {
            switch.catch_up().await?;
        }
        let promoted = match stage {
            Stage::Whole => {
                let end = switch.fence().await?;
                switch.take_over(end).await?
            }
            Stage::Fenced => switch.take_over(old.offset).await?,
            Stage::Promoted => new,
        };
        switch.finish().await?;
        self.keep(from, switch.old);
        self.keep(to, switch.new);
        Ok(promoted)
    }
}

fn stage(old: &Answer, new: &Answer, from: &Address, to: &Address) -> Result<Stage, String> {
    let follows = |answer: &Answer, whom: &Address| answer.follows.as_ref() == Some(whom);
    match (old.role, new.role) {
        (Role::Master, Role::Replica) if follows(new, from) => {
            if !new.link_up || new.syncing || new.loading || new.replid != old.replid {
                return Err(format!("{to} is not in sync with {from}"));
            }
            Ok(Stage::Whole)
        }
        (Role::Replica, Role::Replica) if follows(old, from) && follows(new, from) && new.replid == old.replid => {
            Ok(Stage::Fenced)
        }
        (Role::Replica, Role::Master) if follows(old, to) => Ok(Stage::Promoted),
        (Role::Replica, Role::Master)
            if follows(old, from) && new.replid2 == old.replid && new.offset >= old.offset =>
        {
            Ok(Stage::Promoted)
        }
        (Role::Master, Role::Replica) => Err(format!("{to} does not follow {from}")),
        (Role::Master, Role::Master) => Err(format!("{from} and {to} are both masters")),
        (Role::Replica, _) => Err(format!("{from} is not the master")),
    }
}

struct Switch<'a> {
    redis: &'a Redis,
    from: &'a Address,
    to: &'a Address,
    /// What tells the old master how to log in at the new one.
    login: Vec<Cmd>,
    old: Connection,
    new: Connection,
    patience: Duration,
    /// The old master's history.
    replid: String,
}

impl Switch<'_> {
    async fn look(&mut self) -> Result<(Answer, Answer), SwitchError> {
        let old = self.redis.ask_of(&mut self.old, self.redis.timeout).await;
        let old = old.map_err(|why| BackedOut(format!("{}: {why}", self.from)))?;
        let new = self.redis.ask_of(&mut self.new, self.redis.timeout).await;
        Ok((old, new.map_err(|why| BackedOut(format!("{}: {why}", self.to)))?))
    }

    /// Ends with writes paused and a replica that has all that there are.
    async fn catch_up(&mut self) -> Result<(), SwitchError> {
        let end = Instant::now() + FOLLOW_PARTS * self.patience;
        loop {
            self.follow_closely(end).await.map_err(BackedOut)?;
            if self.pause(end).await? {
                return Ok(());
            }
        }
    }

    /// Waits, with writes going on, until the replica has after a moment what the master had. One
    /// that has been copied in full gets no writes for up to a second after that.
    async fn follow_closely(&mut self, end: Instant) -> Result<(), String> {
        loop {
            let begun = Instant::now();
            if begun >= end {
                return Err(format!("{} follows too slowly", self.to));
            }
            let target = self.offset_of_old(end).await?;
            while self.reached(target, end).await? == Ordering::Less {
                sleep(POLL_EVERY).await;
            }
            if begun.elapsed() <= CLOSE {
                return Ok(());
            }
        }
    }

    /// Pauses writes: whether the replica has soon got all. If not, they go on.
    async fn pause(&mut self, end: Instant) -> Result<bool, SwitchError> {
        let lapse_ms = PAUSE_LAPSE.min(2 * self.patience).as_millis().to_string();
        let pause = command(&["CLIENT", "PAUSE", &lapse_ms, "WRITE"]);
        let give_up = Instant::now() + PAUSE_MAX;
        if let Err(why) = self.redis.order(&mut self.old, &[pause], self.redis.timeout).await {
            return Err(self.resume(format!("pause the writes of {}: {why}", self.from)).await);
        }
        while Instant::now() < give_up {
            let reached = match self.offset_of_old(end).await {
                Ok(target) => self.reached(target, end).await,
                Err(why) => Err(why),
            };
            match reached {
                Ok(Ordering::Equal) => return Ok(true),
                // More: the master may go on to send PINGs, which count.
                Ok(_) => sleep(POLL_EVERY).await,
                Err(why) => return Err(self.resume(why).await),
            }
        }
        self.unpause().await.map_err(|why| BackedOut(format!("end the pause of {}: {why}", self.from)))?;
        Ok(false)
    }

    /// Takes the role from the old master: its last offset.
    async fn fence(&mut self) -> Result<u64, SwitchError> {
        match self.redis.transact(&mut self.old, &detaching(self.from)).await {
            Ok(answer) if answer.role == Role::Replica => Ok(answer.offset),
            Ok(_) => Err(self.resume(format!("{} stays a master", self.from)).await),
            Err(Failure::Refused(why)) => Err(self.resume(format!("detach {}: {why}", self.from)).await),
            Err(Failure::Lost(why)) => Err(Unknown(format!("detach {}: {why}", self.from))),
        }
    }

    /// Promotes the replica as soon as it has all that the old master had.
    async fn take_over(&mut self, offset: u64) -> Result<Answer, SwitchError> {
        let end = Instant::now() + self.patience;
        loop {
            match self.reached(offset, end).await {
                Ok(Ordering::Equal) => break,
                Ok(Ordering::Less) => sleep(POLL_EVERY).await,
                Ok(Ordering::Greater) => {
                    let why = format!("{} has more than {} ever had", self.to, self.from);
                    return Err(self.give_back(why).await);
                }
                Err(why) => return Err(self.give_back(why).await),
            }
        }
        match self.redis.transact(&mut self.new, &promoting()).await {
            Ok(answer) if answer.role == Role::Master => Ok(answer),
            Ok(_) => Err(Unknown(format!("{} stays a replica", self.to))),
            Err(Failure::Refused(why)) => Err(self.give_back(format!("promote {}: {why}", self.to)).await),
            Err(Failure::Lost(why)) => Err(Unknown(format!("promote {}: {why}", self.to))),
        }
    }

    /// The old master follows the new one, and its clients look for that.
    async fn finish(&mut self) -> Result<(), SwitchError> {
        let left = format!("{} is the master; make {} follow it", self.to, self.from);
        let unknown = |why: Failure| Unknown(format!("{left}: {why}"));
        let commands = [std::mem::take(&mut self.login), demoting(self.to)].concat();
        self.redis.transact(&mut self.old, &commands).await.map_err(unknown)?;
        sleep(READONLY_FIRST).await;
        let cut = cutting_clients();
        self.redis.order(&mut self.old, &cut, self.redis.timeout).await.map(|_| ()).map_err(unknown)
    }

    async fn offset_of_old(&mut self, end: Instant) -> Result<u64, String> {
        let left = end.saturating_duration_since(Instant::now()).max(POLL_EVERY);
        let answer = self.redis.ask_of(&mut self.old, left).await;
        answer.map(|answer| answer.offset).map_err(|why| format!("{}: {why}", self.from))
    }

    /// How far the replica is, compared with this; an error when it will not get there, or not in time.
    async fn reached(&mut self, offset: u64, end: Instant) -> Result<Ordering, String> {
        let left = end.saturating_duration_since(Instant::now());
        let answer = self.redis.ask_of(&mut self.new, left.max(POLL_EVERY)).await;
        let answer = answer.map_err(|why| format!("{}: {why}", self.to))?;
        if answer.follows.as_ref() != Some(self.from) {
            return Err(format!("{} does not follow {} any more", self.to, self.from));
        }
        if answer.replid != self.replid {
            return Err(format!("{} has another history than {}", self.to, self.from));
        }
        let behind = offset.saturating_sub(answer.offset);
        if behind > 0 && !answer.link_up {
            return Err(format!("{} has lost its link to {}, {behind} bytes behind", self.to, self.from));
        }
        if behind > 0 && left.is_zero() {
            return Err(format!("{} is still {behind} bytes behind", self.to));
        }
        Ok(answer.offset.cmp(&offset))
    }

    /// Backs out: ends the pause.
    async fn resume(&mut self, why: String) -> SwitchError {
        // One that is not ended lapses: it has a time.
        let _ = self.unpause().await;
        BackedOut(why)
    }

    async fn unpause(&mut self) -> Result<(), Failure> {
        let unpause = command(&["CLIENT", "UNPAUSE"]);
        self.redis.order(&mut self.old, &[unpause], self.redis.timeout).await.map(|_| ())
    }

    /// Backs out: the old master is the master again.
    async fn give_back(&mut self, why: String) -> SwitchError {
        match self.redis.transact(&mut self.old, &promoting()).await {
            Ok(answer) if answer.role == Role::Master => self.resume(why).await,
            Ok(_) => Unknown(format!("{why}; {} stays a replica", self.from)),
            Err(failure) => Unknown(format!("{why}; make {} the master again: {failure}", self.from)),
        }
    }
}
