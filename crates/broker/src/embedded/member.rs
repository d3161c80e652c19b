//! A consumer of a group, on its own thread.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use driftline_types::{GroupId, Message, Offset, Outgoing, Partition, Topic, TopicPartition};

use super::{
    GroupHandle, Log,
    append::SlotCommit,
    codec::{Malformed, RowReader},
    group::{MemberId, Step},
    view::{Signal, Slot, TopicEntry},
};
use crate::{BrokerError, Committed, FetchLimit, Member, OffsetCommit, Poll, Producer, Settled, Unit, Wait};

/// A partition that is read here.
struct Reading {
    slot: Slot,
    topic: Topic,
    partition: Partition,
    next: Offset,
    /// The row that holds `next`, if it is open.
    row: Option<RowReader>,
    /// Given up at the next poll: not read any more.
    revoking: bool,
}

/// A member of a group of the embedded broker.
///
/// It reads its partitions in turn: each poll begins with the partition after the one that filled
/// the poll before, so a busy partition does not starve the others.
pub(super) struct EmbeddedMember {
    log: Arc<Log>,
    group: Arc<GroupHandle>,
    id: MemberId,
    topics: Vec<Arc<TopicEntry>>,
    signal: Arc<Signal>,
    readings: Vec<Reading>,
    /// Where the next fetch begins in `readings`.
    turn: usize,
    /// The state of the group at this member's last step; `None` if there is more to do.
    seen: Option<u64>,
    /// When to step although the group has not changed.
    again_at: Option<Instant>,
    /// What became of the units since it was last asked.
    settled: Settled,
}

impl EmbeddedMember {
    pub(super) fn join(log: &Arc<Log>, group: &GroupId, topics: &[Topic]) -> Result<Self, BrokerError> {
        let mut entries: Vec<Arc<TopicEntry>> = Vec::with_capacity(topics.len());
        {
            let view = log.view.read();
            for topic in topics {
                let entry = view.topic(topic)?;
                if !entries.iter().any(|known| known.id == entry.id) {
                    entries.push(Arc::clone(entry));
                }
            }
        }
        let signal = Arc::new(Signal::default());
        for entry in &entries {
            entry.watch(&signal);
        }
        let slots = entries.iter().map(|entry| entry.slots.clone()).collect();
        let (group, id) = log.join_group(group, slots, &signal);
        Ok(Self {
            log: Arc::clone(log),
            group,
            id,
            topics: entries,
            signal,
            readings: Vec::new(),
            turn: 0,
            seen: None,
            again_at: None,
            settled: Settled::default(),
        })
    }

    fn write(&self, unit: Unit) -> Result<(), BrokerError> {
        // Held until the unit is stored: nobody takes a partition over in between.
        let state = self.group.state.lock();
        let mut commits = Vec::with_capacity(unit.offsets.len());
        for OffsetCommit { partition, committed } in unit.offsets {
            let slot = self.log.view.read().slot(&partition)?;
            if !state.group.owns(self.id, slot) {
                return Err(BrokerError::Fenced { group: self.group.name.clone(), partition });
            }
            commits.push(SlotCommit { slot, committed });
        }
        self.log.append(&unit.outputs, Some((&self.group.name, commits)))
    }

    /// Takes the next event of the group, if there is one.
    fn step(&mut self) -> Option<Poll> {
        let now = Instant::now();
        let due = self.again_at.is_some_and(|at| at <= now);
        let version = self.group.version();
        if self.seen == Some(version) && !due {
            return None;
        }
        let mut state = self.group.state.lock();
        let version = self.group.version();
        let stepped = state.group.step(self.id, now);
        if stepped.wake_others {
            self.group.changed(&state);
        }
        self.again_at = stepped.again_at;
        // After an event there may be another one at once.
        self.seen = stepped.step.is_none().then_some(version);
        self.readings.retain(|reading| state.group.owns(self.id, reading.slot));
        let step = stepped.step?;
        let view = self.log.view.read();
        let partitions = |slots: &[Slot]| slots.iter().map(|slot| view.tails[*slot].partition()).collect();
        Some(match step {
            Step::Lost(slots) => Poll::Lost(partitions(&slots)),
            Step::Revoking(slots) => {
                for reading in self.readings.iter_mut().filter(|reading| slots.contains(&reading.slot)) {
                    reading.revoking = true;
                }
                Poll::Revoking(partitions(&slots))
            }
            Step::Assigned(slots) => {
                let assigned = slots.into_iter().map(|slot| {
                    let tail = &view.tails[slot];
                    let committed = view.committed.get(&(self.group.name.clone(), slot)).cloned();
                    let start = committed.unwrap_or(Committed { next: tail.ends.low, metadata: None });
                    let partition = tail.partition();
                    self.readings.push(Reading {
                        slot,
                        topic: partition.topic.clone(),
                        partition: partition.partition,
                        next: start.next,
                        row: None,
                        revoking: false,
                    });
                    (partition, start)
                });
                Poll::Assigned(assigned.collect())
            }
        })
    }

