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
const PATIENCE: i64 = 60;

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
        let (quiet, delays) = ours(history, length);
        let mut row = vec![format!("Driftline, {history} healthy windows, A = 10³ windows"), format!("{quiet:.0}")];
        row.extend(delays.iter().map(|delays| cell(delays)));
        report.row(row);
    }
    let question = Question {
        task: "delays",
        run_length: 1_000_000,
        quiet: length.of(6_000_000, 200_000),
        quiet_kswin: length.of(60_000, 5_000),
        changes: &CHANGES,
        repeats: length.of(100, 10),
        before: 5_000,
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
    run_length: usize,
    quiet: usize,
    quiet_kswin: usize,
    changes: &'a [Change],
    repeats: usize,
    before: usize,
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
    let missed = 100.0 * (delays.len() - seen.len()) as f64 / delays.len().max(1) as f64;
    format!("{:.1} ({:.1}; {missed:.0} %)", mean(&seen), quantile(&seen, 0.95))
}

/// Returns the records between false alarms, and the delays by change.
fn ours(history: usize, length: Length) -> (f64, Vec<Vec<Option<f64>>>) {
    let basis = ScoreBasis::number(&reference());
    let healthy = table(0.0, 1.0);
    let changed = CHANGES.map(|change| table(change.mean, change.deviation));
    let mut random = SmallRng::seed_from_u64(5);
    let (mut counts, mut scores) = ([0; SLOTS], Vec::new());
    let hour = |window: i64| HourOfWeek::of(Timestamp::from_millis(window * 3_600_000));
    let (mut quiet, mut alarms) = (0, 0);
    let mut delays = vec![Vec::new(); CHANGES.len()];
    for _ in 0..length.of(40, 4) {
        let mut detector = Detector::new(basis.aspects().count());
        let mut window = 0;
        while detector.history() < history {
            draw(&healthy, &mut counts, RECORDS, &mut random);
            basis.scores_into(&[&counts], &mut scores);
            detector.observe(hour(window), &scores);
            window += 1;
        }
        detector.reset();
        for (delays, law) in delays.iter_mut().zip(&changed) {
            for _ in 0..10 {
                let mut detector = detector.clone();
                let seen = (0..PATIENCE).position(|after| {
                    draw(law, &mut counts, RECORDS, &mut random);
                    basis.scores_into(&[&counts], &mut scores);
                    detector.observe(hour(window + after), &scores) >= LEVEL
                });
                delays.push(seen.map(|at| (at + 1) as f64));
            }
        }
        for after in 0..length.of(5_000, 500) {
            draw(&healthy, &mut counts, RECORDS, &mut random);
            basis.scores_into(&[&counts], &mut scores);
            quiet += 1;
            if detector.observe(hour(window + after), &scores) >= LEVEL {
                alarms += 1;
                detector.reset();
            }
        }
    }
    ((quiet * RECORDS) as f64 / f64::from(alarms.max(1)), delays)
}
