//! TLS of the listener: the certificate and its key from two PEM files, read at start-up and again when they change.
//!
//! As with the file of API keys, the content is what is compared, once a second: a Kubernetes mount swaps a link and
//! leaves times and sizes as they were. A new pair counts when it was seen twice, because the two files are written
//! one after the other, and when key and certificate belong together. Until then the last good pair stays, so that
//! nothing that happens to the files turns a client away. Connections that are open go on with the pair they began
//! with.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    background::{Background, Stop},
    config::TlsConfig,
    middleware::chain,
};

/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// A chain of a few certificates takes some kilobytes.
const LARGEST: u64 = 1 << 20;

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
    #[error("TLS cannot be set up")]
    Versions(#[source] rustls::Error),
    /// Nobody can watch the files.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Says to a handler that its client speaks TLS; the framework's own mark cannot be set from outside.
pub(crate) struct Encrypted;

/// Sets TLS up with the pair that `files` name, and keeps it as they say.
///
/// # Errors
/// When the pair cannot be used.
pub(crate) fn open(files: &TlsConfig) -> Result<(ServerConfig, Background), TlsError> {
    let provider = Arc::new(ring::default_provider());
    let content = Content::read(files)?;
    let current = Arc::new(Current(RwLock::new(content.pair(files, &provider)?)));
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let seen = content.hash();
    let mut watch = Watch { files: files.clone(), provider, current, used: seen, last: seen, said: false };
    let body = move |stop: &Stop| {
        while stop.pause(PERIOD) {
            watch.look();
        }
    };
    Ok((config, Background::start("certificate", body).map_err(TlsError::Thread)?))
}

/// The pair that new connections begin with.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What both files held when they were looked at: a hash, for a key is nobody's to keep.
type Seen = [u8; 32];

struct Watch {
    files: TlsConfig,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    /// The content in use.
    used: Seen,
    /// The content when it was last looked at.
    last: Seen,
    /// Whether it was logged that the files cannot be used.
    said: bool,
}

impl Watch {
    fn look(&mut self) {
        match self.renew() {
            Ok(true) => {
                self.said = false;
                tracing::info!("the certificate was read anew");
            }
            Ok(false) => {}
            Err(error) => {
                if !std::mem::replace(&mut self.said, true) {
                    tracing::warn!(error = chain(&error), "the last good certificate stays in use");
                }
            }
        }
    }

    /// Takes the files' pair over if there is something new; tells whether there was.
    fn renew(&mut self) -> Result<bool, TlsError> {
        let content = Content::read(&self.files)?;
        let seen = content.hash();
        let steady = std::mem::replace(&mut self.last, seen) == seen;
        if !steady {
            return Ok(false);
        }
        if seen == self.used {
            // What is in use is back, after something that could not be used.
            return Ok(std::mem::take(&mut self.said));
        }
        let pair = content.pair(&self.files, &self.provider)?;
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = pair;
        self.used = seen;
        Ok(true)
    }
}

/// What the two files hold.
struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Content {
    fn read(files: &TlsConfig) -> Result<Self, TlsError> {
        Ok(Self { certificate: read(&files.certificate)?, key: read(&files.key)? })
    }

    fn hash(&self) -> Seen {
        let length = (self.certificate.len() as u64).to_le_bytes();
        Sha256::new()
            .chain_update(length)
            .chain_update(&self.certificate)
            .chain_update(&self.key)
            .finalize()
            .into()
    }

    fn pair(&self, files: &TlsConfig, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
        let fault = |path: &Path, what| {
            let path = path.to_owned();
            move |source| TlsError::Pem { path, what, source }
        };
        let mut chain = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(&self.certificate) {
            chain.push(certificate.map_err(fault(&files.certificate, "certificate"))?);
        }
        if chain.is_empty() {
            return Err(fault(&files.certificate, "certificate")(pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(fault(&files.key, "key"))?;
        let pair = CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsError::Pair {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            source,
        })?;
        Ok(Arc::new(pair))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let fault = |source| TlsError::Read { path: path.to_owned(), source };
    // Opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(fault)?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err(TlsError::Unlike { path: path.to_owned() });
    }
    let mut content = Vec::new();
    File::open(path).map_err(fault)?.take(LARGEST).read_to_end(&mut content).map_err(fault)?;
    Ok(content)
}
