//! Who a customer is, from what they did: probabilities that they have a car, a baby, a garden, a pet,
//! a console.
//!
//! A [`History`] is kept per customer and turned into [`Inputs`]; the [`Profiler`] answers with
//! calibrated probabilities. `weights/profile.md` says how it was trained and what it reaches;
//! `src/bin/train-recommender` trains it.

pub mod history;
pub mod network;

use std::{fs, path::Path, sync::Arc};

pub use history::{Action, Fading, History, Past, Vocabulary};
pub use network::{Inputs, Network};

use crate::{ModelError, inspect::header::read_checked, parameters::Parameters};

/// The attributes, in the order of the answers.
pub const ATTRIBUTES: [&str; 5] = ["car", "baby", "garden", "pet", "console"];
/// The files of a model.
pub const WEIGHTS_FILE: &str = "profile.safetensors";
/// The categories it knows, one a line.
pub const CATEGORIES_FILE: &str = "profile.categories.txt";
/// The tensor with slope and intercept of each attribute's calibration (Platt 1999).
pub const CALIBRATION: &str = "calibration";

/// Rows that go through the network together. Fewer are filled up: every product then has the same
/// shape, and a row's answer does not depend on how many others there are.
const TILE: usize = 64;

/// The answer of the network, calibrated. A clone is cheap.
#[derive(Clone, Debug)]
pub struct Profiler {
    network: Network,
    vocabulary: Arc<Vocabulary>,
    calibration: [(f32, f32); ATTRIBUTES.len()],
    version: Arc<str>,
}

impl Profiler {
    /// Returns the model that ships.
    ///
    /// # Errors
    /// Never in practice: a test reads it.
    pub fn builtin() -> Result<Self, ModelError> {
        let weights = include_bytes!("../../weights/profile.safetensors");
        let categories = include_str!("../../weights/profile.categories.txt");
        Self::parse(weights, categories, Path::new("builtin"))
    }

    /// Reads a folder that the training wrote.
    ///
    /// # Errors
    /// [`ModelError::Read`] for a file that cannot be read, others for one that is no such model.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join(WEIGHTS_FILE);
        let weights = read_checked(&path)?;
        let names = folder.join(CATEGORIES_FILE);
        let categories = fs::read_to_string(&names).map_err(|source| ModelError::Read { path: names, source })?;
        Self::parse(&weights, &categories, &path)
    }

    fn parse(weights: &[u8], categories: &str, path: &Path) -> Result<Self, ModelError> {
        let vocabulary = Vocabulary::new(categories.lines());
        let parameters = Parameters::parse(weights, path)?;
        let network = Network::try_new(&parameters, vocabulary.size())?;
        let mut hash = blake3::Hasher::new();
        hash.update(weights).update(categories.as_bytes());
        let version = hash.finalize().to_hex()[..16].into();
        let values = parameters.take(CALIBRATION, &[2 * ATTRIBUTES.len()])?.to_vec1::<f32>()?;
        let calibration = std::array::from_fn(|index| (values[2 * index], values[2 * index + 1]));
        Ok(Self { network, vocabulary: Arc::new(vocabulary), calibration, version })
    }

    /// Returns the categories it knows.
    #[must_use]
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Returns what tells the model from others.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Estimates the probability of each attribute for each history, as of its newest event.
    ///
    /// # Errors
    /// [`ModelError::Candle`] where a tensor cannot be made.
    pub fn estimate(&self, histories: &[&History]) -> Result<Vec<[f32; ATTRIBUTES.len()]>, ModelError> {
        let nobody = History::default();
        let mut answers = Vec::with_capacity(histories.len());
        for tile in histories.chunks(TILE) {
            let mut inputs = Inputs::default();
            let filling = std::iter::repeat_n(&nobody, TILE - tile.len());
            for history in tile.iter().copied().chain(filling) {
                inputs.push(history, self.vocabulary.size());
            }
            let logits = self.network.forward(&inputs)?.flatten_all()?.to_vec1::<f32>()?;
            answers.extend(logits.chunks_exact(ATTRIBUTES.len()).take(tile.len()).map(|row| {
                std::array::from_fn(|index| {
                    let (slope, intercept) = self.calibration[index];
                    1.0 / (1.0 + (-(slope * row[index] + intercept)).exp())
                })
            }));
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests;
