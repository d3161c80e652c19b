//! Starting the nodes of a plan and waiting for them.

use std::{future::Future, sync::Arc, time::Duration};

use driftline_broker::{Broker, BrokerError};
use driftline_pipeline::{Node, Plan};
use driftline_stage::{
    Registry,
    operator::{Site, Tallies},
};
use driftline_types::{StageName, StageVersion};
use serde::Serialize;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::mpsc;

use crate::{
    Limits, Metrics, Monitoring, NodeKind, NodeReport, Nodes, Report, Telemetry,
    batch::BatchLimits,
    clock::WallClock,
    failure::with_causes,
    flow::{Flow, Stop},
    sink_task::SinkTask,
    source_task::SourceTask,
    stage_task::StageTask,
};

/// How long a run that was asked to stop may take to drain before it is cut off. What is cut off
/// is in the log, uncommitted, and is read again by the next run.
const DRAIN: Duration = Duration::from_secs(15);

/// How long a node that was cut off may take to notice. One that waits for a broker that is gone is left behind.
const NOTICE: Duration = Duration::from_secs(3);

/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(250);

/// How to run a plan. By default to the end of its sources, on a log that nobody needs afterwards, unwatched.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// Whether sources wait for new input where they would end.
    pub follow: bool,
    /// Whether the log outlives the run. If not, a run that is stopped flushes what stages hold.
    pub durable: bool,
    /// Bounds on what the process holds.
    pub limits: Limits,
    /// What is told to the outside; `None` is nothing.
    pub telemetry: Option<Arc<Telemetry>>,
    /// What nodes count on, and what watches them.
    pub monitoring: Monitoring,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Every source came to its end and everything was worked off.
    Finished,
    /// It was asked to stop, and everything read so far was worked off.
    Stopped,
    /// It was asked to stop and was cut off before everything was worked off.
    CutOff,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Stages, sources or sinks could not be opened; one line each.
    #[error("{}", .0.join("\n"))]
    Open(Vec<String>),
    /// A node failed for good.
    #[error("{name}: {reason}")]
    Stage {
        /// The node.
        name: StageName,
        /// Why.
        reason: String,
    },
    /// The broker failed for good.
    #[error(transparent)]
    Broker(BrokerError),
    /// The wall clock was set back, and the broker's client may wait for as long: a new process does not.
    #[error("the clock was set back by {} s, for which the broker's client may hang: start again", .0.as_secs())]
    ClockSetBack(Duration),
    /// Anything else, already in words.
    #[error("{0}")]
    Text(String),
}

