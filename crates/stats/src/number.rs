//! The profile of a number: a histogram on the edges of the reference, and exact moments.
//!
//! Everything in it is an integer sum, a minimum or a maximum, so merging is associative and
//! commutative and any split of the values, in any order, ends in the same bits.

use std::sync::Arc;

use crate::{
    DecodeError, Edges, MergeError,
    edges::{BELOW, MISSING, NAN, NEG_INFINITY},
    quantum::Quantum,
    wire::{Reader, Writer},
};

/// Counts of a number on [`Edges`], with its sum, sum of squares, minimum and maximum.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberProfile {
    edges: Arc<Edges>,
    counts: Box<[u64]>,
    moments: Moments,
}

/// Sums over the finite values, in quanta of the edges.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Moments {
    sum: i128,
    squares: u128,
    min: f64,
    max: f64,
    /// Whether all are whole numbers.
    whole: bool,
}

impl Moments {
    const EMPTY: Self = Self { sum: 0, squares: 0, min: f64::INFINITY, max: f64::NEG_INFINITY, whole: true };

    #[inline]
    fn add(&mut self, x: f64, quantum: Quantum) {
        let quanta = quantum.quanta(x);
        // Wrapping does not depend on order either. It takes 2³² values, all beyond 4096 times the
        // scale, to reach the end of the squares.
        self.sum = self.sum.wrapping_add(i128::from(quanta));
        self.squares = self.squares.wrapping_add((i128::from(quanta) * i128::from(quanta)) as u128);
        // Adding zero turns -0.0 into 0.0, so that the order of the two does not matter.
        if x < self.min {
            self.min = x + 0.0;
        }
        if x > self.max {
            self.max = x + 0.0;
        }
        self.whole &= quantum.is_whole(quanta);
    }
}

impl NumberProfile {
    /// Makes an empty profile.
    #[must_use]
    pub fn new(edges: Arc<Edges>) -> Self {
        let counts = vec![0; edges.slots()].into();
        Self { edges, counts, moments: Moments::EMPTY }
    }

    /// Counts one value, `None` as missing, and returns the slot that it fell in.
    #[inline]
    pub fn observe(&mut self, value: Option<f64>) -> usize {
        let slot = match value {
            Some(x) if x.is_finite() => {
                self.moments.add(x, self.edges.quantum());
                self.edges.finite_slot(x)
            }
            other => self.edges.slot(other),
        };
        self.counts[slot] = self.counts[slot].wrapping_add(1);
        slot
    }

