//! Scores: what a window's counts say about a change, as a few numbers with mean 0 under the reference.
//!
//! z_j = n^{-1/2} Σ_k c_k·φ_j(k). For numbers, φ₁ … φ₄ are polynomials, orthonormal under the
//! reference's shares, in the normal score Φ⁻¹(u) of each slot's middle rank u: under a normal
//! reference they are the Hermite polynomials, of which the first is the best score for a moved
//! mean and the second for a changed spread. For categories φ is the standardised residual of
//! each level. Scores are linear in counts, so replicas may be summed before or after.
//!
//! Each φ has mean 0 over the reference's own counts, exactly: what the reference never had, or always had, scores 0
//! as long as that stays so, however many records a window has.
//!
//! Records that are independent under the reference give every score variance 1; how much it
//! varies from window to window in truth is the [detector](crate::Detector)'s to learn.

use serde::{Deserialize, Serialize};

use crate::{
    SignalProfile,
    category::{FIRST_VALUE, OTHER},
    edges::{BELOW, MISSING},
    normal::quantile,
};

/// The most levels of a category that have a score of their own.
pub const MAX_LEVELS: usize = 16;
/// How many polynomials a number has.
const POLYNOMIALS: usize = 4;
/// How many polynomials each projection of an embedding has.
const PROJECTION_POLYNOMIALS: usize = 2;
/// How many functions are evaluated side by side.
const LANES: usize = 4;

/// What a score is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// Values moved up (above 0) or down.
    Location,
    /// Values spread out or drew together.
    Spread,
    /// The upper tail grew at the cost of the lower one, or the other way round.
    Skew,
    /// Both tails grew at the cost of the shoulders.
    Tails,
    /// More values are missing, NaN, infinite or malformed.
    Unusable,
    /// More values are not in the reference's dictionary.
    Other,
    /// The level in this slot became more frequent.
    Level(u16),
    /// The levels without a score of their own became more frequent together.
    Rest,
    /// A projection of an embedding moved.
    ProjectionLocation(u8),
    /// A projection of an embedding spread out.
    ProjectionSpread(u8),
}

/// The score functions of one signal, fixed by its reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreBasis {
    tables: Vec<Table>,
}

/// The score functions over one row of counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Table {
    slots: usize,
    aspects: Vec<Aspect>,
    /// φ_j(slot) of four functions side by side: all slots of the first four, then of the next.
    weights: Vec<[f64; LANES]>,
}

impl ScoreBasis {
    /// Makes the functions of a signal from what was counted on the reference.
    ///
    /// Slots that the reference never used count as half a record, so that what is new there has a
    /// finite score.
    #[must_use]
    pub fn new(reference: &SignalProfile) -> Self {
        match reference {
            SignalProfile::Number(profile) => Self::number(profile.counts()),
            SignalProfile::Category(profile) => Self::category(profile.counts()),
            SignalProfile::Embedding(profile) => {
                let projections = profile.projections().iter().enumerate();
                let mut tables: Vec<Table> = projections
                    .map(|(at, counts)| {
                        let aspects = [Aspect::ProjectionLocation(at as u8), Aspect::ProjectionSpread(at as u8)];
                        Table::polynomials(counts, &aspects[..PROJECTION_POLYNOMIALS])
                    })
                    .collect();
                tables.push(Table::levels(profile.cells()));
                Self { tables }
            }
        }
    }

    /// Makes the functions of a number from counts by slot, as [`Edges`](crate::Edges) lays them out.
    #[must_use]
    pub fn number(counts: &[u64]) -> Self {
        let aspects = [Aspect::Location, Aspect::Spread, Aspect::Skew, Aspect::Tails];
        let mut table = Table::polynomials(counts, &aspects[..POLYNOMIALS]);
        let finite = finite_slots(counts.len());
        table.push(Aspect::Unusable, residual(counts, |slot| !finite.contains(&slot)), counts, 0..counts.len());
        Self { tables: vec![table] }
    }

    /// Makes the functions of a category from counts by slot: missing, OTHER, then the levels.
    #[must_use]
    pub fn category(counts: &[u64]) -> Self {
        Self { tables: vec![Table::levels(counts)] }
    }

