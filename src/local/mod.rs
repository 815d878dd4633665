//! The local cluster: speaks Mesos' scheduler API, runs real redis-server processes. I/O.

/// What `redisctl __task` runs: the shepherd of one redis-server.
pub fn task_main(args: &[String]) -> anyhow::Result<()> {
    anyhow::bail!("the local cluster is not wired yet ({args:?})")
}
#[allow(missing_docs)] pub struct Cluster; #[allow(missing_docs)] pub struct ClusterConfig{pub work_dir:Option<std::path::PathBuf>}
#[allow(missing_docs,unused)] impl ClusterConfig{pub fn demo(n:u32)->anyhow::Result<Self>{Ok(ClusterConfig{work_dir:None})}}
#[allow(missing_docs,unused)] impl Cluster{pub fn start(c:ClusterConfig)->anyhow::Result<Cluster>{Ok(Cluster)} pub fn master_address(&self)->&str{""}}
