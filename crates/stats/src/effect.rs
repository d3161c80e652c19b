//! Whether a change is large enough to matter: the least effect that the counts leave possible.
//!
//! An alarm says that something changed; with many records, something always has. A page needs the
//! lower bound here to be above a tolerance as well. Both bounds use the triangle inequality,
//! d(P, Q) ≥ d(P̂, Q̂) − d(P̂, P) − d(Q̂, Q), and bound how far counts are from their own law.
//!
//! **Records are not independent.** A few customers make many records each, and come again tomorrow. Then n records tell
//! as much as n/D independent ones (Kish 1965, the design effect), D being how much more windows vary, and go on
//! varying, than counting alone would make them: [`inflation`].

use crate::{jensen_shannon, normal::chi_square_above, wasserstein};

/// An effect as counted, and the least that it is at the confidence asked for.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Effect {
    /// The distance of the counts.
    pub found: f64,
    /// The distance of the laws is at least this; 0 if they may be equal.
    pub at_least: f64,
}

/// Estimates the design effect D from the scores of healthy windows, oldest first: the variance of the mean of many windows
/// against that of independent records, of which each score has mean 0 and variance 1. By batch means (Schmeiser
/// 1982): √M batches of √M windows each, so that what lasts over fewer windows than a batch is counted in full. The mean
/// over all scores; at least 1, and 1 with fewer than 16 windows. Windows with a score that is not finite are left out.
#[must_use]
pub fn inflation<'a>(windows: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    let windows: Vec<&[f32]> = windows
        .into_iter()
        .filter(|scores| !scores.is_empty() && scores.iter().all(|score| score.is_finite()))
        .collect();
    let length = windows.len().isqrt();
    if length < 4 {
        return 1.0;
    }
    let batches: Vec<&[&[f32]]> = windows.chunks_exact(length).collect();
    let count = batches.len() as f64;
    let width = windows.iter().map(|scores| scores.len()).min().unwrap_or(0);
    let of_score = |at: usize| {
        let means =
            batches.iter().map(|batch| batch.iter().map(|scores| f64::from(scores[at])).sum::<f64>() / length as f64);
        let mean = means.clone().sum::<f64>() / count;
        length as f64 * means.map(|of_batch| (of_batch - mean).powi(2)).sum::<f64>() / (count - 1.0)
    };
    ((0..width).map(of_score).sum::<f64>() / width as f64).max(1.0)
}

/// Bounds the [Wasserstein-1](wasserstein) distance in u of two laws from counts over ordered slots; `error` is the
/// chance that the bound is too high, in 0..1; n records count as n / `inflation` independent ones. `None` where the
/// distance is.
///
/// E[W₁(P̂, P)] ≤ Σ √(F(1 − F)/n) over the steps, and one record moves it by at most 1/n, so it
/// exceeds that by t with chance exp(−2nt²) at most (McDiarmid 1989).
#[must_use]
pub fn wasserstein_effect(left: &[u64], right: &[u64], error: f64, inflation: f64) -> Option<Effect> {
    let found = wasserstein(left, right)?;
    let noise = |counts: &[u64]| {
        let n: f64 = counts.iter().map(|&count| count as f64).sum();
        let alone = n / inflation;
        let mut below = 0.0;
        let steps = counts.len().saturating_sub(1);
        let spread: f64 = counts[..steps]
            .iter()
            .map(|&count| {
                below += count as f64 / n;
                (below * (1.0 - below)).max(0.0).sqrt()
            })
            .sum();
        spread / (steps.max(1) as f64 * alone.sqrt()) + ((2.0 / error).ln() / (2.0 * alone)).sqrt()
    };
    Some(Effect { found, at_least: (found - noise(left) - noise(right)).max(0.0) })
}

/// Bounds the [Jensen–Shannon divergence](jensen_shannon) of two laws, in bits, from counts; `error` and `inflation` as above.
///
/// Its root is a metric (Endres, Schindelin 2003); 8n ln 2·JS(P̂, P) is χ² with a degree less than there are
/// used slots, for large n.
#[must_use]
pub fn jensen_shannon_effect(left: &[u64], right: &[u64], error: f64, inflation: f64) -> Option<Effect> {
    let found = jensen_shannon(left, right)?;
    let noise = |counts: &[u64]| {
        let alone = counts.iter().map(|&count| count as f64).sum::<f64>() / inflation;
        let used = counts.iter().filter(|&&count| count > 0).count();
        let degrees = used.saturating_sub(1).max(1) as f64;
        (chi_square_above(error / 2.0, degrees) / (8.0 * std::f64::consts::LN_2 * alone)).sqrt()
    };
    let root = (found.sqrt() - noise(left) - noise(right)).max(0.0);
    Some(Effect { found, at_least: root * root })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::noise::Noise;

    proptest! {
        #[test]
        fn bounds_are_at_most_what_was_found(
            left in proptest::collection::vec(1..2000u64, 10), right in proptest::collection::vec(1..2000u64, 10),
        ) {
            for effect in [wasserstein_effect, jensen_shannon_effect] {
                let Effect { found, at_least } = effect(&left, &right, 0.01, 1.0).unwrap();
                prop_assert!(0.0 <= at_least && at_least <= found);
                let fewer = effect(&left, &right, 0.01, 3.0).unwrap();
                prop_assert!(fewer.found == found && fewer.at_least <= at_least);
            }
        }
    }

    #[test]
    fn a_large_change_of_many_records_has_a_large_bound() {
        let (left, right) = ([1_000_000, 0, 0], [0, 0, 1_000_000]);
        for effect in [wasserstein_effect, jensen_shannon_effect] {
            let found = effect(&left, &right, 0.001, 1.0).unwrap();
            assert!(found.found > 0.999 && found.at_least > 0.99, "{found:?}");
            assert_eq!(effect(&[5, 4, 6], &[4, 6, 5], 0.01, 1.0).unwrap().at_least, 0.0);
            assert_eq!(effect(&[0, 0], &[1, 0], 0.01, 1.0), None);
        }
    }

    #[test]
    fn windows_that_go_on_varying_count_for_fewer_records() {
        let windows = |rho: f64| {
            let (mut noise, mut level) = (Noise::new(1), 0.0);
            let scores: Vec<[f32; 1]> = (0..4096)
                .map(|_| {
                    level = rho * level + noise.normal();
                    [level as f32]
                })
                .collect();
            inflation(scores.iter().map(|scores| &scores[..]))
        };
        // A first-order autoregression varies 1 / (1 − ρ)² times as much in the long run: 1 and 11.
        let (alone, lasting) = (windows(0.0), windows(0.7));
        assert!(alone < 1.5 && (7.0..16.0).contains(&lasting), "{alone} {lasting}");
        assert_eq!(inflation([[9.0f32].as_slice(); 9]), 1.0);
        assert_eq!(inflation([&[] as &[f32]; 99]), 1.0);
    }
}
