//! How far something has moved, as a number and in words.

use std::collections::BTreeMap;

use driftline_stats::{
    Effect, EmbeddingProfile, JointProfile, MIN_ROW, NumberProfile, ProfileSet, SignalProfile, jensen_shannon,
    jensen_shannon_effect, wasserstein_effect,
};
use driftline_types::Code;

use crate::{Baseline, Measure, NodeWindow, SignalFinding, What, cause::Span, detect::Watch};

/// The chance that the lower bound of an effect is too high.
const ERROR: f64 = 0.05;

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
        onset: watch.onset(),
    };
    let (Some(reference), Some(current)) = (reference, current) else { return finding };
    if watch.what == What::Conditional {
        if let (Some(before), Some(now)) = (&reference.joint, &current.joint) {
            (finding.effect, finding.change) = conditional_effect(before, now, watch.inflation);
        }
    } else if let (Some(before), Some(now)) = (reference.signal(&watch.what), current.signal(&watch.what)) {
        (finding.effect, finding.measure) = effect(before, now, watch.inflation);
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
    let found = set.iter().flat_map(ProfileSet::signals).find(|(known, _, _)| known == name);
    found.map_or("", |(_, unit, _)| unit)
}

/// Returns the larger of the effects on the values and on the share of unusable ones; n records count as n / `inflation`.
pub(crate) fn effect(before: &SignalProfile, now: &SignalProfile, inflation: f64) -> (Option<Effect>, Measure) {
    let larger = |a: (Option<Effect>, Measure), b: (Option<Effect>, Measure)| {
        let size = |found: &(Option<Effect>, Measure)| found.0.map_or(-1.0, |effect| found.1.size(effect.at_least));
        if size(&b) > size(&a) { b } else { a }
    };
    match (before, now) {
        (SignalProfile::Number(before), SignalProfile::Number(now)) => {
            let values = wasserstein_effect(before.ordered(), now.ordered(), ERROR, inflation);
            let usable = |profile: &NumberProfile| [profile.finite(), profile.total() - profile.finite()];
            let unusable = jensen_shannon_effect(&usable(before), &usable(now), ERROR, inflation);
            larger((values, Measure::Ranks), (unusable, Measure::Divergence))
        }
        (SignalProfile::Category(before), SignalProfile::Category(now)) => {
            (jensen_shannon_effect(before.counts(), now.counts(), ERROR, inflation), Measure::Divergence)
        }
        (SignalProfile::Embedding(before), SignalProfile::Embedding(now)) => {
            let cells = (jensen_shannon_effect(before.cells(), now.cells(), ERROR, inflation), Measure::Divergence);
            let projections = before.projections().iter().zip(now.projections());
            let moved =
                projections.map(|(before, now)| (wasserstein_effect(before, now, ERROR, inflation), Measure::Ranks));
            moved.fold(cells, larger)
        }
        _ => (None, Measure::Divergence),
    }
}

/// Says what became of a signal, with its unit.
pub(crate) fn change(before: &SignalProfile, now: &SignalProfile, unit: &str) -> String {
    let percent = |part: u64, of: u64| 100.0 * part as f64 / of.max(1) as f64;
    // The unit of what has none.
    let unit = if unit == "1" { "" } else { unit };
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
        (SignalProfile::Embedding(before), SignalProfile::Embedding(now)) => {
            let far = |profile: &EmbeddingProfile| {
                profile.bins().far().map_or(0.0, |slot| percent(profile.cells()[slot], profile.total()))
            };
            let (a, b) = (far(before), far(now));
            if (a - b).abs() >= 1.0 { format!("unlike any before {a:.0} % → {b:.0} %") } else { String::new() }
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
fn conditional_effect(before: &JointProfile, now: &JointProfile, inflation: f64) -> (Option<Effect>, String) {
    let (left, right) = expected_and_found(before, now);
    let dropped = |joint: &JointProfile| 100.0 * joint.dropped() as f64 / joint.total().max(1) as f64;
    let (a, b) = (dropped(before), dropped(now));
    let said = if (a - b).abs() >= 1.0 { format!("dropped {a:.0} % → {b:.0} %") } else { String::new() };
    (jensen_shannon_effect(&left, &right, ERROR, inflation), said)
}

/// Returns by output what the reference makes of the inputs of now, as well known as the reference, and what came out; the last
/// place is that of dropped records.
pub(crate) fn expected_and_found(before: &JointProfile, now: &JointProfile) -> (Vec<u64>, Vec<u64>) {
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
/// Returns the divergence of two counts less what chance makes of it, bits.
pub(crate) fn shift(left: &[u64], right: &[u64]) -> f64 {
    let total = |counts: &[u64]| counts.iter().sum::<u64>().max(1) as f64;
    let degrees = left.iter().zip(right).filter(|(a, b)| **a + **b > 0).count().saturating_sub(1) as f64;
    let chance = degrees * (1.0 / total(left) + 1.0 / total(right)) / (8.0 * std::f64::consts::LN_2);
    jensen_shannon(left, right).map_or(0.0, |found| (found - chance).max(0.0))
}
