//! What has changed, where it began, and whose doing it is.
//!
//! A stage is suspected if the detector of P(output | input) says so, which knows how much windows differ when nothing is
//! wrong; the χ² of [`attribute`] does not, and with records that depend on each other it suspects everyone. So only
//! the tables of suspects are compared; all others count as one law before and now. Inputs that move within their cells
//! leak into the stages behind, and what a stage makes of several records depends on all of them, not on the one whose cell is
//! known: a stage whose own shift is small beside that of a suspect before it is no suspect. Shares follow the line of nodes
//! from a source to each last stage. A stage that reads several nodes ends such a line: what goes into it stands there as
//! one player, under the names of those it reads.

use std::collections::BTreeMap;

use driftline_stats::{
    Effect, Findings, JointProfile, MIN_ROW, Mechanism, Probes, SignalProfile, Verdict, attribute,
    jensen_shannon_effect, output_cells, share_intervals, verdict, wasserstein_effect,
};
use driftline_types::{Code, StageName, StageVersion, Timestamp};

use crate::{
    Baseline, Basis, Measure, NodeBaseline, NodeFinding, NodeWindow, Share, SignalFinding, Trace, What,
    detect::{Detectors, HEALTHY, Watch},
    windows::Closed,
};

/// The chance that the lower bound of an effect is too high.
const ERROR: f64 = 0.05;
/// The resamples of windows behind the interval of a share.
const RESAMPLES: usize = 64;
/// The share of its own from which a node's cells are said to explain a change.
const EXPLAINED: f64 = 0.25;
/// How many times the evidence of a suspect makes one certain: that of an alarm of its own.
const CERTAIN: f64 = 10.0;
/// The share of the evidence of a suspect below which a node has not moved.
const STILL: f64 = 0.1;
/// The shift of a stage beside that of a suspect before it, below which it is taken for what leaks from there; on the scale of the
/// divergence, so half as far.
const LEAK: f64 = 0.25;
/// The same for a stage that makes one output of several inputs.
const LEAK_OF_MANY: f64 = 1.0;
/// The inputs of an output from which a stage is such a one.
const MANY: f64 = 1.2;

/// What nodes saw over several windows.
pub(crate) struct Span<'a> {
    windows: Vec<&'a Closed>,
    pub nodes: BTreeMap<StageName, NodeWindow>,
    versions: BTreeMap<StageName, StageVersion>,
}

impl<'a> Span<'a> {
    /// Merges windows, from the oldest to the newest. Where a window was counted on other bins than those before, as
    /// when monitoring was switched on or a stage was replaced, the newest counts.
    pub(crate) fn new(windows: Vec<&'a Closed>) -> Self {
        let (mut nodes, mut versions) = (BTreeMap::<StageName, NodeWindow>::new(), BTreeMap::new());
        for closed in &windows {
            for (name, seen) in &closed.nodes {
                let before = versions.insert(name.clone(), seen.version.clone());
                let same = before.is_none_or(|before| before == seen.version);
                let merged = nodes.entry(name.clone()).or_default();
                if !same || merged.merge(&seen.window).is_err() {
                    merged.clone_from(&seen.window);
                }
            }
        }
        Self { windows, nodes, versions }
    }

    pub(crate) fn version(&self, node: &StageName) -> Option<&StageVersion> {
        self.versions.get(node)
    }
}

/// All that is said of a change.
pub(crate) struct Cause {
    pub nodes: Vec<NodeFinding>,
    pub traces: Vec<Trace>,
    pub origin: Option<StageName>,
}

/// Says when the change of a watch began.
pub(crate) fn onset_of(watch: &Watch) -> Option<Timestamp> {
    let (starts, series) = watch.series();
    let healthy = HEALTHY.min(series.len() / 2).max(1);
    driftline_stats::onset(&series, healthy).map(|at| starts[at])
}

