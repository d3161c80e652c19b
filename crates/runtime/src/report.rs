//! What a run did, as a value.

use driftline_types::StageVersion;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{metrics::NodeSnapshot, run::End};

/// What a run did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Why it ended.
    pub end: End,
    /// Seconds from start to end.
    pub seconds: f64,
    /// CPU seconds of the process.
    pub cpu_seconds: f64,
    /// Most memory the process held, bytes.
    pub peak_memory: u64,
    /// Each node, sources first.
    pub nodes: Vec<NodeReport>,
}

/// What one node did.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// Its metrics.
    #[serde(flatten)]
    pub metrics: NodeSnapshot,
    /// Its version; sinks have none.
    pub version: Option<StageVersion>,
}

impl Report {
    /// Finds a node by name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeReport> {
        self.nodes.iter().find(|node| node.metrics.name.as_str() == name)
    }
}

/// Percentiles of a latency, milliseconds, within 1 %.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentiles {
    /// Half are at most this.
    pub p50: f64,
    /// 95 % are at most this.
    pub p95: f64,
    /// 99 % are at most this.
    pub p99: f64,
    /// All are at most this.
    pub max: f64,
}

impl Percentiles {
    /// Reads a histogram of microseconds; `None` if it is empty.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Self {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            max: histogram.max() as f64 / 1e3,
        })
    }
}
