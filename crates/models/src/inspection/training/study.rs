//! A whole training: folds for honest figures, calibration and thresholds from them, and the network that ships.
//!
//! Pieces are dealt into folds; each fold is judged by a network that has not seen it, and the figures are of these judgements. An eighth of what such a network may
//! learn from decides when it stops. The network that ships learns from all pieces but a quarter, which decides when it stops and on which its own calibration and
//! thresholds are fitted: the log odds of two networks differ, and with another one's thresholds a network accepts too much or nothing.

use serde::Serialize;

use super::{
    calibrate::{self, Trial},
    report::{self, Judged, Report},
    sample::{Sample, deal},
    trainer::{self, Progress, Recipe, Trained},
};
use crate::{
    error::ModelError,
    inspection::{
        evidence::Evidence,
        network::{Network, Parameters},
        weights::{Settings, Weights},
    },
};

/// Parts of the pieces, of which one decides when the training of a fold's network stops.
const HELD_BACK: usize = 8;
/// The same for the network that ships, which is calibrated on that part too.
const HELD_BACK_FINAL: usize = 4;

/// What is to be found out, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the surface is.
    pub surface: String,
    /// Names of the classes; the first is *good*.
    pub classes: Vec<String>,
    /// Slices that are trained on; empty for all. The others are only judged.
    pub slices: Vec<String>,
    /// Parts of the pieces, each judged by a network trained on the others; at least 2.
    pub folds: usize,
    /// Share of the defective pieces that are not to be accepted.
    pub recall: f64,
    /// Share of the good pieces that may be rejected without a person.
    pub false_rejects: f64,
    /// How each network is trained.
    pub recipe: Recipe,
    /// What each network starts from; drawn if `None`.
    pub start: Option<Parameters>,
}

impl Plan {
    fn learns(&self, sample: &Sample) -> bool {
        self.slices.is_empty() || self.slices.contains(&sample.slice)
    }
}

/// A network being trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// The one that judges this fold.
    Fold(usize),
    /// The one that ships.
    Final,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ending {
    /// The run.
    pub run: String,
    /// Pictures learned from.
    pub pictures: usize,
    /// Steps made.
    pub steps: usize,
    /// The step whose weights were kept.
    pub best_step: usize,
    /// Disorder of the pieces held back, there.
    pub validation: f64,
}

/// What the folds yield.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// Figures.
    pub report: Report,
    /// How the runs ended.
    pub endings: Vec<Ending>,
}

/// What ships.
#[derive(Debug, Clone)]
pub struct Conclusion {
    /// The weights.
    pub weights: Weights,
    /// Figures of the pieces that they were not learned from, but calibrated on.
    pub report: Report,
    /// How the run ended.
    pub ending: Ending,
}

/// Judges every sample by a network that has not seen its piece; `progress` is told how far each run is.
///
/// # Errors
/// [`ModelError::Input`] if there are too few samples of a kind or fewer than two folds.
pub fn judge(
    samples: &[Sample],
    plan: &Plan,
    mut progress: impl FnMut(Run, Progress),
) -> Result<Judgement, ModelError> {
    if plan.folds < 2 {
        return Err(ModelError::Input {
            place: "folds".to_owned(),
            found: plan.folds.to_string(),
            allowed: "at least 2".to_owned(),
        });
    }
    let folds = deal(samples, plan.folds, plan.recipe.seed);
    let pool = pool(plan)?;
    let mut endings = Vec::new();
    let mut found = Vec::with_capacity(samples.len());
    for fold in 0..plan.folds {
        let run = Run::Fold(fold);
        let Learned { parameters, ending, .. } = train(samples, plan, run, |i| folds[i] != fold, |p| progress(run, p))?;
        endings.push(ending);
        let own: Vec<&Sample> = samples.iter().zip(&folds).filter(|(_, part)| **part == fold).map(|(s, _)| s).collect();
        found.extend(look(plan, &parameters, &own, &pool)?);
    }
    let (_, report) = operate(plan, samples, &found);
    Ok(Judgement { report, endings })
}

/// Trains the network that ships, and calibrates it on pieces that it has not learned from.
///
/// # Errors
/// [`ModelError::Input`] if there are too few samples of a kind.
pub fn conclude(
    samples: &[Sample],
    plan: &Plan,
    mut progress: impl FnMut(Run, Progress),
) -> Result<Conclusion, ModelError> {
    let learned = train(samples, plan, Run::Final, |_| true, |p| progress(Run::Final, p))?;
    let Learned { parameters, ending, held_back } = learned;
    let found = look(plan, &parameters, &held_back, &pool(plan)?)?;
    let (settings, report) = operate(plan, samples, &found);
    Ok(Conclusion { weights: Weights { parameters, settings }, report, ending })
}

