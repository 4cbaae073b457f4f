//! Networks in int8 and bf16 against the reference network, and against the int8 scheme in scalar code.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use encoder_spec::EncoderSpec;
use proptest::prelude::*;

use super::scalar_model;
use crate::{
    EncodeError, Encoder, Isa, Model, ModelError, ModelInputs, Precision, ThreadPool, TokenEmbeddings,
    WeightSource, reference,
    testing::{
        SharedLayers, SyntheticWeights, bert, check_independence_of_batch, encoder, expected, gemma,
        hidden_states, inputs, maxima, model, networks, rounded_tests, sequences,
    },
};

fn root_mean_square(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value * value, count + 1));
    (sum / f64::from(count)).sqrt()
}

/// Root mean square of the difference, relative to that of the expected values.
fn error(found: &[f32], expected: &[Vec<f64>]) -> f64 {
    let expected = expected.concat();
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(&expected).map(|(found, expected)| f64::from(*found) - expected);
    root_mean_square(differences) / root_mean_square(expected.iter().copied())
}

#[track_caller]
fn check(isa: Isa, name: &str, spec: &EncoderSpec, lengths: &[usize]) {
    let sequences = sequences(spec, lengths);
    let found = hidden_states(&mut encoder(spec, isa, 0), &sequences, 0);
    let weights = SyntheticWeights(spec.clone());
    let tokens = weights.token_embeddings();
    let is_int8 = isa.precision() == Precision::Int8;
    let maxima = is_int8.then(|| maxima(spec, &weights, Arc::clone(&tokens)));
    for (ids, found) in sequences.iter().zip(&found) {
        let exact = error(found, &expected(spec, ids));
        eprintln!("XX {isa} {name} {} exact {exact}", ids.len());
        if let Some(maxima) = &maxima {
            let model = scalar_model::forward(spec, &weights, &tokens, (ids, maxima));
            let error = error(found, &model);
            eprintln!("XX {isa} {name} {} model {error}", ids.len());
        }
    }
}

rounded_tests! {
    fn hidden_states_match_reference(isa: Isa) {
        for (name, spec) in networks() {
            check(isa, name, &spec, &[1, 7, spec.max_tokens().unwrap_or(80), 2, 33]);
        }
    }
}
