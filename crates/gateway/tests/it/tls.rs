//! TLS: the handshake, and the reload of a changed certificate.

use std::{
    fs,
    io::Read,
    net::{SocketAddr, TcpStream},
    os::unix::fs::symlink,
    path::Path,
    sync::Arc,
};

use gateway::{RunError, config::TlsConfig};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring, pki_types::ServerName,
};
use tempfile::TempDir;

use crate::{
    app::{BODY, Builder, TIMEOUT, TestApp, get, wait_until},
    http::{Connection, request},
    logs::LOG,
};

/// A self-signed certificate and its key in PEM, and a client that trusts it.
pub(crate) struct Pair {
    certificate: String,
    key: String,
    client: Arc<ClientConfig>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["gateway.example".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), client: Arc::new(client) }
    }

    /// Writes `tls.crt` and `tls.key` to `folder`.
    pub(crate) fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("tls.crt"), &self.certificate).unwrap();
        fs::write(folder.join("tls.key"), &self.key).unwrap();
    }

    /// A connection of a client that trusts only this certificate.
    pub(crate) fn connect(
        &self,
        address: SocketAddr,
    ) -> std::io::Result<Connection<StreamOwned<ClientConnection, TcpStream>>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let name = ServerName::try_from("gateway.example").unwrap();
        let mut tls = ClientConnection::new(Arc::clone(&self.client), name).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        assert_eq!(tls.alpn_protocol(), Some(&b"http/1.1"[..]), "no HTTP/2");
        Ok(Connection::over(StreamOwned::new(tls, stream)))
    }

    fn is_served(&self, address: SocketAddr) -> bool {
        let Ok(mut connection) = self.connect(address) else { return false };
        connection.send(&request("POST", "/v1/embeddings", &[], BODY));
        connection.receive().status == 200
    }

    #[track_caller]
    fn wait_until_served(&self, address: SocketAddr) {
        wait_until("the certificate is served", || self.is_served(address));
    }
}

pub(crate) fn with(folder: &Path) -> Builder {
    let tls = TlsConfig { certificate: folder.join("tls.crt"), key: folder.join("tls.key") };
    TestApp::builder().config(|config| config.tls = Some(tls))
}

/// A server that is ready, by its probe without TLS.
fn start(folder: &Path) -> TestApp {
    let (builder, ops) = with(folder).ops();
    let app = builder.launch();
    wait_until("the server is ready", || get(ops, "/readyz").status == 200);
    app
}

#[test]
fn only_clients_that_trust_the_certificate_are_answered() {
    let (folder, pair) = (TempDir::new().unwrap(), Pair::new());
    pair.write(folder.path());
    let app = start(folder.path());
    let mut connection = pair.connect(app.address).unwrap();
    for _ in 0..3 {
        connection.send(&request("POST", "/v1/embeddings", &[], BODY));
        assert_eq!(connection.receive().status, 200);
    }
    assert!(!Pair::new().is_served(app.address), "a client of another certificate must not connect");
    let mut plain = TcpStream::connect(app.address).unwrap();
    plain.set_read_timeout(Some(TIMEOUT)).unwrap();
    std::io::Write::write_all(&mut plain, &request("GET", "/v1/models", &[], b"")).unwrap();
    let mut received = Vec::new();
    // The server may send an alert or reset the connection.
    let _ = plain.read_to_end(&mut received);
    assert!(!received.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&received));
}

#[test]
fn a_request_in_flight_over_tls_is_finished_while_draining() {
    let (folder, pair) = (TempDir::new().unwrap(), Pair::new());
    pair.write(folder.path());
    let mut app = start(folder.path());
    let connection = app.hold_request_on(pair.connect(app.address).unwrap(), BODY);
    app.drain(connection);
}

#[test]
fn a_changed_certificate_is_reloaded_and_open_connections_stay() {
    let (folder, [old, new]) = (TempDir::new().unwrap(), [Pair::new(), Pair::new()]);
    let (first, second) = (folder.path().join("1"), folder.path().join("2"));
    let mount = folder.path().join("mount");
    old.write(&first);
    new.write(&second);
    symlink(&first, &mount).unwrap();
    let app = start(&mount);
    let mut kept = old.connect(app.address).unwrap();
    // As the kubelet does: a new symbolic link atomically replaces the old one.
    symlink(&second, folder.path().join("next")).unwrap();
    fs::rename(folder.path().join("next"), &mount).unwrap();
    new.wait_until_served(app.address);
    assert!(!old.is_served(app.address));
    kept.send(&request("POST", "/v1/embeddings", &[], BODY));
    assert_eq!(kept.receive().status, 200);
}

#[test]
fn unusable_certificate_files_leave_the_last_good_pair_in_use() {
    let [good, other] = [Pair::new(), Pair::new()];
    let half = &good.certificate[..good.certificate.len() / 2];
    // Before the first server, so that no line is missed.
    let log = &*LOG;
    // Half-written, empty, of another key, missing.
    let apps = [Some(half), Some(""), Some(other.certificate.as_str()), None].map(|broken| {
        let folder = TempDir::new().unwrap();
        good.write(folder.path());
        let app = start(folder.path());
        let certificate = folder.path().join("tls.crt");
        match broken {
            Some(text) => fs::write(&certificate, text).unwrap(),
            None => fs::remove_file(&certificate).unwrap(),
        }
        (broken, app, folder, certificate)
    });
    for (broken, app, folder, certificate) in &apps {
        let path = certificate.to_str().unwrap();
        let is_rejected = |line: &str| line.contains("stays in use") && line.contains(path);
        wait_until("the file is rejected", || log.text().lines().any(is_rejected));
        assert!(good.is_served(app.address), "{broken:?}");
        other.write(folder.path());
    }
    for (_, app, ..) in &apps {
        other.wait_until_served(app.address);
    }
}

#[test]
fn an_unusable_certificate_at_start_up_is_an_error_that_shows_no_key() {
    let [one, other] = [Pair::new(), Pair::new()];
    for (certificate, key) in [
        (Some(one.certificate.as_str()), Some(other.key.as_str())),
        (Some(one.certificate.as_str()), None),
        (None, Some(one.key.as_str())),
        (Some(""), Some(one.key.as_str())),
        (Some(one.key.as_str()), Some(one.certificate.as_str())),
    ] {
        let folder = TempDir::new().unwrap();
        for (name, content) in [("tls.crt", certificate), ("tls.key", key)] {
            if let Some(content) = content {
                fs::write(folder.path().join(name), content).unwrap();
            }
        }
        let mut app = with(folder.path()).launch();
        let error = app.join().unwrap_err();
        assert!(matches!(error, RunError::Tls(_)), "{error:?}");
        let secret = other.key.lines().nth(1).unwrap();
        assert!(!format!("{error} {error:?}").contains(secret));
    }
}
