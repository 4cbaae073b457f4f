//! Upper bounds of all settings that are numbers. Above them the program could not start, or arithmetic would overflow.
//!
//! A key that has no bound of its own has the bound of its type.

use std::time::Duration;

use super::value::Bytes;

/// actix's listener keeps one bit for each of its threads, in four words of 128 bits.
pub(super) const MAX_HTTP_WORKERS: usize = 512;

/// Threads of one model: more than any processor has today, and few enough to be started.
pub(super) const MAX_THREADS: usize = 1024;

/// Tokens of one batch: its activations alone take gigabytes.
const MAX_BATCH_TOKENS: usize = 1 << 20;

/// Dimensions of a vector, as `dimensions` and `matryoshka_dimensions` count them.
const MAX_DIMENSIONS: usize = 1 << 16;

/// Counts without a bound of their own. Exact in a `f64`, in Redis and when some of them are multiplied.
const MAX_COUNT: usize = 1_000_000_000;

/// Sizes without a bound of their own: 1 TiB.
pub(super) const MAX_BYTES: Bytes = Bytes(1 << 40);

/// Times without a bound of their own: 365 days, which can be added to any point in time.
pub(super) const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The largest count for the key whose flag has clap's id `arg`.
pub(super) fn max_count(arg: &str) -> usize {
    match arg {
        "http_workers" => MAX_HTTP_WORKERS,
        "threads" => MAX_THREADS,
        // Each holds a copy of the weights.
        "onnx_sessions" => 256,
        "max_connections" => 1_000_000,
        "max_inputs" | "max_batch_inputs" => openai_schema::MAX_INPUTS,
        "max_request_tokens" => openai_schema::MAX_TOKENS,
        "max_body_bytes" => 1 << 30,
        "max_batch_tokens" | "max_input_tokens" => MAX_BATCH_TOKENS,
        "matryoshka_dimensions" => MAX_DIMENSIONS,
        _ => MAX_COUNT,
    }
}
