//! One stage: poll, batch, process, commit.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use driftline_broker::{Broker, BrokerError, FetchLimit, Member, OffsetCommit, Poll, Unit};
use driftline_stage::{
    OpenStage, StageError,
    operator::{Counts, Effects, Operator, Site},
};
use driftline_types::{ErrorClass, Headers, Message, Outgoing, Partition, StageName, TopicPartition, wire};

use crate::{
    RunError,
    batch::{BatchLimits, Batcher, Next},
    flow::{Flow, Stop},
    metrics::NodeMetrics,
    repeats::Repeats,
    retry::Backoff,
    source_task::{bytes_of, now},
};

/// How long a node waits for messages before it looks around.
pub(crate) const IDLE: Duration = Duration::from_millis(20);

pub(crate) struct StageTask {
    pub site: Arc<Site>,
    pub stage: Arc<dyn OpenStage>,
    pub inputs: Vec<StageName>,
    pub limits: BatchLimits,
    pub broker: Arc<dyn Broker>,
    pub flow: Arc<Flow>,
    pub metrics: Arc<NodeMetrics>,
    /// How many nodes read what it writes.
    pub readers: i64,
    /// Whether a drained run flushes what is buffered even if it was asked to stop: true if there
    /// will be no next run to take the state up again.
    pub flush_on_stop: bool,
}

/// The operators of the partitions this task owns.
type Operators = BTreeMap<Partition, Box<dyn Operator>>;

