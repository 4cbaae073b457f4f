//! TLS of the listener: a certificate and its key from two PEM files, read at start-up and again when they change.
//!
//! A new pair is used once key and certificate match. Until then the last good pair stays in use, so that no change of
//! the files breaks new connections. Open connections keep the pair that they began with.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use thiserror::Error;

use crate::{
    background::BackgroundThread,
    config::TlsConfig,
    error_chain::error_chain,
    reload::{self, Reloadable},
};

/// A certificate or key that cannot be used. It never quotes the files.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file is not a regular file, or far larger than any certificate.
    #[error("{} is not a PEM file: expected a regular file of at most 1 MiB", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
    },
    /// A file contains no certificate or key, or a malformed one.
    #[error("{} contains no valid {what} in PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The expected content.
        what: &'static str,
        /// The parser's error.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key do not match, or are of an unsupported kind.
    #[error(
        "the certificate {} and the key {} do not match or are not supported",
        certificate.display(),
        key.display()
    )]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// The TLS library's error.
        #[source]
        source: rustls::Error,
    },
    /// This build of rustls lacks both versions.
    #[error("this program's TLS library supports neither TLS 1.2 nor TLS 1.3")]
    Versions(#[source] rustls::Error),
    /// The system cannot start a thread.
    #[error("cannot start the thread that watches the certificate")]
    Thread(#[source] io::Error),
}

/// Marker in the app data of a listener with TLS; the framework's own cannot be set from outside.
pub(crate) struct IsTls;

/// Sets up TLS with the pair in `files`, which is reloaded while the returned thread lives.
///
/// # Errors
/// If the pair cannot be used.
pub(crate) fn open(files: &TlsConfig) -> Result<(ServerConfig, BackgroundThread), TlsError> {
    let resolver = Arc::new(CertResolver { files: files.clone(), pair: RwLock::default() });
    let thread = reload::watch("certificate", Arc::clone(&resolver), TlsError::Thread)?;
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Versions)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, thread))
}

#[derive(Debug)]
struct CertResolver {
    files: TlsConfig,
    /// The pair of new connections; `None` until the files are read.
    pair: RwLock<Option<Arc<CertifiedKey>>>,
}

impl ResolvesServerCert for CertResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.pair.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Reloadable for Arc<CertResolver> {
    type Snapshot = [Vec<u8>; 2];
    type Error = TlsError;

    fn read(&self) -> Result<Self::Snapshot, TlsError> {
        Ok([read(&self.files.certificate)?, read(&self.files.key)?])
    }

    fn apply(&self, [certificate, key]: &Self::Snapshot) -> Result<(), TlsError> {
        let files = &self.files;
        let pem_error = |path: &Path, what| {
            let path = path.to_owned();
            move |source| TlsError::Pem { path, what, source }
        };
        let mut chain = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(certificate) {
            chain.push(certificate.map_err(pem_error(&files.certificate, "certificate"))?);
        }
        if chain.is_empty() {
            return Err(pem_error(&files.certificate, "certificate")(pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(pem_error(&files.key, "key"))?;
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| {
            TlsError::Pair { certificate: files.certificate.clone(), key: files.key.clone(), source }
        })?;
        *self.pair.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(pair));
        Ok(())
    }

    fn log_reloaded(&self) {
        tracing::info!("the certificate was reloaded");
    }

    fn log_rejected(&self, error: &TlsError) {
        tracing::warn!(error = error_chain(error), "the last good certificate stays in use");
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let content = reload::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    content.ok_or_else(|| TlsError::NotPem { path: path.to_owned() })
}
