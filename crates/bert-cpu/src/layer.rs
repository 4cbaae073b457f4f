//! One layer's weights, arranged for the kernels: queries, keys and values as one map, heads padded, the scale of
//! the scores folded in. How a map is then packed is each network's own affair.

use crate::{BertConfig, LinearId, ModelError, NormId, TensorId, WeightSource, weights::read};

/// Columns of a state come in multiples of this: the widest panel.
pub(crate) const UNIT: usize = 32;

/// A layer whose maps are packed into `P`.
pub(crate) struct Layer<P> {
    /// Queries, keys and values: `3 · heads · head` columns, heads padded.
    pub(crate) mix: Map<P>,
    pub(crate) project: Map<P>,
    pub(crate) attention: Affine,
    pub(crate) up: Map<P>,
    pub(crate) down: Map<P>,
    pub(crate) output: Affine,
}

/// A weight and its bias, padded.
pub(crate) struct Map<P> {
    pub(crate) weight: P,
    pub(crate) bias: Vec<f32>,
}

/// A norm's scale and shift, padded with zeros.
pub(crate) struct Affine {
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

/// A map of `[inputs, columns]` that is to be packed.
pub(crate) struct Unpacked<'w> {
    /// For each input, its place among a column's values, or nothing for a zero.
    pub(crate) inputs: &'w [Option<usize>],
    /// A multiple of [`UNIT`].
    pub(crate) columns: usize,
    /// For each column, its values, and a factor to multiply them by; nothing for a column of zeros.
    pub(crate) column: &'w dyn Fn(usize) -> Option<(&'w [f32], f32)>,
}

fn pad(mut values: Vec<f32>) -> Vec<f32> {
    values.resize(values.len().next_multiple_of(UNIT), 0.0);
    values
}

/// Reads and packs every layer, shared out over `threads` threads. `head` is a head's padded width.
///
/// # Errors
/// The first weight that cannot be read or has the wrong size.
pub(crate) fn read_layers<P: Send>(
    config: &BertConfig,
    source: &dyn WeightSource,
    head: usize,
    threads: usize,
    pack: impl Fn(Unpacked<'_>) -> P + Sync,
) -> Result<Vec<Layer<P>>, ModelError> {
    let (share, pack) = (config.layers.div_ceil(threads.max(1)).max(1), &pack);
    let layers = std::thread::scope(|scope| {
        let starts = (0..config.layers).step_by(share);
        let handles: Vec<_> = starts
            .map(|start| {
                let range = start..config.layers.min(start + share);
                scope.spawn(move || {
                    range.map(|layer| Layer::read(config, source, layer, head, pack)).collect()
                })
            })
            .collect();
        let results = handles.into_iter().map(|handle| match handle.join() {
            Ok(layers) => layers,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.collect::<Result<Vec<Vec<Layer<P>>>, ModelError>>()
    })?;
    Ok(layers.into_iter().flatten().collect())
}

impl<P> Layer<P> {
    fn read(
        config: &BertConfig,
        source: &dyn WeightSource,
        layer: usize,
        padded: usize,
        pack: &impl Fn(Unpacked<'_>) -> P,
    ) -> Result<Self, ModelError> {
        let BertConfig { hidden, heads, intermediate, .. } = *config;
        let width = config.head_dim();
        let weight = |linear| read(source, TensorId::Weight(layer, linear), config);
        let bias = |linear| read(source, TensorId::Bias(layer, linear), config);
        // Where column or input `index` of the padded heads comes from.
        let place = |index: usize| (index % padded < width).then(|| index / padded * width + index % padded);
        let every = |count: usize| (0..count).map(Some).collect::<Vec<_>>();

        // softmax₂ takes powers of two, and the scores divided by the root of a head's width.
        let scale = std::f32::consts::LOG2_E / (width as f32).sqrt();
        let linears = [(LinearId::Query, scale), (LinearId::Key, 1.0), (LinearId::Value, 1.0)];
        let weights = linears.map(|(linear, factor)| weight(linear).map(|weight| (weight, factor)));
        let [query, key, value] = weights;
        let weights = [query?, key?, value?];
        let across = heads * padded;
        let mix = pack(Unpacked {
            inputs: &every(hidden),
            columns: 3 * across,
            column: &|column| {
                let (weight, factor) = &weights[column / across];
                place(column % across).map(|row| (&weight[row * hidden..][..hidden], *factor))
            },
        });
        let mut mix_bias = vec![0.0; 3 * across];
        for (which, (linear, factor)) in linears.into_iter().enumerate() {
            let bias = bias(linear)?;
            for (column, out) in mix_bias[which * across..][..across].iter_mut().enumerate() {
                *out = place(column).map_or(0.0, |row| bias[row] * factor);
            }
        }

        let map = |linear, inputs: &[Option<usize>], outputs: usize| -> Result<Map<P>, ModelError> {
            let (weight, length) = (weight(linear)?, TensorId::Weight(layer, linear).len(config) / outputs);
            let weight = pack(Unpacked {
                inputs,
                columns: outputs.next_multiple_of(UNIT),
                column: &|column| (column < outputs).then(|| (&weight[column * length..][..length], 1.0)),
            });
            Ok(Map { weight, bias: pad(bias(linear)?.into_owned()) })
        };
        let inputs: Vec<_> = (0..across).map(place).collect();
        Ok(Self {
            mix: Map { weight: mix, bias: mix_bias },
            project: map(LinearId::AttentionOutput, &inputs, hidden)?,
            attention: Affine::read(config, source, NormId::Attention(layer))?,
            up: map(LinearId::FfnUp, &every(hidden), intermediate)?,
            down: map(LinearId::FfnDown, &every(intermediate), hidden)?,
            output: Affine::read(config, source, NormId::Ffn(layer))?,
        })
    }
}

impl Affine {
    /// # Errors
    /// A tensor that cannot be read or has the wrong size.
    pub(crate) fn read(
        config: &BertConfig,
        source: &dyn WeightSource,
        norm: NormId,
    ) -> Result<Self, ModelError> {
        let scale = pad(read(source, TensorId::Scale(norm), config)?.into_owned());
        Ok(Self { scale, shift: pad(read(source, TensorId::Shift(norm), config)?.into_owned()) })
    }
}
