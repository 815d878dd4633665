//! `redisctl`: a reconciling operator for Redis on Apache Mesos.
#![forbid(unsafe_code)]

pub mod board;
pub mod local;
pub mod model;
pub mod spec;
pub mod status;
pub mod store;
