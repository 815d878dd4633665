//! The operator: wires store, Mesos session, controller and API together. I/O.

use anyhow::{Result, bail};

use crate::settings::{LocalSettings, OperatorSettings};

/// Runs the operator until it is told to stop.
#[allow(clippy::unused_async)]
pub async fn run(settings: OperatorSettings) -> Result<()> {
    bail!("the operator is not wired yet (store {})", settings.store)
}

/// Runs an operator, its store and a local cluster in this process.
#[allow(clippy::unused_async)]
pub async fn run_local(settings: LocalSettings) -> Result<()> {
    bail!("the local mode is not wired yet ({} agents)", settings.agents)
}
