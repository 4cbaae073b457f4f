//! The exporter: a specification and its tensors become an ONNX graph.
//!
//! The operators were chosen by measurement on ONNX Runtime's CPU provider (`docs/adr/0004-onnx-graph-operators.md`):
//! standard operators only, one matrix product for query, key and value (QKV), weights in the layout that `MatMul`
//! reads (`[in, out]`), and the attention scale folded into the query's weights.

mod attention;
mod disentangled;
mod positions;

use disentangled::RelativePositions;
use encoder_spec::{
    Activation, LayerNormId, LinearId, NormId, NormKind, NormPlacement, Part, PositionIds, TensorId,
};
use positions::PositionValues;

use crate::{
    ImportError,
    family::{Location, Network},
    graph_builder::GraphBuilder,
    onnx::{AttributeProto, DataType, Dimension, ValueInfoProto},
    weights::Weights,
};

/// Limits of the sequences that a graph computes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SequenceLimits {
    /// Maximum number of tokens.
    pub(crate) max_tokens: usize,
    /// Number of segments. If there is more than one, the graph has the input `token_type_ids`.
    pub(crate) segments: usize,
}

/// Adds a network to a graph: inputs `input_ids` and `attention_mask`, both i64 `[batch, sequence]`, and with several
/// segments `token_type_ids`; output `last_hidden_state`, f32 `[batch, sequence, hidden]`. Padding is at the end.
pub(crate) fn export(
    network: &Network,
    SequenceLimits { max_tokens, segments }: SequenceLimits,
    weights: &Weights,
    graph: &mut GraphBuilder<'_>,
) -> Result<(), ImportError> {
    let varying = || vec![Dimension::named("batch"), Dimension::named("sequence")];
    let ids = graph.input(ValueInfoProto::tensor("input_ids", DataType::Int64, varying()));
    let mask = graph.input(ValueInfoProto::tensor("attention_mask", DataType::Int64, varying()));
    let types = (segments > 1)
        .then(|| graph.input(ValueInfoProto::tensor("token_type_ids", DataType::Int64, varying())));
    let positions = PositionValues::new(graph, &ids, &mask, max_tokens);

    let relative_positions = RelativePositions::default();
    let mut exporter = Exporter { network, weights, graph, positions, relative_positions };
    let mut hidden = exporter.embed(&ids, types.as_deref())?;
    for layer in 0..network.spec.layers.len() {
        hidden = exporter.attention_sublayer(layer, &hidden)?;
        hidden = exporter.feed_forward_sublayer(layer, &hidden)?;
    }
    if network.spec.has_norm(NormId::Final) {
        hidden = exporter.norm(&hidden, NormId::Final, 1.0)?;
    }
    let mut shape = varying();
    shape.push(Dimension::fixed(network.spec.hidden as i64));
    graph.output(&hidden, ValueInfoProto::tensor("last_hidden_state", DataType::Float, shape));
    Ok(())
}

/// A network, and the graph that its operators are added to.
struct Exporter<'s, 'g> {
    network: &'s Network,
    weights: &'s Weights,
    graph: &'s mut GraphBuilder<'g>,
    positions: PositionValues,
    relative_positions: RelativePositions,
}

impl Exporter<'_, '_> {
    /// Adds token, position and segment embeddings, their norm and their projection: `[batch, sequence]` →
    /// `[batch, sequence, hidden]`. Without `types`, all tokens are in segment 0.
    fn embed(&mut self, ids: &str, types: Option<&str>) -> Result<String, ImportError> {
        let Self { network, weights, .. } = *self;
        let embeddings = &network.spec.embeddings;
        let (name, shape) =
            (network.locate(TensorId::TokenEmbeddings).name, [network.spec.vocabulary, embeddings.width]);
        let table = self.graph.weight_from(&name, &shape, |sink| weights.stream(&name, &shape, sink))?;
        let mut sum = self.graph.op("Gather", &[&table, ids], vec![]);
        if embeddings.scale != 1.0 {
            let scale = self.graph.scalar("embedding_scale", embeddings.scale);
            sum = self.graph.op("Mul", &[&sum, &scale], vec![]);
        }
        if let (Some(rows), Some(types)) = (embeddings.segments, types) {
            let table = network.read(weights, TensorId::SegmentEmbeddings)?;
            let name = network.locate(TensorId::SegmentEmbeddings).name;
            let table = self.graph.weight(&name, &[rows, embeddings.width], &table)?;
            let segments = self.graph.op("Gather", &[&table, types], vec![]);
            sum = self.graph.op("Add", &[&sum, &segments], vec![]);
        }
        // The row of the only segment is added to the positions.
        let segment = match embeddings.segments.filter(|_| types.is_none()) {
            Some(_) => network.read(weights, TensorId::SegmentEmbeddings)?[..embeddings.width].to_vec(),
            None => vec![],
        };
        if let Some(table) = embeddings.positions {
            let mut rows = network.read(weights, TensorId::PositionEmbeddings)?.into_owned();
            for row in rows.chunks_exact_mut(embeddings.width) {
                row.iter_mut().zip(&segment).for_each(|(value, segment)| *value += segment);
            }
            let name = network.locate(TensorId::PositionEmbeddings).name;
            let rows = self.graph.weight(&name, &[table.rows, embeddings.width], &rows)?;
            let positions = self.position_embeddings(ids, &rows, table.ids);
            sum = self.graph.op("Add", &[&sum, &positions], vec![]);
        } else if !segment.is_empty() {
            let name = network.locate(TensorId::SegmentEmbeddings).name;
            let row = self.graph.weight(&name, &[embeddings.width], &segment)?;
            sum = self.graph.op("Add", &[&sum, &row], vec![]);
        }
        if embeddings.has_norm {
            sum = self.norm(&sum, NormId::Embeddings, 1.0)?;
        }
        if embeddings.has_projection {
            sum = self.product(&sum, &[(TensorId::EmbeddingProjection(Part::Weight), 1.0)])?;
        }
        Ok(sum)
    }

