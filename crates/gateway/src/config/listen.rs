//! The listening address: the forms in which it may be written, and the socket address that it stands for.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use toml::de::DeValue;

use super::merge::Merge;
use super::resolve::Problem;
use super::value::{Value, quote};

/// An address and port to listen on, as the settings write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A host's name, which the system resolves at start-up, and a port.
    Name(String, u16),
}

impl FromStr for ListenAddress {
    type Err = String;

    /// Reads an address and port; `localhost` and a port alone mean IPv4's loopback, `:PORT` every IPv4 interface.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected {}", Self::EXPECTED);
        let text = text.trim();
        let on = |ip: Ipv4Addr, port| Self::Ip(SocketAddr::from((ip, port)));
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return text.parse().map(|port| on(Ipv4Addr::LOCALHOST, port)).map_err(|_| expected());
        };
        let port = port.parse().map_err(|_| expected())?;
        let is_name = host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        match host {
            "" => Ok(on(Ipv4Addr::UNSPECIFIED, port)),
            _ if host.eq_ignore_ascii_case("localhost") => Ok(on(Ipv4Addr::LOCALHOST, port)),
            _ if is_name => Ok(Self::Name(host.to_owned(), port)),
            _ => Err(expected()),
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
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
    const EXPECTED: &'static str = "an address and port such as \"127.0.0.1:8080\", \"[::]:8080\" or \
                                    \"localhost:8080\"; \":8080\" for every interface, \"8080\" for this machine alone";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Integer(_) => usize::from_toml(value).and_then(|port| port.to_string().parse().ok()),
            _ => value.as_str().and_then(|text| text.parse().ok()),
        }
    }

    fn to_toml(&self) -> String {
        quote(&self.to_string())
    }
}

impl Merge<'_> {
    /// Socket address of the value that was noted last, the first one that its host resolves to. The note shows it.
    pub(super) fn resolved(&mut self, listen: ListenAddress) -> SocketAddr {
        let (host, port) = match listen {
            ListenAddress::Ip(address) => return address,
            ListenAddress::Name(host, port) => (host, port),
        };
        let found = (host.as_str(), port).to_socket_addrs();
        match found.map(|mut addresses| addresses.next()) {
            Ok(Some(address)) => {
                if let Some(noted) = self.report.settings.last_mut() {
                    noted.meaning = Some(address.to_string());
                }
                return address;
            }
            Ok(None) => self.problems.push(Problem::UnknownHost { host, reason: "no address".to_owned() }),
            Err(error) => self.problems.push(Problem::UnknownHost { host, reason: error.to_string() }),
        }
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
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
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), meant, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_answered_with_the_forms() {
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
            let error = text.parse::<ListenAddress>().unwrap_err();
            assert!(error.contains("\"127.0.0.1:8080\"") && error.contains("\":8080\""), "{text:?}: {error}");
        }
    }
}
