//! The description of a graph that ONNX Runtime can run.

use std::path::PathBuf;

use encoder_spec::PositionIds;

/// A graph that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// The ONNX file.
    pub path: PathBuf,
    /// The inputs that it needs, each int64 or int32 `[batch, sequence]`.
    pub inputs: Vec<GraphInput>,
    /// The output to read.
    pub output: GraphOutput,
    /// The type of most of its weights.
    pub precision: Precision,
    /// Operators that quantize activations with one scale for a whole batch, each name once. If there are any, a text's
    /// vector is independent of other texts only when the text is run alone and without padding.
    pub dynamic_quantization: Vec<String>,
    /// The fingerprint of the model folder ([`fingerprint`](crate::fingerprint())).
    pub fingerprint: String,
}

/// An input, by its customary name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphInput {
    /// `input_ids`.
    InputIds,
    /// `attention_mask`: 1 for a token, 0 for padding.
    AttentionMask,
    /// `token_type_ids`: 1 for a token of the second text of a pair, otherwise 0.
    TokenTypeIds,
    /// `position_ids`: each token's row in the position table.
    PositionIds(PositionIds),
}

/// The output to read: float, float16 or bfloat16.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphOutput {
    /// Its name in the graph.
    pub name: String,
    /// Its content.
    pub kind: OutputKind,
}

/// The content of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// `[batch, sequence, hidden]`; pooling and dense layers are still to be applied.
    TokenEmbeddings,
    /// `[batch, dimensions]`; pooling and dense layers are part of the graph. For a cross-encoder, `[batch, 1]`.
    SentenceEmbedding,
}

/// The type of most of a graph's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// IEEE single precision.
    Fp32,
    /// IEEE half precision.
    Fp16,
    /// The upper half of single precision.
    Bf16,
    /// Integers of 8 bits.
    Int8,
    /// Any other type.
    Other,
}

impl Precision {
    /// Returns the customary short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Other => "other",
        }
    }
}
