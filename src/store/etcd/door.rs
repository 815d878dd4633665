//! How members of etcd are reached: with TLS or without, and as whom. Files are followed ([`crate::files`]). I/O.
//!
//! A connection keeps what it was made with, so each version of the files has a number: a member whose
//! connection has an older one makes another.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use rustls::RootCertStore;
use tracing::warn;

use crate::files::{Followed, Source, Words, read_all, secret_of};
use crate::tls::{certificates, certified};

/// A TCP connection to a member of the cluster takes milliseconds; a second allows for one lost packet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// What is said when files have changed.
const WORDS: Words = Words {
    newer: "the certificates or the password for etcd have changed: they are used from now on",
    kept: "the former contents stay in use",
};

/// As whom etcd is asked, and whom we take for etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The authorities of the members' certificates, PEM; none: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// Our own certificate, and those of its authorities, PEM.
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
    /// The user of etcd.
    pub user: Option<String>,
    /// Holds the user's password, and nothing else.
    pub password_file: Option<PathBuf>,
}

const CA: &str = "--etcd-ca";
const CERTIFICATE: &str = "--etcd-certificate";
const KEY: &str = "--etcd-key";
const PASSWORD_FILE: &str = "--etcd-password-file";

impl Credentials {
    /// Whether the files can be used. An error names the setting that is wrong.
    pub fn check(&self) -> Result<()> {
        let files = self.files();
        read(&files, &read_all(&files)?, self.user.as_deref()).map(drop)
    }

    fn files(&self) -> Vec<Source> {
        let given = [
            (&self.ca, CA, false),
            (&self.certificate, CERTIFICATE, false),
            (&self.key, KEY, true),
            (&self.password_file, PASSWORD_FILE, true),
        ];
        let source =
            |(path, flag, secret): (&Option<PathBuf>, _, _)| Some(Source { path: path.clone()?, flag, secret });
        given.into_iter().filter_map(source).collect()
    }
}

/// What the files say.
#[derive(Default)]
struct Contents {
    /// How often they have changed.
    number: u64,
    ca: Option<Vec<u8>>,
    /// Certificate and key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
    /// User and password.
    login: Option<(String, String)>,
}

/// How all members of one cluster are reached.
pub(super) struct Door {
    pub(super) tls: bool,
    pub(super) given: Credentials,
    contents: Followed<Contents>,
    /// That etcd asks for no login was said.
    told: AtomicBool,
}

impl Door {
    /// An error names the setting that is wrong.
    pub(super) fn new(tls: bool, given: Credentials) -> Result<Door> {
        let (files, user) = (given.files(), given.user.clone());
        let read = move |former: Option<&Contents>, texts: &[Vec<u8>]| {
            let number = former.map_or(0, |former| former.number + 1);
            Ok(Contents { number, ..read(&files, texts, user.as_deref())? })
        };
        let contents = Followed::new(given.files(), WORDS, read)?;
        if contents.now().login.is_some() && !tls {
            warn!("--etcd-user without TLS: who reads the network reads the password; etcds:// encrypts it");
        }
        Ok(Door { tls, given, contents, told: AtomicBool::new(false) })
    }

    /// The number of the newest contents.
    pub(super) fn number(&self) -> u64 {
        self.contents.now().number
    }

    /// Connects when first used, and again whenever the connection has broken; logs in at once, if there
    /// is a user. Answers with the number of the contents that were used.
    pub(super) async fn dial(&self, endpoint: &str) -> Result<(Client, u64), etcd_client::Error> {
        let contents: Arc<Contents> = self.contents.now();
        let number = contents.number;
        let mut options = ConnectOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_require_leader(true);
        if self.tls {
            options = options.with_tls(tls(&contents));
        }
        let Some((user, password)) = &contents.login else {
            return Ok((Client::connect([endpoint], Some(options)).await?, number));
        };
        match Client::connect([endpoint], Some(options.clone().with_user(user, password))).await {
            Err(etcd_client::Error::GRpcStatus(status))
                if status.message().contains("authentication is not enabled") =>
            {
                if !self.told.swap(true, Ordering::Relaxed) {
                    warn!("--etcd-user {user}: etcd asks nobody for a password (etcdctl auth enable changes that)");
                }
                Ok((Client::connect([endpoint], Some(options)).await?, number))
            }
            Err(error) => Err(error),
            Ok(client) => {
                self.told.store(false, Ordering::Relaxed);
                Ok((client, number))
            }
        }
    }
}

fn tls(contents: &Contents) -> TlsOptions {
    let options = match &contents.ca {
        Some(ca) => TlsOptions::new().ca_certificate(Certificate::from_pem(ca)),
        None => TlsOptions::new().with_enabled_roots(),
    };
    match &contents.identity {
        Some((certificate, key)) => options.identity(Identity::from_pem(certificate, key)),
        None => options,
    }
}

fn read(files: &[Source], texts: &[Vec<u8>], user: Option<&str>) -> Result<Contents> {
    let file = |flag| {
        let mut files = files.iter().zip(texts).map(|(source, text)| (source, text.as_slice()));
        files.find(|(source, _)| source.flag == flag)
    };
    if let Some((source, pem)) = file(CA) {
        check_authorities(pem).with_context(|| source.to_string())?;
    }
    let identity = match (file(CERTIFICATE), file(KEY)) {
        (Some(certificate), Some(key)) => {
            certified(certificate, key)?;
            Some((certificate.1.to_vec(), key.1.to_vec()))
        }
        _ => None,
    };
    let login = match (user, file(PASSWORD_FILE)) {
        (Some(user), Some((source, text))) => {
            let password = secret_of(text.to_vec()).with_context(|| source.to_string())?;
            Some((user.to_string(), password))
        }
        _ => None,
    };
    Ok(Contents { number: 0, ca: file(CA).map(|(_, pem)| pem.to_vec()), identity, login })
}

/// The library passes over authorities that it does not understand: here they are an error.
fn check_authorities(pem: &[u8]) -> Result<()> {
    let mut roots = RootCertStore::empty();
    for (i, certificate) in certificates(pem)?.into_iter().enumerate() {
        roots.add(certificate).with_context(|| format!("its certificate {} is not understood", i + 1))?;
    }
    Ok(())
}
