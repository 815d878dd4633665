//! `redisctl`: a reconciling operator for Redis on Apache Mesos.
#![forbid(unsafe_code)]

pub mod board;
pub mod cli;
pub mod local;
pub mod model;
pub mod operator;
pub mod settings;
pub mod spec;
pub mod status;
pub mod store;
