//! `driftline parameters`.

use driftline_types::Parameter;
use serde_json::json;

use crate::{
    Exit,
    args::{Format, ParametersArgs},
    exit::Failure,
    log, print,
    registry::REGISTRY,
    table,
};

/// Lists what may be injected into the sources and stages of a pipeline.
pub(crate) fn parameters(args: &ParametersArgs) -> Result<Exit, Failure> {
    let plan = log::load(&args.pipeline)?;
    let sources = plan.sources.iter().map(|node| (node, REGISTRY.source(node.kind).map(|def| def.parameters)));
    let stages = plan.stages.iter().map(|node| (node, REGISTRY.stage(node.kind).map(|def| def.parameters)));
    let mut table = table::table(&["parameter", "unit", "least", "most", "neutral", "what it is"], 7);
    for (node, parameters) in sources.chain(stages) {
        for &&Parameter { name, unit, help, min, max, neutral } in parameters.unwrap_or_default() {
            match args.format {
                Format::Json => {
                    print::line(json!({
                        "node": node.name.as_str(), "parameter": name, "unit": unit,
                        "min": min, "max": max, "neutral": neutral, "help": help,
                    }))?;
                }
                Format::Table => {
                    let [min, max, neutral] = [min, max, neutral].map(|value| value.to_string());
                    table.add_row([
                        format!("{}.{name}", node.name),
                        unit.to_owned(),
                        min,
                        max,
                        neutral,
                        help.to_owned(),
                    ]);
                }
            }
        }
    }
    if args.format == Format::Table {
        print::line(table::fitted(table, &std::io::stdout()))?;
    }
    Ok(Exit::Success)
}
