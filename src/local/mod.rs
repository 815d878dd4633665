//! The local cluster: speaks Mesos' scheduler API, runs real redis-server processes. I/O.

/// What `redisctl __task` runs: the shepherd of one redis-server.
pub fn task_main(args: &[String]) -> anyhow::Result<()> {
    anyhow::bail!("the local cluster is not wired yet ({args:?})")
}
