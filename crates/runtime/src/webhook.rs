//! Posting to a webhook: from a thread of its own, so that nothing waits for the receiver.
//!
//! A body that is refused for good (4xx) is given up; one that cannot be delivered is tried again with growing waits, for some
//! minutes. What is given up is logged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::retry::Backoff;

/// How long a receiver may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The bodies that wait at most; alarms are few.
const WAITING: usize = 256;
const ATTEMPTS: u32 = 12;

/// Posts JSON to one URL. When it is dropped, what waits is tried once more and then given up.
pub struct Webhook {
    bodies: Option<Sender<Bytes>>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Webhook {
    /// Starts the thread. Nothing is sent yet.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(url: String) -> std::io::Result<Self> {
        let (bodies, waiting) = channel(WAITING);
        let closing = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let post = Posting { url, closing: Arc::clone(&closing) };
        let thread = std::thread::Builder::new()
            .name("webhook".to_owned())
            .spawn(move || runtime.block_on(post.work(waiting)))?;
        Ok(Self { bodies: Some(bodies), closing, thread: Some(thread) })
    }

    /// Posts a body as soon as the ones before it are delivered or given up.
    pub fn post(&self, body: impl Into<Bytes>) {
        let sent = self.bodies.as_ref().map(|bodies| bodies.try_send(body.into()));
        if matches!(sent, Some(Err(_))) {
            tracing::warn!("monitor.webhook: too many notifications wait, one is given up");
        }
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.bodies = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to send.
            let _ = thread.join();
        }
    }
}

struct Posting {
    url: String,
    closing: Arc<AtomicBool>,
}

impl Posting {
    async fn work(self, mut waiting: Receiver<Bytes>) {
        let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        while let Some(body) = waiting.recv().await {
            if let Err(reason) = self.deliver(&client, &body).await {
                tracing::warn!(url = self.url, reason, "monitor.webhook: a notification is given up");
            }
        }
    }

    async fn deliver(&self, client: &Client<HttpConnector, Full<Bytes>>, body: &Bytes) -> Result<(), String> {
        let mut backoff = Backoff::new(u64::from(std::process::id()));
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            let request = Request::post(&self.url)
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(body.clone()))
                .map_err(|error| error.to_string())?;
            reason = match tokio::time::timeout(TIMEOUT, client.request(request)).await {
                Ok(Ok(answer)) if answer.status().is_success() => return Ok(()),
                Ok(Ok(answer))
                    if answer.status().is_client_error() && answer.status() != StatusCode::TOO_MANY_REQUESTS =>
                {
                    return Err(format!("the receiver answers {}", answer.status()));
                }
                Ok(Ok(answer)) => format!("the receiver answers {}", answer.status()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the receiver does not answer".to_owned(),
            };
            if self.closing.load(Ordering::Acquire) {
                break;
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
        Err(reason)
    }
}
