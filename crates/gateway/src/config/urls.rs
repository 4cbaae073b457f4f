//! Addresses of other servers, which may hold a password.

use std::fmt;

use actix_web::http::Uri;

use super::value::secret_urls;

secret_urls! {
    /// Address of a Redis or Valkey server.
    pub struct RedisUrl, "an address such as \"redis://host:6379/0\"";

    /// Address of a collector that takes OTLP over plain HTTP.
    pub struct CollectorUrl, "an address such as \"http://127.0.0.1:4318\"";
}

impl RedisUrl {
    /// Returns the address with its password.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }

    /// Returns what is wrong with the address, if anything is.
    pub(super) fn fault(&self) -> Option<&'static str> {
        if ["rediss://", "valkeys://"].iter().any(|scheme| self.0.starts_with(scheme)) {
            return Some(
                "asks for TLS, which embedgate does not speak to Redis: give it a network of its own, or a proxy that \
                 encrypts, and write redis://",
            );
        }
        let fault = "is not the address of a Redis server: write redis://host:6379/0 or redis+unix:///path";
        (!self.is_valid()).then_some(fault)
    }

    fn is_valid(&self) -> bool {
        redis::Client::open(&*self.0).is_ok()
    }
}

impl fmt::Display for RedisUrl {
    /// Writes scheme and place alone: a name and a password may stand before `@` or in the query. Of an invalid address
    /// it writes nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://").filter(|_| self.is_valid()) else {
            return f.write_str("…");
        };
        let (place, query) = rest.split_once('?').map_or((rest, ""), |(place, _)| (place, "?…"));
        match place.rsplit_once('@') {
            Some((_, place)) => write!(f, "{scheme}://…@{place}{query}"),
            None => write!(f, "{scheme}://{place}{query}"),
        }
    }
}

/// Path that OTLP over HTTP appends to a collector's address for traces.
const TRACES_PATH: &str = "/v1/traces";

impl CollectorUrl {
    /// Returns what is wrong with the address, if anything is.
    pub(super) fn fault(&self) -> Option<&'static str> {
        if self.0.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
            return Some(
                "asks for TLS, which embedgate does not speak to collectors: name one that takes plain HTTP, as on \
                 this host or in this pod, and let it pass the traces on",
            );
        }
        let is_plain = |url: &Uri| {
            url.scheme_str() == Some("http")
                && url.query().is_none()
                && url.host().is_some_and(|host| !host.is_empty())
                && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        };
        (!self.0.parse().is_ok_and(|url| is_plain(&url)))
            .then_some("is not the address of a collector: write http://host:4318, without user or query")
    }

    /// Returns the address that spans are posted to: `/v1/traces` under the collector's, unless that is how it ends.
    pub(crate) fn traces(&self) -> String {
        let base = self.0.trim_end_matches('/');
        if base.ends_with(TRACES_PATH) { base.to_owned() } else { format!("{base}{TRACES_PATH}") }
    }
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.fault().is_none() { &self.0 } else { "…" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_collector_is_plain_http() {
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
            assert!(CollectorUrl::from(url).fault().unwrap().starts_with("asks for TLS"));
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
            assert!(url.fault().unwrap().starts_with("is not the address of a collector"));
            assert_eq!(format!("{url} {url:?}"), "… …");
        }
    }
}
