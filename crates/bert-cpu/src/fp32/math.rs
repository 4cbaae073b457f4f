//! The exponential function and activations, on vectors.

use encoder_spec::Activation;

use crate::simd::Simd;

/// Smaller exponents count as this one. 2⁻⁶⁴ does not change a softmax's sum, which is at least 1, and products with it
/// are not denormal, which would be slow.
const MIN_EXPONENT: f32 = -64.0;

/// Coefficients of 2ᶠ for f in [−½, ½], constant first. Minimax fit (Remez) of the relative error with the constant
/// held at 1. The error of 2.6e-9 is below f32's rounding error; the linear term rounds to ln 2, as in the Taylor
/// series.
const EXP2: [f32; 7] = [
    1.0,
    std::f32::consts::LN_2,
    0.240_226_53,
    0.055_503_106,
    0.009_617_693,
    0.001_340_664_4,
    0.000_155_946_78,
];

/// 2ˣ for x ≤ 127; 2⁻⁶⁴ for x < −64.
#[inline(always)]
pub(super) fn exp2<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let x = simd.max(x, simd.splat(MIN_EXPONENT));
    let integer = simd.round(x);
    let fraction = simd.sub(x, integer);
    let mut sum = simd.splat(EXP2[6]);
    for index in (0..6).rev() {
        sum = simd.mul_add(sum, fraction, simd.splat(EXP2[index]));
    }
    simd.mul(sum, simd.exp2_int(integer))
}

#[inline(always)]
pub(super) fn activate<S: Simd>(simd: S, activation: Activation, x: S::Vector) -> S::Vector {
    match activation {
        Activation::Gelu => gelu(simd, x),
        Activation::GeluTanh => gelu_tanh(simd, x),
        Activation::Relu => simd.max(x, simd.splat(0.0)),
        Activation::Silu => times_logistic(simd, x, simd.mul(x, simd.splat(-std::f32::consts::LOG2_E))),
    }
}

/// x · Φ(x) = ½ (x + |x| · erf(|x| / √2)), with erf by Abramowitz and Stegun's formula 7.1.26 (Handbook of Mathematical
/// Functions, 1964), whose error is at most 1.5e-7.
#[inline(always)]
fn gelu<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    const P: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
    const A: [f32; 5] = [0.254_829_6, -0.284_496_74, 1.421_413_8, -1.453_152_1, 1.061_405_4];
    let magnitude = simd.abs(x);
    let one = simd.splat(1.0);
    let t = simd.div(one, simd.mul_add(magnitude, simd.splat(P), one));
    let mut sum = simd.splat(A[4]);
    for index in (0..4).rev() {
        sum = simd.mul_add(sum, t, simd.splat(A[index]));
    }
    // e^(−x²/2)
    let gaussian = exp2(simd, simd.mul(simd.mul(x, x), simd.splat(-0.5 * std::f32::consts::LOG2_E)));
    let erf = simd.sub(one, simd.mul(simd.mul(sum, t), gaussian));
    simd.mul(simd.splat(0.5), simd.mul_add(magnitude, erf, x))
}

/// ½ x (1 + tanh u) = x / (1 + e^(−2u)) with u = √(2/π) (x + 0.044715 x³).
#[inline(always)]
fn gelu_tanh<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    const ROOT: f32 = 0.797_884_6;
    let cubic = simd.mul_add(simd.mul(x, x), simd.splat(0.044_715), simd.splat(1.0));
    let exponent = simd.mul(simd.mul(x, cubic), simd.splat(-2.0 * ROOT * std::f32::consts::LOG2_E));
    times_logistic(simd, x, exponent)
}

/// x / (1 + 2^exponent).
#[inline(always)]
fn times_logistic<S: Simd>(simd: S, x: S::Vector, exponent: S::Vector) -> S::Vector {
    // Limited to 2¹²⁶, where the power would overflow: the quotient is 0 to f32's accuracy either way.
    let exponent = negate(simd, simd.max(negate(simd, exponent), simd.splat(-126.0)));
    simd.div(x, simd.add(simd.splat(1.0), exp2(simd, exponent)))
}

#[inline(always)]
fn negate<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    simd.sub(simd.splat(0.0), x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Isa, reference,
        simd::WithSimd,
        testing::{fp32_tests, run_with},
    };

    /// Compares a function over a range of arguments with f64.
    struct Sweep {
        function: Function,
        from: f32,
        to: f32,
    }

    #[derive(Clone, Copy)]
    enum Function {
        Exp2,
        Activation(Activation),
    }

    impl WithSimd for Sweep {
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let mut out = vec![0.0; S::WIDTH];
            for step in 0..20_000 {
                let x = self.from + (self.to - self.from) * step as f32 / 20_000.0;
                let vector = simd.splat(x);
                let found = match self.function {
                    Function::Exp2 => exp2(simd, vector),
                    Function::Activation(activation) => activate(simd, activation, vector),
                };
                // SAFETY: `out` holds WIDTH values.
                unsafe { simd.store(out.as_mut_ptr(), found) };
                let found = f64::from(out[0]);
                let (expected, allowed) = match self.function {
                    Function::Exp2 => (f64::from(x).exp2(), f64::from(x).exp2() * 2.5e-7),
                    Function::Activation(activation) => {
                        (reference::activate(activation, f64::from(x)), 3e-7 * f64::from(x.abs()).max(1.0))
                    }
                };
                assert!((found - expected).abs() <= allowed, "f({x}) = {found}, expected {expected}");
            }
        }
    }

    fn sweep(isa: Isa, function: Function, from: f32, to: f32) {
        run_with(isa, Sweep { function, from, to });
    }

    fp32_tests! {
        fn exp2_is_accurate_to_rounding(isa: Isa) {
            sweep(isa, Function::Exp2, -63.99, 0.0);
            sweep(isa, Function::Exp2, -1.0, 126.0);
        }

        fn activations_match_reference(isa: Isa) {
            for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu] {
                sweep(isa, Function::Activation(activation), -6.0, 6.0);
                sweep(isa, Function::Activation(activation), -1000.0, 1000.0);
            }
        }
    }
}
