//! Settings of `redisctl operator` and `redisctl local`: flags, environment, file and defaults. I/O.
//!
//! Each setting of the operator is a field of [`Flags`], which is read twice: from the command line
//! (where clap looks into the environment for what is not given), and from the file of `--config`,
//! where it has the flag's name without the dashes. [`resolve`] puts the layers together, flag over
//! environment over file over default, and checks the outcome.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::files;
use crate::mesos::{Address, Containerizer};
use crate::spec::Period;
use crate::telemetry;
use crate::tls::Files;

mod access;
mod etcd;
mod flags;

pub use etcd::Etcd;
pub use flags::{Flags, Listen};

/// Where the operator, and its API, listens by default.
pub const LISTEN: &str = "127.0.0.1:5656";

/// Where the operator answers as a Redis Sentinel by default.
pub const SENTINEL_LISTEN: &str = "127.0.0.1:26379";

/// Requests of one address in a second by default: a busy dashboard sends a hundred.
pub const RATE_LIMIT: u32 = 20_000;

/// The settings in force. Printed by `operator --print-config` in the form that `--config` reads.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OperatorSettings {
    /// `etcd://...` or `file:...`, for [`crate::store::Store::open`].
    pub store: String,
    /// As whom etcd is asked.
    #[serde(flatten)]
    pub etcd: Etcd,
    /// Where the masters are.
    #[serde(serialize_with = "as_text")]
    pub mesos: Address,
    /// They speak TLS, though ZooKeeper does not say so.
    pub mesos_tls: bool,
    /// Agents of other regions than the masters' are used, too.
    pub remote_regions: bool,
    /// The authorities of the masters' certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesos_ca: Option<PathBuf>,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Where other operators reach it, without a slash at the end.
    pub advertise: String,
    /// Where it answers as a Redis Sentinel.
    pub sentinel_listen: Listen,
    /// The file of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_tokens: Option<PathBuf>,
    /// No tokens, and not on loopback addresses only.
    pub insecure_no_auth: bool,
    /// Names that the API is asked for by, with commas between.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub allowed_hosts: String,
    /// Requests of one address in a second.
    pub rate_limit: u32,
    /// The API's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// The authorities of the other operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    /// The Mesos role.
    pub role: String,
    /// The Mesos principal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Where its secret is: read it by [`OperatorSettings::secret`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// The framework's name.
    pub framework_name: String,
    /// The user that tasks run as.
    pub user: String,
    /// Mesos' `failover_timeout`.
    pub failover_timeout: Period,
    /// What runs images.
    pub containerizer: Containerizer,
    /// The redis-server of the agents.
    pub redis_server: String,
    /// Between two probes of one node.
    pub probe_interval: Period,
    /// For one answer of a node.
    pub redis_timeout: Period,
    /// Between two passes of an instance without events.
    pub resync_interval: Period,
    /// Instances acted upon at once.
    pub reconcile_concurrency: usize,
    /// Instances whose nodes are replaced for a change of their specs, at once.
    pub rolling_max: usize,
    /// Nodes leave an agent so long before its maintenance.
    pub drain_ahead: Period,
    /// Time to live of the leader's lease.
    pub leader_ttl: Period,
    /// What is logged, and how.
    #[serde(flatten)]
    pub log: telemetry::Settings,
}

/// Without what must not be shown.
fn as_text<S: serde::Serializer>(address: &Address, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(address)
}

/// The settings of `redisctl local`.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalSettings {
    /// How many agents the local cluster has.
    pub agents: u32,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Where it answers as a Redis Sentinel.
    pub sentinel_listen: Listen,
    /// Not on loopback addresses only.
    pub insecure_no_auth: bool,
    /// Names that the API is asked for by.
    pub allowed_hosts: Option<String>,
    /// Where the store and the nodes' files are; none: a temporary directory, removed at the end.
    pub dir: Option<PathBuf>,
    /// The redis-server that nodes run.
    pub redis_server: String,
    /// What is logged, and how.
    pub log: telemetry::Settings,
}

/// Reads the file of `--config`. An error names the file, the key and the line.
pub fn read_file(path: &Path) -> Result<Flags> {
    let text = files::read_text(path).with_context(|| format!("--config {}", path.display()))?;
    parse_file(&text).with_context(|| format!("--config {}", path.display()))
}

