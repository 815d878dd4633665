//! How members of etcd are reached: with TLS or without, and as whom. Files are read again when they change. I/O.
//!
//! A connection keeps what it was made with, so each version of the files has a number: a member whose
//! connection has an older one makes another.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tracing::{error, info, warn};

/// Between two looks at whether files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A TCP connection to a member of the cluster takes milliseconds; a second allows for one lost packet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The largest file that is read: a bundle of all public authorities has a quarter of it.
const FILE_MAX: u64 = 1 << 20;

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

/// What the files say.
#[derive(Default, PartialEq)]
struct Contents {
    ca: Option<Vec<u8>>,
    /// Certificate and key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
    /// User and password.
    login: Option<(String, String)>,
}

/// The newest contents that were good.
struct Known {
    contents: Arc<Contents>,
    number: u64,
    looked: Instant,
    /// The last error, so that a wrong file is told of once.
    wrong: Option<String>,
}

/// How all members of one cluster are reached.
pub(super) struct Door {
    pub(super) tls: bool,
    pub(super) given: Credentials,
    known: Mutex<Known>,
    /// That etcd asks for no login was said.
    told: AtomicBool,
}

impl Door {
    /// An error names the setting that is wrong.
    pub(super) fn new(tls: bool, given: Credentials) -> Result<Door> {
        let contents = Arc::new(read(&given)?);
        if contents.login.is_some() && !tls {
            warn!("--etcd-user without TLS: who reads the network reads the password; etcds:// encrypts it");
        }
        let known = Mutex::new(Known { contents, number: 0, looked: Instant::now(), wrong: None });
        Ok(Door { tls, given, known, told: AtomicBool::new(false) })
    }

    /// The number of the newest contents. Looks at the files now and then.
    pub(super) fn number(&self) -> u64 {
        self.current().0
    }

    fn current(&self) -> (u64, Arc<Contents>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if self.given != Credentials::default() && known.looked.elapsed() >= LOOK_EVERY {
            known.looked = Instant::now();
            match read(&self.given) {
                Ok(newer) if newer != *known.contents => {
                    info!("the certificates or the password for etcd have changed: they are used from now on");
                    known.contents = Arc::new(newer);
                    known.number += 1;
                    known.wrong = None;
                }
                Ok(_) => known.wrong = None,
                Err(wrong) => {
                    let wrong = format!("{wrong:#}");
                    if known.wrong.as_ref() != Some(&wrong) {
                        error!("{wrong}; the former contents stay in use");
                    }
                    known.wrong = Some(wrong);
                }
            }
        }
        (known.number, known.contents.clone())
    }

    /// Connects when first used, and again whenever the connection has broken; logs in at once, if there
    /// is a user. Answers with the number of the contents that were used.
    pub(super) async fn dial(&self, endpoint: &str) -> Result<(Client, u64), etcd_client::Error> {
        let (number, contents) = self.current();
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

fn read(given: &Credentials) -> Result<Contents> {
    let ca = given.ca.as_deref().map(|path| read_ca(path).with_context(|| told("etcd-ca", path))).transpose()?;
    let identity = match (&given.certificate, &given.key) {
        (Some(certificate), Some(key)) => Some(read_identity(certificate, key)?),
        _ => None,
    };
    let login = match (&given.user, &given.password_file) {
        (Some(user), Some(path)) => {
            let password = read_password(path).with_context(|| told("etcd-password-file", path))?;
            Some((user.clone(), password))
        }
        _ => None,
    };
    Ok(Contents { ca, identity, login })
}

fn told(flag: &str, path: &Path) -> String {
    format!("--{flag} {}", path.display())
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let about = std::fs::metadata(path)?;
    ensure!(about.is_file(), "it is not a file");
    ensure!(about.len() <= FILE_MAX, "it has {} bytes: allowed are {FILE_MAX}", about.len());
    Ok(std::fs::read(path)?)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    ensure!(!all.is_empty(), "there is no certificate in it (-----BEGIN CERTIFICATE-----)");
    Ok(all)
}

/// The library passes over authorities that it does not understand: here they are an error.
fn read_ca(path: &Path) -> Result<Vec<u8>> {
    let pem = read_file(path)?;
    let mut roots = RootCertStore::empty();
    for (i, certificate) in certificates(&pem)?.into_iter().enumerate() {
        roots.add(certificate).with_context(|| format!("its certificate {} is not understood", i + 1))?;
    }
    Ok(pem)
}

fn read_identity(certificate: &Path, key: &Path) -> Result<(Vec<u8>, Vec<u8>)> {
    let chain_pem = read_file(certificate).with_context(|| told("etcd-certificate", certificate))?;
    let chain = certificates(&chain_pem).with_context(|| told("etcd-certificate", certificate))?;
    let key_pem = read_file(key).with_context(|| told("etcd-key", key))?;
    let secret = PrivateKeyDer::from_pem_slice(&key_pem).with_context(|| told("etcd-key", key))?;
    CertifiedKey::from_der(chain, secret, &ring::default_provider())
        .with_context(|| format!("{} does not fit {}", told("etcd-key", key), told("etcd-certificate", certificate)))?;
    Ok((chain_pem, key_pem))
}

fn read_password(path: &Path) -> Result<String> {
    let Ok(text) = String::from_utf8(read_file(path)?) else { bail!("it is not text") };
    let password = text.trim_end_matches(['\n', '\r']);
    ensure!(!password.is_empty(), "it is empty: it holds the password, and nothing else");
    ensure!(!password.contains(['\n', '\r']), "it has several lines: it holds the password, and nothing else");
    Ok(password.to_string())
}
