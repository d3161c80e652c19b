//! The one way into the log: a unit becomes one write to the store and one change of the view.
//!
//! Appends run one at a time, under the append lock. Records are encoded before it is taken, so
//! producers on several threads encode side by side. Under the lock: offsets are given out, what
//! retention and compaction remove is added to the same write, the store commits, the view changes,
//! waiting members are woken.
//!
//! *Retention* of a delete topic therefore runs at every append to a partition, and only there: a
//! partition nobody writes to keeps what it has. It removes whole rows (at most [`ROW_BYTES`], or
//! one larger record), from the oldest on, while the partition would still hold its limit of bytes
//! without the row, or the row was written longer ago than the limit of time. It never removes a
//! record written by the same unit. Limits that have changed ([`crate::Broker::create_topic`]) hold
//! from the next append on. Consumers are not asked: as on Kafka, one that has fallen behind the
//! first record kept is told so ([`BrokerError::OutOfRange`]).
//!
//! As on Kafka, too, age counts from the moment of writing, by the wall clock. By event time a recording of last
//! year would be removed the minute it arrives, and one record from a wrong future would make all others too old
//! for ever. A row whose moment is still to come does not tell when it was written: the clock has been set back, or
//! an earlier version noted event time there. It is as old as the next row that does tell.
//!
//! *Compaction* removes the earlier record of a key in the write that adds the later one, so a
//! compacted topic never holds two values of a key. A tombstone removes the key's record; it is kept
//! itself for the next [`TOMBSTONE_OFFSETS`] offsets of the partition, so that a reader no further
//! behind than that learns of the removal.

