//! The reference network in scalar f64 code: slow and easy to read. Every kernel is tested against it.
//!
//! It interprets every mechanism of an [`EncoderSpec`].

use encoder_spec::{
    Activation, EncoderSpec, LayerNormId, LinearId, NormId, NormKind, NormPlacement, NormSpec, Part,
    ScoreBias, TensorId,
};

use crate::{ModelError, TokenEmbeddings, WeightSource, weights::read};

/// A row of values for each token.
type Rows = Vec<Vec<f64>>;

/// Hidden states of one sequence after the last layer: `hidden` values for each token.
///
/// # Errors
/// A weight that cannot be read or has the wrong size.
///
/// # Panics
/// If an id or a position has no embedding.
pub fn forward(
    spec: &EncoderSpec,
    source: &dyn WeightSource,
    token_embeddings: &TokenEmbeddings,
    ids: &[u32],
) -> Result<Vec<Vec<f64>>, ModelError> {
    forward_pair(spec, source, token_embeddings, (ids, 0))
}

/// As [`forward`], with the last tokens, as many as the second number, in segment 1.
///
/// # Errors
/// As [`forward`].
///
/// # Panics
/// If an id, a position or a segment has no embedding.
pub fn forward_pair(
    spec: &EncoderSpec,
    source: &dyn WeightSource,
    token_embeddings: &TokenEmbeddings,
    sequence: (&[u32], usize),
) -> Result<Vec<Vec<f64>>, ModelError> {
    let product: Product<'_> = &|_, row, weight, bias| linear(row, weight, bias);
    forward_by(spec, source, token_embeddings, (sequence, product))
}

/// Computes the product of a row and a weight, `[outputs, inputs]`, plus a bias.
pub(crate) type Product<'p> = &'p dyn Fn(TensorId, &[f64], &[f64], &[f64]) -> Vec<f64>;

