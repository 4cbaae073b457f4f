//! Where traces go and how many: the collector's address and the share of requests that are traced.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use actix_web::http::Uri;
use toml::de::DeValue;

use super::TraceConfig;
use super::merge::{Key, Merge};
use super::report::{Shown, Source, Table};
use super::resolve::Problem;
use super::surroundings::OTLP_VARIABLE;
use super::value::{Value, quote};

/// What OTLP over HTTP appends to a collector's address for traces.
const TRACES_PATH: &str = "/v1/traces";

/// The address of a collector that takes OTLP over plain HTTP. What is wrong with it is said once all sources are
/// merged, for an error from the command line would quote it, and it might hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct CollectorUrl(String);

/// What is wrong with a collector's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectorFault {
    /// It asks for TLS.
    Https,
    /// It is no address of an HTTP server, or holds more than one.
    NotAnAddress,
}

impl fmt::Display for CollectorFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Https => {
                "asks for TLS, which embedgate does not speak to collectors: name one that takes plain HTTP, as on \
                 this host or in this pod, and let it pass the traces on"
            }
            Self::NotAnAddress => "is no address of a collector: write http://host:4318, without user or query",
        })
    }
}

impl CollectorUrl {
    /// What is wrong with the address, if anything is.
    pub(super) fn fault(&self) -> Option<CollectorFault> {
        if self.0.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
            return Some(CollectorFault::Https);
        }
        let plain = |url: &Uri| {
            url.scheme_str() == Some("http")
                && url.query().is_none()
                && url.host().is_some_and(|host| !host.is_empty())
                && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        };
        if self.0.parse().is_ok_and(|url| plain(&url)) { None } else { Some(CollectorFault::NotAnAddress) }
    }

    /// Where spans are posted: `/v1/traces` under the address, unless that is how it ends.
    pub(crate) fn traces(&self) -> String {
        let base = self.0.trim_end_matches('/');
        if base.ends_with(TRACES_PATH) { base.to_owned() } else { format!("{base}{TRACES_PATH}") }
    }
}

impl From<&str> for CollectorUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

impl FromStr for CollectorUrl {
    type Err = Infallible;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        Ok(url.into())
    }
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.fault().is_none() { &self.0 } else { "…" })
    }
}

impl fmt::Debug for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Value for CollectorUrl {
    const EXPECTED: &'static str = "an address such as \"http://127.0.0.1:4318\"";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().map(Into::into)
    }

    fn to_toml(&self) -> String {
        quote(&self.to_string())
    }
}

/// A share of the whole, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(f64);

impl Ratio {
    /// All of it.
    pub const ALL: Self = Self(1.0);

    /// As a number from 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ratio = text.trim().parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.map(Self).ok_or_else(|| format!("expected {}", Self::EXPECTED))
    }
}

impl Value for Ratio {
    const EXPECTED: &'static str = "a number from 0 to 1";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Integer(integer) => integer.as_str().parse().ok(),
            DeValue::Float(float) => float.as_str().parse().ok(),
            _ => None,
        }
    }

    fn to_toml(&self) -> String {
        // `{:?}` keeps the point, without which TOML would read an integer.
        format!("{:?}", self.0)
    }
}

impl Merge<'_> {
    /// Merges the table `[trace]`. The variable that other programs know stands between our own and the file.
    pub(super) fn trace(&mut self, builtin: &TraceConfig) -> TraceConfig {
        let (flags, file) = (self.flags.settings.trace.clone(), self.file.settings.trace.clone());
        let table = Table::Named("trace");
        let endpoint = Key { table, name: "otlp_endpoint", arg: "otlp_endpoint" };
        let ratio = Key { table, name: "sample_ratio", arg: "trace_sample_ratio" };
        let otlp_endpoint = match &self.surroundings.otlp_endpoint {
            Some(url) if flags.otlp_endpoint.is_none() => {
                let source = Source::Environment(OTLP_VARIABLE.to_owned());
                self.note_key(endpoint, Shown::Toml(url.to_toml()), source);
                Some(url.clone())
            }
            _ => self.pick_optional(endpoint, flags.otlp_endpoint, file.otlp_endpoint),
        };
        if let Some(fault) = otlp_endpoint.as_ref().and_then(CollectorUrl::fault) {
            self.problems.push(Problem::OtlpEndpoint(fault));
        }
        TraceConfig {
            otlp_endpoint,
            sample_ratio: self.pick(ratio, flags.sample_ratio, file.sample_ratio, builtin.sample_ratio),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collectors_address_is_plain_http_and_nothing_else() {
        for (url, posted) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://otel/", "http://otel/v1/traces"),
            ("http://[::1]:4318/otlp", "http://[::1]:4318/otlp/v1/traces"),
            ("http://otel:4318/v1/traces", "http://otel:4318/v1/traces"),
        ] {
            let url = CollectorUrl::from(url);
            assert_eq!((url.fault(), url.traces().as_str()), (None, posted));
        }
        for url in ["https://otel:4318", "HTTPS://otel"] {
            assert_eq!(CollectorUrl::from(url).fault(), Some(CollectorFault::Https));
        }
        for url in [
            "",
            "otel:4318",
            "grpc://otel:4317",
            "http://",
            "http:///v1",
            "http://a:b@otel",
            "http://a?key=b",
        ] {
            let url = CollectorUrl::from(url);
            assert_eq!(
                (url.fault(), format!("{url} {url:?}")),
                (Some(CollectorFault::NotAnAddress), "… …".to_owned())
            );
        }
    }

    #[test]
    fn a_ratio_is_a_share() {
        for (text, shown) in [("0", "0.0"), ("1", "1.0"), (" 0.25 ", "0.25"), ("1e-3", "0.001")] {
            assert_eq!(text.parse::<Ratio>().unwrap().to_toml(), shown);
        }
        for text in ["", "-0.1", "1.01", "nan", "inf", "half"] {
            assert!(text.parse::<Ratio>().is_err(), "{text}");
        }
    }
}
