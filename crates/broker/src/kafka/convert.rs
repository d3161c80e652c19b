//! Messages as Kafka's and as ours.
//!
//! Kafka's own timestamp is the moment of writing, so that retention counts from there and a recording of last year is not
//! removed the minute it arrives. Event time stands in [`wire::CE_TIME`]; where a message has no such header, in [`TIME`],
//! which is taken off again by the reader.

use bytes::{Bytes, BytesMut};
use driftline_types::{Headers, Message, Offset, Outgoing, Partition, Timestamp, Topic, wire};
use rdkafka::{
    message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders},
    producer::BaseRecord,
};

/// Event time of a message without [`wire::CE_TIME`], in milliseconds.
pub(super) const TIME: &str = "driftline-time";

/// Copies a message out of the client: one allocation holds key, value and headers.
pub(super) fn message(topic: Topic, from: &BorrowedMessage<'_>) -> Message {
    /// Room for the lengths that stand before a header's name and value.
    const LENGTHS: usize = 9;
    let headers = from.headers();
    let of_headers: usize =
        headers.iter().flat_map(|all| all.iter()).map(|h| LENGTHS + h.key.len() + h.value.map_or(0, <[u8]>::len)).sum();
    let (key, value) = (from.key(), from.payload());
    let mut buffer = BytesMut::with_capacity(key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + of_headers);
    let mut copy = |bytes: &[u8]| -> Bytes {
        buffer.extend_from_slice(bytes);
        buffer.split().freeze()
    };
    let (key, value) = (key.map(&mut copy), value.map(&mut copy));
    let mut ours = Headers::writer(&mut buffer);
    let (mut time, mut event_time) = (None, None);
    for header in headers.iter().flat_map(|all| all.iter()) {
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
    for (name, value) in from.headers.iter() {
        headers = headers.insert(Header { key: name, value: Some(value) });
    }
    // Written by the readers' rule: a time that the other header does not tell.
    if from.headers.get_str(wire::CE_TIME).and_then(Timestamp::parse) != Some(from.timestamp) {
        let time = from.timestamp.as_millis().to_string();
        headers = headers.insert(Header { key: TIME, value: Some(time.as_str()) });
    }
    record.headers(headers)
}
