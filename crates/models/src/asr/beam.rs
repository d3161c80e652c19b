//! Prefix beam search over the words of the lexicon.
//!
//! Hannun et al., "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs", 2014, algorithm 1: a prefix
//! is a sequence of symbols, and the probabilities of all alignments that spell it are added, separately for those that end in a blank. Here the
//! symbols are phones and a prefix may only grow along the lexicon's tree; where a word is complete it may also start the next word.
//! The language model looks ahead: a prefix inside a word is charged the best word it can still become, so that it competes
//! fairly with prefixes whose word is already known.

use std::collections::HashMap;

use super::{
    ctc::{BLANK, log_add},
    language::{Context, LanguageModel},
    lexicon::{Lexicon, WordId},
};

/// Prefixes kept after each frame, where nothing else is asked for.
pub const WIDTH: usize = 128;
/// Prefixes this far under the best are given up, natural log.
const MARGIN: f64 = 14.0;
/// Phones less likely than this in a frame start nothing there.
const LEAST: f64 = -10.0;
/// Weight of the language model against the acoustics.
const LANGUAGE: f64 = 1.4;
/// Score of a word for being there, against the language model's bias for few words.
const WORD: f64 = 0.8;

/// A transcript that the search ended with.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The words, each with the phones it was heard in.
    pub words: Vec<(WordId, Vec<u8>)>,
    /// Acoustic and language score together, natural log.
    pub score: f64,
}

/// One prefix; prefixes form a tree, each pointing to the one it extends.
#[derive(Debug, Clone, Copy)]
struct Prefix {
    parent: usize,
    /// Last phone; [`BLANK`] for the empty prefix.
    phone: u8,
    /// Node of the lexicon's tree that the unfinished word has reached.
    node: usize,
    /// The word that ended with this step's start.
    ended: Option<WordId>,
    /// The last finished words.
    context: Context,
    /// Weighted language score of the finished words.
    language: f64,
}

/// Log probability of a prefix, by how its alignments end.
#[derive(Debug, Clone, Copy)]
struct Mass {
    blank: f64,
    phone: f64,
}

impl Mass {
    const NONE: Self = Self { blank: f64::NEG_INFINITY, phone: f64::NEG_INFINITY };

    fn total(self) -> f64 {
        log_add(self.blank, self.phone)
    }
}

struct Search<'a> {
    lexicon: &'a Lexicon,
    language: &'a LanguageModel,
    /// Prefixes kept after each frame, at least 1.
    width: usize,
    prefixes: Vec<Prefix>,
    children: HashMap<(usize, Option<WordId>, u8), usize>,
    /// Mass of each prefix in the frame being built.
    next: Vec<Mass>,
    touched: Vec<usize>,
}

