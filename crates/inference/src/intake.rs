//! From inputs to sequences: tokenizes a job and applies the policy for overlong inputs.
//!
//! A large job is cut into portions that the tokenizer threads share; whoever finishes the last portion
//! decides on the whole job and queues it. What is one portion by itself does not wait behind the many of another. A
//! job so small that waking a thread for it would take longer is tokenized on the thread that brings it.

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
    CacheReport, EmbedError, Input, TruncationPolicy,
    engine::Shared,
    flights::Joined,
    item::Item,
    job::{Sequence, Tokens, Work},
};

/// Inputs in one portion: enough to outweigh a thread's wake-up, few enough to spread 2,048 over many cores.
const PORTION: usize = 64;

/// Bytes of text, or ids of four bytes each, that are tokenized by whoever brings them: some 50 µs, where waking a
/// thread takes as long on an idle machine, and a turn of the scheduler's on a busy one.
const AT_ONCE: usize = 1024;

/// Portions after which a tokenizer thread takes one of a larger job, if there is one: however many small jobs come,
/// large ones go on.
const TURNS: usize = 8;

/// Tokens for which a thread keeps memory: 256 KiB. A text of megabytes may have millions.
const MOST_SCRATCH: usize = 1 << 16;

/// Sequences that are looked up under one lock: few enough that others need not wait long for it.
const LOOKED_UP_AT_ONCE: usize = 64;

/// What a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be answered, from wherever the vectors come.
    Serve,
    /// To prove what the encoder computes: nothing is taken from a cache or from another job, nothing is kept, and
    /// nothing is reported.
    Check,
}

/// What is asked of a job.
pub(crate) struct Wish {
    pub(crate) inputs: Vec<Input>,
    pub(crate) truncation: TruncationPolicy,
    /// Maximum number of tokens to read of an input at once, special tokens included.
    pub(crate) window: usize,
    pub(crate) max_tokens: usize,
    pub(crate) purpose: Purpose,
}

impl Wish {
    /// Whether it is tokenized in less time than it takes to hand it on.
    fn is_small(&self) -> bool {
        let bytes = |input: &Input| match input {
            Input::Text(text) => text.len(),
            Input::Tokens(ids) => size_of_val(ids.as_slice()),
        };
        self.inputs.len() <= PORTION && self.inputs.iter().map(bytes).sum::<usize>() <= AT_ONCE
    }
}

/// A job that is being tokenized.
struct Intake {
    work: Arc<Work>,
    wish: Wish,
    done: Mutex<Vec<Done>>,
    left: AtomicUsize,
}

/// One tokenizer thread's share of a job.
struct Portion {
    intake: Arc<Intake>,
    range: Range<usize>,
}

/// Where portions wait for the tokenizer threads.
pub(crate) struct Desk {
    /// Jobs of one portion.
    whole: Sender<Portion>,
    /// Portions of larger jobs.
    parts: Sender<Portion>,
}

/// A tokenizer thread's side of the [`Desk`].
#[derive(Clone)]
pub(crate) struct Pile {
    whole: Receiver<Portion>,
    parts: Receiver<Portion>,
    /// Portions taken by this thread.
    taken: usize,
}

impl Desk {
    pub(crate) fn new() -> (Self, Pile) {
        let ((whole, whole_pile), (parts, parts_pile)) = (unbounded(), unbounded());
        (Self { whole, parts }, Pile { whole: whole_pile, parts: parts_pile, taken: 0 })
    }

    /// Hands a job in, or tokenizes a small one here and now.
    pub(crate) fn put(&self, shared: &Shared, work: Arc<Work>, wish: Wish) {
        if wish.is_small() {
            return Intake::split(work, wish).into_iter().for_each(|portion| portion.run(shared));
        }
        self.pile_up(work, wish);
    }

    fn pile_up(&self, work: Arc<Work>, wish: Wish) {
        let portions = Intake::split(work, wish);
        let pile = if portions.len() > 1 { &self.parts } else { &self.whole };
        for portion in portions {
            // The threads only end when this side is gone.
            let _ = pile.send(portion);
        }
    }
}

impl Pile {
    /// Waits for the next portion; `None` when the desk is gone and nothing is left.
    fn next(&mut self) -> Option<Portion> {
        self.taken += 1;
        if self.taken.is_multiple_of(TURNS)
            && let Ok(portion) = self.parts.try_recv()
        {
            return Some(portion);
        }
        select_biased! {
            recv(self.whole) -> portion => portion.or_else(|_| self.parts.recv()).ok(),
            recv(self.parts) -> portion => portion.or_else(|_| self.whole.recv()).ok(),
        }
    }
}

/// A finished portion: where it starts, and its inputs or the first error among them.
type Done = (usize, Result<Tokenized, EmbedError>);

/// The inputs of a portion after tokenizing.
#[derive(Default)]
struct Tokenized {
    /// The ids of all sequences, one after the other.
    ids: Vec<u32>,
    tokens: Tokens,
}

