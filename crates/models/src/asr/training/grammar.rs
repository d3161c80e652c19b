//! What people say to the search: a grammar of queries over the catalogue's titles, and digit strings.
//!
//! The language model is counted on sentences of this grammar, and most of the synthetic speech says them.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, seq::IndexedRandom};

use crate::asr::language::EDGE;

/// The ten digits, in order.
pub const DIGITS: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

/// What may stand before a product. None of these ends a query, so "for" is never heard for "four" at its end.
const CARRIERS: [&str; 8] =
    ["show me", "find", "find me", "i want", "i need", "search for", "looking for", "do you have"];
const ARTICLES: [&str; 3] = ["a", "the", "some"];
const QUALITIES: [&str; 3] = ["cheap", "new", "best"];

/// Sentences made elsewhere than in the catalogue, for speech outside the vocabulary. Odd lines train, even lines test.
const OTHER_SPEECH: &str = include_str!("other_speech.txt");

/// Generates sentences.
#[derive(Debug, Clone)]
pub struct Grammar {
    titles: Vec<Vec<String>>,
    words: Vec<String>,
}

impl Grammar {
    /// Takes the catalogue's titles; they are split at white space and written in lower case.
    #[must_use]
    pub fn new<'a>(titles: impl IntoIterator<Item = &'a str>) -> Self {
        let titles: Vec<Vec<String>> = titles
            .into_iter()
            .map(|title| title.to_lowercase().split_whitespace().map(str::to_owned).collect())
            .collect();
        let fixed = CARRIERS.iter().chain(&ARTICLES).chain(&QUALITIES).chain(&DIGITS).chain(&["size"]);
        let fixed = fixed.flat_map(|phrase| phrase.split(' ')).map(str::to_owned);
        let words: BTreeSet<String> = titles.iter().flatten().cloned().chain(fixed).collect();
        Self { titles, words: words.into_iter().collect() }
    }

    /// Returns every word of the vocabulary, sorted.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Says a product, sometimes only a part of its title, sometimes with carrier, quality or size.
    pub fn query(&self, rng: &mut impl RngExt) -> Vec<String> {
        let Some(title) = self.titles.choose(rng) else {
            return Vec::new();
        };
        let mut words = Vec::new();
        let mut say = |phrase: Option<&&str>| {
            words.extend(phrase.into_iter().flat_map(|p| p.split(' ')).map(str::to_owned));
        };
        if rng.random_bool(0.2) {
            say(CARRIERS.choose(rng));
            if rng.random_bool(0.6) {
                say(ARTICLES.choose(rng));
            }
        }
        if rng.random_bool(0.1) {
            say(QUALITIES.choose(rng));
        }
        match rng.random_range(0..100) {
            0..15 => words.extend(title.iter().skip(1).cloned()),
            15..30 => words.extend(title.choose(rng).cloned()),
            _ => words.extend(title.iter().cloned()),
        }
        if rng.random_bool(0.05) {
            words.push("size".into());
            words.extend(digits(rng, 1..=2));
        }
        words
    }

    /// Says a query or, as often as not, a string of one to ten digits.
    pub fn sentence(&self, rng: &mut impl RngExt) -> Vec<String> {
        if rng.random_bool(0.5) {
            let longest = if rng.random_bool(0.3) { 1 } else { 10 };
            digits(rng, 1..=longest)
        } else {
            self.query(rng)
        }
    }

    /// Says one to four words in any order, so that the network learns sounds and leaves the order to the language model.
    pub fn jumble(&self, rng: &mut impl RngExt) -> Vec<String> {
        let count = rng.random_range(1..=4);
        (0..count).filter_map(|_| self.words.choose(rng).cloned()).collect()
    }

    /// Counts the trigrams of `sentences` random sentences, as the text file [`crate::asr::language::LanguageModel::parse`] reads.
    #[must_use]
    pub fn trigrams(&self, rng: &mut impl RngExt, sentences: usize) -> String {
        let mut counts: BTreeMap<[String; 3], usize> = BTreeMap::new();
        for _ in 0..sentences {
            let edge = || EDGE.to_owned();
            let said: Vec<String> = [edge(), edge()].into_iter().chain(self.sentence(rng)).chain([edge()]).collect();
            for triple in said.array_windows() {
                *counts.entry(triple.clone()).or_default() += 1;
            }
        }
        counts
            .into_iter()
            .map(|([before, previous, next], count)| format!("{before} {previous} {next} {count}\n"))
            .collect()
    }
}

/// Says a digit string.
pub fn digits(rng: &mut impl RngExt, count: std::ops::RangeInclusive<usize>) -> Vec<String> {
    let count = rng.random_range(count);
    (0..count).map(|_| DIGITS[rng.random_range(0..DIGITS.len())].to_owned()).collect()
}

/// Which half of the speech outside the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherSpeech {
    /// The half to learn from.
    Train,
    /// The half to test rejection with.
    Test,
}

impl OtherSpeech {
    /// Returns the half's sentences.
    pub fn sentences(self) -> impl Iterator<Item = &'static str> {
        OTHER_SPEECH.lines().skip(usize::from(self == Self::Test)).step_by(2)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn sentences_stay_in_the_vocabulary() {
        let grammar = Grammar::new(["Red jacket", "frying pan"]);
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..500 {
            let sentence = grammar.sentence(&mut rng);
            assert!(!sentence.is_empty());
            assert!(sentence.iter().all(|word| grammar.words().binary_search(word).is_ok()), "{sentence:?}");
            assert_ne!(sentence.last().map(String::as_str), Some("for"));
        }
    }

    #[test]
    fn trigrams_repeat_with_the_seed() {
        let grammar = Grammar::new(["red jacket"]);
        let count = |seed| grammar.trigrams(&mut StdRng::seed_from_u64(seed), 50);
        assert_eq!(count(3), count(3));
        assert_ne!(count(3), count(4));
    }

    #[test]
    fn the_halves_of_other_speech_differ() {
        let test: Vec<_> = OtherSpeech::Test.sentences().collect();
        assert!(test.len() >= 40);
        assert!(OtherSpeech::Train.sentences().all(|sentence| !test.contains(&sentence)));
    }
}
