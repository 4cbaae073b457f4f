//! The kernels in int8 and bf16 against scalar arithmetic: integers exactly, f32 bit by bit.
#![allow(clippy::unwrap_used)]

use encoder_spec::Activation;
use proptest::prelude::*;

#[cfg(target_arch = "aarch64")]
use super::NeonDotprod;
#[cfg(target_arch = "x86_64")]
use super::{Avx2Int8, Avx512Bf16, Avx512Vnni, AvxVnni};
use super::{
    GroupDot, HEADER, Rounded,
    int8::MAX_K,
    scalar_model::{RoundedRow, round_row},
};
use crate::{
    Isa,
    buffer::Buffer,
    fp32::{
        format::{Format, Operand},
        output::{Epilogue, Output},
    },
    layer::UnpackedB,
    linear_input::LinearInput,
    matrix::Matrix,
    simd::Simd,
    testing::{SyntheticWeights, rounded_tests},
};

/// A check of the kernels of one instruction set in int8.
trait Int8Check {
    fn run<D: GroupDot<Weight = i8>>(&self, dot: D);
}

/// Runs a check; bf16 has none.
fn run(isa: Isa, check: &impl Int8Check) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2Int8 => check.run(Avx2Int8::detect().unwrap()),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => check.run(AvxVnni::detect().unwrap()),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => check.run(Avx512Vnni::detect().unwrap()),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod => check.run(NeonDotprod::detect().unwrap()),
        _ => {}
    }
}

/// A product of given rows and columns of weights.
#[derive(Debug)]
struct TestProduct {
    /// `[rows, K]`
    rows: Vec<Vec<f32>>,
    /// `[columns, K]`
    columns: Vec<Vec<f32>>,
    bias: f32,
}

impl TestProduct {
    /// Synthetic values. Every second row is shifted to one side of zero.
    fn synthetic(rows: usize, k: usize, columns: usize) -> Self {
        let values = |salt: usize| (0..k).map(|index| SyntheticWeights::value(salt as u64, index)).collect();
        let shifted = |row: usize| -> Vec<f32> {
            let values: Vec<f32> = values(row);
            values.iter().map(|value| value + (row % 2) as f32 * 0.7).collect()
        };
        Self {
            rows: (0..rows).map(shifted).collect(),
            columns: (0..columns).map(|column| values(1000 + column)).collect(),
            bias: 0.25,
        }
    }

    fn pack<F: Format>(&self, format: F) -> F::B {
        let k = self.columns[0].len();
        let sources: Vec<_> = (0..k).map(Some).collect();
        let column = |index: usize| self.columns.get(index).map(|column| (column.as_slice(), 1.0));
        let input = LinearInput::EmbeddingProjection;
        let columns = self.columns.len().next_multiple_of(32);
        format.pack(UnpackedB { input, rows: &sources, columns, column: &column }, None)
    }

    /// The rows as rounded by the kernels: scale, zero point and integers of each, without the kernels' offset.
    fn round<D: GroupDot<Weight = i8>>(&self, dot: D) -> (Buffer, usize, Vec<RoundedRow>) {
        let (rows, k) = (self.rows.len(), self.rows[0].len());
        let padded = k.next_multiple_of(32);
        let width = HEADER + padded / D::GROUP;
        let mut values = Buffer::zeroed(rows * padded);
        for (row, out) in self.rows.iter().zip(values.as_mut_slice().chunks_exact_mut(padded)) {
            out[..k].copy_from_slice(row);
        }
        let rounded = Buffer::zeroed(rows * width);
        let from = Matrix::of(&values, 0, [rows, padded], padded);
        let to = Matrix::of(&rounded, 0, [rows, width], width);
        Rounded(dot).round(from, to, &self.pack(Rounded(dot)));
        // SAFETY: no other code accesses the buffer.
        let words = unsafe { rounded.as_slice() };
        let bytes_of_value = 4 / D::GROUP;
        let row = |words: &[f32]| {
            let bytes: Vec<u8> = words[HEADER..].iter().flat_map(|word| word.to_le_bytes()).collect();
            let value = |bytes: &[u8]| {
                assert!(bytes[1..].iter().all(|byte| *byte == 0));
                i64::from(bytes[0].wrapping_sub(D::OFFSET as u8))
            };
            let integers = bytes.chunks_exact(bytes_of_value).map(value).take(k).collect();
            (words[0], i64::from(words[1].to_bits() as i32 - D::OFFSET), integers)
        };
        let rows = words.chunks_exact(width).map(row).collect();
        (rounded, width, rows)
    }
}

