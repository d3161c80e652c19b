//! How much of a downstream change is due to whom.
//!
//! The players are the source and the stages, each a table T_k = P(Y_k | X_k) from counts. For a
//! coalition S that has changed while the others are as in the reference, the law of the last output
//! is π^S Π_k T_k^S, and its worth is the Jensen–Shannon divergence from the reference's. A player's share is its
//! [Shapley value](crate::shapley) over their sum, so shares sum to 1 (Budhathoki, Janzing, Bloebaum, Ng 2021,
//! arXiv 2102.13384, on histograms). A share below 0 undid a part of what the others changed.
//!
//! **Noise.** Two samples of one law differ, and a Shapley value spreads their difference over everyone.
//! So each table is tested first: Σ over rows of χ² of reference against current. A table that does not
//! differ counts as the pooled one on both sides, exactly unchanged. In one that does, each row is
//! drawn to the pooled row by (1 − degrees/χ²)₊ (James, Stein 1961).
//! Rows with fewer than 20 records in the reference cannot be compared: the current row
//! stands on both sides, and their records are reported as unattributable.
//!
//! **Forks and joins.** The law is carried over the nodes that later ones still need, so two branches of a
//! fork stay dependent until they are joined; a join's input is the pair of its parents' cells.

use driftline_types::Code;

use crate::{AttributionError, JointProfile, MIN_ROW, distance::divergence, normal::chi_square_above, shapley};

/// The tail of χ² beyond which a table has changed.
const CHANGED: f64 = 1e-4;
/// The tail of χ² beyond which the last output has changed.
const FLOOR: f64 = 1e-3;
/// Cells of a row with fewer records, both sides together, are tested as one.
const SPARSE: f64 = 10.0;
/// The most entries of a law that is carried through the graph.
const MAX_LAW: usize = 1 << 22;

/// Counts of one node, input cell × output cell, in the reference and now.
#[derive(Clone, Debug)]
pub struct Mechanism {
    parents: Vec<usize>,
    inputs: usize,
    outputs: usize,
    reference: Vec<u64>,
    current: Vec<u64>,
}

impl Mechanism {
    /// Makes a node. `parents` are the places of its parents in the graph, none for a source. Rows are
    /// their cells, the last parent's fastest, one row for a source; columns the node's own `outputs`
    /// cells.
    ///
    /// # Errors
    /// If the two tables are not of the same whole number of rows.
    pub fn try_new(
        parents: Vec<usize>,
        outputs: usize,
        reference: Vec<u64>,
        current: Vec<u64>,
    ) -> Result<Self, AttributionError> {
        let inputs = reference.len().checked_div(outputs).unwrap_or(0);
        if inputs == 0 || inputs * outputs != reference.len() || reference.len() != current.len() {
            return Err(AttributionError::Shape { outputs, reference: reference.len(), current: current.len() });
        }
        Ok(Self { parents, inputs, outputs, reference, current })
    }
}

/// Returns the output codes of joints, ascending: the cells of a node.
#[must_use]
pub fn output_cells(joints: &[&JointProfile]) -> Vec<Code> {
    let mut codes: Vec<Code> = joints.iter().flat_map(|joint| joint.pairs()).map(|(_, output, _)| output).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// What became of the last node's output, and by whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribution {
    /// The divergence of the last output now from the reference, in bits.
    pub divergence: f64,
    /// The divergence that chance alone exceeds once in a thousand.
    pub floor: f64,
    /// The share of each node, in the order of the graph; they sum to 1. `None` if the divergence is
    /// below the floor: there is no downstream drift to share out.
    pub shares: Option<Vec<f64>>,
    /// Whether each node's table differs from the reference.
    pub changed: Vec<bool>,
    /// The share of each node's current records in input cells that the reference hardly knows.
    pub unattributable: Vec<f64>,
}

