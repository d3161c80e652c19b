//! The figures of the model card: sets to recognise, scores, and the table.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    path::Path,
    time::Instant,
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use rand_distr::{Distribution, Normal};
use serde::Serialize;

use super::{
    TrainingError, augment,
    clip::{Clip, Source, read_wav},
    grammar::{Grammar, OtherSpeech},
    resample::resample,
    synthesis::{Engine, HELD_OUT, NATURAL_HELD_OUT, Request, other_words, synthesise, training_voice},
};
use crate::asr::{Heard, Recogniser, frontend::RATE, lexicon::Lexicon};

/// How many utterances the sets have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetSizes {
    /// Digit strings made of each real speaker's digits.
    pub strings: usize,
    /// Phrases said by each held-out voice.
    pub phrases: usize,
    /// Phrases said by each held-out natural voice, and half as many utterances outside the vocabulary.
    pub natural: usize,
    /// Utterances outside the vocabulary.
    pub others: usize,
}

/// Something to recognise and what is said in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// 16 kHz audio.
    pub audio: Vec<f32>,
    /// The words; empty for speech outside the vocabulary.
    pub words: Vec<String>,
}

impl Trial {
    /// Brings 8 kHz audio to the rate that the recogniser takes.
    #[must_use]
    pub fn new(audio: &[f32], words: Vec<String>) -> Self {
        Self { audio: resample(audio, 0.5), words }
    }
}

/// Counts over a set.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Score {
    /// Utterances.
    pub utterances: usize,
    /// Utterances whose best transcript has no error.
    pub right: usize,
    /// Words said.
    pub words: usize,
    /// Substitutions, insertions and deletions in the best transcripts.
    pub errors: usize,
    /// The same where a rejected transcript counts as empty.
    pub errors_with_rejection: usize,
    /// Utterances with an empty transcript.
    pub rejected: usize,
    /// Of the utterances whose best transcript has no error, those that were rejected.
    pub right_rejected: usize,
}

impl Score {
    fn count(&mut self, trial: &Trial, heard: &Heard) {
        let split = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let errors = edit_distance(&trial.words, &split(&heard.best));
        self.utterances += 1;
        self.right += usize::from(errors == 0);
        self.words += trial.words.len();
        self.errors += errors;
        self.errors_with_rejection += edit_distance(&trial.words, &split(&heard.hypothesis.text));
        let rejected = heard.hypothesis.text.is_empty();
        self.rejected += usize::from(rejected);
        self.right_rejected += usize::from(rejected && errors == 0);
    }

    fn add(&mut self, other: &Self) {
        self.utterances += other.utterances;
        self.right += other.right;
        self.words += other.words;
        self.errors += other.errors;
        self.errors_with_rejection += other.errors_with_rejection;
        self.rejected += other.rejected;
        self.right_rejected += other.right_rejected;
    }
}

/// Counts the fewest substitutions, insertions and deletions between two sequences (Levenshtein, 1966).
#[must_use]
pub fn edit_distance<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Recognises a set.
///
/// # Errors
/// [`TrainingError::Model`] from the recogniser.
pub fn score(recogniser: &Recogniser, trials: &[Trial]) -> Result<Score, TrainingError> {
    let audio: Vec<&[f32]> = trials.iter().map(|trial| trial.audio.as_slice()).collect();
    let mut score = Score::default();
    for (trial, heard) in trials.iter().zip(recogniser.hear(&audio)?) {
        score.count(trial, &heard);
    }
    Ok(score)
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was recognised.
    pub set: String,
    /// By whom, or under which condition.
    pub condition: String,
    /// The counts.
    #[serde(flatten)]
    pub score: Score,
}

/// The table.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// Its lines.
    pub rows: Vec<Row>,
    /// Milliseconds that one segment of two seconds takes on one thread.
    pub two_seconds_ms: f64,
}

impl Report {
    fn push(&mut self, set: &str, condition: impl Into<String>, score: Score) {
        self.rows.push(Row { set: set.into(), condition: condition.into(), score });
    }

