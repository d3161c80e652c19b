//! The log on disk: what stands under which key.
//!
//! ```text
//! <path>/FORMAT   the line "driftline-log 1"
//! <path>/store/   a fjall database with three keyspaces
//! ```
//!
//! Integers in keys are big-endian, so that keys sort as numbers; in values they are little-endian.
//!
//! Keyspace `rows`, the records of delete topics. A key carries all that retention and recovery need, so both scan
//! keys and never load a record:
//!
//! | key | bytes | what |
//! |---|---|---|
//! | topic | 4 | number of the topic |
//! | partition | 4 | number of the partition |
//! | base | 8 | offset of the first record |
//! | count | 4 | number of records |
//! | bytes | 8 | keys, values and headers of the records |
//! | written | 8 | `i64`, when the row was written: milliseconds since the Unix epoch, by the wall clock. Earlier versions noted the newest event time of the records |
//!
//! Its value is a row of records, see [`super::codec`]. Keyspace `compacted` holds the records of
//! compacted topics in the same way, with one record a row. They are two keyspaces because the store
//! is set up for records that leave in the order they came in the one, in any order in the other.
//!
//! Keyspace `state`, everything small. The first byte of a key tells what it is:
//!
//! | key | value |
//! |---|---|
//! | `t`, topic name | the topic as JSON: `{"id":0,"spec":{…}}` |
//! | `p`, topic, partition | [`Ends`]: low, high, bytes (`u64` each), written (`i64`) |
//! | `o`, group name, 0, topic, partition | committed offset (`u64`), then 1 and the note, or 0 |
//! | `k`, topic, partition, record key | the newest record of a key on a compacted topic: base, bytes (`u64` each), written (`i64`) |
//! | `d`, topic, partition, offset | the record key of a tombstone that is still kept |
//!
//! One commit is one fjall batch over all keyspaces. Invariants, checked when the log is opened:
//! the rows of a partition do not overlap; the last one ends at `high`, or before it on a compacted
//! topic; the first one begins at `low`, or after it on a compacted topic, where `low` stays 0.

use std::{
    any::Any,
    fs, io, panic,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use driftline_types::{GroupId, Offset, Partition, Topic};
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode,
    config::CompressionPolicy,
};
use serde::{Deserialize, Serialize};

use super::{Durability, EmbeddedConfig};
use crate::{BrokerError, Cleanup, Committed, TopicSpec};

/// The file that tells a log, and its format.
pub(super) const FORMAT_FILE: &str = "FORMAT";
const FORMAT: &str = "driftline-log 1\n";

/// A partition as it stands in keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartitionId {
    pub topic: u32,
    pub partition: Partition,
}

impl PartitionId {
    fn bytes(self) -> [u8; 8] {
        ((u64::from(self.topic) << 32) | u64::from(self.partition)).to_be_bytes()
    }

    fn key(self, kind: u8, rest: &[u8]) -> Vec<u8> {
        [&[kind], &self.bytes()[..], rest].concat()
    }
}

/// The key of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowKey {
    pub id: PartitionId,
    pub base: Offset,
    pub count: u32,
    pub bytes: u64,
    pub written: i64,
}

impl RowKey {
    const LEN: usize = 36;

    /// Returns the offset after the last record.
    pub(super) fn end(&self) -> Offset {
        self.base + u64::from(self.count)
    }

    fn encode(&self) -> [u8; Self::LEN] {
        let mut key = [0; Self::LEN];
        key[..8].copy_from_slice(&self.id.bytes());
        key[8..16].copy_from_slice(&self.base.to_be_bytes());
        key[16..20].copy_from_slice(&self.count.to_be_bytes());
        key[20..28].copy_from_slice(&self.bytes.to_be_bytes());
        key[28..].copy_from_slice(&self.written.to_be_bytes());
        key
    }

    fn decode(key: &[u8]) -> Option<Self> {
        let key: &[u8; Self::LEN] = key.try_into().ok()?;
        let (topic, rest) = key.split_first_chunk()?;
        let (partition, rest) = rest.split_first_chunk()?;
        let (base, rest) = rest.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let (bytes, rest) = rest.split_first_chunk()?;
        let id = PartitionId { topic: u32::from_be_bytes(*topic), partition: u32::from_be_bytes(*partition) };
        Some(Self {
            id,
            base: u64::from_be_bytes(*base),
            count: u32::from_be_bytes(*count),
            bytes: u64::from_be_bytes(*bytes),
            written: i64::from_be_bytes(rest.try_into().ok()?),
        })
    }
}

