//! `embedgate health`: asks a running server's `/readyz`, where there is neither a shell nor an HTTP client.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::config::Config;

/// For the whole question. A probe is answered without waiting for any work, and container engines give up soon.
const PATIENCE: Duration = Duration::from_secs(2);
/// The answer is a word and a few headers.
const LONGEST: usize = 8 * 1024;

/// The server is not ready, or cannot be asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HealthError {
    /// The settings let the system choose a port.
    #[error("port 0 lets the system choose where to listen: name a port")]
    NoPort,
    /// The probe answers by TLS alone, which this command does not speak.
    #[error("the server speaks TLS, which this command does not: give probes an address with `ops_listen`")]
    Tls,
    /// Nothing answers.
    #[error("no answer from {address}")]
    Unreachable {
        /// Who was asked.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What answers does not speak HTTP.
    #[error("what answers on {0} is no HTTP server")]
    NotHttp(SocketAddr),
    /// It answers something other than 200.
    #[error("{address} is not ready: {status} {reason}")]
    NotReady {
        /// Who was asked.
        address: SocketAddr,
        /// The answer's status.
        status: u16,
        /// The answer's body, one line.
        reason: String,
    },
}

/// Asks the server that `config` describes whether it is ready. Blocks for two seconds at most.
///
/// # Errors
/// Whatever keeps it from saying yes.
pub fn check(config: &Config) -> Result<(), HealthError> {
    if config.tls.is_some() && config.ops_listen.is_none() {
        return Err(HealthError::Tls);
    }
    let address = reachable(config.ops_listen.unwrap_or(config.listen)).ok_or(HealthError::NoPort)?;
    let answer = ask(address).map_err(|source| HealthError::Unreachable { address, source })?;
    let (status, reason) = read(&answer).ok_or(HealthError::NotHttp(address))?;
    if status == 200 { Ok(()) } else { Err(HealthError::NotReady { address, status, reason }) }
}

/// The address under which this machine reaches a listener; one on every interface is asked on loopback.
fn reachable(listen: SocketAddr) -> Option<SocketAddr> {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    (listen.port() != 0).then(|| SocketAddr::new(ip, listen.port()))
}

/// The whole answer to `GET /readyz`, or its beginning.
fn ask(address: SocketAddr) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In one piece: who answers the first piece and leaves would take its answer with it.
    let question = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes())?;
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    while answer.len() < LONGEST {
        // A server that sends a byte now and then must not hold us.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// Status and first line of the body.
fn read(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.lines().next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What is said of a server that answers the first question with `answer`, and what it was asked.
    fn told(answer: &'static str) -> (Result<(), HealthError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = Config { listen: listener.local_addr().unwrap(), ..Config::builtin(1) };
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 512];
            let count = stream.read(&mut asked).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&asked[..count]).into_owned()
        });
        (check(&config), server.join().unwrap())
    }

    #[test]
    fn only_200_is_healthy() {
        let (said, asked) = told("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n");
        assert!(said.is_ok() && asked.starts_with("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"), "{asked}");

        let (said, _) = told("HTTP/1.1 503 Service Unavailable\r\n\r\ndraining\n");
        assert!(said.unwrap_err().to_string().ends_with(" is not ready: 503 draining"));
        for other in ["", "\u{15}\u{3}\u{3}\0\u{2}\u{2}P", "HTTP/1.1 200 OK\r\n", "SSH-2.0-x\r\n\r\n"] {
            assert!(matches!(told(other).0, Err(HealthError::NotHttp(_))), "{other:?}");
        }
    }

    #[test]
    fn every_interface_is_asked_on_loopback() {
        let reached = |listen: &str| reachable(listen.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(reached("0.0.0.0:8080").as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(reached("[::]:80").as_deref(), Some("[::1]:80"));
        assert_eq!(reached("192.0.2.7:80").as_deref(), Some("192.0.2.7:80"));
        assert_eq!(reached("127.0.0.1:0"), None);
    }

    #[test]
    fn a_server_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = Config { listen: listener.local_addr().unwrap(), ..Config::builtin(1) };
        let begun = Instant::now();
        assert!(matches!(check(&config), Err(HealthError::Unreachable { .. })));
        assert!(begun.elapsed() < PATIENCE * 5);
        drop(listener);
        assert!(matches!(check(&config), Err(HealthError::Unreachable { .. })));
    }
}
