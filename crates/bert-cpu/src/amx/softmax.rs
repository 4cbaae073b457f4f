//! A softmax's powers of two, from scores in f32 to pairs in bf16, with integers as far as can be: beside the tiles,
//! arithmetic in f32 is what there is least of.
//!
//! A softmax is the same with any *reference* r in 2^(s − r), as long as the largest power keeps clear of the ends of
//! bf16's range. So r is 0 to begin with, and the largest score is looked at afterwards.

use std::arch::x86_64::*;

use super::{
    layout::Lines,
    tile::TILE,
    vector::{Floats, store_line},
};

/// Lines of a row of 32 f32: a key's scores, or a place in all 32 results.
pub(super) const ROW: usize = 2;

/// Least exponent of a softmax's power: bf16's normal numbers end there, and denormal ones would be slow.
const LEAST_EXPONENT: f32 = -126.0;

/// How far a largest score may be from its reference: so far that powers of 2⁻⁶⁶ of the largest still count, and that
/// the sum of very many is finite.
const FARTHEST: f32 = 60.0;

/// Added to an exponent x, leaves 256 · (127 + x), rounded to the nearest integer, in the sum's lowest 16 bits: the
/// sum lies in 2¹⁵ … 2¹⁶, where a unit of f32 is 2⁻⁸, and 127 is bf16's bias.
const ALIGN: f32 = 1.5 * 32768.0 + 127.0;

/// 256 (1 + f − 2ᶠ) for f from j / 64 on, to 1 / 64 more: what the mantissa of 2ᶠ lacks when f is taken for it, but for
/// one half of what is cut off afterwards. Of the integers the one with the least mean square of the relative error.
const BEND: [u8; 64] = [
    0, 1, 2, 4, 4, 6, 7, 8, 9, 10, 10, 12, 12, 13, 14, 15, 15, 16, 17, 17, 18, 18, 19, 19, 20, 20, 20, 21,
    21, 21, 21, 21, 21, 22, 22, 21, 21, 21, 21, 21, 21, 20, 20, 19, 19, 19, 18, 17, 17, 16, 15, 15, 13, 13,
    12, 11, 9, 9, 7, 6, 5, 3, 2, 1,
];

/// What is subtracted from the exponents of powers of two, and what the largest exponent has been; for each lane.
pub(super) struct Reference {
    /// [`ALIGN`] − reference.
    alignment: Floats,
    /// [`ALIGN`] + the largest exponent − reference.
    largest: Floats,
}

impl Reference {
    /// 0, and no exponent has been seen.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) fn zero() -> Self {
        Self { alignment: _mm512_set1_ps(ALIGN), largest: _mm512_set1_ps(f32::NEG_INFINITY) }
    }

    /// 2^(score − reference) in bf16, of two vectors of scores: pairs, as the right factor of a product has them; 2⁻¹²⁶
    /// where it would be less, and nothing sensible where it would be more than 2¹²⁸. The relative error is at most
    /// 0.6 %, and 0.2 % in the mean square, where the best bf16 has 0.4 % and 0.17 %.
    ///
    /// The exponent's integer part and some bits of its fraction, as an integer, are a floating-point number: 2ⁿ (1 + f),
    /// the line through 2ⁿ and 2ⁿ⁺¹ (Schraudolph 1999, doi 10.1162/089976699300016467), which [`BEND`] bends to the
    /// curve. One bit more than bf16 has is cut off at the end.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn powers(&mut self, even: Floats, odd: Floats) -> __m512i {
        const ODD: u32 = 0xaaaa_aaaa;
        const LOW_BYTES: u64 = 0x5555_5555_5555_5555;
        let [even, odd] = [even, odd].map(|scores| _mm512_add_ps(scores, self.alignment));
        // Of a number and not-a-number, the instruction gives the second: each of these ignores it.
        self.largest = _mm512_max_ps(even, self.largest);
        self.largest = _mm512_max_ps(odd, self.largest);
        let least = _mm512_set1_ps(ALIGN + LEAST_EXPONENT);
        let [even, odd] = [even, odd].map(|aligned| _mm512_castps_si512(_mm512_max_ps(aligned, least)));
        let line = _mm512_mask_blend_epi16(ODD, even, _mm512_slli_epi32::<16>(odd));
        // SAFETY: a reference to 64 bytes.
        let bend = unsafe { _mm512_loadu_si512(BEND.as_ptr().cast()) };
        // A byte's lowest six bits choose; here they are the fraction's upper six.
        let bend = _mm512_maskz_permutexvar_epi8(LOW_BYTES, _mm512_srli_epi16::<2>(line), bend);
        _mm512_srli_epi16::<1>(_mm512_sub_epi16(line, bend))
    }

    /// Moves the reference, where the largest exponent was too far from it, to that exponent, forgets that exponent, and
    /// tells whether there was such a place.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) fn moves(&mut self) -> bool {
        let distance = _mm512_sub_ps(self.largest, _mm512_set1_ps(ALIGN));
        let far = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(_mm512_abs_ps(distance), _mm512_set1_ps(FARTHEST));
        self.alignment = _mm512_mask_sub_ps(self.alignment, far, self.alignment, distance);
        self.largest = _mm512_set1_ps(f32::NEG_INFINITY);
        far != 0
    }
}

