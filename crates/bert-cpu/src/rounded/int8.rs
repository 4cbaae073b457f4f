//! int8: rows of A as integers from 0 to 255 with a scale and a zero point for each row, columns of B as signed
//! integers with a scale for each column.
//!
//! A column of A with large values would leave the others few steps. Before both are rounded, its values are divided
//! and the weights that they are multiplied with are multiplied by s = max|A|^α / max|B|^(1−α) with α = ½, as in
//! SmoothQuant (Xiao et al. 2022).

use super::{GroupDot, HEADER, pack::WeightFormat};
use crate::simd::Simd;

/// Steps between the smallest and the largest value of a row. One less than 255, so that a rounded value plus the
/// rounded zero point is at most 255.
const STEPS: f32 = 254.0;

/// Smaller ranges of a row count as this one, so that the inverse is finite. Such a row is as good as zero.
const MIN_RANGE: f32 = 1e-30;

/// Largest magnitude of a weight.
const MAX_WEIGHT: f32 = 127.0;

/// Largest K whose sums of products fit an i32.
pub(crate) const MAX_K: usize = i32::MAX as usize / (255 * 127);

/// A maximum of A below this part of the mean over all columns counts as that: a column that is quiet in the
/// calibration must not dominate a row if it is not quiet later. ½ gave the best mean cosine (docs/adr/0026).
const MIN_MAXIMUM: f32 = 1.0 / 2.0;

impl WeightFormat for i8 {
    const ZERO: Self = 0;

    fn input_factors(maxima: Option<&[f32]>, weights: &[f32]) -> Vec<f32> {
        let Some(maxima) = maxima else { return vec![1.0; weights.len()] };
        let active = maxima.iter().filter(|max| **max > 0.0).count();
        let mean = maxima.iter().sum::<f32>() / active.max(1) as f32;
        let factor = |(max, weight): (&f32, &f32)| {
            let factor = (weight / max.max(mean * MIN_MAXIMUM)).sqrt();
            if factor.is_normal() { factor } else { 1.0 }
        };
        maxima.iter().zip(weights).map(factor).collect()
    }

    fn round_column(column: &[f32], factor: f32, rounded: &mut [i8]) -> (f32, i32) {
        if !column.iter().all(|value| value.is_finite()) {
            return (f32::NAN, 0);
        }
        let max = column.iter().fold(0.0f32, |max, value| max.max(value.abs()));
        if max < MIN_RANGE {
            return (0.0, 0);
        }
        let scale = max / MAX_WEIGHT;
        for (out, value) in rounded.iter_mut().zip(column) {
            *out = (value / scale).round_ties_even() as i8;
        }
        (scale * factor, rounded.iter().copied().map(i32::from).sum())
    }

    #[inline(always)]
    unsafe fn round_row<D: GroupDot<Weight = Self>>(dot: D, from: *const f32, factors: &[f32], to: *mut f32) {
        let (simd, width) = (dot.simd(), D::Simd::WIDTH);
        let zero = simd.splat(0.0);
        let (mut max, mut negated_min, mut check) = (zero, zero, zero);
        // SAFETY: by the caller's contract.
        unsafe {
            for column in (0..factors.len()).step_by(width) {
                let value = scaled(simd, from.add(column), factors.as_ptr().add(column));
                max = simd.max(value, max);
                negated_min = simd.max(simd.sub(zero, value), negated_min);
                // Not a number if a value is not finite, which the result must show.
                check = simd.mul_add(value, zero, check);
            }
            let negated_min = simd.reduce_max(negated_min);
            let range = (simd.reduce_max(max) + negated_min).max(MIN_RANGE);
            let inverse = STEPS / range;
            let zero_point = (negated_min * inverse).round_ties_even() as i32 + D::OFFSET;
            *to = range / STEPS + simd.reduce_sum(check);
            *to.add(1) = f32::from_bits(zero_point as u32);
            let to = to.add(HEADER);
            let inverse = simd.splat(inverse);
            for column in (0..factors.len()).step_by(2 * width) {
                let (from, factors) = (from.add(column), factors.as_ptr().add(column));
                let low = simd.mul(scaled(simd, from, factors), inverse);
                let high = simd.mul(scaled(simd, from.add(width), factors.add(width)), inverse);
                dot.store_rounded(to.add(column / D::GROUP), [low, high], zero_point);
            }
        }
    }
}

/// A vector of values times their factors.
///
/// # Safety
/// Both must be valid for reading a vector.
#[inline(always)]
unsafe fn scaled<S: Simd>(simd: S, from: *const f32, factors: *const f32) -> S::Vector {
    // SAFETY: by the caller's contract.
    unsafe { simd.mul(simd.load(from), simd.load(factors)) }
}
