//! `driftline run`.

use std::{io::IsTerminal, sync::Arc};

use driftline_broker::Broker;
use driftline_pipeline::{BrokerKind, LogFormat, Plan};
use driftline_runtime::{
    Companion, End, Limits, Metrics, Report, RunError, RunOptions, Telemetry,
    profiles::{Profiles, last_window},
};
use driftline_types::{Offset, StageName};

use crate::{
    Exit,
    args::{Format, RunArgs, StageArgs},
    dead_letters,
    exit::Failure,
    log, logging,
    monitor::Beside,
    print, probes,
    profiles::{self, WHOLE},
    progress::Progress,
    reference,
    registry::REGISTRY,
    table,
};

pub(crate) fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let whole = log::load_silently(&args.pipeline.pipeline, &args.pipeline.changes)?;
    let plan = if args.only.is_empty() { whole.clone() } else { part(&whole, &args.only)? };
    let usually = match whole.telemetry.logs {
        LogFormat::Text => logging::COMMAND,
        LogFormat::Json => logging::SERVICE,
    };
    let telemetry = logging::start_of(&whole, usually)?;
    let broker = log::open(&whole)?;
    // A part of a pipeline does not know when the others end: `driftline-monitor` watches those.
    let watches = plan.monitor.is_on() && args.only.is_empty();
    let monitor =
        if watches { Some(Beside::new(&plan, &broker, &reference::watched(&plan)?, telemetry.clone())?) } else { None };
    let before = dead_letters::Ends::now(&*broker, &plan)?;
    let profiled = profiles::ends(&*broker, &plan)?;
    let report = execute_watched(&plan, &broker, args.follow, Watch::Shown, telemetry, monitor.clone())?;
    end_when_asked();
    if let Some(monitor) = monitor {
        monitor.tell();
    }
    match args.summary {
        Format::Json => print::error_line(serde_json::to_string(&report).map_err(Failure::running)?),
        Format::Table if logging::is_json() => {
            let Report { seconds, cpu_seconds, peak_memory, .. } = &report;
            tracing::info!(end = table::end(report.end), seconds, cpu_seconds, peak_memory, "the run has ended");
        }
        Format::Table => {
            let log = if profiled.high > profiled.low { Log::Continued } else { Log::New };
            show(&*broker, &plan, &report, log)?;
        }
    }
    // Other processes may still run the rest, and what was stopped might have come to it.
    if report.end == End::Finished && args.only.is_empty() {
        tell_without_effect(&*broker, &plan, profiled.high)?;
    }
    dead_letters::warn(&*broker, &plan, &report, &before)?;
    Ok(Exit::from(report.end))
}

/// Whether a log held profiles before a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Log {
    New,
    Continued,
}

/// Shows what a run did and saw. One that was cut off may have waited for a broker that hangs, so it is asked nothing more.
fn show(broker: &dyn Broker, plan: &Plan, report: &Report, log: Log) -> Result<(), Failure> {
    let terminal = std::io::stderr();
    print::tell!("\n{}", table::fitted(table::nodes(report), &terminal));
    if report.end == End::CutOff {
        print::tell!("\n{}", table::summary(report));
        return Ok(());
    }
    let references = reference::references(plan)?;
    let seen = Profiles::read(broker, &plan.name, &references, Some(WHOLE)).map_err(Failure::running)?;
    print::tell!("\n{}", table::fitted(table::signals(&seen, plan), &terminal));
    print::tell!("\n{}", table::summary(report));
    if log == Log::Continued {
        let nothing = if read_nothing(report) { "nothing new was read; " } else { "" };
        print::tell!("{nothing}the signals are of the whole log");
    }
    profiles::tell_left_out(&seen, plan);
    Ok(())
}

/// Tells of the injections that a run, whose profiles stand from `from` on, did not reach. Event time is known by windows, so one
/// within the last window is not judged.
fn tell_without_effect(broker: &dyn Broker, plan: &Plan, from: Offset) -> Result<(), Failure> {
    if plan.injections.is_empty() {
        return Ok(());
    }
    let Some(last) = last_window(broker, &plan.name, from).map_err(Failure::running)? else { return Ok(()) };
    let end = last.plus_millis(i64::try_from(plan.monitor.window.0).unwrap_or(i64::MAX));
    for (node, injections) in &plan.injections {
        for injection in injections.iter().filter(|injection| injection.at >= end) {
            let (parameter, at) = (injection.parameter.name, injection.at);
            print::tell!("`{node}.{parameter}` @ {at} never took effect: event time ended before {end}");
        }
    }
    Ok(())
}

