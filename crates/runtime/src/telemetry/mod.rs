//! What a run tells to the outside: metrics, traces and logs.
//!
//! - Metrics ([`METRICS`]) go to a collector by OTLP, stand on a Prometheus endpoint, or both.
//! - Traces follow a part of the records from source to sink.
//! - Logs are what the process logs anyway, with the ids of the trace they belong to.
//!
//! What always holds:
//! - Off is off: a node without telemetry has a branch on a `None` and nothing else.
//! - Nothing waits for a collector: spans and logs that find the queue full are counted as lost by the
//!   SDK, and metrics are sent whole at the next interval.
//! - No key, value or reason of a record leaves in any of them.
//! - Nothing is global: a process can run two pipelines with a telemetry each.

mod client;
mod endpoint;
mod instruments;
mod node;
mod signals;
mod table;
mod trace;

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use driftline_pipeline::{BrokerKind, OtlpEndpoint, Plan};
use driftline_types::{StageName, StageVersion};
use opentelemetry::{KeyValue, metrics::MeterProvider, trace::TracerProvider};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::SdkLoggerProvider,
    metrics::{PeriodicReader, SdkMeterProvider},
    resource::EnvResourceDetector,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider},
};
use tokio::runtime::{Builder, Handle, Runtime};
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

pub(crate) use self::node::{BatchWatch, CommitWatch, NodeTelemetry as Node};
pub use self::table::{METRICS, Metric, MetricKind, prometheus_label};
use self::{client::OtlpClient, instruments::Instruments, node::NodeTelemetry, trace::NodeTracer};
use crate::metrics::{NodeKind, NodeMetrics};

/// How often metrics are sent to a collector.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long the last of everything may take to leave when a run ends, all of it together.
const LAST: Duration = Duration::from_secs(2);
/// The most spans that wait to be sent; beyond, they are lost.
const MAX_SPANS: usize = 8192;
/// The libraries that send what is told.
const EXPORTING: [&str; 2] = ["opentelemetry", "hyper"];
/// The name of all that is told, and of the service unless `OTEL_SERVICE_NAME` names it.
const NAME: &str = "driftline";

/// Telemetry that could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The endpoint cannot be served.
    #[error("telemetry.prometheus: cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// An exporter cannot be made.
    #[error("telemetry.otlp: cannot send to {endpoint}")]
    Exporter {
        /// Where to.
        endpoint: OtlpEndpoint,
        /// Why.
        source: ExporterBuildError,
    },
    /// The Prometheus exporter cannot be made.
    #[error("telemetry.prometheus: {0}")]
    Prometheus(String),
    /// The threads cannot be started.
    #[error("telemetry: cannot start its threads")]
    Threads(#[source] std::io::Error),
}

/// The telemetry of a run. When it is dropped, the last of everything is sent, in two
/// seconds at most.
pub struct Telemetry {
    instruments: Arc<Instruments>,
    pipeline: String,
    ratio: f64,
    meters: SdkMeterProvider,
    traces: Option<(SdkTracerProvider, SdkTracer)>,
    logs: Option<SdkLoggerProvider>,
    address: Option<SocketAddr>,
    _threads: Threads,
}

impl Telemetry {
    /// Starts what `[telemetry]` of a plan names; `None` if that is nothing.
    ///
    /// # Errors
    /// If the endpoint's address is taken, or threads cannot be started. A collector that cannot be
    /// reached is no error: it may come.
    pub fn start(plan: &Plan) -> Result<Option<Self>, TelemetryError> {
        let config = &plan.telemetry;
        if !config.is_on() {
            return Ok(None);
        }
        let threads = Threads::start()?;
        let resource = resource(plan);
        let mut meters = SdkMeterProvider::builder().with_resource(resource.clone());
        let (mut traces, mut logs) = (None, None);
        if let Some(endpoint) = &config.otlp {
            let exporters = Exporters { endpoint, client: OtlpClient::new(threads.handle.clone()) };
            meters = meters.with_reader(PeriodicReader::builder(exporters.metrics()?).with_interval(INTERVAL).build());
            traces = Some(tracer(exporters.spans()?, resource.clone()));
            logs = Some(
                SdkLoggerProvider::builder().with_batch_exporter(exporters.logs()?).with_resource(resource).build(),
            );
        }
        let registry = prometheus::Registry::new();
        if config.prometheus.is_some() {
            let exporter = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build();
            meters = meters.with_reader(exporter.map_err(|error| TelemetryError::Prometheus(error.to_string()))?);
        }
        let meters = meters.build();
        let instruments = Instruments::new(&meters.meter(NAME), plan.name.clone(), system(plan.broker.kind));
        let serve = |address| endpoint::serve(address, registry, Arc::clone(&instruments), &threads.handle);
        Ok(Some(Self {
            address: config.prometheus.map(serve).transpose()?,
            instruments,
            pipeline: plan.name.to_string(),
            ratio: config.sampling.ratio(),
            meters,
            traces,
            logs,
            _threads: threads,
        }))
    }

