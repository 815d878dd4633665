//! What the operator decides at single moments, each built by hand, and why. Pure.

mod draining;
mod failover;
mod faults;
mod invariants;
mod plan;
mod rolling;
mod said;
mod scene;
mod world;
