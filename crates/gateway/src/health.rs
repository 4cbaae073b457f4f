//! `embedgate health`: asks a running server for `/readyz`, for containers without a shell or an HTTP client.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use thiserror::Error;
use ureq::Agent;

use crate::config::Config;

/// Timeout of the whole request. A probe is answered without waiting for other work, and container engines soon give
/// up.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The body is one word.
const MAX_BODY_BYTES: u64 = 8 * 1024;

/// The server is not ready, or does not respond.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HealthError {
    /// The settings let the system choose a port.
    #[error("cannot check port 0, which lets the system choose one: set a port")]
    NoPort,
    /// Probes are only served over TLS, which this command does not support.
    #[error("cannot check a server over TLS: give probes a plain address with `ops_listen`")]
    Tls,
    /// The request failed.
    #[error("no response from {address}")]
    Unreachable {
        /// The server's address.
        address: SocketAddr,
        /// The client's error.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The response is not HTTP.
    #[error("the response from {address} is not HTTP")]
    NotHttp {
        /// The server's address.
        address: SocketAddr,
        /// The client's error.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The status is not 200.
    #[error("{address} is not ready: {status} {reason}")]
    NotReady {
        /// The server's address.
        address: SocketAddr,
        /// Status of the response.
        status: u16,
        /// First line of its body.
        reason: String,
    },
}

/// Checks that the server that `config` describes is ready. Blocks for at most two seconds.
///
/// # Errors
/// If it is not ready, or cannot be reached.
pub fn check(config: &Config) -> Result<(), HealthError> {
    if config.tls.is_some() && config.ops_listen.is_none() {
        return Err(HealthError::Tls);
    }
    let address = reachable(config.ops_listen.unwrap_or(config.listen)).ok_or(HealthError::NoPort)?;
    let prefix = config.server.path_prefix.as_str();
    let (status, body) = get_readyz(address, prefix).map_err(|error| {
        let source = Box::new(error);
        match *source {
            ureq::Error::Protocol(_) => HealthError::NotHttp { address, source },
            _ => HealthError::Unreachable { address, source },
        }
    })?;
    if status == 200 {
        return Ok(());
    }
    let reason = body.lines().next().unwrap_or_default().to_owned();
    Err(HealthError::NotReady { address, status, reason })
}

/// The address under which this machine reaches a listener: loopback for one on all interfaces.
fn reachable(listen: SocketAddr) -> Option<SocketAddr> {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    (listen.port() != 0).then(|| SocketAddr::new(ip, listen.port()))
}

/// Status and body of `GET /readyz` under `prefix`.
fn get_readyz(address: SocketAddr, prefix: &str) -> Result<(u16, String), ureq::Error> {
    let config = Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        // Only the settings decide which server is checked, not the environment's proxy.
        .proxy(None);
    let url = format!("http://{address}{prefix}/readyz");
    let mut response = Agent::from(config.build()).get(url).call()?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(MAX_BODY_BYTES).lossy_utf8(true).read_to_string()?;
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// The result for a server that answers the first request with `response`, and that request.
    fn check_response(response: &'static str) -> (Result<(), HealthError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = Config { listen: listener.local_addr().unwrap(), ..Config::builtin(1) };
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let count = stream.read(&mut request).unwrap();
            stream.write_all(response.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        (check(&config), server.join().unwrap())
    }

    #[test]
    fn only_200_is_healthy() {
        let (result, request) = check_response("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n");
        let request = request.to_ascii_lowercase();
        assert!(
            result.is_ok()
                && request.starts_with("get /readyz http/1.1\r\n")
                && request.contains("host: 127.0.0.1:"),
            "{result:?} {request}"
        );

        let (result, _) = check_response("HTTP/1.1 503 Service Unavailable\r\n\r\ndraining\n");
        assert!(result.unwrap_err().to_string().ends_with(" is not ready: 503 draining"));
        for garbage in ["\u{15}\u{3}\u{3}\0\u{2}\u{2}P\r\n\r\n", "SSH-2.0-x\r\n\r\n"] {
            let (result, _) = check_response(garbage);
            assert!(matches!(result, Err(HealthError::NotHttp { .. })), "{garbage:?}: {result:?}");
        }
        for cut in [
            "",
            "\u{15}\u{3}\u{3}\0\u{2}\u{2}P",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n",
        ] {
            let (result, _) = check_response(cut);
            assert!(result.is_err(), "{cut:?}");
        }
    }

    #[test]
    fn a_listener_on_all_interfaces_is_checked_on_loopback() {
        let reached = |listen: &str| reachable(listen.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(reached("0.0.0.0:8080").as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(reached("[::]:80").as_deref(), Some("[::1]:80"));
        assert_eq!(reached("192.0.2.7:80").as_deref(), Some("192.0.2.7:80"));
        assert_eq!(reached("127.0.0.1:0"), None);
    }

    /// Without the client's timeout, this test would hang until the runner's.
    #[test]
    fn a_server_that_never_responds_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = Config { listen: listener.local_addr().unwrap(), ..Config::builtin(1) };
        assert!(matches!(check(&config), Err(HealthError::Unreachable { .. })));
        drop(listener);
        assert!(matches!(check(&config), Err(HealthError::Unreachable { .. })));
    }
}
