//! What the controller works with: settings, ports. I/O.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use crate::board::Board;
use crate::failover::redis::Redis;
use crate::mesos::Session as Mesos;
use crate::metrics::Metrics;
use crate::model::{MesosEvent, Probe};
use crate::reconcile::draft::PlanSettings;
use crate::reconcile::execute::Input;
use crate::reconcile::targets::Targets;
use crate::reconcile::world::{Seen, Session, World};
use crate::store::{Leadership, Store};

/// What the controller needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Settings that plans depend on.
    pub plan: PlanSettings,
    /// Instances whose nodes are replaced for a change of their specs, at once.
    pub rolling_max: usize,
    /// Passes under way at once.
    pub passes_max: usize,
    /// Every instance is looked at this often at least.
    pub resync_interval: Duration,
}

/// Everything that the controller works with.
pub struct Parts {
    /// The store.
    pub store: Store,
    /// Proof that we may act.
    pub leadership: Arc<Leadership>,
    /// The Mesos session, and what comes from it.
    pub mesos: (Mesos, mpsc::Receiver<MesosEvent>),
    /// What is probed, and what comes of it.
    pub probes: (Targets, mpsc::Receiver<Probe>),
    /// The nodes.
    pub redis: Redis,
    /// What was read of the store, and what else is told.
    pub inputs: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    /// Makes the reflector list the store again.
    pub relist: Arc<Notify>,
    /// What this process has seen of the store: see [`World::resuming`].
    pub seen: Arc<Mutex<Seen>>,
    /// Where views are put up.
    pub board: Arc<Board>,
    /// Counts and durations.
    pub metrics: Arc<Metrics>,
}

/// Why the controller ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Leadership was lost: stand by again.
    NotLeader,
    /// Mesos has removed the framework, and it is given up: lead again, as a new one.
    BeginAnew,
}

impl Parts {
    /// Puts on the board what the operator knows of itself.
    pub fn report(&self, world: &World, watching: bool, (dirty, busy): (usize, usize)) {
        let (mesos, message) = match &world.session {
            Session::Disconnected(reason) => ("disconnected", reason.clone()),
            Session::Subscribed { .. } => ("subscribed", String::new()),
            Session::Ended(message) => ("ended", message.clone()),
        };
        let frozen = world.frozen.clone();
        self.metrics.set_queue(dirty, busy);
        self.board.set_operator(|operator| {
            operator.store_synced = watching;
            operator.mesos = mesos.to_string();
            operator.mesos_message = message;
            operator.frozen = frozen;
        });
    }
}
