//! How things stand, for people: every node and signal, reference against current.

use driftline_pipeline::RuleConfig;
use driftline_stats::{Effect, SignalProfile, Verdict};
use driftline_types::{PipelineName, StageName, StageVersion, Timestamp};
use serde::Serialize;

use crate::{Alarm, Baseline, Measure, NodeBaseline, NodeWindow, Trace, What};

/// The bars of a number, and of a category, at most.
const BARS: usize = 16;
const VALUES: usize = 8;

/// How a pipeline stands.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// What there is to say, in one sentence.
    pub sentence: String,
    /// Windows judged.
    pub windows: u64,
    /// The evidence that something has changed.
    pub evidence: f64,
    /// The evidence from which it is an alarm.
    pub run_length: f64,
    /// The starts of the first and last window that are compared with the reference.
    pub span: Option<(Timestamp, Timestamp)>,
    /// Its sources and stages, each after those it reads.
    pub nodes: Vec<NodeReport>,
    /// Whose doing the change of each last stage is, as of the alarm.
    pub traces: Vec<Trace>,
    /// Alarms that are not resolved.
    pub alarms: Vec<Alarm>,
    /// The rules, as people wrote them.
    pub rules: Vec<String>,
    /// What else is worth telling.
    pub notes: Vec<String>,
}

/// How a node stands.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// The node.
    pub node: StageName,
    /// The nodes that it reads.
    pub inputs: Vec<StageName>,
    /// The version that ran last.
    pub version: Option<StageVersion>,
    /// What became of it; `None` where it is not judged: without a reference, in another version, with other inputs or
    /// bins than there, and before a window of it was closed.
    pub verdict: Option<Verdict>,
    /// Its signals.
    pub signals: Vec<SignalReport>,
}

/// A signal, reference against current.
#[derive(Clone, Debug, Serialize)]
pub struct SignalReport {
    /// Which.
    pub what: What,
    /// Its unit.
    pub unit: String,
    /// The evidence that it has changed.
    pub evidence: f64,
    /// How far it has moved.
    pub effect: Option<Effect>,
    /// In which measure.
    pub measure: Measure,
    /// Before and after, for people.
    pub change: String,
    /// The bars, each with the share of values before and now.
    pub bars: Vec<Bar>,
}

/// A part of a signal's values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bar {
    /// Where it begins, or the value.
    pub label: String,
    /// The share in the reference.
    pub before: f64,
    /// The share now.
    pub now: f64,
}

/// Compares a signal with the reference, part by part.
pub(crate) fn bars(before: &SignalProfile, now: Option<&SignalProfile>) -> Vec<Bar> {
    let share = |counts: &[u64], at: std::ops::Range<usize>| {
        let total: u64 = counts.iter().sum();
        let part: u64 = counts.get(at).map_or(0, |part| part.iter().sum());
        part as f64 / total.max(1) as f64
    };
    match (before, now) {
        (SignalProfile::Number(profile), now) => {
            let counts = profile.ordered();
            let now = match now {
                Some(SignalProfile::Number(now)) => now.ordered(),
                _ => &[],
            };
            let bounds = profile.edges().bounds();
            let width = counts.len().div_ceil(BARS).max(1);
            (0..counts.len())
                .step_by(width)
                .map(|from| {
                    let to = (from + width).min(counts.len());
                    let label = if from == 0 { "below".to_owned() } else { start(&bounds[..from]) };
                    Bar { label, before: share(counts, from..to), now: share(now, from..to) }
                })
                .collect()
        }
        (SignalProfile::Category(profile), now) => {
            let now = match now {
                Some(SignalProfile::Category(now)) => now.counts(),
                _ => &[],
            };
            let names = ["missing", "new values"].into_iter().chain(profile.dictionary().values());
            let mut bars: Vec<Bar> = names
                .enumerate()
                .map(|(slot, name)| Bar {
                    label: name.to_owned(),
                    before: share(profile.counts(), slot..slot + 1),
                    now: share(now, slot..slot + 1),
                })
                .filter(|bar| bar.before > 0.0 || bar.now > 0.0)
                .collect();
            bars.sort_by(|a, b| b.before.max(b.now).total_cmp(&a.before.max(a.now)));
            bars.truncate(VALUES);
            bars
        }
        (SignalProfile::Embedding(profile), now) => {
            let now = match now {
                Some(SignalProfile::Embedding(now)) => now.cells(),
                _ => &[],
            };
            let cells = profile.cells();
            let far = profile.bins().far();
            let label = |slot: usize| match slot {
                0 => "missing".to_owned(),
                driftline_stats::MALFORMED => "malformed".to_owned(),
                _ if Some(slot) == far => "unlike any before".to_owned(),
                _ => format!("cell {}", slot - driftline_stats::FIRST_CELL),
            };
            let bar = |slot: usize| Bar {
                label: label(slot),
                before: share(cells, slot..slot + 1),
                now: share(now, slot..slot + 1),
            };
            (0..cells.len()).map(bar).collect()
        }
    }
}

