//! The language model: which word follows which.
//!
//! Word bigrams, interpolated with word frequencies (Jelinek and Mercer, 1980):
//! `P(w | v) = (1 − λ)·c(v, w)/c(v) + λ·c(w)/Σc`, with the ends of an utterance as words. The counts come from the grammar of
//! queries and digit strings and are a text file, so that they can be read and changed.

use std::path::Path;

use super::lexicon::{Lexicon, WordId};
use crate::error::ModelError;

/// Stands for both ends of an utterance in the file of counts.
pub const EDGE: &str = "-";

/// Weight of the word frequencies against the bigrams.
const INTERPOLATION: f64 = 0.05;

/// What a hypothesis has said last.
pub type Context = Option<WordId>;

/// Log probabilities of every word in every context, and the best that any word under a node of the prefix tree can reach.
#[derive(Debug, Clone)]
pub struct LanguageModel {
    words: usize,
    nodes: usize,
    word: Vec<f32>,
    end: Vec<f32>,
    ahead: Vec<f32>,
}

impl LanguageModel {
    /// Reads lines `previous next count` over the lexicon's words and [`EDGE`]. `path` is named in errors.
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
        let mut counts = vec![0f64; size * size];
        for (number, line) in text.lines().enumerate() {
            let index = |word: &str| match word {
                EDGE => Some(words),
                word => lexicon.find(word).map(|id| usize::from(id.0)),
            };
            let fields: Vec<&str> = line.split_whitespace().collect();
            let parsed = match fields[..] {
                [previous, next, count] => index(previous).zip(index(next)).zip(count.parse::<u32>().ok()),
                _ => None,
            };
            let Some(((previous, next), count)) = parsed else {
                return Err(format(
                    format!("line {}", number + 1),
                    line.into(),
                    "two words of the lexicon or -, and a count",
                ));
            };
            counts[previous * size + next] += f64::from(count);
        }
        let mut frequency = vec![0f64; size];
        for row in counts.chunks_exact(size) {
            frequency.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        }
        if let Some(missing) = frequency.iter().position(|&count| count == 0.0) {
            let name = lexicon.words().get(missing).map_or(EDGE, String::as_str);
            return Err(format("counts".into(), format!("none of {name:?}"), "every word of the lexicon"));
        }
        let total: f64 = frequency.iter().sum();
        let mut word = Vec::with_capacity(size * words);
        let mut end = Vec::with_capacity(size);
        for row in counts.chunks_exact(size) {
            let seen: f64 = row.iter().sum::<f64>().max(1.0);
            let log = |next: usize| {
                ((1.0 - INTERPOLATION) * row[next] / seen + INTERPOLATION * frequency[next] / total).ln() as f32
            };
            word.extend((0..words).map(log));
            end.push(log(words));
        }
        let nodes = lexicon.nodes().len();
        let mut ahead = Vec::with_capacity(size * nodes);
        for row in word.chunks_exact(words) {
            let start = ahead.len();
            ahead.resize(start + nodes, f32::NEG_INFINITY);
            // A child's index is larger than its parent's, so one pass from the end sees children first.
            for (index, node) in lexicon.nodes().iter().enumerate().rev() {
                let own = node.words.iter().map(|id| row[usize::from(id.0)]);
                let below = node.children.values().map(|&child| ahead[start + child]);
                ahead[start + index] = own.chain(below).fold(f32::NEG_INFINITY, f32::max);
            }
        }
        Ok(Self { words, nodes, word, end, ahead })
    }

    fn row(&self, context: Context) -> usize {
        context.map_or(self.words, |id| usize::from(id.0))
    }

    /// Returns `ln P(word | context)`.
    #[must_use]
    pub fn word(&self, context: Context, word: WordId) -> f32 {
        self.word[self.row(context) * self.words + usize::from(word.0)]
    }

    /// Returns the log probability that the utterance ends after `context`.
    #[must_use]
    pub fn end(&self, context: Context) -> f32 {
        self.end[self.row(context)]
    }

    /// Returns the highest `ln P(word | context)` of the words at or below a node of the prefix tree.
    #[must_use]
    pub fn ahead(&self, context: Context, node: usize) -> f32 {
        self.ahead[self.row(context) * self.nodes + node]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: &str = "- red 3\n- shoes 1\nred shoes 3\nshoes - 4\n";

    fn lexicon() -> Lexicon {
        Lexicon::parse("red r eh d\nshoes sh uw z\n", Path::new("lexicon")).expect("valid")
    }

    #[test]
    fn probabilities_sum_to_one_in_every_context() {
        let model = LanguageModel::parse(COUNTS, &lexicon(), Path::new("counts")).expect("valid");
        for context in [None, Some(WordId(0)), Some(WordId(1))] {
            let words: f32 = (0..2).map(|id| model.word(context, WordId(id)).exp()).sum();
            assert!((words + model.end(context).exp() - 1.0).abs() < 1e-6);
            let best = model.word(context, WordId(0)).max(model.word(context, WordId(1)));
            assert!((model.ahead(context, 0) - best).abs() < 1e-6);
        }
        // 0.95·3/4 + 0.05·3/11
        assert!((model.word(None, WordId(0)).exp() - 0.726_136_4).abs() < 1e-6);
    }

    #[test]
    fn errors_name_the_line_or_the_word() {
        let error = |text| LanguageModel::parse(text, &lexicon(), Path::new("c")).expect_err("invalid").to_string();
        assert!(error("- red 3\nred hat 1\n").starts_with("c: line 2: found red hat 1"));
        assert!(error("- red 3\nred - 3\n").contains("none of \"shoes\""));
    }
}