impl StageTask {
    pub(crate) fn run(self) -> Result<(), RunError> {
        let topics: Vec<_> = self.inputs.iter().map(|input| self.site.pipeline.output_topic(input)).collect();
        let group = self.site.pipeline.group(&self.site.stage);
        let mut member = self.broker.join(&group, &topics).map_err(RunError::Broker)?;
        let mut batcher = Batcher::default();
        let mut operators = Operators::new();
        let mut repeats = Repeats::default();
        loop {
            if self.flow.stopping() == Some(Stop::Now) {
                return Ok(());
            }
            match batcher.next(&mut *member, self.limits, IDLE).map_err(RunError::Broker)? {
                Next::Batch(mut batch, first) => {
                    self.flow.add_backlog(-(repeats.remove(&mut batch) as i64));
                    self.work(&mut *member, &mut operators, &repeats, batch, first)?;
                }
                Next::Event(Poll::Assigned(partitions)) => {
                    for (assigned, committed) in partitions {
                        repeats.resume(&assigned, &committed);
                        self.operator(&mut operators, assigned.partition)?;
                    }
                }
                Next::Event(Poll::Revoking(partitions) | Poll::Lost(partitions)) => {
                    for lost in partitions {
                        repeats.forget(&lost);
                        operators.remove(&lost.partition);
                    }
                }
                Next::Event(_) => {
                    let drained = self.flow.finished(&self.inputs) && member.lag().map_err(RunError::Broker)? == 0;
                    if drained {
                        if self.flow.stopping().is_none() || self.flush_on_stop {
                            self.flush(&mut *member, &mut operators)?;
                        }
                        self.flow.finish(&self.site.stage);
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Makes the operator of a partition, with the state of its last commit, if there is none yet.
    fn operator(&self, operators: &mut Operators, partition: Partition) -> Result<(), RunError> {
        if let Entry::Vacant(entry) = operators.entry(partition) {
            let mut operator = self.stage.instance(Arc::clone(&self.site));
            let entries = read_state(&*self.broker, &self.site, partition).map_err(RunError::Broker)?;
            operator.restore(entries).map_err(|error| RunError::stage(&self.site.stage, &error))?;
            entry.insert(operator);
        }
        Ok(())
    }

    /// Processes a batch of any partitions and commits it: as one unit if nothing fails.
    fn work(
        &self,
        member: &mut dyn Member,
        operators: &mut Operators,
        repeats: &Repeats,
        batch: Vec<Message>,
        first: Instant,
    ) -> Result<(), RunError> {
        let read = batch.len();
        let read_bytes = batch.iter().map(|message| message.payload_bytes() as u64).sum();
        let started = Instant::now();
        let mut by_partition: BTreeMap<Partition, Vec<Message>> = BTreeMap::new();
        for message in batch {
            by_partition.entry(message.partition).or_default().push(message);
        }
        let mut unit = Unit::default();
        let mut counts = Vec::new();
        let mut failed = Vec::new();
        for (partition, messages) in &by_partition {
            match self.process(operators, *partition, messages, first.elapsed()) {
                Ok(effects) => {
                    counts.push(effects.counts);
                    into_unit(&self.site, *partition, effects, &mut unit);
                    unit.offsets.extend(offsets_after(messages, repeats));
                }
                Err(failure) => failed.push((*partition, failure)),
            }
        }
        let written = bytes_of(&unit);
        match self.commit(member, unit) {
            Ok(()) => {
                for counts in &counts {
                    self.settled(counts);
                }
                self.metrics.bytes(read_bytes, written);
            }
            // None of it was written: every partition goes through the careful way.
            Err(failure) => {
                failed = by_partition.keys().map(|&partition| (partition, failure.clone())).collect();
            }
        }
        for (partition, failure) in failed {
            operators.remove(&partition);
            let messages = by_partition.remove(&partition).unwrap_or_default();
            self.recover(member, operators, repeats, partition, &messages, failure)?;
        }
        self.flow.add_backlog(-(read as i64));
        self.metrics.busy(started.elapsed());
        self.metrics.latency(first.elapsed(), read as u64);
        Ok(())
    }

    /// Works off messages of one partition of which some record, or the commit, has failed. The
    /// operator is gone; each attempt begins with the committed state.
    fn recover(
        &self,
        member: &mut dyn Member,
        operators: &mut Operators,
        repeats: &Repeats,
        partition: Partition,
        messages: &[Message],
        failure: Failure,
    ) -> Result<(), RunError> {
        match failure {
            Failure::Fatal(error) => return Err(RunError::stage(&self.site.stage, &StageError::fatal(error))),
            Failure::Broker(error) => return Err(RunError::Text(error)),
            // Another member has the partition: it reads the messages again.
            Failure::Fenced => return Ok(()),
            Failure::Transient(error) => {
                let mut backoff = Backoff::new(u64::from(partition) + u64::from(std::process::id()));
                let mut error = error;
                loop {
                    let wait = backoff.next_wait();
                    tracing::warn!(stage = %self.site.stage, partition, %error, ?wait, "batch failed, trying again");
                    self.flow.wait(wait);
                    if self.flow.stopping() == Some(Stop::Now) {
                        return Ok(());
                    }
                    match self.attempt(member, operators, repeats, partition, messages) {
                        Ok(()) => return Ok(()),
                        Err(Failure::Transient(again)) => error = again,
                        Err(failure) => return self.recover(member, operators, repeats, partition, messages, failure),
                    }
                }
            }
            Failure::Record(reason) => {
                if let [message] = messages {
                    return self.bury(member, operators, repeats, partition, message, reason);
                }
                let (left, right) = messages.split_at(messages.len() / 2);
                for half in [left, right] {
                    if let Err(failure) = self.attempt(member, operators, repeats, partition, half) {
                        self.recover(member, operators, repeats, partition, half, failure)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Processes messages of one partition from the committed state and commits them.
    fn attempt(
        &self,
        member: &mut dyn Member,
        operators: &mut Operators,
        repeats: &Repeats,
        partition: Partition,
        messages: &[Message],
    ) -> Result<(), Failure> {
        self.operator(operators, partition).map_err(|error| Failure::Fatal(error.to_string()))?;
        let outcome = self.process(operators, partition, messages, Duration::ZERO).and_then(|effects| {
            let counts = effects.counts;
            let mut unit = Unit { outputs: Vec::new(), offsets: offsets_after(messages, repeats) };
            into_unit(&self.site, partition, effects, &mut unit);
            self.commit(member, unit).map(|()| counts)
        });
        match outcome {
            Ok(counts) => {
                self.settled(&counts);
                Ok(())
            }
            Err(failure) => {
                operators.remove(&partition);
                Err(failure)
            }
        }
    }

    /// Writes the dead letter of one message and passes its offset.
    fn bury(
        &self,
        member: &mut dyn Member,
        operators: &mut Operators,
        repeats: &Repeats,
        partition: Partition,
        message: &Message,
        reason: String,
    ) -> Result<(), RunError> {
        let letter = wire::dead_letter(&self.site.pipeline, &self.site.stage, message, reason);
        let unit = Unit { outputs: vec![letter], offsets: offsets_after(std::slice::from_ref(message), repeats) };
        match self.commit(member, unit) {
            Ok(()) => {
                self.settled(&Counts { read: 1, rejected: 1, ..Default::default() });
                self.operator(operators, partition)
            }
            Err(Failure::Fenced) => Ok(()),
            Err(failure) => Err(RunError::Text(format!("dead letter of {}: {failure}", self.site.stage))),
        }
    }

    fn process(
        &self,
        operators: &mut Operators,
        partition: Partition,
        messages: &[Message],
        waited: Duration,
    ) -> Result<Effects, Failure> {
        let operator = operators
            .get_mut(&partition)
            .ok_or_else(|| Failure::Fatal(format!("partition {partition} was read before it was assigned")))?;
        match catch_unwind(AssertUnwindSafe(|| operator.process(messages, waited))) {
            Ok(Ok(effects)) => Ok(effects),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(panic) => Err(Failure::Record(format!("the stage panicked: {}", panic_text(&*panic)))),
        }
    }

    fn flush(&self, member: &mut dyn Member, operators: &mut Operators) -> Result<(), RunError> {
        for (&partition, operator) in operators.iter_mut() {
            let effects = operator.flush().map_err(|error| RunError::stage(&self.site.stage, &error))?;
            let counts = effects.counts;
            let mut unit = Unit::default();
            into_unit(&self.site, partition, effects, &mut unit);
            if !unit.outputs.is_empty() {
                self.commit(member, unit).map_err(|failure| RunError::Text(failure.to_string()))?;
            }
            self.settled(&counts);
        }
        Ok(())
    }

    fn commit(&self, member: &mut dyn Member, unit: Unit) -> Result<(), Failure> {
        if unit.outputs.is_empty() && unit.offsets.is_empty() {
            return Ok(());
        }
        member.commit(unit).map_err(|error| match error {
            BrokerError::Fenced { .. } => Failure::Fenced,
            BrokerError::TooLarge { .. } => Failure::Record(error.to_string()),
            error if error.class() == ErrorClass::Transient => Failure::Transient(error.to_string()),
            error => Failure::Broker(error.to_string()),
        })
    }

    /// Counts what was committed.
    fn settled(&self, counts: &Counts) {
        self.flow.add_backlog(counts.written as i64 * self.readers);
        self.metrics.count(counts);
    }
}

/// Why a batch was not committed.
#[derive(Clone, Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Transient(String),
    #[error("{0}")]
    Record(String),
    #[error("{0}")]
    Fatal(String),
    #[error("{0}")]
    Broker(String),
    #[error("the partition was taken over by another member")]
    Fenced,
}

impl Failure {
    fn of(error: &StageError) -> Self {
        let text = with_causes(error);
        match error.class() {
            ErrorClass::Transient => Self::Transient(text),
            ErrorClass::Record => Self::Record(text),
            ErrorClass::Fatal => Self::Fatal(text),
        }
    }
}

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// The offsets to commit once these messages are done: one a topic and partition.
fn offsets_after(messages: &[Message], repeats: &Repeats) -> Vec<OffsetCommit> {
    let mut next: BTreeMap<TopicPartition, u64> = BTreeMap::new();
    for message in messages {
        next.insert(TopicPartition::new(message.topic.clone(), message.partition), message.offset + 1);
    }
    next.into_iter()
        .map(|(partition, next)| OffsetCommit { committed: repeats.committed(&partition, next, None), partition })
        .collect()
}

/// Adds the effects of a batch of one partition to a unit.
pub(crate) fn into_unit(site: &Site, partition: Partition, effects: Effects, unit: &mut Unit) {
    let Effects { outputs, dead_letters, state, profiles, .. } = effects;
    unit.outputs.extend(outputs);
    unit.outputs.extend(dead_letters);
    if !state.is_empty() {
        let topic = site.pipeline.state_topic(&site.stage);
        unit.outputs.extend(state.into_iter().map(|change| Outgoing {
            topic: topic.clone(),
            partition: Some(partition),
            key: Some(change.key),
            value: change.value,
            headers: Headers::default(),
            timestamp: now(),
        }));
    }
    unit.outputs.extend(profiles.into_iter().map(|profile| crate::profiles::message(site, profile)));
}

/// Reads the state of one partition of a stage, as committed.
pub(crate) fn read_state(
    broker: &dyn Broker,
    site: &Site,
    partition: Partition,
) -> Result<Vec<(Bytes, Bytes)>, BrokerError> {
    let place = TopicPartition::new(site.pipeline.state_topic(&site.stage), partition);
    let low = broker
        .describe_topic(&place.topic)?
        .and_then(|topic| topic.partitions.get(partition as usize).copied())
        .ok_or_else(|| BrokerError::UnknownTopic { topic: place.topic.clone() })?
        .low;
    let mut from = low;
    let mut entries = BTreeMap::new();
    loop {
        let messages = broker.read(&place, from, FetchLimit { records: 4096, bytes: 8 << 20 })?;
        let Some(last) = messages.last() else {
            return Ok(entries.into_iter().collect());
        };
        from = last.offset + 1;
        for message in messages {
            match (message.key, message.value) {
                (Some(key), Some(value)) => drop(entries.insert(key, value)),
                (Some(key), None) => drop(entries.remove(&key)),
                (None, _) => {}
            }
        }
    }
}
