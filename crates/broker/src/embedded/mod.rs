//! The embedded broker: a durable log in one process.
//!
//! It serves one process: a laptop, a test, an edge device. It is no server and never becomes one.
//! Handles are cheap to clone; the log is closed when the last handle, member and producer is gone.
//!
//! # Store
//!
//! The log stands on fjall. Measured against redb with the same units, both are bound by the disk
//! with large units, but a unit of ten records costs redb twelve times as much disk and a fifth of
//! the speed, and redb offers nothing between "lost with the process" and "synced" (the numbers are
//! in `benches/README.md`). What stands where is told, byte by byte, in [`store`] and [`codec`].
//!
//! # What always holds
//!
//! - A unit is one write to the store ([`append`]), so a process killed at any moment finds units
//!   whole, and every unit whose commit returned. With [`Durability::Process`] a loss of *power* may
//!   take the last units, newest first, never a part of one.
//! - Damage below is an error ([`BrokerError::Corrupt`]), with one exception: a journal broken in its
//!   structure looks as after a crash, so the log opens with the units before the break.
//! - Readers see a unit whole or not at all ([`view`]); a partition has at most one owner in a group
//!   ([`group`]).
//! - Memory is bounded: [`EmbeddedConfig::cache_bytes`] of newest rows, five buffers of 16 MB of what is
//!   not yet flushed (newest rows are in both, but stored once), 16 MB of blocks read, and what readers
//!   hold.
//!   A message shares the memory of its row, at most 256 KB or one larger record.

mod append;
mod codec;
mod group;
mod member;
mod store;
mod view;

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use driftline_types::{GroupId, Message, Offset, Partition, Topic, TopicPartition};
use parking_lot::{Mutex, RwLock};
use tempfile::TempDir;

use self::{
    codec::RowReader,
    group::{Group, MemberId, TopicSlots},
    member::{EmbeddedMember, EmbeddedProducer},
    store::{Ends, FORMAT_FILE, Store},
    view::{Signal, Slot, View},
};
use crate::{Broker, BrokerError, Cleanup, Committed, FetchLimit, Member, Producer, TopicDescription, TopicSpec};

/// What a commit survives once it has returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of this process, however it ends: the data is with the operating system.
    #[default]
    Process,
    /// A loss of power too: the data is on the disk. Each commit waits for the disk.
    Power,
}

/// The settings of an embedded broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// What a commit survives.
    pub durability: Durability,
    /// Bytes of the newest rows kept in memory over all partitions, for readers that keep up.
    pub cache_bytes: usize,
    /// The largest message taken: bytes of key, value and headers, at most 1 GiB.
    pub max_message_bytes: usize,
    /// How long a member may keep a partition that another one is to have, before it loses it.
    pub revocation_timeout: Duration,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Process,
            cache_bytes: 32 << 20,
            max_message_bytes: 16 << 20,
            revocation_timeout: Duration::from_secs(60),
        }
    }
}

/// A durable log in one process, with topics, partitions and consumer groups.
#[derive(Clone)]
pub struct Embedded(Arc<Log>);

impl Embedded {
    /// Opens the log in a folder, or creates it there.
    ///
    /// # Errors
    /// [`BrokerError::Locked`] if another process, or another handle of this one, has it open;
    /// [`BrokerError::Corrupt`] if it is damaged, of another format, or if the folder holds
    /// something else; [`BrokerError::Store`] if the folder cannot be read or written.
    pub fn open(path: &Path, config: EmbeddedConfig) -> Result<Self, BrokerError> {
        Log::open(path, config, None)
    }

    /// Makes an empty log in a temporary folder, which is removed with the last handle. A process
    /// that is killed leaves the folder behind.
    ///
    /// # Errors
    /// [`BrokerError::Store`] if the folder cannot be made.
    pub fn temporary(config: EmbeddedConfig) -> Result<Self, BrokerError> {
        let folder = tempfile::Builder::new()
            .prefix("driftline-log-")
            .tempdir()
            .map_err(|error| BrokerError::Store(Box::new(error)))?;
        let path = folder.path().to_owned();
        Log::open(&path, config, Some(folder))
    }

    /// Whether a folder holds a log, of whatever format. Nothing is opened or made.
    #[must_use]
    pub fn is_in(path: &Path) -> bool {
        path.join(FORMAT_FILE).exists()
    }

    /// Returns the folder of a temporary log, for who ends the process while there are handles.
    #[must_use]
    pub fn temporary_folder(&self) -> Option<&Path> {
        self.0.folder.as_ref().map(TempDir::path)
    }
}

/// The largest limit on messages: lengths are stored in 32 bits.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// What every handle shares. Locks are taken in the order of their fields here, each at most once:
/// `groups`, a group's `state`, `append`, `view`, then a signal's own.
struct Log {
    groups: Mutex<HashMap<GroupId, Arc<GroupHandle>>>,
    /// Held by whoever writes.
    append: Mutex<()>,
    view: RwLock<View>,
    store: Store,
    config: EmbeddedConfig,
    unkeyed: AtomicU32,
    /// Removed when everything above is closed.
    folder: Option<TempDir>,
}

