//! Networks in int8 and bf16 against the reference network, and against the int8 scheme in scalar code.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use encoder_spec::{EncoderSpec, TensorId};
use proptest::prelude::*;

use super::scalar_model;
use crate::{
    ActivationMaxima, Encoder, Isa, Model, ModelError, ModelInputs, Precision, ThreadPool, TokenEmbeddings,
    WeightSource,
    linear_input::LinearInput,
    maxima::MaximaRecorder,
    reference,
    testing::{
        SharedLayers, SyntheticWeights, bert, check_independence_of_batch, encoder, gemma, hidden_states,
        inputs, maxima, model, networks, resize, rounded_tests, sequences,
    },
};

/// Error of a network in int8: the rounding of a weight is up to 1/254 of the largest of its column, that of an
/// activation up to 1/508 of its row's range, and each layer adds to it. Measured: at most 0.020 over [`networks`].
const INT8_ERROR: f64 = 0.05;

/// Error in bf16, whose rounding is up to 2⁻⁹ of a value.
const BF16_ERROR: f64 = 0.02;

/// Difference from the int8 scheme in scalar code, if no activation is so near to the middle between two integers that
/// f32's rounding in a step before decides. Measured: 2e-7.
const SCHEME_ERROR: f64 = 1e-5;

/// Difference from the scheme if there is such an activation: the next layers round many others differently.
const MAX_SCHEME_ERROR: f64 = 0.02;

/// Root mean square of the difference, relative to that of the expected values.
fn error(found: &[f32], expected: &[Vec<f64>]) -> f64 {
    let expected = expected.concat();
    assert_eq!(found.len(), expected.len());
    let (mut difference, mut total) = (0.0, 0.0);
    for (found, expected) in found.iter().zip(&expected) {
        difference += (f64::from(*found) - expected).powi(2);
        total += expected.powi(2);
    }
    (difference / total).sqrt()
}

#[track_caller]
fn check(isa: Isa, name: &str, spec: &EncoderSpec, lengths: &[usize]) -> Vec<f64> {
    let weights = SyntheticWeights(spec.clone());
    check_weights(isa, name, spec, (&weights, weights.token_embeddings()), lengths)
}

/// Checks that most texts have the values of the scheme.
#[track_caller]
fn check_scheme(isa: Isa, differences: &[f64]) {
    let near = differences.iter().filter(|difference| **difference < SCHEME_ERROR).count();
    let has_all = differences.is_empty() == (isa.precision() != Precision::Int8);
    assert!(has_all && near * 4 >= differences.len() * 3, "differences from the scheme: {differences:?}");
}

/// Compares with the reference network, and in int8 also with the scheme in scalar code. Returns the differences from
/// the scheme.
#[track_caller]
fn check_weights(
    isa: Isa,
    name: &str,
    spec: &EncoderSpec,
    (source, tokens): (&dyn WeightSource, TokenEmbeddings),
    lengths: &[usize],
) -> Vec<f64> {
    let sequences = sequences(spec, lengths);
    let model = model(spec, source, Arc::clone(&tokens), isa);
    let mut encoder = Encoder::new(Arc::new(model), Arc::new(ThreadPool::new(0).unwrap()));
    let found = hidden_states(&mut encoder, &sequences, 0);
    let is_int8 = isa.precision() == Precision::Int8;
    let maxima = is_int8.then(|| {
        let maxima = maxima(spec, source, Arc::clone(&tokens));
        maxima.of_shared_weights(|layer| source.source_layer(layer))
    });
    let mut differences = Vec::new();
    for (ids, found) in sequences.iter().zip(&found) {
        let exact = reference::forward(spec, source, &tokens, ids).unwrap();
        let (distance, max) = (error(found, &exact), if is_int8 { INT8_ERROR } else { BF16_ERROR });
        assert!(distance < max, "{name}, {} tokens: error {distance}: {spec:?}", ids.len());
        if let Some(maxima) = &maxima {
            let scheme = scalar_model::forward(spec, source, &tokens, (ids, maxima));
            let (distance, tokens) = (error(found, &scheme), ids.len());
            assert!(distance < MAX_SCHEME_ERROR, "{name}, {tokens} tokens: {distance} from scheme: {spec:?}");
            differences.push(distance);
        }
    }
    differences
}

