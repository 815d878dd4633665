//! What is logged, and how: one line for each thing that happens, on the standard error. I/O.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::time::UtcTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object for each line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// `info`, or by module: `info,redisctl::mesos=debug`. `RUST_LOG`, when set, goes before it.
    #[serde(rename = "log-level")]
    pub level: String,
    /// How lines are written.
    #[serde(rename = "log-format")]
    pub format: Format,
}

/// Starts logging for the whole process. Fails when it has been started before.
pub fn init(settings: &Settings) -> Result<()> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(from_environment) if !from_environment.trim().is_empty() => filter(&from_environment).context("RUST_LOG")?,
        _ => filter(&settings.level).context("--log-level")?,
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

/// Reads a level, or levels by module.
pub fn filter(level: &str) -> Result<EnvFilter> {
    // A word that is no level would be taken for a module, and nothing but it would be logged.
    let is_level = |part: &str| part.contains('=') || part.trim().parse::<LevelFilter>().is_ok();
    let filter = if level.split(',').all(is_level) { EnvFilter::try_new(level).ok() } else { None };
    filter.with_context(|| {
        format!(
            "{level:?}: allowed are error, warn, info, debug, trace, and these by module: info,redisctl::mesos=debug"
        )
    })
}