use std::{collections::HashMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use driftline_types::{GroupId, Offset, Outgoing, Timestamp, wire};

use super::{
    Log, codec,
    store::{Batch, RowKey},
    view::{CachedRow, Slot, Tail, TailChange, TopicEntry},
};
use crate::{BrokerError, Cleanup, Committed, Retention};

/// A row is closed before it would grow beyond this.
pub(super) const ROW_BYTES: usize = 256 << 10;
/// How many further offsets a tombstone outlives.
pub(super) const TOMBSTONE_OFFSETS: u64 = 10_000;
/// Longest note kept with a committed offset.
const MAX_METADATA_BYTES: usize = 4096;

/// A committed offset of a unit, its partition resolved.
#[derive(Debug)]
pub(super) struct SlotCommit {
    pub slot: Slot,
    pub committed: Committed,
}

/// The outputs of a unit for one partition.
struct Prepared {
    slot: Slot,
    rows: Vec<PreparedRow>,
}

struct PreparedRow {
    count: u32,
    bytes: u64,
    data: Bytes,
    /// The record's key and whether it is a tombstone, on a compacted topic.
    compact: Option<(Bytes, bool)>,
}

impl PreparedRow {
    fn key(&self, tail: &Tail, base: Offset, now: i64) -> RowKey {
        RowKey { id: tail.id, base, count: self.count, bytes: self.bytes, written: now }
    }
}

impl Log {
    /// Writes outputs and the offsets of a group as one unit. The caller has checked that the
    /// offsets may be committed.
    pub(super) fn append(
        &self,
        outputs: &[Outgoing],
        offsets: Option<(&GroupId, Vec<SlotCommit>)>,
    ) -> Result<(), BrokerError> {
        self.append_at(Timestamp::now().as_millis(), outputs, offsets)
    }

    /// The same at a moment of the wall clock, in milliseconds since the Unix epoch.
    fn append_at(
        &self,
        now: i64,
        outputs: &[Outgoing],
        offsets: Option<(&GroupId, Vec<SlotCommit>)>,
    ) -> Result<(), BrokerError> {
        if let Some((_, commits)) = &offsets {
            self.check_metadata(commits)?;
        }
        let prepared = self.prepare(outputs)?;
        let offsets = offsets.filter(|(_, commits)| !commits.is_empty());
        if prepared.is_empty() && offsets.is_none() {
            return Ok(());
        }
        let append = self.append.lock();
        let mut batch = self.store.batch();
        let mut changes = Vec::with_capacity(prepared.len());
        let mut touched: Vec<Arc<TopicEntry>> = Vec::new();
        {
            let view = self.view.read();
            for partition in prepared {
                let tail = &view.tails[partition.slot];
                if !touched.iter().any(|entry| entry.id == tail.entry.id) {
                    touched.push(Arc::clone(&tail.entry));
                }
                changes.push(self.plan(tail, partition, now, &mut batch)?);
            }
            if let Some((group, commits)) = &offsets {
                for SlotCommit { slot, committed } in commits {
                    let tail = &view.tails[*slot];
                    let change = changes.iter().find(|change| change.slot == *slot);
                    let (low, high) = (tail.ends.low, change.map_or(tail.ends.high, |change| change.ends.high));
                    if committed.next > high {
                        let (partition, offset) = (tail.partition(), committed.next);
                        return Err(BrokerError::OutOfRange { partition, offset, low, high, group: None });
                    }
                    batch.put_offset(group, tail.id, committed);
                }
            }
        }
        batch.commit()?;
        {
            let mut view = self.view.write();
            view.apply(changes);
            if let Some((group, commits)) = offsets {
                for SlotCommit { slot, committed } in commits {
                    view.committed.insert((group.clone(), slot), committed);
                }
            }
        }
        drop(append);
        for entry in touched {
            entry.wake();
        }
        Ok(())
    }

    fn check_metadata(&self, commits: &[SlotCommit]) -> Result<(), BrokerError> {
        for SlotCommit { slot, committed } in commits {
            let found = committed.metadata.as_ref().map_or(0, String::len);
            if found > MAX_METADATA_BYTES {
                let partition = self.view.read().tails[*slot].partition();
                return Err(BrokerError::MetadataTooLarge { partition, found, allowed: MAX_METADATA_BYTES });
            }
        }
        Ok(())
    }

    /// Chooses partitions and encodes rows.
    fn prepare(&self, outputs: &[Outgoing]) -> Result<Vec<Prepared>, BrokerError> {
        let mut partitions: Vec<(Slot, &Cleanup, Vec<&Outgoing>)> = Vec::new();
        let mut topics: Vec<Arc<TopicEntry>> = Vec::new();
        {
            let view = self.view.read();
            for message in outputs {
                if !topics.iter().any(|entry| entry.topic == message.topic) {
                    topics.push(Arc::clone(view.topic(&message.topic)?));
                }
            }
        }
        // Neighbours mostly go to one topic and often to one partition: look there first.
        let (mut topic, mut partition) = (0, 0);
        for message in outputs {
            if topics[topic].topic != message.topic {
                topic = topics.iter().position(|entry| entry.topic == message.topic).unwrap_or_default();
            }
            let entry = &topics[topic];
            let slot = self.check(entry, message)?;
            if partitions.get(partition).is_none_or(|(found, ..)| *found != slot) {
                partition = partitions.iter().position(|(found, ..)| *found == slot).unwrap_or_else(|| {
                    partitions.push((slot, &entry.spec.cleanup, Vec::new()));
                    partitions.len() - 1
                });
            }
            partitions[partition].2.push(message);
        }
        let prepare = |(slot, cleanup, messages): (Slot, &Cleanup, Vec<&Outgoing>)| {
            let rows = match cleanup {
                Cleanup::Compact => messages.into_iter().map(compacted_row).collect(),
                Cleanup::Delete(_) => rows(&messages),
            };
            Prepared { slot, rows }
        };
        Ok(partitions.into_iter().map(prepare).collect())
    }

    /// Checks a message and chooses its partition.
    fn check(&self, entry: &TopicEntry, message: &Outgoing) -> Result<Slot, BrokerError> {
        let (found, allowed) = (message.payload_bytes(), self.config.max_message_bytes);
        if found > allowed {
            return Err(BrokerError::TooLarge { topic: entry.topic.clone(), found, allowed });
        }
        if entry.spec.cleanup == Cleanup::Compact && message.key.is_none() {
            return Err(BrokerError::KeyMissing { topic: entry.topic.clone() });
        }
        let partitions = entry.spec.partitions;
        let partition = match (message.partition, &message.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => wire::partition_of(key, partitions),
            (None, None) => self.next_unkeyed(partitions),
        };
        if partition >= partitions {
            let partition = driftline_types::TopicPartition::new(entry.topic.clone(), partition);
            return Err(BrokerError::UnknownPartition { partition, partitions });
        }
        Ok(entry.slots.start + partition as usize)
    }

    /// Gives out offsets and adds what one partition needs to the write.
    fn plan(
        &self,
        tail: &Tail,
        prepared: Prepared,
        now: i64,
        batch: &mut Batch<'_>,
    ) -> Result<TailChange, BrokerError> {
        let Tail { ends, oldest, witness, .. } = *tail;
        let mut change = TailChange { slot: prepared.slot, ends, oldest, witness, rows: Vec::new() };
        change.ends.written = now;
        let cleanup = &tail.entry.spec.cleanup;
        match cleanup {
            Cleanup::Compact => self.plan_compacted(tail, prepared.rows, now, &mut change, batch)?,
            Cleanup::Delete(retention) => {
                for row in prepared.rows {
                    let key = row.key(tail, change.ends.high, now);
                    batch.put_row(cleanup, &key, row.data.clone());
                    change.ends.high = key.end();
                    change.ends.bytes += row.bytes;
                    change.rows.push(CachedRow { key, data: row.data });
                }
                self.retain(tail, *retention, now, &mut change, batch)?;
            }
        }
        batch.put_ends(tail.id, change.ends);
        Ok(change)
    }

    fn retain(
        &self,
        tail: &Tail,
        retention: Retention,
        now: i64,
        change: &mut TailChange,
        batch: &mut Batch<'_>,
    ) -> Result<(), BrokerError> {
        let cleanup = &tail.entry.spec.cleanup;
        let TailChange { ends, oldest, witness, rows, .. } = change;
        let tells = |row: &RowKey| row.written <= now;
        let removable = |row: &RowKey, bytes: u64| {
            let beyond_bytes = retention.bytes.is_some_and(|limit| bytes.saturating_sub(row.bytes) >= limit);
            let since = |ms: u64| now.saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX));
            beyond_bytes || retention.ms.is_some_and(|ms| row.written < since(ms))
        };
        if retention == Retention::default() || oldest.is_some_and(|row| tells(&row) && !removable(&row, ends.bytes)) {
            return Ok(());
        }
        for row in self.store.row_keys(cleanup, tail.id, ends.low) {
            let row = row?;
            let mut judged = row;
            if !tells(&row) {
                // Offsets are given out in the order of writing.
                if !witness.is_some_and(|next| next.base > row.base && tells(&next)) {
                    let mut after = self.store.row_keys(cleanup, tail.id, row.end());
                    let next = after.find(|next| next.as_ref().map_or(true, tells)).transpose()?;
                    *witness = next.or_else(|| rows.first().map(|row| row.key));
                }
                judged.written = witness.map_or(now, |next| next.written);
            }
            *oldest = Some(judged);
            if !removable(&judged, ends.bytes) {
                return Ok(());
            }
            batch.remove_row(cleanup, &row);
            ends.low = row.end();
            ends.bytes -= row.bytes.min(ends.bytes);
        }
        // Nothing older than this unit is left.
        *oldest = rows.first().map(|row| row.key);
        Ok(())
    }

    fn plan_compacted(
        &self,
        tail: &Tail,
        rows: Vec<PreparedRow>,
        now: i64,
        change: &mut TailChange,
        batch: &mut Batch<'_>,
    ) -> Result<(), BrokerError> {
        let cleanup = &tail.entry.spec.cleanup;
        let ends = &mut change.ends;
        // The last record of each key in this unit wins; the others only use up their offsets.
        let mut winners: HashMap<Bytes, (RowKey, Bytes, bool)> = HashMap::new();
        for row in rows {
            let key = row.key(tail, ends.high, now);
            ends.high = key.end();
            if let Some((record_key, tombstone)) = row.compact {
                winners.insert(record_key, (key, row.data, tombstone));
            }
        }
        for (record_key, (row, data, tombstone)) in &winners {
            if let Some(previous) = self.store.newest_of_key(tail.id, record_key)? {
                batch.remove_row(cleanup, &previous);
                batch.remove_tombstone(tail.id, previous.base);
                ends.bytes -= previous.bytes.min(ends.bytes);
            }
            batch.put_row(cleanup, row, data.clone());
            batch.put_newest_of_key(record_key, row);
            ends.bytes += row.bytes;
            if *tombstone {
                batch.put_tombstone(tail.id, row.base, record_key);
            }
        }
        for tombstone in self.store.tombstones(tail.id) {
            let (offset, record_key) = tombstone?;
            if offset + TOMBSTONE_OFFSETS + 1 >= ends.high {
                break;
            }
            batch.remove_tombstone(tail.id, offset);
            if winners.contains_key(&record_key) {
                continue;
            }
            if let Some(row) = self.store.newest_of_key(tail.id, &record_key)? {
                batch.remove_row(cleanup, &row);
                batch.remove_key(tail.id, &record_key);
                ends.bytes -= row.bytes.min(ends.bytes);
            }
        }
        Ok(())
    }
}

