//! A Hugging Face model folder in, an ONNX graph laid out for speed out; no Python, no runtime, no network.
//!
//! [`ModelFolder::open`] reads what the folder says about itself, in the layout of sentence-transformers:
//! architecture, tokenizer, window, pooling, dense layers, normalisation. What would change a vector and is not
//! understood is an error, and so is what is not said: nothing is guessed. A [`ModelManifest`] (`model.toml`) may state
//! what a plain transformers folder does not.
//!
//! [`import`] then makes sure that there is a graph:
//!
//! ```text
//! model.safetensors ─ safetensors (mapped, as f32) ─┐
//!                                                   ├─▶ family/* ─▶ graph ─▶ embedgate.onnx (operators)
//! config.json ──────────────────────────────────────┘                        embedgate.onnx.data (weights)
//! model.onnx, onnx/model.onnx ─▶ onnx_folder: inspected, used as it is
//! ```
//!
//! * A graph is written under temporary names and renamed; a failure leaves the folder as it was.
//! * It carries the digest of the files it was made from, and is made again only when they change.
//! * The weights lie in a file of their own, each at a page boundary, for the runtime to map.
//!
//! A runtime that computes the network without a graph takes sizes and tensors from [`ModelFolder::encoder`]
//! instead; [`fingerprint`] gives the fingerprint for both.
//!
//! A new architecture is one file in `family` and one line in its list.
//!
//! What this crate must never know: ONNX Runtime, HTTP, OpenAI's schema, how files got here.
#![deny(missing_docs)]

mod dynamic_quantization;
mod element;
mod encoder;
mod error;
mod family;
mod file;
mod fingerprint;
mod folder;
mod graph;
mod import;
mod json;
mod list;
mod manifest;
mod mapped;
mod onnx;
mod onnx_folder;
mod pipeline;
mod safetensors;
#[cfg(test)]
mod tests;

pub use encoder::{EncoderSizes, EncoderWeights, Linear, Norm, TokenEmbeddings};
pub use error::ImportError;
pub use family::post_norm::{Activation, Positions};
pub use fingerprint::fingerprint;
pub use folder::ModelFolder;
pub use import::{
    Graph, GraphInput, GraphOutput, ImportProgress, ImportStage, OutputKind, Precision, import,
};
pub use list::{ModelEntry, ModelState, list_models};
pub use manifest::{DownloadSource, FileEntry, Golden, ModelManifest};
pub use pipeline::{DenseActivation, DenseLayer, PoolingMode};
