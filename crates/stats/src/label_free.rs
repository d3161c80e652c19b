//! Quality without labels: what the reference's labels say of the current predictions.
//!
//! [`Calibrated`] is CBPE, confidence-based performance estimation, on bins: each cell (a bin of the score, or of score ×
//! prediction) has the accuracy a that the reference's labels gave it, the current records have
//! shares q of the cells, and the accuracy is Σ q·a. It holds while P(correct | cell) does;
//! the gap between it and the accuracy that labels show later is a sign that it does not.
//!
//! [`label_shift`] is BBSE, black-box shift estimation (Lipton, Wang, Smola 2018, arXiv 1802.03916): if only P(y)
//! moved, the predictions' law is μ = C·w, with C_ij = P(prediction i, label j) under the reference and w_j the
//! ratio by which label j became more frequent.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The reference's accuracy by cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibrated {
    /// Records that were right, and all, by cell.
    cells: Vec<(u64, u64)>,
}

/// An accuracy that was estimated without labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccuracyEstimate {
    /// The accuracy, 0 to 1.
    pub accuracy: f64,
    /// Its standard error: of the reference's accuracies, and of the current records being right or
    /// wrong by chance.
    pub standard_error: f64,
    /// The share of current records in cells that the reference lacks; they count at its overall accuracy.
    pub unsupported: f64,
}

impl Calibrated {
    /// Makes the table from labelled reference records, (right, all) by cell. More right than all counts as all.
    #[must_use]
    pub fn new(cells: Vec<(u64, u64)>) -> Self {
        Self { cells: cells.into_iter().map(|(right, all)| (right.min(all), all)).collect() }
    }

    /// Estimates the accuracy of records with these counts by cell; `None` without a record, without a
    /// reference, or over other cells.
    #[must_use]
    pub fn estimate(&self, counts: &[u64]) -> Option<AccuracyEstimate> {
        let n: f64 = counts.iter().map(|&count| count as f64).sum();
        let (right, all) =
            self.cells.iter().fold((0.0, 0.0), |sum, cell| (sum.0 + cell.0 as f64, sum.1 + cell.1 as f64));
        if counts.len() != self.cells.len() || n == 0.0 || all == 0.0 {
            return None;
        }
        let overall = right / all;
        let (mut accuracy, mut variance, mut unsupported) = (0.0, 0.0, 0.0);
        for (&count, &(right, all)) in counts.iter().zip(&self.cells) {
            let share = count as f64 / n;
            if all == 0 {
                unsupported += share;
                accuracy += share * overall;
                variance += share * overall * (1.0 - overall) / n;
                continue;
            }
            let found = right as f64 / all as f64;
            // Half a record of either kind, so that a cell that was always right is not certain.
            let smooth = (right as f64 + 0.5) / (all as f64 + 1.0);
            accuracy += share * found;
            variance += smooth * (1.0 - smooth) * (share * share / all as f64 + share / n);
        }
        Some(AccuracyEstimate { accuracy, standard_error: variance.sqrt(), unsupported })
    }

    /// Returns the [gap](accuracy_gap) of labelled records, (right, all) by cell, then the gap of each group of cells,
    /// such as those of one prediction: a model that became worse for a half of its records is told by that half √2 times as
    /// clearly as by all. NaN where there is no gap: without a record, over other cells, or beyond the last cell.
    #[must_use]
    pub fn gaps(&self, labelled: &[(u64, u64)], groups: &[Range<usize>]) -> Vec<f64> {
        let gap = |group: &Range<usize>| {
            let inside = |(at, cell): (usize, &(u64, u64))| if group.contains(&at) { *cell } else { (0, 0) };
            let cells: Vec<(u64, u64)> = labelled.iter().enumerate().map(inside).collect();
            let counts: Vec<u64> = cells.iter().map(|cell| cell.1).collect();
            let right = cells.iter().map(|cell| cell.0).sum();
            let found = self.estimate(&counts).and_then(|found| accuracy_gap(found, right, counts.iter().sum()));
            found.unwrap_or(f64::NAN)
        };
        std::iter::once(&(0..labelled.len())).chain(groups).map(gap).collect()
    }
}

