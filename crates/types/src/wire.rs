//! The wire format: how a record's context stands in the headers of a message.
//!
//! `CloudEvents` 1.0 (Kafka binding, binary mode) for id, source, type, time and content type; W3C
//! trace context; `driftline-*` for lineage. Reading is total: a message written by others, with
//! none of these headers, gets a context made from its place in the log.
//!
//! The codebook cell of a value is not among them: it means something only with its reference, and a record may wait in the
//! log while that is changed. Whoever reads a record counts it on its own.

use std::{fmt::Write as _, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    Context, Headers, Message, Outgoing, Partition, PipelineName, RecordId, SchemaId, StageName, StageVersion,
    Timestamp, Timing, Topic,
};

/// `CloudEvents` version: always `1.0`.
pub const CE_SPECVERSION: &str = "ce_specversion";
/// The record's deterministic id: the place of the record that caused it, and an index.
pub const CE_ID: &str = "ce_id";
/// Who wrote the record: `/<pipeline>/<stage>`.
pub const CE_SOURCE: &str = "ce_source";
/// The payload's schema.
pub const CE_TYPE: &str = "ce_type";
/// Event time, RFC 3339.
pub const CE_TIME: &str = "ce_time";
/// The media type of the value.
pub const CONTENT_TYPE: &str = "content-type";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace state.
pub const TRACESTATE: &str = "tracestate";
/// The places in the log of the records this one was made from, separated by commas: all up to
/// [`MAX_PARENTS`], else the first and last halves of that number.
pub const PARENTS: &str = "driftline-parents";
/// `stage=version` of the stages so far, separated by commas.
pub const VERSIONS: &str = "driftline-versions";
/// `stage=milliseconds` of the stages so far, separated by commas.
pub const TIMINGS: &str = "driftline-timings";
/// Wall-clock milliseconds at which the source wrote the record.
pub const INGESTED: &str = "driftline-ingested";

/// The probe that the record belongs to, as `name@milliseconds`; absent on what users send.
pub const PROBE: &str = "driftline-probe";

/// On a dead letter that was sent again: the node that refused it, the only one that takes it. What is made of it has none.
pub const ONLY: &str = "driftline-only";

/// On a profile: the partition of the node's input that it was made of; 0 for a source.
pub const PARTITION: &str = "driftline-partition";

/// On a dead letter: the stage that refused the record.
pub const ERROR_STAGE: &str = "driftline-error-stage";
/// On a dead letter: why, without any content.
pub const ERROR_REASON: &str = "driftline-error-reason";
/// On a dead letter: the topic it was read from, or that had no room for it; then it has no partition and offset.
pub const ERROR_TOPIC: &str = "driftline-error-topic";
/// On a dead letter: the partition it was read from.
pub const ERROR_PARTITION: &str = "driftline-error-partition";
/// On a dead letter: the offset it was read from.
pub const ERROR_OFFSET: &str = "driftline-error-offset";
/// What all headers that a dead letter adds begin with.
pub const ERROR_PREFIX: &str = "driftline-error-";

/// How many parent ids the header names at most.
pub const MAX_PARENTS: usize = 16;

/// Writes the headers of the records of one source or stage. Texts go into a buffer that the caller shares among the
/// records of a batch; what one record has in common with the one before is written once.
#[derive(Clone, Debug)]
pub struct Origin {
    source: String,
    schema: SchemaId,
    versions: Last<Arc<[(StageName, StageVersion)]>>,
    timings: Last<Arc<[Timing]>>,
}

/// The last value that was written, and its text.
#[derive(Clone, Debug)]
struct Last<T>(Option<(T, String)>);

impl<T: Clone + PartialEq> Last<T> {
    fn text(&mut self, value: &T, write: impl FnOnce() -> String) -> &str {
        let known = self.0.take().filter(|(last, _)| last == value);
        &self.0.insert(known.unwrap_or_else(|| (value.clone(), write()))).1
    }
}

/// Bytes that one record's headers take, about.
pub const HEADER_BYTES: usize = 320;
/// The most bytes of a buffer that records share: one that is kept keeps it whole.
pub const SHARED_BYTES: usize = 32 << 10;

