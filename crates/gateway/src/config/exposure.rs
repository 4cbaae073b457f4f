//! How the server shows itself: TLS, the pages that may use it, the address of metrics and probes.

use std::fmt;
use std::str::FromStr;

use toml::de::DeValue;
use url::{Origin, Url};

use super::TlsConfig;
use super::merge::{Key, Merge};
use super::report::Table;
use super::resolve::Problem;
use super::value::{Value, elements, quote};

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

    /// Number of origins.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Those that no browser would send, so that they would never match.
    fn problems(&self) -> impl Iterator<Item = Problem> {
        let problem = |origin: &String| {
            OriginFault::of(origin).map(|fault| Problem::Origin { origin: origin.clone(), fault })
        };
        self.0.iter().filter_map(problem)
    }
}

/// Reason why an origin would never match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginFault {
    /// It holds `*` and other characters.
    Pattern,
    /// Browsers write the same origin differently: as this text.
    Written(String),
    /// It is not an origin.
    NotAnOrigin,
}

impl OriginFault {
    /// Fault of `origin`; `None` if browsers send it exactly so.
    fn of(origin: &str) -> Option<Self> {
        if origin == "*" {
            return None;
        }
        if origin.contains('*') {
            return Some(Self::Pattern);
        }
        match Url::parse(origin).ok().and_then(|url| sent(&url)) {
            Some(sent) if sent == origin => None,
            Some(sent) => Some(Self::Written(sent)),
            None => Some(Self::NotAnOrigin),
        }
    }
}

impl fmt::Display for OriginFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern => f.write_str(
                "patterns are not supported; write each origin out, with its port, or `*` alone for all",
            ),
            Self::Written(origin) => write!(f, "write `{origin}`"),
            Self::NotAnOrigin => f.write_str("write https://host or https://host:port, or *"),
        }
    }
}

/// The origin of a page at `url`, as its browser sends it.
fn sent(url: &Url) -> Option<String> {
    match url.origin() {
        // In ASCII, lower case, and without the scheme's usual port.
        origin @ Origin::Tuple(..) => Some(origin.ascii_serialization()),
        // Schemes that the standard does not know: those of browser extensions and of apps.
        Origin::Opaque(_) => {
            let host = url.host_str().filter(|host| !host.is_empty())?.to_ascii_lowercase();
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            (url.scheme() != "file").then(|| format!("{}://{host}{port}", url.scheme()))
        }
    }
}

impl FromStr for Origins {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(elements(text).map(str::to_owned).collect()))
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
        let joined = |parts: Vec<Origins>| Origins(parts.into_iter().flat_map(|part| part.0).collect());
        let origins = self.pick(key, flags.origins.map(joined), file.origins.map(joined), Origins::default());
        self.problems.extend(origins.problems());
        origins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        let good: Origins = "https://app.example, http://localhost:3000\nhttp://[::1]:8080,*\n\
                             chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb, app://obsidian.md"
            .parse()
            .unwrap();
        assert_eq!((good.count(), good.problems().count()), (6, 0));
        let good: Origins = "https://app.example,*".parse().unwrap();
        assert_eq!(good.to_toml(), r#"["https://app.example", "*"]"#);
        assert!("".parse::<Origins>().unwrap().none());
    }

    #[test]
    fn an_origin_that_would_never_match_is_answered_with_the_one_that_would() {
        let written = |origin: &str| Some(OriginFault::Written(origin.to_owned()));
        for (origin, fault) in [
            ("https://app.example/", written("https://app.example")),
            ("https://app.example/page?x#y", written("https://app.example")),
            ("https://App.example", written("https://app.example")),
            ("HTTPS://app.example", written("https://app.example")),
            ("https://app.example:443", written("https://app.example")),
            ("http://app.example:80", written("http://app.example")),
            ("http://app.example:443", None),
            ("http://app.example:08080", written("http://app.example:8080")),
            ("https://user@app.example", written("https://app.example")),
            ("https://bücher.example", written("https://xn--bcher-kva.example")),
            ("http://[0:0:0:0:0:0:0:1]", written("http://[::1]")),
            ("app://Obsidian.md", written("app://obsidian.md")),
            ("http://localhost:*", Some(OriginFault::Pattern)),
            ("https://*.example.com", Some(OriginFault::Pattern)),
            ("app.example", Some(OriginFault::NotAnOrigin)),
            ("localhost:3000", Some(OriginFault::NotAnOrigin)),
            ("https://", Some(OriginFault::NotAnOrigin)),
            ("https://app.example:99999", Some(OriginFault::NotAnOrigin)),
            ("file:///page.html", Some(OriginFault::NotAnOrigin)),
            ("null", Some(OriginFault::NotAnOrigin)),
        ] {
            assert_eq!(OriginFault::of(origin), fault, "{origin}");
        }
    }
}