/// As [`forward`], with the products of linear layers by another function.
#[cfg(test)]
pub(crate) fn forward_with(
    spec: &EncoderSpec,
    source: &dyn WeightSource,
    token_embeddings: &TokenEmbeddings,
    (ids, product): (&[u32], Product<'_>),
) -> Result<Vec<Vec<f64>>, ModelError> {
    forward_by(spec, source, token_embeddings, ((ids, 0), product))
}

fn forward_by(
    spec: &EncoderSpec,
    source: &dyn WeightSource,
    token_embeddings: &TokenEmbeddings,
    (sequence, product): ((&[u32], usize), Product<'_>),
) -> Result<Vec<Vec<f64>>, ModelError> {
    let network = ReferenceNetwork { spec, source, product };
    let mut hidden = network.embed(token_embeddings, sequence)?;
    for layer in 0..spec.layers.len() {
        let attention = |input: &Rows| network.attention(layer, input);
        let feed_forward = |input: &Rows| network.feed_forward(layer, input);
        hidden = network.residual(
            &hidden,
            NormId::Layer(layer, LayerNormId::AttentionInput),
            NormId::Layer(layer, LayerNormId::AttentionOutput),
            attention,
        )?;
        hidden = network.residual(
            &hidden,
            NormId::Layer(layer, LayerNormId::FeedForwardInput),
            NormId::Layer(layer, LayerNormId::FeedForwardOutput),
            feed_forward,
        )?;
    }
    network.norm(NormId::Final, &hidden)
}

/// Bias of the score of a head, a query and a key.
type PairBias = Box<dyn Fn(usize, usize, usize) -> f64>;

struct ReferenceNetwork<'s> {
    spec: &'s EncoderSpec,
    source: &'s dyn WeightSource,
    product: Product<'s>,
}

impl ReferenceNetwork<'_> {
    fn tensor(&self, tensor: TensorId) -> Result<Option<Vec<f64>>, ModelError> {
        let values = read(self.source, tensor, self.spec)?;
        Ok(values.map(|values| values.iter().copied().map(f64::from).collect()))
    }

    /// Reads a tensor that the specification says exists.
    fn required(&self, tensor: TensorId) -> Result<Vec<f64>, ModelError> {
        Ok(self.tensor(tensor)?.unwrap_or_else(|| panic!("the specification has no {tensor}")))
    }

    fn linear(&self, layer: usize, id: LinearId, rows: &Rows) -> Result<Rows, ModelError> {
        let tensor = TensorId::Linear(layer, id, Part::Weight);
        let weight = self.required(tensor)?;
        let bias = self.tensor(TensorId::Linear(layer, id, Part::Bias))?;
        let bias = bias.unwrap_or_else(|| vec![0.0; self.spec.linear_shape(id)[0]]);
        Ok(rows.iter().map(|row| (self.product)(tensor, row, &weight, &bias)).collect())
    }

    /// Normalizes rows; without such a norm, returns them unchanged.
    fn norm(&self, id: NormId, rows: &Rows) -> Result<Rows, ModelError> {
        let Some(weight) = self.tensor(TensorId::Scale(id))? else { return Ok(rows.clone()) };
        let offset = f64::from(self.spec.norm.scale_offset());
        let scale: Vec<f64> = weight.iter().map(|weight| weight + offset).collect();
        let shift = self.tensor(TensorId::Shift(id))?.unwrap_or_else(|| vec![0.0; scale.len()]);
        Ok(rows.iter().map(|row| normalize(&self.spec.norm, row, &scale, &shift)).collect())
    }

    /// `x + f(x)` with the norms at their places.
    fn residual(
        &self,
        x: &Rows,
        input: NormId,
        output: NormId,
        f: impl FnOnce(&Rows) -> Result<Rows, ModelError>,
    ) -> Result<Rows, ModelError> {
        let branch = f(&self.norm(input, x)?)?;
        match self.spec.norm_placement {
            NormPlacement::Post => self.norm(output, &sum(x, &branch)),
            NormPlacement::Pre { .. } => Ok(sum(x, &branch)),
            NormPlacement::PreAndPost => Ok(sum(x, &self.norm(output, &branch)?)),
        }
    }

    fn embed(
        &self,
        token_embeddings: &TokenEmbeddings,
        (ids, second_segment): (&[u32], usize),
    ) -> Result<Rows, ModelError> {
        let embeddings = &self.spec.embeddings;
        let width = embeddings.width;
        let positions = self.tensor(TensorId::PositionEmbeddings)?;
        let position_ids: Vec<usize> =
            embeddings.positions.map_or(vec![], |table| table.position_ids(ids).collect());
        let segments = self.tensor(TensorId::SegmentEmbeddings)?;
        let mut rows = Rows::with_capacity(ids.len());
        for (index, &id) in ids.iter().enumerate() {
            let mut token = vec![0.0; width];
            token_embeddings(id, &mut token);
            let mut row: Vec<f64> =
                token.iter().map(|&value| f64::from(value) * f64::from(embeddings.scale)).collect();
            if let Some(positions) = &positions {
                add(&mut row, &positions[position_ids[index] * width..][..width]);
            }
            if let Some(segments) = &segments {
                let segment = usize::from(index >= ids.len() - second_segment);
                add(&mut row, &segments[segment * width..][..width]);
            }
            rows.push(row);
        }
        let rows = self.norm(NormId::Embeddings, &rows)?;
        let tensor = TensorId::EmbeddingProjection(Part::Weight);
        let Some(weight) = self.tensor(tensor)? else { return Ok(rows) };
        let bias = self.required(TensorId::EmbeddingProjection(Part::Bias))?;
        Ok(rows.iter().map(|row| (self.product)(tensor, row, &weight, &bias)).collect())
    }

    /// softmax(scale · queries · keysᵀ + bias) · values in each head, and its output projection.
    fn attention(&self, layer: usize, input: &Rows) -> Result<Rows, ModelError> {
        let (spec, attention) = (self.spec, &self.spec.attention);
        let head_dim = attention.head_dim;
        let project = |id| self.linear(layer, id, input);
        let mut queries = project(LinearId::Query)?;
        let mut keys = project(LinearId::Key)?;
        let values = project(LinearId::Value)?;
        for (rows, norm) in [(&mut queries, LayerNormId::Query), (&mut keys, LayerNormId::Key)] {
            for (position, row) in rows.iter_mut().enumerate() {
                for head in row.chunks_exact_mut(head_dim) {
                    let normed = self.norm(NormId::Layer(layer, norm), &vec![head.to_vec()])?;
                    head.copy_from_slice(&normed[0]);
                    if let Some(rope) = spec.layers[layer].rope {
                        let (first, second) = head.split_at_mut(head_dim / 2);
                        for (pair, (a, b)) in first.iter_mut().zip(second).enumerate() {
                            let (cos, sin) = rope.cos_sin(position, pair, head_dim);
                            let (cos, sin) = (f64::from(cos), f64::from(sin));
                            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                        }
                    }
                }
            }
        }
        let bias = self.score_bias(layer, &queries, &keys)?;
        let span = spec.layers[layer].span;
        let mut context = vec![vec![0.0; attention.query_width()]; input.len()];
        for head in 0..attention.heads {
            let columns = head * head_dim..(head + 1) * head_dim;
            let kv_head = attention.kv_head(head);
            let kv_columns = kv_head * head_dim..(kv_head + 1) * head_dim;
            for (query, out) in context.iter_mut().enumerate() {
                let score = |key: usize| {
                    let product = dot(&queries[query][columns.clone()], &keys[key][kv_columns.clone()]);
                    product * f64::from(attention.scale) + bias(head, query, key)
                };
                let range = span.keys(query, input.len());
                let scores: Vec<f64> = range.clone().map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
                let total: f64 = powers.iter().sum();
                for (power, key) in powers.iter().zip(range) {
                    let value = &values[key][kv_columns.clone()];
                    for (out, value) in out[columns.clone()].iter_mut().zip(value) {
                        *out += power / total * value;
                    }
                }
            }
        }
        self.linear(layer, LinearId::AttentionOutput, &context)
    }

    fn score_bias(&self, layer: usize, queries: &Rows, keys: &Rows) -> Result<PairBias, ModelError> {
        let (heads, head_dim) = (self.spec.attention.heads, self.spec.attention.head_dim);
        match self.spec.attention.score_bias {
            ScoreBias::None => Ok(Box::new(|_, _, _| 0.0)),
            ScoreBias::Relative(buckets) => {
                let table = self.required(TensorId::RelativeBias)?;
                Ok(Box::new(move |head, query, key| {
                    table[buckets.row(key as i64 - query as i64) * heads + head]
                }))
            }
            ScoreBias::Disentangled(relative) => {
                let table = self.required(TensorId::RelativePositions)?;
                let table = table.chunks_exact(self.spec.hidden).map(<[f64]>::to_vec).collect();
                let table = self.norm(NormId::RelativePositions, &table)?;
                let position_queries = self.linear(layer, LinearId::Query, &table)?;
                let position_keys = self.linear(layer, LinearId::Key, &table)?;
                let (queries, keys) = (queries.clone(), keys.clone());
                let scale = f64::from(self.spec.attention.scale);
                Ok(Box::new(move |head, query, key| {
                    let columns = head * head_dim..(head + 1) * head_dim;
                    let row = relative.row(query as i64 - key as i64);
                    let product = |a: &[f64], b: &[f64]| dot(&a[columns.clone()], &b[columns.clone()]);
                    let mut sum = 0.0;
                    if relative.content_to_position {
                        sum += product(&queries[query], &position_keys[row]);
                    }
                    if relative.position_to_content {
                        sum += product(&keys[key], &position_queries[row]);
                    }
                    sum * scale
                }))
            }
        }
    }

    fn feed_forward(&self, layer: usize, input: &Rows) -> Result<Rows, ModelError> {
        let feed_forward = &self.spec.feed_forward;
        let up = self.linear(layer, LinearId::Up, input)?;
        let apply = |rows: Rows| -> Rows {
            let apply = |value: f64| activate(feed_forward.activation, value);
            rows.into_iter().map(|row| row.into_iter().map(apply).collect()).collect()
        };
        let inner = if feed_forward.is_gated {
            let gate = apply(self.linear(layer, LinearId::Gate, input)?);
            let product =
                |(gate, up): (&Vec<f64>, &Vec<f64>)| gate.iter().zip(up).map(|(a, b)| a * b).collect();
            gate.iter().zip(&up).map(product).collect()
        } else {
            apply(up)
        };
        self.linear(layer, LinearId::Down, &inner)
    }
}

