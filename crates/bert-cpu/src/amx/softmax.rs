//! The softmax's powers of 2: from scores in f32 to pairs of bf16, mostly with integer instructions, because f32
//! arithmetic runs at half its throughput while the tile unit is active (`docs/adr/0013-bf16-vector-code.md`).
//!
//! softmax(s) is the same for any shift r in 2^(s − r), as long as the largest power stays within bf16's range. So
//! there is no separate pass for the maximum: r starts at 0, and the scores are processed again with another r only if
//! the maximum was farther than [`RESCALE_THRESHOLD`] from it. This is the conditional rescaling of online softmax as
//! in FlashAttention-4, once for all keys.

use std::arch::x86_64::*;

use super::{
    layout::LineSpan,
    tile::TILE,
    vector::{Floats, store_line},
};

/// Lines of a row of 32 f32: the scores of a key, or a column of 32 results.
pub(super) const LINES_PER_ROW: usize = 2;

/// Lower bound of the exponents: that of the smallest normal bf16, because denormal numbers would be slow.
const MIN_EXPONENT: f32 = -126.0;

/// Maximum distance between the largest score and the shift. Powers down to 2⁻⁶⁶ of the largest are still normal
/// numbers, and the sum of very many powers is finite.
const RESCALE_THRESHOLD: f32 = 60.0;

/// Adding it converts an exponent x to fixed point: the lowest 16 bits of the sum are 256 · (127 + x), rounded to the
/// nearest integer. The sum lies in 2¹⁵ … 2¹⁶, where adjacent f32 differ by 2⁻⁸; 127 is bf16's exponent bias.
const FIXED_POINT: f32 = 1.5 * 32768.0 + 127.0;

/// 256 (1 + f − 2ᶠ) for f from j / 64 to (j + 1) / 64: the difference between the mantissa f of the linear
/// approximation and that of 2ᶠ, less one half for the bit that is cut off afterwards. Each is the integer that
/// minimizes the mean square of the relative error.
const MANTISSA_CORRECTION: [u8; 64] = [
    0, 1, 2, 4, 4, 6, 7, 8, 9, 10, 10, 12, 12, 13, 14, 15, 15, 16, 17, 17, 18, 18, 19, 19, 20, 20, 20, 21,
    21, 21, 21, 21, 21, 22, 22, 21, 21, 21, 21, 21, 21, 20, 20, 19, 19, 19, 18, 17, 17, 16, 15, 15, 13, 13,
    12, 11, 9, 9, 7, 6, 5, 3, 2, 1,
];

/// Shift of the scores of 16 queries, and the maximum of their scores so far.
pub(super) struct RunningShift {
    /// [`FIXED_POINT`] − shift.
    offset: Floats,
    /// [`FIXED_POINT`] + maximum − shift.
    max: Floats,
}