/// The ends of a partition and what retention counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// The first offset kept.
    pub low: Offset,
    /// The offset the next record gets.
    pub high: Offset,
    /// Keys, values and headers of the records kept.
    pub bytes: u64,
    /// When something was last written; `i64::MIN` before the first record. Nothing is judged by it.
    pub written: i64,
}

impl Default for Ends {
    fn default() -> Self {
        Self { low: 0, high: 0, bytes: 0, written: i64::MIN }
    }
}

impl Ends {
    fn encode(self) -> Vec<u8> {
        [self.low.to_le_bytes(), self.high.to_le_bytes(), self.bytes.to_le_bytes(), self.written.to_le_bytes()].concat()
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (low, rest) = value.split_first_chunk()?;
        let (high, rest) = rest.split_first_chunk()?;
        let (bytes, rest) = rest.split_first_chunk()?;
        Some(Self {
            low: u64::from_le_bytes(*low),
            high: u64::from_le_bytes(*high),
            bytes: u64::from_le_bytes(*bytes),
            written: i64::from_le_bytes(rest.try_into().ok()?),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct TopicRow {
    id: u32,
    spec: TopicSpec,
}

/// A topic as it was found on disk.
pub(super) struct StoredTopic {
    pub topic: Topic,
    pub id: u32,
    pub spec: TopicSpec,
    pub ends: Vec<Ends>,
}

/// A committed offset as it was found on disk.
pub(super) struct StoredOffset {
    pub group: GroupId,
    pub id: PartitionId,
    pub committed: Committed,
}

/// The database and its keyspaces.
pub(super) struct Store {
    db: Database,
    rows: Keyspace,
    compacted: Keyspace,
    state: Keyspace,
    path: String,
    durability: Durability,
    /// Bytes of rows since the write buffer was last closed.
    buffered: AtomicU64,
}

impl Store {
    /// Opens or creates the log in a folder.
    pub(super) fn open(path: &Path, config: &EmbeddedConfig) -> Result<Self, BrokerError> {
        let name = path.display().to_string();
        check_format(path, &name)?;
        let open = || -> fjall::Result<(Database, [Keyspace; 3])> {
            let db = Database::builder(path.join("store"))
                .journal_compression(CompressionType::None)
                .cache_size(BLOCK_CACHE_BYTES)
                .max_journaling_size(MAX_JOURNAL_BYTES)
                .worker_threads(WORKER_THREADS)
                .open()?;
            let uncompressed =
                || KeyspaceCreateOptions::default().data_block_compression_policy(CompressionPolicy::disabled());
            let rows = db.keyspace("rows", || {
                let blobs = KvSeparationOptions::default()
                    .compression(CompressionType::None)
                    .staleness_threshold(BLOB_STALENESS);
                uncompressed().max_memtable_size(2 * ROWS_BUFFER_BYTES).with_kv_separation(Some(blobs))
            })?;
            let small = || uncompressed().max_memtable_size(STATE_BUFFER_BYTES);
            let compacted = db.keyspace("compacted", small)?;
            let state = db.keyspace("state", small)?;
            Ok((db, [rows, compacted, state]))
        };
        // The store answers some damage with a panic. Nothing is shared with it yet, so nothing can be
        // left half done.
        let (db, [rows, compacted, state]) = panic::catch_unwind(open)
            .map_err(|panic| BrokerError::Corrupt { path: name.clone(), reason: panic_text(&*panic) })?
            .map_err(|error| store_error(&name, error))?;
        Ok(Self { db, rows, compacted, state, path: name, durability: config.durability, buffered: AtomicU64::new(0) })
    }

    /// Starts a unit.
    pub(super) fn batch(&self) -> Batch<'_> {
        let mode = match self.durability {
            Durability::Process => PersistMode::Buffer,
            Durability::Power => PersistMode::SyncData,
        };
        Batch { store: self, batch: self.db.batch().durability(Some(mode)), bytes: 0 }
    }

    /// Reads every topic and checks its partitions.
    pub(super) fn topics(&self) -> Result<Vec<StoredTopic>, BrokerError> {
        self.state.prefix([b't']).map(|guard| self.topic(guard)).collect()
    }

    fn topic(&self, guard: fjall::Guard) -> Result<StoredTopic, BrokerError> {
        let (key, value) = guard.into_inner().map_err(|error| self.error(error))?;
        let name = std::str::from_utf8(&key[1..]).map_err(|_| self.corrupt("a topic's name is not text"))?;
        let topic = Topic::try_new(name).map_err(|error| self.corrupt(error))?;
        let TopicRow { id, spec } =
            serde_json::from_slice(&value).map_err(|error| self.corrupt(format!("topic {topic}: {error}")))?;
        let ends = (0..spec.partitions)
            .map(|partition| self.ends(PartitionId { topic: id, partition }, &spec))
            .collect::<Result<_, _>>()?;
        Ok(StoredTopic { topic, id, spec, ends })
    }

    fn ends(&self, id: PartitionId, spec: &TopicSpec) -> Result<Ends, BrokerError> {
        let Some(value) = self.state.get(id.key(b'p', &[])).map_err(|error| self.error(error))? else {
            return Ok(Ends::default());
        };
        let place = || format!("topic {} partition {}", id.topic, id.partition);
        let ends = Ends::decode(&value).ok_or_else(|| self.corrupt(format!("{}: ends are damaged", place())))?;
        let mut keys = self.row_keys(&spec.cleanup, id, 0);
        let first = keys.next().transpose()?;
        let last = keys.next_back().transpose()?.or(first);
        let (begins, ends_at) = (first.map(|key| key.base), last.map(|key| key.end()));
        let fits = if spec.cleanup == Cleanup::Compact {
            ends.low == 0 && ends_at.unwrap_or(0) <= ends.high
        } else {
            begins.unwrap_or(ends.high) == ends.low && ends_at.unwrap_or(ends.high) == ends.high
        };
        if !fits {
            let found = format!(
                "{}: the records are {begins:?} to {ends_at:?}, expected {} to {}",
                place(),
                ends.low,
                ends.high
            );
            return Err(self.corrupt(found));
        }
        Ok(ends)
    }

    /// Reads every committed offset.
    pub(super) fn offsets(&self) -> Result<Vec<StoredOffset>, BrokerError> {
        self.state
            .prefix([b'o'])
            .map(|guard| {
                let (key, value) = guard.into_inner().map_err(|error| self.error(error))?;
                decode_offset(&key, &value).ok_or_else(|| self.corrupt("a committed offset is damaged"))
            })
            .collect()
    }

    /// Walks the keys of a partition's rows that begin at `from` or after.
    pub(super) fn row_keys(
        &self,
        cleanup: &Cleanup,
        id: PartitionId,
        from: Offset,
    ) -> impl DoubleEndedIterator<Item = Result<RowKey, BrokerError>> + use<'_> {
        range(self.rows(cleanup), id, from, Offset::MAX).map(|guard| {
            let key = guard.key().map_err(|error| self.error(error))?;
            RowKey::decode(&key).ok_or_else(|| self.corrupt("the key of a row is damaged"))
        })
    }

    /// Reads the row that holds `offset`, or the next one after it.
    pub(super) fn row(
        &self,
        cleanup: &Cleanup,
        id: PartitionId,
        offset: Offset,
    ) -> Result<Option<(RowKey, Bytes)>, BrokerError> {
        let row = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner().map_err(|error| self.error(error))?;
            let key = RowKey::decode(&key).ok_or_else(|| self.corrupt("the key of a row is damaged"))?;
            Ok((key, Bytes::from(value)))
        };
        let rows = self.rows(cleanup);
        let after = range(rows, id, offset, Offset::MAX).next().map(row).transpose()?;
        if *cleanup == Cleanup::Compact || after.as_ref().is_some_and(|(key, _)| key.base == offset) {
            return Ok(after);
        }
        // Before the offset only the last row can hold it.
        let before = offset.checked_sub(1).and_then(|last| range(rows, id, 0, last).next_back());
        let before = before.map(row).transpose()?;
        Ok(before.filter(|(key, _)| key.end() > offset).or(after))
    }

    /// Closes the write buffer of `rows` once it is full. The store would leave that to a thread that
    /// may be busy, while the buffer grows; closed by the writer, at most four wait to be flushed
    /// before the store itself holds the next commit up. Where that fails, what was written is stored nevertheless.
    fn bound_buffer(&self, bytes: u64) {
        if self.buffered.fetch_add(bytes, Ordering::Relaxed) + bytes > ROWS_BUFFER_BYTES {
            self.buffered.store(0, Ordering::Relaxed);
            if let Err(error) = self.rows.rotate_memtable() {
                tracing::warn!(log = %self.path, %error, "the write buffer of the log was not closed");
            }
        }
    }

    fn rows(&self, cleanup: &Cleanup) -> &Keyspace {
        match cleanup {
            Cleanup::Delete(_) => &self.rows,
            Cleanup::Compact => &self.compacted,
        }
    }

    /// Finds the newest record of a key on a compacted topic.
    pub(super) fn newest_of_key(&self, id: PartitionId, key: &[u8]) -> Result<Option<RowKey>, BrokerError> {
        let Some(value) = self.state.get(id.key(b'k', key)).map_err(|error| self.error(error))? else {
            return Ok(None);
        };
        let place = || -> Option<RowKey> {
            let (base, rest) = value.split_first_chunk()?;
            let (bytes, rest) = rest.split_first_chunk()?;
            let written = i64::from_le_bytes(rest.try_into().ok()?);
            Some(RowKey { id, base: u64::from_le_bytes(*base), count: 1, bytes: u64::from_le_bytes(*bytes), written })
        };
        place().map(Some).ok_or_else(|| self.corrupt("the place of a key is damaged"))
    }

    /// Walks the offsets and keys of a partition's tombstones, oldest first.
    pub(super) fn tombstones(
        &self,
        id: PartitionId,
    ) -> impl Iterator<Item = Result<(Offset, Bytes), BrokerError>> + use<'_> {
        self.state.prefix(id.key(b'd', &[])).map(|guard| {
            let (key, value) = guard.into_inner().map_err(|error| self.error(error))?;
            let offset = key.get(9..).and_then(|offset| offset.try_into().ok()).map(u64::from_be_bytes);
            Ok((offset.ok_or_else(|| self.corrupt("a tombstone is damaged"))?, value.into()))
        })
    }

