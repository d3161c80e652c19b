//! What users did with predictions, joined to them later: clicks, repeated searches, corrections.
//!
//! Feedback names the record of a prediction and counts at the *prediction's* event time, whenever it comes: the quality
//! of a window does not depend on how fast users were. It is waited for as long as the maturity says; a window is *mature* when
//! no feedback that counts can come any more, and only mature windows have a realised quality.
//!
//! What always holds: the order in which feedback comes does not matter, and feedback that comes twice counts once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use driftline_types::{RecordId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{AccuracyEstimate, Calibrated, Detector, HourOfWeek};

/// What a user did with a prediction: `feedback.v1`, one JSON object.
///
/// ```json
/// {"record":"speech.search/0/17/0","at":"2026-11-22T09:00:00Z","kind":"corrected","transcript":"red jacket"}
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feedback {
    /// The record of the prediction, by its place in the log.
    pub record: RecordId,
    /// When the user did it.
    #[serde(with = "rfc3339")]
    pub at: Timestamp,
    /// What they did.
    pub kind: Reaction,
    /// What they had said, if they corrected it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcript: Option<String>,
}

mod rfc3339 {
    use driftline_types::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        let allowed = "a time such as \"2026-11-22T09:00:00Z\"";
        Timestamp::parse(&text).ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &allowed))
    }
}

/// What a user did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reaction {
    /// They took a result.
    Clicked,
    /// They asked again.
    SearchedAgain,
    /// They gave up speaking.
    SwitchedToTyping,
    /// They wrote what they had said.
    Corrected,
}

/// A prediction that feedback may come for.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Its record, by its place in the log.
    pub record: RecordId,
    /// Its event time.
    pub time: Timestamp,
    /// How sure the model was, 0 to 1; `None` if it does not say.
    pub confidence: Option<f64>,
    /// What the model understood; `None` if it is not about words.
    pub transcript: Option<String>,
}

/// How feedback is joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedbackRules {
    /// The width of a window of event time, milliseconds, at least 1.
    pub window_ms: i64,
    /// How long after its event time feedback for a prediction counts, milliseconds.
    pub maturity_ms: i64,
}

/// Feedback that did not count, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Uncounted {
    /// Of a record that is no known prediction.
    pub unmatched: u64,
    /// Later than the maturity, or before the prediction.
    pub late: u64,
    /// Of a kind that the record had already.
    pub duplicated: u64,
}

/// What became of the predictions of one window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FeedbackWindow {
    /// Its start, event time.
    pub start: Timestamp,
    /// Whether all feedback that counts has had time to come. If not, the rates are too low and there is no accuracy.
    pub mature: bool,
    /// Predictions.
    pub predictions: u64,
    /// Of these, with a click.
    pub clicked: u64,
    /// Of these, asked again or typed instead.
    pub redone: u64,
    /// Of these, corrected.
    pub corrected: u64,
    /// Of these, both clicked and redone, or clicked and corrected to something else: neither right nor wrong.
    pub contradictory: u64,
    /// Words of the corrections, and how many of them were wrong (Levenshtein distance).
    pub words: (u64, u64),
    /// Predictions that are known to be right or wrong, and how many are right.
    pub labelled: (u64, u64),
    /// The accuracy that the confidences promise, by what the mature windows before showed ([`Calibrated`]); `None` without
    /// enough of those.
    pub estimate: Option<AccuracyEstimate>,
    /// The distance of the realised accuracy from the estimate, in standard errors; below 0 it is worse.
    pub gap: Option<f64>,
    /// The evidence of the mature windows up to this one that confidences no longer mean what they did, 0 or more: without a
    /// change it reaches A after A windows on average ([`Detector`]). It is 0 until there are
    /// [`MIN_HISTORY`](crate::MIN_HISTORY) gaps to compare with.
    pub evidence: f64,
}

impl FeedbackWindow {
    fn new(start: Timestamp) -> Self {
        Self {
            start,
            mature: false,
            predictions: 0,
            clicked: 0,
            redone: 0,
            corrected: 0,
            contradictory: 0,
            words: (0, 0),
            labelled: (0, 0),
            estimate: None,
            gap: None,
            evidence: 0.0,
        }
    }

