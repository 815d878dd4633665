//! The local cluster: speaks Mesos' scheduler API, runs real redis-server processes. I/O.

/// What `redisctl __task` runs: the shepherd of one redis-server.
pub fn task_main(args: &[String]) -> anyhow::Result<()> {
    anyhow::bail!("the local cluster is not wired yet ({args:?})")
}
#[allow(missing_docs)] pub struct Cluster; #[allow(missing_docs)] pub struct ClusterConfig;
#[allow(missing_docs,unused)] impl ClusterConfig{pub fn demo(n:u32)->Self{ClusterConfig}}
#[allow(missing_docs,unused)] impl Cluster{pub fn start(c:ClusterConfig)->anyhow::Result<Cluster>{Ok(Cluster)}}
