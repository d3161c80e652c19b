//! What a window is expected to be: the season by hour of the week, and what follows from the windows just before.
//!
//! [`Season`] keeps mean and scale of a score by slot, from past healthy windows only. How far slot
//! means are drawn to the global mean is itself learned: with variance σ² within slots and τ²
//! between them, a slot of n windows weighs n / (n + σ²/τ²) (empirical Bayes; Efron, Morris 1973),
//! so a signal without a season pays nothing for having been asked.
//!
//! [`Memory`] predicts a standardised score from the three before it. Coefficients solve the
//! Yule–Walker equations (Levinson 1947, Durbin 1960). Three and not one: effects that come and go
//! over windows, seen through the noise of counting, are an ARMA(1, 1) process, of which AR(1)
//! leaves a part of the dependence.

use driftline_types::Timestamp;
use serde::{Deserialize, Serialize};

/// The number of slots: hours of a week.
pub const SLOTS: usize = 168;
/// How many windows before a window predict it.
pub const LAGS: usize = 3;
/// The windows that a slot remembers, about two years of hours.
const SLOT_MEMORY: f64 = 100.0;
const GLOBAL_MEMORY: f64 = 16_384.0;
/// The scale of a slot is drawn to the global one as if by this many windows.
const SCALE_WEIGHT: f64 = 50.0;
/// How far a window may reach into the prediction of the next, so that one extreme has no echo.
const REACH: f64 = 4.0;

/// An hour of the week, from Monday 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HourOfWeek(u8);

impl HourOfWeek {
    /// Returns the hour of the week in which an event time lies.
    #[must_use]
    pub fn of(time: Timestamp) -> Self {
        const HOUR: i64 = 3_600_000;
        // The epoch is a Thursday.
        Self((time.as_millis().div_euclid(HOUR) + 3 * 24).rem_euclid(SLOTS as i64) as u8)
    }
}

/// Count, mean and sum of squares around it, with a bounded memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Moments {
    n: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, x: f64, memory: f64) {
        if self.n >= memory {
            self.squares *= (memory - 1.0) / self.n;
            self.n = memory - 1.0;
        }
        self.n += 1.0;
        let ahead = x - self.mean;
        self.mean += ahead / self.n;
        self.squares += ahead * (x - self.mean);
    }
}

/// Mean and scale of a score by hour of the week.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Season {
    slots: Vec<Moments>,
    global: Moments,
    /// σ²/τ², infinite without a season.
    #[serde(with = "infinite_as_null")]
    shrinkage: f64,
    /// The variance that slots share.
    within: f64,
    learned: u32,
}

impl Default for Season {
    fn default() -> Self {
        Self {
            slots: vec![Moments::default(); SLOTS],
            global: Moments::default(),
            shrinkage: f64::INFINITY,
            within: 1.0,
            learned: 0,
        }
    }
}

impl Season {
    /// Returns the expected score of a slot; the global mean in a slot never seen, 0 before anything was learned.
    #[must_use]
    pub fn mean(&self, slot: HourOfWeek) -> f64 {
        let cell = &self.slots[usize::from(slot.0)];
        let weight = cell.n / (cell.n + self.shrinkage);
        self.global.mean + weight * (cell.mean - self.global.mean)
    }

    /// Returns the expected deviation of a slot, above 0.
    #[must_use]
    pub fn scale(&self, slot: HourOfWeek) -> f64 {
        let cell = &self.slots[usize::from(slot.0)];
        let freedom = (cell.n - 1.0).max(0.0);
        let variance =
            (cell.squares * freedom / cell.n.max(1.0) + SCALE_WEIGHT * self.within) / (freedom + SCALE_WEIGHT);
        // A signal that never varied still has counting noise of some size.
        variance.max(1e-6).sqrt()
    }

    /// Returns (score − mean) / scale.
    #[must_use]
    pub fn standardise(&self, slot: HourOfWeek, score: f64) -> f64 {
        (score - self.mean(slot)) / self.scale(slot)
    }

    /// Learns from a healthy window.
    pub fn learn(&mut self, slot: HourOfWeek, score: f64) {
        self.slots[usize::from(slot.0)].add(score, SLOT_MEMORY);
        self.global.add(score, GLOBAL_MEMORY);
        self.learned = self.learned.wrapping_add(1);
        let weekly = (self.learned as usize).is_multiple_of(SLOTS);
        if weekly || (self.learned as usize) < 2 * SLOTS && self.learned.is_multiple_of(8) {
            self.estimate();
        }
    }

    /// Estimates σ² and τ² by the method of moments.
    fn estimate(&mut self) {
        if self.global.n < 8.0 {
            return;
        }
        let overall = self.global.squares / (self.global.n - 1.0);
        let (mut freedom, mut squares, mut slots, mut noise, mut means) = (0.0, 0.0, 0.0, 0.0, Moments::default());
        for cell in self.slots.iter().filter(|cell| cell.n > 0.0) {
            freedom += cell.n - 1.0;
            squares += cell.squares;
            slots += 1.0;
            noise += 1.0 / cell.n;
            means.add(cell.mean, f64::INFINITY);
        }
        if freedom < 100.0 || slots < 12.0 {
            (self.within, self.shrinkage) = (overall, f64::INFINITY);
            return;
        }
        let within = squares / freedom;
        let between = means.squares / (slots - 1.0) - within * noise / slots;
        if between > 0.0 && within > 0.0 {
            (self.within, self.shrinkage) = (within, within / between);
        } else {
            (self.within, self.shrinkage) = (overall, f64::INFINITY);
        }
    }
}

