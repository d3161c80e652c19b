//! What readers see: the ends of every partition, its newest rows, and the groups' offsets.
//!
//! The [`View`] stands behind one read-write lock. A commit writes the store first and then the
//! view, in one critical section, so a reader sees a unit whole or not at all. Only the holder of
//! the append lock changes the view, which lets an append plan its changes under a read lock.
//!
//! The newest rows of delete topics stay in memory, up to a number of bytes over all partitions
//! together; the oldest rows, whosever they are, leave first. A reader that keeps up therefore never
//! touches the store, and shares the memory of the row with the writer, with every other reader and
//! with the store's own write buffer. Rows of compacted topics are not kept: they can be replaced.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use driftline_types::{GroupId, Offset, Topic, TopicPartition};
use parking_lot::{Condvar, Mutex};

use super::{
    codec::RowReader,
    store::{Ends, PartitionId, RowKey},
};
use crate::{BrokerError, Committed, TopicSpec, Watermarks};

/// A partition within this process: its index in [`View::tails`]. The partitions of a topic are
/// neighbours.
pub(super) type Slot = usize;

/// Wakes one waiting member. Raising it before the wait is not lost.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    /// Ends the present or the next wait.
    pub(super) fn raise(&self) {
        *self.raised.lock() = true;
        self.changed.notify_one();
    }

    /// Waits until raised or until `deadline`, and lowers the signal.
    pub(super) fn wait_until(&self, deadline: Instant) {
        let mut raised = self.raised.lock();
        while !*raised {
            if self.changed.wait_until(&mut raised, deadline).timed_out() {
                break;
            }
        }
        *raised = false;
    }
}

/// A topic, its settings and those who wait for its records. Where settings change it is replaced: who still holds the one
/// before sees the same partitions, the same kind of cleanup and the same watchers.
#[derive(Clone, Debug)]
pub(super) struct TopicEntry {
    pub topic: Topic,
    pub id: u32,
    pub spec: TopicSpec,
    /// Its partitions.
    pub slots: Range<Slot>,
    watchers: Arc<Mutex<Vec<Arc<Signal>>>>,
}

impl TopicEntry {
    /// Raises this signal at every commit to the topic.
    pub(super) fn watch(&self, signal: &Arc<Signal>) {
        self.watchers.lock().push(Arc::clone(signal));
    }

    /// Ends [`TopicEntry::watch`].
    pub(super) fn unwatch(&self, signal: &Arc<Signal>) {
        self.watchers.lock().retain(|watcher| !Arc::ptr_eq(watcher, signal));
    }

    /// Wakes everybody who watches.
    pub(super) fn wake(&self) {
        for signal in self.watchers.lock().iter() {
            signal.raise();
        }
    }
}

/// A row kept in memory.
#[derive(Clone, Debug)]
pub(super) struct CachedRow {
    pub key: RowKey,
    pub data: Bytes,
}

/// The newest end of a partition.
#[derive(Debug)]
pub(super) struct Tail {
    pub id: PartitionId,
    pub entry: Arc<TopicEntry>,
    pub ends: Ends,
    /// The oldest row kept, as retention judges it, if it is known: spares retention a look into the store.
    pub oldest: Option<RowKey>,
    /// The row by which retention judges those before it that do not tell when they were written, if it is known.
    pub witness: Option<RowKey>,
    rows: VecDeque<CachedRow>,
}

impl Tail {
    /// Names the partition.
    pub(super) fn partition(&self) -> TopicPartition {
        TopicPartition::new(self.entry.topic.clone(), self.id.partition)
    }

    /// Checks that an offset can be read or is the end.
    pub(super) fn check(&self, offset: Offset) -> Result<(), BrokerError> {
        let Ends { low, high, .. } = self.ends;
        if (low..=high).contains(&offset) {
            return Ok(());
        }
        Err(BrokerError::OutOfRange { partition: self.partition(), offset, low, high, group: None })
    }

