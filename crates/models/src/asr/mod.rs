//! The builtin recogniser: digits and the search's vocabulary, from 16 kHz audio to words.
//!
//! A segment passes [`frontend`] (log-mel at 10 ms), [`network`] (phones at 30 ms, trained with [`ctc`]), [`beam`] (words of the
//! [`lexicon`] under the [`language`] model) and [`confidence`]. Lexicon and language model are text files beside the weights; all three
//! are embedded in the binary and together make the [`Recogniser::version`]. How it was trained, and how well it hears, stands
//! in `weights/asr.md`.
//!
//! A segment's result does not depend on the segments it is recognised with: padding is never read.

pub mod beam;
pub mod confidence;
pub mod ctc;
pub mod frontend;
pub mod language;
pub(crate) mod layers;
pub mod lexicon;
pub mod network;
pub mod training;
pub mod weights;

use std::{fs, path::Path, sync::Arc};

use rayon::prelude::*;

use self::{
    confidence::{Calibration, Evidence},
    frontend::{BANDS, FRAME_MS, Frontend, PAD_FRAMES},
    language::LanguageModel,
    lexicon::{CLASSES, Lexicon},
    network::{Network, STRIDE},
    weights::{COLOUR, Weights},
};
use crate::{error::ModelError, inspect::header::read_checked};

/// Names of the three files of a model folder.
pub const WEIGHTS_FILE: &str = "asr.safetensors";
/// The lexicon, see [`Lexicon::parse`].
pub const LEXICON_FILE: &str = "asr.lexicon.txt";
/// The trigram counts, see [`LanguageModel::parse`].
pub const TRIGRAMS_FILE: &str = "asr.trigrams.txt";

/// Frames that are computed in one batch: bounds the memory of a call with many or long segments.
const BATCH_FRAMES: usize = 12_000;
/// Taken off the blank's log probability before the search. A network trained by CTC answers "nothing here" wherever it is in doubt, which turns
/// an unclear word into a shorter one. 2 halves the word errors of phrases in voices never trained on (6.4 to 3.3 %) and takes those of digits by an
/// unseen speaker from 22 to 17 %; more than 3 invents sounds.
const BLANK_PENALTY: f64 = 2.0;
/// Milliseconds between two outputs of the network.
const OUTPUT_MS: u32 = FRAME_MS * STRIDE as u32;

/// A word of a transcript.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// Its spelling.
    pub text: String,
    /// Where it begins in the segment, milliseconds.
    pub start_ms: u32,
    /// Where it ends, milliseconds; after `start_ms`.
    pub end_ms: u32,
    /// Confidence in it, 0..1.
    pub confidence: f32,
}

/// What was heard in a segment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hypothesis {
    /// The words, separated by spaces; empty where nothing was said, or nothing that the vocabulary holds.
    pub text: String,
    /// Confidence in the words heard, also where they were rejected and `text` is empty; 0..1, and 0 where nothing was heard.
    pub confidence: f32,
    /// Phones on the network's best path, whether or not they made words.
    pub tokens: u32,
    /// The words of `text` with their times.
    pub words: Vec<Word>,
}

#[derive(Clone)]
struct Model {
    frontend: Frontend,
    network: Network,
    lexicon: Lexicon,
    language: LanguageModel,
    calibration: Calibration,
    /// Prefixes that the search keeps.
    width: usize,
    version: String,
}

/// Recognises segments of speech. A clone shares the model.
#[derive(Clone)]
pub struct Recogniser {
    model: Arc<Model>,
}

impl Recogniser {
    /// Loads the model that is embedded in the binary.
    ///
    /// # Errors
    /// [`ModelError`] where the embedded files contradict one another, which the tests exclude.
    pub fn builtin() -> Result<Self, ModelError> {
        Self::new(
            include_bytes!("../../weights/asr.safetensors"),
            include_str!("../../weights/asr.lexicon.txt"),
            include_str!("../../weights/asr.trigrams.txt"),
            Path::new("builtin"),
        )
    }