/// Runs a plan until its sources end or `shutdown` completes. `metrics` can be watched meanwhile. A plan without nodes runs for
/// as long as its companion does.
///
/// # Errors
/// If a node cannot be opened or fails for good. What was committed stays so.
pub async fn run(
    plan: &Plan,
    registry: &Registry,
    broker: Arc<dyn Broker>,
    metrics: Arc<Metrics>,
    options: RunOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<Report, RunError> {
    let nodes = || plan.sources.iter().chain(&plan.stages).chain(&plan.sinks);
    let flow = Arc::new(Flow::new(nodes().map(|node| node.name.clone()), options.limits));
    let alone = nodes().flat_map(|node| &node.inputs).all(|input| nodes().any(|node| node.name == *input));
    let (mut tasks, versions) = open(plan, registry, &broker, &flow, &metrics, &options)?;
    if let (Some(companion), Ok(name)) = (options.monitoring.companion.clone(), StageName::try_new("monitor")) {
        let writers = plan.sources.iter().chain(&plan.stages).map(|node| node.name.clone()).collect();
        let nodes = Nodes { flow: Arc::clone(&flow), writers };
        tasks.push((
            name,
            Box::new(move || {
                companion.run(&nodes);
                Ok(())
            }),
        ));
    }

    let (done, mut ended) = mpsc::unbounded_channel();
    let mut running = 0;
    for (name, task) in tasks {
        let done = done.clone();
        let spawned = std::thread::Builder::new().name(name.to_string()).spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task));
            let result = result.unwrap_or_else(|_| Err(RunError::Text(format!("{name}: the task panicked"))));
            // The receiver lives until every task has reported.
            let _ = done.send(result);
        });
        spawned.map_err(|error| RunError::Text(format!("cannot start a thread: {error}")))?;
        running += 1;
    }

    let mut failure = None;
    let mut end = End::Finished;
    let mut memory = Memory::new();
    let mut clock = broker.waits_by_the_wall_clock().then(WallClock::new);
    let mut sample = tokio::time::interval(SAMPLE);
    let deadline = tokio::time::sleep(Duration::MAX);
    tokio::pin!(shutdown, deadline);
    while running > 0 {
        tokio::select! {
            Some(result) = ended.recv() => {
                running -= 1;
                if let Err(error) = result {
                    flow.stop(Stop::Now);
                    failure.get_or_insert(error);
                    if end == End::Finished {
                        deadline.as_mut().reset(tokio::time::Instant::now() + DRAIN);
                    }
                }
            }
            () = &mut shutdown, if end == End::Finished => {
                end = End::Stopped;
                // What other processes write never ends: the batch in hand is committed, and the next owner goes on.
                flow.stop(if alone { Stop::Drain } else { Stop::Now });
                deadline.as_mut().reset(tokio::time::Instant::now() + DRAIN);
            }
            () = &mut deadline => {
                if end != End::Stopped {
                    break;
                }
                end = End::CutOff;
                flow.stop(Stop::Now);
                deadline.as_mut().reset(tokio::time::Instant::now() + NOTICE);
            }
            _ = sample.tick() => {
                memory.sample(options.telemetry.as_deref());
                if let Some(back) = clock.as_mut().and_then(WallClock::set_back) {
                    flow.stop(Stop::Now);
                    failure.get_or_insert(RunError::ClockSetBack(back));
                    // Whoever closed its client would wait for as long: it ends with the process.
                    std::mem::forget(Arc::clone(&broker));
                    if end == End::Finished {
                        deadline.as_mut().reset(tokio::time::Instant::now() + NOTICE);
                    }
                }
            }
        }
    }
    memory.sample(options.telemetry.as_deref());
    match failure {
        Some(error) => Err(error),
        None => Ok(Report {
            end,
            seconds: metrics.elapsed().as_secs_f64(),
            cpu_seconds: memory.cpu_seconds,
            peak_memory: memory.peak,
            nodes: metrics
                .snapshot()
                .into_iter()
                .map(|metrics| NodeReport {
                    version: versions
                        .iter()
                        .find(|(name, _)| *name == metrics.name)
                        .map(|(_, version)| version.clone()),
                    metrics,
                })
                .collect(),
        }),
    }
}

type Task = Box<dyn FnOnce() -> Result<(), RunError> + Send>;
type Tasks = Vec<(StageName, Task)>;
type Versions = Vec<(StageName, StageVersion)>;