/// A group and those who wait for it.
struct GroupHandle {
    name: GroupId,
    version: AtomicU64,
    state: Mutex<GroupState>,
}

struct GroupState {
    group: Group,
    signals: Vec<Arc<Signal>>,
}

impl GroupHandle {
    /// Returns a number that changes whenever a member may have something to do.
    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Makes every member look at the group again.
    fn changed(&self, state: &GroupState) {
        self.version.fetch_add(1, Ordering::Release);
        for signal in &state.signals {
            signal.raise();
        }
    }
}

impl Log {
    fn open(path: &Path, config: EmbeddedConfig, folder: Option<TempDir>) -> Result<Embedded, BrokerError> {
        let config = EmbeddedConfig { max_message_bytes: config.max_message_bytes.min(MAX_MESSAGE_BYTES), ..config };
        let store = Store::open(path, &config)?;
        let mut view = View::new(config.cache_bytes);
        for stored in store.topics()? {
            view.add_topic(stored.topic, stored.id, stored.spec, stored.ends);
        }
        let slots: HashMap<(u32, Partition), Slot> =
            view.tails.iter().enumerate().map(|(slot, tail)| ((tail.id.topic, tail.id.partition), slot)).collect();
        for stored in store.offsets()? {
            let slot = slots
                .get(&(stored.id.topic, stored.id.partition))
                .ok_or_else(|| store.corrupt(format!("group {} read a topic that is not there", stored.group)))?;
            view.committed.insert((stored.group, *slot), stored.committed);
        }
        Ok(Embedded(Arc::new(Self {
            groups: Mutex::default(),
            append: Mutex::default(),
            view: RwLock::new(view),
            store,
            config,
            unkeyed: AtomicU32::new(0),
            folder,
        })))
    }

    /// Opens the row that holds an offset, or on a compacted topic the next row. The inner error is
    /// the end of the log: nothing is there to read yet.
    fn open_row(&self, slot: Slot, offset: Offset) -> Result<Result<RowReader, Offset>, BrokerError> {
        loop {
            let (id, ends, entry) = {
                let view = self.view.read();
                let tail = &view.tails[slot];
                tail.check(offset)?;
                if offset == tail.ends.high {
                    return Ok(Err(offset));
                }
                if let Some(mut row) = tail.cached(offset) {
                    row.skip_to(offset).map_err(|error| self.store.corrupt(error))?;
                    return Ok(Ok(row));
                }
                (tail.id, tail.ends, Arc::clone(&tail.entry))
            };
            let cleanup = &entry.spec.cleanup;
            let compacted = *cleanup == Cleanup::Compact;
            match self.store.row(cleanup, id, offset)? {
                // A row beyond the ends was written after they were read, and is left for later.
                Some((key, data)) if key.base < ends.high && (compacted || key.base <= offset) => {
                    let mut row = RowReader::new(data, key.base, key.end());
                    row.skip_to(offset).map_err(|error| self.store.corrupt(error))?;
                    return Ok(Ok(row));
                }
                _ if compacted => return Ok(Err(ends.high)),
                // Retention was faster, or is about to tell: what is in the store is in the view once nobody writes, and the
                // next check says so. Otherwise the record must be there.
                _ => {
                    drop(self.append.lock());
                    if self.view.read().tails[slot].ends.low <= offset {
                        return Err(self.store.corrupt(format!("offset {offset} of slot {slot} is missing")));
                    }
                }
            }
        }
    }

    /// Writes a topic's settings. The caller holds the append lock.
    fn put_topic(&self, topic: &Topic, id: u32, spec: &TopicSpec) -> Result<(), BrokerError> {
        let mut batch = self.store.batch();
        batch.put_topic(topic, id, spec)?;
        batch.commit()
    }

    /// Returns the partition of the next message without a key: all in turn.
    fn next_unkeyed(&self, partitions: u32) -> Partition {
        self.unkeyed.fetch_add(1, Ordering::Relaxed) % partitions
    }

    fn join_group(
        &self,
        name: &GroupId,
        topics: Vec<TopicSlots>,
        signal: &Arc<Signal>,
    ) -> (Arc<GroupHandle>, MemberId) {
        let mut groups = self.groups.lock();
        let handle = groups.entry(name.clone()).or_insert_with(|| {
            let group = Group::new(self.config.revocation_timeout);
            let state = Mutex::new(GroupState { group, signals: Vec::new() });
            Arc::new(GroupHandle { name: name.clone(), version: AtomicU64::new(0), state })
        });
        let mut state = handle.state.lock();
        let id = state.group.join(topics, Instant::now());
        state.signals.push(Arc::clone(signal));
        handle.changed(&state);
        drop(state);
        (Arc::clone(handle), id)
    }

    fn leave_group(&self, handle: &GroupHandle, id: MemberId, signal: &Arc<Signal>) {
        let mut groups = self.groups.lock();
        let mut state = handle.state.lock();
        state.group.leave(id, Instant::now());
        state.signals.retain(|known| !Arc::ptr_eq(known, signal));
        if state.group.is_empty() {
            groups.remove(&handle.name);
        }
        handle.changed(&state);
    }
}

