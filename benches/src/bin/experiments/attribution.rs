//! E6: whom a downstream change is blamed on, against the shares that the true tables give.

use std::{collections::BTreeMap, time::Instant};

use driftline_stats::{Findings, Mechanism, Probes, Verdict, attribute, shapley, verdict};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use crate::{
    Length, peers,
    report::{Table, mean, quantile},
};

const CELLS: usize = 16;
/// Records in the reference, and now.
const RECORDS: usize = 20_000;
/// The records a side that DoWhy is given of a scenario, and the scenarios.
const SAMPLED: usize = 2_000;
/// The divergence from which a change counts, in bits.
const LARGE: f64 = 0.005;

/// A stochastic table: a row an input.
type Rows = Vec<Vec<f64>>;

/// A graph whose tables before and after are known.
struct Scenario {
    parents: Vec<Vec<usize>>,
    before: Vec<Rows>,
    after: Vec<Rows>,
    /// Who was changed.
    changed: Vec<usize>,
}

impl Scenario {
    fn draw(number: u64, random: &mut SmallRng) -> Self {
        let stages = random.random_range(3..=6);
        let forked = number % 8 == 7;
        let parents: Vec<Vec<usize>> = (0..=stages)
            .map(|node| match node {
                0 => vec![],
                // One fork after the source and its join.
                2 if forked => vec![0],
                3 if forked => vec![1, 2],
                node => vec![node - 1],
            })
            .collect();
        let changed: Vec<usize> = match number % 4 {
            0 => vec![0],
            1 => vec![random.random_range(1..=stages)],
            2 => {
                let first = random.random_range(0..stages);
                vec![first, random.random_range(first + 1..=stages)]
            }
            _ => vec![],
        };
        let mut before = Vec::new();
        let mut after = Vec::new();
        for (node, parents) in parents.iter().enumerate() {
            let shape = Shape::draw(random);
            let rows = CELLS.pow(parents.len() as u32);
            before.push(shape.rows(rows));
            let moved = if changed.contains(&node) { shape.changed(random) } else { shape };
            after.push(moved.rows(rows));
        }
        Self { parents, before, after, changed }
    }

    /// Returns the divergence and shares of the true tables.
    fn truth(&self) -> (f64, Vec<f64>) {
        let players = self.parents.len();
        let law = |set: u64| {
            let tables: Vec<&Rows> = (0..players)
                .map(|node| if set >> node & 1 == 1 { &self.after[node] } else { &self.before[node] })
                .collect();
            self.law(&tables)
        };
        let reference = law(0);
        let value = |set: u64| divergence(&law(set), &reference);
        let values = shapley(players, 1, value);
        let sum: f64 = values.iter().sum();
        (sum, values.iter().map(|value| value / sum).collect())
    }

    /// Carries the law by brute force: forward over the last node, or over both branches of a fork.
    fn law(&self, tables: &[&Rows]) -> Vec<f64> {
        let forward = |law: &[f64], rows: &Rows| {
            let mut next = vec![0.0; CELLS];
            for (mass, row) in law.iter().zip(rows) {
                next.iter_mut().zip(row).for_each(|(into, share)| *into += mass * share);
            }
            next
        };
        let mut law = tables[0][0].clone();
        let mut node = 1;
        if self.parents.len() > 3 && self.parents[3].len() == 2 {
            let mut pairs = vec![0.0; CELLS * CELLS];
            for (x, mass) in law.iter().enumerate() {
                for (a, left) in tables[1][x].iter().enumerate() {
                    for (b, right) in tables[2][x].iter().enumerate() {
                        pairs[a * CELLS + b] += mass * left * right;
                    }
                }
            }
            law = forward(&pairs, tables[3]);
            node = 4;
        }
        for table in &tables[node..] {
            law = forward(&law, table);
        }
        law
    }

    /// Draws records: the cells of all nodes.
    fn sample(&self, tables: &[Rows], records: usize, random: &mut SmallRng) -> Vec<Vec<u8>> {
        let cumulative: Vec<Vec<Vec<f64>>> = tables
            .iter()
            .map(|rows| {
                let sums = |row: &Vec<f64>| {
                    row.iter()
                        .scan(0.0, |sum, share| {
                            *sum += share;
                            Some(*sum)
                        })
                        .collect()
                };
                rows.iter().map(sums).collect()
            })
            .collect();
        let mut record = || {
            let mut cells: Vec<u8> = Vec::new();
            for (node, parents) in self.parents.iter().enumerate() {
                let row = parents.iter().fold(0, |row, &parent| row * CELLS + usize::from(cells[parent]));
                let u: f64 = random.random();
                cells.push(cumulative[node][row].partition_point(|sum| *sum < u).min(CELLS - 1) as u8);
            }
            cells
        };
        (0..records).map(|_| record()).collect()
    }

