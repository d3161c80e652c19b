//! A whole training: folds for honest figures, calibration and thresholds from them, and the network that ships.
//!
//! Pieces are dealt into folds; each fold is judged by a network that has not seen it. The network that ships learns from all pieces; its calibration and
//! thresholds are those of the folds, which are therefore a little cautious for it. An eighth of what a network may learn from decides when it stops.

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
        network::{Network, Parameters},
        weights::{Settings, Weights},
    },
};

/// Parts of the pieces, of which one decides when training stops.
const HELD_BACK: usize = 8;

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
    /// Everything but the parameters of the file that ships.
    pub settings: Settings,
    /// Figures.
    pub report: Report,
    /// How the runs ended.
    pub endings: Vec<Ending>,
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
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(plan.recipe.threads)
        .build()
        .map_err(|error| ModelError::Candle(candle_core::Error::msg(error)))?;
    let mut endings = Vec::new();
    let mut found = Vec::with_capacity(samples.len());
    for fold in 0..plan.folds {
        let run = Run::Fold(fold);
        let (parameters, ending) = train(samples, plan, run, |i| folds[i] != fold, |p| progress(run, p))?;
        endings.push(ending);
        let network = Network::try_new(&parameters, plan.classes.len(), "training".as_ref())?;
        let own: Vec<&Sample> = samples.iter().zip(&folds).filter(|(_, part)| **part == fold).map(|(s, _)| s).collect();
        let evidence = trainer::observe(&network, &own, plan.recipe.side, &pool)?;
        found.extend(own.into_iter().zip(evidence));
    }
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
    Ok(Judgement { settings, report, endings })
}

/// Trains the network that ships, on all pieces.
///
/// # Errors
/// [`ModelError::Input`] if there are too few samples of a kind.
pub fn conclude(
    samples: &[Sample],
    plan: &Plan,
    settings: Settings,
    mut progress: impl FnMut(Run, Progress),
) -> Result<(Weights, Ending), ModelError> {
    let (parameters, ending) = train(samples, plan, Run::Final, |_| true, |p| progress(Run::Final, p))?;
    Ok((Weights { parameters, settings }, ending))
}

/// Trains a network on the samples that `may` be seen.
fn train(
    samples: &[Sample],
    plan: &Plan,
    run: Run,
    may: impl Fn(usize) -> bool,
    progress: impl FnMut(Progress),
) -> Result<(Parameters, Ending), ModelError> {
    let classes = plan.classes.len();
    let start = match &plan.start {
        Some(from) => trainer::transferred(classes, plan.recipe.seed, from)?,
        None => trainer::initial(classes, plan.recipe.seed)?,
    };
    let held_back = deal(samples, HELD_BACK, plan.recipe.seed + 1);
    let part = |validation: bool| -> Vec<&Sample> {
        let wanted = |&i: &usize| may(i) && plan.learns(&samples[i]) && (held_back[i] == 0) == validation;
        (0..samples.len()).filter(wanted).map(|i| &samples[i]).collect()
    };
    let (learning, validation) = (part(false), part(true));
    let Trained { parameters, best_step, steps, validation } =
        trainer::train(&learning, &validation, classes, &start, plan.recipe, progress)?;
    let run = match run {
        Run::Fold(fold) => format!("fold {}", fold + 1),
        Run::Final => "final".to_owned(),
    };
    Ok((parameters, Ending { run, pictures: learning.len(), steps, best_step, validation }))
}

fn largest(values: &[f32]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0)
}
