//! What can go wrong with a broker, and what to do about it.

use driftline_types::{ErrorClass, GroupId, Offset, Topic, TopicPartition};

/// A failed broker call.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The topic does not exist.
    #[error("topic {topic} does not exist")]
    UnknownTopic {
        /// The topic asked for.
        topic: Topic,
    },
    /// The topic has no such partition.
    #[error("partition {partition} does not exist, the topic has {partitions}")]
    UnknownPartition {
        /// The partition asked for.
        partition: TopicPartition,
        /// The partitions of the topic.
        partitions: u32,
    },
    /// A topic cannot have this number of partitions.
    #[error("topic {topic} cannot have {found} partitions, allowed are 1 to {allowed}")]
    PartitionCount {
        /// The topic.
        topic: Topic,
        /// The partitions asked for.
        found: u32,
        /// The most a topic takes.
        allowed: u32,
    },
    /// The topic exists with other settings than the ones asked for.
    #[error("topic {topic} has {found} partitions, {wanted} were asked for")]
    TopicMismatch {
        /// The topic.
        topic: Topic,
        /// Its partitions.
        found: u32,
        /// The partitions asked for.
        wanted: u32,
    },
    /// The offset is not in the log: it was removed by retention, or never written.
    #[error(
        "offset {offset} of {partition} is out of range, the log holds {low} to {high} (exclusive){}",
        going_on(.group)
    )]
    OutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// The offset asked for.
        offset: Offset,
        /// The first offset kept.
        low: Offset,
        /// The offset the next record will get.
        high: Offset,
        /// The group that has come to this offset; `None` for a read outside any, and for a commit.
        group: Option<GroupId>,
    },
    /// The member no longer owns the partition it tried to commit: nothing of the unit was written.
    #[error("group {group} no longer owns {partition} here, nothing was committed")]
    Fenced {
        /// The group.
        group: GroupId,
        /// The partition.
        partition: TopicPartition,
    },
    /// A message is larger than the topic takes.
    #[error("message of {found} bytes for {topic}, allowed are {allowed}")]
    TooLarge {
        /// The topic.
        topic: Topic,
        /// The size found.
        found: usize,
        /// The size allowed.
        allowed: usize,
    },
    /// A message without a key was written to a compacted topic.
    #[error("message without a key for {topic}, which is compacted by key")]
    KeyMissing {
        /// The topic.
        topic: Topic,
    },
    /// The note of a committed offset is too long.
    #[error("note of {found} bytes with the offset of {partition}, allowed are {allowed}")]
    MetadataTooLarge {
        /// The partition.
        partition: TopicPartition,
        /// The size found.
        found: usize,
        /// The size allowed.
        allowed: usize,
    },
    /// The log is locked by another process.
    #[error("the log at {path} is in use by another process")]
    Locked {
        /// The folder of the log.
        path: String,
    },
    /// The log on disk was written by another format version, or is damaged.
    #[error("the log at {path} cannot be read: {reason}")]
    Corrupt {
        /// The folder of the log.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The cluster could not be reached or had no answer in time; the same call may succeed later.
    #[error("kafka: cannot {action} now: {reason}")]
    Unavailable {
        /// What was asked of it.
        action: &'static str,
        /// What the client says.
        reason: String,
    },
    /// The cluster refused, and will again.
    #[error("kafka: cannot {action}: {reason}")]
    Refused {
        /// What was asked of it.
        action: &'static str,
        /// What the cluster says.
        reason: String,
    },
    /// The store below failed.
    #[error("the log's store failed: {0}")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl BrokerError {
    /// Returns what to do about the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::TooLarge { .. } | Self::KeyMissing { .. } => ErrorClass::Record,
            Self::Unavailable { .. } => ErrorClass::Transient,
            _ => ErrorClass::Fatal,
        }
    }

    /// Names the group that has come to an offset out of range.
    pub(crate) fn of_group(self, reader: &GroupId) -> Self {
        match self {
            Self::OutOfRange { partition, offset, low, high, .. } => {
                Self::OutOfRange { partition, offset, low, high, group: Some(reader.clone()) }
            }
            other => other,
        }
    }
}

/// Says how a group goes on whose offset is not in the log.
fn going_on(group: &Option<GroupId>) -> String {
    let Some(group) = group else { return String::new() };
    format!(
        "; to go on without what is missing, set the offset of group {group} to one of these or to the end: on Kafka \
         with kafka-consumer-groups --reset-offsets, while no member of the group runs; an embedded log has to be \
         begun anew, in another folder (broker.path)"
    )
}
