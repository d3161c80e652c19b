//! One sink: poll, write, flush, commit; what it refuses becomes dead letters, committed with the offsets.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use driftline_broker::{Broker, BrokerError, Committed, Member, OffsetCommit, Poll, Unit, advance};
use driftline_stage::{Sink, StageError, operator::Counts};
use driftline_types::{ErrorClass, Message, Outgoing, PipelineName, StageName, Timestamp, TopicPartition, wire};

use crate::{
    RunError,
    batch::{BatchLimits, Batcher, Next},
    failure::with_causes,
    flow::{Flow, Stop},
    letters::make_room,
    metrics::NodeMetrics,
    repeats::Repeats,
    retry::{Backoff, until_available},
    stage_task::{IDLE, is_drained},
    telemetry::Node,
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
    pub telemetry: Option<Node>,
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
            if let Some(telemetry) = &self.telemetry {
                telemetry.note_lag(&*member);
            }
            match batcher.next(&mut *member, self.limits, IDLE).map_err(RunError::Broker)? {
                Next::Batch(mut batch, first) => {
                    self.flow.add_backlog(-(repeats.remove(&mut batch) as i64));
                    self.work(&mut *member, &mut next, &mut repeats, batch, first)?;
                }
                Next::Event(Poll::Assigned(partitions)) => {
                    if !partitions.is_empty() {
                        self.resume(&mut repeats, &partitions)?;
                    }
                    next.extend(partitions.into_iter().map(|(place, committed)| (place, committed.next)));
                    self.metrics.set_ready(true);
                }
                Next::Event(Poll::Revoking(partitions) | Poll::Lost(partitions)) => {
                    for lost in partitions {
                        repeats.forget(&lost);
                        next.remove(&lost);
                    }
                }
                Next::Event(_) => {
                    if self.flow.finished(&self.inputs) && is_drained(&*member)? {
                        self.flow.finish(&self.name);
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Takes partitions over where their last commit ended.
    fn resume(&mut self, repeats: &mut Repeats, partitions: &[(TopicPartition, Committed)]) -> Result<(), RunError> {
        let notes: Vec<String> =
            partitions.iter().filter_map(|(place, committed)| repeats.resume(place, committed)).collect();
        // All notes of one commit are equal, and a later commit's note is longer or greater.
        let note = notes.iter().max_by_key(|note| (note.len(), *note));
        self.sink.resume(note.map(String::as_str)).map_err(|error| RunError::stage(&self.name, &error))
    }

    /// Writes a batch out, but for the records of probes and what was sent again to another node, and commits it.
    fn work(
        &mut self,
        member: &mut dyn Member,
        next: &mut BTreeMap<TopicPartition, u64>,
        repeats: &mut Repeats,
        mut batch: Vec<Message>,
        first: Instant,
    ) -> Result<(), RunError> {
        repeats.pass(&batch);
        advance(next, &batch);
        let read = batch.len();
        batch.retain(|message| !wire::is_probe(message) && wire::is_for(message, self.name.as_str()));
        self.flow.add_backlog(-((read - batch.len()) as i64));
        let batch = &batch[..];
        let started = Instant::now();
        // Taken out for as long as the batch borrows it.
        let telemetry = self.telemetry.take();
        let watch = telemetry.as_ref().map(|telemetry| telemetry.batch(batch, first));
        let written = self.persist(|task| task.write(batch));
        let (note, mut letters) = written.map_err(|error| RunError::stage(&self.name, &error))?;
        if let Some(watch) = &watch {
            watch.processed(batch, started, Ok(None));
        }
        let committing = watch.as_ref().map(|_| Instant::now());
        self.commit(member, next, repeats, note.as_deref(), &mut letters)?;
        if let Some((watch, committing)) = watch.zip(committing) {
            watch.committed(committing, None);
            watch.handed_over().finished();
        }
        self.telemetry = telemetry;
        self.settled(batch, letters.len() as u64, first);
        Ok(())
    }

    /// Commits how far the sink is, with the dead letters of what it refused. A partition that was taken over meanwhile is
    /// begun anew by its next owner, who cuts off what was written past the last commit.
    fn commit(
        &self,
        member: &mut dyn Member,
        next: &BTreeMap<TopicPartition, u64>,
        repeats: &Repeats,
        note: Option<&str>,
        letters: &mut Vec<Outgoing>,
    ) -> Result<(), RunError> {
        let offset = |(partition, &next): (&TopicPartition, &u64)| OffsetCommit {
            partition: partition.clone(),
            committed: repeats.committed(partition, next, note),
        };
        loop {
            let commit =
                || member.commit(Unit { outputs: letters.clone(), offsets: next.iter().map(offset).collect() });
            match until_available(&self.name, &self.flow, &self.metrics, commit) {
                Ok(()) | Err(BrokerError::Fenced { .. }) => {
                    self.metrics.set_ready(true);
                    return Ok(());
                }
                Err(error) => {
                    // Dead letters are all that a sink writes to the log, and they are counted as such.
                    if !make_room(&error, &self.pipeline, &self.name, letters, &mut Counts::default()) {
                        return Err(RunError::Broker(error));
                    }
                }
            }
        }
    }

    /// Writes messages out and hands them to the target. Returns the sink's note, and the dead letters of what it refused.
    fn write(&mut self, batch: &[Message]) -> Result<(Option<String>, Vec<Outgoing>), StageError> {
        let mut letters = Vec::new();
        self.write_good(batch, &mut letters)?;
        Ok((self.timed(Sink::flush)?, letters))
    }

    /// Counts the time of a call as work.
    fn timed<T>(&mut self, call: impl FnOnce(&mut dyn Sink) -> T) -> T {
        let started = Instant::now();
        let outcome = call(&mut *self.sink);
        self.metrics.busy(started.elapsed());
        outcome
    }

    /// Writes messages out. Where one of them is bad they are halved until it is alone: the others are written once, in
    /// order, and the bad one becomes a dead letter.
    fn write_good(&mut self, batch: &[Message], letters: &mut Vec<Outgoing>) -> Result<(), StageError> {
        let error = match self.persist(|task| task.timed(|sink| sink.write(batch))) {
            Err(error) if error.class() == ErrorClass::Record && !batch.is_empty() => error,
            outcome => return outcome,
        };
        if let [message] = batch {
            letters.push(wire::dead_letter(&self.pipeline, &self.name, message, with_causes(&error)));
            return Ok(());
        }
        let (left, right) = batch.split_at(batch.len() / 2);
        self.write_good(left, letters)?;
        self.write_good(right, letters)
    }

    /// Repeats what fails for a passing reason, until the nodes are asked to stop at once.
    fn persist<T>(&mut self, mut attempt: impl FnMut(&mut Self) -> Result<T, StageError>) -> Result<T, StageError> {
        let mut backoff = Backoff::new(u64::from(std::process::id()));
        loop {
            match attempt(self) {
                Err(error) if error.class() == ErrorClass::Transient && self.flow.stopping() != Some(Stop::Now) => {
                    let wait = backoff.next_wait();
                    let reason = with_causes(&error);
                    tracing::warn!(sink = %self.name, reason, ?wait, "sink failed, trying again");
                    self.flow.pause(wait);
                }
                outcome => return outcome,
            }
        }
    }

    fn settled(&self, batch: &[Message], rejected: u64, first: Instant) {
        let read = batch.len() as u64;
        self.metrics.count(&Counts { read, used: read - rejected, rejected, ..Counts::default() });
        self.metrics.bytes(batch.iter().map(|message| message.payload_bytes() as u64).sum(), 0);
        self.flow.add_backlog(-(read as i64));
        let (now, waited) = (Timestamp::now().as_millis(), first.elapsed());
        let since = |message: &Message| {
            let entered = wire::ingested(message).as_millis();
            Duration::from_millis(now.saturating_sub(entered).max(0) as u64).max(waited)
        };
        let since: Vec<Duration> = batch.iter().map(since).collect();
        // Most records of a batch entered together.
        for run in since.chunk_by(PartialEq::eq) {
            let Some(&since) = run.first() else { continue };
            self.metrics.latency(since, run.len() as u64);
            if let Some(telemetry) = &self.telemetry {
                run.iter().for_each(|_| telemetry.left(since));
            }
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
