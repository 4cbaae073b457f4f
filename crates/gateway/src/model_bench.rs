//! `embedgate model bench`: throughput and latency of a model on this machine, without server, tokenizer and cache.

use std::{
    io::{self, Write},
    panic::resume_unwind,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use inference::{Batch, EncodeError, Encoder, EncoderFactory, StartError, Tokenizer};
use serde::Serialize;
use serde_json::json;

/// Input lengths of the mixed workload: the quantiles 1/64, 3/64, … of a log-normal distribution with median 36 and
/// σ = 0.9, limited to 250.
const MIXED_LENGTHS: [usize; 32] = [
    5, 8, 10, 12, 14, 15, 17, 19, 20, 22, 24, 26, 28, 30, 32, 35, 37, 40, 43, 46, 50, 54, 58, 63, 69, 76, 84,
    95, 109, 129, 163, 250,
];

/// Tokens of the input whose latency is measured: a sentence.
const SENTENCE_TOKENS: usize = 14;

/// Parameters of a benchmark.
#[derive(Clone, Copy)]
pub(crate) struct BenchParams {
    /// Number of encoders that run in parallel.
    pub(crate) workers: usize,
    /// Maximum number of tokens of one batch, including padding.
    pub(crate) batch_tokens: usize,
    /// Maximum number of tokens of one input.
    pub(crate) max_input_tokens: usize,
    /// Duration of each workload.
    pub(crate) duration: Duration,
}

/// A failure to run a benchmark.
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

/// Result of one workload.
#[derive(Serialize)]
struct Measurement {
    id: &'static str,
    texts: usize,
    /// Without padding.
    tokens: usize,
    seconds: f64,
    /// Latency of each input; empty for a throughput workload.
    milliseconds: Vec<f64>,
    /// Vectors of the workload's inputs, longest first; empty for a workload of equal lengths. They show whether two
    /// backends compute the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vectors: Vec<Vec<f32>>,
}

/// Runs every workload and prints a line for each, as text or as JSON. `title` describes the model and its backend.
pub(crate) fn run(
    encoders: &EncoderFactory,
    tokenizer: &Tokenizer,
    params: BenchParams,
    (title, json): (&str, bool),
    out: &mut dyn Write,
) -> Result<(), BenchError> {
    let mut built: Vec<Box<dyn Encoder>> =
        (0..params.workers).map(|_| encoders()).collect::<Result<_, _>>()?;
    let ids: Vec<u32> = (1..2_000).filter(|&id| tokenizer.is_valid_id(id)).collect();
    let mut printer = Printer { out, json };
    printer.begin(title)?;
    let short = SENTENCE_TOKENS.min(params.max_input_tokens);
    printer.measurement(&format!("1 text of {short} tokens"), &latency(&mut built, &ids, params)?)?;
    let long = params.max_input_tokens.min(256);
    let workloads = [
        ("32x32", "32 texts of 32 tokens".to_owned(), vec![32.min(params.max_input_tokens); 32]),
        ("8x256", format!("8 texts of {long} tokens"), vec![long; 8]),
        (
            "mixed",
            format!("32 texts of 5 to {long} tokens"),
            MIXED_LENGTHS.map(|length| length.min(params.max_input_tokens)).to_vec(),
        ),
    ];
    for (id, name, lengths) in workloads {
        printer.measurement(&name, &throughput(&mut built, &ids, (id, &lengths), params)?)?;
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

    fn measurement(&mut self, name: &str, measurement: &Measurement) -> io::Result<()> {
        if self.json {
            return self.object(&json!(measurement));
        }
        let mut times = measurement.milliseconds.clone();
        times.sort_unstable_by(f64::total_cmp);
        match times.get(times.len() / 2) {
            Some(median) => writeln!(self.out, "{name:<28}{median:>10.2} ms"),
            None => {
                let throughput = measurement.tokens as f64 / measurement.seconds;
                writeln!(self.out, "{name:<28}{throughput:>10.0} tokens/s")
            }
        }
    }

    fn end(&mut self) -> io::Result<()> {
        if self.json { self.object(&json!({ "over": true })) } else { Ok(()) }
    }

    fn object(&mut self, object: &serde_json::Value) -> io::Result<()> {
        writeln!(self.out, "{object}")
    }
}

/// Measures the latency of single short inputs, one after the other, while the other cores are idle.
fn latency(
    built: &mut [Box<dyn Encoder>],
    ids: &[u32],
    params: BenchParams,
) -> Result<Measurement, BenchError> {
    let mut batch = Batch::new();
    batch.push(&cycle(ids, 0, SENTENCE_TOKENS.min(params.max_input_tokens)));
    let (mut milliseconds, start) = (Vec::new(), Instant::now());
    if let Some(encoder) = built.first_mut() {
        let mut out = vec![0.0; encoder.dimensions()];
        while start.elapsed() < params.duration || milliseconds.is_empty() {
            let sent = Instant::now();
            encoder.encode(&batch, &mut || params.workers - 1, &mut out)?;
            milliseconds.push(sent.elapsed().as_secs_f64() * 1e3);
        }
    }
    let (texts, seconds) = (milliseconds.len(), start.elapsed().as_secs_f64());
    let tokens = texts * batch.tokens();
    Ok(Measurement { id: "one", texts, tokens, seconds, milliseconds, vectors: Vec::new() })
}

/// Measures the throughput of all workers on inputs of these lengths, repeated for the whole duration.
fn throughput(
    built: &mut [Box<dyn Encoder>],
    ids: &[u32],
    (id, lengths): (&'static str, &[usize]),
    params: BenchParams,
) -> Result<Measurement, BenchError> {
    let pads = built.first().is_some_and(|encoder| encoder.needs_padding());
    let batches = batches(ids, lengths, params.batch_tokens, pads);
    let is_mixed = lengths.iter().any(|&length| length != lengths[0]);
    let vectors = if is_mixed { vectors(built, &batches)? } else { Vec::new() };
    let next = AtomicUsize::new(0);
    let run = |encoder: &mut Box<dyn Encoder>| {
        let max_inputs = batches.iter().map(Batch::len).max().unwrap_or(0);
        let mut out = vec![0.0; max_inputs * encoder.dimensions()];
        let (start, mut texts, mut tokens) = (Instant::now(), 0, 0);
        while start.elapsed() < params.duration {
            let batch = &batches[next.fetch_add(1, Ordering::Relaxed) % batches.len()];
            let values = batch.len() * encoder.dimensions();
            encoder.encode(batch, &mut || 0, &mut out[..values])?;
            texts += batch.len();
            tokens += batch.tokens();
        }
        Ok((texts, tokens, start.elapsed().as_secs_f64()))
    };
    let workers: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = built.iter_mut().map(|encoder| scope.spawn(|| run(encoder))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        threads.into_iter().map(join).collect::<Result<_, EncodeError>>()
    })?;
    let (texts, tokens) = workers.iter().fold((0, 0), |sums, worker| (sums.0 + worker.0, sums.1 + worker.1));
    // The workers' rates are added: the one that ends first must not count as idle, which for a large model would be
    // seconds.
    let rate: f64 = workers.iter().map(|&(_, tokens, seconds)| tokens as f64 / seconds).sum();
    Ok(Measurement { id, texts, tokens, seconds: tokens as f64 / rate, milliseconds: Vec::new(), vectors })
}

/// Computes the vectors of all inputs, in the order of the batches.
fn vectors(built: &mut [Box<dyn Encoder>], batches: &[Batch]) -> Result<Vec<Vec<f32>>, EncodeError> {
    let Some(encoder) = built.first_mut() else { return Ok(Vec::new()) };
    let dimensions = encoder.dimensions();
    let mut vectors = Vec::new();
    for batch in batches {
        let mut out = vec![0.0; batch.len() * dimensions];
        encoder.encode(batch, &mut || 0, &mut out)?;
        vectors.extend(out.chunks_exact(dimensions).map(<[f32]>::to_vec));
    }
    Ok(vectors)
}

/// Packs inputs of these lengths into batches of at most `budget` tokens, similar lengths together.
fn batches(ids: &[u32], lengths: &[usize], budget: usize, pads: bool) -> Vec<Batch> {
    let mut lengths = lengths.to_vec();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let (mut batches, mut batch) = (Vec::new(), Batch::new());
    for (salt, &length) in lengths.iter().enumerate() {
        // Longest first, so every input of a batch is padded to the length of the first.
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
    fn batches_have_every_input_and_stay_within_the_budget() {
        for pads in [false, true] {
            let batches = batches(&[7, 8, 9], &MIXED_LENGTHS, 256, pads);
            let mut lengths: Vec<_> = batches.iter().flat_map(Batch::lengths).copied().collect();
            lengths.sort_unstable();
            assert_eq!(lengths, MIXED_LENGTHS);
            for batch in &batches {
                let cost = if pads { batch.max_length() * batch.len() } else { batch.tokens() };
                assert!(cost <= 256, "{cost}");
            }
        }
    }
}
