//! Extractor of a request's body: of any content type, up to the configured size, within the memory that all bodies
//! share.
//!
//! The framework's own extractors require `Content-Type: application/json`, stop at 2 MiB and send errors in plain
//! text.

use std::{
    future::Future,
    io::{self, Read as _},
    pin::Pin,
    task::Poll,
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    error::PayloadError,
    http::header,
    web::{self, Bytes},
};
use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use crate::{
    body_coding::ContentCoding,
    budget::{ByteBudget, ReservedBytes},
    connection::Connection,
    error::{ApiError, Code},
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
        let coding = ContentCoding::of(request.headers());
        let connection = Connection::of(request);
        let payload = payload.take();
        Box::pin(async move {
            let coding = coding?;
            let limits = limits.ok_or_else(|| ApiError::internal("the app was built without body limits"))?;
            let slow = |_| {
                let seconds = limits.timeout.as_secs();
                let message =
                    format!("Timed out reading the request: the body took more than {seconds} seconds.");
                ApiError::new(Code::BodyTimeout, message)
            };
            let body = timeout(limits.timeout, read(payload, announced, &limits, &connection)).await;
            let body = body.map_err(slow)??;
            match coding {
                None => Ok(body),
                // On another thread, because a few bytes can stand for as many as the limit allows.
                Some(coding) => {
                    let decoded = web::block(move || decode(&body, coding, &limits)).await;
                    decoded.map_err(ApiError::internal)?
                }
            }
        })
    }
}

/// The bytes of a body and their memory, as they arrive.
struct Buffer<'a> {
    limits: &'a BodyLimits,
    bytes: Vec<u8>,
    memory: ReservedBytes,
    /// Capacity of the first allocation.
    initial: usize,
    /// Maximum capacity, unless more bytes arrive.
    largest: usize,
}

impl<'a> Buffer<'a> {
    /// A buffer for a body of `announced` bytes, if this is known.
    fn new(limits: &'a BodyLimits, announced: Option<usize>) -> Self {
        Self {
            limits,
            bytes: Vec::new(),
            memory: limits.memory.empty_reservation(),
            initial: announced.unwrap_or(0).min(MAX_INITIAL_CAPACITY),
            largest: announced.unwrap_or(limits.bytes),
        }
    }

    /// Appends a chunk.
    ///
    /// # Errors
    /// 413 if the body is then larger than allowed; 503 if other bodies hold the memory.
    fn push(&mut self, chunk: &[u8]) -> Result<(), ApiError> {
        let Self { limits, bytes, memory, initial, largest } = self;
        let length = bytes.len() + chunk.len();
        if length > limits.bytes {
            return Err(too_large(limits.bytes, length));
        }
        if length > bytes.capacity() {
            // Doubling keeps the copying linear; the announced length bounds it.
            let doubled = (2 * bytes.capacity()).max(*initial);
            let capacity = doubled.min(*largest).max(length);
            // Waiting instead could deadlock: each of several bodies may hold what another needs.
            if !memory.grow_to(capacity.saturating_sub(UNMETERED_BYTES)) {
                return Err(ApiError::unavailable(Code::BodyMemoryExhausted, RETRY_AFTER));
            }
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(chunk);
        Ok(())
    }
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
    let mut buffer = Buffer::new(limits, announced);
    // The limit of the body's length does not count chunk sizes, extensions and trailers; this one does.
    let max_on_wire = (limit as u64).saturating_mul(2).saturating_add(READ_AHEAD);
    let mut chunks = stream::poll_fn(|context| match connection.body_wire_bytes() {
        read if read > max_on_wire => Poll::Ready(Some(Err(too_many_on_wire(limit, read)))),
        _ => payload.poll_next_unpin(context).map(|chunk| chunk.map(|chunk| chunk.map_err(broken))),
    });
    while let Some(chunk) = chunks.next().await {
        buffer.push(&chunk?)?;
    }
    let Buffer { bytes, memory, .. } = buffer;
    Ok(Body { bytes: bytes.into(), received: Instant::now(), memory })
}

/// Decodes a compressed body piece by piece. The limits of a body hold for the decoded one, which ends there.
///
/// # Errors
/// 400 if it cannot be decoded; 413 if the decoded body is larger than allowed; 503 if other bodies hold the memory.
fn decode(body: &Body, coding: ContentCoding, limits: &BodyLimits) -> Result<Body, ApiError> {
    let invalid = |error: io::Error| {
        let name = coding.name();
        ApiError::invalid(format!("The body of your request could not be decoded as {name}: {error}."))
    };
    let mut decoder = coding.decoder(&body.bytes).map_err(invalid)?;
    let (mut buffer, mut piece) = (Buffer::new(limits, None), vec![0; UNMETERED_BYTES]);
    loop {
        match decoder.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => buffer.push(&piece[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(invalid(error)),
        }
    }
    let Buffer { bytes, memory, .. } = buffer;
    Ok(Body { bytes: bytes.into(), received: body.received, memory })
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
