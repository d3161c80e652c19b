//! Tables for people, and the same as JSON.

use std::{collections::BTreeMap, io::IsTerminal};

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, presets::UTF8_BORDERS_ONLY};
use driftline_models::inspect::ModelSummary;
use driftline_pipeline::Plan;
use driftline_runtime::{End, NodeKind, Report, profiles::Profiles};
use driftline_stats::{Profile, ProfileBody, SignalProfile};
use driftline_types::{StageName, StageVersion};
use ratatui::crossterm::terminal;
use serde_json::{Value, json};

use crate::print;

/// The characters of a version that tell it from the others of its node.
const SHORT: usize = 8;

pub(crate) fn table(header: &[&str], numbers_from: usize) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header);
    for column in table.column_iter_mut().skip(numbers_from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Fits a table to the width of the terminal that it is printed on; elsewhere it stays as wide as it is.
pub(crate) fn fitted(table: Table, printed_on: &impl IsTerminal) -> Table {
    match terminal::size() {
        Ok((width, _)) if printed_on.is_terminal() => fit(table, width),
        _ => table,
    }
}

/// Folds the last column, which is words, so that the table is so wide. Names and numbers are not folded: a table that would have
/// to is left to the terminal.
fn fit(mut table: Table, width: u16) -> Table {
    const LEAST: usize = 16;
    let widths = table.column_max_content_widths();
    let Some((_, others)) = widths.split_last() else { return table };
    // A column has a space on either side, the table a line on either.
    let taken = 2 + 2 + others.iter().map(|&width| usize::from(width) + 2).sum::<usize>();
    if usize::from(width) >= taken + LEAST {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        for column in table.column_iter_mut().take(others.len()) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table
}

/// What each node did.
pub(crate) fn nodes(report: &Report) -> Table {
    let header =
        ["node", "in", "out", "dropped", "dead letters", "p50 ms", "p95 ms", "p99 ms", "records/s", "busy", "version"];
    let mut table = table(&header, 1);
    for node in &report.nodes {
        let metrics = &node.metrics;
        let shown = |n: u64, there: bool| if there { n.to_string() } else { String::new() };
        let latency = |of: fn(&driftline_runtime::Percentiles) -> f64| {
            metrics.latency_ms.as_ref().map_or_else(String::new, |latency| number(of(latency)))
        };
        let records = if metrics.kind == NodeKind::Source { metrics.written } else { metrics.read };
        table.add_row([
            metrics.name.to_string(),
            shown(metrics.read, metrics.kind != NodeKind::Source),
            shown(metrics.written, metrics.kind != NodeKind::Sink),
            shown(metrics.dropped, metrics.kind == NodeKind::Stage),
            metrics.rejected.to_string(),
            latency(|latency| latency.p50),
            latency(|latency| latency.p95),
            latency(|latency| latency.p99),
            number(records as f64 / report.seconds.max(1e-9)),
            format!("{:.0} %", 100.0 * metrics.busy_seconds / report.seconds.max(1e-9)),
            node.version.as_ref().map_or_else(String::new, ToString::to_string),
        ]);
    }
    table
}

/// Names how a run ended, as its summary in JSON does.
pub(crate) fn end(end: End) -> &'static str {
    match end {
        End::Finished => "finished",
        End::Stopped => "stopped",
        End::CutOff => "cut_off",
    }
}

/// How the run went as a whole.
pub(crate) fn summary(report: &Report) -> String {
    let how = match report.end {
        End::Finished => "finished",
        End::Stopped => "stopped as asked, everything read was worked off",
        End::CutOff => "stopped as asked, cut off before everything was worked off",
    };
    format!(
        "{how} after {:.2} s, {:.2} s of CPU, at most {:.0} MB of memory\n\
         latency: of a stage from reading a record to committing its results, of a sink from entry to exit",
        report.seconds,
        report.cpu_seconds,
        report.peak_memory as f64 / 1e6
    )
}

/// What each stage saw: a row a signal, in the order of the graph. Versions are named where a node has several, the newest
/// last.
pub(crate) fn signals(seen: &Profiles, plan: &Plan) -> Table {
    let windows = seen.merged.values().any(|profile| profile.key.window.millis > 0);
    let versions = versions(seen);
    let named = versions.values().any(|versions| versions.len() > 1);
    let mut header = vec![
        "stage",
        "version",
        "side",
        "signal",
        "unit",
        "n",
        "missing",
        "mean",
        "std",
        "min",
        "≈p50",
        "≈p95",
        "max",
        "most frequent",
    ];
    if !named {
        header.retain(|name| *name != "version");
    }
    let mut table = table(&header, header.len() - 9);
    if let Some(column) = table.column_mut(header.len() - 1) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    for profile in ordered(seen, plan, &versions) {
        let key = &profile.key;
        let stage = if windows { format!("{} {}", key.stage, key.window.start) } else { key.stage.to_string() };
        let (ProfileBody::Input(set) | ProfileBody::Output(set)) = &profile.body else { continue };
        for (name, unit, signal) in set.signals() {
            let mut row = Row::from([stage.as_str()]);
            if named {
                row.add_cell(Cell::new(key.version.as_str().chars().take(SHORT).collect::<String>()));
            }
            row.add_cell(Cell::new(profile.body.direction()));
            row.add_cell(Cell::new(name));
            row.add_cell(Cell::new(unit));
            row.add_cell(Cell::new(signal.total()));
            row.add_cell(Cell::new(signal.missing()));
            for cell in figures(signal) {
                row.add_cell(Cell::new(cell.map_or_else(String::new, number)));
            }
            row.add_cell(Cell::new(most_frequent(signal, 3)));
            table.add_row(row);
        }
    }
    table
}

/// Returns the versions of each node, the newest last.
fn versions(seen: &Profiles) -> BTreeMap<&StageName, Vec<&StageVersion>> {
    let mut last: Vec<_> = seen.last.iter().collect();
    last.sort_by_key(|(_, offset)| **offset);
    let mut versions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for ((stage, version), _) in last {
        versions.entry(stage).or_default().push(version);
    }
    versions
}

/// Returns profiles by their node, in the order of the graph, then version and window. Nodes that the pipeline has no more come
/// last.
fn ordered<'a>(
    seen: &'a Profiles,
    plan: &Plan,
    versions: &BTreeMap<&StageName, Vec<&StageVersion>>,
) -> Vec<&'a Profile> {
    let graph: Vec<&StageName> = plan.nodes().map(|(_, node)| &node.name).collect();
    let mut profiles: Vec<&Profile> = seen.merged.values().collect();
    profiles.sort_by_key(|profile| {
        let key = &profile.key;
        let node = graph.iter().position(|name| **name == key.stage).unwrap_or(graph.len());
        let version = versions.get(&key.stage).and_then(|all| all.iter().position(|version| **version == key.version));
        (node, key.stage.clone(), version, key.window, profile.body.direction())
    });
    profiles
}

