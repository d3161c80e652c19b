//! `driftline profiles`.

use driftline_runtime::profiles::Profiles;
use driftline_stats::Window;
use driftline_types::Timestamp;

use crate::{
    Exit,
    args::{Format, ProfilesArgs},
    exit::Failure,
    log, reference,
    run::{Watch, execute},
    table,
};

/// Stands for all windows merged.
pub(crate) const WHOLE: Window = Window { start: Timestamp::from_millis(0), millis: 0 };

pub(crate) fn profiles(args: &ProfilesArgs) -> Result<Exit, Failure> {
    let mut plan = log::load(&args.pipeline)?;
    let broker = log::open(&plan)?;
    if !log::is_durable(&plan) {
        // The lines of the sinks are not what was asked for.
        plan.sinks.clear();
        execute(&plan, &broker, false, Watch::Shown, None)?;
    }
    let window = (!args.windows).then_some(WHOLE);
    let references = reference::references(&plan)?;
    let seen = Profiles::read(&*broker, &plan.name, &references, window).map_err(Failure::running)?;
    match args.format {
        Format::Table => println!("{}", table::signals(&seen)),
        Format::Json => {
            for line in table::signals_json(&seen) {
                println!("{line}");
            }
        }
    }
    for unreadable in &seen.unreadable {
        eprintln!("unreadable profile: {unreadable}");
    }
    Ok(if seen.unreadable.is_empty() { Exit::Success } else { Exit::Failed })
}
