//! Words and how they sound: the recogniser's vocabulary.
//!
//! Phones are those of the CMU lexicon as flite writes them. Words are recognised through phones because phones are shared: 190 words of
//! a few thousand recordings teach 40 sounds well, and a doubled letter needs no special case.

use std::{collections::BTreeMap, path::Path};

use crate::error::ModelError;

/// The phones; class `i + 1` of the network is phone `i`, class 0 the blank.
pub const PHONES: [&str; 40] = [
    "aa", "ae", "ah", "ao", "aw", "ax", "ay", "b", "ch", "d", "dh", "eh", "er", "ey", "f", "g", "hh", "ih", "iy", "jh",
    "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "t", "th", "uh", "uw", "v", "w", "y", "z", "zh",
];

/// Output classes of the network: the blank and the phones.
pub const CLASSES: usize = PHONES.len() + 1;

/// Returns a phone's class, or `None` for a name that is no phone.
#[must_use]
pub fn phone_class(name: &str) -> Option<u8> {
    PHONES.iter().position(|&phone| phone == name).map(|i| i as u8 + 1)
}

/// Most words of a lexicon: the language model has a number for each pair of them.
pub const MAX_WORDS: usize = 4_096;

/// Position of a word in its [`Lexicon`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WordId(pub u16);

/// A node of the prefix tree over all pronunciations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Nodes one phone further, by the phone's class.
    pub children: BTreeMap<u8, usize>,
    /// Words that end here.
    pub words: Vec<WordId>,
}

/// The vocabulary, its pronunciations, and the tree over them (node 0 is the root).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lexicon {
    words: Vec<String>,
    pronunciations: Vec<Vec<Vec<u8>>>,
    nodes: Vec<Node>,
}

impl Lexicon {
    /// Reads lines `word phone phone …`; a word with several pronunciations has several lines. A line that stands there
    /// twice counts once. `path` is named in errors.
    ///
    /// # Errors
    /// [`ModelError::Format`] for an unknown phone, a word without phones, an empty file, or more than [`MAX_WORDS`] words.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ModelError> {
        let format = |place: String, found: String, allowed: String| ModelError::Format {
            path: path.to_path_buf(),
            place,
            found,
            allowed,
        };
        let mut entries: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let mut fields = line.split_whitespace();
            let Some(word) = fields.next() else { continue };
            let place = || format!("line {}", number + 1);
            let phones = fields
                .map(|name| phone_class(name).ok_or_else(|| format(place(), name.into(), PHONES.join(", "))))
                .collect::<Result<Vec<u8>, _>>()?;
            if phones.is_empty() {
                return Err(format(place(), format!("word {word:?} without phones"), "a word and its phones".into()));
            }
            let pronunciations = entries.entry(word).or_default();
            if !pronunciations.contains(&phones) {
                pronunciations.push(phones);
            }
        }
        if entries.is_empty() || entries.len() > MAX_WORDS {
            let allowed = format!("1 to {MAX_WORDS} words");
            return Err(format("lexicon".into(), format!("{} words", entries.len()), allowed));
        }
        let mut nodes = vec![Node::default()];
        for (id, pronunciations) in entries.values().enumerate() {
            for phones in pronunciations {
                let mut at = 0;
                for &phone in phones {
                    let fresh = nodes.len();
                    at = *nodes[at].children.entry(phone).or_insert(fresh);
                    if at == fresh {
                        nodes.push(Node::default());
                    }
                }
                nodes[at].words.push(WordId(id as u16));
            }
        }
        let (words, pronunciations) = entries.into_iter().map(|(word, phones)| (word.to_owned(), phones)).unzip();
        Ok(Self { words, pronunciations, nodes })
    }

    /// Returns the words in order of their ids.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Returns a word's spelling.
    #[must_use]
    pub fn word(&self, id: WordId) -> &str {
        &self.words[usize::from(id.0)]
    }

    /// Finds a word.
    #[must_use]
    pub fn find(&self, word: &str) -> Option<WordId> {
        self.words.binary_search_by(|known| known.as_str().cmp(word)).ok().map(|i| WordId(i as u16))
    }

    /// Returns a word's pronunciations, at least one.
    #[must_use]
    pub fn pronunciations(&self, id: WordId) -> &[Vec<u8>] {
        &self.pronunciations[usize::from(id.0)]
    }

    /// Returns the prefix tree; node 0 is its root.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_prefixes_and_keeps_homophones() {
        let lexicon =
            Lexicon::parse("four f ao r\nfor f ao r\nfive f ay v\na ey\na ax\n", Path::new("test")).expect("valid");
        assert_eq!(lexicon.words(), ["a", "five", "for", "four"]);
        assert_eq!(lexicon.pronunciations(WordId(0)).len(), 2);
        // Root, f, ao, r, ay, v, ey, ax.
        assert_eq!(lexicon.nodes().len(), 8);
        let homophones = lexicon.nodes().iter().find(|node| node.words.len() == 2).expect("for and four");
        assert_eq!(homophones.words, [WordId(2), WordId(3)]);
        assert_eq!(lexicon.find("four"), Some(WordId(3)));
        assert_eq!(lexicon.find("fort"), None);
    }

    #[test]
    fn a_line_that_stands_twice_counts_once() {
        let lexicon = Lexicon::parse("one w ah n\none hh w ah n\none w ah n\n", Path::new("test")).expect("valid");
        assert_eq!(lexicon.pronunciations(WordId(0)).len(), 2);
        assert!(lexicon.nodes().iter().all(|node| node.words.len() <= 1));
    }

    #[test]
    fn words_are_limited() {
        let lines = |words: usize| (0..words).map(|word| format!("w{word} w ah n\n")).collect::<String>();
        assert!(Lexicon::parse(&lines(MAX_WORDS), Path::new("x.txt")).is_ok());
        let error = Lexicon::parse(&lines(MAX_WORDS + 1), Path::new("x.txt")).expect_err("too many");
        assert_eq!(error.to_string(), "x.txt: lexicon: found 4097 words, allowed: 1 to 4096 words");
    }

    #[test]
    fn errors_name_the_line() {
        let error = Lexicon::parse("one w ah n\ntwo t ooo\n", Path::new("x.txt")).expect_err("unknown phone");
        assert!(error.to_string().starts_with("x.txt: line 2: found ooo"), "{error}");
        assert!(Lexicon::parse("one\n", Path::new("x.txt")).is_err());
        assert!(Lexicon::parse("\n", Path::new("x.txt")).is_err());
    }
}
