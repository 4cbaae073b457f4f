//! Each kernel against sums in f64 of the same rounded inputs. Values that a kernel must not use are NaN.
#![allow(clippy::unwrap_used)]

use encoder_spec::{NormKind, NormSpec, Span};
use proptest::prelude::*;

use super::{layout::LineSpan, pack::bf16, vector::store, *};
use crate::{
    buffer::Buffer, layer::UnpackedB, linear_input::LinearInput, reference, testing::SyntheticWeights,
};

/// Proof token for AMX.
///
/// # Panics
/// If this CPU has no AMX; tests that call it are ignored there.
pub(super) fn amx() -> Amx {
    Amx::detect().expect("this CPU has AMX")
}

const NAN: u16 = 0x7fc0;

fn bf16_to_f64(value: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(value) << 16))
}

/// Pseudo-random values of bf16.
fn random_bf16(salt: u64, rows: usize, columns: usize) -> Vec<Vec<u16>> {
    let value = |row: usize, column: usize| bf16(4.0 * SyntheticWeights::value(salt, row * columns + column));
    (0..rows).map(|row| (0..columns).map(|column| value(row, column)).collect()).collect()
}

fn zeroed_lines(count: usize) -> Buffer {
    Buffer::zeroed(count * CacheLine::VALUES)
}

/// Writes a row's values; `line` returns the line of each block of 32 columns. Zeros after the last value.
fn write(values: &[u16], line: impl Fn(usize) -> *mut CacheLine) {
    for (k, part) in values.chunks(K_BLOCK).enumerate() {
        let mut padded = CacheLine([0; K_BLOCK]);
        padded.0[..part.len()].copy_from_slice(part);
        // SAFETY: the caller's view has the line, and no other code accesses its buffer.
        unsafe { *line(k) = padded };
    }
}

fn poison(lines: LineSpan) {
    for index in 0..lines.count() {
        // SAFETY: as above.
        unsafe { *lines.line(index) = CacheLine([NAN; K_BLOCK]) };
    }
}

/// A matrix B of these columns, packed.
fn packed(columns: &[Vec<u16>]) -> AmxPackedB {
    let weights: Vec<Vec<f32>> = columns
        .iter()
        .map(|column| column.iter().map(|&value| bf16_to_f64(value) as f32).collect())
        .collect();
    let rows: Vec<_> = (0..columns[0].len()).map(Some).collect();
    let column = |column: usize| Some((weights[column].as_slice(), 1.0));
    let input = LinearInput::EmbeddingProjection;
    AmxPackedB::pack(UnpackedB { input, rows: &rows, columns: columns.len(), column: &column })
}

