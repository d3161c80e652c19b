//! A whole training: folds for honest figures, calibration and thresholds from them, and the network that ships.
//!
//! Pieces are dealt into folds; each fold is judged by a network that has not seen it, and the figures are of these judgements. The network that ships learns from
//! all pieces but a quarter, which may say when it is enough and on which its own calibration and thresholds are fitted: the log odds of two networks differ, and with another one's thresholds a network
//! accepts too much or nothing.

use serde::Serialize;

use super::{
    calibrate::{self, Trial},
    report::{self, Judged, Report},
    sample::{Sample, deal},
    trainer::{self, Progress, Recipe, Stop, Trained},
};
use crate::{
    error::ModelError,
    inspection::{
        evidence::Evidence,
        network::{Network, Parameters},
        weights::{Settings, Weights},
    },
};

/// Parts of the pieces, of which one is held back from the network that ships.
const PARTS: usize = 4;

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
    /// Whether mirror images are judged too, see [`Settings::mirrored`].
    pub mirrored: bool,
    /// How each network is trained.
    pub recipe: Recipe,
    /// After how many looks at what is held back the network that ships stops, see [`Stop`]; it never does if `None`. The networks of folds never do: what
    /// they held back would be missing from the few pieces that they learn from.
    pub patience: Option<usize>,
    /// What each network starts from, see [`trainer::transferred`]; drawn if `None`.
    pub start: Option<Weights>,
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
    /// The step whose weights were kept.
    pub step: usize,
    /// Mean loss of the examples of about the last fifty steps; `None` without steps.
    pub loss: Option<f64>,
    /// Area under the receiver operating characteristic of the pieces that were not learned from, under the conditions that were, by the mean of both log odds.
    pub auc: Option<f64>,
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

/// Judges every sample by a network that has not seen its piece; `progress` is told how far each run is, `ended` how it ended.
///
/// # Errors
/// [`ModelError::Input`] if there are too few samples of a kind or fewer than two folds.
pub fn judge(
    samples: &[Sample],
    plan: &Plan,
    mut progress: impl FnMut(Run, Progress),
    mut ended: impl FnMut(&Ending),
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
        let (own, others) = split(samples, &folds, fold);
        let (parameters, ending) = train(&others, plan, run, None, |p| progress(run, p))?;
        let seen = look(plan, &parameters, &own, &pool)?;
        let ending = Ending { auc: order(plan, &seen), ..ending };
        ended(&ending);
        endings.push(ending);
        found.extend(seen);
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
    let parts = deal(samples, PARTS, plan.recipe.seed + 1);
    let (held_back, others) = split(samples, &parts, 0);
    let held_back: Vec<&Sample> = held_back.into_iter().filter(|sample| plan.learns(sample)).collect();
    let stop = plan.patience.map(|patience| Stop { held_back: &held_back, patience });
    let (parameters, ending) = train(&others, plan, Run::Final, stop, |p| progress(Run::Final, p))?;
    let found = look(plan, &parameters, &held_back, &pool(plan)?)?;
    let ending = Ending { auc: order(plan, &found), ..ending };
    let (settings, report) = operate(plan, samples, &found);
    Ok(Conclusion { weights: Weights { parameters, settings }, report, ending })
}

/// Parts the samples of one part from those of the others.
fn split<'a>(samples: &'a [Sample], parts: &[usize], part: usize) -> (Vec<&'a Sample>, Vec<&'a Sample>) {
    let (own, others): (Vec<_>, Vec<_>) = samples.iter().zip(parts).partition(|(_, of)| **of == part);
    let samples = |pairs: Vec<(&'a Sample, &usize)>| pairs.into_iter().map(|(sample, _)| sample).collect();
    (samples(own), samples(others))
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
    let evidence = trainer::observe(&network, samples, plan.recipe.side, plan.mirrored, pool)?;
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
            name: sample.name.clone(),
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
        mirrored: plan.mirrored,
        classes: plan.classes.clone(),
        calibration,
        accept_below,
        reject_from,
    };
    (settings, report)
}

/// Trains a network on those of the samples whose conditions are learned from. The ending has no area yet.
fn train(
    samples: &[&Sample],
    plan: &Plan,
    run: Run,
    stop: Option<Stop<'_>>,
    progress: impl FnMut(Progress),
) -> Result<(Parameters, Ending), ModelError> {
    let classes = plan.classes.len();
    let start = match &plan.start {
        Some(from) => trainer::transferred(&plan.classes, plan.recipe.seed, from)?,
        None => trainer::initial(classes, plan.recipe.seed)?,
    };
    let learning: Vec<&Sample> = samples.iter().copied().filter(|sample| plan.learns(sample)).collect();
    let Trained { parameters, step, loss } = trainer::train(&learning, classes, &start, plan.recipe, stop, progress)?;
    let run = match run {
        Run::Fold(fold) => format!("fold {}", fold + 1),
        Run::Final => "final".to_owned(),
    };
    let loss = loss.is_finite().then_some(loss);
    Ok((parameters, Ending { run, pictures: learning.len(), step, loss, auc: None }))
}

/// Returns the area under the receiver operating characteristic of what one network found under the conditions that are learned from.
fn order(plan: &Plan, found: &[Seen<'_>]) -> Option<f64> {
    trainer::order(found.iter().filter(|(sample, _)| plan.learns(sample)).map(|(sample, evidence)| (*sample, evidence)))
}

fn largest(values: &[f32]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0)
}
