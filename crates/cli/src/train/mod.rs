//! `driftline train`.

mod pictures;

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{ErrorKind, IsTerminal},
    path::{Path, PathBuf},
};

use driftline_models::{
    ModelError,
    inspection::{
        Surface,
        training::{
            augment::Grain,
            sample::Sample,
            study::{self, Conclusion, Ending, Judgement, Plan, Run},
            trainer::{Progress, Recipe},
        },
        view::ALIGN,
        weights::Weights,
    },
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    Exit,
    args::{TrainArgs, TrainCommand, TrainInspectionArgs},
    exit::Failure,
    print,
};
use pictures::Pictures;

pub(crate) fn train(args: &TrainArgs) -> Result<Exit, Failure> {
    let TrainCommand::Inspection(args) = &args.command;
    inspection(args)
}

fn inspection(args: &TrainInspectionArgs) -> Result<Exit, Failure> {
    let side = usize::from(args.side);
    if !side.is_multiple_of(ALIGN) {
        return Err(Failure::usage(format!("--side: found {side}, allowed is a multiple of {ALIGN}")));
    }
    if args.folds == 1 {
        return Err(Failure::usage("--folds: found 1, allowed are 0, and 2 or more"));
    }
    writable(&args.output)?;
    let Pictures { samples, classes, pieces } = match (&args.images, args.generate) {
        (Some(folder), _) => pictures::read(folder, args.good.as_deref(), args.gap, side)?,
        (None, Some(count)) => {
            let surface = Surface::named(&args.surface).ok_or_else(|| {
                let allowed = Surface::ALL.map(Surface::name).join(" or ");
                Failure::usage(format!("--surface: found {}, allowed with --generate is {allowed}", args.surface))
            })?;
            pictures::generate(surface, count, args.seed, side)?
        }
        (None, None) => return Err(Failure::usage("found neither --images nor --generate, allowed is one of them")),
    };
    check(args, &samples)?;
    let count = |class| samples.iter().filter(|sample| sample.class == class).count();
    let composition: Vec<String> =
        classes.iter().enumerate().map(|(class, name)| format!("{} {name}", count(class))).collect();
    let (pictures, pieces) = (print::counted(samples.len() as u64, "picture"), print::counted(pieces as u64, "piece"));
    print::tell!("{pictures} of {pieces}: {}", composition.join(", "));
    let weights = |name: &str| Surface::named(name).map_or_else(|| Weights::load(name.as_ref()), Weights::builtin);
    let start = args.start.as_deref().map(weights);
    let plan = Plan {
        start: start.transpose().map_err(Failure::usage)?,
        surface: args.surface.clone(),
        classes,
        slices: args.slices.clone(),
        folds: args.folds,
        patience: (args.patience > 0).then_some(args.patience),
        recall: args.recall,
        false_rejects: args.false_rejects,
        mirrored: args.mirrored,
        recipe: Recipe {
            side,
            steps: args.steps,
            batch: 16,
            rate: args.rate,
            grain: if args.upright { Grain::Upright } else { Grain::None },
            pasted: args.pasted,
            seed: args.seed,
            threads: args.threads,
        },
    };
    let bars = Bars::new(&plan);
    let (mut endings, mut judged) = (Vec::new(), None);
    if plan.folds > 0 {
        let Judgement { report, endings: runs } =
            study::judge(&samples, &plan, |run, progress| bars.show(run, progress), |ending| bars.end(ending))
                .map_err(failed)?;
        bars.0.suspend(|| print::line(&report))?;
        (endings, judged) = (runs, Some(report));
    }
    let Conclusion { weights, report: own, ending } =
        study::conclude(&samples, &plan, |run, progress| bars.show(run, progress)).map_err(failed)?;
    bars.end(&ending);
    endings.push(ending);
    bars.0.finish_and_clear();
    print::line(format_args!("The network that ships, on the pieces it was calibrated on:\n\n{own}"))?;
    let figures = serde_json::json!({
        "settings": weights.settings,
        "report": judged,
        "calibration": own,
        "runs": endings,
    });
    write(&args.output, &weights, &figures)?;
    Ok(Exit::Success)
}

