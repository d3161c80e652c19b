//! Whisper (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision") from a Hugging Face folder.
//!
//! Any checkpoint of the family loads, from tiny to large-v3-turbo, English-only or multilingual, with 80 or 128 mels, in 32 or 16
//! bits; it is computed in 32. At temperature 0 the tokens are those of `transformers`' `generate` with `do_sample=False`:
//! the same prompt, suppression, timestamp rules and way through a long recording. `tests/whisper.rs` holds both to it.
//!
//! Three things are decided differently, none of which changes a token at temperature 0: repetition is measured on the text, as in the
//! reference decoder, not on ids; sampling draws from all tokens, seeded by the audio; and a pair of timestamps at 0 does
//! not hold a window for ever. Windows are not conditioned on the text before them, which is the default there too.

mod config;
mod decode;
mod decoder;
mod encoder;
mod features;
mod languages;
mod layers;
mod prompt;
mod rules;
mod weights;
mod windows;

pub(crate) use config::read_limited;
pub(crate) use weights::shard_paths;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use crate::error::ModelError;
use config::{Dimensions, Generation, check_preprocessor};
use decode::{Decoded, Parts, Window};
use decoder::Decoder;
use encoder::Encoder;
use features::{Extractor, Features, HOP, SAMPLE_RATE};
use prompt::{Plan, Specials};
use rules::{Rules, TimestampRules};
use weights::Weights;

/// The files of a checkpoint beside its weights, in the order they are hashed, with the most bytes each may have.
pub(crate) const SETTINGS: [(&str, u64); 4] = [
    ("config.json", 4 << 20),
    ("generation_config.json", 4 << 20),
    ("preprocessor_config.json", 4 << 20),
    ("tokenizer.json", 64 << 20),
];
/// What the encoded windows of a batch may take; large-v3 needs half a gigabyte for one.
const MAX_CROSS_BYTES: usize = 2 << 30;
const MAX_BATCH: usize = 16;

/// A loaded checkpoint; clones share it.
#[derive(Clone)]
pub struct Whisper {
    model: Arc<Model>,
}

struct Model {
    dimensions: Dimensions,
    specials: Specials,
    max_length: usize,
    rules: Arc<Rules>,
    timed_rules: Option<Arc<Rules>>,
    tokenizer: Tokenizer,
    extractor: Extractor,
    encoder: Encoder,
    decoder: Decoder,
    version: String,
}

/// How to transcribe.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The language's code or English name, such as `en`; none: as the checkpoint says, and detected where it says nothing.
    pub language: Option<String>,
    /// Whether the model writes timestamps. Segments longer than the model's window are always cut by them.
    pub timestamps: bool,
    /// Temperatures to try in turn until an output passes the thresholds; 0 is greedy. At least one, each in 0 to 2.
    pub temperatures: Vec<f32>,
    /// With an average log-probability under its threshold, a probability of no speech over this one is silence.
    pub no_speech_threshold: f32,
    /// An output with a lower average log-probability (natural logarithm) is tried again.
    pub log_prob_threshold: f32,
    /// An output whose text zlib makes smaller by more than this factor is tried again.
    pub compression_ratio_threshold: f32,
    /// The most tokens to generate in a window, at least 1; the checkpoint's own limits hold beside it.
    pub max_tokens: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            language: None,
            timestamps: false,
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            no_speech_threshold: 0.6,
            log_prob_threshold: -1.0,
            compression_ratio_threshold: 2.4,
            max_tokens: 448,
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), ModelError> {
        let wrong = |place: &str, found: String, allowed: &str| {
            Err(ModelError::Input { place: place.into(), found, allowed: allowed.into() })
        };
        if self.temperatures.is_empty() || self.temperatures.iter().any(|t| !(0.0..=2.0).contains(t)) {
            return wrong("option temperatures", format!("{:?}", self.temperatures), "at least one, each from 0 to 2");
        }
        if self.max_tokens == 0 {
            return wrong("option max_tokens", "0".into(), "at least 1");
        }
        for (name, value) in [
            ("option no_speech_threshold", self.no_speech_threshold),
            ("option log_prob_threshold", self.log_prob_threshold),
            ("option compression_ratio_threshold", self.compression_ratio_threshold),
        ] {
            if value.is_nan() {
                return wrong(name, "NaN".into(), "numbers");
            }
        }
        Ok(())
    }
}

