//! What is said of a change, in one sentence.

use std::fmt::Display;

use driftline_stats::{Probes, Verdict};
use driftline_types::{StageName, Timestamp};

use crate::{Baseline, NodeFinding, SignalFinding, cause::Cause};

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
    // What is added makes 0 of −0.
    let percent = |share: f64| (100.0 * share).round() + 0.0;
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
    let of = |verdict| names(cause.nodes.iter().filter(|node| node.verdict == verdict).map(|node| &node.node));
    let changed = names(
        cause.nodes.iter().filter(|node| node.verdict.is_change() && node.node != *origin).map(|node| &node.node),
    );
    if !changed.is_empty() {
        said.push_str(&format!("; {changed} changed too"));
    }
    for (names, what) in [(of(Verdict::Unchanged), "unchanged"), (of(Verdict::InputMoved), "moved by input alone")] {
        if !names.is_empty() {
            said.push_str(&format!("; {names} {what}"));
        }
    }
    said.push_str(&followed(cause));
    said.push_str(&hidden(cause));
    said
}

/// Says of which stages the probes show that they are as before, though what they make of the same cells is not. Where no other
/// stage has changed and the origin stands before them, what they wrote otherwise came in with the origin.
fn hidden(cause: &Cause) -> String {
    let names = of_hidden_input(cause, Probes::Same);
    if names.is_empty() {
        return String::new();
    }
    let cleared =
        |node: &NodeFinding| matches!(node.verdict, Verdict::Unchanged | Verdict::InputMoved | Verdict::HiddenInput);
    let is_behind = |origin: &StageName| {
        let mut before = cause.nodes.iter().take_while(|node| node.node != *origin);
        before.all(|node| node.verdict != Verdict::HiddenInput)
    };
    let mut said = format!("; {names} unchanged by the probes: ");
    said.push_str(&match &cause.origin {
        Some(origin) if is_behind(origin) && cause.nodes.iter().all(|node| node.node == *origin || cleared(node)) => {
            format!("all that they write otherwise comes from `{origin}`, of which cells show only a part")
        }
        _ => "something moved in the input that its cells do not show".to_owned(),
    });
    said
}

/// Says which stages moved with the origin.
fn followed(cause: &Cause) -> String {
    let names = of_hidden_input(cause, Probes::None);
    if names.is_empty() {
        names
    } else {
        format!("; {names} moved with it, by what the cells of their input do not show")
    }
}

/// Names the nodes of hidden input of which the probes say this.
fn of_hidden_input(cause: &Cause, probes: Probes) -> String {
    let hidden = cause.nodes.iter().filter(|node| node.verdict == Verdict::HiddenInput && node.probes == probes);
    names(hidden.map(|node| &node.node))
}

/// Names of nodes as a sentence has them.
fn names(nodes: impl Iterator<Item = impl Display>) -> String {
    nodes.map(|node| format!("`{node}`")).collect::<Vec<_>>().join(", ")
}