/// Mean, standard deviation, least, p50, p95 and greatest of a number; p50 and p95 are estimates from bins.
fn figures(signal: &SignalProfile) -> [Option<f64>; 6] {
    let SignalProfile::Number(profile) = signal else { return [None; 6] };
    [profile.mean(), profile.std(), profile.min(), profile.quantile(0.5), profile.quantile(0.95), profile.max()]
}

fn most_frequent(signal: &SignalProfile, limit: usize) -> String {
    let SignalProfile::Category(profile) = signal else { return String::new() };
    let total = profile.total().max(1) as f64;
    let share = |(value, n): (&str, u64)| format!("{} {:.0} %", print::visible(value, &[]), 100.0 * n as f64 / total);
    profile.top(limit).into_iter().map(share).collect::<Vec<_>>().join(", ")
}

/// A JSON value a profile.
pub(crate) fn signals_json(seen: &Profiles) -> Vec<Value> {
    seen.merged.values().map(profile_json).collect()
}

fn profile_json(profile: &Profile) -> Value {
    let key = &profile.key;
    let body = match &profile.body {
        ProfileBody::Joint(joint) => {
            let pairs: Vec<_> = joint.pairs().into_iter().map(|(input, output, n)| json!([input, output, n])).collect();
            json!({ "pairs": pairs })
        }
        ProfileBody::Input(set) | ProfileBody::Output(set) => {
            let signals: serde_json::Map<String, Value> =
                set.signals().map(|(name, unit, signal)| (name.to_owned(), signal_json(unit, signal))).collect();
            json!({ "reference": set.reference_id().to_string(), "signals": signals })
        }
    };
    let mut value = json!({
        "stage": key.stage.as_str(),
        "version": key.version.as_str(),
        "direction": profile.body.direction().to_string(),
        "window": (key.window.millis > 0).then(|| json!({ "start": key.window.start.to_string(), "ms": key.window.millis })),
    });
    if let (Value::Object(value), Value::Object(body)) = (&mut value, body) {
        value.extend(body);
    }
    value
}

