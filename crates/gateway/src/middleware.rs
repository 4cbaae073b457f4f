//! Middleware around every request: its log span, metrics, trace and headers.
//!
//! One middleware does all of this, because all of it needs the same two moments: the arrival of the request, and
//! either its response or the drop of its future, which means that the client disconnected.

use std::{
    error::Error as StdError,
    rc::Rc,
    time::{Duration, Instant},
};

use actix_web::{
    Error,
    body::{EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        ConnectionType, Method,
        header::{HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use tracing::{Instrument, Span, field::display};

use crate::{
    config::PathPrefix,
    connection::Exchange,
    error::{ApiError, Code},
    error_chain::error_chain,
    lifecycle::Lifecycle,
    metrics::{Metrics, Outcome, ParameterOutcome, Rejection},
    parameters,
    request_context::RequestContext,
    routes::{self, RouteKind, rate_limit_response},
    trace::{Trace, Tracing},
    usage::{UsageLedger, unix_time},
};

/// Observes one request from its arrival to its response.
pub(crate) async fn observe(
    metrics: web::Data<Metrics>,
    lifecycle: web::Data<Lifecycle>,
    (tracing, usage, prefix): (web::Data<Tracing>, web::Data<UsageLedger>, web::Data<PathPrefix>),
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let exchange = Exchange::begin(&mut request);
    let route = request.match_pattern().map(|pattern| routes::without_prefix(&pattern, &prefix).to_owned());
    let (kind, errors) = routes::kind_and_errors(route.as_deref(), request.method());
    let context = RequestContext::attach(&request);
    let trace = tracing.attach(&request, kind != RouteKind::Probe);
    let guard = RequestGuard {
        route,
        kind,
        method: request.method().clone(),
        started: Instant::now(),
        span: span(&context, &trace),
        context,
        trace,
        metrics,
        usage,
        has_response: false,
    };
    // A client that offers to upgrade (Java's offers h2c) gets a response in HTTP/1.1. The framework then closes the
    // connection, but does not announce it.
    let is_upgrade = request.head().connection_type() == ConnectionType::Upgrade;
    let mut response = next.call(request).instrument(guard.span.clone()).await?;
    let context = Rc::clone(&guard.context);
    guard.finish(&mut response);
    let reshaped = api_error(&response).and_then(|error| error.reshaped(errors, &context.id));
    // While draining, the client's next request must go to another server.
    if exchange.decide() || is_upgrade || lifecycle.is_draining() {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response.map_body(|_, body| {
        exchange.ending_with(match reshaped {
            Some(error) => EitherBody::right(error),
            None => EitherBody::left(body),
        })
    }))
}

/// Reports a request exactly once: with its response, or when it is dropped without one.
struct RequestGuard {
    /// Pattern of the matched route.
    route: Option<String>,
    kind: RouteKind,
    method: Method,
    started: Instant,
    /// Marks every log line of the request.
    span: Span,
    context: Rc<RequestContext>,
    trace: Rc<Trace>,
    metrics: web::Data<Metrics>,
    usage: web::Data<UsageLedger>,
    has_response: bool,
}

impl RequestGuard {
    fn finish(mut self, response: &mut ServiceResponse<impl MessageBody>) {
        self.has_response = true;
        let _entered = std::mem::replace(&mut self.span, Span::none()).entered();
        let elapsed = self.started.elapsed();
        let status = response.status().as_u16();
        let error = api_error(response);
        if let Some(source) = error.and_then(StdError::source) {
            tracing::error!(error = error_chain(source), "request failed");
        }
        let code = error.map(ApiError::code);
        code.into_iter().for_each(|code| self.metrics.error(code));
        let route = self.route.as_deref();
        self.metrics.http(route.unwrap_or("unmatched"), self.method.as_str(), status);
        if self.is_embedding() {
            self.count(outcome(status), code, elapsed);
            if outcome(status) == Outcome::Success {
                self.count_usage();
            }
            for name in self.context.ignored.get().into_iter().flatten() {
                self.metrics.parameter(name, ParameterOutcome::Ignored);
            }
            if let Some(name) = error.and_then(ApiError::param).and_then(parameters::known) {
                self.metrics.parameter(name, ParameterOutcome::Rejected);
            }
        }
        self.trace.end_with_response(&self.context.id, route, response, code);
        self.log(status, elapsed);
        self.write_headers(response.headers_mut(), elapsed);
    }

    fn is_embedding(&self) -> bool {
        self.kind == RouteKind::Embeddings
    }

    fn count(&self, outcome: Outcome, code: Option<Code>, elapsed: Duration) {
        let model = self.metrics.model(self.context.model());
        model.request(outcome, elapsed);
        if self.context.misses_prompt.get() {
            model.prompt_missing();
        }
        if let Some(reason) = code.and_then(rejection) {
            model.rejected(reason);
        }
    }

    /// Counts what a request used that is answered with vectors.
    fn count_usage(&self) {
        let (context, Some(model)) = (&self.context, self.context.model()) else { return };
        let (key, tokens) = (context.key.get().map(String::as_str), context.tokens.get());
        if let Some(key) = self.usage.record(unix_time(), key, model, tokens) {
            self.metrics.key_usage(&key, tokens, context.truncated.get());
        }
    }

    /// Logs one line, which never contains input text or a key. Probes and scrapes come every few seconds, so they are
    /// logged at level DEBUG.
    fn log(&self, status: u16, elapsed: Duration) {
        let (context, route) = (&self.context, self.route.as_deref().unwrap_or("unmatched"));
        let ms = milliseconds(elapsed);
        if self.kind == RouteKind::Probe {
            tracing::debug!(method = %self.method, route, status, ms, "answered");
            return;
        }
        let (key, client_id) = (context.key.get(), context.client_id.as_deref());
        let inputs = self.is_embedding().then(|| context.inputs.get());
        let tokens = self.is_embedding().then(|| context.tokens.get());
        tracing::info!(
            client_id, key, method = %self.method, route, status, model = context.model(),
            inputs, tokens, ms, "answered"
        );
        let truncated = context.truncated.get();
        if truncated > 0 {
            tracing::warn!(
                model = context.model(),
                inputs,
                truncated,
                "inputs were truncated to the model's maximum length; change the setting `truncation` or the header \
                 x-embedgate-truncation to average or reject long inputs instead"
            );
        }
    }

    fn write_headers(&self, headers: &mut HeaderMap, elapsed: Duration) {
        // An id of ours is always a valid header value.
        if let Ok(id) = HeaderValue::from_str(&self.context.id) {
            headers.insert(HeaderName::from_static("x-request-id"), id);
        }
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        headers.insert(HeaderName::from_static("openai-processing-ms"), ms.into());
        headers.insert(HeaderName::from_static("openai-version"), HeaderValue::from_static("2020-10-01"));
        if let Some(status) = self.context.rate_limit.get() {
            rate_limit_response::write_headers(&status, headers);
        }
    }
}

/// The error that a response tells, if it is one.
fn api_error(response: &ServiceResponse<impl MessageBody>) -> Option<&ApiError> {
    response.response().error().and_then(|error| error.as_error::<ApiError>())
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if self.has_response {
            return;
        }
        let _entered = self.span.clone().entered();
        let elapsed = self.started.elapsed();
        let panicked = std::thread::panicking();
        if self.is_embedding() {
            let outcome = if panicked { Outcome::Error } else { Outcome::Cancelled };
            self.count(outcome, None, elapsed);
        }
        let context = &self.context;
        self.trace.end_without_response(&context.id, if panicked { "panic" } else { "cancelled" });
        tracing::info!(
            client_id = context.client_id.as_deref(),
            key = context.key.get(),
            model = context.model(),
            inputs = context.inputs.get(),
            ms = milliseconds(elapsed),
            "{}",
            if panicked { "the request panicked" } else { "the client disconnected" }
        );
    }
}

/// Milliseconds for the log, with microsecond precision.
fn milliseconds(elapsed: Duration) -> f64 {
    elapsed.as_micros() as f64 / 1e3
}

/// The span that marks the log lines of a request. Its level is ERROR, because lines of every level need it.
fn span(context: &RequestContext, trace: &Trace) -> Span {
    let trace_id = trace.id().map(display);
    tracing::error_span!("request", request = context.id, trace_id)
}

fn outcome(status: u16) -> Outcome {
    match status {
        // Every code with this status means a lack of capacity or time.
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
        Code::LoadTimeout => Some(Rejection::LoadTimeout),
        Code::LoadFailed => Some(Rejection::LoadFailed),
        Code::LoadQueueFull => Some(Rejection::LoadQueueFull),
        Code::InvalidRequest
        | Code::MissingParameter
        | Code::ModelNotFound
        | Code::UnknownUrl
        | Code::MethodNotAllowed
        | Code::BodyTimeout
        | Code::ModelIsLoading
        | Code::BodyTooLarge
        | Code::UnsupportedEncoding
        | Code::Loading
        | Code::Internal
        | Code::Permanent => None,
    }
}