/// What was said in a segment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Transcription {
    /// The text of all windows, trimmed.
    pub text: String,
    /// The tokens of all windows with their timestamps, without prompt and end of text.
    pub tokens: Vec<u32>,
    /// The text with its times in the segment, cut by the timestamps; without any, one for each window.
    pub segments: Vec<TimedText>,
    /// The mean natural log-probability of a token; 0 for an empty segment.
    pub average_log_prob: f32,
    /// The least probability of no speech among the windows, 0 to 1; 1 for an empty segment.
    pub no_speech_probability: f32,
    /// The highest temperature that was needed.
    pub temperature: f32,
    /// The code of the language in the prompt; none for an English-only checkpoint.
    pub language: Option<String>,
}

/// A stretch of text and when it was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimedText {
    /// From the segment's start, in milliseconds.
    pub start_ms: u64,
    /// From the segment's start, in milliseconds; not after the segment's end.
    pub end_ms: u64,
    /// The text, trimmed.
    pub text: String,
}

/// A segment on its way through its windows.
struct Job {
    index: usize,
    features: Features,
    duration_ms: u64,
    seek: usize,
    timestamps: bool,
    prompt: Option<Vec<u32>>,
    seed: u64,
    out: Transcription,
    /// Sum of log-probabilities and count of tokens so far.
    log_probs: (f32, usize),
}

impl Whisper {
    /// Loads a checkpoint: `config.json`, `tokenizer.json`, `model.safetensors` or its shards, and, where they exist,
    /// `generation_config.json` and `preprocessor_config.json`.
    ///
    /// Takes four bytes of memory for each parameter, whatever the file's type.
    ///
    /// # Errors
    ///
    /// [`ModelError::Read`] where a file is missing; [`ModelError::Format`] names the file, the key or tensor, what stands there and
    /// what may. Names and shapes are checked before any weight is read.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        let mut hasher = blake3::Hasher::new();
        let required = |name: &str| matches!(name, "config.json" | "tokenizer.json");
        let mut contents = Vec::with_capacity(SETTINGS.len());
        for (name, limit) in SETTINGS {
            let path = folder.join(name);
            let content = if required(name) || path.exists() { Some(read_limited(&path, limit)?) } else { None };
            if let Some(content) = &content {
                hasher.update(&(content.len() as u64).to_le_bytes());
                hasher.update(content);
            }
            contents.push((path, content));
        }
        let [
            (config_path, Some(config)),
            (generation_path, generation),
            (preprocessor_path, preprocessor),
            (tokenizer_path, Some(tokenizer)),
        ] = &contents[..]
        else {
            unreachable!("config.json and tokenizer.json were read or reported");
        };
        let dimensions = Dimensions::parse(config_path, config)?;
        let (generation_path, generation) =
            generation.as_ref().map_or((config_path, config), |content| (generation_path, content));
        let generation = Generation::parse(generation_path, generation, config, dimensions.vocab_size)?;
        if let Some(preprocessor) = preprocessor {
            check_preprocessor(preprocessor_path, preprocessor, &dimensions)?;
        }
        let tokenizer = Tokenizer::from_bytes(tokenizer).map_err(|e| {
            ModelError::format(tokenizer_path, "json", e.to_string(), "a tokenizer as the tokenizers library writes it")
        })?;

