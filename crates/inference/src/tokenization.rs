//! The tokenizer threads: turn inputs into sequences of token ids, and look those up in the caches.
//!
//! A large job is split into chunks, which the tokenizer threads share. The thread that finishes a job's last chunk
//! queues the job. Chunks of large jobs and jobs of one chunk wait in separate queues, so that a small job is not
//! queued behind a large one. A job that takes less time than waking a thread is tokenized on the thread that submits
//! it.

use std::{
    cell::RefCell,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crossbeam_channel::{Receiver, Sender, select_biased, unbounded};
use tokenizers::pipeline::PipelineToken;

use crate::{
    cache::{
        inflight::{CoalesceResult, InflightSequence},
        sequence::TokenSequence,
    },
    context::EngineContext,
    error::EmbedError,
    job::{Input, JobState, TokenizedJob, TruncationPolicy, Window},
    observer::CacheReport,
    prompt::Prompt,
    tokenizer::{Tokenizer, truncate_pair},
};

/// Number of inputs in a chunk: enough to outweigh waking a thread, few enough to spread 2,048 inputs over many cores.
const CHUNK_INPUTS: usize = 64;

/// Maximum number of bytes, of text or of ids, that are tokenized on the submitting thread. They take about 50 µs;
/// waking a thread takes as long on an idle machine, and a scheduler time slice on a busy one.
const INLINE_TOKENIZE_BYTES: usize = 1024;

/// A tokenizer thread prefers a chunk of a large job in every eighth take, so that small jobs cannot starve large ones.
const LARGE_JOB_EVERY: usize = 8;

/// Maximum number of tokens for which a thread keeps memory (256 KiB). A text of megabytes may have millions.
const MAX_SCRATCH_TOKENS: usize = 1 << 16;

/// Maximum number of bytes of a text with its prompt for which a thread keeps memory.
const MAX_SCRATCH_BYTES: usize = 1 << 18;

/// Number of sequences that are looked up under one lock: few enough that other threads do not wait long for it.
const CACHE_LOOKUP_BATCH: usize = 64;

/// Purpose of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobKind {
    /// A request of a caller.
    Request,
    /// A check of the encoder. It must compute every sequence itself, so it neither reads nor fills caches, shares no
    /// sequence with other jobs, and is not reported to the observer.
    GoldenCheck,
}

/// The inputs of a job and the options for tokenizing them.
pub(crate) struct TokenizeRequest {
    pub(crate) inputs: Vec<Input>,
    pub(crate) prompt: Option<Prompt>,
    pub(crate) truncation: TruncationPolicy,
    /// Maximum number of tokens of a window, special tokens included.
    pub(crate) max_input_tokens: usize,
    /// Maximum number of tokens of the whole job, special tokens included.
    pub(crate) max_tokens: usize,
    pub(crate) kind: JobKind,
}

impl TokenizeRequest {
    /// Returns true if tokenizing takes less time than waking a tokenizer thread.
    fn is_small(&self) -> bool {
        let bytes = |input: &Input| match input {
            Input::Text(_) | Input::Pair { .. } => input.text_bytes(self.prompt.as_ref()),
            Input::Tokens(ids) => size_of_val(ids.as_slice()),
        };
        self.inputs.len() <= CHUNK_INPUTS
            && self.inputs.iter().map(bytes).sum::<usize>() <= INLINE_TOKENIZE_BYTES
    }
}

/// A job that is being tokenized.
struct TokenizingJob {
    state: Arc<JobState>,
    request: TokenizeRequest,
    results: Mutex<Vec<ChunkResult>>,
    /// Number of chunks without a result.
    remaining: AtomicUsize,
}

/// Index of a chunk's first input, and its tokenized inputs or the first error among them.
type ChunkResult = (usize, Result<TokenizedChunk, EmbedError>);

impl TokenizingJob {
    fn into_chunks(state: Arc<JobState>, request: TokenizeRequest) -> Vec<Chunk> {
        let inputs = request.inputs.len();
        let chunks = inputs.div_ceil(CHUNK_INPUTS);
        let (results, remaining) = (Mutex::new(Vec::with_capacity(chunks)), AtomicUsize::new(chunks));
        let job = Arc::new(Self { state, request, results, remaining });
        (0..inputs)
            .step_by(CHUNK_INPUTS)
            .map(|start| Chunk { job: Arc::clone(&job), range: start..inputs.min(start + CHUNK_INPUTS) })
            .collect()
    }
}

