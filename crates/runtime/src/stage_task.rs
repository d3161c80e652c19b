//! One stage: poll, batch, process, commit.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use driftline_broker::{Broker, BrokerError, Member, OffsetCommit, Poll, Unit, records};
use driftline_stage::{
    OpenStage, StageError,
    operator::{Counts, Effects, Operator, Site, Tally},
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
    telemetry::{BatchWatch, Node},
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
    pub telemetry: Option<Node>,
    /// How many nodes read what it writes.
    pub readers: i64,
    /// Whether a drained run flushes what is buffered even if it was asked to stop: true if there
    /// will be no next run to take the state up again.
    pub flush_on_stop: bool,
}

/// The operators of the partitions this task owns.
type Operators = BTreeMap<Partition, Box<dyn Operator>>;

/// What working off one batch needs at every step.
struct Turn<'a> {
    member: &'a mut dyn Member,
    operators: &'a mut Operators,
    repeats: &'a Repeats,
    watch: Option<&'a BatchWatch<'a>>,
}

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
            if let Some(telemetry) = &self.telemetry {
                telemetry.note_lag(&*member);
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
                    self.metrics.set_ready();
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
        let watch = self.telemetry.as_ref().map(|telemetry| telemetry.batch(&batch, first));
        let turn = &mut Turn { member, operators, repeats, watch: watch.as_ref() };
        let mut by_partition: BTreeMap<Partition, Vec<Message>> = BTreeMap::new();
        for message in batch {
            by_partition.entry(message.partition).or_default().push(message);
        }
        let mut unit = Unit::default();
        let mut counts = Vec::new();
        let mut failed = Vec::new();
        for (partition, messages) in &by_partition {
            match self.process(turn, *partition, messages, first.elapsed()) {
                Ok(mut effects) => {
                    counts.push((effects.counts, std::mem::take(&mut effects.tallies)));
                    into_unit(&self.site, *partition, effects, &mut unit);
                    unit.offsets.extend(offsets_after(messages, repeats));
                }
                Err(failure) => failed.push((*partition, failure)),
            }
        }
        let written = bytes_of(&unit);
        match commit(turn, unit) {
            Ok(()) => {
                for (counts, tallies) in &counts {
                    self.settled(counts, tallies);
                }
                self.metrics.bytes(read_bytes, written);
            }
            // None of it was written: every partition goes through the careful way.
            Err(failure) => {
                failed = by_partition.keys().map(|&partition| (partition, failure.clone())).collect();
            }
        }
        for (partition, failure) in failed {
            turn.operators.remove(&partition);
            let messages = by_partition.remove(&partition).unwrap_or_default();
            self.recover(turn, partition, &messages, failure)?;
        }
        self.flow.add_backlog(-(read as i64));
        self.metrics.busy(started.elapsed());
        self.metrics.latency(first.elapsed(), read as u64);
        if let Some(watch) = &watch {
            watch.finished();
        }
        Ok(())
    }

    /// Works off messages of one partition of which some record, or the commit, has failed. The
    /// operator is gone; each attempt begins with the committed state.
    fn recover(
        &self,
        turn: &mut Turn<'_>,
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
                    match self.attempt(turn, partition, messages) {
                        Ok(()) => return Ok(()),
                        Err(Failure::Transient(again)) => error = again,
                        Err(failure) => return self.recover(turn, partition, messages, failure),
                    }
                }
            }
            Failure::Record(reason) => {
                if let [message] = messages {
                    return self.bury(turn, partition, message, reason);
                }
                let (left, right) = messages.split_at(messages.len() / 2);
                for half in [left, right] {
                    if let Err(failure) = self.attempt(turn, partition, half) {
                        self.recover(turn, partition, half, failure)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Processes messages of one partition from the committed state and commits them.
    fn attempt(&self, turn: &mut Turn<'_>, partition: Partition, messages: &[Message]) -> Result<(), Failure> {
        self.operator(turn.operators, partition).map_err(|error| Failure::Fatal(error.to_string()))?;
        let outcome = self.process(turn, partition, messages, Duration::ZERO).and_then(|mut effects| {
            let settled = (effects.counts, std::mem::take(&mut effects.tallies));
            let mut unit = Unit { outputs: Vec::new(), offsets: offsets_after(messages, turn.repeats) };
            into_unit(&self.site, partition, effects, &mut unit);
            commit(turn, unit).map(|()| settled)
        });
        match outcome {
            Ok((counts, tallies)) => {
                self.settled(&counts, &tallies);
                Ok(())
            }
            Err(failure) => {
                turn.operators.remove(&partition);
                Err(failure)
            }
        }
    }

    /// Writes the dead letter of one message and passes its offset.
    fn bury(
        &self,
        turn: &mut Turn<'_>,
        partition: Partition,
        message: &Message,
        reason: String,
    ) -> Result<(), RunError> {
        let letter = wire::dead_letter(&self.site.pipeline, &self.site.stage, message, reason);
        let unit = Unit { outputs: vec![letter], offsets: offsets_after(std::slice::from_ref(message), turn.repeats) };
        match commit(turn, unit) {
            Ok(()) => {
                self.settled(&Counts { read: 1, rejected: 1, ..Default::default() }, &[]);
                self.operator(turn.operators, partition)
            }
            Err(Failure::Fenced) => Ok(()),
            Err(failure) => Err(RunError::Text(format!("dead letter of {}: {failure}", self.site.stage))),
        }
    }

    fn process(
        &self,
        turn: &mut Turn<'_>,
        partition: Partition,
        messages: &[Message],
        waited: Duration,
    ) -> Result<Effects, Failure> {
        let watch = turn.watch;
        let operator = turn
            .operators
            .get_mut(&partition)
            .ok_or_else(|| Failure::Fatal(format!("partition {partition} was read before it was assigned")))?;
        let started = watch.map(|_| Instant::now());
        let mut outcome = match catch_unwind(AssertUnwindSafe(|| operator.process(messages, waited))) {
            Ok(Ok(effects)) => Ok(effects),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(panic) => Err(Failure::Record(format!("the stage panicked: {}", panic_text(&*panic)))),
        };
        if let Some((watch, started)) = watch.zip(started) {
            watch.processed(messages, started, outcome.as_mut().map(Some).map_err(|failure| failure.class()));
        }
        outcome
    }

    fn flush(&self, member: &mut dyn Member, operators: &mut Operators) -> Result<(), RunError> {
        for (&partition, operator) in operators.iter_mut() {
            let effects = operator.flush().map_err(|error| RunError::stage(&self.site.stage, &error))?;
            let (counts, tallies) = (effects.counts, effects.tallies.clone());
            let mut unit = Unit::default();
            into_unit(&self.site, partition, effects, &mut unit);
            if !unit.outputs.is_empty() {
                member.commit(unit).map_err(RunError::Broker)?;
            }
            self.settled(&counts, &tallies);
        }
        Ok(())
    }

    /// Counts what was committed.
    fn settled(&self, counts: &Counts, tallies: &[Tally]) {
        self.flow.add_backlog((counts.written + counts.probes) as i64 * self.readers);
        self.metrics.count(counts);
        if let Some(telemetry) = &self.telemetry {
            telemetry.tally(tallies);
        }
    }
}

/// Commits a unit, if there is anything in it.
fn commit(turn: &mut Turn<'_>, unit: Unit) -> Result<(), Failure> {
    if unit.outputs.is_empty() && unit.offsets.is_empty() {
        return Ok(());
    }
    let started = turn.watch.map(|_| Instant::now());
    let outcome = turn.member.commit(unit).map_err(|error| match error {
        BrokerError::Fenced { .. } => Failure::Fenced,
        error => match error.class() {
            ErrorClass::Record => Failure::Record(error.to_string()),
            ErrorClass::Transient => Failure::Transient(error.to_string()),
            ErrorClass::Fatal => Failure::Broker(error.to_string()),
        },
    });
    if let Some((watch, started)) = turn.watch.zip(started) {
        watch.committed(started, outcome.as_ref().err().map(Failure::class));
    }
    outcome
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

    /// Names the reaction, without the words.
    fn class(&self) -> &'static str {
        match self {
            Self::Transient(_) => "transient",
            Self::Record(_) => "record",
            Self::Fatal(_) => "fatal",
            Self::Broker(_) => "broker",
            Self::Fenced => "fenced",
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
    let Effects { outputs, dead_letters, state, profiles, probes, .. } = effects;
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
    unit.outputs.extend(probes.iter().filter_map(|part| crate::probes::message(site, part)));
    unit.outputs.extend(profiles.into_iter().map(|profile| crate::profiles::message(site, partition, profile)));
}

/// Reads the state of one partition of a stage, as committed.
pub(crate) fn read_state(
    broker: &dyn Broker,
    site: &Site,
    partition: Partition,
) -> Result<Vec<(Bytes, Bytes)>, BrokerError> {
    let place = TopicPartition::new(site.pipeline.state_topic(&site.stage), partition);
    let mut entries = BTreeMap::new();
    for message in records(broker, place)? {
        let message = message?;
        match (message.key, message.value) {
            (Some(key), Some(value)) => drop(entries.insert(key, value)),
            (Some(key), None) => drop(entries.remove(&key)),
            (None, _) => {}
        }
    }
    Ok(entries.into_iter().collect())
}
