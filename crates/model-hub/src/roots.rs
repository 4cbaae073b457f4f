//! Root certificates: the system's, or Mozilla's on a machine without a certificate store.

use std::sync::Arc;

use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Returns the TLS settings of a client.
pub fn tls_config() -> TlsConfig {
    // Certificates that cannot be read are skipped; the others may suffice.
    let native = rustls_native_certs::load_native_certs().certs;
    let roots = if native.is_empty() {
        RootCerts::WebPki
    } else {
        let certificates: Vec<_> = native.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        RootCerts::Specific(Arc::new(certificates))
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider).build()
}
