//! `driftline validate` and `driftline graph`.

use std::path::Path;

use crate::{
    Exit,
    args::{Changes, GraphArgs, GraphFormat, ValidateArgs},
    exit::Failure,
    log, print, probes, reference,
};

/// Checks every file, whatever is found in those before it.
pub(crate) fn validate(args: &ValidateArgs) -> Result<Exit, Failure> {
    let mut problems = Vec::new();
    for pipeline in &args.pipelines {
        problems.extend(check(pipeline, &args.changes));
    }
    if problems.is_empty() { Ok(Exit::Success) } else { Err(Failure::usage(problems.join("\n"))) }
}

/// Checks a file and those that it names; returns what is wrong with them.
fn check(pipeline: &Path, changes: &Changes) -> Vec<String> {
    let plan = match log::load_file(pipeline, changes) {
        Ok(plan) => plan,
        Err(failure) => return vec![failure.message],
    };
    let (mut problems, mut texts) = (Vec::new(), Vec::new());
    for (what, found) in [("reference", reference::described_of(&plan)), ("probes", probes::described_of(&plan))] {
        match found {
            Err(failure) => problems.push(failure.message),
            Ok(Some(text)) => texts.push(format!("{what}: {text}")),
            Ok(None) => {}
        }
    }
    if !problems.is_empty() {
        return problems;
    }
    let parts = [
        (plan.sources.len(), "source"),
        (plan.stages.len(), "stage"),
        (plan.sinks.len(), "sink"),
        (plan.tests.len(), "test"),
    ]
    .map(|(count, one)| print::counted(count as u64, one));
    print::tell!("{}: {} is valid: {}", plan.file.display(), plan.name, parts.join(", "));
    texts.iter().for_each(|text| print::tell!("{text}"));
    problems
}

pub(crate) fn graph(args: &GraphArgs) -> Result<Exit, Failure> {
    let graph = log::load(&args.pipeline)?.graph();
    print::text(match args.format {
        GraphFormat::Dot => graph.to_dot(),
        GraphFormat::Mermaid => graph.to_mermaid(),
    })?;
    Ok(Exit::Success)
}
