//! When a change began, and how fast it came.
//!
//! **Onset.** The cumulative sum of (z − mean before) is lowest just before z rises for good: the start of the
//! maximising CUSUM path (Page 1954; Siegmund 1985).
//!
//! **Whether it goes on moving** at a moment: Welch's t of the windows on its two sides.
//!
//! **Speed.** Four curves are fitted to z by least squares: a constant, a step, a ramp that rises from one window to
//! another and stays, and a daily wave with its first overtone. The one of least BIC = n·ln(RSS/n) + k·ln n
//! (Schwarz 1978) is believed if it beats the constant by more than 6. Sums over prefixes give each step and ramp in constant time, so all of them are tried.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much better a curve must be: "strong" on the scale of Kass and Raftery (1995).
const BETTER: f64 = 6.0;
/// The windows at the end of a series that are looked at.
const LONGEST: usize = 512;
/// The fewest windows of which anything is said.
const SHORTEST: usize = 8;
/// The fewest windows that a ramp is wide: below it is a step.
const NARROWEST: usize = 4;

/// How a change came.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speed {
    /// From one window to the next.
    Sudden {
        /// The first window after the change. Written down it would be a place in a series that nobody has.
        #[serde(skip)]
        onset: usize,
        /// By how much, in the units of the series.
        size: f64,
    },
    /// Over several windows.
    Gradual {
        /// The first window of the ramp; not written down either.
        #[serde(skip)]
        onset: usize,
        /// The windows from there to its end, or to the end of the series if it has not ended.
        width: usize,
        /// The rise a window, in the units of the series.
        velocity: f64,
    },
    /// A wave that comes again every period; nothing else changed.
    Seasonal {
        /// The windows of a period.
        period: usize,
        /// From middle to top, in the units of the series.
        amplitude: f64,
    },
    /// Nothing that is told from noise.
    Unclear,
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sudden { .. } => f.write_str("sudden"),
            Self::Gradual { width, .. } => write!(f, "gradual, over {width} windows"),
            Self::Seasonal { period, .. } => write!(f, "seasonal, every {period} windows"),
            Self::Unclear => f.write_str("unclear"),
        }
    }
}

/// Returns the first window of the maximising CUSUM path towards larger values, or smaller if the
/// series ends lower: the series' values are compared with the mean of its first `healthy` windows plus half
/// the largest rise of the mean that it ends with. `None` of a series that is too short or not finite.
#[must_use]
pub fn onset(series: &[f64], healthy: usize) -> Option<usize> {
    let healthy = healthy.clamp(1, series.len().max(1));
    if series.len() <= healthy || series.iter().any(|z| !z.is_finite()) {
        return None;
    }
    let before = series[..healthy].iter().sum::<f64>() / healthy as f64;
    let tail = &series[series.len() - (series.len() - healthy).min(3)..];
    let after = tail.iter().sum::<f64>() / tail.len() as f64;
    let middle = 0.5 * (before + after);
    let sign = (after - before).signum();
    let (mut sum, mut lowest, mut start) = (0.0, 0.0, 0);
    for (at, z) in series.iter().enumerate() {
        sum += sign * (z - middle);
        if sum <= lowest {
            (lowest, start) = (sum, at + 1);
        }
    }
    (start < series.len()).then_some(start)
}

/// Returns by how many standard errors the mean of `after` lies above that of `before`: Welch's t (1947), with variances that are
/// at least `least`. `None` where a side has fewer than two values.
#[must_use]
pub fn welch(before: &[f64], after: &[f64], least: f64) -> Option<f64> {
    if before.len() < 2 || after.len() < 2 {
        return None;
    }
    let moments = |part: &[f64]| {
        let n = part.len() as f64;
        let mean = part.iter().sum::<f64>() / n;
        let variance = part.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (mean, variance.max(least) / n)
    };
    let ((left, left_error), (right, right_error)) = (moments(before), moments(after));
    Some((right - left) / (left_error + right_error).sqrt())
}

