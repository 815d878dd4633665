//! Settings of who is let in, and which files hold secrets. I/O (addresses).

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::{Listen, OperatorSettings};
use crate::files::Source;
use crate::mesos::Address;

/// What would let in more than somebody meant to.
pub(super) fn check(settings: &OperatorSettings) -> Result<()> {
    exposure(settings)?;
    settings.hosts().iter().try_for_each(|host| check_host(host))
}

/// Without tokens only those on this machine are let in, unless the user has said that all shall be.
fn exposure(settings: &OperatorSettings) -> Result<()> {
    if settings.auth_tokens.is_some() || settings.insecure_no_auth {
        return Ok(());
    }
    let refuse = |flag: &str, address: SocketAddr| {
        bail!(
            "--{flag} {address}: without --auth-tokens only loopback addresses are allowed (127.0.0.1), for everybody \
             who reaches it could do everything; --insecure-no-auth allows it all the same"
        )
    };
    match settings.sentinel_listen {
        _ if !settings.listen.ip().is_loopback() => refuse("listen", settings.listen),
        Listen::At(address) if !address.ip().is_loopback() => refuse("sentinel-listen", address),
        _ => Ok(()),
    }
}

/// A name, and nothing that only looks like one: no pattern, no port.
fn check_host(host: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let address = host.parse::<std::net::IpAddr>().is_ok();
    if address || (!host.is_empty() && host.chars().all(good)) {
        return Ok(());
    }
    bail!("--allowed-hosts {host:?}: allowed are names such as redis-op-1.example, without ports, with commas between");
}

impl OperatorSettings {
    /// The files with secrets that are read only when they are needed.
    pub fn secrets(&self) -> Vec<Source> {
        let source = |path: &PathBuf, flag| Source { path: path.clone(), flag, secret: true };
        let masters = match &self.mesos {
            Address::File(path) => Some(source(path, "--mesos")), // It may hold ZooKeeper's password.
            _ => None,
        };
        self.secret_file.iter().map(|path| source(path, "--secret-file")).chain(masters).collect()
    }

    /// The names that the API is asked for by, beside addresses: those of `--allowed-hosts` and `--advertise`.
    pub fn hosts(&self) -> Vec<String> {
        let named = self.allowed_hosts.split(',').filter(|_| !self.allowed_hosts.is_empty());
        let host = self.advertise.split_once("://").and_then(|(_, address)| address.rsplit_once(':'));
        let advertised = host.map(|(host, _)| host.trim_matches(['[', ']']));
        named.chain(advertised).map(|host| host.trim().trim_end_matches('.').to_ascii_lowercase()).collect()
    }
}
