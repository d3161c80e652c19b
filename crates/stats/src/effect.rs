//! Whether a change is large enough to matter: the least effect that the counts leave possible.
//!
//! An alarm says that something changed; with many records, something always has. A page needs the
//! lower bound here to be above a tolerance as well. Both bounds use the triangle inequality,
//! d(P, Q) ≥ d(P̂, Q̂) − d(P̂, P) − d(Q̂, Q), and bound how far counts are from their own law.

use crate::{jensen_shannon, normal::chi_square_above, wasserstein};

/// An effect as counted, and the least that it is at the confidence asked for.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Effect {
    /// The distance of the counts.
    pub found: f64,
    /// The distance of the laws is at least this; 0 if they may be equal.
    pub at_least: f64,
}

/// Bounds the [Wasserstein-1](wasserstein) distance in u of two laws from counts over ordered slots; `error` is the
/// chance that the bound is too high, in 0..1. `None` where the distance is.
///
/// E[W₁(P̂, P)] ≤ Σ √(F(1 − F)/n) over the steps, and one record moves it by at most 1/n, so it
/// exceeds that by t with chance exp(−2nt²) at most (McDiarmid 1989).
#[must_use]
pub fn wasserstein_effect(left: &[u64], right: &[u64], error: f64) -> Option<Effect> {
    let found = wasserstein(left, right)?;
    let noise = |counts: &[u64]| {
        let n: f64 = counts.iter().map(|&count| count as f64).sum();
        let mut below = 0.0;
        let steps = counts.len().saturating_sub(1);
        let spread: f64 = counts[..steps]
            .iter()
            .map(|&count| {
                below += count as f64 / n;
                (below * (1.0 - below)).max(0.0).sqrt()
            })
            .sum();
        spread / (steps.max(1) as f64 * n.sqrt()) + ((2.0 / error).ln() / (2.0 * n)).sqrt()
    };
    Some(Effect { found, at_least: (found - noise(left) - noise(right)).max(0.0) })
}

/// Bounds the [Jensen–Shannon divergence](jensen_shannon) of two laws, in bits, from counts; `error` as above.
///
/// Its root is a metric (Endres, Schindelin 2003); 8n ln 2·JS(P̂, P) is χ² with a degree less than there are
/// used slots, for large n.
#[must_use]
pub fn jensen_shannon_effect(left: &[u64], right: &[u64], error: f64) -> Option<Effect> {
    let found = jensen_shannon(left, right)?;
    let noise = |counts: &[u64]| {
        let n: f64 = counts.iter().map(|&count| count as f64).sum();
        let used = counts.iter().filter(|&&count| count > 0).count();
        let degrees = used.saturating_sub(1).max(1) as f64;
        (chi_square_above(error / 2.0, degrees) / (8.0 * std::f64::consts::LN_2 * n)).sqrt()
    };
    let root = (found.sqrt() - noise(left) - noise(right)).max(0.0);
    Some(Effect { found, at_least: root * root })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bounds_are_at_most_what_was_found(
            left in proptest::collection::vec(1..2000u64, 10), right in proptest::collection::vec(1..2000u64, 10),
        ) {
            for effect in [wasserstein_effect, jensen_shannon_effect] {
                let Effect { found, at_least } = effect(&left, &right, 0.01).unwrap();
                prop_assert!(0.0 <= at_least && at_least <= found);
            }
        }
    }

    #[test]
    fn a_large_change_of_many_records_has_a_large_bound() {
        let (left, right) = ([1_000_000, 0, 0], [0, 0, 1_000_000]);
        for effect in [wasserstein_effect, jensen_shannon_effect] {
            let found = effect(&left, &right, 0.001).unwrap();
            assert!(found.found > 0.999 && found.at_least > 0.99, "{found:?}");
            assert_eq!(effect(&[5, 4, 6], &[4, 6, 5], 0.01).unwrap().at_least, 0.0);
            assert_eq!(effect(&[0, 0], &[1, 0], 0.01), None);
        }
    }
}
