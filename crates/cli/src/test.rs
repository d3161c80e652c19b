//! `driftline test`: the `[[tests]]` of pipelines.

use driftline_pipeline::Plan;
use driftline_runtime::kinds;
use serde_json::Value;

use crate::{
    Exit,
    args::TestArgs,
    exit::Failure,
    log,
    registry::REGISTRY,
    run::{Watch, execute},
};

pub(crate) fn test(args: &TestArgs) -> Result<Exit, Failure> {
    let (mut passed, mut failed) = (0, 0);
    for file in &args.pipelines {
        let plan = Plan::load(file, &[], &kinds(&REGISTRY)).map_err(Failure::usage)?;
        if plan.tests.is_empty() {
            eprintln!("{}: has no [[tests]]", file.display());
        }
        for case in &plan.tests {
            let outcome = lines_of(file, case).and_then(|lines| case.compare(&lines).map_err(|f| f.to_string()));
            match outcome {
                Ok(()) => {
                    passed += 1;
                    println!("ok      {}: {}", file.display(), case.name);
                }
                Err(reason) => {
                    failed += 1;
                    println!("FAILED  {}: {}\n{reason}", file.display(), case.name);
                }
            }
        }
    }
    println!("\n{passed} passed, {failed} failed");
    Ok(if failed == 0 { Exit::Success } else { Exit::Failed })
}

/// Runs a pipeline as a test wants it and returns the lines that reach its sinks.
fn lines_of(file: &std::path::Path, case: &driftline_pipeline::TestCase) -> Result<Vec<Value>, String> {
    let mut plan = Plan::load(file, &case.overrides, &kinds(&REGISTRY)).map_err(|problems| problems.to_string())?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    plan.broker = driftline_pipeline::BrokerConfig::default();
    for (number, sink) in plan.sinks.iter_mut().enumerate() {
        sink.kind = "jsonl";
        let path = folder.path().join(format!("{number}.jsonl"));
        sink.config = toml::Table::from_iter([("path".to_owned(), path.to_string_lossy().into_owned().into())]);
    }
    let words = |failure: Failure| failure.message;
    let broker = log::open(&plan).map_err(words)?;
    execute(&plan, &broker, false, Watch::Hidden, None).map_err(words)?;
    let mut lines = Vec::new();
    for number in 0..plan.sinks.len() {
        let path = folder.path().join(format!("{number}.jsonl"));
        let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
        for line in text.lines() {
            lines.push(serde_json::from_str(line).map_err(|error| format!("output is no JSON: {error}"))?);
        }
    }
    Ok(lines)
}
