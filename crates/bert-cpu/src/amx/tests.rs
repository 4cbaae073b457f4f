//! The network in bf16 against the reference, over shapes and lengths.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use proptest::prelude::*;

use super::kernel_tests::amx;
use crate::{
    Activation, BertConfig, Isa, Positions,
    testing::{SMALL, encoder, expected, sequences, states},
};

fn cosine(found: &[f32], expected: &[f64]) -> f64 {
    let dot = |a: &mut dyn Iterator<Item = (f64, f64)>| a.map(|(a, b)| a * b).sum::<f64>();
    let found = || found.iter().copied().map(f64::from);
    let expected = || expected.iter().copied();
    let norms = dot(&mut found().zip(found())) * dot(&mut expected().zip(expected()));
    dot(&mut found().zip(expected())) / norms.sqrt()
}

/// Every token's state must point where the reference's does.
#[track_caller]
fn check(config: BertConfig, lengths: &[usize], least: f64) {
    if amx().is_none() {
        return;
    }
    let sequences = sequences(&config, lengths);
    let found = states(&mut encoder(config, Isa::AmxBf16, 0), &sequences, 0);
    for (ids, found) in sequences.iter().zip(&found) {
        let expected = expected(config, ids);
        assert_eq!(found.len(), expected.len() * config.hidden);
        for (token, (found, expected)) in found.chunks(config.hidden).zip(&expected).enumerate() {
            let cosine = cosine(found, expected);
            assert!(cosine >= least, "{config:?}, {} tokens: token {token} has cosine {cosine}", ids.len());
        }
    }
}

/// all-MiniLM-L6-v2, but for its vocabulary.
const MINI: BertConfig =
    BertConfig { hidden: 384, heads: 12, layers: 6, intermediate: 1536, position_rows: 512, ..SMALL };

#[test]
fn states_point_where_the_references_do() {
    check(SMALL, &[1, 7, 80, 2, 33], 0.9999);
    check(BertConfig { activation: Activation::GeluTanh, ..SMALL }, &[5, 64], 0.9999);
    check(BertConfig { activation: Activation::Relu, ..SMALL }, &[12, 13], 0.9999);
    check(BertConfig { positions: Positions::AfterPadding(1), vocabulary: 5, ..SMALL }, &[40, 3], 0.9999);
    // Heads of two units, an odd number of inputs' units, two passes over them.
    check(BertConfig { hidden: 448, heads: 7, intermediate: 400, ..SMALL }, &[9], 0.9999);
    check(BertConfig { hidden: 768, heads: 12, intermediate: 3072, layers: 1, ..SMALL }, &[3], 0.9999);
}

#[test]
fn states_after_six_layers_do() {
    check(MINI, &[14, 6], 0.9999);
}

#[test]
fn states_of_a_text_of_two_groups_of_rows_do() {
    check(
        BertConfig { hidden: 64, intermediate: 128, layers: 1, position_rows: 512, ..SMALL },
        &[350, 20],
        0.9999,
    );
}

/// On one thread the feed-forward part is one step, in shares of the wide state; on several it is two.
#[test]
fn one_thread_and_several_give_the_same_bits() {
    if amx().is_none() {
        return;
    }
    let config = BertConfig { hidden: 64, intermediate: 1000, position_rows: 512, ..SMALL };
    let sequences = sequences(&config, &[200, 17, 130]);
    let mut encoder = encoder(config, Isa::AmxBf16, 2);
    assert!(states(&mut encoder, &sequences, 0) == states(&mut encoder, &sequences, 2));
}

#[test]
fn nothing_is_a_block_too() {
    if amx().is_none() {
        return;
    }
    let mut encoder = encoder(SMALL, Isa::AmxBf16, 1);
    for helpers in [0, 1] {
        assert_eq!(states(&mut encoder, &[], helpers), Vec::<Vec<f32>>::new());
        let some = states(&mut encoder, &[vec![], vec![1, 2], vec![]], helpers);
        assert_eq!([some[0].len(), some[1].len(), some[2].len()], [0, 2 * SMALL.hidden, 0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_and_any_lengths(
        heads in 1usize..6, head in 1usize..40, intermediate in 1usize..130, layers in 1usize..3,
        lengths in prop::collection::vec(1usize..50, 1..6),
    ) {
        // Few columns average little out.
        let config = BertConfig { hidden: heads * head.max(16), heads, intermediate, layers, ..SMALL };
        check(config, &lengths, 0.9995);
    }

    #[test]
    fn the_same_bits_in_any_company_and_on_any_number_of_threads(
        lengths in prop::collection::vec(1usize..60, 1..8), helpers in 0usize..4,
    ) {
        if amx().is_some() {
            let sequences = sequences(&SMALL, &lengths);
            let mut encoder = encoder(SMALL, Isa::AmxBf16, helpers);
            let together = states(&mut encoder, &sequences, helpers);
            for (ids, together) in sequences.iter().zip(&together) {
                let alone = states(&mut encoder, std::slice::from_ref(ids), 0);
                prop_assert!(alone[0] == *together, "not the same bits");
            }
        }
    }
}
