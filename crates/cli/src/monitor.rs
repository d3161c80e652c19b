//! The monitor beside a run or by itself, and `driftline alarms`.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use driftline_broker::Broker;
use driftline_monitor::{Alarm, Baseline, Ending, Listener, Service, Settings, Status};
use driftline_pipeline::{Plan, WebhookConfig};
use driftline_runtime::{Companion, Metrics, Monitoring, Nodes, RunOptions, Telemetry, Webhook};
use driftline_types::Timestamp;

use crate::{
    Exit,
    args::{AlarmsArgs, AlarmsCommand, Changes, MonitorArgs},
    exit::Failure,
    log, logging, print, probes, reference,
    registry::REGISTRY,
    run::asked_to_stop,
    table::{fitted, table},
};

/// The monitor on a thread beside the nodes of a run.
pub(crate) struct Beside {
    service: Service,
    outside: Outside,
    /// Whether the log outlives the run: windows that are open when it is stopped are then left to the next.
    durable: bool,
    ended: Mutex<Option<Result<Option<Status>, String>>>,
}

impl Beside {
    pub(crate) fn new(
        plan: &Plan,
        broker: &Arc<dyn Broker>,
        baseline: &Arc<Baseline>,
        telemetry: Option<Arc<Telemetry>>,
    ) -> Result<Arc<Self>, Failure> {
        let service = Service::new(Arc::clone(broker), settings(plan)?, Arc::clone(baseline));
        let outside = Outside::new(plan, telemetry);
        Ok(Arc::new(Self { service, outside, durable: log::is_durable(plan), ended: Mutex::new(None) }))
    }

    /// Says on standard error how things stood at the end.
    pub(crate) fn tell(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        match ended.take() {
            Some(Ok(Some(status))) => tell(&status),
            Some(Ok(None)) => print::tell!("\nmonitor: another process watches this pipeline"),
            Some(Err(error)) => print::tell!("\nmonitor: stopped: {error}"),
            None => {}
        }
    }
}

impl Companion for Beside {
    fn run(&self, nodes: &Nodes) {
        let ending = || Ending::of(nodes.cut_off(), nodes.finished(), nodes.stopped() && self.durable);
        let result = self.service.run(ending, &self.outside).map_err(|error| error.to_string());
        if let Err(error) = &result {
            tracing::error!(error, "the monitor stopped, the pipeline goes on unwatched");
            self.outside.at_work(None);
        }
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }
}

/// The monitor as a process of its own.
struct Alone {
    service: Service,
    outside: Outside,
    ended: Mutex<Option<Result<Option<Status>, Failure>>>,
}

impl Companion for Alone {
    fn run(&self, nodes: &Nodes) {
        // Those that write are elsewhere, and nothing is heard of them.
        let ending = || if nodes.stopped() { Ending::CutOff } else { Ending::Open };
        let result = self.service.run(ending, &self.outside).map_err(Failure::running);
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }
}

/// Where alarms go besides their topic: the log, metrics, a webhook.
struct Outside {
    webhook: Option<Webhook>,
    telemetry: Option<Arc<Telemetry>>,
    /// The windows that are counted, those that others have judged before included.
    windows: AtomicU64,
}

impl Outside {
    fn new(plan: &Plan, telemetry: Option<Arc<Telemetry>>) -> Self {
        let start = |webhook: &WebhookConfig| {
            let started = Webhook::start(webhook.url.to_string());
            started.inspect_err(|error| tracing::error!(%error, "monitor.webhook: cannot start")).ok()
        };
        Self { webhook: plan.monitor.webhook.as_ref().and_then(start), telemetry, windows: AtomicU64::new(0) }
    }
}

impl Listener for Outside {
    fn alarm(&self, alarm: &Alarm) {
        log_alarm(alarm);
        if let (Some(webhook), Some(body)) = (&self.webhook, driftline_monitor::alertmanager(alarm)) {
            webhook.post(body.to_string());
        }
    }

    fn judged(&self, status: &Status) {
        if let Some(telemetry) = &self.telemetry {
            let active = status.alarms.iter().filter(|alarm| alarm.state.is_active()).count();
            let before = self.windows.swap(status.windows, Relaxed);
            telemetry.monitor(active as u64, status.evidence.0, status.windows.saturating_sub(before));
        }
    }

    fn at_work(&self, status: Option<&Status>) {
        match (status, &self.telemetry) {
            (Some(status), _) => {
                self.windows.store(status.windows, Relaxed);
                self.judged(status);
            }
            (None, Some(telemetry)) => telemetry.monitor(0, 0.0, 0),
            (None, None) => {}
        }
    }
}

/// Returns what the pipeline file and the probes that it names tell a monitor.
pub(crate) fn settings(plan: &Plan) -> Result<Settings, Failure> {
    Ok(Settings { answers: probes::answers(plan)?, ..Settings::of(plan) })
}