/// Consecutive inputs of a job.
struct Chunk {
    job: Arc<TokenizingJob>,
    range: Range<usize>,
}

/// The sending end of the tokenizer threads' queues.
pub(crate) struct TokenizerPool {
    /// Jobs of one chunk.
    small_jobs: Sender<Chunk>,
    /// Chunks of larger jobs.
    chunks: Sender<Chunk>,
}

/// The receiving end, one clone for each tokenizer thread.
#[derive(Clone)]
pub(crate) struct ChunkReceiver {
    small_jobs: Receiver<Chunk>,
    chunks: Receiver<Chunk>,
    /// Number of chunks that this thread has taken.
    chunks_taken: usize,
}

impl TokenizerPool {
    pub(crate) fn new() -> (Self, ChunkReceiver) {
        let (small_jobs, small_jobs_receiver) = unbounded();
        let (chunks, chunks_receiver) = unbounded();
        let receiver =
            ChunkReceiver { small_jobs: small_jobs_receiver, chunks: chunks_receiver, chunks_taken: 0 };
        (Self { small_jobs, chunks }, receiver)
    }

    /// Tokenizes a small job on this thread, or queues a larger one.
    pub(crate) fn submit(&self, context: &EngineContext, state: Arc<JobState>, request: TokenizeRequest) {
        if request.is_small() {
            TokenizingJob::into_chunks(state, request).into_iter().for_each(|chunk| chunk.run(context));
        } else {
            self.enqueue(state, request);
        }
    }

    fn enqueue(&self, state: Arc<JobState>, request: TokenizeRequest) {
        let chunks = TokenizingJob::into_chunks(state, request);
        let queue = if chunks.len() > 1 { &self.chunks } else { &self.small_jobs };
        for chunk in chunks {
            // The receivers exist until this sender is dropped.
            let _ = queue.send(chunk);
        }
    }
}

impl ChunkReceiver {
    /// Waits for the next chunk; `None` if the pool is dropped and both queues are empty.
    fn next(&mut self) -> Option<Chunk> {
        self.chunks_taken += 1;
        if self.chunks_taken.is_multiple_of(LARGE_JOB_EVERY)
            && let Ok(chunk) = self.chunks.try_recv()
        {
            return Some(chunk);
        }
        select_biased! {
            recv(self.small_jobs) -> chunk => chunk.or_else(|_| self.chunks.recv()).ok(),
            recv(self.chunks) -> chunk => chunk.or_else(|_| self.small_jobs.recv()).ok(),
        }
    }
}

/// Runs a tokenizer thread until the pool is dropped.
pub(crate) fn run(context: &EngineContext, mut chunks: ChunkReceiver) {
    while let Some(chunk) = chunks.next() {
        chunk.run(context);
    }
}

/// Buffers of a thread, whose allocations are reused.
struct Scratch {
    /// A text with its prompt.
    text: String,
    /// A text's tokens before truncation, without special tokens.
    ids: Vec<PipelineToken>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { text: String::new(), ids: Vec::new() }) };
}

impl Scratch {
    /// Tokenizes `text` of the input at `index`, with its prompt.
    ///
    /// # Errors
    /// [`EmbedError::Tokenizer`], and [`EmbedError::NoEmbedding`] for a token without an embedding.
    fn encode(
        &mut self,
        tokenizer: &Tokenizer,
        prompt: Option<&Prompt>,
        text: &str,
        index: usize,
    ) -> Result<&[u32], EmbedError> {
        let text = match prompt {
            None => text,
            Some(prompt) => {
                self.text.clear();
                self.text.push_str(prompt.text());
                self.text.push_str(text);
                &self.text
            }
        };
        let encoded = tokenizer.encode_into(text, &mut self.ids);
        encoded.map_err(|reason| EmbedError::Tokenizer { index, reason })?;
        let ids = PipelineToken::cast_slice(&self.ids);
        match tokenizer.first_without_embedding(ids) {
            Some((id, token)) => Err(EmbedError::NoEmbedding { index, id, token: token.to_owned() }),
            None => Ok(ids),
        }
    }

