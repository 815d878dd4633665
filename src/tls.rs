//! TLS: HTTP clients that trust a given authority, and a server's side whose certificate may change. I/O.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{error, info};

use crate::access::sha256_hex;
use crate::operator::reloads;

/// Between two looks at whether a certificate's files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A client that has not shaken hands by then is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A builder of HTTP clients. All of ours come from here: rustls has to be told once what computes for it.
pub fn http() -> reqwest::ClientBuilder {
    let _ = ring::default_provider().install_default(); // It fails when it has been done.
    reqwest::Client::builder()
}

/// The same, for servers whose certificates these authorities have signed, and no others; none: those
/// that the system trusts.
pub fn http_with(ca_file: Option<&Path>) -> Result<reqwest::ClientBuilder> {
    let Some(path) = ca_file else { return Ok(http()) };
    let read = || {
        let certificates = reqwest::Certificate::from_pem_bundle(&std::fs::read(path)?)?;
        ensure!(!certificates.is_empty(), "there is no certificate in it (-----BEGIN CERTIFICATE-----)");
        Ok(certificates)
    };
    let certificates = read().with_context(|| format!("the certificates of {}", path.display()))?;
    Ok(http().tls_certs_only(certificates))
}

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The chain, the server's own certificate first; PEM.
    pub certificate: PathBuf,
    /// Its private key; PEM.
    pub key: PathBuf,
}

/// What tells one version of both files from another: what is in them. (A file may be replaced with its time kept.)
type Version = [Option<String>; 2];

impl Files {
    fn version(&self) -> Version {
        [&self.certificate, &self.key].map(|path| std::fs::read(path).ok().map(sha256_hex))
    }

    fn read(&self) -> Result<CertifiedKey> {
        let certificates = || -> Result<Vec<CertificateDer<'static>>> {
            let all = CertificateDer::pem_file_iter(&self.certificate)?.collect::<Result<Vec<_>, _>>()?;
            ensure!(!all.is_empty(), "there is no certificate in it (-----BEGIN CERTIFICATE-----)");
            Ok(all)
        };
        let chain = certificates().with_context(|| format!("--tls-certificate {}", self.certificate.display()))?;
        let key =
            || PrivateKeyDer::from_pem_file(&self.key).with_context(|| format!("--tls-key {}", self.key.display()));
        let certified = CertifiedKey::from_der(chain, key()?, &ring::default_provider());
        certified.with_context(|| {
            format!("--tls-key {} does not fit --tls-certificate {}", self.key.display(), self.certificate.display())
        })
    }
}

/// The certificate as the files last had it.
struct Current {
    files: Files,
    known: Mutex<Known>,
}

struct Known {
    key: Arc<CertifiedKey>,
    version: Version,
    looked: Instant,
    /// See [`reloads`].
    reloads: u64,
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut known = self.known.lock().expect("no holder panics");
        let asked = reloads();
        if known.looked.elapsed() >= LOOK_EVERY || known.reloads != asked {
            (known.looked, known.reloads) = (Instant::now(), asked);
            let now = self.files.version();
            if now != known.version {
                match self.files.read() {
                    Ok(newer) => {
                        info!("the certificate was read again");
                        known.key = Arc::new(newer);
                    }
                    Err(error) => error!("{error:#}; the former certificate stays in use"),
                }
                known.version = now; // A wrong file is told of once.
            }
        }
        Some(known.key.clone())
    }
}

/// The server's side of connections.
#[derive(Clone)]
pub struct Server(TlsAcceptor);

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// With the certificate in these files, which are read again when they change.
    pub fn new(files: Files) -> Result<Server> {
        let version = files.version();
        let key = Arc::new(files.read()?);
        let known = Mutex::new(Known { key, version, looked: Instant::now(), reloads: reloads() });
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Current { files, known }));
        Ok(Server(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands with a client that takes no more than some seconds for it.
    pub async fn shake_hands(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.0.accept(stream)).await;
        shaken.context("no handshake of TLS in time")?.context("no handshake of TLS")
    }
}
