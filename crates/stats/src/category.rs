//! The profile of a category: exact counts of the reference's values, and what is new.
//!
//! The dictionary holds up to 255 values of the reference; each has its own count. All else counts
//! as OTHER and goes to [`NewValues`].

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    DecodeError, MergeError, NewValues, ReferenceError,
    edges::MISSING,
    number::{add_counts, cells},
    wire::{Reader, Writer},
};

/// The most values that a dictionary holds.
pub const MAX_DICTIONARY: usize = 255;
/// The slot of values that the dictionary does not hold. Slot 0 is missing, as for numbers.
pub const OTHER: usize = 1;
/// The slot of the first value of the dictionary.
pub const FIRST_VALUE: usize = 2;
/// The most bytes of a value that count; what comes after is cut off.
pub const MAX_VALUE: usize = 64;

/// The values of a category that are counted one by one.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Dictionary {
    values: Box<[Box<str>]>,
    /// Open addressing by hash, at most half full: hash and index of a value, or nothing.
    table: Box<[Option<(u64, u16)>]>,
}

impl Dictionary {
    /// Makes a dictionary; the order of the values is the order of their slots.
    ///
    /// # Errors
    /// If there are more than 255 values, or two are equal in their first 64 bytes.
    pub fn try_new(values: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, ReferenceError> {
        let values: Box<[Box<str>]> = values.into_iter().map(|value| cut(value.as_ref()).into()).collect();
        if values.len() > MAX_DICTIONARY {
            return Err(ReferenceError::DictionarySize { found: values.len(), max: MAX_DICTIONARY });
        }
        let mut table = vec![None; (values.len() * 2).next_power_of_two().max(2)].into_boxed_slice();
        for (index, value) in values.iter().enumerate() {
            let hash = xxh3_64(value.as_bytes());
            let mut at = hash as usize & (table.len() - 1);
            while let Some((_, other)) = table[at] {
                if values[usize::from(other)] == *value {
                    return Err(ReferenceError::DictionaryRepeats { value: value.to_string() });
                }
                at = (at + 1) & (table.len() - 1);
            }
            table[at] = Some((hash, index as u16));
        }
        Ok(Self { values, table })
    }

    /// Returns the values in the order of their slots.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &str> {
        self.values.iter().map(|value| &**value)
    }

    /// Returns the number of slots: missing, OTHER and one for each value.
    #[must_use]
    pub fn slots(&self) -> usize {
        FIRST_VALUE + self.values.len()
    }

    /// Returns the slot of a value.
    #[must_use]
    pub fn slot(&self, value: Option<&str>) -> usize {
        value.map_or(MISSING, |value| {
            let value = cut(value);
            self.hashed_slot(value, xxh3_64(value.as_bytes()))
        })
    }

    fn hashed_slot(&self, value: &str, hash: u64) -> usize {
        if self.values.is_empty() {
            return OTHER;
        }
        let mut at = hash as usize & (self.table.len() - 1);
        while let Some((found, index)) = self.table[at] {
            if found == hash && *self.values[usize::from(index)] == *value {
                return FIRST_VALUE + usize::from(index);
            }
            at = (at + 1) & (self.table.len() - 1);
        }
        OTHER
    }

    pub(crate) fn describe(&self, out: &mut Writer) {
        out.varint(self.values.len() as u64);
        self.values.iter().for_each(|value| out.text(value));
    }
}

/// Equal values in equal order; the table follows from them.
impl PartialEq for Dictionary {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values()).finish()
    }
}

impl fmt::Display for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a dictionary of {} values", self.values.len())
    }
}

impl TryFrom<Vec<String>> for Dictionary {
    type Error = ReferenceError;
    fn try_from(values: Vec<String>) -> Result<Self, ReferenceError> {
        Self::try_new(values)
    }
}

impl From<Dictionary> for Vec<String> {
    fn from(dictionary: Dictionary) -> Self {
        dictionary.values().map(str::to_owned).collect()
    }
}

/// Cuts a value to its first [`MAX_VALUE`] bytes, at the end of a character.
pub(crate) fn cut(value: &str) -> &str {
    if value.len() <= MAX_VALUE { value } else { &value[..value.floor_char_boundary(MAX_VALUE)] }
}

/// Counts of a category on a [`Dictionary`], and a sample of the values outside it.
#[derive(Clone, Debug, PartialEq)]
pub struct CategoryProfile {
    dictionary: Arc<Dictionary>,
    counts: Box<[u64]>,
    new_values: NewValues,
}

impl CategoryProfile {
    /// Makes an empty profile.
    #[must_use]
    pub fn new(dictionary: Arc<Dictionary>) -> Self {
        let counts = vec![0; dictionary.slots()].into();
        Self { dictionary, counts, new_values: NewValues::default() }
    }

