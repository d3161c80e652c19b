//! The bytes of profiles: variable-length integers, trimmed floats and runs of zeros left out.
//!
//! Each value has exactly one encoding, so equal profiles are equal bytes. Reading never panics and
//! never allocates more than a fixed multiple of the bytes it was given.
//!
//! | item | bytes |
//! |---|---|
//! | varint | LEB128, shortest form, up to 128 bits |
//! | signed | zigzag, then varint |
//! | float | count of its leading non-zero bytes, then these, big-endian |
//! | text | varint length, UTF-8 |
//! | counts | varint number of non-zero cells; for each `2 · count + g`, where g = 1 if zeros come before it, then followed by how many less one |

use crate::{DecodeError, DecodeProblem, ReferenceId};

/// Appends items to a buffer.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn varint(&mut self, value: u64) {
        self.wide(u128::from(value));
    }

    pub(crate) fn wide(&mut self, mut value: u128) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn signed(&mut self, value: i128) {
        self.wide(((value << 1) ^ (value >> 127)) as u128);
    }

    pub(crate) fn float(&mut self, value: f64) {
        let bytes = value.to_bits().to_be_bytes();
        let length = 8 - (value.to_bits().trailing_zeros() / 8) as usize;
        self.byte(length as u8);
        self.bytes(&bytes[..length]);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.varint(text.len() as u64);
        self.bytes(text.as_bytes());
    }

    /// Writes the non-zero ones of `(cell, count)`, cells ascending.
    pub(crate) fn counts(&mut self, cells: impl Iterator<Item = (u64, u64)> + Clone) {
        let cells = cells.filter(|&(_, count)| count > 0);
        self.varint(cells.clone().count() as u64);
        let mut next = 0;
        for (cell, count) in cells {
            let zeros = cell - next;
            self.wide(u128::from(count) << 1 | u128::from(zeros > 0));
            if zeros > 0 {
                self.varint(zeros - 1);
            }
            next = cell + 1;
        }
    }
}

/// Takes items from bytes.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn error(&self, problem: DecodeProblem) -> DecodeError {
        DecodeError { at: self.at, problem }
    }

    pub(crate) fn value_error(
        &self,
        what: &'static str,
        found: &dyn std::fmt::Display,
        allowed: impl Into<String>,
    ) -> DecodeError {
        self.error(DecodeProblem::Value { what, found: found.to_string(), allowed: allowed.into() })
    }

    pub(crate) fn take(&mut self, length: usize, expected: &'static str) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else { return Err(self.error(DecodeProblem::Truncated { expected })) };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self, expected: &'static str) -> Result<u8, DecodeError> {
        Ok(self.take(1, expected)?[0])
    }

    pub(crate) fn wide(&mut self, expected: &'static str) -> Result<u128, DecodeError> {
        let mut value = 0u128;
        let mut shift = 0;
        loop {
            let byte = self.byte(expected)?;
            let part = u128::from(byte & 0x7f);
            if shift > 126 || (shift == 126 && part > 3) {
                return Err(self.error(DecodeProblem::Number));
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err(self.error(DecodeProblem::Number)) } else { Ok(value) };
            }
            shift += 7;
        }
    }

    pub(crate) fn varint(&mut self, expected: &'static str) -> Result<u64, DecodeError> {
        u64::try_from(self.wide(expected)?).map_err(|_| self.error(DecodeProblem::Number))
    }

    pub(crate) fn signed(&mut self, expected: &'static str) -> Result<i128, DecodeError> {
        let value = self.wide(expected)?;
        Ok((value >> 1) as i128 ^ -((value & 1) as i128))
    }

    /// Reads a varint of at most `max`.
    pub(crate) fn size(&mut self, what: &'static str, max: usize) -> Result<usize, DecodeError> {
        let found = self.varint(what)?;
        match usize::try_from(found) {
            Ok(size) if size <= max => Ok(size),
            _ => Err(self.value_error(what, &found, format!("0 to {max}"))),
        }
    }

    pub(crate) fn float(&mut self, expected: &'static str) -> Result<f64, DecodeError> {
        let length = self.byte(expected)?;
        if length > 8 {
            return Err(self.value_error("length of a float", &length, "0 to 8"));
        }
        let taken = self.take(usize::from(length), expected)?;
        if taken.last() == Some(&0) {
            return Err(self.error(DecodeProblem::Number));
        }
        let mut bytes = [0; 8];
        bytes[..taken.len()].copy_from_slice(taken);
        Ok(f64::from_bits(u64::from_be_bytes(bytes)))
    }

    pub(crate) fn text(&mut self, what: &'static str) -> Result<&'a str, DecodeError> {
        let length = self.size(what, self.bytes.len())?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|_| self.value_error(what, &String::from_utf8_lossy(bytes), "UTF-8"))
    }

    pub(crate) fn reference(&mut self) -> Result<ReferenceId, DecodeError> {
        let mut id = [0; 8];
        id.copy_from_slice(self.take(8, "reference id")?);
        Ok(ReferenceId::from_bytes(id))
    }

    /// Reads counts of cells below `cells` and hands each non-zero one to `each`.
    pub(crate) fn counts(
        &mut self,
        what: &'static str,
        cells: u64,
        mut each: impl FnMut(u64, u64),
    ) -> Result<(), DecodeError> {
        let mut next = 0u64;
        for _ in 0..self.varint(what)? {
            let token = self.wide(what)?;
            let Ok(count) = u64::try_from(token >> 1) else { return Err(self.error(DecodeProblem::Number)) };
            let zeros = if token & 1 == 1 { self.varint(what)?.saturating_add(1) } else { 0 };
            let cell = next.saturating_add(zeros);
            if count == 0 || cell >= cells {
                return Err(self.value_error(
                    what,
                    &format!("{count} in cell {cell}"),
                    format!("1 or more in cells below {cells}"),
                ));
            }
            each(cell, count);
            next = cell + 1;
        }
        Ok(())
    }

    /// Succeeds if all bytes were read.
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            rest => Err(self.value_error("number of bytes after the profile", &rest, "0")),
        }
    }
}
