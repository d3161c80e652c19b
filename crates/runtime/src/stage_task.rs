//! One stage: poll, batch, process, commit; the next batch is worked on while the ones before are committed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use driftline_broker::{Broker, BrokerError, Member, OffsetCommit, Poll, Settled, Unit, Wait, advance};
use driftline_stage::{
    OpenStage, StageError,
    operator::{Counts, Effects, Operator, Site, Tally},
};
use driftline_types::{ErrorClass, Headers, Message, Outgoing, Partition, StageName, Timestamp, TopicPartition, wire};

use crate::{
    RunError,
    batch::{BatchLimits, Batcher, Next},
    failure::{Failure, panic_text},
    flow::{Flow, Stop},
    letters::make_room,
    metrics::NodeMetrics,
    repeats::Repeats,
    retry::{Backoff, until_available},
    source_task::bytes_of,
    state::{forgotten, is_forgotten, read_state},
    telemetry::{BatchWatch, CommitWatch, Node},
};

/// How long a node waits for messages before it looks around.
pub(crate) const IDLE: Duration = Duration::from_millis(20);
/// The same while batches are being committed.
const COMMITTING: Duration = Duration::from_millis(5);
/// States that are read at a time.
const RESTORED_AT_ONCE: usize = 8;
/// Bytes of batches that are being committed, beyond which the next one waits.
const IN_FLIGHT: u64 = 32 << 20;

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
    repeats: &'a mut Repeats,
    watch: Option<&'a BatchWatch<'a>>,
}

/// A batch that was handed over to be committed, kept in case that it fails.
struct Flight<'a> {
    by_partition: BTreeMap<Partition, Vec<Message>>,
    counts: Vec<(Counts, Vec<Tally>)>,
    offsets: Vec<OffsetCommit>,
    read: Size,
    written_bytes: u64,
    first: Instant,
    handed_over: Instant,
    watch: Option<CommitWatch<'a>>,
}

/// What was read.
#[derive(Clone, Copy)]
struct Size {
    records: usize,
    bytes: u64,
}

/// What a task has at any moment.
struct Hands<'a> {
    member: Box<dyn Member>,
    operators: Operators,
    repeats: Repeats,
    /// Oldest first.
    flights: VecDeque<Flight<'a>>,
}

/// What became of the batches that were being committed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Landing {
    /// Nothing failed.
    Clean,
    /// Something failed and was worked off again, from the committed state.
    Again,
    /// Something is left to another member or to the next run.
    Left,
}

/// Whether records are done: a break where they are left to another member or to the next run, so that nothing after
/// them may be committed.
type Done = ControlFlow<()>;

