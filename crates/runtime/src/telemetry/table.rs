//! Every metric there is: name, unit, kind, attributes, meaning. Instruments are made of these rows
//! and of nothing else, so a dashboard that asks for a series of [`METRICS`] asks for one that exists.
//!
//! `messaging.*` and `process.*` follow OpenTelemetry's semantic conventions; `driftline.*` is ours.

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// The name in OpenTelemetry.
    pub name: &'static str,
    /// What its values do.
    pub kind: MetricKind,
    /// The unit in UCUM; braces hold what is counted, and the empty text is no unit.
    pub unit: &'static str,
    /// The attributes that its values may have.
    pub attributes: &'static [&'static str],
    /// One sentence for people.
    pub description: &'static str,
}

/// What the values of a metric do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Grows and shrinks; sums over processes make sense.
    UpDownCounter,
    /// Takes any value; sums make no sense.
    Gauge,
    /// Counts of values between these bounds.
    Histogram(&'static [f64]),
}

impl Metric {
    /// Returns the name on the Prometheus endpoint, without the suffixes of a histogram's series.
    #[must_use]
    pub fn prometheus_name(&self) -> String {
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        };
        let total = if self.kind == MetricKind::Counter { "_total" } else { "" };
        format!("{}{unit}{total}", self.name.replace('.', "_"))
    }

    /// Returns the names of its series on the Prometheus endpoint.
    #[must_use]
    pub fn prometheus_series(&self) -> Vec<String> {
        let name = self.prometheus_name();
        match self.kind {
            MetricKind::Histogram(_) => ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")).into(),
            _ => vec![name],
        }
    }
}

/// The name of a label on the Prometheus endpoint.
#[must_use]
pub fn prometheus_label(attribute: &str) -> String {
    attribute.replace('.', "_")
}

/// The pipeline's name.
pub(super) const PIPELINE: &str = "pipeline";
/// The name of the source, stage or sink.
pub(super) const STAGE: &str = "stage";
/// The version of a source or stage; sinks have none.
pub(super) const VERSION: &str = "version";
/// `input` or `output`: the side of the stage on which a signal was seen.
pub(super) const DIRECTION: &str = "direction";
/// The signal's name.
pub(super) const SIGNAL: &str = "signal";
/// The signal's own unit.
pub(super) const UNIT: &str = "unit";
/// `driftline` (embedded) or `kafka`.
pub(super) const SYSTEM: &str = "messaging.system";
/// `poll`, `process`, `commit` or `send`.
pub(super) const OPERATION: &str = "messaging.operation.name";
/// Why an operation failed; not there if it did not.
pub(super) const ERROR_TYPE: &str = "error.type";

const NODE: &[&str] = &[PIPELINE, STAGE, VERSION];
const SINK: &[&str] = &[PIPELINE, STAGE];
const MESSAGING: &[&str] = &[PIPELINE, STAGE, VERSION, SYSTEM, OPERATION];
const FALLIBLE: &[&str] = &[PIPELINE, STAGE, VERSION, SYSTEM, OPERATION, ERROR_TYPE];
const SIGNALS: &[&str] = &[PIPELINE, STAGE, VERSION, DIRECTION, SIGNAL, UNIT];

/// Half a millisecond to a minute.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0];
const RECORDS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

macro_rules! metrics {
    ($($row:ident = $name:literal, $kind:expr, $unit:literal, $attributes:expr, $description:literal;)*) => {
        $(pub(super) const $row: Metric = Metric {
            name: $name, kind: $kind, unit: $unit, attributes: $attributes, description: $description,
        };)*
        /// Every metric, in the order of their definition.
        pub const METRICS: &[Metric] = &[$($row),*];
    };
}

