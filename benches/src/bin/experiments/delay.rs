//! E5: how long a change goes unseen, at the same run length without one.

use driftline_stats::{Detector, HISTORY, HourOfWeek, ScoreBasis};
use driftline_types::Timestamp;
use rand::{SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use crate::{
    Length, peers,
    report::{Table, mean, quantile},
    simulate::{SLOTS, draw, reference, table},
};

const RECORDS: usize = 1_000;
/// A million records between false alarms.
const LEVEL: f64 = 1_000.0;
/// Windows after which a change counts as missed.
const PATIENCE: usize = 60;
/// The records between false alarms at which detectors are compared.
const MATCHED: f64 = 1e6;
/// Sets of healthy windows, and changes of each a set.
const SETS: u64 = 100;
const REPEATS: usize = 4;

/// A change of a standard normal law.
#[derive(Clone, Copy, Serialize)]
struct Change {
    name: &'static str,
    mean: f64,
    deviation: f64,
}

const CHANGES: [Change; 4] = [
    Change { name: "mean + .1 σ", mean: 0.1, deviation: 1.0 },
    Change { name: "mean + .25 σ", mean: 0.25, deviation: 1.0 },
    Change { name: "mean + .5 σ", mean: 0.5, deviation: 1.0 },
    Change { name: "scale × 1.2", mean: 0.0, deviation: 1.2 },
];

pub fn run(length: Length) -> anyhow::Result<Table> {
    let mut columns = vec!["detector", "records between false alarms"];
    columns.extend(CHANGES.map(|change| change.name));
    let mut report = Table::new("E5: delay in windows of 1,000 records: mean (p95; missed)", &columns);
    for history in [128, HISTORY] {
        let watched: Vec<Watched> = (0..length.of(SETS, 4)).map(|set| Watched::learn(history, set)).collect();
        let quiet = |level: f64| run_length(&watched, level, length.of(5_000, 500));
        let mut row = |level: f64, records: f64| {
            let name = format!("Driftline, {history} healthy windows, threshold {level:.0}");
            let cells = CHANGES.map(|change| cell(&delays(&watched, change, level)));
            report.row([vec![name, format!("{records:.0}")], cells.to_vec()].concat());
        };
        let promised = quiet(LEVEL);
        row(LEVEL, promised);
        // The lowest threshold at which the promise was kept.
        let levels = (1..40).map(|step| LEVEL * 2f64.powf(-0.25 * f64::from(step)));
        let kept = levels.map(|level| (level, quiet(level))).take_while(|(_, records)| *records >= MATCHED).last();
        if let Some((level, records)) = kept {
            row(level, records);
        }
    }
    let question = Question {
        task: "delays",
        run_length: MATCHED,
        quiet: length.of(6_000_000, 200_000),
        changes: &CHANGES,
        repeats: length.of(100, 10),
        before: [5_000, 128_000],
        limit: 60_000,
    };
    for (environment, script) in [("river", "drift_river.py"), ("alibi", "drift_alibi.py")] {
        let Some(answers) = peers::ask::<Vec<Answer>>(environment, script, &question)? else {
            report.row([environment, "not installed"]);
            continue;
        };
        for answer in answers {
            let mut row = vec![format!("{}, {}", answer.detector, answer.setting), format!("{:.0}", answer.run_length)];
            for change in CHANGES {
                let delays = answer.delays.get(change.name).map(Vec::as_slice).unwrap_or_default();
                row.push(cell(
                    &delays.iter().map(|delay| delay.map(|records| records / RECORDS as f64)).collect::<Vec<_>>(),
                ));
            }
            report.row(row);
        }
    }
    let missed = |name: &str, quiet: &str, cell: &str| {
        let cells = CHANGES.map(|_| cell.to_owned());
        [vec![name.to_owned(), quiet.to_owned()], cells.to_vec()].concat()
    };
    report.row(missed("does nothing", "∞", "never"));
    report.row(missed("always fires", "1", "1.0 (1.0; 0 %)"));
    report.note("Driftline decides at the end of a window, so its delay is at least 1; the peers decide at every record. A quotient without an alarm is the length that was tried.");
    Ok(report)
}

#[derive(Serialize)]
struct Question<'a> {
    task: &'static str,
    run_length: f64,
    /// Records without a change.
    quiet: usize,
    changes: &'a [Change],
    repeats: usize,
    /// Records before a change: few, and as many as 128 windows have.
    before: [usize; 2],
    /// Records after which a change counts as missed.
    limit: usize,
}

