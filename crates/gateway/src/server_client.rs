//! A client of a running server, for the commands `status` and `similarity`.

use std::time::Duration;

use serde_json::Value;
use thiserror::Error;
use ureq::Agent;
use url::Url;

/// Timeout of a whole request.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Timeout of opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of a response.
const MAX_BODY_BYTES: u64 = 256 << 20;

/// The request to a server failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address is not one of HTTP.
    #[error("`{address}` is not the address of a server: expected one such as http://127.0.0.1:8080")]
    Address {
        /// The address as it was given.
        address: String,
    },
    /// There is no connection, or no response.
    #[error("no response from {url}: is the server running?")]
    Unreachable {
        /// Address of the request.
        url: String,
        /// The client's error.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The server requires an API key.
    #[error("{url} requires an API key: name one by --api-key or in the variable OPENAI_API_KEY")]
    MissingKey {
        /// Address of the request.
        url: String,
    },
    /// The server does not accept the API key.
    #[error("{url} does not accept the API key: {message}")]
    WrongKey {
        /// Address of the request.
        url: String,
        /// Message of the server.
        message: String,
    },
    /// The status is not 200.
    #[error("{url} answered {status}: {message}")]
    Status {
        /// Address of the request.
        url: String,
        /// Status of the response.
        status: u16,
        /// Message of the server.
        message: String,
    },
    /// The response is not that of the API.
    #[error("{url} did not answer as embedgate does: {reason}")]
    Foreign {
        /// Address of the request.
        url: String,
        /// The difference.
        reason: String,
    },
}

/// A server, and the key for it.
pub(crate) struct ServerClient {
    agent: Agent,
    /// Address without `/v1` and without a slash at its end.
    base: String,
    key: Option<String>,
}

impl ServerClient {
    /// A client of the server at `address`: an address, or the `base_url` of an OpenAI client. Without a scheme, it is
    /// that of plain HTTP.
    ///
    /// # Errors
    /// [`ServerError::Address`].
    pub(crate) fn new(address: &str, key: Option<String>) -> Result<Self, ServerError> {
        let with_scheme =
            if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let invalid = || ServerError::Address { address: address.to_owned() };
        let url = Url::parse(&with_scheme).map_err(|_| invalid())?;
        if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
            return Err(invalid());
        }
        let path = url.path().trim_end_matches('/');
        let path = path.strip_suffix("/v1").unwrap_or(path);
        let base = format!("{}{path}", url.origin().ascii_serialization());
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            // The command line decides which server is asked, not the environment's proxy.
            .proxy(None);
        let config =
            if url.scheme() == "https" { config.tls_config(model_hub::tls_config()) } else { config };
        Ok(Self { agent: config.build().into(), base, key })
    }

    /// The server's address.
    pub(crate) fn address(&self) -> &str {
        &self.base
    }

    /// The JSON of `GET path`.
    ///
    /// # Errors
    /// All of [`ServerError`] but the first.
    pub(crate) fn get(&self, path: &str) -> Result<Value, ServerError> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.get(&url);
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        self.read(url, request.call())
    }

    /// The JSON of `POST path` with a body.
    ///
    /// # Errors
    /// All of [`ServerError`] but the first.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, ServerError> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.post(&url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        self.read(url, request.send(body.to_string()))
    }

    fn read(
        &self,
        url: String,
        response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, ServerError> {
        let foreign = |url, reason: &str| ServerError::Foreign { url, reason: reason.to_owned() };
        let mut response = match response {
            Ok(response) => response,
            Err(ureq::Error::Protocol(_)) => return Err(foreign(url, "the response is not HTTP")),
            Err(error) => return Err(ServerError::Unreachable { url, source: Box::new(error) }),
        };
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(MAX_BODY_BYTES).lossy_utf8(true).read_to_string();
        let body = match body {
            Ok(body) => body,
            Err(error) => return Err(ServerError::Unreachable { url, source: Box::new(error) }),
        };
        let json: Option<Value> = serde_json::from_str(&body).ok();
        let message = json.as_ref().and_then(|json| json.pointer("/error/message")?.as_str());
        match (status, json.as_ref(), message) {
            (200, Some(_), _) => json.ok_or_else(|| foreign(url, "the body is not JSON")),
            (200, None, _) => Err(foreign(url, "the body is not JSON")),
            (401, _, _) if self.key.is_none() => Err(ServerError::MissingKey { url }),
            (401, _, message) => {
                let message = message.unwrap_or("401 Unauthorized").to_owned();
                Err(ServerError::WrongKey { url, message })
            }
            (_, _, Some(message)) => Err(ServerError::Status { url, status, message: message.to_owned() }),
            (_, _, None) => {
                Err(foreign(url, &format!("status {status} without an error of OpenAI's format")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_accepted_in_every_usual_form() {
        for (given, base) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("127.0.0.1:8080/", "http://127.0.0.1:8080"),
            ("localhost:8080/v1", "http://localhost:8080"),
            ("https://host.example/prefix/v1/", "https://host.example/prefix"),
            ("[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(ServerClient::new(given, None).unwrap().address(), base, "{given}");
        }
        for given in ["", "ftp://host", "http://", "a b"] {
            assert!(matches!(ServerClient::new(given, None), Err(ServerError::Address { .. })), "{given}");
        }
    }
}