    /// Measures each part of a set, and all of it.
    fn push_each(
        &mut self,
        recogniser: &Recogniser,
        set: &str,
        parts: &BTreeMap<String, Vec<Trial>>,
        whole: &str,
    ) -> Result<(), TrainingError> {
        let mut all = Score::default();
        for (condition, trials) in parts {
            let score = score(recogniser, trials)?;
            all.add(&score);
            self.push(set, condition, score);
        }
        self.push(set, whole, all);
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| set | condition | utterances | right % | word error % | with rejection % | rejected % | right but rejected % |"
        )?;
        writeln!(f, "|---|---|---:|---:|---:|---:|---:|---:|")?;
        for Row { set, condition, score } in &self.rows {
            let share = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
            let mut line = format!("| {set} | {condition} | {} |", score.utterances);
            let rejected = share(score.rejected, score.utterances);
            if score.words == 0 {
                write!(line, " | | | {rejected:.1} | |")?;
            } else {
                let right = share(score.right, score.utterances);
                let errors = [score.errors, score.errors_with_rejection].map(|errors| share(errors, score.words));
                write!(
                    line,
                    " {right:.1} | {:.1} | {:.1} | {rejected:.1} | {:.1} |",
                    errors[0],
                    errors[1],
                    share(score.right_rejected, score.right)
                )?;
            }
            writeln!(f, "{line}")?;
        }
        writeln!(f, "\nA segment of two seconds takes {:.1} ms on one thread.", self.two_seconds_ms)
    }
}

/// The sets that all models are measured on.
pub struct Sets {
    /// Real digits, by speaker.
    pub digits: BTreeMap<String, Vec<Trial>>,
    /// Strings of three to seven real digits with pauses, by speaker.
    pub strings: BTreeMap<String, Vec<Trial>>,
    /// Queries, by held-out voice.
    pub phrases: BTreeMap<String, Vec<Trial>>,
    /// Queries by held-out natural voices: American or British, women or men.
    pub natural: BTreeMap<String, Vec<Trial>>,
    /// Synthetic speech outside the vocabulary, by all voices but natural ones.
    pub others: Vec<Trial>,
    /// Speech outside the vocabulary by held-out natural voices.
    pub natural_others: Vec<Trial>,
    /// Read sentences.
    pub sentences: Vec<Trial>,
}

