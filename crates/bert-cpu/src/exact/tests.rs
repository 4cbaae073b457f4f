//! The f32 network against the reference, over shapes and lengths, for every instruction set that is there.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{borrow::Cow, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    Activation, EncodeError, Encoder, Isa, Model, Positions, Team,
    lanes::{Avx2, Avx512, Kernel},
    reference,
};

/// Runs a kernel on every instruction set of this processor; what is lacking is said, not hidden.
pub(crate) fn on_every_isa<K: Kernel>(kernel: impl Fn() -> K) {
    match Avx2::detect() {
        Some(lanes) => lanes.run(kernel()),
        None => println!("NOT RUN: no AVX2 here"),
    }
    match Avx512::detect() {
        Some(lanes) => lanes.run(kernel()),
        None => println!("NOT RUN: no AVX-512 here"),
    }
}

/// Weights that are different for every tensor and every place in it, of the size of trained ones.
#[derive(Clone, Copy)]
pub(crate) struct Made(pub(crate) Shape);

impl Made {
    fn value(salt: u64, index: usize) -> f32 {
        // SplitMix64's finaliser (Steele, Lea and Flood 2014): any bit of the input moves every bit of the output.
        let mut z = (salt << 32).wrapping_add(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 40) as f32 / (1u64 << 24) as f32) - 0.5
    }

    pub(crate) fn words(self) -> Words {
        Arc::new(move |id, out: &mut [f32]| {
            for (index, value) in out.iter_mut().enumerate() {
                *value = Self::value(1, id as usize * self.0.hidden + index);
            }
        })
    }
}

impl WeightSource for Made {
    fn read(&self, part: Part) -> Result<Cow<'_, [f32]>, Box<dyn std::error::Error + Send + Sync>> {
        let mut salt = 7u64;
        for byte in part.to_string().bytes() {
            salt = salt.wrapping_mul(31).wrapping_add(u64::from(byte));
        }
        let (scale, shift) = match part {
            Part::Weight(_, Linear::Down) => (2.0 / (self.0.intermediate as f32).sqrt(), 0.0),
            Part::Weight(..) => (4.0 / (self.0.hidden as f32).sqrt(), 0.0),
            Part::Scale(_) => (0.5, 1.0),
            _ => (0.2, 0.0),
        };
        let values =
            (0..part.len(&self.0)).map(|index| Self::value(salt & 0xffff_ffff, index) * scale + shift);
        Ok(values.collect())
    }
}

pub(crate) const SMALL: Shape = Shape {
    hidden: 48,
    heads: 4,
    layers: 2,
    intermediate: 96,
    vocabulary: 100,
    position_rows: 80,
    positions: Positions::FromZero,
    activation: Activation::Gelu,
    epsilon: 1e-12,
};

fn encoder(shape: Shape, isa: Isa, helpers: usize) -> Encoder {
    let made = Made(shape);
    let model = Model::new(shape, &made, made.words(), isa, 2).unwrap();
    Encoder::new(Arc::new(model), Arc::new(Team::new(helpers).unwrap()))
}

fn present() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_present())
}

fn sequence(shape: &Shape, length: usize, salt: usize) -> Vec<u32> {
    (0..length).map(|index| ((index * 31 + salt * 17) % shape.vocabulary) as u32).collect()
}

/// Every state of a block, by sequence.
fn states(encoder: &mut Encoder, sequences: &[Vec<u32>], helpers: usize) -> Vec<Vec<f32>> {
    let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let hidden = encoder.encode(&sequences.concat(), &lengths, helpers).unwrap();
    let mut token = 0;
    lengths
        .iter()
        .map(|&length| {
            token += length;
            (token - length..token).flat_map(|token| hidden.row(token)).copied().collect()
        })
        .collect()
}

