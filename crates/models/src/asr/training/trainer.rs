//! The training loop.
//!
//! A batch is split into one shard a thread; each shard has its own graph and the gradients are added. That keeps every core busy in the small
//! operations too, so candle's own threads should be off (`RAYON_NUM_THREADS=1`). Shards are fixed
//! parts of a batch and are added in their order, so a run repeats bit by bit given seed and thread count, on one kind of processor.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var, backprop::GradStore};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::{
    RngExt, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use rand_distr::StandardNormal;
use rayon::prelude::*;

use super::{
    TrainingError, augment,
    clip::{Clip, Source},
};
use crate::{
    asr::{
        ctc,
        frontend::{BANDS, Frontend, speech_mean},
        lexicon::CLASSES,
        network::{Network, Parameters, Sizes},
    },
    training,
};

/// Batches made and sorted by length at a time, so that a batch wastes little on padding.
const POOL: usize = 8;
/// Steps over which the learning rate rises.
const WARM_UP: usize = 150;
/// Largest norm of a step's gradient.
const CLIP_NORM: f64 = 3.0;
/// What a step leaves of the averaged weights.
const AVERAGING: f64 = 0.997;
/// Share of natural voices among the synthesised utterances.
const NATURAL: f64 = 0.4;

/// Numbers that a run is made with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// Optimiser steps.
    pub steps: usize,
    /// Steps after which the learning rate would be nearly zero (half a cosine).
    pub horizon: usize,
    /// Utterances a step.
    pub batch: usize,
    /// Highest learning rate.
    pub rate: f64,
    /// Share of real recordings in a batch.
    pub real: f64,
    /// Seed of examples and initial weights.
    pub seed: u64,
    /// Threads.
    pub threads: usize,
}

/// What is learned from.
#[derive(Debug, Clone, Default)]
pub struct Data {
    /// Synthesised utterances.
    pub synthetic: Vec<Clip>,
    /// Utterances of a neural synthesiser.
    pub natural: Vec<Clip>,
    /// Real recordings, a list a speaker.
    pub real: Vec<Vec<Clip>>,
}

impl Data {
    /// Groups real recordings by speaker, leaving one speaker out if asked to.
    #[must_use]
    pub fn new(synthetic: Vec<Clip>, natural: Vec<Clip>, real: &[Clip], left_out: Option<&str>) -> Self {
        let mut speakers: BTreeMap<&str, Vec<Clip>> = BTreeMap::new();
        for clip in real {
            if let Source::Real { speaker } = &clip.source
                && left_out != Some(speaker)
            {
                speakers.entry(speaker).or_default().push(clip.clone());
            }
        }
        Self { synthetic, natural, real: speakers.into_values().collect() }
    }

    /// Draws the clips of one example: a real speaker's one to six digits, or a synthetic utterance (one in ten: two).
    fn draw(&self, real: f64, rng: &mut StdRng) -> Vec<&Clip> {
        let speaker = if rng.random_bool(real) { self.real.choose(rng) } else { None };
        let natural = rng.random_bool(NATURAL) && !self.natural.is_empty();
        let synthetic = if natural { &self.natural } else { &self.synthetic };
        let (clips, count) = match speaker {
            Some(clips) if rng.random_bool(0.5) => (clips, 1),
            Some(clips) => (clips, rng.random_range(2..=6)),
            None if rng.random_bool(0.9) => (synthetic, 1),
            None => (synthetic, 2),
        };
        (0..count).filter_map(|_| clips.choose(rng)).collect()
    }

    /// Averages the microphone colour that [`Frontend`] assumes of short utterances.
    ///
    /// # Errors
    /// [`TrainingError::NoData`] where there is nothing to average.
    pub fn colour(&self) -> Result<Vec<f32>, TrainingError> {
        let plain = Frontend::try_new(vec![0.0; BANDS])?;
        let clips: Vec<&Clip> =
            self.synthetic.iter().chain(&self.natural).chain(self.real.iter().flatten()).step_by(7).collect();
        let colours: Vec<Vec<f32>> = clips
            .par_iter()
            .map(|clip| {
                let (mean, _) = speech_mean(&plain.log_mel(&clip.audio()));
                let level = mean.iter().sum::<f32>() / BANDS as f32;
                mean.iter().map(|x| x - level).collect()
            })
            .collect();
        if colours.is_empty() {
            return Err(TrainingError::NoData);
        }
        let count = colours.len() as f32;
        Ok((0..BANDS).map(|band| colours.iter().map(|c| c[band]).sum::<f32>() / count).collect())
    }
}