    /// Releases the memory that an unusually long text took.
    fn shrink(&mut self) {
        self.text.clear();
        self.text.shrink_to(MAX_SCRATCH_BYTES);
        self.ids.clear();
        self.ids.shrink_to(MAX_SCRATCH_TOKENS);
    }
}

impl Chunk {
    /// Tokenizes the chunk. The last chunk of a job finishes the job's tokenization.
    fn run(self, context: &EngineContext) {
        let Self { job, range } = self;
        if job.state.is_finished() {
            return;
        }
        let start = range.start;
        let TokenizeRequest { inputs, prompt, .. } = &job.request;
        let bytes = inputs[range.clone()].iter().map(|input| input.text_bytes(prompt.as_ref())).sum();
        let result = SCRATCH.with_borrow_mut(|scratch| {
            let mut index = start;
            let tokenize = AssertUnwindSafe(|| tokenize(context, &job, range, &mut index, scratch));
            let started = Instant::now();
            let result = catch_unwind(tokenize);
            let panicked = |_| Err(EmbedError::Tokenizer { index, reason: "it panicked".to_owned() });
            let result = result.unwrap_or_else(panicked);
            context.admission.observe_tokenizer(bytes, started.elapsed());
            scratch.shrink();
            result
        });
        job.results.lock().unwrap_or_else(PoisonError::into_inner).push((start, result));
        if job.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            finish_tokenizing(context, &job);
        }
    }
}

/// Tokenizes the inputs in `range`. `at` is the index of the current input, which the caller needs after a panic.
fn tokenize(
    context: &EngineContext,
    job: &TokenizingJob,
    range: Range<usize>,
    at: &mut usize,
    scratch: &mut Scratch,
) -> Result<TokenizedChunk, EmbedError> {
    let mut tokenized = TokenizedChunk::default();
    let tokenizer = &context.config.tokenizer;
    // The query of the last pair: the documents of a request usually have the same one.
    let mut tokenized_query: Option<(&Arc<str>, Vec<u32>)> = None;
    for index in range {
        *at = index;
        if job.state.is_finished() {
            break;
        }
        let (content, prompt) = match &job.request.inputs[index] {
            Input::Text(text) => {
                let prompt = job.request.prompt.as_ref();
                (scratch.encode(tokenizer, prompt, text, index)?, prompt)
            }
            Input::Pair { query, document } => {
                let first = match tokenized_query.take() {
                    Some((known, ids)) if Arc::ptr_eq(known, query) => ids,
                    _ => scratch.encode(tokenizer, None, query, index)?.to_vec(),
                };
                let second = scratch.encode(tokenizer, None, document, index)?;
                tokenized.push_pair(context, (&first, second), &job.request, index)?;
                tokenized_query = Some((query, first));
                continue;
            }
            Input::Tokens(ids) => {
                if let Some(&id) = ids.iter().find(|&&id| !tokenizer.is_valid_id(id)) {
                    return Err(EmbedError::UnknownToken { index, id });
                }
                (ids.as_slice(), None)
            }
        };
        tokenized.push_input(context, (content, prompt), &job.request, index)?;
    }
    Ok(tokenized)
}

/// Tokenized inputs.
#[derive(Default)]
struct TokenizedChunk {
    /// The ids of all windows, one after the other.
    ids: Vec<u32>,
    tokens: TokenizedJob,
}

impl TokenizedChunk {
    /// Applies the truncation policy to an input, whose `content` starts with the tokens of `prompt`, and adds special
    /// tokens to each of its windows.
    fn push_input(
        &mut self,
        context: &EngineContext,
        (content, prompt): (&[u32], Option<&Prompt>),
        &TokenizeRequest { truncation, max_input_tokens, .. }: &TokenizeRequest,
        index: usize,
    ) -> Result<(), EmbedError> {
        let special_tokens = context.config.tokenizer.num_special_tokens();
        let max_content = max_input_tokens - special_tokens;
        let (head, tail) = content.split_at(content.len().min(max_content));
        if !tail.is_empty() && truncation == TruncationPolicy::Error {
            return Err(EmbedError::InputTooLong {
                index,
                tokens: content.len() + special_tokens,
                max_input_tokens,
            });
        }
        let first = self.ids.len();
        let prompt_tokens = prompt.map_or(0, Prompt::content_tokens);
        // sentence-transformers measures a prompt as long as a window by its first window, without the last token.
        let max_unpooled = max_input_tokens - usize::from(context.config.tokenizer.ends_with_special());
        let unpooled = prompt.map_or(0, Prompt::unpooled_tokens).min(max_unpooled);
        self.push_window(context, (head, unpooled), head.len().saturating_sub(prompt_tokens), index);
        if truncation == TruncationPolicy::Average {
            let repeated = prompt.map_or(&[][..], |prompt| prompt.repeated_ids(max_content));
            let unpooled = if repeated.is_empty() { 0 } else { unpooled };
            for window in tail.chunks(max_content - repeated.len()) {
                let content = [repeated, window].concat();
                self.push_window(context, (&content, unpooled), window.len(), index);
            }
        } else {
            self.tokens.truncated += usize::from(!tail.is_empty());
        }
        self.tokens.lengths.push((self.ids.len() - first) as u32);
        Ok(())
    }