rounded_tests! {
    fn hidden_states_match_reference(isa: Isa) {
        let mut differences = Vec::new();
        for (name, spec) in networks() {
            differences.extend(check(isa, name, &spec, &[1, 7, spec.max_tokens().unwrap_or(80), 2, 33]));
        }
        let mini = bert(|shape| {
            (shape.hidden, shape.heads, shape.intermediate, shape.layers) = (384, 12, 1536, 1);
        });
        differences.extend(check(isa, "mini", &mini, &[16, 3]));
        let mut wide = gemma();
        (wide.hidden, wide.embeddings.width, wide.embeddings.scale) = (448, 448, 3.0);
        wide.feed_forward.intermediate = 401;
        differences.extend(check(isa, "wide", &wide, &[9, 40]));
        check_scheme(isa, &differences);
    }

    fn layers_that_share_their_weights_match_reference(isa: Isa) {
        let spec = bert(|shape| shape.layers = 3);
        let weights = SharedLayers(SyntheticWeights(spec.clone()));
        let tokens = weights.0.token_embeddings();
        let differences = check_weights(isa, "shared", &spec, (&weights, tokens), &[3, 20, 1, 9]);
        check_scheme(isa, &differences);
    }

    fn hidden_states_match_reference_for_any_sizes_and_lengths(isa: Isa) {
        let networks = networks();
        proptest!(ProptestConfig::with_cases(32), |(
            network in 0..networks.len(), kv_heads in 1usize..4, group in 1usize..3, head_dim in 2usize..40,
            intermediate in 8usize..130, layers in 1usize..4, lengths in prop::collection::vec(1usize..50, 1..6),
        )| {
            let (name, mut spec) = networks[network].clone();
            resize(&mut spec, [kv_heads, group, head_dim, intermediate, layers]);
            check(isa, name, &spec, &lengths);
        });
    }

    fn results_are_bit_identical_in_any_batch_and_on_any_number_of_threads(isa: Isa) {
        let networks = networks();
        proptest!(ProptestConfig::with_cases(48), |(
            network in 0..networks.len(), lengths in prop::collection::vec(1usize..78, 1..8), helpers in 0usize..4,
        )| {
            check_independence_of_batch(&networks[network].1, isa, &lengths, helpers);
        });
    }

    /// The number of helpers changes during the pass, from and to none.
    fn results_are_bit_identical_while_helpers_come_and_go(isa: Isa) {
        let spec = bert(|_| ());
        let sequences = sequences(&spec, &[70, 7]);
        let mut encoder = encoder(&spec, isa, 3);
        let alone = hidden_states(&mut encoder, &sequences, 0).concat();
        for first in 0..12 {
            let mut calls = 0;
            let mut on_yield = || {
                calls += 1;
                [0, 3, 1][(first + calls / 4) % 3]
            };
            let hidden = encoder.encode(&sequences.concat(), &[70, 7], &mut on_yield).unwrap();
            let found: Vec<f32> = (0..77).flat_map(|token| hidden.row(token)).copied().collect();
            assert!(found == alone, "not bit-identical");
        }
    }

    /// Activations are reused, and their padding must not keep values that are not finite.
    fn a_row_of_nan_does_not_affect_later_batches(isa: Isa) {
        let narrow = bert(|shape| (shape.hidden, shape.heads, shape.intermediate) = (40, 5, 70));
        for (name, spec) in networks().into_iter().chain([("narrow", narrow)]) {
            let weights = SyntheticWeights(spec.clone());
            let last = spec.vocabulary as u32 - 1;
            let token_embeddings = weights.token_embeddings();
            let maxima = maxima(&spec, &weights, Arc::clone(&token_embeddings));
            for infinite in [f32::NAN, f32::INFINITY] {
                let token_embeddings = Arc::clone(&token_embeddings);
                let with_infinite: TokenEmbeddings = Arc::new(move |id, out: &mut [f32]| {
                    token_embeddings(id, out);
                    if id == last { out[3] = infinite }
                });
                let inputs = ModelInputs {
                    activation_maxima: Some(&maxima),
                    ..inputs(&spec, &weights, with_infinite)
                };
                let model = Model::new(isa, inputs).unwrap();
                let mut used = Encoder::new(Arc::new(model), Arc::new(ThreadPool::new(0).unwrap()));
                let nan = hidden_states(&mut used, &[vec![last; 20]], 0);
                assert!(nan[0].iter().all(|value| value.is_nan()), "{name}");
                let text = [(1..21).map(|id| id % last).collect::<Vec<u32>>()];
                let mut new = encoder(&spec, isa, 0);
                assert_eq!(hidden_states(&mut used, &text, 0), hidden_states(&mut new, &text, 0), "{name}");
            }
        }
    }

    fn int8_models_require_the_maxima_of_their_network(isa: Isa) {
        let (spec, other) = (bert(|_| ()), bert(|shape| shape.intermediate = 95));
        let weights = SyntheticWeights(spec.clone());
        let tokens = weights.token_embeddings();
        let other = maxima(&other, &SyntheticWeights(other.clone()), Arc::clone(&tokens));
        let model = |activation_maxima| {
            let inputs = inputs(&spec, &weights, Arc::clone(&tokens));
            Model::new(isa, ModelInputs { activation_maxima, ..inputs }).map(|_| ())
        };
        if isa.precision() == Precision::Int8 {
            assert!(matches!(model(None), Err(ModelError::NoMaxima(found)) if found == isa));
            assert!(matches!(model(Some(&other)), Err(ModelError::OtherMaxima)));
        } else {
            assert!(model(None).is_ok() && model(Some(&other)).is_ok());
        }
    }

    fn maxima_are_the_same_for_any_batches_and_threads(isa: Isa) {
        for (name, spec) in networks() {
            let sequences = sequences(&spec, &[30, 7, 11]);
            let record = |encoder: &mut Encoder, batch: &[Vec<u32>], helpers: usize| {
                let lengths: Vec<usize> = batch.iter().map(Vec::len).collect();
                encoder.activation_maxima(&batch.concat(), &lengths, &[], &mut || helpers).unwrap()
            };
            let mut encoder = encoder(&spec, isa, 3);
            let together = record(&mut encoder, &sequences, 3);
            let mut merged = ActivationMaxima::default();
            for sequence in &sequences {
                merged.merge(&record(&mut encoder, std::slice::from_ref(sequence), 0));
            }
            assert!(together == merged && together.fit(&spec), "{name}");
        }
    }
}

