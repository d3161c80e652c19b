//! How records stand in the store: one compact layout, written once and decoded without a copy.
//!
//! A *row* is a run of records of one partition, written one after the other; the offset of the
//! first stands in the row's key (see [`super::store`]), those of the others follow by counting.
//! All integers are little-endian. A record:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `u32` length of the rest of the record |
//! | 8 | `i64` timestamp, milliseconds since the Unix epoch |
//! | 4 | `u32` length of the key + 1; 0 is no key |
//! | 4 | `u32` length of the value + 1; 0 is a tombstone |
//! | 4 | `u32` number of headers |
//! | … | the key, the value |
//! | … | the headers, as [`Headers::encoded`] has them |
//!
//! The store keeps a checksum of every row, therefore a record has none of its own; decoding is
//! total all the same and answers [`Malformed`] whatever the bytes are.

use bytes::{BufMut, Bytes, BytesMut};
use driftline_types::{Headers, Message, Offset, Outgoing, Partition, Timestamp, Topic};

/// Length field, timestamp, lengths of key and value, number of headers.
const FIXED_BYTES: usize = 4 + 8 + 4 + 4 + 4;

/// The bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed record at byte {at} of a row of {len}")]
pub(super) struct Malformed {
    /// Where the record begins.
    pub at: usize,
    /// The length of the row.
    pub len: usize,
}

/// Returns the bytes that [`encode`] will write for a message.
pub(super) fn encoded_len(message: &Outgoing) -> usize {
    FIXED_BYTES
        + message.key.as_ref().map_or(0, Bytes::len)
        + message.value.as_ref().map_or(0, Bytes::len)
        + message.headers.encoded().len()
}

/// Appends a message to a row. Every length must fit in `u32 - 1`, which the limit on messages
/// ensures.
pub(super) fn encode(message: &Outgoing, len: usize, row: &mut BytesMut) {
    let optional = |field: &Option<Bytes>| field.as_ref().map_or(0, |bytes| bytes.len() as u32 + 1);
    row.put_u32_le((len - 4) as u32);
    row.put_i64_le(message.timestamp.as_millis());
    row.put_u32_le(optional(&message.key));
    row.put_u32_le(optional(&message.value));
    row.put_u32_le(message.headers.len() as u32);
    row.put_slice(message.key.as_deref().unwrap_or_default());
    row.put_slice(message.value.as_deref().unwrap_or_default());
    row.put_slice(message.headers.encoded());
}

/// Reads the records of one row, in order.
#[derive(Clone, Debug)]
pub(super) struct RowReader {
    row: Bytes,
    at: usize,
    next: Offset,
    end: Offset,
}

impl RowReader {
    /// Opens a row that holds the offsets from `base` to `end` (exclusive).
    pub(super) fn new(row: Bytes, base: Offset, end: Offset) -> Self {
        Self { row, at: 0, next: base, end }
    }

    /// Returns the offset of the record that comes next.
    pub(super) fn position(&self) -> Offset {
        self.next
    }

    /// Returns whether every record was read.
    pub(super) fn is_exhausted(&self) -> bool {
        self.next >= self.end
    }

    /// Passes over the records before `offset`.
    pub(super) fn skip_to(&mut self, offset: Offset) -> Result<(), Malformed> {
        while self.next < offset && !self.is_exhausted() {
            let rest = self.row.get(self.at..).unwrap_or_default();
            let len = rest.first_chunk::<4>().map(|len| u32::from_le_bytes(*len) as usize + 4);
            self.at += len.filter(|len| *len <= rest.len()).ok_or(self.malformed())?;
            self.next += 1;
        }
        Ok(())
    }

    /// Decodes the next record without passing over it; the second value moves the reader past it
    /// (see [`RowReader::advance`]). The fields share the row's memory.
    pub(super) fn peek(&self, topic: &Topic, partition: Partition) -> Result<(Message, Step), Malformed> {
        let mut fields = Fields { row: &self.row, at: self.at };
        let message = fields.message(topic, partition, self.next).ok_or(self.malformed())?;
        Ok((message, Step(fields.at)))
    }

    /// Passes over the record that [`RowReader::peek`] returned with this step.
    pub(super) fn advance(&mut self, step: Step) {
        self.at = step.0;
        self.next += 1;
    }

    fn malformed(&self) -> Malformed {
        Malformed { at: self.at, len: self.row.len() }
    }
}

/// Where the record after a peeked one begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step(usize);

struct Fields<'a> {
    row: &'a Bytes,
    at: usize,
}

