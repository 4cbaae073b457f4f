//! Errors by phase: starting an engine, submitting a job, embedding it, encoding a batch.
//!
//! Every message says what happened, where, and what to do. Sources are kept for the log.

use std::{path::PathBuf, time::Duration};

use crate::provider::Provider;

/// An engine, or the runtime that it needs, could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The shared library is missing, or the file is not a shared library.
    #[error(
        "cannot load ONNX Runtime from {}: name its shared library in ORT_DYLIB_PATH",
        library.display()
    )]
    Library {
        /// The file that was tried.
        library: PathBuf,
        /// The dynamic loader's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The library is older than the API version that this program was built for.
    #[error(
        "ONNX Runtime at {} is version {found}, but 1.{minimum} or later is needed: \
         name a newer library in ORT_DYLIB_PATH",
        library.display()
    )]
    LibraryTooOld {
        /// The file that was loaded.
        library: PathBuf,
        /// The library's version string.
        found: String,
        /// Minor version of the oldest ONNX Runtime with that API version.
        minimum: u32,
    },
    /// The library lacks the requested execution provider, or its device is absent.
    #[error(
        "execution provider `{provider}` is not available: the ONNX Runtime library must contain it and its \
         device must be present; embedgate never falls back to the CPU silently: set provider = \"cpu\" to use the CPU"
    )]
    Provider {
        /// The requested provider.
        provider: Provider,
        /// ONNX Runtime's error.
        #[source]
        source: ort::Error,
    },
    /// ONNX Runtime rejected the graph or a session option.
    #[error("ONNX Runtime cannot open the graph {}", graph.display())]
    Session {
        /// The ONNX file.
        graph: PathBuf,
        /// ONNX Runtime's error.
        #[source]
        source: ort::Error,
    },
    /// The native kernels cannot be set up.
    #[error("embedgate's native kernels cannot run the model")]
    Kernels(#[source] Box<bert_cpu::ModelError>),
    /// The graph lacks an input or output that the model folder names.
    #[error("the graph {} has no {what} `{name}`; it has: {found}", graph.display())]
    Signature {
        /// The ONNX file.
        graph: PathBuf,
        /// `input` or `output`.
        what: &'static str,
        /// The missing name.
        name: String,
        /// The names that the graph has.
        found: String,
    },
    /// `tokenizer.json` cannot be read, or holds a component that this version does not support.
    #[error("cannot read the tokenizer {}: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The tokenizer library's message.
        reason: String,
    },
    /// Settings that contradict each other.
    #[error("{0}")]
    Config(String),
    /// The encoder failed in its first run, before any request.
    #[error("the encoder failed in its warm-up run")]
    Warmup(#[source] EncodeError),
    /// The operating system did not start a thread.
    #[error("cannot start a thread of the engine: lower `threads`, or raise the system's limit of tasks")]
    Thread(#[source] std::io::Error),
}

/// A job was rejected before an encoder read any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue has no room for the job.
    #[error("the queue is full; retry in {} s", retry_after.as_secs())]
    Full {
        /// Expected time until there is room, by the present throughput.
        retry_after: Duration,
    },
    /// By the present throughput the job would finish after its deadline.
    #[error("the deadline cannot be met; retry in {} s", retry_after.as_secs())]
    DeadlineUnmeetable {
        /// Expected time until a job with the same time limit can be admitted, by the present throughput.
        retry_after: Duration,
    },
    /// The job does not fit into an empty queue.
    #[error("the job needs {tokens} tokens, but the queue holds at most {limit}")]
    TooLarge {
        /// Tokens that the job needs: its footprint on arrival, or the tokens that it adds to the queue.
        tokens: usize,
        /// Capacity of the queue in tokens.
        limit: usize,
    },
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    Draining,
}

/// An admitted job could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// An input is longer than the model reads, and the job's policy is
    /// [`TruncationPolicy::Error`](crate::TruncationPolicy::Error).
    #[error("input {index} has {tokens} tokens, but the model reads at most {max_input_tokens}")]
    InputTooLong {
        /// Position of the input in the job.
        index: usize,
        /// Its length in tokens, special tokens included.
        tokens: usize,
        /// Maximum number of tokens, special tokens included.
        max_input_tokens: usize,
    },
    /// The queue had no room or no time for the tokens that neither a cache nor another job supplies.
    #[error(transparent)]
    Rejected(#[from] SubmitError),
    /// The job has more tokens than its limit allows.
    #[error("the request has {tokens} tokens, but at most {limit} are allowed")]
    TooManyTokens {
        /// Tokens of the job, special tokens included.
        tokens: usize,
        /// [`Job::max_tokens`](crate::Job::max_tokens).
        limit: usize,
    },
    /// An input is a pair of texts, but the model reads single texts.
    #[error("input {index} is a pair of texts, but the model reads single texts")]
    UnsupportedInput {
        /// Position of the input in the job.
        index: usize,
    },
    /// A token id is not in the model's vocabulary, or has no embedding.
    #[error("input {index} holds token id {id}, which is not in the model's vocabulary or has no embedding")]
    UnknownToken {
        /// Position of the input in the job.
        index: usize,
        /// The id.
        id: u32,
    },
    /// A text holds a token of the tokenizer's vocabulary for which the model has no embedding.
    #[error("input {index} holds the token `{token}` (id {id}), for which the model has no embedding")]
    NoEmbedding {
        /// Position of the input in the job.
        index: usize,
        /// The token's id.
        id: u32,
        /// The token as the vocabulary spells it.
        token: String,
    },
    /// The tokenizer failed on a text of this job.
    #[error("the tokenizer failed on input {index}: {reason}")]
    Tokenizer {
        /// Position of the input in the job.
        index: usize,
        /// The tokenizer library's message.
        reason: String,
    },
    /// The vector of an input holds NaN or an infinity.
    #[error("the vector of input {index} holds NaN or an infinity")]
    NotFinite {
        /// Position of the input in the job.
        index: usize,
    },
    /// The deadline passed while the job waited or ran.
    #[error("the deadline passed; retry in {} s", retry_after.as_secs())]
    DeadlineExceeded {
        /// Expected time until half of the tokens in flight are computed.
        retry_after: Duration,
    },
    /// The encoder failed twice on an input, the second time in a batch of its own, and then computed another text.
    #[error("the encoder failed on input {index}, but not on other texts")]
    Unencodable {
        /// Position of the input in the job.
        index: usize,
        /// The encoder's error.
        #[source]
        source: std::sync::Arc<EncodeError>,
    },
    /// The encoder failed twice on an input, the second time in a batch of its own, and then on the probe, a short text
    /// that every model can read.
    #[error("the encoder failed")]
    Encoder(#[source] std::sync::Arc<EncodeError>),
    /// The encoder panicked on a batch that held part of this job. Jobs in other batches are not affected.
    #[error("the encoder panicked")]
    Panicked,
    /// The engine was stopped before the job finished.
    #[error("the engine was stopped")]
    Stopped,
}

/// A batch could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// ONNX Runtime failed.
    #[error("ONNX Runtime failed to run the graph")]
    Runtime(#[from] ort::Error),
    /// The graph's output does not have the shape that the model folder states.
    #[error("the graph's output has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Shape of the output.
        found: Vec<i64>,
        /// Shape that the model folder states.
        expected: Vec<i64>,
    },
    /// Any other error of an encoder.
    #[error("{0}")]
    Other(String),
}
