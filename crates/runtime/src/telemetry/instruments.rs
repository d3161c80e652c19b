//! The instruments of a process, made of the rows of the table.
//!
//! Counts are kept by [`NodeMetrics`] whether anybody asks or not, and read when metrics are
//! collected. Only distributions are recorded as they happen, a few a batch.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;
use driftline_stats::{Direction, Signal};
use driftline_types::{PipelineName, StageName, StageVersion};
use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Histogram, Meter},
};
use parking_lot::Mutex;

use super::{
    node::Bound,
    signals::SignalMeter,
    table::{self, Metric, MetricKind},
};
use crate::metrics::NodeMetrics;

/// What every node records, and what is read of them when metrics are collected.
pub(crate) struct Instruments {
    pipeline: PipelineName,
    system: &'static str,
    pub(super) process_duration: Histogram<f64>,
    pub(super) operation_duration: Histogram<f64>,
    pub(super) batch_size: Histogram<u64>,
    pub(super) latency: Histogram<f64>,
    pub(super) end_to_end: Histogram<f64>,
    nodes: DashMap<StageName, Observed>,
    signals: DashMap<SignalKey, ObservedSignal>,
    memory: AtomicU64,
    cpu_ms: AtomicU64,
    alarms: AtomicU64,
    /// The bits of a float.
    evidence: AtomicU64,
    windows: AtomicU64,
    /// Whether the monitor of this process, if it has one, has joined its group.
    monitored: AtomicBool,
}

/// A node whose counts are read.
struct Observed {
    metrics: Arc<NodeMetrics>,
    attributes: Vec<KeyValue>,
    consumed: Vec<KeyValue>,
    sent: Vec<KeyValue>,
    /// Kept because what a bound instrument has recorded goes when the last of it is dropped.
    _bound: Bound,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct SignalKey {
    stage: StageName,
    direction: Direction,
    signal: &'static str,
}

struct ObservedSignal {
    meter: Arc<Mutex<SignalMeter>>,
    attributes: Vec<KeyValue>,
}

impl Instruments {
    /// Makes the instruments of a process. What is only read is read as long as `meter`'s provider lives.
    pub(super) fn new(meter: &Meter, pipeline: PipelineName, system: &'static str) -> Arc<Self> {
        let instruments = Arc::new(Self {
            pipeline,
            system,
            process_duration: seconds(meter, table::PROCESS_DURATION),
            operation_duration: seconds(meter, table::OPERATION_DURATION),
            batch_size: {
                let row = table::BATCH_SIZE;
                let builder = meter.u64_histogram(row.name).with_unit(row.unit).with_description(row.description);
                builder.with_boundaries(bounds(row)).build()
            },
            latency: seconds(meter, table::LATENCY),
            end_to_end: seconds(meter, table::END_TO_END),
            nodes: DashMap::new(),
            signals: DashMap::new(),
            memory: AtomicU64::new(0),
            cpu_ms: AtomicU64::new(0),
            alarms: AtomicU64::new(0),
            evidence: AtomicU64::new(0),
            windows: AtomicU64::new(0),
            monitored: AtomicBool::new(false),
        });
        instruments.observe(meter);
        instruments
    }