impl Int8Check for TestProduct {
    /// Rounds the rows and compares each integer, then multiplies and compares each bit with every epilogue.
    fn run<D: GroupDot<Weight = i8>>(&self, dot: D) {
        let (rounded, width, rows) = self.round(dot);
        for (values, row) in self.rows.iter().zip(&rows) {
            assert_eq!(*row, round_row(values), "{values:?}");
            assert!(row.2.iter().all(|integer| (0..256).contains(integer)));
        }
        let b = self.pack(Rounded(dot));
        let columns = self.columns.len().next_multiple_of(32);
        let expected = |(scale, zero_point, integers): &RoundedRow, column: usize, addend: f32| {
            let Some(column) = self.columns.get(column) else { return addend };
            let max = column.iter().fold(0.0f32, |max, value| max.max(value.abs()));
            let column_scale = max / 127.0;
            let product = |(value, integer): (&f32, &i64)| {
                let weight = if max > 0.0 { (value / column_scale).round_ties_even() as i64 } else { 0 };
                weight * (integer - zero_point)
            };
            let sum: i64 = column.iter().zip(integers).map(product).sum();
            (sum as f32).mul_add(scale * column_scale, addend)
        };
        let a = Matrix::of(&rounded, 0, [rows.len(), width], width);
        let bias = vec![self.bias; columns];
        let mut sums = Buffer::zeroed(rows.len() * columns);
        sums.as_mut_slice().fill(3.5);
        let mut gated = Buffer::zeroed(rows.len() * columns / 2);
        let c = Matrix::of(&sums, 0, [rows.len(), columns], columns);
        let gate = Matrix::of(&gated, 0, [rows.len(), columns / 2], columns / 2);
        let panels = 0..columns / (2 * D::Simd::WIDTH);
        let multiply = |epilogue| {
            let output = Output { bias: &bias, c, epilogue };
            Rounded(dot).multiply(Operand { values: a, rounded: a }, &b, panels.clone(), output);
        };
        multiply(Epilogue::Add);
        let check = |found: &[f32], expected: &dyn Fn(usize, usize) -> f32| {
            let width = found.len() / rows.len();
            for (index, found) in found.iter().enumerate() {
                let (row, column) = (index / width, index % width);
                let expected = expected(row, column);
                assert_eq!(
                    found.to_bits(),
                    expected.to_bits(),
                    "{found}, not {expected}, at {row}, {column}"
                );
            }
        };
        check(sums.as_mut_slice(), &|row, column| expected(&rows[row], column, self.bias + 3.5));
        multiply(Epilogue::Store);
        check(sums.as_mut_slice(), &|row, column| expected(&rows[row], column, self.bias));
        multiply(Epilogue::Activate(Activation::Relu));
        check(sums.as_mut_slice(), &|row, column| expected(&rows[row], column, self.bias).max(0.0));
        multiply(Epilogue::Gate(Activation::Relu, gate));
        check(gated.as_mut_slice(), &|row, column| {
            let (panel, lane) = (column / D::Simd::WIDTH, column % D::Simd::WIDTH);
            let first = panel * 2 * D::Simd::WIDTH + lane;
            let value = |column| expected(&rows[row], column, self.bias);
            value(first).max(0.0) * value(first + D::Simd::WIDTH)
        });
    }
}

/// Sums of the largest products, over the largest K.
struct LargestSums;

impl Int8Check for LargestSums {
    fn run<D: GroupDot<Weight = i8>>(&self, dot: D) {
        for (k, byte, zero_point, sign) in
            [(MAX_K, 255, 0, -1.0), (MAX_K, 255, 0, 1.0), (MAX_K, 0, 255, -1.0), (7, 255, 1, 1.0)]
        {
            let product = TestProduct { rows: vec![], columns: vec![vec![sign; k]; 32], bias: 0.0 };
            let b = product.pack(Rounded(dot));
            let width = HEADER + k.next_multiple_of(32) / D::GROUP;
            let mut a = Buffer::zeroed(width);
            let stored = u32::from((byte as u8).wrapping_add(D::OFFSET as u8));
            let word = if D::GROUP == 4 { stored * 0x0101_0101 } else { stored * 0x0001_0001 };
            a.as_mut_slice()[HEADER..].fill(f32::from_bits(word));
            (a.as_mut_slice()[0], a.as_mut_slice()[1]) =
                (1.0, f32::from_bits((zero_point + D::OFFSET) as u32));
            let a = Matrix::of(&a, 0, [1, width], width);
            let mut sums = Buffer::zeroed(32);
            let c = Matrix::of(&sums, 0, [1, 32], 32);
            let output = Output { bias: &[0.0; 32], c, epilogue: Epilogue::Store };
            let panels = 0..32 / (2 * D::Simd::WIDTH);
            Rounded(dot).multiply(Operand { values: a, rounded: a }, &b, panels, output);
            let sum = k as i64 * i64::from(byte - zero_point) * 127 * sign as i64;
            assert!(i32::try_from(sum).is_ok());
            let expected = (sum as f32) * (1.0 / 127.0);
            assert_eq!(sums.as_mut_slice(), [expected; 32], "K {k}, {byte} − {zero_point}, sign {sign}");
        }
    }
}

