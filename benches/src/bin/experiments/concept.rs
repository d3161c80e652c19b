//! E7, concept drift: how soon labels show that scores no longer mean what they did, beside detectors that know
//! more than can be known.

use driftline_stats::{Calibrated, Detector, Healthy, HourOfWeek};
use driftline_types::Timestamp;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{
    Length,
    label_free::{BINS, cell},
    report::{Table, mean, quantile},
};

/// Labelled records a window.
const RECORDS: usize = 2_000;
/// Windows that are known to be healthy.
const HEALTHY: usize = 256;
/// Windows between false alarms, A.
const LEVEL: f64 = 1_000.0;
/// Windows after which a change counts as missed.
const PATIENCE: usize = 60;
/// Changes a set of healthy windows.
const CHANGES: usize = 5;
/// The strength of the bet on ranks that an oracle makes, of those that there are the nearest to the change.
const KNOWN_BET: usize = 3;

/// The part of the labels above score .5 that is flipped.
const FLIPPED: f64 = 0.1;

/// The gap of all records, of those predicted 0 and of those predicted 1.
type Gaps = [f64; 3];

/// One reference, and the windows that follow it.
struct Trial {
    healthy: Vec<Gaps>,
    quiet: Vec<Gaps>,
    changed: Vec<Vec<Gaps>>,
}

/// What watches the gaps.
#[derive(Clone, Copy)]
enum Watcher {
    /// The detector over the first so many gaps.
    Detector(usize),
    /// Ranks of the gap of all records among the healthy ones, and the bet that is the best for this change.
    Ranks,
    /// Shiryaev–Roberts with the gap's law before and after.
    Law,
}

impl Watcher {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Detector(1), "Driftline, gap of all records"),
        (Self::Detector(3), "Driftline, gaps of all, of predicted 0 and of predicted 1"),
        (Self::Ranks, "knows sign and size, ranks of the gap of all records among 256"),
        (Self::Law, "knows sign, size and law of the gap of all records"),
    ];
}

/// Adds the rows of concept drift.
pub fn run(length: Length) -> Table {
    let mut report = Table::new(
        format!(
            "E7: gap between realised and estimated accuracy, a tenth of the labels above score .5 flipped, {RECORDS} labelled records a window, {HEALTHY} healthy windows"
        ),
        &["detector", "threshold", "windows between false alarms", "windows past maturity, mean (p95; missed)"],
    );
    let mut random = SmallRng::seed_from_u64(7);
    let trials: Vec<Trial> = (0..length.of(200, 10)).map(|_| Trial::draw(&mut random, length.of(2_000, 200))).collect();
    let size = mean(&trials.iter().map(Trial::size).collect::<Vec<_>>());
    for (watcher, name) in Watcher::ALL {
        let run_length = |level: f64| {
            let alarms: u32 = trials.iter().map(|trial| trial.alarms(watcher, level)).sum();
            trials.iter().map(|trial| trial.quiet.len()).sum::<usize>() as f64 / f64::from(alarms.max(1))
        };
        let mut row = |level: f64| {
            let delays: Vec<Option<f64>> = trials.iter().flat_map(|trial| trial.delays(watcher, level)).collect();
            let seen: Vec<f64> = delays.iter().copied().flatten().collect();
            let missed = delays.len() - seen.len();
            report.row([
                name.to_owned(),
                format!("{level:.0}"),
                format!("{:.0}", run_length(level)),
                format!("{:.2} ({:.0}; {missed} of {})", mean(&seen), quantile(&seen, 0.95), delays.len()),
            ]);
        };
        row(LEVEL);
        let levels = (1..40).map(|step| LEVEL * 2f64.powf(-0.25 * f64::from(step)));
        let matched = levels.take_while(|&level| run_length(level) >= LEVEL).last();
        if let Some(level) = matched {
            row(level);
        }
    }
    report.row(["does nothing", "", "∞", "never"]);
    report.row(["always fires", "", "1", "1.00 (1; 0)"]);
    report.note(format!(
        "The change moves the gap of all records by {size:.2} of its deviations a window. Thresholds of 1,000 promise 1,000 windows; the lower ones are those at which so many were measured. The detectors judge by the first {HEALTHY} windows and learn no more."
    ));
    report
}

