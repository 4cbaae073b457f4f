//! AVX-512 vector code: activations, rounding to bf16, transposition.
//!
//! Results are rounded to bf16, whose unit is 2⁻⁷ of the value, so the polynomials are shorter than those of the f32
//! network. Each was fitted by the Remez algorithm in f64; tests compare with f64.

use std::arch::x86_64::*;

use encoder_spec::Activation;

use super::layout::CacheLine;

/// A vector of f32.
pub(super) type Floats = __m512;

/// An odd sigmoid: −½ below −`edge`, ½ above `edge`, and x · Σ cₖ x²ᵏ in between. The fit weights the error with x, by
/// which the sigmoid is multiplied. The last digits were then adjusted so that the value at the edges is ±½ to 5e-7 in
/// f32, since x may be large there.
struct SigmoidPoly {
    edge: f32,
    coefficients: [f32; 9],
}

/// Φ(x) − ½, with the normal distribution's Φ. The error times x is at most 2.5e-5, without f32's rounding errors.
const NORMAL: SigmoidPoly = SigmoidPoly {
    edge: 4.4,
    coefficients: [
        3.987_616_3e-1,
        -6.607_643e-2,
        9.643_028_5e-3,
        -1.054_992_6e-3,
        8.429_303e-5,
        -4.724_869_5e-6,
        1.740_847_9e-7,
        -3.754_050_4e-9,
        3.569_430_5e-11,
    ],
};

/// ½ tanh(√(2/π) (x + 0.044715 x³)). The error times x is at most 2.1e-5, as above.
const TANH: SigmoidPoly = SigmoidPoly {
    edge: 4.25,
    coefficients: [
        3.987_877_4e-1,
        -6.645_299_5e-2,
        9.904_833e-3,
        -1.128_650_7e-3,
        9.547_256e-5,
        -5.722_225e-6,
        2.264_720_7e-7,
        -5.253_930_6e-9,
        5.374_708_7e-11,
    ],
};

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
pub(super) fn activate(activation: Activation, x: Floats) -> Floats {
    match activation {
        Activation::Gelu => times_sigmoid(&NORMAL, x),
        Activation::GeluTanh => times_sigmoid(&TANH, x),
        Activation::Relu => _mm512_max_ps(x, _mm512_setzero_ps()),
        Activation::Silu => silu(x),
    }
}

/// x / (1 + e^(−x)), with the power of 2 by Taylor's polynomial of degree 5 on [−½, ½]: a relative error of 2.4e-6.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
fn silu(x: Floats) -> Floats {
    /// ln(2)ᵏ / k!
    const COEFFICIENTS: [f32; 6] =
        [1.0, std::f32::consts::LN_2, 0.240_226_5, 0.055_504_11, 0.009_618_129, 0.001_333_355_8];
    // Where the power would overflow, the quotient is 0 to f32's accuracy.
    let exponent = _mm512_mul_ps(x, _mm512_set1_ps(-std::f32::consts::LOG2_E));
    let exponent = _mm512_min_ps(exponent, _mm512_set1_ps(126.0));
    let fraction = _mm512_reduce_ps::<0>(exponent);
    let mut sum = _mm512_set1_ps(COEFFICIENTS[5]);
    for index in (0..5).rev() {
        sum = _mm512_fmadd_ps(sum, fraction, _mm512_set1_ps(COEFFICIENTS[index]));
    }
    let power = _mm512_scalef_ps(sum, _mm512_sub_ps(exponent, fraction));
    _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0), power))
}

/// x · (½ + sigmoid(x)).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
fn times_sigmoid(sigmoid: &SigmoidPoly, x: Floats) -> Floats {
    /// Selects the operand of smaller magnitude, with the sign of the first.
    const MIN_MAGNITUDE: i32 = 0b0010;
    let clamped = _mm512_range_ps::<MIN_MAGNITUDE>(x, _mm512_set1_ps(sigmoid.edge));
    let square = _mm512_mul_ps(clamped, clamped);
    let mut sum = _mm512_set1_ps(sigmoid.coefficients[8]);
    for index in (0..8).rev() {
        sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(sigmoid.coefficients[index]));
    }
    _mm512_mul_ps(x, _mm512_fmadd_ps(sum, clamped, _mm512_set1_ps(0.5)))
}

