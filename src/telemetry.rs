//! What is logged, and how: one line for each thing that happens, on the standard error. I/O.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::time::UtcTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::plain::escape;

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
    let coloured = settings.format == Format::Text && io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(move || Lines { coloured }).with_timer(time);
    let registry = tracing_subscriber::registry().with(filter);
    match settings.format {
        Format::Text => registry.with(lines.with_ansi(coloured)).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .context("start logging")
}

/// Writes each event, of which each write is one whole, as one line of the standard error, so that no text
/// of others makes a line of its own.
struct Lines {
    /// With the escapes that make colours; the formatter lets no others through then.
    coloured: bool,
}

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(line(&String::from_utf8_lossy(event), self.coloured).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// An event on one line.
fn line(event: &str, coloured: bool) -> String {
    const ESCAPE: &str = "\u{1b}";
    let event = event.strip_suffix('\n').unwrap_or(event);
    let parts: Vec<_> = if coloured { event.split(ESCAPE).map(escape).collect() } else { vec![escape(event)] };
    parts.join(ESCAPE) + "\n"
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

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn an_event_is_one_line_whatever_its_texts_say() {
        assert_eq!(line("INFO said: größe\n", false), "INFO said: größe\n");
        let hostile = "INFO said: a\n2026 ERROR forged\r\u{1b}[2J\u{202e}x\n";
        assert_eq!(line(hostile, false), "INFO said: a\\n2026 ERROR forged\\r\\u{1b}[2J\\u{202e}x\n");
        assert_eq!(line("\u{1b}[32mINFO\u{1b}[0m a\nb\n", true), "\u{1b}[32mINFO\u{1b}[0m a\\nb\n");
    }
}