/// Says how the last change of a series came. `day` is the windows of a day, 0 if windows are longer
/// than half a day. Windows are counted from the start of the series; of a long one the last 512 are looked at.
#[must_use]
pub fn speed(series: &[f64], day: usize) -> Speed {
    let skipped = series.len().saturating_sub(LONGEST);
    let z = &series[skipped..];
    if z.len() < SHORTEST || z.iter().any(|value| !value.is_finite()) {
        return Speed::Unclear;
    }
    let sums = Sums::new(z);
    let n = z.len() as f64;
    let bic = |rss: f64, parameters: f64| n * (rss / n).max(1e-12).ln() + parameters * n.ln();
    let constant = bic(sums.squares_around_mean(), 1.0);
    let (step_at, step_rss, size) = sums.step();
    let (ramp_at, ramp_end, ramp_rss, rise) = sums.ramp();
    let wave = wave(z, day);
    let step = bic(step_rss, 3.0);
    let ramp = bic(ramp_rss, 4.0);
    let season = wave.map_or(f64::INFINITY, |(rss, _)| bic(rss, 5.0));
    let best = step.min(ramp).min(season);
    if best > constant - BETTER {
        return Speed::Unclear;
    }
    if let Some((_, amplitude)) = wave
        && season <= step.min(ramp)
    {
        return Speed::Seasonal { period: day, amplitude };
    }
    if ramp < step && ramp_end - ramp_at >= NARROWEST {
        let width = ramp_end - ramp_at;
        return Speed::Gradual { onset: skipped + ramp_at, width, velocity: rise / width as f64 };
    }
    Speed::Sudden { onset: skipped + step_at, size }
}

/// Sums over prefixes of a series: of 1, z, t·z and z².
struct Sums {
    z: Vec<f64>,
    tz: Vec<f64>,
    squares: f64,
}

impl Sums {
    fn new(series: &[f64]) -> Self {
        let mut sums = Self { z: vec![0.0], tz: vec![0.0], squares: 0.0 };
        let (mut z, mut tz) = (0.0, 0.0);
        for (t, value) in series.iter().enumerate() {
            z += value;
            tz += t as f64 * value;
            sums.squares += value * value;
            sums.z.push(z);
            sums.tz.push(tz);
        }
        sums
    }

    fn len(&self) -> usize {
        self.z.len() - 1
    }

    fn squares_around_mean(&self) -> f64 {
        let total = self.z[self.len()];
        (self.squares - total * total / self.len() as f64).max(0.0)
    }

    /// Returns the first window after the best step, what is left, and the size.
    fn step(&self) -> (usize, f64, f64) {
        let n = self.len();
        let total = self.z[n];
        let mut best = (n, self.squares_around_mean(), 0.0);
        for at in 1..n {
            let (before, after) = (self.z[at] / at as f64, (total - self.z[at]) / (n - at) as f64);
            let rss = self.squares - before * self.z[at] - after * (total - self.z[at]);
            if rss < best.1 {
                best = (at, rss.max(0.0), after - before);
            }
        }
        best
    }

    /// Returns start, end, what is left, and rise of the best ramp: (t − s)/(e − s) between them, 0
    /// before and 1 after.
    fn ramp(&self) -> (usize, usize, f64, f64) {
        let n = self.len();
        let mut best = (n, n, self.squares_around_mean(), 0.0);
        let mean = self.z[n] / n as f64;
        let triangle = |k: f64| k * (k + 1.0) / 2.0;
        let pyramid = |k: f64| k * (k + 1.0) * (2.0 * k + 1.0) / 6.0;
        for start in 1..n - 1 {
            for end in start + 2..=n {
                // Over t in start..end the curve is (t − start + 1)/w, so that the first window has begun to move.
                let w = (end - start) as f64;
                let after = (n - end) as f64;
                let sum = triangle(w) / w + after;
                let square = pyramid(w) / (w * w) + after;
                let spread = square - sum * sum / n as f64;
                let along = (self.tz[end] - self.tz[start] - (start as f64 - 1.0) * (self.z[end] - self.z[start])) / w
                    + (self.z[n] - self.z[end]);
                let covariance = along - sum * mean;
                if spread <= 1e-12 {
                    continue;
                }
                let rss = (self.squares_around_mean() - covariance * covariance / spread).max(0.0);
                if rss < best.2 {
                    best = (start, end, rss, covariance / spread);
                }
            }
        }
        best
    }
}

