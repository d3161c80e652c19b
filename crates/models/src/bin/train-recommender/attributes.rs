//! The profile's training, calibration and evaluation.
//!
//! An example is a customer's history up to some event, begun at some event: new customers are as
//! many as old ones. The network is trained by cross-entropy on four fifths of the customers; slope
//! and intercept of each attribute (Platt 1999) are fitted on a tenth, and the last tenth is for the
//! figures.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use candle_nn::{
    Optimizer,
    loss::binary_cross_entropy_with_logit,
    optim::{AdamW, ParamsAdamW},
};
use driftline_models::{
    parameters::Parameters,
    profile::{
        ATTRIBUTES, Action, CALIBRATION, CATEGORIES_FILE, Fading, History, Inputs, Network, Past, Profiler,
        WEIGHTS_FILE,
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::log::{Customer, Log};

const BATCH: usize = 128;
const RATE: f64 = 3e-3;
/// Events of an example's history at most: more change little.
const LONGEST: usize = 400;
/// Examples of each customer in calibration and evaluation.
const EACH: usize = 12;
/// Thresholds that the figures are given for.
const THRESHOLDS: [f32; 4] = [0.7, 0.8, 0.9, 0.95];
/// Bins of the expected calibration error.
const BINS: usize = 15;
const OUT: usize = ATTRIBUTES.len();

/// A tenth of the customers, by their number.
fn tenth(log: &Log, which: usize) -> impl Iterator<Item = &Customer> {
    log.customers.iter().enumerate().filter(move |(number, _)| number % 10 == which).map(|(_, customer)| customer)
}

/// Draws a history: from some event, or from the first one, to some later event.
fn history(log: &Log, customer: &Customer, random: &mut StdRng) -> History {
    let count = customer.events.len();
    let end = random.random_range(1..=count);
    let begin = if random.random_bool(0.5) { 0 } else { random.random_range(0..end) };
    let mut history = History::default();
    for event in &customer.events[begin.max(end.saturating_sub(LONGEST))..end] {
        let product = event.product.map_or_else(String::new, |place| log.products[place as usize].id.clone());
        let past = Past { time_ms: event.time_ms, action: event.action, category: event.category as u8, product };
        history.observe(past, Fading::default());
    }
    history
}

/// Trains, calibrates and writes weights and categories.
pub(crate) fn train(log: &Log, seed: u64, batches: usize, out: &Path) -> Result<()> {
    let catalogue = log.catalogue(out)?;
    let categories = catalogue.categories().len() + 1;
    let (mut parameters, variables) = Parameters::draw(&Network::shapes(categories), seed)?;
    let network = Network::try_new(&parameters, categories)?;
    let mut optimizer = AdamW::new(variables, ParamsAdamW { lr: RATE, weight_decay: 1e-2, ..ParamsAdamW::default() })?;
    let mut random = StdRng::seed_from_u64(seed);
    let training: Vec<&Customer> = (0..8).flat_map(|which| tenth(log, which)).collect();
    let (started, mut average) = (Instant::now(), 0.0f32);
    for batch in 0..batches {
        let mut inputs = Inputs::default();
        let mut labels = Vec::with_capacity(BATCH * OUT);
        while inputs.rows() < BATCH {
            let customer = training[random.random_range(0..training.len())];
            let Some(has) = customer.has else { continue };
            inputs.push(&history(log, customer, &mut random), categories);
            labels.extend(has.map(|has| f32::from(u8::from(has))));
        }
        let logits = network.forward(&inputs)?.flatten_all()?;
        let loss = binary_cross_entropy_with_logit(&logits, &Tensor::from_vec(labels, BATCH * OUT, &Device::Cpu)?)?;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * batch as f64 / batches as f64).cos());
        optimizer.set_learning_rate(RATE * cosine.max(0.01));
        optimizer.backward_step(&loss)?;
        let loss = loss.to_scalar::<f32>()?;
        average = if batch == 0 { loss } else { 0.98 * average + 0.02 * loss };
        if batch % 200 == 0 {
            eprintln!("batch {batch:5}  loss {average:.4}  {:.0} s", started.elapsed().as_secs_f64());
        }
    }
    let calibration = calibrate(log, &network, categories)?;
    parameters.insert(CALIBRATION, &calibration)?;
    parameters.write(&out.join(WEIGHTS_FILE))?;
    fs::write(out.join(CATEGORIES_FILE), catalogue.categories().join("\n") + "\n")?;
    evaluate(log, out)
}