impl Search<'_> {
    fn add(&mut self, prefix: usize, blank: f64, phone: f64) {
        let mass = &mut self.next[prefix];
        if mass.blank == f64::NEG_INFINITY && mass.phone == f64::NEG_INFINITY {
            self.touched.push(prefix);
        }
        mass.blank = log_add(mass.blank, blank);
        mass.phone = log_add(mass.phone, phone);
    }

    /// Finds or makes the prefix one phone further, after the end of a word or inside one.
    fn extend(&mut self, parent: usize, ended: Option<WordId>, phone: u8, node: usize) -> usize {
        let fresh = self.prefixes.len();
        let found = *self.children.entry((parent, ended, phone)).or_insert(fresh);
        if found == fresh {
            let Prefix { context, language, .. } = self.prefixes[parent];
            let (context, language) = match ended {
                Some(word) => (self.language.after(context, word), language + self.word_score(context, word)),
                None => (context, language),
            };
            self.prefixes.push(Prefix { parent, phone, node, ended, context, language });
            self.next.push(Mass::NONE);
        }
        found
    }

    fn word_score(&self, context: Context, word: WordId) -> f64 {
        LANGUAGE * f64::from(self.language.word(context, word)) + WORD
    }

    fn rank(&self, prefix: usize, mass: Mass) -> f64 {
        let Prefix { node, context, language, .. } = self.prefixes[prefix];
        mass.total() + language + LANGUAGE * f64::from(self.language.ahead(context, node))
    }

    fn frame(&mut self, active: &[(usize, Mass)], log_p: &[f64]) -> Vec<(usize, Mass)> {
        let lexicon = self.lexicon;
        let root = &lexicon.nodes()[0];
        for &(prefix, mass) in active {
            let Prefix { phone: last, node, .. } = self.prefixes[prefix];
            self.add(prefix, mass.total() + log_p[BLANK], f64::NEG_INFINITY);
            if prefix != 0 {
                self.add(prefix, f64::NEG_INFINITY, mass.phone + log_p[usize::from(last)]);
            }
            let node = &lexicon.nodes()[node];
            let inside = node.children.iter().map(|(&phone, &node)| (None, phone, node));
            let after = node
                .words
                .iter()
                .flat_map(|&word| root.children.iter().map(move |(&phone, &node)| (Some(word), phone, node)));
            for (ended, phone, node) in inside.chain(after) {
                let p = log_p[usize::from(phone)];
                if p < LEAST {
                    continue;
                }
                // The same phone twice needs a blank between.
                let from = if phone == last { mass.blank } else { mass.total() };
                if from > f64::NEG_INFINITY {
                    let longer = self.extend(prefix, ended, phone, node);
                    self.add(longer, f64::NEG_INFINITY, from + p);
                }
            }
        }
        let mut ranked: Vec<(f64, usize, Mass)> = Vec::with_capacity(self.touched.len());
        for prefix in std::mem::take(&mut self.touched) {
            let mass = std::mem::replace(&mut self.next[prefix], Mass::NONE);
            ranked.push((self.rank(prefix, mass), prefix, mass));
        }
        let best = ranked.iter().fold(f64::NEG_INFINITY, |best, ranked| best.max(ranked.0));
        ranked.retain(|ranked| ranked.0 >= best - MARGIN);
        if ranked.len() > self.width {
            ranked.select_nth_unstable_by(self.width - 1, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            ranked.truncate(self.width);
        }
        ranked.into_iter().map(|(_, prefix, mass)| (prefix, mass)).collect()
    }

    /// Reads the words of a prefix whose last word is `last`.
    fn words(&self, prefix: usize, last: WordId) -> Vec<(WordId, Vec<u8>)> {
        let mut words = Vec::new();
        let (mut at, mut word, mut phones) = (prefix, last, Vec::new());
        while at != 0 {
            let Prefix { parent, phone, ended, .. } = self.prefixes[at];
            phones.push(phone);
            if let Some(before) = ended {
                phones.reverse();
                words.push((word, std::mem::take(&mut phones)));
                word = before;
            }
            at = parent;
        }
        phones.reverse();
        words.push((word, phones));
        words.reverse();
        words
    }
}