/// Attributes the change of the last node's output. `nodes` are in topological order: parents before
/// children.
///
/// # Errors
/// If there are no nodes or more than 64, a parent does not come before its child, a table has not one
/// row for each combination of its parents' cells, or branches carry more than 4 million cells together.
pub fn attribute(nodes: &[Mechanism]) -> Result<Attribution, AttributionError> {
    check(nodes)?;
    let tables: Vec<Tables> = nodes.iter().map(Tables::new).collect();
    let plan = Plan::new(nodes)?;
    let reference = plan.law(&tables, 0);
    let mut unchanged = 0u64;
    for (node, tables) in tables.iter().enumerate() {
        unchanged |= u64::from(!tables.changed) << node;
    }
    // A player who changed nothing adds nothing to any coalition.
    let players: Vec<usize> = (0..nodes.len()).filter(|node| unchanged >> node & 1 == 0).collect();
    let spread = |set: u64| players.iter().enumerate().map(|(bit, node)| (set >> bit & 1) << node).sum::<u64>();
    let value = |set: u64| divergence(plan.law(&tables, spread(set)).into_iter().zip(reference.iter().copied()));
    let whole = value(u64::MAX >> (64 - players.len().max(1)) as u32);
    let last = &nodes[nodes.len() - 1];
    let floor = floor(last, &reference);
    let mut shares = None;
    if !players.is_empty() && whole > floor {
        let values = shapley(players.len(), 1, value);
        let sum: f64 = values.iter().sum();
        let mut all = vec![0.0; nodes.len()];
        players.iter().zip(values).for_each(|(&node, value)| all[node] = value / sum);
        shares = Some(all);
    }
    Ok(Attribution {
        divergence: if players.is_empty() { 0.0 } else { whole },
        floor,
        shares,
        changed: tables.iter().map(|tables| tables.changed).collect(),
        unattributable: tables.iter().map(|tables| tables.unattributable).collect(),
    })
}

fn check(nodes: &[Mechanism]) -> Result<(), AttributionError> {
    if nodes.is_empty() || nodes.len() > 64 {
        return Err(AttributionError::NodeCount { found: nodes.len() });
    }
    for (at, node) in nodes.iter().enumerate() {
        if let Some(&parent) = node.parents.iter().find(|&&parent| parent >= at) {
            return Err(AttributionError::Order { node: at, parent });
        }
        let rows = node.parents.iter().map(|&parent| nodes[parent].outputs).product();
        if node.inputs != rows {
            return Err(AttributionError::Rows { node: at, found: node.inputs, expected: rows });
        }
    }
    Ok(())
}

/// Returns the divergence of two samples of the reference's law that chance exceeds once in a thousand:
/// 8 ln 2 · JS / (1/n + 1/m) is χ² with a degree less than there are cells.
fn floor(last: &Mechanism, law: &[f64]) -> f64 {
    let total = |counts: &[u64]| counts.iter().map(|&count| count as f64).sum::<f64>().max(1.0);
    let cells = law.iter().filter(|&&share| share > 1e-6).count();
    let degrees = cells.saturating_sub(1).max(1) as f64;
    let noise = 1.0 / total(&last.reference) + 1.0 / total(&last.current);
    chi_square_above(FLOOR, degrees) * noise / (8.0 * std::f64::consts::LN_2)
}

/// The stochastic tables of one node, before and now.
struct Tables {
    reference: Vec<f64>,
    current: Vec<f64>,
    outputs: usize,
    changed: bool,
    unattributable: f64,
}

