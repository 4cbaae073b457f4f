//! The newest SDK with a TLS server whose certificate comes from a private authority.

use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use testkit::files;
use testkit::report::Suite;

use super::Clients;
use super::environment::Kind;
use crate::start_server;

/// Creates an authority and a certificate for the loopback address; the script asks with and without the authority.
pub(super) fn run(clients: &Clients<'_>) -> Result<Suite> {
    let folder = clients.workspace.runtime().join("clients/tls");
    create_certificates(&folder)?;
    let file = |name: &str| folder.join(name).display().to_string();
    let flags = [format!("--tls-certificate={}", file("tls.crt")), format!("--tls-key={}", file("tls.key"))];
    let server = start_server(clients.workspace, &[&flags[0], &flags[1]])?;
    // Python's programs read further authorities from this file.
    let variables = [("SSL_CERT_FILE", file("ca.crt"))];
    let script = (Kind::Python("openai-3"), "check_openai_https.py");
    let mut suite = clients.run("openai (Python) 3.54.0, https", script, &server, &variables)?;
    suite.check("the server ends with code 0", || server.stop());
    Ok(suite)
}

/// Writes `ca.crt`, `tls.crt` and `tls.key` to `folder`.
fn create_certificates(folder: &Path) -> Result<()> {
    let key = KeyPair::generate().context("cannot create a key")?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.distinguished_name.push(rcgen::DnType::CommonName, "embedgate's test authority");
    let certificate = authority.self_signed(&key).context("cannot create an authority")?;
    let issuer = Issuer::new(authority, key);

    let own = KeyPair::generate().context("cannot create a key")?;
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()])
        .and_then(|leaf| leaf.signed_by(&own, &issuer))
        .context("cannot create a certificate")?;
    files::write(&folder.join("ca.crt"), certificate.pem())?;
    files::write(&folder.join("tls.crt"), leaf.pem())?;
    files::write(&folder.join("tls.key"), own.serialize_pem())
}
