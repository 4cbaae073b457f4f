//! How the server shows itself: TLS, the pages that may use it, the address of metrics and probes.

use std::str::FromStr;

use actix_web::http::{Uri, uri::Authority};
use toml::de::DeValue;

use super::TlsConfig;
use super::merge::{Key, Merge};
use super::report::Table;
use super::resolve::Problem;
use super::value::{Value, quote};

/// The origins of web pages that may read answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Whether no page may.
    pub(crate) fn none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every page may.
    pub(crate) fn any(&self) -> bool {
        self.0.iter().any(|origin| origin == "*")
    }

    /// Whether a page of `origin`, as its browser writes it, is named.
    pub(crate) fn contains(&self, origin: &str) -> bool {
        self.0.iter().any(|known| known == origin)
    }

    /// Those that no browser would send, so that they would never match.
    fn wrong(&self) -> impl Iterator<Item = &String> {
        let right = |origin: &String| {
            let plain = |uri: Uri| {
                let scheme = uri.scheme_str().unwrap_or_default();
                let host = uri.authority().map(Authority::as_str).unwrap_or_default();
                !host.is_empty() && !host.contains('@') && format!("{scheme}://{host}") == *origin
            };
            origin == "*" || (origin.parse().is_ok_and(plain) && *origin == origin.to_ascii_lowercase())
        };
        self.0.iter().filter(move |origin| !right(origin))
    }
}

impl FromStr for Origins {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let origins = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
        Ok(Self(origins.map(str::to_owned).collect()))
    }
}

impl Value for Origins {
    const EXPECTED: &'static str = "a list such as [\"https://app.example\"], or [\"*\"]";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::String(text) => text.parse().ok(),
            other => Vec::<String>::from_toml(other).map(Self),
        }
    }

    fn to_toml(&self) -> String {
        format!("[{}]", self.0.iter().map(|origin| quote(origin)).collect::<Vec<_>>().join(", "))
    }
}

impl Merge<'_> {
    /// Merges the table `[tls]`: both files or neither.
    pub(super) fn tls(&mut self) -> Option<TlsConfig> {
        let (flags, file) = (self.flags.settings.tls.clone(), self.file.settings.tls.clone());
        let key = |name, arg| Key { table: Table::Named("tls"), name, arg };
        let certificate =
            self.pick_optional(key("certificate", "tls_certificate"), flags.certificate, file.certificate);
        let private = self.pick_optional(key("key", "tls_key"), flags.key, file.key);
        match (certificate, private) {
            (Some(certificate), Some(key)) => Some(TlsConfig { certificate, key }),
            (None, None) => None,
            (Some(_), None) => {
                self.problems.push(Problem::HalfOfTls { given: "certificate", missing: "key" });
                None
            }
            (None, Some(_)) => {
                self.problems.push(Problem::HalfOfTls { given: "key", missing: "certificate" });
                None
            }
        }
    }

    /// Merges the table `[cors]`.
    pub(super) fn cors(&mut self) -> Origins {
        let (flags, file) = (self.flags.settings.cors.clone(), self.file.settings.cors.clone());
        let key = Key { table: Table::Named("cors"), name: "origins", arg: "cors_origins" };
        let origins = self.pick(key, flags.origins, file.origins, Origins::default());
        let wrong: Vec<_> =
            origins.wrong().map(|origin| Problem::Origin { origin: origin.clone() }).collect();
        self.problems.extend(wrong);
        origins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        let good: Origins = "https://app.example, http://localhost:3000,*".parse().unwrap();
        assert_eq!(good.wrong().count(), 0);
        assert_eq!(good.to_toml(), r#"["https://app.example", "http://localhost:3000", "*"]"#);
        let bad = "https://app.example/,app.example,https://App.example,https://u@app.example,https://a/b";
        assert_eq!(bad.parse::<Origins>().unwrap().wrong().count(), 5);
        assert!("".parse::<Origins>().unwrap().none());
    }
}
