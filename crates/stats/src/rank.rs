//! The rank of a residual among past healthy ones, and what it is worth as a bet.
//!
//! Among M healthy residuals and one more that is exchangeable with them, every rank has chance
//! 1/(M + 1), whatever their law. A bet of strength δ pays exp(δz − δ²/2), z = Φ⁻¹(u), which is worth
//! 1 if u is uniform. With a rank instead of u, it pays the mean over the rank's share of 0..1,
//!
//! > e_δ(r) = (M + 1)·[Φ(z_{r+1} − δ) − Φ(z_r − δ)],  z_r = Φ⁻¹(r / (M + 1)),
//!
//! which sums to M + 1 over the ranks: an e-value exactly, at any M, without the random number that
//! a smoothed rank p-value needs. Ties share the mean of the ranks they could have.
//!
//! **Margin.** A set of M knows the law only to within 1/√M, and the same set judges many windows
//! in a row; that is no error of one bet but of the product of all. So each payment is divided by
//! 1 + [`CAUTION`]·s, where s² = (mean of e² − 1)/M is the variance of the mean payment over sets.

use std::{collections::VecDeque, sync::LazyLock};

use serde::{Deserialize, Serialize};

use crate::normal::{phi, quantile};

/// The strengths of bets, in standard deviations.
pub const DELTAS: [f64; 4] = [0.5, 1.0, 2.0, 3.0];
/// The number of bets: each strength on high and on low residuals.
pub const BETS: usize = 2 * DELTAS.len();
/// The healthy residuals that are kept.
pub const HISTORY: usize = 1024;
/// The healthy residuals below which no bet is made.
pub const MIN_HISTORY: usize = 64;
/// Once [`HISTORY`] is full, one window in so many replaces the oldest.
const THINNING: u32 = 4;
/// The standard errors of the mean payment that are held back.
pub const CAUTION: f64 = 1.5;

/// Past healthy residuals: the last 1024 at first, then every fourth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "HealthyFile", into = "HealthyFile")]
pub struct Healthy {
    sorted: Vec<f32>,
    /// The same by age, the oldest first.
    by_age: VecDeque<f32>,
    admitted: u32,
}

#[derive(Serialize, Deserialize)]
struct HealthyFile {
    by_age: VecDeque<f32>,
    admitted: u32,
}

impl From<HealthyFile> for Healthy {
    fn from(HealthyFile { mut by_age, admitted }: HealthyFile) -> Self {
        by_age.retain(|residual| !residual.is_nan());
        by_age.truncate(HISTORY);
        let mut sorted: Vec<f32> = by_age.iter().copied().collect();
        sorted.sort_unstable_by(f32::total_cmp);
        Self { sorted, by_age, admitted }
    }
}

impl From<Healthy> for HealthyFile {
    fn from(Healthy { by_age, admitted, .. }: Healthy) -> Self {
        Self { by_age, admitted }
    }
}

impl Healthy {
    /// Returns the number of residuals.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Says whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// Returns how many residuals are below `residual`, and how many are at most it.
    #[must_use]
    #[inline]
    pub fn rank(&self, residual: f32) -> (usize, usize) {
        let below = self.sorted.partition_point(|&past| past < residual);
        let rest = &self.sorted[below..];
        if rest.first().is_none_or(|&next| next > residual) {
            return (below, below);
        }
        (below, below + rest.partition_point(|&past| past <= residual))
    }

    /// Admits the residual of a healthy window. NaN is not admitted.
    pub fn admit(&mut self, residual: f32) {
        if residual.is_nan() {
            return;
        }
        self.admitted = self.admitted.wrapping_add(1);
        if self.by_age.len() < HISTORY {
            let at = self.sorted.partition_point(|&past| past < residual);
            self.sorted.insert(at, residual);
        } else if self.admitted.is_multiple_of(THINNING) {
            if let Some(oldest) = self.by_age.pop_front() {
                self.replace(oldest, residual);
            }
        } else {
            return;
        }
        self.by_age.push_back(residual);
    }

    /// Moves only what lies between the two.
    fn replace(&mut self, old: f32, new: f32) {
        let from = self.sorted.partition_point(|&past| past < old);
        let to = self.sorted.partition_point(|&past| past < new);
        if to > from {
            self.sorted.copy_within(from + 1..to, from);
            self.sorted[to - 1] = new;
        } else {
            self.sorted.copy_within(to..from, to + 1);
            self.sorted[to] = new;
        }
    }

    /// Returns what each bet pays for a residual: δ ascending on high ones, then on low ones. All pay
    /// 1 with fewer than [`MIN_HISTORY`] residuals.
    #[must_use]
    #[inline]
    pub fn payments(&self, residual: f32) -> [f64; BETS] {
        let m = self.len();
        if m < MIN_HISTORY {
            return [1.0; BETS];
        }
        let (below, upto) = self.rank(residual);
        if m == HISTORY {
            // Nearly every window comes here.
            FULL.payments(below, upto)
        } else {
            growing(m, below, upto)
        }
    }
}

/// Φ(z_r − δ) by rank r, for one number of residuals.
struct Table {
    cumulative: Vec<[f64; DELTAS.len()]>,
    /// (M + 1) / (1 + margin).
    stake: [f64; DELTAS.len()],
}

static FULL: LazyLock<Table> = LazyLock::new(|| Table::new(HISTORY));
/// The stakes per residual for 64, 128, 256 and 512 of them.
static STAKES: LazyLock<Vec<[f64; DELTAS.len()]>> = LazyLock::new(|| {
    let sizes = std::iter::successors(Some(MIN_HISTORY), |size| Some(size * 2)).take_while(|&size| size < HISTORY);
    sizes.map(|size| Table::new(size).stake.map(|stake| stake / (size + 1) as f64)).collect()
});

