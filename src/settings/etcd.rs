//! Settings of the store: where it is, and as whom etcd is asked. Pure.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::Serialize;

use super::is_host_port;
use crate::store::{Credentials, NO_PASSWORDS, STORE_FORMS};

/// As whom etcd is asked, and whom we take for etcd: see [`Credentials`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, clippy::struct_field_names)] // As the flags are called.
pub struct Etcd {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_password_file: Option<PathBuf>,
}

impl Etcd {
    /// For the store.
    pub fn credentials(&self) -> Credentials {
        let Etcd { etcd_ca, etcd_certificate, etcd_key, etcd_user, etcd_password_file } = self.clone();
        Credentials {
            ca: etcd_ca,
            certificate: etcd_certificate,
            key: etcd_key,
            user: etcd_user,
            password_file: etcd_password_file,
        }
    }

    /// The flags that are set.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("etcd-ca", self.etcd_ca.is_some()),
            ("etcd-certificate", self.etcd_certificate.is_some()),
            ("etcd-key", self.etcd_key.is_some()),
            ("etcd-user", self.etcd_user.is_some()),
            ("etcd-password-file", self.etcd_password_file.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

/// The store, checked with what goes with it. What may hold a password is not repeated.
pub(super) fn store(given: Option<String>, etcd: &Etcd) -> Result<String> {
    let Some(url) = given else { bail!("--store is not set: {STORE_FORMS}") };
    let (scheme, rest) = url.split_once(':').unwrap_or(("", &url));
    let etcd_rest = rest.strip_prefix("//").filter(|_| matches!(scheme, "etcd" | "etcds"));
    if scheme != "file" && url.contains('@') {
        bail!(NO_PASSWORDS);
    }
    let is_etcd = |rest: &str| {
        rest.split_once('/').is_some_and(|(hosts, prefix)| !prefix.is_empty() && hosts.split(',').all(is_host_port))
    };
    match (scheme, etcd_rest) {
        ("http", _) => bail!("--store {url:?}: etcd without TLS is written etcd://; {STORE_FORMS}"),
        ("https", _) => bail!("--store {url:?}: etcd with TLS is written etcds://; {STORE_FORMS}"),
        ("file", _) if !rest.trim_start_matches('/').is_empty() => {}
        (_, Some(rest)) if is_etcd(rest) => {}
        _ => bail!("--store {url:?}: {STORE_FORMS}"),
    }
    check(scheme, etcd)?;
    Ok(url)
}

fn check(scheme: &str, etcd: &Etcd) -> Result<()> {
    if let Some(flag) = etcd.given().find(|_| scheme == "file") {
        bail!("--{flag}: --store is a file, and no etcd");
    }
    if let Some(flag) = etcd
        .given()
        .find(|flag| scheme != "etcds" && !flag.starts_with("etcd-user") && !flag.starts_with("etcd-password"))
    {
        bail!("--{flag}: it is for TLS, which --store etcds://... asks for");
    }
    if etcd.etcd_certificate.is_some() != etcd.etcd_key.is_some() {
        bail!("--etcd-certificate and --etcd-key: one is set, and both are needed");
    }
    match (&etcd.etcd_user, &etcd.etcd_password_file) {
        (Some(user), _) if user.contains(':') => {
            bail!(
                "--etcd-user: allowed is a name without a colon; the password goes into the file of --etcd-password-file"
            )
        }
        (Some(user), _) if user.is_empty() || user.contains(char::is_control) => {
            bail!("--etcd-user {user:?}: allowed is the name of a user of etcd")
        }
        (Some(user), None) => bail!("--etcd-user {user}: it needs --etcd-password-file beside it"),
        (None, Some(path)) => bail!("--etcd-password-file {}: it needs --etcd-user beside it", path.display()),
        _ => Ok(()),
    }
}
