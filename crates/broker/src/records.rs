//! The records of a partition, one after another.

use std::{
    collections::{BTreeMap, VecDeque},
    iter::FusedIterator,
};

use driftline_types::{Message, Offset, TopicPartition};

use crate::{Broker, BrokerError, FetchLimit};

/// What one fetch asks for.
const FETCH: FetchLimit = FetchLimit { records: 4_096, bytes: 8 << 20 };

/// Reads a partition from the first record kept to its end, outside any group. The end is where the log ends when it
/// is reached: records written meanwhile are read too.
///
/// # Errors
/// As [`Broker::read`]. The iterator fails where that does, among others if retention overtakes it, and ends after that.
pub fn records(broker: &dyn Broker, partition: TopicPartition) -> Result<Records<'_>, BrokerError> {
    records_from(broker, partition, 0)
}

/// Reads a partition likewise, from an offset or the first record kept after it.
///
/// # Errors
/// As [`records`].
pub fn records_from(broker: &dyn Broker, partition: TopicPartition, from: Offset) -> Result<Records<'_>, BrokerError> {
    let first = match broker.read(&partition, from, FETCH) {
        Err(BrokerError::OutOfRange { low, .. }) if from < low => broker.read(&partition, low, FETCH)?,
        first => first?,
    };
    Ok(Records { broker, partition, next: after(&first), fetched: first.into() })
}

/// Where the next fetch begins; `None` after the last.
fn after(fetched: &[Message]) -> Option<Offset> {
    fetched.last().map(|last| last.offset + 1)
}

/// The iterator that [`records`] returns.
pub struct Records<'a> {
    broker: &'a dyn Broker,
    partition: TopicPartition,
    next: Option<Offset>,
    fetched: VecDeque<Message>,
}

impl Iterator for Records<'_> {
    type Item = Result<Message, BrokerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.fetched.is_empty() {
            // Taken, so that nothing follows the end or an error.
            let from = self.next.take()?;
            match self.broker.read(&self.partition, from, FETCH) {
                Ok(messages) => {
                    self.next = after(&messages);
                    self.fetched = messages.into();
                }
                Err(error) => return Some(Err(error)),
            }
        }
        self.fetched.pop_front().map(Ok)
    }
}

impl FusedIterator for Records<'_> {}

/// Moves the next offset of each topic and partition past these messages. Neighbours mostly are of one.
pub fn advance(next: &mut BTreeMap<TopicPartition, Offset>, messages: &[Message]) {
    for run in messages.chunk_by(|a, b| a.partition == b.partition && a.topic == b.topic) {
        let Some(last) = run.last() else { continue };
        next.insert(TopicPartition::new(last.topic.clone(), last.partition), last.offset + 1);
    }
}

#[cfg(test)]
mod tests {
    use driftline_types::Topic;

    use super::*;
    use crate::{Cleanup, Embedded, EmbeddedConfig, Retention, TopicSpec, fixture};

    fn place(partition: u32) -> TopicPartition {
        TopicPartition::new(Topic::try_new("t").unwrap(), partition)
    }

    #[test]
    fn every_record_kept_is_read_once_and_in_order() {
        let broker = Embedded::temporary(EmbeddedConfig::default()).unwrap();
        let kept = 10_000;
        let retention = Retention { bytes: Some(kept), ms: None };
        let spec = TopicSpec { partitions: 1, cleanup: Cleanup::Delete(retention) };
        broker.create_topic(&place(0).topic, &spec).unwrap();
        assert_eq!(records(&broker, place(0)).unwrap().count(), 0);
        let message = fixture::message(place(0).topic);
        let mut producer = broker.producer("test").unwrap();
        for _ in 0..20 {
            producer.send(vec![message.clone(); 1_000]).unwrap();
        }
        let offsets: Vec<Offset> = records(&broker, place(0)).unwrap().map(|record| record.unwrap().offset).collect();
        let ends = broker.describe_topic(&place(0).topic).unwrap().unwrap().partitions[0];
        assert!(ends.low > 0 && ends.high - ends.low >= kept, "{ends:?}");
        assert_eq!(offsets, (ends.low..ends.high).collect::<Vec<_>>());
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        let broker = Embedded::temporary(EmbeddedConfig::default()).unwrap();
        assert!(matches!(records(&broker, place(0)), Err(BrokerError::UnknownTopic { .. })));
        let spec = TopicSpec { partitions: 1, cleanup: Cleanup::Compact };
        broker.create_topic(&place(0).topic, &spec).unwrap();
        assert!(matches!(records(&broker, place(1)), Err(BrokerError::UnknownPartition { .. })));
    }
}
