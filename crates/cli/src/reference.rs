//! `driftline reference`, and the reference of a pipeline for every command that counts or judges.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use driftline_monitor::{Baseline, Range, build};
use driftline_pipeline::{Node, Plan};
use driftline_runtime::Monitoring;
use driftline_stage::operator::Bins;
use driftline_stats::{References, SignalVisitor};
use driftline_types::{Timestamp, config::Millis};

use crate::{
    Exit,
    args::{BuildArgs, ReferenceArgs, ReferenceCommand, check_range},
    exit::Failure,
    log, print,
    registry::REGISTRY,
    run::{execute_first, whole},
};

pub(crate) fn reference(args: &ReferenceArgs) -> Result<Exit, Failure> {
    let ReferenceCommand::Build(args) = &args.command;
    build_reference(args)
}

fn build_reference(args: &BuildArgs) -> Result<Exit, Failure> {
    let mut plan = log::load(&args.pipeline)?;
    let Some(output) = args.output.clone().or_else(|| plan.monitor.reference.clone()) else {
        let file = plan.file.display();
        return Err(Failure::usage(format!(
            "{file}: --output: is missing, allowed are a path here or as monitor.reference"
        )));
    };
    let ranges = ranges(&args.from, &args.to)?;
    // What is built does not depend on what was built before.
    plan.monitor.reference = None;
    let broker = log::open_to_read(&plan, &log::outputs(&plan))?;
    if !log::is_durable(&plan) {
        whole(&plan, &execute_first(&plan, &broker, None)?)?;
    }
    let built = build(&*broker, &plan, &ranges, &show)
        .map_err(|error| Failure::running(format!("{}: {error}", plan.file.display())))?;
    built.save(&output).map_err(Failure::running)?;
    print::tell!("{}: {}", output.display(), described(&built));
    for node in &built.nodes {
        let cells = node.output.records().map_or(0, driftline_stats::RecordCodebook::cells);
        let (records, cells) = (print::counted(node.records, "record"), print::counted(cells as u64, "cell"));
        print::tell!("  {} {}: {records}, {cells}", node.name, node.version);
    }
    for short in built.unarmed() {
        print::tell!("  not watched, too few windows with records: {short}");
    }
    Ok(Exit::Success)
}

/// Pairs the beginnings of stretches with their ends; of one stretch either may be left out.
fn ranges(from: &[Timestamp], to: &[Timestamp]) -> Result<Vec<Range>, Failure> {
    for (from, to) in from.iter().zip(to) {
        check_range(Some(*from), Some(*to))?;
    }
    if from.len().max(to.len()) <= 1 {
        return Ok(vec![Range { from: from.first().copied(), to: to.first().copied() }]);
    }
    if from.len() != to.len() {
        let (from, to) = (from.len(), to.len());
        return Err(Failure::usage(format!(
            "--from, --to: found {from} and {to} of them, allowed are as many of both"
        )));
    }
    Ok(from.iter().zip(to).map(|(from, to)| Range { from: Some(*from), to: Some(*to) }).collect())
}

/// Says what a reference was made from.
fn described(baseline: &Baseline) -> String {
    let window = Millis(baseline.window_ms);
    let ends = baseline.windows.first().zip(baseline.windows.last());
    let span = ends.map_or_else(String::new, |(first, last)| format!(", {first} to {last}"));
    let windows = print::counted(baseline.windows.len() as u64, "window");
    let records = print::counted(baseline.records, "record");
    format!("{windows} of {window}, {records}{span}")
}

fn show(node: &Node, value: &Bytes, visit: &mut dyn SignalVisitor) -> Result<(), String> {
    let stage = REGISTRY.stage(node.kind).map(|def| def.signals);
    let signals = stage.or_else(|| REGISTRY.source(node.kind).map(|def| def.signals));
    signals.map_or(Ok(()), |signals| signals(value, visit).map_err(|error| error.to_string()))
}

/// Says what the reference of a pipeline was made from, if it names one.
pub(crate) fn described_of(plan: &Plan) -> Result<Option<String>, Failure> {
    Ok(baseline(plan)?.map(|baseline| described(&baseline)))
}

/// Reads the reference that a pipeline names, if it names one.
pub(crate) fn baseline(plan: &Plan) -> Result<Option<Arc<Baseline>>, Failure> {
    let Some(path) = &plan.monitor.reference else { return Ok(None) };
    let wrong = |problem: String| Failure::usage(plan.problem_of_file(&["monitor", "reference"], problem));
    let baseline = Baseline::load(path).map_err(|error| wrong(error.to_string()))?;
    if baseline.pipeline != plan.name {
        return Err(wrong(format!(
            "found a reference of the pipeline {:?}, allowed is one of {:?}",
            baseline.pipeline, plan.name
        )));
    }
    if baseline.window_ms != plan.monitor.window.0 {
        let found = Millis(baseline.window_ms);
        return Err(wrong(format!(
            "found windows of {found}, monitor.window is {}, allowed are equal ones",
            plan.monitor.window
        )));
    }
    Ok(Some(Arc::new(baseline)))
}

/// Returns what a pipeline's monitor compares with: its reference, or nothing but rules.
pub(crate) fn watched(plan: &Plan) -> Result<Arc<Baseline>, Failure> {
    let none = || Arc::new(Baseline::none(plan.name.clone(), plan.monitor.window.0));
    Ok(baseline(plan)?.unwrap_or_else(none))
}

/// Returns the references that the profiles of a pipeline may be counted on.
pub(crate) fn references(plan: &Plan) -> Result<References, Failure> {
    Ok(baseline(plan)?.map(|baseline| baseline.references()).unwrap_or_default())
}

/// Makes what the nodes of a run count on.
pub(crate) fn monitoring(plan: &Plan, baseline: Option<&Baseline>) -> Monitoring {
    let mut bins = BTreeMap::new();
    for node in plan.sources.iter().chain(&plan.stages) {
        if let Some(known) = baseline.and_then(|baseline| baseline.node(&node.name)).filter(|k| k.inputs == node.inputs)
        {
            let (input, output) = (Arc::clone(&known.input), Arc::clone(&known.output));
            bins.insert(node.name.clone(), Bins { input, output });
        }
    }
    Monitoring { bins, ..Monitoring::default() }
}