    /// Adds another profile.
    ///
    /// # Errors
    /// If the two have different edges; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        if self.edges != other.edges {
            return Err(MergeError::bins("a number", &self.edges, &other.edges));
        }
        add_counts(&mut self.counts, &other.counts);
        let (into, from) = (&mut self.moments, &other.moments);
        into.sum = into.sum.wrapping_add(from.sum);
        into.squares = into.squares.wrapping_add(from.squares);
        into.min = into.min.min(from.min);
        into.max = into.max.max(from.max);
        into.whole &= from.whole;
        Ok(())
    }

    /// Forgets all values.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.moments = Moments::EMPTY;
    }

    /// Returns the edges.
    #[must_use]
    pub fn edges(&self) -> &Arc<Edges> {
        &self.edges
    }

    /// Returns the count of each slot, as [`Edges`] lays them out.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns the counts of the finite values in ascending order: below, the bins, above.
    #[must_use]
    pub fn ordered(&self) -> &[u64] {
        &self.counts[BELOW..=self.edges.above()]
    }

    /// Returns the number of values, missing and not finite ones included.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// Returns the number of finite values, which mean, deviation, extremes and quantiles are of.
    #[must_use]
    pub fn finite(&self) -> u64 {
        self.ordered().iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// Returns the number of missing values.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.counts[MISSING]
    }

    /// Returns the number of NaN.
    #[must_use]
    pub fn nan(&self) -> u64 {
        self.counts[NAN]
    }

    /// Returns the number of −∞ and +∞.
    #[must_use]
    pub fn infinite(&self) -> u64 {
        self.counts[NEG_INFINITY].saturating_add(self.counts[self.edges.above() + 1])
    }

    /// Returns the mean of the finite values, `None` without any: exact to 2⁻³⁶ of the largest
    /// bound in magnitude, where values over 4096 times that count as 4096 times.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let n = self.finite();
        (n > 0).then(|| self.moments.sum as f64 / n as f64 * self.edges.quantum().size())
    }

    /// Returns the standard deviation of the finite values (divided by n), `None` without any.
    ///
    /// Σ(q − m)² = Σq² − 2mΣq + nm² around the whole number of quanta m next to the mean: exact in
    /// integers, so nothing cancels.
    #[must_use]
    pub fn std(&self) -> Option<f64> {
        let n = self.finite();
        if n == 0 {
            return None;
        }
        let Moments { sum, squares, .. } = self.moments;
        let centre = sum / i128::from(n);
        // The result fits, as it is at most Σq²; what overflows on the way wraps back.
        let around = squares
            .wrapping_sub((centre.wrapping_mul(sum) as u128).wrapping_mul(2))
            .wrapping_add((centre.wrapping_mul(centre) as u128).wrapping_mul(u128::from(n)));
        let rest = (sum % i128::from(n)) as f64 / n as f64;
        let variance = around as f64 / n as f64 - rest * rest;
        Some(variance.max(0.0).sqrt() * self.edges.quantum().size())
    }

    /// Returns the least finite value, `None` without any.
    #[must_use]
    pub fn min(&self) -> Option<f64> {
        (self.moments.min <= self.moments.max).then_some(self.moments.min)
    }

    /// Returns the greatest finite value, `None` without any.
    #[must_use]
    pub fn max(&self) -> Option<f64> {
        (self.moments.min <= self.moments.max).then_some(self.moments.max)
    }

    /// Estimates the quantile at `rank` of the finite values, linear within a bin unless that stands for one value, and exact
    /// at ranks 0 and 1; `None` without values or if `rank` is not in 0..=1. The error is at most the width of the bin that the
    /// quantile falls in. Where all values are whole numbers, so is the quantile.
    #[must_use]
    pub fn quantile(&self, rank: f64) -> Option<f64> {
        let (min, max) = (self.min()?, self.max()?);
        if !(0.0..=1.0).contains(&rank) {
            return None;
        }
        let target = rank * self.finite() as f64;
        if target >= self.finite() as f64 {
            return Some(max);
        }
        let mut before = 0.0;
        for (index, &count) in self.ordered().iter().enumerate() {
            let count = count as f64;
            if count > 0.0 && before + count >= target {
                return Some(self.within(index, ((target - before) / count).clamp(0.0, 1.0), (min, max)));
            }
            before += count;
        }
        Some(max)
    }

    /// Returns the value this far into a place of [`ordered`](Self::ordered), where values lie evenly.
    fn within(&self, index: usize, part: f64, (min, max): (f64, f64)) -> f64 {
        let bounds = self.edges.bounds();
        // The bins at the ends reach no further than the extremes.
        let lo = if index == 0 { min } else { bounds[index - 1].max(min) };
        let bound = bounds.get(index).copied().filter(|bound| *bound <= max);
        if self.moments.whole {
            let last = match bound {
                // The last bin holds its upper bound too.
                Some(bound) if index + 1 == bounds.len() => bound.floor(),
                Some(bound) => bound.ceil() - 1.0,
                None => max,
            };
            let first = lo.ceil().min(last);
            return first + ((part * (last - first + 1.0)).ceil() - 1.0).max(0.0);
        }
        // What a logarithmic scale leaves out below is 0 more often than not.
        if index == 0 && self.edges.is_logarithmic() || index > 0 && self.edges.is_of_one_value(index - 1, max) {
            return lo;
        }
        lo * (1.0 - part) + bound.unwrap_or(max) * part
    }

    /// Writes counts and moments. A single finite value is written as itself alone: its sums follow.
    pub(crate) fn encode(&self, out: &mut Writer) {
        out.counts(cells(&self.counts));
        let Moments { sum, squares, min, max, whole } = self.moments;
        match self.finite() {
            0 => {}
            1 => out.float(min),
            _ => {
                out.float(min);
                out.float(max);
                out.signed(sum);
                out.wide(squares);
                out.byte(whole.into());
            }
        }
    }

    pub(crate) fn decode(edges: Arc<Edges>, bytes: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut profile = Self::new(edges);
        let counts = &mut profile.counts;
        bytes.counts("count of a bin", counts.len() as u64, |cell, count| counts[cell as usize] = count)?;
        match profile.finite() {
            0 => {}
            1 => {
                let x = finite(bytes, "value")?;
                let slot = profile.edges.finite_slot(x);
                if profile.counts[slot] == 0 {
                    return Err(bytes.value_error("value", &x, "numbers in the bin that is counted"));
                }
                profile.moments.add(x, profile.edges.quantum());
            }
            _ => {
                let (min, max) = (finite(bytes, "minimum")?, finite(bytes, "maximum")?);
                if min > max {
                    return Err(bytes.value_error("minimum", &min, format!("numbers up to the maximum, {max}")));
                }
                let (sum, squares) = (bytes.signed("sum")?, bytes.wide("sum of squares")?);
                let whole = match bytes.byte("whether all are whole numbers")? {
                    0 => false,
                    1 => true,
                    found => return Err(bytes.value_error("whether all are whole numbers", &found, "0 and 1")),
                };
                profile.moments = Moments { sum, squares, min, max, whole };
            }
        }
        Ok(profile)
    }
}

fn finite(bytes: &mut Reader<'_>, what: &'static str) -> Result<f64, DecodeError> {
    let found = bytes.float(what)?;
    if found.is_finite() && found.to_bits() != (-0.0f64).to_bits() {
        Ok(found)
    } else {
        Err(bytes.value_error(what, &found, "finite numbers, zero without a sign"))
    }
}

