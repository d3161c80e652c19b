//! What to show to a customer: a sequence model over the last events scores every product of the
//! catalogue, and the best are kept exactly.
//!
//! `weights/recommender.md` says how the model that ships was trained and what it reaches against
//! others; `src/bin/train-recommender` trains it.

mod catalogue;
pub mod network;
pub mod ranking;

use std::{fs, path::Path, sync::Arc};

use candle_core::{Device, Tensor};

pub use catalogue::{Catalogue, CatalogueProduct};
pub use network::{Inputs, Network, Token};

use self::{network::WIDTH, ranking::Ranking};
use crate::{
    ModelError,
    inspect::header::read_checked,
    parameters::Parameters,
    profile::{ATTRIBUTES, Action},
};

/// The files of a model.
pub const WEIGHTS_FILE: &str = "recommender.safetensors";
/// The products it has met, in the order of their numbers, with their views while it was trained.
pub const PRODUCTS_FILE: &str = "recommender.products.jsonl";

/// Rows that go through the network together, filled up: see [`crate::profile::Profiler::estimate`].
const TILE: usize = 32;

/// An event of a customer, as it comes.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The product's id.
    pub product: Option<&'a str>,
    /// The category's name. One that the model does not know is as good as none: then the product's counts, as the
    /// model or else the catalogue has it.
    pub category: Option<&'a str>,
    /// What was done.
    pub action: Action,
    /// When, milliseconds since 1970.
    pub time_ms: i64,
}

/// Someone to recommend something to.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// The last events, oldest first.
    pub events: Vec<Event<'a>>,
    /// The probability of each attribute; one half where nothing is known.
    pub attributes: [f32; ATTRIBUTES.len()],
    /// Products not to recommend, at most [`MAX_EXCLUDED`]; further ones are not looked at.
    pub excluded: Vec<&'a str>,
}

/// Most products that are excluded.
pub const MAX_EXCLUDED: usize = 64;

/// What an answer rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Events that the model understands.
    History,
    /// Something the customer has, without such events. What they lack is no reason to show anything.
    Profile,
    /// Nothing: what is popular.
    Popularity,
}

/// What to show.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Products, best first.
    pub products: Vec<Recommended>,
    /// What it rests on.
    pub basis: Basis,
    /// Events whose product the model has not met.
    pub unknown: usize,
}

/// A product to show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recommended {
    /// Its place in the catalogue.
    pub product: usize,
    /// Its score; the number of its views where the basis is popularity.
    pub score: f32,
}

/// The model, and the catalogue it recommends from. A clone is cheap.
#[derive(Clone)]
pub struct Recommender {
    network: Network,
    met: Arc<Catalogue>,
    catalogue: Arc<Catalogue>,
    ranking: Arc<Ranking>,
    /// Places in the catalogue of what can be had, most viewed first.
    popular: Arc<[u32]>,
    version: Arc<str>,
}

impl Recommender {
    /// Returns the model that ships, for a catalogue, or for the one it was trained on.
    ///
    /// # Errors
    /// Never in practice without a catalogue: a test reads it.
    pub fn builtin(catalogue: Option<Catalogue>) -> Result<Self, ModelError> {
        let weights = include_bytes!("../../weights/recommender.safetensors");
        let products = include_str!("../../weights/recommender.products.jsonl");
        Self::parse(weights, products, Path::new("builtin"), catalogue)
    }

    /// Reads a folder that the training wrote.
    ///
    /// # Errors
    /// [`ModelError::Read`] for a file that cannot be read, others for one that is no such model.
    pub fn load(folder: &Path, catalogue: Option<Catalogue>) -> Result<Self, ModelError> {
        let weights = read_checked(&folder.join(WEIGHTS_FILE))?;
        let path = folder.join(PRODUCTS_FILE);
        let products = fs::read_to_string(&path).map_err(|source| ModelError::Read { path, source })?;
        Self::parse(&weights, &products, folder, catalogue)
    }

    fn parse(weights: &[u8], products: &str, folder: &Path, catalogue: Option<Catalogue>) -> Result<Self, ModelError> {
        let met = Catalogue::parse(products, &folder.join(PRODUCTS_FILE))?;
        let parameters = Parameters::parse(weights, &folder.join(WEIGHTS_FILE))?;
        let network = Network::try_new(&parameters, &met.category_numbers(&met), met.categories().len())?;
        let mut hash = blake3::Hasher::new();
        hash.update(weights).update(products.as_bytes());
        Self::new(network, met, catalogue, &hash.finalize().to_hex()[..16])
    }