/// `sums` and the pairs' sums: in each lane, that of two values of bf16.
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

/// Writes 2^(score − reference) of the scores of up to 32 keys in bf16, pairs of keys, zeros after the last; adds the
/// powers to the sums.
///
/// # Safety
/// Nobody else may access either; there must be scores for the keys, and powers for 32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
pub(super) unsafe fn raise<const HALVES: usize>(
    scores: Lines,
    powers: Lines,
    keys: usize,
    references: &mut [Reference; HALVES],
    sums: &mut [Floats; HALVES],
) {
    // SAFETY: by the caller's promise, here and below; a key's scores are two lines, and so are a pair's powers.
    let at = |key: usize, half: usize| unsafe { _mm512_load_ps(scores.at(key * ROW + half).cast()) };
    let write = |pair: usize, half: usize, values| {
        // SAFETY: as above.
        unsafe { store_line(powers.at(pair * ROW + half), values) }
    };
    for pair in 0..keys / 2 {
        for half in 0..HALVES {
            let powers = references[half].powers(at(2 * pair, half), at(2 * pair + 1, half));
            write(pair, half, powers);
            sums[half] = add_pairs(sums[half], powers);
        }
    }
    for pair in keys / 2..TILE {
        for half in 0..HALVES {
            let mut last = _mm512_setzero_si512();
            if 2 * pair < keys {
                let even = at(2 * pair, half);
                last = _mm512_maskz_mov_epi16(0x5555_5555, references[half].powers(even, even));
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
            tests::{halves, values},
        },
    };

    /// Powers of even and odd scores, and whether the largest was far from the reference.
    fn powers(reference: &mut Reference, even: [f32; 16], odd: [f32; 16]) -> ([u16; 32], bool) {
        // SAFETY: asked only where there is AMX, and so the features; here and below.
        unsafe { (halves(reference.powers(load(&even), load(&odd))), reference.moves()) }
    }

    #[test]
    fn powers_of_two_are_near_enough_for_bf16() {
        if amx().is_none() {
            return;
        }
        let (mut squares, mut count) = (0.0, 0.0);
        for even in values(-59.0, 59.0) {
            let odd = even.map(|score| -score);
            // SAFETY: as above.
            let (found, far) = powers(&mut unsafe { Reference::zero() }, even, odd);
            assert!(!far);
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
    fn a_reference_moves_to_a_largest_score_that_is_far() {
        if amx().is_none() {
            return;
        }
        let (one, half, least) = (bf16(1.0), bf16(0.5), bf16(f32::MIN_POSITIVE));
        for largest in [61.0, -61.0, 700.0, -700.0, 1e6, -1e6, 3e4, -3e4] {
            let (even, odd) =
                ([largest; 16], std::array::from_fn(|lane| if lane < 8 { largest - 1.0 } else { -1e30 }));
            // SAFETY: as above.
            let mut reference = unsafe { Reference::zero() };
            assert!(powers(&mut reference, even, odd).1, "{largest}");
            powers(&mut reference, even, odd);
            let (found, far) = powers(&mut reference, even, odd);
            assert!(!far, "{largest}");
            let expected = |lane: usize| {
                if lane.is_multiple_of(2) {
                    one
                } else if lane < 16 {
                    half
                } else {
                    least
                }
            };
            assert_eq!(found, std::array::from_fn(expected), "{largest}");
        }
    }

    /// A power of what is no number is next to nothing, and leaves its neighbours theirs; beside an infinity all are.
    #[test]
    fn what_is_no_number_has_the_least_power() {
        if amx().is_none() {
            return;
        }
        let (one, least) = (bf16(1.0), bf16(f32::MIN_POSITIVE));
        for (strange, beside) in [(f32::NAN, one), (f32::NEG_INFINITY, one), (f32::INFINITY, least)] {
            // SAFETY: as above.
            let mut reference = unsafe { Reference::zero() };
            let [_, _, (found, _)] = [(); 3].map(|()| powers(&mut reference, [strange; 16], [0.0; 16]));
            let expected = |lane: usize| if lane.is_multiple_of(2) { least } else { beside };
            assert_eq!(found, std::array::from_fn(expected), "{strange}");
        }
    }

    #[test]
    fn pairs_are_summed_lane_by_lane() {
        if amx().is_none() {
            return;
        }
        let first: [f32; 16] = std::array::from_fn(|lane| lane as f32);
        let second = first.map(|value| 100.0 - 2.0 * value);
        let mut found = [0.0; 16];
        // SAFETY: as above.
        unsafe { store(&mut found, add_pairs(load(&[0.5; 16]), round_pairs(load(&first), load(&second)))) };
        assert_eq!(found, std::array::from_fn(|lane| 100.5 - lane as f32));
    }
}
