//! What others fetch: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever runs the process.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::runtime::Handle;

use super::{TelemetryError, instruments::Instruments};

/// Listens at `address` and answers until the runtime ends. Returns the address in use: another
/// port where 0 was asked for.
pub(super) fn serve(
    address: SocketAddr,
    registry: Registry,
    instruments: Arc<Instruments>,
    runtime: &Handle,
) -> Result<SocketAddr, TelemetryError> {
    let failed = |source| TelemetryError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let _entered = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
    let routes = Router::new()
        .route("/metrics", get(move || async move { metrics(&registry) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { ready(&instruments) }));
    // It ends with the runtime.
    drop(runtime.spawn(async { axum::serve(listener, routes).await }));
    Ok(bound)
}

fn metrics(registry: &Registry) -> impl IntoResponse + use<> {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&registry.gather(), &mut text) {
        Ok(()) => Ok(([(CONTENT_TYPE, encoder.format_type().to_owned())], text)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))),
    }
}

/// 200 once every node of this process has its partitions and its state, or the monitor that it is has
/// joined its group; before, 503 and the names of the nodes that have not.
fn ready(instruments: &Instruments) -> impl IntoResponse + use<> {
    match instruments.waiting() {
        None => (StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned()),
        Some(names) if names.is_empty() => (StatusCode::OK, "ready\n".to_owned()),
        Some(names) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", names.join(", "))),
    }
}
