//! AVX2 and FMA: 8 values.

use std::arch::x86_64::*;

use super::{Simd, WithSimd, vector_operations};
use crate::Isa;

/// Proof that this CPU has AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Returns the proof if this CPU has them.
    pub(crate) fn detect() -> Option<Self> {
        Isa::Avx2.is_available().then_some(Self(()))
    }
}

// SAFETY of every block below: a value of this type exists only if `detect` found the instructions.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2 {
    type Vector = __m256;

    const WIDTH: usize = 8;

    const MR: usize = 6;

    // A panel takes 24 KiB of the L1d cache.
    const KC: usize = 384;

    #[inline]
    fn run(self, op: impl WithSimd) {
        #[target_feature(enable = "avx2,fma")]
        fn vectorized(simd: Avx2, op: impl WithSimd) {
            op.with_simd(simd);
        }
        unsafe { vectorized(self, op) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    fn prefetch(self, from: *const f32) {
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(from.cast());
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: __m256) {
        unsafe { _mm256_storeu_ps(to, vector) }
    }

    vector_operations! { __m256:
        add(a, b) = _mm256_add_ps(a, b);
        sub(a, b) = _mm256_sub_ps(a, b);
        mul(a, b) = _mm256_mul_ps(a, b);
        div(a, b) = _mm256_div_ps(a, b);
        max(a, b) = _mm256_max_ps(a, b);
        mul_add(a, b, c) = _mm256_fmadd_ps(a, b, c);
        abs(a) = _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        round(a) = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        // The exponent field, biased by 127, above 23 bits of mantissa.
        exp2_int(n) = {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        };
    }

    #[inline(always)]
    fn reduce_sum(self, a: __m256) -> f32 {
        unsafe {
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps::<1>(a, a)))
        }
    }

    #[inline(always)]
    fn reduce_max(self, a: __m256) -> f32 {
        unsafe {
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps::<1>(a, a)))
        }
    }
}
