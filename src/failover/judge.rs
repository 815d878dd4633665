//! What is believed of an instance's master. Pure.

use std::fmt;

use crate::model::{NoAnswer, Role, TaskRecord, Timestamp};
use crate::reconcile::draft::Draft;

/// A master pings its replicas each second. One that heard nothing for so long (in whole seconds, as
/// Redis counts) does not hear it any more ...
const UNHEARD_S: u64 = 3;
/// ... nor does one whose offset stands still for so long: each ping is counted in it.
const STILL_MS: u64 = 1500;
/// The longest time after which replicas are known not to hear a master, if it fell silent to us in
/// the same moment: they are asked four times a second then.
pub(super) const UNHEARD_MS: u64 = 2250;
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
                write!(f, "is gone: since {since} {why}, and no replica hears it")
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
        NoAnswer::Busy => return silent("it is busy, and lives"),
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
        NoAnswer::Reset | NoAnswer::Timeout | NoAnswer::Unreachable => {}
    }
    let within = d.spec().map_or(0, |spec| spec.failover.detect_within.0);
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