    /// Returns a part of the predictions; `None` without any.
    #[must_use]
    pub fn rate(&self, count: u64) -> Option<f64> {
        share(count, self.predictions)
    }

    /// Returns the share of wrong words in corrected transcripts; it may exceed 1.
    #[must_use]
    pub fn word_error(&self) -> Option<f64> {
        share(self.words.1, self.words.0)
    }

    /// Returns the accuracy of the predictions that are known to be right or wrong; `None` before the window is mature.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        share(self.labelled.1, self.labelled.0).filter(|_| self.mature)
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The bins of the confidence, of equal width.
const BINS: usize = 10;
/// Labelled predictions below which nothing is estimated from them.
pub const MIN_LABELLED: u64 = 50;

/// What is known of one prediction.
#[derive(Clone, Debug, Default)]
struct Reactions {
    kinds: BTreeSet<Reaction>,
    /// The newest correction: when, and what. Of several at one time the greatest, so that their order does not matter.
    correction: Option<(Timestamp, String)>,
}

impl Reactions {
    fn has(&self, reaction: Reaction) -> bool {
        self.kinds.contains(&reaction)
    }
}

/// Joins feedback to predictions and counts both by window. `now` is how far event time has come: what counts as mature.
///
/// A prediction is *right* if it was clicked, or corrected to what it was; *wrong* if it was redone, or corrected to something
/// else; and neither if users contradicted themselves or did nothing.
#[must_use]
pub fn join(
    predictions: &[Prediction],
    feedback: &[Feedback],
    rules: FeedbackRules,
    now: Timestamp,
) -> (Vec<FeedbackWindow>, Uncounted) {
    let by_record: HashMap<&RecordId, usize> =
        predictions.iter().enumerate().map(|(at, prediction)| (&prediction.record, at)).collect();
    let mut reactions = vec![Reactions::default(); predictions.len()];
    let mut uncounted = Uncounted::default();
    for feedback in feedback {
        let Some(&at) = by_record.get(&feedback.record) else {
            uncounted.unmatched += 1;
            continue;
        };
        let time = predictions[at].time;
        if feedback.at < time || feedback.at > time.plus_millis(rules.maturity_ms) {
            uncounted.late += 1;
            continue;
        }
        let known = &mut reactions[at];
        if !known.kinds.insert(feedback.kind) {
            uncounted.duplicated += 1;
        }
        if let (Reaction::Corrected, Some(text)) = (feedback.kind, &feedback.transcript) {
            let newer = (feedback.at, text.clone());
            if known.correction.as_ref().is_none_or(|known| *known < newer) {
                known.correction = Some(newer);
            }
        }
    }
    let mut windows: BTreeMap<Timestamp, (FeedbackWindow, Cells)> = BTreeMap::new();
    for (prediction, reactions) in predictions.iter().zip(&reactions) {
        let start = prediction.time.window_start(rules.window_ms);
        let (window, cells) = windows.entry(start).or_insert_with(|| (FeedbackWindow::new(start), Cells::default()));
        count(prediction, reactions, window, cells);
    }
    let mut past = Cells::default();
    // The gap of all predictions, of the unsure and of the sure ones.
    let mut detector = Detector::new(3);
    let windows = windows.into_iter().map(|(start, (mut window, cells))| {
        window.mature = start.plus_millis(rules.window_ms.saturating_add(rules.maturity_ms)) <= now;
        if let Some(calibrated) = past.calibrated() {
            window.estimate = calibrated.estimate(&cells.all);
            if window.mature {
                let gaps = calibrated.gaps(&cells.labelled, &[0..BINS / 2, BINS / 2..BINS]);
                window.gap = Some(gaps[0]).filter(|gap| gap.is_finite());
                detector.observe(HourOfWeek::of(start), &gaps);
            }
        }
        if window.mature {
            past.add(&cells);
        }
        window.evidence = detector.evidence();
        window
    });
    (windows.collect(), uncounted)
}

/// Predictions by bins of their confidence.
#[derive(Clone, Debug, Default)]
struct Cells {
    all: [u64; BINS],
    /// Right, and right or wrong.
    labelled: [(u64, u64); BINS],
}

impl Cells {
    fn add(&mut self, other: &Self) {
        for (mine, (right, all)) in self.labelled.iter_mut().zip(other.labelled) {
            *mine = (mine.0 + right, mine.1 + all);
        }
    }

