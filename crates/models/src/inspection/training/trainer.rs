//! The training loop.
//!
//! A step computes all its pictures in one graph, since batch normalisation takes their moments together; they may differ in shape. Examples are drawn by piece, half of them good, so
//! that neither a piece photographed often nor a class seen often is preferred. Means and deviations that the weights are saved with are averaged over the steps as the weights are. Given seed and
//! samples a run repeats, whatever the number of threads: the pictures of a batch are shared among [`Recipe::threads`], and sums are made in order. candle's own threads should be off
//! (`RAYON_NUM_THREADS=1`).

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var, backprop::GradStore};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use rand_distr::StandardNormal;
use rayon::prelude::*;

use super::{
    augment::{self, Example, Grain},
    loss::loss,
    report::auc,
    sample::Sample,
};
use crate::{
    error::ModelError,
    inspection::{
        evidence::Evidence,
        network::{BatchLogits, Network, Parameters, Role, shapes},
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
const GOOD: f64 = 0.5;
/// Good pictures of which the one that was hardest of late is drawn: those without anything to be mistaken for a defect are soon learned.
const RIVALS: usize = 3;
/// Share of the steps before the validation samples are looked at: the best of many early looks would be luck.
const BLIND: f64 = 0.5;

/// Numbers that a run is made with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// Longer side of what the network sees, pixels.
    pub side: usize,
    /// Optimiser steps at most; the learning rate is nearly zero after them (half a cosine).
    pub steps: usize,
    /// Pictures a step.
    pub batch: usize,
    /// Highest learning rate.
    pub rate: f64,
    /// Whether the surface has a direction.
    pub grain: Grain,
    /// Steps between two looks at the validation samples.
    pub every: usize,
    /// Looks without improvement after which training stops.
    pub patience: usize,
    /// Seed of examples and initial weights.
    pub seed: u64,
    /// Threads.
    pub threads: usize,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Steps made.
    pub step: usize,
    /// Mean loss of the examples since the last look.
    pub loss: f64,
    /// Disorder of the validation samples, 0 to 1, where they were just looked at, and the least so far.
    pub validation: Option<(f64, f64)>,
}

/// What training yields.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The averaged weights at the best look.
    pub parameters: Parameters,
    /// The step of that look.
    pub best_step: usize,
    /// Steps made.
    pub steps: usize,
    /// Disorder of the validation samples at the best look: 1 less the area under the receiver operating characteristic.
    pub validation: f64,
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

/// Draws initial weights, and takes from another network of any classes what does not depend on them: all but the last step of the map and of the head.
///
/// # Errors
/// [`ModelError::Candle`] where a tensor cannot be made.
pub fn transferred(classes: usize, seed: u64, from: &Parameters) -> Result<Parameters, ModelError> {
    let mut parameters = initial(classes, seed)?;
    for (name, tensor) in &mut parameters {
        let last = name.starts_with("map.") || name.starts_with("head.");
        if let Some(known) = from.get(name).filter(|known| !last && known.dims() == tensor.dims()) {
            *tensor = known.copy()?;
        }
    }
    Ok(parameters)
}

/// Trains on `samples` from the weights `start` and stops when `validation` no longer improves; `progress` is called after every look, and every ten steps.
///
/// # Errors
/// [`ModelError::Input`] without a good sample, a defective one and one for validation; [`ModelError::Candle`] from the network.
pub fn train(
    samples: &[&Sample],
    validation: &[&Sample],
    classes: usize,
    start: &Parameters,
    recipe: Recipe,
    mut progress: impl FnMut(Progress),
) -> Result<Trained, ModelError> {
    let mut deck = Deck::new(samples)?;
    if validation.is_empty() {
        return Err(nothing("validation samples"));
    }
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

    let mut best = Trained { parameters: copy(start)?, best_step: 0, steps: 0, validation: f64::INFINITY };
    let (mut sum, mut count, mut without) = (0f64, 0usize, 0usize);
    for step in 0..recipe.steps {
        let (losses, gradients, moments) = pool.install(|| -> Result<_, ModelError> {
            let examples: Vec<(usize, Example)> = (0..recipe.batch)
                .into_par_iter()
                .map(|i| {
                    let number = (step * recipe.batch + i) as u64;
                    let seed = recipe.seed.wrapping_add((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    let mut rng = StdRng::seed_from_u64(seed);
                    let place = deck.draw(&mut rng);
                    (place, augment::example(samples[place], recipe.side, recipe.grain, &mut rng))
                })
                .collect();
            let (losses, gradients, moments) = gradient(&network, &examples)?;
            let losses: Vec<(usize, f64)> = examples.iter().map(|(place, _)| *place).zip(losses).collect();
            Ok((losses, gradients, moments))
        })?;
        for (place, loss) in losses {
            deck.learned(place, loss);
            sum += loss;
            count += 1;
        }
        let gradients = clipped(gradients, &variables)?;
        optimiser.set_learning_rate(training::rate(step, recipe.rate, WARM_UP, recipe.steps));
        if let Some(gradients) = gradients {
            optimiser.step(&gradients)?;
        }
        training::follow(&mut measured, |name| &moments[name], AVERAGING, step)?;
        training::follow(&mut average, |name| variables[name].as_tensor(), AVERAGING, step)?;
        best.steps = step + 1;
        let seeing = best.steps as f64 >= BLIND * recipe.steps as f64;
        let look = seeing && best.steps.is_multiple_of(recipe.every) || best.steps == recipe.steps;
        if look {
            let all: Parameters = average.iter().chain(&measured).map(|(name, t)| (name.clone(), t.clone())).collect();
            let averaged = Network::try_new(&all, classes, "training".as_ref())?;
            let found = validate(&averaged, validation, recipe.side, &pool)?;
            without += 1;
            if found < best.validation {
                without = 0;
                best.validation = found;
                best.best_step = best.steps;
                best.parameters = copy(&all)?;
            }
            progress(Progress {
                step: best.steps,
                loss: sum / count as f64,
                validation: Some((found, best.validation)),
            });
            (sum, count) = (0.0, 0);
            if without >= recipe.patience {
                break;
            }
        } else if best.steps.is_multiple_of(10) {
            progress(Progress { step: best.steps, loss: sum / count as f64, validation: None });
        }
    }
    Ok(best)
}

fn copy(parameters: &Parameters) -> candle_core::Result<Parameters> {
    parameters.iter().map(|(name, tensor)| Ok((name.clone(), tensor.copy()?))).collect()
}

fn nothing(what: &str) -> ModelError {
    ModelError::Input { place: what.to_owned(), found: "none".to_owned(), allowed: "at least one".to_owned() }
}

/// Samples by piece, the good ones and the defective ones of each class apart; samples are places in the list they came in.
struct Deck {
    good: Vec<Vec<usize>>,
    defects: Vec<Vec<Vec<usize>>>,
    /// Every defective piece, whatever its class.
    all: Vec<Vec<usize>>,
    /// Mean loss of each sample's last examples; infinite for one that was not drawn.
    hardness: Vec<f64>,
}

impl Deck {
    fn new(samples: &[&Sample]) -> Result<Self, ModelError> {
        let mut classes: BTreeMap<usize, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
        for (place, sample) in samples.iter().enumerate() {
            classes.entry(sample.class).or_default().entry(sample.piece).or_default().push(place);
        }
        let good: Vec<_> = classes.remove(&0).unwrap_or_default().into_values().collect();
        let defects: Vec<Vec<_>> = classes.into_values().map(|pieces| pieces.into_values().collect()).collect();
        let all: Vec<_> = defects.iter().flatten().cloned().collect();
        if good.is_empty() {
            return Err(nothing("good samples"));
        }
        if all.is_empty() {
            return Err(nothing("defective samples"));
        }
        Ok(Self { good, defects, all, hardness: vec![f64::INFINITY; samples.len()] })
    }

    /// Draws good and defective alike often; of the defective half by class and half by piece, of the good the hardest of [`RIVALS`].
    fn draw(&self, rng: &mut StdRng) -> usize {
        let one = |pieces: &[Vec<usize>], rng: &mut StdRng| {
            pieces.choose(rng).and_then(|piece| piece.choose(rng)).copied().unwrap_or(self.good[0][0])
        };
        if rng.random_bool(GOOD) {
            let rivals: [usize; RIVALS] = std::array::from_fn(|_| one(&self.good, rng));
            rivals.into_iter().max_by(|&a, &b| self.hardness[a].total_cmp(&self.hardness[b])).unwrap_or(rivals[0])
        } else if rng.random_bool(0.5) {
            one(self.defects.choose(rng).unwrap_or(&self.all), rng)
        } else {
            one(&self.all, rng)
        }
    }

    fn learned(&mut self, place: usize, loss: f64) {
        let before = self.hardness[place];
        self.hardness[place] = if before.is_finite() { (before + loss) / 2.0 } else { loss };
    }
}

/// Returns the loss of each example, the gradients of their mean, and the moments of the batch.
fn gradient(network: &Network, examples: &[(usize, Example)]) -> Result<(Vec<f64>, GradStore, Parameters), ModelError> {
    let pictures: Vec<_> = examples.iter().map(|(_, example)| &example.picture).collect();
    let BatchLogits { batch, map, head, moments } = network.forward_batch(&pictures)?;
    let maps = map.flatten_all()?.to_vec1::<f32>()?;
    let heads = head.to_vec2::<f32>()?;
    let share = 1.0 / examples.len() as f32;
    let mut losses = Vec::with_capacity(examples.len());
    let (mut map_gradient, mut head_gradient) = (Vec::with_capacity(maps.len()), Vec::new());
    for (((_, example), head), (_, map)) in examples.iter().zip(&heads).zip(batch.split(&maps, heads[0].len())) {
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

/// Returns the evidence that a network finds in each sample.
///
/// # Errors
/// [`ModelError`] from the network.
pub fn observe(
    network: &Network,
    samples: &[&Sample],
    side: usize,
    pool: &rayon::ThreadPool,
) -> Result<Vec<Evidence>, ModelError> {
    pool.install(|| samples.par_iter().map(|sample| Evidence::read(&network.forward(&sample.view(side)?)?)).collect())
}

/// Returns the share of pairs of a good and a defective picture that the mean of both log odds puts in the wrong order, and a hundredth of its log loss, which
/// decides between equals. The order counts, because thresholds are chosen afterwards; without both kinds only the log loss is left.
fn validate(network: &Network, samples: &[&Sample], side: usize, pool: &rayon::ThreadPool) -> Result<f64, ModelError> {
    let evidence = observe(network, samples, side, pool)?;
    let (mut defective, mut good) = (Vec::new(), Vec::new());
    let mut loss = 0.0;
    for (evidence, sample) in evidence.iter().zip(samples) {
        let odds = f64::from(evidence.peak + evidence.whole) / 2.0;
        if sample.class == 0 { &mut good } else { &mut defective }.push(odds);
        let wrong = if sample.class == 0 { odds } else { -odds };
        loss += (wrong.max(0.0) + (-wrong.abs()).exp().ln_1p()) / samples.len() as f64;
    }
    Ok(1.0 - auc(defective, good).unwrap_or(1.0) + loss / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(piece: usize, class: usize) -> Sample {
        Sample::try_new("s", "", piece, class, (32, 32), &[90; 1024], None, 32).unwrap()
    }

    #[test]
    fn another_networks_body_is_taken_and_its_last_steps_are_not() {
        let (three, five) = (initial(3, 1).unwrap(), initial(5, 2).unwrap());
        let taken = transferred(5, 2, &three).unwrap();
        let values = |from: &Parameters, name: &str| from[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for name in taken.keys() {
            let last = name.starts_with("map.") || name.starts_with("head.");
            let from = if last { &five } else { &three };
            assert_eq!(values(&taken, name), values(from, name), "{name}");
        }
    }

    #[test]
    fn good_samples_that_are_hard_are_drawn_more_often() {
        let samples: Vec<Sample> = (0..10).map(|piece| sample(piece, usize::from(piece >= 8))).collect();
        let samples: Vec<&Sample> = samples.iter().collect();
        let mut deck = Deck::new(&samples).unwrap();
        for place in 0..10 {
            deck.learned(place, if place == 3 { 5.0 } else { 0.1 });
        }
        let mut rng = StdRng::seed_from_u64(1);
        let mut drawn = [0usize; 10];
        (0..4_000).for_each(|_| drawn[deck.draw(&mut rng)] += 1);
        // One of three of eight is the hard one in 1 - (7/8)³ = 33 % of the draws; the defective share the other half.
        assert!((580..740).contains(&drawn[3]), "{drawn:?}");
        assert!((1_850..2_150).contains(&(drawn[8] + drawn[9])), "{drawn:?}");
        assert!(Deck::new(&samples[..8]).is_err() && Deck::new(&samples[8..]).is_err());
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
        let recipe = Recipe {
            side: 48,
            steps: 150,
            batch: 4,
            rate: 3e-3,
            grain: Grain::None,
            every: 50,
            patience: 3,
            seed: 1,
            threads: 1,
        };
        let trained = train(&samples, &validation, 2, &initial(2, 1).unwrap(), recipe, |_| ()).unwrap();
        assert!(trained.validation < 0.15, "{}", trained.validation);
        let network = Network::try_new(&trained.parameters, 2, "test".as_ref()).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        for (evidence, sample) in observe(&network, &validation, 48, &pool).unwrap().iter().zip(&validation) {
            if sample.class == 1 {
                let place = crate::inspection::evidence::peak(&evidence.odds)[0];
                let (x, y) = (place % 12 * 4 + 2, place / 12 * 4 + 2);
                assert!(sample.mask().unwrap().at(x as f32, y as f32) > 0.2 || evidence.peak < 0.0);
            }
        }
    }
}