/// Returns how far a realised accuracy is from an estimate, in standard errors: below 0 if it is worse than
/// estimated. `records` are those with labels. A score for a [`Detector`](crate::Detector).
#[must_use]
pub fn accuracy_gap(estimate: AccuracyEstimate, right: u64, records: u64) -> Option<f64> {
    if records == 0 || estimate.standard_error <= 0.0 {
        return None;
    }
    Some((right as f64 / records as f64 - estimate.accuracy) / estimate.standard_error)
}

/// Says why the labels' law cannot be estimated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LabelShiftError {
    /// The tables do not fit.
    #[error(
        "confusion matrix has {cells} cells for {labels} predictions, allowed is their square, of 2 labels or more"
    )]
    Shape {
        /// The cells of the matrix.
        cells: usize,
        /// The predictions counted.
        labels: usize,
    },
    /// There is nothing to compare.
    #[error("{what} has no records, allowed are 1 or more")]
    Empty {
        /// The reference or the current window.
        what: &'static str,
    },
    /// Predictions say too little about labels.
    #[error(
        "confusion matrix has the condition number {found:.3e}, allowed are at most {allowed}: predictions say too little about labels"
    )]
    Conditioning {
        /// The condition number, infinite if the matrix is singular.
        found: f64,
        /// The largest allowed.
        allowed: f64,
    },
}

/// The condition number beyond which noise in the predictions would be most of the answer.
pub const MAX_CONDITION: f64 = 100.0;

/// Estimates the current shares of the labels, given the reference's confusion counts (prediction × label, a row
/// a prediction) and the current counts of predictions. Shares below 0 are cut and the rest scaled to 1.
///
/// # Errors
/// If the tables do not fit or are empty, or the matrix of P(prediction | label) is ill-conditioned.
pub fn label_shift(confusion: &[u64], predictions: &[u64]) -> Result<Vec<f64>, LabelShiftError> {
    let k = predictions.len();
    if k < 2 || confusion.len() != k * k {
        return Err(LabelShiftError::Shape { cells: confusion.len(), labels: k });
    }
    let total = |counts: &[u64]| counts.iter().map(|&count| count as f64).sum::<f64>();
    let n = total(predictions);
    if n == 0.0 {
        return Err(LabelShiftError::Empty { what: "the current window" });
    }
    if total(confusion) == 0.0 {
        return Err(LabelShiftError::Empty { what: "the reference" });
    }
    // P(prediction | label): the same system as with C, with the labels' shares for unknowns, and a condition
    // number that rare labels do not spoil.
    let mut matrix = vec![0.0; k * k];
    for label in 0..k {
        let column: f64 = (0..k).map(|row| confusion[row * k + label] as f64).sum();
        for row in 0..k {
            matrix[row * k + label] = if column > 0.0 { confusion[row * k + label] as f64 / column } else { 0.0 };
        }
    }
    let singular = LabelShiftError::Conditioning { found: f64::INFINITY, allowed: MAX_CONDITION };
    let inverse = inverse(&matrix, k).ok_or(singular)?;
    let found = norm(&matrix, k) * norm(&inverse, k);
    if found > MAX_CONDITION {
        return Err(LabelShiftError::Conditioning { found, allowed: MAX_CONDITION });
    }
    let solved = inverse
        .chunks_exact(k)
        .map(|row| row.iter().zip(predictions).map(|(a, &b)| a * b as f64 / n).sum::<f64>().max(0.0));
    let shares: Vec<f64> = solved.collect();
    let sum: f64 = shares.iter().sum();
    Ok(shares.into_iter().map(|share| share / sum).collect())
}

/// Returns the largest sum of magnitudes of a column.
fn norm(matrix: &[f64], k: usize) -> f64 {
    (0..k).map(|column| (0..k).map(|row| matrix[row * k + column].abs()).sum()).fold(0.0, f64::max)
}