impl Fields<'_> {
    fn message(&mut self, topic: &Topic, partition: Partition, offset: Offset) -> Option<Message> {
        let len = self.u32()? as usize;
        let end = self.at.checked_add(len).filter(|end| *end <= self.row.len())?;
        let timestamp = i64::from_le_bytes(self.array()?);
        let key_len = self.u32()?;
        let value_len = self.u32()?;
        let header_count = self.u32()? as usize;
        let key = self.optional(key_len)?;
        let value = self.optional(value_len)?;
        let headers = Headers::decode(header_count, self.bytes(end.checked_sub(self.at)?)?)?;
        let timestamp = Timestamp::from_millis(timestamp);
        let message = Message { topic: topic.clone(), partition, offset, key, value, headers, timestamp };
        Some(message)
    }

    fn optional(&mut self, len_plus_one: u32) -> Option<Option<Bytes>> {
        match len_plus_one {
            0 => Some(None),
            n => self.bytes(n as usize - 1).map(Some),
        }
    }

    fn bytes(&mut self, len: usize) -> Option<Bytes> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.row.len())?;
        let bytes = if len == 0 { Bytes::new() } else { self.row.slice(self.at..end) };
        self.at = end;
        Some(bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.row.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(array)
    }
}

#[cfg(test)]
mod tests {
    use driftline_types::wire;
    use proptest::prelude::*;

    use super::*;

    fn topic() -> Topic {
        Topic::try_new("t").unwrap()
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![Just(wire::CE_ID.to_owned()), "\\PC{0,12}"]
    }

    fn outgoing() -> impl Strategy<Value = Outgoing> {
        let headers = prop::collection::vec((name(), bytes()), 0..6);
        (prop::option::of(bytes()), prop::option::of(bytes()), headers, any::<i64>()).prop_map(
            |(key, value, pairs, ms)| {
                let mut headers = Headers::default();
                for (name, value) in pairs {
                    headers.push(&name, value);
                }
                let timestamp = Timestamp::from_millis(ms);
                Outgoing { topic: topic(), partition: None, key, value, headers, timestamp }
            },
        )
    }

    fn row_of(messages: &[Outgoing]) -> Bytes {
        let mut row = BytesMut::new();
        for message in messages {
            encode(message, encoded_len(message), &mut row);
        }
        row.freeze()
    }

    proptest! {
        #[test]
        fn a_row_round_trips_from_any_offset(messages in prop::collection::vec(outgoing(), 1..6), skip in 0_usize..6) {
            let row = row_of(&messages);
            prop_assert_eq!(row.len(), messages.iter().map(encoded_len).sum::<usize>());
            let mut reader = RowReader::new(row, 10, 10 + messages.len() as u64);
            reader.skip_to(10 + skip as u64).unwrap();
            for (i, sent) in messages.iter().enumerate().skip(skip) {
                prop_assert!(!reader.is_exhausted());
                let (read, step) = reader.peek(&topic(), 3).unwrap();
                prop_assert_eq!(read.offset, 10 + i as u64);
                prop_assert_eq!(&read.key, &sent.key);
                prop_assert_eq!(&read.value, &sent.value);
                prop_assert_eq!(&read.headers, &sent.headers);
                prop_assert_eq!(read.timestamp, sent.timestamp);
                reader.advance(step);
            }
            prop_assert!(reader.is_exhausted());
        }

        #[test]
        fn any_bytes_are_a_record_or_malformed(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut reader = RowReader::new(bytes.into(), 0, 2);
            if let Ok((_, step)) = reader.peek(&topic(), 0) {
                reader.advance(step);
                let _ = reader.peek(&topic(), 0);
            }
        }

        #[test]
        fn a_cut_record_is_malformed(message in outgoing(), cut in any::<prop::sample::Index>()) {
            let row = row_of(&[message]);
            let reader = RowReader::new(row.slice(..cut.index(row.len())), 0, 1);
            prop_assert!(reader.peek(&topic(), 0).is_err());
        }
    }

    /// Pins the format: a change of this row is a new format version.
    #[test]
    fn the_layout_is_as_documented() {
        let mut headers = Headers::default();
        headers.push(wire::CE_ID, Bytes::from_static(b"id"));
        headers.push("x", Bytes::new());
        let message = Outgoing {
            topic: topic(),
            partition: None,
            key: Some(Bytes::from_static(b"k")),
            value: None,
            headers,
            timestamp: Timestamp::from_millis(258),
        };
        let expected = [
            38, 0, 0, 0, // length of the rest
            2, 1, 0, 0, 0, 0, 0, 0, // timestamp
            2, 0, 0, 0, // key of one byte
            0, 0, 0, 0, // tombstone
            2, 0, 0, 0, // two headers
            b'k', 2, 2, 0, 0, 0, b'i', b'd', // key; ce_id, its value
            0, 1, 0, 0, 0, b'x', 0, 0, 0, 0, // a name of its own, an empty value
        ];
        assert_eq!(row_of(&[message])[..], expected);
    }
}
