//! The listening address: the forms in which it may be written, and the socket address that it stands for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use toml::de::DeValue;

use super::value::{Value, quote};

/// An address and port to listen on, as the settings write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListenAddress {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// The name of a host, which the system resolves at start-up, and a port.
    Name(String, u16),
}

impl ListenAddress {
    /// Port 8080 of this machine alone.
    pub(super) const LOCAL_8080: Self = Self::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080));

    /// Returns the address with another host, as `--host` writes it: without brackets around an IPv6 address, too.
    ///
    /// # Errors
    /// A text that is not a host, with what to write.
    pub(super) fn with_host(&self, host: &str) -> Result<Self, String> {
        let port = match self {
            Self::Ip(address) => address.port(),
            Self::Name(_, port) => *port,
        };
        let host = host.trim();
        if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(Self::Ip(SocketAddr::new(ip, port)));
        }
        // A text without a host would mean every interface.
        let named = Some(host).filter(|host| !host.is_empty() && !host.contains(':'));
        named.and_then(|host| Self::from_text(&format!("{host}:{port}"))).ok_or_else(|| {
            format!(
                "{}; expected a host without a port, such as \"127.0.0.1\" or \"localhost\" for this machine alone, \
                 \"0.0.0.0\" or \"::\" for every interface",
                quote(host)
            )
        })
    }

    /// Returns the address with another port, as `--port` writes it.
    ///
    /// # Errors
    /// A text that is not a port, with what to write.
    pub(super) fn with_port(&self, port: &str) -> Result<Self, String> {
        let expected = || {
            let found = quote(port.trim());
            format!(
                "{found}; expected a number up to 65535 such as \"9000\", or \"0\" to let the system choose"
            )
        };
        let port = port.trim().parse().map_err(|_| expected())?;
        Ok(match self {
            Self::Ip(address) => Self::Ip(SocketAddr::new(address.ip(), port)),
            Self::Name(host, _) => Self::Name(host.clone(), port),
        })
    }

    /// Returns the socket address; for a name, the first one that it resolves to.
    ///
    /// # Errors
    /// A name that the system cannot resolve.
    pub(super) fn resolve(&self) -> Result<SocketAddr, String> {
        let (host, port) = match self {
            Self::Ip(address) => return Ok(*address),
            Self::Name(host, port) => (host, *port),
        };
        let reason = match (host.as_str(), port).to_socket_addrs().map(|mut found| found.next()) {
            Ok(Some(address)) => return Ok(address),
            Ok(None) => "no address".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(format!("the host `{host}` cannot be resolved ({reason}): write an IP address"))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl Value for ListenAddress {
    const PLACEHOLDER: &'static str = "ADDR";

    fn expected() -> String {
        "an address and port such as \"127.0.0.1:8080\", \"[::]:8080\" or \"localhost:8080\"; \":8080\" for every \
         interface, \"8080\" for this machine alone"
            .to_owned()
    }

    /// Reads an address and port; `localhost` and a port alone mean IPv4's loopback, `:PORT` every IPv4 interface.
    fn from_text(text: &str) -> Option<Self> {
        let text = text.trim();
        let on = |ip: Ipv4Addr, port| Self::Ip(SocketAddr::from((ip, port)));
        if let Ok(address) = text.parse() {
            return Some(Self::Ip(address));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return text.parse().ok().map(|port| on(Ipv4Addr::LOCALHOST, port));
        };
        let port = port.parse().ok()?;
        let is_name = host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        match host {
            "" => Some(on(Ipv4Addr::UNSPECIFIED, port)),
            _ if host.eq_ignore_ascii_case("localhost") => Some(on(Ipv4Addr::LOCALHOST, port)),
            _ => is_name.then(|| Self::Name(host.to_owned(), port)),
        }
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Integer(_) => {
                usize::from_toml(value).and_then(|port| Self::from_text(&port.to_string()))
            }
            _ => value.as_str().and_then(Self::from_text),
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_every_form_that_other_servers_take() {
        for (text, meant) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::]:8080"),
            ("localhost:8080", "127.0.0.1:8080"),
            ("LocalHost:0", "127.0.0.1:0"),
            (":8080", "0.0.0.0:8080"),
            ("9000", "127.0.0.1:9000"),
            (" 9000\n", "127.0.0.1:9000"),
            ("gateway.example:80", "gateway.example:80"),
        ] {
            assert_eq!(ListenAddress::from_text(text).unwrap().to_string(), meant, "{text}");
        }
    }

    #[test]
    fn host_and_port_replace_their_part_of_an_address() {
        let listen = ListenAddress::from_text("0.0.0.0:8080").unwrap();
        for (host, port, meant) in [
            ("localhost", "9000", "127.0.0.1:9000"),
            ("::", " 0 ", "[::]:0"),
            ("[::1]", "80", "[::1]:80"),
            ("gateway.example", "65535", "gateway.example:65535"),
        ] {
            let moved = listen.with_port(port).unwrap().with_host(host).unwrap();
            assert_eq!(moved.to_string(), meant);
            assert_eq!(listen.with_host(host).unwrap().with_port(port).unwrap(), moved);
        }
        for host in ["", "localhost:80", "0.0.0.0:80", "http://localhost", "a b", "*"] {
            let error = listen.with_host(host).unwrap_err();
            assert!(error.contains("\"0.0.0.0\" or \"::\" for every interface"), "{host}: {error}");
        }
        for port in ["", "http", "65536", "-1", ":80"] {
            let error = listen.with_port(port).unwrap_err();
            assert!(error.contains("expected a number up to 65535"), "{port}: {error}");
        }
    }

    #[test]
    fn an_address_without_host_or_port_is_rejected() {
        for text in [
            "",
            ":",
            "localhost",
            "localhost:",
            "localhost:65536",
            "65536",
            "-1",
            "::1:8080",
            "http://localhost:8080",
            "a b:1",
            "0.0.0.0",
        ] {
            assert_eq!(ListenAddress::from_text(text), None, "{text:?}");
        }
        let expected = ListenAddress::expected();
        assert!(expected.contains("\"127.0.0.1:8080\"") && expected.contains("\":8080\""), "{expected}");
    }
}
