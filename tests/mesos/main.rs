//! Mesos from the operator's side: finding masters, and the session with one. I/O.

#[path = "../support/mod.rs"]
mod support;

mod masters;
mod session;
mod session_faults;
