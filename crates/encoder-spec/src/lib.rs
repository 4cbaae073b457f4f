//! The specification of a text embedding model: the network from token ids to hidden states, and the head that reduces
//! hidden states to one vector.
//!
//! A specification is plain data. One side makes it: a family's file in `model-import` maps `config.json` to an
//! [`EncoderSpec`], and tensor names to [`TensorId`]s. The other side interprets it: the scalar reference and the
//! native kernels in `bert-cpu`, and the exporter of ONNX graphs in `model-import`. No interpreter knows families, so a
//! new family needs one file, and a new mechanism needs a field here and one place in each interpreter.
//!
//! ```text
//! config.json ─▶ family ─▶ EncoderSpec ─┬─▶ bert-cpu: reference (f64), fp32, amx
//!                                       └─▶ model-import: ONNX graph
//! ```
//!
//! This crate has no dependencies.

mod activation;
mod attention;
mod encoder;
mod head;
mod norm;
mod task;
mod tensor;
mod validate;

pub use activation::Activation;
pub use attention::{AttentionSpec, Disentangled, RelativeBias, Rope, ScoreBias, Span};
pub use encoder::{EmbeddingSpec, EncoderSpec, FeedForwardSpec, LayerSpec, PositionIds, PositionTable};
pub use head::{DenseActivation, DenseLayer, HeadLayerNorm, HeadModule, HeadSpec, PoolingMode};
pub use norm::{NormKind, NormPlacement, NormSpec};
pub use task::Task;
pub use tensor::{LayerNormId, LinearId, NormId, Part, TensorId};
pub use validate::{InvalidSpec, MAX_SIZE};
