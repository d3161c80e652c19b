//! What a broker carries: bytes, headers and a place in the log.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Headers, Timestamp, Topic};

/// The number of a partition within its topic, from 0.
pub type Partition = u32;
/// The place of a record within its partition, from 0; a committed offset is the *next* to read.
pub type Offset = u64;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Topic,
    /// The partition.
    pub partition: Partition,
}

impl TopicPartition {
    /// Names a partition of a topic.
    #[must_use]
    pub fn new(topic: Topic, partition: Partition) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// A message read from a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The topic it was read from.
    pub topic: Topic,
    /// The partition it was read from.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
    /// The partition key; `None` on topics written by others.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
    /// The timestamp the producer set: event time on our topics.
    pub timestamp: Timestamp,
}

impl Message {
    /// Returns the number of bytes that key, value and headers hold.
    #[must_use]
    #[inline]
    pub fn payload_bytes(&self) -> usize {
        payload_bytes(self.key.as_ref(), self.value.as_ref(), &self.headers)
    }
}

/// A message to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The topic to write to.
    pub topic: Topic,
    /// The partition to write to; `None` lets the key decide (see [`crate::wire::partition_of`]).
    pub partition: Option<Partition>,
    /// The partition key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
    /// Event time.
    pub timestamp: Timestamp,
}

impl Outgoing {
    /// Returns the number of bytes that key, value and headers hold.
    #[must_use]
    #[inline]
    pub fn payload_bytes(&self) -> usize {
        payload_bytes(self.key.as_ref(), self.value.as_ref(), &self.headers)
    }
}

#[inline]
fn payload_bytes(key: Option<&Bytes>, value: Option<&Bytes>, headers: &Headers) -> usize {
    key.map_or(0, Bytes::len) + value.map_or(0, Bytes::len) + headers.payload_bytes()
}
