//! The values of a category that its dictionary does not hold: which, how often, how many.
//!
//! Space Saving and other counter sketches depend on the order of the stream and of the merges, so
//! two replicas would disagree about the same records. Here instead:
//!
//! - **Which and how often**: the 32 values with the smallest hash, each with its exact count. A
//!   value that is among the 32 smallest of all is among the 32 smallest of every part, from its
//!   first record on, so its count misses nothing and the union is exact for any split (bottom-k
//!   sampling: Cohen, Kaplan 2007). Up to 32 new values this is all of them. Beyond, it is a uniform
//!   sample of the new *values*: with d of them, each is listed with probability 32/d, however
//!   frequent. The mass of all new values is never sampled: it is the count of OTHER.
//! - **How many**: exact up to 32, then `HyperLogLog` with 256 registers, whose merge is a maximum
//!   and so exact; standard error 1.04/√256 = 6.5 % (Flajolet, Fusy, Gandouet, Meunier 2007).

use xxhash_rust::xxh3::xxh3_64;

use crate::{
    DecodeError,
    category::{MAX_VALUE, cut},
    wire::{Reader, Writer},
};

/// The most new values that are listed.
pub const SAMPLE: usize = 32;
const REGISTERS: usize = 256;
const REGISTER_BITS: u32 = REGISTERS.ilog2();
/// The highest rank a register can hold: all of the bits that do not choose the register, plus one.
const MAX_RANK: u8 = (64 - REGISTER_BITS + 1) as u8;

/// A sample of the values outside a dictionary with exact counts, and an estimate of their number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewValues {
    /// Ascending by hash, then value: the smallest [`SAMPLE`] of all seen.
    sample: Vec<Sampled>,
    /// Present from the value on that did not fit the sample.
    registers: Option<Box<[u8; REGISTERS]>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Sampled {
    hash: u64,
    value: Box<str>,
    count: u64,
}

impl Sampled {
    fn key(&self) -> (u64, &str) {
        (self.hash, &self.value)
    }
}

impl NewValues {
    /// Counts `value`, whose hash is `hash`.
    pub(crate) fn add(&mut self, value: &str, hash: u64, count: u64) {
        if let Some(registers) = &mut self.registers {
            register(registers, hash);
            // Cheap way out for nearly all values once the sample is full of small hashes.
            if self.sample.len() == SAMPLE && self.sample.last().is_some_and(|last| hash > last.hash) {
                return;
            }
        }
        match self.sample.binary_search_by(|held| held.key().cmp(&(hash, value))) {
            Ok(at) => self.sample[at].count = self.sample[at].count.saturating_add(count),
            Err(at) => {
                self.sample.insert(at, Sampled { hash, value: value.into(), count });
                if self.sample.len() > SAMPLE {
                    self.registers.get_or_insert_with(|| registers_of(&self.sample));
                    self.sample.pop();
                }
            }
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if let Some(theirs) = &other.registers {
            let ours = self.registers.get_or_insert_with(|| registers_of(&self.sample));
            for (ours, theirs) in ours.iter_mut().zip(theirs.iter()) {
                *ours = (*ours).max(*theirs);
            }
        }
        for Sampled { hash, value, count } in &other.sample {
            self.add(value, *hash, *count);
        }
    }

    /// Returns the values of the sample with their exact counts, in the order of their hashes.
    pub fn sample(&self) -> impl Iterator<Item = (&str, u64)> {
        self.sample.iter().map(|held| (&*held.value, held.count))
    }

    /// Says whether the sample holds every new value.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.registers.is_none()
    }

    /// Returns the number of different new values: exact while the sample is complete, else
    /// estimated with a standard error of 6.5 %.
    #[must_use]
    pub fn distinct(&self) -> f64 {
        let Some(registers) = &self.registers else { return self.sample.len() as f64 };
        let m = REGISTERS as f64;
        let raw =
            0.7213 / (1.0 + 1.079 / m) * m * m / registers.iter().map(|&rank| (-f64::from(rank)).exp2()).sum::<f64>();
        let empty = registers.iter().filter(|&&rank| rank == 0).count();
        // Linear counting where the raw estimate is biased (Flajolet et al. 2007, figure 3).
        if raw <= 2.5 * m && empty > 0 { m * (m / empty as f64).ln() } else { raw }
    }