    /// Adds the rows of the position `table` for `ids`.
    fn position_embeddings(&mut self, ids: &str, table: &str, numbering: PositionIds) -> String {
        match numbering {
            PositionIds::FromZero => self.positions.slice(self.graph, table),
            PositionIds::AfterPadding(padding) => {
                let graph = &mut *self.graph;
                let padding = graph.integer("padding", padding.into());
                let axis = graph.integer("sequence_axis", 1);
                let equal = graph.op("Equal", &[ids, &padding], vec![]);
                let real = graph.op("Not", &[&equal], vec![]);
                let real =
                    graph.op("Cast", &[&real], vec![AttributeProto::int("to", DataType::Int64 as i64)]);
                let count = graph.op("CumSum", &[&real, &axis], vec![]);
                let count = graph.op("Mul", &[&count, &real], vec![]);
                let rows = graph.op("Add", &[&count, &padding], vec![]);
                graph.op("Gather", &[table, &rows], vec![])
            }
        }
    }

    /// Adds attention of a layer, with its norms and the residual connection.
    fn attention_sublayer(&mut self, layer: usize, hidden: &str) -> Result<String, ImportError> {
        let norms = [LayerNormId::AttentionInput, LayerNormId::AttentionOutput];
        self.sublayer(layer, hidden, norms, |exporter, input| exporter.attention(layer, input))
    }

    /// Adds the feed-forward network of a layer, with its norms and the residual connection.
    fn feed_forward_sublayer(&mut self, layer: usize, hidden: &str) -> Result<String, ImportError> {
        let norms = [LayerNormId::FeedForwardInput, LayerNormId::FeedForwardOutput];
        self.sublayer(layer, hidden, norms, |exporter, input| exporter.feed_forward(layer, input))
    }

    fn sublayer(
        &mut self,
        layer: usize,
        hidden: &str,
        [before, after]: [LayerNormId; 2],
        f: impl FnOnce(&mut Self, &str) -> Result<String, ImportError>,
    ) -> Result<String, ImportError> {
        let [before, after] = [before, after].map(|norm| NormId::Layer(layer, norm));
        let spec = &self.network.spec;
        let input = if spec.has_norm(before) { self.norm(hidden, before, 1.0)? } else { hidden.to_owned() };
        let mut output = f(self, &input)?;
        if spec.norm_placement == NormPlacement::PreAndPost {
            output = self.norm(&output, after, 1.0)?;
        }
        let mut sum = self.graph.op("Add", &[hidden, &output], vec![]);
        if spec.norm_placement == NormPlacement::Post {
            sum = self.norm(&sum, after, 1.0)?;
        }
        Ok(sum)
    }

    fn feed_forward(&mut self, layer: usize, input: &str) -> Result<String, ImportError> {
        let feed_forward = self.network.spec.feed_forward;
        let hidden = if feed_forward.is_gated {
            let gate = self.linear(layer, input, LinearId::Gate)?;
            let gate = self.activation(&gate, feed_forward.activation);
            let up = self.linear(layer, input, LinearId::Up)?;
            self.graph.op("Mul", &[&gate, &up], vec![])
        } else {
            let up = self.linear(layer, input, LinearId::Up)?;
            self.activation(&up, feed_forward.activation)
        };
        self.linear(layer, &hidden, LinearId::Down)
    }

    fn activation(&mut self, input: &str, activation: Activation) -> String {
        let graph = &mut *self.graph;
        match activation {
            Activation::Gelu => graph.op("Gelu", &[input], vec![]),
            Activation::GeluTanh => {
                graph.op("Gelu", &[input], vec![AttributeProto::string("approximate", "tanh")])
            }
            Activation::Relu => graph.op("Relu", &[input], vec![]),
            Activation::Silu => {
                let sigmoid = graph.op("Sigmoid", &[input], vec![]);
                graph.op("Mul", &[input, &sigmoid], vec![])
            }
        }
    }

    /// Adds a linear layer.
    fn linear(&mut self, layer: usize, input: &str, linear: LinearId) -> Result<String, ImportError> {
        self.product(input, &[(TensorId::Linear(layer, linear, Part::Weight), 1.0)])
    }

