//! `embedgate model bench`: how fast this machine computes a model, without server, tokenizer or cache.

use std::{
    io::{self, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use inference::{Batch, EncodeError, Encoder, EncoderFactory, StartError, Tokenizer};
use serde::Serialize;
use serde_json::json;

/// Lengths of a mixed workload: the quantiles 1/64, 3/64, … of a log-normal distribution with median 36 and σ = 0.9,
/// cut at 250.
const MIXED: [usize; 32] = [
    5, 8, 10, 12, 14, 15, 17, 19, 20, 22, 24, 26, 28, 30, 32, 35, 37, 40, 43, 46, 50, 54, 58, 63, 69, 76, 84,
    95, 109, 129, 163, 250,
];

/// Tokens of the lone text: what a sentence has.
const SENTENCE: usize = 14;

/// How the encoders are to be driven.
#[derive(Clone, Copy)]
pub(crate) struct Drive {
    /// Encoders at work at the same time.
    pub(crate) workers: usize,
    /// Tokens of one batch, padding included.
    pub(crate) batch_tokens: usize,
    /// The model's window.
    pub(crate) window: usize,
    /// Time for each workload.
    pub(crate) time: Duration,
}

/// What keeps a benchmark from being run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// An encoder could not be built.
    #[error(transparent)]
    Start(#[from] StartError),
    /// An encoder failed.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The result cannot be printed.
    #[error("cannot write the result to standard output")]
    Print(#[from] io::Error),
}

/// One measurement.
#[derive(Serialize)]
struct Figure {
    id: &'static str,
    texts: usize,
    /// Padding not counted.
    tokens: usize,
    seconds: f64,
    /// Of each text, where they were measured one by one.
    milliseconds: Vec<f64>,
}

/// Runs every workload and prints a line for each: for people, or as JSON for programs. `title` says what runs.
pub(crate) fn run(
    encoders: &EncoderFactory,
    tokenizer: &Tokenizer,
    drive: Drive,
    (title, json): (&str, bool),
    out: &mut dyn Write,
) -> Result<(), BenchError> {
    let mut built: Vec<Box<dyn Encoder>> =
        (0..drive.workers).map(|_| encoders()).collect::<Result<_, _>>()?;
    let ids: Vec<u32> = (1..2_000).filter(|&id| tokenizer.is_valid_id(id)).collect();
    let mut printer = Printer { out, json };
    printer.begin(title)?;
    let short = SENTENCE.min(drive.window);
    printer.figure(&format!("1 text of {short} tokens"), &lone(&mut built, &ids, drive)?)?;
    let long = drive.window.min(256);
    let workloads = [
        ("32x32", "32 texts of 32 tokens".to_owned(), vec![32.min(drive.window); 32]),
        ("8x256", format!("8 texts of {long} tokens"), vec![long; 8]),
        (
            "mixed",
            format!("32 texts of 5 to {long} tokens"),
            MIXED.map(|length| length.min(drive.window)).to_vec(),
        ),
    ];
    for (id, name, lengths) in workloads {
        let figure = throughput(&mut built, &ids, (id, &lengths), drive)?;
        printer.figure(&name, &figure)?;
    }
    printer.end()?;
    Ok(())
}

struct Printer<'o> {
    out: &'o mut dyn Write,
    json: bool,
}

impl Printer<'_> {
    fn begin(&mut self, title: &str) -> io::Result<()> {
        if self.json {
            self.object(&json!({ "ready": true, "note": title }))
        } else {
            writeln!(self.out, "{title}")
        }
    }

    fn figure(&mut self, name: &str, figure: &Figure) -> io::Result<()> {
        if self.json {
            return self.object(&json!(figure));
        }
        let mut times = figure.milliseconds.clone();
        times.sort_unstable_by(f64::total_cmp);
        match times.get(times.len() / 2) {
            Some(median) => writeln!(self.out, "{name:<28}{median:>10.2} ms"),
            None => writeln!(self.out, "{name:<28}{:>10.0} tokens/s", figure.tokens as f64 / figure.seconds),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        if self.json { self.object(&json!({ "over": true })) } else { Ok(()) }
    }

    fn object(&mut self, object: &serde_json::Value) -> io::Result<()> {
        writeln!(self.out, "{object}")
    }
}

/// One short text after the other, with every other core idle.
fn lone(built: &mut [Box<dyn Encoder>], ids: &[u32], drive: Drive) -> Result<Figure, BenchError> {
    let mut batch = Batch::new();
    batch.push(&cycle(ids, 0, SENTENCE.min(drive.window)));
    let (mut milliseconds, start) = (Vec::new(), Instant::now());
    if let Some(encoder) = built.first_mut() {
        let mut out = vec![0.0; encoder.dimensions()];
        while start.elapsed() < drive.time || milliseconds.is_empty() {
            let one = Instant::now();
            encoder.encode(&batch, &mut || drive.workers - 1, &mut out)?;
            milliseconds.push(one.elapsed().as_secs_f64() * 1e3);
        }
    }
    let (texts, seconds) = (milliseconds.len(), start.elapsed().as_secs_f64());
    Ok(Figure { id: "one", texts, tokens: texts * batch.tokens(), seconds, milliseconds })
}

/// Texts of these lengths, over and over, on all workers.
fn throughput(
    built: &mut [Box<dyn Encoder>],
    ids: &[u32],
    (id, lengths): (&'static str, &[usize]),
    drive: Drive,
) -> Result<Figure, BenchError> {
    let pads = built.first().is_some_and(|encoder| encoder.needs_padding());
    let batches = batches(ids, lengths, drive.batch_tokens, pads);
    let (next, texts, tokens) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = Mutex::new(None);
    let start = Instant::now();
    thread::scope(|scope| {
        for encoder in built {
            let (batches, next, texts, tokens, failed) = (&batches, &next, &texts, &tokens, &failed);
            scope.spawn(move || {
                let most = batches.iter().map(Batch::len).max().unwrap_or(0);
                let mut out = vec![0.0; most * encoder.dimensions()];
                while start.elapsed() < drive.time {
                    let batch = &batches[next.fetch_add(1, Ordering::Relaxed) % batches.len()];
                    let values = batch.len() * encoder.dimensions();
                    if let Err(error) = encoder.encode(batch, &mut || 0, &mut out[..values]) {
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        return;
                    }
                    texts.fetch_add(batch.len(), Ordering::Relaxed);
                    tokens.fetch_add(batch.tokens(), Ordering::Relaxed);
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error.into()),
        None => {
            let (texts, tokens) = (texts.into_inner(), tokens.into_inner());
            Ok(Figure { id, texts, tokens, seconds, milliseconds: Vec::new() })
        }
    }
}

/// Texts of the given lengths in batches within the budget, like lengths together.
fn batches(ids: &[u32], lengths: &[usize], budget: usize, pads: bool) -> Vec<Batch> {
    let mut lengths = lengths.to_vec();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let (mut batches, mut batch) = (Vec::new(), Batch::new());
    for (salt, &length) in lengths.iter().enumerate() {
        // Longest first, so padding brings every text of a batch to the first one's length.
        let cost = if pads { batch.max_length() * (batch.len() + 1) } else { batch.tokens() + length };
        if !batch.is_empty() && cost > budget {
            batches.push(std::mem::take(&mut batch));
        }
        batch.push(&cycle(ids, salt * 31, length));
    }
    batches.push(batch);
    batches
}

fn cycle(ids: &[u32], from: usize, length: usize) -> Vec<u32> {
    ids.iter().cycle().skip(from).take(length).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_text_and_keep_the_budget() {
        for pads in [false, true] {
            let batches = batches(&[7, 8, 9], &MIXED, 256, pads);
            let mut lengths: Vec<_> = batches.iter().flat_map(Batch::lengths).copied().collect();
            lengths.sort_unstable();
            assert_eq!(lengths, MIXED);
            for batch in &batches {
                let cost = if pads { batch.max_length() * batch.len() } else { batch.tokens() };
                assert!(cost <= 256, "{cost}");
            }
        }
    }
}