/// Predicts a window from the [`LAGS`] before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Autocovariances of lag 0 to [`LAGS`].
    covariances: [f64; LAGS + 1],
    learned: u32,
    coefficients: [f64; LAGS],
    /// The windows before, the last one first.
    recent: [f64; LAGS],
}

/// A window with those before it, as [`Memory::learn`] takes it.
pub type Run = [f32; LAGS + 1];

impl Memory {
    /// Returns what is left of a standardised score after prediction, and the run to learn from
    /// if the window turns out healthy. Remembers the score for the next windows.
    pub fn whiten(&mut self, score: f64) -> (f64, Run) {
        let expected: f64 = self.coefficients.iter().zip(self.recent).map(|(c, past)| c * past).sum();
        let reached = score.clamp(-REACH, REACH);
        let mut run = [reached as f32; LAGS + 1];
        run[1..].iter_mut().zip(self.recent).for_each(|(to, past)| *to = past as f32);
        self.recent.rotate_right(1);
        self.recent[0] = reached;
        (score - expected, run)
    }

    /// Learns from a healthy window and those before it.
    pub fn learn(&mut self, run: &Run) {
        const LONGEST: f64 = 4096.0;
        self.learned = self.learned.saturating_add(1);
        let weight = (1.0 / f64::from(self.learned)).max(1.0 / LONGEST);
        for (covariance, past) in self.covariances.iter_mut().zip(run) {
            *covariance += weight * (f64::from(run[0]) * f64::from(*past) - *covariance);
        }
        if self.learned.is_multiple_of(16) {
            self.solve();
        }
    }

    /// Solves the Yule–Walker equations; autocovariances of few windows are drawn to 0.
    fn solve(&mut self) {
        let n = f64::from(self.learned);
        let drawn = n / (n + 32.0);
        let mut error = self.covariances[0];
        if error <= 0.0 {
            return;
        }
        let mut solved = [0.0; LAGS];
        for order in 0..LAGS {
            let known: f64 = (0..order).map(|i| solved[i] * self.covariances[order - i] * drawn).sum();
            let reflection = ((self.covariances[order + 1] * drawn - known) / error).clamp(-0.98, 0.98);
            let before = solved;
            solved[order] = reflection;
            for i in 0..order {
                solved[i] = before[i] - reflection * before[order - 1 - i];
            }
            error *= 1.0 - reflection * reflection;
        }
        self.coefficients = solved;
    }

    /// Returns the coefficients of the windows before, the last one first.
    #[must_use]
    pub fn coefficients(&self) -> [f64; LAGS] {
        self.coefficients
    }
}

/// JSON knows no infinity.
mod infinite_as_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;

    fn noise(i: i64) -> f64 {
        // Weyl's sequence, spread over a normal law.
        crate::normal::quantile((i as f64 * 0.618_033_988_749_894_9 + 0.1).fract().clamp(1e-6, 1.0 - 1e-6))
    }

    #[test]
    fn hours_start_on_monday() {
        let hour = |text| HourOfWeek::of(Timestamp::parse(text).unwrap());
        assert_eq!(hour("1970-01-05T00:59:59Z"), HourOfWeek(0));
        assert_eq!(hour("2026-11-22T23:00:00Z"), HourOfWeek(167));
        assert_eq!(HourOfWeek::of(Timestamp::from_millis(-1)), HourOfWeek(3 * 24 - 1));
    }

    #[test]
    fn a_season_is_learned_and_noise_is_not() {
        let (mut flat, mut wave) = (Season::default(), Season::default());
        let daily = |hour: i64| 3.0 * (hour as f64 * std::f64::consts::TAU / 24.0).sin();
        for hour in 0..SLOTS as i64 * 6 {
            let slot = HourOfWeek((hour % SLOTS as i64) as u8);
            flat.learn(slot, 5.0 + noise(hour));
            wave.learn(slot, 5.0 + daily(hour) + noise(hour));
        }
        for hour in 0..SLOTS as i64 {
            let slot = HourOfWeek(hour as u8);
            assert!((flat.mean(slot) - 5.0).abs() < 0.2, "{}", flat.mean(slot));
            assert!((wave.mean(slot) - 5.0 - daily(hour)).abs() < 1.0, "{}", wave.mean(slot));
            assert!((0.5..1.5).contains(&wave.scale(slot)));
        }
    }

    #[test]
    fn memory_recovers_an_autoregression() {
        let (mut memory, mut level) = (Memory::default(), 0.0);
        let mut noise = Noise::new(1);
        for _ in 0..20_000 {
            level = 0.6 * level + 0.8 * noise.normal();
            let (_, run) = memory.whiten(level);
            memory.learn(&run);
        }
        let [first, second, third] = memory.coefficients();
        assert!((first - 0.6).abs() < 0.06 && second.abs() < 0.06 && third.abs() < 0.06, "{:?}", memory.coefficients());
    }

    #[test]
    fn nothing_learned_passes_scores_on() {
        let season = Season::default();
        assert!((season.standardise(HourOfWeek(3), 2.0) - 2.0).abs() < 1e-12);
        assert_eq!(Memory::default().whiten(2.0).0, 2.0);
        let text = serde_json::to_string(&season).unwrap();
        assert_eq!(serde_json::from_str::<Season>(&text).unwrap(), season);
    }
}