    /// Says that the log is damaged.
    pub(super) fn corrupt(&self, reason: impl std::fmt::Display) -> BrokerError {
        BrokerError::Corrupt { path: self.path.clone(), reason: reason.to_string() }
    }

    fn error(&self, error: fjall::Error) -> BrokerError {
        store_error(&self.path, error)
    }
}

/// One atomic write.
pub(super) struct Batch<'a> {
    store: &'a Store,
    batch: fjall::OwnedWriteBatch,
    /// Bytes of rows.
    bytes: u64,
}

impl Batch<'_> {
    /// Writes a topic's settings.
    pub(super) fn put_topic(&mut self, topic: &Topic, id: u32, spec: &TopicSpec) -> Result<(), BrokerError> {
        let row = serde_json::to_vec(&TopicRow { id, spec: spec.clone() })
            .map_err(|error| BrokerError::Store(Box::new(error)))?;
        self.batch.insert(&self.store.state, [b"t", topic.as_str().as_bytes()].concat(), row);
        Ok(())
    }

    /// Writes a row.
    pub(super) fn put_row(&mut self, cleanup: &Cleanup, key: &RowKey, data: Bytes) {
        self.bytes += data.len() as u64;
        self.batch.insert(self.store.rows(cleanup), key.encode(), data);
    }

    /// Removes a row.
    pub(super) fn remove_row(&mut self, cleanup: &Cleanup, key: &RowKey) {
        self.batch.remove(self.store.rows(cleanup), key.encode());
    }

    /// Writes the ends of a partition.
    pub(super) fn put_ends(&mut self, id: PartitionId, ends: Ends) {
        self.batch.insert(&self.store.state, id.key(b'p', &[]), ends.encode());
    }

    /// Writes a committed offset.
    pub(super) fn put_offset(&mut self, group: &GroupId, id: PartitionId, committed: &Committed) {
        let key = [b"o", group.as_str().as_bytes(), &[0], &id.bytes()].concat();
        let mut value = committed.next.to_le_bytes().to_vec();
        value.push(u8::from(committed.metadata.is_some()));
        value.extend_from_slice(committed.metadata.as_deref().unwrap_or_default().as_bytes());
        self.batch.insert(&self.store.state, key, value);
    }

    /// Remembers where the newest record of a key stands.
    pub(super) fn put_newest_of_key(&mut self, key: &[u8], row: &RowKey) {
        let value = [row.base.to_le_bytes(), row.bytes.to_le_bytes(), row.written.to_le_bytes()].concat();
        self.batch.insert(&self.store.state, row.id.key(b'k', key), value);
    }

    /// Forgets a key.
    pub(super) fn remove_key(&mut self, id: PartitionId, key: &[u8]) {
        self.batch.remove(&self.store.state, id.key(b'k', key));
    }

    /// Remembers a tombstone.
    pub(super) fn put_tombstone(&mut self, id: PartitionId, offset: Offset, key: &[u8]) {
        self.batch.insert(&self.store.state, id.key(b'd', &offset.to_be_bytes()), key);
    }

    /// Forgets a tombstone.
    pub(super) fn remove_tombstone(&mut self, id: PartitionId, offset: Offset) {
        self.batch.remove(&self.store.state, id.key(b'd', &offset.to_be_bytes()));
    }

    /// Writes everything, or nothing.
    pub(super) fn commit(self) -> Result<(), BrokerError> {
        self.batch.commit().map_err(|error| self.store.error(error))?;
        self.store.bound_buffer(self.bytes);
        Ok(())
    }
}

