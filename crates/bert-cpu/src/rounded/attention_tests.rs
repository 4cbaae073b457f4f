//! Attention with products of 16 bits against f64.
#![allow(clippy::unwrap_used)]

use encoder_spec::{RelativeBias, Span};
use proptest::prelude::*;

use super::{
    Avx2Int8, Avx512Bf16, Avx512Vnni, AvxVnni,
    attention::{PairAttention, PairDot},
};
use crate::{
    Isa,
    buffer::{Buffer, ScratchBuffer},
    fp32::attention::Attention,
    matrix::Matrix,
    positions::{BiasAxis, PositionBias},
    testing::{SyntheticWeights, rounded_tests},
};

/// Largest difference from f64, relative to the largest value: roundings of 13 and 17 bits.
const ERROR: f64 = 1e-3;

/// Queries, keys and values of one head, `[tokens, width]` each.
struct Head {
    rows: [Vec<Vec<f32>>; 3],
    span: Span,
    bias: Option<PositionBias>,
}

impl Head {
    /// Synthetic values; the magnitudes are those of queries, keys and values.
    fn synthetic(tokens: usize, width: usize, magnitudes: [f32; 3], span: Span) -> Self {
        let value = |part: usize, token, column| {
            SyntheticWeights::value(part as u64, token * width + column) * magnitudes[part]
        };
        let row = |part, token| (0..width).map(|column| value(part, token, column)).collect();
        let rows = [0, 1, 2].map(|part| (0..tokens).map(|token| row(part, token)).collect());
        Self { rows, span, bias: None }
    }

    /// The attention of the head. Memory that is not written before it is read is not a number.
    fn run<D: PairDot>(&self, dot: D) -> Vec<Vec<f32>> {
        let (tokens, width) = (self.rows[0].len(), self.rows[0][0].len());
        let buffers = self.rows.each_ref().map(|rows| {
            let mut buffer = Buffer::zeroed(tokens * width);
            buffer.as_mut_slice().copy_from_slice(&rows.concat());
            buffer
        });
        let view = |buffer| Matrix::of(buffer, 0, [tokens, width], width);
        let out = Buffer::zeroed(tokens * width);
        let mut scratch = [ScratchBuffer::default(), ScratchBuffer::default()];
        for (scratch, rows) in scratch.iter_mut().zip([2 * tokens + 100, 100]) {
            let mut garbage = Buffer::zeroed(rows * (2 * width + 2 * tokens + 100));
            garbage.as_mut_slice().fill(f32::NAN);
            *scratch = ScratchBuffer::from(garbage);
        }
        for has_packed_keys in [false, true] {
            dot.run(PairAttention(Attention {
                queries: view(&buffers[0]),
                keys: view(&buffers[1]),
                values: view(&buffers[2]),
                out: view(&out),
                span: self.span,
                bias: self.bias.as_ref().map(|bias| (bias, 1)),
                has_packed_keys,
                scratch: &mut scratch,
            }));
        }
        // SAFETY: no other code accesses the buffer.
        unsafe { out.as_slice() }.chunks_exact(width).map(<[f32]>::to_vec).collect()
    }

    /// The same in f64.
    fn expected(&self) -> Vec<Vec<f64>> {
        let [queries, keys, values] = &self.rows;
        let row = |(query, row): (usize, &Vec<f32>)| {
            let attended = self.span.keys(query, keys.len());
            let score = |key: usize| {
                let products = row.iter().zip(&keys[key]).map(|(a, b)| f64::from(*a) * f64::from(*b));
                let bias = self.bias.as_ref().map_or(0.0, |bias| bias.row(1, query, key)[0]);
                products.sum::<f64>() + f64::from(bias)
            };
            let scores: Vec<f64> = attended.clone().map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp2()).collect();
            let sum: f64 = weights.iter().sum();
            let value = |column: usize| {
                let products = attended.clone().zip(&weights);
                products.map(|(key, weight)| weight / sum * f64::from(values[key][column])).sum()
            };
            (0..row.len()).map(value).collect()
        };
        queries.iter().enumerate().map(row).collect()
    }

    fn check<D: PairDot>(&self, dot: D) {
        let largest = self.rows[2].iter().flatten().fold(0.0f32, |max, value| max.max(value.abs()));
        for (query, (found, expected)) in self.run(dot).iter().zip(self.expected()).enumerate() {
            for (found, expected) in found.iter().zip(expected) {
                let difference = (f64::from(*found) - expected).abs() / f64::from(largest);
                let tokens = self.rows[0].len();
                assert!(
                    difference < ERROR,
                    "{found}, not {expected}: query {query} of {tokens}, {:?}",
                    self.span
                );
            }
        }
    }
}

