//! `driftline top`: how a pipeline stands, live in the terminal.
//!
//! On Kafka it watches what other processes do, and takes no part in it. An embedded log belongs to one process, so there the
//! pipeline runs here, beside the screen. Either way what is shown is read from the topics that `report` and `lag`
//! read; the latency of a node is known only where it runs.

mod view;

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stdout},
    sync::{
        Arc,
        mpsc::{self, TryRecvError},
    },
    time::{Duration, Instant},
};

use driftline_broker::Broker;
use driftline_monitor::{Baseline, Report, Service, SignalReport};
use driftline_pipeline::{BrokerKind, Node, Plan};
use driftline_runtime::Metrics;
use driftline_types::{StageName, TopicPartition};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::Notify;

use self::view::{Row, View};
use crate::{
    Exit,
    args::PipelineArgs,
    exit::Failure,
    log, monitor, print, reference,
    run::{Watched, execute_until},
};

/// How often the screen is drawn, and how often the log is asked.
const FRAME: Duration = Duration::from_millis(100);
const SAMPLE: Duration = Duration::from_secs(1);
/// The signals of a node that are named.
const MOVED: usize = 2;

pub(crate) fn top(args: &PipelineArgs) -> Result<Exit, Failure> {
    if !stdout().is_terminal() {
        return Err(Failure::usage(
            "top: standard output is no terminal, allowed is one; `driftline report` writes to others",
        ));
    }
    let mut plan = log::load(args)?;
    let broker = match plan.broker.kind {
        BrokerKind::Embedded => log::open(&plan)?,
        BrokerKind::Kafka => {
            let mut topics = log::outputs(&plan);
            topics.extend(plan.monitor.is_on().then(|| plan.name.monitor_state_topic()));
            log::open_existing(&plan, &topics)?
        }
    };
    let baseline = reference::watched(&plan)?;
    let metrics = Arc::new(Metrics::new(&plan));
    let sampler = Sampler::new(&plan, Arc::clone(&broker), baseline, Arc::clone(&metrics))?;
    if plan.broker.kind == BrokerKind::Kafka {
        show(sampler, &mut || Ok(true))?;
        return Ok(Exit::Success);
    }
    // Lines would be written over the screen.
    plan.sinks.clear();
    let beside =
        if plan.monitor.is_on() { Some(monitor::Beside::new(&plan, &broker, &sampler.baseline, None)?) } else { None };
    let stop = Arc::new(Notify::new());
    std::thread::scope(|scope| {
        let (asked, plan, broker) = (Arc::clone(&stop), &plan, &broker);
        let (tell, told) = mpsc::channel();
        scope.spawn(move || {
            let watched = Watched { metrics, telemetry: None, monitor: beside };
            // Nobody listens once the screen has failed.
            let _ = tell.send(execute_until(plan, broker, false, watched, async move { asked.notified().await }));
        });
        // A thread that panics tells nothing.
        let panicked = || Failure::running("the pipeline panicked");
        let mut end = None;
        let shown = show(sampler, &mut || {
            match told.try_recv() {
                Ok(ran) => end = Some(ran?.end),
                Err(TryRecvError::Disconnected) if end.is_none() => return Err(panicked()),
                Err(_) => {}
            }
            Ok(end.is_none())
        });
        stop.notify_one();
        shown?;
        let end = match end {
            Some(end) => end,
            None => told.recv().map_err(|_| panicked())??.end,
        };
        Ok(Exit::from(end))
    })
}

/// Shows a pipeline until `q`, Escape or Ctrl-C is pressed, or it fails. `runs` says whether it still runs.
fn show(mut sampler: Sampler, runs: &mut dyn FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let mut terminal = ratatui::try_init().map_err(|error| Failure::usage(format!("top needs a terminal: {error}")))?;
    let mut view = sampler.view();
    let mut sampled = Instant::now();
    let shown = loop {
        if sampled.elapsed() >= SAMPLE {
            view = sampler.view();
            sampled = Instant::now();
        }
        let drawn = match (&mut view, runs()) {
            (Err(_), _) => break view.map(drop),
            (_, Err(failure)) => break Err(failure),
            (Ok(view), Ok(runs)) => {
                view.runs = runs;
                terminal.draw(|frame| view.draw(frame)).and_then(|_| asked_to_quit())
            }
        };
        match drawn {
            Ok(false) => {}
            Ok(true) => break Ok(()),
            Err(error) => break Err(Failure::running(error)),
        }
    };
    ratatui::restore();
    // The screen is gone; what it said last stays.
    if let Some((_, report)) = &sampler.report {
        print::tell!("monitor: {}", report.sentence);
    }
    shown
}

/// Waits for a key, a frame long.
fn asked_to_quit() -> std::io::Result<bool> {
    if !event::poll(FRAME)? {
        return Ok(false);
    }
    let Event::Key(key) = event::read()? else { return Ok(false) };
    let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    let quit = interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
    Ok(quit && key.kind == KeyEventKind::Press)
}

