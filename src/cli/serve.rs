//! `operator` and `local`: settings, logs, and the operator in this process. I/O.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

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
    // Like all other files: what is wrong with them is no trouble of the store's, which is tried again and again.
    settings.etcd.credentials().check()?;
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
    let redis_server = program("--redis-server", &redis_server).map_err(|error| usage(&error))?;
    telemetry::init(&log)?;
    files::keep_to_ourselves();
    let settings =
        LocalSettings { agents, listen, sentinel_listen, insecure_no_auth, allowed_hosts, dir, redis_server, log };
    run(crate::operator::run_local(settings))
}

/// The program as tasks start it, which run in folders of their own: a path is made a whole one, a name is looked up
/// in PATH.
fn program(flag: &str, given: &str) -> Result<String> {
    let runs = |path: &Path| path.metadata().is_ok_and(|data| data.is_file() && data.mode() & 0o111 != 0);
    if given.contains('/') {
        let path = std::path::absolute(given).with_context(|| format!("{flag} {given:?}"))?;
        ensure!(runs(&path), "{flag} {given:?}: there is no program at that path");
        return Ok(path.to_string_lossy().into_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = !given.is_empty() && std::env::split_paths(&path).any(|folder| runs(&folder.join(given)));
    ensure!(found, "{flag} {given:?}: no program of that name is in PATH; allowed are such a name and a path");
    Ok(given.to_string())
}

fn usage(error: &anyhow::Error) -> anyhow::Error {
    failure(Exit::Usage, format!("{error:#}"))
}

fn run(operator: impl Future<Output = Result<()>>) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("start the runtime")?.block_on(operator)?;
    Ok(Exit::Ok)
}