/// Finds the best transcripts of `log_p` `[time, classes]`, best first, no two alike; the empty transcript is one of them.
///
/// Homophones and pronunciations of one transcript are added together, and the phones given are those of the likeliest.
/// After each frame `width` prefixes are kept, at least 1.
#[must_use]
pub fn search(
    log_p: &[f64],
    classes: usize,
    lexicon: &Lexicon,
    language: &LanguageModel,
    width: usize,
) -> Vec<Candidate> {
    let start = language.start();
    let root = Prefix { parent: 0, phone: BLANK as u8, node: 0, ended: None, context: start, language: 0.0 };
    let mut search = Search {
        lexicon,
        language,
        width: width.max(1),
        prefixes: vec![root],
        children: HashMap::new(),
        next: vec![Mass::NONE],
        touched: Vec::new(),
    };
    let mut active = vec![(0, Mass { blank: 0.0, phone: f64::NEG_INFINITY })];
    for row in log_p.chunks_exact(classes) {
        active = search.frame(&active, row);
    }
    let mut ends: Vec<Candidate> = Vec::new();
    for &(prefix, mass) in &active {
        let Prefix { node, context, language: so_far, .. } = search.prefixes[prefix];
        if prefix == 0 {
            ends.push(Candidate { words: Vec::new(), score: mass.total() + LANGUAGE * f64::from(language.end(start)) });
        }
        for &word in &lexicon.nodes()[node].words {
            let end = LANGUAGE * f64::from(language.end(language.after(context, word)));
            let score = mass.total() + so_far + search.word_score(context, word) + end;
            ends.push(Candidate { words: search.words(prefix, word), score });
        }
    }
    ends.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut merged: Vec<Candidate> = Vec::new();
    for end in ends {
        let ids = |candidate: &Candidate| candidate.words.iter().map(|(word, _)| *word).collect::<Vec<_>>();
        match merged.iter_mut().find(|known| ids(known) == ids(&end)) {
            Some(known) => known.score = log_add(known.score, end.score),
            None => merged.push(end),
        }
    }
    merged.sort_by(|a, b| b.score.total_cmp(&a.score));
    merged
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::asr::lexicon::{CLASSES, phone_class};

    fn models() -> (Lexicon, LanguageModel) {
        let lexicon = "for f ao r\nfour f ao r\nred r eh d\nshoes sh uw z\nsize s ay z\n";
        let counts = "- - four 4\n- - red 4\n- red shoes 8\n- four four 2\nfour four - 8\nred shoes - 4\nred shoes size 4\nshoes size four 4\nred shoes for 1\nshoes for red 1\n";
        let lexicon = Lexicon::parse(lexicon, Path::new("lexicon")).expect("valid");
        let language = LanguageModel::parse(counts, &lexicon, Path::new("counts")).expect("valid");
        (lexicon, language)
    }

    /// Log probabilities in which each named phone (`_` is the blank) is nearly certain for one frame.
    fn frames(names: &str) -> Vec<f64> {
        let row = |name: &str| {
            let class = if name == "_" { BLANK } else { usize::from(phone_class(name).expect("a phone")) };
            let mut row = vec![(0.1 / (CLASSES - 1) as f64).ln(); CLASSES];
            row[class] = 0.9f64.ln();
            row
        };
        names.split(' ').flat_map(row).collect()
    }

    fn text(log_p: &[f64]) -> String {
        let (lexicon, language) = models();
        let best = &search(log_p, CLASSES, &lexicon, &language, WIDTH)[0];
        best.words.iter().map(|(word, _)| lexicon.word(*word)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn hears_words_with_and_without_pauses() {
        assert_eq!(text(&frames("_ r eh d sh uw z _")), "red shoes");
        assert_eq!(text(&frames("r r eh _ d _ _ sh uw uw z")), "red shoes");
    }

    #[test]
    fn the_language_model_chooses_between_homophones() {
        assert_eq!(text(&frames("f ao r _")), "four");
        assert_eq!(text(&frames("sh uw z s ay z f ao r")), "shoes size four");
        assert_eq!(text(&frames("r eh d sh uw z _ f ao r _ r eh d")), "red shoes for red");
    }

    #[test]
    fn a_repeated_word_is_heard_twice() {
        assert_eq!(text(&frames("f ao r f ao r")), "four four");
    }

    #[test]
    fn silence_is_the_empty_transcript() {
        assert_eq!(text(&frames("_ _ _ _")), "");
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn a_sound_between_two_words_becomes_the_nearest_word() {
        assert_eq!(text(&frames("r ih d _ sh uw z")), "red shoes");
    }

    proptest! {
        #[test]
        fn candidates_are_ordered_different_and_never_surer_than_certain(
            logits in (0..12usize).prop_flat_map(|frames| prop::collection::vec(-4f32..4.0, frames * CLASSES)),
        ) {
            let (lexicon, language) = models();
            let mut log_p = vec![0f64; logits.len()];
            for (row, out) in logits.chunks_exact(CLASSES).zip(log_p.chunks_exact_mut(CLASSES)) {
                crate::asr::ctc::log_softmax(row, out);
            }
            let found = search(&log_p, CLASSES, &lexicon, &language, WIDTH);
            prop_assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
            for (i, candidate) in found.iter().enumerate() {
                prop_assert!(candidate.score <= WORD * candidate.words.len() as f64 + 1e-9);
                let words = |candidate: &Candidate| candidate.words.iter().map(|w| w.0).collect::<Vec<_>>();
                let repeated = found[..i].iter().any(|other| words(other) == words(candidate));
                prop_assert!(!repeated);
            }
        }
    }
}
