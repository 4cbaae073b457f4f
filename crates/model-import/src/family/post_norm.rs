//! The post-norm encoder of the BERT family: layer norm after each residual connection, learned absolute positions.
//!
//! The operators were chosen by measurement on ONNX Runtime's CPU provider (`docs/adr/0004-onnx-graph-operators.md`):
//! standard operators only, one matrix product for query, key and value (QKV), weights in the layout that `MatMul`
//! reads (`[in, out]`), and the attention scale folded into the query's weights.

use std::path::Path;

use super::{Architecture, check_size};
use crate::{
    ImportError,
    graph_builder::GraphBuilder,
    onnx::{AttributeProto, DataType, Dimension, ValueInfoProto},
    weights::Weights,
};

/// Added to the attention score of a masked position. After the softmax its weight is exactly 0, yet the value is
/// finite, so that a row of padding alone yields numbers and not NaN.
const MASK_BIAS: f32 = -1e9;

/// The token embedding table.
pub(crate) const WORD_EMBEDDINGS: &str = "embeddings.word_embeddings.weight";
const POSITION_EMBEDDINGS: &str = "embeddings.position_embeddings.weight";
/// The layer norm after the sum of the embeddings.
pub(crate) const EMBEDDINGS_NORM: &str = "embeddings.LayerNorm";

/// The activation of the feed-forward network. The formulas of GELU are those of Hendrycks and Gimpel 2016 (arXiv
/// 1606.08415).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · Φ(x), with the normal distribution's Φ.
    Gelu,
    /// ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))).
    GeluTanh,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// Parses transformers' name for it (`ACT2FN`).
    pub(super) fn parse(config: &Path, name: &str) -> Result<Self, ImportError> {
        match name {
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            _ => Err(ImportError::unsupported_setting(
                config,
                format!("the activation `{name}`"),
                "one of gelu, gelu_new, gelu_pytorch_tanh, relu",
            )),
        }
    }

    fn write(self, graph: &mut GraphBuilder<'_>, input: &str) -> String {
        match self {
            Self::Gelu => graph.op("Gelu", &[input], vec![]),
            Self::GeluTanh => graph.op("Gelu", &[input], vec![AttributeProto::string("approximate", "tanh")]),
            Self::Relu => graph.op("Relu", &[input], vec![]),
        }
    }
}

/// The way in which a token's row in the position table is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// The first token has row 0.
    FromZero,
    /// Tokens other than this padding id are counted; the first one has the row after the id.
    AfterPadding(i64),
}

/// The names of a layer's modules.
#[derive(Debug)]
pub(crate) struct TensorNames {
    pub(crate) layer: &'static str,
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) attention_output: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) output_norm: &'static str,
}

/// An encoder's sizes and names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PostNorm {
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) layers: usize,
    pub(crate) intermediate: usize,
    pub(crate) vocabulary: usize,
    /// Rows of the position table.
    pub(crate) position_rows: usize,
    pub(crate) positions: Positions,
    /// Rows of the segment table, if there is one. All tokens are in segment 0, whose row is added to the position
    /// table.
    pub(crate) segments: Option<usize>,
    /// The epsilon of every layer norm.
    pub(crate) epsilon: f32,
    pub(crate) activation: Activation,
    pub(crate) names: &'static TensorNames,
    pub(crate) prefixes: &'static [&'static str],
}

impl PostNorm {
    /// Returns the configuration, or an error if the model cannot be computed with its numbers.
    pub(super) fn checked(self, config: &Path) -> Result<Self, ImportError> {
        for (name, size) in [
            ("the hidden size", self.hidden),
            ("the number of attention heads", self.heads),
            ("the number of layers", self.layers),
            ("the intermediate size", self.intermediate),
            ("vocab_size", self.vocabulary),
            ("max_position_embeddings", self.position_rows),
            ("type_vocab_size", self.segments.unwrap_or(1)),
        ] {
            check_size(config, name, size)?;
        }
        if !self.hidden.is_multiple_of(self.heads) {
            let setting = format!("{} attention heads over a width of {}", self.heads, self.hidden);
            return Err(ImportError::unsupported_setting(config, setting, "the heads must divide the width"));
        }
        if self.positions() == 0 {
            let (rows, positions) = (self.position_rows, self.positions);
            let setting = format!("max_position_embeddings = {rows} with positions {positions:?}");
            return Err(ImportError::unsupported_setting(config, setting, "a row for at least one token"));
        }
        // Layer norms divide by the square root of the variance plus epsilon.
        if !(self.epsilon > 0.0 && self.epsilon <= 1.0) {
            let setting = format!("layer_norm_eps = {}", self.epsilon);
            return Err(ImportError::unsupported_setting(config, setting, "a number above 0 and at most 1"));
        }
        Ok(self)
    }

    /// Returns the position table. If there are segments, the first segment's row has been added to each row, because
    /// all tokens are in that segment.
    pub(crate) fn position_table(&self, weights: &Weights) -> Result<Vec<f32>, ImportError> {
        let mut table = weights.tensor(POSITION_EMBEDDINGS, &[self.position_rows, self.hidden])?;
        if let Some(rows) = self.segments {
            let segments = weights.tensor("embeddings.token_type_embeddings.weight", &[rows, self.hidden])?;
            for row in table.chunks_exact_mut(self.hidden) {
                row.iter_mut().zip(&segments).for_each(|(value, segment)| *value += segment);
            }
        }
        Ok(table)
    }

