//! A caller's [`Job`], its [`Ticket`] and result ([`Embeddings`]), and [`JobState`], which the engine's threads share.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    admission::{CallerId, QueueDemand, Reservation},
    error::{EmbedError, SubmitError},
    pooling::normalize,
    prompt::Prompt,
};

/// The inputs of one request, and how to embed them.
#[derive(Debug, Clone)]
pub struct Job {
    /// The inputs. Their vectors come in the same order.
    pub inputs: Vec<Input>,
    /// Text to put before every text. Inputs of token ids are embedded without it.
    pub prompt: Option<Prompt>,
    /// Policy for inputs longer than `max_input_tokens`.
    pub truncation: TruncationPolicy,
    /// Maximum number of tokens of an input, special tokens included, if smaller than the model's. Should be larger
    /// than the number of [special tokens](crate::Engine::num_special_tokens).
    pub max_input_tokens: Option<usize>,
    /// Time after which the result is no longer needed.
    pub deadline: Instant,
    /// Maximum number of tokens of the whole job, special tokens included.
    pub max_tokens: usize,
    /// The caller, for fair queueing and for its quota of the queue. Jobs without one count as one caller without a
    /// quota.
    pub caller: Option<CallerId>,
}

/// One input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Text.
    Text(String),
    /// Token ids of the model's vocabulary, without special tokens, which the engine adds.
    Tokens(Vec<u32>),
    /// A query and a document, which a cross-encoder reads together. Documents of one query share it. The job's prompt
    /// does not apply to pairs.
    Pair {
        /// The first text.
        query: Arc<str>,
        /// The second text.
        document: String,
    },
}

impl Input {
    /// Number of bytes to tokenize, those of the job's prompt included.
    pub(crate) fn text_bytes(&self, prompt: Option<&Prompt>) -> usize {
        match self {
            Self::Text(text) => text.len() + prompt.map_or(0, |prompt| prompt.text().len()),
            Self::Tokens(_) => 0,
            Self::Pair { query, document } => query.len() + document.len(),
        }
    }
}

/// Policy for an input longer than the model reads at once (its window).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TruncationPolicy {
    /// Embeds the first window, as sentence-transformers does. Of a pair, the end of the longer text is cut first.
    #[default]
    Truncate,
    /// Embeds all windows, each with the prompt, and averages their vectors by token count. A pair is truncated.
    Average,
    /// Fails the job with [`EmbedError::InputTooLong`].
    Error,
}

impl TruncationPolicy {
    const NAMES: [(Self, &str); 3] =
        [(Self::Truncate, "truncate"), (Self::Average, "average"), (Self::Error, "error")];
}

impl fmt::Display for TruncationPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.iter().find(|(policy, _)| policy == self);
        f.write_str(named.map_or("", |(_, name)| name))
    }
}

impl FromStr for TruncationPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::NAMES.iter().find(|(_, name)| *name == text);
        named.map(|&(policy, _)| policy).ok_or_else(|| {
            format!("unknown truncation policy `{text}`: expected `truncate`, `average` or `error`")
        })
    }
}

/// The vectors of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// Length of each vector.
    pub dimensions: usize,
    /// One vector for each input, row-major, in the caller's order.
    pub vectors: Vec<f32>,
    /// Number of tokens of each input that the model read, special tokens included.
    pub tokens: Vec<u32>,
    /// Number of inputs that were truncated.
    pub truncated: usize,
    /// Duration of each phase.
    pub timings: Timings,
}

impl Embeddings {
    /// Number of tokens of the whole job that the model read.
    pub fn total_tokens(&self) -> u64 {
        self.tokens.iter().map(|&tokens| u64::from(tokens)).sum()
    }
}

/// Duration of each phase of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// From submission until all inputs were tokenized.
    pub tokenize: Duration,
    /// From there until the first sequence reached an encoder.
    pub queue: Duration,
    /// From there until the last vector was computed.
    pub inference: Duration,
}

/// A submitted job: the future of its result. Dropping the ticket cancels the job and releases its place in the queue;
/// sequences that have not reached an encoder by then never do, unless another job needs them.
#[derive(Debug)]
pub struct Ticket {
    pub(crate) result: oneshot::Receiver<Result<Embeddings, EmbedError>>,
    pub(crate) job: Arc<JobState>,
}

impl Ticket {
    /// Waits for the result. Blocks, so it must not be called on an async thread.
    ///
    /// # Errors
    /// The same as the future's.
    pub fn wait(mut self) -> Result<Embeddings, EmbedError> {
        // `self.result` cannot be moved out of a type with `Drop`, so a closed channel replaces it.
        let (_, closed) = oneshot::channel();
        let result = std::mem::replace(&mut self.result, closed);
        result.blocking_recv().unwrap_or(Err(EmbedError::Stopped))
    }
}

impl Future for Ticket {
    type Output = Result<Embeddings, EmbedError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result).poll(context).map(|received| received.unwrap_or(Err(EmbedError::Stopped)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.job.cancel();
    }
}