/// Measures how far something that is watched has moved.
pub(crate) fn finding(baseline: &Baseline, span: &Span<'_>, watch: &Watch) -> SignalFinding {
    let reference = baseline.node(&watch.node).map(|node| &node.profiles);
    let current = span.nodes.get(&watch.node);
    let mut finding = SignalFinding {
        node: watch.node.clone(),
        what: watch.what.clone(),
        evidence: watch.evidence(),
        effect: None,
        measure: Measure::Divergence,
        change: String::new(),
        onset: onset_of(watch),
    };
    let (Some(reference), Some(current)) = (reference, current) else { return finding };
    if watch.what == What::Conditional {
        if let (Some(before), Some(now)) = (&reference.joint, &current.joint) {
            (finding.effect, finding.change) = conditional_effect(before, now);
        }
    } else if let (Some(before), Some(now)) = (reference.signal(&watch.what), current.signal(&watch.what)) {
        (finding.effect, finding.measure) = effect(before, now);
        finding.change = change(before, now, unit(current, &watch.what));
    }
    finding
}

/// Returns the unit of a signal.
pub(crate) fn unit<'a>(window: &'a NodeWindow, what: &What) -> &'a str {
    let (set, name) = match what {
        What::Input(name) => (&window.input, name),
        What::Output(name) => (&window.output, name),
        What::Conditional => return "",
    };
    let found = set.iter().flat_map(driftline_stats::ProfileSet::signals).find(|(known, _, _)| known == name);
    found.map_or("", |(_, unit, _)| unit)
}

/// Returns the larger of the effects on the values and on the share of unusable ones.
pub(crate) fn effect(before: &SignalProfile, now: &SignalProfile) -> (Option<Effect>, Measure) {
    let larger = |a: (Option<Effect>, Measure), b: (Option<Effect>, Measure)| {
        let size = |found: &(Option<Effect>, Measure)| found.0.map_or(-1.0, |effect| found.1.size(effect.at_least));
        if size(&b) > size(&a) { b } else { a }
    };
    match (before, now) {
        (SignalProfile::Number(before), SignalProfile::Number(now)) => {
            let values = wasserstein_effect(before.ordered(), now.ordered(), ERROR);
            let usable =
                |profile: &driftline_stats::NumberProfile| [profile.finite(), profile.total() - profile.finite()];
            let unusable = jensen_shannon_effect(&usable(before), &usable(now), ERROR);
            larger((values, Measure::Ranks), (unusable, Measure::Divergence))
        }
        (SignalProfile::Category(before), SignalProfile::Category(now)) => {
            (jensen_shannon_effect(before.counts(), now.counts(), ERROR), Measure::Divergence)
        }
        (SignalProfile::Embedding(before), SignalProfile::Embedding(now)) => {
            let cells = (jensen_shannon_effect(before.cells(), now.cells(), ERROR), Measure::Divergence);
            let projections = before.projections().iter().zip(now.projections());
            let moved = projections.map(|(before, now)| (wasserstein_effect(before, now, ERROR), Measure::Ranks));
            moved.fold(cells, larger)
        }
        _ => (None, Measure::Divergence),
    }
}

/// Says what became of a signal, with its unit.
pub(crate) fn change(before: &SignalProfile, now: &SignalProfile, unit: &str) -> String {
    let percent = |part: u64, of: u64| 100.0 * part as f64 / of.max(1) as f64;
    let mut said = match (before, now) {
        (SignalProfile::Number(before), SignalProfile::Number(now)) => match (before.mean(), now.mean()) {
            (Some(a), Some(b)) => format!("mean {} → {} {unit}", rounded(a), rounded(b)).trim_end().to_owned(),
            _ => String::new(),
        },
        (SignalProfile::Category(before), SignalProfile::Category(now)) => {
            let shares = |slot: usize| {
                (percent(before.counts()[slot], before.total()), percent(now.counts()[slot], now.total()))
            };
            let slots = before.counts().len().min(now.counts().len());
            let moved = |slot: &usize| (shares(*slot).1 - shares(*slot).0).abs();
            let most = (1..slots).max_by(|a, b| moved(a).total_cmp(&moved(b)));
            most.map_or_else(String::new, |slot| {
                let name =
                    slot.checked_sub(driftline_stats::FIRST_VALUE).and_then(|at| before.dictionary().values().nth(at));
                let (a, b) = shares(slot);
                format!(
                    "{} {a:.0} % → {b:.0} %",
                    name.map_or_else(|| "new values".to_owned(), |name| format!("{name:?}"))
                )
            })
        }
        _ => String::new(),
    };
    let (a, b) = (percent(before.missing(), before.total()), percent(now.missing(), now.total()));
    if (a - b).abs() >= 1.0 {
        let join = if said.is_empty() { "" } else { ", " };
        said.push_str(&format!("{join}missing {a:.0} % → {b:.0} %"));
    }
    said
}

