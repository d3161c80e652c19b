//! What one node tells: a handful of values a batch, and spans where a record is sampled.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use driftline_broker::Member;
use driftline_stage::operator::{Effects, Tally};
use driftline_stats::{Direction, Signal};
use driftline_types::{Message, Outgoing, StageName, StageVersion};
use opentelemetry::{
    KeyValue,
    metrics::{BoundHistogram, Histogram},
};
use opentelemetry_sdk::trace::Span;
use parking_lot::Mutex;

use super::{
    instruments::Instruments,
    signals::SignalMeter,
    table::ERROR_TYPE,
    trace::{BatchTrace, CommitTrace, NodeTracer},
};
use crate::metrics::{NodeKind, NodeMetrics};

/// How long a node waits before it asks for its lag again.
const LAG_EVERY: Duration = Duration::from_secs(1);

/// The telemetry of one node; it lives on the node's thread. A node has none where telemetry is off.
pub(crate) struct NodeTelemetry {
    instruments: Arc<Instruments>,
    name: StageName,
    attributes: Vec<KeyValue>,
    metrics: Arc<NodeMetrics>,
    bound: Bound,
    /// The meters of the signals seen so far, found by the address of the signal.
    signals: RefCell<Vec<KnownSignal>>,
    tracer: Option<NodeTracer>,
    lag_read: Cell<Option<Instant>>,
}

type KnownSignal = (Direction, &'static Signal, Arc<Mutex<SignalMeter>>);

/// Histograms that know the node's attributes.
#[derive(Clone)]
pub(super) struct Bound {
    process: Operation,
    commit: Operation,
    batch_size: BoundHistogram<u64>,
    latency: BoundHistogram<f64>,
    /// Of a sink.
    end_to_end: Option<BoundHistogram<f64>>,
}

/// The durations of an operation, and of its failures.
#[derive(Clone)]
struct Operation {
    histogram: Histogram<f64>,
    attributes: Vec<KeyValue>,
    bound: BoundHistogram<f64>,
}

impl Operation {
    fn new(histogram: &Histogram<f64>, attributes: Vec<KeyValue>) -> Self {
        Self { bound: histogram.bind(&attributes), histogram: histogram.clone(), attributes }
    }

    fn took(&self, time: Duration, error: Option<&'static str>) {
        match error {
            None => self.bound.record(time.as_secs_f64()),
            Some(class) => {
                let attributes: Vec<_> =
                    self.attributes.iter().cloned().chain([KeyValue::new(ERROR_TYPE, class)]).collect();
                self.histogram.record(time.as_secs_f64(), &attributes);
            }
        }
    }
}

impl NodeTelemetry {
    /// Begins to tell of a node.
    pub(super) fn new(
        instruments: Arc<Instruments>,
        kind: NodeKind,
        name: &StageName,
        version: Option<&StageVersion>,
        metrics: Arc<NodeMetrics>,
        tracer: Option<NodeTracer>,
    ) -> Self {
        let attributes = instruments.attributes(name, version);
        let operation = |histogram, name| Operation::new(histogram, instruments.with_operation(&attributes, name));
        let commit = if kind == NodeKind::Source { "send" } else { "commit" };
        let bound = Bound {
            process: operation(&instruments.process_duration, "process"),
            commit: operation(&instruments.operation_duration, commit),
            batch_size: instruments.batch_size.bind(&attributes),
            latency: instruments.latency.bind(&attributes),
            end_to_end: (kind == NodeKind::Sink).then(|| instruments.end_to_end.bind(&attributes)),
        };
        instruments.add_node(name, version, Arc::clone(&metrics), bound.clone());
        Self {
            name: name.clone(),
            attributes,
            metrics,
            bound,
            signals: RefCell::default(),
            tracer,
            lag_read: Cell::new(None),
            instruments,
        }
    }

    /// Asks how far the member is behind, a second after the last answer. The node's own thread waits for it, so it is an
    /// estimate: to know, the broker would have to read.
    pub(crate) fn note_lag(&self, member: &dyn Member) {
        if self.lag_read.get().is_none_or(|read| read.elapsed() >= LAG_EVERY) {
            // Where the broker cannot tell now, the last estimate stands until it is asked again.
            member.lag_estimate().into_iter().for_each(|lag| self.metrics.set_lag(lag));
            // However long the answer took.
            self.lag_read.set(Some(Instant::now()));
        }
    }

    /// Starts the traces of some of the records a source is about to write.
    pub(crate) fn begin(&self, outputs: &mut [Outgoing]) -> Vec<Span> {
        self.tracer.as_ref().map(|tracer| tracer.begin(outputs)).unwrap_or_default()
    }

    /// Tells what a source has stored since `started`, and ends its spans.
    pub(crate) fn sent(&self, started: Instant, spans: Vec<Span>, tallies: &[Tally]) {
        self.bound.commit.took(started.elapsed(), None);
        drop(spans);
        self.tally(tallies);
    }

    /// Begins to watch a batch; `first` is when its first record was read.
    pub(crate) fn batch(&self, messages: &[Message], first: Instant) -> BatchWatch<'_> {
        self.bound.batch_size.record(messages.len() as u64);
        let trace = self.tracer.as_ref().and_then(|tracer| tracer.batch(messages, first));
        BatchWatch { node: self, trace, first }
    }

    /// Tells how long ago a record that leaves the pipeline entered it.
    pub(crate) fn left(&self, since_entry: Duration) {
        if let Some(histogram) = &self.bound.end_to_end {
            histogram.record(since_entry.as_secs_f64());
        }
    }

    /// Adds the signals of a batch that was committed.
    pub(crate) fn tally(&self, tallies: &[Tally]) {
        if tallies.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut known = self.signals.borrow_mut();
        for tally in tallies {
            let is_it = |(direction, signal, _): &KnownSignal| {
                *direction == tally.direction && std::ptr::eq(*signal, tally.signal)
            };
            let at = known.iter().position(is_it).unwrap_or_else(|| {
                let meter = self.instruments.signal(&self.name, &self.attributes, tally.direction, tally.signal);
                known.push((tally.direction, tally.signal, meter));
                known.len() - 1
            });
            known[at].2.lock().add(now, tally.values, tally.sum, tally.missing);
        }
    }
}

