//! Which tokens may come next: suppressed tokens and the grammar of timestamps.
//!
//! The order is `generate`'s: tokens forbidden at the beginning, tokens forbidden everywhere, then the timestamp rules of
//! the reference decoder (Radford et al. 2022, section 2.3): timestamps come in pairs, never decrease, and one is forced
//! where all of them together are more probable than any text token.

use crate::whisper::layers::{log_sum_exp, maximum};

/// The rules of one checkpoint for one kind of output.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub begin_suppress: Vec<usize>,
    pub suppress: Vec<usize>,
    /// Absent where the output has no timestamps: then they are neither required nor forbidden.
    pub timestamps: Option<TimestampRules>,
}

#[derive(Debug, Clone)]
pub(super) struct TimestampRules {
    /// The id of `<|0.00|>`; `<|notimestamps|>` is right before it.
    pub begin: usize,
    pub end_of_text: usize,
    /// How many steps of 20 ms the first timestamp may be from the start.
    pub max_initial: Option<usize>,
}

impl Rules {
    /// Sets the logits of forbidden tokens to `-inf`, given the tokens generated so far (without the prompt).
    pub fn apply(&self, logits: &mut [f32], generated: &[u32]) {
        let begin: &[usize] = if generated.is_empty() { &self.begin_suppress } else { &[] };
        for &id in begin.iter().chain(&self.suppress) {
            forbid(logits.get_mut(id..=id));
        }
        if let Some(rules) = &self.timestamps {
            rules.apply(logits, generated);
        }
    }
}

impl TimestampRules {
    fn apply(&self, logits: &mut [f32], generated: &[u32]) {
        let begin = self.begin;
        let is_timestamp = |token: &u32| *token as usize >= begin;
        forbid(logits.get_mut(begin - 1..begin));
        let last_is = generated.last().is_some_and(is_timestamp);
        let one_before_is = generated.len() < 2 || is_timestamp(&generated[generated.len() - 2]);
        match (last_is, one_before_is) {
            (true, true) => forbid(logits.get_mut(begin..)),
            (true, false) => forbid(logits.get_mut(..self.end_of_text)),
            (false, _) => {}
        }
        if let Some(&latest) = generated.iter().rev().find(|t| is_timestamp(t)) {
            // The second of a pair may repeat the first; any other must be later.
            let least = latest as usize + usize::from(!last_is || one_before_is);
            let least = least.min(logits.len());
            forbid(logits.get_mut(begin..least));
        }
        if generated.is_empty() {
            forbid(logits.get_mut(..begin));
            if let Some(most) = self.max_initial {
                forbid(logits.get_mut(begin + most + 1..));
            }
        }
        if begin < logits.len() && log_sum_exp(&logits[begin..]) > maximum(&logits[..begin]) {
            forbid(logits.get_mut(..begin));
        }
    }
}

fn forbid(logits: Option<&mut [f32]>) {
    if let Some(logits) = logits {
        logits.fill(f32::NEG_INFINITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text 0 to 3, end of text 4, no-timestamps 5, timestamps 6 to 11.
    fn allowed(generated: &[u32], logits: [f32; 12]) -> Vec<usize> {
        let timestamps = TimestampRules { begin: 6, end_of_text: 4, max_initial: Some(2) };
        let rules = Rules { begin_suppress: vec![4], suppress: vec![1, 99], timestamps: Some(timestamps) };
        let mut logits = logits;
        rules.apply(&mut logits, generated);
        (0..12).filter(|&i| logits[i].is_finite()).collect()
    }

    const TEXT: [f32; 12] = [9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];

    #[test]
    fn the_first_token_is_an_early_timestamp() {
        assert_eq!(allowed(&[], TEXT), [6, 7, 8]);
    }

    #[test]
    fn text_follows_an_opening_timestamp_and_a_complete_pair() {
        assert_eq!(allowed(&[7], TEXT), [0, 2, 3, 4]);
        assert_eq!(allowed(&[7, 0, 8, 8], TEXT), [0, 2, 3, 4]);
    }

    #[test]
    fn a_closing_timestamp_is_followed_by_its_pair_or_the_end() {
        assert_eq!(allowed(&[7, 0, 9], TEXT), [4, 9, 10, 11]);
    }

    #[test]
    fn a_later_timestamp_never_repeats_an_earlier_one() {
        assert_eq!(allowed(&[7, 0], TEXT), [0, 2, 3, 4, 8, 9, 10, 11]);
        assert_eq!(allowed(&[11, 0, 11, 11, 0], TEXT), [0, 2, 3, 4]);
    }

    #[test]
    fn many_likely_timestamps_beat_one_likelier_word() {
        let mut logits = [0.0; 12];
        logits[0] = 1.0;
        assert_eq!(allowed(&[7, 0], logits), [8, 9, 10, 11]);
    }
}
