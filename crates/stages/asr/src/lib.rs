//! The speech recognition stage: speech segments in, transcripts out.
//!
//! `model = "builtin"` is the small recogniser that ships with the command: spoken digits and the
//! words of the built-in catalogue. `model = "<folder>"` is any Whisper checkpoint in the Hugging
//! Face layout. Either way the segments of a batch, of whatever sessions, go through the network
//! together; a segment's transcript does not depend on its company.
//!
//! Two parameters may be injected into the built-in recogniser: `weights_noise` and `beam` make it a worse one.

use std::path::Path;

use driftline_models::{
    ModelError,
    asr::{Recogniser, beam},
    whisper::{Options, Whisper},
};
use driftline_payloads::{SpeechSegment, Transcript};
use driftline_stage::{
    Checks, ConfigProblem, Emitter, Parameter, Record, Stage, StageError, StageKind, config::BUILTIN,
};
use serde::Deserialize;

/// Configuration of the stage.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `builtin`, the folder of a Whisper checkpoint, or a folder that the training of the built-in
    /// recogniser wrote.
    pub model: String,
    /// Confidence below which the transcript is empty, 0 to 1. `None` leaves it to the recogniser.
    pub min_confidence: Option<f32>,
    /// How Whisper decodes; the built-in recogniser has no options.
    pub whisper: Options,
}

impl Default for Config {
    fn default() -> Self {
        Self { model: BUILTIN.to_owned(), min_confidence: None, whisper: Options::default() }
    }
}

static WEIGHTS_NOISE: Parameter = Parameter {
    name: "weights_noise",
    unit: "1",
    help: "noise on the built-in recogniser's weights, in standard deviations of each tensor",
    min: 0.0,
    max: 2.0,
    neutral: 0.0,
};
static BEAM: Parameter = Parameter {
    name: "beam",
    unit: "{prefix}",
    help: "how many beginnings of a transcript the built-in recogniser follows at once",
    min: 1.0,
    max: beam::WIDTH as f64,
    neutral: beam::WIDTH as f64,
};
/// In steps of this size the noise grows.
const NOISE_STEP: f64 = 0.01;
/// Decides the noise.
const NOISE_SEED: u64 = 1;

/// What tells a Whisper checkpoint.
const WHISPER: &str = "config.json";
/// What tells a model of our own training.
const OURS: &str = "asr.safetensors";

/// The `asr` kind of stage.
pub struct Asr {
    model: Model,
    min_confidence: f32,
}

#[derive(Clone)]
enum Model {
    Builtin(Recogniser),
    Whisper(Whisper, Options),
}

impl StageKind for Asr {
    const KIND: &'static str = "asr";
    const PATHS: &'static [&'static str] = &["model"];
    const PARAMETERS: &'static [&'static Parameter] = &[&WEIGHTS_NOISE, &BEAM];
    type Config = Config;
    type Stage = AsrStage;

    fn check(config: &Config) -> Vec<ConfigProblem> {
        let Config { model, min_confidence, .. } = config;
        let mut checks = Checks::default();
        let holds = |file| Path::new(model).join(file).is_file();
        checks.expect(
            model == BUILTIN || holds(WHISPER) || holds(OURS),
            "model",
            format_args!("{model:?}, which holds neither {WHISPER} nor {OURS}"),
            "\"builtin\", the folder of a Whisper checkpoint, or one that train-asr wrote",
        );
        if let Some(least) = min_confidence {
            checks.expect((0.0..=1.0).contains(least), "min_confidence", least, "0 to 1");
        }
        checks.problems()
    }

    fn open(config: Config) -> Result<Self, StageError> {
        let folder = Path::new(&config.model);
        let model = if config.model == BUILTIN {
            Model::Builtin(Recogniser::builtin().map_err(unusable)?)
        } else if folder.join(OURS).is_file() {
            Model::Builtin(Recogniser::load(folder).map_err(unusable)?)
        } else {
            let whisper = Whisper::load(folder).map_err(unusable)?;
            whisper.check(&config.whisper).map_err(unusable)?;
            Model::Whisper(whisper, config.whisper)
        };
        Ok(Self { model, min_confidence: config.min_confidence.unwrap_or(0.0) })
    }

    fn fingerprint(&self) -> String {
        match &self.model {
            Model::Builtin(recogniser) => recogniser.version().to_owned(),
            Model::Whisper(whisper, _) => whisper.version().to_owned(),
        }
    }

    fn instance(&self) -> AsrStage {
        AsrStage { model: self.model.clone(), worse: None, min_confidence: self.min_confidence }
    }
}

