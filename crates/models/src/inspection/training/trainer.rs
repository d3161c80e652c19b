//! The training loop.
//!
//! A step computes all its pictures in one graph, since batch normalisation takes their moments together. Every photograph is drawn alike often, the good ones and the
//! defective ones among themselves: drawn by piece, the many photographs of a piece, or of pieces that were taken for one, would be seen seldom. The learning rate is
//! nearly zero at the last step; samples that are held back may say that it is enough before, see [`Stop`]. Means and deviations that the weights are saved with are averaged over the
//! steps as the weights are. Given seed and samples a run repeats, whatever the number of threads: the pictures of a batch are shared among [`Recipe::threads`], and sums are made in
//! order. candle's own threads should be off (`RAYON_NUM_THREADS=1`).

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var, backprop::GradStore};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::StandardNormal;
use rayon::prelude::*;

use super::{
    augment::{self, Example, Grain},
    loss::loss,
    paste,
    report::auc,
    sample::Sample,
};
use crate::{
    error::ModelError,
    inspection::{
        evidence::Evidence,
        network::{BatchLogits, Network, Parameters, Role, shapes},
        view::ALIGN,
        weights::Weights,
    },
    training,
};

/// Steps over which the learning rate rises.
const WARM_UP: usize = 50;
/// Largest norm of a step's gradient.
const CLIP_NORM: f64 = 2.0;
/// What a step leaves of the averaged weights.
const AVERAGING: f64 = 0.98;
/// Share of good pictures among those drawn.
const GOOD: f64 = 0.6;
/// Steps between two looks at the samples that are held back. The first is after half of all steps: the best of many early looks would be luck.
const LOOK: usize = 100;
/// What a step leaves of the mean loss that is shown.
const SHOWN: f64 = 0.98;

/// Numbers that a run is made with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// Side of the square that the network sees, pixels: a multiple of [`ALIGN`].
    pub side: usize,
    /// Optimiser steps at most; the learning rate is nearly zero after them (half a cosine).
    pub steps: usize,
    /// Pictures a step.
    pub batch: usize,
    /// Highest learning rate.
    pub rate: f64,
    /// Whether the surface has a direction.
    pub grain: Grain,
    /// Share of the small defects drawn that are shown on the surface of a good piece, 0 to 1.
    pub pasted: f64,
    /// Seed of examples and initial weights.
    pub seed: u64,
    /// Threads.
    pub threads: usize,
}

/// What may end a run before its last step.
#[derive(Debug, Clone, Copy)]
pub struct Stop<'a> {
    /// Samples that are not learned from.
    pub held_back: &'a [&'a Sample],
    /// Looks at them, of which there is one in a hundred steps, in a row that find them told apart no better than before, after which the run ends. The weights of the
    /// best look are kept.
    pub patience: usize,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Steps made.
    pub step: usize,
    /// Mean loss of the examples of about the last fifty steps.
    pub loss: f64,
}

/// What training yields.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The averaged weights.
    pub parameters: Parameters,
    /// The step that they are of.
    pub step: usize,
    /// Mean loss of the examples of about the last fifty steps; NaN without steps.
    pub loss: f64,
}

/// Draws initial weights.
///
/// # Errors
/// [`ModelError::Candle`] where a tensor cannot be made.
pub fn initial(classes: usize, seed: u64) -> Result<Parameters, ModelError> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut parameters = Parameters::new();
    for (name, role, shape) in shapes(classes) {
        let count: usize = shape.iter().product();
        let fan = shape[0] as f32;
        let mut values: Vec<f32> = match role {
            Role::Weight => {
                let last = name.starts_with("map.") || name.starts_with("head.");
                let deviation = if last { 1.0 } else { 2.0f32.sqrt() } / fan.sqrt();
                (0..count).map(|_| deviation * rng.sample::<f32, _>(StandardNormal)).collect()
            }
            Role::Gain | Role::Deviation => vec![1.0; count],
            Role::Bias | Role::Mean => vec![0.0; count],
        };
        // Most cells are good: a network that has to learn that first takes hundreds of steps for it.
        if name == "map.bias" {
            values[0] = 4.0;
        }
        parameters.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(parameters)
}