metrics! {
    CONSUMED = "messaging.client.consumed.messages", MetricKind::Counter, "{message}", MESSAGING,
        "Records read and settled.";
    SENT = "messaging.client.sent.messages", MetricKind::Counter, "{message}", MESSAGING,
        "Records written.";
    PROCESS_DURATION = "messaging.process.duration", MetricKind::Histogram(SECONDS), "s", FALLIBLE,
        "Time a stage took for the records of one partition in a batch, or a sink for a batch.";
    OPERATION_DURATION = "messaging.client.operation.duration", MetricKind::Histogram(SECONDS), "s", FALLIBLE,
        "Time the broker took to commit a batch with its outputs, or to store what a source sent.";
    USED = "driftline.records.used", MetricKind::Counter, "{record}", NODE,
        "Records read that became part of an output, or left the pipeline.";
    DROPPED = "driftline.records.dropped", MetricKind::Counter, "{record}", NODE,
        "Records read that produced nothing.";
    REJECTED = "driftline.records.rejected", MetricKind::Counter, "{record}", NODE,
        "Records that went to the dead-letter topic.";
    HELD = "driftline.records.held", MetricKind::UpDownCounter, "{record}", NODE,
        "Change in the number of records kept for a later output, since the process began.";
    BYTES_READ = "driftline.io.read", MetricKind::Counter, "By", NODE,
        "Bytes of keys, values and headers read.";
    BYTES_WRITTEN = "driftline.io.written", MetricKind::Counter, "By", NODE,
        "Bytes of keys, values and headers written, state and profiles included.";
    BUSY = "driftline.busy.time", MetricKind::Counter, "s", NODE,
        "Time spent working, not waiting.";
    LAG = "driftline.lag", MetricKind::Gauge, "{record}", NODE,
        "About how many records were written but not yet read, over the partitions this process owns; on Kafka the marks \
         of transactions count.";
    BATCH_SIZE = "driftline.batch.size", MetricKind::Histogram(RECORDS), "{record}", NODE,
        "Records of a batch.";
    LATENCY = "driftline.latency", MetricKind::Histogram(SECONDS), "s", NODE,
        "From reading the oldest record of a batch to committing its results.";
    END_TO_END = "driftline.end_to_end.latency", MetricKind::Histogram(SECONDS), "s", SINK,
        "From a record's entry into the pipeline to its exit at a sink.";
    SIGNAL_VALUES = "driftline.signal.values", MetricKind::Counter, "{value}", SIGNALS,
        "Finite values of a numeric signal.";
    SIGNAL_MISSING = "driftline.signal.missing", MetricKind::Counter, "{value}", SIGNALS,
        "Records in which a numeric signal was missing.";
    SIGNAL_MEAN = "driftline.signal.mean", MetricKind::Gauge, "", SIGNALS,
        "Mean of a numeric signal over the last 15 to 30 seconds; not there without values.";
    MONITOR_ALARMS = "driftline.monitor.alarms", MetricKind::Gauge, "{alarm}", &[PIPELINE],
        "Alarms that are firing or acknowledged; 0 where this process does not watch the pipeline.";
    MONITOR_EVIDENCE = "driftline.monitor.evidence", MetricKind::Gauge, "", &[PIPELINE],
        "Evidence that something has changed; an alarm from monitor.run_length; 0 where this process does not \
         watch the pipeline.";
    MONITOR_WINDOWS = "driftline.monitor.windows", MetricKind::Counter, "{window}", &[PIPELINE],
        "Windows judged by this process.";
    MEMORY = "process.memory.usage", MetricKind::UpDownCounter, "By", &[],
        "Physical memory in use.";
    CPU = "process.cpu.time", MetricKind::Counter, "s", &[],
        "CPU time of the process.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_in_both_worlds() {
        let series: Vec<_> = METRICS.iter().flat_map(Metric::prometheus_series).collect();
        assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len());
    }

    #[test]
    fn ours_is_told_from_the_conventions() {
        for metric in METRICS {
            let owner = metric.name.split('.').next();
            assert!(matches!(owner, Some("messaging" | "driftline" | "process")), "{}", metric.name);
            assert!(metric.description.ends_with('.'), "{}", metric.name);
        }
    }
}