/// The tokenizer's result for a job, without the ids.
#[derive(Debug, Default)]
pub(crate) struct TokenizedJob {
    /// The sequences to encode, in input order.
    pub(crate) windows: Vec<Window>,
    /// Number of tokens of each input, over all its windows.
    pub(crate) lengths: Vec<u32>,
    /// Number of inputs that were truncated.
    pub(crate) truncated: usize,
}

/// A sequence to encode: an input, or one window of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// Index of the input.
    pub(crate) input: u32,
    /// Number of tokens, special tokens included.
    pub(crate) tokens: u32,
    /// Weight in the average over the input's windows: the number of tokens, without special tokens and prompt.
    pub(crate) weight: u32,
    /// Number of its leading tokens that pooling leaves out ([`TokenSequence::prompt_tokens`]).
    pub(crate) prompt_tokens: u32,
    /// Number of its tokens in segment 1 ([`TokenSequence::second_segment`]).
    pub(crate) second_segment: u32,
}

/// Form of the vectors of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VectorSpec {
    pub(crate) dimensions: usize,
    /// Vectors are scaled to norm 1.
    pub(crate) normalized: bool,
}

/// The state of a job, shared by the engine's threads.
#[derive(Debug)]
pub(crate) struct JobState {
    pub(crate) caller: Option<CallerId>,
    pub(crate) submitted: Instant,
    pub(crate) deadline: Instant,
    /// Set when the job has a result or is cancelled.
    finished: AtomicBool,
    progress: Mutex<JobProgress>,
}

#[derive(Debug)]
struct JobProgress {
    result: Option<oneshot::Sender<Result<Embeddings, EmbedError>>>,
    /// The job's share of the engine's capacity, released when the job finishes.
    reservation: Option<Reservation>,
    tokens: TokenizedJob,
    spec: VectorSpec,
    /// One vector for each window.
    vectors: Vec<f32>,
    /// Number of windows without a vector.
    remaining: usize,
    tokenized: Instant,
    started: Option<Instant>,
}

impl JobState {
    pub(crate) fn new(
        caller: Option<CallerId>,
        deadline: Instant,
        reservation: Reservation,
    ) -> (Arc<Self>, oneshot::Receiver<Result<Embeddings, EmbedError>>) {
        let (sender, receiver) = oneshot::channel();
        let submitted = Instant::now();
        let progress = JobProgress {
            result: Some(sender),
            reservation: Some(reservation),
            tokens: TokenizedJob::default(),
            spec: VectorSpec { dimensions: 0, normalized: false },
            vectors: Vec::new(),
            remaining: 0,
            tokenized: submitted,
            started: None,
        };
        let (finished, progress) = (AtomicBool::new(false), Mutex::new(progress));
        (Arc::new(Self { caller, submitted, deadline, finished, progress }), receiver)
    }

    /// Returns true if the job has a result or its caller disconnected.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Releases the job's place in the queue, because its caller dropped the ticket.
    fn cancel(&self) {
        self.finished.store(true, Ordering::Release);
        let mut progress = self.lock();
        progress.result = None;
        progress.reservation = None;
        // The queue may hold this job until it is reaped. Its memory is released now.
        progress.vectors = Vec::new();
    }

    /// Finishes the job with an error, unless it is finished.
    pub(crate) fn fail(&self, error: EmbedError) {
        self.finish(self.lock(), Err(error));
    }

    /// Finishes the job with an error about the input of the window at `position`.
    pub(crate) fn fail_at(&self, position: usize, error: impl FnOnce(usize) -> EmbedError) {
        let progress = self.lock();
        let index = progress.tokens.windows.get(position).map_or(0, |window| window.input as usize);
        self.finish(progress, Err(error(index)));
    }

    /// Stores the tokenizer's result, and completes a job that has nothing to compute. A window without tokens has a
    /// vector of zeros, so encoders need not support that case.
    pub(crate) fn set_tokens(&self, tokens: TokenizedJob, spec: VectorSpec) {
        let mut progress = self.lock();
        if progress.result.is_none() {
            return;
        }
        if let Some(reservation) = &mut progress.reservation {
            reservation.release_bytes();
        }
        progress.vectors = vec![0.0; tokens.windows.len() * spec.dimensions];
        progress.remaining = tokens.windows.iter().filter(|window| window.tokens > 0).count();
        progress.tokens = tokens;
        progress.spec = spec;
        progress.tokenized = Instant::now();
        if progress.remaining == 0 {
            self.succeed(progress);
        }
    }

    /// Reserves the tokens that the job adds to the queue, unless the job is finished.
    ///
    /// # Errors
    /// The queue has no room or no time for `demand`.
    pub(crate) fn reserve_tokens(&self, demand: QueueDemand) -> Result<(), SubmitError> {
        let reservation = &mut self.lock().reservation;
        reservation.as_mut().map_or(Ok(()), |reservation| reservation.reserve_tokens(demand, self.deadline))
    }

