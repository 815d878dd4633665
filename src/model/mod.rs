//! The operator's nouns: what Mesos, Redis and the store tell us, and what we record. Pure.
//!
//! Nothing here knows a wire format: `mesos/wire.rs` converts to these types, `failover/redis` fills
//! [`Answer`], and the store keeps [`InstanceRecord`] and [`NodeRecord`] as JSON.

mod death;
mod offer;
mod record;
mod redis;
mod request;
mod task;
mod time;

pub use death::*;
pub use offer::*;
pub use record::*;
pub use redis::*;
pub use request::*;
pub use task::*;
pub use time::*;
