//! `driftline test`: the `[[tests]]` of pipelines.

use driftline_pipeline::Plan;
use driftline_runtime::kinds;
use serde_json::Value;

use crate::{
    Exit,
    args::TestArgs,
    exit::Failure,
    log, print,
    registry::REGISTRY,
    run::{Watch, execute, whole},
};

pub(crate) fn test(args: &TestArgs) -> Result<Exit, Failure> {
    let (mut passed, mut failed) = (0, 0);
    for file in &args.pipelines {
        let plan = Plan::load(file, &[], &kinds(&REGISTRY)).map_err(Failure::usage)?;
        if plan.tests.is_empty() {
            print::tell!("{}: has no [[tests]]", file.display());
        }
        for case in &plan.tests {
            let outcome = match lines_of(file, case) {
                // Those that are left are not run either.
                Err(failure) if failure.exit == Exit::Stopped => return Err(failure),
                Err(failure) => Err(failure.message),
                Ok(lines) => case.compare(&lines).map_err(|failure| failure.to_string()),
            };
            match outcome {
                Ok(()) => {
                    passed += 1;
                    print::line(format_args!("ok      {}: {}", file.display(), case.name))?;
                }
                Err(reason) => {
                    failed += 1;
                    print::line(format_args!("FAILED  {}: {}\n{reason}", file.display(), case.name))?;
                }
            }
        }
    }
    print::line(format_args!("\n{passed} passed, {failed} failed"))?;
    Ok(if failed == 0 { Exit::Success } else { Exit::Failed })
}

/// Runs a pipeline as a test wants it and returns the lines that reach its sinks.
fn lines_of(file: &std::path::Path, case: &driftline_pipeline::TestCase) -> Result<Vec<Value>, Failure> {
    let mut plan = Plan::load(file, &case.overrides, &kinds(&REGISTRY)).map_err(Failure::usage)?;
    let folder = tempfile::tempdir().map_err(Failure::running)?;
    plan.broker = driftline_pipeline::BrokerConfig::default();
    for (number, sink) in plan.sinks.iter_mut().enumerate() {
        sink.kind = "jsonl";
        let path = folder.path().join(format!("{number}.jsonl"));
        sink.config = toml::Table::from_iter([("path".to_owned(), path.to_string_lossy().into_owned().into())]);
    }
    let broker = log::open(&plan)?;
    whole(&plan, &execute(&plan, &broker, false, Watch::Hidden, None)?)?;
    let mut lines = Vec::new();
    for number in 0..plan.sinks.len() {
        let path = folder.path().join(format!("{number}.jsonl"));
        let text = std::fs::read_to_string(&path).map_err(Failure::running)?;
        for line in text.lines() {
            let line = serde_json::from_str(line);
            lines.push(line.map_err(|error| Failure::running(format!("output is no JSON: {error}")))?);
        }
    }
    Ok(lines)
}
