//! Fits the confidence: a logistic regression from evidence to "the transcript is right", and the threshold of rejection.

use super::{TrainingError, evaluate::Trial};
use crate::asr::{
    Recogniser,
    confidence::{Calibration, Evidence},
};

/// Share of the right transcripts that the threshold may reject.
const FALSE_REJECTION: f32 = 0.01;
/// Steps of Newton's method; the loss is convex and settles in fewer.
const STEPS: usize = 30;
/// Pull of the coefficients towards zero, which keeps separable data finite.
const RIDGE: f64 = 1.0;

/// One recognised utterance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// What the recogniser found; `None` where it found no words.
    pub evidence: Option<Evidence>,
    /// Whether the best transcript was right.
    pub right: bool,
}

/// Recognises trials and notes what the confidence needs.
///
/// # Errors
/// [`TrainingError::Model`] from the recogniser.
pub fn observe(recogniser: &Recogniser, trials: &[Trial]) -> Result<Vec<Observation>, TrainingError> {
    let audio: Vec<&[f32]> = trials.iter().map(|trial| trial.audio.as_slice()).collect();
    let heard = recogniser.hear(&audio)?;
    Ok(trials
        .iter()
        .zip(heard)
        .map(|(trial, heard)| Observation {
            evidence: heard.evidence,
            right: !trial.words.is_empty() && heard.best == trial.words.join(" "),
        })
        .collect())
}

/// Fits coefficients and threshold to observations, of which some must be right and some wrong.
#[must_use]
pub fn fit(observations: &[Observation]) -> Calibration {
    let rows: Vec<([f64; 4], f64)> = observations
        .iter()
        .filter_map(|o| {
            let [a, b, c] = o.evidence?.values().map(f64::from);
            Some(([1.0, a, b, c], f64::from(u8::from(o.right))))
        })
        .collect();
    let mut w = [0f64; 4];
    for _ in 0..STEPS {
        let mut gradient = w.map(|w| -RIDGE * w);
        let mut hessian = [[0f64; 4]; 4];
        for (i, row) in hessian.iter_mut().enumerate() {
            row[i] = RIDGE;
        }
        for (x, y) in &rows {
            let odds: f64 = w.iter().zip(x).map(|(w, x)| w * x).sum();
            let p = 1.0 / (1.0 + (-odds).exp());
            for i in 0..4 {
                gradient[i] += (y - p) * x[i];
                for j in 0..4 {
                    hessian[i][j] += p * (1.0 - p) * x[i] * x[j];
                }
            }
        }
        let step = solve(hessian, gradient);
        w.iter_mut().zip(step).for_each(|(w, step)| *w += step);
    }
    let [bias, a, b, c] = w.map(|w| w as f32);
    let mut calibration = Calibration { bias, weights: [a, b, c], threshold: 0.0 };
    let mut right: Vec<f32> = observations
        .iter()
        .filter(|o| o.right)
        .map(|o| o.evidence.map_or(0.0, |evidence| calibration.confidence(&evidence)))
        .collect();
    right.sort_by(f32::total_cmp);
    let rank = (right.len() as f32 * FALSE_REJECTION) as usize;
    calibration.threshold = right.get(rank).copied().unwrap_or(0.0);
    calibration
}

/// Solves a symmetric positive definite system by Gaussian elimination.
fn solve(mut a: [[f64; 4]; 4], mut b: [f64; 4]) -> [f64; 4] {
    for i in 0..4 {
        for j in i + 1..4 {
            let factor = a[j][i] / a[i][i];
            let pivot = a[i];
            a[j].iter_mut().zip(pivot).for_each(|(x, p)| *x -= factor * p);
            b[j] -= factor * b[i];
        }
    }
    for i in (0..4).rev() {
        let known: f64 = (i + 1..4).map(|j| a[i][j] * b[j]).sum();
        b[i] = (b[i] - known) / a[i][i];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_a_system() {
        let a = [[4.0, 1.0, 0.0, 0.5], [1.0, 3.0, 0.2, 0.0], [0.0, 0.2, 2.0, 0.1], [0.5, 0.0, 0.1, 1.0]];
        let x = [1.0, -2.0, 3.0, 0.5];
        let b = a.map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum());
        for (found, wanted) in solve(a, b).iter().zip(x) {
            assert!((found - wanted).abs() < 1e-9);
        }
    }

    #[test]
    fn far_evidence_is_less_trusted_and_the_threshold_rejects_one_percent() {
        let observation = |i: usize| {
            let inside = i < 500;
            let distance = if inside { 0.01 * (i % 50) as f32 } else { 1.0 + 0.01 * (i % 50) as f32 };
            let evidence = Some(Evidence { distance, worst_word: distance, share: -distance });
            Observation { evidence, right: inside && i % 50 < 45 }
        };
        let observations: Vec<Observation> = (0..1000).map(observation).collect();
        let fitted = fit(&observations);
        let confidence = |distance| fitted.confidence(&Evidence { distance, worst_word: distance, share: -distance });
        assert!(confidence(0.0) > 0.9 && confidence(1.4) < 0.1, "{fitted:?}");
        let below = observations
            .iter()
            .filter(|o| o.right)
            .filter(|o| fitted.confidence(&o.evidence.expect("words")) < fitted.threshold);
        assert!(below.count() <= 4);
    }
}
