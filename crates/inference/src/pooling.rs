//! Computation of the head: from token embeddings to one sentence vector, or to the score of a pair.
//!
//! The definitions are those of sentence-transformers (its modules `Pooling`, `Dense`, `LayerNorm` and `Normalize`) for
//! a sequence without padding. Sums over tokens are computed in f64: in f32, the mean of 8,192 tokens is off by 1e-6 to
//! 6e-6, and the cost is negligible next to the network's.

use encoder_spec::{DenseActivation, DenseLayer, HeadLayerNorm, HeadModule, HeadSpec, PoolingMode};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut1, Axis, Zip, linalg::general_mat_mul, s};

use crate::error::StartError;

/// Number of tokens whose modules before pooling are computed together, so that their weights are read once for all.
const TOKEN_BLOCK: usize = 32;

/// Computes the sentence vector of `tokens` (`[length, hidden]`) and writes it to `out` (`[dimensions]`). The first
/// `prompt_tokens` tokens are left out of pooling, unless the head includes the prompt.
///
/// # Panics
/// If the sizes have not been checked by [`check_head`].
pub(crate) fn apply_head(
    head: &HeadSpec,
    tokens: ArrayView2<'_, f32>,
    prompt_tokens: usize,
    out: &mut [f32],
) {
    let prompt_tokens = if head.include_prompt { 0 } else { prompt_tokens };
    if !head.token_modules.is_empty() {
        let mut vector = pool_token_modules(
            &head.token_modules,
            tokens.slice(s![prompt_tokens.min(tokens.nrows()).., ..]),
        );
        apply_modules(&head.modules, &mut vector);
        return out.copy_from_slice(&vector);
    }
    let pool_all = |out: &mut [f32]| {
        for (&mode, out) in head.poolings.iter().zip(out.chunks_exact_mut(tokens.ncols())) {
            pool(mode, tokens, prompt_tokens, out);
        }
    };
    if head.modules.is_empty() {
        return pool_all(out);
    }
    let mut vector = vec![0.0; head.poolings.len() * tokens.ncols()];
    pool_all(&mut vector);
    apply_modules(&head.modules, &mut vector);
    out.copy_from_slice(&vector);
}

fn apply_modules(modules: &[HeadModule], vector: &mut Vec<f32>) {
    for module in modules {
        match module {
            HeadModule::Dense(layer) => *vector = dense(layer, vector),
            HeadModule::LayerNorm(norm) => layer_norm(norm, vector),
            HeadModule::Normalize => normalize(vector),
            HeadModule::Log1pRelu => log1p_relu(vector),
        }
    }
}

/// Applies modules to each of `tokens` (`[length, hidden]`), and returns the maximum of the results for each dimension;
/// zeros without tokens.
fn pool_token_modules(modules: &[HeadModule], tokens: ArrayView2<'_, f32>) -> Vec<f32> {
    let outputs = modules.iter().rev().find_map(|module| match module {
        HeadModule::Dense(layer) => Some(layer.outputs),
        HeadModule::LayerNorm(_) | HeadModule::Normalize | HeadModule::Log1pRelu => None,
    });
    let mut maxima: Option<Array1<f32>> = None;
    for block in tokens.axis_chunks_iter(Axis(0), TOKEN_BLOCK) {
        let mut rows = block.to_owned();
        for module in modules {
            match module {
                HeadModule::Dense(layer) => rows = dense_rows(layer, &rows),
                HeadModule::LayerNorm(norm) => each_row(&mut rows, |row| layer_norm(norm, row)),
                HeadModule::Normalize => each_row(&mut rows, normalize),
                HeadModule::Log1pRelu => each_row(&mut rows, log1p_relu),
            }
        }
        for row in rows.rows() {
            match &mut maxima {
                Some(maxima) => maxima.zip_mut_with(&row, |maximum, &value| *maximum = maximum.max(value)),
                None => maxima = Some(row.to_owned()),
            }
        }
    }
    maxima.map_or_else(|| vec![0.0; outputs.unwrap_or(tokens.ncols())], |maxima| maxima.to_vec())
}

