//! The forward pass of BERT and its relatives on a processor, x86-64 or 64-bit Arm: token ids in, hidden states out,
//! without padding.
//!
//! A [`Model`] holds the weights, packed once for the instruction set that it was made for ([`Isa`]); an
//! [`Encoder`] runs *blocks* of whole sequences through all layers. The same sequence gives the same bits
//! whatever stands beside it in the block, and however many threads share the work.
//!
//! ```text
//! ids, lengths ─▶ Steps (plan: which steps, each of how many tasks) ─▶ ThreadPool (threads take task after task)
//!                                                                        │
//!       embed ▸ { query·key·value ▸ attention ▸ projection ▸ norm ▸ up ▸ down ▸ norm } × layers ─▶ hidden
//! ```
//!
//! * [`mod@reference`] computes the same in plain scalar code, written for reading; every kernel is tested
//!   against it.
//! * `exact` computes in f32, with AVX2, AVX-512 or NEON: the same source, compiled for each, chosen at run time.
//! * `amx` computes in bf16 on AMX, in a layout of its own.
//! * `lanes` is what the kernels of `exact` know of an instruction set: a dozen operations on a vector of f32.
//!
//! Nearly all of the workspace's `unsafe` is here (the rest maps a model's file), for three reasons: intrinsics and,
//! for AMX, assembly, which need a processor that has them (proved by the token types in `lanes` and `amx`);
//! matrices that several threads write at once, each its own part (`matrix`); and aligned memory (`memory`).
//!
//! What this crate must never know: files, tokenizers, ONNX Runtime, HTTP.
// Elsewhere there are no kernels: `Isa::best` finds nothing, and nothing is computed here.
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unused_imports, unused_variables)
)]

#[cfg(target_arch = "x86_64")]
mod amx;
mod buffer;
mod config;
mod encoder;
mod error;
mod exact;
mod isa;
mod lanes;
mod layer;
mod matrix;
mod model;
mod plan;
pub mod reference;
#[cfg(test)]
mod testing;
mod thread_pool;
mod weights;

pub use config::{Activation, BertConfig, Positions};
pub use encoder::Encoder;
pub use error::{EncodeError, ModelError};
pub use isa::{Isa, Precision};
pub use model::{HiddenStates, Model};
pub use thread_pool::ThreadPool;
pub use weights::{LinearId, NormId, TensorId, TokenEmbeddings, WeightSource};