/// `weight · row + bias`; the weight is `[outputs, inputs]`.
pub fn linear(row: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    weight.chunks_exact(row.len()).zip(bias).map(|(weights, bias)| dot(weights, row) + bias).collect()
}

/// The norm of a row, by the formulas of [`NormKind`].
pub fn normalize(norm: &NormSpec, row: &[f64], scale: &[f64], shift: &[f64]) -> Vec<f64> {
    let count = row.len() as f64;
    let mean = match norm.kind {
        NormKind::LayerNorm { .. } => row.iter().sum::<f64>() / count,
        NormKind::RmsNorm { .. } => 0.0,
    };
    let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let deviation = (variance + f64::from(norm.epsilon)).sqrt();
    let parameters = scale.iter().zip(shift);
    row.iter()
        .zip(parameters)
        .map(|(value, (scale, shift))| (value - mean) / deviation * scale + shift)
        .collect()
}

/// The activation function, by the formulas of [`Activation`].
pub fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => 0.5 * x * (1.0 + error_function(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

/// The error function by its Maclaurin series (DLMF 7.6.2, all terms positive). Beyond ±6 it rounds to ±1 in f64.
fn error_function(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while (sum + term - sum).abs() > 0.0 && n < 500.0 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(row: &mut [f64], other: &[f64]) {
    row.iter_mut().zip(other).for_each(|(value, other)| *value += other);
}

fn sum(a: &Rows, b: &Rows) -> Rows {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_function_matches_tabulated_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, expected) in
            [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)]
        {
            assert!((error_function(x) - expected).abs() < 1e-10, "erf({x})");
            assert!((error_function(-x) + expected).abs() < 1e-10, "erf(-{x})");
        }
        assert_eq!(error_function(7.0), 1.0);
    }

    #[test]
    fn norms_match_their_formulas() {
        let layer_norm = NormSpec { kind: NormKind::LayerNorm { has_shift: true }, epsilon: 0.0 };
        assert_eq!(normalize(&layer_norm, &[1.0, 3.0], &[2.0, 2.0], &[0.0, 1.0]), [-2.0, 3.0]);
        let rms_norm = NormSpec { kind: NormKind::RmsNorm { has_unit_offset: false }, epsilon: 0.5 };
        let normed = normalize(&rms_norm, &[3.0, -4.0], &[1.0, 2.0], &[0.0, 0.0]);
        let deviation = 13f64.sqrt();
        assert_eq!(normed, [3.0 / deviation, -8.0 / deviation]);
    }
}
