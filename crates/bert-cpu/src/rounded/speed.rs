//! Measurement of bf16 against f32 on this CPU: the instruction `vdpbf16ps` has twice the rate of f32's on some CPUs
//! and half of it on others.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use super::{Avx512Bf16, Rounded};
use crate::{
    buffer::Buffer,
    fp32::{
        format::{Format, Fp32, Operand},
        output::{Epilogue, Output},
    },
    layer::UnpackedB,
    linear_input::LinearInput,
    matrix::Matrix,
    simd::{Avx512, Simd},
};

/// Rows, K and columns of the measured product: its operands fit the L1d and L2 caches, and it takes about 20 µs.
const ROWS: usize = 28;
const K: usize = 384;
const COLUMNS: usize = 64;

/// Measurements of each format, in turns.
const ROUNDS: usize = 40;

/// As [`crate::is_bf16_faster`].
pub(crate) fn is_bf16_faster() -> bool {
    static IS_FASTER: OnceLock<bool> = OnceLock::new();
    *IS_FASTER.get_or_init(|| {
        let (Some(bf16), Some(avx512)) = (Avx512Bf16::detect(), Avx512::detect()) else { return false };
        let (mut bf16, mut fp32) = (Measured::new(Rounded(bf16)), Measured::new(Fp32(avx512)));
        let (mut bf16_times, mut fp32_times) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bf16_times.push(bf16.time());
            fp32_times.push(fp32.time());
        }
        is_clearly_faster(&bf16_times, &fp32_times)
    })
}

/// Returns true if the least time of the first is at most 4/5 of that of the second. An interrupt only adds time.
fn is_clearly_faster(times: &[Duration], other: &[Duration]) -> bool {
    match (times.iter().min(), other.iter().min()) {
        (Some(time), Some(other)) => *time * 5 <= *other * 4,
        _ => false,
    }
}

/// A product of zeros in one format.
struct Measured<F: Format> {
    format: F,
    b: F::B,
    values: Buffer,
    rounded: Buffer,
    c: Buffer,
}

impl<F: Format> Measured<F> {
    fn new(format: F) -> Self {
        let (column, rows) = ([0.0; K], [const { Some(0) }; K]);
        let column = |_| Some((column.as_slice(), 1.0));
        let input = LinearInput::EmbeddingProjection;
        let b = format.pack(UnpackedB { input, rows: &rows, columns: COLUMNS, column: &column }, None);
        Self {
            format,
            b,
            values: Buffer::zeroed(ROWS * K),
            rounded: Buffer::zeroed(ROWS * F::rounded_width(K)),
            c: Buffer::zeroed(ROWS * COLUMNS),
        }
    }

    /// Duration of one product.
    fn time(&mut self) -> Duration {
        let width = F::rounded_width(K);
        let a = Operand {
            values: Matrix::of(&self.values, 0, [ROWS, K], K),
            rounded: Matrix::of(&self.rounded, 0, [ROWS, width], width),
        };
        let c = Matrix::of(&self.c, 0, [ROWS, COLUMNS], COLUMNS);
        let output = Output { bias: &[0.0; COLUMNS], c, epilogue: Epilogue::Store };
        let start = Instant::now();
        self.format.multiply(a, &self.b, 0..COLUMNS / (2 * F::Simd::WIDTH), output);
        start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_times_decide_and_a_small_gain_is_none() {
        let times =
            |times: &[u64]| -> Vec<Duration> { times.iter().copied().map(Duration::from_micros).collect() };
        assert!(is_clearly_faster(&times(&[90, 10, 500]), &times(&[20, 21])));
        assert!(is_clearly_faster(&times(&[16]), &times(&[20])));
        assert!(!is_clearly_faster(&times(&[17]), &times(&[20, 30])));
        assert!(!is_clearly_faster(&times(&[40]), &times(&[20])));
        assert!(!is_clearly_faster(&times(&[]), &times(&[20])));
        assert!(!is_clearly_faster(&times(&[20]), &times(&[])));
    }

    #[test]
    #[cfg_attr(
        cpu_has = "avx512-bf16",
        ignore = "this CPU has AVX-512 BF16: the result depends on its speed"
    )]
    fn bf16_is_not_faster_without_its_instructions() {
        assert!(!is_bf16_faster());
    }
}