/// A sample, and what a network that has not learned from it finds.
type Seen<'a> = (&'a Sample, Evidence);

fn pool(plan: &Plan) -> Result<rayon::ThreadPool, ModelError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(plan.recipe.threads).build();
    pool.map_err(|error| ModelError::Candle(candle_core::Error::msg(error)))
}

fn look<'a>(
    plan: &Plan,
    parameters: &Parameters,
    samples: &[&'a Sample],
    pool: &rayon::ThreadPool,
) -> Result<Vec<Seen<'a>>, ModelError> {
    let network = Network::try_new(parameters, plan.classes.len(), "training".as_ref())?;
    let evidence = trainer::observe(&network, samples, plan.recipe.side, pool)?;
    Ok(samples.iter().copied().zip(evidence).collect())
}

/// Fits calibration and thresholds to what was found under the conditions that are learned from, and says how well all is judged with them.
fn operate(plan: &Plan, samples: &[Sample], found: &[Seen<'_>]) -> (Settings, Report) {
    let trials: Vec<Trial> = found
        .iter()
        .filter(|(sample, _)| plan.learns(sample))
        .map(|(sample, evidence)| Trial {
            whole: f64::from(evidence.whole),
            peak: f64::from(evidence.peak),
            defective: sample.class > 0,
        })
        .collect();
    let calibration = calibrate::fit(&trials);
    let scores: Vec<(f64, bool)> =
        trials.iter().map(|trial| (calibration.probability(trial.whole, trial.peak), trial.defective)).collect();
    let (accept_below, reject_from) = calibrate::thresholds(&scores, plan.recall, plan.false_rejects);
    let judged: Vec<Judged> = found
        .iter()
        .map(|(sample, evidence)| Judged {
            slice: sample.slice.clone(),
            class: sample.class,
            area: sample.area,
            score: calibration.probability(f64::from(evidence.whole), f64::from(evidence.peak)),
            defect: 1 + largest(&evidence.defects),
        })
        .collect();
    let mut trained: Vec<String> = samples.iter().filter(|s| plan.learns(s)).map(|s| s.slice.clone()).collect();
    trained.dedup();
    let report = report::report(&judged, &plan.classes, &trained, accept_below, reject_from);
    let settings = Settings {
        surface: plan.surface.clone(),
        side: plan.recipe.side,
        classes: plan.classes.clone(),
        calibration,
        accept_below,
        reject_from,
    };
    (settings, report)
}

/// A trained network.
struct Learned<'a> {
    parameters: Parameters,
    ending: Ending,
    /// What decided when it stopped.
    held_back: Vec<&'a Sample>,
}

/// Trains a network on the samples that `may` be seen.
fn train<'a>(
    samples: &'a [Sample],
    plan: &Plan,
    run: Run,
    may: impl Fn(usize) -> bool,
    progress: impl FnMut(Progress),
) -> Result<Learned<'a>, ModelError> {
    let classes = plan.classes.len();
    let start = match &plan.start {
        Some(from) => trainer::transferred(classes, plan.recipe.seed, from)?,
        None => trainer::initial(classes, plan.recipe.seed)?,
    };
    let parts = match run {
        Run::Fold(_) => HELD_BACK,
        Run::Final => HELD_BACK_FINAL,
    };
    let parts = deal(samples, parts, plan.recipe.seed + 1);
    let part = |held_back: bool| -> Vec<&Sample> {
        let wanted = |&i: &usize| may(i) && plan.learns(&samples[i]) && (parts[i] == 0) == held_back;
        (0..samples.len()).filter(wanted).map(|i| &samples[i]).collect()
    };
    let (learning, held_back) = (part(false), part(true));
    let Trained { parameters, best_step, steps, validation } =
        trainer::train(&learning, &held_back, classes, &start, plan.recipe, progress)?;
    let run = match run {
        Run::Fold(fold) => format!("fold {}", fold + 1),
        Run::Final => "final".to_owned(),
    };
    let ending = Ending { run, pictures: learning.len(), steps, best_step, validation };
    Ok(Learned { parameters, ending, held_back })
}

fn largest(values: &[f32]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0)
}