/// The settings that a file says. An empty file says nothing.
fn parse_file(text: &str) -> Result<Flags> {
    let result: Result<Option<Flags>, _> = serde_path_to_error::deserialize(serde_yaml::Deserializer::from_str(text));
    result.map(Option::unwrap_or_default).map_err(|error| {
        let key = error.path().to_string();
        let message = error.into_inner().to_string();
        if message.contains("unknown field `<<`") {
            return anyhow::anyhow!("merge keys (<<) are not known in this file: write out what they stand for");
        }
        if message.contains(" at line ") {
            return anyhow::Error::msg(message);
        }
        // Types of ours do not know where they are read, and at the file's start no line is told.
        let line = text.lines().position(|line| line.starts_with(&format!("{key}:"))).map_or(1, |i| i + 1);
        let key = if key == "." || message.contains(&key) { String::new() } else { format!("{key}: ") };
        anyhow::anyhow!("{key}{message} at line {line}")
    })
}

/// The settings in force: what is given, defaults for the rest. Everything is checked; an error
/// names the flag, the value and what is allowed.
pub fn resolve(given: Flags) -> Result<OperatorSettings> {
    let text = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.to_string());
    let period = |value: Option<Period>, default_ms| value.unwrap_or(Period(default_ms));
    let listen = given.listen.unwrap_or_else(default_listen);
    let etcd = Etcd {
        etcd_ca: given.etcd_ca,
        etcd_certificate: given.etcd_certificate,
        etcd_key: given.etcd_key,
        etcd_user: given.etcd_user,
        etcd_password_file: given.etcd_password_file,
    };
    let settings = OperatorSettings {
        store: etcd::store(given.store, &etcd)?,
        etcd,
        mesos: masters(given.mesos)?,
        mesos_tls: given.mesos_tls.unwrap_or(false),
        remote_regions: given.remote_regions.unwrap_or(false),
        mesos_ca: given.mesos_ca,
        listen,
        advertise: advertise(given.advertise, listen, given.tls_certificate.is_some())?,
        sentinel_listen: given.sentinel_listen.unwrap_or_else(default_sentinel_listen),
        auth_tokens: given.auth_tokens,
        insecure_no_auth: given.insecure_no_auth.unwrap_or(false),
        allowed_hosts: given.allowed_hosts.unwrap_or_default(),
        rate_limit: given.rate_limit.unwrap_or(RATE_LIMIT),
        tls_certificate: given.tls_certificate,
        tls_key: given.tls_key,
        tls_ca: given.tls_ca,
        role: text(given.role, "redisctl"),
        principal: given.principal,
        secret_file: given.secret_file,
        framework_name: text(given.framework_name, "redisctl"),
        user: given.user.map_or_else(current_user, Ok)?,
        failover_timeout: period(given.failover_timeout, 4 * 7 * 24 * 3_600_000),
        containerizer: given.containerizer.unwrap_or_default(),
        redis_server: text(given.redis_server, "redis-server"),
        probe_interval: period(given.probe_interval, 5000),
        redis_timeout: period(given.redis_timeout, 1000),
        resync_interval: period(given.resync_interval, 30_000),
        reconcile_concurrency: given.reconcile_concurrency.unwrap_or(256),
        rolling_max: given.rolling_max.unwrap_or(5),
        drain_ahead: period(given.drain_ahead, 3_600_000),
        leader_ttl: period(given.leader_ttl, 3000),
        log: log_settings(given.log_level, given.log_format)?,
    };
    check(&settings)?;
    Ok(settings)
}

/// The address of `--listen` when nobody says another.
pub fn default_listen() -> SocketAddr {
    LISTEN.parse().expect("the constant is an address")
}

/// The address of `--sentinel-listen` when nobody says another.
pub fn default_sentinel_listen() -> Listen {
    SENTINEL_LISTEN.parse().expect("the constant is an address")
}

/// The log settings in force.
pub fn log_settings(level: Option<String>, format: Option<telemetry::Format>) -> Result<telemetry::Settings> {
    let level = level.unwrap_or_else(|| "info".to_string());
    telemetry::filter(&level).context("--log-level")?;
    Ok(telemetry::Settings { level, format: format.unwrap_or_default() })
}

