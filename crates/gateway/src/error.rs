//! Errors of the API. Every error that a client can see is an [`ApiError`], and only [`Code::spec`] defines its status,
//! type and code.
//!
//! Several codes may look the same to a client (a full queue and a missed deadline) and still differ in metrics. A test
//! generates `docs/ERRORS.md` from this file.

use std::{error::Error, fmt, time::Duration};

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use openai_schema::{ErrorBody, RequestError};
use serde_json::json;

/// Message of every 500, OpenAI's own. The cause is only logged.
const INTERNAL_MESSAGE: &str = "The server had an error while processing your request";

/// Message of every 503, OpenAI's own.
const OVERLOADED_MESSAGE: &str = "The engine is currently overloaded, please try again later";

/// Value of `accept-encoding` in a 415: all supported codings (RFC 9110, 12.5.3).
const SUPPORTED_CODINGS: &str = "gzip, deflate, br, zstd, identity";

/// Maximum `retry-after`: openai-python fails for more than 120 s, and openai-node ignores more than 60 s.
const MAX_RETRY_AFTER_SECONDS: u64 = 60;

/// Reason why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The body, a header or a parameter breaks a rule of the API.
    InvalidRequest,
    /// A required parameter is absent.
    MissingParameter,
    /// An input or the request has too many tokens.
    TooLong,
    /// A key is required and the request has none.
    MissingKey,
    /// The request's key is not configured.
    InvalidKey,
    /// No model or alias has the requested name.
    ModelNotFound,
    /// No route has this path.
    UnknownUrl,
    /// The route has other methods.
    MethodNotAllowed,
    /// The body did not arrive in time.
    BodyTimeout,
    /// A model that is loading cannot be unloaded.
    ModelIsLoading,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// The body is compressed in an unsupported coding.
    UnsupportedEncoding,
    /// The caller exceeds its requests per minute.
    TooManyRequests,
    /// The caller exceeds its tokens per minute.
    TooManyTokens,
    /// The model's queue is at its capacity in tokens.
    QueueFull,
    /// Other requests hold the memory for bodies.
    BodyMemoryExhausted,
    /// Other requests hold the memory for responses.
    ResponseMemoryExhausted,
    /// The deadline passed, or cannot be met.
    Deadline,
    /// The models are loading.
    Loading,
    /// The requested model was not loaded in time.
    LoadTimeout,
    /// The requested model cannot be loaded.
    LoadFailed,
    /// Too many requests wait for the requested model to be loaded.
    LoadQueueFull,
    /// The server is shutting down.
    Draining,
    /// Redis is unavailable, and the rate limiter's failure mode is to reject.
    RateLimiterUnavailable,
    /// The server failed; a retry may succeed.
    Internal,
    /// The server failed, and a retry would fail, too.
    Permanent,
}

/// Representation of a [`Code`] in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorSpec {
    /// HTTP status.
    pub status: StatusCode,
    /// `error.type`.
    pub kind: &'static str,
    /// `error.code`.
    pub code: Option<&'static str>,
    /// Headers about a retry.
    pub retry: Retry,
}

/// Headers that tell the client whether and when to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// None: the status is enough.
    ByStatus,
    /// `retry-after`, in whole seconds from 1 to 60.
    After,
    /// The same and `retry-after-ms`, which the official SDKs prefer, for an exactly known time.
    AfterMillis,
    /// `x-should-retry: false`, which stops the official SDKs from retrying a 5xx.
    Never,
}

/// JSON in which the clients of a route expect errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorShape {
    /// `{"error": {"message", "type", "param", "code"}}`.
    OpenAi,
    /// `{"id", "message"}`.
    Cohere,
    /// `{"error"}`.
    Ollama,
    /// `{"error", "error_type"}`.
    Tei,
}