/// A batch from its first record to its commit.
pub(crate) struct BatchWatch<'a> {
    node: &'a NodeTelemetry,
    trace: Option<BatchTrace<'a>>,
    first: Instant,
}

impl<'a> BatchWatch<'a> {
    /// Tells of records of one partition, processed from `started` to now. Hands their spans on to
    /// what was emitted.
    pub(crate) fn processed(
        &self,
        messages: &[Message],
        started: Instant,
        outcome: Result<Option<&mut Effects>, &'static str>,
    ) {
        self.node.bound.process.took(started.elapsed(), outcome.as_ref().err().copied());
        match (&self.trace, &self.node.tracer, outcome) {
            (Some(trace), _, outcome) => trace.processed(messages, started, outcome),
            (None, Some(tracer), Ok(Some(effects))) => tracer.hand_on(effects, &mut HashMap::new()),
            (None, ..) => {}
        }
    }

    /// Tells of a commit that took from `started` to now.
    pub(crate) fn committed(&self, started: Instant, error: Option<&'static str>) {
        self.node.bound.commit.took(started.elapsed(), error);
        if let Some(trace) = &self.trace {
            trace.commit.committed(started, error);
        }
    }

    /// Lets go of this thread's log lines, so that the next batch can begin before this one is committed.
    pub(crate) fn handed_over(self) -> CommitWatch<'a> {
        CommitWatch { node: self.node, trace: self.trace.map(|trace| trace.commit), first: self.first }
    }
}

/// A batch that was worked off.
pub(crate) struct CommitWatch<'a> {
    node: &'a NodeTelemetry,
    trace: Option<CommitTrace<'a>>,
    first: Instant,
}

impl CommitWatch<'_> {
    /// As [`BatchWatch::committed`].
    pub(crate) fn committed(&self, started: Instant, error: Option<&'static str>) {
        self.node.bound.commit.took(started.elapsed(), error);
        if let Some(trace) = &self.trace {
            trace.committed(started, error);
        }
    }

    /// Tells that the batch is done, and ends its span.
    pub(crate) fn finished(self) {
        self.node.bound.latency.record(self.first.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use driftline_broker::{BrokerError, FetchLimit, Poll, Settled, Unit, Wait};
    use driftline_types::PipelineName;
    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    use super::*;

    /// A member whose broker takes its time.
    struct Slow(Cell<u64>);

    impl Member for Slow {
        fn poll(&mut self, _limit: FetchLimit, _timeout: Duration) -> Result<Poll, BrokerError> {
            Ok(Poll::Idle)
        }

        fn submit(&mut self, _unit: Unit) {}

        fn settled(&mut self, _wait: Wait) -> Settled {
            Settled::default()
        }

        fn lag(&self) -> Result<u64, BrokerError> {
            panic!("a gauge is not worth a read");
        }

        fn lag_estimate(&self) -> Result<u64, BrokerError> {
            thread::sleep(LAG_EVERY);
            self.0.set(self.0.get() + 1);
            Ok(self.0.get())
        }
    }

    #[test]
    fn a_slow_broker_is_not_asked_in_every_loop() {
        let meters = SdkMeterProvider::builder().build();
        let pipeline = PipelineName::try_new("p").unwrap();
        let instruments = Instruments::new(&meters.meter("test"), pipeline, "test");
        let (name, metrics) = (StageName::try_new("s").unwrap(), Arc::new(NodeMetrics::default()));
        let node = NodeTelemetry::new(instruments, NodeKind::Stage, &name, None, Arc::clone(&metrics), None);
        let member = Slow(Cell::new(0));
        for _ in 0..3 {
            node.note_lag(&member);
        }
        assert_eq!(metrics.lag(), 1);
    }
}
