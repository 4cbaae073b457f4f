//! Each kernel against plain sums in f64 of the same rounded inputs. Whatever must not be looked at is
//! not-a-number.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use proptest::prelude::*;

use super::{
    layout::{Lines, Strips},
    pack::bf16,
    vector::store,
    *,
};
use crate::{reference, testing::Made};

/// The proof that there is AMX; where there is none, that is said, not hidden.
pub(super) fn amx() -> Option<Amx> {
    let amx = Amx::detect();
    if amx.is_none() {
        println!("NOT RUN: no AMX here");
    }
    amx
}

const NAN: u16 = 0x7fc0;

fn wide(value: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(value) << 16))
}

/// Values of bf16, each a function of its salt and place.
fn noise(salt: u64, rows: usize, columns: usize) -> Vec<Vec<u16>> {
    let value = |row: usize, column: usize| bf16(4.0 * Made::value(salt, row * columns + column));
    (0..rows).map(|row| (0..columns).map(|column| value(row, column)).collect()).collect()
}

fn lines(count: usize) -> Buffer {
    Buffer::zeroed(count * Line::VALUES)
}

/// Writes one row's values, from the line on that `at` gives for each 32 columns; zeros after the last.
fn write(values: &[u16], at: impl Fn(usize) -> *mut Line) {
    for (k, part) in values.chunks(UNIT).enumerate() {
        let mut line = Line([0; UNIT]);
        line.0[..part.len()].copy_from_slice(part);
        // SAFETY: the caller's view has the line, and nobody else its buffer.
        unsafe { *at(k) = line };
    }
}

fn poison(all: Lines) {
    for index in 0..all.count() {
        // SAFETY: as above.
        unsafe { *all.at(index) = Line([NAN; UNIT]) };
    }
}

/// Both kinds of product, of some panels, against sums in f64.
#[track_caller]
fn check_product(amx: Amx, [rows, inputs, panels]: [usize; 3], share: Range<usize>) {
    let (left, right) = (noise(1, rows, inputs), noise(2, panels * UNIT, inputs));
    let depth = inputs.div_ceil(UNIT);
    let buffer = lines(Tiled::lines(rows, depth));
    poison(Lines::of(&buffer, 0, Tiled::lines(rows, depth)));
    let tiled = Tiled::of(&buffer, rows, depth);
    for (row, values) in left.iter().enumerate() {
        write(values, |k| tiled.line(row, k));
    }
    let weights: Vec<Vec<f32>> =
        right.iter().map(|column| column.iter().map(|&value| wide(value) as f32).collect()).collect();
    let places: Vec<_> = (0..inputs).map(Some).collect();
    let packed = Panels::pack(&places, panels * UNIT, |column| Some((weights[column].as_slice(), 1.0)));

    let product = Product { left: tiled, rows, right: &packed, inputs: 0..depth, panels: share.clone() };
    let tiles = Tiles::configure(amx);
    let mut handed = vec![vec![None; panels * UNIT]; rows];
    let out = Buffer::zeroed(rows * panels * UNIT);
    let width = panels * UNIT;
    let out = Matrix::of(&out, 0, [rows, width], width);
    let before = |row: usize, column: usize| Made::value(3, row * width + column);
    // SAFETY: the buffers are this test's own.
    unsafe {
        product.each(&tiles, &mut Sums::default(), |panel, row, values| {
            for (half, values) in values.into_iter().enumerate() {
                let mut found = [0.0; 16];
                store(&mut found, values);
                for (lane, found) in found.into_iter().enumerate() {
                    let place = &mut handed[row][panel * UNIT + half * 16 + lane];
                    assert!(place.replace(found).is_none(), "row {row} of panel {panel} came twice");
                }
            }
        });
        for row in 0..rows {
            for (column, value) in out.row_mut(row).iter_mut().enumerate() {
                *value = before(row, column);
            }
        }
        product.add(&tiles, out);
    }
    drop(tiles);
    for row in 0..rows {
        // SAFETY: as above.
        let added = unsafe { out.row_mut(row) };
        for column in 0..width {
            let terms = left[row].iter().zip(&right[column]).map(|(&a, &b)| wide(a) * wide(b));
            let (sum, size) = terms.fold((0.0, 1.0), |(sum, size), term| (sum + term, size + term.abs()));
            let near = |found: f32, expected: f64| {
                let allowed = size * (inputs + 2) as f64 * 2f64.powi(-24);
                assert!(
                    (f64::from(found) - expected).abs() <= allowed,
                    "{rows} × {inputs} × {panels} panels: ({row}, {column}) is {found}, expected {expected}"
                );
            };
            if share.contains(&(column / UNIT)) {
                near(handed[row][column].unwrap(), sum);
                near(added[column], f64::from(before(row, column)) + sum);
            } else {
                assert_eq!((handed[row][column], added[column]), (None, before(row, column)));
            }
        }
    }
}