/// Fits a wave of this period with its first overtone; returns what is left and the amplitude. `None` without
/// two whole periods.
fn wave(z: &[f64], day: usize) -> Option<(f64, f64)> {
    if day < 4 || z.len() < 2 * day {
        return None;
    }
    let mean = z.iter().sum::<f64>() / z.len() as f64;
    let mut rest: Vec<f64> = z.iter().map(|value| value - mean).collect();
    let mut power = 0.0;
    // Over whole periods the four functions are orthogonal; over a part, a second pass settles them.
    for _ in 0..2 {
        for (harmonic, shift) in [(1.0, 0.0), (1.0, 0.25), (2.0, 0.0), (2.0, 0.25)] {
            let curve = |t: usize| ((t as f64 * harmonic / day as f64 + shift) * std::f64::consts::TAU).sin();
            let (along, square) = rest
                .iter()
                .enumerate()
                .fold((0.0, 0.0), |sum, (t, r)| (sum.0 + r * curve(t), sum.1 + curve(t).powi(2)));
            if square > 1e-9 {
                let size = along / square;
                power += size * size;
                rest.iter_mut().enumerate().for_each(|(t, r)| *r -= size * curve(t));
            }
        }
    }
    Some((rest.iter().map(|r| r * r).sum(), power.sqrt()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::noise::Noise;

    fn with(seed: u64, curve: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut noise = Noise::new(seed);
        (0..168).map(|t| noise.normal() + curve(f64::from(t))).collect()
    }

    #[test]
    fn a_step_is_sudden() {
        let series = with(1, |t| if t < 120.0 { 0.0 } else { 4.0 });
        let Speed::Sudden { onset: at, size } = speed(&series, 24) else { panic!("{:?}", speed(&series, 24)) };
        assert!(at.abs_diff(120) <= 1 && (size - 4.0).abs() < 1.0);
        assert!(onset(&series, 100).unwrap().abs_diff(120) <= 1);
    }

    #[test]
    fn a_ramp_is_gradual() {
        let series = with(2, |t| ((t - 80.0) / 40.0).clamp(0.0, 1.0) * 6.0);
        let Speed::Gradual { onset, width, velocity } = speed(&series, 24) else { panic!("{:?}", speed(&series, 24)) };
        assert!(onset.abs_diff(80) <= 8 && width.abs_diff(40) <= 10 && (velocity - 0.15).abs() < 0.05);
    }

    #[test]
    fn a_wave_is_seasonal_and_noise_unclear() {
        let series = with(3, |t| 2.0 * (t * std::f64::consts::TAU / 24.0).sin());
        let Speed::Seasonal { period, amplitude } = speed(&series, 24) else { panic!("{:?}", speed(&series, 24)) };
        assert!(period == 24 && (amplitude - 2.0).abs() < 0.5);
        assert_eq!(speed(&with(4, |_| 0.0), 24), Speed::Unclear);
    }

    #[test]
    fn series_that_say_nothing_are_unclear() {
        for series in [vec![], vec![1.0; 5], vec![f64::NAN; 100], vec![3.0; 100]] {
            assert_eq!(speed(&series, 24), Speed::Unclear, "{series:?}");
        }
        assert_eq!(onset(&[], 10), None);
        assert_eq!(onset(&[1.0, 2.0], 5), None);
    }

    proptest! {
        /// The sums over prefixes against plain loops.
        #[test]
        fn ramps_are_least_squares(series in proptest::collection::vec(-5.0..5.0f64, 8..20)) {
            let sums = Sums::new(&series);
            let (start, end, rss, _) = sums.ramp();
            let n = series.len();
            let mean = series.iter().sum::<f64>() / n as f64;
            let mut least = f64::INFINITY;
            for s in 1..n - 1 {
                for e in s + 2..=n {
                    let curve: Vec<f64> = (0..n).map(|t| if t < s { 0.0 } else if t >= e { 1.0 } else { (t - s + 1) as f64 / (e - s) as f64 }).collect();
                    let middle = curve.iter().sum::<f64>() / n as f64;
                    let spread: f64 = curve.iter().map(|c| (c - middle).powi(2)).sum();
                    if spread < 1e-12 { continue; }
                    let slope = curve.iter().zip(&series).map(|(c, z)| (c - middle) * (z - mean)).sum::<f64>() / spread;
                    least = least.min(curve.iter().zip(&series).map(|(c, z)| (z - mean - slope * (c - middle)).powi(2)).sum());
                }
            }
            prop_assert!((rss - least).abs() < 1e-6, "{rss} at {start}..{end}, expected {least}");
        }
    }

    #[test]
    fn welch_is_scipys() {
        // scipy.stats.ttest_ind([11, 6, 13], [3, 7, 2, 9, 4], equal_var=False), SciPy 1.15.3
        let t = welch(&[3.0, 7.0, 2.0, 9.0, 4.0], &[11.0, 6.0, 13.0], 0.0).expect("two values a side");
        assert!((t - 2.035_594_853_805_584_6).abs() < 1e-12, "{t}");
        assert_eq!(welch(&[1.0, 1.0], &[3.0, 3.0], 1.0), Some(2.0));
        assert_eq!(welch(&[1.0], &[3.0, 3.0], 1.0), None);
    }
}
