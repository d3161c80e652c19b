//! The normal law: its distribution function and quantiles.

use statrs::function::erf::{erfc, erfc_inv};

/// Returns Φ(x), the chance of a standard normal value of at most `x`; 0 and 1 at the infinities.
pub(crate) fn phi(x: f64) -> f64 {
    if x == f64::INFINITY {
        return 1.0;
    }
    if x == f64::NEG_INFINITY {
        return 0.0;
    }
    0.5 * erfc(-x / std::f64::consts::SQRT_2)
}

/// Returns Φ⁻¹(p) for `p` in 0..=1; the infinities at the ends.
pub(crate) fn quantile(p: f64) -> f64 {
    -std::f64::consts::SQRT_2 * erfc_inv(2.0 * p)
}

/// Returns the quantile of χ² with `degrees` degrees of freedom that `tail` of its mass lies above
/// (Wilson, Hilferty 1931; within 1 % from three degrees on). 0 without a degree.
pub(crate) fn chi_square_above(tail: f64, degrees: f64) -> f64 {
    if degrees < 1.0 {
        return 0.0;
    }
    let part = 2.0 / (9.0 * degrees);
    let root = 1.0 - part + quantile(1.0 - tail) * part.sqrt();
    degrees * root.max(0.0).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_inverts_phi() {
        for p in [1e-9, 1e-4, 0.1, 0.5, 0.75, 0.9999] {
            assert!((phi(quantile(p)) - p).abs() < 1e-9 * p.max(1e-3), "{p}");
        }
        assert_eq!((quantile(0.0), quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
        assert_eq!((phi(f64::NEG_INFINITY), phi(f64::INFINITY)), (0.0, 1.0));
    }

    #[test]
    fn chi_square_is_near_the_tables() {
        for (tail, degrees, expected) in [(0.05, 3.0, 7.815), (0.01, 10.0, 23.209), (0.001, 31.0, 61.098)] {
            let found = chi_square_above(tail, degrees);
            assert!((found / expected - 1.0).abs() < 0.01, "{found}, expected {expected}");
        }
    }
}
