//! The bf16 network against the reference network, over dimensions and lengths.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use crate::{
    Activation, BertConfig, Isa, Positions,
    testing::{SMALL, check_independence_of_batch, encoder, expected, hidden_states, sequences},
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
fn check(config: BertConfig, lengths: &[usize], min: f64) {
    let sequences = sequences(&config, lengths);
    let found = hidden_states(&mut encoder(config, Isa::AmxBf16, 0), &sequences, 0);
    for (ids, found) in sequences.iter().zip(&found) {
        let expected = expected(config, ids);
        assert_eq!(found.len(), expected.len() * config.hidden);
        for (token, (found, expected)) in found.chunks(config.hidden).zip(&expected).enumerate() {
            let cosine = cosine(found, expected);
            assert!(cosine >= min, "{config:?}, {} tokens: token {token} has cosine {cosine}", ids.len());
        }
    }
}

/// all-MiniLM-L6-v2 with a small vocabulary.
const MINI: BertConfig =
    BertConfig { hidden: 384, heads: 12, layers: 6, intermediate: 1536, position_rows: 512, ..SMALL };

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn hidden_states_match_reference() {
    check(SMALL, &[1, 7, 80, 2, 33], 0.9999);
    check(BertConfig { activation: Activation::GeluTanh, ..SMALL }, &[5, 64], 0.9999);
    check(BertConfig { activation: Activation::Relu, ..SMALL }, &[12, 13], 0.9999);
    check(BertConfig { positions: Positions::AfterPadding(1), vocabulary: 5, ..SMALL }, &[40, 3], 0.9999);
    // Heads of two column blocks; an odd number of blocks of K, in two passes.
    check(BertConfig { hidden: 448, heads: 7, intermediate: 400, ..SMALL }, &[9], 0.9999);
    check(BertConfig { hidden: 768, heads: 12, intermediate: 3072, layers: 1, ..SMALL }, &[3], 0.9999);
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn hidden_states_match_reference_after_six_layers() {
    check(MINI, &[14, 6], 0.9999);
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn hidden_states_match_reference_for_more_rows_than_mc() {
    let config = BertConfig { hidden: 64, intermediate: 128, layers: 1, position_rows: 512, ..SMALL };
    check(config, &[350, 20], 0.9999);
}

/// On one thread, both layers of the feed-forward network are computed together, for a part of its activations at a
/// time; on several threads they are two steps.
#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn one_and_several_threads_give_bit_identical_results() {
    let config = BertConfig { hidden: 64, intermediate: 1000, position_rows: 512, ..SMALL };
    let sequences = sequences(&config, &[200, 17, 130]);
    let mut encoder = encoder(config, Isa::AmxBf16, 2);
    assert!(hidden_states(&mut encoder, &sequences, 0) == hidden_states(&mut encoder, &sequences, 2));
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn empty_batches_and_sequences_are_valid() {
    let mut encoder = encoder(SMALL, Isa::AmxBf16, 1);
    for helpers in [0, 1] {
        assert_eq!(hidden_states(&mut encoder, &[], helpers), Vec::<Vec<f32>>::new());
        let found = hidden_states(&mut encoder, &[vec![], vec![1, 2], vec![]], helpers);
        assert_eq!([found[0].len(), found[1].len(), found[2].len()], [0, 2 * SMALL.hidden, 0]);
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
        let config = BertConfig { hidden, heads, intermediate, layers, ..SMALL };
        check(config, &lengths, 0.9995);
    }

    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn results_are_bit_identical_in_any_batch_and_on_any_number_of_threads(
        lengths in prop::collection::vec(1usize..60, 1..8), helpers in 0usize..4,
    ) {
        check_independence_of_batch(Isa::AmxBf16, &lengths, helpers);
    }
}
