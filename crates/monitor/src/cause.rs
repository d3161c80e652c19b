//! What has changed, where it began, and whose doing it is.
//!
//! A stage is suspected if the detector of P(output | input) says so, which knows how much windows differ when nothing is
//! wrong; the χ² of [`attribute`] does not, and with records that depend on each other it suspects everyone. So only
//! the tables of suspects are compared; all others count as one law before and now. Inputs that move within their cells
//! leak into the stages behind, and what a stage makes of several records depends on all of them, not on the one whose cell is
//! known: a stage whose own shift is small beside that of a suspect before it is no suspect. Above all that stand the probes: a stage that
//! answers them otherwise has changed, one that answers as before has not.
//!
//! Two stages seldom change in the same moment. A stage whose P(output | input) moved together with what went into it from the origin
//! is taken for one that the origin's change reaches by what cells do not show, and its share counts as the origin's,
//! unless its version or the probes say otherwise. One that moved earlier or later changed by itself.
//!
//! Shares follow the line of nodes
//! from a source to each last stage. A stage that reads several nodes ends such a line: what goes into it stands there as
//! one player, under the names of those it reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use driftline_stats::{
    Attribution, Findings, JointProfile, MIN_ROW, Mechanism, Probes, Verdict, attribute, output_cells, share_intervals,
    verdict,
};
use driftline_types::{Code, StageName, StageVersion, Timestamp};

use crate::{
    Baseline, Basis, NodeBaseline, NodeFinding, NodeWindow, Share, SignalFinding, Trace, What,
    detect::{Detectors, HEALTHY, Watch},
    effect::expected_and_found,
    windows::Closed,
};

/// The resamples of windows behind the interval of a share.
const RESAMPLES: usize = 64;
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
/// The windows that lie between two onsets, at most, of one change.
const TOGETHER: usize = 3;

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

/// Says what became of every node, and shares out the change of every last stage. `level` is the evidence from which a node is
/// suspected, `probes` what the probes say of stages.
pub(crate) fn cause(
    baseline: &Baseline,
    detectors: &Detectors,
    span: &Span<'_>,
    level: f64,
    probes: &BTreeMap<StageName, Probes>,
) -> Cause {
    let conditional = detectors.conditional();
    let probed = |name: &StageName| probes.get(name).copied().unwrap_or_default();
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
            let suspect = found || other_version(node) || first(&node.name) && moved(&node.name);
            (&node.name, suspect && probed(&node.name) != Probes::Same)
        })
        .collect();
    let shifts: BTreeMap<&StageName, f64> =
        baseline.nodes.iter().map(|node| (&node.name, own_shift(node, span))).collect();
    let suspected = without_leaks(baseline, &suspected, &shifts);
    let proven = |name: &StageName| probed(name) == Probes::Different;
    let anyone = suspected.iter().any(|(name, suspect)| *suspect || proven(name));
    let suspect = |name: &StageName| match probed(name) {
        Probes::Different => true,
        Probes::Same => false,
        Probes::None => !anyone || suspected.get(name).copied().unwrap_or(false),
    };

    let read = |name: &StageName| baseline.nodes.iter().any(|node| node.inputs.contains(name));
    let targets = baseline.nodes.iter().filter(|node| !node.inputs.is_empty() && !read(&node.name));
    let lines = targets.filter_map(|target| Line::new(baseline, target, span));
    let lines: Vec<(Line<'_>, Attribution)> =
        lines.filter_map(|line| line.attribution(&suspect).map(|found| (line, found))).collect();
    let mut changed: BTreeMap<&StageName, bool> = BTreeMap::new();
    for (line, found) in &lines {
        let players = line.players.iter().zip(&found.changed).filter(|(player, _)| player.rows != Rows::Entry);
        players.for_each(|(player, differs)| *changed.entry(player.node).or_default() |= differs);
    }
    let mut nodes = Vec::new();
    for node in &baseline.nodes {
        let differs = changed.get(&node.name).copied();
        let cleared = probed(&node.name) == Probes::Same;
        let findings = Findings {
            input: node.inputs.iter().any(&moved),
            // Of a stage that the probes clear, what its cells do not show has moved.
            conditional: if cleared {
                conditional.get(&node.name).copied().unwrap_or(0.0) >= level
            } else {
                suspect(&node.name) && differs.unwrap_or(anyone)
            },
            version: other_version(node),
            probes: probed(&node.name),
            unattributable: if node.inputs.is_empty() { 0.0 } else { unattributable(node, span) },
        };
        nodes.push(NodeFinding {
            node: node.name.clone(),
            verdict: verdict(findings),
            version: span.version(&node.name).cloned(),
            probes: findings.probes,
            unattributable: findings.unattributable,
        });
    }
    name_what_is_left(baseline, &mut nodes);
    let certain = |name: &StageName| {
        let own = conditional.get(name).copied().unwrap_or(0.0);
        let own = if first(name) { own.max(evidence(name)) } else { own };
        own >= CERTAIN * level || proven(name)
    };
    let share = |name: &StageName| lines.iter().map(|(line, found)| line.share(found, name)).fold(0.0, f64::max);
    let origin = origin(&nodes, share, certain);
    let followers = origin.as_ref().map_or_else(BTreeSet::new, |origin| followers(baseline, detectors, &nodes, origin));
    for node in nodes.iter_mut().filter(|node| followers.contains(&node.node)) {
        node.verdict = Verdict::HiddenInput;
    }
    let itself = |name: &StageName| {
        nodes
            .iter()
            .any(|node| node.node == *name && matches!(node.verdict, Verdict::StageChanged | Verdict::VersionChanged))
    };
    let traces = lines.iter().map(|(line, found)| {
        let Some(at) = origin.as_ref().and_then(|origin| line.place(origin)) else {
            return line.trace(found, &suspect, &|shares| shares);
        };
        if found.shares.is_none()
            && moved(&line.target)
            && line.players.iter().enumerate().all(|(other, player)| other == at || !itself(player.node))
        {
            return line.all_from(at, found);
        }
        line.trace(found, &suspect, &|mut shares| {
            for (other, player) in line.players.iter().enumerate() {
                if player.rows != Rows::Entry && followers.contains(player.node) {
                    shares[at] += std::mem::take(&mut shares[other]);
                }
            }
            shares
        })
    });
    let traces = traces.collect();
    Cause { nodes, traces, origin }
}

