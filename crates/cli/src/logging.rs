//! Log lines: on standard error, and at the collector where telemetry names one.

use driftline_pipeline::LogFormat;
use driftline_runtime::Telemetry;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// What the command logs where `DRIFTLINE_LOG` says nothing else: it tells in other ways how it goes.
pub(crate) const COMMAND: &str = "warn";
/// What a process logs that serves until it is stopped: also which partitions it takes over and gives up.
pub(crate) const SERVICE: &str = "warn,driftline=info";

/// Starts logging, once a process. `DRIFTLINE_LOG` says what is logged, else `usually`; what happens while a traced
/// batch is worked on carries the ids of its trace.
pub(crate) fn start(usually: &str, format: LogFormat, telemetry: Option<&Telemetry>) {
    let filter = EnvFilter::try_from_env("DRIFTLINE_LOG").unwrap_or_else(|_| EnvFilter::new(usually));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match format {
        LogFormat::Text => lines.compact().boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let collector = telemetry.and_then(Telemetry::log_layer);
    tracing_subscriber::registry().with(filter).with(lines).with(collector).init();
}