    fn observe(self: &Arc<Self>, meter: &Meter) {
        self.count(meter, table::CONSUMED, |node, out| out.observe(node.metrics.read(), &node.consumed));
        self.count(meter, table::SENT, |node, out| out.observe(node.metrics.written(), &node.sent));
        self.count(meter, table::USED, |node, out| out.observe(node.metrics.used(), &node.attributes));
        self.count(meter, table::DROPPED, |node, out| out.observe(node.metrics.dropped(), &node.attributes));
        self.count(meter, table::REJECTED, |node, out| out.observe(node.metrics.rejected(), &node.attributes));
        self.count(meter, table::BYTES_READ, |node, out| out.observe(node.metrics.bytes_read(), &node.attributes));
        self.count(meter, table::BYTES_WRITTEN, |node, out| {
            out.observe(node.metrics.bytes_written(), &node.attributes);
        });
        let (this, row) = (Arc::clone(self), table::HELD);
        let held = meter.i64_observable_up_down_counter(row.name).with_unit(row.unit).with_description(row.description);
        held.with_callback(move |out| this.each(|node| out.observe(node.metrics.held(), &node.attributes))).build();
        let (this, row) = (Arc::clone(self), table::BUSY);
        let busy = meter.f64_observable_counter(row.name).with_unit(row.unit).with_description(row.description);
        busy.with_callback(move |out| this.each(|node| out.observe(node.metrics.busy_seconds(), &node.attributes)))
            .build();
        let (this, row) = (Arc::clone(self), table::LAG);
        let lag = meter.u64_observable_gauge(row.name).with_unit(row.unit).with_description(row.description);
        lag.with_callback(move |out| this.each(|node| out.observe(node.metrics.lag(), &node.attributes))).build();

        self.observe_monitor(meter);
        self.count_signal(meter, table::SIGNAL_VALUES, |signal| signal.values);
        self.count_signal(meter, table::SIGNAL_MISSING, |signal| signal.missing);
        let (this, row) = (Arc::clone(self), table::SIGNAL_MEAN);
        let mean = meter.f64_observable_gauge(row.name).with_unit(row.unit).with_description(row.description);
        let observe = move |out: &dyn AsyncInstrument<f64>| {
            let now = Instant::now();
            for signal in &this.signals {
                if let Some(mean) = signal.meter.lock().mean(now) {
                    out.observe(mean, &signal.attributes);
                }
            }
        };
        mean.with_callback(observe).build();

        let (this, row) = (Arc::clone(self), table::MEMORY);
        let memory =
            meter.i64_observable_up_down_counter(row.name).with_unit(row.unit).with_description(row.description);
        memory.with_callback(move |out| out.observe(this.memory.load(Relaxed) as i64, &[])).build();
        let (this, row) = (Arc::clone(self), table::CPU);
        let cpu = meter.f64_observable_counter(row.name).with_unit(row.unit).with_description(row.description);
        cpu.with_callback(move |out| out.observe(this.cpu_ms.load(Relaxed) as f64 / 1e3, &[])).build();
    }

    fn count(
        self: &Arc<Self>,
        meter: &Meter,
        row: Metric,
        observe: impl Fn(&Observed, &dyn AsyncInstrument<u64>) + Send + Sync + 'static,
    ) {
        let this = Arc::clone(self);
        let counter = meter.u64_observable_counter(row.name).with_unit(row.unit).with_description(row.description);
        counter.with_callback(move |out| this.each(|node| observe(node, out))).build();
    }

    fn count_signal(
        self: &Arc<Self>,
        meter: &Meter,
        row: Metric,
        read: impl Fn(&SignalMeter) -> u64 + Send + Sync + 'static,
    ) {
        let this = Arc::clone(self);
        let counter = meter.u64_observable_counter(row.name).with_unit(row.unit).with_description(row.description);
        let observe = move |out: &dyn AsyncInstrument<u64>| {
            for signal in &this.signals {
                out.observe(read(&signal.meter.lock()), &signal.attributes);
            }
        };
        counter.with_callback(observe).build();
    }

    fn each(&self, mut read: impl FnMut(&Observed)) {
        for node in &self.nodes {
            read(&node);
        }
    }

    /// Begins to read the counts of a node.
    pub(super) fn add_node(
        &self,
        name: &StageName,
        version: Option<&StageVersion>,
        metrics: Arc<NodeMetrics>,
        bound: Bound,
    ) {
        let attributes = self.attributes(name, version);
        let consumed = self.with_operation(&attributes, "poll");
        let sent = self.with_operation(&attributes, "send");
        self.nodes.insert(name.clone(), Observed { metrics, attributes, consumed, sent, _bound: bound });
    }

    /// Returns the meter of a signal, made at its first sight.
    pub(super) fn signal(
        &self,
        stage: &StageName,
        attributes: &[KeyValue],
        direction: Direction,
        signal: &'static Signal,
    ) -> Arc<Mutex<SignalMeter>> {
        let key = SignalKey { stage: stage.clone(), direction, signal: signal.name };
        let entry = self.signals.entry(key).or_insert_with(|| {
            let own = [
                KeyValue::new(table::DIRECTION, direction.to_string()),
                KeyValue::new(table::SIGNAL, signal.name),
                KeyValue::new(table::UNIT, signal.unit),
            ];
            ObservedSignal { meter: Arc::default(), attributes: attributes.iter().cloned().chain(own).collect() }
        });
        Arc::clone(&entry.meter)
    }