    /// Opens the row in memory that holds `offset`.
    pub(super) fn cached(&self, offset: Offset) -> Option<RowReader> {
        let after = self.rows.partition_point(|row| row.key.base <= offset);
        let row = self.rows.get(after.checked_sub(1)?)?;
        (offset < row.key.end()).then(|| RowReader::new(row.data.clone(), row.key.base, row.key.end()))
    }
}

/// What one commit changes of one partition.
#[derive(Debug)]
pub(super) struct TailChange {
    pub slot: Slot,
    pub ends: Ends,
    pub oldest: Option<RowKey>,
    pub witness: Option<RowKey>,
    /// Rows to keep in memory.
    pub rows: Vec<CachedRow>,
}

/// Everything readers see.
#[derive(Debug, Default)]
pub(super) struct View {
    pub topics: BTreeMap<Topic, Arc<TopicEntry>>,
    pub tails: Vec<Tail>,
    pub committed: HashMap<(GroupId, Slot), Committed>,
    /// The partition of each row in memory, oldest first.
    order: VecDeque<Slot>,
    cached_bytes: usize,
    cache_limit: usize,
}

impl View {
    /// Makes an empty view that keeps at most `cache_limit` bytes of rows.
    pub(super) fn new(cache_limit: usize) -> Self {
        Self { cache_limit, ..Self::default() }
    }

    /// Finds a topic.
    pub(super) fn topic(&self, topic: &Topic) -> Result<&Arc<TopicEntry>, BrokerError> {
        self.topics.get(topic).ok_or_else(|| BrokerError::UnknownTopic { topic: topic.clone() })
    }

    /// Finds a partition.
    pub(super) fn slot(&self, partition: &TopicPartition) -> Result<Slot, BrokerError> {
        let entry = self.topic(&partition.topic)?;
        let slot = entry.slots.start + partition.partition as usize;
        if entry.slots.contains(&slot) {
            return Ok(slot);
        }
        Err(BrokerError::UnknownPartition { partition: partition.clone(), partitions: entry.spec.partitions })
    }

    /// Adds a topic whose partitions have these ends.
    pub(super) fn add_topic(&mut self, topic: Topic, id: u32, spec: TopicSpec, ends: Vec<Ends>) {
        let slots = self.tails.len()..self.tails.len() + ends.len();
        let entry = Arc::new(TopicEntry { topic: topic.clone(), id, spec, slots, watchers: Arc::default() });
        for (partition, ends) in (0..).zip(ends) {
            let id = PartitionId { topic: id, partition };
            let entry = Arc::clone(&entry);
            self.tails.push(Tail { id, entry, ends, oldest: None, witness: None, rows: VecDeque::new() });
        }
        self.topics.insert(topic, entry);
    }

    /// Gives a topic other limits of retention.
    pub(super) fn replace_spec(&mut self, topic: &Topic, spec: TopicSpec) {
        let Some(entry) = self.topics.get_mut(topic) else { return };
        *entry = Arc::new(TopicEntry { spec, ..(**entry).clone() });
        for tail in &mut self.tails[entry.slots.clone()] {
            tail.entry = Arc::clone(entry);
        }
    }

    /// Shows a commit.
    pub(super) fn apply(&mut self, changes: Vec<TailChange>) {
        for change in changes {
            let tail = &mut self.tails[change.slot];
            tail.ends = change.ends;
            tail.oldest = change.oldest;
            tail.witness = change.witness;
            for row in change.rows {
                self.cached_bytes += row.data.len();
                self.order.push_back(change.slot);
                tail.rows.push_back(row);
            }
        }
        while self.cached_bytes > self.cache_limit {
            let Some(slot) = self.order.pop_front() else { break };
            if let Some(row) = self.tails[slot].rows.pop_front() {
                self.cached_bytes -= row.data.len();
            }
        }
    }

    /// Returns the ends of a topic's partitions.
    pub(super) fn watermarks(&self, entry: &TopicEntry) -> Vec<Watermarks> {
        self.tails[entry.slots.clone()]
            .iter()
            .map(|tail| Watermarks { low: tail.ends.low, high: tail.ends.high })
            .collect()
    }
}