/// Adds `from` to `into`, cell by cell, saturating.
pub(crate) fn add_counts(into: &mut [u64], from: &[u64]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into = into.saturating_add(*from);
    }
}

/// Numbers counts by their cell.
pub(crate) fn cells(counts: &[u64]) -> impl Iterator<Item = (u64, u64)> + Clone + '_ {
    counts.iter().enumerate().map(|(cell, &count)| (cell as u64, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_spread_far_from_zero_is_kept() {
        let mut profile = NumberProfile::new(Edges::linear(0.0, 1e6, 32).map(Arc::new).unwrap());
        for i in 0..10_000 {
            profile.observe(Some(1e6 - f64::from(i % 2) / 8.0));
        }
        assert_eq!(profile.mean(), Some(1e6 - 0.0625));
        assert_eq!(profile.std(), Some(0.0625));
    }

    #[test]
    fn without_finite_values_there_is_nothing_to_say() {
        let mut profile = NumberProfile::new(Edges::linear(0.0, 1.0, 2).map(Arc::new).unwrap());
        for value in [None, Some(f64::NAN), Some(f64::INFINITY), Some(f64::NEG_INFINITY)] {
            profile.observe(value);
        }
        assert_eq!((profile.total(), profile.finite()), (4, 0));
        assert_eq!((profile.missing(), profile.nan(), profile.infinite()), (1, 1, 2));
        assert_eq!((profile.mean(), profile.std(), profile.quantile(0.5), profile.min()), (None, None, None, None));
    }

    #[test]
    fn quantiles_end_at_the_extremes() {
        let mut profile = NumberProfile::new(Edges::linear(0.0, 1.0, 2).map(Arc::new).unwrap());
        for value in [-5.0, 0.1, 0.2, 0.7, 9.0] {
            profile.observe(Some(value));
        }
        assert_eq!((profile.quantile(0.0), profile.quantile(1.0)), (Some(-5.0), Some(9.0)));
        assert_eq!(profile.quantile(1.5), None);
        assert!((0.0..=0.5).contains(&profile.quantile(0.4).unwrap()));
    }

    #[test]
    fn a_bin_of_one_value_has_that_value_as_its_quantiles() {
        let quantiles = |bounds: &[f64], values: &[f64]| {
            let mut profile = NumberProfile::new(Edges::try_new(bounds.to_vec()).map(Arc::new).unwrap());
            for &value in values {
                profile.observe(Some(value));
            }
            [0.5, 0.95, 1.0].map(|rank| profile.quantile(rank).unwrap())
        };
        let rare: Vec<f64> = (0..160).map(|i| f64::from(i / 159)).collect();
        assert_eq!(quantiles(&[0.0, 1.0, 2.0], &rare), [0.0, 0.0, 1.0]);
        assert_eq!(quantiles(&[0.0, 0.0f64.next_up(), 0.5], &rare), [0.0, 0.0, 1.0]);
        // The last bin holds its upper bound too.
        assert_eq!(quantiles(&[0.0, 1.0, 2.0], &[1.0, 1.0, 2.0, 2.0, 2.0])[2], 2.0);
        assert!(quantiles(&[0.0, 1.0, 2.0], &[1.0, 1.0, 2.0, 2.0, 2.0])[1] > 1.9);
        // Whole numbers far apart have others between them.
        assert_eq!(quantiles(&[0.0, 100.0, 300.0], &[0.0, 200.0, 300.0])[0], 150.0);
    }

    #[test]
    fn quantiles_of_whole_numbers_are_whole_numbers() {
        let quantiles = |edges: Edges, values: &[(f64, usize)]| {
            let mut profile = NumberProfile::new(Arc::new(edges));
            for &(value, count) in values {
                for _ in 0..count {
                    profile.observe(Some(value));
                }
            }
            [0.5, 0.95].map(|rank| profile.quantile(rank).unwrap())
        };
        assert_eq!(quantiles(Edges::log(1.0, 1_000.0, 32).unwrap(), &[(1.0, 12), (2.0, 1)]), [1.0, 2.0]);
        assert_eq!(quantiles(Edges::linear(0.0, 1.0, 32).unwrap(), &[(0.0, 119), (1.0, 1)]), [0.0, 0.0]);
        assert_eq!(quantiles(Edges::linear(0.0, 32.0, 32).unwrap(), &[(2.0, 1), (3.0, 5), (4.0, 1)]), [3.0, 4.0]);
        // One that is none makes all of them estimates.
        assert!(quantiles(Edges::linear(0.0, 32.0, 32).unwrap(), &[(3.0, 50), (3.5, 1)])[0] > 3.0);
    }

    #[test]
    fn below_a_logarithmic_scale_is_the_least_value() {
        let mut profile = NumberProfile::new(Edges::log(1e-4, 1.0, 32).map(Arc::new).unwrap());
        for value in [0.0, 0.0, 0.0, 0.25, 0.5] {
            profile.observe(Some(value));
        }
        assert_eq!(profile.quantile(0.5), Some(0.0));
    }
}
