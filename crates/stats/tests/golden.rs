//! Distances and moments against SciPy and NumPy; `golden/distances.py` wrote the expected values.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use driftline_stats::{Edges, FIRST_BIN, NumberProfile, hellinger, jensen_shannon, psi, wasserstein};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    distances: Vec<Distances>,
    moments: Moments,
}

#[derive(Deserialize)]
struct Distances {
    left: Vec<u64>,
    right: Vec<u64>,
    psi: f64,
    jensen_shannon: f64,
    hellinger: f64,
    wasserstein: f64,
}

#[derive(Deserialize)]
struct Moments {
    values: Vec<f64>,
    lo: f64,
    hi: f64,
    mean: f64,
    std: f64,
    min: f64,
    max: f64,
    quantiles: BTreeMap<String, f64>,
    histogram: Vec<u64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/distances.json")).unwrap()
}

#[track_caller]
fn assert_near(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found}, expected {expected}");
}

#[test]
fn distances_equal_scipys() {
    for case in golden().distances {
        assert_near(psi(&case.left, &case.right).unwrap(), case.psi, 1e-12);
        assert_near(jensen_shannon(&case.left, &case.right).unwrap(), case.jensen_shannon, 1e-12);
        assert_near(hellinger(&case.left, &case.right).unwrap(), case.hellinger, 1e-12);
        assert_near(wasserstein(&case.left, &case.right).unwrap(), case.wasserstein, 1e-12);
    }
}

#[test]
fn distances_are_symmetric_and_zero_for_equal_shares() {
    for distance in [psi, jensen_shannon, hellinger, wasserstein] {
        assert_near(distance(&[3, 0, 5], &[3, 0, 5]).unwrap(), 0.0, 0.0);
        assert_near(distance(&[3, 1, 5], &[9, 2, 0]).unwrap(), distance(&[9, 2, 0], &[3, 1, 5]).unwrap(), 1e-15);
        assert_eq!(distance(&[0, 0], &[1, 0]), None);
        assert_eq!(distance(&[1, 0], &[1, 0, 0]), None);
    }
    assert_near(jensen_shannon(&[1, 0], &[0, 1]).unwrap(), 1.0, 0.0);
    assert_near(wasserstein(&[1, 0, 0], &[0, 0, 1]).unwrap(), 1.0, 0.0);
}

#[test]
fn moments_and_histogram_equal_numpys() {
    let Moments { values, lo, hi, mean, std, min, max, quantiles, histogram } = golden().moments;
    let edges = Arc::new(Edges::log(lo, hi, 32).unwrap());
    let mut profile = NumberProfile::new(edges.clone());
    for &value in &values {
        profile.observe(Some(value));
    }
    assert_eq!(profile.counts()[FIRST_BIN..][..32], histogram);
    assert_near(profile.mean().unwrap(), mean, 1e-9);
    assert_near(profile.std().unwrap(), std, 1e-9);
    assert_eq!((profile.min(), profile.max()), (Some(min), Some(max)));
    for (rank, expected) in quantiles {
        let slot = edges.slot(Some(expected)) - FIRST_BIN;
        let width = edges.bounds()[slot + 1] - edges.bounds()[slot];
        assert_near(profile.quantile(rank.parse().unwrap()).unwrap(), expected, width);
    }
}
