//! The detector: bets against "nothing changed", kept up window after window.
//!
//! Each score of a signal is freed of its [season](Season) and of what its [memory](Memory) predicts,
//! ranked among past [healthy](Healthy) residuals, and eight bets (four strengths, high and low) are
//! paid by its rank. A bet that starts anew at every window and is kept running is the
//! Shiryaev–Roberts statistic R_t = (R_{t−1} + 1)·e_t. It is an e-detector: E[R_τ] ≤ E[τ] at any
//! stopping time τ without a change, so the first time that R ≥ A takes at least A windows on average
//! (Shin, Ramdas, Rinaldo 2022, arXiv 2203.03532). A mean of e-detectors is one, whatever the
//! dependence between them: so means are taken, over bets, over scores, over signals, over lanes, and
//! the one number at the end has the same threshold and the same promise. A mean may be weighted as long as the weights
//! do not depend on what is seen: scores that move more often than others are given more.
//!
//! A window is learned from only once [`QUARANTINE`] more have passed without an alarm.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{BETS, Healthy, HourOfWeek, LAGS, MIN_HISTORY, Memory, Run, Season};

/// The windows that must pass without an alarm before one counts as healthy.
pub const QUARANTINE: usize = 16;

/// The first windows of a reference, whose residuals are taken only once all of it is learned: mean and scale are
/// hardly known before.
const FIRST: usize = MIN_HISTORY / 2;

/// Residuals are compared on a grid of 1/4096 of a standard deviation, so that rounding errors are
/// ties: a constant signal ranks nowhere.
const GRID: f64 = 4096.0;

/// Whether a detector goes on learning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Lane {
    /// Learns from healthy windows for ever: its threshold follows slow, harmless change.
    Adaptive,
    /// Judges by what it had learned when it was anchored: sees slow change.
    Anchored,
}

/// The state of one signal's detector.
///
/// ```
/// use driftline_stats::{Detector, HourOfWeek};
/// use driftline_types::Timestamp;
///
/// let mut detector = Detector::new(1);
/// for window in 0..600 {
///     let hour = HourOfWeek::of(Timestamp::from_millis(window * 3_600_000));
///     let shift = if window < 590 { 0.0 } else { 6.0 };
///     detector.observe(hour, &[(window as f64 * 1.618).sin() + shift]);
/// }
/// assert!(detector.evidence() > 10_000.0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detector {
    lane: Lane,
    streams: Vec<Stream>,
    evidence: f64,
}

/// One score of a signal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Stream {
    season: Season,
    memory: Memory,
    healthy: Healthy,
    quarantine: VecDeque<Held>,
    /// R of each bet.
    running: [f64; BETS],
    /// The standardised score of the last window.
    last: f64,
    /// What its evidence counts for; over all scores 1.
    weight: f64,
}

/// A window that is not yet known to be healthy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Held {
    hour: HourOfWeek,
    score: f64,
    residual: f32,
    run: Run,
}

impl Detector {
    /// Makes a detector of so many scores that has learned nothing.
    #[must_use]
    pub fn new(scores: usize) -> Self {
        Self::weighted(&vec![1.0; scores])
    }

    /// Makes a detector that has learned nothing, with a score for each weight. Only how much larger one weight is than
    /// another counts; all are above 0.
    #[must_use]
    pub fn weighted(weights: &[f64]) -> Self {
        let sum: f64 = weights.iter().sum();
        let streams = weights.iter().map(|weight| Stream { weight: weight / sum, ..Stream::default() });
        Self { lane: Lane::Adaptive, streams: streams.collect(), evidence: 0.0 }
    }

    /// Returns a detector that judges by what this one has learned and learns no more.
    #[must_use]
    pub fn anchored(&self) -> Self {
        let mut anchored = Self { lane: Lane::Anchored, ..self.clone() };
        anchored.reset();
        anchored
    }