impl Sets {
    /// Makes the sets, synthesising what `cache` does not hold.
    ///
    /// # Errors
    /// [`TrainingError`] where data cannot be read or a synthesiser fails.
    pub fn new(
        sizes: SetSizes,
        digits: &[Clip],
        data: &Path,
        grammar: &Grammar,
        lexicon: &Lexicon,
        cache: &Path,
    ) -> Result<Self, TrainingError> {
        let mut rng = StdRng::seed_from_u64(1001);
        let mut speakers: BTreeMap<String, Vec<&Clip>> = BTreeMap::new();
        for clip in digits {
            if let Source::Real { speaker } = &clip.source {
                speakers.entry(speaker.clone()).or_default().push(clip);
            }
        }
        let single = |clip: &&Clip| Trial::new(&clip.audio(), clip.words.clone());
        let strings = speakers
            .iter()
            .map(|(name, clips)| (name.clone(), (0..sizes.strings).map(|_| string(clips, &mut rng)).collect()))
            .collect();

        let mut requests = Vec::new();
        for (engine, voice) in HELD_OUT {
            requests
                .extend((0..sizes.phrases).map(|_| Request::draw(grammar.query(&mut rng), engine, voice, &mut rng)));
        }
        let mut phrases: BTreeMap<String, Vec<Trial>> = BTreeMap::new();
        for clip in synthesise(&requests, lexicon, cache)? {
            if let Source::Synthetic { voice } = &clip.source {
                phrases.entry(voice.clone()).or_default().push(single(&&clip));
            }
        }
        let requests: Vec<Request> = (0..sizes.others)
            .map(|i| {
                let words = other_words(OtherSpeech::Test, &mut rng);
                let (engine, voice) = match HELD_OUT.get(i % (2 * HELD_OUT.len())) {
                    Some(&(engine, voice)) => (engine, voice.to_owned()),
                    None => training_voice(&mut rng),
                };
                Request::draw(words, engine, &voice, &mut rng)
            })
            .collect();
        let unsaid = |clip: &Clip| Trial::new(&clip.audio(), Vec::new());
        let others = synthesise(&requests, lexicon, cache)?.iter().map(unsaid).collect();
        let mut sentences = Vec::new();
        for entry in std::fs::read_dir(data.join("librivox"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "wav") {
                let (samples, rate) = read_wav(&path)?;
                sentences.push(Trial { audio: resample(&samples, rate as f32 / 16_000.0), words: Vec::new() });
            }
        }
        let mut rng = StdRng::seed_from_u64(1003);
        let mut requests = Vec::new();
        for voice in NATURAL_HELD_OUT {
            let query = |_| Request::draw(grammar.query(&mut rng), Engine::Kokoro, voice, &mut rng);
            requests.extend((0..sizes.natural).map(query));
        }
        let mut natural: BTreeMap<String, Vec<Trial>> = BTreeMap::new();
        for (request, clip) in requests.iter().zip(synthesise(&requests, lexicon, cache)?) {
            let people = match &request.voice[..2] {
                "af" => "American women",
                "am" => "American men",
                "bf" => "British women",
                _ => "British men",
            };
            natural.entry(people.to_owned()).or_default().push(single(&&clip));
        }
        let mut requests = Vec::new();
        for voice in NATURAL_HELD_OUT {
            let other = |_| Request::draw(other_words(OtherSpeech::Test, &mut rng), Engine::Kokoro, voice, &mut rng);
            requests.extend((0..sizes.natural / 2).map(other));
        }
        let natural_others = synthesise(&requests, lexicon, cache)?.iter().map(unsaid).collect();
        let digits = speakers.iter().map(|(name, clips)| (name.clone(), clips.iter().map(single).collect())).collect();
        Ok(Self { digits, strings, phrases, natural, others, natural_others, sentences })
    }
}

/// Joins three to seven of a speaker's digits with pauses of 0.15 to 0.6 s over a faint noise.
fn string(clips: &[&Clip], rng: &mut StdRng) -> Trial {
    let mut audio = Vec::new();
    let mut words = Vec::new();
    for _ in 0..rng.random_range(3..=7) {
        let Some(clip) = clips.choose(rng) else {
            continue;
        };
        audio.extend(clip.audio());
        audio.resize(audio.len() + (rng.random_range(0.15..0.6) * RATE as f32) as usize, 0.0);
        words.extend(clip.words.iter().cloned());
    }
    noisy(&mut audio, 40.0, rng);
    Trial::new(&audio, words)
}

/// Adds white noise `ratio` decibels under the speech.
fn noisy(audio: &mut [f32], ratio: f32, rng: &mut StdRng) {
    let deviation = (augment::loud_power(audio) / 10f32.powf(ratio / 10.0)).sqrt();
    if let Ok(normal) = Normal::new(0.0, deviation) {
        audio.iter_mut().for_each(|x| *x += normal.sample(rng));
    }
}