impl RunningShift {
    /// Shift 0, no scores yet.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) fn zero() -> Self {
        Self { offset: _mm512_set1_ps(FIXED_POINT), max: _mm512_set1_ps(f32::NEG_INFINITY) }
    }

    /// Returns 2^(score − shift) in bf16 for the scores of an even and an odd key, interleaved in pairs as B requires.
    /// Powers below 2⁻¹²⁶ become 2⁻¹²⁶; powers of 2¹²⁸ and more have no meaningful result. The relative error is at
    /// most 0.6 %, root mean square 0.2 %; rounding the exact power to bf16 has 0.4 % and 0.17 %.
    ///
    /// Schraudolph's exponential (1999, doi 10.1162/089976699300016467): the integer part n and the leading fraction
    /// bits f of the exponent, read as the bits of a floating-point number, are 2ⁿ (1 + f), the line through 2ⁿ and
    /// 2ⁿ⁺¹, here with [`MANTISSA_CORRECTION`]. The arithmetic has one bit more than bf16, which is cut off at the end.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn exp2_pairs(&mut self, even: Floats, odd: Floats) -> __m512i {
        const ODD: u32 = 0xaaaa_aaaa;
        const LOW_BYTES: u64 = 0x5555_5555_5555_5555;
        let [even, odd] = [even, odd].map(|scores| _mm512_add_ps(scores, self.offset));
        // If one operand is NaN, the instruction returns the second: these ignore NaN.
        self.max = _mm512_max_ps(even, self.max);
        self.max = _mm512_max_ps(odd, self.max);
        let min = _mm512_set1_ps(FIXED_POINT + MIN_EXPONENT);
        let [even, odd] = [even, odd].map(|fixed| _mm512_castps_si512(_mm512_max_ps(fixed, min)));
        let linear = _mm512_mask_blend_epi16(ODD, even, _mm512_slli_epi32::<16>(odd));
        // SAFETY: a reference to 64 bytes.
        let correction = unsafe { _mm512_loadu_si512(MANTISSA_CORRECTION.as_ptr().cast()) };
        // The permutation's index is the lowest six bits of a byte: here the upper six of the fraction.
        let correction = _mm512_maskz_permutexvar_epi8(LOW_BYTES, _mm512_srli_epi16::<2>(linear), correction);
        _mm512_srli_epi16::<1>(_mm512_sub_epi16(linear, correction))
    }

    /// Sets the shift to the maximum for each query whose maximum is farther than [`RESCALE_THRESHOLD`] from the shift,
    /// and resets all maxima. Returns true if a shift changed, so that all powers must be computed again.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) fn update(&mut self) -> bool {
        let distance = _mm512_sub_ps(self.max, _mm512_set1_ps(FIXED_POINT));
        let far =
            _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(_mm512_abs_ps(distance), _mm512_set1_ps(RESCALE_THRESHOLD));
        self.offset = _mm512_mask_sub_ps(self.offset, far, self.offset, distance);
        self.max = _mm512_set1_ps(f32::NEG_INFINITY);
        far != 0
    }
}

/// Adds to each lane of `sums` the two bf16 values of that lane of `pairs`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
fn add_pairs(sums: Floats, pairs: __m512i) -> Floats {
    /// 1 in bf16.
    const ONE: i16 = 0x3f80;
    // SAFETY: both types are 64 bytes without invariants.
    let [pairs, ones] = [pairs, _mm512_set1_epi16(ONE)]
        .map(|vector| unsafe { std::mem::transmute::<__m512i, __m512bh>(vector) });
    _mm512_dpbf16_ps(sums, pairs, ones)
}

