//! Which categories the numbers of a history stand for.
//!
//! A history has the numbers of its model's vocabulary, and another model may have other ones. So a user's entry of the
//! state ends with a tag that tells vocabularies apart, and under the tag the names are an entry of their own. What was
//! written with other names gets the model's numbers when it is restored, and is written with them after the user's
//! next event; a category that the model does not know becomes 0, *other*. An entry without a tag, as they once were,
//! is taken to have the model's numbers.

use std::{collections::HashMap, iter};

use driftline_models::profile::{History, Vocabulary};
use xxhash_rust::xxh3::xxh3_64;

/// Tells vocabularies apart: half of a hash of the names.
pub(crate) type Tag = [u8; 4];

/// Returns the names as they are written, one a line.
pub(crate) fn lines(vocabulary: &Vocabulary) -> String {
    vocabulary.names().join("\n")
}

/// Returns the tag of a vocabulary.
pub(crate) fn tag(vocabulary: &Vocabulary) -> Tag {
    (xxh3_64(lines(vocabulary).as_bytes()) as u32).to_le_bytes()
}

/// Gives histories the numbers of the model.
pub(crate) struct Numbers<'a> {
    vocabulary: &'a Vocabulary,
    tag: Tag,
    /// The model's number of each number of a vocabulary, by its tag.
    of: HashMap<Tag, Vec<u8>>,
    /// Those of entries without a tag.
    untagged: Vec<u8>,
}

impl<'a> Numbers<'a> {
    /// Takes the model's vocabulary and its tag.
    pub(crate) fn new(vocabulary: &'a Vocabulary, tag: Tag) -> Self {
        let untagged = (0..vocabulary.size()).map(|number| number as u8).collect();
        Self { vocabulary, tag, of: HashMap::new(), untagged }
    }

    /// Takes an entry of names; `None` for one that is damaged.
    pub(crate) fn learn(&mut self, tag: &[u8], lines: &[u8]) -> Option<()> {
        let names = std::str::from_utf8(lines).ok()?.split('\n');
        let numbers = iter::once(0).chain(names.map(|name| self.vocabulary.code(Some(name)))).collect();
        self.of.insert(tag.try_into().ok()?, numbers);
        Some(())
    }

    /// Returns the bytes of the history in a user's entry; `None` for one that is damaged.
    pub(crate) fn history(&self, entry: &[u8]) -> Option<Box<[u8]>> {
        let tagged = entry.split_last_chunk::<4>();
        let tagged = tagged.and_then(|(bytes, tag)| Some((bytes, *tag, History::decode(bytes)?)));
        let (mut history, numbers) = match tagged {
            Some((bytes, tag, _)) if tag == self.tag => return Some(bytes.into()),
            Some((_, tag, history)) => (history, self.of.get(&tag)?),
            None => (History::decode(entry)?, &self.untagged),
        };
        history.renumber(|number| numbers.get(usize::from(number)).copied().unwrap_or(0));
        let mut bytes = Vec::with_capacity(entry.len());
        history.encode(&mut bytes);
        Some(bytes.into_boxed_slice())
    }
}