    fn counts(&self, node: usize, records: &[Vec<u8>]) -> Vec<u64> {
        let parents = &self.parents[node];
        let mut counts = vec![0; CELLS.pow(parents.len() as u32) * CELLS];
        for cells in records {
            let row = parents.iter().fold(0, |row, &parent| row * CELLS + usize::from(cells[parent]));
            counts[row * CELLS + usize::from(cells[node])] += 1;
        }
        counts
    }
}

/// A stage that maps cells along a curve, with noise.
#[derive(Clone, Copy)]
struct Shape {
    slope: f64,
    bend: f64,
    offset: f64,
    noise: f64,
    /// The share of records whose output has nothing to do with the input.
    lost: f64,
}

impl Shape {
    fn draw(random: &mut SmallRng) -> Self {
        let slope = random.random_range(0.7..1.0) * if random.random_range(0..4) == 0 { -1.0 } else { 1.0 };
        Self {
            slope,
            bend: random.random_range(-0.3..0.3),
            offset: random.random_range(-1.0..1.0),
            noise: random.random_range(0.8..2.0),
            lost: random.random_range(0.0..0.05),
        }
    }

    fn changed(self, random: &mut SmallRng) -> Self {
        let much = random.random_range(0.3..1.0);
        match random.random_range(0..4) {
            0 => Self { offset: self.offset + 4.0 * much, ..self },
            1 => Self { noise: self.noise * (1.0 + 1.5 * much), ..self },
            2 => Self { lost: self.lost + 0.4 * much, ..self },
            _ => Self { slope: self.slope * (1.0 - 0.7 * much), ..self },
        }
    }

    fn rows(self, rows: usize) -> Rows {
        let centre = (CELLS as f64 - 1.0) / 2.0;
        let row = |x: usize| {
            // A source has one row; a join's row is the mean of its parents' cells.
            let x = match rows {
                1 => centre,
                CELLS => x as f64,
                _ => 0.5 * (x / CELLS + x % CELLS) as f64,
            } - centre;
            let middle = centre + self.slope * x + self.bend * x * x / centre + self.offset;
            let noise = if rows == 1 { 2.0 * self.noise } else { self.noise };
            let weights: Vec<f64> =
                (0..CELLS).map(|y| (-0.5 * ((y as f64 - middle) / noise).powi(2)).exp() + 1e-9).collect();
            let sum: f64 = weights.iter().sum();
            weights.iter().map(|weight| (1.0 - self.lost) * weight / sum + self.lost / CELLS as f64).collect()
        };
        (0..rows).map(row).collect()
    }
}

fn divergence(p: &[f64], q: &[f64]) -> f64 {
    let half = |p: f64, h: f64| if p > 0.0 { 0.5 * p * (p / h).log2() } else { 0.0 };
    p.iter().zip(q).map(|(&p, &q)| half(p, 0.5 * (p + q)) + half(q, 0.5 * (p + q))).sum()
}

fn top(shares: &[f64]) -> Option<usize> {
    (0..shares.len()).max_by(|&a, &b| shares[a].total_cmp(&shares[b]))
}

/// What came of the scenarios, of one method.
#[derive(Default)]
struct Tally {
    right: usize,
    large: usize,
    errors: Vec<f64>,
    blamed: usize,
    quiet: usize,
    millis: Vec<f64>,
}

impl Tally {
    fn add(&mut self, truth: &(f64, Vec<f64>), changed: &[usize], shares: Option<&Vec<f64>>, millis: f64) {
        self.millis.push(millis);
        if changed.is_empty() {
            self.quiet += 1;
            self.blamed += usize::from(shares.is_some());
        } else if truth.0 >= LARGE {
            self.large += 1;
            let none = vec![0.0; truth.1.len()];
            self.right += usize::from(shares.is_some_and(|shares| top(shares) == top(&truth.1)));
            let error = |(a, b): (&f64, &f64)| (a - b).abs();
            self.errors.push(truth.1.iter().zip(shares.unwrap_or(&none)).map(error).fold(0.0, f64::max));
        }
    }

