//! Packed weights, in the form that the kernels of all precisions share: query, key and value projections as one linear
//! layer, heads padded, the scale of the attention scores folded into the queries.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use encoder_spec::{
    EncoderSpec, LayerNormId, LinearId, NormId, NormPlacement, Part, Rope, ScoreBias, TensorId,
};

use crate::{
    ActivationMaxima, EncoderConfig, ModelError, TokenEmbeddings, WeightSource,
    head_layout::HeadLayout,
    linear_input::LinearInput,
    positions::{BiasAxis, PositionBias, RopeTable},
    weights::read,
};

/// Widths of activations are padded to multiples of this: the columns of the widest panel.
pub(crate) const WIDTH_MULTIPLE: usize = 32;

/// Inputs of a [`Model`](crate::Model).
pub struct ModelInputs<'s> {
    /// Network and maximum length of a sequence.
    pub config: EncoderConfig,
    /// Weights, read while the model is made.
    pub source: &'s dyn WeightSource,
    /// Token embeddings, read by every batch.
    pub token_embeddings: TokenEmbeddings,
    /// Calibration, required for kernels in int8 and ignored by others.
    pub activation_maxima: Option<&'s ActivationMaxima>,
    /// Maximum number of threads that read and pack weights.
    pub threads: usize,
}

/// A model's weights, its weight matrices packed into `B`.
pub(crate) struct PackedWeights<B> {
    pub(crate) config: EncoderConfig,
    pub(crate) head_layout: HeadLayout,
    token_embeddings: TokenEmbeddings,
    /// Position embeddings with the row of segment 0 added, then the same with that of each further segment; without
    /// positions the rows of the segments alone, or nothing.
    position_embeddings: Vec<f32>,
    pub(crate) embeddings_norm: Option<NormParams>,
    pub(crate) embeddings_projection: Option<Linear<B>>,
    pub(crate) position_bias: Option<PositionBias>,
    /// Layers may share their weights.
    pub(crate) layers: Vec<Arc<Layer<B>>>,
    /// Rotations of each layer.
    ropes: Vec<Option<Arc<RopeTable>>>,
    final_norm: Option<NormParams>,
}

/// Weights of a layer.
pub(crate) struct Layer<B> {
    /// Queries of all heads, then keys, then values, heads padded.
    pub(crate) qkv: Linear<B>,
    /// Norms of each head's query and key.
    pub(crate) query_key_norm: Option<[NormParams; 2]>,
    pub(crate) attention_output: Linear<B>,
    /// With a gate, each panel has the columns of the gate in its first half, and those that it multiplies in its
    /// second half.
    pub(crate) ffn_up: Linear<B>,
    pub(crate) ffn_down: Linear<B>,
    attention_input_norm: Option<NormParams>,
    attention_output_norm: Option<NormParams>,
    ffn_input_norm: Option<NormParams>,
    ffn_output_norm: Option<NormParams>,
}

/// Weight and bias of a linear layer, padded.
pub(crate) struct Linear<B> {
    pub(crate) weight: B,
    pub(crate) bias: Vec<f32>,
}

/// Scale and shift of a norm, padded with zeros.
pub(crate) struct NormParams {
    /// Number of values that are normalized together, without padding.
    pub(crate) width: usize,
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

/// The norms between two linear layers, computed in this order.
#[derive(Clone, Copy, Default)]
pub(crate) struct NormSequence<'w> {
    /// hidden ← hidden + norm(branch).
    pub(crate) branch: Option<&'w NormParams>,
    /// hidden ← norm(hidden).
    pub(crate) hidden: Option<&'w NormParams>,
    /// branch ← norm(hidden): the input of the next linear layer.
    pub(crate) input: Option<&'w NormParams>,
}

/// A matrix B of a GEMM, `[k, columns]`, before packing.
pub(crate) struct UnpackedB<'w> {
    /// The matrix A that it is multiplied with; the layer is the one whose weights are read.
    pub(crate) input: LinearInput,
    /// For each k, its index in the column slices, or `None` for a row of zeros.
    pub(crate) rows: &'w [Option<usize>],
    /// A multiple of [`WIDTH_MULTIPLE`].
    pub(crate) columns: usize,
    /// For each column, its values and a factor to multiply them by, or `None` for a column of zeros.
    pub(crate) column: &'w dyn Fn(usize) -> Option<(&'w [f32], f32)>,
}

