//! The f32 network against the reference network, over dimensions and lengths.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use encoder_spec::{Activation, Disentangled, EncoderSpec, NormKind, PositionIds, ScoreBias};
use proptest::prelude::*;

use crate::{
    EncodeError, Encoder, EncoderConfig, Isa, Model, ModelError, ModelInputs, ThreadPool, TokenEmbeddings,
    reference,
    testing::{
        SharedLayers, SyntheticWeights, bert, check_independence_of_batch, config, encoder, expected,
        fp32_tests, gemma, hidden_states, inputs, networks, resize, sequences,
    },
};

#[track_caller]
fn check(isa: Isa, name: &str, spec: &EncoderSpec, lengths: &[usize]) {
    let sequences = sequences(spec, lengths);
    let found = hidden_states(&mut encoder(spec, isa, 0), &sequences, 0);
    for (ids, found) in sequences.iter().zip(&found) {
        let expected = expected(spec, ids).concat();
        assert_eq!(found.len(), expected.len());
        for (index, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            let error = (f64::from(found) - expected).abs();
            assert!(error < 2e-4, "{name}: value {index} is {found}, expected {expected}: {spec:?}");
        }
    }
}

fp32_tests! {
    fn hidden_states_match_reference(isa: Isa) {
        for (name, spec) in networks() {
            check(isa, name, &spec, &[1, 7, spec.max_tokens().unwrap_or(80), 2, 33]);
        }
    }

    fn hidden_states_of_bert_match_reference_for_other_sizes(isa: Isa) {
        let bert = |change: &dyn Fn(&mut crate::testing::BertShape)| {
            bert(|shape| {
                shape.layers = 1;
                change(shape);
            })
        };
        check(isa, "tanh", &bert(&|shape| shape.activation = Activation::GeluTanh), &[5, 64]);
        check(isa, "relu", &bert(&|shape| shape.activation = Activation::Relu), &[12, 13]);
        let mini = bert(&|shape| (shape.hidden, shape.heads, shape.intermediate) = (384, 12, 1536));
        check(isa, "mini", &mini, &[16, 3]);
        // Two blocks of K, the second a short one; heads wider than a panel.
        let wide = bert(&|shape| (shape.hidden, shape.heads, shape.intermediate) = (448, 7, 400));
        check(isa, "wide", &wide, &[9]);
    }

    /// Two blocks of K with every epilogue, among them the gate's.
    fn hidden_states_of_gated_networks_match_reference_for_other_sizes(isa: Isa) {
        let mut wide = gemma();
        (wide.hidden, wide.embeddings.width, wide.embeddings.scale) = (448, 448, 3.0);
        wide.feed_forward.intermediate = 400;
        check(isa, "wide", &wide, &[9, 40]);
    }

    fn layers_that_share_their_weights_match_reference(isa: Isa) {
        let spec = bert(|shape| shape.layers = 3);
        let weights = SharedLayers(SyntheticWeights(spec.clone()));
        let tokens = weights.0.token_embeddings();
        let expected = reference::forward(&spec, &weights, &tokens, &[3, 4, 5]).unwrap().concat();
        let model = Model::new(isa, inputs(&spec, &weights, tokens)).unwrap();
        let mut encoder = Encoder::new(Arc::new(model), Arc::new(ThreadPool::new(0).unwrap()));
        let found = hidden_states(&mut encoder, &[vec![3, 4, 5]], 0);
        for (found, expected) in found[0].iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 2e-4, "{found}, expected {expected}");
        }
    }

    fn the_second_text_of_a_pair_is_in_segment_1(isa: Isa) {
        for (name, spec) in networks() {
            let weights = SyntheticWeights(spec.clone());
            let config = config(&spec).with_segments(2);
            let inputs = ModelInputs { config, ..inputs(&spec, &weights, weights.token_embeddings()) };
            let model = Model::new(isa, inputs).unwrap();
            let segments = model.config().segments();
            assert_eq!(segments, if spec.embeddings.segments.is_some() { 2 } else { 1 }, "{name}");
            let mut pairs = Encoder::new(Arc::new(model), Arc::new(ThreadPool::new(0).unwrap()));
            let ids = [1, 2, 3, 4, 3, 2];
            let single = hidden_states(&mut pairs, &[ids.to_vec()], 0);
            assert_eq!(single, hidden_states(&mut encoder(&spec, isa, 0), &[ids.to_vec()], 0), "{name}");
            let mut encode = |second| {
                let encoded = pairs.encode_pairs(&[1, 2, 3, 4, 3, 2, 1], &[6, 1], &[second, 0], &mut || 0);
                encoded.map(|hidden| (0..6).flat_map(|token| hidden.row(token)).copied().collect::<Vec<_>>())
            };
            assert_eq!(encode(0).unwrap(), single[0], "{name}");
            let too_long = EncodeError::Segments { max: segments };
            assert_eq!(encode(7).unwrap_err(), too_long, "{name}");
            if segments == 1 {
                assert_eq!(encode(2).unwrap_err(), too_long, "{name}");
                continue;
            }
            let tokens = weights.token_embeddings();
            let expected = reference::forward_pair(&spec, &weights, &tokens, (&ids, 2)).unwrap().concat();
            let found = encode(2).unwrap();
            assert_ne!(found, single[0], "{name}");
            for (found, expected) in found.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 2e-4, "{name}: {found}, expected {expected}");
            }
        }
    }

    fn hidden_states_match_reference_for_any_sizes_and_lengths(isa: Isa) {
        let networks = networks();
        proptest!(ProptestConfig::with_cases(48), |(
            network in 0..networks.len(), kv_heads in 1usize..4, group in 1usize..3, head_dim in 2usize..40,
            // Not narrower: Gemma normalizes the sum of these products, so that the rounding of one near zero shows.
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
            network in 0..networks.len(), lengths in prop::collection::vec(1usize..60, 1..8), helpers in 0usize..4,
        )| {
            check_independence_of_batch(&networks[network].1, isa, &lengths, helpers);
        });
    }

    /// The number of helpers changes during the pass, from and to none.
    fn results_are_bit_identical_while_helpers_come_and_go(isa: Isa) {
        let spec = bert(|_| ());
        let sequences = sequences(&spec, &[60, 7]);
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let mut encoder = encoder(&spec, isa, 3);
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
        for (name, spec) in networks().into_iter().filter(|(name, _)| *name != "roberta") {
            let mut encoder = encoder(&spec, isa, 0);
            let error = |encoder: &mut Encoder, ids: &[u32], lengths: &[usize]| {
                encoder.encode(ids, lengths, &mut || 0).map(|_| ()).unwrap_err()
            };
            let unknown = EncodeError::UnknownToken { id: 100, vocabulary: 100 };
            assert_eq!(error(&mut encoder, &[1, 100], &[2]), unknown, "{name}");
            assert_eq!(error(&mut encoder, &[1; 81], &[81]), EncodeError::TooLong { tokens: 81, max: 80 });
            assert_eq!(error(&mut encoder, &[1; 3], &[2]), EncodeError::Lengths { lengths: 2, ids: 3 });
            // The encoder still works, and empty batches and sequences are valid.
            assert_eq!(hidden_states(&mut encoder, &[], 0), Vec::<Vec<f32>>::new());
            assert_eq!(hidden_states(&mut encoder, &[vec![1, 2], vec![]], 0)[1], Vec::<f32>::new());
        }
    }

    fn invalid_models_are_rejected(isa: Isa) {
        let invalid = [
            bert(|shape| shape.layers = 0),
            bert(|shape| shape.hidden = 1 << 30),
            EncoderSpec { norm: encoder_spec::NormSpec { epsilon: f32::NAN, ..gemma().norm }, ..gemma() },
            bert(|shape| shape.position_ids = PositionIds::AfterPadding(90)),
        ];
        for spec in invalid {
            assert!(EncoderConfig::new(spec.clone(), 80).is_err(), "{spec:?}");
        }
        let model = |spec: &EncoderSpec, weights: EncoderSpec| {
            let weights = SyntheticWeights(weights);
            Model::new(isa, inputs(spec, &weights, weights.token_embeddings())).map(|_| ())
        };
        let small = bert(|_| ());
        let found = model(&small, bert(|shape| shape.intermediate = 95));
        assert!(matches!(found, Err(ModelError::Length { .. })), "{found:?}");
        assert!(model(&small, small.clone()).is_ok());

        let mut disentangled = small.clone();
        disentangled.attention.score_bias = ScoreBias::Disentangled(Disentangled {
            span: 8,
            max_distance: None,
            content_to_position: true,
            position_to_content: false,
            has_norm: false,
        });
        let mut normed = small;
        normed.attention.has_query_key_norm = true;
        assert_eq!(normed.norm.kind, NormKind::LayerNorm { has_shift: true });
        for spec in [disentangled, normed] {
            let found = model(&spec, spec.clone());
            assert!(matches!(found, Err(ModelError::Unsupported(_))), "{found:?}");
        }
    }

    /// Activations are reused, and their padding must not keep values that are not finite.
    fn a_row_of_nan_does_not_affect_later_batches(isa: Isa) {
        let narrow = bert(|shape| (shape.hidden, shape.heads, shape.intermediate) = (40, 5, 70));
        for (name, spec) in networks().into_iter().chain([("narrow", narrow)]) {
            let weights = SyntheticWeights(spec.clone());
            let token_embeddings = weights.token_embeddings();
            let last = spec.vocabulary as u32 - 1;
            let with_nan: TokenEmbeddings = Arc::new(move |id, out: &mut [f32]| {
                if id == last { out.fill(f32::NAN) } else { token_embeddings(id, out) }
            });
            let model = Model::new(isa, inputs(&spec, &weights, with_nan)).unwrap();
            let mut used = Encoder::new(Arc::new(model), Arc::new(ThreadPool::new(0).unwrap()));
            let nan = hidden_states(&mut used, &[vec![last; 20]], 0);
            assert!(nan[0].iter().all(|value| value.is_nan()), "{name}");
            let text = [(1..21).map(|id| id % last).collect::<Vec<u32>>()];
            let mut new = encoder(&spec, isa, 0);
            assert_eq!(hidden_states(&mut used, &text, 0), hidden_states(&mut new, &text, 0), "{name}");
        }
    }
}