/// Fails if there is nothing to learn from.
fn check(args: &TrainInspectionArgs, samples: &[Sample]) -> Result<(), Failure> {
    both_kinds(if args.images.is_some() { "--images" } else { "--generate" }, samples.iter())?;
    let slices: BTreeSet<&String> = samples.iter().map(|sample| &sample.slice).collect();
    let quoted = |slices: Vec<&String>| slices.iter().map(|slice| format!("{slice:?}")).collect::<Vec<_>>().join(", ");
    let unknown: Vec<&String> = args.slices.iter().filter(|slice| !slices.contains(slice)).collect();
    if !unknown.is_empty() {
        let (unknown, allowed) = (quoted(unknown), quoted(slices.into_iter().collect()));
        return Err(Failure::usage(format!("--slices: found {unknown}, allowed are {allowed}")));
    }
    let learned = |sample: &&Sample| args.slices.is_empty() || args.slices.contains(&sample.slice);
    both_kinds("--slices", samples.iter().filter(learned))
}

fn both_kinds<'a>(option: &str, samples: impl Iterator<Item = &'a Sample>) -> Result<(), Failure> {
    let (good, defective): (Vec<_>, Vec<_>) = samples.partition(|sample| sample.class == 0);
    if !good.is_empty() && !defective.is_empty() {
        return Ok(());
    }
    let (good, defective) = (good.len(), defective.len());
    Err(Failure::usage(format!(
        "{option}: found {good} good and {defective} defective pictures to learn from, allowed is at least one of each"
    )))
}

/// Tells too few pictures of a kind from a training that failed.
fn failed(error: ModelError) -> Failure {
    match error {
        ModelError::Input { .. } => Failure::usage(error),
        error => Failure::running(error),
    }
}

/// Fails now if what a long training yields could not be written at its end. Makes the folder it goes to.
fn writable(path: &Path) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let tried = |path: &Path| match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => tempfile::tempfile_in(folder).map(drop),
        opened => opened.map(drop),
    };
    let made = fs::create_dir_all(folder).and_then(|()| tried(path)).and_then(|()| tried(&figures_of(path)));
    made.map_err(|error| Failure::usage(format!("--output: {} cannot be written: {error}", path.display())))
}

/// Where the figures of weights go.
fn figures_of(path: &Path) -> PathBuf {
    path.with_extension("evaluation.json")
}

/// Writes the weights, and beside them the figures.
fn write(path: &Path, weights: &Weights, figures: &serde_json::Value) -> Result<(), Failure> {
    let unwritable = |error| Failure::running(format!("{}: cannot be written: {error}", path.display()));
    fs::write(path, weights.to_bytes().map_err(Failure::running)?).map_err(unwritable)?;
    let figures = serde_json::to_string_pretty(figures).map_err(Failure::running)?;
    fs::write(figures_of(path), figures + "\n").map_err(unwritable)
}

/// How far the training is: a bar on a terminal, else a line every hundred steps.
struct Bars(ProgressBar, usize, usize);

impl Bars {
    fn new(plan: &Plan) -> Self {
        let total = plan.recipe.steps as u64;
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(total) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{prefix} {elapsed} {wide_bar} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        Self(bar, plan.folds, plan.recipe.steps)
    }

    fn show(&self, run: Run, Progress { step, loss }: Progress) {
        let Self(bar, folds, steps) = self;
        let name = match run {
            Run::Fold(fold) => format!("fold {} of {folds}", fold + 1),
            Run::Final => "final".to_owned(),
        };
        if bar.is_hidden() && step.is_multiple_of(100) {
            print::tell!("{name}: step {step} of {steps}, loss {loss:.2}");
        }
        bar.set_position(step as u64);
        bar.set_message(format!("loss {loss:.2}"));
        bar.set_prefix(name);
    }

    fn end(&self, Ending { run, pictures, step, auc, .. }: &Ending) {
        let auc = auc.map_or_else(
            || "no AUC: the pieces not learned from are all of one kind".to_owned(),
            |auc| format!("AUC of the pieces not learned from {auc:.3}"),
        );
        self.0.suspend(|| print::tell!("{run}: learned from {pictures} pictures, weights of step {step}, {auc}"));
    }
}
