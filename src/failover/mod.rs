//! What Redis itself says of its nodes, and what follows from it. Pure, except `redis/`.

pub mod redis;
