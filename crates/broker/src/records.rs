//! The records of a partition, one after another.

use std::{collections::VecDeque, iter::FusedIterator};

use driftline_types::{Message, Offset, TopicPartition};

use crate::{Broker, BrokerError, FetchLimit};

/// What one fetch asks for.
const FETCH: FetchLimit = FetchLimit { records: 4_096, bytes: 8 << 20 };

/// Reads a partition from the first record kept to its end, outside any group. The end is where the log ends when it
/// is reached: records written meanwhile are read too.
///
/// # Errors
/// [`BrokerError::UnknownTopic`]. The iterator fails where [`Broker::read`] does, among others if retention overtakes
/// it, and ends after that.
pub fn records(broker: &dyn Broker, partition: TopicPartition) -> Result<Records<'_>, BrokerError> {
    let Some(topic) = broker.describe_topic(&partition.topic)? else {
        return Err(BrokerError::UnknownTopic { topic: partition.topic });
    };
    // Of a partition that does not exist, the first read says so.
    let low = topic.partitions.get(partition.partition as usize).map_or(0, |ends| ends.low);
    Ok(Records { broker, partition, next: Some(low), fetched: VecDeque::new() })
}

/// The iterator that [`records`] returns.
pub struct Records<'a> {
    broker: &'a dyn Broker,
    partition: TopicPartition,
    /// Where the next fetch begins; `None` after the last.
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
                Ok(messages) => self.fetched = messages.into(),
                Err(error) => return Some(Err(error)),
            }
            self.next = self.fetched.back().map(|last| last.offset + 1);
        }
        self.fetched.pop_front().map(Ok)
    }
}

impl FusedIterator for Records<'_> {}

#[cfg(test)]
mod tests {
    use driftline_types::{Headers, Outgoing, Timestamp, Topic};

    use super::*;
    use crate::{Cleanup, Embedded, EmbeddedConfig, Retention, TopicSpec};

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
        let message = Outgoing {
            topic: place(0).topic,
            partition: Some(0),
            key: None,
            value: Some("x".into()),
            headers: Headers::default(),
            timestamp: Timestamp::from_millis(0),
        };
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
    fn what_does_not_exist_is_an_error_and_then_the_end() {
        let broker = Embedded::temporary(EmbeddedConfig::default()).unwrap();
        assert!(matches!(records(&broker, place(0)), Err(BrokerError::UnknownTopic { .. })));
        let spec = TopicSpec { partitions: 1, cleanup: Cleanup::Compact };
        broker.create_topic(&place(0).topic, &spec).unwrap();
        let mut beyond = records(&broker, place(1)).unwrap();
        assert!(matches!(beyond.next(), Some(Err(BrokerError::UnknownPartition { .. }))));
        assert!(beyond.next().is_none());
    }
}