    /// What was true of the confidences; `None` with fewer than [`MIN_LABELLED`] labels.
    fn calibrated(&self) -> Option<Calibrated> {
        let labelled: u64 = self.labelled.iter().map(|(_, all)| all).sum();
        (labelled >= MIN_LABELLED).then(|| Calibrated::new(self.labelled.to_vec()))
    }
}

fn count(prediction: &Prediction, reactions: &Reactions, window: &mut FeedbackWindow, cells: &mut Cells) {
    let clicked = reactions.has(Reaction::Clicked);
    let redone = reactions.has(Reaction::SearchedAgain) || reactions.has(Reaction::SwitchedToTyping);
    window.predictions += 1;
    window.clicked += u64::from(clicked);
    window.redone += u64::from(redone);
    window.corrected += u64::from(reactions.has(Reaction::Corrected));
    let mut corrected_to_same = None;
    if let (Some((_, said)), Some(understood)) = (&reactions.correction, &prediction.transcript) {
        let (said, understood) = (words(said), words(understood));
        let wrong = strsim::generic_levenshtein(&said, &understood);
        window.words.0 += said.len() as u64;
        window.words.1 += wrong as u64;
        corrected_to_same = Some(wrong == 0);
    }
    let good = clicked || corrected_to_same == Some(true);
    let bad = redone || corrected_to_same == Some(false);
    window.contradictory += u64::from(good && bad);
    let bin = prediction.confidence.filter(|confidence| confidence.is_finite());
    let bin = bin.map(|confidence| ((confidence * BINS as f64) as usize).min(BINS - 1));
    if let Some(bin) = bin {
        cells.all[bin] += 1;
    }
    if good != bad {
        window.labelled.0 += 1;
        window.labelled.1 += u64::from(good);
        if let Some(bin) = bin {
            cells.labelled[bin].1 += 1;
            cells.labelled[bin].0 += u64::from(good);
        }
    }
}

/// Splits a transcript into words, without regard to case and marks.
fn words(text: &str) -> Vec<String> {
    let word = |word: &str| word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    text.split_whitespace().map(word).filter(|word: &String| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use driftline_types::Topic;
    use proptest::prelude::*;

    use super::*;
    use crate::noise::Noise;

    const RULES: FeedbackRules = FeedbackRules { window_ms: 10_000, maturity_ms: 30_000 };

    fn id(offset: u64) -> RecordId {
        RecordId { topic: Topic::try_new("speech.search").unwrap(), partition: 0, offset, index: 0 }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn prediction(offset: u64, seconds: i64, transcript: &str) -> Prediction {
        Prediction {
            record: id(offset),
            time: at(seconds),
            confidence: Some(0.85),
            transcript: Some(transcript.to_owned()),
        }
    }

    fn reaction(offset: u64, seconds: i64, kind: Reaction) -> Feedback {
        Feedback { record: id(offset), at: at(seconds), kind, transcript: None }
    }

    fn correction(offset: u64, seconds: i64, text: &str) -> Feedback {
        Feedback { transcript: Some(text.to_owned()), ..reaction(offset, seconds, Reaction::Corrected) }
    }

    #[test]
    fn feedback_counts_at_the_time_of_its_prediction() {
        let predictions = [prediction(1, 5, "red jacket"), prediction(2, 9, "yoga mat"), prediction(3, 12, "desk")];
        let feedback = [reaction(1, 31, Reaction::Clicked), reaction(3, 14, Reaction::SwitchedToTyping)];
        let (windows, uncounted) = join(&predictions, &feedback, RULES, at(45));
        assert_eq!(uncounted, Uncounted::default());
        let [first, second] = &windows[..] else { panic!("{windows:?}") };
        assert_eq!((first.start, first.predictions, first.clicked, first.redone), (at(0), 2, 1, 0));
        assert_eq!((first.mature, first.labelled, first.accuracy()), (true, (1, 1), Some(1.0)));
        assert_eq!(
            (second.start, second.predictions, second.redone, second.rate(second.redone)),
            (at(10), 1, 1, Some(1.0))
        );
        // Its feedback may still come.
        assert_eq!((second.mature, second.accuracy()), (false, None));
    }

    #[test]
    fn late_unmatched_and_early_feedback_is_counted_and_left_out() {
        let predictions = [prediction(1, 50, "red jacket")];
        let feedback = [
            reaction(1, 80, Reaction::Clicked),
            reaction(1, 81, Reaction::SearchedAgain),
            reaction(1, 49, Reaction::SearchedAgain),
            reaction(7, 60, Reaction::Clicked),
        ];
        let (windows, uncounted) = join(&predictions, &feedback, RULES, at(1_000));
        assert_eq!(uncounted, Uncounted { unmatched: 1, late: 2, duplicated: 0 });
        assert_eq!((windows[0].clicked, windows[0].redone), (1, 0));
    }

    #[test]
    fn what_comes_twice_counts_once_and_the_last_correction_holds() {
        let predictions = [prediction(1, 0, "bread jacket now")];
        let feedback = [
            reaction(1, 2, Reaction::SearchedAgain),
            reaction(1, 3, Reaction::SearchedAgain),
            correction(1, 4, "Red jacket!"),
            correction(1, 9, "a red jacket, now"),
        ];
        let (windows, uncounted) = join(&predictions, &feedback, RULES, at(1_000));
        assert_eq!(uncounted.duplicated, 2);
        let window = &windows[0];
        assert_eq!((window.redone, window.corrected, window.labelled), (1, 1, (1, 0)));
        // "bread" is two words instead: one replaced, one left out.
        assert_eq!((window.words, window.word_error()), ((4, 2), Some(0.5)));
    }

    #[test]
    fn a_contradiction_is_no_label() {
        let predictions = [prediction(1, 0, "red jacket"), prediction(2, 0, "red jacket"), prediction(3, 0, "desk")];
        let feedback = [
            reaction(1, 1, Reaction::Clicked),
            reaction(1, 5, Reaction::SearchedAgain),
            reaction(2, 1, Reaction::Clicked),
            correction(2, 2, "blue jacket"),
            correction(3, 2, "Desk."),
        ];
        let (windows, _) = join(&predictions, &feedback, RULES, at(1_000));
        assert_eq!((windows[0].contradictory, windows[0].labelled), (2, (1, 1)));
        assert_eq!((windows[0].clicked, windows[0].redone, windows[0].corrected), (2, 1, 2));
    }

    #[test]
    fn the_estimate_stands_beside_what_came_true() {
        // A hundred sessions a window; those the model is sure of are right nine times in ten, others five.
        let sure = |n: u64| n.is_multiple_of(2);
        let mut predictions = Vec::new();
        let mut feedback = Vec::new();
        for n in 0..400 {
            let window = (n / 100) as i64;
            // In the last window the sure ones are right five times in ten too: the model has gone astray.
            let right = if sure(n) && window < 3 { n % 20 != 0 } else { n % 4 < 2 };
            let confidence = Some(if sure(n) { 0.95 } else { 0.35 });
            predictions.push(Prediction { confidence, ..prediction(n, window * 10, "desk") });
            let kind = if right { Reaction::Clicked } else { Reaction::SearchedAgain };
            feedback.push(reaction(n, window * 10 + 5, kind));
        }
        let (windows, _) = join(&predictions, &feedback, RULES, at(1_000));
        assert_eq!((windows[0].estimate, windows[0].gap), (None, None));
        for window in &windows[1..3] {
            let (estimate, accuracy) = (window.estimate.unwrap(), window.accuracy().unwrap());
            assert!((estimate.accuracy - accuracy).abs() < 0.03, "{window:?}");
            assert!(window.gap.unwrap().abs() < 1.0, "{window:?}");
        }
        assert!((windows[3].estimate.unwrap().accuracy - windows[2].accuracy().unwrap()).abs() < 0.03);
        assert!(windows[3].gap.unwrap() < -3.0, "{:?}", windows[3]);
    }

    #[test]
    fn the_gap_is_as_uncertain_as_the_labels_are_few() {
        // A thousand predictions a window, every tenth with a label; 85 of the hundred are right, in the last window 79.
        let mut predictions = Vec::new();
        let mut feedback = Vec::new();
        for n in 0..3_000 {
            let (window, place) = ((n / 1_000) as i64, n % 1_000);
            predictions.push(prediction(n, window * 10, "desk"));
            if place % 10 == 0 {
                let right = place / 10 < if window < 2 { 85 } else { 79 };
                let kind = if right { Reaction::Clicked } else { Reaction::SearchedAgain };
                feedback.push(reaction(n, window * 10 + 5, kind));
            }
        }
        let (windows, _) = join(&predictions, &feedback, RULES, at(1_000));
        // (0.79 - 0.85) / sqrt(0.85 · 0.15 · (1/100 + 1/200)) = -1.37
        let gap = windows[2].gap.unwrap();
        assert!((-1.5..-1.2).contains(&gap), "{gap}");
    }

    #[test]
    fn confidences_that_no_longer_mean_what_they_did_are_evident() {
        // Two hundred predictions a window, as right as they are sure; from window 200 on the sure ones are too sure.
        let mut noise = Noise::new(1);
        let (mut predictions, mut feedback) = (Vec::new(), Vec::new());
        for n in 0..43_000 {
            let window = (n / 200) as i64;
            let confidence = noise.uniform();
            let chance = if window >= 200 && confidence > 0.5 { 0.75 * confidence } else { confidence };
            let kind = if noise.uniform() < chance { Reaction::Clicked } else { Reaction::SearchedAgain };
            predictions.push(Prediction { confidence: Some(confidence), ..prediction(n, window * 10, "desk") });
            feedback.push(reaction(n, window * 10 + 5, kind));
        }
        let (windows, _) = join(&predictions, &feedback, RULES, at(100_000));
        assert_eq!(windows[30].evidence, 0.0);
        let most = windows[..200].iter().map(|window| window.evidence).fold(0.0, f64::max);
        assert!(most < 1_000.0, "{most}");
        assert!(windows[209].evidence > 10_000.0, "{}", windows[209].evidence);
    }

    #[test]
    fn the_schema_is_text_for_people() {
        let text =
            r#"{"record":"speech.search/0/17/0","at":"2026-11-22T09:00:00Z","kind":"corrected","transcript":"desk"}"#;
        let feedback: Feedback = serde_json::from_str(text).unwrap();
        assert_eq!((feedback.kind, feedback.record.offset), (Reaction::Corrected, 17));
        assert_eq!(serde_json::to_string(&feedback).unwrap(), text);
        for wrong in [
            r#"{"record":"17","at":"2026-11-22T09:00:00Z","kind":"clicked"}"#,
            r#"{"record":"a/0/17/0","at":"noon","kind":"clicked"}"#,
            r#"{"record":"a/0/17/0","at":"2026-11-22T09:00:00Z","kind":"bought"}"#,
        ] {
            assert!(serde_json::from_str::<Feedback>(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        /// Neither the order nor a repetition of feedback changes a window.
        #[test]
        fn order_and_repetition_do_not_matter(
            reactions in prop::collection::vec((0u64..6, 0i64..60, 0usize..4, 0usize..3), 0..20),
            rotate in any::<prop::sample::Index>(),
            again in any::<prop::sample::Index>(),
        ) {
            let predictions: Vec<_> = (0..5).map(|n| prediction(n, n as i64 * 4, "red jacket")).collect();
            let mut feedback: Vec<_> = reactions
                .into_iter()
                .map(|(record, seconds, kind, text)| match kind {
                    0 => reaction(record, seconds, Reaction::Clicked),
                    1 => reaction(record, seconds, Reaction::SearchedAgain),
                    2 => reaction(record, seconds, Reaction::SwitchedToTyping),
                    _ => correction(record, seconds, ["red jacket", "red", "blue jacket"][text]),
                })
                .collect();
            let (windows, _) = join(&predictions, &feedback, RULES, at(1_000));
            if !feedback.is_empty() {
                let n = feedback.len();
                feedback.rotate_left(rotate.index(n));
                feedback.push(feedback[again.index(n)].clone());
            }
            let (again, _) = join(&predictions, &feedback, RULES, at(1_000));
            prop_assert_eq!(windows, again);
        }
    }
}
