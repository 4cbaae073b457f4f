//! int8 with 256-bit vectors: AVX2 alone, and AVX-VNNI.

use std::arch::x86_64::*;

use super::{
    GroupDot, WithGroupDot,
    attention::{self, PairDot},
};
use crate::{Isa, fp32::attention::Attention, simd::Avx2};

/// Proof that this CPU has AVX2. Values of A take 16 bits and those of B are widened to 16 bits as they are loaded: the
/// instruction for 8 bits, `vpmaddubsw`, saturates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2Int8(Avx2);

impl Avx2Int8 {
    /// Returns the proof if this CPU has it.
    pub(crate) fn detect() -> Option<Self> {
        Avx2::detect().map(Self)
    }
}

/// Proof that this CPU has AVX-VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AvxVnni(Avx2);

impl AvxVnni {
    /// Returns the proof if this CPU has it.
    pub(crate) fn detect() -> Option<Self> {
        if Isa::AvxVnni.is_available() { Avx2::detect().map(Self) } else { None }
    }
}

/// Parts of [`GroupDot`] that do not depend on the size of a group.
macro_rules! int8_in_256_bits {
    ($features:literal) => {
        type Simd = Avx2;

        type Weight = i8;

        type Group = __m256i;

        type Groups = __m256i;

        type Sums = __m256i;

        #[inline(always)]
        fn simd(self) -> Avx2 {
            self.0
        }

        #[inline]
        fn run(self, op: impl WithGroupDot<Self>) {
            #[target_feature(enable = $features)]
            fn vectorized<D>(dot: D, op: impl WithGroupDot<D>) {
                op.with_dot(dot);
            }
            unsafe { vectorized(self, op) }
        }

        #[inline(always)]
        unsafe fn broadcast(self, from: *const f32) -> __m256i {
            unsafe { _mm256_castps_si256(_mm256_broadcast_ss(&*from)) }
        }

        #[inline(always)]
        unsafe fn initial(self, zero_point: i32, column_sums: *const i32) -> __m256i {
            unsafe {
                _mm256_mullo_epi32(_mm256_set1_epi32(-zero_point), _mm256_loadu_si256(column_sums.cast()))
            }
        }

        #[inline(always)]
        unsafe fn finish(
            self,
            sums: __m256i,
            scale: f32,
            column_scales: *const f32,
            addend: __m256,
        ) -> __m256 {
            unsafe {
                let scale = _mm256_mul_ps(_mm256_set1_ps(scale), _mm256_loadu_ps(column_scales));
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, addend)
            }
        }

        fn attention(self, attention: Attention<'_>) {
            attention::run(self, attention);
        }
    };
}

/// [`PairDot`] by an expression for `dot_pairs`.
macro_rules! pairs_in_256_bits {
    ($sums:ident, $a:ident, $b:ident => $dot:expr) => {
        type Pairs = __m256i;

        #[inline(always)]
        fn zero(self) -> __m256i {
            unsafe { _mm256_setzero_si256() }
        }

        #[inline(always)]
        unsafe fn broadcast_pair(self, from: *const f32) -> __m256i {
            unsafe { _mm256_castps_si256(_mm256_broadcast_ss(&*from)) }
        }

        #[inline(always)]
        unsafe fn load_pairs(self, from: *const f32) -> __m256i {
            unsafe { _mm256_loadu_si256(from.cast()) }
        }

        #[inline(always)]
        unsafe fn store_pairs(self, to: *mut f32, pairs: __m256i) {
            unsafe { _mm256_storeu_si256(to.cast(), pairs) }
        }

        #[inline(always)]
        fn round_to_pairs(self, first: __m256, second: __m256) -> __m256i {
            unsafe {
                let second = _mm256_slli_epi32::<16>(_mm256_cvtps_epi32(second));
                _mm256_blend_epi16::<0b1010_1010>(_mm256_cvtps_epi32(first), second)
            }
        }

        #[inline(always)]
        fn dot_pairs(self, $sums: __m256i, $a: __m256i, $b: __m256i) -> __m256i {
            unsafe { $dot }
        }

        #[inline(always)]
        fn sums_to_f32(self, sums: __m256i) -> __m256 {
            unsafe { _mm256_cvtepi32_ps(sums) }
        }
    };
}

/// Rounds 16 values to integers of 16 bits, with the zero point added.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn round_to_words([low, high]: [__m256; 2], zero_point: i32) -> __m256i {
    // SAFETY: by the caller's contract.
    unsafe {
        let zero_point = _mm256_set1_epi32(zero_point);
        let low = _mm256_add_epi32(_mm256_cvtps_epi32(low), zero_point);
        let high = _mm256_add_epi32(_mm256_cvtps_epi32(high), zero_point);
        let words = _mm256_packus_epi32(low, high);
        // Packing interleaves the operands' halves.
        _mm256_permute4x64_epi64::<0b11_01_10_00>(words)
    }
}

// SAFETY of every block below: a value of these types exists only if `detect` found the instructions.
#[allow(clippy::undocumented_unsafe_blocks)]
impl GroupDot for Avx2Int8 {
    int8_in_256_bits!("avx2,fma");

    const GROUP: usize = 2;

    #[inline(always)]
    unsafe fn load(self, from: *const i8) -> __m256i {
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    fn dot(self, sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    unsafe fn store_rounded(self, to: *mut f32, values: [__m256; 2], zero_point: i32) {
        unsafe { _mm256_storeu_si256(to.cast(), round_to_words(values, zero_point)) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl GroupDot for AvxVnni {
    int8_in_256_bits!("avx2,fma,avxvnni");

    const GROUP: usize = 4;

    #[inline(always)]
    unsafe fn load(self, from: *const i8) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    fn dot(self, sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(sums, a, b) }
    }

    #[inline(always)]
    unsafe fn store_rounded(self, to: *mut f32, values: [__m256; 2], zero_point: i32) {
        unsafe {
            let words = round_to_words(values, zero_point);
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), bytes);
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl PairDot for Avx2Int8 {
    pairs_in_256_bits!(sums, a, b => _mm256_add_epi32(sums, _mm256_madd_epi16(a, b)));
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl PairDot for AvxVnni {
    pairs_in_256_bits!(sums, a, b => _mm256_dpwssd_avx_epi32(sums, a, b));
}
