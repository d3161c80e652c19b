//! `driftline profiles`.

use driftline_runtime::profiles::{Profiles, Unreadable};
use driftline_stats::Window;
use driftline_types::Timestamp;

use crate::{
    Exit,
    args::{Format, ProfilesArgs},
    exit::Failure,
    log, print, reference,
    run::execute_first,
    table,
};

/// Stands for all windows merged.
pub(crate) const WHOLE: Window = Window { start: Timestamp::from_millis(0), millis: 0 };

pub(crate) fn profiles(args: &ProfilesArgs) -> Result<Exit, Failure> {
    let plan = log::load(&args.pipeline)?;
    let broker = log::open_to_read(&plan, &[plan.name.profiles_topic()])?;
    let mut exit = Exit::Success;
    if !log::is_durable(&plan) {
        exit = Exit::from(execute_first(&plan, &broker, None)?.end);
    }
    let window = (!args.windows).then_some(WHOLE);
    let references = reference::references(&plan)?;
    let seen = Profiles::read(&*broker, &plan.name, &references, window).map_err(Failure::running)?;
    match args.format {
        Format::Table => print::line(table::signals(&seen))?,
        Format::Json => print::lines(table::signals_json(&seen))?,
    };
    for (reason, Unreadable { first: (place, offset), count }) in &seen.unreadable {
        print::tell!("unreadable profiles: {count}, the first at {place}/{offset}: {reason}");
    }
    if !seen.unreadable.is_empty() && plan.monitor.reference.is_none() {
        print::tell!("a run with a reference counts on it: name it as monitor.reference here too");
    }
    Ok(if seen.unreadable.is_empty() { exit } else { Exit::Failed })
}