/// Whether no node has read or written a record, or refused one.
fn read_nothing(report: &Report) -> bool {
    report.nodes.iter().all(|node| node.metrics.read + node.metrics.written + node.metrics.rejected == 0)
}

/// Runs one stage as a process of its own.
pub(crate) fn stage(kind: &str, args: &StageArgs) -> Result<Exit, Failure> {
    let StageArgs { pipeline, stage, changes } = args;
    let whole = log::load_silently(pipeline, changes)?;
    let of_kind: Vec<&str> =
        whole.stages.iter().filter(|node| node.kind == kind).map(|node| node.name.as_str()).collect();
    if !of_kind.contains(&stage.as_str()) {
        let file = pipeline.display();
        let allowed = if of_kind.is_empty() { "none".to_owned() } else { of_kind.join(", ") };
        return Err(Failure::usage(format!(
            "{file}: --stage: found {stage}, allowed are its stages of kind {kind:?}: {allowed}"
        )));
    }
    let plan = part(&whole, std::slice::from_ref(stage))?;
    let telemetry = logging::start_of(&whole, logging::SERVICE)?;
    let broker = log::open(&whole)?;
    let before = dead_letters::Ends::now(&*broker, &plan)?;
    tracing::info!(pipeline = %plan.name, %stage, "running until it is asked to stop");
    let report = execute(&plan, &broker, true, Watch::Hidden, telemetry)?;
    end_when_asked();
    dead_letters::warn(&*broker, &plan, &report, &before)?;
    Ok(Exit::Success)
}

/// Keeps the nodes that this process runs.
fn part(plan: &Plan, only: &[StageName]) -> Result<Plan, Failure> {
    let file = plan.file.display();
    if plan.broker.kind != BrokerKind::Kafka {
        return Err(Failure::usage(format!(
            "{file}: broker.kind: found an embedded log, a part of a pipeline needs one that others can read, allowed is \
             \"kafka\""
        )));
    }
    let names: Vec<_> = plan.nodes().map(|(_, node)| node.name.as_str()).collect();
    plan.clone().only(only).map_err(|unknown| {
        let unknown: Vec<_> = unknown.iter().map(StageName::as_str).collect();
        Failure::usage(format!("{file}: --only: found {}, allowed are {}", unknown.join(", "), names.join(", ")))
    })
}

/// Whether a run shows how far it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    Shown,
    Hidden,
}

/// Runs a pipeline on a log until its sources end, or Ctrl-C, SIGTERM or SIGHUP asks it to stop.
pub(crate) fn execute(
    plan: &Plan,
    broker: &Arc<dyn Broker>,
    follow: bool,
    watch: Watch,
    telemetry: Option<Arc<Telemetry>>,
) -> Result<Report, Failure> {
    execute_watched(plan, broker, follow, watch, telemetry, None)
}

/// Runs a pipeline without its sinks, whose lines nobody asked for, for a command that goes on to what the run has left in
/// the log. From its end on Ctrl-C, SIGTERM or SIGHUP ends the process.
pub(crate) fn execute_first(
    plan: &Plan,
    broker: &Arc<dyn Broker>,
    monitor: Option<Arc<Beside>>,
) -> Result<Report, Failure> {
    let mut plan = plan.clone();
    plan.sinks.clear();
    let report = execute_watched(&plan, broker, false, Watch::Shown, None, monitor)?;
    end_when_asked();
    Ok(report)
}

/// Fails if a run was stopped: what is made of all records must not be made of a part of them.
pub(crate) fn whole(plan: &Plan, report: &Report) -> Result<(), Failure> {
    if report.end == End::Finished {
        return Ok(());
    }
    let file = plan.file.display();
    Err(Failure::stopped(format!("{file}: was stopped before its sources ended; nothing was written or judged")))
}