    /// Writes the sample, and the registers above their least: two to a byte where they fit.
    pub(crate) fn encode(&self, out: &mut Writer) {
        out.varint((self.sample.len() as u64) << 1 | u64::from(self.registers.is_some()));
        for held in &self.sample {
            out.text(&held.value);
            out.varint(held.count);
        }
        if let Some(registers) = &self.registers {
            let least = registers.iter().copied().min().unwrap_or(0);
            let narrow = registers.iter().all(|&rank| rank - least < 16);
            out.byte(least << 1 | u8::from(narrow));
            for pair in registers.chunks_exact(2) {
                if narrow {
                    out.byte((pair[0] - least) << 4 | (pair[1] - least));
                } else {
                    out.bytes(&[pair[0] - least, pair[1] - least]);
                }
            }
        }
    }

    pub(crate) fn decode(bytes: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let head = bytes.size("size of a sample", SAMPLE << 1 | 1)?;
        let mut sample: Vec<Sampled> = Vec::with_capacity(head >> 1);
        for _ in 0..head >> 1 {
            let value = bytes.text("new value")?;
            if cut(value).len() < value.len() {
                return Err(bytes.value_error("new value", &value, format!("up to {MAX_VALUE} bytes")));
            }
            let hash = xxh3_64(value.as_bytes());
            if sample.last().is_some_and(|last| last.key() >= (hash, value)) {
                return Err(bytes.value_error("new value", &value, "values in the order of their hashes"));
            }
            let count = bytes.varint("count of a new value")?;
            if count == 0 {
                return Err(bytes.value_error("count of a new value", &count, "1 or more"));
            }
            sample.push(Sampled { hash, value: value.into(), count });
        }
        let registers = if head & 1 == 1 { Some(decode_registers(bytes, &sample)?) } else { None };
        Ok(Self { sample, registers })
    }
}

fn decode_registers(bytes: &mut Reader<'_>, sample: &[Sampled]) -> Result<Box<[u8; REGISTERS]>, DecodeError> {
    if sample.len() < SAMPLE {
        return Err(bytes.value_error("size of a full sample", &sample.len(), SAMPLE.to_string()));
    }
    let head = bytes.byte("least register")?;
    let (least, narrow) = (head >> 1, head & 1 == 1);
    let mut registers = Box::new([0u8; REGISTERS]);
    if narrow {
        for (pair, byte) in registers.chunks_exact_mut(2).zip(bytes.take(REGISTERS / 2, "registers")?) {
            pair.copy_from_slice(&[byte >> 4, byte & 15]);
        }
    } else {
        registers.copy_from_slice(bytes.take(REGISTERS, "registers")?);
    }
    let lowest = registers.iter().copied().min().unwrap_or(0);
    let highest = registers.iter().copied().max().unwrap_or(0);
    if lowest != 0 || (highest < 16) != narrow || least.saturating_add(highest) > MAX_RANK {
        return Err(bytes.value_error(
            "registers",
            &format!("{least} and {lowest} to {highest} above it"),
            format!("0 to {MAX_RANK} in their shortest form"),
        ));
    }
    registers.iter_mut().for_each(|rank| *rank += least);
    Ok(registers)
}

fn registers_of(sample: &[Sampled]) -> Box<[u8; REGISTERS]> {
    let mut registers = Box::new([0; REGISTERS]);
    sample.iter().for_each(|held| register(&mut registers, held.hash));
    registers
}

/// Raises the register that the low bits of `hash` choose to the rank of its other bits. The order
/// of the sample is that of the high bits, so ranks count from the low end.
fn register(registers: &mut [u8; REGISTERS], hash: u64) {
    let rank = ((hash >> REGISTER_BITS).trailing_zeros() as u8 + 1).min(MAX_RANK);
    let held = &mut registers[hash as usize & (REGISTERS - 1)];
    *held = (*held).max(rank);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u32>) -> NewValues {
        let mut all = NewValues::default();
        for value in values {
            let value = format!("value {value}");
            all.add(&value, xxh3_64(value.as_bytes()), 1);
        }
        all
    }

    #[test]
    fn a_short_sample_takes_what_a_full_one_brings() {
        let mut short = of(0..20);
        short.merge(&of(0..100));
        let mut full = of(0..100);
        full.merge(&of(0..20));
        assert_eq!(short, full);
        assert_eq!(short.sample().count(), SAMPLE);
    }

    #[test]
    fn counts_are_exact_and_few_values_complete() {
        let all = of((0..30).flat_map(|value| std::iter::repeat_n(value, value as usize + 1)));
        assert!(all.is_complete());
        assert_eq!(all.distinct(), 30.0);
        for (value, count) in all.sample() {
            assert_eq!(value, format!("value {}", count - 1));
        }
    }

    #[test]
    fn many_values_are_estimated_within_four_standard_errors() {
        for n in [33, 100, 300, 1_000, 10_000, 200_000] {
            let estimate = of(0..n).distinct();
            let error = estimate / f64::from(n) - 1.0;
            assert!(error.abs() < 4.0 * 0.065, "{estimate} for {n}");
        }
    }
}