/// The rows of every product of the reference network, against the maxima that the f32 kernels record.
#[test]
fn maxima_are_the_largest_magnitudes_of_the_inputs() {
    for (name, spec) in networks() {
        let weights = SyntheticWeights(spec.clone());
        let tokens = weights.token_embeddings();
        let found = maxima(&spec, &weights, Arc::clone(&tokens));
        let expected = MaximaRecorder::default();
        for ids in sequences(&spec, &[30, 7]) {
            let product = |tensor: TensorId, row: &[f64], weight: &[f64], bias: &[f64]| {
                let (input, _) = scalar_model::sharing_input(&spec, tensor);
                let magnitudes: Vec<f32> = row.iter().map(|value| value.abs() as f32).collect();
                expected.include(input, &magnitudes);
                reference::linear(row, weight, bias)
            };
            reference::forward_with(&spec, &weights, &tokens, (&ids, &product)).unwrap();
        }
        let expected = expected.maxima();
        assert!(found.fit(&spec) && expected.fit(&spec), "{name}");
        for input in LinearInput::all(&spec) {
            let (found, expected) = (found.of(input).unwrap(), expected.of(input).unwrap());
            for (channel, (found, expected)) in found.iter().zip(expected).enumerate() {
                let error = (found - expected).abs();
                assert!(error < 2e-4, "{name}, {input:?}: {found} in channel {channel}, expected {expected}");
            }
        }
    }
}
