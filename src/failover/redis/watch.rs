//! Watches masters: each on a connection of its own, so that an end or a silence is noticed. I/O.
//!
//! A connection that the other side closes wakes its watch at once. Silence is found by PING, on
//! which nothing is allocated. A master that is well costs two system calls for each PING, and
//! many are asked at one wake-up.

use std::collections::HashMap;
use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use super::Redis;
use super::connection::{Connection, Pong};
use super::login::log_in;
use crate::clock;
use crate::model::{Address, Answer, NoAnswer, Probe};

/// Up to this bound a master is asked more often, so that longer stalls (by their part of the
/// bound) are told from silence: 50 ms are usual on a loaded machine.
const SHORT_BOUND: Duration = Duration::from_millis(250);
/// PINGs for each short bound: one that is not answered is followed by five sixths of patience.
const SHORT_PARTS: u32 = 6;
/// PINGs for each other bound.
const PARTS: u32 = 3;
/// The longest time between PINGs, and the longest patience with one.
const EVERY_MAX: Duration = Duration::from_secs(1);
/// The longest patience with a new connection to a master that fails: a lost SYN is sent again only
/// after a second, so dialling anew finds out sooner that a partition has healed.
const ATTEMPT_MAX: Duration = Duration::from_millis(100);
/// A process that is killed may have its clients' connections closed before its port: a new
/// connection that is reset is followed by so many others ...
const RESETS_MAX: u32 = 10;
/// ... before it counts: these at once, since a port is closed some microseconds later as a rule, ...
const RESETS_AT_ONCE: u32 = 3;
/// ... and the others after this time each.
const RESET_PAUSE: Duration = Duration::from_millis(1);
/// A master that ends every connection right after a good answer (closes it, or sends what nobody asked for) is
/// dialled after this pause, which doubles each time ...
const DIAL_PAUSE: Duration = Duration::from_millis(10);
/// ... up to this one.
const DIAL_PAUSE_MAX: Duration = Duration::from_millis(200);
/// Error replies are told this often.
const ERRORS_EVERY: Duration = Duration::from_secs(1);
/// A command without the words that it needs. Redis refuses it before it looks at passwords, rights, scripts or
/// pauses: whatever replies lives, and one that does not reply then to what we ask is paused.
const KNOCK: &[u8] = b"*1\r\n$4\r\nECHO\r\n";
/// Watches wait in so many groups, which are woken one after the other: a thousand PINGs in one go
/// would delay everything else.
const GROUPS: u32 = 4;
/// A timer that is later than this tells that the machine had no time for us: none of it is counted
/// as the master's silence. (Timers are up to 1 ms late always.)
const LATE: Duration = Duration::from_millis(5);

/// Masters that are watched. Dropping it ends all watches.
///
/// Of each master one probe is told when it answers first, and then nothing while all is well. An
/// error is told at once when the connection is closed and cannot be made again, when a PING stays
/// without reply for a third of the bound (a sixth for short ones), and for each failed attempt
/// after that; an answer, when it answers again. For the `at` of errors see [`Probe`]: a master has
/// been silent for the bound when an error is told that late or later after its `at`, and one such
/// is told right at the bound. A stall of 0.6 times the bound (0.8 for bounds up to 250 ms) ends
/// before.
///
/// A reply that comes after its time is a sign of life all the same: it is told as an error whose `at`
/// is that moment.
///
/// A slow reader loses errors, of which there will be more, but never the answer that ends them.
pub struct Watches {
    redis: Redis,
    out: mpsc::Sender<Probe>,
    start: Instant,
    made: u32,
    known: HashMap<String, Watch>,
}

struct Watch {
    address: Address,
    within: Duration,
    /// Ends the watch when dropped.
    _task: AbortOnDropHandle<()>,
}

impl Watches {
    /// None yet.
    pub fn new(redis: Redis, out: mpsc::Sender<Probe>) -> Watches {
        Watches { redis, out, start: Instant::now(), made: 0, known: HashMap::new() }
    }