fn unusable(error: ModelError) -> StageError {
    StageError::fatal("the model cannot be used").caused_by(error)
}

/// The stage of one partition. It keeps nothing between batches that changes an answer.
pub struct AsrStage {
    model: Model,
    /// The model as the parameters last had it.
    worse: Option<(Quality, Model)>,
    min_confidence: f32,
}

impl Stage for AsrStage {
    type Input = SpeechSegment;
    type Output = Transcript;

    fn process(
        &mut self,
        batch: &[Record<SpeechSegment>],
        out: &mut Emitter<'_, Transcript>,
    ) -> Result<(), StageError> {
        let quality = |record: &Record<SpeechSegment>| Quality {
            noise_steps: (out.parameter(&WEIGHTS_NOISE, record) / NOISE_STEP).round() as u32,
            width: out.parameter(&BEAM, record).round() as usize,
        };
        let qualities: Vec<Quality> = batch.iter().map(quality).collect();
        let mut said = Vec::with_capacity(batch.len());
        // A change falls between two records of a batch.
        for same in qualities.chunk_by(|a, b| a == b) {
            let records = &batch[said.len()..said.len() + same.len()];
            let audio: Vec<&[f32]> = records.iter().map(|record| record.value.samples.as_slice()).collect();
            said.extend(self.model_of(same[0])?.recognise(&audio)?);
        }
        for (record, said) in batch.iter().zip(said) {
            let understood = said.confidence >= self.min_confidence;
            let segment = &record.value;
            out.emit(
                record,
                Transcript {
                    session: segment.session.clone(),
                    segment: segment.segment,
                    start_ms: segment.start_ms,
                    end_ms: segment.end_ms,
                    transcript: if understood { said.text } else { String::new() },
                    confidence: said.confidence,
                    tokens: said.tokens,
                    language: said.language,
                },
            );
        }
        Ok(())
    }
}

impl AsrStage {
    /// Returns the model as the parameters have it.
    fn model_of(&mut self, quality: Quality) -> Result<&Model, StageError> {
        if quality == Quality::FULL {
            return Ok(&self.model);
        }
        let worse = match self.worse.take() {
            Some(worse) if worse.0 == quality => worse,
            _ => (quality, self.model.worsened(quality)?),
        };
        Ok(&self.worse.insert(worse).1)
    }
}

/// How good the recogniser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quality {
    noise_steps: u32,
    width: usize,
}

impl Quality {
    const FULL: Self = Self { noise_steps: 0, width: beam::WIDTH };
}

/// What a recogniser made of a segment.
struct Said {
    text: String,
    confidence: f32,
    tokens: u32,
    language: Option<String>,
}

impl Model {
    fn worsened(&self, quality: Quality) -> Result<Self, StageError> {
        match self {
            Self::Builtin(recogniser) => {
                let noise = f64::from(quality.noise_steps) * NOISE_STEP;
                let worse = recogniser.worsened(noise, NOISE_SEED, quality.width);
                Ok(Self::Builtin(worse.map_err(unusable)?))
            }
            Self::Whisper(..) => {
                let allowed = [WEIGHTS_NOISE.name, BEAM.name].join(" and ");
                Err(StageError::fatal(format!("{allowed} can be injected into the built-in recogniser alone")))
            }
        }
    }

    fn recognise(&self, audio: &[&[f32]]) -> Result<Vec<Said>, StageError> {
        let failed = |error: ModelError| StageError::record("the recogniser failed").caused_by(error);
        match self {
            Self::Builtin(recogniser) => {
                let hypotheses = recogniser.recognise(audio).map_err(failed)?.into_iter();
                Ok(hypotheses
                    .map(|heard| Said {
                        text: heard.text,
                        confidence: heard.confidence,
                        tokens: heard.tokens,
                        language: None,
                    })
                    .collect())
            }
            Self::Whisper(whisper, options) => {
                let transcriptions = whisper.transcribe(audio, options).map_err(failed)?.into_iter();
                Ok(transcriptions
                    .map(|heard| Said {
                        text: heard.text.trim().to_owned(),
                        // The mean probability of a token, less where no one may have spoken.
                        confidence: heard.average_log_prob.exp() * (1.0 - heard.no_speech_probability),
                        tokens: heard.tokens.len() as u32,
                        language: heard.language,
                    })
                    .collect())
            }
        }
    }
}