/// Walks the rows of a partition that begin at `first` to `last` (inclusive).
fn range(rows: &Keyspace, id: PartitionId, first: Offset, last: Offset) -> fjall::Iter {
    let bound = |offset: Offset, fill: u8| {
        let mut key = [fill; RowKey::LEN];
        key[..8].copy_from_slice(&id.bytes());
        key[8..16].copy_from_slice(&offset.to_be_bytes());
        key
    };
    rows.range(bound(first, 0)..=bound(last, u8::MAX))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the store gave up: {}", text.unwrap_or("no reason given"))
}

fn check_format(path: &Path, name: &str) -> Result<(), BrokerError> {
    let io = |error: io::Error| BrokerError::Store(format!("{name}: {error}").into());
    fs::create_dir_all(path).map_err(io)?;
    let file = path.join(FORMAT_FILE);
    match fs::read_to_string(&file) {
        Ok(found) if found == FORMAT => Ok(()),
        Ok(found) => {
            let found: String = found.chars().take(64).collect();
            let reason = format!("{FORMAT_FILE} says {found:?}, this version reads {FORMAT:?}");
            Err(BrokerError::Corrupt { path: name.to_owned(), reason })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if fs::read_dir(path).map_err(io)?.next().is_some() {
                let reason = format!("the folder is not empty and has no {FORMAT_FILE} file");
                return Err(BrokerError::Corrupt { path: name.to_owned(), reason });
            }
            fs::write(&file, FORMAT).map_err(io)
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(BrokerError::Corrupt { path: name.to_owned(), reason: format!("{FORMAT_FILE} is not text") })
        }
        Err(error) => Err(io(error)),
    }
}