/// A check of the attention kernels of one instruction set.
trait PairCheck {
    fn run<D: PairDot>(&self, dot: D);
}

fn run(isa: Isa, check: &impl PairCheck) {
    match isa {
        Isa::Avx2Int8 => check.run(Avx2Int8::detect().unwrap()),
        Isa::AvxVnni => check.run(AvxVnni::detect().unwrap()),
        Isa::Avx512Vnni => check.run(Avx512Vnni::detect().unwrap()),
        Isa::Avx512Bf16 => check.run(Avx512Bf16::detect().unwrap()),
        _ => panic!("no products of 16 bits for {isa}"),
    }
}

impl PairCheck for Head {
    fn run<D: PairDot>(&self, dot: D) {
        self.check(dot);
    }
}

fn spans() -> impl Strategy<Value = Span> {
    prop_oneof![Just(Span::Full), Just(Span::Causal), (0usize..40).prop_map(Span::Window)]
}

rounded_tests! {
    fn heads_match_f64(isa: Isa) {
        let heads = (1usize..150, 1usize..5, spans(), 0usize..3, any::<bool>());
        proptest!(ProptestConfig::with_cases(96), |((tokens, panels, span, magnitude, has_bias) in heads)| {
            let magnitudes = [[2.0, 2.0, 2.0], [400.0, 0.01, 1e-3], [1e-3, 2e3, 5e4]][magnitude];
            let mut head = Head::synthetic(tokens, 32 * panels, magnitudes, span);
            if has_bias {
                let bias = RelativeBias { rows: 8, buckets: 8, max_distance: 16 };
                let table: Vec<f32> = (0..16).map(|index| SyntheticWeights::value(9, index) * 8.0).collect();
                head.bias = Some(PositionBias::new(bias, BiasAxis::Keys, &table, [2, tokens, 32], 1.0));
            }
            run(isa, &head);
        });
    }

    fn one_key_takes_all_or_all_share(isa: Isa) {
        for factor in [0.0, 20.0] {
            run(isa, &Head::synthetic(300, 32, [factor, 1.0, 3.0], Span::Full));
        }
    }

    fn a_value_that_is_not_finite_shows_in_every_row(isa: Isa) {
        struct NotFinite;

        impl PairCheck for NotFinite {
            fn run<D: PairDot>(&self, dot: D) {
                for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut head = Head::synthetic(70, 32, [1.0; 3], Span::Full);
                    head.rows[2][69][31] = value;
                    assert!(head.run(dot).concat().iter().all(|value| value.is_nan()), "{value}");
                }
            }
        }
        run(isa, &NotFinite);
    }

    fn the_largest_sums_do_not_overflow(isa: Isa) {
        struct Largest;

        impl PairCheck for Largest {
            /// Every product of queries and keys, and of weights and values, is the largest.
            fn run<D: PairDot>(&self, dot: D) {
                for (tokens, width) in [(1, 32), (70, 64), (40, 128), (700, 32)] {
                    let mut head = Head::synthetic(tokens, width, [0.0; 3], Span::Window(500));
                    head.rows.iter_mut().flatten().for_each(|row| row.fill(-0.2));
                    let found = head.run(dot).concat();
                    assert!(found.iter().all(|value| (value + 0.2).abs() < 1e-4), "{tokens} × {width}: {}", found[0]);
                }
            }
        }
        run(isa, &Largest);
    }
}
