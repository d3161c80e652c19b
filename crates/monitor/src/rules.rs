//! Rules: thresholds that people set, on what a window counted.

use driftline_pipeline::{RuleConfig, SignalRef, Statistic};
use driftline_stats::{JointProfile, ProfileSet, SignalProfile};
use driftline_types::config::allowed_words;
use serde::{Deserialize, Serialize};

use crate::{What, windows::Seen};

/// What the keys of notes on rules begin with.
pub(crate) const MISFIT: &str = "rule/";

/// The windows in a row on either side of a threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Crossing {
    pub beyond: u64,
    pub within: u64,
}

impl Crossing {
    /// Counts a window.
    pub(crate) fn count(&mut self, beyond: bool) {
        if beyond {
            (self.beyond, self.within) = (self.beyond + 1, 0);
        } else {
            (self.beyond, self.within) = (0, self.within + 1);
        }
    }
}

/// Says whether a value is beyond the threshold of a rule.
pub(crate) fn is_beyond(rule: &RuleConfig, value: f64) -> bool {
    rule.above.is_some_and(|above| value > above) || rule.below.is_some_and(|below| value < below)
}

/// Returns the statistic of a window; `None` if it says nothing: too few records, or nothing that has this statistic.
/// A node that saw nothing counts 0 records.
pub(crate) fn value(rule: &RuleConfig, seen: Option<&Seen>, window_ms: u64) -> Option<f64> {
    let count = seen.map_or(0, |seen| {
        let total = |set: &Option<ProfileSet>| {
            set.iter().flat_map(|set| set.signals().map(|(_, _, signal)| signal.total()).max()).next()
        };
        total(&seen.window.input).or_else(|| total(&seen.window.output)).unwrap_or(0)
    });
    match &rule.statistic {
        Statistic::Count => return Some(count as f64),
        Statistic::Rate => return Some(count as f64 * 1e3 / window_ms.max(1) as f64),
        _ => {}
    }
    let seen = seen?;
    if rule.statistic == Statistic::Dropped {
        let joint = seen.window.joint.as_ref().filter(|joint| joint.total() >= rule.min_records.max(1))?;
        return Some(dropped(joint));
    }
    let what = match rule.signal.as_ref()? {
        SignalRef::Input(name) => What::Input(name.clone()),
        SignalRef::Output(name) => What::Output(name.clone()),
    };
    let profile = seen.window.signal(&what).filter(|profile| profile.total() >= rule.min_records.max(1))?;
    of_signal(&rule.statistic, profile)
}

fn dropped(joint: &JointProfile) -> f64 {
    joint.dropped() as f64 / joint.total() as f64
}

fn of_signal(statistic: &Statistic, profile: &SignalProfile) -> Option<f64> {
    let total = profile.total() as f64;
    match (statistic, profile) {
        (Statistic::Missing, profile) => Some(profile.missing() as f64 / total),
        (Statistic::Mean, SignalProfile::Number(profile)) => profile.mean(),
        (Statistic::Percentile(percent), SignalProfile::Number(profile)) => {
            profile.quantile(f64::from(*percent) / 100.0)
        }
        (Statistic::Share(value), SignalProfile::Category(profile)) => Some(profile.count(value)? as f64 / total),
        _ => None,
    }
}

/// Says why a rule can never say anything of a node: there is no such signal, or it has no such statistic. `None` if it can, and where
/// nothing was seen.
pub(crate) fn misfit(rule: &RuleConfig, seen: &Seen) -> Option<String> {
    let signal = rule.signal.as_ref()?;
    let (set, side, name) = match signal {
        SignalRef::Input(name) => (&seen.window.input, "input", name),
        SignalRef::Output(name) => (&seen.window.output, "output", name),
    };
    let set = set.as_ref()?;
    let Some(profile) = set.signal(name) else {
        let known: Vec<String> = set.signals().map(|(name, _, _)| format!("{side}:{name}")).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let found = signal.to_string();
        return (!known.is_empty()).then(|| format!("signal: found {found:?}, {}", allowed_words(&found, &known)));
    };
    let fits = matches!(
        (&rule.statistic, profile),
        (Statistic::Missing, _)
            | (Statistic::Mean | Statistic::Percentile(_), SignalProfile::Number(_))
            | (Statistic::Share(_), SignalProfile::Category(_))
    );
    let of_it = match profile {
        SignalProfile::Number(_) => "a number, allowed are \"mean\", \"missing\" and \"p1\" to \"p99\"",
        SignalProfile::Category(_) => "a category, allowed are \"missing\" and \"share of VALUE\"",
        SignalProfile::Embedding(_) => "an embedding, allowed is \"missing\"",
    };
    (!fits).then(|| format!("statistic: found \"{}\", {signal} is {of_it}", rule.statistic))
}

/// Returns the key of the note that a rule can say nothing. A rule that was changed has another.
pub(crate) fn misfit_key(rule: &RuleConfig) -> String {
    format!("{MISFIT}{}/{}", rule.name, subject(rule))
}

/// Says what a rule watches.
pub(crate) fn subject(rule: &RuleConfig) -> String {
    match &rule.signal {
        Some(signal) => format!("{} of `{} {signal}`", rule.statistic, rule.stage),
        None => format!("{} of `{}`", rule.statistic, rule.stage),
    }
}