impl Code {
    /// Every code, in the order of their statuses.
    pub const ALL: [Self; 26] = [
        Self::InvalidRequest,
        Self::MissingParameter,
        Self::TooLong,
        Self::MissingKey,
        Self::InvalidKey,
        Self::ModelNotFound,
        Self::UnknownUrl,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::ModelIsLoading,
        Self::BodyTooLarge,
        Self::UnsupportedEncoding,
        Self::TooManyRequests,
        Self::TooManyTokens,
        Self::Internal,
        Self::Permanent,
        Self::QueueFull,
        Self::BodyMemoryExhausted,
        Self::ResponseMemoryExhausted,
        Self::Deadline,
        Self::Loading,
        Self::LoadTimeout,
        Self::LoadFailed,
        Self::LoadQueueFull,
        Self::Draining,
        Self::RateLimiterUnavailable,
    ];

    /// Status, type, code and retry headers of this code.
    pub fn spec(self) -> ErrorSpec {
        const INVALID: &str = "invalid_request_error";
        let (status, kind, code, retry) = match self {
            Self::InvalidRequest | Self::TooLong => (400, INVALID, None, Retry::ByStatus),
            Self::MissingParameter => (400, INVALID, Some("missing_required_parameter"), Retry::ByStatus),
            Self::MissingKey => (401, INVALID, None, Retry::ByStatus),
            Self::InvalidKey => (401, INVALID, Some("invalid_api_key"), Retry::ByStatus),
            Self::ModelNotFound => (404, INVALID, Some("model_not_found"), Retry::ByStatus),
            Self::UnknownUrl => (404, INVALID, None, Retry::ByStatus),
            Self::MethodNotAllowed => (405, INVALID, None, Retry::ByStatus),
            Self::BodyTimeout => (408, INVALID, None, Retry::ByStatus),
            Self::ModelIsLoading => (409, INVALID, None, Retry::ByStatus),
            Self::BodyTooLarge => (413, "server_error", None, Retry::ByStatus),
            Self::UnsupportedEncoding => (415, INVALID, None, Retry::ByStatus),
            Self::TooManyRequests => (429, "requests", Some("rate_limit_exceeded"), Retry::AfterMillis),
            Self::TooManyTokens => (429, "tokens", Some("rate_limit_exceeded"), Retry::AfterMillis),
            Self::Internal => (500, "server_error", None, Retry::ByStatus),
            Self::Permanent => (500, "server_error", None, Retry::Never),
            Self::QueueFull
            | Self::BodyMemoryExhausted
            | Self::ResponseMemoryExhausted
            | Self::Deadline
            | Self::Loading
            | Self::LoadTimeout
            | Self::LoadFailed
            | Self::LoadQueueFull
            | Self::Draining
            | Self::RateLimiterUnavailable => {
                (503, "service_unavailable_error", Some("server_is_overloaded"), Retry::After)
            }
        };
        // Every number above is a valid status, so the default is never used.
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        ErrorSpec { status, kind, code, retry }
    }

