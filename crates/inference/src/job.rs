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

use crate::{EmbedError, admission::Reservation, pooling::normalize};

/// One request's worth of work.
#[derive(Debug, Clone)]
pub struct Job {
    /// The inputs, in the order in which their vectors are wanted.
    pub inputs: Vec<Input>,
    /// What to do with an input longer than the window.
    pub overlong: Overlong,
    /// When the answer is of no use any more.
    pub deadline: Instant,
    /// Most tokens that the model may read for this job, special tokens included.
    pub max_tokens: usize,
}

/// One input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Text.
    Text(String),
    /// Ids of the model's own vocabulary, without special tokens, which the engine adds.
    Tokens(Vec<u32>),
}

/// What happens to an input longer than the model's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlong {
    /// Its first window is embedded, as sentence-transformers does.
    #[default]
    Truncate,
    /// All of it is embedded, window by window, and the vectors are averaged by token count.
    Average,
    /// The job fails with [`EmbedError::Overlong`].
    Error,
}

impl Overlong {
    const NAMES: [(Self, &str); 3] =
        [(Self::Truncate, "truncate"), (Self::Average, "average"), (Self::Error, "error")];
}

impl fmt::Display for Overlong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.iter().find(|(policy, _)| policy == self);
        f.write_str(named.map_or("", |(_, name)| name))
    }
}

impl FromStr for Overlong {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::NAMES.iter().find(|(_, name)| *name == text);
        named.map(|&(policy, _)| policy).ok_or_else(|| {
            format!("unknown policy `{text}` for overlong inputs: expected `truncate`, `average` or `error`")
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

/// A sequence that the encoder is to read: an input, or a window of one.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Its ids, special tokens included.
    pub(crate) ids: Vec<u32>,
    /// The input that it belongs to.
    pub(crate) input: usize,
}

/// A job as the engine's threads share it.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) submitted: Instant,
    pub(crate) deadline: Instant,
    /// Set when nobody waits for the result any more: answered, failed, or the caller left.
    over: AtomicBool,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    answer: Option<oneshot::Sender<Result<Embeddings, EmbedError>>>,
    /// The job's share of the queue; given back when the job is over.
    reservation: Option<Reservation>,
    /// Which input each sequence belongs to, ascending, and its weight in an average.
    sequences: Vec<(usize, u32)>,
    /// One vector for each sequence.
    vectors: Vec<f32>,
    remaining: usize,
    tokens: Vec<u32>,
    truncated: usize,
    tokenized: Instant,
    started: Option<Instant>,
}

impl Work {
    pub(crate) fn new(
        deadline: Instant,
        reservation: Reservation,
    ) -> (Arc<Self>, oneshot::Receiver<Result<Embeddings, EmbedError>>) {
        let (answer, result) = oneshot::channel();
        let submitted = Instant::now();
        let progress = Progress {
            answer: Some(answer),
            reservation: Some(reservation),
            sequences: Vec::new(),
            vectors: Vec::new(),
            remaining: 0,
            tokens: Vec::new(),
            truncated: 0,
            tokenized: submitted,
            started: None,
        };
        let work = Self { submitted, deadline, over: AtomicBool::new(false), progress: Mutex::new(progress) };
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
    }

    /// Ends the job with an error, unless it is over.
    pub(crate) fn fail(&self, error: EmbedError) {
        self.end(&mut self.lock(), Err(error));
    }

    /// Answers a job without inputs.
    pub(crate) fn answer_empty(&self, dimensions: usize) {
        let mut progress = self.lock();
        let embeddings = progress.embeddings(self.submitted, dimensions, false);
        self.end(&mut progress, Ok(embeddings));
    }

    /// Takes the tokenizer's result. `sequences` holds each sequence's input and weight, in input order.
    pub(crate) fn tokenized(
        &self,
        sequences: Vec<(usize, u32)>,
        tokens: Vec<u32>,
        truncated: usize,
        dimensions: usize,
    ) {
        let mut progress = self.lock();
        let total = tokens.iter().map(|&tokens| tokens as usize).sum();
        if let Some(reservation) = &mut progress.reservation {
            reservation.settle(total);
        }
        progress.vectors = vec![0.0; sequences.len() * dimensions];
        progress.remaining = sequences.len();
        progress.sequences = sequences;
        progress.tokens = tokens;
        progress.truncated = truncated;
        progress.tokenized = Instant::now();
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

    /// Takes the vector of one sequence, and answers when it was the last.
    pub(crate) fn complete(&self, sequence: usize, vector: &[f32], normalized: bool) {
        let mut progress = self.lock();
        if progress.answer.is_none() {
            return;
        }
        let dimensions = vector.len();
        let row = &mut progress.vectors[sequence * dimensions..(sequence + 1) * dimensions];
        row.copy_from_slice(vector);
        if normalized {
            normalize(row);
        }
        progress.remaining -= 1;
        if progress.remaining == 0 {
            let embeddings = progress.embeddings(self.submitted, dimensions, normalized);
            self.end(&mut progress, Ok(embeddings));
        }
    }

    /// Gives the job's place back and sends its result, unless that was done.
    fn end(&self, progress: &mut Progress, result: Result<Embeddings, EmbedError>) {
        self.over.store(true, Ordering::Release);
        progress.reservation = None;
        if let Some(answer) = progress.answer.take() {
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
    fn embeddings(&mut self, submitted: Instant, dimensions: usize, normalized: bool) -> Embeddings {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let mut vectors = std::mem::take(&mut self.vectors);
        if self.sequences.len() > self.tokens.len() {
            vectors = average(&vectors, &self.sequences, dimensions, normalized);
        }
        Embeddings {
            dimensions,
            vectors,
            tokens: std::mem::take(&mut self.tokens),
            truncated: self.truncated,
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
fn average(windows: &[f32], sequences: &[(usize, u32)], dimensions: usize, normalized: bool) -> Vec<f32> {
    let mut vectors = Vec::new();
    for (group, vector) in sequences.chunk_by(|a, b| a.0 == b.0).scan(0, |start, group| {
        let first = *start;
        *start += group.len();
        Some((group, &windows[first * dimensions..*start * dimensions]))
    }) {
        if group.len() == 1 {
            vectors.extend_from_slice(vector);
            continue;
        }
        let total: f64 = group.iter().map(|&(_, weight)| f64::from(weight)).sum();
        let row = vectors.len();
        vectors.extend((0..dimensions).map(|dimension| {
            let weighted = group.iter().zip(vector.chunks_exact(dimensions));
            let sum: f64 =
                weighted.map(|((_, weight), window)| f64::from(*weight) * f64::from(window[dimension])).sum();
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
        for policy in [Overlong::Truncate, Overlong::Average, Overlong::Error] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("cut".parse::<Overlong>().is_err());
    }

    #[test]
    fn windows_are_averaged_by_weight() {
        let windows = [1.0, 0.0, /* second input: */ 1.0, 0.0, 0.0, 1.0];
        let sequences = [(0, 5), (1, 3), (1, 1)];
        assert_eq!(average(&windows, &sequences, 2, false), [1.0, 0.0, 0.75, 0.25]);
        let unit = average(&windows, &sequences, 2, true);
        assert!((unit[2] - 0.948_683_3).abs() < 1e-6 && (unit[3] - 0.316_227_8).abs() < 1e-6);
    }
}