impl Tables {
    fn new(node: &Mechanism) -> Self {
        let rows = || node.reference.chunks_exact(node.outputs).zip(node.current.chunks_exact(node.outputs));
        let tests: Vec<(f64, f64)> = rows().map(|(before, now)| homogeneity(before, now)).collect();
        let (statistic, degrees) = tests.iter().fold((0.0, 0.0), |sum, test| (sum.0 + test.0, sum.1 + test.1));
        let changed = degrees > 0.0 && statistic > chi_square_above(CHANGED, degrees);
        // Rows that nobody was counted in take the law of all.
        let overall: Vec<f64> = (0..node.outputs)
            .map(|y| rows().map(|(before, now)| (before[y] + now[y]) as f64).sum::<f64>() + 1e-9)
            .collect();
        let (mut reference, mut current) = (Vec::new(), Vec::new());
        let (mut unknown, mut all) = (0.0, 0.0);
        for ((before, now), (statistic, degrees)) in rows().zip(&tests) {
            let total = |row: &[u64]| row.iter().map(|&count| count as f64).sum::<f64>();
            let (n, m) = (total(before), total(now));
            all += m;
            let known = n >= MIN_ROW as f64;
            unknown += if known { 0.0 } else { m };
            let pooled = shares(before.iter().zip(now).zip(&overall).map(|((a, b), all)| (a + b) as f64 + 1e-6 * all));
            let only_now = shares(now.iter().zip(&overall).map(|(&b, all)| b as f64 + 1e-6 * all));
            if !known && m > 0.0 {
                reference.extend(&only_now);
                current.extend(only_now);
            } else if !changed || m == 0.0 {
                reference.extend(&pooled);
                current.extend(pooled);
            } else {
                let kept = if *statistic > 0.0 { (1.0 - degrees / statistic).max(0.0) } else { 0.0 };
                let toward = |row: &[u64], n: f64, into: &mut Vec<f64>| {
                    into.extend(row.iter().zip(&pooled).map(|(&count, p)| p + kept * (count as f64 / n - p)));
                };
                toward(before, n, &mut reference);
                toward(now, m, &mut current);
            }
        }
        let unattributable = if all > 0.0 { unknown / all } else { 0.0 };
        Self { reference, current, outputs: node.outputs, changed, unattributable }
    }
}

fn shares(weights: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let sum: f64 = weights.clone().sum();
    weights.map(|weight| weight / sum).collect()
}

/// Returns χ² and its degrees of freedom for one row of two samples; 0 and 0 where either has too
/// few records.
fn homogeneity(before: &[u64], now: &[u64]) -> (f64, f64) {
    let total = |row: &[u64]| row.iter().map(|&count| count as f64).sum::<f64>();
    let (n, m) = (total(before), total(now));
    if n < MIN_ROW as f64 || m < 5.0 {
        return (0.0, 0.0);
    }
    let term = |a: f64, b: f64| {
        let pooled = a + b;
        if pooled == 0.0 { 0.0 } else { (a * m - b * n).powi(2) / (n * m * pooled) }
    };
    let (mut statistic, mut cells, mut rest): (f64, f64, (f64, f64)) = (0.0, 0.0, (0.0, 0.0));
    for (&a, &b) in before.iter().zip(now) {
        let (a, b) = (a as f64, b as f64);
        if a + b < SPARSE {
            rest = (rest.0 + a, rest.1 + b);
        } else {
            statistic += term(a, b);
            cells += 1.0;
        }
    }
    if rest.0 + rest.1 > 0.0 {
        statistic += term(rest.0, rest.1);
        cells += 1.0;
    }
    (statistic, (cells - 1.0).max(0.0))
}

/// How laws are carried through the graph.
struct Plan {
    steps: Vec<Step>,
}

/// Takes in one node, then drops those that nobody needs any more.
struct Step {
    node: usize,
    /// For each entry of the law before: the row of the node's table.
    rows: Vec<usize>,
    /// For each entry with the node's cells, where it is added to.
    into: Vec<usize>,
    size: usize,
}