    /// Returns what each score is about, in the order of [`scores`](Self::scores).
    pub fn aspects(&self) -> impl Iterator<Item = Aspect> + '_ {
        self.tables.iter().flat_map(|table| table.aspects.iter().copied())
    }

    /// Returns what the evidence of each score counts for in a [`Detector`](crate::Detector), in the order of
    /// [`scores`](Self::scores). Of a number, the location has half of all: nothing moves as often as a mean.
    #[must_use]
    pub fn weights(&self) -> Vec<f64> {
        let others = self.aspects().filter(|aspect| *aspect != Aspect::Location).count().max(1) as f64;
        self.aspects().map(|aspect| if aspect == Aspect::Location { others } else { 1.0 }).collect()
    }

    /// Computes the scores of a window; `None` if it has no record, or is counted on other slots than
    /// the basis.
    #[must_use]
    pub fn scores(&self, profile: &SignalProfile) -> Option<Vec<f64>> {
        match profile {
            SignalProfile::Number(profile) => self.scores_of(&[profile.counts()]),
            SignalProfile::Category(profile) => self.scores_of(&[profile.counts()]),
            SignalProfile::Embedding(profile) => {
                let mut rows: Vec<&[u64]> = profile.projections().iter().map(AsRef::as_ref).collect();
                rows.push(profile.cells());
                self.scores_of(&rows)
            }
        }
    }

    /// Computes the scores of counts: one row for a number or a category.
    #[must_use]
    pub fn scores_of(&self, rows: &[&[u64]]) -> Option<Vec<f64>> {
        let mut scores = Vec::new();
        self.scores_into(rows, &mut scores).then_some(scores)
    }

    /// Computes the scores of counts into `scores`, in place of what it holds. Returns whether
    /// there are any; if not, `scores` is empty.
    pub fn scores_into(&self, rows: &[&[u64]], scores: &mut Vec<f64>) -> bool {
        scores.clear();
        if rows.len() != self.tables.len() || rows.iter().zip(&self.tables).any(|(row, table)| row.len() != table.slots)
        {
            return false;
        }
        let mut any = false;
        for (row, table) in rows.iter().zip(&self.tables) {
            let n = row.iter().fold(0u64, |sum, &count| sum.saturating_add(count));
            any |= n > 0;
            // A vector that is missing or malformed has no projections: without any, they score 0 and its cells tell.
            let root = (n.max(1) as f64).sqrt().recip();
            let end = scores.len() + table.aspects.len();
            for weights in table.weights.chunks_exact(table.slots) {
                let mut sums = [0.0; LANES];
                for (weights, &count) in weights.iter().zip(*row) {
                    let count = count as f64;
                    sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight * count);
                }
                scores.extend(sums.map(|sum| sum * root));
            }
            scores.truncate(end);
        }
        if !any {
            scores.clear();
        }
        any
    }
}

impl Table {
    fn polynomials(counts: &[u64], aspects: &[Aspect]) -> Self {
        let finite = finite_slots(counts.len());
        let used: Vec<f64> = counts[finite.clone()].iter().map(|&count| (count as f64).max(0.5)).collect();
        let functions = orthonormal(&used, aspects.len());
        let mut table = Self { slots: counts.len(), aspects: Vec::new(), weights: Vec::new() };
        for (aspect, function) in aspects.iter().zip(functions) {
            let mut weights = vec![0.0; counts.len()];
            weights[finite.clone()].copy_from_slice(&function);
            table.push(*aspect, weights, counts, finite.clone());
        }
        table
    }

    fn levels(counts: &[u64]) -> Self {
        let mut table = Self { slots: counts.len(), aspects: Vec::new(), weights: Vec::new() };
        if counts.len() < FIRST_VALUE {
            return table;
        }
        let all = 0..counts.len();
        table.push(Aspect::Unusable, residual(counts, |slot| slot == MISSING), counts, all.clone());
        table.push(Aspect::Other, residual(counts, |slot| slot == OTHER), counts, all.clone());
        let mut levels: Vec<usize> = (FIRST_VALUE..counts.len()).collect();
        levels.sort_by_key(|&slot| std::cmp::Reverse(counts[slot]));
        let rest = levels.split_off(levels.len().min(MAX_LEVELS));
        for slot in levels {
            table.push(Aspect::Level(slot as u16), residual(counts, |at| at == slot), counts, all.clone());
        }
        if !rest.is_empty() {
            table.push(Aspect::Rest, residual(counts, |at| rest.contains(&at)), counts, all);
        }
        table
    }

