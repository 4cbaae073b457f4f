//! The inference engine of embedgate: texts in, vectors out.
//!
//! An [`Engine`] serves one model. A caller [submits](Engine::submit) a [`Job`] of texts and gets a [`Ticket`], a
//! future that yields [`Embeddings`] in the caller's order. Dropping the ticket cancels the job.
//!
//! ```text
//! submit ─ admission ─▶ tokenization ─ in flight, caches ─ admission ─▶ scheduler ─▶ worker threads ─▶ ticket
//!          (footprint)                                     (tokens)                  │
//!                                                                                    └─ Encoder, owned by value
//! ```
//!
//! * Between tokenizer and encoder everything is ragged: ids in one array, plus lengths ([`Batch`]). An encoder that
//!   needs padding adds it itself.
//! * [`Encoder`] is the interface of the backends: the native kernels ([`native_encoders`]), ONNX Runtime
//!   ([`onnx_encoders`]), and in tests a deterministic fake.
//! * Equal sequences in flight are computed once (single-flight), and a cache keeps vectors by their tokens. A
//!   [`RemoteCache`] can share them between processes.
//! * An [`Observer`] receives measurements for metrics.
//!
//! Modules depend on each other in this order: `engine` → `worker`, `tokenization` → `context` → `scheduler` →
//! `cache` → `job` → `admission` → `error`. The crate knows nothing of HTTP, of OpenAI's schema, or of where a
//! model's files come from.
#![deny(missing_docs)]

mod admission;
mod backends;
mod cache;
mod context;
mod encoder;
mod engine;
mod error;
mod golden;
mod job;
mod observer;
mod pooling;
mod prompt;
mod provider;
mod scheduler;
mod tokenization;
mod tokenizer;
mod worker;

pub use admission::CallerId;
pub use backends::{
    native::native_encoders,
    onnx::{OnnxConfig, OnnxInput, OnnxOutput, OnnxRuntime, onnx_encoders},
};
pub use cache::{
    CacheConfig,
    remote::{CacheKey, RemoteCache},
};
pub use context::EngineConfig;
pub use encoder::{Batch, Encoder, EncoderFactory};
pub use engine::{Engine, EngineStats};
pub use error::{EmbedError, EncodeError, StartError, SubmitError};
pub use golden::{GoldenError, GoldenReport, GoldenText};
pub use job::{Embeddings, Input, Job, Ticket, Timings, TruncationPolicy};
pub use observer::{BatchReport, CacheReport, Observer};
pub use pooling::{activate, cosine, truncate_dimensions};
pub use prompt::Prompt;
pub use provider::Provider;
pub use tokenizer::{TextToken, Tokenizer, TokenizerOptions, truncate_pair};
