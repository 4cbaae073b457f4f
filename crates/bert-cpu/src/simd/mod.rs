//! Vectors of f32 and their operations, for each instruction set.
//!
//! A value of a type that implements [`Simd`] is a proof token: it exists only on a CPU that has the instructions, so
//! its arithmetic is safe to call. A generic kernel is inlined into [`Simd::run`], which is compiled with the
//! instruction set enabled, and so becomes one machine-code kernel for each set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;

/// Defines operations of [`Simd`] on vectors by expressions of intrinsics, which are unsafe to call.
macro_rules! vector_operations {
    ($vector:ty: $($name:ident($($operand:ident),+) = $result:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($operand: $vector),+) -> $vector {
            unsafe { $result }
        }
    )+};
}
use vector_operations;

/// A generic kernel that [`Simd::run`] compiles for its instruction set. `with_simd` must be `#[inline(always)]`, and
/// so must every function on its hot path.
pub(crate) trait WithSimd {
    fn with_simd<S: Simd>(self, simd: S);
}

/// An instruction set, as a proof token.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// A vector of [`WIDTH`](Self::WIDTH) values.
    type Vector: Copy;

    const WIDTH: usize;

    /// Maximum rows of a GEMM's register tile, whose width is two vectors: next to the accumulators, the registers hold
    /// two vectors of B and one of A.
    const MR: usize;

    /// K of one block of a GEMM: as many rows has a panel of B that all rows of A pass over. It changes no bits.
    const KC: usize;

    /// Runs a kernel with the instruction set enabled.
    fn run(self, op: impl WithSimd);

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::Vector;

    /// # Safety
    /// `from` must be valid for reading `WIDTH` values.
    unsafe fn load(self, from: *const f32) -> Self::Vector;

    /// Prefetches two vectors to the L2 cache, if the instruction set can; the address need not be valid.
    fn prefetch(self, from: *const f32);

    /// # Safety
    /// `to` must be valid for writing `WIDTH` values.
    unsafe fn store(self, to: *mut f32, vector: Self::Vector);

    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// a · b + c, rounded once.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    fn abs(self, a: Self::Vector) -> Self::Vector;

    /// To the nearest integer, ties to even.
    fn round(self, a: Self::Vector) -> Self::Vector;

    /// 2ⁿ for integers n from −126 to 127.
    fn exp2_int(self, n: Self::Vector) -> Self::Vector;

    /// Sum of all lanes, always in the same order.
    fn reduce_sum(self, a: Self::Vector) -> f32;

    /// Maximum of all lanes.
    fn reduce_max(self, a: Self::Vector) -> f32;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{fp32_tests, run_with};

    /// Compares every operation with scalar arithmetic.
    struct Check;

    impl WithSimd for Check {
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let values = |salt: usize| -> Vec<f32> {
                (0..S::WIDTH).map(|lane| ((lane * 7 + salt * 5) % 13) as f32 * 1.37 - 6.5).collect()
            };
            let (a, b, c) = (values(1), values(2), values(3));
            // SAFETY: each holds WIDTH values.
            let [x, y, z] = unsafe { [simd.load(a.as_ptr()), simd.load(b.as_ptr()), simd.load(c.as_ptr())] };
            let check = |name: &str, found: S::Vector, expected: &dyn Fn(usize) -> f32| {
                let mut out = vec![0.0; S::WIDTH];
                // SAFETY: `out` holds WIDTH values.
                unsafe { simd.store(out.as_mut_ptr(), found) };
                let expected: Vec<f32> = (0..S::WIDTH).map(expected).collect();
                assert_eq!(out, expected, "{name}");
            };
            check("add", simd.add(x, y), &|lane| a[lane] + b[lane]);
            check("sub", simd.sub(x, y), &|lane| a[lane] - b[lane]);
            check("mul", simd.mul(x, y), &|lane| a[lane] * b[lane]);
            check("div", simd.div(x, y), &|lane| a[lane] / b[lane]);
            check("max", simd.max(x, y), &|lane| a[lane].max(b[lane]));
            check("mul_add", simd.mul_add(x, y, z), &|lane| a[lane].mul_add(b[lane], c[lane]));
            check("abs", simd.abs(x), &|lane| a[lane].abs());
            check("round", simd.round(x), &|lane| a[lane].round_ties_even());
            check("splat", simd.splat(1.5), &|_| 1.5);
            for n in [-126, -1, 0, 1, 127] {
                check("exp2_int", simd.exp2_int(simd.splat(n as f32)), &|_| 2f32.powi(n));
            }
            assert_eq!(simd.reduce_max(x), a.iter().copied().fold(f32::MIN, f32::max));
            let sum: f32 = a.iter().sum();
            assert!((simd.reduce_sum(x) - sum).abs() < 1e-4, "sum");
        }
    }

    fp32_tests! {
        fn operations_match_scalar_arithmetic(isa: Isa) {
            run_with(isa, Check);
        }
    }
}
