//! How OTLP leaves the process: one HTTP request a batch, sent from the telemetry's own runtime.
//!
//! The SDK exports from threads of its own, outside any async runtime, while hyper needs one: each
//! request is therefore spawned on the runtime that also serves the endpoints.

use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;

/// How long a collector may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// The most of an answer that is read: it says how many items were refused and why.
const MAX_ANSWER: usize = 64 << 10;

/// Sends requests over plain HTTP/1.1.
#[derive(Clone, Debug)]
pub(super) struct OtlpClient {
    client: Client<HttpConnector, Full<Bytes>>,
    runtime: Handle,
}

impl OtlpClient {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), runtime }
    }
}

#[async_trait]
impl HttpClient for OtlpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let exchange = async move {
            let (parts, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(parts, body))
        };
        self.runtime.spawn(async { tokio::time::timeout(TIMEOUT, exchange).await? }).await?
    }
}
