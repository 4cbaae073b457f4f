//! What a caller hands in ([`Job`]), holds ([`Ticket`]) and gets ([`Embeddings`]), and the shared state of a
//! job on its way through the engine.

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
    CallerId, EmbedError, SubmitError,
    admission::{Demand, Reservation},
    pooling::normalize,
};

/// One request's worth of work.
#[derive(Debug, Clone)]
pub struct Job {
    /// The inputs, in the order in which their vectors are wanted.
    pub inputs: Vec<Input>,
    /// What to do with an input longer than the window.
    pub truncation: TruncationPolicy,
    /// A window smaller than the model's: maximum number of tokens to read of an input, special tokens included. It
    /// should be larger than the number of [special tokens](crate::Engine::num_special_tokens).
    pub max_input_tokens: Option<usize>,
    /// When the answer is of no use any more.
    pub deadline: Instant,
    /// Most tokens that the model may read for this job, special tokens included.
    pub max_tokens: usize,
    /// The caller. The queue is fair between callers, and no caller can fill it; all jobs without one count as one caller
    /// without a quota.
    pub caller: Option<CallerId>,
}

/// One input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Text.
    Text(String),
    /// Ids of the model's own vocabulary, without special tokens, which the engine adds.
    Tokens(Vec<u32>),
}

impl Input {
    /// Bytes to tokenize.
    pub(crate) fn text_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Tokens(_) => 0,
        }
    }
}

/// What happens to an input longer than the model's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TruncationPolicy {
    /// Its first window is embedded, as sentence-transformers does.
    #[default]
    Truncate,
    /// All of it is embedded, window by window, and the vectors are averaged by token count.
    Average,
    /// The job fails with [`EmbedError::InputTooLong`].
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
    /// Tokens that the model read for each input, special tokens included.
    pub tokens: Vec<u32>,
    /// Number of inputs of which the end was not read.
    pub truncated: usize,
    /// Where the time went.
    pub timings: Timings,
}

impl Embeddings {
    /// Tokens that the model read for the whole job.
    pub fn total_tokens(&self) -> u64 {
        self.tokens.iter().map(|&tokens| u64::from(tokens)).sum()
    }
}

/// Where a job's time went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// From submission until all inputs were tokenized.
    pub tokenize: Duration,
    /// From there until the first sequence reached an encoder.
    pub queue: Duration,
    /// From there until the last vector was there.
    pub inference: Duration,
}

/// A job's place in the engine, and the future of its result. Dropping it gives the place back; sequences
/// that have not reached an encoder by then never will.
#[derive(Debug)]
pub struct Ticket {
    pub(crate) result: oneshot::Receiver<Result<Embeddings, EmbedError>>,
    pub(crate) work: Arc<Work>,
}

impl Ticket {
    /// Waits for the result on a thread of its own; must not be called on an async thread.
    ///
    /// # Errors
    /// As the future's.
    pub fn wait(mut self) -> Result<Embeddings, EmbedError> {
        // `self.result` cannot be moved out of a type with `Drop`; a closed channel takes its place.
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
        self.work.depart();
    }
}

/// What the tokenizer made of a job.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    /// The sequences that the encoder is to read, in input order: an input, or a window of one.
    pub(crate) sequences: Vec<Sequence>,
    /// Tokens of each input, over all its windows.
    pub(crate) lengths: Vec<u32>,
    /// Number of inputs of which the end was cut off.
    pub(crate) truncated: usize,
}

/// One sequence; its ids stand elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// The input that it belongs to.
    pub(crate) input: u32,
    /// Its tokens, special tokens included.
    pub(crate) tokens: u32,
    /// Its weight in an average: its tokens without special ones.
    pub(crate) weight: u32,
}

/// How vectors are made and put together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) dimensions: usize,
    /// Whether they have norm 1.
    pub(crate) normalized: bool,
}

