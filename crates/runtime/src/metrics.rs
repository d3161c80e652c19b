//! What the software does: counts, bytes, latency, backlog, memory and CPU.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use driftline_pipeline::Plan;
use driftline_stage::operator::Counts;
use driftline_types::StageName;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::report::Percentiles;

/// Where a node stands in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Records enter.
    Source,
    /// Records are transformed.
    Stage,
    /// Records leave.
    Sink,
}

/// The metrics of a run, updated while it goes on.
#[derive(Debug)]
pub struct Metrics {
    nodes: Vec<(StageName, NodeKind, std::sync::Arc<NodeMetrics>)>,
    readers: BTreeMap<StageName, Vec<StageName>>,
    started: Instant,
}

impl Metrics {
    /// Makes the metrics of a plan, all zero; time counts from now.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let kinds = [(&plan.sources, NodeKind::Source), (&plan.stages, NodeKind::Stage), (&plan.sinks, NodeKind::Sink)];
        let nodes = kinds
            .into_iter()
            .flat_map(|(nodes, kind)| nodes.iter().map(move |node| (node.name.clone(), kind, <_>::default())))
            .collect();
        let mut readers: BTreeMap<StageName, Vec<StageName>> = BTreeMap::new();
        for node in plan.stages.iter().chain(&plan.sinks) {
            for input in &node.inputs {
                readers.entry(input.clone()).or_default().push(node.name.clone());
            }
        }
        Self { nodes, readers, started: Instant::now() }
    }

    /// Returns the metrics of a node.
    pub(crate) fn node(&self, name: &StageName) -> std::sync::Arc<NodeMetrics> {
        let found = self.nodes.iter().find(|(node, ..)| node == name);
        found.map(|(.., metrics)| std::sync::Arc::clone(metrics)).unwrap_or_default()
    }

    /// Returns how many nodes read what a node writes.
    pub(crate) fn readers(&self, name: &StageName) -> i64 {
        self.readers.get(name).map_or(0, |readers| readers.len() as i64)
    }

    /// Returns the time since the run began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Reads the metrics of every node, sources first.
    #[must_use]
    pub fn snapshot(&self) -> Vec<NodeSnapshot> {
        self.nodes.iter().map(|(name, kind, metrics)| metrics.snapshot(name.clone(), *kind)).collect()
    }
}

/// The metrics of one node.
#[derive(Debug)]
pub struct NodeMetrics {
    read: AtomicU64,
    written: AtomicU64,
    used: AtomicU64,
    dropped: AtomicU64,
    rejected: AtomicU64,
    held: AtomicI64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    busy_ns: AtomicU64,
    /// Records not read yet, as the node last saw it; kept only where telemetry asks for it.
    lag: AtomicU64,
    /// Whether the node has its partitions, with their state, and a broker that answers.
    ready: AtomicBool,
    /// Microseconds from reading a record to committing its results; at a sink, from its entry
    /// into the pipeline to its exit.
    latency: Mutex<Histogram<u64>>,
}

/// Up to an hour in microseconds; longer counts as an hour. Two significant digits: an error of at
/// most 1 %.
fn new_latency() -> Histogram<u64> {
    let hour = 3_600_000_000;
    Histogram::new_with_bounds(1, hour, 2).unwrap_or_else(|_| unreachable!("these bounds are allowed"))
}

impl Default for NodeMetrics {
    fn default() -> Self {
        Self {
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            used: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            held: AtomicI64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            lag: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            latency: Mutex::new(new_latency()),
        }
    }
}

impl NodeMetrics {
    pub(crate) fn count(&self, counts: &Counts) {
        self.read.fetch_add(counts.read, Relaxed);
        self.written.fetch_add(counts.written, Relaxed);
        self.used.fetch_add(counts.used, Relaxed);
        self.dropped.fetch_add(counts.dropped, Relaxed);
        self.rejected.fetch_add(counts.rejected, Relaxed);
        self.held.fetch_add(counts.held, Relaxed);
    }

    pub(crate) fn bytes(&self, read: u64, written: u64) {
        self.bytes_read.fetch_add(read, Relaxed);
        self.bytes_written.fetch_add(written, Relaxed);
    }

    pub(crate) fn busy(&self, time: Duration) {
        self.busy_ns.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    pub(crate) fn latency(&self, time: Duration, records: u64) {
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.saturating_record_n(time.as_micros() as u64, records);
    }

    /// Notes whether the node has its partitions, with their state, and a broker that answers.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    pub(crate) fn set_lag(&self, records: u64) {
        self.lag.store(records, Relaxed);
    }

    pub(crate) fn lag(&self) -> u64 {
        self.lag.load(Relaxed)
    }

    /// Returns the number of records read, and so on as in [`NodeSnapshot`].
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Relaxed)
    }

    pub(crate) fn held(&self) -> i64 {
        self.held.load(Relaxed)
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Relaxed)
    }

    pub(crate) fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Relaxed)
    }

    pub(crate) fn busy_seconds(&self) -> f64 {
        self.busy_ns.load(Relaxed) as f64 / 1e9
    }

    fn snapshot(&self, name: StageName, kind: NodeKind) -> NodeSnapshot {
        let latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        NodeSnapshot {
            name,
            kind,
            read: self.read(),
            written: self.written(),
            used: self.used(),
            dropped: self.dropped(),
            rejected: self.rejected(),
            held: self.held(),
            bytes_read: self.bytes_read(),
            bytes_written: self.bytes_written(),
            busy_seconds: self.busy_seconds(),
            latency_ms: Percentiles::of(&latency),
        }
    }
}

/// The metrics of one node at a moment.
#[derive(Clone, Debug, Serialize)]
pub struct NodeSnapshot {
    /// The node.
    pub name: StageName,
    /// Where it stands.
    pub kind: NodeKind,
    /// Records read.
    pub read: u64,
    /// Records written.
    pub written: u64,
    /// Records read that became part of an output.
    pub used: u64,
    /// Records read that produced nothing.
    pub dropped: u64,
    /// Records that went to the dead-letter topic.
    pub rejected: u64,
    /// Records kept for a later output.
    pub held: i64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written, state and profiles included.
    pub bytes_written: u64,
    /// Time spent working, not waiting.
    pub busy_seconds: f64,
    /// From reading a record to committing its results; at a sink, from its entry into the
    /// pipeline to its exit. `None` if there was none.
    pub latency_ms: Option<Percentiles>,
}
