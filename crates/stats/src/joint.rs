//! Input code × output code of one stage: how often a record of one cell became one of another.
//!
//! A record that gave several outputs counts once for each, one that gave none counts as
//! [`DROPPED`]. Only pairs that occurred take memory and bytes; merging adds integers.

use driftline_types::Code;

use crate::{
    DecodeError, MergeError, ReferenceId,
    wire::{Reader, Writer},
};

/// The output code of a record that the stage dropped.
pub const DROPPED: Code = Code::MAX;
/// The code of a record that carries none, such as one written by a foreign producer.
pub const UNKNOWN: Code = Code::MAX - 1;

/// A table of counts by input and output code, of codes that two references define.
#[derive(Clone, Debug)]
pub struct JointProfile {
    input: ReferenceId,
    output: ReferenceId,
    /// Open addressing by pair, at most half full; a count of zero marks a free place.
    table: Vec<(u32, u64)>,
    used: usize,
}

impl JointProfile {
    /// Makes an empty table for input and output codes of these references.
    #[must_use]
    pub fn new(input: ReferenceId, output: ReferenceId) -> Self {
        Self { input, output, table: vec![(0, 0); 64], used: 0 }
    }

    /// Counts one pair. Without a code the input is [`UNKNOWN`]; a dropped record has the output
    /// [`DROPPED`].
    #[inline]
    pub fn observe(&mut self, input: Code, output: Code) {
        self.add(pair(input, output), 1);
    }

    #[inline]
    fn add(&mut self, key: u32, count: u64) {
        let mask = self.table.len() - 1;
        let mut at = place(key, mask);
        loop {
            let (held, n) = &mut self.table[at];
            if *n == 0 {
                break;
            }
            if *held == key {
                *n = n.saturating_add(count);
                return;
            }
            at = (at + 1) & mask;
        }
        self.table[at] = (key, count);
        self.used += 1;
        if self.used * 2 > self.table.len() {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let larger = vec![(0, 0); self.table.len() * 2];
        self.used = 0;
        for (key, count) in std::mem::replace(&mut self.table, larger) {
            if count > 0 {
                self.add(key, count);
            }
        }
    }

    /// Adds another table.
    ///
    /// # Errors
    /// If their codes come from different references; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        for (left, right) in [(self.input, other.input), (self.output, other.output)] {
            if left != right {
                return Err(MergeError::Reference { left, right });
            }
        }
        other.table.iter().filter(|cell| cell.1 > 0).for_each(|&(key, count)| self.add(key, count));
        Ok(())
    }

    /// Forgets all pairs.
    pub fn clear(&mut self) {
        self.table.fill((0, 0));
        self.used = 0;
    }

    /// Returns the reference of the input codes.
    #[must_use]
    pub fn input(&self) -> ReferenceId {
        self.input
    }

    /// Returns the reference of the output codes.
    #[must_use]
    pub fn output(&self) -> ReferenceId {
        self.output
    }

    /// Returns the count of a pair.
    #[must_use]
    pub fn count(&self, input: Code, output: Code) -> u64 {
        let (key, mask) = (pair(input, output), self.table.len() - 1);
        let mut at = place(key, mask);
        loop {
            match self.table[at] {
                (_, 0) => return 0,
                (held, count) if held == key => return count,
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Returns the pairs that occurred with their counts, ascending by input, then output.
    #[must_use]
    pub fn pairs(&self) -> Vec<(Code, Code, u64)> {
        let mut cells: Vec<(u32, u64)> = self.table.iter().copied().filter(|cell| cell.1 > 0).collect();
        cells.sort_unstable();
        cells.into_iter().map(|(key, count)| ((key >> 16) as Code, key as Code, count)).collect()
    }

    /// Returns the number of pairs counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.table.iter().fold(0, |sum, &(_, count)| sum.saturating_add(count))
    }

    /// Returns the number of pairs whose record was dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let dropped = self.table.iter().filter(|cell| cell.0 as Code == DROPPED);
        dropped.fold(0, |sum, &(_, count)| sum.saturating_add(count))
    }

    /// Writes the references, then the rows. Codes are shifted by two with overflow, so that
    /// unknown is 0 and dropped 1 and both stay short.
    pub(crate) fn encode(&self, out: &mut Writer) {
        out.bytes(&self.input.to_bytes());
        out.bytes(&self.output.to_bytes());
        let mut cells: Vec<(u64, u64, u64)> =
            self.pairs().into_iter().map(|(x, y, count)| (shift(x), shift(y), count)).collect();
        cells.sort_unstable();
        let rows = cells.chunk_by(|a, b| a.0 == b.0);
        out.varint(rows.clone().count() as u64);
        let mut next = 0;
        for row in rows {
            out.varint(row[0].0 - next);
            next = row[0].0 + 1;
            out.counts(row.iter().map(|&(_, y, count)| (y, count)));
        }
    }

    pub(crate) fn decode(bytes: &mut Reader<'_>) -> Result<Self, DecodeError> {
        const CODES: u64 = 1 << 16;
        let mut joint = Self::new(bytes.reference()?, bytes.reference()?);
        let mut next = 0u64;
        for _ in 0..bytes.varint("number of rows")? {
            let row = bytes.varint("row of a joint")?.saturating_add(next);
            if row >= CODES {
                return Err(bytes.value_error("row of a joint", &row, format!("below {CODES}")));
            }
            let before = joint.used;
            bytes
                .counts("count of a pair", CODES, |cell, count| joint.add(pair(unshift(row), unshift(cell)), count))?;
            if joint.used == before {
                return Err(bytes.value_error("number of pairs in a row", &0, "1 or more"));
            }
            next = row + 1;
        }
        Ok(joint)
    }
}

/// Equal references and equal counts, wherever the table keeps them.
impl PartialEq for JointProfile {
    fn eq(&self, other: &Self) -> bool {
        (self.input, self.output) == (other.input, other.output) && self.pairs() == other.pairs()
    }
}

fn pair(input: Code, output: Code) -> u32 {
    u32::from(input) << 16 | u32::from(output)
}

fn shift(code: Code) -> u64 {
    u64::from(code.wrapping_add(2))
}

fn unshift(shifted: u64) -> Code {
    (shifted as Code).wrapping_sub(2)
}

/// Spreads pairs by the golden ratio (Knuth, volume 3, 6.4).
#[inline]
fn place(key: u32, mask: usize) -> usize {
    (u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_counted_beyond_the_first_table() {
        let mut joint = JointProfile::new(ReferenceId::DECLARED, ReferenceId::DECLARED);
        for i in 0..100_000u32 {
            joint.observe((i % 256) as Code, if i % 10 == 0 { DROPPED } else { (i % 251) as Code });
        }
        assert_eq!((joint.total(), joint.dropped()), (100_000, 10_000));
        let expected = (0..100_000u32).filter(|i| i % 256 == 5 && i % 251 == 7 && i % 10 != 0).count() as u64;
        assert_eq!(joint.count(5, 7), expected);
        assert_eq!(joint.count(300, 7), 0);
        assert!(joint.pairs().is_sorted());
    }

    #[test]
    fn tables_of_other_codes_are_refused() {
        let other = ReferenceId::of(b"other");
        let mut joint = JointProfile::new(ReferenceId::DECLARED, ReferenceId::DECLARED);
        let error = joint.merge(&JointProfile::new(ReferenceId::DECLARED, other)).unwrap_err();
        let expected = format!("profiles differ in reference: declared and {other}, allowed are equal ones");
        assert_eq!(error.to_string(), expected);
    }
}