impl Intake {
    /// Cuts a job into portions.
    fn split(work: Arc<Work>, wish: Wish) -> Vec<Portion> {
        let count = wish.inputs.len();
        let portions = count.div_ceil(PORTION);
        let (done, left) = (Mutex::new(Vec::with_capacity(portions)), AtomicUsize::new(portions));
        let intake = Arc::new(Self { work, wish, done, left });
        (0..count)
            .step_by(PORTION)
            .map(|start| Portion { intake: Arc::clone(&intake), range: start..count.min(start + PORTION) })
            .collect()
    }
}

/// Body of a tokenizer thread: works until the desk is gone.
pub(crate) fn run(shared: &Shared, mut pile: Pile) {
    while let Some(portion) = pile.next() {
        portion.run(shared);
    }
}

thread_local! {
    /// A text's tokens before they are cut and framed; kept from text to text.
    static SCRATCH: RefCell<Vec<PipelineToken>> = const { RefCell::new(Vec::new()) };
}

impl Portion {
    /// Tokenizes it; if it is the last of its job, decides on that.
    fn run(self, shared: &Shared) {
        let Self { intake, range } = self;
        if intake.work.is_over() {
            return;
        }
        let start = range.start;
        let bytes = intake.wish.inputs[range.clone()].iter().map(Input::text_bytes).sum();
        let result = SCRATCH.with_borrow_mut(|scratch| {
            let mut index = start;
            let tokenize = AssertUnwindSafe(|| tokenize(shared, &intake, range, &mut index, scratch));
            let started = Instant::now();
            let result = catch_unwind(tokenize);
            let panicked = |_| Err(EmbedError::Tokenizer { index, reason: "it panicked".to_owned() });
            let result = result.unwrap_or_else(panicked);
            shared.admission.observe_tokenizer(bytes, started.elapsed());
            scratch.clear();
            scratch.shrink_to(MOST_SCRATCH);
            result
        });
        intake.done.lock().unwrap_or_else(PoisonError::into_inner).push((start, result));
        if intake.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            finish(shared, &intake);
        }
    }
}

/// Tokenizes the inputs in `range`. `at` is the current input, so that the caller knows it after a panic.
fn tokenize(
    shared: &Shared,
    intake: &Intake,
    range: Range<usize>,
    at: &mut usize,
    scratch: &mut Vec<PipelineToken>,
) -> Result<Tokenized, EmbedError> {
    let mut tokenized = Tokenized::default();
    let tokenizer = &shared.config.tokenizer;
    for index in range {
        *at = index;
        if intake.work.is_over() {
            break;
        }
        let content = match &intake.wish.inputs[index] {
            Input::Text(text) => {
                let failed = |reason| EmbedError::Tokenizer { index, reason };
                tokenizer.encode_into(text, scratch).map_err(failed)?;
                let ids = PipelineToken::cast_slice(scratch);
                if let Some((id, token)) = tokenizer.first_without_embedding(ids) {
                    return Err(EmbedError::NoEmbedding { index, id, token: token.to_owned() });
                }
                ids
            }
            Input::Tokens(ids) => {
                if let Some(&id) = ids.iter().find(|&&id| !tokenizer.is_valid_id(id)) {
                    return Err(EmbedError::UnknownToken { index, id });
                }
                ids
            }
        };
        tokenized.add(shared, content, &intake.wish, index)?;
    }
    Ok(tokenized)
}

impl Tokenized {
    /// Cuts an input to the window and puts the special tokens around it.
    fn add(
        &mut self,
        shared: &Shared,
        content: &[u32],
        &Wish { truncation, window, .. }: &Wish,
        index: usize,
    ) -> Result<(), EmbedError> {
        let specials = shared.config.tokenizer.num_special_tokens();
        let room = window - specials;
        let fits = content.len() <= room;
        if !fits && truncation == TruncationPolicy::Error {
            return Err(EmbedError::InputTooLong {
                index,
                tokens: content.len() + specials,
                max_input_tokens: window,
            });
        }
        let first = self.ids.len();
        if fits || truncation == TruncationPolicy::Truncate {
            self.frame(shared, &content[..content.len().min(room)], index);
            self.tokens.truncated += usize::from(!fits);
        } else {
            for part in content.chunks(room) {
                self.frame(shared, part, index);
            }
        }
        self.tokens.lengths.push((self.ids.len() - first) as u32);
        Ok(())
    }

    fn frame(&mut self, shared: &Shared, part: &[u32], index: usize) {
        let first = self.ids.len();
        shared.config.tokenizer.add_special_tokens(part, &mut self.ids);
        let tokens = (self.ids.len() - first) as u32;
        let sequence = Sequence { input: index as u32, tokens, weight: part.len() as u32 };
        self.tokens.sequences.push(sequence);
    }

