//! TLS of the listener: the certificate and its key from two PEM files, read at start-up and again when they change.
//!
//! A new pair counts when key and certificate belong together. Until then the last good pair stays, so that nothing
//! that happens to the files turns a client away. Connections that are open go on with the pair they began with.

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
    background::Background,
    config::TlsConfig,
    middleware::chain,
    watched::{self, Watched},
};

/// A certificate or key that cannot be used. Never quotes what is in the files.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is no plain file, or far larger than any certificate.
    #[error("{} is no PEM file: it is no plain file of at most 1 MiB", path.display())]
    Unlike {
        /// The file.
        path: PathBuf,
    },
    /// A file holds no certificate, or no key, or something broken.
    #[error("{} holds no usable {what} in PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// The two do not belong together, or are of a kind that TLS does not know.
    #[error("the certificate {} and the key {} cannot be used together", certificate.display(), key.display())]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong with them.
        #[source]
        source: rustls::Error,
    },
    /// This build of rustls cannot speak the versions that we ask for.
    #[error("this program's TLS library offers neither TLS 1.2 nor TLS 1.3")]
    Versions(#[source] rustls::Error),
    /// Nobody can watch the files.
    #[error("cannot start the thread that watches the certificate")]
    Thread(#[source] io::Error),
}

/// Says to a handler that its client speaks TLS; the framework's own mark cannot be set from outside.
pub(crate) struct Encrypted;

/// Sets TLS up with the pair that `files` name, and keeps it as they say.
///
/// # Errors
/// When the pair cannot be used.
pub(crate) fn open(files: &TlsConfig) -> Result<(ServerConfig, Background), TlsError> {
    let current = Arc::new(Current { files: files.clone(), pair: RwLock::default() });
    let watch = watched::watch("certificate", Arc::clone(&current), TlsError::Thread)?;
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Versions)?
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, watch))
}

#[derive(Debug)]
struct Current {
    files: TlsConfig,
    /// What new connections begin with; there as soon as the files were read.
    pair: RwLock<Option<Arc<CertifiedKey>>>,
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.pair.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Watched for Arc<Current> {
    type Content = [Vec<u8>; 2];
    type Error = TlsError;

    fn read(&self) -> Result<Self::Content, TlsError> {
        Ok([read(&self.files.certificate)?, read(&self.files.key)?])
    }

    fn take_over(&self, [certificate, key]: &Self::Content) -> Result<(), TlsError> {
        let files = &self.files;
        let fault = |path: &Path, what| {
            let path = path.to_owned();
            move |source| TlsError::Pem { path, what, source }
        };
        let mut chain = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(certificate) {
            chain.push(certificate.map_err(fault(&files.certificate, "certificate"))?);
        }
        if chain.is_empty() {
            return Err(fault(&files.certificate, "certificate")(pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(fault(&files.key, "key"))?;
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| {
            TlsError::Pair { certificate: files.certificate.clone(), key: files.key.clone(), source }
        })?;
        *self.pair.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(pair));
        Ok(())
    }

    fn say_renewed(&self) {
        tracing::info!("the certificate was reloaded");
    }

    fn say_kept(&self, error: &TlsError) {
        tracing::warn!(error = chain(error), "the last good certificate stays in use");
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let content = watched::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    content.ok_or_else(|| TlsError::Unlike { path: path.to_owned() })
}
