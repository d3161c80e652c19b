//! Has the stage itself changed? Scores of P(output | input) that an input shift does not move.
//!
//! For each input cell x, functions φ_{j,x} of the output cell have mean 0 under the reference's
//! P₀(y | x). Then z_j = n^{-1/2} Σ_{x,y} n(x, y)·φ_{j,x}(y) has mean 0 as long as every P(Y | X = x) holds,
//! whatever the inputs' law has become. The scores go to a [`Detector`](crate::Detector) like any other.
//!
//! What leaks: records of one cell are not all alike. If inputs move *within* cells, so does the mean
//! of z, by an amount that shrinks with the cells and grows as √n; codebooks of 64 cells and a tolerance
//! on the effect keep it small. A hidden input that moves is not told from a stage that changed:
//! [probes](crate::Probes) do that.

use driftline_types::Code;
use serde::{Deserialize, Serialize};

use crate::{DROPPED, JointProfile, scores::orthonormal};

/// The reference records below which nothing is said about an input cell.
pub const MIN_ROW: u64 = 20;
/// The polynomials over output cells in the order of their codes.
const POLYNOMIALS: usize = 4;
/// The most frequent output cells that have a score of their own.
const LEVELS: usize = 8;
/// How far one record may reach, in standard deviations.
const REACH: f64 = 6.0;

/// What a conditional score is about, given the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionalAspect {
    /// A polynomial of this degree, 1 to 4, over output cells in the order of their codes.
    Polynomial(u8),
    /// This output became more frequent.
    Output(Code),
    /// More records are dropped.
    Dropped,
    /// More records have an output that the reference never had.
    New,
}

/// The score functions of one stage, fixed by the reference's joint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConditionalBasis {
    aspects: Vec<ConditionalAspect>,
    outputs: Vec<Code>,
    rows: Vec<Row>,
}

/// φ_{j,x}: for each output of the reference, and last for a new one, a value an aspect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    input: Code,
    functions: Vec<Vec<f64>>,
}

/// The scores of a window.
#[derive(Clone, Debug, PartialEq)]
pub struct ConditionalScores {
    /// In the order of [`ConditionalBasis::aspects`].
    pub scores: Vec<f64>,
    /// The records that they are of.
    pub records: u64,
    /// The share of the window's records about which nothing can be said: their input cell has fewer
    /// than [`MIN_ROW`] records in the reference.
    pub unattributable: f64,
}

impl ConditionalBasis {
    /// Makes the functions of a stage from the joint that was counted on the reference.
    #[must_use]
    pub fn new(reference: &JointProfile) -> Self {
        let pairs = reference.pairs();
        let mut totals: Vec<(Code, u64)> = Vec::new();
        for &(_, output, count) in &pairs {
            match totals.binary_search_by_key(&output, |&(code, _)| code) {
                Ok(at) => totals[at].1 = totals[at].1.saturating_add(count),
                Err(at) => totals.insert(at, (output, count)),
            }
        }
        let outputs: Vec<Code> = totals.iter().map(|&(code, _)| code).collect();
        let mut aspects: Vec<ConditionalAspect> = (1..=POLYNOMIALS as u8).map(ConditionalAspect::Polynomial).collect();
        totals.retain(|&(code, _)| code != DROPPED);
        totals.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        aspects.extend(totals.iter().take(LEVELS).map(|&(code, _)| ConditionalAspect::Output(code)));
        aspects.extend([ConditionalAspect::Dropped, ConditionalAspect::New]);

        let mut rows = Vec::new();
        for row in pairs.chunk_by(|a, b| a.0 == b.0) {
            let mut counts = vec![0.0; outputs.len()];
            for &(_, output, count) in row {
                if let Ok(at) = outputs.binary_search(&output) {
                    counts[at] = count as f64;
                }
            }
            if row.iter().fold(0u64, |sum, cell| sum.saturating_add(cell.2)) >= MIN_ROW {
                rows.push(Row::new(row[0].0, &counts, &outputs, &aspects));
            }
        }
        let mut basis = Self { aspects, outputs, rows };
        basis.scale(reference);
        basis
    }

    /// Divides each function by its deviation over the reference.
    fn scale(&mut self, reference: &JointProfile) {
        let mut squares = vec![0.0; self.aspects.len()];
        let mut n = 0.0;
        for (input, output, count) in reference.pairs() {
            if let Some(row) = self.row(input) {
                let at = self.outputs.binary_search(&output).unwrap_or(self.outputs.len());
                n += count as f64;
                squares.iter_mut().zip(&row.functions).for_each(|(sum, f)| *sum += f[at] * f[at] * count as f64);
            }
        }
        for row in &mut self.rows {
            for (function, squares) in row.functions.iter_mut().zip(&squares) {
                // What never varied in the reference has the deviation of half a record.
                let deviation = (squares.max(0.5) / n).sqrt();
                function.iter_mut().for_each(|value| *value /= deviation);
            }
        }
    }

    fn row(&self, input: Code) -> Option<&Row> {
        let at = self.rows.binary_search_by_key(&input, |row| row.input).ok()?;
        Some(&self.rows[at])
    }

    /// Returns what each score is about.
    #[must_use]
    pub fn aspects(&self) -> &[ConditionalAspect] {
        &self.aspects
    }

