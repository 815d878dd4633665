//! What is logged, and how: one line for each thing that happens, on the standard error. I/O.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::UtcTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object for each line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `info`, or by module: `info,redisctl::mesos=debug`. `RUST_LOG`, when set, goes before it.
    pub level: String,
    /// How lines are written.
    pub format: Format,
}

/// Starts logging for the whole process. Fails when it has been started before.
pub fn init(settings: &Settings) -> Result<()> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(from_environment) if !from_environment.trim().is_empty() => {
            filter(&from_environment).context("read RUST_LOG")?
        }
        _ => filter(&settings.level).context("read --log-level")?,
    };
    let time = UtcTime::rfc_3339();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_timer(time);
    let registry = tracing_subscriber::registry().with(filter);
    match settings.format {
        Format::Text => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .context("start logging")
}

fn filter(level: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(level).with_context(|| {
        format!(
            "{level:?}: allowed are error, warn, info, debug, trace, and these by module: info,redisctl::mesos=debug"
        )
    })
}