/// Measures the model, and for each speaker the model that never heard them.
///
/// # Errors
/// [`TrainingError::Model`] from a recogniser.
pub fn report(
    recogniser: &Recogniser,
    folds: &BTreeMap<String, Recogniser>,
    sets: &Sets,
) -> Result<Report, TrainingError> {
    let mut report = Report::default();
    for (set, trials) in [("digits", &sets.digits), ("digit strings", &sets.strings)] {
        let mut all = Score::default();
        for (speaker, fold) in folds {
            if let Some(trials) = trials.get(speaker) {
                let score = score(fold, trials)?;
                all.add(&score);
                report.push(set, format!("{speaker}, left out"), score);
            }
        }
        report.push(set, "mean of the left-out speakers", all);
        let mut all = Score::default();
        for trials in trials.values() {
            all.add(&score(recogniser, trials)?);
        }
        report.push(set, "the model that ships (trained on these speakers)", all);
    }
    report.push_each(recogniser, "phrases", &sets.phrases, "all held-out voices")?;
    if !sets.natural.is_empty() {
        report.push_each(recogniser, "phrases, natural voices", &sets.natural, "all held-out voices")?;
        report.push("other speech", "natural voices", score(recogniser, &sets.natural_others)?);
    }
    let phrases: Vec<&Trial> = sets.phrases.values().flatten().collect();
    let mut rng = StdRng::seed_from_u64(1002);
    let mut under = |condition: &str, change: &dyn Fn(&mut Vec<f32>, &mut StdRng)| -> Result<(), TrainingError> {
        let changed: Vec<Trial> = phrases
            .iter()
            .map(|trial| {
                let mut audio = trial.audio.clone();
                change(&mut audio, &mut rng);
                Trial { audio, words: trial.words.clone() }
            })
            .collect();
        report.push("phrases", condition, score(recogniser, &changed)?);
        Ok(())
    };
    under("white noise at 20 dB", &|audio, rng| {
        noisy(audio, 20.0, rng);
    })?;
    under("white noise at 10 dB", &|audio, rng| {
        noisy(audio, 10.0, rng);
    })?;
    under("telephone band", &|audio, rng| {
        let mut narrow = resample(audio, 2.0);
        augment::telephone(&mut narrow, rng);
        *audio = resample(&narrow, 0.5);
    })?;
    report.push("other speech", "synthetic", score(recogniser, &sets.others)?);
    report.push("other speech", "LibriVox", score(recogniser, &sets.sentences)?);
    report.two_seconds_ms = two_seconds(recogniser, &phrases)?;
    Ok(report)
}

/// Times segments of two seconds, one at a time on one thread.
fn two_seconds(recogniser: &Recogniser, trials: &[&Trial]) -> Result<f64, TrainingError> {
    const SEGMENTS: usize = 50;
    let audio: Vec<f32> = trials.iter().flat_map(|trial| trial.audio.iter().copied()).take(SEGMENTS * 32_000).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(std::io::Error::other)?;
    pool.install(|| {
        let start = Instant::now();
        let mut segments = 0;
        for segment in audio.chunks_exact(32_000) {
            recogniser.hear(&[segment])?;
            segments += 1;
        }
        Ok(start.elapsed().as_secs_f64() * 1000.0 / f64::from(segments.max(1)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_each_kind_of_error() {
        let distance = |a: &str, b: &str| {
            edit_distance(&a.split_whitespace().collect::<Vec<_>>(), &b.split_whitespace().collect::<Vec<_>>())
        };
        assert_eq!(distance("red shoes", "red shoes"), 0);
        assert_eq!(distance("red shoes", "red blue shoes"), 1);
        assert_eq!(distance("red shoes", "shoes"), 1);
        assert_eq!(distance("red shoes", "bed shoes"), 1);
        assert_eq!(distance("", "one two"), 2);
    }

    proptest! {
        #[test]
        fn edit_distance_is_a_metric(
            a in prop::collection::vec(0u8..3, 0..7),
            b in prop::collection::vec(0u8..3, 0..7),
            c in prop::collection::vec(0u8..3, 0..7),
        ) {
            prop_assert_eq!(edit_distance(&a, &b), edit_distance(&b, &a));
            prop_assert_eq!(edit_distance(&a, &b) == 0, a == b);
            prop_assert!(edit_distance(&a, &c) <= edit_distance(&a, &b) + edit_distance(&b, &c));
        }
    }

    #[test]
    fn noise_has_the_power_asked_for() {
        let mut audio = vec![0.5f32; 8000];
        noisy(&mut audio, 20.0, &mut StdRng::seed_from_u64(1));
        let power = audio.iter().map(|x| (x - 0.5) * (x - 0.5)).sum::<f32>() / 8000.0;
        assert!((power / 0.0025 - 1.0).abs() < 0.1, "{power}");
    }
}