    /// Watches the task's node at this address, with `within` as the bound for silence. Nothing
    /// changes when it is watched so already.
    pub fn set(&mut self, task_id: &str, address: &Address, within: Duration) {
        if self.known.get(task_id).is_some_and(|known| known.address == *address && known.within == within) {
            return;
        }
        let rhythm = Rhythm::new(within, self.start, self.made % GROUPS);
        self.made = self.made.wrapping_add(1);
        let watching = Watching {
            redis: self.redis.clone(),
            out: self.out.clone(),
            task_id: task_id.to_string(),
            address: address.clone(),
            rhythm,
            last_reply: None,
            silent_since: None,
            said: None,
            said_error: None,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(watching.run()));
        self.known.insert(task_id.to_string(), Watch { address: address.clone(), within, _task: task });
    }

    /// Watches it no longer.
    pub fn remove(&mut self, task_id: &str) {
        self.known.remove(task_id);
    }
}

/// When a master is asked.
struct Rhythm {
    within: Duration,
    /// Between PINGs, and the patience with each.
    every: Duration,
    /// PINGs are sent at this moment and at multiples of `every` after it.
    base: Instant,
}

impl Rhythm {
    fn new(within: Duration, start: Instant, group: u32) -> Rhythm {
        let parts = if within <= SHORT_BOUND { SHORT_PARTS } else { PARTS };
        let every = (within / parts).clamp(Duration::from_millis(1), EVERY_MAX);
        Rhythm { within, every, base: start + every * group / GROUPS }
    }

    fn next(&self, now: Instant) -> Instant {
        let since = now.saturating_duration_since(self.base).as_nanos();
        let into = u64::try_from(since % self.every.as_nanos()).unwrap_or(0);
        now + self.every.saturating_sub(Duration::from_nanos(into))
    }

    /// How long the next attempt may take: until the bound for silence they are of the same length,
    /// and the last one ends at it.
    fn attempt(&self, silent_since: Option<Instant>, now: Instant) -> Duration {
        let most = self.every.min(ATTEMPT_MAX);
        let left = silent_since.map_or(Duration::ZERO, |since| (since + self.within).saturating_duration_since(now));
        let attempts = u32::try_from(left.as_nanos().div_ceil(most.as_nanos())).unwrap_or(u32::MAX);
        left.checked_div(attempts).unwrap_or(most)
    }
}

/// The state of one watch.
struct Watching {
    redis: Redis,
    out: mpsc::Sender<Probe>,
    task_id: String,
    address: Address,
    rhythm: Rhythm,
    last_reply: Option<Instant>,
    /// See [`Probe`].
    silent_since: Option<Instant>,
    /// What was told last: that all is well, or why not.
    said: Option<Result<(), NoAnswer>>,
    /// When an error reply was told.
    said_error: Option<Instant>,
}

impl Watching {
    async fn run(mut self) {
        let out = self.out.clone();
        tokio::select! {
            () = out.closed() => {}
            () = self.watch() => {}
        }
    }

    async fn watch(&mut self) {
        let (mut was_short, mut overdue, mut pause) = (false, None, DIAL_PAUSE);
        loop {
            let dialled = Instant::now();
            let connection = self.reach(overdue).await;
            overdue = self.listen(connection).await;
            let is_short = dialled.elapsed() < DIAL_PAUSE_MAX;
            if was_short && is_short {
                sleep(pause).await;
            }
            pause = if is_short { (2 * pause).min(DIAL_PAUSE_MAX) } else { DIAL_PAUSE };
            was_short = is_short;
        }
    }