    /// Appends the portion that comes after this one.
    fn append(&mut self, next: Self) {
        if self.tokens.lengths.is_empty() {
            *self = next;
            return;
        }
        self.ids.extend(next.ids);
        self.tokens.sequences.extend(next.tokens.sequences);
        self.tokens.lengths.extend(next.tokens.lengths);
        self.tokens.truncated += next.tokens.truncated;
    }
}

/// Called when all portions are tokenized: fails the job as a whole, or answers what is cached or in flight and queues
/// the rest.
fn finish(shared: &Shared, intake: &Intake) {
    let mut done = std::mem::take(&mut *intake.done.lock().unwrap_or_else(PoisonError::into_inner));
    done.sort_by_key(|&(start, _)| start);
    let (work, wish) = (&intake.work, &intake.wish);
    let mut job = Tokenized::default();
    for (_, result) in done {
        match result {
            Ok(portion) => job.append(portion),
            // The first error in input order, so that the answer does not depend on the threads' timing.
            Err(error) => return work.fail(error),
        }
    }
    if work.is_over() {
        return;
    }
    let Tokenized { ids, tokens } = job;
    if ids.len() > wish.max_tokens {
        return work.fail(EmbedError::TooManyTokens { tokens: ids.len(), limit: wish.max_tokens });
    }
    if wish.purpose == Purpose::Serve {
        shared.observer.tokenized(&tokens.lengths, tokens.truncated, work.submitted.elapsed());
    }
    let lengths: Vec<u32> = tokens.sequences.iter().map(|sequence| sequence.tokens).collect();
    work.tokenized(tokens, shared.config.shape());
    let mut rest = ids.as_slice();
    let sequences = lengths.into_iter().map(|length| {
        let (sequence, tail) = rest.split_at(length as usize);
        rest = tail;
        sequence
    });
    // One without tokens has its vector already.
    let sequences = sequences.enumerate().filter(|(_, ids)| !ids.is_empty());
    match wish.purpose {
        Purpose::Serve => serve(shared, work, &sequences.collect::<Vec<_>>()),
        Purpose::Check => {
            let items =
                sequences.map(|(position, ids)| Item::new(ids.into(), work, position, true)).collect();
            shared.enqueue(Arc::clone(work), items);
        }
    }
}

/// Answers what is known, joins what is in flight, and sends the rest on: to the second tier where there is one,
/// else into the queue.
fn serve(shared: &Shared, work: &Arc<Work>, sequences: &[(usize, &[u32])]) {
    let mut joined = Joined::default();
    for part in sequences.chunks(LOOKED_UP_AT_ONCE) {
        shared.flights.join(part.iter().copied(), work, shared.memory.as_ref(), &mut joined);
    }
    let Joined { hits, items, new, shared: deduplicated, running } = joined;
    // What the second tier does not hold either is only known when it has answered.
    let misses = if shared.errands.is_none() && shared.memory.is_some() { new } else { 0 };
    shared.observer.cache(&CacheReport { hits: hits.len(), remote_hits: 0, misses, deduplicated });
    if running && let Some(waited) = work.start(Instant::now()) {
        shared.observer.queue_wait(waited);
    }
    work.complete(hits.iter().map(|(position, vector)| (*position, &**vector)));
    match &shared.errands {
        _ if items.is_empty() => {}
        Some(errands) => errands.find(Arc::clone(work), items),
        None => shared.enqueue(Arc::clone(work), items),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admission::{Admission, Capacity, Estimate};

    /// Lengths of the portions in the order in which one thread takes them, of jobs with so many inputs each.
    fn order(jobs: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let (desk, mut pile) = Desk::new();
        let admission =
            Admission::new(Capacity { tokens: 1 << 20, quantum: 1 << 20, workers: 1, tokenizer_threads: 1 });
        let estimate = Estimate { tokens: 1, footprint: 1, bytes: 0 };
        for inputs in jobs {
            let deadline = Instant::now() + Duration::from_secs(60);
            let (work, _) = Work::new(None, deadline, admission.reserve(None, estimate, deadline).unwrap());
            let inputs = vec![Input::Tokens(vec![1]); inputs];
            let (truncation, purpose) = (TruncationPolicy::Error, Purpose::Serve);
            let wish = Wish { inputs, truncation, window: 1, max_tokens: 1, purpose };
            desk.pile_up(work, wish);
        }
        drop(desk);
        std::iter::from_fn(|| pile.next()).map(|portion| portion.range.len()).collect()
    }

    #[test]
    fn what_is_one_portion_does_not_wait_behind_a_large_job() {
        assert_eq!(order([PORTION * 3, 1, 2]), [1, 2, PORTION, PORTION, PORTION]);
    }

    #[test]
    fn a_large_job_goes_on_however_many_small_ones_come() {
        let order = order([PORTION * 2].into_iter().chain([1; 100]));
        let large: Vec<usize> = (0..order.len()).filter(|&turn| order[turn] == PORTION).collect();
        assert_eq!(large, [TURNS - 1, 2 * TURNS - 1]);
    }
}
