//! E4: how often two streams of the same law are called different, as they grow.

use anyhow::Context;
use datasketches::{
    common::SearchCriteria,
    kll::{KllFloat, KllSketch},
};
use driftline_stats::{Healthy, ScoreBasis};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rand_distr::{Binomial, Distribution};
use statrs::distribution::{ChiSquared, ContinuousCDF};

use crate::{
    Length,
    report::Table,
    simulate::{BINS, SLOTS, reference},
};

const NOMINAL: f64 = 0.05;
/// Healthy windows to rank among.
const HEALTHY: usize = 199;

pub fn run(length: Length) -> anyhow::Result<Table> {
    let title = "E4: share of windows of the same law that are called different, nominal 5 %";
    let mut report = Table::new(
        title,
        &[
            "records a window",
            "rank of the scores",
            "χ² on the bins",
            "PSI > 0.1",
            "KLL (k = 1,024), Kolmogorov–Smirnov",
            "does nothing",
            "always fires",
        ],
    );
    for n in [100_000, 1_000_000, 5_000_000] {
        let trials = length.of(4_000, 100);
        let (ranked, chi, psi) = on_bins(n, trials);
        let pairs = length.of(if n == 100_000 { 200 } else { 1_000_000 * 40 / n }, 2);
        let kll = on_sketches(n as usize, pairs as usize)?;
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        report.row([
            n.to_string(),
            percent(ranked),
            percent(chi),
            percent(psi),
            format!("{} of {pairs} pairs", percent(kll)),
            percent(0.0),
            percent(1.0),
        ]);
    }
    report.note(format!("{} windows each, ranked among {HEALTHY} healthy ones; χ² and PSI compare two windows. A location, spread, skew and tail score each make a test; their mean is shown.", length.of(4_000, 100)));
    Ok(report)
}

/// Draws the counts of n records on bins of equal mass.
fn multinomial(n: u64, random: &mut SmallRng) -> anyhow::Result<[u64; SLOTS]> {
    let mut counts = [0; SLOTS];
    let mut left = n;
    for bin in 0..BINS {
        let count = Binomial::new(left, 1.0 / (BINS - bin) as f64)?.sample(random).min(left);
        counts[driftline_stats::FIRST_BIN + bin] = count;
        left -= count;
    }
    Ok(counts)
}

fn on_bins(n: u64, trials: u64) -> (f64, f64, f64) {
    let mut random = SmallRng::seed_from_u64(n);
    let basis = ScoreBasis::number(&reference());
    let critical = ChiSquared::new((BINS - 1) as f64).map_or(f64::NAN, |law| law.inverse_cdf(1.0 - NOMINAL));
    let (mut ranked, mut chi, mut psi) = (0.0, 0.0, 0.0);
    let mut healthy: Vec<Healthy> = Vec::new();
    for trial in 0..trials {
        if trial % 50 == 0 {
            // Another set now and then: a rate given one set is not 5 %, the mean over sets is.
            healthy = vec![Healthy::default(); 4];
            for _ in 0..HEALTHY {
                let scores = multinomial(n, &mut random).ok().and_then(|counts| basis.scores_of(&[&counts]));
                for (healthy, score) in healthy.iter_mut().zip(scores.unwrap_or_default()) {
                    healthy.admit(score as f32);
                }
            }
        }
        let (Ok(counts), Ok(other)) = (multinomial(n, &mut random), multinomial(n, &mut random)) else { continue };
        let scores = basis.scores_of(&[&counts]).unwrap_or_default();
        for (healthy, score) in healthy.iter().zip(scores) {
            let (below, _) = healthy.rank(score as f32);
            let tail = (below.min(HEALTHY - below) + 1) as f64 / (HEALTHY + 1) as f64;
            ranked += f64::from(u8::from(2.0 * tail <= NOMINAL)) / 4.0;
        }
        let statistic: f64 = counts
            .iter()
            .zip(&other)
            .filter(|(a, b)| **a + **b > 0)
            .map(|(&a, &b)| (a as f64 - b as f64).powi(2) / (a + b) as f64)
            .sum();
        chi += f64::from(u8::from(statistic > critical));
        psi += f64::from(u8::from(driftline_stats::psi(&counts, &other).is_some_and(|psi| psi > 0.1)));
    }
    let share = |count: f64| count / trials as f64;
    (share(ranked), share(chi), share(psi))
}

/// Compares quantile sketches of two streams by the Kolmogorov–Smirnov test at 5 %.
fn on_sketches(n: usize, pairs: usize) -> anyhow::Result<f64> {
    let mut random = SmallRng::seed_from_u64(n as u64 + 1);
    let critical = 1.358 * (2.0 / n as f64).sqrt();
    let mut different = 0;
    for _ in 0..pairs {
        let mut sketch = || {
            let mut sketch = KllSketch::new(1024)?;
            for _ in 0..n {
                sketch.update(KllFloat::<f64>::new(random.random::<f64>())?);
            }
            anyhow::Ok(sketch)
        };
        let (a, b) = (sketch()?, sketch()?);
        let points: Vec<f64> = (1..2000).map(|i| f64::from(i) / 2000.0).collect();
        let mut apart = 0.0f64;
        for point in points {
            let rank = |sketch: &KllSketch<KllFloat<f64>>| {
                sketch
                    .rank(&KllFloat::<f64>::new(point)?, SearchCriteria::Inclusive)
                    .context("an empty sketch has no ranks")
            };
            apart = apart.max((rank(&a)? - rank(&b)?).abs());
        }
        different += usize::from(apart > critical);
    }
    Ok(different as f64 / pairs as f64)
}