/// A job as the engine's threads share it.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) caller: Option<CallerId>,
    pub(crate) submitted: Instant,
    pub(crate) deadline: Instant,
    /// Set when nobody waits for the result any more: answered, failed, or the caller left.
    over: AtomicBool,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    answer: Option<oneshot::Sender<Result<Embeddings, EmbedError>>>,
    /// The job's share of the engine's capacity; given back when the job is over.
    reservation: Option<Reservation>,
    tokens: Tokens,
    shape: Shape,
    /// One vector for each sequence.
    vectors: Vec<f32>,
    /// Sequences whose vectors are not there yet.
    remaining: usize,
    tokenized: Instant,
    started: Option<Instant>,
}

impl Work {
    pub(crate) fn new(
        caller: Option<CallerId>,
        deadline: Instant,
        reservation: Reservation,
    ) -> (Arc<Self>, oneshot::Receiver<Result<Embeddings, EmbedError>>) {
        let (answer, result) = oneshot::channel();
        let submitted = Instant::now();
        let progress = Progress {
            answer: Some(answer),
            reservation: Some(reservation),
            tokens: Tokens::default(),
            shape: Shape { dimensions: 0, normalized: false },
            vectors: Vec::new(),
            remaining: 0,
            tokenized: submitted,
            started: None,
        };
        let (over, progress) = (AtomicBool::new(false), Mutex::new(progress));
        let work = Self { caller, submitted, deadline, over, progress };
        (Arc::new(work), result)
    }

    /// Whether work on this job would be for nobody.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The caller left: the place in the queue is free from here on.
    fn depart(&self) {
        self.over.store(true, Ordering::Release);
        let mut progress = self.lock();
        progress.answer = None;
        progress.reservation = None;
        // The queue may hold this job until it meets it; its memory is free now.
        progress.vectors = Vec::new();
    }

    /// Ends the job with an error, unless it is over.
    pub(crate) fn fail(&self, error: EmbedError) {
        self.end(self.lock(), Err(error));
    }

    /// Ends the job because of the sequence at `position`, with an error that names its input.
    pub(crate) fn fail_at(&self, position: usize, error: impl FnOnce(usize) -> EmbedError) {
        let progress = self.lock();
        let index = progress.tokens.sequences.get(position).map_or(0, |sequence| sequence.input as usize);
        self.end(progress, Err(error(index)));
    }

    /// Takes the tokenizer's result, and answers where there is nothing to compute: a sequence without tokens has
    /// a vector of zeros, and no encoder need know that case.
    pub(crate) fn tokenized(&self, tokens: Tokens, shape: Shape) {
        let mut progress = self.lock();
        if progress.answer.is_none() {
            return;
        }
        if let Some(reservation) = &mut progress.reservation {
            reservation.tokenized();
        }
        progress.vectors = vec![0.0; tokens.sequences.len() * shape.dimensions];
        progress.remaining = tokens.sequences.iter().filter(|sequence| sequence.tokens > 0).count();
        progress.tokens = tokens;
        progress.shape = shape;
        progress.tokenized = Instant::now();
        if progress.remaining == 0 {
            self.answer(progress);
        }
    }

    /// Admits the job to the queue, unless it is over.
    ///
    /// # Errors
    /// There is no room or no time for `demand`.
    pub(crate) fn enqueue(&self, demand: Demand) -> Result<(), SubmitError> {
        let reservation = &mut self.lock().reservation;
        reservation.as_mut().map_or(Ok(()), |reservation| reservation.enqueue(demand, self.deadline))
    }

    /// Notes that a sequence reached the encoder; tells how long the job waited if it was the first.
    pub(crate) fn start(&self, now: Instant) -> Option<Duration> {
        let mut progress = self.lock();
        if progress.started.is_some() {
            return None;
        }
        progress.started = Some(now);
        if let Some(reservation) = &mut progress.reservation {
            reservation.run();
        }
        Some(now.saturating_duration_since(progress.tokenized))
    }

