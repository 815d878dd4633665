//! How we speak to Mesos: one session with the leading master, events out, calls in. Pure.
//!
//! ```text
//!              SUBSCRIBE            a stream without end
//!  session ──────────────▶ master ─────────────────────▶ recordio ──▶ wire ──▶ MesosEvent ──▶ the operator
//!     │ the current subscription: its number, master and stream id                                │
//!     ▼                                                                                           ▼
//!  calls (one after another) ◀──────────────────── Session::send(subscription, MesosCall) ────────┘
//!     └──▶ call ──▶ HTTP, on connections of their own ──▶ master
//! ```
//!
//! A subscription that ends takes its offers with it, and the master tells no task's state again. So
//! the operator forgets its offers and reconciles at every [`Subscribed`], and says with every call
//! for which subscription it is meant: a call that comes too late is dropped, never sent on the next.
//!
//! [`Subscribed`]: crate::model::MesosEvent::Subscribed

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;

mod agents;
mod call;
mod calls;
mod client;
mod coroner;
mod life;
mod masters;
pub mod recordio;
mod room;
mod secret;
mod session;
mod subscriber;
pub mod task;
pub mod wire;

pub use client::{FrameworkInfo, frameworks};
pub use life::{Life, Standing, life};
pub use masters::{Address, FORMS, Masters};
pub use room::rooms;
pub use secret::SecretFile;
pub use session::{NotSent, Session};

/// Four weeks: an operator that is away for a holiday does not cost anybody's data.
pub const FAILOVER_TIMEOUT_S: f64 = 4.0 * 7.0 * 24.0 * 3600.0;

/// Mesos counts the failover timeout in 64-bit nanoseconds.
const FAILOVER_TIMEOUT_S_MAX: f64 = 9.2e9;

/// What runs a task that has an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Containerizer {
    /// The Mesos containerizer (UCR).
    #[default]
    Mesos,
    /// The Docker containerizer.
    Docker,
}

/// Where Mesos is, and as whom we register.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the masters are. One of several is enough.
    pub masters: Masters,
    /// The authorities that have signed their certificates, PEM; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The roles whose resources we are offered. They should be ours alone.
    pub roles: Vec<String>,
    /// Whether agents of other regions than the master's are offered, too.
    pub remote_regions: bool,
    /// As whom we authenticate. It can never change for a framework.
    pub principal: Option<String>,
    /// Holds the principal's secret; read again at every subscription and when it is refused. None:
    /// no authentication.
    pub secret_file: Option<SecretFile>,
    /// The user on the agents that tasks run as.
    pub user: String,
    /// The framework's name, for people.
    pub name: String,
    /// How long the master lets tasks run without us.
    pub failover_timeout_s: f64,
    /// Our hostname, for people.
    pub hostname: Option<String>,
    /// Our web page, for people.
    pub webui_url: Option<String>,
    /// What runs tasks that have an image.
    pub containerizer: Containerizer,
    /// The framework's labels.
    pub labels: BTreeMap<String, String>,
    /// The largest event that is taken, in bytes.
    pub record_max: usize,
    /// How long to wait for what.
    pub timing: Timing,
    /// Where calls and signs of life are counted.
    pub metrics: Arc<Metrics>,
    /// Looked at before each subscription: who does not lead any more would take it from who does.
    pub lease: Lease,
}

/// Whether we may act, now.
#[derive(Clone)]
pub struct Lease(pub Arc<dyn Fn() -> bool + Send + Sync>);

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&(self.0)()).finish()
    }
}

impl Default for Lease {
    fn default() -> Lease {
        Lease(Arc::new(|| true))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            masters: Masters::named(Vec::new()),
            ca_file: None,
            roles: vec!["redis".to_string()],
            remote_regions: false,
            principal: None,
            secret_file: None,
            user: "nobody".to_string(),
            name: "redisctl".to_string(),
            failover_timeout_s: FAILOVER_TIMEOUT_S,
            hostname: None,
            webui_url: None,
            containerizer: Containerizer::default(),
            labels: BTreeMap::new(),
            record_max: recordio::RECORD_MAX,
            timing: Timing::default(),
            metrics: Arc::default(),
            lease: Lease::default(),
        }
    }
}

impl Settings {
    fn check(&self) -> Result<()> {
        ensure!(!self.masters.is_none(), "no Mesos master is given: at least one host:port is needed");
        ensure!(!self.roles.is_empty(), "no role is given: at least one is needed");
        for role in &self.roles {
            let role_ok = !role.is_empty() && !role.starts_with('-') && !role.contains(char::is_whitespace);
            ensure!(role_ok, "role {role:?}: allowed is a name without white space that does not start with -");
        }
        let timeout_ok = self.failover_timeout_s > 0.0 && self.failover_timeout_s <= FAILOVER_TIMEOUT_S_MAX;
        ensure!(
            timeout_ok,
            "failover timeout {} s: allowed is more than 0 and at most {FAILOVER_TIMEOUT_S_MAX} s",
            self.failover_timeout_s
        );
        let secret_ok = self.secret_file.is_none() || self.principal.is_some();
        ensure!(secret_ok, "a secret file is given but no principal: authentication needs both");
        Ok(())
    }
}

/// How long to wait for what. The defaults are right for production; tests are less patient.
#[derive(Clone, Debug)]
pub struct Timing {
    /// For a connection to a master.
    pub connect: Duration,
    /// From the connection to SUBSCRIBED: a master that takes longer is not well.
    pub subscribe: Duration,
    /// So many heartbeats without an event end a subscription.
    pub silence_heartbeats: f64,
    /// Instead of them, as long as the master has not said how often it sends heartbeats.
    pub silence: Duration,
    /// For the reply to a call.
    pub call: Duration,
    /// The first pause between two rounds of attempts is random between 0 and this; it doubles.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// A subscription that lived so long was healthy: the next attempt is made at once.
    pub healthy: Duration,
    /// The pause when the master refuses us for a reason that somebody has to mend.
    pub slow: Duration,
    /// Between two looks at which agents are to be emptied.
    pub agents: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            connect: Duration::from_secs(5),
            subscribe: Duration::from_secs(10),
            silence_heartbeats: 3.0,
            silence: Duration::from_secs(45),
            call: Duration::from_secs(15),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(15),
            healthy: Duration::from_secs(10),
            slow: Duration::from_secs(30),
            agents: Duration::from_secs(5),
        }
    }
}