/// Checks `with_epilogue` and `accumulate` against sums in f64. Only `computed_panels` may have results.
#[track_caller]
fn check_gemm(amx: Amx, [rows, k, panels]: [usize; 3], computed_panels: Range<usize>) {
    let (a, b) = (random_bf16(1, rows, k), random_bf16(2, panels * NR, k));
    let k_blocks = k.div_ceil(K_BLOCK);
    let buffer = zeroed_lines(TiledMatrix::lines(rows, k_blocks));
    poison(LineSpan::of(&buffer, 0, TiledMatrix::lines(rows, k_blocks)));
    let tiled = TiledMatrix::of(&buffer, rows, k_blocks);
    for (row, values) in a.iter().enumerate() {
        write(values, |block| tiled.line(row, block));
    }
    let packed = packed(&b);

    let gemm = AmxGemm { a: tiled, rows, b: &packed, k: 0..k_blocks, panels: computed_panels.clone() };
    let tiles = Tiles::configure(amx);
    let width = panels * NR;
    let mut results = vec![vec![None; width]; rows];
    let out = Buffer::zeroed(rows * width);
    let out = Matrix::of(&out, 0, [rows, width], width);
    let before = |row: usize, column: usize| SyntheticWeights::value(3, row * width + column);
    // SAFETY: the buffers are this test's own.
    unsafe {
        gemm.with_epilogue(&tiles, &mut ScratchBuffer::default(), |panel, row, values| {
            for (half, values) in values.into_iter().enumerate() {
                let mut found = [0.0; 16];
                store(&mut found, values);
                for (lane, found) in found.into_iter().enumerate() {
                    let result = &mut results[row][panel * NR + half * 16 + lane];
                    assert!(result.replace(found).is_none(), "row {row} of panel {panel} came twice");
                }
            }
        });
        for row in 0..rows {
            for (column, value) in out.row_mut(row).iter_mut().enumerate() {
                *value = before(row, column);
            }
        }
        gemm.accumulate(&tiles, out);
    }
    drop(tiles);
    for row in 0..rows {
        // SAFETY: as above.
        let added = unsafe { out.row_mut(row) };
        for column in 0..width {
            let terms = a[row].iter().zip(&b[column]).map(|(&a, &b)| bf16_to_f64(a) * bf16_to_f64(b));
            let (sum, size) = terms.fold((0.0, 1.0), |(sum, size), term| (sum + term, size + term.abs()));
            let assert_near = |found: f32, expected: f64| {
                let allowed = size * (k + 2) as f64 * 2f64.powi(-24);
                assert!(
                    (f64::from(found) - expected).abs() <= allowed,
                    "{rows} × {k} × {panels} panels: ({row}, {column}) is {found}, expected {expected}"
                );
            };
            if computed_panels.contains(&(column / NR)) {
                assert_near(results[row][column].unwrap(), sum);
                assert_near(added[column], f64::from(before(row, column)) + sum);
            } else {
                assert_eq!((results[row][column], added[column]), (None, before(row, column)));
            }
        }
    }
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn gemm_matches_f64_sums() {
    for (sizes, computed_panels) in [
        ([1, 1, 1], 0..1),
        ([16, 32, 1], 0..1),
        ([17, 40, 3], 1..2),
        ([32, 384, 2], 0..2),
        ([33, 384, 2], 0..2),
        // Two and five passes over K; two groups of MC tiles of rows, the second with an odd number of tiles.
        ([50, 416, 2], 0..2),
        ([20, 1600, 2], 1..2),
        ([340, 64, 2], 0..2),
        ([700, 416, 1], 0..1),
        ([5, 64, 2], 2..2),
    ] {
        check_gemm(amx(), sizes, computed_panels);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn gemm_of_any_size_matches_f64_sums(
        rows in 1usize..100, k in 1usize..900, panels in 1usize..4, from in 0usize..4,
    ) {
        check_gemm(amx(), [rows, k, panels], from.min(panels)..panels);
    }
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn results_of_a_row_do_not_depend_on_its_index() {
    let (row, b) = (random_bf16(1, 1, 500), random_bf16(2, NR, 500));
    let packed = packed(&b);
    let mut results = Vec::new();
    for rows in [1, 16, 32, 48, 400] {
        let buffer = zeroed_lines(TiledMatrix::lines(rows, 16));
        let tiled = TiledMatrix::of(&buffer, rows, 16);
        (0..rows).for_each(|index| write(&row[0], |k| tiled.line(index, k)));
        let gemm = AmxGemm { a: tiled, rows, b: &packed, k: 0..16, panels: 0..1 };
        // SAFETY: the buffers are this test's own.
        unsafe {
            gemm.with_epilogue(&Tiles::configure(amx()), &mut ScratchBuffer::default(), |_, _, values| {
                let mut found = [[0.0; 16]; 2];
                found.iter_mut().zip(values).for_each(|(found, values)| store(found, values));
                results.push(found.as_flattened().iter().map(|value| value.to_bits()).collect::<Vec<_>>());
            });
        }
    }
    assert_eq!(results.len(), 1 + 16 + 32 + 48 + 400);
    results.dedup();
    assert_eq!(results.len(), 1);
}

/// Checks the second of two heads for every `step`-th query of two sequences, of which the first may be empty. Queries
/// are multiplied by `scale`.
#[track_caller]
fn check_attention(amx: Amx, [tokens, first, head_blocks]: [usize; 3], scale: f32, step: usize) {
    let rows = first + tokens;
    let mut inputs = [1, 2, 3].map(|salt| random_bf16(salt, rows, head_blocks * K_BLOCK));
    for query in inputs[0].iter_mut().flatten() {
        *query = bf16(bf16_to_f64(*query) as f32 * scale);
    }
    let blocks = 2 * head_blocks;
    let qkv = zeroed_lines(QkvBlocks::lines(3 * blocks, rows));
    let out = zeroed_lines(TiledMatrix::lines(rows, blocks));
    poison(LineSpan::of(&qkv, 0, QkvBlocks::lines(3 * blocks, rows)));
    poison(LineSpan::of(&out, 0, TiledMatrix::lines(rows, blocks)));
    let (qkv, out) = (QkvBlocks::of(&qkv, 3 * blocks, rows), TiledMatrix::of(&out, rows, blocks));
    for (index, matrix) in inputs.iter().enumerate() {
        for (token, values) in matrix.iter().enumerate() {
            write(values, |block| qkv.line(index * blocks + head_blocks + block, token));
        }
    }
    let attention = AmxAttention {
        lengths: &[first, tokens],
        heads: 1..2,
        head_blocks,
        group: 1,
        kv_heads: 2,
        span: Span::Full,
        bias: None,
        qkv,
        out,
    };
    // SAFETY: the buffers are this test's own.
    unsafe { attention.run(&Tiles::configure(amx), &mut ScratchBuffer::default()) };

    // SAFETY: as above.
    let line = |row: usize, k: usize| unsafe { *out.line(row, k) }.0;
    for row in 0..rows {
        for k in 0..head_blocks {
            assert!(line(row, k) == [NAN; K_BLOCK], "row {row}: another head's columns");
        }
    }
    let [queries, keys, values] = &inputs;
    for query in (0..rows).step_by(step) {
        let sequence = if query < first { 0..first } else { first..rows };
        let (keys, values) = (&keys[sequence.clone()], &values[sequence]);
        let score = |key: &Vec<u16>| -> f64 {
            queries[query].iter().zip(key).map(|(&query, &key)| bf16_to_f64(query) * bf16_to_f64(key)).sum()
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = scores.iter().map(|score| (score - max).exp2()).collect();
        let total: f64 = powers.iter().sum();
        for column in 0..head_blocks * K_BLOCK {
            let terms =
                powers.iter().zip(values).map(|(power, value)| power / total * bf16_to_f64(value[column]));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let found = bf16_to_f64(line(query, head_blocks + column / K_BLOCK)[column % K_BLOCK]);
            // 0.6 % each for the powers and for their sum; half a unit of bf16 for the result.
            let allowed = size * (2.0 * 6e-3 + 2f64.powi(-8));
            assert!(
                (found - sum).abs() <= allowed,
                "{tokens} tokens from {first}, {head_blocks} blocks: ({query}, {column}) is {found}, expected {sum}"
            );
        }
    }
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn attention_matches_f64_softmax() {
    for sizes in
        [[1, 0, 1], [2, 3, 1], [16, 0, 1], [17, 16, 2], [31, 1, 1], [33, 5, 3], [64, 7, 2], [130, 40, 1]]
    {
        check_attention(amx(), sizes, 1.0, 1);
    }
}

/// Scores in the hundreds: nearly every softmax changes its shift, some because of the first keys, some because of the
/// last.
#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn attention_matches_f64_softmax_when_the_shift_changes() {
    for scale in [16.0, -16.0, 4096.0] {
        check_attention(amx(), [130, 40, 1], scale, 1);
        check_attention(amx(), [40, 3, 2], scale, 1);
    }
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn attention_over_8192_tokens_matches_f64_softmax() {
    check_attention(amx(), [8192, 0, 1], 1.0, 2047);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn attention_of_any_length_matches_f64_softmax(
        tokens in 1usize..150, first in 0usize..50, head_blocks in 1usize..4,
    ) {
        check_attention(amx(), [tokens, first, head_blocks], 1.0, 1);
    }
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn layer_norm_matches_reference_and_its_bf16_result_is_rounded() {
    amx();
    for width in [1usize, 15, 20, 32, 48, 384, 1000] {
        let k_blocks = width.div_ceil(K_BLOCK);
        let buffer = zeroed_lines(TiledMatrix::lines(20, k_blocks));
        let normed = TiledMatrix::of(&buffer, 20, k_blocks);
        let padded = |salt: u64, center: f32| -> Vec<f32> {
            let value = |column| {
                if column < width { center + SyntheticWeights::value(salt, column) } else { 0.0 }
            };
            (0..k_blocks * K_BLOCK).map(value).collect()
        };
        let (row, scale, shift, bias) = (padded(1, 0.1), padded(2, 1.0), padded(3, 0.0), padded(4, 0.5));
        let unpadded =
            |values: &[f32]| -> Vec<f64> { values[..width].iter().copied().map(f64::from).collect() };
        let spec = NormSpec { kind: NormKind::LayerNorm { has_shift: true }, epsilon: 1e-5 };
        let expected = reference::normalize(&spec, &unpadded(&row), &unpadded(&scale), &unpadded(&shift));
        for bias in [vec![0.0; bias.len()], bias] {
            let mut hidden = row.clone();
            let params = NormParams { width, scale: scale.clone(), shift: shift.clone() };
            let norm = AmxNorm { params: &params, spec };
            // SAFETY: this CPU has AMX, and so the target features; the buffer is this test's own.
            unsafe { normalize(&mut hidden, normed, 18, Some(norm), Some(&bias)) };
            for (column, &found) in hidden.iter().enumerate() {
                let expected = expected.get(column).copied().unwrap_or(0.0);
                // SAFETY: as above.
                let rounded = unsafe { *normed.line(18, column / K_BLOCK) }.0[column % K_BLOCK];
                let error = f64::from(found) - expected - f64::from(bias[column]);
                assert!(error.abs() < 2e-6, "{width}: {column}");
                let error = bf16_to_f64(rounded) - expected;
                assert!(error.abs() <= expected.abs() / 256.0 + 2e-6, "{width}: {column}");
                if bias[column] == 0.0 {
                    assert_eq!(rounded, bf16(found));
                }
            }
        }
    }
}
