//! From evidence on pieces that were not trained on to a probability and two thresholds.

use crate::inspection::weights::Calibration;

/// What a network found in a picture whose truth is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    /// Log odds of the whole.
    pub whole: f64,
    /// Log odds of the peak.
    pub peak: f64,
    /// Whether it shows a defect.
    pub defective: bool,
}

/// Steps of Newton's method; it converges in a few.
const STEPS: usize = 50;
/// Keeps the weights finite where the classes can be separated.
const RIDGE: f64 = 1e-2;

/// Fits a logistic regression by Newton's method, both kinds of pictures weighing the same: a line's share of defects is not that of the data.
#[must_use]
pub fn fit(trials: &[Trial]) -> Calibration {
    let defective = trials.iter().filter(|trial| trial.defective).count().max(1) as f64;
    let good = (trials.len() as f64 - defective).max(1.0);
    let mut w = [0.5, 0.5, 0.0];
    for _ in 0..STEPS {
        let mut gradient = [0f64; 3];
        let mut hessian = [[0f64; 3]; 3];
        for trial in trials {
            let x = [trial.whole, trial.peak, 1.0];
            let p = 1.0 / (1.0 + (-(w[0] * x[0] + w[1] * x[1] + w[2])).exp());
            let (target, weight) = if trial.defective { (1.0, 0.5 / defective) } else { (0.0, 0.5 / good) };
            for i in 0..3 {
                gradient[i] += weight * (p - target) * x[i];
                for j in 0..3 {
                    hessian[i][j] += weight * p * (1.0 - p) * x[i] * x[j];
                }
            }
        }
        for i in 0..2 {
            gradient[i] += RIDGE * w[i];
            hessian[i][i] += RIDGE;
        }
        hessian[2][2] += 1e-9;
        let step = solve(hessian, gradient);
        for (w, step) in w.iter_mut().zip(step) {
            *w -= step.clamp(-1.0, 1.0);
        }
    }
    // Evidence for a defect never speaks against one.
    Calibration { whole: w[0].max(0.0), peak: w[1].max(0.0), bias: w[2] }
}

/// Solves three linear equations by Cramer's rule.
fn solve(a: [[f64; 3]; 3], b: [f64; 3]) -> [f64; 3] {
    let determinant = |m: &[[f64; 3]; 3]| {
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    };
    let whole = determinant(&a);
    std::array::from_fn(|column| {
        let mut replaced = a;
        for (row, value) in replaced.iter_mut().zip(b) {
            row[column] = value;
        }
        determinant(&replaced) / whole
    })
}

/// Chooses the thresholds: below the first so few defects lie that `recall` of them do not; from the second on at most `false_rejects` of the good lie.
/// Returns `(accept_below, reject_from)`, the first not above the second.
#[must_use]
pub fn thresholds(scores: &[(f64, bool)], recall: f64, false_rejects: f64) -> (f64, f64) {
    let sorted = |wanted: bool| {
        let mut scores: Vec<f64> =
            scores.iter().filter(|(_, defective)| *defective == wanted).map(|(s, _)| *s).collect();
        scores.sort_by(f64::total_cmp);
        scores
    };
    let (defective, good) = (sorted(true), sorted(false));
    // So many defects may be missed.
    let missed = ((1.0 - recall) * defective.len() as f64 + 1e-9) as usize;
    let accept_below = defective.get(missed).copied().unwrap_or(0.5);
    let rejected = (false_rejects * good.len() as f64 + 1e-9) as usize;
    let reject_from = match good.len().checked_sub(rejected + 1).and_then(|i| good.get(i)) {
        // Just above the worst good one that may not be rejected.
        Some(&worst) => worst + (1.0 - worst) * 1e-6,
        None => 0.5,
    };
    (accept_below, reject_from.max(accept_below).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_regression_finds_what_separates() {
        // The peak tells, the whole is noise.
        let trials: Vec<Trial> = (0..400)
            .map(|i| {
                let defective = i % 4 == 0;
                let noise = f64::from(i * 7919 % 100) / 50.0 - 1.0;
                let peak = if defective { 2.0 } else { -2.0 } + 1.5 * (f64::from(i * 104_729 % 100) / 50.0 - 1.0);
                Trial { whole: noise, peak, defective }
            })
            .collect();
        let found = fit(&trials);
        assert!(found.peak > 1.0 && found.whole < 0.3 && found.bias.abs() < 0.5, "{found:?}");
        assert!(found.probability(0.0, 3.0) > 0.9 && found.probability(0.0, -3.0) < 0.1);
    }

    #[test]
    fn thresholds_keep_what_they_promise() {
        let scores: Vec<(f64, bool)> = (0..100)
            .map(|i| (f64::from(i) / 100.0, false))
            .chain((0..40).map(|i| (0.6 + f64::from(i) / 100.0, true)))
            .collect();
        let (accept_below, reject_from) = thresholds(&scores, 0.95, 0.02);
        let missed = scores.iter().filter(|(s, d)| *d && *s < accept_below).count();
        let wrong = scores.iter().filter(|(s, d)| !*d && *s >= reject_from).count();
        assert_eq!((missed, wrong), (2, 2));
        assert!((accept_below - 0.62).abs() < 1e-9 && reject_from > 0.97);
        assert_eq!(thresholds(&[], 0.95, 0.01), (0.5, 0.5));
    }
}
