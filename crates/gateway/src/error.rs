//! The one place where a failure gets its HTTP face: every error that a client can see is an [`ApiError`],
//! and [`Code::wire`] alone decides its status, type and code.
//!
//! The set of codes is closed. Several may share one face (a full queue and a missed deadline look the same
//! to a client) and still be told apart in metrics. `docs/ERRORS.md` is generated from this file by a test.

use std::{error::Error, fmt, time::Duration};

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use openai_schema::{ErrorBody, RequestError};

/// What a 5xx says, whatever went wrong: OpenAI's own sentence. The cause goes to the log.
const INTERNAL_MESSAGE: &str = "The server had an error while processing your request";

/// What a 503 says that asks the client to come back: OpenAI's own sentence.
const OVERLOADED_MESSAGE: &str = "The engine is currently overloaded, please try again later";

/// openai-python gives up on a `retry-after` above 120 s and openai-node ignores one above 60 s.
const LONGEST_RETRY_AFTER: u64 = 60;

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The body, a header or a parameter breaks a rule of the API.
    InvalidRequest,
    /// A parameter without which the API cannot work is absent.
    MissingParameter,
    /// An input, or the whole request, has more tokens than allowed.
    TooLong,
    /// Keys are configured and the request brings none.
    MissingKey,
    /// The request's key is none of the configured ones.
    InvalidKey,
    /// No model or alias has the name asked for.
    ModelNotFound,
    /// No route has this path.
    UnknownUrl,
    /// The route exists, with another method.
    MethodNotAllowed,
    /// The client took too long to send the body.
    BodyTimeout,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// The body is compressed.
    UnsupportedEncoding,
    /// The caller's requests of this minute are used up.
    TooManyRequests,
    /// The caller's tokens of this minute are used up.
    TooManyTokens,
    /// The model's queue holds as many tokens as it may.
    QueueFull,
    /// The bodies of other requests have all the memory there is for them.
    BodyMemoryExhausted,
    /// The answers to other requests use all the memory for answers.
    ResponseMemoryExhausted,
    /// The request cannot be answered before its deadline, or was not.
    Deadline,
    /// The models are still being loaded.
    Loading,
    /// The server is shutting down.
    Draining,
    /// Nobody can say whether the caller's limits allow the request.
    RateLimiterUnavailable,
    /// Something of ours broke; the same request may succeed next time.
    Internal,
    /// Something of ours broke, and will again for this request.
    Permanent,
}

/// How a [`Code`] looks from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// HTTP status.
    pub status: StatusCode,
    /// `error.type`.
    pub kind: &'static str,
    /// `error.code`.
    pub code: Option<&'static str>,
    /// What the headers say about trying again.
    pub retry: Retry,
}

/// What an answer's headers say about sending the same request again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Nothing: the status speaks for itself.
    ByStatus,
    /// `retry-after`, in whole seconds from 1 to 60.
    After,
    /// The same, and `retry-after-ms`, which the official SDKs prefer: the moment is known exactly.
    AfterMillis,
    /// `x-should-retry: false`, which stops the official SDKs from repeating a 5xx.
    Never,
}

impl Code {
    /// Every code, in the order of their statuses.
    pub const ALL: [Self; 22] = [
        Self::InvalidRequest,
        Self::MissingParameter,
        Self::TooLong,
        Self::MissingKey,
        Self::InvalidKey,
        Self::ModelNotFound,
        Self::UnknownUrl,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
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
        Self::Draining,
        Self::RateLimiterUnavailable,
    ];