    /// Name of this code in the metric `embedgate_errors_total` and in `/status`, where clients of all vendors are
    /// counted together.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::MissingParameter => "missing_required_parameter",
            Self::TooLong => "too_long",
            Self::MissingKey => "missing_api_key",
            Self::InvalidKey => "invalid_api_key",
            Self::ModelNotFound => "model_not_found",
            Self::UnknownUrl => "unknown_url",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BodyTimeout => "body_timeout",
            Self::ModelIsLoading => "model_is_loading",
            Self::BodyTooLarge => "body_too_large",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::TooManyRequests => "too_many_requests",
            Self::TooManyTokens => "too_many_tokens",
            Self::QueueFull => "queue_full",
            Self::BodyMemoryExhausted => "body_memory_exhausted",
            Self::ResponseMemoryExhausted => "response_memory_exhausted",
            Self::Deadline => "timeout",
            Self::Loading => "loading",
            Self::LoadTimeout => "load_timeout",
            Self::LoadFailed => "load_failed",
            Self::LoadQueueFull => "load_queue_full",
            Self::Draining => "draining",
            Self::RateLimiterUnavailable => "rate_limiter_unavailable",
            Self::Internal => "internal",
            Self::Permanent => "permanent",
        }
    }

    /// The `error_type` of text-embeddings-inference for this code.
    fn tei_type(self) -> &'static str {
        match (self, self.spec().status.as_u16()) {
            (Self::Loading | Self::Draining, _) => "unhealthy",
            (_, 429 | 503) => "overloaded",
            (_, 400..500) => "validation",
            _ => "backend",
        }
    }

    /// Condition of this code, in one sentence for the documentation.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::InvalidRequest => {
                "The body, a header or a parameter breaks a rule of the API, or the model cannot embed an input, \
                 which the message names."
            }
            Self::MissingParameter => "`input` is absent, or `start_time` of a query for usage.",
            Self::TooLong => {
                "The request has more tokens than `limits.max_request_tokens` or \
                 `limits.key_tokens_per_minute`, or an input is longer than the model's maximum and the \
                 truncation policy is `error`."
            }
            Self::MissingKey => "A key is required and the request has none.",
            Self::InvalidKey => "The request's key is not configured.",
            Self::ModelNotFound => "No model or alias has the requested name.",
            Self::UnknownUrl => "No route has this path.",
            Self::MethodNotAllowed => "The route has other methods, listed in the `allow` header.",
            Self::BodyTimeout => "The body did not arrive within `server.request_timeout`.",
            Self::ModelIsLoading => "An admin route was to unload a model that is loading.",
            Self::BodyTooLarge => "The body is larger than `limits.max_body_bytes`.",
            Self::UnsupportedEncoding => {
                "The header `content-encoding` names a coding other than `gzip`, `deflate`, `br`, `zstd` and \
                 `identity`, or several."
            }
            Self::TooManyRequests => "The key exceeds `limits.key_requests_per_minute`.",
            Self::TooManyTokens => "The key exceeds `limits.key_tokens_per_minute`.",
            Self::Internal => "The server failed; the log has the cause under the response's `x-request-id`.",
            Self::Permanent => "The server failed, and a retry would fail, too.",
            Self::QueueFull => "The model's queue is at its capacity in tokens (`models.max_queue_tokens`).",
            Self::BodyMemoryExhausted => {
                "The bodies of other requests hold the memory of `limits.max_buffered_body_bytes`."
            }
            Self::ResponseMemoryExhausted => {
                "The responses to other requests, in computation or not yet read by their clients, hold the memory of \
                 `limits.max_buffered_response_bytes`."
            }
            Self::Deadline => {
                "The request was not answered within `server.request_timeout`, or could not have been."
            }
            Self::Loading => "The models are loading.",
            Self::LoadTimeout => {
                "The requested model was not loaded within `loading.timeout`. The load continues."
            }
            Self::LoadFailed => "The requested model cannot be loaded; the log has the cause.",
            Self::LoadQueueFull => {
                "More than `loading.max_waiting_requests` requests wait for the requested model to be loaded."
            }
            Self::Draining => "The server is shutting down.",
            Self::RateLimiterUnavailable => {
                "The Redis server of the rate limiter is unavailable, and `limits.redis_failure_mode` is `fail-closed`."
            }
        }
    }
}

/// An error with its message for the client, and a source that is only logged.
#[derive(Debug)]
pub struct ApiError {
    code: Code,
    param: Option<&'static str>,
    message: String,
    retry_after: Duration,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ApiError {
    /// An error with a message for the client.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, param: None, message: message.into(), retry_after: Duration::ZERO, source: None }
    }

    /// A 400 with OpenAI's `invalid_request_error`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// A 404 for a path without a route.
    pub fn unknown_url(method: &str, path: &str) -> Self {
        Self::new(Code::UnknownUrl, format!("Invalid URL ({method} {path})"))
    }