#[track_caller]
fn check(shape: Shape, lengths: &[usize]) {
    let made = Made(shape);
    let sequences: Vec<_> =
        lengths.iter().enumerate().map(|(salt, &length)| sequence(&shape, length, salt)).collect();
    let expected: Vec<Vec<f64>> = sequences
        .iter()
        .map(|ids| reference::forward(&shape, &made, &made.words(), ids).unwrap().concat())
        .collect();
    for isa in present() {
        let found = states(&mut encoder(shape, isa, 0), &sequences, 0);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.len(), expected.len());
            for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
                let error = (f64::from(found) - expected).abs();
                assert!(error < 2e-4, "{isa}, {shape:?}: value {index} is {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn states_are_the_references() {
    check(SMALL, &[1, 7, 80, 2, 33]);
    check(Shape { activation: Activation::GeluTanh, layers: 1, ..SMALL }, &[5, 64]);
    check(Shape { activation: Activation::Relu, layers: 1, ..SMALL }, &[12, 13]);
    check(Shape { hidden: 384, heads: 12, intermediate: 1536, layers: 1, ..SMALL }, &[16, 3]);
    // Two passes over the inputs, the second a short one; heads wider than a panel.
    check(Shape { hidden: 448, heads: 7, intermediate: 400, layers: 1, ..SMALL }, &[9]);
}

#[test]
fn roberta_positions_skip_padding() {
    check(Shape { positions: Positions::AfterPadding(1), vocabulary: 5, ..SMALL }, &[40, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape_and_any_lengths(
        heads in 1usize..6, head in 1usize..40, intermediate in 1usize..130, layers in 1usize..3,
        lengths in prop::collection::vec(1usize..50, 1..6),
    ) {
        check(Shape { hidden: heads * head.max(4), heads, intermediate, layers, ..SMALL }, &lengths);
    }

    #[test]
    fn the_same_bits_in_any_company_and_on_any_number_of_threads(
        lengths in prop::collection::vec(1usize..60, 1..8), helpers in 0usize..4,
    ) {
        let sequences: Vec<_> =
            lengths.iter().enumerate().map(|(salt, &length)| sequence(&SMALL, length, salt)).collect();
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

#[test]
fn what_cannot_be_computed_is_refused() {
    let Some(isa) = present().next() else { return println!("NOT RUN: no instruction set here") };
    let mut encoder = encoder(SMALL, isa, 0);
    let error = |encoder: &mut Encoder, ids: &[u32], lengths: &[usize]| {
        encoder.encode(ids, lengths, 0).map(|_| ()).unwrap_err()
    };
    assert_eq!(error(&mut encoder, &[1, 100], &[2]), EncodeError::UnknownToken { id: 100, vocabulary: 100 });
    assert_eq!(error(&mut encoder, &[1; 81], &[81]), EncodeError::TooLong { tokens: 81, longest: 80 });
    assert_eq!(error(&mut encoder, &[1; 3], &[2]), EncodeError::Lengths { lengths: 2, ids: 3 });
    // And it goes on afterwards; nothing is a block, too.
    assert_eq!(states(&mut encoder, &[], 0), Vec::<Vec<f32>>::new());
    assert_eq!(states(&mut encoder, &[vec![1, 2], vec![]], 0)[1], Vec::<f32>::new());
}

#[test]
fn models_that_make_no_sense_are_refused() {
    let Some(isa) = present().next() else { return println!("NOT RUN: no instruction set here") };
    let model = |shape: Shape, source: Shape| {
        Model::new(shape, &Made(source), Made(source).words(), isa, 1).map(|_| ())
    };
    let wrong = [
        Shape { heads: 5, ..SMALL },
        Shape { layers: 0, ..SMALL },
        Shape { hidden: 1 << 30, ..SMALL },
        Shape { epsilon: f32::NAN, ..SMALL },
        Shape { positions: Positions::AfterPadding(90), ..SMALL },
    ];
    for shape in wrong {
        assert!(matches!(model(shape, SMALL), Err(ModelError::Shape(_))), "{shape:?}");
    }
    let found = model(SMALL, Shape { intermediate: 95, ..SMALL });
    assert!(matches!(found, Err(ModelError::Length { .. })), "{found:?}");
    assert!(model(SMALL, SMALL).is_ok());
}