    /// Joins the tokens of a query and a document, which are truncated by the policy.
    fn push_pair(
        &mut self,
        context: &EngineContext,
        (query, document): (&[u32], &[u32]),
        &TokenizeRequest { truncation, max_input_tokens, .. }: &TokenizeRequest,
        index: usize,
    ) -> Result<(), EmbedError> {
        let tokenizer = &context.config.tokenizer;
        let special_tokens = tokenizer.num_special_tokens_of_pair();
        let tokens = query.len() + document.len() + special_tokens;
        let is_truncated = tokens > max_input_tokens;
        if is_truncated && truncation == TruncationPolicy::Error {
            return Err(EmbedError::InputTooLong { index, tokens, max_input_tokens });
        }
        let max_content = max_input_tokens.saturating_sub(special_tokens);
        let (first, second) = truncate_pair(query.len(), document.len(), max_content);
        let start = self.ids.len();
        let joined = tokenizer.join_pair(&query[..first], &document[..second], &mut self.ids);
        let second_segment = joined.ok_or(EmbedError::UnsupportedInput { index })? as u32;
        let tokens = (self.ids.len() - start) as u32;
        let (input, weight) = (index as u32, tokens);
        self.tokens.windows.push(Window { input, tokens, weight, prompt_tokens: 0, second_segment });
        self.tokens.truncated += usize::from(is_truncated);
        self.tokens.lengths.push(tokens);
        Ok(())
    }

    /// Adds a window of `content`, of which pooling leaves out the first `unpooled` tokens.
    fn push_window(
        &mut self,
        context: &EngineContext,
        (content, unpooled): (&[u32], usize),
        weight: usize,
        index: usize,
    ) {
        let first = self.ids.len();
        context.config.tokenizer.add_special_tokens(content, &mut self.ids);
        let tokens = (self.ids.len() - first) as u32;
        self.tokens.windows.push(Window {
            input: index as u32,
            tokens,
            weight: weight as u32,
            prompt_tokens: unpooled as u32,
            second_segment: 0,
        });
    }

    /// Appends the chunk that follows this one.
    fn append(&mut self, next: Self) {
        if self.tokens.lengths.is_empty() {
            *self = next;
            return;
        }
        self.ids.extend(next.ids);
        self.tokens.windows.extend(next.tokens.windows);
        self.tokens.lengths.extend(next.tokens.lengths);
        self.tokens.truncated += next.tokens.truncated;
    }
}

/// Combines the chunks of a job: fails the job on an error, else looks its sequences up and queues the missing ones.
fn finish_tokenizing(context: &EngineContext, tokenizing: &TokenizingJob) {
    let mut results = std::mem::take(&mut *tokenizing.results.lock().unwrap_or_else(PoisonError::into_inner));
    results.sort_by_key(|&(start, _)| start);
    let TokenizingJob { state: job, request, .. } = tokenizing;
    let mut all = TokenizedChunk::default();
    for (_, result) in results {
        match result {
            Ok(chunk) => all.append(chunk),
            // The first error in input order, so that it does not depend on the timing of threads.
            Err(error) => return job.fail(error),
        }
    }
    if job.is_finished() {
        return;
    }
    let TokenizedChunk { ids, tokens } = all;
    if ids.len() > request.max_tokens {
        return job.fail(EmbedError::TooManyTokens { tokens: ids.len(), limit: request.max_tokens });
    }
    if request.kind == JobKind::Request {
        context.observer.tokenized(&tokens.lengths, tokens.truncated, job.submitted.elapsed());
    }
    let windows = tokens.windows.clone();
    job.set_tokens(tokens, context.config.vector_spec());
    let mut rest = ids.as_slice();
    let sequences = windows.into_iter().map(|Window { tokens, prompt_tokens, second_segment, .. }| {
        let (ids, tail) = rest.split_at(tokens as usize);
        rest = tail;
        TokenSequence { ids: ids.into(), prompt_tokens, second_segment }
    });
    // `set_tokens` has completed windows without tokens.
    let sequences = sequences.enumerate().filter(|(_, sequence)| !sequence.ids.is_empty());
    match request.kind {
        JobKind::Request => resolve_or_enqueue(context, job, sequences.collect()),
        JobKind::GoldenCheck => {
            let sequences = sequences
                .map(|(position, sequence)| InflightSequence::new(sequence, job, position, true))
                .collect();
            context.enqueue(Arc::clone(job), sequences);
        }
    }
}

