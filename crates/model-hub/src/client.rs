//! HTTP requests to a hub: redirects, access token, and the meaning of each status.

use std::{fmt, io::Read, time::Duration};

use ureq::{
    Agent, Body, Proxy,
    http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header},
};
use url::Url;

use crate::{HubError, RetryPolicy, progress::PullProgress, roots};

/// Redirects that are followed: the hub's own for a renamed model, and one or two to its content network.
const MAX_REDIRECTS: usize = 10;

/// Largest list of files.
const MAX_LISTING_BYTES: u64 = 64 << 20;

/// Time limit for name resolution, and for a connection and its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest message of the hub that an error repeats.
const MAX_MESSAGE_CHARS: usize = 200;

/// Observer of a download: shows its progress and can cancel it.
pub trait PullObserver {
    /// Called at every step.
    fn on_progress(&mut self, progress: PullProgress<'_>);

    /// Returns true if the download is to stop.
    fn is_cancelled(&self) -> bool {
        false
    }
}

impl<F: FnMut(PullProgress<'_>)> PullObserver for F {
    fn on_progress(&mut self, progress: PullProgress<'_>) {
        self(progress);
    }
}

/// The secret that is sent to the hub. `Debug` does not show it.
#[derive(Clone)]
pub(crate) struct Token(pub(crate) String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The failure of one attempt.
pub(crate) enum Failure {
    /// Another attempt can succeed.
    Temporary {
        reason: String,
        /// Wait that the host asks for.
        wait: Option<Duration>,
        /// True if bytes have arrived.
        has_progressed: bool,
    },
    /// No attempt can succeed.
    Permanent(HubError),
}

impl Failure {
    pub(crate) fn temporary(reason: impl Into<String>) -> Self {
        Self::Temporary { reason: reason.into(), wait: None, has_progressed: false }
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Permanent(error)
    }
}

/// The subject of a request, for errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// `ORG/NAME`, or the archive's name.
    pub(crate) repo: &'a str,
    pub(crate) revision: &'a str,
    pub(crate) file: &'a str,
}

/// A response and the address that it came from.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    pub(crate) url: Url,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        text_of(self.response.headers(), name)
    }
}

/// A client of one hub.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    /// Address of the hub, without a slash at its end.
    endpoint: Url,
    token: Option<Token>,
    pub(crate) retry: RetryPolicy,
}

