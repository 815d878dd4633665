//! `operator` and `local`: settings, logs, and the operator in this process. I/O.

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

use super::args::{LocalArgs, OperatorArgs};
use super::outcome::{Exit, failure};
use super::text::print;
use crate::settings::{self, Flags, LocalSettings, LogFormat, LogSettings, OperatorSettings};

/// Runs `redisctl operator`.
pub fn operator(args: OperatorArgs) -> Result<Exit> {
    let settings = settings_of(args.config.as_deref(), args.flags).map_err(usage)?;
    if args.print_config {
        print(&serde_yaml::to_string(&settings)?)?;
        return Ok(Exit::Ok);
    }
    start_logs(&settings.log)?;
    run(crate::operator::run(settings))
}

fn settings_of(config: Option<&std::path::Path>, given: Flags) -> Result<OperatorSettings> {
    let file = config.map(settings::read_file).transpose()?.unwrap_or_default();
    settings::resolve(given.or(file))
}

/// Runs `redisctl local`.
pub fn local(args: LocalArgs) -> Result<Exit> {
    let log = settings::log_settings(args.log_level, args.log_format).map_err(usage)?;
    let LocalArgs { agents, listen, dir, redis_server, .. } = args;
    start_logs(&log)?;
    run(crate::operator::run_local(LocalSettings { agents, listen, dir, redis_server, log }))
}

fn usage(error: anyhow::Error) -> anyhow::Error {
    failure(Exit::Usage, format!("{error:#}"))
}

fn run(operator: impl Future<Output = Result<()>>) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("start the runtime")?.block_on(operator)?;
    Ok(Exit::Ok)
}

/// Logs go to the standard error: the standard output is for what was asked for.
fn start_logs(log: &LogSettings) -> Result<()> {
    let filter = EnvFilter::try_new(&log.log_level).context("--log-level")?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match log.log_format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => {
            let colours = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
            lines.with_ansi(colours).try_init()
        }
    };
    started.map_err(|error| anyhow::anyhow!("start logging: {error}"))
}
