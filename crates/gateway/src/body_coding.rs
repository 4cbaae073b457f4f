//! Codings of compressed bodies: their names in `content-encoding`, and readers that decode a bounded piece at a time.

use std::io::{self, Read};

use actix_web::http::header::{self, HeaderMap};

use crate::{
    error::{ApiError, Code},
    registry::echo,
};

/// Maximum window of zstd in bits: 8 MiB, the limit of the coding in HTTP (RFC 9659). The window is memory that a few
/// bytes of a body can ask for.
const MAX_ZSTD_WINDOW_BITS: u32 = 23;

/// Bytes of compressed input that the brotli decoder takes at a time.
const BROTLI_BUFFER: usize = 4 << 10;

/// Coding of a compressed body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentCoding {
    Gzip,
    /// The zlib format. Some clients send the bare deflate format under the same name.
    Deflate,
    Brotli,
    Zstd,
}

impl ContentCoding {
    /// The coding of a body; `None` if it is not compressed.
    ///
    /// # Errors
    /// 415 for an unknown coding, or more than one.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let mut found = None;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let value = String::from_utf8_lossy(value.as_bytes());
            for name in value.split(',') {
                let coding = match name.trim().to_ascii_lowercase().as_str() {
                    // Some clients send the charset here, which is not a compression.
                    "" | "identity" | "utf-8" | "utf8" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "deflate" => Self::Deflate,
                    "br" => Self::Brotli,
                    "zstd" => Self::Zstd,
                    _ => return Err(unsupported(&value)),
                };
                if found.replace(coding).is_some() {
                    return Err(unsupported(&value));
                }
            }
        }
        Ok(found)
    }

    /// Name of the coding.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// A reader of the decoded body.
    ///
    /// # Errors
    /// If the decoder cannot be created.
    pub(crate) fn decoder(self, body: &[u8]) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(body)),
            Self::Deflate if is_zlib(body) => Box::new(flate2::bufread::ZlibDecoder::new(body)),
            Self::Deflate => Box::new(flate2::bufread::DeflateDecoder::new(body)),
            Self::Brotli => Box::new(brotli_decompressor::Decompressor::new(body, BROTLI_BUFFER)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(body)?;
                decoder.window_log_max(MAX_ZSTD_WINDOW_BITS)?;
                Box::new(decoder)
            }
        })
    }
}

/// Returns true if `body` begins with a header of zlib (RFC 1950, 2.2): method 8, and a checksum.
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [method, flags, ..]
        if method & 0x0f == 8 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0)
}

fn unsupported(value: &str) -> ApiError {
    ApiError::new(
        Code::UnsupportedEncoding,
        format!(
            "The header 'content-encoding: {}' is not supported: send the body uncompressed, or in one of the codings \
             gzip, deflate, br and zstd.",
            echo(value)
        ),
    )
}
