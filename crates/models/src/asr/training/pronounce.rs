//! Pronunciations by flite, for the lexicon and for training speech outside the vocabulary.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use super::{TrainingError, synthesis::output};
use crate::asr::lexicon::{Lexicon, phone_class};

/// Pronunciations that stand in the lexicon beside flite's, which reads single words in their strong form.
const WEAK_FORMS: [(&str, &str); 1] = [("a", "ax")];

/// Asks flite for a word's phones, by name.
///
/// # Errors
/// [`TrainingError`] where flite is missing or says nothing.
pub fn phones(word: &str) -> Result<Vec<String>, TrainingError> {
    let printed = output(Command::new("flite").args(["-t", word, "-ps", "-o", "none"]))?;
    let phones: Vec<String> = printed.split_whitespace().filter(|&phone| phone != "pau").map(str::to_owned).collect();
    if phones.is_empty() || phones.iter().any(|phone| phone_class(phone).is_none()) {
        return Err(TrainingError::UnknownWord { word: word.to_owned() });
    }
    Ok(phones)
}

/// Writes the lexicon file of `words`.
///
/// # Errors
/// See [`phones`].
pub fn lexicon(words: &[String]) -> Result<String, TrainingError> {
    let mut text = String::new();
    for word in words {
        text.push_str(&format!("{word} {}\n", phones(word)?.join(" ")));
        for (_, weak) in WEAK_FORMS.iter().filter(|(known, _)| known == word) {
            text.push_str(&format!("{word} {weak}\n"));
        }
    }
    Ok(text)
}

/// Pronounces any words: those of the lexicon as it says, others as flite does, once.
#[derive(Debug)]
pub struct Pronouncer<'a> {
    lexicon: &'a Lexicon,
    others: BTreeMap<String, Vec<u8>>,
}

impl<'a> Pronouncer<'a> {
    /// Looks up every word of `sentences`; what flite says is kept in `cache`.
    ///
    /// # Errors
    /// See [`phones`]; also where the cache cannot be read or written.
    pub fn of<'b>(
        sentences: impl Iterator<Item = &'b [String]>,
        lexicon: &'a Lexicon,
        cache: &Path,
    ) -> Result<Self, TrainingError> {
        let file = cache.join("pronunciations.txt");
        let mut lines = if file.exists() { fs::read_to_string(&file)? } else { String::new() };
        let class = |line: &str| line.split(' ').skip(1).filter_map(phone_class).collect::<Vec<u8>>();
        let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        let mut others: BTreeMap<String, Vec<u8>> = lines.lines().map(|line| (name(line), class(line))).collect();
        for word in sentences.flatten() {
            if lexicon.find(word).is_none() && !others.contains_key(word) {
                let line = format!("{word} {}", phones(word)?.join(" "));
                others.insert(word.clone(), class(&line));
                lines.push_str(&line);
                lines.push('\n');
            }
        }
        fs::write(file, lines)?;
        Ok(Self { lexicon, others })
    }

    /// Returns the phone classes of words said one after another; empty for words it was not made for.
    #[must_use]
    pub fn say(&self, words: &[String]) -> Vec<u8> {
        let phones = |word: &String| match self.lexicon.find(word) {
            Some(id) => Some(&self.lexicon.pronunciations(id)[0]),
            None => self.others.get(word),
        };
        words.iter().filter_map(phones).flatten().copied().collect()
    }
}
