//! What is believed of an instance's master. Pure.

use std::fmt;

use crate::model::{EventKind, Hung, NoAnswer, Role, TaskRecord, Timestamp};
use crate::reconcile::draft::Draft;

/// A master pings its replicas each second. One that heard nothing for so long (in whole seconds, as
/// Redis counts) does not hear it any more ...
const UNHEARD_S: u64 = 3;
/// ... nor does one whose offset stands still for so long: each ping is counted in it.
const STILL_MS: u64 = 1500;
/// The longest time after which replicas are known not to hear a master, if it fell silent to us in
/// the same moment: they are asked four times a second then.
pub(super) const UNHEARD_MS: u64 = 2250;
/// So many failovers for silence, each within [`CHAIN_MS`] of the one before, are a chain ...
const CHAIN_MIN: u32 = 3;
/// ... and the next master is waited for so much longer, twice as long each time, ...
const CHAIN_WAIT_MS: u64 = 5500;
/// ... up to this.
const CHAIN_WAIT_MAX_MS: u64 = 60_000;
const CHAIN_MS: u64 = 600_000;
/// Failed probes in a row that are more than a mood of the network.
const FAILS_MIN: u32 = 2;

/// What is believed of the recorded master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Master {
    /// No master is recorded: there is nothing yet.
    Unplaced,
    /// Recorded and not dead, but has never been seen ready.
    Starting,
    /// Answers as a master.
    Available,
    /// Answers, but reads its data set from disk.
    Loading,
    /// Answers as a replica: it is being promoted, or somebody else has changed its role.
    Demoted,
    /// Does not answer, which is not long enough, or may be our own fault, or that of the network
    /// between us: its replicas may still hear it.
    Silent(NoAnswer, Timestamp, String),
    /// Silent for longer than the user waits for it, and its replicas do not hear it either. Not
    /// proved dead: it may take writes of clients that we do not see.
    Gone(NoAnswer, Timestamp),
    /// Proved dead.
    Dead(String),
}

impl Master {
    /// Whether it takes no writes, as far as can be known without asking it.
    pub fn is_lost(&self) -> bool {
        matches!(self, Master::Gone(..) | Master::Dead(_))
    }
}

impl fmt::Display for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Master::Unplaced => f.write_str("has no place yet"),
            Master::Starting => f.write_str("is starting"),
            Master::Available => f.write_str("answers"),
            Master::Loading => f.write_str("loads its data set"),
            Master::Demoted => f.write_str("answers as a replica"),
            Master::Silent(why, since, doubt) => write!(f, "does not answer since {since} ({why}); {doubt}"),
            Master::Gone(why, since) => {
                write!(f, "is gone: since {since} {why}, and no replica is known to have heard it since")
            }
            Master::Dead(why) => write!(f, "is dead: {why}"),
        }
    }
}

/// Judges the recorded master by what Mesos, our connection and the replicas say of it.
pub fn judge(d: &Draft) -> Master {
    let Some(record) = &d.record else { return Master::Unplaced };
    let Some(ordinal) = record.master else { return Master::Unplaced };
    let Some(node) = d.nodes.get(&ordinal) else {
        return Master::Dead("its record is gone".to_string());
    };
    if let TaskRecord::Dead { why, .. } = &node.task {
        return Master::Dead(why.clone());
    }
    if let Some(answer) = d.answer(ordinal) {
        return match answer.role {
            _ if answer.loading => Master::Loading,
            Role::Master => Master::Available,
            Role::Replica => Master::Demoted,
        };
    }
    match d.silence(ordinal) {
        Some((why, since)) if record.initialized => judge_silence(d, ordinal, why, since),
        _ => Master::Starting,
    }
}

/// A master that was ready and does not answer.
fn judge_silence(d: &Draft, ordinal: u32, why: NoAnswer, since: Timestamp) -> Master {
    let silent = |doubt: &str| Master::Silent(why, since, doubt.to_string());
    let seen = d.seen(ordinal);
    let (fails, silent_ms) = seen.map_or((0, 0), |node| (node.fails, node.silent_ms()));
    match why {
        why if why.lives() => return silent(&format!("it lives: {}", why.way_out())),
        NoAnswer::Garbled | NoAnswer::Unproved => return silent("only Mesos can tell what became of it"),
        NoAnswer::Stranger => return Master::Dead(why.to_string()),
        // It listened once, and its agent's kernel says that it does not any more. The first refusal
        // is enough when it ended a connection: these are two facts.
        NoAnswer::Refused if fails >= FAILS_MIN || seen.is_some_and(|node| node.answer.is_some()) => {
            // When a process ends, its replicas see their links break in the same moment.
            return match followers(d).next() {
                Some((replica, ..)) => silent(&format!("but {} still follows it", d.node_name(replica))),
                None => Master::Dead("nobody listens on its port any more".to_string()),
            };
        }
        NoAnswer::Refused => return silent("asking again"),
        _ => {}
    }
    let within = patience_ms(d);
    if silent_ms < within || fails < FAILS_MIN {
        return silent(&format!("it counts as gone at {}", since.plus_ms(within)));
    }
    match still_heard(d, since) {
        Some(replica) => silent(&format!("but {replica} hears it")),
        None if why == NoAnswer::Unreachable => match unheard_by_all(d) {
            Ok(()) => Master::Gone(why, since),
            Err(doubt) => silent(&doubt),
        },
        None => Master::Gone(why, since),
    }
}

