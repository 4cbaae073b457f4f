//! Access to a model hub: token and proxy, which come from the environment alone and may be secret.

use std::fmt;

use model_hub::{Proxy, ProxyProtocol};
use url::Url;

use super::process_env::ProcessEnv;

/// Token and proxy. `Debug` shows neither.
#[derive(Clone, Default, PartialEq)]
pub struct HubAccess {
    /// Access token of an account at the hub.
    pub(crate) token: Option<String>,
    /// Proxy for all requests.
    pub(crate) proxy: Option<Proxy>,
}

impl HubAccess {
    /// Reads both. A proxy whose address is invalid is a warning.
    pub(super) fn read(env: &ProcessEnv, warnings: &mut Vec<String>) -> Self {
        let proxy = env.proxy().and_then(|(address, exceptions)| {
            let proxy = proxy(address, exceptions);
            if proxy.is_none() {
                warnings.push(
                    "the address of the proxy in ALL_PROXY, HTTPS_PROXY or HTTP_PROXY is not understood; requests to \
                     the model hub use no proxy"
                        .to_owned(),
                );
            }
            proxy
        });
        Self { token: env.hub_token(), proxy }
    }
}

/// Reads the address of a proxy, and the hosts that are reached without it.
fn proxy(address: &str, exceptions: Option<&str>) -> Option<Proxy> {
    let with_scheme = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let url = Url::parse(&with_scheme).ok()?;
    let protocol = match url.scheme() {
        "http" => ProxyProtocol::Http,
        "https" => ProxyProtocol::Https,
        _ => return None,
    };
    let mut proxy = Proxy::builder(protocol).host(url.host_str()?);
    if let Some(port) = url.port_or_known_default() {
        proxy = proxy.port(port);
    }
    if !url.username().is_empty() {
        proxy = proxy.username(url.username()).password(url.password().unwrap_or_default());
    }
    for exception in exceptions.unwrap_or_default().split(',').map(str::trim).filter(|text| !text.is_empty())
    {
        proxy = proxy.no_proxy(exception);
    }
    proxy.build().ok()
}

impl fmt::Debug for HubAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token, proxy } = self;
        let is_set = |is_set: bool| if is_set { "set" } else { "none" };
        f.debug_struct("HubAccess")
            .field("token", &is_set(token.is_some()))
            .field("proxy", &is_set(proxy.is_some()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_with_its_exceptions() {
        for (address, host, port) in [
            ("http://proxy:3128", "proxy", 3128),
            ("proxy:3128", "proxy", 3128),
            ("https://user:secret@proxy", "proxy", 443),
        ] {
            let proxy = proxy(address, Some("localhost, .internal")).unwrap();
            assert_eq!((proxy.host(), proxy.port()), (host, port), "{address}");
            assert!(proxy.is_no_proxy(&"http://localhost/".parse().unwrap()));
            let access = HubAccess { token: Some("hf_secret".to_owned()), proxy: Some(proxy) };
            assert!(!format!("{access:?}").contains("secret"));
        }
        assert!(proxy("socks5://proxy", None).is_none());
    }
}