    fn row(&self, report: &mut Table, name: &str) {
        let of = |part: usize, whole: usize| {
            format!("{part} of {whole} ({:.1} %)", 100.0 * part as f64 / whole.max(1) as f64)
        };
        report.row([
            name.to_owned(),
            of(self.right, self.large),
            format!("{:.3}", quantile(&self.errors, 0.5)),
            format!("{:.3}", quantile(&self.errors, 0.9)),
            of(self.blamed, self.quiet),
            format!("{:.1} (p99 {:.1})", mean(&self.millis), quantile(&self.millis, 0.99)),
        ]);
    }
}

pub fn run(length: Length) -> anyhow::Result<Table> {
    let mut report = Table::new(
        format!("E6: attribution, {RECORDS} records a side, {CELLS} cells a node"),
        &[
            "method",
            "the largest share is the right one, JS ≥ .005",
            "largest error of a share, median",
            "p90",
            "nothing changed, someone blamed",
            "ms",
        ],
    );
    let mut random = SmallRng::seed_from_u64(6);
    let (mut ours, mut paired) = (Tally::default(), Tally::default());
    let (mut questions, mut facts) = (Vec::new(), Vec::new());
    for number in 0..length.of(500, 40) {
        let scenario = Scenario::draw(number, &mut random);
        let truth = scenario.truth();
        let sides = [&scenario.before, &scenario.after].map(|tables| scenario.sample(tables, RECORDS, &mut random));
        let (shares, millis) = attributed(&scenario, [&sides[0], &sides[1]])?;
        ours.add(&truth, &scenario.changed, shares.as_ref(), millis);
        if scenario.parents.iter().all(|parents| parents.len() < 2) && questions.len() < length.of(32, 4) {
            let short = [&sides[0][..SAMPLED], &sides[1][..SAMPLED]];
            let (shares, millis) = attributed(&scenario, short)?;
            paired.add(&truth, &scenario.changed, shares.as_ref(), millis);
            questions.push(Question {
                parents: scenario.parents.clone(),
                before: short[0].to_vec(),
                after: short[1].to_vec(),
            });
            facts.push((truth, scenario.changed, shares));
        }
    }
    ours.row(&mut report, "Driftline, all scenarios");
    paired.row(&mut report, &format!("Driftline, {} chains with {SAMPLED} records a side", questions.len()));
    match peers::ask::<Vec<Answer>>("dowhy", "attribution_dowhy.py", &questions)? {
        None => report.row(["DoWhy", "not installed"]),
        Some(answers) => {
            let (mut theirs, mut agreement) = (Tally::default(), Agreement::default());
            for (answer, (truth, changed, ours)) in answers.iter().zip(&facts) {
                let shares = answer.shares(truth.1.len());
                theirs.add(truth, changed, shares.as_ref(), answer.millis);
                if !changed.is_empty() && truth.0 >= LARGE {
                    agreement.add(changed, ours.as_ref(), shares.as_ref());
                }
            }
            theirs.row(&mut report, &format!("DoWhy `distribution_change`, the same {} chains", answers.len()));
            report.note(agreement.sentence());
        }
    }
    report.row(["does nothing", "0 %", "1.000", "1.000", "0 %", "0"]);
    report.row(["always fires (blames the source)", "–", "–", "–", "100 %", "0"]);
    let (right, cases) = hidden(length.of(200, 20), &mut random)?;
    report.note(format!("Hidden input or changed stage, told apart with 200 probes: {right} of {cases} right."));
    report.note("DoWhy shares out a Kullback–Leibler divergence, which it estimates from samples of fitted models; its test of each mechanism is the one it comes with, at 5 %.");
    Ok(report)
}

fn attributed(scenario: &Scenario, sides: [&[Vec<u8>]; 2]) -> anyhow::Result<(Option<Vec<f64>>, f64)> {
    let nodes: Vec<Mechanism> = (0..scenario.parents.len())
        .map(|node| {
            let [before, now] = sides.map(|records| scenario.counts(node, records));
            Mechanism::try_new(scenario.parents[node].clone(), CELLS, before, now)
        })
        .collect::<Result<_, _>>()?;
    let started = Instant::now();
    let found = attribute(&nodes)?;
    Ok((found.shares, started.elapsed().as_secs_f64() * 1e3))
}