impl Plan {
    fn new(nodes: &[Mechanism]) -> Result<Self, AttributionError> {
        let last = nodes.len() - 1;
        let mut needed = vec![false; nodes.len()];
        needed[last] = true;
        for node in (0..nodes.len()).rev() {
            if needed[node] {
                nodes[node].parents.iter().for_each(|&parent| needed[parent] = true);
            }
        }
        let (mut carried, mut steps): (Vec<usize>, Vec<Step>) = (Vec::new(), Vec::new());
        for node in (0..nodes.len()).filter(|&node| needed[node]) {
            let with: Vec<usize> = carried.iter().copied().chain([node]).collect();
            let later = |which: usize| {
                let wanted = |child: usize| needed[child] && nodes[child].parents.contains(&which);
                which == last || (node + 1..nodes.len()).any(wanted)
            };
            let kept: Vec<usize> = with.iter().copied().filter(|&which| later(which)).collect();
            let sizes = |which: &[usize]| which.iter().map(|&node| nodes[node].outputs).product::<usize>();
            let entries = with.iter().try_fold(1usize, |product, &node| product.checked_mul(nodes[node].outputs));
            let Some(entries) = entries.filter(|&entries| entries <= MAX_LAW) else {
                return Err(AttributionError::Size { node, max: MAX_LAW });
            };
            let mut cells = vec![0; nodes.len()];
            let mut split = |mut entry: usize, over: &[usize]| {
                for &which in over.iter().rev() {
                    cells[which] = entry % nodes[which].outputs;
                    entry /= nodes[which].outputs;
                }
                cells.clone()
            };
            let place = |cells: &[usize], over: &[usize]| {
                over.iter().fold(0, |place, &which| place * nodes[which].outputs + cells[which])
            };
            let rows = (0..sizes(&carried)).map(|entry| place(&split(entry, &carried), &nodes[node].parents)).collect();
            let into = (0..entries).map(|entry| place(&split(entry, &with), &kept)).collect();
            steps.push(Step { node, rows, into, size: sizes(&kept) });
            carried = kept;
        }
        Ok(Self { steps })
    }

    /// Returns the law of the last node if the nodes of this set are as they are now.
    fn law(&self, tables: &[Tables], set: u64) -> Vec<f64> {
        let mut law = vec![1.0];
        for step in &self.steps {
            let node = &tables[step.node];
            let table = if set >> step.node & 1 == 1 { &node.current } else { &node.reference };
            let mut next = vec![0.0; step.size];
            for ((mass, row), into) in law.iter().zip(&step.rows).zip(step.into.chunks_exact(node.outputs)) {
                let row = &table[row * node.outputs..][..node.outputs];
                row.iter().zip(into).for_each(|(share, &into)| next[into] += mass * share);
            }
            law = next;
        }
        law
    }
}

