//! The caller's span, from the two headers of W3C Trace Context.
//!
//! The SDK's propagator accepts ids of any length and a `+` among their digits. This parser is strict, so that
//! malformed ids are neither continued nor logged.

use std::str::FromStr;

use actix_web::http::header::{HeaderMap, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Length of a `traceparent` of version 00: `00-` 32 digits `-` 16 digits `-` 2 digits.
const LENGTH: usize = 55;

/// The caller's span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    /// Trace of the request.
    pub(super) trace: TraceId,
    span: SpanId,
    sampled: bool,
}

impl Parent {
    /// Reads the caller's span; `None` if the header is absent, repeated or malformed.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT);
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        Self::read(value.to_str().ok()?.trim())
    }

    /// Reads a `traceparent`. Of a later version, which may be longer, the known part is read.
    fn read(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (known, rest) = bytes.split_at_checked(LENGTH)?;
        let is_valid = known.iter().enumerate().all(|(at, byte)| match at {
            2 | 35 | 52 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        });
        let has_valid_length = match text.get(..2)? {
            "ff" => false,
            "00" => rest.is_empty(),
            _ => rest.first().is_none_or(|byte| *byte == b'-'),
        };
        if !is_valid || !has_valid_length {
            return None;
        }
        let trace = TraceId::from_hex(&text[3..35]).ok()?;
        let span = SpanId::from_hex(&text[36..52]).ok()?;
        let flags = u8::from_str_radix(&text[53..55], 16).ok()?;
        let valid = trace != TraceId::INVALID && span != SpanId::INVALID;
        // The standard requires all other flags to be ignored.
        valid.then_some(Self { trace, span, sampled: flags & 1 != 0 })
    }

    /// The span with the caller's `tracestate`, as the parent of this server's spans.
    pub(super) fn context(self, headers: &HeaderMap) -> SpanContext {
        let flags = if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
        SpanContext::new(self.trace, self.span, flags, true, state(headers))
    }
}

/// The `tracestate`, joined from all headers of that name. A malformed one is ignored, as the standard requires.
fn state(headers: &HeaderMap) -> TraceState {
    let values: Vec<_> = headers.get_all(TRACESTATE).filter_map(text).collect();
    TraceState::from_str(&values.join(",")).unwrap_or_default()
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok().map(str::trim).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderName;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn headers(values: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_valid_traceparent_is_continued() {
        for (text, sampled) in [
            (format!("00-{TRACE}-b7ad6b7169203331-01"), true),
            (format!("00-{TRACE}-b7ad6b7169203331-00"), false),
            (format!("00-{TRACE}-b7ad6b7169203331-03"), true),
            (format!(" 00-{TRACE}-b7ad6b7169203331-02 "), false),
            (format!("cc-{TRACE}-b7ad6b7169203331-01-what-comes"), true),
            (format!("cc-{TRACE}-b7ad6b7169203331-01"), true),
        ] {
            let headers = headers(&[(TRACEPARENT, &text), (TRACESTATE, "a=1"), (TRACESTATE, "b=2")]);
            let parent = Parent::of(&headers).unwrap_or_else(|| panic!("{text}"));
            let context = parent.context(&headers);
            assert_eq!(context.trace_id().to_string(), TRACE);
            assert_eq!(context.span_id().to_string(), "b7ad6b7169203331");
            assert_eq!((context.is_sampled(), context.is_remote()), (sampled, true), "{text}");
            assert_eq!(context.trace_state().header(), "a=1,b=2");
        }
    }

    #[test]
    fn a_malformed_traceparent_is_ignored() {
        let span = "b7ad6b7169203331";
        for text in [
            String::new(),
            format!("00-{TRACE}-{span}"),
            format!("00-{TRACE}-{span}-1"),
            format!("00-{TRACE}-{span}-01-more"),
            format!("ff-{TRACE}-{span}-01"),
            format!("0-{TRACE}-{span}-001"),
            format!("cc-{TRACE}-{span}-01.more"),
            format!("00-{}-{span}-01", TRACE.to_uppercase()),
            format!("00-+{}-{span}-01", &TRACE[1..]),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00_{TRACE}_{span}_01"),
            format!("00-{TRACE}-{span}-0é"),
        ] {
            let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            let mut headers = HeaderMap::new();
            headers.append(HeaderName::from_static(TRACEPARENT), value);
            assert_eq!(Parent::of(&headers), None, "{text}");
        }
        let good = format!("00-{TRACE}-{span}-01");
        assert!(Parent::of(&headers(&[(TRACEPARENT, &good)])).is_some());
        assert_eq!(Parent::of(&headers(&[(TRACEPARENT, &good), (TRACEPARENT, &good)])), None);
    }

    #[test]
    fn a_malformed_tracestate_is_ignored_and_the_traceparent_kept() {
        let good = format!("00-{TRACE}-b7ad6b7169203331-01");
        let headers = headers(&[(TRACEPARENT, &good), (TRACESTATE, "no state")]);
        let parent = Parent::of(&headers).unwrap();
        assert_eq!(parent.context(&headers).trace_state(), &TraceState::NONE);
    }
}