/// Writes 2^(score − shift) of the scores of up to 32 keys, in pairs of keys, with zeros after the last key, and adds
/// the powers to `sums`. `HALVES` is the number of halves of 16 queries.
///
/// # Safety
/// No other code may access either span; `scores` must have a row for each key, `powers` for 32 keys.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
pub(super) unsafe fn exp2_scores<const HALVES: usize>(
    scores: LineSpan,
    powers: LineSpan,
    keys: usize,
    shifts: &mut [RunningShift; HALVES],
    sums: &mut [Floats; HALVES],
) {
    let score = |key: usize, half: usize| {
        // SAFETY: by the caller's contract, here and below; the scores of a key are two lines, as are a pair's powers.
        unsafe { _mm512_load_ps(scores.line(key * LINES_PER_ROW + half).cast()) }
    };
    let write = |pair: usize, half: usize, values| {
        // SAFETY: as above.
        unsafe { store_line(powers.line(pair * LINES_PER_ROW + half), values) }
    };
    for pair in 0..keys / 2 {
        for half in 0..HALVES {
            let powers = shifts[half].exp2_pairs(score(2 * pair, half), score(2 * pair + 1, half));
            write(pair, half, powers);
            sums[half] = add_pairs(sums[half], powers);
        }
    }
    for pair in keys / 2..TILE {
        for half in 0..HALVES {
            let mut last = _mm512_setzero_si512();
            if 2 * pair < keys {
                let even = score(2 * pair, half);
                last = _mm512_maskz_mov_epi16(0x5555_5555, shifts[half].exp2_pairs(even, even));
                sums[half] = add_pairs(sums[half], last);
            }
            write(pair, half, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amx::{
        kernel_tests::amx,
        pack::bf16,
        vector::{
            load, round_pairs, store,
            tests::{u16s, values},
        },
    };

    /// Powers of even and odd scores, and true if the shift changed afterwards.
    fn powers(shift: &mut RunningShift, even: [f32; 16], odd: [f32; 16]) -> ([u16; 32], bool) {
        // SAFETY: every test checks for AMX, and so for the target features; here and below.
        unsafe { (u16s(shift.exp2_pairs(load(&even), load(&odd))), shift.update()) }
    }

    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn powers_are_accurate_to_bf16() {
        amx();
        let (mut squares, mut count) = (0.0, 0.0);
        for even in values(-59.0, 59.0) {
            let odd = even.map(|score| -score);
            // SAFETY: as above.
            let (found, changed) = powers(&mut unsafe { RunningShift::zero() }, even, odd);
            assert!(!changed);
            for (lane, found) in found.into_iter().enumerate() {
                let score = if lane % 2 == 0 { even[lane / 2] } else { odd[lane / 2] };
                let error = f64::from(f32::from_bits(u32::from(found) << 16)) / f64::from(score).exp2() - 1.0;
                assert!(error.abs() < 6e-3, "2^{score} = {found:#x}");
                (squares, count) = (squares + error * error, count + 1.0);
            }
        }
        let error = f64::sqrt(squares / count);
        assert!(error < 2e-3, "{error}");
    }

    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn the_shift_moves_to_a_distant_maximum() {
        amx();
        let (one, half, min) = (bf16(1.0), bf16(0.5), bf16(f32::MIN_POSITIVE));
        for max in [61.0, -61.0, 700.0, -700.0, 1e6, -1e6, 3e4, -3e4] {
            let odd = std::array::from_fn(|lane| if lane < 8 { max - 1.0 } else { -1e30 });
            // SAFETY: as above.
            let mut shift = unsafe { RunningShift::zero() };
            assert!(powers(&mut shift, [max; 16], odd).1, "{max}");
            powers(&mut shift, [max; 16], odd);
            let (found, changed) = powers(&mut shift, [max; 16], odd);
            assert!(!changed, "{max}");
            let expected = |lane: usize| {
                if lane.is_multiple_of(2) {
                    one
                } else if lane < 16 {
                    half
                } else {
                    min
                }
            };
            assert_eq!(found, std::array::from_fn(expected), "{max}");
        }
    }

    /// After an infinite score, all other powers of the query are the minimum too.
    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn nan_and_infinity_have_the_minimum_power() {
        amx();
        let (one, min) = (bf16(1.0), bf16(f32::MIN_POSITIVE));
        for (score, other) in [(f32::NAN, one), (f32::NEG_INFINITY, one), (f32::INFINITY, min)] {
            // SAFETY: as above.
            let mut shift = unsafe { RunningShift::zero() };
            let [_, _, (found, _)] = [(); 3].map(|()| powers(&mut shift, [score; 16], [0.0; 16]));
            let expected = |lane: usize| if lane.is_multiple_of(2) { min } else { other };
            assert_eq!(found, std::array::from_fn(expected), "{score}");
        }
    }

    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn pairs_are_added_to_their_lane() {
        amx();
        let first: [f32; 16] = std::array::from_fn(|lane| lane as f32);
        let second = first.map(|value| 100.0 - 2.0 * value);
        let mut found = [0.0; 16];
        // SAFETY: as above.
        unsafe { store(&mut found, add_pairs(load(&[0.5; 16]), round_pairs(load(&first), load(&second)))) };
        assert_eq!(found, std::array::from_fn(|lane| 100.5 - lane as f32));
    }
}
