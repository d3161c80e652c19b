//! `driftline profiles`.

use driftline_broker::{Broker, Watermarks};
use driftline_pipeline::Plan;
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
        Format::Table => print::line(table::fitted(table::signals(&seen, &plan), &std::io::stdout()))?,
        Format::Json => print::lines(table::signals_json(&seen))?,
    };
    tell_left_out(&seen, &plan);
    Ok(if seen.unreadable.is_empty() { exit } else { Exit::Failed })
}

/// Tells which profiles of the log are not in what is shown.
pub(crate) fn tell_left_out(seen: &Profiles, plan: &Plan) {
    if seen.on_other_bins > 0 {
        let profiles = print::counted(seen.on_other_bins, "profile");
        print::tell!("left out, counted on other bins than newer ones: {profiles}");
    }
    for (reason, Unreadable { first: (place, offset), count }) in &seen.unreadable {
        print::tell!("unreadable profiles: {count}, the first at {place}/{offset}: {reason}");
    }
    if !seen.unreadable.is_empty() && plan.monitor.reference.is_none() {
        print::tell!("a run with a reference counts on it: name it as monitor.reference here too");
    }
}

/// Returns where the profiles of a pipeline begin and end in the log; both are 0 where there is no topic of them.
pub(crate) fn ends(broker: &dyn Broker, plan: &Plan) -> Result<Watermarks, Failure> {
    let found = broker.describe_topic(&plan.name.profiles_topic()).map_err(Failure::running)?;
    Ok(found.and_then(|found| found.partitions.first().copied()).unwrap_or_default())
}
