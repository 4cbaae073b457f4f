//! The bf16 network against the reference network, over dimensions and lengths.
#![allow(clippy::unwrap_used)]

use encoder_spec::{Activation, EncoderSpec, PositionIds};
use proptest::prelude::*;

use crate::{
    Isa,
    testing::{bert, check_independence_of_batch, encoder, expected, hidden_states, networks, sequences},
};

fn cosine(found: &[f32], expected: &[f64]) -> f64 {
    let dot = |a: &mut dyn Iterator<Item = (f64, f64)>| a.map(|(a, b)| a * b).sum::<f64>();
    let found = || found.iter().copied().map(f64::from);
    let expected = || expected.iter().copied();
    let norms = dot(&mut found().zip(found())) * dot(&mut expected().zip(expected()));
    dot(&mut found().zip(expected())) / norms.sqrt()
}

/// Compares every token's hidden state with the reference's by their cosine.
#[track_caller]
fn check(spec: EncoderSpec, lengths: &[usize], min: f64) {
    let sequences = sequences(&spec, lengths);
    let found = hidden_states(&mut encoder(&spec, Isa::AmxBf16, 0), &sequences, 0);
    for (ids, found) in sequences.iter().zip(&found) {
        let expected = expected(&spec, ids);
        assert_eq!(found.len(), expected.len() * spec.hidden);
        for (token, (found, expected)) in found.chunks(spec.hidden).zip(&expected).enumerate() {
            let cosine = cosine(found, expected);
            assert!(cosine >= min, "{spec:?}, {} tokens: token {token} has cosine {cosine}", ids.len());
        }
    }
}

/// all-MiniLM-L6-v2 with a small vocabulary.
fn mini() -> EncoderSpec {
    bert(|shape| {
        (shape.hidden, shape.heads, shape.layers) = (384, 12, 6);
        (shape.intermediate, shape.position_rows) = (1536, 512);
    })
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn hidden_states_match_reference() {
    check(bert(|_| ()), &[1, 7, 80, 2, 33], 0.9999);
    check(bert(|shape| shape.activation = Activation::GeluTanh), &[5, 64], 0.9999);
    check(bert(|shape| shape.activation = Activation::Relu), &[12, 13], 0.9999);
    let roberta = bert(|shape| {
        (shape.position_ids, shape.vocabulary) = (PositionIds::AfterPadding(1), 5);
    });
    check(roberta, &[40, 3], 0.9999);
    // Heads of two column blocks; an odd number of blocks of K, in two passes.
    let wide = bert(|shape| (shape.hidden, shape.heads, shape.intermediate) = (448, 7, 400));
    check(wide, &[9], 0.9999);
    let base = bert(|shape| {
        (shape.hidden, shape.heads, shape.intermediate, shape.layers) = (768, 12, 3072, 1);
    });
    check(base, &[3], 0.9999);
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn hidden_states_of_every_kind_of_network_match_reference() {
    for (_, spec) in networks() {
        check(spec.clone(), &[1, 7, spec.max_tokens().unwrap_or(80), 2, 33], 0.9995);
    }
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn hidden_states_match_reference_after_six_layers() {
    check(mini(), &[14, 6], 0.9999);
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn hidden_states_match_reference_for_more_rows_than_mc() {
    let spec = bert(|shape| {
        (shape.hidden, shape.intermediate, shape.layers, shape.position_rows) = (64, 128, 1, 512);
    });
    check(spec, &[350, 20], 0.9999);
}

/// On one thread, both layers of the feed-forward network are computed together, for a part of its activations at a
/// time; on several threads they are two steps.
#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn one_and_several_threads_give_bit_identical_results() {
    let spec = bert(|shape| (shape.hidden, shape.intermediate, shape.position_rows) = (64, 1000, 512));
    let sequences = sequences(&spec, &[200, 17, 130]);
    let mut encoder = encoder(&spec, Isa::AmxBf16, 2);
    assert!(hidden_states(&mut encoder, &sequences, 0) == hidden_states(&mut encoder, &sequences, 2));
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn empty_batches_and_sequences_are_valid() {
    let spec = bert(|_| ());
    let mut encoder = encoder(&spec, Isa::AmxBf16, 1);
    for helpers in [0, 1] {
        assert_eq!(hidden_states(&mut encoder, &[], helpers), Vec::<Vec<f32>>::new());
        let found = hidden_states(&mut encoder, &[vec![], vec![1, 2], vec![]], helpers);
        assert_eq!([found[0].len(), found[1].len(), found[2].len()], [0, 2 * spec.hidden, 0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn hidden_states_match_reference_for_any_dimensions_and_lengths(
        heads in 1usize..6, head_dim in 1usize..40, intermediate in 1usize..130, layers in 1usize..3,
        lengths in prop::collection::vec(1usize..50, 1..6),
    ) {
        // At least 16 columns a head, so that rounding errors average out.
        let hidden = heads * head_dim.max(16);
        let spec = bert(|shape| {
            (shape.hidden, shape.heads, shape.intermediate, shape.layers) = (hidden, heads, intermediate, layers);
        });
        check(spec, &lengths, 0.9995);
    }

    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn results_are_bit_identical_in_any_batch_and_on_any_number_of_threads(
        network in 0..networks().len(), lengths in prop::collection::vec(1usize..60, 1..8), helpers in 0usize..4,
    ) {
        check_independence_of_batch(&networks()[network].1, Isa::AmxBf16, &lengths, helpers);
    }
}
