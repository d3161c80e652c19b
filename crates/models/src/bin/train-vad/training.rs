//! The training loop: pools of scenes, truncated back-propagation through time, AdamW with cosine decay.

use std::{path::Path, time::Instant};

use anyhow::Result;
use candle_core::{Device, Tensor};
use candle_nn::{
    Optimizer,
    loss::binary_cross_entropy_with_logit,
    optim::{AdamW, ParamsAdamW},
};
use driftline_models::vad::{
    builtin::CELL,
    features::{BANDS, FEATURES, LogMel},
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    network::Network,
    scene::{Recipe, Scene},
    speech::Utterance,
};

/// Scenes of one step.
const BATCH: usize = 48;
/// Chunks of a scene, 3.1 s.
const STEPS: usize = 96;
/// Batches in a pool.
const POOL: usize = 24;
/// How often a pool is gone through before new scenes are made.
const PASSES: usize = 2;
const RATE: f64 = 3e-3;
const LAST_RATE: f64 = 2e-5;
const WARM_UP: usize = 60;

/// Features and labels of a scene.
type Example = (Vec<f32>, Vec<f32>);

/// Trains for so many batches and writes the weights.
pub(crate) fn train(speech: &[Utterance], seed: u64, batches: usize, out: &Path) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let log_mel = LogMel::new();
    let mut pool = make_pool(&mut rng, speech, &log_mel);
    let (mean, scale) = statistics(&pool);
    let network = Network::new(seed, mean, scale)?;
    let mut optimizer =
        AdamW::new(network.variables(), ParamsAdamW { lr: RATE, weight_decay: 1e-3, ..ParamsAdamW::default() })?;
    let mut hidden = Tensor::zeros((BATCH, CELL), candle_core::DType::F32, &Device::Cpu)?;
    let (started, mut average) = (Instant::now(), 0.0f32);
    for batch in 0..batches {
        let place = batch % (POOL * PASSES);
        if place == 0 && batch > 0 {
            pool = make_pool(&mut rng, speech, &log_mel);
        }
        if place.is_multiple_of(POOL) {
            pool.shuffle(&mut rng);
        }
        let examples = &pool[place % POOL * BATCH..][..BATCH];
        // Most scenes go on where another one ended, as a session does; without that the network never sees a state
        // older than a scene.
        let kept: Vec<f32> = (0..BATCH).map(|_| if rng.random_bool(0.7) { 1.0 } else { 0.0 }).collect();
        hidden = hidden.detach().broadcast_mul(&Tensor::from_vec(kept, (BATCH, 1), &Device::Cpu)?)?;
        let mut states = Vec::with_capacity(STEPS);
        for step in 0..STEPS {
            let features: Vec<f32> = examples
                .iter()
                .flat_map(|(features, _)| features[step * FEATURES..][..FEATURES].iter().copied())
                .collect();
            let features = network.standardize(&Tensor::from_vec(features, (BATCH, FEATURES), &Device::Cpu)?)?;
            hidden = network.step(&features, &hidden)?;
            states.push(hidden.clone());
        }
        let labels: Vec<f32> =
            (0..STEPS).flat_map(|step| examples.iter().map(move |(_, labels)| labels[step])).collect();
        let logits = network.logits(&Tensor::cat(&states, 0)?)?;
        let loss = binary_cross_entropy_with_logit(&logits, &Tensor::from_vec(labels, STEPS * BATCH, &Device::Cpu)?)?;
        optimizer.set_learning_rate(rate(batch, batches));
        optimizer.backward_step(&loss)?;
        let loss = loss.to_scalar::<f32>()?;
        average = if batch == 0 { loss } else { 0.98 * average + 0.02 * loss };
        if batch % 50 == 0 || batch + 1 == batches {
            eprintln!(
                "batch {batch:5}  loss {loss:.4}  average {average:.4}  {:.0} s",
                started.elapsed().as_secs_f64()
            );
            network.save(out)?;
        }
    }
    network.save(out)
}

fn rate(batch: usize, batches: usize) -> f64 {
    let warm = ((batch + 1) as f64 / WARM_UP as f64).min(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * batch as f64 / batches as f64).cos());
    warm * (LAST_RATE + (RATE - LAST_RATE) * cosine)
}

fn make_pool(rng: &mut StdRng, speech: &[Utterance], log_mel: &LogMel) -> Vec<Example> {
    // Recorded voices are few and every third scene is theirs.
    let (recorded, made): (Vec<&Utterance>, Vec<&Utterance>) =
        speech.iter().partition(|utterance| utterance.kind == "recorded");
    (0..POOL * BATCH)
        .map(|_| {
            let voices = if rng.random_bool(0.35) { &recorded } else { &made };
            let recipe = Recipe::draw(rng, STEPS);
            let scene = Scene::make(rng, &recipe, voices, speech);
            (scene.features(log_mel), scene.labels)
        })
        .collect()
}

/// Mean and inverse deviation of each band over a pool.
fn statistics(pool: &[Example]) -> (Vec<f32>, Vec<f32>) {
    let (mut sums, mut squares, mut count) = ([0.0f64; BANDS], [0.0f64; BANDS], 0.0f64);
    for frame in pool.iter().flat_map(|(features, _)| features.chunks_exact(BANDS)) {
        for (band, &value) in frame.iter().enumerate() {
            sums[band] += f64::from(value);
            squares[band] += f64::from(value).powi(2);
        }
        count += 1.0;
    }
    (0..BANDS)
        .map(|band| {
            let mean = sums[band] / count;
            (mean as f32, (1.0 / (squares[band] / count - mean * mean).max(1e-6).sqrt()) as f32)
        })
        .unzip()
}