        let mut weights = Weights::read(folder, &dimensions.tensors(), &mut hasher)?;
        let specials = Specials::new(&generation, &tokenizer, dimensions.vocab_size);
        let ids = |list: &Option<Vec<i64>>| list.iter().flatten().filter_map(|&id| usize::try_from(id).ok()).collect();
        let rules = Rules {
            begin_suppress: ids(&generation.begin_suppress_tokens),
            suppress: ids(&generation.suppress_tokens),
            timestamps: None,
        };
        let timed_rules = specials.timestamps_begin.map(|begin| {
            let timestamps = TimestampRules {
                begin: begin as usize,
                end_of_text: specials.ends[0] as usize,
                max_initial: generation.max_initial_timestamp_index.map(|index| index as usize),
            };
            Arc::new(Rules { timestamps: Some(timestamps), ..rules.clone() })
        });
        let model = Model {
            encoder: Encoder::take(&mut weights, &dimensions)?,
            decoder: Decoder::take(&mut weights, &dimensions)?,
            extractor: Extractor::new(dimensions.num_mel_bins),
            max_length: generation.max_length.unwrap_or(usize::MAX),
            rules: Arc::new(rules),
            timed_rules,
            specials,
            tokenizer,
            dimensions,
            version: hasher.finalize().to_hex()[..16].to_owned(),
        };
        Ok(Self { model: Arc::new(model) })
    }

    /// Returns the first 16 hexadecimal digits of the blake3 hash of settings, tokenizer and weights.
    pub fn version(&self) -> &str {
        &self.model.version
    }

    /// Transcribes segments of 16 kHz mono audio, full scale at 1; the results come in the order of the segments.
    ///
    /// Up to 16 windows are decoded together, fewer where the model is large. The result for a segment depends on that segment and
    /// `options` alone, bit for bit. An empty segment has an empty transcription.
    ///
    /// # Errors
    ///
    /// [`ModelError::NonFiniteSample`]; [`ModelError::Input`] where an option is outside its range, or the checkpoint does not know the language
    /// or has no timestamps.
    pub fn transcribe(&self, segments: &[&[f32]], options: &Options) -> Result<Vec<Transcription>, ModelError> {
        self.model.transcribe(segments, options)
    }

    /// Says whether segments can be transcribed with these options.
    ///
    /// # Errors
    ///
    /// [`ModelError::Input`] where an option is outside its range, or the checkpoint does not know the language or has no timestamps.
    pub fn check(&self, options: &Options) -> Result<(), ModelError> {
        options.check()?;
        self.model.specials.plan(options.language.as_deref())?;
        if options.timestamps { self.model.has_timestamps("timestamps") } else { Ok(()) }
    }

    /// Returns the log-mel features of a segment as the encoder sees them: how many frames, and frame after frame of values.
    pub fn features(&self, segment: &[f32]) -> (usize, Vec<f32>) {
        let features = self.model.extractor.extract(segment, self.model.window_frames() * HOP);
        (features.frames(), features.values)
    }

    /// Returns the encoder's output for the first window of a segment: `max_source_positions` rows of `d_model` values.
    ///
    /// # Errors
    ///
    /// [`ModelError::Candle`] where a tensor operation fails.
    pub fn encode(&self, segment: &[f32]) -> Result<Vec<f32>, ModelError> {
        let frames = self.model.window_frames();
        self.model.encoder.encode(&self.model.extractor.extract(segment, frames * HOP).window(0, frames))
    }
}

impl Model {
    fn window_frames(&self) -> usize {
        2 * self.dimensions.max_source_positions
    }

