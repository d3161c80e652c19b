//! The recommender's training and evaluation.
//!
//! At every place of a window of events the network predicts the next product that is looked at and
//! was not seen in the window so far: a softmax over that product and [`NEGATIVES`] others, drawn
//! anew for each batch. AdamW with cosine decay.

use std::{fs, path::Path, time::Instant};

use anyhow::Result;
use candle_core::{D, Device, Tensor};
use candle_nn::{
    Optimizer,
    ops::log_softmax,
    optim::{AdamW, ParamsAdamW},
};
use driftline_models::{
    parameters::Parameters,
    profile::{ATTRIBUTES, Action},
    recommender::{
        Catalogue, Inputs, Network, PRODUCTS_FILE, Token, WEIGHTS_FILE,
        network::{LENGTH, WIDTH},
        ranking::Ranking,
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::log::{Customer, Event, Log};

const BATCH: usize = 32;
const NEGATIVES: usize = 512;
const RATE: f64 = 3e-3;
const LAST_RATE: f64 = 5e-5;
const WARM_UP: usize = 100;
/// How often a product's number is hidden, so that categories alone are understood too.
const HIDDEN: f64 = 0.05;
/// How often what a customer has is told.
const TOLD: f64 = 0.5;
/// Nothing known of a customer.
const UNKNOWN: [f32; ATTRIBUTES.len()] = [0.5; ATTRIBUTES.len()];
/// Customers looked at while training.
const WATCHED: usize = 800;
/// Places at which recall and gain are cut.
const AT: usize = 10;

fn token(event: &Event) -> Token {
    let product = event.product.map_or(0, |place| place + 1);
    Token { product, category: event.category, action: event.action, time_ms: event.time_ms }
}

/// Trains and writes weights and products.
pub(crate) fn train(log: &Log, seed: u64, batches: usize, out: &Path) -> Result<()> {
    let catalogue = log.catalogue(out)?;
    let shapes = Network::shapes(catalogue.products().len(), catalogue.categories().len());
    let (parameters, variables) = Parameters::draw(&shapes, seed)?;
    let network = network(&parameters, &catalogue)?;
    let mut optimizer = AdamW::new(variables, ParamsAdamW { lr: RATE, weight_decay: 1e-3, ..ParamsAdamW::default() })?;
    let mut random = StdRng::seed_from_u64(seed);
    let histories: Vec<(&Customer, &[Event])> =
        log.customers.iter().map(|customer| (customer, customer.split().0)).filter(|(_, own)| own.len() > 2).collect();
    // A customer is drawn as often as they have events.
    let mut ends = Vec::with_capacity(histories.len());
    let mut total = 0;
    for (_, events) in &histories {
        total += events.len();
        ends.push(total);
    }
    let lines: Vec<String> = catalogue.products().iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    fs::write(out.join(PRODUCTS_FILE), lines.join("\n") + "\n")?;
    let (started, mut average) = (Instant::now(), 0.0f32);
    for batch in 0..batches {
        let mut inputs = Inputs::default();
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        while inputs.rows() < BATCH {
            let at = random.random_range(0..total);
            let (customer, events) = histories[ends.partition_point(|&end| end <= at)];
            let end = random.random_range(2..=events.len());
            let window = &events[end.saturating_sub(LENGTH + 1)..end];
            let labels = labels(window);
            let seen = &window[..window.len() - 1];
            if labels.iter().all(Option::is_none) {
                continue;
            }
            let mut tokens: Vec<Token> = seen.iter().map(token).collect();
            for token in &mut tokens {
                if random.random_bool(HIDDEN) {
                    token.product = 0;
                }
            }
            let told = |has: bool| if has { 0.95 } else { 0.05 };
            let attributes = match customer.has {
                Some(has) if random.random_bool(TOLD) => has.map(told),
                _ => UNKNOWN,
            };
            let row = inputs.rows() * LENGTH + LENGTH - tokens.len();
            for (index, label) in labels.into_iter().enumerate() {
                if let Some(product) = label {
                    places.push((row + index) as u32);
                    targets.push(product + 1);
                }
            }
            inputs.push(&tokens, &attributes);
        }
        let loss = loss(&network, &inputs, &places, &targets, catalogue.products().len(), &mut random)?;
        optimizer.set_learning_rate(rate(batch, batches));
        optimizer.backward_step(&loss)?;
        let loss = loss.to_scalar::<f32>()?;
        average = if batch == 0 { loss } else { 0.98 * average + 0.02 * loss };
        if batch % 100 == 0 {
            eprintln!("batch {batch:5}  loss {average:.4}  {:.0} s", started.elapsed().as_secs_f64());
        }
        if (batch + 1) % 1_000 == 0 || batch + 1 == batches {
            parameters.write(&out.join(WEIGHTS_FILE))?;
            let step = (log.customers.len() / WATCHED).max(1);
            let watched: Vec<&Customer> = log.customers.iter().step_by(step).collect();
            let (recall, gain) = figures(&network, &catalogue, &watched, UNKNOWN_ATTRIBUTES)?;
            eprintln!("batch {batch:5}  recall@10 {recall:.4}  NDCG@10 {gain:.4}");
        }
    }
    Ok(())
}

/// For each event but the last of a window, the next product that is looked at and was not seen up to
/// there.
fn labels(window: &[Event]) -> Vec<Option<u32>> {
    (0..window.len() - 1)
        .map(|place| {
            let seen = |product: u32| window[..=place].iter().any(|event| event.product == Some(product));
            let views = window[place + 1..].iter().filter(|event| event.action == Action::View);
            views.filter_map(|event| event.product).find(|&product| !seen(product))
        })
        .collect()
}

fn loss(
    network: &Network,
    inputs: &Inputs,
    places: &[u32],
    targets: &[u32],
    products: usize,
    random: &mut StdRng,
) -> Result<Tensor> {
    let device = &Device::Cpu;
    let count = places.len();
    let states = network.states(inputs)?.reshape(((), WIDTH))?;
    let states = states.index_select(&Tensor::from_slice(places, count, device)?, 0)?;
    let others: Vec<u32> = (0..NEGATIVES).map(|_| random.random_range(1..=products as u32)).collect();
    let (right, right_bias) = network.outputs(&Tensor::from_slice(targets, count, device)?)?;
    let (wrong, wrong_bias) = network.outputs(&Tensor::from_slice(&others, NEGATIVES, device)?)?;
    let right = ((&states * right)?.sum_keepdim(1)? + right_bias.unsqueeze(1)?)?;
    let wrong = states.matmul(&wrong.t()?)?.broadcast_add(&wrong_bias)?;
    // A product drawn that is the right one is no wrong one.
    let same: Vec<f32> = targets
        .iter()
        .flat_map(|target| others.iter().map(move |other| if other == target { -1e9 } else { 0.0 }))
        .collect();
    let wrong = (wrong + Tensor::from_vec(same, (count, NEGATIVES), device)?)?;
    let all = log_softmax(&Tensor::cat(&[right, wrong], 1)?, D::Minus1)?;
    Ok(all.narrow(1, 0, 1)?.mean_all()?.neg()?)
}

fn rate(batch: usize, batches: usize) -> f64 {
    let warm = ((batch + 1) as f64 / WARM_UP as f64).min(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * batch as f64 / batches as f64).cos());
    warm * (LAST_RATE + (RATE - LAST_RATE) * cosine)
}

fn network(parameters: &Parameters, catalogue: &Catalogue) -> Result<Network> {
    Ok(Network::try_new(parameters, &catalogue.category_numbers(catalogue), catalogue.categories().len())?)
}

/// What the network is told of a customer.
type Told = fn(&Customer) -> [f32; ATTRIBUTES.len()];
const UNKNOWN_ATTRIBUTES: Told = |_| UNKNOWN;
const TRUE_ATTRIBUTES: Told =
    |customer| customer.has.map_or(UNKNOWN, |has| has.map(|has| if has { 0.95 } else { 0.05 }));

/// Computes recall and normalised discounted cumulative gain at ten, what was seen before left out.
fn figures(network: &Network, catalogue: &Catalogue, customers: &[&Customer], told: Told) -> Result<(f64, f64)> {
    let numbers: Vec<u32> = (1..=catalogue.products().len() as u32).collect();
    let (embeddings, biases) = network.outputs(&Tensor::from_slice(&numbers, numbers.len(), &Device::Cpu)?)?;
    let ranking = Ranking::new(&embeddings.flatten_all()?.to_vec1::<f32>()?, &biases.to_vec1::<f32>()?);
    let (mut hits, mut gain, mut count) = (0.0, 0.0, 0.0);
    for customers in customers.chunks(64) {
        let mut inputs = Inputs::default();
        let mut asked = Vec::new();
        for customer in customers {
            let (history, target) = customer.split();
            let Some(target) = target else { continue };
            let tokens: Vec<Token> = history.iter().map(token).collect();
            inputs.push(&tokens, &told(customer));
            asked.push((history, target));
        }
        let most = asked.iter().map(|(history, _)| history.len()).max().unwrap_or(0);
        let states = network.last_states(&inputs)?.flatten_all()?.to_vec1::<f32>()?;
        for ((history, target), best) in asked.iter().zip(ranking.best(&states, AT + most)) {
            let new = best.iter().filter(|scored| !history.iter().any(|event| event.product == Some(scored.product)));
            if let Some(rank) = new.take(AT).position(|scored| scored.product == *target) {
                hits += 1.0;
                gain += 1.0 / (rank as f64 + 2.0).log2();
            }
            count += 1.0;
        }
    }
    Ok((hits / count, gain / count))
}

/// Prints the figures of the weights.
pub(crate) fn evaluate(log: &Log, weights: &Path) -> Result<()> {
    let path = weights.join(WEIGHTS_FILE);
    let parameters = Parameters::parse(&fs::read(&path)?, &path)?;
    let catalogue = log.catalogue(&path)?;
    let network = network(&parameters, &catalogue)?;
    let customers: Vec<&Customer> = log.customers.iter().collect();
    for (name, told) in [("events alone", UNKNOWN_ATTRIBUTES), ("and what they have", TRUE_ATTRIBUTES)] {
        let (recall, gain) = figures(&network, &catalogue, &customers, told)?;
        println!("{name}: recall@10 {recall:.4}, NDCG@10 {gain:.4}");
    }
    Ok(())
}
