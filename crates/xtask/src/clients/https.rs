//! The newest SDK before a server with TLS, whose certificate comes from a house's own authority.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::environment::{Environments, Kind};
use super::{LIMIT, told};
use crate::server::Server;
use crate::tap;
use crate::test::report::{Report, Suite};
use crate::workspace::Workspace;

/// Makes an authority and a certificate for the loopback address, and lets the SDK ask with and without it.
///
/// # Errors
/// The certificates cannot be made, or the server does not start.
pub(super) fn run(workspace: &Workspace, environments: &Environments<'_>, report: &mut Report) -> Result<()> {
    let folder = workspace.runtime().join("clients/tls");
    make(&folder)?;
    let file = |name: &str| folder.join(name).display().to_string();
    let server = Server::start(
        workspace,
        &[format!("--tls-certificate={}", file("tls.crt")), format!("--tls-key={}", file("tls.key"))],
    )?;
    let mut suite = Suite::new("openai (Python) 3.54.0, https");
    println!("\n{}", suite.name);
    match environments.command(Kind::Python("openai-3"), "check_openai_https.py") {
        Ok(mut command) => {
            // Where Python's programs look for authorities of one's own.
            command.env("SSL_CERT_FILE", folder.join("ca.crt"));
            tap::drive(told(&mut command, &server, workspace), LIMIT, &mut suite)?;
        }
        Err(reason) => suite.fail(reason),
    }
    if let Err(error) = server.stop() {
        suite.fail(format!("{error:#}"));
    }
    report.suites.push(suite);
    Ok(())
}

/// Writes `ca.crt`, `tls.crt` and `tls.key` below `folder`.
fn make(folder: &Path) -> Result<()> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.distinguished_name.push(rcgen::DnType::CommonName, "embedgate's test authority");
    let certificate = authority.self_signed(&key).context("cannot make an authority")?;
    let issuer = Issuer::new(authority, key);

    let own = KeyPair::generate().context("cannot make a key")?;
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()])
        .and_then(|leaf| leaf.signed_by(&own, &issuer))
        .context("cannot make a certificate")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (name, text) in
        [("ca.crt", certificate.pem()), ("tls.crt", leaf.pem()), ("tls.key", own.serialize_pem())]
    {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
