//! `operator` and `local`: settings, logs, and the operator in this process. I/O.

use anyhow::{Context as _, Result};

use super::args::{LocalArgs, OperatorArgs};
use super::outcome::{Exit, failure};
use super::text::print;
use crate::files;
use crate::settings::{self, Flags, LocalSettings, OperatorSettings};
use crate::telemetry;

/// Runs `redisctl operator`.
pub fn operator(args: OperatorArgs) -> Result<Exit> {
    let settings = settings_of(args.config.as_deref(), args.flags).map_err(|error| usage(&error))?;
    if args.print_config {
        print(&serde_yaml::to_string(&settings)?)?;
        return Ok(Exit::Ok);
    }
    telemetry::init(&settings.log)?;
    files::keep_to_ourselves();
    run(crate::operator::run(settings))
}

fn settings_of(config: Option<&std::path::Path>, given: Flags) -> Result<OperatorSettings> {
    let file = config.map(settings::read_file).transpose()?.unwrap_or_default();
    settings::resolve(given.or(file))
}

/// Runs `redisctl local`.
pub fn local(args: LocalArgs) -> Result<Exit> {
    let log = settings::log_settings(args.log_level, args.log_format).map_err(|error| usage(&error))?;
    let LocalArgs { agents, listen, sentinel_listen, insecure_no_auth, allowed_hosts, dir, redis_server, .. } = args;
    telemetry::init(&log)?;
    files::keep_to_ourselves();
    let settings =
        LocalSettings { agents, listen, sentinel_listen, insecure_no_auth, allowed_hosts, dir, redis_server, log };
    run(crate::operator::run_local(settings))
}

fn usage(error: &anyhow::Error) -> anyhow::Error {
    failure(Exit::Usage, format!("{error:#}"))
}

fn run(operator: impl Future<Output = Result<()>>) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("start the runtime")?.block_on(operator)?;
    Ok(Exit::Ok)
}
