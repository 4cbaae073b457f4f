//! Codings of compressed responses: the choice by `accept-encoding`, and the encoders.

use std::io::Write as _;

use actix_web::http::header::{self, HeaderMap};
use flate2::{Compression, write::GzEncoder};

/// Level of zstd. It takes a third of the time of gzip's fastest level and has a sixth fewer bytes. A higher level
/// takes longer and has no fewer bytes: the digits of numbers hardly repeat.
const ZSTD_LEVEL: i32 = 1;

/// Window of zstd in bits: 64 KiB, with which an encoder takes about as much memory as one of gzip.
const ZSTD_WINDOW_BITS: u32 = 16;

const IN_MEMORY: &str = "writing to memory cannot fail";

/// Coding of a compressed response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseCoding {
    Zstd,
    Gzip,
}

impl ResponseCoding {
    /// All codings, the best one first.
    const ALL: [Self; 2] = [Self::Zstd, Self::Gzip];

    /// Name of the coding in `content-encoding`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The coding with the largest weight in `accept-encoding` (RFC 9110, 12.5.3), of equal ones the best; `None` if
    /// the client accepts none, or states a larger weight for `identity`.
    pub(crate) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(header::ACCEPT_ENCODING).filter_map(|value| value.to_str().ok());
        let weights: Vec<_> = values.flat_map(|value| value.split(',')).map(coding_and_weight).collect();
        let weight = |name: &str| {
            weights.iter().find(|(coding, _)| coding.eq_ignore_ascii_case(name)).map(|(_, weight)| *weight)
        };
        let identity = weight("identity").unwrap_or_default();
        let any = weight("*").unwrap_or_default();
        let mut best = None;
        for coding in Self::ALL {
            let weight = weight(coding.name()).unwrap_or(any);
            let floor = best.map_or(identity, |(_, best)| best);
            if weight > 0.0 && (weight > floor || best.is_none() && weight >= floor) {
                best = Some((coding, weight));
            }
        }
        best.map(|(coding, _)| coding)
    }

    /// Compresses a whole body.
    pub(crate) fn encoded(self, body: &[u8]) -> Vec<u8> {
        let mut encoder = ResponseEncoder::new(self);
        encoder.write(body);
        encoder.finish()
    }
}

/// The name and the weight in one element of `accept-encoding`. A weight that is no number is 0.
fn coding_and_weight(element: &str) -> (&str, f32) {
    let (coding, weight) = element.split_once(';').unwrap_or((element, "q=1"));
    let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse().ok());
    (coding.trim(), weight.unwrap_or_default())
}

/// Encoder of a body that is written in parts.
pub(crate) enum ResponseEncoder {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl ResponseEncoder {
    pub(crate) fn new(coding: ResponseCoding) -> Self {
        match coding {
            ResponseCoding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL).expect(IN_MEMORY);
                encoder.window_log(ZSTD_WINDOW_BITS).expect(IN_MEMORY);
                Self::Zstd(encoder)
            }
            // A higher level takes several times as long for a tenth of the bytes.
            ResponseCoding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
        }
    }

    /// Encodes the next part.
    pub(crate) fn write(&mut self, part: &[u8]) {
        match self {
            Self::Zstd(encoder) => encoder.write_all(part),
            Self::Gzip(encoder) => encoder.write_all(part),
        }
        .expect(IN_MEMORY);
    }

    /// Takes what the parts so far are encoded to. It is not empty after a part that is not.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let encoded = match self {
            Self::Zstd(encoder) => {
                encoder.flush().expect(IN_MEMORY);
                encoder.get_mut()
            }
            Self::Gzip(encoder) => {
                encoder.flush().expect(IN_MEMORY);
                encoder.get_mut()
            }
        };
        std::mem::take(encoded)
    }

    /// Ends the body, and returns the rest of it.
    pub(crate) fn finish(self) -> Vec<u8> {
        match self {
            Self::Zstd(encoder) => encoder.finish(),
            Self::Gzip(encoder) => encoder.finish(),
        }
        .expect(IN_MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn the_coding_with_the_largest_weight_is_accepted() {
        use ResponseCoding::{Gzip, Zstd};
        for (value, accepted) in [
            ("gzip", Some(Gzip)),
            ("br, GZIP;q=0.5", Some(Gzip)),
            ("gzip, deflate, br, zstd", Some(Zstd)),
            ("zstd;q=0.5, gzip", Some(Gzip)),
            ("zstd; q=0.8, gzip ;q=0.8", Some(Zstd)),
            ("*", Some(Zstd)),
            ("zstd;q=0, *", Some(Gzip)),
            ("gzip, *;q=0.1", Some(Gzip)),
            ("gzip;q=0, zstd;q=0, *", None),
            ("*;q=0", None),
            ("identity", None),
            ("identity, gzip", Some(Gzip)),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.2, gzip;q=0.5", Some(Gzip)),
            ("gzip;q=x", None),
            ("x-gzip", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(ResponseCoding::accepted(&headers), accepted, "{value}");
        }
        assert_eq!(ResponseCoding::accepted(&HeaderMap::new()), None);
    }
}
