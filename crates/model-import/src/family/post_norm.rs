//! The encoder that BERT and its relatives share: layer norm after each residual, learnt absolute positions.
//!
//! Operators were chosen by measurement on ONNX Runtime's CPU provider (`docs/adr/0004-onnx-graph-operators.md`):
//! plain standard operators throughout, one product for query, key and value, weights stored as `MatMul` reads
//! them (`[in, out]`), and the attention scale folded into the query's weights.

use std::path::Path;

use super::{Architecture, check_size, refuse};
use crate::{
    ImportError,
    graph::GraphBuilder,
    onnx::{Attribute, Dimension, ElementType, Value},
    safetensors::Weights,
};

/// Added to the score of a masked position. Its exponential is exactly 0 beside any real score, yet it is finite,
/// so that a row with nothing but padding gives numbers and not NaN.
const MASKED: f32 = -1e9;

/// The word table.
pub(crate) const WORDS: &str = "embeddings.word_embeddings.weight";
const POSITIONS: &str = "embeddings.position_embeddings.weight";
/// The norm after the embeddings' sum.
pub(crate) const EMBEDDINGS_NORM: &str = "embeddings.LayerNorm";

/// The non-linearity of the feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// With the error function.
    Gelu,
    /// The approximation by the hyperbolic tangent.
    GeluTanh,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// By transformers' name for it (`ACT2FN`).
    pub(super) fn parse(config: &Path, name: &str) -> Result<Self, ImportError> {
        match name {
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            _ => Err(refuse(
                config,
                format!("the activation `{name}`"),
                "one of gelu, gelu_new, gelu_pytorch_tanh, relu",
            )),
        }
    }

    fn write(self, graph: &mut GraphBuilder<'_>, input: &str) -> String {
        match self {
            Self::Gelu => graph.op("Gelu", &[input], vec![]),
            Self::GeluTanh => graph.op("Gelu", &[input], vec![Attribute::string("approximate", "tanh")]),
            Self::Relu => graph.op("Relu", &[input], vec![]),
        }
    }
}

/// How a token's row in the position table is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// The first token has row 0.
    FromZero,
    /// Tokens other than this padding id are counted; the first has the row after the id.
    AfterPadding(i64),
}

/// What a layer's modules are called.
#[derive(Debug)]
pub(crate) struct Names {
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
    /// Rows of the segment table, where there is one. All tokens are of segment 0, whose row is added to the
    /// position table once and for all.
    pub(crate) segments: Option<usize>,
    /// Of every layer norm.
    pub(crate) epsilon: f32,
    pub(crate) activation: Activation,
    pub(crate) names: &'static Names,
    pub(crate) prefixes: &'static [&'static str],
}

