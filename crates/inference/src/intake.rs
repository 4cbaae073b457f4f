//! From inputs to sequences: tokenizes a job, off the async threads, and applies the policy for overlong
//! inputs.
//!
//! A large job is cut into portions that the tokenizer threads share; whoever finishes the last portion
//! decides on the whole job and queues it.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crossbeam_channel::Receiver;
use tokenizers::pipeline::PipelineToken;

use crate::{
    EmbedError, Input, Overlong,
    engine::Shared,
    job::{Sequence, Work},
};

/// Inputs in one portion: enough to outweigh a thread's wake-up, few enough to spread 2,048 over many cores.
const PORTION: usize = 64;

/// A job that is being tokenized.
pub(crate) struct Intake {
    pub(crate) work: Arc<Work>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) overlong: Overlong,
    pub(crate) max_tokens: usize,
    done: Mutex<Vec<Done>>,
    left: AtomicUsize,
}

/// One tokenizer thread's share of a job.
pub(crate) struct Portion {
    intake: Arc<Intake>,
    range: Range<usize>,
}

/// A finished portion: where it starts, and its inputs or the first error among them.
type Done = (usize, Result<Vec<Tokenized>, EmbedError>);

/// One input after tokenizing.
struct Tokenized {
    /// What the encoder will read: one sequence, or one for each window.
    windows: Vec<Vec<u32>>,
    /// Whether its end was cut off.
    cut: bool,
}

impl Intake {
    /// Cuts a job into portions.
    pub(crate) fn split(
        work: Arc<Work>,
        inputs: Vec<Input>,
        overlong: Overlong,
        max_tokens: usize,
    ) -> Vec<Portion> {
        let count = inputs.len();
        let portions = count.div_ceil(PORTION);
        let (done, left) = (Mutex::new(Vec::with_capacity(portions)), AtomicUsize::new(portions));
        let intake = Arc::new(Self { work, inputs, overlong, max_tokens, done, left });
        (0..count)
            .step_by(PORTION)
            .map(|start| Portion { intake: Arc::clone(&intake), range: start..count.min(start + PORTION) })
            .collect()
    }
}

/// Body of a tokenizer thread: works until the channel is closed.
pub(crate) fn run(shared: &Shared, portions: &Receiver<Portion>) {
    let mut scratch = Vec::new();
    for Portion { intake, range } in portions {
        if intake.work.is_over() {
            continue;
        }
        let start = range.start;
        let tokenize = AssertUnwindSafe(|| tokenize(shared, &intake, range, &mut scratch));
        let result = catch_unwind(tokenize).unwrap_or(Err(EmbedError::Panicked));
        intake.done.lock().unwrap_or_else(PoisonError::into_inner).push((start, result));
        if intake.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            finish(shared, &intake);
        }
    }
}

fn tokenize(
    shared: &Shared,
    intake: &Intake,
    range: Range<usize>,
    scratch: &mut Vec<PipelineToken>,
) -> Result<Vec<Tokenized>, EmbedError> {
    let mut tokenized = Vec::with_capacity(range.len());
    for index in range {
        if intake.work.is_over() {
            break;
        }
        let content = match &intake.inputs[index] {
            Input::Text(text) => {
                shared.tokenizer.encode_into(text, scratch).map_err(EmbedError::Tokenizer)?;
                PipelineToken::cast_slice(scratch)
            }
            Input::Tokens(ids) => {
                if let Some(&id) = ids.iter().find(|&&id| !shared.tokenizer.knows(id)) {
                    return Err(EmbedError::UnknownToken { index, id });
                }
                ids
            }
        };
        tokenized.push(frame(shared, content, intake.overlong, index)?);
    }
    Ok(tokenized)
}

/// Cuts `content` to the window and puts the special tokens around it.
fn frame(
    shared: &Shared,
    content: &[u32],
    overlong: Overlong,
    index: usize,
) -> Result<Tokenized, EmbedError> {
    let (window, specials) = (shared.config.window, shared.tokenizer.specials());
    let room = window - specials;
    let fits = content.len() <= room;
    if !fits && overlong == Overlong::Error {
        return Err(EmbedError::Overlong { index, tokens: content.len() + specials, window });
    }
    let framed = |part: &[u32]| {
        let mut ids = Vec::new();
        shared.tokenizer.frame(part, &mut ids);
        ids
    };
    if fits || overlong == Overlong::Truncate {
        let windows = vec![framed(&content[..content.len().min(room)])];
        return Ok(Tokenized { windows, cut: !fits });
    }
    Ok(Tokenized { windows: content.chunks(room).map(framed).collect(), cut: false })
}

/// All portions are there: decides on the job as a whole, and queues it.
fn finish(shared: &Shared, intake: &Intake) {
    let mut done = std::mem::take(&mut *intake.done.lock().unwrap_or_else(PoisonError::into_inner));
    done.sort_by_key(|&(start, _)| start);
    // The first error in input order, so that the answer does not depend on the threads' timing.
    let tokenized: Result<Vec<_>, _> = done.into_iter().map(|(_, result)| result).collect();
    let inputs: Vec<Tokenized> = match tokenized {
        Ok(portions) => portions.into_iter().flatten().collect(),
        Err(error) => return intake.work.fail(error),
    };
    if intake.work.is_over() {
        return;
    }
    let lengths: Vec<u32> =
        inputs.iter().map(|input| input.windows.iter().map(|ids| ids.len() as u32).sum()).collect();
    let total = lengths.iter().map(|&length| length as usize).sum();
    if total > intake.max_tokens {
        return intake.work.fail(EmbedError::TooManyTokens { tokens: total, limit: intake.max_tokens });
    }
    let truncated = inputs.iter().filter(|input| input.cut).count();
    let specials = shared.tokenizer.specials() as u32;
    let sequences: Vec<Sequence> = inputs
        .into_iter()
        .enumerate()
        .flat_map(|(input, tokenized)| tokenized.windows.into_iter().map(move |ids| Sequence { ids, input }))
        .collect();
    let weights =
        sequences.iter().map(|sequence| (sequence.input, sequence.ids.len() as u32 - specials)).collect();
    shared.observer.tokenized(&lengths, truncated, intake.work.submitted.elapsed());
    intake.work.tokenized(weights, lengths, truncated, shared.config.dimensions);
    shared.queue.push(Arc::clone(&intake.work), sequences);
}