    /// Computes the scores of a window; `None` if none of its records has an input cell that the
    /// reference knows.
    #[must_use]
    pub fn scores(&self, window: &JointProfile) -> Option<ConditionalScores> {
        let mut scores = vec![0.0; self.aspects.len()];
        let (mut known, mut all) = (0u64, 0u64);
        for (input, output, count) in window.pairs() {
            all = all.saturating_add(count);
            let Some(row) = self.row(input) else { continue };
            known = known.saturating_add(count);
            let at = self.outputs.binary_search(&output).unwrap_or(self.outputs.len());
            scores.iter_mut().zip(&row.functions).for_each(|(score, f)| *score += f[at] * count as f64);
        }
        if known == 0 {
            return None;
        }
        let root = (known as f64).sqrt();
        scores.iter_mut().for_each(|score| *score /= root);
        Some(ConditionalScores { scores, records: known, unattributable: (all - known) as f64 / all as f64 })
    }
}

impl Row {
    fn new(input: Code, counts: &[f64], outputs: &[Code], aspects: &[ConditionalAspect]) -> Self {
        let n: f64 = counts.iter().sum();
        let ordered: Vec<f64> =
            counts.iter().zip(outputs).map(|(&count, &code)| if code == DROPPED { 0.0 } else { count }).collect();
        let polynomials = orthonormal(&ordered, POLYNOMIALS);
        let functions = aspects.iter().map(|aspect| {
            let mut function = vec![0.0; outputs.len() + 1];
            match *aspect {
                ConditionalAspect::Polynomial(degree) => {
                    if let Some(polynomial) = polynomials.get(usize::from(degree) - 1) {
                        for ((into, value), &code) in function.iter_mut().zip(polynomial).zip(outputs) {
                            *into = if code == DROPPED { 0.0 } else { value.clamp(-REACH, REACH) };
                        }
                    }
                }
                ConditionalAspect::Output(level) => mark(&mut function, outputs, level),
                ConditionalAspect::Dropped => mark(&mut function, outputs, DROPPED),
                ConditionalAspect::New => function[outputs.len()] = 1.0,
            }
            let mean: f64 = function.iter().zip(counts).map(|(value, count)| value * count).sum::<f64>() / n;
            function.iter_mut().for_each(|value| *value -= mean);
            function
        });
        Self { input, functions: functions.collect() }
    }
}

fn mark(function: &mut [f64], outputs: &[Code], code: Code) {
    if let Ok(at) = outputs.binary_search(&code) {
        function[at] = 1.0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ReferenceId;

    fn joint(pairs: &[(Code, Code, u64)]) -> JointProfile {
        let mut joint = JointProfile::new(ReferenceId::DECLARED, ReferenceId::DECLARED);
        for &(x, y, count) in pairs {
            (0..count).for_each(|_| joint.observe(x, y));
        }
        joint
    }

    proptest! {
        /// Rows of the reference, each taken any number of times: the inputs' law is another, the
        /// stage is the same, and every score is 0.
        #[test]
        fn an_input_shift_scores_zero(
            rows in proptest::collection::vec(proptest::collection::vec(0..40u64, 5), 2..6),
            times in proptest::collection::vec(0..5u64, 6),
        ) {
            let table = |times: &[u64]| {
                let cells = rows.iter().enumerate().flat_map(|(x, row)| {
                    row.iter().enumerate().map(move |(y, &count)| (x as Code, if y == 4 { DROPPED } else { y as Code }, count * times[x]))
                });
                joint(&cells.collect::<Vec<_>>())
            };
            let basis = ConditionalBasis::new(&table(&[1; 6]));
            if let Some(found) = basis.scores(&table(&times)) {
                for (aspect, score) in basis.aspects().iter().zip(found.scores) {
                    prop_assert!(score.abs() < 1e-6, "{aspect:?}: {score}");
                }
            }
        }
    }

    #[test]
    fn a_changed_stage_scores() {
        let basis = ConditionalBasis::new(&joint(&[(0, 0, 500), (0, 1, 500), (1, 1, 900), (1, 2, 100), (2, 0, 10)]));
        let changed = basis.scores(&joint(&[(0, 0, 100), (0, 1, 300), (1, 1, 90), (1, 2, 10)])).unwrap();
        assert!(changed.scores[0] > 5.0, "{changed:?}");
        assert_eq!(changed.unattributable, 0.0);
        let unknown = basis.scores(&joint(&[(0, 0, 5), (0, 1, 5), (2, 0, 10), (9, 9, 20)])).unwrap();
        assert_eq!((unknown.records, unknown.unattributable), (10, 0.75));
        assert_eq!(basis.scores(&joint(&[(9, 9, 20)])), None);
        let at = |aspect| basis.aspects().iter().position(|&found| found == aspect).unwrap();
        let new = basis.scores(&joint(&[(0, 0, 50), (0, 7, 20)])).unwrap();
        assert!(new.scores[at(ConditionalAspect::New)] > 50.0);
        let dropped = basis.scores(&joint(&[(0, 0, 50), (0, DROPPED, 20)])).unwrap();
        assert!(dropped.scores[at(ConditionalAspect::New)] > 50.0, "the reference never dropped");
    }
}
