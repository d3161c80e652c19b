//! `driftline validate` and `driftline graph`.

use std::path::Path;

use crate::{
    Exit,
    args::{Changes, GraphArgs, GraphFormat, ValidateArgs},
    exit::Failure,
    log, print, reference,
};

/// Checks every file, whatever is found in those before it.
pub(crate) fn validate(args: &ValidateArgs) -> Result<Exit, Failure> {
    let mut problems = Vec::new();
    for pipeline in &args.pipelines {
        if let Err(failure) = check(pipeline, &args.changes) {
            problems.push(failure.message);
        }
    }
    if problems.is_empty() { Ok(Exit::Success) } else { Err(Failure::usage(problems.join("\n"))) }
}

fn check(pipeline: &Path, changes: &Changes) -> Result<(), Failure> {
    let plan = log::load_file(pipeline, changes)?;
    eprintln!(
        "{}: {} is valid: {} sources, {} stages, {} sinks, {} tests",
        plan.file.display(),
        plan.name,
        plan.sources.len(),
        plan.stages.len(),
        plan.sinks.len(),
        plan.tests.len()
    );
    if let Some(baseline) = reference::baseline(&plan)? {
        eprintln!("reference: {}", reference::described(&baseline));
    }
    Ok(())
}

pub(crate) fn graph(args: &GraphArgs) -> Result<Exit, Failure> {
    let graph = log::load(&args.pipeline)?.graph();
    print::text(match args.format {
        GraphFormat::Dot => graph.to_dot(),
        GraphFormat::Mermaid => graph.to_mermaid(),
    })?;
    Ok(Exit::Success)
}