#[derive(Serialize)]
struct Question {
    parents: Vec<Vec<usize>>,
    before: Vec<Vec<u8>>,
    after: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
struct Answer {
    values: BTreeMap<String, f64>,
    millis: f64,
}

impl Answer {
    /// Returns DoWhy's values as parts of their sum; `None` if it found nothing to share out.
    fn shares(&self, nodes: usize) -> Option<Vec<f64>> {
        let value = |node: usize| self.values.get(&node.to_string()).copied().unwrap_or(0.0);
        let values: Vec<f64> = (0..nodes).map(value).collect();
        let sum: f64 = values.iter().sum();
        values.iter().any(|value| value.abs() > 1e-9).then(|| values.iter().map(|value| value / sum).collect())
    }
}

/// How far two methods say the same of the same records.
#[derive(Default)]
struct Agreement {
    same_top: usize,
    both: usize,
    either_silent: usize,
    differences: Vec<f64>,
    /// The shares that each gives to nodes that did not change.
    astray: Vec<(f64, f64)>,
}

impl Agreement {
    fn add(&mut self, changed: &[usize], ours: Option<&Vec<f64>>, theirs: Option<&Vec<f64>>) {
        let (Some(ours), Some(theirs)) = (ours, theirs) else {
            self.either_silent += 1;
            return;
        };
        self.both += 1;
        self.same_top += usize::from(top(ours) == top(theirs));
        self.differences.push(ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max));
        let astray = |shares: &[f64]| {
            shares.iter().enumerate().filter(|(node, _)| !changed.contains(node)).map(|(_, share)| share.abs()).sum()
        };
        self.astray.push((astray(ours), astray(theirs)));
    }

    fn sentence(&self) -> String {
        let (ours, theirs): (Vec<f64>, Vec<f64>) = self.astray.iter().copied().unzip();
        format!(
            "Of the chains with a change, JS ≥ .005, both name shares in {} ({} with one of them silent): the largest is the same one in {}; shares differ by {:.3} at most in the median (p90 {:.3}). Given to stages that did not change, median (p90): ours {:.3} ({:.3}), DoWhy {:.3} ({:.3}).",
            self.both,
            self.either_silent,
            self.same_top,
            quantile(&self.differences, 0.5),
            quantile(&self.differences, 0.9),
            quantile(&ours, 0.5),
            quantile(&ours, 0.9),
            quantile(&theirs, 0.5),
            quantile(&theirs, 0.9),
        )
    }
}

/// A deterministic stage that also reads something its input's code does not show. In half of the cases
/// that moves, in the other half the stage changes for a tenth of what it reads.
fn hidden(cases: usize, random: &mut SmallRng) -> anyhow::Result<(usize, usize)> {
    let mut right = 0;
    for case in 0..cases {
        let moved = case % 2 == 0;
        let salt: u64 = random.random();
        let stage = |x: u64, hidden: u64, changed: bool| {
            let mixed = (x * 31 + hidden).wrapping_mul(salt | 1) >> 32;
            if changed && mixed.is_multiple_of(10) { (x + 3) % CELLS as u64 } else { (x + hidden) % CELLS as u64 }
        };
        let mut count = |limit: u64, changed: bool| {
            let mut counts = vec![0; CELLS * CELLS];
            let mut source = vec![0; CELLS];
            for _ in 0..RECORDS {
                let (x, hidden) = (random.random_range(0..CELLS as u64), random.random_range(0..10u64));
                let hidden = if hidden < limit { 1 } else { 0 };
                counts[x as usize * CELLS + stage(x, hidden, changed) as usize] += 1;
                source[x as usize] += 1;
            }
            (source, counts)
        };
        let (before, now) = (count(3, false), count(if moved { 5 } else { 3 }, !moved));
        let nodes =
            [Mechanism::try_new(vec![], CELLS, before.0, now.0)?, Mechanism::try_new(vec![0], CELLS, before.1, now.1)?];
        let found = attribute(&nodes)?;
        let differs = (0..200u64).any(|probe| {
            let (x, hidden) = (probe % CELLS as u64, probe / CELLS as u64 % 2);
            stage(x, hidden, !moved) != stage(x, hidden, false)
        });
        let said = verdict(Findings {
            input: found.changed[0],
            conditional: found.changed[1],
            version: false,
            probes: if differs { Probes::Different } else { Probes::Same },
            unattributable: found.unattributable[1],
        });
        right += usize::from(said == if moved { Verdict::HiddenInput } else { Verdict::StageChanged });
    }
    Ok((right, cases))
}