/// Asks the log how a pipeline stands.
struct Sampler {
    plan: Plan,
    broker: Arc<dyn Broker>,
    baseline: Arc<Baseline>,
    service: Service,
    metrics: Arc<Metrics>,
    /// How the monitor left things, and up to where its state was read.
    report: Option<(u64, Report)>,
    /// When records were last counted, and how many each node had done.
    counted: Option<(Instant, BTreeMap<StageName, u64>)>,
}

impl Sampler {
    fn new(
        plan: &Plan,
        broker: Arc<dyn Broker>,
        baseline: Arc<Baseline>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Failure> {
        let service = Service::new(Arc::clone(&broker), monitor::settings(plan)?, Arc::clone(&baseline));
        Ok(Self { plan: plan.clone(), broker, baseline, service, metrics, report: None, counted: None })
    }

    fn view(&mut self) -> Result<View, Failure> {
        self.read_report()?;
        let progress: Vec<(StageName, Progress)> = self
            .plan
            .sources
            .iter()
            .chain(&self.plan.stages)
            .map(|node| Ok((node.name.clone(), self.progress(node)?)))
            .collect::<Result<_, Failure>>()?;
        let now = Instant::now();
        let before = self.counted.take();
        let latency: BTreeMap<StageName, f64> =
            self.metrics.snapshot().into_iter().filter_map(|node| Some((node.name, node.latency_ms?.p99))).collect();
        let report = self.report.as_ref().map(|(_, report)| report);
        let rows = progress.iter().map(|(name, progress)| {
            let seconds = before.as_ref().map(|(then, _)| now.duration_since(*then).as_secs_f64());
            let done = before.as_ref().and_then(|(_, counted)| counted.get(name));
            let found = report.and_then(|report| report.nodes.iter().find(|node| node.node == *name));
            Row {
                name: name.to_string(),
                verdict: found.map_or(("not watched", "90"), crate::report::verdict),
                per_second: done.zip(seconds).map(|(done, s)| progress.done.saturating_sub(*done) as f64 / s.max(1e-3)),
                lag: progress.lag,
                p99_ms: latency.get(name).copied(),
                moved: found.map_or_else(Vec::new, |node| moved(&node.signals, self.plan.monitor.tolerance)),
            }
        });
        let view = View {
            pipeline: self.plan.name.to_string(),
            runs: true,
            sentence: report.map_or_else(
                || "nothing is watched: monitor.reference and monitor.rules are missing".to_owned(),
                |report| report.sentence.clone(),
            ),
            evidence: report.map(crate::report::evidence),
            rows: rows.collect(),
            notes: report.map_or_else(Vec::new, |report| report.notes.clone()),
        };
        self.counted = Some((now, progress.into_iter().map(|(name, progress)| (name, progress.done)).collect()));
        Ok(view)
    }

    /// Reads what the monitor has written, if that is more than before.
    fn read_report(&mut self) -> Result<(), Failure> {
        if !self.plan.monitor.is_on() {
            return Ok(());
        }
        let state = self.broker.describe_topic(&self.plan.name.monitor_state_topic()).map_err(Failure::running)?;
        let end = state.map_or(0, |topic| topic.partitions.iter().map(|ends| ends.high).sum());
        if self.report.as_ref().is_none_or(|(read, _)| *read != end) {
            self.report = Some((end, self.service.look().map_err(Failure::running)?.report()));
        }
        Ok(())
    }

    /// Returns what a source has written, or how far a stage has read.
    fn progress(&self, node: &Node) -> Result<Progress, Failure> {
        let topics: Vec<_> = match node.inputs.as_slice() {
            [] => vec![self.plan.name.output_topic(&node.name)],
            inputs => inputs.iter().map(|input| self.plan.name.output_topic(input)).collect(),
        };
        let mut progress = Progress { done: 0, lag: (!node.inputs.is_empty()).then_some(0) };
        for topic in topics {
            let Some(found) = self.broker.describe_topic(&topic).map_err(Failure::running)? else { continue };
            for (partition, ends) in (0..).zip(&found.partitions) {
                let Some(lag) = &mut progress.lag else {
                    progress.done += ends.high;
                    continue;
                };
                let place = TopicPartition::new(topic.clone(), partition);
                let committed = self.broker.committed(&self.plan.name.group(&node.name), &place);
                let next = committed.map_err(Failure::running)?.map_or(ends.low, |committed| committed.next);
                progress.done += next;
                *lag += ends.high.saturating_sub(next);
            }
        }
        Ok(progress)
    }
}

/// How far a node is: the records it has written or read, and those that it has not read yet; a source reads none.
struct Progress {
    done: u64,
    lag: Option<u64>,
}

/// Names the signals that have moved by more than the tolerance, the farthest first.
fn moved(signals: &[SignalReport], tolerance: f64) -> Vec<String> {
    let size = |signal: &SignalReport| signal.effect.map_or(0.0, |effect| signal.measure.size(effect.at_least));
    let mut moved: Vec<&SignalReport> = signals.iter().filter(|signal| size(signal) > tolerance).collect();
    moved.sort_by(|a, b| size(b).total_cmp(&size(a)));
    let named = moved.into_iter().take(MOVED).map(|signal| format!("{} {}", signal.what, signal.change));
    named.map(|text| text.trim_end().to_owned()).collect()
}