    /// Adds `input · Wᵀ + b` for one or several concatenated weights with equal inputs, each with a factor that is
    /// folded into weight and bias.
    fn product(&mut self, input: &str, parts: &[(TensorId, f32)]) -> Result<String, ImportError> {
        let Self { network, weights, .. } = *self;
        let shapes = parts.iter().filter_map(|&(weight, _)| network.spec.shape(weight));
        let (outputs, inputs): (Vec<usize>, Vec<usize>) = shapes.map(|shape| (shape[0], shape[1])).unzip();
        let (columns, inputs) = (outputs.iter().sum(), inputs[0]);
        let module = parts.iter().map(|&(weight, _)| module(network.locate(weight))).collect::<Vec<_>>();
        let module = module.join("+");

        let weight = self.graph.weight_from(&format!("{module}.weight"), &[inputs, columns], |sink| {
            let mut transposed = vec![];
            let mut start = 0;
            for (&(weight, factor), outputs) in parts.iter().zip(&outputs) {
                let weight = network.read(weights, weight)?;
                // Allocated only now that a weight has confirmed the sizes of the configuration.
                transposed.resize(inputs * columns, 0.0);
                for (output, row) in weight.chunks_exact(inputs).enumerate() {
                    for (input, value) in row.iter().enumerate() {
                        transposed[input * columns + start + output] = value * factor;
                    }
                }
                start += outputs;
            }
            sink(&transposed)
        })?;
        let biases: Vec<_> = parts.iter().map(|&(weight, factor)| (bias_of(weight), factor)).collect();
        let has_bias = biases.iter().all(|&(bias, _)| network.spec.shape(bias).is_some());
        let product = |graph: &mut GraphBuilder<'_>| graph.op("MatMul", &[input, &weight], vec![]);
        if !has_bias {
            return Ok(product(self.graph));
        }
        let bias = self.graph.weight_from(&format!("{module}.bias"), &[columns], |sink| {
            for &(bias, factor) in &biases {
                let bias = network.read(weights, bias)?;
                sink(&bias.iter().map(|value| value * factor).collect::<Vec<_>>())?;
            }
            Ok(())
        })?;
        let product = product(self.graph);
        Ok(self.graph.op("Add", &[&product, &bias], vec![]))
    }

    /// Adds a norm over the last dimension, with a factor that is folded into its scale.
    fn norm(&mut self, input: &str, norm: NormId, factor: f32) -> Result<String, ImportError> {
        let Self { network, weights, .. } = *self;
        let spec = &network.spec;
        let weight = |graph: &mut GraphBuilder<'_>, tensor, offset: f32| {
            let name = network.locate(tensor).name;
            graph.weight_from(&name, &[spec.norm_width(norm)], |sink| {
                let values = network.read(weights, tensor)?;
                sink(&values.iter().map(|value| (value + offset) * factor).collect::<Vec<_>>())
            })
        };
        let graph = &mut *self.graph;
        let scale = weight(graph, TensorId::Scale(norm), spec.norm.scale_offset())?;
        let epsilon = spec.norm.epsilon;
        Ok(match spec.norm.kind {
            NormKind::LayerNorm { has_shift } => {
                let attributes =
                    vec![AttributeProto::int("axis", -1), AttributeProto::float("epsilon", epsilon)];
                if has_shift {
                    let shift = weight(graph, TensorId::Shift(norm), 0.0)?;
                    graph.op("LayerNormalization", &[input, &scale, &shift], attributes)
                } else {
                    graph.op("LayerNormalization", &[input, &scale], attributes)
                }
            }
            // Opset 20 has no operator for it. ONNX Runtime fuses these.
            NormKind::RmsNorm { .. } => {
                let (two, axes) = (graph.scalar("two", 2.0), graph.integers("last_axis", &[-1]));
                let epsilon = graph.scalar("epsilon", epsilon);
                let squares = graph.op("Pow", &[input, &two], vec![]);
                let mean =
                    graph.op("ReduceMean", &[&squares, &axes], vec![AttributeProto::int("keepdims", 1)]);
                let sum = graph.op("Add", &[&mean, &epsilon], vec![]);
                let root = graph.op("Sqrt", &[&sum], vec![]);
                let normalized = graph.op("Div", &[input, &root], vec![]);
                graph.op("Mul", &[&normalized, &scale], vec![])
            }
        })
    }
}

/// Returns the bias that belongs to a weight.
fn bias_of(weight: TensorId) -> TensorId {
    match weight {
        TensorId::Linear(layer, linear, _) => TensorId::Linear(layer, linear, Part::Bias),
        TensorId::EmbeddingProjection(_) => TensorId::EmbeddingProjection(Part::Bias),
        other => other,
    }
}

/// Returns the name of a module by that of its weight, with the first row if it packs several.
fn module(Location { name, rows }: Location) -> String {
    let module = name.strip_suffix(".weight").unwrap_or(&name);
    match rows {
        Some((first, _)) => format!("{module}[{first}]"),
        None => module.to_owned(),
    }
}
