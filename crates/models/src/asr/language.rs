//! The language model: which word follows which two.
//!
//! Word trigrams, interpolated with bigrams and word frequencies (Jelinek and Mercer, 1980):
//! `P(w | u v) = (1 − κ)·c(u v w)/c(u v) + κ·P(w | v)` and `P(w | v) = (1 − λ)·c(v w)/c(v) + λ·c(w)/Σc`, with the ends of an utterance as
//! words. The counts come from the grammar of queries and digit strings and are a text file, so that they can be read and changed.

use std::{collections::BTreeMap, path::Path};

use super::lexicon::{Lexicon, WordId};
use crate::error::ModelError;

/// Stands for both ends of an utterance in the file of counts.
pub const EDGE: &str = "-";

/// Weight of the bigrams against the trigrams, κ.
const BIGRAMS: f64 = 0.1;
/// Weight of the word frequencies against the bigrams, λ.
const FREQUENCIES: f64 = 0.05;

/// What a hypothesis has said last: its last two words, or the last one where the two were never counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Context(u32);

/// Log probabilities of every word in every context, and the best that any word under a node of the prefix tree can reach.
#[derive(Debug, Clone)]
pub struct LanguageModel {
    words: usize,
    nodes: usize,
    /// The last word of each context; the number of words stands for the start.
    last: Vec<usize>,
    /// The context after each pair of words, the first of which may be the start.
    after: Vec<Context>,
    word: Vec<f32>,
    end: Vec<f32>,
    ahead: Vec<f32>,
}

impl LanguageModel {
    /// Reads lines `before previous next count` over the lexicon's words and [`EDGE`], which stands before and at the start of an utterance
    /// and at its end. `path` is named in errors.
    ///
    /// # Errors
    /// [`ModelError::Format`] for a line of another form, a word outside the lexicon, or a lexicon word that never occurs.
    pub fn parse(text: &str, lexicon: &Lexicon, path: &Path) -> Result<Self, ModelError> {
        let words = lexicon.words().len();
        let format = |place: String, found: String, allowed: &str| ModelError::Format {
            path: path.to_path_buf(),
            place,
            found,
            allowed: allowed.into(),
        };
        // Index `words` is the edge: the start as a row, the end as a column.
        let size = words + 1;
        let mut pairs = vec![0f64; size * size];
        let mut triples: BTreeMap<(usize, usize), Vec<(usize, f64)>> = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let index = |word: &str| match word {
                EDGE => Some(words),
                word => lexicon.find(word).map(|id| usize::from(id.0)),
            };
            let fields: Vec<&str> = line.split_whitespace().collect();
            let parsed = match fields[..] {
                [before, previous, next, count] => {
                    index(before).zip(index(previous)).zip(index(next)).zip(count.parse::<u32>().ok())
                }
                _ => None,
            };
            let Some((((before, previous), next), count)) = parsed else {
                let allowed = "three words of the lexicon or -, and a count";
                return Err(format(format!("line {}", number + 1), line.into(), allowed));
            };
            pairs[previous * size + next] += f64::from(count);
            // At the start both words before are the edge, which one of them says as well.
            if previous != words && count > 0 {
                triples.entry((before, previous)).or_default().push((next, f64::from(count)));
            }
        }
        let mut frequency = vec![0f64; size];
        for row in pairs.chunks_exact(size) {
            frequency.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        }
        if let Some(missing) = frequency.iter().position(|&count| count == 0.0) {
            let name = lexicon.words().get(missing).map_or(EDGE, String::as_str);
            return Err(format("counts".into(), format!("none of {name:?}"), "every word of the lexicon"));
        }
        let total: f64 = frequency.iter().sum();
        let after_one: Vec<Vec<f64>> = pairs
            .chunks_exact(size)
            .map(|row| {
                let seen = row.iter().sum::<f64>().max(1.0);
                let shares = row.iter().zip(&frequency);
                shares.map(|(count, all)| (1.0 - FREQUENCIES) * count / seen + FREQUENCIES * all / total).collect()
            })
            .collect();