fn pad(mut values: Vec<f32>) -> Vec<f32> {
    values.resize(values.len().next_multiple_of(WIDTH_MULTIPLE), 0.0);
    values
}

/// Factor of the products of queries and keys. The kernels' softmax takes powers of 2.
fn score_factor(spec: &EncoderSpec) -> f32 {
    spec.attention.scale * std::f32::consts::LOG2_E
}

impl<B: Send + Sync> PackedWeights<B> {
    /// Reads and packs the weights in panels of `panel` columns; biases by position lie along `bias_axis`.
    ///
    /// # Errors
    /// The first weight that cannot be read or has the wrong size.
    pub(crate) fn read(
        ModelInputs { config, source, token_embeddings, threads, .. }: ModelInputs<'_>,
        panel: usize,
        bias_axis: BiasAxis,
        pack: impl Fn(UnpackedB<'_>) -> B + Sync,
    ) -> Result<Self, ModelError> {
        let (spec, max_tokens) = (config.spec(), config.max_tokens());
        let head_layout = HeadLayout::new(spec, panel);
        let mut ropes: Vec<(Rope, Arc<RopeTable>)> = Vec::new();
        for rope in spec.layers.iter().filter_map(|layer| layer.rope) {
            if !ropes.iter().any(|(known, _)| *known == rope) {
                ropes.push((rope, Arc::new(RopeTable::new(rope, &head_layout, max_tokens))));
            }
        }
        let reader = LayerReader { spec, source, head_layout, panel, pack: &pack };
        let sources: Vec<usize> = (0..spec.layers.len()).map(|layer| source.source_layer(layer)).collect();
        let mut distinct = sources.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let layers_per_thread = distinct.len().div_ceil(threads.max(1)).max(1);
        let layers = std::thread::scope(|scope| {
            let handles: Vec<_> = distinct
                .chunks(layers_per_thread)
                .map(|layers| {
                    let reader = &reader;
                    let read = |&layer| reader.layer(layer).map(|weights| (layer, Arc::new(weights)));
                    scope.spawn(move || layers.iter().map(read).collect())
                })
                .collect();
            let results = handles.into_iter().map(|handle| match handle.join() {
                Ok(layers) => layers,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.collect::<Result<Vec<Vec<(usize, Arc<Layer<B>>)>>, ModelError>>()
        })?;
        let layers: HashMap<_, _> = layers.into_iter().flatten().collect();
        let position_bias = match spec.attention.score_bias {
            ScoreBias::Relative(bias) => {
                let heads = spec.attention.heads;
                let table = read(source, TensorId::RelativeBias, spec)?.unwrap_or_default();
                let sizes = [heads, max_tokens, WIDTH_MULTIPLE];
                Some(PositionBias::new(bias, bias_axis, &table, sizes, std::f32::consts::LOG2_E))
            }
            ScoreBias::None | ScoreBias::Disentangled(_) => None,
        };
        Ok(Self {
            head_layout,
            token_embeddings,
            position_embeddings: position_embeddings(&config, source)?,
            embeddings_norm: reader.norm(NormId::Embeddings)?,
            embeddings_projection: reader.embeddings_projection()?,
            position_bias,
            layers: sources.iter().map(|source| Arc::clone(&layers[source])).collect(),
            ropes: spec.layers.iter().map(|layer| rope_table(&ropes, layer.rope)).collect(),
            final_norm: reader.norm(NormId::Final)?,
            config,
        })
    }
}

impl<B> PackedWeights<B> {
    pub(crate) fn spec(&self) -> &EncoderSpec {
        self.config.spec()
    }

    /// Writes the sum of the embeddings of a token, and zeros into the padding of the row.
    #[inline]
    pub(crate) fn embed(&self, id: u32, table_row: Option<usize>, row: &mut [f32]) {
        let embeddings = &self.spec().embeddings;
        let (row, padding) = row.split_at_mut(embeddings.width);
        (self.token_embeddings)(id, row);
        // An earlier batch may have left values that are not finite.
        padding.fill(0.0);
        if embeddings.scale != 1.0 {
            row.iter_mut().for_each(|value| *value *= embeddings.scale);
        }
        if !self.position_embeddings.is_empty() {
            let position = &self.position_embeddings[table_row.unwrap_or(0) * row.len()..];
            row.iter_mut().zip(position).for_each(|(value, position)| *value += position);
        }
    }

    /// The linear layer with this input, if the network has it.
    pub(crate) fn linear(&self, input: LinearInput) -> Option<&Linear<B>> {
        let layer = |layer: usize| self.layers.get(layer);
        match input {
            LinearInput::EmbeddingProjection => self.embeddings_projection.as_ref(),
            LinearInput::Qkv(of) => layer(of).map(|layer| &layer.qkv),
            LinearInput::AttentionOutput(of) => layer(of).map(|layer| &layer.attention_output),
            LinearInput::FfnUp(of) => layer(of).map(|layer| &layer.ffn_up),
            LinearInput::FfnDown(of) => layer(of).map(|layer| &layer.ffn_down),
        }
    }

    /// Index of the value in a column of a padded input, or `None` for padding.
    pub(crate) fn channel(&self, input: LinearInput, column: usize) -> Option<usize> {
        match input {
            LinearInput::AttentionOutput(_) => self.head_layout.value_of_heads(column),
            _ => (column < input.width(self.spec())).then_some(column),
        }
    }

    /// The norms between the embeddings, after their own norm and projection, and the first layer.
    pub(crate) fn norms_before_layers(&self) -> NormSequence<'_> {
        let input = self.layers.first().and_then(|layer| layer.attention_input_norm.as_ref());
        NormSequence { input, ..NormSequence::default() }
    }

    /// The norms after the attention of a layer.
    pub(crate) fn norms_after_attention(&self, layer: usize) -> NormSequence<'_> {
        let layer = &self.layers[layer];
        self.norms_after(layer.attention_output_norm.as_ref(), layer.ffn_input_norm.as_ref())
    }

    /// The norms after the feed-forward network of a layer.
    pub(crate) fn norms_after_ffn(&self, layer: usize) -> NormSequence<'_> {
        let next = self.layers.get(layer + 1);
        let input = next.and_then(|layer| layer.attention_input_norm.as_ref());
        let mut norms = self.norms_after(self.layers[layer].ffn_output_norm.as_ref(), input);
        if next.is_none() && self.final_norm.is_some() {
            norms.hidden = self.final_norm.as_ref();
        }
        norms
    }

