//! What a kernel knows of an instruction set: a vector of f32, and a dozen operations on it.
//!
//! A value of a type that implements [`Lanes`] is a token: it can only be made on a processor that has the
//! instructions, so its arithmetic is safe to call. Everything is inlined into [`Lanes::run`], which is compiled
//! with the instruction set enabled; one generic kernel so becomes one machine-code kernel for each set.

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

/// Work that is compiled for an instruction set. `run` must be `#[inline(always)]`, and so must everything that
/// it calls in the hot path.
pub(crate) trait Kernel {
    fn run<L: Lanes>(self, lanes: L);
}

/// An instruction set.
pub(crate) trait Lanes: Copy + Send + Sync + 'static {
    /// A vector of [`WIDTH`](Self::WIDTH) values.
    type Vector: Copy;

    const WIDTH: usize;

    /// Rows of the largest tile of a matrix product: as many as leave room for two columns of vectors in the
    /// registers, beside two of the right factor and one of the left.
    const TILE_ROWS: usize;

    /// Runs a kernel with the instructions enabled.
    fn run<K: Kernel>(self, kernel: K);

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::Vector;

    /// # Safety
    /// `from` must be valid for reading `WIDTH` values.
    unsafe fn load(self, from: *const f32) -> Self::Vector;

    /// Asks for two vectors to be in the cache soon, if there is an instruction for that and such an address.
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
    fn power_of_two(self, n: Self::Vector) -> Self::Vector;

    /// The sum of all lanes, always in the same order.
    fn sum(self, a: Self::Vector) -> f32;

    /// The largest lane.
    fn maximum(self, a: Self::Vector) -> f32;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_every_isa;

    /// Applies every operation to `a`, `b`, `c`, each of `WIDTH` values, and compares with plain arithmetic.
    struct Check;

    impl Kernel for Check {
        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) {
            let values = |salt: usize| -> Vec<f32> {
                (0..L::WIDTH).map(|lane| ((lane * 7 + salt * 5) % 13) as f32 * 1.37 - 6.5).collect()
            };
            let (a, b, c) = (values(1), values(2), values(3));
            // SAFETY: each holds WIDTH values.
            let [x, y, z] =
                unsafe { [lanes.load(a.as_ptr()), lanes.load(b.as_ptr()), lanes.load(c.as_ptr())] };
            let check = |name: &str, found: L::Vector, expected: &dyn Fn(usize) -> f32| {
                let mut out = vec![0.0; L::WIDTH];
                // SAFETY: `out` holds WIDTH values.
                unsafe { lanes.store(out.as_mut_ptr(), found) };
                let expected: Vec<f32> = (0..L::WIDTH).map(expected).collect();
                assert_eq!(out, expected, "{name}");
            };
            check("add", lanes.add(x, y), &|lane| a[lane] + b[lane]);
            check("sub", lanes.sub(x, y), &|lane| a[lane] - b[lane]);
            check("mul", lanes.mul(x, y), &|lane| a[lane] * b[lane]);
            check("div", lanes.div(x, y), &|lane| a[lane] / b[lane]);
            check("max", lanes.max(x, y), &|lane| a[lane].max(b[lane]));
            check("mul_add", lanes.mul_add(x, y, z), &|lane| a[lane].mul_add(b[lane], c[lane]));
            check("abs", lanes.abs(x), &|lane| a[lane].abs());
            check("round", lanes.round(x), &|lane| a[lane].round_ties_even());
            check("splat", lanes.splat(1.5), &|_| 1.5);
            for n in [-126, -1, 0, 1, 127] {
                check("power_of_two", lanes.power_of_two(lanes.splat(n as f32)), &|_| 2f32.powi(n));
            }
            assert_eq!(lanes.maximum(x), a.iter().copied().fold(f32::MIN, f32::max));
            let sum: f32 = a.iter().sum();
            assert!((lanes.sum(x) - sum).abs() < 1e-4, "sum");
        }
    }

    #[test]
    fn operations_are_plain_arithmetic() {
        on_every_isa(|| Check);
    }
}