fn decode_offset(key: &[u8], value: &[u8]) -> Option<StoredOffset> {
    let (name, id) = key.get(1..)?.split_last_chunk::<8>()?;
    let group = GroupId::try_new(std::str::from_utf8(name.strip_suffix(&[0])?).ok()?).ok()?;
    let id = u64::from_be_bytes(*id);
    let id = PartitionId { topic: (id >> 32) as u32, partition: id as u32 };
    let (next, note) = value.split_first_chunk()?;
    let metadata = match note.split_first()? {
        (0, []) => None,
        (1, note) => Some(std::str::from_utf8(note).ok()?.to_owned()),
        _ => return None,
    };
    Some(StoredOffset { group, id, committed: Committed { next: u64::from_le_bytes(*next), metadata } })
}

fn store_error(path: &str, error: fjall::Error) -> BrokerError {
    match error {
        fjall::Error::Locked => BrokerError::Locked { path: path.to_owned() },
        fjall::Error::Io(_) | fjall::Error::Poisoned | fjall::Error::Storage(fjall::LsmError::Io(_)) => {
            BrokerError::Store(format!("{path}: {error}").into())
        }
        damaged => BrokerError::Corrupt { path: path.to_owned(), reason: damaged.to_string() },
    }
}

/// Blocks and blobs read from disk and kept, for readers that lag.
const BLOCK_CACHE_BYTES: u64 = 16 << 20;
/// Rows written but not yet in a table, before they are made one.
const ROWS_BUFFER_BYTES: u64 = 16 << 20;
/// The same for the small things.
const STATE_BUFFER_BYTES: u64 = 4 << 20;
/// What is replayed after a crash, at most.
const MAX_JOURNAL_BYTES: u64 = 128 << 20;
/// Records leave in the order they came, so a blob file soon is wholly stale and is dropped for
/// nothing: rewriting it before would only copy records that are about to leave.
const BLOB_STALENESS: f32 = 0.95;
/// Threads that flush and compact: one of them can always flush while others compact.
const WORKER_THREADS: usize = 4;