    fn norms_after<'w>(
        &self,
        output: Option<&'w NormParams>,
        input: Option<&'w NormParams>,
    ) -> NormSequence<'w> {
        match self.spec().norm_placement {
            NormPlacement::Post => NormSequence { hidden: output, input, ..NormSequence::default() },
            NormPlacement::Pre { .. } | NormPlacement::PreAndPost => {
                NormSequence { branch: output, input, ..NormSequence::default() }
            }
        }
    }

    /// Rotations of a layer's queries and keys.
    pub(crate) fn rope(&self, layer: usize) -> Option<&RopeTable> {
        self.ropes[layer].as_deref()
    }

    /// Returns true if the attention of a layer reads a normalized copy of the residual stream.
    pub(crate) fn has_attention_input_norm(&self, layer: usize) -> bool {
        self.layers[layer].attention_input_norm.is_some()
    }

    /// Returns true if the feed-forward network of a layer reads a normalized copy of the residual stream.
    pub(crate) fn has_ffn_input_norm(&self, layer: usize) -> bool {
        self.layers[layer].ffn_input_norm.is_some()
    }
}

fn rope_table(tables: &[(Rope, Arc<RopeTable>)], rope: Option<Rope>) -> Option<Arc<RopeTable>> {
    let (_, table) = tables.iter().find(|(known, _)| Some(*known) == rope)?;
    Some(Arc::clone(table))
}

/// Position embeddings with the row of a segment added to each, for each segment of the sequences.
fn position_embeddings(config: &EncoderConfig, source: &dyn WeightSource) -> Result<Vec<f32>, ModelError> {
    let spec = config.spec();
    let width = spec.embeddings.width;
    let positions = read(source, TensorId::PositionEmbeddings, spec)?;
    let Some(segments) = read(source, TensorId::SegmentEmbeddings, spec)? else {
        return Ok(positions.unwrap_or_default().into_owned());
    };
    let positions = positions.map_or_else(|| vec![0.0; width], Cow::into_owned);
    let mut table = positions.repeat(config.segments());
    for (rows, segment) in table.chunks_exact_mut(positions.len()).zip(segments.chunks_exact(width)) {
        for row in rows.chunks_exact_mut(width) {
            row.iter_mut().zip(segment).for_each(|(value, segment)| *value += segment);
        }
    }
    Ok(table)
}

