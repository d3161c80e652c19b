//! Visual inspection: is a surface good, where is it not, and what is wrong with it.
//!
//! A picture passes [`view`] (a square of one size, light taken out), [`network`] (logits of classes for every 4 × 4 pixels and for the whole), [`evidence`] (log odds of a
//! defect), and the calibration of its [`weights`]. How the weights that ship were trained, and how well they see, stands in the cards beside them.
//!
//! A picture's result does not depend on the pictures it is inspected with.

pub mod batch;
pub mod convolution;
pub mod evidence;
pub mod layers;
pub mod network;
pub mod training;
pub mod view;
pub mod weights;

use std::{path::Path, sync::Arc};

use rayon::prelude::*;

use self::{
    evidence::Evidence,
    network::Network,
    view::{Plane, square},
    weights::{Settings, Weights},
};
use crate::{error::ModelError, inspect::header::read_checked};

/// Surfaces whose weights ship.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// The screens that the source `camera` generates.
    PhoneScreen,
    /// Ground tiles of metal, generated too: what to start from where a real surface has grinding marks.
    GroundTile,
}

impl Surface {
    /// Lists them.
    pub const ALL: [Self; 2] = [Self::PhoneScreen, Self::GroundTile];

    /// Returns the one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|surface| surface.name() == name)
    }

    /// Returns the name, as in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PhoneScreen => "phone-screen",
            Self::GroundTile => "ground-tile",
        }
    }

    const fn weights(self) -> &'static [u8] {
        match self {
            Self::PhoneScreen => include_bytes!("../../weights/inspection-phone-screen.safetensors"),
            Self::GroundTile => include_bytes!("../../weights/inspection-ground-tile.safetensors"),
        }
    }
}

/// A picture to be inspected: brightness, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Brightness, 0 to 255.
    pub luma: &'a [u8],
}

/// What was found in a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Probability of a defect, 0 to 1.
    pub score: f32,
    /// Probabilities of the classes, which add up to 1; the first, *good*, has what the score leaves.
    pub classes: Vec<f32>,
    /// Share of the picture's cells that are more likely defective than not.
    pub area: f32,
    /// Probability of a defect in each cell of 4 × 4 pixels of what the network saw: a square, whatever the picture's shape, that covers all of it.
    pub heat: Plane,
}

impl Finding {
    /// Adds to the log odds of a defect; 0 changes nothing.
    #[must_use]
    pub fn shifted(&self, shift: f64) -> Self {
        if shift == 0.0 {
            return self.clone();
        }
        // odds · e^shift; a score of 1 stays 1.
        let odds = f64::from(self.score) * shift.exp();
        let score = (odds / (odds + 1.0 - f64::from(self.score))) as f32;
        let share = if self.score > 0.0 { score / self.score } else { 0.0 };
        let mut classes: Vec<f32> = self.classes.iter().map(|p| p * share).collect();
        classes[0] = 1.0 - score;
        Self { score, classes, ..self.clone() }
    }
}

/// Inspects pictures; its weights are shared, a clone is cheap.
#[derive(Debug, Clone)]
pub struct Inspector {
    model: Arc<Model>,
}

#[derive(Debug)]
struct Model {
    network: Network,
    settings: Settings,
    version: String,
}

impl Inspector {
    /// Loads weights that ship.
    ///
    /// # Errors
    /// Never in practice: a test loads them all.
    pub fn builtin(surface: Surface) -> Result<Self, ModelError> {
        Self::parse(surface.weights(), surface.name().as_ref())
    }

    /// Loads weights that [`training`] wrote.
    ///
    /// # Errors
    /// [`ModelError::Read`] and [`ModelError::Format`].
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        Self::parse(&read_checked(path)?, path)
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, ModelError> {
        let Weights { parameters, settings } = Weights::parse(bytes, path)?;
        let network = Network::try_new(&parameters, settings.classes.len(), path)?;
        let version = blake3::hash(bytes).to_hex()[..16].to_owned();
        Ok(Self { model: Arc::new(Model { network, settings, version }) })
    }

