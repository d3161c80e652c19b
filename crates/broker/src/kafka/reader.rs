//! Reading from a place in the log, outside any group.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use driftline_types::{Message, Offset, TopicPartition};
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    cluster::{Cluster, ends, failed, judge, signed},
    convert,
    login::Login,
};
use crate::{BrokerError, FetchLimit, KafkaConfig};

/// How long a read waits for transactions that are still open: longer than any may last.
const OPEN_TRANSACTIONS: Duration = Duration::from_secs(90);
/// How long a place may have neither records nor an end before the client is asked anew.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a reader is kept that shows a token.
const IDLE: Duration = Duration::from_secs(2);
/// How many readers are kept for the next call: one a thread that restores at the same time.
const KEPT: usize = 8;

/// Readers for the next calls. One that goes on where it stopped need not ask again.
pub(super) struct Readers {
    client: ClientConfig,
    idle: Mutex<Vec<Reader>>,
}

/// A consumer at a place of one partition.
struct Reader {
    consumer: BaseConsumer<Login>,
    /// `None` where it reads nothing: before its first place, and after an end.
    at: Option<TopicPartition>,
    next: Offset,
    /// Read, but beyond the limit of the call.
    ahead: VecDeque<Message>,
    /// What the messages share that are read.
    buffer: BytesMut,
    used: Instant,
}

impl Readers {
    pub(super) fn new(config: &KafkaConfig) -> Self {
        Self { client: config.reader("read_committed"), idle: Mutex::default() }
    }

    /// Reads committed records. Empty means that there are none from `from` on; to know that, it waits until every
    /// transaction has ended that was open when it was called.
    pub(super) fn read(
        &self,
        cluster: &Cluster,
        place: &TopicPartition,
        from: Offset,
        limit: FetchLimit,
    ) -> Result<Vec<Message>, BrokerError> {
        cluster.check(place)?;
        let ends = cluster.watermarks(place)?;
        if from < ends.low || from > ends.high {
            return Err(BrokerError::OutOfRange {
                partition: place.clone(),
                offset: from,
                low: ends.low,
                high: ends.high,
                group: None,
            });
        }
        if from == ends.high {
            return Ok(Vec::new());
        }
        let mut reader = match self.take(place, from) {
            Some(reader) => reader,
            None => Reader {
                consumer: self
                    .client
                    .create_with_context(cluster.config.login())
                    .map_err(|error| failed("read", &error))?,
                at: None,
                next: 0,
                ahead: VecDeque::new(),
                buffer: BytesMut::new(),
                used: Instant::now(),
            },
        };
        let messages = reader.read(cluster, place, from, ends.high, limit)?;
        // One that has come to an end and cannot be stopped is not kept.
        if (reader.at.is_none() || reader.next >= ends.high) && reader.rest().is_err() {
            return Ok(messages);
        }
        reader.used = Instant::now();
        let mut idle = self.idle.lock();
        if idle.len() < KEPT {
            idle.push(reader);
        }
        Ok(messages)
    }

    /// Drops readers that were not used for a while: nobody polls them, so they would not renew their tokens.
    pub(super) fn forget_idle(&self) {
        self.idle.lock().retain(|reader| reader.used.elapsed() < IDLE);
    }

    /// Takes the reader that stands there, or any other.
    fn take(&self, place: &TopicPartition, from: Offset) -> Option<Reader> {
        let mut idle = self.idle.lock();
        let there = idle.iter().position(|reader| reader.at.as_ref() == Some(place) && reader.next == from);
        there.map(|index| idle.swap_remove(index)).or_else(|| idle.pop())
    }
}

/// What a reader came to.
enum Step {
    Message(Message),
    End,
    Nothing,
}