/// Makes a buffer that the headers of so many records share.
#[must_use]
pub fn header_buffer(records: usize) -> BytesMut {
    BytesMut::with_capacity((records * HEADER_BYTES).min(SHARED_BYTES))
}

impl Origin {
    /// Describes the output of a source or stage.
    #[must_use]
    pub fn new(pipeline: &PipelineName, stage: &StageName, schema: SchemaId) -> Self {
        Self { source: format!("/{pipeline}/{stage}"), schema, versions: Last(None), timings: Last(None) }
    }

    /// Writes a record's context as headers; `content_type` is the media type of its value. `buffer` is empty, and is so
    /// again afterwards; [`HEADER_BYTES`] of room a record spare allocations.
    #[must_use]
    pub fn headers(
        &mut self,
        context: &Context,
        event_time: Timestamp,
        content_type: &'static str,
        buffer: &mut BytesMut,
    ) -> Headers {
        let mut headers = Headers::writer(buffer);
        headers.push(CE_SPECVERSION, "1.0");
        headers.push_with(CE_ID, |out| context.id.write(out));
        headers.push(CE_SOURCE, &self.source);
        headers.push(CE_TYPE, self.schema.as_str());
        headers.push_text(CE_TIME, event_time);
        headers.push(CONTENT_TYPE, content_type);
        if let Some(parent) = &context.trace.parent {
            headers.push(TRACEPARENT, parent);
        }
        if let Some(state) = &context.trace.state {
            headers.push(TRACESTATE, state);
        }
        if !context.parents.is_empty() {
            headers.push_with(PARENTS, |out| {
                for (n, parent) in named_parents(&context.parents).enumerate() {
                    if n > 0 {
                        out.put_u8(b',');
                    }
                    parent.write(out);
                }
            });
        }
        if !context.versions.is_empty() {
            let write = || join(context.versions.iter(), |out, (stage, v)| write!(out, "{stage}={v}"));
            headers.push(VERSIONS, self.versions.text(&context.versions, write));
        }
        if !context.timings.is_empty() {
            let write = || join(context.timings.iter(), |out, t| write!(out, "{}={:.3}", t.stage, t.ms));
            headers.push(TIMINGS, self.timings.text(&context.timings, write));
        }
        headers.push(INGESTED, itoa::Buffer::new().format(context.ingested.as_millis()));
        if let Some(probe) = &context.probe {
            headers.push_text(PROBE, probe);
        }
        headers.finish()
    }
}

/// Reads the contexts of records. What one has in common with the one before is read once: versions, timings, and the
/// topic of its parents.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    versions: LastRead<Arc<[(StageName, StageVersion)]>>,
    timings: LastRead<Arc<[Timing]>>,
    topic: LastRead<Option<Topic>>,
}

/// The last text that was read, and what it says.
#[derive(Clone, Debug)]
struct LastRead<T>(Option<(String, T)>);

impl<T> Default for LastRead<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Clone> LastRead<T> {
    fn value(&mut self, text: &str, read: impl FnOnce(&str) -> T) -> T {
        let known = self.0.take().filter(|(last, _)| last == text);
        self.0.insert(known.unwrap_or_else(|| (text.to_owned(), read(text)))).1.clone()
    }
}

impl Reader {
    /// Reads a record's context from a message. What is absent or malformed gets its default, such as
    /// the message's timestamp for the time of entry. The id is the message's place in the log: what
    /// is made of it is named after that.
    #[must_use]
    pub fn context(&mut self, message: &Message) -> Context {
        let Message { topic, partition, offset, timestamp, .. } = message;
        let id = RecordId { topic: topic.clone(), partition: *partition, offset: *offset, index: 0 };
        let mut context = Context::at_source(id, *timestamp);
        for (name, value) in message.headers.iter() {
            let text = || std::str::from_utf8(value).unwrap_or_default();
            match name {
                TRACEPARENT => context.trace.parent = Some(Bytes::copy_from_slice(value)),
                TRACESTATE => context.trace.state = Some(Bytes::copy_from_slice(value)),
                PARENTS => context.parents = text().split(',').filter_map(|id| self.parent(id)).collect(),
                VERSIONS => context.versions = self.versions.value(text(), |text| items(text, version)),
                TIMINGS => context.timings = self.timings.value(text(), |text| items(text, timing)),
                INGESTED => context.ingested = entry(text(), *timestamp),
                PROBE => context.probe = text().parse().ok(),
                _ => {}
            }
        }
        context
    }