    /// Puts a network to work on a catalogue; `met` are the products it was trained with.
    ///
    /// # Errors
    /// [`ModelError::Candle`] where a tensor cannot be made.
    pub fn new(
        network: Network,
        met: Catalogue,
        catalogue: Option<Catalogue>,
        version: &str,
    ) -> Result<Self, ModelError> {
        let catalogue = catalogue.unwrap_or_else(|| met.clone());
        let numbers: Vec<u32> = catalogue.products().iter().map(|product| met.number(&product.id)).collect();
        let (embeddings, biases) = network.outputs(&Tensor::from_slice(&numbers, numbers.len(), &Device::Cpu)?)?;
        let mut embeddings = embeddings.flatten_all()?.to_vec1::<f32>()?;
        let mut biases = biases.to_vec1::<f32>()?;
        // A product that the model has not met is its category's average one, of those that it has met.
        let of_met = biases.iter().zip(&numbers).filter(|(_, number)| **number > 0);
        let (sum, count) = of_met.fold((0f32, 0usize), |(sum, count), (bias, _)| (sum + *bias, count + 1));
        let average = sum / count.max(1) as f32;
        let categories = catalogue.category_numbers(&met);
        for (place, product) in catalogue.products().iter().enumerate() {
            if numbers[place] == 0 {
                let embedding = network.category_embedding(categories[place])?;
                embeddings[place * WIDTH..][..WIDTH].copy_from_slice(&embedding);
                biases[place] = average;
            }
            if !product.in_stock {
                biases[place] = f32::NEG_INFINITY;
            }
        }
        let ranking = Arc::new(Ranking::new(&embeddings, &biases));
        let products = catalogue.products();
        let mut popular: Vec<u32> =
            (0..products.len() as u32).filter(|&place| products[place as usize].in_stock).collect();
        popular.sort_by_key(|&place| (std::cmp::Reverse(products[place as usize].views), place));
        Ok(Self {
            network,
            met: Arc::new(met),
            catalogue: Arc::new(catalogue),
            ranking,
            popular: popular.into(),
            version: version.into(),
        })
    }

    /// Returns what tells the model from others; the catalogue is not part of it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns the catalogue it recommends from.
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Finds the `k` best products for each request. An answer does not depend on the other requests.
    /// It is shorter than `k` only if the catalogue has no more that can be had.
    ///
    /// # Errors
    /// [`ModelError::Candle`] where a tensor cannot be made.
    pub fn recommend(&self, requests: &[Request<'_>], k: usize) -> Result<Vec<Answer>, ModelError> {
        let mut states = Vec::with_capacity(requests.len() * WIDTH);
        let mut unknown = Vec::with_capacity(requests.len());
        let mut bases = Vec::with_capacity(requests.len());
        for tile in requests.chunks(TILE) {
            let mut inputs = Inputs::default();
            for request in tile {
                let events = &request.events[request.events.len().saturating_sub(network::LENGTH)..];
                let tokens: Vec<Token> = events.iter().map(|event| self.token(event)).collect();
                inputs.push(&tokens, &request.attributes);
                let strange =
                    events.iter().zip(&tokens).filter(|(event, token)| event.product.is_some() && token.product == 0);
                unknown.push(strange.count());
                let understood = tokens.iter().any(|token| token.product > 0 || token.category > 0);
                let known = request.attributes.iter().any(|probability| *probability > 0.5);
                bases.push(match (understood, known) {
                    (true, _) => Basis::History,
                    (false, true) => Basis::Profile,
                    (false, false) => Basis::Popularity,
                });
            }
            for _ in tile.len()..TILE {
                inputs.push(&[], &[0.5; ATTRIBUTES.len()]);
            }
            let tile_states = self.network.last_states(&inputs)?.flatten_all()?.to_vec1::<f32>()?;
            states.extend_from_slice(&tile_states[..tile.len() * WIDTH]);
        }
        // What is excluded may be among the best: so many more are looked for.
        let most = requests.iter().map(|request| request.excluded.len().min(MAX_EXCLUDED)).max().unwrap_or(0);
        let best = self.ranking.best(&states, k + most);
        let answers = requests.iter().zip(best).zip(bases.into_iter().zip(unknown));
        Ok(answers
            .map(|((request, best), (basis, unknown))| {
                let excluded: Vec<u32> = request
                    .excluded
                    .iter()
                    .take(MAX_EXCLUDED)
                    .filter_map(|id| self.catalogue.place(id).map(|place| place as u32))
                    .collect();
                let mut products: Vec<Recommended> = match basis {
                    Basis::Popularity => self
                        .popular
                        .iter()
                        .map(|&product| (product, self.views(product)))
                        .filter(|(product, _)| !excluded.contains(product))
                        .take(k)
                        .map(|(product, score)| Recommended { product: product as usize, score })
                        .collect(),
                    Basis::History | Basis::Profile => best
                        .iter()
                        .filter(|scored| !excluded.contains(&scored.product))
                        .map(|scored| Recommended { product: scored.product as usize, score: scored.score })
                        .collect(),
                };
                products.truncate(k);
                Answer { products, basis, unknown }
            })
            .collect())
    }

    fn views(&self, place: u32) -> f32 {
        self.catalogue.products()[place as usize].views as f32
    }

    fn token(&self, event: &Event<'_>) -> Token {
        let product = event.product.map_or(0, |id| self.met.number(id));
        let known = |name: &str| Some(self.met.category_number(name)).filter(|number| *number > 0);
        let of_product = |catalogue: &Catalogue| {
            let place = event.product.and_then(|id| catalogue.place(id))?;
            known(&catalogue.products()[place].category)
        };
        let category = event
            .category
            .and_then(known)
            .or_else(|| of_product(&self.met))
            .or_else(|| of_product(&self.catalogue))
            .unwrap_or(0);
        Token { product, category, action: event.action, time_ms: event.time_ms }
    }
}

#[cfg(test)]
mod tests;
