//! Exponential, normal distribution and their like, on vectors.

use crate::{Activation, lanes::Lanes};

/// Exponents below this count as this one: 2⁻⁶⁴ is nothing beside the 1 that stands in every sum of a softmax,
/// and products with it stay clear of denormal numbers, which are slow.
const LEAST_EXPONENT: f32 = -64.0;

/// Coefficients of 2ᶠ for f in [−½, ½], constant first. Minimax fit (Remez) of the relative error with the
/// constant held at 1: 2.6e-9, so that rounding to f32 decides (the linear term rounds to ln 2, as in the series);
/// a test compares with f64.
const EXP2: [f32; 7] = [
    1.0,
    std::f32::consts::LN_2,
    0.240_226_53,
    0.055_503_106,
    0.009_617_693,
    0.001_340_664_4,
    0.000_155_946_78,
];

/// 2ˣ for x ≤ 127; for less than −64, 2⁻⁶⁴.
#[inline(always)]
pub(super) fn exp2<L: Lanes>(lanes: L, x: L::Vector) -> L::Vector {
    let x = lanes.max(x, lanes.splat(LEAST_EXPONENT));
    let whole = lanes.round(x);
    let rest = lanes.sub(x, whole);
    let mut sum = lanes.splat(EXP2[6]);
    for index in (0..6).rev() {
        sum = lanes.mul_add(sum, rest, lanes.splat(EXP2[index]));
    }
    lanes.mul(sum, lanes.power_of_two(whole))
}

/// The activation's value.
#[inline(always)]
pub(super) fn activate<L: Lanes>(lanes: L, activation: Activation, x: L::Vector) -> L::Vector {
    match activation {
        Activation::Gelu => gelu(lanes, x),
        Activation::GeluTanh => gelu_tanh(lanes, x),
        Activation::Relu => lanes.max(x, lanes.splat(0.0)),
    }
}

/// x · Φ(x) = ½ (x + |x| · erf(|x| / √2)), with the error function by Abramowitz and Stegun's formula 7.1.26
/// (Handbook of Mathematical Functions, 1964), whose error is at most 1.5e-7.
#[inline(always)]
fn gelu<L: Lanes>(lanes: L, x: L::Vector) -> L::Vector {
    const P: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
    const A: [f32; 5] = [0.254_829_6, -0.284_496_74, 1.421_413_8, -1.453_152_1, 1.061_405_4];
    let magnitude = lanes.abs(x);
    let one = lanes.splat(1.0);
    let t = lanes.div(one, lanes.mul_add(magnitude, lanes.splat(P), one));
    let mut sum = lanes.splat(A[4]);
    for index in (0..4).rev() {
        sum = lanes.mul_add(sum, t, lanes.splat(A[index]));
    }
    // e^(−x²/2)
    let falling = exp2(lanes, lanes.mul(lanes.mul(x, x), lanes.splat(-0.5 * std::f32::consts::LOG2_E)));
    let error_function = lanes.sub(one, lanes.mul(lanes.mul(sum, t), falling));
    lanes.mul(lanes.splat(0.5), lanes.mul_add(magnitude, error_function, x))
}

/// ½ x (1 + tanh u) = x / (1 + e^(−2u)) with u = √(2/π) (x + 0.044715 x³).
#[inline(always)]
fn gelu_tanh<L: Lanes>(lanes: L, x: L::Vector) -> L::Vector {
    const ROOT: f32 = 0.797_884_6;
    let cubic = lanes.mul_add(lanes.mul(x, x), lanes.splat(0.044_715), lanes.splat(1.0));
    let exponent = lanes.mul(lanes.mul(x, cubic), lanes.splat(-2.0 * ROOT * std::f32::consts::LOG2_E));
    // Where e^(−2u) would overflow, x / (1 + 2¹²⁶) is as good as 0.
    let exponent = negate(lanes, lanes.max(negate(lanes, exponent), lanes.splat(-126.0)));
    lanes.div(x, lanes.add(lanes.splat(1.0), exp2(lanes, exponent)))
}

#[inline(always)]
fn negate<L: Lanes>(lanes: L, x: L::Vector) -> L::Vector {
    lanes.sub(lanes.splat(0.0), x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lanes::Kernel, reference, testing::on_every_isa};

    /// Applies `function` to a range of arguments and compares with f64.
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

    impl Kernel for Sweep {
        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) {
            let mut out = vec![0.0; L::WIDTH];
            for step in 0..20_000 {
                let x = self.from + (self.to - self.from) * step as f32 / 20_000.0;
                let vector = lanes.splat(x);
                let found = match self.function {
                    Function::Exp2 => exp2(lanes, vector),
                    Function::Activation(activation) => activate(lanes, activation, vector),
                };
                // SAFETY: `out` holds WIDTH values.
                unsafe { lanes.store(out.as_mut_ptr(), found) };
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

    fn sweep(function: Function, from: f32, to: f32) {
        on_every_isa(|| Sweep { function, from, to });
    }

    #[test]
    fn exp2_is_exact_to_rounding() {
        sweep(Function::Exp2, -63.99, 0.0);
        sweep(Function::Exp2, -1.0, 126.0);
    }

    #[test]
    fn activations_are_near_their_definitions() {
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            sweep(Function::Activation(activation), -6.0, 6.0);
            sweep(Function::Activation(activation), -1000.0, 1000.0);
        }
    }
}
