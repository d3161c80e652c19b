//! The headers of a message, in one piece of memory.
//!
//! A message of ours has a dozen headers of a few bytes each. As one run of bytes they cost one reference instead of a
//! dozen, messages of a batch share a buffer for them, and the embedded log stores them as they are. All integers
//! are little-endian. A header:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | `u8` place of the name in the table of known names + 1; 0 if the name follows |
//! | 4 + n | only after 0: `u32` length of the name, the name in UTF-8 |
//! | 4 + n | `u32` length of the value, the value |

use std::{
    fmt::{self, Display, Write as _},
    iter::FusedIterator,
};

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire;

/// Written once, and still in logs.
const RETIRED: &str = "driftline-code";

/// Names written as one byte. Part of the format of logs: append only.
const KNOWN_NAMES: [&str; 14] = [
    wire::CE_SPECVERSION,
    wire::CE_ID,
    wire::CE_SOURCE,
    wire::CE_TYPE,
    wire::CE_TIME,
    wire::CONTENT_TYPE,
    wire::TRACEPARENT,
    wire::TRACESTATE,
    wire::PARENTS,
    wire::VERSIONS,
    wire::TIMINGS,
    wire::INGESTED,
    RETIRED,
    wire::PROBE,
];

/// Returns the place of a name in the table. A match, which costs nothing where the name is a constant; a search would.
#[inline]
fn place(name: &str) -> Option<u8> {
    Some(match name {
        wire::CE_SPECVERSION => 0,
        wire::CE_ID => 1,
        wire::CE_SOURCE => 2,
        wire::CE_TYPE => 3,
        wire::CE_TIME => 4,
        wire::CONTENT_TYPE => 5,
        wire::TRACEPARENT => 6,
        wire::TRACESTATE => 7,
        wire::PARENTS => 8,
        wire::VERSIONS => 9,
        wire::TIMINGS => 10,
        wire::INGESTED => 11,
        RETIRED => 12,
        wire::PROBE => 13,
        _ => return None,
    })
}

/// The bit of all names that are not in the table.
const OTHER: u16 = 1 << 15;
const _: () = assert!(KNOWN_NAMES.len() < 16, "each known name has a bit of its own");

/// The bit of a name, by its place in the table.
#[inline]
fn bit(place: Option<u8>) -> u16 {
    place.map_or(OTHER, |place| 1_u16 << place)
}

/// Headers in order; a name may repeat, as on Kafka. Name and value are each shorter than 4 GiB.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    count: usize,
    payload_bytes: usize,
    /// The bits of the names that are there: most of the names asked for are not.
    present: u16,
    encoded: Bytes,
}

impl Headers {
    /// Begins headers at the end of a buffer, which must be empty.
    #[inline]
    pub fn writer(buffer: &mut BytesMut) -> HeaderWriter<'_> {
        HeaderWriter { buffer, count: 0, payload_bytes: 0, present: 0 }
    }

    /// Takes back `count` headers from what [`Headers::encoded`] returned; `None` if the bytes are no such thing.
    #[must_use]
    pub fn decode(count: usize, encoded: Bytes) -> Option<Self> {
        let mut headers = Iter { rest: &encoded, left: count };
        let (mut payload_bytes, mut present) = (0, 0);
        while let Some(&code) = headers.rest.first() {
            let Some((name, value)) = headers.next() else { break };
            payload_bytes += name.len() + value.len();
            // A name that was written out may have come into the table since.
            present |= bit(code.checked_sub(1).or_else(|| place(name)));
        }
        (headers.left == 0 && headers.rest.is_empty()).then_some(Self { count, payload_bytes, present, encoded })
    }

    /// Returns all headers as the log keeps them.
    #[must_use]
    #[inline]
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// Appends a header. [`Headers::writer`] writes many without copying those before.
    pub fn push(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let shared = std::mem::take(&mut self.encoded);
        let mut buffer = shared.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let Self { count, payload_bytes, present, .. } = *self;
        let mut writer = HeaderWriter { buffer: &mut buffer, count, payload_bytes, present };
        writer.push(name, value);
        *self = writer.finish();
    }

    /// Replaces the values of a name, or appends it.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        if self.get(name).is_some() {
            self.retain(|other| other != name);
        }
        self.push(name, value);
    }

    /// Returns the last value of a name, or `None`.
    #[must_use]
    #[inline]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        if self.present & bit(place(name)) == 0 { None } else { self.last(name) }
    }

    fn last(&self, name: &str) -> Option<&[u8]> {
        self.iter().filter(|(other, _)| *other == name).last().map(|(_, value)| value)
    }

    /// Returns the last value of a name as text, or `None` if it is absent or not UTF-8.
    #[must_use]
    #[inline]
    pub fn get_str(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// Removes every header whose name fails `keep`.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        let mut buffer = BytesMut::with_capacity(self.encoded.len());
        let mut writer = Self::writer(&mut buffer);
        for (name, value) in self.iter().filter(|(name, _)| keep(name)) {
            writer.push(name, value);
        }
        *self = writer.finish();
    }

    /// Visits the headers in order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        Iter { rest: &self.encoded, left: self.count }
    }

    /// Returns the number of headers.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether there is no header.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the number of bytes that names and values hold.
    #[must_use]
    #[inline]
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, value.escape_ascii().to_string()))).finish()
    }
}

/// Writes headers one after the other.
pub struct HeaderWriter<'a> {
    buffer: &'a mut BytesMut,
    count: usize,
    payload_bytes: usize,
    present: u16,
}

