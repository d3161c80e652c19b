//! Exponential and logarithm without branches, so that the compiler turns a loop over them into vector code.
//!
//! The functions of the standard library are a call per value, and a chunk needs hundreds of them. Here `e^x = 2^n ·
//! e^r` with `n = round(x / ln 2)`, and `ln x = e · ln 2 + ln m` with `m` in `[√½, √2)`; both polynomials are those
//! of the Cephes library (`expf`, `logf`).

/// Computes the logistic function `1 / (1 + e^-x)`. Absolute error below 1e-6; NaN gives NaN.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Computes the hyperbolic tangent. Absolute error below 1e-6; NaN gives NaN.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    2.0 / (1.0 + exp(-2.0 * x)) - 1.0
}

/// Adding and subtracting 1.5 · 2²³ rounds an `f32` of small magnitude to an integer, which then stands in its low
/// bits.
const ROUND: f32 = 12_582_912.0;

#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let fraction = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    fraction * f32::from_bits(exponent)
}

/// Computes the natural logarithm of a positive normal number. Relative error below 1e-6; any other argument gives an
/// unspecified number.
#[inline(always)]
pub(super) fn ln(x: f32) -> f32 {
    const ROOT_HALF: u32 = 0x3f35_04f3;
    let exponent = (x.to_bits() as i32).wrapping_sub(ROOT_HALF as i32) >> 23;
    let m = f32::from_bits((x.to_bits() as i32).wrapping_sub(exponent << 23) as u32) - 1.0;
    let e = exponent as f32;
    let mut p = 7.037_683_6e-2;
    p = p * m - 1.151_461e-1;
    p = p * m + 1.167_699_9e-1;
    p = p * m - 1.242_014_1e-1;
    p = p * m + 1.424_932_3e-1;
    p = p * m - 1.666_805_8e-1;
    p = p * m + 2.000_071_5e-1;
    p = p * m - 2.499_999_4e-1;
    p = p * m + 3.333_333e-1;
    let square = m * m;
    p * m * square - e * 2.121_944_4e-4 - 0.5 * square + m + e * 0.693_359_4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_follow_the_exact_functions() {
        for i in -200_000..=200_000 {
            let x = i as f32 * 5e-4;
            let exact = f64::from(x);
            assert!((f64::from(sigmoid(x)) - 1.0 / (1.0 + (-exact).exp())).abs() < 1e-6, "sigmoid({x})");
            assert!((f64::from(tanh(x)) - exact.tanh()).abs() < 1e-6, "tanh({x})");
        }
        for (x, low, high) in
            [(f32::MAX, 1.0, 1.0), (f32::MIN, 0.0, -1.0), (f32::INFINITY, 1.0, 1.0), (f32::NEG_INFINITY, 0.0, -1.0)]
        {
            assert!((sigmoid(x) - low).abs() < 1e-6 && (tanh(x) - high).abs() < 1e-6, "{x}");
        }
        assert!(sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
    }

    #[test]
    fn the_logarithm_follows_the_exact_one() {
        let mut x = 1e-12f32;
        while x < 1e12 {
            let exact = f64::from(x).ln();
            assert!((f64::from(ln(x)) - exact).abs() <= 1e-6 * exact.abs().max(0.1), "ln({x})");
            x *= 1.000_37;
        }
    }
}
