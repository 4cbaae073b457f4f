//! Around every request: its id and span, its headers, its line in the log, its place in the metrics.
//!
//! One middleware does all of it, because all of it needs the same two moments: when the request came, and
//! when its answer is there or its future was dropped, which is how a client that hangs up looks from here.

use std::{
    cell::{Cell, OnceCell},
    error::Error as StdError,
    fmt::Write,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    Error, HttpMessage, HttpRequest,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        ConnectionType, Method,
        header::{HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use tracing::{Instrument, Span, field::display};
use uuid::Uuid;

use crate::{
    connection::Exchange,
    error::{ApiError, Code},
    lifecycle::Lifecycle,
    limits::Standing,
    metrics::{Metrics, Outcome, ParameterOutcome, Rejection},
    parameters,
    trace::{Trace, Tracing},
};

/// What is known of one request so far. Handlers add to it; the middleware reports it.
pub(crate) struct Record {
    id: String,
    client_id: Option<String>,
    key: OnceCell<String>,
    model: OnceCell<Arc<str>>,
    inputs: Cell<usize>,
    tokens: Cell<u64>,
    truncated: Cell<usize>,
    ignored: OnceCell<Vec<&'static str>>,
    standing: Cell<Option<Standing>>,
    trace: Trace,
}

impl Record {
    fn new(headers: &HeaderMap, trace: Trace) -> Self {
        Self {
            id: format!("req_{}", Uuid::now_v7().simple()),
            client_id: client_id(headers),
            key: OnceCell::new(),
            model: OnceCell::new(),
            inputs: Cell::new(0),
            tokens: Cell::new(0),
            truncated: Cell::new(0),
            ignored: OnceCell::new(),
            standing: Cell::new(None),
            trace,
        }
    }

    /// The record of `request`.
    pub(crate) fn of(request: &HttpRequest) -> Rc<Self> {
        let known = request.extensions().get::<Rc<Self>>().cloned();
        known.unwrap_or_else(|| Rc::new(Self::new(request.headers(), Trace::default())))
    }

    /// Notes the name of the key that let the request in.
    pub(crate) fn set_key(&self, name: &str) {
        self.key.get_or_init(|| name.to_owned());
    }

    /// Notes the id of the model that answers.
    pub(crate) fn set_model(&self, id: &Arc<str>) {
        self.model.get_or_init(|| Arc::clone(id));
    }

    /// Notes the number of inputs.
    pub(crate) fn set_inputs(&self, inputs: usize) {
        self.inputs.set(inputs);
    }

    /// Notes the parameters of other vendors that are ignored.
    pub(crate) fn set_ignored(&self, names: &[&'static str]) {
        self.ignored.get_or_init(|| names.to_vec());
    }

    /// Notes how many tokens were read and how many inputs were cut.
    pub(crate) fn set_tokens(&self, tokens: u64, truncated: usize) {
        self.tokens.set(tokens);
        self.truncated.set(truncated);
    }

    /// The request's trace.
    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Notes what the caller's limits have left, for the headers of the answer, whatever it is.
    pub(crate) fn set_standing(&self, standing: Standing) {
        self.standing.set(Some(standing));
    }

    /// The id of the model that answers, once it is known.
    pub(crate) fn model(&self) -> Option<&str> {
        self.model.get().map(|id| &**id)
    }
}

/// Watches one request from its arrival to its answer.
pub(crate) async fn observe(
    metrics: web::Data<Metrics>,
    lifecycle: web::Data<Lifecycle>,
    tracing: web::Data<Tracing>,
    mut request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let exchange = Exchange::begin(&mut request);
    let record = Rc::new(Record::new(request.headers(), tracing.begin(&request)));
    request.extensions_mut().insert(Rc::clone(&record));
    let watch = Watch {
        embeds: matches!(request.path(), "/v1/embeddings" | "/embeddings"),
        method: request.method().clone(),
        started: Instant::now(),
        span: span(&record),
        record,
        metrics,
        answered: false,
    };
    // A client that offers to upgrade (Java's does, to h2c) is answered in HTTP/1.1. The framework then closes the
    // connection, but would not say so.
    let upgrade = request.head().connection_type() == ConnectionType::Upgrade;
    let mut response = next.call(request).instrument(watch.span.clone()).await?;
    watch.finish(&mut response);
    // While draining, the client's next request should find another server.
    if exchange.decide() || upgrade || lifecycle.draining() {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response.map_body(|_, body| exchange.ending_with(body)))
}

/// Reports a request exactly once: when its answer is there, or when it is dropped without one.
struct Watch {
    /// Whether the path is the one that the model metrics are about.
    embeds: bool,
    method: Method,
    started: Instant,
    /// What every line of the request in the log is marked with.
    span: Span,
    record: Rc<Record>,
    metrics: web::Data<Metrics>,
    answered: bool,
}

impl Watch {
    fn finish(mut self, response: &mut ServiceResponse<impl MessageBody>) {
        self.answered = true;
        let _inside = std::mem::replace(&mut self.span, Span::none()).entered();
        let elapsed = self.started.elapsed();
        let route = response.request().match_pattern().unwrap_or_else(|| "unmatched".to_owned());
        let status = response.status().as_u16();
        let error = response.response().error().and_then(|error| error.as_error::<ApiError>());
        if let Some(source) = error.and_then(StdError::source) {
            tracing::error!(error = chain(source), "request failed");
        }
        let code = error.map(ApiError::code);
        self.metrics.http(&route, self.method.as_str(), status);
        if self.embeds {
            self.count(outcome(status), code, elapsed);
            for name in self.record.ignored.get().into_iter().flatten() {
                self.metrics.parameter(name, ParameterOutcome::Ignored);
            }
            if let Some(name) = error.and_then(ApiError::param).and_then(parameters::known) {
                self.metrics.parameter(name, ParameterOutcome::Rejected);
            }
        }
        self.record.trace.answered(&self.record.id, response.request(), status, code);
        self.log(&route, status, elapsed);
        self.stamp(response.headers_mut(), elapsed);
    }

    fn count(&self, outcome: Outcome, code: Option<Code>, elapsed: Duration) {
        let model = self.metrics.model(self.record.model());
        model.request(outcome, elapsed);
        if let Some(reason) = code.and_then(rejection) {
            model.rejected(reason);
        }
    }

    /// One line for each request, without a word of its text and without its key. Probes and scrapes come
    /// every few seconds and would bury the rest.
    fn log(&self, route: &str, status: u16, elapsed: Duration) {
        let record = &self.record;
        let ms = milliseconds(elapsed);
        let (key, client_id) = (record.key.get(), record.client_id.as_deref());
        let truncated = record.truncated.get();
        let inputs = self.embeds.then(|| record.inputs.get());
        let tokens = self.embeds.then(|| record.tokens.get());
        if is_probe(route) {
            tracing::debug!(method = %self.method, route, status, ms, "answered");
            return;
        }
        tracing::info!(
            client_id, key, method = %self.method, route, status, model = record.model(),
            inputs, tokens, ms, "answered"
        );
        if truncated > 0 {
            tracing::warn!(
                model = record.model(),
                inputs,
                truncated,
                "inputs were cut at the model's window; the setting `truncation` or the header \
                 x-embedgate-truncation chooses otherwise"
            );
        }
    }

    fn stamp(&self, headers: &mut HeaderMap, elapsed: Duration) {
        // An id that we made is a valid header value.
        if let Ok(id) = HeaderValue::from_str(&self.record.id) {
            headers.insert(HeaderName::from_static("x-request-id"), id);
        }
        if let Some(standing) = self.record.standing.get() {
            standing.stamp(headers);
        }
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        headers.insert(HeaderName::from_static("openai-processing-ms"), ms.into());
        headers.insert(HeaderName::from_static("openai-version"), HeaderValue::from_static("2020-10-01"));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let _inside = self.span.clone().entered();
        let elapsed = self.started.elapsed();
        let panicked = std::thread::panicking();
        if self.embeds {
            let outcome = if panicked { Outcome::Error } else { Outcome::Cancelled };
            self.count(outcome, None, elapsed);
        }
        self.record.trace.abandoned(&self.record.id, if panicked { "panic" } else { "cancelled" });
        tracing::info!(
            client_id = self.record.client_id.as_deref(),
            key = self.record.key.get(),
            model = self.record.model(),
            inputs = self.record.inputs.get(),
            ms = milliseconds(elapsed),
            "{}",
            if panicked { "the request panicked" } else { "the client hung up" }
        );
    }
}

/// For the log: to the microsecond.
fn milliseconds(elapsed: Duration) -> f64 {
    elapsed.as_micros() as f64 / 1e3
}

/// The span that marks the lines of a request. It is there whatever is logged, for an error's line needs it, too.
fn span(record: &Record) -> Span {
    let trace_id = record.trace.id().map(display);
    tracing::error_span!("request", request = record.id, trace_id)
}

/// Whether a path, or a route, is one that comes every few seconds and is of no interest.
pub(crate) fn is_probe(path: &str) -> bool {
    matches!(path, "/startupz" | "/readyz" | "/livez" | "/metrics")
}

fn outcome(status: u16) -> Outcome {
    match status {
        // Every code with this status is about room or time.
        503 => Outcome::Rejected,
        200..400 => Outcome::Success,
        400..500 => Outcome::ClientError,
        _ => Outcome::Error,
    }
}

fn rejection(code: Code) -> Option<Rejection> {
    match code {
        Code::QueueFull => Some(Rejection::QueueFull),
        Code::BodyMemoryExhausted => Some(Rejection::BodyMemoryExhausted),
        Code::ResponseMemoryExhausted => Some(Rejection::ResponseMemoryExhausted),
        Code::TooLong => Some(Rejection::TooLong),
        Code::MissingKey | Code::InvalidKey => Some(Rejection::Auth),
        Code::Draining => Some(Rejection::Draining),
        Code::Deadline => Some(Rejection::Timeout),
        Code::TooManyRequests | Code::TooManyTokens => Some(Rejection::RateLimit),
        Code::RateLimiterUnavailable => Some(Rejection::RateLimiterUnavailable),
        Code::InvalidRequest
        | Code::MissingParameter
        | Code::ModelNotFound
        | Code::UnknownUrl
        | Code::MethodNotAllowed
        | Code::BodyTimeout
        | Code::BodyTooLarge
        | Code::UnsupportedEncoding
        | Code::Loading
        | Code::Internal
        | Code::Permanent => None,
    }
}

/// The client's own id of the request, so that its log and ours can be joined. It is only ever logged, and
/// only if it could not be mistaken for anything else there.
fn client_id(headers: &HeaderMap) -> Option<String> {
    const LONGEST: usize = 128;
    let names = ["x-client-request-id", "x-request-id"];
    let value = names.iter().find_map(|name| headers.get(*name))?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (!value.is_empty() && value.len() <= LONGEST && value.bytes().all(plain)).then(|| value.to_owned())
}

/// An error and its sources, in one line.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn logged(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("x-request-id"), HeaderValue::from_str(value).unwrap());
        client_id(&headers)
    }

    #[test]
    fn only_a_harmless_client_id_is_logged() {
        assert_eq!(logged("0af7-65.a:b_c"), Some("0af7-65.a:b_c".to_owned()));
        for value in ["", "a b", "a\"b", "a=b", "é", &"x".repeat(129)] {
            assert_eq!(logged(value), None, "{value}");
        }
    }
}