    fn parent(&mut self, id: &str) -> Option<RecordId> {
        RecordId::read(id, |topic| self.topic.value(topic, |topic| Topic::try_new(topic).ok()))
    }
}

/// Reads of a record's context only when it entered the pipeline, as [`Reader::context`] does.
#[must_use]
pub fn ingested(message: &Message) -> Timestamp {
    message.headers.get_str(INGESTED).map_or(message.timestamp, |text| entry(text, message.timestamp))
}

fn entry(text: &str, otherwise: Timestamp) -> Timestamp {
    text.parse().map_or(otherwise, Timestamp::from_millis)
}

fn items<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Arc<[T]> {
    text.split(',').filter_map(read).collect()
}

/// Says whether a message belongs to a probe.
#[must_use]
pub fn is_probe(message: &Message) -> bool {
    message.headers.get(PROBE).is_some()
}

/// Says whether a message is what its node wrote for users: neither a probe nor a dead letter that was sent again.
#[must_use]
pub fn is_output(message: &Message) -> bool {
    !is_probe(message) && message.headers.get(ONLY).is_none()
}

/// Says whether a message is for a node: each is for every reader of its topic, but for a dead letter that was sent again.
#[must_use]
pub fn is_for(message: &Message, node: &str) -> bool {
    message.headers.get(ONLY).is_none_or(|only| only == node.as_bytes())
}

/// Makes a dead letter: the message byte for byte, and the headers that say who refused it and why.
#[must_use]
pub fn dead_letter(pipeline: &PipelineName, stage: &StageName, message: &Message, reason: String) -> Outgoing {
    let mut headers = message.headers.clone();
    push_refusal(&mut headers, stage, reason, &message.topic);
    headers.push(ERROR_PARTITION, message.partition.to_string());
    headers.push(ERROR_OFFSET, message.offset.to_string());
    Outgoing {
        topic: pipeline.dead_letter_topic(stage),
        partition: Some(message.partition),
        key: message.key.clone(),
        value: message.value.clone(),
        headers,
        timestamp: message.timestamp,
    }
}

/// Adds the headers that say which stage refused a record of which topic, and why.
pub fn push_refusal(headers: &mut Headers, stage: &StageName, reason: String, topic: &Topic) {
    headers.push(ERROR_STAGE, stage.to_string());
    headers.push(ERROR_REASON, reason);
    headers.push(ERROR_TOPIC, topic.to_string());
}

fn version(item: &str) -> Option<(StageName, StageVersion)> {
    let (stage, version) = item.split_once('=')?;
    Some((StageName::try_new(stage).ok()?, StageVersion::try_new(version).ok()?))
}

fn timing(item: &str) -> Option<Timing> {
    let (stage, ms) = item.split_once('=')?;
    Some(Timing { stage: StageName::try_new(stage).ok()?, ms: ms.parse().ok()? })
}

fn named_parents(parents: &[RecordId]) -> impl Iterator<Item = &RecordId> {
    let half = MAX_PARENTS / 2;
    let (head, tail) = if parents.len() <= MAX_PARENTS {
        (parents, &parents[..0])
    } else {
        (&parents[..half], &parents[parents.len() - half..])
    };
    head.iter().chain(tail)
}

fn join<T>(items: impl Iterator<Item = T>, write: impl Fn(&mut String, T) -> std::fmt::Result) -> String {
    let mut out = String::new();
    for item in items {
        if !out.is_empty() {
            out.push(',');
        }
        // Writing to a String cannot fail.
        let _ = write(&mut out, item);
    }
    out
}

