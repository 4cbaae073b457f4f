//! Packed weights, in the form that the kernels of both precisions share: query, key and value projections as one
//! linear layer, heads padded, the scale of the attention scores folded into the queries.

use crate::{
    BertConfig, LinearId, ModelError, NormId, TensorId, TokenEmbeddings, WeightSource, weights::read,
};

/// Widths of activations are padded to multiples of this: the columns of the widest panel.
pub(crate) const WIDTH_MULTIPLE: usize = 32;

/// Inputs of [`PackedWeights::read`].
pub(crate) struct WeightInputs<'s> {
    pub(crate) config: BertConfig,
    pub(crate) source: &'s dyn WeightSource,
    pub(crate) token_embeddings: TokenEmbeddings,
    /// Maximum number of threads.
    pub(crate) threads: usize,
}

/// A model's weights, its weight matrices packed into `B`.
pub(crate) struct PackedWeights<B> {
    pub(crate) config: BertConfig,
    token_embeddings: TokenEmbeddings,
    position_embeddings: Vec<f32>,
    pub(crate) embeddings_norm: LayerNormParams,
    pub(crate) layers: Vec<Layer<B>>,
}

/// Weights of a layer.
pub(crate) struct Layer<B> {
    /// `3 · heads · head_dim` columns, heads padded: queries, keys, values.
    pub(crate) qkv: Linear<B>,
    pub(crate) attention_output: Linear<B>,
    pub(crate) attention_norm: LayerNormParams,
    pub(crate) ffn_up: Linear<B>,
    pub(crate) ffn_down: Linear<B>,
    pub(crate) ffn_norm: LayerNormParams,
}

/// Weight and bias of a linear layer, padded.
pub(crate) struct Linear<B> {
    pub(crate) weight: B,
    pub(crate) bias: Vec<f32>,
}

