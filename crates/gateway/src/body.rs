//! A request's body, read whole, whatever its content type, up to the configured size and no further, and within
//! the memory that all bodies share.
//!
//! The framework's own extractors would ask for `Content-Type: application/json`, stop at 2 MiB and answer
//! in plain text.

use std::{
    future::Future,
    pin::Pin,
    task::Poll,
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    error::PayloadError,
    http::header::{self, HeaderMap},
    web::{self, Bytes},
};
use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use crate::{
    budget::{ByteBudget, ReservedBytes},
    connection::Connection,
    error::{ApiError, Code},
    registry::echo,
};

/// Every body may have so much memory: what ordinary requests need is there however many large ones come.
const FREE: usize = 16 << 10;

/// What a client merely announces may reserve little; what it sends may grow to the limit.
const LARGEST_RESERVE: usize = 64 << 10;

/// Bytes on the wire that a body may have beyond twice its limit: as many as the HTTP library may have read ahead.
const READ_AHEAD: u64 = 256 << 10;

/// What a client is told to wait for when other bodies have all the memory.
const ROOM_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How much of a body is read, and for how long.
#[derive(Clone)]
pub(crate) struct BodyLimits {
    bytes: usize,
    /// Without it a client could hold a connection for ever by sending a byte now and then.
    time: Duration,
    /// Bytes that all bodies may still take beyond [`FREE`].
    room: ByteBudget,
}

impl BodyLimits {
    /// Bodies of at most `bytes` that arrive within `time` and share `room`.
    pub(crate) fn new(bytes: usize, time: Duration, room: ByteBudget) -> Self {
        Self { bytes, time, room }
    }
}

/// A body that was read.
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    /// When its last byte came.
    pub(crate) received: Instant,
    /// Its share of the memory, which it gives back with itself.
    _room: ReservedBytes,
}

impl FromRequest for Body {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let limits = request.app_data::<web::Data<BodyLimits>>().map(|limits| limits.get_ref().clone());
        let announced = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok())
            .and_then(|length| length.parse().ok());
        let encoding = check_encoding(request.headers());
        let connection = Connection::of(request);
        let payload = payload.take();
        Box::pin(async move {
            encoding?;
            let limits = limits.ok_or_else(|| ApiError::internal("the app was built without body limits"))?;
            let slow = |_| {
                let seconds = limits.time.as_secs();
                let message =
                    format!("Timed out reading the request: the body took more than {seconds} seconds.");
                ApiError::new(Code::BodyTimeout, message)
            };
            timeout(limits.time, read(payload, announced, &limits, &connection)).await.map_err(slow)?
        })
    }
}

/// Checks that the body is not compressed.
///
/// # Errors
/// 415 where the client compressed it.
fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    // Some clients name the charset here, which says nothing about compression.
    const PLAIN: [&str; 4] = ["", "identity", "utf-8", "utf8"];
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let value = String::from_utf8_lossy(value.as_bytes());
        let is_plain = |coding: &str| PLAIN.iter().any(|plain| coding.trim().eq_ignore_ascii_case(plain));
        if !value.split(',').all(is_plain) {
            return Err(ApiError::new(
                Code::UnsupportedEncoding,
                format!(
                    "The header 'content-encoding: {}' is not supported: send the body uncompressed, without this header.",
                    echo(&value)
                ),
            ));
        }
    }
    Ok(())
}

async fn read(
    mut payload: Payload,
    announced: Option<usize>,
    limits: &BodyLimits,
    connection: &Connection,
) -> Result<Body, ApiError> {
    let limit = limits.bytes;
    if let Some(length) = announced.filter(|&length| length > limit) {
        return Err(too_large(limit, length));
    }
    let mut bytes = Vec::new();
    let mut room = limits.room.reserve_nothing();
    let largest = announced.unwrap_or(limit);
    let reserve = announced.unwrap_or(0).min(LARGEST_RESERVE);
    // The limit on the body's length does not count the sizes, extensions and trailers of chunks: this one does.
    let max_on_wire = (limit as u64).saturating_mul(2).saturating_add(READ_AHEAD);
    let mut chunks = stream::poll_fn(|context| match connection.body_wire_bytes() {
        read if read > max_on_wire => Poll::Ready(Some(Err(too_many_on_wire(limit, read)))),
        _ => payload.poll_next_unpin(context).map(|chunk| chunk.map(|chunk| chunk.map_err(broken))),
    });
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        let length = bytes.len() + chunk.len();
        if length > limit {
            return Err(too_large(limit, length));
        }
        if length > bytes.capacity() {
            // Doubled, so that few bytes are copied twice, but no larger than the whole will be.
            let doubled = (2 * bytes.capacity()).max(reserve);
            let capacity = doubled.min(largest).max(length);
            // Waiting for memory could deadlock: bodies may wait for each other.
            if !room.grow_to(capacity.saturating_sub(FREE)) {
                return Err(ApiError::unavailable(Code::BodyMemoryExhausted, ROOM_RETRY_AFTER));
            }
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Body { bytes: bytes.into(), received: Instant::now(), _room: room })
}

fn too_large(limit: usize, read: usize) -> ApiError {
    let message = format!("Maximum content size limit ({limit}) exceeded ({read} bytes read)");
    ApiError::new(Code::BodyTooLarge, message)
}

fn too_many_on_wire(limit: usize, read: u64) -> ApiError {
    let message = format!(
        "Maximum content size limit ({limit}) exceeded ({read} bytes read): the sizes, extensions and trailers of \
         the chunks take up more than the content may"
    );
    ApiError::new(Code::BodyTooLarge, message)
}

fn broken(error: PayloadError) -> ApiError {
    ApiError::invalid(format!("The body of your request could not be read: {error}."))
}
