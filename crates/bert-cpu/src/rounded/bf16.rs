//! bf16: both operands rounded to the upper half of f32, sums in f32.

use super::{GroupDot, HEADER, pack::WeightFormat};
use crate::simd::Simd;

/// The bits of a bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bf16(u16);

impl Bf16 {
    /// The nearest bf16, ties to even.
    fn round(value: f32) -> Self {
        let bits = value.to_bits();
        if value.is_nan() {
            // Rounding up could turn the payload into an infinity.
            return Self((bits >> 16) as u16 | 0x40);
        }
        Self((bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16)
    }
}

impl WeightFormat for Bf16 {
    const ZERO: Self = Self(0);

    fn input_factors(_: Option<&[f32]>, weights: &[f32]) -> Vec<f32> {
        vec![1.0; weights.len()]
    }

    fn round_column(column: &[f32], factor: f32, rounded: &mut [Self]) -> (f32, i32) {
        rounded.iter_mut().zip(column).for_each(|(out, value)| *out = Self::round(*value * factor));
        (1.0, 0)
    }

    #[inline(always)]
    unsafe fn round_row<D: GroupDot<Weight = Self>>(dot: D, from: *const f32, factors: &[f32], to: *mut f32) {
        let (simd, width) = (dot.simd(), D::Simd::WIDTH);
        // SAFETY: by the caller's contract.
        unsafe {
            *to = 1.0;
            *to.add(1) = 0.0;
            let to = to.add(HEADER);
            for column in (0..factors.len()).step_by(2 * width) {
                let values = [simd.load(from.add(column)), simd.load(from.add(column + width))];
                dot.store_rounded(to.add(column / D::GROUP), values, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_to_the_nearest_bf16_and_ties_to_even() {
        let round = |bits: u32| Bf16::round(f32::from_bits(bits)).0;
        assert_eq!(
            [0x3f80_0000, 0x3f80_7fff, 0x3f80_8000, 0x3f80_8001].map(round),
            [0x3f80, 0x3f80, 0x3f80, 0x3f81]
        );
        assert_eq!([0x3f81_8000, 0xbf81_8000].map(round), [0x3f82, 0xbf82]);
        assert_eq!(round(f32::MAX.to_bits()), 0x7f80);
        assert_eq!(round(f32::NEG_INFINITY.to_bits()), 0xff80);
        assert_eq!(round(0x7f80_0001), 0x7fc0);
    }
}
