//! What has changed, where it began, and whose doing it is.
//!
//! A stage is suspected if the detector of P(output | input) says so, which knows how much windows differ when nothing is
//! wrong; the χ² of [`attribute`](driftline_stats::attribute) does not, and with records that depend on each other it suspects everyone. So only
//! the tables of suspects are compared; all others count as one law before and now. Inputs that move within their cells
//! leak into the stages behind, and what a stage makes of several records depends on all of them, not on the one whose cell is
//! known: a stage whose own shift is small beside that of a suspect before it is no suspect. Above all that stand the probes: a stage that
//! answers them otherwise has changed, one that answers as before has not.
//!
//! Two stages seldom change in the same moment. A stage whose P(output | input) began to move when the origin did, or while the origin went
//! on moving, is taken for one that the origin's change reaches by what cells do not show, and its share counts as the origin's,
//! unless its version or the probes say otherwise. One that moved while the origin stood still changed by itself.
//!
//! Shares follow the [`Line`] of nodes from a source to each last stage.

use std::collections::{BTreeMap, BTreeSet};

use driftline_stats::{Attribution, Findings, Probes, Verdict, verdict};
use driftline_types::{StageName, StageVersion};

use crate::{
    Baseline, Basis, NodeBaseline, NodeFinding, NodeWindow, Trace, What,
    detect::{Detectors, Watch},
    effect::{expected_and_found, shift},
    line::Line,
    windows::Closed,
};

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
    pub windows: Vec<&'a Closed>,
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
    let evidence = |name: &StageName| detectors.strongest(name).map_or(0.0, Watch::evidence);
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
    for (name, differs) in lines.iter().flat_map(|(line, found)| line.changed(found)) {
        *changed.entry(name).or_default() |= differs;
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
    let graph = baseline.nodes.iter().zip(&nodes).map(|(node, found)| Moved {
        name: &node.name,
        inputs: &node.inputs,
        changed: found.verdict.is_change(),
        certain: evidence(&node.name) >= CERTAIN * level,
    });
    let told_of = told_of(&graph.collect::<Vec<_>>());
    let certain = |name: &StageName| {
        let own = conditional.get(name).copied().unwrap_or(0.0);
        let own = if first(name) { own.max(evidence(name)) } else { own };
        // Another version is not judged, so its table is all there is to go by.
        let replaced = nodes.iter().any(|node| node.node == *name && node.verdict == Verdict::VersionChanged);
        own >= CERTAIN * level || proven(name) || replaced || told_of.contains(name)
    };
    let share = |name: &StageName| lines.iter().map(|(line, found)| line.share(found, name)).fold(0.0, f64::max);
    let origin = origin(&nodes, share, certain);
    let followers = match &origin {
        Some(origin) => followers(baseline, detectors, &nodes, origin, level),
        None => BTreeSet::new(),
    };
    for node in nodes.iter_mut().filter(|node| followers.contains(&node.node)) {
        node.verdict = Verdict::HiddenInput;
    }
    let itself = |name: &StageName| nodes.iter().any(|node| node.node == *name && node.verdict.is_change());
    // What a follower makes of its input differs, though by no doing of its own: its table counts, at the origin.
    let differs = |name: &StageName| suspect(name) || followers.contains(name);
    let traces = lines.iter().filter_map(|(line, _)| {
        // Whether nothing but the origin can have moved its end.
        let alone = moved(line.target()) && line.nodes().all(|name| origin.as_ref() == Some(name) || !itself(name));
        Some(line.trace(&line.attribution(&differs)?, &differs, origin.as_ref(), &followers, alone))
    });
    let traces = traces.collect();
    Cause { nodes, traces, origin }
}

/// How far a node has moved.
struct Moved<'a> {
    name: &'a StageName,
    inputs: &'a [StageName],
    /// By itself.
    changed: bool,
    /// For certain, by itself or not.
    certain: bool,
}

