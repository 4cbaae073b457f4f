//! Response bodies with vectors. A small one is serialized at once, a large one part by part as the socket accepts it.
//! All large ones share a bounded memory (docs/adr/0015).

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_web::{
    body::{BodySize, MessageBody},
    web::Bytes,
};
use openai_schema::EmbeddingResponse;
use serde::Serialize;
use tokio::task::yield_now;

use crate::{
    budget::{ByteBudget, ReservedBytes},
    error::{ApiError, Code},
    metrics::BufferMetrics,
    response_coding::{ResponseCoding, ResponseEncoder},
};

/// Maximum size of a response that is serialized at once and needs no reservation, so that large responses cannot
/// starve ordinary ones. The framework's write buffer of a connection has the same size.
const UNMETERED_BYTES: usize = 32 << 10;

/// Minimum size of a part. Serializing it takes about 0.125 ms of the HTTP thread, as long as handing it to another
/// thread and back. Between two parts, the thread serves its other connections.
const PART_BYTES: usize = 64 << 10;

/// Memory of a large response besides its vectors: one part, and its copy in the connection's buffer.
const PARTS_IN_MEMORY: usize = 2 * PART_BYTES;

/// `retry-after` when other responses hold the memory.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Memory of all large responses together.
pub(crate) struct ResponseMemory(ByteBudget);

impl ResponseMemory {
    /// Creates a memory of `limit` bytes.
    pub(crate) fn new(limit: usize, metrics: BufferMetrics) -> Self {
        Self(ByteBudget::new(limit, metrics))
    }

    /// Bytes for a response with `inputs` vectors of a model with `dimensions` dimensions.
    fn needed(inputs: usize, dimensions: usize) -> usize {
        inputs.saturating_mul(dimensions).saturating_mul(size_of::<f32>()).saturating_add(PARTS_IN_MEMORY)
    }

    /// Reserves memory for a response of about `len` bytes with `inputs` vectors of a model with `dimensions`
    /// dimensions; `None` for a small response. One that needs more than the limit reserves all of it, and is admitted
    /// when no other response holds any.
    ///
    /// # Errors
    /// 503 if other responses hold the memory.
    pub(crate) fn reserve(
        &self,
        len: usize,
        inputs: usize,
        dimensions: usize,
    ) -> Result<Option<ReservedBytes>, ApiError> {
        if len <= UNMETERED_BYTES {
            return Ok(None);
        }
        let needed = Self::needed(inputs, dimensions).min(self.0.limit());
        let full = || ApiError::unavailable(Code::ResponseMemoryExhausted, RETRY_AFTER);
        self.0.try_reserve(needed).map(Some).ok_or_else(full)
    }

    /// Reserves memory for a response that repeats `bytes` bytes of text, as [`reserve`](Self::reserve) does for
    /// vectors.
    ///
    /// # Errors
    /// 503 if other responses hold the memory.
    pub(crate) fn reserve_text(&self, bytes: usize) -> Result<Option<ReservedBytes>, ApiError> {
        self.reserve(bytes, bytes.div_ceil(size_of::<f32>()), 1)
    }
}

/// JSON that can be written in parts, each of which begins at a vector.
pub(crate) trait PartialJson: Unpin + 'static {
    /// Appends the part that starts at vector `from`: whole vectors, until at least `bytes` bytes have been appended.
    /// Returns the first vector of the next part, or `None` after the last part.
    fn write_part(&self, from: usize, bytes: usize, out: &mut Vec<u8>) -> Option<usize>;

    /// The length of all parts in bytes, if it is known without writing them.
    fn json_len(&self) -> Option<u64>;
}

impl PartialJson for EmbeddingResponse {
    fn write_part(&self, from: usize, bytes: usize, out: &mut Vec<u8>) -> Option<usize> {
        self.write_part(from, bytes, out)
    }

    fn json_len(&self) -> Option<u64> {
        self.json_len()
    }
}

/// JSON that is serialized as a whole.
pub(crate) struct SerializedJson(Vec<u8>);

impl SerializedJson {
    /// Serializes `value`.
    ///
    /// # Errors
    /// 500 for a value that JSON cannot express.
    pub(crate) fn new(value: &impl Serialize) -> Result<Self, ApiError> {
        serde_json::to_vec(value).map(Self).map_err(ApiError::permanent)
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl PartialJson for SerializedJson {
    fn write_part(&self, _: usize, _: usize, out: &mut Vec<u8>) -> Option<usize> {
        out.extend_from_slice(&self.0);
        None
    }

    fn json_len(&self) -> Option<u64> {
        Some(self.0.len() as u64)
    }
}

/// Body of a large response. It holds the vectors and serializes a part once the connection has sent the previous one,
/// so that a client that does not read holds only the memory of the vectors and two parts.
pub(crate) struct JsonParts<T> {
    response: T,
    len: Option<u64>,
    /// Index of the first vector of the next part.
    next: Option<usize>,
    /// Compresses the parts.
    encoder: Option<ResponseEncoder>,
    /// Yields to the other connections of the thread before each part but the first.
    yielding: Option<Pin<Box<dyn Future<Output = ()>>>>,
    _memory: ReservedBytes,
}

impl<T: PartialJson> JsonParts<T> {
    /// The body of `response` in `coding`, which releases `memory` when it is sent or dropped.
    pub(crate) fn new(response: T, memory: ReservedBytes, coding: Option<ResponseCoding>) -> Self {
        let encoder = coding.map(ResponseEncoder::new);
        let len = if encoder.is_some() { None } else { response.json_len() };
        Self { len, response, next: Some(0), encoder, yielding: None, _memory: memory }
    }
}

impl<T: PartialJson> MessageBody for JsonParts<T> {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        self.len.map_or(BodySize::Stream, BodySize::Sized)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let Some(from) = self.next else { return Poll::Ready(None) };
        // Without this, all parts would be serialized in one poll for a fast reader. `wake_by_ref` is not enough: the
        // task would run again before the runtime polls the other sockets.
        if let Some(yielding) = &mut self.yielding {
            ready!(yielding.as_mut().poll(context));
        }
        let mut part = Vec::with_capacity(PART_BYTES + PART_BYTES / 4);
        self.next = self.response.write_part(from, PART_BYTES, &mut part);
        self.yielding = self.next.is_some().then(|| Box::pin(yield_now()) as _);
        if let Some(mut encoder) = self.encoder.take() {
            encoder.write(&part);
            part = if self.next.is_some() {
                // It must not be empty: an empty chunk would end the response.
                let encoded = encoder.take();
                self.encoder = Some(encoder);
                encoded
            } else {
                encoder.finish()
            };
        }
        Poll::Ready(Some(Ok(part.into())))
    }
}