/// Inverts by Gauss–Jordan elimination with partial pivoting; `None` if singular.
fn inverse(matrix: &[f64], k: usize) -> Option<Vec<f64>> {
    let width = 2 * k;
    let mut work = vec![0.0; k * width];
    for row in 0..k {
        work[row * width..row * width + k].copy_from_slice(&matrix[row * k..(row + 1) * k]);
        work[row * width + k + row] = 1.0;
    }
    for column in 0..k {
        let size = |row: &usize| work[row * width + column].abs();
        let pivot = (column..k).max_by(|a, b| size(a).total_cmp(&size(b)))?;
        if size(&pivot) < 1e-12 {
            return None;
        }
        (0..width).for_each(|at| work.swap(column * width + at, pivot * width + at));
        let scale = work[column * width + column];
        work[column * width..(column + 1) * width].iter_mut().for_each(|value| *value /= scale);
        for row in (0..k).filter(|&row| row != column) {
            let factor = work[row * width + column];
            for at in 0..width {
                work[row * width + at] -= factor * work[column * width + at];
            }
        }
    }
    Some(work.chunks_exact(width).flat_map(|row| row[k..].to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_reference_has_its_own_accuracy() {
        let calibrated = Calibrated::new(vec![(50, 100), (90, 100), (0, 0)]);
        let same = calibrated.estimate(&[100, 100, 0]).unwrap();
        assert!((same.accuracy - 0.7).abs() < 1e-12 && same.unsupported == 0.0);
        let better = calibrated.estimate(&[0, 50, 50]).unwrap();
        assert!((better.accuracy - (0.9 + 0.7) / 2.0).abs() < 1e-12 && better.unsupported == 0.5);
        assert!(accuracy_gap(same, 100, 200).unwrap() < -3.0);
        assert_eq!(calibrated.estimate(&[0, 0, 0]), None);
        assert_eq!(calibrated.estimate(&[1]), None);
        assert_eq!(Calibrated::default().estimate(&[]), None);
    }

    #[test]
    fn a_model_that_is_worse_for_one_answer_is_told_by_that_answer() {
        let calibrated = Calibrated::new(vec![(9_000, 10_000), (8_000, 10_000), (0, 0)]);
        let gaps = calibrated.gaps(&[(900, 1_000), (760, 1_000), (0, 0)], &[0..1, 1..2, 2..3, 7..9]);
        assert!(gaps[0] < -2.0 && gaps[1].abs() < 1e-9 && gaps[2] < 1.2 * gaps[0], "{gaps:?}");
        assert!(gaps[3].is_nan() && gaps[4].is_nan(), "{gaps:?}");
        let whole = calibrated.estimate(&[1_000, 1_000, 0]).unwrap();
        assert_eq!(accuracy_gap(whole, 1_660, 2_000), Some(gaps[0]));
    }

    #[test]
    fn predictions_that_say_nothing_are_refused() {
        let error = label_shift(&[50, 50, 50, 50], &[10, 90]).unwrap_err();
        assert!(matches!(error, LabelShiftError::Conditioning { .. }), "{error}");
        let error = label_shift(&[51, 50, 49, 50], &[10, 90]).unwrap_err();
        assert!(error.to_string().starts_with("confusion matrix has the condition number"), "{error}");
        assert!(matches!(label_shift(&[1, 2], &[1, 2]), Err(LabelShiftError::Shape { .. })));
        assert!(matches!(label_shift(&[1, 0, 0, 1], &[0, 0]), Err(LabelShiftError::Empty { .. })));
        assert!(matches!(label_shift(&[0; 4], &[1, 0]), Err(LabelShiftError::Empty { .. })));
    }

    proptest! {
        /// Predictions made from shifted labels by the reference's confusion give the shifted labels back.
        #[test]
        fn a_label_shift_is_found(labels in proptest::collection::vec(1..100u64, 3)) {
            let confusion = [80, 10, 5, 10, 85, 5, 10, 5, 90];
            let predictions: Vec<u64> = (0..3).map(|row| (0..3).map(|label| confusion[row * 3 + label] * labels[label]).sum()).collect();
            let n: u64 = labels.iter().sum();
            let found = label_shift(&confusion, &predictions).unwrap();
            for (share, &label) in found.iter().zip(&labels) {
                prop_assert!((share - label as f64 / n as f64).abs() < 1e-9, "{found:?}");
            }
        }
    }
}