/// Opens every node; all that cannot be opened are named at once.
fn open(
    plan: &Plan,
    registry: &Registry,
    broker: &Arc<dyn Broker>,
    flow: &Arc<Flow>,
    metrics: &Metrics,
    options: &RunOptions,
) -> Result<(Tasks, Versions), RunError> {
    let mut tasks: Tasks = Vec::new();
    let mut versions = Vec::new();
    let mut problems = Vec::new();
    let mut problem = |node: &Node, reason: String| problems.push(format!("{}: {reason}", node.name));
    let tallies = if options.telemetry.is_some() { Tallies::On } else { Tallies::Off };
    let telemetry = |kind, node: &Node, version: Option<&StageVersion>| {
        let telemetry = options.telemetry.as_ref();
        telemetry.map(|telemetry| telemetry.node(kind, &node.name, version, metrics.node(&node.name)))
    };
    let site = |node: &Node, version: StageVersion| {
        Arc::new(Site {
            pipeline: plan.name.clone(),
            stage: node.name.clone(),
            version,
            window_ms: i64::try_from(plan.monitor.window.0).unwrap_or(i64::MAX),
            tallies,
            injections: plan.injections_of(&node.name),
            probes: options.monitoring.probes.get(&node.name).cloned(),
            bins: options.monitoring.bins.get(&node.name).cloned().unwrap_or_default(),
        })
    };
    for node in &plan.sinks {
        let Some(def) = registry.sink(node.kind) else { continue };
        match def.open(&node.config) {
            Ok(sink) => {
                let task = SinkTask {
                    pipeline: plan.name.clone(),
                    name: node.name.clone(),
                    sink,
                    inputs: node.inputs.clone(),
                    limits: batch_limits(node),
                    broker: Arc::clone(broker),
                    flow: Arc::clone(flow),
                    metrics: metrics.node(&node.name),
                    telemetry: telemetry(NodeKind::Sink, node, None),
                };
                tasks.push((node.name.clone(), Box::new(|| task.run())));
            }
            Err(error) => problem(node, with_causes(&error)),
        }
    }
    for node in &plan.stages {
        let Some(def) = registry.stage(node.kind) else { continue };
        match def.open(&node.config) {
            Ok(stage) => {
                let version = stage.version().clone();
                versions.push((node.name.clone(), version.clone()));
                let task = StageTask {
                    site: site(node, version.clone()),
                    stage: Arc::from(stage),
                    inputs: node.inputs.clone(),
                    limits: batch_limits(node),
                    broker: Arc::clone(broker),
                    flow: Arc::clone(flow),
                    metrics: metrics.node(&node.name),
                    telemetry: telemetry(NodeKind::Stage, node, Some(&version)),
                    readers: metrics.readers(&node.name),
                    flush_on_stop: !options.durable,
                };
                tasks.push((node.name.clone(), Box::new(|| task.run())));
            }
            Err(error) => problem(node, with_causes(&error)),
        }
    }
    for node in &plan.sources {
        let Some(def) = registry.source(node.kind) else { continue };
        let opened = def.version(&node.config).and_then(|version| {
            let site = site(node, version.clone());
            def.open(&node.config, options.follow, Arc::clone(&site)).map(|source| (source, site, version))
        });
        match opened {
            Ok((source, site, version)) => {
                let telemetry = telemetry(NodeKind::Source, node, Some(&version));
                versions.push((node.name.clone(), version));
                let task = SourceTask {
                    site,
                    telemetry,
                    source,
                    broker: Arc::clone(broker),
                    flow: Arc::clone(flow),
                    metrics: metrics.node(&node.name),
                    readers: metrics.readers(&node.name),
                };
                tasks.push((node.name.clone(), Box::new(|| task.run())));
            }
            Err(error) => problem(node, with_causes(&error)),
        }
    }
    if problems.is_empty() { Ok((tasks, versions)) } else { Err(RunError::Open(problems)) }
}

fn batch_limits(node: &Node) -> BatchLimits {
    BatchLimits {
        records: node.batch.max_records,
        bytes: usize::try_from(node.batch.max_bytes.0).unwrap_or(usize::MAX),
        wait: Duration::from_millis(node.batch.max_wait.0),
    }
}

/// Memory and CPU of this process.
struct Memory {
    /// `None` where the system does not tell.
    system: Option<System>,
    peak: u64,
    cpu_seconds: f64,
}

impl Memory {
    fn new() -> Self {
        Self { system: System::new().ok(), peak: 0, cpu_seconds: 0.0 }
    }

    fn sample(&mut self, telemetry: Option<&Telemetry>) {
        let (Some(system), Ok(id)) = (&mut self.system, sysinfo::get_current_pid()) else { return };
        let what = ProcessRefreshKind::nothing().with_memory().with_cpu();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[id]), false, what);
        if let Some(process) = system.process(id) {
            self.peak = self.peak.max(process.memory());
            self.cpu_seconds = process.accumulated_cpu_time() as f64 / 1e3;
            if let Some(telemetry) = telemetry {
                telemetry.process(process.memory(), self.cpu_seconds);
            }
        }
    }
}
