//! E7: accuracy without labels, beside NannyML on its own data.

use driftline_stats::{Calibrated, Detector, HourOfWeek, accuracy_gap};
use driftline_types::Timestamp;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde::Deserialize;

use crate::{
    Length, peers,
    report::{Table, mean, quantile},
};

/// Bins of the score, for each of two predictions.
const BINS: usize = 64;
/// A gap alarm in a thousand windows.
const LEVEL: f64 = 1_000.0;

#[derive(Deserialize)]
struct Set {
    name: String,
    reference: Labelled,
    chunks: Vec<Chunk>,
}

#[derive(Deserialize)]
struct Labelled {
    scores: Vec<f64>,
    predictions: Vec<u8>,
    labels: Vec<u8>,
}

#[derive(Deserialize)]
struct Chunk {
    estimate: f64,
    #[serde(flatten)]
    records: Labelled,
}

pub fn run(length: Length) -> anyhow::Result<Table> {
    let mut report = Table::new(
        "E7: accuracy without labels, mean absolute error over chunks of 5,000 records",
        &["data", "chunks", "Driftline", "NannyML CBPE", "ratio", "does nothing (accuracy of the reference)"],
    );
    match peers::ask::<Vec<Set>>("nannyml", "label_free_nannyml.py", &())? {
        None => report.row(["NannyML's bundled sets", "not installed"]),
        Some(sets) => sets.iter().for_each(|set| compare(&mut report, set)),
    }
    let (delays, quiet) = concept_drift(length)?;
    let missed = delays.iter().filter(|delay| delay.is_none()).count();
    let seen: Vec<f64> = delays.iter().copied().flatten().collect();
    report.note(format!(
        "Gap between realised and estimated accuracy, a tenth of the labels above score .5 flipped, windows of 2,000 labelled records, 256 healthy ones, A = 10³: {:.1} windows past maturity (p95 {:.1}, {missed} of {} missed); {quiet} alarms in as many runs of 200 windows without it.",
        mean(&seen), quantile(&seen, 0.95), delays.len(),
    ));
    Ok(report)
}

/// Finds the cell of a record: bins of equal mass over the reference's scores, for each prediction.
fn cell(bounds: &[f64], score: f64, prediction: u8) -> usize {
    bounds.partition_point(|bound| *bound <= score) + if prediction > 0 { BINS } else { 0 }
}

fn compare(report: &mut Table, set: &Set) {
    let bounds: Vec<f64> = (1..BINS).map(|k| quantile(&set.reference.scores, k as f64 / BINS as f64)).collect();
    let cells = |records: &Labelled| -> Vec<(u64, u64)> {
        let mut cells = vec![(0, 0); 2 * BINS];
        for ((&score, &prediction), &label) in records.scores.iter().zip(&records.predictions).zip(&records.labels) {
            let cell = &mut cells[cell(&bounds, score, prediction)];
            *cell = (cell.0 + u64::from(prediction == label), cell.1 + 1);
        }
        cells
    };
    let accuracy = |cells: &[(u64, u64)]| {
        let (right, all) = cells.iter().fold((0, 0), |sum, cell| (sum.0 + cell.0, sum.1 + cell.1));
        right as f64 / all as f64
    };
    let reference = cells(&set.reference);
    let constant = accuracy(&reference);
    let calibrated = Calibrated::new(reference);
    let (mut ours, mut theirs, mut nothing) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in &set.chunks {
        let cells = cells(&chunk.records);
        let realised = accuracy(&cells);
        let counts: Vec<u64> = cells.iter().map(|cell| cell.1).collect();
        ours.push(calibrated.estimate(&counts).map_or(f64::NAN, |found| (found.accuracy - realised).abs()));
        theirs.push((chunk.estimate - realised).abs());
        nothing.push((constant - realised).abs());
    }
    report.row([
        set.name.clone(),
        set.chunks.len().to_string(),
        format!("{:.4}", mean(&ours)),
        format!("{:.4}", mean(&theirs)),
        format!("{:.2}", mean(&ours) / mean(&theirs)),
        format!("{:.4}", mean(&nothing)),
    ]);
}

/// Returns the delays of the gap alarm, and how many alarms there were without concept drift.
fn concept_drift(length: Length) -> anyhow::Result<(Vec<Option<f64>>, u32)> {
    const RECORDS: usize = 2_000;
    let mut random = SmallRng::seed_from_u64(7);
    // A calibrated model: a record of score s is positive with chance s.
    let mut window = |flipped: f64, records: usize| {
        let mut cells = vec![(0, 0); 2 * BINS];
        let bounds: Vec<f64> = (1..BINS).map(|k| k as f64 / BINS as f64).collect();
        for _ in 0..records {
            let score: f64 = random.random();
            let prediction = u8::from(score >= 0.5);
            let flip = score >= 0.5 && random.random::<f64>() < flipped;
            let label = u8::from((random.random::<f64>() < score) != flip);
            let cell = &mut cells[cell(&bounds, score, prediction)];
            *cell = (cell.0 + u64::from(prediction == label), cell.1 + 1);
        }
        cells
    };
    let calibrated = Calibrated::new(window(0.0, 200_000));
    let gap = |cells: &[(u64, u64)]| {
        let counts: Vec<u64> = cells.iter().map(|cell| cell.1).collect();
        let right = cells.iter().map(|cell| cell.0).sum();
        calibrated.estimate(&counts).and_then(|found| accuracy_gap(found, right, RECORDS as u64))
    };
    let hour = |window: i64| HourOfWeek::of(Timestamp::from_millis(window * 3_600_000));
    let (mut delays, mut quiet) = (Vec::new(), 0);
    for _ in 0..length.of(50, 5) {
        let mut detector = Detector::new(1);
        let mut at = 0;
        while detector.history() < 256 {
            detector.observe(hour(at), &[gap(&window(0.0, RECORDS)).unwrap_or(f64::NAN)]);
            at += 1;
        }
        detector.reset();
        let mut healthy = detector.clone();
        for after in 0..200 {
            if healthy.observe(hour(at + after), &[gap(&window(0.0, RECORDS)).unwrap_or(f64::NAN)]) >= LEVEL {
                quiet += 1;
                healthy.reset();
            }
        }
        let seen = (0..60).position(|after| {
            detector.observe(hour(at + after), &[gap(&window(0.1, RECORDS)).unwrap_or(f64::NAN)]) >= LEVEL
        });
        delays.push(seen.map(|seen| (seen + 1) as f64));
    }
    Ok((delays, quiet))
}