impl Broker for Embedded {
    fn create_topic(&self, topic: &Topic, spec: &TopicSpec) -> Result<(), BrokerError> {
        if spec.partitions == 0 || spec.partitions > MAX_PARTITIONS {
            let (found, allowed) = (spec.partitions, MAX_PARTITIONS);
            return Err(BrokerError::PartitionCount { topic: topic.clone(), found, allowed });
        }
        let _append = self.0.append.lock();
        let (entry, id) = {
            let view = self.0.view.read();
            (view.topics.get(topic).cloned(), view.topics.len() as u32)
        };
        if let Some(entry) = entry {
            let (found, wanted) = (entry.spec.partitions, spec.partitions);
            if found != wanted {
                return Err(BrokerError::TopicMismatch { topic: topic.clone(), found, wanted });
            }
            // Whether a topic is compacted never changes.
            if let (Cleanup::Delete(found), Cleanup::Delete(wanted)) = (&entry.spec.cleanup, &spec.cleanup)
                && found != wanted
            {
                self.0.put_topic(topic, entry.id, spec)?;
                self.0.view.write().replace_spec(topic, spec.clone());
            }
            return Ok(());
        }
        self.0.put_topic(topic, id, spec)?;
        let ends = vec![Ends::default(); spec.partitions as usize];
        self.0.view.write().add_topic(topic.clone(), id, spec.clone(), ends);
        Ok(())
    }

    fn describe_topic(&self, topic: &Topic) -> Result<Option<TopicDescription>, BrokerError> {
        let view = self.0.view.read();
        let describe = |entry: &Arc<view::TopicEntry>| TopicDescription {
            spec: entry.spec.clone(),
            partitions: view.watermarks(entry),
        };
        Ok(view.topics.get(topic).map(describe))
    }

    fn topics(&self) -> Result<Vec<Topic>, BrokerError> {
        Ok(self.0.view.read().topics.keys().cloned().collect())
    }

    fn join(&self, group: &GroupId, topics: &[Topic]) -> Result<Box<dyn Member>, BrokerError> {
        Ok(Box::new(EmbeddedMember::join(&self.0, group, topics)?))
    }

    fn producer(&self, _name: &str) -> Result<Box<dyn Producer>, BrokerError> {
        Ok(Box::new(EmbeddedProducer(Arc::clone(&self.0))))
    }

    fn committed(&self, group: &GroupId, partition: &TopicPartition) -> Result<Option<Committed>, BrokerError> {
        let view = self.0.view.read();
        let slot = view.slot(partition)?;
        Ok(view.committed.get(&(group.clone(), slot)).cloned())
    }

    fn read(&self, partition: &TopicPartition, from: Offset, limit: FetchLimit) -> Result<Vec<Message>, BrokerError> {
        member::read(&self.0, partition, from, limit)
    }
}

/// More partitions than any topic of one process needs.
const MAX_PARTITIONS: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Retention, fixture};

    /// A row leaves the store a moment before the view says so.
    #[test]
    fn a_reader_of_a_row_that_is_being_removed_is_out_of_range_and_finds_no_damage() {
        let config = EmbeddedConfig { cache_bytes: 0, ..EmbeddedConfig::default() };
        let broker = Embedded::temporary(config).unwrap();
        let place = TopicPartition::new(Topic::try_new("t").unwrap(), 0);
        let cleanup = Cleanup::Delete(Retention::default());
        broker.create_topic(&place.topic, &TopicSpec { partitions: 1, cleanup: cleanup.clone() }).unwrap();
        let message = fixture::message(place.topic.clone());
        for _ in 0..2 {
            broker.producer("test").unwrap().send(vec![message.clone()]).unwrap();
        }
        let log = &broker.0;
        let append = log.append.lock();
        let slot = log.view.read().slot(&place).unwrap();
        let id = log.view.read().tails[slot].id;
        let (oldest, _) = log.store.row(&cleanup, id, 0).unwrap().unwrap();
        let mut batch = log.store.batch();
        batch.remove_row(&cleanup, &oldest);
        batch.commit().unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| broker.read(&place, 0, FetchLimit { records: 1, bytes: 1 }));
            // So that it has looked into the store by then.
            std::thread::sleep(Duration::from_millis(50));
            log.view.write().tails[slot].ends.low = oldest.end();
            drop(append);
            let read = reader.join().unwrap();
            assert!(matches!(read, Err(BrokerError::OutOfRange { offset: 0, low: 1, high: 2, .. })), "{read:?}");
        });
    }

    #[test]
    fn a_temporary_log_is_removed_with_its_last_handle() {
        let broker = Embedded::temporary(EmbeddedConfig::default()).unwrap();
        let folder = broker.temporary_folder().unwrap().to_owned();
        let producer = broker.clone().producer("test").unwrap();
        drop(broker);
        assert!(Embedded::is_in(&folder));
        drop(producer);
        assert!(!Embedded::is_in(&folder) && !folder.exists());
    }
}
