//! The local cluster: a stand-in Mesos master and agents in this process, with faults on demand. I/O.
//!
//! The master speaks the v1 scheduler API on loopback as Mesos 1.11 does; the agents run real
//! processes, or fake Redis servers where only their number matters. It is for trying things out and
//! for tests; the operator's code cannot tell it from Mesos.
//!
//! ```text
//!   scheduler ══ HTTP ══> http ──> call ──> subscribe, offers, accept, kill, ...   the master
//!       ^                                        │ launch, kill, acknowledge
//!       ╚═ RecordIO ═ send <── updates <─────── agent ──> process | fake_redis     the agents
//! ```
//!
//! Everything that the master and the agents know is one [`State`] behind one lock; a timer thread
//! does what is due. The master's part and the agents' part of it exchange only what Mesos'
//! messages carry, so that a lost message is a call that is left out.

mod accept;
mod agent;
mod bag;
mod call;
mod config;
mod drain;
mod fake_nodes;
mod fake_redis;
mod faults;
mod framework;
mod http;
mod json;
mod kill;
mod maintenance;
mod offers;
mod operator_api;
mod process;
mod reconcile;
mod registration;
mod state;
mod subscribe;
mod updates;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

pub use config::{AgentSpec, ClusterConfig, Nodes};
pub use faults::{Answer, TaskView};
pub use process::task_main;
use state::Shared;

/// How long a closing cluster waits for its killed processes to be reaped.
const REAP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running local cluster. Dropping it kills its tasks.
pub struct Cluster {
    shared: Arc<Shared>,
    timer: Option<JoinHandle<()>>,
    master: Mutex<Option<http::Server>>,
    address: String,
    remove_work_dir: bool,
}

impl Cluster {
    /// Starts the master and the agents; they are registered when this returns.
    pub fn start(mut config: ClusterConfig) -> Result<Cluster> {
        let remove_work_dir = config.work_dir.is_none();
        let work_dir = config.claim_work_dir()?;
        let address = format!("127.0.0.1:{}", config.claim_master_port()?);
        let fakes = match config.nodes {
            Nodes::Redis => None,
            Nodes::Simulated => Some(fake_nodes::FakeNodes::start()?),
        };
        let shared = Shared::new(config, work_dir, address.clone(), fakes);
        let timer = std::thread::Builder::new()
            .name("local-timer".to_string())
            .spawn({
                let shared = shared.clone();
                move || shared.run_timers()
            })
            .context("start the local cluster's timer")?;
        let cluster = Cluster { shared, timer: Some(timer), master: Mutex::new(None), address, remove_work_dir };
        cluster.start_master()?;
        Ok(cluster)
    }

    /// `127.0.0.1:PORT` of the master.
    pub fn master_address(&self) -> &str {
        &self.address
    }

    /// The directory of everything: each task's process works in a directory below it.
    pub fn work_dir(&self) -> PathBuf {
        self.shared.with(|state| state.work_dir.clone())
    }

    /// Starts the master again after [`Cluster::stop_master`]: a new one that knows the agents by
    /// its registry, but no frameworks and no tasks until agents have registered again.
    pub fn start_master(&self) -> Result<()> {
        let mut master = self.master.lock().expect("no holder panics");
        if master.is_some() {
            return Ok(());
        }
        let server = http::Server::start(self.shared.clone(), &self.address)?;
        *master = Some(server);
        drop(master);
        self.shared.with(state::State::master_started);
        Ok(())
    }

    /// Kills the master as `kill -9` would: streams are cut, calls get no answer, offers are void.
    pub fn stop_master(&self) {
        let server = self.master.lock().expect("no holder panics").take();
        if let Some(server) = server {
            server.stop(); // First: a stream that ends in order is no sign of a death.
            self.shared.with(state::State::master_stopped);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shared.close(REAP_TIMEOUT);
        self.stop_master();
        if let Some(timer) = self.timer.take() {
            let _ = timer.join(); // It ended by a panic: that is reported already.
        }
        if self.remove_work_dir {
            let _ = std::fs::remove_dir_all(self.work_dir()); // Temporary anyway.
        }
    }
}