#[derive(Deserialize)]
struct Answer {
    detector: String,
    setting: String,
    run_length: f64,
    delays: std::collections::BTreeMap<String, Vec<Option<f64>>>,
}

fn cell(delays: &[Option<f64>]) -> String {
    let seen: Vec<f64> = delays.iter().copied().flatten().collect();
    if seen.is_empty() {
        return "never".to_owned();
    }
    let missed = 100.0 * (delays.len() - seen.len()) as f64 / delays.len().max(1) as f64;
    format!("{:.1} ({:.1}; {missed:.0} %)", mean(&seen), quantile(&seen, 0.95))
}

/// A detector that has learned so many healthy windows and learns no more.
struct Watched {
    basis: ScoreBasis,
    detector: Detector,
    windows: i64,
    seed: u64,
}

impl Watched {
    fn learn(history: usize, seed: u64) -> Self {
        let basis = ScoreBasis::number(&reference());
        let mut detector = Detector::weighted(&basis.weights());
        let (healthy, mut random) = (table(0.0, 1.0), SmallRng::seed_from_u64(seed));
        let (mut counts, mut scores) = ([0; SLOTS], Vec::new());
        for window in 0..history as i64 {
            draw(&healthy, &mut counts, RECORDS, &mut random);
            basis.scores_into(&[&counts], &mut scores);
            detector.observe(hour(window), &scores);
        }
        detector.trust();
        Self { basis, detector: detector.anchored(), windows: history as i64, seed }
    }

    /// Feeds windows of a law until one has evidence of `level`; returns how many that took, `None` if so many did not do.
    fn until(&self, law: &[u8; 1024], level: f64, most: usize, random: &mut SmallRng) -> Option<usize> {
        let mut detector = self.detector.clone();
        let (mut counts, mut scores) = ([0; SLOTS], Vec::new());
        (1..=most).find(|&after| {
            draw(law, &mut counts, RECORDS, random);
            self.basis.scores_into(&[&counts], &mut scores);
            detector.observe(hour(self.windows + after as i64), &scores) >= level
        })
    }
}

fn hour(window: i64) -> HourOfWeek {
    HourOfWeek::of(Timestamp::from_millis(window * 3_600_000))
}

/// Returns the records between false alarms, over `windows` windows of each detector.
fn run_length(watched: &[Watched], level: f64, windows: usize) -> f64 {
    let healthy = table(0.0, 1.0);
    let alarms = |one: &Watched| {
        let mut random = SmallRng::seed_from_u64(10_000 + one.seed);
        let (mut left, mut alarms) = (windows, 0u32);
        while let Some(seen) = one.until(&healthy, level, left, &mut random) {
            (left, alarms) = (left - seen, alarms + 1);
        }
        alarms
    };
    let alarms: u32 = watched.iter().map(alarms).sum();
    (watched.len() * windows * RECORDS) as f64 / f64::from(alarms.max(1))
}

/// Returns the windows until a change is seen, [`REPEATS`] times a detector.
fn delays(watched: &[Watched], change: Change, level: f64) -> Vec<Option<f64>> {
    let law = table(change.mean, change.deviation);
    let of = |one: &Watched| {
        let mut random = SmallRng::seed_from_u64(20_000 + one.seed);
        [(); REPEATS].map(|()| one.until(&law, level, PATIENCE, &mut random).map(|seen| seen as f64))
    };
    watched.iter().flat_map(of).collect()
}
