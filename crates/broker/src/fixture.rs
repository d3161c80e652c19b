//! What the tests of this crate have in common.

use driftline_types::{Headers, Outgoing, Timestamp, Topic};

/// A message to the first partition of a topic.
pub(crate) fn message(topic: Topic) -> Outgoing {
    Outgoing {
        topic,
        partition: Some(0),
        key: None,
        value: Some("x".into()),
        headers: Headers::default(),
        timestamp: Timestamp::from_millis(0),
    }
}
