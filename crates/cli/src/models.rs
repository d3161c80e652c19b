//! `driftline models`.

use driftline_models::inspect::inspect;

use crate::{
    Exit,
    args::{Format, ModelsArgs, ModelsCommand},
    exit::Failure,
    print, table,
};

pub(crate) fn models(args: &ModelsArgs) -> Result<Exit, Failure> {
    let ModelsCommand::Inspect { path, format } = &args.command;
    let summary = inspect(path).map_err(Failure::usage)?;
    print::line(match format {
        Format::Table => table::model(&summary),
        Format::Json => serde_json::to_string_pretty(&summary).map_err(Failure::running)?,
    })?;
    Ok(Exit::Success)
}
