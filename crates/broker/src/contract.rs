//! The contract between the runtime and a broker.
//!
//! Laws that every implementation keeps (and `tests/contract` checks):
//!
//! 1. Offsets of a partition grow in the order of commits. A gap holds no record.
//! 2. A [`Unit`] that fails, or is cut off by a crash, is never seen, not even in part; one whose commit
//!    returned is seen whole by every later read. ([`crate::KafkaConfig::delivery`] can weaken this for units
//!    without state.)
//! 3. A partition is owned by at most one member of a group at a time. A member that has lost a
//!    partition cannot commit it ([`BrokerError::Fenced`]).
//! 4. A member starts each assigned partition at the group's committed offset, or at the first
//!    record kept.
//! 5. Messages with one key go to one partition and are read in the order they were written.
//! 6. Key, value, headers (order and repetition included) and timestamp come back byte for byte.
//! 7. Retention removes the oldest records only, never a record of a partition within its limits. Age counts from
//!    the moment of writing, by the wall clock; event time does not matter. Reading a removed offset, or one that
//!    was never written, is [`BrokerError::OutOfRange`], never silence.

use std::time::Duration;

use driftline_types::{GroupId, Message, Offset, Outgoing, Topic, TopicPartition};
use serde::{Deserialize, Serialize};

use crate::BrokerError;

/// A log with topics, partitions and consumer groups.
pub trait Broker: Send + Sync {
    /// Creates a topic, or checks that it exists with this number of partitions. One that exists takes over other limits of
    /// retention; on a cluster, where they may be somebody else's, it keeps its own, and a warning says so.
    ///
    /// # Errors
    /// [`BrokerError::TopicMismatch`] if it exists with another number of partitions.
    fn create_topic(&self, topic: &Topic, spec: &TopicSpec) -> Result<(), BrokerError>;

    /// Describes a topic; `None` if it does not exist.
    ///
    /// # Errors
    /// If the broker cannot be reached.
    fn describe_topic(&self, topic: &Topic) -> Result<Option<TopicDescription>, BrokerError>;

    /// Lists every topic, in order of their names.
    ///
    /// # Errors
    /// If the broker cannot be reached.
    fn topics(&self) -> Result<Vec<Topic>, BrokerError>;

    /// Joins a consumer group that reads these topics. The first [`Member::poll`] assigns.
    ///
    /// # Errors
    /// [`BrokerError::UnknownTopic`].
    fn join(&self, group: &GroupId, topics: &[Topic]) -> Result<Box<dyn Member>, BrokerError>;

    /// Opens a producer outside any group, for sources and tools. On a broker that several processes share, a
    /// producer shuts out an earlier one of the same name, which may be a process that hangs.
    ///
    /// # Errors
    /// If the broker cannot be reached.
    fn producer(&self, name: &str) -> Result<Box<dyn Producer>, BrokerError>;

    /// Returns what a group has committed for a partition; `None` if nothing yet.
    ///
    /// # Errors
    /// [`BrokerError::UnknownTopic`].
    fn committed(&self, group: &GroupId, partition: &TopicPartition) -> Result<Option<Committed>, BrokerError>;

    /// Reads from a place in the log, outside any group: for tools and for restoring state. An
    /// empty result means that no record stands at or after `from`. Whatever was committed before the call is read.
    ///
    /// # Errors
    /// [`BrokerError::UnknownTopic`], or [`BrokerError::OutOfRange`] if `from` lies before the
    /// first record kept or beyond the end.
    fn read(&self, partition: &TopicPartition, from: Offset, limit: FetchLimit) -> Result<Vec<Message>, BrokerError>;

    /// Whether calls wait until moments of the wall clock, so that one lasts longer by as much as the clock is set back.
    fn waits_by_the_wall_clock(&self) -> bool {
        false
    }

    /// Whether the offsets of a group can be lost while what was written with them is kept.
    fn forgets_groups(&self) -> bool {
        false
    }
}

/// One consumer of a group. It lives on one thread; dropping it leaves the group without
/// committing anything that is not written yet.
pub trait Member: Send {
    /// Waits up to `timeout` for the next thing to happen.
    ///
    /// # Errors
    /// If the broker failed for good.
    fn poll(&mut self, limit: FetchLimit, timeout: Duration) -> Result<Poll, BrokerError>;

    /// Hands over outputs and offsets to be written as one unit after those handed over before, so that the next
    /// batch can be worked on meanwhile. Waits only while too much is under way. What became of it is told by
    /// [`Self::settled`]; it must be asked before a poll that gives partitions up.
    fn submit(&mut self, unit: Unit);

    /// Tells what became of the units handed over since the last call.
    fn settled(&mut self, wait: Wait) -> Settled;

