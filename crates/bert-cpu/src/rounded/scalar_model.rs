//! The int8 scheme in scalar code, for tests: the reference network with rounded operands and exact sums of products.

#![allow(clippy::unwrap_used)]

use encoder_spec::{EncoderSpec, LinearId, Part, TensorId};

use crate::{ActivationMaxima, TokenEmbeddings, WeightSource, linear_input::LinearInput, reference};

/// Hidden states of a sequence, each product with operands rounded as in `int8`.
pub(super) fn forward(
    spec: &EncoderSpec,
    source: &dyn WeightSource,
    token_embeddings: &TokenEmbeddings,
    (ids, maxima): (&[u32], &ActivationMaxima),
) -> Vec<Vec<f64>> {
    let product = |tensor: TensorId, row: &[f64], weight: &[f64], bias: &[f64]| {
        let (input, sharing) = sharing_input(spec, tensor);
        let sharing: Vec<_> = sharing.into_iter().map(|tensor| source.read(tensor).unwrap()).collect();
        let maxima = maxima.of(input.with_layer(|layer| source.source_layer(layer))).unwrap();
        let width = row.len();
        let active = maxima.iter().filter(|max| **max > 0.0).count().max(1) as f32;
        let min = maxima.iter().sum::<f32>() / active / 2.0;
        let factors = (0..width).map(|channel| {
            let rows = sharing.iter().flat_map(|weight| weight.chunks_exact(width));
            let weight = rows.map(|weight| weight[channel].abs()).fold(0.0, f32::max);
            let factor = (weight / maxima[channel].max(min)).sqrt();
            if factor.is_normal() { factor } else { 1.0 }
        });
        let factors: Vec<f32> = factors.collect();
        let row: Vec<f32> = row.iter().zip(&factors).map(|(value, factor)| *value as f32 * factor).collect();
        let (scale, zero_point, rounded) = round_row(&row);
        let columns = weight.chunks_exact(width).zip(bias);
        let value = |(column, bias): (&[f64], &f64)| {
            let column: Vec<f32> =
                column.iter().zip(&factors).map(|(value, factor)| *value as f32 / factor).collect();
            let column_scale = column.iter().fold(0.0f32, |max, value| max.max(value.abs())) / 127.0;
            let products = column.iter().zip(&rounded).map(|(value, row)| {
                let weight = if column_scale > 0.0 { (value / column_scale).round_ties_even() } else { 0.0 };
                weight as i64 * (row - zero_point)
            });
            products.sum::<i64>() as f64 * f64::from(scale) * f64::from(column_scale) + bias
        };
        columns.map(value).collect()
    };
    reference::forward_with(spec, source, token_embeddings, (ids, &product)).unwrap()
}

/// Scale, zero point and integers of a row.
pub(super) type RoundedRow = (f32, i64, Vec<i64>);

/// Rounds a row as the kernels do.
pub(super) fn round_row(row: &[f32]) -> RoundedRow {
    let min = row.iter().copied().fold(0.0, f32::min);
    let max = row.iter().copied().fold(0.0, f32::max);
    let range = (max - min).max(1e-30);
    let inverse = 254.0 / range;
    let zero_point = (-min * inverse).round_ties_even() as i64;
    let rounded = row.iter().map(|value| (value * inverse).round_ties_even() as i64 + zero_point).collect();
    (range / 254.0, zero_point, rounded)
}

/// The input of a weight, and all weights with the same input.
pub(super) fn sharing_input(spec: &EncoderSpec, tensor: TensorId) -> (LinearInput, Vec<TensorId>) {
    let TensorId::Linear(layer, id, _) = tensor else {
        return (LinearInput::EmbeddingProjection, vec![tensor]);
    };
    let weights = |ids: &[LinearId]| {
        ids.iter().map(|id| TensorId::Linear(layer, *id, Part::Weight)).collect::<Vec<_>>()
    };
    match id {
        LinearId::Query | LinearId::Key | LinearId::Value => {
            (LinearInput::Qkv(layer), weights(&[LinearId::Query, LinearId::Key, LinearId::Value]))
        }
        LinearId::AttentionOutput => (LinearInput::AttentionOutput(layer), weights(&[id])),
        LinearId::Gate | LinearId::Up if spec.feed_forward.is_gated => {
            (LinearInput::FfnUp(layer), weights(&[LinearId::Gate, LinearId::Up]))
        }
        LinearId::Gate | LinearId::Up => (LinearInput::FfnUp(layer), weights(&[id])),
        LinearId::Down => (LinearInput::FfnDown(layer), weights(&[id])),
    }
}