    /// Dials until the master answers. Meanwhile a connection with an overdue reply is kept: what comes
    /// on it is a sign of life of a master that is slower than our attempts are long.
    async fn reach(&mut self, mut overdue: Option<Connection>) -> Connection {
        let mut resets = 0;
        loop {
            Connection::room().await;
            let asked = Instant::now();
            let deadline = asked + self.rhythm.attempt(self.silent_since, asked);
            let (dialled, result) = tokio::select! {
                biased;
                alive = hears(overdue.as_ref()) => {
                    overdue = None;
                    if alive {
                        self.replied();
                        self.tell(Err(NoAnswer::Timeout), Instant::now());
                    }
                    continue;
                }
                attempt = self.attempt(deadline) => attempt,
            };
            match (dialled, result) {
                (Some(connection), Ok(answer)) => {
                    self.replied();
                    self.tell(Ok(answer), asked);
                    return connection;
                }
                (_, Err(NoAnswer::Reset)) if resets < RESETS_MAX => {
                    resets += 1;
                    if resets > RESETS_AT_ONCE {
                        sleep(RESET_PAUSE).await;
                    }
                    continue;
                }
                (_, Err(why)) if why.lives() => {
                    self.replied();
                    if self.may_say_error(asked) {
                        self.tell(Err(why), asked);
                    }
                }
                (dialled, result) => {
                    let why = result.err().unwrap_or(NoAnswer::Unreachable);
                    self.failed(why, asked, deadline);
                    overdue = overdue.or(dialled.filter(|_| why == NoAnswer::Timeout));
                }
            }
            sleep_until(deadline).await;
        }
    }

    /// The connection, if one was made in time, and what the master answered on it.
    async fn attempt(&self, deadline: Instant) -> (Option<Connection>, Result<Answer, NoAnswer>) {
        let mut dialled = None;
        let knock = async {
            let connection = dialled.insert(Connection::dial(&self.address).await?);
            let mut reply = Vec::new();
            connection.ask(KNOCK, 1, &mut reply).await?;
            let full = NoAnswer::of_error(&String::from_utf8_lossy(&reply)) == NoAnswer::Full;
            if full { Err(NoAnswer::Full) } else { Ok(()) }
        };
        let knocked = timeout_at(deadline, knock).await;
        let Some(connection) = &mut dialled else {
            return (None, Err(knocked.ok().and_then(Result::err).unwrap_or(NoAnswer::Unreachable)));
        };
        if let Err(why) = knocked.unwrap_or(Err(NoAnswer::Timeout)) {
            return (dialled, Err(why));
        }
        let rest = async {
            log_in(&self.redis.logins, &self.address, connection).await?;
            self.redis.inquire(connection).await
        };
        // It lives, so there is time: a machine that is loaded is not paused.
        let result = timeout_at(deadline + ATTEMPT_MAX, rest).await;
        (dialled, result.unwrap_or(Err(NoAnswer::Paused)))
    }

    /// Asks for signs of life until the connection is closed, or there is none: then a reply is overdue
    /// on it.
    async fn listen(&mut self, mut connection: Connection) -> Option<Connection> {
        let mut tick = pin!(sleep_until(self.rhythm.next(Instant::now())));
        loop {
            tokio::select! {
                biased;
                _ = connection.hears() => return None,
                () = &mut tick => {}
            }
            let asked = Instant::now();
            let deadline = asked + self.rhythm.every;
            match timeout_at(deadline, self.turn(&mut connection, asked)).await {
                Ok(Ok(())) => tick.as_mut().reset(self.rhythm.next(Instant::now())),
                Ok(Err(_)) => return None, // Closed, or not Redis: the next connection tells.
                Err(_) => {
                    self.failed(NoAnswer::Timeout, asked, deadline);
                    return Some(connection);
                }
            }
        }
    }

    async fn turn(&mut self, connection: &mut Connection, asked: Instant) -> Result<(), NoAnswer> {
        let pong = connection.ping().await?;
        self.replied();
        match pong {
            Pong::Well if self.said == Some(Ok(())) => {}
            Pong::Busy => {
                if self.may_say_error(asked) {
                    self.tell(Err(NoAnswer::Busy), asked);
                }
            }
            Pong::Refused if !self.may_say_error(asked) => {}
            Pong::Well | Pong::Refused => match self.redis.inquire(connection).await {
                Err(why) if !why.lives() => return Err(why),
                result => self.tell(result, asked),
            },
        }
        Ok(())
    }

