//! What a stage sees: a typed value with its key, event time and context.

use std::{fmt, str::FromStr, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{Offset, Partition, StageName, StageVersion, Timestamp, Topic};

/// The cell of a value in the codebook of the stage that produced it.
pub type Code = u16;

/// The partition key of a record: a session, user or item. Never rewritten by a stage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// Makes a key from bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Lossy UTF-8, for people.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// The name of a record. One that was read is named by its place in the log (index 0). One that is
/// written is named by the place of the record that caused it and its index among the outputs of
/// that record: deterministic, so a repeat has the same id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// The topic of the record that caused this one; for a source, its own topic.
    pub topic: Topic,
    /// The partition of the record that caused this one.
    pub partition: Partition,
    /// The offset of the record that caused this one; for a source, a sequence number.
    pub offset: Offset,
    /// The index among the outputs of the record that caused this one.
    pub index: u32,
}

impl Serialize for RecordId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RecordId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| serde::de::Error::custom(format!("{text:?} is no topic/partition/offset/index")))
    }
}

/// `topic/partition/offset/index`.
impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.topic, self.partition, self.offset, self.index)
    }
}

impl FromStr for RecordId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::read(text, |topic| Topic::try_new(topic).ok()).ok_or(())
    }
}

impl RecordId {
    /// Appends the id as it is shown, without the machinery of formatting: each record has two of them in its headers.
    pub(crate) fn write(&self, out: &mut BytesMut) {
        out.put_slice(self.topic.as_str().as_bytes());
        let mut digits = itoa::Buffer::new();
        for number in [u64::from(self.partition), self.offset, u64::from(self.index)] {
            out.put_u8(b'/');
            out.put_slice(digits.format(number).as_bytes());
        }
    }

    /// Reads an id; `topic` reads the part that most ids of a batch have in common.
    pub(crate) fn read(text: &str, topic: impl FnOnce(&str) -> Option<Topic>) -> Option<Self> {
        let mut parts = text.rsplitn(4, '/');
        let index = parts.next()?.parse().ok()?;
        let offset = parts.next()?.parse().ok()?;
        let partition = parts.next()?.parse().ok()?;
        Some(Self { topic: topic(parts.next()?)?, partition, offset, index })
    }
}

/// W3C trace context, carried as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// The `traceparent` header.
    pub parent: Option<Bytes>,
    /// The `tracestate` header.
    pub state: Option<Bytes>,
}

/// How long one stage took for a record, from reading its batch to writing the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// The stage.
    pub stage: StageName,
    /// Milliseconds.
    pub ms: f64,
}

/// Says that a record belongs to a probe: a fixed recording that is sent on a schedule to see what stages answer. Such records
/// are kept out of sinks, profiles and counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The probe's name.
    pub name: Arc<str>,
    /// Which sending it is: the event time at which it was due.
    pub round: Timestamp,
}

/// `name@milliseconds`, as in the header.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.round.as_millis())
    }
}

impl FromStr for Probe {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (name, round) = text.rsplit_once('@').ok_or(())?;
        Ok(Self { name: name.into(), round: Timestamp::from_millis(round.parse().map_err(drop)?) })
    }
}

/// What travels with a record across hops besides its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// The record's name.
    pub id: RecordId,
    /// Trace context.
    pub trace: TraceContext,
    /// The ids of the records this one was made from; empty at a source.
    pub parents: Vec<RecordId>,
    /// The versions of the stages so far, in order. Shared: most records of a batch agree.
    pub versions: Arc<[(StageName, StageVersion)]>,
    /// The time each stage so far took, in order. Shared likewise.
    pub timings: Arc<[Timing]>,
    /// When the source wrote the newest record this one was made from, by the wall clock. The
    /// runtime sets and reads it to measure end-to-end latency; stages do not.
    pub ingested: Timestamp,
    /// The codebook cell of the value, on the reference of who has read it; `None` of what was not counted.
    pub code: Option<Code>,
    /// The probe it belongs to; `None` for what users send.
    pub probe: Option<Probe>,
}

impl Context {
    /// Makes the context of a record that has just entered the pipeline.
    #[must_use]
    pub fn at_source(id: RecordId, ingested: Timestamp) -> Self {
        Self {
            id,
            trace: TraceContext::default(),
            parents: Vec::new(),
            versions: Arc::default(),
            timings: Arc::default(),
            ingested,
            code: None,
            probe: None,
        }
    }
}

/// One message, decoded. `context` carries trace, lineage and versions across hops.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<T> {
    /// The partition key; never rewritten.
    pub key: Key,
    /// Event time, set at the source.
    pub event_time: Timestamp,
    /// Trace, lineage and versions.
    pub context: Context,
    /// The value.
    pub value: T,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_ids_round_trip() {
        let id = RecordId { topic: Topic::try_new("speech.vad").unwrap(), partition: 3, offset: 17, index: 1 };
        assert_eq!(id.to_string(), "speech.vad/3/17/1");
        let mut written = BytesMut::new();
        id.write(&mut written);
        assert_eq!(written, "speech.vad/3/17/1");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("speech.vad/3/17".parse::<RecordId>(), Err(()));
    }
}