/// Watches a pipeline that other processes run, until it is asked to stop.
pub(crate) fn watch(args: &MonitorArgs) -> Result<Exit, Failure> {
    let changes = Changes { overrides: args.overrides.clone(), injections: Vec::new() };
    let mut plan = log::load_silently(&args.pipeline, &changes)?;
    if !plan.monitor.is_on() {
        let file = plan.file.display();
        return Err(Failure::usage(format!(
            "{file}: monitor: found no reference and no rules, there is nothing to watch"
        )));
    }
    let telemetry = logging::start_of(&plan, logging::SERVICE)?;
    tracing::info!(pipeline = %plan.name, "watching until it is asked to stop");
    let broker = log::open_durable(&plan)?;
    let service = Service::new(Arc::clone(&broker), settings(&plan)?, reference::watched(&plan)?);
    let outside = Outside::new(&plan, telemetry.clone());
    let alone = Arc::new(Alone { service, outside, ended: Mutex::new(None) });
    // A run without nodes: it measures the process, minds its clock, and waits for nobody for ever.
    plan.sources.clear();
    plan.stages.clear();
    plan.sinks.clear();
    let monitoring = Monitoring { companion: Some(Arc::clone(&alone) as Arc<dyn Companion>), ..Monitoring::default() };
    let options = RunOptions { telemetry, monitoring, ..RunOptions::default() };
    let metrics = Arc::new(Metrics::new(&plan));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::running)?;
    let run = driftline_runtime::run(&plan, &REGISTRY, broker, metrics, options, asked_to_stop());
    runtime.block_on(run).map_err(|error| Failure::running(format!("{}: {error}", plan.file.display())))?;
    // It has none if it was cut off while it waited for the broker.
    let ended = alone.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(status) = ended.transpose()?.flatten() {
        tell(&status);
    }
    Ok(Exit::Success)
}

/// Logs an alarm: what fires is a warning, the rest is news.
fn log_alarm(alarm: &Alarm) {
    let Alarm { id, pipeline, state, summary, .. } = alarm;
    if state.is_active() {
        tracing::warn!(alarm = id, %pipeline, %state, "{summary}");
    } else {
        tracing::info!(alarm = id, %pipeline, %state, "{summary}");
    }
}

fn tell(status: &Status) {
    print::tell!("\nmonitor: {}", status.sentence);
    if logging::is_json() {
        // Alarms and notes were logged as they came.
        return;
    }
    for alarm in status.alarms.iter().filter(|alarm| alarm.state.is_active()) {
        let speed = alarm.speed.map_or_else(String::new, |speed| format!(", {speed}"));
        print::tell!("  {} {} since {}{speed}", alarm.id, alarm.state, alarm.onset.unwrap_or(alarm.since));
        for signal in alarm.signals.iter().filter(|signal| !signal.change.is_empty()).take(5) {
            print::tell!("    {} {}: {}", signal.node, signal.what, signal.change);
        }
    }
    status.notes.iter().for_each(|note| print::tell!("  {note}"));
}

pub(crate) fn alarms(args: &AlarmsArgs) -> Result<Exit, Failure> {
    let plan = log::load(&args.pipeline)?;
    // A pipeline that nothing watches has no alarms, but profiles as any other.
    let topics = if plan.monitor.is_on() {
        vec![plan.name.alarms_topic(), plan.name.control_topic()]
    } else {
        vec![plan.name.profiles_topic()]
    };
    let broker = log::open_existing(&plan, &topics)?;
    if let Some(AlarmsCommand::Ack { id }) = &args.command {
        return acknowledge(&plan, &*broker, id);
    }
    let alarms = driftline_monitor::alarms(&*broker, &plan.name).map_err(Failure::running)?;
    if args.json {
        let lines: Vec<String> =
            alarms.iter().map(serde_json::to_string).collect::<Result<_, _>>().map_err(Failure::running)?;
        print::lines(lines)?;
        return Ok(Exit::Success);
    }
    let mut rows = table(&["alarm", "state", "onset", "speed", "updated", "began in", "what"], 7);
    for alarm in &alarms {
        rows.add_row([
            alarm.id.clone(),
            alarm.state.to_string(),
            alarm.onset.as_ref().map_or_else(String::new, Timestamp::to_string),
            alarm.speed.as_ref().map_or_else(String::new, ToString::to_string),
            alarm.updated.to_string(),
            alarm.origin.as_ref().map_or_else(String::new, ToString::to_string),
            alarm.summary.clone(),
        ]);
    }
    print::line(fitted(rows, &std::io::stdout()))?;
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
    print::tell!("{id}: acknowledged; the monitor takes note of it as soon as it runs");
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        path::Path,
    };

    use super::*;

    fn status(windows: u64) -> Status {
        let (sentence, evidence) = (String::new(), (20.0, 100.0));
        Status { sentence, windows, evidence, alarms: Vec::new(), watched: Vec::new(), notes: Vec::new() }
    }

    #[test]
    fn what_others_have_judged_is_not_counted_and_lost_work_leaves_no_evidence() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines/speech.toml");
        let overrides = vec!["telemetry.prometheus=127.0.0.1:0".parse().unwrap()];
        let plan = log::load_silently(&file, &Changes { overrides, injections: Vec::new() }).unwrap();
        let telemetry = Arc::new(Telemetry::start(&plan).unwrap().unwrap());
        let address = telemetry.address().unwrap();
        let outside = Outside::new(&plan, Some(telemetry));
        // Windows judged here, and the evidence.
        let told = || {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: driftline\r\nConnection: close\r\n\r\n").unwrap();
            let mut page = String::new();
            stream.read_to_string(&mut page).unwrap();
            ["driftline_monitor_windows_total", "driftline_monitor_evidence"].map(|name| {
                let line = page.lines().find(|line| line.starts_with(name)).unwrap();
                line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
            })
        };
        outside.at_work(Some(&status(100)));
        assert_eq!(told(), [0.0, 20.0]);
        outside.judged(&status(103));
        assert_eq!(told(), [3.0, 20.0]);
        outside.at_work(None);
        assert_eq!(told(), [3.0, 0.0]);
        outside.at_work(Some(&status(150)));
        outside.judged(&status(152));
        assert_eq!(told(), [5.0, 20.0]);
    }
}
