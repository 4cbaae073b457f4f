//! Import of Hugging Face model folders, without Python, a runtime or the network.
//!
//! [`ModelFolder::open`] reads a folder in the layout of sentence-transformers: architecture, tokenizer, maximum input
//! length, pooling, dense layers, norms. A setting that would change a vector and is not supported is an error,
//! and so is a missing one: nothing is guessed. A [`ModelManifest`] (`model.toml`) can state what a plain transformers
//! folder does not.
//!
//! [`import`](import()) makes sure that the folder has a graph for ONNX Runtime:
//!
//! ```text
//! model.safetensors ─ safetensors ─┐
//! pytorch_model.bin ─ pytorch_bin ─┴─▶ weights (mapped, as f32) ─┐
//!                                                                ├─▶ encoder_graph ─▶ embedgate.onnx
//! config.json ─ family/* ─ specification ────────────────────────┘                    embedgate.onnx.data
//! model.onnx, onnx/model.onnx ─▶ onnx_file, ready_made: inspected, used unchanged
//! ```
//!
//! * A graph is written under temporary names and renamed; a failure leaves the folder unchanged.
//! * It carries the digest of the files it was exported from, and is exported again only if they change.
//! * The weights have a file of their own, each at a page boundary, so that the runtime can map it.
//!
//! Kernels that compute the network without a graph read specification and tensors from [`ModelFolder::encoder`]. Both
//! use [`fingerprint`](fingerprint()). An [`AccuracyRecord`] remembers what was measured about their vectors.
//!
//! A new family is one file in `family` and one line in its list.
//!
//! This crate must not depend on ONNX Runtime, HTTP, OpenAI's schema, or the way in which files are downloaded.
#![deny(missing_docs)]

mod accuracy;
mod atomic_write;
mod cross_encoder;
mod digest;
mod dynamic_quantization;
mod encoder;
mod encoder_graph;
mod error;
mod family;
mod file;
mod fingerprint;
mod float_type;
mod folder;
mod graph;
mod graph_builder;
mod head;
mod import;
mod json;
mod list;
mod manifest;
mod mapped;
mod memory;
mod onnx;
mod onnx_file;
mod pickle;
mod pipeline;
mod progress;
mod pytorch_bin;
mod ready_made;
mod safetensors;
mod stored_tensor;
#[cfg(test)]
mod tests;
mod weights;
mod wordpiece;

pub use accuracy::{AccuracyMeasure, AccuracyRecord};
pub use encoder::{EncoderWeights, TokenEmbeddings, WeightEntry, weight_entries};
pub use encoder_spec::{DenseActivation, DenseLayer, HeadLayerNorm, HeadModule, HeadSpec, PoolingMode, Task};
pub use error::ImportError;
pub use fingerprint::fingerprint;
pub use folder::ModelFolder;
pub use graph::{Graph, GraphInput, GraphOutput, OutputKind, Precision};
pub use import::import;
pub use list::{ModelEntry, ModelState, list_models};
pub use manifest::{DownloadSource, FileEntry, Golden, ModelManifest};
pub use progress::{ImportProgress, ImportStage};
