//! `redisctl`: a reconciling operator for Redis on Apache Mesos.
#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod board;
mod bodies;
pub mod cli;
pub mod clock;
pub mod door;
pub mod failover;
pub mod files;
mod glob;
#[cfg(test)]
mod linear;
pub mod local;
pub mod mesos;
pub mod metrics;
pub mod model;
mod offload;
pub mod open_files;
pub mod operator;
pub mod passwords;
mod peers;
pub mod placement;
mod plain;
pub mod reconcile;
pub mod sentinel;
pub mod settings;
pub mod spec;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod tls;