    /// Trains a detector that has learned nothing on windows that are healthy by declaration, such as those of a
    /// reference, oldest first. `each` sees it after every window, with its scores [standardised](Self::standardised)
    /// by what was learned of all.
    ///
    /// A window is ranked by what those before it have taught, as later ones will be: by what it has taught itself,
    /// residuals of a season of a few weeks would be a third too small. Only the first 32 have no other choice; theirs
    /// are scaled by √((n + 1)/(n − 1)), how much farther a new value lies from the mean of n others than one of them
    /// does.
    pub fn train(&mut self, windows: &[(HourOfWeek, Vec<f64>)], mut each: impl FnMut(usize, &Self)) {
        for (at, (hour, scores)) in windows.iter().enumerate() {
            self.with(scores, |stream, score| stream.learn(*hour, score, at >= FIRST));
        }
        // After these the first windows follow nothing.
        for stream in &mut self.streams {
            (0..LAGS).for_each(|_| {
                stream.memory.whiten(0.0);
            });
        }
        let n = windows.len().max(2) as f64;
        let farther = ((n + 1.0) / (n - 1.0)).sqrt();
        for (at, (hour, scores)) in windows.iter().enumerate() {
            self.with(scores, |stream, score| {
                let (residual, _) = stream.residual(*hour, score);
                if at < FIRST {
                    stream.healthy.admit(on_grid(residual * farther));
                }
            });
            each(at, self);
        }
        self.reset();
    }

    /// Shows each stream its score; those that are missing or not finite are left out.
    fn with(&mut self, scores: &[f64], mut see: impl FnMut(&mut Stream, f64)) {
        let finite = self.streams.iter_mut().zip(scores).filter(|(_, score)| score.is_finite());
        finite.for_each(|(stream, score)| see(stream, *score));
    }

    /// Takes the scores of the next window, oldest first and in the order of the basis, and returns the
    /// [evidence](Self::evidence). Scores that are missing or not finite leave their part as it was, as
    /// does a window that is left out.
    pub fn observe(&mut self, hour: HourOfWeek, scores: &[f64]) -> f64 {
        let lane = self.lane;
        self.with(scores, |stream, score| stream.observe(hour, score, lane));
        self.evidence = self.streams.iter().map(|stream| stream.weight * stream.evidence()).sum();
        self.evidence
    }

    /// Returns the evidence for a change since the last reset: the weighted mean of all Shiryaev–Roberts
    /// statistics, 0 or more. Without a change it reaches A after at least A windows on average.
    #[must_use]
    pub fn evidence(&self) -> f64 {
        self.evidence
    }

    /// Returns the evidence of each score, in the order of the basis.
    pub fn by_score(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        self.streams.iter().map(Stream::evidence)
    }

    /// Returns the last window's scores less their season, in standard deviations of healthy windows.
    pub fn standardised(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        self.streams.iter().map(|stream| stream.last)
    }

    /// Returns the number of healthy windows kept to compare with, the fewest over the scores.
    /// Below [`MIN_HISTORY`] the detector only learns.
    #[must_use]
    pub fn history(&self) -> usize {
        self.streams.iter().map(|stream| stream.healthy.len()).min().unwrap_or(0)
    }

    /// Learns from the windows in quarantine at once: for windows that are healthy by declaration, such as those of
    /// a reference.
    pub fn trust(&mut self) {
        for stream in &mut self.streams {
            while stream.release() {}
        }
    }

    /// Gives up the windows in quarantine: they are never learned. For every window while something is known to be
    /// wrong.
    pub fn distrust(&mut self) {
        self.streams.iter_mut().for_each(|stream| stream.quarantine.clear());
    }

    /// Starts anew after an alarm: the evidence is 0 and windows in quarantine are never learned.
    pub fn reset(&mut self) {
        self.distrust();
        self.evidence = 0.0;
        self.streams.iter_mut().for_each(|stream| stream.running = [0.0; BETS]);
    }
}

impl Stream {
    /// Returns what is left of a score, and the run to learn from.
    fn residual(&mut self, hour: HourOfWeek, score: f64) -> (f64, Run) {
        self.last = self.season.standardise(hour, score);
        self.memory.whiten(self.last)
    }

    /// Learns from a window at once; its residual only if it is `ranked`.
    fn learn(&mut self, hour: HourOfWeek, score: f64, ranked: bool) {
        let (residual, run) = self.residual(hour, score);
        self.season.learn(hour, score);
        self.memory.learn(&run);
        if ranked {
            self.healthy.admit(on_grid(residual));
        }
    }

    fn observe(&mut self, hour: HourOfWeek, score: f64, lane: Lane) {
        let (residual, run) = self.residual(hour, score);
        let residual = on_grid(residual);
        if self.healthy.len() >= MIN_HISTORY {
            for (running, payment) in self.running.iter_mut().zip(self.healthy.payments(residual)) {
                *running = ((*running + 1.0) * payment).min(1e200);
            }
        }
        if lane == Lane::Anchored {
            return;
        }
        self.quarantine.push_back(Held { hour, score, residual, run });
        if self.quarantine.len() > QUARANTINE {
            self.release();
        }
    }

