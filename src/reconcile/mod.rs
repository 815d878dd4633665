//! One pass of the operator: what it knows, what it decides, what it does. Pure.
//!
//! ```text
//!   store  ──watch──┐                                  ┌──commit──> store
//!   Mesos  ──stream─┤  world.rs     plan.rs            ├──calls───> Mesos
//!   Redis  ──probes─┴─> World ────> Plan ──> execute ──┴──commands> Redis
//!                       apply()      │ invariants.rs
//!                                    └─ report.rs ──> status, board
//! ```
//!
//! `controller.rs`, `execute.rs`, `framework.rs` and `reflector.rs` do all I/O; everything else is pure. The world is
//! folded in `world.rs`, `stored.rs` (the store), `news.rs` (Mesos), `sight.rs` (Redis) and `tries.rs` (what was done); a plan is made in `plan.rs`
//! (the order of steps), `settle.rs`, `replication.rs`, `members.rs` and `launch.rs` on a `draft.rs`;
//! `offers.rs` plans what concerns all instances, `strangers.rs` judges tasks that are not recorded.

pub mod action;
mod conditions;
pub mod controller;
mod documents;
pub mod draft;
pub mod execute;
pub mod framework;
mod gaps;
pub mod invariants;
pub mod keys;
pub mod launch;
pub mod leaving;
mod members;
pub mod mirror;
mod news;
pub mod offers;
pub mod parts;
pub mod plan;
mod pulse;
pub mod reflector;
pub mod repeats;
mod replication;
mod report;
mod rolling;
pub mod rotation;
pub mod schedule;
mod secrets;
mod settle;
pub mod sight;
mod stored;
pub mod strangers;
pub mod targets;
mod told;
pub mod transaction;
pub mod tries;
pub mod view;
pub mod world;
