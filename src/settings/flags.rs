//! What may be set of the operator: flags, variables, keys of a file; and which layer wins.
//! I/O: clap looks into the environment for what is not given.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::mesos::Containerizer;
use crate::spec::Period;
use crate::telemetry;

/// Where something listens, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// There.
    At(SocketAddr),
    /// Nowhere.
    None,
}

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        match text {
            "none" => Ok(Listen::None),
            text => text.parse().map(Listen::At).map_err(|_| format!("{text:?}: allowed are IP:PORT and none")),
        }
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listen::At(address) => address.fmt(f),
            Listen::None => f.write_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Listen, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Listen {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What may be set of the operator; absent: not said here.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default, expecting = "settings such as probe-interval: 5s")]
pub struct Flags {
    /// Where instances are declared and recorded: `etcd://HOST:PORT[,HOST:PORT...]/PREFIX`, the same with
    /// TLS by `etcds://`, or `file:PATH` [required]
    #[arg(long, env = "REDISCTL_STORE", value_name = "URL")]
    pub store: Option<String>,
    /// The authorities that have signed the certificates of etcd, PEM; read again when it changes [default:
    /// those of the system]
    #[arg(long, env = "REDISCTL_ETCD_CA", value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// Our certificate for etcd and those of its authorities, PEM; read again when it changes [default: none]
    #[arg(long, env = "REDISCTL_ETCD_CERTIFICATE", value_name = "FILE")]
    pub etcd_certificate: Option<PathBuf>,
    /// The private key of --etcd-certificate, PEM [default: none]
    #[arg(long, env = "REDISCTL_ETCD_KEY", value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,
    /// The user to log in as at etcd [default: none, or whom --etcd-certificate names]
    #[arg(long, env = "REDISCTL_ETCD_USER", value_name = "NAME")]
    pub etcd_user: Option<String>,
    /// A file that holds the user's password, and nothing else; read again when it changes [default: none]
    #[arg(long, env = "REDISCTL_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,
    /// The Mesos masters: `http://HOST:PORT[,HOST:PORT...]` or `https://...` (the leading one is found by
    /// itself), `zk://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/PATH` where they announce themselves in
    /// ZooKeeper, or `file:///PATH` of a file that holds one of these [required]
    #[arg(long, env = "REDISCTL_MESOS", value_name = "URL")]
    pub mesos: Option<String>,
    /// Masters that ZooKeeper names speak TLS [default: false]
    #[arg(long, env = "REDISCTL_MESOS_TLS", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_name = "BOOL")]
    pub mesos_tls: Option<bool>,
    /// Use agents of other regions than the masters', too: Mesos offers them to nobody who has not asked
    /// for them [default: false]
    #[arg(long, env = "REDISCTL_REMOTE_REGIONS", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    pub remote_regions: Option<bool>,
    /// The authorities that have signed the masters' certificates, PEM [default: those of the system]
    #[arg(long, env = "REDISCTL_MESOS_CA", value_name = "FILE")]
    pub mesos_ca: Option<PathBuf>,
    /// Where the HTTP API listens [default: 127.0.0.1:5656]
    #[arg(long, env = "REDISCTL_LISTEN", value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where other operators reach this API [default: http:// and the address of --listen]
    #[arg(long, env = "REDISCTL_ADVERTISE", value_name = "URL")]
    pub advertise: Option<String>,
    /// Where Redis clients find masters by Sentinel's protocol; or none [default: 127.0.0.1:26379]
    #[arg(long, env = "REDISCTL_SENTINEL_LISTEN", value_name = "IP:PORT|none")]
    pub sentinel_listen: Option<Listen>,
    /// Who may do what: a file of hashed tokens, see `redisctl token` [default: none, which is allowed
    /// on loopback addresses only]
    #[arg(long, env = "REDISCTL_AUTH_TOKENS", value_name = "FILE")]
    pub auth_tokens: Option<PathBuf>,
    /// Let everybody who reaches this do everything [default: false]
    #[arg(long, env = "REDISCTL_INSECURE_NO_AUTH", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    pub insecure_no_auth: Option<bool>,
    /// Names that the API may be asked for by (`Host`), with commas between, beside addresses, localhost and
    /// that of --advertise; looked at where no tokens are needed, so that no web page reaches it by a name of
    /// its own [default: none]
    #[arg(long, env = "REDISCTL_ALLOWED_HOSTS", value_name = "NAME")]
    pub allowed_hosts: Option<String>,
    /// How many requests one address may send to the API in a second; one that changes something counts
    /// as 100 [default: 20000]
    #[arg(long, env = "REDISCTL_RATE_LIMIT", value_name = "NUMBER")]
    pub rate_limit: Option<u32>,
    /// The API's certificate and those of its authorities, PEM; read again when it changes [default:
    /// none, plain HTTP]
    #[arg(long, env = "REDISCTL_TLS_CERTIFICATE", value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's private key, PEM [default: none]
    #[arg(long, env = "REDISCTL_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The authorities that have signed the certificates of the other operators, PEM [default: those
    /// of the system]
    #[arg(long, env = "REDISCTL_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The Mesos role whose resources are used, or several: a,b. Of each, reserved ones are used first
    /// [default: redisctl]
    #[arg(long, env = "REDISCTL_ROLE", value_name = "ROLE")]
    pub role: Option<String>,
    /// The principal to authenticate as with Mesos [default: none]
    #[arg(long, env = "REDISCTL_PRINCIPAL", value_name = "NAME")]
    pub principal: Option<String>,
    /// A file that holds the principal's secret, and nothing else [default: none]
    #[arg(long, env = "REDISCTL_SECRET_FILE", value_name = "PATH")]
    pub secret_file: Option<PathBuf>,
    /// The framework's name, as Mesos shows it [default: redisctl]
    #[arg(long, env = "REDISCTL_FRAMEWORK_NAME", value_name = "NAME")]
    pub framework_name: Option<String>,
    /// The user that tasks run as on the agents [default: the user that runs this]
    #[arg(long, env = "REDISCTL_USER", value_name = "USER")]
    pub user: Option<String>,
    /// How long Mesos keeps the tasks running with no operator connected [default: 4w]
    #[arg(long, env = "REDISCTL_FAILOVER_TIMEOUT", value_name = "PERIOD")]
    pub failover_timeout: Option<Period>,
    /// What runs `spec.redis.image` on the agents [default: mesos]
    #[arg(long, env = "REDISCTL_CONTAINERIZER", value_name = "KIND")]
    pub containerizer: Option<Containerizer>,
    /// The redis-server of the agents, for instances without an image: a path, or a name that is
    /// looked up in PATH there [default: redis-server]
    #[arg(long, env = "REDISCTL_REDIS_SERVER", value_name = "PATH")]
    pub redis_server: Option<String>,
    /// How often each node is probed [default: 5s]
    #[arg(long, env = "REDISCTL_PROBE_INTERVAL", value_name = "PERIOD")]
    pub probe_interval: Option<Period>,
    /// How long a node may take to answer [default: 1s]
    #[arg(long, env = "REDISCTL_REDIS_TIMEOUT", value_name = "PERIOD")]
    pub redis_timeout: Option<Period>,
    /// How often each instance is looked at even when nothing happens [default: 30s]
    #[arg(long, env = "REDISCTL_RESYNC_INTERVAL", value_name = "PERIOD")]
    pub resync_interval: Option<Period>,
    /// How many instances are acted upon at once [default: 256]
    #[arg(long, env = "REDISCTL_RECONCILE_CONCURRENCY", value_name = "NUMBER")]
    pub reconcile_concurrency: Option<usize>,
    /// How many instances have their nodes replaced for a change of the spec at once [default: 5]
    #[arg(long, env = "REDISCTL_ROLLING_MAX", value_name = "NUMBER")]
    pub rolling_max: Option<usize>,
    /// How long before an agent's maintenance its nodes leave it, and no others come [default: 1h]
    #[arg(long, env = "REDISCTL_DRAIN_AHEAD", value_name = "PERIOD")]
    pub drain_ahead: Option<Period>,
    /// How long the leadership of a dead operator lasts before another takes over [default: 3s]
    #[arg(long, env = "REDISCTL_LEADER_TTL", value_name = "PERIOD")]
    pub leader_ttl: Option<Period>,
    /// What is logged: error, warn, info, debug or trace, also by module (`info,redisctl::mesos=debug`)
    /// [default: info]
    #[arg(long, env = "REDISCTL_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How it is logged [default: text]
    #[arg(long, env = "REDISCTL_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<telemetry::Format>,
}

/// Fills each field from the first that has it. A field that is left out does not compile.
macro_rules! first_of {
    ($upper:ident, $lower:ident: $($field:ident),+ $(,)?) => {
        Flags { $($field: $upper.$field.or($lower.$field)),+ }
    };
}

impl Flags {
    /// These settings, and `lower` where they say nothing.
    #[must_use]
    pub fn or(self, lower: Flags) -> Flags {
        first_of!(self, lower:
            store, etcd_ca, etcd_certificate, etcd_key, etcd_user, etcd_password_file, mesos, mesos_tls, remote_regions, mesos_ca, listen, advertise, sentinel_listen, auth_tokens, insecure_no_auth, allowed_hosts, rate_limit, tls_certificate,
            tls_key, tls_ca, role, principal, secret_file, framework_name, user,
            failover_timeout, containerizer, redis_server, probe_interval, redis_timeout,
            resync_interval, reconcile_concurrency, rolling_max, drain_ahead, leader_ttl, log_level, log_format,
        )
    }
}
