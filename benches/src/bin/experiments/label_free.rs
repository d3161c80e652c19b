//! E7: accuracy without labels, beside NannyML on its own data.

use driftline_stats::Calibrated;
use serde::Deserialize;

use crate::{
    peers,
    report::{Table, mean, quantile},
};

/// Bins of the score, for each of two predictions.
pub const BINS: usize = 64;

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

pub fn run() -> anyhow::Result<Table> {
    let mut report = Table::new(
        "E7: accuracy without labels, mean absolute error over chunks of 5,000 records",
        &["data", "chunks", "Driftline", "NannyML CBPE", "ratio", "does nothing (accuracy of the reference)"],
    );
    match peers::ask::<Vec<Set>>("nannyml", "label_free_nannyml.py", &())? {
        None => report.row(["NannyML's bundled sets", "not installed"]),
        Some(sets) => sets.iter().for_each(|set| compare(&mut report, set)),
    }
    Ok(report)
}

/// Finds the cell of a record: bins of equal mass over the reference's scores, for each prediction.
pub fn cell(bounds: &[f64], score: f64, prediction: u8) -> usize {
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
