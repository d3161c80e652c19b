//! One sink: poll, write, flush, commit.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use driftline_broker::{Broker, BrokerError, OffsetCommit, Poll, Unit};
use driftline_stage::{Sink, StageError, operator::Counts};
use driftline_types::{ErrorClass, Message, PipelineName, StageName, TopicPartition, wire};

use crate::{
    RunError,
    batch::{BatchLimits, Batcher, Next},
    flow::{Flow, Stop},
    metrics::NodeMetrics,
    repeats::Repeats,
    retry::Backoff,
    source_task::now,
    stage_task::{IDLE, with_causes},
};

pub(crate) struct SinkTask {
    pub pipeline: PipelineName,
    pub name: StageName,
    pub sink: Box<dyn Sink>,
    pub inputs: Vec<StageName>,
    pub limits: BatchLimits,
    pub broker: Arc<dyn Broker>,
    pub flow: Arc<Flow>,
    pub metrics: Arc<NodeMetrics>,
}

impl SinkTask {
    pub(crate) fn run(mut self) -> Result<(), RunError> {
        let topics: Vec<_> = self.inputs.iter().map(|input| self.pipeline.output_topic(input)).collect();
        let mut member = self.broker.join(&self.pipeline.group(&self.name), &topics).map_err(RunError::Broker)?;
        let mut batcher = Batcher::default();
        // The next offset of each partition owned. Every commit names all of them, so that each
        // carries the sink's newest note.
        let mut next: BTreeMap<TopicPartition, u64> = BTreeMap::new();
        let mut repeats = Repeats::default();
        loop {
            if self.flow.stopping() == Some(Stop::Now) {
                return Ok(());
            }
            match batcher.next(&mut *member, self.limits, IDLE).map_err(RunError::Broker)? {
                Next::Batch(mut batch, first) => {
                    let started = Instant::now();
                    self.flow.add_backlog(-(repeats.remove(&mut batch) as i64));
                    let note = self.write(&batch)?;
                    for message in &batch {
                        let place = TopicPartition::new(message.topic.clone(), message.partition);
                        next.insert(place, message.offset + 1);
                    }
                    let offsets = next
                        .iter()
                        .map(|(partition, &next)| OffsetCommit {
                            partition: partition.clone(),
                            committed: repeats.committed(partition, next, note.as_deref()),
                        })
                        .collect();
                    member.commit(Unit { outputs: Vec::new(), offsets }).map_err(RunError::Broker)?;
                    self.metrics.busy(started.elapsed());
                    self.settled(&batch, first);
                }
                Next::Event(Poll::Assigned(partitions)) => {
                    let notes: Vec<String> =
                        partitions.iter().filter_map(|(place, committed)| repeats.resume(place, committed)).collect();
                    // All notes of one commit are equal, and a later commit's note is longer or greater.
                    let note = notes.iter().max_by_key(|note| (note.len(), *note));
                    self.sink.resume(note.map(String::as_str)).map_err(|error| RunError::stage(&self.name, &error))?;
                    next.extend(partitions.into_iter().map(|(place, committed)| (place, committed.next)));
                }
                Next::Event(Poll::Revoking(partitions) | Poll::Lost(partitions)) => {
                    for lost in partitions {
                        repeats.forget(&lost);
                        next.remove(&lost);
                    }
                }
                Next::Event(_) => {
                    if self.flow.finished(&self.inputs) && member.lag().map_err(RunError::Broker)? == 0 {
                        self.flow.finish(&self.name);
                        return Ok(());
                    }
                }
            }
        }
    }

    fn write(&mut self, batch: &[Message]) -> Result<Option<String>, RunError> {
        let mut backoff = Backoff::new(u64::from(std::process::id()));
        loop {
            match self.sink.write(batch).and_then(|()| self.sink.flush()) {
                Ok(note) => return Ok(note),
                Err(error) if error.class() == ErrorClass::Transient && self.flow.stopping() != Some(Stop::Now) => {
                    let wait = backoff.next_wait();
                    let reason = with_causes(&error);
                    tracing::warn!(sink = %self.name, reason, ?wait, "sink failed, trying again");
                    self.flow.wait(wait);
                }
                Err(error) => return Err(RunError::stage(&self.name, &error)),
            }
        }
    }

    fn settled(&self, batch: &[Message], first: Instant) {
        let read = batch.len() as u64;
        self.metrics.count(&Counts { read, used: read, ..Counts::default() });
        self.metrics.bytes(batch.iter().map(|message| message.payload_bytes() as u64).sum(), 0);
        self.flow.add_backlog(-(read as i64));
        let now = now().as_millis();
        for message in batch {
            let entered = wire::context(message).ingested.as_millis();
            let since = std::time::Duration::from_millis(now.saturating_sub(entered).max(0) as u64);
            self.metrics.latency(since.max(first.elapsed()), 1);
        }
    }
}

/// Turns a broker error of a sink's commit into what a run reports.
impl From<BrokerError> for RunError {
    fn from(error: BrokerError) -> Self {
        Self::Broker(error)
    }
}

impl RunError {
    pub(crate) fn stage(name: &StageName, error: &StageError) -> Self {
        Self::Stage { name: name.clone(), reason: with_causes(error) }
    }
}
