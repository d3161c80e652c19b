//! Trains and evaluates the builtin recogniser; `weights/asr.md` says with which arguments and what came out.
//!
//! The stages, each of which is skipped where its file already stands in the work folder:
//! a *base* on synthetic speech alone; from it a *final* model on all real speakers too, and one *fold* a speaker that
//! never hears that speaker. The folds measure the recipe on people it has not met and calibrate the final model's confidence.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use driftline_models::asr::{
    LEXICON_FILE, Recogniser, TRIGRAMS_FILE, WEIGHTS_FILE,
    confidence::Calibration,
    frontend::Frontend,
    lexicon::{CLASSES, Lexicon},
    network::{Parameters, Sizes},
    training::{
        TrainingError, calibrate,
        clip::{Clip, Source, spoken_digits},
        evaluate::{Report, SetSizes, Sets, Trial, report},
        grammar::{Grammar, OtherSpeech},
        pronounce,
        synthesis::{
            Request, Voices, digit_requests, natural_voice, other_words, synthesise, training_requests, training_voice,
        },
        trainer::{Data, Recipe, initial, train},
    },
    weights::Weights,
};
use rand::{SeedableRng, rngs::StdRng};

const SIZES: Sizes = Sizes { channels: 192, hidden: 384, classes: CLASSES };
/// How much of everything a training takes.
struct Scale {
    /// Synthetic utterances of queries, single words and other speech.
    utterances: usize,
    /// Synthetic digit strings that the base learns from.
    digit_strings: usize,
    /// How many of them the later stages, which hear real digits, still hear.
    fewer_digit_strings: usize,
    /// Utterances and digit strings by natural voices.
    natural: (usize, usize),
    base: Recipe,
    last: Recipe,
    fold: Recipe,
    /// Queries and utterances of other speech that the confidence is fitted on.
    calibration: (usize, usize),
    /// The same by natural voices.
    natural_calibration: (usize, usize),
    sets: SetSizes,
}

const BASE: Recipe = Recipe { steps: 8000, horizon: 8000, batch: 32, rate: 1.6e-3, real: 0.0, seed: 1, threads: 2 };
const FINAL: Recipe = Recipe { steps: 2500, horizon: 2500, batch: 32, rate: 1.2e-3, real: 0.35, seed: 3, threads: 2 };
/// Shorter than the final stage, because there are four of them.
const FOLD: Recipe = Recipe { steps: 1200, horizon: 1200, batch: 32, rate: 1.2e-3, real: 0.35, seed: 3, threads: 2 };
/// What the model card describes.
const FULL: Scale = Scale {
    utterances: 8192,
    digit_strings: 8192,
    fewer_digit_strings: 2048,
    natural: (1152, 384),
    base: BASE,
    last: FINAL,
    fold: FOLD,
    calibration: (500, 400),
    natural_calibration: (100, 80),
    sets: SetSizes { strings: 100, phrases: 60, natural: 12, others: 300 },
};
/// As little as passes through every stage.
const SMOKE: Scale = Scale {
    utterances: 24,
    digit_strings: 12,
    fewer_digit_strings: 6,
    natural: (0, 0),
    base: Recipe { steps: 6, horizon: 6, batch: 4, ..BASE },
    last: Recipe { steps: 4, horizon: 4, batch: 4, ..FINAL },
    fold: Recipe { steps: 2, horizon: 2, batch: 4, ..FOLD },
    calibration: (4, 4),
    natural_calibration: (0, 0),
    sets: SetSizes { strings: 2, phrases: 1, natural: 0, others: 4 },
};
/// Steps between two files of a running stage.
const CHECKPOINT: usize = 100;
/// Sentences that the language model is counted on.
const SENTENCES: usize = 200_000;

/// Trains and evaluates the builtin recogniser.
#[derive(Parser)]
struct Command {
    /// What to do.
    #[command(subcommand)]
    step: Step,
    /// Folder with `speech/fsdd` and `speech/librivox`.
    #[arg(long, global = true, default_value = "../shared/data")]
    data: PathBuf,
    /// The search's catalogue, whose titles are the vocabulary.
    #[arg(long, global = true, default_value = "crates/stages/search/data/catalogue.jsonl")]
    catalogue: PathBuf,
    /// Folder for synthesised speech; kept between runs.
    #[arg(long, global = true, default_value = "target/asr/speech")]
    cache: PathBuf,
    /// Folder for the stages' models; kept between runs.
    #[arg(long, global = true, default_value = "target/asr/work")]
    work: PathBuf,
    /// Folder of the model that ships.
    #[arg(long, global = true, default_value = "crates/models/weights")]
    model: PathBuf,
    /// Passes through the same stages with a handful of utterances and steps: a test that they work together.
    #[arg(long, global = true)]
    smoke: bool,
}