impl StageTask {
    pub(crate) fn run(self) -> Result<(), RunError> {
        let topics: Vec<_> = self.inputs.iter().map(|input| self.site.pipeline.output_topic(input)).collect();
        let group = self.site.pipeline.group(&self.site.stage);
        let mut batcher = Batcher::default();
        let mut hands = Hands {
            member: self.broker.join(&group, &topics).map_err(RunError::Broker)?,
            operators: Operators::new(),
            repeats: Repeats::default(),
            flights: VecDeque::new(),
        };
        loop {
            if self.flow.stopping() == Some(Stop::Now) {
                return self.land(&mut hands, Wait::ForAll).map(drop);
            }
            if let Some(telemetry) = &self.telemetry {
                telemetry.note_lag(&*hands.member);
            }
            let idle = if hands.flights.is_empty() { IDLE } else { COMMITTING };
            match batcher.next(&mut *hands.member, self.limits, idle).map_err(RunError::Broker)? {
                Next::Batch(mut batch, first) => {
                    self.flow.add_backlog(-(hands.repeats.remove(&mut batch) as i64));
                    self.work(&mut hands, batch, first)?;
                }
                Next::Event(Poll::Assigned(partitions)) => {
                    for (assigned, committed) in &partitions {
                        hands.repeats.resume(assigned, committed);
                    }
                    let numbers: BTreeSet<Partition> =
                        partitions.iter().map(|(assigned, _)| assigned.partition).collect();
                    for partition in self.restore(&mut hands.operators, numbers)? {
                        let is_forgotten = || is_forgotten(&*self.broker, &group, partition, &partitions);
                        let stage = &self.site.stage;
                        if until_available(stage, &self.flow, &self.metrics, is_forgotten).map_err(RunError::Broker)? {
                            return Err(RunError::stage(stage, &forgotten(&self.site, &group, partition)));
                        }
                    }
                    self.metrics.set_ready(true);
                }
                Next::Event(Poll::Revoking(partitions)) => {
                    // What is left is read by the next owner.
                    let _left = self.land(&mut hands, Wait::ForAll)?;
                    hands.forget(partitions);
                }
                Next::Event(Poll::Lost(partitions)) => {
                    // Their next owner reads what was not committed.
                    let written = hands.member.settled(Wait::ForAll).written.min(hands.flights.len());
                    let flights = std::mem::take(&mut hands.flights);
                    for (index, flight) in flights.into_iter().enumerate() {
                        if index < written { self.landed(&mut hands.repeats, flight) } else { self.left(flight.read) }
                    }
                    hands.forget(partitions);
                }
                Next::Event(_) => {
                    let drained = self.flow.finished(&self.inputs) && is_drained(&*hands.member)?;
                    let landing = self.land(&mut hands, if drained { Wait::ForAll } else { Wait::No })?;
                    if drained && landing != Landing::Left {
                        if self.flow.stopping().is_none() || self.flush_on_stop {
                            // What is not flushed is left to the next run or to another member.
                            if self.flush(&mut hands)?.is_break() {
                                continue;
                            }
                        }
                        self.flow.finish(&self.site.stage);
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Makes the operators of partitions that have none yet, with the state of their last commit. Several states are read at
    /// a time, as each takes some round trips. Returns the partitions that had any.
    fn restore(
        &self,
        operators: &mut Operators,
        partitions: impl IntoIterator<Item = Partition>,
    ) -> Result<Vec<Partition>, RunError> {
        let mut found = Vec::new();
        let new: Vec<Partition> = partitions.into_iter().filter(|place| !operators.contains_key(place)).collect();
        let (broker, site, flow, metrics) = (&*self.broker, &*self.site, &*self.flow, &*self.metrics);
        let read = |partition| until_available(&site.stage, flow, metrics, || read_state(broker, site, partition));
        for some in new.chunks(RESTORED_AT_ONCE) {
            let states: Vec<_> = thread::scope(|scope| {
                let reading: Vec<_> = some.iter().map(|&partition| scope.spawn(move || read(partition))).collect();
                reading.into_iter().map(|state| state.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
            });
            for (&partition, state) in some.iter().zip(states) {
                let mut operator = self.stage.instance(Arc::clone(&self.site));
                let entries: Vec<_> = state.map_err(RunError::Broker)?.into_iter().collect();
                found.extend((!entries.is_empty()).then_some(partition));
                operator.restore(entries).map_err(|error| RunError::stage(&self.site.stage, &error))?;
                operators.insert(partition, operator);
            }
        }
        Ok(found)
    }

    /// Processes a batch of any partitions and hands it over to be committed, as one unit if nothing fails.
    fn work<'a>(&'a self, hands: &mut Hands<'a>, batch: Vec<Message>, first: Instant) -> Result<(), RunError> {
        let bytes = batch.iter().map(|message| message.payload_bytes() as u64).sum();
        let read = Size { records: batch.len(), bytes };
        let watch = self.telemetry.as_ref().map(|telemetry| telemetry.batch(&batch, first));
        let mut by_partition: BTreeMap<Partition, Vec<Message>> = BTreeMap::new();
        for message in batch {
            by_partition.entry(message.partition).or_default().push(message);
        }
        let mut unit = Unit::default();
        let mut counts = Vec::new();
        let mut failed = BTreeMap::new();
        for (partition, messages) in &by_partition {
            let operators = &mut hands.operators;
            match self.process(operators, watch.as_ref(), *partition, messages, first.elapsed()) {
                Ok(mut effects) => {
                    counts.push((effects.counts, std::mem::take(&mut effects.tallies)));
                    into_unit(&self.site, *partition, effects, &mut unit);
                    unit.offsets.extend(offsets_after(messages, &mut hands.repeats));
                }
                Err(failure) => drop(failed.insert(*partition, failure)),
            }
        }
        let written_bytes = bytes_of(&unit);
        let offsets = unit.offsets.clone();
        if failed.is_empty() {
            let handed_over = Instant::now();
            hands.member.submit(unit);
            let watch = watch.map(BatchWatch::handed_over);
            let flight = Flight { by_partition, counts, offsets, read, written_bytes, first, handed_over, watch };
            hands.flights.push_back(flight);
            self.land(hands, Wait::No)?;
            while hands.flights.iter().map(|flight| flight.read.bytes).sum::<u64>() > IN_FLIGHT {
                self.land(hands, Wait::ForAny)?;
            }
            return Ok(());
        }
        // What failed is worked off record by record, after everything before it.
        let mut again = by_partition;
        let landing = self.land(hands, Wait::ForAll)?;
        if landing == Landing::Left {
            self.left(read);
            return Ok(());
        }
        let turn = &mut hands.turn(watch.as_ref());
        // What is done from a state that was gone back on is not done.
        if landing == Landing::Clean {
            match commit(turn.member, turn.watch, unit).map_err(|error| Failure::of_broker(&error)) {
                Ok(()) => {
                    again.retain(|partition, _| failed.contains_key(partition));
                    turn.repeats.settle(offsets);
                    for (counts, tallies) in &counts {
                        self.settled(counts, tallies);
                    }
                    self.metrics.bytes(read.bytes, written_bytes);
                }
                // None of it was written: every partition goes through the careful way. What one record was refused for is not said
                // of the others.
                Err(Failure::Record(_)) => {}
                Err(failure) => failed = again.keys().map(|&partition| (partition, failure.clone())).collect(),
            }
        }
        turn.repeats.rewind();
        for (partition, messages) in &again {
            turn.operators.remove(partition);
            // A break of one partition says nothing about the others.
            let _ = self.redo(turn, *partition, messages, failed.remove(partition))?;
        }
        self.metrics.latency(first.elapsed(), read.records as u64);
        self.left(read);
        if let Some(watch) = watch {
            watch.handed_over().finished();
        }
        Ok(())
    }

    /// Takes note of what was committed; works off what was not, one batch after the other.
    fn land<'a>(&'a self, hands: &mut Hands<'a>, wait: Wait) -> Result<Landing, RunError> {
        if hands.flights.is_empty() {
            return Ok(Landing::Clean);
        }
        let Settled { written, failed } = hands.member.settled(wait);
        for flight in hands.flights.drain(..written) {
            self.landed(&mut hands.repeats, flight);
        }
        let Some(error) = failed else { return Ok(Landing::Clean) };
        let failure = Failure::of_broker(&error);
        let mut class = failure.class();
        // What one record was refused for is not said of the others.
        let mut failure = Some(failure).filter(|failure| !matches!(failure, Failure::Record(_)));
        let withdrawn = std::mem::take(&mut hands.flights);
        hands.repeats.rewind();
        for partition in withdrawn.iter().flat_map(|flight| flight.by_partition.keys()) {
            hands.operators.remove(partition);
        }
        let mut landing = Landing::Again;
        for flight in withdrawn {
            if let Some(watch) = &flight.watch {
                watch.committed(flight.handed_over, Some(std::mem::replace(&mut class, "withdrawn")));
            }
            if landing == Landing::Again {
                let all: Vec<Message> = flight.by_partition.values().flatten().cloned().collect();
                let watch = self.telemetry.as_ref().map(|telemetry| telemetry.batch(&all, flight.first));
                let turn = &mut hands.turn(watch.as_ref());
                for (&partition, messages) in &flight.by_partition {
                    if self.redo(turn, partition, messages, failure.clone())?.is_break() {
                        // Nothing of a later batch may be committed before the rest of this one.
                        landing = Landing::Left;
                    }
                }
                failure = None;
                self.metrics.latency(flight.first.elapsed(), flight.read.records as u64);
            }
            self.left(flight.read);
        }
        Ok(landing)
    }

    /// Counts a batch that was committed.
    fn landed(&self, repeats: &mut Repeats, flight: Flight<'_>) {
        repeats.settle(flight.offsets);
        for (counts, tallies) in &flight.counts {
            self.settled(counts, tallies);
        }
        self.metrics.bytes(flight.read.bytes, flight.written_bytes);
        self.metrics.latency(flight.first.elapsed(), flight.read.records as u64);
        self.left(flight.read);
        if let Some(watch) = flight.watch {
            watch.committed(flight.handed_over, None);
            watch.finished();
        }
    }

    /// Notes that records are no longer in this task's hands.
    fn left(&self, read: Size) {
        self.flow.add_backlog(-(read.records as i64));
    }

    /// Works off messages of one partition again, whose operator is gone.
    fn redo(
        &self,
        turn: &mut Turn<'_>,
        partition: Partition,
        messages: &[Message],
        failure: Option<Failure>,
    ) -> Result<Done, RunError> {
        let failure = match failure {
            Some(failure) => failure,
            None => match self.attempt(turn, partition, messages) {
                Ok(()) => return Ok(Done::Continue(())),
                Err(failure) => failure,
            },
        };
        self.recover(turn, partition, messages, failure)
    }

    /// Works off messages of one partition of which some record, or the commit, has failed. The
    /// operator is gone; each attempt begins with the committed state.
    fn recover(
        &self,
        turn: &mut Turn<'_>,
        partition: Partition,
        messages: &[Message],
        failure: Failure,
    ) -> Result<Done, RunError> {
        match failure {
            Failure::Fatal(error) => Err(RunError::stage(&self.site.stage, &StageError::fatal(error))),
            Failure::Broker(error) => Err(RunError::Text(error)),
            // Another member has the partition: it reads the messages again.
            Failure::Fenced => Ok(Done::Break(())),
            failure @ Failure::Transient(_) => {
                let mut first = Some(failure);
                let attempt = || match first.take() {
                    Some(failure) => Err(failure),
                    None => self.attempt(turn, partition, messages),
                };
                match self.persist(partition, "a batch failed", attempt) {
                    Ok(()) => Ok(Done::Continue(())),
                    Err(Failure::Transient(_)) => Ok(Done::Break(())),
                    Err(failure) => self.recover(turn, partition, messages, failure),
                }
            }
            Failure::Record(reason) => {
                if let [message] = messages {
                    return self.bury(turn, partition, message, &reason);
                }
                let (left, right) = messages.split_at(messages.len() / 2);
                for half in [left, right] {
                    if self.redo(turn, partition, half, None)?.is_break() {
                        return Ok(Done::Break(()));
                    }
                }
                Ok(Done::Continue(()))
            }
        }
    }

    /// Processes messages of one partition from the committed state and commits them.
    fn attempt(&self, turn: &mut Turn<'_>, partition: Partition, messages: &[Message]) -> Result<(), Failure> {
        self.restore(turn.operators, [partition]).map_err(|error| Failure::Fatal(error.to_string()))?;
        let outcome = self.process(turn.operators, turn.watch, partition, messages, Duration::ZERO);
        let outcome = outcome.and_then(|mut effects| {
            let (mut counts, tallies) = (effects.counts, std::mem::take(&mut effects.tallies));
            let offsets = offsets_after(messages, turn.repeats);
            let mut unit = Unit { outputs: Vec::new(), offsets: offsets.clone() };
            into_unit(&self.site, partition, effects, &mut unit);
            self.commit(turn.member, turn.watch, &mut unit, &mut counts)?;
            Ok(((counts, tallies), offsets))
        });
        match outcome {
            Ok(((counts, tallies), offsets)) => {
                turn.repeats.settle(offsets);
                self.settled(&counts, &tallies);
                self.metrics.set_ready(true);
                Ok(())
            }
            Err(failure) => {
                turn.repeats.rewind();
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
        reason: &str,
    ) -> Result<Done, RunError> {
        let offsets = offsets_after(std::slice::from_ref(message), turn.repeats);
        let letter = wire::dead_letter(&self.site.pipeline, &self.site.stage, message, reason.to_owned());
        let mut unit = Unit { outputs: vec![letter], offsets: offsets.clone() };
        let mut counts = Counts { read: 1, rejected: 1, ..Default::default() };
        let write = || self.commit(turn.member, turn.watch, &mut unit, &mut counts);
        match self.persist(partition, "a dead letter was not written", write) {
            Ok(()) => {
                turn.repeats.settle(offsets);
                self.settled(&counts, &[]);
                self.restore(turn.operators, [partition])?;
                // Last: the state may take some attempts as well.
                self.metrics.set_ready(true);
                Ok(Done::Continue(()))
            }
            Err(Failure::Fenced | Failure::Transient(_)) => Ok(Done::Break(())),
            Err(failure) => Err(RunError::Text(format!("dead letter of {}: {failure}", self.site.stage))),
        }
    }

    /// Repeats what fails for a passing reason, until the nodes are asked to stop at once. Meanwhile the node is not ready.
    fn persist(
        &self,
        partition: Partition,
        what: &str,
        mut attempt: impl FnMut() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut backoff = Backoff::new(u64::from(partition) + u64::from(std::process::id()));
        loop {
            match attempt() {
                Err(Failure::Transient(error)) if self.flow.stopping() != Some(Stop::Now) => {
                    let wait = backoff.next_wait();
                    tracing::warn!(stage = %self.site.stage, partition, %error, ?wait, "{what}, trying again");
                    self.metrics.set_ready(false);
                    self.flow.pause(wait);
                }
                outcome => return outcome,
            }
        }
    }

    fn process(
        &self,
        operators: &mut Operators,
        watch: Option<&BatchWatch<'_>>,
        partition: Partition,
        messages: &[Message],
        waited: Duration,
    ) -> Result<Effects, Failure> {
        let operator = operators
            .get_mut(&partition)
            .ok_or_else(|| Failure::Fatal(format!("partition {partition} was read before it was assigned")))?;
        let started = Instant::now();
        let mut outcome = match catch_unwind(AssertUnwindSafe(|| operator.process(messages, waited))) {
            Ok(Ok(effects)) => Ok(effects),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(panic) => Err(Failure::Record(format!("the stage panicked: {}", panic_text(&*panic)))),
        };
        self.metrics.busy(started.elapsed());
        if let Some(watch) = watch {
            watch.processed(messages, started, outcome.as_mut().map(Some).map_err(|failure| failure.class()));
        }
        outcome
    }

    /// Writes what the stage holds at the end of its input.
    fn flush(&self, hands: &mut Hands<'_>) -> Result<Done, RunError> {
        // Each is used up, whatever becomes of it.
        while let Some((partition, mut operator)) = hands.operators.pop_first() {
            let effects = operator.flush().map_err(|error| RunError::stage(&self.site.stage, &error))?;
            let (mut counts, tallies) = (effects.counts, effects.tallies.clone());
            let mut unit = Unit::default();
            into_unit(&self.site, partition, effects, &mut unit);
            let write = || self.commit(&mut *hands.member, None, &mut unit, &mut counts);
            match self.persist(partition, "what was held was not written", write) {
                Ok(()) => {}
                Err(Failure::Fenced | Failure::Transient(_)) => return Ok(Done::Break(())),
                Err(failure) => return Err(RunError::Text(format!("{}: {failure}", self.site.stage))),
            }
            self.metrics.set_ready(true);
            self.settled(&counts, &tallies);
        }
        Ok(Done::Continue(()))
    }

    /// Commits a unit, with a dead letter in the place of what is larger than its topic takes.
    fn commit(
        &self,
        member: &mut dyn Member,
        watch: Option<&BatchWatch<'_>>,
        unit: &mut Unit,
        counts: &mut Counts,
    ) -> Result<(), Failure> {
        loop {
            let again = Unit { outputs: unit.outputs.clone(), offsets: unit.offsets.clone() };
            let Err(error) = commit(member, watch, again) else { return Ok(()) };
            if !make_room(&error, &self.site.pipeline, &self.site.stage, &mut unit.outputs, counts) {
                return Err(Failure::of_broker(&error));
            }
        }
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

impl Hands<'_> {
    fn turn<'t>(&'t mut self, watch: Option<&'t BatchWatch<'t>>) -> Turn<'t> {
        Turn { member: &mut *self.member, operators: &mut self.operators, repeats: &mut self.repeats, watch }
    }

    /// Forgets partitions that belong to others now.
    fn forget(&mut self, partitions: Vec<TopicPartition>) {
        for partition in partitions {
            self.repeats.forget(&partition);
            self.operators.remove(&partition.partition);
        }
    }
}

/// Commits a unit, if there is anything in it.
fn commit(member: &mut dyn Member, watch: Option<&BatchWatch<'_>>, unit: Unit) -> Result<(), BrokerError> {
    if unit.outputs.is_empty() && unit.offsets.is_empty() {
        return Ok(());
    }
    let started = watch.map(|_| Instant::now());
    let outcome = member.commit(unit);
    if let Some((watch, started)) = watch.zip(started) {
        watch.committed(started, outcome.as_ref().err().map(|error| Failure::of_broker(error).class()));
    }
    outcome
}

/// The offsets to commit once these messages are done: one a topic and partition.
fn offsets_after(messages: &[Message], repeats: &mut Repeats) -> Vec<OffsetCommit> {
    repeats.pass(messages);
    let mut next = BTreeMap::new();
    advance(&mut next, messages);
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
            timestamp: Timestamp::now(),
        }));
    }
    unit.outputs.extend(probes.iter().filter_map(|part| crate::probes::message(site, part)));
    unit.outputs.extend(profiles.into_iter().map(|profile| crate::profiles::message(site, partition, profile)));
}

/// Whether nothing is left to read for a member whose inputs are finished; not while the broker does not tell.
pub(crate) fn is_drained(member: &dyn Member) -> Result<bool, RunError> {
    match member.lag() {
        Ok(lag) => Ok(lag == 0),
        Err(error) if error.class() == ErrorClass::Transient => Ok(false),
        Err(error) => Err(RunError::Broker(error)),
    }
}