impl HeaderWriter<'_> {
    /// Appends a header.
    pub fn push(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.name(name);
        self.buffer.put_u32_le(value.len() as u32);
        self.buffer.put_slice(value);
        self.payload_bytes += value.len();
    }

    /// Appends a header whose value is the text of something.
    pub fn push_text(&mut self, name: &str, value: impl Display) {
        self.push_with(name, |buffer| {
            // Writing to a buffer that grows cannot fail.
            let _ = write!(buffer, "{value}");
        });
    }

    /// Appends a header whose value is what `write` appends to the buffer.
    pub(crate) fn push_with(&mut self, name: &str, write: impl FnOnce(&mut BytesMut)) {
        self.name(name);
        let length = self.buffer.len();
        self.buffer.put_u32_le(0);
        let start = self.buffer.len();
        write(self.buffer);
        let written = self.buffer.len() - start;
        self.buffer[length..start].copy_from_slice(&(written as u32).to_le_bytes());
        self.payload_bytes += written;
    }

    #[inline]
    fn name(&mut self, name: &str) {
        let known = place(name);
        match known {
            Some(place) => self.buffer.put_u8(place + 1),
            None => {
                self.buffer.put_u8(0);
                self.buffer.put_u32_le(name.len() as u32);
                self.buffer.put_slice(name.as_bytes());
            }
        }
        self.count += 1;
        self.payload_bytes += name.len();
        self.present |= bit(known);
    }

    /// Takes the headers out of the buffer.
    #[must_use]
    #[inline]
    pub fn finish(self) -> Headers {
        let Self { buffer, count, payload_bytes, present } = self;
        Headers { count, payload_bytes, present, encoded: buffer.split().freeze() }
    }
}

/// Ends early where the bytes are no headers.
struct Iter<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iter<'a> {
    #[inline]
    fn header(&self) -> Option<(&'a str, &'a [u8], &'a [u8])> {
        let (&code, rest) = self.rest.split_first()?;
        let (name, rest) = match code.checked_sub(1) {
            Some(place) => (*KNOWN_NAMES.get(usize::from(place))?, rest),
            None => {
                let (name, rest) = counted(rest)?;
                (std::str::from_utf8(name).ok()?, rest)
            }
        };
        let (value, rest) = counted(rest)?;
        Some((name, value, rest))
    }
}

/// Splits off bytes that stand after their number.
#[inline]
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let (name, value, rest) = self.header()?;
        (self.rest, self.left) = (rest, self.left - 1);
        Some((name, value))
    }
}

impl FusedIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
        let name = prop_oneof![prop::sample::select(&KNOWN_NAMES[..]).prop_map(str::to_owned), "[a-zä-]{0,12}"];
        prop::collection::vec((name, prop::collection::vec(any::<u8>(), 0..20)), 0..8)
    }

    proptest! {
        #[test]
        fn headers_are_what_was_pushed_and_survive_the_log(pairs in pairs()) {
            let mut headers = Headers::default();
            let mut buffer = BytesMut::new();
            let mut writer = Headers::writer(&mut buffer);
            for (name, value) in &pairs {
                headers.push(name, value);
                writer.push(name, value);
            }
            prop_assert_eq!(&writer.finish(), &headers);
            let read: Vec<_> = headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
            prop_assert_eq!(&read, &pairs);
            prop_assert_eq!(headers.len(), pairs.len());
            prop_assert_eq!(headers.payload_bytes(), pairs.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>());
            for name in pairs.iter().map(|(name, _)| name.as_str()).chain(KNOWN_NAMES).chain(["x"]) {
                let last = pairs.iter().rfind(|(other, _)| other == name).map(|(_, value)| &value[..]);
                prop_assert_eq!(headers.get(name), last);
            }
            prop_assert_eq!(Headers::decode(headers.len(), headers.encoded().clone()), Some(headers));
        }

        #[test]
        fn any_bytes_are_headers_or_refused(count in 0_usize..5, bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let bytes = Bytes::from(bytes);
            if let Some(headers) = Headers::decode(count, bytes.clone()) {
                prop_assert_eq!(headers.iter().count(), count);
                prop_assert_eq!(headers.encoded(), &bytes);
            }
        }

        #[test]
        fn what_is_set_is_there_once(pairs in pairs(), value in prop::collection::vec(any::<u8>(), 0..9)) {
            let mut headers = Headers::default();
            for (name, value) in &pairs {
                headers.push(name, value);
            }
            headers.set("x", &value);
            prop_assert_eq!(headers.get("x"), Some(&value[..]));
            prop_assert_eq!(headers.iter().filter(|(name, _)| *name == "x").count(), 1);
            headers.retain(|name| name != "x");
            prop_assert_eq!(headers.get("x"), None);
        }
    }

    #[test]
    fn each_known_name_has_its_place_in_the_table() {
        for (at, name) in KNOWN_NAMES.iter().enumerate() {
            assert_eq!(place(name).map(usize::from), Some(at), "{name}");
        }
    }

    #[test]
    fn a_name_that_was_written_out_before_it_was_known_is_found() {
        let headers = Headers::decode(1, Bytes::from_static(b"\0\x05\0\0\0ce_id\x01\0\0\0x")).unwrap();
        assert_eq!(headers.get(wire::CE_ID), Some(&b"x"[..]));
        assert_eq!(headers.get("other"), None);
    }

    #[test]
    fn the_layout_is_fixed() {
        let mut headers = Headers::default();
        headers.push(wire::CE_ID, "id");
        headers.push("x", "");
        assert_eq!(&headers.encoded()[..], [2, 2, 0, 0, 0, b'i', b'd', 0, 1, 0, 0, 0, b'x', 0, 0, 0, 0]);
    }
}