/// A training example: rows of the front end and the phones said in them.
type Example = (Vec<f32>, Vec<u8>);

/// Draws initial weights.
///
/// # Errors
/// [`TrainingError::Model`] where a tensor cannot be made.
pub fn initial(sizes: Sizes, seed: u64) -> Result<Parameters, TrainingError> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut parameters = Parameters::new();
    for (name, shape) in sizes.shapes() {
        let count: usize = shape.iter().product();
        let deviation = match name.rsplit('.').next() {
            Some("widen") => (2.0 / shape[0] as f32).sqrt(),
            Some("narrow") => 0.3 / (shape[0] as f32).sqrt(),
            Some("weight") => 1.0 / (shape[0] as f32).sqrt(),
            _ => 0.0,
        };
        let centre = if name.ends_with(".scale") { 1.0 } else { 0.0 };
        let values = (0..count).map(|_| centre + deviation * rng.sample::<f32, _>(StandardNormal)).collect();
        parameters.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(parameters)
}

/// Trains from `start` and returns the averaged weights; calls `checkpoint(step, weights)` every `every` steps.
///
/// # Errors
/// [`TrainingError`] from the network, or from `checkpoint`.
pub fn train(
    start: &Parameters,
    sizes: Sizes,
    data: &Data,
    frontend: &Frontend,
    recipe: Recipe,
    every: usize,
    mut checkpoint: impl FnMut(usize, &Parameters) -> Result<(), TrainingError>,
) -> Result<Parameters, TrainingError> {
    let variables: BTreeMap<String, Var> = start
        .iter()
        .map(|(name, tensor)| Ok((name.clone(), Var::from_tensor(&tensor.copy()?)?)))
        .collect::<candle_core::Result<_>>()?;
    let parameters: Parameters = variables.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect();
    let network = Network::try_new(&parameters, sizes, "training".as_ref())?;
    let mut average: Parameters =
        start.iter().map(|(n, t)| Ok((n.clone(), t.copy()?))).collect::<candle_core::Result<_>>()?;
    let mut optimiser = AdamW::new(
        variables.values().cloned().collect(),
        ParamsAdamW { lr: 0.0, beta2: 0.98, weight_decay: 0.02, ..ParamsAdamW::default() },
    )?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(recipe.threads)
        .build()
        .map_err(|error| TrainingError::Io(std::io::Error::other(error)))?;
    let mut batches: Vec<Vec<Example>> = Vec::new();
    let (mut loss_sum, mut loss_count) = (0f64, 0usize);
    for step in 0..recipe.steps {
        if batches.is_empty() {
            batches = pool.install(|| make_batches(data, frontend, recipe, step));
        }
        let batch = batches.pop().unwrap_or_default();
        let shards = batch.len().div_ceil(recipe.threads).max(1);
        let results: Vec<(f64, GradStore)> = pool.install(|| {
            batch.par_chunks(shards).map(|shard| shard_gradient(&network, shard, batch.len())).collect::<Result<_, _>>()
        })?;
        let (losses, stores): (Vec<f64>, Vec<GradStore>) = results.into_iter().unzip();
        loss_sum += losses.iter().sum::<f64>();
        loss_count += 1;
        let gradients = clipped_sum(stores, &variables)?;
        optimiser.set_learning_rate(training::rate(step, recipe.rate, WARM_UP, recipe.horizon));
        optimiser.step(&gradients)?;
        training::follow(&mut average, |name| variables[name].as_tensor(), AVERAGING, step)?;
        if (step + 1) % 50 == 0 {
            tracing::info!(step = step + 1, loss = loss_sum / loss_count as f64, "training");
            (loss_sum, loss_count) = (0.0, 0);
        }
        if (step + 1) % every == 0 && step + 1 < recipe.steps {
            checkpoint(step + 1, &average)?;
        }
    }
    Ok(average)
}

