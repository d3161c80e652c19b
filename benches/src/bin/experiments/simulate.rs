//! Windows of counts under laws that have not changed.
//!
//! Values are normal, counted on 32 bins of equal mass. A shifted law is a table from ten random
//! bits to a bin, so a record costs a lookup.

use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, StandardNormal};
use statrs::distribution::{ContinuousCDF, Normal};

pub const BINS: usize = 32;
/// Slots of a number's counts: six more than bins.
pub const SLOTS: usize = BINS + 6;
const FIRST: usize = driftline_stats::FIRST_BIN;
const ENTRIES: usize = 1024;
/// Shifts in steps of 1/250 σ, up to ±0.8 σ.
const STEPS: i32 = 200;
const STEP: f64 = 1.0 / 250.0;

pub fn standard() -> Normal {
    Normal::standard()
}

/// Returns the bounds between the bins: quantiles of the standard normal law.
pub fn bounds() -> [f64; BINS - 1] {
    std::array::from_fn(|k| standard().inverse_cdf((k + 1) as f64 / BINS as f64))
}

/// Returns the counts that a reference of normal values has.
pub fn reference() -> [u64; SLOTS] {
    let mut counts = [0; SLOTS];
    counts[FIRST..FIRST + BINS].fill(10_000);
    counts
}

/// Makes the table from ten random bits to the bin of a normal value.
pub fn table(mean: f64, deviation: f64) -> [u8; ENTRIES] {
    let (law, bounds) = (standard(), bounds());
    std::array::from_fn(|at| {
        let x = mean + deviation * law.inverse_cdf((at as f64 + 0.5) / ENTRIES as f64);
        bounds.partition_point(|bound| *bound <= x) as u8
    })
}

/// Draws `n` independent records of a law.
pub fn draw(table: &[u8; ENTRIES], counts: &mut [u64; SLOTS], n: usize, random: &mut SmallRng) {
    counts.fill(0);
    let mut left = n;
    while left > 0 {
        let mut bits = random.next_u64();
        for _ in 0..left.min(6) {
            counts[FIRST + usize::from(table[bits as usize % ENTRIES])] += 1;
            bits >>= 10;
        }
        left -= left.min(6);
    }
}

/// Tables from random bits to bins.
pub struct Laws {
    shifted: Vec<[u8; ENTRIES]>,
    /// The bin after each bin, of an AR(0.5) process.
    after: Vec<[u8; ENTRIES]>,
}

impl Laws {
    pub fn new() -> Self {
        let law = standard();
        let shifted = (-STEPS..=STEPS).map(|step| table(f64::from(step) * STEP, 1.0)).collect();
        let middle = |k: usize| law.inverse_cdf((k as f64 + 0.5) / BINS as f64);
        let after = (0..BINS).map(|bin| table(0.5 * middle(bin), 0.75f64.sqrt())).collect();
        Self { shifted, after }
    }

    /// Draws `n` independent records with a mean of `shift` σ.
    pub fn draw(&self, counts: &mut [u64; SLOTS], n: usize, shift: f64, random: &mut SmallRng) {
        let step = ((shift / STEP).round() as i32).clamp(-STEPS, STEPS);
        draw(&self.shifted[(step + STEPS) as usize], counts, n, random);
    }

    /// Draws `n` records of which each is correlated by about 0.5 with the one before.
    pub fn draw_chain(&self, counts: &mut [u64; SLOTS], n: usize, last: &mut u8, random: &mut SmallRng) {
        counts.fill(0);
        let mut left = n;
        while left > 0 {
            let mut bits = random.next_u64();
            for _ in 0..left.min(6) {
                *last = self.after[usize::from(*last)][bits as usize % ENTRIES];
                counts[FIRST + usize::from(*last)] += 1;
                bits >>= 10;
            }
            left -= left.min(6);
        }
    }
}

/// Ways in which windows differ although nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Null {
    Iid,
    ArRecords,
    ArWindows,
    Season,
    SeasonAndWeekend,
    VaryingSize,
}

impl Null {
    pub const ALL: [Self; 6] =
        [Self::Iid, Self::ArRecords, Self::ArWindows, Self::Season, Self::SeasonAndWeekend, Self::VaryingSize];

    pub fn name(self) -> &'static str {
        match self {
            Self::Iid => "independent records, 200 a window",
            Self::ArRecords => "AR(.5) records, 100 a window",
            Self::ArWindows => "AR(.6) window effects of .1 σ, 200 a window",
            Self::Season => "daily season of ±.2 σ, 200 a window",
            Self::SeasonAndWeekend => "the same, weekends .15 σ lower and flatter",
            Self::VaryingSize => "40 to 400 a window, window effects of .1 σ",
        }
    }
}

/// One signal under a null.
#[derive(Clone)]
pub struct Simulated {
    null: Null,
    random: SmallRng,
    effect: f64,
    last: u8,
}

impl Simulated {
    pub fn new(null: Null, seed: u64) -> Self {
        Self { null, random: SmallRng::seed_from_u64(seed), effect: 0.0, last: BINS as u8 / 2 }
    }

    /// Counts the window of this hour since the start.
    pub fn window(&mut self, laws: &Laws, hour: u64, counts: &mut [u64; SLOTS]) {
        let normal = |random: &mut SmallRng| -> f64 { StandardNormal.sample(random) };
        let daily = 0.2 * ((hour % 24) as f64 * std::f64::consts::TAU / 24.0).sin();
        match self.null {
            Null::Iid => laws.draw(counts, 200, 0.0, &mut self.random),
            Null::ArRecords => laws.draw_chain(counts, 100, &mut self.last, &mut self.random),
            Null::ArWindows => {
                self.effect = 0.6 * self.effect + 0.08 * normal(&mut self.random);
                laws.draw(counts, 200, self.effect, &mut self.random);
            }
            Null::Season => laws.draw(counts, 200, daily, &mut self.random),
            Null::SeasonAndWeekend => {
                let weekend = hour % 168 >= 120;
                let shift = if weekend { 0.5 * daily - 0.15 } else { daily };
                laws.draw(counts, 200, shift, &mut self.random);
            }
            Null::VaryingSize => {
                let n = 40.0 * 10f64.powf(self.random.random::<f64>());
                let effect = 0.1 * normal(&mut self.random);
                laws.draw(counts, n as usize, effect, &mut self.random);
            }
        }
    }
}