fn rounded(x: f64) -> String {
    let digits = if x == 0.0 { 0 } else { (2 - x.abs().log10().floor() as i32).clamp(0, 6) };
    format!("{x:.*}", digits as usize)
}

/// Compares what inputs became with what they became in the reference, the inputs being those of now.
fn conditional_effect(before: &JointProfile, now: &JointProfile) -> (Option<Effect>, String) {
    let (left, right) = expected_and_found(before, now);
    let dropped = |joint: &JointProfile| 100.0 * joint.dropped() as f64 / joint.total().max(1) as f64;
    let (a, b) = (dropped(before), dropped(now));
    let said = if (a - b).abs() >= 1.0 { format!("dropped {a:.0} % → {b:.0} %") } else { String::new() };
    (jensen_shannon_effect(&left, &right, ERROR), said)
}

/// Returns by output what the reference makes of the inputs of now, as well known as the reference, and what came out; the last
/// place is that of dropped records.
fn expected_and_found(before: &JointProfile, now: &JointProfile) -> (Vec<u64>, Vec<u64>) {
    let mut rows: BTreeMap<Code, Vec<(Code, u64)>> = BTreeMap::new();
    before.pairs().into_iter().for_each(|(input, output, n)| rows.entry(input).or_default().push((output, n)));
    let size = |row: &Vec<(Code, u64)>| row.iter().map(|(_, n)| n).sum::<u64>();
    rows.retain(|_, row| size(row) >= MIN_ROW);
    let mut expected = BTreeMap::<Code, f64>::from([(driftline_stats::DROPPED, 0.0)]);
    let mut found = BTreeMap::<Code, u64>::new();
    for (input, output, n) in now.pairs() {
        let Some(row) = rows.get(&input) else { continue };
        *found.entry(output).or_default() += n;
        let total = size(row) as f64;
        row.iter().for_each(|(y, m)| *expected.entry(*y).or_default() += n as f64 * *m as f64 / total);
    }
    let codes: Vec<Code> =
        expected.keys().chain(found.keys()).copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    // As many records as the reference has: what is expected is as well known as its rows.
    let scale = before.total() as f64 / found.values().sum::<u64>().max(1) as f64;
    let left: Vec<u64> =
        codes.iter().map(|code| (expected.get(code).copied().unwrap_or(0.0) * scale).round() as u64).collect();
    let right: Vec<u64> = codes.iter().map(|code| found.get(code).copied().unwrap_or(0)).collect();
    (left, right)
}