        // A context for each single word, in order, and for the start; then those of two words.
        let mut model = Self {
            words,
            nodes: lexicon.nodes().len(),
            last: Vec::new(),
            after: (0..size).flat_map(|_| 0..words).map(|word| Context(word as u32)).collect(),
            word: Vec::new(),
            end: Vec::new(),
            ahead: Vec::new(),
        };
        for (last, row) in after_one.iter().enumerate() {
            model.push(lexicon, last, row);
        }
        for ((before, previous), following) in triples {
            model.after[before * words + previous] = Context(model.last.len() as u32);
            let seen: f64 = following.iter().map(|(_, count)| count).sum();
            let mut row: Vec<f64> = after_one[previous].iter().map(|p| BIGRAMS * p).collect();
            for (next, count) in following {
                row[next] += (1.0 - BIGRAMS) * count / seen;
            }
            model.push(lexicon, previous, &row);
        }
        Ok(model)
    }

    /// Adds a context whose last word is `last`, after which words and the end have these probabilities.
    fn push(&mut self, lexicon: &Lexicon, last: usize, row: &[f64]) {
        self.last.push(last);
        let start = self.word.len();
        self.word.extend(row[..self.words].iter().map(|p| p.ln() as f32));
        self.end.push(row[self.words].ln() as f32);
        let row = &self.word[start..];
        let start = self.ahead.len();
        self.ahead.resize(start + self.nodes, f32::NEG_INFINITY);
        // A child's index is larger than its parent's, so one pass from the end sees children first.
        for (index, node) in lexicon.nodes().iter().enumerate().rev() {
            let own = node.words.iter().map(|id| row[usize::from(id.0)]);
            let below = node.children.values().map(|&child| self.ahead[start + child]);
            self.ahead[start + index] = own.chain(below).fold(f32::NEG_INFINITY, f32::max);
        }
    }

    /// Returns the context at the start of an utterance.
    #[must_use]
    pub fn start(&self) -> Context {
        Context(self.words as u32)
    }

    /// Returns the context after `word` in `context`.
    #[must_use]
    pub fn after(&self, context: Context, word: WordId) -> Context {
        self.after[self.last[context.0 as usize] * self.words + usize::from(word.0)]
    }

    /// Returns `ln P(word | context)`.
    #[must_use]
    pub fn word(&self, context: Context, word: WordId) -> f32 {
        self.word[context.0 as usize * self.words + usize::from(word.0)]
    }

    /// Returns the log probability that the utterance ends after `context`.
    #[must_use]
    pub fn end(&self, context: Context) -> f32 {
        self.end[context.0 as usize]
    }

    /// Returns the highest `ln P(word | context)` of the words at or below a node of the prefix tree.
    #[must_use]
    pub fn ahead(&self, context: Context, node: usize) -> f32 {
        self.ahead[context.0 as usize * self.nodes + node]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: &str = "red red shoes 0\n- - red 3\n- - shoes 1\n- red shoes 3\nred shoes - 3\n- shoes - 1\n";

    fn lexicon() -> Lexicon {
        Lexicon::parse("red r eh d\nshoes sh uw z\n", Path::new("lexicon")).expect("valid")
    }

    #[test]
    fn probabilities_sum_to_one_in_every_context() {
        let model = LanguageModel::parse(COUNTS, &lexicon(), Path::new("counts")).expect("valid");
        let (red, shoes) = (WordId(0), WordId(1));
        let said = |words: &[WordId]| words.iter().fold(model.start(), |context, &word| model.after(context, word));
        for context in [&[][..], &[red], &[shoes], &[red, shoes], &[red, red], &[shoes, red, shoes]].map(said) {
            let words: f32 = (0..2).map(|id| model.word(context, WordId(id)).exp()).sum();
            assert!((words + model.end(context).exp() - 1.0).abs() < 1e-6);
            let best = model.word(context, WordId(0)).max(model.word(context, WordId(1)));
            assert!((model.ahead(context, 0) - best).abs() < 1e-6);
        }
        let near = |log: f32, p: f64| (f64::from(log.exp()) - p).abs() < 1e-6;
        assert!(near(model.word(model.start(), red), 0.95 * 3.0 / 4.0 + 0.05 * 3.0 / 11.0));
        // Counted together, and not.
        let bigram = 0.95 + 0.05 * 4.0 / 11.0;
        assert!(near(model.end(said(&[red, shoes])), 0.9 + 0.1 * bigram));
        assert!(near(model.end(said(&[shoes, shoes])), bigram));
    }

    #[test]
    fn two_words_tell_more_than_one() {
        let counts = "- - red 2\n- red shoes 2\nred shoes - 2\n- - shoes 1\n- shoes red 1\nshoes red - 1\n";
        let model = LanguageModel::parse(counts, &lexicon(), Path::new("counts")).expect("valid");
        let alone = model.after(model.start(), WordId(0));
        let behind = model.after(model.after(model.start(), WordId(1)), WordId(0));
        assert!(model.word(alone, WordId(1)) > model.end(alone) && model.end(behind) > model.word(behind, WordId(1)));
    }

    #[test]
    fn errors_name_the_line_or_the_word() {
        let error = |text| LanguageModel::parse(text, &lexicon(), Path::new("c")).expect_err("invalid").to_string();
        assert!(error("- - red 3\n- red hat 1\n").starts_with("c: line 2: found - red hat 1"));
        assert!(error("- - red 3\n- red - 3\n").contains("none of \"shoes\""));
    }
}