    /// Loads a folder that training wrote: weights, lexicon and trigrams.
    ///
    /// # Errors
    /// [`ModelError::Read`] for a missing file, [`ModelError::Format`] for one that is not what it should be.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let read = |name: &str| {
            let path = path.join(name);
            fs::read(&path).map_err(|source| ModelError::Read { path, source })
        };
        let text = |name: &str| {
            String::from_utf8(read(name)?).map_err(|error| ModelError::Format {
                path: path.join(name),
                place: format!("byte {}", error.utf8_error().valid_up_to()),
                found: "bytes that are no text".into(),
                allowed: "UTF-8".into(),
            })
        };
        Self::new(&read_checked(&path.join(WEIGHTS_FILE))?, &text(LEXICON_FILE)?, &text(TRIGRAMS_FILE)?, path)
    }

    fn new(weights: &[u8], lexicon: &str, trigrams: &str, folder: &Path) -> Result<Self, ModelError> {
        let mut hash = blake3::Hasher::new();
        for part in [weights, lexicon.as_bytes(), trigrams.as_bytes()] {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        let version = hash.finalize().to_hex()[..16].to_owned();
        let path = folder.join(WEIGHTS_FILE);
        let weights = Weights::parse(weights, &path)?;
        let lexicon = Lexicon::parse(lexicon, &folder.join(LEXICON_FILE))?;
        let language = LanguageModel::parse(trigrams, &lexicon, &folder.join(TRIGRAMS_FILE))?;
        let model = Model {
            network: Network::try_new(&weights.parameters, weights.sizes(&path)?, &path)?,
            frontend: Frontend::try_new(weights.colour).map_err(|error| match error {
                ModelError::Parameter { found, allowed, .. } => {
                    ModelError::format(&path, format!("tensor {COLOUR}"), found, allowed)
                }
                other => other,
            })?,
            calibration: Calibration::parse(&weights.calibration, &path)?,
            lexicon,
            language,
            width: beam::WIDTH,
            version,
        };
        Ok(Self { model: Arc::new(model) })
    }

    /// Returns a hash of weights, lexicon and language model, 16 hexadecimal digits.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.model.version
    }

    /// Returns the same model with the confidence calibrated as `other` is.
    #[must_use]
    pub fn calibrated_as(&self, other: &Self) -> Self {
        let model = Model { calibration: other.model.calibration, ..(*self.model).clone() };
        Self { model: Arc::new(model) }
    }

    /// Returns a worse recogniser: noise was added to the network's weights, and the search keeps `width` prefixes, at
    /// least one. `noise` is in standard deviations of each tensor, 0 is none; the same `seed` gives the same noise. The version is
    /// this one's.
    ///
    /// # Errors
    /// [`ModelError::Candle`] if the weights cannot be read, which their shapes rule out.
    pub fn worsened(&self, noise: f64, seed: u64, width: usize) -> Result<Self, ModelError> {
        let network = self.model.network.with_noise(noise, seed)?;
        Ok(Self { model: Arc::new(Model { network, width, ..(*self.model).clone() }) })
    }

    /// Recognises segments of 16 kHz mono audio in -1..1, of any lengths; the result has one hypothesis a segment, in order.
    ///
    /// An empty segment gives an empty text with confidence 0. Speech outside the vocabulary gives an empty text with a low confidence,
    /// see [`confidence`].
    ///
    /// # Errors
    /// [`ModelError::NonFiniteSample`] naming the first sample that is NaN or infinite.
    pub fn recognise(&self, segments: &[&[f32]]) -> Result<Vec<Hypothesis>, ModelError> {
        Ok(self.hear(segments)?.into_iter().map(|heard| heard.hypothesis).collect())
    }

    /// Recognises as [`Recogniser::recognise`] does, and returns what the confidence was computed from.
    pub(crate) fn hear(&self, segments: &[&[f32]]) -> Result<Vec<Heard>, ModelError> {
        for (segment, samples) in segments.iter().enumerate() {
            if let Some(index) = samples.iter().position(|sample| !sample.is_finite()) {
                return Err(ModelError::NonFiniteSample { segment, index, value: samples[index] });
            }
        }
        let Model { frontend, .. } = &*self.model;
        let rows: Vec<Vec<f32>> = segments
            .par_iter()
            .map(|samples| {
                let halved = frontend.halve(samples);
                if halved.is_empty() { Vec::new() } else { frontend.normalise(&frontend.log_mel(&halved)) }
            })
            .collect();
        // Segments of like length share a batch, so that little of it is padding.
        let mut order: Vec<usize> = (0..rows.len()).filter(|&i| !rows[i].is_empty()).collect();
        order.sort_by_key(|&i| rows[i].len());
        let mut heard = vec![Heard::default(); segments.len()];
        while let Some(&longest) = order.last() {
            let frames = rows[longest].len() / BANDS;
            let batch = order.split_off(order.len() - (BATCH_FRAMES / frames).clamp(1, order.len()));
            let inputs: Vec<&[f32]> = batch.iter().map(|&i| rows[i].as_slice()).collect();
            for (i, result) in batch.iter().zip(self.decode(&inputs)?) {
                heard[*i] = result;
            }
        }
        Ok(heard)
    }

    fn decode(&self, rows: &[&[f32]]) -> Result<Vec<Heard>, ModelError> {
        let (logits, lengths) = self.model.network.forward_rows(rows)?;
        let stride = logits.dim(1)? * CLASSES;
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        Ok(logits
            .par_chunks(stride)
            .zip(&lengths)
            .map(|(logits, &length)| {
                let mut log_p = vec![0f64; length * CLASSES];
                for (row, out) in logits.chunks_exact(CLASSES).zip(log_p.chunks_exact_mut(CLASSES)) {
                    ctc::log_softmax(row, out);
                }
                log_p.iter_mut().step_by(CLASSES).for_each(|blank| *blank -= BLANK_PENALTY);
                self.transcribe(&log_p)
            })
            .collect())
    }

    fn transcribe(&self, log_p: &[f64]) -> Heard {
        let Model { lexicon, language, calibration, width, .. } = &*self.model;
        let candidates = beam::search(log_p, CLASSES, lexicon, language, *width);
        let tokens = phones_heard(log_p);
        let Some(judged) = confidence::judge(log_p, CLASSES, &candidates) else {
            return Heard { hypothesis: Hypothesis { tokens, ..Hypothesis::default() }, ..Heard::default() };
        };
        let words: Vec<Word> = candidates[0]
            .words
            .iter()
            .zip(&judged.words)
            .map(|(&(word, _), &(first, last, distance))| Word {
                text: lexicon.word(word).to_owned(),
                start_ms: output_ms(first),
                end_ms: output_ms(last + 1).max(output_ms(first) + OUTPUT_MS),
                confidence: calibration.confidence(&Evidence { distance, worst_word: distance, ..judged.evidence }),
            })
            .collect();
        let best = words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
        let confidence = calibration.confidence(&judged.evidence);
        let accepted = confidence >= calibration.threshold;
        let hypothesis = Hypothesis {
            text: if accepted { best.clone() } else { String::new() },
            confidence,
            tokens,
            words: if accepted { words } else { Vec::new() },
        };
        Heard { hypothesis, best, evidence: Some(judged.evidence) }
    }
}

/// A hypothesis with what led to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    pub hypothesis: Hypothesis,
    /// The best transcript, before rejection.
    pub best: String,
    /// `None` where no words were found.
    pub evidence: Option<Evidence>,
}

/// Time of an output frame in the segment; the frames of padding before it lie at 0.
fn output_ms(frame: usize) -> u32 {
    (frame as u32 * OUTPUT_MS).saturating_sub(PAD_FRAMES as u32 * FRAME_MS)
}

/// Counts the phones on the unconfined best path.
fn phones_heard(log_p: &[f64]) -> u32 {
    let best = |row: &[f64]| (0..CLASSES).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(ctc::BLANK);
    let mut last = ctc::BLANK;
    let mut count = 0;
    for class in log_p.chunks_exact(CLASSES).map(best) {
        count += u32::from(class != ctc::BLANK && class != last);
        last = class;
    }
    count
}

#[cfg(test)]
mod tests;