/// Reads and packs layers.
struct LayerReader<'s, P> {
    spec: &'s EncoderSpec,
    source: &'s dyn WeightSource,
    head_layout: HeadLayout,
    panel: usize,
    pack: &'s P,
}

impl<B, P: Fn(UnpackedB<'_>) -> B> LayerReader<'_, P> {
    fn layer(&self, layer: usize) -> Result<Layer<B>, ModelError> {
        let spec = self.spec;
        let context_width = spec.attention.heads * self.head_layout.padded();
        let context_rows: Vec<_> =
            (0..context_width).map(|column| self.head_layout.value_of_heads(column)).collect();
        let hidden_rows: Vec<_> = (0..spec.hidden).map(Some).collect();
        let intermediate_rows: Vec<_> = (0..spec.feed_forward.intermediate).map(Some).collect();
        let norm = |norm| self.norm(NormId::Layer(layer, norm));
        let linear = |id, input, rows: &[Option<usize>]| {
            self.linear(|part| TensorId::Linear(layer, id, part), (input, rows), spec.linear_shape(id))
        };
        let context = LinearInput::AttentionOutput(layer);
        Ok(Layer {
            qkv: self.qkv(layer, &hidden_rows)?,
            query_key_norm: self.query_key_norm(layer)?,
            attention_output: linear(LinearId::AttentionOutput, context, &context_rows)?,
            ffn_up: if spec.feed_forward.is_gated {
                self.gated_up(layer, &hidden_rows)?
            } else {
                linear(LinearId::Up, LinearInput::FfnUp(layer), &hidden_rows)?
            },
            ffn_down: linear(LinearId::Down, LinearInput::FfnDown(layer), &intermediate_rows)?,
            attention_input_norm: norm(LayerNormId::AttentionInput)?,
            attention_output_norm: norm(LayerNormId::AttentionOutput)?,
            ffn_input_norm: norm(LayerNormId::FeedForwardInput)?,
            ffn_output_norm: norm(LayerNormId::FeedForwardOutput)?,
        })
    }

    /// Query, key and value projections as one linear layer.
    fn qkv(&self, layer: usize, rows: &[Option<usize>]) -> Result<Linear<B>, ModelError> {
        let (spec, layout) = (self.spec, self.head_layout);
        let hidden = spec.hidden;
        // A norm of the queries would undo a factor of their weights.
        let factor = if spec.attention.has_query_key_norm { 1.0 } else { score_factor(spec) };
        let kv_heads = spec.attention.kv_heads;
        let modules = [
            (LinearId::Query, factor, spec.attention.heads),
            (LinearId::Key, 1.0, kv_heads),
            (LinearId::Value, 1.0, kv_heads),
        ];
        let mut weights = Vec::with_capacity(modules.len());
        let mut bias = Vec::new();
        for (linear, factor, heads) in modules {
            let read = |part| read(self.source, TensorId::Linear(layer, linear, part), spec);
            weights.push((read(Part::Weight)?.unwrap_or_default(), factor, heads * layout.padded()));
            let values = read(Part::Bias)?;
            bias.extend((0..heads * layout.padded()).map(|column| {
                match (&values, layout.value_of_heads(column)) {
                    (Some(values), Some(value)) => values[value] * factor,
                    _ => 0.0,
                }
            }));
        }
        let weight = (self.pack)(UnpackedB {
            input: LinearInput::Qkv(layer),
            rows,
            columns: bias.len(),
            column: &|mut column| {
                for (weight, factor, width) in &weights {
                    if column < *width {
                        let value = layout.value_of_heads(column);
                        return value.map(|value| (&weight[value * hidden..][..hidden], *factor));
                    }
                    column -= width;
                }
                None
            },
        });
        Ok(Linear { weight, bias })
    }

    /// The gate and the first layer of the feed-forward network as one linear layer, in alternating half panels.
    fn gated_up(&self, layer: usize, rows: &[Option<usize>]) -> Result<Linear<B>, ModelError> {
        let (spec, half) = (self.spec, self.panel / 2);
        let (hidden, intermediate) = (spec.hidden, spec.feed_forward.intermediate);
        let read = |linear, part| read(self.source, TensorId::Linear(layer, linear, part), spec);
        let of_both = |part| Ok([read(LinearId::Gate, part)?, read(LinearId::Up, part)?]);
        let [weights, biases]: [[_; 2]; 2] = [of_both(Part::Weight)?, of_both(Part::Bias)?];
        let weights = weights.map(Option::unwrap_or_default);
        let columns = 2 * intermediate.next_multiple_of(WIDTH_MULTIPLE);
        // The half panel of a column, 0 for the gate, and the index of its value.
        let value = |column: usize| {
            let value = column / self.panel * half + column % half;
            (column / half % 2, (value < intermediate).then_some(value))
        };
        let bias = |column: usize| match value(column) {
            (part, Some(value)) => biases[part].as_ref().map_or(0.0, |bias| bias[value]),
            (_, None) => 0.0,
        };
        let bias = (0..columns).map(bias).collect();
        let weight = (self.pack)(UnpackedB {
            input: LinearInput::FfnUp(layer),
            rows,
            columns,
            column: &|column| {
                let (part, value) = value(column);
                value.map(|value| (&weights[part][value * hidden..][..hidden], 1.0))
            },
        });
        Ok(Linear { weight, bias })
    }

    /// Norms of queries and keys, in the layout of a head; that of the queries includes the factor of the scores.
    fn query_key_norm(&self, layer: usize) -> Result<Option<[NormParams; 2]>, ModelError> {
        let read = |norm| self.norm(NormId::Layer(layer, norm));
        let (Some(query), Some(key)) = (read(LayerNormId::Query)?, read(LayerNormId::Key)?) else {
            return Ok(None);
        };
        let layout = self.head_layout;
        let arrange = |params: NormParams, factor: f32| {
            let columns = |values: &[f32]| {
                let column = |column| layout.value(column).map_or(0.0, |value| values[value] * factor);
                (0..layout.padded()).map(column).collect()
            };
            NormParams { width: params.width, scale: columns(&params.scale), shift: columns(&params.shift) }
        };
        Ok(Some([arrange(query, score_factor(self.spec)), arrange(key, 1.0)]))
    }

    fn embeddings_projection(&self) -> Result<Option<Linear<B>>, ModelError> {
        let (width, hidden) = (self.spec.embeddings.width, self.spec.hidden);
        if !self.spec.embeddings.has_projection {
            return Ok(None);
        }
        let rows: Vec<_> = (0..width).map(Some).collect();
        let input = (LinearInput::EmbeddingProjection, rows.as_slice());
        self.linear(TensorId::EmbeddingProjection, input, [hidden, width]).map(Some)
    }

    /// Reads a linear layer of `[outputs, inputs]`.
    fn linear(
        &self,
        tensor: impl Fn(Part) -> TensorId,
        (input, rows): (LinearInput, &[Option<usize>]),
        [outputs, inputs]: [usize; 2],
    ) -> Result<Linear<B>, ModelError> {
        let weight = read(self.source, tensor(Part::Weight), self.spec)?.unwrap_or_default();
        let bias = read(self.source, tensor(Part::Bias), self.spec)?;
        let bias = bias.map_or_else(|| vec![0.0; outputs], Cow::into_owned);
        let weight = (self.pack)(UnpackedB {
            input,
            rows,
            columns: outputs.next_multiple_of(WIDTH_MULTIPLE),
            column: &|column| (column < outputs).then(|| (&weight[column * inputs..][..inputs], 1.0)),
        });
        Ok(Linear { weight, bias: pad(bias) })
    }

    /// Reads a norm; `None` if the network does not have it.
    fn norm(&self, id: NormId) -> Result<Option<NormParams>, ModelError> {
        let spec = self.spec;
        let Some(weight) = read(self.source, TensorId::Scale(id), spec)? else { return Ok(None) };
        let (width, offset) = (weight.len(), spec.norm.scale_offset());
        let scale = weight.iter().map(|weight| weight + offset).collect();
        let shift = read(self.source, TensorId::Shift(id), spec)?;
        let shift = shift.map_or_else(|| vec![0.0; width], Cow::into_owned);
        Ok(Some(NormParams { width, scale: pad(scale), shift: pad(shift) }))
    }
}