    fn fetch(&mut self, limit: FetchLimit) -> Result<Vec<Message>, BrokerError> {
        let mut fetched = Fetched { messages: Vec::new(), bytes: 0, limit };
        let n = self.readings.len();
        for i in 0..n {
            let at = (self.turn + i) % n;
            let reading = &mut self.readings[at];
            if reading.revoking {
                continue;
            }
            let outcome = reading.read(&self.log, &mut fetched);
            match outcome {
                // What was read before the failure is delivered first; the failure comes again.
                Err(_) if !fetched.messages.is_empty() => break,
                Err(error) => return Err(error.of_group(&self.group.name)),
                Ok(Filled::Yes) => {
                    self.turn = at + 1;
                    break;
                }
                Ok(Filled::No) => {}
            }
        }
        Ok(fetched.messages)
    }
}

/// Whether the limit of a fetch was reached.
enum Filled {
    Yes,
    No,
}

/// What a fetch has gathered so far.
pub(super) struct Fetched {
    messages: Vec<Message>,
    bytes: usize,
    limit: FetchLimit,
}

impl Fetched {
    /// Adds messages from a row until the row ends or the limit is reached.
    fn fill(&mut self, row: &mut RowReader, topic: &Topic, partition: Partition) -> Result<Filled, Malformed> {
        while !row.is_exhausted() {
            if !self.messages.is_empty() && self.messages.len() >= self.limit.records {
                return Ok(Filled::Yes);
            }
            let (message, step) = row.peek(topic, partition)?;
            let bytes = message.payload_bytes();
            if !self.messages.is_empty() && self.bytes + bytes > self.limit.bytes {
                return Ok(Filled::Yes);
            }
            row.advance(step);
            self.bytes += bytes;
            self.messages.push(message);
        }
        Ok(Filled::No)
    }
}

impl Reading {
    fn read(&mut self, log: &Log, fetched: &mut Fetched) -> Result<Filled, BrokerError> {
        loop {
            let row = match &mut self.row {
                Some(row) => row,
                None => match log.open_row(self.slot, self.next)? {
                    Ok(row) => self.row.insert(row),
                    Err(end) => {
                        self.next = end;
                        return Ok(Filled::No);
                    }
                },
            };
            let filled = fetched.fill(row, &self.topic, self.partition);
            self.next = row.position();
            if row.is_exhausted() {
                self.row = None;
            }
            if let Filled::Yes = filled.map_err(|error| log.store.corrupt(error))? {
                return Ok(Filled::Yes);
            }
        }
    }
}

/// Reads from a place in the log, outside any group.
pub(super) fn read(
    log: &Log,
    partition: &TopicPartition,
    from: Offset,
    limit: FetchLimit,
) -> Result<Vec<Message>, BrokerError> {
    let slot = log.view.read().slot(partition)?;
    let mut fetched = Fetched { messages: Vec::new(), bytes: 0, limit };
    let mut reading = Reading {
        slot,
        topic: partition.topic.clone(),
        partition: partition.partition,
        next: from,
        row: None,
        revoking: false,
    };
    reading.read(log, &mut fetched)?;
    Ok(fetched.messages)
}

impl Member for EmbeddedMember {
    fn poll(&mut self, limit: FetchLimit, timeout: Duration) -> Result<Poll, BrokerError> {
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or(now + FOREVER);
        loop {
            if let Some(event) = self.step() {
                return Ok(event);
            }
            let messages = self.fetch(limit)?;
            if !messages.is_empty() {
                return Ok(Poll::Messages(messages));
            }
            if Instant::now() >= deadline {
                return Ok(Poll::Idle);
            }
            self.signal.wait_until(self.again_at.map_or(deadline, |at| at.min(deadline)));
        }
    }

    /// Writes at once: there is no other end to wait for.
    fn submit(&mut self, unit: Unit) {
        if self.settled.failed.is_none() {
            match self.write(unit) {
                Ok(()) => self.settled.written += 1,
                Err(error) => self.settled.failed = Some(error),
            }
        }
    }

    fn settled(&mut self, _wait: Wait) -> Settled {
        std::mem::take(&mut self.settled)
    }

    fn lag(&self) -> Result<u64, BrokerError> {
        let view = self.log.view.read();
        Ok(self.readings.iter().map(|reading| view.tails[reading.slot].ends.high.saturating_sub(reading.next)).sum())
    }

    fn lag_estimate(&self) -> Result<u64, BrokerError> {
        self.lag()
    }
}

impl Drop for EmbeddedMember {
    fn drop(&mut self) {
        for entry in &self.topics {
            entry.unwatch(&self.signal);
        }
        self.log.leave_group(&self.group, self.id, &self.signal);
    }
}

/// A producer of the embedded broker.
pub(super) struct EmbeddedProducer(pub(super) Arc<Log>);

impl Producer for EmbeddedProducer {
    fn send(&mut self, messages: Vec<Outgoing>) -> Result<(), BrokerError> {
        self.0.append(&messages, None)
    }
}

/// The longest a poll waits: a timeout beyond what the clock can count.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
