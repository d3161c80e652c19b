//! A receiver of OTLP over HTTP in this process: keeps what it is sent and decodes it.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, http::Uri, http::header::CONTENT_TYPE};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    logs::v1::LogRecord,
    metrics::v1::Metric,
    trace::v1::Span,
};
use prost::Message;

/// Receives until it is stopped.
pub struct Collector {
    address: std::net::SocketAddr,
    told: Arc<Mutex<Told>>,
    runtime: tokio::runtime::Runtime,
}

/// What was received.
#[derive(Default)]
pub struct Told {
    /// The bodies of all requests.
    pub bytes: Vec<Vec<u8>>,
    traces: Vec<ExportTraceServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
    logs: Vec<ExportLogsServiceRequest>,
}

impl Collector {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let told: Arc<Mutex<Told>> = Arc::default();
        let keeper = Arc::clone(&told);
        let receive = move |uri: Uri, body: Bytes| async move {
            let mut told = keeper.lock().unwrap();
            match uri.path() {
                "/v1/traces" => told.traces.push(Message::decode(body.clone()).unwrap()),
                "/v1/metrics" => told.metrics.push(Message::decode(body.clone()).unwrap()),
                "/v1/logs" => told.logs.push(Message::decode(body.clone()).unwrap()),
                other => panic!("{other}"),
            }
            told.bytes.push(body.to_vec());
            // An empty message: everything was taken.
            ([(CONTENT_TYPE, "application/x-protobuf")], Vec::<u8>::new())
        };
        let entered = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        drop(runtime.spawn(async { axum::serve(listener, Router::new().fallback(receive)).await }));
        drop(entered);
        Self { address, told, runtime }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns what was received. Whoever sends must have finished.
    pub fn stop(self) -> Told {
        self.runtime.shutdown_background();
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

impl Told {
    pub fn spans(&self) -> Vec<Span> {
        let scopes = self.traces.iter().flat_map(|request| &request.resource_spans).flat_map(|r| &r.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    pub fn logs(&self) -> Vec<LogRecord> {
        let scopes = self.logs.iter().flat_map(|request| &request.resource_logs).flat_map(|r| &r.scope_logs);
        scopes.flat_map(|scope| scope.log_records.clone()).collect()
    }

    pub fn metrics(&self) -> impl Iterator<Item = &Metric> {
        let scopes = self.metrics.iter().flat_map(|request| &request.resource_metrics).flat_map(|r| &r.scope_metrics);
        scopes.flat_map(|scope| &scope.metrics)
    }
}