    fn parts(&self) -> Parts<'_> {
        Parts {
            decoder: &self.decoder,
            specials: &self.specials,
            tokenizer: &self.tokenizer,
            vocab_size: self.dimensions.vocab_size,
        }
    }

    fn transcribe(&self, segments: &[&[f32]], options: &Options) -> Result<Vec<Transcription>, ModelError> {
        options.check()?;
        for (segment, samples) in segments.iter().enumerate() {
            if let Some((index, &value)) = samples.iter().enumerate().find(|(_, s)| !s.is_finite()) {
                return Err(ModelError::NonFiniteSample { segment, index, value });
            }
        }
        let plan = self.specials.plan(options.language.as_deref())?;
        let cross_bytes =
            8 * self.dimensions.decoder_layers * self.dimensions.max_source_positions * self.dimensions.d_model;
        let most = (MAX_CROSS_BYTES / cross_bytes).clamp(1, MAX_BATCH);

        let mut waiting: VecDeque<usize> = (0..segments.len()).collect();
        let mut jobs: Vec<Job> = Vec::new();
        let mut finished = Vec::with_capacity(segments.len());
        loop {
            while jobs.len() < most
                && let Some(index) = waiting.pop_front()
            {
                jobs.push(self.begin(index, segments[index], options)?);
            }
            finished.extend(jobs.extract_if(.., |job| job.seek >= job.features.frames()));
            if jobs.is_empty() {
                if waiting.is_empty() {
                    break;
                }
                continue;
            }
            self.advance(&mut jobs, &plan, options)?;
        }
        finished.sort_by_key(|job| job.index);
        Ok(finished.into_iter().map(|job| job.finish(&self.specials)).collect())
    }

    fn has_timestamps(&self, found: &str) -> Result<(), ModelError> {
        if self.timed_rules.is_some() {
            return Ok(());
        }
        let window = self.window_frames() * HOP;
        let allowed = format!("none, and at most {window} samples: the checkpoint has no <|notimestamps|> token");
        Err(ModelError::Input { place: "option timestamps".into(), found: found.into(), allowed })
    }

    fn begin(&self, index: usize, samples: &[f32], options: &Options) -> Result<Job, ModelError> {
        let window = self.window_frames() * HOP;
        let timestamps = options.timestamps || samples.len() > window;
        if timestamps {
            self.has_timestamps(&format!("timestamps for segment {index} of {} samples", samples.len()))?;
        }
        let features = match samples {
            [] => Features { mels: self.dimensions.num_mel_bins, values: Vec::new() },
            _ => self.extractor.extract(samples, window),
        };
        let bytes: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
        let hash = blake3::hash(&bytes);
        let seed = hash.as_bytes().iter().take(8).fold(0, |seed, &byte| seed << 8 | u64::from(byte));
        let out = Transcription {
            text: String::new(),
            tokens: Vec::new(),
            segments: Vec::new(),
            average_log_prob: 0.0,
            no_speech_probability: 1.0,
            temperature: 0.0,
            language: None,
        };
        let duration_ms = (samples.len() * 1000).div_ceil(SAMPLE_RATE) as u64;
        Ok(Job { index, features, duration_ms, seek: 0, timestamps, prompt: None, seed, out, log_probs: (0.0, 0) })
    }

    /// Decodes the next window of every job.
    fn advance(&self, jobs: &mut [Job], plan: &Plan, options: &Options) -> Result<(), ModelError> {
        let parts = self.parts();
        let encode = |job: &Job| {
            let encoded = self.encoder.encode(&job.features.window(job.seek, self.window_frames()))?;
            Ok(Arc::new(self.decoder.cross(&encoded)?))
        };
        let crosses = jobs.iter().map(encode).collect::<Result<Vec<_>, ModelError>>()?;
        let new: Vec<usize> = (0..jobs.len()).filter(|&i| jobs[i].prompt.is_none()).collect();
        let languages = if plan.detect && !new.is_empty() {
            parts.languages(&new.iter().map(|&i| crosses[i].clone()).collect::<Vec<_>>())?
        } else {
            vec![None; new.len()]
        };
        for (&i, language) in new.iter().zip(languages) {
            jobs[i].prompt = Some(self.specials.complete(plan, language, jobs[i].timestamps));
        }
        let windows: Vec<Window> =
            jobs.iter().zip(crosses).map(|(job, cross)| self.window(job, cross, options)).collect();
        for (job, decoded) in jobs.iter_mut().zip(parts.decode(&windows, options)?) {
            self.take(job, &decoded)?;
        }
        Ok(())
    }

    fn window(&self, job: &Job, cross: Arc<decoder::Cross>, options: &Options) -> Window {
        let prompt = job.prompt.clone().unwrap_or_default();
        let positions = self.dimensions.max_target_positions;
        let rules = self.timed_rules.as_ref().filter(|_| job.timestamps).unwrap_or(&self.rules);
        Window {
            cross,
            rules: rules.clone(),
            limit: options.max_tokens.min(self.max_length).min(positions.saturating_sub(prompt.len())),
            seed: job.seed.wrapping_add(job.seek as u64),
            prompt,
        }
    }

    /// Adds a window's output to its job and moves the job on.
    fn take(&self, job: &mut Job, decoded: &Decoded) -> Result<(), ModelError> {
        let frames = (job.features.frames() - job.seek).min(self.window_frames());
        let tokens = decoded.tokens.len() + 1;
        job.log_probs = (job.log_probs.0 + decoded.average_log_prob * tokens as f32, job.log_probs.1 + tokens);
        job.out.no_speech_probability = job.out.no_speech_probability.min(decoded.no_speech);
        job.out.temperature = job.out.temperature.max(decoded.temperature);
        if decoded.silent {
            job.seek += frames;
            return Ok(());
        }
        let begin = self.specials.timestamps_begin.filter(|_| job.timestamps || self.specials.timestamps_named);
        let (pieces, way) = windows::cut(&decoded.tokens, job.seek, frames, begin.unwrap_or(u32::MAX));
        job.seek += way;
        for piece in pieces {
            let text = self.parts().text(&piece.tokens)?;
            job.out.text.push_str(&text);
            job.out.tokens.extend(piece.tokens);
            let clamp = |ms: u64| ms.min(job.duration_ms);
            if !text.trim().is_empty() {
                job.out.segments.push(TimedText {
                    start_ms: clamp(piece.start_ms),
                    end_ms: clamp(piece.end_ms),
                    text: text.trim().to_owned(),
                });
            }
        }
        Ok(())
    }
}

impl Job {
    fn finish(self, specials: &Specials) -> Transcription {
        let mut out = self.out;
        out.text = out.text.trim().to_owned();
        out.average_log_prob = self.log_probs.0 / self.log_probs.1.max(1) as f32;
        out.language = self.prompt.and_then(|prompt| specials.language_of(&prompt));
        out
    }
}
