//! The monitor beside a run, and `driftline alarms`.

use std::sync::{Arc, Mutex, PoisonError};

use driftline_broker::Broker;
use driftline_monitor::{Alarm, Baseline, Ending, Service, Settings, Status};
use driftline_pipeline::Plan;
use driftline_runtime::{Companion, Nodes};
use driftline_types::Timestamp;

use crate::{
    Exit,
    args::{AlarmsArgs, AlarmsCommand},
    exit::Failure,
    log,
    table::table,
};

/// The monitor on a thread beside the nodes of a run.
pub(crate) struct Beside {
    service: Service,
    /// Whether the log outlives the run: windows that are open when it is stopped are then left to the next.
    durable: bool,
    ended: Mutex<Option<Result<Option<Status>, String>>>,
}

impl Beside {
    pub(crate) fn new(plan: &Plan, broker: &Arc<dyn Broker>, baseline: &Arc<Baseline>) -> Arc<Self> {
        let service = Service::new(Arc::clone(broker), Settings::of(plan), Arc::clone(baseline));
        Arc::new(Self { service, durable: log::is_durable(plan), ended: Mutex::new(None) })
    }

    /// Says on standard error how things stood at the end.
    pub(crate) fn tell(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        match ended.take() {
            Some(Ok(Some(status))) => tell(&status),
            Some(Ok(None)) => eprintln!("\nmonitor: another process watches this pipeline"),
            Some(Err(error)) => eprintln!("\nmonitor: stopped: {error}"),
            None => {}
        }
    }
}

impl Companion for Beside {
    fn run(&self, nodes: &Nodes) {
        let ending = || match (nodes.cut_off(), nodes.finished(), nodes.stopped() && self.durable) {
            (true, _, _) => Ending::CutOff,
            (false, true, true) => Ending::Paused,
            (false, true, false) => Ending::Finished,
            (false, false, _) => Ending::Open,
        };
        let result = self.service.run(ending, log_alarm).map_err(|error| error.to_string());
        if let Err(error) = &result {
            tracing::error!(error, "the monitor stopped, the pipeline goes on unwatched");
        }
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }
}

/// Logs an alarm: what fires is a warning, the rest is news.
pub(crate) fn log_alarm(alarm: &Alarm) {
    let Alarm { id, pipeline, state, summary, .. } = alarm;
    if state.is_active() {
        tracing::warn!(alarm = id, %pipeline, %state, "{summary}");
    } else {
        tracing::info!(alarm = id, %pipeline, %state, "{summary}");
    }
}

fn tell(status: &Status) {
    eprintln!("\nmonitor: {}", status.sentence);
    for alarm in status.alarms.iter().filter(|alarm| alarm.state.is_active()) {
        eprintln!("  {} {} since {}", alarm.id, alarm.state, alarm.onset.unwrap_or(alarm.since));
        for signal in alarm.signals.iter().filter(|signal| !signal.change.is_empty()).take(5) {
            eprintln!("    {} {}: {}", signal.node, signal.what, signal.change);
        }
    }
    status.notes.iter().for_each(|note| eprintln!("  {note}"));
}

pub(crate) fn alarms(args: &AlarmsArgs) -> Result<Exit, Failure> {
    let plan = log::load(&args.pipeline)?;
    let broker = log::open_durable(&plan)?;
    if let Some(AlarmsCommand::Ack { id }) = &args.command {
        return acknowledge(&plan, &*broker, id);
    }
    let alarms = driftline_monitor::alarms(&*broker, &plan.name).map_err(Failure::running)?;
    if args.json {
        for alarm in &alarms {
            println!("{}", serde_json::to_string(alarm).map_err(Failure::running)?);
        }
        return Ok(Exit::Success);
    }
    let mut rows = table(&["alarm", "state", "onset", "updated", "began in", "what"], 6);
    for alarm in &alarms {
        rows.add_row([
            alarm.id.clone(),
            alarm.state.to_string(),
            alarm.onset.as_ref().map_or_else(String::new, Timestamp::to_string),
            alarm.updated.to_string(),
            alarm.origin.as_ref().map_or_else(String::new, ToString::to_string),
            alarm.summary.clone(),
        ]);
    }
    println!("{rows}");
    Ok(Exit::Success)
}

fn acknowledge(plan: &Plan, broker: &dyn Broker, id: &str) -> Result<Exit, Failure> {
    let alarms = driftline_monitor::alarms(broker, &plan.name).map_err(Failure::running)?;
    let active: Vec<&str> =
        alarms.iter().filter(|alarm| alarm.state.is_active()).map(|alarm| alarm.id.as_str()).collect();
    if !active.contains(&id) {
        let allowed = if active.is_empty() { "none, no alarm is firing".to_owned() } else { active.join(", ") };
        return Err(Failure::usage(format!("alarm {id:?}: is not firing, allowed are {allowed}")));
    }
    driftline_monitor::acknowledge(broker, &plan.name, id).map_err(Failure::running)?;
    eprintln!("{id}: acknowledged; the monitor takes note of it as soon as it runs");
    Ok(Exit::Success)
}