/// Returns the stages behind the origin whose P(output | input) moved in the same moment, and of which nothing proves that they changed.
fn followers(
    baseline: &Baseline,
    detectors: &Detectors,
    nodes: &[NodeFinding],
    origin: &StageName,
) -> BTreeSet<StageName> {
    let of = |name: &StageName, conditional: bool| {
        let watches = detectors.watches.iter().filter(|watch| watch.node == *name);
        let watches = watches.filter(|watch| match watch.what {
            What::Input(_) => false,
            What::Output(_) => !conditional,
            What::Conditional => true,
        });
        watches.max_by(|a, b| a.evidence().total_cmp(&b.evidence()))
    };
    let began = of(origin, false).and_then(onset_of);
    let together = |name: &StageName| match (began, of(name, true)) {
        (Some(began), Some(watch)) => onset_of(watch).is_none_or(|onset| {
            let between = began.min(onset)..began.max(onset);
            watch.series().0.iter().filter(|start| between.contains(start)).count() <= TOGETHER
        }),
        _ => true,
    };
    let mut behind = BTreeSet::from([origin]);
    let mut followers = BTreeSet::new();
    for (node, found) in baseline.nodes.iter().zip(nodes) {
        if node.inputs.iter().any(|input| behind.contains(input)) {
            behind.insert(&node.name);
            if found.verdict == Verdict::StageChanged && found.probes == Probes::None && together(&node.name) {
                followers.insert(node.name.clone());
            }
        }
    }
    followers
}

