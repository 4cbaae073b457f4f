//! int8 with vectors of NEON and the dot products of FEAT_DotProd (Armv8.2-A).

use std::arch::{aarch64::*, asm};

use super::{GroupDot, WithGroupDot};
use crate::{
    Isa,
    fp32::attention::Attention,
    simd::{Neon, Simd},
};

/// Proof that this CPU has NEON and FEAT_DotProd.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeonDotprod(Neon);

impl NeonDotprod {
    /// Returns the proof if this CPU has it.
    pub(crate) fn detect() -> Option<Self> {
        if Isa::NeonDotprod.is_available() { Neon::detect().map(Self) } else { None }
    }
}

// SAFETY of every block below: a value of this type exists only if `detect` found the instructions. On targets that
// include NEON, intrinsics that access no memory are safe, so `unused_unsafe` would warn.
#[allow(clippy::undocumented_unsafe_blocks, unused_unsafe)]
impl GroupDot for NeonDotprod {
    type Simd = Neon;

    type Weight = i8;

    // Four integers: `sdot` by element takes them for all lanes. A vector of copies would need an instruction for each
    // group, in the units that `sdot` needs.
    type Group = f32;

    type Groups = int8x16_t;

    type Sums = int32x4_t;

    const GROUP: usize = 4;

    // `sdot` multiplies signed with signed values; unsigned with signed ones are a later extension, FEAT_I8MM.
    const OFFSET: i32 = -128;

    #[inline(always)]
    fn simd(self) -> Neon {
        self.0
    }

    #[inline]
    fn run(self, op: impl WithGroupDot<Self>) {
        #[target_feature(enable = "neon,dotprod")]
        fn vectorized(dot: NeonDotprod, op: impl WithGroupDot<NeonDotprod>) {
            op.with_dot(dot);
        }
        unsafe { vectorized(self, op) }
    }

    #[inline(always)]
    unsafe fn broadcast(self, from: *const f32) -> f32 {
        unsafe { *from }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const i8) -> int8x16_t {
        unsafe { vld1q_s8(from) }
    }

    #[inline(always)]
    fn dot(self, mut sums: int32x4_t, a: f32, b: int8x16_t) -> int32x4_t {
        // The intrinsic `vdotq_laneq_s32` is unstable. The directive is for builds without inlining, where this
        // function is compiled by itself, without the target feature of `run`.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sums:v}.4s, {b:v}.16b, {a:v}.4b[0]",
                sums = inout(vreg) sums,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }

    #[inline(always)]
    unsafe fn initial(self, zero_point: i32, column_sums: *const i32) -> int32x4_t {
        unsafe { vmulq_s32(vdupq_n_s32(-zero_point), vld1q_s32(column_sums)) }
    }

    #[inline(always)]
    unsafe fn finish(
        self,
        sums: int32x4_t,
        scale: f32,
        column_scales: *const f32,
        addend: float32x4_t,
    ) -> float32x4_t {
        unsafe {
            let scale = vmulq_f32(vdupq_n_f32(scale), vld1q_f32(column_scales));
            // `vfmaq_f32` takes the addend first.
            vfmaq_f32(addend, vcvtq_f32_s32(sums), scale)
        }
    }

    #[inline(always)]
    unsafe fn store_rounded(self, to: *mut f32, [low, high]: [float32x4_t; 2], zero_point: i32) {
        unsafe {
            let zero_point = vdupq_n_s32(zero_point);
            let low = vaddq_s32(vcvtnq_s32_f32(low), zero_point);
            let high = vaddq_s32(vcvtnq_s32_f32(high), zero_point);
            let words = vcombine_s16(vqmovn_s32(low), vqmovn_s32(high));
            vst1_s8(to.cast(), vqmovn_s16(words));
        }
    }

    // Instructions for 16 bits have the rate of those for f32.
    fn attention(self, attention: Attention<'_>) {
        self.0.run(attention);
    }
}