    /// Returns where metrics and health are served: another port than asked for if that was 0.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Makes the layer that sends log events to the collector; `None` without one. What is logged on
    /// the way to it stays here: it would never end.
    pub fn log_layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        let bridge = OpenTelemetryTracingBridge::new(self.logs.as_ref()?);
        let on_the_way = |target: &str| EXPORTING.iter().any(|library| target.starts_with(library));
        Some(bridge.with_filter(filter_fn(move |event| !on_the_way(event.target()))))
    }

    /// Begins to tell of a node.
    pub(crate) fn node(
        &self,
        kind: NodeKind,
        name: &StageName,
        version: Option<&StageVersion>,
        metrics: Arc<NodeMetrics>,
    ) -> NodeTelemetry {
        let tracer = self.traces.as_ref().map(|(_, tracer)| {
            let mut attributes = self.instruments.attributes(name, version);
            attributes.push(KeyValue::new(table::SYSTEM, self.instruments.system()));
            let group = format!("{}.{name}", self.pipeline);
            NodeTracer::new(tracer.clone(), self.ratio, name.to_string(), group, attributes)
        });
        NodeTelemetry::new(Arc::clone(&self.instruments), kind, name, version, metrics, tracer)
    }

    /// Notes how things stand with the monitor of this process: alarms that are active, the evidence, and windows judged since
    /// the last call; zeros where another monitor is at work. To be called first when the monitor has joined its group.
    pub fn monitor(&self, alarms: u64, evidence: f64, windows: u64) {
        self.instruments.monitor(alarms, evidence, windows);
    }

    /// Notes memory in bytes and CPU time of the process.
    pub(crate) fn process(&self, memory: u64, cpu_seconds: f64) {
        self.instruments.process(memory, Duration::from_secs_f64(cpu_seconds.max(0.0)));
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        let mut last: Vec<Box<dyn FnOnce() -> OTelSdkResult + Send>> = Vec::new();
        if let Some((traces, _)) = self.traces.take() {
            last.push(Box::new(move || traces.shutdown_with_timeout(LAST)));
        }
        if let Some(logs) = self.logs.take() {
            last.push(Box::new(move || logs.shutdown_with_timeout(LAST)));
        }
        let meters = self.meters.clone();
        last.push(Box::new(move || meters.shutdown_with_timeout(LAST)));
        // Side by side, and left behind if they take longer: meters take no notice of the time they are given. A failure was
        // logged by the SDK; nothing more can be done about it.
        let deadline = Instant::now() + LAST;
        let (done, ended) = mpsc::channel();
        for shutdown in last {
            let done = done.clone();
            let _ = std::thread::Builder::new().name("telemetry-end".to_owned()).spawn(move || {
                let _ = shutdown();
                let _ = done.send(());
            });
        }
        drop(done);
        while ended.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
    }
}

/// The runtime that sends and serves. Unlike a plain one it may be dropped within another.
struct Threads {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Threads {
    fn start() -> Result<Self, TelemetryError> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("telemetry").enable_all().build();
        let runtime = runtime.map_err(TelemetryError::Threads)?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What sends to one collector.
struct Exporters<'a> {
    endpoint: &'a OtlpEndpoint,
    client: OtlpClient,
}

impl Exporters<'_> {
    fn metrics(&self) -> Result<MetricExporter, TelemetryError> {
        let builder = MetricExporter::builder().with_http().with_http_client(self.client.clone());
        let built = builder.with_endpoint(self.endpoint.url("v1/metrics")).with_timeout(client::TIMEOUT).build();
        built.map_err(|source| self.failed(source))
    }

    fn spans(&self) -> Result<SpanExporter, TelemetryError> {
        let builder = SpanExporter::builder().with_http().with_http_client(self.client.clone());
        let built = builder.with_endpoint(self.endpoint.url("v1/traces")).with_timeout(client::TIMEOUT).build();
        built.map_err(|source| self.failed(source))
    }

    fn logs(&self) -> Result<LogExporter, TelemetryError> {
        let builder = LogExporter::builder().with_http().with_http_client(self.client.clone());
        let built = builder.with_endpoint(self.endpoint.url("v1/logs")).with_timeout(client::TIMEOUT).build();
        built.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: ExporterBuildError) -> TelemetryError {
        TelemetryError::Exporter { endpoint: self.endpoint.clone(), source }
    }
}

/// Makes a tracer that records every span it is asked for: who asks has decided.
fn tracer(exporter: SpanExporter, resource: Resource) -> (SdkTracerProvider, SdkTracer) {
    let queue = BatchConfigBuilder::default().with_max_queue_size(MAX_SPANS).build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(queue).build())
        .with_sampler(Sampler::AlwaysOn)
        .with_id_generator(trace::ChosenIds::default())
        // A batch is linked with each sampled record of it.
        .with_max_links_per_span(1024)
        .with_resource(resource)
        .build();
    let tracer = provider.tracer(NAME);
    (provider, tracer)
}

/// Says who tells: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` have the last word.
fn resource(plan: &Plan) -> Resource {
    // Differs between processes, on one machine or many.
    let instance = RandomState::new().hash_one(std::process::id());
    let own = [
        KeyValue::new("service.name", NAME),
        KeyValue::new("service.namespace", plan.name.to_string()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", format!("{instance:016x}")),
    ];
    Resource::builder_empty().with_attributes(own).with_detector(Box::new(EnvResourceDetector::new())).build()
}

/// The messaging system's name in attributes.
fn system(kind: BrokerKind) -> &'static str {
    match kind {
        BrokerKind::Embedded => NAME,
        BrokerKind::Kafka => "kafka",
    }
}