    /// Records that a sequence reached an encoder. Returns the time that the job waited, if it is the first one.
    pub(crate) fn record_start(&self, now: Instant) -> Option<Duration> {
        let mut progress = self.lock();
        if progress.started.is_some() {
            return None;
        }
        progress.started = Some(now);
        if let Some(reservation) = &mut progress.reservation {
            reservation.mark_running();
        }
        Some(now.saturating_duration_since(progress.tokenized))
    }

    /// Stores the final vectors of windows by position. The last one completes the job.
    pub(crate) fn complete<'vector>(&self, vectors: impl IntoIterator<Item = (usize, &'vector [f32])>) {
        let mut progress = self.lock();
        if progress.result.is_none() {
            return;
        }
        for (position, vector) in vectors {
            let start = position * vector.len();
            progress.vectors[start..start + vector.len()].copy_from_slice(vector);
            progress.remaining -= 1;
        }
        if progress.remaining == 0 {
            self.succeed(progress);
        }
    }

    fn succeed(&self, mut progress: MutexGuard<'_, JobProgress>) {
        let embeddings = progress.take_embeddings(self.submitted);
        self.finish(progress, Ok(embeddings));
    }

    /// Releases the job's reservation and sends its result, unless the job is finished.
    fn finish(&self, mut progress: MutexGuard<'_, JobProgress>, result: Result<Embeddings, EmbedError>) {
        self.finished.store(true, Ordering::Release);
        progress.reservation = None;
        progress.vectors = Vec::new();
        let sender = progress.result.take();
        // The receiver locks this as soon as it wakes.
        drop(progress);
        if let Some(sender) = sender {
            // An error means that the ticket was dropped meanwhile.
            let _ = sender.send(result);
        }
    }

    fn lock(&self) -> MutexGuard<'_, JobProgress> {
        // No code panics between two dependent changes, so a poisoned lock holds consistent state.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JobProgress {
    fn take_embeddings(&mut self, submitted: Instant) -> Embeddings {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let mut vectors = std::mem::take(&mut self.vectors);
        let TokenizedJob { windows, lengths, truncated } = std::mem::take(&mut self.tokens);
        if windows.len() > lengths.len() {
            vectors = average_windows(&vectors, &windows, self.spec);
        }
        Embeddings {
            dimensions: self.spec.dimensions,
            vectors,
            tokens: lengths,
            truncated,
            timings: Timings {
                tokenize: self.tokenized.saturating_duration_since(submitted),
                queue: started.saturating_duration_since(self.tokenized),
                inference: now.saturating_duration_since(started),
            },
        }
    }
}

/// Averages the vectors of each input's windows by weight. The windows are summed in text order, so the result does not
/// depend on the order in which they were computed.
fn average_windows(rows: &[f32], windows: &[Window], spec: VectorSpec) -> Vec<f32> {
    let VectorSpec { dimensions, normalized } = spec;
    let inputs = windows.chunk_by(|a, b| a.input == b.input).count();
    let mut vectors = Vec::with_capacity(inputs * dimensions);
    for (input, rows) in windows.chunk_by(|a, b| a.input == b.input).scan(0, |start, input| {
        let first = *start;
        *start += input.len();
        Some((input, &rows[first * dimensions..*start * dimensions]))
    }) {
        if input.len() == 1 {
            vectors.extend_from_slice(rows);
            continue;
        }
        let total: f64 = input.iter().map(|window| f64::from(window.weight)).sum();
        let first = vectors.len();
        vectors.extend((0..dimensions).map(|dimension| {
            let weighted = input.iter().zip(rows.chunks_exact(dimensions));
            let sum: f64 =
                weighted.map(|(window, row)| f64::from(window.weight) * f64::from(row[dimension])).sum();
            (sum / total) as f32
        }));
        if normalized {
            normalize(&mut vectors[first..]);
        }
    }
    vectors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_policy_names_round_trip() {
        for policy in [TruncationPolicy::Truncate, TruncationPolicy::Average, TruncationPolicy::Error] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("cut".parse::<TruncationPolicy>().is_err());
    }

    #[test]
    fn windows_are_averaged_by_weight() {
        let rows = [1.0, 0.0, /* second input: */ 1.0, 0.0, 0.0, 1.0];
        let windows = [(0, 5), (1, 3), (1, 1)].map(|(input, weight)| Window {
            second_segment: 0,
            input,
            tokens: weight + 2,
            weight,
            prompt_tokens: 0,
        });
        let average = |normalized| average_windows(&rows, &windows, VectorSpec { dimensions: 2, normalized });
        assert_eq!(average(false), [1.0, 0.0, 0.75, 0.25]);
        let unit = average(true);
        assert!((unit[2] - 0.948_683_3).abs() < 1e-6 && (unit[3] - 0.316_227_8).abs() < 1e-6);
    }
}