impl Client {
    pub(crate) fn new(
        endpoint: &str,
        token: Option<Token>,
        proxy: Option<Proxy>,
        retry: RetryPolicy,
    ) -> Result<Self, HubError> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy)
            .tls_config(roots::tls_config())
            .user_agent(concat!("embedgate/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(retry.stall_timeout))
            .timeout_per_read(Some(retry.stall_timeout))
            .timeout_per_write(Some(retry.stall_timeout));
        let endpoint = parse_address(endpoint.trim_end_matches('/'))?;
        Ok(Self { agent: config.build().into(), endpoint, token, retry })
    }

    /// Returns the hub's address as a user writes it.
    pub(crate) fn endpoint(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    /// Returns an address below the hub's.
    pub(crate) fn url(&self, path: &str, query: Option<&str>) -> Url {
        let mut url = self.endpoint.clone();
        url.set_path(&format!("{}/{path}", self.endpoint.path().trim_end_matches('/')));
        url.set_query(query);
        url
    }

    /// Fetches a small document.
    pub(crate) fn document(&self, url: &Url, subject: Subject<'_>) -> Result<Vec<u8>, Failure> {
        let mut answer = self.content(url, 0, subject)?;
        let mut bytes = Vec::new();
        let body = answer.response.body_mut().with_config().limit(MAX_LISTING_BYTES);
        body.reader().read_to_end(&mut bytes).map_err(|error| Failure::temporary(error.to_string()))?;
        Ok(bytes)
    }

    /// Asks for the headers that describe a file: the hub's own, not those of the content network that it redirects to.
    pub(crate) fn describe(&self, url: &Url, subject: Subject<'_>) -> Result<Answer, Failure> {
        self.request(&Method::HEAD, url, 0, subject)
    }

    /// Asks for the content of a file from the byte `start`.
    pub(crate) fn content(&self, url: &Url, start: u64, subject: Subject<'_>) -> Result<Answer, Failure> {
        self.request(&Method::GET, url, start, subject)
    }

    /// Sends a request and follows redirects, of which none may lead from HTTPS to HTTP. The token is sent to the hub's
    /// origin alone.
    fn request(
        &self,
        method: &Method,
        url: &Url,
        start: u64,
        subject: Subject<'_>,
    ) -> Result<Answer, Failure> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request =
                Request::builder().method(method).uri(uri(&url)?).header("accept-encoding", "identity");
            if let Some(Token(token)) = self.token.as_ref().filter(|_| url.origin() == self.endpoint.origin())
            {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if start > 0 {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            let invalid = |error: &dyn fmt::Display| self.protocol(&url, subject, error.to_string());
            let request = request.body(()).map_err(|error| invalid(&error))?;
            let response = self.agent.run(request).map_err(|error| transport(&error))?;
            let answer = Answer { response, url: url.clone() };
            let location = answer.header("location").filter(|_| answer.response.status().is_redirection());
            let Some(location) =
                location.filter(|_| !(method == Method::HEAD && answer.header("x-linked-etag").is_some()))
            else {
                return self.check(answer, subject);
            };
            let next = url.join(location).map_err(|error| invalid(&error))?;
            if !may_redirect(&url, &next) {
                return Err(self
                    .protocol(&url, subject, format!("it redirects to {}:", next.scheme()))
                    .into());
            }
            url = next;
        }
        Err(self.protocol(&url, subject, format!("it redirects more than {MAX_REDIRECTS} times")).into())
    }

    /// Returns the answer if its status is a success, a redirect, or 416: only the caller knows the range.
    fn check(&self, answer: Answer, subject: Subject<'_>) -> Result<Answer, Failure> {
        let status = answer.response.status();
        if status.is_success() || status.is_redirection() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(answer);
        }
        let (host, repo) = (host(&answer.url), subject.repo.to_owned());
        let code = answer.header("x-error-code").unwrap_or_default();
        let is_hub = answer.url.origin() == self.endpoint.origin();
        let is_temporary = status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT;
        Err(match status.as_u16() {
            429 => self.rate_limited(&answer, host),
            _ if is_temporary => {
                let wait = retry_after(answer.response.headers());
                Failure::Temporary { reason: format!("it answered {status}"), wait, has_progressed: false }
            }
            401 | 403 if code == "GatedRepo" => {
                let endpoint = self.endpoint().to_owned();
                HubError::Gated { repo, endpoint, status: status.as_u16() }.into()
            }
            401 if is_hub => {
                let advice = if self.token.is_some() {
                    "it does not accept the token in HF_TOKEN"
                } else {
                    "check the name; for a private or gated model, set HF_TOKEN to an access token"
                };
                HubError::Unauthorized { repo, host, advice }.into()
            }
            // The signature in an address of a content network expires; the hub gives a new one.
            401 | 403 if !is_hub => Failure::temporary(format!("{host} answered {status}")),
            403 => {
                let said = answer.header("x-error-message").map(|said| format!(": {}", shorten(said)));
                HubError::Forbidden { repo, host, said: said.unwrap_or_default() }.into()
            }
            404 if code == "RevisionNotFound" => {
                HubError::NoRevision { repo, revision: subject.revision.to_owned(), host }.into()
            }
            404 if is_hub && code != "EntryNotFound" => HubError::NoModel { repo, host }.into(),
            status => {
                let advice = if is_hub { "" } else { ": a proxy or firewall may be in the way" };
                HubError::Status { host, file: subject.file.to_owned(), status, advice }.into()
            }
        })
    }

    fn rate_limited(&self, answer: &Answer, host: String) -> Failure {
        let wait = retry_after(answer.response.headers());
        match wait.filter(|&wait| wait > self.retry.max_wait) {
            Some(wait) => HubError::RateLimited { host, seconds: wait.as_secs() }.into(),
            None => Failure::Temporary {
                reason: "it limits requests (429)".to_owned(),
                wait: wait.or(Some(self.retry.backoff(u32::MAX))),
                has_progressed: false,
            },
        }
    }

    pub(crate) fn protocol(&self, url: &Url, subject: Subject<'_>, reason: String) -> HubError {
        HubError::Protocol { host: host(url), file: subject.file.to_owned(), reason }
    }

    /// Repeats `attempt` until it succeeds, fails for good, or has failed as often as the limit allows.
    pub(crate) fn with_retries<T>(
        &self,
        url: &Url,
        subject: Subject<'_>,
        observer: &mut dyn PullObserver,
        mut attempt: impl FnMut(&mut dyn PullObserver) -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let mut failed = 0;
        loop {
            let (reason, wait, has_progressed) = match attempt(observer) {
                Ok(done) => return Ok(done),
                Err(Failure::Permanent(error)) => return Err(error),
                Err(Failure::Temporary { reason, wait, has_progressed }) => (reason, wait, has_progressed),
            };
            failed = if has_progressed { 1 } else { failed + 1 };
            if failed >= self.retry.max_attempts {
                let (host, file) = (host(url), subject.file.to_owned());
                return Err(HubError::Transfer { host, file, reason, attempts: failed });
            }
            let backoff = self.retry.backoff(failed);
            let wait = wait.map_or(backoff, |wait| wait.clamp(backoff, self.retry.max_wait.max(backoff)));
            observer.on_progress(PullProgress::Retrying { file: subject.file, reason: &reason, wait });
            sleep(wait, observer)?;
        }
    }
}

