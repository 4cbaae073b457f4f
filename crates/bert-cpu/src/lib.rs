//! The forward pass of transformer encoders on x86-64 and 64-bit Arm CPUs: token ids in, hidden states out, without
//! padding.
//!
//! A [`Model`] holds the weights, packed once for one instruction set ([`Isa`]). An [`Encoder`] runs ragged batches of
//! whole sequences through all layers. The result for a sequence is bit-identical whatever the other sequences of the
//! batch, and however many threads take part.
//!
//! ```text
//! ids, lengths ─▶ TaskPlan (steps, each split into tasks) ─▶ ThreadPool (threads draw task after task)
//!                                                              │
//!   embed ▸ { qkv ▸ attention ▸ attention output ▸ norms ▸ ffn up ▸ ffn down ▸ norms } × layers ─▶ hidden states
//! ```
//!
//! * An [`EncoderSpec`](encoder_spec::EncoderSpec) describes the network: norms, positions, attention, feed-forward.
//! * [`mod@reference`] computes the same in scalar f64 code; every kernel is tested against it.
//! * `fp32` has the f32 kernels, written once over `simd` and compiled for AVX2, AVX-512 and NEON, and the network.
//! * `rounded` has that network's products of linear layers in int8 and bf16; `maxima` has the calibration of int8.
//! * `amx` has the bf16 kernels for AMX, with their own memory layout.
//! * `network` is the interface that both implement; `model` chooses the implementation.
//!
//! Nearly all of the workspace's `unsafe` is here (the rest maps a model's file), for three reasons: intrinsics, and
//! assembly for AMX, which require a CPU that has them (proved by the token types in `simd` and `amx`); matrices of
//! which several threads write disjoint parts (`matrix`); and aligned memory (`buffer`).
//!
//! This crate does not know files, tokenizers, ONNX Runtime or HTTP.
// Other architectures have no kernels: `Isa::best` returns `None`.
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unused_imports, unused_variables)
)]

#[cfg(target_arch = "x86_64")]
mod amx;
mod batch;
mod buffer;
mod config;
mod encoder;
mod error;
mod fp32;
mod head_layout;
mod isa;
mod layer;
mod linear_input;
mod matrix;
mod maxima;
mod model;
mod network;
mod pass;
mod plan;
mod positions;
pub mod reference;
mod rounded;
mod simd;
#[cfg(test)]
mod testing;
mod thread_pool;
mod weights;

pub use config::EncoderConfig;
pub use encoder::Encoder;
pub use error::{EncodeError, ModelError};
pub use isa::{Isa, Precision};
pub use layer::ModelInputs;
pub use maxima::ActivationMaxima;
pub use model::{Model, is_bf16_faster, unsupported};
pub use network::HiddenStates;
pub use thread_pool::ThreadPool;
pub use weights::{TokenEmbeddings, WeightSource};