/// Returns where each class stands in another list, if it does; the first, *good*, is the first of any list. Neither the case of a name counts nor what stands before its
/// last `_`: `MT_Crack` is a `crack`.
fn counterparts(classes: &[String], others: &[String]) -> Vec<Option<usize>> {
    let name = |class: &String| class.rsplit('_').next().unwrap_or_default().to_lowercase();
    let place = |class: &String| others.iter().skip(1).position(|other| name(other) == name(class)).map(|i| i + 1);
    classes.iter().enumerate().map(|(i, class)| if i == 0 { Some(0) } else { place(class) }).collect()
}

/// Draws initial weights, and takes from others all that does not depend on the classes; of the last steps of map and head, which do, those of the classes that both know: neither
/// the case of a name counts nor what stands before its last `_`. If they have no kind of defect in common, the last steps are drawn.
///
/// # Errors
/// [`ModelError::Input`] for weights that are not of such a network, [`ModelError::Candle`] where a tensor cannot be made.
pub fn transferred(classes: &[String], seed: u64, from: &Weights) -> Result<Parameters, ModelError> {
    let mut columns = counterparts(classes, &from.settings.classes);
    if columns.iter().skip(1).all(Option::is_none) {
        columns.fill(None);
    }
    let mut parameters = initial(classes.len(), seed)?;
    for (name, tensor) in &mut parameters {
        let known = from.parameters.get(name).ok_or_else(|| nothing(name))?;
        if !name.starts_with("map.") && !name.starts_with("head.") {
            *tensor = known.copy()?;
            continue;
        }
        let axis = tensor.rank() - 1;
        let column = |(new, old): (usize, &Option<usize>)| match old {
            Some(old) => known.narrow(axis, *old, 1),
            None => tensor.narrow(axis, new, 1),
        };
        let columns: Vec<Tensor> = columns.iter().enumerate().map(column).collect::<candle_core::Result<_>>()?;
        *tensor = Tensor::cat(&columns, axis)?;
    }
    Ok(parameters)
}

