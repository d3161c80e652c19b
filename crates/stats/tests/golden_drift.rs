//! Bets, prediction, shares and label shift against SciPy, NumPy and DoWhy; `golden/drift.py` wrote the expected values.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use driftline_stats::{Healthy, Mechanism, Memory, attribute, label_shift};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    payments: Vec<Payments>,
    shares: Shares,
    labels: Labels,
    autoregression: Autoregression,
}

#[derive(Deserialize)]
struct Payments {
    size: usize,
    below: usize,
    expected: Vec<f64>,
}

#[derive(Deserialize)]
struct Shares {
    counts: [Vec<Vec<u64>>; 2],
    divergence: f64,
    shares: Vec<f64>,
}

#[derive(Deserialize)]
struct Labels {
    confusion: Vec<u64>,
    predictions: Vec<u64>,
    shares: Vec<f64>,
}

#[derive(Deserialize)]
struct Autoregression {
    series: Vec<f64>,
    coefficients: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/drift.json")).unwrap()
}

#[track_caller]
fn assert_all_near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tolerance * (1.0 + e.abs()), "{found:?}, expected {expected:?}");
    }
}

#[test]
fn payments_equal_scipys() {
    for Payments { size, below, expected } in golden().payments {
        let mut healthy = Healthy::default();
        (0..size).for_each(|value| healthy.admit(value as f32));
        assert_all_near(&healthy.payments(below as f32 - 0.5), &expected, 1e-6);
    }
}

#[test]
fn shares_equal_dowhys() {
    let Shares { counts: [before, now], divergence, shares } = golden().shares;
    let nodes: Vec<Mechanism> = before
        .into_iter()
        .zip(now)
        .enumerate()
        .map(|(node, (before, now))| Mechanism::try_new((0..node).rev().take(1).collect(), 6, before, now).unwrap())
        .collect();
    let found = attribute(&nodes).unwrap();
    assert_eq!(found.changed, [true, true, false, true]);
    assert_all_near(&[found.divergence], &[divergence], 1e-4);
    assert_all_near(&found.shares.unwrap(), &shares, 1e-4);
}

#[test]
fn label_shift_equals_numpys() {
    let Labels { confusion, predictions, shares } = golden().labels;
    assert_all_near(&label_shift(&confusion, &predictions).unwrap(), &shares, 1e-9);
}

#[test]
fn coefficients_equal_scipys() {
    let Autoregression { series, coefficients } = golden().autoregression;
    let mut memory = Memory::default();
    for value in series {
        let (_, run) = memory.whiten(value);
        memory.learn(&run);
    }
    assert_all_near(&memory.coefficients(), &coefficients, 1e-5);
}
