//! A caller's limits as headers and in words, in OpenAI's spelling.

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use super::bucket::{Amounts, Kind, Rates, Shortage};

/// What a caller has left, at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Standing {
    pub(super) rates: Rates,
    pub(super) levels: Amounts,
}

impl Standing {
    /// Writes the headers of what is limited.
    pub(crate) fn stamp(&self, headers: &mut HeaderMap) {
        const REQUESTS: [&str; 3] =
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
        const TOKENS: [&str; 3] =
            ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
        let (rates, levels) = (self.rates.0, self.levels);
        for (names, limit, level) in
            [(REQUESTS, rates.requests, levels.requests), (TOKENS, rates.tokens, levels.tokens)]
        {
            if limit == 0.0 {
                continue;
            }
            let full = Duration::try_from_secs_f64((limit - level) / limit * 60.0).unwrap_or_default();
            let values = [whole(limit).to_string(), whole(level).to_string(), duration(full)];
            for (name, value) in names.into_iter().zip(values) {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(HeaderName::from_static(name), value);
                }
            }
        }
    }
}

/// A refusal in OpenAI's words, of which clients read when to come back.
pub(super) fn refusal(shortage: &Shortage, model: &str) -> String {
    let (what, short) = match shortage.kind {
        Kind::Requests => ("requests", "RPM"),
        Kind::Tokens => ("tokens", "TPM"),
    };
    format!(
        "Rate limit reached for `{model}` on {what} per min ({short}): Limit {}, Used {}, Requested {}. Please try again \
         in {}.",
        whole(shortage.limit),
        whole((shortage.limit - shortage.level).ceil()),
        whole(shortage.cost),
        duration(shortage.wait)
    )
}

/// How many whole ones there are; of a debt, none.
fn whole(level: f64) -> u64 {
    // The cast stops at the ends of the range.
    level.max(0.0) as u64
}

/// A duration as OpenAI writes it: `6ms`, `1.5s`, `6m0s`. Rounded up, so that it suffices to wait for it.
fn duration(time: Duration) -> String {
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

    #[test]
    fn durations_are_written_as_openai_does() {
        let cases =
            [(0, "0ms"), (6, "6ms"), (1000, "1s"), (1500, "1.5s"), (8640, "8.64s"), (59_001, "59.001s")];
        let longer = [(60_000, "1m0s"), (360_000, "6m0s"), (86_400, "1m26.4s"), (3_600_500, "60m0.5s")];
        for (millis, text) in cases.into_iter().chain(longer) {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration(Duration::from_nanos(1)), "1ms");
    }

    #[test]
    fn headers_tell_what_is_limited_and_nothing_else() {
        let standing = |requests, tokens, left, tokens_left| {
            let rates = Rates(Amounts { requests, tokens });
            let levels = Amounts { requests: left, tokens: tokens_left };
            let mut headers = HeaderMap::new();
            Standing { rates, levels }.stamp(&mut headers);
            let mut shown: Vec<String> =
                headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
            shown.sort();
            shown
        };
        assert_eq!(
            standing(60.0, 1000.0, 58.7, -500.0),
            [
                "x-ratelimit-limit-requests: 60",
                "x-ratelimit-limit-tokens: 1000",
                "x-ratelimit-remaining-requests: 58",
                "x-ratelimit-remaining-tokens: 0",
                "x-ratelimit-reset-requests: 1.3s",
                "x-ratelimit-reset-tokens: 1m30s",
            ]
        );
        assert_eq!(standing(0.0, 0.0, 0.0, 0.0), Vec::<String>::new());
        assert_eq!(standing(0.0, 10.0, 0.0, 10.0)[2], "x-ratelimit-reset-tokens: 0ms");
    }
}