/// Encodes messages into rows of at most [`ROW_BYTES`], or of one larger message.
fn rows(messages: &[&Outgoing]) -> Vec<PreparedRow> {
    let lens: Vec<usize> = messages.iter().map(|message| codec::encoded_len(message)).collect();
    let mut rows = Vec::new();
    let mut first = 0;
    while first < messages.len() {
        let (mut end, mut len) = (first + 1, lens[first]);
        while end < messages.len() && len + lens[end] <= ROW_BYTES {
            len += lens[end];
            end += 1;
        }
        rows.push(row(&messages[first..end], &lens[first..end], len));
        first = end;
    }
    rows
}

fn row(messages: &[&Outgoing], lens: &[usize], len: usize) -> PreparedRow {
    let mut data = BytesMut::with_capacity(len);
    let mut bytes = 0;
    for (message, len) in messages.iter().zip(lens) {
        codec::encode(message, *len, &mut data);
        bytes += message.payload_bytes() as u64;
    }
    PreparedRow { count: messages.len() as u32, bytes, data: data.freeze(), compact: None }
}

fn compacted_row(message: &Outgoing) -> PreparedRow {
    let len = codec::encoded_len(message);
    let compact = message.key.clone().map(|key| (key, message.value.is_none()));
    PreparedRow { compact, ..row(&[message], &[len], len) }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use driftline_types::{Headers, Topic, TopicPartition};
    use proptest::{
        collection::vec,
        option,
        prelude::*,
        test_runner::{Config, TestRunner},
    };

    use super::*;
    use crate::{Broker, Embedded, EmbeddedConfig, TopicSpec};

    /// Of bytes and of milliseconds.
    type Limits = (Option<u64>, Option<u64>);

    fn create(broker: &Embedded, name: &str, retention: Retention) -> Topic {
        let topic = Topic::try_new(name).unwrap();
        let spec = TopicSpec { partitions: 1, cleanup: Cleanup::Delete(retention) };
        broker.create_topic(&topic, &spec).unwrap();
        topic
    }

    /// Writes a record at a moment; returns the first offset that is kept then.
    fn write(broker: &Embedded, topic: &Topic, now: i64, len: usize, event_time: i64) -> Offset {
        let message = Outgoing {
            topic: topic.clone(),
            partition: Some(0),
            key: None,
            value: Some(vec![7; len].into()),
            headers: Headers::default(),
            timestamp: Timestamp::from_millis(event_time),
        };
        broker.0.append_at(now, &[message], None).unwrap();
        let view = broker.0.view.read();
        let slot = view.slot(&TopicPartition::new(topic.clone(), 0)).unwrap();
        view.tails[slot].ends.low
    }

    /// Rows of one record go from the oldest on, by their size and by when they were written, whatever their event time.
    #[test]
    fn age_counts_from_the_moment_of_writing() {
        let broker = Embedded::temporary(EmbeddedConfig::default()).unwrap();
        let limits = (option::of(0..3_000_u64), option::of(0..500_u64));
        let records = vec((1..400_usize, any::<i64>(), 0..200_i64), 1..40);
        let case = Cell::new(0);
        let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
        let law = |((bytes, ms), records): (Limits, Vec<(usize, i64, i64)>)| {
            case.set(case.get() + 1);
            let topic = create(&broker, &format!("t{}", case.get()), Retention { bytes, ms });
            let mut written: Vec<(u64, i64)> = Vec::new();
            let (mut low, mut now) = (0, 1_000_000);
            for (len, event_time, later) in records {
                now += later;
                written.push((len as u64, now));
                while low + 1 < written.len() {
                    let kept: u64 = written[low..].iter().map(|(len, _)| len).sum();
                    let (len, at) = written[low];
                    let beyond_bytes = bytes.is_some_and(|limit| kept - len >= limit);
                    let beyond_ms = ms.is_some_and(|limit| now - at > limit as i64);
                    if !beyond_bytes && !beyond_ms {
                        break;
                    }
                    low += 1;
                }
                prop_assert_eq!(write(&broker, &topic, now, len, event_time), low as u64);
            }
            Ok(())
        };
        TestRunner::new(config).run(&(limits, records), law).unwrap();
    }

    /// A log whose first rows tell a moment that is still to come: event times, as microseconds for milliseconds, or a
    /// clock that has been set back.
    #[test]
    fn rows_that_do_not_tell_when_they_were_written_go_with_the_next_that_does() {
        const FAR: i64 = 1_800_000_000_000_000;
        let folder = tempfile::tempdir().unwrap();
        let open = || Embedded::open(folder.path(), EmbeddedConfig::default()).unwrap();
        let broker = open();
        let topic = create(&broker, "t", Retention { bytes: None, ms: Some(100) });
        for now in [FAR, FAR + 5, 10] {
            assert_eq!(write(&broker, &topic, now, 1, 0), 0);
        }
        assert_eq!(write(&broker, &topic, 20, 1, 0), 0);
        drop(broker);
        let broker = open();
        assert_eq!(write(&broker, &topic, 110, 1, 0), 0);
        assert_eq!(write(&broker, &topic, 111, 1, 0), 3);
        assert_eq!(write(&broker, &topic, 121, 1, 0), 4);
    }
}
