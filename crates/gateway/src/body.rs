//! Extractor of a request's body: of any content type, up to the configured size, within the memory that all bodies
//! share.
//!
//! The framework's own extractors require `Content-Type: application/json`, stop at 2 MiB and send errors in plain
//! text.

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

/// Bytes of each body that are not counted, so that large bodies cannot starve ordinary ones.
const UNMETERED_BYTES: usize = 16 << 10;

/// Maximum capacity that is allocated for a `content-length` before its bytes arrive.
const MAX_INITIAL_CAPACITY: usize = 64 << 10;

/// Bytes on the wire that a body may have beyond twice its limit: as many as the HTTP library may read ahead.
const READ_AHEAD: u64 = 256 << 10;

/// `retry-after` when other bodies hold the memory.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Limits of every body.
#[derive(Clone)]
pub(crate) struct BodyLimits {
    bytes: usize,
    /// Maximum time to read a body; a client that sends a byte now and then would otherwise hold its connection
    /// forever.
    timeout: Duration,
    /// Memory of all bodies beyond [`UNMETERED_BYTES`] each.
    memory: ByteBudget,
}

impl BodyLimits {
    /// Limits each body to `bytes` bytes within `timeout`, and all bodies to `memory`.
    pub(crate) fn new(bytes: usize, timeout: Duration, memory: ByteBudget) -> Self {
        Self { bytes, timeout, memory }
    }
}

/// A complete body.
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    /// Arrival of its last byte.
    pub(crate) received: Instant,
    /// Its share of the memory, which is released with it.
    pub(crate) memory: ReservedBytes,
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
                let seconds = limits.timeout.as_secs();
                let message =
                    format!("Timed out reading the request: the body took more than {seconds} seconds.");
                ApiError::new(Code::BodyTimeout, message)
            };
            timeout(limits.timeout, read(payload, announced, &limits, &connection)).await.map_err(slow)?
        })
    }
}

/// Checks that the body is not compressed.
///
/// # Errors
/// 415 if it is.
fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    // Some clients send the charset here, which is not a compression.
    const PLAIN: [&str; 4] = ["", "identity", "utf-8", "utf8"];
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let value = String::from_utf8_lossy(value.as_bytes());
        let is_plain = |coding: &str| PLAIN.iter().any(|plain| coding.trim().eq_ignore_ascii_case(plain));
        if !value.split(',').all(is_plain) {
            return Err(ApiError::new(
                Code::UnsupportedEncoding,
                format!(
                    "The header 'content-encoding: {}' is not supported: send the body uncompressed, without this \
                     header.",
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
    let mut memory = limits.memory.empty_reservation();
    let largest = announced.unwrap_or(limit);
    let reserve = announced.unwrap_or(0).min(MAX_INITIAL_CAPACITY);
    // The limit of the body's length does not count chunk sizes, extensions and trailers; this one does.
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
            // Doubling keeps the copying linear; the announced length bounds it.
            let doubled = (2 * bytes.capacity()).max(reserve);
            let capacity = doubled.min(largest).max(length);
            // Waiting instead could deadlock: each of several bodies may hold what another needs.
            if !memory.grow_to(capacity.saturating_sub(UNMETERED_BYTES)) {
                return Err(ApiError::unavailable(Code::BodyMemoryExhausted, RETRY_AFTER));
            }
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Body { bytes: bytes.into(), received: Instant::now(), memory })
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
