//! The f32 network against the reference, over shapes and lengths, for every instruction set that is there.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use proptest::prelude::*;

use std::sync::Arc;

use crate::{
    Activation, BertConfig, EncodeError, Encoder, Isa, Model, ModelError, Positions, Precision, ThreadPool,
    TokenEmbeddings,
    testing::{Made, SMALL, encoder, expected, sequences, states},
};

/// The levels of this processor that compute in f32.
fn present() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available() && isa.precision() == Precision::Fp32)
}

#[track_caller]
fn check(config: BertConfig, lengths: &[usize]) {
    let sequences = sequences(&config, lengths);
    let expected: Vec<Vec<f64>> = sequences.iter().map(|ids| expected(config, ids).concat()).collect();
    for isa in present() {
        let found = states(&mut encoder(config, isa, 0), &sequences, 0);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.len(), expected.len());
            for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
                let error = (f64::from(found) - expected).abs();
                assert!(error < 2e-4, "{isa}, {config:?}: value {index} is {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn states_are_the_references() {
    check(SMALL, &[1, 7, 80, 2, 33]);
    check(BertConfig { activation: Activation::GeluTanh, layers: 1, ..SMALL }, &[5, 64]);
    check(BertConfig { activation: Activation::Relu, layers: 1, ..SMALL }, &[12, 13]);
    check(BertConfig { hidden: 384, heads: 12, intermediate: 1536, layers: 1, ..SMALL }, &[16, 3]);
    // Two passes over the inputs, the second a short one; heads wider than a panel.
    check(BertConfig { hidden: 448, heads: 7, intermediate: 400, layers: 1, ..SMALL }, &[9]);
}

#[test]
fn roberta_positions_skip_padding() {
    check(BertConfig { positions: Positions::AfterPadding(1), vocabulary: 5, ..SMALL }, &[40, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape_and_any_lengths(
        heads in 1usize..6, head in 1usize..40, intermediate in 1usize..130, layers in 1usize..3,
        lengths in prop::collection::vec(1usize..50, 1..6),
    ) {
        check(BertConfig { hidden: heads * head.max(4), heads, intermediate, layers, ..SMALL }, &lengths);
    }

    #[test]
    fn the_same_bits_in_any_company_and_on_any_number_of_threads(
        lengths in prop::collection::vec(1usize..60, 1..8), helpers in 0usize..4,
    ) {
        let sequences = sequences(&SMALL, &lengths);
        for isa in present() {
            let mut encoder = encoder(SMALL, isa, helpers);
            let together = states(&mut encoder, &sequences, helpers);
            for (ids, together) in sequences.iter().zip(&together) {
                let alone = states(&mut encoder, std::slice::from_ref(ids), 0);
                prop_assert!(alone[0] == *together, "{isa}: not the same bits");
            }
        }
    }
}

/// Alone, with helpers, alone again in the middle of the pass: whoever computes a part, it is the same.
#[test]
fn the_same_bits_however_helpers_come_and_go() {
    let sequences = sequences(&SMALL, &[60, 7]);
    let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
    for isa in present() {
        let mut encoder = encoder(SMALL, isa, 3);
        let alone = states(&mut encoder, &sequences, 0).concat();
        for first in 0..12 {
            let mut calls = 0;
            let mut meanwhile = || {
                calls += 1;
                [0, 3, 1][(first + calls / 4) % 3]
            };
            let hidden = encoder.encode(&sequences.concat(), &lengths, &mut meanwhile).unwrap();
            let found: Vec<f32> = (0..67).flat_map(|token| hidden.row(token)).copied().collect();
            assert!(found == alone, "{isa}: not the same bits");
            // Who begins alone is alone for a layer.
            assert!(first % 3 > 0 || calls > 8, "{isa}: asked {calls} times");
        }
    }
}

#[test]
fn what_cannot_be_computed_is_refused() {
    let Some(isa) = present().next() else { return println!("NOT RUN: no instruction set here") };
    let mut encoder = encoder(SMALL, isa, 0);
    let error = |encoder: &mut Encoder, ids: &[u32], lengths: &[usize]| {
        encoder.encode(ids, lengths, &mut || 0).map(|_| ()).unwrap_err()
    };
    assert_eq!(error(&mut encoder, &[1, 100], &[2]), EncodeError::UnknownToken { id: 100, vocabulary: 100 });
    assert_eq!(error(&mut encoder, &[1; 81], &[81]), EncodeError::TooLong { tokens: 81, max: 80 });
    assert_eq!(error(&mut encoder, &[1; 3], &[2]), EncodeError::Lengths { lengths: 2, ids: 3 });
    // And it goes on afterwards; nothing is a block, too.
    assert_eq!(states(&mut encoder, &[], 0), Vec::<Vec<f32>>::new());
    assert_eq!(states(&mut encoder, &[vec![1, 2], vec![]], 0)[1], Vec::<f32>::new());
}

#[test]
fn models_that_make_no_sense_are_refused() {
    let Some(isa) = present().next() else { return println!("NOT RUN: no instruction set here") };
    let model = |config: BertConfig, source: BertConfig| {
        Model::new(config, &Made(source), Made(source).token_embeddings(), isa, 1).map(|_| ())
    };
    let wrong = [
        BertConfig { heads: 5, ..SMALL },
        BertConfig { layers: 0, ..SMALL },
        BertConfig { hidden: 1 << 30, ..SMALL },
        BertConfig { epsilon: f32::NAN, ..SMALL },
        BertConfig { positions: Positions::AfterPadding(90), ..SMALL },
    ];
    for config in wrong {
        assert!(matches!(model(config, SMALL), Err(ModelError::Config(_))), "{config:?}");
    }
    let found = model(SMALL, BertConfig { intermediate: 95, ..SMALL });
    assert!(matches!(found, Err(ModelError::Length { .. })), "{found:?}");
    assert!(model(SMALL, SMALL).is_ok());
}

/// The state's rows are wider than the network, and are used again.
#[test]
fn a_row_that_is_not_finite_spoils_no_later_text() {
    for (config, isa) in [SMALL, BertConfig { hidden: 40, heads: 5, intermediate: 70, ..SMALL }]
        .into_iter()
        .flat_map(|config| present().map(move |isa| (config, isa)))
    {
        let token_embeddings = Made(config).token_embeddings();
        let spoilt: TokenEmbeddings = Arc::new(move |id, out: &mut [f32]| match id {
            99 => out.fill(f32::NAN),
            id => token_embeddings(id, out),
        });
        let model = Model::new(config, &Made(config), spoilt, isa, 2).unwrap();
        let mut spoilt = Encoder::new(Arc::new(model), Arc::new(ThreadPool::new(0).unwrap()));
        assert!(states(&mut spoilt, &[vec![99; 20]], 0)[0].iter().all(|value| value.is_nan()), "{isa}");
        let text = [(1..21).collect::<Vec<u32>>()];
        assert_eq!(states(&mut spoilt, &text, 0), states(&mut encoder(config, isa, 0), &text, 0), "{isa}");
    }
}
