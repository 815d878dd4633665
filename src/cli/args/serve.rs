//! The grammar of the commands that serve: `operator` and `local`. I/O: clap looks into the environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::settings::{Flags, Listen};
use crate::telemetry::Format;

/// Arguments of `operator`.
#[derive(Args, Debug)]
#[command(after_help = "Each setting may also be given in the environment (as shown) and in the file of --config, \
    where it has\nthe flag's name without the dashes: `probe-interval: 2s`. A flag wins over the environment, which \
    wins over\nthe file. Periods are written as 250ms, 90s, 5m, 2h, 3d or 4w.")]
pub struct OperatorArgs {
    /// A YAML file with settings
    #[arg(long, env = "REDISCTL_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the settings in force, in the form of that file, and end
    #[arg(long)]
    pub print_config: bool,
    /// The settings.
    #[command(flatten)]
    pub flags: Flags,
}

/// Arguments of `local`.
#[derive(Args, Debug)]
pub struct LocalArgs {
    /// How many agents the cluster has
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub agents: u32,
    /// Where the HTTP API listens
    #[arg(long, env = "REDISCTL_LISTEN", value_name = "IP:PORT", default_value = crate::settings::LISTEN)]
    pub listen: SocketAddr,
    /// Where Redis clients find masters by Sentinel's protocol; or none
    #[arg(long, env = "REDISCTL_SENTINEL_LISTEN", value_name = "IP:PORT|none",
        default_value = crate::settings::SENTINEL_LISTEN)]
    pub sentinel_listen: Listen,
    /// Allow other addresses than loopback ones: everybody who reaches them can do everything
    #[arg(long, env = "REDISCTL_INSECURE_NO_AUTH")]
    pub insecure_no_auth: bool,
    /// Names that the API may be asked for by, with commas between, beside addresses and localhost
    #[arg(long, env = "REDISCTL_ALLOWED_HOSTS", value_name = "NAME")]
    pub allowed_hosts: Option<String>,
    /// Where the store and the files of the nodes are [default: a new directory, removed at the end]. What
    /// was declared there before is launched again, empty and with new passwords: no data outlives the nodes, which
    /// end with this command
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The redis-server to run: a path, or a name that is looked up in PATH
    #[arg(long, env = "REDISCTL_REDIS_SERVER", value_name = "PATH", default_value = "redis-server")]
    pub redis_server: String,
    /// What is logged: error, warn, info, debug or trace, also by module [default: info]
    #[arg(long, env = "REDISCTL_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How it is logged [default: text]
    #[arg(long, env = "REDISCTL_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<Format>,
}
