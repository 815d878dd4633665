//! The master's role: whether it is filled, who may take it, and how it moves. Pure.
//!
//! - `judge.rs` joins what Mesos, our own connection and the replicas say of the recorded master.
//! - `promise.rs` knows which writes may be lost by no failover, and who has them.
//! - `candidate.rs` chooses who takes its place, or says why nobody may.
//! - `takeover.rs` plans the change: record first, then promote.
//! - `unfinished.rs` ends a change that was recorded, and finds a master that was not.
//! - `gone.rs` looks for processes that Mesos calls gone, and fences them.
//! - `handover.rs` plans the change that somebody wants, of a master that is well.
//! - `redis/` asks and commands nodes.
//!
//! What is promised: a write that a client confirmed with `WAIT k` is lost by no failover, k being the
//! `min-replicas-to-write` of the instance's durability. Two rules keep it. *Quorum*: of the R
//! replicas that may have confirmed anything (those that are recorded as joined), R - k + 1 must be
//! in sight, so that one of them has it, and the one with the greatest offset is chosen. *Fence*: a
//! master whose death is not proved is replaced only when so many of its replicas have been taken
//! from it, for so long, that it has stopped taking writes by itself.

mod candidate;
mod gone;
mod handover;
mod judge;
mod promise;
pub mod redis;
mod takeover;
mod unfinished;

pub use gone::{LOOKED_FOR_MS, fence_gone, fence_master_first, gone_and_answers, looked_for_until, may_live};
pub use handover::hand_over_to;
pub use judge::{Master, chain, chain_message, judge, patience_ms, proved_empty};
pub use promise::{caught_up, confirmations, keep_promise, let_go, may_forget, window_ms, worst_case_ms};
pub use takeover::take_over;