rounded_tests! {
    fn integers_and_sums_are_exact(isa: Isa) {
        proptest!(ProptestConfig::with_cases(64), |(rows in 1usize..40, k in 1usize..300, columns in 1usize..70)| {
            run(isa, &TestProduct::synthetic(rows, k, columns));
        });
        run(isa, &TestProduct::synthetic(3, 1536, 40));
    }

    fn unusual_rows_and_columns_are_rounded_as_in_scalar_code(isa: Isa) {
        let k = 37;
        let row = |value: f32| vec![value; k];
        let with = |mut row: Vec<f32>, index: usize, value: f32| {
            row[index] = value;
            row
        };
        let mut product = TestProduct::synthetic(4, k, 5);
        product.rows.extend([
            row(0.0),
            row(-0.0),
            row(2.5),
            row(-2.5),
            with(row(0.01), 7, 1000.0),
            with(row(-0.01), 36, -1000.0),
            with(with(row(0.0), 0, 1.0), 1, -1.0),
            row(1e-40),
            with(row(1e-42), 3, -1e-38),
            row(f32::MIN_POSITIVE),
            with(row(1e20), 5, -1e20),
        ]);
        product.columns.extend([row(0.0), row(-1.0), row(1e-40), with(row(1e-3), 2, 50.0)]);
        // Columns of denormals count as zeros.
        product.columns[7] = row(0.0);
        run(isa, &product);
    }

    fn the_largest_sums_do_not_overflow(isa: Isa) {
        run(isa, &LargestSums);
    }

    fn a_row_that_is_not_finite_has_no_finite_scale(isa: Isa) {
        struct NotFinite;

        impl Int8Check for NotFinite {
            fn run<D: GroupDot<Weight = i8>>(&self, dot: D) {
                for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    for index in [0, 20, 36] {
                        let mut product = TestProduct::synthetic(2, 37, 1);
                        product.rows[1][index] = value;
                        let (_, _, rows) = product.round(dot);
                        assert!(rows[0].0.is_finite() && rows[1].0.is_nan(), "{value} at {index}");
                    }
                }
            }
        }
        run(isa, &NotFinite);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
#[cfg_attr(not(cpu_has = "avx512-bf16"), ignore = "this CPU has no AVX-512 BF16")]
fn avx512_bf16_products_match_f64_over_rounded_operands() {
    let format = Rounded(Avx512Bf16::detect().unwrap());
    for (count, k, columns) in [(1, 1, 1), (3, 37, 5), (30, 384, 64)] {
        let product = TestProduct::synthetic(count, k, columns);
        let padded = k.next_multiple_of(32);
        let (rows, width) = (product.rows.len(), HEADER + padded / 2);
        let mut values = Buffer::zeroed(rows * padded);
        for (row, out) in product.rows.iter().zip(values.as_mut_slice().chunks_exact_mut(padded)) {
            out[..k].copy_from_slice(row);
        }
        let rounded = Buffer::zeroed(rows * width);
        let b = product.pack(format);
        let from = Matrix::of(&values, 0, [rows, padded], padded);
        let to = Matrix::of(&rounded, 0, [rows, width], width);
        format.round(from, to, &b);
        let all = columns.next_multiple_of(32);
        let mut sums = Buffer::zeroed(rows * all);
        let c = Matrix::of(&sums, 0, [rows, all], all);
        let bias = vec![product.bias; all];
        let output = Output { bias: &bias, c, epilogue: Epilogue::Store };
        format.multiply(Operand { values: from, rounded: to }, &b, 0..all / 32, output);
        // To 8 bits, ties to even.
        let round = |value: &f32| {
            let bits = value.to_bits();
            f64::from(f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000))
        };
        for (index, found) in sums.as_mut_slice().iter().enumerate() {
            let (row, column) = (&product.rows[index / all], product.columns.get(index % all));
            let sum: f64 =
                column.map_or(0.0, |column| row.iter().zip(column).map(|(a, b)| round(a) * round(b)).sum());
            let expected = sum + f64::from(product.bias);
            assert!((f64::from(*found) - expected).abs() < 1e-4, "{found}, expected {expected}");
        }
    }
}
