//! The state of a source or stage, as the log keeps it, and whether a group still knows what it belongs to.

use std::collections::BTreeMap;

use bytes::Bytes;
use driftline_broker::{Broker, BrokerError, Committed, records};
use driftline_stage::{StageError, operator::Site};
use driftline_types::{GroupId, Partition, TopicPartition};

/// Reads the state of one partition of a source or stage, as committed.
pub(crate) fn read_state(
    broker: &dyn Broker,
    site: &Site,
    partition: Partition,
) -> Result<BTreeMap<Bytes, Bytes>, BrokerError> {
    let place = TopicPartition::new(site.pipeline.state_topic(&site.stage), partition);
    let mut entries = BTreeMap::new();
    for message in records(broker, place)? {
        let message = message?;
        // Copied: a slice would keep all that was read beside it, and what is restored may be kept for long.
        let value = message.value.as_deref().map(Bytes::copy_from_slice);
        match (message.key, value) {
            (Some(key), Some(value)) => drop(entries.insert(Bytes::copy_from_slice(&key), value)),
            (Some(key), None) => drop(entries.remove(&key)),
            (None, _) => {}
        }
    }
    Ok(entries)
}

/// Whether a group has lost its offsets for a partition of its topics, of which there is a state: they are written
/// together. An input that is new has none, but others have. `assigned` is what the group has given to its member.
pub(crate) fn is_forgotten(
    broker: &dyn Broker,
    group: &GroupId,
    partition: Partition,
    assigned: &[(TopicPartition, Committed)],
) -> Result<bool, BrokerError> {
    if !broker.forgets_groups() {
        return Ok(false);
    }
    for (place, committed) in assigned.iter().filter(|(place, _)| place.partition == partition) {
        // Only a commit has a note; one without has to be asked for.
        if committed.metadata.is_some() || broker.committed(group, place)?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Says why a partition is not read whose state is kept without its offsets, and what to do about it.
pub(crate) fn forgotten(site: &Site, group: &GroupId, partition: Partition) -> StageError {
    let state = site.pipeline.state_topic(&site.stage);
    StageError::fatal(format!(
        "group {group} has no offset for partition {partition} of its input, but {state} keeps a state of it: the \
         cluster has let the offset expire (offsets.retention.minutes), it was deleted, or the input is another one; \
         read from the beginning, records that the state holds would count twice; set the offsets of the group with \
         kafka-consumer-groups --reset-offsets (--to-datetime of its last run, or --to-earliest if the input is \
         another one), or delete {state} to begin anew"
    ))
}