impl PostNorm {
    /// Returns the configuration itself, if the model can be computed with its numbers.
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
            return Err(refuse(config, setting, "the heads must divide the width"));
        }
        if self.positions() == 0 {
            let (rows, positions) = (self.position_rows, self.positions);
            let setting = format!("max_position_embeddings = {rows} with positions {positions:?}");
            return Err(refuse(config, setting, "a row for at least one token"));
        }
        // Norms divide by the square root of the variance plus this.
        if !(self.epsilon > 0.0 && self.epsilon <= 1.0) {
            let setting = format!("layer_norm_eps = {}", self.epsilon);
            return Err(refuse(config, setting, "a number above 0 and at most 1"));
        }
        Ok(self)
    }

    /// The position table, with the first segment's row added to each of its rows where there are segments: all
    /// tokens are of that segment.
    pub(crate) fn position_table(&self, weights: &Weights) -> Result<Vec<f32>, ImportError> {
        let mut table = weights.tensor(POSITIONS, &[self.position_rows, self.hidden])?;
        if let Some(rows) = self.segments {
            let segments = weights.tensor("embeddings.token_type_embeddings.weight", &[rows, self.hidden])?;
            for row in table.chunks_exact_mut(self.hidden) {
                row.iter_mut().zip(&segments).for_each(|(value, segment)| *value += segment);
            }
        }
        Ok(table)
    }

    /// `input · Wᵀ + b`, for one or several modules side by side, each with `outputs` columns and a factor that
    /// is folded into its weight and bias.
    fn linear(
        &self,
        step: &mut Step<'_, '_>,
        input: &str,
        modules: &[(String, f32)],
        [inputs, outputs]: [usize; 2],
    ) -> Result<String, ImportError> {
        let columns = outputs * modules.len();
        let mut transposed = vec![];
        let mut biases = vec![];
        for (index, (module, factor)) in modules.iter().enumerate() {
            let weight = step.weights.tensor(&format!("{module}.weight"), &[outputs, inputs])?;
            // The settings' sizes are the weights' from here on.
            transposed.resize(inputs * columns, 0.0);
            for (output, row) in weight.chunks_exact(inputs).enumerate() {
                for (input, value) in row.iter().enumerate() {
                    transposed[input * columns + index * outputs + output] = value * factor;
                }
            }
            let bias = step.weights.tensor(&format!("{module}.bias"), &[outputs])?;
            biases.extend(bias.iter().map(|value| value * factor));
        }
        let name = modules.iter().map(|(module, _)| module.as_str()).collect::<Vec<_>>().join("+");
        let weight = step.graph.weight(&format!("{name}.weight"), &[inputs, columns], &transposed)?;
        let bias = step.graph.weight(&format!("{name}.bias"), &[columns], &biases)?;
        let product = step.graph.op("MatMul", &[input, &weight], vec![]);
        Ok(step.graph.op("Add", &[&product, &bias], vec![]))
    }

    fn norm(&self, step: &mut Step<'_, '_>, input: &str, module: &str) -> Result<String, ImportError> {
        let [scale, shift] = ["weight", "bias"].map(|part| format!("{module}.{part}"));
        let values = step.weights.tensor(&scale, &[self.hidden])?;
        let scale = step.graph.weight(&scale, &[self.hidden], &values)?;
        let values = step.weights.tensor(&shift, &[self.hidden])?;
        let shift = step.graph.weight(&shift, &[self.hidden], &values)?;
        let attributes = vec![Attribute::int("axis", -1), Attribute::float("epsilon", self.epsilon)];
        Ok(step.graph.op("LayerNormalization", &[input, &scale, &shift], attributes))
    }

    /// Word, position and segment: `[batch, sequence]` → `[batch, sequence, hidden]`.
    fn embed(&self, step: &mut Step<'_, '_>, ids: &str) -> Result<String, ImportError> {
        let Step { weights, graph } = step;
        let shape = [self.vocabulary, self.hidden];
        let words = graph.weight_from(WORDS, &shape, |sink| weights.stream(WORDS, &shape, sink))?;
        let words = graph.op("Gather", &[&words, ids], vec![]);

        let table = self.position_table(weights)?;
        let table = graph.weight(POSITIONS, &[self.position_rows, self.hidden], &table)?;
        let positions = match self.positions {
            Positions::FromZero => {
                let length = vec![Attribute::int("start", 1), Attribute::int("end", 2)];
                let length = graph.op("Shape", &[ids], length);
                let zero = graph.integers("first", &[0]);
                graph.op("Slice", &[&table, &zero, &length, &zero], vec![])
            }
            Positions::AfterPadding(padding) => {
                let padding = graph.integer("padding", padding);
                let axis = graph.integer("sequence_axis", 1);
                let equal = graph.op("Equal", &[ids, &padding], vec![]);
                let real = graph.op("Not", &[&equal], vec![]);
                let real = graph.op("Cast", &[&real], vec![Attribute::int("to", ElementType::Int64 as i64)]);
                let count = graph.op("CumSum", &[&real, &axis], vec![]);
                let count = graph.op("Mul", &[&count, &real], vec![]);
                let rows = graph.op("Add", &[&count, &padding], vec![]);
                graph.op("Gather", &[&table, &rows], vec![])
            }
        };
        let sum = graph.op("Add", &[&words, &positions], vec![]);
        self.norm(step, &sum, EMBEDDINGS_NORM)
    }

    /// Self-attention of layer `prefix`, without residual: `[batch, sequence, hidden]` both ways.
    fn attention(
        &self,
        step: &mut Step<'_, '_>,
        state: &str,
        mask: &str,
        prefix: &str,
    ) -> Result<String, ImportError> {
        let (names, width) = (self.names, self.hidden / self.heads);
        let scale = 1.0 / (width as f32).sqrt();
        let modules = [(names.query, scale), (names.key, 1.0), (names.value, 1.0)]
            .map(|(module, factor)| (format!("{prefix}.{module}"), factor));
        let fused = self.linear(step, state, &modules, [self.hidden, self.hidden])?;

        let graph = &mut step.graph;
        let attributes = vec![Attribute::int("axis", -1), Attribute::int("num_outputs", 3)];
        let [query, key, value] = graph.ops("Split", &[&fused], attributes);
        // A 0 in the shape of a Reshape keeps that dimension.
        let apart = graph.integers("heads_apart", &[0, 0, self.heads as i64, width as i64]);
        let together = graph.integers("heads_together", &[0, 0, self.hidden as i64]);
        let mut by_head = |input: &str, order: &[i64]| {
            let heads = graph.op("Reshape", &[input, &apart], vec![]);
            graph.op("Transpose", &[&heads], vec![Attribute::ints("perm", order)])
        };
        let query = by_head(&query, &[0, 2, 1, 3]);
        let key = by_head(&key, &[0, 2, 3, 1]);
        let value = by_head(&value, &[0, 2, 1, 3]);
        let scores = graph.op("MatMul", &[&query, &key], vec![]);
        let scores = graph.op("Add", &[&scores, mask], vec![]);
        let shares = graph.op("Softmax", &[&scores], vec![Attribute::int("axis", -1)]);
        let mixed = graph.op("MatMul", &[&shares, &value], vec![]);
        let mixed = graph.op("Transpose", &[&mixed], vec![Attribute::ints("perm", &[0, 2, 1, 3])]);
        let mixed = graph.op("Reshape", &[&mixed, &together], vec![]);
        let output = (format!("{prefix}.{}", names.attention_output), 1.0);
        self.linear(step, &mixed, &[output], [self.hidden, self.hidden])
    }

    fn feed_forward(
        &self,
        step: &mut Step<'_, '_>,
        state: &str,
        prefix: &str,
    ) -> Result<String, ImportError> {
        let up = (format!("{prefix}.{}", self.names.up), 1.0);
        let wide = self.linear(step, state, &[up], [self.hidden, self.intermediate])?;
        let wide = self.activation.write(step.graph, &wide);
        let down = (format!("{prefix}.{}", self.names.down), 1.0);
        self.linear(step, &wide, &[down], [self.intermediate, self.hidden])
    }
}