/// Rounds two vectors to bf16, one after the other: to nearest, ties to even, denormal numbers to zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
pub(super) fn round(first: Floats, second: Floats) -> __m512i {
    // SAFETY: both types are 64 bytes without invariants.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first)) }
}

/// Lane indices `first`, `second`, `first` + 1, `second` + 1, …
const fn interleaved(first: i16, second: i16) -> [i16; 32] {
    let mut lanes = [0; 32];
    let mut index = 0;
    while index < 16 {
        lanes[2 * index] = first + index as i16;
        lanes[2 * index + 1] = second + index as i16;
        index += 1;
    }
    lanes
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
fn lanes(lanes: &[i16; 32]) -> __m512i {
    // SAFETY: a reference to 64 bytes.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

/// As [`round`], but the values alternate: pairs, the layout of B.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
pub(super) fn round_pairs(first: Floats, second: Floats) -> __m512i {
    const PAIRS: [i16; 32] = interleaved(0, 16);
    _mm512_permutexvar_epi16(lanes(&PAIRS), round(first, second))
}

/// Interleaves two lines of 32 values: pairs of the values of lanes 0–15, and of lanes 16–31.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
pub(super) fn zip(first: __m512i, second: __m512i) -> [__m512i; 2] {
    const LOW: [i16; 32] = interleaved(0, 32);
    const HIGH: [i16; 32] = interleaved(16, 48);
    let low = _mm512_permutex2var_epi16(first, lanes(&LOW), second);
    [low, _mm512_permutex2var_epi16(first, lanes(&HIGH), second)]
}

/// Transposes 16 × 16 values of 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
pub(super) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut pairs = rows;
    for index in 0..8 {
        let (a, b) = (rows[2 * index], rows[2 * index + 1]);
        pairs[2 * index] = _mm512_unpacklo_epi32(a, b);
        pairs[2 * index + 1] = _mm512_unpackhi_epi32(a, b);
    }
    // Each quarter of a vector in `quads` holds four rows of one column: quads[4·i + c] has rows 4·i to 4·i + 3 of
    // columns c, c + 4, c + 8 and c + 12.
    let mut quads = pairs;
    for index in (0..16).step_by(4) {
        let [a, b, c, d] = [pairs[index], pairs[index + 1], pairs[index + 2], pairs[index + 3]];
        quads[index] = _mm512_unpacklo_epi64(a, c);
        quads[index + 1] = _mm512_unpackhi_epi64(a, c);
        quads[index + 2] = _mm512_unpacklo_epi64(b, d);
        quads[index + 3] = _mm512_unpackhi_epi64(b, d);
    }
    let mut columns = quads;
    for index in 0..4 {
        // 0x88 selects quarters 0 and 2 of each operand, 0xdd quarters 1 and 3.
        let (a, b, c, d) = (quads[index], quads[index + 4], quads[index + 8], quads[index + 12]);
        let (upper, lower) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
        columns[index] = _mm512_shuffle_i32x4::<0x88>(upper, lower);
        columns[index + 8] = _mm512_shuffle_i32x4::<0xdd>(upper, lower);
        let (upper, lower) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d));
        columns[index + 4] = _mm512_shuffle_i32x4::<0x88>(upper, lower);
        columns[index + 12] = _mm512_shuffle_i32x4::<0xdd>(upper, lower);
    }
    columns
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
pub(super) fn load(values: &[f32; 16]) -> Floats {
    // SAFETY: a reference to 64 bytes.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
pub(super) fn store(values: &mut [f32; 16], vector: Floats) {
    // SAFETY: a reference to 64 bytes.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), vector) }
}

/// Loads a line.
///
/// # Safety
/// `line` must be valid for reading.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
pub(super) unsafe fn load_line(line: *const CacheLine) -> __m512i {
    // SAFETY: by the caller's contract; a line is aligned.
    unsafe { _mm512_load_si512(line.cast()) }
}

/// Stores a line.
///
/// # Safety
/// `line` must be valid for writing.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
pub(super) unsafe fn store_line(line: *mut CacheLine, values: __m512i) {
    // SAFETY: by the caller's contract; a line is aligned.
    unsafe { _mm512_store_si512(line.cast(), values) }
}

/// Rounds a vector to bf16 and stores it in the first or second half of a line.
///
/// # Safety
/// `line` must be valid for writing, and `half` be 0 or 1.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
pub(super) unsafe fn store_half_line(line: *mut CacheLine, half: usize, values: Floats) {
    // SAFETY: by the caller's contract; both types are 32 bytes without invariants, as is half of a line.
    unsafe {
        let values = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values));
        _mm256_store_si256(line.cast::<__m256i>().add(half), values);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        amx::{kernel_tests::amx, pack::bf16},
        reference,
    };

    pub(crate) fn values(from: f32, to: f32) -> impl Iterator<Item = [f32; 16]> {
        let at = move |index: usize| from + (to - from) * index as f32 / 20_000.0;
        (0..20_000).step_by(16).map(move |first| std::array::from_fn(|lane| at(first + lane)))
    }

    /// Compares `function` over a range of arguments with f64; `expected` returns the value and the allowed error.
    fn sweep(from: f32, to: f32, function: impl Fn(Floats) -> Floats, expected: impl Fn(f64) -> (f64, f64)) {
        for arguments in values(from, to) {
            let mut found = [0.0; 16];
            // SAFETY: every test checks for AMX, and so for AVX-512.
            unsafe { store(&mut found, function(load(&arguments))) };
            for (x, found) in arguments.into_iter().zip(found) {
                let (expected, allowed) = expected(f64::from(x));
                let error = (f64::from(found) - expected).abs();
                assert!(error <= allowed, "f({x}) = {found}, expected {expected}");
            }
        }
    }

    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn activations_match_reference() {
        amx();
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu] {
            let expected = |x: f64| (reference::activate(activation, x), 3.8e-5 + 6e-7 * x.abs());
            // SAFETY: as in `sweep`.
            let activate = |x| unsafe { activate(activation, x) };
            for edge in [6.0, 1000.0] {
                sweep(-edge, edge, activate, expected);
            }
        }
    }

    pub(crate) fn u16s(vector: __m512i) -> [u16; 32] {
        // SAFETY: both are 64 bytes without invariants.
        unsafe { std::mem::transmute(vector) }
    }

    fn u32s(vector: __m512i) -> [u32; 16] {
        // SAFETY: as above.
        unsafe { std::mem::transmute(vector) }
    }

    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn rounding_matches_scalar_rounding() {
        amx();
        // Ties to both sides, values next to ties, infinities, and values over the whole range.
        let bits = (0..40_000u32).map(|index| match index % 4 {
            0 => 0x3f80_8000 | (index / 4) << 16,
            1 => 0x3f80_7fff | (index / 4) << 16,
            2 => 0x3f80_8001 | (index / 4) << 16,
            _ => index.wrapping_mul(0x9e37_79b9),
        });
        let numbers: Vec<f32> =
            bits.map(f32::from_bits).filter(|value| value.is_normal() || value.is_infinite()).collect();
        for values in numbers.as_chunks::<32>().0 {
            let [first, second] = values.as_chunks::<16>().0 else { unreachable!("32 = 2 · 16") };
            // SAFETY: as above.
            let (found, pairs) =
                unsafe { (round(load(first), load(second)), round_pairs(load(first), load(second))) };
            assert_eq!(u16s(found), values.map(bf16));
            assert_eq!(u16s(pairs), std::array::from_fn(|lane| bf16(values[lane / 2 + lane % 2 * 16])));
        }
    }

    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn transpose_and_zip_move_lanes_correctly() {
        amx();
        // SAFETY: as above; arrays of 64 bytes.
        unsafe {
            let rows: [[u32; 16]; 16] =
                std::array::from_fn(|row| std::array::from_fn(|column| (row * 16 + column) as u32));
            let transposed = transpose(rows.map(|row| _mm512_loadu_si512(row.as_ptr().cast())));
            for (column, found) in transposed.into_iter().enumerate() {
                assert_eq!(u32s(found), std::array::from_fn(|row| rows[row][column]));
            }
            let lines: [[u16; 32]; 2] =
                std::array::from_fn(|line| std::array::from_fn(|lane| (line * 32 + lane) as u16));
            let [first, second] = lines.map(|line| _mm512_loadu_si512(line.as_ptr().cast()));
            let [low, high] = zip(first, second);
            assert_eq!(u16s(low), std::array::from_fn(|lane| lines[lane % 2][lane / 2]));
            assert_eq!(u16s(high), std::array::from_fn(|lane| lines[lane % 2][16 + lane / 2]));
        }
    }
}
