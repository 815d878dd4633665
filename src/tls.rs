//! TLS: HTTP clients that trust a given authority, and a listener whose certificate may change. I/O.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::serve::Listener;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::files::{Followed, Source, Words};

/// A client that has not shaken hands by then is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at once: each costs about a millisecond of a core.
const HANDSHAKES_MAX: usize = 256;
/// Between two tries to take a connection when the system has no more files.
const BREATH: Duration = Duration::from_millis(100);

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
        let sources = vec![
            Source { path: self.certificate.clone(), flag: "--tls-certificate", secret: false },
            Source { path: self.key.clone(), flag: "--tls-key", secret: true },
        ];
        Followed::new(sources, WORDS, move |_, contents| self.certified(&contents[0], &contents[1]).map(Arc::new))
    }

    fn certified(&self, certificate: &[u8], key: &[u8]) -> Result<CertifiedKey> {
        let chain = || -> Result<Vec<CertificateDer<'static>>> {
            let all = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
            ensure!(!all.is_empty(), "there is no certificate in it (-----BEGIN CERTIFICATE-----)");
            Ok(all)
        };
        let chain = chain().with_context(|| format!("--tls-certificate {}", self.certificate.display()))?;
        let key = PrivateKeyDer::from_pem_slice(key).with_context(|| format!("--tls-key {}", self.key.display()))?;
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider());
        certified.with_context(|| {
            format!("--tls-key {} does not fit --tls-certificate {}", self.key.display(), self.certificate.display())
        })
    }
}

/// The certificate as the files last had it.
#[derive(Debug)]
struct Current(Followed<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.now()))
    }
}

fn acceptor(files: Files) -> Result<TlsAcceptor> {
    let current = Current(files.follow()?);
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(current));
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Takes connections that have shaken hands. One that takes its time holds up no other.
pub struct TlsListener {
    accepted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

impl TlsListener {
    /// Over a listener for plain connections.
    pub fn new(listener: TcpListener, files: Files) -> Result<TlsListener> {
        let (acceptor, address) = (acceptor(files)?, listener.local_addr().context("the API's address")?);
        let (out, accepted) = mpsc::channel(1);
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, acceptor, out)));
        Ok(TlsListener { accepted, address, _accepting: accepting })
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, out: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let place = places.clone().acquire_owned().await;
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let (acceptor, out) = (acceptor.clone(), out.clone());
        tokio::spawn(async move {
            let _place = place;
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => drop(out.send((stream, peer)).await), // The server has ended: so does this.
                Ok(Err(error)) => debug!("{peer}: {error}"),
                Err(_) => debug!("{peer}: no handshake in time"),
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await, // It ends only with us.
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}
