//! Messages as Kafka's and as ours.
//!
//! Kafka's own timestamp is the moment of writing, so that retention counts from there and a recording of last year is not
//! removed the minute it arrives. Event time stands in [`wire::CE_TIME`]; where a message has no such header, in [`TIME`],
//! which is taken off again by the reader.
//!
//! Names of headers are text here. On Kafka others may write what is not UTF-8, which the client does not show: such a header is
//! left out, with a warning, and its record is read.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};
use driftline_types::{Headers, Message, Offset, Outgoing, Partition, Timestamp, Topic, wire};
use rdkafka::{
    message::{BorrowedMessage, Header, Headers as KafkaHeaders, Message as _, OwnedHeaders},
    producer::BaseRecord,
};

/// Event time of a message without [`wire::CE_TIME`], in milliseconds.
pub(super) const TIME: &str = "driftline-time";

/// Bytes from which a message has a buffer of its own, so that not much of a shared one is left over.
const LARGE: usize = wire::SHARED_BYTES / 4;

/// Copies a message out of the client. Key, value and headers go to the buffer that it shares with the messages read before
/// and after it; those of a large one have a buffer of their own.
pub(super) fn message(topic: Topic, from: &BorrowedMessage<'_>, shared: &mut BytesMut) -> Message {
    let (key, value) = (from.key(), from.payload());
    let room = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + wire::HEADER_BYTES;
    let mut own = BytesMut::new();
    let buffer = if room > LARGE {
        own.reserve(room);
        &mut own
    } else {
        if shared.capacity() < room {
            *shared = BytesMut::with_capacity(wire::SHARED_BYTES);
        }
        shared
    };
    let mut copy = |bytes: &[u8]| -> Bytes {
        buffer.extend_from_slice(bytes);
        buffer.split().freeze()
    };
    let (key, value) = (key.map(&mut copy), value.map(&mut copy));
    let mut ours = Headers::writer(buffer);
    let (mut time, mut event_time, mut unreadable) = (None, None, 0);
    for header in from.headers().into_iter().flat_map(all) {
        let Some(header) = header else {
            unreadable += 1;
            continue;
        };
        let value = header.value.unwrap_or_default();
        let text = || std::str::from_utf8(value).ok();
        if header.key == TIME {
            time = text().and_then(|text| text.parse().ok()).map(Timestamp::from_millis);
            continue;
        }
        if header.key == wire::CE_TIME {
            event_time = text().and_then(Timestamp::parse);
        }
        ours.push(header.key, value);
    }
    if unreadable > 0 {
        let (partition, offset) = (from.partition(), from.offset());
        tracing::warn!(%topic, partition, offset, unreadable, "headers whose names are not UTF-8 are left out");
    }
    let arrived = || Timestamp::from_millis(from.timestamp().to_millis().unwrap_or(0));
    Message {
        topic,
        partition: from.partition() as Partition,
        offset: from.offset() as Offset,
        key,
        value,
        headers: ours.finish(),
        timestamp: time.or(event_time).unwrap_or_else(arrived),
    }
}

/// The bytes of key, value and headers of a message that was handed over, as they are counted before.
pub(super) fn payload_bytes(message: &BorrowedMessage<'_>) -> usize {
    let headers = message.headers().into_iter().flat_map(all).flatten().filter(|header| header.key != TIME);
    let headers: usize = headers.map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len)).sum();
    message.key_len() + message.payload_len() + headers
}

/// Visits headers in order. In the place of one whose name is not UTF-8 stands `None`: asked for it, the client panics.
fn all<H: KafkaHeaders>(headers: &H) -> impl Iterator<Item = Option<Header<'_, &[u8]>>> {
    (0..headers.count()).map(move |at| catch_unwind(AssertUnwindSafe(move || headers.try_get(at))).ok().flatten())
}

/// Describes a message to the producer, which copies it. `topic` is the name on the cluster.
pub(super) fn record<'a>(topic: &'a str, partition: Partition, from: &'a Outgoing) -> BaseRecord<'a, [u8], [u8]> {
    let mut record = BaseRecord::to(topic).partition(partition as i32);
    if let Some(key) = &from.key {
        record = record.key(&key[..]);
    }
    if let Some(value) = &from.value {
        record = record.payload(&value[..]);
    }
    let mut headers = OwnedHeaders::new_with_capacity(from.headers.len() + 1);
    let mut told = None;
    for (name, value) in from.headers.iter() {
        headers = headers.insert(Header { key: name, value: Some(value) });
        if name == wire::CE_TIME {
            told = Some(value);
        }
    }
    // Written by the readers' rule: a time that the other header does not tell.
    if told.and_then(|text| Timestamp::parse(std::str::from_utf8(text).ok()?)) != Some(from.timestamp) {
        let time = from.timestamp.as_millis().to_string();
        headers = headers.insert(Header { key: TIME, value: Some(time.as_str()) });
    }
    record.headers(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers by their names, as the client shows them: `None` is a name that is not UTF-8.
    struct Named(&'static [Option<&'static str>]);

    impl KafkaHeaders for Named {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn try_get(&self, at: usize) -> Option<Header<'_, &[u8]>> {
            self.0.get(at).map(|name| Header { key: name.unwrap(), value: None })
        }
    }

    #[test]
    fn headers_beside_one_whose_name_cannot_be_read_are_read() {
        let headers = Named(&[Some("a"), None, Some("b"), None]);
        let names: Vec<_> = all(&headers).map(|header| header.map(|header| header.key)).collect();
        assert_eq!(names, headers.0);
    }
}