/// Where weights come from and where operators go.
struct Step<'s, 'g> {
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
        let ids = graph.input(Value::tensor("input_ids", ElementType::Int64, varying()));
        let mask = graph.input(Value::tensor("attention_mask", ElementType::Int64, varying()));

        // (1 − mask) · MASKED, as [batch, 1, 1, sequence]: 0 where there is a token.
        let float = vec![Attribute::int("to", ElementType::Float as i64)];
        let mask = graph.op("Cast", &[&mask], float);
        let one = graph.scalar("one", 1.0);
        let mask = graph.op("Sub", &[&one, &mask], vec![]);
        let masked = graph.scalar("masked", MASKED);
        let mask = graph.op("Mul", &[&mask, &masked], vec![]);
        let axes = graph.integers("mask_axes", &[1, 2]);
        let mask = graph.op("Unsqueeze", &[&mask, &axes], vec![]);

        let step = &mut Step { weights, graph };
        let mut state = self.embed(step, &ids)?;
        for layer in 0..self.layers {
            let prefix = format!("{}.{layer}", self.names.layer);
            let attended = self.attention(step, &state, &mask, &prefix)?;
            let sum = step.graph.op("Add", &[&state, &attended], vec![]);
            state = self.norm(step, &sum, &format!("{prefix}.{}", self.names.attention_norm))?;
            let fed = self.feed_forward(step, &state, &prefix)?;
            let sum = step.graph.op("Add", &[&state, &fed], vec![]);
            state = self.norm(step, &sum, &format!("{prefix}.{}", self.names.output_norm))?;
        }
        let mut shape = varying();
        shape.push(Dimension::fixed(self.hidden as i64));
        graph.output(&state, Value::tensor("last_hidden_state", ElementType::Float, shape));
        Ok(())
    }
}