#[derive(Subcommand)]
enum Step {
    /// Writes lexicon and language model.
    Lexicon,
    /// Trains every stage that is not there yet, calibrates, writes the model and evaluates it.
    Train,
    /// Trains one stage: base, final, or a speaker's name for the fold that leaves the speaker out.
    Stage {
        /// Its name.
        name: String,
    },
    /// Calibrates the final model's confidence and writes the model.
    Calibrate,
    /// Prints the model card's figures and writes them as `evaluation.json` into the work folder.
    Evaluate,
}

/// What every step reads.
struct Material {
    options: Command,
    grammar: Grammar,
    lexicon: Lexicon,
    digits: Vec<Clip>,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let options = Command::parse();
    let grammar = grammar(&options.catalogue)?;
    if matches!(options.step, Step::Lexicon) {
        return write_lexicon(&grammar, &options.model);
    }
    let path = options.model.join(LEXICON_FILE);
    let lexicon = Lexicon::parse(&fs::read_to_string(&path).with_context(|| path.display().to_string())?, &path)?;
    let digits = spoken_digits(&options.data.join("speech/fsdd"), &lexicon)?;
    let material = Material { options, grammar, lexicon, digits };
    match &material.options.step {
        Step::Lexicon => {}
        Step::Train => {
            material.stage("base")?;
            material.stage("final")?;
            for speaker in material.speakers() {
                material.stage(&speaker)?;
            }
            material.calibrate()?;
            material.evaluate()?;
        }
        Step::Stage { name } => material.stage(name)?,
        Step::Calibrate => material.calibrate()?,
        Step::Evaluate => material.evaluate()?,
    }
    Ok(())
}

fn grammar(catalogue: &Path) -> Result<Grammar> {
    #[derive(serde::Deserialize)]
    struct Product {
        title: String,
    }
    let text = fs::read_to_string(catalogue).with_context(|| catalogue.display().to_string())?;
    let title =
        |(line, text): (usize, &str)| {
            serde_json::from_str::<Product>(text)
                .map(|product| product.title)
                .map_err(|source| TrainingError::Catalogue { path: catalogue.to_path_buf(), line: line + 1, source })
        };
    let titles = text.lines().enumerate().map(title).collect::<Result<Vec<_>, _>>()?;
    Ok(Grammar::new(titles.iter().map(String::as_str)))
}

fn write_lexicon(grammar: &Grammar, model: &Path) -> Result<()> {
    fs::write(model.join(LEXICON_FILE), pronounce::lexicon(grammar.words())?)?;
    fs::write(model.join(TRIGRAMS_FILE), grammar.trigrams(&mut StdRng::seed_from_u64(1), SENTENCES))?;
    Ok(())
}