    /// Adds a function, less its mean over the reference's `counts` in the slots that it is of.
    fn push(&mut self, aspect: Aspect, mut weights: Vec<f64>, counts: &[u64], of: std::ops::Range<usize>) {
        let n: f64 = counts[of.clone()].iter().map(|&count| count as f64).sum();
        let sum: f64 =
            weights[of.clone()].iter().zip(&counts[of.clone()]).map(|(weight, &count)| weight * count as f64).sum();
        let mean = if n > 0.0 { sum / n } else { 0.0 };
        weights[of].iter_mut().for_each(|weight| *weight -= mean);
        let lane = self.aspects.len() % LANES;
        if lane == 0 {
            self.weights.resize(self.weights.len() + self.slots, [0.0; LANES]);
        }
        let start = self.weights.len() - self.slots;
        self.weights[start..].iter_mut().zip(weights).for_each(|(into, weight)| into[lane] = weight);
        self.aspects.push(aspect);
    }
}

/// Returns the slots of finite values, below to above, among those of a number.
fn finite_slots(slots: usize) -> std::ops::Range<usize> {
    BELOW.min(slots)..slots.saturating_sub(1).max(BELOW.min(slots))
}

/// Returns (1 − p)/√(p(1 − p)) in the slots chosen and −p/√(p(1 − p)) in the others, where p is
/// their share with half a record added to both sides.
fn residual(counts: &[u64], chosen: impl Fn(usize) -> bool) -> Vec<f64> {
    let n: f64 = counts.iter().map(|&count| count as f64).sum();
    let inside: f64 = counts.iter().enumerate().filter(|(at, _)| chosen(*at)).map(|(_, &count)| count as f64).sum();
    let p = (inside + 0.5) / (n + 1.0);
    let scale = (p * (1.0 - p)).sqrt().recip();
    (0..counts.len()).map(|at| if chosen(at) { (1.0 - p) * scale } else { -p * scale }).collect()
}