/// Says where a bin begins: at the last of these bounds, which lies just above the one before where a value has a bin to itself.
fn start(bounds: &[f64]) -> String {
    match bounds {
        [.., value, bound] if value.next_up() == *bound => format!("> {}", short(*value)),
        [.., bound] => short(*bound),
        [] => String::new(),
    }
}

fn short(x: f64) -> String {
    if x != 0.0 && !(0.01..10_000.0).contains(&x.abs()) {
        format!("{x:.1e}")
    } else {
        format!("{x:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// Says how each node stands, by what an alarm says of it, if there is one.
pub(crate) fn nodes(
    baseline: &Baseline,
    all: &[(StageName, Vec<StageName>)],
    current: impl Fn(&StageName) -> Option<NodeWindow>,
    version: impl Fn(&StageName) -> Option<StageVersion>,
    evidence: impl Fn(&StageName, &What) -> f64,
    alarm: Option<&Alarm>,
) -> Vec<NodeReport> {
    let node = |(name, inputs): &(StageName, Vec<StageName>)| {
        let known = baseline.node(name);
        let now = current(name);
        let found = alarm.and_then(|alarm| alarm.nodes.iter().find(|finding| finding.node == *name));
        let ran = version(name);
        // What a source writes is judged in any version.
        let is_judged = |known: &&NodeBaseline| {
            now.is_some() && known.inputs == *inputs && (inputs.is_empty() || ran.as_ref() == Some(&known.version))
        };
        let unchanged = known.filter(is_judged).map(|_| Verdict::Unchanged);
        let verdict = found.map(|finding| finding.verdict).or(unchanged);
        let signals = known.into_iter().flat_map(|known| &known.series).filter_map(|series| {
            let before = known?.profiles.signal(&series.what)?;
            let after = now.as_ref().and_then(|now| now.signal(&series.what));
            let (effect, measure) = after
                .map_or((None, Measure::Divergence), |after| crate::effect::effect(before, after, series.inflation()));
            let unit = crate::effect::unit(&known?.profiles, &series.what).to_owned();
            Some(SignalReport {
                what: series.what.clone(),
                evidence: evidence(name, &series.what),
                effect,
                measure,
                change: after.map_or_else(String::new, |after| crate::effect::change(before, after, &unit)),
                bars: bars(before, after),
                unit,
            })
        });
        NodeReport { node: name.clone(), inputs: inputs.clone(), version: ran, verdict, signals: signals.collect() }
    };
    all.iter().map(node).collect()
}

/// Writes a rule as people would.
pub(crate) fn rule(rule: &RuleConfig) -> String {
    let limit = match (rule.above, rule.below) {
        (Some(above), _) => format!("above {above}"),
        (None, Some(below)) => format!("below {below}"),
        (None, None) => String::new(),
    };
    format!("{}: {} {limit} for {}", rule.name, crate::rules::subject(rule), rule.lasts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_beside_a_value_with_one_to_itself_begins_above_it() {
        assert_eq!(start(&[-1.0, 0.0, 0.0f64.next_up()]), "> 0");
        assert_eq!(start(&[0.0, 0.5]), "0.5");
        assert_eq!(start(&[0.5]), "0.5");
    }
}