    /// The attributes of all that a node says of itself.
    pub(super) fn attributes(&self, name: &StageName, version: Option<&StageVersion>) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new(table::PIPELINE, shared(self.pipeline.as_str())),
            KeyValue::new(table::STAGE, shared(name.as_str())),
        ];
        attributes.extend(version.map(|version| KeyValue::new(table::VERSION, shared(version.as_str()))));
        attributes
    }

    pub(super) fn with_operation(&self, attributes: &[KeyValue], operation: &'static str) -> Vec<KeyValue> {
        let own = [KeyValue::new(table::SYSTEM, self.system), KeyValue::new(table::OPERATION, operation)];
        attributes.iter().cloned().chain(own).collect()
    }

    pub(super) fn system(&self) -> &'static str {
        self.system
    }

    fn observe_monitor(self: &Arc<Self>, meter: &Meter) {
        let pipeline = [KeyValue::new(table::PIPELINE, self.pipeline.to_string())];
        let (this, row, of) = (Arc::clone(self), table::MONITOR_ALARMS, pipeline.clone());
        let alarms = meter.u64_observable_gauge(row.name).with_unit(row.unit).with_description(row.description);
        alarms.with_callback(move |out| out.observe(this.alarms.load(Relaxed), &of)).build();
        let (this, row, of) = (Arc::clone(self), table::MONITOR_EVIDENCE, pipeline.clone());
        let evidence = meter.f64_observable_gauge(row.name).with_unit(row.unit).with_description(row.description);
        evidence.with_callback(move |out| out.observe(f64::from_bits(this.evidence.load(Relaxed)), &of)).build();
        let (this, row) = (Arc::clone(self), table::MONITOR_WINDOWS);
        let windows = meter.u64_observable_counter(row.name).with_unit(row.unit).with_description(row.description);
        windows.with_callback(move |out| out.observe(this.windows.load(Relaxed), &pipeline)).build();
    }

    /// Notes how the monitor's things stand, and so that it has joined its group. `windows` are those since the last call.
    pub(super) fn monitor(&self, alarms: u64, evidence: f64, windows: u64) {
        self.alarms.store(alarms, Relaxed);
        self.evidence.store(evidence.to_bits(), Relaxed);
        self.windows.fetch_add(windows, Relaxed);
        self.monitored.store(true, Relaxed);
    }

    /// Notes memory in bytes and CPU time of the process.
    pub(crate) fn process(&self, memory: u64, cpu: Duration) {
        self.memory.store(memory, Relaxed);
        self.cpu_ms.store(cpu.as_millis() as u64, Relaxed);
    }

    /// Returns the nodes that have not got their partitions and state yet; `None` if no node was
    /// opened yet. A monitor by itself has no nodes: it is waited for until it has joined its group.
    pub(super) fn waiting(&self) -> Option<Vec<String>> {
        if self.nodes.is_empty() {
            return self.monitored.load(Relaxed).then(Vec::new);
        }
        let mut names = Vec::new();
        for node in &self.nodes {
            if !node.metrics.is_ready() {
                names.push(node.key().to_string());
            }
        }
        names.sort_unstable();
        Some(names)
    }
}

/// Each span has a copy of its node's attributes, which costs nothing so.
fn shared(text: &str) -> Arc<str> {
    text.into()
}

fn seconds(meter: &Meter, row: Metric) -> Histogram<f64> {
    let builder = meter.f64_histogram(row.name).with_unit(row.unit).with_description(row.description);
    builder.with_boundaries(bounds(row)).build()
}

fn bounds(row: Metric) -> Vec<f64> {
    match row.kind {
        MetricKind::Histogram(bounds) => bounds.to_vec(),
        MetricKind::Counter | MetricKind::UpDownCounter | MetricKind::Gauge => Vec::new(),
    }
}