/// Completes cached sequences, subscribes to those in flight, and passes the others on: to the remote cache if there is
/// one, else to the scheduler.
fn resolve_or_enqueue(context: &EngineContext, job: &Arc<JobState>, sequences: Vec<(usize, TokenSequence)>) {
    let local_cache = context.local_cache.as_deref();
    let mut result = CoalesceResult::default();
    let mut sequences = sequences.into_iter();
    while sequences.len() > 0 {
        let batch = sequences.by_ref().take(CACHE_LOOKUP_BATCH);
        context.inflight.get_or_subscribe(batch, job, local_cache, &mut result);
    }
    let CoalesceResult { hits, to_queue, new, deduplicated, is_running } = result;
    // With a remote cache, misses are known after its lookup.
    let misses = if context.remote_cache.is_none() && local_cache.is_some() { new } else { 0 };
    context.observer.cache(&CacheReport { hits: hits.len(), remote_hits: 0, misses, deduplicated });
    if is_running && let Some(waited) = job.record_start(Instant::now()) {
        context.observer.queue_wait(waited);
    }
    job.complete(hits.iter().map(|(position, vector)| (*position, &**vector)));
    match &context.remote_cache {
        _ if to_queue.is_empty() => {}
        Some(remote_cache) => remote_cache.get(Arc::clone(job), to_queue),
        None => context.enqueue(Arc::clone(job), to_queue),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admission::{Admission, Capacity, CostEstimate};

    /// Queues jobs with these numbers of inputs, and returns the lengths of the chunks in the order in which one thread
    /// takes them.
    fn chunk_order(jobs: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let (pool, mut chunks) = TokenizerPool::new();
        let admission =
            Admission::new(Capacity { tokens: 1 << 20, quantum: 1 << 20, workers: 1, tokenizer_threads: 1 });
        let estimate = CostEstimate { tokens: 1, footprint: 1, bytes: 0 };
        for inputs in jobs {
            let deadline = Instant::now() + Duration::from_secs(60);
            let reservation = admission.reserve(None, estimate, deadline).unwrap();
            let (job, _) = JobState::new(None, deadline, reservation);
            let inputs = vec![Input::Tokens(vec![1]); inputs];
            let (truncation, kind) = (TruncationPolicy::Error, JobKind::Request);
            let request = TokenizeRequest {
                inputs,
                prompt: None,
                truncation,
                max_input_tokens: 1,
                max_tokens: 1,
                kind,
            };
            pool.enqueue(job, request);
        }
        drop(pool);
        std::iter::from_fn(|| chunks.next()).map(|chunk| chunk.range.len()).collect()
    }

    #[test]
    fn a_job_of_one_chunk_is_not_queued_behind_a_large_job() {
        let order = chunk_order([CHUNK_INPUTS * 3, 1, 2]);
        assert_eq!(order, [1, 2, CHUNK_INPUTS, CHUNK_INPUTS, CHUNK_INPUTS]);
    }

    #[test]
    fn small_jobs_do_not_starve_a_large_job() {
        let order = chunk_order([CHUNK_INPUTS * 2].into_iter().chain([1; 100]));
        let large: Vec<usize> = (0..order.len()).filter(|&taken| order[taken] == CHUNK_INPUTS).collect();
        assert_eq!(large, [LARGE_JOB_EVERY - 1, 2 * LARGE_JOB_EVERY - 1]);
    }
}
