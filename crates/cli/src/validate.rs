//! `driftline validate` and `driftline graph`.

use crate::{
    Exit,
    args::{GraphArgs, GraphFormat, PipelineArgs},
    exit::Failure,
    log, reference,
};

pub(crate) fn validate(args: &PipelineArgs) -> Result<Exit, Failure> {
    let plan = log::load(args)?;
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
    Ok(Exit::Success)
}

pub(crate) fn graph(args: &GraphArgs) -> Result<Exit, Failure> {
    let graph = log::load(&args.pipeline)?.graph();
    print!(
        "{}",
        match args.format {
            GraphFormat::Dot => graph.to_dot(),
            GraphFormat::Mermaid => graph.to_mermaid(),
        }
    );
    Ok(Exit::Success)
}
