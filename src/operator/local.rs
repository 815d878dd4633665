//! The local mode: an operator, its store and a local cluster in one process. I/O.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;

use super::{candidate_id, serve, signals};
use crate::local::{Cluster, ClusterConfig};
use crate::model::Address;
use crate::open_files;
use crate::settings::{Flags, LocalSettings};
use crate::store::{Op, Store, TXN_OPS_MAX, Txn};

/// Runs an operator, its store and a local cluster in this process, until it is told to stop; then
/// its nodes are ended too.
pub async fn run_local(settings: LocalSettings) -> Result<()> {
    open_files::raise_limit();
    let listener = TcpListener::bind(settings.listen).await.with_context(|| format!("--listen {}", settings.listen))?;
    let listen = listener.local_addr().context("the API's address")?;
    let host = if listen.ip().is_unspecified() { "127.0.0.1".to_string() } else { listen.ip().to_string() };
    let url = format!("http://{}", Address { host, port: listen.port() });
    let stop = signals::listen(true)?;
    let (dir, _temporary) = local_dir(settings.dir.as_deref())?;
    let mut config = ClusterConfig::demo(settings.agents)?;
    config.work_dir = Some(dir.join("sandboxes"));
    let cluster = Cluster::start(config).context("start the local cluster")?;
    let store = Store::open(&format!("file:{}", dir.join("store.redb").display())).await?;
    forget_nodes(&store).await.context("forget the nodes of an earlier local cluster")?;
    let declared = store.list("instances/").await.context("list what is declared")?.items.len();
    let flags = Flags {
        insecure_no_auth: Some(settings.insecure_no_auth),
        allowed_hosts: settings.allowed_hosts,
        store: Some("file:unused".to_string()), // It is open already.
        mesos: Some(format!("http://{}", cluster.master_address())),
        listen: Some(listen),
        advertise: Some(url.clone()),
        sentinel_listen: Some(settings.sentinel_listen),
        redis_server: Some(settings.redis_server),
        ..Flags::default()
    };
    let operator = crate::settings::resolve(flags)?;
    eprintln!("redisctl local: {} agents, API at {url}, files in {}", settings.agents, dir.display());
    if declared > 0 {
        eprintln!(
            "{declared} declared before: launched again, empty and with new passwords, for no data outlives `redisctl local`"
        );
    }
    eprintln!("Try: redisctl apply -f examples/orders.yaml --wait --server {url}");
    Box::pin(serve(operator, store, listener, stop)).await
}

/// The directory of a local cluster; a temporary one is removed when the second value is dropped.
fn local_dir(given: Option<&std::path::Path>) -> Result<(PathBuf, Option<TemporaryDir>)> {
    if let Some(dir) = given {
        // Of one that is there, only what we put into it is ours to close.
        crate::files::private_folder(dir).with_context(|| format!("--dir {}", dir.display()))?;
        return Ok((dir.to_path_buf(), None));
    }
    let dir = std::env::temp_dir().join(format!("redisctl-local-{}", candidate_id()));
    std::fs::DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok((dir.clone(), Some(TemporaryDir(dir))))
}

struct TemporaryDir(PathBuf);

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // Temporary anyway.
    }
}

/// The local cluster ends with its process, nodes and all: what an earlier one has recorded of
/// nodes is void. What users declared stays, and is launched anew. The key of passwords goes as well: generations
/// begin again, and a password that was rotated out would be valid once more.
async fn forget_nodes(store: &Store) -> Result<(), crate::store::Error> {
    for prefix in ["nodes/", "state/", "status/", "operator/"] {
        for chunk in store.list(prefix).await?.items.chunks(TXN_OPS_MAX) {
            let ops = chunk.iter().map(|item| Op::Delete { key: item.key.clone() }).collect();
            store.commit(Txn { guards: Vec::new(), ops }).await?;
        }
    }
    Ok(())
}