/// Where nothing is known to have changed, yet the probes clear a stage that makes something else of its input: if they clear all before
/// it but one, it is that one.
fn name_what_is_left(baseline: &Baseline, nodes: &mut [NodeFinding]) {
    let changed = |node: &NodeFinding| matches!(node.verdict, Verdict::StageChanged | Verdict::VersionChanged);
    if nodes.iter().any(changed) {
        return;
    }
    let mut before: BTreeSet<&StageName> = BTreeSet::new();
    // From the last node to the first, each stands after those it reads.
    for node in baseline.nodes.iter().rev() {
        let hidden = nodes.iter().any(|found| found.node == node.name && found.verdict == Verdict::HiddenInput);
        if hidden || before.contains(&node.name) {
            before.extend(&node.inputs);
        }
    }
    let mut left = nodes.iter_mut().filter(|found| before.contains(&found.node) && found.probes == Probes::None);
    if let (Some(only), None) = (left.next(), left.next()) {
        only.verdict = Verdict::StageChanged;
    }
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
fn origin(
    nodes: &[NodeFinding],
    share: impl Fn(&StageName) -> f64,
    certain: impl Fn(&StageName) -> bool,
) -> Option<StageName> {
    let changed: Vec<&StageName> = nodes
        .iter()
        .filter(|node| matches!(node.verdict, Verdict::StageChanged | Verdict::VersionChanged))
        .map(|node| &node.node)
        .collect();
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

    /// Returns the counts of all players, in the reference and now.
    fn tables(&self) -> [Vec<Vec<u64>>; 2] {
        let players = self.players.iter().enumerate();
        players.map(|(at, player)| (self.dense(at, player.before), self.dense(at, &player.now))).unzip().into()
    }

    /// Shares out the change of the last output.
    fn attribution(&self, suspect: &dyn Fn(&StageName) -> bool) -> Option<Attribution> {
        let [before, now] = self.tables();
        self.attribute(&before, &now, suspect)
    }

    /// Returns which player a node is.
    fn place(&self, name: &StageName) -> Option<usize> {
        self.players.iter().position(|player| player.name == name.as_str())
    }

    /// Returns the share of a node, 0 if there is none.
    fn share(&self, found: &Attribution, name: &StageName) -> f64 {
        self.place(name).zip(found.shares.as_ref()).map_or(0.0, |(at, shares)| shares[at])
    }

    /// Says what became of the last output. `laid` moves shares from one player to another.
    fn trace(
        &self,
        found: &Attribution,
        suspect: &dyn Fn(&StageName) -> bool,
        laid: &dyn Fn(Vec<f64>) -> Vec<f64>,
    ) -> Trace {
        let shares = found.shares.clone().map(laid);
        let intervals = if shares.is_some() { self.intervals(suspect, laid) } else { Vec::new() };
        let shares = shares.into_iter().flatten().enumerate().map(|(at, share)| Share {
            node: self.players[at].name.clone(),
            share,
            // Resamples repeat windows, which makes tables differ more: the interval holds at least the share itself.
            interval: intervals.get(at).map_or((share, share), |&(low, high)| (low.min(share), high.max(share))),
        });
        Trace {
            target: self.target.clone(),
            divergence: found.divergence,
            floor: found.floor,
            shares: shares.collect(),
        }
    }

    /// Says that the last output moved by the doing of one player alone, though no table on the way shows how.
    fn all_from(&self, origin: usize, found: &Attribution) -> Trace {
        let last = self.players.len() - 1;
        let outputs = |joint: &JointProfile| {
            let mut counts = vec![0; self.players[last].outputs.len()];
            let dense = self.dense(last, joint);
            dense.chunks_exact(counts.len()).for_each(|row| counts.iter_mut().zip(row).for_each(|(sum, n)| *sum += n));
            counts
        };
        let divergence = shift(&outputs(self.players[last].before), &outputs(&self.players[last].now));
        let shares = self.players.iter().enumerate().map(|(at, player)| {
            let share = f64::from(u8::from(at == origin));
            Share { node: player.name.clone(), share, interval: (share, share) }
        });
        Trace { target: self.target.clone(), divergence, floor: found.floor, shares: shares.collect() }
    }

    /// Returns how far each share reaches over resamples of windows.
    fn intervals(&self, suspect: &dyn Fn(&StageName) -> bool, laid: &dyn Fn(Vec<f64>) -> Vec<f64>) -> Vec<(f64, f64)> {
        let [before, _] = self.tables();
        let by_window: Vec<Vec<Option<Vec<u64>>>> = self
            .windows
            .iter()
            .map(|closed| {
                let joint = |at: usize| closed.nodes.get(self.players[at].node)?.window.joint.as_ref();
                (0..self.players.len()).map(|at| joint(at).map(|joint| self.dense(at, joint))).collect()
            })
            .collect();
        share_intervals(by_window.len(), RESAMPLES, 1, |drawn| {
            let mut sums: Vec<Vec<u64>> = before.iter().map(|counts| vec![0; counts.len()]).collect();
            for &window in drawn {
                for (sum, counts) in sums.iter_mut().zip(&by_window[window]) {
                    let counts = counts.iter().flatten();
                    sum.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
                }
            }
            self.attribute(&before, &sums, suspect)?.shares.map(laid)
        })
    }

    fn attribute(
        &self,
        before: &[Vec<u64>],
        now: &[Vec<u64>],
        suspect: &dyn Fn(&StageName) -> bool,
    ) -> Option<Attribution> {
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

/// Says of which stages the probes show that they are as before, though what they make of the same cells is not. Where no
/// stage has changed, what they wrote otherwise came in with the origin.
fn hidden(cause: &Cause) -> String {
    let hidden = cause.nodes.iter().filter(|node| node.verdict == Verdict::HiddenInput && node.probes == Probes::Same);
    let names = names(hidden.map(|node| &node.node), ", ");
    if names.is_empty() {
        return String::new();
    }
    let cleared =
        |node: &NodeFinding| matches!(node.verdict, Verdict::Unchanged | Verdict::InputMoved | Verdict::HiddenInput);
    let mut said = format!("; {names} unchanged by the probes: ");
    said.push_str(&match &cause.origin {
        Some(origin) if cause.nodes.iter().all(|node| node.node == *origin || cleared(node)) => {
            format!("all that they write otherwise comes from `{origin}`, of which cells show only a part")
        }
        _ => "something moved in the input that its cells do not show".to_owned(),
    });
    said
}

/// Says which stages moved together with the origin.
fn followed(cause: &Cause) -> String {
    let followed =
        cause.nodes.iter().filter(|node| node.verdict == Verdict::HiddenInput && node.probes == Probes::None);
    let names = names(followed.map(|node| &node.node), ", ");
    if names.is_empty() {
        names
    } else {
        format!("; {names} moved in the same moment, by what the cells of their input do not show")
    }
}

/// Names of nodes as a sentence has them.
fn names(nodes: impl Iterator<Item = impl Display>, between: &str) -> String {
    nodes.map(|node| format!("`{node}`")).collect::<Vec<_>>().join(between)
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
        return format!("{most}where it began cannot be told{}", hidden(cause));
    };
    let is_source = baseline.node(origin).is_some_and(|node| node.inputs.is_empty());
    let found = cause.nodes.iter().find(|node| node.node == *origin);
    let what = match (is_source, found.map(|node| (node.verdict, node.probes))) {
        (true, _) => "what it writes changed",
        (false, Some((Verdict::VersionChanged, Probes::Different))) => "another version, it answers probes otherwise",
        (false, Some((Verdict::VersionChanged, _))) => "another version, P(output | input) changed",
        (false, Some((_, Probes::Different))) => "it answers probes otherwise",
        (false, _) => "P(output | input) changed",
    };
    let mut said = format!("began in `{origin}` ({what}{at})");
    let percent = |share: f64| (100.0 * share).round();
    if let Some(trace) = cause.traces.iter().find(|trace| !trace.shares.is_empty())
        && let Some(share) = trace.shares.iter().find(|share| share.node == origin.as_str())
    {
        let (part, low, high) = (percent(share.share), percent(share.interval.0), percent(share.interval.1));
        let interval = if low < high { format!(" ({low} to {high})") } else { String::new() };
        said.push_str(&format!(", {part} %{interval} of the change in `{}`", trace.target));
        for other in &trace.shares {
            if other.node != origin.as_str() && other.share.abs() >= 0.05 {
                said.push_str(&format!(", {} % at `{}`", percent(other.share), other.node));
            }
        }
    }
    let as_before = |node: &&NodeFinding| matches!(node.verdict, Verdict::Unchanged | Verdict::InputMoved);
    let unchanged = names(cause.nodes.iter().filter(as_before).map(|node| &node.node), ", ");
    if !unchanged.is_empty() {
        said.push_str(&format!("; {unchanged} unchanged"));
    }
    said.push_str(&followed(cause));
    said.push_str(&hidden(cause));
    said
}