/// Applies a dense layer to each row, as one matrix product.
fn dense_rows(layer: &DenseLayer, rows: &Array2<f32>) -> Array2<f32> {
    let mut outputs = Array2::zeros((rows.nrows(), layer.outputs));
    if let Ok(weight) = ArrayView2::from_shape((layer.outputs, layer.inputs), &layer.weight) {
        general_mat_mul(1.0, rows, &weight.t(), 0.0, &mut outputs);
    }
    for mut row in outputs.rows_mut() {
        if let Some(bias) = &layer.bias {
            row += &ArrayView1::from(bias);
        }
        row.mapv_inplace(|value| activate(layer.activation, value));
    }
    outputs
}

fn each_row(rows: &mut Array2<f32>, mut apply: impl FnMut(&mut [f32])) {
    for mut row in rows.rows_mut() {
        // Rows of an owned matrix are contiguous.
        if let Some(row) = row.as_slice_mut() {
            apply(row);
        }
    }
}

fn log1p_relu(vector: &mut [f32]) {
    vector.iter_mut().for_each(|value| *value = value.max(0.0).ln_1p());
}

/// Checks that the head maps `hidden` values to `dimensions` values.
pub(crate) fn check_head(head: &HeadSpec, hidden: usize, dimensions: usize) -> Result<(), StartError> {
    let found = head.dimensions(hidden).map_err(|error| StartError::Config(error.to_string()))?;
    if found == dimensions {
        Ok(())
    } else {
        Err(StartError::Config(format!(
            "the model computes {found} dimensions, but the model folder states {dimensions}"
        )))
    }
}

/// Pools `tokens` (`[length, hidden]`), from the one at `start` on, into `out` (`[hidden]`). Without any, the result
/// is the zero vector; but the first and the last token are taken from the whole sequence then, as
/// sentence-transformers does.
fn pool(mode: PoolingMode, tokens: ArrayView2<'_, f32>, start: usize, out: &mut [f32]) {
    let length = tokens.nrows();
    let mut out = ArrayViewMut1::from(out);
    let rows = || tokens.rows().into_iter().enumerate().skip(start);
    match mode {
        _ if length == 0 => out.fill(0.0),
        PoolingMode::Cls => out.assign(&tokens.row(if start < length { start } else { 0 })),
        PoolingMode::LastToken => out.assign(&tokens.row(length - 1)),
        _ if start >= length => out.fill(0.0),
        PoolingMode::Max => {
            out.assign(&tokens.row(start));
            for (_, row) in rows() {
                out.zip_mut_with(&row, |maximum, &value| *maximum = maximum.max(value));
            }
        }
        PoolingMode::Mean | PoolingMode::MeanSqrtLen | PoolingMode::WeightedMean => {
            let mut sums = Array1::<f64>::zeros(tokens.ncols());
            let mut total = 0.0;
            for (position, row) in rows() {
                // Positions count from the start of the sequence, even if its first tokens are left out.
                let weight = if mode == PoolingMode::WeightedMean { (position + 1) as f64 } else { 1.0 };
                Zip::from(&mut sums).and(row).for_each(|sum, &value| *sum += weight * f64::from(value));
                total += weight;
            }
            let divisor = if mode == PoolingMode::MeanSqrtLen { total.sqrt() } else { total };
            Zip::from(&mut out).and(&sums).for_each(|out, sum| *out = (sum / divisor) as f32);
        }
    }
}

fn dense(layer: &DenseLayer, input: &[f32]) -> Vec<f32> {
    let rows = layer.weight.chunks_exact(layer.inputs);
    let dot = |row: &[f32]| ArrayView1::from(row).dot(&ArrayView1::from(input));
    let biases = layer.bias.iter().flatten().copied().chain(std::iter::repeat(0.0));
    rows.zip(biases).map(|(row, bias)| activate(layer.activation, dot(row) + bias)).collect()
}

/// Applies the activation function of a dense layer, or of a score.
pub fn activate(activation: DenseActivation, x: f32) -> f32 {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    match activation {
        DenseActivation::Gelu => {
            bert_cpu::reference::activate(encoder_spec::Activation::Gelu, f64::from(x)) as f32
        }
        DenseActivation::Identity => x,
        DenseActivation::Relu => x.max(0.0),
        DenseActivation::Sigmoid => sigmoid(x),
        DenseActivation::Silu => x * sigmoid(x),
        DenseActivation::Tanh => x.tanh(),
    }
}