impl Trial {
    fn draw(random: &mut SmallRng, quiet: usize) -> Self {
        let calibrated = Calibrated::new(window(0.0, 200_000, random));
        let mut gaps = |flipped: f64| {
            let gaps = calibrated.gaps(&window(flipped, RECORDS, random), &[0..BINS, BINS..2 * BINS]);
            std::array::from_fn(|at| gaps.get(at).copied().unwrap_or(f64::NAN))
        };
        Self {
            healthy: (0..HEALTHY).map(|_| gaps(0.0)).collect(),
            quiet: (0..quiet).map(|_| gaps(0.0)).collect(),
            changed: (0..CHANGES).map(|_| (0..PATIENCE).map(|_| gaps(FLIPPED)).collect()).collect(),
        }
    }

    /// Mean and deviation of the gap of all records without a change.
    fn law(&self) -> (f64, f64) {
        let gaps: Vec<f64> = self.healthy.iter().chain(&self.quiet).map(|gaps| gaps[0]).collect();
        let middle = mean(&gaps);
        (middle, mean(&gaps.iter().map(|gap| (gap - middle).powi(2)).collect::<Vec<_>>()).sqrt())
    }

    /// By how many deviations the change lowers the gap of all records.
    fn size(&self) -> f64 {
        let (middle, deviation) = self.law();
        (middle - mean(&self.changed.iter().flatten().map(|gaps| gaps[0]).collect::<Vec<_>>())) / deviation
    }

    fn alarms(&self, watcher: Watcher, level: f64) -> u32 {
        let mut state = State::new(watcher, self);
        let mut alarms = 0;
        for gaps in &self.quiet {
            if state.observe(gaps) >= level {
                alarms += 1;
                state.reset();
            }
        }
        alarms
    }

    fn delays(&self, watcher: Watcher, level: f64) -> impl Iterator<Item = Option<f64>> {
        let fresh = State::new(watcher, self);
        self.changed.iter().map(move |windows| {
            let mut state = fresh.clone();
            windows.iter().position(|gaps| state.observe(gaps) >= level).map(|at| (at + 1) as f64)
        })
    }
}

/// A watcher with what it knows.
#[derive(Clone)]
enum State {
    Detector { detector: Detector, scores: usize, window: i64 },
    Ranks { healthy: Healthy, running: f64 },
    Law { middle: f64, deviation: f64, size: f64, running: f64 },
}

impl State {
    fn new(watcher: Watcher, trial: &Trial) -> Self {
        match watcher {
            Watcher::Detector(scores) => {
                let mut detector = Detector::new(scores);
                for (at, gaps) in (0..).zip(&trial.healthy) {
                    detector.observe(hour(at), &gaps[..scores]);
                }
                detector.trust();
                Self::Detector { detector: detector.anchored(), scores, window: HEALTHY as i64 }
            }
            Watcher::Ranks => {
                let mut healthy = Healthy::default();
                trial.healthy.iter().for_each(|gaps| healthy.admit(-gaps[0] as f32));
                Self::Ranks { healthy, running: 0.0 }
            }
            Watcher::Law => {
                let (middle, deviation) = trial.law();
                Self::Law { middle, deviation, size: trial.size(), running: 0.0 }
            }
        }
    }

    fn observe(&mut self, gaps: &Gaps) -> f64 {
        match self {
            Self::Detector { detector, scores, window } => {
                *window += 1;
                detector.observe(hour(*window), &gaps[..*scores])
            }
            Self::Ranks { healthy, running } => {
                *running = (*running + 1.0) * healthy.payments(-gaps[0] as f32)[KNOWN_BET];
                *running
            }
            Self::Law { middle, deviation, size, running } => {
                let z = (*middle - gaps[0]) / *deviation;
                *running = (*running + 1.0) * (*size * z - 0.5 * *size * *size).exp();
                *running
            }
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Detector { detector, .. } => detector.reset(),
            Self::Ranks { running, .. } | Self::Law { running, .. } => *running = 0.0,
        }
    }
}

fn hour(window: i64) -> HourOfWeek {
    HourOfWeek::of(Timestamp::from_millis(window * 3_600_000))
}

/// Draws a window of a calibrated model: a record of score s is positive with chance s, but for `flipped` of the labels
/// of those above .5. Returns (right, all) by cell.
fn window(flipped: f64, records: usize, random: &mut SmallRng) -> Vec<(u64, u64)> {
    let bounds: Vec<f64> = (1..BINS).map(|k| k as f64 / BINS as f64).collect();
    let mut cells = vec![(0, 0); 2 * BINS];
    for _ in 0..records {
        let score: f64 = random.random();
        let prediction = u8::from(score >= 0.5);
        let flip = score >= 0.5 && random.random::<f64>() < flipped;
        let label = u8::from((random.random::<f64>() < score) != flip);
        let cell = &mut cells[cell(&bounds, score, prediction)];
        *cell = (cell.0 + u64::from(prediction == label), cell.1 + 1);
    }
    cells
}
