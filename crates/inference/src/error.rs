//! What can go wrong, by phase: starting an engine, submitting a job, embedding it.
//!
//! Every message says what happened, where, and what to do; sources are kept for the log.

use std::{path::PathBuf, time::Duration};

use crate::{EncodeError, Provider};

/// An engine, or the runtime beneath it, could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The shared library is not where it was looked for, or is no library.
    #[error(
        "cannot load ONNX Runtime from {}: name its shared library in ORT_DYLIB_PATH",
        library.display()
    )]
    Library {
        /// The file that was tried.
        library: PathBuf,
        /// What the dynamic loader said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The library loads, but is older than the interface this program was built for.
    #[error(
        "ONNX Runtime at {} is version {found}, but 1.{minimum} or later is needed: \
         name a newer library in ORT_DYLIB_PATH",
        library.display()
    )]
    LibraryTooOld {
        /// The file that was loaded.
        library: PathBuf,
        /// Its own version string.
        found: String,
        /// Minor version of the oldest ONNX Runtime that has the interface.
        minimum: u32,
    },
    /// The execution provider asked for is not in this library, or its device is absent.
    #[error(
        "execution provider `{provider}` is not available: the ONNX Runtime library must contain it and the \
         device must be present; there is no silent fall-back to the CPU, so set provider = \"cpu\" to use that"
    )]
    Provider {
        /// The provider asked for.
        provider: Provider,
        /// What ONNX Runtime said.
        #[source]
        source: ort::Error,
    },
    /// ONNX Runtime refused the graph, or a session option.
    #[error("ONNX Runtime cannot open the graph {}", graph.display())]
    Session {
        /// The ONNX file.
        graph: PathBuf,
        /// What ONNX Runtime said.
        #[source]
        source: ort::Error,
    },
    /// embedgate's own kernels cannot be set up.
    #[error("embedgate's own kernels cannot run the model")]
    Kernels(#[source] Box<bert_cpu::ModelError>),
    /// The graph lacks an input or output that the model folder promised.
    #[error("the graph {} has no {what} `{name}`; it has: {found}", graph.display())]
    Signature {
        /// The ONNX file.
        graph: PathBuf,
        /// `input` or `output`.
        what: &'static str,
        /// The name that is missing.
        name: String,
        /// The names that are there.
        found: String,
    },
    /// `tokenizer.json` cannot be read or holds something that this version does not know.
    #[error("cannot read the tokenizer {}: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library said.
        reason: String,
    },
    /// Settings that contradict each other.
    #[error("{0}")]
    Config(String),
    /// The first run through the encoder, before any request, failed.
    #[error("the encoder failed in its warm-up run")]
    Warmup(#[source] EncodeError),
    /// The operating system refused a thread.
    #[error("cannot start a thread of the engine: lower `threads`, or raise the system's limit of tasks")]
    Thread(#[source] std::io::Error),
}

/// A job was refused before an encoder saw any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue holds as many tokens as it may.
    #[error("the queue is full; retry in {} s", retry_after.as_secs())]
    Full {
        /// When there should be room, by the present pace.
        retry_after: Duration,
    },
    /// By the present pace the job would end after its deadline.
    #[error("the deadline cannot be met; retry in {} s", retry_after.as_secs())]
    DeadlineUnmeetable {
        /// When it could be met, by the present pace.
        retry_after: Duration,
    },
    /// The job would not fit even into an empty queue.
    #[error("the job needs up to {tokens} tokens, but the queue holds at most {limit}")]
    TooLarge {
        /// Upper estimate of the job's tokens.
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
    /// A text is longer than the window and the job asked for an error in that case.
    #[error("input {index} has {tokens} tokens, but the model reads at most {max_input_tokens}")]
    InputTooLong {
        /// Position of the input in the job.
        index: usize,
        /// Its length in tokens, special tokens included.
        tokens: usize,
        /// The model's window in tokens, special tokens included.
        max_input_tokens: usize,
    },
    /// The queue had no room, or no time, for the tokens that neither a cache nor another job supplies.
    #[error(transparent)]
    Rejected(#[from] SubmitError),
    /// The whole job has more tokens than it may.
    #[error("the request has {tokens} tokens, but at most {limit} are allowed")]
    TooManyTokens {
        /// Tokens that the model would have read.
        tokens: usize,
        /// [`Job::max_tokens`](crate::Job::max_tokens).
        limit: usize,
    },
    /// A native token id is not in the model's vocabulary, or has no embedding.
    #[error("input {index} holds token id {id}, which is not in the model's vocabulary or has no embedding")]
    UnknownToken {
        /// Position of the input in the job.
        index: usize,
        /// The id.
        id: u32,
    },
    /// A text holds a token that the tokenizer knows and the model has no embedding for.
    #[error("input {index} holds the token `{token}` (id {id}), for which the model has no embedding")]
    NoEmbedding {
        /// Position of the input in the job.
        index: usize,
        /// The token's id.
        id: u32,
        /// The token, as the vocabulary spells it.
        token: String,
    },
    /// The tokenizer cannot read a text of this job.
    #[error("the tokenizer failed on input {index}: {reason}")]
    Tokenizer {
        /// Position of the input in the job.
        index: usize,
        /// The tokenizer library's message.
        reason: String,
    },
    /// A text's vector holds NaN or an infinity.
    #[error("the vector of input {index} holds a value that is not finite")]
    NotFinite {
        /// Position of the input in the job.
        index: usize,
    },
    /// The deadline passed while the job waited or ran.
    #[error("the deadline passed; retry in {} s", retry_after.as_secs())]
    DeadlineExceeded {
        /// When it could be met, by the present pace.
        retry_after: Duration,
    },
    /// The encoder failed twice on a text, the second time on it alone, and then computed another text.
    #[error("the encoder failed on input {index}, but not on other texts")]
    Unencodable {
        /// Position of the input in the job.
        index: usize,
        /// The encoder's error.
        #[source]
        source: std::sync::Arc<EncodeError>,
    },
    /// The encoder failed twice on a text, the second time on it alone, and then on a short text that every model can
    /// read.
    #[error("the encoder failed")]
    Encoder(#[source] std::sync::Arc<EncodeError>),
    /// The encoder panicked on a batch that held part of this job; jobs in other batches are not affected.
    #[error("embedding panicked")]
    Panicked,
    /// The engine was stopped before the job was done.
    #[error("the engine was stopped")]
    Stopped,
}