    /// Takes the final vectors of sequences by their positions, and answers when they were the last.
    pub(crate) fn complete<'vector>(&self, vectors: impl IntoIterator<Item = (usize, &'vector [f32])>) {
        let mut progress = self.lock();
        if progress.answer.is_none() {
            return;
        }
        for (position, vector) in vectors {
            let start = position * vector.len();
            progress.vectors[start..start + vector.len()].copy_from_slice(vector);
            progress.remaining -= 1;
        }
        if progress.remaining == 0 {
            self.answer(progress);
        }
    }

    fn answer(&self, mut progress: MutexGuard<'_, Progress>) {
        let embeddings = progress.embeddings(self.submitted);
        self.end(progress, Ok(embeddings));
    }

    /// Gives the job's place back and sends its result, unless that was done.
    fn end(&self, mut progress: MutexGuard<'_, Progress>, result: Result<Embeddings, EmbedError>) {
        self.over.store(true, Ordering::Release);
        progress.reservation = None;
        progress.vectors = Vec::new();
        let answer = progress.answer.take();
        // Whoever is woken locks this at once.
        drop(progress);
        if let Some(answer) = answer {
            // The receiver may have gone in this moment; then nobody waits for the result.
            let _ = answer.send(result);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        // Nothing here panics halfway through a change, so a poisoned lock holds consistent state.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn embeddings(&mut self, submitted: Instant) -> Embeddings {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let mut vectors = std::mem::take(&mut self.vectors);
        let Tokens { sequences, lengths, truncated } = std::mem::take(&mut self.tokens);
        if sequences.len() > lengths.len() {
            vectors = average(&vectors, &sequences, self.shape);
        }
        Embeddings {
            dimensions: self.shape.dimensions,
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

/// Averages the windows of each input by their weights. Windows are summed in text order, so the result does
/// not depend on the order in which they were computed.
fn average(windows: &[f32], sequences: &[Sequence], shape: Shape) -> Vec<f32> {
    let Shape { dimensions, normalized } = shape;
    let inputs = sequences.chunk_by(|a, b| a.input == b.input).count();
    let mut vectors = Vec::with_capacity(inputs * dimensions);
    for (group, vector) in sequences.chunk_by(|a, b| a.input == b.input).scan(0, |start, group| {
        let first = *start;
        *start += group.len();
        Some((group, &windows[first * dimensions..*start * dimensions]))
    }) {
        if group.len() == 1 {
            vectors.extend_from_slice(vector);
            continue;
        }
        let total: f64 = group.iter().map(|sequence| f64::from(sequence.weight)).sum();
        let row = vectors.len();
        vectors.extend((0..dimensions).map(|dimension| {
            let weighted = group.iter().zip(vector.chunks_exact(dimensions));
            let sum: f64 = weighted
                .map(|(sequence, window)| f64::from(sequence.weight) * f64::from(window[dimension]))
                .sum();
            (sum / total) as f32
        }));
        if normalized {
            normalize(&mut vectors[row..]);
        }
    }
    vectors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_survive_a_round_trip() {
        for policy in [TruncationPolicy::Truncate, TruncationPolicy::Average, TruncationPolicy::Error] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("cut".parse::<TruncationPolicy>().is_err());
    }

    #[test]
    fn windows_are_averaged_by_weight() {
        let windows = [1.0, 0.0, /* second input: */ 1.0, 0.0, 0.0, 1.0];
        let sequences =
            [(0, 5), (1, 3), (1, 1)].map(|(input, weight)| Sequence { input, tokens: weight + 2, weight });
        let average = |normalized| average(&windows, &sequences, Shape { dimensions: 2, normalized });
        assert_eq!(average(false), [1.0, 0.0, 0.75, 0.25]);
        let unit = average(true);
        assert!((unit[2] - 0.948_683_3).abs() < 1e-6 && (unit[3] - 0.316_227_8).abs() < 1e-6);
    }
}
