//! Rate limits in HTTP: the `x-ratelimit-*` headers and the error message, as OpenAI writes them.

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    error::{ApiError, Code},
    rate_limit::{Exceeded, LimitKind, RateLimitError, RateLimitStatus},
};

/// `retry-after` of a request that is rejected because the rate limiter is unavailable.
const UNAVAILABLE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Writes the headers of the units that are limited.
pub(crate) fn write_headers(status: &RateLimitStatus, headers: &mut HeaderMap) {
    const REQUESTS: [&str; 3] =
        ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
    const TOKENS: [&str; 3] =
        ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
    let (limits, levels) = (status.limits.0, status.levels);
    for (names, limit, level) in
        [(REQUESTS, limits.requests, levels.requests), (TOKENS, limits.tokens, levels.tokens)]
    {
        if limit == 0.0 {
            continue;
        }
        let reset = Duration::try_from_secs_f64((limit - level) / limit * 60.0).unwrap_or_default();
        let values = [whole(limit).to_string(), whole(level).to_string(), format_duration(reset)];
        for (name, value) in names.into_iter().zip(values) {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

/// The error for a request to `model` that the rate limiter rejects: 429, or 503 if the limiter is unavailable.
pub(super) fn rejection(error: &RateLimitError, model: &str) -> ApiError {
    let exceeded = match error {
        RateLimitError::Unavailable => {
            return ApiError::unavailable(Code::RateLimiterUnavailable, UNAVAILABLE_RETRY_AFTER);
        }
        RateLimitError::Exceeded { exceeded, .. } => exceeded,
    };
    let Some(Exceeded { kind, limit, level, cost, retry_after }) = *exceeded else {
        return ApiError::limited(Code::TooManyRequests, "Rate limit reached.", Duration::ZERO);
    };
    let (code, unit, short) = match kind {
        LimitKind::Requests => (Code::TooManyRequests, "requests", "RPM"),
        LimitKind::Tokens => (Code::TooManyTokens, "tokens", "TPM"),
    };
    // Some clients parse "Please try again in".
    let message = format!(
        "Rate limit reached for `{model}` on {unit} per min ({short}): Limit {}, Used {}, Requested {}. Please try \
         again in {}.",
        whole(limit),
        whole((limit - level).ceil()),
        whole(cost),
        format_duration(retry_after)
    );
    ApiError::limited(code, message, retry_after)
}

/// Rounds down to a whole number; 0 for a debt.
fn whole(level: f64) -> u64 {
    // The cast saturates.
    level.max(0.0) as u64
}

/// Formats a duration as OpenAI does: `6ms`, `1.5s`, `6m0s`. Rounds up, so that waiting this long is enough.
fn format_duration(time: Duration) -> String {
    let millis = time.as_nanos().div_ceil(1_000_000);
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, millis) = (millis / 60_000, millis % 60_000);
    let seconds = match millis % 1000 {
        0 => (millis / 1000).to_string(),
        rest => format!("{}.{rest:03}", millis / 1000).trim_end_matches('0').to_owned(),
    };
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_limit::{Counts, RateLimits};

    #[test]
    fn durations_are_written_as_openai_does() {
        let cases =
            [(0, "0ms"), (6, "6ms"), (1000, "1s"), (1500, "1.5s"), (8640, "8.64s"), (59_001, "59.001s")];
        let longer = [(60_000, "1m0s"), (360_000, "6m0s"), (86_400, "1m26.4s"), (3_600_500, "60m0.5s")];
        for (millis, text) in cases.into_iter().chain(longer) {
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(format_duration(Duration::from_nanos(1)), "1ms");
    }

    #[test]
    fn only_limited_units_have_headers() {
        let written = |requests, tokens, requests_left, tokens_left| {
            let limits = RateLimits(Counts { requests, tokens });
            let levels = Counts { requests: requests_left, tokens: tokens_left };
            let mut headers = HeaderMap::new();
            write_headers(&RateLimitStatus { limits, levels }, &mut headers);
            let mut lines: Vec<String> =
                headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
            lines.sort();
            lines
        };
        assert_eq!(
            written(60.0, 1000.0, 58.7, -500.0),
            [
                "x-ratelimit-limit-requests: 60",
                "x-ratelimit-limit-tokens: 1000",
                "x-ratelimit-remaining-requests: 58",
                "x-ratelimit-remaining-tokens: 0",
                "x-ratelimit-reset-requests: 1.3s",
                "x-ratelimit-reset-tokens: 1m30s",
            ]
        );
        assert_eq!(written(0.0, 0.0, 0.0, 0.0), Vec::<String>::new());
        assert_eq!(written(0.0, 10.0, 0.0, 10.0)[2], "x-ratelimit-reset-tokens: 0ms");
    }
}
