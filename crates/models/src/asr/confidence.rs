//! How sure the recogniser is, and when it says nothing.
//!
//! The search is confined to the vocabulary, so it always finds words, also in speech that contains none of them. What gives such speech
//! away is the distance between what the network heard, phone by phone and unconfined, and what the words allow. That distance, overall and in
//! the worst word, and the share of the best transcript among all that the search ended with, enter a logistic regression; it was fitted on
//! speech inside (real speakers left out of training among it) and outside the vocabulary so that the confidence is about the probability that the transcript is right.
//!
//! Below a threshold (fitted too: 1 % of the right transcripts fall under it) the transcript is empty. A search for
//! words nobody said would return products nobody wants, while an empty transcript is counted as what it is; the
//! confidence still tells how far off it was.

use std::path::Path;

use super::{
    beam::Candidate,
    ctc::{Alignment, BLANK, align, log_add},
};
use crate::error::ModelError;

/// Coefficients of the confidence, in the order in which the weights file stores them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    /// Log odds where every distance is zero.
    pub bias: f32,
    /// Log odds per unit of each [`Evidence`] value.
    pub weights: [f32; 3],
    /// Confidence below which the transcript is empty.
    pub threshold: f32,
}

impl Calibration {
    /// Reads the five coefficients. `path` is named in errors.
    ///
    /// # Errors
    /// [`ModelError::Format`] for another count or values that are not finite.
    pub fn parse(values: &[f32], path: &Path) -> Result<Self, ModelError> {
        match *values {
            [bias, a, b, c, threshold] if values.iter().all(|x| x.is_finite()) => {
                Ok(Self { bias, weights: [a, b, c], threshold })
            }
            _ => Err(ModelError::Format {
                path: path.to_path_buf(),
                place: "confidence.calibration".into(),
                found: format!("{values:?}"),
                allowed: "five finite values".into(),
            }),
        }
    }

    /// Returns the coefficients as [`Calibration::parse`] reads them.
    #[must_use]
    pub fn values(&self) -> Vec<f32> {
        let [a, b, c] = self.weights;
        vec![self.bias, a, b, c, self.threshold]
    }

    /// Computes a confidence in 0..1.
    #[must_use]
    pub fn confidence(&self, evidence: &Evidence) -> f32 {
        let odds: f32 = self.weights.iter().zip(evidence.values()).map(|(w, x)| w * x).sum();
        1.0 / (1.0 + (-(self.bias + odds)).exp())
    }
}

/// What the confidence is computed from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evidence {
    /// Log-probability distance per phone between the unconfined path and the words, 0 or more.
    pub distance: f32,
    /// The same in the word where it is largest.
    pub worst_word: f32,
    /// Log probability of the transcript among those that the search ended with, 0 or less.
    pub share: f32,
}

impl Evidence {
    /// Returns the values in the order of [`Calibration::weights`]; the distances as roots, which are closer to linear in the log odds.
    #[must_use]
    pub fn values(&self) -> [f32; 3] {
        [self.distance.sqrt(), self.worst_word.sqrt(), self.share.max(-10.0)]
    }
}

/// The best transcript's words laid over the frames, with what speaks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// First and last frame of each word, and its distance per phone.
    pub words: Vec<(usize, usize, f32)>,
    /// Evidence of the whole transcript.
    pub evidence: Evidence,
}

/// Judges the first of `candidates` by `log_p` `[time, classes]`; `None` where it is empty or does not fit into the frames.
#[must_use]
pub fn judge(log_p: &[f64], classes: usize, candidates: &[Candidate]) -> Option<Judged> {
    let best = candidates.first().filter(|best| !best.words.is_empty())?;
    let phones: Vec<u8> = best.words.iter().flat_map(|(_, phones)| phones.iter().copied()).collect();
    let Alignment { spans, .. } = align(log_p, classes, &phones)?;
    let frames = log_p.len() / classes;
    let mut path = vec![BLANK; frames];
    for (&(first, last), &phone) in spans.iter().zip(&phones) {
        path[first..=last].fill(usize::from(phone));
    }
    let cost: Vec<f64> = log_p
        .chunks_exact(classes)
        .zip(&path)
        .map(|(row, &class)| row.iter().copied().fold(f64::NEG_INFINITY, f64::max) - row[class])
        .collect();
    let mut words = Vec::with_capacity(best.words.len());
    let mut from = 0;
    for (_, word) in &best.words {
        let span = &spans[from..from + word.len()];
        let (first, last) = (span[0].0, span[span.len() - 1].1);
        words.push((first, last, (cost[first..=last].iter().sum::<f64>() / word.len() as f64) as f32));
        from += word.len();
    }
    let total = candidates.iter().fold(f64::NEG_INFINITY, |sum, candidate| log_add(sum, candidate.score));
    let evidence = Evidence {
        distance: (cost.iter().sum::<f64>() / phones.len() as f64) as f32,
        worst_word: words.iter().map(|&(_, _, distance)| distance).fold(0.0, f32::max),
        share: (best.score - total) as f32,
    };
    Some(Judged { words, evidence })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asr::lexicon::WordId;

    const CALIBRATION: Calibration = Calibration { bias: 3.0, weights: [-1.0, -0.5, 0.5], threshold: 0.3 };

    fn candidate(phones: &[u8]) -> Candidate {
        Candidate { words: vec![(WordId(0), phones.to_vec())], score: -1.0 }
    }

    #[test]
    fn what_is_heard_exactly_has_no_distance() {
        let (low, high) = (0.05f64.ln(), 0.9f64.ln());
        let log_p = [[high, low, low], [low, high, low], [low, low, high], [high, low, low]].concat();
        let exact = judge(&log_p, 3, &[candidate(&[1, 2])]).expect("it fits");
        assert_eq!(exact.words, [(1, 2, 0.0)]);
        assert_eq!(exact.evidence, Evidence { distance: 0.0, worst_word: 0.0, share: 0.0 });
        let other = judge(&log_p, 3, &[candidate(&[2, 1])]).expect("it fits");
        assert!(other.evidence.distance > 1.0);
        assert!(CALIBRATION.confidence(&other.evidence) < CALIBRATION.confidence(&exact.evidence));
    }

    #[test]
    fn nothing_said_is_not_judged() {
        assert_eq!(judge(&[0.0; 6], 3, &[]), None);
        assert_eq!(judge(&[0.0; 6], 3, &[Candidate { words: vec![], score: 0.0 }]), None);
    }

    #[test]
    fn coefficients_survive_the_file() {
        assert_eq!(Calibration::parse(&CALIBRATION.values(), Path::new("w")).expect("valid"), CALIBRATION);
        assert!(Calibration::parse(&[1.0; 4], Path::new("w")).is_err());
        assert!(Calibration::parse(&[f32::NAN; 5], Path::new("w")).is_err());
    }
}