/// Returns the partition of a key, as Kafka's default partitioner does (murmur2), so that a topic
/// written by any Kafka client is partitioned as ours. `partitions` of 0 counts as 1.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u32) -> Partition {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// Austin Appleby's `MurmurHash2`, 32 bits, with the seed of Kafka's Java client.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h: u32 = 0x9747_b28c ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, &byte) in rest.iter().enumerate() {
            h ^= u32::from(byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Probe, TraceContext};

    fn id(offset: u64) -> RecordId {
        RecordId { topic: Topic::try_new("speech.microphone").unwrap(), partition: 0, offset, index: 0 }
    }

    #[test]
    fn context_survives_the_headers() {
        let names = |n| StageName::try_new(n).unwrap();
        let context_in = Context {
            id: id(9),
            trace: TraceContext { parent: Some(Bytes::from_static(b"00-aa-bb-01")), state: None },
            parents: vec![id(1), id(2)],
            versions: Arc::new([(names("vad"), StageVersion::try_new("0123abcd").unwrap())]),
            timings: Arc::new([Timing { stage: names("vad"), ms: 1.25 }]),
            ingested: Timestamp::from_millis(1_000),
            code: Some(17),
            probe: Some(Probe { name: "red@jacket".into(), round: Timestamp::from_millis(-60_000) }),
        };
        let pipeline = PipelineName::try_new("speech").unwrap();
        let mut origin = Origin::new(&pipeline, &names("vad"), SchemaId::new("speech-segment.v1"));
        let message = Message {
            topic: pipeline.output_topic(&names("vad")),
            partition: 0,
            offset: 3,
            key: None,
            value: None,
            headers: origin.headers(&context_in, Timestamp::from_millis(5), "audio/wav", &mut BytesMut::new()),
            timestamp: Timestamp::from_millis(5),
        };
        let place = RecordId { topic: message.topic.clone(), partition: 0, offset: 3, index: 0 };
        // A code means something to who has counted it alone.
        let expected = Context { id: place, code: None, ..context_in };
        assert_eq!(Reader::default().context(&message), expected);
        assert_eq!(ingested(&message), expected.ingested);
        // A reader remembers what it has read, and takes nothing else for it.
        let mut reader = Reader::default();
        let other = Context {
            versions: Arc::new([(names("asr"), StageVersion::try_new("89ab").unwrap())]),
            timings: Arc::default(),
            parents: vec![RecordId { topic: Topic::try_new("speech.vad").unwrap(), ..id(4) }, id(5)],
            ..expected.clone()
        };
        let headers = origin.headers(&other, Timestamp::from_millis(5), "audio/wav", &mut BytesMut::new());
        let between = Message { headers, ..message.clone() };
        for (message, expected) in
            [(&message, &expected), (&message, &expected), (&between, &other), (&message, &expected)]
        {
            assert_eq!(&reader.context(message), expected);
        }
        assert_eq!(message.headers.get_str(CE_ID), Some("speech.microphone/0/9/0"));
        assert_eq!(message.headers.get_str(CE_SOURCE), Some("/speech/vad"));
        assert_eq!(message.headers.get_str(CE_TIME), Some("1970-01-01T00:00:00.005Z"));
    }

    #[test]
    fn a_foreign_message_is_known_by_its_place() {
        let message = Message {
            topic: Topic::try_new("clicks").unwrap(),
            partition: 2,
            offset: 40,
            key: None,
            value: None,
            headers: Headers::default(),
            timestamp: Timestamp::from_millis(7),
        };
        let context = Reader::default().context(&message);
        assert_eq!(ingested(&message), message.timestamp);
        assert_eq!(context.id.to_string(), "clicks/2/40/0");
        assert_eq!(context.ingested, message.timestamp);
    }

    #[test]
    fn a_dead_letter_that_was_sent_again_is_for_one_node() {
        let mut message = Message {
            topic: Topic::try_new("speech.vad").unwrap(),
            partition: 0,
            offset: 3,
            key: None,
            value: None,
            headers: Headers::default(),
            timestamp: Timestamp::from_millis(7),
        };
        assert!(is_for(&message, "asr") && is_for(&message, "search"));
        message.headers.push(ONLY, "asr");
        assert!(is_for(&message, "asr") && !is_for(&message, "search"));
    }

    #[test]
    fn many_parents_are_named_by_both_ends() {
        let parents: Vec<_> = (0..40).map(id).collect();
        let named: Vec<_> = named_parents(&parents).map(|id| id.offset).collect();
        assert_eq!(named, [0, 1, 2, 3, 4, 5, 6, 7, 32, 33, 34, 35, 36, 37, 38, 39]);
    }

    /// Values from Apache Kafka 4's `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_equals_kafkas() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