    /// Returns what the weights came with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.model.settings
    }

    /// Returns the hash of the weights file.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.model.version
    }

    /// Inspects pictures of any sizes, side by side on the processor's cores; the result has one finding a picture, in order.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a picture without pixels, or with more or fewer than its sides say.
    pub fn inspect(&self, pictures: &[Picture<'_>]) -> Result<Vec<Finding>, ModelError> {
        pictures.par_iter().map(|picture| self.look(*picture)).collect()
    }

    fn look(&self, Picture { width, height, luma }: Picture<'_>) -> Result<Finding, ModelError> {
        let Model { network, settings, .. } = &*self.model;
        let mut view = square(width, height, luma, settings.side)?;
        view.normalise();
        let evidence = Evidence::of(network, &view, settings.mirrored)?;
        let score = settings.calibration.probability(f64::from(evidence.whole), f64::from(evidence.peak)) as f32;
        let mut classes = vec![1.0 - score];
        classes.extend(evidence.defects.iter().map(|p| p * score));
        let heat = evidence.odds.iter().map(|odds| 1.0 / (1.0 + (-odds).exp())).collect();
        let heat = Plane::try_new(evidence.size.width, evidence.size.height, heat)?;
        let defective = heat.values().iter().filter(|&&p| p >= 0.5).count();
        Ok(Finding { score, classes, area: defective as f32 / heat.values().len() as f32, heat })
    }
}

#[cfg(test)]
mod tests {
    use super::{network::CELL, *};

    #[test]
    fn shifted_odds_are_odds() {
        let heat = Plane::from_fn(1, 1, |_, _| 0.0);
        let finding = Finding { score: 0.2, classes: vec![0.8, 0.15, 0.05], area: 0.0, heat };
        let bold = finding.shifted(4f64.ln());
        assert!((bold.score - 0.5).abs() < 1e-6 && (bold.classes[1] - 0.375).abs() < 1e-6);
        assert!((bold.classes.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(finding.shifted(0.0), finding);
        assert_eq!(Finding { score: 1.0, ..finding }.shifted(-3.0).score, 1.0);
    }

    #[test]
    fn the_evaluation_beside_weights_is_of_them() {
        for surface in Surface::ALL {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights");
            let file = folder.join(format!("inspection-{}.evaluation.json", surface.name()));
            let mut evaluation: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
            let settings: Settings = serde_json::from_value(evaluation["settings"].take()).unwrap();
            assert_eq!(&settings, Inspector::builtin(surface).unwrap().settings());
        }
    }

    #[test]
    fn what_ships_can_be_loaded_and_inspects_any_size() {
        for surface in Surface::ALL {
            let inspector = Inspector::builtin(surface).unwrap();
            assert_eq!(inspector.settings().surface, surface.name());
            let luma: Vec<u8> = (0..300 * 200).map(|i| (i * 31 % 200) as u8).collect();
            let sizes = [(300, 200), (200, 300), (1, 1), (7, 3_000), (64, 64)];
            let pictures: Vec<Picture<'_>> =
                sizes.iter().map(|&(width, height)| Picture { width, height, luma: &luma[..width * height] }).collect();
            let findings = inspector.inspect(&pictures).unwrap();
            for (finding, picture) in findings.iter().zip(&pictures) {
                assert!((0.0..=1.0).contains(&finding.score) && (0.0..=1.0).contains(&finding.area));
                assert!((finding.classes.iter().sum::<f32>() - 1.0).abs() < 1e-4);
                let cells = inspector.settings().side / CELL;
                assert_eq!((finding.heat.width(), finding.heat.height()), (cells, cells));
                // Alone as in company.
                assert_eq!(&inspector.inspect(&[*picture]).unwrap()[0], finding);
            }
            assert!(inspector.inspect(&[Picture { width: 3, height: 2, luma: &luma[..5] }]).is_err());
            assert!(inspector.inspect(&[Picture { width: 0, height: 0, luma: &[] }]).is_err());
        }
    }
}
