//! The unit in which sums are kept, so that they do not depend on the order of the values.
//!
//! Sums of floats depend on their order; sums of integers do not. A value is rounded to the nearest
//! whole number of quanta, one quantum being the power of two that is 2⁻³⁶ of the largest bound in
//! magnitude (taken up to a power of two), and the integers are summed. What that loses:
//!
//! - nothing for values that are multiples of the quantum, as integers and the levels of an `f32` are;
//! - otherwise at most half a quantum a value, to both sides alike: the mean is off by less than
//!   10⁻¹¹ of the scale, where a bin is 3 % of it;
//! - values over 4096 times the scale count as that, so the mean is then a bound. How many there are
//!   stands in the slots below and above, how large they are in the minimum and maximum.

/// The most quanta that a value counts as; their squares fit 97 bits.
const LIMIT: f64 = (1u64 << 48) as f64;
/// Adding 1.5 · 2⁵² leaves the nearest whole number in the low bits of a float up to `LIMIT`: two
/// instructions, where a checked conversion takes a dozen.
const SHIFT: f64 = 1.5 * (1u64 << 52) as f64;

/// A power of two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quantum {
    size: f64,
    per_unit: f64,
    /// The bits of a number of quanta that are below 1.
    fraction: u64,
}

impl Quantum {
    /// Chooses the quantum for values within these bounds.
    pub(crate) fn of(bounds: &[f64]) -> Self {
        let scale = bounds.iter().fold(f64::MIN_POSITIVE, |scale, x| scale.max(x.abs()));
        let exponent = ((scale.to_bits() >> 52) as i32 - 1023 + 1 - 36).max(-1000);
        let per_unit = power_of_two(-exponent);
        Self { size: power_of_two(exponent), per_unit, fraction: (per_unit as u64).saturating_sub(1) }
    }

    /// Returns a finite value as a whole number of quanta, the even one of two nearest.
    #[inline]
    pub(crate) fn quanta(self, x: f64) -> i64 {
        let shifted = (x * self.per_unit).clamp(-LIMIT, LIMIT) + SHIFT;
        shifted.to_bits().wrapping_sub(SHIFT.to_bits()) as i64
    }

    /// Says whether so many quanta are a whole number; all are where a quantum is 1 or more.
    #[inline]
    pub(crate) fn is_whole(self, quanta: i64) -> bool {
        quanta as u64 & self.fraction == 0
    }

    /// Returns the size of one quantum.
    pub(crate) fn size(self) -> f64 {
        self.size
    }
}

/// Returns 2 to a power in −1022..=1023.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rounds_to_the_nearest_quantum_and_stops_at_the_limit() {
        let quantum = Quantum::of(&[-90.0, 0.0]);
        assert_eq!(quantum.size(), 128.0 * 2f64.powi(-36));
        for (x, quanta) in
            [(0.0, 0), (1.0, 1 << 29), (-1.5, -(3 << 28)), (1e-300, 0), (1e300, 1 << 48), (-1e300, -(1 << 48))]
        {
            assert_eq!(quantum.quanta(x), quanta, "{x}");
        }
    }

    #[test]
    fn whole_numbers_are_told_from_others() {
        let is_whole = |bounds: [f64; 2], x: f64| {
            let quantum = Quantum::of(&bounds);
            quantum.is_whole(quantum.quanta(x))
        };
        for x in [0.0, 1.0, -7.0, 1e300] {
            assert!(is_whole([0.0, 32.0], x) && is_whole([0.0, 1e12], x), "{x}");
        }
        assert!(!is_whole([0.0, 32.0], 0.5) && !is_whole([0.0, 1.0], -1.001) && is_whole([0.0, 1e12], 0.5));
    }

    #[test]
    fn exists_for_the_smallest_and_the_largest_bounds() {
        for bounds in [[0.0, 5e-324], [0.0, f64::MIN_POSITIVE], [f64::MIN, f64::MAX]] {
            let quantum = Quantum::of(&bounds);
            assert!(quantum.size() > 0.0 && quantum.size().is_finite());
            assert_eq!(quantum.size() * quantum.per_unit, 1.0);
        }
    }

    proptest! {
        #[test]
        fn is_off_by_at_most_half_a_quantum(x in -1e3..1e3f64) {
            let quantum = Quantum::of(&[0.0, 1e3]);
            prop_assert!((quantum.quanta(x) as f64 * quantum.size() - x).abs() <= quantum.size() / 2.0);
        }
    }
}