/// Says what became of every node, and shares out the change of every last stage. `level` is the evidence from which a node is
/// suspected.
pub(crate) fn cause(baseline: &Baseline, detectors: &Detectors, span: &Span<'_>, level: f64) -> Cause {
    let conditional = detectors.conditional();
    let other_version =
        |node: &NodeBaseline| !node.inputs.is_empty() && span.version(&node.name).is_some_and(|v| *v != node.version);
    let evidence = |name: &StageName| {
        let of_it =
            detectors.watches.iter().filter(|watch| watch.node == *name && !matches!(watch.what, What::Input(_)));
        of_it.map(Watch::evidence).fold(0.0, f64::max)
    };
    let moved = |name: &StageName| evidence(name) >= level;
    let before = evidence_before(baseline, &evidence);
    let first = |name: &StageName| before.get(name).copied().unwrap_or(0.0) < STILL * level;
    let suspected: BTreeMap<&StageName, bool> = baseline
        .nodes
        .iter()
        .map(|node| {
            let found = conditional.get(&node.name).copied().unwrap_or(0.0) >= level;
            // What moves while nothing before it does moves by itself.
            (&node.name, found || other_version(node) || first(&node.name) && moved(&node.name))
        })
        .collect();
    let shifts: BTreeMap<&StageName, f64> =
        baseline.nodes.iter().map(|node| (&node.name, own_shift(node, span))).collect();
    let suspected = without_leaks(baseline, &suspected, &shifts);
    let anyone = suspected.values().any(|suspect| *suspect);
    let suspect = |name: &StageName| !anyone || suspected.get(name).copied().unwrap_or(false);

    let read = |name: &StageName| baseline.nodes.iter().any(|node| node.inputs.contains(name));
    let targets = baseline.nodes.iter().filter(|node| !node.inputs.is_empty() && !read(&node.name));
    let mut traces = Vec::new();
    let mut changed: BTreeMap<StageName, bool> = BTreeMap::new();
    for target in targets {
        if let Some((trace, tables)) = Line::new(baseline, target, span).and_then(|line| line.trace(&suspect)) {
            for (name, differs) in tables {
                *changed.entry(name).or_default() |= differs;
            }
            traces.push(trace);
        }
    }
    let mut nodes = Vec::new();
    for node in &baseline.nodes {
        let differs = changed.get(&node.name).copied();
        let findings = Findings {
            input: node.inputs.iter().any(&moved),
            conditional: suspect(&node.name) && differs.unwrap_or(anyone),
            version: other_version(node),
            probes: Probes::None,
            unattributable: if node.inputs.is_empty() { 0.0 } else { unattributable(node, span) },
        };
        nodes.push(NodeFinding {
            node: node.name.clone(),
            verdict: verdict(findings),
            version: span.version(&node.name).cloned(),
            unattributable: findings.unattributable,
        });
    }
    let certain = |name: &StageName| {
        let own = conditional.get(name).copied().unwrap_or(0.0);
        let own = if first(name) { own.max(evidence(name)) } else { own };
        own >= CERTAIN * level
    };
    let origin = origin(&nodes, &traces, certain);
    Cause { nodes, traces, origin }
}

/// Returns for each node the most evidence of a change in any node before it.
fn evidence_before<'a>(baseline: &'a Baseline, evidence: &dyn Fn(&StageName) -> f64) -> BTreeMap<&'a StageName, f64> {
    let mut before: BTreeMap<&StageName, f64> = BTreeMap::new();
    for node in &baseline.nodes {
        let of_input = |input| evidence(input).max(before.get(input).copied().unwrap_or(0.0));
        let most = node.inputs.iter().map(of_input).fold(0.0, f64::max);
        before.insert(&node.name, most);
    }
    before
}

/// Keeps the suspects whose own shift is not small beside that of a suspect before them.
fn without_leaks<'a>(
    baseline: &'a Baseline,
    suspected: &BTreeMap<&'a StageName, bool>,
    shifts: &BTreeMap<&'a StageName, f64>,
) -> BTreeMap<&'a StageName, bool> {
    // The largest shift of the suspects on the way to each node, itself included.
    let mut largest: BTreeMap<&StageName, f64> = BTreeMap::new();
    let mut kept = BTreeMap::new();
    for node in &baseline.nodes {
        let before = node.inputs.iter().filter_map(|input| largest.get(input)).copied().fold(0.0, f64::max);
        let own = shifts.get(&node.name).copied().unwrap_or(0.0);
        let suspect = suspected.get(&node.name).copied().unwrap_or(false) && own >= leak(node) * before;
        kept.insert(&node.name, suspect);
        largest.insert(&node.name, if suspect { before.max(own) } else { before });
    }
    kept
}