impl Table {
    fn new(m: usize) -> Self {
        let ranks = (m + 1) as f64;
        let cumulative: Vec<[f64; DELTAS.len()]> =
            (0..=m + 1).map(|rank| DELTAS.map(|delta| phi(quantile(rank as f64 / ranks) - delta))).collect();
        let mut stake = [0.0; DELTAS.len()];
        for (bet, stake) in stake.iter_mut().enumerate() {
            let squares: f64 = cumulative.windows(2).map(|pair| (ranks * (pair[1][bet] - pair[0][bet])).powi(2)).sum();
            let margin = CAUTION * ((squares / ranks - 1.0) / m as f64).sqrt();
            *stake = ranks / (1.0 + margin);
        }
        Self { cumulative, stake }
    }

    #[inline]
    fn payments(&self, below: usize, upto: usize) -> [f64; BETS] {
        let last = self.cumulative.len() - 1;
        let share = 1.0 / (upto - below + 1) as f64;
        let (lo, hi) = (&self.cumulative[below], &self.cumulative[upto + 1]);
        let (low, high) = (&self.cumulative[last - 1 - upto], &self.cumulative[last - below]);
        let mut payments = [0.0; BETS];
        for bet in 0..DELTAS.len() {
            let stake = self.stake[bet] * share;
            payments[bet] = stake * (hi[bet] - lo[bet]);
            payments[DELTAS.len() + bet] = stake * (high[bet] - low[bet]);
        }
        payments
    }
}

/// Returns the payments while the history grows.
#[cold]
fn growing(m: usize, below: usize, upto: usize) -> [f64; BETS] {
    let ranks = (m + 1) as f64;
    let stakes = STAKES[(m / MIN_HISTORY).ilog2() as usize];
    let (lo, hi) = (quantile(below as f64 / ranks), quantile((upto + 1) as f64 / ranks));
    let share = ranks / (upto - below + 1) as f64;
    let mut payments = [0.0; BETS];
    for (bet, delta) in DELTAS.into_iter().enumerate() {
        payments[bet] = stakes[bet] * share * (phi(hi - delta) - phi(lo - delta));
        payments[DELTAS.len() + bet] = stakes[bet] * share * (phi(hi + delta) - phi(lo + delta));
    }
    payments
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f32]) -> Healthy {
        let mut healthy = Healthy::default();
        values.iter().for_each(|&value| healthy.admit(value));
        healthy
    }

    proptest! {
        /// Whatever the values and their ties: over the members of an exchangeable set, each left
        /// out in turn, every bet pays at most 1 in the mean.
        #[test]
        fn bets_are_worth_at_most_one(values in proptest::collection::vec(-20..20i32, 65..200)) {
            let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
            let mut sums = [0.0; BETS];
            for out in 0..values.len() {
                let rest: Vec<f32> = values.iter().enumerate().filter(|(at, _)| *at != out).map(|(_, &v)| v).collect();
                let payments = of(&rest).payments(values[out]);
                sums.iter_mut().zip(payments).for_each(|(sum, payment)| *sum += payment);
            }
            for sum in sums {
                prop_assert!(sum / values.len() as f64 <= 1.0 + 1e-9, "{sums:?}");
            }
        }

        #[test]
        fn the_history_stays_sorted_and_keeps_the_newest(values in proptest::collection::vec(any::<i16>(), 0..5000)) {
            let healthy = of(&values.iter().map(|&value| f32::from(value)).collect::<Vec<_>>());
            prop_assert!(healthy.sorted.is_sorted());
            let mut by_age: Vec<f32> = healthy.by_age.iter().copied().collect();
            by_age.sort_unstable_by(f32::total_cmp);
            prop_assert_eq!(&by_age, &healthy.sorted);
            prop_assert!(healthy.len() <= HISTORY);
        }
    }

    #[test]
    fn the_full_table_agrees_with_the_direct_formula() {
        for (below, upto) in [(0, 0), (0, 5), (512, 512), (1024, 1024), (1000, 1024)] {
            let (table, ranks) = (FULL.payments(below, upto), (HISTORY + 1) as f64);
            let (lo, hi) = (quantile(below as f64 / ranks), quantile((upto + 1) as f64 / ranks));
            for (bet, delta) in DELTAS.into_iter().enumerate() {
                let share = FULL.stake[bet] / (upto - below + 1) as f64;
                assert!((table[bet] - share * (phi(hi - delta) - phi(lo - delta))).abs() < 1e-6 * share);
                assert!((table[4 + bet] - share * (phi(hi + delta) - phi(lo + delta))).abs() < 1e-6 * share);
            }
        }
    }

    #[test]
    fn extremes_pay_and_a_constant_does_not() {
        let healthy = of(&(0..1024).map(|i| i as f32).collect::<Vec<_>>());
        let high = healthy.payments(5000.0);
        assert!(high[3] > 100.0 && high[7] < 0.01, "{high:?}");
        let constant = of(&[1.0; 500]);
        assert!(constant.payments(1.0).iter().all(|&payment| payment <= 1.0));
        assert_eq!(Healthy::default().payments(3.0), [1.0; BETS]);
    }

    #[test]
    fn state_survives_being_written() {
        let healthy = of(&(0..3000).map(|i| ((i * 37) % 101) as f32).collect::<Vec<_>>());
        let text = serde_json::to_string(&healthy).unwrap();
        assert_eq!(serde_json::from_str::<Healthy>(&text).unwrap(), healthy);
    }
}