impl Material {
    fn scale(&self) -> &'static Scale {
        if self.options.smoke { &SMOKE } else { &FULL }
    }

    fn speakers(&self) -> Vec<String> {
        let mut speakers: Vec<String> = self
            .digits
            .iter()
            .filter_map(|clip| match &clip.source {
                Source::Real { speaker } => Some(speaker.clone()),
                Source::Synthetic { .. } => None,
            })
            .collect();
        speakers.sort();
        speakers.dedup();
        speakers
    }

    /// The folder of a stage's model.
    fn folder(&self, stage: &str) -> PathBuf {
        self.options.work.join(stage)
    }

    fn stage(&self, name: &str) -> Result<()> {
        let folder = self.folder(name);
        let file = folder.join(WEIGHTS_FILE);
        if file.exists() {
            return Ok(());
        }
        fs::create_dir_all(&folder)?;
        for text in [LEXICON_FILE, TRIGRAMS_FILE] {
            fs::copy(self.options.model.join(text), folder.join(text))?;
        }
        let base = name == "base";
        let scale = self.scale();
        let mut requests = training_requests(&self.grammar, training_voice, scale.utterances, 1);
        requests.extend(digit_requests(training_voice, scale.digit_strings, 2));
        requests.truncate(scale.utterances + if base { scale.digit_strings } else { scale.fewer_digit_strings });
        let synthetic = synthesise(&requests, &self.lexicon, &self.options.cache)?;
        let mut requests = training_requests(&self.grammar, natural_voice, scale.natural.0, 3);
        requests.extend(digit_requests(natural_voice, scale.natural.1, 4));
        let natural = synthesise(&requests, &self.lexicon, &self.options.cache)?;
        let digits: &[Clip] = if base { &[] } else { &self.digits };
        let data = Data::new(synthetic, natural, digits, (name != "final").then_some(name));
        let (start, colour, recipe) = if base {
            (initial(SIZES, scale.base.seed)?, data.colour()?, scale.base)
        } else {
            let path = self.folder("base").join(WEIGHTS_FILE);
            let base = Weights::parse(&fs::read(&path).with_context(|| path.display().to_string())?, &path)?;
            (base.parameters, base.colour, if name == "final" { scale.last } else { scale.fold })
        };
        let frontend = Frontend::try_new(colour.clone())?.without_floor();
        let write = |parameters: &Parameters, path: &Path| {
            let calibration = Calibration { bias: 3.0, weights: [-2.0, -1.0, 0.5], threshold: 0.0 }.values();
            Weights { parameters: parameters.clone(), colour: colour.clone(), calibration }.write(path)
        };
        let running = folder.join("running.safetensors");
        let parameters = train(&start, SIZES, &data, &frontend, recipe, CHECKPOINT, |step, parameters| {
            tracing::info!(stage = name, step, "checkpoint");
            Ok(write(parameters, &running)?)
        })?;
        write(&parameters, &file)?;
        Ok(())
    }

    fn sets(&self) -> Result<Sets> {
        let Command { data, cache, .. } = &self.options;
        Ok(Sets::new(self.scale().sets, &self.digits, &data.join("speech"), &self.grammar, &self.lexicon, cache)?)
    }

    fn folds(&self) -> Result<BTreeMap<String, PathBuf>> {
        Ok(self
            .speakers()
            .into_iter()
            .map(|speaker| (speaker.clone(), self.folder(&speaker)))
            .filter(|(_, folder)| folder.join(WEIGHTS_FILE).exists())
            .collect())
    }

    /// Fits the confidence on people that a fold never heard, on queries by trained voices and on speech outside the vocabulary.
    fn calibrate(&self) -> Result<()> {
        let sets = self.sets()?;
        let mut observations = Vec::new();
        for (speaker, folder) in self.folds()? {
            let fold = Recogniser::load(&folder)?;
            let some = |trials: &[Trial]| trials.iter().step_by(5).cloned().collect::<Vec<_>>();
            observations.extend(calibrate::observe(&fold, &some(&sets.digits[&speaker]))?);
            observations.extend(calibrate::observe(&fold, &some(&sets.strings[&speaker]))?);
        }
        let mut rng = StdRng::seed_from_u64(2001);
        let scale = self.scale();
        let mut trials = Vec::new();
        for (voices, (queries, others)) in
            [(training_voice as Voices, scale.calibration), (natural_voice, scale.natural_calibration)]
        {
            let requests: Vec<Request> = (0..queries + others)
                .map(|i| {
                    let inside = i < queries;
                    let words =
                        if inside { self.grammar.query(&mut rng) } else { other_words(OtherSpeech::Train, &mut rng) };
                    let (engine, voice) = voices(&mut rng);
                    Request::draw(words, engine, &voice, &mut rng)
                })
                .collect();
            let clips = synthesise(&requests, &self.lexicon, &self.options.cache)?;
            let trial = |(i, clip): (usize, &Clip)| {
                let words = if i < queries { clip.words.clone() } else { Vec::new() };
                Trial::new(&clip.audio(), words)
            };
            trials.extend(clips.iter().enumerate().map(trial));
        }
        let shipped = self.folder("final");
        observations.extend(calibrate::observe(&Recogniser::load(&shipped)?, &trials)?);
        let calibration = calibrate::fit(&observations);
        println!("{calibration:?} from {} utterances", observations.len());
        let path = shipped.join(WEIGHTS_FILE);
        let weights = Weights::parse(&fs::read(&path)?, &path)?;
        Weights { calibration: calibration.values(), ..weights }.write(&self.options.model.join(WEIGHTS_FILE))?;
        Ok(())
    }

    fn evaluate(&self) -> Result<()> {
        let recogniser = Recogniser::load(&self.options.model)?;
        // The folds reject by the shipped calibration.
        let folds = self
            .folds()?
            .into_iter()
            .map(|(speaker, folder)| Ok((speaker, Recogniser::load(&folder)?.calibrated_as(&recogniser))))
            .collect::<Result<_>>()?;
        let report: Report = report(&recogniser, &folds, &self.sets()?)?;
        println!("model {}\n\n{report}", recogniser.version());
        fs::write(self.options.work.join("evaluation.json"), serde_json::to_string_pretty(&report)?)?;
        Ok(())
    }
}