/// Fits slope and intercept of each attribute by Newton's method.
fn calibrate(log: &Log, network: &Network, categories: usize) -> Result<Vec<f32>> {
    let mut random = StdRng::seed_from_u64(8);
    let mut examples = Vec::new();
    for customer in tenth(log, 8) {
        let Some(has) = customer.has else { continue };
        for _ in 0..EACH {
            let mut inputs = Inputs::default();
            inputs.push(&history(log, customer, &mut random), categories);
            examples.push((network.forward(&inputs)?.flatten_all()?.to_vec1::<f32>()?, has));
        }
    }
    let mut calibration = Vec::new();
    for attribute in 0..OUT {
        let (mut slope, mut intercept) = (1.0f64, 0.0f64);
        for _ in 0..20 {
            let (mut g, mut h) = ([0.0f64; 2], [1e-6, 0.0, 1e-6]);
            for (logits, has) in &examples {
                let x = f64::from(logits[attribute]);
                let p = 1.0 / (1.0 + (-(slope * x + intercept)).exp());
                let (error, weight) = (p - f64::from(u8::from(has[attribute])), p * (1.0 - p));
                g = [g[0] + error * x, g[1] + error];
                h = [h[0] + weight * x * x, h[1] + weight * x, h[2] + weight];
            }
            let determinant = h[0] * h[2] - h[1] * h[1];
            slope -= (h[2] * g[0] - h[1] * g[1]) / determinant;
            intercept -= (h[0] * g[1] - h[1] * g[0]) / determinant;
        }
        calibration.extend([slope as f32, intercept as f32]);
    }
    Ok(calibration)
}

/// Prints the figures of the weights.
pub(crate) fn evaluate(log: &Log, weights: &Path) -> Result<()> {
    let profiler = Profiler::load(weights)?;
    let mut random = StdRng::seed_from_u64(9);
    let mut answers: Vec<([f32; OUT], [bool; OUT])> = Vec::new();
    for customer in tenth(log, 9) {
        let has = customer.has.context("a customer of whom nothing is known")?;
        let histories: Vec<History> = (0..EACH)
            .map(|_| {
                loop {
                    // As the stage does: after a visit to the start page.
                    let history = history(log, customer, &mut random);
                    if customer.events.len() < 40
                        || history.recent.last().is_some_and(|past| past.action == Action::Visit)
                    {
                        break history;
                    }
                }
            })
            .collect();
        let estimates = profiler.estimate(&histories.iter().collect::<Vec<_>>())?;
        answers.extend(estimates.into_iter().map(|estimate| (estimate, has)));
    }
    println!("{} answers about {} customers", answers.len(), tenth(log, 9).count());
    print!("| attribute | share | accuracy | AUC | ECE |");
    THRESHOLDS.iter().for_each(|threshold| print!(" unknown at {threshold} | right of the rest |"));
    println!();
    for (attribute, name) in ATTRIBUTES.iter().enumerate() {
        let own: Vec<(f32, bool)> = answers.iter().map(|(p, has)| (p[attribute], has[attribute])).collect();
        let count = own.len() as f64;
        let share = own.iter().filter(|(_, has)| *has).count() as f64 / count;
        let accuracy = own.iter().filter(|(p, has)| (*p >= 0.5) == *has).count() as f64 / count;
        print!("| {name} | {share:.3} | {accuracy:.3} | {:.3} | {:.4} |", auc(&own), calibration_error(&own));
        for threshold in THRESHOLDS {
            let known: Vec<_> = own.iter().filter(|(p, _)| *p >= threshold || *p <= 1.0 - threshold).collect();
            let right = known.iter().filter(|(p, has)| (*p >= 0.5) == *has).count() as f64;
            print!(" {:.3} | {:.3} |", 1.0 - known.len() as f64 / count, right / known.len().max(1) as f64);
        }
        println!();
    }
    Ok(())
}

fn auc(answers: &[(f32, bool)]) -> f64 {
    let mut sorted = answers.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut ranks, mut positive) = (0.0, 0.0);
    for (rank, (_, has)) in sorted.iter().enumerate() {
        if *has {
            ranks += rank as f64 + 1.0;
            positive += 1.0;
        }
    }
    (ranks - positive * (positive + 1.0) / 2.0) / (positive * (answers.len() as f64 - positive))
}

/// Computes the expected calibration error over bins of equal width (Naeini et al. 2015).
fn calibration_error(answers: &[(f32, bool)]) -> f64 {
    let mut bins = [(0.0f64, 0.0f64, 0.0f64); BINS];
    for (p, has) in answers {
        let bin = &mut bins[((p * BINS as f32) as usize).min(BINS - 1)];
        *bin = (bin.0 + 1.0, bin.1 + f64::from(*p), bin.2 + f64::from(u8::from(*has)));
    }
    bins.iter().map(|(_, said, was)| (said - was).abs()).sum::<f64>() / answers.len() as f64
}