fn signal_json(unit: &str, signal: &SignalProfile) -> Value {
    let mut value = json!({ "unit": unit, "n": signal.total(), "missing": signal.missing() });
    let more = match signal {
        SignalProfile::Number(profile) => {
            let [mean, std, min, p50, p95, max] = figures(signal);
            json!({ "mean": mean, "std": std, "min": min, "p50": p50, "p95": p95, "max": max, "counts": profile.counts() })
        }
        SignalProfile::Category(profile) => {
            let top = profile.top(16).into_iter().map(|(value, n)| json!([value, n])).collect::<Vec<_>>();
            json!({ "distinct": profile.distinct(), "top": top })
        }
        SignalProfile::Embedding(profile) => json!({ "cells": profile.cells() }),
    };
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

/// What a model file holds.
pub(crate) fn model(summary: &ModelSummary) -> String {
    let mut tensors = table(&["tensor", "type", "shape", "parameters"], 2);
    for tensor in &summary.tensors {
        tensors.add_row([
            tensor.name.clone(),
            tensor.dtype.to_string(),
            format!("{:?}", tensor.shape),
            tensor.parameters.to_string(),
        ]);
    }
    let tensors = fitted(tensors, &std::io::stdout());
    let config = summary.config.iter().map(|(key, value)| format!("{key}: {value}\n")).collect::<String>();
    format!(
        "kind: {}\nparameters: {}\nbytes: {}\nblake3: {}\n{config}{tensors}",
        summary.kind, summary.parameters, summary.bytes, summary.hash
    )
}

/// A number in at most four significant digits or as a whole number.
fn number(x: f64) -> String {
    match x.abs() {
        a if a >= 1000.0 || a == 0.0 => format!("{x:.0}"),
        a if a >= 100.0 => format!("{x:.1}"),
        a if a >= 1.0 => format!("{x:.2}"),
        a if a >= 0.1 => format!("{x:.3}"),
        a if a >= 0.01 => format!("{x:.4}"),
        a if a >= 0.001 => format!("{x:.5}"),
        _ => format!("{x:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_column_is_folded_and_only_if_that_is_enough() {
        let lines = |width| {
            let mut table = table(&["what", "number", "words"], 1);
            table.add_row(["audio.sample_rate", "123456.789", "one two three four five six seven eight nine"]);
            let shown = fit(table, width).to_string();
            assert!(shown.contains("audio.sample_rate") && shown.contains("123456.789"), "{shown}");
            shown.lines().map(|line| line.chars().count()).collect::<Vec<_>>()
        };
        let wide = lines(200);
        assert_eq!(wide.len(), 5);
        let folded = lines(60);
        assert!(folded.len() > 5 && folded.iter().all(|&width| width <= 60), "{folded:?}");
        assert_eq!(lines(40), wide);
    }

    #[test]
    fn small_numbers_keep_their_digits() {
        let told = [1234.0, 123.45, 12.345, 0.5678, 0.05678, 0.00384, 0.000_384, -0.00384, 0.0].map(number);
        assert_eq!(told, ["1234", "123.5", "12.35", "0.568", "0.0568", "0.00384", "3.84e-4", "-0.00384", "0"]);
    }
}