    /// Adds `input · Wᵀ + b` for one or several concatenated modules, each with `outputs` columns and a factor that is
    /// folded into its weight and bias.
    fn linear(
        &self,
        context: &mut GraphContext<'_, '_>,
        input: &str,
        modules: &[(String, f32)],
        [inputs, outputs]: [usize; 2],
    ) -> Result<String, ImportError> {
        let columns = outputs * modules.len();
        let mut transposed = vec![];
        let mut biases = vec![];
        for (index, (module, factor)) in modules.iter().enumerate() {
            let weight = context.weights.tensor(&format!("{module}.weight"), &[outputs, inputs])?;
            // Allocated only now that a weight has confirmed the sizes of the configuration.
            transposed.resize(inputs * columns, 0.0);
            for (output, row) in weight.chunks_exact(inputs).enumerate() {
                for (input, value) in row.iter().enumerate() {
                    transposed[input * columns + index * outputs + output] = value * factor;
                }
            }
            let bias = context.weights.tensor(&format!("{module}.bias"), &[outputs])?;
            biases.extend(bias.iter().map(|value| value * factor));
        }
        let name = modules.iter().map(|(module, _)| module.as_str()).collect::<Vec<_>>().join("+");
        let weight = context.graph.weight(&format!("{name}.weight"), &[inputs, columns], &transposed)?;
        let bias = context.graph.weight(&format!("{name}.bias"), &[columns], &biases)?;
        let product = context.graph.op("MatMul", &[input, &weight], vec![]);
        Ok(context.graph.op("Add", &[&product, &bias], vec![]))
    }

    fn norm(
        &self,
        context: &mut GraphContext<'_, '_>,
        input: &str,
        module: &str,
    ) -> Result<String, ImportError> {
        let [scale, shift] = ["weight", "bias"].map(|part| format!("{module}.{part}"));
        let values = context.weights.tensor(&scale, &[self.hidden])?;
        let scale = context.graph.weight(&scale, &[self.hidden], &values)?;
        let values = context.weights.tensor(&shift, &[self.hidden])?;
        let shift = context.graph.weight(&shift, &[self.hidden], &values)?;
        let attributes =
            vec![AttributeProto::int("axis", -1), AttributeProto::float("epsilon", self.epsilon)];
        Ok(context.graph.op("LayerNormalization", &[input, &scale, &shift], attributes))
    }

    /// Adds the sum of token, position and segment embeddings: `[batch, sequence]` → `[batch, sequence, hidden]`.
    fn embed(&self, context: &mut GraphContext<'_, '_>, ids: &str) -> Result<String, ImportError> {
        let GraphContext { weights, graph } = context;
        let shape = [self.vocabulary, self.hidden];
        let table = graph
            .weight_from(WORD_EMBEDDINGS, &shape, |sink| weights.stream(WORD_EMBEDDINGS, &shape, sink))?;
        let words = graph.op("Gather", &[&table, ids], vec![]);

        let table = self.position_table(weights)?;
        let table = graph.weight(POSITION_EMBEDDINGS, &[self.position_rows, self.hidden], &table)?;
        let positions = match self.positions {
            Positions::FromZero => {
                let length = vec![AttributeProto::int("start", 1), AttributeProto::int("end", 2)];
                let length = graph.op("Shape", &[ids], length);
                let zero = graph.integers("first", &[0]);
                graph.op("Slice", &[&table, &zero, &length, &zero], vec![])
            }
            Positions::AfterPadding(padding) => {
                let padding = graph.integer("padding", padding);
                let axis = graph.integer("sequence_axis", 1);
                let equal = graph.op("Equal", &[ids, &padding], vec![]);
                let real = graph.op("Not", &[&equal], vec![]);
                let real =
                    graph.op("Cast", &[&real], vec![AttributeProto::int("to", DataType::Int64 as i64)]);
                let count = graph.op("CumSum", &[&real, &axis], vec![]);
                let count = graph.op("Mul", &[&count, &real], vec![]);
                let rows = graph.op("Add", &[&count, &padding], vec![]);
                graph.op("Gather", &[&table, &rows], vec![])
            }
        };
        let sum = graph.op("Add", &[&words, &positions], vec![]);
        self.norm(context, &sum, EMBEDDINGS_NORM)
    }