    /// Learns from the oldest window in quarantine; returns whether there was one.
    fn release(&mut self) -> bool {
        let Some(held) = self.quarantine.pop_front() else { return false };
        self.season.learn(held.hour, held.score);
        self.memory.learn(&held.run);
        self.healthy.admit(held.residual);
        true
    }

    fn evidence(&self) -> f64 {
        self.running.iter().sum::<f64>() / BETS as f64
    }
}

fn on_grid(residual: f64) -> f32 {
    (residual * GRID).round() as f32 / GRID as f32
}

/// Returns which of several detectors to name when their mean has reached `level`, strongest
/// first: the largest k whose k-th strongest has k·R ≥ K·level (e-BH; Wang, Ramdas 2022), and always
/// the strongest. Over an endless stream this bounds no false discovery rate in the classical sense
/// (arXiv 2501.04130): it orders and cuts a list once there is an alarm. Empty only without detectors.
#[must_use]
pub fn listed(evidence: &[f64], level: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..evidence.len()).collect();
    order.sort_by(|&a, &b| evidence[b].total_cmp(&evidence[a]));
    let needed = evidence.len() as f64 * level;
    let passing = order.iter().enumerate().rev().find(|&(at, &which)| (at + 1) as f64 * evidence[which] >= needed);
    let count = passing.map_or(1, |(at, _)| at + 1);
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;

    fn hour(window: usize) -> HourOfWeek {
        HourOfWeek::of(driftline_types::Timestamp::from_millis(window as i64 * 3_600_000))
    }

    #[test]
    fn a_change_is_seen_and_noise_is_not() {
        let (mut detector, mut noise) = (Detector::new(2), Noise::new(3));
        for window in 0..3000 {
            let evidence = detector.observe(hour(window), &[noise.normal(), noise.normal()]);
            assert!(evidence < 10_000.0, "window {window}: {evidence}");
        }
        let mut anchored = detector.anchored();
        assert_eq!(anchored.evidence(), 0.0);
        let delay = (0..50).position(|after| {
            let scores = [noise.normal(), noise.normal() + 3.0];
            anchored.observe(hour(3000 + after), &scores);
            detector.observe(hour(3000 + after), &scores) > 10_000.0
        });
        assert!(delay.unwrap() < 6 && anchored.evidence() > 1000.0, "{delay:?}");
        let by_score: Vec<f64> = detector.by_score().collect();
        assert!(by_score[1] > 100.0 * by_score[0], "{by_score:?}");
    }

    /// No rank is rarer than one among all: how soon the surest change can be told is bounded by the healthy windows.
    #[test]
    fn more_healthy_windows_allow_an_earlier_alarm() {
        let soonest = |healthy: usize| {
            let (mut detector, mut noise) = (Detector::new(1), Noise::new(9));
            for window in 0..healthy {
                detector.observe(hour(window), &[noise.normal()]);
            }
            detector.trust();
            let mut anchored = detector.anchored();
            (1..).find(|after| anchored.observe(hour(healthy + after), &[50.0]) >= 10_000.0)
        };
        assert_eq!([80, 100, 128, 512, 1024].map(soonest), [4, 4, 3, 3, 2].map(Some));
    }

    /// Whatever the size of the scores, a short reference keeps the promise: 50,000 windows of health have 5 alarms at
    /// A = 10⁴ on average, at most. Had the windows from before anything was learned stood in raw units among the
    /// others, they would have more than thirty.
    #[test]
    fn a_short_reference_keeps_the_run_length() {
        for deviation in [0.1, 1.0, 10.0] {
            let (mut noise, mut alarms) = (Noise::new(21), 0);
            for _ in 0..25 {
                let windows: Vec<_> = (0..MIN_HISTORY).map(|at| (hour(at), vec![deviation * noise.normal()])).collect();
                let mut adaptive = Detector::new(1);
                let mut sum = 0.0;
                adaptive.train(&windows, |_, detector| sum += detector.standardised().map(|z| z * z).sum::<f64>());
                assert!((0.9..1.1).contains(&(sum / windows.len() as f64)), "all are of one scale: {sum}");
                assert_eq!(adaptive.history(), MIN_HISTORY);
                let mut lanes = [adaptive.anchored(), adaptive];
                for window in 0..2_000 {
                    let scores = [deviation * noise.normal()];
                    let evidence = lanes.each_mut().map(|lane| lane.observe(hour(MIN_HISTORY + window), &scores));
                    if evidence.iter().sum::<f64>() / 2.0 >= 10_000.0 {
                        alarms += 1;
                        lanes.iter_mut().for_each(Detector::reset);
                    }
                }
            }
            assert!(alarms <= 8, "{alarms} alarms at {deviation}");
        }
    }

    /// A reference of a few weeks knows each hour from a few windows: those that it ranks are as far from what was
    /// expected as new ones.
    #[test]
    fn a_season_of_a_few_weeks_keeps_the_run_length() {
        let mut noise = Noise::new(23);
        let season: Vec<f64> = (0..crate::SLOTS).map(|_| 5.0 * noise.normal()).collect();
        let mut alarms = 0;
        for _ in 0..5 {
            let mut score = |window: usize| vec![0.1 * (season[window % crate::SLOTS] + noise.normal())];
            let weeks = 4 * crate::SLOTS;
            let windows: Vec<_> = (0..weeks).map(|at| (hour(at), score(at))).collect();
            let mut detector = Detector::new(1);
            detector.train(&windows, |_, _| {});
            let mut anchored = detector.anchored();
            for window in weeks..weeks + 4_000 {
                if anchored.observe(hour(window), &score(window)) >= 10_000.0 {
                    alarms += 1;
                    anchored.reset();
                }
            }
        }
        assert!(alarms <= 4, "{alarms} alarms");
    }

    #[test]
    fn evidence_is_a_weighted_mean() {
        let mut detectors = [Detector::weighted(&[3.0, 1.0]), Detector::new(2)];
        let mut noise = Noise::new(11);
        for window in 0..200 {
            let scores = [noise.normal() + f64::from(u8::from(window >= 190)), noise.normal()];
            let [uneven, even] = detectors.each_mut().map(|detector| detector.observe(hour(window), &scores));
            let parts: Vec<f64> = detectors[1].by_score().collect();
            assert!((uneven - (0.75 * parts[0] + 0.25 * parts[1])).abs() <= 1e-9 * uneven);
            assert!((even - (parts[0] + parts[1]) / 2.0).abs() <= 1e-9 * even);
        }
    }

    #[test]
    fn an_anchored_detector_learns_nothing() {
        let (mut detector, mut noise) = (Detector::new(1), Noise::new(5));
        for window in 0..500 {
            detector.observe(hour(window), &[noise.normal()]);
        }
        let mut anchored = detector.anchored();
        for window in 0..500 {
            anchored.observe(hour(window), &[9.0 + noise.normal()]);
        }
        assert_eq!(anchored.streams[0].healthy, detector.streams[0].healthy);
        assert_eq!(anchored.streams[0].season, detector.streams[0].season);
        assert!(anchored.evidence().is_finite());
    }

    #[test]
    fn what_is_distrusted_is_never_learned() {
        let (mut detector, mut noise) = (Detector::new(1), Noise::new(13));
        for window in 0..100 {
            detector.observe(hour(window), &[noise.normal()]);
        }
        detector.distrust();
        let learned = detector.streams[0].healthy.clone();
        for window in 100..200 {
            detector.observe(hour(window), &[6.0 + noise.normal()]);
            detector.distrust();
        }
        assert_eq!(detector.streams[0].healthy, learned);
        assert!(detector.evidence() > 10_000.0);
    }

    #[test]
    fn state_survives_a_restart() {
        let (mut detector, mut noise) = (Detector::new(2), Noise::new(7));
        for window in 0..300 {
            detector.observe(hour(window), &[noise.normal(), f64::NAN]);
        }
        let text = serde_json::to_string(&detector).unwrap();
        let mut again: Detector = serde_json::from_str(&text).unwrap();
        assert_eq!(again, detector);
        assert_eq!(again.observe(hour(300), &[2.0, 1.0]), detector.observe(hour(300), &[2.0, 1.0]));
    }

    #[test]
    fn the_strongest_are_listed() {
        assert_eq!(listed(&[0.1, 50_000.0, 3.0, 30_000.0], 10_000.0), [1, 3]);
        assert_eq!(listed(&[1.0, 2.0], 10_000.0), [1]);
        assert!(listed(&[], 1.0).is_empty());
    }
}
