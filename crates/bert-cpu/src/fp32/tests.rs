//! The f32 network against the reference network, over dimensions and lengths.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;

use crate::{
    Activation, BertConfig, EncodeError, Encoder, Isa, Model, ModelError, Positions, ThreadPool,
    TokenEmbeddings,
    testing::{
        SMALL, SyntheticWeights, check_independence_of_batch, encoder, expected, fp32_tests, hidden_states,
        sequences,
    },
};

#[track_caller]
fn check(isa: Isa, config: BertConfig, lengths: &[usize]) {
    let sequences = sequences(&config, lengths);
    let found = hidden_states(&mut encoder(config, isa, 0), &sequences, 0);
    for (ids, found) in sequences.iter().zip(&found) {
        let expected = expected(config, ids).concat();
        assert_eq!(found.len(), expected.len());
        for (index, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            let error = (f64::from(found) - expected).abs();
            assert!(error < 2e-4, "{config:?}: value {index} is {found}, expected {expected}");
        }
    }
}

fp32_tests! {
    fn hidden_states_match_reference(isa: Isa) {
        check(isa, SMALL, &[1, 7, 80, 2, 33]);
        check(isa, BertConfig { activation: Activation::GeluTanh, layers: 1, ..SMALL }, &[5, 64]);
        check(isa, BertConfig { activation: Activation::Relu, layers: 1, ..SMALL }, &[12, 13]);
        check(isa, BertConfig { hidden: 384, heads: 12, intermediate: 1536, layers: 1, ..SMALL }, &[16, 3]);
        // Two blocks of K, the second a short one; heads wider than a panel.
        check(isa, BertConfig { hidden: 448, heads: 7, intermediate: 400, layers: 1, ..SMALL }, &[9]);
    }

    fn roberta_position_ids_skip_padding(isa: Isa) {
        check(isa, BertConfig { positions: Positions::AfterPadding(1), vocabulary: 5, ..SMALL }, &[40, 3]);
    }

    fn hidden_states_match_reference_for_any_dimensions_and_lengths(isa: Isa) {
        proptest!(ProptestConfig::with_cases(24), |(
            heads in 1usize..6, head_dim in 1usize..40, intermediate in 1usize..130, layers in 1usize..3,
            lengths in prop::collection::vec(1usize..50, 1..6),
        )| {
            let hidden = heads * head_dim.max(4);
            check(isa, BertConfig { hidden, heads, intermediate, layers, ..SMALL }, &lengths);
        });
    }

    fn results_are_bit_identical_in_any_batch_and_on_any_number_of_threads(isa: Isa) {
        proptest!(ProptestConfig::with_cases(24), |(
            lengths in prop::collection::vec(1usize..60, 1..8), helpers in 0usize..4,
        )| {
            check_independence_of_batch(isa, &lengths, helpers);
        });
    }

    /// The number of helpers changes during the pass, from and to none.
    fn results_are_bit_identical_while_helpers_come_and_go(isa: Isa) {
        let sequences = sequences(&SMALL, &[60, 7]);
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let mut encoder = encoder(SMALL, isa, 3);
        let alone = hidden_states(&mut encoder, &sequences, 0).concat();
        for first in 0..12 {
            let mut calls = 0;
            let mut on_yield = || {
                calls += 1;
                [0, 3, 1][(first + calls / 4) % 3]
            };
            let hidden = encoder.encode(&sequences.concat(), &lengths, &mut on_yield).unwrap();
            let found: Vec<f32> = (0..67).flat_map(|token| hidden.row(token)).copied().collect();
            assert!(found == alone, "not bit-identical");
            // A pass that begins without helpers goes without them for a whole layer.
            assert!(first % 3 > 0 || calls > 8, "called {calls} times");
        }
    }

    fn invalid_batches_are_rejected(isa: Isa) {
        let mut encoder = encoder(SMALL, isa, 0);
        let error = |encoder: &mut Encoder, ids: &[u32], lengths: &[usize]| {
            encoder.encode(ids, lengths, &mut || 0).map(|_| ()).unwrap_err()
        };
        let unknown = EncodeError::UnknownToken { id: 100, vocabulary: 100 };
        assert_eq!(error(&mut encoder, &[1, 100], &[2]), unknown);
        assert_eq!(error(&mut encoder, &[1; 81], &[81]), EncodeError::TooLong { tokens: 81, max: 80 });
        assert_eq!(error(&mut encoder, &[1; 3], &[2]), EncodeError::Lengths { lengths: 2, ids: 3 });
        // The encoder still works, and empty batches and sequences are valid.
        assert_eq!(hidden_states(&mut encoder, &[], 0), Vec::<Vec<f32>>::new());
        assert_eq!(hidden_states(&mut encoder, &[vec![1, 2], vec![]], 0)[1], Vec::<f32>::new());
    }

    fn invalid_models_are_rejected(isa: Isa) {
        let model = |config: BertConfig, weights: BertConfig| {
            let weights = SyntheticWeights(weights);
            Model::new(config, &weights, weights.token_embeddings(), isa, 1).map(|_| ())
        };
        let invalid = [
            BertConfig { heads: 5, ..SMALL },
            BertConfig { layers: 0, ..SMALL },
            BertConfig { hidden: 1 << 30, ..SMALL },
            BertConfig { epsilon: f32::NAN, ..SMALL },
            BertConfig { positions: Positions::AfterPadding(90), ..SMALL },
        ];
        for config in invalid {
            assert!(matches!(model(config, SMALL), Err(ModelError::Config(_))), "{config:?}");
        }
        let found = model(SMALL, BertConfig { intermediate: 95, ..SMALL });
        assert!(matches!(found, Err(ModelError::Length { .. })), "{found:?}");
        assert!(model(SMALL, SMALL).is_ok());
    }

    /// Activations are reused, and their padding must not keep values that are not finite.
    fn a_row_of_nan_does_not_affect_later_batches(isa: Isa) {
        for config in [SMALL, BertConfig { hidden: 40, heads: 5, intermediate: 70, ..SMALL }] {
            let token_embeddings = SyntheticWeights(config).token_embeddings();
            let with_nan: TokenEmbeddings = Arc::new(move |id, out: &mut [f32]| match id {
                99 => out.fill(f32::NAN),
                id => token_embeddings(id, out),
            });
            let model = Model::new(config, &SyntheticWeights(config), with_nan, isa, 2).unwrap();
            let mut used = Encoder::new(Arc::new(model), Arc::new(ThreadPool::new(0).unwrap()));
            let nan = hidden_states(&mut used, &[vec![99; 20]], 0);
            assert!(nan[0].iter().all(|value| value.is_nan()));
            let text = [(1..21).collect::<Vec<u32>>()];
            let mut new = encoder(config, isa, 0);
            assert_eq!(hidden_states(&mut used, &text, 0), hidden_states(&mut new, &text, 0));
        }
    }
}