    fn replied(&mut self) {
        let now = Instant::now();
        self.last_reply = Some(now);
        let Some(silence) = self.silent_since.take().map(|since| now.saturating_duration_since(since)) else { return };
        if silence >= self.rhythm.within / 2 {
            // Who sees this often has a bound that is too short.
            let (silent_ms, within_ms) = (silence.as_millis(), self.rhythm.within.as_millis());
            info!(task_id = self.task_id, silent_ms, within_ms, "the master answers again");
        }
    }

    /// No sign of life came, until now, for what was asked then.
    fn failed(&mut self, why: NoAnswer, asked: Instant, deadline: Instant) {
        if self.silent_since.is_none() {
            // Others may have connections that hang as ours did.
            self.redis.forget(&self.address);
        }
        // While we were not asking, it was not silent.
        let earliest = asked.checked_sub(self.rhythm.every).unwrap_or(asked);
        let known = self.last_reply.map_or(asked, |reply| reply.max(earliest));
        let since = self.silent_since.unwrap_or(known);
        let late = Instant::now().saturating_duration_since(deadline);
        let since = if late > LATE { since + late } else { since };
        self.silent_since = Some(since);
        self.tell(Err(why), since);
    }

    /// Error replies may come quickly; one that ends a silence is told always.
    fn may_say_error(&mut self, now: Instant) -> bool {
        let was_silent = self.said.is_some_and(|said| said.is_err_and(|why| !why.lives()));
        let due = was_silent || self.said_error.is_none_or(|at| now - at >= ERRORS_EVERY);
        if due {
            self.said_error = Some(now);
        }
        due
    }

    fn tell(&mut self, result: Result<Answer, NoAnswer>, at: Instant) {
        let said = result.as_ref().map(|_| ()).map_err(|why| *why);
        let (at, until) = (clock::at(at.into_std()), clock::now());
        let probe = Probe { task_id: self.task_id.clone(), result, at, until, watched: true };
        if self.out.try_send(probe).is_ok() {
            self.said = Some(said);
        }
    }
}

/// See [`Connection::hears`]; nothing ever comes on no connection.
async fn hears(connection: Option<&Connection>) -> bool {
    match connection {
        Some(connection) => connection.hears().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_leaves_room_for_a_stall_and_is_kept() {
        for ms in [100, 150, 250, 251, 1000, 3000, 60_000] {
            let within = Duration::from_millis(ms);
            let rhythm = Rhythm::new(within, Instant::now(), 1);
            let stall = within.mul_f64(if ms <= 250 { 0.8 } else { 0.6 });
            assert!(rhythm.every + stall < within, "{within:?}: a stall that begins at a PING ends before the bound");
            // A master that falls silent right after a reply: a PING, then attempts.
            let last_reply = rhythm.base;
            let asked = rhythm.next(last_reply);
            let mut now = asked + rhythm.every;
            assert!(now - last_reply <= within);
            while now - last_reply < within {
                let attempt = rhythm.attempt(Some(last_reply), now);
                assert!(!attempt.is_zero() && attempt <= rhythm.every.min(ATTEMPT_MAX));
                now += attempt;
            }
            let over = (now - last_reply).abs_diff(within);
            assert!(over < Duration::from_micros(1), "{within:?}: the last one ends {over:?} after the bound");
        }
    }

    #[test]
    fn pings_of_one_group_are_sent_at_common_moments() {
        let start = Instant::now();
        let rhythm = Rhythm::new(Duration::from_secs(3), start, 2);
        let ms = Duration::from_millis;
        assert_eq!(rhythm.next(start + ms(500)), start + ms(1500));
        assert_eq!(rhythm.next(start + ms(1499)), start + ms(1500));
        assert_eq!(rhythm.next(start + ms(1500)), start + ms(2500));
    }
}
