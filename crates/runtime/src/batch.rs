//! Closing a batch: at its number of records, its bytes, or the oldest record's deadline.

use std::time::{Duration, Instant};

use driftline_broker::{BrokerError, FetchLimit, Member, Poll};
use driftline_types::Message;

/// When a batch closes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    pub records: usize,
    pub bytes: usize,
    /// How long the oldest record waits for others.
    pub wait: Duration,
}

/// What a node has to deal with next.
pub(crate) enum Next {
    /// Messages, in offset order within each partition, and when the first of them was read.
    Batch(Vec<Message>, Instant),
    /// Anything but messages. A batch that was open when it came is handed out first.
    Event(Poll),
}

/// Collects messages of a member into batches.
#[derive(Default)]
pub(crate) struct Batcher {
    event: Option<Poll>,
}

impl Batcher {
    /// Waits up to `timeout` for a first message, then up to the batch's deadline for more.
    pub(crate) fn next(
        &mut self,
        member: &mut dyn Member,
        limits: BatchLimits,
        timeout: Duration,
    ) -> Result<Next, BrokerError> {
        if let Some(event) = self.event.take() {
            return Ok(Next::Event(event));
        }
        let limit = FetchLimit { records: limits.records, bytes: limits.bytes };
        let mut batch = match member.poll(limit, timeout)? {
            Poll::Messages(messages) => messages,
            event => return Ok(Next::Event(event)),
        };
        let first = Instant::now();
        let mut bytes: usize = batch.iter().map(Message::payload_bytes).sum();
        loop {
            let left = limits.wait.saturating_sub(first.elapsed());
            if batch.len() >= limits.records || bytes >= limits.bytes || left.is_zero() {
                return Ok(Next::Batch(batch, first));
            }
            let limit = FetchLimit { records: limits.records - batch.len(), bytes: limits.bytes - bytes };
            match member.poll(limit, left)? {
                Poll::Messages(messages) => {
                    bytes += messages.iter().map(Message::payload_bytes).sum::<usize>();
                    batch.extend(messages);
                }
                Poll::Idle => return Ok(Next::Batch(batch, first)),
                event => {
                    self.event = Some(event);
                    return Ok(Next::Batch(batch, first));
                }
            }
        }
    }
}
