//! The reference network in scalar f64 code: slow and easy to read. Every kernel is tested against it.

use crate::{
    Activation, BertConfig, LinearId, ModelError, NormId, TensorId, TokenEmbeddings, WeightSource,
    weights::read,
};

/// Hidden states of one sequence after the last layer: `hidden` values for each token.
///
/// # Errors
/// A weight that cannot be read or has the wrong size.
///
/// # Panics
/// If an id or a position has no embedding.
pub fn forward(
    config: &BertConfig,
    source: &dyn WeightSource,
    token_embeddings: &TokenEmbeddings,
    ids: &[u32],
) -> Result<Vec<Vec<f64>>, ModelError> {
    let tensor = |tensor: TensorId| -> Result<Vec<f64>, ModelError> {
        Ok(read(source, tensor, config)?.iter().copied().map(f64::from).collect())
    };
    let apply_linear = |layer: usize, id: LinearId, rows: &[Vec<f64>]| -> Result<Vec<Vec<f64>>, ModelError> {
        let (weight, bias) = (tensor(TensorId::Weight(layer, id))?, tensor(TensorId::Bias(layer, id))?);
        Ok(rows.iter().map(|row| linear(row, &weight, &bias)).collect())
    };
    let norm = |id: NormId, rows: &[Vec<f64>]| -> Result<Vec<Vec<f64>>, ModelError> {
        let (scale, shift) = (tensor(TensorId::Scale(id))?, tensor(TensorId::Shift(id))?);
        Ok(rows.iter().map(|row| layer_norm(row, &scale, &shift, f64::from(config.epsilon))).collect())
    };

    let position_embeddings = tensor(TensorId::Positions)?;
    let mut embeddings = Vec::with_capacity(ids.len());
    let mut non_padding = 0;
    for (index, &id) in ids.iter().enumerate() {
        let mut token = vec![0.0; config.hidden];
        token_embeddings(id, &mut token);
        let row = config.position_id(index, non_padding, id);
        non_padding += usize::from(!config.is_padding(id));
        let position = &position_embeddings[row * config.hidden..][..config.hidden];
        embeddings.push(token.iter().zip(position).map(|(&a, b)| f64::from(a) + b).collect());
    }
    let mut hidden = norm(NormId::Embeddings, &embeddings)?;
    for layer in 0..config.layers {
        let queries = apply_linear(layer, LinearId::Query, &hidden)?;
        let keys = apply_linear(layer, LinearId::Key, &hidden)?;
        let values = apply_linear(layer, LinearId::Value, &hidden)?;
        let context = attention(config, &queries, &keys, &values);
        let output = apply_linear(layer, LinearId::AttentionOutput, &context)?;
        hidden = norm(NormId::Attention(layer), &sum(&hidden, &output))?;
        let mut ffn_hidden = apply_linear(layer, LinearId::FfnUp, &hidden)?;
        for value in ffn_hidden.iter_mut().flatten() {
            *value = activate(config.activation, *value);
        }
        let output = apply_linear(layer, LinearId::FfnDown, &ffn_hidden)?;
        hidden = norm(NormId::Ffn(layer), &sum(&hidden, &output))?;
    }
    Ok(hidden)
}

/// `weight · row + bias`; the weight is `[outputs, inputs]`.
pub fn linear(row: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let outputs = weight.chunks_exact(row.len());
    outputs
        .zip(bias)
        .map(|(weights, bias)| {
            weights.iter().zip(row).map(|(weight, value)| weight * value).sum::<f64>() + bias
        })
        .collect()
}

/// `(x − mean) / √(variance + epsilon) · scale + shift` (Ba, Kiros and Hinton 2016, arXiv 1607.06450).
pub fn layer_norm(row: &[f64], scale: &[f64], shift: &[f64], epsilon: f64) -> Vec<f64> {
    let count = row.len() as f64;
    let mean = row.iter().sum::<f64>() / count;
    let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let deviation = (variance + epsilon).sqrt();
    let parameters = scale.iter().zip(shift);
    row.iter()
        .zip(parameters)
        .map(|(value, (scale, shift))| (value - mean) / deviation * scale + shift)
        .collect()
}

/// softmax(queries · keysᵀ / √head_dim) · values in each head. All matrices are `[tokens, hidden]`.
fn attention(
    config: &BertConfig,
    queries: &[Vec<f64>],
    keys: &[Vec<f64>],
    values: &[Vec<f64>],
) -> Vec<Vec<f64>> {
    let (head_dim, mut out) = (config.head_dim(), vec![vec![0.0; config.hidden]; queries.len()]);
    for head in 0..config.heads {
        let columns = head * head_dim..(head + 1) * head_dim;
        for (query, out) in queries.iter().zip(&mut out) {
            let score = |key: &Vec<f64>| {
                let products = query[columns.clone()].iter().zip(&key[columns.clone()]);
                products.map(|(query, key)| query * key).sum::<f64>() / (head_dim as f64).sqrt()
            };
            let scores: Vec<f64> = keys.iter().map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let total: f64 = powers.iter().sum();
            for (power, value) in powers.iter().zip(values) {
                for column in columns.clone() {
                    out[column] += power / total * value[column];
                }
            }
        }
    }
    out
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

fn sum(a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<Vec<f64>> {
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
    fn layer_norm_centers_scales_and_shifts() {
        let normed = layer_norm(&[1.0, 3.0], &[2.0, 2.0], &[0.0, 1.0], 0.0);
        assert_eq!(normed, [-2.0, 3.0]);
    }
}
