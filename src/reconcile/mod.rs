//! One pass of the operator: what it knows, what it decides, what it does.
//!
//! ```text
//!   store  ──watch──┐                                  ┌──commit──> store
//!   Mesos  ──stream─┤  world.rs     plan.rs            ├──calls───> Mesos
//!   Redis  ──probes─┴─> World ────> Plan ──> execute ──┴──commands> Redis
//!                       apply()      │ invariants.rs
//!                                    └─ report.rs ──> status, board
//! ```
//!
//! `world.rs`, `draft.rs`, `plan.rs`, `report.rs`, `launch.rs`, `session.rs` and `invariants.rs`
//! are pure; `controller.rs` and `execute.rs` do all I/O.

pub mod action;
pub mod controller;
pub mod draft;
pub mod execute;
pub mod invariants;
mod launch;
pub mod offers;
pub mod plan;
pub mod reflector;
mod report;
pub mod view;
pub mod world;
