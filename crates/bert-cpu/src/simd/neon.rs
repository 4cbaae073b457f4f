//! NEON: 4 values. Every 64-bit Arm CPU with a general-purpose operating system has it.

use std::arch::aarch64::*;

use super::{Simd, WithSimd, vector_operations};
use crate::Isa;

/// Proof that this CPU has NEON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    /// Returns the proof if this CPU has it.
    pub(crate) fn detect() -> Option<Self> {
        Isa::Neon.is_available().then_some(Self(()))
    }
}

// SAFETY of every block below: a value of this type exists only if `detect` found the instructions. On targets that
// include NEON, intrinsics that access no memory are safe, so `unused_unsafe` would warn.
#[allow(clippy::undocumented_unsafe_blocks, unused_unsafe)]
impl Simd for Neon {
    type Vector = float32x4_t;

    const WIDTH: usize = 4;

    // 24 of the 32 registers hold the accumulators.
    const MR: usize = 12;

    // A panel takes 12 KiB of the L1d cache.
    const KC: usize = 384;

    #[inline]
    fn run(self, op: impl WithSimd) {
        #[target_feature(enable = "neon")]
        fn vectorized(simd: Neon, op: impl WithSimd) {
            op.with_simd(simd);
        }
        unsafe { vectorized(self, op) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    fn prefetch(self, _: *const f32) {
        // Stable Rust has no prefetch intrinsic for Arm.
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: float32x4_t) {
        unsafe { vst1q_f32(to, vector) }
    }

    vector_operations! { float32x4_t:
        add(a, b) = vaddq_f32(a, b);
        sub(a, b) = vsubq_f32(a, b);
        mul(a, b) = vmulq_f32(a, b);
        div(a, b) = vdivq_f32(a, b);
        max(a, b) = vmaxq_f32(a, b);
        // `vfmaq_f32` takes the addend first.
        mul_add(a, b, c) = vfmaq_f32(c, a, b);
        abs(a) = vabsq_f32(a);
        round(a) = vrndnq_f32(a);
        // The exponent field, biased by 127, above 23 bits of mantissa.
        exp2_int(n) = {
            let biased = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        };
    }

    #[inline(always)]
    fn reduce_sum(self, a: float32x4_t) -> f32 {
        unsafe { vaddvq_f32(a) }
    }

    #[inline(always)]
    fn reduce_max(self, a: float32x4_t) -> f32 {
        unsafe { vmaxvq_f32(a) }
    }
}