/// Returns how much of a shift before it a stage may pass on as its own.
fn leak(node: &NodeBaseline) -> f64 {
    let inputs = node.profiles.joint.as_ref().map_or(0, |joint| joint.total() - joint.dropped());
    if inputs as f64 > MANY * node.records as f64 { LEAK_OF_MANY } else { LEAK }
}

/// Returns how far a node's output is from what the reference makes of the inputs of now, less what chance makes of it, bits.
fn own_shift(node: &NodeBaseline, span: &Span<'_>) -> f64 {
    let joints = node.profiles.joint.as_ref().zip(span.nodes.get(&node.name).and_then(|window| window.joint.as_ref()));
    let Some((before, now)) = joints else { return 0.0 };
    let (left, right) = expected_and_found(before, now);
    // Where most records are dropped, what becomes of the rest counts as much: the last place is that of dropped ones.
    let kept = |counts: &[u64]| counts[..counts.len() - 1].to_vec();
    shift(&left, &right).max(shift(&kept(&left), &kept(&right)))
}

/// Returns the divergence of two counts less what chance makes of it, bits.
fn shift(left: &[u64], right: &[u64]) -> f64 {
    let total = |counts: &[u64]| counts.iter().sum::<u64>().max(1) as f64;
    let degrees = left.iter().zip(right).filter(|(a, b)| **a + **b > 0).count().saturating_sub(1) as f64;
    let chance = degrees * (1.0 / total(left) + 1.0 / total(right)) / (8.0 * std::f64::consts::LN_2);
    driftline_stats::jensen_shannon(left, right).map_or(0.0, |found| (found - chance).max(0.0))
}

/// Returns the share of a stage's records in input cells that the reference hardly knows.
fn unattributable(node: &NodeBaseline, span: &Span<'_>) -> f64 {
    let basis = node.series.iter().find_map(|series| match &series.basis {
        Basis::Conditional(basis) => Some(basis),
        Basis::Signal(_) => None,
    });
    let joint = span.nodes.get(&node.name).and_then(|window| window.joint.as_ref());
    match (basis, joint) {
        (Some(basis), Some(joint)) => basis.scores(joint).map_or(1.0, |scores| scores.unattributable),
        _ => 0.0,
    }
}

/// Returns the node in which it began: of those that changed themselves, the first in the graph that is certain, whatever its share: a
/// change goes down the graph and never up, and what a cell does not show (the words of a transcript) changes the stages behind as
/// if by themselves. Else the one with the largest share, else the first.
fn origin(nodes: &[NodeFinding], traces: &[Trace], certain: impl Fn(&StageName) -> bool) -> Option<StageName> {
    let changed: Vec<&StageName> = nodes
        .iter()
        .filter(|node| matches!(node.verdict, Verdict::StageChanged | Verdict::VersionChanged))
        .map(|node| &node.node)
        .collect();
    let share = |name: &StageName| {
        let shares = traces.iter().flat_map(|trace| &trace.shares).filter(|share| share.node == name.as_str());
        shares.map(|share| share.share).fold(0.0, f64::max)
    };
    let first = changed.iter().find(|name| certain(name));
    let most = changed.iter().filter(|name| share(name) > 0.0).max_by(|a, b| share(a).total_cmp(&share(b)));
    first.or(most).or(changed.first()).map(|name| (*name).clone())
}

/// The nodes from a source to a last stage, each with its joints.
struct Line<'a> {
    players: Vec<Player<'a>>,
    target: StageName,
    windows: Vec<&'a Closed>,
}

struct Player<'a> {
    name: String,
    node: &'a StageName,
    /// A source has one row; so has what goes into a stage that reads several nodes.
    rows: Rows,
    outputs: Vec<Code>,
    before: &'a JointProfile,
    now: JointProfile,
}

#[derive(Clone, Copy, PartialEq)]
enum Rows {
    /// By input code.
    Inputs,
    /// What a source wrote, whatever it is.
    Source,
    /// What went in, whatever became of it.
    Entry,
}