/// Returns true if the scheme stays the same, or becomes HTTPS.
fn may_redirect(from: &Url, to: &Url) -> bool {
    to.scheme() == "https" || (to.scheme() == "http" && from.scheme() == "http")
}

/// Sleeps in short steps, because the caller can cancel.
pub(crate) fn sleep(mut wait: Duration, observer: &dyn PullObserver) -> Result<(), HubError> {
    const STEP: Duration = Duration::from_millis(100);
    while !wait.is_zero() {
        if observer.is_cancelled() {
            return Err(HubError::Cancelled);
        }
        let step = wait.min(STEP);
        std::thread::sleep(step);
        wait -= step;
    }
    Ok(())
}

/// Checks the address of a hub or a mirror.
///
/// # Errors
/// [`HubError::InvalidAddress`].
pub fn check_address(address: &str) -> Result<(), HubError> {
    parse_address(address).map(drop)
}

/// Reads an HTTP address without user and query.
pub(crate) fn parse_address(address: &str) -> Result<Url, HubError> {
    let shown = address.split(['?', '#']).next().unwrap_or_default();
    let shown = shown.rsplit_once('@').map_or(shown, |(_, place)| place).to_owned();
    let is_plain = |url: &Url| {
        ["http", "https"].contains(&url.scheme())
            && url.host_str().is_some_and(|host| !host.is_empty())
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    };
    Url::parse(address).ok().filter(is_plain).ok_or(HubError::InvalidAddress { address: shown })
}

/// Returns host and port, for messages: paths and queries of content networks hold signatures.
pub(crate) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn uri(url: &Url) -> Result<Uri, HubError> {
    url.as_str().parse().map_err(|_| HubError::InvalidAddress { address: host(url) })
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Returns the wait in `retry-after`, or in the hub's `ratelimit` (`"api";r=0;t=55`), which states seconds as `t`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let stated = text_of(headers, "retry-after").and_then(|text| text.trim().parse().ok());
    let in_window = || {
        let mut parts = text_of(headers, "ratelimit")?.split(';').map(str::trim);
        parts.find_map(|part| part.strip_prefix("t=")?.parse().ok())
    };
    stated.or_else(in_window).map(Duration::from_secs)
}

/// Describes a failure of the connection.
fn transport(error: &ureq::Error) -> Failure {
    match error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => Failure::temporary(format!(
            "the TLS connection failed ({error}); the certificate of a company's own mirror or proxy must be in the \
             system's store or in SSL_CERT_FILE"
        )),
        ureq::Error::Timeout(_) => Failure::temporary("no answer in time"),
        error => Failure::temporary(error.to_string()),
    }
}

fn shorten(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(MAX_MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_read_from_both_headers() {
        for (name, value, seconds) in [
            ("retry-after", "7", Some(7)),
            ("ratelimit", "\"api\";r=0;t=55", Some(55)),
            ("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT", None),
            ("x-other", "1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(retry_after(&headers), seconds.map(Duration::from_secs), "{name}: {value}");
        }
    }

    #[test]
    fn no_redirect_leads_from_https_to_another_scheme() {
        for (from, to, is_allowed) in [
            ("https://hub/a", "https://cdn/a", true),
            ("http://mirror/a", "http://mirror/b", true),
            ("http://mirror/a", "https://mirror/a", true),
            ("https://hub/a", "http://hub/a", false),
            ("http://hub/a", "file:///etc/passwd", false),
        ] {
            let url = |address: &str| Url::parse(address).unwrap();
            assert_eq!(may_redirect(&url(from), &url(to)), is_allowed, "{from} to {to}");
        }
    }

    #[test]
    fn an_address_has_no_user_and_no_query_and_errors_do_not_repeat_them() {
        assert_eq!(parse_address("https://mirror.example/hub").unwrap().path(), "/hub");
        for address in
            ["huggingface.co", "ftp://a", "https://", "https://u:secret@host/", "https://h/?key=secret"]
        {
            let error = parse_address(address).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