#[test]
fn products_are_sums() {
    let Some(amx) = amx() else { return };
    for (sizes, share) in [
        ([1, 1, 1], 0..1),
        ([16, 32, 1], 0..1),
        ([17, 40, 3], 1..2),
        ([32, 384, 2], 0..2),
        ([33, 384, 2], 0..2),
        // Two and five passes over the inputs; two groups of rows, the second with an odd number of tiles.
        ([50, 416, 2], 0..2),
        ([20, 1600, 2], 1..2),
        ([340, 64, 2], 0..2),
        ([700, 416, 1], 0..1),
        ([5, 64, 2], 2..2),
    ] {
        check_product(amx, sizes, share);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn products_of_any_size(rows in 1usize..100, inputs in 1usize..900, panels in 1usize..4, from in 0usize..4) {
        if let Some(amx) = amx() {
            check_product(amx, [rows, inputs, panels], from.min(panels)..panels);
        }
    }
}

#[test]
fn a_rows_sums_do_not_depend_on_its_place() {
    let Some(amx) = amx() else { return };
    let (row, right) = (noise(1, 1, 500), noise(2, UNIT, 500));
    let weights: Vec<Vec<f32>> =
        right.iter().map(|column| column.iter().map(|&value| wide(value) as f32).collect()).collect();
    let places: Vec<_> = (0..500).map(Some).collect();
    let packed = Panels::pack(&places, UNIT, |column| Some((weights[column].as_slice(), 1.0)));
    let mut seen = Vec::new();
    for rows in [1, 16, 32, 48, 400] {
        let buffer = lines(Tiled::lines(rows, 16));
        let tiled = Tiled::of(&buffer, rows, 16);
        (0..rows).for_each(|index| write(&row[0], |k| tiled.line(index, k)));
        let product = Product { left: tiled, rows, right: &packed, inputs: 0..16, panels: 0..1 };
        // SAFETY: the buffers are this test's own.
        unsafe {
            product.each(&Tiles::configure(amx), &mut Sums::default(), |_, _, values| {
                let mut found = [[0.0; 16]; 2];
                found.iter_mut().zip(values).for_each(|(found, values)| store(found, values));
                seen.push(found.as_flattened().iter().map(|value| value.to_bits()).collect::<Vec<_>>());
            });
        }
    }
    assert_eq!(seen.len(), 1 + 16 + 32 + 48 + 400);
    seen.dedup();
    assert_eq!(seen.len(), 1);
}

/// The second of two heads of two sequences, of which the first may be empty; only some queries are checked. Queries
/// are `sharp` times as long as keys and values.
#[track_caller]
fn check_attention(amx: Amx, [tokens, first, parts]: [usize; 3], sharp: f32, every: usize) {
    let rows = first + tokens;
    let mut inputs = [1, 2, 3].map(|salt| noise(salt, rows, parts * UNIT));
    for query in inputs[0].iter_mut().flatten() {
        *query = bf16(wide(*query) as f32 * sharp);
    }
    let across = 2 * parts;
    let (strips, out) = (lines(Strips::lines(3 * across, rows)), lines(Tiled::lines(rows, across)));
    poison(Lines::of(&strips, 0, Strips::lines(3 * across, rows)));
    poison(Lines::of(&out, 0, Tiled::lines(rows, across)));
    let (strips, out) = (Strips::of(&strips, 3 * across, rows), Tiled::of(&out, rows, across));
    for (which, matrix) in inputs.iter().enumerate() {
        for (token, values) in matrix.iter().enumerate() {
            write(values, |part| strips.line(which * across + parts + part, token));
        }
    }
    let attention = Attention { lengths: &[first, tokens], heads: 1..2, parts, strips, out };
    // SAFETY: the buffers are this test's own.
    unsafe { attention.run(&Tiles::configure(amx), &mut Scratch::default()) };

    // SAFETY: as above.
    let line = |row: usize, k: usize| unsafe { *out.line(row, k) }.0;
    for row in 0..rows {
        for k in 0..parts {
            assert!(line(row, k) == [NAN; UNIT], "row {row}: another head's columns");
        }
    }
    let [queries, keys, values] = &inputs;
    for query in (0..rows).step_by(every) {
        let sequence = if query < first { 0..first } else { first..rows };
        let (keys, values) = (&keys[sequence.clone()], &values[sequence]);
        let score = |key: &Vec<u16>| -> f64 {
            queries[query].iter().zip(key).map(|(&query, &key)| wide(query) * wide(key)).sum()
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = scores.iter().map(|score| (score - largest).exp2()).collect();
        let total: f64 = powers.iter().sum();
        for column in 0..parts * UNIT {
            let terms = powers.iter().zip(values).map(|(power, value)| power / total * wide(value[column]));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let found = wide(line(query, parts + column / UNIT)[column % UNIT]);
            // 0.6 % for the powers, and their sum's part of it; half a unit of bf16 for the result.
            let allowed = size * (2.0 * 6e-3 + 2f64.powi(-8));
            assert!(
                (found - sum).abs() <= allowed,
                "{tokens} tokens from {first}, {parts} parts: ({query}, {column}) is {found}, expected {sum}"
            );
        }
    }
}

#[test]
fn attention_is_softmax_of_scores_times_values() {
    let Some(amx) = amx() else { return };
    for sizes in
        [[1, 0, 1], [2, 3, 1], [16, 0, 1], [17, 16, 2], [31, 1, 1], [33, 5, 3], [64, 7, 2], [130, 40, 1]]
    {
        check_attention(amx, sizes, 1.0, 1);
    }
}

/// Scores of hundreds: nearly every softmax has its reference moved, here by the first keys and there by the last.
#[test]
fn attention_of_far_scores() {
    let Some(amx) = amx() else { return };
    for sharp in [16.0, -16.0, 4096.0] {
        check_attention(amx, [130, 40, 1], sharp, 1);
        check_attention(amx, [40, 3, 2], sharp, 1);
    }
}

#[test]
fn attention_over_the_longest_windows() {
    let Some(amx) = amx() else { return };
    check_attention(amx, [8192, 0, 1], 1.0, 2047);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn attention_of_any_length(tokens in 1usize..150, first in 0usize..50, parts in 1usize..4) {
        if let Some(amx) = amx() {
            check_attention(amx, [tokens, first, parts], 1.0, 1);
        }
    }
}

#[test]
fn a_norm_is_the_references_and_rounded() {
    if amx().is_none() {
        return;
    }
    for width in [1usize, 15, 20, 32, 48, 384, 1000] {
        let depth = width.div_ceil(UNIT);
        let buffer = lines(Tiled::lines(20, depth));
        let narrow = Tiled::of(&buffer, 20, depth);
        let padded = |salt: u64, at: f32| -> Vec<f32> {
            let value = |column| if column < width { at + Made::value(salt, column) } else { 0.0 };
            (0..depth * UNIT).map(value).collect()
        };
        let (row, scale, shift, bias) = (padded(1, 0.1), padded(2, 1.0), padded(3, 0.0), padded(4, 0.5));
        let real = |values: &[f32]| -> Vec<f64> { values[..width].iter().copied().map(f64::from).collect() };
        let expected = reference::layer_norm(&real(&row), &real(&scale), &real(&shift), 1e-5);
        for bias in [vec![0.0; bias.len()], bias] {
            let mut state = row.clone();
            let norm = LayerNorm { width, scale: &scale, shift: &shift, epsilon: 1e-5, bias: &bias };
            // SAFETY: there is AMX, and so the features; the buffer is this test's own.
            unsafe { norm.run(&mut state, narrow, 18) };
            for (column, &found) in state.iter().enumerate() {
                let normed = expected.get(column).copied().unwrap_or(0.0);
                // SAFETY: as above.
                let rounded = unsafe { *narrow.line(18, column / UNIT) }.0[column % UNIT];
                assert!(
                    (f64::from(found) - normed - f64::from(bias[column])).abs() < 2e-6,
                    "{width}: {column}"
                );
                assert!((wide(rounded) - normed).abs() <= normed.abs() / 256.0 + 2e-6, "{width}: {column}");
                if bias[column] == 0.0 {
                    assert_eq!(rounded, bf16(found));
                }
            }
        }
    }
}