/// Trains on `samples` from the weights `start` until the last step, or until `stop` says so; `progress` is called after every step.
///
/// # Errors
/// [`ModelError::Input`] without a good sample and a defective one, and for a side that is no multiple of [`ALIGN`]; [`ModelError::Candle`] from the network.
pub fn train(
    samples: &[&Sample],
    classes: usize,
    start: &Parameters,
    recipe: Recipe,
    stop: Option<Stop<'_>>,
    mut progress: impl FnMut(Progress),
) -> Result<Trained, ModelError> {
    if recipe.side == 0 || !recipe.side.is_multiple_of(ALIGN) {
        return Err(ModelError::Input {
            place: "side".to_owned(),
            found: recipe.side.to_string(),
            allowed: format!("a multiple of {ALIGN}"),
        });
    }
    let deck = Deck::new(samples)?;
    let mut variables = BTreeMap::new();
    // What is averaged over the steps: weights as they are learned, moments as they are measured.
    let (mut average, mut measured) = (Parameters::new(), Parameters::new());
    for (name, role, _) in shapes(classes) {
        let value = start.get(&name).ok_or_else(|| nothing(&name))?.copy()?;
        if matches!(role, Role::Mean | Role::Deviation) {
            measured.insert(name, value);
        } else {
            variables.insert(name.clone(), Var::from_tensor(&value)?);
            average.insert(name, value.copy()?);
        }
    }
    let learned: Parameters = variables.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect();
    let network = Network::learning(&learned, classes)?;
    let mut optimiser = AdamW::new(
        variables.values().cloned().collect(),
        ParamsAdamW { lr: 0.0, beta2: 0.99, weight_decay: 0.05, ..ParamsAdamW::default() },
    )?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(recipe.threads)
        .build()
        .map_err(|error| ModelError::Candle(candle_core::Error::msg(error)))?;

    let mut shown = f64::NAN;
    let mut best: Option<(f64, Trained)> = None;
    for step in 0..recipe.steps {
        let (losses, gradients, moments) = pool.install(|| -> Result<_, ModelError> {
            let examples: Vec<Example> = (0..recipe.batch)
                .into_par_iter()
                .map(|i| {
                    let number = (step * recipe.batch + i) as u64;
                    let seed = recipe.seed.wrapping_add((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    let mut rng = StdRng::seed_from_u64(seed);
                    deck.example(samples, recipe, &mut rng)
                })
                .collect();
            gradient(&network, &examples)
        })?;
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        shown = if shown.is_nan() { mean } else { mean + SHOWN * (shown - mean) };
        let gradients = clipped(gradients, &variables)?;
        optimiser.set_learning_rate(training::rate(step, recipe.rate, WARM_UP, recipe.steps));
        if let Some(gradients) = gradients {
            optimiser.step(&gradients)?;
        }
        training::follow(&mut measured, |name| &moments[name], AVERAGING, step)?;
        training::follow(&mut average, |name| variables[name].as_tensor(), AVERAGING, step)?;
        let step = step + 1;
        progress(Progress { step, loss: shown });
        let is_due = 2 * step >= recipe.steps && (step.is_multiple_of(LOOK) || step == recipe.steps);
        let Some(Stop { held_back, patience }) = stop.filter(|_| is_due) else { continue };
        let parameters: Parameters = average.iter().chain(&measured).map(|(k, t)| (k.clone(), t.clone())).collect();
        let averaged = Network::try_new(&parameters, classes, "training".as_ref())?;
        // One way round is enough to tell which step is best.
        let found = observe(&averaged, held_back, recipe.side, false, &pool)?;
        let area = order(held_back.iter().copied().zip(&found)).unwrap_or(0.0);
        match &best {
            Some((most, kept)) if area <= *most => {
                if step - kept.step >= patience * LOOK {
                    break;
                }
            }
            _ => best = Some((area, Trained { parameters, step, loss: shown })),
        }
    }
    average.append(&mut measured);
    Ok(best.map_or(Trained { parameters: average, step: recipe.steps, loss: shown }, |(_, kept)| kept))
}

/// Returns the area under the receiver operating characteristic of what one network found, by the mean of both log odds; `None` without both good and defective
/// samples.
#[must_use]
pub fn order<'a>(found: impl Iterator<Item = (&'a Sample, &'a Evidence)>) -> Option<f64> {
    let (mut defective, mut good) = (Vec::new(), Vec::new());
    for (sample, evidence) in found {
        if sample.class == 0 { &mut good } else { &mut defective }.push(f64::from(evidence.peak + evidence.whole));
    }
    auc(defective, good)
}

fn nothing(what: &str) -> ModelError {
    ModelError::Input { place: what.to_owned(), found: "none".to_owned(), allowed: "at least one".to_owned() }
}

/// The good samples and the defective ones, as places in the list they came in.
struct Deck {
    good: Vec<usize>,
    defective: Vec<usize>,
}

impl Deck {
    fn new(samples: &[&Sample]) -> Result<Self, ModelError> {
        let (good, defective): (Vec<usize>, Vec<usize>) = (0..samples.len()).partition(|&i| samples[i].class == 0);
        if good.is_empty() {
            return Err(nothing("good pictures to learn from"));
        }
        if defective.is_empty() {
            return Err(nothing("defective pictures to learn from"));
        }
        Ok(Self { good, defective })
    }

    /// Draws an example.
    fn example(&self, samples: &[&Sample], recipe: Recipe, rng: &mut StdRng) -> Example {
        let sample = samples[self.draw(rng)];
        let Recipe { side, grain, pasted, .. } = recipe;
        let moves = paste::is_movable(sample) && pasted > 0.0 && rng.random_bool(pasted);
        let elsewhere = moves.then(|| samples[self.good[rng.random_range(0..self.good.len())]]);
        elsewhere
            .and_then(|ground| paste::pasted(ground, sample, side, grain, rng))
            .unwrap_or_else(|| augment::example(sample, side, grain, rng))
    }

    /// Draws a good sample with the probability [`GOOD`], else a defective one; each of a kind alike often.
    fn draw(&self, rng: &mut StdRng) -> usize {
        let kind = if rng.random_bool(GOOD) { &self.good } else { &self.defective };
        kind[rng.random_range(0..kind.len())]
    }
}

/// Returns the loss of each example, the gradients of their mean, and the moments of the batch.
fn gradient(network: &Network, examples: &[Example]) -> Result<(Vec<f64>, GradStore, Parameters), ModelError> {
    let pictures: Vec<_> = examples.iter().map(|example| &example.picture).collect();
    let BatchLogits { batch, map, head, moments } = network.forward_batch(&pictures)?;
    let maps = map.flatten_all()?.to_vec1::<f32>()?;
    let heads = head.to_vec2::<f32>()?;
    let share = 1.0 / examples.len() as f32;
    let mut losses = Vec::with_capacity(examples.len());
    let (mut map_gradient, mut head_gradient) = (Vec::with_capacity(maps.len()), Vec::new());
    for ((example, head), map) in
        examples.iter().zip(&heads).zip(maps.chunks_exact(batch.size.pixels() * heads[0].len()))
    {
        let found = loss(map, head, example.class, example.cells.as_deref());
        losses.push(f64::from(found.value));
        map_gradient.extend(found.map.into_iter().map(|g| g * share));
        head_gradient.extend(found.head.into_iter().map(|g| g * share));
    }
    // A sum whose derivative with respect to the logits is the loss's gradient.
    let along_map = (&map * Tensor::from_vec(map_gradient, map.shape(), &Device::Cpu)?)?.sum_all()?;
    let along_head = (&head * Tensor::from_vec(head_gradient, head.shape(), &Device::Cpu)?)?.sum_all()?;
    Ok((losses, (along_map + along_head)?.backward()?, moments))
}

/// Scales gradients down to [`CLIP_NORM`]. `None` if they are not finite.
fn clipped(mut gradients: GradStore, variables: &BTreeMap<String, Var>) -> Result<Option<GradStore>, ModelError> {
    let norm = training::norm(&gradients, variables)?;
    if !norm.is_finite() {
        return Ok(None);
    }
    if norm > CLIP_NORM {
        training::scale(&mut gradients, variables, CLIP_NORM / norm)?;
    }
    Ok(Some(gradients))
}

/// Returns the evidence that a network finds in each sample; in its mirror images too if `mirrored`.
///
/// # Errors
/// [`ModelError`] from the network.
pub fn observe(
    network: &Network,
    samples: &[&Sample],
    side: usize,
    mirrored: bool,
    pool: &rayon::ThreadPool,
) -> Result<Vec<Evidence>, ModelError> {
    pool.install(|| samples.par_iter().map(|sample| Evidence::of(network, &sample.view(side)?, mirrored)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspection::weights::{Calibration, Settings};

    fn sample(piece: usize, class: usize) -> Sample {
        Sample::try_new("s", "", piece, class, (32, 32), &[90; 1024], None, 32).unwrap()
    }

    #[test]
    fn what_is_known_of_a_class_is_taken_and_the_rest_is_drawn() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let settings = Settings {
            surface: "test".to_owned(),
            side: 64,
            mirrored: false,
            classes: names(&["good", "crack", "chip"]),
            calibration: Calibration { whole: 0.5, peak: 0.5, bias: 0.0 },
            accept_below: 0.2,
            reject_from: 0.8,
        };
        let from = Weights { parameters: initial(3, 1).unwrap(), settings };
        let drawn = initial(4, 2).unwrap();
        let rows = |from: &Parameters, name: &str| from[name].to_vec2::<f32>().unwrap();
        let taken = transferred(&names(&["MT_Free", "MT_Break", "MT_Chip", "MT_Crack"]), 2, &from).unwrap();
        assert_eq!(rows(&taken, "stem.weight"), rows(&from.parameters, "stem.weight"));
        for name in ["map.weight", "head.weight"] {
            let both = rows(&from.parameters, name).into_iter().zip(rows(&drawn, name));
            let expected: Vec<Vec<f32>> = both.map(|(old, new)| vec![old[0], new[1], old[2], old[1]]).collect();
            assert_eq!(rows(&taken, name), expected, "{name}");
        }
        let other = transferred(&names(&["good", "stain", "dent", "hole"]), 2, &from).unwrap();
        assert_eq!(rows(&other, "map.weight"), rows(&drawn, "map.weight"));
        assert_eq!(rows(&other, "stem.weight"), rows(&from.parameters, "stem.weight"));
    }

    #[test]
    fn every_photograph_is_drawn_alike_often() {
        // Two pieces of one and of seven photographs that are good, one of two that is defective.
        let pieces = [0, 1, 1, 1, 1, 1, 1, 1, 2, 2];
        let samples: Vec<Sample> = pieces.iter().map(|&piece| sample(piece, usize::from(piece == 2))).collect();
        let samples: Vec<&Sample> = samples.iter().collect();
        let deck = Deck::new(&samples).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let mut drawn = [0usize; 10];
        (0..4_000).for_each(|_| drawn[deck.draw(&mut rng)] += 1);
        assert!(drawn[..8].iter().all(|count| (240..360).contains(count)), "{drawn:?}");
        assert!(drawn[8..].iter().all(|count| (720..880).contains(count)), "{drawn:?}");
        assert!(Deck::new(&samples[..8]).is_err() && Deck::new(&samples[8..]).is_err());
    }

    #[test]
    fn a_side_that_does_not_fit_is_refused() {
        let samples = [sample(0, 0), sample(1, 1)];
        let samples: Vec<&Sample> = samples.iter().collect();
        let recipe =
            Recipe { side: 40, steps: 1, batch: 2, rate: 1e-3, grain: Grain::None, pasted: 0.0, seed: 1, threads: 1 };
        let error = train(&samples, 2, &initial(2, 1).unwrap(), recipe, None, |_| ()).unwrap_err().to_string();
        assert!(error.contains("found 40") && error.contains("a multiple of 16"), "{error}");
    }

    /// At a rate of zero no look is better than the first, which is at step 200 of 400; two more are waited for.
    #[test]
    fn what_is_held_back_says_when_it_is_enough() {
        let samples = [sample(0, 0), sample(1, 1)];
        let samples: Vec<&Sample> = samples.iter().collect();
        let recipe =
            Recipe { side: 32, steps: 400, batch: 2, rate: 0.0, grain: Grain::None, pasted: 0.0, seed: 1, threads: 1 };
        let mut last = 0;
        let stop = Some(Stop { held_back: &samples, patience: 2 });
        let start = initial(2, 1).unwrap();
        let trained = train(&samples, 2, &start, recipe, stop, |progress| last = progress.step).unwrap();
        assert_eq!((trained.step, last), (200, 400));
        let stop = Some(Stop { held_back: &samples, patience: 1 });
        let trained = train(&samples, 2, &start, recipe, stop, |progress| last = progress.step).unwrap();
        assert_eq!((trained.step, last), (200, 300));
    }

    /// Dark spots on bright noise are learned in a few steps, and the map says where they are.
    #[test]
    fn a_spot_is_learned_and_found() {
        let picture = |i: usize, spot: bool| {
            let mut rng = StdRng::seed_from_u64(i as u64);
            let (column, row) = (rng.random_range(8..40), rng.random_range(8..40));
            let inside = |p: usize| spot && (p % 48).abs_diff(column) < 5 && (p / 48).abs_diff(row) < 5;
            let pixels: Vec<u8> =
                (0..48 * 48).map(|p| if inside(p) { 60 } else { rng.random_range(140..180) }).collect();
            let mask: Vec<u8> = (0..48 * 48).map(|p| u8::from(inside(p))).collect();
            Sample::try_new("s", "", i, usize::from(spot), (48, 48), &pixels, Some(&mask), 48).unwrap()
        };
        let samples: Vec<Sample> = (0..24).map(|i| picture(i, i % 2 == 0)).collect();
        let (validation, samples): (Vec<&Sample>, Vec<&Sample>) = samples.iter().partition(|s| s.piece < 8);
        let recipe =
            Recipe { side: 48, steps: 150, batch: 4, rate: 3e-3, grain: Grain::None, pasted: 0.0, seed: 1, threads: 1 };
        let trained = train(&samples, 2, &initial(2, 1).unwrap(), recipe, None, |_| ()).unwrap();
        let network = Network::try_new(&trained.parameters, 2, "test".as_ref()).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let found = observe(&network, &validation, 48, false, &pool).unwrap();
        let area = order(validation.iter().copied().zip(&found)).unwrap();
        assert!(area > 0.85, "{area}");
        for (evidence, sample) in found.iter().zip(&validation) {
            if sample.class == 1 {
                let place = crate::inspection::evidence::peak(&evidence.odds)[0];
                let (x, y) = (place % 12 * 4 + 2, place / 12 * 4 + 2);
                let mask = sample.mask().unwrap();
                let scale = mask.width() as f32 / 48.0;
                assert!(mask.at(x as f32 * scale, y as f32 * scale) > 0.2 || evidence.peak < 0.0);
            }
        }
    }
}