    /// Status, type, code and retry advice of this failure.
    pub fn wire(self) -> Wire {
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
            | Self::Draining
            | Self::RateLimiterUnavailable => {
                (503, "service_unavailable_error", Some("server_is_overloaded"), Retry::After)
            }
        };
        // Every number above is a valid status, so the fall-back is never taken.
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Wire { status, kind, code, retry }
    }

    /// When this happens, in one sentence for the documentation.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::InvalidRequest => {
                "The body, a header or a parameter breaks a rule of the API, or the model cannot embed an input, \
                 which the message then names."
            }
            Self::MissingParameter => "`input` is absent.",
            Self::TooLong => {
                "The request has more tokens than `limits.max_request_tokens` or \
                 `limits.key_tokens_per_minute`, or an input is longer than the model's window under the policy \
                 `error`."
            }
            Self::MissingKey => "Keys are configured and the request brings none.",
            Self::InvalidKey => "The request's key is none of the configured ones.",
            Self::ModelNotFound => "No model or alias has the name asked for.",
            Self::UnknownUrl => "No route has this path.",
            Self::MethodNotAllowed => "The route exists, with the methods named in the `allow` header.",
            Self::BodyTimeout => "The client took longer than `server.request_timeout` to send the body.",
            Self::BodyTooLarge => "The body is larger than `limits.max_body_bytes`.",
            Self::UnsupportedEncoding => {
                "The body is compressed: the header `content-encoding` names a coding other than `identity`."
            }
            Self::TooManyRequests => "The key has used up `limits.key_requests_per_minute`.",
            Self::TooManyTokens => "The key has used up `limits.key_tokens_per_minute`.",
            Self::Internal => {
                "Something broke here; the log has the cause under the answer's `x-request-id`."
            }
            Self::Permanent => "As above, and the same request would fail again.",
            Self::QueueFull => "The model's queue holds as many tokens as it may.",
            Self::BodyMemoryExhausted => {
                "The bodies of other requests take up `limits.max_buffered_body_bytes`."
            }
            Self::ResponseMemoryExhausted => {
                "The answers to other requests, computed or not yet read by their clients, take up \
                 `limits.max_buffered_response_bytes`."
            }
            Self::Deadline => {
                "The request was not, or could not have been, answered within `server.request_timeout`."
            }
            Self::Loading => "The models are still being loaded.",
            Self::Draining => "The server is shutting down.",
            Self::RateLimiterUnavailable => {
                "The server of the shared limits is away, and `limits.redis_failure_mode` is `fail-closed`."
            }
        }
    }
}

/// A failure with everything that the client may know and, apart from it, what only the log may.
#[derive(Debug)]
pub struct ApiError {
    code: Code,
    param: Option<&'static str>,
    message: String,
    retry_after: Duration,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ApiError {
    /// A failure that is the client's: `message` is shown.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, param: None, message: message.into(), retry_after: Duration::ZERO, source: None }
    }

    /// A 400 with OpenAI's `invalid_request_error`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// A failure of ours: the client sees a fixed sentence, the log sees `source`.
    pub fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..Self::new(Code::Internal, INTERNAL_MESSAGE) }
    }

    /// A failure of ours that would happen again, so that clients should not repeat the request.
    pub fn permanent(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code: Code::Permanent, ..Self::internal(source) }
    }

    /// No capacity now; `retry_after` is rounded up to whole seconds from 1 to 60.
    pub fn unavailable(code: Code, retry_after: Duration) -> Self {
        Self { retry_after, ..Self::new(code, OVERLOADED_MESSAGE) }
    }

    /// The caller's own limit is reached; `retry_after` goes out in milliseconds too.
    pub fn limited(code: Code, message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after, ..Self::new(code, message) }
    }

    /// Names the parameter at fault in `error.param`.
    #[must_use]
    pub fn about(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }

    /// The parameter that caused the error.
    pub fn param(&self) -> Option<&'static str> {
        self.param
    }

    /// Why the request failed.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whole seconds for the `retry-after` header.
    fn retry_seconds(&self) -> u64 {
        let rounded_up = self.retry_after.as_secs() + u64::from(self.retry_after.subsec_nanos() > 0);
        rounded_up.clamp(1, LONGEST_RETRY_AFTER)
    }

    /// Whole milliseconds for the `retry-after-ms` header.
    fn retry_millis(&self) -> u128 {
        let rounded_up = self.retry_after.as_nanos().div_ceil(1_000_000);
        rounded_up.clamp(1, u128::from(LONGEST_RETRY_AFTER) * 1000)
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
        self.code.wire().status
    }

    fn error_response(&self) -> HttpResponse {
        let wire = self.code.wire();
        let mut response = HttpResponse::build(wire.status);
        if wire.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if wire.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            response.insert_header((header::ACCEPT_ENCODING, "identity"));
        }
        match wire.retry {
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
        response.json(ErrorBody::new(&self.message, wire.kind, self.param, wire.code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up_and_kept_where_every_sdk_honours_it() {
        let seconds =
            |millis| ApiError::unavailable(Code::QueueFull, Duration::from_millis(millis)).retry_seconds();
        assert_eq!([0, 1, 1000, 1001, 59_001, 61_000, 600_000].map(seconds), [1, 1, 1, 2, 60, 60, 60]);
        let millis =
            |micros| ApiError::limited(Code::TooManyTokens, "", Duration::from_micros(micros)).retry_millis();
        assert_eq!([0, 1, 1001, 59_999_001, 61_000_000].map(millis), [1, 1, 2, 60_000, 60_000]);
    }

    #[test]
    fn every_status_is_the_one_written_down() {
        let statuses = Code::ALL.map(|code| code.wire().status.as_u16());
        assert!(statuses.is_sorted(), "{statuses:?}");
        assert_eq!(statuses.iter().filter(|&&status| status == 500).count(), 2, "{statuses:?}");
    }
}