impl<'a> Line<'a> {
    fn new(baseline: &'a Baseline, target: &'a NodeBaseline, span: &Span<'a>) -> Option<Self> {
        let mut line = vec![target];
        while let [parent] = line[line.len() - 1].inputs.as_slice() {
            line.push(baseline.node(parent)?);
        }
        line.reverse();
        let mut players: Vec<Player<'a>> = Vec::new();
        for (at, node) in line.into_iter().enumerate() {
            let before = node.profiles.joint.as_ref()?;
            let now = span.nodes.get(&node.name)?.joint.clone()?;
            if now.output() != before.output() || now.input() != before.input() {
                return None;
            }
            let outputs = output_cells(&[before, &now]);
            if at == 0 && !node.inputs.is_empty() {
                let names: Vec<&str> = node.inputs.iter().map(StageName::as_str).collect();
                let mut outputs: Vec<Code> =
                    [before, &now].iter().flat_map(|joint| joint.pairs()).map(|pair| pair.0).collect();
                outputs.sort_unstable();
                outputs.dedup();
                let (name, now) = (names.join(" + "), now.clone());
                players.push(Player { name, node: &node.name, rows: Rows::Entry, outputs, before, now });
            }
            let rows = if node.inputs.is_empty() { Rows::Source } else { Rows::Inputs };
            players.push(Player { name: node.name.to_string(), node: &node.name, rows, outputs, before, now });
        }
        Some(Self { players, target: target.name.clone(), windows: span.windows.clone() })
    }

    /// Returns the counts of one player, row by row.
    fn dense(&self, at: usize, joint: &JointProfile) -> Vec<u64> {
        let player = &self.players[at];
        let inputs: &[Code] = if at > 0 { &self.players[at - 1].outputs } else { &[] };
        let width = player.outputs.len();
        let mut counts = vec![0u64; width * if player.rows == Rows::Inputs { inputs.len() } else { 1 }];
        for (input, output, n) in joint.pairs() {
            let (row, code) = match player.rows {
                Rows::Inputs => (inputs.binary_search(&input).ok(), output),
                Rows::Source => (Some(0), output),
                Rows::Entry => (Some(0), input),
            };
            if let (Some(row), Ok(column)) = (row, player.outputs.binary_search(&code)) {
                counts[row * width + column] += n;
            }
        }
        // What was dropped before stays dropped.
        let dropped = |codes: &[Code]| codes.binary_search(&driftline_stats::DROPPED).ok();
        if let (Rows::Inputs, Some(row), Some(column)) = (player.rows, dropped(inputs), dropped(&player.outputs)) {
            counts[row * width + column] = MIN_ROW;
        }
        counts
    }

    /// Shares out the change of the last output. Also returns whose table differs.
    fn trace(&self, suspect: &dyn Fn(&StageName) -> bool) -> Option<(Trace, Vec<(StageName, bool)>)> {
        let before: Vec<Vec<u64>> = (0..self.players.len()).map(|at| self.dense(at, self.players[at].before)).collect();
        let now: Vec<Vec<u64>> = (0..self.players.len()).map(|at| self.dense(at, &self.players[at].now)).collect();
        let found = self.attribute(&before, &now, suspect)?;
        let by_window: Vec<Vec<Option<Vec<u64>>>> = self
            .windows
            .iter()
            .map(|closed| {
                let joint = |at: usize| closed.nodes.get(self.players[at].node)?.window.joint.as_ref();
                (0..self.players.len()).map(|at| joint(at).map(|joint| self.dense(at, joint))).collect()
            })
            .collect();
        let intervals = match found.shares {
            None => Vec::new(),
            Some(_) => share_intervals(by_window.len(), RESAMPLES, 1, |drawn| {
                let mut sums: Vec<Vec<u64>> = before.iter().map(|counts| vec![0; counts.len()]).collect();
                for &window in drawn {
                    for (sum, counts) in sums.iter_mut().zip(&by_window[window]) {
                        let counts = counts.iter().flatten();
                        sum.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
                    }
                }
                self.attribute(&before, &sums, suspect)?.shares
            }),
        };
        let shares = found.shares.iter().flatten().enumerate().map(|(at, &share)| Share {
            node: self.players[at].name.clone(),
            share,
            // Resamples repeat windows, which makes tables differ more: the interval holds at least the share itself.
            interval: intervals.get(at).map_or((share, share), |&(low, high)| (low.min(share), high.max(share))),
        });
        let trace = Trace {
            target: self.target.clone(),
            divergence: found.divergence,
            floor: found.floor,
            shares: shares.collect(),
        };
        let tables = self.players.iter().zip(found.changed).filter(|(player, _)| player.rows != Rows::Entry);
        Some((trace, tables.map(|(player, differs)| (player.node.clone(), differs)).collect()))
    }

