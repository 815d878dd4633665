//! TLS: HTTP clients that trust a given authority, and a server's side whose certificate may change. I/O.

pub mod words;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::files::{Followed, Source, Words};

/// A client that has not shaken hands by then is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A builder of HTTP clients. All of ours come from here: rustls has to be told once what computes for it.
///
/// Whom they ask is named by people or found where people said: no answer leads a token, or what is sent
/// beside it, to anybody else, and no variable of the environment (`HTTP_PROXY`) does.
pub fn http() -> reqwest::ClientBuilder {
    let _ = ring::default_provider().install_default(); // It fails when it has been done.
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy()
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

/// What is said when they have changed.
const WORDS: Words = Words { newer: "the certificate was read again", kept: "the former certificate stays in use" };

impl Files {
    /// What the files say, and go on to say as they change.
    fn follow(self) -> Result<Followed<Arc<CertifiedKey>>> {
        let sources = [
            Source { path: self.certificate, flag: "--tls-certificate", secret: false },
            Source { path: self.key, flag: "--tls-key", secret: true },
        ];
        Followed::new(sources.to_vec(), WORDS, move |_, contents| {
            certified((&sources[0], &contents[0]), (&sources[1], &contents[1])).map(Arc::new)
        })
    }
}

/// The certificates in PEM, of which there is one at least.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    ensure!(!all.is_empty(), "there is no certificate in it (-----BEGIN CERTIFICATE-----)");
    Ok(all)
}

/// A certificate, with those of its authorities after it, and its key: two files in PEM. An error names the one that
/// is wrong.
pub fn certified(certificate: (&Source, &[u8]), key: (&Source, &[u8])) -> Result<CertifiedKey> {
    let chain = certificates(certificate.1).with_context(|| certificate.0.to_string())?;
    let secret = PrivateKeyDer::from_pem_slice(key.1).with_context(|| key.0.to_string())?;
    CertifiedKey::from_der(chain, secret, &ring::default_provider())
        .with_context(|| format!("{} does not fit {}", key.0, certificate.0))
}

/// The certificate as the files last had it.
#[derive(Debug)]
struct Current(Followed<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.now()))
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
        let current = Current(files.follow()?);
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(current));
        Ok(Server(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands with a client that takes no more than some seconds for it.
    pub async fn shake_hands(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.0.accept(stream)).await;
        shaken.context("no handshake of TLS in time")?.context("no handshake of TLS")
    }
}