/// Returns the nodes that a stage behind them tells of: it moves for certain, so where neither it nor a stage between has changed,
/// they have. Nodes come after those they read.
fn told_of<'a>(nodes: &[Moved<'a>]) -> BTreeSet<&'a StageName> {
    let mut told_of = BTreeSet::new();
    for node in nodes.iter().rev() {
        if !node.changed && (node.certain || told_of.contains(node.name)) {
            told_of.extend(node.inputs);
        }
    }
    told_of
}

/// Returns the stages behind the origin whose P(output | input) moved with it: of those that no probe asks the ones that began to with
/// it, of those that the probes clear all.
fn followers(
    baseline: &Baseline,
    detectors: &Detectors,
    nodes: &[NodeFinding],
    origin: &StageName,
    level: f64,
) -> BTreeSet<StageName> {
    let began = detectors.strongest(origin).and_then(Watch::onset);
    let goes_on = |at| detectors.of(origin).any(|watch| watch.evidence() >= level && watch.moves_at(at));
    let together = |name: &StageName| {
        let mut watches = detectors.watches.iter();
        let conditional = watches.find(|watch| watch.node == *name && watch.what == What::Conditional);
        match (began, conditional) {
            (Some(began), Some(watch)) => watch.onset().is_none_or(|onset| {
                let between = began.min(onset)..began.max(onset);
                watch.windows_in(between) <= TOGETHER || goes_on(onset)
            }),
            _ => true,
        }
    };
    let mut behind = BTreeSet::from([origin]);
    let mut followers = BTreeSet::new();
    for (node, found) in baseline.nodes.iter().zip(nodes) {
        if node.inputs.iter().any(|input| behind.contains(input)) {
            behind.insert(&node.name);
            let follows = match found.probes {
                Probes::None => found.verdict == Verdict::StageChanged && together(&node.name),
                Probes::Same => found.verdict == Verdict::HiddenInput,
                Probes::Different => false,
            };
            if follows {
                followers.insert(node.name.clone());
            }
        }
    }
    followers
}

/// Where nothing is known to have changed, yet the probes clear a stage that makes something else of its input: if they clear all before
/// it but one, it is that one.
fn name_what_is_left(baseline: &Baseline, nodes: &mut [NodeFinding]) {
    if nodes.iter().any(|node| node.verdict.is_change()) {
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

/// Returns the node in which it began: of those that changed themselves, the first in the graph that is certain, by itself or by what
/// stages behind it tell, whatever its share: a change goes down the graph and never up, and what a cell does not show (the words of a
/// transcript) changes the stages behind as if by themselves. Else the one with the largest share, else the first.
fn origin(
    nodes: &[NodeFinding],
    share: impl Fn(&StageName) -> f64,
    certain: impl Fn(&StageName) -> bool,
) -> Option<StageName> {
    let changed: Vec<&StageName> =
        nodes.iter().filter(|node| node.verdict.is_change()).map(|node| &node.node).collect();
    let first = changed.iter().find(|name| certain(name));
    let most = changed.iter().filter(|name| share(name) > 0.0).max_by(|a, b| share(a).total_cmp(&share(b)));
    first.or(most).or(changed.first()).map(|name| (*name).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_moves_without_a_change_of_its_own_tells_of_what_has_changed_before_it() {
        let names = ["source", "first", "second", "third"].map(|name| StageName::try_new(name).unwrap());
        let tells = |changed: [bool; 4], certain: [bool; 4]| -> Vec<&str> {
            let node = |at: usize| {
                let inputs = if at == 0 { &[][..] } else { &names[at - 1..at] };
                Moved { name: &names[at], inputs, changed: changed[at], certain: certain[at] }
            };
            let told_of = told_of(&[0, 1, 2, 3].map(node));
            names
                .iter()
                .zip(changed)
                .filter(|(name, changed)| *changed && told_of.contains(name))
                .map(|(name, _)| name.as_str())
                .collect()
        };
        assert_eq!(tells([true, false, true, false], [false, true, true, false]), ["source"]);
        assert_eq!(tells([true, false, true, false], [false, false, true, true]), ["second"]);
        assert_eq!(tells([true, true, false, false], [true, true, false, true]), ["first"]);
        assert!(tells([true, false, true, false], [true, false, true, false]).is_empty());
    }
}