    /// Adds the self-attention of layer `prefix`, without the residual connection. Input and output are
    /// `[batch, sequence, hidden]`.
    fn attention(
        &self,
        context: &mut GraphContext<'_, '_>,
        input: &str,
        mask: &str,
        prefix: &str,
    ) -> Result<String, ImportError> {
        let (names, width) = (self.names, self.hidden / self.heads);
        let scale = 1.0 / (width as f32).sqrt();
        let modules = [(names.query, scale), (names.key, 1.0), (names.value, 1.0)]
            .map(|(module, factor)| (format!("{prefix}.{module}"), factor));
        let qkv = self.linear(context, input, &modules, [self.hidden, self.hidden])?;

        let graph = &mut context.graph;
        let attributes = vec![AttributeProto::int("axis", -1), AttributeProto::int("num_outputs", 3)];
        let [query, key, value] = graph.ops("Split", &[&qkv], attributes);
        // A 0 in the shape of a Reshape keeps that dimension.
        let split_heads = graph.integers("heads_apart", &[0, 0, self.heads as i64, width as i64]);
        let merge_heads = graph.integers("heads_together", &[0, 0, self.hidden as i64]);
        let mut by_head = |input: &str, order: &[i64]| {
            let heads = graph.op("Reshape", &[input, &split_heads], vec![]);
            graph.op("Transpose", &[&heads], vec![AttributeProto::ints("perm", order)])
        };
        let query = by_head(&query, &[0, 2, 1, 3]);
        let key = by_head(&key, &[0, 2, 3, 1]);
        let value = by_head(&value, &[0, 2, 1, 3]);
        let scores = graph.op("MatMul", &[&query, &key], vec![]);
        let scores = graph.op("Add", &[&scores, mask], vec![]);
        let weights = graph.op("Softmax", &[&scores], vec![AttributeProto::int("axis", -1)]);
        let attended = graph.op("MatMul", &[&weights, &value], vec![]);
        let attended = graph.op("Transpose", &[&attended], vec![AttributeProto::ints("perm", &[0, 2, 1, 3])]);
        let attended = graph.op("Reshape", &[&attended, &merge_heads], vec![]);
        let output = (format!("{prefix}.{}", names.attention_output), 1.0);
        self.linear(context, &attended, &[output], [self.hidden, self.hidden])
    }

    fn feed_forward(
        &self,
        context: &mut GraphContext<'_, '_>,
        input: &str,
        prefix: &str,
    ) -> Result<String, ImportError> {
        let up = (format!("{prefix}.{}", self.names.up), 1.0);
        let hidden = self.linear(context, input, &[up], [self.hidden, self.intermediate])?;
        let hidden = self.activation.write(context.graph, &hidden);
        let down = (format!("{prefix}.{}", self.names.down), 1.0);
        self.linear(context, &hidden, &[down], [self.intermediate, self.hidden])
    }
}

/// The source of the weights and the graph that operators are added to.
struct GraphContext<'s, 'g> {
    weights: &'s Weights,
    graph: &'s mut GraphBuilder<'g>,
}

impl Architecture for PostNorm {
    fn hidden(&self) -> usize {
        self.hidden
    }

    fn positions(&self) -> usize {
        match self.positions {
            Positions::FromZero => self.position_rows,
            Positions::AfterPadding(padding) => self
                .position_rows
                .saturating_sub(usize::try_from(padding).unwrap_or(usize::MAX))
                .saturating_sub(1),
        }
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn prefixes(&self) -> &'static [&'static str] {
        self.prefixes
    }

    fn post_norm(&self) -> Option<PostNorm> {
        Some(*self)
    }

    fn write(&self, weights: &Weights, graph: &mut GraphBuilder<'_>) -> Result<(), ImportError> {
        let varying = || vec![Dimension::named("batch"), Dimension::named("sequence")];
        let ids = graph.input(ValueInfoProto::tensor("input_ids", DataType::Int64, varying()));
        let mask = graph.input(ValueInfoProto::tensor("attention_mask", DataType::Int64, varying()));

        // (1 − mask) · MASK_BIAS, as [batch, 1, 1, sequence]: 0 for a token.
        let float = vec![AttributeProto::int("to", DataType::Float as i64)];
        let mask = graph.op("Cast", &[&mask], float);
        let one = graph.scalar("one", 1.0);
        let mask = graph.op("Sub", &[&one, &mask], vec![]);
        let masked = graph.scalar("masked", MASK_BIAS);
        let mask = graph.op("Mul", &[&mask, &masked], vec![]);
        let axes = graph.integers("mask_axes", &[1, 2]);
        let mask = graph.op("Unsqueeze", &[&mask, &axes], vec![]);

        let context = &mut GraphContext { weights, graph };
        let mut hidden = self.embed(context, &ids)?;
        for layer in 0..self.layers {
            let prefix = format!("{}.{layer}", self.names.layer);
            let attended = self.attention(context, &hidden, &mask, &prefix)?;
            let sum = context.graph.op("Add", &[&hidden, &attended], vec![]);
            hidden = self.norm(context, &sum, &format!("{prefix}.{}", self.names.attention_norm))?;
            let fed = self.feed_forward(context, &hidden, &prefix)?;
            let sum = context.graph.op("Add", &[&hidden, &fed], vec![]);
            hidden = self.norm(context, &sum, &format!("{prefix}.{}", self.names.output_norm))?;
        }
        let mut shape = varying();
        shape.push(Dimension::fixed(self.hidden as i64));
        graph.output(&hidden, ValueInfoProto::tensor("last_hidden_state", DataType::Float, shape));
        Ok(())
    }
}