    fn attribute(
        &self,
        before: &[Vec<u64>],
        now: &[Vec<u64>],
        suspect: &dyn Fn(&StageName) -> bool,
    ) -> Option<driftline_stats::Attribution> {
        let mechanism = |at: usize| {
            let player = &self.players[at];
            let parents = if player.rows == Rows::Inputs { vec![at - 1] } else { Vec::new() };
            let (mut before, mut now) = (before[at].clone(), now[at].clone());
            if player.rows != Rows::Entry && !suspect(player.node) {
                before.iter_mut().zip(&now).for_each(|(before, now)| *before += now);
                now.clone_from(&before);
            }
            Mechanism::try_new(parents, player.outputs.len(), before, now).ok()
        };
        let nodes = (0..self.players.len()).map(mechanism).collect::<Option<Vec<_>>>()?;
        attribute(&nodes).ok()
    }
}

/// Says it all in one sentence.
pub(crate) fn sentence(
    baseline: &Baseline,
    cause: &Cause,
    signals: &[SignalFinding],
    onset: Option<Timestamp>,
) -> String {
    let at = onset.map_or_else(String::new, |onset| format!(", {onset}"));
    let Some(origin) = &cause.origin else {
        let most = signals.first().map_or_else(String::new, |signal| {
            let said = if signal.change.is_empty() { String::new() } else { format!(" ({})", signal.change) };
            format!("`{} {}` changed{said}{at}; ", signal.node, signal.what)
        });
        return format!("{most}where it began cannot be told");
    };
    let is_source = baseline.node(origin).is_some_and(|node| node.inputs.is_empty());
    let verdict = cause.nodes.iter().find(|node| node.node == *origin).map(|node| node.verdict);
    let what = match (is_source, verdict) {
        (true, _) => "what it writes changed",
        (false, Some(Verdict::VersionChanged)) => "another version, P(output | input) changed",
        (false, _) => "P(output | input) changed",
    };
    let mut said = format!("began in `{origin}` ({what}{at})");
    let percent = |share: f64| (100.0 * share).round();
    if let Some(trace) = cause.traces.iter().find(|trace| !trace.shares.is_empty())
        && let Some(share) = trace.shares.iter().find(|share| share.node == origin.as_str())
    {
        let (low, high) = share.interval;
        let (part, low, high, target) = (percent(share.share), percent(low), percent(high), &trace.target);
        said.push_str(&if share.share >= EXPLAINED {
            format!(", {part} % ({low} to {high}) of the change in `{target}`")
        } else {
            format!(", its cells show {part} % ({low} to {high}) of the change in `{target}`")
        });
        for other in trace.shares.iter().filter(|other| other.node != origin.as_str() && other.share.abs() >= 0.05) {
            said.push_str(&format!(", {} % stand at `{}`", percent(other.share), other.node));
        }
    }
    let as_before = |node: &&NodeFinding| matches!(node.verdict, Verdict::Unchanged | Verdict::InputMoved);
    let unchanged: Vec<String> = cause.nodes.iter().filter(as_before).map(|node| format!("`{}`", node.node)).collect();
    if !unchanged.is_empty() {
        said.push_str(&format!("; {} unchanged", unchanged.join(", ")));
    }
    said
}
