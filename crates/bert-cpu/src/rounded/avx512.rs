//! int8 by AVX-512 VNNI, and bf16 by its bf16 extension.

use std::arch::x86_64::*;

use super::{
    GroupDot, WithGroupDot,
    attention::{self, PairDot},
    bf16::Bf16,
};
use crate::{
    Isa,
    fp32::attention::Attention,
    simd::{Avx512, Simd},
};

/// Proof that this CPU has AVX-512 VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512Vnni(Avx512);

impl Avx512Vnni {
    /// Returns the proof if this CPU has it.
    pub(crate) fn detect() -> Option<Self> {
        if Isa::Avx512Vnni.is_available() { Avx512::detect().map(Self) } else { None }
    }
}

/// Proof that this CPU has AVX-512 BF16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512Bf16(Avx512);

impl Avx512Bf16 {
    /// Returns the proof if this CPU has it.
    pub(crate) fn detect() -> Option<Self> {
        if Isa::Avx512Bf16.is_available() { Avx512::detect().map(Self) } else { None }
    }
}

// SAFETY of every block below: a value of these types exists only if `detect` found the instructions.
#[allow(clippy::undocumented_unsafe_blocks)]
impl GroupDot for Avx512Vnni {
    type Simd = Avx512;

    type Weight = i8;

    type Group = __m512i;

    type Groups = __m512i;

    type Sums = __m512i;

    const GROUP: usize = 4;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }

    #[inline]
    fn run(self, op: impl WithGroupDot<Self>) {
        #[target_feature(enable = "avx2,fma,avx512f,avx512vnni")]
        fn vectorized(dot: Avx512Vnni, op: impl WithGroupDot<Avx512Vnni>) {
            op.with_dot(dot);
        }
        unsafe { vectorized(self, op) }
    }

    #[inline(always)]
    unsafe fn broadcast(self, from: *const f32) -> __m512i {
        unsafe { _mm512_set1_epi32((*from).to_bits() as i32) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const i8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    fn dot(self, sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sums, a, b) }
    }

    #[inline(always)]
    unsafe fn initial(self, zero_point: i32, column_sums: *const i32) -> __m512i {
        unsafe { _mm512_mullo_epi32(_mm512_set1_epi32(-zero_point), _mm512_loadu_si512(column_sums.cast())) }
    }

    #[inline(always)]
    unsafe fn finish(self, sums: __m512i, scale: f32, column_scales: *const f32, addend: __m512) -> __m512 {
        unsafe {
            let scale = _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_loadu_ps(column_scales));
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scale, addend)
        }
    }

    #[inline(always)]
    unsafe fn store_rounded(self, to: *mut f32, values: [__m512; 2], zero_point: i32) {
        unsafe {
            let zero_point = _mm512_set1_epi32(zero_point);
            for (index, values) in values.into_iter().enumerate() {
                let integers = _mm512_add_epi32(_mm512_cvtps_epi32(values), zero_point);
                let groups = to.add(index * Avx512::WIDTH / Self::GROUP);
                _mm_storeu_si128(groups.cast(), _mm512_cvtepi32_epi8(integers));
            }
        }
    }

    fn attention(self, attention: Attention<'_>) {
        attention::run(self, attention);
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl GroupDot for Avx512Bf16 {
    type Simd = Avx512;

    type Weight = Bf16;

    type Group = __m512bh;

    type Groups = __m512bh;

    type Sums = __m512;

    const GROUP: usize = 2;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }

    #[inline]
    fn run(self, op: impl WithGroupDot<Self>) {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni,avx512bf16")]
        fn vectorized(dot: Avx512Bf16, op: impl WithGroupDot<Avx512Bf16>) {
            op.with_dot(dot);
        }
        unsafe { vectorized(self, op) }
    }

    #[inline(always)]
    unsafe fn broadcast(self, from: *const f32) -> __m512bh {
        unsafe { std::mem::transmute(_mm512_set1_epi32((*from).to_bits() as i32)) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const Bf16) -> __m512bh {
        unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    fn dot(self, sums: __m512, a: __m512bh, b: __m512bh) -> __m512 {
        unsafe { _mm512_dpbf16_ps(sums, a, b) }
    }

    #[inline(always)]
    unsafe fn initial(self, _: i32, _: *const i32) -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn finish(self, sums: __m512, _: f32, _: *const f32, addend: __m512) -> __m512 {
        unsafe { _mm512_add_ps(sums, addend) }
    }

    #[inline(always)]
    unsafe fn store_rounded(self, to: *mut f32, values: [__m512; 2], _: i32) {
        unsafe {
            for (index, values) in values.into_iter().enumerate() {
                let groups: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(values));
                _mm256_storeu_si256(to.add(index * Avx512::WIDTH / Self::GROUP).cast(), groups);
            }
        }
    }

    fn attention(self, attention: Attention<'_>) {
        attention::run(self, attention);
    }
}

/// [`PairDot`] for a proof token of a CPU with AVX-512 VNNI.
macro_rules! pairs_in_512_bits {
    ($token:ty) => {
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl PairDot for $token {
            type Pairs = __m512i;

            #[inline(always)]
            fn zero(self) -> __m512i {
                unsafe { _mm512_setzero_si512() }
            }

            #[inline(always)]
            unsafe fn broadcast_pair(self, from: *const f32) -> __m512i {
                unsafe { _mm512_set1_epi32((*from).to_bits() as i32) }
            }

            #[inline(always)]
            unsafe fn load_pairs(self, from: *const f32) -> __m512i {
                unsafe { _mm512_loadu_si512(from.cast()) }
            }

            #[inline(always)]
            unsafe fn store_pairs(self, to: *mut f32, pairs: __m512i) {
                unsafe { _mm512_storeu_si512(to.cast(), pairs) }
            }

            #[inline(always)]
            fn round_to_pairs(self, first: __m512, second: __m512) -> __m512i {
                unsafe {
                    let first = _mm512_and_si512(_mm512_cvtps_epi32(first), _mm512_set1_epi32(0xffff));
                    _mm512_or_si512(first, _mm512_slli_epi32::<16>(_mm512_cvtps_epi32(second)))
                }
            }

            #[inline(always)]
            fn dot_pairs(self, sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
                unsafe { _mm512_dpwssd_epi32(sums, a, b) }
            }

            #[inline(always)]
            fn sums_to_f32(self, sums: __m512i) -> __m512 {
                unsafe { _mm512_cvtepi32_ps(sums) }
            }
        }
    };
}

pairs_in_512_bits!(Avx512Vnni);
pairs_in_512_bits!(Avx512Bf16);