/// Returns the 5 % and 95 % ranks of each share over resamples of windows: `attribute` is given
/// windows drawn with replacement and returns the shares, `None` where there is no drift, which
/// counts as shares of 0. Empty without a resample or a window.
pub fn share_intervals(
    windows: usize,
    resamples: usize,
    seed: u64,
    mut attribute: impl FnMut(&[usize]) -> Option<Vec<f64>>,
) -> Vec<(f64, f64)> {
    if windows == 0 {
        return Vec::new();
    }
    let mut state = seed | 1;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % windows
    };
    let drawn: Vec<Vec<f64>> = (0..resamples)
        .map(|_| {
            let sample: Vec<usize> = (0..windows).map(|_| draw()).collect();
            attribute(&sample).unwrap_or_default()
        })
        .collect();
    let nodes = drawn.iter().map(Vec::len).max().unwrap_or(0);
    let interval = |node: usize| {
        let mut shares: Vec<f64> = drawn.iter().map(|shares| shares.get(node).copied().unwrap_or(0.0)).collect();
        shares.sort_unstable_by(f64::total_cmp);
        let at = |rank: f64| shares[(rank * (shares.len() - 1) as f64).round() as usize];
        (at(0.05), at(0.95))
    };
    (0..nodes).map(interval).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(source: [&[u64]; 2], stage: [&[u64]; 2]) -> Vec<Mechanism> {
        let outputs = source[0].len();
        let node = |parents, [before, now]: [&[u64]; 2]| {
            Mechanism::try_new(parents, outputs, before.to_vec(), now.to_vec()).unwrap()
        };
        vec![node(vec![], source), node(vec![0], stage)]
    }

    #[test]
    fn a_changed_stage_gets_the_whole_share() {
        let source: &[u64] = &[1000, 1000];
        let nodes = chain([source, source], [&[900, 100, 100, 900], &[990, 10, 700, 300]]);
        let found = attribute(&nodes).unwrap();
        assert_eq!((found.changed, found.shares), (vec![false, true], Some(vec![0.0, 1.0])));
    }

    #[test]
    fn a_changed_source_gets_the_whole_share() {
        let nodes = chain([&[1000, 1000], &[1600, 400]], [&[900, 100, 100, 900], &[1440, 160, 40, 360]]);
        let found = attribute(&nodes).unwrap();
        assert_eq!((found.changed, found.shares), (vec![true, false], Some(vec![1.0, 0.0])));
    }

    #[test]
    fn nothing_is_shared_out_without_drift() {
        let nodes = chain([&[1000, 1000], &[1010, 990]], [&[900, 100, 100, 900], &[905, 105, 95, 895]]);
        let found = attribute(&nodes).unwrap();
        assert_eq!((found.divergence, found.shares), (0.0, None));
        assert!(found.floor > 0.0);
    }

    #[test]
    fn cells_that_the_reference_lacks_are_unattributable() {
        let nodes = chain([&[2000, 0], &[1000, 1000]], [&[1900, 100, 0, 0], &[950, 50, 500, 500]]);
        let found = attribute(&nodes).unwrap();
        assert_eq!(found.unattributable, [0.0, 0.5]);
        assert_eq!(found.shares, Some(vec![1.0, 0.0]));
    }

    #[test]
    fn a_fork_stays_dependent_until_it_is_joined() {
        // Both branches copy the source; the join says whether they agree, which they always do.
        let copy: &[u64] = &[1000, 0, 0, 1000];
        let node = |parents, before: &[u64], now: &[u64]| {
            Mechanism::try_new(parents, 2, before.to_vec(), now.to_vec()).unwrap()
        };
        let agree: &[u64] = &[0, 1000, 1000, 0, 1000, 0, 0, 1000];
        let nodes = [
            node(vec![], &[1000, 1000], &[500, 1500]),
            node(vec![0], copy, copy),
            node(vec![0], copy, copy),
            node(vec![1, 2], agree, agree),
        ];
        let found = attribute(&nodes).unwrap();
        assert!(found.divergence < 1e-6 && found.shares.is_none(), "{found:?}");
        let wrong: &[u64] = &[500, 500, 500, 500];
        let nodes = [nodes[0].clone(), nodes[1].clone(), node(vec![0], copy, wrong), nodes[3].clone()];
        let shares = attribute(&nodes).unwrap().shares.unwrap();
        assert!(shares[2] > 0.9, "{shares:?}");
    }

    #[test]
    fn graphs_that_make_no_sense_are_refused() {
        let table = vec![10; 4];
        let node = |parents| Mechanism::try_new(parents, 2, table.clone(), table.clone()).unwrap();
        assert!(matches!(attribute(&[]), Err(AttributionError::NodeCount { found: 0 })));
        assert!(matches!(attribute(&[node(vec![1])]), Err(AttributionError::Order { node: 0, parent: 1 })));
        assert!(matches!(attribute(&[node(vec![])]), Err(AttributionError::Rows { node: 0, found: 2, expected: 1 })));
        assert!(Mechanism::try_new(vec![], 3, vec![1; 4], vec![1; 4]).is_err());
        assert!(Mechanism::try_new(vec![], 0, vec![], vec![]).is_err());
    }

    #[test]
    fn intervals_hold_the_shares() {
        let found = share_intervals(10, 100, 1, |sample| Some(vec![sample[0] as f64 / 9.0, 1.0]));
        assert!(found[0].0 < 0.2 && found[0].1 > 0.8 && found[1] == (1.0, 1.0));
        assert!(share_intervals(0, 10, 1, |_| None).is_empty());
    }

    proptest! {
        #[test]
        fn shares_sum_to_one(
            sources in proptest::collection::vec(1..3000u64, 8),
            stages in proptest::collection::vec(0..800u64, 96),
        ) {
            let node = |parents, at: usize| Mechanism::try_new(parents, 4, stages[at..at + 16].to_vec(), stages[at + 16..at + 32].to_vec()).unwrap();
            let source = Mechanism::try_new(vec![], 4, sources[..4].to_vec(), sources[4..].to_vec()).unwrap();
            let found = attribute(&[source, node(vec![0], 0), node(vec![1], 32), node(vec![2], 64)]).unwrap();
            if let Some(shares) = found.shares {
                prop_assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                prop_assert!(found.divergence > found.floor);
            }
        }
    }
}
