//! Texts in, vectors out: the engine behind embedgate, without a word of HTTP or of any wire format.
//!
//! An [`Engine`] serves one model. A caller [submits](Engine::submit) a [`Job`] of texts and gets a
//! [`Ticket`], a future that yields [`Embeddings`] in the caller's order; dropping the ticket gives the
//! place in the queue back. Inside:
//!
//! ```text
//! submit ─ admission ─▶ tokenizer threads ─ flights, cache ─ admission ─▶ queue ─▶ worker threads ─▶ ticket
//!          (footprint)                                       (tokens)      │       │
//!                                                             batch::plan ─┘       └─ Encoder, owned by value
//! ```
//!
//! * Between tokenizer and encoder everything is *ragged*: ids in one run plus lengths ([`Batch`]). Padding
//!   is the private business of an encoder that needs it.
//! * The [`Encoder`] trait is the seam: the ONNX Runtime encoder ([`onnx_encoders`]) stands behind it, and
//!   so does the deterministic fake with which everything above is tested without a library.
//! * Nothing is computed twice: equal sequences in flight are one item with many subscribers (`flights`), and a
//!   cache keeps vectors by their ids; behind it may stand a [`RemoteCache`] that processes share.
//! * Metrics stay outside: an [`Observer`] is told what happened.
//!
//! What this crate must never know: HTTP, OpenAI's schema, where a model's files came from.
#![deny(missing_docs)]

mod admission;
mod batch;
mod cache;
mod credit;
mod encoder;
mod engine;
mod error;
mod flights;
mod fused;
mod golden;
mod intake;
mod item;
mod job;
mod lookup;
mod observer;
mod onnx;
mod pooling;
mod provider;
mod queue;
mod shape;
mod throughput;
mod tier;
mod tokenize;
mod unicode;
mod vocabulary;
mod worker;

pub use admission::CallerId;
pub use cache::CacheConfig;
pub use encoder::{Batch, EncodeError, Encoder, EncoderFactory};
pub use engine::{Engine, EngineConfig, EngineStats};
pub use error::{EmbedError, StartError, SubmitError};
pub use fused::native_encoders;
pub use golden::{GoldenError, GoldenReport, GoldenText};
pub use job::{Embeddings, Input, Job, Ticket, Timings, TruncationPolicy};
pub use observer::{BatchReport, CacheReport, Observer};
pub use onnx::{OnnxConfig, OnnxInput, OnnxOutput, OnnxRuntime, onnx_encoders};
pub use pooling::{Activation, Dense, Head, Pooling, truncate_dimensions};
pub use provider::Provider;
pub use tier::{CacheKey, RemoteCache};
pub use tokenize::{Tokenizer, TokenizerOptions};