impl Reader {
    fn read(
        &mut self,
        cluster: &Cluster,
        place: &TopicPartition,
        from: Offset,
        high: Offset,
        limit: FetchLimit,
    ) -> Result<Vec<Message>, BrokerError> {
        let deadline = Instant::now() + OPEN_TRANSACTIONS;
        let mut started = Instant::now();
        let mut fresh = None;
        if self.at.as_ref() != Some(place) || self.next != from {
            fresh = Some(self.start(cluster, place, from)?);
        }
        let mut messages: Vec<Message> = Vec::new();
        let mut bytes = 0;
        while messages.len() < limit.records.max(1) {
            let message = match self.ahead.pop_front() {
                Some(message) => message,
                None => match self.step(place)? {
                    Step::Message(message) => message,
                    Step::End if !messages.is_empty() => {
                        // The end is told once: the next call has to ask again.
                        self.at = None;
                        break;
                    }
                    Step::End => match fresh {
                        Some(committed) if committed >= high => {
                            self.at = None;
                            break;
                        }
                        // A transaction is open before the end of the log, and nobody ends it.
                        Some(committed) if Instant::now() > deadline => {
                            let waited = OPEN_TRANSACTIONS.as_secs();
                            let reason = format!("{place} is committed up to {committed} of {high} after {waited} s");
                            return Err(BrokerError::Unavailable { action: "read", reason });
                        }
                        // An end seen earlier says nothing: look again from here.
                        _ => {
                            if fresh.is_some() {
                                std::thread::sleep(Duration::from_millis(5));
                            }
                            fresh = Some(self.start(cluster, place, from)?);
                            continue;
                        }
                    },
                    Step::Nothing if Instant::now() > deadline => {
                        let reason = format!("no answer for {place} within {} s", OPEN_TRANSACTIONS.as_secs());
                        return Err(BrokerError::Unavailable { action: "read", reason });
                    }
                    Step::Nothing if !messages.is_empty() => break,
                    // An end is told once, and sometimes not at all.
                    Step::Nothing if started.elapsed() > SILENCE => {
                        fresh = Some(self.start(cluster, place, from)?);
                        started = Instant::now();
                        continue;
                    }
                    Step::Nothing => continue,
                },
            };
            let size = message.payload_bytes();
            if !messages.is_empty() && bytes + size > limit.bytes {
                self.ahead.push_front(message);
                break;
            }
            bytes += size;
            self.next = message.offset + 1;
            messages.push(message);
        }
        Ok(messages)
    }

    /// Goes to a place; returns the end of what was committed just before.
    fn start(&mut self, cluster: &Cluster, place: &TopicPartition, from: Offset) -> Result<Offset, BrokerError> {
        let name = cluster.topic_name(&place.topic);
        let committed = ends(&self.consumer, &name, place.partition)
            .map_err(|error| failed("look up the ends of a partition", &error))?
            .high;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&name, signed(place.partition), Place::Offset(from as i64))
            .and_then(|()| self.consumer.assign(&list))
            .map_err(|error| failed("read", &error))?;
        self.at = Some(place.clone());
        self.next = from;
        self.ahead.clear();
        Ok(committed)
    }

    /// Reads nothing until it is started again: kept at an end, it would go on fetching what nobody may ask for.
    fn rest(&mut self) -> Result<(), KafkaError> {
        self.at = None;
        self.consumer.unassign()
    }

    fn step(&mut self, place: &TopicPartition) -> Result<Step, BrokerError> {
        match self.consumer.poll(Duration::from_millis(50)) {
            None => Ok(Step::Nothing),
            Some(Ok(message)) => Ok(Step::Message(convert::message(place.topic.clone(), &message, &mut self.buffer))),
            Some(Err(KafkaError::PartitionEOF(_))) => Ok(Step::End),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::AutoOffsetReset) => {
                    // Retention was faster than this read.
                    self.at = None;
                    Err(BrokerError::OutOfRange {
                        partition: place.clone(),
                        offset: self.next,
                        low: self.next + 1,
                        high: self.next + 1,
                        group: None,
                    })
                }
                // It belongs to no group; librdkafka looks one up nevertheless.
                Some(RDKafkaErrorCode::GroupAuthorizationFailed) => Ok(Step::Nothing),
                _ => judge(&error, self.consumer.context()).map(|()| Step::Nothing),
            },
        }
    }
}