fn make_batches(data: &Data, frontend: &Frontend, recipe: Recipe, step: usize) -> Vec<Vec<Example>> {
    let mut examples: Vec<Example> = (0..recipe.batch * POOL)
        .into_par_iter()
        .map(|i| {
            let index = (step * recipe.batch + i) as u64;
            let mut rng = StdRng::seed_from_u64(recipe.seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let (audio, phones) = augment::join(&data.draw(recipe.real, &mut rng), &mut rng);
            (augment::example(audio, &data.synthetic, frontend, &mut rng), phones)
        })
        .collect();
    examples.sort_by_key(|(rows, _)| rows.len());
    let mut batches = Vec::with_capacity(POOL);
    while !examples.is_empty() {
        batches.push(examples.split_off(examples.len() - recipe.batch.min(examples.len())));
    }
    batches.shuffle(&mut StdRng::seed_from_u64(recipe.seed ^ step as u64));
    batches
}

/// Returns a shard's share of the mean loss per utterance, and its gradients.
fn shard_gradient(network: &Network, shard: &[Example], batch: usize) -> Result<(f64, GradStore), TrainingError> {
    let (rows, targets): (Vec<Vec<f32>>, Vec<Vec<u8>>) = shard.iter().cloned().unzip();
    let (logits, lengths) = network.forward_rows(&rows)?;
    let found = ctc::loss_and_gradient(&logits.flatten_all()?.to_vec1::<f32>()?, CLASSES, &lengths, &targets);
    let gradient = Tensor::from_vec(found.gradient, logits.shape(), &Device::Cpu)?;
    // A sum whose derivative with respect to the logits is the loss's gradient, averaged over the batch.
    let surrogate = ((logits * gradient)?.sum_all()? / batch as f64)?;
    let loss = found.losses.iter().filter(|loss| loss.is_finite()).map(|&loss| f64::from(loss)).sum::<f64>();
    Ok((loss / batch as f64, surrogate.backward()?))
}

/// Adds the shards' gradients and scales the sum down to [`CLIP_NORM`].
fn clipped_sum(stores: Vec<GradStore>, variables: &BTreeMap<String, Var>) -> Result<GradStore, TrainingError> {
    let mut sum = training::sum(stores, variables)?.ok_or(TrainingError::NoData)?;
    let norm = training::norm(&sum, variables)?;
    if norm > CLIP_NORM {
        training::scale(&mut sum, variables, CLIP_NORM / norm)?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tones of several lengths, said to be phones.
    fn clips(source: &Source) -> Vec<Clip> {
        (0..6)
            .map(|i| Clip {
                samples: (0..1600 + 400 * i)
                    .map(|t| ((t * (i + 1)) as f32 * 0.1).sin() * 9000.0)
                    .map(|x| x as i16)
                    .collect(),
                phones: vec![1 + i as u8, 9],
                words: Vec::new(),
                source: source.clone(),
            })
            .collect()
    }

    #[test]
    fn a_seed_gives_the_same_weights_bit_by_bit_and_another_seed_others() {
        let data = Data::new(
            clips(&Source::Synthetic { voice: "tone".into() }),
            clips(&Source::Synthetic { voice: "natural tone".into() }),
            &clips(&Source::Real { speaker: "nobody".into() }),
            None,
        );
        let sizes = Sizes { channels: 16, hidden: 16, classes: CLASSES };
        let frontend = Frontend::try_new(data.colour().expect("clips")).expect("forty values");
        let run = |seed| -> Vec<Vec<u32>> {
            let recipe = Recipe { steps: 5, horizon: 5, batch: 6, rate: 1e-3, real: 0.5, seed, threads: 2 };
            let start = initial(sizes, 1).expect("weights");
            let weights = train(&start, sizes, &data, &frontend, recipe, 2, |_, _| Ok(())).expect("it trains");
            let bits = |tensor: &Tensor| {
                let values = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values");
                values.into_iter().map(f32::to_bits).collect()
            };
            weights.values().map(bits).collect()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