fn layer_norm(norm: &HeadLayerNorm, vector: &mut [f32]) {
    let length = vector.len() as f64;
    let mean = vector.iter().map(|&value| f64::from(value)).sum::<f64>() / length;
    let variance = vector.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / length;
    let scale = 1.0 / (variance + norm.epsilon).sqrt();
    for ((value, &weight), &bias) in vector.iter_mut().zip(&norm.weight).zip(&norm.bias) {
        let normalized = (f64::from(*value) - mean) * scale;
        *value = (normalized * f64::from(weight) + f64::from(bias)) as f32;
    }
}

/// Divides `vector` by its Euclidean norm. The zero vector is not changed, so the result is never NaN.
///
/// The sum is computed in f64, so its rounding error does not depend on the length.
pub(crate) fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    if norm > 0.0 {
        let scale = 1.0 / norm;
        for value in vector {
            *value = (f64::from(*value) * scale) as f32;
        }
    }
}

/// Cosine of the angle between `a` and `b`; 1 for two zero vectors, 0 if one vector is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { f64::from(u8::from(a == b)) }
}

/// Keeps the first `to` values of each row of length `dimensions` and normalizes them again. Matryoshka models are
/// trained for this (Kusupati et al. 2022, arXiv 2205.13147).
///
/// # Panics
/// If `to` is 0 or greater than `dimensions`, or if `vectors` is not a whole number of rows.
pub fn truncate_dimensions(vectors: &mut Vec<f32>, dimensions: usize, to: usize) {
    assert!(to > 0 && to <= dimensions && vectors.len().is_multiple_of(dimensions));
    let rows = vectors.len() / dimensions;
    for row in 0..rows {
        vectors.copy_within(row * dimensions..row * dimensions + to, row * to);
        normalize(&mut vectors[row * to..(row + 1) * to]);
    }
    vectors.truncate(rows * to);
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    const TOKENS: [[f32; 2]; 4] = [[8.0, -1.0], [1.0, 2.0], [3.0, -4.0], [5.0, 0.0]];

    /// Checks the pooled vector of the last tokens of [`TOKENS`], from `first` on, without the first `prompt_tokens`.
    #[track_caller]
    fn check_pool(mode: PoolingMode, first: usize, prompt_tokens: usize, expected: [f64; 2]) {
        let tokens = ndarray::arr2(&TOKENS[first..]);
        let mut out = [f32::NAN; 2];
        pool(mode, tokens.view(), prompt_tokens, &mut out);
        for (found, expected) in out.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{mode}: {out:?}");
        }
    }

    #[test]
    fn each_pooling_mode_matches_its_formula() {
        check_pool(PoolingMode::Mean, 1, 0, [3.0, -2.0 / 3.0]);
        check_pool(PoolingMode::Cls, 1, 0, [1.0, 2.0]);
        check_pool(PoolingMode::Max, 1, 0, [5.0, 2.0]);
        check_pool(PoolingMode::LastToken, 1, 0, [5.0, 0.0]);
        check_pool(PoolingMode::MeanSqrtLen, 1, 0, [9.0 / 3f64.sqrt(), -2.0 / 3f64.sqrt()]);
        check_pool(PoolingMode::WeightedMean, 1, 0, [22.0 / 6.0, -1.0]);
    }

    #[test]
    fn pooling_leaves_out_the_prompt_and_weights_by_the_position_in_the_whole_sequence() {
        check_pool(PoolingMode::Mean, 0, 2, [4.0, -2.0]);
        check_pool(PoolingMode::Cls, 0, 2, [3.0, -4.0]);
        check_pool(PoolingMode::Max, 0, 2, [5.0, 0.0]);
        check_pool(PoolingMode::LastToken, 0, 2, [5.0, 0.0]);
        check_pool(PoolingMode::MeanSqrtLen, 0, 2, [8.0 / 2f64.sqrt(), -4.0 / 2f64.sqrt()]);
        check_pool(PoolingMode::WeightedMean, 0, 2, [(3.0 * 3.0 + 4.0 * 5.0) / 7.0, -12.0 / 7.0]);
        for prompt_tokens in [4, 9] {
            check_pool(PoolingMode::Mean, 0, prompt_tokens, [0.0, 0.0]);
            check_pool(PoolingMode::Max, 0, prompt_tokens, [0.0, 0.0]);
            check_pool(PoolingMode::WeightedMean, 0, prompt_tokens, [0.0, 0.0]);
            check_pool(PoolingMode::Cls, 0, prompt_tokens, [8.0, -1.0]);
            check_pool(PoolingMode::LastToken, 0, prompt_tokens, [5.0, 0.0]);
        }
    }

    #[test]
    fn a_sequence_without_tokens_gives_zero_not_nan() {
        let mut out = [f32::NAN; 2];
        for mode in PoolingMode::ALL {
            out.fill(f32::NAN);
            pool(mode, Array2::zeros((0, 2)).view(), 0, &mut out);
            assert_eq!(out, [0.0, 0.0], "{mode}");
        }
        normalize(&mut out);
        assert_eq!(out, [0.0, 0.0]);
    }

    /// A sum in f32 is off by 6e-6 for 8,192 times 0.1.
    #[test]
    fn the_mean_of_a_long_sequence_is_exact() {
        let tokens =
            Array2::from_shape_fn((8192, 2), |(row, column)| if column == 0 { 0.1 } else { row as f32 });
        let mut out = [0.0; 2];
        pool(PoolingMode::Mean, tokens.view(), 0, &mut out);
        assert_eq!(out, [0.1, 8191.0 / 2.0]);
        pool(PoolingMode::WeightedMean, tokens.view(), 0, &mut out);
        assert_eq!(out, [0.1, (2.0 * 8192.0 - 2.0) / 3.0]);
    }

    fn dense_layer(
        inputs: usize,
        weight: &[f32],
        bias: Option<&[f32]>,
        activation: DenseActivation,
    ) -> DenseLayer {
        let (outputs, weight) = (weight.len() / inputs, weight.to_vec());
        DenseLayer { inputs, outputs, weight, bias: bias.map(<[f32]>::to_vec), activation }
    }

    #[test]
    fn a_dense_layer_is_applied_after_pooling_and_sizes_that_do_not_fit_are_errors() {
        let layer = dense_layer(2, &[0.5, -1.0], Some(&[0.25]), DenseActivation::Tanh);
        let modules = vec![HeadModule::Dense(layer)];
        let head = HeadSpec { modules, ..HeadSpec::from(PoolingMode::Cls) };
        check_head(&head, 2, 1).unwrap();
        assert!(check_head(&head, 3, 1).is_err() && check_head(&head, 2, 2).is_err());
        let mut out = [0.0];
        apply_head(&head, array![[1.0, 2.0]].view(), 0, &mut out);
        assert!((out[0] - (0.5f32 - 2.0 + 0.25).tanh()).abs() < 1e-7);
        for layer in [
            dense_layer(2, &[0.5], None, DenseActivation::Identity),
            dense_layer(1, &[0.5], Some(&[]), DenseActivation::Identity),
        ] {
            let layer = DenseLayer { outputs: 1, ..layer };
            let (hidden, modules) = (layer.inputs, vec![HeadModule::Dense(layer)]);
            let head = HeadSpec { modules, ..HeadSpec::from(PoolingMode::Cls) };
            assert!(check_head(&head, hidden, 1).is_err());
        }
    }

    #[test]
    fn each_activation_matches_its_formula() {
        // GELU: x Φ(x), with Φ(1) = 0.841344746 and Φ(−2) = 0.022750132 from tables of the normal distribution.
        for (activation, at_one, at_minus_two) in [
            (DenseActivation::Identity, 1.0, -2.0),
            (DenseActivation::Tanh, 0.761_594_2, -0.964_027_6),
            (DenseActivation::Relu, 1.0, 0.0),
            (DenseActivation::Sigmoid, 0.731_058_6, 0.119_202_9),
            (DenseActivation::Silu, 0.731_058_6, -0.238_405_8),
            (DenseActivation::Gelu, 0.841_344_7, -0.045_500_26),
        ] {
            for (x, expected) in [(1.0, at_one), (-2.0, at_minus_two)] {
                assert!((activate(activation, x) - expected).abs() < 1e-6f32, "{activation:?}({x})");
            }
        }
        assert_eq!(activate(DenseActivation::Silu, -1000.0), 0.0);
    }

    #[test]
    fn layer_norm_matches_its_formula() {
        let norm = HeadLayerNorm {
            weight: vec![1.0, 2.0, -1.0],
            bias: vec![0.0, 1.0, 0.5],
            epsilon: HeadLayerNorm::DEFAULT_EPSILON,
        };
        // Mean 2, variance 2/3.
        let mut vector = [1.0, 2.0, 3.0];
        layer_norm(&norm, &mut vector);
        let unit = 1.0 / (2.0 / 3.0 + 1e-5f64).sqrt();
        for (found, expected) in vector.into_iter().zip([-unit, 1.0, 0.5 - unit]) {
            assert!((f64::from(found) - expected).abs() < 1e-6, "{vector:?}");
        }
        let mut constant = [7.0; 3];
        layer_norm(&norm, &mut constant);
        assert_eq!(constant, [0.0, 1.0, 0.5]);
    }

    /// By hand: the first token and the maximum are concatenated to [3, 0, 3, 4] of norm √34; the layer adds all.
    #[test]
    fn poolings_are_concatenated_and_modules_are_applied_in_order() {
        let tokens = array![[9.0, 9.0], [3.0, 0.0], [1.0, 4.0]];
        let sum = dense_layer(4, &[1.0; 4], None, DenseActivation::Identity);
        let mut head = HeadSpec {
            poolings: vec![PoolingMode::Cls, PoolingMode::Max],
            include_prompt: false,
            ..HeadSpec::from(PoolingMode::Cls)
        };
        let mut out = [0.0; 4];
        apply_head(&head, tokens.view(), 1, &mut out);
        assert_eq!(out, [3.0, 0.0, 3.0, 4.0]);
        head.modules = vec![HeadModule::Normalize, HeadModule::Dense(sum)];
        check_head(&head, 2, 1).unwrap();
        apply_head(&head, tokens.view(), 1, &mut out[..1]);
        assert!((out[0] - 10.0 / 34f32.sqrt()).abs() < 1e-6, "{out:?}");
        head.modules.swap(0, 1);
        apply_head(&head, tokens.view(), 1, &mut out[..1]);
        assert_eq!(out[0], 1.0);
        let included = HeadSpec { include_prompt: true, modules: vec![], ..head };
        apply_head(&included, tokens.view(), 1, &mut out);
        assert_eq!(out, [9.0; 4]);
    }

    /// By hand: the layer maps the tokens to (1, −2) and (3, 0.5); ln(1 + 3) and ln(1.5), and without the second ln 2.
    #[test]
    fn modules_of_tokens_come_before_the_maximum() {
        let layer = dense_layer(2, &[1.0, 0.0, 0.0, -1.0], Some(&[0.0, 0.5]), DenseActivation::Identity);
        let head = HeadSpec {
            token_modules: vec![HeadModule::Dense(layer)],
            modules: vec![HeadModule::Log1pRelu],
            include_prompt: false,
            ..HeadSpec::from(PoolingMode::Max)
        };
        check_head(&head, 2, 2).unwrap();
        let tokens = array![[3.0, 0.0], [1.0, 2.5]];
        let mut out = [0.0; 2];
        apply_head(&head, tokens.view(), 0, &mut out);
        assert_eq!(out, [4f32.ln(), 1.5f32.ln()]);
        apply_head(&head, tokens.view(), 1, &mut out);
        assert_eq!(out, [2f32.ln(), 0.0]);
        apply_head(&head, tokens.view(), 2, &mut out);
        assert_eq!(out, [0.0, 0.0]);
        // More tokens than a block: equal to the same tokens in another order.
        let many = Array2::from_shape_fn((70, 2), |(row, column)| ((row * 7 + column * 3) % 23) as f32);
        let mut reversed = [0.0; 2];
        apply_head(&head, many.view(), 0, &mut out);
        apply_head(&head, many.slice(s![..;-1, ..]), 0, &mut reversed);
        assert_eq!(out, reversed);
        assert_eq!(out[0], 23f32.ln());
    }

    #[test]
    fn truncated_rows_are_unit_prefixes() {
        let mut vectors = vec![3.0, 4.0, 12.0, 0.0, 0.0, 1.0];
        truncate_dimensions(&mut vectors, 3, 2);
        assert_eq!(vectors, [0.6, 0.8, 0.0, 0.0]);
    }

    proptest! {
        #[test]
        fn a_normalized_vector_has_norm_one_and_the_same_direction(
            vector in prop::collection::vec(-1e30f32..1e30, 1..64)
        ) {
            let mut unit = vector.clone();
            normalize(&mut unit);
            prop_assert!(unit.iter().all(|value| value.is_finite()));
            if vector.iter().any(|&value| value != 0.0) {
                let norm: f64 = unit.iter().map(|&value| f64::from(value).powi(2)).sum();
                prop_assert!((norm - 1.0).abs() < 1e-5);
                prop_assert!(cosine(&vector, &unit) > 1.0 - 1e-6);
            }
        }
    }
}