fn masters(given: Option<String>) -> Result<Address> {
    let Some(text) = given else { bail!("--mesos is not set: {}", crate::mesos::FORMS) };
    text.parse().context("--mesos")
}

fn advertise(given: Option<String>, listen: SocketAddr, tls: bool) -> Result<String> {
    let scheme = if tls { "https" } else { "http" };
    let Some(url) = given else {
        if listen.ip().is_unspecified() {
            bail!(
                "--listen {listen} names no address that others could reach: set --advertise {scheme}://HOST:PORT too"
            );
        }
        return Ok(format!("{scheme}://{listen}"));
    };
    let rest = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
    if !rest.is_some_and(|rest| is_host_port(rest.trim_end_matches('/'))) {
        bail!("--advertise {url:?}: allowed is {scheme}://HOST:PORT");
    }
    Ok(url.trim_end_matches('/').to_string())
}

/// `HOST:PORT`, `IP:PORT` or `[IPv6]:PORT`.
fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_is_good = match bracketed {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')),
    };
    host_is_good && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// What concerns one value alone, or two of them together.
fn check(settings: &OperatorSettings) -> Result<()> {
    let period = |flag: &str, value: Period, min: u64, max: u64| {
        if !(min..=max).contains(&value.0) {
            bail!("--{flag} {value}: allowed is {} to {}", Period(min), Period(max));
        }
        Ok(())
    };
    access::check(settings)?;
    if settings.tls_certificate.is_some() != settings.tls_key.is_some() {
        bail!("--tls-certificate and --tls-key: one is set, and both are needed");
    }
    if settings.rate_limit == 0 {
        bail!("--rate-limit 0: allowed is 1 and more");
    }
    period("failover-timeout", settings.failover_timeout, 60_000, 52 * 7 * 24 * 3_600_000)?;
    period("probe-interval", settings.probe_interval, 100, 600_000)?;
    period("redis-timeout", settings.redis_timeout, 50, 60_000)?;
    period("resync-interval", settings.resync_interval, 1000, 3_600_000)?;
    period("drain-ahead", settings.drain_ahead, 0, 4 * 7 * 24 * 3_600_000)?;
    period("leader-ttl", settings.leader_ttl, 1000, 60_000)?; // etcd counts leases in seconds.
    if !(1..=10_000).contains(&settings.rolling_max) {
        bail!("--rolling-max {}: allowed is 1 to 10000", settings.rolling_max);
    }
    if !(1..=10_000).contains(&settings.reconcile_concurrency) {
        bail!("--reconcile-concurrency {}: allowed is 1 to 10000", settings.reconcile_concurrency);
    }
    for (flag, value) in [
        ("role", &settings.role),
        ("framework-name", &settings.framework_name),
        ("user", &settings.user),
        ("redis-server", &settings.redis_server),
    ] {
        if value.is_empty() {
            bail!("--{flag} is empty: leave it out for its default");
        }
    }
    settings.role.split(',').try_for_each(check_role)?;
    match (&settings.principal, &settings.secret_file) {
        (None, Some(path)) => bail!("--secret-file {}: it needs --principal beside it", path.display()),
        _ => Ok(()),
    }
}

/// What Mesos allows of a role: it refuses the subscription otherwise.
fn check_role(role: &str) -> Result<()> {
    let part_is_good = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part != "*"
            && !part.starts_with('-')
            && !part.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\')
    };
    if role == "*" || role.split('/').all(part_is_good) {
        return Ok(());
    }
    bail!(
        "--role {role:?}: allowed are names such as redisctl or prod/redis, without spaces and backslashes, with commas between"
    );
}

/// The name of the user that runs this process.
fn current_user() -> Result<String> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let named = std::fs::read_to_string("/etc/passwd").ok().and_then(|passwd| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == uid).then(|| name.to_string())
        })
    });
    named
        .or_else(|| std::env::var("USER").ok().filter(|user| !user.is_empty()))
        .with_context(|| format!("--user is not set, and user {uid} has no name on this machine"))
}

impl OperatorSettings {
    /// The files of the API's certificate, if it has one.
    pub fn tls(&self) -> Option<Files> {
        let (certificate, key) = (self.tls_certificate.clone()?, self.tls_key.clone()?);
        Some(Files { certificate, key })
    }
}
