//! An answer with vectors on its way to the client. A small one is written in one piece, a large one part by part as
//! the socket takes it; the large ones share a bounded memory.

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
use tokio::task::yield_now;

use crate::{
    budget::{ByteBudget, ReservedBytes},
    error::{ApiError, Code},
    metrics::BufferMetrics,
    request::Plan,
};

/// Largest answer that is written in one piece and needs no reservation: ordinary requests are answered however many
/// large answers wait. The framework's write buffer of a connection holds as much in any case.
const UNMETERED_BYTES: usize = 32 << 10;

/// Least size of a part. Printing it on the HTTP thread takes about an eighth of a millisecond, after which the thread's
/// other connections get their turn; handing it to another thread and back would cost about as much.
const PART_BYTES: usize = 64 << 10;

/// Memory of a large answer besides its vectors: the part that is printed, and its copy in the connection's buffer.
const PARTS_IN_MEMORY: usize = 2 * PART_BYTES;

/// The `retry-after` of a refusal for lack of memory.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Memory for the large answers of all requests together.
pub(crate) struct ResponseMemory(ByteBudget);

impl ResponseMemory {
    /// Memory of `limit` bytes.
    pub(crate) fn new(limit: usize, metrics: BufferMetrics) -> Self {
        Self(ByteBudget::new(limit, metrics))
    }

    /// Bytes that answers of `inputs` vectors of a model with `dimensions` dimensions may take.
    pub(crate) fn needed(inputs: usize, dimensions: usize) -> usize {
        inputs.saturating_mul(dimensions).saturating_mul(size_of::<f32>()).saturating_add(PARTS_IN_MEMORY)
    }

    /// Reserves the memory of the answer to `plan`, before any work is done for it; `None` for a small answer. An answer
    /// that needs more than the limit reserves all of it, and is admitted when no other answer holds any.
    ///
    /// # Errors
    /// 503 if the answers of other requests hold the memory.
    pub(crate) fn reserve(&self, plan: &Plan) -> Result<Option<ReservedBytes>, ApiError> {
        if plan.estimated_answer_bytes() <= UNMETERED_BYTES {
            return Ok(None);
        }
        let needed = Self::needed(plan.inputs(), plan.served.dimensions).min(self.0.limit());
        let full = || ApiError::unavailable(Code::ResponseMemoryExhausted, RETRY_AFTER);
        self.0.try_reserve(needed).map(Some).ok_or_else(full)
    }
}

/// The body of a large answer. It holds the vectors and prints the next part when the connection has sent the last
/// one, so a client that does not read holds no more memory than the vectors and two parts.
pub(crate) struct JsonParts {
    response: EmbeddingResponse,
    len: Option<u64>,
    /// The vector with which the next part begins.
    next: Option<usize>,
    /// Lets the other connections of the thread go first, before each part but the first.
    yielding: Option<Pin<Box<dyn Future<Output = ()>>>>,
    _memory: ReservedBytes,
}

impl JsonParts {
    /// The body of `response`, which gives `memory` back when it is sent or dropped.
    pub(crate) fn new(response: EmbeddingResponse, memory: ReservedBytes) -> Self {
        Self { len: response.json_len(), response, next: Some(0), yielding: None, _memory: memory }
    }
}

impl MessageBody for JsonParts {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        self.len.map_or(BodySize::Stream, BodySize::Sized)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let Some(from) = self.next else { return Poll::Ready(None) };
        // Otherwise all parts would be printed in one go for a fast reader. Waking the task at once is not enough: it
        // would run again before the runtime polls the other sockets.
        if let Some(yielding) = &mut self.yielding {
            ready!(yielding.as_mut().poll(context));
        }
        let mut part = Vec::with_capacity(PART_BYTES + PART_BYTES / 4);
        self.next = self.response.write_part(from, PART_BYTES, &mut part);
        self.yielding = self.next.is_some().then(|| Box::pin(yield_now()) as _);
        Poll::Ready(Some(Ok(part.into())))
    }
}