/// Returns up to `degree` polynomials in the normal score of ordered slots: Σ p_k φ_i(k) φ_j(k) = 1
/// if i = j, else 0, and Σ p_k φ_j(k) = 0, where p are the shares of `weights`. A slot of weight 0
/// has the polynomials' values at its place between its neighbours. Slots with no room for another
/// polynomial give fewer.
pub(crate) fn orthonormal(weights: &[f64], degree: usize) -> Vec<Vec<f64>> {
    let n: f64 = weights.iter().sum();
    let shares: Vec<f64> = weights.iter().map(|weight| weight / n).collect();
    let mut below = 0.0;
    let points: Vec<f64> = shares
        .iter()
        .map(|share| {
            below += share;
            let end = (0.5 / n).clamp(1e-12, 0.5);
            quantile((below - 0.5 * share).clamp(end, 1.0 - end))
        })
        .collect();
    let inner = |a: &[f64], b: &[f64]| a.iter().zip(b).zip(&shares).map(|((a, b), p)| a * b * p).sum::<f64>();
    let room = weights.iter().filter(|&&weight| weight > 0.0).count().saturating_sub(1);
    let mut basis = vec![vec![1.0; points.len()]];
    for _ in 0..degree.min(room) {
        let last = &basis[basis.len() - 1];
        let mut next: Vec<f64> = last.iter().zip(&points).map(|(value, x)| value * x).collect();
        // Twice is enough (Giraud, Langou, Rozložník 2005).
        for _ in 0..2 {
            for earlier in &basis {
                let along = inner(&next, earlier);
                next.iter_mut().zip(earlier).for_each(|(value, unit)| *value -= along * unit);
            }
        }
        let norm = inner(&next, &next).sqrt();
        if norm < 1e-9 {
            break;
        }
        next.iter_mut().for_each(|value| *value /= norm);
        basis.push(next);
    }
    basis.split_off(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{EmbeddingBins, EmbeddingProfile};

    proptest! {
        #[test]
        fn polynomials_are_orthonormal(counts in proptest::collection::vec(0..1000u64, 2..40)) {
            let used: Vec<f64> = counts.iter().map(|&count| (count as f64).max(0.5)).collect();
            let basis = orthonormal(&used, 4);
            let n: f64 = used.iter().sum();
            let inner = |a: &[f64], b: &[f64]| a.iter().zip(b).zip(&used).map(|((a, b), p)| a * b * p / n).sum::<f64>();
            let ones = vec![1.0; counts.len()];
            for (i, a) in basis.iter().enumerate() {
                prop_assert!(inner(a, &ones).abs() < 1e-9);
                for (j, b) in basis.iter().enumerate() {
                    prop_assert!((inner(a, b) - f64::from(u8::from(i == j))).abs() < 1e-8);
                }
            }
        }

        #[test]
        fn scores_of_replicas_add_up(
            reference in proptest::collection::vec(1..1000u64, 38),
            parts in proptest::collection::vec(proptest::collection::vec(0..50u64, 38), 1..6),
        ) {
            let basis = ScoreBasis::number(&reference);
            let sum: Vec<u64> = (0..38).map(|slot| parts.iter().map(|part| part[slot]).sum()).collect();
            let n: u64 = sum.iter().sum();
            prop_assume!(n > 0);
            let whole = basis.scores_of(&[&sum]).unwrap();
            for (j, score) in whole.iter().enumerate() {
                let added: f64 = parts.iter().filter_map(|part| {
                    let m: u64 = part.iter().sum();
                    Some(basis.scores_of(&[part])?[j] * (m as f64).sqrt())
                }).sum();
                prop_assert!((score * (n as f64).sqrt() - added).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn the_reference_itself_scores_zero() {
        let counts: Vec<u64> = (0..38).map(|slot| 100 + slot * 7).collect();
        let basis = ScoreBasis::number(&counts);
        assert_eq!(basis.aspects().count(), 5);
        let scores = basis.scores_of(&[&counts]).unwrap();
        let n = counts.iter().sum::<u64>() as f64;
        for (aspect, score) in basis.aspects().zip(scores) {
            assert!((score / n.sqrt()).abs() < 1e-3, "{aspect:?}: {score}");
        }
    }

    #[test]
    fn the_location_of_a_number_has_half_of_the_weight() {
        assert_eq!(ScoreBasis::number(&[10; 38]).weights(), [4.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(ScoreBasis::category(&[0, 10, 500, 300]).weights(), [1.0; 4]);
    }

    #[test]
    fn a_constant_signal_has_finite_scores() {
        let mut counts = vec![0; 38];
        counts[10] = 1_000_000;
        let basis = ScoreBasis::number(&counts);
        let mut window = vec![0; 38];
        window[10] = 50;
        assert!(basis.scores_of(&[&window]).unwrap().iter().all(|score| score.is_finite() && score.abs() < 0.1));
        window[20] = 50;
        assert!(basis.scores_of(&[&window]).unwrap()[0] > 10.0);
        assert_eq!(basis.scores_of(&[&[0; 38]]), None);
        assert_eq!(basis.scores_of(&[&[1; 5]]), None);
    }

    /// What never varied says nothing, whatever the number of records.
    #[test]
    fn a_constant_scores_zero_at_any_number_of_records() {
        let (mut number, mut category) = (vec![0; 38], vec![0, 0, 0, 0]);
        (number[10], category[2]) = (1_000, 1_000);
        let bases = [(ScoreBasis::number(&number), number), (ScoreBasis::category(&category), category)];
        for (basis, counts) in bases {
            for n in [1, 50, 100_000] {
                let window: Vec<u64> = counts.iter().map(|&count| if count > 0 { n } else { 0 }).collect();
                let scores = basis.scores_of(&[&window]).unwrap();
                assert!(scores.iter().all(|score| score.abs() < 1e-9), "{n}: {scores:?}");
            }
        }
    }

    #[test]
    fn an_embedding_that_is_missing_or_malformed_throughout_has_scores() {
        let profile = |value: Option<&[f32]>, records: u32| {
            let mut profile = EmbeddingProfile::new(EmbeddingBins::declared(2).into());
            for _ in 0..records {
                profile.observe(value);
            }
            SignalProfile::Embedding(profile)
        };
        let basis = ScoreBasis::new(&profile(Some([0.6, 0.8].as_slice()), 100));
        assert_eq!(basis.scores(&profile(None, 0)), None);
        for (value, grown) in [(None, Aspect::Unusable), (Some([0.6].as_slice()), Aspect::Other)] {
            let scores = basis.scores(&profile(value, 100)).unwrap();
            for (aspect, score) in basis.aspects().zip(scores) {
                match aspect {
                    Aspect::ProjectionLocation(_) | Aspect::ProjectionSpread(_) => assert_eq!(score, 0.0),
                    aspect => assert_eq!(score > 5.0, aspect == grown, "{aspect:?}: {score}"),
                }
            }
        }
    }

    #[test]
    fn a_level_that_grows_has_a_score_above_zero() {
        let basis = ScoreBasis::category(&[0, 10, 500, 300, 190]);
        let aspects: Vec<Aspect> = basis.aspects().collect();
        assert_eq!(aspects[1..4], [Aspect::Other, Aspect::Level(2), Aspect::Level(3)]);
        let scores = basis.scores_of(&[&[0, 1, 30, 60, 9]]).unwrap();
        assert!(scores[3] > 5.0 && scores[2] < 0.0, "{scores:?}");
    }
}