    /// Writes outputs and offsets as one unit and waits until it is stored. Nothing may be under way.
    ///
    /// # Errors
    /// [`BrokerError::Fenced`] if an offset is of a partition not owned any more,
    /// [`BrokerError::TooLarge`], [`BrokerError::UnknownTopic`]. In each case nothing was written.
    fn commit(&mut self, unit: Unit) -> Result<(), BrokerError> {
        self.submit(unit);
        self.settled(Wait::ForAll).failed.map_or(Ok(()), Err)
    }

    /// Returns about how many records were written but not yet read by this member, over its partitions; 0 if
    /// and only if there are none. Until the group has said what this member reads, it is at least 1.
    ///
    /// # Errors
    /// If the broker cannot be reached.
    fn lag(&self) -> Result<u64, BrokerError>;

    /// Estimates [`Self::lag`] for a gauge, reading nothing and waiting a moment at most: the offsets between where this
    /// member is and the end of each of its partitions. Never less than the records it has not read; on a broker whose
    /// transactions have offsets of their own it may be more. 0 before partitions are assigned.
    ///
    /// # Errors
    /// If the broker does not tell at once.
    fn lag_estimate(&self) -> Result<u64, BrokerError>;
}

/// Writes messages outside a consumer group.
pub trait Producer: Send {
    /// Writes messages as one unit and waits until they are stored.
    ///
    /// # Errors
    /// [`BrokerError::TooLarge`], [`BrokerError::UnknownTopic`]; nothing was written then.
    /// [`BrokerError::Unavailable`]: the unit may have been written. Once a new producer of the same name is there, it is
    /// in the log or never will be.
    fn send(&mut self, messages: Vec<Outgoing>) -> Result<(), BrokerError>;
}

/// Whether to wait for units that are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Tell what is known now.
    No,
    /// Until there is something to tell, if anything is under way.
    ForAny,
    /// Until every unit is written, or one has failed.
    ForAll,
}

/// What became of units, in the order in which they were handed over.
#[derive(Debug, Default)]
pub struct Settled {
    /// So many of them were written.
    pub written: usize,
    /// Why the one after them was not. Those after that one were withdrawn: nothing is under way any more.
    pub failed: Option<BrokerError>,
}

/// What happened to a member.
#[derive(Debug)]
pub enum Poll {
    /// These partitions are owned from now on; reading starts at the offset given. There may be none: a member that the
    /// group has no partition for stands by.
    Assigned(Vec<(TopicPartition, Committed)>),
    /// These partitions are taken away by the *next* poll. Until then they can be committed.
    Revoking(Vec<TopicPartition>),
    /// These partitions were taken away before they could be finished: drop what is in flight.
    Lost(Vec<TopicPartition>),
    /// Messages, in offset order within each partition. Never empty.
    Messages(Vec<Message>),
    /// Nothing happened before the timeout.
    Idle,
}

/// How much one fetch may return. At least one message is returned if there is one, however large.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimit {
    /// Number of messages.
    pub records: usize,
    /// Bytes of keys, values and headers.
    pub bytes: usize,
}

/// Outputs and offsets that belong together.
#[derive(Debug, Default)]
pub struct Unit {
    /// What to write.
    pub outputs: Vec<Outgoing>,
    /// How far the group has read.
    pub offsets: Vec<OffsetCommit>,
}

/// How far a group has read a partition.
#[derive(Clone, Debug)]
pub struct OffsetCommit {
    /// The partition.
    pub partition: TopicPartition,
    /// Where to go on, and a note.
    pub committed: Committed,
}

/// A committed offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The next offset to read.
    pub next: Offset,
    /// A note kept with the offset, at most 4096 bytes, such as the length of the file a sink has
    /// written so far.
    pub metadata: Option<String>,
}

/// The settings of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSpec {
    /// Number of partitions, at least 1.
    pub partitions: u32,
    /// What may be removed.
    pub cleanup: Cleanup,
}

/// What a topic may forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cleanup {
    /// The oldest records beyond these limits.
    Delete(Retention),
    /// Every record of a key but the last; a tombstone removes the key.
    Compact,
}

/// Limits beyond which the oldest records of a partition may be removed; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Bytes of keys, values and headers a partition.
    pub bytes: Option<u64>,
    /// Milliseconds since a record was written, by the wall clock; its timestamp does not matter.
    pub ms: Option<u64>,
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its settings.
    pub spec: TopicSpec,
    /// The ends of each partition, by number.
    pub partitions: Vec<Watermarks>,
}

/// The ends of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// The first offset kept.
    pub low: Offset,
    /// The offset the next record will get.
    pub high: Offset,
}