/// How long a silent master is waited for: longer each time when one after the other falls silent. A command
/// that blocks, and that clients send again to each new master, would end every one of them; the wait gives the
/// master the time to say that it is busy (5 s as a rule), and then it stays.
pub fn patience_ms(d: &Draft) -> u64 {
    let within = d.spec().map_or(0, |spec| spec.failover.detect_within.0);
    within + chain(d).map_or(0, |(_, more)| more)
}

/// How often masters fell silent one after the other, and what is waited longer for that, in milliseconds; none:
/// it is no chain.
pub fn chain(d: &Draft) -> Option<(Hung, u64)> {
    let hung = d.record.as_ref()?.hung.filter(|hung| d.o.now < hung.at.plus_ms(CHAIN_MS))?;
    let doublings = hung.count.checked_sub(CHAIN_MIN)?.min(20);
    Some((hung, (CHAIN_WAIT_MS << doublings).min(CHAIN_WAIT_MAX_MS)))
}

/// A master was replaced because it fell silent, and was not proved dead.
pub(super) fn fell_silent(d: &mut Draft) {
    let now = d.o.now;
    let Some(record) = &mut d.record else { return };
    let before = record.hung.filter(|hung| now < hung.at.plus_ms(CHAIN_MS)).map_or(0, |hung| hung.count);
    record.hung = Some(Hung { count: before.saturating_add(1), at: now });
    if let Some((hung, more)) = chain(d) {
        let message = chain_message(hung, more);
        d.event(EventKind::Warning, "FailoverChain", d.o.name.to_string(), message);
    }
}

/// What is told of a chain.
pub fn chain_message(hung: Hung, more_ms: u64) -> String {
    let (count, end) = (hung.count, hung.at.plus_ms(CHAIN_MS));
    format!(
        "{count} masters in a row fell silent and were replaced, the last at {}: the next is waited for {} s longer, until {end}. A command that blocks (a script, KEYS, a large DEL) and that clients send again to each new master does this",
        hung.at,
        more_ms / 1000
    )
}

/// A replica that is certain to have heard the master after that moment.
fn still_heard(d: &Draft, since: Timestamp) -> Option<String> {
    followers(d).find_map(|(ordinal, last_io_s, asked_at)| {
        // Redis' clock counts whole seconds: it may have been one second longer ago than it says.
        let heard_at = asked_at.0.checked_sub((last_io_s? + 1) * 1000)?;
        (heard_at >= since.0).then(|| d.node_name(ordinal))
    })
}

/// There is no way to the master: whether there is none for us only, its replicas know.
fn unheard_by_all(d: &Draft) -> Result<(), String> {
    let hears = |(ordinal, last_io_s, asked_at): &(u32, Option<u64>, Timestamp)| {
        let still_since = d.seen(*ordinal).and_then(|seen| seen.still_since);
        let still = still_since.is_some_and(|since| asked_at.since_ms(since) >= STILL_MS);
        !still && last_io_s.is_none_or(|s| s < UNHEARD_S)
    };
    let hearing = followers(d).find(hears).map(|(ordinal, ..)| d.node_name(ordinal));
    hearing.map_or(Ok(()), |name| Err(format!("but {name} may hear it still")))
}

/// Replicas that answer and whose link to the recorded master is up: which, seconds since they heard
/// it, and when they were asked.
fn followers<'a>(d: &'a Draft) -> impl Iterator<Item = (u32, Option<u64>, Timestamp)> + 'a {
    let master = d.master().map(|master| &master.address);
    d.nodes.iter().filter(|(ordinal, _)| !d.is_master(**ordinal)).filter_map(move |(ordinal, node)| {
        let (answer, at) = d.seen(*ordinal).filter(|seen| seen.silent.is_none())?.answer.as_ref()?;
        let follows = answer.role == Role::Replica && answer.link_up && answer.follows.as_ref() == master;
        (follows && !node.task.is_dead()).then_some((*ordinal, answer.last_io_s, *at))
    })
}

/// Whether it is proved that the node holds none of the dead master's data: it is dead, or it was
/// asked after the master's death and has never received anything. What it answered before proves
/// nothing, for the master may have sent it data since; nor does a link that is not seen broken, for
/// data may be on the way.
pub fn proved_empty(draft: &Draft, ordinal: u32) -> bool {
    if draft.nodes.get(&ordinal).is_none_or(|node| node.task.is_dead()) {
        return true;
    }
    let Some(TaskRecord::Dead { at: died_at, .. }) = draft.master().map(|master| &master.task) else { return false };
    let asked_at = draft.seen(ordinal).and_then(|node| node.answer.as_ref()).map(|(_, at)| at);
    let blank = draft.answer(ordinal).is_some_and(|answer| answer.is_blank() && !answer.may_receive());
    blank && asked_at > Some(died_at)
}