    /// Counts one value, `None` as missing, and returns the slot that it fell in.
    #[inline]
    pub fn observe(&mut self, value: Option<&str>) -> usize {
        let slot = match value.map(cut) {
            None => MISSING,
            Some(value) => {
                let hash = xxh3_64(value.as_bytes());
                let slot = self.dictionary.hashed_slot(value, hash);
                if slot == OTHER {
                    self.new_values.add(value, hash, 1);
                }
                slot
            }
        };
        self.counts[slot] = self.counts[slot].saturating_add(1);
        slot
    }

    /// Adds another profile.
    ///
    /// # Errors
    /// If the two have different dictionaries; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        if !Arc::ptr_eq(&self.dictionary, &other.dictionary) && self.dictionary != other.dictionary {
            return Err(MergeError::bins("a category", &self.dictionary, &other.dictionary));
        }
        add_counts(&mut self.counts, &other.counts);
        self.new_values.merge(&other.new_values);
        Ok(())
    }

    /// Forgets all values.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.new_values = NewValues::default();
    }

    /// Returns the dictionary.
    #[must_use]
    pub fn dictionary(&self) -> &Arc<Dictionary> {
        &self.dictionary
    }

    /// Returns the count of each slot: missing, OTHER, then the values of the dictionary.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns what is known of the values outside the dictionary.
    #[must_use]
    pub fn new_values(&self) -> &NewValues {
        &self.new_values
    }

    /// Returns the number of values, missing ones included.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// Returns the number of missing values.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.counts[MISSING]
    }

    /// Estimates the number of different values, missing not among them.
    #[must_use]
    pub fn distinct(&self) -> f64 {
        let known = self.counts[FIRST_VALUE..].iter().filter(|&&count| count > 0).count();
        known as f64 + self.new_values.distinct()
    }

    /// Returns how often a value was counted; `None` where that is not known: of one outside the dictionary, while the sample of
    /// [`NewValues`] neither holds it nor every new value.
    #[must_use]
    pub fn count(&self, value: &str) -> Option<u64> {
        match self.dictionary.slot(Some(value)) {
            OTHER => {
                let found = self.new_values.sample().find(|(new, _)| *new == cut(value)).map(|(_, count)| count);
                found.or_else(|| self.new_values.is_complete().then_some(0))
            }
            slot => Some(self.counts[slot]),
        }
    }

    /// Returns the `limit` most frequent values with their counts, most frequent first, equal ones
    /// by name. A new value is listed if it is in the sample of [`NewValues`].
    #[must_use]
    pub fn top(&self, limit: usize) -> Vec<(&str, u64)> {
        let known = self.dictionary.values().zip(self.counts[FIRST_VALUE..].iter().copied());
        let mut all: Vec<(&str, u64)> = known.chain(self.new_values.sample()).filter(|&(_, count)| count > 0).collect();
        all.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        all.truncate(limit);
        all
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        out.counts(cells(&self.counts));
        if self.counts[OTHER] > 0 {
            self.new_values.encode(out);
        }
    }

    pub(crate) fn decode(dictionary: Arc<Dictionary>, bytes: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut profile = Self::new(dictionary);
        let counts = &mut profile.counts;
        bytes.counts("count of a category", counts.len() as u64, |cell, count| counts[cell as usize] = count)?;
        if profile.counts[OTHER] > 0 {
            profile.new_values = NewValues::decode(bytes)?;
        }
        Ok(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_new_ones_and_missing_are_counted_apart() {
        let mut profile = CategoryProfile::new(Dictionary::try_new(["wav", "flac"]).unwrap().into());
        for value in [Some("wav"), Some("mp3"), None, Some("flac"), Some("wav"), Some(""), Some("mp3"), Some("mp3")] {
            profile.observe(value);
        }
        assert_eq!(profile.counts(), [1, 4, 2, 1]);
        assert_eq!(profile.top(3), [("mp3", 3), ("wav", 2), ("", 1)]);
        assert_eq!(profile.distinct(), 4.0);
    }

    #[test]
    fn values_are_cut_at_the_end_of_a_character() {
        let long = "ä".repeat(40);
        let mut profile = CategoryProfile::new(Arc::default());
        profile.observe(Some(&long));
        profile.observe(Some(&long[..64]));
        assert_eq!(profile.top(9), [(&long[..64], 2)]);
        assert_eq!(cut(&format!("x{long}")).len(), 63);
    }

    #[test]
    fn dictionaries_refuse_repeats_and_too_many_values() {
        let error = Dictionary::try_new(["a", "b", "a"]).unwrap_err();
        assert_eq!(error.to_string(), "dictionary holds \"a\" twice, allowed is once (values are cut to 64 bytes)");
        assert!(Dictionary::try_new((0..256).map(|i| i.to_string())).is_err());
        let full = Dictionary::try_new((0..255).map(|i| i.to_string())).unwrap();
        assert!((0..255).all(|i| full.slot(Some(&i.to_string())) == FIRST_VALUE + i));
    }
}