/// Runs a pipeline as [`execute`] does, with a monitor beside it.
pub(crate) fn execute_watched(
    plan: &Plan,
    broker: &Arc<dyn Broker>,
    follow: bool,
    watch: Watch,
    telemetry: Option<Arc<Telemetry>>,
    monitor: Option<Arc<Beside>>,
) -> Result<Report, Failure> {
    let metrics = Arc::new(Metrics::new(plan));
    // Lines on the same terminal show the progress themselves.
    let lines_shown = std::io::stdout().is_terminal() && plan.sinks.iter().any(writes_to_stdout);
    let shown = watch == Watch::Shown && !lines_shown;
    let progress = if shown { Progress::start(Arc::clone(&metrics), follow) } else { None };
    let watched = Watched { metrics, telemetry, monitor };
    let result = execute_until(plan, broker, follow, watched, asked_to_stop());
    if let Some(progress) = progress {
        progress.finish();
    }
    result
}

/// What looks at a run while it goes on.
pub(crate) struct Watched {
    pub metrics: Arc<Metrics>,
    pub telemetry: Option<Arc<Telemetry>>,
    pub monitor: Option<Arc<Beside>>,
}

/// Runs a pipeline on a log until its sources end or `stop` completes.
pub(crate) fn execute_until(
    plan: &Plan,
    broker: &Arc<dyn Broker>,
    follow: bool,
    watched: Watched,
    stop: impl Future<Output = ()>,
) -> Result<Report, Failure> {
    let Watched { metrics, telemetry, monitor } = watched;
    let baseline = reference::baseline(plan)?;
    let mut monitoring = reference::monitoring(plan, baseline.as_deref());
    monitoring.probes = probes::schedules(plan)?;
    monitoring.companion = monitor.map(|monitor| monitor as Arc<dyn Companion>);
    // What is written to Kafka may be read by other processes, of which this one hears nothing.
    let limits = match plan.broker.kind {
        BrokerKind::Kafka => Limits { backlog_records: i64::MAX },
        BrokerKind::Embedded => Limits::default(),
    };
    let options = RunOptions { follow, durable: log::is_durable(plan), limits, telemetry, monitoring };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::running)?;
    let result = runtime.block_on(driftline_runtime::run(plan, &REGISTRY, Arc::clone(broker), metrics, options, stop));
    let file = plan.file.display();
    result.map_err(|error| match error {
        RunError::Open(problems) => {
            let lines: Vec<String> = problems.iter().map(|problem| format!("{file}: {problem}")).collect();
            Failure::usage(lines.join("\n"))
        }
        error => Failure::running(format!("{file}: {error}")),
    })
}

pub(crate) fn with_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

fn writes_to_stdout(sink: &driftline_pipeline::Node) -> bool {
    sink.kind == "stdout" || sink.config.get("path").and_then(|path| path.as_str()) == Some("-")
}

/// Completes at the first Ctrl-C, SIGTERM or SIGHUP. A second one ends the process at once: what was not committed is read
/// again by the next run.
pub(crate) async fn asked_to_stop() {
    asked().await;
    tokio::spawn(async {
        asked().await;
        end_at_once();
    });
    // It listens before it is told of.
    tokio::task::yield_now().await;
    print::tell!("stopping: what was read is worked off; press Ctrl-C again to stop at once");
}

/// Makes Ctrl-C, SIGTERM and SIGHUP end the process: the handlers that a run has installed outlive it, and nobody listens.
fn end_when_asked() {
    std::thread::spawn(|| {
        // Without a runtime they stay unheard.
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(asked());
            end_at_once();
        }
    });
}

/// Ends the process as one that was stopped, whatever its threads are at.
fn end_at_once() {
    log::remove_temporary();
    std::process::exit(130);
}

/// Completes at the next Ctrl-C, SIGTERM, or SIGHUP that is not ignored.
#[cfg(unix)]
async fn asked() {
    use tokio::signal::unix::SignalKind;
    let hang_up = async {
        if is_hang_up_ignored() {
            std::future::pending::<()>().await;
        } else {
            next(SignalKind::hangup()).await;
        }
    };
    tokio::select! {
        () = next(SignalKind::interrupt()) => {}
        () = next(SignalKind::terminate()) => {}
        () = hang_up => {}
    }
}

/// Completes at the next Ctrl-C.
#[cfg(not(unix))]
async fn asked() {
    drop(tokio::signal::ctrl_c().await);
}

/// Completes at the next signal of a kind, never if the system does not tell of it.
#[cfg(unix)]
async fn next(kind: tokio::signal::unix::SignalKind) {
    match tokio::signal::unix::signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// Whether `nohup` or its like has made this process ignore the end of its terminal; who listens to a signal no longer
/// ignores it. Known on Linux alone.
#[cfg(unix)]
fn is_hang_up_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The lowest bit is that of signal 1.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