/// Scale and shift of a layer norm, padded with zeros.
pub(crate) struct LayerNormParams {
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

/// A matrix B of a GEMM, `[k, columns]`, before packing.
pub(crate) struct UnpackedB<'w> {
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

impl<B: Send> PackedWeights<B> {
    /// Reads and packs the weights. `padded_head_dim` is the padded width of a head.
    ///
    /// # Errors
    /// The first weight that cannot be read or has the wrong size.
    pub(crate) fn read(
        WeightInputs { config, source, token_embeddings, threads }: WeightInputs<'_>,
        padded_head_dim: usize,
        pack: impl Fn(UnpackedB<'_>) -> B + Sync,
    ) -> Result<Self, ModelError> {
        let (layers_per_thread, pack) = (config.layers.div_ceil(threads.max(1)).max(1), &pack);
        let read_layer = move |layer| Layer::read(&config, source, layer, padded_head_dim, pack);
        let layers = std::thread::scope(|scope| {
            let starts = (0..config.layers).step_by(layers_per_thread);
            let handles: Vec<_> = starts
                .map(|start| {
                    let range = start..config.layers.min(start + layers_per_thread);
                    scope.spawn(move || range.map(read_layer).collect())
                })
                .collect();
            let results = handles.into_iter().map(|handle| match handle.join() {
                Ok(layers) => layers,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.collect::<Result<Vec<Vec<Layer<B>>>, ModelError>>()
        })?;
        Ok(Self {
            config,
            token_embeddings,
            position_embeddings: read(source, TensorId::Positions, &config)?.into_owned(),
            embeddings_norm: LayerNormParams::read(&config, source, NormId::Embeddings)?,
            layers: layers.into_iter().flatten().collect(),
        })
    }

    /// Writes the sum of the embeddings of a token and its position, and zeros into the padding of the row.
    #[inline]
    pub(crate) fn embed(&self, id: u32, position_id: usize, row: &mut [f32]) {
        let width = self.config.hidden;
        let (row, padding) = row.split_at_mut(width);
        (self.token_embeddings)(id, row);
        // An earlier batch may have left values that are not finite.
        padding.fill(0.0);
        let position = &self.position_embeddings[position_id * width..][..width];
        row.iter_mut().zip(position).for_each(|(value, position)| *value += position);
    }
}

impl<B> Layer<B> {
    fn read(
        config: &BertConfig,
        source: &dyn WeightSource,
        layer: usize,
        padded_head_dim: usize,
        pack: &impl Fn(UnpackedB<'_>) -> B,
    ) -> Result<Self, ModelError> {
        let BertConfig { hidden, heads, intermediate, .. } = *config;
        let head_dim = config.head_dim();
        let weight = |linear| read(source, TensorId::Weight(layer, linear), config);
        let bias = |linear| read(source, TensorId::Bias(layer, linear), config);
        // Index without padding of a column of the padded heads, or `None` for padding.
        let unpadded = |index: usize| {
            let (head, column) = (index / padded_head_dim, index % padded_head_dim);
            (column < head_dim).then(|| head * head_dim + column)
        };
        let identity = |count: usize| (0..count).map(Some).collect::<Vec<_>>();

        // The kernels' softmax takes powers of 2, and scores are divided by √head_dim.
        let scale = std::f32::consts::LOG2_E / (head_dim as f32).sqrt();
        let linears = [(LinearId::Query, scale), (LinearId::Key, 1.0), (LinearId::Value, 1.0)];
        let weights = linears.map(|(linear, factor)| weight(linear).map(|weight| (weight, factor)));
        let [query, key, value] = weights;
        let weights = [query?, key?, value?];
        let width = heads * padded_head_dim;
        let qkv = pack(UnpackedB {
            rows: &identity(hidden),
            columns: 3 * width,
            column: &|column| {
                let (weight, factor) = &weights[column / width];
                unpadded(column % width).map(|row| (&weight[row * hidden..][..hidden], *factor))
            },
        });
        let mut qkv_bias = vec![0.0; 3 * width];
        for (index, (linear, factor)) in linears.into_iter().enumerate() {
            let bias = bias(linear)?;
            for (column, out) in qkv_bias[index * width..][..width].iter_mut().enumerate() {
                *out = unpadded(column).map_or(0.0, |row| bias[row] * factor);
            }
        }

        let linear = |id, rows: &[Option<usize>], outputs: usize| -> Result<Linear<B>, ModelError> {
            let (weight, inputs) = (weight(id)?, TensorId::Weight(layer, id).len(config) / outputs);
            let weight = pack(UnpackedB {
                rows,
                columns: outputs.next_multiple_of(WIDTH_MULTIPLE),
                column: &|column| (column < outputs).then(|| (&weight[column * inputs..][..inputs], 1.0)),
            });
            Ok(Linear { weight, bias: pad(bias(id)?.into_owned()) })
        };
        let context_rows: Vec<_> = (0..width).map(unpadded).collect();
        Ok(Self {
            qkv: Linear { weight: qkv, bias: qkv_bias },
            attention_output: linear(LinearId::AttentionOutput, &context_rows, hidden)?,
            attention_norm: LayerNormParams::read(config, source, NormId::Attention(layer))?,
            ffn_up: linear(LinearId::FfnUp, &identity(hidden), intermediate)?,
            ffn_down: linear(LinearId::FfnDown, &identity(intermediate), hidden)?,
            ffn_norm: LayerNormParams::read(config, source, NormId::Ffn(layer))?,
        })
    }
}

impl LayerNormParams {
    /// # Errors
    /// A tensor that cannot be read or has the wrong size.
    fn read(config: &BertConfig, source: &dyn WeightSource, norm: NormId) -> Result<Self, ModelError> {
        let scale = pad(read(source, TensorId::Scale(norm), config)?.into_owned());
        Ok(Self { scale, shift: pad(read(source, TensorId::Shift(norm), config)?.into_owned()) })
    }
}