    /// A failure of the server. The client gets a fixed message; `source` is logged.
    pub fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..Self::new(Code::Internal, INTERNAL_MESSAGE) }
    }

    /// A failure of the server that a retry would repeat.
    pub fn permanent(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code: Code::Permanent, ..Self::internal(source) }
    }

    /// A lack of capacity. `retry_after` is rounded up to whole seconds from 1 to 60.
    pub fn unavailable(code: Code, retry_after: Duration) -> Self {
        Self { retry_after, ..Self::new(code, OVERLOADED_MESSAGE) }
    }

    /// An exceeded rate limit. `retry_after` is also sent in milliseconds.
    pub fn limited(code: Code, message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after, ..Self::new(code, message) }
    }

    /// Sets `error.param`, the parameter that caused the error.
    #[must_use]
    pub fn about(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }

    /// An error in a body of another vendor's format, whose message does not refer to OpenAI's.
    pub(crate) fn in_vendor_format(error: RequestError) -> Self {
        let message = error.neutral_message();
        Self { message, ..Self::from(error) }
    }

    /// The parameter that caused the error.
    pub fn param(&self) -> Option<&'static str> {
        self.param
    }

    /// Reason of the failure.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The body of this error for the clients of `shape`, in response to the request `id`; `None` for OpenAI's shape,
    /// which it has by itself.
    pub(crate) fn reshaped(&self, shape: ErrorShape, id: &str) -> Option<String> {
        let message = &self.message;
        let body = match shape {
            ErrorShape::OpenAi => return None,
            ErrorShape::Cohere => json!({ "id": id, "message": message }),
            ErrorShape::Ollama => json!({ "error": message }),
            ErrorShape::Tei => json!({ "error": message, "error_type": self.code.tei_type() }),
        };
        Some(body.to_string())
    }

    /// Seconds for the `retry-after` header.
    fn retry_seconds(&self) -> u64 {
        let rounded_up = self.retry_after.as_secs() + u64::from(self.retry_after.subsec_nanos() > 0);
        rounded_up.clamp(1, MAX_RETRY_AFTER_SECONDS)
    }

    /// Milliseconds for the `retry-after-ms` header.
    fn retry_millis(&self) -> u128 {
        let rounded_up = self.retry_after.as_nanos().div_ceil(1_000_000);
        rounded_up.clamp(1, u128::from(MAX_RETRY_AFTER_SECONDS) * 1000)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ApiError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let code = match error.code() {
            Some("missing_required_parameter") => Code::MissingParameter,
            _ => Code::InvalidRequest,
        };
        Self { param: error.param(), ..Self::new(code, error.to_string()) }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.code.spec().status
    }

    fn error_response(&self) -> HttpResponse {
        let spec = self.code.spec();
        let mut response = HttpResponse::build(spec.status);
        if spec.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if spec.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            response.insert_header((header::ACCEPT_ENCODING, SUPPORTED_CODINGS));
        }
        match spec.retry {
            Retry::ByStatus => {}
            Retry::After => {
                response.insert_header((header::RETRY_AFTER, self.retry_seconds().to_string()));
            }
            Retry::AfterMillis => {
                response.insert_header((header::RETRY_AFTER, self.retry_seconds().to_string()));
                response.insert_header(("retry-after-ms", self.retry_millis().to_string()));
            }
            Retry::Never => {
                response.insert_header(("x-should-retry", "false"));
            }
        }
        response.json(ErrorBody::new(&self.message, spec.kind, self.param, spec.code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up_and_at_most_a_minute() {
        let seconds =
            |millis| ApiError::unavailable(Code::QueueFull, Duration::from_millis(millis)).retry_seconds();
        assert_eq!([0, 1, 1000, 1001, 59_001, 61_000, 600_000].map(seconds), [1, 1, 1, 2, 60, 60, 60]);
        let millis =
            |micros| ApiError::limited(Code::TooManyTokens, "", Duration::from_micros(micros)).retry_millis();
        assert_eq!([0, 1, 1001, 59_999_001, 61_000_000].map(millis), [1, 1, 2, 60_000, 60_000]);
    }

    #[test]
    fn codes_are_sorted_by_valid_statuses() {
        let statuses = Code::ALL.map(|code| code.spec().status.as_u16());
        assert!(statuses.is_sorted(), "{statuses:?}");
        assert_eq!(statuses.iter().filter(|&&status| status == 500).count(), 2, "{statuses:?}");
    }
}
